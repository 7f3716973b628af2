package ownership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lanekeeper/lock"
	"lanekeeper/ring"
)

// Config is what an Ownership needs. All functions are called without a lock
// held, one at a time and in the order of events, from a goroutine of the
// package; they must not block.
type Config struct {
	Self       ring.Member
	Partitions int
	Lanes      Lanes    // all sealed
	Sections   Sections // state that travels with a partition; nil: none

	// Send sends a message to a member. Those to one member must arrive in
	// order. They may be lost when a connection breaks, if Up is called for the
	// next one.
	Send func(to ring.Member, payload []byte)
	// Routed is told of every new route, and of this node's becoming the owner
	// or ceasing to be. May be nil.
	Routed func(partition int, owner ring.Member, epoch uint64)
	// Frozen is told that this node stood still for longer than Suspicion, when it
	// asks others what became of its partitions. It closes the connections to
	// other members unread, and when it returns nothing is given to Control any more
	// that was sent before. It may block. May be nil.
	Frozen func()
	// Moved is told how long each partition took from this node's first claim to
	// its owning it. May be nil.
	Moved func(handoff time.Duration)

	// Coordinator has the last word on who holds a partition, so that strict requests
	// can run: nil leaves it to the members. It is the caller's to close, after Stop.
	Coordinator lock.Coordinator
	// AcquireTimeout is how long it may take to answer.
	AcquireTimeout time.Duration

	// HandoffTimeout is how long a live member may leave a message without an
	// answer before it is sent again.
	HandoffTimeout time.Duration
	// Suspicion is how long a member may be silent before others take it for
	// dead.
	Suspicion time.Duration
	// Now is the clock by which this node notices that it stood still; nil means
	// time.Now.
	Now func() time.Time

	Log *slog.Logger
}

// Validate says what is wrong with c, or nil.
func (c *Config) Validate() error {
	switch {
	case c.Self.Name == "":
		return errors.New("ownership: this node has no name")
	case c.Partitions < 1 || c.Partitions > partitionsMax:
		return fmt.Errorf("ownership: %d partitions: must be 1 to %d", c.Partitions, partitionsMax)
	case c.Lanes == nil || c.Send == nil || c.Log == nil:
		return errors.New("ownership: Lanes, Send and Log must be set")
	case c.Coordinator != nil && c.AcquireTimeout <= 0:
		return errors.New("ownership: AcquireTimeout must be above 0")
	case c.HandoffTimeout <= 0 || c.Suspicion <= 0:
		return errors.New("ownership: HandoffTimeout and Suspicion must be above 0")
	}
	return nil
}

// ErrFrozen is returned by Guard.
var ErrFrozen = errors.New("ownership: this node stood still, and no member has confirmed yet what it owns")

// Ownership keeps a Table: it lets events in one at a time, sends what they
// lead to, and publishes the routes. Its methods are safe for concurrent use
// and do not block for longer than a step of the table takes.
type Ownership struct {
	config  Config
	started time.Time

	routes []atomic.Pointer[tenure]
	grants []atomic.Pointer[grant] // of titles
	owned  atomic.Int64
	moves  atomic.Uint64
	beat   atomic.Int64 // when the watchdog was last content, since started
	stalls atomic.Pointer[[]stall]

	// Lock order: mu, then those of Lanes. Nobody holds a lock of Lanes while
	// taking mu, and what Lanes calls back goes through emptied.
	mu       sync.Mutex // guards the rest
	table    *Table
	decoder  decoder
	since    map[int]time.Time // partitions that are claimed, and since when
	outbox   []Outgoing
	news     []Change
	handoffs []time.Duration
	gained   int // since the last line of log
	lost     int
	epoch    uint64 // the highest of those gained
	frozen   bool   // it stood still, and waits for a member's word
	fresh    bool   // since the watchdog's last look
	deaf     bool   // what is read may have been sent before it stood still

	emptiedMu sync.Mutex // guards emptied; nothing else is locked under it
	emptied   []emptied

	registrar *registrar // nil: there is no coordinator

	encoder encoder // of the goroutine that delivers
	kick    chan struct{}
	quit    chan struct{}
	stop    sync.Once
	start   sync.Once
	wg      sync.WaitGroup
	idle    chan struct{} // closed and replaced when there may be less to wait for
}

