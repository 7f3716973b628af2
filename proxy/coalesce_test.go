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
)

// coalescing has the orders of both nodes coalesce by rules, beside a route of the same
// space that has none, and one that only watches.
func coalescing(rules ...proxy.Coalesce) change {
	return change{proxy: func(_ int, c *proxy.Config) {
		c.TicketHeader = true
		c.Routes[0].Coalesce = rules
		c.Routes[0].Lane.Shared = []string{"GET", "HEAD", "REPORT"}
		patient(&c.Routes[0].Lane)
		notes := c.Routes[0]
		notes.Name, notes.Match.Path, notes.Coalesce = "note", "/notes/{id}/{rest...}", nil
		watched := c.Routes[0]
		watched.Name, watched.Match.Path, watched.Lane.Mode = "watched", "/watched/{id}/{rest...}", proxy.Observe
		c.Routes = append([]proxy.Route{c.Routes[0], notes, watched}, c.Routes[1:]...)
	}}
}

// sent is a request, as METHOD path, and its answer.
type sent struct {
	line    string
	answers <-chan *answer
}

func (m *member) sends(line, host string) sent {
	m.t.Helper()
	method, path, _ := strings.Cut(line, " ")
	c, answers := m.open(), make(chan *answer, 1)
	fmt.Fprintf(c.conn, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n", method, path, host)
	go func() {
		a, _ := c.read(method)
		answers <- a
	}()
	synctest.Wait()
	return sent{line, answers}
}

// answered is the answer, if it has come.
func (s sent) answered() *answer {
	select {
	case a := <-s.answers:
		return a
	default:
		return nil
	}
}

// finishes expects a request at the service, answers it, and returns its answer.
func (p *pair) finishes(s sent) *answer {
	p.t.Helper()
	x := p.next()
	if x == nil {
		p.t.Fatalf("%s does not run", s.line)
	}
	if !strings.HasPrefix(x.start, s.line+" ") {
		p.t.Fatalf("%s runs, not %s", x.start, s.line)
	}
	x.finish("")
	return <-s.answers
}

var deletes = proxy.Coalesce{By: "DELETE", Over: []string{"PUT", "PATCH"}}

// TestALaterRequestSupersedes sends each line of requests, of which the first runs, to the
// key's owner, to the other node, and to both in turns: who is superseded is told at once,
// and the others run in their order.
//
// Mutants: the rules of another method count; the query does not, or the scope, either
// way; what another route of the space waits for is not known; rules of another route
// count; a method in small letters is another one; the effect does not travel, or its
// scope, or the owner does not look at it; a superseded request is answered like one that
// was evicted; it is not counted, or told of another ticket.
func TestALaterRequestSupersedes(t *testing.T) {
	puts := proxy.Coalesce{By: "PUT", Over: []string{"PUT"}}
	anywhere := proxy.Coalesce{By: "DELETE", Over: []string{"PUT", "PATCH"}, Scope: proxy.ScopeKey}
	for _, test := range []struct {
		name  string
		rules []proxy.Coalesce
		line  string // a * marks those that the last one supersedes
	}{
		{"a delete", []proxy.Coalesce{deletes}, "PUT /orders/7, PUT /orders/7*, PATCH /orders/7*, PUT /orders/7*, DELETE /orders/7"},
		{"small letters", []proxy.Coalesce{deletes}, "PUT /orders/7, patch /orders/7*, DELETE /orders/7"},
		{"no rule", nil, "PUT /orders/7, PUT /orders/7, DELETE /orders/7"},
		{"the other way", []proxy.Coalesce{deletes}, "PUT /orders/7, DELETE /orders/7, PUT /orders/7"},
		{"not by itself", []proxy.Coalesce{deletes}, "PUT /orders/7, PUT /orders/7, PUT /orders/7"},
		{"by itself", []proxy.Coalesce{deletes, puts}, "PUT /orders/7, PATCH /orders/7, PUT /orders/7*, PUT /orders/7"},
		{"another path", []proxy.Coalesce{deletes}, "PUT /orders/7, PUT /orders/7, PUT /orders/7/a, PUT /orders/7*, DELETE /orders/7"},
		{"another spelling", []proxy.Coalesce{deletes}, "PUT /orders/7/a, PUT /orders/7/%61, DELETE /orders/7/a"},
		{"another query", []proxy.Coalesce{deletes}, "PUT /orders/7, PUT /orders/7/a?b, DELETE /orders/7/a"},
		{"an empty query", []proxy.Coalesce{deletes}, "PUT /orders/7, PUT /orders/7/a?, DELETE /orders/7/a"},
		{"the same query", []proxy.Coalesce{deletes}, "PUT /orders/7, PUT /orders/7/a?b=c*, DELETE /orders/7/a?b=c"},
		{"the key alone", []proxy.Coalesce{anywhere}, "PUT /orders/7, PUT /orders/7/a*, PATCH /orders/7?b*, DELETE /orders/7"},
		{"another key", []proxy.Coalesce{anywhere}, "PUT /orders/7, PUT /orders/7*, PUT /orders/11, DELETE /orders/7"},
		{"a read between", []proxy.Coalesce{anywhere}, "PUT /orders/7, PUT /orders/7, GET /orders/7, PUT /orders/7*, DELETE /orders/7"},
		{"a read that a rule names", []proxy.Coalesce{{By: "DELETE", Over: []string{"PUT", "REPORT"}}}, "PUT /orders/7, PUT /orders/7, REPORT /orders/7, DELETE /orders/7"},
		{"another method between", []proxy.Coalesce{anywhere}, "PUT /orders/7, PUT /orders/7, POST /orders/7, PUT /orders/7*, DELETE /orders/7"},
		{"another route of the space", []proxy.Coalesce{anywhere}, "PUT /notes/7, PUT /notes/7*, PUT /orders/7*, DELETE /orders/7"},
		{"by another route", []proxy.Coalesce{anywhere}, "PUT /orders/7, PUT /orders/7, DELETE /notes/7"},
		{"one that runs", []proxy.Coalesce{anywhere}, "PUT /orders/7, DELETE /orders/7"},
	} {
		for where, at := range map[string][]int{"at the owner": {0}, "forwarded": {1}, "both": {0, 1}} {
			bubble(t, test.name+", "+where, func(t *testing.T) {
				p := startPair(t, coalescing(test.rules...), nil)
				var all []sent
				lines := strings.Split(test.line, ", ")
				for i, line := range lines {
					all = append(all, p.nodes[at[i%len(at)]].sends(strings.TrimSuffix(line, "*"), "a"))
				}
				gone := 0
				var details string
				for i, s := range all {
					if !strings.HasSuffix(lines[i], "*") {
						continue
					}
					gone++
					a := s.answered()
					if a == nil {
						t.Fatalf("%d, %s, waits on", i, s.line)
					}
					a.is(t, s.line, 409, "superseded", "no")
					details += a.problem.Detail
				}
				var last *answer
				if test.name == "another key" {
					x, other := p.next(), p.next() // one of each
					for _, x := range []*exchange{x, other} {
						x.finish("")
					}
					if last = p.finishes(all[3]); last.status != 200 {
						t.Errorf("the last: %d", last.status)
					}
				} else {
					for i, s := range all {
						if strings.HasSuffix(lines[i], "*") {
							continue
						}
						if last = p.finishes(s); last.status != 200 {
							t.Errorf("%d, %s: %d", i, s.line, last.status)
						}
					}
				}
				p.quiet("all have run")
				if n := strings.Count(details, last.header.Get("Lanekeeper-Ticket")); n != gone {
					t.Errorf("%d of %d name the one that superseded them: %s", n, gone, details)
				}
				var counted, refused float64
				for _, n := range p.nodes {
					counted += n.metric("lanekeeper_coalesced_total")
					refused += n.metric("lanekeeper_rejected_total", "reason", "superseded")
				}
				if counted != float64(gone) || refused != float64(gone) {
					t.Errorf("%v are counted, and %v as refused; %d were superseded", counted, refused, gone)
				}
			})
		}
	}
}

// Mutant: Host is not part of what a request is about.
func TestAnotherHostIsNotSuperseded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, coalescing(deletes), nil)
		var all []sent
		for i, host := range []string{"a", "b", "a", "a"} {
			all = append(all, p.nodes[i%2].sends([]string{"PUT", "PUT", "PUT", "DELETE"}[i]+" /orders/7", host))
		}
		if a := all[2].answered(); a == nil || a.status != 409 {
			t.Errorf("the same host: %+v", a)
		}
		for _, s := range []sent{all[0], all[1], all[3]} {
			p.finishes(s)
		}
	})
}

