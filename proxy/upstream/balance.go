package upstream

import (
	"hash/crc32"
	"math"
	"time"
)

// choose finds the target for a request: nil if none has room. some tells whether
// one is available at all.
func (u *Upstream) choose(w *waiter) (t *Target, some bool) {
	if w.hashed {
		if t = w.target; t == nil || w.version != u.version || !t.available() {
			t = u.byKey(w.hash)
			w.target, w.version = t, u.version
		}
		if t == nil || t.room() {
			return t, t != nil
		}
		return nil, true
	}
	if u.Balance == RoundRobin {
		return u.nextInTurn()
	}
	return u.leastPending()
}

func (u *Upstream) nextInTurn() (best *Target, some bool) {
	n := uint32(len(u.targets)) //nolint:gosec // a handful
	for i := range n {
		t := u.targets[(u.turn+1+i)%n]
		if !t.available() {
			continue
		}
		some = true
		if !t.room() {
			continue
		}
		if best == nil {
			best = t
		}
		if t.share() >= unit(mix(uint64(u.turn)+uint64(i)<<32)) { // it lets some of its turns pass while it warms up
			u.turn += 1 + i
			return t, true
		}
	}
	u.turn++
	return best, some
}

// leastPending finds the target that has least to do for its share.
func (u *Upstream) leastPending() (best *Target, some bool) {
	n := uint32(len(u.targets)) //nolint:gosec // a handful
	u.turn++
	least := math.Inf(1)
	for i := range n {
		t := u.targets[(u.turn+i)%n]
		if !t.available() {
			continue
		}
		some = true
		if load := float64(t.pending+1) / t.share(); load < least && t.room() {
			least, best = load, t
		}
	}
	return best, some
}

// byKey finds a key's target. Each key has all targets in an order of its own (rendezvous
// hashing), and the first that is available has it: when one goes, only its keys move, and
// each to the next in its own order. A target that warms up has the part of its keys that
// is its share of the moment: as that grows each key moves once.
func (u *Upstream) byKey(hash uint32) *Target {
	var best, spare *Target
	var most, mostSpare uint64
	for _, t := range u.targets {
		if !t.available() {
			continue
		}
		score := mix(uint64(hash)<<32 ^ t.seed)
		if spare == nil || score > mostSpare {
			spare, mostSpare = t, score
		}
		if t.share() < unit(mix(score)) {
			continue
		}
		if best == nil || score > most {
			best, most = t, score
		}
	}
	if best == nil {
		return spare // all of them warm up
	}
	return best
}

func hashKey(key []byte) uint32 { return crc32.ChecksumIEEE(key) }

// mix spreads every bit of x over all of the result (the finaliser of splitmix64). It is
// the same on all nodes.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// unit maps x to [0, 1).
func unit(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// leastShare is what a target begins with: with nothing it would never warm up.
const leastShare = 0.1

// share is the part of its whole share that a target gets.
func (t *Target) share() float64 {
	if t.warming.IsZero() {
		return 1
	}
	age := time.Since(t.warming)
	if slow := t.upstream.SlowStart; age < slow {
		return max(leastShare, float64(age)/float64(slow))
	}
	t.warming = time.Time{}
	t.upstream.version++ // keys that wait may have moved
	return 1
}
