package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

// bubble runs a test under virtual time.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// async sends a request and delivers its answer: an empty one if the
// connection ends without.
func async(n *node, method, path string, header http.Header, body string) <-chan *answer {
	c, answers := n.open(), make(chan *answer, 1)
	c.write(method, path, header, body)
	go func() {
		a, _ := c.read(method)
		answers <- a
	}()
	synctest.Wait() // it has its place before the next one comes
	return answers
}

// Mutants: free at the start of dispatch (the second arrives beside the first);
// Admit with a key that lacks the value.
func TestOneKeyRunsOneAtATimeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		var answers []<-chan *answer
		for i := range 4 {
			answers = append(answers, async(n, "POST", "/orders/7/"+strconv.Itoa(i), nil, "x"))
		}
		other := async(n, "POST", "/orders/8", nil, "")
		first := n.service.next()
		if v := n.service.next(); v == nil || v.URL.Path != "/orders/8" {
			t.Fatalf("another key waits, or the same does not: %v", v)
		} else {
			v.finish(200, "")
		}
		<-other
		for i := range 4 {
			if want := fmt.Sprintf("/orders/7/%d", i); first == nil || first.URL.Path != want {
				t.Fatalf("request %d: got %v, want %s", i, first, want)
			}
			if early := n.service.next(); early != nil {
				t.Fatalf("%s runs beside %s", early.URL.Path, first.URL.Path)
			}
			first.finish(200, "")
			if a := <-answers[i]; a.status != 200 {
				t.Errorf("request %d: %d", i, a.status)
			}
			first = n.service.next()
		}
	})
}

func TestSharedRunTogetherUpToTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		for range 3 {
			async(n, "GET", "/orders/7", nil, "")
		}
		async(n, "PUT", "/orders/7", nil, "")
		a, b := n.service.next(), n.service.next()
		if a == nil || b == nil || n.service.next() != nil {
			t.Fatal("two of three GETs should run together")
		}
		a.finish(200, "")
		c := n.service.next()
		if c == nil || c.Method != "GET" {
			t.Fatalf("the third GET should follow: %v", c)
		}
		b.finish(200, "")
		if v := n.service.next(); v != nil {
			t.Fatalf("%s runs beside a GET", v.Method)
		}
		c.finish(200, "")
		if v := n.service.next(); v == nil || v.Method != "PUT" {
			t.Fatalf("the PUT should run now: %v", v)
		}
	})
}

// Mutant: free after the response is written.
func TestASlowClientDoesNotHoldTheLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		slow := n.open() // reads nothing
		slow.write("POST", "/orders/7", nil, "")
		synctest.Wait()
		next := async(n, "POST", "/orders/7", nil, "")
		n.service.next().finish(200, strings.Repeat("x", 1000))
		v := n.service.next()
		if v == nil {
			t.Fatal("the lane waits for a client that does not read")
		}
		v.finish(200, "")
		<-next
	})
}

// Mutant: the ticket is taken before the body is read.
func TestASlowSenderDoesNotHoldTheLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		slow := n.open()
		fmt.Fprintf(slow.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
		synctest.Wait()
		async(n, "POST", "/orders/7", nil, "quick")
		v := n.service.next()
		if v == nil || v.body != "quick" {
			t.Fatalf("want the complete request, got %v", v)
		}
		fmt.Fprint(slow.conn, "67890")
		v.finish(200, "")
		if v = n.service.next(); v == nil || v.body != "1234567890" {
			t.Fatalf("want the slow request, got %v", v)
		}
	})
}

