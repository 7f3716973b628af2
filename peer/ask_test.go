package peer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lanekeeper/ring"
)

// askers are two nodes, of which b answers as the test says.
func askers(t *testing.T, answer func(ctx context.Context, from ring.Member, a *Ask) *Told) (a, b *testNode) {
	t.Helper()
	return pair(t, func(c *Config) { c.Answer = answer })
}

// A question and its answer arrive byte for byte, with the name of who asks; and the connection is
// used again.
//
// Mutants seen red: the connection is not kept; the body of a question is not sent.
func TestQuestionsAreAnswered(t *testing.T) {
	a, b := askers(t, func(_ context.Context, from ring.Member, q *Ask) *Told {
		return &Told{Status: 202, Type: "text/plain", Body: fmt.Appendf(nil, "%s: %s %s %s", from.Name, q.Method, q.Target, q.Body)}
	})
	want := "a: GET /x?node=b body"
	for range 3 {
		told, err := a.hop.Ask(t.Context(), b.self, &Ask{Method: "GET", Target: "/x?node=b", Body: []byte("body")})
		if err != nil || told.Status != 202 || told.Type != "text/plain" || string(told.Body) != want {
			t.Fatalf("%v %+v", err, told)
		}
	}
	idle := a.hop.peer(b.self)
	idle.asks.mu.Lock()
	defer idle.asks.mu.Unlock()
	if n := len(idle.asks.idle); n != 1 {
		t.Errorf("%d connections after three questions, one after the other", n)
	}
}

// Who cannot be asked is told apart from who does not answer.
//
// Mutants seen red: the version of the reply is not looked at; ctx does not end a wait; the length of an
// answer is not looked at.
func TestWhyNobodyAnswers(t *testing.T) {
	gate := make(chan struct{})
	a, b := askers(t, func(ctx context.Context, _ ring.Member, q *Ask) *Told {
		switch q.Target {
		case "/slow":
			<-gate
		case "/large":
			return &Told{Status: 200, Body: make([]byte, toldBodyMax)}
		case "/larger":
			return &Told{Status: 200, Body: make([]byte, toldBodyMax+1)}
		}
		return &Told{Status: 200}
	})
	defer close(gate)
	ask := func(to ring.Member, target string) (*Told, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if target == "/slow" {
			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		}
		defer cancel()
		return a.hop.Ask(ctx, to, &Ask{Method: "GET", Target: target})
	}
	if _, err := ask(ring.Member{Name: "z"}, "/"); !errors.Is(err, ErrNoMember) {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := ask(b.self, "/"+strings.Repeat("x", askMax)); !errors.Is(err, ErrLargeAsk) {
		t.Errorf("a large question: %v", err)
	}
	if _, err := ask(b.self, "/slow"); !errors.Is(err, ErrSilent) {
		t.Errorf("a slow one: %v", err)
	}
	if told, err := ask(b.self, "/large"); err != nil || len(told.Body) != toldBodyMax {
		t.Errorf("the largest answer: %v", err)
	}
	if told, err := ask(b.self, "/larger"); err != nil || told.Status != 507 || len(told.Body) > 100 {
		t.Errorf("a larger one: %v %+v", err, told)
	}
	old, of := pair(t, func(c *Config) {
		if c.Self.Name == "b" {
			c.versions = versions{1, 1}
		}
	})
	if _, err := old.hop.Ask(t.Context(), of.self, &Ask{Method: "GET", Target: "/"}); !errors.Is(err, ErrOlder) {
		t.Errorf("a member of an older version: %v", err)
	}
}

// A member answers a few questions at once, and says so to the others; and none of them delays a request.
//
// Mutants seen red: there is no bound.
func TestQuestionsAreBounded(t *testing.T) {
	gate, begun := make(chan struct{}), make(chan struct{}, asksMax)
	a, b := askers(t, func(_ context.Context, _ ring.Member, q *Ask) *Told {
		begun <- struct{}{}
		<-gate
		return &Told{Status: 200, Body: bytes.Repeat([]byte("x"), toldBodyMax)}
	})
	var wg sync.WaitGroup
	var answered atomic.Int32
	for range tellsMax {
		wg.Go(func() {
			if told, err := a.hop.Ask(t.Context(), b.self, &Ask{Method: "GET", Target: "/"}); err == nil && told.Status == 200 {
				answered.Add(1)
			}
		})
	}
	for range tellsMax {
		<-begun
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if told, err := a.hop.Ask(ctx, b.self, &Ask{Method: "GET", Target: "/"}); err != nil || told.Status != 503 {
		t.Errorf("one too many: %v %+v", err, told)
	}
	call := NewCall(0, noLocal{}, testRequest("k", 10), time.Now().Add(time.Minute))
	a.hop.Send(call)
	if !call.Wait(time.Now().Add(5 * time.Second)) {
		t.Error("a request waits for questions")
	}
	close(gate)
	wg.Wait()
	if n := answered.Load(); n != tellsMax {
		t.Errorf("%d of %d are answered", n, tellsMax)
	}
}

// A question that changes something is not put twice: who asks does not know what the first one did.
//
// Mutant seen red: anything is asked by an idle connection, and again by a new one.
func TestChangesAreNotAskedTwice(t *testing.T) {
	var asked atomic.Int32
	a, b := askers(t, func(context.Context, ring.Member, *Ask) *Told {
		asked.Add(1)
		return &Told{Status: 200}
	})
	if _, err := a.hop.Ask(t.Context(), b.self, &Ask{Method: "GET", Target: "/"}); err != nil {
		t.Fatal(err)
	}
	p := a.hop.peer(b.self)
	p.asks.drain()
	breaks := func() {
		client, server := net.Pipe()
		p.asks.put(&bulkConn{Conn: client, in: bufio.NewReader(client)})
		go func() { // ends with the question, or the pool
			defer server.Close()
			if _, _, err := readFrame(bufio.NewReader(server), askMax); err == nil {
				asked.Add(1)
			}
		}()
	}
	breaks()
	if _, err := a.hop.Ask(t.Context(), b.self, &Ask{Method: "GET", Target: "/"}); err != nil || asked.Load() != 3 {
		t.Errorf("a question, by a connection that breaks: %v, asked %d times", err, asked.Load())
	}
	breaks()
	if _, err := a.hop.Ask(t.Context(), b.self, &Ask{Method: "POST", Target: "/"}); err != nil || asked.Load() != 4 {
		t.Errorf("a change, with such a connection beside it: %v, asked %d times", err, asked.Load())
	}
}
