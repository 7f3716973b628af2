package queue

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A halt stops the lane of a key after a failure: turns that run go on, and none begins until
// somebody says so. It is state of the key and not a ticket: a lane that is only halted is
// not busy, keeps no partition from moving and no Drain from ending, and goes with its
// partition (ExportHalts). It lives in memory, and is lost with it.
//
// A halted lane counts in MaxLanes like any other, but a lane can always be halted:
// it is there already, as its ticket is.

// Halt is why a lane is halted.
type Halt struct {
	Ticket ID     // whose turn failed
	Cause  string // how
	Since  time.Time
	Tag    int // the ticket's

	Operator bool // it is a pause, and has no ticket: see Lanes.Pause
}

// HaltedError is returned by Admit, and is the cause of an eviction, for requests with
// Request.RefuseHalted.
type HaltedError struct{ Halt }

// Error says what the operator has to know.
func (e *HaltedError) Error() string {
	return fmt.Sprintf("ticket %s halted the lane of this key on %s: %s", e.Ticket, e.Since.UTC().Format(time.RFC3339), e.Cause)
}

// Causes of evictions from halted lanes, and errors of Resume, Skip and Fail.
var (
	ErrCancelled = errors.New("queue: an operator cancelled the request in a halted lane")
	ErrHaltMoves = errors.New("queue: the lane is halted, and is another node's from here on")

	ErrNotHalted = errors.New("queue: the lane is not halted")
	ErrOtherHalt = errors.New("queue: another ticket halted the lane")
)

// Halt halts t's lane, in t's turn: from then on none begins, whenever t is Done, and so
// none can slip in between. Waiting tickets stay, but for those that are to be refused. A lane that
// is halted stays as it is. It reports whether it was not.
//
// In a sealed partition all that waits is evicted: the halt goes to the partition's new owner. After Close it
// is, too, and nothing is halted, as nothing more will come.
func (t *Ticket) Halt(cause string) (halted bool) {
	l, s := t.lanes, t.shard
	s.mu.Lock()
	if t.state != turn {
		s.mu.Unlock()
		panic("queue: Halt without a turn")
	}
	ln := t.lane
	if ln.halt != nil {
		s.mu.Unlock()
		return false
	}
	if s.closed {
		var woken wakes
		l.evictLane(ln, ErrClosed, &woken)
		s.mu.Unlock()
		woken.wake()
		return false
	}
	h := Halt{Ticket: t.ID, Cause: cause, Since: time.Now(), Tag: t.tag}
	ln.halt = &h
	var woken wakes
	if s.sealed(ln.partition) {
		l.evictLane(ln, ErrHaltMoves, &woken)
	} else {
		refused := &HaltedError{h}
		for w := ln.waiting.head; w != nil; {
			next := w.next
			if w.refuseHalted {
				l.evictTicket(w, refused, &woken)
			}
			w = next
		}
	}
	l.haltChanged(ln)
	s.mu.Unlock()
	woken.wake()
	return true
}

// haltChanged is the end of whatever changed a halt.
func (l *Lanes) haltChanged(ln *lane) {
	if ln.heat != nil {
		l.look(ln, l.now())
	}
}

// Resume lets a halted lane go on with the next of its tickets. A ticket that is not zero
// must be the one that halted it, so that nobody ends a later halt than the one he knows of. It returns
// the halt that is over, or ErrNotHalted or ErrOtherHalt.
func (l *Lanes) Resume(partition int, key []byte, ticket ID) (Halt, error) {
	h, _, err := l.lift(partition, key, ticket, 0)
	return h, err
}

// Skip is Resume, but the first ticket that waits is evicted with ErrCancelled. It returns how
// many were: none if none waits.
func (l *Lanes) Skip(partition int, key []byte, ticket ID) (_ Halt, evicted int, _ error) {
	return l.lift(partition, key, ticket, 1)
}

// Fail is Resume, but every ticket that waits is evicted with ErrCancelled.
func (l *Lanes) Fail(partition int, key []byte, ticket ID) (_ Halt, evicted int, _ error) {
	return l.lift(partition, key, ticket, -1)
}

// lift ends a halt, without the first few tickets; negative: all.
func (l *Lanes) lift(partition int, key []byte, ticket ID, without int) (_ Halt, evicted int, _ error) {
	hash := l.hash(key)
	s := l.shardOf(partition, hash)
	s.mu.Lock()
	ln := s.find(partition, hash, key)
	switch {
	case ln == nil || ln.halt == nil || s.sealed(partition):
		s.mu.Unlock()
		return Halt{}, 0, ErrNotHalted
	case !ticket.IsZero() && ticket != ln.halt.Ticket:
		h := *ln.halt
		s.mu.Unlock()
		return h, 0, ErrOtherHalt
	}
	h := *ln.halt
	ln.halt = nil
	var woken wakes
	for t := ln.waiting.head; t != nil && evicted != without; t = ln.waiting.head {
		l.evictTicket(t, ErrCancelled, &woken)
		evicted++
	}
	granted := l.advance(ln, l.now())
	l.haltChanged(ln)
	emptied := l.closeIfEmpty(s, ln)
	s.mu.Unlock()
	woken.wake()
	granted.wake()
	l.tell(emptied)
	return h, evicted, nil
}

