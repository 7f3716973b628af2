package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"lanekeeper/proxy"
)

// Whoever goes on talking without an end is cut off in time, and its lane held. Mutant: interim
// responses are not counted while a body is sent.
func TestAnAnswerThatDrips(t *testing.T) {
	head, body := "HTTP/1.1 200 OK\r\nX-Long: ", "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"
	for _, c := range []struct{ name, begin, drop string }{
		{"head", head, "x"},
		{"status line", "HTTP/1.1 200 ", "x"},
		{"body", body, "x"},
		{"chunks", chunks, "1\r\nx\r\n"},
		{"extension", chunks + "1;", "x"},
		{"trailers", chunks + "0\r\n", "X-T: 1\r\n"},
		{"until it closes", "HTTP/1.1 200 OK\r\n\r\n", "x"},
		{"interim", "HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 102 Processing\r\n\r\n"},
	} {
		for _, after := range []proxy.AfterTimeout{proxy.Hold, proxy.Release} {
			bubble(t, fmt.Sprint(c.name, after), func(t *testing.T) {
				s := newScript(t, func(x *exchange) {
					x.write("%s", c.begin)
					for {
						time.Sleep(time.Second)
						if _, err := io.WriteString(x.conn, c.drop); err != nil {
							return
						}
					}
				})
				n := start(t, func(config *proxy.Config) {
					only(s)(config)
					config.Routes[0].Lane.AfterTimeout = after
				})
				began := time.Now()
				if a := n.send("PUT", "/orders/7", nil, ""); a.slug() != timeout || a.problem.Executed != "unknown" || time.Since(began) != 30*time.Second {
					t.Errorf("%d %s after %v", a.status, a.slug(), time.Since(began))
				}
				want := 30 * time.Second
				if after == proxy.Hold {
					want += 20 * time.Second // hold_for: it never ended
				}
				if a := n.send("PUT", "/orders/7/canary", nil, ""); a.status != 200 || time.Since(began) != want {
					t.Errorf("the next request: %d %s after %v, want %v", a.status, a.slug(), time.Since(began), want)
				}
				n.idle()
			})
		}
	}
	bubble(t, "outside a lane", func(t *testing.T) {
		s := newScript(t, func(x *exchange) {
			for {
				if _, err := x.conn.Write([]byte("HTTP/1.1 102 Processing\r\n\r\n")); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		n := start(t, only(s))
		began := time.Now()
		if a := n.send("GET", "/else", nil, ""); a.slug() != timeout || time.Since(began) != time.Minute { // idle
			t.Errorf("%d %s after %v", a.status, a.slug(), time.Since(began))
		}
		n.idle()
	})
	t.Run("while a body is sent", func(t *testing.T) {
		s := newScript(t, nil)
		s.head = func(x *exchange) { // and never reads it
			for {
				if _, err := io.WriteString(x.conn, "HTTP/1.1 102 Processing\r\n\r\n"); err != nil {
					return
				}
			}
		}
		n := startOnSockets(t, s, func(c *proxy.Config) { c.Routes[0].Lane.HoldFor = time.Millisecond })
		a := n.open().send("PUT", "/orders/7", nil, strings.Repeat("x", 24<<20))
		if a.slug() != invalid || a.problem.Executed != "unknown" {
			t.Errorf("%d %s, executed %q", a.status, a.slug(), a.problem.Executed)
		}
		n.empty()
	})
}

// A large response that breaks within its chunks' frames breaks off at the client, too, and its
// lane is held for as long as the upstream may be at work. Mutants: the error is told once, and
// fasthttp, which overlooks one that comes with bytes, reads on; the rest is read as chunks; the
// connection's end within a frame is taken for the body's.
func TestAStreamWithABrokenFrame(t *testing.T) {
	half := strings.Repeat("x", 50_000)
	for name, rest := range map[string]string{
		"LF":           "\n0\r\n\r\n",
		"two bytes":    "xx0\r\n\r\n",
		"a size":       "\r\nzz\r\n",
		"the end":      "\r\n2",
		"no last line": "\r\n0\r\n",
	} {
		for _, path := range []string{"/orders/7", "/else"} {
			bubble(t, name+path, func(t *testing.T) {
				closes := strings.HasPrefix(name, "the") || strings.HasPrefix(name, "no")
				s := newScript(t, func(x *exchange) {
					x.write("%s%x\r\n%s\r\n%x\r\n%s%s", chunks, len(half), half, len(half), half, rest)
					if closes {
						x.conn.Close()
					}
				})
				n := start(t, func(c *proxy.Config) {
					c.Upstreams[0].Dial = s.dial
					c.Routes[0].Lane.QueueTimeout, c.Routes[0].Lane.MaxShared = time.Minute, 1
				})
				began := time.Now()
				c := n.open()
				io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n")
				if m, err := readMessage(c.reader, "GET"); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%v, %v", m != nil, err)
				}
				want := 50 * time.Second // upstream_timeout and hold_for
				if closes || path == "/else" {
					want = 0
				}
				again := path + "/canary"
				if a := n.send("GET", again, nil, ""); a.body != "canary for "+again || time.Since(began) != want {
					t.Errorf("the next request: %d %s after %v, want %v", a.status, a.slug(), time.Since(began), want)
				}
				n.idle()
			})
		}
	}
}

// A large response in a lane of which nothing comes but its head is a problem, since nothing has
// been sent to the client. Mutant: it streams at once (the client gets not a byte).
func TestALargeAnswerThatDoesNotBegin(t *testing.T) {
	for name, want := range map[string]string{"silence": timeout, "its end": reset} {
		both(t, name, change{}, func(x *exchange) {
			x.write("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")
			if want == reset {
				x.conn.Close()
			}
		}, func(p *pair, at *member) []string {
			a := at.send("GET", "/orders/7", nil, "")
			if a.slug() != want || a.problem.Executed != "unknown" {
				t.Errorf("%d %s, executed %q; want %s", a.status, a.slug(), a.problem.Executed, want)
			}
			return []string{told(a)}
		})
	}
}