func TestRefusalsInTheLane(t *testing.T) {
	bubble(t, "queue timeout", func(t *testing.T) {
		n := start(t, nil)
		async(n, "POST", "/orders/7", nil, "")
		waits := async(n, "POST", "/orders/7", nil, "")
		began := time.Now()
		a := <-waits
		if a.status != 503 || a.slug() != "lane-timeout" || a.problem.Executed != "no" || a.header.Get("Retry-After") == "" {
			t.Errorf("%d %+v", a.status, a.problem)
		}
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("it waited %v", waited)
		}
		n.service.next().finish(200, "")
		if v := n.service.next(); v != nil {
			t.Error("a request ran that was answered as not executed")
		}
	})
	bubble(t, "the client's own patience", func(t *testing.T) {
		n := start(t, nil)
		async(n, "POST", "/orders/7", nil, "")
		began := time.Now()
		a := <-async(n, "POST", "/orders/7", http.Header{"Prefer": {"respond-async, wait=3"}}, "")
		if a.slug() != "lane-timeout" || a.header.Get("Preference-Applied") != "wait=3" || time.Since(began) != 3*time.Second {
			t.Errorf("%s after %v, Preference-Applied %q", a.slug(), time.Since(began), a.header.Get("Preference-Applied"))
		}
		if a := <-async(n, "POST", "/orders/7", http.Header{"Prefer": {"wait=3000"}}, ""); a.slug() != "lane-timeout" || a.header.Get("Preference-Applied") != "wait=10" {
			t.Errorf("a client cannot wait longer than the route: %s, %q", a.slug(), a.header.Get("Preference-Applied"))
		}
	})
	bubble(t, "depth", func(t *testing.T) {
		n := start(t, nil)
		first := async(n, "POST", "/orders/7", nil, "")
		time.Sleep(6 * time.Second) // a turn takes 6 s
		n.service.next().finish(200, "")
		<-first
		for range 5 {
			async(n, "POST", "/orders/7", nil, "")
		}
		a := n.send("POST", "/orders/7", nil, "")
		if a.status != 429 || a.slug() != "lane-full" || a.problem.Executed != "no" || *a.problem.QueueDepth != 4 {
			t.Errorf("%d %+v", a.status, a.problem)
		}
		if a.problem.RetryAfter < 1 || a.header.Get("Retry-After") != strconv.Itoa(a.problem.RetryAfter) {
			t.Errorf("Retry-After %q, %d", a.header.Get("Retry-After"), a.problem.RetryAfter)
		}
		if a := n.send("POST", "/orders/8", nil, ""); a == nil {
			t.Error("another key suffers")
		}
	})
	bubble(t, "node limits", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.MaxInflight = 1 })
		async(n, "POST", "/orders/7", nil, "")
		if a := n.send("POST", "/orders/8", nil, ""); a.status != 503 || a.slug() != "overloaded" || a.problem.Executed != "no" {
			t.Errorf("%d %s", a.status, a.slug())
		}
		if a := n.send("GET", "/else", nil, ""); a.slug() != "overloaded" {
			t.Errorf("bypass: %d %s", a.status, a.slug())
		}
		n.service.next().finish(200, "")
		again := async(n, "POST", "/orders/8", nil, "")
		n.service.next().finish(200, "")
		if a := <-again; a.status != 200 {
			t.Errorf("after the refusal: %d %s", a.status, a.slug())
		}
	})
	bubble(t, "draining", func(t *testing.T) {
		n := start(t, nil)
		running := async(n, "POST", "/orders/7", nil, "")
		waiting := async(n, "POST", "/orders/7", nil, "")
		n.lanes.Close()
		if a := n.send("POST", "/orders/8", nil, ""); a.status != 503 || a.slug() != "draining" || !a.close {
			t.Errorf("%d %s, close %v", a.status, a.slug(), a.close)
		}
		n.lanes.Evict(proxy.ErrStopping)
		if a := <-waiting; a.slug() != "draining" || a.problem.Executed != "no" {
			t.Errorf("%d %+v", a.status, a.problem)
		}
		n.service.next().finish(200, "")
		if a := <-running; a.status != 200 {
			t.Errorf("running: %d", a.status)
		}
	})
}

