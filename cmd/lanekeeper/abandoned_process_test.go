package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// TestAbandonedRequestsElsewhereAreSaid stops a node whose clients' requests are at
// another one, and outlast its drain: one runs there, one waits. Each client is told, and
// what waited does not run later.
//
// Mutants: what is at other nodes is not given up (both clients lose their connections
// unanswered); it is not cancelled (what waited is unknown).
func TestAbandonedRequestsElsewhereAreSaid(t *testing.T) {
	u := newHoldingUpstream(t)
	c := startMembers(t, 2, u.URL, "shutdown: {delay: 0s, drain_timeout: 500ms}\n")
	order := c.keysOf(t, 0, 1)[0]
	running := post(c.targets[1]+"/orders/"+order, "running")
	u.next(t)
	waiting := post(c.targets[1]+"/orders/"+order, "waiting")
	c.await("one waits at the owner", func() bool { return c.metric(0, `lanekeeper_queued_requests{route="order"}`) == 1 })
	c.nodes[1].forget()
	c.nodes[1].signal(syscall.SIGTERM)
	if got := <-waiting; !strings.HasPrefix(got, "503 ") || !strings.Contains(got, ":draining") || !strings.Contains(got, `"executed":"no"`) {
		t.Errorf("waiting: %s", got)
	}
	if got := <-running; !strings.HasPrefix(got, "502 ") || !strings.Contains(got, ":peer-lost") || !strings.Contains(got, `"executed":"unknown"`) || !strings.Contains(got, "this node stops") {
		t.Errorf("running: %s", got)
	}
	if err := c.nodes[1].cmd.Wait(); c.nodes[1].cmd.ProcessState.ExitCode() != exitAbandoned {
		t.Errorf("%v, want exit code %d", err, exitAbandoned)
	}
	u.release <- struct{}{}
	last := post(c.targets[0]+"/orders/"+order, "last")
	if got := u.next(t); !strings.Contains(got, "last") {
		t.Errorf("%s ran after its client was told that it did not", got)
	}
	u.release <- struct{}{}
	if got := <-last; !strings.HasPrefix(got, "200 ") {
		t.Error(fmt.Sprint("last: ", got))
	}
}
