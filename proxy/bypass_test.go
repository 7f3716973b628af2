package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

const upgradeRequest = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"

const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n"

// upgrade opens a tunnel and checks the 101.
func upgrade(c *client) {
	c.t.Helper()
	m := c.ask("GET", upgradeRequest)
	want := "HTTP/1.1 101 Switching Protocols\r\nSec-Websocket-Accept: y\r\nVia: 1.1 lanekeeper\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	if m.head != want {
		c.t.Fatalf("got\n%q\nwant\n%q", m.head, want)
	}
}

// Mutants: Upgrade is taken for a hop-by-hop field on the way up; the bytes
// behind the 101, or behind the request, stay in a buffer; the connection goes
// back to the pool.
func TestATunnelCarriesBothWays(t *testing.T) {
	heads := make(chan string, 2)
	s := newScript(t, func(x *exchange) {
		heads <- x.head
		x.write(switched + "hello ")
		io.Copy(x.conn, x.reader)
	})
	n := startOnSockets(t, s, func(c *proxy.Config) { c.Upstreams[0].MaxConnections = 1 })
	for range 2 {
		c := n.open()
		io.WriteString(c.conn, upgradeRequest+"early ")
		if m := c.response("GET"); m.status() != 101 {
			t.Fatalf("%q %q", m.head, m.body)
		}
		payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		go func() {
			c.conn.Write(payload)
			c.endHalf()
		}()
		got, err := io.ReadAll(c.reader)
		if want := "hello early " + string(payload); err != nil || string(got) != want {
			t.Fatalf("%d bytes came back, want %d (%v)", len(got), len(want), err)
		}
	}
	if head := <-heads; !strings.Contains(head, "Connection: Upgrade\r\nUpgrade: websocket\r\n") || strings.Contains(head, "keep-alive") {
		t.Errorf("the upstream got %q", head)
	}
	eventually(t, "tunnels are counted and over", func() bool {
		return n.metric("lanekeeper_requests_total", "mode", "bypass", "code", "101") == 2 && n.metric("lanekeeper_connections") == 0
	})
}

