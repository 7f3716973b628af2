package membertest

import (
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// stream is a connection: two ends, and what is on the way to each.
type stream struct {
	network *Network
	ends    [2]*conn

	mu      sync.Mutex // guards the rest, and the ends' fields
	moved   sync.Cond  // something arrived, was read, broke or timed out
	severed *time.Timer
}

// conn is one end of a stream. It is a net.Conn, with CloseWrite and SetLinger
// like a *net.TCPConn.
type conn struct {
	*stream
	address netip.AddrPort
	peer    *conn

	// Guarded by stream.mu.
	in       []segment // from the peer, in order
	unread   int       // bytes in in, and those read whose acknowledgement is stuck
	stuck    int       // the latter
	arrival  time.Time // of the last in in
	closed   bool      // nobody holds this end any more
	finished bool      // it has sent its end
	abort    bool      // Close sends a reset
	broken   error     // what everything fails with
	reset    time.Time // when a reset will arrive here; zero: none is on the way
	wake     *time.Timer
	wakeAt   time.Time // zero: wake is not set
	readBy   deadline
	writeBy  deadline
}

// segment is a piece of a stream, or its end.
type segment struct {
	data    []byte
	end     bool
	at      time.Time // of arrival
	stalled bool      // by a cut: it has no arrival
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d deadline) passed(now time.Time) bool { return !d.at.IsZero() && !now.Before(d.at) }

func newStream(n *Network, a, b netip.AddrPort) *stream {
	s := &stream{network: n}
	s.moved.L = &s.mu
	s.ends = [2]*conn{{stream: s, address: a}, {stream: s, address: b}}
	s.ends[0].peer, s.ends[1].peer = s.ends[1], s.ends[0]
	return s
}

func (c *conn) host() netip.Addr { return c.address.Addr() }

// way is from c to its peer.
func (c *conn) way() way { return way{c.host(), c.peer.host()} }

const segmentMax = 16 << 10

func (c *conn) Write(b []byte) (written int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		now := time.Now()
		c.arriveLocked(now)
		switch {
		case c.closed:
			return written, c.fail("write", net.ErrClosed)
		case c.broken != nil:
			return written, c.fail("write", c.broken)
		case c.finished:
			return written, c.fail("write", syscall.EPIPE)
		case c.writeBy.passed(now):
			return written, c.fail("write", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return written, nil
		}
		if n := min(len(b), segmentMax, c.network.StreamBuffer-c.peer.unread); n > 0 {
			c.sendLocked(segment{data: append([]byte(nil), b[:n]...)}, now)
			b, written = b[n:], written+n
			continue
		}
		c.wakeLocked(c.reset, now)
		c.moved.Wait()
	}
}

func (c *conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		now := time.Now()
		c.arriveLocked(now)
		switch {
		case c.closed:
			return 0, c.fail("read", net.ErrClosed)
		case c.readBy.passed(now):
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		}
		next := c.reset
		if len(c.in) > 0 && !c.in[0].stalled {
			first := &c.in[0]
			if !first.at.After(now) {
				if first.end {
					return 0, io.EOF // and stays there
				}
				n := copy(b, first.data)
				if first.data = first.data[n:]; len(first.data) == 0 {
					c.in = c.in[1:]
				}
				c.acknowledgeLocked(n)
				return n, nil
			}
			if next.IsZero() || first.at.Before(next) {
				next = first.at
			}
		}
		if c.broken != nil {
			return 0, c.fail("read", c.broken)
		}
		c.wakeLocked(next, now)
		c.moved.Wait()
	}
}

// sendLocked puts a segment on its way to the peer. Behind one that is stalled
// it stalls too: a stream keeps its order.
func (c *conn) sendLocked(s segment, now time.Time) {
	p := c.peer
	delay, passes := c.network.segment(c.way(), len(s.data))
	switch {
	case !passes, len(p.in) > 0 && p.in[len(p.in)-1].stalled:
		s.stalled = true
	default:
		s.at = latest(now.Add(delay), p.arrival)
		p.arrival = s.at
		if p.closed {
			// It will be answered with a reset.
			c.resetLocked(s.at)
			return
		}
	}
	p.in = append(p.in, s)
	p.unread += len(s.data)
	c.moved.Broadcast()
}

// acknowledgeLocked gives the peer room for what was read, unless the way back
// is cut.
func (c *conn) acknowledgeLocked(n int) {
	if _, passes := c.network.segment(c.way(), 0); !passes {
		c.stuck += n
		return
	}
	c.unread -= n
	c.moved.Broadcast()
}

// resetLocked sends a reset to c, from where its peer was, at the given time.
// It needs a way, and is not sent again if there is none.
func (c *conn) resetLocked(sent time.Time) {
	delay, passes := c.network.segment(c.peer.way(), 0)
	if at := sent.Add(delay); passes && c.broken == nil && (c.reset.IsZero() || at.Before(c.reset)) {
		c.reset = at
		c.moved.Broadcast()
	}
}

// arriveLocked lets a reset that is due take effect: everything unread is
// discarded (RFC 9293, 3.10.7.4), which is the worst that systems do.
func (c *conn) arriveLocked(now time.Time) {
	if !c.reset.IsZero() && !c.reset.After(now) {
		c.breakLocked(syscall.ECONNRESET)
	}
}

func (c *conn) breakLocked(err error) {
	if c.broken == nil {
		c.broken, c.reset, c.in = err, time.Time{}, nil
		c.moved.Broadcast()
	}
}

