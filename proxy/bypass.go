package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
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
	if c.fields.upgrades() {
		return c.switchProtocols()
	}
	c.prepare()
	return c.attempts()
}

func (c *call) idleDeadline() time.Time {
	if idle := c.proxy.config.BypassIdleTimeout; idle > 0 {
		return time.Now().Add(idle)
	}
	return time.Time{}
}

// switchProtocols forwards an Upgrade, and if the upstream accepts it, the
// bytes of both sides from then on. The connection to the upstream is never
// used again.
func (c *call) switchProtocols() *problem {
	c.protocol = bytes.Clone(c.fields.upgrade)
	c.prepare()

	t := c.route.upstream.pick(c.key)
	if err := c.link.connect(t); err != nil {
		return notConnected(t, err)
	}
	c.link.once = true
	c.link.wire.SetDeadline(c.deadline) //nolint:errcheck // a dead connection fails the write
	if err := c.send(); err != nil {
		c.link.close()
		return upstreamReset.because(fmt.Sprintf("%s closed the connection while the request was sent", t.name))
	}
	err := c.receive()
	if err == nil {
		return nil // it declined, with an ordinary response
	}
	if !errors.Is(err, errSwitched) {
		c.link.close()
		return upstreamInvalid.because(fmt.Sprintf("%s: %v", t.name, err))
	}
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
		done := make(chan struct{})
		c.proxy.background.run(socket(client), func() {
			defer close(done)
			serve(client)
		})
		<-done
		c.link.close()
		c.free()
		c.finish()
		c.proxy.open.Add(-1)
		c.unpin()
	})
}

// socket is the connection below a hijacked one, whose Close does nothing.
func socket(hijacked net.Conn) net.Conn {
	return hijacked.(interface{ UnsafeConn() net.Conn }).UnsafeConn()
}

// tunnel sends the 101 on, and copies until one side closes or both are idle.
func (c *call) tunnel(client net.Conn) {
	idle := c.proxy.config.BypassIdleTimeout
	w := bufio.NewWriter(client)
	if c.ctx.Response.Header.Write(w) != nil || w.Flush() != nil {
		return
	}
	upstream := c.link.wire
	fromClient := make(chan struct{})
	go func() { // ends when either connection is closed, below at the latest
		defer close(fromClient)
		copyIdle(upstream, client, client, idle)
		upstream.Close()
	}()
	copyIdle(client, c.link.reader, upstream, idle)
	socket(client).Close()
	upstream.Close()
	<-fromClient
}

// copyIdle copies until an end, an error, or idle without a byte.
func copyIdle(to net.Conn, from io.Reader, source net.Conn, idle time.Duration) {
	buffer := make([]byte, 16<<10)
	for {
		if idle > 0 {
			source.SetReadDeadline(time.Now().Add(idle)) //nolint:errcheck // a dead connection fails the read
		}
		n, err := from.Read(buffer)
		if n > 0 {
			if idle > 0 {
				to.SetWriteDeadline(time.Now().Add(idle)) //nolint:errcheck // as above
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
