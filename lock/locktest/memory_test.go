package locktest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/lock"
)

// memoryLink stands for a relay.
type memoryLink struct{ *Node }

func (l memoryLink) Stall() { l.Away(true) }

func (l memoryLink) Heal() {
	l.CutAt(0)
	l.Away(false)
}

func memoryRegistry() *Registry {
	const ttl, margin = 600 * time.Millisecond, 100 * time.Millisecond
	m := NewMemory(nil, nil)
	open := func() *Node { return m.Open("node", ttl, margin) }
	return &Registry{
		Open:  func() lock.Coordinator { return open() },
		Crash: func(c lock.Coordinator) { c.(*Node).Crash() },
		TTL:   ttl,
		FarLink: func() (lock.Coordinator, Link) {
			n := open()
			return n, memoryLink{n}
		},
		Forget: m.Forget,
	}
}

// TestMemory: it is a coordinator like those that keep leases elsewhere.
//
// Mutants: a take that is repeated is refused; Decide is told that nobody lives; a
// session that has ended stays the node's; Forget keeps the leases; End ends the lease
// here last, or not at the store; takes are asked after it; stamps count seconds.
func TestMemory(t *testing.T) {
	RunCoordinator(t, func(*testing.T) *Registry { return memoryRegistry() })
}

// TestMemoryInABubble: in virtual time too, and without a goroutine too many.
//
// Mutants: Close does not end the node's life; a lease that is given up wakes nobody.
func TestMemoryInABubble(t *testing.T) {
	for name, test := range coordinatorTests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(&registrar{T: t, Registry: memoryRegistry()}) })
		})
	}
}

const (
	longTTL    = 3 * time.Second
	longMargin = 500 * time.Millisecond
)

// bubble runs a test in virtual time, with a store of its own.
func bubble(t *testing.T, test func(t *testing.T, r *registrar, m *Memory)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, &registrar{T: t, Registry: &Registry{}}, NewMemory(nil, nil)) })
}

// member opens a node, which is closed in the end, and begins its session.
func (r *registrar) member(m *Memory, name string) (*Node, lock.Session) {
	r.Helper()
	n := m.Open(name, longTTL, longMargin)
	return n, r.keep(n)
}

// brief takes a partition that nobody ever had, and waits for the answer for so long.
func (r *registrar) brief(s lock.Session, partition int, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	_, err := s.Take(ctx, []lock.Take{{Partition: partition}})
	return err
}

// until waits for the end of a lease, but not for ever.
func (r *registrar) until(s lock.Session, id string) error {
	ctx, cancel := context.WithTimeout(r.Context(), 10*longTTL)
	defer cancel()
	return s.Ended(ctx, id)
}

// told waits until a session is told of its end, but not for ever.
func (r *registrar) told(s lock.Session) {
	r.Helper()
	select {
	case <-s.Done():
	case <-time.After(10 * longTTL):
		r.Fatal("it is not told that its lease has ended")
	}
}

// mustNotBeTold: so far it is not.
func (r *registrar) mustNotBeTold(s lock.Session) {
	r.Helper()
	select {
	case <-s.Done():
		r.Error("it is told that its lease has ended")
	default:
	}
}

