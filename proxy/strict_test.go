package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

// strict makes the orders of both nodes strict, and puts carts beside them, which
// differ in nothing but that they are not.
func strict(f func(*proxy.Lane)) change {
	return change{proxy: func(_ int, c *proxy.Config) {
		carts := c.Routes[0]
		carts.Name, carts.Match.Path, carts.Key.Space = "cart", "/carts/{id}/{rest...}", "cart"
		if f != nil {
			f(&carts.Lane)
		}
		c.Routes[0].Lane, c.Routes[0].Lane.Strict = carts.Lane, true
		c.Routes = slices.Insert(c.Routes, 1, carts)
	}}
}

// dials changes how the nodes reach the service, too.
func (ch change) dials(wrap func(dial func(string) (net.Conn, error)) func(string) (net.Conn, error)) change {
	before := ch.proxy
	ch.proxy = func(node int, c *proxy.Config) {
		before(node, c)
		c.Upstreams[0].Dial = wrap(c.Upstreams[0].Dial)
	}
	return ch
}

// patient lanes let requests wait for as long as a test may take.
func patient(l *proxy.Lane) { l.QueueTimeout = 5 * time.Minute }

// renews has the node's lease never end before half of d has passed.
func (m *member) renews(d time.Duration) {
	m.edge.lasts(d)
	go func() { // ends with the pair
		for {
			select {
			case <-time.After(d / 2):
				m.edge.lasts(d)
			case <-m.pair.closing:
				return
			}
		}
	}()
}

// stamp is a time as the service is told it.
func stamp(t time.Time) string {
	return t.UTC().Truncate(time.Millisecond).Format("2006-01-02T15:04:05.000Z")
}

// connections is how often the service was connected to.
func (p *pair) connections() int {
	p.service.mu.Lock()
	defer p.service.mu.Unlock()
	return len(p.service.conns)
}

// Mutants: no fence is sent; it is drawn for shared requests; for best-effort
// ones; each request has the same; it is no decimal number; a client's stays; the
// flag is not sent along, or not read; the owner goes by its own route.
func TestAStrictRequestCarriesItsFence(t *testing.T) {
	forged := http.Header{"Lanekeeper-Fence": {"99", "98"}, "Lanekeeper_fence": {"97"}}
	both(t, "whose it is", strict(nil), nil, func(p *pair, at *member) (said []string) {
		owner := p.nodes[0]
		owner.edge.lasts(time.Hour)
		owner.edge.fences = 1<<62 - 1
		for _, r := range []struct{ method, path, fence string }{
			{"POST", "/orders/7", "4611686018427387904"},
			{"GET", "/orders/7", ""},
			{"PUT", "/orders/7", "4611686018427387905"},
			{"POST", "/carts/7", ""},
			{"DELETE", "/orders/7", "4611686018427387906"},
			{"GET", "/carts/7", ""},
			{"PATCH", "/orders/8", "4611686018427387907"},
			{"HEAD", "/orders/8", ""},
		} {
			_, a := at.async(r.method, r.path, forged.Clone(), "")
			x := p.ran(r.path, owner)
			if got := x.get("Lanekeeper-Fence"); got != r.fence {
				p.t.Errorf("%s %s has the fence %q, want %q", r.method, r.path, got, r.fence)
			}
			if strings.Contains(x.head, "_fence") {
				p.t.Errorf("%s %s: the client's fence stays:\n%s", r.method, r.path, x.head)
			}
			said = append(said, x.head)
			x.finish("")
			said = append(said, told(<-a))
		}
		return said
	})
	for number, fence := range []string{"", "1"} { // whose route is strict
		bubble(t, fmt.Sprintf("only lk-%d is strict", number), func(t *testing.T) {
			p := startPair(t, change{proxy: func(node int, c *proxy.Config) { c.Routes[0].Lane.Strict = node == number }}, nil)
			p.nodes[0].edge.lasts(time.Hour)
			_, a := p.nodes[1].async("POST", "/orders/7", nil, "")
			x := p.ran("/orders/7", p.nodes[0])
			if got := x.get("Lanekeeper-Fence"); got != fence {
				t.Errorf("fence %q, want %q", got, fence)
			}
			x.finish("")
			(<-a).is(t, "forwarded", 200, "", "")
		})
	}
}

