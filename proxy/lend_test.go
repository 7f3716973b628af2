package proxy_test

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/peer"
	"lanekeeper/proxy"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// What nodes say to each other of turns, as it is sent.
const (
	sayReturn = 1 + iota
	sayReturned
	sayExtend
	sayExtended
	sayAsk
)

// spoken is a note.
type spoken struct {
	kind     byte
	ticket   queue.ID
	number   uint32
	validFor time.Duration
}

func (n *spoken) payload() []byte {
	b := append([]byte{n.kind}, n.ticket[:]...)
	b = binary.BigEndian.AppendUint32(b, n.number)
	return binary.BigEndian.AppendUint32(b, uint32(n.validFor.Milliseconds()))
}

func heard(payload []byte) (n spoken) {
	n.kind = payload[0]
	copy(n.ticket[:], payload[1:17])
	n.number = binary.BigEndian.Uint32(payload[17:])
	n.validFor = time.Duration(binary.BigEndian.Uint32(payload[21:])) * time.Millisecond
	return n
}

func (e *edge) Note(to ring.Member, payload []byte) bool {
	n := heard(payload)
	e.mu.Lock()
	e.notes = append(e.notes, n)
	lost := e.loses != nil && e.loses(&n)
	e.mu.Unlock()
	return lost || e.Hop.Note(to, payload)
}

// said are the notes of a kind that the node has sent.
func (e *edge) said(kind byte) (said []spoken) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.notes {
		if n.kind == kind {
			said = append(said, n)
		}
	}
	return said
}

// lose has the node's next notes of a kind get lost.
func (e *edge) lose(kind byte, few int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loses = func(n *spoken) bool {
		if n.kind != kind || few == 0 {
			return false
		}
		few--
		return true
	}
}

// lend has a request run in a turn that was lent, and one of the owner's own wait for
// the end of that.
func lend(t *testing.T, f func(*proxy.Lane)) (p *pair, x *exchange, lent, own <-chan *answer) {
	t.Helper()
	p, owner, ingress := startSpilled(t, f)
	_, lent = ingress.async("POST", "/orders/7/lent", nil, "")
	x = p.ran("/orders/7/lent", ingress)
	_, own = owner.async("POST", "/orders/7/own", nil, "")
	p.quiet("the turn is lent")
	return p, x, lent, own
}

// A turn lasts as long as what runs in it.
//
// Mutants: nobody asks for more time; the owner gives none; the loan's end is the
// call's, although it was put off; the lane goes on at the first end.
func TestALentTurnLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, x, lent, own := lend(t, nil)
		for range 25 {
			time.Sleep(time.Second)
			p.quiet("the turn is lent")
			if held := p.nodes[0].metric("lanekeeper_held_lanes"); held != 0 {
				t.Errorf("%v lanes are held", held)
			}
		}
		x.finish("")
		(<-lent).is(t, "the long one", 200, "", "")
		p.ran("/orders/7/own", p.nodes[0]).finish("")
		(<-own).is(t, "the owner's own", 200, "", "")
		if n := p.nodes[0].metric("lanekeeper_lock_lost_total"); n != 0 {
			t.Errorf("%v turns were lost", n)
		}
		if asked := len(p.nodes[0].edge.said(sayAsk)); asked > 0 {
			t.Errorf("its helper was asked %d times whether it is over", asked)
		}
		if n := len(p.nodes[1].edge.said(sayExtend)); n < 9 || n > 30 {
			t.Errorf("it was extended %d times", n)
		}
		p.settled()
	})
}

