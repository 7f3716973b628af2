package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

// unknowns are what the nodes of a pair tell.
type unknowns struct {
	mu   sync.Mutex // guards told
	told [2][]proxy.Unknown
}

// hears has the pair's nodes tell, after other changes.
func (u *unknowns) hears(more change) change {
	others := more.proxy
	more.proxy = func(node int, c *proxy.Config) {
		if others != nil {
			others(node, c)
		}
		c.Unknowns = func(of *proxy.Unknown) {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.told[node] = append(u.told[node], *of)
		}
	}
	return more
}

// of is what a node has told so far, and counted.
func (u *unknowns) of(t *testing.T, p *pair, node int) []proxy.Unknown {
	t.Helper()
	synctest.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	if counted := int(p.nodes[node].metric("lanekeeper_unknown_total", "route", "order")); counted != len(u.told[node]) {
		t.Errorf("%s told of %d and counted %d", p.nodes[node].self, len(u.told[node]), counted)
	}
	return u.told[node]
}

// Whatever leaves a request's outcome unknown leaves one record of it: at the node that
// ran it, whichever accepted it, with what a person needs to find out.
//
// Mutants: the ingress tells of what the owner told; finish does not tell; a stream that
// breaks off is not told of, or is a lost peer; a panic in a forwarded turn is not told
// of; the head is looked at after the answer; bytes are not counted, or nothing is said
// of when they were sent; the ingress's name is left out.
func TestAnUnknownOutcomeIsToldOfOnce(t *testing.T) {
	const posted, streamed = 0, 200 // status of an answer that had begun
	for _, test := range []struct {
		name, slug, detail string
		status             int
		change             change
		run                func(p *pair, at *member)
	}{
		{"reset", "upstream-reset", "closed the connection before", posted, change{}, func(p *pair, at *member) {
			_, a := at.async("POST", "/orders/a%2F7", nil, "body")
			p.ran("/orders/a%2F7", p.nodes[0]).conn.Close()
			(<-a).is(p.t, "the answer", 502, "upstream-reset", "unknown")
		}},
		{"invalid", "upstream-invalid", "http://app", posted, change{}, func(p *pair, at *member) {
			_, a := at.async("POST", "/orders/a%2F7", nil, "body")
			x := p.ran("/orders/a%2F7", p.nodes[0])
			x.write("what?\r\n\r\n")
			(<-a).is(p.t, "the answer", 502, "upstream-invalid", "unknown")
			x.conn.Close()
		}},
		{"timeout", "upstream-timeout", "did not answer in 30s", posted, change{}, func(p *pair, at *member) {
			_, a := at.async("POST", "/orders/a%2F7", nil, "body")
			x := p.ran("/orders/a%2F7", p.nodes[0])
			(<-a).is(p.t, "the answer", 504, "upstream-timeout", "unknown")
			x.finish("late") // which changes nothing
		}},
		{"panic", "internal-error", "in the log", posted, change{proxy: func(_ int, c *proxy.Config) {
			reach := c.Upstreams[0].Dial
			c.Upstreams[0].Dial = func(address string) (net.Conn, error) {
				conn, err := reach(address)
				return brokenConn{conn}, err
			}
		}}, func(p *pair, at *member) {
			p.panics = true
			at.send("POST", "/orders/a%2F7", nil, "body").is(p.t, "the answer", 500, "internal-error", "unknown")
		}},
		{"a stream breaks off", "upstream-reset", "broke off", streamed, change{}, func(p *pair, at *member) {
			c := at.open()
			c.write("POST", "/orders/a%2F7", nil, "body")
			x := p.ran("/orders/a%2F7", p.nodes[0])
			go stream(x, "length", 20, bytes.Repeat([]byte("x"), 50_000), func(i int) bool {
				if i == 10 {
					x.conn.Close()
				}
				return i < 10
			})
			if end := brokenOff(c, "POST"); end != "200, broken off" {
				p.t.Errorf("the client was told: %s", end)
			}
		}},
		{"a stream stalls", "upstream-timeout", "broke off", streamed, change{}, func(p *pair, at *member) {
			c := at.open()
			c.write("POST", "/orders/a%2F7", nil, "body")
			x := p.ran("/orders/a%2F7", p.nodes[0])
			go stream(x, "chunked", 20, bytes.Repeat([]byte("x"), 50_000), func(i int) bool { return i < 10 })
			if end := brokenOff(c, "POST"); end != "200, broken off" {
				p.t.Errorf("the client was told: %s", end)
			}
			x.conn.Close()
		}},
	} {
		for at, where := range [2]string{"local", "forwarded"} {
			bubble(t, test.name+", "+where, func(t *testing.T) {
				u := new(unknowns)
				p := startPair(t, u.hears(test.change), nil)
				began := time.Now()
				test.run(p, p.nodes[at])
				told := u.of(t, p, 0)
				if len(told) != 1 {
					t.Fatalf("the owner told %+v", told)
				}
				if more := u.of(t, p, 1); at == 1 && test.status == streamed {
					// It cannot know whether its owner, or the way there, broke off.
					if len(more) != 1 || more[0].Slug != "peer-lost" || more[0].Ticket != told[0].Ticket || more[0].Client != "203.0.113.9" || more[0].Owner != "lk-0" {
						t.Errorf("the ingress told %+v", more)
					}
				} else if len(more) != 0 {
					t.Errorf("the ingress told %+v", more)
				}
				have := told[0]
				if have.Ticket.IsZero() || !strings.Contains(have.Detail, test.detail) || have.Arrived.Before(began) || have.Dispatched.Before(have.Arrived) || have.Ended.Before(have.Dispatched) {
					t.Errorf("got %+v", have)
				}
				sent := have.Sent
				if test.name == "panic" { // before a byte was written
					sent++
				}
				if sent < 1 {
					t.Errorf("sent %d bytes", have.Sent)
				}
				want := proxy.Unknown{
					Space: "order", Key: "a/7", Route: "order", Method: "POST", Node: "lk-0", Owner: "lk-0",
					Upstream: "app", Target: "http://app", Slug: test.slug, Status: test.status, Client: "203.0.113.9",
				}
				if at == 1 {
					want.Client, want.Ingress = "", "lk-1"
				}
				have.Ticket, have.Detail, have.Arrived, have.Dispatched, have.Sent, have.Ended = want.Ticket, "", time.Time{}, time.Time{}, 0, time.Time{}
				if have != want {
					t.Errorf("got  %+v\nwant %+v", have, want)
				}
			})
		}
	}
}

