package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/proxy/idempotency"
)

// remembering has each node keep records, as rule says, of requests with names.
func remembering(rule func(*proxy.Idempotency)) change {
	return change{proxy: func(_ int, c *proxy.Config) {
		kept := proxy.MustStatuses("2xx", "3xx", "4xx", "500")
		i := proxy.Idempotency{
			Mode: proxy.IdempotencyOptional, Header: "Idempotency-Key", Store: "memory", TTL: time.Hour, Lease: time.Second, MaxEntry: 50_000,
			Print:        proxy.PrintMethod | proxy.PrintPath | proxy.PrintQuery | proxy.PrintContentType | proxy.PrintBody,
			ScopeHeaders: []string{"Authorization"}, Replay: kept.Without(429),
		}
		if rule != nil {
			rule(&i)
		}
		c.Routes[0].Idempotency = i
		c.Records = map[string]idempotency.Store{"memory": idempotency.NewMemory(idempotency.MemoryConfig{MaxRecords: 1000, MaxBytes: 1 << 20})}
	}}
}

func called(name string) http.Header { return http.Header{"Idempotency-Key": {name}} }

// counting answers with how many requests came, this one included.
func counting(x *exchange) { x.ok(fmt.Sprintf("%s %d", x.path(), x.script.executed())) }

// Mutants: nothing is looked up; nothing is kept; what is kept is not marked as replayed;
// a name is one for all callers, keys or payloads; a quoted name is another than the bare
// one.
func TestARequestWithANameRunsOnce(t *testing.T) {
	both(t, "", remembering(nil), counting, func(p *pair, at *member) (said []string) {
		send := func(what, path string, header http.Header, body, want string, replayed bool) {
			p.t.Helper()
			a := at.send("POST", path, header, body)
			if a.status != 200 || a.body != want || (a.header.Get("Idempotent-Replayed") == "true") != replayed {
				p.t.Errorf("%s: got %d %q replayed %q, want %q, %v", what, a.status, a.body, a.header.Get("Idempotent-Replayed"), want, replayed)
			}
			said = append(said, told(a))
		}
		send("the first", "/orders/7", called("a"), "x", "/orders/7 1", false)
		send("again", "/orders/7", called("a"), "x", "/orders/7 1", true)
		send("quoted", "/orders/7", called(`"a"`), "x", "/orders/7 1", true)
		send("another name", "/orders/7", called("b"), "x", "/orders/7 2", false)
		send("another key", "/orders/8", called("a"), "x", "/orders/8 3", false)
		send("no name", "/orders/7", nil, "x", "/orders/7 4", false)
		send("another caller", "/orders/7", http.Header{"Idempotency-Key": {"a"}, "Authorization": {"b"}}, "x", "/orders/7 5", false)
		send("a third caller", "/orders/7", http.Header{"Idempotency-Key": {"a"}, "Authorization": {"c"}}, "x", "/orders/7 6", false)
		send("that caller again", "/orders/7", http.Header{"Idempotency-Key": {"a"}, "Authorization": {"b"}}, "x", "/orders/7 5", true)
		for what, a := range map[string]*answer{
			"another body": at.send("POST", "/orders/7", called("a"), "y"), "another query": at.send("POST", "/orders/7?q", called("a"), "x"),
			"another method": at.send("PUT", "/orders/7", called("a"), "x"), "another path": at.send("POST", "/orders/7/b", called("a"), "x"),
		} {
			a.is(p.t, what, 422, "idempotency-key-reused", "no")
		}
		a := at.send("POST", "/orders/7", called("a"), "y")
		said = append(said, told(a), a.problem.Detail)
		time.Sleep(time.Hour)
		send("after its time", "/orders/7", called("a"), "x", "/orders/7 7", false)
		return said
	})
}