// Who cannot reach the owner runs nothing when the loan is over, and the owner's lane
// goes on after that: at once if its helper is dead, and else when what was cut off has
// had its time.
//
// Mutants: a call outlives the loan; the loan counts from its answer; a turn begins beside
// one that is not over; its outcome is said to be known; the lane goes on
// before the loan's end, or with it although the helper lives, or never; a helper denies
// what it has; a dead helper
// is waited for; what is lost is not counted.
func TestAHelperThatIsCutOff(t *testing.T) {
	for name, test := range map[string]struct {
		dead   bool
		policy proxy.AfterTimeout
		free   time.Duration // after the end of the loan
	}{
		"alive":             {false, proxy.Hold, 20 * time.Second},
		"alive, no hold":    {false, proxy.Release, 0},
		"dead":              {true, proxy.Hold, 0},
		"dead, and no hold": {true, proxy.Release, 0},
	} {
		bubble(t, name, func(t *testing.T) {
			p, x, lent, own := lend(t, func(l *proxy.Lane) { l.AfterTimeout = test.policy })
			next := p.nodes[1].post("/orders/7/next")
			time.Sleep(5 * time.Second)
			p.sever()
			began := time.Now()
			p.nodes[0].edge.mourn(p.nodes[1].self, test.dead)
			a := <-lent
			a.is(t, "what ran", 504, "upstream-timeout", "unknown")
			cut := time.Since(began)
			if cut < 1900*time.Millisecond || cut > 3*time.Second {
				t.Errorf("it was cut off after %v", cut)
			}
			if !strings.Contains(a.problem.Detail, "lent") {
				t.Error(a.problem.Detail)
			}
			y := p.awaits("/orders/7/own")
			if free := time.Since(began) - cut - test.free; free < 0 || free > 1100*time.Millisecond {
				t.Errorf("the lane went on %v after the call was cut off, want %v", free+test.free, test.free)
			}
			if n := p.nodes[0].metric("lanekeeper_lock_lost_total"); n != 1 {
				t.Errorf("%v turns were lost", n)
			}
			y.finish("")
			close(x.done)
			p.heal()
			p.nodes[0].edge.mourn(p.nodes[1].self, false)
			p.awaits("/orders/7/next").finish("")
			next()
			(<-own).is(t, "the owner's own", 200, "", "")
			p.settled()
		})
	}
	bubble(t, "alive, and can be asked", func(t *testing.T) {
		p, x, lent, own := lend(t, nil)
		p.nodes[1].edge.lose(sayExtend, 1000)
		(<-lent).is(t, "what ran", 504, "upstream-timeout", "unknown")
		time.Sleep(10 * time.Second)
		p.quiet("the service is at work")
		if asked := len(p.nodes[0].edge.said(sayAsk)); asked < 8 || asked > 11 {
			t.Errorf("it was asked %d times whether the turn is over", asked)
		}
		x.finish("")
		p.ran("/orders/7/own", p.nodes[0]).finish("")
		(<-own).is(t, "the owner's own", 200, "", "")
		p.settled()
	})
	bubble(t, "dead, and what it ran is at work still", func(t *testing.T) {
		p, x, lent, own := lend(t, nil)
		next := p.nodes[1].post("/orders/7/next")
		p.sever()
		p.nodes[0].edge.mourn(p.nodes[1].self, true)
		(<-lent).is(t, "what ran", 504, "upstream-timeout", "unknown")
		p.awaits("/orders/7/own").finish("")
		(<-own).is(t, "the owner's own", 200, "", "")
		p.heal()
		p.nodes[0].edge.mourn(p.nodes[1].self, false)
		time.Sleep(5 * time.Second) // the next turn is there, and waits for the one before
		p.quiet("the service is at work")
		x.finish("")
		p.ran("/orders/7/next", p.nodes[1]).finish("")
		next()
		p.settled()
	})
	bubble(t, "for a moment", func(t *testing.T) {
		p, x, lent, own := lend(t, nil)
		p.sever()
		time.Sleep(time.Second)
		p.heal()
		time.Sleep(10 * time.Second)
		p.quiet("the turn is lent")
		x.finish("")
		(<-lent).is(t, "what ran", 200, "", "")
		p.ran("/orders/7/own", p.nodes[0]).finish("")
		(<-own).is(t, "the owner's own", 200, "", "")
		p.settled()
	})
}

