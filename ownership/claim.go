package ownership

import (
	"slices"

	"lanekeeper/ring"
)

// answer is the word of a member that it stands back in the present round.
type answer struct {
	from   ring.Member
	keys   []string // that it may still run
	lease  string   // under which it may have tenures up to this one, which it lets go
	tenure uint64
	state  []Section // what it knew of the partition when it had it
	last   uint64    // the epoch of that tenure, if it knows of none after it
	begun  uint64    // the highest epoch that it knows to have begun
}

// petition is a claim, or a Held, of another member.
type petition struct {
	from   ring.Member
	number uint64
	held   bool // it owns the partition, in this epoch
	epoch  uint64
	reply  bool
	fresh  bool // it hasn't been looked at yet
	age    int  // retries since, while its member is not live
}

// claimed keeps a claim.
func (t *Table) claimed(p int, s *partition, from ring.Member, c Claim) {
	if s.role == Claiming && s.answer(from) != nil {
		t.begin(p, s) // who claims does not stand back
	}
	t.keep(s, petition{from: from, number: c.Number})
}

// release lets a member go that had stood back for this node. If the round is
// not over, it is now: from here on the member's word doesn't count (rule 3).
func (t *Table) release(p int, s *partition, from ring.Member, r Release) {
	if s.role == Claiming && s.number <= r.Number {
		t.begin(p, s)
	}
	t.send(from, Released{Partition: p, Number: r.Number})
}

// over notes that a round of another member and all its rounds before are over.
func (t *Table) over(s *partition, r round) {
	i := slices.IndexFunc(s.stoodBack, func(b round) bool { return b.member == r.member })
	if i >= 0 && s.stoodBack[i].number <= r.number {
		s.stoodBack = slices.Delete(slices.Clone(s.stoodBack), i, i+1)
	}
}

// held hears that another node owns the partition.
func (t *Table) held(p int, s *partition, from ring.Member, h Held) {
	if slices.Contains(s.stoodBack, round{from, h.Number}) {
		s.remains = nothing // it went with the answer to that round
	}
	t.over(s, round{from, h.Number})
	t.keep(s, petition{from: from, number: h.Number, held: true, epoch: h.Epoch, reply: h.Reply})
}

// keep puts a petition in place of an older one of its member.
func (t *Table) keep(s *partition, c petition) {
	c.fresh = true
	i, found := slices.BinarySearchFunc(s.pending, c.from, func(c petition, m ring.Member) int { return compareMembers(c.from, m) })
	switch {
	case !found:
		s.pending = slices.Insert(s.pending, i, c)
	case s.pending[i].number <= c.number:
		s.pending[i] = c
	}
}

// hearPetitions answers what can be answered by now: first the member that should
// have the partition.
func (t *Table) hearPetitions(p int, s *partition) {
	if len(s.pending) == 0 {
		return
	}
	heard := make([]bool, len(s.pending))
	for _, first := range [...]bool{true, false} {
		for i := range s.pending {
			c := &s.pending[i]
			if (c.from == t.view.Targets[p]) == first && t.isLive(c.from) {
				heard[i] = t.hearPetition(p, s, c)
			}
		}
	}
	left := s.pending[:0]
	for i, c := range s.pending {
		if !heard[i] {
			left = append(left, c)
		}
	}
	s.pending = left
}

