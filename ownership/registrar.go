package ownership

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"lanekeeper/lock"
)

// Errors of Strict: the request was not executed.
var (
	ErrNoTitle  = errors.New("ownership: the coordinator has not said that this node holds the key's partition")
	ErrNoFences = errors.New("ownership: the partition's fences are used up, and the coordinator has not drawn more")
)

// Fences of a partition are numbered from its stamp on: with 40 bits of stamp and 23
// of count a fence fits a signed 64-bit integer.
const (
	fenceBits = 23
	fenceMost = 1<<fenceBits - 1
	fenceLow  = fenceMost / 2 // from here on more are drawn
)

// grant is a title in use: under which lease, and how many fences it has given.
type grant struct {
	Title
	partition int
	session   lock.Session
	since     time.Time // of the tenure's first title, under whatever stamp
	used      atomic.Uint64
	drawing   atomic.Bool
}

// fences returns the first of the next few, and whether it is time to draw a new stamp.
func (g *grant) fences(few uint64) (first uint64, low bool, err error) {
	n := g.used.Add(few)
	if n > fenceMost {
		return 0, true, ErrNoFences
	}
	return g.Stamp<<fenceBits | (n - few + 1), n >= fenceLow, nil
}

// Strict is asked before each strict dispatch, last of all. It returns the fence to
// send, which is above all fences of the partition's keys before, and how long from now
// the node's lease certainly lasts: until then nobody else runs the key. Otherwise it
// says why nothing may be sent. It costs two atomic loads and a look at the clock.
func (o *Ownership) Strict(partition int) (fence uint64, validFor time.Duration, err error) {
	return o.StrictFew(partition, 1)
}

// StrictFew is Strict for up to few dispatches, one after the other, of which it returns
// the first fence: the others follow it. They may be another member's, to which this
// node has lent the turn of a key.
func (o *Ownership) StrictFew(partition, few int) (first uint64, validFor time.Duration, err error) {
	g := o.grants[partition].Load()
	if g == nil {
		return 0, 0, ErrNoTitle
	}
	if validFor = g.session.ValidFor(); validFor <= 0 {
		return 0, 0, ErrLeaseEnded
	}
	first, low, err := g.fences(uint64(few)) //nolint:gosec // a few
	if low && g.drawing.CompareAndSwap(false, true) {
		o.registrar.draw(g)
	}
	return first, validFor, err
}

// ValidFor is how long the lease certainly lasts under which a partition's requests
// run here; see Strict. It is 0 or less if there is none.
func (o *Ownership) ValidFor(partition int) time.Duration {
	if g := o.grants[partition].Load(); g != nil {
		return g.session.ValidFor()
	}
	return 0
}

// Drains returns nil if a request of a partition that this node does not own any more
// may still run: whoever follows waits for it only as long as the lease lasts. It
// returns nil too for a partition that the node owns.
func (o *Ownership) Drains(partition int) error {
	if o.registrar == nil {
		return nil
	}
	if owner, epoch := o.Owner(partition); owner == o.config.Self && epoch > 0 {
		return nil
	}
	if g := o.grants[partition].Load(); g != nil && g.session.ValidFor() <= 0 {
		return ErrLeaseEnded
	}
	return nil
}

// publishTitlesLocked makes what has changed of titles known to Strict. What goes on
// under the same stamp goes on counting.
func (o *Ownership) publishTitlesLocked() {
	for _, p := range o.table.Titles() {
		o.publishTitle(p)
	}
}

// publishTitle is called with the lock held.
func (o *Ownership) publishTitle(p int) {
	title, last := o.table.Title(p), o.registrar.last[p]
	switch {
	case title.Tenure == 0 && o.table.Drains(p):
		// Its lease has ended, and so nothing runs that drains: see Drains.
	case title.Tenure == 0:
		o.grants[p].Store(nil)
	case last == nil || last.session != o.registrar.session || title.Stamp != last.Stamp:
		next := &grant{Title: title, partition: p, session: o.registrar.session, since: time.Now()}
		if last != nil && last.session == next.session && last.Tenure == title.Tenure {
			next.since = last.since
		}
		o.registrar.last[p] = next
		fallthrough
	default:
		o.grants[p].Store(o.registrar.last[p])
	}
}

// registrar is the goroutine that keeps a lease, and asks the store what the table
// wants to know. Everything that may take long happens in it, or in what it starts.
type registrar struct {
	o           *Ownership
	coordinator lock.Coordinator
	timeout     time.Duration
	ctx         context.Context // ends with Stop
	cancel      context.CancelFunc
	kick        chan struct{}

	last    []*grant      // of each partition, also if it is not in use; guarded by Ownership.mu
	session lock.Session  // guarded by Ownership.mu; written by run alone
	since   time.Time     // that was asked for; guarded by Ownership.mu
	asked   time.Time     // the last one was asked for; of run alone
	untold  []lock.Tenure // under it, that the store has not heard of yet
	away    atomic.Bool   // the store could not be reached when last tried, and the lease is not valid
	cause   atomic.Pointer[error]
	given   string    // the lease that this node gave up; of run alone
	begin   time.Time // when a session may be begun again
	retry   time.Time // when what has failed is tried again

	mu      sync.Mutex     // guards the rest
	draws   []*grant       // that need a new stamp
	watches map[watch]bool // false: it failed, and is begun again
}

