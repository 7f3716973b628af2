package proxy

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"
)

// countingConn counts how often its deadlines are set.
type countingConn struct {
	net.Conn
	reads, writes int
}

func (c *countingConn) SetReadDeadline(t time.Time) error {
	c.reads++
	return c.Conn.SetReadDeadline(t)
}
func (c *countingConn) SetWriteDeadline(t time.Time) error {
	c.writes++
	return c.Conn.SetWriteDeadline(t)
}

func newPatientPair() (*patientConn, *countingConn, net.Conn) {
	pipe := fasthttputil.NewPipeConns()
	counting := &countingConn{Conn: pipe.Conn1()}
	c := new(patientConn)
	c.init(counting)
	return c, counting, pipe.Conn2()
}

// Mutants: move never arms; a premature expiry is reported; a later deadline
// replaces nothing and the read ends early.
func TestLazyDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, counting, other := newPatientPair()
		defer other.Close()
		began := time.Now()
		for i := range 1000 { // as keep-alive requests do
			c.SetReadDeadline(began.Add(time.Minute + time.Duration(i)*time.Second))
			c.SetReadDeadline(began.Add(10*time.Second + time.Duration(i)*time.Second))
		}
		if counting.reads > 2 {
			t.Errorf("armed %d times", counting.reads)
		}
		if _, err := c.Read(make([]byte, 1)); !isTimeout(err) || time.Since(began) != 1009*time.Second {
			t.Errorf("Read = %v after %v, want the last deadline", err, time.Since(began))
		}
		if _, err := c.Read(make([]byte, 1)); !isTimeout(err) || time.Since(began) != 1009*time.Second {
			t.Errorf("Read past its deadline = %v after %v", err, time.Since(began))
		}
		c.SetDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); !isTimeout(err) || time.Since(began) != 1010*time.Second {
			t.Errorf("Read = %v after %v, want a deadline set anew", err, time.Since(began))
		}
	})
}

func TestADeadlineCanBeMovedUnderAReader(t *testing.T) {
	for name, move := range map[string]func(c *patientConn){
		"nearer": func(c *patientConn) { c.SetReadDeadline(time.Now().Add(time.Second)) },
		"away, and nearer again": func(c *patientConn) {
			c.SetReadDeadline(time.Time{})
			time.Sleep(time.Hour)
			c.SetReadDeadline(time.Now().Add(time.Second))
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, _, other := newPatientPair()
			defer other.Close()
			c.SetReadDeadline(time.Now().Add(time.Minute))
			var ended time.Time
			var err error
			var wg sync.WaitGroup
			wg.Go(func() {
				_, err = c.Read(make([]byte, 1))
				ended = time.Now()
			})
			synctest.Wait()
			move(c)
			moved := time.Now()
			wg.Wait()
			if !isTimeout(err) || ended.Sub(moved) != time.Second {
				t.Errorf("%s: Read = %v, %v after the move", name, err, ended.Sub(moved))
			}
		})
	}
}

func TestWritesGoOnPastAPrematureExpiry(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	c := new(patientConn)
	c.init(raw)
	defer c.Close()
	const size = 32 << 20 // more than the sockets hold
	c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	c.SetWriteDeadline(time.Now().Add(time.Minute))
	done := make(chan int)
	go func() {
		buffer, total := make([]byte, 64<<10), 0
		for begun := time.Now(); total < size; {
			if total == 0 && time.Since(begun) < 100*time.Millisecond {
				<-time.After(150 * time.Millisecond) // the armed deadline expires while the writer is blocked
			}
			n, err := other.Read(buffer)
			if total += n; err != nil {
				break
			}
		}
		done <- total
	}()
	if n, err := c.Write(make([]byte, size)); n != size || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
	if total := <-done; total != size {
		t.Errorf("%d bytes arrived, want %d", total, size)
	}
}
