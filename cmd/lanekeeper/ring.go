package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func ringCommand() *cobra.Command {
	var o adminOptions
	var partitions bool
	command := &cobra.Command{
		Use:   "ring",
		Short: "Show which partitions are meant for whom",
		Long: `Ring shows how many partitions are meant for each member (TARGET) and how many
it holds (OWNED); with --partitions, each partition's target and owner. They
differ while a partition moves. Nodes that agree on all targets show the same
hash. A dash is what the node that answers does not know.` + adminHelp,
		Example: `  lanekeeper ring
  lanekeeper ring --partitions --no-headers | awk '$2 != $3'   # what is moving
  lanekeeper ring -o json | jq -r .hash`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			query := url.Values{}
			if partitions {
				query.Set("partitions", "true")
			}
			var ring admin.Ring
			answer, err := client.ask(cmd.Context(), http.MethodGet, "ring", query, &ring)
			if err != nil {
				return err
			}
			t := sharesTable(&ring)
			if partitions {
				t = partitionsTable(&ring)
			}
			if err := o.write(cmd, answer, t); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), ringRemark(&ring))
			return nil
		},
	}
	command.Flags().BoolVar(&partitions, "partitions", false, "list every partition")
	o.bind(command)
	return command
}

func ringRemark(ring *admin.Ring) string {
	if ring.Partitions == 0 {
		return printable(ring.Node) + " is alone: it has no ring, and every key is its own"
	}
	return fmt.Sprintf("ring v%d as %s sees it: %d partitions, %d moving, hash %s, layout %s",
		ring.Version, printable(ring.Node), ring.Partitions, ring.Moving, printable(ring.Hash), printable(ring.Layout))
}

func sharesTable(ring *admin.Ring) *table {
	t := &table{header: []string{"MEMBER", "TARGET", "OWNED"}}
	for _, m := range ring.Members {
		owned, mark := "–", unmarked
		if m.Owned != nil {
			owned = fmt.Sprint(*m.Owned)
			if *m.Owned != m.Target {
				mark = caution
			}
		}
		t.add(mark, m.Name, share(nil, m.Target, ring.Partitions), owned)
	}
	return t
}

func partitionsTable(ring *admin.Ring) *table {
	t := &table{header: []string{"PARTITION", "TARGET", "OWNER", "EPOCH", "STATE", "DRAINING"}}
	for _, p := range ring.Table {
		mark := unmarked
		if p.Owner != p.Target || p.Draining > 0 {
			mark = caution
		}
		t.add(mark, fmt.Sprint(p.Partition), orDash(p.Target), orDash(p.Owner), fmt.Sprint(p.Epoch), orDash(p.State), fmt.Sprint(p.Draining))
	}
	return t
}
