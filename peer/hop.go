package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

// Config is what a hop is made of. Every function must be safe for concurrent
// use and must not block, unless it says so.
type Config struct {
	Self    ring.Member
	Cluster string
	Layout  uint64 // hash of the layout; members with another one are refused
	Stripes int    // connections to each member; 0 = by the number of processors

	// TLS, if it is not nil, is what both sides of every connection present and
	// demand; see SecretTLS and CertificateTLS.
	TLS *tls.Config
	// Dial opens a connection to a member's address; nil means TCP. It may block.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// NextID draws the name of a ticket, above all before.
	NextID func() queue.ID
	// Owner is who owns a partition as far as this node knows, zero if nobody
	// is known; epoch 0 if only the ring says so.
	Owner func(partition int) (owner ring.Member, epoch uint64)
	// Serve takes the ticket of a forwarded request: it returns a refusal, or
	// nil and true, and then calls in.Respond in time; or nil and false, with
	// nothing done, if the partition is not this node's. It is called under a
	// lock of in's ingress.
	Serve func(in *Inbound) (refusal *Response, mine bool)
	// Control takes a message that another member sent by Hop.Send. payload is
	// not to be retained.
	Control func(from ring.Member, payload []byte)
	// Note takes a message that another member sent by Hop.Note. payload is not to be
	// retained.
	Note func(from ring.Member, payload []byte)
	// Answer answers another member's question; it may block. nil: none are answered.
	Answer func(ctx context.Context, from ring.Member, a *Ask) *Told
	// Aside takes the place of a request, under a lock, before anybody asks whose lane
	// it is, if it is to wait in this node for a turn that its owner lends; it reports
	// whether it did. ask, if it is not nil, enters in its place. nil: there is nothing
	// aside.
	Aside func(local Local) (aside bool, ask *Call)
	// Up tells that a connection to a member has been made, or made again:
	// messages sent before may have been lost.
	Up func(member ring.Member)

	// Requests on their way to other members, and their size; beyond: refused as
	// Overloaded. One member may have four times what is free of either, so that
	// one that is stuck leaves a fifth to the others; and so may those that wait
	// for an owner.
	MaxCalls int
	MaxBytes int64

	Log *slog.Logger

	versions versions // zero: those that this build speaks
}

// Member is a member of the cluster and where its hop listens.
type Member struct {
	ring.Member
	Address string
}

// Timing of the hop. A link is silent for at most pingEvery, so silence for
// silenceMax is a dead connection.
const (
	pingEvery    = time.Second
	silenceMax   = 3500 * time.Millisecond
	greetMax     = 5 * time.Second // from the dialling of a connection to its reply
	writeMax     = 10 * time.Second
	tendEvery    = 100 * time.Millisecond // confirmations wait at most this long
	orphanAfter  = 5 * time.Second        // without a connection, an ingress's waiting requests leave their lanes
	redialLeast  = 10 * time.Millisecond
	redialMost   = time.Second
	retryLeast   = time.Millisecond
	retryMost    = 250 * time.Millisecond
	batchBytes   = 256 << 10 // of one write
	confirmEvery = 64        // answers
	confirmBytes = 1 << 20
)

// Hop is this node's part in the hop, both halves. Its methods are safe for
// concurrent use.
type Hop struct {
	config  Config
	stripes []*stripe
	host    *host
	life    context.Context
	kill    context.CancelFunc
	wg      sync.WaitGroup

	load    load          // of calls that have not ended
	nowhere load          // and of those that entered for nobody in particular
	asking  chan struct{} // holds one for each question that is being asked

	mu      sync.Mutex // guards peers, stopped
	peers   map[ring.Member]*peer
	stopped bool
}

// peer is another member.
type peer struct {
	Member
	life context.Context
	kill context.CancelFunc
	bulk bulkPool
	asks bulkPool
	up   atomic.Int32 // stripes that are connected
	load load         // of calls that were entered for it
}

// stripe is the ordering domain of the partitions that share it: one outbox,
// one mutex, and one connection to each member.
type stripe struct {
	hop    *Hop
	number int

	mu      sync.Mutex // guards the rest, and every link and call of the outbox
	outbox  *outbox
	retries map[int]time.Duration // paused partitions, and how long the last pause was
}

// wire is what a link is made of.
type wire struct {
	peer *peer
	kick chan struct{} // holds one element when there is something to write
	conn net.Conn      // what carries the present one, or nil; guarded by the stripe's mutex

	round round
}

