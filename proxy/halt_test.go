package proxy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// halts is a lane that halts after 5xx.
func halts(refuse bool) func(*proxy.Lane) {
	return func(l *proxy.Lane) {
		l.AfterFailure = proxy.AfterFailure{Action: proxy.HaltLane, Statuses: proxy.MustStatuses("5xx"), RefuseHalted: refuse}
	}
}

// What is a failure, and of whom. After one nothing runs, and what waits is answered by its own
// patience.
//
// Mutants: a shared request halts; a failing status does not, or a reset, or a stream that breaks off; an answer that makes no
// sense is judged after its hold has begun; the answer says nothing of the halt; it is not logged.
func TestAFailureHaltsTheLane(t *testing.T) {
	for _, c := range []struct {
		name   string
		method string
		goes   string
		halts  string // the cause; empty: it does not
	}{
		{"a failing status", "POST", "500", "the upstream answered 500"},
		{"a failing status that streams", "POST", "large", "the upstream answered 500"},
		{"another status", "POST", "404", ""},
		{"success", "POST", "ok", ""},
		{"a reset", "POST", "reset", "upstream-reset"},
		{"nonsense", "POST", "garbage", "upstream-invalid"},
		{"a timeout", "POST", "silence", "upstream-timeout"},
		{"no connection", "POST", "refused", "upstream-connect"},
		{"a stream that breaks off", "POST", "broken", "the upstream's response broke off"},
		{"a read", "GET", "500", ""},
		{"a read that is reset", "GET", "reset", ""},
	} {
		bubble(t, c.name, func(t *testing.T) {
			u := newUpset(t, c.goes)
			n := start(t, func(config *proxy.Config) {
				halts(false)(&config.Routes[0].Lane)
				config.Upstreams[0].Dial = u.dial
				config.Routes[0].Lane.UpstreamTimeout, config.Routes[0].Lane.HoldFor = time.Second, time.Second
			})
			first := async(n, c.method, "/orders/7", nil, "")
			time.Sleep(3 * time.Second)
			<-first
			second := n.send("POST", "/orders/7", nil, "")
			stopped := n.lanes.Stopped()
			logged := strings.Count(n.log.String(), `"event":"lane-halted"`)
			if m := n.metric("lanekeeper_halted_lanes", "route", "order"); m != float64(len(stopped)) || logged != len(stopped) {
				t.Errorf("%d lanes are stopped, the metric says %v, the log %d", len(stopped), m, logged)
			}
			if c.halts == "" {
				if second.status != 200 || len(stopped) != 0 {
					t.Errorf("the next: %d %s, stopped: %+v", second.status, second.slug(), stopped)
				}
				return
			}
			second.is(t, "the next", 503, "lane-timeout", "no")
			if len(stopped) != 1 || stopped[0].Halt == nil || stopped[0].Halt.Cause != c.halts || !strings.Contains(second.problem.Detail, stopped[0].Halt.Ticket.String()) {
				t.Fatalf("%s; stopped: %+v", second.problem.Detail, stopped)
			}
			other := n.send("POST", "/orders/8", nil, "")
			other.is(t, "another key", 200, "", "")
			n.lanes.Resume(0, []byte("order:7"), queue.ID{})
			n.send("POST", "/orders/7", nil, "").is(t, "resumed", 200, "", "")
			n.idle()
		})
	}
}

// What waits when the lane is halted, and what comes then: it waits, or is refused. None
// slips in between the failure and the halt, also if it waited already.
//
// Mutant: what is to be refused waits.
func TestWhatWaitsInAHaltedLane(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		bubble(t, fmt.Sprint("refuses: ", refuses), func(t *testing.T) {
			n := start(t, func(config *proxy.Config) { halts(refuses)(&config.Routes[0].Lane) })
			first := async(n, "POST", "/orders/7/0", nil, "")
			waits := async(n, "POST", "/orders/7/1", nil, "")
			reads := async(n, "GET", "/orders/7/2", nil, "")
			n.service.next().finish(503, "")
			a := <-first
			a.is(t, "the first", 503, "", "")
			comes := async(n, "POST", "/orders/7/3", nil, "")
			if v := n.service.next(); v != nil {
				t.Fatalf("%s %s runs", v.Method, v.URL.Path)
			}
			ticket := n.lanes.Stopped()[0].Halt.Ticket
			if refuses {
				for _, answers := range []<-chan *answer{waits, reads, comes} {
					a := <-answers
					a.is(t, "refused", 423, "lane-halted", "no")
					if d := a.problem.Detail; !strings.Contains(d, ticket.String()) || !strings.Contains(d, "the upstream answered 503") || !strings.Contains(d, time.Now().UTC().Format("2006-01-02T15:04")) {
						t.Errorf("detail: %s", d)
					}
				}
				if _, err := n.lanes.Resume(0, []byte("order:7"), ticket); err != nil {
					t.Error(err)
				}
				n.idle()
				return
			}
			if _, evicted, err := n.lanes.Skip(0, []byte("order:7"), ticket); evicted != 1 || err != nil {
				t.Errorf("skipped %d, %v", evicted, err)
			}
			(<-waits).is(t, "skipped", 503, "lane-cancelled", "no")
			n.service.next().finish(200, "")
			(<-reads).is(t, "the read behind it", 200, "", "")
			n.service.next().finish(502, "")
			(<-comes).is(t, "what came later", 502, "", "")
			last := async(n, "POST", "/orders/7/4", nil, "")
			if _, evicted, err := n.lanes.Fail(0, []byte("order:7"), queue.ID{}); evicted != 1 || err != nil {
				t.Errorf("failed %d, %v", evicted, err)
			}
			(<-last).is(t, "failed", 503, "lane-cancelled", "no")
			n.idle()
		})
	}
}

