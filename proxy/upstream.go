package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/url"
	"sync/atomic"
	"syscall"

	"github.com/valyala/fasthttp"
)

// upstream is a set of targets that serve the same.
type upstream struct {
	Upstream
	targets []*target
	turn    atomic.Uint32 // of the round robin, and of ties
}

// target is one server, with fasthttp's pool of connections to it. Only the
// pool is used: fasthttp's own way to send a request would repeat a PUT up to
// five times.
type target struct {
	name    string
	address string
	pool    *fasthttp.HostClient
	pending atomic.Int64
	closed  atomic.Bool // no connection is kept any more

	// The pool's connections have a type without a name outside fasthttp.
	reuse, discard func(pooled)
}

type pooled interface{ Conn() net.Conn }

// giver wraps a method of the pool that takes one of its connections.
func giver[C pooled](give func(C)) func(pooled) { return func(c pooled) { give(c.(C)) } }

func newUpstream(u Upstream, maxHeader int) (*upstream, error) {
	up := &upstream{Upstream: u}
	for _, text := range u.Targets {
		at, err := url.Parse(text)
		if err != nil || at.Scheme != "http" || at.Host == "" {
			return nil, fmt.Errorf("upstream %s: target %q is not of the form http://host:port", u.Name, text)
		}
		address := at.Host
		if at.Port() == "" {
			address = net.JoinHostPort(at.Hostname(), "80")
		}
		up.targets = append(up.targets, newTarget(u, text, address, maxHeader))
	}
	if len(up.targets) == 0 {
		return nil, fmt.Errorf("upstream %s has no targets", u.Name)
	}
	return up, nil
}

func newTarget(u Upstream, name, address string, maxHeader int) *target {
	pool := &fasthttp.HostClient{
		Addr:                address,
		Dial:                dialer(u),
		MaxConns:            u.MaxConnections,
		MaxConnWaitTimeout:  u.ConnectTimeout,
		MaxIdleConnDuration: u.IdleTimeout,
		ConnPoolStrategy:    fasthttp.LIFO, // the fewest connections that suffice; the rest go idle and close
		ReadBufferSize:      maxHeader,
	}
	return &target{
		name: name, address: address, pool: pool,
		reuse: giver(pool.ReleaseConn), discard: giver(pool.CloseConn),
	}
}

// close closes the connections, each when its last request is done. Requests that still
// come have one of their own each.
func (u *upstream) close() {
	for _, t := range u.targets {
		t.closed.Store(true)
		t.pool.CloseIdleConnections()
	}
}

// pick chooses the target for a request.
func (u *upstream) pick(key []byte) *target {
	n := uint32(len(u.targets)) //nolint:gosec // a handful
	switch {
	case n == 1:
		return u.targets[0]
	case u.Balance == KeyHash && len(key) > 0: // requests outside lanes have none
		return u.targets[crc32.ChecksumIEEE(key)%n]
	case u.Balance == RoundRobin:
		return u.targets[u.turn.Add(1)%n]
	}
	first := u.turn.Add(1)
	best := u.targets[first%n]
	for i := uint32(1); i < n; i++ {
		if t := u.targets[(first+i)%n]; t.pending.Load() < best.pending.Load() {
			best = t
		}
	}
	return best
}

// dialer connects with IPv4 and IPv6, without fasthttp's minute of cached names.
func dialer(u Upstream) fasthttp.DialFunc {
	dial := u.Dial
	if dial == nil {
		d := &net.Dialer{Timeout: u.ConnectTimeout}
		dial = func(address string) (net.Conn, error) { return d.DialContext(context.Background(), "tcp", address) }
	}
	return func(address string) (net.Conn, error) {
		conn, err := dial(address)
		if err != nil {
			return nil, err
		}
		return newWire(conn), nil
	}
}

// wire is a connection to an upstream. It knows how many bytes it has sent,
// which decides between "no" and "unknown", and can be asked whether the
// upstream has said anything unasked.
type wire struct {
	patientConn
	sent  int // bytes of the present request
	raw   syscall.RawConn
	probe func(fd uintptr)
	quiet bool // result of probe
}

func newWire(conn net.Conn) *wire {
	w := new(wire)
	w.init(conn)
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			w.raw = raw
			w.probe = func(fd uintptr) { w.quiet = quiet(int(fd)) }
		}
	}
	return w
}

func (w *wire) Write(b []byte) (int, error) {
	n, err := w.patientConn.Write(b)
	w.sent += n
	return n, err
}

// usable reports whether an idle connection is still open and silent. One that
// was closed would fail the request; bytes on one that nobody asked anything
// would be taken for the answer to the next request, and each answer after for
// that of its neighbour.
func (w *wire) usable() bool {
	if w.raw == nil {
		return true
	}
	w.quiet = false
	return w.raw.Control(w.probe) == nil && w.quiet
}

// link is a request's hold of a connection to an upstream.
type link struct {
	target *target
	conn   pooled
	wire   *wire
	reader *bufio.Reader
	once   bool // the connection is not to be used again

	// How much of the response has been read, for whoever has to read the rest.
	answered bool   // its head
	owed     int64  // bytes of a body of known length that are missing
	rest     *relay // a body that streams
}

var errNoConnection = errors.New("no connection became free in time")

// connect takes a connection to t, an idle one if it is usable.
func (l *link) connect(t *target) error {
	for {
		conn, err := t.pool.AcquireConn(0, false)
		if errors.Is(err, fasthttp.ErrNoFreeConns) {
			return errNoConnection
		}
		if err != nil {
			return err
		}
		w := conn.Conn().(*wire)
		if !conn.LastUseTime().IsZero() && !w.usable() {
			t.pool.CloseConn(conn)
			continue
		}
		w.sent = 0
		t.pending.Add(1)
		*l = link{target: t, conn: conn, wire: w, reader: t.pool.AcquireReader(w)}
		return nil
	}
}

// done gives the connection back, to be used again if it is in step.
func (l *link) done(reuse bool) {
	if l.target == nil {
		return
	}
	l.unleash()
	reuse = reuse && !l.once && l.reader.Buffered() == 0 && !l.target.closed.Load()
	l.target.pool.ReleaseReader(l.reader)
	l.target.pending.Add(-1)
	if reuse {
		l.target.reuse(l.conn)
		if l.target.closed.Load() { // in the meantime
			l.target.pool.CloseIdleConnections()
		}
	} else {
		l.target.discard(l.conn)
	}
	*l = link{}
}

// close ends the connection, if there is one.
func (l *link) close() { l.done(false) }