// New makes a hop that knows no members. It dials nobody before View and is
// dialled by nobody before Serve.
func New(config Config) *Hop {
	if config.Stripes == 0 {
		// One keeps up with four cores; more would only spread the batches.
		config.Stripes = min(max(runtime.GOMAXPROCS(0)/4, 1), 4)
	}
	if config.versions == (versions{}) {
		config.versions = spoken
	}
	if config.Dial == nil {
		var d net.Dialer
		config.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}
	}
	if config.Note == nil {
		config.Note = func(ring.Member, []byte) {}
	}
	h := &Hop{config: config, peers: make(map[ring.Member]*peer), asking: make(chan struct{}, asksMax)}
	h.life, h.kill = context.WithCancel(context.Background())
	for i := range config.Stripes {
		s := &stripe{hop: h, number: i, retries: make(map[int]time.Duration)}
		s.outbox = newOutbox(config.Self, s)
		h.stripes = append(h.stripes, s)
	}
	h.host = newHost(h)
	return h
}

func (h *Hop) stripe(partition int) *stripe { return h.stripes[partition%len(h.stripes)] }

// Enter gives a request its place if its lane is here, or its place aside, and reports
// whether it did. If not, nothing has been done: make a Call and Send it.
func (h *Hop) Enter(partition int, local Local) bool {
	s := h.stripe(partition)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.aside(local) || s.outbox.isHere(partition) && local.AdmitHere(h.config.NextID())
}

// aside reports whether a request has its place aside.
func (s *stripe) aside(local Local) bool {
	if s.hop.config.Aside == nil {
		return false
	}
	aside, ask := s.hop.config.Aside(local)
	if ask != nil {
		s.send(ask)
	}
	return aside
}

// Send gives c its place among the requests of its partition, without blocking.
func (h *Hop) Send(c *Call) {
	s := h.stripe(c.Partition)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.stripe = s
	if !c.Turn && s.aside(c.local) { // since Enter
		c.state, c.Here = ended, true
		c.done <- struct{}{}
		return
	}
	s.send(c)
}

func (s *stripe) send(c *Call) {
	if c.stripe = s; c.Ticket.IsZero() {
		c.Ticket = s.hop.config.NextID() // under the lock, so that ticket order is the order of entering
	}
	copy(c.payload[ticketAt:], c.Ticket[:])
	if !s.charge(c) {
		c.state = ended
		c.Response = Response{Problem: Overloaded, Detail: "too many requests are on their way to other nodes"}
		c.tell()
		return
	}
	s.outbox.enter(c)
}

// Cancel gives c up. If it has not been sent it ends at once, not executed. Else
// its owner is asked to take it out of its lane, and its answer says whether
// that came in time; who cannot wait for it does not know.
func (h *Hop) Cancel(c *Call) {
	s := c.stripe
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outbox.cancel(c)
}

// Pending is how many requests are on their way to other members, or there.
func (h *Hop) Pending() int { return int(h.load.calls.Load()) }

// Routed tells that this node has learnt who owns a partition.
func (h *Hop) Routed(partition int, owner ring.Member, epoch uint64) {
	s := h.stripe(partition)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outbox.routed(partition, owner, epoch)
}

// View tells who the other live members are, and that the ring may have changed.
// What a member that is no longer among them may have run is unknown; what it
// has waiting here leaves its lane. It waits until the functions of Config have
// returned that such a member's messages and requests were given to.
func (h *Hop) View(members []Member) {
	for _, m := range h.view(members) {
		h.host.gone(m) // without the lock: it waits for readers
	}
}

// view returns who is no longer live.
func (h *Hop) view(members []Member) (dead []ring.Member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return nil
	}
	live := make(map[ring.Member]Member, len(members))
	for _, m := range members {
		if m.Member != h.config.Self {
			live[m.Member] = m
		}
	}
	for m, p := range h.peers {
		now, ok := live[m]
		if !ok {
			dead = append(dead, m)
		}
		if !ok || now.Address != p.Address {
			h.removeLocked(p)
		}
	}
	for _, m := range members {
		if _, known := h.peers[m.Member]; !known && m.Member != h.config.Self {
			h.addLocked(m)
		}
	}
	for _, s := range h.stripes {
		s.mu.Lock()
		s.outbox.viewed()
		s.mu.Unlock()
	}
	return dead
}

func (h *Hop) addLocked(m Member) {
	p := &peer{Member: m}
	p.life, p.kill = context.WithCancel(h.life)
	p.bulk.init(h, p)
	p.asks.init(h, p)
	h.peers[m.Member] = p
	for _, s := range h.stripes {
		s.mu.Lock()
		l := s.outbox.join(m.Member)
		l.wire = &wire{peer: p, kick: make(chan struct{}, 1)}
		s.mu.Unlock()
		h.wg.Go(func() { s.keep(l, p) }) // ends with p.life
	}
}

