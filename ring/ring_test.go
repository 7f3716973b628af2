package ring

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// styles are ways to name nodes, among them those that have confused rings: the
// digits at the end of a name once ran into the number of a virtual node, so
// that node-1's eleventh point was node-11's first.
var styles = []struct {
	name string
	of   func(i int) string
}{
	{"node-%d", func(i int) string { return fmt.Sprintf("node-%d", i) }},
	{"digits alone", func(i int) string { return fmt.Sprint(i) }},
	{"ones", func(i int) string { return strings.Repeat("1", i+1) }},
	{"host and port", func(i int) string { return fmt.Sprintf("10.0.%d.%d:7000", i%3, i) }},
	{"number and colon first", func(i int) string { return fmt.Sprintf("%d:%d:", i/7, i%7) }},
	{"unicode", func(i int) string { return strings.Repeat("é", i%5) + strings.Repeat("e\u0301", i/5) + "節" }},
	{"no text at all", func(i int) string { return string([]byte{0xff, 0, byte(i >> 8), byte(i)}) }},
	{"long", func(i int) string { return strings.Repeat("a-rather-long-name.", 60) + fmt.Sprint(i) }},
}

// small is a layout that is quick to build and hard to build well: so few
// points and so little room that many partitions are pushed aside.
var small = Layout{Cluster: "test", Partitions: 271, VirtualNodes: 10, Load: 1.1}

func membersOf(n int, name func(int) string) []Member {
	members := make([]Member, n)
	for i := range members {
		members[i] = Member{Name: name(i), Incarnation: uint64(i) + 1}
	}
	return members
}

func shuffled(rng *rand.Rand, members []Member) []Member {
	members = slices.Clone(members)
	rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return members
}

