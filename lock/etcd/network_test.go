package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

// far is a configuration that reaches a cluster by a relay.
func (c *cluster) far(t testing.TB) (Config, *locktest.Relay) {
	relay := locktest.NewRelay(t, c.members[0].Address)
	config := c.config()
	config.Endpoints = []string{relay.Address()}
	return config, relay
}

// TestLostReply: the answer to whatever question is lost, and what the cluster did is
// neither forgotten nor done twice.
//
// Mutant: free tries once.
func TestLostReply(t *testing.T) {
	c := startCluster(t, 1)
	config, relay := c.far(t)
	config.TTL, config.Margin = 10*time.Second, time.Second
	near := config
	near.Endpoints = c.config().Endpoints
	one, other := node(t, config), node(t, near)
	for n := 1; n <= 6; n++ {
		relay.CutAt(n)
		lease := acquireNow(t, one, "x")
		if err := lease.Release(t.Context()); err != nil {
			t.Errorf("cut at reply %d: Release: %v", n, err)
		}
		relay.Heal()
		began := time.Now()
		again := acquireNow(t, other, "x")
		if took := time.Since(began); took > config.TTL/2 {
			t.Errorf("cut at reply %d: the lock was free after %v", n, took)
		}
		if again.Token() <= lease.Token() {
			t.Errorf("cut at reply %d: token %d after %d", n, again.Token(), lease.Token())
		}
		waits := make(chan lock.Lease, 1)
		relay.CutAt(n)
		go func() { waits <- acquireNow(t, one, "x") }()
		within(t, 20*time.Second, "it waits", func() bool { return len(c.keys("test/locks/x/")) == 2 })
		relay.Heal()
		again.Release(t.Context())     //nolint:errcheck // its way is whole
		(<-waits).Release(t.Context()) //nolint:errcheck // its way is whole
	}
	within(t, 10*time.Second, "nothing is left", func() bool { return len(c.keys("test/locks/")) == 0 })
}

// TestGivenUpUnanswered: who gives up while the cluster's answer is on its way has a
// place by then, and does not keep it.
//
// Mutant: queueUp frees nothing.
func TestGivenUpUnanswered(t *testing.T) {
	c := startCluster(t, 1)
	config, relay := c.far(t)
	config.TTL, config.Margin = 30*time.Second, time.Second
	one := node(t, config)
	acquireNow(t, one, "y")
	relay.Mute()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	given := make(chan error, 1)
	go func() {
		_, err := one.Acquire(ctx, "x")
		given <- err
	}()
	within(t, 20*time.Second, "the cluster has its place", func() bool { return len(c.keys("test/locks/x/")) == 1 })
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("Acquire: %v", err)
	}
	relay.Heal()
	within(t, 20*time.Second, "the place is given up", func() bool { return len(c.keys("test/locks/x/")) == 0 })
}

