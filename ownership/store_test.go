package ownership

import (
	"fmt"
	"slices"
	"time"

	"lanekeeper/lock"
)

// store is the coordinator of a world with strict rules: leases, records, and at the
// other end the resource that all requests write to, which refuses lower fences. What
// nodes ask takes its time, and so do the answers.
//
// A call lands at the resource between the look at the lease and the call's end. Only
// a writer that is frozen there lands after its lease has ended. Services end what
// they do before the lease ends under which they were called: they honour the deadline.
type store struct {
	records []lock.Record
	leases  []storeLease // by number, from 1 on
	late    []storeTrip  // on its way, and nobody waits for the answer
	highest []uint64     // fence that was accepted, by key
	calls   []storeCall  // that have been begun and have not ended

	losses, lapses, pauses, away int // that may still happen
}

type storeLease struct {
	node  int
	alive bool
}

// storeTrip is what a node asks, and then the answer.
type storeTrip struct {
	lease   string
	takes   []lock.Take
	drained []lock.Tenure
	taken   []lock.Taken
	there   bool // the store has done it
}

// storeCall is a strict request on its way or at work.
type storeCall struct {
	node, key, request int
	lease              int
	fence              uint64
	landed             bool
	frozen             bool // it lands when nobody expects it any more
	lent               bool // its node has it from the holder of the lease
	given              bool // up: its lease was not valid any more, and its lane is held
}

// leaseholder is what a node knows of its own lease.
type leaseholder struct {
	lease   int // 0: none
	lapsed  bool
	trip    *storeTrip // one at a time
	titles  []Title    // as published
	under   []int      // lease of each
	counts  []uint64   // fences given
	watched []string
}

func leaseName(n int) string { return fmt.Sprintf("L%d", n) }

func (s *store) clone() *store {
	c := *s
	c.records, c.leases, c.late = slices.Clone(s.records), slices.Clone(s.leases), slices.Clone(s.late)
	c.highest, c.calls = slices.Clone(s.highest), slices.Clone(s.calls)
	return &c
}

func (h leaseholder) clone() leaseholder {
	h.titles, h.under, h.counts = slices.Clone(h.titles), slices.Clone(h.under), slices.Clone(h.counts)
	h.watched = slices.Clone(h.watched)
	return h
}

func (s *store) alive(lease string) bool {
	for n, l := range s.leases {
		if leaseName(n+1) == lease {
			return l.alive
		}
	}
	return false
}

// Actions of a strict world.
const (
	atStore     actionKind = askAgain + 1 + iota // a: node
	fromStore                                    // a: node
	loseTrip                                     // a: node
	lateStore                                    // a: which
	lapse                                        // a: node; its lease is not certainly valid any more
	renewed                                      // a: node; it is
	expire                                       // a: lease
	hearDone                                     // a: node
	beginLease                                   // a: node
	hearEnded                                    // a: node, b: lease
	readRecords                                  // a: node
	tryLater                                     // a: node
	goAway                                       // a: node
	land                                         // a: which call
	endCall                                      // a: which call, whose node is dead
	freezeCall                                   // a: which call
)

// begin gives node i a lease.
func (w *world) begin(i int) {
	w.store.leases = append(w.store.leases, storeLease{i, true})
	n := w.own(i)
	n.holder.lease, n.holder.lapsed = len(w.store.leases), false
	w.event(i, func(t *Table) { t.Begin(leaseName(n.holder.lease)) })
}

// ask sends what node i's table wants to know, and takes note of its titles.
func (w *world) ask(i int) {
	n := w.nodes[i]
	h := &n.holder
	for _, p := range n.table.Titles() {
		title := n.table.Title(p)
		switch {
		case title.Tenure == 0:
			h.titles[p], h.under[p] = Title{}, 0
		case h.under[p] != h.lease || title != h.titles[p]:
			h.titles[p], h.under[p], h.counts[p] = title, h.lease, 0
		}
	}
	for _, lease := range n.table.Watched() {
		if !slices.Contains(h.watched, lease) {
			h.watched = append(h.watched, lease)
			slices.Sort(h.watched)
		}
	}
	if h.lease == 0 || h.trip != nil {
		return
	}
	takes, drained := n.table.Takes(), n.table.Drops()
	if len(takes)+len(drained) > 0 {
		h.trip = &storeTrip{lease: leaseName(h.lease), takes: takes, drained: drained}
	}
}

