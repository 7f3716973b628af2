package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/proxy/upstream"
)

// attempts sends the request to the upstream: once, and again only while not a
// byte was sent, and never again if it is exclusive, unless its lane retries.
func (c *call) attempts(now time.Time) *problem {
	if policy := c.policy(); policy.Action == Retry {
		return c.persist(policy)
	}
	again := 0
	if c.mode != exclusive {
		again = c.lane.Retries
	}
	for {
		problem := c.attempt(now)
		if problem == nil || problem.executed == unknown || again == 0 {
			c.judge(problem)
			return problem
		}
		again--
		now = time.Now()
	}
}

// attempt sends the request, from now on, to a target and reads the response, whole or, if it is
// large, so far that the rest can stream.
func (c *call) attempt(started time.Time) (problem *problem) {
	defer func() {
		c.upstreamTime += time.Since(started)
		c.endSend(problem)
	}()

	t, problem := c.connect(started, true)
	if problem == nil {
		now := started // the clock is no small part of what a request costs
		if !c.link.wire.unseen || c.link.lease.Waited > 0 {
			now = time.Now()
		}
		problem = c.ready(t, now)
	}
	if problem != nil {
		return problem
	}
	c.beginSend(t)
	err := c.send()
	if err == errStale { //nolint:errorlint // it is never wrapped
		if problem = c.renew(); problem == nil {
			problem = c.ready(t, time.Now())
		}
		if problem != nil {
			return problem
		}
		err = c.send()
	}
	c.sentBytes = c.link.wire.sent
	if err != nil {
		return c.unsent(t, err)
	}
	if err := c.receive(); err != nil {
		return c.unanswered(t, err)
	}
	return nil
}

// ready is what is left to be done once there is a connection, which may have taken long.
func (c *call) ready(t *upstream.Target, now time.Time) *problem {
	if problem := c.guard(); problem != nil {
		c.link.done(true)
		return problem
	}
	c.watch()
	c.leash()
	c.link.wire.SetDeadline(c.deadline) //nolint:errcheck // a dead connection fails the write
	c.sentTo, c.dispatched = t.Name, now
	return nil
}

// unsent says what became of a request that was not sent to its end, unless
// the upstream closed or answered before with a response: 413 to a large body,
// say.
func (c *call) unsent(t *upstream.Target, sending error) *problem {
	switch {
	case c.link.wire.sent == 0:
		c.link.lease.Failed()
		c.link.close()
		return upstreamConnect.because(fmt.Sprintf("%s closed the connection before a byte was sent", t.Name))
	case isTimeout(sending):
		return c.timedOut(t)
	}
	c.link.once = true
	spoke := errors.Is(sending, errSpoke)
	if !spoke {
		c.link.wire.SetReadDeadline(earlier(c.deadline, time.Now().Add(time.Second))) //nolint:errcheck // a dead connection fails the read
	}
	err := c.receive()
	switch {
	case err == nil:
		return nil
	case spoke:
		return c.unanswered(t, err)
	}
	c.link.lease.Failed()
	c.link.close()
	return c.reset(t, "while the request was sent")
}

// unanswered says why the request has no response, and ends its part in the
// connection.
func (c *call) unanswered(t *upstream.Target, err error) *problem {
	late := !c.deadline.IsZero() && !time.Now().Before(c.deadline)
	err = c.link.cause(err)
	switch {
	case late, isTimeout(err):
		return c.timedOut(t)
	case isClosed(err):
		c.link.lease.Failed()
		c.link.close()
		return c.reset(t, "before its answer was complete")
	}
	c.link.lease.Failed()
	return c.unintelligible(t, err)
}

// reset is the end of a connection that had a part of the request.
func (c *call) reset(t *upstream.Target, when string) *problem {
	if c.proxy.wires.areCut() {
		return upstreamReset.because(fmt.Sprintf("this node stops, and waits no longer for %s", t.Name))
	}
	return upstreamReset.because(fmt.Sprintf("%s closed the connection %s", t.Name, when))
}

// cause is what err comes from: fasthttp hides it if the connection ended within a chunk's frame.
func (l *link) cause(err error) error {
	if l.wire == nil || l.wire.failed == nil || !errors.As(err, new(fasthttp.ErrBrokenChunk)) {
		return err
	}
	if errors.Is(l.wire.failed, io.EOF) {
		return io.ErrUnexpectedEOF // not the body's end
	}
	return l.wire.failed
}

