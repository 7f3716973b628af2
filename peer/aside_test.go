package peer

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

// asides is an edge that keeps requests aside, and asks for turns in their place.
type asides struct {
	mu    sync.Mutex  // guards the rest
	takes func() bool // whether the next one stays aside
	ask   *Call       // in the place of the next one; nil: none
	asked []Local
}

func (a *asides) aside(local Local) (bool, *Call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, local)
	ask := a.ask
	a.ask = nil
	return a.takes(), ask
}

// named is a request with a name.
type named struct {
	name  string
	asked int // for its place here
}

func (n *named) AdmitHere(queue.ID) bool { n.asked++; return false }

// TestAsideIsAskedFirst, for every request, by whatever way it comes, and before anybody
// looks whose its lane is. An ask is no request, and is not kept aside.
//
// Mutants: Enter does not ask, or after the owner; Send does not, or what is aside is sent
// all the same; an ask is kept aside.
func TestAsideIsAskedFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		a := &asides{takes: func() bool { return true }}
		ingress, owner := pairOver(t, network, func(c *Config) {
			if c.Self.Name == "a" {
				c.Aside = a.aside
			}
		})
		entered, sent := &named{name: "entered"}, &named{name: "sent"}
		for _, at := range []ring.Member{owner.self, ingress.self} {
			ingress.owner = func(int) (ring.Member, uint64) { return at, 2 }
			ingress.hop.Routed(3, at, 2)
			if !ingress.hop.Enter(3, entered) {
				t.Errorf("%s is the owner: it did not stay aside", at.Name)
			}
		}
		c := NewCall(3, sent, testRequest("order:3", 1), time.Now().Add(10*time.Second))
		if ingress.hop.Send(c); !c.Wait(time.Now()) || !c.Here {
			t.Error("what is aside has not ended")
		}
		ingress.hop.Cancel(c) // is too late, and harms nobody
		if want := []Local{entered, entered, sent}; !slices.Equal(a.asked, want) {
			t.Errorf("it was asked for %v", a.asked)
		}
		if n := entered.asked + sent.asked; n != 0 {
			t.Errorf("its place in the lane was asked for %d times", n)
		}
		if ingress.hop.Pending() != 0 || owner.served.Load() != 0 {
			t.Error("what is aside was sent")
		}
		a.takes = func() bool { return false }
		if ingress.hop.Enter(3, entered) {
			t.Error("nobody took it")
		}
		a.takes = func() bool { return true }
		ingress.owner = func(int) (ring.Member, uint64) { return owner.self, 3 }
		ingress.hop.Routed(3, owner.self, 3)
		ask := NewCall(3, noLocal{}, testRequest("order:3", 1), time.Now().Add(10*time.Second))
		ask.Turn = true
		ingress.hop.Send(ask)
		mustEnd(t, ask, time.Second)
		if len(a.asked) != 4 || owner.served.Load() != 1 {
			t.Errorf("an ask was kept aside: %v", a.asked)
		}
	})
}

// TestAnAskEntersBeforeWhatComesAfter sends asks, requests that have one enter first, and
// requests that pass by. Their order is the order of their tickets, at the owner too.
//
// Mutants: the ask enters behind the request that came after; a ticket that is given is
// drawn anew.
func TestAnAskEntersBeforeWhatComesAfter(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		a := &asides{takes: func() bool { return false }}
		ingress, owner := pairOver(t, network, func(c *Config) {
			if c.Self.Name == "a" {
				c.Aside = a.aside
			}
		})
		makes := func() *Call {
			return NewCall(3, noLocal{}, testRequest("order:3", 1), time.Now().Add(10*time.Second))
		}
		var calls []*Call
		for i := range 100 {
			c := makes()
			if i%3 > 0 {
				a.ask = makes()
				a.ask.Turn = true
				calls = append(calls, a.ask)
			}
			if i%3 == 2 { // it stays, and its ask goes
				a.takes = func() bool { return true }
				if !ingress.hop.Enter(3, noLocal{}) {
					t.Fatal("it did not stay aside")
				}
				a.takes = func() bool { return false }
				continue
			}
			ingress.hop.Send(c)
			calls = append(calls, c)
		}
		kept := makes()
		kept.Ticket = ingress.lanes.NextID()
		want := kept.Ticket
		last := makes()
		ingress.hop.Send(kept)
		ingress.hop.Send(last)
		calls = append(calls, kept, last)
		var tickets []queue.ID
		for _, c := range calls {
			mustEnd(t, c, 10*time.Second)
			tickets = append(tickets, c.Ticket)
		}
		if kept.Ticket != want {
			t.Error("a ticket was drawn anew")
		}
		if ran := owner.log.ran["order:3"]; !slices.Equal(ran, tickets) {
			t.Errorf("%d ran, in another order than %d were sent", len(ran), len(tickets))
		}
		checkRan(t, owner.log, len(calls))
	})
}

