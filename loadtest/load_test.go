package loadtest

import (
	"bufio"
	"context"
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

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"
)

// judge runs traffic and checks both accounts of it.
func judge(t *testing.T, traffic Traffic, history *History) (*Result, *Report) {
	t.Helper()
	traffic.Clock = history.Clock()
	result, err := traffic.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	evidence := history.Evidence()
	evidence.Sent = result.Sent
	return result, Check(evidence, Rules{})
}

// Every mode sends what it says, through a plain proxy in front of two
// replicas, and both accounts agree.
// Mutants killed: numbers not per key; Plain not in turn; Closed with two
// requests under way (by other tests here).
func TestModes(t *testing.T) {
	for _, c := range []struct {
		name    string
		traffic Traffic
		want    int
	}{
		{"spaced", Traffic{Mode: Spaced, Keys: 4, PerKey: 25, Gap: time.Millisecond, Connections: 8}, 100},
		{"open", Traffic{Mode: Open, Keys: 10, Zipf: 1.2, Rate: 5000, Requests: 100, Connections: 8}, 100},
		{"pipelined", Traffic{Mode: Pipelined, Keys: 2, Requests: 100, Depth: 5, Connections: 3}, 100},
		{"closed", Traffic{Mode: Closed, Keys: 2, Requests: 100, Connections: 3, BodyBytes: 100, Reads: 0.3}, 100},
		{"by default", Traffic{}, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			history := NewHistory(NewClock(), 0)
			plain, err := NewPlain(PlainConfig{IdleTimeout: 20 * time.Millisecond, Targets: []string{
				startWitness(t, WitnessConfig{Name: "w1"}, history), startWitness(t, WitnessConfig{Name: "w2"}, history),
			}})
			if err != nil {
				t.Fatal(err)
			}
			c.traffic.Targets = []string{start(t, plain)}
			var calls int
			var last Progress
			c.traffic.Progress = func(p Progress) { calls++; last = p }
			result, report := judge(t, c.traffic, history)

			if result.OK != c.want || len(result.Sent) != c.want || result.Statuses()[200] != c.want || int(result.Latency.TotalCount()) != c.want {
				t.Errorf("OK %d, sent %d, statuses %v, latencies %d, want %d", result.OK, len(result.Sent), result.Statuses(), result.Latency.TotalCount(), c.want)
			}
			if calls < 1 || last.Sent != c.want || last.OK != c.want || last.Total != c.want {
				t.Errorf("last of %d progress calls: %+v", calls, last)
			}
			numbers := make(map[string][]int64)
			for _, s := range result.Sent {
				numbers[s.Key] = append(numbers[s.Key], s.Seq)
				if !strings.HasPrefix(s.Key, "order:") || s.Connection < 1 || s.AnsweredAt <= s.SentAt || s.Client == "" {
					t.Fatalf("%+v", s)
				}
			}
			for key, seqs := range numbers {
				if c.traffic.Mode == Spaced && !slices.IsSorted(seqs) {
					t.Errorf("key %s sent as %v", key, seqs)
				}
				slices.Sort(seqs)
				for i, seq := range seqs {
					if seq != int64(i+1) {
						t.Fatalf("key %s has numbers %v", key, seqs)
					}
				}
			}
			// Overlaps and swaps are what a plain proxy is expected to allow.
			for _, kind := range []Kind{Duplicate, Loss, Ghost, Crossed, RealtimeInversion, Malformed, Unfinished, Unanswered} {
				if report.Count(kind) != 0 {
					t.Errorf("%s: %d", kind, report.Count(kind))
				}
			}
			if report.Executions != c.want || report.Judged(Loss) != c.want || report.Judged(Crossed) != c.want {
				t.Error(report)
			}
			if replicas := countBy(history, func(e Execution) string { return e.Witness }); replicas["w1"] != c.want/2 {
				t.Errorf("replicas %v, want round robin", replicas)
			}
			if reads := countBy(history, func(e Execution) string { return e.Method })["GET"]; (c.traffic.Reads > 0) != (reads > 5) {
				t.Errorf("%d reads", reads)
			}
		})
	}
}