// A loan counts from the ask: how long its answer took nobody knows.
func TestALoanCountsFromTheAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lag time.Duration
		slow := lane(spilled(nil))
		slow.lag = func() time.Duration { return lag }
		p := startPair(t, slow, nil)
		time.Sleep(time.Second) // for the hop to connect
		p.spill("/orders/7/hot")
		lag = 400 * time.Millisecond
		asked := time.Now()
		_, a := p.nodes[1].async("POST", "/orders/7/0", nil, "")
		x := p.awaits("/orders/7/0")
		if got, want := x.get("Lanekeeper-Deadline"), stamp(asked.Add(3*time.Second)); got != want {
			t.Errorf("deadline %s, want %s", got, want)
		}
		x.finish("")
		(<-a).is(t, "what ran", 200, "", "")
		time.Sleep(5 * time.Second)
		p.settled()
	})
}

func (e *edge) mourn(m ring.Member, dead bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dead = map[ring.Member]bool{m: dead}
}

// Mutants: a word is said once.
func TestLostNotesAreSaidAgain(t *testing.T) {
	for name, lost := range map[string]struct {
		by   int
		kind byte
		few  int
	}{
		"return": {1, sayReturn, 3}, "returned": {0, sayReturned, 3},
		"extend": {1, sayExtend, 3}, "extended": {0, sayExtended, 3},
	} {
		bubble(t, name, func(t *testing.T) {
			p, x, lent, own := lend(t, nil)
			p.nodes[lost.by].edge.lose(lost.kind, lost.few)
			time.Sleep(10 * time.Second)
			p.quiet("the turn is lent")
			x.finish("")
			(<-lent).is(t, "what ran", 200, "", "")
			time.Sleep(time.Second)
			p.ran("/orders/7/own", p.nodes[0]).finish("")
			(<-own).is(t, "the owner's own", 200, "", "")
			if n := p.nodes[0].metric("lanekeeper_lock_lost_total"); n != 0 {
				t.Errorf("%v turns were lost", n)
			}
			p.settled()
		})
	}
}

// A turn that was lent and never heard of is given back.
//
// Mutants: who was told that its owner is lost gives nothing back; an answer that nobody
// takes is a turn; the owner asks
// nobody whether a turn is over, or its helper does not answer what it does not know.
func TestATurnThatNobodyHeardOf(t *testing.T) {
	begin := func(t *testing.T) (p *pair, next, late func()) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		next, late = ingress.post("/orders/7/next"), owner.post("/orders/7/late")
		p.sever()
		x.finish("")
		own()
		if now := owner.proxy.Spilling(); now.Lent != 1 {
			t.Fatalf("%+v: the turn was not lent", now)
		}
		return p, next, late
	}
	bubble(t, "its answer comes late", func(t *testing.T) {
		p, next, late := begin(t)
		time.Sleep(5 * time.Second) // longer than it was lent for
		p.heal()
		for range 2 { // either: its owner may have asked before
			x := <-p.arrived
			p.quiet("one at a time")
			x.finish("")
		}
		next()
		late()
		p.settled()
	})
	bubble(t, "its answer is lost", func(t *testing.T) {
		p, next, late := begin(t)
		p.view()
		p.heal()
		p.view(p.nodes[0], p.nodes[1])
		began := time.Now()
		p.awaits("/orders/7/late").finish("")
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it was given back after %v", took)
		}
		p.awaits("/orders/7/next").finish("")
		next()
		late()
		p.settled()
	})
	bubble(t, "nobody waits for its answer", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		asked, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		owner.edge.mu.Lock()
		owner.edge.guard = func() error {
			once.Do(func() { close(asked); <-goOn })
			return nil
		}
		owner.edge.mu.Unlock()
		next := ingress.post("/orders/7/next")
		<-asked
		late := owner.post("/orders/7/late")
		p.sever()
		p.view()
		synctest.Wait()
		close(goOn)
		p.ran("/orders/7/late", owner).finish("")
		late()
		p.heal()
		p.view(p.nodes[0], p.nodes[1])
		p.awaits("/orders/7/next").finish("")
		next()
		p.settled()
	})
	bubble(t, "its owner asks", func(t *testing.T) {
		p, next, late := begin(t)
		began := time.Now()
		p.nodes[1].edge.mourn(p.nodes[0].self, true) // who is told nothing, then
		p.view()
		synctest.Wait()
		p.nodes[1].edge.mourn(p.nodes[0].self, false)
		p.heal()
		p.view(p.nodes[0], p.nodes[1])
		p.awaits("/orders/7/late").finish("")
		if took := time.Since(began); took < 2500*time.Millisecond || took > 5*time.Second {
			t.Errorf("it was given back after %v", took)
		}
		p.awaits("/orders/7/next").finish("")
		next()
		late()
		p.settled()
	})
}

