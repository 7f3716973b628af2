package proxy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"lanekeeper/proxy"
	"lanekeeper/proxy/upstream"
)

const (
	theTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	theParent = "00f067aa0ba902b7"
)

// parented is a head with a trace of the client's.
func parented(flags string) http.Header {
	return http.Header{"Traceparent": {"00-" + theTrace + "-" + theParent + "-" + flags}, "Tracestate": {"one=1", "two=2"}}
}

// spans are those that a node has ended.
type spans struct {
	t *testing.T
	*tracetest.SpanRecorder
}

// tracing has a node record its spans.
func tracing(t *testing.T, sampler sdktrace.Sampler) (*spans, trace.Tracer) {
	s := &spans{t, tracetest.NewSpanRecorder()}
	return s, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.SpanRecorder), sdktrace.WithSampler(sampler)).Tracer("lanekeeper")
}

// one is the only span of a kind.
func (s *spans) one(kind trace.SpanKind) sdktrace.ReadOnlySpan {
	s.t.Helper()
	var found sdktrace.ReadOnlySpan
	for _, span := range s.Ended() {
		if span.SpanKind() == kind {
			if found != nil {
				s.t.Fatalf("two spans are %v", kind)
			}
			found = span
		}
	}
	if found == nil {
		s.t.Fatalf("no span is %v", kind)
	}
	return found
}

// says checks some attributes of a span; nil: it has none of the name.
func (s *spans) says(span sdktrace.ReadOnlySpan, want map[string]any) {
	s.t.Helper()
	have := map[string]any{}
	for _, a := range span.Attributes() {
		have[string(a.Key)] = a.Value.AsInterface()
	}
	for name, value := range want {
		if have[name] != value {
			s.t.Errorf("%s: %s is %v, want %v", span.Name(), name, have[name], value)
		}
	}
}

// hides checks that no span holds a text.
func (s *spans) hides(text string) {
	s.t.Helper()
	for _, span := range s.Ended() {
		all := []string{span.Name(), span.Status().Description}
		for _, a := range span.Attributes() {
			all = append(all, a.Value.String())
		}
		for _, have := range all {
			if strings.Contains(have, text) {
				s.t.Errorf("%q is in %q of %s", text, have, span.Name())
			}
		}
	}
}

func (s *spans) child(span, of sdktrace.ReadOnlySpan) {
	s.t.Helper()
	if span.Parent().SpanID() != of.SpanContext().SpanID() || span.SpanContext().TraceID() != of.SpanContext().TraceID() {
		s.t.Errorf("%s is no child of %s", span.Name(), of.Name())
	}
}

func keyHash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:8])
}

// The third request of a key waits a second: its spans say where its time went, whose
// children they are, and in which lane it was, but not by which key.
//
// Mutants: the wait's span ends with the request; the CLIENT span is a child of nothing;
// the upstream gets the SERVER span for a parent; traceparent, or tracestate alone, is not
// taken from the head; the key is said in plain text; the SERVER span is named after the path.
func TestSpansOfARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, tracer := tracing(t, sdktrace.ParentBased(sdktrace.AlwaysSample()))
		n := start(t, func(c *proxy.Config) { c.Tracer = tracer })
		first := async(n, "POST", "/orders/secret-7/pay", parented("00"), "")
		v := n.service.next()
		second := async(n, "POST", "/orders/secret-7/pay", parented("00"), "")
		synctest.Wait()
		third := async(n, "POST", "/orders/secret-7/pay", parented("01"), "")
		synctest.Wait()
		time.Sleep(time.Second)
		v.finish(200, "")
		<-first
		n.service.next().finish(200, "")
		<-second
		v = n.service.next()
		time.Sleep(2 * time.Second)
		v.finish(200, "")
		<-third
		synctest.Wait()

		server, wait, client := s.one(trace.SpanKindServer), s.one(trace.SpanKindInternal), s.one(trace.SpanKindClient)
		if server.Name() != "POST /orders/{id}/{rest...}" || wait.Name() != "lane wait" || client.Name() != "POST" {
			t.Errorf("the spans are %q, %q and %q", server.Name(), wait.Name(), client.Name())
		}
		if server.Parent().SpanID().String() != theParent || server.SpanContext().TraceID().String() != theTrace {
			t.Errorf("the client's span is not the parent of the SERVER span")
		}
		s.child(wait, server)
		s.child(client, server)
		if waited := wait.EndTime().Sub(wait.StartTime()).Round(10 * time.Millisecond); waited != time.Second {
			t.Errorf("the wait took %s", waited)
		}
		if took := client.EndTime().Sub(client.StartTime()).Round(10 * time.Millisecond); took != 2*time.Second {
			t.Errorf("the upstream took %s", took)
		}
		if client.StartTime().Before(wait.EndTime()) || server.EndTime().Before(client.EndTime()) {
			t.Error("the spans are not one after the other")
		}
		s.says(server, map[string]any{
			"http.request.method": "POST", "http.route": "/orders/{id}/{rest...}", "http.response.status_code": int64(200), "url.scheme": "http",
			"lanekeeper.space": "order", "lanekeeper.queue.depth": int64(1), "lanekeeper.key_hash": keyHash("order:secret-7"), "error.type": nil,
		})
		s.says(wait, map[string]any{"lanekeeper.space": "order", "lanekeeper.queue.depth": int64(1), "error.type": nil})
		s.says(client, map[string]any{"http.request.method": "POST", "http.response.status_code": int64(200), "server.address": "app"})
		s.hides("secret")

		if got, want := v.Header["Traceparent"], "00-"+theTrace+"-"+client.SpanContext().SpanID().String()+"-01"; len(got) != 1 || got[0] != want {
			t.Errorf("the upstream got traceparent %q, want %q", got, want)
		}
		if got := v.Header["Tracestate"]; len(got) != 1 || got[0] != "one=1,two=2" {
			t.Errorf("the upstream got tracestate %q", got)
		}
		if !strings.Contains(n.log.String(), `"trace_id":"`+theTrace+`"`) {
			t.Errorf("the access log does not name the trace: %s", n.log)
		}
	})
}

