package proxy_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

// retries is a lane that retries, with statuses of 5xx.
func retries(attempts int, idempotent bool) proxy.AfterFailure {
	return proxy.AfterFailure{
		Action: proxy.Retry, Statuses: proxy.MustStatuses("5xx"),
		Attempts: attempts, Backoff: 100 * time.Millisecond, MaxBackoff: time.Second, UpstreamIdempotent: idempotent,
	}
}

// upset is an upstream of which each attempt, in turn, goes as a word says.
type upset struct {
	*script
	words []string
	dials atomic.Int64
}

func newUpset(t *testing.T, words string) *upset {
	u := &upset{words: strings.Fields(words)}
	u.script = newScript(t, u.exchange)
	return u
}

func (u *upset) word() string {
	dials := int(u.dials.Load())
	if dials > len(u.words) {
		return "ok"
	}
	return u.words[dials-1]
}

func (u *upset) dial(string) (net.Conn, error) {
	if u.dials.Add(1); u.word() == "refused" {
		return nil, errors.New("connection refused")
	}
	return u.script.dial("")
}

func (u *upset) exchange(x *exchange) {
	switch word := u.word(); word {
	case "reset":
	case "garbage":
		x.write("\x15\x03\x01 what?\r\n\r\n")
	case "silence":
		time.Sleep(time.Hour)
	case "broken":
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n%s", strings.Repeat("x", 1500))
	case "large":
		x.write("HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 2000\r\n\r\n%s", strings.Repeat("x", 2000))
	case "chunked":
		x.write("HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	case "ok":
		x.write("HTTP/1.1 200 OK\r\nConnection: close\r\nX-Of: the last\r\nContent-Length: 4\r\n\r\nfine")
	default:
		x.write("HTTP/1.1 %s Oh\r\nConnection: close\r\nX-Of: %[1]s\r\nContent-Length: 4\r\n\r\n%03[2]d.", word, u.dials.Load())
	}
	x.conn.Close()
}

// What an attempt's outcome allows, and what the client is told when no attempt is left. A
// second request stands behind the first and must not run before it is done with.
//
// Mutants: sent again whatever its outcome; after an unknown one; not after one that was not
// sent, unless idempotent; one attempt too many; a response that streams is repeated; no status is
// a failure; shared ones are not retried; the body of one attempt stays before the next's; the last
// answer counts, even "not executed" after one that was sent; what was kept is forgotten.
func TestARequestIsAttemptedAgain(t *testing.T) {
	for _, c := range []struct {
		method     string
		goes       string // attempt by attempt; then "ok"
		idempotent bool
		attempts   int // that are to be made
		ran        int // of them that reached the service
		status     int
		body       string // or slug and executed
	}{
		{"POST", "refused", false, 2, 1, 200, "fine"},
		{"POST", "refused refused", false, 3, 1, 200, "fine"},
		{"POST", "refused refused refused", false, 3, 0, 502, "upstream-connect no"},
		{"GET", "refused refused refused", false, 3, 0, 502, "upstream-connect no"},
		{"GET", "refused refused", false, 3, 1, 200, "fine"},

		{"POST", "500", false, 1, 1, 500, "001."},
		{"POST", "reset", false, 1, 1, 502, "upstream-reset unknown"},
		{"POST", "garbage", false, 1, 1, 502, "upstream-invalid unknown"},
		{"GET", "500", false, 1, 1, 500, "001."},
		{"POST", "refused 503", false, 2, 1, 503, "002."},
		{"POST", "refused reset", false, 2, 1, 502, "upstream-reset unknown"},

		{"POST", "500", true, 2, 2, 200, "fine"},
		{"POST", "reset 599", true, 3, 3, 200, "fine"},
		{"POST", "404", true, 1, 1, 404, "001."},
		{"POST", "500 chunked", true, 2, 2, 200, "abc"},
		{"POST", "garbage", true, 2, 2, 200, "fine"},
		{"GET", "500 reset", true, 3, 3, 200, "fine"},
		{"POST", "500 reset 502", true, 3, 3, 502, "003."},
		{"POST", "500 502 reset", true, 3, 3, 502, "upstream-reset unknown"},
		{"POST", "large", true, 1, 1, 500, strings.Repeat("x", 2000)},
		{"POST", "500 large", true, 2, 2, 500, strings.Repeat("x", 2000)},

		// "Not executed" would be a lie.
		{"POST", "500 refused refused", true, 3, 1, 500, "001."},
		{"POST", "500 reset refused", true, 3, 2, 502, "upstream-reset unknown"},
		{"POST", "reset 500 refused", true, 3, 2, 500, "002."},
		{"POST", "refused 500 refused", true, 3, 1, 500, "002."},
	} {
		bubble(t, fmt.Sprint(c.method, " ", c.goes, " ", c.idempotent), func(t *testing.T) {
			u := newUpset(t, c.goes)
			n := start(t, func(config *proxy.Config) {
				config.MaxInflight = 1
				config.Upstreams[0].Dial, config.Upstreams[0].MaxConnections = u.dial, 1
				config.Routes[0].Lane.AfterFailure = retries(3, c.idempotent)
				config.Routes[0].Lane.Retries = 7 // which it counts by itself
			})
			a := n.send(c.method, "/orders/7", nil, "body")
			got := a.body
			if a.slug() != "" {
				got = a.slug() + " " + a.problem.Executed
			}
			if a.status != c.status || got != c.body {
				t.Errorf("got %d %.40s, want %d %.40s", a.status, got, c.status, c.body)
			}
			if int(u.dials.Load()) != c.attempts || u.executed() != c.ran {
				t.Errorf("%d attempts, of which %d ran; want %d and %d", u.dials.Load(), u.executed(), c.attempts, c.ran)
			}
			if a.body == "fine" && a.header.Get("X-Of") != "the last" {
				t.Errorf("a head of another attempt: %v", a.header)
			}
			if m := n.metric("lanekeeper_retries_total", "route", "order"); m != float64(c.attempts-1) {
				t.Errorf("lanekeeper_retries_total: %v", m)
			}
			time.Sleep(time.Minute) // for lanes that are held
			n.idle()
		})
	}
}

// The turn is kept while the request waits for its next attempt, the wait is bounded, and
// upstream_timeout bounds the whole.
//
// Mutants: no bound of the backoff; it may end after upstream_timeout.
func TestARetryKeepsItsTurn(t *testing.T) {
	bubble(t, "in order", func(t *testing.T) {
		n := start(t, func(config *proxy.Config) {
			config.Routes[0].Lane.AfterFailure = retries(50, true)
			config.Routes[0].Lane.QueueTimeout, config.Routes[0].Lane.UpstreamTimeout = time.Hour, time.Hour
		})
		first := async(n, "POST", "/orders/7/0", nil, "")
		second := async(n, "POST", "/orders/7/1", nil, "")
		for i := range 20 {
			v := n.service.next()
			for waited := 0; v == nil && waited < 1100; waited++ {
				v = n.service.next()
			}
			if v == nil || v.URL.Path != "/orders/7/0" {
				t.Fatalf("attempt %d: got %v within a second, which is max_backoff", i, v)
			}
			status := 503
			if i == 19 {
				status = 200
			}
			v.finish(status, "")
		}
		if a := <-first; a.status != 200 {
			t.Errorf("the first: %d", a.status)
		}
		v := n.service.next()
		if v == nil || v.URL.Path != "/orders/7/1" {
			t.Fatalf("then: %v", v)
		}
		v.finish(200, "")
		<-second
	})
	bubble(t, "within upstream_timeout", func(t *testing.T) {
		u := newUpset(t, strings.Repeat("refused ", 100))
		n := start(t, func(config *proxy.Config) {
			config.Upstreams[0].Dial = u.dial
			config.Routes[0].Lane.AfterFailure = retries(100, false)
			config.Routes[0].Lane.UpstreamTimeout = 3 * time.Second
		})
		began := time.Now()
		a := n.send("POST", "/orders/7", nil, "")
		if took := time.Since(began); a.slug() != "upstream-connect" || took > 3*time.Second || took < 2*time.Second || u.dials.Load() < 4 {
			t.Errorf("%d %s after %s and %d attempts", a.status, a.slug(), took, u.dials.Load())
		}
	})
}

// An attempt that was given up may still be at work at the service. The next request of the
// key waits for its end, though the attempt after it has long succeeded.
//
// Mutants: nothing keeps the turn for it; its connection is closed; it is not shown as held.
func TestAnAttemptThatWasGivenUpHoldsTheLane(t *testing.T) {
	for name, ends := range map[string]func(x *exchange){
		"by its end":  func(x *exchange) { time.Sleep(5 * time.Second); x.conn.Close() },
		"by hold_for": func(x *exchange) { time.Sleep(time.Minute); x.conn.Close() },
	} {
		bubble(t, name, func(t *testing.T) {
			tries := 0
			s := newScript(t, func(x *exchange) {
				if tries++; tries == 1 {
					x.write("nonsense\r\n\r\n")
					ends(x)
					return
				}
				x.ok("fine")
			})
			n := start(t, func(config *proxy.Config) {
				config.Upstreams[0].Dial = s.dial
				config.Routes[0].Lane.AfterFailure = retries(3, true)
				config.Routes[0].Lane.QueueTimeout = time.Minute
			})
			began, after := time.Now(), 5*time.Second
			if name == "by hold_for" {
				after = 20 * time.Second
			}
			if a := n.send("POST", "/orders/7/0", nil, ""); a.status != 200 || time.Since(began) > time.Second {
				t.Fatalf("%d after %s", a.status, time.Since(began))
			}
			if held := n.metric("lanekeeper_held_lanes"); held != 1 {
				t.Errorf("%v lanes are held", held)
			}
			if a := n.send("POST", "/orders/7/1", nil, ""); a.status != 200 {
				t.Errorf("the next: %d", a.status)
			}
			lateBy(t, "the next", time.Since(began), after)
			n.idle()
		})
	}
}

// It ends before the attempt that followed it, which has the turn still.
//
// Mutant: the attempt that is given up takes the turn with it.
func TestAnAttemptThatWasGivenUpKeepsNoOtherTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, lane(func(l *proxy.Lane) { l.AfterFailure = retries(3, true) }), nil)
		_, first := p.nodes[0].async("POST", "/orders/8/0", nil, "")
		_, second := p.nodes[0].async("POST", "/orders/8/1", nil, "")
		lost := p.awaits("/orders/8/0")
		lost.write("nonsense\r\n\r\n")
		again := p.awaits("/orders/8/0")
		lost.conn.Close()
		close(lost.done)
		p.quiet("the first request is attempted still")
		again.finish("")
		(<-first).is(t, "the first", 200, "", "")
		p.awaits("/orders/8/1").finish("")
		(<-second).is(t, "the second", 200, "", "")
	})
}

