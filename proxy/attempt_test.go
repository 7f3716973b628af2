package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"

	"lanekeeper/proxy"
	"lanekeeper/proxy/upstream"
)

// script is an upstream that answers byte by byte what a test tells it to. It
// is reached in memory by dial, or over a socket by listen.
type script struct {
	t      *testing.T
	accept func(net.Conn)  // before a request is read; may close
	head   func(*exchange) // has the connection between a request's head and the next, or
	answer func(*exchange) // has every request; neither has canaries
	below  *tls.Config     // nil: no TLS
	wg     sync.WaitGroup

	mu      sync.Mutex  // guards the rest
	conns   []io.Closer // and listeners
	ran     []string    // request lines of the requests that came whole
	partial int         // requests that broke off
}

// exchange is one request at a script.
type exchange struct {
	message
	conn   net.Conn
	reader *bufio.Reader
	number int // among the requests of the connection
	script *script
	done   chan struct{} // for those that wait for the test
}

func (x *exchange) write(format string, args ...any) { fmt.Fprintf(x.conn, format, args...) }

// ok is an ordinary answer.
func (x *exchange) ok(body string) {
	x.write("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func newScript(t *testing.T, answer func(*exchange)) *script {
	s := &script{t: t, answer: answer}
	t.Cleanup(s.stop)
	return s
}

func (s *script) dial(string) (net.Conn, error) {
	pipe := fasthttputil.NewPipeConns()
	s.serve(pipe.Conn2())
	return pipe.Conn1(), nil
}

// listen returns a dial function for a loopback port.
func (s *script) listen() func(string) (net.Conn, error) {
	address := s.listenOn()
	return func(string) (net.Conn, error) { return net.Dial("tcp", address) }
}

func (s *script) listenOn() (address string) {
	listener := listenTCP(s.t)
	s.conns = append(s.conns, listener)
	s.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.serve(conn)
		}
	})
	return listener.Addr().String()
}

func (s *script) serve(conn net.Conn) {
	if s.below != nil {
		conn = tls.Server(conn, s.below)
	}
	s.mu.Lock()
	s.conns = append(s.conns, conn)
	s.mu.Unlock()
	s.wg.Go(func() {
		defer conn.Close()
		if s.accept != nil {
			s.accept(conn)
		}
		reader := bufio.NewReader(conn)
		for number := 0; ; number++ {
			request, err := readHead(reader)
			if err == nil && s.head != nil && !strings.Contains(request.start, "canary") {
				s.head(&exchange{message: *request, conn: conn, reader: reader, number: number})
				continue
			}
			if err == nil {
				err = request.readBody(reader, "")
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					s.mu.Lock()
					s.partial++
					s.mu.Unlock()
				}
				return
			}
			x := &exchange{message: *request, conn: conn, reader: reader, number: number, script: s}
			if strings.Contains(x.start, "canary") {
				x.ok(canary(x.start))
				continue
			}
			s.mu.Lock()
			s.ran = append(s.ran, x.start)
			s.mu.Unlock()
			s.answer(x)
		}
	})
}

func canary(start string) string { return "canary for " + strings.Fields(start)[1] }

func (s *script) executed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ran)
}

