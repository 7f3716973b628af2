package queue

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// The part of TestRandomHistories' spec that is about halted lanes.

var errHalted = errors.New("a HaltedError")

// halt has a ticket halt its lane in its turn, and knows who is to be refused by that.
func (s *spec) halt(key string, ticket *Ticket) {
	if !ticket.Halt("the test says so") {
		s.t.Errorf("%s: %s runs in a lane that is halted already", key, ticket.ID)
	}
	s.halted[key] = ticket.ID
	for _, a := range s.waiting[key] {
		if a.refuses && !a.evicted {
			a.evicted, a.cause = true, errHalted
		}
	}
}

func (s *spec) refused(key string, r *Request, err error) {
	var refused *HaltedError
	if by, halted := s.halted[key]; errors.As(err, &refused) && !(halted && r.RefuseHalted && refused.Ticket == by) {
		s.t.Errorf("%s: %v, and it is halted by %s", key, err, by)
	}
}

// operate lets halted lanes go on, in each of the ways there are.
func (s *spec) operate(rng *rand.Rand, until <-chan struct{}) {
	for {
		select {
		case <-until:
			return
		case <-time.After(time.Duration(1+rng.IntN(15)) * time.Millisecond):
		}
		s.mu.Lock()
		for _, key := range slices.Sorted(maps.Keys(s.halted)) {
			if rng.IntN(3) > 0 {
				s.lift(rng, key)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(s.paused)) {
			if rng.IntN(2) == 0 {
				s.unpause(key)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(s.waiting)) {
			switch rng.IntN(4) {
			case 0:
				s.pause(key)
			case 1:
				s.cancel(rng, key)
			}
		}
		s.mu.Unlock()
	}
}

func (s *spec) lift(rng *rand.Rand, key string) {
	by := s.halted[key]
	other := by
	other[0]++
	if _, err := s.lanes.Resume(0, []byte(key), other); !errors.Is(err, ErrOtherHalt) {
		s.t.Errorf("%s: resumed by another ticket: %v", key, err)
	}
	delete(s.halted, key)
	var waiting []*asked
	for _, a := range s.waiting[key] {
		if !a.evicted && a.superseded == nil {
			waiting = append(waiting, a)
		}
	}
	var h Halt
	var n int
	var err error
	switch rng.IntN(3) {
	case 0:
		waiting = nil
		h, err = s.lanes.Resume(0, []byte(key), by)
	case 1:
		waiting = waiting[:min(1, len(waiting))]
		h, n, err = s.lanes.Skip(0, []byte(key), ID{})
	default:
		h, n, err = s.lanes.Fail(0, []byte(key), by)
	}
	for _, a := range waiting {
		a.evicted, a.cause = true, ErrCancelled
	}
	if err != nil || h.Ticket != by || n != len(waiting) {
		s.t.Errorf("%s: %v by %s, %d evicted; want by %s, %d", key, err, h.Ticket, n, by, len(waiting))
	}
	if _, err := s.lanes.Resume(0, []byte(key), ID{}); !errors.Is(err, ErrNotHalted) {
		s.t.Errorf("%s: resumed twice: %v", key, err)
	}
}

// partitioned are lanes with a few partitions, all open, whose emptied keys are told.
func partitioned(told *[]string) *Lanes {
	l := New(Config{MaxQueued: 99, MaxQueuedBytes: 999, MaxLanes: 1, Tags: 3, Partitions: 2 * shardCount,
		Emptied: func(p int, key []byte) { *told = append(*told, fmt.Sprint(p, string(key))) }})
	for p := range 2 * shardCount {
		l.Open(p)
	}
	return l
}

func (l *Lanes) mustAdmit(t *testing.T, partition int, key string) *Ticket {
	t.Helper()
	ticket := new(Ticket)
	if err := l.Admit(ticket, &Request{Key: []byte(key), Partition: partition, Tag: 2, MaxDepth: 9, MaxBytes: 99}); err != nil {
		t.Fatal(err)
	}
	return ticket
}

// A node at its limit of lanes can halt one, which counts from then on; and a halt is seen.
//
// Mutant: "a halted lane closes".
func TestAHaltedLaneCounts(t *testing.T) {
	var told []string
	l := partitioned(&told)
	a := l.mustAdmit(t, 7, "k")
	if !a.Halt("503") || a.Halt("again") {
		t.Error("Halt: want true once")
	}
	if a.Done() {
		t.Error("somebody had a turn")
	}
	if err := l.Admit(new(Ticket), &Request{Key: []byte("other"), Partition: 7}); !errors.Is(err, ErrOverloaded) {
		t.Errorf("a second lane: %v", err)
	}
	s, ok := l.Lane(7, []byte("k"))
	if stopped := l.Stopped(); !ok || s.Halt == nil || s.Halt.Ticket != a.ID || s.Halt.Cause != "503" || s.Halt.Tag != 2 || len(stopped) != 1 || stopped[0].Key != "k" || len(stopped[0].Tickets) != 0 {
		t.Errorf("Lane %+v %+v, Stopped %+v", s, s.Halt, stopped)
	}
	if totals := l.Totals(); totals[2].Halted != 1 || totals[2].Lanes != 0 {
		t.Errorf("%+v", totals)
	}
	if h, ok := l.Halted(7, []byte("k")); !ok || h.Ticket != a.ID {
		t.Errorf("Halted: %+v %v", h, ok)
	}
	if len(l.Deepest(9)) != 0 || l.Busy(7, []byte("k")) {
		t.Error("a lane that is only halted is at work")
	}
	if _, err := l.Resume(7, []byte("k"), a.ID); err != nil {
		t.Error(err)
	}
	if n := l.lanes.Load(); n != 0 || len(told) != 0 {
		t.Errorf("%d lanes left, told %q", n, told)
	}
}

// A turn that is held goes on, and its lane is halted when it ends.
func TestAHaltStandsWhenTheHoldEnds(t *testing.T) {
	var told []string
	l := partitioned(&told)
	a, b := l.mustAdmit(t, 7, "k"), l.mustAdmit(t, 7, "k")
	a.Halt("no answer")
	a.Hold()
	if stopped := l.Stopped(); len(stopped) != 1 || !stopped[0].Head().Held || stopped[0].Halt == nil {
		t.Errorf("%+v", stopped)
	}
	if a.Done() {
		t.Error("the turn was passed on")
	}
	if err := b.Wait(time.Now()); !errors.Is(err, ErrNotYet) {
		t.Errorf("b: %v", err)
	}
	l.Resume(7, []byte("k"), ID{})
	if err := b.Wait(time.Time{}); err != nil {
		t.Error(err)
	}
	b.Hold()
	if stopped := l.Stopped(); len(stopped) != 1 || stopped[0].Halt != nil || !stopped[0].Head().Held {
		t.Errorf("only held: %+v", stopped)
	}
	b.Done()
}

// A halt is let go on during the hold, and the next turn begins when that ends.
func TestAHaltThatEndsBeforeTheHold(t *testing.T) {
	var told []string
	l := partitioned(&told)
	a, b, c := l.mustAdmit(t, 7, "k"), l.mustAdmit(t, 7, "k"), l.mustAdmit(t, 7, "k")
	a.Halt("no answer")
	if _, n, err := l.Skip(7, []byte("k"), a.ID); n != 1 || err != nil {
		t.Errorf("%d evicted, %v", n, err)
	}
	if err := b.Wait(time.Time{}); !errors.Is(err, ErrCancelled) {
		t.Errorf("b: %v", err)
	}
	if err := c.Wait(time.Now()); !errors.Is(err, ErrNotYet) {
		t.Errorf("c runs beside a: %v", err)
	}
	if !a.Done() || c.Wait(time.Time{}) != nil {
		t.Error("c has no turn")
	}
	c.Done()
}

// A halt goes with its partition, and what waits does not: it is evicted in the step in which the
// partition is sealed. What fails after that halts the lane for its new owner.
//
// Mutants: Seal leaves what waits, or evicts from other partitions; Halt in a sealed one leaves it; keys that
// run are exported; what was halted here before stays, or is forgotten for one key's sake, or in an open
// partition; a halt takes another's place, or is ended at the old owner, or shown there; lanes past the limit are not counted.
func TestHaltsMoveWithTheirPartition(t *testing.T) {
	var told []string
	from, to := partitioned(&told), partitioned(&told)
	from.config.MaxLanes, to.config.MaxLanes = 99, 1
	all := func([]byte) bool { return false }
	const p = 7
	a, waits := from.mustAdmit(t, p, "k"), from.mustAdmit(t, p, "k")
	a.Halt("503")
	a.Done()
	runs, behind := from.mustAdmit(t, p, "runs"), from.mustAdmit(t, p, "runs")
	other, otherWaits := from.mustAdmit(t, p+shardCount, "other"), from.mustAdmit(t, p+shardCount, "other")
	other.Halt("503")

	if keys := from.Seal(p); len(keys) != 1 || string(keys[0]) != "runs" {
		t.Errorf("Seal: %q", keys)
	}
	if err := waits.Wait(time.Time{}); !errors.Is(err, ErrHaltMoves) {
		t.Errorf("what waits: %v", err)
	}
	if !otherWaits.Leave() {
		t.Error("another partition's was evicted")
	}
	if len(from.Stopped()) != 1 || from.Totals()[2].Halted != 1 {
		t.Errorf("what is its new owner's to tell: %+v", from.Stopped())
	}
	if _, err := from.Resume(p, []byte("k"), ID{}); !errors.Is(err, ErrNotHalted) {
		t.Errorf("resumed at the old owner: %v", err)
	}
	halts := from.ExportHalts(p, func(key []byte) bool { return string(key) == "runs" })
	if len(halts) != 1 || halts[0].Key != "k" || halts[0].Ticket != a.ID || len(from.ExportHalts(p, all)) != 1 {
		t.Fatalf("ExportHalts: %+v", halts)
	}

	to.Seal(p)
	to.ImportHalts(p, []KeyHalt{{"old", halts[0].Halt}}, true)
	to.ImportHalts(p, halts, true)
	to.ImportHalts(p, []KeyHalt{{"early", Halt{Cause: "of a key that was done before"}}}, false)
	to.Block(p, []byte("runs"))
	to.Open(p)
	to.ImportHalts(p, []KeyHalt{{"k", Halt{Cause: "another"}}}, true)
	if _, still := to.Halted(p, []byte("old")); still {
		t.Error("a halt of an earlier time stands")
	}
	if h, ok := to.Halted(p, []byte("k")); !ok || h != halts[0].Halt {
		t.Errorf("got %+v, want %+v", h, halts[0].Halt)
	}

	runs.Halt("timeout")
	if err := behind.Wait(time.Time{}); !errors.Is(err, ErrHaltMoves) {
		t.Errorf("behind what halted in a sealed partition: %v", err)
	}
	if halts := from.ExportHalts(p, func(key []byte) bool { return string(key) == "runs" }); len(halts) != 1 {
		t.Errorf("without what runs: %+v", halts)
	}
	runs.Done()
	if fmt.Sprint(told) != fmt.Sprint([]string{"7runs"}) {
		t.Errorf("emptied: %q", told)
	}
	late := to.mustAdmit(t, p, "runs") // past its limit of lanes
	to.ImportHalts(p, from.ExportHalts(p, func(key []byte) bool { return string(key) != "runs" }), false)
	to.Unblock(p, []byte("runs"))
	if err := late.Wait(time.Now()); !errors.Is(err, ErrNotYet) {
		t.Errorf("it runs at the new owner: %v", err)
	}
	if h, _ := to.Halted(p, []byte("runs")); h.Ticket != runs.ID {
		t.Errorf("%+v", h)
	}
	if _, n, err := to.Fail(p, []byte("runs"), runs.ID); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	other.Done()
	lanes := 0
	for i := range to.shards {
		lanes += len(to.shards[i].lanes)
	}
	if n := to.lanes.Load(); n != int64(lanes) || lanes != 2 {
		t.Errorf("%d lanes counted, %d there, want k and early", n, lanes)
	}
}

// Whatever else has kept a halted lane, it stays when that ends.
//
// Mutants: it closes when it is unblocked; when it cools.
func TestAHaltedLaneOutlivesItsOtherReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		l := partitioned(&told)
		l.Block(7, []byte("k"))
		l.ImportHalts(7, []KeyHalt{{"k", Halt{Cause: "moved"}}}, false)
		l.Unblock(7, []byte("k"))
		if _, ok := l.Halted(7, []byte("k")); !ok {
			t.Error("unblocked, and not halted any more")
		}
		l.Resume(7, []byte("k"), ID{})

		hot := &HotRule{Depth: 1, For: time.Millisecond, CoolAfter: time.Millisecond}
		var a, b, c Ticket
		for _, ticket := range []*Ticket{&a, &b, &c} {
			if err := l.Admit(ticket, &Request{Key: []byte("k"), Partition: 7, MaxDepth: 9, MaxBytes: 99, Hot: hot}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Millisecond)
		}
		if !c.Hot {
			t.Fatal("the key is not hot")
		}
		b.Leave()
		c.Leave()
		a.Halt("503")
		a.Done()
		for range 3 {
			time.Sleep(time.Second)
			l.Cool()
		}
		if _, ok := l.Halted(7, []byte("k")); !ok || len(l.Hot()) != 0 {
			t.Errorf("halted %v, hot %v", ok, l.Hot())
		}
		err := l.Admit(&a, &Request{Key: []byte("k"), Partition: 7, MaxDepth: 9, MaxBytes: 99, RefuseHalted: true})
		if refused := (*HaltedError)(nil); !errors.As(err, &refused) || refused.Cause != "503" {
			t.Errorf("to be refused: %v", err)
		}
		if err := l.Refuses(&a, &Request{Key: []byte("k"), Partition: 7, MaxDepth: 9, MaxBytes: 99, RefuseHalted: true}); !errors.As(err, new(*HaltedError)) {
			t.Errorf("foreseen: %v", err)
		}
		if err := l.Refuses(&a, &Request{Key: []byte("k"), Partition: 7, MaxDepth: 9, MaxBytes: 99}); err != nil {
			t.Errorf("foreseen of one that waits: %v", err)
		}
	})
}

