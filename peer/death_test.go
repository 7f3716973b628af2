package peer

import (
	"context"
	"testing"
	"time"

	"lanekeeper/ring"
)

// TestOwnerComesBackEmpty kills an owner that runs one request and keeps another
// waiting, and starts it anew at the same address. What it had is unknown to its
// ingress, whatever the new one says; what was not sent runs there. Either end
// would refuse the other for another incarnation: each is tested with a greeting.
func TestOwnerComesBackEmpty(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		owner.delay = func() time.Duration { return time.Second }
		runs, waits := ingress.call(0, testRequest("k", 1)), ingress.call(0, testRequest("k", 1))
		time.Sleep(100 * time.Millisecond)
		network.Kill(hostOf("b"))
		owner.killed = true
		owner.stop()
		time.Sleep(100 * time.Millisecond) // else what is sent next may go to the connection that is breaking
		network.Boot(hostOf("b"))
		again := startTestNode(t, network, "b", newRanLog(), func(c *Config) { c.Self.Incarnation = 2 })
		again.self.Incarnation = 2
		again.owner = func(int) (ring.Member, uint64) { return again.self, 2 }
		again.lanes.Open(0)
		held := ingress.call(0, testRequest("k", 1))
		time.Sleep(2 * time.Second) // C knocks at the old one's door
		for name, c := range map[string]*Call{"the one that ran": runs, "the one that waited": waits, "the one that was held": held} {
			if c.Wait(time.Now()) {
				t.Fatalf("%s is answered before anybody has said that the owner is gone: %+v", name, c.Response)
			}
		}
		ingress.owner = again.owner
		ingress.hop.View([]Member{{again.self, again.addr}})
		for name, c := range map[string]*Call{"the one that ran": runs, "the one that waited": waits} {
			if r := mustEnd(t, c, 0); r.Problem != PeerLost || r.Executed != Unknown {
				t.Errorf("%s: %q, executed %d", name, r.Problem, r.Executed)
			}
		}
		if r := mustEnd(t, held, time.Second); r.Problem != "" || held.Owner != again.self {
			t.Errorf("the one that was held: %q by %s", r.Problem, held.Owner)
		}
	})
}

// TestIngressDies: what it has waiting leaves its lane, when its death is known or
// when it has not come back for a while; what runs is finished.
//
// Mutants "what a dead ingress waits for stays", "a stranger is remembered".
func TestIngressDies(t *testing.T) {
	for _, known := range []bool{true, false} {
		inBubble(t, func(t *testing.T, network inMemory) {
			ingress, owner := pairOver(t, network, nil)
			if !known {
				owner.hop.View(nil)
				time.Sleep(time.Second)
			}
			owner.delay = func() time.Duration { return time.Minute }
			for range 3 {
				ingress.call(0, testRequest("k", 1))
			}
			time.Sleep(100 * time.Millisecond)
			network.Kill(hostOf("a"))
			ingress.killed = true
			ingress.stop()
			if known {
				owner.hop.View(nil)
			} else {
				time.Sleep(orphanAfter + time.Second)
			}
			if got := owner.lanes.Deepest(1); len(got) != 1 || got[0].Depth != 0 {
				t.Errorf("known=%v: the lane is %+v", known, got)
			}
			if n := len(owner.hop.host.all()); n != 0 {
				t.Errorf("known=%v: %d sessions are remembered", known, n)
			}
			time.Sleep(2 * time.Minute)
			checkRan(t, owner.log, 1)
		})
	}
}

// TestIngressComesBackInTime: a break that is over before orphanAfter costs what
// has a ticket nothing, and a longer one ends what waits, by the owner's word.
//
// Mutant "nobody is missed".
func TestIngressComesBackInTime(t *testing.T) {
	for _, long := range []bool{false, true} {
		inBubble(t, func(t *testing.T, network inMemory) {
			ingress, owner := pairOver(t, network, nil)
			owner.delay = func() time.Duration { return 25 * time.Second }
			runs, waits := ingress.call(0, testRequest("k", 1)), ingress.call(0, testRequest("k", 1))
			time.Sleep(100 * time.Millisecond)
			network.Split([]string{hostOf("a")}, []string{hostOf("b")})
			pause := silenceMax + time.Second // and as much until the way is found again
			if long {
				pause = silenceMax + orphanAfter + time.Second
			}
			time.Sleep(pause)
			network.Heal()
			if r := mustEnd(t, runs, 30*time.Second); r.Problem != "" {
				t.Errorf("long=%v: the one that runs: %q", long, r.Problem)
			}
			r := mustEnd(t, waits, time.Minute)
			if want := map[bool]string{true: Cancelled}[long]; r.Problem != want || r.Executed != NotExecuted {
				t.Errorf("long=%v: the one that waits: %q, executed %d", long, r.Problem, r.Executed)
			}
		})
	}
}

// TestMemberIsBackUnderTheSameName, and the same incarnation: it was only taken for
// dead, at either end or at both. Nothing of before gets into what is after.
func TestMemberIsBackUnderTheSameName(t *testing.T) {
	for name, at := range map[string]func(a, b *testNode){
		"the ingress":  func(a, b *testNode) { a.hop.View(nil) },
		"the owner":    func(a, b *testNode) { b.hop.View(nil) },
		"both of them": func(a, b *testNode) { a.hop.View(nil); b.hop.View(nil) },
	} {
		inBubble(t, func(t *testing.T, network inMemory) {
			a, b := pairOver(t, network, nil)
			members := []Member{{a.self, a.addr}, {b.self, b.addr}}
			for round := range 5 {
				var before, after []*Call
				for range 20 {
					before = append(before, a.call(0, testRequest("before", round)))
				}
				time.Sleep(time.Duration(round) * 700 * time.Microsecond)
				at(a, b)
				a.hop.View(members)
				b.hop.View(members)
				for range 20 {
					after = append(after, a.call(0, testRequest("after", round)))
				}
				for _, c := range before {
					if r := mustEnd(t, c, 10*time.Second); r.Executed == Unknown && r.Problem != PeerLost || r.Problem == "" && string(r.Body[:6]) != "before" {
						t.Errorf("%s, round %d: %q %q", name, round, r.Problem, r.Body)
					}
				}
				for i, c := range after {
					r := mustEnd(t, c, 10*time.Second)
					// The owner may have known later than its ingress: then it is honest.
					if r.Problem == "" && string(r.Body[:5]) != "after" || r.Problem != "" && name == "the ingress" {
						t.Errorf("%s, round %d: request %d after it: %q %q", name, round, i, r.Problem, r.Body)
					}
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := b.hop.Stop(ctx); err != nil {
				t.Errorf("%s: answers are left: %v", name, err)
			}
		})
	}
}
