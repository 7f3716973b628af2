package proxy

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/valyala/fasthttp"
)

// relay is a response body on its way from the upstream to the client, too
// large to be read whole. fasthttp reads from it and closes it, after the
// handler has returned. The lane is freed at the body's last byte.
type relay struct {
	call   *call
	prefix []byte             // what was read before it proved too large
	up     *fasthttp.Response // keeps body's framing; nil if it comes from another node
	body   io.Reader
	closer io.Closer // of body, if it comes from another node
	reuse  bool      // the connection outlives the response
	bare   bool      // the client takes the connection's end for the body's
	ended  bool      // the last byte has been read
	broken error     // instead; fasthttp overlooks one that comes with bytes, and reads on
	moved  time.Time
	since  time.Time
	client *audience // of a bypass request, whose client may leave while nothing comes; else nil
}

// fill reads the body into response while it has at most limit bytes, and
// reports whether that was all.
func (r *relay) fill(response *fasthttp.Response, limit int) (whole bool, _ error) {
	buffer := make([]byte, 8<<10)
	for total := 0; total <= limit; {
		n, err := r.body.Read(buffer)
		response.AppendBody(buffer[:n])
		total += n
		if errors.Is(err, io.EOF) {
			return total <= limit, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// start hands the body to the server, or leaves it to runForwarded.
func (r *relay) start(length int) {
	c := r.call
	c.pin()
	c.later, r.since = true, time.Now()
	response := &c.ctx.Response
	switch {
	case c.from != nil:
		c.streams, c.streamLength = r, length
		return // whoever fetches it begins at once: so not before the turn's goroutine is done
	case length < 0 && !c.ctx.Request.Header.IsHTTP11():
		r.bare = true // fasthttp would send chunks
		if !c.taken {
			c.takeOver(r.writeBare)
		}
		return
	case c.mode == bypass:
		response.ImmediateHeaderFlush = true
		if r.closer == nil {
			r.client = listenFor(c.ctx.Conn(), c.link.wire)
		}
	default:
		// The slow client of a response that streams under its lane holds the
		// lane no longer than a slow upstream would.
		c.ctx.SetWriteDeadline(c.last()) //nolint:errcheck // a dead connection fails the write
	}
	response.SetBodyStream(r, max(length, -1))
}

// writeBare sends a response without a length to an HTTP/1.0 client, to which
// the connection's end is the body's.
func (r *relay) writeBare(client net.Conn) {
	defer r.Close()
	c := r.call
	h := &c.ctx.Response.Header
	h.Del("Transfer-Encoding")
	h.Del("Connection")
	h.SetConnectionClose()
	if c.mode != bypass {
		client.SetWriteDeadline(c.last()) //nolint:errcheck // a dead connection fails the write
	}
	if _, err := client.Write(h.Header()); err != nil {
		return
	}
	if _, err := io.Copy(struct{ io.Writer }{client}, r); err != nil {
		abort(socket(client))
	}
}

// abort resets a connection whose orderly end would mean that all was said.
func abort(conn net.Conn) {
	socket := below(conn) // TLS would say good-bye
	if tcp, ok := socket.(*net.TCPConn); ok {
		tcp.SetLinger(0) //nolint:errcheck // best effort
	}
	socket.Close()
}

// Read implements io.Reader for the server.
func (r *relay) Read(b []byte) (int, error) {
	if len(r.prefix) > 0 {
		n := copy(b, r.prefix)
		r.prefix = r.prefix[n:]
		return n, nil
	}
	switch {
	case r.ended:
		return 0, io.EOF
	case r.broken != nil:
		return 0, r.broken
	}
	r.touch()
	n, err := r.body.Read(b)
	r.client.hears()
	switch {
	case errors.Is(err, io.EOF):
		r.end()
	case err != nil:
		err = r.call.link.cause(err)
		r.broken = err
		r.breaks(err)
		if r.closer == nil {
			r.call.halt("the upstream's response broke off") // that its client left is no failure
		}
	}
	return n, err
}

// touch moves the deadlines of a bypass request, which ends when it is idle.
func (r *relay) touch() {
	c := r.call
	idle := c.config.BypassIdleTimeout
	if now := time.Now(); c.mode == bypass && idle > 0 && now.Sub(r.moved) > idle/8 {
		r.moved = now
		r.client.extend(c.link.wire, now.Add(idle))
		c.ctx.SetWriteDeadline(now.Add(idle)) //nolint:errcheck // a dead connection fails the write
	}
}

// end is reached at the body's last byte.
func (r *relay) end() {
	r.ended = true
	c := r.call
	c.upstreamTime += time.Since(r.since)
	r.client.end() // the connection may be another request's next
	c.link.done(r.reuse)
	c.free()
}

// Close implements io.Closer for the server. If the body has not ended, the
// client hung up or the upstream was late: the lane is held for the rest, which
// has the time it would have had.
func (r *relay) Close() error {
	c := r.call
	r.client.end()
	over := r.ended || r.closer != nil // else whoever holds the lane reads on
	if !r.ended {
		c.upstreamTime += time.Since(r.since)
		c.left = r.broken == nil && c.from == nil
		since := c.last()
		if now := time.Now(); now.After(since) {
			since = now
		}
		c.hold(since, r.broken == nil || isTimeout(r.broken))
	}
	if over {
		r.release()
	}
	if !c.taken {
		c.finish()
	}
	c.unpin()
	return nil
}

func (r *relay) release() {
	if r.closer != nil {
		r.closer.Close()
	} else {
		fasthttp.ReleaseResponse(r.up)
	}
	r.up, r.body, r.closer = nil, nil, nil
}
