package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func lanesCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "lanes",
		Short: "Show lanes, stop them, and let them go on",
		// Without it cobra would take an action that there is not for a call for help.
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return nil
			case keyText.MatchString(args[0]):
				return fmt.Errorf("to see a lane: lanekeeper lanes show %s; to see why it stands: lanekeeper why %[1]s", args[0])
			}
			return fmt.Errorf("there is no lanekeeper lanes %s: see lanekeeper lanes --help", args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	command.AddCommand(
		lanesListCommand(),
		lanesShowCommand(),
		lanesReliefCommand(admin.Hold, "Let nothing begin in a lane", `Hold lets nothing begin in a lane until it is released: what runs goes on, and what
comes waits, as far as queue_timeout and max_depth let it. It has no end of its own.

Exit code 5: an operator holds the lane already.`),
		lanesReliefCommand(admin.Release, "End a hold, also one after an upstream timeout", `Release ends a hold of a lane: an operator's, and one that follows an upstream
timeout. Of the latter the service may still be at work: the next request may run
beside that, which is counted (lanekeeper_hold_expired_total). With --ticket only the
hold of that request is ended.

Exit code 5: the lane is not held, or its turn is lent to another node.`),
		lanesReliefCommand(admin.Cancel, "Answer one waiting request 503 lane-cancelled", `Cancel takes one request out of its lane that waits in it: it is answered 503
lane-cancelled, executed: no, and those behind it move up. The ticket is required:
lanes show has it, also of one that waits at another node for a turn that the owner of a
hot key lends. A request that runs cannot be taken back: nobody knows how far its
service is with it.

Exit code 5: no such request waits, or it runs already.`),
		lanesReliefCommand(admin.Resume, "Let a halted lane go on with the next request that waits", `Resume lets a lane go on that after_failure: {action: halt} has stopped, with the
next request that waits in it.`+reliefHelp),
		lanesReliefCommand(admin.Skip, "Let a halted lane go on without the next request that waits", `Skip lets a lane go on that after_failure: {action: halt} has stopped. The first
request that waits in it is answered 503 lane-cancelled, executed: no.`+reliefHelp),
		lanesReliefCommand(admin.Fail, "Let a halted lane go on without those that wait", `Fail lets a lane go on that after_failure: {action: halt} has stopped. All requests
that wait in it are answered 503 lane-cancelled, executed: no.`+reliefHelp),
	)
	return command
}

const reliefHelp = ` With --ticket it must
be that one's failure that halted the lane, so that no later halt is ended by mistake.

Exit code 5: the lane is not halted, or by another ticket.`