func (s *script) stop() {
	s.mu.Lock()
	for _, conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// message is a request or a response as it stands on the wire.
type message struct {
	head  string // all of it, byte by byte
	start string
	lines []field
	body  string
	// framing says how the body ended: "length", "chunked", "close" or "none".
	framing string
}

type field struct{ name, value string }

// all is every value of a field, in order.
func (m *message) all(name string) (values []string) {
	for _, line := range m.lines {
		if strings.EqualFold(line.name, name) {
			values = append(values, line.value)
		}
	}
	return values
}

func (m *message) get(name string) string { return strings.Join(m.all(name), " | ") }

func (m *message) status() int {
	status, _ := strconv.Atoi(strings.Fields(m.start)[1])
	return status
}

var errBroken = errors.New("not strict HTTP/1.1")

// readMessage reads a request (method empty) or the response to a request with
// the given method. It takes nothing but what RFC 9112 lets a sender write:
// CRLF line ends, no folding, token names, one framing.
func readMessage(r *bufio.Reader, method string) (*message, error) {
	m, err := readHead(r)
	if err != nil {
		return nil, err
	}
	return m, m.readBody(r, method)
}

func readHead(r *bufio.Reader) (*message, error) {
	m := &message{}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if m.head+line != "" {
				err = fmt.Errorf("%w: the head breaks off after %q", errBroken, m.head+line)
			}
			return nil, err
		}
		m.head += line
		text, ok := strings.CutSuffix(line, "\r\n")
		if !ok || strings.ContainsAny(text, "\r\x00") {
			return nil, fmt.Errorf("%w: line %q", errBroken, line)
		}
		if m.start == "" {
			if m.start = text; len(strings.SplitN(text, " ", 3)) < 3 {
				return nil, fmt.Errorf("%w: start line %q", errBroken, line)
			}
			continue
		}
		if text == "" {
			break
		}
		name, value, ok := strings.Cut(text, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t()<>@,;\\\"/[]?={}") {
			return nil, fmt.Errorf("%w: field %q", errBroken, line)
		}
		m.lines = append(m.lines, field{name, strings.Trim(value, " ")})
	}
	return m, nil
}

func (m *message) readBody(r *bufio.Reader, method string) error {
	lengths, codings := m.all("Content-Length"), m.all("Transfer-Encoding")
	if len(lengths) > 1 || len(codings) > 1 || len(lengths) > 0 && len(codings) > 0 {
		return fmt.Errorf("%w: framed twice: %q", errBroken, m.head)
	}
	response := method != ""
	m.framing = "none"
	if response && (method == "HEAD" || m.status() == 204 || m.status() == 304 || m.status() < 200) {
		return nil
	}
	var body []byte
	var err error
	switch {
	case len(codings) > 0:
		if codings[0] != "chunked" {
			return fmt.Errorf("%w: coding %q", errBroken, codings[0])
		}
		m.framing = "chunked"
		body, err = readChunks(r)
	case len(lengths) > 0:
		m.framing = "length"
		length, bad := strconv.ParseUint(lengths[0], 10, 31)
		if bad != nil {
			return fmt.Errorf("%w: length %q", errBroken, lengths[0])
		}
		body = make([]byte, length)
		_, err = io.ReadFull(r, body)
	case response:
		m.framing = "close"
		body, err = io.ReadAll(r)
	}
	m.body = string(body)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func readChunks(r *bufio.Reader) (body []byte, _ error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return body, err
		}
		size, err := strconv.ParseUint(strings.TrimSuffix(line, "\r\n"), 16, 31)
		if err != nil || !strings.HasSuffix(line, "\r\n") {
			return body, fmt.Errorf("%w: chunk %q", errBroken, line)
		}
		chunk := make([]byte, size+2)
		if _, err := io.ReadFull(r, chunk); err != nil {
			return body, err
		}
		if !bytes.HasSuffix(chunk, []byte("\r\n")) {
			return body, fmt.Errorf("%w: the chunk ends in %q", errBroken, chunk[size:])
		}
		if size == 0 {
			return body, nil
		}
		body = append(body, chunk[:size]...)
	}
}

// ask sends raw bytes on c and reads a response strictly.
func (c *client) ask(method, request string) *message {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, request); err != nil {
		c.t.Fatal(err)
	}
	return c.response(method)
}

func (c *client) response(method string) *message {
	c.t.Helper()
	m, err := c.final(method)
	if err != nil {
		c.t.Fatalf("response to %s: %v", method, err)
	}
	return m
}

// final is the first response that is no interim one.
func (c *client) final(method string) (*message, error) {
	for {
		m, err := readMessage(c.reader, method)
		if err != nil || m.status() >= 200 || m.status() == 101 {
			return m, err
		}
	}
}

// only makes every place at the upstream the only one, so that one that is not
// given back shows at once.
func only(s *script) func(*proxy.Config) {
	return func(c *proxy.Config) {
		c.MaxInflight = 1
		c.Upstreams[0].Dial, c.Upstreams[0].MaxConnections = s.dial, 1
		c.Routes[0].Lane.QueueTimeout = time.Minute
	}
}

// behaviour is what an upstream may do to a request. Each is tried with every
// method, since fasthttp's own client repeats some of them up to five times.
type behaviour struct {
	name     string
	answer   func(*exchange)
	status   int
	slug     string // of a problem; else body is what the client gets
	executed string
	body     string
}

