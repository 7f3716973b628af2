package proxy_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// spilled is for lanes whose key is spilled once two requests have waited for it, and
// stays so.
func spilled(f func(*proxy.Lane)) func(*proxy.Lane) {
	return func(l *proxy.Lane) {
		patient(l)
		l.MaxDepth = 100
		l.Hot = &queue.HotRule{Depth: 1, For: time.Millisecond, CoolAfter: time.Hour}
		l.Spill, l.Batch, l.Quantum = true, 3, time.Minute
		if f != nil {
			f(l)
		}
	}
}

// spill makes a key hot by requests of the ingress, which run at its owner, and has
// the ingress hear of it with the last answer. The owner's word holds for two seconds.
func (p *pair) spill(path string) {
	p.t.Helper()
	owner, ingress := p.nodes[0], p.nodes[1]
	var answers []<-chan *answer
	for i := range 3 {
		_, a := ingress.async("POST", path, nil, "")
		answers = append(answers, a)
		if i == 1 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	for i, a := range answers {
		p.ran(path, owner).finish("")
		(<-a).is(p.t, fmt.Sprint("before, ", i), 200, "", "")
		if now := ingress.proxy.Spilling(); i == 0 && now.Keys != 0 {
			p.t.Fatalf("the key was not hot, and is spilled: %+v", now)
		}
	}
	if n := ingress.metric("lanekeeper_spilled_total"); n != 0 {
		p.t.Fatalf("%v requests were spilled too early", n)
	}
	if now := ingress.proxy.Spilling(); now.Keys != 1 {
		p.t.Fatalf("the ingress has not heard that the key is hot: %+v", now)
	}
}

// startSpilled runs a pair whose key 7 is spilled.
func startSpilled(t *testing.T, f func(*proxy.Lane)) (p *pair, owner, ingress *member) {
	t.Helper()
	p = startPair(t, lane(spilled(f)), nil)
	p.spill("/orders/7/hot")
	return p, p.nodes[0], p.nodes[1]
}

// cool has the owner forget that a key of nobody is hot.
func (p *pair) cool(path string) {
	n := partition(path)
	p.nodes[0].lanes.Seal(n)
	p.nodes[0].lanes.Open(n)
}

// post sends a request whose place is taken, and expects it to be answered by 200.
func (m *member) post(path string) (check func()) {
	m.t.Helper()
	_, a := m.async("POST", path, nil, "")
	return func() { m.t.Helper(); (<-a).is(m.t, path, 200, "", "") }
}

// settled checks that nothing is left of turns, lent or borrowed, once the owner's last
// word has been forgotten.
func (p *pair) settled() {
	p.t.Helper()
	p.quiet("all have run")
	time.Sleep(10 * time.Second)
	for _, n := range p.nodes {
		if now := n.proxy.Spilling(); now != (proxy.Spilling{}) {
			p.t.Errorf("%s: %+v are left", n.self, now)
		}
		if helping := n.edge.helps(); len(helping) > 0 {
			p.t.Errorf("%s still helps with %q", n.self, helping)
		}
		n.idle()
	}
}

func (e *edge) helps() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.helping)
}

// sum is that of a histogram's values.
func (n *node) sum(name string) (sum float64) {
	n.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(n.proxy.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name {
				sum += m.GetHistogram().GetSampleSum()
			}
		}
	}
	return sum
}

