package ownership

import (
	"cmp"
	"errors"
	"slices"

	"lanekeeper/lock"
	"lanekeeper/ring"
)

// Causes with which waiting tickets are sent away: they were not executed.
var (
	ErrTooFew    = errors.New("ownership: too few members are alive")
	ErrTakenOver = errors.New("ownership: taken over while this node stood still")
)

// Sections is the state of a partition's keys that has to travel with it.
// Exporting takes nothing away and may be repeated: the same state is sent until
// its receipt is certain. What is imported is added to what is there, which may be
// older, or of a split in which both nodes owned the partition.
type Sections interface {
	// Export returns the state of a partition, but for keys that still run.
	Export(partition int, except []string) []Section
	// ExportKey returns the state of one key that no longer runs.
	ExportKey(partition int, key string) []Section
	// Import takes the state that another node exported. It ignores kinds and
	// versions that it doesn't know. If it is older others may have had the partition
	// since: what may have changed meanwhile is not to be taken from it.
	Import(partition int, sections []Section, older bool)
}

type noSections struct{}

func (noSections) Export(int, []string) []Section  { return nil }
func (noSections) ExportKey(int, string) []Section { return nil }
func (noSections) Import(int, []Section, bool)     {}

// give hands the partition to the claimant. From here on no ticket is taken for
// it; those that have one run to their end here, and are listed.
func (t *Table) give(p int, s *partition, to ring.Member, claim uint64) {
	keys := t.lanes.Seal(p)
	t.gives++
	s.role, s.heard = Foreign, s.heard+1
	s.holder, s.epoch = to, s.heard
	s.draining, s.told = make([]string, len(keys)), insert(s.told, to)
	for i, key := range keys {
		s.draining[i] = string(key)
	}
	slices.Sort(s.draining)
	t.drains(s)
	s.given = &given{to: to, number: t.gives, claim: claim, epoch: s.epoch}
	t.checked(s)
	t.send(to, t.giveOf(p, s))
}

// giveOf is the Give that waits for its receipt, as of now: what has been done
// meanwhile was told by a KeyDone that may be before or behind it, or lost.
func (t *Table) giveOf(p int, s *partition) Give {
	lease, tenure := t.cede(s)
	return Give{
		Lease: lease, Tenure: tenure,
		Partition: p, Number: s.given.number, Claim: s.given.claim, Epoch: s.given.epoch,
		Keys: s.listed(), Sections: t.state.Export(p, s.listed()),
	}
}

// receive takes a partition, or returns it.
func (t *Table) receive(p int, s *partition, from ring.Member, g Give) {
	if !t.isLive(from) {
		return // what it says may be long over; if it lives, it will say it again (rule 7)
	}
	i := slices.IndexFunc(s.taken, func(r round) bool { return r.member == from })
	if i >= 0 && g.Number <= s.taken[i].number {
		t.send(from, Taken{Partition: p, Number: g.Number}) // the receipt was lost
		return
	}
	if s.role != Owned && (!t.view.Enough || g.Claim <= s.floor) {
		// Since it was claimed, this node has stood back for somebody else, who
		// may have it by now (rule 4).
		t.send(from, Taken{Partition: p, Number: g.Number, Returned: true})
		return
	}
	if i >= 0 {
		s.taken[i].number = g.Number
	} else {
		if len(s.taken) >= goneMax {
			s.taken = slices.DeleteFunc(s.taken, func(r round) bool { return !t.isLive(r.member) && !slices.Contains(t.gone, r.member) })
		}
		s.taken = append(s.taken, round{from, g.Number})
	}
	t.send(from, Taken{Partition: p, Number: g.Number})
	if s.unconfirmed || s.role == Owned && g.Lease != "" && !s.title.stands() {
		t.drop(p, s, ErrTakenOver) // the giver has had it while this node stood still, or had no title
	}
	t.state.Import(p, g.Sections, false)
	if s.role != Owned {
		s.record(answer{from: from, keys: g.Keys, lease: g.Lease, tenure: g.Tenure}) // what it said before no longer counts (rule 6)
		if g.Lease != "" && g.Tenure > s.title.known.Tenure {
			s.title.known = lock.Record{Partition: p, Holder: g.Lease, Tenure: g.Tenure}
		}
		s.heard = max(s.heard, g.Epoch-1)
		t.win(p, s)
		return
	}
	// There were two owners, and now there is one.
	t.await(p, s, from, g.Keys)
	t.announce(p, s, max(g.Epoch, s.heard)+1)
}