// watch is a wait for the end of a lease, and whose.
type watch struct{ session, lease string }

const (
	lookEvery  = 100 * time.Millisecond // at the lease, and for what is to be tried again
	readEvery  = 500 * time.Millisecond // at the records, while they may say what nobody else does
	retryAfter = 100 * time.Millisecond
	beginAfter = 500 * time.Millisecond // one that failed
)

func newRegistrar(o *Ownership) *registrar {
	r := &registrar{
		o: o, coordinator: o.config.Coordinator, timeout: o.config.AcquireTimeout,
		kick: make(chan struct{}, 1), last: make([]*grant, o.config.Partitions), watches: make(map[watch]bool),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func (r *registrar) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// draw asks for a new stamp for a grant whose fences run out.
func (r *registrar) draw(g *grant) {
	r.mu.Lock()
	r.draws = append(r.draws, g)
	r.mu.Unlock()
	r.wake()
}

// run ends with Stop.
func (r *registrar) run() {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var read time.Time
	for {
		if session := r.keep(); session != nil {
			if r.useless() {
				r.giveUp(session)
				continue
			}
			r.step(session)
			if time.Since(read) >= readEvery && r.wantsRecords() {
				r.read(session)
				read = time.Now()
			}
		}
		select {
		case <-r.kick:
		case <-look.C:
		case <-r.ctx.Done():
			return
		}
	}
}

// keep returns the session, after it has begun one if there is none. It returns nil as
// long as there is no way to.
func (r *registrar) keep() lock.Session {
	if s := r.session; s != nil { // nobody else writes it
		select {
		case <-s.Done():
			r.sayEnded(s)
			r.enter(func(t *Table) {
				t.End()
				r.session, r.untold = nil, nil
			})
		default:
			if s.ValidFor() <= 0 {
				r.leave(errors.New("the lease could not be renewed in time"))
			} else if r.away.Load() {
				r.back(s)
			}
			return s
		}
	}
	if time.Now().Before(r.begin) {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	r.asked = time.Now()
	s, err := r.coordinator.Begin(ctx)
	switch {
	case r.ctx.Err() != nil:
		return nil
	case err != nil:
		r.begin = time.Now().Add(beginAfter)
		r.leave(err)
		return nil
	case s.ValidFor() <= 0:
		r.leave(errors.New("the lease came too late to be valid"))
		return nil
	}
	r.o.config.Log.Info("this node has a lease", "event", "lease-gained", "lease", s.ID(), "valid", s.ValidFor())
	r.back(s)
	return s
}

func (r *registrar) sayEnded(s lock.Session) {
	why := "the coordinator says so"
	if s.ID() == r.given {
		why = "this node gave it up"
	}
	r.o.config.Log.Warn("this node's lease has ended: nothing strict runs until it has another one",
		"event", "lease-ended", "lease", s.ID(), "why", why, "owned", r.o.owned.Load())
}

// leave notes that there is no lease, and no way to get one.
func (r *registrar) leave(cause error) {
	r.cause.Store(&cause)
	if !r.away.CompareAndSwap(false, true) {
		return
	}
	r.o.config.Log.Error("the coordinator is away: strict requests are refused, others go on by what the members say", "event", "coordinator-away", "error", cause)
	r.enter(func(t *Table) { t.Away() })
}

// back notes that there is a lease.
func (r *registrar) back(s lock.Session) {
	r.cause.Store(nil)
	if r.away.Swap(false) {
		r.o.config.Log.Info("the coordinator is back", "event", "coordinator-back", "lease", s.ID())
	}
	r.enter(func(t *Table) {
		if r.session != s {
			r.session, r.since = s, r.asked
		}
		t.Begin(s.ID())
	})
}

// enter lets an event into the table.
func (r *registrar) enter(event func(*Table)) { r.o.do(event) }

// step asks the store what is to be asked by now.
func (r *registrar) step(s lock.Session) {
	for r.ctx.Err() == nil {
		var takes []lock.Take
		var drained []lock.Tenure
		r.enter(func(t *Table) {
			takes, drained = t.Takes(), t.Drops()
			if !time.Now().Before(r.retry) {
				t.Later()
				takes, drained = append(takes, t.Takes()...), append(drained, r.untold...)
				r.untold = nil
			}
			for _, lease := range t.Watched() {
				taking, running := t.Awaiting(lease)
				r.watch(s, lease, taking, running)
			}
		})
		r.drawAll(s)
		if len(takes)+len(drained) == 0 {
			return
		}
		r.take(s, takes)
		r.drop(s, drained)
	}
}

func (r *registrar) take(s lock.Session, takes []lock.Take) {
	if len(takes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	taken, err := s.Take(ctx, takes)
	if err != nil {
		r.o.config.Log.Warn("the coordinator did not answer, and is asked again", "partitions", len(takes), "error", err)
		r.enter(func(t *Table) { t.NotTaken(s.ID(), takes) })
	} else {
		r.enter(func(t *Table) { t.Took(s.ID(), takes, taken) })
	}
	r.postpone()
}

// postpone has what failed wait, unless it waits already.
func (r *registrar) postpone() {
	if now := time.Now(); !now.Before(r.retry) {
		r.retry = now.Add(retryAfter)
	}
}

func (r *registrar) drop(s lock.Session, drained []lock.Tenure) {
	if len(drained) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	if err := s.Drained(ctx, drained); err != nil {
		r.untold = append(r.untold, drained...)
		r.postpone()
	}
}

// drawAll gets new stamps. A grant whose fences are used up meanwhile refuses.
func (r *registrar) drawAll(s lock.Session) {
	r.mu.Lock()
	draws := r.draws
	r.draws = nil
	r.mu.Unlock()
	for i, g := range draws {
		if g.session != s {
			continue
		}
		ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
		stamp, err := s.Draw(ctx, g.partition, g.Tenure)
		cancel()
		switch {
		case err == nil:
			r.enter(func(t *Table) { t.Drew(s.ID(), lock.Tenure{Partition: g.partition, Tenure: g.Tenure}, stamp) })
		case !errors.Is(err, lock.ErrLost):
			r.o.config.Log.Warn("the coordinator did not answer, and is asked again", "partition", g.partition, "error", err)
			for _, g := range draws[i:] {
				g.drawing.Store(false) // the next request asks again: a lease has to be kept meanwhile
			}
			return
		}
	}
}

// watch waits for the end of a lease, for as long as the session lasts that asks. It
// says how many partitions do so at first: those to be taken, and those whose keys are
// to be run.
func (r *registrar) watch(s lock.Session, lease string, taking, running int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := watch{s.ID(), lease}
	if r.watches[w] || r.ctx.Err() != nil {
		return
	}
	_, again := r.watches[w]
	r.watches[w] = true
	r.o.wg.Go(func() { // ends with the lease, the session, or Stop
		ctx, cancel := context.WithCancel(r.ctx)
		defer cancel()
		go func() { // ends with ctx
			select {
			case <-s.Done():
				cancel()
			case <-ctx.Done():
			}
		}()
		if !again {
			r.o.config.Log.Info("partitions wait for the end of another node's lease", "event", "lease-awaited",
				"lease", lease, "own_lease", s.ID(), "to_be_taken", taking, "to_run_keys", running)
		}
		err := s.Ended(ctx, lease)
		r.mu.Lock()
		if failed := err != nil && ctx.Err() == nil; failed {
			r.watches[w] = false
		} else {
			delete(r.watches, w)
		}
		r.mu.Unlock()
		if err == nil {
			r.o.config.Log.Info("the other node's lease has ended", "event", "lease-awaited-ended", "lease", lease)
			r.enter(func(t *Table) { t.Ended(lease) })
		} else if ctx.Err() == nil {
			time.Sleep(retryAfter)
			r.enter(func(t *Table) { t.Unwatched(lease) })
		}
	})
}

func (r *registrar) useless() (useless bool) {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	return r.o.table.Useless()
}

// giveUp ends a lease under which nothing runs, so that others need not wait for what
// is held under it. If the store does not hear of that, the lease ends by itself.
func (r *registrar) giveUp(s lock.Session) {
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	r.given = s.ID()
	r.o.config.Log.Info("too few members are in view: what this node held is given up", "event", "lease-given-up", "lease", s.ID())
	if err := s.End(ctx); err != nil {
		r.o.config.Log.Warn("the lease could not be given up, and ends by itself", "error", err)
	}
}

func (r *registrar) wantsRecords() (wants bool) {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	return r.o.table.WantsRecords()
}

func (r *registrar) read(s lock.Session) {
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	if records, err := s.Records(ctx); err == nil {
		r.enter(func(t *Table) { t.Records(records) })
	}
}

// Lease describes the node's lease, for people.
type Lease struct {
	ID       string // empty: none
	ValidFor time.Duration
	Age      time.Duration // since it was asked for: at least what the store would say
	Cause    error         // why the coordinator is away; nil if it isn't
}

// Lease returns this node's lease, and whether there is a coordinator to have one of.
func (o *Ownership) Lease() (lease Lease, strict bool) {
	if o.registrar == nil {
		return Lease{}, false
	}
	o.mu.Lock()
	s, since := o.registrar.session, o.registrar.since
	o.mu.Unlock()
	if cause := o.registrar.cause.Load(); cause != nil {
		lease.Cause = *cause
	}
	if s != nil {
		lease.ID, lease.ValidFor, lease.Age = s.ID(), s.ValidFor(), time.Since(since)
	}
	return lease, true
}

// Untitled is how many partitions this node owns without a title.
func (o *Ownership) Untitled() (n int) {
	for p := range o.routes {
		if r := o.routes[p].Load(); r.Owner == o.config.Self && r.Epoch > 0 && o.grants[p].Load() == nil {
			n++
		}
	}
	return n
}