// Mutants: a name may be missing though one is required; an empty or long one is taken;
// two are.
func TestNamesThatCannotBeUsed(t *testing.T) {
	both(t, "", remembering(func(i *proxy.Idempotency) { i.Mode = proxy.IdempotencyRequired }), counting, func(p *pair, at *member) (said []string) {
		for _, test := range []struct {
			what   string
			header http.Header
			slug   string
		}{
			{"none", nil, "idempotency-key-missing"},
			{"empty", called(""), "invalid-idempotency-key"},
			{"quoted and empty", called(`""`), "invalid-idempotency-key"},
			{"a space", called("a b"), "invalid-idempotency-key"},
			{"an open quote", called(`"a`), "invalid-idempotency-key"},
			{"long", called(strings.Repeat("a", 256)), "invalid-idempotency-key"},
			{"two", http.Header{"Idempotency-Key": {"a", "b"}}, "invalid-idempotency-key"},
			{"two spellings", http.Header{"Idempotency-Key": {"a"}, "Idempotency_Key": {"b"}}, "invalid-idempotency-key"},
		} {
			a := at.send("POST", "/orders/7", test.header, "x")
			a.is(p.t, test.what, 400, test.slug, "no")
			said = append(said, told(a), a.problem.Detail)
		}
		at.send("POST", "/orders/7", called(strings.Repeat("a", 255)), "x").is(p.t, "255 bytes", 200, "", "")
		at.send("GET", "/orders/7", nil, "").is(p.t, "a read", 200, "", "")
		if n := p.service.executed(); n != 2 {
			p.t.Errorf("%d requests ran, want 2", n)
		}
		return said
	})
}

// Mutants: who waited is counted as replayed alone; the name is kept after a request that
// left, or that was answered.
func TestDuplicatesOnTheWay(t *testing.T) {
	both(t, "wait", remembering(nil), nil, func(p *pair, at *member) (said []string) {
		_, first := at.async("POST", "/orders/7", called("a"), "x")
		_, second := at.async("POST", "/orders/7", called("a"), "x")
		_, other := at.async("POST", "/orders/7", nil, "x")
		p.ran("/orders/7", p.nodes[0]).finish("done")
		p.ran("/orders/7", p.nodes[0]).finish("other")
		for _, a := range []*answer{<-first, <-second, <-other} {
			said = append(said, told(a)+a.body+a.header.Get("Idempotent-Replayed"))
		}
		if said[0] == said[1] || !strings.HasSuffix(said[1], "donetrue") {
			p.t.Errorf("got %q", said)
		}
		owner := p.nodes[0]
		if have := owner.metric("lanekeeper_idempotency_total", "result", "waited"); have != 1 {
			p.t.Errorf("%v waited, want 1", have)
		}
		return said
	})
	both(t, "conflict", remembering(func(i *proxy.Idempotency) { i.Concurrent = proxy.ConflictAtOnce }), nil, func(p *pair, at *member) (said []string) {
		_, running := at.async("POST", "/orders/7", called("a"), "x")
		x := p.ran("/orders/7", p.nodes[0])
		c, _ := at.async("POST", "/orders/7", called("b"), "x")
		for _, name := range []string{"a", "b"} {
			a := at.send("POST", "/orders/7", called(name), "x")
			a.is(p.t, name, 409, "idempotency-in-progress", "no")
			said = append(said, told(a), a.problem.Detail)
		}
		c.conn.Close() // the waiting one leaves, and its name is free
		time.Sleep(5 * time.Second)
		x.finish("")
		said = append(said, told(<-running))
		_, again := at.async("POST", "/orders/7", called("b"), "x")
		p.ran("/orders/7", p.nodes[0]).finish("")
		a := <-again
		a.is(p.t, "after the one that left", 200, "", "")
		return append(said, told(a))
	})
}

