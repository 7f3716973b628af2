package queue

import (
	"bytes"
	"cmp"
	"slices"
	"time"
)

// topCounters is how many keys a shard counts at once. A key has one shard, so
// 256 times as many are counted in all.
const topCounters = 8

// counters are the Space-Saving algorithm of Metwally, Agrawal and El Abbadi
// (Efficient Computation of Frequent and Top-k Elements in Data Streams, ICDT
// 2005): a key without a counter takes over the least one, with its count. So a
// count is never below the truth, by at most its error above, the error at most
// total/topCounters, and every key that came more often than that has a counter.
//
// Their list in order of counts is left out: so few are searched in one go.
type counters struct {
	hashes [topCounters]uint64 // of the keys; first and together, for they are searched
	counts [topCounters]uint64 // 0 = has no key yet
	errors [topCounters]uint64
	keys   [topCounters]topKey
}

type topKey struct {
	partition int
	key       []byte
}

func (k *topKey) is(partition int, key []byte) bool {
	return k.partition == partition && bytes.Equal(k.key, key)
}

func (c *counters) add(partition int, hash uint64, key []byte) {
	if i := c.find(partition, hash, key); i >= 0 {
		c.counts[i]++
		return
	}
	i := c.least()
	c.errors[i] = c.counts[i]
	c.counts[i]++
	c.hashes[i] = hash
	k := &c.keys[i]
	if cap(k.key) > freeKey {
		k.key = nil // one long key is not to be held on to
	}
	k.partition, k.key = partition, append(k.key[:0], key...)
}

func (c *counters) find(partition int, hash uint64, key []byte) int {
	for i := range c.hashes { // not by value, which would copy them all first
		if c.hashes[i] == hash && c.counts[i] > 0 && c.keys[i].is(partition, key) {
			return i
		}
	}
	return -1
}

// least finds the lowest count with its place in the low bits, so that nothing
// is left to guess for the processor, which would be wrong most times.
func (c *counters) least() int {
	lowest := c.counts[0] * topCounters
	for i := 1; i < topCounters; i++ {
		lowest = min(lowest, c.counts[i]*topCounters+uint64(i))
	}
	return int(lowest % topCounters)
}

// unseen is the most that a key without a counter can have come.
func (c *counters) unseen() uint64 { return c.counts[c.least()] }

// top counts a shard's keys in a window of time and keeps the window before, so
// that what was asked for yesterday goes away, and what was asked for a moment ago
// does not when a window ends.
type top struct {
	window  time.Duration
	until   time.Duration // the end of the window that runs, a multiple of its length
	current int           // which of both runs
	windows [2]counters
}

// pass begins a new window if the last has ended.
func (c *top) pass(now time.Duration) {
	if now < c.until {
		return
	}
	if now >= c.until+c.window {
		c.windows[c.current].clear() // it is not the one before either
	}
	c.current = 1 - c.current
	c.windows[c.current].clear()
	c.until = now - now%c.window + c.window
}

// add counts a request that the lane took.
func (c *top) add(now time.Duration, ln *lane) {
	c.pass(now)
	c.windows[c.current].add(ln.partition, ln.hash, ln.key)
}

// clear keeps the memory of the keys.
func (c *counters) clear() {
	c.counts, c.errors = [topCounters]uint64{}, [topCounters]uint64{}
}

// Count is how often a key was admitted, refusals not counted: at most Count
// and at least Count-Error times.
type Count struct {
	Partition    int
	Key          string
	Count, Error uint64
}

// Top returns the n keys that were admitted most, most first, and the time in
// which they were: the last one to two Config.TopWindow.
//
// Each of 256 parts of the keys has 8 counters. Of the admissions of its part,
// an Error is at most an eighth, and a key that has more than that is not missed.
// So that is an eighth of all at worst, if all are of one part, and about 1/2000
// of all when no key is much above the others.
func (l *Lanes) Top(n int) (counts []Count, over time.Duration) {
	if l.config.TopWindow <= 0 {
		return nil, 0
	}
	now, window := l.now(), l.config.TopWindow
	for i := range l.shards {
		counts = l.shards[i].counts(counts, now)
	}
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Error, b.Error),
			cmp.Compare(a.Key, b.Key), cmp.Compare(a.Partition, b.Partition))
	})
	return counts[:min(n, len(counts))], min(now, window+now%window)
}

func (s *shard) counts(counts []Count, now time.Duration) []Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.top.pass(now)
	return s.top.list(counts)
}

// list adds up both windows. What one of them has no counter for may have come
// as often as its unseen, and that is error.
func (c *top) list(counts []Count) []Count {
	for at := range c.windows {
		this, other := &c.windows[at], &c.windows[1-at]
		for i, count := range this.counts {
			if count == 0 {
				continue
			}
			k := &this.keys[i]
			sum := Count{k.partition, string(k.key), count, this.errors[i]}
			if j := other.find(k.partition, this.hashes[i], k.key); j < 0 {
				sum.Count += other.unseen()
				sum.Error += other.unseen()
			} else if at > 0 {
				continue // it is in the list
			} else {
				sum.Count += other.counts[j]
				sum.Error += other.errors[j]
			}
			counts = append(counts, sum)
		}
	}
	return counts
}
