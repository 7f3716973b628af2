package ring

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutants are the mistakes that tests must catch, each as one edit of the
// source and the tests that go red, every one of them by itself. A name here is
// the name those tests cite.
var mutants = []struct {
	name, file, from, to string
	tests                []string
}{
	{"members stay as they came", "ring.go",
		"return strings.Compare(a.Name, b.Name) })", "return 0*strings.Compare(a.Name, b.Name) })",
		[]string{"TestJoinOrderDoesNotMatter"}},
	{"a restart moves partitions", "ring.go",
		"		names[i] = m.Name\n", "		names[i] = m.String()\n",
		[]string{"TestJoinOrderDoesNotMatter", "TestHistoriesDoNotMatter"}},
	{"the caller's slice is kept", "ring.go",
		"	members = slices.Clone(members)\n", "",
		[]string{"TestRingIsASnapshot"}},
	{"Without deletes in place", "ring.go",
		"slices.Delete(slices.Clone(r.members), i, i+1)", "slices.Delete(r.members, i, i+1)",
		[]string{"TestRingIsASnapshot"}},
	{"room behind Members is shared", "ring.go",
		"return slices.Clip(r.members)", "return r.members",
		[]string{"TestRingIsASnapshot"}},
	{"nobody has no place", "ring.go",
		"[]Member{{}}", "nil",
		[]string{"TestEmptyRing"}},
	{"a load that is no number", "ring.go",
		"case !(l.Load >= 1 && l.Load <= maxLoad):", "case l.Load < 1 || l.Load > maxLoad:",
		[]string{"TestRefusals"}},
	{"two of one name", "ring.go",
		"if i > 0 && m.Name == names[i-1] {", "if i < 0 && m.Name == names[i-1] {",
		[]string{"TestRefusals", "FuzzRing"}},
	{"one member too many", "ring.go",
		"if len(members) > maxMembers {", "if len(members) > maxMembers+1 {",
		[]string{"TestRefusals"}},
	{"names run together in the hash", "ring.go",
		"text = binary.AppendUvarint(text, uint64(len(name)))", "_ = binary.AppendUvarint(text, 0)",
		[]string{"TestHashesTellApart"}},
	{"the cluster is not in the hash", "ring.go",
		"l.Cluster, l.Partitions,", `"", l.Partitions,`,
		[]string{"TestHashesTellApart"}},
	{"placement is not in the hash", "ring.go",
		"math.Float64bits(l.Load), placement)", `math.Float64bits(l.Load), "")`,
		[]string{"TestTargetsGolden"}},
	{"Target copies the table", "ring.go",
		"return r.targets[r.owners[p]]", "return r.targets[slices.Clone(r.owners)[p]]",
		[]string{"TestLookupsAllocateNothing"}},
	{"a load of 1.1", "ring.go",
		"Load: 1.25}", "Load: 1.1}",
		[]string{"TestJoinsMoveLittle", "TestTargetsGolden"}},
	{"ten virtual nodes", "ring.go",
		"VirtualNodes: 100,", "VirtualNodes: 10,",
		[]string{"TestJoinsMoveLittle", "TestTargetsGolden"}},

	{"the library gets another load", "place.go",
		"l.Load,\n	})", "l.Load * 1.1,\n	})",
		[]string{"TestWideIsTheLibrary", "TestTargetsGolden", "TestHistoriesDoNotMatter", "FuzzRing"}},
	{"a panic gets through", "place.go",
		"if r := recover(); r != nil {", "if r := any(nil); r != nil {",
		[]string{"TestPanicsBecomeErrors"}},
	{"a point's name before its number", "place.go",
		"key = strconv.AppendInt(key[:0], int64(v), 10)\n			key = append(key, ':')\n			key = append(key, name...)",
		"key = strconv.AppendInt(append(key[:0], name...), int64(v), 10)",
		[]string{"TestWideIsTheLibrary", "FuzzRing"}},
	{"the share is rounded down", "place.go",
		"math.Ceil(", "math.Floor(",
		[]string{"TestWideIsTheLibrary", "FuzzRing"}},
	{"full members take more", "place.go",
		">= share;", "> share;",
		[]string{"TestWideIsTheLibrary", "FuzzRing"}},
	{"a point's own hash is behind it", "place.go",
		"slices.BinarySearchFunc(points, h, ", "slices.BinarySearchFunc(points, h+1, ",
		[]string{"TestWideIsTheLibrary"}},
	{"the circle has an end", "place.go",
		"return at % len(points)", "return min(at, len(points)-1)",
		[]string{"TestWideIsTheLibrary"}},
	{"the first of two on one point has it", "place.go",
		"cmp.Compare(b.member, a.member)", "cmp.Compare(a.member, b.member)",
		[]string{"TestWideIsTheLibrary"}},
	{"the last point is not asked", "place.go",
		"if walked == len(points) {", "if walked >= len(points)-2 {",
		[]string{"TestWideIsTheLibrary"}},
}

// TestMutantsAreCaught plants each mutant and expects each of its tests to go
// red. TestWideIsTheLibrary is told to be short.
func TestMutantsAreCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the package once per mutant")
	}
	if output, err := testWith(t, "ring.go", sourceFile(t, "ring.go"), "Test[^M]|Fuzz"); err != nil {
		t.Fatalf("red without a mutant:\n%s", output)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			source := sourceFile(t, m.file)
			if strings.Count(source, m.from) != 1 {
				t.Fatalf("%s has %d places to plant it", m.file, strings.Count(source, m.from))
			}
			for _, test := range m.tests {
				output, err := testWith(t, m.file, strings.Replace(source, m.from, m.to, 1), "^"+test+"$")
				if err == nil {
					t.Errorf("not caught by %s", test)
				} else if strings.Contains(output, "[build failed]") {
					t.Fatalf("does not compile:\n%s", output)
				}
			}
		})
	}
}

// testWith runs some tests with other contents for one file.
func testWith(t *testing.T, file, contents, tests string) (output string, err error) {
	t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mutant := filepath.Join(dir, file)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{mutant: []byte(contents), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-short", "-vet=off", "-timeout=60s", "-overlay="+filepath.Join(dir, "overlay.json"),
		"-run="+tests, ".")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func sourceFile(t *testing.T, name string) string {
	t.Helper()
	source, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(source)
}
