package peer

import (
	"testing"
	"time"

	"lanekeeper/membership/membertest"
	"lanekeeper/ring"
)

// Mutants: a PONG that may be another PING's is one for this; the first PONG of two counts
// twice; a connection that is lost has a round trip.
func TestRoundTripsAreOfOnePing(t *testing.T) {
	var r round
	at := time.Now()
	in := func(d time.Duration) time.Time { return at.Add(d) }
	check := func(what string, want time.Duration) {
		t.Helper()
		if r.took != want {
			t.Errorf("%s: %v, want %v", what, r.took, want)
		}
	}
	r.pong(in(0))
	check("of nothing", 0)
	r.ping(in(0))
	r.pong(in(5))
	check("of one", 5)
	r.pong(in(9))
	check("of one that was answered", 5)
	r.spoil()
	r.ping(in(1000))
	r.pong(in(1001)) // perhaps the other's
	check("with another before it", 5)
	r.ping(in(2000))
	r.spoil()
	r.pong(in(2007))
	check("with another behind it", 7)
	r.lost()
	check("lost", 0)
	r.ping(in(3000))
	r.lost()
	r.pong(in(3001))
	check("of the connection before", 0)
}

// TestRTT: a member's round trip is that of the network, as it is lately, and unknown without
// a connection.
//
// Mutants: no PING is timed; no PONG is heard; a broken connection's remains.
func TestRTT(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		network.SetLink(membertest.Link{Delay: 20 * time.Millisecond})
		ingress, owner := pairOver(t, network, nil)
		near := func(want time.Duration) {
			t.Helper()
			time.Sleep(3 * pingEvery)
			if got := ingress.hop.RTT(owner.self); got < want || got > want+tendEvery {
				t.Errorf("the round trip takes %v, not %v", got, want)
			}
		}
		near(40 * time.Millisecond)
		network.SetLink(membertest.Link{Delay: 200 * time.Millisecond})
		near(400 * time.Millisecond)
		network.Cut(hostOf("b"), hostOf("a"))
		time.Sleep(time.Minute)
		if got := ingress.hop.RTT(owner.self); got != 0 {
			t.Errorf("without a connection it takes %v", got)
		}
		if got := ingress.hop.RTT(ring.Member{Name: "z"}); got != 0 {
			t.Errorf("nobody answers in %v", got)
		}
	})
}