// Once a turn is taken for lost, nobody is told that it lasts.
//
// Mutant: it is looked at, and ended, in two steps.
func TestALostTurnIsNotExtended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, x, lent, own := lend(t, func(l *proxy.Lane) { l.AfterTimeout = proxy.Release })
		owner, ingress := p.nodes[0], p.nodes[1]
		time.Sleep(2500 * time.Millisecond)
		ticket := ingress.edge.said(sayExtend)[0].ticket
		ingress.edge.lose(sayExtend, 1000)
		ingress.edge.lose(sayReturn, 1) // which it says in the moment in which its time is over
		var lost atomic.Bool
		owner.log.tell(func(line string) {
			if strings.Contains(line, "was not given back") {
				lost.Store(true)
				owner.proxy.Noted(ingress.self, (&spoken{kind: sayExtend, ticket: ticket, number: 77}).payload())
			}
		})
		p.awaits("/orders/7/own").finish("")
		synctest.Wait() // it is told so aside
		said := owner.edge.said(sayExtended)
		if !lost.Load() { // once in a thousand runs its second word comes in that moment, too
			t.Log("the turn was given back after all")
		} else if last := said[len(said)-1]; last.number != 77 || last.validFor != 0 {
			t.Errorf("the lane went on, and its helper was told %+v", last)
		}
		close(x.done)
		<-lent
		<-own
		p.settled()
	})
}

// Who is asked to help, and knows better, runs nothing in the turn, and gives it back. It
// may know better for long: so what waits goes to the owner, in order, and nothing is
// spilled again for a while.
//
// Mutants: it runs all the same; the turn is kept; it is asked for again and again; what
// waits goes onward only when all asks have been answered; newcomers are spilled again at
// once, or never.
func TestARefusedTurnIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		ingress.edge.refuseTurns(true)
		checks := []func(){owner.post("/orders/7/own")}
		x := p.ran("/orders/7/own", owner)
		for i := range 5 { // two asks, and one between them
			if i == 3 {
				checks = append(checks, owner.post("/orders/7/late"))
			}
			checks = append(checks, ingress.post("/orders/7/"+strconv.Itoa(i)))
		}
		x.finish("")
		time.Sleep(300 * time.Millisecond) // the failed ask's pause
		if n := owner.lanes.Totals()[0].Waiting; n != 6 {
			t.Errorf("%d wait at the owner, want the second ask and all that it was for", n)
		}
		p.ran("/orders/7/late", owner).finish("")
		for i := range 5 {
			p.ran("/orders/7/"+strconv.Itoa(i), owner).finish("")
		}
		checks = append(checks, ingress.post("/orders/7/5"))
		p.ran("/orders/7/5", owner).finish("") // whose answer says again that it is hot
		if n := ingress.metric("lanekeeper_lock_acquire_seconds", "result", "failed"); n != 2 {
			t.Errorf("%v asks failed, want 2", n)
		}
		ingress.edge.refuseTurns(false)
		time.Sleep(1500 * time.Millisecond)
		checks = append(checks, ingress.post("/orders/7/6"))
		p.ran("/orders/7/6", owner).finish("")
		time.Sleep(500 * time.Millisecond)
		checks = append(checks, ingress.post("/orders/7/7"))
		p.ran("/orders/7/7", ingress).finish("")
		for _, check := range checks {
			check()
		}
		p.settled()
	})
}

func (e *edge) refuseTurns(is bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuses = is
}