// A rule's status is the whole answer of those that it concerns, and the log says why
// they have it.
//
// Mutants: the rule's status does not travel, or the answer's; the ingress does not look
// at it; it comes with a body; any status is taken from the hop.
func TestASupersededRequestIsAnsweredByItsRule(t *testing.T) {
	for _, status := range []int{0, 409, 200, 202, 204, 500} {
		for i, where := range []string{"at the owner", "forwarded"} {
			bubble(t, fmt.Sprint(status, ", ", where), func(t *testing.T) {
				rule := deletes
				rule.Status = status
				p := startPair(t, coalescing(rule), nil)
				at := p.nodes[i]
				first, needless, by := at.sends("PUT /orders/7", "a"), at.sends("PUT /orders/7", "a"), at.sends("DELETE /orders/7", "a")
				a := needless.answered()
				switch status {
				case 200, 202, 204:
					if a.status != status || a.body != "" || a.header.Get("Content-Type") != "" || a.header.Get("Proxy-Status") != "" {
						t.Errorf("%d %q %v", a.status, a.body, a.header)
					}
				default:
					a.is(t, "superseded", 409, "superseded", "no")
					if a.problem.Route != "order" || a.header.Get("Proxy-Status") == "" || a.problem.QueueDepth == nil {
						t.Errorf("%+v %v", a.problem, a.header)
					}
				}
				p.finishes(first)
				if a := p.finishes(by); a.status != 200 || a.header.Get("Lanekeeper-Ticket") == "" {
					t.Errorf("the one that supersedes: %d %v", a.status, a.header)
				}
				if n := p.nodes[0].metric("lanekeeper_coalesced_total", "route", "order"); n != 1 {
					t.Errorf("the owner counts %v", n)
				}
				log := at.log.String()
				if !strings.Contains(log, `"reason":"superseded","executed":"no"`) || !strings.Contains(log, fmt.Sprintf(`"status":%d`, a.status)) {
					t.Errorf("the log does not say so:\n%s", log)
				}
			})
		}
	}
}

