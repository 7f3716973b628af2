package redlock

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"lanekeeper/lock"
)

// place is a place in the queues of a lock, the same one at every master: its ticket
// is the client's, so all masters have the places in one order.
type place struct {
	locker *Locker
	name   string
	id     string // of this place alone: what is said late of another one doesn't concern it
	ticket uint64
	lines  []*line
	turn   chan struct{}

	attempt uint64 // of Acquire's goroutine alone

	told  []bool // guarded by locker.mu: masters whose lock is free for it, by their word or its own yield
	heard bool   // guarded by locker.mu: one has said so
}

// Acquire implements lock.Locker.
func (l *Locker) Acquire(ctx context.Context, name string) (lock.Lease, error) {
	p, err := l.enter(name)
	if err != nil {
		return nil, err
	}
	defer l.wg.Done()
	defer l.forget(p)
	of, err := p.wait(ctx)
	if err != nil {
		p.free() // ends when the masters know, or have forgotten by themselves
		return nil, err
	}
	return of, nil
}

func (l *Locker) enter(name string) (*place, error) {
	ticket, err := l.numbers.next()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, lock.ErrClosed
	}
	l.wg.Add(1)
	l.last++
	p := &place{
		locker: l, name: name, id: l.id + "-" + strconv.FormatUint(l.last, 36), ticket: ticket,
		turn: make(chan struct{}, 1), told: make([]bool, len(l.masters)),
	}
	for i, m := range l.masters {
		p.lines = append(p.lines, &line{place: p, index: i, master: m})
	}
	l.waiting[p.id] = p
	return p, nil
}

func (l *Locker) forget(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, p.id)
}

// wake notes that a master has said that it is a place's turn.
func (l *Locker) wake(index int, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.waiting[id]; p != nil {
		p.told[index], p.heard = true, true
		p.wakeLocked()
	}
}

// wakeAll has every place ask.
func (l *Locker) wakeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.waiting {
		for i := range p.told {
			p.told[i] = true
		}
		p.wakeLocked()
	}
}

func (p *place) wakeLocked() {
	select {
	case p.turn <- struct{}{}:
	default: // it will look already
	}
}

// toldBy is how many masters' locks are free for the place, and whether one has said so.
func (p *place) toldBy() (n int, heard bool) {
	p.locker.mu.Lock()
	defer p.locker.mu.Unlock()
	for _, told := range p.told {
		if told {
			n++
		}
	}
	return n, p.heard
}

// tell notes that the place has given back a master's lock.
func (p *place) tell(index int) {
	p.locker.mu.Lock()
	defer p.locker.mu.Unlock()
	p.told[index] = true
	p.wakeLocked()
}

func (p *place) forgetTold() {
	p.locker.mu.Lock()
	defer p.locker.mu.Unlock()
	clear(p.told)
	p.heard = false
}

