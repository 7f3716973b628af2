package main

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"lanekeeper/loadtest"
	"lanekeeper/proxy"
)

func shortDemo(out io.Writer) *demo {
	return &demo{out: out, bar: io.Discard, length: 600 * time.Millisecond, orders: 10, gap: 4 * time.Millisecond, seed: 1}
}

func TestDemo(t *testing.T) {
	var out strings.Builder
	if err := shortDemo(&out).run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"two of one order ran at once", "each ran alone and in its turn"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not say %q:\n%s", want, out.String())
		}
	}
}

// TestDemoSeesBrokenOrder gives the demo a node that only watches: it must say
// so, with its exit code too.
//
// Mutant: verdict looks at the round-robin run instead.
func TestDemoSeesBrokenOrder(t *testing.T) {
	var out strings.Builder
	d := shortDemo(&out)
	history := loadtest.NewHistory(loadtest.NewClock(), 0)
	replicas, stop, err := d.replicas(history)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	traffic := loadtest.Traffic{Keys: d.orders, PerKey: 150, Gap: d.gap, Connections: 96, Seed: 1, Clock: history.Clock()}
	plain, stopPlain, err := startPlain(replicas)
	if err != nil {
		t.Fatal(err)
	}
	defer stopPlain()
	without, err := d.through(t.Context(), "without", traffic, history, &loadtest.Noise{}, []string{plain}, nil)
	if err != nil {
		t.Fatal(err)
	}
	watching := demoCluster{out: io.Discard, upstreams: replicas}
	config, err := watching.config("watching")
	if err != nil {
		t.Fatal(err)
	}
	for i := range config.proxy.Routes {
		config.proxy.Routes[i].Lane.Mode = proxy.Observe
	}
	node, err := startNode(config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	watching.nodes = append(watching.nodes, node)
	defer watching.stop()
	with, err := d.through(t.Context(), "with", traffic, history, &loadtest.Noise{}, watching.addresses(), nil)
	if err != nil {
		t.Fatal(err)
	}
	err = d.verdict(without, with)
	if exit := (*exitError)(nil); !errors.As(err, &exit) || exit.code != exitOrder {
		t.Errorf("verdict = %v, want exit code %d\n%s", err, exitOrder, out.String())
	}
	if with.report.Count(loadtest.Overlap) == 0 {
		t.Error("no overlap was seen")
	}
}
