package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"sync"
	"time"

	"lanekeeper/proxy/upstream"
)

// link is a request's hold of a connection to an upstream.
type link struct {
	lease   upstream.Lease
	wire    *wire
	reader  *bufio.Reader
	readers *sync.Pool // where it comes from
	once    bool       // the connection is not to be used again
	sight   sight      // of the lookout, once the request is sent

	// How much of the response has been read, for whoever has to read the rest.
	answered bool   // its head
	owed     int64  // bytes of a body of known length that are missing
	rest     *relay // a body that streams
}

// connect takes a place at the request's upstream, and a connection there. What it waits
// for a place is of the time in which it may wait for its turn: nothing has been sent, and the
// upstream's time begins after. Who looks sends by ask, and calls renew if that says so.
func (c *call) connect(began time.Time, looks bool) (*upstream.Target, *problem) {
	up := c.route.upstream
	until := began.Add(up.ConnectTimeout)
	if patient := c.arrived.Add(c.patience); patient.After(until) {
		until = patient
	}
	l := &c.link
	*l = link{readers: &c.proxy.readers}
	// Outside lanes a request may last for as long as it likes.
	err := up.Acquire(&l.lease, &upstream.Request{Key: c.key, Until: until, Measured: c.mode != bypass, Looks: looks})
	c.postpone(l.lease.Waited)
	if err != nil {
		problem, to, dialled := notConnected(up, err), l.lease.Target, began.Add(l.lease.Waited)
		*l = link{}
		if problem.kind == upstreamConnect { // else there was no target to be had
			c.tellUnsent(to, dialled, problem)
		}
		return nil, problem
	}
	l.reader = l.readers.Get().(*bufio.Reader)
	l.take()
	return l.lease.Target, nil
}

// take has the lease's connection in use.
func (l *link) take() {
	l.wire = l.lease.Conn.(*wire)
	l.wire.sent = 0
	l.reader.Reset(l.wire)
}

// renew takes another connection in the place of one that was found stale, before a byte was
// sent.
func (c *call) renew() *problem {
	l := &c.link
	l.sight.end()
	l.unleash()
	if err := l.lease.Renew(); err != nil {
		l.readers.Put(l.reader)
		*l = link{}
		return notConnected(c.route.upstream, err)
	}
	l.take()
	return nil
}

// postpone moves the end of the upstream's time.
func (c *call) postpone(d time.Duration) {
	if d == 0 {
		return
	}
	c.laneWait += d
	c.upstreamTime -= d
	if !c.deadline.IsZero() {
		c.deadline = c.deadline.Add(d)
	}
	if !c.limit.IsZero() {
		c.limit = c.limit.Add(d)
	}
}

func notConnected(up *upstream.Upstream, err error) *problem {
	switch {
	case errors.Is(err, upstream.ErrQueueFull):
		return overloaded.because(fmt.Sprintf("%s: %v", up.Name, err))
	case errors.Is(err, upstream.ErrNone), errors.Is(err, upstream.ErrWaited):
		return noUpstream.because(fmt.Sprintf("%s: %v", up.Name, err))
	}
	return upstreamConnect.because(err.Error())
}

// done gives the connection back, to be used again if it is in step.
func (l *link) done(reuse bool) {
	if l.wire == nil {
		return
	}
	l.sight.end()
	l.unleash()
	if l.answered {
		l.lease.Answered() // unless it was said to have failed
	}
	reuse = reuse && !l.once && l.reader.Buffered() == 0
	l.reader.Reset(nil)
	l.readers.Put(l.reader)
	l.wire.unseen = true
	l.lease.Done(reuse)
	*l = link{}
}

// close ends the connection, if there is one.
func (l *link) close() { l.done(false) }
