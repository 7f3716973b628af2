package upstream

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// waiting has n requests wait, one after the other, and returns where each says when it
// got its place, or why not.
func waiting(u *Upstream, n int, key func(int) string, patience time.Duration) (served chan int, failed chan error) {
	served, failed = make(chan int, n), make(chan error, n)
	for i := range n {
		go func() {
			l, err := try(u, key(i), patience)
			if err != nil {
				failed <- err
				return
			}
			served <- i
			time.Sleep(time.Second)
			l.Answered()
			l.Done(true)
		}()
		synctest.Wait()
	}
	return served, failed
}

// The test of the promise that who waits for a connection or a permit gets it in the
// order of coming.
//
// Mutants: a place that comes free is given to nobody; the queue is walked from its end; who comes
// needs no permit; a target has room for everybody.
func TestPlacesAreGivenInOrder(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"connections": func(c *Config) { c.MaxConnections = 2 },
		"permits":     func(c *Config) { c.Limit = Limit{Mode: Fixed, Max: 2} },
		"adaptive":    func(c *Config) { c.Limit = Limit{Mode: Adaptive, Max: 2, Min: 2} },
		"by key":      func(c *Config) { c.MaxConnections, c.Balance = 2, KeyHash },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, f := newFake(t, 1, change)
				served, failed := waiting(u, 20, numbered, time.Minute)
				if state := u.State(); state.InFlight != 2 || state.Waiting != 18 {
					t.Errorf("%d in flight, %d waiting", state.InFlight, state.Waiting)
				}
				var order []int
				for range 10 {
					synctest.Wait()
					late, err := try(u, "late", 0)
					if err == nil {
						t.Error("somebody overtakes all who wait")
						late.Done(true)
					}
					time.Sleep(time.Second)
				}
				synctest.Wait()
				for range 20 {
					order = append(order, <-served)
				}
				if !pairwise(order) || len(failed) > 0 {
					t.Errorf("served %v, %d failed", order, len(failed))
				}
				if len(f.dialed) != 2 {
					t.Errorf("%d connections were made for 2 at a time", len(f.dialed))
				}
			})
		})
	}
}

// pairwise: two at a time are let in in the same moment.
func pairwise(order []int) bool {
	for i := 0; i+1 < len(order); i += 2 {
		pair := []int{order[i], order[i+1]}
		slices.Sort(pair)
		if pair[0] != i || pair[1] != i+1 {
			return false
		}
	}
	return true
}

// Mutants: the queue has no bound; the wait has no end; who left is still served; a place that
// comes in the moment in which patience ends is lost.
func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := newFake(t, 1, func(c *Config) { c.MaxConnections, c.Queue = 1, 3 })
		first := take(t, u, "")
		served, failed := waiting(u, 5, noKey, 5*time.Second)
		if len(failed) != 2 {
			t.Fatalf("%d of 5 are refused, where 3 may wait", len(failed))
		}
		for range 2 {
			if err := <-failed; !errors.Is(err, ErrQueueFull) {
				t.Error(err)
			}
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for range 3 {
			if err := <-failed; !errors.Is(err, ErrWaited) {
				t.Error(err)
			}
		}
		if len(served) > 0 || u.State().Waiting != 0 {
			t.Error("they left, and are still there")
		}
		for round := range 50 { // in the same moment
			got := make(chan error, 1)
			go func() {
				l, err := try(u, "", time.Second)
				if err == nil {
					l.Done(true)
				}
				got <- err
			}()
			synctest.Wait()
			time.Sleep(time.Second)
			first.Done(true)
			if err := <-got; err != nil && !errors.Is(err, ErrWaited) {
				t.Fatal(round, err)
			}
			if state := u.State(); state.InFlight != 0 || state.Waiting != 0 {
				t.Fatalf("%+v", state)
			}
			first = take(t, u, "")
		}
		first.Done(true)
	})
}

// Who waits for the target of its key does not hold up who has another, and goes on when its
// target goes, or is refused when none is left.
//
// Mutants: the first that has to wait stops all; who waits for a target waits for it for ever;
// who waits learns nothing of the last target's end.
func TestWhoWaitsForATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := newFake(t, 2, func(c *Config) { c.MaxConnections, c.Balance = 1, KeyHash })
		byHome := map[string][]string{}
		for i := range 50 {
			l := take(t, u, numbered(i))
			byHome[l.Target.Name] = append(byHome[l.Target.Name], numbered(i))
			l.Done(true)
		}
		ofA, ofB := byHome["http://a"], byHome["http://b"]
		onA, onB := take(t, u, ofA[0]), take(t, u, ofB[0])
		aServed, aFailed := waiting(u, 2, func(i int) string { return ofA[1+i] }, time.Minute)
		bServed, _ := waiting(u, 1, func(i int) string { return ofB[1+i] }, time.Minute)
		onB.Done(true)
		synctest.Wait()
		if len(bServed) != 1 || len(aServed) != 0 {
			t.Fatal("a free connection of b is not given to who waits for it")
		}
		time.Sleep(2 * time.Second)
		u.mu.Lock()
		u.targets[0].health.down = true
		u.turned(u.targets[0], true)
		u.mu.Unlock()
		synctest.Wait()
		if len(aServed) != 1 {
			t.Fatal("who waited for a target that went does not go on at the next")
		}
		u.mu.Lock()
		u.targets[1].health.down = true
		u.turned(u.targets[1], true)
		u.mu.Unlock()
		if err := <-aFailed; !errors.Is(err, ErrNone) {
			t.Errorf("with no target left: %v", err)
		}
		onA.Done(true)
		time.Sleep(2 * time.Second)
		if _, err := try(u, "", time.Minute); !errors.Is(err, ErrNone) {
			t.Errorf("a request then: %v", err)
		}
	})
}