// Mutants: a side's end closes both at once, and what is on its way is lost; an
// end is not passed on.
func TestEitherSideMayEndATunnel(t *testing.T) {
	t.Run("the server, while the client sends", func(t *testing.T) {
		last := strings.Repeat("x", 1<<20)
		s := newScript(t, func(x *exchange) {
			x.write(switched)
			x.reader.ReadByte()
			x.write("%s", last)
			x.conn.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, x.reader)
		})
		n := startOnSockets(t, s, nil)
		c := n.open()
		upgrade(c)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			c.conn.Write(bytes.Repeat([]byte("y"), 4<<20))
		}()
		got, err := io.ReadAll(c.reader)
		if err != nil || string(got) != last {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		<-sent
	})
	t.Run("the client, with half", func(t *testing.T) {
		s := newScript(t, func(x *exchange) {
			x.write(switched)
			got, _ := io.ReadAll(x.reader)
			x.write("you said %s", got)
			x.conn.Close()
		})
		n := startOnSockets(t, s, nil)
		c := n.open()
		upgrade(c)
		io.WriteString(c.conn, "this")
		c.endHalf()
		if got, err := io.ReadAll(c.reader); err != nil || string(got) != "you said this" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("the client, by a reset", func(t *testing.T) {
		ended := make(chan error, 1)
		s := newScript(t, func(x *exchange) {
			x.write(switched)
			_, err := x.reader.ReadByte()
			ended <- err
		})
		n := startOnSockets(t, s, nil)
		c := n.open()
		upgrade(c)
		c.reset()
		if err := <-ended; err == nil {
			t.Error("the server reads on")
		}
	})
	t.Run("the server, by a reset", func(t *testing.T) {
		s := newScript(t, func(x *exchange) {
			x.write(switched)
			x.reader.ReadByte()
			x.conn.(*net.TCPConn).SetLinger(0)
			x.conn.Close()
		})
		n := startOnSockets(t, s, nil)
		c := n.open()
		upgrade(c)
		io.WriteString(c.conn, "x")
		if _, err := c.reader.ReadByte(); err == nil {
			t.Error("the client reads on")
		}
	})
}

// Mutants: each direction has an idle time of its own (one that only listens is
// cut); there is none; the ordinary read_timeout stays.
func TestATunnelEndsWhenItIsIdle(t *testing.T) {
	for _, speaker := range []string{"server", "client", "nobody"} {
		bubble(t, speaker, func(t *testing.T) {
			s := newScript(t, func(x *exchange) {
				x.write(switched)
				if speaker == "server" {
					for range 10 {
						time.Sleep(59 * time.Second)
						x.write("tick")
					}
				}
				io.Copy(io.Discard, x.reader)
			})
			n := start(t, only(s))
			c := n.open()
			upgrade(c)
			began, want := time.Now(), time.Minute
			if speaker != "nobody" {
				want += 590 * time.Second
			}
			if speaker == "client" {
				go func() {
					for range 10 {
						time.Sleep(59 * time.Second)
						io.WriteString(c.conn, "tick")
					}
				}()
			}
			got, err := io.ReadAll(c.reader)
			if err != nil || time.Since(began) != want {
				t.Errorf("it ended after %v with %v, want %v", time.Since(began), err, want)
			}
			synctest.Wait()
			if speaker == "server" && string(got) != strings.Repeat("tick", 10) {
				t.Errorf("got %q", got)
			}
			if a := n.send("GET", "/canary", nil, ""); a.body != "canary for /canary" {
				t.Errorf("the next request: %d %s", a.status, a.slug())
			}
		})
	}
}

// check reads the response of a bypass request, and reports whether it ended
// the connection: one without a length was on its way before it broke.
func (b *behaviour) check(t *testing.T, c *client, method string) (broke bool) {
	t.Helper()
	if b.slug != "" && strings.Contains(b.name, "chunk") {
		if m, err := readMessage(c.reader, method); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%+v, %v; want a response that breaks off", m, err)
		}
		return true
	}
	m := c.response(method)
	if m.status() != b.status || b.slug == "" && m.body != b.body || b.slug != "" && !strings.Contains(m.body, ":"+b.slug+`"`) {
		t.Errorf("%q %q, want %d %s", m.head, m.body, b.status, b.slug)
	}
	return false
}

func TestAnUpgradeThatIsDeclined(t *testing.T) {
	for _, b := range behaviours {
		if b.name == "a protocol that nobody asked for" {
			continue
		}
		bubble(t, b.name, func(t *testing.T) {
			s := newScript(t, b.answer)
			n := start(t, only(s))
			c := n.open()
			io.WriteString(c.conn, upgradeRequest)
			if b.check(t, c, "GET") {
				c = n.open()
			}
			synctest.Wait()
			if s.executed() != 1 {
				t.Errorf("it ran %d times", s.executed())
			}
			if a := c.send("POST", "/orders/7/canary", nil, ""); a.body != "canary for /orders/7/canary" {
				t.Errorf("the next request: %d %s", a.status, a.slug())
			}
			n.idle()
		})
	}
}

// Mutant: an upgrade keeps its lane for as long as it likes.
func TestAnUpgradeInALaneIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(x *exchange) { x.ok(x.get("Upgrade") + x.get("Connection")) })
		n := start(t, only(s))
		c := n.open()
		m := c.ask("GET", strings.Replace(upgradeRequest, "/chat", "/orders/7", 1))
		if m.status() != 400 || !strings.Contains(m.body, ":upgrade-refused") || !strings.Contains(m.body, `"executed":"no"`) {
			t.Errorf("%q %q", m.head, m.body)
		}
		if s.executed() != 0 {
			t.Error("it ran")
		}
		// The offer that every curl makes is not a request.
		m = c.ask("GET", "GET /orders/7 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
		if m.status() != 200 || m.body != "" {
			t.Errorf("%q %q", m.head, m.body)
		}
		n.idle()
	})
}