func countBy(history *History, by func(Execution) string) map[string]int {
	count := make(map[string]int)
	for _, e := range history.Evidence().Executions {
		count[by(e)]++
	}
	return count
}

// inBubble gives a test a listener and traffic that dials it, in virtual time.
func inBubble(t *testing.T, test func(t *testing.T, ln net.Listener, traffic Traffic)) {
	synctest.Test(t, func(t *testing.T) {
		ln := fasthttputil.NewInmemoryListener()
		test(t, ln, Traffic{
			Targets: []string{"http://upstream"}, Dial: func(context.Context, string) (net.Conn, error) { return ln.Dial() }, Client: "c",
		})
	})
}

// The schedule, in virtual time: requests of a key leave Gap apart whether or
// not answers come, keys spread over the gap.
// Mutant killed: all keys at once.
func TestSpacedKeepsItsSchedule(t *testing.T) {
	inBubble(t, func(t *testing.T, ln net.Listener, traffic Traffic) {
		history := NewHistory(NewClock(), 0)
		w, _ := NewWitness(WitnessConfig{Delay: time.Second}, history)
		w.Start(ln)
		traffic.Mode, traffic.Keys, traffic.PerKey, traffic.Gap, traffic.Connections = Spaced, 2, 5, 10*time.Millisecond, 10
		result, report := judge(t, traffic, history)
		stop(t, w)
		began := result.Sent[0].SentAt
		for i, s := range result.Sent {
			want := time.Duration(i) * 5 * time.Millisecond
			if at := time.Duration(s.SentAt - began).Round(time.Millisecond); at != want || s.Key != fmt.Sprintf("order:%d", i%2) {
				t.Errorf("%d: key %s at %s, want %s", i, s.Key, at, want)
			}
		}
		if result.LagMax > time.Millisecond {
			t.Errorf("lag %s", result.LagMax)
		}
		// Ten connections straight to a witness of one second: all but the
		// first of each key overlap, none swaps.
		if report.Count(Overlap) != 8 || report.Count(SendSwap) != 0 || report.Judged(SendSwap) != 10 {
			t.Error(report)
		}
	})
}

// With fewer connections than a schedule needs, requests leave late, and the
// latency counts from when they were due: 1 s, 2 s, 3 s.
// Mutant killed: latency from SentAt.
func TestLatencyCountsFromWhenDue(t *testing.T) {
	inBubble(t, func(t *testing.T, ln net.Listener, traffic Traffic) {
		history := NewHistory(NewClock(), 0)
		w, _ := NewWitness(WitnessConfig{Delay: time.Second}, history)
		w.Start(ln)
		traffic.Mode, traffic.Rate, traffic.Requests, traffic.Connections = Open, 1e6, 3, 1
		result, _ := judge(t, traffic, history)
		stop(t, w)
		if got := result.LatencyAt(100).Round(10 * time.Millisecond); got != 3*time.Second {
			t.Errorf("longest latency %s, want 3s", got)
		}
		if got := result.LatencyAt(1).Round(10 * time.Millisecond); got != time.Second {
			t.Errorf("shortest latency %s, want 1s", got)
		}
		if result.LagMax.Round(time.Millisecond) != 2*time.Second {
			t.Errorf("lag %s, want 2s", result.LagMax)
		}
		if result.LongestGap.Round(time.Millisecond) != time.Second {
			t.Errorf("longest gap %s, want 1s", result.LongestGap)
		}
		if throughput := result.Throughput(); throughput < 0.99 || throughput > 1.01 {
			t.Errorf("%f answers a second, want 1", throughput)
		}
	})
}

