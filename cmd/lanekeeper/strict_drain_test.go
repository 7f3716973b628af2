package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"lanekeeper/loadtest"
)

// do sends a request to a node, which takes long at its service.
func (w *world) do(to *simProcess, key string, takes time.Duration) (status int, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return w.network.Dial(ctx, clientHost, to.host+":8080")
	}}}
	request, err := http.NewRequest(http.MethodPost, "http://shop.example/orders/"+key, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Witness-Delay", takes.String())
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body) //nolint:errcheck // the status has come
	return response.StatusCode, nil
}

// runsOf waits until n requests have been begun by their services.
func (w *world) runsOf(t *testing.T, n int) []loadtest.Execution {
	t.Helper()
	for range 3000 {
		if runs := w.history.Evidence().Executions; len(runs) >= n {
			return runs
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%d requests have not been begun", n)
	return nil
}

// A drain that times out while a call runs, or has timed out and holds its lane, leaves
// the lease alone: the service has until its end, so whoever follows, whose requests
// wait already, runs none of the key before the store says that the lease has ended.
//
// Mutants killed: drain does not call abandon, or release does not look at abandoned, so
// the lease is given up, and the next request runs beside the first; Emptied does not
// look at it, so others hear that a held lane is free whose connection was cut.
func TestStrictDrainThatTimesOut(t *testing.T) {
	t.Run("running", func(t *testing.T) { drainThatTimesOut(t, time.Minute) })
	t.Run("held", func(t *testing.T) { drainThatTimesOut(t, time.Second) })
}

func drainThatTimesOut(t *testing.T, upstreamTimeout time.Duration) {
	const ttl, takes, drains = 30 * time.Second, 15 * time.Second, 2 * time.Second
	strictPair(ttl, upstreamTimeout).tell(t, func(t *testing.T, w *world) {
		one, two := w.processes[0], w.processes[1]
		key, lease := one.keyOf(t), one.lease()
		w.work.Go(func() { w.do(one, key, takes) }) //nolint:errcheck // nobody can say what became of it
		w.runsOf(t, 1)
		time.Sleep(2 * time.Second) // it is held, if it may take no longer

		times := *one.node.reloads.present.Load()
		times.drain = drains
		one.node.reloads.present.Store(&times)
		w.work.Go(func() { // ends with the next one's answer
			time.Sleep(drains / 2) // until the key is the other node's
			if status, err := w.do(two, key, 0); status != http.StatusOK {
				t.Errorf("the next one: %d, %v", status, err)
			}
		})
		one.end()
		if err := one.node.stop(nil); !errors.Is(err, errAbandoned) {
			t.Fatalf("stopped with %v", err)
		}
		one.over()
		one.store.Crash() // the process has ended, and renews nothing any more
		if run := w.history.Evidence().Executions[0]; run.End != 0 {
			t.Errorf("the call has ended before its node: this shows nothing: %+v", run)
		}
		for w.store.Alive(lease) {
			time.Sleep(time.Millisecond)
		}
		ended := w.clock.Now()

		w.runsOf(t, 2)
		time.Sleep(takes)
		runs := w.history.Evidence().Executions
		before, after := runs[0], runs[1]
		if before.Key != after.Key || before.Witness != one.id || after.Witness != two.id || before.End == 0 {
			t.Fatalf("got %+v", runs)
		}
		if after.Start < before.End {
			t.Errorf("the next one began at %v, beside the one until %v", time.Duration(after.Start), time.Duration(before.End))
		}
		if slack := int64(10 * time.Millisecond); after.Start < ended-slack {
			t.Errorf("the next one began at %v, and the lease ended at %v", time.Duration(after.Start), time.Duration(ended))
		}
		have := slices.Concat(picked(one.eventsOf(t), "drain-begun why", "drain-timed-out running", "lease-left lease", "lease-given-up lease"),
			picked(two.eventsOf(t), "lease-awaited lease", "lease-awaited-ended lease"))
		want := []string{"drain-begun the process ends", "drain-timed-out 1", "lease-left " + lease, "lease-awaited " + lease, "lease-awaited-ended " + lease}
		if !slices.Equal(have, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
		}
	})
}
