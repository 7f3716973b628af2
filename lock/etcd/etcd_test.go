package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

// cluster is an etcd cluster of a test's own.
type cluster struct {
	members []*locktest.Server
	t       testing.TB
	asks    *clientv3.Client // the test's own questions
}

func startCluster(t testing.TB, n int, args ...string) *cluster {
	t.Helper()
	c := &cluster{members: locktest.Etcd(t, n, args...), t: t}
	client, err := clientv3.New(clientv3.Config{Endpoints: locktest.Addresses(c.members), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	c.asks = client
	t.Cleanup(func() { client.Close() })
	return c
}

// keys are those that begin with a prefix.
func (c *cluster) keys(prefix string) (keys []string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := c.asks.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, kv := range answer.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

// config is for a cluster, with short leases.
func (c *cluster) config() Config {
	return Config{Endpoints: locktest.Addresses(c.members), Prefix: "test/", TTL: 2 * time.Second, Margin: 400 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
}

func open(t testing.TB, c Config) *Locker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	l, err := Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// node opens a Locker that is closed when the test ends.
func node(t testing.TB, c Config) *Locker {
	t.Helper()
	l := open(t, c)
	t.Cleanup(func() { stop(l) })
	return l
}

func stop(l *Locker) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	l.Close(ctx) //nolint:errcheck // the cluster may be gone
}

// crash is the end of a node of which the cluster hears nothing.
func crash(l *Locker) {
	l.kill()
	l.leave()
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.client.Close()
	l.wg.Wait()
	close(l.ended)
}

// TestConformance runs the suite that every Locker passes.
//
// Mutants: create grants the place behind the first; look does not ask for the first;
// free deletes nothing; a lease has its session's revision for a token.
func TestConformance(t *testing.T) {
	locktest.Run(t, func(t *testing.T) *locktest.Store {
		c := startCluster(t, 1)
		config := c.config()
		return &locktest.Store{
			Open: func() lock.Locker { return open(t, config) },
			Waiting: func(name string) int {
				return max(len(c.keys((&Locker{config: config}).queue(name)))-1, 0)
			},
			Left:  func() []string { return c.keys("test/locks/") },
			Crash: func(l lock.Locker) { crash(l.(*Locker)) },
			TTL:   config.TTL, Alive: config.TTL,
		}
	})
}

// TestCoordinator runs the suite that every Coordinator passes.
//
// Mutants: a change does not compare revisions; a change does not look for the
// session's key; every lease is taken for ended; none is; End ends the lease here last,
// or not in the cluster, or leaves it the node's; changes are asked for after it.
func TestCoordinator(t *testing.T) {
	locktest.RunCoordinator(t, func(t *testing.T) *locktest.Registry {
		cluster := startCluster(t, 1)
		config := cluster.config()
		return &locktest.Registry{
			Open:  func() lock.Coordinator { return open(t, config) },
			Crash: func(c lock.Coordinator) { crash(c.(*Locker)) },
			TTL:   config.TTL,
			Far: func() (lock.Coordinator, *locktest.Relay) {
				far, relay := cluster.far(t)
				return open(t, far), relay
			},
			Forget: func() {
				if _, err := cluster.asks.Delete(t.Context(), config.Prefix, clientv3.WithPrefix()); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// acquireNow is an Acquire that has little to wait for.
func acquireNow(t testing.TB, l *Locker, name string) lock.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	lease, err := l.Acquire(ctx, name)
	if err != nil {
		t.Fatalf("Acquire: %v", err)
	}
	return lease
}

// within returns how long it took until something was so.
func within(t testing.TB, most time.Duration, what string, is func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > most {
			t.Fatalf("not in %v: %s", most, what)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

// TestDeletedByHand: a key that an operator deletes costs a holder its lease, which it
// learns with its next renewal, and who waits its place, and nobody hangs.
//
// Mutants: renew does not look at what is held; look does not look at p's own key.
func TestDeletedByHand(t *testing.T) {
	c := startCluster(t, 1)
	l := node(t, c.config())
	lease := acquireNow(t, l, "x")
	waits := make(chan lock.Lease, 1)
	go func() { waits <- acquireNow(t, l, "x") }()
	within(t, 20*time.Second, "two wait", func() bool { return len(c.keys("test/locks/x/")) == 2 })
	if _, err := c.asks.Delete(t.Context(), "test/locks/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	next := <-waits
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := node(t, c.config()).Acquire(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another has it beside who waited: %v", err)
	}
	if err := next.Release(t.Context()); err != nil {
		t.Errorf("who waited: %v", err)
	}
	<-lease.Done()
	if !errors.Is(lease.Err(), lock.ErrLost) || lease.ValidFor() > 0 {
		t.Errorf("who held it: valid for %v, %v", lease.ValidFor(), lease.Err())
	}
	if err := lease.Release(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Release of what was lost: %v", err)
	}
}

// TestSessionEndedByHand: the same, when a node's whole lease is revoked.
//
// Mutants: nothing is lost with its session; a session that has ended is used again.
func TestSessionEndedByHand(t *testing.T) {
	c := startCluster(t, 1)
	one, other := node(t, c.config()), node(t, c.config())
	held, blocked := acquireNow(t, one, "held"), acquireNow(t, other, "waited for")
	waits := make(chan error, 1)
	go func() {
		lease, err := one.Acquire(t.Context(), "waited for")
		if err == nil {
			err = lease.Release(t.Context())
		}
		waits <- err
	}()
	within(t, 20*time.Second, "it waits", func() bool { return len(c.keys("test/locks/waited")) == 2 })
	if _, err := c.asks.Revoke(t.Context(), one.session.id); err != nil {
		t.Fatal(err)
	}
	<-held.Done()
	if !errors.Is(held.Err(), lock.ErrLost) || held.ValidFor() > 0 {
		t.Errorf("who held it: valid for %v, %v", held.ValidFor(), held.Err())
	}
	within(t, 20*time.Second, "it waits anew", func() bool { return len(c.keys("test/locks/waited")) == 2 })
	if err := blocked.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-waits; err != nil {
		t.Errorf("who waited: %v", err)
	}
	acquireNow(t, one, "held").Release(t.Context()) //nolint:errcheck // it could be had
}

// TestLateCreate: a request that created a place and comes after the place was given
// up creates nothing; a place that was taken by a lower number in the meantime is
// taken again.
//
// Mutants: delete does not raise the number; create does not compare it.
func TestLateCreate(t *testing.T) {
	c := startCluster(t, 1)
	l := node(t, c.config())
	lower, given := l.session.place("x"), l.session.place("x")
	given.doubtful = true
	if err := given.free(); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*place{"given up": given, "a lower one": lower} {
		if before, err := p.create(t.Context()); !errors.Is(err, errGone) {
			t.Errorf("%s: created behind %q, %v", name, before, err)
		}
	}
	if keys := c.keys("test/locks/"); len(keys) > 0 {
		t.Errorf("left: %q", keys)
	}
	acquireNow(t, l, "x").Release(t.Context()) //nolint:errcheck // it could be had
}

// TestCreatedTwice: a place that was created, and whose answer was lost, keeps its rank
// when it is created again.
//
// Mutant: an attempt to create a place looks for no earlier one.
func TestCreatedTwice(t *testing.T) {
	c := startCluster(t, 1)
	l := node(t, c.config())
	first, second := l.session.place("x"), l.session.place("x")
	for _, p := range []*place{first, second} {
		if _, err := p.create(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	revision := first.revision
	first.revision = 0
	if before, err := first.create(t.Context()); err != nil || before != "" || first.revision != revision {
		t.Errorf("created again: revision %d after %d, behind %q, %v", first.revision, revision, before, err)
	}
}

// TestStaleRenewal: an answer to a renewal from before the present leader's term
// extends nothing.
//
// Mutant: renew does not compare the terms.
func TestStaleRenewal(t *testing.T) {
	c := startCluster(t, 1)
	config := c.config()
	var stale atomic.Bool
	config.options = []grpc.DialOption{grpc.WithChainStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := next(ctx, d, conn, method, o...)
		return olderTerm{s, &stale}, err
	})}
	l := node(t, config)
	lease := acquireNow(t, l, "x")
	stale.Store(true)
	within(t, 20*time.Second, "it ends", func() bool { return lease.ValidFor() <= 0 })
	<-lease.Done()
	stale.Store(false)
	if again := acquireNow(t, l, "x"); again.ValidFor() <= 0 {
		t.Error("the lock was not to be had when renewals counted again")
	}
}

// olderTerm has answers to renewals come from the term before.
type olderTerm struct {
	grpc.ClientStream
	on *atomic.Bool
}

func (s olderTerm) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if r, ok := m.(*pb.LeaseKeepAliveResponse); ok && err == nil && s.on.Load() {
		r.Header.RaftTerm--
	}
	return err
}

// TestRefusals: what cannot be used is refused with a reason that helps.
func TestRefusals(t *testing.T) {
	c := startCluster(t, 1)
	redis := locktest.Redis(t)
	good := c.config()
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no endpoint":   {func(c *Config) { c.Endpoints = nil }, "no endpoints"},
		"no prefix":     {func(c *Config) { c.Prefix = "" }, "prefix is empty"},
		"part seconds":  {func(c *Config) { c.TTL = 2500 * time.Millisecond }, "whole seconds"},
		"much margin":   {func(c *Config) { c.Margin = time.Second }, "margin"},
		"nobody there":  {func(c *Config) { c.Endpoints = []string{"127.0.0.1:1"} }, "nothing listens"},
		"another thing": {func(c *Config) { c.Endpoints = []string{redis.Address} }, "as etcd does"},
		"no TLS":        {func(c *Config) { c.TLS = &tls.Config{ServerName: "x"}; c.Endpoints[0] = "https://" + c.Endpoints[0] }, "TLS"},
	} {
		config := good
		config.Endpoints = slices.Clone(good.Endpoints)
		test.change(&config)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		l, err := Open(ctx, config)
		cancel()
		if err == nil {
			stop(l)
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	for version, ok := range map[string]bool{"3.4.23": true, "3.3.9": false, "2.9.1": false, "4.0.0": true, "what": false} {
		if err := judge(version); (err == nil) != ok {
			t.Errorf("version %s: %v", version, err)
		}
	}
}

// TestUsers: a user who may use the prefix can, one who may not hears why, and one with
// a wrong password, too.
func TestUsers(t *testing.T) {
	c := startCluster(t, 1)
	ctx := t.Context()
	for _, step := range []func() error{
		func() error { _, err := c.asks.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := c.asks.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.asks.RoleAdd(ctx, "locks"); return err },
		func() error {
			_, err := c.asks.RoleGrantPermission(ctx, "locks", "test/", "test0", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := c.asks.UserAdd(ctx, "lk", "other"); return err },
		func() error { _, err := c.asks.UserGrantRole(ctx, "lk", "locks"); return err },
		func() error { _, err := c.asks.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	config := c.config()
	config.Username, config.Password = "lk", "other"
	l := node(t, config)
	acquireNow(t, l, "x").Release(ctx) //nolint:errcheck // it could be had
	for want, change := range map[string]func(*Config){
		"user name and password": func(c *Config) { c.Password = "wrong" },
		"may not do":             func(c *Config) { c.Prefix = "elsewhere/" },
	} {
		wrong := config
		change(&wrong)
		if l, err := Open(ctx, wrong); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
			if err == nil {
				stop(l)
			}
		}
	}
}

func Benchmark(b *testing.B) {
	config := startCluster(b, 1).config()
	locktest.Benchmark(b, func() lock.Locker { return open(b, config) })
}