// Halted returns the halt of a key's lane, if it is halted.
func (l *Lanes) Halted(partition int, key []byte) (Halt, bool) {
	hash := l.hash(key)
	s := l.shardOf(partition, hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	ln := s.find(partition, hash, key)
	if ln == nil || ln.halt == nil {
		return Halt{}, false
	}
	return *ln.halt, true
}

// Stopped returns the lanes in which nothing begins though nothing is known to run: halted and
// paused ones, and held ones, those first that have been so for longest. Each has its head alone, if any.
// What is halted in a sealed partition is its new owner's to tell.
func (l *Lanes) Stopped() (stopped []Snapshot) {
	now := l.now()
	for i := range l.shards {
		stopped = l.shards[i].stopped(stopped, now)
	}
	slices.SortFunc(stopped, func(a, b Snapshot) int {
		return cmp.Or(cmp.Compare(b.stoppedFor(), a.stoppedFor()), cmp.Compare(a.Key, b.Key))
	})
	return stopped
}

func (s *shard) stopped(stopped []Snapshot, now time.Duration) []Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, first := range s.lanes {
		for ln := first; ln != nil; ln = ln.chain {
			held := ln.running.head != nil && ln.running.head.held
			if held || ln.stopped() && !s.sealed(ln.partition) {
				stopped = append(stopped, ln.snapshot(now, 1))
			}
		}
	}
	return stopped
}

func (s *Snapshot) stoppedFor() time.Duration {
	switch {
	case s.Halt != nil:
		return time.Since(s.Halt.Since)
	case s.Pause != nil:
		return time.Since(s.Pause.Since)
	}
	return s.Head().Age
}

// KeyHalt is the halt of a key, on its way to another node.
type KeyHalt struct {
	Key string
	Halt
}

// ExportHalts returns the halts and pauses of a partition, but for those of some keys. They stay: see
// ImportHalts.
func (l *Lanes) ExportHalts(partition int, except func(key []byte) bool) (halts []KeyHalt) {
	s := l.shardOf(partition, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.each(partition, func(ln *lane) {
		for _, h := range [...]*Halt{ln.halt, ln.pause} {
			if h != nil && !except(ln.key) {
				halts = append(halts, KeyHalt{string(ln.key), *h})
			}
		}
	})
	slices.SortStableFunc(halts, func(a, b KeyHalt) int { return cmp.Compare(a.Key, b.Key) })
	return halts
}

// ImportHalts halts the lanes of some keys, before anything of them runs here. What is halted
// already stays so. If they are all that the partition has, and it is sealed, the halts that it
// had when it was this node's before are forgotten: they are older. In an open partition
// they are not, since there were two owners then, and either's halt has its reason.
func (l *Lanes) ImportHalts(partition int, halts []KeyHalt, all bool) {
	s := l.shardOf(partition, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if all && s.sealed(partition) {
		l.forgetHalts(s, inPartition(partition))
	}
	for i := range halts {
		key := []byte(halts[i].Key)
		hash := l.hash(key)
		ln := s.find(partition, hash, key)
		if ln == nil {
			l.lanes.Add(1) // past MaxLanes if need be, as with Block
			ln = s.make(partition, hash, key)
		}
		h := halts[i].Halt
		switch {
		case h.Operator && ln.pause == nil:
			ln.pause = &h
		case !h.Operator && ln.halt == nil:
			ln.halt = &h
		}
	}
}

// forgetHalts ends halts and pauses of lanes in which nothing waits. It needs s.mu.
func (l *Lanes) forgetHalts(s *shard, of func(*lane) bool) {
	var idle []*lane
	for _, first := range s.lanes {
		for ln := first; ln != nil; ln = ln.chain {
			if ln.stopped() && of(ln) {
				if ln.halt, ln.pause = nil, nil; !ln.busy() {
					idle = append(idle, ln)
				}
			}
		}
	}
	for _, ln := range idle {
		if !ln.blocked && !ln.hot() {
			l.closeLane(s, ln)
		}
	}
}

// evictHalted takes what waits in halted and paused lanes out of them, where nobody could let it go on
// any more. It needs s.mu.
func (l *Lanes) evictHalted(s *shard, cause error, of func(*lane) bool) (woken wakes) {
	for _, first := range s.lanes {
		for ln := first; ln != nil; ln = ln.chain {
			if ln.stopped() && of(ln) {
				l.evictLane(ln, cause, &woken)
			}
		}
	}
	return woken
}

// inPartition is for those.
func inPartition(partition int) func(*lane) bool {
	return func(ln *lane) bool { return ln.partition == partition }
}
