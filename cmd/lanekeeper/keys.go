package main

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func keysCommand() *cobra.Command {
	var o adminOptions
	var by string
	command := &cobra.Command{
		Use:   "keys",
		Short: "Show the keys with most to do",
		Long: `Keys shows the keys of the cluster that are hot, and those with most requests
lately. STATE is "hot" if a key's backlog is large and dominant by lane.hot of
its route, "hot→shed" if its requests are refused at hot.depth, else "ok". WAIT
is how long a request that came now would wait, by what waits and how long its
turns take. STATE is "hot→spill" if its requests wait at the nodes that they came to, and
"waits here" where some of them do. RATE is requests per second; "≤" marks one that is at most so high,
since not every key is counted apart. NODE is the key's owner, or where requests
wait that it has spilled.

The keys are written as they are, whatever log.keys says.` + adminHelp,
		Example: `  lanekeeper keys
  lanekeeper keys --sort rate -o wide
  lanekeeper keys -o json | jq -r '.hot[] | .space + "/" + .key'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			order, ok := keyOrders[by]
			if !ok {
				return fmt.Errorf("--sort %s: want depth, rate or wait", by)
			}
			client, err := o.client()
			if err != nil {
				return err
			}
			var hot admin.Hot
			answer, err := client.ask(cmd.Context(), http.MethodGet, "hot", nil, &hot)
			if err != nil {
				return err
			}
			if err := o.write(cmd, answer, keysTable(&hot, keyView{order: order, wide: o.output == "wide"}, time.Now())); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), keysRemark(&hot))
			tellSilent(cmd, hot.Silent)
			return nil
		},
	}
	command.Flags().StringVar(&by, "sort", "depth", "`order` of the table, the most first: depth, rate or wait")
	o.bindNode(command, oneNode)
	return command
}

func keysRemark(hot *admin.Hot) string {
	return fmt.Sprintf("%s; the others had most requests in the last %s", plural(len(hot.Hot), "hot key"), seconds(hot.TopSeconds))
}

// keyRow is a key of either list, or of both.
type keyRow struct {
	name, route, state string
	node               string
	depth              int
	wait, rate         float64
	bound              string // in front of the rate
	hot                *admin.HotKey
	top                *admin.TopKey
}

// keyOrders are the values of --sort.
var keyOrders = map[string]func(r *keyRow) float64{
	"depth": func(r *keyRow) float64 { return float64(r.depth) },
	"rate":  func(r *keyRow) float64 { return r.rate },
	"wait":  func(r *keyRow) float64 { return r.wait },
}

// keyView is how keys are shown.
type keyView struct {
	order  func(*keyRow) float64
	wide   bool
	bars   bool   // in front of the depths
	filter string // a part of the key or its route; empty = all
}

func keysTable(hot *admin.Hot, view keyView, now time.Time) *table {
	t := &table{header: []string{"SPACE/KEY", "NODE", "ROUTE", "DEPTH", "RATE", "WAIT", "STATE", "SINCE"}}
	if view.wide {
		t.header = append(t.header, "BYTES", "BUSY", "SHARE", "SERVICE", "ADMITTED")
	}
	rows := keyRows(hot)
	slices.SortStableFunc(rows, func(a, b *keyRow) int {
		return cmp.Or(cmp.Compare(view.order(b), view.order(a)), cmp.Compare(a.name, b.name))
	})
	deepest := 0
	for _, r := range rows {
		deepest = max(deepest, r.depth)
	}
	for _, r := range rows {
		if !strings.Contains(r.name, view.filter) && !strings.Contains(r.route, view.filter) {
			continue
		}
		depth := fmt.Sprint(r.depth)
		if view.bars {
			depth = bar(r.depth, deepest) + depth
		}
		mark, since := unmarked, "–"
		if r.hot != nil {
			mark, since = caution, roughly(now.Sub(r.hot.Since))
		}
		cells := []string{r.name, orDash(r.node), orDash(r.route), depth, r.bound + perSecond(r.rate), estimate(r.wait), r.state, since}
		if view.wide {
			cells = append(cells, r.details()...)
		}
		t.add(mark, cells...)
	}
	return t
}

const barWidth = 8

// bar is as long as depth is of the deepest, and seen if it is not zero.
func bar(depth, deepest int) string {
	if deepest == 0 {
		return ""
	}
	return strings.Repeat("█", (depth*barWidth+deepest-1)/deepest)
}

func keyRows(hot *admin.Hot) []*keyRow {
	var rows []*keyRow
	known := make(map[string]*keyRow)
	for i := range hot.Hot {
		k := &hot.Hot[i]
		r := &keyRow{name: k.Space + "/" + k.Key, route: k.Route, state: "hot", node: k.Node, depth: k.Depth, wait: k.WaitSeconds, rate: k.Rate, hot: k}
		if k.Action != "none" {
			r.state += "→" + k.Action
		}
		rows, known[r.name] = append(rows, r), r
	}
	for i := range hot.Top {
		k := &hot.Top[i]
		name := k.Space + "/" + k.Key
		if r := known[name]; r != nil {
			r.top = k // and its own rate, which is of that key alone
			continue
		}
		r := &keyRow{name: name, route: k.Route, state: "ok", node: k.Node, depth: k.Depth, wait: k.WaitSeconds, top: k}
		if hot.TopSeconds > 0 {
			r.rate = float64(k.Count) / hot.TopSeconds
		}
		if k.Error > 0 {
			r.bound = "≤"
		}
		rows = append(rows, r)
	}
	for i := range hot.Spilled {
		k := &hot.Spilled[i]
		rows = append(rows, &keyRow{name: k.Space + "/" + k.Key, route: k.Route, state: "waits here", node: k.Node, depth: k.Waiting})
	}
	return rows
}

// details are the columns of the wide table.
func (r *keyRow) details() []string {
	cells := []string{"–", "–", "–", "–", "–"}
	if h := r.hot; h != nil {
		cells = []string{fmt.Sprint(h.Bytes), fmt.Sprintf("%.0f%%", 100*h.Busy), fmt.Sprintf("%.0f%%", 100*h.Share), estimate(h.ServiceSeconds), "–"}
	}
	switch k := r.top; {
	case k == nil:
	case k.Error > 0:
		cells[4] = fmt.Sprintf("%d–%d", k.Count-min(k.Error, k.Count), k.Count)
	default:
		cells[4] = fmt.Sprint(k.Count)
	}
	return cells
}

func perSecond(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f/s", rate)
	}
	return fmt.Sprintf("%.0f/s", rate)
}

// estimate is a dash for what nothing is known of.
func estimate(s float64) string {
	if s == 0 {
		return "–"
	}
	return seconds(s)
}