// A hot key's requests run where they came, one after the other, in turns that its
// owner's lane gives in order: of no more than batch requests each.
//
// Mutants: the owner's word is not taken, or given of a key that is not hot; an ask that is
// full is joined; spilled ones are not counted, or counted as this node's own; nor are
// turns; a turn is not given back.
func TestASpilledKeyRunsWhereItsRequestsCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		var checks []func()
		post := func(at *member, n string) { checks = append(checks, at.post("/orders/7/"+n)) }
		post(ingress, "0")
		x := p.ran("/orders/7/0", ingress)
		for _, n := range []string{"1", "2", "3"} { // the batch of one ask
			post(ingress, n)
		}
		post(owner, "own")
		post(ingress, "4")
		if waiting := owner.lanes.Totals()[0].Waiting; waiting != 3 {
			t.Errorf("%d wait at the owner: two asks and its own request should", waiting)
		}
		for i, next := range []struct {
			path string
			by   *member
		}{{"1", ingress}, {"2", ingress}, {"3", ingress}, {"own", owner}, {"4", ingress}} {
			p.quiet("one at a time")
			time.Sleep(100 * time.Millisecond)
			x.finish("")
			checks[i]()
			x = p.ran("/orders/7/"+next.path, next.by)
		}
		x.finish("")
		for _, of := range []struct {
			name string
			at   *member
			want float64
		}{
			{"lanekeeper_spilled_total", ingress, 5}, {"lanekeeper_spilled_total", owner, 0},
			{"lanekeeper_lock_batch_size", ingress, 3}, {"lanekeeper_lock_acquire_seconds", ingress, 3},
			{"lanekeeper_local_total", ingress, 0}, {"lanekeeper_local_total", owner, 1},
			{"lanekeeper_forwarded_total", ingress, 3}, // those before
			{"lanekeeper_lock_lost_total", owner, 0},
		} {
			if n := of.at.metric(of.name); n != of.want {
				t.Errorf("%s of %s is %v, want %v", of.name, of.at.self, n, of.want)
			}
		}
		if n := ingress.sum("lanekeeper_lock_batch_size"); n != 5 {
			t.Errorf("%v requests in all batches", n)
		}
		if n := ingress.metric("lanekeeper_lock_acquire_seconds", "backend", "owner", "result", "ok"); n != 3 {
			t.Errorf("%v turns were had", n)
		}
		// The first was had at once, the second after a request, the third after four more.
		if n := ingress.sum("lanekeeper_lock_acquire_seconds"); n < 0.59 || n > 0.61 {
			t.Errorf("they were waited for for %v s", n)
		}
		p.settled()
	})
}

// The last request of a turn begins before quantum is over.
//
// Mutants: no quantum; it counts from the ask; the owner's word does not outlast the turn
// that it came with, so what is left of that goes onward.
func TestATurnEndsWithItsQuantum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, owner, ingress := startSpilled(t, func(l *proxy.Lane) { l.Batch, l.Quantum = 10, 3*time.Second })
		checks := []func(){ingress.post("/orders/7/0")}
		for i := range 4 {
			checks = append(checks, ingress.post(fmt.Sprint("/orders/7/", i+1)))
		}
		checks = append(checks, owner.post("/orders/7/own"))
		for _, next := range []struct {
			path string
			by   *member
			took time.Duration
		}{
			{"0", ingress, 4 * time.Second}, {"1", ingress, 2 * time.Second}, {"2", ingress, 2 * time.Second},
			{"own", owner, time.Second}, {"3", ingress, 2900 * time.Millisecond}, {"4", ingress, time.Second},
		} {
			x := p.ran("/orders/7/"+next.path, next.by)
			time.Sleep(next.took)
			x.finish("")
		}
		for _, check := range checks {
			check()
		}
		p.settled()
	})
}

