package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/sequence"
)

// ordering has each node put numbered requests in order, as rule says.
func ordering(rule func(*proxy.Sequence)) change {
	changes := remembering(nil)
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) {
		inner(n, c)
		s := proxy.Sequence{Mode: proxy.SequenceOptional, Store: "memory", GapWait: 5 * time.Second, MaxHeld: 3, Replay: true, TTL: time.Hour}
		if rule != nil {
			rule(&s)
		}
		c.Routes[0].Sequence = s
		c.Marks = sequence.New(sequence.Config{MaxMarks: 100})
	}
	return changes
}

func number(producer string, n int) http.Header {
	return http.Header{"Lanekeeper-Producer": {producer}, "Lanekeeper-Seq": {fmt.Sprint(n)}}
}

// Mutants: a request runs although others are missing; it is held in its turn; what is
// done runs again, or is not replayed.
func TestNumberedRequestsRunInOrder(t *testing.T) {
	both(t, "", ordering(nil), nil, func(p *pair, at *member) (said []string) {
		send := func(n int) <-chan *answer {
			_, answers := at.async("POST", fmt.Sprintf("/orders/7/%d", n), number("till", n), "")
			return answers
		}
		third, second := send(3), send(2)
		p.quiet("requests whose first is missing")
		_, other := at.async("POST", "/orders/7/other", nil, "")
		p.ran("/orders/7/other", p.nodes[0]).finish("")
		first := send(1)
		for i, answers := range []<-chan *answer{first, second, third} {
			p.ran(fmt.Sprintf("/orders/7/%d", i+1), p.nodes[0]).finish(fmt.Sprint(i + 1))
			a := <-answers
			a.is(p.t, fmt.Sprint(i+1), 200, "", "")
			said = append(said, told(a))
		}
		again := <-send(2)
		if again.body != "2" || again.header.Get("Idempotent-Replayed") != "true" {
			p.t.Errorf("again: %d %q %v", again.status, again.body, again.header)
		}
		if n := p.service.executed(); n != 4 {
			p.t.Errorf("%d requests ran, want 4", n)
		}
		return append(said, told(<-other), told(again))
	})
}

// Mutants: a gap is waited for without end; more are held than may be; a producer that
// nobody knows has a gap.
func TestGaps(t *testing.T) {
	both(t, "", ordering(nil), func(x *exchange) { x.ok("") }, func(p *pair, at *member) (said []string) {
		gap := func(what string, n int, slug, detail string, after time.Duration) {
			p.t.Helper()
			a, took := at.after("POST", "/orders/7", number("till", n), "")
			a.is(p.t, what, 409, slug, "no")
			lateBy(p.t, what, took, after)
			if !strings.Contains(a.problem.Detail, detail) {
				p.t.Errorf("%s: %q does not say %q", what, a.problem.Detail, detail)
			}
			said = append(said, told(a), a.problem.Detail)
		}
		gap("nobody knows it", 3, "sequence-unknown", "nothing is known of producer till", 5*time.Second)
		at.send("POST", "/orders/7", number("till", 1), "").is(p.t, "the first", 200, "", "")
		gap("two are missing", 4, "sequence-gap", "numbers 2 to 3 are missing before number 4 of producer till, and they have not come in 5s", 5*time.Second)
		gap("one is missing", 3, "sequence-gap", "number 2 is missing before number 3", 5*time.Second)
		for i := range 3 {
			at.async("POST", "/orders/7", number("till", 4+i), "")
		}
		gap("too many are held", 7, "sequence-gap", "3 others wait", 0)
		at.send("POST", "/orders/8", number("till", 1), "").is(p.t, "another key", 200, "", "")
		time.Sleep(10 * time.Second)
		return said
	})
}

