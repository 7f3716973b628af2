package redis

import (
	"errors"
	"testing"
	"time"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

// What somebody does who sets the clock of the server, which is what leases end by.

func startServerWithClock(t testing.TB) (*server, *locktest.Clock) {
	t.Helper()
	s, clock := locktest.RedisWithClock(t)
	return asked(t, s), clock
}

// number is what the server answers.
func (s *server) number(words ...string) int64 {
	s.t.Helper()
	n, err := s.do(words...).AsInt64()
	if err != nil {
		s.t.Fatalf("%v: %v", words, err)
	}
	return n
}

// queue has a node wait for x, as the last of several. What it is granted comes later.
func (s *server) queue(l *Locker) <-chan lock.Lease {
	s.t.Helper()
	before := s.number("ZCARD", "{test}:q:x")
	granted := make(chan lock.Lease, 1)
	go func() { // ends with the grant, or its node
		if lease, err := l.Acquire(s.t.Context(), "x"); err == nil {
			granted <- lease
		}
	}()
	for end := time.Now().Add(10 * time.Second); s.number("ZCARD", "{test}:q:x") == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("it does not queue")
		}
	}
	return granted
}

// mortal opens a node that dies when it is told to: of it nothing is heard from then on,
// not even what it says while its connections are closed.
func (s *server) mortal(c Config) (l *Locker, die func()) {
	relay := locktest.NewRelay(s.t, s.Address)
	c.Address = relay.Address()
	l = open(s.t, c)
	s.t.Cleanup(func() { crash(l) })
	return l, relay.Stall
}

// within is a lease that is granted before long, and how long it took.
func within(t testing.TB, granted <-chan lock.Lease, most time.Duration) (lock.Lease, time.Duration) {
	t.Helper()
	began := time.Now()
	select {
	case lease := <-granted:
		return lease, time.Since(began)
	case <-time.After(most):
		t.Fatalf("not granted within %v", most)
		return nil, 0
	}
}

// jump is how far clocks are set back.
const jump = time.Hour

// late is what this host may be late by when it has much to do.
const late = 500 * time.Millisecond

// TestClockForward pins a limit: a clock that is set forward by more than the margin
// gives a lock to another while its holder believes in it, until the holder's next
// renewal. Nothing else goes wrong: tokens rise, and who is late frees nothing.
//
// Mutants: a renewal prolongs whoever's lock it is; release deletes whoever's lock it
// is; a renewal that is refused is not noticed; renewals come each TTL.
func TestClockForward(t *testing.T) {
	for _, what := range []string{"told", "released before it is told"} {
		t.Run(what, func(t *testing.T) {
			s, clock := startServerWithClock(t)
			c := s.config()
			c.TTL = 3 * time.Second
			one, other := node(t, c), node(t, c)
			holder := acquireNow(t, one, "x")
			clock.Shift(c.TTL + time.Second)
			next := acquireNow(t, other, "x")
			both := time.Now()
			if holder.ValidFor() <= 0 {
				t.Fatal("the first lease has ended already: nothing is shown")
			}
			if next.Token() <= holder.Token() {
				t.Errorf("token %d after %d", next.Token(), holder.Token())
			}
			if what == "told" {
				select {
				case <-holder.Done():
				case <-time.After(10 * time.Second):
					t.Fatal("it is not told that its lease has ended")
				}
				took := time.Since(both)
				t.Logf("two leases were valid for %v", took)
				if took > c.TTL/3+late || holder.ValidFor() > 0 {
					t.Errorf("told after %v, valid for %v", took, holder.ValidFor())
				}
				if err := holder.Release(t.Context()); !errors.Is(err, lock.ErrLost) {
					t.Errorf("Release of what is another's: %v", err)
				}
			} else if err := holder.Release(t.Context()); err != nil {
				t.Errorf("Release: %v", err)
			}
			time.Sleep(c.TTL)
			if next.Err() != nil || next.ValidFor() <= 0 || s.number("EXISTS", "{test}:o:x") != 1 {
				t.Errorf("the next one's lease: %v, valid for %v", next.Err(), next.ValidFor())
			}
		})
	}
}

