package fence_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"lanekeeper/configs/fence"
	"lanekeeper/lock/locktest"
)

// notFences are header values that lanekeeper never sends.
var notFences = []string{
	"", " ", "0", "00", "01", "-1", "+1", " 1", "1 ", "1\n", "1.0", "1e3", "0x1F", "1_000", "1,000", "1a", "a1", "٣", "NaN",
	"9223372036854775808", "9999999999999999999", "10000000000000000000", "18446744073709551617",
}

// TestMalformedFencesAreRefused: nothing gets past Require but one fence in the form
// that lanekeeper writes, and one key.
//
// Mutants: Parse leaves the digits to ParseInt; it lets a leading zero pass; it
// ignores ParseInt's error; Require looks at the first value alone, of either header;
// it does not ask for a key; it takes an empty one.
func TestMalformedFencesAreRefused(t *testing.T) {
	served := 0
	handler := fence.Require(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	ask := func(fences, keys []string) int {
		r := httptest.NewRequest("PUT", "/orders/7", nil)
		r.Header[fence.Header], r.Header[fence.KeyHeader] = fences, keys
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}
	for _, value := range notFences {
		if n, err := fence.Parse(value); err == nil {
			t.Errorf("Parse(%q) = %d", value, n)
		}
		if status := ask([]string{value}, []string{"order:7"}); status != http.StatusBadRequest {
			t.Errorf("fence %q: %d", value, status)
		}
	}
	for _, test := range []struct{ fences, keys []string }{
		{nil, []string{"order:7"}},
		{[]string{"1", "2"}, []string{"order:7"}},
		{[]string{"1"}, nil},
		{[]string{"1"}, []string{""}},
		{[]string{"1"}, []string{"order:7", "order:8"}},
	} {
		if status := ask(test.fences, test.keys); status != http.StatusBadRequest {
			t.Errorf("fences %q, keys %q: %d", test.fences, test.keys, status)
		}
	}
	if served != 0 {
		t.Errorf("%d of them were served", served)
	}
	for value, want := range map[string]int64{
		"1": 1, "10": 10, "9007199254740993": 1<<53 + 1, "3856315959572692993": 3856315959572692993, "9223372036854775807": 1<<63 - 1,
	} {
		if have, err := fence.Parse(value); have != want || err != nil {
			t.Errorf("Parse(%q) = %d, %v", value, have, err)
		}
		if status := ask([]string{value}, []string{"order:7"}); status != http.StatusOK {
			t.Errorf("fence %q: %d", value, status)
		}
	}
	if served != 5 {
		t.Errorf("%d of 5 were served", served)
	}
}

// TestCheckNeedsRequire: a handler that was not wrapped must not write unguarded.
//
// Mutant: Check returns nil when the context has no fence.
func TestCheckNeedsRequire(t *testing.T) {
	if err := fence.Check(t.Context(), nil); !errors.Is(err, fence.ErrMissing) {
		t.Fatalf("got %v, want %v", err, fence.ErrMissing)
	}
}

// store is something that keeps a value by key, guarded by fences.
type store struct {
	put    func(t *testing.T, id, fence, value string) (accepted bool)
	remove func(t *testing.T, id, fence string) (accepted bool)
	get    func(t *testing.T, id string) string // "" if there is none
}

// pairs are two fences each, the lower first: neighbours beyond 2^53, which are the
// same as doubles, the ends of the range, and lengths that differ.
var pairs = [][2]string{
	{"1", "2"},
	{"9", "10"},
	{"9007199254740992", "9007199254740993"},
	{"9007199254740993", "9007199254740994"},
	{"999999999999999999", "1000000000000000000"},
	{"3856315959572692992", "3856315959572692993"},
	{"3856315959572692993", "3856315959581081600"},
	{"9223372036854775806", "9223372036854775807"},
}

// checkStore holds s against what the fence promises.
func checkStore(t *testing.T, s *store) {
	do := func(what string, accepted, want bool, id, value string) {
		t.Helper()
		if accepted != want {
			t.Fatalf("%s: accepted = %v", what, accepted)
		}
		if have := s.get(t, id); have != value {
			t.Fatalf("%s: %q is stored, not %q", what, have, value)
		}
	}
	ids := 0
	for _, pair := range pairs {
		low, high := pair[0], pair[1]
		t.Run(low+" "+high, func(t *testing.T) {
			ids += 10
			id := func(i int) string { return strconv.Itoa(ids + i) }

			do("the lower first", s.put(t, id(0), low, "a"), true, id(0), "a")
			do("the same again", s.put(t, id(0), low, "b"), true, id(0), "b")
			do("then the higher", s.put(t, id(0), high, "c"), true, id(0), "c")
			do("the lower, late", s.put(t, id(0), low, "d"), false, id(0), "c")
			do("the higher again", s.put(t, id(0), high, "e"), true, id(0), "e")

			do("the higher first", s.put(t, id(1), high, "a"), true, id(1), "a")
			do("the lower after it", s.put(t, id(1), low, "b"), false, id(1), "a")
			do("its deletion after it", s.remove(t, id(1), low), false, id(1), "a")

			do("an insertion", s.put(t, id(2), low, "a"), true, id(2), "a")
			do("its deletion", s.remove(t, id(2), high), true, id(2), "")
			do("the insertion, late", s.put(t, id(2), low, "a"), false, id(2), "")
			do("the deletion again", s.remove(t, id(2), high), true, id(2), "")
			do("an insertion by the deletion's own request", s.put(t, id(2), high, "b"), true, id(2), "b")

			do("a deletion before the insertion", s.remove(t, id(3), high), true, id(3), "")
			do("the insertion after it", s.put(t, id(3), low, "a"), false, id(3), "")
		})
	}
}

// TestRedisScript: fence.lua in a real server, as redis-cli runs it.
//
// Mutants: the script compares numbers; bytes alone; lengths alone; refuses the same
// fence; does not remember the fence; deletes it with the value; writes before it
// checks; does not look whether there is a fence; at its form; at the largest one.
func TestRedisScript(t *testing.T) {
	server := locktest.Redis(t)
	_, port, err := net.SplitHostPort(server.Address)
	if err != nil {
		t.Fatal(err)
	}
	redis := func(t *testing.T, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "redis-cli", append([]string{"-p", port}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("redis-cli %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	eval := func(t *testing.T, id string, args ...string) string {
		t.Helper()
		return redis(t, append([]string{"--eval", "fence.lua", "fence:{order:" + id + "}", "value:{order:" + id + "}", ","}, args...)...)
	}
	accepted := func(t *testing.T, answer string) bool {
		t.Helper()
		if answer != "0" && answer != "1" {
			t.Fatalf("fence.lua answers %q", answer)
		}
		return answer == "1"
	}
	checkStore(t, &store{
		put:    func(t *testing.T, id, fence, value string) bool { return accepted(t, eval(t, id, fence, value)) },
		remove: func(t *testing.T, id, fence string) bool { return accepted(t, eval(t, id, fence)) },
		get:    func(t *testing.T, id string) string { return redis(t, "GET", "value:{order:"+id+"}") },
	})
	for _, value := range append(notFences, "--none") {
		args := []string{value, "x"}
		if value == "--none" {
			args = nil
		}
		if have := eval(t, "1", args...); have != "ERR not a fence" {
			t.Errorf("fence %q: %q", value, have)
		}
	}
	if have := redis(t, "EXISTS", "fence:{order:1}", "value:{order:1}"); have != "0" {
		t.Errorf("%s keys were written without a fence", have)
	}
}

// sections are the statements of fence.sql, by the beginning of the comment above.
func sections(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^-- ((?:fences|column): [^;\n]+).*\n((?:[^-\n].*\n)+)`).FindAllStringSubmatch(read(t, "fence.sql"), -1) {
		found[m[1]] = m[2]
	}
	if len(found) != 6 {
		t.Fatalf("fence.sql has %d statements", len(found))
	}
	return found
}

const guardSection = "fences: the first statement of each transaction"

// TestNothingDrifts: README.md quotes only what is in the files that the other tests
// run, and the guard of fence.go and of FenceFilter.java is that of fence.sql.
//
// Mutants: a word of a quotation, or of any of the three guards, is another; a quoted
// block is in no language; a link leads nowhere.
func TestNothingDrifts(t *testing.T) {
	files := map[string]string{"sql": "fence.sql", "go": "example_test.go", "java": "FenceFilter.java", "lua": "fence.lua"}
	quotations := regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$").FindAllStringSubmatch(read(t, "README.md"), -1)
	if len(quotations) < 3 {
		t.Errorf("README.md quotes %d times", len(quotations))
	}
	for _, m := range quotations {
		if file, ok := files[m[1]]; !ok {
			t.Errorf("README.md quotes in %q", m[1])
		} else if !strings.Contains(read(t, file), m[2]) {
			t.Errorf("README.md quotes what is not in %s:\n%s", file, m[2])
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(read(t, "README.md"), -1) {
		if _, err := os.Stat(link[1]); err != nil {
			t.Error(err)
		}
	}

	guard := strings.TrimSuffix(strings.TrimSpace(sections(t)[guardSection]), ";")
	if !strings.Contains(read(t, "fence.go"), "`\n"+guard+"`") {
		t.Errorf("fence.go has another guard than\n%s", guard)
	}
	lines := regexp.MustCompile(`\$\d`).ReplaceAllString(guard, "?")
	if !strings.Contains(unindent(read(t, "FenceFilter.java")), "\"\"\"\n"+lines+"\"\"\";") {
		t.Errorf("FenceFilter.java has another guard than\n%s", lines)
	}
}

func unindent(text string) string { return regexp.MustCompile(`(?m)^ +`).ReplaceAllString(text, "") }

func read(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