func mustNew(t testing.TB, l Layout, members []Member) *Ring {
	t.Helper()
	r, err := New(l, members)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// agree fails unless both rings have the same target for every partition.
func agree(t testing.TB, a, b *Ring) {
	t.Helper()
	for p := range a.layout.Partitions {
		if a.Target(p).Name != b.Target(p).Name {
			t.Fatalf("%d members: the target of partition %d is %q or %q", len(a.members), p, a.Target(p).Name, b.Target(p).Name)
		}
	}
	if a.Hash() != b.Hash() {
		t.Fatalf("%d members: the same targets have the hashes %x and %x", len(a.members), a.Hash(), b.Hash())
	}
}

// TestJoinOrderDoesNotMatter builds rings of 1 to 60 members, of every style of
// names, in several orders. Every ring is sound as well.
//
// Mutants: "members stay as they came", "a restart moves partitions".
func TestJoinOrderDoesNotMatter(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, style := range styles {
		for n := 1; n <= 60; n++ {
			members := membersOf(n, style.of)
			r := mustNew(t, small, members)
			sound(t, r, members)
			for range 2 {
				other := shuffled(rng, members)
				for i := range other {
					other[i].Incarnation = rng.Uint64()
				}
				agree(t, r, mustNew(t, small, other))
			}
		}
		for _, n := range []int{1, 2, 3, 12, 60} {
			members := membersOf(n, style.of)
			agree(t, mustNew(t, DefaultLayout("test"), members), mustNew(t, DefaultLayout("test"), shuffled(rng, members)))
		}
	}
}

// sound checks that a ring's parts say the same, and its balance.
func sound(t *testing.T, r *Ring, members []Member) {
	t.Helper()
	if got := r.Members(); len(got) != len(members) || !slices.IsSortedFunc(got, func(a, b Member) int { return strings.Compare(a.Name, b.Name) }) {
		t.Fatalf("members %v of %v", got, members)
	}
	counted := map[string]int{}
	for p := range r.Layout().Partitions {
		if target := r.Target(p); !slices.Contains(members, target) {
			t.Fatalf("%v is no member", target)
		}
		counted[r.Target(p).Name]++
	}
	most := int(math.Ceil(float64(r.Layout().Partitions) / float64(len(members)) * r.Layout().Load))
	share := r.Share()
	for _, m := range members {
		if share[m.Name] != counted[m.Name] || share[m.Name] > most {
			t.Fatalf("%s is the target of %d partitions, by Share %d, at most %d", m, counted[m.Name], share[m.Name], most)
		}
	}
	if len(share) != len(members) {
		t.Fatalf("%d members share, of %d", len(share), len(members))
	}
}

// TestRingIsASnapshot: nothing that a caller does with its own slices reaches a
// ring, nor another caller.
//
// Mutants: "the caller's slice is kept", "Without deletes in place", "room
// behind Members is shared".
func TestRingIsASnapshot(t *testing.T) {
	const n = 11 // a length for which a clone gets room to grow
	members := membersOf(n, styles[0].of)
	r := mustNew(t, small, members)
	for i := range members {
		members[i].Name = "another"
	}
	if _, err := r.Without("node-0"); err != nil {
		t.Fatal(err)
	}
	one := append(r.Members(), Member{"one", 1})
	_ = append(r.Members(), Member{"two", 2})
	if one[n].Name != "one" {
		t.Errorf("what was appended to the members is %v for another", one[n])
	}
	sound(t, r, membersOf(n, styles[0].of))
	agree(t, r, mustNew(t, small, membersOf(n, styles[0].of)))
}

func TestWithout(t *testing.T) {
	r := mustNew(t, small, membersOf(5, styles[0].of))
	without, err := r.Without("node-3")
	if err != nil {
		t.Fatal(err)
	}
	members := membersOf(5, styles[0].of)
	agree(t, without, mustNew(t, small, slices.Delete(members, 3, 4)))
	if _, err := without.Without("node-3"); err == nil {
		t.Error("node-3 leaves twice")
	}
	for _, name := range []string{"node-0", "node-1", "node-2", "node-4"} {
		if without, err = without.Without(name); err != nil {
			t.Fatal(err)
		}
	}
	agree(t, without, mustNew(t, small, nil))
}

// Mutant: "nobody has no place".
func TestEmptyRing(t *testing.T) {
	r := mustNew(t, small, nil)
	for p := range small.Partitions {
		if !r.Target(p).IsZero() {
			t.Fatalf("%v is the target of %d", r.Target(p), p)
		}
	}
	if len(r.Members()) != 0 || len(r.Share()) != 0 || r.Layout() != small {
		t.Errorf("members %v, shares %v, layout %v", r.Members(), r.Share(), r.Layout())
	}
	if r.Hash() == mustNew(t, small, membersOf(1, styles[0].of)).Hash() {
		t.Error("one member hashes like none")
	}
}

// TestRefusals: what New can't build, it refuses, and never panics.
//
// Mutants: "a load that is no number", "two of one name", "one member too
// many".
func TestRefusals(t *testing.T) {
	with := func(change func(*Layout)) Layout {
		l := small
		change(&l)
		return l
	}
	for _, test := range []struct {
		name    string
		layout  Layout
		members []Member
		want    string // of the error; empty: none
	}{
		{"one partition", with(func(l *Layout) { l.Partitions = 1 }), membersOf(3, styles[0].of), ""},
		{"no partitions", with(func(l *Layout) { l.Partitions = 0 }), nil, "0 partitions"},
		{"most partitions", with(func(l *Layout) { l.Partitions = maxPartitions }), membersOf(2, styles[0].of), ""},
		{"too many partitions", with(func(l *Layout) { l.Partitions = maxPartitions + 1 }), nil, "partitions"},
		{"one virtual node", with(func(l *Layout) { l.VirtualNodes = 1 }), membersOf(3, styles[0].of), ""},
		{"no virtual nodes", with(func(l *Layout) { l.VirtualNodes = 0 }), nil, "virtual nodes"},
		{"too many virtual nodes", with(func(l *Layout) { l.VirtualNodes = maxVirtualNodes + 1 }), nil, "virtual nodes"},
		{"no room to spare", with(func(l *Layout) { l.Load = 1 }), membersOf(7, styles[0].of), ""},
		{"no room", with(func(l *Layout) { l.Load = 0.99 }), nil, "load"},
		{"most room", with(func(l *Layout) { l.Load = maxLoad }), membersOf(7, styles[0].of), ""},
		{"too much room", with(func(l *Layout) { l.Load = 101 }), nil, "load"},
		{"load is no number", with(func(l *Layout) { l.Load = math.NaN() }), nil, "load"},
		{"load has no end", with(func(l *Layout) { l.Load = math.Inf(1) }), nil, "load"},
		{"no name", small, []Member{{"a", 1}, {"", 2}}, "without a name"},
		{"two of one name", small, []Member{{"b", 1}, {"a", 1}, {"b", 2}}, `two members are called "b"`},
		{"more members than partitions", small, membersOf(300, styles[0].of), ""},
		{"most members", with(func(l *Layout) { l.VirtualNodes = 1 }), membersOf(maxMembers, styles[0].of), ""},
		{"too many members", with(func(l *Layout) { l.VirtualNodes = 1 }), membersOf(maxMembers+1, styles[0].of), "members"},
	} {
		_, err := New(test.layout, test.members)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// TestHashesTellApart: what differs for a cluster differs in the hash, and
// nothing else does.
//
// Mutants: "names run together in the hash", "the cluster is not in the hash".
func TestHashesTellApart(t *testing.T) {
	layouts := []Layout{
		{"a", 271, 10, 1.25}, {"b", 271, 10, 1.25}, {"a", 272, 10, 1.25}, {"a", 271, 11, 1.25}, {"a", 271, 10, 1.2500000000000002},
		{"", 271, 10, 1.25}, {"a partitions=1", 271, 10, 1.25},
	}
	seen := map[uint64]Layout{}
	for _, l := range layouts {
		if other, ok := seen[l.Hash()]; ok {
			t.Errorf("%+v hashes like %+v", l, other)
		}
		seen[l.Hash()] = l
	}

	// Two rings whose targets, read one after the other, are the same text.
	// The second one's names are looked for.
	two := Layout{Partitions: 2, VirtualNodes: 1, Load: 1}
	targets := func(names ...string) (*Ring, string) {
		r := mustNew(t, two, []Member{{names[0], 1}, {names[1], 1}})
		return r, r.Target(0).Name + " " + r.Target(1).Name
	}
	tried := false
	for i := range 1000 {
		x := fmt.Sprint("x", i)
		a, textA := targets(x+"y", "z")
		b, textB := targets(x, "yz")
		if textA == x+"y z" && textB == x+" yz" {
			tried = true
			if a.Hash() == b.Hash() {
				t.Errorf("targets %s hash like %s", textA, textB)
			}
		}
	}
	if !tried {
		t.Error("no two such rings found")
	}
}

func TestMemberText(t *testing.T) {
	if got := (Member{"node-1", 0x18c2f}).String(); got != "node-1/18c2f" {
		t.Error(got)
	}
	if !(Member{}).IsZero() || (Member{"a", 0}).IsZero() || (Member{"", 1}).IsZero() {
		t.Error("IsZero")
	}
}

// TestPartitionsAreEven draws a million keys: each partition gets its part,
// within 6 standard deviations.
func TestPartitionsAreEven(t *testing.T) {
	const keys = 1_000_000
	l := DefaultLayout("test")
	counts := make([]int, l.Partitions)
	for i := range keys {
		counts[l.Partition(fmt.Append(nil, "order:", i))]++
	}
	mean := float64(keys) / float64(l.Partitions)
	for p, n := range counts {
		if math.Abs(float64(n)-mean) > 6*math.Sqrt(mean) {
			t.Errorf("partition %d has %d keys, the mean is %.1f", p, n, mean)
		}
	}
}

// Mutant: "Target copies the table".
func TestLookupsAllocateNothing(t *testing.T) {
	l := DefaultLayout("test")
	r := mustNew(t, l, membersOf(10, styles[0].of))
	key := []byte("order:7")
	var target Member
	if n := testing.AllocsPerRun(1000, func() { target = r.Target(l.Partition(key)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if target.IsZero() {
		t.Error("no target")
	}
}
