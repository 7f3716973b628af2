package proxy

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"lanekeeper/proxy/upstream"
)

// wire is a connection to an upstream. It knows how many bytes it has sent,
// which decides between "no" and "unknown", and can be asked whether the
// upstream has said anything unasked.
//
// With TLS, what is counted and what has deadlines is below it: a record that was sent in part
// has been sent, and a write of TLS that has timed out cannot be repeated, so that only a
// deadline that stands may end it.
type wire struct {
	patientConn
	among   *wires    // nil: none
	secure  *tls.Conn // above patientConn; nil: there is no TLS
	records records   // that came below TLS
	sent    int       // bytes of the present request
	raw     syscall.RawConn
	probe   func(fd uintptr)
	quiet   bool // result of probe
	unseen  bool // it has been idle, and nobody has looked at it since
	asking  asking
}

// wrap makes a wire of a new connection.
func wrap(conn net.Conn, secure *tls.Config, by time.Time) (upstream.Conn, error) {
	w := new(wire)
	w.init(conn)
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			w.raw = raw
			w.probe = func(fd uintptr) { w.quiet = quiet(int(fd)) }
			w.asking.step = w.asking.take
		}
	}
	if secure == nil {
		return w, nil
	}
	w.secure = tls.Client(beneath{w}, secure)
	w.SetDeadline(by) //nolint:errcheck // a dead connection fails the handshake
	return w, w.secure.HandshakeContext(context.Background())
}

// Close implements net.Conn.
func (w *wire) Close() error {
	if w.among != nil {
		w.among.remove(w)
	}
	return w.patientConn.Close()
}

// wires are the open ones of a node.
type wires struct {
	mu   sync.Mutex // guards the rest
	open map[*wire]struct{}
	over bool
}

// wrap is wrap, and counts the wire among s until it is closed.
func (s *wires) wrap(conn net.Conn, secure *tls.Config, by time.Time) (upstream.Conn, error) {
	c, err := wrap(conn, secure, by)
	if err != nil {
		return c, err
	}
	w := c.(*wire)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return w, net.ErrClosed
	}
	w.among = s
	s.open[w] = struct{}{}
	return w, nil
}

func (s *wires) remove(w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, w)
}

// cut closes them all, and every further one. What runs ends as if its upstream had.
func (s *wires) cut() {
	s.mu.Lock()
	s.over = true
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, w := range open {
		w.Close()
	}
}

func (s *wires) areCut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// beneath is what TLS runs over.
type beneath struct{ *wire }

func (l beneath) Read(b []byte) (int, error) {
	n, err := l.patientConn.Read(b)
	l.records.pass(b[:n])
	return n, err
}

func (l beneath) Write(b []byte) (int, error) {
	n, err := l.patientConn.Write(b)
	l.sent += n
	return n, err
}

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) {
	if w.secure != nil {
		return w.secure.Read(b)
	}
	return w.patientConn.Read(b)
}

// Write implements net.Conn.
func (w *wire) Write(b []byte) (int, error) {
	if w.secure != nil {
		return w.secure.Write(b)
	}
	return beneath{w}.Write(b)
}

// CloseWrite ends the connection's sending half.
func (w *wire) CloseWrite() error {
	if w.secure != nil {
		return w.secure.CloseWrite()
	}
	return w.patientConn.CloseWrite()
}

// Usable reports whether an idle connection is still open and silent. One that
// was closed would fail the request; bytes on one that nobody asked anything
// would be taken for the answer to the next request, and each answer after for
// that of its neighbour.
//
// Below TLS not every byte is one of the upstream's: it may hand out a ticket for the next
// handshake at any time. So what can be read is read; what is left then, or is a part of
// something, is an answer or the end.
func (w *wire) Usable() bool {
	w.unseen = false
	if w.secure == nil {
		return w.silent()
	}
	if !w.holds(time.Unix(1, 0)) { // what TLS has taken from the socket, and nobody from TLS
		return false
	}
	return (w.silent() || w.holds(time.Now().Add(ticketTime)) && w.silent()) && w.records.whole()
}

// records tells where the records of TLS end.
type records struct {
	head [5]byte // kind, version and length
	have int     // of head
	left int     // of the record
}

func (r *records) pass(b []byte) {
	for len(b) > 0 {
		if r.left > 0 {
			n := min(r.left, len(b))
			r.left, b = r.left-n, b[n:]
			continue
		}
		n := copy(r.head[r.have:], b)
		r.have, b = r.have+n, b[n:]
		if r.have == len(r.head) {
			r.have, r.left = 0, int(r.head[3])<<8|int(r.head[4])
		}
	}
}

func (r *records) whole() bool { return r.have == 0 && r.left == 0 }

// ticketTime is more than enough to read what is there.
const ticketTime = 10 * time.Millisecond

// silent reports whether the socket is.
func (w *wire) silent() bool {
	if w.raw == nil {
		return true
	}
	w.quiet = false
	return w.raw.Control(w.probe) == nil && w.quiet
}

// holds reports whether TLS has nothing to say until then, and is still open.
func (w *wire) holds(until time.Time) bool {
	w.SetReadDeadline(until) //nolint:errcheck // a dead connection fails the read
	n, err := w.secure.Read(make([]byte, 1))
	w.SetReadDeadline(time.Time{}) //nolint:errcheck // as above
	return n == 0 && isTimeout(err)
}
