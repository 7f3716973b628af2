package ownership

import (
	"cmp"
	"slices"

	"lanekeeper/ring"
)

// stranger is a member of which there are signs, but that has never been in the
// view.
type stranger struct {
	member ring.Member
	by     []ring.Member // whose last word was that they see it, sorted
	age    int           // retries since the last sign
}

func (t *Table) isLive(m ring.Member) bool {
	_, found := slices.BinarySearchFunc(t.live, m, compareMembers)
	return found
}

// isGone reports whether m was alive once, and is not, or has been replaced by a
// later incarnation.
func (t *Table) isGone(m ring.Member) bool {
	later := func(o ring.Member) bool { return o.Name == m.Name && o.Incarnation > m.Incarnation }
	return slices.Contains(t.gone, m) || later(t.self) || slices.ContainsFunc(t.live, later)
}

// sign takes a sign that a member exists, which by sees, or which it is itself.
// One that nobody can ask yet may be the owner (rule 2).
func (t *Table) sign(m, by ring.Member) {
	if m == t.self || t.isLive(m) || t.isGone(m) {
		return
	}
	i := slices.IndexFunc(t.strangers, func(s stranger) bool { return s.member == m })
	if i < 0 {
		i = len(t.strangers)
		t.strangers = append(t.strangers, stranger{member: m})
	}
	s := &t.strangers[i]
	s.by, s.age = insert(s.by, by), 0
}

// sights takes the members that another one sees. A stranger that all who told
// of it have lost sight of is gone. It reports whether there was one.
func (t *Table) sights(from ring.Member, sees []ring.Member) bool {
	if len(sees) == 0 {
		return false
	}
	for _, m := range sees {
		t.sign(m, from)
	}
	before := len(t.strangers)
	t.strangers = slices.DeleteFunc(t.strangers, func(s stranger) bool {
		return !slices.Contains(sees, s.member) && len(s.by) == 1 && s.by[0] == from
	})
	for i := range t.strangers {
		if s := &t.strangers[i]; !slices.Contains(sees, s.member) {
			s.by = without(s.by, []ring.Member{from})
		}
	}
	return len(t.strangers) < before
}

// loseSight lets those that wait for the end of this node's sight of somebody
// know: the members that it has stood back for answer once more.
func (t *Table) loseSight() {
	var told []ring.Member
	for p := range t.parts {
		s := &t.parts[p]
		for _, r := range s.stoodBack {
			if !slices.Contains(told, r.member) {
				told = append(told, r.member)
				t.answer(p, s, &petition{from: r.member, number: r.number})
			}
		}
	}
}

// recognize forgets strangers that have come into view or died, and those of
// which there has been no sign for long: they died before they were seen.
func (t *Table) recognize() {
	t.strangers = slices.DeleteFunc(t.strangers, func(s stranger) bool {
		return t.isLive(s.member) || t.isGone(s.member) || s.age > patience
	})
}

// meet notes that a member has sent something, which it can't without knowing
// this node. It reports whether by now everybody does.
func (t *Table) meet(m ring.Member) bool {
	t.met = insert(t.met, m)
	t.introduce()
	return t.known
}

// introduce finds out whether everybody alive knows this node, or has had the
// time to. Who comes later hears of it from those (rule 2). Before the first view
// nobody is known to be alive, which is not to say that all of them know this node.
func (t *Table) introduce() {
	if !t.known && !t.check.lonely && t.view.Live != nil && (len(without(t.live, t.met)) == 0 || t.waited > patience) {
		for _, m := range t.asking {
			t.send(m, Again{})
		}
		t.known, t.met, t.asking = true, nil, nil
	}
}

func compareMembers(a, b ring.Member) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Incarnation, b.Incarnation))
}

// without returns the members of a that are not in b.
func without(a, b []ring.Member) []ring.Member {
	var rest []ring.Member
	for _, m := range a {
		if !slices.Contains(b, m) {
			rest = append(rest, m)
		}
	}
	return rest
}

// insert adds m to a sorted list, once, and leaves the old list as it is.
func insert(list []ring.Member, m ring.Member) []ring.Member {
	i, found := slices.BinarySearchFunc(list, m, compareMembers)
	if found {
		return list
	}
	return slices.Insert(slices.Clone(list), i, m)
}