// TestMemoryTerm: a lease is valid from when the question was sent, and by the store
// from when it got there; it is renewed each third of the TTL.
//
// Mutants: the term begins with the answer; without the margin; renewed each half; a
// renewal does not set the timer of the end; Node.Travel does nothing.
func TestMemoryTerm(t *testing.T) {
	bubble(t, func(t *testing.T, r *registrar, m *Memory) {
		_, near := r.member(m, "near")
		const way = 200 * time.Millisecond
		n := m.Open("far", longTTL, longMargin)
		n.Travel(way, way)
		began := time.Now()
		s := r.keep(n)
		if took := time.Since(began); took != 2*way {
			t.Errorf("it took %v", took)
		}
		if left, want := s.ValidFor(), longTTL-longMargin-2*way; left != want {
			t.Errorf("valid for %v, want %v", left, want)
		}
		time.Sleep(longTTL/3 + 2*way + 1)
		if left, want := s.ValidFor(), longTTL-longMargin-2*way-1; left != want {
			t.Errorf("valid for %v when it was renewed, want %v", left, want)
		}
		time.Sleep(10 * longTTL)
		n.Away(true)
		lost := time.Now()
		if err := r.until(near, s.ID()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(lost); took < 2*longTTL/3 || took > longTTL+2*way {
			t.Errorf("it ended %v after it was lost", took)
		}
	})
}

// TestMemoryEnded: who waits for the end of a lease is told when it ends, and asks for
// nothing until then.
//
// Mutants: the timer of a lease does nothing; a lease is alive at the moment of its end.
func TestMemoryEnded(t *testing.T) {
	bubble(t, func(t *testing.T, r *registrar, m *Memory) {
		const way = 5 * time.Millisecond
		m.Travel(way, way)
		_, near := r.member(m, "near")
		n, s := r.member(m, "far")
		began := time.Now() // its lease: a way before
		n.Crash()
		if err := r.until(near, s.ID()); err != nil {
			t.Fatal(err)
		}
		if took, want := time.Since(began), longTTL-way+2*way; took != want {
			t.Errorf("told after %v, want %v", took, want)
		}
		if err := r.until(near, "nobody"); err != nil {
			t.Errorf("the end of what never was: %v", err)
		}
		if c := m.Counts(); c.Begun != 2 || c.Expired != 1 {
			t.Errorf("%+v", c)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := near.Ended(ctx, near.ID()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("its own end: %v", err)
		}
	})
}

// TestMemoryAway: calls of a node that does not reach the store wait, until it does or
// their ctx ends; its lease runs out, which it knows before the store, and is told.
//
// Mutants: a call's error is that of its ctx alone; Memory.Away does nothing.
func TestMemoryAway(t *testing.T) {
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole=%v", whole), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *registrar, m *Memory) {
				n, s := r.member(m, "a")
				_, other := r.member(m, "b")
				away := n.Away
				if whole {
					away = m.Away
				}
				away(true)
				for _, wait := range []time.Duration{longTTL / 10, longTTL / 4} {
					began := time.Now()
					err := r.brief(s, 1, wait)
					if !errors.Is(err, lock.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != wait {
						t.Errorf("Take without a store: %v after %v", err, time.Since(began))
					}
				}
				if err := r.brief(other, 2, longTTL/10); errors.Is(err, lock.ErrUnavailable) != whole {
					t.Errorf("Take of another node: %v", err)
				}
				time.AfterFunc(longTTL/10, func() { away(false) })
				if err := r.brief(s, 3, longTTL/2); err != nil || s.ValidFor() <= 0 {
					t.Errorf("Take until it is back: %v", err)
				}

				away(true)
				time.Sleep(longTTL - longMargin)
				if s.ValidFor() > 0 {
					t.Errorf("valid for %v", s.ValidFor())
				}
				time.Sleep(10 * longTTL)
				if m.Alive(s.ID()) || m.Alive(other.ID()) == whole {
					t.Error("leases run out as if nothing had been away")
				}
				r.mustNotBeTold(s)
				away(false)
				if err := r.brief(s, 4, time.Second); !errors.Is(err, lock.ErrLost) {
					t.Errorf("Take under a lease that has run out: %v", err)
				}
				r.told(s)
				if again := r.begin(n); again.ID() == s.ID() || again.ValidFor() < longTTL/2 {
					t.Errorf("the next lease: %q after %q, valid for %v", again.ID(), s.ID(), again.ValidFor())
				}
			})
		})
	}
}

// TestMemoryOnTheWay: what was on its way when the store could not be reached any more
// is lost, has been executed, or is executed when it can be, all of it now and then; and
// the same with the same random.
//
// Mutants: what waits on its way ends with its ctx; what is on its way is always lost;
// is never there before; is never executed later; draws are not the store's; who
// waits for the store is not woken.
func TestMemoryOnTheWay(t *testing.T) {
	run := func(seed uint64) (course string) {
		synctest.Test(t, func(t *testing.T) {
			m := NewMemory(rand.New(rand.NewPCG(seed, 1)), nil) //nolint:gosec // chance, not secrets
			r := &registrar{T: t, Registry: &Registry{}}
			m.Travel(time.Millisecond, time.Millisecond)
			n, s := r.member(m, "a")
			for p := range 60 {
				before := len(m.Records())
				time.AfterFunc(500*time.Microsecond, func() { n.Away(true) })
				if err := r.brief(s, p, 10*time.Millisecond); !errors.Is(err, lock.ErrUnavailable) {
					t.Fatalf("Take: %v", err)
				}
				had := len(m.Records())
				n.Away(false)
				time.Sleep(9700 * time.Microsecond) // rounds and renewals don't meet: there is no order in that
				switch has := len(m.Records()); {
				case had > before:
					course += "t" // there already
				case has > had:
					course += "a" // afterwards
				default:
					course += "l" // lost
				}
			}
		})
		return course
	}
	first := run(1)
	for _, kind := range []string{"t", "a", "l"} {
		if n := strings.Count(first, kind); n < 8 {
			t.Errorf("%d times %s of %s", n, kind, first)
		}
	}
	if again, other := run(1), run(2); again != first || other == first {
		t.Errorf("it went %s, then %s, and otherwise %s", first, again, other)
	}
}