// A lane that is full of what a request makes needless has room for it; one that has no
// room even so loses nobody. What only watches supersedes nobody, for nothing waits there.
//
// Mutants: the lane's depth is judged before superseding; a refused request supersedes.
func TestAFullLaneTakesWhatEmptiesIt(t *testing.T) {
	for i, where := range []string{"at the owner", "forwarded"} {
		bubble(t, where, func(t *testing.T) {
			p := startPair(t, coalescing(deletes), nil)
			at := p.nodes[i]
			first := at.sends("PUT /orders/7", "a")
			var waiting []sent
			for range 4 { // max_depth
				waiting = append(waiting, at.sends("PUT /orders/7", "a"))
			}
			for _, line := range []string{"PUT /orders/7", "DELETE /orders/7/other"} {
				(<-at.sends(line, "a").answers).is(t, line, 429, "lane-full", "no")
			}
			for _, s := range waiting {
				if a := s.answered(); a != nil {
					t.Fatalf("a refused request has superseded one that waits: %d", a.status)
				}
			}
			watched := at.sends("DELETE /watched/7", "a")
			by := at.sends("DELETE /orders/7", "a")
			for _, s := range waiting {
				(<-s.answers).is(t, "one that waits", 409, "superseded", "no")
			}
			x := p.next() // the two that run now came over one connection each
			other := p.next()
			x.finish("")
			other.finish("")
			<-first.answers
			<-watched.answers
			if a := p.finishes(by); a.status != 200 {
				t.Errorf("the one that supersedes: %d", a.status)
			}
		})
	}
}

// A large body is let in by what its head says: it has the room of those that it makes
// needless.
//
// Mutant: Refuses counts them.
func TestALargeBodyIsForeseenToEmptyItsLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, coalescing(proxy.Coalesce{By: "PUT", Over: []string{"PUT"}}), nil)
		var all []<-chan *answer
		put := func(path, body string) {
			_, a := p.nodes[0].async("PUT", path, nil, body)
			all = append(all, a)
		}
		put("/orders/7", "first")
		for i := range 4 { // max_depth
			put(fmt.Sprint("/orders/7/", i), "")
		}
		put("/orders/7/3", strings.Repeat("x", 100_000))
		(<-all[4]).is(t, "the last of a full lane", 409, "superseded", "no")
		put("/orders/7/2", strings.Repeat("x", 100_000))
		(<-all[6]).is(t, "one that makes nobody needless", 429, "lane-full", "no")
		for _, i := range []int{0, 1, 2, 3, 5} {
			p.next().finish("")
			(<-all[i]).is(t, fmt.Sprint(i), 200, "", "")
		}
	})
}

// Requests that came for an owner that nobody knew supersede each other when their own
// node turns out to be it.
//
// Mutant: placeFor's effect is that of the hop alone.
func TestRequestsSupersedeAfterAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, coalescing(deletes), nil)
		busy := p.leave("order:7")
		var all []sent
		for _, line := range []string{"PUT /orders/7", "PUT /orders/7", "DELETE /orders/7"} {
			all = append(all, p.nodes[1].sends(line, "a"))
		}
		p.take("order:7", p.nodes[1], busy, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if a := all[1].answered(); a == nil || a.slug() != "superseded" {
			t.Errorf("%+v", a)
		}
		p.finishes(all[0])
		p.finishes(all[2])
	})
}

