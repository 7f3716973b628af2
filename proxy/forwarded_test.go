package proxy_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/peer"
	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// both runs a case twice, with the requests arriving at the key's owner and at
// the other node, and compares what clients and the service were told.
func both(t *testing.T, name string, changes change, answer func(*exchange), run func(p *pair, at *member) []string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		var said [2][]string
		for i, where := range [2]string{"local", "forwarded"} {
			bubble(t, where, func(t *testing.T) {
				p := startPair(t, changes, answer)
				said[i] = run(p, p.nodes[i])
			})
		}
		same(t, name, said[0], said[1])
	})
}

func same(t *testing.T, what string, local, forwarded []string) {
	t.Helper()
	for i := range max(len(local), len(forwarded)) {
		var a, b string
		if i < len(local) {
			a = local[i]
		}
		if i < len(forwarded) {
			b = forwarded[i]
		}
		if a = masked(a); a != masked(b) {
			t.Errorf("%s: %d differs, local and forwarded:\n%q\n%q", what, i, a, masked(b))
		}
	}
}

// masked puts a word in the place of what differs between any two requests.
func masked(s string) string {
	if len(s) > 10_000 {
		s = fmt.Sprintf("%s… %d bytes …%s", s[:2000], len(s), s[len(s)-2000:])
	}
	for _, m := range masks {
		s = m.like.ReplaceAllString(s, m.by)
	}
	return s
}

