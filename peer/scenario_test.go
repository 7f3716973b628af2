package peer

import (
	"flag"
	"testing"
	"time"
)

var statesFlag = flag.Int("peer.states", 1000, "states to explore of each scenario of the model, 0 = all")

// Requests by partition, in order of entering.
var (
	one     = []int{0}
	two     = []int{0, 0}
	three   = []int{0, 0, 0}
	twoKeys = []int{0, 1, 0}
)

// aToB moves partition 0 from A to B. C hears of it at any time after that.
var aToB = []move{
	{op: give, node: nodeA, to: nodeB, epoch: 2}, {op: take, node: nodeB, epoch: 2}, {op: learn, node: nodeB, epoch: 2},
}

// aToBToA moves it back, too, and C sees both by its ring alone.
var aToBToA = []move{
	{op: give, node: nodeA, to: nodeB, epoch: 2}, {op: take, node: nodeB, epoch: 2}, {op: view, node: nodeB},
	{op: give, node: nodeB, to: nodeA, epoch: 3}, {op: take, node: nodeA, epoch: 3}, {op: view, node: nodeA},
}

// aToCToA is the way over the ingress itself.
var aToCToA = []move{
	{op: give, node: nodeA, to: nodeC, epoch: 2}, {op: take, node: nodeC, epoch: 2},
	{op: give, node: nodeC, to: nodeA, epoch: 3}, {op: take, node: nodeA, epoch: 3},
}

var bTakes = []move{{op: take, node: nodeB, epoch: 2}}

var scenarios = []*scenario{
	// Nothing breaks.
	{name: "Quiet", requests: three, allowed: allow(stepCancel, 1)},

	// Connections break, at either end first, with anything on its way.
	{name: "CutOne", requests: one, allowed: allow(stepCutHere, 1, stepCutThere, 1, stepCancel, 1)},
	{name: "Cut", requests: two, allowed: allow(stepCutHere, 1, stepCutThere, 1, stepCancel, 1)},
	{name: "CutTwice", requests: two, allowed: allow(stepCutHere, 2)},
	{name: "CutThree", requests: three, allowed: allow(stepCutHere, 1)},
	{name: "Fresh", requests: one, fresh: true, allowed: allow(stepCutHere, 1)},

	// The owner is not the owner yet, so that MOVED and the first ticket race.
	{name: "Claiming", requests: two, owner: nodeB, claiming: true, moves: bTakes},
	{name: "ClaimingCut", requests: two, owner: nodeB, claiming: true, moves: bTakes, allowed: allow(stepCutHere, 1)},
	{name: "ClaimingCutThere", requests: two, owner: nodeB, claiming: true, moves: bTakes, allowed: allow(stepCutThere, 1)},

	// The partition moves. Where C is not told, it hears of it by MOVED alone.
	{name: "MoveOne", requests: one, moves: aToB},
	{name: "Move", requests: two, moves: aToB},
	{name: "MoveEarly", requests: two, moves: aToB[:2], allowed: allow(stepEarly, 1)},
	{name: "MoveThree", requests: three, moves: aToB[:2]},
	{name: "MoveCut", requests: two, moves: aToB[:2], allowed: allow(stepCutHere, 1)},
	{name: "MoveCutThere", requests: two, moves: aToB[:2], allowed: allow(stepCutThere, 1)},
	{name: "MoveCancel", requests: two, moves: aToB[:2], allowed: allow(stepCancel, 1)},
	{name: "MoveHere", requests: two, moves: aToCToA[:2]},
	{name: "MoveFromHere", requests: two, owner: nodeC, moves: []move{{op: give, node: nodeC, to: nodeA, epoch: 2}, {op: take, node: nodeA, epoch: 2}}},
	{name: "HereAndBack", requests: two, moves: aToCToA},
	{name: "HereAndBackCut", requests: two, moves: aToCToA, allowed: allow(stepCutHere, 1)},
	{name: "Back", requests: one, vague: true, moves: aToBToA},
	{name: "BackTwo", requests: two, vague: true, moves: aToBToA},
	{name: "LateView", requests: one, vague: true, moves: []move{aToBToA[0], aToBToA[1], aToBToA[3], aToBToA[4], {op: view, node: nodeB}, {op: view, node: nodeA}}},

	// Somebody is taken for dead who is not: the owner by C, C by the owner, both.
	{name: "Gone", requests: two, allowed: allow(stepGone, 1)},
	{name: "GoneCut", requests: two, allowed: allow(stepGone, 1, stepCutHere, 1)},
	{name: "Dropped", requests: two, allowed: allow(stepDrop, 1, stepCutHere, 1)},
	{name: "GoneDropped", requests: two, allowed: allow(stepGone, 1, stepDrop, 1)},
	{name: "Orphaned", requests: two, allowed: allow(stepOrphan, 1, stepCutHere, 1)},

	// Somebody is.
	{name: "Restart", requests: two, moves: []move{{op: restart, node: nodeA}, {op: take, node: nodeA, epoch: 2}, {op: learn, node: nodeA, epoch: 2}}},
	{name: "RestartMoves", requests: two, moves: []move{{op: restart, node: nodeA}, {op: take, node: nodeB, epoch: 2}, {op: learn, node: nodeB, epoch: 2}}},
	{name: "RestartC", requests: three, moves: []move{{op: restart, node: nodeC}}},

	// Two partitions share the connection, and one of them moves.
	{name: "TwoPartitions", requests: twoKeys, moves: aToB[:2]},
	{name: "TwoPartitionsCut", requests: twoKeys, moves: aToB[:2], allowed: allow(stepCutHere, 1)},
}

// allow says how often each kind of fault may happen.
func allow(pairs ...any) (a [steps]int) {
	for i := 0; i < len(pairs); i += 2 {
		a[pairs[i].(stepKind)] = pairs[i+1].(int)
	}
	return a
}

// TestModel explores what can happen in small worlds: every order in which frames
// are written and read, connections break, partitions move and nodes are taken for
// dead. In every state a request has taken one ticket at most, in the order of
// entering; what was answered as not executed does not run, and what is answered
// as unknown has been sent to somebody who was lost; and from every state
// everything comes to an end. -v tells how many states there were.
//
// The rules that keep this are each taken away by a mutant; see mutants.
func TestModel(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			e := explorer{scenario: s, most: *statesFlag}
			began := time.Now()
			wrong, steps := e.run()
			t.Logf("%s: %d states, %d steps between them, the farthest %d away, all=%v, %s", s.name, len(e.states), e.edges, e.longest, e.complete, time.Since(began).Round(time.Millisecond))
			if wrong != "" {
				t.Fatalf("%s:\n%s", wrong, story(s, steps))
			}
		})
	}
}