// A client that leaves ends the attempts only if nothing was ever sent.
//
// Mutants: it is not looked for; it is, though one was sent.
func TestAClientThatLeavesARetry(t *testing.T) {
	for _, c := range []struct {
		goes     string
		policy   proxy.ClientGone
		attempts int
	}{
		{"refused refused refused refused", proxy.Skip, 1},
		{"refused refused refused refused", proxy.Run, 5},
		{"500 refused refused refused", proxy.Skip, 5},
	} {
		t.Run(fmt.Sprint(c.goes, c.policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpset(t, c.goes)
				p := startPair(t, change{proxy: func(_ int, config *proxy.Config) {
					config.Upstreams[0].Dial = u.dial
					config.Routes[0].Lane.ClientGone = c.policy
					config.Routes[0].Lane.AfterFailure = proxy.AfterFailure{
						Action: proxy.Retry, Statuses: proxy.MustStatuses("500"), Attempts: 5,
						Backoff: 5 * time.Second, MaxBackoff: 5 * time.Second, UpstreamIdempotent: true,
					}
				}}, nil)
				client, _ := p.nodes[0].async("POST", "/orders/8", nil, "")
				client.conn.Close()
				time.Sleep(time.Minute)
				if int(u.dials.Load()) != c.attempts {
					t.Errorf("%d attempts, want %d", u.dials.Load(), c.attempts)
				}
				p.nodes[0].idle()
			})
		})
	}
}

