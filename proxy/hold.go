package proxy

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// timedOut answers a request whose upstream did not answer in time. A cancelled
// call is not a stopped one: the service may still be at work, and the next
// request of the key would run beside it. So the lane is held, unless the route
// says otherwise.
func (c *call) timedOut(t *target) *problem {
	detail := fmt.Sprintf("%s did not answer in %s", t.name, c.route.Lane.UpstreamTimeout)
	if c.mode == bypass {
		detail = fmt.Sprintf("%s was silent for %s", t.name, c.proxy.config.BypassIdleTimeout)
	}
	c.hold()
	return upstreamTimeout.because(detail)
}

// hold ends the request's part in a call whose response is not complete. If
// the request has a turn and its route holds, a goroutine of its own keeps the
// turn until the upstream has answered or closed the connection, when its work
// is known to be over, or until hold_for has passed, which is counted, since
// from then on the order is at risk.
func (c *call) hold() {
	if !c.turn || c.route.Lane.AfterTimeout == Release {
		c.link.close()
		c.free()
		return
	}
	c.pin()
	held := c.link
	c.link, c.turn = link{}, false
	counted := c.counted
	c.counted = false
	until := time.Now().Add(c.route.Lane.HoldFor)
	c.ticket.Hold()
	c.proxy.background.run(held.wire, func() {
		held.wire.SetDeadline(until) //nolint:errcheck // a dead connection fails the read
		if err := held.finish(); isTimeout(err) {
			c.route.metrics.holdExpired.Inc()
			c.proxy.log.Warn("a held lane is released although the upstream may still be working on its request",
				"route", c.route.Name, "ticket", c.ticket.ID.String(), "hold_for", c.route.Lane.HoldFor)
		}
		held.close()
		if counted {
			c.proxy.inflight.Add(-1)
		}
		c.ticket.Done()
		c.unpin()
	})
}

// finish reads the rest of the response, and drops it.
func (l *link) finish() error {
	switch {
	case !l.answered:
		late := fasthttp.AcquireResponse()
		defer fasthttp.ReleaseResponse(late)
		late.StreamBody = true
		if err := late.ReadLimitBody(l.reader, 0); err != nil {
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

// background owns the goroutines that outlive their request.
type background struct {
	wg sync.WaitGroup

	mu      sync.Mutex // guards the rest
	stopped bool
	conns   map[net.Conn]struct{} // closing one ends its goroutine
}

// run starts f, which ends soon after conn is closed.
func (b *background) run(conn net.Conn, f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		conn.Close()
	}
	b.conns[conn] = struct{}{}
	b.wg.Go(func() {
		f()
		b.mu.Lock()
		delete(b.conns, conn)
		b.mu.Unlock()
	})
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