// An ingress tells of what was lost on the way, and of nothing that it knows was not
// executed. If the owner runs the request, and has something to tell of it as well, that
// is of the same ticket.
//
// Mutants: a lost peer is not told of; the ingress takes every answer of another node for
// told.
func TestALostOwnerIsToldOfByTheIngress(t *testing.T) {
	bubble(t, "lost", func(t *testing.T) {
		u := new(unknowns)
		p := startPair(t, u.hears(change{}), nil)
		_, a := p.nodes[1].async("PUT", "/orders/7", nil, "body")
		x := p.ran("/orders/7", p.nodes[0])
		p.sever()
		p.view() // each takes the other for dead
		(<-a).is(t, "the request", 502, "peer-lost", "unknown")
		told := u.of(t, p, 1)
		if len(told) != 1 || told[0].Slug != "peer-lost" || told[0].Node != "lk-1" || told[0].Owner != "lk-0" || told[0].Method != "PUT" ||
			told[0].Client != "203.0.113.9" || !told[0].Dispatched.IsZero() || told[0].Sent != 0 || told[0].Target != "" || told[0].Upstream != "app" {
			t.Errorf("the ingress told %+v", told)
		}
		if more := u.of(t, p, 0); len(more) != 0 {
			t.Errorf("the owner told %+v before its call ended", more)
		}
		x.conn.Close()
		if more := u.of(t, p, 0); len(more) != 1 || more[0].Slug != "upstream-reset" || more[0].Ticket != told[0].Ticket {
			t.Errorf("the owner told %+v", more)
		}
	})
	bubble(t, "silent", func(t *testing.T) {
		u := new(unknowns)
		p := startPair(t, u.hears(change{}), nil)
		_, a := p.nodes[1].async("POST", "/orders/7", nil, "")
		x := p.ran("/orders/7", p.nodes[0])
		p.sever()
		(<-a).is(t, "the request", 502, "peer-lost", "unknown")
		if told := u.of(t, p, 1); len(told) != 1 || told[0].Owner != "" {
			t.Errorf("the ingress told %+v", told)
		}
		p.heal()
		x.finish("")
	})
}

