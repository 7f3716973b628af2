package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"lanekeeper/loadtest"
	"lanekeeper/membership/membertest"
)

// scenario is everything that a seed decides before anything runs.
type scenario struct {
	seed    uint64
	planned bool // nothing but what an operator and an ordinary network do
	nodes   int

	partitions, stripes, minMembers int
	secure                          bool // secrets: encrypted gossip, TLS between nodes
	settle, handoff, rejoin, delay  time.Duration
	patience, upstreamTimeout       time.Duration
	answerTimeout                   time.Duration

	strict             bool
	ttl, margin, grace time.Duration // of leases; and what the store waits after it lost its data

	spilled         bool
	batch           int
	quantum, coolIn time.Duration
	locked          bool // turns hold locks

	cutOff bool // a node that comes back is cut off, and only what it runs is excused

	named              bool // requests have names and numbers
	callers, producers int
	gap, gapWait       time.Duration // between operations of a client at most; and how long numbers are held
	maxHeld            int
	conflicts, tells   bool // duplicates on their way, and numbers that are done, are conflicts
	releases           bool // a lane, when its upstream is late

	link      membertest.Link
	service   loadtest.WitnessConfig
	keys      int
	steadyGap time.Duration
	pinned    string
	events    int
}

// newScenario draws one: a planned one from an even seed.
func newScenario(seed uint64) scenario {
	r := rand.New(rand.NewPCG(seed, 0x706c616e))
	s := scenario{
		seed: seed, planned: seed%2 == 0, nodes: 3,
		partitions: []int{16, 64, 64, 128}[r.IntN(4)], stripes: 1 + r.IntN(3), minMembers: 1, secure: r.IntN(10) == 0,
		settle:  []time.Duration{0, 50, 200, 500}[r.IntN(4)] * time.Millisecond,
		handoff: []time.Duration{300, 1000, 10_000}[r.IntN(3)] * time.Millisecond,
		rejoin:  time.Duration(1500+r.IntN(2000)) * time.Millisecond,
		delay:   time.Duration(r.IntN(400)) * time.Millisecond,
		link: membertest.Link{
			Delay:     []time.Duration{0, 50, 200, 1000}[r.IntN(4)] * time.Microsecond,
			Jitter:    []time.Duration{0, 100, 1000, 5000}[r.IntN(4)] * time.Microsecond,
			Duplicate: []float64{0, .05}[r.IntN(2)],
			Loss:      []float64{0, 0, .001, .01}[r.IntN(4)],
		},
		service: loadtest.WitnessConfig{
			Delay:     time.Duration(r.IntN(2000)) * time.Microsecond,
			Jitter:    time.Duration(1+r.IntN(4000)) * time.Microsecond,
			SlowShare: .03, SlowDelay: time.Duration(20+r.IntN(300)) * time.Millisecond, Seed: seed,
		},
		keys:      8 + r.IntN(24),
		steadyGap: time.Duration(3+r.IntN(3)) * time.Millisecond,
		pinned:    fmt.Sprintf("n%d", 1+r.IntN(3)),
		events:    2 + r.IntN(3),
	}
	if r.IntN(5) == 0 {
		s.nodes = 5
	}
	s.patience, s.upstreamTimeout = 60*time.Second, 30*time.Second
	if !s.planned {
		s.patience, s.upstreamTimeout = 4*time.Second, 5*time.Second
		if r.IntN(3) == 0 {
			s.minMembers = s.nodes/2 + 1
		}
	}
	// An answer comes, at the latest, when the ingress gives its owner up; and
	// behind a pause.
	s.answerTimeout = s.patience + s.upstreamTimeout + 2*time.Second + 500*time.Millisecond + pauseMax
	return s
}

// beStrict makes s one of strict routes, and draws what belongs to that. A call that was
// begun in time ends before the lease does: the service takes less than the margin.
func (s *scenario) beStrict() {
	r := rand.New(rand.NewPCG(s.seed, 0x737472))
	s.strict = true
	s.ttl = time.Duration(4000+r.IntN(4000)) * time.Millisecond
	s.margin = time.Second + time.Duration(r.IntN(300))*time.Millisecond
	if s.grace = s.ttl; r.IntN(4) == 0 {
		s.grace = 0
	}
	if !s.planned {
		s.patience = time.Duration(2+r.IntN(10)) * time.Second
	}
	s.answerTimeout = s.patience + s.upstreamTimeout + 2*time.Second + 500*time.Millisecond + pauseMax
}

