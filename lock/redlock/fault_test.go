package redlock

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

// patience is how long a test waits for what must happen soon.
const patience = 20 * time.Second

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

func (s *server) holds(name string) bool { return s.number("EXISTS", "{test}:o:"+name) == 1 }

func (s *server) queues(name string) int { return s.number("ZCARD", "{test}:q:"+name) }

// relays stand before masters; a node with the configuration goes through them.
func (m masters) relays(c *Config) (all []*locktest.Relay) {
	c.Addresses = nil
	for _, s := range m {
		r := locktest.NewRelay(m[0].t, s.Address)
		all = append(all, r)
		c.Addresses = append(c.Addresses, r.Address())
	}
	return all
}

func releaseNow(t testing.TB, lease lock.Lease) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := lease.Release(ctx); err != nil {
		t.Errorf("Release: %v", err)
	}
}

// pairs takes and releases a lock from two nodes in turn, and returns how long each
// took.
func pairs(t testing.TB, nodes ...*Locker) (took []time.Duration) {
	t.Helper()
	for i := range 20 {
		began := time.Now()
		lease := acquireNow(t, nodes[i%len(nodes)], "x")
		took = append(took, time.Since(began))
		releaseNow(t, lease)
	}
	slices.Sort(took)
	return took
}

// TestOneMasterIsLate: a master that hangs, or is slow, delays nobody for longer than
// an attempt waits for it, and most not at all. Leases live on without it, and
// Close does not wait for it for long.
//
// Mutants: an attempt waits for all masters; a release does; renewals do; Close does.
func TestOneMasterIsLate(t *testing.T) {
	t.Parallel() // it sleeps most of the time
	for name, hinder := range map[string]func(*server, *locktest.Relay){
		"hung": func(s *server, _ *locktest.Relay) { s.Freeze() },
		"slow": func(_ *server, r *locktest.Relay) { r.Delay(200 * time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			m := startMasters(t, 3)
			c := m.config()
			c.alive = 2 * patience // which Close would wait for
			relays := m.relays(&c)
			one, other := node(t, c), open(t, c)
			long := acquireNow(t, one, "long")
			hinder(m[0], relays[0])
			began := time.Now()
			took := pairs(t, one, other)
			if most := took[len(took)-1]; most >= 2*c.perMaster() {
				t.Errorf("a lock took %v, while an attempt waits for %v", most, c.perMaster())
			}
			if total := time.Since(began); total > c.TTL {
				t.Errorf("20 locks and releases took %v", total)
			}
			t.Logf("acquire: p50 %v, most %v", took[len(took)/2], took[len(took)-1])
			time.Sleep(c.TTL + c.TTL/2)
			if long.Err() != nil || long.ValidFor() <= 0 {
				t.Errorf("valid for %v: %v", long.ValidFor(), long.Err())
			}
			began = time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := other.Close(ctx); err != nil || time.Since(began) > patience/2 {
				t.Errorf("Close: %v, after %v", err, time.Since(began))
			}
		})
	}
}

// TestRestartedEmpty: a master forgets its locks, just when another that knows nothing
// comes back. Both together are a majority, and grant nothing beside a valid lease.
//
// Mutants: closed = 0 in acquireText; Config.Grace is not sent.
func TestRestartedEmpty(t *testing.T) {
	t.Parallel() // it sleeps most of the time
	m := startMasters(t, 3)
	c := m.config()
	c.Grace = true
	far := c
	relays := m.relays(&far)
	one, other := node(t, far), node(t, c)
	releaseNow(t, acquireNow(t, one, "x")) // the masters are open now
	m[2].Kill()
	holder := acquireNow(t, one, "x")
	for _, r := range relays {
		r.Stall() // it does not renew
	}
	m[1].Kill()
	m[1].Start()
	m[2].Start()
	heir(t, other, "x", holder)
	if !errors.Is(holder.Err(), lock.ErrLost) {
		t.Errorf("the holder says %v", holder.Err())
	}
}

