package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// plainWire is a wire without TLS, and its other end.
func plainWire(t *testing.T) (w *wire, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); accepted.Close() })
	c, err := wrap(conn, nil, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	w = c.(*wire)
	w.SetDeadline(time.Now().Add(10 * time.Second)) // a test that would hang fails
	return w, accepted.(*net.TCPConn)
}

// A connection that has been idle carries a request only if nothing came of it since, and says
// so before a byte is sent. A new one may speak first.
//
// Mutants: nobody looks; the look is not at the end of a connection; new ones are looked at; what a
// new one has said is waited for.
func TestAskLooksAtIdleConnections(t *testing.T) {
	for name, c := range map[string]struct {
		does  func(far *net.TCPConn)
		stale bool
	}{
		"silent":      {func(far *net.TCPConn) { go io.Copy(far, far) }, false},
		"an answer":   {func(far *net.TCPConn) { io.WriteString(far, "HTTP/1.1 200 OK\r\n\r\n") }, true},
		"an end":      {func(far *net.TCPConn) { far.Close() }, true},
		"half an end": {func(far *net.TCPConn) { far.CloseWrite() }, true},
		"a reset":     {func(far *net.TCPConn) { far.SetLinger(0); far.Close() }, true},
	} {
		for _, idle := range []bool{true, false} {
			w, far := plainWire(t)
			c.does(far)
			if c.stale {
				readable(t, w)
			}
			w.unseen = idle
			began := time.Now()
			_, err := w.ask([]byte("request"), nil)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s, idle %t: it has waited for %v, and reading does not say why", name, idle, took)
			}
			if got, want := err == errStale, c.stale && idle; got != want {
				t.Errorf("%s, idle %t: %v", name, idle, err)
			}
			if name == "an answer" && !idle && err != nil {
				t.Errorf("a new connection that spoke first: %v", err)
			}
			if err == errStale && w.sent > 0 {
				t.Errorf("%s: %d bytes were sent", name, w.sent)
			}
			if err == nil && w.sent != len("request") {
				t.Errorf("%s, idle %t: %d bytes are counted", name, idle, w.sent)
			}
			if w.unseen {
				t.Errorf("%s: it is to be looked at again", name)
			}
		}
	}
	t.Run("closed here", func(t *testing.T) {
		w, _ := plainWire(t)
		w.Close()
		w.unseen = true
		if _, err := w.ask([]byte("request"), nil); err != errStale {
			t.Errorf("%v", err)
		}
	})
}

// Who asks and waits is not missed by an answer, however fast it is, and does not return
// before there is one. A deadline that passed while the connection was idle is not this request's.
//
// Mutants: what is written is written before the wait is announced; it does not wait; an old
// deadline ends the request.
func TestAskWaitsForTheAnswer(t *testing.T) {
	w, far := plainWire(t)
	go io.Copy(far, far)
	request, answer := []byte("ping"), make([]byte, 4)
	for range 3000 {
		w.unseen, w.sent = true, 0
		if _, err := w.ask(request, nil); err != nil {
			t.Fatal(err)
		}
		if w.silent() {
			t.Fatal("it came back before the answer")
		}
		if _, err := io.ReadFull(w, answer); err != nil || !bytes.Equal(answer, request) || w.sent != len(request) {
			t.Fatalf("%q, %v, %d sent", answer, err, w.sent)
		}
	}
	w.SetReadDeadline(time.Now().Add(time.Millisecond))
	time.Sleep(10 * time.Millisecond)
	w.SetReadDeadline(time.Now().Add(10 * time.Second))
	w.unseen = true
	if _, err := w.ask(request, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(w, answer); err != nil {
		t.Fatal(err)
	}
	w.SetReadDeadline(time.Now().Add(-time.Second))
	w.unseen = true
	if _, err := w.ask(request, nil); !isTimeout(err) { // another connection would not have more time
		t.Errorf("a deadline that has passed: %v", err)
	}
}

// A silent upstream's deadline is told by reading, as that of a connection that ends is.
// Mutant: the wait's own error is the request's.
func TestAskLeavesTheEndToReading(t *testing.T) {
	for name, ends := range map[string]func(w *wire, far *net.TCPConn){
		"a deadline": func(w *wire, _ *net.TCPConn) { w.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) },
		"an end":     func(_ *wire, far *net.TCPConn) { time.AfterFunc(20*time.Millisecond, func() { far.Close() }) },
		"a cut":      func(w *wire, _ *net.TCPConn) { time.AfterFunc(20*time.Millisecond, func() { w.Close() }) },
	} {
		w, far := plainWire(t)
		w.unseen = true
		ends(w, far)
		if _, err := w.ask([]byte("request"), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.Read(make([]byte, 1)); err == nil || name == "a deadline" && !isTimeout(err) || name == "a cut" && !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: reading tells %v", name, err)
		}
	}
}

// More than a socket holds is sent all the same, and counted: what does not go at once of the
// body is its caller's, of the head it is not.
//
// Mutants: what one write leaves is forgotten; the rest begins where the head does; a body is not
// written with its head.
func TestAskSendsMoreThanASocketHolds(t *testing.T) {
	const much = 16 << 20
	for name, c := range map[string]struct{ head, body int }{
		"a head": {much, 0}, "a head before a body": {much, 100}, "a body": {100, much}, "what goes at once": {100, 64 << 10},
	} {
		w, far := plainWire(t)
		request := make([]byte, c.head+c.body)
		for i := range request {
			request[i] = byte(i % 251)
		}
		sum := make(chan bool, 1)
		go func() {
			read := make([]byte, len(request))
			_, err := io.ReadFull(far, read)
			sum <- err == nil && bytes.Equal(read, request)
			io.WriteString(far, "x")
		}()
		w.unseen = true
		rest, err := w.ask(request[:c.head], request[c.head:])
		if err != nil || w.sent+len(rest) != len(request) {
			t.Fatalf("%s: %v, %d sent, %d left", name, err, w.sent, len(rest))
		}
		if c.head < much && w.sent <= c.head {
			t.Errorf("%s: the head went alone", name)
		}
		if c.head+c.body < much && len(rest) > 0 {
			t.Errorf("%s: %d bytes did not", name, len(rest))
		}
		if len(rest) > 0 {
			if _, err := w.Write(rest); err != nil {
				t.Fatal(err)
			}
		}
		if !<-sum {
			t.Errorf("%s: something else arrived", name)
		}
	}
}
