package ownership

import (
	"cmp"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"testing"
)

// For longer runs than CI's. A state takes some kilobytes of memory.
var (
	seeds      = flag.Uint64("seeds", 3000, "how many histories TestRandomHistories runs")
	oneSeed    = flag.Int64("seed", -1, "run this one, and tell all that happens in it")
	allMutants = flag.Bool("mutants", false, "plant all mutants, not only those that take a rule away")
	mostStates = flag.Int("states", 0, "how many states of each scenario are looked at, if there are more")
)

// TestRandomHistories lets clusters of tables live through random histories:
// joins, leaves, crashes and restarts, views that differ, connections that
// break, requests. Each is held against what world.note and world.settled say.
func TestRandomHistories(t *testing.T) {
	first, past := uint64(0), *seeds
	if raceDetector {
		past = min(past, 300) // one goroutine; TestMutantsAreCaught runs it without
	}
	if *oneSeed >= 0 {
		first, past = uint64(*oneSeed), uint64(*oneSeed)+1
	}
	var steps, moves, nets int
	for seed := first; seed < past; seed++ {
		h := history{rng: rand.New(rand.NewPCG(seed, 7)), loud: *oneSeed >= 0, t: t}
		if err := h.run(seed); err != "" {
			t.Fatalf("seed %d (replay with -run TestRandomHistories -seed %d): %s", seed, seed, err)
		}
		steps += h.steps
		moves += h.moves
		nets += h.nets
	}
	t.Logf("%d histories, %d steps, %d moves, %d rounds of retries needed", past-first, steps, moves, nets)
}

type history struct {
	t     *testing.T
	rng   *rand.Rand
	loud  bool
	steps int
	moves int
	nets  int
	kinds [actionKinds]float64
	pairs [64]float64
}

// byHash is a target like a ring's: it depends on nothing but the names.
func byHash(salt uint64) func(int, []string) string {
	weight := func(p int, name string) uint64 {
		h := fnv.New64a()
		fmt.Fprint(h, salt, p, name)
		return h.Sum64()
	}
	return func(p int, names []string) string {
		best := names[0]
		for _, name := range names[1:] {
			if cmp.Compare(weight(p, name), weight(p, best)) > 0 {
				best = name
			}
		}
		return best
	}
}

func (h *history) run(seed uint64) string {
	rng := h.rng
	r := &rules{partitions: 2, keys: testKeys, requests: 30, lateEmpty: rng.IntN(2) == 0, codec: true, quiet: rng.IntN(3) == 0}
	r.linksStay, r.upFirst = rng.IntN(2) == 0, rng.IntN(2) == 0
	r.batches = rng.IntN(3) == 0
	r.target = byHash(seed)
	r.anyDeath = rng.IntN(3) == 0
	if rng.IntN(4) == 0 {
		r.enough = 2
	}
	h.plot(r)
	w := newWorld(r)
	w.start(0, 0)
	w.plan = 1
	if rng.IntN(2) == 0 {
		w.breaks = rng.IntN(12)
	}
	if r.anyDeath {
		w.doubts, w.freezes = rng.IntN(6), rng.IntN(3)
	}
	w.retries = rng.IntN(4)
	if rng.IntN(2) == 0 {
		w.lends = rng.IntN(30)
	}
	h.prefer()
	for {
		for w.plan < len(r.plan) && r.plan[w.plan].what == stopHere && len(w.actions(false)) == 0 {
			if err := h.settled(w); err != "" {
				return "quiet, and " + err
			}
			w.plan++
		}
		can := w.actions(true)
		if len(can) == 0 {
			break
		}
		a := h.choose(can)
		if err := h.step(w, a); err != "" {
			return err
		}
		if h.steps > 200_000 {
			return "no end"
		}
	}
	if w.plan < len(r.plan) {
		return "the plan came to no end"
	}
	for _, n := range w.nodes {
		if n.alive() {
			h.moves += int(n.table.gives)
		}
	}
	return h.settled(w)
}

// settled expects that all is as it must be without any retry, with one
// exception: a node that claimed something and was gone before a member could
// see it is waited for until some retries have passed without a sign of it.
func (h *history) settled(w *world) string {
	for range 3 {
		uncovered := false
		for _, n := range w.nodes {
			uncovered = uncovered || n.alive() && len(n.table.strangers) > 0
		}
		err := w.settled()
		if !uncovered || err == "" {
			if err != "" && h.loud {
				h.t.Log("\n" + w.String())
			}
			return err
		}
		h.nets++
		for i, n := range w.nodes {
			if n.alive() {
				w.retries++
				if err := h.step(w, action{retry, i, 0}); err != "" {
					return err
				}
			}
		}
		for can := w.actions(false); len(can) > 0; can = w.actions(false) {
			if err := h.step(w, can[h.rng.IntN(len(can))]); err != "" {
				return err
			}
		}
	}
	return "a node that nobody saw is waited for without end: " + w.settled()
}

// choose prefers, differently in each history, some kinds of action and some
// pairs of nodes: so some connections are slow, some views late, some calls
// long.
func (h *history) choose(can []action) action {
	var sum float64
	sums := make([]float64, len(can))
	for i, a := range can {
		sum += h.kinds[a.what] * h.pairs[a.a%8*8+a.b%8]
		sums[i] = sum
	}
	at := h.rng.Float64() * sum
	for i, s := range sums {
		if at < s {
			return can[i]
		}
	}
	return can[len(can)-1]
}

func (h *history) prefer() {
	for i := range h.kinds {
		h.kinds[i] = 1
		if h.rng.IntN(2) == 0 {
			h.kinds[i] = []float64{0.3, 0.1, 0.03}[h.rng.IntN(3)]
		}
	}
	for i := range h.pairs {
		h.pairs[i] = 1
		if h.rng.IntN(3) == 0 {
			h.pairs[i] = []float64{0.3, 0.1, 0.01}[h.rng.IntN(3)]
		}
	}
}

func (h *history) step(w *world, a action) string {
	h.steps++
	if h.loud {
		h.t.Logf("%4d %s", h.steps, w.describe(a))
	}
	w.do(a)
	if w.wrong != "" && h.loud {
		h.t.Log("\n" + w.String())
	}
	return w.wrong
}

// plot draws what the cluster goes through.
func (h *history) plot(r *rules) {
	rng := h.rng
	r.plan = []step{{join, 0, 0}}
	r.names = []string{"a"}
	alive := []int{0} // who will be, if all goes to plan
	fresh := 0
	for range 2 + rng.IntN(6) {
		switch what := rng.IntN(10); {
		case what < 5 || len(alive) < 2:
			fresh++
			node := len(r.names)
			r.names = append(r.names, string(rune('a'+fresh)))
			r.plan = append(r.plan, step{join, node, alive[rng.IntN(len(alive))]})
			alive = append(alive, node)
		case what < 7:
			i := rng.IntN(len(alive))
			r.plan = append(r.plan, step{leave, alive[i], 0}, step{stopHere, 0, 0})
			alive = append(alive[:i], alive[i+1:]...)
		default:
			i := rng.IntN(len(alive))
			r.plan = append(r.plan, step{crash, alive[i], 0})
			name := r.names[alive[i]]
			alive = append(alive[:i], alive[i+1:]...)
			if rng.IntN(2) == 0 {
				node := len(r.names)
				r.names = append(r.names, name)
				r.plan = append(r.plan, step{join, node, alive[rng.IntN(len(alive))]})
				alive = append(alive, node)
			}
		}
		if rng.IntN(3) == 0 {
			r.plan = append(r.plan, step{stopHere, 0, 0})
		}
	}
}
