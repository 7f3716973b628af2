package main

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"lanekeeper/ownership"
	"lanekeeper/proxy"
	"lanekeeper/ring"
)

// TestNamedSimulation runs whole nodes whose clients name and number their requests,
// and repeat them. Even seeds are of what an operator and an ordinary network do, and
// there nothing is excused.
//
// Mutants: the records, or the marks, do not travel with their partition, or not with a
// key that was drained; what a node knows of keys it had to let go is not told (seeds 157, 187, 349); a held request is not woken when its key moves, or when the number before it has run;
// it keeps its turn; the claim is not there while the request runs; an unknown outcome is
// forgotten, or its number is not done; what the upstream refuses is done; answers are not kept; a lower epoch is
// not fenced, or a higher one begins anywhere; what became of a late request is noted
// after its turn; a late request's lane is not held; writes run beside each other.
func TestNamedSimulation(t *testing.T) {
	scenario := func(seed uint64) scenario {
		s := newScenario(seed)
		s.beNamed()
		return s
	}
	if seeds := flag.Lookup("sim.seeds"); seeds.Value.String() == seeds.DefValue {
		defer func(n int) { *simSeeds = n }(*simSeeds)
		*simSeeds = namedSeeds
	}
	campaign(t, scenario, foundNamed, mustReachNamed)
}

// namedSeeds are fewer than those of the others: a test run is to be short.
const namedSeeds = 12

// What a campaign of named requests must have reached.
const (
	sawReplayed  = "answers that were replayed"
	sawLost      = "operations of unknown outcome"
	sawGap       = "requests held for too long"
	sawFencedOff = "requests of an epoch that was over"
	sawAgain     = "operations that ran again, their record lost"
	sawForgotten = "producers that began anew, their marks lost"
)

var mustReachNamed = []string{
	sawHandoff, sawKeyDone, sawMoved, sawAdopted, sawTakeover, sawReplayed, sawLost, sawGap, sawFencedOff, sawAgain, sawForgotten,
}

// beNamed makes s one of few keys whose requests have names and numbers. Of the faults
// only those are left that cost the memory of a node.
func (s *scenario) beNamed() {
	r := rand.New(rand.NewPCG(s.seed, 0x6e616d65))
	s.named = true
	s.keys = 2 + r.IntN(3)
	s.callers, s.producers = 2+r.IntN(3), 2+r.IntN(2)
	s.gap = time.Duration(20+r.IntN(130)) * time.Millisecond
	s.gapWait = []time.Duration{300, 2000, 5000}[r.IntN(3)] * time.Millisecond
	if !s.planned {
		s.gapWait = min(s.gapWait, 2*time.Second) // what is lost is waited for in vain
	}
	s.secure = false // what nodes say to each other is evidence
	s.maxHeld = []int{2, 64, 64}[r.IntN(3)]
	s.conflicts, s.tells, s.releases = r.IntN(2) == 0, r.IntN(3) == 0, r.IntN(4) == 0
	s.patience, s.upstreamTimeout = 10*time.Second, 150*time.Millisecond
	s.answerTimeout = s.patience + s.upstreamTimeout + 5*time.Second
}

// nameRequests is what the configuration says of names and numbers.
func (w *world) nameRequests(r *proxy.Route) {
	route := w.base.Routes[0]
	route.Idempotency.Mode, route.Idempotency.Store = "optional", storeOwner
	route.Sequence.Mode, route.Sequence.GapWait, route.Sequence.MaxHeld = "optional", Duration(w.gapWait), w.maxHeld
	if w.conflicts {
		route.Idempotency.Concurrent = "conflict"
	}
	if w.tells {
		route.Sequence.Done = "conflict"
	}
	if w.releases {
		r.Lane.AfterTimeout = proxy.Release
	}
	r.Idempotency, r.Sequence = route.proxyIdempotency(), route.Sequence.proxySequence()
}

// has are the partitions of which a process may know what nobody else does: it owns them,
// claims them, or has something of them that it has not handed over.
func (p *simProcess) has() (partitions []int) {
	if !p.world.named {
		return nil
	}
	for partition := range p.world.partitions {
		s := p.node.cluster.owners.State(partition)
		if s.Role != ownership.Foreign || s.Draining > 0 || s.Giving != (ring.Member{}) || s.Keeps {
			partitions = append(partitions, partition)
		}
	}
	return partitions
}

// gaveInVain notes a partition that was given to nobody: whoever it was for has crashed.
func (w *world) gaveInVain(partition int, address string) {
	if !w.named || slices.ContainsFunc(w.running(), func(p *simProcess) bool { return p.host+":7944" == address }) {
		return
	}
	w.say("partition %d is given in vain", partition)
	w.note(&incident{kind: forgot, had: []int{partition}, from: w.clock.Now()})
}