// hearPetition reports whether the petition needs no further answer. To be
// silent is to say "not yet".
func (t *Table) hearPetition(p int, s *partition, c *petition) bool {
	if c.held && c.fresh {
		t.demand(p, s, c)
	}
	c.fresh = false
	switch {
	case s.role == Owned && t.view.Targets[p] == c.from && len(s.waits) == 0 && !s.unconfirmed: // rules 5 and 9
		t.give(p, s, c.from, c.number)
		return true
	case s.role == Owned:
		return false // if c is another owner's, this one gives as soon as it may
	case s.won:
		return false // it is the owner as soon as the coordinator says so
	case c.held:
		if c.epoch >= s.epoch {
			t.clear(p, s, true)
		}
		t.hear(p, s, c.from, c.epoch) // again: this node may have owned the partition until now
		if len(s.listed()) > 0 || c.epoch < s.heard || s.remains != nothing {
			t.answer(p, s, c)
			s.remains = nothing
		}
		// Two may name the same epoch, of whom one has died and is not known to.
		return s.holder == c.from || c.epoch < s.epoch
	case s.given != nil && t.isLive(s.given.to), t.wants(p):
		return false // it is on its way to another, who can give it on; or wanted here
	}
	// There is nothing to give here, and nothing will come to be before the
	// claimant has had its way (rules 3 and 4).
	again := slices.Contains(s.stoodBack, round{c.from, c.number})
	t.over(s, round{c.from, c.number})
	s.stoodBack = append(slices.Clip(s.stoodBack), round{c.from, c.number})
	slices.SortFunc(s.stoodBack, func(a, b round) int { return compareMembers(a.member, b.member) })
	s.asked, s.floor, s.given = false, s.number, nil
	t.answer(p, s, c)
	if !again {
		s.heard++ // the claimant's tenure, should nobody hear of it
	}
	return true
}

// demand answers an owner if this node owns the partition too.
func (t *Table) demand(p int, s *partition, c *petition) {
	t.hear(p, s, c.from, c.epoch)
	if s.role != Owned {
		return
	}
	// What the other one ran in an earlier tenure it has put into this one, and
	// there will be no KeyDone for it.
	t.await(p, s, c.from, nil)
	if t.wants(p) && !c.reply {
		t.send(c.from, Held{Partition: p, Epoch: s.epoch, Number: s.number, Reply: true})
	}
}

// answer says that this node doesn't own the partition, and which keys it may
// still run all the same (rule 6).
func (t *Table) answer(p int, s *partition, c *petition) {
	if len(s.listed()) > 0 {
		s.told = insert(s.told, c.from)
	}
	lease, tenure := t.cede(s)
	a := Answer{Partition: p, Number: c.number, Heard: s.heard, Keys: s.listed(), Lease: lease, Tenure: tenure, Begun: s.begun}
	if s.remains != nothing {
		a.Sections = t.state.Export(p, s.listed())
	}
	if s.remains == everything {
		a.Last = s.last
	}
	t.send(c.from, a)
}

// answered takes a member's answer.
func (t *Table) answered(p int, s *partition, from ring.Member, a Answer) {
	if !t.isLive(from) || a.Number != s.number {
		return
	}
	switch s.role {
	case Claiming:
		s.heard = max(s.heard, a.Heard)
		s.record(answer{from: from, keys: a.Keys, lease: a.Lease, tenure: a.Tenure, state: a.Sections, last: a.Last, begun: a.Begun})
	case Owned:
		t.state.Import(p, a.Sections, true)
		t.await(p, s, from, a.Keys)
		if a.Lease != "" && a.Lease == s.title.prev {
			s.title.prevMember = from
			t.arbiter.changed = append(t.arbiter.changed, p)
		}
		switch {
		case a.Heard <= s.epoch:
		case s.unconfirmed: // somebody else has had it while this node stood still
			t.drop(p, s, ErrTakenOver)
		default:
			// After a split, epochs are not in the order of time. Requests follow
			// the highest, so the owner's must be that.
			t.announce(p, s, a.Heard+1)
		}
	}
}

func (s *partition) answer(m ring.Member) *answer {
	for i := range s.answers {
		if s.answers[i].from == m {
			return &s.answers[i]
		}
	}
	return nil
}

func (s *partition) record(a answer) {
	if old := s.answer(a.from); old != nil {
		*old = a
		return
	}
	s.answers = append(s.answers, a)
	slices.SortFunc(s.answers, func(a, b answer) int { return compareMembers(a.from, b.from) })
}
