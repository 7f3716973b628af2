package peer

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

// panics counts the panics that were logged with their stacks.
type panics struct {
	slog.Handler
	logged atomic.Int32
}

func (p *panics) Enabled(context.Context, slog.Level) bool { return true }

func (p *panics) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "stack" && strings.Contains(a.Value.String(), "/peer/") {
			p.logged.Add(1)
		}
		return true
	})
	return nil
}

func (p *panics) expect(t *testing.T, want int32) {
	t.Helper()
	if n := p.logged.Load(); n != want {
		t.Errorf("%d panics were logged with their stacks, want %d", n, want)
	}
}

// panicking starts two nodes that may panic, and log that to p.
func panicking(t *testing.T, change func(*Config)) (ingress, owner *testNode, p *panics) {
	t.Helper()
	p = &panics{}
	ingress, owner = pair(t, func(c *Config) {
		c.Log = slog.New(p)
		change(c)
	})
	mustAnswer(t, ingress, "order:0")
	return ingress, owner, p
}

func call(n *testNode, key string) *Call {
	c := NewCall(1, noLocal{}, testRequest(key, 10), time.Now().Add(10*time.Second))
	n.hop.Send(c)
	return c
}

// mustAnswer sends a request that has to run.
func mustAnswer(t *testing.T, n *testNode, key string) {
	t.Helper()
	if r := mustEnd(t, call(n, key), 5*time.Second); r.Problem != "" {
		t.Errorf("%s: %s %s", key, r.Problem, r.Detail)
	}
}

// waitFor waits until something is so.
func waitFor(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Second); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

type badLocal struct{}

func (badLocal) AdmitHere(queue.ID) bool { panic("bad local") }