// execute does at the store what was asked.
func (w *world) execute(trip storeTrip) storeTrip {
	s := w.store
	trip.there = true
	if !s.alive(trip.lease) {
		trip.taken = nil
		return trip
	}
	now := time.Unix(0, 0)
	for _, take := range trip.takes {
		next, ok := s.records[take.Partition].Decide(take, trip.lease, s.alive, now)
		if ok {
			s.records[take.Partition] = next
		}
		trip.taken = append(slices.Clip(trip.taken), lock.Taken{OK: ok, Record: next})
	}
	for _, d := range trip.drained {
		if next, ok := s.records[d.Partition].Clear(trip.lease, d.Tenure); ok {
			s.records[d.Partition] = next
		}
	}
	return trip
}

// strictStart is the turn of a request at node i: it is begun under the node's title,
// or refused. It reports whether it was begun.
func (w *world) strictStart(i, key, request int) bool {
	n := w.nodes[i]
	h := &n.holder
	p := w.rules.keys[key].partition
	title, under := h.titles[p], h.under[p]
	if title.Tenure == 0 || under != h.lease || h.lapsed {
		return false
	}
	h.counts[p]++
	w.store.calls = append(w.store.calls, storeCall{node: i, key: key, request: request, lease: under, fence: title.Stamp*16 + h.counts[p]})
	if w.store.pauses == 0 {
		w.landed(len(w.store.calls) - 1)
	}
	return true
}

// landed has a call reach the resource.
func (w *world) landed(c int) {
	s := w.store
	call := &s.calls[c]
	call.landed = true
	name := w.rules.keys[call.key].name
	k := &w.keys[call.key]
	if call.fence < s.highest[call.key] {
		if !call.frozen {
			w.fail("%s is refused request %d of %s, whose fence %d is below %d", w.nodes[call.node].member.Name, call.request, name, call.fence, s.highest[call.key])
		}
		call.frozen = true // it does no work
		return
	}
	s.highest[call.key] = call.fence
	for o, other := range s.calls {
		if o != c && other.key == call.key && other.landed && !other.frozen && !call.frozen {
			w.fail("%s runs request %d of %s beside request %d at %s", w.nodes[call.node].member.Name, call.request, name, other.request, w.nodes[other.node].member.Name)
		}
	}
	if call.request < k.started {
		w.fail("%s runs request %d of %s after request %d", w.nodes[call.node].member.Name, call.request, name, k.started)
	}
	k.started = call.request
}

func (s *store) callOf(node, key int) int {
	return slices.IndexFunc(s.calls, func(c storeCall) bool { return c.node == node && c.key == key && !c.lent })
}

// storeActions returns what may happen at the store, and on the way there.
func (w *world) storeActions(choices bool) (can []action) {
	s := w.store
	add := func(what actionKind, a, b int) { can = append(can, action{what, a, b}) }
	for i, n := range w.nodes {
		h := &n.holder
		if n.table == nil {
			continue
		}
		if trip := h.trip; trip != nil && n.alive() {
			if trip.there {
				add(fromStore, i, 0)
			} else {
				add(atStore, i, 0)
			}
			if choices && s.losses > 0 {
				add(loseTrip, i, 0)
			}
		}
		if !n.alive() {
			continue
		}
		for _, lease := range h.watched {
			if !s.alive(lease) && h.lease != 0 {
				add(hearEnded, i, slices.Index(h.watched, lease))
			}
		}
		switch {
		case h.lease == 0:
			add(beginLease, i, 0)
		case !s.leases[h.lease-1].alive:
			add(hearDone, i, 0)
		case h.lapsed:
			add(renewed, i, 0)
			if choices {
				add(expire, h.lease, 0)
			}
			if choices && s.away > 0 && !n.table.arbiter.away {
				add(goAway, i, 0)
			}
		case choices && s.lapses > 0:
			add(lapse, i, 0)
		}
		if h.lease != 0 && !h.lapsed && n.table.WantsRecords() && w.tells(n.table) {
			add(readRecords, i, 0)
		}
		if len(n.table.arbiter.later) > 0 && h.trip == nil && w.changes(n.table) {
			add(tryLater, i, 0)
		}
	}
	for n, l := range s.leases {
		if l.alive && !w.nodes[l.node].alive() && w.over(n+1) {
			add(expire, n+1, 0)
		}
	}
	for l := range s.late {
		add(lateStore, l, 0)
	}
	for c, call := range s.calls {
		if !call.landed {
			add(land, c, 0)
			if choices && s.pauses > 0 && !call.frozen {
				add(freezeCall, c, 0)
			}
		} else if !w.nodes[call.node].alive() || !call.lent && w.nodes[call.node].holder.lease != call.lease {
			add(endCall, c, 0)
		}
	}
	return slices.DeleteFunc(can, func(a action) bool { return a.what == expire && !w.over(a.a) })
}

// tells reports whether the records say anything that a table waits for.
func (w *world) tells(t *Table) bool {
	for p := range t.parts {
		if s := &t.parts[p]; s.title.prev != "" && w.store.records[p].Prev != s.title.prev {
			return true
		}
	}
	return false
}

