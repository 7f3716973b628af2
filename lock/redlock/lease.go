package redlock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lanekeeper/lock"
)

// lease is a lock that is held.
type lease struct {
	*lock.Hold
	place   *place
	attempt uint64 // the one that was granted
	term    lock.Term
}

func (of *lease) question() question {
	return question{name: of.place.name, id: of.place.id, attempt: of.attempt, token: of.Token()}
}

// hold has a lease renewed from now on.
func (l *Locker) hold(of *lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return lock.ErrClosed
	}
	l.wg.Add(1)
	l.held[of] = struct{}{}
	of.OnExpiry(func() { of.lose("it could not be renewed in time on a majority of the masters") })
	return nil
}

func (l *Locker) drop(of *lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, of)
}

// end ends the lease and frees the lock. It returns nil if it had ended before.
func (of *lease) end(reason error) (freed <-chan error) {
	of.place.locker.drop(of)
	if of.End(reason) {
		freed = of.place.free()
		of.place.locker.wg.Done()
	}
	return freed
}

// lose ends the lease without the holder. Some masters may have it still, for nobody.
func (of *lease) lose(why string) { of.end(fmt.Errorf("%w: %s", lock.ErrLost, why)) }

// Release implements lock.Lease. It waits for a majority of the masters.
func (of *lease) Release(ctx context.Context) error {
	freed := of.end(lock.ErrReleased)
	if freed == nil {
		if err := of.Err(); !errors.Is(err, lock.ErrReleased) {
			return err
		}
		return nil
	}
	config := &of.place.locker.config
	var errs []error
	for n := 0; n < config.quorum(); {
		select {
		case err := <-freed:
			if err == nil {
				n++
			} else if errs = append(errs, err); len(errs) >= config.quorum() {
				return errors.Join(errs...)
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", lock.ErrUnavailable, ctx.Err())
		}
	}
	return nil
}

// renewAll renews what is held, all at once, until Close.
func (l *Locker) renewAll() {
	every := l.config.TTL / 3
	for next := every; l.life.Err() == nil; {
		sleep(l.life, next)
		if next = every; !l.renewOnce() {
			next = every / 4 // there is time for some more attempts
		}
	}
}

// renewMax bounds the locks of one script, which nothing else of the server's can
// run beside.
const renewMax = 256

// renewOnce renews what is held. It reports false if there is a lease for which no
// majority did so in time.
func (l *Locker) renewOnce() bool {
	l.mu.Lock()
	r := &round{locker: l, sent: new(lock.Term).Now(), votes: make(map[*lease]*votes), all: make(chan struct{})}
	held := make([]*lease, 0, len(l.held))
	for of := range l.held {
		held = append(held, of)
		r.votes[of] = new(votes)
	}
	l.mu.Unlock()
	if len(held) == 0 {
		return true
	}
	for i, m := range l.masters {
		if m.renewing.CompareAndSwap(false, true) {
			l.wg.Go(func() { // ends with its questions, each of which ends with life
				defer m.renewing.Store(false)
				r.ask(i, m, held)
			})
		}
	}
	timer := time.NewTimer(l.config.perMaster())
	defer timer.Stop()
	select {
	case <-r.all:
		return true
	case <-timer.C: // answers that come later count all the same
	case <-l.life.Done():
	}
	return false
}

// round is one renewal of all leases. A lease is renewed when a majority of the
// masters has extended it, or given it their lock again, since sent.
type round struct {
	locker *Locker
	sent   lock.Sending
	all    chan struct{} // closed when all are renewed

	mu      sync.Mutex // guards the rest
	votes   map[*lease]*votes
	renewed int
}

// votes are how many masters keep a lock for a lease, and how many do for another.
type votes struct{ yes, no int }

// ask asks one master to extend the locks of leases.
func (r *round) ask(index int, m *master, held []*lease) {
	ctx, cancel := context.WithTimeout(r.locker.life, r.locker.config.TTL)
	defer cancel()
	for len(held) > 0 {
		some := held[:min(len(held), renewMax)]
		held = held[len(some):]
		questions := make([]question, len(some))
		for i, of := range some {
			questions[i] = of.question()
		}
		var renewed []int64
		if m.call(ctx, func(ctx context.Context, s store) (err error) {
			renewed, err = s.renew(ctx, questions)
			return err
		}) != nil {
			return // each lease sees for itself when it ends
		}
		for i, of := range some {
			if renewed[i] == 0 {
				of.place.lines[index].restore(questions[i], func(now int64) { r.vote(of, now) })
			} else {
				r.vote(of, renewed[i])
			}
		}
	}
}

// vote counts what one master says of a lease.
//
// A lease that has lapsed is not renewed. That a master which has its lock for nobody
// gives it again is safe only so: then no other lease has been granted since this one
// was, for a majority kept its locks all the time, and no token is higher than its.
func (r *round) vote(of *lease, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, v := r.locker, r.votes[of]
	if now < 0 {
		if v.no++; v.no > len(l.masters)-l.config.quorum() {
			go of.lose("a majority of the masters has another's") // ends at once
		}
		return
	}
	if v.yes++; v.yes != l.config.quorum() {
		return
	}
	if of.ValidFor() > 0 {
		of.term.Extend(r.sent, l.config.length())
	}
	if r.renewed++; r.renewed == len(r.votes) {
		close(r.all)
	}
}
