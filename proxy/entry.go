package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"lanekeeper/proxy/screen"
)

// entry is what each client's connection has besides its bytes: the screen that they
// pass before fasthttp sees them, which takes for a request what can be read in other
// ways too.
type entry struct {
	screen  screen.Screen
	touched atomic.Bool // the client has sent a byte
	unread  atomic.Bool // it may be sending what nobody will read
	leave   func()      // at the first Close; nil: another's entry is on top of this
	left    sync.Once
}

// touch notes that the client has sent something, with every request.
func (e *entry) touch() {
	if !e.touched.Load() {
		e.touched.Store(true)
	}
}

// entered is a connection with an entry.
type entered interface {
	net.Conn
	entry() *entry
}

// admit puts the screen on top of a connection, whatever is spoken below HTTP.
func (p *Proxy) admit(conn net.Conn, leave func()) net.Conn {
	var c entered
	switch conn := conn.(type) {
	case *clientConn:
		c = conn
	case *tls.Conn:
		c = &tlsEntry{Conn: conn} // embedded, for who asks whether it is one
	default:
		c = &plainEntry{Conn: conn}
	}
	e := c.entry()
	e.screen.Init(&p.limits)
	e.leave = leave
	return c
}

// entryOf is the entry of a client's connection as fasthttp gives it to handlers.
func entryOf(conn net.Conn) *entry {
	if c, ok := conn.(entered); ok {
		return c.entry()
	}
	return nil // of a request that came by a peer
}

// pass screens what was read into b[:n].
func (e *entry) pass(b []byte, err error) (int, error) {
	n := e.screen.Pass(b)
	if refusal := e.screen.Refusal(); refusal != nil {
		if err = nil; n == 0 {
			err = refusal
		}
	}
	return n, err
}

// Clients that are still sending have so long to read their answer, and may send so
// much meanwhile.
const (
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

// close ends conn, which is e's without its screen. A connection that is closed with
// unread bytes is reset, and the answer on its way with it. So one that was answered
// early gets an end to that answer first, and what it still sends is read.
func (e *entry) close(conn net.Conn) error {
	if e.leave != nil {
		defer e.left.Do(e.leave)
	}
	if e.unread.CompareAndSwap(true, false) && endHalf(conn) {
		conn.SetReadDeadline(time.Now().Add(lingerTime)) //nolint:errcheck // a dead connection fails the read
		io.CopyN(io.Discard, conn, lingerBytes)          //nolint:errcheck // best effort, and only until the deadline
	}
	return conn.Close()
}

// plainEntry is a connection that is no socket of its own.
type plainEntry struct {
	net.Conn
	entrance entry
}

func (c *plainEntry) entry() *entry { return &c.entrance }

// NetConn is the connection below.
func (c *plainEntry) NetConn() net.Conn { return c.Conn }

func (c *plainEntry) Read(b []byte) (int, error) { return screened(c.Conn, &c.entrance, b) }

// CloseWrite ends our half of the connection.
func (c *plainEntry) CloseWrite() error { return closeWrite(c.Conn) }

func (c *plainEntry) Close() error { return c.entrance.close(c.Conn) }

// tlsEntry is a connection over TLS.
type tlsEntry struct {
	*tls.Conn
	entrance entry
}

func (c *tlsEntry) entry() *entry { return &c.entrance }

func (c *tlsEntry) Read(b []byte) (int, error) { return screened(c.Conn, &c.entrance, b) }

func (c *tlsEntry) Close() error { return c.entrance.close(c.Conn) }

func screened(conn net.Conn, e *entry, b []byte) (int, error) {
	if refusal := e.screen.Refusal(); refusal != nil {
		return 0, refusal
	}
	n, err := conn.Read(b)
	return e.pass(b[:n], err)
}

// crowd counts connections by the address that they come from.
type crowd struct {
	max int // 0: no limit

	mu    sync.Mutex // guards count
	count map[netip.Addr]int
}

// join reports whether there is room for one more, and then how it leaves.
// Connections without an address are not counted.
func (c *crowd) join(remote net.Addr) (leave func(), ok bool) {
	tcp, isTCP := remote.(*net.TCPAddr)
	if c.max == 0 || !isTCP {
		return func() {}, true
	}
	address := addrOf(tcp)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count[address] >= c.max {
		return nil, false
	}
	c.count[address]++
	return func() { c.remove(address) }, true
}

func (c *crowd) remove(address netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count[address]--; c.count[address] == 0 {
		delete(c.count, address)
	}
}
