package main

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"
	"time"

	"lanekeeper/loadtest"
	"lanekeeper/lock/locktest"
)

// The tests of this file have a few keys that are spilled as long as requests wait for
// them, at nodes that run as processes.

// spilling is traffic of few keys at all nodes, which leaves a backlog of each: most of
// the requests run at the nodes that they came to.
func spilling(connections int) loadtest.Traffic {
	return loadtest.Traffic{
		Mode: loadtest.Closed, Keys: 3, Requests: 1_000_000, Connections: connections, Path: "/spilled/{key}", Space: "spilled",
		Timeout: 40 * time.Second, Duration: time.Minute,
	}
}

// spilledAt is how many requests ran at a node in turns that others lent.
func (c *testCluster) spilledAt(i int) float64 {
	return c.metric(i, `lanekeeper_spilled_total{route="spilled"}`)
}

// TestSpilledRestart restarts every node, one after the other, while keys are spilled:
// no request is lost or refused, and no order is broken.
func TestSpilledRestart(t *testing.T) {
	unhurried(t)
	c := startProcesses(t, 3, loadtest.WitnessConfig{Delay: time.Millisecond, Jitter: time.Millisecond}, "shutdown: {delay: 300ms, drain_timeout: 20s}\n")
	var spilled float64
	result, report := c.under(spilling(48), func() {
		for i := range c.nodes {
			time.Sleep(500 * time.Millisecond)
			for i := range c.nodes {
				spilled += c.spilledAt(i)
			}
			c.restart(i)
		}
		time.Sleep(500 * time.Millisecond)
	})
	t.Logf("%d requests, at least %.0f of them spilled; longest gap %s, p99 %s, max %s\n%s", len(result.Sent), spilled, result.LongestGap, result.LatencyAt(99), result.LatencyAt(100), report)
	if !report.OK() || report.Vacuous() {
		t.Error("order was broken")
	}
	if statuses := result.Statuses(); statuses[200] != len(result.Sent) {
		t.Errorf("statuses %v: want 200 alone", statuses)
	}
	if spilled < 100 {
		t.Errorf("%v requests were spilled", spilled)
	}
}

// TestSpilledKilled kills a node while keys are spilled, which owns one of them and
// borrows turns of the others, with clients at all nodes: what it had is unknown, the keys
// go on, and nothing runs twice, is lost, or is denied although it ran. The call that it
// was at has long ended when the next one of its key begins.
func TestSpilledKilled(t *testing.T) {
	unhurried(t)
	c := startProcesses(t, 3, loadtest.WitnessConfig{Delay: 5 * time.Millisecond}, "")
	result, report := c.under(spilling(48), func() {
		for i := range 2 {
			time.Sleep(time.Second)
			c.kill(i)
			time.Sleep(6 * time.Second)
			c.launch(i)
		}
		time.Sleep(time.Second)
	})
	t.Logf("statuses %v; longest gap %s, max %s\n%s", result.Statuses(), result.LongestGap, result.LatencyAt(100), report)
	c.expectNone(report, inexcusable...)
	c.expectNone(report, loadtest.Overlap)
	var spilled float64
	for i := range c.nodes {
		spilled += c.spilledAt(i)
	}
	if spilled == 0 || result.Statuses()[200] < 1000 {
		t.Errorf("%v requests were spilled since the last start, statuses %v", spilled, result.Statuses())
	}
}

// TestSpilledPaused stops a node's process while keys are spilled, for longer than turns
// are lent and others wait, and lets it go on: of what it had, at most the call of each
// key that was being sent may run beside another.
func TestSpilledPaused(t *testing.T) {
	unhurried(t)
	c := startProcesses(t, 3, loadtest.WitnessConfig{Delay: 5 * time.Millisecond}, "")
	result, report := c.under(spilling(48), func() {
		time.Sleep(time.Second)
		c.nodes[0].signal(syscall.SIGSTOP)
		time.Sleep(5 * time.Second)
		c.nodes[0].signal(syscall.SIGCONT)
		time.Sleep(2 * time.Second)
	})
	t.Logf("statuses %v; longest gap %s, max %s\n%s", result.Statuses(), result.LongestGap, result.LatencyAt(100), report)
	c.expectNone(report, inexcusable...)
	if n := report.Count(loadtest.Overlap); n > 3 {
		t.Errorf("%d overlaps in a pause", n)
	}
}