// TestClockBack: a clock that is set back gives a lock that is renewed to nobody, and
// one that is released to who waits, at once, with a token that is higher all the same.
//
// Mutants: tokens are the time; acquire does not look for a holder.
func TestClockBack(t *testing.T) {
	s, clock := startServerWithClock(t)
	c := s.config()
	c.alive = 90 * time.Second // it asks for the end of the lease alone
	one, other := node(t, c), node(t, c)
	holder := acquireNow(t, one, "x")
	granted := s.queue(other)
	clock.Shift(-jump)
	select {
	case <-granted:
		t.Fatal("granted while another renews its lease")
	case <-time.After(3 * c.TTL):
	}
	if holder.Err() != nil || holder.ValidFor() <= 0 {
		t.Errorf("the holder's lease: %v, valid for %v", holder.Err(), holder.ValidFor())
	}
	if left := s.number("PTTL", "{test}:o:x"); left > c.TTL.Milliseconds() {
		t.Errorf("renewed, for %d ms", left)
	}
	if err := holder.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	next, took := within(t, granted, 10*time.Second)
	t.Logf("granted %v after the release", took)
	if took > c.TTL*2/5 { // the next question is later, as a rule
		t.Errorf("granted %v after the release", took)
	}
	if next.Token() <= holder.Token() {
		t.Errorf("token %d after %d", next.Token(), holder.Token())
	}
}

// TestClockBackAfterACrash: what a dead holder had lives on for as long as the clock was
// set back, as long as nobody asks; whoever does waits for a TTL and not for that.
//
// Mutant: acquire does not shorten what lasts for longer than a lease.
func TestClockBackAfterACrash(t *testing.T) {
	for _, waits := range []bool{false, true} {
		s, clock := startServerWithClock(t)
		c := s.config()
		one, die := s.mortal(c)
		other := node(t, c)
		holder := acquireNow(t, one, "x")
		var granted <-chan lock.Lease
		if waits {
			granted = s.queue(other)
		}
		die()
		clock.Shift(-jump)
		if !waits {
			time.Sleep(2 * c.TTL)
			if left := s.number("PTTL", "{test}:o:x"); left < (jump - time.Minute).Milliseconds() {
				t.Fatalf("the lock is kept for %d ms: nothing is shown", left)
			}
			granted = s.queue(other)
		}
		next, took := within(t, granted, 20*time.Second)
		t.Logf("waiting before: %v, granted after %v", waits, took)
		if took > c.TTL+aliveFor/3+late {
			t.Errorf("waiting before: %v, granted after %v", waits, took)
		}
		if next.Token() <= holder.Token() {
			t.Errorf("token %d after %d", next.Token(), holder.Token())
		}
	}
}

// TestClockBackDeadHead: who died in the queue is taken for alive for as long as the
// clock was set back. A release costs those behind it claimIn. The end of a holder that
// released nothing leaves them stuck: that is a limit, and is pinned here.
//
// Mutants: release gives the head as long as it had; who is to be alive for longer than
// anybody is, is dead (then what is pinned no longer holds).
func TestClockBackDeadHead(t *testing.T) {
	for _, crashed := range []bool{false, true} {
		s, clock := startServerWithClock(t)
		c := s.config()
		c.alive = 900 * time.Millisecond
		one, die := s.mortal(c)
		dead, dieWaiting := s.mortal(c)
		other := node(t, c)
		holder := acquireNow(t, one, "x")
		s.queue(dead)
		granted := s.queue(other)
		dieWaiting()
		clock.Shift(-jump)
		if !crashed {
			if err := holder.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, took := within(t, granted, 20*time.Second)
			t.Logf("granted %v after the release", took)
			if took > claimIn+c.alive/3+late {
				t.Errorf("granted %v after the release", took)
			}
			continue
		}
		die()
		select {
		case <-granted:
			t.Error("the dead one is out of the way: the package's comment says otherwise")
			continue
		case <-time.After(c.alive + 3*c.TTL):
		}
		if s.number("EXISTS", "{test}:o:x") != 0 {
			t.Error("somebody holds the lock: it is not the queue that is stuck")
		}
		clock.Shift(jump)
		within(t, granted, c.alive+late)
	}
}

func takeNow(t testing.TB, s lock.Session, take lock.Take) lock.Record {
	t.Helper()
	taken, err := s.Take(t.Context(), []lock.Take{take})
	if err != nil || !taken[0].OK {
		t.Fatalf("take %+v: %+v, %v", take, taken, err)
	}
	return taken[0].Record
}

func drawNow(t testing.TB, s lock.Session, of lock.Record) uint64 {
	t.Helper()
	stamp, err := s.Draw(t.Context(), of.Partition, of.Tenure)
	if err != nil {
		t.Fatal(err)
	}
	return stamp
}

func after(r lock.Record) lock.Take {
	return lock.Take{Partition: r.Partition, Holder: r.Holder, Tenure: r.Tenure}
}