var masks = []struct {
	like *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "TICKET"},
	{regexp.MustCompile(`Date: \w{3}, \d\d \w{3} 20\d\d [\d:]+ GMT`), "DATE"}, // fasthttp's clock
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`), "TIME"},
}

// raw is a client's view of a response, byte by byte.
func (c *client) raw(method string) string {
	m, err := c.final(method)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET) && m == nil:
		return "closed" // which of the two depends on what was under way
	case m == nil:
		return err.Error()
	}
	// fasthttp puts this one where it finds room.
	if head, rest, ok := strings.Cut(m.head, "Connection: keep-alive\r\n"); ok {
		m.head = "kept alive: " + head + rest
	}
	if err != nil {
		return fmt.Sprintf("%s%s and then: %v", m.head, m.body, err)
	}
	return m.head + m.body
}

// responses are what a service may answer, beside behaviours.
var responses = []behaviour{
	{name: "nothing but a status", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") }},
	{name: "a body", answer: func(x *exchange) { x.ok("body") }},
	{name: "a type", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nContent-Type: a/b; c=d\r\nContent-Length: 2\r\n\r\nok") }},
	{name: "an empty type", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nContent-Type:\r\nContent-Length: 2\r\n\r\nok") }},
	{name: "a reason of its own", answer: func(x *exchange) { x.write("HTTP/1.1 299 Quite So\r\nContent-Length: 2\r\n\r\nok") }},
	{name: "no reason", answer: func(x *exchange) { x.write("HTTP/1.1 201 \r\nContent-Length: 2\r\n\r\nok") }},
	{name: "an unknown status without a reason", answer: func(x *exchange) { x.write("HTTP/1.1 299 \r\nContent-Length: 2\r\n\r\nok") }},
	{name: "many fields", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nServer: it\r\nX-Twice: 1\r\nSet-Cookie: a=b; Path=/\r\nx-lower: l\r\nX-Twice: 2\r\nX-Empty:\r\n" +
			"Set-Cookie: c=\"d\"\r\nSet-Cookie: a=again\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\nVia: 1.0 before\r\nX-Latin: caf\xe9\r\nVary: *\r\n\r\nok")
	}},
	{name: "an empty server", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nServer:\r\nContent-Length: 2\r\n\r\nok") }},
	{name: "fields for this hop", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nTrailer: X-T\r\nUpgrade: h2c\r\nX-Theirs: 1\r\nContent-Length: 2\r\n\r\nok")
	}},
	{name: "the length is nominated", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nConnection: Content-Length, Content-Type\r\nContent-Type: a/b\r\nContent-Length: 2\r\n\r\nok")
	}},
	{name: "lanekeeper's own fields", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nLanekeeper-Ticket: forged\r\nLanekeeper-Key: k\r\nProxy-Status: other\r\nPreference-Applied: wait=99\r\nContent-Length: 2\r\n\r\nok")
	}},
	{name: "a folded field", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nX-Long: a\r\n  b\r\nContent-Length: 2\r\n\r\nok")
	}},
	{name: "a head of 15 KiB", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nX-Large: %s\r\nContent-Length: 2\r\n\r\nok", strings.Repeat("x", 15<<10))
	}},
	{name: "a head without a body of 5 KiB", answer: func(x *exchange) {
		x.write("HTTP/1.1 204 No Content\r\nX-Large: %s\r\n\r\n", strings.Repeat("x", 5<<10))
	}},
	{name: "an empty chunked body", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") }},
	{name: "204 in chunks", answer: func(x *exchange) { x.write("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n") }},
	{name: "304 with fields", answer: func(x *exchange) {
		x.write("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nCache-Control: no-cache\r\n\r\n")
	}},
	{name: "205", answer: func(x *exchange) { x.write("HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n") }},
	{name: "a redirect", answer: func(x *exchange) {
		x.write("HTTP/1.1 307 Temporary Redirect\r\nLocation: /orders/8\r\nContent-Length: 0\r\n\r\n")
	}},
	{name: "closes", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end")
		x.conn.Close()
	}},
	{name: "HTTP/1.0 that is kept alive", answer: func(x *exchange) { x.write("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok") }},
	{name: "HTTP/1.0 in chunks", answer: func(x *exchange) {
		x.write("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
		x.conn.Close()
	}},
	{name: "two lengths that agree", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok") }},
	{name: "a length and chunks", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
	}},
	{name: "a field name with a space", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nX Odd: 1\r\nContent-Length: 2\r\n\r\nok") }},
	{name: "a bare line feed", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\nX-A: 1\nContent-Length: 2\n\nok") }},
	{name: "a carriage return in a field", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nX-A: 1\rX-B: 2\r\nContent-Length: 2\r\n\r\nok") }},
}

// sized are responses around the largest that is read whole, in every framing.
func sized() (all []behaviour) {
	for _, size := range []int{1, 65_535, 65_536, 99_999, 100_000, 100_001, 1<<20 - 1, 1 << 20, 1<<20 + 1} {
		body := strings.Repeat("0123456789", size/10+1)[:size]
		all = append(all,
			behaviour{name: fmt.Sprintf("%d bytes", size), answer: func(x *exchange) { x.ok(body) }},
			behaviour{name: fmt.Sprintf("%d bytes in chunks", size), answer: func(x *exchange) {
				x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%x\r\n%s\r\n0\r\nX-Trailer: 1\r\n\r\n", size/2+1, body[:size/2+1], size, body)
			}},
			behaviour{name: fmt.Sprintf("%d bytes until it closes", size), answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\n\r\n%s", body); x.conn.Close() }},
		)
	}
	return all
}

// A response that came over the hop is the same, byte by byte. Mutants: the
// owner's header makes up a Content-Type; the length of a HEAD's response does not
// come along, or the owner does not know that it is one; a head without a length
// closes the connection; the ingress's reader of heads holds 4 KiB; a stream loses
// its length; the owner's errors quote the response.
func TestAForwardedResponseIsTheSame(t *testing.T) {
	plain := append(responses, behaviours...)
	clients := []struct {
		name, method, request string
		answers               []behaviour
	}{
		{"GET", "GET", "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", append(sized(), plain...)},
		{"POST", "POST", "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", plain},
		{"HEAD", "HEAD", "HEAD %s HTTP/1.1\r\nHost: a\r\n\r\n", append(sized()[:6], plain...)},
		{"HTTP/1.0", "GET", "GET %s HTTP/1.0\r\n\r\n", append(sized(), responses...)},
		{"HTTP/1.0 that keeps alive", "GET", "GET %s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", plain},
		{"GET that closes", "GET", "GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", responses},
	}
	for _, c := range clients {
		bubble(t, c.name, func(t *testing.T) {
			answers := make(map[string]func(*exchange))
			for i, b := range c.answers {
				answers[fmt.Sprintf("/orders/7/%d", i)] = b.answer
			}
			p := startPair(t, lane(func(l *proxy.Lane) {
				l.UpstreamTimeout, l.HoldFor, l.QueueTimeout = time.Second, time.Second, time.Minute
			}), func(x *exchange) { answers[x.path()](x) })
			for i, b := range c.answers {
				path := fmt.Sprintf("/orders/7/%d", i)
				var said [2][]string
				for n, at := range p.nodes {
					c1 := at.open()
					fmt.Fprintf(c1.conn, c.request, path)
					said[n] = append(said[n], c1.raw(c.method))
					io.WriteString(c1.conn, "GET /orders/7/canary HTTP/1.1\r\nHost: a\r\n\r\n") // is the connection in step?
					said[n] = append(said[n], c1.raw("GET"))
					c1.conn.Close()
				}
				same(t, b.name, said[0], said[1])
			}
			if got, want := p.service.executed(), 2*len(c.answers); got != want {
				t.Errorf("%d requests ran, want %d", got, want)
			}
		})
	}
}

// requests are parts of which requests are made; fields come in any number and order.
var requests = struct {
	starts, fields []string
	bodies         []string
}{
	starts: []string{
		"GET /orders/7 HTTP/1.1", "POST /orders/7 HTTP/1.1", "PUT /orders/7/a%20b/%2F?x=1&y=%zz HTTP/1.1", "DELETE /orders/%37 HTTP/1.1",
		"PATCH http://shop.example/orders/7?q HTTP/1.1", "HEAD /orders/7/h HTTP/1.1", "get /orders/7 HTTP/1.1", "FROB /orders/7 HTTP/1.1",
		"GET /orders/7 HTTP/1.0", "POST /orders/7 HTTP/1.0", "POST /orders/7 HTTP/1.0",
	},
	fields: []string{
		"User-Agent: it", "user-agent:", "Accept: */*", "X-Twice: 1", "x-twice: 2", "X-Empty:", "X-Space:   a b\t ", "X-Latin: caf\xe9", "Content-Type: a/b; c=\"d\"", "Content-Type:",
		"Cookie: a=b; c=\"d e\"; a=again", "cookie: lone", "COOKIE: =x; ;; y=\x01z", "Connection: close", "Connection: keep-alive", "Connection: X-Mine, Cookie", "connection: Host, x-twice",
		"Connection: Lanekeeper-Key, Via, X-Forwarded-For, Content-Type", "X-Mine: 1", "Keep-Alive: timeout=5", "TE: trailers", "Upgrade: h2c", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eA==",
		"X-Forwarded-For: 198.51.100.1", "x-forwarded-for: 10.0.0.9, 192.0.2.2", "X-Forwarded-Proto: https", "X-Forwarded-Host: other.example", "X-Forwarded-Port: 443", "X-Real-Ip: 198.51.100.2",
		"Forwarded: for=198.51.100.1;proto=https", "forwarded: for=\"[2001:db8::1]\"", "Via: 1.0 before", "Max-Forwards: 3", "Lanekeeper-Key: order:8", "Lanekeeper-Deadline: x", "Lanekeeper-Fence: 9",
		"Lanekeeper-Ticket: 00dc6acf-ac00-7000-8000-445869e8e9c0", "lanekeeper-upload: 9", "Prefer: respond-async, wait=5", "Expect: 100-continue", "Trailer: X-After", "Authorization: Bearer x", "Date: Mon, 02 Jan 2006 15:04:05 GMT",
		"If-None-Match: *", "Range: bytes=0-1", "Accept-Encoding: gzip", "Content-Encoding: gzip", "X-Long: " + strings.Repeat("l", 5000),
	},
	bodies: []string{
		"\r\n", "Content-Length: 0\r\n\r\n", "Content-Length: 4\r\n\r\nbody",
		"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		"Trailer: X-After, Lanekeeper-Key\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\nX-After: 1\r\nLanekeeper-Key: order:8\r\nX-Twice: 3\r\nConnection: X-Mine\r\n\r\n",
		"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Late: 1\r\nX-Forwarded-For: 1.2.3.4\r\nCookie: late=1\r\n\r\n",
	},
}

// A request that went over the hop reaches the service with the same bytes, but
// for its ticket and its deadline, and has the same answer. Mutants: the owner
// adds a Via of its own; the fields of the lane are missing; the head is sent
// before it is prepared; the body is the context's; the version is the client's.
func TestAForwardedRequestIsTheSame(t *testing.T) {
	styles := map[string]proxy.Forwarded{"x": proxy.ForwardedX, "rfc": proxy.ForwardedRFC, "both": proxy.ForwardedBoth, "none": proxy.ForwardedNone}
	for name, style := range styles {
		bubble(t, name, func(t *testing.T) {
			seed := uint64(style) + 1
			random := rand.New(rand.NewPCG(seed, 7))
			seen := make(chan string, 100)
			p := startPair(t, change{proxy: func(_ int, c *proxy.Config) { c.Forwarded = style }}, func(x *exchange) {
				seen <- x.by() + " " + x.head + x.body
				x.ok("done")
			})
			ran := 0
			const count = 250
			for i := range count {
				b := requests.starts[random.IntN(len(requests.starts))] + "\r\n"
				if random.IntN(8) > 0 || strings.Contains(b, "//") {
					b += "Host: shop.example\r\n"
				}
				for range random.IntN(8) {
					b += requests.fields[random.IntN(len(requests.fields))] + "\r\n"
				}
				b += requests.bodies[random.IntN(len(requests.bodies))]
				from := []string{stranger, "10.1.2.3:1000", "[2001:db8::9]:1000"}[random.IntN(3)]
				var said [2][]string
				for n, at := range p.nodes {
					c := at.openFrom(from)
					io.WriteString(c.conn, b)
					method := strings.ToUpper(strings.Fields(b)[0])
					said[n] = append(said[n], c.raw(method))
					for strings.HasPrefix(said[n][len(said[n])-1], "HTTP/1.1 100") {
						said[n] = append(said[n], c.raw(method))
					}
					c.conn.Close()
					synctest.Wait()
					select {
					case request := <-seen:
						if start, _, _ := strings.Cut(request, "\r\n"); !strings.HasPrefix(start, "lk-0 ") || !strings.HasSuffix(start, " HTTP/1.1") {
							t.Errorf("%q reached the service as %q", b, start)
						}
						said[n] = append(said[n], request)
						ran++
					default:
					}
				}
				same(t, fmt.Sprintf("seed %d, request %d, %q", seed, i, b), said[0], said[1])
			}
			if ran < count {
				t.Errorf("only %d of %d requests were taken", ran, 2*count)
			}
			if got := p.nodes[1].metric("lanekeeper_forwarded_total", "result", "response"); got != float64(ran/2) {
				t.Errorf("%v were forwarded, %d ran", got, ran)
			}
		})
	}
}

// told is what an answer says, beside what differs between any two.
func told(a *answer) string {
	depth := "none"
	if a.problem.QueueDepth != nil {
		depth = fmt.Sprint(*a.problem.QueueDepth)
	}
	text := fmt.Sprintf("%d %s executed=%s depth=%s route=%s", a.status, a.slug(), a.problem.Executed, depth, a.problem.Route)
	if a.slug() == "" {
		text += fmt.Sprintf(" %d bytes %x", len(a.body), sha256.Sum256([]byte(a.body)))
	}
	for _, name := range []string{"Preference-Applied", "Connection", "Proxy-Status", "Via", "Cache-Control"} {
		text += fmt.Sprintf(" %s=%q", name, a.header.Values(name))
	}
	return text
}

// is checks an answer's status and, of lanekeeper's own, the slug and what it
// says of the execution.
func (a *answer) is(t *testing.T, what string, status int, slug, executed string) {
	t.Helper()
	if a.status != status || a.slug() != slug || a.problem.Executed != executed {
		t.Errorf("%s: %d %q, executed %q (%s); want %d %q, executed %q", what, a.status, a.slug(), a.problem.Executed, a.problem.Detail, status, slug, executed)
	}
}

// within checks Retry-After, in seconds, and that the body agrees.
func (a *answer) within(t *testing.T, what string, least, most int) {
	t.Helper()
	n, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || n < least || n > most || n != a.problem.RetryAfter {
		t.Errorf("%s: Retry-After %q, %d in the body; want %d to %d", what, a.header.Get("Retry-After"), a.problem.RetryAfter, least, most)
	}
}

// Mutants: the owner sends the context's body instead of the request's; it does
// not wait for one that comes apart.
func TestForwardedBodies(t *testing.T) {
	for _, framing := range []string{"length", "chunked"} {
		both(t, framing, change{}, func(x *exchange) {
			x.ok(fmt.Sprintf("%d bytes %x", len(x.body), sha256.Sum256([]byte(x.body))))
		}, func(p *pair, at *member) (said []string) {
			for _, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20, 2 << 20, 2<<20 + 1} {
				body := strings.Repeat("0123456789abcdef_", size/17+1)[:size]
				c := at.open()
				if framing == "length" {
					fmt.Fprintf(c.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", size, body)
				} else {
					fmt.Fprintf(c.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
					if size > 0 {
						fmt.Fprintf(c.conn, "%x\r\n%s\r\n", size, body)
					}
					io.WriteString(c.conn, "0\r\n\r\n")
				}
				a, err := c.read("POST")
				want := fmt.Sprintf("%d bytes %x", size, sha256.Sum256([]byte(body)))
				switch {
				case size > 2<<20:
					a.is(p.t, "too large", 413, "body-too-large", "no")
				case err != nil || a.status != 200 || a.body != want:
					p.t.Errorf("%d bytes: %d %q, %v", size, a.status, a.body, err)
				}
				said = append(said, told(a))
			}
			return said
		})
	}
}

// Mutants: the refusal does not carry its depth; or the time of a turn.
func TestForwardedLaneFull(t *testing.T) {
	both(t, "", change{}, nil, func(p *pair, at *member) (said []string) {
		c, _ := at.async("POST", "/orders/7/0", nil, "")
		_, second := at.async("POST", "/orders/7/1", nil, "")
		time.Sleep(3 * time.Second)
		p.ran("/orders/7/0", p.nodes[0]).finish("") // so that the lane knows what a turn takes
		c.conn.Close()
		x := p.ran("/orders/7/1", p.nodes[0])
		for i := range 4 {
			at.async("POST", fmt.Sprintf("/orders/7/%d", i+2), nil, "")
		}
		a := at.send("POST", "/orders/7/6", nil, "")
		a.is(p.t, "the sixth", 429, "lane-full", "no")
		a.within(p.t, "the sixth", 12, 15)
		if d := a.problem.QueueDepth; d == nil || *d != 4 {
			p.t.Errorf("depth %v", d)
		}
		x.finish("")
		said = append(said, told(a), a.problem.Detail, told(<-second))
		for i := range 4 {
			p.ran(fmt.Sprintf("/orders/7/%d", i+2), p.nodes[0]).finish("")
		}
		return said
	})
}

// after sends a request and says how long its answer took.
func (m *member) after(method, path string, header http.Header, body string) (*answer, time.Duration) {
	m.t.Helper()
	began := time.Now()
	return m.send(method, path, header, body), time.Since(began)
}

// lateBy checks a time that may not be early, and late only by what the hop takes.
func lateBy(t *testing.T, what string, took, want time.Duration) {
	t.Helper()
	if took < want || took > want+500*time.Millisecond {
		t.Errorf("%s after %v, want %v", what, took, want)
	}
}

// Mutants: the ingress answers by itself, without the owner's depth and times;
// it gives up before a request without patience could be there; the owner has no
// timer, or it runs on in the request's turn and answers then.
func TestForwardedPatience(t *testing.T) {
	both(t, "queue_timeout", change{}, nil, func(p *pair, at *member) (said []string) {
		_, first := at.async("POST", "/orders/7/0", nil, "")
		_, second := at.async("POST", "/orders/7/1", nil, "")
		time.Sleep(3 * time.Second)
		p.ran("/orders/7/0", p.nodes[0]).finish("")
		x := p.ran("/orders/7/1", p.nodes[0])
		at.async("POST", "/orders/7/2", nil, "")
		a, took := at.after("POST", "/orders/7/3", nil, "")
		a.is(p.t, "the fourth", 503, "lane-timeout", "no")
		a.within(p.t, "the fourth", 3, 4) // one before it, and each takes 3 s
		lateBy(p.t, "lane-timeout", took, 10*time.Second)
		synctest.Wait()
		x.finish("")
		p.quiet("both waiting requests had no patience left")
		return append(said, told(a), told(<-first), told(<-second))
	})
	both(t, "Prefer", change{}, nil, func(p *pair, at *member) (said []string) {
		at.async("POST", "/orders/7/0", nil, "")
		x := p.ran("/orders/7/0", p.nodes[0])
		a, took := at.after("POST", "/orders/7/1", http.Header{"Prefer": {"wait=2"}}, "")
		a.is(p.t, "wait=2", 503, "lane-timeout", "no")
		lateBy(p.t, "wait=2", took, 2*time.Second)
		b, took := at.after("POST", "/orders/7/2", http.Header{"Prefer": {"wait=0"}}, "")
		b.is(p.t, "wait=0", 503, "lane-timeout", "no")
		lateBy(p.t, "wait=0", took, 0)
		_, late := at.async("POST", "/orders/7/3", http.Header{"Prefer": {"wait=99"}}, "")
		time.Sleep(9 * time.Second)
		x.finish("")
		p.ran("/orders/7/3", p.nodes[0]).finish("")
		said = append(said, told(a), told(b), told(<-late))
		_, free := at.async("POST", "/orders/7/4", http.Header{"Prefer": {"wait=0"}}, "")
		if x := p.next(); x == nil {
			p.t.Error("a request without patience does not run in a free lane")
		} else {
			time.Sleep(20 * time.Second) // its turn has no such end
			x.finish("")
		}
		return append(said, told(<-free))
	})
}

// Mutants: the owner's limits are not asked; the hop's are not.
func TestForwardedOverload(t *testing.T) {
	both(t, "max_queued", change{lanes: func(_ int, c *queue.Config) { c.MaxQueued = 1 }}, nil, func(p *pair, at *member) (said []string) {
		at.async("POST", "/orders/7/0", nil, "")
		_, second := at.async("POST", "/orders/7/1", nil, "")
		a := at.send("POST", "/orders/7/2", nil, "")
		a.is(p.t, "the third", 503, "overloaded", "no")
		a.within(p.t, "the third", 1, 1)
		p.ran("/orders/7/0", p.nodes[0]).finish("")
		p.ran("/orders/7/1", p.nodes[0]).finish("")
		return append(said, told(a), told(<-second))
	})
	both(t, "max_lanes", change{lanes: func(_ int, c *queue.Config) { c.MaxLanes = 1 }}, nil, func(p *pair, at *member) (said []string) {
		at.async("POST", "/orders/7/0", nil, "")
		a := at.send("POST", "/orders/8", nil, "")
		a.is(p.t, "another key", 503, "overloaded", "no")
		p.ran("/orders/7/0", p.nodes[0]).finish("")
		return append(said, told(a))
	})
	both(t, "max_inflight", change{proxy: func(_ int, c *proxy.Config) { c.MaxInflight = 1 }}, nil, func(p *pair, at *member) (said []string) {
		at.async("POST", "/orders/7/0", nil, "")
		a := at.send("POST", "/orders/8", nil, "")
		a.is(p.t, "another key", 503, "overloaded", "no")
		p.ran("/orders/7/0", p.nodes[0]).finish("")
		_, b := at.async("POST", "/orders/8", nil, "") // its place has been given back
		p.ran("/orders/8", p.nodes[0]).finish("")
		return append(said, told(a), told(<-b))
	})
	both(t, "bytes of a lane", lane(func(l *proxy.Lane) { l.MaxBytes = 100 }), nil, func(p *pair, at *member) (said []string) {
		at.async("POST", "/orders/7/0", nil, strings.Repeat("a", 1000)) // need not wait
		at.async("POST", "/orders/7/1", nil, strings.Repeat("b", 60))
		a := at.send("POST", "/orders/7/2", nil, strings.Repeat("c", 60))
		a.is(p.t, "the third", 429, "lane-full", "no")
		p.ran("/orders/7/0", p.nodes[0]).finish("")
		p.ran("/orders/7/1", p.nodes[0]).finish("")
		return append(said, told(a))
	})
	bubble(t, "the hop", func(t *testing.T) {
		p := startPair(t, change{hop: func(_ int, c *peer.Config) { c.MaxCalls = 1 }}, nil)
		p.nodes[1].async("POST", "/orders/7", nil, "")
		a := p.nodes[1].send("POST", "/orders/8", nil, "")
		a.is(t, "the second", 503, "overloaded", "no")
		p.ran("/orders/7", p.nodes[0]).finish("")
		_, b := p.nodes[1].async("POST", "/orders/8", nil, "")
		p.ran("/orders/8", p.nodes[0]).finish("")
		(<-b).is(t, "then", 200, "", "")
	})
}

// Mutants: the holder is not sent along; the answer has no ticket; a request that
// passes counts as the owner's.
func TestForwardedTickets(t *testing.T) {
	for name, policy := range map[string]proxy.Reentrant{"508": proxy.RejectReentry, "pass": proxy.PassReentry} {
		both(t, name, change{proxy: func(_ int, c *proxy.Config) { c.TicketHeader, c.Routes[0].Lane.Reentrant = true, policy }}, nil, func(p *pair, at *member) (said []string) {
			_, first := at.async("POST", "/orders/7/holder", nil, "")
			x := p.ran("/orders/7/holder", p.nodes[0])
			ticket := x.get("Lanekeeper-Ticket")
			_, inner := at.async("POST", "/orders/7/inner", http.Header{"Lanekeeper-Ticket": {ticket}}, "")
			if policy == proxy.PassReentry {
				y := p.ran("/orders/7/inner", at) // there is no lane for it, and so no owner
				if y.get("Lanekeeper-Key")+y.get("Lanekeeper-Ticket") != "" {
					p.t.Errorf("the inner request names a lane:\n%s", y.head)
				}
				said = append(said, y.head)
				time.Sleep(time.Second)
				y.finish("in it")
				if got := at.metric("lanekeeper_upstream_duration_seconds"); got != 1 {
					p.t.Errorf("%s has %v calls of the upstream, not the inner request's", at.self, got)
				}
				if log := at.log.String(); !strings.Contains(log, `"forwarded":false`) || strings.Contains(log, `"owner"`) {
					p.t.Errorf("it ran here, says not the log: %s", log)
				}
			}
			a := <-inner
			if policy == proxy.RejectReentry {
				a.is(p.t, "inner", 508, "reentrant-lane", "no")
			}
			_, other := at.async("POST", "/orders/8", http.Header{"Lanekeeper-Ticket": {ticket}}, "") // another lane
			p.ran("/orders/8", p.nodes[0]).finish("")
			x.finish("")
			b := <-first
			if got := b.header.Get("Lanekeeper-Ticket"); got != ticket {
				p.t.Errorf("the client has ticket %s, the service %s", got, ticket)
			}
			return append(said, told(a), told(b), told(<-other))
		})
	}
}

// Mutants: the class is not sent along; max_shared is not.
func TestForwardedClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, change{}, nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		var answers []<-chan *answer
		for _, r := range []struct {
			at           *member
			method, path string
		}{{ingress, "GET", "/orders/7/0"}, {owner, "GET", "/orders/7/1"}, {ingress, "GET", "/orders/7/2"}, {ingress, "POST", "/orders/7/3"}, {owner, "GET", "/orders/7/4"}, {ingress, "GET", "/orders/7/5"}} {
			_, a := r.at.async(r.method, r.path, nil, "")
			answers = append(answers, a)
		}
		runs := func(want ...string) (all []*exchange) {
			t.Helper()
			got := make(map[string]*exchange)
			for x := p.next(); x != nil; x = p.next() {
				got[x.path()] = x
			}
			for _, path := range want {
				if got["/orders/7/"+path] == nil || len(got) != len(want) {
					t.Fatalf("%d run, and of %q not %s", len(got), want, path)
				}
				all = append(all, got["/orders/7/"+path])
			}
			return all
		}
		two := runs("0", "1") // max_shared is 2
		two[1].finish("")
		third := runs("2")
		two[0].finish("")
		runs()
		third[0].finish("")
		runs("3")[0].finish("")
		for _, x := range runs("4", "5") {
			x.finish("")
		}
		for i, a := range answers {
			(<-a).is(t, fmt.Sprint(i), 200, "", "")
		}
	})
}

// The lane is held at the owner, who alone can. Mutants: hold_for is not sent
// along; nor that the lane is released. Seen red, too: an operator's release is not counted,
// or ends nothing; what is held is not known by its ticket.
func TestForwardedTimeoutHoldsTheLane(t *testing.T) {
	ends := []struct {
		name   string
		change func(*proxy.Lane)
		then   func(*exchange) // 5 s after the timeout; nil: an operator releases the lane, if it is free then
		free   time.Duration   // after the timeout
		risked float64
	}{
		{"the upstream answers late", nil, func(x *exchange) { x.ok("late") }, 5 * time.Second, 0},
		{"the upstream closes late", nil, func(x *exchange) { x.conn.Close() }, 5 * time.Second, 0},
		{"hold_for passes", nil, nil, 20 * time.Second, 1},
		{"an operator releases it", nil, nil, 5 * time.Second, 1},
		{"release", func(l *proxy.Lane) { l.AfterTimeout = proxy.Release }, nil, 0, 0},
	}
	for _, end := range ends {
		both(t, end.name, lane(func(l *proxy.Lane) {
			l.QueueTimeout = 5 * time.Minute
			if end.change != nil {
				end.change(l)
			}
		}), nil, func(p *pair, at *member) (said []string) {
			owner := p.nodes[0]
			_, second := at.async("POST", "/orders/7/0", nil, "")
			x := p.ran("/orders/7/0", owner)
			began := time.Now()
			_, next := at.async("POST", "/orders/7/1", nil, "")
			a := <-second
			lateBy(p.t, "upstream-timeout", time.Since(began), 30*time.Second)
			a.is(p.t, "the first", 504, "upstream-timeout", "unknown")
			if end.free > 0 {
				p.quiet("the lane is held")
				if got := owner.metric("lanekeeper_held_lanes"); got != 1 {
					p.t.Errorf("the owner holds %v lanes", got)
				}
			}
			time.Sleep(5 * time.Second)
			switch {
			case end.then != nil:
				end.then(x)
			case end.free == 5*time.Second:
				owner.released(15 * time.Second)
			}
			time.Sleep(time.Until(began.Add(30*time.Second + end.free)))
			p.ran("/orders/7/1", owner).finish("")
			for i, n := range p.nodes {
				if got, want := n.metric("lanekeeper_hold_expired_total"), end.risked*float64(1-i); got != want {
					p.t.Errorf("%s: hold_expired_total is %v, want %v", n.self, got, want)
				}
			}
			return append(said, told(a), a.problem.Detail, told(<-next))
		})
	}
}

// Mutants: executed is not the owner's; a request is tried again at the ingress;
// a panic at the owner keeps the lane, or the ingress waiting.
func TestForwardedFailures(t *testing.T) {
	next := func(p *pair, at *member) { // runs once the lane is free
		p.t.Helper()
		_, a := at.async("POST", "/orders/7/next", nil, "")
		p.ran("/orders/7/next", p.nodes[0]).finish("")
		(<-a).is(p.t, "the next", 200, "", "")
	}
	both(t, "connect", change{}, nil, func(p *pair, at *member) (said []string) {
		p.reachable(false)
		for _, method := range []string{"POST", "GET"} {
			a := at.send(method, "/orders/7", nil, "")
			a.is(p.t, "nobody listens", 502, "upstream-connect", "no")
			said = append(said, told(a), a.problem.Detail)
		}
		p.reachable(true)
		next(p, at)
		return said
	})
	both(t, "reset", change{}, nil, func(p *pair, at *member) (said []string) {
		_, a := at.async("POST", "/orders/7", nil, "")
		p.ran("/orders/7", p.nodes[0]).conn.Close()
		b := <-a
		b.is(p.t, "closed without an answer", 502, "upstream-reset", "unknown")
		p.quiet("it ran once")
		next(p, at)
		return append(said, told(b), b.problem.Detail)
	})
	both(t, "invalid", lane(func(l *proxy.Lane) { l.AfterTimeout = proxy.Release }), nil, func(p *pair, at *member) (said []string) {
		_, a := at.async("POST", "/orders/7", nil, "")
		p.ran("/orders/7", p.nodes[0]).write("what?\r\n\r\n")
		b := <-a
		b.is(p.t, "no HTTP", 502, "upstream-invalid", "unknown")
		next(p, at)
		return append(said, told(b), b.problem.Detail)
	})
	both(t, "panic", change{proxy: func(_ int, c *proxy.Config) {
		reach, first := c.Upstreams[0].Dial, true
		c.Upstreams[0].Dial = func(address string) (net.Conn, error) {
			conn, err := reach(address)
			if first {
				conn = brokenConn{conn}
			}
			first = false
			return conn, err
		}
	}}, nil, func(p *pair, at *member) (said []string) {
		p.panics = true
		a := at.send("POST", "/orders/7", nil, "")
		a.is(p.t, "a panic", 500, "internal-error", "unknown")
		next(p, at)
		return append(said, told(a))
	})
}

type brokenConn struct{ net.Conn }

func (brokenConn) Write([]byte) (int, error) { panic("as meant") }

// What is counted where. Mutants: the ingress counts the lane, or the upstream;
// the owner counts the request; neither counts the lane of a request that the
// owner refused, or that waited too long; lane_ms is not the owner's.
func TestForwardedFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, change{}, nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		_, a := ingress.async("POST", "/orders/7/0", nil, "")
		var waiting []<-chan *answer
		for i := range 4 {
			_, a := ingress.async("POST", fmt.Sprintf("/orders/7/%d", i+1), nil, "")
			waiting = append(waiting, a)
		}
		ingress.send("POST", "/orders/7/5", nil, "").is(t, "a full lane", 429, "lane-full", "no")
		_, local := owner.async("GET", "/orders/8", nil, "")
		x := p.ran("/orders/7/0", owner)
		y := p.ran("/orders/8", owner)
		time.Sleep(2 * time.Second)
		x.finish("")
		y.finish("")
		<-local
		<-a
		z := p.ran("/orders/7/1", owner)
		time.Sleep(20 * time.Second) // the others' patience ends
		z.finish("")
		(<-waiting[0]).is(t, "the second", 200, "", "")
		for _, a := range waiting[1:] {
			(<-a).is(t, "a late one", 503, "lane-timeout", "no")
		}
		synctest.Wait()
		for _, want := range []struct {
			name            string
			labels          []string
			owner, ingress_ float64
		}{
			{"lanekeeper_requests_total", nil, 1, 6},
			{"lanekeeper_request_duration_seconds", nil, 1, 6},
			{"lanekeeper_requests_total", []string{"code", "200"}, 1, 2},
			{"lanekeeper_rejected_total", nil, 0, 4},
			{"lanekeeper_rejected_total", []string{"reason", "lane-timeout"}, 0, 3},
			{"lanekeeper_upstream_duration_seconds", nil, 3, 0},
			{"lanekeeper_lane_wait_seconds", []string{"mode", "exclusive"}, 6, 0},
			{"lanekeeper_lane_wait_seconds", []string{"mode", "shared"}, 1, 0},
			{"lanekeeper_local_total", nil, 1, 0},
			{"lanekeeper_forwarded_total", nil, 0, 6},
			{"lanekeeper_forwarded_total", []string{"result", "response"}, 0, 2},
			{"lanekeeper_forwarded_total", []string{"result", "not_executed"}, 0, 4},
			{"lanekeeper_forward_duration_seconds", []string{"result", "response"}, 0, 2},
			{"lanekeeper_unknown_total", nil, 0, 0},
		} {
			for i, n := range []float64{want.owner, want.ingress_} {
				if got := p.nodes[i].metric(want.name, want.labels...); got != n {
					t.Errorf("%s: %s %q is %v, want %v", p.nodes[i].self, want.name, want.labels, got, n)
				}
			}
		}
		if lines := strings.Count(owner.log.String(), `"msg":"request"`); lines != 1 {
			t.Errorf("the owner logged %d requests, want its own alone:\n%s", lines, owner.log)
		}
		if log := owner.log.String(); !strings.Contains(log, `"forwarded":false`) || strings.Contains(log, `"owner"`) {
			t.Errorf("the owner's: %s", log)
		}
		log := ingress.log.String()
		for _, want := range []string{
			`"status":200,"mode":"exclusive","total_ms":2000,"lane_ms":0,"upstream_ms":2000,"client":"203.0.113.9","owner":"lk-0","forwarded":true,"route":"order","space":"order"`,
			`"total_ms":22000,"lane_ms":2000,"upstream_ms":20000,`,
			`"status":429,"mode":"exclusive","total_ms":0,"lane_ms":0,`,
			`"status":503,"mode":"exclusive","total_ms":10000,"lane_ms":10000,`,
			`"depth":4,`,
		} {
			if !strings.Contains(log, want) {
				t.Errorf("the ingress did not log %s:\n%s", want, log)
			}
		}
		if log := strings.Count(log, `"owner":"lk-0","forwarded":true`); log != 6 {
			t.Errorf("%d lines name the owner, want 6", log)
		}
	})
}

// stream answers with a body of the given framing, piece by piece, as long as
// more says so.
func stream(x *exchange, framing string, pieces int, piece []byte, more func(i int) bool) {
	switch framing {
	case "length":
		x.write("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", pieces*len(piece))
	case "chunked":
		x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	case "close":
		x.write("HTTP/1.1 200 OK\r\n\r\n")
	}
	for i := range pieces {
		if !more(i) {
			return
		}
		if framing == "chunked" {
			x.write("%x\r\n", len(piece))
		}
		if _, err := x.conn.Write(piece); err != nil {
			return
		}
		if framing == "chunked" {
			x.write("\r\n")
		}
	}
	switch framing {
	case "chunked":
		x.write("0\r\n\r\n")
	case "close":
		x.conn.Close()
	}
}

var framings = []string{"length", "chunked", "close"}

func always(int) bool { return true }

// A stream flows at the client's pace, and takes the same memory however long it
// is. Mutants: the owner collects what the ingress does not read; the ingress
// what the client does not.
func TestAForwardedStreamTakesLittleMemory(t *testing.T) {
	piece := bytes.Repeat([]byte("0123456789abcdef"), 4<<10) // 64 KiB
	const pieces = 512                                       // 32 MiB
	for _, framing := range framings {
		bubble(t, framing, func(t *testing.T) {
			p := startPair(t, change{}, func(x *exchange) { stream(x, framing, pieces, piece, always) })
			inUse := func() int {
				synctest.Wait() // everybody before the client waits for it
				runtime.GC()
				var stats runtime.MemStats
				runtime.ReadMemStats(&stats)
				return int(stats.HeapAlloc)
			}
			sum, want, buffer := sha256.New(), sha256.New(), make([]byte, 1<<20)
			c := p.nodes[1].open()
			before, total := inUse(), 0
			io.WriteString(c.conn, "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n")
			response, err := http.ReadResponse(c.reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; err == nil; i++ {
				time.Sleep(100 * time.Millisecond)
				var n int
				n, err = io.ReadFull(response.Body, buffer)
				sum.Write(buffer[:n])
				if total += n; i == 16 {
					if grown := inUse() - before; grown > 2<<20 {
						t.Errorf("in the midst of it %d KiB more are in use", grown>>10)
					}
				}
			}
			for range pieces {
				want.Write(piece)
			}
			if !errors.Is(err, io.EOF) || !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
				t.Errorf("%d bytes, %v", total, err)
			}
		})
	}
}

// brokenOff is how a client sees the end of a response: whole, or not.
func brokenOff(c *client, method string) string {
	m, err := readMessage(c.reader, method)
	switch {
	case m == nil:
		return fmt.Sprintf("nothing, %v", err)
	case err != nil:
		return fmt.Sprintf("%d, broken off", m.status())
	}
	return fmt.Sprintf("%d, whole, %d bytes, %s", m.status(), len(m.body), m.framing)
}

// Mutants: END says whole when the upstream broke off; the ingress takes the
// connection's end for the body's; the lane is free while the stream flows, or is
// never freed.
func TestAForwardedStreamThatBreaksOff(t *testing.T) {
	piece := bytes.Repeat([]byte("x"), 50_000)
	const request = "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, framing := range framings[:2] {
		both(t, "by the upstream, "+framing, lane(func(l *proxy.Lane) { l.QueueTimeout = 5 * time.Minute }), nil, func(p *pair, at *member) (said []string) {
			c := at.open()
			io.WriteString(c.conn, request)
			x := p.ran("/orders/7", p.nodes[0])
			half := make(chan struct{})
			go stream(x, framing, 20, piece, func(i int) bool {
				if i == 10 {
					<-half
					x.conn.Close()
				}
				return i < 10
			})
			_, next := at.async("POST", "/orders/7/next", nil, "")
			p.quiet("the lane streams")
			close(half)
			end := brokenOff(c, "GET")
			if end != "200, broken off" {
				p.t.Errorf("the client was told: %s", end)
			}
			p.ran("/orders/7/next", p.nodes[0]).finish("")
			return append(said, end, told(<-next))
		})
		bubble(t, "by the owner's end, "+framing, func(t *testing.T) {
			p := startPair(t, change{}, nil)
			c := p.nodes[1].open()
			io.WriteString(c.conn, request)
			x := p.ran("/orders/7", p.nodes[0])
			go stream(x, framing, 20, piece, func(i int) bool { return i < 10 })
			ends := make(chan string, 1)
			go func() { ends <- brokenOff(c, "GET") }()
			synctest.Wait() // the client has all that there is
			p.sever()
			p.view(p.nodes[1])
			if end := <-ends; end != "200, broken off" {
				t.Errorf("the client was told: %s", end)
			}
			x.conn.Close()
		})
	}
}

// A client that is slow, or leaves, costs its own stream and nobody else's: the
// lane is free once the service's work is over. Mutants: a response that the owner
// holds whole streams at the client's pace; the ingress never closes what it
// fetches; the owner waits for an ingress that has gone.
func TestAForwardedStreamAndItsClient(t *testing.T) {
	piece := bytes.Repeat([]byte("x"), 100_000)
	const pieces = 50 // more than all the sockets on the way take
	slow := lane(func(l *proxy.Lane) { l.QueueTimeout = 5 * time.Minute })
	begin := func(p *pair, at *member) (*client, *exchange) {
		c := at.open()
		io.WriteString(c.conn, "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n")
		x := p.ran("/orders/7", p.nodes[0])
		go stream(x, "length", pieces, piece, always)
		synctest.Wait()
		return c, x
	}
	both(t, "pauses", slow, nil, func(p *pair, at *member) (said []string) {
		c, x := begin(p, at)
		_, next := at.async("POST", "/orders/7/next", nil, "")
		time.Sleep(25 * time.Second)
		p.quiet("the client still reads")
		end := brokenOff(c, "GET")
		if want := fmt.Sprintf("200, whole, %d bytes, length", pieces*len(piece)); end != want {
			p.t.Errorf("the client was told: %s", end)
		}
		close(x.done)
		p.ran("/orders/7/next", p.nodes[0]).finish("")
		return append(said, end, told(<-next))
	})
	both(t, "pauses, but the response is held whole", lane(func(l *proxy.Lane) { l.MaxResponse = pieces * 100_000 }), nil, func(p *pair, at *member) (said []string) {
		c, x := begin(p, at)
		close(x.done)
		_, next := at.async("POST", "/orders/7/next", nil, "")
		p.ran("/orders/7/next", p.nodes[0]).finish("") // nobody waits for the client
		time.Sleep(time.Minute)
		end := brokenOff(c, "GET")
		if want := fmt.Sprintf("200, whole, %d bytes, length", pieces*len(piece)); end != want {
			p.t.Errorf("the client was told: %s", end)
		}
		return append(said, end, told(<-next))
	})
	both(t, "does not read", slow, nil, func(p *pair, at *member) (said []string) {
		began := time.Now()
		c, x := begin(p, at)
		_, next := at.async("POST", "/orders/7/next", nil, "")
		y := p.awaits("/orders/7/next")
		lateBy(p.t, "the lane is free", time.Since(began), 30*time.Second) // upstream_timeout, not the 75 s of idle_timeout
		y.finish("")
		close(x.done)
		time.Sleep(time.Minute)
		end := brokenOff(c, "GET")
		if end != "200, broken off" {
			p.t.Errorf("the client was told: %s", end)
		}
		return append(said, end, told(<-next))
	})
	both(t, "hangs up", slow, nil, func(p *pair, at *member) (said []string) {
		c, x := begin(p, at)
		_, next := at.async("POST", "/orders/7/next", nil, "")
		p.quiet("the client still reads")
		began := time.Now()
		c.conn.Close()
		p.awaits("/orders/7/next").finish("") // the rest is read and dropped
		lateBy(p.t, "the lane is free", time.Since(began), 0)
		close(x.done)
		return append(said, told(<-next))
	})
}
