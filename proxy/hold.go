package proxy

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/proxy/upstream"
)

// timedOut answers a request whose upstream did not answer in time. A cancelled
// call is not a stopped one: the service may still be at work, and the next
// request of the key would run beside it. So the lane is held, unless the route
// says otherwise.
func (c *call) timedOut(t *upstream.Target) *problem {
	c.link.lease.Late()
	detail := fmt.Sprintf("%s did not answer in %s", t.Name, c.lane.UpstreamTimeout)
	if c.mode == bypass {
		detail = fmt.Sprintf("%s was silent for %s", t.Name, c.config.BypassIdleTimeout)
	} else if time.Now().Before(c.limit) {
		detail = fmt.Sprintf("%s did not answer before this node's lease ended", t.Name)
		if c.borrowed() {
			detail = fmt.Sprintf("%s did not answer before the turn was over that the key's owner had lent", t.Name)
		}
	}
	problem := upstreamTimeout.because(detail)
	c.judge(problem)
	c.hold(time.Now(), true)
	return problem
}

// unintelligible answers a request whose upstream sent what is not HTTP. It may
// still be at work, on the rest of a response whose head was too large, say.
func (c *call) unintelligible(t *upstream.Target, err error) *problem {
	problem := upstreamInvalid.because(fmt.Sprintf("%s: %v", t.Name, err))
	c.judge(problem)
	c.hold(time.Now(), false)
	return problem
}

// hold ends the request's part in a call whose response is not complete. If
// the request has a turn and its route holds, a goroutine of its own keeps the
// turn until the upstream has answered or closed the connection, when its work
// is known to be over, or until hold_for has passed since the given time, which
// is counted, since from then on the order is at risk. legible tells whether
// the rest of the response can be understood.
//
// If another attempt of the request may follow, the call has its turn still, and the
// goroutine keeps it together with the call.
func (c *call) hold(since time.Time, legible bool) {
	if !c.again {
		c.lose()
		c.done()
	}
	until, holds := since, c.lane.AfterTimeout == Hold
	if holds {
		until = since.Add(c.lane.HoldFor)
	}
	if !c.turn || !until.After(time.Now()) {
		c.link.close()
		if !c.again {
			c.free()
		}
		return
	}
	c.pin()
	held := c.link
	held.unleash()
	c.link = link{}
	counted := c.counted && !c.again
	if c.again {
		c.keeps.Add(1)
	} else {
		c.turn, c.counted = false, false
		c.ticket.Hold()
	}
	toHead := c.ctx.IsHead()
	leave := c.proxy.background.enter(held.wire)
	held.wire.SetDeadline(until) //nolint:errcheck // a dead connection fails the read
	traced := c.traceID()        // of a request whose head may be another's by then
	one := &holding{until: until, wire: held.wire}
	forget := c.proxy.holds.enter(c.ticket.ID, one) // from here on it can be released
	go func() {                                     // ends with the connection, at the latest when Stop closes it
		defer leave()
		held.finish(toHead, legible)
		forget()
		switch {
		case holds && one.released.Load():
			c.route.metrics.holdExpired.Inc()
		case holds && !time.Now().Before(until):
			c.route.metrics.holdExpired.Inc()
			line := []any{"event", "hold-expired", "route", c.route.Name, "ticket", c.ticket.ID.String(), "hold_for", c.lane.HoldFor}
			if traced != "" {
				line = append(line, "trace_id", traced)
			}
			c.proxy.log.Warn("a held lane is released although the upstream may still be working on its request", line...)
		}
		held.close()
		if counted {
			c.proxy.inflight.Add(-1)
		}
		c.endTurn()
		c.unpin()
	}()
}

// finish returns at the end of the response, which is dropped, or of the
// connection. Once the response makes no sense, the connection's end is all
// that is left to see; the upstream is asked for it by ending our half.
func (l *link) finish(toHead, legible bool) {
	if legible {
		if err := l.readRest(toHead); err == nil || isTimeout(err) || isClosed(err) {
			return
		}
	}
	if half, ok := l.wire.Conn.(halfCloser); ok {
		half.CloseWrite() //nolint:errcheck // a dead connection fails the read
	}
	io.Copy(io.Discard, l.reader) //nolint:errcheck // whatever ended it
}

// halfCloser is a connection whose two directions end apart.
type halfCloser interface{ CloseWrite() error }

func (l *link) readRest(toHead bool) error {
	switch {
	case !l.answered:
		late := fasthttp.AcquireResponse()
		defer fasthttp.ReleaseResponse(late)
		if err := finalHead(l.reader, &late.Header); err != nil {
			return err
		}
		if toHead || bodiless(late.StatusCode()) {
			return nil
		}
		late.StreamBody = true
		if err := late.ReadBody(l.reader, 0); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, late.BodyStream())
		return err
	case l.rest != nil:
		_, err := io.Copy(io.Discard, l.rest.body)
		l.rest.release()
		return err
	}
	_, err := io.CopyN(io.Discard, l.reader, l.owed)
	return err
}

// background knows the goroutines that outlive their request, by the
// connections they depend on.
type background struct {
	wg sync.WaitGroup

	mu      sync.Mutex // guards the rest
	stopped bool
	conns   map[net.Conn]struct{}
}

// enter counts a goroutine until it calls leave. It ends soon after the
// connections are closed, which stop does, and enter itself once stopped.
func (b *background) enter(conns ...net.Conn) (leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wg.Add(1)
	for _, conn := range conns {
		b.conns[conn] = struct{}{}
		if b.stopped {
			conn.Close()
		}
	}
	return func() {
		b.mu.Lock()
		for _, conn := range conns {
			delete(b.conns, conn)
		}
		b.mu.Unlock()
		b.wg.Done()
	}
}

// stop closes every connection and waits for the goroutines.
func (b *background) stop() {
	b.mu.Lock()
	b.stopped = true
	for conn := range b.conns {
		conn.Close()
	}
	b.mu.Unlock()
	b.wg.Wait()
}
