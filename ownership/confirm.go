package ownership

import (
	"slices"

	"lanekeeper/ring"
)

// confirmation is what is open after this node stood still: whether others have
// taken over what it held.
type confirmation struct {
	number uint64
	open   int           // partitions without a word
	among  []ring.Member // who can know: they were there before it stood still
	with   ring.Member   // whom of them it asks
	lonely bool          // there has been nobody to ask, so far
	alone  int           // how often
}

// lonelyMost is how often a node looks for somebody to ask. If all that it knew died
// while it stood still, it may be that it only took them for dead: its suspicions
// went on while it could hear nobody.
const lonelyMost = 8

// Confirm is told that this node stood still for so long that others may have
// taken it for dead. One live member is asked about everything it owns; what
// others hold by now it gives up. Until Listen nothing may be received.
//
// Otherwise the node is a newcomer from here on: what it was told before it stood
// still, and what others said in answer to its claims, is of another time. So it
// claims nothing before everybody has spoken to it again, and confirms no tenure that
// may have ended while it stood still.
func (t *Table) Confirm() {
	t.check.number++
	t.check.open, t.check.alone, t.check.lonely = 0, 0, true
	t.check.among = slices.Concat(t.live, t.gone)
	t.known, t.met, t.waited = false, nil, 0
	for p := range t.parts {
		s := &t.parts[p]
		s.blind = s.heard
		if s.unconfirmed = s.role == Owned; s.unconfirmed {
			t.check.open++
		}
		t.finish(p, s)
	}
	t.check.with = ring.Member{}
	t.checkNext()
}

// Listen is told that nothing will be received any more that was sent before
// Confirm.
func (t *Table) Listen() {
	for _, m := range t.live {
		t.send(m, Again{})
		t.checkAgain(m)
	}
}

// Confirmed reports whether nothing is open from the last Confirm.
func (t *Table) Confirmed() bool { return t.check.open == 0 && !t.check.lonely }

// AskAgain asks another member what Confirm asked, for the last one has not
// answered: it may have taken this node for dead, and have no way to it yet.
func (t *Table) AskAgain() { t.checkNext() }

// checkNext asks the next live member. Without one, and if none comes back, there is
// nobody who could have taken anything.
func (t *Table) checkNext() {
	if t.Confirmed() {
		return
	}
	if len(t.live) == 0 {
		t.checkAlone()
		return
	}
	if t.check.lonely {
		t.check.lonely = false
		t.introduce()
		t.finishAll()
	}
	able := slices.DeleteFunc(slices.Clone(t.live), func(m ring.Member) bool { return !slices.Contains(t.check.among, m) })
	if len(able) == 0 { // whoever took anything is gone, and others have come
		t.denyAll()
		return
	}
	i, found := slices.BinarySearchFunc(able, t.check.with, compareMembers)
	if found {
		i++
	}
	t.check.with = able[i%len(able)]
	t.checkAgain(t.check.with)
}

func (t *Table) denyAll() {
	for p := range t.parts {
		if s := &t.parts[p]; s.unconfirmed {
			t.drop(p, s, ErrTakenOver)
		}
	}
	t.finishAll()
}

func (t *Table) checkAlone() {
	if t.check.alone++; len(t.gone) > 0 && t.check.alone <= lonelyMost {
		return
	}
	t.check.lonely = false
	t.introduce()
	for p := range t.parts {
		t.checked(&t.parts[p])
	}
	t.finishAll()
}

// checkView asks another member if the one that was asked is gone.
func (t *Table) checkView() {
	if !t.isLive(t.check.with) {
		t.checkNext()
	}
}

func (t *Table) checkAgain(m ring.Member) {
	if t.check.open == 0 || t.check.with != m {
		return
	}
	for p := range t.parts {
		if s := &t.parts[p]; s.unconfirmed {
			t.send(m, Confirm{Partition: p, Number: t.check.number, Epoch: s.epoch})
		}
	}
}

// checked ends the question for one partition.
func (t *Table) checked(s *partition) {
	if s.unconfirmed {
		s.unconfirmed = false
		t.check.open--
	}
}

// confirm answers another member's question. Whoever this node has stood back for may
// own the partition by now, or has had it and is gone. What it knew before it stood
// still itself proves nothing. A newcomer that not everybody has spoken to is silent,
// and wants the question again when they have (rule 9).
func (t *Table) confirm(p int, s *partition, from ring.Member, c Confirm) {
	if !t.known {
		t.asking = insert(t.asking, from)
		return
	}
	route := t.routeOf(p, s)
	t.send(from, Confirmed{
		Partition: p, Number: c.Number,
		Denied: !t.isLive(from) || route.Owner != from && route.Epoch >= c.Epoch || s.heard > c.Epoch || s.blind >= c.Epoch ||
			slices.ContainsFunc(s.stoodBack, func(r round) bool { return r.member != from && t.isLive(r.member) }),
	})
}

func (t *Table) confirmed(p int, s *partition, from ring.Member, c Confirmed) {
	if !s.unconfirmed || c.Number != t.check.number || from != t.check.with {
		return
	}
	t.checked(s)
	if c.Denied {
		t.drop(p, s, ErrTakenOver)
		return
	}
	t.announce(p, s, s.epoch) // it has not been said to who came meanwhile
}
