package queue

import (
	"errors"
	"time"
)

// An operator may stop a lane by hand. A pause is a halt that no failure has caused: turns that
// run go on, none begins, and what comes waits, also what a halt would refuse. It is ended by
// Unpause alone, and has nothing to do with a halt, which may come to the same lane and stay
// when the pause ends. Like a halt it is state of the key, and travels with it. It may
// also take one ticket out of the line. Neither gives anybody a turn before one that came earlier.

// Errors of Pause, Unpause and Cancel, and the cause of an eviction by Cancel.
var (
	ErrPaused    = errors.New("queue: the lane is paused already")
	ErrNotPaused = errors.New("queue: the lane is not paused")
	ErrNoTicket  = errors.New("queue: no such ticket waits in the lane")
	ErrRuns      = errors.New("queue: the ticket has its turn")

	ErrWithdrawn = errors.New("queue: an operator cancelled the request while it waited")
)

// stopped reports whether nothing begins in the lane before somebody says so.
func (ln *lane) stopped() bool { return ln.halt != nil || ln.pause != nil }

// Pause lets nothing begin in the lane of a key any more. It returns the pause, or with
// ErrPaused the one that there is; or ErrSealed or ErrClosed.
func (l *Lanes) Pause(partition int, key []byte, reason string, tag int) (Halt, error) {
	hash := l.hash(key)
	s := l.shardOf(partition, hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.sealed(partition):
		return Halt{}, ErrSealed
	case s.closed:
		return Halt{}, ErrClosed
	}
	ln := s.find(partition, hash, key)
	if ln == nil {
		l.lanes.Add(1) // past MaxLanes if need be, as with Block
		ln = s.make(partition, hash, key)
	}
	if ln.pause != nil {
		return *ln.pause, ErrPaused
	}
	h := Halt{Cause: reason, Since: time.Now(), Tag: tag, Operator: true}
	ln.pause = &h
	l.haltChanged(ln)
	return h, nil
}

// Unpause ends a pause, and gives the turns that have come. It returns the pause that is over, or
// ErrNotPaused.
func (l *Lanes) Unpause(partition int, key []byte) (Halt, error) {
	hash := l.hash(key)
	s := l.shardOf(partition, hash)
	s.mu.Lock()
	ln := s.find(partition, hash, key)
	if ln == nil || ln.pause == nil || s.sealed(partition) {
		s.mu.Unlock()
		return Halt{}, ErrNotPaused
	}
	h := *ln.pause
	ln.pause = nil
	granted := l.advance(ln, l.now())
	l.haltChanged(ln)
	emptied := l.closeIfEmpty(s, ln)
	s.mu.Unlock()
	granted.wake()
	l.tell(emptied)
	return h, nil
}

// Paused returns the pause of a key's lane, if it is paused.
func (l *Lanes) Paused(partition int, key []byte) (Halt, bool) {
	hash := l.hash(key)
	s := l.shardOf(partition, hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	ln := s.find(partition, hash, key)
	if ln == nil || ln.pause == nil {
		return Halt{}, false
	}
	return *ln.pause, true
}

// Cancel takes one ticket that waits out of its lane: its Wait returns ErrWithdrawn. It returns
// ErrRuns if that has its turn, and ErrNoTicket if it is not there.
func (l *Lanes) Cancel(partition int, key []byte, ticket ID) error {
	hash := l.hash(key)
	s := l.shardOf(partition, hash)
	s.mu.Lock()
	ln := s.find(partition, hash, key)
	var t *Ticket
	err := ErrNoTicket
	if ln != nil {
		if t = ln.waiting.find(ticket); t == nil && ln.running.has(ticket) {
			err = ErrRuns
		}
	}
	if t == nil {
		s.mu.Unlock()
		return err
	}
	var woken wakes
	l.evictTicket(t, ErrWithdrawn, &woken)
	granted := l.advance(ln, l.now()) // shared tickets may have stood behind an exclusive one
	l.haltChanged(ln)
	emptied := l.closeIfEmpty(s, ln)
	s.mu.Unlock()
	woken.wake()
	granted.wake()
	l.tell(emptied)
	return nil
}