var behaviours = []behaviour{
	{name: "closes without a byte", answer: func(x *exchange) { x.conn.Close() },
		status: 502, slug: "upstream-reset", executed: "unknown"},
	{name: "half a head", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nContent-Le"); x.conn.Close() },
		status: 502, slug: "upstream-reset", executed: "unknown"},
	{name: "half a status line", answer: func(x *exchange) { x.write("HTT"); x.conn.Close() },
		status: 502, slug: "upstream-reset", executed: "unknown"},
	{name: "garbage", answer: func(x *exchange) { x.write("\x15\x03\x01 what?\r\n\r\n") },
		status: 502, slug: "upstream-invalid", executed: "unknown"},
	{name: "another protocol's greeting", answer: func(x *exchange) { x.write("SSH-2.0-OpenSSH_9.6\r\n") },
		status: 502, slug: "upstream-invalid", executed: "unknown"},
	{name: "two Content-Lengths", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc")
	}, status: 502, slug: "upstream-invalid", executed: "unknown"},
	{name: "a Content-Length that is none", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab") },
		status: 502, slug: "upstream-invalid", executed: "unknown"},
	{name: "another transfer coding", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n") },
		status: 502, slug: "upstream-invalid", executed: "unknown"},
	{name: "a head larger than the buffer", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nX-Large: %s\r\nContent-Length: 0\r\n\r\n", strings.Repeat("x", 5000))
	}, status: 502, slug: "upstream-invalid", executed: "unknown"},
	{name: "a short body", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
		x.conn.Close()
	}, status: 502, slug: "upstream-reset", executed: "unknown"},
	{name: "a broken chunk", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")
	}, status: 502, slug: "upstream-invalid", executed: "unknown"},
	{name: "chunks without an end", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		x.conn.Close()
	}, status: 502, slug: "upstream-reset", executed: "unknown"},
	{name: "a chunk that breaks off", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc")
		x.conn.Close()
	}, status: 502, slug: "upstream-reset", executed: "unknown"},
	{name: "interim responses without end", answer: func(x *exchange) {
		for range 200 {
			x.write("HTTP/1.1 102 Processing\r\n\r\n")
		}
	}, status: 502, slug: "upstream-invalid", executed: "unknown"},
	{name: "a protocol that nobody asked for", answer: func(x *exchange) {
		x.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
	}, status: 502, slug: "upstream-invalid", executed: "unknown"},
	{name: "silence", answer: func(x *exchange) {},
		status: 504, slug: "upstream-timeout", executed: "unknown"},
	{name: "silence within a head", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\n") },
		status: 504, slug: "upstream-timeout", executed: "unknown"},
	{name: "silence within a body", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345") },
		status: 504, slug: "upstream-timeout", executed: "unknown"},
	{name: "silence within a chunk", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc")
	}, status: 504, slug: "upstream-timeout", executed: "unknown"},

	{name: "interim responses", answer: func(x *exchange) {
		x.write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
		x.ok("final")
	}, status: 200, body: "final"},
	{name: "chunks", answer: func(x *exchange) {
		x.write("HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Trailer: 1\r\n\r\n")
	}, status: 201, body: "abcdefg"},
	{name: "HTTP/1.0", answer: func(x *exchange) { x.write("HTTP/1.0 200 OK\r\n\r\nall of it"); x.conn.Close() },
		status: 200, body: "all of it"},
	{name: "HTTP/1.1 until it closes", answer: func(x *exchange) { x.write("HTTP/1.1 200 OK\r\n\r\nall of it"); x.conn.Close() },
		status: 200, body: "all of it"},
	{name: "no content", answer: func(x *exchange) { x.write("HTTP/1.1 204 No Content\r\n\r\n") }, status: 204},
	{name: "no content, with a length", answer: func(x *exchange) { x.write("HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n") }, status: 204},
	{name: "not modified, with a length", answer: func(x *exchange) { x.write("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n") }, status: 304},
	{name: "an error of its own", answer: func(x *exchange) { x.write("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy") }, status: 503, body: "busy"},
	{name: "Connection: close", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
		x.conn.Close()
	}, status: 200, body: "ok"},
	{name: "more than it announced", answer: func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok%s", strings.Repeat("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", 200)) // more than a reader takes
	}, status: 200, body: "ok"},
	{name: "a body where there is none", answer: func(x *exchange) {
		x.write("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
	}, status: 204},
}

