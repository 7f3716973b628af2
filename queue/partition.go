package queue

import "bytes"

// Partitions are how a set of nodes shares all keys: a node takes requests of
// those it owns, and its lanes refuse the others. The lanes do not know who owns
// what; they make the change of owner one step with respect to Admit, so that no
// ticket is taken between "which keys are still at work here?" and "no more".

// shardOf is the shard of a key: its partition's, so that all lanes of a
// partition can be found under one mutex.
func (l *Lanes) shardOf(partition int, hash uint64) *shard {
	if l.config.Partitions > 0 && partition >= 0 {
		return &l.shards[partition%shardCount]
	}
	return &l.shards[hash%shardCount]
}

// sealed reports whether a partition is not this node's. It needs s.mu.
func (s *shard) sealed(partition int) bool {
	return s.open != nil && partition >= 0 && !s.open[partition/shardCount]
}

// IsSealed reports whether a partition's further requests are refused. It may be so no
// longer when it returns.
func (l *Lanes) IsSealed(partition int) bool {
	s := l.shardOf(partition, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealed(partition)
}

func (ln *lane) busy() bool { return ln.running.len > 0 || ln.waiting.len > 0 }

// Open lets requests of a partition in.
func (l *Lanes) Open(partition int) {
	s := l.shardOf(partition, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[partition/shardCount] = true
}

// Seal refuses every further request of a partition with ErrSealed, and returns
// its keys that still have a ticket, waiting, running or held. Those tickets go
// on as before, and Config.Emptied tells when a key has none left. Admit comes
// either before, and then its key is in the list, or after, and is refused.
//
// What waits in a halted lane would wait here for ever, and is evicted with ErrHaltMoves,
// in the same step.
//
// Its keys are no longer hot: hot is said of requests to come, and they come to
// somebody else.
func (l *Lanes) Seal(partition int) (keys [][]byte) {
	s := l.shardOf(partition, 0)
	s.mu.Lock()
	s.open[partition/shardCount] = false
	woken := l.evictHalted(s, ErrHaltMoves, inPartition(partition))
	s.each(partition, func(ln *lane) {
		if ln.busy() {
			keys = append(keys, bytes.Clone(ln.key))
		}
	})
	l.forgetHeats(s, func(ln *lane) bool { return ln.partition == partition })
	s.mu.Unlock()
	woken.wake()
	return keys
}

// each calls f for every lane of a partition. It needs s.mu; f may not close lanes.
func (s *shard) each(partition int, f func(*lane)) {
	for _, first := range s.lanes {
		for ln := first; ln != nil; ln = ln.chain {
			if ln.partition == partition {
				f(ln)
			}
		}
	}
}

// Block keeps further turns of a key from beginning until Unblock, because
// another node may still run a request of it. Tickets can be taken meanwhile.
// Blocking twice is blocking once.
func (l *Lanes) Block(partition int, key []byte) {
	hash := l.hash(key)
	s := l.shardOf(partition, hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	ln := s.find(partition, hash, key)
	if ln == nil {
		// Past MaxLanes if need be: a lane that is not blocked is a promise broken.
		l.lanes.Add(1)
		ln = s.make(partition, hash, key)
	}
	ln.blocked = true
}

// Unblock ends what Block began, and gives the turns that have come.
func (l *Lanes) Unblock(partition int, key []byte) {
	hash := l.hash(key)
	s := l.shardOf(partition, hash)
	s.mu.Lock()
	ln := s.find(partition, hash, key)
	if ln == nil || !ln.blocked {
		s.mu.Unlock()
		return
	}
	ln.blocked = false
	now := l.now()
	woken := l.advance(ln, now)
	if ln.heat != nil {
		l.look(ln, now)
	}
	if !ln.busy() && !ln.stopped() && !ln.hot() {
		l.closeLane(s, ln)
	}
	s.mu.Unlock()
	woken.wake()
}

// Busy reports whether a key has a ticket: one that waits, runs or is held.
func (l *Lanes) Busy(partition int, key []byte) bool {
	hash := l.hash(key)
	s := l.shardOf(partition, hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	ln := s.find(partition, hash, key)
	return ln != nil && ln.busy()
}

// EvictPartition takes every waiting ticket of a partition out of its lane, as
// Evict does for all.
func (l *Lanes) EvictPartition(partition int, cause error) (evicted int) {
	s := l.shardOf(partition, 0)
	var told []emptied
	s.mu.Lock()
	var woken wakes
	var empty []*lane
	s.each(partition, func(ln *lane) {
		if l.evictLane(ln, cause, &woken); !ln.busy() {
			empty = append(empty, ln)
		}
	})
	for _, ln := range empty {
		told = append(told, l.closeIfEmpty(s, ln))
	}
	s.mu.Unlock()
	evicted = woken.len
	woken.wake()
	for _, e := range told {
		l.tell(e)
	}
	return evicted
}

// emptied is a key of a sealed partition that has no ticket left; without a key
// it is nothing.
type emptied struct {
	partition int
	key       []byte
}

// tell calls Config.Emptied. No lock may be held.
func (l *Lanes) tell(e emptied) {
	if e.key != nil {
		l.config.Emptied(e.partition, e.key)
	}
}