// Mutants: a response that says "send it again" is kept, or is an unknown outcome; an
// unknown outcome is forgotten, or may run again; the upstream's own look is not trusted
// when it should be.
func TestWhatIsKept(t *testing.T) {
	var status atomic.Int64
	answers := func(x *exchange) {
		switch n := status.Load(); n {
		case 0:
			x.conn.Close()
		case 1:
			x.write("HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n%s", strings.Repeat("x", 60_000))
		default:
			x.write("HTTP/1.1 %d Status\r\nContent-Length: 4\r\nX-Of: app\r\n\r\nbody", n)
		}
	}
	for _, test := range []struct {
		status int64
		again  bool
		slug   string
	}{
		{200, false, ""}, {301, false, ""}, {404, false, ""}, {500, false, ""},
		{429, true, ""}, {501, true, ""}, {502, true, ""}, {503, true, ""}, {504, true, ""},
		{0, false, "idempotency-outcome-unknown"}, {1, false, "idempotency-not-replayable"},
	} {
		both(t, fmt.Sprint(test.status), remembering(nil), answers, func(p *pair, at *member) (said []string) {
			status.Store(test.status)
			first := at.send("POST", "/orders/7", called("a"), "x")
			status.Store(200)
			a := at.send("POST", "/orders/7", called("a"), "x")
			ran := map[bool]int{false: 1, true: 2}[test.again]
			if n := p.service.executed(); n != ran {
				p.t.Errorf("it ran %d times, want %d", n, ran)
			}
			switch {
			case test.slug != "":
				executed := map[bool]string{false: "no", true: "unknown"}[test.slug == "idempotency-outcome-unknown"]
				a.is(p.t, "again", 409, test.slug, executed)
			case test.again:
				a.is(p.t, "again", 200, "", "")
			case a.status != first.status || a.body != first.body || a.header.Get("X-Of") != "app" || a.header.Get("Content-Type") != first.header.Get("Content-Type"):
				p.t.Errorf("got %d %q %v, want %d %q %v", a.status, a.body, a.header, first.status, first.body, first.header)
			}
			return append(said, told(first), told(a), a.problem.Detail)
		})
	}
	both(t, "not sent", remembering(nil), answers, func(p *pair, at *member) (said []string) {
		status.Store(200)
		p.reachable(false)
		at.send("POST", "/orders/7", called("a"), "x").is(p.t, "unreachable", 502, "upstream-connect", "no")
		p.reachable(true)
		a := at.send("POST", "/orders/7", called("a"), "x")
		a.is(p.t, "again", 200, "", "")
		return append(said, told(a))
	})
	both(t, "executed again", remembering(func(i *proxy.Idempotency) { i.Unknown = proxy.ExecuteAgain }), answers, func(p *pair, at *member) (said []string) {
		status.Store(0)
		at.send("POST", "/orders/7", called("a"), "x").is(p.t, "unknown", 502, "upstream-reset", "unknown")
		status.Store(200)
		a := at.send("POST", "/orders/7", called("a"), "x")
		a.is(p.t, "again", 200, "", "")
		return append(said, told(a))
	})
}

// Mutants: the name of a timed-out request may be claimed again.
func TestADuplicateOfALateRequest(t *testing.T) {
	both(t, "", remembering(nil), nil, func(p *pair, at *member) (said []string) {
		_, first := at.async("POST", "/orders/7", called("a"), "x")
		x := p.ran("/orders/7", p.nodes[0])
		a := <-first
		a.is(p.t, "late", 504, "upstream-timeout", "unknown")
		_, second := at.async("POST", "/orders/7", called("a"), "x")
		p.quiet("a duplicate, while the first may be at work")
		x.finish("late")
		b := <-second
		b.is(p.t, "its duplicate", 409, "idempotency-outcome-unknown", "unknown")
		return append(said, told(a), told(b))
	})
}

// awayStore is a store that does not answer, or is full.
type awayStore struct{ err error }

func (s awayStore) Begin(context.Context, *idempotency.Request) (idempotency.Run, idempotency.Record, error) {
	return nil, idempotency.Record{}, s.err
}

func (awayStore) Close() error { return nil }