// TestMemoryCut: what is on its way when connections break is asked again, and was
// executed before or not.
//
// Mutants: Cut does nothing; what is cut on its way there is never executed; is always;
// CutAt cuts the next answer.
func TestMemoryCut(t *testing.T) {
	bubble(t, func(t *testing.T, r *registrar, m *Memory) {
		m.Travel(time.Millisecond, time.Millisecond)
		n, s := r.member(m, "a")
		const rounds = 60
		for p := range rounds {
			time.AfterFunc(500*time.Microsecond, n.Cut)
			if err := r.brief(s, p, 100*time.Millisecond); err != nil {
				t.Fatalf("Take: %v", err)
			}
		}
		if c := m.Counts(); c.Taken != rounds || c.Repeated < 15 || c.Repeated > 45 || c.Lost != rounds || c.Takes != rounds+c.Repeated {
			t.Errorf("of %d: %+v", rounds, c)
		}
		before := m.Counts()
		n.CutAt(2)
		for p := range 3 {
			if err := r.brief(s, rounds+p, 100*time.Millisecond); err != nil {
				t.Fatalf("Take: %v", err)
			}
			if lost := m.Counts().Lost - before.Lost; lost != min(p, 1) {
				t.Errorf("%d lost with answer %d", lost, p+1)
			}
		}
	})
}

// TestMemoryEnd: a lease that was given up while it could not be renewed is not renewed
// when it could be.
//
// Mutant: what is to be renewed is tried until it is answered.
func TestMemoryEnd(t *testing.T) {
	bubble(t, func(t *testing.T, r *registrar, m *Memory) {
		n, s := r.member(m, "a")
		n.Away(true)
		time.Sleep(longTTL / 2)
		ctx, cancel := context.WithTimeout(t.Context(), longTTL/10)
		defer cancel()
		if err := s.End(ctx); !errors.Is(err, lock.ErrUnavailable) {
			t.Errorf("End without a store: %v", err)
		}
		before := m.Counts()
		n.Cut()
		n.Away(false)
		if !m.Alive(s.ID()) {
			t.Error("it has ended already: nothing is shown")
		}
		time.Sleep(longTTL)
		if after := m.Counts(); after.Renewed > before.Renewed || m.Alive(s.ID()) {
			t.Errorf("it goes on: %+v after %+v", after, before)
		}
	})
}

