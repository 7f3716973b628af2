package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// clientConn spares a system call per request. Between two requests fasthttp
// reads a single byte, so that an idle connection needs no buffer, and then
// reads again; a clientConn reads for that byte all that is there, into a buffer
// that it has only while there are bytes in it.
type clientConn struct {
	patientConn
	entrance entry
	raw      syscall.RawConn
	ready    func(fd uintptr) (done bool)

	ahead *[aheadBytes]byte // nil, or what was read ahead: ahead[from:to]
	from  int
	to    int
	err   error // of the read
}

const aheadBytes = 4 << 10

var aheads = sync.Pool{New: func() any { return new([aheadBytes]byte) }}

// newClientConn returns conn itself if it is no socket.
func newClientConn(conn net.Conn) net.Conn {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return conn
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return conn
	}
	c := &clientConn{raw: raw}
	c.init(conn)
	c.entrance.screen.Open() // until it is admitted
	c.ready = c.readAhead
	return c
}

// CloseWrite ends our half of the connection.
func (c *clientConn) CloseWrite() error {
	return closeWrite(c.Conn)
}

func closeWrite(conn net.Conn) error {
	half, ok := conn.(halfCloser)
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

func (c *clientConn) entry() *entry { return &c.entrance }

// Close implements net.Conn.
func (c *clientConn) Close() error { return c.entrance.close(c.Conn) }

// SyscallConn implements syscall.Conn.
func (c *clientConn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// NetConn is the socket.
func (c *clientConn) NetConn() net.Conn { return c.Conn }

// Read implements net.Conn.
func (c *clientConn) Read(b []byte) (int, error) {
	if c.ahead == nil {
		if len(b) != 1 {
			return screened(&c.patientConn, &c.entrance, b)
		}
		if refusal := c.entrance.screen.Refusal(); refusal != nil {
			return 0, refusal
		}
		for {
			err := c.raw.Read(c.ready)
			if err == nil {
				break
			}
			if !c.read.premature(err) {
				return 0, err
			}
		}
		if c.err != nil || c.ahead == nil {
			return 0, c.end()
		}
	}
	n := copy(b, c.ahead[c.from:c.to])
	if c.from += n; c.from == c.to {
		aheads.Put(c.ahead)
		c.ahead = nil
	}
	return n, nil
}

// readAhead reads once, and is called again when the socket is readable if
// there was nothing.
func (c *clientConn) readAhead(fd uintptr) (done bool) {
	buffer := aheads.Get().(*[aheadBytes]byte)
	n, err := ignoringEINTR(int(fd), buffer[:])
	if n > 0 {
		if n, c.err = c.entrance.pass(buffer[:n], nil); n > 0 {
			c.ahead, c.from, c.to = buffer, 0, n
			return true
		}
	}
	aheads.Put(buffer)
	if c.err != nil { // it is refused
		return true
	}
	if err == syscall.EAGAIN { //nolint:errorlint // straight from the system
		return false
	}
	c.err = err
	return true
}

func ignoringEINTR(fd int, b []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, b)
		if err != syscall.EINTR { //nolint:errorlint // straight from the system
			return n, err
		}
	}
}

func (c *clientConn) end() error {
	switch {
	case c.err == nil:
		return io.EOF
	case c.entrance.screen.Refusal() != nil:
		return c.err
	}
	return &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: c.err}
}