// TestPanicCostsItsRequest panics for one request, where it has no ticket yet, where it
// waits, and where it has its turn. Others, before it and after it on the same connection,
// have their answers.
//
// Mutants: see mutants_test.go.
func TestPanicCostsItsRequest(t *testing.T) {
	left := make(chan string, 10)
	var dials atomic.Int32
	ingress, owner, p := panicking(t, func(c *Config) {
		serve, dial := c.Serve, c.Dial
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			dials.Add(1)
			return dial(ctx, address)
		}
		c.Serve = func(in *Inbound) (*Response, bool) {
			key := string(in.Key)
			in.Left = func() { left <- key }
			if strings.HasPrefix(key, "early") {
				panic(key)
			}
			r, mine := serve(in)
			if in.Route == "late" {
				panic(key)
			}
			return r, mine
		}
	})
	before := dials.Load()
	hold := make(chan struct{})
	owner.answer = func(in *Inbound) {
		<-hold
		in.Ticket.Done()
		in.Respond(&Response{Head: []byte("HTTP/1.1 200 OK\r\n\r\n"), Body: in.Key})
	}
	late := func(key string) *Call {
		r := testRequest(key, 10)
		r.Route = "late"
		c := NewCall(1, noLocal{}, r, time.Now().Add(10*time.Second))
		ingress.hop.Send(c)
		return c
	}
	first := call(ingress, "order:1")
	early, waits, runs := call(ingress, "early"), late("order:1"), late("order:2")
	last := call(ingress, "order:1")
	for name, c := range map[string]struct {
		call *Call
		want Executed
	}{"without a ticket": {early, NotExecuted}, "waiting": {waits, NotExecuted}, "running": {runs, Unknown}} {
		if r := mustEnd(t, c.call, 5*time.Second); r.Problem != InternalError || r.Executed != c.want || c.call.Owner != owner.self {
			t.Errorf("%s: %q %v %s of %v", name, r.Problem, r.Executed, r.Detail, c.call.Owner)
		}
	}
	close(hold)
	for _, c := range []*Call{first, last} {
		if r := mustEnd(t, c, 5*time.Second); r.Problem != "" {
			t.Errorf("beside them: %s %s", r.Problem, r.Detail)
		}
	}
	for _, want := range []string{"early", "order:1"} {
		select {
		case got := <-left:
			if got != want {
				t.Errorf("%s left its lane, want %s", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s did not leave", want)
		}
	}
	p.expect(t, 3)

	// One whose ticket is taken by the hand of whoever moves its partition.
	there := func(int) (ring.Member, uint64) { return ring.Member{Name: "z", Incarnation: 1}, 1 }
	here := func(int) (ring.Member, uint64) { return ingress.self, 2 }
	var mu sync.Mutex
	owns := there
	ingress.hop.config.Owner = func(p int) (ring.Member, uint64) {
		mu.Lock()
		defer mu.Unlock()
		return owns(p)
	}
	bad := NewCall(5, badLocal{}, testRequest("bad", 10), time.Now().Add(10*time.Second))
	ingress.hop.Send(bad)
	mu.Lock()
	owns = here
	mu.Unlock()
	ingress.hop.Routed(5, ingress.self, 2)
	if r := mustEnd(t, bad, 5*time.Second); bad.Here || r.Problem != InternalError || r.Executed != Unknown {
		t.Errorf("a bad local: %q %v", r.Problem, r.Executed)
	}
	p.expect(t, 4)
	if n := dials.Load(); n != before {
		t.Errorf("%d connections were made for that", n-before)
	}
}

// TestPanicCostsItsConnection panics in messages, and where a response is read. What is
// under way on the connection has its answers by the next one.
//
// Mutants: see mutants_test.go.
func TestPanicCostsItsConnection(t *testing.T) {
	var ups, controls, notes atomic.Int32
	ingress, owner, p := panicking(t, func(c *Config) {
		c.Up = func(m ring.Member) {
			if m.Name == "b" && ups.Add(1) == 1 {
				panic("up")
			}
		}
		c.Control = func(ring.Member, []byte) {
			if controls.Add(1) == 1 {
				panic("control")
			}
		}
		c.Note = func(ring.Member, []byte) {
			if notes.Add(1) == 1 {
				panic("note")
			}
		}
	})
	p.expect(t, 1)
	hold := make(chan struct{})
	owner.answer = func(in *Inbound) {
		<-hold
		in.Ticket.Done()
		in.Respond(&Response{Head: []byte("HTTP/1.1 200 OK\r\n\r\n"), Body: in.Key})
	}
	under := call(ingress, "order:1")
	waitFor(t, "it runs", func() bool { return owner.served.Load() == 2 })
	for _, send := range []func(ring.Member, []byte) bool{ingress.hop.Post, ingress.hop.Note} {
		before := ups.Load()
		if !send(owner.self, []byte("x")) {
			t.Fatal("there is no connection")
		}
		waitFor(t, "there is another connection", func() bool { return ups.Load() > before })
		if !send(owner.self, []byte("y")) {
			t.Fatal("there is no connection")
		}
	}
	waitFor(t, "the next ones arrive", func() bool { return controls.Load() == 2 && notes.Load() == 2 })
	close(hold)
	if r := mustEnd(t, under, 5*time.Second); r.Problem != "" {
		t.Errorf("under way: %s %s", r.Problem, r.Detail)
	}
	p.expect(t, 3)

	closed := make(chan bool, 1)
	owner.answer = func(in *Inbound) {
		in.Ticket.Done()
		in.RespondStream(&Response{Head: []byte("HTTP/1.1 200 OK\r\n\r\n")}, badReader{}, time.Now().Add(time.Minute), func(whole bool) {
			closed <- whole
			panic("closed")
		})
	}
	c := call(ingress, "order:2")
	if r := mustEnd(t, c, 5*time.Second); !r.Stream {
		t.Fatalf("no stream: %s", r.Problem)
	}
	body, err := ingress.hop.Fetch(c)
	if err == nil {
		_, err = io.ReadAll(body)
		body.Close() //nolint:errcheck // as it was read
	}
	if err == nil {
		t.Error("the response has ended well")
	}
	select {
	case whole := <-closed:
		if whole {
			t.Error("its reader's end is whole")
		}
	case <-time.After(5 * time.Second):
		t.Error("its reader is not closed")
	}
	waitFor(t, "both are logged", func() bool { return p.logged.Load() == 5 })
	owner.answer = nil
	mustAnswer(t, ingress, "order:3")
}

type badReader struct{}

func (badReader) Read([]byte) (int, error) { panic("bad reader") }

// badConn panics with its next write.
type badConn struct {
	net.Conn
	bad *atomic.Bool
}

func (c badConn) Write(b []byte) (int, error) {
	if c.bad.CompareAndSwap(true, false) {
		panic("bad conn")
	}
	return c.Conn.Write(b)
}

// TestPanicCostsItsSession panics in the hop itself, under its locks, with half a change
// done. What was under way is unknown, what waited leaves its lane, and the next requests
// are none the worse for it.
//
// Mutants: see mutants_test.go.
func TestPanicCostsItsSession(t *testing.T) {
	var bad atomic.Bool
	const worst = "owner reads, and cannot let go"
	session := func(owner *testNode) *hosted { return owner.hop.host.all()[0] }
	for name, c := range map[string]struct {
		spoil   func(ingress, owner *testNode)
		provoke bool // by another request
	}{
		"owner reads": {func(_, owner *testNode) {
			s := session(owner)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.session.moved = nil
			owner.lanes.Seal(1)
		}, true},
		worst: {func(_, owner *testNode) {
			s := session(owner)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.session.moved, s.session.open[1<<40] = nil, nil
			owner.lanes.Seal(1)
		}, true},
		"owner writes": {func(_, owner *testNode) {
			s := session(owner)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.session.unsent = -1
			s.write(nil)
		}, false},
		"ingress reads": {func(ingress, owner *testNode) {
			s := ingress.hop.stripes[0]
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.outbox.flows, 1)
		}, false},
		"ingress writes": {func(*testNode, *testNode) { bad.Store(true) }, true},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			ingress, owner, p := panicking(t, func(c *Config) {
				dial := c.Dial
				c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
					conn, err := dial(ctx, address)
					return badConn{conn, &bad}, err
				}
			})
			holds := make(chan struct{}, 10)
			owner.answer = func(in *Inbound) {
				<-holds
				in.Ticket.Done()
				in.Respond(&Response{Head: []byte("HTTP/1.1 200 OK\r\n\r\n"), Body: in.Key})
			}
			runs, waits := call(ingress, "order:1"), call(ingress, "order:1")
			waitFor(t, "one runs and one waits", func() bool {
				use := owner.lanes.InUse("order:")
				return use.Running == 1 && use.Waiting == 1
			})
			c.spoil(ingress, owner)
			calls := []*Call{runs, waits}
			if c.provoke {
				calls = append(calls, call(ingress, "order:9"))
			}
			if name == "ingress reads" {
				holds <- struct{}{}
			}
			for i, c := range calls {
				if r := mustEnd(t, c, 5*time.Second); r.Problem != PeerLost || r.Executed != Unknown {
					t.Errorf("under way %d: %q %v %s", i, r.Problem, r.Executed, r.Detail)
				}
			}
			if name == worst {
				p.expect(t, 2)
			} else {
				p.expect(t, 1)
				waitFor(t, "what waited has left", func() bool { return owner.lanes.InUse("order:").Waiting == 0 })
			}
			close(holds)
			waitFor(t, "the lanes are empty", func() bool { return owner.lanes.InUse("order:").Lanes == 0 })
			owner.lanes.Open(1)
			for range 3 {
				mustAnswer(t, ingress, "order:1")
			}
		})
	}
}
