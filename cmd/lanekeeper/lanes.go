package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func lanesCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "lanes",
		Short: "Show lanes that are stopped, and let halted ones go on",
		Args:  cobra.NoArgs,
		// Without one cobra would take an action that there is not for a call for help.
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	command.AddCommand(
		lanesListCommand(),
		lanesReliefCommand(admin.Resume, "Let a halted lane go on with the next request that waits", `Resume lets a lane go on that after_failure: {action: halt} has stopped, with the
next request that waits in it.`),
		lanesReliefCommand(admin.Skip, "Let a halted lane go on without the next request that waits", `Skip lets a lane go on that after_failure: {action: halt} has stopped. The first
request that waits in it is answered 503 lane-cancelled, executed: no.`),
		lanesReliefCommand(admin.Fail, "Let a halted lane go on without those that wait", `Fail lets a lane go on that after_failure: {action: halt} has stopped. All requests
that wait in it are answered 503 lane-cancelled, executed: no.`),
	)
	return command
}

func lanesListCommand() *cobra.Command {
	var o adminOptions
	command := &cobra.Command{
		Use:   "list",
		Short: "Show the lanes of a node that are halted or held",
		Long: `List shows the lanes of one node in which nothing begins: those that are halted
after a failure, until an operator says so, and those that are held after an
upstream timeout, until the service's work is known to be over or for
lane.hold_for. TICKET is the one that did it. A key is shown by the node that
owns it: ask each.

The keys are written as they are, whatever log.keys says.` + adminHelp,
		Example: `  lanekeeper lanes list
  lanekeeper lanes list -o json | jq -r '.lanes[] | select(.state == "halted") | .space + "/" + .key'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			var lanes admin.Lanes
			answer, err := client.ask(cmd.Context(), http.MethodGet, "lanes", nil, &lanes)
			if err != nil {
				return err
			}
			lanes.Lanes = slices.DeleteFunc(lanes.Lanes, func(l admin.LaneRow) bool { return l.State != admin.StateHalted && l.State != admin.StateHeld })
			if err := o.write(cmd, answer, lanesTable(&lanes)); err != nil {
				return err
			}
			text := plural(len(lanes.Lanes), "stopped lane")
			if o.node != "" {
				text += " at " + printable(lanes.Node)
			}
			fmt.Fprintln(cmd.ErrOrStderr(), text)
			return nil
		},
	}
	o.bindNode(command, oneNode)
	return command
}

func lanesTable(lanes *admin.Lanes) *table {
	t := &table{header: []string{"SPACE/KEY", "ROUTE", "STATE", "FOR", "WAITING", "TICKET", "CAUSE"}}
	for i := range lanes.Lanes {
		l := &lanes.Lanes[i]
		mark, state := caution, l.State
		if l.State == admin.StateHalted {
			mark = failing
			if l.Held {
				state += ", held"
			}
		}
		t.add(mark, l.Space+"/"+l.Key, orDash(l.Route), state, seconds(l.Seconds), fmt.Sprint(l.Waiting), l.Ticket, orDash(l.Cause))
	}
	return t
}

func lanesReliefCommand(action, short, long string) *cobra.Command {
	var o adminOptions
	var relief admin.Relief
	command := &cobra.Command{
		Use:   action + " SPACE/KEY",
		Short: short,
		Long: long + `

The key is written as for locate. With --ticket it must be that one's failure that
halted the lane, so that no later halt is ended by mistake. The node must be the
key's owner: locate names it.

Exit code 5: the lane is not halted, or by another ticket, or it is another node's.` + adminHelp,
		Example: "  lanekeeper lanes " + action + " order/A-1042 --ticket 0197a3c8-7c1e-7a40-8000-4b1d2f6a9c03 --reason 'fixed by hand'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			space, key, err := parseKey(args[0])
			if err != nil {
				return err
			}
			client, err := o.client()
			if err != nil {
				return err
			}
			var done admin.Relieved
			answer, err := client.tell(cmd.Context(), "lanes/"+action, url.Values{"space": {space}, "key": {key}}, relief, &done)
			if err != nil {
				return err
			}
			text := fmt.Sprintf("%s/%s goes on at %s, %s after ticket %s halted it", done.Space, done.Key, done.Node, seconds(done.Seconds), done.Ticket)
			if done.Cancelled > 0 {
				text += ", without " + plural(done.Cancelled, "request")
			}
			fmt.Fprintln(cmd.ErrOrStderr(), printable(text))
			if strings.Contains("json yaml", o.output) {
				return o.write(cmd, answer, nil)
			}
			return nil
		},
	}
	command.Flags().StringVar(&relief.Ticket, "ticket", "", "only if this `ticket` halted the lane")
	command.Flags().StringVar(&relief.Reason, "reason", "", "why, for the node's log and events")
	o.bind(command)
	return command
}
