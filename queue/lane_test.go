package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRandomHistories runs random clients against random lanes under virtual
// time and holds each history against the promises of the package, as a spec
// of a few lines would put them: see spec. It is the test that the mutants of
// TestMutantsAreCaught must turn red.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(500) {
		synctest.Test(t, func(t *testing.T) { randomHistory(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

var errEvicted = errors.New("evicted by the test")

func randomHistory(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	l := New(Config{MaxQueued: 10 + rng.IntN(20), MaxQueuedBytes: 1500, MaxLanes: 1 + rng.IntN(6), Tags: 1})
	if rng.IntN(4) == 0 {
		l.collide() // every key in one chain of one shard
	}
	spec := newSpec(t, l)
	spec.halts = rng.IntN(2) == 0
	keys, clients, requests := 1+rng.IntN(5), 2+rng.IntN(20), 2+rng.IntN(12)

	var wg sync.WaitGroup
	for client := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(client)+2))
		wg.Go(func() {
			var ticket Ticket // reused, as the proxy does
			for range requests {
				time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
				spec.client(&ticket, rng, fmt.Sprint("key:", rng.IntN(keys)))
			}
		})
	}
	if rng.IntN(3) == 0 {
		wg.Go(func() {
			time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
			spec.evict()
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	if spec.halts {
		go spec.operate(rand.New(rand.NewPCG(seed, 0)), finished) // ends with the clients
	}
	for done := false; !done; {
		select {
		case <-finished:
			done = true
		case <-time.After(time.Millisecond):
		}
		synctest.Wait()
		spec.quiet()
	}
	l.Close()
	if err := l.Drain(t.Context()); err != nil {
		t.Errorf("drain: %v", err)
	}
	spec.empty()
}

// spec holds what has happened so far and what must be true of it.
type spec struct {
	t     *testing.T
	lanes *Lanes

	mu      sync.Mutex // guards the rest
	waiting map[string][]*asked
	running map[string][]*asked
	halts   bool          // some turns halt their lanes
	halted  map[string]ID // by whom
	paused  map[string]bool
}

type asked struct {
	id         ID
	class      Class
	bytes      int
	effect     *Effect
	ticket     *Ticket
	evicted    bool        // or has its turn, and nobody has seen it yet
	superseded *Superseded // by the spec, and its waiter does not know yet
	refuses    bool        // Request.RefuseHalted
	cause      error       // of the eviction
	granted    bool        // it had its turn when its lane was paused, and may not know yet
}

func newSpec(t *testing.T, l *Lanes) *spec {
	return &spec{t: t, lanes: l, waiting: map[string][]*asked{}, running: map[string][]*asked{}, halted: map[string]ID{}, paused: map[string]bool{}}
}

// client sends one request and plays its part to the end.
func (s *spec) client(ticket *Ticket, rng *rand.Rand, key string) {
	r := Request{
		Key: []byte(key), Class: Class(rng.IntN(2)), Bytes: rng.IntN(200),
		MaxDepth: 8, MaxBytes: 1000, MaxShared: 1 + rng.IntN(3), Effect: someEffect(rng), RefuseHalted: rng.IntN(4) == 0,
	}
	halts := s.halts && r.Class == Exclusive && rng.IntN(6) == 0
	patience := time.Duration(1+rng.IntN(30)) * time.Millisecond
	work := time.Duration(rng.IntN(6)) * time.Millisecond

	// Held over Admit so that the spec sees admissions in their order.
	s.mu.Lock()
	before := s.needless(key, &r)
	err := s.lanes.Admit(ticket, &r)
	before.check(s, ticket, err)
	if err != nil {
		s.refused(key, &r, err)
		s.mu.Unlock()
		return
	}
	a := &asked{id: ticket.ID, class: r.Class, bytes: r.Bytes, effect: r.Effect, ticket: ticket, refuses: r.RefuseHalted}
	if _, halted := s.halted[key]; halted && a.refuses {
		s.t.Errorf("%s: %s waits in a halted lane, and was to be refused", key, a.id)
	}
	if w := s.waiting[key]; len(w) > 0 && slices.Compare(w[len(w)-1].id[:], a.id[:]) >= 0 {
		s.t.Errorf("%s: ticket %s is not above %s", key, a.id, w[len(w)-1].id)
	}
	s.waiting[key] = append(s.waiting[key], a)
	s.mu.Unlock()

	switch err := ticket.Wait(time.Now().Add(patience)); {
	case errors.Is(err, ErrNotYet):
		s.mu.Lock()
		left := ticket.Leave()
		if left {
			s.gone(key, a)
		}
		s.mu.Unlock()
		if left {
			return
		}
		if err := ticket.Wait(time.Time{}); err != nil {
			s.evicted(key, a, err)
			return
		}
	case err != nil:
		s.evicted(key, a, err)
		return
	}
	s.start(key, a)
	time.Sleep(work)
	s.mu.Lock()
	if halts {
		s.halt(key, ticket)
	}
	s.running[key] = remove(s.running[key], a)
	ticket.Done()
	s.mu.Unlock()
}

// start checks promises 1 and 2 at the beginning of a's turn.
func (s *spec) start(key string, a *asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused[key] && !a.granted {
		s.t.Errorf("%s: %s runs, and the lane is paused", key, a.id)
	}
	if by, halted := s.halted[key]; halted {
		s.t.Errorf("%s: %s runs, and %s has halted the lane", key, a.id, by)
	}
	for _, other := range s.running[key] {
		if a.class == Exclusive || other.class == Exclusive {
			s.t.Errorf("%s: %s runs beside %s", key, a.id, other.id)
		}
	}
	for _, other := range s.waiting[key] {
		if other == a {
			break
		}
		// Shared neighbours get their turns in one step and may be seen to
		// start in either order; so may a ticket and one that was evicted.
		if !other.evicted && other.superseded == nil && (a.class == Exclusive || other.class == Exclusive) {
			s.t.Errorf("%s: %s overtook %s", key, a.id, other.id)
		}
	}
	s.waiting[key] = remove(s.waiting[key], a)
	s.running[key] = append(s.running[key], a)
}

func (s *spec) gone(key string, a *asked) { s.waiting[key] = remove(s.waiting[key], a) }

func (s *spec) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lanes.Evict(errEvicted)
	for _, w := range s.waiting {
		for _, a := range w {
			if !a.evicted {
				a.evicted, a.cause = true, errEvicted
			}
		}
	}
}

func (s *spec) evicted(key string, a *asked, err error) {
	s.mu.Lock()
	switch by, ok := errors.AsType[*Superseded](err); {
	case a.superseded != nil && ok && *by == *a.superseded:
	case a.superseded != nil:
		s.t.Errorf("%s: %s waited and got %v, superseded by %v", key, a.id, err, a.superseded)
	case !a.evicted || !errors.Is(err, a.cause) && !(a.cause == errHalted && errors.As(err, new(*HaltedError))):
		s.t.Errorf("%s: %s waited and got %v, want %v", key, a.id, err, a.cause)
	}
	s.gone(key, a)
	s.mu.Unlock()
}

func remove(from []*asked, a *asked) []*asked {
	return slices.DeleteFunc(from, func(other *asked) bool { return other == a })
}

// quiet is called when every goroutine is blocked: nobody is on the way, so
// the lanes must agree with the spec to the ticket (promises 3 to 6).
func (s *spec) quiet() {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes, queued, bytes := 0, 0, 0
	for i := range s.lanes.shards {
		for _, first := range s.lanes.shards[i].lanes {
			for ln := first; ln != nil; ln = ln.chain {
				lanes++
				queued += ln.waiting.len
				bytes += ln.bytes
				s.agrees(ln)
			}
		}
	}
	if n := s.lanes.lanes.Load(); n != int64(lanes) || lanes > s.lanes.config.MaxLanes {
		s.t.Errorf("%d lanes counted, %d there, %d allowed", n, lanes, s.lanes.config.MaxLanes)
	}
	if n := s.lanes.queued.Load(); n != int64(queued) || queued > s.lanes.config.MaxQueued {
		s.t.Errorf("%d waiting counted, %d there, %d allowed", n, queued, s.lanes.config.MaxQueued)
	}
	if n := s.lanes.bytes.Load(); n != int64(bytes) || n > s.lanes.config.MaxQueuedBytes {
		s.t.Errorf("%d bytes counted, %d there, %d allowed", n, bytes, s.lanes.config.MaxQueuedBytes)
	}
}

func (s *spec) agrees(ln *lane) {
	key := string(ln.key)
	if head := ln.waiting.head; head != nil && ln.admits(head) {
		s.t.Errorf("%s: %s could run and does not", key, head.ID)
	}
	if by, halted := s.halted[key]; halted != (ln.halt != nil) || halted && ln.halt.Ticket != by {
		s.t.Errorf("%s: halted: %v, the spec says %v by %s", key, ln.halt, halted, by)
	}
	if s.paused[key] != (ln.pause != nil) {
		s.t.Errorf("%s: paused: %v, the spec says %v", key, ln.pause, s.paused[key])
	}
	if ln.running.len == 0 && !ln.stopped() {
		s.t.Errorf("%s: an idle lane is kept", key)
	}
	if ln.waiting.len != len(s.waiting[key]) || ln.running.len != len(s.running[key]) {
		s.t.Errorf("%s: %d wait and %d run, the spec says %d and %d", key,
			ln.waiting.len, ln.running.len, len(s.waiting[key]), len(s.running[key]))
	}
	place := 0 // only ever falls while a ticket runs
	for t := ln.running.head; t != nil; t = t.next {
		if place++; t.class == Shared && place > t.maxShared {
			s.t.Errorf("%s: %s is one too many of the shared", key, t.ID)
		}
	}
}

func (s *spec) empty() {
	s.quiet()
	if n := s.lanes.lanes.Load(); n != 0 {
		s.t.Errorf("%d lanes left", n)
	}
	for key, w := range s.waiting {
		if len(w)+len(s.running[key]) != 0 {
			s.t.Errorf("%s: %d waiting, %d running at the end", key, len(w), len(s.running[key]))
		}
	}
}

// collide gives every key the same hash.
func (l *Lanes) collide() { l.sameHash = true }

// TestAbandonedTicketWakesNobody is the bug of this field: A runs, B and C
// wait, B gives up, and C is started beside A.
//
// Mutant: "leaving pops the front".
func TestAbandonedTicketWakesNobody(t *testing.T) {
	l := New(roomy)
	a, b, c := admit(t, l, "k", Exclusive), admit(t, l, "k", Exclusive), admit(t, l, "k", Exclusive)
	if !b.Leave() {
		t.Fatal("b waits and cannot leave")
	}
	if err := c.Wait(time.Now()); !errors.Is(err, ErrNotYet) {
		t.Fatalf("c beside a: Wait = %v, want ErrNotYet", err)
	}
	a.Done()
	if err := c.Wait(time.Time{}); err != nil {
		t.Fatalf("c after a: %v", err)
	}
	c.Done()
	if n := l.lanes.Load(); n != 0 {
		t.Fatalf("%d lanes left", n)
	}
}

func TestSharedRunTogetherBehindAnExclusiveThatLeaves(t *testing.T) {
	l := New(roomy)
	reader, writer, next := admit(t, l, "k", Shared), admit(t, l, "k", Exclusive), admit(t, l, "k", Shared)
	if err := next.Wait(time.Now()); !errors.Is(err, ErrNotYet) {
		t.Fatalf("a shared ticket overtook an exclusive one: Wait = %v", err)
	}
	writer.Leave()
	if err := next.Wait(time.Time{}); err != nil {
		t.Fatal(err)
	}
	reader.Done()
	next.Done()
}

func TestReentrantRequestIsRefused(t *testing.T) {
	l := New(roomy)
	holder := admit(t, l, "k", Exclusive)
	inner := Request{Key: []byte("k"), MaxDepth: 9, MaxBytes: 9, Holder: holder.ID}
	if err := l.Admit(new(Ticket), &inner); !errors.Is(err, ErrReentrant) {
		t.Errorf("Admit under its own holder = %v, want ErrReentrant", err)
	}
	inner.Key = []byte("other")
	if err := l.Admit(new(Ticket), &inner); err != nil {
		t.Errorf("Admit of another key under a holder = %v", err)
	}
	holder.Done()
	inner.Key = []byte("k")
	if err := l.Admit(new(Ticket), &inner); err != nil {
		t.Errorf("Admit after the holder is done = %v", err)
	}
}

func TestObservedTicketsNeverWait(t *testing.T) {
	l := New(roomy)
	for i, want := range []struct {
		class      Class
		overlapped bool
	}{{Shared, false}, {Shared, false}, {Exclusive, true}, {Shared, true}} {
		var ticket Ticket
		r := Request{Key: []byte("k"), Class: want.class, MaxShared: 9, Observe: true}
		if err := l.Admit(&ticket, &r); err != nil {
			t.Fatal(err)
		}
		if err := ticket.Wait(time.Time{}); err != nil || ticket.Overlapped != want.overlapped {
			t.Errorf("request %d: Wait = %v, overlapped %v, want %v", i, err, ticket.Overlapped, want.overlapped)
		}
		defer ticket.Done()
	}
}

func TestDoneWithoutATurnPanics(t *testing.T) {
	l := New(roomy)
	a, b := admit(t, l, "k", Exclusive), admit(t, l, "k", Exclusive)
	mustPanic(t, "waiting", func() { b.Done() })
	a.Done()
	mustPanic(t, "twice", func() { a.Done() })
	b.Wait(time.Time{})
	b.Done()
	mustPanic(t, "never admitted", func() { new(Ticket).Done() })
}

func mustPanic(t *testing.T, when string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", when)
		}
	}()
	f()
}

