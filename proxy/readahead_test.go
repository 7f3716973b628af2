package proxy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"
)

// socketPair is a clientConn and the other end of its socket.
func socketPair(t *testing.T) (*clientConn, *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	other, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); other.Close() })
	return newClientConn(conn).(*clientConn), other.(*net.TCPConn)
}

// Mutants: what was read ahead is given out twice, or its rest is lost; an empty
// buffer is kept.
func TestReadingAheadChangesNoByte(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 0))
		c, other := socketPair(t)
		sent := make([]byte, 100_000)
		for i := range sent {
			sent[i] = byte(random.Uint32())
		}
		go func(random *rand.Rand) {
			defer other.CloseWrite()
			for rest := sent; len(rest) > 0; {
				n := min(1+random.IntN(1<<random.IntN(15)), len(rest))
				other.Write(rest[:n])
				rest = rest[n:]
			}
		}(rand.New(rand.NewPCG(seed, 1)))
		var got []byte
		buffer := make([]byte, 16<<10)
		for {
			size := 1
			if random.IntN(2) == 0 {
				size = 1 + random.IntN(1<<random.IntN(15))
			}
			n, err := c.Read(buffer[:size])
			got = append(got, buffer[:n]...)
			if c.ahead != nil && c.from == c.to {
				t.Fatalf("seed %d: an empty buffer is kept", seed)
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || n == 0 {
				t.Fatalf("seed %d: Read = %d, %v", seed, n, err)
			}
		}
		if !bytes.Equal(got, sent) {
			t.Fatalf("seed %d: %d bytes came as %d others", seed, len(sent), len(got))
		}
		if n, err := c.Read(buffer[:1]); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("seed %d: behind the end: %d, %v", seed, n, err)
		}
	}
}

// Mutants: raw reads ignore deadlines, or those that were moved; a timeout is
// for ever.
func TestDeadlinesFireWhileReadingAhead(t *testing.T) {
	const short = 20 * time.Millisecond
	for _, size := range []int{1, 100} {
		c, other := socketPair(t)
		one := make([]byte, size)
		for name, set := range map[string]func(){
			"near":         func() { c.SetReadDeadline(time.Now().Add(short)) },
			"moved away":   func() { c.SetReadDeadline(time.Now().Add(short / 4)); c.SetReadDeadline(time.Now().Add(short)) },
			"moved nearer": func() { c.SetReadDeadline(time.Now().Add(time.Hour)); c.SetReadDeadline(time.Now().Add(short)) },
			"nearer meanwhile": func() {
				c.SetReadDeadline(time.Time{})
				time.AfterFunc(short, func() { c.SetReadDeadline(time.Now()) })
			},
		} {
			began := time.Now()
			set()
			n, err := c.Read(one)
			if took := time.Since(began); n != 0 || !isTimeout(err) || took < short || took > 50*short {
				t.Errorf("%s: Read of %d = %d, %v after %v", name, size, n, err, took)
			}
			if c.ahead != nil {
				t.Errorf("%s: a buffer is kept", name)
			}
			// It goes on as if nothing had been.
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(other, "x")
			if n, err := c.Read(one); n != 1 || err != nil || one[0] != 'x' {
				t.Errorf("%s: then Read = %d, %v", name, n, err)
			}
		}
	}
}

// Mutant: the buffer is taken before there is something to read.
func TestAnIdleConnectionHasNoBuffer(t *testing.T) {
	c, other := socketPair(t)
	type result struct {
		n   int
		err error
	}
	done := make(chan result)
	one := make([]byte, 1)
	go func() {
		n, err := c.Read(one)
		done <- result{n, err}
	}()
	for len(done) == 0 && c.read.armed.Load() == 0 { // it blocks: setting a deadline moves it
		c.SetReadDeadline(time.Now().Add(time.Minute))
	}
	io.WriteString(other, "GET")
	if r := <-done; r.n != 1 || r.err != nil || one[0] != 'G' || c.ahead == nil {
		t.Fatalf("Read = %+v, ahead %v", r, c.ahead != nil)
	}
	rest := make([]byte, 100)
	if n, err := c.Read(rest); n != 2 || err != nil || string(rest[:n]) != "ET" || c.ahead != nil {
		t.Errorf("Read = %d, %v, ahead %v", n, err, c.ahead != nil)
	}
}

// Mutants: a reset is an ordinary end; a closed connection blocks.
func TestTheEndsOfAConnectionReadAhead(t *testing.T) {
	one := make([]byte, 1)
	c, other := socketPair(t)
	other.SetLinger(0)
	other.Close()
	if n, err := c.Read(one); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %d, %v", n, err)
	}
	c, _ = socketPair(t)
	time.AfterFunc(10*time.Millisecond, func() { c.Close() })
	if n, err := c.Read(one); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed meanwhile: %d, %v", n, err)
	}
	c, other = socketPair(t)
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
	if _, err := other.Read(one); !errors.Is(err, io.EOF) {
		t.Errorf("the other side of a half: %v", err)
	}
	io.WriteString(other, "x")
	if n, err := c.Read(one); n != 1 || err != nil {
		t.Errorf("our side of a half: %d, %v", n, err)
	}
}
