package main

import (
	"flag"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"lanekeeper/loadtest"
)

// TestCutOffSimulation has a node end and come back, cuts it off from all others while
// they make room for it, and heals that some seconds later. The other simulations excuse
// whatever runs in a split; here only what the node runs that is cut off is excused, beside
// what others run. They hear each other all the time, so they must not run anything beside
// each other, nor take each other for dead.
//
// But for this, which gossip cannot help: when it has healed, the node that was cut off says
// of others that they are dead, for that is what it took them for. Everybody believes that,
// until those have said otherwise. Where settle is 0 or next to it, views tell of it, and a
// partition has two owners for some milliseconds, neither of whom was cut off (seeds 176 and
// 274). What those two run is excused.
//
// Mutant: a Give lists nothing.
func TestCutOffSimulation(t *testing.T) {
	scenario := func(seed uint64) scenario {
		s := newScenario(2*seed + 1) // of those with faults
		s.beCutOff()
		return s
	}
	if seeds := flag.Lookup("sim.seeds"); seeds.Value.String() == seeds.DefValue {
		defer func(n int) { *simSeeds = n }(*simSeeds)
		*simSeeds = cutOffSeeds
	}
	campaign(t, scenario, foundCutOff, []string{sawTakeover, sawExcused})
}

// cutOffSeeds are fewer than those of the others, and foundCutOff have two owners of whom
// neither was cut off.
const cutOffSeeds = 12

var foundCutOff = []uint64{176, 274}

// beCutOff makes s one whose network is sound but for one node's, under many keys.
func (s *scenario) beCutOff() {
	r := rand.New(rand.NewPCG(s.seed, 0x637574))
	s.cutOff = true
	s.nodes = []int{3, 5, 5}[r.IntN(3)]
	s.minMembers = []int{1, s.nodes/2 + 1}[r.IntN(2)]
	s.link.Loss = 0
	s.keys = 24 + r.IntN(70)
	s.events = 1 + r.IntN(3)
}

// cutOffEvent is first the one that the scenario is about, and then others.
func (p *planner) cutOffEvent() {
	p.world.mu.Lock()
	first := !slices.ContainsFunc(p.incidents, func(i *incident) bool { return i.apart != nil })
	p.world.mu.Unlock()
	if first {
		p.comeAndBeCutOff()
		return
	}
	events := []func(){p.join, p.leave, p.restart, p.resets, p.crash, p.slow}
	events[p.random.IntN(len(events))]()
}

func (p *planner) comeAndBeCutOff() {
	o := p.pick(2)
	if o == nil {
		return
	}
	r := p.random
	away := time.Duration(r.IntN(8000)) * time.Millisecond
	if r.IntN(3) == 0 {
		away /= 20 // back before anybody has noticed
	}
	before, d := time.Duration(r.IntN(2000))*time.Millisecond, time.Duration(r.IntN(12_000))*time.Millisecond
	orderly := r.IntN(4) == 0
	i := &incident{kind: split, apart: []string{o.name}, from: math.MaxInt64} // not yet
	p.note(i)
	p.soon(o.name, func() {
		if orderly {
			o.leave()
		} else {
			o.crash(false)
		}
		time.Sleep(away)
		n := p.start(o.name)
		time.Sleep(before)
		p.say("%s is cut off for %s", n.id, d)
		p.world.mu.Lock()
		i.from = p.clock.Now()
		p.world.mu.Unlock()
		p.toOthers(n.host, p.network.Cut)
		time.Sleep(d)
		p.say("%s is no longer cut off", n.id)
		p.mended.Store(true)
		p.toOthers(n.host, p.network.Mend)
		n.awaitReady()
	})
}

// toOthers does something in both directions between a host and all others.
func (w *world) toOthers(host string, do func(from, to string)) {
	for i := range nodesMax {
		if other := hostOf(nodeName(i)); other != host {
			do(host, other)
			do(other, host)
		}
	}
}

// isCutOff reports whether a node is the one that is, was or will be.
func (w *world) isCutOff(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.incidents, func(i *incident) bool { return slices.Equal(i.apart, []string{name}) })
}

// missedBeside holds that two nodes that can hear each other do not take each other for
// dead, as long as nobody who took them for dead has their ear.
func (w *world) missedBeside(p, o *simProcess) {
	switch {
	case w.isCutOff(p.name) || w.isCutOff(o.name):
	case !w.mended.Load():
		w.wrong("%s takes %s for dead, and neither is cut off", p.id, o.id)
	default:
		w.tally.add(sawHearsay, 1)
		w.note(&incident{kind: split, apart: []string{p.name, o.name}, from: w.clock.Now()})
	}
}

const sawHearsay = "deaths that a node told of that had been cut off"

// excuseCutOff implements loadtest.Rules.
func (w *world) excuseCutOff(kind loadtest.Kind, late, early *loadtest.Execution) bool {
	for _, i := range w.incidents {
		switch {
		case i.kind == split && i.parted(nameOf(late), nameOf(early)) && late.Start >= i.from && late.Start <= i.until.Load():
			return true
		case i.kind == crashed && kind == loadtest.Overlap && early.Witness == i.process && (early.End == 0 || early.End >= i.from):
			return true
		}
	}
	return false
}

// nameOf is the node that sent an execution.
func nameOf(e *loadtest.Execution) string {
	name, _, _ := strings.Cut(e.Witness, "#")
	return name
}

// parted reports whether an incident stood between two nodes.
func (i *incident) parted(a, b string) bool {
	if len(i.apart) == 1 {
		return (a == i.apart[0]) != (b == i.apart[0])
	}
	return a != b && slices.Contains(i.apart, a) && slices.Contains(i.apart, b)
}