// Mutants: a 4xx is an error of the SERVER span; a 404 of the upstream is none of the CLIENT
// span; a 503 of the upstream is none of the SERVER span; a wait that ends without a turn is no error.
func TestSpansOfFailures(t *testing.T) {
	for name, test := range map[string]struct {
		path           string
		answer         int // of the service; 0: it is late
		status         int64
		server, client string // error.type
		failed         bool   // the SERVER span
	}{
		"a missing page":     {path: "/orders/1/a", answer: 404, status: 404, client: "404"},
		"a broken service":   {path: "/orders/1/a", answer: 503, status: 503, server: "503", client: "503", failed: true},
		"a late service":     {path: "/orders/1/a", status: 504, server: "upstream-timeout", client: "upstream-timeout", failed: true},
		"a key that is none": {path: "/orders/" + strings.Repeat("1", 33) + "/a", status: 400, server: "invalid-key"},
		"outside lanes":      {path: "/other", answer: 200, status: 200},
	} {
		bubble(t, name, func(t *testing.T) {
			s, tracer := tracing(t, sdktrace.AlwaysSample())
			n := start(t, func(c *proxy.Config) { c.Tracer = tracer })
			answer := async(n, "POST", test.path, nil, "")
			v := n.service.next()
			if v != nil && test.answer != 0 {
				v.finish(test.answer, "")
			}
			<-answer
			synctest.Wait()
			orNil := func(text string) any {
				if text == "" {
					return nil
				}
				return text
			}
			server := s.one(trace.SpanKindServer)
			s.says(server, map[string]any{"http.response.status_code": test.status, "error.type": orNil(test.server)})
			if failed := server.Status().Code == codes.Error; failed != test.failed {
				t.Errorf("the SERVER span failed: %v", failed)
			}
			if v == nil {
				return
			}
			client := s.one(trace.SpanKindClient)
			s.says(client, map[string]any{"error.type": orNil(test.client)})
			if failed := client.Status().Code == codes.Error; failed != (test.client != "") {
				t.Errorf("the CLIENT span failed: %v", failed)
			}
		})
	}

	bubble(t, "a full wait", func(t *testing.T) {
		s, tracer := tracing(t, sdktrace.AlwaysSample())
		n := start(t, func(c *proxy.Config) { c.Tracer = tracer })
		first := async(n, "POST", "/orders/1/a", nil, "")
		v := n.service.next()
		second := <-async(n, "POST", "/orders/1/a", nil, "")
		if second.slug() != "lane-timeout" {
			t.Fatalf("got %s", second.slug())
		}
		synctest.Wait()
		waits := 0
		for _, span := range s.Ended() {
			if span.SpanKind() == trace.SpanKindInternal && span.Status().Code == codes.Error {
				s.says(span, map[string]any{"error.type": "lane-timeout"})
				waits++
			}
		}
		if waits != 1 {
			t.Errorf("%d waits failed", waits)
		}
		v.finish(200, "")
		<-first
	})
}