// Mutants: a request runs though nothing is known; it is refused though it may run; a
// store that is full is taken for one that is away.
func TestTheStoreIsAway(t *testing.T) {
	for _, test := range []struct {
		err    error
		policy proxy.StoreAway
		status int
		slug   string
	}{
		{errors.New("no route to host"), proxy.RefuseUnrecorded, 503, "idempotency-store-away"},
		{errors.New("no route to host"), proxy.RunUnrecorded, 200, ""},
		{idempotency.ErrFull, proxy.RunUnrecorded, 503, "overloaded"},
	} {
		changes := remembering(func(i *proxy.Idempotency) { i.StoreAway = test.policy })
		inner := changes.proxy
		changes.proxy = func(n int, c *proxy.Config) {
			inner(n, c)
			c.Records["memory"] = awayStore{test.err}
		}
		both(t, fmt.Sprint(test.slug, test.status), changes, counting, func(p *pair, at *member) (said []string) {
			a := at.send("POST", "/orders/7", called("a"), "x")
			executed := map[bool]string{true: "no"}[test.slug != ""]
			a.is(p.t, "", test.status, test.slug, executed)
			errors := map[bool]float64{true: 1}[test.err != idempotency.ErrFull]
			if have := p.nodes[0].metric("lanekeeper_idempotency_store_errors_total", "store", "memory"); have != errors {
				p.t.Errorf("%v errors are counted, want %v", have, errors)
			}
			return append(said, told(a), a.problem.Detail)
		})
	}
}

// elsewhereStore is a store whose first answers are that somebody else has the name.
type elsewhereStore struct {
	idempotency.Store
	times atomic.Int64
}

func (s *elsewhereStore) Begin(ctx context.Context, r *idempotency.Request) (idempotency.Run, idempotency.Record, error) {
	if s.times.Add(-1) >= 0 {
		return nil, idempotency.Record{State: idempotency.Running, Print: r.Print, Until: time.Second}, nil
	}
	return s.Store.Begin(ctx, r)
}

// Mutants: a claim of another node's is not waited for; it is waited for without end.
func TestAClaimOfAnotherNode(t *testing.T) {
	for _, test := range []struct {
		times  int64
		status int
		slug   string
	}{{4, 200, ""}, {1 << 40, 409, "idempotency-in-progress"}} {
		synctest.Test(t, func(t *testing.T) {
			store := &elsewhereStore{Store: idempotency.NewMemory(idempotency.MemoryConfig{})}
			store.times.Store(test.times)
			changes := remembering(nil)
			inner := changes.proxy
			changes.proxy = func(n int, c *proxy.Config) {
				inner(n, c)
				c.Records["memory"] = store
			}
			p := startPair(t, changes, counting)
			a, took := p.nodes[0].after("POST", "/orders/7", called("a"), "x")
			a.is(t, "", test.status, test.slug, map[bool]string{true: "no"}[test.slug != ""])
			if took > 10*time.Second {
				t.Errorf("answered after %v", took)
			}
		})
	}
}

// Mutants: a repetition supersedes those that came after the first; so does a request whose
// name is on its way.
func TestARepetitionSupersedesNobody(t *testing.T) {
	changes, rules := remembering(nil), coalescing(deletes)
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) { inner(n, c); rules.proxy(n, c); c.Routes[0].Lane.MaxDepth = 20 }
	both(t, "", changes, nil, func(p *pair, at *member) (said []string) {
		_, first := at.async("DELETE", "/orders/7", called("d"), "")
		p.ran("/orders/7", p.nodes[0]).finish("")
		said = append(said, told(<-first))
		_, running := at.async("POST", "/orders/7", nil, "x")
		x := p.ran("/orders/7", p.nodes[0])
		_, put := at.async("PUT", "/orders/7", nil, "x")
		_, again := at.async("DELETE", "/orders/7", called("d"), "")
		_, last := at.async("POST", "/orders/7", nil, "x") // keeps the two apart
		_, next := at.async("DELETE", "/orders/7", called("e"), "")
		_, late := at.async("PUT", "/orders/7", nil, "x")
		_, twice := at.async("DELETE", "/orders/7", called("e"), "")
		x.finish("")
		for range 4 {
			p.ran("/orders/7", p.nodes[0]).finish("")
		}
		for what, answers := range map[string]<-chan *answer{"put": put, "again": again, "running": running, "last": last, "next": next, "late": late, "twice": twice} {
			(<-answers).is(p.t, what, 200, "", "")
		}
		return said
	})
}