// Mutants: retry on any error (the service runs a PUT twice); isClosed is true
// for everything; the connection is given back whatever is left in its reader;
// it is given back after Connection: close; the turn, the place in flight or
// the connection is not given back after an error; no bound on interim
// responses (the test hangs); 101 is taken for the final response.
func TestWhateverTheUpstreamDoesARequestRunsOnce(t *testing.T) {
	for _, b := range behaviours {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "GET"} {
			bubble(t, b.name+"/"+method, func(t *testing.T) {
				s := newScript(t, b.answer)
				n := start(t, only(s))
				c := n.open()
				a := c.send(method, "/orders/7", nil, "body")
				if a.status != b.status || a.slug() != b.slug || a.problem.Executed != b.executed {
					t.Errorf("%d %s, executed %q; want %d %s %q", a.status, a.slug(), a.problem.Executed, b.status, b.slug, b.executed)
				}
				if b.slug == "" && a.body != b.body {
					t.Errorf("body %q, want %q", a.body, b.body)
				}
				if got := s.executed(); got != 1 {
					t.Errorf("it ran %d times", got)
				}
				for i := range 3 {
					if i == 1 {
						c = n.open()
					}
					path := fmt.Sprintf("/orders/7/canary-%d", i)
					if a := c.send("POST", path, nil, ""); a.status != 200 || a.body != "canary for "+path {
						t.Fatalf("the next request: %d %s %q", a.status, a.slug(), a.body)
					}
				}
				n.idle()
			})
		}
	}
}

// idle checks that nothing of any request is left, in a bubble.
func (n *node) idle() {
	n.t.Helper()
	synctest.Wait()
	if left := n.left(); left != "" {
		n.t.Errorf("not empty: %s", left)
	}
}

// empty waits until nothing is left, on sockets.
func (n *socketNode) empty() {
	n.t.Helper()
	eventually(n.t, "nothing is left", func() bool { return n.left() == "" })
}

func (n *node) left() string {
	for i, total := range n.lanes.Totals() {
		if total.Lanes != 0 || total.Running != 0 || total.Waiting != 0 {
			return fmt.Sprintf("route %d: %+v", i, total)
		}
	}
	return ""
}

func TestAnUpstreamThatCannotBeReached(t *testing.T) {
	for name, down := range map[string]func(*script) func(string) (net.Conn, error){
		"refused": func(*script) func(string) (net.Conn, error) {
			return func(string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
			}
		},
		"closed at accept": func(s *script) func(string) (net.Conn, error) {
			return func(string) (net.Conn, error) {
				conn, err := s.dial("")
				conn.Close()
				return conn, err
			}
		},
	} {
		for kind, request := range map[string]string{
			"POST":    "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
			"PUT":     "PUT /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
			"GET":     "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n",
			"bypass":  "PUT /else HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
			"upgrade": upgradeRequest,
			"upload":  "POST /else HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		} {
			bubble(t, name+"/"+kind, func(t *testing.T) {
				s := newScript(t, func(x *exchange) { x.ok("") })
				dial := down(s)
				n := start(t, func(c *proxy.Config) {
					only(s)(c)
					c.Upstreams[0].Dial = func(address string) (net.Conn, error) { return dial(address) }
				})
				for range 2 {
					m := n.open().ask("GET", request)
					slug, executed := ":upstream-connect", `"executed":"no"`
					if kind == "upload" && name != "refused" { // its head and its body are sent apart
						slug, executed = ":upstream-reset", `"executed":"unknown"`
					}
					if m.status() != 502 || !strings.Contains(m.body, slug) || !strings.Contains(m.body, executed) {
						t.Errorf("%q %q", m.head, m.body)
					}
					time.Sleep(2 * time.Second) // an upload's connection ends later than its answer
				}
				if s.executed() != 0 {
					t.Error("it ran all the same")
				}
				dial = s.dial
				if a := n.send("PUT", "/orders/7/canary", nil, ""); a.body != "canary for /orders/7/canary" {
					t.Errorf("the next request: %d %q", a.status, a.body)
				}
				n.idle()
			})
		}
	}
}