// A response that streams is over when its last byte has come.
//
// Mutants: the CLIENT span ends with the response's head; a response that breaks off is no error.
func TestSpansOfAStream(t *testing.T) {
	for name, breaks := range map[string]bool{"whole": false, "broken": true} {
		bubble(t, name, func(t *testing.T) {
			s, tracer := tracing(t, sdktrace.AlwaysSample())
			n := start(t, func(c *proxy.Config) { c.Tracer = tracer })
			n.service.handle(func(w http.ResponseWriter, _ *http.Request) {
				for range 3 {
					w.Write(make([]byte, 1<<10))
					w.(http.Flusher).Flush()
					time.Sleep(time.Second)
				}
				if breaks {
					panic(http.ErrAbortHandler)
				}
			})
			c := n.open()
			c.write("POST", "/orders/1/a", nil, "")
			if _, err := c.read("POST"); (err != nil) != breaks {
				t.Errorf("the response's end: %v", err)
			}
			synctest.Wait()
			client, server := s.one(trace.SpanKindClient), s.one(trace.SpanKindServer)
			if took := client.EndTime().Sub(client.StartTime()).Round(10 * time.Millisecond); took != 3*time.Second {
				t.Errorf("the upstream took %s", took)
			}
			for _, span := range []sdktrace.ReadOnlySpan{client, server} {
				if failed := span.Status().Code == codes.Error; failed != breaks {
					t.Errorf("%s failed: %v", span.Name(), failed)
				}
				s.says(span, map[string]any{"http.response.status_code": int64(200)})
			}
		})
	}
}

// What a request says of its trace goes on byte for byte if this node adds nothing to it,
// whether it makes sense or not.
//
// Mutants: spans that nobody records are named to the upstream in place of the client's; a
// request without a trace that is not recorded begins none; two parents are one; the access
// log names no trace that only passes.
func TestATraceThatOnlyPasses(t *testing.T) {
	odd := http.Header{"Traceparent": {"cc-odd"}, "Tracestate": {" a = b "}}
	double := parented("01")
	double.Add("Traceparent", "00-"+theTrace+"-00f067aa0ba902b8-01")
	for name, test := range map[string]struct {
		sampler sdktrace.Sampler // nil: no tracer
		header  http.Header
		passes  bool
		roots   bool // the request has a new trace
	}{
		"off":                        {nil, parented("01"), true, false},
		"off, an odd one":            {nil, odd, true, false},
		"off, two":                   {nil, double, true, false},
		"off, none":                  {nil, nil, true, false},
		"not sampled by its client":  {sdktrace.ParentBased(sdktrace.AlwaysSample()), parented("00"), true, false},
		"never":                      {sdktrace.NeverSample(), parented("01"), true, false},
		"never, none":                {sdktrace.NeverSample(), nil, false, true},
		"always, an odd one":         {sdktrace.AlwaysSample(), odd, false, true},
		"always, two":                {sdktrace.AlwaysSample(), double, false, true},
		"always, against its client": {sdktrace.AlwaysSample(), parented("00"), false, false},
	} {
		for _, path := range []string{"/orders/1/a", "/other"} {
			bubble(t, name+" "+path[1:3], func(t *testing.T) {
				n := start(t, func(c *proxy.Config) {
					if test.sampler != nil {
						_, c.Tracer = tracing(t, test.sampler)
					}
				})
				answer := async(n, "POST", path, test.header.Clone(), "")
				v := n.service.next()
				got, state := strings.Join(v.Header["Traceparent"], "|"), strings.Join(v.Header["Tracestate"], "|")
				wanted, wantedState := strings.Join(test.header["Traceparent"], "|"), strings.Join(test.header["Tracestate"], "|")
				if passes := got == wanted && strings.TrimSpace(state) == strings.TrimSpace(wantedState); passes != test.passes {
					t.Errorf("the upstream got %q and %q, of %q and %q", got, state, wanted, wantedState)
				}
				if !test.passes {
					if roots := !strings.Contains(got, theTrace); roots != test.roots || len(v.Header["Traceparent"]) != 1 {
						t.Errorf("the upstream got %q", got)
					}
				}
				v.finish(200, "")
				<-answer
				synctest.Wait()
				named := strings.Contains(n.log.String(), `"trace_id":"`+theTrace+`"`)
				if says := test.header != nil && !strings.Contains(name, "odd") && !strings.Contains(name, "two"); named != says {
					t.Errorf("the access log names the trace: %v", named)
				}
			})
		}
	}
}

