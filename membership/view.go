package membership

import (
	"slices"
	"strings"

	"lanekeeper/ring"
)

// View is who is in the cluster, as this node knew it at one moment. It is
// immutable and must not be modified.
type View struct {
	// Version rises with every change of Members. It is this node's own
	// counter: views of different nodes are compared by Ring.Hash. 0: there is
	// no view yet, and Members is empty.
	Version uint64
	// Members are the live nodes, this one included, sorted by name. A node
	// under suspicion is live until it is declared dead.
	Members []Node
	// Ring is built over the Active ones. Never nil.
	Ring *ring.Ring
	// Enough: there are at least MinMembers live members.
	Enough bool
	// Dead are the nodes that left or died within ForgetAfter, the last first.
	// They change without a new Version.
	Dead []Node

	changed chan struct{}
}

// Member returns the live node with the given name.
func (v *View) Member(name string) (Node, bool) {
	i, found := slices.BinarySearchFunc(v.Members, name, func(n Node, name string) int { return strings.Compare(n.Name, name) })
	if !found {
		return Node{}, false
	}
	return v.Members[i], true
}

// Alive reports whether exactly this incarnation is a live member.
func (v *View) Alive(m ring.Member) bool {
	n, found := v.Member(m.Name)
	return found && n.Member == m
}

// Changed is closed when there is a view with a higher Version. A loop that
// takes Membership.View, works, and waits for that view's Changed misses no
// change and is never waited for.
func (v *View) Changed() <-chan struct{} { return v.changed }
