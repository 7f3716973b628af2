package proxy

import (
	"hash/maphash"

	"lanekeeper/queue"
)

// Spilling is what a node has of turns, lent or borrowed.
type Spilling struct{ Keys, Waiting, Running, Asked, Borrowed, Lent int }

// Spilling is what is left of spilled keys at a moment.
func (p *Proxy) Spilling() (now Spilling) {
	p.spills.mu.Lock()
	defer p.spills.mu.Unlock()
	for _, k := range p.spills.keys {
		now.Keys, now.Waiting, now.Running, now.Asked = now.Keys+1, now.Waiting+k.waiting, now.Running+k.running, now.Asked+len(k.turns)
	}
	now.Borrowed = len(p.spills.lent)
	p.lender.mu.Lock()
	defer p.lender.mu.Unlock()
	now.Lent = len(p.lender.turns)
	return now
}

// Answer is one of lanekeeper's own.
type Answer struct {
	Status   int
	Executed string
}

// Answers are all of them, by their slugs.
func Answers() map[string]Answer {
	all := make(map[string]Answer)
	for slug, kind := range kinds {
		all[slug] = Answer{kind.status, string(kind.executed)}
	}
	return all
}

// Lookout is one for a benchmark.
type Lookout struct{ *lookout }

// NewLookout returns one that tells nobody.
func NewLookout() Lookout { return Lookout{newLookout(nil)} }

// Pass has it see a shared request from its beginning to its end.
func (l Lookout) Pass(key []byte) {
	s := sight{of: l.lookout, key: maphash.Bytes(l.seed, key), shared: true}
	s.begin(queue.ID{}, 0)
	s.end()
}

// Decide is what a Reload does while it decides about some spaces, until made is called.
func (p *Proxy) Decide(spaces ...string) (made func()) { return p.decide(spaces) }