// With log.keys: none a key's hash is not said either, as few keys can be told by theirs.
//
// Mutant: it is said all the same.
func TestSpansWithoutKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, tracer := tracing(t, sdktrace.AlwaysSample())
		n := start(t, func(c *proxy.Config) { c.Tracer, c.LogKeys = tracer, proxy.KeysNone })
		answer := async(n, "POST", "/orders/secret/a", nil, "")
		n.service.next().finish(200, "")
		<-answer
		synctest.Wait()
		s.says(s.one(trace.SpanKindServer), map[string]any{"lanekeeper.key_hash": nil, "lanekeeper.space": "order"})
		s.hides("secret")
		s.hides(keyHash("order:secret"))
	})
}

// Mutants: beginTrace reads the head before it asks for a Tracer; appendTrace makes its
// carrier first.
func TestTracingCostsNothingWhenItIsOff(t *testing.T) {
	life := proxy.LifeWithoutTrace()
	if n := testing.AllocsPerRun(100, life); n > 0 {
		t.Errorf("%v allocations for each request", n)
	}
}

// The owner's spans are children of the ingress's, and what the upstream gets is a child of
// the owner's. An owner without tracing passes on what the ingress says.
//
// Mutants: the forwarded head has no traceparent; the owner writes a second one beside it,
// or none; the owner's wait ends with its request; the owner's name is the ingress's; the fence is left out.
func TestSpansAcrossTheHop(t *testing.T) {
	for name, silent := range map[string]bool{"both trace": false, "the owner does not": true} {
		bubble(t, name, func(t *testing.T) {
			var nodes [2]*spans
			p := startPair(t, change{proxy: func(number int, c *proxy.Config) {
				var tracer trace.Tracer
				nodes[number], tracer = tracing(t, sdktrace.ParentBased(sdktrace.AlwaysSample()))
				if number == 1 || !silent {
					c.Tracer = tracer
				}
				c.Routes[0].Lane.Strict = true
			}}, nil)
			owner, ingress := p.nodes[0], p.nodes[1]
			owner.edge.lasts(time.Hour)
			_, first := owner.async("POST", "/orders/secret/1", parented("00"), "")
			x := p.ran("/orders/secret/1", owner)
			_, second := ingress.async("POST", "/orders/secret/2", parented("01"), "")
			time.Sleep(time.Second)
			x.finish("")
			<-first
			x = p.ran("/orders/secret/2", owner)
			time.Sleep(2 * time.Second)
			x.finish("")
			if a := <-second; a.status != 200 {
				t.Fatalf("status %d", a.status)
			}
			synctest.Wait()

			server := nodes[1].one(trace.SpanKindServer)
			nodes[1].says(server, map[string]any{"lanekeeper.owner": owner.self.Name, "lanekeeper.partition": int64(partition("order:secret")), "lanekeeper.queue.depth": int64(0)})
			nodes[1].hides("secret")
			nodes[0].hides("secret")
			parent := server.SpanContext().SpanID()
			if len(nodes[1].Ended()) != 1 {
				t.Errorf("%d spans of the ingress", len(nodes[1].Ended()))
			}
			if silent {
				if len(nodes[0].Ended()) != 0 {
					t.Errorf("%d spans of the owner", len(nodes[0].Ended()))
				}
			} else {
				fence, err := strconv.ParseInt(x.get("Lanekeeper-Fence"), 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				wait, client := nodes[0].one(trace.SpanKindInternal), nodes[0].one(trace.SpanKindClient)
				if len(nodes[0].Ended()) != 2 {
					t.Errorf("%d spans of the owner", len(nodes[0].Ended()))
				}
				nodes[0].child(wait, server)
				nodes[0].child(client, server)
				nodes[0].says(wait, map[string]any{"lanekeeper.owner": owner.self.Name, "lanekeeper.space": "order", "lanekeeper.key_hash": keyHash("order:secret")})
				nodes[0].says(client, map[string]any{"http.request.method": "POST", "http.response.status_code": int64(200), "lanekeeper.fence": fence})
				if waited := wait.EndTime().Sub(wait.StartTime()).Round(10 * time.Millisecond); waited != time.Second {
					t.Errorf("the wait took %s", waited)
				}
				parent = client.SpanContext().SpanID()
			}
			got := x.all("Traceparent")
			if want := "00-" + theTrace + "-" + parent.String() + "-01"; len(got) != 1 || got[0] != want {
				t.Errorf("the upstream got %q, want %q", got, want)
			}
		})
	}
}

// A target to which there is no connection is one that was tried: the time that it took, and
// that it failed, are a span, as often as it was tried.
//
// Mutants: a failed connect has no CLIENT span; it has one that begins where it ends; it is no
// error; a wait for a free target is one as well.
func TestSpansOfARefusedConnection(t *testing.T) {
	for name, request := range map[string]string{
		"a lane":  "GET /orders/7/a HTTP/1.1\r\nHost: a\r\n\r\n",
		"bypass":  "PUT /else HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
		"upgrade": upgradeRequest,
		"upload":  "POST /else HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
	} {
		bubble(t, name, func(t *testing.T) {
			s, tracer := tracing(t, sdktrace.AlwaysSample())
			n := start(t, func(c *proxy.Config) {
				c.Tracer = tracer
				c.Upstreams[0].Circuit = upstream.Circuit{Failures: 1, OpenFor: time.Hour}
				c.Upstreams[0].Dial = func(string) (net.Conn, error) {
					time.Sleep(time.Second)
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
				}
			})
			if m := n.open().ask("GET", request); m.status() != 502 {
				t.Fatalf("got %q", m.head)
			}
			time.Sleep(2 * lingerTime) // an upload's request ends later than its answer
			client := s.one(trace.SpanKindClient)
			if took := client.EndTime().Sub(client.StartTime()); took != time.Second || client.Status().Code != codes.Error {
				t.Errorf("it took %s: %v", took, client.Status())
			}
			s.says(client, map[string]any{"error.type": "upstream-connect", "server.address": "app", "http.response.status_code": nil})
			s.child(client, s.one(trace.SpanKindServer))
			if m := n.open().ask("GET", "GET /else HTTP/1.1\r\nHost: a\r\n\r\n"); m.status() != 503 { // the circuit is open
				t.Errorf("got %q", m.head)
			}
			synctest.Wait()
			s.one(trace.SpanKindClient)
		})
	}
}

const lingerTime = time.Second // proxy's

// An upload that is answered while its client is still sending is over for the upstream
// then, however long the client is waited for.
//
// Mutant: the CLIENT span lasts until the client has ended.
func TestSpansOfAnUploadThatLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, tracer := tracing(t, sdktrace.AlwaysSample())
		script := newScript(t, nil)
		script.head = func(x *exchange) { x.ok("") } // before the body
		n := start(t, func(c *proxy.Config) {
			only(script)(c)
			c.Tracer = tracer
		})
		c := n.open()
		io.WriteString(c.conn, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n"+strings.Repeat("u", 69_999)) //nolint:errcheck // the response is missing then
		if m := c.response("POST"); m.status() != 200 {
			t.Fatalf("got %q", m.head)
		}
		time.Sleep(2 * lingerTime)
		client, server := s.one(trace.SpanKindClient), s.one(trace.SpanKindServer)
		if took := client.EndTime().Sub(client.StartTime()); took != 0 {
			t.Errorf("the upstream took %s", took)
		}
		if took := server.EndTime().Sub(server.StartTime()); took < lingerTime {
			t.Errorf("the client was waited for for %s: this shows nothing", took)
		}
		s.says(client, map[string]any{"http.response.status_code": int64(200), "error.type": nil})
	})
}