// slowLinks has nodes hear of each other later, for a while.
func (p *planner) slowLinks() {
	slow := p.link
	slow.Delay, slow.Jitter = time.Duration(p.random.IntN(30))*time.Millisecond, time.Duration(1+p.random.IntN(30))*time.Millisecond
	d := time.Duration(p.random.IntN(3000)) * time.Millisecond
	p.say("slow network for %s: %+v", d, slow)
	p.between(slow)
	p.happening.Go(func() {
		time.Sleep(d)
		p.say("ordinary network")
		p.between(p.link)
	})
}

// judge holds what clients and the service saw against the promises.
func (n *named) judge() {
	runs := n.registers.runs
	n.world.tally.add("runs", len(runs))
	n.world.tally.add("operations", len(n.operations))
	byAttempt := make(map[string]*arrival)
	byOperation := make(map[string][]*arrival)
	for _, r := range runs {
		if byAttempt[r.attempt] != nil {
			n.world.wrong("order:%s: %s came to the service twice", r.key, r.attempt)
		}
		byAttempt[r.attempt] = r
		byOperation[r.operation] = append(byOperation[r.operation], r)
	}
	for _, o := range n.operations {
		n.judgeAnswers(o, byAttempt, byOperation[o.name])
	}
	for key := range n.world.keys {
		key := fmt.Sprint(key)
		ran := slices.DeleteFunc(slices.Clone(runs), func(r *arrival) bool { return r.key != key })
		slices.SortStableFunc(ran, func(a, b *arrival) int { return cmp.Compare(a.start, b.start) })
		n.judgeRuns(key, slices.DeleteFunc(slices.Clone(ran), func(r *arrival) bool { return r.read }))
		if n.world.planned {
			n.judgeWaiting(key, ran)
			if !n.world.releases {
				n.judgeExclusion(ran)
				n.judgeHistory(key)
			}
		}
	}
}

// judgeAnswers looks at how an operation was answered: what says that it did not run
// did not; all that say that it did are the same, and the service's to it; and without a
// fault only what it met itself keeps an operation from that.
func (n *named) judgeAnswers(o *operation, byAttempt map[string]*arrival, runs []*arrival) {
	var body string
	for _, a := range o.attempts {
		ran := byAttempt[a.name]
		where := fmt.Sprintf("order:%s: %s, sent at %.4f, answered %d %s %s at %.4f", o.key, a.name, float64(a.sent)/1e9, a.status, a.slug, a.executed, float64(a.answered)/1e9)
		n.world.tally.add(fmt.Sprintf("answered %d %s", a.status, a.slug), 1)
		switch {
		case a.executed == "no" && ran != nil:
			n.world.wrong("%s, and it was executed", where)
		case a.status == 200 && !slices.ContainsFunc(runs, func(r *arrival) bool { return r.fate == answered && r.answer == a.body && r.start <= a.answered }):
			n.world.wrong("%s with %s, which the service has not said to it", where, a.body)
		case a.status == 200 && body != "" && body != a.body && n.world.planned:
			n.world.wrong("%s with %s, and with %s as well", where, a.body, body)
		case a.status == 200:
			if body = a.body; ran == nil {
				n.world.tally.add(sawReplayed, 1)
			}
		case a.slug == "idempotency-outcome-unknown":
			n.world.tally.add(sawLost, 1)
			if n.world.planned && !slices.ContainsFunc(runs, n.mayBeLost) {
				n.world.wrong("%s, and all that there was of it was answered", where)
			}
		case a.slug == "sequence-gap", a.slug == "sequence-unknown":
			n.world.tally.add(sawGap, 1)
		case a.slug == "sequence-producer-fenced":
			n.world.tally.add(sawFencedOff, 1)
			if !slices.ContainsFunc(n.operations, func(later *operation) bool {
				return later.producer == o.producer && later.epoch > o.epoch && len(later.attempts) > 0 && later.attempts[0].sent < a.answered
			}) {
				n.world.wrong("%s, and there was no later epoch", where)
			}
		case a.slug == "sequence-done":
			if n.world.planned && !(n.world.tells && len(runs) > 0) {
				n.world.wrong("%s", where)
			}
		case a.final():
			n.world.wrong("%s, which nothing explains", where)
		}
	}
}

// mayBeLost reports whether nobody but the service knows what became of a run.
func (n *named) mayBeLost(r *arrival) bool {
	return r.fate != answered && r.fate != refused || r.end-r.start > int64(n.world.upstreamTimeout-20*time.Millisecond)
}

