package main

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"lanekeeper/admin"
)

// draining is the cluster of a node that drains, and looks each time as one of
// the given statuses says.
func draining(looks ...admin.Status) *fakeCluster {
	c := newFakeCluster()
	c.statuses = nil
	since := time.Now()
	for _, look := range looks {
		look.Node, look.Incarnation, look.Members, look.DrainingSince = "lk-1", "18c2f", 3, &since
		c.statuses = append(c.statuses, look)
	}
	// The first is asked for twice: is it the node that is meant, and how does it go?
	c.statuses = append(c.statuses[:1:1], c.statuses...)
	return c
}

// startDrain is what the command does, but for its signals.
func startDrain(t *testing.T, ctx context.Context, c *fakeCluster, timeout time.Duration) (out string, code int, message string) {
	t.Helper()
	o := adminOptions{address: c.serve(t), output: "table"}
	client, err := o.client()
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	d := &drain{client: client, out: &told, every: time.Millisecond, waits: true, timeout: timeout}
	if err = d.begin(ctx); err == nil {
		err = d.wait(ctx)
	}
	exit := (*exitError)(nil)
	switch {
	case err == nil:
	case errors.As(err, &exit):
		code = exit.code
		if exit.err != nil {
			message = exit.err.Error()
		}
	default:
		t.Fatal(err)
	}
	return regexp.MustCompile(`[0-9.]+m?s`).ReplaceAllString(told.String(), "T"), code, message
}

// Mutants killed: a node without tickets is drained, though it is in the ring;
// though it owns partitions; the ring is told of with each look.
func TestDrainWaitsForTheEnd(t *testing.T) {
	out, code, _ := startDrain(t, t.Context(), draining(
		admin.Status{Ready: true, InRing: true, RingVersion: 88, Owned: 1365},
		admin.Status{InRing: true, RingVersion: 88, Owned: 1365, Waiting: 50, Running: 7, Lanes: 9},
		admin.Status{RingVersion: 89, Owned: 1300, Waiting: 3, Running: 1, Lanes: 1},
		admin.Status{RingVersion: 89, Owned: 2, Waiting: 3, Running: 1, Lanes: 1},
		admin.Status{RingVersion: 89, Owned: 2},
		admin.Status{RingVersion: 89, Owned: 0},
	), time.Minute)
	want := "draining lk-1: readiness off … ring left (v89) … 4 tickets in 1 lane … 0   done in T\n"
	if code != exitOK || out != want {
		t.Errorf("got %d, %q, want %q", code, out, want)
	}

	alone := draining(admin.Status{InRing: true, Owned: 4096, Running: 1, Lanes: 1}, admin.Status{InRing: true, Owned: 4096})
	for i := range alone.statuses {
		alone.statuses[i].Members = 1
	}
	out, code, _ = startDrain(t, t.Context(), alone, time.Minute)
	if want := "draining lk-1: readiness off … 1 ticket in 1 lane … 0   done in T\n"; code != exitOK || out != want {
		t.Errorf("alone: got %d, %q, want %q", code, out, want)
	}
}

// Mutants killed: what is left at the end of the time is success; another
// process is taken for the one that drains; so is one that was told to stop.
func TestDrainThatDoesNotEnd(t *testing.T) {
	out, code, message := startDrain(t, t.Context(), draining(admin.Status{RingVersion: 89, Owned: 12, Waiting: 3, Running: 1, Lanes: 2}), 20*time.Millisecond)
	if want := "draining lk-1: readiness off … ring left (v89) … 4 tickets in 2 lanes   not done after T: 4 tickets, 12 partitions left\n"; code != exitAbandoned || out != want || message != "" {
		t.Errorf("got %d, %q, %q, want %q", code, out, message, want)
	}

	restarted := draining(admin.Status{Running: 1}, admin.Status{})
	restarted.statuses[2].Incarnation = "18c30"
	if _, code, message = startDrain(t, t.Context(), restarted, time.Minute); code != exitAdmin || message != "lk-1 has ended, and another process answers" {
		t.Errorf("restarted: got %d, %q", code, message)
	}

	undrained := draining(admin.Status{Running: 1}, admin.Status{})
	undrained.statuses[2].DrainingSince = nil
	if _, code, message = startDrain(t, t.Context(), undrained, time.Minute); code != exitNegative || message != "lk-1 no longer drains: somebody said undrain" {
		t.Errorf("undrained: got %d, %q", code, message)
	}

	ctx, cancel := context.WithCancel(t.Context())
	stopped := draining(admin.Status{Running: 1})
	stopped.looked = func(n int) {
		if n == 4 {
			cancel()
		}
	}
	if _, code, message = startDrain(t, ctx, stopped, 0); code != exitInterrupt || message != "" {
		t.Errorf("interrupted: got %d, %q", code, message)
	}
}

func TestDrainCommands(t *testing.T) {
	c := draining(admin.Status{Running: 1, Lanes: 1})
	address := c.serve(t)
	code, out, errs := runArgs(t, "drain", "--admin", address)
	if code != exitOK || out != "" || errs != "draining lk-1\n" {
		t.Errorf("drain: got %d, %q, %q", code, out, errs)
	}
	code, out, errs = runArgs(t, "drain", "--admin", address, "-o", "json")
	if code != exitOK || !strings.HasPrefix(out, "{\n  \"node\": \"lk-1\",\n") || errs != "draining lk-1\n" {
		t.Errorf("drain -o json: got %d, %q, %q", code, out, errs)
	}
	code, out, errs = runArgs(t, "drain", "--admin", address, "--wait", "--timeout", "20ms", "-o", "json")
	if code != exitAbandoned || !strings.Contains(out, `"running": 1,`) || !strings.HasSuffix(errs, ": 1 ticket, 0 partitions left\n") {
		t.Errorf("drain --wait: got %d, %q, %q", code, out, errs)
	}
	code, out, errs = runArgs(t, "undrain", "--admin", address)
	if code != exitOK || out != "" || errs != "lk-1 takes partitions again\n" {
		t.Errorf("undrain: got %d, %q, %q", code, out, errs)
	}
}