// Mutants: an exclusive request is repeated; one that was sent is.
func TestOnlyWhatWasNotSentIsTriedAgain(t *testing.T) {
	for _, c := range []struct {
		method string
		fails  string // how the first three attempts do
		dials  int
		runs   int
		status int
	}{
		{"GET", "refused", 3, 0, 502},
		{"POST", "refused", 1, 0, 502},
		{"PUT", "refused", 1, 0, 502},
		{"GET", "closed", 3, 0, 502},
		{"PUT", "closed", 1, 0, 502},
		{"GET", "reset", 1, 1, 502},
		{"PUT", "reset", 1, 1, 502},
		{"GET", "refused once", 2, 1, 200},
		{"PUT", "refused once", 1, 0, 502},
	} {
		bubble(t, c.method+" "+c.fails, func(t *testing.T) {
			s := newScript(t, func(x *exchange) {
				if c.fails == "reset" {
					x.conn.Close()
				}
				x.ok("")
			})
			dials := 0
			n := start(t, func(config *proxy.Config) {
				only(s)(config)
				config.Routes[0].Lane.Retries = 2
				config.Upstreams[0].Dial = func(string) (net.Conn, error) {
					dials++
					if c.fails == "refused" || c.fails == "refused once" && dials == 1 {
						return nil, errors.New("connection refused")
					}
					conn, err := s.dial("")
					if c.fails == "closed" {
						conn.Close()
					}
					return conn, err
				}
			})
			if a := n.send(c.method, "/orders/7", nil, ""); a.status != c.status || dials != c.dials || s.executed() != c.runs {
				t.Errorf("%d %s after %d connections, ran %d times; want %d, %d, %d", a.status, a.slug(), dials, s.executed(), c.status, c.dials, c.runs)
			}
		})
	}
}

