package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

// A reset would take an answer away that is on its way to a client that is still sending.
//
// Mutant: the connection of an unread request is closed at once.
func TestAClientThatIsStillSendingReadsItsRefusal(t *testing.T) {
	const rest = 512 << 10
	s := newScript(t, func(x *exchange) { x.ok("") })
	n := startOnSockets(t, s, func(c *proxy.Config) { c.MaxBody = 1 << 10 })
	for name, c := range map[string]struct {
		head   string
		status int
	}{
		"a large body":   {fmt.Sprintf("POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", rest), 413},
		"a broken chunk": {"POST /orders/7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nZZ", 400},
		"a broken head":  {"POST /orders/7 HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400},
		"no request":     {"\x00\x01", 400},
	} {
		t.Run(name, func(t *testing.T) {
			client := n.open()
			sent := make(chan error, 1)
			go func() {
				_, err := io.WriteString(client.conn, c.head+strings.Repeat("x", rest))
				sent <- err
			}()
			m := client.response("POST")
			if m.status() != c.status || !strings.EqualFold(m.get("Connection"), "close") {
				t.Errorf("%q %q", m.head, m.body)
			}
			if err := <-sent; err != nil {
				t.Errorf("while it sends: %v", err)
			}
			if rest, err := io.ReadAll(client.reader); err != nil || len(rest) > 0 {
				t.Errorf("then %q, %v", rest, err)
			}
		})
	}
	if s.executed() != 0 {
		t.Error("something ran")
	}
}

// Mutants: nobody is counted; those who left are.
func TestConnectionsOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(x *exchange) { x.ok("") })
		n := start(t, func(c *proxy.Config) { c.MaxPerAddress, c.Upstreams[0].Dial = 2, s.dial })
		ask := func(c *client) *answer { return c.send("POST", "/orders/7", nil, "") }
		first, second := n.from("192.0.2.7:1"), n.from("192.0.2.7:2")
		for _, c := range []*client{first, second, n.from("192.0.2.8:1"), n.open(), n.open(), n.open()} {
			if a := ask(c); a.status != 200 {
				t.Errorf("%d %s", a.status, a.slug())
			}
		}
		third, err := n.from("192.0.2.7:3").read("POST")
		if err != nil || third.status != 503 || third.slug() != "overloaded" || !third.close {
			t.Errorf("%+v, %v", third, err)
		}
		second.conn.Close()
		synctest.Wait()
		if a := ask(n.from("192.0.2.7:4")); a.status != 200 {
			t.Errorf("%d %s", a.status, a.slug())
		}
	})
}

// Mutant: strays is false.
func TestWhoBeganAnotherProtocolTooEarlyIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(x *exchange) { x.ok("") })
		n := start(t, only(s))
		c := n.open()
		go io.WriteString(c.conn, upgradeRequest+"POST /orders/7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n")
		if m := c.response("GET"); m.status() != 200 || !strings.EqualFold(m.get("Connection"), "close") {
			t.Errorf("%q", m.head)
		}
		if rest, err := io.ReadAll(c.reader); err != nil || len(rest) > 0 {
			t.Errorf("then %q, %v", rest, err)
		}
		if s.executed() != 1 {
			t.Errorf("%d requests ran", s.executed())
		}
	})
}

// Mutant: 100 is sent for a body that is refused.
func TestAClientWaitsToBeInvited(t *testing.T) {
	for _, path := range []string{"/orders/7", "/else"} {
		bubble(t, path, func(t *testing.T) {
			s := newScript(t, func(x *exchange) { x.ok(x.body + x.get("Expect")) })
			n := start(t, only(s))
			c := n.open()
			fmt.Fprintf(c.conn, "POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\n", path)
			if m, err := readMessage(c.reader, "POST"); err != nil || m.status() != 100 {
				t.Fatalf("%+v, %v", m, err)
			}
			io.WriteString(c.conn, "body")
			if m := c.response("POST"); m.status() != 200 || m.body != "body" {
				t.Errorf("%q %q", m.head, m.body)
			}
			if a := c.send("POST", "/orders/7/canary", nil, ""); a.status != 200 {
				t.Errorf("then %d", a.status)
			}
			fmt.Fprintf(c.conn, "POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4000\r\n\r\n", path)
			if m := c.response("POST"); m.status() != 413 {
				t.Errorf("%q %q", m.head, m.body)
			}
		})
	}
}

// Each time that a client has is a limit of its own, whatever it drips meanwhile.
func TestAClientThatDripsHasItsTime(t *testing.T) {
	for name, c := range map[string]struct {
		begin string
		limit time.Duration
	}{
		"head": {"POST /orders/7 HTTP/1.1\r\nHost: a\r\nX: ", 10 * time.Second},
		"body": {"POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n", 15 * time.Second},
	} {
		bubble(t, name, func(t *testing.T) {
			s := newScript(t, func(x *exchange) { x.ok("") })
			n := start(t, only(s))
			client := n.open()
			began := time.Now()
			go func() { // ends when the connection does
				for text := c.begin; ; text = "x" {
					if _, err := io.WriteString(client.conn, text); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			m := client.response("POST")
			if took := time.Since(began); m.status() != 408 || took < c.limit || took > c.limit+time.Second {
				t.Errorf("after %v: %q", took, m.head)
			}
			client.conn.Close()
		})
	}
}

// A connection that sends nothing has the time of a head, and costs no answer.
func TestAClientThatSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		c := n.open()
		began := time.Now()
		if b, err := bufio.NewReader(c.conn).ReadByte(); err != io.EOF { //nolint:errorlint // as it comes
			t.Errorf("got %x, %v", b, err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("after %v", took)
		}
	})
}

// Who drips takes nobody's time, and has an end.
func TestSlowClientsDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(x *exchange) { x.ok(x.body) })
		n := start(t, func(c *proxy.Config) { c.MaxConnections, c.Upstreams[0].Dial = *slowClients+10, s.dial })
		for i := range *slowClients {
			go func(c *client) { // ends with the connection
				for text := [2]string{"POST /orders/7 HTTP/1.1\r\nHost: a\r\nX: ", "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"}[i%2]; ; text = "x" {
					if _, err := io.WriteString(c.conn, text); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}(n.open())
		}
		fast := n.open()
		for range 20 {
			began := time.Now()
			if a := fast.send("POST", "/orders/7", nil, "body"); a.body != "body" || !time.Now().Equal(began) {
				t.Fatalf("%d %q after %v", a.status, a.body, time.Since(began))
			}
			time.Sleep(time.Second)
		}
		if open := n.metric("lanekeeper_connections"); open != 1 {
			t.Errorf("%v connections after all limits", open)
		}
	})
}