// TestLocksAreRestored: a lease outlives each of its masters, if they die one after
// another.
//
// Mutant: renewals do not restore.
func TestLocksAreRestored(t *testing.T) {
	t.Parallel() // it sleeps most of the time
	m := startMasters(t, 3)
	c := m.config()
	c.Grace = true
	l := node(t, c)
	lease := acquireNow(t, l, "x")
	for round := range 2 {
		for _, s := range m {
			s.Kill()
			s.Start()
			until(t, "it is restored", func() bool { return s.holds("x") })
			if lease.Err() != nil || lease.ValidFor() <= 0 {
				t.Fatalf("round %d: valid for %v: %v", round, lease.ValidFor(), lease.Err())
			}
		}
	}
	m[0].Kill()
	time.Sleep(2 * c.TTL)
	if lease.Err() != nil || lease.ValidFor() <= 0 {
		t.Errorf("valid for %v: %v", lease.ValidFor(), lease.Err())
	}
}

// TestReleasedStaysFree: a renewal that is under way when a lock is released does not
// restore it.
//
// Mutant: a line asks after its last question.
func TestReleasedStaysFree(t *testing.T) {
	m := startMasters(t, 3)
	c := m.config()
	c.TTL, c.Margin = 20*time.Second, time.Second
	l := node(t, c)
	for range 200 {
		lease := acquireNow(t, l, "x")
		var wg sync.WaitGroup
		wg.Go(func() { l.renewOnce() })
		wg.Go(func() { releaseNow(t, lease) })
		wg.Wait()
	}
	until(t, "all is free", func() bool { return len(m.left(c.Prefix)) == 0 })
	lease := acquireNow(t, l, "x").(*lease)
	releaseNow(t, lease)
	until(t, "all is free", func() bool { return len(m.left(c.Prefix)) == 0 })
	for _, n := range lease.place.lines {
		n.restore(lease.question(), func(int64) { t.Error("restored") })
	}
	time.Sleep(50 * time.Millisecond)
	if left := m.left(c.Prefix); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestMajorityIsGone: what is held ends in time, and by itself; what is wanted waits,
// and says what is missing; and all goes on when the masters are back.
//
// Mutants: one master is enough; a lease does not look at its end; an unreachable
// majority is an error at once.
func TestMajorityIsGone(t *testing.T) {
	for name, hinder := range map[string]struct{ fall, rise func(*server) }{
		"dead":   {func(s *server) { s.Kill() }, func(s *server) { s.Start() }},
		"frozen": {func(s *server) { s.Freeze() }, func(s *server) { s.Thaw() }},
	} {
		t.Run(name, func(t *testing.T) {
			m := startMasters(t, 3)
			c := m.config()
			one, other := node(t, c), node(t, c)
			holder := acquireNow(t, one, "x")
			began := time.Now()
			hinder.fall(m[0])
			hinder.fall(m[1])
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := other.Acquire(ctx, "y")
			if !errors.Is(err, lock.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), m[0].Address) {
				t.Errorf("no majority: %v", err)
			}
			t.Log(err)
			select {
			case <-holder.Done():
			case <-time.After(patience):
				t.Fatal("never lost")
			}
			if took := time.Since(began); took > c.TTL+c.TTL/2 || holder.ValidFor() > 0 || !errors.Is(holder.Err(), lock.ErrLost) {
				t.Errorf("lost after %v, valid for %v: %v", took, holder.ValidFor(), holder.Err())
			}
			waits := make(chan lock.Lease, 1)
			go func() { waits <- heir(t, other, "x", holder) }()
			time.Sleep(100 * time.Millisecond)
			hinder.rise(m[0])
			hinder.rise(m[1])
			select {
			case lease := <-waits:
				releaseNow(t, lease)
			case <-time.After(patience):
				t.Fatal("it does not go on")
			}
		})
	}
}

