package queue

import (
	"errors"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of Admit. The ticket took no place.
var (
	ErrLaneFull   = errors.New("queue: lane is full")           // MaxDepth or MaxBytes of the request
	ErrShed       = errors.New("queue: lane is hot")            // ShedDepth of the request
	ErrOverloaded = errors.New("queue: node is full")           // a limit of Config
	ErrReentrant  = errors.New("queue: holder asks again")      // Request.Holder has a turn in this lane
	ErrClosed     = errors.New("queue: closed to new requests") // after Close
	ErrSealed     = errors.New("queue: partition is sealed")    // Request.Partition is not this node's
)

// ErrNotYet is returned by Wait when its time is up and the ticket still waits.
var ErrNotYet = errors.New("queue: still waiting")

// Class says what a turn may run beside.
type Class uint8

// The classes of a request.
const (
	Exclusive Class = iota // alone in its lane
	Shared                 // beside other shared turns
)

// Request asks for a place in the lane of a key.
type Request struct {
	Key   []byte // not retained
	Class Class
	Bytes int // memory the request holds while it waits

	// Partition is the key's, below Config.Partitions; a key always comes with
	// the same one. It is not looked at where there are no partitions.
	Partition int

	// Limits of this request, held against the whole lane. They apply only to
	// a request that has to wait.
	MaxDepth  int // waiting tickets already in the lane at which it is refused
	MaxBytes  int // bytes waiting in the lane, its own included, above which it is refused
	MaxShared int // turns beside which a Shared one may still start, plus one; at least 1

	// Hot says when the lane is hot; nil adds nothing to what other requests of
	// the lane say. It is retained and must not be changed.
	Hot *HotRule
	// ShedDepth is MaxDepth for a lane that is hot; 0 = no other. Below half of
	// Hot.Depth it would let a key cool that it only turns away.
	ShedDepth int

	// Behind is what waits elsewhere for the turn of this ticket. It counts when it is
	// told whether the lane is hot, and nowhere else.
	Behind Load

	// Effect is what the request does, and which of those directly before it that makes
	// needless (promise 7); nil: nobody can tell.
	Effect *Effect

	// RefuseHalted has the request refused while its lane is halted, also if that happens
	// while it waits; else it waits.
	RefuseHalted bool

	// Origin is where the request comes from, for snapshots; nil: nobody says. It belongs to
	// the lane from Admit to the end of the turn, and must not be changed then.
	Origin *Origin

	// ID is the ticket's name if the caller has one already; zero draws the next.
	ID ID
	// Holder is the ticket under which the request was made, if it carries one.
	Holder ID
	// Observe grants the turn at once whatever else runs, and reports in
	// Ticket.Overlapped whether the request would have had to wait.
	Observe bool
	// Tag is the caller's, a small number; Totals counts by it.
	Tag int
}

// Origin is where a request comes from.
type Origin struct {
	Ingress string     // the node that accepted it; empty: this one
	Client  netip.Addr // as far as it is known
	Trace   [16]byte   // the id of its trace; zero: it has none
}

// Load is an amount of requests.
type Load struct{ Depth, Bytes int }

// A Request.Partition that is nobody's, and never sealed. The lanes of each are apart
// from all others.
const (
	Unowned = -1 // of what is only observed
	Aside   = -2 // of requests that wait here for a turn in another node's lane
)

// Ticket is a place in a lane. The zero Ticket is ready for Admit. It belongs
// to one goroutine, may be reused once its turn is Done or it has left, and must
// not be copied.
type Ticket struct {
	// Set by Admit, also by one that refuses.
	ID         ID
	Depth      int           // tickets waiting in the lane before this one
	Service    time.Duration // how long a turn of this lane takes, smoothed; 0 = not known yet
	Overlapped bool          // Request.Observe: it would have had to wait
	Hot        bool          // the lane is

	// Notify, if it is set before Admit, is called in place of waking a waiter,
	// once, when the ticket gets its turn, by Admit or later, or is evicted:
	// Granted then says which. No lock is held; it must not block. So a request
	// that waits needs no goroutine. From Admit on, the ticket is Notify's.
	Notify func()

	lanes *Lanes
	shard *shard

	// Guarded by shard.mu from Admit to the end of the turn.
	lane         *lane
	prev, next   *Ticket // neighbours in lane.waiting or lane.running
	state        state
	class        Class
	held         bool
	refuseHalted bool
	tag          int
	bytes        int
	behind       Load
	effect       *Effect
	origin       *Origin
	maxShared    int
	admitted     time.Duration // on Lanes' clock, as is
	since        time.Duration // the beginning of the wait or of the turn
	cause        error         // why it was evicted

	// The waiter's own. A parked ticket gets exactly one wake, with its turn
	// or its eviction.
	parked bool
	wake   chan struct{}
	timer  *time.Timer
	follow *Ticket // the next in a wakes
}

type state uint8

const (
	outside state = iota // in no lane
	waiting
	turn
)

// Lanes is the set of all lanes of a node. Its methods are safe for concurrent use.
type Lanes struct {
	config  Config
	started time.Time
	ids     idSource
	seed    maphash.Seed
	// sameHash is for tests: every key gets the same hash.
	sameHash bool

	// Sums over all shards; each changes only under some shard's mutex.
	lanes  atomic.Int64
	queued atomic.Int64
	bytes  atomic.Int64
	heats  atomic.Int64  // lanes that are watched
	flips  atomic.Uint64 // times that a key became hot, or no longer was

	closed atomic.Bool   // every shard is
	idle   chan struct{} // closed when it has and no lane is left
	once   sync.Once     // guards closing idle

	shards [shardCount]shard
}

// lane is the FIFO of one key. It exists while it has a ticket, is blocked, halted, paused
// or hot.
type lane struct {
	key       []byte // the exact bytes; equal hashes do not make equal keys
	hash      uint64
	partition int
	chain     *lane
	blocked   bool  // no turn begins; see Lanes.Block
	halt      *Halt // nor while this is; see Ticket.Halt
	pause     *Halt // nor while this is; see Lanes.Pause

	waiting    list
	running    list
	exclusives int  // running tickets of class Exclusive: 0 or 1, unless only observed
	bytes      int  // of the waiting tickets
	behind     Load // them
	service    time.Duration
	heat       *heat // nil, unless it is watched
}

// New returns an empty set of lanes.
func New(config Config) *Lanes {
	l := &Lanes{
		config:  config,
		started: time.Now(),
		seed:    maphash.MakeSeed(),
		idle:    make(chan struct{}),
	}
	l.ids = newIDSource(l.started)
	for i := range l.shards {
		l.shards[i].lanes = make(map[uint64]*lane)
		if config.TopWindow > 0 {
			l.shards[i].top = &top{window: config.TopWindow}
		}
		if config.Partitions > 0 {
			l.shards[i].open = make([]bool, (config.Partitions+shardCount-1)/shardCount)
		}
	}
	return l
}

// NextID draws a ticket's name, above all that were drawn before, for a request
// whose lane may be another node's.
func (l *Lanes) NextID() ID { return l.ids.next(l.now()) }

// Admit takes the next place in the lane of r.Key for t, without blocking. The
// order of Admit calls is the order of turns; everything after it may race. If
// the lane lets it run at once, its turn has come with Admit. Those that it
// supersedes by r.Effect are evicted, with *Superseded as the cause.
//
// It returns ErrLaneFull, ErrShed, ErrOverloaded, ErrReentrant, ErrSealed, ErrClosed or
// a HaltedError, and then t is outside again.
func (l *Lanes) Admit(t *Ticket, r *Request) error {
	notify := t.Notify // read first: t may be somebody else's when admit returns
	began, superseded, err := l.admit(t, r)
	if began && notify != nil {
		notify()
	}
	superseded.wake()
	return err
}

// admit reports whether t's turn began at once, or else whom it superseded.
func (l *Lanes) admit(t *Ticket, r *Request) (began bool, superseded wakes, err error) {
	if t.state != outside || t.parked { // evicted, and its waiter does not know yet
		panic("queue: Admit of a ticket that is in a lane")
	}
	hash := l.hash(r.Key)
	s := l.shardOf(r.Partition, hash)

	s.mu.Lock()
	defer s.mu.Unlock()
	now := l.now()
	if t.ID = r.ID; t.ID.IsZero() {
		// Drawn under the lane's lock, so that ticket order is lane order.
		t.ID = l.ids.next(now)
	}
	t.Depth, t.Service, t.Overlapped, t.Hot = 0, 0, false, false
	switch {
	case s.sealed(r.Partition):
		return false, wakes{}, ErrSealed
	case s.closed && r.Partition != Aside: // there, it stands behind others
		return false, wakes{}, ErrClosed
	}
	ln := s.find(r.Partition, hash, r.Key)
	if ln == nil {
		if l.lanes.Add(1) > int64(l.config.MaxLanes) {
			l.dropLane()
			return false, wakes{}, ErrOverloaded
		}
		ln = s.make(r.Partition, hash, r.Key)
	} else if !r.Holder.IsZero() && ln.running.has(r.Holder) {
		return false, wakes{}, ErrReentrant
	} else if ln.halt != nil && r.RefuseHalted {
		return false, wakes{}, &HaltedError{*ln.halt}
	}
	t.Depth, t.Service, t.Hot = ln.waiting.len, ln.service, ln.hot()
	t.lanes, t.shard, t.lane = l, s, ln
	t.class, t.tag, t.bytes, t.behind, t.maxShared = r.Class, r.Tag, r.Bytes, r.Behind, r.MaxShared
	t.effect, t.origin, t.refuseHalted = r.Effect, r.Origin, r.RefuseHalted
	t.admitted, t.since, t.held, t.cause = now, now, false, nil

	free := ln.waiting.head == nil && ln.admits(t)
	if t.Overlapped = r.Observe && !free; free || r.Observe {
		t.parked, began = false, true
		ln.start(t, now)
	} else if superseded, err = l.wait(t, ln, r); err != nil {
		t.lane = nil
		return false, wakes{}, err
	}
	if s.top != nil {
		s.top.add(now, ln)
	}
	if ln.heat != nil || r.Hot != nil && !began {
		l.warm(s, ln, r, now)
	}
	t.Hot = ln.hot()
	return began, superseded, nil
}

// wait puts t at the end of the line, in place of those it supersedes.
func (l *Lanes) wait(t *Ticket, ln *lane, r *Request) (superseded wakes, _ error) {
	needless := ln.surplus(r)
	if ln.sheds(r, needless) {
		return wakes{}, ErrShed
	}
	if err := l.reserve(ln, r, needless); err != nil {
		return wakes{}, err
	}
	if needless.Depth > 0 {
		superseded = l.supersede(ln, r, t.ID, needless.Depth)
		t.Depth -= needless.Depth
	}
	t.state, t.parked = waiting, true
	if t.wake == nil && t.Notify == nil {
		t.wake = make(chan struct{}, 1)
	}
	ln.waiting.push(t)
	ln.behind.add(t.behind, 1)
	return superseded, nil
}

func (l *Load) add(o Load, sign int) {
	l.Depth += sign * o.Depth
	l.Bytes += sign * o.Bytes
}

// admits reports whether t may start beside what runs (promise 1).
func (ln *lane) admits(t *Ticket) bool {
	if ln.blocked || ln.halt != nil || ln.pause != nil {
		return false
	}
	if t.class == Exclusive {
		return ln.running.len == 0
	}
	return ln.exclusives == 0 && ln.running.len < max(t.maxShared, 1)
}

// start gives t its turn.
func (ln *lane) start(t *Ticket, now time.Duration) {
	t.state, t.since = turn, now
	if t.class == Exclusive {
		ln.exclusives++
	}
	ln.running.push(t)
}

// advance starts every waiting ticket whose turn has come, in order (promises 2
// and 4), and returns them to be woken after the lock is released.
func (l *Lanes) advance(ln *lane, now time.Duration) (woken wakes) {
	for t := ln.waiting.head; t != nil && ln.admits(t); t = ln.waiting.head {
		l.unqueue(t)
		ln.start(t, now)
		woken.add(t)
	}
	return woken
}

// unqueue takes t, and only t, out of the line (promise 3).
func (l *Lanes) unqueue(t *Ticket) {
	t.lane.waiting.remove(t)
	t.lane.bytes -= t.bytes
	t.lane.behind.add(t.behind, -1)
	l.queued.Add(-1)
	l.bytes.Add(-int64(t.bytes))
}

// Turn reports whether t got its turn with Admit, without waiting. It is for
// tickets without Notify.
func (t *Ticket) Turn() bool { return !t.parked && t.state == turn }

// Wait blocks until t's turn, until the given time (zero: no bound), or until t
// is evicted. It returns nil when t has its turn, which then must be ended by
// Done; ErrNotYet when the time is up, with t still in its place, to Wait again
// or Leave; and otherwise the cause given to Evict, with t out of its lane.
func (t *Ticket) Wait(until time.Time) error {
	if !t.parked {
		return nil
	}
	if until.IsZero() {
		<-t.wake
		return t.woken()
	}
	// A reset or stopped timer delivers nothing old, so it can be kept.
	if t.timer == nil {
		t.timer = time.NewTimer(time.Until(until))
	} else {
		t.timer.Reset(time.Until(until))
	}
	defer t.timer.Stop()
	select {
	case <-t.wake:
		return t.woken()
	case <-t.timer.C:
		return ErrNotYet
	}
}

// Granted reads what Notify was called for, and is called exactly once after
// it: nil is t's turn, which then must be ended by Done; an error is the cause of
// its eviction.
func (t *Ticket) Granted() error { return t.woken() }

// woken reads what the wake was for. The wake happens after the state was set,
// which only reads now: somebody else may be in Leave.
func (t *Ticket) woken() error {
	t.parked = false
	if t.state == turn {
		return nil
	}
	return t.cause
}

// wakes are tickets whose waiters are to be woken, once no lock is held.
type wakes struct {
	head, tail *Ticket
	len        int
}

func (w *wakes) add(t *Ticket) {
	t.follow = nil
	if w.tail == nil {
		w.head = t
	} else {
		w.tail.follow = t
	}
	w.tail = t
	w.len++
}

// wake never blocks: a parked ticket is woken once, and its channel holds one.
func (w *wakes) wake() {
	for t := w.head; t != nil; {
		follow := t.follow // read first: a woken waiter may reuse its ticket
		if t.Notify != nil {
			t.Notify()
		} else {
			t.wake <- struct{}{}
		}
		t = follow
	}
}

// Admitted reports whether t has been given to a lane, whatever became of it there.
func (t *Ticket) Admitted() bool { return t.shard != nil }

// Leave takes a ticket that still waits out of its lane and reports whether it
// did. If not, its turn or its eviction has come in the meantime, and Wait
// returns at once. The tickets behind it move up; none is given a turn but by
// promise 4. Of a ticket with Notify it may be called by any goroutine, as long as
// the ticket is not used again.
func (t *Ticket) Leave() bool {
	l, s := t.lanes, t.shard
	s.mu.Lock()
	if t.state != waiting {
		s.mu.Unlock()
		return false
	}
	ln, now := t.lane, l.now()
	l.unqueue(t)
	t.state, t.lane, t.parked = outside, nil, false
	woken := l.advance(ln, now) // shared tickets may have stood behind an exclusive one
	if ln.heat != nil {
		l.look(ln, now)
	}
	emptied := l.closeIfEmpty(s, ln)
	s.mu.Unlock()
	woken.wake()
	l.tell(emptied)
	return true
}

// Done ends t's turn, passes it on, and reports whether there was somebody to
// pass it on to. It must be called exactly once for each turn, after Wait has
// returned nil, by any goroutine.
func (t *Ticket) Done() (passed bool) {
	l, s := t.lanes, t.shard
	if s == nil {
		panic("queue: Done of a ticket that never had a turn")
	}
	s.mu.Lock()
	if t.state != turn {
		s.mu.Unlock()
		panic("queue: Done without a turn")
	}
	ln, now := t.lane, l.now()
	ln.running.remove(t)
	if t.class == Exclusive {
		ln.exclusives--
	}
	ln.service = smooth(ln.service, now-t.since)
	t.state, t.lane = outside, nil
	woken := l.advance(ln, now)
	if ln.heat != nil {
		l.look(ln, now)
	}
	emptied := l.closeIfEmpty(s, ln)
	s.mu.Unlock()
	woken.wake()
	l.tell(emptied)
	return woken.len > 0
}

// smooth is an exponentially weighted mean with the weight 1/8 of TCP's
// round-trip estimator (RFC 6298); the first sample counts whole.
func smooth(mean, sample time.Duration) time.Duration {
	if mean == 0 {
		return sample
	}
	return mean + (sample-mean)/8
}

// Hold marks a turn that goes on although its request has been answered,
// because the upstream may still be working on it. It changes nothing but what
// snapshots show; the turn still ends with Done.
func (t *Ticket) Hold() {
	t.shard.mu.Lock()
	t.held = true
	t.shard.mu.Unlock()
}

// Waited is how long t waited for its turn. Call it in the turn.
func (t *Ticket) Waited() time.Duration { return t.since - t.admitted }

// hash is seeded, so that nobody outside can aim keys at one shard or chain.
func (l *Lanes) hash(key []byte) uint64 {
	if l.sameHash {
		return 0
	}
	return maphash.Bytes(l.seed, key)
}

// now is the time since New: one clock for tickets, waits and turns, which no
// step of the wall clock moves.
func (l *Lanes) now() time.Duration { return time.Since(l.started) }
