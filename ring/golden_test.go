package ring

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata/targets.golden: a change of protocol")

const goldenFile = "testdata/targets.golden"

const goldenHead = `# The target of every partition, for some layouts and members: pins placement.
# Any difference here is a CHANGE OF PROTOCOL: nodes of the old and of the new
# version would disagree about who should own what. It needs another name in
# the constant placement, so that they refuse each other, and it moves most
# partitions of every cluster that is upgraded.
#
# A letter is a partition, and names its target: 0 is the first of the members,
# which are in the order of their names, then 1-9, a-z, A-Z. For more than 62
# members the hash of all targets stands for them.
`

// TestTargetsGolden holds placement against what earlier versions did.
//
// Mutants: "the library gets another load", "placement is not in the hash",
// "ten virtual nodes".
func TestTargetsGolden(t *testing.T) {
	got := bytes.NewBufferString(goldenHead)
	for _, test := range []struct {
		layout  Layout
		members []Member
	}{
		{DefaultLayout("golden"), membersOf(3, styles[0].of)},
		{DefaultLayout("golden"), membersOf(12, styles[0].of)},
		{DefaultLayout("golden"), membersOf(60, styles[3].of)},
		{Layout{"golden, narrow", 271, 20, 1.1}, []Member{
			{"1", 1}, {"11", 1}, {"1:1", 1}, {"node-1", 1}, {"node-11", 1}, {"節点", 1}, {"é", 1}, {"e\u0301", 1}, {"\xff", 1},
		}},
		{DefaultLayout("golden"), nil},
		{DefaultLayout("golden"), membersOf(libraryMost, styles[0].of)},
		{DefaultLayout("golden"), membersOf(libraryMost+1, styles[0].of)},
		{DefaultLayout("golden"), membersOf(500, styles[0].of)},
	} {
		r := mustNew(t, test.layout, test.members)
		l := r.Layout()
		fmt.Fprintf(got, "\nlayout %q: %d partitions, %d virtual nodes, load %v: %016x\n", l.Cluster, l.Partitions, l.VirtualNodes, l.Load, l.Hash())
		writeTargets(got, r)
	}

	if *update {
		if err := os.WriteFile(goldenFile, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := bytes.Split(got.Bytes(), []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range min(len(gotLines), len(wantLines)) {
		if !bytes.Equal(gotLines[i], wantLines[i]) {
			t.Fatalf("line %d of %s:\n got %s\nwant %s\nA change of protocol: see the head of the file. If it is meant: go test ./ring -run Golden -update", i+1, goldenFile, gotLines[i], wantLines[i])
		}
	}
	if len(gotLines) != len(wantLines) {
		t.Fatalf("%d lines, %s has %d", len(gotLines), goldenFile, len(wantLines))
	}
}

func writeTargets(w *bytes.Buffer, r *Ring) {
	const letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	members := r.Members()
	if len(members) == 0 || len(members) > len(letters) {
		fmt.Fprintf(w, "%d members\ntargets %016x\n", len(members), r.Hash())
		return
	}
	fmt.Fprintf(w, "%d members:", len(members))
	for _, m := range members {
		fmt.Fprintf(w, " %+q", m.Name)
	}
	fmt.Fprintf(w, "\ntargets %016x\n", r.Hash())
	line := make([]byte, 0, 128)
	for p := range r.Layout().Partitions {
		line = append(line, letters[slices.Index(members, r.Target(p))])
		if len(line) == cap(line) || p == r.Layout().Partitions-1 {
			fmt.Fprintf(w, "%s\n", line)
			line = line[:0]
		}
	}
}