// tenure is a route, and since when it has been the one.
type tenure struct {
	Route
	since time.Duration // since started
}

// stall is a time for which this node stood still, as far as it can tell, and
// then until a member's word on what it owned.
type stall struct{ from, to time.Duration }

// stallsMax is how many are remembered: one is over when nothing waits any more
// that came before it.
const stallsMax = 4

type emptied struct {
	partition int
	key       []byte
}

// New returns an Ownership that owns nothing and sends nothing before Start.
func New(config Config) (*Ownership, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	o := &Ownership{
		config: config, started: config.Now(),
		table:  NewTable(config.Self, config.Partitions, config.Lanes, config.Sections),
		routes: make([]atomic.Pointer[tenure], config.Partitions),
		grants: make([]atomic.Pointer[grant], config.Partitions),
		since:  make(map[int]time.Time),
		kick:   make(chan struct{}, 1), quit: make(chan struct{}), idle: make(chan struct{}),
	}
	if config.Coordinator != nil {
		o.table.arbiter.present = true
		o.table.publish = o.publishTitle
		o.registrar = newRegistrar(o)
	}
	o.beat.Store(math.MaxInt64) // until Start nobody looks
	for p := range o.routes {
		o.routes[p].Store(&tenure{})
	}
	return o, nil
}

// Start begins to send what events lead to. It does nothing after Stop, or if
// called again.
func (o *Ownership) Start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stoppedLocked() {
		return
	}
	o.start.Do(func() {
		o.beat.Store(int64(o.now()))
		o.wg.Go(o.deliver) // ends with quit
		o.wg.Go(o.watch)   // ends with quit
		if o.registrar != nil {
			o.wg.Go(o.registrar.run) // ends with Stop
		}
	})
}

// Stop sends what there is to send, and returns when nothing of the package
// runs any more. Guard fails soon after. It may be called twice, and before
// Start.
func (o *Ownership) Stop() {
	o.mu.Lock()
	o.stop.Do(func() {
		close(o.quit)
		if o.registrar != nil {
			o.registrar.cancel()
		}
	})
	o.mu.Unlock()
	o.wg.Wait()
}

func (o *Ownership) now() time.Duration { return o.config.Now().Sub(o.started) }

// SetView is told of every change of the node's view, in order.
func (o *Ownership) SetView(v View) {
	o.do(func(t *Table) {
		t.View(v)
		o.decoder.forget(t.isLive)
	})
}

// Control is told of every payload that another member sent, in the order in
// which it was sent. payload is not retained.
func (o *Ownership) Control(from ring.Member, payload []byte) {
	o.do(func(t *Table) {
		m, complete, err := o.decoder.message(from, payload)
		if err != nil {
			o.config.Log.Error("a member's message about partitions makes no sense and is ignored", "member", from.String(), "error", err)
		}
		if complete && !o.deaf {
			t.Receive(from, m)
		}
	})
}

// Up is told that a connection to a member has been made, or made again.
func (o *Ownership) Up(m ring.Member) { o.do(func(t *Table) { t.Up(m) }) }

// Emptied is queue.Config.Emptied: the last ticket of a key in a sealed partition
// has gone. It may be called from within Lanes. key is not retained.
func (o *Ownership) Emptied(partition int, key []byte) {
	o.emptiedMu.Lock()
	o.emptied = append(o.emptied, emptied{partition, slices.Clone(key)})
	o.emptiedMu.Unlock()
	o.wake()
}

// do lets one event in. If this node stood still, the table hears of that first:
// what it would say otherwise would speak of a time that is over.
func (o *Ownership) do(event func(*Table)) {
	o.mu.Lock()
	late := o.noticeLocked()
	event(o.table)
	o.collectLocked()
	o.mu.Unlock()
	if late > 0 {
		go o.stalled(late) // ends with Frozen
	}
	o.wake()
}

