package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLimits holds each bound at one below, at and one above it.
func TestLimits(t *testing.T) {
	const waiting, each = 3, 10 // already in lane "k", behind one that runs
	for _, test := range []struct {
		name   string
		config Config
		key    string
		r      Request
		want   error
	}{
		{"depth above", roomy, "k", Request{MaxDepth: waiting + 1, MaxBytes: 999}, nil},
		{"depth at", roomy, "k", Request{MaxDepth: waiting, MaxBytes: 999}, ErrLaneFull},
		{"depth below", roomy, "k", Request{MaxDepth: waiting - 1, MaxBytes: 999}, ErrLaneFull},
		{"bytes at", roomy, "k", Request{MaxDepth: 99, Bytes: 5, MaxBytes: waiting*each + 5}, nil},
		{"bytes above", roomy, "k", Request{MaxDepth: 99, Bytes: 6, MaxBytes: waiting*each + 5}, ErrLaneFull},
		{"another lane is free", roomy, "other", Request{}, nil},
		{"node count at", Config{MaxQueued: waiting + 1, MaxQueuedBytes: 999, MaxLanes: 9}, "k", Request{MaxDepth: 99, MaxBytes: 999}, nil},
		{"node count above", Config{MaxQueued: waiting, MaxQueuedBytes: 999, MaxLanes: 9}, "k", Request{MaxDepth: 99, MaxBytes: 999}, ErrOverloaded},
		{"node bytes at", Config{MaxQueued: 99, MaxQueuedBytes: waiting*each + 5, MaxLanes: 9}, "k", Request{MaxDepth: 99, MaxBytes: 999, Bytes: 5}, nil},
		{"node bytes above", Config{MaxQueued: 99, MaxQueuedBytes: waiting*each + 5, MaxLanes: 9}, "k", Request{MaxDepth: 99, MaxBytes: 999, Bytes: 6}, ErrOverloaded},
		{"lanes at", Config{MaxQueued: 99, MaxQueuedBytes: 999, MaxLanes: 2}, "other", Request{}, nil},
		{"lanes above", Config{MaxQueued: 99, MaxQueuedBytes: 999, MaxLanes: 1}, "other", Request{}, ErrOverloaded},
	} {
		synctest.Test(t, func(t *testing.T) { // time stands still, so ages compare
			l := New(test.config)
			for range 1 + waiting {
				r := Request{Key: []byte("k"), Bytes: each, MaxDepth: 99, MaxBytes: 999}
				if err := l.Admit(new(Ticket), &r); err != nil {
					t.Fatal(err)
				}
			}
			before := fmt.Sprint(l.Totals(), l.lanes.Load(), l.queued.Load(), l.bytes.Load())
			test.r.Key = []byte(test.key)
			var ticket Ticket
			foreseen := test.want
			if test.key != "k" { // it has no lane yet
				foreseen = nil
			}
			if err := l.Refuses(&ticket, &test.r); !errors.Is(err, foreseen) {
				t.Fatalf("%s: Refuses = %v, want %v", test.name, err, foreseen)
			}
			if now := fmt.Sprint(l.Totals(), l.lanes.Load(), l.queued.Load(), l.bytes.Load()); now != before {
				t.Errorf("%s: Refuses changed the lanes\nfrom %s\nto   %s", test.name, before, now)
			}
			if err := l.Admit(&ticket, &test.r); !errors.Is(err, test.want) {
				t.Fatalf("%s: Admit = %v, want %v", test.name, err, test.want)
			}
			if test.want == nil {
				return
			}
			if ticket.ID.IsZero() {
				t.Errorf("%s: a refused ticket has no name", test.name)
			}
			if test.key == "k" && ticket.Depth != waiting {
				t.Errorf("%s: a refused ticket saw depth %d, want %d", test.name, ticket.Depth, waiting)
			}
			after := fmt.Sprint(l.Totals(), l.lanes.Load(), l.queued.Load(), l.bytes.Load())
			if before != after {
				t.Errorf("%s: a refusal changed the lanes\nfrom %s\nto   %s", test.name, before, after)
			}
		})
	}
}

