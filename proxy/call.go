package proxy

import (
	"net/netip"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/peer"
	"lanekeeper/proxy/idempotency"
	"lanekeeper/queue"
)

// call is one request on its way through this node. Its memory is used again
// for later requests.
type call struct {
	proxy   *Proxy
	own     queue.Ticket
	key     []byte       // the lane's name, space:key
	scratch []byte       // the head for the upstream, and a small body
	effect  queue.Effect // see doing

	elsewhere *peer.Call // the last one that ended

	// pins counts who still needs the call: its handler, and whoever streams
	// its response or holds its lane after the handler has returned.
	pins atomic.Int32
	// keeps counts the attempts that were given up while another followed: the turn is not
	// over before the last of them, whatever the call itself does.
	keeps atomic.Int32

	request
}

// request is what a call knows of its present request.
type request struct {
	*setup // that it came under, and keeps

	ctx         *fasthttp.RequestCtx
	arrived     time.Time
	fields      fields
	path, query []byte // of the target, as sent; they alias ctx
	address     netip.Addr
	route       *route
	lane        *Lane // how it queues and runs: the route's, or that of its ingress
	captures    captures
	mode        mode

	ticket   *queue.Ticket
	place    queue.Request   // what it asked the lanes for
	origin   queue.Origin    // which it names
	refusal  error           // their answer
	from     *forwarded      // another node accepted it
	identity *identity       // its name, if it must not run twice
	claimed  idempotency.Run // of that name, while it runs
	sequence *sequenced      // its number, if its producer numbers them
	aside    *spill          // where it waits for a turn that its key's owner lends
	lent     *turn           // that turn
	first    *queue.Ticket   // its place there, until it is sent to its lane
	owner    string          // another node answered it
	gone     bool            // the client hung up while it waited elsewhere
	left     bool            // or in the middle of its response

	id       queue.ID // of the ticket; zero outside lanes
	depth    int      // tickets before it when it came
	session  session
	turn     bool // the ticket has its turn
	counted  bool // among the requests in flight
	patience time.Duration
	prefers  bool // patience is the client's wish

	// What trusted proxies before this node said of the client, each with a
	// comma behind it.
	forwardedFor, forwardedElements []byte
	protocol                        []byte // to switch to

	link         link      // to the upstream
	deadline     time.Time // of the upstream's answer
	limit        time.Time // which a strict request's deadline may reach while its lease is renewed
	fence        uint64    // of a strict, exclusive request; 0: none
	laneWait     time.Duration
	upstreamTime time.Duration
	interims     int  // of its upstream's responses
	again        bool // another attempt may follow the present one, even if that was sent

	// What is known of it if nobody can say what became of it: see Unknown.
	sentTo     string // the target
	dispatched time.Time
	sentBytes  int
	method     string   // if the head is gone
	broke      *problem // of a response that the client has a part of
	noted      bool     // this has been told, here or by the key's owner

	trace *traced // nil: it has no span here

	problem  *problem
	prepared bool // the head is the upstream's
	answered bool // by the key's owner, or as another request of its name was
	later    bool // the response streams, and the call ends with it
	taken    bool // the client's connection is no longer the server's

	streams      *relay // to the node that accepted the request
	streamLength int    // negative: not known
}

// serve is the whole life of a request.
func (p *Proxy) serve(ctx *fasthttp.RequestCtx) { p.begin(ctx).serve() }

func (c *call) serve() {
	defer c.unpin()
	defer c.rescue()
	c.beginTrace()
	problem := c.run()
	for problem == late {
		problem = c.startOver()
	}
	if !c.later {
		c.free() // before the client is answered: a slow one never holds a lane
	}
	c.answer(problem)
}

func (p *Proxy) begin(ctx *fasthttp.RequestCtx) *call {
	c := p.calls.Get().(*call)
	c.setup = p.setup.Load()
	c.ctx, c.arrived, c.ticket = ctx, ctx.Time(), &c.own
	c.pins.Store(1)
	c.keeps.Store(0)
	return c
}

// run takes the request to its upstream and its response into c.ctx, or says
// why not.
func (c *call) run() *problem {
	if problem := c.gate(); problem != nil {
		return problem
	}
	switch last, problem := c.isLastHop(); {
	case problem != nil:
		return problem
	case last:
		return nil
	}
	if problem := c.match(); problem != nil {
		return problem
	}
	switch {
	case c.fields.refused:
		return c.refuseEarly()
	case c.mode == bypass:
		if c.route.issues {
			if problem := c.pickKey(); problem != nil {
				return problem
			}
		}
		return c.bypass()
	case c.lane.Mode == Observe && c.fields.uploads():
		c.route.metrics.observed[observedNoKey].Inc()
		return c.bypass()
	case c.fields.uploads():
		// The body was hidden by a look at the head that found another route.
		return malformedRequest.because("the request can be read as one outside its lane")
	}
	if c.lane.Mode == Observe {
		return c.observe()
	}
	if problem := c.findKey(); problem != nil {
		return problem
	}
	if c.mode == bypass { // missing: bypass
		return c.bypass()
	}
	if problem := c.identify(); problem != nil {
		return problem
	}
	if problem := c.number(); problem != nil {
		return problem
	}
	if c.fields.upgrades() {
		return upgradeRefused.because("a switched protocol cannot share a lane; route it with bypass for all methods")
	}
	switch problem := c.takeTurns(); {
	case problem == nil && c.answered:
		return nil
	case problem == nil:
		return c.dispatch()
	case problem.kind == reentrantLane && c.lane.Reentrant == PassReentry:
		return c.bypass() // inside its holder's turn
	default:
		return problem
	}
}

