package ownership

import (
	"errors"
	"slices"

	"lanekeeper/lock"
	"lanekeeper/ring"
)

// ErrLeaseEnded: the node's lease ended before the request's turn, and another may
// have its key.
var ErrLeaseEnded = errors.New("ownership: this node's lease has ended")

// arbiter is what a node knows of the coordinator, which has the last word on who
// holds what. Without one, that is the members' alone.
type arbiter struct {
	present bool
	lease   string // under which this node takes titles; empty: it has none at present
	away    bool   // no lease, and no way to get one: owners go on without titles

	wanted  []int         // partitions to be taken
	later   []int         // the same, but not at once
	drained []lock.Tenure // to be told to the coordinator
	watched []string      // leases whose end is waited for, not yet asked about
	changed []int         // partitions whose title has changed
	waits   int           // partitions whose title waits for a lease that may still run something
}

// title is what a node knows of a partition's record, and what it has of it. A tenure
// begins when the members, or the owner, let this node be the owner, and the record is
// its own. The record alone says whether it may run what is strict.
type title struct {
	known  lock.Record // as last heard of
	tenure uint64      // held under the present lease; 0: none
	stamp  uint64      // of that tenure
	asked  uint64      // the highest tenure that takes under the present lease may still bring
	ceded  uint64      // another may take tenures up to this one: nothing begins under them
	open   bool        // a take is on its way
	wait   string      // the lease on whose end the next take waits

	// prev may still run what it had admitted, the record says: so the keys wait that
	// prevMember has listed, or all of them as long as nobody has.
	prev       string
	prevMember ring.Member

	lapsed bool     // known is this node's own, and its lease has ended
	clears []uint64 // tenures under which keys drained here, and that a record may name
}

// bound is the highest tenure that this node may have under its present lease.
func (s *title) bound() uint64 { return max(s.tenure, s.asked) }

// stands reports whether what has been taken is this node's for certain.
func (s *title) stands() bool { return s.tenure > s.ceded }

// Begin is told that this node has a lease, or has it again, with its store in reach.
func (t *Table) Begin(lease string) {
	if t.arbiter.lease != lease {
		t.End()
	}
	t.arbiter.lease, t.arbiter.away = lease, false
	t.finishAll()
}

// End is told that the lease has ended. What was taken under it may be another's by
// now. What drains under it is sent away: whoever follows waits no longer than for the
// lease. What this node owns it goes on owning, as far as the members know, until the
// coordinator says otherwise: without a title, so nothing strict runs.
func (t *Table) End() {
	if t.arbiter.lease == "" {
		return
	}
	t.arbiter.lease = ""
	for p := range t.parts {
		s := &t.parts[p]
		held := s.title.tenure > 0
		if held && s.role != Owned && len(s.draining) > 0 {
			t.lanes.EvictPartition(p, ErrLeaseEnded)
		}
		t.passed(p, s, s.title.prev, false)
		s.title = title{known: s.title.known, lapsed: held && s.role == Owned && s.title.stands() || s.title.lapsed}
		if held {
			t.arbiter.changed = append(t.arbiter.changed, p)
		}
	}
	t.arbiter.wanted, t.arbiter.later, t.arbiter.drained, t.arbiter.watched = nil, nil, nil, nil
}

// Useless reports whether this node has a lease under which nothing runs and nothing
// may: too few members are in view. Others may be more, and should have what it had.
func (t *Table) Useless() bool {
	return t.arbiter.lease != "" && !t.view.Enough && !slices.ContainsFunc(t.parts, func(s partition) bool {
		return s.role == Owned || len(s.draining) > 0
	}) && slices.ContainsFunc(t.parts, func(s partition) bool { return s.title.bound() > 0 })
}

// Away is told that this node has no lease that is valid, and cannot reach the store.
// It goes on by what the members say; nothing strict runs.
func (t *Table) Away() {
	t.arbiter.away = true
	t.finishAll()
}

// entitled reports whether the coordinator lets this node own a partition. If it has
// not said so, it is asked.
func (t *Table) entitled(p int, s *partition) bool {
	switch {
	case !t.arbiter.present || t.arbiter.away:
		return true
	case s.title.stands():
		return t.learnPrev(s)
	}
	t.want(p, s)
	return false
}

// learnPrev reports whether it is known what the tenure before may still run.
func (t *Table) learnPrev(s *partition) bool {
	if s.title.prev == "" || s.title.prevMember != (ring.Member{}) {
		return true
	}
	for _, a := range s.answers {
		if a.lease == s.title.prev {
			s.title.prevMember = a.from
			return true
		}
	}
	return false
}

// want asks for the title, unless it has to wait for the end of a lease whose member
// has not consented.
func (t *Table) want(p int, s *partition) {
	if t.arbiter.lease == "" || s.title.open || s.title.wait != "" && !t.takeOf(p, s).Given {
		return
	}
	s.title.open, s.title.wait = true, ""
	t.arbiter.wanted = append(t.arbiter.wanted, p)
}

