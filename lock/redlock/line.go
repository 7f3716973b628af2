package redlock

import (
	"context"
	"sync"
	"time"
)

// line is the way of one place to one master. One question at a time is on it, and
// they are asked in order, so that none is overtaken by the one that undoes it. Of
// those that have not been asked when the next one comes, the last alone is: each
// makes up for the ones before it.
type line struct {
	place  *place
	index  int // of the master
	master *master

	mu      sync.Mutex // guards the rest
	busy    bool
	next    func()
	freeing bool // the last question has been said

	// Of the goroutine that asks alone:
	reached bool // something may have been asked
	stands  standing
}

// standing is what is known of a place at a master.
type standing int

const (
	waits   standing = iota // it has not the lock
	unknown                 // an answer is missing
	has                     // it has the lock
)

// ask has a question asked when those before it have been answered.
func (n *line) ask(question func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.freeing {
		n.askLocked(question)
	}
}

// askLast is ask, and ends the line: what is asked later is not.
func (n *line) askLast(question func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.freeing = true
	n.askLocked(question)
}

func (n *line) askLocked(question func()) {
	if n.busy {
		n.next = question
		return
	}
	n.busy = true
	n.place.locker.wg.Go(func() { // ends with the questions, each of which ends with gone
		for question != nil {
			question()
			n.mu.Lock()
			question, n.next = n.next, nil
			n.busy = question != nil
			n.mu.Unlock()
		}
	})
}

// call asks the master something.
func (n *line) call(ctx context.Context, f func(context.Context, store) error) error {
	n.reached = n.reached || n.master.store.Load() != nil
	return n.master.call(ctx, f)
}

// release is a question that is asked more than once.
func (n *line) release(q question) error {
	l := n.place.locker
	ctx, cancel := context.WithTimeout(l.gone, l.config.afterwards())
	defer cancel()
	return n.call(ctx, func(ctx context.Context, s store) error { return s.release(ctx, q) })
}

// reply is what an attempt hears from one master.
type reply struct {
	index int
	answer
	err error
}

// acquire has an attempt ask for the master's lock. The answer may come when the
// attempt waits for it no more; then the next question sees to it.
func (n *line) acquire(q question, to chan<- reply) {
	n.ask(func() {
		l, r := n.place.locker, reply{index: n.index}
		r.err = n.call(l.life, func(ctx context.Context, s store) (err error) {
			r.answer, err = s.acquire(ctx, q)
			return err
		})
		if r.err == nil {
			l.numbers.see(r.seen)
		}
		switch {
		case r.err != nil:
			n.stands = unknown
		case r.locked:
			n.stands = has
		default:
			n.stands = waits
		}
		to <- r
	})
}

// yield gives the master's lock back, if an attempt up to this one has it, and keeps the
// place.
func (n *line) yield(q question) {
	n.ask(func() {
		if n.stands == has {
			n.place.tell(n.index) // nobody else will: it is first there
		}
		if n.stands != waits && n.release(q) == nil {
			n.stands = waits
		}
	})
}

// settle leaves the queue of a master that has not granted what a majority has. It
// leaves the master's lock alone, which may be the lease's by now.
func (n *line) settle(q question) {
	q.attempt, q.ticket = 0, 0
	n.ask(func() {
		if n.stands != has {
			n.release(q) //nolint:errcheck // the master drops the place in time
		}
	})
}

// restore gives the lease the lock of a master that does not know of it.
func (n *line) restore(q question, answered func(int64)) {
	n.ask(func() {
		l := n.place.locker
		ctx, cancel := context.WithTimeout(l.life, l.config.afterwards())
		defer cancel()
		var now int64
		if n.call(ctx, func(ctx context.Context, s store) (err error) {
			now, err = s.restore(ctx, q)
			return err
		}) == nil {
			answered(now)
		}
	})
}

// free takes the place and the lock from the master: the last question. It asks until
// the master has answered, or has forgotten by itself, or the stores are closed.
func (n *line) free(q question, to chan<- error) {
	l := n.place.locker
	forgotten := time.Now().Add(l.config.TTL + l.config.alive)
	n.askLast(func() {
		var err error
		for pause := retryLeast; n.reached; pause = min(2*pause, retryMost) {
			err = n.release(q)
			if err == nil || time.Now().After(forgotten) || l.gone.Err() != nil {
				break
			}
			sleep(l.gone, pause)
		}
		to <- err
	})
}