// wakeLocked sees to it that the waiters look again at the given time, or
// before: whoever waits for something later then sets it anew.
func (c *conn) wakeLocked(at, now time.Time) {
	if at.IsZero() || !c.wakeAt.IsZero() && !at.Before(c.wakeAt) {
		return
	}
	c.wakeAt = at
	if c.wake != nil {
		c.wake.Reset(at.Sub(now))
		return
	}
	c.wake = time.AfterFunc(at.Sub(now), func() {
		c.mu.Lock()
		c.wakeAt = time.Time{}
		c.moved.Broadcast()
		c.mu.Unlock()
	})
}

func (s *stream) broadcast() {
	s.mu.Lock()
	s.moved.Broadcast()
	s.mu.Unlock()
}

// Close closes this end. What was written still arrives, then the end of the
// stream does; but if something unread is left here, a reset does, and may
// overtake it.
func (c *conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return c.fail("close", net.ErrClosed)
	}
	c.closeLocked(time.Now())
	c.mu.Unlock()
	c.forgetIfOver()
	return nil
}

func (c *conn) closeLocked(now time.Time) {
	c.arriveLocked(now)
	unread := c.abort
	last := now
	var stalled []segment // will be answered when they come
	for _, s := range c.in {
		switch {
		case s.stalled:
			stalled = append(stalled, s)
		case !s.end:
			unread, last = true, latest(now, s.at)
		}
	}
	c.closed = true
	c.in, c.unread = stalled, 0
	switch {
	case c.broken != nil:
	case unread:
		c.peer.resetLocked(last)
	case !c.finished:
		c.finished = true
		c.sendLocked(segment{end: true}, now)
	}
	c.stopTimersLocked()
	c.moved.Broadcast()
}

func (c *conn) stopTimersLocked() {
	for _, t := range []*time.Timer{c.wake, c.readBy.timer, c.writeBy.timer} {
		if t != nil {
			t.Stop()
		}
	}
}

// CloseWrite sends the end of the stream and goes on reading.
func (c *conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return c.fail("close", net.ErrClosed)
	case c.broken != nil:
		return c.fail("close", c.broken)
	case !c.finished:
		c.finished = true
		c.sendLocked(segment{end: true}, time.Now())
	}
	return nil
}

// SetLinger(0) makes Close send a reset and drop what is on the way.
func (c *conn) SetLinger(seconds int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abort = seconds == 0
	return nil
}

// forgetIfOver takes the stream from the network when nobody holds an end.
func (s *stream) forgetIfOver() {
	s.mu.Lock()
	over := s.ends[0].closed && s.ends[1].closed
	if over && s.severed != nil {
		s.severed.Stop()
	}
	s.mu.Unlock()
	if over {
		s.network.mu.Lock()
		delete(s.network.streams, s)
		s.network.mu.Unlock()
	}
}

// abandon is the end of the process that holds the ends at host: the kernel
// closes them, if there still is one.
func (s *stream) abandon(host netip.Addr, kernel bool) {
	s.mu.Lock()
	for _, c := range s.ends {
		if c.host() != host || c.closed {
			continue
		}
		if kernel {
			c.closeLocked(time.Now())
			continue
		}
		c.closed, c.in, c.unread = true, nil, 0
		c.stopTimersLocked()
	}
	s.moved.Broadcast()
	s.mu.Unlock()
	s.forgetIfOver()
}

// recheck follows a cut or its end: it starts or stops the clock of a stream
// that is cut, sends again what was stalled, and passes on acknowledgements.
func (s *stream) recheck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	passes := true
	for _, c := range s.ends {
		_, ok := s.network.segment(c.way(), 0)
		passes = passes && ok
		if ok {
			c.mendLocked()
		}
	}
	switch {
	case passes && s.severed != nil:
		s.severed.Stop()
		s.severed = nil
	case !passes && s.severed == nil:
		s.severed = time.AfterFunc(s.network.StreamTimeout, func() { s.breakBoth(syscall.ETIMEDOUT) })
	}
}

// keepAlive is how long a system waits on a silent stream before it asks.
const keepAlive = 15 * time.Second

// mendLocked is called when the way from c to its peer is open.
func (c *conn) mendLocked() {
	c.unread -= c.stuck
	c.stuck = 0
	now, p := time.Now(), c.peer
	for i := range p.in {
		s := &p.in[i]
		if !s.stalled {
			continue
		}
		delay, passes := c.network.segment(c.way(), 0)
		if !passes {
			break // cut again meanwhile
		}
		s.stalled = false
		s.at = latest(now.Add(delay), p.arrival)
		p.arrival = s.at
	}
	if p.closed {
		if len(p.in) > 0 {
			c.resetLocked(p.arrival)
			p.in, p.unread = nil, 0
		} else if !slices.ContainsFunc(c.in, func(s segment) bool { return s.end }) {
			// Nobody is there any more and c was not told. Its system finds out.
			c.resetLocked(now.Add(keepAlive))
		}
	}
	c.moved.Broadcast()
}

func (s *stream) breakBoth(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.ends {
		c.breakLocked(err)
	}
}

func (c *conn) SetDeadline(t time.Time) error {
	return firstError(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.readBy, t) }

func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.writeBy, t) }

func (c *conn) setDeadline(d *deadline, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), c.broadcast)
	}
	c.moved.Broadcast()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return tcpAddress(c.address) }
func (c *conn) RemoteAddr() net.Addr { return tcpAddress(c.peer.address) }

func (c *conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