// observe takes the request's place without waiting for it, and counts whether
// it would have had to. A request whose key cannot be told passes all the same:
// watching must not change what it watches.
func (c *call) observe() *problem {
	if problem := c.findKey(); problem != nil || c.mode == bypass {
		c.route.metrics.observed[observedNoKey].Inc()
		return c.bypass()
	}
	// Watched where it came: to ask its owner would make it wait.
	r := queue.Request{Key: c.key, Partition: queue.Unowned, Class: c.class(), Observe: true, MaxShared: c.lane.MaxShared, Tag: c.route.index}
	if err := c.proxy.lanes.Admit(c.ticket, &r); err != nil {
		c.route.metrics.observed[observedNoRoom].Inc()
		return c.bypass()
	}
	c.place.Partition = queue.Unowned
	c.admitted()
	c.turn = true
	if c.ticket.Overlapped {
		c.route.metrics.observed[observedOverlap].Inc()
	} else {
		c.route.metrics.observed[observedClear].Inc()
	}
	return c.dispatch()
}

func (c *call) class() queue.Class {
	if c.mode == shared {
		return queue.Shared
	}
	return queue.Exclusive
}

// answer completes c.ctx.Response.
func (c *call) answer(problem *problem) {
	response := &c.ctx.Response
	c.problem = problem
	switch {
	case problem == nil:
	case problem.kind == clientGone:
		c.ctx.Conn().Close() // nobody is answered
	default:
		unread := c.fields.uploads()
		problem.write(response, c.about())
		if unread {
			c.leaveUnread()
		}
	}
	c.addSession(response)
	if c.prefers {
		response.Header.Set("Preference-Applied", "wait="+strconv.Itoa(int(c.patience/time.Second)))
	}
	if c.proxy.retiring.Load() || !c.taken && c.strays() {
		response.SetConnectionClose()
	}
	if c.config.ServerTiming && c.route != nil && c.mode != bypass {
		response.Header.Add("Server-Timing", c.timing())
	}
	if c.config.TicketHeader && !c.id.IsZero() {
		response.Header.Set(headerTicket, c.id.String())
	}
	if !c.later {
		c.finish()
	}
}

// timing says where the time went, as W3C Server Timing: milliseconds in the lane and at
// the upstream, apart. A response that streams is not over, and says the lane's alone.
func (c *call) timing() string {
	b := strconv.AppendFloat([]byte("lane;dur="), milliseconds(c.laneWait), 'f', 3, 64)
	if c.upstreamTime > 0 {
		b = strconv.AppendFloat(append(b, ", upstream;dur="...), milliseconds(c.upstreamTime), 'f', 3, 64)
	}
	return string(b)
}

// leaveUnread ends the connection with the answer: the request's body is still on its way,
// and would be taken for the next request.
func (c *call) leaveUnread() {
	c.ctx.Response.SetConnectionClose()
	entryOf(c.ctx.Conn()).unread.Store(true)
}

// strays reports whether the client has sent something else than requests: it asked
// for another protocol, and began before it was answered in this one.
func (c *call) strays() bool {
	e := entryOf(c.ctx.Conn())
	return e != nil && !e.screen.Resume()
}

func (c *call) about() document {
	about := document{}
	if !c.id.IsZero() {
		about.Instance = "urn:uuid:" + c.id.String()
		about.QueueDepth = &c.depth
	}
	if c.route != nil {
		about.Route, about.Space = c.route.Name, c.route.Key.Space
	}
	return about
}

// finish records a request that has been answered.
func (c *call) finish() {
	c.noteUnknown(c.problem)
	c.endTrace()
	if c.from != nil {
		c.route.metrics.ran(c)
		return // its ingress tells the rest
	}
	c.proxy.metrics.finish(c)
	c.logAccess()
}

// rescue keeps a panic from costing more than its request. The lane is freed:
// whatever the upstream does with the request, nobody can wait for it any more.
func (c *call) rescue() {
	cause := recover()
	if cause == nil {
		return
	}
	c.panicked(cause)
	c.link.close()
	c.halt(internalError.slug)
	c.free()
	c.later = false
	c.answer(internalError.because("the cause is in the log"))
}

// panicked tells the log.
func (c *call) panicked(cause any) {
	line := []any{"panic", cause, "stack", string(debug.Stack())}
	if id := c.traceID(); id != "" {
		line = append(line, "trace_id", id)
	}
	c.proxy.log.Error("panic in a request", line...)
}

// pin keeps c after its handler has returned.
func (c *call) pin() { c.pins.Add(1) }

func (c *call) unpin() {
	if c.pins.Add(-1) > 0 {
		return
	}
	c.leaveName()
	if c.from != nil {
		c.proxy.releaseContext(c.ctx)
	}
	c.request, c.key = request{}, c.key[:0]
	if cap(c.scratch) > keptScratch {
		c.scratch = nil
	}
	c.proxy.calls.Put(c)
}

// keptScratch is the largest buffer that a call keeps for its next request.
const keptScratch = 32 << 10
