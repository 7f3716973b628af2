package proxy

import (
	"fmt"
	"testing"
)

func newTestUpstream(t *testing.T, balance Balance, targets int) *upstream {
	t.Helper()
	u := Upstream{Name: "app", Balance: balance, MaxConnections: 1}
	for i := range targets {
		u.Targets = append(u.Targets, fmt.Sprintf("http://replica-%d:80", i))
	}
	up, err := newUpstream(u, 4096)
	if err != nil {
		t.Fatal(err)
	}
	return up
}

func TestRoundRobinTakesTurns(t *testing.T) {
	u := newTestUpstream(t, RoundRobin, 3)
	counts := map[*target]int{}
	for range 300 {
		counts[u.pick([]byte("order:7"))]++
	}
	for _, target := range u.targets {
		if counts[target] != 100 {
			t.Errorf("%s got %d of 300", target.name, counts[target])
		}
	}
}

// Mutant: ties always go to the first target.
func TestLeastPendingPrefersTheIdleAndSharesTies(t *testing.T) {
	u := newTestUpstream(t, LeastPending, 3)
	u.targets[0].pending.Store(2)
	u.targets[1].pending.Store(1)
	u.targets[2].pending.Store(3)
	for range 10 {
		if got := u.pick(nil); got != u.targets[1] {
			t.Fatalf("picked %s, want the one with the fewest requests", got.name)
		}
	}
	u.targets[0].pending.Store(1)
	counts := map[*target]int{}
	for range 300 {
		counts[u.pick(nil)]++
	}
	if counts[u.targets[0]] < 90 || counts[u.targets[1]] < 90 || counts[u.targets[2]] != 0 {
		t.Errorf("ties are shared %d : %d, and %d for the busiest", counts[u.targets[0]], counts[u.targets[1]], counts[u.targets[2]])
	}
}

// Mutant: key_hash takes turns.
func TestKeyHashKeepsAKeyOnItsTarget(t *testing.T) {
	u := newTestUpstream(t, KeyHash, 4)
	counts := map[*target]int{}
	for i := range 4000 {
		key := fmt.Appendf(nil, "order:%d", i)
		first := u.pick(key)
		u.pick([]byte("something else"))
		if again := u.pick(key); again != first {
			t.Fatalf("%s went to %s and then to %s", key, first.name, again.name)
		}
		counts[first]++
	}
	for _, target := range u.targets {
		if counts[target] < 800 || counts[target] > 1200 {
			t.Errorf("%s has %d of 4000 keys", target.name, counts[target])
		}
	}
}

// Mutant: without a key, everything goes to the target of the empty key.
func TestKeyHashWithoutAKeyBalances(t *testing.T) {
	u := newTestUpstream(t, KeyHash, 3)
	counts := map[*target]int{}
	for range 300 {
		counts[u.pick(nil)]++
	}
	if len(counts) != 3 {
		t.Errorf("requests without a key use %d of 3 targets", len(counts))
	}
}

func TestUpstreamsThatCannotWork(t *testing.T) {
	for _, targets := range [][]string{nil, {""}, {"app:80"}, {"https://app"}, {"http://"}, {"ftp://app"}} {
		if _, err := newUpstream(Upstream{Name: "app", Targets: targets}, 4096); err == nil {
			t.Errorf("targets %q are accepted", targets)
		}
	}
}