// A pipelining client has Depth requests under way before the first answer.
// Mutant killed: a window of 1.
func TestPipelinedDoesNotWait(t *testing.T) {
	inBubble(t, func(t *testing.T, ln net.Listener, traffic Traffic) {
		traffic.Mode, traffic.Depth, traffic.Connections, traffic.Requests = Pipelined, 4, 1, 4
		var result *Result
		done := make(chan struct{})
		go func() {
			defer close(done)
			result, _ = traffic.Run(t.Context())
		}()
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(conn)
		for range 4 { // would block the bubble for ever if the client waited
			readRequest(t, br)
		}
		for range 4 {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
		<-done
		conn.Close()
		if result.OK != 4 || result.Sent[3].Connection != result.Sent[0].Connection {
			t.Errorf("%+v", result)
		}
	})
}

// TestOwnKeys: a connection keeps to its key, so that one that stands still has no other
// requests wait.
//
// Mutant: all connections draw.
func TestOwnKeys(t *testing.T) {
	history := NewHistory(NewClock(), 0)
	w, err := NewWitness(WitnessConfig{}, history)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(ln); err != nil {
		t.Fatal(err)
	}
	defer stop(t, w)
	traffic := Traffic{Targets: []string{"http://" + ln.Addr().String()}, Mode: Pipelined, Keys: 3, Connections: 6, Requests: 600, Own: true}
	result, err := traffic.Run(t.Context())
	if err != nil || result.OK != 600 {
		t.Fatal(err, result)
	}
	keys, of := make(map[string]int), make(map[int64]string)
	for _, s := range result.Sent {
		if of[s.Connection] == "" {
			of[s.Connection] = s.Key
			keys[s.Key]++
		}
		if of[s.Connection] != s.Key {
			t.Fatalf("connection %d has %s and %s", s.Connection, of[s.Connection], s.Key)
		}
	}
	if len(keys) != 3 || len(of) != 6 {
		t.Errorf("%d connections have %v", len(of), keys)
	}
	if traffic.Mode = Open; traffic.Validate() == nil {
		t.Error("open traffic may not have connections of its keys' own")
	}
}

func readRequest(t *testing.T, br *bufio.Reader) *http.Request {
	t.Helper()
	request, err := http.ReadRequest(br)
	if err != nil {
		t.Error(err)
		return nil
	}
	io.Copy(io.Discard, request.Body)
	return request
}

// What goes over the wire parses for somebody else, with everything asked for.
func TestRequestOnTheWire(t *testing.T) {
	inBubble(t, func(t *testing.T, ln net.Listener, traffic Traffic) {
		traffic.Mode, traffic.Requests, traffic.PerKey, traffic.Connections, traffic.BodyBytes = Spaced, 1, 1, 1, 200
		traffic.Method, traffic.Path, traffic.KeyHeader, traffic.Space = "PUT", "/v1/{key}/x?y=1", "X-Account", "account"
		traffic.Headers, traffic.Producer = []string{"Authorization: Bearer x"}, "p1"
		done := make(chan struct{})
		go func() {
			defer close(done)
			traffic.Run(t.Context())
		}()
		conn, _ := ln.Accept()
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(request.Body)
		io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		<-done
		conn.Close()
		got := fmt.Sprint(request.Method, " ", request.URL, " ", request.Host, " ", request.ContentLength, " ", len(body))
		if want := "PUT /v1/0/x?y=1 upstream:80 200 200"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		for name, want := range map[string]string{
			"X-Account": "0", "Witness-Key": "account:0", "Witness-Client": "c", "Witness-Seq": "1", "Authorization": "Bearer x",
			"Lanekeeper-Producer": "p1", "Lanekeeper-Seq": "1",
		} {
			if request.Header.Get(name) != want {
				t.Errorf("%s: got %q, want %q", name, request.Header.Get(name), want)
			}
		}
		if !strings.HasPrefix(string(body), `{"order_id":"0","seq":1,"pad":"xxx`) || !strings.HasSuffix(string(body), `x"}`) {
			t.Errorf("body %s", body)
		}
	})
}

// A server that reads a request and hangs up must see it once, and the client
// must call it unanswered; the next request gets a new connection.
// Mutant killed: the failed requests sent again after reconnecting.
func TestNothingIsSentTwice(t *testing.T) {
	inBubble(t, func(t *testing.T, ln net.Listener, traffic Traffic) {
		var received atomic.Int64
		accepted := make(chan struct{})
		go func() { // ends when ln is closed
			defer close(accepted)
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				if request, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					io.Copy(io.Discard, request.Body)
					received.Add(1)
				}
				conn.Close()
			}
		}()
		for _, mode := range []Mode{Closed, Spaced, Pipelined} {
			received.Store(0)
			traffic.Mode, traffic.Requests, traffic.PerKey, traffic.Connections, traffic.Depth = mode, 10, 10, 1, 1
			result, err := traffic.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if received.Load() != 10 || len(result.Sent) != 10 || result.Statuses()[0] != 10 {
				t.Errorf("mode %d: %d received of %d sent, statuses %v", mode, received.Load(), len(result.Sent), result.Statuses())
			}
			connections := make(map[int64]bool)
			for _, s := range result.Sent {
				connections[s.Connection] = true
				if s.Err != errClosing.Error() || s.AnsweredAt != 0 {
					t.Errorf("%+v", s)
				}
			}
			if len(connections) != 10 {
				t.Errorf("mode %d: %d connections", mode, len(connections))
			}
		}
		ln.Close()
		<-accepted
	})
}