// What passes by directly stands behind what was asked for before, and before what is
// asked for after it. What comes while others wait stands behind them, whatever it is.
//
// Mutants: a shared request passes those that wait here; it does not bar: a later one
// runs in the turn that is open, or in one that was asked for before; shared requests
// ask for turns when none waits; those that stand behind others run beside each other,
// without their order.
func TestSharedRequestsKeepTheirPlaceInASpilledKey(t *testing.T) {
	gone := func(t *testing.T, c *client) {
		t.Helper()
		c.conn.Close()
		time.Sleep(300 * time.Millisecond)
	}
	bubble(t, "a turn that was asked for", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		c, _ := ingress.async("POST", "/orders/7/gone", nil, "")
		gone(t, c)
		_, read := ingress.async("GET", "/orders/7/read", nil, "")
		after := ingress.post("/orders/7/after")
		var behind []<-chan *answer
		for i := range 2 {
			_, a := ingress.async("GET", fmt.Sprint("/orders/7/behind", i), nil, "")
			behind = append(behind, a)
		}
		x.finish("")
		p.ran("/orders/7/read", owner).finish("")
		p.ran("/orders/7/after", ingress).finish("")
		for i, a := range behind {
			x := p.ran(fmt.Sprint("/orders/7/behind", i), ingress)
			p.quiet("one at a time")
			x.finish("")
			(<-a).is(t, "one behind", 200, "", "")
		}
		own()
		after()
		(<-read).is(t, "the read", 200, "", "")
		p.settled()
	})
	bubble(t, "a turn that is open", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		first := ingress.post("/orders/7/first")
		c, _ := ingress.async("POST", "/orders/7/gone", nil, "")
		x.finish("")
		x = p.ran("/orders/7/first", ingress)
		gone(t, c)
		_, read := ingress.async("GET", "/orders/7/read", nil, "")
		after := ingress.post("/orders/7/after")
		x.finish("")
		p.ran("/orders/7/read", owner).finish("")
		p.ran("/orders/7/after", ingress).finish("")
		own()
		first()
		after()
		(<-read).is(t, "the read", 200, "", "")
		p.settled()
	})
	bubble(t, "beside each other", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		for range 2 {
			_, a := ingress.async("GET", "/orders/7/read", nil, "")
			defer func() { (<-a).is(t, "a read", 200, "", "") }()
		}
		x, y := p.ran("/orders/7/read", owner), p.ran("/orders/7/read", owner)
		x.finish("")
		y.finish("")
	})
}

var errTest = errors.New("a test")

// A key that is no longer spilled has those that wait go to its owner, in order, at once
// and by the tickets that they have.
//
// Mutants: nobody wakes them; the owner's word lasts for ever; they get new tickets.
func TestWhatWaitsGoesOnwardWhenTheKeyCools(t *testing.T) {
	bubble(t, "after a turn", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, func(l *proxy.Lane) { l.Batch, l.Quantum, l.ClientGone = 10, time.Second, proxy.Run })
		p.cool("/orders/7")
		x0 := ingress.post("/orders/7/0")
		x := p.ran("/orders/7/0", ingress)
		checks := []func(){x0}
		for i := range 4 { // one ask
			checks = append(checks, ingress.post(fmt.Sprint("/orders/7/", i+1)))
		}
		x.finish("")
		x = p.ran("/orders/7/1", ingress)
		time.Sleep(3 * time.Second) // longer than quantum, and than the owner's word
		place, _ := ingress.lanes.Lane(queue.Aside, []byte("order:7"))
		x.finish("")
		for i := range 3 {
			x := p.ran(fmt.Sprint("/orders/7/", i+2), owner)
			if ticket := place.Tickets[i+1].ID.String(); x.get("Lanekeeper-Ticket") != ticket {
				t.Errorf("it had the ticket %s, and has %s", ticket, x.get("Lanekeeper-Ticket"))
			}
			if i == 0 {
				checks = append(checks, ingress.post("/orders/7/5"))
			}
			p.quiet("one at a time")
			x.finish("")
		}
		p.ran("/orders/7/5", owner).finish("")
		for _, check := range checks {
			check()
		}
		p.settled()
	})
	bubble(t, "after asks that failed", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, func(l *proxy.Lane) { l.ClientGone = proxy.Run })
		owner.edge.refuse(errTest)
		p.cool("/orders/7")
		check := ingress.post("/orders/7/0")
		time.Sleep(1900 * time.Millisecond)
		if now := ingress.proxy.Spilling(); now.Waiting != 1 {
			t.Errorf("%+v, within the owner's word", now)
		}
		owner.edge.refuse(nil)
		time.Sleep(300 * time.Millisecond)
		x := p.next()
		if x == nil {
			t.Fatal("nobody has it run")
		}
		x.finish("")
		check()
		p.settled()
	})
	bubble(t, "when nothing waits", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		time.Sleep(2 * time.Second)
		check := ingress.post("/orders/7/0")
		p.ran("/orders/7/0", owner).finish("")
		check()
		check = ingress.post("/orders/7/1") // it is hot still
		p.ran("/orders/7/1", ingress).finish("")
		check()
		p.settled()
	})
}

