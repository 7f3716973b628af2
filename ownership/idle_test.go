package ownership

import (
	"testing"

	"lanekeeper/ring"
)

// TestWhoWillClaimIsNotIdle: a node that should own a partition, and must first be
// released by somebody it has stood back for, has not claimed it yet and will. If
// it took that for having nothing to give away it would close its lanes, become
// the owner, and refuse every request.
//
// Mutant: "only what is claimed already counts".
func TestWhoWillClaimIsNotIdle(t *testing.T) {
	a, b := ring.Member{Name: "a", Incarnation: 1}, ring.Member{Name: "b", Incarnation: 2}
	both := []ring.Member{a, b}
	table := NewTable(a, 1, newTestLanes(1), nil)
	table.View(View{Live: both, Targets: []ring.Member{b}, Enough: true})
	table.Receive(b, Message{Sees: both, Entries: []Entry{Claim{Partition: 0, Number: 1}}})
	if !table.Counts().Idle() {
		t.Errorf("it is not idle, and has nothing: %+v", table.Counts())
	}
	table.View(View{Live: both, Targets: []ring.Member{a}, Enough: true})
	if role := table.State(0).Role; role != Foreign {
		t.Fatalf("it is %s already", role)
	}
	if table.Counts().Idle() {
		t.Error("it is idle, and about to claim a partition")
	}
	table.View(View{Live: both, Targets: []ring.Member{b}, Enough: true})
	if !table.Counts().Idle() {
		t.Errorf("it is not idle, and no longer wanted: %+v", table.Counts())
	}
}
