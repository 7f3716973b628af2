package peer

import (
	"testing"
	"time"

	"lanekeeper/ring"
)

// TestCancelIsSentAgain has the connection break before CANCEL is written: the
// request that waits leaves its lane all the same.
//
// Mutant "3: CANCEL is not sent again".
func TestCancelIsSentAgain(t *testing.T) {
	w := newWorld(&scenario{requests: []int{0, 0}})
	w.enter()
	w.enter()
	w.writeUp(w.conns[0])
	w.readUp(w.conns[0])
	w.readUp(w.conns[0])
	w.do(step{stepCancel, 1})
	l := w.conns[0].link
	w.endHere(w.conns[0])
	w.dial(l)
	c := w.connOf(l)
	w.readUp(c)
	w.writeDown(c)
	w.readDown(c)
	w.writeUp(c)
	w.readUp(c)
	w.writeDown(c)
	w.readDown(c)
	if got := w.requests[1].answer; got != notExecuted || w.wrong != "" {
		t.Errorf("the request that waits is answered %d: %s", got, w.wrong)
	}
	if got := w.requests[0].answer; got != noAnswer {
		t.Errorf("the one that runs is answered %d", got)
	}
}

// TestCancelOfWhatRunsDoesNothing: it ends with its response.
func TestCancelOfWhatRunsDoesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		owner.delay = func() time.Duration { return time.Second }
		runs, waits := ingress.call(0, testRequest("k", 1)), ingress.call(0, testRequest("k", 1))
		time.Sleep(100 * time.Millisecond)
		ingress.hop.Cancel(runs)
		ingress.hop.Cancel(waits)
		if r := mustEnd(t, waits, 10*time.Millisecond); r.Problem != Cancelled || r.Executed != NotExecuted {
			t.Errorf("the one that waits: %+v", r)
		}
		if r := mustEnd(t, runs, 2*time.Second); r.Problem != "" {
			t.Errorf("the one that runs: %s", r.Problem)
		}
		ingress.hop.Cancel(runs) // too late, and harmless
		checkRan(t, owner.log, 1)
	})
}

// TestRouteChangesWhileARequestRuns: what comes after a move does not wait for
// the turn of what has its ticket at the old owner, nor for the next PING.
//
// Mutant "2: nobody asks what has been admitted".
func TestRouteChangesWhileARequestRuns(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, old := pairOver(t, network, nil)
		next := startTestNode(t, network, "c", old.log, nil)
		next.owner = func(int) (ring.Member, uint64) { return next.self, 2 }
		ingress.hop.View([]Member{{old.self, old.addr}, {next.self, next.addr}})
		old.delay = func() time.Duration { return 5 * time.Second }
		time.Sleep(1100 * time.Millisecond) // just after a PING
		first := ingress.call(0, testRequest("k", 1))
		second := ingress.call(0, testRequest("k", 1))
		time.Sleep(10 * time.Millisecond)
		old.lanes.Seal(0)
		next.lanes.Open(0)
		old.owner = next.owner
		ingress.owner = next.owner
		ingress.hop.Routed(0, next.self, 2)
		began := time.Now()
		if r := mustEnd(t, ingress.call(0, testRequest("another key", 1)), 10*time.Second); r.Problem != "" {
			t.Error(r.Problem, r.Detail)
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("a request behind the move took %s", took)
		}
		mustEnd(t, first, 20*time.Second)
		mustEnd(t, second, 20*time.Second)
	})
}
