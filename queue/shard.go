package queue

import (
	"bytes"
	"sync"
)

// Enough that two cores rarely meet in one; a power of two.
const shardCount = 256

type shard struct {
	mu     sync.Mutex       // guards everything below, its lanes and their tickets
	lanes  map[uint64]*lane // by hash of the key; lanes of equal hash are chained
	open   []bool           // the partitions of this shard that are this node's, by partition/shardCount
	closed bool
	heats  *heat // of its lanes that are watched
	top    *top  // nil where nothing is counted
	peak   int   // largest len(lanes) since the map was made
	free   *lane // a few lanes for reuse, linked by chain
	frees  int

	_ [64]byte // keeps neighbours off one cache line
}

func (s *shard) find(partition int, hash uint64, key []byte) *lane {
	ln := s.lanes[hash]
	for ln != nil && (!bytes.Equal(ln.key, key) || ln.partition != partition) {
		ln = ln.chain
	}
	return ln
}

func (s *shard) make(partition int, hash uint64, key []byte) *lane {
	ln := s.free
	if ln == nil {
		ln = new(lane)
	} else {
		s.free, ln.chain = ln.chain, nil
		s.frees--
	}
	ln.key = append(ln.key[:0], key...)
	ln.hash, ln.partition, ln.service = hash, partition, 0
	ln.chain = s.lanes[hash]
	s.lanes[hash] = ln
	s.peak = max(s.peak, len(s.lanes))
	return ln
}

const (
	freeLanes   = 4   // kept per shard; a turn opens and closes a lane, so a few save most allocations
	freeKey     = 512 // bytes of key that a kept lane may hold on to
	shrinkBelow = 8   // a map at 1/8 of its peak is made anew, for Go's maps never give memory back
	shrinkFrom  = 256 // smaller maps are not worth it
)

// closeIfEmpty forgets a lane without tickets (promise 6). If the lane's
// partition is sealed it returns the key, for tell.
func (l *Lanes) closeIfEmpty(s *shard, ln *lane) (emptied emptied) {
	if ln.busy() {
		return emptied
	}
	if s.sealed(ln.partition) && l.config.Emptied != nil {
		emptied.partition, emptied.key = ln.partition, bytes.Clone(ln.key)
	}
	if !ln.blocked && ln.halt == nil && ln.pause == nil && !ln.hot() {
		l.closeLane(s, ln)
	}
	return emptied
}

func (l *Lanes) closeLane(s *shard, ln *lane) {
	s.unchain(ln)
	if ln.heat != nil {
		l.unwatch(s, ln.heat)
	}
	if s.frees < freeLanes && cap(ln.key) <= freeKey {
		ln.chain = s.free
		s.free = ln
		s.frees++
	}
	if s.peak >= shrinkFrom && len(s.lanes) < s.peak/shrinkBelow {
		s.shrink()
	}
	l.dropLane()
}

func (s *shard) unchain(ln *lane) {
	first := s.lanes[ln.hash]
	switch {
	case first != ln:
		for first.chain != ln {
			first = first.chain
		}
		first.chain = ln.chain
	case ln.chain != nil:
		s.lanes[ln.hash] = ln.chain
	default:
		delete(s.lanes, ln.hash)
	}
	ln.chain = nil
}

func (s *shard) shrink() {
	lanes := make(map[uint64]*lane, len(s.lanes))
	for hash, ln := range s.lanes {
		lanes[hash] = ln
	}
	s.lanes, s.peak = lanes, len(lanes)
}
