package queue

import "context"

// Config bounds a node's lanes. All fields are required.
type Config struct {
	MaxQueued      int   // tickets that wait
	MaxQueuedBytes int64 // Bytes of the tickets that wait
	MaxLanes       int   // lanes: keys with a ticket that waits or runs
	Tags           int   // values of Request.Tag: 0 … Tags-1

	// Partitions is how many there are, or 0 where one node has every key. All
	// are sealed at first.
	Partitions int
	// Emptied is called when the last ticket of a key in a sealed partition has
	// gone, by whoever ended it, with no lock held. It may come late: by then
	// the key may have tickets again, which Busy tells.
	Emptied func(partition int, key []byte)
}

// reserve counts a request that has to wait against its lane and the node, or
// returns ErrLaneFull or ErrOverloaded and counts nothing (promise 5).
func (l *Lanes) reserve(ln *lane, r *Request) error {
	if ln.waiting.len >= r.MaxDepth || ln.bytes+r.Bytes > r.MaxBytes {
		return ErrLaneFull
	}
	// Other shards add at the same time, so add first and take it back when
	// it was too much: the limit is never exceeded, at worst met early.
	if l.queued.Add(1) > int64(l.config.MaxQueued) {
		l.queued.Add(-1)
		return ErrOverloaded
	}
	if l.bytes.Add(int64(r.Bytes)) > l.config.MaxQueuedBytes {
		l.bytes.Add(-int64(r.Bytes))
		l.queued.Add(-1)
		return ErrOverloaded
	}
	ln.bytes += r.Bytes
	return nil
}

// dropLane uncounts a lane.
func (l *Lanes) dropLane() {
	if l.lanes.Add(-1) == 0 && l.closed.Load() {
		l.once.Do(func() { close(l.idle) })
	}
}

// Close refuses every further Admit with ErrClosed. Tickets already taken wait
// and run on.
func (l *Lanes) Close() {
	l.closed.Store(true)
	for i := range l.shards {
		l.shards[i].close()
	}
	// Every shard is closed, so the number of lanes can only fall. If it is
	// zero already, nobody else will see it become so.
	l.lanes.Add(1)
	l.dropLane()
}

func (s *shard) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
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
			// turn (promise 4), or it is blocked: so the lane stays.
		}
	}
	return woken
}

func (l *Lanes) evictLane(ln *lane, cause error, woken *wakes) {
	for t := ln.waiting.head; t != nil; t = ln.waiting.head {
		l.unqueue(t)
		t.state, t.lane, t.cause = outside, nil, cause
		woken.add(t)
	}
}
