//go:build linux

package main

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
)

// liar stands between a witness and its callers. While it lies, a share of requests never
// reaches the witness, or its answer never comes back as it was given: what ran, the
// witness knows all the same.
type liar struct {
	net.Listener
	share *atomic.Int64 // of requests, in thousandths, that are lied about
	told  *lies
}

// lies counts them by kind.
type lies struct {
	mu   sync.Mutex // guards told
	told map[string]int
}

func (l *lies) count(kind string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told[kind]++
}

var (
	liesBefore = []string{"closed, not run", "nonsense, not run", "reset, not run"}
	liesAfter  = []string{"closed after it ran", "cut off after it ran", "nonsense after it ran", "reset after it ran"}
	errLie     = errors.New("a lie was told instead")
)

const nonsense = "HTTP/1.1 2x0 Perhaps\r\nContent-Length: -7\r\n\r\n"

// Accept implements net.Listener.
func (l *liar) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &lyingConn{Conn: conn, liar: l}, nil
}

// lyingConn is used by one goroutine. lanekeeper sends nothing before it has its answer,
// so what is read after something was written begins a request.
type lyingConn struct {
	net.Conn
	liar   *liar
	inside bool   // a request has begun
	lie    string // about its answer
}

func (c *lyingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n == 0 || c.inside {
		return n, err
	}
	c.inside, c.lie = true, ""
	share := c.liar.share.Load()
	if share == 0 || rand.Int64N(1000) >= share {
		return n, err
	}
	if rand.IntN(2) == 0 {
		c.lie = liesAfter[rand.IntN(len(liesAfter))]
		return n, err
	}
	lie := liesBefore[rand.IntN(len(liesBefore))]
	c.liar.told.count(lie)
	switch lie {
	case "nonsense, not run":
		io.WriteString(c.Conn, nonsense) //nolint:errcheck // whoever hung up is spared the lie
	case "reset, not run":
		c.reset()
	}
	c.Conn.Close()
	return 0, io.EOF
}

func (c *lyingConn) Write(p []byte) (int, error) {
	c.inside = false
	if c.lie == "" {
		return c.Conn.Write(p)
	}
	c.liar.told.count(c.lie)
	switch c.lie {
	case "cut off after it ran":
		c.Conn.Write(p[:len(p)-2]) //nolint:errcheck // whoever hung up is spared the lie
	case "nonsense after it ran":
		io.WriteString(c.Conn, nonsense) //nolint:errcheck // whoever hung up is spared the lie
	case "reset after it ran":
		c.reset()
	}
	c.Conn.Close()
	return 0, errLie
}

// reset has Close send RST.
func (c *lyingConn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0) //nolint:errcheck // then it is a FIN
	}
}