// In a turn that was lent the borrower runs the request, and tells of it.
//
// Mutant: whoever runs a request has its lane.
func TestABorrowerTellsWhoseTurnItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := new(unknowns)
		p := startPair(t, u.hears(lane(spilled(nil))), nil)
		p.spill("/orders/7/hot")
		_, a := p.nodes[1].async("POST", "/orders/7/0", nil, "")
		p.ran("/orders/7/0", p.nodes[1]).conn.Close()
		(<-a).is(t, "the request", 502, "upstream-reset", "unknown")
		if told := u.of(t, p, 1); len(told) != 1 || told[0].Node != "lk-1" || told[0].Owner != "lk-0" || told[0].Key != "7" {
			t.Errorf("the borrower told %+v", told)
		}
		if told := u.of(t, p, 0); len(told) != 0 {
			t.Errorf("the owner told %+v", told)
		}
	})
}

// Mutant: a request outside lanes is told of.
func TestWhatIsKnownIsNotToldOf(t *testing.T) {
	for at, where := range [2]string{"local", "forwarded"} {
		bubble(t, where, func(t *testing.T) {
			u := new(unknowns)
			p := startPair(t, u.hears(change{}), nil)
			node := p.nodes[at]
			p.reachable(false)
			node.send("POST", "/orders/new", nil, "").is(t, "nobody listens", 502, "upstream-connect", "no")
			p.reachable(true)
			_, a := node.async("POST", "/orders/7", nil, "")
			p.ran("/orders/7", p.nodes[0]).finish("")
			(<-a).is(t, "answered", 200, "", "")
			_, a = node.async("GET", "/else", nil, "")
			p.ran("/else", node).conn.Close()
			(<-a).is(t, "outside lanes", 502, "upstream-reset", "unknown")

			c := node.open()
			io.WriteString(c.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
			x := p.ran("/orders/7", p.nodes[0])
			x.write("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 1_000_000)
			fmt.Fprint(x.conn, strings.Repeat("x", 1000))
			synctest.Wait()
			c.conn.Close()
			x.write("%s", strings.Repeat("x", 999_000))
			_, a = node.async("POST", "/orders/7/next", nil, "")
			p.awaits("/orders/7/next").finish("")
			(<-a).is(t, "the next", 200, "", "")
			for i := range p.nodes {
				if told := u.of(t, p, i); len(told) != 0 {
					t.Errorf("%s told %+v", p.nodes[i].self, told)
				}
			}
		})
	}
}

// deafConn takes nothing.
type deafConn struct{ net.Conn }

func (deafConn) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A request of which not a byte left this node is not executed, however far it came.
//
// Mutant: whatever was dispatched is told of.
func TestWhatWasNotSentIsNotToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := new(unknowns)
		p := startPair(t, u.hears(change{proxy: func(_ int, c *proxy.Config) {
			reach := c.Upstreams[0].Dial
			c.Upstreams[0].Dial = func(address string) (net.Conn, error) {
				conn, err := reach(address)
				return deafConn{conn}, err
			}
		}}), nil)
		p.nodes[0].send("POST", "/orders/7", nil, "").is(t, "nothing was sent", 502, "upstream-connect", "no")
		if told := u.of(t, p, 0); len(told) != 0 {
			t.Errorf("told %+v", told)
		}
	})
}
