package ownership

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"testing"
	"time"
)

// scenario is a small cluster of which every possible future is looked at: all
// orders in which messages arrive, views change, connections break, requests
// come and end.
type scenario struct {
	name string
	// rules.plan is what happens to the cluster; its first before steps are
	// over, and all is quiet, when the exploration begins.
	rules  rules
	before int

	// script goes on from there, to where it becomes interesting.
	script func(*world)

	breaks, doubts, freezes, lends int
	losses, lapses, pauses, aways  int // at the store

	deep bool // only with -states: too large for CI
}

// explorer goes through the states of a scenario breadth first, so the history
// it finds for something wrong is a shortest one.
type explorer struct {
	seeds [2]maphash.Seed
	seen  map[[2]uint64]struct{}
	steps []taken // by state
	ends  int
}

// taken is how a state was reached.
type taken struct {
	from int32
	a    action
}

type found struct {
	w     *world
	index int32
}

func (s *scenario) begin() *world {
	r := s.rules
	w := newWorld(&r)
	w.start(0, 0)
	w.run()
	w.plan = 1
	for w.plan < s.before {
		w.next()
		w.run()
	}
	if err := w.settled(); err != "" {
		w.fail("not settled to begin with: %s", err)
	}
	if s.script != nil {
		s.script(w)
	}
	w.breaks, w.doubts, w.freezes, w.lends = s.breaks, s.doubts, s.freezes, s.lends
	if w.store != nil {
		w.store.losses, w.store.lapses, w.store.pauses, w.store.away = s.losses, s.lapses, s.pauses, s.aways
	}
	return w
}

// next does the next step of the plan.
func (w *world) next() { w.do(action{planStep, w.plan, 0}) }

// run lets everything happen that happens sooner or later, but that nothing is
// read from the given connections: "ab" leads from a to b. "done": no request
// ends. "lent": no helper reads that it was lent a turn.
func (w *world) run(held ...string) { w.runUnseen(0, 0, held...) }

// runUnseen does the same, but that two nodes do not get to see each other.
func (w *world) runUnseen(i, j int, held ...string) {
	for {
		can := slices.DeleteFunc(w.actions(false), func(a action) bool {
			return a.what == deliver && slices.Contains(held, w.nodes[a.a].member.Name+w.nodes[a.b].member.Name) ||
				a.what == learn && i != j && (a.a == i && a.b == j || a.a == j && a.b == i) ||
				(a.what == finish || a.what == giveBack) && slices.Contains(held, "done") ||
				a.what == borrow && slices.Contains(held, "lent")
		})
		if len(can) == 0 {
			return
		}
		w.do(can[0])
	}
}

// explore returns what is wrong, and how it comes about, or "".
func (s *scenario) explore(t *testing.T) string {
	began := time.Now()
	e := &explorer{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, seen: map[[2]uint64]struct{}{}}
	first := s.begin()
	if first.wrong != "" {
		return first.wrong
	}
	e.visit(first)
	e.steps = append(e.steps, taken{from: -1})
	most := cmp.Or(*mostStates, 100_000)
	if raceDetector {
		most = min(most, 1000) // one goroutine; TestMutantsAreCaught runs it without
	}
	layer := []found{{first, 0}}
	depth, whole := 0, true
	for len(layer) > 0 && whole {
		depth++
		var next []found
		for _, f := range layer {
			can := f.w.actions(true)
			if len(f.w.actions(false)) == 0 && f.w.plan == len(f.w.rules.plan) {
				e.ends++
				if err := f.w.settled(); err != "" {
					return e.history(s, f.index, action{}, false) + "\nall is quiet, and " + err + "\n" + f.w.String()
				}
			}
			for _, a := range can {
				w := f.w.clone()
				w.do(a)
				if w.wrong != "" {
					return e.history(s, f.index, a, true) + "\n" + w.wrong
				}
				if e.visit(w) {
					e.steps = append(e.steps, taken{f.index, a})
					next = append(next, found{w, int32(len(e.steps) - 1)})
				}
			}
			if len(e.steps) > most {
				whole = false
				break
			}
		}
		layer = next
	}
	how := "all"
	if !whole {
		how = "the first"
	}
	t.Logf("%-32s %s %d states, %d steps deep, %d ends, %v", s.name, how, len(e.steps), depth, e.ends, time.Since(began).Round(time.Millisecond))
	return ""
}

// visit reports whether w is new.
func (e *explorer) visit(w *world) bool {
	state := w.appendState(nil)
	sum := [2]uint64{maphash.Bytes(e.seeds[0], state), maphash.Bytes(e.seeds[1], state)}
	if _, old := e.seen[sum]; old {
		return false
	}
	e.seen[sum] = struct{}{}
	return true
}