// wait asks for the lock until it is granted, as often as there is a reason to.
func (p *place) wait(ctx context.Context) (*lease, error) {
	l := p.locker
	var missing error // why the last attempt that was not cut short had no majority
	for pause := retryLeast; ; {
		of, next, err := p.try(ctx)
		if ctx.Err() == nil {
			missing = err
		}
		switch {
		case of != nil:
			return of, nil
		case l.life.Err() != nil:
			return nil, lock.ErrClosed
		case err != nil:
			next, pause = pause, min(2*pause, retryMost)
		default:
			pause = retryLeast
		}
		p.rest(ctx, next)
		switch {
		case l.life.Err() != nil:
			return nil, lock.ErrClosed
		case ctx.Err() != nil && missing != nil:
			return nil, fmt.Errorf("%w: %w, after: %w", lock.ErrUnavailable, ctx.Err(), missing)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
	}
}

// rest returns when there is a reason to ask again: a majority's locks are free for the
// place, or so much time has passed. If fewer have said so, the others' word may be
// lost, or on its way; it asks soon, to keep its claim.
func (p *place) rest(ctx context.Context, atMost time.Duration) {
	end := time.Now().Add(atMost)
	for {
		free, heard := p.toldBy()
		if free >= p.locker.config.quorum() {
			return
		}
		if soon := time.Now().Add(claimIn / 4); heard && soon.Before(end) {
			end = soon
		}
		timer := time.NewTimer(time.Until(end))
		select {
		case <-p.turn:
			timer.Stop()
		case <-timer.C:
			return
		case <-ctx.Done():
			timer.Stop()
			return
		case <-p.locker.life.Done():
			timer.Stop()
			return
		}
	}
}

// try makes one attempt. It returns the lease, or when to make the next at the latest.
//
// An attempt has all masters' locks or gives back what it has, and keeps its place:
// else two that have a few each would wait for each other. All masters order the
// places alike, so whoever is before all others is so at each master, and is told
// when another gives back what it was given sooner than that was known.
func (p *place) try(ctx context.Context) (*lease, time.Duration, error) {
	l := p.locker
	p.attempt++
	p.forgetTold()
	var count *tally
	for range 2 { // a token is refused once: the next exceeds all that the locks' masters have seen
		token, err := l.numbers.next()
		if err != nil {
			return nil, 0, err
		}
		of := &lease{place: p, attempt: p.attempt}
		sent := of.term.Now()
		count = p.ask(ctx, token)
		if count.accepted() {
			of.term.Extend(sent, l.config.length())
			of.Hold = lock.NewHold(token, &of.term)
			if of.ValidFor() > 0 && l.hold(of) == nil {
				p.settle(of.question())
				return of, 0, nil
			}
		}
		if ctx.Err() != nil || l.life.Err() != nil {
			return nil, 0, nil // the place is freed next
		}
		if !count.locked() {
			break
		}
	}
	p.yield(count)
	if count.answers() < l.config.quorum() {
		return nil, 0, count.missing()
	}
	return nil, count.next(), nil
}

// ask sends an attempt to all masters, and returns when it is decided.
func (p *place) ask(ctx context.Context, token uint64) *tally {
	l := p.locker
	q := question{name: p.name, id: p.id, attempt: p.attempt, ticket: p.ticket, token: token}
	count := &tally{locker: l, replies: make([]*reply, len(p.lines))}
	replies := make(chan reply, len(p.lines))
	for _, n := range p.lines {
		n.acquire(q, replies)
	}
	timer := time.NewTimer(l.config.perMaster())
	defer timer.Stop()
	for !count.decided() {
		select {
		case r := <-replies:
			count.replies[r.index] = &r
		case <-timer.C:
			for i, m := range l.masters {
				if count.replies[i] == nil {
					m.silent.Store(true)
				}
			}
			return count
		case <-ctx.Done():
			return count
		case <-l.life.Done():
			return count
		}
	}
	return count
}

// yield gives back what an attempt has come to, where it may have come to something.
func (p *place) yield(count *tally) {
	q := question{name: p.name, id: p.id, attempt: p.attempt, ticket: p.ticket}
	for i, n := range p.lines {
		if r := count.replies[i]; r == nil || r.err != nil || r.locked {
			n.yield(q)
		}
	}
}

func (p *place) settle(q question) {
	for _, n := range p.lines {
		n.settle(q)
	}
}

// free gives up what has become of a place, in the background. It answers once for
// each master.
func (p *place) free() <-chan error {
	freed := make(chan error, len(p.lines))
	q := question{name: p.name, id: p.id, attempt: p.attempt}
	for _, n := range p.lines {
		n.free(q, freed)
	}
	return freed
}

// tally is what an attempt has heard of each master so far.
type tally struct {
	locker  *Locker
	replies []*reply // nil: nothing
}

func (c *tally) count(is func(*reply) bool) (n int) {
	for _, r := range c.replies {
		if r != nil && is(r) {
			n++
		}
	}
	return n
}

func (c *tally) majority(is func(*reply) bool) bool {
	return c.count(is) >= c.locker.config.quorum()
}

func (c *tally) accepted() bool { return c.majority(func(r *reply) bool { return r.accepted }) }
func (c *tally) locked() bool   { return c.majority(func(r *reply) bool { return r.locked }) }
func (c *tally) answers() int   { return c.count(func(r *reply) bool { return r.err == nil }) }

// decided says whether waiting for more cannot change anything, or is likely in vain:
// a majority has answered, and what it lacks a master would have to say that is
// silent.
func (c *tally) decided() bool {
	accepted := c.count(func(r *reply) bool { return r.accepted })
	quorum, can, likely := c.locker.config.quorum(), accepted, accepted
	for i, r := range c.replies {
		if r == nil {
			can++
			if !c.locker.masters[i].silent.Load() {
				likely++
			}
		}
	}
	return accepted >= quorum || can < quorum || likely < quorum && c.answers() >= quorum
}

// next is when to ask again, should nobody tell: often enough to be taken for alive,
// and when a majority of the locks must have ended, where nobody is before this place.
func (c *tally) next() time.Duration {
	alive := c.locker.config.alive / 3
	var free []time.Duration
	for _, r := range c.replies {
		if r != nil && r.err == nil && r.rank == 0 {
			free = append(free, r.left+time.Millisecond)
		}
	}
	if quorum := c.locker.config.quorum(); len(free) >= quorum {
		slices.Sort(free)
		alive = min(alive, free[quorum-1])
	}
	return alive
}

// missing says why there is no majority.
func (c *tally) missing() error {
	errs := make([]error, len(c.replies))
	for i, r := range c.replies {
		if r != nil && r.err != nil {
			errs[i] = explain(r.err)
		} else if r == nil && c.locker.masters[i].silent.Load() {
			errs[i] = errSilent
		}
	}
	return fmt.Errorf("%d of %d masters are needed: %w", c.locker.config.quorum(), len(errs), c.locker.missing(errs))
}