// memory is what a cluster has to know of a key's earlier requests.
type memory struct {
	ran   map[string]*arrival // operations
	marks map[string]*operation
	lost  map[string]bool // marks that may be forgotten
}

// judgeRuns is the specification: an operation runs once, and the numbers of a producer
// run in their order, from 1 in each epoch, and no epoch after a higher one. What was
// refused has not run. What a crash or a split may cost is the memory of a key:
//
//   - A process that crashes takes along what it had of a partition: then any operation
//     that had run may run again, and each producer may begin with 1 again, or where it
//     was when an earlier owner gave the partition away: its copy may be all there is. Whether the process
//     had anything to do with the partition is what its own table said at that moment. What it had
//     sent to the service, one request of each key, may still arrive.
//   - One that gives a partition to a process that has crashed, before anybody knows of
//     that, does not know whether that has run anything: what it remembers of operations
//     stays true, but producers may begin again.
//   - As long as a split lasts, anything may run; but when it is over, what either side
//     knew is known.
func (n *named) judgeRuns(key string, runs []*arrival) {
	w := n.world
	partition := w.layout().Partition([]byte("order:" + key))
	var losses []*incident
	for _, i := range w.incidents {
		if (i.kind == crashed || i.kind == forgot) && slices.Contains(i.had, partition) {
			losses = append(losses, i)
		}
	}
	slices.SortFunc(losses, func(a, b *incident) int { return cmp.Compare(a.from, b.from) })
	m := memory{make(map[string]*arrival), make(map[string]*operation), make(map[string]bool)}
	late := make(map[*incident]int)
	for _, r := range runs {
		for len(losses) > 0 && losses[0].from <= r.start {
			if losses[0].kind == crashed {
				clear(m.ran)
			}
			losses = losses[1:]
			for producer := range m.marks {
				m.lost[producer] = true
			}
		}
		apart, gone := false, false
		for _, i := range w.incidents {
			switch {
			case i.kind == split && r.start >= i.from && r.start <= i.until.Load():
				apart = true
			case i.kind == crashed && i.process == r.process && r.start >= i.from:
				if late[i]++; late[i] > 1 {
					w.wrong("order:%s: %s ran %d requests after it was gone, %s the last", key, r.process, late[i], r.attempt)
				}
				gone = true
			}
		}
		if !gone { // else nobody will know of it
			n.judgeRun(r, &m, apart)
		}
	}
}

// judgeRun looks at one, and remembers it. What runs while the cluster is apart is only
// remembered.
func (n *named) judgeRun(r *arrival, m *memory, apart bool) {
	w, o := n.world, n.byName[r.operation]
	where := fmt.Sprintf("order:%s: %s at %.4f in %s", r.key, r.attempt, float64(r.start)/1e9, r.process)
	before := m.ran[o.name]
	if before != nil && !apart {
		w.wrong("%s runs again: %s ran at %.4f in %s", where, before.attempt, float64(before.start)/1e9, before.process)
	}
	mark := m.marks[o.producer]
	if o.producer != "" && !apart {
		switch {
		case o.seq == 1 && (mark == nil || o.epoch > mark.epoch):
		case m.lost[o.producer] && (o.seq == 1 || o.epoch < mark.epoch || o.epoch == mark.epoch && o.seq <= mark.seq):
		case mark != nil && o.epoch == mark.epoch && o.seq == mark.seq+1:
		case mark == nil:
			w.wrong("%s runs, and nothing before it", where)
		default:
			w.wrong("%s runs after number %d of epoch %d", where, mark.seq, mark.epoch)
		}
	}
	if r.fate == refused {
		return
	}
	if apart && before != nil {
		w.tally.add(sawAgain, 1)
	}
	m.ran[o.name] = r
	if o.producer == "" || apart && mark != nil && (mark.epoch > o.epoch || mark.epoch == o.epoch && mark.seq >= o.seq) {
		return
	}
	m.marks[o.producer] = o
	if !apart {
		delete(m.lost, o.producer)
	}
}

// judgeExclusion looks for a write that ran beside something else. Clients do not see that
// of one whose answer is lost.
func (n *named) judgeExclusion(runs []*arrival) {
	var last, lastWrite *arrival // of those before, whose ends are the latest
	for _, r := range runs {
		other := last
		if r.read {
			other = lastWrite
		}
		if other != nil && other.end > r.start {
			n.world.wrong("order:%s: %s began at %.4f beside %s, which ended at %.4f", r.key, r.attempt, float64(r.start)/1e9, other.attempt, float64(other.end)/1e9)
		}
		if last == nil || r.end > last.end {
			last = r
		}
		if !r.read && (lastWrite == nil || r.end > lastWrite.end) {
			lastWrite = r
		}
	}
}

