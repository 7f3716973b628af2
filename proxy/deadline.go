package proxy

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// deadline is one direction's deadline of a connection, armed lazily. A request
// moves its connections' deadlines five times, nearly always further away, and
// each move costs the runtime a timer. So a later deadline is only noted; when
// the earlier one that is armed expires, the operation it interrupts arms the
// noted one and goes on.
//
// It may be moved while another goroutine is blocked in the operation.
type deadline struct {
	set func(time.Time) error // the connection's own

	// longer is asked when the deadline has passed, and moves it if there is more time
	// by now. nil: nobody is.
	longer interface{ extend(now time.Time) bool }

	wanted atomic.Int64 // Unix nanoseconds; 0 = none
	armed  atomic.Int64

	mu sync.Mutex // guards arming
}

// move makes t the deadline.
func (d *deadline) move(t time.Time) error {
	wanted := int64(0)
	if !t.IsZero() {
		wanted = t.UnixNano()
	}
	d.wanted.Store(wanted)
	if armed := d.armed.Load(); armed == wanted || armed != 0 && (wanted == 0 || wanted > armed) {
		return nil
	}
	return d.arm()
}

// arm sets the deadline that is wanted. Whoever changes it meanwhile sees what
// is armed, or is seen here.
func (d *deadline) arm() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		wanted, at := d.wanted.Load(), time.Time{}
		if wanted != 0 {
			at = time.Unix(0, wanted)
		}
		d.armed.Store(wanted)
		if err := d.set(at); err != nil || d.wanted.Load() == wanted {
			return err
		}
	}
}

// premature reports whether err is an expiry of a deadline that has since been
// moved, and then arms the one that is wanted: the operation is to be repeated.
func (d *deadline) premature(err error) bool {
	if err == nil || !isTimeout(err) {
		return false
	}
	if wanted := d.wanted.Load(); wanted != 0 {
		if now := time.Now(); now.UnixNano() >= wanted && (d.longer == nil || !d.longer.extend(now)) {
			return false
		}
	}
	return d.arm() == nil
}

// patientConn is a connection with lazy deadlines.
type patientConn struct {
	net.Conn
	read, write deadline
	failed      error // of the last read that did
}

func (c *patientConn) init(conn net.Conn) {
	c.Conn = conn
	c.read.set, c.write.set = conn.SetReadDeadline, conn.SetWriteDeadline
}

// Read implements net.Conn.
func (c *patientConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if n > 0 || !c.read.premature(err) {
			if err != nil {
				c.failed = err
			}
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c *patientConn) Write(b []byte) (written int, err error) {
	for {
		n, err := c.Conn.Write(b[written:])
		if written += n; !c.write.premature(err) {
			return written, err
		}
	}
}

// CloseWrite ends the connection's sending half.
func (c *patientConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetReadDeadline implements net.Conn.
func (c *patientConn) SetReadDeadline(t time.Time) error { return c.read.move(t) }

// SetWriteDeadline implements net.Conn.
func (c *patientConn) SetWriteDeadline(t time.Time) error { return c.write.move(t) }

// SetDeadline implements net.Conn.
func (c *patientConn) SetDeadline(t time.Time) error {
	if err := c.read.move(t); err != nil {
		return err
	}
	return c.write.move(t)
}