// changes reports whether what is to be tried again would not fail as before: the
// explorer has to come to an end.
func (w *world) changes(t *Table) bool {
	for _, p := range t.arbiter.later {
		take := t.takeOf(p, &t.parts[p])
		r := w.store.records[p]
		if next, ok := r.Decide(take, t.arbiter.lease, w.store.alive, time.Unix(0, 0)); ok || next.Holder != take.Holder || next.Tenure != take.Tenure || !take.Given {
			return true
		}
	}
	return false
}

// over reports whether nothing is at work that was called under a lease: services honour
// the deadline. A frozen writer's call is none yet.
func (w *world) over(lease int) bool {
	return !slices.ContainsFunc(w.store.calls, func(c storeCall) bool { return c.lease == lease && !c.frozen })
}

// doStore does one of storeActions.
func (w *world) doStore(a action) {
	s := w.store
	switch a.what {
	case atStore:
		n := w.own(a.a)
		trip := w.execute(*n.holder.trip)
		n.holder.trip = &trip
	case fromStore:
		n := w.own(a.a)
		trip := n.holder.trip
		n.holder.trip = nil
		w.event(a.a, func(t *Table) {
			if trip.taken == nil {
				t.NotTaken(trip.lease, trip.takes)
			} else {
				t.Took(trip.lease, trip.takes, trip.taken)
			}
		})
	case loseTrip:
		s.losses--
		n := w.own(a.a)
		trip := n.holder.trip
		n.holder.trip = nil
		if !trip.there {
			s.late = append(s.late, *trip)
		}
		w.event(a.a, func(t *Table) {
			t.NotTaken(trip.lease, trip.takes)
			if trip.lease == t.arbiter.lease {
				t.arbiter.drained = append(t.arbiter.drained, trip.drained...) // the driver keeps them
			}
		})
	case lateStore:
		w.execute(s.late[a.a])
		s.late = slices.Delete(s.late, a.a, a.a+1)
	case lapse:
		s.lapses--
		h := &w.own(a.a).holder
		h.lapsed = true
		w.voidLoans(func(l loan) bool { return l.lease == h.lease }) // no helper takes it for longer
		for c := range s.calls {
			if call := &s.calls[c]; !call.lent && call.node == a.a || call.lent && call.lease == h.lease {
				call.given = true
				if !call.landed && !call.frozen {
					w.landed(c) // it was written before
				}
			}
		}
		if w.rules.releases {
			w.release(a.a)
		}
	case renewed:
		n := w.own(a.a)
		n.holder.lapsed = false
		w.event(a.a, func(t *Table) { t.Begin(leaseName(n.holder.lease)) })
	case expire:
		s.leases[a.a-1].alive = false
		w.voidLoans(func(l loan) bool { return l.lease == a.a })
	case hearDone:
		w.own(a.a).holder.lapsed = true
		w.event(a.a, func(t *Table) { t.End() })
		n := w.own(a.a)
		n.holder.lease, n.holder.watched, n.holder.trip = 0, nil, nil
	case beginLease:
		w.begin(a.a)
	case hearEnded:
		n := w.own(a.a)
		lease := n.holder.watched[a.b]
		n.holder.watched = slices.Delete(n.holder.watched, a.b, a.b+1)
		w.event(a.a, func(t *Table) { t.Ended(lease) })
	case readRecords:
		w.own(a.a)
		w.event(a.a, func(t *Table) { t.Records(slices.Clone(s.records)) })
	case tryLater:
		w.own(a.a)
		w.event(a.a, func(t *Table) { t.Later() })
	case goAway:
		s.away--
		w.own(a.a)
		w.event(a.a, func(t *Table) { t.Away() })
	case land:
		w.landed(a.a)
	case freezeCall:
		s.pauses--
		s.calls[a.a].frozen = true
	case endCall:
		call := s.calls[a.a]
		s.calls = slices.Delete(s.calls, a.a, a.a+1)
		if n := w.nodes[call.node]; n.alive() && !call.lent && n.lanes.lanes[call.key].running {
			w.ends(call.node, call.key)
		}
	}
}

// ends has node i hear that its call is over.
func (w *world) ends(i, key int) {
	n := w.own(i)
	n.lanes.finish(key, w.rules.keys[key])
	w.note(i)
}

// release frees the lanes of calls that were given up, which no node may do.
func (w *world) release(i int) {
	for k := range w.keys {
		if c := w.store.callOf(i, k); c >= 0 && w.nodes[i].lanes.lanes[k].running {
			w.store.calls[c].node = len(w.nodes) - 1 // the service goes on with it all the same
			w.ends(i, k)
		}
	}
}