// waitMax is how long a lane may stand still although a request waits, without a fault.
const waitMax = time.Second

// judgeWaiting looks for those who wait in vain: a request, while nothing of its key
// runs; and a number that is told of a gap when there is none any more.
func (n *named) judgeWaiting(key string, runs []*arrival) {
	if n.world.link.Loss > 0 {
		return // who knows what is on its way
	}
	done := make(map[string]int64) // numbers, by the operation: when they were
	for _, r := range runs {
		if r.fate == answered && !n.mayBeLost(r) {
			done[r.operation] = r.end
		}
	}
	const travel = int64(150 * time.Millisecond)
	for _, o := range n.operations {
		if o.key != key {
			continue
		}
		for _, a := range o.attempts {
			where := fmt.Sprintf("order:%s: %s, sent at %.4f, answered %d %s at %.4f", o.key, a.name, float64(a.sent)/1e9, a.status, a.slug, float64(a.answered)/1e9)
			if a.slug == "sequence-gap" || a.slug == "sequence-unknown" {
				n.judgeGap(o, a, done, where)
			}
			if o.producer != "" || a.answered == 0 {
				continue
			}
			idle := a.sent
			for _, r := range runs {
				if r.start >= a.sent && r.start <= a.answered && r.start-idle > int64(waitMax) {
					n.world.wrong("%s: its lane stood still from %.4f to %.4f", where, float64(idle)/1e9, float64(r.start)/1e9)
				}
				idle = max(idle, r.end)
			}
			if a.answered-travel-idle > int64(waitMax) {
				n.world.wrong("%s: its lane stood still from %.4f", where, float64(idle)/1e9)
			}
		}
	}
}

func (n *named) judgeGap(o *operation, a *attempt, done map[string]int64, where string) {
	const travel = int64(150 * time.Millisecond)
	last := int64(0)
	for seq := uint64(1); seq < o.seq; seq++ {
		at, known := done[fmt.Sprintf("%s-%d-%d", o.producer, o.epoch, seq)]
		if !known {
			return
		}
		last = max(last, at)
	}
	if last < a.answered-travel {
		n.world.wrong("%s: all before it were done at %.4f", where, float64(last)/1e9)
	}
}

// action is one operation as a register's: a write that returns what it replaces, or a
// read. Of a write that has no answer nobody knows when it was, if it was.
type action struct {
	write string
	open  bool
	value string
}

var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		a := output.(action)
		switch {
		case a.write == "":
			return a.value == state, state
		case a.open:
			return true, a.write
		}
		return a.value == state, a.write
	},
}

// judgeHistory asks whether what the clients saw of a key is what one register would
// have shown to each of them in turn.
func (n *named) judgeHistory(key string) {
	var history []porcupine.Operation
	for _, o := range n.operations {
		if o.key != key {
			continue
		}
		seen := porcupine.Operation{Call: math.MaxInt64, Return: math.MaxInt64}
		did := action{open: true}
		possible := false
		if !o.read {
			did.write = o.name
		}
		for _, a := range o.attempts {
			seen.Call = min(seen.Call, a.sent)
			possible = possible || a.executed != "no" || a.slug == "sequence-done"
			if a.status == 200 {
				seen.Return = min(seen.Return, a.answered)
				did.open, did.value = false, valueIn(a.body)
			}
		}
		if seen.Output = did; possible && !(o.read && did.open) {
			history = append(history, seen)
		}
	}
	if !porcupine.CheckOperations(registerModel, history) {
		n.world.wrong("order:%s: no single register would have shown this to its clients", key)
	}
}

func valueIn(body string) string {
	_, value, _ := strings.Cut(body, `"value":"`)
	value, _, _ = strings.Cut(value, `"`)
	return value
}

// story is what became of a key's operations, for people.
func (n *named) story(key string) string {
	type event struct {
		at   int64
		text string
	}
	var events []event
	add := func(at int64, format string, args ...any) {
		events = append(events, event{at, fmt.Sprintf("%12.6f  %s", float64(at)/1e9, fmt.Sprintf(format, args...))})
	}
	for _, r := range n.registers.runs {
		if r.key == key {
			add(r.start, "%s begins at %s", r.attempt, r.process)
			add(r.end, "%s ends, %s: %s", r.attempt, r.fate, r.answer)
		}
	}
	for _, o := range n.operations {
		for _, a := range o.attempts {
			if o.key != key {
				continue
			}
			add(a.sent, "%s is sent", a.name)
			if a.answered > 0 {
				add(a.answered, "%s is answered %d %s %s", a.name, a.status, a.slug, a.executed)
			}
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	var lines []string
	for _, e := range events {
		lines = append(lines, e.text)
	}
	return strings.Join(lines, "\n")
}