// TestRefusesOnlyWhatWouldWait asks for what no limit concerns, in a lane whose
// limits are reached.
//
// Mutants: delays is always true; a holder's request is delayed, or an observed
// one; a closed set of lanes, or a sealed partition, refuses for its limits.
func TestRefusesOnlyWhatWouldWait(t *testing.T) {
	for _, test := range []struct {
		name    string
		running Class
		change  func(l *Lanes, r *Request, running ID)
		want    error
	}{
		{"it waits", Exclusive, func(*Lanes, *Request, ID) {}, ErrLaneFull},
		{"exclusive waits for shared", Shared, func(*Lanes, *Request, ID) {}, ErrLaneFull},
		{"shared beside shared", Shared, func(_ *Lanes, r *Request, _ ID) { r.Class = Shared }, nil},
		{"shared beside too many", Shared, func(_ *Lanes, r *Request, _ ID) { r.Class, r.MaxShared = Shared, 1 }, ErrLaneFull},
		{"a holder's", Exclusive, func(_ *Lanes, r *Request, running ID) { r.Holder = running }, nil},
		{"another holder's", Exclusive, func(_ *Lanes, r *Request, running ID) { r.Holder = running; r.Holder[15]++ }, ErrLaneFull},
		{"it only watches", Exclusive, func(_ *Lanes, r *Request, _ ID) { r.Observe = true }, nil},
		{"another key", Exclusive, func(_ *Lanes, r *Request, _ ID) { r.Key = []byte("other") }, nil},
		{"closed", Exclusive, func(l *Lanes, _ *Request, _ ID) { l.Close() }, nil},
		{"sealed", Exclusive, func(l *Lanes, _ *Request, _ ID) { l.Seal(0) }, nil},
	} {
		config := roomy
		config.Partitions = 1
		l := New(config)
		l.Open(0)
		var running Ticket
		r := Request{Key: []byte("k"), Class: test.running, Bytes: 1, MaxShared: 2}
		if err := l.Admit(&running, &r); err != nil {
			t.Fatal(err)
		}
		r.Class = Exclusive
		test.change(l, &r, running.ID)
		if err := l.Refuses(new(Ticket), &r); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

func TestCloseRefusesAndDrainWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		running, waits := admit(t, l, "k", Exclusive), admit(t, l, "k", Exclusive)
		l.Close()
		r := Request{Key: []byte("k"), MaxDepth: 9, MaxBytes: 9}
		if err := l.Admit(new(Ticket), &r); !errors.Is(err, ErrClosed) {
			t.Errorf("Admit after Close = %v, want ErrClosed", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain with tickets left = %v", err)
		}
		running.Done()
		if err := waits.Wait(time.Time{}); err != nil {
			t.Errorf("a ticket taken before Close: %v", err)
		}
		waits.Done()
		if err := l.Drain(t.Context()); err != nil {
			t.Errorf("Drain of empty lanes = %v", err)
		}
		l.Close() // again
	})
}

func TestEvictWakesEveryWaiterAndNoTurn(t *testing.T) {
	cause := errors.New("draining")
	l := New(roomy)
	running, first, second := admit(t, l, "k", Exclusive), admit(t, l, "k", Exclusive), admit(t, l, "k", Exclusive)
	if n := l.Evict(cause); n != 2 {
		t.Errorf("Evict = %d, want 2", n)
	}
	if first.Leave() {
		t.Error("an evicted ticket left once more")
	}
	for _, ticket := range []*Ticket{first, second} {
		if err := ticket.Wait(time.Time{}); !errors.Is(err, cause) {
			t.Errorf("Wait of an evicted ticket = %v, want the cause", err)
		}
	}
	next := admit(t, l, "k", Exclusive)
	if err := next.Wait(time.Now()); !errors.Is(err, ErrNotYet) {
		t.Errorf("a newcomer runs beside the running one: Wait = %v", err)
	}
	running.Done()
	if err := next.Wait(time.Time{}); err != nil {
		t.Error(err)
	}
}

