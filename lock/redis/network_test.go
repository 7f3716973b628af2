package redis

import (
	"context"
	"errors"
	"testing"
	"time"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

// TestLostReply: the answer to whatever question is lost, and what the server did
// is neither forgotten nor done twice.
//
// Mutants: who holds the lock is not granted it when it asks again; each question has
// an id of its own.
func TestLostReply(t *testing.T) {
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := s.config()
	far.Address, far.TTL, far.Margin = relay.Address(), 6*time.Second, time.Second
	near := far
	near.Address = s.Address
	one, other := node(t, far), node(t, near)
	for n := 1; n <= 6; n++ {
		relay.CutAt(n)
		began := time.Now()
		lease := acquireNow(t, one, "x")
		if took := time.Since(began); took > far.TTL/2 {
			t.Errorf("cut at reply %d: it had it after %v", n, took)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Errorf("cut at reply %d: Release: %v", n, err)
		}
		relay.Heal()
		began = time.Now()
		again := acquireNow(t, other, "x")
		if took := time.Since(began); took > far.TTL/2 {
			t.Errorf("cut at reply %d: the lock was free after %v", n, took)
		}
		again.Release(t.Context()) //nolint:errcheck // its way is whole
	}
}

// TestGivenUpUnanswered: who gives up while the server's answer is on its way has
// the lock by then, and does not keep it.
//
// Mutant: a cancelled Acquire abandons nothing.
func TestGivenUpUnanswered(t *testing.T) {
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := s.config()
	far.Address = relay.Address()
	far.TTL, far.Margin = 30*time.Second, time.Second
	near := far
	near.Address = s.Address
	one, other := node(t, far), node(t, near)
	acquireNow(t, one, "y") // the server has the script now
	relay.Mute()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := one.Acquire(ctx, "x")
		ended <- err
	}()
	held := func() bool { n, _ := s.do("EXISTS", "{test}:o:x").AsInt64(); return n == 1 }
	for end := time.Now().Add(10 * time.Second); !held(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is not granted")
		}
	}
	relay.Stall() // what gives it up is on its way for a while, too
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if time.Sleep(50 * time.Millisecond); !held() {
		t.Fatal("it is free already: nothing is shown")
	}
	relay.Heal()
	began := time.Now()
	acquireNow(t, other, "x")
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("free after %v", took)
	}
}

// TestStalledConnection: the way to the server is dead, and nobody says so. The lease
// ends in time for its holder, and later for the server.
//
// Mutant: a lease does not look at its end.
func TestStalledConnection(t *testing.T) {
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := s.config()
	far.Address = relay.Address()
	one, other := node(t, far), node(t, s.config())
	holder := acquireNow(t, one, "x")
	relay.Stall()
	heir(t, other, "x", holder)
	if !errors.Is(holder.Err(), lock.ErrLost) {
		t.Errorf("lost: %v", holder.Err())
	}
	relay.Heal()
	acquireNow(t, one, "y") // it finds a way again
}

// TestSlowAnswers: a lease is counted from before it was asked for, however long the
// answer takes.
//
// Mutants: a grant counts from its answer; a renewal does.
func TestSlowAnswers(t *testing.T) {
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := s.config()
	far.Address = relay.Address()
	far.Margin = 50 * time.Millisecond // less than what is late
	one := node(t, far)
	const late = 120 * time.Millisecond
	relay.Delay(late)
	began := time.Now()
	lease := acquireNow(t, one, "x")
	if left, most := lease.ValidFor(), far.TTL-far.Margin-late; left > most {
		t.Errorf("valid for %v at once, after %v: at most %v are certain", left, time.Since(began), most)
	}
	for range 100 {
		if left, ttl := lease.ValidFor(), s.do("PTTL", "{test}:o:x"); lease.Err() == nil {
			if server, err := ttl.AsInt64(); err != nil || left > time.Duration(server)*time.Millisecond {
				t.Fatalf("valid for %v, for the server %d ms, %v", left, server, err)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	if lease.Err() != nil {
		t.Errorf("slow answers cost the lease: %v", lease.Err())
	}
}
