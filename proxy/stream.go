package proxy

import (
	"errors"
	"io"
	"time"

	"github.com/valyala/fasthttp"
)

// relay is a response body on its way from the upstream to the client, too
// large to be read whole. fasthttp reads from it and closes it, after the
// handler has returned. The lane is freed at the body's last byte.
type relay struct {
	call   *call
	prefix []byte             // what was read before it proved too large
	up     *fasthttp.Response // keeps body's framing
	body   io.Reader
	reuse  bool // the connection outlives the response
	ended  bool // the last byte has been read
	moved  time.Time
	since  time.Time
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

// start hands the body to the server.
func (r *relay) start(length int) {
	c := r.call
	c.pin()
	c.later, r.since = true, time.Now()
	response := &c.ctx.Response
	if c.mode == bypass {
		response.ImmediateHeaderFlush = true
	} else {
		// The slow client of a response that streams under its lane holds the
		// lane no longer than a slow upstream would.
		c.ctx.Conn().SetWriteDeadline(c.deadline) //nolint:errcheck // a dead connection fails the write
	}
	response.SetBodyStream(r, max(length, -1))
}

// Read implements io.Reader for the server.
func (r *relay) Read(b []byte) (int, error) {
	if len(r.prefix) > 0 {
		n := copy(b, r.prefix)
		r.prefix = r.prefix[n:]
		return n, nil
	}
	if r.ended {
		return 0, io.EOF
	}
	r.touch()
	n, err := r.body.Read(b)
	if errors.Is(err, io.EOF) {
		r.end()
	}
	return n, err
}

// touch moves the deadlines of a bypass request, which ends when it is idle.
func (r *relay) touch() {
	c := r.call
	idle := c.proxy.config.BypassIdleTimeout
	if now := time.Now(); c.mode == bypass && idle > 0 && now.Sub(r.moved) > idle/8 {
		r.moved = now
		c.link.wire.SetReadDeadline(now.Add(idle)) //nolint:errcheck // a dead connection fails the read
		c.ctx.Conn().SetWriteDeadline(now.Add(idle))
	}
}

// end is reached at the body's last byte.
func (r *relay) end() {
	r.ended = true
	c := r.call
	c.upstreamTime += time.Since(r.since)
	c.link.done(r.reuse)
	c.free()
}

// Close implements io.Closer for the server. If the body has not ended, the
// client hung up or the upstream was late: the lane is held for the rest.
func (r *relay) Close() error {
	c := r.call
	if !r.ended {
		c.upstreamTime += time.Since(r.since)
		c.hold()
	}
	if r.ended {
		r.release()
	}
	if !c.taken {
		c.finish()
	}
	c.unpin()
	return nil
}

func (r *relay) release() {
	fasthttp.ReleaseResponse(r.up)
	r.up, r.body = nil, nil
}