// Mutant: Holder is not given to Admit; the inner request waits for the outer.
func TestReentryIsRefusedAtOnce(t *testing.T) {
	bubble(t, "reject", func(t *testing.T) {
		n := start(t, nil)
		outer := async(n, "POST", "/orders/7", nil, "")
		v := n.service.next()
		began := time.Now()
		a := n.send("GET", "/orders/7", http.Header{"Lanekeeper-Ticket": {v.Header.Get("Lanekeeper-Ticket")}}, "")
		if a.status != 508 || a.slug() != "reentrant-lane" || a.problem.Executed != "no" || time.Since(began) != 0 {
			t.Errorf("%d %+v", a.status, a.problem)
		}
		v.finish(200, "")
		if a := <-outer; a.status != 200 {
			t.Errorf("outer: %d", a.status)
		}
	})
	bubble(t, "pass", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.Routes[0].Lane.Reentrant = proxy.PassReentry })
		outer := async(n, "POST", "/orders/7", nil, "")
		v := n.service.next()
		inner := async(n, "GET", "/orders/7", http.Header{"Lanekeeper-Ticket": {v.Header.Get("Lanekeeper-Ticket")}}, "")
		if inside := n.service.next(); inside == nil {
			t.Fatal("the inner request waits")
		} else {
			inside.finish(200, "")
		}
		if a := <-inner; a.status != 200 {
			t.Errorf("inner: %d", a.status)
		}
		v.finish(200, "")
		<-outer
	})
}

// Mutants: hold frees at once; hold never ends; a late answer does not end it.
func TestALateUpstreamHoldsItsLane(t *testing.T) {
	late := func(t *testing.T, change func(*proxy.Lane)) (*node, *visit, <-chan *answer) {
		n := start(t, func(c *proxy.Config) {
			if change != nil {
				change(&c.Routes[0].Lane)
			}
		})
		a := <-async(n, "PUT", "/orders/7", nil, "")
		if a.status != 504 || a.slug() != "upstream-timeout" || a.problem.Executed != "unknown" {
			t.Fatalf("%d %+v", a.status, a.problem)
		}
		return n, n.service.next(), async(n, "PUT", "/orders/7", nil, "second")
	}
	bubble(t, "until it answers", func(t *testing.T) {
		n, v, second := late(t, nil)
		if n.service.next() != nil {
			t.Fatal("the next request runs beside the late one")
		}
		if held := n.metric("lanekeeper_held_lanes"); held != 1 {
			t.Errorf("%v lanes held", held)
		}
		time.Sleep(5 * time.Second)
		v.finish(200, "late")
		w := n.service.next()
		if w == nil || w.body != "second" {
			t.Fatalf("the lane stays held after the late answer: %v", w)
		}
		w.finish(200, "in time")
		if a := <-second; a.body != "in time" {
			t.Errorf("second: %d %q", a.status, a.body)
		}
		if n.metric("lanekeeper_hold_expired_total") != 0 {
			t.Error("counted as a risk to order")
		}
	})
	bubble(t, "until hold_for has passed", func(t *testing.T) {
		n, _, _ := late(t, func(l *proxy.Lane) { l.QueueTimeout = time.Minute })
		began := time.Now()
		for n.service.next() == nil {
			if time.Since(began) > time.Minute {
				t.Fatal("the lane is held for ever")
			}
		}
		if held := time.Since(began).Round(time.Second); held != 20*time.Second {
			t.Errorf("held for %v", held)
		}
		if got := n.metric("lanekeeper_hold_expired_total", "route", "order"); got != 1 {
			t.Errorf("hold_expired_total = %v", got)
		}
	})
	bubble(t, "not at all", func(t *testing.T) {
		n, _, _ := late(t, func(l *proxy.Lane) { l.AfterTimeout = proxy.Release })
		if v := n.service.next(); v == nil || v.body != "second" {
			t.Fatalf("release should free the lane: %v", v)
		}
	})
	bubble(t, "until the body ends", func(t *testing.T) {
		n := start(t, nil)
		release := make(chan struct{})
		n.service.handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "12345")
			w.(http.Flusher).Flush()
			<-release
			fmt.Fprint(w, "67890")
		})
		if a := <-async(n, "PUT", "/orders/7", nil, ""); a.slug() != "upstream-timeout" {
			t.Fatalf("%d %s", a.status, a.slug())
		}
		n.service.handle(nil)
		second := async(n, "PUT", "/orders/7", nil, "second")
		if n.service.next() != nil {
			t.Fatal("the next request runs beside the late one")
		}
		close(release)
		n.service.next().finish(200, "")
		<-second
	})
}

