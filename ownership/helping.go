package ownership

import (
	"slices"

	"lanekeeper/ring"
)

// Helping: the owner of a partition may lend the turn of a key to another member, its
// helper, which then runs requests of that key where they came in. To the owner it is a
// turn like any other: its lane is at work until the helper has said that it isn't. To
// everybody else the helper is one more who may still run the key, and what rule 6 says
// of draining keys goes for those that it helps with, or the owner's death would leave
// nobody who knows of them (rule 15).

// Help is told that this node was lent the turn of a key by its owner, and reports
// whether it may use it. It must not if it knows better who owns the partition, or
// has stood back for somebody: who has its word that it runs nothing of the partition
// would hear of this turn too late. Then it asks to be released from that, for the next
// turn. It may be lent one turn by each of two owners, after a split; Helped ends one.
func (t *Table) Help(p int, key []byte, owner ring.Member) bool {
	s := &t.parts[p]
	if s.holder != owner || !t.isLive(owner) || s.toldOfLater() {
		return false
	}
	if len(s.stoodBack) > 0 {
		t.askRelease(p, s) // it is without end, if the claim was given up
		return false
	}
	i, _ := slices.BinarySearch(s.helping, string(key))
	s.helping = slices.Insert(slices.Clone(s.helping), i, string(key))
	return true
}

// toldOfLater reports whether somebody says that it owns the partition who cannot be
// believed yet, being out of view: it may have asked this node what it runs, and have
// its word.
func (s *partition) toldOfLater() bool {
	return slices.ContainsFunc(s.pending, func(c petition) bool { return c.held && c.epoch > s.epoch })
}

// bury ends the waits for a member that is gone, whose own runs are over. But it may
// have lent the turn of a key for which this node waits, which is the owner: everybody
// else is asked, and takes no such turn from here on, for they hear first who the owner
// is.
func (t *Table) bury(p int, s *partition, m ring.Member) {
	keys := s.waitsOn(m)
	for _, o := range t.live {
		if len(keys) == 0 {
			break
		}
		t.await(p, s, o, append(s.waitsOn(o), keys...))
		if !s.unconfirmed {
			t.send(o, Held{Partition: p, Epoch: s.epoch, Number: s.number})
		}
		t.send(o, Ask{Partition: p, Keys: keys})
	}
	t.await(p, s, m, nil)
}

// Helped ends what Help began: this node runs the key no more.
func (t *Table) Helped(p int, key []byte) {
	s := &t.parts[p]
	i, found := slices.BinarySearch(s.helping, string(key))
	if !found {
		return
	}
	s.helping = slices.Delete(slices.Clone(s.helping), i, i+1)
	if s.role == Owned {
		t.await(p, s, t.self, s.helping)
	} else {
		t.clear(p, s, false)
	}
	t.ran(p, s, string(key))
	t.finish(p, s)
}

// ran tells those who wait for a key that it no longer runs here.
func (t *Table) ran(p int, s *partition, key string) {
	if slices.Contains(s.listed(), key) {
		return
	}
	done := KeyDone{Partition: p, Key: key, Sections: t.state.ExportKey(p, key)}
	for _, m := range s.told {
		t.send(m, done)
	}
	if len(s.listed()) == 0 {
		s.told = nil
	}
}

// listed are the keys that this node may still run although it does not own the
// partition (rules 6 and 15), sorted.
func (s *partition) listed() []string {
	if len(s.helping) == 0 {
		return s.draining
	}
	keys := slices.Concat(s.draining, s.helping)
	slices.Sort(keys)
	return slices.Compact(keys)
}

// forgetDraining ends what is said of the draining keys of an earlier tenure.
func (s *partition) forgetDraining() {
	if s.draining = nil; len(s.helping) == 0 {
		s.told = nil
	}
}
