package proxy

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/proxy/screen"
	"lanekeeper/proxy/sequence"
	"lanekeeper/queue"
)

// Proxy serves requests by its routes. Its methods are safe for concurrent use.
type Proxy struct {
	lanes   *queue.Lanes
	log     *slog.Logger
	setup   atomic.Pointer[setup] // of requests that come from now on
	reloads sync.Mutex            // taken by who replaces it
	started bool                  // its upstreams are, under reloads
	server  *fasthttp.Server
	metrics *metrics

	inflight atomic.Int64  // requests at upstreams
	open     atomic.Int64  // client connections
	refusing chan struct{} // one for each of them that is refused below TLS
	retiring atomic.Bool   // every answer closes its connection
	calls    sync.Pool     // of *call
	readers  sync.Pool     // of *bufio.Reader, for responses

	limits     atomic.Pointer[screen.Limits]
	deciding   atomic.Pointer[decision] // nil: none
	crowd      crowd
	clients    clients
	strangers  strangers
	listeners  listeners
	wires      wires
	background background // goroutines that outlive their request
	turns      *turns
	holds      holds
	names      names
	stopping   chan struct{} // closed by Stop
	cut        chan struct{} // closed when Stop waits for requests no longer
	cuts       sync.Once     // for cut
	givenUp    atomic.Int64  // requests at other nodes whose outcome nobody knows, since then
	stops      sync.Once     // for stopping
	lender     *lender
	spills     *spills
	retrying   *retrying
	lookout    *lookout
}

// New returns a Proxy whose requests queue in lanes. It starts nothing.
func New(config Config, lanes *queue.Lanes, log *slog.Logger) (*Proxy, error) {
	p := &Proxy{lanes: lanes, log: log, turns: newTurns(), retrying: newRetrying()}
	p.lender, p.spills = &lender{proxy: p, turns: make(map[queue.ID]*lentTurn)}, newSpills(p)
	p.lookout = newLookout(p)
	p.stopping, p.cut = make(chan struct{}), make(chan struct{})
	if config.Marks == nil {
		config.Marks = sequence.New(sequence.Config{})
	}
	p.refusing = make(chan struct{}, refusalsMax)
	p.names.counts = make(map[[32]byte]int)
	p.background.conns = make(map[net.Conn]struct{})
	p.holds.all = make(map[queue.ID][]*holding)
	p.wires.open = make(map[*wire]struct{})
	p.clients.conns = make(map[net.Conn]struct{})
	p.crowd = crowd{max: config.MaxPerAddress, count: make(map[netip.Addr]int)}
	p.calls.New = func() any { return &call{proxy: p} }
	p.readers.New = func() any { return bufio.NewReaderSize(nil, config.MaxHeader) }
	first, err := p.newSetup(config)
	if err != nil {
		return nil, err
	}
	p.install(first)
	p.metrics = newMetrics(p)
	p.metrics.know(first)
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

// Start begins to look after the upstreams: their names and their health. It may be
// called before Serve, so that they are known when the first request comes.
func (p *Proxy) Start() {
	p.reloads.Lock()
	defer p.reloads.Unlock()
	p.started = true
	p.startUpstreams()
}

func (p *Proxy) startUpstreams() {
	for _, u := range p.setup.Load().upstreams {
		u.Start()
	}
}

// Serve accepts connections until Stop. It returns nil after Stop.
func (p *Proxy) Serve(listener net.Listener) error {
	p.Start()
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

const cutTime = time.Second

// GivenUp is how many requests were at other nodes when Stop cut them off, so that their
// outcome is unknown.
func (p *Proxy) GivenUp() int { return int(p.givenUp.Load()) }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Stop closes the listeners, then, after a moment in which whoever uses a
// connection is told to leave it, the idle connections, and waits until every
// request has been answered. When ctx ends first, it ends what is left and returns
// ctx's error: connections to upstreams are cut, so that each request that one had is
// told of as unknown, to its client too, who has cutTime to read that, and so is one that
// is at another node and runs, or may; one that waits there is taken out of its lane. Lanes
// are to be drained before.
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
		p.cuts.Do(func() { close(p.cut) })
		p.wires.cut()
		p.clients.await(cutTime)
		p.clients.close(true)
	}
	p.spills.stop()
	p.lender.stop()
	p.background.stop()
	p.turns.stop()
	for _, u := range p.setup.Load().upstreams {
		u.Close()
	}
	return err
}