// Mutant: a node that stood still in its turn is not asked.
func TestAHelperThatStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		ingress.edge.mu.Lock()
		ingress.edge.asleep = errors.New("it stood still")
		ingress.edge.mu.Unlock()
		ingress.send("POST", "/orders/7/0", nil, "").is(t, "the one that must not run", 503, "ownership-moved", "no")
		p.quiet("it stood still")
		own := owner.post("/orders/7/own")
		p.ran("/orders/7/own", owner).finish("")
		own()
		p.settled()
	})
}

// Notes of a member that has no part in a turn do nothing, and neither does nonsense.
//
// Mutants: anybody ends a turn, or has it last; anybody says that it is over, or for how
// long it lasts; who says so twice ends the process.
func TestHostileNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, x, lent, own := lend(t, nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		time.Sleep(2500 * time.Millisecond)
		ticket := ingress.edge.said(sayExtend)[0].ticket
		stranger := ring.Member{Name: "lk-2", Incarnation: 1}
		for _, kind := range []byte{0, sayReturn, sayReturned, sayExtend, sayExtended, sayAsk, 77} {
			for _, n := range p.nodes {
				n.proxy.Noted(stranger, (&spoken{kind: kind, ticket: ticket, validFor: time.Hour}).payload())
				n.proxy.Noted(stranger, []byte{kind})
			}
			for _, n := range owner.edge.said(sayExtended) {
				if n.validFor > 3*time.Second {
					t.Errorf("%+v", n)
				}
			}
			p.quiet("the turn is lent")
		}
		if said := owner.edge.said(sayExtended); said[len(said)-1].validFor != 0 {
			t.Errorf("a stranger was told %+v", said[len(said)-1])
		}
		for range 3 { // the owner itself, with what makes no sense
			ingress.proxy.Noted(owner.self, (&spoken{kind: sayExtended, ticket: ticket, number: 1 << 31, validFor: time.Second}).payload())
		}
		p.sever() // or it would be told that it lasts
		(<-lent).is(t, "what ran", 504, "upstream-timeout", "unknown")
		p.heal()
		close(x.done)
		p.awaits("/orders/7/own").finish("")
		(<-own).is(t, "the owner's own", 200, "", "")
		p.settled()
	})
	bubble(t, "said twice", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		next, late := ingress.post("/orders/7/next"), owner.post("/orders/7/late")
		time.Sleep(4 * time.Second) // the ask waits for longer than a turn is lent for
		ingress.edge.mu.Lock()
		ingress.edge.loses = func(n *spoken) bool { // the answer is there before the word
			ingress.proxy.Noted(owner.self, (&spoken{kind: sayReturned, ticket: n.ticket}).payload())
			return n.kind == sayExtend
		}
		ingress.edge.mu.Unlock()
		x.finish("")
		own()
		p.awaits("/orders/7/late").finish("")
		p.awaits("/orders/7/next").finish("")
		next()
		late()
		p.settled()
	})
}

// Fences rise with the turns of a key, whoever runs them, and none is given twice.
//
// Mutants: all requests of a loan have one fence; the owner draws one for each loan;
// shared requests use them up; there is none in a lent turn.
func TestFencesOfLentTurnsRise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, strict(spilled(nil)), nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		owner.renews(20 * time.Second)
		p.spill("/orders/7/hot")
		last := uint64(3) // those before
		checks := []func(){owner.post("/orders/7/own")}
		x := p.ran("/orders/7/own", owner)
		for i, at := range []*member{ingress, ingress, ingress, owner, ingress, owner, owner, ingress, ingress} {
			checks = append(checks, at.post("/orders/7/"+strconv.Itoa(i)))
			if i == 1 {
				_, a := ingress.async("GET", "/orders/7/read", nil, "")
				defer func() { (<-a).is(t, "a read", 200, "", "") }()
			}
		}
		for ; x != nil; x = p.next() {
			fence, _ := strconv.ParseUint(x.get("Lanekeeper-Fence"), 10, 64)
			if reads := strings.HasPrefix(x.start, "GET"); reads && fence != 0 || !reads && fence <= last {
				t.Errorf("%s has the fence %d, after %d", x.start, fence, last)
			}
			last = max(last, fence)
			x.finish("")
		}
		for _, check := range checks {
			check()
		}
		p.settled()
	})
}

