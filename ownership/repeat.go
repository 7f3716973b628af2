package ownership

import (
	"slices"

	"lanekeeper/ring"
)

// Up is told that a connection to a member has been made, or made again: what
// was sent to it before may have been lost (rule 8).
func (t *Table) Up(m ring.Member) {
	t.send(m, Again{})
	t.repeat(m)
}

// repeat says again whatever a member may not have heard, or not answered.
func (t *Table) repeat(m ring.Member) {
	for p := range t.parts {
		s := &t.parts[p]
		if s.given != nil && s.given.to == m {
			t.send(m, t.giveOf(p, s))
		}
		if !t.isLive(m) {
			continue
		}
		if s.role == Owned && !s.unconfirmed {
			t.send(m, Held{Partition: p, Epoch: s.epoch, Number: s.number})
		}
		t.ask(p, s, m)
	}
	t.checkAgain(m)
}

// ask repeats what this node waits for from m.
func (t *Table) ask(p int, s *partition, m ring.Member) {
	for _, r := range s.stoodBack {
		if r.member == m && s.asked {
			t.send(m, Release{Partition: p, Number: r.number})
		}
	}
	var keys []string
	if a := s.answer(m); a != nil {
		keys = slices.Clone(a.keys)
	} else if s.role == Claiming {
		t.send(m, Claim{Partition: p, Number: s.number})
	}
	keys = append(keys, s.waitsOn(m)...)
	if keys != nil {
		t.send(m, Ask{Partition: p, Keys: keys})
	}
}

// Retry is told that time has passed: whatever a live member hasn't answered is
// said again. Nothing depends on it but what the rules do not know of.
func (t *Table) Retry() {
	for i := range t.strangers {
		t.strangers[i].age++
	}
	t.recognize()
	if !t.known && t.view.Live != nil {
		t.waited++
		t.introduce()
	}
	for p := range t.parts {
		s := &t.parts[p]
		for i := range s.pending {
			s.pending[i].age++
		}
		s.pending = slices.DeleteFunc(s.pending, func(c petition) bool { return c.age > memory && !t.isLive(c.from) })
		for _, m := range t.live {
			if s.given != nil && s.given.to == m {
				t.send(m, t.giveOf(p, s))
			}
			t.ask(p, s, m)
			if len(t.strangers) > 0 && s.answer(m) != nil {
				t.send(m, Claim{Partition: p, Number: s.number}) // for whom it sees by now
			}
		}
		if target := t.view.Targets[p]; s.role == Owned && !s.unconfirmed && target != t.self && t.isLive(target) {
			t.send(target, Held{Partition: p, Epoch: s.epoch, Number: s.number})
		}
		t.finish(p, s)
	}
	t.checkNext()
}

// patience is how many retries this node waits, after the last sign of somebody
// that is not in view, and for a first sign of somebody that is. memory is for how
// many it keeps claims of the former.
const (
	patience = 1
	memory   = 100
)
