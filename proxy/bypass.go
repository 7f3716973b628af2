package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// inlineBody is the size up to which the body of a bypass request or response
// is read whole, which keeps the connection's ordinary path. Longer ones, and
// those of unknown length, stream.
const inlineBody = 64 << 10

// bypass forwards a request outside any lane.
func (c *call) bypass() *problem {
	c.mode = bypass
	if !c.enter() {
		return overloaded.because("the node's limit of requests at upstreams is reached")
	}
	c.deadline = c.idleDeadline()
	if c.fields.uploads() {
		return c.upload()
	}
	if c.fields.upgrades() && c.ctx.Request.Header.IsHTTP11() {
		if c.protocol = c.offer(); c.protocol != nil {
			return c.switchProtocols()
		}
	}
	c.prepare()
	return c.attempts(time.Now())
}

func (c *call) idleDeadline() time.Time {
	if idle := c.config.BypassIdleTimeout; idle > 0 {
		return time.Now().Add(idle)
	}
	return time.Time{}
}

// offer is the protocols that the client would switch to, less those in which it could send
// requests past every lane: another HTTP, or TLS with one inside. RFC 9110, section 7.8, lets
// any offer be ignored.
func (c *call) offer() (offer []byte) {
	for _, line := range c.ctx.Request.Header.PeekAll("Upgrade") {
		for protocol := range bytes.SplitSeq(line, []byte(",")) {
			protocol = bytes.TrimSpace(protocol)
			name, _, _ := bytes.Cut(protocol, []byte("/"))
			switch strings.ToLower(string(name)) {
			case "", "h2c", "h2", "h3", "http", "tls":
				continue
			}
			offer = listed(offer, protocol)
		}
	}
	return offer
}

// offered reports whether the upstream has switched to what it was asked for.
func (c *call) offered() bool {
	chosen := c.ctx.Response.Header.Peek("Upgrade")
	for protocol := range bytes.SplitSeq(c.protocol, []byte(", ")) {
		if bytes.EqualFold(chosen, protocol) {
			return true
		}
	}
	return false
}

// switchProtocols forwards an Upgrade, and if the upstream accepts it, the
// bytes of both sides from then on. The connection to the upstream is never
// used again.
func (c *call) switchProtocols() *problem {
	c.prepare()
	t, problem := c.connect(time.Now(), false)
	if problem != nil {
		return problem
	}
	c.beginSend(t)
	c.link.once = true
	c.link.wire.SetDeadline(c.deadline) //nolint:errcheck // a dead connection fails the write
	if err := c.send(); err != nil {
		return c.unsent(t, err)
	}
	switch err := c.receive(); {
	case err == nil:
		return nil // it declined, with an ordinary response
	case !errors.Is(err, errSwitched) || !c.offered():
		return c.unanswered(t, err)
	}
	head := &c.ctx.Response.Header
	protocol := bytes.Clone(head.Peek("Upgrade"))
	c.clean(head)
	head.Set("Connection", "Upgrade")
	head.SetBytesV("Upgrade", protocol)
	c.takeOver(c.tunnel)
	return nil
}

// takeOver lets serve have the client's connection, after the handler has
// returned, in place of fasthttp. The connection is closed when serve returns.
func (c *call) takeOver(serve func(client net.Conn)) {
	c.later, c.taken = true, true
	c.pin()
	c.ctx.HijackSetNoResponse(true)
	c.ctx.Hijack(func(client net.Conn) {
		defer c.proxy.background.enter(below(socket(client)))()
		if c.link.wire != nil {
			defer c.proxy.background.enter(c.link.wire)()
		}
		defer c.unpin()
		defer c.proxy.open.Add(-1)
		defer c.endTaken()
		serve(client)
	})
}

// endTaken is the end of a call whose connection was taken over, also by a panic.
func (c *call) endTaken() {
	if cause := recover(); cause != nil {
		c.panicked(cause)
		c.problem = internalError.because("the cause is in the log")
	}
	c.link.close()
	c.free()
	c.finish()
}

// socket is the connection below a hijacked one, whose Close does nothing.
func socket(hijacked net.Conn) net.Conn {
	return hijacked.(interface{ UnsafeConn() net.Conn }).UnsafeConn()
}

// tunnel sends the 101 on, and copies until both sides have ended, one has
// failed, or both are idle.
func (c *call) tunnel(client net.Conn) {
	entryOf(socket(client)).screen.Open()
	t := tunnel{idle: c.config.BypassIdleTimeout}
	t.touch()
	w := bufio.NewWriter(client)
	client.SetWriteDeadline(t.deadline()) //nolint:errcheck // a dead connection fails the write
	if c.ctx.Response.Header.Write(w) != nil || w.Flush() != nil {
		return
	}
	upstream := c.link.wire
	both := func() { socket(client).Close(); upstream.Close() }
	fromClient := make(chan struct{})
	go func() { // ends when either connection is closed, below at the latest
		defer close(fromClient)
		if !t.copy(upstream, client, client) || !endHalf(upstream) {
			both()
		}
	}()
	if !t.copy(client, c.link.reader, upstream) || !endHalf(socket(client)) {
		both()
	}
	<-fromClient
}

// endHalf ends our half of a connection, and reports whether it could: the
// other side may have something to say still.
func endHalf(conn net.Conn) bool {
	half, ok := conn.(halfCloser)
	return ok && half.CloseWrite() == nil
}

// tunnel is idle when no byte has moved either way.
type tunnel struct {
	idle  time.Duration // 0 = for ever
	moved atomic.Int64  // when a byte last did, in Unix nanoseconds
}

func (t *tunnel) touch() { t.moved.Store(time.Now().UnixNano()) }

func (t *tunnel) deadline() time.Time {
	if t.idle == 0 {
		return time.Time{}
	}
	return time.Unix(0, t.moved.Load()).Add(t.idle)
}

// copy copies one way, and reports whether it was to the source's end.
func (t *tunnel) copy(to net.Conn, from io.Reader, source net.Conn) bool {
	buffer := make([]byte, 16<<10)
	for {
		source.SetReadDeadline(t.deadline()) //nolint:errcheck // a dead connection fails the read
		n, err := from.Read(buffer)
		if n > 0 {
			t.touch()
			to.SetWriteDeadline(t.deadline()) //nolint:errcheck // as above
			if _, err := to.Write(buffer[:n]); err != nil {
				return false
			}
			t.touch()
		}
		switch {
		case err == nil:
		case isTimeout(err) && time.Now().Before(t.deadline()): // the other way was not idle
		default:
			return errors.Is(err, io.EOF)
		}
	}
}