func lanesListCommand() *cobra.Command {
	var o adminOptions
	var stopped bool
	route, limit := "", 0
	command := &cobra.Command{
		Use:   "list",
		Short: "Show the deepest lanes, and those in which nothing begins",
		Long: `List shows the lanes of the cluster: all in which nothing begins, and the deepest of
the others. STATE is "halted" after a failure, until an operator says so; "held"
after an upstream timeout, until the service's work is known to be over or for
lane.hold_for, or by an operator; "blocked" while a former owner of the key may
still run a request of it; "drained" where what is left of a key runs to its end at
its former owner; "spilled" if the turn is lent to another node, "hot", or "ok". FOR
is for how long, of others for how long the oldest request has run or waited. TICKET
is the one that did it, or that request's.

The keys are written as they are, whatever log.keys says.` + adminHelp,
		Example: `  lanekeeper lanes list --stopped
  lanekeeper lanes list -o json | jq -r '.lanes[] | select(.state == "halted") | .space + "/" + .key'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return errors.New("--limit is how many, at most")
			}
			client, err := o.client()
			if err != nil {
				return err
			}
			query := url.Values{}
			if limit > 0 {
				query.Set("limit", strconv.Itoa(limit))
			}
			var lanes admin.Lanes
			answer, err := client.ask(cmd.Context(), http.MethodGet, "lanes", query, &lanes)
			if err != nil {
				return err
			}
			if stopped || route != "" {
				lanes.Lanes = slices.DeleteFunc(lanes.Lanes, func(l admin.LaneRow) bool {
					return stopped && !l.Stopped() || route != "" && l.Route != route
				})
				if answer, err = json.Marshal(lanes); err != nil {
					return failure(err)
				}
			}
			if err := o.write(cmd, answer, lanesTable(&lanes, o.output == "wide")); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), lanesRemark(&lanes))
			tellSilent(cmd, lanes.Silent)
			return nil
		},
	}
	command.Flags().BoolVar(&stopped, "stopped", false, "only lanes in which nothing begins")
	command.Flags().StringVar(&route, "route", "", "of those, only lanes of this `route`")
	if err := command.RegisterFlagCompletionFunc("route", o.completeRoutes); err != nil {
		panic("lanekeeper: " + err.Error())
	}
	command.Flags().IntVar(&limit, "limit", 0, "`number` of lanes at most; 0 = 100")
	o.bindNode(command, oneNode)
	return command
}

func lanesRemark(lanes *admin.Lanes) string {
	stopped := 0
	for i := range lanes.Lanes {
		if lanes.Lanes[i].Stopped() {
			stopped++
		}
	}
	text := fmt.Sprintf("%s, %d stopped", plural(len(lanes.Lanes), "lane"), stopped)
	if more := lanes.Total - len(lanes.Lanes); more > 0 {
		text += fmt.Sprintf("; %d more are not shown", more)
	}
	return text
}

// tellSilent says who gave no answer: what they know is missing.
func tellSilent(cmd *cobra.Command, silent []admin.Silent) {
	for _, s := range silent {
		fmt.Fprintf(cmd.ErrOrStderr(), "! %s did not answer: %s\n", printable(s.Node), printable(s.Why))
	}
}

func lanesTable(lanes *admin.Lanes, wide bool) *table {
	t := &table{header: []string{"SPACE/KEY", "NODE", "ROUTE", "STATE", "FOR", "WAITING", "TICKET", "CAUSE"}}
	if wide {
		t.header = append(t.header, "HEAD", "HEAD STATE", "HEAD AGE", "LENT TO", "EST. WAIT")
	}
	for i := range lanes.Lanes {
		l := &lanes.Lanes[i]
		mark, state, cause := unmarked, l.State, l.Cause
		switch {
		case l.State == admin.StateHalted:
			mark = failing
		case l.State != admin.StateOK:
			mark = caution
		}
		if l.State == admin.StateHalted && l.Held {
			state += ", held"
		}
		if l.HeldLeft != nil {
			state += ", " + seconds(*l.HeldLeft) + " left"
		}
		if l.Hold != nil {
			state += ", by an operator"
			cause = orDash(strings.Trim(cause+"; "+l.Hold.Reason, "; "))
		}
		cells := []string{l.Space + "/" + l.Key, orDash(l.Node), orDash(l.Route), state, seconds(l.Seconds), fmt.Sprint(l.Waiting), orDash(l.Ticket), orDash(cause)}
		if wide {
			cells = append(cells, orDash(l.HeadTicket), orDash(l.HeadState), seconds(l.HeadAge), orDash(l.LentTo), estimate(l.WaitSeconds))
		}
		t.add(mark, cells...)
	}
	return t
}

func lanesShowCommand() *cobra.Command {
	var o adminOptions
	command := &cobra.Command{
		Use:               "show SPACE/KEY",
		Short:             "Show one lane with its requests, in order",
		ValidArgsFunction: o.completeKeys,
		Long: `Show writes one lane of the cluster as its owner has it: the requests with their turn
first, with a dash in the place of a position, and then those that wait, in order. FOR
is for how long in that state, AGE since the request took its place. INGRESS is the
node that it came to. TRACE is the id of its W3C trace.

Exit code 5: nothing of the key waits or runs.` + adminHelp,
		Example: "  lanekeeper lanes show order/A-1042",
		Args:    oneKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			space, key, err := parseKey(args[0])
			if err != nil {
				return err
			}
			client, err := o.client()
			if err != nil {
				return err
			}
			var page admin.LanePage
			answer, err := client.ask(cmd.Context(), http.MethodGet, "lanes/show", url.Values{"space": {space}, "key": {key}}, &page)
			if err != nil {
				return err
			}
			if err := o.write(cmd, answer, pageTable(&page, o.output == "wide")); err != nil {
				return err
			}
			text := fmt.Sprintf("%s/%s at %s: %s, %s", page.Space, page.Key, orDash(page.Node), page.State, plural(page.Waiting, "waiting request"))
			for _, k := range page.Spilled {
				text += fmt.Sprintf("; %d wait at %s for turns that the owner lends", k.Waiting, k.Node)
				if len(k.Tickets) > 0 {
					text += ": " + strings.Join(k.Tickets[:min(len(k.Tickets), 8)], ", ")
				}
				if len(k.Tickets) > 8 {
					text += ", …"
				}
			}
			fmt.Fprintln(cmd.ErrOrStderr(), printable(text))
			tellSilent(cmd, page.Silent)
			if page.State == admin.StateIdle && len(page.Spilled) == 0 {
				return &exitError{code: exitNegative}
			}
			return nil
		},
	}
	o.bindNode(command, oneNode)
	return command
}

func pageTable(page *admin.LanePage, wide bool) *table {
	t := &table{header: []string{"#", "TICKET", "STATE", "FOR", "AGE", "CLASS", "ROUTE", "INGRESS", "CLIENT"}}
	if wide {
		t.header = append(t.header, "TRACE", "BYTES", "LENT TO")
	}
	for i := range page.Tickets {
		k := &page.Tickets[i]
		mark, position, state := unmarked, "–", k.State
		if k.Position > 0 {
			position = strconv.Itoa(k.Position)
		}
		if k.State == "held" {
			mark = caution
		}
		if k.HeldLeft != nil {
			state += ", " + seconds(*k.HeldLeft) + " left"
		}
		cells := []string{position, k.Ticket, state, seconds(k.Seconds), seconds(k.Age), k.Class, orDash(k.Route), orDash(k.Ingress), orDash(k.Client)}
		if wide {
			cells = append(cells, orDash(k.Trace), strconv.Itoa(k.Bytes), orDash(k.LentTo))
		}
		t.add(mark, cells...)
	}
	return t
}

func lanesReliefCommand(action, short, long string) *cobra.Command {
	var o adminOptions
	var relief admin.Relief
	command := &cobra.Command{
		Use:               action + " SPACE/KEY",
		Short:             short,
		ValidArgsFunction: o.completeKeys,
		Long: long + `

The key is written as for locate. Any node of the cluster may be asked: it hands the
question on to the key's owner.` + adminHelp,
		Example: "  lanekeeper lanes " + action + " order/A-1042 --ticket 0197a3c8-7c1e-7a40-8000-4b1d2f6a9c03 --reason 'fixed by hand'",
		Args:    oneKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			space, key, err := parseKey(args[0])
			if err != nil {
				return err
			}
			if action == admin.Cancel && relief.Ticket == "" {
				return errors.New("--ticket is required: lanes show has the tickets")
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
			fmt.Fprintln(cmd.ErrOrStderr(), printable(relievedText(&done)))
			if strings.Contains("json yaml", o.output) {
				return o.write(cmd, answer, nil)
			}
			return nil
		},
	}
	usage := "only if this `ticket` halted the lane"
	switch action {
	case admin.Cancel:
		usage = "the `ticket` of the request"
	case admin.Release:
		usage = "only the hold of this `ticket`"
	}
	if action != admin.Hold {
		command.Flags().StringVar(&relief.Ticket, "ticket", "", usage)
	} else {
		command.Example = "  lanekeeper lanes hold order/A-1042 --reason 'the ledger is being mended'"
	}
	command.Flags().StringVar(&relief.Reason, "reason", "", "why, for the node's log and events")
	o.bindNode(command, ofNode)
	return command
}

func relievedText(done *admin.Relieved) string {
	name := done.Space + "/" + done.Key
	switch done.Action {
	case admin.Hold:
		return fmt.Sprintf("nothing begins in %s any more, at %s: lanekeeper lanes release %s ends that", name, done.Node, name)
	case admin.Release:
		text := fmt.Sprintf("%s is released at %s after %s", name, done.Node, seconds(done.Seconds))
		if done.Risk {
			text += "; the service of ticket " + done.Ticket + " may still be at work: the order is at risk"
		}
		return text
	case admin.Cancel:
		return fmt.Sprintf("ticket %s is taken out of %s at %s: it is answered 503 lane-cancelled", done.Ticket, name, done.Node)
	}
	text := fmt.Sprintf("%s goes on at %s, %s after ticket %s halted it", name, done.Node, seconds(done.Seconds), done.Ticket)
	if done.Cancelled > 0 {
		text += ", without " + plural(done.Cancelled, "request")
	}
	return text
}
