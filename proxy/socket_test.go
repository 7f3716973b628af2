package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// socketNode is a node on a loopback port, in real time.
type socketNode struct {
	*node
	address string
}

// startOnSockets runs a node like start's on a socket. Its upstream is s, and
// large requests are let through.
func startOnSockets(t *testing.T, s *script, change func(*proxy.Config)) *socketNode {
	t.Helper()
	config := proxy.Config{
		Node: "test", MaxBody: 32 << 20, MaxHeader: 4 << 10, MaxURI: 1 << 10, MaxHeaders: 50,
		HeaderTimeout: 10 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: 75 * time.Second, BypassIdleTimeout: time.Minute,
		MaxConnections: 100, MaxInflight: 100, Access: proxy.AccessAll,
		Upstreams: []proxy.Upstream{{
			Name: "app", Targets: []string{"http://app"}, ConnectTimeout: 2 * time.Second, MaxConnections: 64, Queue: 64, IdleTimeout: 30 * time.Second,
			Dial: s.listen(),
		}},
		Routes: []proxy.Route{orders(), {
			Name: "rest", Match: proxy.Match{Path: "/{rest...}"}, Upstream: "app", Lane: proxy.Lane{Bypass: []string{"*"}},
		}},
	}
	config.Routes[0].Lane.MaxBytes = 64 << 20
	if change != nil {
		change(&config)
	}
	below.configure(&config)
	listener := listenTCP(t)
	n := &socketNode{node: &node{t: t, log: new(logBuffer)}, address: listener.Addr().String()}
	n.lanes = queue.New(queue.Config{MaxQueued: 100, MaxQueuedBytes: 64 << 20, MaxLanes: 100, Tags: len(config.Routes)})
	var err error
	n.proxy, err = proxy.New(config, n.lanes, slog.New(slog.NewJSONHandler(n.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- n.proxy.Serve(listener) }()
	t.Cleanup(func() {
		s.stop()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := n.proxy.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return n
}

func (n *socketNode) open() *client {
	n.t.Helper()
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second)) // a test that would hang fails
	conn = below.greet(n.t, conn)
	return &client{t: n.t, conn: conn, reader: bufio.NewReader(conn)}
}

// eventually waits for what no event tells of.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); !is(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after 10 s not yet: %s", what)
		}
	}
}

// How a client can leave while its request waits.
var leavings = map[string]func(*client){
	"close": func(c *client) { c.conn.Close() },
	"reset": func(c *client) { c.reset() },
	"half":  func(c *client) { c.endHalf() },
	"close behind a pipelined request": func(c *client) {
		io.WriteString(c.conn, "POST /orders/7/pipelined HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
		c.conn.Close()
	},
	"close behind half a request": func(c *client) {
		io.WriteString(c.conn, "POST /orders/7/pipel")
		c.conn.Close()
	},
}

// newGate is an upstream whose requests wait until the test lets them go.
func newGate(t *testing.T) (*script, chan *exchange) {
	arrived := make(chan *exchange, 10)
	return newScript(t, func(x *exchange) {
		x.done = make(chan struct{})
		arrived <- x
		select {
		case <-x.done:
			x.ok(x.start)
		case <-t.Context().Done(): // before the cleanups
		}
	}), arrived
}

func (n *socketNode) waiting(count int) {
	n.t.Helper()
	eventually(n.t, fmt.Sprintf("%d requests wait", count), func() bool { return n.lanes.Totals()[0].Waiting == count })
}

const post = "POST /orders/7/%s HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"

// Mutants: nobody looks; the look takes the front of the lane instead of the one
// that left; pipelined bytes hide the end; the turn is lost with it.
func TestAClientThatLeavesWhileItWaits(t *testing.T) {
	for name, leave := range leavings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, arrived := newGate(t)
			n := startOnSockets(t, s, nil)
			var clients []*client
			var first *exchange
			for i := range 4 {
				c := n.open()
				fmt.Fprintf(c.conn, post, fmt.Sprint(i))
				clients = append(clients, c)
				if i == 0 {
					first = <-arrived
				} else {
					n.waiting(i)
				}
			}
			leave(clients[2]) // neither the first nor the last that waits
			n.waiting(2)      // it has been missed
			close(first.done)
			for _, i := range []int{1, 3} {
				x := <-arrived
				if want := fmt.Sprintf("POST /orders/7/%d HTTP/1.1", i); x.start != want {
					t.Fatalf("%s runs, want %s", x.start, want)
				}
				close(x.done)
				if m := clients[i].response("POST"); m.status() != 200 {
					t.Errorf("%q", m.head)
				}
			}
			n.empty()
			if s.executed() != 3 {
				t.Errorf("it ran: %q", s.ran)
			}
			n.countsGone(1)
			if name == "half" { // the client sees that it was let go
				if rest, err := io.ReadAll(clients[2].reader); len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("got %q, %v", rest, err)
				}
			}
		})
	}
}

func (n *socketNode) countsGone(want float64) {
	n.t.Helper()
	eventually(n.t, "the client that left is counted", func() bool {
		return n.metric("lanekeeper_client_gone_total", "stage", "queued") == want && n.metric("lanekeeper_requests_total", "code", "499") == want
	})
	if want == 0 {
		return
	}
	eventually(n.t, "the client that left is logged", func() bool {
		for line := range strings.Lines(n.log.String()) {
			if strings.Contains(line, `"status":499`) && strings.Contains(line, `"reason":"client-gone"`) && strings.Contains(line, `"executed":"no"`) {
				return true
			}
		}
		return false
	})
}