// TestCutOff: a holder that cannot reach the cluster knows that it has lost the lock
// before another has it, and can have it again when the way is whole.
//
// Mutants: a lease does not look at its end; a renewal counts from its answer; Term is
// the whole TTL.
func TestCutOff(t *testing.T) {
	c := startCluster(t, 1)
	config, relay := c.far(t)
	one, other := node(t, config), node(t, c.config())
	lease := acquireNow(t, one, "x")
	next := make(chan lock.Lease, 1)
	go func() { next <- acquireNow(t, other, "x") }()
	within(t, 20*time.Second, "another waits", func() bool { return len(c.keys("test/locks/x/")) == 2 })
	time.Sleep(config.TTL / 2) // it has been renewed since
	relay.Stall()
	ended := within(t, 20*time.Second, "the lease ends", func() bool { return lease.ValidFor() <= 0 })
	select {
	case <-next:
		t.Error("another had it before")
	default:
	}
	if ended > config.TTL {
		t.Errorf("it ended after %v, with a TTL of %v", ended, config.TTL)
	}
	<-lease.Done()
	if !errors.Is(lease.Err(), lock.ErrLost) {
		t.Errorf("it ended by %v", lease.Err())
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := one.Acquire(ctx, "y"); !errors.Is(err, lock.ErrUnavailable) {
		t.Errorf("Acquire without a way to the cluster: %v", err)
	}
	(<-next).Release(t.Context()) //nolint:errcheck // it could be had
	relay.Cut()
	relay.Heal()
	acquireNow(t, one, "x").Release(t.Context()) //nolint:errcheck // it could be had
}

// TestSlow: what is slow on its way is on time all the same.
//
// Mutant: perTry bounds the whole Acquire.
func TestSlow(t *testing.T) {
	c := startCluster(t, 1)
	config, relay := c.far(t)
	one := node(t, config)
	relay.Delay(100 * time.Millisecond)
	for i := range 3 {
		lease := acquireNow(t, one, fmt.Sprint(i))
		if left := lease.ValidFor(); left > config.TTL-config.Margin {
			t.Errorf("valid for %v", left)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestCompaction: a history that is thrown away while somebody waits costs him nothing.
func TestCompaction(t *testing.T) {
	c := startCluster(t, 1)
	one, other := node(t, c.config()), node(t, c.config())
	lease := acquireNow(t, one, "x")
	next := make(chan lock.Lease, 1)
	go func() { next <- acquireNow(t, other, "x") }()
	within(t, 20*time.Second, "another waits", func() bool { return len(c.keys("test/locks/x/")) == 2 })
	answer, err := c.asks.Put(t.Context(), "else", "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.asks.Compact(t.Context(), answer.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	lease.Release(t.Context()) //nolint:errcheck // the next one shows it
	(<-next).Release(t.Context())
}

// TestRestart: a server that is restarted has what it had; one that comes back empty
// has nothing, and who held something knows that within a TTL.
//
// Mutant: a session that has ended is used again.
func TestRestart(t *testing.T) {
	c := startCluster(t, 1)
	config := c.config()
	config.TTL, config.Margin = 6*time.Second, time.Second
	l := node(t, config)
	lease := acquireNow(t, l, "x")
	c.members[0].Kill()
	c.members[0].Start()
	time.Sleep(config.TTL)
	if lease.Err() != nil {
		t.Errorf("restarted: %v", lease.Err())
	}
	c.members[0].Kill()
	c.members[0].StartEmpty()
	within(t, 20*time.Second, "it is lost", func() bool { return errors.Is(lease.Err(), lock.ErrLost) })
	acquireNow(t, l, "x").Release(t.Context()) //nolint:errcheck // it could be had
}

// TestLeaderStands: while the leader of three stands still, nobody has what another
// has, what is held stays so or is known to be lost, and locks can be had again soon.
func TestLeaderStands(t *testing.T) {
	c := startCluster(t, 3)
	config := c.config()
	config.TTL, config.Margin = 5*time.Second, time.Second
	one, other := node(t, config), node(t, config)
	held := acquireNow(t, one, "held")
	leader := c.leader()
	leader.Freeze()
	began := time.Now()
	lease := acquireNow(t, other, "x")
	t.Logf("a lock was to be had again after %v", time.Since(began).Round(time.Millisecond))
	queued := make(chan lock.Lease, 1)
	go func() { queued <- acquireNow(t, other, "held") }()
	time.Sleep(config.TTL)
	if len(queued) > 0 && held.ValidFor() > 0 {
		t.Error("two have it")
	}
	leader.Thaw()
	lease.Release(t.Context()) //nolint:errcheck // it may be lost
	if err := held.Release(t.Context()); err != nil {
		t.Logf("what was held is lost: %v", err)
	}
	(<-queued).Release(t.Context())
}

// leader is the member that leads the cluster.
func (c *cluster) leader() *locktest.Server {
	c.t.Helper()
	for _, m := range c.members {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		status, err := c.asks.Status(ctx, m.Address)
		cancel()
		if err != nil {
			c.t.Fatal(err)
		}
		if status.Header.MemberId == status.Leader {
			return m
		}
	}
	c.t.Fatal("no leader")
	return nil
}

// TestCloseWithoutCluster ends what waits and what is held although the cluster does not answer, and
// a second Close waits for the first.
//
// Mutant: Close waits for the cluster without end.
func TestCloseWithoutCluster(t *testing.T) {
	c := startCluster(t, 1)
	config, relay := c.far(t)
	l := open(t, config)
	lease := acquireNow(t, l, "x")
	waits := make(chan error, 1)
	go func() {
		_, err := l.Acquire(t.Context(), "x")
		waits <- err
	}()
	within(t, 20*time.Second, "it waits", func() bool { return len(c.keys("test/locks/x/")) == 2 })
	relay.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	both := make(chan error, 2)
	for range 2 {
		go func() { both <- l.Close(ctx) }()
	}
	if err := <-waits; !errors.Is(err, lock.ErrClosed) {
		t.Errorf("what waited: %v", err)
	}
	first, second := <-both, <-both
	if first == nil && second == nil {
		t.Error("Close without a cluster says that all is well")
	}
	if err := errors.Join(first, second); !strings.Contains(err.Error(), "lease") && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v", err)
	}
	if lease.ValidFor() > 0 || lease.Err() == nil {
		t.Errorf("what was held: valid for %v, %v", lease.ValidFor(), lease.Err())
	}
}