// Nothing strict is sent without a lease, and all else is. Mutants: a shared
// request needs none; an exclusive one does not; a lease of no length is one; it is
// looked at when the request comes; carts need one; the answer says that the
// request may have run.
func TestNothingStrictRunsWithoutALease(t *testing.T) {
	for name, end := range map[string]func(*edge){
		"none yet": func(*edge) {},
		"over":     func(e *edge) { e.lasts(time.Second); time.Sleep(2 * time.Second) },
		"just now": func(e *edge) { e.lasts(time.Second); time.Sleep(time.Second) },
	} {
		both(t, name, strict(nil), nil, func(p *pair, at *member) (said []string) {
			owner := p.nodes[0]
			end(owner.edge)
			for _, method := range []string{"POST", "GET", "PUT"} {
				a := at.send(method, "/orders/7", nil, "")
				a.is(p.t, method, 503, "no-owner", "no")
				a.within(p.t, method, 1, 2)
				p.quiet("there is no lease")
				said = append(said, told(a), a.problem.Detail)
			}
			for _, r := range [][2]string{{"POST", "/carts/7"}, {"GET", "/carts/7"}, {"POST", "/other"}} {
				_, a := at.async(r[0], r[1], nil, "")
				x := p.next()
				if x == nil {
					p.t.Fatalf("%s %s does not run", r[0], r[1])
				}
				x.finish("")
				(<-a).is(p.t, r[1], 200, "", "")
			}
			if n := owner.metric("lanekeeper_held_lanes"); n != 0 {
				p.t.Errorf("%v lanes are held", n)
			}
			owner.edge.lasts(time.Hour)
			_, a := at.async("POST", "/orders/7", nil, "")
			p.ran("/orders/7", owner).finish("")
			return append(said, told(<-a))
		})
	}
	both(t, "at its turn", strict(nil), nil, func(p *pair, at *member) (said []string) {
		owner := p.nodes[0]
		owner.edge.lasts(time.Hour)
		_, first := at.async("POST", "/orders/7/0", nil, "")
		_, second := at.async("POST", "/orders/7/1", nil, "")
		_, third := at.async("GET", "/orders/7/2", nil, "")
		x := p.ran("/orders/7/0", owner)
		time.Sleep(time.Second)
		owner.edge.lasts(0)
		x.finish("")
		for i, answers := range []<-chan *answer{second, third} {
			a := <-answers
			a.is(p.t, fmt.Sprint(i+1), 503, "no-owner", "no")
			said = append(said, told(a))
		}
		p.quiet("the lease ended before their turns")
		return append(said, told(<-first))
	})
	both(t, "and then", strict(nil), nil, func(p *pair, at *member) (said []string) {
		owner := p.nodes[0]
		_, first := at.async("POST", "/orders/7/0", nil, "")
		(<-first).is(p.t, "before", 503, "no-owner", "no")
		owner.edge.lasts(time.Minute)
		_, second := at.async("POST", "/orders/7/1", nil, "")
		p.ran("/orders/7/1", owner).finish("")
		return append(said, told(<-second))
	})
}

// Watching refuses nothing, whatever the lane would promise if it were enforced.
// Mutant: what is only watched needs a lease.
func TestAStrictRouteThatOnlyWatches(t *testing.T) {
	both(t, "in a cluster", strict(func(l *proxy.Lane) { l.Mode = proxy.Observe }), nil, func(p *pair, at *member) (said []string) {
		for _, method := range []string{"POST", "GET"} {
			_, a := at.async(method, "/orders/7", nil, "")
			if x := p.next(); x != nil {
				x.finish("")
			}
			(<-a).is(p.t, method, 200, "", "")
		}
		return said
	})
	bubble(t, "alone", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.Routes[0].Lane.Strict, c.Routes[0].Lane.Mode = true, proxy.Observe })
		n.service.handle(func(http.ResponseWriter, *http.Request) {})
		n.send("POST", "/orders/7", nil, "").is(t, "observed", 200, "", "")
	})
}

