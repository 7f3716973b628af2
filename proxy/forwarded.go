package proxy

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/valyala/fasthttp"

	"lanekeeper/peer"
	"lanekeeper/proxy/sequence"
	"lanekeeper/queue"
)

// forwarded is a request that another node accepted, and that runs here because
// its lane is here. It has no goroutine before its turn.
type forwarded struct {
	*peer.Inbound
	call     *call // until its turn is over
	limits   Lane  // of the ingress's route
	granted  atomic.Bool
	patience atomic.Pointer[time.Timer] // runs while it waits
}

// ServeForwarded takes the ticket of a request that another node forwarded, as
// peer.Config.Serve wants it: it returns a refusal, or true, or false if the
// request's partition is not this node's.
func (p *Proxy) ServeForwarded(in *peer.Inbound) (*peer.Response, bool) {
	now := p.setup.Load()
	route := now.routeNamed(in.Route)
	switch {
	case route == nil:
		return &peer.Response{Problem: notReady.slug, Detail: "the key's owner has no route of this name: the nodes' configurations differ"}, true
	case now.config.Cluster.Partition(in.Key) != in.Partition: // or its key would have two lanes
		return &peer.Response{Problem: notReady.slug, Detail: "the key's owner has it in another partition"}, true
	case in.Turn:
		return p.lender.serve(in, route)
	}
	c := p.beginForwarded(in, now, route)
	f := c.from
	in.Ticket.Notify = func() {
		f.granted.Store(true)
		p.turns.begin(c)
	}
	err := c.enterName()
	place := c.place
	if err == nil {
		err = p.lanes.Admit(&in.Ticket, &place)
	}
	if err == nil {
		f.expire()
		return nil, true // c is Notify's by now
	}
	defer c.unpin()
	if err == queue.ErrSealed { //nolint:errorlint // Admit returns it as it is
		return nil, false
	}
	c.depth = in.Ticket.Depth
	c.problem = c.notAdmitted(err)
	c.finish()
	return c.problemResponse(c.problem), true
}

func (p *Proxy) beginForwarded(in *peer.Inbound, now *setup, route *route) *call {
	f := &forwarded{Inbound: in, limits: Lane{
		MaxResponse: in.MaxResponse, UpstreamTimeout: in.UpstreamTimeout, Retries: in.Retries, HoldFor: in.HoldFor, Strict: in.Strict,
	}}
	if in.HoldFor == 0 {
		f.limits.AfterTimeout = Release
	}
	c := p.calls.Get().(*call)
	f.call, c.setup = c, now
	c.pins.Store(1)
	c.keeps.Store(0)
	c.ctx = contexts.Get().(*fasthttp.RequestCtx)
	c.ctx.Response.Header.SetNoDefaultContentType(true) // as newServer has it
	if in.ToHead {
		c.ctx.Request.Header.SetMethod(fasthttp.MethodHead)
	}
	c.from, c.route, c.lane, c.arrived = f, route, &f.limits, time.Now()
	c.mode, c.prepared = exclusive, true
	if in.Class == queue.Shared {
		c.mode = shared
	}
	c.key, c.id, c.ticket = append(c.key[:0], in.Key...), in.Request.Ticket, &in.Ticket
	c.patience = in.Patience
	if in.Identity != nil {
		c.identity = &identity{Identity: *in.Identity, rule: &route.Idempotency}
		in.Left = c.leaveName
	}
	if n := in.Sequence; n != nil {
		c.sequence = &sequenced{Number: sequence.Number{Producer: n.Producer, Epoch: n.Epoch, Seq: n.Seq}, named: n.Named}
		if n.Named && c.identity != nil {
			c.identity.rule = &route.ofNumbers
		}
	}
	c.place = queue.Request{
		Key: in.Key, Partition: in.Partition, Class: in.Class, Bytes: in.BodySize,
		MaxDepth: in.MaxDepth, MaxBytes: in.MaxBytes, MaxShared: in.MaxShared,
		// This node's own: whether a key is hot is a matter of its lane, which no
		// two nodes may see by two rules.
		Hot: route.Lane.Hot, ShedDepth: route.Lane.shedDepth(), RefuseHalted: route.Lane.AfterFailure.RefuseHalted,
		ID: in.Request.Ticket, Holder: in.Holder, Tag: route.index, Effect: in.Effect,
		Origin: c.cameFrom(in.Ingress.Name, in.Head),
	}
	c.beginForwardedTrace()
	return c
}