// beSpilled makes s one whose keys are spilled as soon as a request waits, and cool when
// none has for a moment: there are few, so that they come and go.
func (s *scenario) beSpilled() {
	r := rand.New(rand.NewPCG(s.seed, 0x7370696c))
	s.spilled = true
	s.keys = 3 + r.IntN(6)
	s.batch = []int{1, 2, 4, 16}[r.IntN(4)]
	s.quantum = time.Duration(1+r.IntN(50)) * time.Millisecond
	s.coolIn = time.Duration(5+r.IntN(300)) * time.Millisecond
	s.locked = r.IntN(2) == 0
}

func (s scenario) String() string {
	class := "faults"
	if s.planned {
		class = "planned"
	}
	if s.strict {
		class += fmt.Sprintf(", strict, TTL %v, margin %v, grace %v", s.ttl, s.margin, s.grace)
	}
	if s.named {
		class += fmt.Sprintf(", named, %d callers, %d producers, every %v, gap wait %v, held %d, conflicts %v, tells %v, releases %v",
			s.callers, s.producers, s.gap, s.gapWait, s.maxHeld, s.conflicts, s.tells, s.releases)
	}
	if s.spilled {
		class += fmt.Sprintf(", spilled, batch %d, quantum %v, cool in %v, locked %v", s.batch, s.quantum, s.coolIn, s.locked)
	}
	return fmt.Sprintf("%s: %d nodes, min %d, %d partitions, %d stripes, secure %v, settle %v, handoff %v, rejoin %v, delay %v, link %+v, service %v+%v, 3%% +%v, %d keys every %v, pinned to %s",
		class, s.nodes, s.minMembers, s.partitions, s.stripes, s.secure, s.settle, s.handoff, s.rejoin, s.delay, s.link,
		s.service.Delay, s.service.Jitter, s.service.SlowDelay, s.keys, s.steadyGap, s.pinned)
}

const pauseMax = 8 * time.Second

// planner lets things happen, one after the other or at once.
type planner struct {
	*world
	happening sync.WaitGroup
	busy      map[string]bool // nodes to which something happens, by name
	mu        sync.Mutex      // guards busy
}

// simulate is the life of a cluster.
func (w *world) simulate() {
	defer w.stopAll()
	w.say("%s", w.scenario)
	for i := range w.nodes {
		w.start(nodeName(i))
	}
	for _, p := range w.present() {
		p.awaitReady()
	}
	if !w.settleDown(30*time.Second, 0) {
		return
	}
	stop := make(chan struct{})
	w.load(stop)

	p := &planner{world: w, busy: make(map[string]bool)}
	for range w.events {
		time.Sleep(p.pause())
		if p.cutOff {
			p.cutOffEvent()
			continue
		}
		p.event()
	}
	p.happening.Wait()
	for len(w.present()) < w.minMembers {
		w.start(p.absent()).awaitReady()
	}
	w.say("healed")
	w.network.Heal()
	w.between(w.link)
	if w.strict {
		w.store.Away(false)
	}
	w.settleDown(90*time.Second, w.peace())
	w.mu.Lock()
	for _, i := range w.incidents {
		if i.kind == split {
			i.until.Store(w.clock.Now())
		}
	}
	w.mu.Unlock()

	if w.named {
		time.Sleep(2 * time.Second)
	} else {
		w.burst("last", 4)
	}
	close(stop)
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	if w.named {
		w.names.finish()
	}
	w.quiesce()
}

// peace is how long a cluster has to be one before what happened to it is over.
// A suspicion that began in a split may become a verdict when that has healed, as
// late as a crash is noticed (seed 1489).
func (w *world) peace() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.ContainsFunc(w.incidents, func(i *incident) bool { return i.kind == split }) {
		return 4 * time.Second
	}
	return time.Second
}

// quiesce waits for what is on its way, and looks for what is left then.
func (w *world) quiesce() {
	why := ""
	for until := time.Now().Add(w.answerTimeout + w.upstreamTimeout); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if why = w.idle(); why == "" {
			if why = w.unsettled(); why == "" {
				return
			}
		}
	}
	w.wrong("not at rest: %s", why)
}

func (p *planner) pause() time.Duration {
	r := p.random
	switch r.IntN(4) {
	case 0:
		return time.Duration(r.IntN(20)) * time.Millisecond
	case 1:
		return time.Duration(r.Int64N(int64(2*p.settle + time.Millisecond)))
	}
	return time.Duration(r.IntN(1500)) * time.Millisecond
}

