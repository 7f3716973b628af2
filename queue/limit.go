package queue

import (
	"context"
	"time"
)

// Config bounds a node's lanes. All fields are required but those that say what
// their zero means.
type Config struct {
	MaxQueued      int   // tickets that wait
	MaxQueuedBytes int64 // Bytes of the tickets that wait
	MaxLanes       int   // lanes: keys with a ticket that waits or runs, or that are hot or halted
	Tags           int   // values of Request.Tag that Totals always tells of: 0 … Tags-1

	// TopWindow is the time in which Top counts; it shows one to two of them. 0
	// = it counts nothing.
	TopWindow time.Duration

	// Partitions is how many there are, or 0 where one node has every key. All
	// are sealed at first.
	Partitions int
	// Emptied is called when the last ticket of a key in a sealed partition has
	// gone, by whoever ended it, with no lock held. It may come late: by then
	// the key may have tickets again, which Busy tells.
	Emptied func(partition int, key []byte)
}

// reserve counts a request that has to wait against its lane and the node, or
// returns ErrLaneFull or ErrOverloaded and counts nothing (promise 5). What it is to
// supersede is not held against it, and is the caller's to take away.
func (l *Lanes) reserve(ln *lane, r *Request, needless Load) error {
	if ln.full(r, needless) {
		return ErrLaneFull
	}
	if !l.room(r.Bytes, needless) {
		return ErrOverloaded
	}
	ln.bytes += r.Bytes
	return nil
}

// room counts a request that has to wait against the node, or reports that there is none
// for it, and counts nothing.
func (l *Lanes) room(bytes int, needless Load) bool {
	// Other shards add at the same time, so add first and take it back when
	// it was too much: the limit is never exceeded, at worst met early.
	if l.queued.Add(1)-int64(needless.Depth) > int64(l.config.MaxQueued) {
		l.queued.Add(-1)
		return false
	}
	if l.bytes.Add(int64(bytes))-int64(needless.Bytes) > l.config.MaxQueuedBytes {
		l.bytes.Add(-int64(bytes))
		l.queued.Add(-1)
		return false
	}
	return true
}

// Reserve counts a request that waits outside of all lanes among those of MaxQueued and
// MaxQueuedBytes, and reports whether there was room; then Free ends it.
func (l *Lanes) Reserve(bytes int) bool { return l.room(bytes, Load{}) }

// Free ends what Reserve began.
func (l *Lanes) Free(bytes int) {
	l.queued.Add(-1)
	l.bytes.Add(-int64(bytes))
}

func (ln *lane) full(r *Request, needless Load) bool {
	return ln.waiting.len-needless.Depth >= r.MaxDepth || ln.bytes-needless.Bytes+r.Bytes > r.MaxBytes
}

// Refuses returns the HaltedError, ErrLaneFull, ErrShed or ErrOverloaded that Admit would return
// if r had to wait now, and then has named t and filled it in like Admit; or nil,
// which promises nothing. It takes no place: it is for whoever has only a part of a
// request and would be spared the rest.
func (l *Lanes) Refuses(t *Ticket, r *Request) error {
	hash := l.hash(r.Key)
	s := l.shardOf(r.Partition, hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	ln := s.find(r.Partition, hash, r.Key)
	if ln == nil || s.closed || s.sealed(r.Partition) || !ln.delays(r) {
		return nil
	}
	err := l.refuses(ln, r)
	if err != nil {
		t.ID, t.Depth, t.Service = l.ids.next(l.now()), ln.waiting.len, ln.service
	}
	return err
}

// delays reports whether r would neither run at once nor be told that it is its
// holder's.
func (ln *lane) delays(r *Request) bool {
	if r.Observe || !r.Holder.IsZero() && ln.running.has(r.Holder) {
		return false
	}
	t := Ticket{class: r.Class, maxShared: r.MaxShared}
	return ln.waiting.head != nil || !ln.admits(&t)
}

// refuses is wait without the place.
func (l *Lanes) refuses(ln *lane, r *Request) error {
	needless := ln.surplus(r)
	switch {
	case ln.halt != nil && r.RefuseHalted:
		return &HaltedError{*ln.halt}
	case ln.sheds(r, needless):
		return ErrShed
	case ln.full(r, needless):
		return ErrLaneFull
	case l.queued.Load()-int64(needless.Depth) >= int64(l.config.MaxQueued),
		l.bytes.Load()-int64(needless.Bytes)+int64(r.Bytes) > l.config.MaxQueuedBytes:
		return ErrOverloaded
	}
	return nil
}

// dropLane uncounts a lane. It needs the mutex of the lane's shard.
func (l *Lanes) dropLane() {
	if l.lanes.Add(-1) == 0 && l.closed.Load() {
		l.once.Do(func() { close(l.idle) })
	}
}

// Close refuses every further Admit with ErrClosed, but for requests Aside, which is for
// their admitter to end. Tickets already taken wait and run on. No key is hot any more, as after
// Seal, and none is halted: what waits in halted lanes is evicted with ErrClosed.
func (l *Lanes) Close() {
	// A lane of nobody keeps the number above zero until every shard is closed
	// and it can only fall. If it is zero then, nobody else will see it become so.
	// Who saw it zero before holds its shard until it has looked at closed.
	l.lanes.Add(1)
	for i := range l.shards {
		woken := l.shards[i].close(l)
		woken.wake()
	}
	l.closed.Store(true)
	l.dropLane()
}

func (s *shard) close(l *Lanes) (woken wakes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	every := func(*lane) bool { return true }
	woken = l.evictHalted(s, ErrClosed, every)
	l.forgetHalts(s, every)
	l.forgetHeats(s, every)
	return woken
}

// Drain waits, after Close, until no ticket waits or runs, or returns ctx's error.
func (l *Lanes) Drain(ctx context.Context) error {
	select {
	case <-l.idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Evict takes every waiting ticket out of its lane and returns how many there
// were; each one's Wait returns cause. Turns go on.
func (l *Lanes) Evict(cause error) (evicted int) {
	for i := range l.shards {
		woken := l.shards[i].evict(l, cause)
		evicted += woken.len
		woken.wake()
	}
	return evicted
}

func (s *shard) evict(l *Lanes, cause error) (woken wakes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, first := range s.lanes {
		for ln := first; ln != nil; ln = ln.chain {
			l.evictLane(ln, cause, &woken)
			// Something runs in this lane, or the head would have had its
			// turn (promise 4), or it is blocked, halted or hot: so the lane stays.
		}
	}
	return woken
}

func (l *Lanes) evictLane(ln *lane, cause error, woken *wakes) {
	for t := ln.waiting.head; t != nil; t = ln.waiting.head {
		l.evictTicket(t, cause, woken)
	}
}

func (l *Lanes) evictTicket(t *Ticket, cause error, woken *wakes) {
	l.unqueue(t)
	t.state, t.lane, t.cause = outside, nil, cause
	woken.add(t)
}
