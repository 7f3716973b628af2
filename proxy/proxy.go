package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/peer"
	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/sequence"
	"lanekeeper/queue"
)

// Proxy serves requests by its routes. Its methods are safe for concurrent use.
type Proxy struct {
	config    Config
	lanes     *queue.Lanes
	log       *slog.Logger
	routes    []*route
	upstreams []*upstream
	server    *fasthttp.Server
	metrics   *metrics
	via       string // this node, in the Via field

	inflight atomic.Int64 // requests at upstreams
	open     atomic.Int64 // client connections
	retiring atomic.Bool  // every answer closes its connection
	calls    sync.Pool    // of *call

	clients    clients
	listeners  listeners
	background background // goroutines that outlive their request
	turns      *turns
	names      names
	stopping   chan struct{} // closed by Stop
	stops      sync.Once     // for stopping
	lender     *lender
	spills     *spills
	retrying   *retrying
}

// New returns a Proxy whose requests queue in lanes. It starts nothing.
// Config.Tags of lanes must be at least the number of routes.
func New(config Config, lanes *queue.Lanes, log *slog.Logger) (*Proxy, error) {
	p := &Proxy{config: config, lanes: lanes, log: log, via: "1.1 lanekeeper", turns: newTurns(), retrying: newRetrying()}
	if config.ViaNode {
		p.via += " (" + config.Node + ")"
	}
	p.lender, p.spills = &lender{proxy: p, turns: make(map[queue.ID]*lentTurn)}, newSpills(p)
	p.stopping = make(chan struct{})
	if p.config.Marks == nil {
		p.config.Marks = sequence.New(sequence.Config{})
	}
	p.names.counts = make(map[[32]byte]int)
	p.background.conns = make(map[net.Conn]struct{})
	p.clients.conns = make(map[net.Conn]bool)
	p.calls.New = func() any { return &call{proxy: p} }
	for _, u := range config.Upstreams {
		upstream, err := newUpstream(u, config.MaxHeader)
		if err != nil {
			return nil, err
		}
		p.upstreams = append(p.upstreams, upstream)
	}
	for i, r := range config.Routes {
		route, err := newRoute(r, i)
		if err != nil {
			return nil, err
		}
		if route.issues && config.Sessions == nil {
			return nil, fmt.Errorf("route %s: it issues sessions, and nothing says how", r.Name)
		}
		at := slices.IndexFunc(p.upstreams, func(u *upstream) bool { return u.Name == r.Upstream })
		if at < 0 {
			return nil, fmt.Errorf("route %s: there is no upstream %q", r.Name, r.Upstream)
		}
		route.upstream = p.upstreams[at]
		p.routes = append(p.routes, route)
	}
	learnEffects(p.routes)
	p.metrics = newMetrics(p)
	p.server = p.newServer()
	return p, nil
}

// lingerMax is how long Stop leaves idle connections open. A client that sends
// on one in the moment in which it is closed does not know what became of its
// request, so as few as possible are closed under their clients' hands.
const lingerMax = 500 * time.Millisecond

func (p *Proxy) linger(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lingerMax)
	defer cancel()
	tick := time.NewTicker(lingerMax / 50)
	defer tick.Stop()
	for p.open.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Serve accepts connections until Stop. It returns nil after Stop.
func (p *Proxy) Serve(listener net.Listener) error {
	limited := &limitedListener{Listener: listener, proxy: p}
	if !p.listeners.add(limited) {
		return limited.Close()
	}
	err := p.server.Serve(limited)
	if p.listeners.isClosed() {
		return nil
	}
	return err
}

// Stop closes the listeners, then, after a moment in which whoever uses a
// connection is told to leave it, the idle connections, and waits until every
// request has been answered. When ctx ends first, it closes what is left and
// returns ctx's error. Lanes are to be drained before.
func (p *Proxy) Stop(ctx context.Context) error {
	// In this order: a client that is told to leave comes back at once, and a
	// connection that nobody has accepted when a listener closes is reset.
	p.stops.Do(func() { close(p.stopping) })
	p.listeners.close()
	p.retiring.Store(true)
	p.Retry(false)
	p.linger(ctx)
	p.clients.close(false)
	err := p.server.ShutdownWithContext(ctx)
	if err != nil {
		p.clients.close(true)
	}
	p.spills.stop()
	p.lender.stop()
	p.background.stop()
	p.turns.stop()
	for _, u := range p.upstreams {
		u.close()
	}
	return err
}

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
	again        bool // another attempt may follow the present one, even if that was sent

	// What is known of it if nobody can say what became of it: see Unknown.
	sentTo     string // the target
	dispatched time.Time
	sentBytes  int
	method     string   // if the head is gone
	broke      *problem // of a response that the client has a part of
	noted      bool     // this has been told, here or by the key's owner

	problem  *problem
	prepared bool // the head is the upstream's
	answered bool // by the key's owner
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
	problem := c.run()
	if !c.later {
		c.free() // before the client is answered: a slow one never holds a lane
	}
	c.answer(problem)
}