// pick is a process to which nothing else happens, if there are more than keep
// of them.
func (p *planner) pick(keep int) *simProcess {
	p.mu.Lock()
	defer p.mu.Unlock()
	free := slices.DeleteFunc(p.present(), func(o *simProcess) bool { return p.busy[o.name] })
	if len(free) <= keep {
		return nil
	}
	o := free[p.random.IntN(len(free))]
	p.busy[o.name] = true
	return o
}

func (p *planner) done(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, name)
}

const nodesMax = 6

// absent is the name of a node that is not there.
func (p *planner) absent() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range nodesMax {
		name := nodeName(i)
		if !p.busy[name] && !slices.ContainsFunc(p.running(), func(o *simProcess) bool { return o.name == name }) {
			p.busy[name] = true
			return name
		}
	}
	return ""
}

func (p *planner) event() {
	planned := []func(){p.join, p.leave, p.restart, p.restart, p.resets, p.drain, p.slow}
	faults := []func(){p.crash, p.crash, p.crash, p.stopped, p.stopped, p.oneWay, p.split, p.noise}
	if p.named {
		planned = []func(){p.join, p.leave, p.restart, p.restart, p.resets, p.drain, p.slowLinks}
		faults = []func(){p.crash, p.crash, p.crash, p.oneWay, p.split, p.noise}
	}
	if p.strict {
		planned = append(planned, p.cutStore)
		faults = append(faults, p.storeAway, p.storeAway, p.storeCutOff, p.storeCutOff, p.storeLoss)
	}
	if events := planned; p.planned || p.random.IntN(3) == 0 {
		events[p.random.IntN(len(events))]()
		return
	}
	faults[p.random.IntN(len(faults))]()
}

// soon runs something beside the plan.
func (p *planner) soon(name string, what func()) {
	p.happening.Go(func() {
		defer p.done(name)
		what()
	})
}

func (p *planner) join() {
	name := p.absent()
	if name == "" {
		return
	}
	p.soon(name, func() { p.start(name).awaitReady() })
}

func (p *planner) leave() {
	if o := p.pick(1); o != nil {
		p.soon(o.name, o.leave)
	}
}

// restart is one, or several that overlap.
func (p *planner) restart() {
	for range 1 + p.random.IntN(2) {
		o := p.pick(1)
		if o == nil {
			return
		}
		wait := time.Duration(p.random.IntN(300)) * time.Millisecond
		p.soon(o.name, func() {
			o.leave()
			time.Sleep(wait)
			p.start(o.name).awaitReady()
		})
		time.Sleep(time.Duration(p.random.IntN(100)) * time.Millisecond)
	}
}

// drain is an operator's, with a change of mind.
func (p *planner) drain() {
	o := p.pick(1)
	if o == nil {
		return
	}
	d := time.Duration(p.random.IntN(2000)) * time.Millisecond
	p.soon(o.name, func() {
		p.say("drain %s", o.id)
		o.node.Drain()
		time.Sleep(d)
		p.say("undrain %s", o.id)
		o.node.Undrain()
	})
}

// resets break connections between nodes.
func (p *planner) resets() {
	for range 1 + p.random.IntN(6) {
		all := p.running()
		a, b := all[p.random.IntN(len(all))], all[p.random.IntN(len(all))]
		if a == b {
			continue
		}
		p.say("reset %s %s", a.id, b.id)
		p.tally.add("resets", 1)
		p.network.Reset(a.host, b.host)
		time.Sleep(time.Duration(p.random.IntN(60)) * time.Millisecond)
	}
	p.network.Reset(rudeHost, p.running()[0].host)
}

// slow lets a key's upstream take its time.
func (p *planner) slow() {
	delay := time.Duration(50+p.random.IntN(400)) * time.Millisecond
	p.say("slow requests, %s each", delay)
	p.happening.Go(func() {
		p.send(context.Background(), patient, "", loadtest.Traffic{
			Client: "slow-" + delay.String(), Mode: loadtest.Spaced, PerKey: 1, Gap: time.Millisecond, Connections: 8,
			Headers: []string{"Witness-Delay: " + delay.String()}, Duration: p.patience,
		})
	})
}