// TestFiveMasters: two of five die while four nodes want a lock, and all goes on.
//
// Mutants: a lock needs three masters, whatever their number; dead masters' answers are
// waited for.
func TestFiveMasters(t *testing.T) {
	m := startMasters(t, 5)
	w := newWitness(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 4 {
		l := node(t, m.config())
		wg.Go(func() {
			for n := range 100 {
				if i == 0 && n == 30 {
					m[0].Kill()
				}
				if i == 1 && n == 60 {
					m[4].Kill()
				}
				lease, err := l.Acquire(ctx, "x")
				if err != nil {
					t.Errorf("Acquire: %v", err)
					return
				}
				w.grant(i, lease)
				releaseNow(t, lease)
			}
		})
	}
	wg.Wait()
	if w.granted != 400 {
		t.Errorf("%d grants", w.granted)
	}
	until(t, "nothing is left", func() bool { return len(m[1:4].left("test")) == 0 })
}

// TestMasterComesInLater: a master that is away when a node starts is used when it is
// there.
//
// Mutants: Open waits for all; it is tried once.
func TestMasterComesInLater(t *testing.T) {
	m := startMasters(t, 3)
	m[1].Kill()
	l := node(t, m.config())
	releaseNow(t, acquireNow(t, l, "x"))
	m[1].Start()
	until(t, "it is used", func() bool {
		lease := acquireNow(t, l, "x")
		defer releaseNow(t, lease)
		time.Sleep(5 * time.Millisecond)
		return m[1].holds("x")
	})
}

// TestFairness: four nodes that want a lock all the time have it equally often, and
// none waits for long.
//
// Mutants: acquire grants a free lock to whoever asks; each attempt has a new ticket.
func TestFairness(t *testing.T) {
	m := startMasters(t, 3)
	for name, ahead := range map[string][]time.Duration{
		"one time": {0, 0, 0, 0},
		"skewed":   {0, 50 * time.Millisecond, 10 * time.Second, -50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			const each = 100
			w := newWitness(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			var wg sync.WaitGroup
			for i := range 4 {
				c := m.config()
				c.Prefix += name
				c.TTL, c.Margin = 10*time.Second, time.Second
				c.clock = func() time.Time { return time.Now().Add(ahead[i]) }
				l := node(t, c)
				wg.Go(func() {
					for w.count() < 4*each {
						w.waits(i)
						lease, err := l.Acquire(ctx, "x")
						if err != nil {
							t.Errorf("Acquire: %v", err)
							return
						}
						w.grant(i, lease)
						time.Sleep(500 * time.Microsecond)
						releaseNow(t, lease)
					}
				})
			}
			wg.Wait()
			for i := range 4 {
				if n := w.shares[i]; math.Abs(float64(n)-each) > each/10 {
					t.Errorf("node %d had it %d times of %d", i, n, w.granted)
				}
			}
			if w.most > 40 {
				t.Errorf("a node waited for %d others", w.most)
			}
			t.Logf("shares %v; a node waited for %d others at most", w.shares, w.most)
		})
	}
}

// TestWaitersAreWoken: it is messages that tell a waiter, not its next question.
//
// Mutant: release publishes nothing.
func TestWaitersAreWoken(t *testing.T) {
	m := startMasters(t, 3)
	c := m.config()
	c.TTL, c.alive = time.Minute, 90*time.Second
	nodes := []*Locker{node(t, c), node(t, c), node(t, c)}
	began := time.Now()
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			lease, err := nodes[i%3].Acquire(ctx, "x")
			if err != nil {
				t.Error(err)
				return
			}
			lease.Release(ctx) //nolint:errcheck // the next one tells
		})
	}
	wg.Wait()
	t.Logf("60 hand-offs in %v", time.Since(began))
}

// TestLostMessages: connections on which a node hears that it is its turn break, or
// messages are lost without that, and it learns of it all the same.
//
// Mutant: who is first does not ask when a majority of the locks must have ended.
func TestLostMessages(t *testing.T) {
	for _, alone := range []bool{false, true} {
		m := startMasters(t, 3)
		c := m.config()
		c.alive = 90 * time.Second
		one, other := node(t, c), node(t, c)
		holder := acquireNow(t, one, "x")
		if alone {
			for _, m := range other.masters {
				(*m.store.Load()).(*redisStore).channel = "nobody listens"
			}
		}
		granted := make(chan lock.Lease, 1)
		go func() { granted <- heir(t, other, "x", holder) }()
		until(t, "it queues", func() bool { return m.least("ZCARD", "{test}:q:x") == 1 })
		if !alone {
			for _, s := range m {
				if err := s.do("CLIENT", "KILL", "TYPE", "pubsub").Error(); err != nil {
					t.Fatal(err)
				}
			}
		}
		holder.Release(t.Context()) //nolint:errcheck // the connection for commands may be the same one
		select {
		case <-granted:
		case <-time.After(patience):
			t.Fatal("nobody told it, and it did not ask")
		}
	}
}