// TestStrictSpilled kills a node, and stops another for longer than leases last, while
// strict keys are spilled: nothing runs beside anything, and fences rise, whoever's turn a
// request runs in.
//
// Mutant: a turn of several requests draws the fence of one.
func TestStrictSpilled(t *testing.T) {
	unhurried(t)
	c, _ := startStrict(t, "redis", "")
	var spilled float64
	result, report := c.under(spilling(48), func() {
		time.Sleep(time.Second)
		for i := range c.nodes {
			spilled += c.spilledAt(i)
		}
		c.kill(0)
		time.Sleep(2 * strictTTL)
		c.launch(0)
		time.Sleep(time.Second)
		c.nodes[1].signal(syscall.SIGSTOP)
		time.Sleep(2 * strictTTL)
		c.nodes[1].signal(syscall.SIGCONT)
		time.Sleep(2 * time.Second)
	})
	c.fenced(result, report)
	if spilled == 0 {
		t.Error("nothing was spilled")
	}
}

var everyStore = flag.Bool("stores", false, "TestSpilledUnderLocks, TestKilled…: each kind of store, not one each day")

// TestSpilledUnderLocks has each turn of a spilled key hold a lock in a store, which then
// stands still for longer than a lock is waited for, and goes on: requests go to their
// owners meanwhile. None is refused, and no order is broken.
//
// Mutant: a lock is not given back.
func TestSpilledUnderLocks(t *testing.T) {
	unhurried(t)
	kinds := map[string]func(testing.TB) (*locktest.Server, string){"redlock": func(t testing.TB) (*locktest.Server, string) {
		masters := []*locktest.Server{locktest.Redis(t), locktest.Redis(t), locktest.Redis(t)}
		return masters[0], fmt.Sprintf("redlock: {addresses: [%%q, %q, %q]}", masters[1].Address, masters[2].Address)
	}}
	maps.Copy(kinds, storeKinds)
	t.Setenv("LANEKEEPER_DEFAULTS_LANE_HOT_BACKEND", "coordinator")
	t.Setenv("LANEKEEPER_DEFAULTS_LANE_GUARANTEE", "best_effort")
	names := slices.Sorted(maps.Keys(kinds))
	today := names[time.Now().YearDay()%len(names)]
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			if !*everyStore && kind != today {
				t.Skip("only with -stores, or on another day")
			}
			server, section := open(t)
			extra := fmt.Sprintf("coordinator: {type: %s, lease_ttl: 4s, safety_margin: 1s, acquire_timeout: 500ms, %s}\n", kind, fmt.Sprintf(section, server.Address))
			c := startProcesses(t, 3, loadtest.WitnessConfig{Delay: 2 * time.Millisecond}, extra)
			locked := fmt.Sprintf(`lanekeeper_lock_acquire_seconds_count{backend=%q,result="ok"}`, kind)
			turns := func() (n float64) {
				for i := range c.nodes {
					n += c.metric(i, locked)
				}
				return n
			}
			result, report := c.under(spilling(48), func() {
				c.await("turns under locks", func() bool { return turns() > 20 })
				if kind == "redlock" {
					return // one master of three is not missed
				}
				server.Freeze()
				time.Sleep(2 * time.Second)
				server.Thaw()
				before := turns()
				c.await("turns under locks again", func() bool { return turns() > before+20 })
			})
			t.Logf("statuses %v; longest gap %s, max %s\n%s", result.Statuses(), result.LongestGap, result.LatencyAt(100), report)
			if !report.OK() || report.Vacuous() || result.Statuses()[200] != len(result.Sent) {
				t.Error("order was broken, or a request was refused")
			}
		})
	}
}
