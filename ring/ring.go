// Package ring gives each partition of a cluster its target: the member that
// should own it.
//
// A [Ring] is an immutable snapshot, computed from a set of members and a
// [Layout] and from nothing else. It promises:
//
//  1. Agreement. Same member names and same layout give the same target for
//     every partition, on every node, in whatever order members were seen and
//     whatever the cluster looked like before. [Ring.Hash] shows it.
//  2. Balance. No member is the target of more than [Layout.Load] times the
//     average number of partitions, rounded up.
//  3. Few moves. A join moves partitions to the newcomer, a leave moves those
//     of the leaver. Another one moves only if a full member had pushed it
//     aside before, or does so after: with the default layout 0.08 % of all
//     partitions on average, and 1.6 % at worst, in 30,000 random joins to 1 to
//     60 members.
//  4. Lookups cost nanoseconds, no lock and no memory.
//
// Not promised: that a target is the truth. Nodes that see different members
// have different rings, and a target may not have taken its partition yet, or
// its predecessor not have let go. Who really owns a partition, and may run its
// keys, is for a table of owners and epochs to say; the ring is only where that
// table is heading.
//
// The package does no I/O, starts no goroutine and has no lock.
package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Member names one incarnation of a node. Placement looks at Name alone, so
// that a restarted node keeps its partitions; whatever can be stale names the
// incarnation too. The zero Member is nobody.
type Member struct {
	Name        string // the same over restarts; compared as bytes
	Incarnation uint64 // another one for each start of the process
}

// IsZero reports whether m is nobody.
func (m Member) IsZero() bool { return m == Member{} }

// String is the name and the incarnation in hex: "node-1/18c2f".
func (m Member) String() string { return m.Name + "/" + strconv.FormatUint(m.Incarnation, 16) }

// Layout is what all members of a cluster must agree on, for the life of the
// cluster: any other value moves most partitions.
type Layout struct {
	Cluster      string  // name of the cluster; does not move partitions
	Partitions   int     // how many parts the keys are divided into; moves are by partition
	VirtualNodes int     // points of each member on the circle; more are fairer and slower to build
	Load         float64 // how many times the average number of partitions a member may hold
}

// DefaultLayout is the layout of a cluster that asks for none. Adding the
// eleventh member to ten moves 9.2 % of 4096 partitions, where 9.1 % would be
// ideal. A load below 1.25 pushes more uninvolved partitions around with each
// join; fewer virtual nodes do so too.
func DefaultLayout(cluster string) Layout {
	return Layout{Cluster: cluster, Partitions: 4096, VirtualNodes: 100, Load: 1.25}
}

// The limits of a layout are far above what is useful; they are there so that
// a slip of the pen is refused and not built.
const (
	maxPartitions   = 1 << 16
	maxVirtualNodes = 10_000
	maxLoad         = 100
	maxMembers      = 1 << 16 // an entry of the table of targets is 16 bits wide
)

// Validate says what is wrong with l, or nil. A load below 1 has no room for
// all partitions.
func (l Layout) Validate() error {
	switch {
	case l.Partitions < 1 || l.Partitions > maxPartitions:
		return fmt.Errorf("ring: %d partitions: must be 1 to %d", l.Partitions, maxPartitions)
	case l.VirtualNodes < 1 || l.VirtualNodes > maxVirtualNodes:
		return fmt.Errorf("ring: %d virtual nodes: must be 1 to %d", l.VirtualNodes, maxVirtualNodes)
	case !(l.Load >= 1 && l.Load <= maxLoad): // so written that NaN is refused
		return fmt.Errorf("ring: load %v: must be 1 to %d", l.Load, maxLoad)
	}
	return nil
}

// Hash is of everything in l and of how this package places partitions. Nodes
// with different hashes would disagree about targets: they can't be members of
// one cluster.
func (l Layout) Hash() uint64 {
	// The cluster in hex: how %q writes a letter depends on the version of Go.
	return xxhash.Sum64String(fmt.Sprintf("cluster=%x partitions=%d virtual_nodes=%d load=%x placement=%s",
		l.Cluster, l.Partitions, l.VirtualNodes, math.Float64bits(l.Load), placement))
}

// Partition is the partition of key, from 0 to l.Partitions-1. The key is not
// retained. It panics for a layout that Validate refuses.
func (l Layout) Partition(key []byte) int { return int(hash(key) % uint64(l.Partitions)) }

// Ring is the target of each partition. It is immutable: use it from any
// goroutine, and publish another one whole when members change.
type Ring struct {
	layout  Layout
	members []Member // by name
	targets []Member // what owners counts in: members, or nobody alone
	owners  []uint16 // by partition. An index and not a Member, so that all fit into the nearest caches
	hash    uint64
}

// New places the partitions of l on members, which may come in any order and
// are copied. Names must be unique and not empty; their bytes are free. Without
// members every target is zero.
//
// It costs milliseconds, not for the path of a request: 1 ms for 10 members,
// 15 for 64, 8 for 500.
func New(l Layout, members []Member) (*Ring, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	if len(members) > maxMembers {
		return nil, fmt.Errorf("ring: %d members: must be at most %d", len(members), maxMembers)
	}
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	names := make([]string, len(members))
	for i, m := range members {
		if m.Name == "" {
			return nil, errors.New("ring: a member without a name")
		}
		if i > 0 && m.Name == names[i-1] {
			return nil, fmt.Errorf("ring: two members are called %q: %s and %s", m.Name, members[i-1], m)
		}
		names[i] = m.Name
	}
	if len(members) == 0 {
		return newRing(l, nil, []Member{{}}, make([]uint16, l.Partitions)), nil
	}
	owners, err := place(l, names)
	if err != nil {
		return nil, err
	}
	return newRing(l, members, members, owners), nil
}

func newRing(l Layout, members, targets []Member, owners []uint16) *Ring {
	r := &Ring{layout: l, members: members, targets: targets, owners: owners}
	var text []byte
	for _, i := range owners {
		name := targets[i].Name
		text = binary.AppendUvarint(text, uint64(len(name))) // or "a"+"bc" would be "ab"+"c"
		text = append(text, name...)
	}
	r.hash = xxhash.Sum64(text)
	return r
}

// Target is the member that should own partition p, or the zero Member if there
// is none. It panics unless 0 <= p < r.Layout().Partitions.
func (r *Ring) Target(p int) Member { return r.targets[r.owners[p]] }

// Members is all members by name, also those that are nobody's target. It is
// the ring's own and not to be modified.
func (r *Ring) Members() []Member { return slices.Clip(r.members) }

// Layout is the layout that r was made with.
func (r *Ring) Layout() Layout { return r.layout }

// Share is the number of partitions that each member is the target of, by name.
func (r *Ring) Share() map[string]int {
	held := make([]int, len(r.targets))
	for _, i := range r.owners {
		held[i]++
	}
	share := make(map[string]int, len(r.members))
	for i, m := range r.members {
		share[m.Name] = held[i]
	}
	return share
}

// Hash is of the names of all targets in the order of their partitions: nodes
// with equal hashes agree about every one. Incarnations are not in it.
func (r *Ring) Hash() uint64 { return r.hash }

// Without is the ring that the member called name would leave behind. It is an
// error if there is none. It costs as much as New.
func (r *Ring) Without(name string) (*Ring, error) {
	i := slices.IndexFunc(r.members, func(m Member) bool { return m.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("ring: no member is called %q", name)
	}
	return New(r.layout, slices.Delete(slices.Clone(r.members), i, i+1))
}
