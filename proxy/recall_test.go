package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/sequence"
)

// markStore is a sequence.Store in this process, which may be away, and slow.
type markStore struct {
	mu    sync.Mutex // guards the rest
	marks map[string]sequence.Number
	loads int
	away  error         // of Load
	deaf  error         // of Save
	slow  time.Duration // of Save
}

func (s *markStore) Load(_ context.Context, key []byte, producer string) (epoch, done uint64, known bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	n, known := s.marks[string(key)+" "+producer]
	return n.Epoch, n.Seq, known && s.away == nil, s.away
}

func (s *markStore) Save(_ context.Context, key []byte, n sequence.Number, _ time.Duration) error {
	s.mu.Lock()
	slow := s.slow
	s.mu.Unlock()
	time.Sleep(slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf == nil {
		s.marks[string(key)+" "+n.Producer] = n
	}
	return s.deaf
}

func (s *markStore) kept(producer string) sequence.Number {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marks["order:7 "+producer]
}

// lasting has both nodes keep marks and records in stores that they share, and judge as
// rule says. The function gives the store of a test that has begun.
func lasting(rule func(*proxy.Sequence), prepare func(*markStore)) (change, func() *markStore) {
	var store *markStore
	var records *idempotency.Memory
	changes := ordering(rule)
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) {
		inner(n, c)
		if n == 0 {
			store = &markStore{marks: make(map[string]sequence.Number)}
			prepare(store)
			records = c.Records["memory"].(*idempotency.Memory)
		}
		c.Records["memory"], c.MarkStores = records, map[string]sequence.Store{"memory": store}
	}
	return changes, func() *markStore { return store }
}

func said(key, producer string, epoch, seq uint64) func(*markStore) {
	return func(s *markStore) {
		s.marks[key+" "+producer] = sequence.Number{Producer: producer, Epoch: epoch, Seq: seq}
	}
}

// TestWhatTheStoreKnows: a producer that the owner does not know, and the store does, goes
// on where it was; and it is looked up once.
//
// Mutants: a store is not looked into; it is each time; its epoch is dropped.
func TestWhatTheStoreKnows(t *testing.T) {
	changes, store := lasting(func(s *proxy.Sequence) { s.Replay = false }, said("order:7", "p", 2, 4))
	both(t, "", changes, func(x *exchange) { x.ok("") }, func(p *pair, at *member) (told []string) {
		for _, step := range []struct {
			producer string
			n        int
			status   int
			slug     string
			loads    int
		}{
			{"q", 2, 409, "sequence-unknown", 1}, {"q", 2, 409, "sequence-unknown", 1}, // and nothing of that is remembered
			{"p;epoch=1", 5, 409, "sequence-producer-fenced", 1}, {"p;epoch=2", 6, 409, "sequence-gap", 0}, {"p;epoch=2", 4, 409, "sequence-done", 0}, {"p;epoch=2", 1, 409, "sequence-done", 0},
			{"p;epoch=2", 5, 200, "", 0}, {"p;epoch=2", 6, 200, "", 0},
			{"q", 1, 200, "", 1}, {"q", 2, 200, "", 0},
		} {
			before := store().loads
			a := at.send("POST", "/orders/7", number(step.producer, step.n), "")
			a.is(p.t, fmt.Sprint(step), step.status, step.slug, map[bool]string{true: "no"}[step.slug != ""])
			if n := store().loads - before; n != step.loads {
				p.t.Errorf("%v: it was looked up %d times", step, n)
			}
			told = append(told, a.problem.Detail)
		}
		if have, want := store().kept("p"), (sequence.Number{Producer: "p", Epoch: 2, Seq: 6}); have != want {
			p.t.Errorf("kept is %v, want %v", have, want)
		}
		return told
	})
}