// The line that says that an order is at risk names the trace that the request came with,
// recorded or not, though its client was answered long before.
//
// Mutants: it names none; it is looked for in the connection's present request.
func TestAnExpiredHoldNamesItsTrace(t *testing.T) {
	for name, sampler := range map[string]sdktrace.Sampler{"nobody traces": nil, "recorded": sdktrace.AlwaysSample()} {
		bubble(t, name, func(t *testing.T) {
			n := start(t, func(c *proxy.Config) {
				c.Access = proxy.AccessNone
				if sampler != nil {
					_, c.Tracer = tracing(t, sampler)
				}
			})
			c := n.open()
			c.write("POST", "/orders/7/a", parented("01"), "")
			if m := c.response("POST"); m.status() != 504 {
				t.Fatalf("got %q", m.head)
			}
			c.write("POST", "/other", http.Header{"Traceparent": {"00-" + strings.Repeat("a", 32) + "-" + theParent + "-01"}}, "")
			time.Sleep(time.Hour)
			expired := ""
			for line := range strings.Lines(n.log.String()) {
				if strings.Contains(line, `"hold-expired"`) {
					expired += line
				}
			}
			if strings.Count(expired, "\n") != 1 || !strings.Contains(expired, `"trace_id":"`+theTrace+`"`) {
				t.Errorf("the log has %s", expired)
			}
		})
	}
}