// history puts into words how a state was reached, by doing it again.
func (e *explorer) history(s *scenario, index int32, last action, more bool) string {
	var actions []action
	for i := index; i > 0; i = e.steps[i].from {
		actions = append(actions, e.steps[i].a)
	}
	slices.Reverse(actions)
	if more {
		actions = append(actions, last)
	}
	var b strings.Builder
	w := s.begin()
	for i, a := range actions {
		fmt.Fprintf(&b, "\n%3d %s", i+1, w.describe(a))
		w.do(a)
	}
	return b.String()
}

// among is the target that comes first in an order of preference: "cba" prefers
// c.
func among(order string) func(int, []string) string {
	return func(_ int, active []string) string {
		for _, name := range strings.Split(order, "") {
			if slices.Contains(active, name) {
				return name
			}
		}
		return active[0]
	}
}

// byMembers is the target for each set of members, else what among says.
func byMembers(order string, sets map[string]string) func(int, []string) string {
	rest := among(order)
	return func(p int, active []string) string {
		if target := sets[strings.Join(active, "")]; target != "" {
			return target
		}
		return rest(p, active)
	}
}

// small is a cluster with one partition and one key; each letter of names is a
// node.
func small(names string, target func(int, []string) string, requests int, plan ...step) rules {
	return rules{
		names: strings.Split(names, ""), partitions: 1, keys: testKeys[:1], requests: requests,
		target: target, plan: append([]step{{join, 0, 0}}, plan...), quiet: true,
	}
}

// with changes the rules of a scenario.
func (r rules) with(change func(*rules)) rules {
	change(&r)
	return r
}

func strictly(r *rules) { r.strict, r.anyDeath = true, true }

// helpedBy lets turns be lent to one node alone.
func helpedBy(name string) func(*rules) { return func(r *rules) { r.helper = name } }

