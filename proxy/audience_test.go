package proxy

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// sockets are the two ends of a connection.
func sockets(t *testing.T) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if far, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// TestAudience: a stream whose client has gone ends though its upstream says nothing; one
// that has something to say goes on, and a connection that is given back is left alone.
// Mutants: it never looks; it looks at the client alone; extend moves what has ended; end
// does not stop it.
func TestAudience(t *testing.T) {
	begin := func(t *testing.T) (l *audience, client net.Conn, w *wire, service net.Conn) {
		near, client := sockets(t)
		up, service := sockets(t)
		conn, err := wrap(up, nil, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		w = conn.(*wire)
		l = listenFor(near, w)
		t.Cleanup(l.end)
		return l, client, w, service
	}
	t.Run("a client that has gone", func(t *testing.T) {
		l, client, w, _ := begin(t)
		l.extend(w, time.Now().Add(time.Minute))
		client.Close()
		if n, err := w.Read(make([]byte, 1)); n > 0 || !isTimeout(err) {
			t.Errorf("%d, %v", n, err)
		}
	})
	t.Run("a client that has gone between two reads", func(t *testing.T) {
		l, client, w, _ := begin(t)
		client.Close()
		l.mu.Lock()
		for began := time.Now(); !l.gone && time.Since(began) < 10*firstLook; l.mu.Lock() {
			l.mu.Unlock()
			runtime.Gosched()
		}
		l.mu.Unlock()
		began := time.Now()
		l.extend(w, began.Add(4*firstLook))
		if n, err := w.Read(make([]byte, 1)); n > 0 || !isTimeout(err) || time.Since(began) > 2*firstLook {
			t.Errorf("%d, %v after %v", n, err, time.Since(began))
		}
	})
	t.Run("a client that has ended its half", func(t *testing.T) {
		l, client, w, service := begin(t)
		client.(*net.TCPConn).CloseWrite() //nolint:errcheck // the test fails
		for began := time.Now(); time.Since(began) < 4*firstLook; {
			if _, err := service.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(w, make([]byte, 1)); err != nil {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
			l.hears()
		}
	})
	t.Run("a connection that is another's", func(t *testing.T) {
		l, client, w, service := begin(t)
		l.end()
		client.Close()
		later := time.AfterFunc(2*firstLook, func() { service.Write([]byte("x")) })
		defer later.Stop()
		if _, err := io.ReadFull(w, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	})
}