func (p *Proxy) begin(ctx *fasthttp.RequestCtx) *call {
	c := p.calls.Get().(*call)
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

// takeTurn takes a ticket and waits for its turn, here or, if its lane is
// another node's, there, which then also answers it. The body is already here,
// so that a slow client never holds a lane.
func (c *call) takeTurn() *problem {
	lane := c.lane
	c.patience = lane.QueueTimeout
	if wait, ok := preferredWait(c.fields.prefer); ok {
		c.prefers, c.patience = true, min(wait, c.patience)
	}
	c.place = c.placeFor(len(c.ctx.Request.Body()))
	if cluster := c.proxy.config.Cluster; cluster != nil {
		if err := cluster.Ready(); err != nil {
			return notReady.because(err.Error())
		}
		c.place.Partition = cluster.Partition(c.key)
		if !cluster.Enter(c.place.Partition, c) {
			return c.forward()
		}
		if c.aside == nil {
			c.proxy.metrics.local.Inc()
		}
	} else {
		c.AdmitHere(queue.ID{})
	}
	return c.turnHere()
}

// placeFor is what the request asks the lanes for.
func (c *call) placeFor(body int) queue.Request {
	lane := c.lane
	return queue.Request{
		Key: c.key, Class: c.class(), Bytes: body,
		MaxDepth: lane.MaxDepth, MaxBytes: lane.MaxBytes, MaxShared: lane.MaxShared,
		Hot: lane.Hot, ShedDepth: lane.shedDepth(), RefuseHalted: lane.AfterFailure.RefuseHalted,
		Holder: c.fields.holder, Tag: c.route.index, Effect: c.doing(),
	}
}

// turnHere waits for the turn of a request whose place is in this node's lanes.
func (c *call) turnHere() *problem {
	c.admitted()
	if c.refusal != nil {
		return c.notAdmitted(c.refusal)
	}
	problem := c.wait()
	if c.aside == nil {
		return problem
	}
	if problem == nil {
		problem = c.borrow()
	}
	if problem != nil && c.aside != nil {
		c.aside.leave()
	}
	return problem
}

func (c *call) admitted() {
	c.id, c.depth = c.ticket.ID, c.ticket.Depth
	c.session.used = true
	if c.lane.SpillLocks && c.ticket.Hot && c.mode == exclusive {
		c.proxy.spills.hint(c) // the owner's own requests need the lock as well
	}
}

func (c *call) notAdmitted(err error) *problem {
	switch {
	case errors.Is(err, errInProgress):
		c.named("conflict")
		return idempotencyInProgress.after(0, "a request of this name waits or runs")
	case errors.As(err, new(*queue.HaltedError)):
		return laneHalted.because(err.Error())
	case errors.Is(err, queue.ErrLaneFull):
		return laneFull.after(time.Duration(c.depth)*c.ticket.Service, fmt.Sprintf("%d requests wait for this key already", c.depth))
	case errors.Is(err, queue.ErrShed):
		c.route.metrics.shed.Inc()
		return laneFull.after(time.Duration(c.depth)*c.ticket.Service, fmt.Sprintf("this key is hot, and %d requests wait for it already", c.depth))
	case errors.Is(err, queue.ErrOverloaded):
		return overloaded.because("the node's limit of waiting requests, their bytes, or lanes is reached")
	case errors.Is(err, queue.ErrReentrant):
		return reentrantLane.because("this request carries the ticket of the one that runs for its key, which waits for it")
	case errors.Is(err, queue.ErrClosed):
		return draining.because("this node takes no new requests")
	}
	panic("proxy: unknown refusal: " + err.Error())
}

const (
	firstLook = 250 * time.Millisecond // at the client of a waiting request: is it still there?
	lastLook  = 2 * time.Second        // looks become rarer up to this, so that many waiting requests cost little
)

// wait blocks until the request's turn, its patience's end, or its client's.
func (c *call) wait() *problem {
	if c.ticket.Turn() {
		c.turn = true
		return nil
	}
	skips := c.lane.ClientGone == Skip
	deadline := c.arrived.Add(c.patience)
	for look := firstLook; ; look = min(2*look, lastLook) {
		until := deadline
		if next := time.Now().Add(look); skips && next.Before(deadline) {
			until = next
		}
		switch err := c.ticket.Wait(until); {
		case err == nil:
			c.turn, c.laneWait = true, c.ticket.Waited()
			if skips && c.laneWait > 0 && hungUp(c.ctx.Conn()) {
				return clientGone.because("")
			}
			return nil
		case !errors.Is(err, queue.ErrNotYet):
			return c.ended(err)
		}
		gone := until != deadline && hungUp(c.ctx.Conn())
		if until != deadline && !gone || !c.ticket.Leave() {
			continue // if it could not leave, its turn came in the same moment
		}
		c.laneWait = time.Since(c.arrived)
		if gone {
			return clientGone.because("")
		}
		return laneTimeout.after(time.Duration(c.depth)*c.ticket.Service,
			c.waited())
	}
}

// ErrStopping is why a node that shuts down evicts the tickets that still wait.
var ErrStopping = errors.New("the node shut down before the request's turn")

// evicted answers a request whose ticket was taken out of its lane.
func evicted(cause error) *problem {
	switch {
	case errors.Is(cause, ErrStopping):
		return draining.because(cause.Error())
	case errors.Is(cause, queue.ErrClosed):
		return draining.because("this node ends, and the key's lane is halted")
	case errors.As(cause, new(*queue.HaltedError)):
		return laneHalted.because(cause.Error())
	case errors.Is(cause, queue.ErrCancelled):
		return laneCancelled.because("it waited in a halted lane, which goes on without it")
	}
	return ownershipMoved.because(cause.Error())
}

// dispatch answers the request in its turn.
func (c *call) dispatch() *problem {
	if c.sequence != nil {
		return c.inSequence()
	}
	return c.onceOrNot()
}

// execute sends the request to its upstream.
func (c *call) execute() *problem {
	if !c.enter() {
		return overloaded.because("the node's limit of requests at upstreams is reached")
	}
	c.deadline = time.Now().Add(c.lane.UpstreamTimeout)
	c.limit = c.deadline
	c.prepare()
	return c.attempts()
}

// guard refuses what this node may not send to an upstream any more.
func (c *call) guard() *problem {
	cluster := c.proxy.config.Cluster
	if c.mode == bypass && c.place.Key == nil { // it never asked for a place
		return nil
	}
	if c.borrowed() {
		if problem := c.underLoan(); problem != nil || !c.lent.call.Here {
			return problem
		}
	}
	if cluster == nil || c.place.Partition == queue.Unowned {
		if c.strict() {
			return noOwner.because("this node has no cluster, and so no coordinator")
		}
		return nil
	}
	if err := cluster.Guard(c.place.Partition, c.arrived); err != nil {
		return ownershipMoved.because(err.Error())
	}
	if c.strict() {
		return c.underLease()
	}
	return nil
}

// enter counts a request that goes to an upstream, unless there are too many.
func (c *call) enter() bool {
	if c.proxy.inflight.Add(1) > int64(c.proxy.config.MaxInflight) {
		c.proxy.inflight.Add(-1)
		return false
	}
	c.counted = true
	return true
}

// free ends what the request holds of the node: its turn, and its place among
// the requests in flight. It may be called again.
func (c *call) free() {
	if c.counted {
		c.counted = false
		c.proxy.inflight.Add(-1)
	}
	if c.turn {
		c.turn = false
		if c.endTurn() {
			// The next request of the key goes to the upstream before this one's
			// answer to its client: on a busy lane that is what the lane waits for.
			runtime.Gosched()
		}
	}
}

// endTurn ends a turn, and reports whether it was passed on at this node. Attempts that were
// given up keep it for as long as a held lane is kept.
func (c *call) endTurn() bool {
	if c.keeps.Add(-1) >= 0 {
		c.ticket.Hold()
		return false
	}
	if c.lent != nil {
		c.lent.ran() // first: the next one looks for its own
	}
	return c.ticket.Done()
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
		unread := c.fields.uploads() // a body that would be taken for the next request
		problem.write(response, c.about())
		if unread {
			response.SetConnectionClose()
		}
	}
	c.addSession(response)
	if c.prefers {
		response.Header.Set("Preference-Applied", "wait="+strconv.Itoa(int(c.patience/time.Second)))
	}
	if c.proxy.retiring.Load() {
		response.SetConnectionClose()
	}
	if c.proxy.config.TicketHeader && !c.id.IsZero() {
		response.Header.Set(headerTicket, c.id.String())
	}
	if !c.later {
		c.finish()
	}
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
	c.proxy.log.Error("panic in a request", "panic", cause, "stack", string(debug.Stack()))
	c.link.close()
	c.halt(internalError.slug)
	c.free()
	c.later = false
	c.answer(internalError.because("the cause is in the log"))
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
