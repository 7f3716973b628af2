package membertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const (
	alice = "10.0.0.1"
	bob   = "10.0.0.2"
)

// connected returns both ends of a stream from alice to bob.
func connected(t *testing.T, n *Network) (a, b *conn) {
	t.Helper()
	l, err := n.Listen(bob + ":80")
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Dial(t.Context(), alice, bob+":80")
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		accepted.Close()
		l.Close()
		if left := n.Streams(); left != 0 {
			t.Errorf("%d streams left", left)
		}
	})
	return c.(*conn), accepted.(*conn)
}

func bubble(t *testing.T, test func(t *testing.T, n *Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, New(1)) })
}

// TestStreamsCarryEverythingInOrder sends random pieces both ways over a bad
// link, with pauses, deadlines that pass, and a cut that heals.
//
// Mutants: a segment arrives without regard to the one before it; a cut one is
// not sent again; an acknowledgement that was stuck stays so.
func TestStreamsCarryEverythingInOrder(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			n := New(seed)
			n.StreamBuffer = 1 << 10
			n.SetLink(Link{Delay: 5 * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.05})
			a, b := connected(t, n)
			var wg sync.WaitGroup
			for i, pair := range [][2]*conn{{a, b}, {b, a}} {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				sent := make([]byte, 20000)
				for i := range sent {
					sent[i] = byte(rng.Uint32())
				}
				wg.Go(func() {
					for rest := sent; len(rest) > 0; {
						k := min(len(rest), 1+rng.IntN(3000))
						if _, err := pair[0].Write(rest[:k]); err != nil {
							t.Errorf("write: %v", err)
							return
						}
						rest = rest[k:]
						time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
					}
					pair[0].CloseWrite()
				})
				wg.Go(func() {
					if got := readAll(t, pair[1]); !bytes.Equal(got, sent) {
						t.Errorf("%d bytes came, not the %d that were sent", len(got), len(sent))
					}
				})
			}
			wg.Go(func() {
				for range 5 {
					time.Sleep(200 * time.Millisecond)
					n.Cut(alice, bob)
					time.Sleep(300 * time.Millisecond)
					n.Heal()
				}
			})
			wg.Wait()
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// readAll reads to the end, in spite of deadlines.
func readAll(t *testing.T, c *conn) []byte {
	var all []byte
	piece := make([]byte, 700)
	for {
		c.SetReadDeadline(time.Now().Add(17 * time.Millisecond))
		k, err := c.Read(piece)
		all = append(all, piece[:k]...)
		switch {
		case errors.Is(err, io.EOF):
			return all
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			t.Errorf("read: %v", err)
			return all
		}
	}
}

func TestDelayIsTheLinks(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetLink(Link{Delay: 10 * time.Millisecond})
		started := time.Now()
		a, b := connected(t, n)
		if took := time.Since(started); took != 20*time.Millisecond {
			t.Errorf("a connect took %v, want a round trip of 20ms", took)
		}
		started = time.Now()
		a.Write([]byte("x"))
		b.Read(make([]byte, 1))
		if took := time.Since(started); took != 10*time.Millisecond {
			t.Errorf("a byte took %v, want 10ms", took)
		}
		b.Write([]byte("y"))
		a.SetReadDeadline(time.Now().Add(9 * time.Millisecond))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after 9ms of 10: %v, want a timeout", err)
		}
		a.SetReadDeadline(time.Now().Add(time.Millisecond + time.Nanosecond))
		if _, err := a.Read(make([]byte, 1)); err != nil {
			t.Errorf("after 10ms of 10: %v", err)
		}
	})
}

func TestWriteBlocksAtTheBuffer(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.StreamBuffer = 1000
		a, b := connected(t, n)
		a.SetWriteDeadline(time.Now().Add(time.Second))
		k, err := a.Write(make([]byte, 1500))
		if k != 1000 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Write = %d, %v; want 1000 and a timeout", k, err)
		}
		io.ReadFull(b, make([]byte, 400))
		a.SetWriteDeadline(time.Now().Add(time.Second))
		if k, _ := a.Write(make([]byte, 1500)); k != 400 {
			t.Fatalf("Write = %d after 400 were read", k)
		}
	})
}