// Reads of another route may share the lanes of one that is strict, and spilled. What
// they ask for is asked for as the others would.
//
// Mutant: an ask is like the newest request, whatever it is.
func TestARouteOfReadsSharesASpilledKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := strict(spilled(nil))
		before := config.proxy
		config.proxy = func(node int, c *proxy.Config) {
			before(node, c)
			reads := c.Routes[0]
			reads.Name, reads.Match.Path = "read", "/reads/{id}/{rest...}"
			reads.Lane.Exclusive, reads.Lane.Strict, reads.Lane.Spill, reads.Lane.Quantum = nil, false, false, 0
			c.Routes = append([]proxy.Route{reads}, c.Routes...)
		}
		p := startPair(t, config, nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		owner.edge.lasts(time.Hour)
		p.spill("/orders/7/hot")
		checks := []func(){owner.post("/orders/7/own")}
		x := p.ran("/orders/7/own", owner)
		for i := range 3 { // all that one ask is for
			checks = append(checks, ingress.post("/orders/7/"+strconv.Itoa(i)))
		}
		_, read := ingress.async("GET", "/reads/7", nil, "")
		checks = append(checks, ingress.post("/orders/7/3"))
		for i := range 3 {
			x.finish("")
			x = p.ran("/orders/7/"+strconv.Itoa(i), ingress)
		}
		x.finish("")
		p.ran("/reads/7", ingress).finish("")
		x = p.ran("/orders/7/3", ingress)
		if fence := x.get("Lanekeeper-Fence"); fence != "8" { // the first of its loan, after four and a loan of three
			t.Errorf("it has the fence %q", fence)
		}
		x.finish("")
		(<-read).is(t, "the read", 200, "", "")
		for _, check := range checks {
			check()
		}
		p.settled()
	})
}

// Nothing strict runs in a lent turn after the lease of who lent it, as far as that was
// known, and not without one.
//
// Mutants: a loan lasts longer than the lease; an extension does; it is lent without a
// lease; the deadline is the upstream timeout's.
func TestALoanEndsWithTheOwnersLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, strict(spilled(nil)), nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		owner.edge.lasts(time.Hour)
		p.spill("/orders/7/hot")

		owner.edge.lasts(1500 * time.Millisecond)
		began := time.Now()
		_, a := ingress.async("POST", "/orders/7/0", nil, "")
		x := p.ran("/orders/7/0", ingress)
		if got, want := x.get("Lanekeeper-Deadline"), stamp(began.Add(1500*time.Millisecond)); got != want {
			t.Errorf("deadline %s, want %s", got, want)
		}
		(<-a).is(t, "what ran", 504, "upstream-timeout", "unknown")
		lateBy(t, "its answer", time.Since(began), 1500*time.Millisecond)
		next := ingress.post("/orders/7/1")
		p.quiet("the lane is held")
		x.finish("")
		time.Sleep(500 * time.Millisecond)
		p.quiet("there is no lease")
		owner.edge.lasts(10 * time.Second)
		renewed := time.Now()
		x = p.awaits("/orders/7/1")
		time.Sleep(9 * time.Second) // extended meanwhile, to the lease's end
		p.quiet("it runs")
		synctest.Wait()
		time.Sleep(2 * time.Second)
		if now := ingress.metric("lanekeeper_unknown_total"); now != 2 {
			t.Errorf("it was not cut off %v after a lease of 10 s", time.Since(renewed))
		}
		close(x.done)
		_ = next
	})
}

