package main

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func whyCommand() *cobra.Command {
	var o adminOptions
	command := &cobra.Command{
		Use:               "why SPACE/KEY",
		Short:             "Say why requests of a key wait, and what to do",
		ValidArgsFunction: o.completeKeys,
		Long: `Why says who has a key, what runs of it and for how long, what waits, and for what:
its service, a hold and when that ends, a halt, a lease, a former owner of the key, a
partition that changes hands, a turn that is lent, a number that is missing, or an
operator. Any node may be asked; it asks the others. With -o wide the reasons are a
table; with -o json they are data.

Exit code 5: nothing of the key waits or runs, and nothing stops it.` + adminHelp,
		Example: `  lanekeeper why order/7
  lanekeeper why order/7 -o json | jq -r '.reasons[].code'`,
		Args: oneKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			space, key, err := parseKey(args[0])
			if err != nil {
				return err
			}
			client, err := o.client()
			if err != nil {
				return err
			}
			var why admin.Why
			answer, err := client.ask(cmd.Context(), http.MethodGet, "why", url.Values{"space": {space}, "key": {key}}, &why)
			if err != nil {
				return err
			}
			if err := o.write(cmd, answer, whyTable(&why, o.output == "wide")); err != nil {
				return err
			}
			tellSilent(cmd, why.Silent)
			if why.LaneState == admin.StateIdle && len(why.Reasons) == 1 && why.Reasons[0].Code == admin.WhyNothing {
				return &exitError{code: exitNegative}
			}
			return nil
		},
	}
	o.bindNode(command, oneNode)
	return command
}

func whyTable(why *admin.Why, wide bool) *table {
	if !wide {
		t := &table{}
		for _, sentence := range why.Text {
			t.add(unmarked, sentence)
		}
		return t
	}
	t := &table{header: []string{"REASON", "NODE", "FOR", "LEFT", "WHO", "TICKET", "WHAT", "TO DO"}}
	for i := range why.Reasons {
		r := &why.Reasons[i]
		left := "–"
		if r.Left != nil {
			left = seconds(*r.Left)
		}
		t.add(caution, r.Code, r.Node, estimate(r.Seconds), left, orDash(strings.Join(r.Who, ", ")), orDash(r.Ticket), r.Text, orDash(r.Advice))
	}
	return t
}
