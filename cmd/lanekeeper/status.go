package main

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func statusCommand() *cobra.Command {
	var o adminOptions
	command := &cobra.Command{
		Use:   "status",
		Short: "Show how the cluster is, node by node",
		Long: `Status shows what each node of the cluster says of itself, and what is amiss. The node
that is asked asks the others; who does not answer in about a second is named.
QUEUED are requests that wait, OLDEST is how long the first of them has; HELD are
lanes after an upstream timeout and those that an operator holds. WAIT and UPSTREAM
are how long 99 of 100 requests waited for their turn, and were at their service, in
the last second or so.` + adminHelp,
		Example: `  lanekeeper status
  lanekeeper status --node lk-1
  lanekeeper status -o json | jq .numbers`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			var status admin.Status
			answer, err := client.ask(cmd.Context(), http.MethodGet, "status", nil, &status)
			if err != nil {
				return err
			}
			if err := o.write(cmd, answer, statusTable(&status, time.Now(), o.output == "wide")); err != nil {
				return err
			}
			warnings := append(statusWarnings(&status), driftWarnings(&status)...)
			for _, warning := range warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "! "+warning)
			}
			return nil
		},
	}
	o.bindNode(command, oneNode)
	return command
}

// statusWarnings is what is amiss.
func statusWarnings(s *admin.Status) (warnings []string) {
	if s.Numbers != nil {
		for _, w := range s.Numbers.Warnings {
			warnings = append(warnings, printable(w))
		}
		return warnings
	}
	for _, why := range s.NotReady {
		warnings = append(warnings, "not ready: "+printable(why))
	}
	return warnings
}

// driftWarnings is which nodes run by other rules.
func driftWarnings(s *admin.Status) (warnings []string) {
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Config != s.Config {
			warnings = append(warnings, printable(n.Node)+" runs another config than "+printable(s.Node)+": the same request may get another key there")
		}
	}
	return warnings
}

// deadOf is who is taken for dead by any node, and was not asked.
func deadOf(nodes []admin.Status, silent []admin.Silent) (names []string) {
	for i := range nodes {
		names = append(names, nodes[i].Dead...)
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool {
		return slices.ContainsFunc(nodes, func(s admin.Status) bool { return s.Node == name }) ||
			slices.ContainsFunc(silent, func(s admin.Silent) bool { return s.Node == name })
	})
}

func statusTable(status *admin.Status, now time.Time, wide bool) *table {
	t := &table{header: []string{"NODE", "STATE", "PARTITIONS", "LANES", "QUEUED", "OLDEST", "RUNNING", "HELD", "HALTED", "HOT", "REQ/S", "WAIT", "UPSTREAM"}}
	if wide {
		t.header = append(t.header, "MOVING", "CONFIG", "VERSION", "LOG", "INCARNATION")
	}
	nodes := status.Nodes
	if nodes == nil {
		nodes = []admin.Status{*status}
	}
	for i := range nodes {
		s := &nodes[i]
		mark, state := unmarked, "ready"
		switch {
		case s.DrainingSince != nil:
			mark, state = caution, "draining for "+roughly(now.Sub(*s.DrainingSince))
		case !s.Ready:
			mark, state = failing, "not ready"
		}
		cells := []string{
			s.Node, state, fmt.Sprint(s.Owned), fmt.Sprint(s.Lanes), fmt.Sprint(s.Waiting), estimate(s.OldestWait), fmt.Sprint(s.Running),
			fmt.Sprint(s.Held + s.Stopped), fmt.Sprint(s.Halted), fmt.Sprint(s.Hot), perSecond(s.Rate), estimate(s.LaneWait.P99), estimate(s.Upstream.P99),
		}
		if wide {
			cells = append(cells, fmt.Sprint(s.Moving), orDash(s.Config), orDash(s.Version), orDash(s.LogLevel), orDash(s.Incarnation))
		}
		t.add(mark, cells...)
	}
	for _, name := range deadOf(nodes, status.Silent) {
		t.add(failing, name, "dead", "–", "–", "–", "–", "–", "–", "–", "–", "–", "–", "–")
	}
	for _, s := range status.Silent {
		t.add(failing, s.Node, "no answer", "–", "–", "–", "–", "–", "–", "–", "–", "–", "–", "–")
	}
	return t
}
