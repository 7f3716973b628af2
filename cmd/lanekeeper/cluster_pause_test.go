package main

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"lanekeeper/loadtest"
)

// TestPauses measures what a join, a leave and a crash cost the requests: how
// many keys see a pause, and how long the longest is. It fails only if a planned
// change loses something, or a key stays away; its figures are in its log:
//
//	go test ./cmd/lanekeeper -run TestPauses -v
func TestPauses(t *testing.T) {
	const gap = 100 * time.Millisecond // slow enough that nobody runs out of connections in a crash
	c := startProcesses(t, 3, loadtest.WitnessConfig{Delay: time.Millisecond}, "shutdown: {delay: 500ms, drain_timeout: 20s}\n")
	for _, change := range []struct {
		name    string
		planned bool
		happen  func()
	}{
		{"nothing", true, func() { time.Sleep(3 * time.Second) }},
		{"leave", true, func() {
			time.Sleep(time.Second)
			c.nodes[2].signal(syscall.SIGTERM)
			c.nodes[2].wait()
			time.Sleep(time.Second)
		}},
		{"join", true, func() {
			time.Sleep(time.Second)
			c.launch(2)
			time.Sleep(time.Second)
		}},
		{"crash", false, func() {
			time.Sleep(time.Second)
			c.kill(2)
			time.Sleep(6 * time.Second)
		}},
	} {
		traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 100, PerKey: 10000, Gap: gap, Connections: 2000, Targets: c.targets[:2], Pinned: true}
		result, report := c.under(traffic, change.happen)
		pauses := pausesOf(c.history.Evidence(), gap)
		paused := 0
		for _, p := range pauses {
			if p > gap {
				paused++
			}
		}
		t.Logf("%-8s longest pause of a key %6s, median %6s; %3.0f %% of keys paused for more than %s; statuses %v", change.name,
			pauses[len(pauses)-1].Round(time.Millisecond), pauses[len(pauses)/2].Round(time.Millisecond), 100*float64(paused)/float64(len(pauses)), gap, result.Statuses())
		c.expectNone(report, inexcusable...)
		if change.planned && (!report.OK() || result.Statuses()[200] != len(result.Sent)) {
			t.Errorf("%s: statuses %v\n%s", change.name, result.Statuses(), report)
		}
	}
}

// pausesOf is the longest pause of each key, beyond the usual gap, in order.
func pausesOf(evidence loadtest.Evidence, gap time.Duration) []time.Duration {
	last, pause := map[string]int64{}, map[string]time.Duration{}
	slices.SortFunc(evidence.Executions, func(a, b loadtest.Execution) int { return int(a.Start - b.Start) })
	for _, e := range evidence.Executions {
		if before, seen := last[e.Key]; seen {
			pause[e.Key] = max(pause[e.Key], time.Duration(e.Start-before)-gap)
		}
		last[e.Key] = e.Start
	}
	var all []time.Duration
	for _, p := range pause {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}