// What is lent by a node that loses the partition is still a turn of the key: the new
// owner's begins after it. And what waits at the new owner runs in its own lane.
//
// Mutants: a node lends what it has given away; a turn in the own lane does not end, or is
// not waited for.
func TestASpilledKeyMoves(t *testing.T) {
	bubble(t, "to the ingress", func(t *testing.T) {
		p, x, lent, own := lend(t, nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		next := ingress.post("/orders/7/next")
		p.move("7", ingress)
		after := ingress.post("/orders/7/after")
		p.quiet("the turn is lent")
		x.finish("")
		(<-lent).is(t, "what ran", 200, "", "")
		p.ran("/orders/7/own", owner).finish("")
		(<-own).is(t, "the old owner's own", 200, "", "")
		p.awaits("/orders/7/next").finish("")
		if n := ingress.edge.asked; n != 1 {
			t.Errorf("the old owner lent %d turns, want 1", n)
		}
		p.ran("/orders/7/after", ingress).finish("")
		next()
		after()
		p.settled()
	})
	bubble(t, "and comes back", func(t *testing.T) {
		p, x, lent, own := lend(t, nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		p.move("7", ingress)
		x.finish("")
		(<-lent).is(t, "what ran", 200, "", "")
		p.ran("/orders/7/own", owner).finish("")
		(<-own).is(t, "the old owner's own", 200, "", "")
		_, a := ingress.async("POST", "/orders/7/0", nil, "")
		x = p.ran("/orders/7/0", ingress)
		next := ingress.post("/orders/7/1")
		p.move("7", owner)
		after := ingress.post("/orders/7/2")
		x.finish("")
		(<-a).is(t, "in the ingress's own lane", 200, "", "")
		for _, path := range []string{"/orders/7/1", "/orders/7/2"} {
			p.awaits(path).finish("")
		}
		next()
		after()
		p.settled()
	})
}

// An ask that makes no sense is refused, and one that is answered by no turn is made again.
//
// Mutants: it is lent all the same; it is not made again, or at once and for ever, or for
// more than batch requests; nobody counts that it failed; an ask whose requests have no
// patience left waits on.
func TestAskIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, change{}, nil)
		in := &peer.Inbound{Request: peer.Request{Route: "order", Key: []byte("order:7"), Turn: true, Head: []byte("short")}, Partition: partition("7")}
		refusal, mine := p.nodes[0].proxy.ServeForwarded(in)
		if !mine || refusal == nil || refusal.Problem != "not-ready" || refusal.Executed != peer.NotExecuted {
			t.Errorf("%+v, %v", refusal, mine)
		}
	})
	bubble(t, "full", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, func(l *proxy.Lane) { l.MaxDepth = 2 })
		var checks []func()
		for i := range 3 {
			checks = append(checks, owner.post("/orders/7/own"+strconv.Itoa(i)))
		}
		x := p.ran("/orders/7/own0", owner)
		checks = append(checks, ingress.post("/orders/7/0"))
		time.Sleep(1500 * time.Millisecond) // within the owner's word
		if n := ingress.metric("lanekeeper_lock_acquire_seconds", "result", "failed"); n < 5 || n > 20 {
			t.Errorf("%v asks failed", n)
		}
		x.finish("")
		x = p.ran("/orders/7/own1", owner)
		time.Sleep(time.Second)
		x.finish("")
		p.ran("/orders/7/own2", owner).finish("")
		p.ran("/orders/7/0", ingress).finish("")
		for _, check := range checks {
			check()
		}
		p.settled()
	})
	bubble(t, "evicted", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		var checks []func()
		for i := range 5 {
			checks = append(checks, ingress.post("/orders/7/"+strconv.Itoa(i)))
		}
		owner.lanes.EvictPartition(partition("7"), errors.New("a test"))
		time.Sleep(time.Second)
		x.finish("")
		own()
		for i, check := range checks {
			p.ran("/orders/7/"+strconv.Itoa(i), ingress).finish("")
			check()
		}
		if n := ingress.metric("lanekeeper_lock_batch_size"); n != 2 {
			t.Errorf("five ran in %v turns of three", n)
		}
		p.settled()
	})
	bubble(t, "too late", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, func(l *proxy.Lane) { l.QueueTimeout = 10 * time.Second })
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		a, took := ingress.after("POST", "/orders/7/0", nil, "")
		a.is(t, "the one that waited", 503, "lane-timeout", "no")
		lateBy(t, "its answer", took, 10*time.Second)
		time.Sleep(100 * time.Millisecond) // less than the ingress leaves to the owner's word
		if n := owner.lanes.Totals()[0].Waiting; n != 0 {
			t.Errorf("%d asks wait for nobody", n)
		}
		x.finish("")
		own()
		p.settled()
	})
}
