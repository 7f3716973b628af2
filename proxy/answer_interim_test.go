package proxy_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

const hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 1\r\nContent-Length: 9\r\n\r\n"

const gotHints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\n" + via + "\r\n"

// Interim responses go on as they come, if the client's node asks the upstream.
//
// Mutants: none goes on; "100" does; an HTTP/1.0 client gets them;
// their hop-by-hop fields stay; they end before an upload's response.
func TestInterimResponsesGoOn(t *testing.T) {
	const processing = "HTTP/1.1 102 Processing\r\n" + via + "\r\n"
	for _, c := range []struct{ name, request, want string }{
		{"in a lane", "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", gotHints + processing},
		{"outside", "GET /else HTTP/1.1\r\nHost: a\r\n\r\n", gotHints + processing},
		{"to HEAD", "HEAD /else HTTP/1.1\r\nHost: a\r\n\r\n", gotHints + processing},
		{"to an upload", "PUT /else HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", gotHints + processing},
		{"to an upgrade", upgradeRequest, gotHints + processing},
		{"to HTTP/1.0", "GET /else HTTP/1.0\r\nHost: a\r\n\r\n", ""},
	} {
		bubble(t, c.name, func(t *testing.T) {
			s := newScript(t, func(x *exchange) {
				x.write("HTTP/1.1 100 Continue\r\n\r\n%s", hints)
				time.Sleep(time.Second)
				x.write("HTTP/1.1 102 Processing\r\n\r\n")
				time.Sleep(time.Second)
				x.ok("ok")
			})
			n := start(t, only(s))
			client := n.open()
			began := time.Now()
			io.WriteString(client.conn, c.request)
			for _, part := range []string{gotHints, processing} {
				if c.want == "" {
					break
				}
				got := make([]byte, len(part))
				if _, err := io.ReadFull(client.reader, got); err != nil || string(got) != part {
					t.Fatalf("%q, %v; want %q", got, err, part)
				}
				if part == gotHints && time.Since(began) != 0 || part == processing && time.Since(began) != time.Second {
					t.Errorf("%q came after %v", part, time.Since(began))
				}
			}
			method, _, _ := strings.Cut(c.request, " ")
			if m, err := readMessage(client.reader, method); err != nil || m.status() != 200 || method != "HEAD" && m.body != "ok" {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
}

// Over the hop there is one answer to a request. Mutant: the owner writes to a client that it
// does not have.
func TestInterimResponsesEndAtTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, change{}, func(x *exchange) {
			x.write("%s", hints)
			x.ok("ok")
		})
		for i, want := range []string{gotHints + gotOK, gotOK} {
			client := p.nodes[i].open()
			io.WriteString(client.conn, "GET /orders/7 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			got, err := io.ReadAll(client.reader)
			if text := strings.Replace(string(got), "Connection: close\r\n", "", 1); err != nil || text != want {
				t.Errorf("at %d: %q, %v; want %q", i, got, err, want)
			}
		}
	})
}

// What was pipelined is answered in its order, interim responses as well.
func TestPipelinedInterimResponses(t *testing.T) {
	s := newScript(t, func(x *exchange) {
		x.write("%s", hints)
		x.ok(x.start)
	})
	n := startOnSockets(t, s, nil)
	c := n.open()
	var request, want strings.Builder
	for i := range 20 {
		start := fmt.Sprintf("GET %s/%d HTTP/1.1", []string{"/orders/7", "/else"}[i%2], i)
		fmt.Fprintf(&request, "%s\r\nHost: a\r\n\r\n", start)
		fmt.Fprintf(&want, "%sHTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", gotHints, len(start), via, start)
	}
	io.WriteString(c.conn, request.String())
	got := make([]byte, want.Len())
	if _, err := io.ReadFull(c.reader, got); err != nil || string(got) != want.String() {
		t.Errorf("%v:\n%q\nwant\n%q", err, got, want.String())
	}
}

// A client that does not read is told less, and holds up nobody. Mutant: its connection is not
// asked whether it has room (it is closed).
func TestInterimResponsesHoldUpNoLane(t *testing.T) {
	large := strings.Repeat("x", 60_000)
	s := newScript(t, func(x *exchange) {
		for range 100 { // more than both sides' buffers hold
			x.write("HTTP/1.1 103 Early Hints\r\nLink: <%s>\r\n\r\n", large)
		}
		x.ok("ok")
	})
	n := startOnSockets(t, s, func(c *proxy.Config) { c.MaxHeader = 64 << 10 })
	deaf := n.open()
	io.WriteString(deaf.conn, "PUT /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	eventually(t, "it runs", func() bool { return s.executed() == 1 })
	if a := n.open().send("PUT", "/orders/7/canary", nil, ""); a.status != 200 {
		t.Errorf("the next request: %d %s", a.status, a.slug())
	}
	if m := deaf.response("PUT"); m.body != "ok" {
		t.Errorf("%q %q", m.head, m.body)
	}
}