// contexts are for requests that other nodes accepted.
var contexts = sync.Pool{New: func() any {
	ctx := new(fasthttp.RequestCtx)
	// No bytes of responses in logs, as newServer has it. Only fasthttp itself can
	// say so to a response: it is lent to a client that goes nowhere.
	client := fasthttp.HostClient{SecureErrorLogMessage: true, Transport: nowhere{}}
	client.Do(&ctx.Request, &ctx.Response) //nolint:errcheck // as meant
	ctx.Request.Reset()
	return ctx
}}

type nowhere struct{}

func (nowhere) RoundTrip(*fasthttp.HostClient, *fasthttp.Request, *fasthttp.Response) (bool, error) {
	return false, errors.ErrUnsupported
}

func (p *Proxy) releaseContext(ctx *fasthttp.RequestCtx) {
	ctx.Request.Reset()
	ctx.Response.Reset()
	contexts.Put(ctx)
}

// expire ends the wait of a request whose ingress has no more patience. The timer
// outlives a request that the hop takes out of its lane, and does not keep it.
func (f *forwarded) expire() {
	if f.granted.Load() {
		return
	}
	waiting := weak.Make(f)
	f.patience.Store(time.AfterFunc(f.Patience, func() {
		f := waiting.Value()
		if f == nil || !f.Ticket.Leave() {
			return
		}
		c := f.call // it never had its turn, and never will
		defer c.unpin()
		defer c.rescueForwarded()
		c.depth, c.laneWait, c.patience = f.Ticket.Depth, f.Patience, f.Patience
		c.respond(laneTimeout.after(time.Duration(c.depth)*f.Ticket.Service, c.waited()))
		c.finish()
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
		c.respondStream(c.streams, c.streamLength) // who has the call from here on
		return
	}
	c.free() // the lane goes on before its last answer is on its way
	c.noteUnknown(problem)
	c.respond(problem)
	c.finish()
}

func (c *call) forwardedTurn() *problem {
	if timer := c.from.patience.Load(); timer != nil {
		timer.Stop()
	}
	c.depth = c.ticket.Depth
	if err := c.ticket.Granted(); err != nil {
		return c.ended(err)
	}
	c.turn, c.laneWait = true, c.ticket.Waited()
	c.endWait(nil)
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
		Head: c.responseHead(len(body)), Body: body, Spills: c.spills(),
	})
}

// respondStream answers with a response that is fetched from r. Stop ends it.
func (c *call) respondStream(r *relay, length int) {
	response := &peer.Response{LaneWait: c.laneWait, Depth: c.depth, Head: c.responseHead(length), Spills: c.spills()}
	unwatch := c.proxy.background.watch(c.link.wire)
	c.method = c.methodName()
	c.from.RespondStream(response, struct{ io.Reader }{r}, c.last(), func(bool) {
		unwatch()
		r.Close() //nolint:errcheck // it has no error
	})
}

// watch has stop close a connection, until it is called off. Unlike enter it
// counts no goroutine: the hop waits for those that read from it.
func (b *background) watch(conn net.Conn) (unwatch func()) {
	own := &struct{ net.Conn }{conn} // the connection may be used, and watched, again before that
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns[own] = struct{}{}
	if b.stopped {
		conn.Close()
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.conns, own)
	}
}

func (c *call) problemResponse(problem *problem) *peer.Response {
	executed := peer.NotExecuted
	if problem.executed == unknown {
		executed = peer.Unknown
	}
	return &peer.Response{
		Problem: problem.slug, Status: problem.bare(), Executed: executed, Detail: problem.detail, RetryAfter: problem.retryAfter,
		Depth: c.depth, LaneWait: c.laneWait, UpstreamTime: c.upstreamTime, Spills: c.spills(),
	}
}

// spills reports whether the key is so hot that its requests had better wait where
// they come to.
func (c *call) spills() bool { return c.route.Lane.Spill && c.ticket.Hot }

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
	framed := bare
	for name, value := range h.All() {
		switch string(name) {
		case "Connection":
			continue
		case "Transfer-Encoding":
			if !bare && length >= 0 {
				continue
			}
			framed = true
		case "Content-Length":
			if !bare {
				continue
			}
		}
		b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
	}
	switch {
	case framed:
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
	c.panicked(cause)
	c.link.close()
	c.halt(internalError.slug)
	c.free()
	problem := internalError.because("the cause is in the log")
	c.noteUnknown(problem)
	c.respond(problem)
	c.endTrace()
}