// TestLateGrant: what a master grants to an attempt that has ended by then is given
// back.
//
// Mutants: an attempt yields what it knows of alone; a question that waits for its turn
// on a line is dropped.
func TestLateGrant(t *testing.T) {
	m := startMasters(t, 3)
	c := m.config()
	c.TTL, c.Margin = time.Minute, time.Second
	c.alive = 90 * time.Second // it does not ask again meanwhile
	far := c
	relays := m.relays(&far)
	one, other := node(t, c), node(t, far)
	holder := acquireNow(t, one, "x")
	until(t, "all masters have it", func() bool { return m.least("EXISTS", "{test}:o:x") == 1 })
	if err := m[2].do("DEL", "{test}:o:x").Error(); err != nil {
		t.Fatal(err)
	}
	relays[2].Mute()
	granted := make(chan lock.Lease, 1)
	go func() { granted <- heir(t, other, "x", holder) }()
	until(t, "it is granted by one", func() bool { return m[2].holds("x") })
	until(t, "it queues at the others", func() bool { return m[0].queues("x") == 1 && m[1].queues("x") == 1 })
	relays[2].Heal()
	until(t, "the late grant is given back", func() bool { return !m[2].holds("x") && m[2].queues("x") == 1 })
	releaseNow(t, holder)
	releaseNow(t, <-granted)
}

// TestHolderQueuesNowhere: who has the locks of a majority leaves the queues of the
// other masters, where it would be in the way of who comes next; and takes their locks
// when they are free.
//
// Mutants: a grant settles nothing; renewals do not restore.
func TestHolderQueuesNowhere(t *testing.T) {
	m := startMasters(t, 3)
	c := m.config()
	c.alive = 90 * time.Second
	l := node(t, c)
	if err := m[2].do("SET", "{test}:o:x", "1 60000 1 another", "PX", "60000").Error(); err != nil {
		t.Fatal(err)
	}
	lease := acquireNow(t, l, "x")
	until(t, "it leaves the queue", func() bool { return m[2].number("EXISTS", "{test}:seq:") == 1 && m[2].queues("x") == 0 })
	if err := m[2].do("DEL", "{test}:o:x").Error(); err != nil {
		t.Fatal(err)
	}
	until(t, "it has all locks", func() bool { return m[2].holds("x") })
	releaseNow(t, lease)
	until(t, "nothing is left", func() bool { return len(m.left("test")) == 0 })
}

// TestLostReply: the answers to whatever question are lost, by one master or all, and
// what they did is neither forgotten nor done twice.
//
// Mutant: what is freed without an answer is not freed again.
func TestLostReply(t *testing.T) {
	for _, all := range []bool{false, true} {
		m := startMasters(t, 3)
		near := m.config()
		near.TTL, near.Margin = 2*patience, time.Second
		far := near
		relays := m.relays(&far)
		if !all {
			relays = relays[:1]
		}
		one, other := node(t, far), node(t, near)
		for n := 1; n <= 4; n++ {
			for _, r := range relays {
				r.CutAt(n)
			}
			began := time.Now()
			releaseNow(t, acquireNow(t, one, "x"))
			for _, r := range relays {
				r.Heal()
			}
			releaseNow(t, acquireNow(t, other, "x"))
			if took := time.Since(began); took > near.TTL/2 {
				t.Errorf("cut at reply %d: it took %v", n, took)
			}
			until(t, "nothing is left", func() bool { return len(m.left("test")) == 0 })
		}
	}
}