var scenarios = []scenario{
	// a owns, b comes and should.
	{name: "join", before: 1, breaks: 2,
		rules: small("ab", among("ba"), 2, step{join, 1, 0})},
	// The partition goes to b and back. While b waits for what a still runs, it
	// must not move, or each would wait for the other.
	{name: "join and leave", before: 1, breaks: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}, step{leave, 1, 0})},
	// a has given to b and still runs a request, and c should have the partition.
	{name: "two moves", before: 1, breaks: 1,
		rules:  small("abc", among("cba"), 2, step{join, 1, 0}, step{join, 2, 0}),
		script: func(w *world) { w.do(action{admit, 0, 0}); w.next(); w.run("done") }},
	// b and c come at once, and a sees only one of them at first.
	{name: "two joins", before: 1, breaks: 1,
		rules: small("abc", among("cba"), 0, step{join, 1, 0}, step{join, 2, 0})},
	// a has given to b and still runs a request, b dies, and a takes over.
	{name: "death of the taker", before: 2,
		rules: small("acb", among("bac"), 2, step{join, 1, 0}, step{join, 2, 0}, step{crash, 2, 0})},
	// The same, but c takes over.
	{name: "death of the taker, a third", before: 1, breaks: 1,
		rules:  small("abc", among("bca"), 2, step{join, 1, 0}, step{join, 2, 0}, step{crash, 1, 0}),
		script: func(w *world) { w.do(action{admit, 0, 0}); w.next(); w.run("done") }},
	// And then a dies as well, maybe before d has answered.
	{name: "death of the taker and the giver", before: 2,
		rules:  small("adbc", among("bcad"), 1, step{join, 1, 0}, step{join, 2, 0}, step{join, 3, 0}, step{crash, 2, 0}, step{crash, 0, 0}),
		script: func(w *world) { w.do(action{admit, 0, 0}); w.next(); w.run("done"); w.next(); w.run("done") }},
	{name: "death of the owner", before: 3, breaks: 2,
		rules: small("abc", among("cba"), 0, step{join, 1, 0}, step{join, 2, 0}, step{crash, 2, 0})},
	// The owner dies, and b and c each think they should have the partition.
	{name: "two claims", before: 4,
		rules: small("abdc", byMembers("abc", map[string]string{"bcd": "b", "bc": "c"}), 0,
			step{join, 1, 0}, step{join, 2, 0}, step{join, 3, 0}, step{leave, 2, 0}, step{crash, 0, 0}).with(func(r *rules) { r.stay = true })},
	// b comes by a, which owns, and c by d; a sees both and gives to c, b and d do
	// not see c yet.
	{name: "two doors", before: 2,
		rules: small("adbc", byMembers("cba", map[string]string{"ad": "a"}), 0, step{join, 1, 0}, step{join, 2, 0}, step{join, 3, 1}),
		script: func(w *world) {
			w.next()
			w.next()
			w.runUnseen(2, 3, "ba", "ca")
		}},
	// b leaves, and gives to c; d, who does not see c yet, hears of c from b alone,
	// and then b is gone.
	{name: "departure of the giver", before: 2,
		rules:  small("abcd", among("bcda"), 0, step{join, 1, 0}, step{join, 2, 0}, step{join, 3, 1}, step{crash, 0, 0}, step{leave, 1, 0}),
		script: func(w *world) { w.next(); w.next(); w.runUnseen(2, 3) }},
	// b has stood back for c, which dies, and then a dies.
	{name: "death of the claimant", before: 2,
		rules:  small("abc", byMembers("cab", nil), 0, step{join, 1, 0}, step{join, 2, 0}, step{crash, 2, 0}, step{crash, 0, 0}),
		script: func(w *world) { w.next(); w.run("ca") }},
	// a has died, b claims, d has not answered yet, and c comes.
	{name: "newcomer", before: 3,
		rules:  small("abdc", among("abdc"), 0, step{join, 1, 0}, step{join, 2, 0}, step{crash, 0, 0}, step{join, 3, 2}).with(func(r *rules) { r.upFirst = true }),
		script: func(w *world) { w.next(); w.run("bd") }},
	// a gives to b, b comes to see that c should have the partition and stands
	// back for it, a dies, and only then b reads what a gave.
	{name: "death of the giver", before: 1,
		rules: small("abc", among("cba"), 0, step{join, 1, 0}, step{join, 2, 1}, step{crash, 0, 0})},
	// a gives to b with a key that it still runs, and dies. b sees that first and
	// reads then.
	{name: "gift of a dead node", before: 1,
		rules: small("ab", among("ba"), 1, step{join, 1, 0}, step{crash, 0, 0})},
	// b has stood back for c. Then b and a, but not c, come to see that d leaves,
	// and that b should have the partition; a gives it to b, and dies.
	{name: "standing back", before: 3,
		rules: small("abdc", byMembers("cab", map[string]string{"abd": "a", "abcd": "c", "bcd": "c", "abc": "b", "bc": "b"}), 0,
			step{join, 1, 0}, step{join, 2, 0}, step{join, 3, 0}, step{leave, 2, 0}, step{crash, 0, 0}).with(func(r *rules) { r.stay = true }),
		script: func(w *world) { w.next(); w.run("ca") }},
	// c has just come, and only a knows. a gives to c and dies, and c's first
	// messages to b are lost.
	{name: "stranger", before: 2, breaks: 2,
		rules: small("abc", byMembers("cab", nil), 0, step{join, 1, 0}, step{join, 2, 0}, step{crash, 0, 0}).with(func(r *rules) { r.loose = true })},
	// The last ticket of a key is gone, and a hears so late: it has given the
	// partition, got it back, and given it again.
	{name: "late word of an empty lane", before: 1,
		rules: small("abc", among("cba"), 3, step{join, 1, 0}, step{crash, 1, 0}, step{join, 2, 0}).with(func(r *rules) { r.lateEmpty = true })},
	// Each takes the other for dead for a while.
	{name: "false death", before: 2, doubts: 2,
		rules: small("ab", among("ba"), 1, step{join, 1, 0}).with(func(r *rules) { r.anyDeath = true })},
	{name: "false death, connections stay", before: 2, doubts: 2,
		rules: small("ab", among("ba"), 1, step{join, 1, 0}).with(func(r *rules) { r.anyDeath, r.linksStay = true, true })},
	// And b may have stood still, and ask what became of it.
	{name: "stood still", before: 2, doubts: 1, freezes: 1, breaks: 1,
		rules: small("ab", among("ba"), 1, step{join, 1, 0}).with(func(r *rules) { r.anyDeath = true })},
	{name: "false death of three", before: 3, doubts: 1, breaks: 1,
		rules: small("abc", among("cba"), 0, step{join, 1, 0}, step{join, 2, 0}).with(func(r *rules) { r.anyDeath, r.linksStay = true, true })},
	// From here on there is a coordinator.
	{name: "strict join", before: 1, losses: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}).with(strictly)},
	{name: "strict join and leave", before: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}, step{leave, 1, 0}).with(strictly)},
	// a has given to b, runs a request and has another that waits, and its lease ends.
	{name: "the lease of the giver ends", before: 1, lapses: 1,
		rules:  small("ab", among("ba"), 3, step{join, 1, 0}).with(strictly),
		script: func(w *world) { w.do(action{admit, 0, 0}); w.do(action{admit, 0, 0}); w.next(); w.run("done") }},
	// The owner's lease ends, and it gets another one, or it is not heard of any more.
	{name: "the lease of the owner ends", before: 2, lapses: 2, doubts: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}).with(strictly)},
	{name: "strict death of the owner", before: 2, losses: 1,
		rules: small("acb", among("bca"), 2, step{join, 1, 0}, step{join, 2, 0}, step{crash, 2, 0}).with(strictly)},
	// Each takes the other for dead for a while.
	{name: "strict false death", before: 2, doubts: 2,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}).with(strictly)},
	{name: "strict false death of three", before: 3, doubts: 1, lapses: 1,
		rules: small("abc", among("cba"), 1, step{join, 1, 0}, step{join, 2, 0}).with(strictly)},
	// a gives to b, and takes it for dead before b has the title.
	{name: "false death of the taker", before: 1, doubts: 1, losses: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}).with(strictly)},
	// The same, with nothing lost: then what a still runs ends, and the store hears of it.
	{name: "the taker is back", before: 1, doubts: 1,
		rules:  small("ab", among("ba"), 1, step{join, 1, 0}).with(strictly),
		script: func(w *world) { w.do(action{admit, 0, 0}); w.next() }},
	// a has given to b, which dies, maybe before it has the title.
	{name: "strict death of the taker", before: 1, losses: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}, step{crash, 1, 0}).with(strictly)},
	// a still runs what it had when it gave to b, b dies, and c does not see a.
	{name: "unseen by the heir", before: 1, doubts: 1,
		rules:  small("abc", among("bca"), 2, step{join, 1, 0}, step{join, 2, 0}, step{crash, 1, 0}).with(strictly),
		script: func(w *world) { w.do(action{admit, 0, 0}); w.next(); w.run("done"); w.next(); w.run("done") }},
	// What a wrote while its lease was valid lands at any time after.
	{name: "a frozen writer", before: 2, lapses: 1, pauses: 1, doubts: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}).with(strictly)},
	{name: "the store is away", before: 2, lapses: 2, aways: 2,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}).with(strictly)},
	{name: "the store is away, and a member dies", before: 2, lapses: 1, aways: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}, step{crash, 1, 0}).with(strictly)},
	// From here on the owner may lend the turn of a key.
	// a owns and dies while b may run what it was lent the turn of; c takes over.
	{name: "death of the lender", before: 3, lends: 1,
		rules: small("cba", among("acb"), 2, step{join, 1, 0}, step{join, 2, 0}, step{crash, 2, 0}).with(helpedBy("b"))},
	// The same, but b itself takes over.
	{name: "death of the lender, the helper takes over", before: 2, lends: 2, breaks: 1,
		rules: small("ba", among("ab"), 3, step{join, 1, 0}, step{crash, 1, 0})},
	// a gives to b with a turn lent to it, or c takes it with a turn lent to b.
	{name: "join with a turn lent", before: 1, lends: 2, breaks: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0})},
	{name: "a turn lent to a third", before: 2, lends: 1,
		rules: small("abc", among("cab"), 2, step{join, 1, 0}, step{join, 2, 0}).with(helpedBy("b"))},
	{name: "join and leave with a turn lent", before: 1, lends: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}, step{leave, 1, 0})},
	// a has given to c, may still lend to b what drains, and dies.
	{name: "death of the lender and giver", before: 2, lends: 1,
		rules: small("abc", among("cab"), 2, step{join, 1, 0}, step{join, 2, 0}, step{crash, 0, 0}).with(helpedBy("b"))},
	// The same, but b does not see c, which has given up waiting for a sign of b.
	{name: "the new owner is out of sight", before: 2, lends: 1,
		rules: small("abc", among("cab"), 2, step{join, 1, 0}, step{join, 2, 0}, step{crash, 0, 0}).with(helpedBy("b")),
		script: func(w *world) {
			w.do(action{admit, 0, 0})
			w.next()
			w.runUnseen(1, 2, "done")
			for w.retries = patience + 1; w.retries > 0; {
				w.do(action{retry, 2, 0})
			}
			w.runUnseen(1, 2, "done")
		}},
	// The same, but b hears nothing of c at first.
	{name: "the word of the new owner is lost", before: 2, lends: 1, breaks: 1,
		rules:  small("abc", among("cab"), 2, step{join, 1, 0}, step{join, 2, 0}, step{crash, 0, 0}).with(helpedBy("b")).with(func(r *rules) { r.quiet = false }),
		script: func(w *world) { w.do(action{admit, 0, 0}); w.next(); w.run("done", "cb") }},
	// b dies with a turn of a, which goes on when its time is over.
	{name: "death of the helper", before: 2, lends: 2, breaks: 1,
		rules: small("ab", among("ab"), 3, step{join, 1, 0}, step{crash, 1, 0})},
	// b goes, and may have been lent a turn.
	{name: "departure of the helper", before: 2, lends: 1, breaks: 1,
		rules: small("ab", among("ab"), 2, step{join, 1, 0}, step{leave, 1, 0})},
	{name: "false death with a turn lent", before: 2, lends: 1, doubts: 2,
		rules: small("ab", among("ba"), 1, step{join, 1, 0}).with(func(r *rules) { r.anyDeath = true })},
	{name: "the lease of the lender ends", before: 2, lends: 1, lapses: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}).with(strictly)},
	{name: "strict join with a turn lent", before: 1, lends: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}).with(strictly)},
	{name: "strict, a turn lent to a third", before: 2, lends: 1,
		rules: small("abc", among("cab"), 2, step{join, 1, 0}, step{join, 2, 0}).with(strictly).with(helpedBy("b"))},
	{name: "a frozen helper", before: 2, lends: 1, lapses: 1, pauses: 1,
		rules: small("ab", among("ba"), 2, step{join, 1, 0}).with(strictly)},
	{name: "strict death of the lender", before: 3, lends: 1,
		rules: small("cba", among("acb"), 2, step{join, 1, 0}, step{join, 2, 0}, step{crash, 2, 0}).with(strictly).with(helpedBy("b"))},
	// The rest are mixtures, for the nights.
	{name: "turns lent to anybody, and a move", before: 2, lends: 2, breaks: 1, deep: true,
		rules: small("abc", among("cba"), 3, step{join, 1, 0}, step{join, 2, 0}, step{crash, 0, 0})},
	{name: "strict turns lent to anybody, false death", before: 2, lends: 2, doubts: 1, lapses: 1, pauses: 1, deep: true,
		rules: small("abc", among("cba"), 2, step{join, 1, 0}, step{join, 2, 0}).with(strictly)},
	{name: "everybody comes and goes", before: 1, breaks: 1, deep: true,
		rules: small("abc", among("cba"), 2, step{join, 1, 0}, step{join, 2, 0}, step{leave, 1, 0})},
	{name: "comes, goes and dies", before: 2, breaks: 1, deep: true,
		rules: small("abc", among("cba"), 2, step{join, 1, 0}, step{join, 2, 1}, step{leave, 0, 0}, step{crash, 1, 0})},
	{name: "dies and comes back", before: 2, breaks: 1, deep: true,
		rules: small("abb", among("ba"), 2, step{join, 1, 0}, step{crash, 1, 0}, step{join, 2, 0}).with(func(r *rules) { r.lateEmpty = true })},
	{name: "four, and two of them die", before: 3, deep: true,
		rules: small("abcd", among("dcba"), 1, step{join, 1, 0}, step{join, 2, 0}, step{join, 3, 2}, step{crash, 2, 0}, step{crash, 0, 0})},
	{name: "two keys, two moves, breaks", before: 1, breaks: 2, deep: true,
		rules: small("abc", among("cba"), 2, step{join, 1, 0}, step{join, 2, 0}).with(func(r *rules) { r.keys = testKeys[:2] })},
	{name: "false deaths of three, with breaks and a standstill", before: 3, doubts: 2, breaks: 1, freezes: 1, deep: true,
		rules: small("abc", among("cba"), 1, step{join, 1, 0}, step{join, 2, 0}).with(func(r *rules) { r.anyDeath = true })},
}

// TestCallersRules: what whoever runs requests has to keep to for the table's rules to
// be enough. Without it something is found.
//
// A call that its lease's end cut off holds its lane: the service may be at work for as
// long as the lease goes on in the store, and the lease may be renewed.
func TestCallersRules(t *testing.T) {
	s := scenario{name: "a call that is given up frees its lane", before: 1, lapses: 1,
		rules: small("a", among("a"), 2).with(func(r *rules) { strictly(r); r.releases = true })}
	if err := s.explore(t); !strings.Contains(err, "runs request 2 of x beside request 1") {
		t.Errorf("got %q", err)
	}
	s.rules.releases = false
	if err := s.explore(t); err != "" {
		t.Error(err)
	}
}

// TestScenarios explores each of them.
func TestScenarios(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			if s.deep && *mostStates == 0 {
				t.Skip("only with -states")
			}
			if err := s.explore(t); err != "" {
				t.Fatal(err)
			}
		})
	}
}