// Mutants: the stream does not hold the lane; it never frees it.
func TestALargeResponseStreamsUnderTheLane(t *testing.T) {
	for _, framing := range []string{"length", "chunked"} {
		bubble(t, framing, func(t *testing.T) {
			n := start(t, nil)
			half := make(chan struct{})
			n.service.handle(func(w http.ResponseWriter, r *http.Request) {
				if framing == "length" {
					w.Header().Set("Content-Length", "4000")
				}
				fmt.Fprint(w, strings.Repeat("a", 2000))
				w.(http.Flusher).Flush()
				<-half
				fmt.Fprint(w, strings.Repeat("b", 2000))
			})
			first := async(n, "POST", "/orders/7", nil, "")
			n.service.handle(nil)
			second := async(n, "POST", "/orders/7", nil, "")
			if n.service.next() != nil {
				t.Fatal("the lane is free before the response's last byte")
			}
			close(half)
			if a := <-first; a.status != 200 || a.body != strings.Repeat("a", 2000)+strings.Repeat("b", 2000) {
				t.Errorf("%d, %d bytes", a.status, len(a.body))
			}
			v := n.service.next()
			if v == nil {
				t.Fatal("the lane stays taken after the response")
			}
			v.finish(200, "")
			<-second
			if got := n.metric("lanekeeper_requests_total", "route", "order", "code", "200"); got != 2 {
				t.Errorf("requests_total = %v", got)
			}
		})
	}
	bubble(t, "its client hangs up", func(t *testing.T) {
		n := start(t, nil)
		half := make(chan struct{})
		n.service.handle(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, strings.Repeat("a", 9000))
			w.(http.Flusher).Flush()
			<-half
			fmt.Fprint(w, strings.Repeat("b", 9000))
		})
		c := n.open()
		c.write("POST", "/orders/7", nil, "")
		synctest.Wait()
		c.conn.Close()
		n.service.handle(nil)
		second := async(n, "POST", "/orders/7", nil, "")
		if n.service.next() != nil {
			t.Fatal("the lane is free although the upstream is still at work")
		}
		close(half)
		n.service.next().finish(200, "")
		if a := <-second; a.status != 200 {
			t.Errorf("second: %d %s", a.status, a.slug())
		}
	})
}

// Mutant: observe waits for its turn.
func TestObserveOnlyCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, func(c *proxy.Config) {
			c.Routes[0].Lane.Mode = proxy.Observe
			c.Routes[0].Key.From = []proxy.Source{{Header: "X-Order"}}
		})
		order := http.Header{"X-Order": {"7"}}
		for range 3 {
			async(n, "POST", "/orders/7", order, "")
		}
		async(n, "POST", "/orders/7", nil, "no key")
		for range 4 {
			if v := n.service.next(); v == nil {
				t.Fatal("an observed request waits")
			} else {
				defer v.finish(200, "")
			}
		}
		for result, want := range map[string]float64{"clear": 1, "overlap": 2, "no_key": 1} {
			if got := n.metric("lanekeeper_observed_total", "result", result); got != want {
				t.Errorf("%s = %v, want %v", result, got, want)
			}
		}
	})
}

func TestMissingKeys(t *testing.T) {
	bubble(t, "reject", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.Routes[0].Key.From = []proxy.Source{{Header: "X-Order"}, {Query: "order"}} })
		a := n.send("POST", "/orders/7", nil, "")
		if a.status != 400 || a.slug() != "missing-key" || a.problem.Executed != "no" || !strings.Contains(a.problem.Detail, "header:X-Order, query:order") {
			t.Errorf("%d %+v", a.status, a.problem)
		}
	})
	bubble(t, "bypass", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) {
			c.Routes[0].Key.From = []proxy.Source{{Header: "X-Order"}}
			c.Routes[0].Key.Missing = proxy.MissingBypass
		})
		async(n, "POST", "/orders/7", nil, "")
		async(n, "POST", "/orders/7", nil, "")
		if a, b := n.service.next(), n.service.next(); a == nil || b == nil {
			t.Error("requests without a key wait for each other")
		} else if a.Header.Get("Lanekeeper-Key") != "" {
			t.Error("a request outside lanes has a key")
		}
	})
	bubble(t, "client address", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) {
			c.Routes[0].Key.From = []proxy.Source{{Header: "X-Order"}}
			c.Routes[0].Key.Missing = proxy.MissingClientIP
		})
		async(n, "POST", "/orders/7", nil, "")
		if got := n.service.next().Header.Get("Lanekeeper-Key"); got != "order:0.0.0.0" {
			t.Errorf("key %q", got) // connections in memory have no address
		}
	})
}

func TestAPanicCostsOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.Routes[0].Key.Normalize = []string{"no such step"} })
		if a := n.send("POST", "/orders/7", parented("01"), ""); a.status != 500 || a.slug() != "internal-error" || !a.close {
			t.Errorf("%d %s, close %v", a.status, a.slug(), a.close)
		}
		if log := n.log.String(); !strings.Contains(log, "panic in a request") || strings.Count(log, `"trace_id":"`+theTrace) != 2 {
			t.Errorf("the cause, or which request it was, is not in the log: %s", log)
		}
		n.service.handle(func(w http.ResponseWriter, r *http.Request) {})
		if a := n.send("GET", "/else", nil, ""); a.status != 200 {
			t.Errorf("the next request: %d", a.status)
		}
	})
}

// Mutant: without expects, the client is told to send what is then refused.
func TestABodyThatWillBeRefusedIsNotInvited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		c := n.open()
		fmt.Fprint(c.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n")
		a, err := c.read("POST")
		if err != nil || a.status != 413 || a.slug() != "body-too-large" || a.problem.Executed != "no" || !a.close {
			t.Errorf("%d %+v, close %v, %v", a.status, a.problem, a.close, err)
		}
		c = n.open()
		fmt.Fprint(c.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
		if line, _ := c.reader.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Errorf("got %q", line)
		}
	})
}

// Mutant: Stop leaves what has not ended to itself.
func TestStopClosesWhatOutlastsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		n.service.handle(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "data: 1\n\n")
			w.(http.Flusher).Flush()
			<-n.service.stopping
		})
		c := n.open()
		c.write("GET", "/events", nil, "")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := n.proxy.Stop(ctx); err == nil {
			t.Error("Stop says that everything has ended")
		}
		stopped := time.Now()
		if _, err := io.Copy(io.Discard, c.conn); err != nil || time.Since(stopped) > 0 {
			t.Errorf("the client's connection ends %v after Stop, with %v", time.Since(stopped), err)
		}
	})
}

// Mutant: idle_timeout 0 falls back to header_timeout.
func TestWithoutAnIdleTimeoutConnectionsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.IdleTimeout = 0 })
		n.service.handle(func(http.ResponseWriter, *http.Request) {})
		c := n.open()
		for range 3 {
			if a := c.send("POST", "/orders/7", nil, "x"); a.status != 200 {
				t.Fatalf("%d %s", a.status, a.slug())
			}
			time.Sleep(time.Hour)
		}
	})
}

func TestConnectionMayBeSeveralLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		c := n.open()
		fmt.Fprint(c.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
		if a, err := c.read("POST"); err != nil || a.slug() != "upgrade-refused" {
			t.Errorf("%d %s, %v", a.status, a.slug(), err)
		}
	})
}

func TestObserveCountsWhatItCannotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.Routes[0].Lane.Mode = proxy.Observe })
		n.service.handle(func(http.ResponseWriter, *http.Request) {})
		c := n.open()
		fmt.Fprintf(c.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n%s", strings.Repeat("x", 2000))
		if a, err := c.read("POST"); err != nil || a.status != 200 {
			t.Errorf("%d %s, %v", a.status, a.slug(), err)
		}
		if got := n.metric("lanekeeper_observed_total", "result", "no_key"); got != 1 {
			t.Errorf("no_key = %v", got)
		}
	})
}
