package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func reloadCommand() *cobra.Command {
	var o adminOptions
	var force bool
	command := &cobra.Command{
		Use:   "reload",
		Short: "Have a node read its configuration again",
		Long: `Reload has a node read its file and its environment again, as SIGHUP does, and
put what they say in force for the requests that come from then on, as a whole or
not at all. Requests that are there already keep the route, the rules and the
upstream that they came under. An upstream that is as before keeps its
connections.

It is refused if the file has errors, or changes a setting that is read once, when
the process starts: config docs names those. It is also refused if requests would
find their lanes by other rules (match, key, the order of routes) than requests of
the same space that wait or run at this node, since two lanes know nothing of each
other: wait until these lanes are empty, or use --force, if the order of the keys
in use may break in that moment. The node knows nothing of the lanes of others:
change such rules when the space is idle on all of them.

In a cluster, reload one node after the other, each with a file of its own that says
the same: it is said which still run another configuration. Requests that are forwarded between
nodes with the one and with the other configuration run by the route of that name
at the key's owner.

Exit code 3: the node refuses, and its configuration stays as it was.` + adminHelp,
		Example: `  lanekeeper reload
  lanekeeper reload --node lk-1
  lanekeeper reload -o json | jq -r '.changed[]'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			query := url.Values{}
			if force {
				query.Set("force", "true")
			}
			var done admin.Reloaded
			answer, err := client.ask(cmd.Context(), http.MethodPost, "reload", query, &done)
			if refused := (*refusedError)(nil); errors.As(err, &refused) {
				for _, problem := range refused.Problems {
					fmt.Fprintln(cmd.ErrOrStderr(), printable(problem))
				}
				return &exitError{code: exitConfig, err: fmt.Errorf("%w; the configuration stays as it was", refused)}
			} else if err != nil {
				return err
			}
			tellReloaded(cmd, &done)
			client.tellBehind(cmd, &done)
			return writeStatus(cmd, &o, answer)
		},
	}
	command.Flags().BoolVar(&force, "force", false, "even if requests find their lanes by other rules than those of their keys that are there still")
	o.bindNode(command, ofNode)
	return command
}

// tellReloaded tells people.
func tellReloaded(cmd *cobra.Command, done *admin.Reloaded) {
	out := cmd.ErrOrStderr()
	for _, warning := range done.Warnings {
		fmt.Fprintln(out, printable(warning))
	}
	name := printable(done.Node)
	if len(done.Changed) == 0 {
		fmt.Fprintf(out, "%s: nothing has changed (config %s)\n", name, printable(done.Config))
		return
	}
	for _, change := range done.Changed {
		fmt.Fprintln(out, printable(change))
	}
	for _, use := range done.Unordered {
		fmt.Fprintf(out, "%s: no order is promised across the change for the %s in use\n", printable(use.Space), plural(use.Lanes, "lane"))
	}
	fmt.Fprintf(out, "%s: %s in force (config %s -> %s)\n", name, plural(len(done.Changed), "change"), printable(done.Before), printable(done.Config))
}

// tellBehind tells which of the others run another configuration than the node that has just
// read its own, as they say themselves: gossip would be late with it.
func (c *adminClient) tellBehind(cmd *cobra.Command, done *admin.Reloaded) {
	whole := *c
	whole.node = "" // all of them
	var status admin.Status
	if _, err := whole.ask(cmd.Context(), http.MethodGet, "status", nil, &status); err != nil {
		return // the reload is what was wanted, and that is done
	}
	for i := range status.Nodes {
		if n := &status.Nodes[i]; n.Node != done.Node && n.Config != done.Config {
			name := printable(n.Node)
			fmt.Fprintf(cmd.ErrOrStderr(), "! %s runs another config (%s): lanekeeper reload --node %s has it read its own file\n", name, printable(n.Config), name)
		}
	}
}
