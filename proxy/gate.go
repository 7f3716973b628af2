package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/valyala/fasthttp"
)

// gate refuses what must not be forwarded, and finds path and query.
func (c *call) gate() *problem {
	h := &c.ctx.Request.Header
	limits := &c.config
	c.readFields()
	switch {
	case h.IsConnect(), h.IsTrace():
		return methodRefused.because("CONNECT and TRACE are for other kinds of proxy")
	case len(h.RequestURI()) > limits.MaxURI:
		return uriTooLong.because(fmt.Sprintf("the request target has %d bytes; at most %d are taken", len(h.RequestURI()), limits.MaxURI))
	case c.fields.count > limits.MaxHeaders:
		return headersTooLarge.because(fmt.Sprintf("the request has %d header lines; at most %d are taken", c.fields.count, limits.MaxHeaders))
	case len(c.fields.expect) > 0 && !bytes.EqualFold(c.fields.expect, []byte("100-continue")):
		return expectRefused.because(fmt.Sprintf("the request expects %q", c.fields.expect))
	}
	return c.target()
}

// target splits the request target. The absolute form becomes the origin form,
// which is all that an upstream is sent.
func (c *call) target() *problem {
	h := &c.ctx.Request.Header
	uri := h.RequestURI()
	if len(uri) > 0 && uri[0] != '/' {
		if string(uri) == "*" && h.IsOptions() {
			c.path = uri
			return nil
		}
		host, rest, ok := cutAuthority(uri)
		if !ok {
			return malformedRequest.because("the request target is neither a path nor an http URL")
		}
		if !bytes.EqualFold(host, h.Host()) {
			return malformedRequest.because("the request target names another host than the Host field")
		}
		h.SetRequestURIBytes(rest)
		uri = h.RequestURI()
	}
	for _, char := range uri {
		if char <= ' ' || char == 0x7f || char == '#' {
			return malformedRequest.because(fmt.Sprintf("the request target holds the byte 0x%02x; encode it", char))
		}
	}
	c.path, c.query, _ = bytes.Cut(uri, []byte("?"))
	return nil
}

// cutAuthority splits http://host/path.
func cutAuthority(uri []byte) (host, rest []byte, ok bool) {
	for _, scheme := range []string{"http://", "https://"} {
		if len(uri) < len(scheme) || !bytes.EqualFold(uri[:len(scheme)], []byte(scheme)) {
			continue
		}
		host = uri[len(scheme):]
		end := bytes.IndexAny(host, "/?")
		if end < 0 {
			return host, []byte("/"), true
		}
		host, rest = host[:end], host[end:]
		if rest[0] == '?' {
			rest = append([]byte("/"), rest...)
		}
		return host, bytes.Clone(rest), true
	}
	return nil, nil, false
}

// expects decides whether a client that waits for "100 Continue" is to send its
// body: not if it would be refused, which is what the client waits to hear.
func (p *Proxy) expects(ctx *fasthttp.RequestCtx) int {
	if ctx.Request.Header.ContentLength() > p.Config().MaxBody {
		p.refuseUnread(ctx, fasthttp.ErrBodyTooLarge)
		return ctx.Response.StatusCode()
	}
	if len(ctx.Request.Header.Peek(headerRefused)) > 0 {
		c := p.begin(ctx)
		c.arrived = time.Now() // the server has not noted it yet
		c.serve()
		return ctx.Response.StatusCode() // not 100, whether it is the answer or that is yet to be written
	}
	return fasthttp.StatusContinue
}

// refuseUnread answers a request that could not be read.
func (p *Proxy) refuseUnread(ctx *fasthttp.RequestCtx, err error) {
	var tooLarge *fasthttp.ErrSmallBuffer
	problem := malformedRequest.because("the request is not valid HTTP/1.1: " + err.Error())
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		problem = bodyTooLarge.because(fmt.Sprintf("the body has more than %d bytes", p.Config().MaxBody))
	case errors.As(err, &tooLarge):
		problem = headersTooLarge.because(fmt.Sprintf("the header section has more than %d bytes", p.Config().MaxHeader))
	case isTimeout(err):
		problem = requestTimeout.because("the request was not complete in time")
	}
	c := p.begin(ctx)
	defer c.unpin()
	c.arrived = time.Now() // the server's own note may be of the request before
	c.answer(problem)
}