func (h *Hop) removeLocked(p *peer) {
	delete(h.peers, p.Member.Member)
	p.kill()
	p.bulk.close()
	p.asks.close()
	for _, s := range h.stripes {
		s.mu.Lock()
		if l := s.outbox.links[p.Member.Member]; l != nil {
			s.outbox.gone(l)
		}
		s.mu.Unlock()
	}
}

func (h *Hop) peer(m ring.Member) *peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peers[m]
}

// Post sends a message to a member. Messages arrive in order on one connection;
// those of a broken one may be lost, which Up tells. It reports whether there was
// a connection.
func (h *Hop) Post(to ring.Member, payload []byte) bool {
	s := h.stripes[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.outbox.links[to]
	if l == nil || !l.up {
		return false
	}
	l.controls = append(l.controls, payload)
	s.write(l)
	return true
}

// Note sends a message to a member's edge. It may be lost, if the connection breaks or
// there is none, which is reported.
func (h *Hop) Note(to ring.Member, payload []byte) bool {
	s := h.stripes[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.outbox.links[to]
	if l == nil || !l.up {
		return false
	}
	l.notes = append(l.notes, payload)
	s.write(l)
	return true
}

// Connected reports whether there is a connection to a member.
func (h *Hop) Connected(m ring.Member) bool {
	p := h.peer(m)
	return p != nil && p.up.Load() > 0
}

// Serve accepts other members until Stop. It returns nil after Stop.
func (h *Hop) Serve(listener net.Listener) error { return h.host.serve(listener) }

// Freeze closes every connection unread: this node stood still for so long that
// what lies in its sockets may be of another time. When it returns nothing of that
// will be given to the functions of Config any more; so they must not call it.
func (h *Hop) Freeze() {
	h.closeLinks()
	h.host.freeze()
}

func (h *Hop) closeLinks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.peers {
		p.bulk.drain()
		p.asks.drain()
	}
	for _, s := range h.stripes {
		s.mu.Lock()
		for _, l := range s.outbox.links {
			if l.wire.conn != nil {
				l.wire.conn.Close()
			}
		}
		s.mu.Unlock()
	}
}

// Stop waits, as long as ctx lasts, until every answer has been read by its
// ingress, then closes everything, and returns when the last goroutine has
// ended. What is still on its way to other members is unknown. It may be called
// twice.
func (h *Hop) Stop(ctx context.Context) error {
	err := h.host.settle(ctx)
	h.mu.Lock()
	if !h.stopped {
		h.stopped = true
		for _, p := range h.peers {
			h.removeLocked(p)
		}
		for _, s := range h.stripes {
			s.mu.Lock()
			s.outbox.stop()
			s.mu.Unlock()
		}
	}
	h.mu.Unlock()
	h.kill()
	h.host.close()
	h.wg.Wait()
	return err
}

// The outbox's surroundings.

func (s *stripe) admit(c *Call) (admitted bool) {
	defer s.hop.rescue("taking a ticket", func() { // it ends, as one that had an answer
		c.Response = Response{Problem: InternalError, Executed: Unknown, Detail: "the cause is in the log"}
		admitted = true
	})
	if !c.local.AdmitHere(c.Ticket) {
		return false
	}
	c.Here = true
	return true
}

func (s *stripe) lookup(partition int) (ring.Member, uint64) { return s.hop.config.Owner(partition) }

func (s *stripe) ended(c *Call) {
	s.discharge(c)
	c.tell()
}

func (s *stripe) admitted(c *Call) {
	if c.body == nil || c.sendsBody {
		return
	}
	c.sendsBody = true
	p := c.link.wire.peer
	t := transfer{stripe: uint16(s.number), seq: c.seq, size: len(c.body)} //nolint:gosec // a handful of stripes
	s.hop.wg.Go(func() {                                                   // ends with the body, the call or p.life
		defer s.hop.rescue("sending a body", nothing)
		s.sendBody(p, c, t)
	})
}

func (s *stripe) write(l *link) {
	select {
	case l.wire.kick <- struct{}{}:
	default:
	}
}

// retry pauses a partition that nobody owns, as far as is known: a move takes
// about a round trip.
func (s *stripe) retry(partition int) {
	pause := min(max(2*s.retries[partition], retryLeast), retryMost)
	s.retries[partition] = pause
	time.AfterFunc(pause, func() {
		defer s.hop.rescue("looking for an owner", nothing)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.outbox.stopped {
			return
		}
		s.outbox.retry(partition)
		if f := s.outbox.flows[partition]; !f.paused && f.backlog.head == nil {
			delete(s.retries, partition)
		}
	})
}

// errOther is the end of a connection that another incarnation answered.
var errOther = errors.New("another incarnation answers there")

func refused(reason []byte) error { return fmt.Errorf("it refuses: %s", reason) }