func earlier(a, b time.Time) time.Time {
	if !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool } // less than net.Error: not every transport says Temporary
	return errors.As(err, &timeout) && timeout.Timeout()
}

// isClosed reports whether err is the connection's end rather than nonsense
// that came over it.
func isClosed(err error) bool {
	var operation *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &operation)
}

// send writes the request.
func (c *call) send() error {
	c.scratch = c.appendHead(c.scratch[:0])
	body := c.body()
	if len(body) <= smallBody {
		c.scratch = append(c.scratch, body...)
		body = nil
	}
	rest, err := c.link.wire.ask(c.scratch, body)
	if err != nil || len(rest) == 0 {
		return err
	}
	return c.sendLarge(rest)
}

// smallBody is copied behind its head, which costs less than a write of both.
const smallBody = 8 << 10

// watchWrite is how long a write of a body may block before the upstream's side
// is looked at.
const watchWrite = 250 * time.Millisecond

var errSpoke = errors.New("the upstream answers, or closes, instead of reading on")

// sendLarge writes a body, unless the upstream stops reading it and answers.
func (c *call) sendLarge(body []byte) error {
	w := c.link.wire
	if w.secure != nil {
		return c.sendSecure(body)
	}
	for {
		w.SetWriteDeadline(earlier(c.deadline, time.Now().Add(watchWrite))) //nolint:errcheck // a dead connection fails the write
		n, err := w.Write(body)
		switch {
		case !isTimeout(err):
			return err
		case !c.deadline.IsZero() && !time.Now().Before(c.deadline) && !(c.tethered() && c.extend(time.Now())):
			return err
		case c.spoken():
			return errSpoke
		}
		body = body[n:]
	}
}

// spoken reports whether the upstream has answered, or closed, before it has
// read the request. Interim responses do not count.
func (c *call) spoken() bool {
	r := c.link.reader
	for r.Buffered() > 0 || !c.link.wire.Usable() {
		b, err := r.Peek(len("HTTP/1.1 1xx"))
		if err != nil || b[len(b)-3] != '1' || string(b[len(b)-3:]) == "101" || c.receiveInterim() != nil {
			return true
		}
	}
	return false
}

// receive reads the response into c.ctx.Response.
func (c *call) receive() error {
	response := &c.ctx.Response
	if err := c.receiveHead(); err != nil {
		return err
	}
	head := &response.Header
	reuse, length := !head.ConnectionClose(), head.ContentLength()
	c.clean(head)
	c.link.answered = true
	switch {
	case c.ctx.IsHead() || bodiless(head.StatusCode()):
		response.SkipBody = true
		head.Del("Transfer-Encoding") // not everybody may see one, and nobody has to (RFC 9112, section 6.1)
		// A length where no body may be is one that will perhaps come all the same.
		reuse = reuse && (head.StatusCode() != fasthttp.StatusNoContent || length == lengthless || length == 0)
	case length >= 0 && length <= c.holds():
		if err := response.ReadBody(c.link.reader, 0); err != nil {
			c.link.owed = int64(length - len(response.Body()))
			return err
		}
	default:
		return c.receiveLong(length, reuse && length != lengthless)
	}
	c.link.done(reuse)
	return nil
}

func bodiless(status int) bool {
	return status == fasthttp.StatusNoContent || status == fasthttp.StatusNotModified
}

// holds is the size of the largest response that is read whole.
func (c *call) holds() int {
	if c.mode == bypass {
		return inlineBody
	}
	return c.lane.MaxResponse
}

// receiveLong reads a response whose length is too large or not known: whole if
// it turns out to fit, else it streams from here on.
func (c *call) receiveLong(length int, reuse bool) error {
	response := &c.ctx.Response
	r := &relay{call: c, reuse: reuse, up: fasthttp.AcquireResponse()}
	response.Header.CopyTo(&r.up.Header)
	r.up.StreamBody = true
	if err := r.up.ReadBody(c.link.reader, 0); err != nil {
		return err
	}
	r.body = r.up.BodyStream()
	c.link.rest = r
	if c.mode != bypass {
		limit := 0 // its first bytes: if they do not come there is still a problem to answer with
		if length < 0 {
			limit = c.holds()
		}
		whole, err := r.fill(response, limit)
		if err != nil {
			return err
		}
		if whole {
			r.release()
			c.link.done(reuse)
			return nil
		}
		r.prefix = bytes.Clone(response.Body())
	}
	r.start(length)
	return nil
}