// TestMemoryForget: when the store has lost everything nobody holds anything, nothing is
// granted for a while, and who held a lease learns of it when it is renewed.
//
// Mutants: no grace; it keeps the records; it keeps the leases; a lease that is forgotten
// is renewed; renewals do not learn of the end; only renewals do; the end of what is
// forgotten is told at once.
func TestMemoryForget(t *testing.T) {
	bubble(t, func(t *testing.T, r *registrar, m *Memory) {
		m.Grace(longTTL)
		n, s := r.member(m, "a")
		_, other := r.member(m, "b")
		_, third := r.member(m, "c")
		held := r.must(s, lock.Take{Partition: 1})
		ended := make(chan error, 1)
		go func() { ended <- r.until(other, s.ID()) }()
		time.Sleep(longTTL / 4)
		m.Forget()
		forgot := time.Now()
		if left := len(m.Records()); left > 0 || m.Alive(s.ID()) {
			t.Errorf("%d records, and the lease goes on: %v", left, m.Alive(s.ID()))
		}
		if err := r.brief(third, 2, time.Second); !errors.Is(err, lock.ErrLost) || third.ValidFor() > 0 {
			t.Errorf("Take under a lease that is forgotten: %v", err)
		}
		r.mustNotBeTold(s)
		if s.ValidFor() <= 0 {
			t.Error("it knows before it asks")
		}
		r.told(s)
		if took := time.Since(forgot); took > longTTL/3 || s.ValidFor() > 0 {
			t.Errorf("told after %v, valid for %v", took, s.ValidFor())
		}
		if len(ended) > 0 {
			t.Error("it has ended for others, who still may believe in it")
		}
		again := r.begin(n)
		if err := r.brief(again, 1, longTTL/2); !errors.Is(err, lock.ErrUnavailable) {
			t.Errorf("Take too early: %v", err)
		}
		if next := r.must(again, lock.Take{Partition: 1}); next.Stamp <= held.Stamp || time.Since(forgot) < longTTL {
			t.Errorf("%+v after %+v, and %v", next, held, time.Since(forgot))
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := r.until(again, "nobody"); err != nil || time.Since(forgot) > 2*longTTL {
			t.Errorf("Ended: %v after %v", err, time.Since(forgot))
		}
		m.Forget()
		forgot = time.Now()
		if err := r.until(again, "nobody"); err != nil || time.Since(forgot) < longTTL || time.Since(forgot) > longTTL+10*time.Millisecond {
			t.Errorf("Ended: %v after %v", err, time.Since(forgot))
		}
	})
}

// TestMemoryCrash: a node that crashes leaves no goroutine, whatever it is doing, and
// its calls come back; the store learns of nothing.
//
// Mutants: the lease is given up; who waits for an end goes on; who is frozen stays so;
// Crash does not wait; questions are sent by the dead.
func TestMemoryCrash(t *testing.T) {
	for name, at := range map[string]func(*Node){
		"well": func(*Node) {}, "frozen": (*Node).Freeze, "away": func(n *Node) { n.Away(true) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *registrar, m *Memory) {
				n, s := r.member(m, "a")
				errs := make(chan error, 2)
				go func() { errs <- s.Ended(context.Background(), s.ID()) }()
				time.Sleep(100 * time.Millisecond)
				at(n)
				go func() { errs <- r.brief(s, 1, time.Hour) }()
				time.Sleep(100 * time.Microsecond)
				crashed := time.Now()
				n.Crash()
				counts := m.Counts()
				if synctest.Wait(); m.Counts() != counts {
					t.Errorf("it goes on: %+v after %+v", m.Counts(), counts)
				}
				for range 2 {
					if err := <-errs; !errors.Is(err, lock.ErrClosed) {
						t.Errorf("a call of the dead: %v", err)
					}
				}
				if err := r.brief(s, 2, time.Hour); !errors.Is(err, lock.ErrClosed) {
					t.Errorf("a call of the dead: %v", err)
				}
				if _, err := n.Begin(t.Context()); !errors.Is(err, lock.ErrClosed) {
					t.Errorf("Begin of the dead: %v", err)
				}
				if err := n.Close(t.Context()); err != nil || !time.Now().Equal(crashed) || !m.Alive(s.ID()) {
					t.Errorf("Close of the dead: %v after %v, its lease goes on: %v", err, time.Since(crashed), m.Alive(s.ID()))
				}
				time.Sleep(longTTL)
				if m.Alive(s.ID()) {
					t.Error("its lease goes on for ever")
				}
			})
		})
	}
}

// TestMemoryFreeze: a node that is frozen does nothing, and is told of nothing, until it
// goes on; its lease is another's by then.
//
// Mutants: nothing waits for the thaw; no question does; no answer does; no end of a ctx
// does, of Ended or of another call; what was sent never arrives before it goes on; or
// always; a crash hands out what came.
func TestMemoryFreeze(t *testing.T) {
	bubble(t, func(t *testing.T, r *registrar, m *Memory) {
		m.Travel(time.Millisecond, time.Millisecond)
		n, s := r.member(m, "a")
		const rounds = 40
		before := 0
		for p := range rounds {
			time.AfterFunc(500*time.Microsecond, n.Freeze)
			done := make(chan error, 1)
			go func() { done <- r.brief(s, p, 10*time.Second) }()
			time.Sleep(50 * time.Millisecond)
			if len(done) > 0 {
				t.Fatal("a call returns to what is frozen")
			}
			before += len(m.Records()) - p
			n.Thaw()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if before < 10 || before > rounds-10 {
			t.Errorf("%d of %d arrived before it went on", before, rounds)
		}

		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Millisecond)
		defer cancel()
		time.AfterFunc(5*time.Millisecond, n.Freeze)
		time.AfterFunc(time.Second, n.Thaw)
		began := time.Now()
		if err := s.Ended(ctx, s.ID()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("Ended: %v after %v", err, time.Since(began))
		}
		time.Sleep(longTTL / 10)
		n.CutAt(1) // so it is between two questions
		time.AfterFunc(5*time.Millisecond, n.Freeze)
		time.AfterFunc(time.Second, n.Thaw)
		began = time.Now()
		if err := r.brief(s, rounds, 8*time.Millisecond); !errors.Is(err, lock.ErrUnavailable) || time.Since(began) != time.Second {
			t.Errorf("Take between two questions: %v after %v", err, time.Since(began))
		}

		_, other := r.member(m, "b")
		n.Freeze()
		done := make(chan error, 1)
		go func() { done <- r.brief(s, rounds, time.Second) }()
		if err := r.until(other, s.ID()); err != nil || s.ValidFor() > 0 {
			t.Errorf("Ended: %v, valid for %v", err, s.ValidFor())
		}
		r.must(other, of(r.record(other, 0), false, false))
		time.Sleep(longTTL)
		r.mustNotBeTold(s)
		if len(done) > 0 {
			t.Error("a call returns to what is frozen")
		}
		n.Thaw()
		if err := <-done; err == nil {
			t.Error("a take under a lease that has ended")
		}
		r.told(s)

		s = r.begin(n)
		m.Forget()
		time.Sleep(longTTL/3 + 1500*time.Microsecond) // the answer to a renewal is on its way
		n.Freeze()
		time.Sleep(time.Second)
		r.mustNotBeTold(s)
		n.Thaw()
		r.told(s)

		s = r.begin(n)
		time.AfterFunc(1500*time.Microsecond, n.Freeze)
		time.AfterFunc(time.Second, n.Crash)
		if err := r.brief(s, 0, time.Minute); !errors.Is(err, lock.ErrClosed) {
			t.Errorf("a process that has ended gets an answer: %v", err)
		}
	})
}