func TestEnds(t *testing.T) {
	read := func(c *conn) error {
		_, err := c.Read(make([]byte, 100))
		return err
	}
	write := func(c *conn) error {
		_, err := c.Write([]byte("x"))
		return err
	}
	for _, test := range []struct {
		name string
		do   func(n *Network, a, b *conn) // then 1 s passes
		want func(a, b *conn) error
		err  error
	}{
		{"close: the rest is read", func(_ *Network, a, b *conn) { a.Write([]byte("rest")); a.Close() },
			func(_, b *conn) error { return read(b) }, nil},
		{"close: then the end", func(_ *Network, a, b *conn) { a.Close() },
			func(_, b *conn) error { return read(b) }, io.EOF},
		{"close: own reads", func(_ *Network, a, b *conn) { a.Close() },
			func(a, _ *conn) error { return read(a) }, net.ErrClosed},
		{"close: own writes", func(_ *Network, a, b *conn) { a.Close() },
			func(a, _ *conn) error { return write(a) }, net.ErrClosed},
		{"half close: own writes", func(_ *Network, a, b *conn) { a.CloseWrite() },
			func(a, _ *conn) error { return write(a) }, syscall.EPIPE},
		{"half close: the other way stays open", func(_ *Network, a, b *conn) { a.CloseWrite(); write(b) },
			func(a, _ *conn) error { return read(a) }, nil},
		{"unread input makes close a reset", func(_ *Network, a, b *conn) { write(b); time.Sleep(time.Second); a.Close() },
			func(_, b *conn) error { return read(b) }, syscall.ECONNRESET},
		{"and drops what was written before", func(_ *Network, a, b *conn) { write(b); write(a); time.Sleep(time.Second); a.Close() },
			func(_, b *conn) error { return read(b) }, syscall.ECONNRESET},
		{"input still on the way does too", func(_ *Network, a, b *conn) { write(b); a.Close() },
			func(_, b *conn) error { return read(b) }, syscall.ECONNRESET},
		{"linger 0", func(_ *Network, a, b *conn) { a.SetLinger(0); a.Close() },
			func(_, b *conn) error { return read(b) }, syscall.ECONNRESET},
		{"a write to who has closed is answered with a reset", func(_ *Network, a, b *conn) { a.Close(); time.Sleep(time.Second); write(b) },
			func(_, b *conn) error { return write(b) }, syscall.ECONNRESET},
		{"Reset", func(n *Network, a, b *conn) { n.Reset(bob, alice) },
			func(a, _ *conn) error { return read(a) }, syscall.ECONNRESET},
		{"Kill ends the others' streams", func(n *Network, a, b *conn) { n.Kill(alice) },
			func(_, b *conn) error { return read(b) }, io.EOF},
		{"Kill with unread input resets them", func(n *Network, a, b *conn) { write(b); time.Sleep(time.Second); n.Kill(alice) },
			func(_, b *conn) error { return read(b) }, syscall.ECONNRESET},
		{"Kill ends its own calls", func(n *Network, a, b *conn) { n.Kill(alice) },
			func(a, _ *conn) error { return read(a) }, net.ErrClosed},
		{"Unplug ends its own calls", func(n *Network, a, b *conn) { n.Unplug(alice) },
			func(a, _ *conn) error { return write(a) }, net.ErrClosed},
		{"a cut outlasts the stream", func(n *Network, a, b *conn) { n.Cut(alice, bob); time.Sleep(n.StreamTimeout) },
			func(_, b *conn) error { return read(b) }, syscall.ETIMEDOUT},
		{"a machine that is gone, too", func(n *Network, a, b *conn) { n.Unplug(alice); time.Sleep(n.StreamTimeout) },
			func(_, b *conn) error { return read(b) }, syscall.ETIMEDOUT},
		{"a machine that is back knows no stream", func(n *Network, a, b *conn) { n.Unplug(alice); n.Boot(alice); write(b) },
			func(_, b *conn) error { return read(b) }, syscall.ECONNRESET},
		{"nor what was sent to it meanwhile", func(n *Network, a, b *conn) { n.Unplug(alice); write(b); time.Sleep(time.Second); n.Boot(alice) },
			func(_, b *conn) error { return read(b) }, syscall.ECONNRESET},
		{"and a silent stream ends by keep-alive", func(n *Network, a, b *conn) { n.Unplug(alice); n.Boot(alice); time.Sleep(keepAlive) },
			func(_, b *conn) error { return read(b) }, syscall.ECONNRESET},
		{"a close behind a cut arrives when it heals", func(n *Network, a, b *conn) { n.Cut(alice, bob); a.Close(); time.Sleep(time.Minute); n.Heal() },
			func(_, b *conn) error { return read(b) }, io.EOF},
		{"what stalled on its way to who has closed is answered", func(n *Network, a, b *conn) { n.Cut(bob, alice); write(b); a.Close(); n.Heal() },
			func(_, b *conn) error { return write(b) }, syscall.ECONNRESET},
	} {
		bubble(t, func(t *testing.T, n *Network) {
			n.SetLink(Link{Delay: 10 * time.Millisecond})
			a, b := connected(t, n)
			test.do(n, a, b)
			time.Sleep(time.Second)
			a.SetDeadline(time.Now().Add(time.Second))
			b.SetDeadline(time.Now().Add(time.Second))
			if err := test.want(a, b); !errors.Is(err, test.err) {
				t.Errorf("%s: %v, want %v", test.name, err, test.err)
			}
		})
	}
}

