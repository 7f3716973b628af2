package ownership

import (
	"slices"
	"time"

	"lanekeeper/lock"
	"lanekeeper/ring"
)

// Route is where requests of a partition are to go.
type Route struct {
	Owner ring.Member // zero: nobody is known
	Epoch uint64      // 0: only the ring says so
}

// Change is what has become of a partition.
type Change struct {
	Partition int
	Role      Role
	Route
}

// Changed returns the partitions whose role or route has changed since it was
// last called, as they are now.
func (t *Table) Changed() []Change {
	if len(t.changed) == 0 {
		return nil
	}
	slices.Sort(t.changed)
	changed := slices.Compact(t.changed)
	t.changed = nil
	changes := make([]Change, len(changed))
	for i, p := range changed {
		changes[i] = t.parts[p].reported
	}
	return changes
}

// routeOf is the holder, if it is live, else the ring's target.
func (t *Table) routeOf(p int, s *partition) Route {
	if s.role == Owned || t.isLive(s.holder) {
		return Route{s.holder, s.epoch}
	}
	return Route{t.view.Targets[p], 0}
}

// State is what a node knows of one partition, for people.
type State struct {
	Role     Role
	Route    Route
	Target   ring.Member
	Epoch    uint64        // the highest heard of
	Waits    int           // keys that wait for other nodes
	Draining int           // keys of an earlier tenure that this node still runs
	Helping  int           // keys of which the owner has lent it the turn
	Giving   ring.Member   // has been given it and has not confirmed
	Keeps    bool          // something of its keys, from an earlier tenure, that no other node has
	Silent   []ring.Member // whose word is missing for this node to own it

	Title    Title         // that this node has of it, under its lease
	Held     time.Duration // since it first had that, in this tenure; 0 without one
	Record   lock.Record   // what it last read of the partition's record
	WaitsFor string        // the lease, of another node, whose end it waits for
}

// State returns what this node knows of a partition.
func (t *Table) State(p int) State {
	s := &t.parts[p]
	state := State{
		Role: s.role, Route: t.routeOf(p, s), Target: t.view.Targets[p], Epoch: s.heard,
		Waits: len(s.waits), Draining: len(s.draining), Helping: len(s.helping), Keeps: s.remains != nothing,
		Title: t.titleOf(s), Record: s.title.known, WaitsFor: s.title.wait,
	}
	if state.WaitsFor == "" && (s.role != Owned || state.Title.Tenure == 0) {
		state.WaitsFor = s.title.prev
	}
	if s.given != nil {
		state.Giving = s.given.to
	}
	switch {
	case s.role == Claiming:
		for _, m := range t.live {
			if s.answer(m) == nil {
				state.Silent = append(state.Silent, m)
			}
		}
		for _, o := range t.strangers {
			state.Silent = append(state.Silent, o.member)
		}
	case state.Target == t.self && !t.known:
		state.Silent = without(t.live, t.met)
	case state.Target == t.self && s.role == Foreign:
		for _, r := range s.stoodBack {
			state.Silent = append(state.Silent, r.member)
		}
	}
	return state
}

// On is whom this node waits for before it runs a key.
func (t *Table) On(p int, key string) []ring.Member {
	s := &t.parts[p]
	if i, found := slices.BinarySearchFunc(s.waits, key, compareWait); found {
		return slices.Clone(s.waits[i].on)
	}
	return nil
}

// Counts are sums over all partitions.
type Counts struct {
	Owned    int
	Claiming int
	Waits    int // keys that wait for other nodes
	Draining int // keys that other nodes wait for
	Helping  int // keys of which other nodes have lent the turn
	Giving   int // partitions on their way to live members
}

// Idle reports whether the node may leave: nobody needs it.
func (c Counts) Idle() bool { return c.Owned+c.Claiming+c.Draining+c.Helping+c.Giving == 0 }

// Counts costs time in proportion to the partitions.
func (t *Table) Counts() Counts {
	var c Counts
	for p := range t.parts {
		s := &t.parts[p]
		switch {
		case s.role == Owned:
			c.Owned++
		case s.role == Claiming, t.view.Enough && t.view.Targets[p] == t.self:
			c.Claiming++ // or will, as soon as it may: it is not done with it
		}
		c.Waits += len(s.waits)
		c.Draining += len(s.draining)
		c.Helping += len(s.helping)
		if s.given != nil && t.isLive(s.given.to) {
			c.Giving++
		}
	}
	return c
}

// hear takes a member's word that it owns the partition. That decides nothing
// but where requests go.
func (t *Table) hear(p int, s *partition, holder ring.Member, epoch uint64) {
	s.heard, s.begun = max(s.heard, epoch), max(s.begun, epoch)
	s.outlived()
	if s.role == Owned {
		return
	}
	// After a split two may name the same epoch: the one that should own it wins.
	if epoch > s.epoch || !t.isLive(s.holder) || epoch == s.epoch && holder == t.view.Targets[p] {
		s.holder, s.epoch = holder, epoch
	}
}