// answering serves every request with handler, on fasthttp.
func answering(t *testing.T, ln net.Listener, handler fasthttp.RequestHandler) (stopServer func()) {
	t.Helper()
	var h host
	h.init(handler)
	if err := h.start(ln); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := h.stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Mutant killed: an answer's number compared by its first digits only.
func TestWhatAnswersSay(t *testing.T) {
	inBubble(t, func(t *testing.T, ln net.Listener, traffic Traffic) {
		var n atomic.Int64
		stopServer := answering(t, ln, func(ctx *fasthttp.RequestCtx) {
			switch n.Add(1) {
			case 1:
				ctx.SetStatusCode(503)
				ctx.SetContentType("application/problem+json")
				ctx.SetBodyString(`{"type":"urn:lanekeeper:problem:lane-timeout","executed":"no","instance":"urn:uuid:` + p1t1 + `"}`)
			case 2:
				ctx.Response.Header.Set("Lanekeeper-Ticket", p1t2)
				ctx.SetBodyString(`{"client":"c","key":"order:0","seq":2,"n":9}`)
			case 3:
				ctx.SetBodyString(`{"client":"c","key":"order:0","seq":30,"n":9}`)
			case 4:
				ctx.SetBodyString(`{"client":"c","key":"order:0","seq":40,"n":9}`)
				ctx.SetConnectionClose()
			case 5:
				ctx.SetBodyString(`{"client":"d","key":"order:0","seq":5,"n":9}`)
			default:
				ctx.SetBodyString("something else")
			}
		})
		traffic.Mode, traffic.Requests, traffic.Connections = Closed, 6, 1
		result, err := traffic.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stopServer()
		type said struct {
			status            int
			executed, problem string
			ticket            string
			crossed           bool
			connection        int64
		}
		want := []said{
			{503, "no", "lane-timeout", p1t1, false, 1},
			{200, "", "", p1t2, false, 1},
			{200, "", "", "", true, 1},
			{200, "", "", "", true, 1},
			{200, "", "", "", true, 2},
			{200, "", "", "", false, 2},
		}
		for i, s := range result.Sent {
			if got := (said{s.Status, s.Executed, s.Problem, s.Ticket, s.Crossed, s.Connection}); got != want[i] {
				t.Errorf("%d: got %+v, want %+v", i, got, want[i])
			}
		}
	})
}

// Mutant killed: no read deadline.
func TestAnswerTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, ln net.Listener, traffic Traffic) {
		var n atomic.Int64
		stopServer := answering(t, ln, func(ctx *fasthttp.RequestCtx) {
			if n.Add(1) == 2 {
				time.Sleep(time.Minute)
			}
		})
		traffic.Mode, traffic.Requests, traffic.Connections, traffic.Timeout = Closed, 3, 1, 10*time.Second
		began := time.Now()
		result, err := traffic.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 10*time.Second || result.OK != 2 || result.Sent[1].Err != errAnswer.Error() {
			t.Errorf("took %s: %+v", took, result.Sent)
		}
		stopServer()
	})
}