// takeOf is what to ask of the store, as of now. Members that do not own the partition
// say what they may have of it under their lease: they consent to its being taken.
func (t *Table) takeOf(p int, s *partition) lock.Take {
	known := s.title.known
	take := lock.Take{Partition: p, Holder: known.Holder, Tenure: known.Tenure}
	for _, a := range s.answers {
		if a.lease != "" && a.lease == known.Holder && known.Tenure <= a.tenure {
			take.Given, take.Draining = true, len(a.keys) > 0
		}
	}
	return take
}

// Asks reports whether there is anything to ask the store, or to tell it.
func (t *Table) Asks() bool {
	return len(t.arbiter.wanted)+len(t.arbiter.drained)+len(t.arbiter.watched) > 0
}

// Takes returns what to ask of the store under the present lease. Each is answered by
// Took or NotTaken.
func (t *Table) Takes() []lock.Take {
	var takes []lock.Take
	for _, p := range t.arbiter.wanted {
		s := &t.parts[p]
		if s.role == Foreign { // it is not wanted any more
			s.title.open = false
			continue
		}
		take := t.takeOf(p, s)
		s.title.asked = max(s.title.asked, take.Tenure+1)
		takes = append(takes, take)
	}
	t.arbiter.wanted = nil
	return takes
}

// Took takes the store's answers to takes. Those under an earlier lease are void.
func (t *Table) Took(lease string, takes []lock.Take, taken []lock.Taken) {
	if lease != t.arbiter.lease {
		return
	}
	for i, take := range takes {
		s := &t.parts[take.Partition]
		s.title.open, s.title.known = false, taken[i].Record
		if taken[i].OK {
			t.hold(take.Partition, s)
		} else {
			t.refused(take.Partition, s, take)
		}
		t.finish(take.Partition, s)
	}
}

// hold notes that the record is this node's.
func (t *Table) hold(p int, s *partition) {
	r := s.title.known
	s.title.tenure, s.title.stamp, s.title.lapsed = r.Tenure, r.Stamp, false
	// This node is prev no more, but for what it took and has let go since.
	s.title.clears = slices.DeleteFunc(slices.Clone(s.title.clears), func(tenure uint64) bool { return tenure < r.Tenure })
	if s.title.prev != r.Prev {
		t.passed(p, s, s.title.prev, true)
	}
	if r.Prev != "" && r.Prev != t.arbiter.lease && s.title.prev == "" {
		s.title.prev, s.title.prevMember = r.Prev, ring.Member{}
		t.arbiter.waits++
		t.arbiter.watched = append(t.arbiter.watched, r.Prev)
	}
	t.arbiter.changed = append(t.arbiter.changed, p)
}

// refused finds out why a take was refused, and what to wait for.
func (t *Table) refused(p int, s *partition, take lock.Take) {
	known := s.title.known
	switch {
	case known.Holder != take.Holder || known.Tenure != take.Tenure:
		// It is not as was expected, and may be had all the same. But what waited here
		// while another had it would come too late.
		if s.title.lapsed && known.Holder != "" {
			s.title.lapsed = false
			t.outranked(p, s)
		}
	case take.Given:
		s.title.open = true // until the last move is over; see Later
		t.arbiter.later = append(t.arbiter.later, p)
	default:
		s.title.wait = known.Holder
		t.arbiter.watched = append(t.arbiter.watched, known.Holder)
		t.outranked(p, s)
	}
}

// outranked is about a partition whose record is held by a lease that lives, and whose
// holder has not consented: what the members have said is not all that there is.
func (t *Table) outranked(p int, s *partition) {
	switch {
	case s.role == Owned:
		t.drop(p, s, ErrTakenOver)
	case s.role == Claiming && s.won:
		s.won = false
		s.retain(outdated, s.heard)
		if t.wants(p) {
			t.begin(p, s)
		}
	}
}

// NotTaken is told that nothing is known of what became of takes.
func (t *Table) NotTaken(lease string, takes []lock.Take) {
	if lease != t.arbiter.lease {
		return
	}
	for _, take := range takes {
		s := &t.parts[take.Partition]
		s.title.open = true
		t.arbiter.later = append(t.arbiter.later, take.Partition)
	}
}

// Later is told that time has passed.
func (t *Table) Later() {
	later := t.arbiter.later
	t.arbiter.later = nil
	for _, p := range later {
		s := &t.parts[p]
		s.title.open = false
		t.finish(p, s)
	}
}

// Watched returns leases whose end the table waits for, each once.
func (t *Table) Watched() []string {
	watched := t.arbiter.watched
	t.arbiter.watched = nil
	slices.Sort(watched)
	return slices.Compact(watched)
}

// Awaiting returns how many partitions wait for the end of a lease: to be taken by this
// node, and, of those it has, to run all their keys.
func (t *Table) Awaiting(lease string) (taking, running int) {
	for p := range t.parts {
		switch s := &t.parts[p]; lease {
		case s.title.wait:
			taking++
		case s.title.prev:
			running++
		}
	}
	return taking, running
}

// Unwatched is told that the wait for the end of a lease has failed.
func (t *Table) Unwatched(lease string) {
	t.arbiter.watched = append(t.arbiter.watched, lease)
}