// TestClockForwardEndsSessions pins the same limit for nodes' leases: a partition can be
// taken from a holder that believes in its lease until its next renewal. Its stamps
// tell them apart.
//
// Mutants: a renewal brings an ended lease back; one that is refused is not noticed;
// renewals come each TTL.
func TestClockForwardEndsSessions(t *testing.T) {
	s, clock := startServerWithClock(t)
	c := s.config()
	c.TTL = 3 * time.Second
	one, other := begun(t, node(t, c)), node(t, c)
	had := takeNow(t, one, lock.Take{Partition: 1})
	stamp := drawNow(t, one, had)
	clock.Shift(c.TTL + time.Second)
	next := takeNow(t, begun(t, other), after(had))
	both := time.Now()
	if one.ValidFor() <= 0 {
		t.Fatal("the first lease has ended already: nothing is shown")
	}
	if next.Stamp <= stamp {
		t.Errorf("stamp %d after %d", next.Stamp, stamp)
	}
	select {
	case <-one.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it is not told that its lease has ended")
	}
	took := time.Since(both)
	t.Logf("two leases were valid for %v", took)
	if took > c.TTL/3+late || one.ValidFor() > 0 {
		t.Errorf("told after %v, valid for %v", took, one.ValidFor())
	}
	if _, err := one.Draw(t.Context(), 1, had.Tenure); !errors.Is(err, lock.ErrLost) {
		t.Errorf("a stamp of what is another's: %v", err)
	}
}

// TestClockBackStampsRise: whatever the clock says, stamps rise, and a lease that is
// renewed goes on. With grace a server that has its data since a later time than it is
// now counts as new: all leases end, and nothing is taken for a TTL.
//
// Mutants: stamps are the time; with grace, an epoch may begin later than now.
func TestClockBackStampsRise(t *testing.T) {
	for _, grace := range []bool{false, true} {
		s, clock := startServerWithClock(t)
		c := s.config()
		c.Grace = grace
		one, other := node(t, c), node(t, c)
		session := begun(t, one)
		had := takeNow(t, session, lock.Take{Partition: 1})
		stamp := had.Stamp
		rises := func(next uint64) {
			t.Helper()
			if next <= stamp {
				t.Errorf("grace=%v: stamp %d after %d", grace, next, stamp)
			}
			stamp = next
		}
		rises(drawNow(t, session, had))
		clock.Shift(-jump)
		back := time.Now()
		if grace {
			select {
			case <-session.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("its lease is not of this epoch, and goes on")
			}
			had = takeNow(t, begun(t, other), after(had))
			if took := time.Since(back); took < c.TTL*9/10 {
				t.Errorf("taken %v after the clock was set back", took)
			}
			rises(had.Stamp)
			continue
		}
		for range 10 {
			rises(drawNow(t, session, had))
		}
		had = takeNow(t, session, after(had))
		rises(had.Stamp)
		time.Sleep(2 * c.TTL)
		if session.ValidFor() <= 0 {
			t.Error("the lease has ended")
		}
		stop(one)
		rises(takeNow(t, begun(t, other), after(had)).Stamp)
	}
}

// TestClockBackDeadNode pins a limit: a node that has died, and renewed nothing since the
// clock was set back, keeps its partitions for as long as that.
//
// Mutant: a lease that lasts for longer than leases do has ended.
func TestClockBackDeadNode(t *testing.T) {
	s, clock := startServerWithClock(t)
	c := s.config()
	one, die := s.mortal(c)
	other := begun(t, node(t, c))
	session := begun(t, one)
	had := takeNow(t, session, lock.Take{Partition: 1})
	die()
	clock.Shift(-jump)
	time.Sleep(3 * c.TTL)
	taken, err := other.Take(t.Context(), []lock.Take{after(had)})
	if err != nil || taken[0].OK || !s.has(session) {
		t.Errorf("the dead node's lease has ended: the package's comment says otherwise: %+v, %v", taken, err)
	}
	clock.Shift(jump) // which ends all leases
	<-other.Done()
	takeNow(t, begun(t, node(t, c)), after(had))
}

// TestClockBackAndLostData pins a limit: who has forgotten what it granted has nothing
// but its clock to be higher than that. If it was set back, too, stamps and tokens fall.
//
// Mutant: stamps begin far ahead.
func TestClockBackAndLostData(t *testing.T) {
	s, clock := startServerWithClock(t)
	c := s.config()
	l := node(t, c)
	session := begun(t, l)
	stamp := takeNow(t, session, lock.Take{Partition: 1}).Stamp
	token := acquireNow(t, l, "x").Token()
	clock.Shift(-jump)
	s.must("FLUSHALL")
	<-session.Done()
	if next := takeNow(t, begun(t, l), lock.Take{Partition: 1}).Stamp; next >= stamp {
		t.Errorf("stamp %d after %d: the package's comment says otherwise", next, stamp)
	}
	if next := acquireNow(t, l, "x").Token(); next >= token {
		t.Errorf("token %d after %d: the package's comment says otherwise", next, token)
	}
}