// What runs outside the lanes of a strict route has no lease to rest on. Mutants: a
// bypass needs one; it ends with one.
func TestABypassOfAStrictRoute(t *testing.T) {
	both(t, "without a lease", strict(nil), nil, func(p *pair, at *member) (said []string) {
		_, a := at.async("OPTIONS", "/orders/7", nil, "")
		if x := p.next(); x != nil {
			x.finish("")
		}
		(<-a).is(p.t, "a bypass", 200, "", "")
		return said
	})
	both(t, "beyond a lease", strict(nil), nil, func(p *pair, at *member) (said []string) {
		for _, n := range p.nodes {
			n.edge.lasts(3 * time.Second)
		}
		_, a := at.async("OPTIONS", "/orders/7", nil, "")
		x := p.ran("/orders/7", at)
		time.Sleep(10 * time.Second) // less than the idle timeout
		x.finish("")
		(<-a).is(p.t, "a bypass", 200, "", "")
		return said
	})
	both(t, "inside its holder's turn", strict(func(l *proxy.Lane) { l.Reentrant = proxy.PassReentry }), nil, func(p *pair, at *member) (said []string) {
		p.nodes[0].renews(3 * time.Second)
		_, outer := at.async("POST", "/orders/7/holder", nil, "")
		x := p.ran("/orders/7/holder", p.nodes[0])
		_, inner := at.async("POST", "/orders/7/inner", http.Header{"Lanekeeper-Ticket": {x.get("Lanekeeper-Ticket")}}, "")
		if y := p.next(); y != nil {
			time.Sleep(10 * time.Second)
			y.finish("")
		}
		(<-inner).is(p.t, "the inner one", 200, "", "")
		x.finish("")
		return append(said, told(<-outer))
	})
}

// What has no lane has no partition that could be lost. Mutant: it is taken for one
// of partition 0.
func TestABypassHasNoPartition(t *testing.T) {
	both(t, "", strict(nil), nil, func(p *pair, at *member) (said []string) {
		for _, n := range p.nodes {
			n.edge.refuse(errors.New("the node lost the partition"))
		}
		for _, r := range [][2]string{{"OPTIONS", "/orders/7"}, {"OPTIONS", "/carts/7"}, {"POST", "/other"}} {
			_, a := at.async(r[0], r[1], nil, "")
			if x := p.next(); x != nil {
				x.finish("")
			}
			(<-a).is(p.t, r[1], 200, "", "")
		}
		return said
	})
}

// The lease is looked at when there is a connection. Mutants: before that; what is
// refused then is said to have run; its connection is in the way of the next.
func TestAStrictRequestThatConnectsTooLong(t *testing.T) {
	slow := strict(nil).dials(func(dial func(string) (net.Conn, error)) func(string) (net.Conn, error) {
		return func(address string) (net.Conn, error) {
			time.Sleep(3 * time.Second)
			return dial(address)
		}
	})
	for _, method := range []string{"POST", "GET"} {
		both(t, method, slow, nil, func(p *pair, at *member) (said []string) {
			owner := p.nodes[0]
			owner.edge.lasts(2 * time.Second)
			a, took := at.after(method, "/orders/7/0", nil, "body")
			a.is(p.t, "the first", 503, "no-owner", "no")
			lateBy(p.t, "no-owner", took, 3*time.Second)
			p.quiet("the lease has ended")
			owner.edge.lasts(time.Hour)
			_, second := at.async(method, "/orders/7/1", nil, "")
			x := p.ran("/orders/7/1", owner)
			if x.number != 0 || p.connections() != 1 { // whose first bytes are these
				p.t.Errorf("it is number %d of its connection, of %d", x.number, p.connections())
			}
			x.finish("")
			return append(said, told(a), a.problem.Detail, told(<-second))
		})
		both(t, method+", renewed meanwhile", slow, nil, func(p *pair, at *member) (said []string) {
			owner := p.nodes[0]
			owner.edge.lasts(2 * time.Second)
			_, a := at.async(method, "/orders/7", nil, "")
			time.Sleep(time.Second)
			owner.edge.lasts(9 * time.Second)
			until := time.Now().Add(9 * time.Second)
			time.Sleep(2 * time.Second)
			x := p.ran("/orders/7", owner)
			if got := x.get("Lanekeeper-Deadline"); got != stamp(until) {
				p.t.Errorf("deadline %s, want that of the lease by now, %s", got, stamp(until))
			}
			x.finish("")
			return append(said, told(<-a))
		})
	}
}

// Mutants: the deadline is the upstream timeout's; it is the lease's although that
// lasts longer; a best-effort request has it too; it is rounded up; a shared one has
// none.
func TestAStrictRequestsDeadline(t *testing.T) {
	both(t, "", strict(nil), nil, func(p *pair, at *member) (said []string) {
		for _, lease := range []time.Duration{5 * time.Second, 5*time.Second + 999*time.Microsecond, time.Hour} {
			for _, r := range [][2]string{{"POST", "/orders/7"}, {"GET", "/orders/7"}, {"POST", "/carts/7"}, {"GET", "/carts/7"}} {
				p.nodes[0].edge.lasts(lease)
				_, a := at.async(r[0], r[1], nil, "")
				x := p.ran(r[1], p.nodes[0])
				want := stamp(time.Now().Add(30 * time.Second))
				if r[1] == "/orders/7" {
					want = stamp(time.Now().Add(min(lease, 30*time.Second)))
				}
				if got := x.get("Lanekeeper-Deadline"); got != want {
					p.t.Errorf("%s %s under a lease of %s: deadline %s, want %s", r[0], r[1], lease, got, want)
				}
				time.Sleep(time.Second)
				x.finish("")
				said = append(said, told(<-a))
			}
		}
		return said
	})
}