// TestLeaveBesideEvict lets whoever has a ticket taken out of its lane and whoever
// is told why race: exactly one of both ends it. It is a test for the race detector,
// which finds the mutant "reading the cause writes the state".
func TestLeaveBesideEvict(t *testing.T) {
	cause := errors.New("draining")
	l := New(roomy)
	running := admit(t, l, "k", Exclusive)
	for range 200 {
		var told atomic.Int64
		var left int
		ticket := new(Ticket)
		ticket.Notify = func() {
			if err := ticket.Granted(); !errors.Is(err, cause) {
				t.Errorf("Granted = %v, want the cause", err)
			}
			told.Add(1)
		}
		if err := l.Admit(ticket, &Request{Key: []byte("k"), Class: Exclusive, MaxDepth: 1}); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { l.Evict(cause) })
		both.Go(func() {
			if ticket.Leave() {
				left = 1
			}
		})
		both.Wait()
		if n := left + int(told.Load()); n != 1 {
			t.Fatalf("a ticket ended %d times", n)
		}
	}
	running.Done()
}

// TestPeakIsGivenBack opens many lanes, closes them, and looks at the maps.
func TestPeakIsGivenBack(t *testing.T) {
	l := New(roomy)
	tickets := make([]Ticket, 300*shardCount)
	for i := range tickets {
		r := Request{Key: fmt.Append(nil, i)}
		if err := l.Admit(&tickets[i], &r); err != nil {
			t.Fatal(err)
		}
	}
	for i := range tickets {
		tickets[i].Done()
	}
	for i := range l.shards {
		if s := &l.shards[i]; len(s.lanes) != 0 || s.peak >= shrinkFrom || s.frees > freeLanes {
			t.Fatalf("shard %d keeps a map of %d for %d lanes, and %d free ones", i, s.peak, len(s.lanes), s.frees)
		}
	}
}

// TestDrainWaitsForWhatCameDuringClose races Admit, which takes and gives back
// the only lane again and again, with Close: that there is no lane for a moment,
// before every shard is closed, does not end Drain.
func TestDrainWaitsForWhatCameDuringClose(t *testing.T) {
	for range 1500 {
		l := New(roomy)
		var client sync.WaitGroup
		client.Go(func() {
			for i := 0; ; i++ {
				var ticket Ticket
				if err := l.Admit(&ticket, &Request{Key: fmt.Append(nil, i)}); err != nil {
					return
				}
				for range i % 7 {
					runtime.Gosched()
				}
				ticket.Done()
			}
		})
		for range 20 {
			runtime.Gosched()
		}
		l.Close()
		if err := l.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := l.lanes.Load(); n != 0 {
			t.Fatalf("%d lanes after Drain", n)
		}
		client.Wait()
	}
}

// Mutants: what is reserved is not counted; it is not freed; a refusal is counted.
func TestReserve(t *testing.T) {
	l := New(Config{MaxQueued: 2, MaxQueuedBytes: 100, MaxLanes: 10, Tags: 1})
	var running, waiting Ticket
	r := Request{Key: []byte("k"), Bytes: 60, MaxDepth: 10, MaxBytes: 1000}
	if err := l.Admit(&running, &r); err != nil {
		t.Fatal(err)
	}
	if !l.Reserve(50) || l.Reserve(51) {
		t.Error("100 bytes are not the limit")
	}
	if err := l.Admit(&waiting, &r); !errors.Is(err, ErrOverloaded) {
		t.Errorf("beside what is reserved: %v", err)
	}
	l.Free(50)
	if err := l.Admit(&waiting, &r); err != nil {
		t.Errorf("when it is free: %v", err)
	}
	if !l.Reserve(0) || l.Reserve(0) {
		t.Error("2 requests are not the limit")
	}
}