// Mutants: no look right before the turn; it looks, but dispatches.
func TestAClientThatLeavesRightBeforeItsTurn(t *testing.T) {
	for name, leave := range leavings {
		t.Run(name, func(t *testing.T) {
			s, arrived := newGate(t)
			n := startOnSockets(t, s, nil)
			a, b := n.open(), n.open()
			fmt.Fprintf(a.conn, post, "a")
			first := <-arrived
			fmt.Fprintf(b.conn, post, "b")
			n.waiting(1)
			leave(b)
			close(first.done) // at once, long before anybody looks
			if m := a.response("POST"); m.status() != 200 {
				t.Errorf("%q", m.head)
			}
			n.empty()
			if s.executed() != 1 {
				t.Errorf("it ran: %q", s.ran)
			}
			n.countsGone(1)
		})
	}
}

// Mutant: the client is looked at whatever the route says.
func TestARequestMayRunWithoutItsClient(t *testing.T) {
	for name, leave := range leavings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, arrived := newGate(t)
			n := startOnSockets(t, s, func(c *proxy.Config) { c.Routes[0].Lane.ClientGone = proxy.Run })
			a, b := n.open(), n.open()
			fmt.Fprintf(a.conn, post, "a")
			first := <-arrived
			fmt.Fprintf(b.conn, post, "b")
			n.waiting(1)
			leave(b)
			<-time.After(300 * time.Millisecond) // longer than the first look
			close(first.done)
			x := <-arrived
			if x.start != "POST /orders/7/b HTTP/1.1" {
				t.Errorf("%s runs", x.start)
			}
			close(x.done)
			if name == "half" { // it still reads
				if m := b.response("POST"); m.body != x.start {
					t.Errorf("%q %q", m.head, m.body)
				}
			}
			if name == "close behind a pipelined request" {
				select {
				case x := <-arrived: // it came whole, so it may run
					close(x.done)
				case <-time.After(50 * time.Millisecond): // or be lost with its connection
				}
			}
			n.empty()
			n.countsGone(0)
		})
	}
}

// Mutants: a client that has more to say is taken for one that left; one that
// leaves during its turn frees the lane early.
func TestAClientThatStaysOrLeavesLater(t *testing.T) {
	t.Run("pipelines and stays", func(t *testing.T) {
		t.Parallel()
		s, arrived := newGate(t)
		n := startOnSockets(t, s, nil)
		a, b := n.open(), n.open()
		fmt.Fprintf(a.conn, post, "a")
		first := <-arrived
		fmt.Fprintf(b.conn, post, "b")
		n.waiting(1)
		fmt.Fprintf(b.conn, post, "c")       // stays in the socket
		<-time.After(300 * time.Millisecond) // longer than the first look
		close(first.done)
		for range 2 {
			x := <-arrived
			close(x.done)
			if m := b.response("POST"); m.body != x.start {
				t.Errorf("%q %q", m.head, m.body)
			}
		}
		n.countsGone(0)
	})
	t.Run("leaves in its turn", func(t *testing.T) {
		s, arrived := newGate(t)
		n := startOnSockets(t, s, nil)
		a, b := n.open(), n.open()
		fmt.Fprintf(a.conn, post, "a")
		x := <-arrived
		fmt.Fprintf(b.conn, post, "b")
		n.waiting(1)
		a.reset()
		select {
		case x := <-arrived:
			t.Errorf("%s runs beside the one whose client left", x.start)
		case <-time.After(50 * time.Millisecond):
		}
		close(x.done)
		next := <-arrived
		close(next.done)
		if m := b.response("POST"); m.body != next.start {
			t.Errorf("%q %q", m.head, m.body)
		}
		n.empty()
		if s.executed() != 2 {
			t.Errorf("it ran: %q", s.ran)
		}
	})
}

// The timeouts of the edge, on sockets, where reads are our own. Mutants: reading
// ahead outlasts its deadline; a timeout is answered to a client that has asked
// nothing.
func TestTimeoutsOnSockets(t *testing.T) {
	s := newScript(t, func(x *exchange) { x.ok("") })
	n := startOnSockets(t, s, func(c *proxy.Config) {
		c.HeaderTimeout, c.ReadTimeout, c.IdleTimeout = 60*time.Millisecond, 120*time.Millisecond, 180*time.Millisecond
	})
	for _, c := range []struct {
		name, sent string
		after      time.Duration
		status     int
	}{
		{"half a head", "GET /else HTTP/1.1\r\nHo", 60 * time.Millisecond, 408},
		{"one byte", "G", 60 * time.Millisecond, 408},
		{"half a body", "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo", 120 * time.Millisecond, 408},
		{"no second request", "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n", 180 * time.Millisecond, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := n.open()
			began := time.Now()
			io.WriteString(conn.conn, c.sent)
			if m := conn.response("GET"); m.status() != c.status {
				t.Errorf("%q", m.head)
			}
			if rest, err := io.ReadAll(conn.reader); len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("then %q, %v", rest, err)
			}
			if took := time.Since(began); took < c.after || took > c.after+2*time.Second {
				t.Errorf("it took %v, want %v", took, c.after)
			}
		})
	}
}