// TestMarksAreSavedFirst: before the next turn, and before anybody has an answer; and only
// of what is done.
//
// Mutants: a mark is not saved; beside the next turn; before the request is sent; of what
// was not run; not before a lane goes on after a timeout.
func TestMarksAreSavedFirst(t *testing.T) {
	changes, store := lasting(func(s *proxy.Sequence) { s.Replay = false }, func(s *markStore) { s.slow = time.Second })
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) {
		inner(n, c)
		c.Routes[0].Lane.UpstreamTimeout, c.Routes[0].Lane.AfterTimeout = time.Second, proxy.Release
	}
	both(t, "", changes, nil, func(p *pair, at *member) (said []string) {
		send := func(path string, header http.Header) <-chan *answer {
			_, answers := at.async("POST", path, header, "")
			return answers
		}
		first := send("/orders/7/1", number("p", 1))
		x := p.ran("/orders/7/1", p.nodes[0])
		next := send("/orders/7/next", nil)
		if n := store().kept("p"); n.Seq != 0 {
			p.t.Errorf("%v is kept before it was run", n)
		}
		x.finish("")
		time.Sleep(time.Second / 2) // it is being saved
		p.quiet("the next request, while the mark is saved")
		select {
		case <-first:
			p.t.Error("it is answered while the mark is saved")
		default:
		}
		x = p.awaits("/orders/7/next")
		if n := store().kept("p"); n.Seq != 1 {
			p.t.Errorf("%v is kept when the next one runs", n)
		}
		(<-first).is(p.t, "the first", 200, "", "")
		x.finish("")
		(<-next).is(p.t, "the next", 200, "", "")

		busy := send("/orders/7/2", number("p", 2))
		x = p.ran("/orders/7/2", p.nodes[0])
		x.write("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
		close(x.done)
		(<-busy).is(p.t, "busy", 503, "", "")
		if n := store().kept("p"); n.Seq != 1 {
			p.t.Errorf("%v is kept though the second was not run", n)
		}

		late := send("/orders/7/2", number("p", 2)) // a lane that goes on after a timeout
		x = p.ran("/orders/7/2", p.nodes[0])
		next = send("/orders/7/next", nil)
		y := p.awaits("/orders/7/next")
		if n := store().kept("p"); n.Seq != 2 {
			p.t.Errorf("%v is kept when the one behind a timeout runs", n)
		}
		a := <-late
		a.is(p.t, "late", 504, "upstream-timeout", "unknown")
		close(x.done)
		y.finish("")
		<-next
		return append(said, told(a))
	})
}

// TestTheStoreOfMarksIsAway: nobody guesses; what the owner knows needs no store; and what
// was run is answered.
//
// Mutants: nobody knows, and the request is judged all the same; an error is not counted,
// of either kind.
func TestTheStoreOfMarksIsAway(t *testing.T) {
	for _, replay := range []bool{false, true} {
		changes, store := lasting(func(s *proxy.Sequence) { s.Replay = replay }, said("order:7", "p", 0, 4))
		both(t, fmt.Sprint("replay ", replay), changes, func(x *exchange) { x.ok("") }, func(p *pair, at *member) (said []string) {
			set := func(away, deaf error) {
				s := store()
				s.mu.Lock()
				defer s.mu.Unlock()
				s.away, s.deaf = away, deaf
			}
			errored := func(want float64) {
				p.t.Helper()
				if have := p.nodes[0].metric("lanekeeper_idempotency_store_errors_total", "store", "memory"); have != want {
					p.t.Errorf("%v errors are counted, want %v", have, want)
				}
			}
			gone := errors.New("no route to host")
			set(gone, gone)
			for _, n := range []int{1, 5, 9} {
				a := at.send("POST", "/orders/7", number("p", n), "")
				a.is(p.t, fmt.Sprint(n), 503, "idempotency-store-away", "no")
				said = append(said, told(a), a.problem.Detail)
			}
			errored(3)
			set(nil, nil)
			at.send("POST", "/orders/7", number("p", 5), "").is(p.t, "it is there again", 200, "", "")
			set(gone, gone)
			at.send("POST", "/orders/7", number("p", 6), "").is(p.t, "the owner knows", 200, "", "")
			errored(4)
			if n := store().kept("p"); n.Seq != 5 {
				p.t.Errorf("%v is kept", n)
			}
			set(nil, nil)
			at.send("POST", "/orders/7", number("p", 7), "").is(p.t, "the next", 200, "", "")
			errored(4)
			if n := store().kept("p"); n.Seq != 7 {
				p.t.Errorf("%v is kept", n)
			}
			return said
		})
	}
}