// A lane that is held is halted at once, and stays so when the hold has ended.
//
// Mutant: the timeout is judged after the hold has begun.
func TestAHeldLaneIsHalted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, lane(func(l *proxy.Lane) {
			halts(false)(l)
			l.UpstreamTimeout, l.QueueTimeout = time.Second, time.Minute
		}), nil)
		_, first := p.nodes[1].async("POST", "/orders/8/0", nil, "")
		_, second := p.nodes[1].async("POST", "/orders/8/1", nil, "")
		x := p.awaits("/orders/8/0")
		(<-first).is(t, "the first", 504, "upstream-timeout", "unknown")
		owner := p.nodes[0].lanes
		if stopped := owner.Stopped(); len(stopped) != 1 || stopped[0].Halt == nil || !stopped[0].Head().Held {
			t.Errorf("stopped: %+v", stopped)
		}
		x.finish("late")
		p.quiet("the hold has ended, and the lane is halted")
		h, _ := owner.Halted(0, []byte("order:8"))
		if h.Cause != "upstream-timeout" {
			t.Errorf("halted: %+v", h)
		}
		owner.Resume(0, []byte("order:8"), h.Ticket)
		p.awaits("/orders/8/1").finish("")
		(<-second).is(t, "the second", 200, "", "")
	})
}

// A request halts its lane where that is, by the rule of its owner. When its partition moves,
// what waits is answered not executed, and nothing of the key runs at the new owner either.
//
// Mutants: the ingress's rule counts; the owner's own is not asked whether to refuse.
func TestAHaltAtTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, change{proxy: func(node int, c *proxy.Config) {
			if node == 0 {
				halts(true)(&c.Routes[0].Lane)
			} else {
				halts(false)(&c.Routes[0].Lane)
			}
		}}, nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		_, first := ingress.async("POST", "/orders/8/0", nil, "")
		_, second := ingress.async("POST", "/orders/8/1", nil, "")
		x := p.ran("/orders/8/0", owner)
		x.write("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
		close(x.done)
		(<-first).is(t, "the first", 500, "", "")
		a := <-second
		a.is(t, "the second", 423, "lane-halted", "no")
		h, _ := owner.lanes.Halted(0, []byte("order:8"))
		if !strings.Contains(a.problem.Detail, h.Ticket.String()) {
			t.Errorf("%s; halted by %s", a.problem.Detail, h.Ticket)
		}

		p.reachable(true)
		busy := p.leave("8")
		ingress.lanes.ImportHalts(0, owner.lanes.ExportHalts(0, func([]byte) bool { return false }), true)
		p.take("8", ingress, busy, nil)
		_, third := owner.async("POST", "/orders/8/2", nil, "")
		p.quiet("the halt has moved")
		ingress.lanes.Resume(0, []byte("order:8"), h.Ticket)
		p.ran("/orders/8/2", ingress).finish("")
		(<-third).is(t, "the third", 200, "", "")
	})
}

// A request that waits in a halted lane of a partition that moves.
func TestAHaltedLaneThatMovesKeepsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, lane(halts(false)), nil)
		_, first := p.nodes[1].async("POST", "/orders/8/0", nil, "")
		_, far := p.nodes[1].async("POST", "/orders/8/1", nil, "")
		_, near := p.nodes[0].async("POST", "/orders/8/2", nil, "")
		x := p.ran("/orders/8/0", p.nodes[0])
		x.conn.Close()
		close(x.done)
		(<-first).is(t, "the first", 502, "upstream-reset", "unknown")
		if busy := p.leave("8"); len(busy) != 0 {
			t.Errorf("still at work: %q", busy)
		}
		(<-far).is(t, "from the other node", 503, "ownership-moved", "no")
		(<-near).is(t, "of this node", 503, "ownership-moved", "no")
		p.take("8", p.nodes[1], nil, nil)
	})
}

// What this node refuses to send is no failure of its upstream.
//
// Mutant: it is.
func TestARefusalHaltsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, lane(halts(false)), nil)
		p.nodes[0].edge.refuse(errors.New("it stood still"))
		p.nodes[0].send("POST", "/orders/8/0", nil, "").is(t, "refused", 503, "ownership-moved", "no")
		p.nodes[0].edge.refuse(nil)
		_, next := p.nodes[0].async("POST", "/orders/8/1", nil, "")
		p.ran("/orders/8/1", p.nodes[0]).finish("")
		(<-next).is(t, "the next", 200, "", "")
	})
}