// Mutants: a superseded request that comes again runs; the answer that is kept is not the
// one that was given.
func TestASupersededRequestStaysSo(t *testing.T) {
	changes, rules := remembering(nil), coalescing(deletes)
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) { inner(n, c); rules.proxy(n, c) }
	both(t, "", changes, nil, func(p *pair, at *member) (said []string) {
		_, running := at.async("POST", "/orders/7", nil, "x")
		x := p.ran("/orders/7", p.nodes[0])
		_, superseded := at.async("PUT", "/orders/7", called("a"), "x")
		_, last := at.async("DELETE", "/orders/7", nil, "")
		first := <-superseded
		first.is(p.t, "superseded", 409, "superseded", "no")
		x.finish("")
		p.ran("/orders/7", p.nodes[0]).finish("")
		again := at.send("PUT", "/orders/7", called("a"), "x")
		again.is(p.t, "again", 409, "superseded", "no")
		if again.header.Get("Idempotent-Replayed") != "true" || again.problem.Detail != first.problem.Detail || again.problem.Instance != first.problem.Instance {
			p.t.Errorf("got %v %+v, want %+v", again.header, again.problem, first.problem)
		}
		if n := p.service.executed(); n != 2 {
			p.t.Errorf("%d requests ran, want 2", n)
		}
		return append(said, told(<-running), told(<-last), told(first), told(again))
	})
}

// A client that had no patience sends its request again while the first is under way, and
// the repetition is superseded: what became of the first is the answer, for "not executed" would
// be false.
//
// Mutant: it is answered superseded.
func TestASupersededRepetitionIsAnsweredAsTheFirst(t *testing.T) {
	changes, rules := remembering(nil), coalescing(deletes)
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) { inner(n, c); rules.proxy(n, c) }
	both(t, "", changes, nil, func(p *pair, at *member) (said []string) {
		_, first := at.async("PUT", "/orders/7", called("a"), "x")
		x := p.ran("/orders/7", p.nodes[0])
		_, again := at.async("PUT", "/orders/7", called("a"), "x")
		_, last := at.async("DELETE", "/orders/7", nil, "")
		x.finish("put")
		a := <-again
		a.is(p.t, "again", 200, "", "")
		if a.body == "" || a.header.Get("Idempotent-Replayed") != "true" {
			p.t.Errorf("again: %q %v", a.body, a.header)
		}
		p.ran("/orders/7", p.nodes[0]).finish("deleted")
		if n := p.service.executed(); n != 2 {
			p.t.Errorf("%d requests ran, want 2", n)
		}
		return append(said, told(<-first), told(a), told(<-last))
	})
}

// Mutant: an attempt that is followed by another is the end of a request with a name.
func TestARetriedRequestHasOneEnd(t *testing.T) {
	changes := ordering(nil)
	inner := changes.proxy
	changes.proxy = func(n int, c *proxy.Config) {
		inner(n, c)
		c.Routes[0].Lane.AfterFailure = proxy.AfterFailure{Action: proxy.Retry, Attempts: 3, Backoff: time.Millisecond, MaxBackoff: time.Millisecond, UpstreamIdempotent: true}
	}
	both(t, "", changes, func(x *exchange) {
		if x.script.executed()%2 == 1 {
			x.write("nonsense\r\n\r\n")
			x.conn.Close()
			return
		}
		x.ok("done")
	}, func(p *pair, at *member) (said []string) {
		for what, header := range map[string]http.Header{"named": called("a"), "numbered": number("p", 1)} {
			first, again := at.send("POST", "/orders/7", header, "x"), at.send("POST", "/orders/7", header, "x")
			if first.status != 200 || again.status != 200 || again.body != "done" || again.header.Get("Idempotent-Replayed") != "true" {
				p.t.Errorf("%s: %d %q %v, then %d %s %v", what, first.status, first.body, first.header, again.status, again.slug(), again.header)
			}
		}
		if n := p.service.executed(); n != 4 {
			p.t.Errorf("%d attempts, want 4", n)
		}
		return nil
	})
}
