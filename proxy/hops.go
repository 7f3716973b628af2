package proxy

import (
	"bytes"
	"strconv"

	"github.com/valyala/fasthttp"
)

// Who asks for the OPTIONS of a chain of proxies may say how far the question goes (RFC
// 9110, section 7.6.2). With other methods the field says nothing: TRACE is refused.

// hopsMax is the most that this node counts down from.
const hopsMax = 1<<31 - 1

// isLastHop answers an OPTIONS that may go no further, whatever its route.
func (c *call) isLastHop() (last bool, _ *problem) {
	if c.fields.hops == nil || !c.ctx.Request.Header.IsOptions() {
		return false, nil
	}
	hops, ok := countOf(c.fields.hops)
	switch {
	case !ok:
		return false, malformedRequest.because("Max-Forwards is no number")
	case hops > 0:
		return false, nil
	}
	if c.fields.uploads() {
		c.leaveUnread()
	}
	c.ctx.Response.SetStatusCode(fasthttp.StatusOK) // without a body, the answer of a server that has no more to say
	return true, nil
}

// countHop takes this node from the number of hops that an OPTIONS may make.
func (c *call) countHop(h *fasthttp.RequestHeader) {
	if c.fields.hops == nil || !h.IsOptions() {
		return
	}
	if hops, ok := countOf(h.Peek("Max-Forwards")); ok && hops > 0 {
		h.Set("Max-Forwards", strconv.Itoa(hops-1))
	}
}

// countOf is a field's number, or hopsMax if that is less.
func countOf(field []byte) (n int, ok bool) {
	for _, digit := range field {
		if digit < '0' || digit > '9' {
			return 0, false
		}
	}
	if digits := bytes.TrimLeft(field, "0"); len(digits) > len("2147483647") {
		return hopsMax, true
	}
	long, err := strconv.ParseInt(string(field), 10, 64)
	return int(min(long, hopsMax)), err == nil
}
