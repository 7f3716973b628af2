package proxy

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"lanekeeper/peer"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// Lending is what the lending of turns needs of the cluster, in both roles.
type Lending interface {
	// Owns reports whether a partition is this node's.
	Owns(partition int) bool
	// StrictFew is Strict for a few requests, one after the other, whose fences follow
	// the one that is returned.
	StrictFew(partition, few int) (fence uint64, validFor time.Duration, err error)
	// Lives reports whether a member is live, as far as this node knows.
	Lives(member ring.Member) bool

	// Help tells that a member has lent this node the turn of a key, and reports whether
	// it may be used, until Helped.
	Help(partition int, key []byte, owner ring.Member) bool
	Helped(partition int, key []byte)
	// Awake returns nil if this node has not stood still since the given time; it may
	// wait for that to be known.
	Awake(partition int, since time.Time) error

	// Note takes a message to the Noted of another member's proxy, if it does not get
	// lost, and reports whether there was a connection.
	Note(to ring.Member, payload []byte) bool
}

// loanTime is how long a turn is lent at first, and by each extension: as long a key
// stands still whose borrower has died.
const loanTime = 3 * time.Second

// lender lends the turns of keys whose lanes are here.
type lender struct {
	proxy *Proxy

	mu    sync.Mutex // guards the rest, and what is said so of the turns
	turns map[queue.ID]*lentTurn
	over  bool
}

// lentTurn is a turn that another node asks for, or has. It has no goroutine, and no
// memory for a request.
type lentTurn struct {
	*peer.Inbound
	lender  *lender
	route   *route
	ask     ask
	key     string // the hop's own is gone with the answer
	arrived time.Time

	granted  atomic.Bool
	patience atomic.Pointer[time.Timer] // runs while it waits

	// Guarded by lender.mu.
	until time.Time   // the borrower runs nothing in it any more
	watch *time.Timer // until then
	ended bool
}

// serve takes the ticket of an ask, as ServeForwarded does that of a request.
func (d *lender) serve(in *peer.Inbound, route *route) (*peer.Response, bool) {
	l := &lentTurn{Inbound: in, lender: d, route: route, key: string(in.Key), arrived: time.Now()}
	var err error
	if l.ask, err = parseAsk(in.Head); err != nil {
		return refuseTurn(notReady, err), true
	}
	in.Ticket.Notify = func() {
		l.granted.Store(true)
		go l.begin() // ends with the answer
	}
	err = d.proxy.lanes.Admit(&in.Ticket, &queue.Request{
		Key: in.Key, Partition: in.Partition, Class: queue.Exclusive, Bytes: len(in.Key),
		MaxDepth: in.MaxDepth, MaxBytes: in.MaxBytes, MaxShared: in.MaxShared, Behind: l.ask.behind,
		Hot: route.Lane.Hot, ID: in.Request.Ticket, Tag: route.index, Origin: &queue.Origin{Ingress: in.Ingress.Name},
	})
	switch {
	case err == nil:
		l.expire()
		return nil, true
	case errors.Is(err, queue.ErrSealed):
		return nil, false
	case errors.Is(err, queue.ErrClosed):
		return refuseTurn(draining, err), true
	case errors.Is(err, queue.ErrOverloaded):
		return refuseTurn(overloaded, err), true
	}
	return refuseTurn(laneFull, err), true
}

// refuseTurn is an answer that no client sees: the borrower asks again.
func refuseTurn(kind *kind, cause error) *peer.Response {
	return &peer.Response{Problem: kind.slug, Detail: cause.Error()}
}

// expire ends the wait of an ask whose requests have no more patience.
func (l *lentTurn) expire() {
	if l.granted.Load() {
		return
	}
	l.patience.Store(time.AfterFunc(l.Patience, func() {
		if l.Ticket.Leave() {
			l.Respond(refuseTurn(laneTimeout, errNoTurn))
		}
	}))
	if l.granted.Load() { // in the meantime
		l.patience.Load().Stop()
	}
}

var errNoTurn = errors.New("the key's turn did not come in time")

// begin lends the turn that has come, or says why not.
func (l *lentTurn) begin() {
	if timer := l.patience.Load(); timer != nil {
		timer.Stop()
	}
	if err := l.Ticket.Granted(); err != nil {
		l.Respond(refuseTurn(evicted(err).kind, err))
		return
	}
	lent, problem := l.lend()
	if problem != nil {
		l.Ticket.Done()
		l.Respond(&peer.Response{Problem: problem.slug, Detail: problem.detail})
		return
	}
	answer := &peer.Response{Head: lent.append(nil), LaneWait: l.Ticket.Waited(), Spills: l.route.Lane.Spill && l.Ticket.Hot}
	if !l.Answer(answer) {
		l.end() // the borrower had given it up
	}
}

