package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestKilledBetweenNumbers kills a node between numbers of a producer, and in one, and
// starts it again, in the end while its store does not answer.
//
// Mutants: a store that is away knows nothing; the records of numbers are in memory.
func TestKilledBetweenNumbers(t *testing.T) {
	for kind := range recordStores {
		t.Run(kind, func(t *testing.T) {
			ofTheDay(t, kind, 1) // so that each day has both, with TestKilledWithAClaim
			r := startRecorder(t, kind, fmt.Sprintf(`
  - name: replay
    match: {path: "/replay/{id}"}
    upstream: app
    key: {space: replay, from: [{path: id}]}
    idempotency: {claim_lease: %s}
    sequence: {mode: required, store: {store}, gap_wait: 9s, done: replay}
  - name: conflict
    match: {path: "/conflict/{id}"}
    upstream: app
    key: {space: conflict, from: [{path: id}]}
    sequence: {mode: required, store: {store}, gap_wait: 9s, done: conflict}`, claimLease))
			for _, done := range []string{"replay", "conflict"} {
				t.Run(done, func(t *testing.T) { killedBetweenNumbers(t, r, done) })
			}
		})
	}
}

func killedBetweenNumbers(t *testing.T, r *recorder, done string) {
	path := "/" + done + "/7"
	send := func(n int) (status int, body, replayed string) {
		return r.post(path, http.Header{"Lanekeeper-Producer": {"p"}, "Lanekeeper-Seq": {fmt.Sprint(n)}})
	}
	ran := func(n int) int { return r.ran(fmt.Sprint(path, " ", n)) }
	want := func(n, status int, text string) (replayed string) {
		t.Helper()
		have, body, replayed := send(n)
		if have != status || !strings.Contains(body, text) {
			t.Errorf("%d: %d %s, want %d %s", n, have, body, status, text)
		}
		return replayed
	}
	restart := func() {
		r.kill()
		r.set(0, nil)
		r.start()
	}
	r.set(0, nil)
	for n := 1; n <= 3; n++ {
		want(n, 200, "run 1")
	}
	restart()
	fifth := make(chan int)
	go func() {
		status, _, _ := send(5)
		fifth <- status
	}()
	r.counts(fmt.Sprintf(`lanekeeper_sequence_total{result="held",route=%q} 1`, done))
	if done == "replay" {
		if want(3, 200, "run 1") != "true" {
			t.Error("3 is not replayed")
		}
	} else {
		want(3, 409, "sequence-done")
	}
	want(1, map[string]int{"replay": 200, "conflict": 409}[done], "")
	if ran(5) != 0 {
		t.Error("5 ran before 4")
	}
	want(4, 200, "run 1")
	if status := <-fifth; status != 200 {
		t.Errorf("5: %d", status)
	}

	r.set(0, make(chan struct{}))
	go send(6)
	until(t, "6 runs", func() bool { return ran(6) == 1 })
	restart()
	if done == "replay" {
		until(t, "6 is settled", func() bool {
			_, body, _ := send(6)
			return !strings.Contains(body, "idempotency-in-progress")
		})
		want(6, 409, "idempotency-outcome-unknown")
	} else {
		want(6, 200, "run 2") // which the README says
	}
	want(7, 200, "run 1")

	r.server.Freeze()
	restart()
	want(8, 503, "idempotency-store-away")
	r.server.Thaw()
	until(t, "8 runs", func() bool {
		status, _, _ := send(8)
		return status == 200
	})
	for n := 1; n <= 8; n++ {
		if n != 6 && ran(n) != 1 {
			t.Errorf("%d ran %d times", n, ran(n))
		}
	}
}