// TestGivenUpUnanswered: who gives up while the masters' answers are on their way has
// their locks by then, and does not keep them.
//
// Mutant: a cancelled Acquire frees nothing.
func TestGivenUpUnanswered(t *testing.T) {
	m := startMasters(t, 3)
	near := m.config()
	near.TTL, near.Margin = 30*time.Second, time.Second
	far := near
	relays := m.relays(&far)
	one, other := node(t, far), node(t, near)
	for _, r := range relays {
		r.Mute()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := one.Acquire(ctx, "x")
		ended <- err
	}()
	until(t, "it is granted", func() bool { return m.least("EXISTS", "{test}:o:x") == 1 })
	for _, r := range relays {
		r.Stall() // what gives it up is on its way for a while, too
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if time.Sleep(50 * time.Millisecond); m.least("EXISTS", "{test}:o:x") != 1 {
		t.Fatal("it is free already: nothing is shown")
	}
	for _, r := range relays {
		r.Heal()
	}
	began := time.Now()
	releaseNow(t, acquireNow(t, other, "x"))
	if took := time.Since(began); took > near.TTL/2 {
		t.Errorf("free after %v", took)
	}
	until(t, "nothing is left", func() bool { return len(m.left("test")) == 0 })
}

// TestSlowAnswers: a lease is counted from before it was asked for, however long the
// answers take.
//
// Mutants: a grant counts from its answers; a renewal does.
func TestSlowAnswers(t *testing.T) {
	m := startMasters(t, 3)
	c := m.config()
	c.TTL, c.Margin = 6*time.Second, 50*time.Millisecond // less than what is late
	relays := m.relays(&c)
	one := node(t, c)
	const late = 200 * time.Millisecond
	for _, r := range relays {
		r.Delay(late)
	}
	lease := acquireNow(t, one, "x")
	if left, most := lease.ValidFor(), c.length()-late; left > most {
		t.Errorf("valid for %v at once: at most %v are certain", left, most)
	}
	one.renewOnce()
	if left, most := lease.ValidFor(), c.length()-late; left > most {
		t.Errorf("valid for %v when just renewed: at most %v are certain", left, most)
	}
	if lease.Err() != nil {
		t.Errorf("slow answers cost the lease: %v", lease.Err())
	}
}

// TestLapsedIsNotRenewed: a lease whose term is over stays so, though masters would
// give it their locks again.
//
// Mutant: vote extends without a look at the lease.
func TestLapsedIsNotRenewed(t *testing.T) {
	l := &Locker{config: Config{Addresses: make([]string, 3), TTL: time.Minute, Margin: time.Second}, masters: make([]*master, 3)}
	renewedAfter := func(length time.Duration) time.Duration {
		of := &lease{}
		of.Hold = lock.NewHold(1, &of.term)
		of.term.Extend(of.term.Now(), length)
		time.Sleep(5 * time.Millisecond)
		r := &round{locker: l, sent: of.term.Now(), votes: map[*lease]*votes{of: new(votes)}, all: make(chan struct{})}
		r.vote(of, 1)
		r.vote(of, 1)
		<-r.all
		return of.ValidFor()
	}
	if left := renewedAfter(time.Millisecond); left > 0 {
		t.Errorf("it had ended, and is valid for %v", left)
	}
	if left := renewedAfter(50 * time.Second); left < 51*time.Second {
		t.Errorf("it was valid, and is so for %v", left)
	}
}

// TestCloseTogether: Close has ended for all who call it, or for nobody.
//
// Mutant: a second Close returns at once.
func TestCloseTogether(t *testing.T) {
	m := startMasters(t, 3)
	l := open(t, m.config())
	acquireNow(t, l, "x")
	m[0].Freeze() // it takes a while
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := l.Close(ctx); err != nil {
				t.Errorf("Close: %v", err)
			}
			if l.gone.Err() == nil {
				t.Error("Close returned, and questions go on")
			}
		})
	}
	wg.Wait()
}

