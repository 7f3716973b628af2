package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func unknownCommand() *cobra.Command {
	var o adminOptions
	var since time.Duration
	limit := 0
	command := &cobra.Command{
		Use:   "unknown",
		Short: "Show requests whose outcome nobody can say",
		Long: `Unknown shows the requests that nodes have sent to their service, and of which
they cannot say what became: they were answered with "executed": "unknown", or
their response broke off while it streamed. Whoever looks after the data has
their keys, in plain text, and when how much of them was sent.

A node keeps the newest of them in memory (journal.keep), and all of them in a
file if it is told to (journal.file). A node that is started anew has none of
before but in that file. Each has those that it ran, and those that it sent to a
node that was lost. Two nodes may both have one, if the answer was lost
on the way between them; then with the same ticket.

SENT is how many bytes went to the target, the head included; 0 with a dash as
target means that another node had the request.` + adminHelp,
		Example: `  lanekeeper unknown --since 1h
  lanekeeper unknown -o wide --limit 20
  lanekeeper unknown -o json | jq -r '.unknown[] | [.ticket, .space, .key] | @tsv'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if since < 0 {
				return errors.New("--since is how long ago, such as 10m")
			}
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
			var records admin.Unknowns
			answer, err := client.ask(cmd.Context(), http.MethodGet, "unknown", query, &records)
			if err != nil {
				return err
			}
			if since > 0 {
				from := time.Now().Add(-since)
				records.Unknown = slices.DeleteFunc(records.Unknown, func(u admin.Unknown) bool { return u.Time.Before(from) })
				if answer, err = json.Marshal(records); err != nil {
					return failure(err)
				}
			}
			tellSilent(cmd, records.Silent)
			return o.write(cmd, answer, unknownTable(&records, o.output == "wide"))
		},
	}
	flags := command.Flags()
	flags.DurationVar(&since, "since", 0, "only those of the last `duration`, such as 10m, by this machine's clock")
	flags.IntVar(&limit, "limit", 0, "only the newest, `number` of them at most; 0 = 10000")
	o.bindNode(command, oneNode)
	return command
}

func unknownTable(records *admin.Unknowns, wide bool) *table {
	t := &table{header: []string{"TIME", "KEY", "ROUTE", "METHOD", "WHY", "SENT", "TICKET"}}
	if wide {
		t.header = append(t.header, "NODE", "OWNER", "INGRESS", "CLIENT", "TARGET", "ARRIVED", "DISPATCHED", "DETAIL")
	}
	for i := range records.Unknown {
		u := &records.Unknown[i]
		why := u.Slug
		if u.Status != nil {
			why = fmt.Sprintf("%s (after %d)", u.Slug, *u.Status)
		}
		cells := []string{u.Time.UTC().Format(eventTime), u.Space + "/" + u.Key, u.Route, orDash(u.Method), why, strconv.Itoa(u.SentBytes), u.Ticket}
		if wide {
			dispatched := "–"
			if u.Dispatched != nil {
				dispatched = u.Dispatched.UTC().Format(eventTime)
			}
			cells = append(cells, u.Node, orDash(u.Owner), orDash(u.Ingress), orDash(u.Client), orDash(u.Target), u.Arrived.UTC().Format(eventTime), dispatched, u.Detail)
		}
		t.add(unmarked, cells...)
	}
	return t
}
