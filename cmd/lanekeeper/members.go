package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func membersCommand() *cobra.Command {
	var o adminOptions
	command := &cobra.Command{
		Use:   "members",
		Short: "Show who belongs to the cluster",
		Long: `Members shows the cluster as one node sees it: who is alive, who gives its
partitions away, and who left or died lately. PARTITIONS is how many a member
holds, and the share of all that is; "341 → 0" is on its way from 341 to none.
RTT is how long it took, in the last second or so, to answer the node that is asked.
A dash is what the node that answers does not know.` + adminHelp,
		Example: `  lanekeeper members
  lanekeeper members -o wide
  lanekeeper members -o json | jq -r '.members[] | select(.state == "alive").name'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			var members admin.Members
			answer, err := client.ask(cmd.Context(), http.MethodGet, "members", nil, &members)
			if err != nil {
				return err
			}
			if err := o.write(cmd, answer, membersTable(&members, time.Now(), o.output == "wide")); err != nil {
				return err
			}
			for _, warning := range membersWarnings(&members) {
				fmt.Fprintln(cmd.ErrOrStderr(), "! "+warning)
			}
			return nil
		},
	}
	o.bind(command)
	return command
}

func membersTable(members *admin.Members, now time.Time, wide bool) *table {
	t := &table{header: []string{"NAME", "STATE", "ADDRESS", "PARTITIONS", "QUEUED", "CONFIG", "VERSION", "SINCE", "RTT"}}
	if wide {
		t.header = append(t.header, "ZONE", "PEER", "INCARNATION")
	}
	total := 0
	for _, m := range members.Members {
		total += m.Target
	}
	config := ownConfig(members)
	for _, m := range members.Members {
		partitions, queued, hash, since := "–", "–", orDash(m.Config), "–"
		if m.Live() {
			partitions = share(m.Owned, m.Target, total)
			if m.Config != config {
				hash += " ✗"
			}
		}
		if m.Queued != nil {
			queued = fmt.Sprint(*m.Queued)
		}
		if !m.Since.IsZero() {
			since = roughly(now.Sub(m.Since))
		}
		rtt := "–"
		if m.RTT != nil {
			if rtt = seconds(*m.RTT); *m.RTT < 0.01 { // as it mostly is
				rtt = time.Duration(*m.RTT * float64(time.Second)).Round(10 * time.Microsecond).String()
			}
		}
		cells := []string{m.Name, m.State, orDash(m.Address), partitions, queued, hash, orDash(m.Version), since, rtt}
		if wide {
			cells = append(cells, orDash(m.Zone), orDash(m.PeerAddress), orDash(m.Incarnation))
		}
		mark := unmarked
		switch m.State {
		case admin.StateDraining, admin.StateLeft:
			mark = caution
		case admin.StateDead:
			mark = failing
		}
		t.add(mark, cells...)
	}
	return t
}

// share is how many partitions a member has, or between how many it is. owned is
// nil if that is not known.
func share(owned *int, target, total int) string {
	if owned != nil && *owned != target {
		return fmt.Sprintf("%d → %d", *owned, target)
	}
	if total == 0 {
		return fmt.Sprint(target)
	}
	return fmt.Sprintf("%d (%.0f%%)", target, 100*float64(target)/float64(total))
}

// ownConfig is the hash of the answering node's configuration.
func ownConfig(members *admin.Members) string {
	for _, m := range members.Members {
		if m.Name == members.Node {
			return m.Config
		}
	}
	return ""
}

func membersWarnings(members *admin.Members) []string {
	var warnings []string
	live, config := 0, ownConfig(members)
	for _, m := range members.Members {
		if !m.Live() {
			continue
		}
		live++
		if m.Config != config {
			warnings = append(warnings, printable(m.Name)+" runs another config than "+printable(members.Node)+": the same request may get another key there")
		}
	}
	if live < members.MinMembers {
		warnings = append(warnings, fmt.Sprintf("%d of at least %d members (cluster.min_members): %s is not ready and runs nothing exclusive", live, members.MinMembers, printable(members.Node)))
	}
	return warnings
}