func admit(t *testing.T, l *Lanes, key string, class Class) *Ticket {
	t.Helper()
	ticket := new(Ticket)
	r := Request{Key: []byte(key), Class: class, MaxDepth: 99, MaxBytes: 99, MaxShared: 9}
	if err := l.Admit(ticket, &r); err != nil {
		t.Fatal(err)
	}
	return ticket
}

// TestManyGoroutines is the same promise under real parallelism: it is the
// race detector's.
func TestManyGoroutines(t *testing.T) {
	l := New(roomy)
	var running [3]int // guarded by the lanes alone
	var wg sync.WaitGroup
	for g := range 8 {
		rng := rand.New(rand.NewPCG(7, uint64(g)))
		wg.Go(func() {
			var ticket Ticket
			for range 3000 {
				k := rng.IntN(len(running))
				r := Request{Key: []byte{byte(k)}, MaxDepth: 99, MaxBytes: 99}
				if err := l.Admit(&ticket, &r); err != nil {
					t.Error(err)
					return
				}
				err := ticket.Wait(time.Now().Add(time.Duration(rng.IntN(100)) * time.Microsecond))
				if errors.Is(err, ErrNotYet) {
					if ticket.Leave() {
						continue
					}
					err = ticket.Wait(time.Time{})
				}
				if err != nil {
					t.Error(err)
					return
				}
				if running[k]++; running[k] != 1 {
					t.Errorf("%d run at once", running[k])
				}
				running[k]--
				ticket.Done()
			}
		})
	}
	wg.Wait()
	if n := l.lanes.Load() + l.queued.Load() + l.bytes.Load(); n != 0 {
		t.Errorf("%d left", n)
	}
}
