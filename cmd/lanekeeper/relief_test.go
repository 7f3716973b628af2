package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"lanekeeper/admin"
)

// A lane that is held after an upstream timeout says until when, and why; an operator who knows better lets it
// go on, which is a risk that is counted.
//
// Mutant seen red: release ends operators' holds alone.
func TestALaneIsReleasedAfterATimeout(t *testing.T) {
	u := newHoldingUpstream(t)
	p := serveProcess(t, u.URL, "defaults: {lane: {upstream_timeout: 300ms, after_timeout: hold, hold_for: 90s}}\n")
	if got := <-post(p.address+"/orders/7/x", "first"); !strings.HasPrefix(got, "504 ") {
		t.Fatalf("got %s", got)
	}
	u.next(t)
	second := post(p.address+"/orders/7/x", "second")
	cli := func(code int, want string, args ...string) {
		t.Helper()
		got, out, errs := runArgs(t, append(args, "--admin", p.admin)...)
		if got != code || !strings.Contains(out+errs, want) {
			t.Errorf("%q: got %d, want %d and %q\n%s%s", args, got, code, want, out, errs)
		}
	}
	cli(exitOK, "may still be at work on it: the lane is held. It goes on by itself in 1m", "why", "order/7")
	cli(exitOK, "held, 1m", "lanes", "list", "--stopped")
	cli(exitOK, "held, 1m", "lanes", "show", "order/7")
	cli(exitNegative, "not held", "lanes", "release", "order/7", "--ticket", "0197a3c8-7c1e-7a40-8000-4b1d2f6a9c03")
	cli(exitOK, "may still be at work: the order is at risk", "lanes", "release", "order/7", "--reason", "it is done")
	if got := u.next(t); got != "second" {
		t.Errorf("the service got %s", got)
	}
	u.release <- struct{}{}
	u.release <- struct{}{}
	if got := <-second; got != "200 done second" && !strings.HasPrefix(got, "504 ") { // on a slow machine
		t.Errorf("second: %s", got)
	}
	cli(exitOK, `"risk": true`, "events", "-o", "json")
}

// A lane that an operator holds stays so when its partition gets another owner.
//
// Mutant seen red: it comes as a halt.
func TestAHoldMovesWithItsPartition(t *testing.T) {
	c := startMembers(t, 2, newFailingUpstream(t).URL, "")
	key := c.keysOf(t, 0, 1)[0]
	name := "order/" + key
	c.await("n2 to hear whose the key is", func() bool {
		var l admin.Location
		c.get(1, "/api/v1/locate/order/"+key, &l)
		return l.Owner == "n1"
	})
	c.cli(t, exitOK, "at n1", "lanes", "hold", name, "--reason", "by hand", "--admin", c.admins[1])
	if code, _, errs := runArgs(t, "drain", "--wait", "--timeout", "20s", "--admin", c.admins[0]); code != exitOK {
		t.Fatalf("drain: %d\n%s", code, errs)
	}
	var lanes admin.Lanes
	c.await("the hold to come", func() bool {
		c.get(1, "/api/v1/lanes?node=n2", &lanes)
		return len(lanes.Lanes) == 1
	})
	if l := lanes.Lanes[0]; l.State != admin.StateHeld || l.Hold == nil || l.Hold.Reason != "by hand" || l.Node != "n2" {
		t.Errorf("%+v", l)
	}
	answer := post(c.targets[0]+"/orders/"+key+"/x", "later")
	var page admin.LanePage
	c.await("the request to wait at the new owner", func() bool {
		c.get(0, "/api/v1/lanes/order/"+key, &page)
		return page.Waiting == 1
	})
	c.cli(t, exitNegative, "not halted", "lanes", "resume", name, "--admin", c.admins[0])
	c.cli(t, exitOK, "is released at n2", "lanes", "release", name, "--admin", c.admins[0])
	if got := <-answer; got != "200 later" {
		t.Errorf("after the move: %s", got)
	}
}

// A level that is set for a time ends by itself; one that is set anew, or configured, does not end early.
//
// Mutant seen red: a reload leaves it as it was.
func TestLogLevelsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{reloads: &reloads{levels: &logLevels{level: new(slog.LevelVar)}}}
		level := func(want slog.Level) {
			t.Helper()
			synctest.Wait()
			if have := n.reloads.levels.level.Level(); have != want {
				t.Errorf("after %s: %s, want %s", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), have, want)
			}
		}
		if set := n.SetLogLevel("debug", time.Minute); set.Level != "debug" || set.Configured != "info" || set.Until == nil || time.Until(*set.Until) != time.Minute {
			t.Errorf("%+v", set)
		}
		level(slog.LevelDebug)
		time.Sleep(50 * time.Second)
		n.SetLogLevel("warn", time.Minute)
		time.Sleep(50 * time.Second)
		level(slog.LevelWarn)
		time.Sleep(11 * time.Second)
		level(slog.LevelInfo)
		n.SetLogLevel("error", 0)
		time.Sleep(time.Hour)
		level(slog.LevelError)
		n.SetLogLevel("debug", time.Minute)
		n.reloads.levels.configure(slog.LevelWarn)
		level(slog.LevelWarn)
		if set := n.SetLogLevel("", 0); set.Level != "warn" || set.Until != nil {
			t.Errorf("%+v", set)
		}
		n.SetLogLevel("debug", time.Minute)
		n.reloads.levels.stop()
	})
}

// The figures are of what came between two looks, whatever kind of buckets there are.
//
// Mutants seen red: all since the start counts; the rate is not per second; the offsets of spans are absolute.
func TestFiguresAreOfLately(t *testing.T) {
	for name, factor := range map[string]float64{"classic": 0, "native": 1.1} {
		synctest.Test(t, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lanekeeper_requests_total"}, []string{"route"})
			wait := prometheus.NewHistogramVec(prometheus.HistogramOpts{
				Name: "lanekeeper_lane_wait_seconds", Buckets: []float64{.05, .1, .15}, NativeHistogramBucketFactor: factor,
			}, []string{"route"})
			registry.MustRegister(requests, wait)
			f := &figures{source: registry}
			wait.WithLabelValues("a").Observe(9)
			f.look()
			requests.WithLabelValues("a").Add(10)
			requests.WithLabelValues("b").Add(20)
			for range 99 {
				wait.WithLabelValues("a").Observe(.052)
			}
			wait.WithLabelValues("b").Observe(.12)
			time.Sleep(2 * time.Second)
			f.look()
			var s admin.Status
			f.fill(&s)
			if s.Rate != 15 || s.LaneWait.Count != 100 || s.LaneWait.P50 < .045 || s.LaneWait.P50 > .1 || s.LaneWait.P99 > .1 {
				t.Errorf("%s: %+v", name, s)
			}
			if factor > 0 && s.LaneWait.P50 > .06 {
				t.Errorf("native buckets are not looked at: %v", s.LaneWait.P50)
			}
			time.Sleep(stale + time.Second)
			f.fill(&s) // looks by itself
			if s.Rate != 0 || s.LaneWait.Count != 0 {
				t.Errorf("%s: later: %+v", name, s)
			}
		})
	}
}