// What waits at the ingress counts at the owner, once, when it looks whether a key is hot.
//
// Mutants: the ask does not say it, or the owner does not hear it; what joined an ask is
// forgotten; what was said is said again.
func TestTheOwnerKnowsWhatWaitsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		var answers []<-chan *answer
		for i := range 7 { // asks for 0 to 2, for 3 to 5, and for 6
			_, a := ingress.async("POST", fmt.Sprint("/orders/7/", i), nil, "0123456789")
			answers = append(answers, a)
		}
		hot := owner.lanes.Hot()
		if want := 3*len("order:7") + 7*10; len(hot) != 1 || hot[0].Depth != 7 || hot[0].Bytes != want {
			t.Errorf("the owner knows of %+v, want 7 requests and %d bytes", hot, want)
		}
		x.finish("")
		own()
		for i, a := range answers {
			p.ran(fmt.Sprint("/orders/7/", i), ingress).finish("")
			(<-a).is(t, fmt.Sprint(i), 200, "", "")
		}
		p.settled()
	})
}

// What a turn has been asked for keeps its place in the owner's lane, however long ago
// the owner has said that the key is hot. (TestATurnEndsWithItsQuantum sees it, too.)
//
// Mutants: it goes onward, behind what came later; what the owner says with a turn is not
// believed.
func TestAnAskKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		checks := []func(){owner.post("/orders/7/own"), ingress.post("/orders/7/0"), ingress.post("/orders/7/1"), owner.post("/orders/7/late")}
		x := p.ran("/orders/7/own", owner)
		time.Sleep(20 * time.Second)
		x.finish("")
		p.ran("/orders/7/0", ingress).finish("")
		x = p.ran("/orders/7/1", ingress)
		checks = append(checks, ingress.post("/orders/7/2")) // the turn came with newer word
		x.finish("")
		p.ran("/orders/7/late", owner).finish("")
		p.ran("/orders/7/2", ingress).finish("")
		for _, check := range checks {
			check()
		}
		p.settled()
	})
}

// A request that was to be sent when the owner's word came waits here all the same.
//
// Mutants: only a request that comes is kept; it is counted as one that was forwarded.
func TestARequestIsKeptBeforeItIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, lane(spilled(nil)), nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		checks := []func(){ingress.post("/orders/7/0"), ingress.post("/orders/7/1")}
		time.Sleep(2 * time.Millisecond)
		checks = append(checks, ingress.post("/orders/7/2"))
		gate := make(chan struct{})
		ingress.edge.mu.Lock()
		ingress.edge.gate = gate
		ingress.edge.mu.Unlock()
		checks = append(checks, ingress.post("/orders/7/3"))
		for i := range 3 {
			p.ran(fmt.Sprint("/orders/7/", i), owner).finish("")
		}
		close(gate)
		p.ran("/orders/7/3", ingress).finish("")
		for _, check := range checks {
			check()
		}
		if n := ingress.metric("lanekeeper_forwarded_total"); n != 3 {
			t.Errorf("%v were forwarded, want 3", n)
		}
		p.settled()
	})
}

