package ownership

import (
	"errors"
	"slices"

	"lanekeeper/ring"
)

// remains is what a node has of the state of a partition that it had, when nobody has
// got it from there: it saw too few members, say, and let everything go. It goes with
// the node's answer to whoever has the partition next.
type remains uint8

const (
	nothing    remains = iota // that it alone has
	outdated                  // what it knew once: others may have had the partition since
	everything                // that there is to know, unless somebody knows of a later tenure
)

// remainsOf is what a tenure that ended for a cause leaves behind. If it was taken over,
// or may have been, others have had the partition.
func remainsOf(cause error, unconfirmed bool) remains {
	if errors.Is(cause, ErrTooFew) && !unconfirmed {
		return everything
	}
	return outdated
}

// retain notes what is left of the tenure of an epoch.
func (s *partition) retain(r remains, epoch uint64) { s.remains, s.last = r, epoch }

// outlived notes that somebody else may have had the partition since.
func (s *partition) outlived() {
	if s.remains == everything {
		s.remains = outdated
	}
}

// bereaved is told of a member's death. It may have had the partition, and nobody has
// heard of it: if this node had given it, or had stood back for it.
func (s *partition) bereaved(m ring.Member) {
	if s.given != nil && s.given.to == m {
		s.retain(outdated, 0)
	}
	if slices.ContainsFunc(s.stoodBack, func(r round) bool { return r.member == m }) {
		s.outlived()
	}
}

// inherit takes what is left of earlier tenures, before a new one begins: everything
// that the last one knew, if it did not come with the partition, and of the others what
// is true for ever.
func (t *Table) inherit(p int, s *partition) {
	begun, last := s.begun, s.last
	if s.remains != everything {
		last = 0
	}
	for _, a := range s.answers {
		begun, last = max(begun, a.begun), max(last, a.last)
	}
	isLast := func(epoch uint64) bool { return epoch == last && last > 0 && last >= begun && !s.won }
	if s.remains == everything && isLast(s.last) {
		t.state.Import(p, t.state.Export(p, nil), false)
	}
	for _, a := range s.answers {
		if len(a.state) > 0 {
			t.state.Import(p, a.state, !isLast(a.last))
		}
	}
	s.remains = nothing
}