func (p *planner) crash() {
	o := p.pick(1)
	if o == nil {
		return
	}
	wait := time.Duration(p.random.IntN(8000)) * time.Millisecond
	again, unplug := p.random.IntN(4) > 0, p.random.IntN(3) == 0
	if p.random.IntN(3) == 0 {
		wait /= 20 // back before anybody has noticed
	}
	p.soon(o.name, func() {
		o.crash(unplug)
		if again {
			time.Sleep(wait)
			p.start(o.name).awaitReady()
		}
	})
}

func (p *planner) stopped() {
	o := p.pick(1)
	if o == nil {
		return
	}
	d := time.Duration(100+p.random.IntN(1100)) * time.Millisecond
	if p.random.IntN(4) > 0 {
		d = 2*time.Second + time.Duration(p.random.Int64N(int64(pauseMax-2*time.Second)))
	}
	p.soon(o.name, func() { o.freeze(d) })
}

func (p *planner) oneWay() {
	all := p.running()
	a, b := all[p.random.IntN(len(all))], all[p.random.IntN(len(all))]
	if a == b {
		return
	}
	d := time.Duration(p.random.IntN(10_000)) * time.Millisecond
	p.say("cut from %s to %s for %s", a.id, b.id, d)
	p.note(&incident{kind: split, from: p.clock.Now()})
	p.network.Cut(a.host, b.host)
	p.happening.Go(func() {
		time.Sleep(d)
		p.say("mend from %s to %s", a.id, b.id)
		p.network.Mend(a.host, b.host)
	})
}

func (p *planner) split() {
	var sides [2][]string
	for i := range nodesMax {
		side := p.random.IntN(2)
		sides[side] = append(sides[side], hostOf(nodeName(i)))
	}
	if len(sides[0]) == 0 || len(sides[1]) == 0 {
		return
	}
	d := time.Duration(p.random.IntN(12_000)) * time.Millisecond
	p.say("split %v for %s", sides, d)
	p.note(&incident{kind: split, from: p.clock.Now()})
	p.network.Split(sides[0], sides[1])
	p.happening.Go(func() {
		time.Sleep(d)
		p.say("heal")
		p.network.Heal()
	})
}

// cutStore breaks a node's connections to the store, which are made again.
func (p *planner) cutStore() {
	all := p.running()
	o := all[p.random.IntN(len(all))]
	p.say("%s loses its connections to the store", o.id)
	o.store.Cut()
	o.store.CutAt(1 + p.random.IntN(4))
}

// storeAway has nobody reach the store, shorter or longer than leases last.
func (p *planner) storeAway() {
	d := time.Duration(p.random.Int64N(int64(2 * p.ttl)))
	p.say("the store is away for %s", d)
	p.tally.add(sawAway, 1)
	p.store.Away(true)
	p.happening.Go(func() {
		time.Sleep(d)
		p.say("the store is back")
		p.store.Away(false)
	})
}

// storeCutOff has one node not reach the store.
func (p *planner) storeCutOff() {
	all := p.running()
	o := all[p.random.IntN(len(all))]
	d := time.Duration(p.random.Int64N(int64(2 * p.ttl)))
	p.say("%s does not reach the store for %s", o.id, d)
	p.tally.add(sawCutOff, 1)
	o.store.Away(true)
	p.happening.Go(func() {
		time.Sleep(d)
		p.say("%s reaches the store", o.id)
		o.store.Away(false)
	})
}

// storeLoss has the store forget everything.
func (p *planner) storeLoss() {
	p.say("the store has lost its data")
	p.tally.add(sawLoss, 1)
	i := &incident{kind: lost, from: p.clock.Now(), grace: p.grace}
	// Whoever had a lease learns of that when it renews it, or when it is not valid any
	// more; and then its last call ends.
	i.until.Store(i.from + int64(2*p.ttl))
	p.note(i)
	p.store.Forget()
}

// noise is a network that loses much.
func (p *planner) noise() {
	d := time.Duration(p.random.IntN(5000)) * time.Millisecond
	bad := p.link
	bad.Loss, bad.Delay, bad.Jitter = .1+.4*p.random.Float64(), time.Millisecond, time.Duration(p.random.IntN(300))*time.Millisecond
	p.say("bad network for %s: %+v", d, bad)
	p.note(&incident{kind: split, from: p.clock.Now()})
	p.between(bad)
	p.happening.Go(func() {
		time.Sleep(d)
		p.say("good network")
		p.between(p.link)
	})
}