// What becomes of a request that runs at the ingress is its turn's affair: a lane whose
// service may still be at work is held, wherever the request came in.
//
// Mutant: the turn ends with the answer.
func TestATimeoutInALentTurn(t *testing.T) {
	for name, test := range map[string]struct {
		policy proxy.AfterTimeout
		answer time.Duration // of the service, since the request came; 0: none
		free   time.Duration
	}{
		"hold":     {proxy.Hold, 0, 50 * time.Second},
		"answered": {proxy.Hold, 40 * time.Second, 40 * time.Second},
		"release":  {proxy.Release, 0, 30 * time.Second},
	} {
		bubble(t, name, func(t *testing.T) {
			p, owner, ingress := startSpilled(t, func(l *proxy.Lane) { l.AfterTimeout = test.policy })
			began := time.Now()
			_, late := ingress.async("POST", "/orders/7/late", nil, "")
			x := p.ran("/orders/7/late", ingress)
			own, next := owner.post("/orders/7/own"), ingress.post("/orders/7/next")
			(<-late).is(t, "the late one", 504, "upstream-timeout", "unknown")
			lateBy(t, "its answer", time.Since(began), 30*time.Second)
			if test.answer > 0 {
				p.quiet("the lane is held")
				time.Sleep(test.answer - time.Since(began))
				x.finish("")
			}
			x = p.awaits("/orders/7/own")
			lateBy(t, "the owner's own", time.Since(began), test.free)
			x.finish("")
			p.ran("/orders/7/next", ingress).finish("")
			own()
			next()
			p.settled()
		})
	}
}

// Who loses patience, or its client, while it waits at the ingress is answered, or is
// not, and does not run; the next one goes on.
//
// Mutants: nobody looks at the clock, or at the client, of the first one; its place is
// not given back; the client is not looked at when its turn has come.
func TestWhoLeavesWhileItWaitsForATurn(t *testing.T) {
	for name, first := range map[string]bool{"first": true, "second": false} {
		begin := func(t *testing.T) (p *pair, x *exchange, own func()) {
			p, owner, ingress := startSpilled(t, nil)
			if first {
				own = owner.post("/orders/7/own")
				return p, p.ran("/orders/7/own", owner), own
			}
			own = ingress.post("/orders/7/own")
			return p, p.ran("/orders/7/own", ingress), own
		}
		bubble(t, name+", patience", func(t *testing.T) {
			p, x, own := begin(t)
			ingress, began := p.nodes[1], time.Now()
			_, a := ingress.async("POST", "/orders/7/short", http.Header{"Prefer": {"wait=3"}}, "")
			next := ingress.post("/orders/7/next")
			(<-a).is(t, "the one without patience", 503, "lane-timeout", "no")
			lateBy(t, "its answer", time.Since(began), 3*time.Second)
			x.finish("")
			p.ran("/orders/7/next", ingress).finish("")
			own()
			next()
			p.settled()
		})
		bubble(t, name+", client", func(t *testing.T) {
			p, x, own := begin(t)
			ingress := p.nodes[1]
			c, _ := ingress.async("POST", "/orders/7/gone", nil, "")
			d, _ := ingress.async("POST", "/orders/7/gone", nil, "")
			next := ingress.post("/orders/7/next")
			c.conn.Close()
			time.Sleep(3 * time.Second)
			if now := ingress.proxy.Spilling(); now.Waiting != 2 {
				t.Errorf("%+v after a client has gone", now)
			}
			d.conn.Close() // a moment before its turn
			synctest.Wait()
			x.finish("")
			p.ran("/orders/7/next", ingress).finish("")
			own()
			next()
			if n := ingress.metric("lanekeeper_client_gone_total"); n != 2 {
				t.Errorf("%v clients have gone", n)
			}
			p.settled()
		})
	}
	bubble(t, "and nobody is left", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		_, a := ingress.async("POST", "/orders/7/short", http.Header{"Prefer": {"wait=1"}}, "")
		(<-a).is(t, "the one without patience", 503, "lane-timeout", "no")
		late := owner.post("/orders/7/late")
		x.finish("")
		p.ran("/orders/7/late", owner).finish("")
		own()
		late()
		if n := ingress.sum("lanekeeper_lock_batch_size"); n != 0 {
			t.Errorf("%v ran in the turn", n)
		}
		p.settled()
	})
}

