package membership

import (
	"cmp"
	"slices"
	"time"

	"lanekeeper/ring"
)

// table is what gossip has said so far: the incarnations it believes alive, and
// those that went. It is not safe for concurrent use.
type table struct {
	live map[ring.Member]entry
	gone map[ring.Member]Node
}

// entry is a live incarnation.
type entry struct {
	node   Node
	intent intent
}

// goneMax bounds what is remembered of the dead, for those who crash in a loop.
const goneMax = 256

func newTable() *table {
	return &table{live: make(map[ring.Member]entry), gone: make(map[ring.Member]Node)}
}

// alive enters a live incarnation, or what it now says of itself.
func (t *table) alive(n Node, i intent) {
	if i == staying {
		n.State = Active
	} else {
		n.State = Draining
	}
	if before, known := t.live[n.Member]; known && before.node.State == n.State {
		n.Since = before.node.Since
	}
	t.live[n.Member] = entry{n, i}
	delete(t.gone, n.Member)
}

// went moves an incarnation from the live to the gone. It left if it had said
// that it would, and died otherwise, whatever else it was doing.
func (t *table) went(m ring.Member, at time.Time) (n Node, known bool) {
	e, known := t.live[m]
	if !known {
		return Node{}, false
	}
	delete(t.live, m)
	n = e.node
	n.Since, n.State = at, Dead
	if e.intent == leaving {
		n.State = Left
	}
	if len(t.gone) >= goneMax {
		oldest := t.dead(false)[len(t.gone)-1]
		delete(t.gone, oldest.Member)
	}
	t.gone[m] = n
	return n, true
}

// forget drops what went at the given time or before.
func (t *table) forget(until time.Time) {
	for m, n := range t.gone {
		if !n.Since.After(until) {
			delete(t.gone, m)
		}
	}
}

// members are the live nodes by name, the highest incarnation of each.
func (t *table) members() []Node {
	nodes := make([]Node, 0, len(t.live))
	for _, e := range t.live {
		nodes = append(nodes, e.node)
	}
	slices.SortFunc(nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.Incarnation, a.Incarnation))
	})
	return slices.CompactFunc(nodes, func(a, b Node) bool { return a.Name == b.Name })
}

// dead are the nodes that went, the last first; if hideReplaced, without those
// that are back in a higher incarnation.
func (t *table) dead(hideReplaced bool) []Node {
	var nodes []Node
	for m, n := range t.gone {
		if !hideReplaced || !t.replaced(m) {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b Node) int {
		return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Incarnation, b.Incarnation))
	})
	return nodes
}

func (t *table) replaced(m ring.Member) bool {
	for other := range t.live {
		if other.Name == m.Name && other.Incarnation > m.Incarnation {
			return true
		}
	}
	return false
}