// The lane is held until the late response has been read. Mutants: a late
// response without a body ends the process; the body that HEAD does not have is
// waited for; an error while reading on is taken for the end.
func TestALateResponseIsReadToItsEnd(t *testing.T) {
	for _, late := range []struct {
		name   string
		method string
		parts  []string // the first is sent in time, the others late
		frees  bool     // the last part
	}{
		{"no content", "POST", []string{"", "HTTP/1.1 204 No Content\r\n\r\n"}, true},
		{"not modified", "GET", []string{"", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"}, true},
		{"HEAD", "HEAD", []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"}, true},
		{"empty", "POST", []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}, true},
		{"length", "POST", []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12345", "6789"}, true},
		{"length, in its body", "POST", []string{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12345", "67", "89"}, true},
		{"in its status line", "POST", []string{"HTTP/1.1 2", "00 OK\r\nContent-Length: 2\r\n\r\n", "ok"}, true},
		{"interim", "POST", []string{"HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"}, true},
		{"in a chunk", "POST", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "cde\r\n", "0\r\n\r\n"}, true},
		{"between chunks", "POST", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", "1\r\nf\r\n", "0\r\n\r\n"}, true},
		// From here on the chunks cannot be told apart any more, so nothing
		// but the connection's end frees the lane early.
		{"in a chunk's size", "POST", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1", "0\r\n0123456789abcdef\r\n", "0\r\n\r\n"}, false},
		{"in a chunk's line end", "POST", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na", "\r\n", "0\r\n\r\n"}, false},
		{"no HTTP", "POST", []string{"", "what?\r\n\r\n"}, false},
	} {
		bubble(t, late.name, func(t *testing.T) {
			var x *exchange
			s := newScript(t, func(at *exchange) {
				if x == nil {
					x = at
					x.write("%s", late.parts[0])
				} else {
					at.ok("second")
				}
			})
			n := start(t, func(c *proxy.Config) { only(s)(c); c.Routes[0].Lane.QueueTimeout = 5 * time.Minute })
			began := time.Now()
			if a := n.open().ask(late.method, late.method+" /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n"); a.status() != 504 {
				t.Fatalf("first: %s", a.start)
			}
			second := async(n, "PUT", "/orders/7", nil, "second")
			for i, part := range late.parts[1:] {
				if s.executed() != 1 {
					t.Fatalf("the next request ran before late part %d", i+1)
				}
				time.Sleep(2 * time.Second)
				x.write("%s", part)
				synctest.Wait()
			}
			if freed := s.executed() == 2; freed != late.frees {
				t.Errorf("the next request ran: %v, want %v", freed, late.frees)
			}
			if late.frees {
				if a := <-second; a.body != "second" {
					t.Errorf("second: %d %q", a.status, a.body)
				}
				n.idle()
				return
			}
			if a := <-second; a.body != "second" || time.Since(began) != 50*time.Second {
				t.Errorf("second: %d %q after %v, want the end of hold_for", a.status, a.body, time.Since(began))
			}
			if got := n.metric("lanekeeper_hold_expired_total", "route", "order"); got != 1 {
				t.Errorf("hold_expired_total = %v", got)
			}
			n.idle()
		})
	}
}

// An upstream whose answer makes no sense may be at work still. Mutants: the
// lane is free at once; the upstream is not asked to end the connection.
func TestAnUnintelligibleAnswerHoldsItsLane(t *testing.T) {
	const nonsense = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"
	for _, c := range []struct {
		name  string
		after proxy.AfterTimeout
		close time.Duration // when the upstream does, after the first answer
		want  time.Duration // until the next request runs
	}{
		{"until it closes", proxy.Hold, 7 * time.Second, 7 * time.Second},
		{"until hold_for", proxy.Hold, time.Hour, 20 * time.Second},
		{"not at all", proxy.Release, time.Hour, 0},
	} {
		bubble(t, c.name, func(t *testing.T) {
			s := newScript(t, func(x *exchange) {
				x.write(nonsense)
				time.AfterFunc(c.close, func() { x.conn.Close() })
			})
			n := start(t, func(config *proxy.Config) { only(s)(config); config.Routes[0].Lane.AfterTimeout = c.after })
			began := time.Now()
			if a := n.send("PUT", "/orders/7", nil, ""); a.slug() != "upstream-invalid" || time.Since(began) != 0 {
				t.Errorf("%d %s after %v", a.status, a.slug(), time.Since(began))
			}
			if a := n.send("PUT", "/orders/7/canary", nil, ""); a.status != 200 || time.Since(began) != c.want {
				t.Errorf("the next request: %d %s after %v, want %v", a.status, a.slug(), time.Since(began), c.want)
			}
			n.idle()
		})
	}
	t.Run("a server that closes when it is asked to", func(t *testing.T) {
		s := newScript(t, func(x *exchange) { x.write(nonsense) }) // and then waits for the next request
		n := startOnSockets(t, s, nil)
		began := time.Now()
		c := n.open()
		if a := c.send("PUT", "/orders/7", nil, ""); a.slug() != "upstream-invalid" {
			t.Errorf("%d %s", a.status, a.slug())
		}
		if a := c.send("PUT", "/orders/7/canary", nil, ""); a.status != 200 || time.Since(began) > 5*time.Second {
			t.Errorf("the next request: %d %s after %v", a.status, a.slug(), time.Since(began))
		}
	})
}

// Mutants: the slow client's deadline is the server's ordinary one; release
// lets the next request run when a client hangs up; the stream's rest is not
// read; a short stream is ended as if it were whole.
func TestAStreamFreesItsLaneWhenTheUpstreamIsDone(t *testing.T) {
	const size = 100_000 // more than fits into memory's connections
	stream := func(t *testing.T, change func(*proxy.Lane)) (*node, *script, *client, chan *exchange) {
		arrived := make(chan *exchange, 1)
		s := newScript(t, func(x *exchange) {
			if x.number > 0 || strings.Contains(x.start, "second") {
				x.ok("second")
				return
			}
			x.write("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
			arrived <- x
		})
		n := start(t, func(c *proxy.Config) {
			c.Upstreams[0].Dial = s.dial
			c.Routes[0].Lane.QueueTimeout = 5 * time.Minute
			if change != nil {
				change(&c.Routes[0].Lane)
			}
		})
		c := n.open()
		c.write("POST", "/orders/7", nil, "")
		return n, s, c, arrived
	}
	half := strings.Repeat("x", size/2)
	after := func(t *testing.T, n *node, what string, want time.Duration) {
		t.Helper()
		began := time.Now()
		if a := n.send("POST", "/orders/7/second", nil, ""); a.body != "second" {
			t.Errorf("second: %d %q", a.status, a.slug())
		}
		if took := time.Since(began); took != want {
			t.Errorf("%s: the lane was free after %v, want %v", what, took, want)
		}
		n.idle()
	}
	bubble(t, "its client does not read", func(t *testing.T) {
		n, _, _, arrived := stream(t, nil)
		x := <-arrived
		x.write("%s%s", half, half)
		after(t, n, "a client that does not read", 30*time.Second) // upstream_timeout, not the 75 s of idle_timeout
	})
	bubble(t, "the upstream stalls", func(t *testing.T) {
		n, _, c, arrived := stream(t, nil)
		x := <-arrived
		x.write("%s", half)
		time.AfterFunc(35*time.Second, func() { x.write("%s", half) })
		after(t, n, "an upstream that stalls", 35*time.Second)
		if _, err := c.read("POST"); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the client was not told: %v", err)
		}
	})
	bubble(t, "the upstream breaks off", func(t *testing.T) {
		n, _, c, arrived := stream(t, nil)
		x := <-arrived
		x.write("%s", half)
		x.conn.Close()
		if _, err := c.read("POST"); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the client was not told: %v", err)
		}
		after(t, n, "an upstream that closed", 0)
	})
	for name, policy := range map[string]proxy.AfterTimeout{"hold": proxy.Hold, "release": proxy.Release} {
		bubble(t, "its client hangs up, "+name, func(t *testing.T) {
			n, _, c, arrived := stream(t, func(l *proxy.Lane) { l.AfterTimeout = policy })
			x := <-arrived
			x.write("%s", half)
			synctest.Wait()
			c.conn.Close()
			time.AfterFunc(25*time.Second, func() { x.write("%s", half) })
			after(t, n, "a client that hung up", 25*time.Second)
			if got := n.metric("lanekeeper_hold_expired_total"); got != 0 {
				t.Errorf("hold_expired_total = %v", got)
			}
		})
	}
	bubble(t, "its client hangs up, and the upstream never ends", func(t *testing.T) {
		n, _, c, arrived := stream(t, nil)
		x := <-arrived
		x.write("%s", half)
		synctest.Wait()
		c.conn.Close()
		after(t, n, "a client that hung up", 50*time.Second) // upstream_timeout and hold_for
		if got := n.metric("lanekeeper_hold_expired_total"); got != 1 {
			t.Errorf("hold_expired_total = %v", got)
		}
	})
}

// A connection on which the upstream has said something unasked would hand that
// to the next request, and then each answer to the request after its own.
//
// Mutants: usable is always true; done looks at nothing but the reader.
func TestAPoisonedConnectionIsNotUsedAgain(t *testing.T) {
	for name, poison := range map[string]func(*exchange){
		"an unasked response": func(x *exchange) { x.ok("poison") },
		"a byte":              func(x *exchange) { x.write("\n") },
		"its end":             func(x *exchange) { x.conn.Close() },
		"half its end":        func(x *exchange) { x.conn.(*net.TCPConn).CloseWrite() },
		"a reset":             func(x *exchange) { x.conn.(*net.TCPConn).SetLinger(0); x.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			exchanges := make(chan *exchange, 10)
			s := newScript(t, func(x *exchange) {
				x.ok(x.start)
				exchanges <- x
			})
			n := startOnSockets(t, s, func(c *proxy.Config) { c.Upstreams[0].MaxConnections = 1 })
			c := n.open()
			for i := range 5 {
				method := []string{"PUT", "GET", "POST"}[i%3]
				path := fmt.Sprintf("/orders/7/%d", i)
				if a := c.send(method, path, nil, "body"); a.status != 200 || a.body != method+" "+path+" HTTP/1.1" {
					t.Fatalf("%s %s: %d %s %q", method, path, a.status, a.slug(), a.body)
				}
				poison(<-exchanges)
			}
			if got := s.executed(); got != 5 {
				t.Errorf("5 requests ran %d times", got)
			}
		})
	}
	t.Run("nothing", func(t *testing.T) { // or the others prove little
		s := newScript(t, func(x *exchange) { x.ok(strconv.Itoa(x.number)) })
		n := startOnSockets(t, s, nil)
		for i := range 5 {
			if a := n.open().send("PUT", "/orders/7", nil, "body"); a.body != strconv.Itoa(i) {
				t.Errorf("request %d was number %s of its connection", i, a.body)
			}
		}
	})
	t.Run("its end in place of an answer", func(t *testing.T) { // the race nobody can win: reported, not repeated
		s := newScript(t, func(x *exchange) {
			if x.number == 1 {
				x.conn.Close()
				return
			}
			x.ok("")
		})
		n := startOnSockets(t, s, nil)
		c := n.open()
		c.send("PUT", "/orders/7", nil, "")
		if a := c.send("PUT", "/orders/7", nil, ""); a.slug() != "upstream-reset" || a.problem.Executed != "unknown" {
			t.Errorf("%d %s, executed %q", a.status, a.slug(), a.problem.Executed)
		}
		if s.executed() != 2 {
			t.Errorf("2 requests ran %d times", s.executed())
		}
	})
}

// Mutants: the response is not looked for after a failed write; the connection
// is used again; nobody looks while a write is blocked (the test times out); an
// interim response ends the sending. Over TLS also: a look ends the write; the write goes on
// behind the answer; silence is taken for an answer; nobody looks.
func TestAnEarlyAnswerToALargeBody(t *testing.T) {
	t.Run("plain", func(t *testing.T) {
		earlyAnswers(t, func(c *proxy.Config) { c.Upstreams[0].MaxConnections = 1 }, func(*script) {})
	})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	file := writeFile(t, filepath.Join(t.TempDir(), "ca.pem"), ca)
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			earlyAnswers(t, func(c *proxy.Config) {
				c.Upstreams[0].MaxConnections, c.Upstreams[0].Targets = 1, []string{"https://app"}
				c.Upstreams[0].TLS = upstream.TLS{CAFile: file, ServerName: "edge.example"}
			}, func(s *script) {
				s.below = serverTLS()
				s.below.MaxVersion = version
			})
		})
	}
}

func earlyAnswers(t *testing.T, change func(*proxy.Config), secure func(*script)) {
	const refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\nrefused"
	body := strings.Repeat("x", 24<<20) // more than the sockets hold
	stopped := make(chan struct{})
	for name, serve := range map[string]func(x *exchange){
		"then reads on": func(x *exchange) {
			x.write(refusal)
			io.CopyN(io.Discard, x.reader, int64(len(body)))
		},
		"then ends its half, and reads on": func(x *exchange) {
			x.write(refusal)
			x.conn.(interface{ CloseWrite() error }).CloseWrite()
			io.Copy(io.Discard, x.reader)
		},
		"then neither reads nor closes": func(x *exchange) {
			x.write(refusal)
			<-stopped
		},
		"behind interim ones, and only then reads": func(x *exchange) {
			x.write("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
			<-time.After(600 * time.Millisecond) // the writer is blocked, and looks
			io.CopyN(io.Discard, x.reader, int64(len(body)))
			x.write(refusal)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t, nil)
			s.head = serve
			secure(s)
			n := startOnSockets(t, s, change)
			a := n.open().send("PUT", "/orders/7", nil, body)
			if a.status != 413 || a.body != "refused" {
				t.Errorf("%d %s %q", a.status, a.slug(), a.body)
			}
			if a := n.open().send("PUT", "/orders/7/canary", nil, ""); a.body != "canary for /orders/7/canary" {
				t.Errorf("the next request: %d %s %q", a.status, a.slug(), a.body)
			}
			n.empty()
			if name == "then neither reads nor closes" {
				close(stopped)
			}
		})
	}
	t.Run("a reset in place of an answer", func(t *testing.T) {
		s := newScript(t, nil)
		s.head = func(x *exchange) {
			conn := x.conn
			if secure, ok := conn.(*tls.Conn); ok {
				conn = secure.NetConn()
			}
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
		secure(s)
		n := startOnSockets(t, s, change)
		a := n.open().send("PUT", "/orders/7", nil, body)
		if a.status != 502 || a.slug() != "upstream-reset" || a.problem.Executed != "unknown" {
			t.Errorf("%d %s, executed %q", a.status, a.slug(), a.problem.Executed)
		}
		n.empty()
	})
}