// An operator takes out what waits for a turn, whether it looks for one or waits behind the
// one that does; what runs in one cannot be taken back.
//
// Mutants: the first is not told; one that runs is cancelled; one that was cancelled once
// counts as waiting still; a stranger's ticket is found.
func TestWhatWaitsForATurnIsCancelled(t *testing.T) {
	bubble(t, "all", func(t *testing.T) {
		p, _, ingress := startSpilled(t, nil)
		own := ingress.post("/orders/7/own")
		x := p.ran("/orders/7/own", ingress)
		var answers []<-chan *answer
		for range 3 {
			_, a := ingress.async("POST", "/orders/7/cancelled", nil, "")
			answers = append(answers, a)
			synctest.Wait()
		}
		key := []byte("order:7")
		tickets := func() (ids []queue.ID) {
			lane, _ := ingress.lanes.Lane(queue.Aside, key)
			for _, p := range lane.Tickets {
				ids = append(ids, p.ID)
			}
			return ids
		}
		all := tickets()
		if len(all) != 4 {
			t.Fatalf("%d wait here or run", len(all))
		}
		if err := ingress.proxy.CancelAside(key, all[0]); !errors.Is(err, queue.ErrRuns) {
			t.Errorf("what runs: %v", err)
		}
		if err := ingress.proxy.CancelAside(key, queue.ID{1}); !errors.Is(err, queue.ErrNoTicket) {
			t.Errorf("a stranger: %v", err)
		}
		if err := ingress.proxy.CancelAside(key, all[2]); err != nil {
			t.Errorf("one in the middle: %v", err)
		}
		(<-answers[1]).is(t, "the one in the middle", 503, "lane-cancelled", "no")
		x.finish("")
		own()
		time.Sleep(time.Second)
		x = p.ran("/orders/7/cancelled", ingress)
		if err := ingress.proxy.CancelAside(key, all[1]); !errors.Is(err, queue.ErrRuns) {
			t.Errorf("the next one, which runs: %v", err)
		}
		x.finish("")
		p.ran("/orders/7/cancelled", ingress).finish("")
		<-answers[0]
		<-answers[2]
		p.settled()
	})
	bubble(t, "the first", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own") // so that no turn is lent
		x := p.ran("/orders/7/own", owner)
		_, first := ingress.async("POST", "/orders/7/first", nil, "")
		synctest.Wait()
		next := ingress.post("/orders/7/next")
		synctest.Wait()
		lane, _ := ingress.lanes.Lane(queue.Aside, []byte("order:7"))
		if err := ingress.proxy.CancelAside([]byte("order:7"), lane.Tickets[0].ID); err != nil {
			t.Fatal(err)
		}
		(<-first).is(t, "the first", 503, "lane-cancelled", "no")
		if now := ingress.proxy.Spilling(); now.Waiting != 1 {
			t.Errorf("%+v after the first is gone", now)
		}
		x.finish("")
		p.ran("/orders/7/next", ingress).finish("")
		own()
		next()
		p.settled()
	})
}