// Mutants: an idle connection is not asked whether it is usable; the oldest is taken; they
// stay for ever; those of a target that is away stay.
func TestIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, f := newFake(t, 1, nil)
		var all []*Lease
		for range 3 {
			all = append(all, take(t, u, ""))
		}
		conns := make([]*fakeConn, 3)
		for i, l := range all {
			conns[i] = l.Conn.(*fakeConn)
			l.Done(true)
		}
		conns[2].stale = true
		l := take(t, u, "")
		if l.Conn != Conn(conns[1]) || !conns[2].closed() {
			t.Error("the newest one that is usable is not taken")
		}
		l.Done(false)
		if !conns[1].closed() {
			t.Error("a connection that is out of step is kept")
		}
		time.Sleep(29 * time.Second)
		if conns[0].closed() {
			t.Error("closed too early")
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if !conns[0].closed() {
			t.Error("an old one is kept")
		}
		l = take(t, u, "")
		kept := l.Conn.(*fakeConn)
		l.Done(true)
		u.mu.Lock()
		dropped := u.turned(u.targets[0], true)
		u.mu.Unlock()
		if len(dropped.idle) != 1 || dropped.idle[0] != Conn(kept) {
			t.Error("the connections of a target that went stay")
		}
		if len(f.dialed) != 4 {
			t.Errorf("%d dials", len(f.dialed))
		}
	})
}

// Who looks for itself gets an idle connection as it is, and for one that was stale the next
// usable one, or a new one, in the same place.
//
// Mutants: Acquire looks all the same; Renew takes another place, or gives out a stale one; when it
// fails the place is kept.
func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, f := newFake(t, 1, func(c *Config) { c.MaxConnections = 3 })
		var all []*Lease
		for range 3 {
			all = append(all, take(t, u, ""))
		}
		conns := make([]*fakeConn, 3)
		for i, l := range all {
			conns[i] = l.Conn.(*fakeConn)
			conns[i].stale = i > 0
			l.Done(true)
		}
		looks := func() *Lease {
			l := new(Lease)
			if err := u.Acquire(l, &Request{Looks: true}); err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := looks()
		if l.Conn != Conn(conns[2]) {
			t.Error("it was not left to who looks")
		}
		if err := l.Renew(); err != nil || l.Conn != Conn(conns[0]) || !conns[1].closed() || !conns[2].closed() {
			t.Errorf("renewed: %v, the usable one %t", err, l.Conn == Conn(conns[0]))
		}
		if err := l.Renew(); err != nil || len(f.dialed) != 4 || !conns[0].closed() {
			t.Errorf("renewed again: %v after %d dials", err, len(f.dialed))
		}
		f.set("a:80", true)
		if err := l.Renew(); err == nil {
			t.Error("renewed by a target that is down")
		}
		f.set("a:80", false)
		for range 3 {
			take(t, u, "")
		}
	})
}

// Close leaves what is in use alone, and who waits or still comes has a connection of its own.
//
// Mutants: it keeps idle connections; who waits is refused; a connection comes back to the pool.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := newFake(t, 1, func(c *Config) { c.MaxConnections = 2 })
		used, idle := take(t, u, ""), take(t, u, "")
		was := idle.Conn.(*fakeConn)
		idle.Done(true)
		also := take(t, u, "")
		served, failed := waiting(u, 1, noKey, time.Minute)
		u.Close()
		conn := used.Conn.(*fakeConn)
		if conn.closed() || was.closed() {
			t.Error("a connection in use is closed")
		}
		used.Answered()
		used.Done(true)
		also.Done(true)
		select {
		case <-served:
		case err := <-failed:
			t.Error(err)
		}
		late := take(t, u, "")
		last := late.Conn.(*fakeConn)
		if late.Done(true); !last.closed() {
			t.Error("a connection outlives a request that came after Close")
		}
		time.Sleep(2 * time.Second) // who was served goes
		if !conn.closed() || !was.closed() {
			t.Error("a connection outlives its request and its upstream")
		}
		u.Close()
		u.Start()

		u, _ = newFake(t, 1, nil)
		l := take(t, u, "")
		was = l.Conn.(*fakeConn)
		l.Done(true)
		u.Close()
		if !was.closed() {
			t.Error("an idle connection outlives its upstream")
		}
	})
}

// BenchmarkAcquire is what a request pays here.
func BenchmarkAcquire(b *testing.B) {
	for name, change := range map[string]func(*Config){
		"plain":    func(*Config) {},
		"key hash": func(c *Config) { c.Balance = KeyHash },
		"adaptive": func(c *Config) { c.Limit = Limit{Mode: Adaptive, Max: 100, Min: 4} },
	} {
		for _, n := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				f := &fakes{}
				config := Config{Name: "app", Dial: f.dial, Circuit: Circuit{Failures: 10}, MaxConnections: 100, IdleTimeout: time.Minute}
				for i := range n {
					config.Targets = append(config.Targets, fmt.Sprintf("http://t%d", i))
				}
				change(&config)
				u, err := New(config, wrapFake, discard)
				if err != nil {
					b.Fatal(err)
				}
				defer u.Close()
				b.ReportAllocs()
				var l Lease
				key := []byte("order:12345")
				for b.Loop() {
					if err := u.Acquire(&l, &Request{Key: key, Measured: true}); err != nil {
						b.Fatal(err)
					}
					l.Answered()
					l.Done(true)
				}
			})
		}
	}
}
