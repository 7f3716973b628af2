package proxy

import (
	"cmp"
	"slices"
	"time"
)

// Spilled is a key of another node's lane whose requests wait at this one.
type Spilled struct {
	Key     string
	Route   string // of the newest request
	Waiting int
	Running int
	Asked   int       // turns that have been asked for, and have not come
	Open    bool      // a turn has come, and requests run in it
	Until   time.Time // newcomers wait here
}

// Spilled returns the keys whose requests wait here for turns of other nodes, those with
// the most first.
func (p *Proxy) Spilled() []Spilled {
	p.spills.mu.Lock()
	defer p.spills.mu.Unlock()
	var all []Spilled
	for _, k := range p.spills.keys {
		s := Spilled{Key: string(k.key), Route: k.route.Name, Waiting: k.waiting, Running: k.running, Open: k.open != nil, Until: k.until}
		for _, t := range k.turns {
			if t.began.IsZero() {
				s.Asked++
			}
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Spilled) int { return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(a.Key, b.Key)) })
	return all
}