// Mutants: the number 0 is one; an epoch may have a sign.
func TestProducersAndTheirNumbers(t *testing.T) {
	both(t, "", ordering(func(s *proxy.Sequence) { s.Mode = proxy.SequenceRequired }), func(x *exchange) { x.ok("") }, func(p *pair, at *member) (said []string) {
		for what, header := range map[string]http.Header{
			"neither": nil, "no number": {"Lanekeeper-Producer": {"p"}}, "no producer": {"Lanekeeper-Seq": {"1"}},
			"zero": number("p", 0), "negative": number("p", -1), "a space": number("p q", 1), "long": number(strings.Repeat("p", 65), 1),
			"an empty epoch": number("p;epoch=", 1), "a signed epoch": number("p;epoch=+1", 1), "another parameter": number("p;a=1", 1),
			"two numbers": {"Lanekeeper-Producer": {"p"}, "Lanekeeper-Seq": {"1", "2"}}, "a huge one": {"Lanekeeper-Producer": {"p"}, "Lanekeeper-Seq": {"9223372036854775808"}},
		} {
			at.send("POST", "/orders/7", header, "").is(p.t, what, 400, "invalid-sequence", "no")
		}
		for _, step := range []struct {
			producer string
			n        int
			status   int
			slug     string
		}{
			{"p", 1, 200, ""}, {"p;epoch=0", 2, 200, ""}, {"p;epoch=2", 1, 200, ""}, {"p", 3, 409, "sequence-producer-fenced"},
			{"p;epoch=2", 3, 409, "sequence-gap"}, {"p;epoch=2", 2, 200, ""}, {"q", 1, 200, ""},
		} {
			a := at.send("POST", "/orders/7", number(step.producer, step.n), "")
			a.is(p.t, fmt.Sprint(step), step.status, step.slug, map[bool]string{true: "no"}[step.slug != ""])
			said = append(said, told(a), a.problem.Detail)
		}
		at.send("GET", "/orders/7", nil, "").is(p.t, "a read", 200, "", "")
		return said
	})
	both(t, "any start", ordering(func(s *proxy.Sequence) { s.AnyStart, s.Replay = true, false }), func(x *exchange) { x.ok("") }, func(p *pair, at *member) (said []string) {
		at.send("POST", "/orders/7", number("p", 9), "").is(p.t, "the first", 200, "", "")
		at.send("POST", "/orders/7", number("p", 10), "").is(p.t, "the next", 200, "", "")
		a := at.send("POST", "/orders/7", number("p", 9), "")
		a.is(p.t, "again", 409, "sequence-done", "no")
		return append(said, told(a), a.problem.Detail)
	})
}

// Mutants: a number that was answered with 503 is done; one whose outcome is unknown is
// not.
func TestANumberThatFails(t *testing.T) {
	both(t, "", ordering(nil), nil, func(p *pair, at *member) (said []string) {
		send := func(n int) <-chan *answer {
			_, answers := at.async("POST", fmt.Sprintf("/orders/7/%d", n), number("p", n), "")
			return answers
		}
		first := send(1)
		x := p.ran("/orders/7/1", p.nodes[0])
		second := send(2)
		x.write("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
		close(x.done)
		(<-first).is(p.t, "busy", 503, "", "")
		p.quiet("the second, whose first may come again")
		first = send(1)
		p.ran("/orders/7/1", p.nodes[0]).finish("")
		(<-first).is(p.t, "again", 200, "", "")
		x = p.ran("/orders/7/2", p.nodes[0])
		third := send(3)
		x.conn.Close()
		close(x.done)
		(<-second).is(p.t, "unknown", 502, "upstream-reset", "unknown")
		p.ran("/orders/7/3", p.nodes[0]).finish("")
		(<-third).is(p.t, "behind an unknown one", 200, "", "")
		a := <-send(2)
		a.is(p.t, "unknown, again", 409, "idempotency-outcome-unknown", "unknown")
		return append(said, told(a))
	})
}

// Mutants: a held request whose client hung up is kept; Stop does not end the wait.
func TestHeldRequestsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, ordering(func(s *proxy.Sequence) { s.GapWait = time.Hour }), func(x *exchange) { x.ok("") })
		at := p.nodes[0]
		var conns []*client
		for i := range 3 {
			c, _ := at.async("POST", "/orders/7", number("p", 5+i), "")
			conns = append(conns, c)
		}
		for _, c := range conns {
			c.conn.Close()
		}
		time.Sleep(3 * time.Second)
		_, waiting := at.async("POST", "/orders/7", number("p", 5), "")
		at.stop()
		(<-waiting).is(t, "a held one at the end", 503, "draining", "no")
	})
}