func (o *Ownership) wake() {
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// collectLocked takes what the last event led to. Routes are published before
// the lock is released, so that an event that follows sees them.
func (o *Ownership) collectLocked() {
	o.outbox = append(o.outbox, o.table.Take()...)
	for _, c := range o.table.Changed() {
		before := o.routes[c.Partition].Load()
		if c.Route != before.Route {
			o.routes[c.Partition].Store(&tenure{c.Route, o.now()})
		}
		o.newsLocked(c, before.Route)
	}
	if o.registrar != nil {
		o.publishTitlesLocked()
		if o.table.Asks() {
			o.registrar.wake()
		}
	}
	if o.frozen && o.table.Confirmed() {
		o.frozen = false
		o.confirmedLocked()
		o.config.Log.Info("what this node owns is confirmed", "event", "confirmed", "owned", o.owned.Load())
	}
}

func (o *Ownership) newsLocked(c Change, before Route) {
	began, claimed := o.since[c.Partition]
	switch {
	case c.Role != Claiming:
		delete(o.since, c.Partition)
	case !claimed:
		o.since[c.Partition] = time.Now()
	}
	if before != c.Route {
		o.news = append(o.news, c)
	}
	was, is := before.Owner == o.config.Self && before.Epoch > 0, c.Role == Owned
	switch {
	case is && !was:
		o.owned.Add(1)
		o.moves.Add(1)
		o.gained++
		o.epoch = max(o.epoch, c.Epoch)
		if claimed {
			o.handoffs = append(o.handoffs, time.Since(began))
		}
	case was && !is:
		o.owned.Add(-1)
		o.lost++
	}
}

// deliver hands out what events led to, in order.
func (o *Ownership) deliver() {
	retry := time.NewTicker(o.config.HandoffTimeout)
	defer retry.Stop()
	for {
		select {
		case <-o.kick:
		case <-retry.C:
			o.do((*Table).Retry)
		case <-o.quit:
			o.deliverOnce()
			return
		}
		o.deliverOnce()
	}
}

func (o *Ownership) deliverOnce() {
	o.emptiedMu.Lock()
	gone := o.emptied
	o.emptied = nil
	o.emptiedMu.Unlock()

	o.mu.Lock()
	if len(gone) > 0 {
		for _, e := range gone {
			o.table.Drained(e.partition, e.key)
		}
		o.collectLocked()
	}
	out, news, handoffs := o.outbox, o.news, o.handoffs
	o.outbox, o.news, o.handoffs = nil, nil, nil
	gained, lost, epoch := o.gained, o.lost, o.epoch
	settled := len(o.since) == 0
	if settled {
		o.gained, o.lost, o.epoch = 0, 0, 0
	}
	wait := o.idle
	o.idle = make(chan struct{})
	o.mu.Unlock()

	// Routes first: a peer that reads a message may send at once.
	for _, c := range news {
		if o.config.Routed != nil {
			o.config.Routed(c.Partition, c.Owner, c.Epoch)
		}
	}
	for _, m := range out {
		for _, payload := range o.encoder.payloads(m.Message) {
			o.config.Send(m.To, payload)
		}
	}
	if o.config.Moved != nil {
		for _, d := range handoffs {
			o.config.Moved(d)
		}
	}
	if settled && gained+lost > 0 {
		o.config.Log.Info("partitions have moved", "event", "partitions-moved", "owned", o.owned.Load(), "gained", gained, "lost", lost, "highest_epoch", epoch)
	}
	close(wait)
}

// watch notices when the whole node stood still: others may have taken it for
// dead, and its partitions over.
func (o *Ownership) watch() {
	tick := time.NewTicker(max(o.config.Suspicion/8, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			o.look()
		case <-o.quit:
			return
		}
	}
}

func (o *Ownership) look() {
	o.do(func(t *Table) {
		switch {
		case !o.frozen:
			o.beat.Store(int64(o.now()))
		case !o.fresh:
			t.AskAgain()
		}
		o.fresh = false
	})
}

// noticeLocked finds out whether this node has stood still since the watchdog was
// last content, and for how long. It asks then what it still owns.
func (o *Ownership) noticeLocked() (late time.Duration) {
	late = o.now() - time.Duration(o.beat.Load())
	if late <= o.config.Suspicion || o.frozen || o.stoppedLocked() {
		return 0
	}
	o.frozen, o.fresh, o.deaf = true, true, true
	o.wg.Add(1)
	var stalls []stall
	if before := o.stalls.Load(); before != nil {
		stalls = (*before)[max(0, len(*before)-stallsMax+1):]
	}
	stalls = append(slices.Clip(stalls), stall{time.Duration(o.beat.Load()), math.MaxInt64})
	o.stalls.Store(&stalls)
	o.table.Confirm()
	return late
}

func (o *Ownership) stoppedLocked() bool {
	select {
	case <-o.quit:
		return true
	default:
		return false
	}
}

// stalled tells that this node stood still, and listens again when what had been
// sent before has been read or thrown away.
func (o *Ownership) stalled(late time.Duration) {
	defer o.wg.Done()
	o.config.Log.Warn("this node stood still, and others may have taken it for dead: it asks before it goes on", "event", "stood-still", "for", late)
	if o.config.Frozen != nil {
		o.config.Frozen()
	}
	o.do(func(t *Table) {
		o.deaf = false
		t.Listen()
	})
}

// confirmedLocked ends the last stall.
func (o *Ownership) confirmedLocked() {
	stalls := slices.Clone(*o.stalls.Load())
	stalls[len(stalls)-1].to = o.now()
	o.stalls.Store(&stalls)
	o.beat.Store(int64(o.now())) // last: from here on Guard lets requests pass
}

// Kept reports whether a request of a partition that came at the given time may
// still run here: if this node has stood still since, or had to be confirmed, it
// must own the partition and never have lost it. Another may have had it
// meanwhile, run later requests, and given it back; or be at one of them still,
// beside which a turn that began here must not run.
func (o *Ownership) Kept(partition int, came time.Time) bool {
	stalls := o.stalls.Load()
	if stalls == nil {
		return true
	}
	t, at := o.routes[partition].Load(), came.Sub(o.started)
	for _, s := range *stalls {
		if at <= s.to && (t.Owner != o.config.Self || t.Epoch == 0 || t.since > s.from && at <= t.since) {
			return false
		}
	}
	return true
}

// Guard is asked before each dispatch. It returns ErrFrozen if this node stood
// still for longer than Suspicion and no member has confirmed since what it
// owns. It costs an atomic load and a look at the clock.
func (o *Ownership) Guard() error {
	if o.now()-time.Duration(o.beat.Load()) > o.config.Suspicion {
		return ErrFrozen
	}
	return nil
}

// Help is told that owner has lent this node the turn of one of its keys, and reports
// whether it may be used, until Helped: see [Table.Help].
func (o *Ownership) Help(partition int, key []byte, owner ring.Member) (may bool) {
	o.do(func(t *Table) { may = !o.frozen && t.Help(partition, key, owner) })
	return may
}

// Helped ends what Help began.
func (o *Ownership) Helped(partition int, key []byte) {
	o.do(func(t *Table) { t.Helped(partition, key) })
}

// Owner returns where requests of a partition are to go, as this node believes:
// itself if it owns it, else the member that is known to, else, with epoch 0, the
// one that should.
func (o *Ownership) Owner(partition int) (owner ring.Member, epoch uint64) {
	r := o.routes[partition].Load()
	return r.Owner, r.Epoch
}

// Owned is the number of partitions that this node owns.
func (o *Ownership) Owned() int { return int(o.owned.Load()) }

// Moves is how many times this node has become the owner of a partition.
func (o *Ownership) Moves() uint64 { return o.moves.Load() }

// On is whom this node waits for before it runs a key.
func (o *Ownership) On(partition int, key string) []ring.Member {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.table.On(partition, key)
}

// State returns what this node knows of a partition.
func (o *Ownership) State(partition int) State {
	o.mu.Lock()
	defer o.mu.Unlock()
	state := o.table.State(partition)
	if g := o.grants[partition].Load(); g != nil && g.Title == state.Title {
		state.Held = time.Since(g.since)
	}
	return state
}

// Counts returns sums over all partitions.
func (o *Ownership) Counts() Counts {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.table.Counts()
}

// Drain waits until no other node needs this one: it owns nothing, runs nothing
// that others wait for, and what it gave away has been taken. That comes about
// when its view, and everybody's, no longer has it as a target. It returns the
// cause of ctx if that ends first.
func (o *Ownership) Drain(ctx context.Context) error {
	for {
		o.mu.Lock()
		idle, next := o.table.Counts().Idle() && len(o.outbox) == 0, o.idle
		o.mu.Unlock()
		if idle {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