// TestSilence: a cut or unplugged link says nothing for a long time.
func TestSilence(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(n *Network)
	}{
		{"cut there", func(n *Network) { n.Cut(bob, alice) }},
		{"cut back", func(n *Network) { n.Cut(alice, bob) }},
		{"unplugged", func(n *Network) { n.Unplug(bob) }},
	} {
		bubble(t, func(t *testing.T, n *Network) {
			a, _ := connected(t, n)
			test.do(n)
			a.SetDeadline(time.Now().Add(time.Minute))
			if _, err := a.Write(make([]byte, 2*n.StreamBuffer)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: Write: %v, want silence", test.name, err)
			}
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: Read: %v, want silence", test.name, err)
			}
		})
	}
}

func TestDial(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(n *Network)
		took time.Duration
		err  error
	}{
		{"nothing listens", func(n *Network) { n.Boot(bob) }, 20 * time.Millisecond, syscall.ECONNREFUSED},
		{"killed", func(n *Network) { n.Kill(bob) }, 20 * time.Millisecond, syscall.ECONNREFUSED},
		{"no such host", func(*Network) {}, 10 * time.Second, os.ErrDeadlineExceeded},
		{"unplugged", func(n *Network) { n.Unplug(bob) }, 10 * time.Second, os.ErrDeadlineExceeded},
		{"cut there", func(n *Network) { n.Cut(alice, bob) }, 10 * time.Second, os.ErrDeadlineExceeded},
		{"cut back", func(n *Network) { n.Cut(bob, alice) }, 10 * time.Second, os.ErrDeadlineExceeded},
		{"firewalled", func(n *Network) { n.Boot(bob); n.SetLinkFrom(bob, alice, Link{NoStreams: true}) }, 10 * time.Second, os.ErrDeadlineExceeded},
		{"the dead do not dial", func(n *Network) { n.Kill(alice) }, 0, syscall.ENETUNREACH},
		{"heals in time", func(n *Network) {
			n.Listen(bob + ":80")
			n.Cut(alice, bob)
			time.AfterFunc(2500*time.Millisecond, n.Heal)
		}, 3*time.Second + 20*time.Millisecond, nil},
	} {
		bubble(t, func(t *testing.T, n *Network) {
			n.SetLink(Link{Delay: 10 * time.Millisecond})
			test.do(n)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			started := time.Now()
			c, err := n.Dial(ctx, alice, bob+":80")
			if took := time.Since(started); !errors.Is(err, test.err) || took != test.took {
				t.Errorf("%s: %v after %v, want %v after %v", test.name, err, took, test.err, test.took)
			}
			if err == nil {
				c.Close()
			}
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() != errors.Is(test.err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v is a timeout: %v", test.name, err, timeout.Timeout())
			}
		})
	}
}