// Whoever gives lanes away waits for no next attempt, and may again when it does not any more.
//
// Mutants: the wait goes on; there are no retries ever after.
func TestRetriesEndWithTheNode(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		u := newUpset(t, "refused refused refused refused refused")
		n := start(t, func(config *proxy.Config) {
			config.Upstreams[0].Dial = u.dial
			config.Routes[0].Lane.AfterFailure = proxy.AfterFailure{Action: proxy.Retry, Attempts: 4, Backoff: 8 * time.Second, MaxBackoff: 8 * time.Second}
		})
		began := time.Now()
		answers := async(n, "POST", "/orders/7", nil, "")
		n.proxy.Retry(false)
		if a := <-answers; a.slug() != "upstream-connect" || time.Since(began) > 0 || int(u.dials.Load()) != 1 {
			t.Errorf("%d %s after %s and %d attempts", a.status, a.slug(), time.Since(began), u.dials.Load())
		}
		n.proxy.Retry(false)
		n.proxy.Retry(true)
		n.proxy.Retry(true)
		if a := n.send("POST", "/orders/7", nil, ""); int(u.dials.Load()) != 5 {
			t.Errorf("%d %s after %d attempts", a.status, a.slug(), u.dials.Load())
		}
	})
}

// The owner's rule counts, and its attempts.
//
// Mutant: the ingress's does.
func TestTheOwnerRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, change{proxy: func(node int, c *proxy.Config) {
			if node == 0 {
				c.Routes[0].Lane.AfterFailure = retries(3, true)
			}
		}}, nil)
		_, first := p.nodes[1].async("POST", "/orders/8/0", nil, "")
		_, second := p.nodes[1].async("POST", "/orders/8/1", nil, "")
		x := p.awaits("/orders/8/0")
		x.conn.Close()
		close(x.done)
		x = p.awaits("/orders/8/0")
		x.write("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
		close(x.done)
		p.awaits("/orders/8/0").finish("")
		(<-first).is(t, "the first", 200, "", "")
		p.awaits("/orders/8/1").finish("")
		(<-second).is(t, "the second", 200, "", "")
	})
}

