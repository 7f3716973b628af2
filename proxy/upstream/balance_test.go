package upstream

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// spread takes and ends n requests, and counts them by target.
func spread(t *testing.T, u *Upstream, n int, key func(i int) string) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for i := range n {
		l := take(t, u, key(i))
		counts[l.Target.Name]++
		l.Answered()
		l.Done(true)
	}
	return counts
}

func noKey(int) string      { return "" }
func numbered(i int) string { return fmt.Sprintf("order:%d", i) }

func TestRoundRobinTakesTurns(t *testing.T) {
	u, _ := newFake(t, 3, func(c *Config) { c.Balance = RoundRobin })
	for name, n := range spread(t, u, 300, noKey) {
		if n != 100 {
			t.Errorf("%s got %d of 300", name, n)
		}
	}
}

// Mutant: ties always go to the first target.
func TestLeastPendingPrefersTheIdleAndSharesTies(t *testing.T) {
	u, _ := newFake(t, 3, nil)
	for name, n := range map[string]int{"http://a": 2, "http://b": 1, "http://c": 3} {
		target(u, name).pending = n
	}
	if got := spread(t, u, 10, noKey); got["http://b"] != 10 {
		t.Fatalf("picked %v, want the one with the fewest requests", got)
	}
	target(u, "http://a").pending = 1
	if got := spread(t, u, 300, noKey); got["http://a"] < 90 || got["http://b"] < 90 || got["http://c"] != 0 {
		t.Errorf("ties are shared %v", got)
	}
}

// Mutants: key_hash takes turns; a score is the target's alone.
func TestKeyHashKeepsAKeyOnItsTarget(t *testing.T) {
	u, _ := newFake(t, 4, func(c *Config) { c.Balance = KeyHash })
	counts := map[string]int{}
	for i := range 4000 {
		first := spread(t, u, 1, func(int) string { return numbered(i) })
		spread(t, u, 1, func(int) string { return "something else" })
		for name := range first {
			counts[name]++
			if again := spread(t, u, 1, func(int) string { return numbered(i) }); again[name] != 1 {
				t.Fatalf("%s went to %s and then to %v", numbered(i), name, again)
			}
		}
	}
	for name, n := range counts {
		if n < 800 || n > 1200 {
			t.Errorf("%s has %d of 4000 keys", name, n)
		}
	}
	if got := spread(t, u, 300, noKey); len(got) != 4 {
		t.Errorf("requests without a key use %v", got)
	}
}

// homes is where each of n keys is.
func homes(t *testing.T, u *Upstream, n int) []string {
	t.Helper()
	all := make([]string, n)
	for i := range all {
		l := take(t, u, numbered(i))
		all[i] = l.Target.Name
		l.Done(true)
	}
	return all
}

// Only the keys of a target that goes move, and to all the others; they come back with it.
//
// Mutants: a key's target is its hash modulo the targets that are available; the next target
// is the next in the list.
func TestKeyHashMovesOnlyWhatItMust(t *testing.T) {
	u, _ := newFake(t, 5, func(c *Config) { c.Balance = KeyHash })
	before := homes(t, u, 5000)
	c := target(u, "http://c")
	c.health.down = true
	during := homes(t, u, 5000)
	heirs := map[string]int{}
	for i := range before {
		switch {
		case before[i] == c.Name:
			heirs[during[i]]++
		case before[i] != during[i]:
			t.Fatalf("key %d moved from %s to %s", i, before[i], during[i])
		}
	}
	if len(heirs) != 4 || heirs[c.Name] > 0 {
		t.Errorf("its keys went to %v", heirs)
	}
	for name, n := range heirs {
		if n < 150 || n > 350 {
			t.Errorf("%s has %d of its 1000 keys", name, n)
		}
	}
	c.health.down = false
	for i, home := range homes(t, u, 5000) {
		if home != before[i] {
			t.Fatalf("key %d is at %s afterwards, and was at %s", i, home, before[i])
		}
	}
}

// A target that is new or back gets its share bit by bit, and each key moves once.
//
// Mutants: it has all at once; it has nothing until the end; keys go to and fro.
func TestSlowStart(t *testing.T) {
	for name, balance := range map[string]Balance{"round robin": RoundRobin, "least pending": LeastPending, "key hash": KeyHash} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, _ := newFake(t, 4, func(c *Config) { c.Balance, c.SlowStart = balance, 10*time.Second })
				a := target(u, "http://a")
				u.mu.Lock()
				u.turned(a, false)
				u.mu.Unlock()
				var all []*Lease
				last, moved := -1, map[int]bool{}
				for step := range 5 {
					n := 0
					all = all[:0]
					for i := range 2000 { // all at once, so that least pending has something to compare
						l := take(t, u, numbered(i))
						all = append(all, l)
						if l.Target != a {
							if balance == KeyHash && moved[i] {
								t.Fatalf("key %d went to its target and away again", i)
							}
							continue
						}
						moved[i] = true
						n++
					}
					for _, l := range all {
						l.Done(true)
					}
					whole := 500.
					if part := max(0.1, float64(step)/4) * whole; balance != KeyHash && step < 4 {
						// the part of a whole share that three whole others leave
						whole = 2000 / (3 + part/500) * part / 500
					} else {
						whole = part
					}
					if n <= last || float64(n) < whole*0.7-10 || float64(n) > whole*1.3+10 {
						t.Errorf("after %d/4: %d of 2000, before that %d, want about %.0f", step, n, last, whole)
					}
					last = n
					time.Sleep(2500 * time.Millisecond)
				}
			})
		})
	}
}

func TestUpstreamsThatCannotWork(t *testing.T) {
	for _, targets := range [][]string{nil, {""}, {"app:80"}, {"http://"}, {"ftp://app"}, {"unix://a"}, {"unix:"}, {"dns+unix:///a"}, {"dns+app"}, {"http://a/b"}, {"http://a:"}} {
		if _, err := New(Config{Name: "app", Targets: targets}, wrapFake, discard); err == nil {
			t.Errorf("targets %q are accepted", targets)
		}
	}
}
