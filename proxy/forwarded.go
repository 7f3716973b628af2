package proxy

import (
	"fmt"
	"io"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/peer"
	"lanekeeper/queue"
)

// forwarded is a request that another node accepted, and that runs here because
// its lane is here. It costs no goroutine before its turn.
type forwarded struct {
	*peer.Inbound
	limits   Lane // of the ingress's route
	granted  atomic.Bool
	patience atomic.Pointer[time.Timer] // runs while it waits
}

// ServeForwarded takes the ticket of a request that another node forwarded, as
// peer.Config.Serve wants it: it returns a refusal, or true, or false if the
// request's partition is not this node's.
func (p *Proxy) ServeForwarded(in *peer.Inbound) (*peer.Response, bool) {
	route := p.routeNamed(in.Route)
	if route == nil {
		return &peer.Response{Problem: notReady.slug, Detail: "the key's owner has no route of this name: the nodes' configurations differ"}, true
	}
	c := p.beginForwarded(in, route)
	f := c.from
	in.Ticket.Notify = func() {
		f.granted.Store(true)
		go c.runForwarded() // ends with its answer; Stop waits for the hop, and that for its answers
	}
	place := c.place
	err := p.lanes.Admit(&in.Ticket, &place)
	if err == nil {
		f.expire()
		return nil, true // c is Notify's by now
	}
	defer c.unpin()
	if err == queue.ErrSealed { //nolint:errorlint // Admit returns it as it is
		return nil, false
	}
	c.depth = in.Ticket.Depth
	return c.problemResponse(c.notAdmitted(err)), true
}

func (p *Proxy) routeNamed(name string) *route {
	for _, r := range p.routes {
		if r.Name == name {
			return r
		}
	}
	return nil
}

func (p *Proxy) beginForwarded(in *peer.Inbound, route *route) *call {
	f := &forwarded{Inbound: in, limits: Lane{
		MaxResponse: in.MaxResponse, UpstreamTimeout: in.UpstreamTimeout, Retries: in.Retries, HoldFor: in.HoldFor,
	}}
	if in.HoldFor == 0 {
		f.limits.AfterTimeout = Release
	}
	c := p.calls.Get().(*call)
	c.pins.Store(1)
	c.ctx = p.contexts.Get().(*fasthttp.RequestCtx)
	if in.ToHead {
		c.ctx.Request.Header.SetMethod(fasthttp.MethodHead)
	}
	c.from, c.route, c.lane, c.arrived = f, route, &f.limits, time.Now()
	c.mode, c.prepared = exclusive, true
	if in.Class == queue.Shared {
		c.mode = shared
	}
	c.key, c.id, c.ticket = append(c.key[:0], in.Key...), in.Request.Ticket, &in.Ticket
	c.place = queue.Request{
		Key: in.Key, Partition: in.Partition, Class: in.Class, Bytes: in.BodySize,
		MaxDepth: in.MaxDepth, MaxBytes: in.MaxBytes, MaxShared: in.MaxShared,
		ID: in.Request.Ticket, Holder: in.Holder, Tag: route.index,
	}
	return c
}

func (p *Proxy) releaseContext(ctx *fasthttp.RequestCtx) {
	ctx.Request.Reset()
	ctx.Response.Reset()
	p.contexts.Put(ctx)
}

// expire ends the wait of a request whose ingress has no more patience.
func (f *forwarded) expire() {
	if f.granted.Load() {
		return
	}
	f.patience.Store(time.AfterFunc(f.Patience, func() {
		if f.Ticket.Leave() {
			f.Respond(&peer.Response{
				Problem: laneTimeout.slug, Depth: f.Ticket.Depth, RetryAfter: time.Duration(f.Ticket.Depth) * f.Ticket.Service,
				Detail: fmt.Sprintf("it waited behind %d others", f.Ticket.Depth), LaneWait: f.Patience,
			})
		}
	}))
	if f.granted.Load() { // in the meantime
		f.patience.Load().Stop()
	}
}

// runForwarded is a forwarded request's turn, or its eviction.
func (c *call) runForwarded() {
	defer c.unpin()
	defer c.rescueForwarded()
	problem := c.forwardedTurn()
	if c.later {
		return
	}
	c.free() // the lane goes on before its last answer is on its way
	c.respond(problem)
	c.finish()
}

func (c *call) forwardedTurn() *problem {
	if timer := c.from.patience.Load(); timer != nil {
		timer.Stop()
	}
	if err := c.ticket.Granted(); err != nil {
		return evicted(err)
	}
	c.turn, c.laneWait, c.depth = true, c.ticket.Waited(), c.ticket.Depth
	if err := c.from.Await(time.Now().Add(c.from.UpstreamTimeout)); err != nil {
		return laneTimeout.because("its body did not arrive at the key's owner in time")
	}
	return c.dispatch()
}

// body is the request's, whole.
func (c *call) body() []byte {
	if c.from != nil {
		return c.from.Body
	}
	return c.ctx.Request.Body()
}

// respond answers a forwarded request.
func (c *call) respond(problem *problem) {
	if problem != nil {
		c.problem = problem
		c.from.Respond(c.problemResponse(problem))
		return
	}
	response := &c.ctx.Response
	body := response.Body()
	c.from.Respond(&peer.Response{
		LaneWait: c.laneWait, UpstreamTime: c.upstreamTime, Depth: c.depth,
		Head: c.responseHead(len(body)), Body: body,
	})
}

// respondStream answers with a response that is fetched from r.
func (c *call) respondStream(r *relay, length int) {
	response := &peer.Response{LaneWait: c.laneWait, Depth: c.depth, Head: c.responseHead(length)}
	c.from.RespondStream(response, struct{ io.Reader }{r}, func(bool) { r.Close() }) //nolint:errcheck // it has no error
}

func (c *call) problemResponse(problem *problem) *peer.Response {
	executed := peer.NotExecuted
	if problem.executed == unknown {
		executed = peer.Unknown
	}
	return &peer.Response{
		Problem: problem.slug, Executed: executed, Detail: problem.detail, RetryAfter: problem.retryAfter,
		Depth: c.depth, LaneWait: c.laneWait, UpstreamTime: c.upstreamTime,
	}
}

// responseHead is the response's head as it goes back to the ingress, with the
// framing that it has from here on. length is the body's, or negative.
func (c *call) responseHead(length int) []byte {
	h := &c.ctx.Response.Header
	status := h.StatusCode()
	b := append(c.scratch[:0], "HTTP/1.1 "...)
	b = append(strconv.AppendInt(b, int64(status), 10), ' ')
	reason := h.StatusMessage()
	if len(reason) == 0 {
		reason = []byte(fasthttp.StatusMessage(status))
	}
	b = append(append(b, reason...), "\r\n"...)
	bare := c.ctx.IsHead() || bodiless(status) // its fields speak of another body
	for name, value := range h.All() {
		switch string(name) {
		case "Connection", "Transfer-Encoding":
			continue
		case "Content-Length":
			if !bare {
				continue
			}
		}
		b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
	}
	switch {
	case bare:
	case length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	default:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), int64(length), 10), "\r\n"...)
	}
	c.scratch = append(b, "\r\n"...)
	return c.scratch
}

// rescueForwarded keeps a panic from costing more than its request.
func (c *call) rescueForwarded() {
	cause := recover()
	if cause == nil {
		return
	}
	c.proxy.log.Error("panic in a request", "panic", cause, "stack", string(debug.Stack()))
	c.link.close()
	c.free()
	c.respond(internalError.because("the cause is in the log"))
}
