package queue

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// The part of TestRandomHistories' spec that is about paused lanes, and tickets that operators cancel.

func (s *spec) pause(key string) {
	if _, there := s.lanes.Lane(0, []byte(key)); !there && !s.paused[key] {
		return // a lane for it alone could be one too many
	}
	for _, a := range s.waiting[key] {
		a.granted = a.ticket.state == turn
	}
	_, err := s.lanes.Pause(0, []byte(key), "the test says so", 0)
	if s.paused[key] != errors.Is(err, ErrPaused) {
		s.t.Errorf("%s: paused: %v, and %v", key, s.paused[key], err)
	}
	s.paused[key] = true
}

func (s *spec) unpause(key string) {
	delete(s.paused, key)
	if h, err := s.lanes.Unpause(0, []byte(key)); err != nil || h.Cause != "the test says so" || !h.Operator {
		s.t.Errorf("%s: %+v, %v", key, h, err)
	}
	if _, err := s.lanes.Unpause(0, []byte(key)); !errors.Is(err, ErrNotPaused) {
		s.t.Errorf("%s: goes on twice: %v", key, err)
	}
}

// cancel takes any ticket of the lane, and expects what its state says.
func (s *spec) cancel(rng *rand.Rand, key string) {
	if err := s.lanes.Cancel(0, []byte(key), ID{1}); !errors.Is(err, ErrNoTicket) {
		s.t.Errorf("%s: a ticket that is not there is cancelled: %v", key, err)
	}
	all := append(append([]*asked{}, s.running[key]...), s.waiting[key]...)
	if len(all) == 0 {
		return
	}
	a := all[rng.IntN(len(all))]
	state := a.ticket.state // before: what was evicted may have had its turn, unseen
	err := s.lanes.Cancel(0, []byte(key), a.id)
	switch {
	case state == turn:
		if !errors.Is(err, ErrRuns) {
			s.t.Errorf("%s: %s runs, and is cancelled: %v", key, a.id, err)
		}
	case a.evicted || a.superseded != nil:
		if !errors.Is(err, ErrNoTicket) {
			s.t.Errorf("%s: %s has left, and is cancelled: %v", key, a.id, err)
		}
	case err != nil:
		s.t.Errorf("%s: %s waits, and is not cancelled: %v", key, a.id, err)
	default:
		a.evicted, a.cause = true, ErrWithdrawn
	}
}

// A pause and a halt of one lane have nothing to do with each other, and travel both: what is
// halted and paused at one node is so at the next, and ends there one by one.
//
// Mutants seen red: the export leaves pauses out; the import takes a pause for a halt; a sealed
// partition can be paused; Seal does not evict what waits in a paused lane.
func TestAPauseMovesWithItsPartition(t *testing.T) {
	var told []string
	from, to := partitioned(&told), partitioned(&told)
	a := from.mustAdmit(t, 7, "k")
	if _, err := from.Pause(7, []byte("k"), "by hand", 1); err != nil {
		t.Fatal(err)
	}
	a.Halt("503")
	a.Done()
	b := from.mustAdmit(t, 7, "k")
	if b.Turn() {
		t.Error("a ticket runs in a paused lane")
	}
	if totals := from.Totals(); totals[1].Paused != 1 || totals[2].Halted != 1 {
		t.Errorf("%+v", totals)
	}
	s, ok := from.Lane(7, []byte("k"))
	if !ok || s.Pause == nil || s.Halt == nil || s.Pause.Cause != "by hand" || s.Sealed {
		t.Errorf("%+v", s)
	}
	if _, err := from.Pause(7, []byte("paused alone"), "", 1); err != nil {
		t.Fatal(err)
	}
	d := from.mustAdmit(t, 7, "paused alone")
	from.Seal(7)
	for _, w := range []*Ticket{b, d} {
		if err := w.Wait(time.Now().Add(5 * time.Second)); !errors.Is(err, ErrHaltMoves) {
			t.Errorf("what waited: %v", err)
		}
	}
	if _, err := from.Pause(7, []byte("other"), "", 0); !errors.Is(err, ErrSealed) {
		t.Errorf("a sealed partition is paused: %v", err)
	}
	if _, err := from.Unpause(7, []byte("k")); !errors.Is(err, ErrNotPaused) {
		t.Errorf("a sealed partition's pause is ended: %v", err)
	}
	to.Seal(7)
	to.ImportHalts(7, from.ExportHalts(7, func(key []byte) bool { return string(key) != "k" }), true)
	to.Open(7)
	if _, err := to.Resume(7, []byte("k"), a.ID); err != nil {
		t.Errorf("Resume: %v", err)
	}
	c := to.mustAdmit(t, 7, "k")
	if c.Turn() {
		t.Error("the end of a halt ended the pause")
	}
	if h, paused := to.Paused(7, []byte("k")); !paused || h.Cause != "by hand" {
		t.Errorf("%+v, %v", h, paused)
	}
	if h, err := to.Unpause(7, []byte("k")); err != nil || h.Cause != "by hand" {
		t.Errorf("Unpause: %+v, %v", h, err)
	}
	if err := c.Wait(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c.Done()
	if n := to.lanes.Load(); n != 0 {
		t.Errorf("%d lanes left", n)
	}
}

// A lane that has never been can be paused, and what comes waits, though a halt would refuse it.
//
// Mutants seen red: a pause refuses what a halt would; the snapshot has no origin.
func TestAnIdleLaneIsPaused(t *testing.T) {
	l := New(roomy)
	if _, err := l.Pause(0, []byte("k"), "by hand", 0); err != nil {
		t.Fatal(err)
	}
	if stopped := l.Stopped(); len(stopped) != 1 || stopped[0].Pause == nil || len(stopped[0].Tickets) != 0 {
		t.Errorf("%+v", stopped)
	}
	var ticket Ticket
	origin := Origin{Ingress: "lk-1", Client: netip.MustParseAddr("203.0.113.9"), Trace: [16]byte{1, 15: 2}}
	if err := l.Admit(&ticket, &Request{Key: []byte("k"), MaxDepth: 1, RefuseHalted: true, Origin: &origin}); err != nil || ticket.Turn() {
		t.Fatalf("%v", err)
	}
	if s, _ := l.Lane(0, []byte("k")); len(s.Tickets) != 1 || !reflect.DeepEqual(s.Tickets[0].Origin, origin) {
		t.Errorf("%+v", s)
	}
	if err := l.Cancel(0, []byte("k"), ticket.ID); err != nil {
		t.Fatal(err)
	}
	if err := ticket.Wait(time.Time{}); !errors.Is(err, ErrWithdrawn) {
		t.Errorf("%v", err)
	}
	if _, err := l.Unpause(0, []byte("k")); err != nil || l.lanes.Load() != 0 {
		t.Errorf("%v, %d lanes left", err, l.lanes.Load())
	}
}
