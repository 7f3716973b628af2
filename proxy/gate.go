package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/proxy/screen"
)

// refused are the answers to what the screen lets not pass.
var refused = map[screen.Reason]*kind{
	screen.Malformed: malformedRequest, screen.Method: methodRefused, screen.Coding: codingRefused,
	screen.Expectation: expectRefused, screen.LongURI: uriTooLong, screen.LargeHead: headersTooLarge,
}

// gate reads the fields, and splits the request target. The absolute form becomes the
// origin form, which is all that an upstream is sent.
func (c *call) gate() *problem {
	c.readFields()
	h := &c.ctx.Request.Header
	uri := h.RequestURI()
	if len(uri) > 0 && uri[0] != '/' {
		if string(uri) == "*" && h.IsOptions() {
			c.path = uri
			return nil
		}
		rest, ok := cutAuthority(uri)
		if !ok {
			return malformedRequest.because("the request target is neither a path nor an http URL")
		}
		h.SetRequestURIBytes(rest)
		uri = h.RequestURI()
	}
	c.path, c.query, _ = bytes.Cut(uri, []byte("?"))
	return nil
}

// cutAuthority returns the path of http://host/path.
func cutAuthority(uri []byte) (rest []byte, ok bool) {
	for _, scheme := range []string{"http://", "https://"} {
		if len(uri) < len(scheme) || !bytes.EqualFold(uri[:len(scheme)], []byte(scheme)) {
			continue
		}
		rest = uri[len(scheme):]
		end := bytes.IndexAny(rest, "/?")
		if end < 0 {
			return []byte("/"), true
		}
		if rest = rest[end:]; rest[0] == '?' {
			rest = append([]byte("/"), rest...)
		}
		return bytes.Clone(rest), true
	}
	return nil, false
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
	problem := malformedRequest.because("the request is not valid HTTP/1.1, or broke off")
	e := entryOf(ctx.Conn())
	refusal := e.screen.Refusal()
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		problem = bodyTooLarge.because(fmt.Sprintf("the body has more than %d bytes", p.Config().MaxBody))
	case errors.As(err, &tooLarge):
		problem = headersTooLarge.because(fmt.Sprintf("the header section has more than %d bytes", p.Config().MaxHeader))
	case isTimeout(err):
		problem = requestTimeout.because("the request was not complete in time")
	case refusal != nil:
		problem = refused[refusal.Reason].because(refusal.Detail)
	}
	e.unread.Store(true)
	c := p.begin(ctx)
	defer c.unpin()
	c.arrived = time.Now() // the server's own note may be of the request before
	c.answer(problem)
}