func TestListenerClose(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		l, err := n.Listen(bob + ":80")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen(bob + ":80"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("the same address again: %v", err)
		}
		c, err := n.Dial(t.Context(), alice, bob+":80")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		l.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a stream nobody accepted: %v, want a reset", err)
		}
		c.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
		if l, err = n.Listen(bob + ":80"); err != nil {
			t.Errorf("the address after Close: %v", err)
		}
		l.Close()
	})
}

func TestBacklogIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		l, _ := n.Listen(bob + ":80")
		defer l.Close()
		for i := range backlog + 1 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			c, err := n.Dial(ctx, alice, bob+":80")
			cancel()
			if (err == nil) != (i < backlog) {
				t.Fatalf("connect %d: %v", i, err)
			}
			if err == nil {
				defer c.Close()
			}
		}
	})
}

// TestSeedDecides: the same seed loses the same packets.
func TestSeedDecides(t *testing.T) {
	run := func(t *testing.T, seed uint64) (history string) {
		synctest.Test(t, func(t *testing.T) {
			n := New(seed)
			n.SetLink(Link{Delay: time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.2, Duplicate: 0.2})
			a, _ := n.Transport(alice + ":7943")
			b, _ := n.Transport(bob + ":7943")
			started := time.Now()
			for i := range 50 {
				a.WriteTo([]byte{byte(i)}, bob+":7943")
			}
			time.Sleep(time.Second)
			for len(b.packets) > 0 {
				p := <-b.packets
				history += fmt.Sprint(p.Buf[0], "@", p.Timestamp.Sub(started), " ")
			}
			a.Shutdown()
			b.Shutdown()
		})
		return history
	}
	first := run(t, 1)
	if again := run(t, 1); again != first {
		t.Errorf("seed 1 twice:\n%s\n%s", first, again)
	}
	if other := run(t, 2); other == first {
		t.Errorf("seeds 1 and 2 do the same: %s", first)
	}
}

func TestPackets(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		a, _ := n.Transport(alice + ":7943")
		b, _ := n.Transport(bob + ":7943")
		defer a.Shutdown()
		defer b.Shutdown()
		send := func() int {
			a.WriteTo([]byte("x"), bob+":7943")
			got := len(b.packets)
			for len(b.packets) > 0 {
				<-b.packets
			}
			return got
		}
		for _, step := range []struct {
			name string
			do   func()
			want int
		}{
			{"open", func() {}, 1},
			{"cut the other way", func() { n.Cut(bob, alice) }, 1},
			{"cut", func() { n.Cut(alice, bob) }, 0},
			{"mended", func() { n.Mend(alice, bob) }, 1},
			{"split", func() { n.Split([]string{alice}, []string{bob}) }, 0},
			{"healed", n.Heal, 1},
			{"lossy", func() { n.SetLink(Link{Loss: 1}) }, 0},
			{"firewalled", func() { n.SetLink(Link{NoPackets: true}) }, 0},
			{"firewalled for streams", func() { n.SetLink(Link{NoStreams: true}) }, 1},
			{"doubled", func() { n.SetLink(Link{Duplicate: 1}) }, 2},
			{"perfect", func() { n.SetLink(Link{}) }, 1},
		} {
			step.do()
			if got := send(); got != step.want {
				t.Errorf("%s: %d packets came, want %d", step.name, got, step.want)
			}
		}
		for range 2 * packetQueue { // nobody reads, and nothing blocks
			b.WriteTo([]byte("x"), alice+":7943")
		}
		n.Unplug(bob)
		if got := send(); got != 0 {
			t.Errorf("unplugged: %d packets came", got)
		}
		n.Kill(alice)
		if _, err := a.WriteTo([]byte("x"), bob+":7943"); err == nil {
			t.Error("a dead process sends")
		}
	})
}