// TestFullMemory: what is held can be renewed and released when the masters have no
// memory left, and nothing is granted.
func TestFullMemory(t *testing.T) {
	m := startMasters(t, 3)
	c := m.config()
	l := node(t, c)
	lease := acquireNow(t, l, "x")
	set := func(most string) {
		for _, s := range m {
			if err := s.do("CONFIG", "SET", "maxmemory", most).Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("1mb")
	time.Sleep(2 * c.TTL)
	if lease.Err() != nil {
		t.Errorf("it was lost: %v", lease.Err())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := l.Acquire(ctx, "y"); !errors.Is(err, lock.ErrUnavailable) || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("full masters: %v", err)
	}
	releaseNow(t, lease)
	set("0")
	acquireNow(t, l, "x")
}

// TestScriptsAreForgotten: a master that was restarted, or told to, has no scripts.
func TestScriptsAreForgotten(t *testing.T) {
	m := startMasters(t, 3)
	l := node(t, m.config())
	lease := acquireNow(t, l, "x")
	for _, s := range m {
		if err := s.do("SCRIPT", "FLUSH").Error(); err != nil {
			t.Fatal(err)
		}
	}
	releaseNow(t, lease)
	acquireNow(t, l, "x")
}

// TestLargeNumbers: nothing rounds tickets and tokens up to the last that are used, and
// those beyond are refused.
//
// Mutants: a script writes a number as Lua does; numbers go on.
func TestLargeNumbers(t *testing.T) {
	m := startMasters(t, 3)
	c := m.config()
	const left = 20
	c.clock = func() time.Time { return time.UnixMicro(numbersEnd - left) }
	l := node(t, c)
	var last uint64
	for range left / 2 {
		lease := acquireNow(t, l, "x")
		if last != 0 && lease.Token() != last+2 {
			t.Errorf("token %d after %d", lease.Token(), last)
		}
		last = lease.Token()
		until(t, "all masters know the token", func() bool { return m.least("GET", "{test}:seq:") == int(last) })
		releaseNow(t, lease)
	}
	if _, err := l.Acquire(t.Context(), "x"); !errors.Is(err, lock.ErrUnavailable) || !strings.Contains(err.Error(), "2255") {
		t.Errorf("after %d: %v", last, err)
	}
}

// TestRefused: what is wrong with masters, and what to do.
func TestRefused(t *testing.T) {
	m := startMasters(t, 3)
	secret := startServer(t, "--requirepass", "right")
	evicts := startServer(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	host, port, _ := net.SplitHostPort(m[0].Address)
	replica := startServer(t, "--replicaof", host+" "+port)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	instead := func(address string, more ...string) func(*Config) {
		return func(c *Config) {
			c.Addresses = append([]string{c.Addresses[0], address}, append(more, c.Addresses[2])...)[:3]
		}
	}
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"no password", instead(secret.Address), []string{secret.Address, "user name and password", "NOAUTH"}},
		{"wrong password", func(c *Config) { instead(secret.Address)(c); c.Password = "wrong" }, []string{"user name and password"}},
		{"evicts", instead(evicts.Address), []string{evicts.Address, "evicts", "allkeys-lru", "noeviction"}},
		{"replica", instead(replica.Address), []string{replica.Address, "slave", "masters"}},
		{"one twice", func(c *Config) { c.Addresses[1] = c.Addresses[0] }, []string{m[0].Address, "twice"}},
		{"one by two names", instead("localhost:" + port), []string{"same server"}},
		{"two", func(c *Config) { c.Addresses = c.Addresses[:2] }, []string{"2 addresses", "odd", "at least 3"}},
		{"four", func(c *Config) { c.Addresses = append(c.Addresses, "127.0.0.1:1") }, []string{"4 addresses"}},
		{"nobody there", instead("127.0.0.1:1", "127.0.0.1:2"), []string{"1 of 3", "2 are needed", "127.0.0.1:1", "refused"}},
		{"silent", instead(silent.Addr().String(), "127.0.0.1:2"), []string{silent.Addr().String(), "does not answer"}},
		{"prefix", func(c *Config) { c.Prefix = "" }, []string{"prefix"}},
		{"TTL", func(c *Config) { c.TTL = time.Millisecond }, []string{"too short"}},
		{"microseconds", func(c *Config) { c.TTL += time.Microsecond }, []string{"whole milliseconds"}},
		{"margin", func(c *Config) { c.Margin = c.TTL / 2 }, []string{"margin"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := m.config()
			test.change(&c)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			l, err := Open(ctx, c)
			if err == nil {
				stop(l)
				t.Fatal("accepted")
			}
			t.Log(err)
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
	if err := judge(map[string]string{"redis_version": "5.0.14", "role": "master"}); err == nil || !strings.Contains(err.Error(), "at least 6") {
		t.Errorf("Redis 5: %v", err)
	}
	if err := judge(map[string]string{"redis_version": "10.0.0", "role": "master"}); err != nil {
		t.Errorf("Redis 10: %v", err)
	}
}