// Mutants: no ImmediateHeaderFlush; the body is read whole before it is sent;
// the idle time of the whole exchange ends it.
func TestEventsArriveOneByOne(t *testing.T) {
	for _, framing := range []string{"chunked", "close"} {
		bubble(t, framing, func(t *testing.T) {
			const events = 20
			s := newScript(t, func(x *exchange) {
				head := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
				if framing == "chunked" {
					head += "Transfer-Encoding: chunked\r\n"
				}
				x.write("%s\r\n", head)
				for i := range events {
					time.Sleep(30 * time.Second)
					event := fmt.Sprintf("data: %d\n\n", i)
					if framing == "chunked" {
						event = fmt.Sprintf("%x\r\n%s\r\n", len(event), event)
					}
					x.write("%s", event)
				}
				if framing == "chunked" {
					x.write("0\r\n\r\n")
				}
				x.conn.Close()
			})
			n := start(t, only(s))
			c := n.open()
			began := time.Now()
			io.WriteString(c.conn, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
			m, err := readHead(c.reader)
			if err != nil || time.Since(began) != 0 || m.get("Transfer-Encoding") != "chunked" {
				t.Fatalf("the head after %v: %v %+v", time.Since(began), err, m)
			}
			for i := range events {
				want := fmt.Sprintf("data: %d\n\n", i)
				chunk := make([]byte, len(fmt.Sprintf("%x\r\n%s\r\n", len(want), want)))
				if _, err := io.ReadFull(c.reader, chunk); err != nil || !bytes.Contains(chunk, []byte(want)) {
					t.Fatalf("event %d: %q, %v", i, chunk, err)
				}
				if at := time.Since(began); at != time.Duration(i+1)*30*time.Second {
					t.Fatalf("event %d after %v", i, at)
				}
			}
			if rest, err := c.reader.ReadString('Z'); rest != "0\r\n\r\n" && !errors.Is(err, io.EOF) {
				t.Errorf("the end: %q, %v", rest, err)
			}
		})
	}
	bubble(t, "silence", func(t *testing.T) {
		s := newScript(t, func(x *exchange) {
			x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
		})
		n := start(t, only(s))
		began := time.Now()
		c := n.open()
		io.WriteString(c.conn, "GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
		if m, err := readMessage(c.reader, "GET"); err == nil || time.Since(began) != time.Minute {
			t.Errorf("it ended after %v as if complete: %+v", time.Since(began), m)
		}
		n.send("GET", "/canary", nil, "")
	})
}

var piece = bytes.Repeat([]byte("u"), 64<<10)

// uploads are requests whose body streams, in both framings.
var uploads = map[string]func(size int) (head string, body func(io.Writer) error){
	"length": func(size int) (string, func(io.Writer) error) {
		return fmt.Sprintf("Content-Length: %d\r\n\r\n", size), func(w io.Writer) error {
			for sent := 0; sent < size; sent += len(piece) {
				if _, err := w.Write(piece[:min(len(piece), size-sent)]); err != nil {
					return err
				}
			}
			return nil
		}
	},
	"chunked": func(size int) (string, func(io.Writer) error) {
		return "Transfer-Encoding: chunked\r\n\r\n", func(w io.Writer) error {
			for sent := 0; sent < size; sent += len(piece) {
				piece := piece[:min(len(piece), size-sent)]
				for _, part := range [][]byte{fmt.Appendf(nil, "%x\r\n", len(piece)), piece, []byte("\r\n")} {
					if _, err := w.Write(part); err != nil {
						return err
					}
				}
			}
			_, err := io.WriteString(w, "0\r\n\r\n")
			return err
		}
	},
}

// countBody reads a body without keeping it, and calls half in its middle.
func countBody(x *exchange, size int, half func()) (total int, err error) {
	var body io.Reader = x.reader
	if x.get("Content-Length") != "" {
		body = io.LimitReader(x.reader, int64(size))
	} else {
		pipe, w := io.Pipe()
		body = pipe
		go func() { w.CloseWithError(copyChunks(w, x.reader)) }()
	}
	buffer := make([]byte, 64<<10)
	for {
		n, err := body.Read(buffer)
		if total < size/2 && total+n >= size/2 {
			half()
		}
		if total += n; err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return total, err
		}
	}
}

func copyChunks(w io.Writer, r *bufio.Reader) error {
	for {
		var size int64
		if _, err := fmt.Fscanf(r, "%x\r\n", &size); err != nil {
			return err
		}
		if _, err := io.CopyN(w, r, size); err != nil {
			return err
		}
		if _, err := r.Discard(2); err != nil || size == 0 {
			return err
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse
}

// Mutant: the body is read whole (which MaxBody would refuse, or memory shows).
func TestLargeBodiesTakeNoMemory(t *testing.T) {
	const size, limit = 20 << 20, 2 << 20
	for name, upload := range uploads {
		t.Run("up, "+name, func(t *testing.T) {
			var before, halfway uint64
			s := newScript(t, nil)
			s.head = func(x *exchange) {
				total, err := countBody(x, size, func() { halfway = heap() })
				x.ok(fmt.Sprintf("%d %v %s", total, err, x.get("Content-Length")+x.get("Transfer-Encoding")))
			}
			n := startOnSockets(t, s, func(c *proxy.Config) { c.MaxBody = 1 << 10 })
			c := n.open()
			before = heap()
			head, body := upload(size)
			io.WriteString(c.conn, "POST /upload HTTP/1.1\r\nHost: a\r\n"+head)
			if err := body(c.conn); err != nil {
				t.Fatal(err)
			}
			m := c.response("POST")
			framing := fmt.Sprint(size)
			if name == "chunked" {
				framing = "chunked"
			}
			if want := fmt.Sprintf("%d <nil> %s", size, framing); m.body != want {
				t.Errorf("%q %q, want %q", m.head, m.body, want)
			}
			if m.get("Connection") != "close" {
				t.Error("the connection is promised to live on")
			}
			if _, err := c.reader.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("after the response: %v", err)
			}
			if halfway > before+limit {
				t.Errorf("%d KiB more in the middle of %d MiB", (halfway-before)>>10, size>>20)
			}
		})
	}
	for _, framing := range []string{"length", "chunked", "close"} {
		t.Run("down, "+framing, func(t *testing.T) {
			var before, halfway uint64
			s := newScript(t, func(x *exchange) {
				switch framing {
				case "length":
					x.write("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
				case "chunked":
					x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				case "close":
					x.write("HTTP/1.1 200 OK\r\n\r\n")
				}
				head, body := uploads[strings.Replace(framing, "close", "length", 1)](size)
				_ = head
				body(x.conn)
				if framing == "close" {
					x.conn.Close()
				}
			})
			n := startOnSockets(t, s, nil)
			c := n.open()
			for range 2 {
				before = heap()
				io.WriteString(c.conn, "GET /download HTTP/1.1\r\nHost: a\r\n\r\n")
				m, err := readHead(c.reader)
				if err != nil {
					t.Fatal(err)
				}
				total, err := countBody(&exchange{message: *m, reader: c.reader}, size, func() { halfway = heap() })
				if total != size || err != nil {
					t.Errorf("%d bytes, %v", total, err)
				}
				if halfway > before+limit {
					t.Errorf("%d KiB more in the middle of %d MiB", (halfway-before)>>10, size>>20)
				}
			} // the second time on the same connection
		})
	}
}

// Mutants: the response is read only after the body is sent; the connection is
// closed with what the client sends unread; a failed write hides the response.
func TestAnEarlyResponseToAnUpload(t *testing.T) {
	const refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\nrefused"
	for name, serve := range map[string]func(x *exchange, stop chan struct{}){
		"then reads on": func(x *exchange, _ chan struct{}) {
			x.write(refusal)
			io.Copy(io.Discard, x.reader)
		},
		"then closes": func(x *exchange, _ chan struct{}) {
			x.write(refusal)
			x.conn.(*net.TCPConn).CloseWrite()
			io.CopyN(io.Discard, x.reader, 1<<20)
			x.conn.Close()
		},
		"then neither reads nor closes": func(x *exchange, stop chan struct{}) {
			x.write(refusal)
			<-stop
		},
	} {
		for framing, upload := range uploads {
			t.Run(name+", "+framing, func(t *testing.T) {
				stop := make(chan struct{})
				s := newScript(t, nil)
				s.head = func(x *exchange) { serve(x, stop) }
				n := startOnSockets(t, s, nil)
				c := n.open()
				head, body := upload(6 << 20)
				io.WriteString(c.conn, "POST /upload HTTP/1.1\r\nHost: a\r\n"+head)
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := body(c.conn); err != nil {
						t.Errorf("sending: %v", err)
					}
				})
				if m := c.response("POST"); m.status() != 413 || m.body != "refused" || m.get("Connection") != "close" {
					t.Errorf("%q %q", m.head, m.body)
				}
				wg.Wait()
				c.endHalf()
				if rest, err := io.ReadAll(c.reader); len(rest) > 0 || err != nil {
					t.Errorf("after the response: %q, %v; want an orderly end", rest, err)
				}
				close(stop)
			})
		}
	}
}

// Mutants: the rest is taken for the whole; the end of a chunk for the end of
// the body; the upstream is blamed; its connection stays open.
func TestAnUploadThatBreaksOff(t *testing.T) {
	long := strings.Repeat("u", 70_000)
	for name, c := range map[string]struct {
		body   string
		after  string // "close", "half" or "silence"
		status int    // if the client is there to hear it
		slug   string
	}{
		"in a length":                        {"Content-Length: 70001\r\n\r\n" + long, "half", 400, "malformed-request"},
		"before its first byte":              {"Content-Length: 70001\r\n\r\n", "half", 400, "malformed-request"},
		"between chunks":                     {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", "half", 400, "malformed-request"},
		"in a chunk's size":                  {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n1", "half", 400, "malformed-request"},
		"in a chunk":                         {"Transfer-Encoding: chunked\r\n\r\n4\r\nbo", "half", 400, "malformed-request"},
		"behind a chunk's bytes":             {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody", "half", 400, "malformed-request"},
		"in the last chunk":                  {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n", "half", 400, "malformed-request"},
		"in the trailers":                    {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-T: 1\r\n", "half", 400, "malformed-request"},
		"with a close":                       {"Content-Length: 70001\r\n\r\n" + long, "close", 0, ""},
		"with a close, chunked":              {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", "close", 0, ""},
		"with nonsense for a size":           {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\nzz\r\n", "", 400, "malformed-request"},
		"with a hex prefix":                  {"Transfer-Encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n", "", 400, "malformed-request"},
		"with a size that overflows":         {"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nbody", "", 400, "malformed-request"},
		"with more than the chunk's size":    {"Transfer-Encoding: chunked\r\n\r\n4\r\nbodybody\r\n0\r\n\r\n", "", 400, "malformed-request"},
		"with a forbidden trailer":           {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nContent-Length: 4\r\n\r\n", "", 400, "malformed-request"},
		"with silence in a length":           {"Content-Length: 70001\r\n\r\n" + long, "silence", 408, "request-timeout"},
		"with silence before a length":       {"Content-Length: 70001\r\n\r\n", "silence", 408, "request-timeout"},
		"with silence between chunks":        {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", "silence", 408, "request-timeout"},
		"with silence in a chunk's size":     {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n1", "silence", 408, "request-timeout"},
		"with silence before any chunk":      {"Transfer-Encoding: chunked\r\n\r\n", "silence", 408, "request-timeout"},
		"with silence in a chunk's line end": {"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r", "silence", 408, "request-timeout"},
	} {
		run := func(t *testing.T, s *script, c2 *client, half func()) {
			t.Helper()
			io.WriteString(c2.conn, "POST /upload HTTP/1.1\r\nHost: a\r\n"+c.body)
			switch c.after {
			case "half":
				half()
			case "close":
				c2.conn.Close()
			}
			if c.status != 0 {
				m := c2.response("POST")
				if m.status() != c.status || !strings.Contains(m.body, ":"+c.slug+`"`) || !strings.Contains(m.body, `"executed":"unknown"`) {
					t.Errorf("%q %q, want %d %s", m.head, m.body, c.status, c.slug)
				}
			}
		}
		whole := func(t *testing.T, s *script) {
			t.Helper()
			if s.executed() != 0 {
				t.Errorf("the upstream got a whole request: %q", s.ran)
			}
		}
		if c.after == "half" { // only sockets have halves
			t.Run(name, func(t *testing.T) {
				s := newScript(t, func(x *exchange) { x.ok("") })
				n := startOnSockets(t, s, nil)
				c2 := n.open()
				run(t, s, c2, func() { c2.endHalf() })
				whole(t, s)
			})
			continue
		}
		bubble(t, name, func(t *testing.T) {
			s := newScript(t, func(x *exchange) { x.ok("") })
			n := start(t, only(s))
			began := time.Now()
			run(t, s, n.open(), nil)
			synctest.Wait()
			if c.after == "silence" && time.Since(began) != time.Minute {
				t.Errorf("it took %v", time.Since(began))
			}
			if a := n.send("GET", "/canary", nil, ""); a.body != "canary for /canary" {
				t.Errorf("the next request: %d %s", a.status, a.slug())
			}
			synctest.Wait()
			whole(t, s)
			if s.partial != 1 {
				t.Errorf("%d requests broke off at the upstream", s.partial)
			}
		})
	}
}

// Mutants: the upstream's time runs while the client sends; it began with the
// client's last wait; a late failure is taken for silence.
func TestAnUploadsUpstreamHasItsTime(t *testing.T) {
	for name, c := range map[string]struct {
		pauses []time.Duration // the client's, before each piece
		answer time.Duration   // the upstream's, after the last
		closes bool            // in place of an answer
		status int
		took   time.Duration
	}{
		"a slow client":              {[]time.Duration{59 * time.Second, 59 * time.Second, 59 * time.Second}, 59 * time.Second, false, 200, 236 * time.Second},
		"a silent upstream":          {[]time.Duration{0, 0, 0}, time.Hour, false, 504, time.Minute},
		"a slow client and a silent": {[]time.Duration{0, 59 * time.Second, 59 * time.Second}, time.Hour, false, 504, 178 * time.Second},
		"a slow client and a closed": {[]time.Duration{0, 59 * time.Second, 59 * time.Second}, 0, true, 502, 118 * time.Second},
	} {
		for framing, upload := range uploads {
			bubble(t, name+", "+framing, func(t *testing.T) {
				s := newScript(t, func(x *exchange) {
					time.Sleep(c.answer)
					if c.closes {
						x.conn.Close()
					}
					x.ok("")
				})
				n := start(t, only(s))
				began := time.Now()
				c2 := n.open()
				head, body := upload(len(c.pauses) * len(piece))
				io.WriteString(c2.conn, "POST /upload HTTP/1.1\r\nHost: a\r\n"+head)
				pauses := c.pauses
				body(writerFunc(func(b []byte) (int, error) {
					if len(b) == len(piece) {
						time.Sleep(pauses[0])
						pauses = pauses[1:]
					}
					return c2.conn.Write(b)
				}))
				if m := c2.response("POST"); m.status() != c.status || time.Since(began) != c.took {
					t.Errorf("%q after %v, want %d after %v", m.start, time.Since(began), c.status, c.took)
				}
				s.stop()
			})
		}
	}
}

func TestAnUploadsUpstreamHasItsTimeAfterASlowEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(x *exchange) {
			time.Sleep(59 * time.Second)
			x.ok(fmt.Sprint(len(x.body)))
		})
		n := start(t, only(s))
		c := n.open()
		io.WriteString(c.conn, "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n"+strings.Repeat("u", 69_999))
		time.Sleep(59 * time.Second)
		io.WriteString(c.conn, "u")
		if m := c.response("POST"); m.body != "70000" {
			t.Errorf("%q %q", m.head, m.body)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Whatever an upstream does to an upload, it runs at most once and costs
// nothing afterwards. Mutants: as of ordinary requests; the wait for the sender
// never ends.
func TestWhateverTheUpstreamDoesToAnUpload(t *testing.T) {
	for _, b := range behaviours {
		bubble(t, b.name, func(t *testing.T) {
			s := newScript(t, b.answer)
			n := start(t, only(s))
			c := n.open()
			io.WriteString(c.conn, "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
			b.check(t, c, "POST")
			if s.executed() != 1 {
				t.Errorf("it ran %d times", s.executed())
			}
			if a := n.send("POST", "/orders/7/canary", nil, ""); a.body != "canary for /orders/7/canary" {
				t.Errorf("the next request: %d %s", a.status, a.slug())
			}
			n.idle()
		})
	}
}

// Mutant: Expect goes on, or nobody says 100.
func TestContinue(t *testing.T) {
	for name, c := range map[string]struct{ path, head, body string }{
		"laned":           {"/orders/7", "Content-Length: 4\r\n\r\n", "body"},
		"bypass":          {"/else", "Content-Length: 4\r\n\r\n", "body"},
		"upload":          {"/else", "Content-Length: 70000\r\n\r\n", strings.Repeat("u", 70_000)},
		"upload, chunked": {"/else", "Transfer-Encoding: chunked\r\n\r\n", "4\r\nbody\r\n0\r\n\r\n"},
	} {
		for _, expect := range []string{"100-continue", "100-Continue"} {
			bubble(t, name+" "+expect, func(t *testing.T) {
				s := newScript(t, func(x *exchange) { x.ok(fmt.Sprint(len(x.body), x.get("Expect"))) })
				n := start(t, only(s))
				c2 := n.open()
				io.WriteString(c2.conn, "POST "+c.path+" HTTP/1.1\r\nHost: a\r\nExpect: "+expect+"\r\n"+c.head)
				if m, err := readMessage(c2.reader, "POST"); err != nil || m.head != "HTTP/1.1 100 Continue\r\n\r\n" {
					t.Fatalf("%+v, %v", m, err)
				}
				size := len(c.body)
				if strings.HasSuffix(name, "chunked") {
					size = 4
				}
				if m := c2.ask("POST", c.body); m.status() != 200 || m.body != fmt.Sprint(size) {
					t.Errorf("%q %q", m.head, m.body)
				}
			})
		}
	}
}

// Mutant: a route that only watches refuses what it would not hold.
func TestObserveLetsLargeBodiesPass(t *testing.T) {
	for name, upload := range uploads {
		bubble(t, name, func(t *testing.T) {
			s := newScript(t, func(x *exchange) { x.ok(fmt.Sprint(len(x.body))) })
			n := start(t, func(c *proxy.Config) { only(s)(c); c.Routes[0].Lane.Mode = proxy.Observe })
			head, body := upload(100_000)
			c := n.open()
			io.WriteString(c.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\n"+head)
			go body(c.conn)
			if m := c.response("POST"); m.body != "100000" {
				t.Errorf("%q %q", m.head, m.body)
			}
		})
	}
}

// The head alone decides whether a body is hidden, and by the same target as
// the route. Mutant: the absolute form is looked up as if it were a path, and a
// catch-all route for bypass takes the request out of its lane.
func TestNoSpellingOfATargetLeavesItsLane(t *testing.T) {
	for _, target := range []string{"/orders/7", "http://a/orders/7", "HTTP://A/orders/7?x", "http://a/orders/7?y=/"} {
		bubble(t, target, func(t *testing.T) {
			s := newScript(t, func(x *exchange) { x.ok(x.get("Lanekeeper-Key") + "|" + x.body) })
			n := start(t, func(c *proxy.Config) {
				only(s)(c)
				c.Routes[1].Match.Path = "" // everything
			})
			m := n.open().ask("POST", "POST "+target+" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
			if m.status() != 200 || m.body != "order:7|body" {
				t.Errorf("%q %q", m.head, m.body)
			}
		})
	}
}

// Mutant: fasthttp keeps a finished response back while the next request of the
// connection is at work.
func TestPipelinedRequestsKeepTheirOrder(t *testing.T) {
	serve := func(release <-chan struct{}) func(*exchange) {
		return func(x *exchange) {
			if strings.Contains(x.start, "slow") {
				<-release
			}
			x.ok(x.start)
		}
	}
	requests := func(c *client, paths ...string) {
		all := ""
		for _, path := range paths {
			all += "POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
		}
		io.WriteString(c.conn, all)
	}
	for _, paths := range [][]string{
		{"/orders/7/fast", "/orders/7/slow", "/orders/7/last"},
		{"/orders/7/fast", "/orders/8/slow", "/orders/9/last"},
		{"/fast", "/slow", "/last"},
		{"/orders/7/fast", "/slow", "/orders/7/last"},
	} {
		check := func(t *testing.T, c *client, release chan struct{}) {
			t.Helper()
			requests(c, paths...)
			for i, path := range paths {
				if i == 1 {
					close(release) // only now that the first response is here
				}
				if m := c.response("POST"); m.body != "POST "+path+" HTTP/1.1" {
					t.Errorf("response %d is %q %q", i, m.start, m.body)
				}
			}
		}
		bubble(t, "in memory "+paths[1], func(t *testing.T) {
			release := make(chan struct{})
			s := newScript(t, serve(release))
			n := start(t, only(s))
			check(t, n.open(), release)
		})
		t.Run("on sockets "+paths[1], func(t *testing.T) {
			release := make(chan struct{})
			s := newScript(t, serve(release))
			n := startOnSockets(t, s, nil)
			check(t, n.open(), release)
		})
	}
}

// Mutants: the client's connection is closed where it need not be; a deadline of
// one request is left to the next.
func TestTheConnectionLivesOn(t *testing.T) {
	large := strings.Repeat("x", 100_000)
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(x *exchange) {
			switch {
			case strings.Contains(x.start, "chunked"):
				x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(large), large)
			case strings.Contains(x.start, "large"):
				x.ok(large)
			case strings.Contains(x.start, "lengthless"):
				x.write("HTTP/1.1 200 OK\r\n\r\n%s", large)
				x.conn.Close()
			case strings.Contains(x.start, "304"):
				x.write("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")
			case strings.Contains(x.start, "reset"):
				x.conn.Close()
			default:
				x.ok("ok")
			}
		})
		n := start(t, func(c *proxy.Config) {
			only(s)(c)
			c.IdleTimeout = 24 * time.Hour
		})
		c := n.open()
		for round := range 2 {
			for _, request := range []string{
				"GET /orders/7 ", "GET /orders/7/large ", "GET /orders/7/chunked ", "GET /orders/7/lengthless ", "HEAD /orders/7 ", "GET /orders/7/304 ", "PUT /orders/7/reset ",
				"GET /else ", "GET /large ", "GET /chunked ", "GET /lengthless ", "HEAD /else ", "GET /304 ", "PUT /reset ", "POST /else ", "POST /orders/7 ",
			} {
				body := ""
				if strings.HasPrefix(request, "P") {
					body = "Content-Length: 4\r\n\r\nbody"
				} else {
					body = "\r\n"
				}
				method, _, _ := strings.Cut(request, " ")
				m := c.ask(method, request+"HTTP/1.1\r\nHost: a\r\n"+body)
				if m.get("Connection") != "" {
					t.Errorf("round %d, %s: %q", round, request, m.head)
				}
				time.Sleep(10 * time.Minute) // longer than every deadline of the request before
			}
		}
		if n.metric("lanekeeper_connections") != 1 {
			t.Error("it was another connection")
		}
	})
}

// Mutant: Stop waits for connections that were taken over, or for their
// upstream's.
func TestStopEndsWhatItNoLongerServes(t *testing.T) {
	for name, c := range map[string]struct {
		request string
		answer  string
	}{
		"a tunnel":                       {upgradeRequest, switched},
		"an upload that waits":           {"POST /else HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", ""},
		"an upload that is sent":         {"POST /else HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", ""},
		"the response to an upload":      {"POST /else HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\nbegun"},
		"a stream to an HTTP/1.0 client": {"GET /else HTTP/1.0\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n"},
		"a held lane":                    {"PUT /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"},
	} {
		bubble(t, name, func(t *testing.T) {
			s := newScript(t, nil)
			s.head = func(x *exchange) {
				x.write("%s", c.answer)
				io.Copy(io.Discard, x.reader)
			}
			n := start(t, func(config *proxy.Config) {
				only(s)(config)
				config.BypassIdleTimeout = 0
				config.Routes[0].Lane.HoldFor = time.Hour
			})
			c2 := n.open()
			io.WriteString(c2.conn, c.request)
			synctest.Wait()
			if name == "a held lane" {
				c2.response("PUT") // 504
				c2.conn.Close()
			}
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := n.proxy.Stop(ctx); err != nil || time.Since(began) > time.Second {
				t.Errorf("Stop: %v after %v", err, time.Since(began))
			}
			c2.conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := io.Copy(io.Discard, c2.reader); err != nil {
				t.Errorf("the client's connection: %v", err)
			}
			n.idle()
			if got := n.metric("lanekeeper_connections"); got != 0 {
				t.Errorf("connections = %v", got)
			}
		})
	}
}