// What asks for a turn that its caller has is refused at once, as long as that lasts.
//
// Mutants: only those are refused that would wait here; the ticket is never forgotten.
func TestReentryInALentTurn(t *testing.T) {
	for _, method := range []string{"POST", "GET"} {
		for name, pause := range map[string]time.Duration{"hot": 0, "cooled": 5 * time.Second} {
			bubble(t, method+", "+name, func(t *testing.T) {
				p, owner, ingress := startSpilled(t, nil)
				outer := ingress.post("/orders/7/outer")
				x := p.ran("/orders/7/outer", ingress)
				time.Sleep(pause)
				ticket := http.Header{"Lanekeeper-Ticket": {x.get("Lanekeeper-Ticket")}}
				a, took := ingress.after(method, "/orders/7/inner", ticket.Clone(), "")
				a.is(t, "the inner one", 508, "reentrant-lane", "no")
				lateBy(t, "its answer", took, 0)
				x.finish("")
				outer()
				_, again := ingress.async(method, "/orders/7/again", ticket.Clone(), "")
				x = p.next()
				if at := map[string]*member{"POST": ingress, "GET": owner}[method]; x == nil || x.by() != at.self.Name {
					t.Fatal("a ticket of the past has no turn")
				}
				x.finish("")
				(<-again).is(t, "the one with an old ticket", 200, "", "")
				p.settled()
			})
		}
	}
}

// A node that is to end has those of others answer what waits here, in order.
//
// Mutants: they wait on; newcomers are spilled again; they are spilled no more when it
// does not end after all; EvictSpilled tells nobody, or lets one begin in the turn that is
// open, or go onward.
func TestANodeThatEndsSpillsNoMore(t *testing.T) {
	begin := func(t *testing.T) (p *pair, x *exchange, checks []func()) {
		p, owner, ingress := startSpilled(t, nil)
		checks = append(checks, owner.post("/orders/7/own"))
		x = p.ran("/orders/7/own", owner)
		for i := range 5 {
			checks = append(checks, ingress.post(fmt.Sprint("/orders/7/", i)))
		}
		return p, x, checks
	}
	bubble(t, "gives up", func(t *testing.T) {
		p, x, checks := begin(t)
		owner, ingress := p.nodes[0], p.nodes[1]
		ingress.proxy.Spill(false)
		checks = append(checks, ingress.post("/orders/7/5"))
		if now := ingress.proxy.Spilling(); now.Waiting != 0 {
			t.Errorf("%+v", now)
		}
		for i := range 6 {
			x.finish("")
			x = p.ran(fmt.Sprint("/orders/7/", i), owner)
			p.quiet("one at a time")
		}
		x.finish("")
		for _, check := range checks {
			check()
		}
		ingress.proxy.Spill(true)
		check := ingress.post("/orders/7/6")
		p.ran("/orders/7/6", ingress).finish("")
		check()
		p.settled()
	})
	bubble(t, "gives up in a turn", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		checks := []func(){own, ingress.post("/orders/7/0"), ingress.post("/orders/7/1"), ingress.post("/orders/7/2"), ingress.post("/orders/7/3")}
		x.finish("")
		x = p.ran("/orders/7/0", ingress)
		ingress.proxy.Spill(false)
		for i, by := range []*member{ingress, ingress, owner} { // what the turn is for still runs in it
			x.finish("")
			x = p.ran(fmt.Sprint("/orders/7/", i+1), by)
		}
		x.finish("")
		for _, check := range checks {
			check()
		}
		p.settled()
	})
	bubble(t, "evicts", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		var answers []<-chan *answer
		for i := range 5 {
			_, a := ingress.async("POST", fmt.Sprint("/orders/7/", i), nil, "")
			answers = append(answers, a)
		}
		ingress.proxy.EvictSpilled()
		ingress.proxy.EvictSpilled() // may be called twice
		for i, a := range answers {
			(<-a).is(t, fmt.Sprint(i), 503, "draining", "no")
		}
		check := ingress.post("/orders/7/5")
		x.finish("")
		p.ran("/orders/7/5", owner).finish("")
		own()
		check()
	})
	bubble(t, "evicts in a turn", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		check := ingress.post("/orders/7/0")
		_, a := ingress.async("POST", "/orders/7/1", nil, "")
		x.finish("")
		own()
		x = p.ran("/orders/7/0", ingress)
		for _, retiring := range []bool{false, true} {
			ingress.proxy.Spill(!retiring)
			ingress.proxy.EvictSpilled()
		}
		x.finish("")
		check()
		(<-a).is(t, "the one behind", 503, "draining", "no")
		p.quiet("it was evicted")
	})
}