// Nothing waits in a halted lane of a node that ends, and the lane keeps no drain.
//
// Mutants: Close leaves what waits; or the halt; a turn that fails after Close halts.
func TestHaltsEndWithTheNode(t *testing.T) {
	var told []string
	l := partitioned(&told)
	l.config.MaxLanes = 99
	a, b := l.mustAdmit(t, 7, "a"), l.mustAdmit(t, 7, "a")
	idle := l.mustAdmit(t, 9, "idle")
	late, behind := l.mustAdmit(t, 8, "late"), l.mustAdmit(t, 8, "late")
	a.Halt("503")
	idle.Halt("503")
	idle.Done()
	l.Close()
	if err := b.Wait(time.Time{}); !errors.Is(err, ErrClosed) {
		t.Errorf("b: %v", err)
	}
	if late.Halt("503") {
		t.Error("halted after Close")
	}
	if err := behind.Wait(time.Time{}); !errors.Is(err, ErrClosed) {
		t.Errorf("behind: %v", err)
	}
	late.Done()
	a.Done()
	select {
	case <-l.idle:
	default:
		t.Errorf("%d lanes are left", l.lanes.Load())
	}
}

func TestHaltWithoutATurnPanics(t *testing.T) {
	l := New(roomy)
	a, b := admit(t, l, "k", Exclusive), admit(t, l, "k", Exclusive)
	mustPanic(t, "waiting", func() { b.Halt("") })
	b.Leave()
	a.Done()
}
