package main

import (
	"flag"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"
)

var (
	simSeeds = flag.Int("sim.seeds", 50, "seeds of TestSimulation")
	simFrom  = flag.Uint64("sim.from", 1, "the first of them")
	simFails = flag.Int("sim.fails", 5, "how many seeds may fail before TestSimulation gives up")
	simAgain = flag.Int("sim.again", 20, "how often a seed that failed is run again")
	simDebug = flag.Bool("sim.debug", false, "TestSimulation: nodes log everything")
	simKey   = flag.String("sim.key", "", "TestSimulation: tell what became of every request of a key, such as order:7, and what nodes say about its partition")
	simPrint = flag.Bool("sim.print", false, "TestSimulation: print every diary")
)

// foundBugs are seeds that found something once, the ones that often do so.
var foundBugs = []uint64{141, 1079, 1489, 1779, 2643, 2920, 3271, 3675, 3701, 4077}

// foundStrict are those of TestStrictSimulation.
var foundStrict = []uint64{99, 461, 613}

// foundSpilled are those of TestSpilledSimulation.
var foundSpilled = []uint64{15, 63, 186, 1466, 3146, 3209}

// foundNamed are those of TestNamedSimulation.
var foundNamed = []uint64{33, 41, 187, 349, 837}

// TestSimulation runs whole nodes in virtual time.
func TestSimulation(t *testing.T) {
	campaign(t, newScenario, foundBugs, mustReach)
}

// TestStrictSimulation runs whole nodes whose routes are strict, with a coordinator in
// memory: it may be away, for all or for one, lose connections, or all its data.
func TestStrictSimulation(t *testing.T) {
	scenario := func(seed uint64) scenario {
		s := newScenario(seed)
		s.beStrict()
		return s
	}
	campaign(t, scenario, foundStrict, mustReachStrict)
}

// TestSpilledSimulation runs whole nodes that spill every key of which a request waits:
// cold, hot, spilled and cold again, many times in each seed.
func TestSpilledSimulation(t *testing.T) {
	scenario := func(seed uint64) scenario {
		s := newScenario(seed)
		if seed%4 >= 2 {
			s.beStrict()
		}
		s.beSpilled()
		return s
	}
	campaign(t, scenario, foundSpilled, mustReachSpilled)
}

// campaign runs many seeds.
func campaign(t *testing.T, scenario func(seed uint64) scenario, found []uint64, mustReach []string) {
	t.Helper()
	warmFasthttp()
	config := simulationConfig(t)
	total := newTally()
	began := time.Now()
	failed := 0
	var seeds []uint64
	for seed := range uint64(*simSeeds) { //nolint:gosec // not negative
		seeds = append(seeds, *simFrom+seed)
	}
	switch {
	case raceDetector: // a run for races, ten times as slow; test.sh makes the other, too
		seeds = seeds[:min(len(seeds), 5)]
	case len(seeds) > 1:
		seeds = append(seeds, found...)
	}
	for _, seed := range seeds {
		w := simulateSeed(t, scenario(seed), config)
		for what, n := range w.tally.counts {
			total.add(what, n)
		}
		if *simPrint {
			t.Logf("seed %d\n%s", seed, strings.Join(w.diary, "\n"))
		}
		if *simKey != "" {
			t.Log(w.story(*simKey))
		}
		if len(w.problems) == 0 {
			continue
		}
		failed++
		t.Errorf("seed %d:\n%s\n\ndiary\n%s\n\nlog\n%s", seed, strings.Join(w.problems, "\n"), strings.Join(w.diary, "\n"), tail(w.lines, 300))
		for _, key := range keysIn(w.problems) {
			t.Logf("what became of %s\n%s", key, w.story(key))
		}
		again := 0
		for range *simAgain {
			if len(simulateSeed(t, scenario(seed), config).problems) > 0 {
				again++
			}
		}
		t.Logf("seed %d failed again in %d of %d runs", seed, again, *simAgain)
		if failed == *simFails {
			t.Fatal("that is enough")
		}
	}
	var lines []string
	for what, n := range total.counts {
		lines = append(lines, fmt.Sprintf("%9d  %s", n, what))
	}
	slices.Sort(lines)
	t.Logf("%d seeds from %d in %s, %d failed\n%s", len(seeds), *simFrom, time.Since(began).Round(time.Second), failed, strings.Join(lines, "\n"))
	for _, what := range mustReach {
		if len(seeds) >= 50 && total.counts[what] == 0 {
			t.Errorf("never reached: %s", what)
		}
	}
}

// keysIn are the keys, few of them, that problems speak of.
func keysIn(problems []string) (keys []string) {
	for _, key := range regexp.MustCompile(`order:\d+`).FindAllString(strings.Join(problems, "\n"), -1) {
		if !slices.Contains(keys, key) && len(keys) < 2 {
			keys = append(keys, key)
		}
	}
	return keys
}

func tail(lines []string, n int) string {
	if more := len(lines) - n; more > 0 {
		lines = append([]string{fmt.Sprintf("… %d lines before", more)}, lines[more:]...)
	}
	return strings.Join(lines, "\n")
}

// stuckAfter is when a seed is given up: something waits for time with a lock
// that others want, and time stands still.
const stuckAfter = 3 * time.Minute

func simulateSeed(t *testing.T, s scenario, config *Config) (w *world) {
	t.Helper()
	seed := s.seed
	stuck := time.AfterFunc(stuckAfter, func() { panic(fmt.Sprintf("seed %d is stuck", seed)) })
	defer stuck.Stop()
	defer func() {
		if cause := recover(); cause != nil {
			panic(fmt.Sprintf("seed %d: %v\n%s", seed, cause, strings.Join(w.diary, "\n")))
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(s, config)
		w.simulate()
		w.judge()
	})
	return w
}

// warmFasthttp starts what fasthttp starts once per process, before a bubble
// could own it.
func warmFasthttp() {
	listener := fasthttputil.NewInmemoryListener()
	server := fasthttp.Server{Handler: func(*fasthttp.RequestCtx) {}}
	go server.Serve(listener)
	client := fasthttp.HostClient{Addr: "warm", Dial: func(string) (net.Conn, error) { return listener.Dial() }}
	client.Get(nil, "http://warm/")
	client.CloseIdleConnections()
	server.Shutdown()
}
