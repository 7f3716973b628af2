package loadtest

import (
	"math/rand/v2"
	"testing"
	"time"
)

var excusable = []Kind{Overlap, TicketInversion, ConnectionInversion, RealtimeInversion}

// TestExcuse: a finding is excused when all that it rests on is, whichever pair is the
// worst; nothing is found or lost by asking.
//
// Mutants: only the worst pair is asked of; a pair of shared ones is asked of; late and
// early are confused.
func TestExcuse(t *testing.T) {
	of := func(seq int64) func(Kind, *Execution, *Execution) bool {
		return func(_ Kind, late, early *Execution) bool { return early.Seq == seq && late.Seq == 3 }
	}
	for _, c := range []struct {
		name           string
		kind           Kind
		evidence       Evidence
		excuse         func(Kind, *Execution, *Execution) bool
		count, excused int
	}{
		{"the only pair", Overlap, Evidence{Executions: []Execution{ran(1, 10, 40), ran(3, 30, 50)}}, of(1), 0, 1},
		{"the longest of two", Overlap, Evidence{Executions: []Execution{ran(1, 10, 90), ran(2, 20, 40, method("GET")), ran(3, 30, 50)}}, of(1), 2, 0},
		{"of shared ones none is asked", Overlap, Evidence{Executions: []Execution{ran(1, 10, 90), ran(2, 95, 140, method("GET")), ran(4, 20, 100, method("GET")), ran(3, 80, 150, method("GET"))}}, of(1), 1, 1},
		{"the highest ticket of two", TicketInversion, Evidence{Executions: []Execution{ran(1, 10, 11, ticket(p1t3)), ran(2, 20, 21, ticket(p1t2)), ran(3, 30, 31, ticket(p1t1))}}, of(1), 2, 0},
		{"all tickets", TicketInversion, Evidence{Executions: []Execution{ran(1, 10, 11, ticket(p1t2)), ran(3, 30, 31, ticket(p1t1))}}, of(1), 0, 1},
		{"on one connection", ConnectionInversion, Evidence{
			Executions: []Execution{ran(1, 10, 11), ran(3, 30, 31)}, Sent: []Sent{asked(1, 5, 40), asked(3, 4, 40)},
		}, of(1), 0, 1},
		{"in time", RealtimeInversion, Evidence{
			Executions: []Execution{ran(1, 10, 11), ran(3, 30, 31)}, Sent: []Sent{asked(1, 9, 40), asked(3, 4, 8, on(2))},
		}, of(1), 0, 1},
	} {
		report := Check(c.evidence, Rules{Excuse: c.excuse})
		if got, excused := report.Count(c.kind), report.Excused(c.kind); got != c.count || excused != c.excused {
			t.Errorf("%s: %d and %d excused, want %d and %d\n%s", c.name, got, excused, c.count, c.excused, report)
		}
	}
	for seed := range uint64(2000) {
		evidence := randomEvidence(rand.New(rand.NewPCG(seed, 2)))
		plain := Check(evidence, Rules{})
		for _, answer := range []bool{true, false} {
			report := Check(evidence, Rules{Excuse: func(_ Kind, late, early *Execution) bool {
				if late.Start < early.Start {
					t.Errorf("seed %d: the late one began first", seed)
				}
				return answer
			}})
			for _, kind := range excusable {
				if n := report.Count(kind) + report.Excused(kind); n != plain.Count(kind) || answer && report.Count(kind) > 0 || !answer && report.Excused(kind) > 0 {
					t.Fatalf("seed %d, %s: %d and %d excused of %d", seed, kind, report.Count(kind), report.Excused(kind), plain.Count(kind))
				}
			}
		}
	}
}

// TestObedientWitness: it ends what it does by the deadline that comes with it.
//
// Mutant: the deadline adds to the delay.
func TestObedientWitness(t *testing.T) {
	w, err := NewWitness(WitnessConfig{Obedient: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := func(d time.Duration) []byte {
		return []byte(time.Now().Add(d).UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	for _, c := range []struct {
		deadline []byte
		most     time.Duration
	}{{nil, time.Minute}, {[]byte("soon"), time.Minute}, {in(time.Hour), time.Minute}, {in(time.Second), time.Second}, {in(-time.Second), 0}} {
		if got := w.inTime(time.Minute, c.deadline); got > c.most || got < c.most-10*time.Second {
			t.Errorf("deadline %s: takes %s, want %s", c.deadline, got, c.most)
		}
	}
}
