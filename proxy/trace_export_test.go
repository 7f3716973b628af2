package proxy

import (
	"time"

	"github.com/valyala/fasthttp"
)

// LifeWithoutTrace is all that a request of a node without a Tracer has to do with traces.
func LifeWithoutTrace() func() {
	ctx := new(fasthttp.RequestCtx)
	ctx.Request.Header.Set(headerTraceparent, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	c := &call{}
	c.setup = &setup{}
	c.ctx, c.from = ctx, &forwarded{}
	buffer := make([]byte, 0, 1024)
	return func() {
		c.beginTrace()
		c.beginForwardedTrace()
		c.beginWait(time.Time{})
		c.endWait(nil)
		c.beginSend(nil)
		buffer = c.appendTrace(buffer[:0])
		c.endSend(nil)
		c.endTrace()
	}
}
