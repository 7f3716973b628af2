package proxy_test

import (
	"encoding/hex"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// released ends the only hold that there is, which would last for so long.
func (m *member) released(left time.Duration) {
	t := m.pair.t
	t.Helper()
	stopped := m.lanes.Stopped()
	if len(stopped) != 1 || !stopped[0].Head().Held {
		t.Fatalf("%+v", stopped)
	}
	ticket := stopped[0].Head().ID
	if until, held := m.proxy.HeldUntil(ticket); !held || time.Until(until).Round(time.Second) != left {
		t.Errorf("held for %s more, want %s", time.Until(until), left)
	}
	if m.proxy.ReleaseHeld(queue.ID{1}) {
		t.Error("a hold of nobody is ended")
	}
	if !m.proxy.ReleaseHeld(ticket) {
		t.Error("the hold is not ended")
	}
	synctest.Wait()
	if _, held := m.proxy.HeldUntil(ticket); held || m.proxy.ReleaseHeld(ticket) {
		t.Error("it is held still")
	}
}

// Who looks at a lane sees where its requests come from: the node, the client and the trace, also of
// those that another node has accepted.
//
// Mutants seen red: a forwarded request has no ingress, no client, or no trace.
func TestLanesKnowWhereRequestsComeFrom(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	both(t, "waiting", lane(func(l *proxy.Lane) { l.QueueTimeout = time.Minute }), nil, func(p *pair, at *member) []string {
		owner := p.nodes[0]
		_, first := at.async("POST", "/orders/7/0", http.Header{"Traceparent": {"00-" + trace + "-00f067aa0ba902b7-01"}}, "")
		_, second := at.async("POST", "/orders/7/1", http.Header{"Traceparent": {"00-00000000000000000000000000000000-00f067aa0ba902b7-01"}}, "")
		x := p.ran("/orders/7/0", owner)
		s := owner.lanes.Deepest(1)
		if len(s) != 1 {
			p.t.Fatalf("%+v", s)
		}
		whole, _ := owner.lanes.Lane(owner.edge.Partition([]byte(s[0].Key)), []byte(s[0].Key))
		for i, k := range whole.Tickets {
			want, ingress := [2]string{trace, "00000000000000000000000000000000"}[i], ""
			if at != owner {
				ingress = at.self.Name
			}
			if hex.EncodeToString(k.Trace[:]) != want || k.Ingress != ingress || !k.Client.IsValid() {
				p.t.Errorf("ticket %d: %x from %q, %s", i, k.Trace, k.Ingress, k.Client)
			}
		}
		if len(whole.Tickets) != 2 {
			p.t.Errorf("%+v", whole)
		}
		x.finish("")
		p.ran("/orders/7/1", owner).finish("")
		<-first
		<-second
		return nil
	})
}