// Of a spilled key those supersede each other that wait at the same node.
//
// Mutants: what waits aside has no effect; its place is not given up when it is
// superseded.
func TestSpilledRequestsSupersedeWhereTheyWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules := coalescing(deletes)
		p := startPair(t, change{proxy: func(i int, c *proxy.Config) {
			rules.proxy(i, c)
			spilled(nil)(&c.Routes[0].Lane)
		}}, nil)
		p.spill("/orders/7/hot")
		owner, ingress := p.nodes[0], p.nodes[1]
		first := ingress.sends("PUT /orders/7", "a")
		elsewhere := owner.sends("PUT /orders/7", "a")
		var needless []sent
		for range 5 {
			needless = append(needless, ingress.sends("PUT /orders/7", "a"))
		}
		by := ingress.sends("DELETE /orders/7", "a")
		for i, s := range needless {
			a := s.answered()
			if a == nil {
				t.Fatalf("%d waits on", i)
			}
			a.is(t, fmt.Sprint(i), 409, "superseded", "no")
		}
		if a := elsewhere.answered(); a != nil {
			t.Errorf("one at the owner is superseded by one at another node: %d", a.status)
		}
		for range 3 { // each turn of either node ends
			x := p.next()
			if x == nil {
				t.Fatal("nothing runs")
			}
			x.finish("")
		}
		for _, s := range []sent{first, elsewhere, by} {
			(<-s.answers).is(t, s.line, 200, "", "")
		}
		if n := ingress.metric("lanekeeper_coalesced_total", "route", "order"); n != 5 {
			t.Errorf("the ingress counts %v", n)
		}
		p.settled()
	})
}

// TestSupersededOrExecuted has many clients at both nodes ask for few keys: each request is
// answered once; who is told that it was superseded has not been executed, and everybody
// else once. It is for the race detector, too.
//
// Mutant: who is superseded runs all the same.
func TestSupersededOrExecuted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		executed := make(map[string]int)
		rng := rand.New(rand.NewPCG(1, 2))
		rules := coalescing(deletes, proxy.Coalesce{By: "PUT", Over: []string{"PUT"}},
			proxy.Coalesce{By: "POST", Over: []string{"PUT", "DELETE"}, Scope: proxy.ScopeKey, Status: 202})
		p := startPair(t, change{proxy: func(i int, c *proxy.Config) { rules.proxy(i, c); c.Routes[0].Lane.MaxDepth = 10 },
			lag: func() time.Duration { return time.Duration(rand.IntN(300)) * time.Microsecond },
		}, func(x *exchange) {
			mu.Lock()
			executed[string(x.body)]++
			work := time.Duration(rng.IntN(3000)) * time.Microsecond
			mu.Unlock()
			time.Sleep(work)
			x.ok("executed")
		})
		results := make(map[string]string)
		var clients sync.WaitGroup
		for i := range 24 {
			rng := rand.New(rand.NewPCG(3, uint64(i)))
			clients.Go(func() {
				c := p.nodes[i%2].open()
				for j := range 40 {
					method := []string{"PUT", "PUT", "PUT", "PATCH", "DELETE", "POST", "GET"}[rng.IntN(7)]
					id := fmt.Sprint(i, "/", j)
					a := c.send(method, fmt.Sprintf("/orders/%d/%d", rng.IntN(3), rng.IntN(2)), http.Header{}, id)
					mu.Lock()
					results[id] = fmt.Sprint(a.status, a.slug(), a.body == "executed")
					mu.Unlock()
					if rng.IntN(4) == 0 {
						time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond)
					}
				}
			})
		}
		clients.Wait()
		count := make(map[string]int)
		for id, result := range results {
			count[result]++
			want := 0
			switch result {
			case "200true":
				want = 1
			case "409supersededfalse", "202false", "429lane-fullfalse":
			default:
				t.Errorf("%s: %s", id, result)
			}
			if executed[id] != want {
				t.Errorf("%s: %s, executed %d times", id, result, executed[id])
			}
		}
		t.Log(count)
		if len(results) != 24*40 || count["409supersededfalse"] < 20 || count["202false"] < 5 || count["200true"] < 100 {
			t.Errorf("%d requests: %v", len(results), count)
		}
		if n := p.nodes[0].metric("lanekeeper_coalesced_total"); n != float64(count["409supersededfalse"]+count["202false"]) {
			t.Errorf("%v are counted, %v", n, count)
		}
	})
}
