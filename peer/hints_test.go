package peer

import (
	"testing"

	"lanekeeper/ring"
)

// TestHints has C follow a MOVED's hint when rule 6 says so. C asked A.
func TestHints(t *testing.T) {
	a, b, c := ring.Member{Name: "a", Incarnation: 1}, ring.Member{Name: "b", Incarnation: 1}, ring.Member{Name: "c", Incarnation: 1}
	stranger := ring.Member{Name: "d", Incarnation: 1}
	for _, test := range []struct {
		name  string
		table route // C's own, when MOVED comes
		epoch uint64
		hint  moved
		want  ring.Member
		held  bool // until retry
	}{
		{"newer", route{a, 2}, 2, moved{owner: b, epoch: 3}, b, false},
		{"of the same age", route{a, 2}, 2, moved{owner: b, epoch: 2}, b, false},
		{"older", route{a, 2}, 2, moved{owner: b, epoch: 1}, a, true},
		{"any, against the ring", route{a, 0}, 0, moved{owner: b, epoch: 1}, b, false},
		{"the ring's, against the ring", route{a, 0}, 0, moved{owner: b}, b, false},
		{"the one that was asked", route{a, 2}, 2, moved{owner: a, epoch: 9}, a, true},
		{"nobody", route{a, 2}, 2, moved{}, a, true},
		{"nobody, and C knows better", route{b, 3}, 2, moved{}, b, false},
		{"nobody, and the ring says b", route{b, 0}, 2, moved{}, b, false},
		{"one that is not there", route{a, 2}, 2, moved{owner: stranger, epoch: 3}, a, true},
		{"C, which does not think so", route{a, 2}, 2, moved{owner: c, epoch: 3}, a, true},
	} {
		w := newWorld(&scenario{requests: []int{0}})
		w.ingress.table[0] = route{a, test.epoch}
		w.enter()
		w.writeUp(w.conns[0])
		w.ingress.table[0] = test.table
		test.hint.seq = w.requests[0].call.seq
		w.outbox().moved(w.outbox().links[a], &test.hint)
		f := w.outbox().flows[0]
		if f.route != test.want || f.paused != test.held {
			t.Errorf("%s: C goes to %v, paused=%v; want %v, %v", test.name, f.route, f.paused, test.want, test.held)
		}
		if want := test.table.epoch; f.route == b && test.hint.owner != b && f.epoch != want {
			t.Errorf("%s: the route's epoch is %d; want %d", test.name, f.epoch, want)
		}
	}
}