// silences are where a service may fall silent, and what it says later.
var silences = []struct{ name, said, then string }{
	{"before its answer", "", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"},
	{"behind an interim one", "HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"},
	{"in its head", "HTTP/1.1 200 OK\r\nContent-Len", "gth: 4\r\n\r\nlate"},
	{"in its body", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nla", "te"},
	{"in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nla", "te\r\n0\r\n\r\n"},
	{"between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nla\r\n", "2\r\nte\r\n0\r\n\r\n"},
}

// A lease that is renewed carries the call on, to the upstream timeout at most.
// Mutants: nobody asks for more time; only once; not for shared requests; the first
// renewal gives all the time that there is; the upstream timeout does not bound it,
// or begins anew (the test hangs); the detail blames the lease.
func TestAStrictCallGoesOnWithItsLease(t *testing.T) {
	for _, s := range silences {
		for _, method := range []string{"POST", "GET"} {
			both(t, method+", silent "+s.name, strict(nil), nil, func(p *pair, at *member) (said []string) {
				p.nodes[0].renews(2 * time.Second)
				_, answers := at.async(method, "/orders/7", nil, "")
				x := p.ran("/orders/7", p.nodes[0])
				x.write("%s", s.said)
				time.Sleep(17 * time.Second)
				x.write("%s", s.then)
				close(x.done)
				a := <-answers
				a.is(p.t, method, 200, "", "")
				if a.body != "late" {
					p.t.Errorf("body %q", a.body)
				}
				return append(said, told(a))
			})
		}
		both(t, "for ever, silent "+s.name, strict(patient), nil, func(p *pair, at *member) (said []string) {
			owner := p.nodes[0]
			owner.renews(2 * time.Second)
			began := time.Now()
			_, answers := at.async("POST", "/orders/7/0", nil, "")
			x := p.ran("/orders/7/0", owner)
			x.write("%s", s.said)
			_, next := at.async("POST", "/orders/7/1", nil, "")
			a := <-answers
			a.is(p.t, "the first", 504, "upstream-timeout", "unknown")
			if took := time.Since(began); took != 30*time.Second {
				p.t.Errorf("504 after %v", took)
			}
			if strings.Contains(a.problem.Detail, "lease") {
				p.t.Errorf("the lease was there: %s", a.problem.Detail)
			}
			time.Sleep(5 * time.Second)
			p.quiet("the lane is held")
			x.write("%s", s.then)
			close(x.done)
			p.ran("/orders/7/1", owner).finish("")
			return append(said, told(a), a.problem.Detail, told(<-next))
		})
	}
	both(t, "twice", strict(nil), nil, func(p *pair, at *member) (said []string) {
		owner := p.nodes[0]
		began := time.Now()
		owner.edge.lasts(3 * time.Second)
		_, answers := at.async("POST", "/orders/7", nil, "")
		x := p.ran("/orders/7", owner)
		for range 2 {
			time.Sleep(2 * time.Second)
			owner.edge.lasts(4 * time.Second)
		}
		a := <-answers
		a.is(p.t, "when it is not renewed any more", 504, "upstream-timeout", "unknown")
		if took := time.Since(began); took != 8*time.Second {
			p.t.Errorf("504 after %v, want the end of the last lease", took)
		}
		x.finish("")
		return append(said, told(a), a.problem.Detail)
	})
}

// A call whose lease ended was given up, which does not stop it: the next of its key
// waits, however good the lease is by then. Mutants: the call goes on (the test
// hangs); it is said not to have run; its lane is free; that of a shared one is; the
// lease's return ends the hold; the hold asks for more time; the detail blames the
// upstream.
func TestAStrictCallIsCutAtItsLeasesEnd(t *testing.T) {
	type end struct {
		name, said string
		then       func(*exchange) // 5 s after the cut
		held       time.Duration
		risked     float64
	}
	ends := []end{
		{"the upstream closes late", "", func(x *exchange) { x.conn.Close() }, 5 * time.Second, 0},
		{"hold_for passes", "", func(*exchange) {}, 20 * time.Second, 1},
	}
	for _, s := range silences {
		ends = append(ends, end{"silent " + s.name, s.said, func(x *exchange) { x.write("%s", s.then) }, 5 * time.Second, 0})
	}
	for _, e := range ends {
		for _, method := range []string{"POST", "GET"} {
			both(t, method+", "+e.name, strict(patient), nil, func(p *pair, at *member) (said []string) {
				owner := p.nodes[0]
				owner.edge.lasts(3 * time.Second)
				began := time.Now()
				_, answers := at.async(method, "/orders/7/0", nil, "")
				x := p.ran("/orders/7/0", owner)
				x.write("%s", e.said)
				_, next := at.async("POST", "/orders/7/1", nil, "")
				a := <-answers
				owner.edge.lasts(time.Hour)
				a.is(p.t, method, 504, "upstream-timeout", "unknown")
				if took := time.Since(began); took != 3*time.Second {
					p.t.Errorf("504 after %v, want the lease's end", took)
				}
				if !strings.Contains(a.problem.Detail, "lease") {
					p.t.Errorf("the detail is silent about the lease: %s", a.problem.Detail)
				}
				p.quiet("the lane is held")
				if n := owner.metric("lanekeeper_held_lanes"); n != 1 {
					p.t.Errorf("%v lanes are held", n)
				}
				if e.held > 5*time.Second {
					time.Sleep(e.held - time.Millisecond)
					p.quiet("the lane is still held")
					time.Sleep(time.Millisecond)
				} else {
					time.Sleep(e.held)
					p.quiet("the lane is still held")
					e.then(x)
				}
				p.ran("/orders/7/1", owner).finish("")
				if n := owner.metric("lanekeeper_hold_expired_total"); n != e.risked {
					p.t.Errorf("hold_expired_total is %v, want %v", n, e.risked)
				}
				return append(said, told(a), a.problem.Detail, told(<-next))
			})
		}
	}
	both(t, "release", strict(func(l *proxy.Lane) { l.AfterTimeout = proxy.Release }), nil, func(p *pair, at *member) (said []string) {
		p.nodes[0].edge.lasts(3 * time.Second)
		_, answers := at.async("POST", "/orders/7/0", nil, "")
		p.ran("/orders/7/0", p.nodes[0])
		_, next := at.async("POST", "/orders/7/1", nil, "")
		a, b := <-answers, <-next
		a.is(p.t, "the first", 504, "upstream-timeout", "unknown")
		b.is(p.t, "the next, at once", 503, "no-owner", "no")
		p.quiet("there is no lease")
		return append(said, told(a), told(b))
	})
}

const large = 3 << 19 // of a body: more than the sockets on the way take

// begin sends a large request to a service that has read its head, and no more.
func begin(p *pair, at *member) (x *exchange, answers <-chan *answer) {
	p.service.head = p.hold
	_, answers = at.async("POST", "/orders/7/0", nil, strings.Repeat("b", large))
	return p.ran("/orders/7/0", p.nodes[0]), answers
}

// take reads the body of a large request.
func (x *exchange) take(t *testing.T) {
	t.Helper()
	if n, err := io.CopyN(io.Discard, x.reader, large); err != nil {
		t.Errorf("%d bytes of the body came: %v", n, err)
	}
}

// Mutants: nobody asks for more time while a body is sent; or nobody needs to; what
// was not sent whole is said not to have run.
func TestAStrictCallWithALargeBody(t *testing.T) {
	both(t, "renewed", strict(nil), nil, func(p *pair, at *member) (said []string) {
		p.nodes[0].renews(2 * time.Second)
		x, answers := begin(p, at)
		time.Sleep(17 * time.Second)
		x.take(p.t)
		time.Sleep(5 * time.Second)
		x.finish("got it")
		a := <-answers
		a.is(p.t, "renewed", 200, "", "")
		return append(said, told(a))
	})
	both(t, "renewed for ever", strict(patient), nil, func(p *pair, at *member) (said []string) {
		p.nodes[0].renews(2 * time.Second)
		began := time.Now()
		x, answers := begin(p, at)
		a := <-answers
		a.is(p.t, "the first", 504, "upstream-timeout", "unknown")
		if took := time.Since(began); took != 30*time.Second {
			p.t.Errorf("504 after %v", took)
		}
		x.conn.Close()
		return append(said, told(a), a.problem.Detail)
	})
	for name, then := range map[string]func(*exchange){
		"it closes":  func(x *exchange) { x.conn.Close() },
		"it answers": func(x *exchange) { x.ok("late") },
		"it reads what has come, and answers": func(x *exchange) {
			x.reader.Discard(large / 10)
			x.ok("late")
		},
	} {
		both(t, "not renewed, until "+name, strict(patient), nil, func(p *pair, at *member) (said []string) {
			owner := p.nodes[0]
			owner.edge.lasts(3 * time.Second)
			began := time.Now()
			x, answers := begin(p, at)
			_, next := at.async("POST", "/orders/7/1", nil, "")
			a := <-answers
			owner.edge.lasts(time.Hour)
			a.is(p.t, "the first", 504, "upstream-timeout", "unknown")
			if took := time.Since(began); took != 3*time.Second {
				p.t.Errorf("504 after %v, want the lease's end", took)
			}
			if !strings.Contains(a.problem.Detail, "lease") {
				p.t.Errorf("the detail is silent about the lease: %s", a.problem.Detail)
			}
			time.Sleep(10 * time.Second)
			p.quiet("the lane is held")
			then(x)
			p.ran("/orders/7/1", owner).finish("")
			return append(said, told(a), a.problem.Detail, told(<-next))
		})
	}
}

// An upstream that refuses a body, and does not read on, is heard all the same.
// Mutant: once the lease has been renewed nobody looks any more.
func TestAnEarlyAnswerToAStrictCall(t *testing.T) {
	for name, lease := range map[string]time.Duration{"long": time.Hour, "renewed": 2 * time.Second} {
		both(t, name, strict(nil), nil, func(p *pair, at *member) (said []string) {
			p.nodes[0].renews(lease)
			x, answers := begin(p, at)
			time.Sleep(10100 * time.Millisecond)
			began := time.Now()
			x.write("HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\nrefused")
			a := <-answers
			a.is(p.t, "refused", 413, "", "")
			lateBy(p.t, "the refusal", time.Since(began), 0)
			return append(said, told(a))
		})
	}
}

// ending delivers how a client sees the end of a response, and when.
func ending(c *client) <-chan string {
	ends := make(chan string, 1)
	began := time.Now()
	go func() {
		end := brokenOff(c, "GET")
		ends <- fmt.Sprintf("%s after %v", end, time.Since(began).Round(10*time.Millisecond))
	}()
	return ends
}

// A response that streams has its lane for as long as its lease lasts. Mutants:
// nobody asks for more time once it streams; its client has only the first lease's
// time to read, here or at the other node; the call is not cut; the lane is free
// when it is; the upstream timeout does not bound it (the test hangs).
func TestAStrictStream(t *testing.T) {
	piece := bytes.Repeat([]byte("x"), 50_000)
	const pieces = 20
	slowly := func(i int) bool { time.Sleep(time.Second); return true }
	for _, framing := range framings {
		for _, version := range []string{"1.1", "1.0"} {
			request := "GET /orders/7 HTTP/" + version + "\r\nHost: a\r\n\r\n"
			name := framing + ", HTTP/" + version
			both(t, name+", renewed", strict(nil), nil, func(p *pair, at *member) (said []string) {
				p.nodes[0].renews(2 * time.Second)
				c := at.open()
				io.WriteString(c.conn, request)
				x := p.ran("/orders/7", p.nodes[0])
				go stream(x, framing, pieces, piece, slowly)
				end := <-ending(c)
				if want := fmt.Sprintf("200, whole, %d bytes, ", pieces*len(piece)); !strings.HasPrefix(end, want) || !strings.HasSuffix(end, " after 20s") {
					p.t.Errorf("the client was told: %s", end)
				}
				close(x.done)
				return append(said, end)
			})
			both(t, name+", not renewed", strict(patient), nil, func(p *pair, at *member) (said []string) {
				owner := p.nodes[0]
				owner.edge.lasts(7500 * time.Millisecond)
				c := at.open()
				io.WriteString(c.conn, request)
				x := p.ran("/orders/7", owner)
				go stream(x, framing, pieces, piece, slowly)
				ends := ending(c)
				_, next := at.async("POST", "/orders/7/next", nil, "")
				end := <-ends
				if version == "1.0" && framing != "length" { // its client cannot be told but by a reset
					end = strings.ReplaceAll(end, "whole, 350000 bytes, close", "broken off")
				}
				if end != "200, broken off after 7.5s" {
					p.t.Errorf("the client was told: %s", end)
				}
				owner.edge.lasts(time.Hour)
				p.quiet("the lane is held")
				time.Sleep(12 * time.Second)
				p.quiet("the upstream is still at work")
				time.Sleep(time.Second)
				p.ran("/orders/7/next", owner).finish("")
				close(x.done)
				return append(said, end, told(<-next))
			})
		}
	}
	both(t, "renewed for ever", strict(patient), nil, func(p *pair, at *member) (said []string) {
		p.nodes[0].renews(2 * time.Second)
		c := at.open()
		io.WriteString(c.conn, "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n")
		x := p.ran("/orders/7", p.nodes[0])
		go stream(x, "length", 100, piece, slowly)
		end := <-ending(c)
		if end != "200, broken off after 30s" {
			p.t.Errorf("the client was told: %s", end)
		}
		x.conn.Close()
		return append(said, end)
	})
	both(t, "its client pauses", strict(patient), nil, func(p *pair, at *member) (said []string) {
		p.nodes[0].renews(2 * time.Second)
		c := at.open()
		io.WriteString(c.conn, "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n")
		x := p.ran("/orders/7", p.nodes[0])
		go stream(x, "length", 100, piece, always)
		_, next := at.async("POST", "/orders/7/next", nil, "")
		time.Sleep(25 * time.Second)
		p.quiet("the client still reads")
		end := <-ending(c)
		if want := fmt.Sprintf("200, whole, %d bytes, length after 0s", 100*len(piece)); end != want {
			p.t.Errorf("the client was told: %s", end)
		}
		close(x.done)
		p.ran("/orders/7/next", p.nodes[0]).finish("")
		return append(said, end, told(<-next))
	})
}

// The rest of a stream whose client has gone has the time that it would have had, as
// without a lease. Mutant: it has only that of the lease as it last was.
func TestAStrictStreamAndItsClient(t *testing.T) {
	for _, path := range []string{"/carts/7", "/orders/7"} { // best effort, strict
		both(t, path, strict(patient), nil, func(p *pair, at *member) (said []string) {
			p.nodes[0].renews(2 * time.Second)
			c := at.open()
			io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n")
			x := p.ran(path, p.nodes[0])
			x.write("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n%s", strings.Repeat("x", 50_000))
			synctest.Wait()
			c.conn.Close()
			_, next := at.async("POST", path+"/next", nil, "")
			for range 3 { // who writes to it sees that it has gone
				time.Sleep(time.Second)
				x.write("%s", strings.Repeat("x", 30_000))
			}
			time.Sleep(25 * time.Second)
			p.quiet("the upstream is still at work, within its timeout")
			x.write("%s", strings.Repeat("x", 60_000))
			close(x.done)
			p.ran(path+"/next", p.nodes[0]).finish("")
			return append(said, told(<-next))
		})
	}
}

// A connection that a strict call has used knows nothing of leases afterwards.
// Mutants: it asks for more time still; every call has the lease's deadline; what is
// refused for its lease loses its connection.
func TestAStrictCallKeepsItsLeaseToItself(t *testing.T) {
	one := change{proxy: func(node int, c *proxy.Config) {
		strict(patient).proxy(node, c)
		c.Upstreams[0].MaxConnections = 1
	}}
	before := map[string]func(p *pair, at *member){
		"an answer": func(p *pair, at *member) {
			_, a := at.async("POST", "/orders/7", nil, "")
			p.ran("/orders/7", p.nodes[0]).finish("")
			(<-a).is(p.t, "the strict one", 200, "", "")
		},
		"a stream": func(p *pair, at *member) {
			c := at.open()
			io.WriteString(c.conn, "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n")
			x := p.ran("/orders/7", p.nodes[0])
			go stream(x, "chunked", 5, bytes.Repeat([]byte("x"), 50_000), always)
			if end := <-ending(c); !strings.HasPrefix(end, "200, whole") {
				p.t.Errorf("the client was told: %s", end)
			}
			close(x.done)
		},
		"a refusal": func(p *pair, at *member) {
			_, a := at.async("POST", "/carts/7", nil, "")
			p.ran("/carts/7", p.nodes[0]).finish("")
			<-a
			p.nodes[0].edge.lasts(0)
			at.send("POST", "/orders/7", nil, "").is(p.t, "the strict one", 503, "no-owner", "no")
		},
	}
	for name, uses := range before {
		bubble(t, name+", and the lease ends", func(t *testing.T) {
			p := startPair(t, one, nil)
			at := p.nodes[0]
			at.edge.lasts(3 * time.Second)
			uses(p, at)
			for _, path := range []string{"/carts/7", "/other"} {
				_, a := at.async("POST", path, nil, "")
				x := p.ran(path, at)
				time.Sleep(10 * time.Second)
				x.finish("")
				(<-a).is(t, path, 200, "", "")
			}
			if n := p.connections(); n != 1 {
				t.Errorf("%d connections were made", n)
			}
		})
		bubble(t, name+", and the lease lasts", func(t *testing.T) {
			p := startPair(t, one, nil)
			at := p.nodes[0]
			at.edge.lasts(24 * time.Hour)
			uses(p, at)
			at.edge.lasts(24 * time.Hour)
			for i, path := range []string{"/other", "/carts/7"} { // idle_timeout, upstream_timeout
				began := time.Now()
				_, answers := at.async("POST", path, nil, "")
				x := p.ran(path, at)
				if i == 0 && x.number == 0 {
					t.Error("it has a connection of its own")
				}
				a := <-answers
				a.is(t, path, 504, "upstream-timeout", "unknown")
				if took, want := time.Since(began), time.Minute>>i; took != want {
					t.Errorf("%s: 504 after %v, want %v", path, took, want)
				}
				x.conn.Close()
				synctest.Wait()
			}
		})
	}
}

// Every attempt needs a lease, and has the time that it has by then. Mutants: only
// the first looks at it; the deadline is the first one's; an exclusive request is
// tried again.
func TestEveryStrictAttemptNeedsALease(t *testing.T) {
	for _, c := range []struct {
		name, method string
		leases       []time.Duration // of the attempts, all but the last of which fail
		looks        int             // at the lease: again for an attempt whose idle connection was closed
		status       int
		slug         string
	}{
		{"it ends", "GET", []time.Duration{4 * time.Second, 0, 0}, 3, 503, "no-owner"},
		{"it ends and returns", "GET", []time.Duration{4 * time.Second, 0, 9 * time.Second}, 4, 200, ""},
		{"it lasts longer", "GET", []time.Duration{4 * time.Second, 6 * time.Second, 9 * time.Second}, 3, 200, ""},
		{"it lasts longer than all", "GET", []time.Duration{4 * time.Second, 6 * time.Second, time.Hour}, 3, 200, ""},
		{"it comes", "GET", []time.Duration{0, 0, 9 * time.Second}, 4, 200, ""},
		{"exclusive", "POST", []time.Duration{4 * time.Second, 6 * time.Second, time.Hour}, 1, 502, "upstream-connect"},
		{"exclusive, without one", "POST", []time.Duration{0, time.Hour, time.Hour}, 1, 503, "no-owner"},
	} {
		var p *pair
		var looks atomic.Int32
		attempts := strict(func(l *proxy.Lane) { l.Retries = 2 }).dials(func(dial func(string) (net.Conn, error)) func(string) (net.Conn, error) {
			return func(address string) (net.Conn, error) {
				conn, err := dial(address)
				if int(looks.Load()) < len(c.leases)-1 {
					conn.Close() // so that not a byte can be sent
				}
				return conn, err
			}
		})
		both(t, c.name, attempts, nil, func(now *pair, at *member) (said []string) {
			p = now
			looks.Store(0)
			p.nodes[0].edge.guard = func() error { // asked before the lease
				n := int(looks.Add(1))
				p.nodes[0].edge.lasts(c.leases[min(n, len(c.leases))-1])
				return nil
			}
			_, answers := at.async(c.method, "/orders/7", nil, "")
			if c.status == 200 {
				x := p.ran("/orders/7", p.nodes[0])
				want := stamp(time.Now().Add(min(c.leases[2], 30*time.Second)))
				if got := x.get("Lanekeeper-Deadline"); got != want {
					p.t.Errorf("deadline %s, want %s", got, want)
				}
				x.finish("")
			}
			a := <-answers
			executed := "no"
			if c.status == 200 {
				executed = ""
			}
			a.is(p.t, c.name, c.status, c.slug, executed)
			p.quiet("there is one request")
			if n := int(looks.Load()); n != c.looks {
				p.t.Errorf("%d looks at the lease, want %d", n, c.looks)
			}
			return append(said, told(a), a.problem.Detail)
		})
	}
}

// Mutants: without a cluster strict means nothing; what runs in no lane is refused.
func TestAStrictRouteNeedsACluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.Routes[0].Lane.Strict = true })
		for _, method := range []string{"POST", "GET", "PUT"} {
			n.send(method, "/orders/7", nil, "").is(t, method, 503, "no-owner", "no")
			if v := n.service.next(); v != nil {
				t.Fatalf("%s runs", method)
			}
		}
		n.service.handle(func(http.ResponseWriter, *http.Request) {})
		n.send("POST", "/else", nil, "").is(t, "another route", 200, "", "")
		n.send("OPTIONS", "/orders/7", nil, "").is(t, "a bypass", 200, "", "")
		n.idle()
	})
}