// receipt ends a Give.
func (t *Table) receipt(p int, s *partition, from ring.Member, r Taken) {
	if s.given == nil || s.given.to != from || s.given.number != r.Number {
		return
	}
	s.given = nil
	switch {
	case !r.Returned:
		s.remains = nothing
	case t.view.Enough:
		t.state.Import(p, t.state.Export(p, nil), false) // nobody has had it meanwhile: it is all still true
		t.win(p, s)
	default:
		s.retain(everything, s.heard)
		s.holder = ring.Member{}
	}
}

// await makes keys all that this node waits for from m.
func (t *Table) await(p int, s *partition, m ring.Member, keys []string) {
	kept := s.waits[:0:0]
	for _, w := range s.waits {
		if slices.Contains(w.on, m) && !slices.Contains(keys, w.key) {
			w.on = without(w.on, []ring.Member{m})
		}
		if len(w.on) == 0 {
			t.lanes.Unblock(p, []byte(w.key))
			continue
		}
		kept = append(kept, w)
	}
	for _, key := range keys {
		i, found := slices.BinarySearchFunc(kept, key, compareWait)
		if !found {
			t.lanes.Block(p, []byte(key))
			kept = slices.Insert(kept, i, wait{key: key})
		}
		kept[i].on = insert(kept[i].on, m)
	}
	s.waits = kept
}

// waitsOn are the keys that this node waits for from m, sorted.
func (s *partition) waitsOn(m ring.Member) (keys []string) {
	for _, w := range s.waits {
		if slices.Contains(w.on, m) {
			keys = append(keys, w.key)
		}
	}
	return keys
}

// keyDone ends a wait.
func (t *Table) keyDone(p int, s *partition, from ring.Member, d KeyDone) {
	if a := s.answer(from); a != nil && slices.Contains(a.keys, d.Key) {
		t.state.Import(p, d.Sections, false)
		a.keys = withoutKey(a.keys, d.Key)
	}
	i, found := slices.BinarySearchFunc(s.waits, d.Key, compareWait)
	if !found || !slices.Contains(s.waits[i].on, from) {
		return
	}
	t.state.Import(p, d.Sections, false)
	t.await(p, s, from, withoutKey(s.waitsOn(from), d.Key))
}

// Drained is told that the last ticket of a key in a sealed partition has gone.
// It may come late.
func (t *Table) Drained(p int, key []byte) {
	s := &t.parts[p]
	if !slices.Contains(s.draining, string(key)) || t.lanes.Busy(p, key) {
		return
	}
	s.draining = withoutKey(s.draining, string(key))
	t.clear(p, s, false)
	t.ran(p, s, string(key))
}

// asked answers for each key that no longer runs here.
func (t *Table) asked(p int, s *partition, from ring.Member, a Ask) {
	for _, key := range a.Keys {
		switch {
		case slices.Contains(s.listed(), key):
			s.told = insert(s.told, from)
		case s.role == Owned && t.lanes.Busy(p, []byte(key)):
			// Two owners: the list in the Give that will come says what runs then.
		default:
			t.send(from, KeyDone{Partition: p, Key: key, Sections: t.state.ExportKey(p, key)})
		}
	}
}

func compareWait(w wait, key string) int { return cmp.Compare(w.key, key) }

func withoutKey(keys []string, key string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == key })
}