// Mutants: a turn that is lent is kept when the node stops, or lent after that.
func TestStopEndsWhatIsAskedFor(t *testing.T) {
	bubble(t, "of the owner", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, func(l *proxy.Lane) { l.Batch = 1 })
		check := ingress.post("/orders/7/0")
		x := p.ran("/orders/7/0", ingress)
		ingress.async("POST", "/orders/7/1", nil, "")
		if now := owner.lanes.Totals()[0]; now.Running != 1 || now.Waiting != 1 {
			t.Errorf("%+v at the owner", now)
		}
		owner.stop() // which looks whether something is left
		if now := owner.proxy.Spilling(); now.Lent != 0 {
			t.Errorf("%+v", now)
		}
		x.finish("")
		check()
		ingress.proxy.EvictSpilled()
	})
	bubble(t, "of the ingress", func(t *testing.T) {
		p, owner, ingress := startSpilled(t, nil)
		own := owner.post("/orders/7/own")
		x := p.ran("/orders/7/own", owner)
		for i := range 5 {
			c, _ := ingress.async("POST", fmt.Sprint("/orders/7/", i), nil, "")
			defer c.conn.Close()
		}
		ingress.proxy.EvictSpilled()
		ingress.stop()
		p.view(owner)
		late := owner.post("/orders/7/late")
		x.finish("")
		p.ran("/orders/7/late", owner).finish("")
		own()
		late()
	})
}

// Whatever happens to clients, connections and owners at once, keys that are spilled and
// cool again keep what all keys keep: see TestNothingGetsMixedUp. And nothing is left.
func TestSpilledKeysInTurmoil(t *testing.T) {
	var ran, cut, onward float64
	for seed := range uint64(20) {
		bubble(t, fmt.Sprint(seed), func(t *testing.T) {
			s := newTurmoil(t, seed)
			s.slow = 20
			batch, quantum, cool := 1+s.number(8), s.pause(50*time.Millisecond), s.pause(500*time.Millisecond)
			skips := proxy.ClientGone(s.number(2))
			p := startPair(t, change{proxy: func(_ int, c *proxy.Config) {
				l := &c.Routes[0].Lane
				spilled(nil)(l)
				l.QueueTimeout, l.MaxShared, l.ClientGone, l.Batch, l.Quantum, l.Hot.CoolAfter = 4*time.Second, 3, skips, batch, quantum, cool
			}, lag: func() time.Duration { return s.pause(3 * time.Millisecond) }}, s.answer)
			var clients sync.WaitGroup
			for i := range 12 {
				clients.Go(func() { s.client(p, fmt.Sprintf("c%d", i), 25) })
			}
			s.trouble(p, &clients, func() time.Duration {
				if s.number(3) == 0 {
					return s.pause(6 * time.Second) // longer than a turn is lent for
				}
				return s.pause(200 * time.Millisecond)
			})
			time.Sleep(time.Minute)
			p.settled()
			for _, n := range p.nodes {
				if all, batches := n.metric("lanekeeper_spilled_total"), n.sum("lanekeeper_lock_batch_size"); all != batches {
					t.Errorf("%s: %v were spilled, and %v ran in turns", n.self, all, batches)
				}
				ran += n.metric("lanekeeper_spilled_total")
				cut += n.metric("lanekeeper_rejected_total", "reason", "upstream-timeout")
				onward += n.metric("lanekeeper_forwarded_total", "result", "response")
			}
		})
	}
	if t.Logf("%v ran in turns, %v of them were cut off, %v ran at the owner", ran, cut, onward); ran < 200 || onward < 200 || cut == 0 {
		t.Error("too little happened")
	}
}
