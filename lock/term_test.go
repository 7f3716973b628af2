package lock

import (
	"testing"
	"time"
)

// TestTerm sets the clocks as real ones are set.
//
// Mutants: elapsed is the monotonic clock's alone; the wall clock's alone; the
// lower of both; Extend counts from when the answer came; Extend shortens; Extend
// extends what was ended.
func TestTerm(t *testing.T) {
	var now instant
	term := &Term{clock: func() instant { return now }}
	pass := func(monotonic, wall time.Duration) { now.monotonic += monotonic; now.wall += wall }
	want := func(what string, want time.Duration) {
		t.Helper()
		if got := term.Left(); got != want {
			t.Errorf("%s: %v left, want %v", what, got, want)
		}
	}
	want("before any grant", 0)
	sent := term.Now()
	pass(2*time.Second, 2*time.Second)
	term.Extend(sent, 10*time.Second)
	want("counted from the sending", 8*time.Second)
	pass(time.Second, -time.Hour)
	want("the wall clock is set back", 7*time.Second)
	pass(time.Second, time.Hour+2*time.Second)
	want("and right again", 6*time.Second)
	pass(0, 3*time.Second)
	want("the machine slept", 3*time.Second)

	late := term.Now()
	pass(time.Second, time.Second)
	sent = term.Now()
	term.Extend(sent, 10*time.Second)
	term.Extend(late, 10*time.Second)
	want("an older renewal comes last", 10*time.Second)
	pass(0, 24*time.Hour)
	if term.Left() > 0 {
		t.Error("the wall clock was set forward by a day, and the lease is valid")
	}
	term.Extend(term.Now(), time.Second)
	want("renewed since", time.Second)
	term.End()
	term.Extend(term.Now(), time.Hour)
	want("ended, and renewed after that", 0)
}

// BenchmarkTerm is what a look at a lease costs.
func BenchmarkTerm(b *testing.B) {
	var term Term
	term.Extend(term.Now(), time.Hour)
	for b.Loop() {
		if term.Left() <= 0 {
			b.Fatal("it has ended")
		}
	}
}