// TestEndedIsToldOnce of whatever ends a call, before Wait returns, and with all that
// Wait shows.
//
// Mutants: it is not told of an answer, or of what the hop itself refuses, or twice; it
// is told after Wait; before who answered is known.
func TestEndedIsToldOnce(t *testing.T) {
	for name, test := range map[string]struct {
		end     func(ingress, owner *testNode, c *Call)
		problem string
		owner   string
		here    bool
	}{
		"answered":  {func(*testNode, *testNode, *Call) {}, "", "b", false},
		"cancelled": {func(ingress, _ *testNode, c *Call) { ingress.hop.Cancel(c); ingress.hop.Cancel(c) }, Cancelled, "", false},
		"lost": {func(ingress, _ *testNode, _ *Call) {
			time.Sleep(100 * time.Millisecond) // it is at the owner, who takes a second
			ingress.hop.View(nil)
		}, PeerLost, "b", false},
		"stopped": {func(ingress, _ *testNode, _ *Call) { ingress.stop() }, Cancelled, "", false},
		"here":    {func(*testNode, *testNode, *Call) {}, "", "", true},
		"refused": {func(*testNode, *testNode, *Call) {}, Overloaded, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, network inMemory) {
				ingress, owner := pairOver(t, network, func(c *Config) {
					if name == "refused" {
						c.MaxCalls = 0
					}
				})
				owner.delay = func() time.Duration { return time.Second }
				if name == "here" {
					ingress.lanes.Open(3)
					ingress.owner = func(int) (ring.Member, uint64) { return ingress.self, 2 }
				}
				c := NewCall(3, admitting{ingress}, testRequest("order:3", 1), time.Now().Add(10*time.Second))
				told := make(chan string, 2) // before Wait returns
				c.Turn, c.Ended = true, func(of *Call) {
					told <- fmt.Sprint(of == c, of.Response.Problem, of.Owner.Name, of.Here)
				}
				ingress.hop.Send(c)
				test.end(ingress, owner, c)
				if !c.Wait(time.Now().Add(time.Minute)) {
					t.Fatal("it does not end")
				}
				select {
				case got := <-told:
					if want := fmt.Sprint(true, test.problem, test.owner, test.here); got != want {
						t.Errorf("it was told %s, want %s", got, want)
					}
				default:
					t.Error("it was not told before Wait")
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if len(told) > 0 {
					t.Error("it was told twice")
				}
			})
		})
	}
}

// admitting takes tickets in a node's lanes.
type admitting struct{ *testNode }

func (a admitting) AdmitHere(id queue.ID) bool {
	ticket := new(queue.Ticket)
	return a.lanes.Admit(ticket, &queue.Request{Key: []byte("order:3"), Partition: 3, ID: id}) == nil
}

// TestANoteArrivesOrIsKnownToBeLost: in order with others of its connection, once, and
// from who sent it; without a connection it is not sent, and nobody sends it later.
//
// Mutants: it is reported as sent without a connection, and sent with the next one; what
// a connection has not taken is kept for the next one.
func TestANoteArrivesOrIsKnownToBeLost(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		var mu sync.Mutex
		var heard []string
		ingress, owner := pairOver(t, network, func(c *Config) {
			if c.Self.Name == "b" {
				c.Note = func(from ring.Member, payload []byte) {
					mu.Lock()
					defer mu.Unlock()
					heard = append(heard, from.Name+" "+string(payload))
				}
			}
		})
		hears := func(want ...string) {
			t.Helper()
			time.Sleep(5 * time.Second)
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(heard, want) {
				t.Errorf("heard %q, want %q", heard, want)
			}
			heard = nil
		}
		if ingress.hop.Note(owner.self, []byte("early")) {
			t.Error("nothing was connected yet")
		}
		if ingress.hop.Note(ring.Member{Name: "z"}, []byte("x")) || ingress.hop.Note(ingress.self, []byte("x")) {
			t.Error("a note was sent to a stranger, or to oneself")
		}
		time.Sleep(time.Second)
		var want []string
		for i := range 300 {
			if !ingress.hop.Note(owner.self, fmt.Append(nil, i)) {
				t.Fatal("it was not sent")
			}
			want = append(want, fmt.Sprint("a ", i))
		}
		hears(want...)
		if !owner.hop.Note(ingress.self, []byte("nobody cares")) { // without Config.Note
			t.Error("it was not sent")
		}
		network.Cut(hostOf("a"), hostOf("b"))
		network.Cut(hostOf("b"), hostOf("a"))
		time.Sleep(10 * time.Second)
		if ingress.hop.Note(owner.self, []byte("lost")) {
			t.Error("it was sent over a connection that is broken")
		}
		network.Heal()
		hears()
		if !ingress.hop.Note(owner.self, []byte("again")) {
			t.Error("it was not sent")
		}
		hears("a again")
	})
}

func TestNotesDieWithTheirConnection(t *testing.T) {
	o := newOutbox(ring.Member{Name: "a"}, nil)
	l := o.join(ring.Member{Name: "b"})
	l.notes = [][]byte{[]byte("of a turn that may be over")}
	if o.broken(l); len(l.notes) > 0 {
		t.Error("they are kept for the next one")
	}
}