// Drew takes a higher stamp for a tenure.
func (t *Table) Drew(lease string, tenure lock.Tenure, stamp uint64) {
	s := &t.parts[tenure.Partition]
	if lease == t.arbiter.lease && s.title.tenure == tenure.Tenure && stamp > s.title.stamp {
		s.title.stamp = stamp
		t.arbiter.changed = append(t.arbiter.changed, tenure.Partition)
	}
}

// Ended is told that another lease has ended: nobody runs anything under it.
func (t *Table) Ended(lease string) {
	for p := range t.parts {
		s := &t.parts[p]
		if s.title.wait != lease && s.title.prev != lease {
			continue
		}
		if s.title.wait == lease {
			s.title.wait = ""
		}
		t.passed(p, s, lease, true)
		t.finish(p, s)
	}
}

// passed ends the wait for a lease that the record named. over: nothing runs under it.
func (t *Table) passed(p int, s *partition, lease string, over bool) {
	if lease == "" || s.title.prev != lease {
		return
	}
	m := s.title.prevMember
	s.title.prev, s.title.prevMember = "", ring.Member{}
	t.arbiter.waits--
	t.arbiter.changed = append(t.arbiter.changed, p)
	switch {
	case over:
		t.await(p, s, m, nil)
	case !t.isLive(m):
		t.bury(p, s, m)
	}
}

// WantsRecords reports whether the records may say what no member in sight does: that a
// lease which lives runs nothing any more of what it gave away.
func (t *Table) WantsRecords() bool {
	return t.arbiter.waits > 0 && slices.ContainsFunc(t.parts, func(s partition) bool {
		return s.title.prev != "" && !t.isLive(s.title.prevMember)
	})
}

// Records takes what the store has of all partitions.
func (t *Table) Records(records []lock.Record) {
	for _, r := range records {
		if r.Partition < 0 || r.Partition >= len(t.parts) {
			continue
		}
		s := &t.parts[r.Partition]
		if s.title.prev != "" && r.Holder == t.arbiter.lease && r.Tenure == s.title.tenure && r.Prev != s.title.prev {
			t.passed(r.Partition, s, s.title.prev, true)
			t.finish(r.Partition, s)
		}
	}
}

// cede is what this node may have of a partition under its lease, which from now on
// another may take. It is said with everything that gives a partition away, or says
// that this node does not own it.
func (t *Table) cede(s *partition) (lease string, tenure uint64) {
	if s.role != Foreign || s.title.bound() == 0 {
		return "", 0
	}
	s.title.ceded = max(s.title.ceded, s.title.bound())
	t.drains(s)
	return t.arbiter.lease, s.title.ceded
}

// drains notes under which tenures others may take what is listed to run. None of them
// is begun again: the word that nothing does any more may come late.
func (t *Table) drains(s *partition) {
	if s.title.bound() == 0 || len(s.listed()) == 0 {
		return
	}
	s.title.ceded = max(s.title.ceded, s.title.bound())
	for _, tenure := range [...]uint64{s.title.tenure, s.title.bound()} {
		if tenure > 0 && !slices.Contains(s.title.clears, tenure) {
			s.title.clears = append(slices.Clip(s.title.clears), tenure)
		}
	}
}

// clear tells the coordinator that nothing is listed here any more. It is told when the
// last key has gone, and once more when the next owner has been heard of: until then
// the record may come to name this node again.
func (t *Table) clear(p int, s *partition, next bool) {
	if len(s.listed()) > 0 {
		return
	}
	for _, tenure := range s.title.clears {
		t.arbiter.drained = append(t.arbiter.drained, lock.Tenure{Partition: p, Tenure: tenure})
	}
	if next {
		s.title.clears = nil
	}
}

// Drops returns what is to be told to the coordinator with lock.Session.Drained.
func (t *Table) Drops() []lock.Tenure {
	drained := t.arbiter.drained
	t.arbiter.drained = nil
	return drained
}

// Title is the right to run what is strict.
type Title struct {
	Tenure uint64 // 0: none
	Stamp  uint64
}

// title is what this node has of a partition, for what it owns and for what it drains.
// Nothing runs before it is known what the tenure before may still run.
func (t *Table) titleOf(s *partition) Title {
	if s.title.tenure == 0 || s.role == Owned && !(s.title.stands() && t.learnPrev(s)) {
		return Title{}
	}
	return Title{s.title.tenure, s.title.stamp}
}

// Titles returns the partitions whose title may have changed since it was last called,
// each once.
func (t *Table) Titles() []int {
	if len(t.arbiter.changed) == 0 {
		return nil
	}
	changed := t.arbiter.changed
	t.arbiter.changed = nil
	slices.Sort(changed)
	return slices.Compact(changed)
}

// Drains reports whether keys of a partition run here that is not owned any more.
func (t *Table) Drains(p int) bool { return t.parts[p].role != Owned && len(t.parts[p].draining) > 0 }

// Title returns what this node has of a partition.
func (t *Table) Title(p int) Title { return t.titleOf(&t.parts[p]) }