// An answer nobody asked for must not become the next request's.
// Mutant killed: the connection kept after a stray answer.
func TestStrayAnswerIsNobodys(t *testing.T) {
	inBubble(t, func(t *testing.T, ln net.Listener, traffic Traffic) {
		const answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
		served := make(chan struct{})
		go func() { // ends when ln is closed
			defer close(served)
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				br := bufio.NewReader(conn)
				for {
					request, err := http.ReadRequest(br)
					if err != nil {
						break
					}
					io.Copy(io.Discard, request.Body)
					io.WriteString(conn, answer)
					if request.Header.Get("Witness-Seq") == "1" {
						time.Sleep(time.Second)
						io.WriteString(conn, answer)
					}
				}
				conn.Close()
			}
		}()
		traffic.Mode, traffic.Requests, traffic.Connections, traffic.Gap = Closed, 3, 1, time.Minute
		result, err := traffic.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if result.Stray != 1 || result.OK != 3 || result.Sent[1].Connection == result.Sent[0].Connection {
			t.Errorf("%d stray, %+v", result.Stray, result.Sent)
		}
		ln.Close()
		<-served
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	for _, mode := range []Mode{Spaced, Open, Pipelined, Closed} {
		inBubble(t, func(t *testing.T, ln net.Listener, traffic Traffic) {
			stopServer := answering(t, ln, func(ctx *fasthttp.RequestCtx) {
				if string(ctx.Request.Header.Peek("Witness-Seq")) != "1" {
					time.Sleep(time.Minute)
				}
			})
			why := errors.New("enough")
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
			defer cancel()
			traffic.Mode, traffic.Connections, traffic.Rate, traffic.Gap = mode, 2, 100, time.Millisecond
			began := time.Now()
			result, err := traffic.Run(ctx)
			if !errors.Is(err, why) || time.Since(began) != time.Second {
				t.Errorf("mode %d: %v after %s", mode, err, time.Since(began))
			}
			if result == nil || result.OK != 1 || len(result.Sent) < 2 || result.Statuses()[0] != len(result.Sent)-1 {
				t.Errorf("mode %d: %+v", mode, result)
			}
			stopServer()
		})
	}
}

// Duration ends the sending, and what was sent is still answered.
func TestRunEndsWithItsDuration(t *testing.T) {
	for _, mode := range []Mode{Spaced, Open, Pipelined, Closed} {
		inBubble(t, func(t *testing.T, ln net.Listener, traffic Traffic) {
			stopServer := answering(t, ln, func(ctx *fasthttp.RequestCtx) { time.Sleep(100 * time.Millisecond) })
			traffic.Mode, traffic.Connections, traffic.Rate, traffic.Gap, traffic.Duration = mode, 2, 10, 100*time.Millisecond, 950*time.Millisecond
			result, err := traffic.Run(t.Context())
			if err != nil || len(result.Sent) < 5 || len(result.Sent) > 30 || result.OK != len(result.Sent) {
				t.Errorf("mode %d: %d sent, %d OK, %v", mode, len(result.Sent), result.OK, err)
			}
			stopServer()
		})
	}
}

func TestRunThatCannotBegin(t *testing.T) {
	refused := Traffic{Targets: []string{"http://a", "http://b"}, Dial: func(context.Context, string) (net.Conn, error) {
		return nil, errors.New("nobody home")
	}}
	if result, err := refused.Run(t.Context()); result != nil || err == nil || !strings.Contains(err.Error(), "nobody home") {
		t.Errorf("got %v, %v", result, err)
	}
	for name, bad := range map[string]Traffic{
		"no target":       {},
		"a bad target":    {Targets: []string{"localhost:80"}},
		"https":           {Targets: []string{"https://a"}},
		"no rate":         {Targets: []string{"http://a"}, Mode: Open},
		"a flat zipf":     {Targets: []string{"http://a"}, Zipf: 1},
		"too many":        {Targets: []string{"http://a"}, Keys: 1000, PerKey: 1_000_000},
		"no keys":         {Targets: []string{"http://a"}, Keys: -1},
		"many reads":      {Targets: []string{"http://a"}, Reads: 1.5},
		"racing producer": {Targets: []string{"http://a"}, Mode: Closed, Producer: "p"},
		"unknown mode":    {Targets: []string{"http://a"}, Mode: 9},
	} {
		if err := bad.Validate(); err == nil {
			t.Errorf("%s was accepted", name)
		}
		if _, err := bad.Run(t.Context()); err == nil {
			t.Errorf("%s ran", name)
		}
	}
}

// A target that goes away is survived: its connections move to the next one.
// Mutant killed: only the preferred address dialled.
func TestConnectionsMoveToALivingTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := fasthttputil.NewInmemoryListener(), fasthttputil.NewInmemoryListener()
		stopA := answering(t, a, func(*fasthttp.RequestCtx) {})
		stopB := answering(t, b, func(*fasthttp.RequestCtx) {})
		traffic := Traffic{
			Targets: []string{"http://a", "http://b"}, Mode: Closed, Connections: 2, Requests: 40, Gap: time.Second,
			Dial: func(_ context.Context, address string) (net.Conn, error) {
				if address == "a:80" {
					return a.Dial()
				}
				return b.Dial()
			},
		}
		go func() {
			time.Sleep(5500 * time.Millisecond)
			stopA()
		}()
		result, err := traffic.Run(t.Context())
		if err != nil || result.OK != 40 { // an idle connection that closes costs nothing
			t.Errorf("%v: %v, %+v", err, result.Statuses(), result.Sent)
		}
		after := make(map[int64]bool)
		for _, s := range result.Sent[len(result.Sent)/2:] {
			after[s.Connection] = true
		}
		if len(after) != 2 {
			t.Errorf("%d connections at the end, want 2", len(after))
		}
		stopB()
	})
}

// The noise floor is measured, bounded and leaves nothing behind.
func TestMeasureNoise(t *testing.T) {
	noise, err := MeasureNoise(t.Context(), Traffic{Targets: []string{"http://unused"}, Keys: 4, PerKey: 50, Gap: time.Millisecond, Connections: 8})
	if err != nil {
		t.Fatal(err)
	}
	if noise.Compared != 200 || noise.Swapped > 100 {
		t.Errorf("%+v", noise)
	}
}

// The reason for all this: closely spaced requests through a plain proxy, to a
// service whose time varies, overlap; and the checker says so.
func TestPlainProxyBreaksOrder(t *testing.T) {
	history := NewHistory(NewClock(), 0)
	witness := startWitness(t, WitnessConfig{Jitter: 10 * time.Millisecond, Seed: 1}, history)
	plain, err := NewPlain(PlainConfig{Targets: []string{witness}, IdleTimeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_, report := judge(t, Traffic{Targets: []string{start(t, plain)}, Keys: 5, PerKey: 20, Gap: 2 * time.Millisecond}, history)
	if report.OK() || report.Count(Overlap) < 10 {
		t.Error(report)
	}
}