// Each attempt of a strict request passes the guard anew, under a fence above those before,
// and none is made when the lease has ended: the answer is then of the last that was sent.
//
// Mutant: a refusal of this node is taken for a failure, and repeated.
func TestAStrictRetryDrawsItsFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, lane(func(l *proxy.Lane) { l.Strict, l.AfterFailure = true, retries(9, true) }), nil)
		lease := p.nodes[0].edge
		lease.lasts(time.Minute)
		_, answers := p.nodes[1].async("POST", "/orders/8", nil, "")
		last := 0
		for range 3 {
			x := p.awaits("/orders/8")
			fence := 0
			if fmt.Sscan(x.get("Lanekeeper-Fence"), &fence); fence <= last {
				t.Errorf("fence %d after %d", fence, last)
			}
			last = fence
			if fence == 3 {
				lease.lasts(0)
			}
			x.write("HTTP/1.1 503 Oh\r\nContent-Length: 3\r\n\r\n#%02d", fence)
			close(x.done)
		}
		if a := <-answers; a.status != 503 || a.body != "#03" {
			t.Errorf("got %d %q %s", a.status, a.body, a.slug())
		}
		p.quiet("the lease has ended")
		if n := p.nodes[0].metric("lanekeeper_retries_total"); n != 3 {
			t.Errorf("%v further attempts, want 2 and the one that found no lease", n)
		}
	})
}

// A lent turn has one fence for each request, which all its attempts carry: another would be
// one that is somebody else's.
//
// Mutant: each attempt has the next one.
func TestARetryInALentTurnHasOneFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, lane(spilled(func(l *proxy.Lane) { l.Strict, l.AfterFailure = true, retries(9, true) })), nil)
		for _, n := range p.nodes {
			n.edge.lasts(time.Hour)
		}
		p.spill("/orders/7/hot")
		ingress := p.nodes[1]
		checks := []func(){ingress.post("/orders/7/0"), ingress.post("/orders/7/1"), ingress.post("/orders/7/2")}
		var fences []string
		done := 0
		for _, fails := range []bool{true, true, false, false, true, false} {
			x := p.awaits(fmt.Sprint("/orders/7/", done))
			if x.by() != ingress.self.Name {
				t.Errorf("%s runs by %s", x.path(), x.by())
			}
			fences = append(fences, x.get("Lanekeeper-Fence"))
			if fails {
				x.write("HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n")
				close(x.done)
				continue
			}
			x.finish("")
			done++
		}
		for _, check := range checks {
			check()
		}
		if fmt.Sprint(fences) != fmt.Sprint([]string{fences[0], fences[0], fences[0], fences[3], fences[4], fences[4]}) || fences[0] == fences[3] || fences[3] == fences[4] {
			t.Errorf("fences %v", fences)
		}
		p.settled()
	})
}