// TestNumbersThroughAnyNode has producers send their numbers through both nodes, out of
// order and again, while the key moves between them.
//
// Mutants: the marks do not travel; those that are held are not woken when the key has
// another owner; a request that finds the key moved is not taken to its new owner.
func TestNumbersThroughAnyNode(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			var mu sync.Mutex
			ran := make(map[string][]string)
			changes := ordering(func(s *proxy.Sequence) { s.GapWait, s.MaxHeld = 8*time.Second, 50 })
			marks, records := make([]*sequence.Marks, 2), make([]*idempotency.Memory, 2)
			inner := changes.proxy
			changes.proxy = func(n int, c *proxy.Config) {
				inner(n, c)
				marks[n], records[n] = c.Marks, c.Records["memory"].(*idempotency.Memory)
				c.Routes[0].Lane.MaxDepth = 100
			}
			p := startPair(t, changes, func(x *exchange) {
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
				mu.Lock()
				producer := x.get("Lanekeeper-Producer")
				ran[producer] = append(ran[producer], x.get("Lanekeeper-Seq"))
				mu.Unlock()
				x.ok("")
			})
			const producers, requests = 3, 12
			var wg sync.WaitGroup
			for i := range producers {
				for n := range requests {
					for range 1 + random.IntN(2) {
						node, late := p.nodes[random.IntN(2)], time.Duration(random.IntN(2000))*time.Millisecond
						wg.Go(func() {
							time.Sleep(late)
							a := node.send("POST", "/orders/7", number(fmt.Sprint("p", i), n+1), "")
							if a.status != 200 {
								t.Errorf("seed %d: %d of %d: %d %s %s", seed, n+1, i, a.status, a.slug(), a.problem.Detail)
							}
						})
					}
				}
			}
			at := 0
			for range 4 {
				time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond)
				key := "order:7"
				n, from, to := partition(key), at, 1-at
				p.leave(key)
				marks[from].Seal(n)
				for p.nodes[from].lanes.Busy(n, []byte(key)) {
					time.Sleep(time.Millisecond)
				}
				if err := marks[to].Import(n, marks[from].Export(n, nil)); err != nil {
					t.Error(err)
				}
				records[to].Import(n, records[from].Export(n, nil))
				marks[to].Open(n)
				p.take(key, p.nodes[to], nil, nil)
				at = to
			}
			wg.Wait()
			for producer, numbers := range ran {
				for i, n := range numbers {
					if n != fmt.Sprint(i+1) {
						t.Fatalf("seed %d: %s ran %v", seed, producer, numbers)
					}
				}
				if len(numbers) != requests {
					t.Errorf("seed %d: %s ran %d", seed, producer, len(numbers))
				}
			}
		})
	}
}

// TestALateNumberIsDone has the upstream answer too late, or nonsense, on a route that
// then goes on at once: whoever has the next turn knows of it.
//
// Mutants: the number is done after its turn has been passed on.
func TestALateNumberIsDone(t *testing.T) {
	changes := ordering(func(s *proxy.Sequence) { s.Replay = false })
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) {
		inner(n, c)
		c.Routes[0].Lane.UpstreamTimeout, c.Routes[0].Lane.AfterTimeout = time.Second, proxy.Release
	}
	both(t, "", changes, nil, func(p *pair, at *member) (said []string) {
		for _, nonsense := range []bool{false, true} {
			n, problem := 1, "upstream-timeout"
			if nonsense {
				n, problem = 2, "upstream-invalid"
			}
			path := fmt.Sprint("/orders/7/", n)
			_, first := at.async("POST", path, number("p", n), "")
			x := p.ran(path, p.nodes[0])
			_, again := at.async("POST", path, number("p", n), "")
			_, next := at.async("POST", "/orders/7/next", number("p;epoch=1", 7), "")
			synctest.Wait()
			if nonsense {
				x.write("HTTP/1.1 what\r\n\r\n")
			}
			a := <-first
			a.is(p.t, "the first", map[bool]int{false: 504, true: 502}[nonsense], problem, "unknown")
			b := <-again
			b.is(p.t, "again", 409, "sequence-done", "no")
			(<-next).is(p.t, "of an epoch that has not begun", 409, "sequence-gap", "no")
			said = append(said, told(a), told(b))
			close(x.done)
		}
		return said
	})
}