// TestACrashBeforeTheMarkIsSaved: what ran is then the next number still, and its record
// says so; the numbers behind it go on.
//
// Mutants: a number whose answer was not kept is the next one for ever.
func TestACrashBeforeTheMarkIsSaved(t *testing.T) {
	changes, store := lasting(nil, func(*markStore) {})
	var marks *sequence.Marks
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) {
		inner(n, c)
		c.Routes[0].Idempotency.MaxEntry = 1000
		if n == 0 {
			marks = c.Marks
		}
	}
	crash := func(kept uint64) { // of all that the owner knew, and what was saved
		n := partition("order:7")
		marks.Seal(n)
		marks.Open(n)
		store().mu.Lock()
		defer store().mu.Unlock()
		store().marks["order:7 p"] = sequence.Number{Producer: "p", Seq: kept}
	}
	answers := func(x *exchange) {
		switch x.get("Lanekeeper-Seq") {
		case "2":
			x.ok(strings.Repeat("x", 2000))
		case "4":
			x.conn.Close()
		default:
			x.ok(x.get("Lanekeeper-Seq"))
		}
	}
	both(t, "", changes, answers, func(p *pair, at *member) (said []string) {
		send := func(n, status int, slug string) {
			p.t.Helper()
			a := at.send("POST", "/orders/7", number("p", n), "")
			if a.status != status || a.slug() != slug {
				p.t.Errorf("%d: %d %s, want %d %s", n, a.status, a.slug(), status, slug)
			}
			said = append(said, told(a), a.problem.Detail)
		}
		send(1, 200, "")
		crash(0)
		send(1, 200, "")
		send(2, 200, "")
		crash(1)
		send(2, 409, "idempotency-not-replayable")
		send(3, 200, "")
		send(4, 502, "upstream-reset")
		crash(3)
		send(5, 409, "sequence-gap")
		send(4, 409, "idempotency-outcome-unknown")
		send(5, 200, "")
		if n := p.service.executed(); n != 5 {
			p.t.Errorf("%d requests ran, want 5", n)
		}
		if n := store().kept("p"); n.Seq != 5 {
			p.t.Errorf("%v is kept", n)
		}
		return said
	})
}

// Mutants: that there is no room is not said.
func TestMarksOfTheStoreFindNoRoom(t *testing.T) {
	changes, _ := lasting(nil, said("order:7", "p", 0, 4))
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) {
		inner(n, c)
		c.Marks = sequence.New(sequence.Config{MaxMarks: 1})
	}
	both(t, "", changes, func(x *exchange) { x.ok("") }, func(p *pair, at *member) []string {
		at.send("POST", "/orders/7", number("q", 1), "").is(p.t, "the one that has room", 200, "", "")
		a := at.send("POST", "/orders/7", number("p", 5), "")
		a.is(p.t, "another", 503, "overloaded", "no")
		return []string{told(a), a.problem.Detail}
	})
}

// Mutants: a number runs unrecorded, since names may.
func TestNumbersNeedTheirRecords(t *testing.T) {
	changes, _ := lasting(nil, func(*markStore) {})
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) {
		inner(n, c)
		c.Routes[0].Idempotency.StoreAway = proxy.RunUnrecorded
		c.Records["memory"] = awayStore{errors.New("no route to host")}
	}
	both(t, "", changes, func(x *exchange) { x.ok("") }, func(p *pair, at *member) []string {
		a := at.send("POST", "/orders/7", number("p", 1), "")
		a.is(p.t, "the first", 503, "idempotency-store-away", "no")
		return []string{told(a), a.problem.Detail}
	})
}