// unrecorded says which owner the store does not know, or what it still says of moves.
func (w *world) unrecorded() string {
	for p, r := range w.store.records {
		if r.Prev != "" && w.store.alive(r.Prev) {
			return fmt.Sprintf("partition %d is said to be drained under %s still", p, r.Prev)
		}
		for _, n := range w.nodes {
			if !n.alive() || n.table.parts[p].role != Owned {
				continue
			}
			if h := n.holder; h.titles[p].Tenure == 0 || h.under[p] != h.lease || r.Holder != leaseName(h.lease) {
				return fmt.Sprintf("%s owns partition %d without a title: %+v under %d, and the record is %+v", n.member, p, h.titles[p], h.under[p], r)
			}
		}
	}
	return ""
}

func (s *store) appendState(b []byte) []byte {
	b = append(b, byte(s.losses), byte(s.lapses), byte(s.pauses), byte(s.away), byte(len(s.late)), byte(len(s.calls)))
	for _, r := range s.records {
		b = appendRecord(b, r)
	}
	for _, l := range s.leases {
		b = append(b, byte(l.node), bit(l.alive, 1))
	}
	for i := range s.late {
		b = s.late[i].appendState(b)
	}
	b = appendNumbers(b, s.highest...)
	for _, c := range s.calls {
		b = appendNumbers(b, uint64(c.node), uint64(c.key), uint64(c.request), uint64(c.lease), c.fence)
		b = append(b, bit(c.landed, 1)|bit(c.frozen, 2)|bit(c.given, 4)|bit(c.lent, 8))
	}
	return b
}

func (t *storeTrip) appendState(b []byte) []byte {
	if t == nil {
		return append(b, 0)
	}
	b = appendText(append(b, 1|bit(t.there, 2), byte(len(t.takes)), byte(len(t.drained)), byte(len(t.taken))), t.lease)
	for _, k := range t.takes {
		b = appendNumbers(appendText(b, k.Holder), uint64(k.Partition), k.Tenure)
		b = append(b, bit(k.Given, 1)|bit(k.Draining, 2))
	}
	for _, d := range t.drained {
		b = appendNumbers(b, uint64(d.Partition), d.Tenure)
	}
	for _, k := range t.taken {
		b = append(appendRecord(b, k.Record), bit(k.OK, 1))
	}
	return b
}

func (h *leaseholder) appendState(b []byte) []byte {
	b = h.trip.appendState(append(b, byte(h.lease), bit(h.lapsed, 1)))
	for p, t := range h.titles {
		b = appendNumbers(b, t.Tenure, t.Stamp, uint64(h.under[p]), h.counts[p])
	}
	return appendKeys(b, h.watched)
}

// describeStore is for people who look for the cause of a failure.
func (w *world) describeStore(a action) string {
	name := func(i int) string { return w.nodes[i].member.String() }
	call := func() string {
		c := w.store.calls[a.a]
		return fmt.Sprintf("request %d of %s, from %s under %s with fence %d,", c.request, w.rules.keys[c.key].name, name(c.node), leaseName(c.lease), c.fence)
	}
	switch a.what {
	case atStore:
		trip := w.nodes[a.a].holder.trip
		return fmt.Sprintf("the store reads of %s: takes %+v, drained %+v; %+v", name(a.a), trip.takes, trip.drained, w.store.records)
	case fromStore:
		return fmt.Sprintf("%s reads from the store: %+v", name(a.a), w.nodes[a.a].holder.trip.taken)
	case loseTrip:
		return fmt.Sprintf("%s has no answer from the store (done %v)", name(a.a), w.nodes[a.a].holder.trip.there)
	case lateStore:
		return fmt.Sprintf("the store reads late: %+v; %+v", w.store.late[a.a], w.store.records)
	case lapse:
		return fmt.Sprintf("the lease of %s is not certain any more", name(a.a))
	case renewed:
		return fmt.Sprintf("the lease of %s is renewed", name(a.a))
	case expire:
		return fmt.Sprintf("lease %s ends", leaseName(a.a))
	case hearDone:
		return fmt.Sprintf("%s hears that its lease has ended", name(a.a))
	case beginLease:
		return fmt.Sprintf("%s gets lease %s", name(a.a), leaseName(len(w.store.leases)+1))
	case hearEnded:
		return fmt.Sprintf("%s hears that lease %s has ended", name(a.a), w.nodes[a.a].holder.watched[a.b])
	case readRecords:
		return fmt.Sprintf("%s reads the records", name(a.a))
	case tryLater:
		return fmt.Sprintf("%s tries again at the store", name(a.a))
	case goAway:
		return fmt.Sprintf("%s cannot reach the store", name(a.a))
	case land:
		return call() + " arrives"
	case endCall:
		return call() + " ends"
	case freezeCall:
		return call() + " is frozen before it is written"
	}
	return "nothing"
}