// TestMemoryClose: Close ends with its ctx, and leaves no goroutine, when the store
// cannot be reached; the second one waits for the first.
//
// Mutants: Close returns nil; the second one returns at once.
func TestMemoryClose(t *testing.T) {
	bubble(t, func(t *testing.T, r *registrar, m *Memory) {
		n, s := r.member(m, "a")
		m.Away(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first := make(chan error, 1)
		began := time.Now()
		go func() { first <- n.Close(ctx) }()
		synctest.Wait()
		if err := n.Close(t.Context()); err != nil || time.Since(began) != time.Second {
			t.Errorf("the second Close: %v after %v", err, time.Since(began))
		}
		if err := <-first; !errors.Is(err, lock.ErrUnavailable) || s.ValidFor() > 0 {
			t.Errorf("Close: %v, valid for %v", err, s.ValidFor())
		}
	})
}

// TestMemoryChance: a lease is valid for its holder only while the store has it, whatever
// happens.
//
// Mutants: the store ends leases a third of the TTL early; a term goes on without the
// margin, and from the answer on.
func TestMemoryChance(t *testing.T) {
	run := func(seed uint64) (c Counts) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))            //nolint:gosec // chance, not secrets
			m := NewMemory(rand.New(rand.NewPCG(seed, 1)), nil) //nolint:gosec // chance, not secrets
			m.Travel(time.Millisecond, 300*time.Millisecond)
			n := m.Open("a", longTTL, longMargin)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { // ends with ctx
				defer close(done)
				for p := 0; ctx.Err() == nil; p++ {
					if s, err := n.Begin(ctx); err == nil {
						takeSome(ctx, s, p)
					}
				}
			}()
			for range 300 {
				fault := []func(){
					n.Freeze, n.Thaw, n.Thaw, n.Cut, func() { n.Away(true) }, func() { n.Away(false) },
					func() { m.Away(true) }, func() { m.Away(false) }, func() { m.Away(false); n.Away(false); n.Thaw() },
				}
				fault[random.IntN(len(fault))]()
				for range 20 {
					time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond)
					if s, _ := n.present(); s != nil && s.ValidFor() > 0 && !m.Alive(s.ID()) {
						t.Fatalf("seed %d: valid for %v after its end", seed, s.ValidFor())
					}
				}
			}
			cancel()
			n.Crash()
			<-done
			c = m.Counts()
		})
		return c
	}
	for seed := range uint64(10) {
		if c := run(seed); c.Renewed < 10 || c.Lost < 10 || c.Expired < 1 || c.Taken < 5 {
			t.Errorf("seed %d: %+v: nothing is shown", seed, c)
		}
	}
}

// takeSome takes a partition, and waits a bit.
func takeSome(ctx context.Context, s lock.Session, p int) {
	trying, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.Take(trying, []lock.Take{{Partition: p}}) //nolint:errcheck // it may fail
	select {
	case <-time.After(50 * time.Millisecond):
	case <-ctx.Done():
	}
}