// lend says on what terms the turn is lent. In a partition that has been given away
// none is: its new owner will, and who knows of that one takes no turn from here.
func (l *lentTurn) lend() (*loan, *problem) {
	cluster := l.lender.proxy.Config().Cluster
	if !cluster.Owns(l.Partition) {
		return nil, ownershipMoved.because("the key is another node's by now")
	}
	if err := cluster.Guard(l.Partition, l.arrived); err != nil {
		return nil, ownershipMoved.because(err.Error())
	}
	lent := &loan{validFor: l.lasts()}
	if l.Strict {
		fence, validFor, err := cluster.StrictFew(l.Partition, max(l.ask.batch, 1))
		if err != nil {
			return nil, noOwner.because(err.Error())
		}
		lent.fence, lent.validFor = fence, min(validFor, loanTime)
	}
	if !l.lender.register(l, lent.validFor) {
		return nil, draining.because("this node ends")
	}
	return lent, nil
}

// lasts is how long the turn may take from now. While this node has a lease that is its
// bound, also for what is not strict: who takes over when it has ended asks nobody what
// this node has lent.
func (l *lentTurn) lasts() time.Duration {
	left := l.lender.proxy.Config().Cluster.ValidFor(l.Partition)
	if left <= 0 && !l.Strict {
		return loanTime // the members' word is enough
	}
	return min(left, loanTime)
}

func (d *lender) register(l *lentTurn, validFor time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return false
	}
	l.until = time.Now().Add(validFor)
	l.watch = time.AfterFunc(validFor, l.expired)
	d.turns[l.Request.Ticket] = l
	return true
}

// end lets the lane go on.
func (l *lentTurn) end() {
	l.lender.mu.Lock()
	ends := l.endLocked()
	l.lender.mu.Unlock()
	if ends {
		l.Ticket.Done()
	}
}

// endLocked has nobody extend the turn any more, and reports whether somebody could:
// then the lane may go on.
func (l *lentTurn) endLocked() bool {
	if l.ended {
		return false
	}
	l.ended = true
	l.watch.Stop()
	delete(l.lender.turns, l.Request.Ticket)
	return true
}

// watchLent is how often a turn is looked at that was not given back in time.
const watchLent = time.Second

// expired ends a turn whose time is over. The borrower runs nothing in it any more;
// but if it lives, what it was cut off from may still be at work at its service, as after
// a timeout, and the lane is held in the same way. It is asked: an answer that told it of
// the turn may have been lost.
func (l *lentTurn) expired() {
	d := l.lender
	d.mu.Lock()
	late := time.Since(l.until)
	switch {
	case l.ended:
	case late < 0:
		l.watch.Reset(-late)
	case late < l.HoldFor && d.proxy.Config().Cluster.Lives(l.Ingress):
		l.Ticket.Hold()
		l.watch.Reset(watchLent)
		question := note{kind: noteAsk, ticket: l.Request.Ticket}
		defer d.proxy.Config().Cluster.Note(l.Ingress, question.append(nil))
	default:
		l.endLocked() // now: after this look nobody may be told that it lasts
		defer l.lost()
	}
	d.mu.Unlock()
}

// lost lets the lane go on after a turn that was not given back.
func (l *lentTurn) lost() {
	p := l.lender.proxy
	p.log.Warn("a turn that was lent was not given back, and its lane goes on", "event", "turn-lost", "route", l.route.Name, "ticket", l.Request.Ticket.String(), "to", l.Ingress.Name)
	p.metrics.lost.Inc()
	l.Ticket.Done()
}

// extend has a turn last longer, and returns for how long from now; 0: it is over.
func (d *lender) extend(from ring.Member, ticket queue.ID) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.turns[ticket]
	if l == nil || l.Ingress != from {
		return 0
	}
	validFor := l.lasts()
	if until := time.Now().Add(validFor); until.After(l.until) {
		l.until = until
	}
	return max(validFor, 0)
}

// returned ends a turn that its borrower gives back.
func (d *lender) returned(from ring.Member, ticket queue.ID) {
	d.mu.Lock()
	l := d.turns[ticket]
	d.mu.Unlock()
	if l != nil && l.Ingress == from {
		l.end()
	}
}

// LentTo is the name of the member that has the turn of a lane here; empty: none.
func (p *Proxy) LentTo(key string) string {
	p.lender.mu.Lock()
	defer p.lender.mu.Unlock()
	for _, l := range p.lender.turns {
		if l.key == key {
			return l.Ingress.Name
		}
	}
	return ""
}

// stop ends every turn that is lent: the node ends.
func (d *lender) stop() {
	d.mu.Lock()
	d.over = true
	var lent []*lentTurn
	for _, l := range d.turns {
		lent = append(lent, l)
	}
	d.mu.Unlock()
	for _, l := range lent {
		l.end()
	}
}
