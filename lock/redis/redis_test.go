package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

// server is a redis-server of a test's own.
type server struct {
	*locktest.Server
	t    testing.TB
	asks rueidis.Client // the test's own questions; nil until the first
}

func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	return asked(t, locktest.Redis(t, args...))
}

// asked is a server that the test has questions to.
func asked(t testing.TB, of *locktest.Server) *server {
	s := &server{Server: of, t: t}
	t.Cleanup(func() {
		if s.asks != nil {
			s.asks.Close()
		}
	})
	return s
}

// do is a command of the test's own.
func (s *server) do(words ...string) rueidis.RedisResult {
	s.t.Helper()
	if s.asks == nil {
		client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Address}, ForceSingleClient: true, DisableCache: true})
		if err != nil {
			s.t.Fatal(err)
		}
		s.asks = client
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return s.asks.Do(ctx, s.asks.B().Arbitrary(words...).Build())
}

func (s *server) must(words ...string) {
	s.t.Helper()
	if err := s.do(words...).Error(); err != nil && !rueidis.IsRedisNil(err) {
		s.t.Fatalf("%v: %v", words, err)
	}
}

// config is for a server, with short leases.
func (s *server) config() Config {
	return Config{Address: s.Address, Prefix: "test", TTL: time.Second, Margin: 200 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
}

func open(t testing.TB, c Config) *Locker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
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
	l.Close(ctx) //nolint:errcheck // the server may be gone
}

// crash is the end of a node of which the server hears nothing.
func crash(l *Locker) {
	l.kill()
	l.mu.Lock()
	l.closed = true
	clear(l.held)
	l.mu.Unlock()
	l.client.Close()
	close(l.ended)
}

// TestRedis: the suite, on a real server.
//
// Mutants: acquire does not look for a holder; release deletes whoever's lock it is;
// dead heads stay; nothing is renewed.
func TestRedis(t *testing.T) {
	s := startServer(t)
	tests := 0
	locktest.Run(t, func(t *testing.T) *locktest.Store {
		c := s.config()
		tests++
		c.Prefix += strconv.Itoa(tests)
		keys := func(kind string) []string {
			found, err := s.do("KEYS", "{"+c.Prefix+"}:"+kind+":*").AsStrSlice()
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
		return &locktest.Store{
			Open: func() lock.Locker { return open(t, c) },
			Waiting: func(name string) int {
				n, err := s.do("ZCARD", "{"+c.Prefix+"}:q:"+name).AsInt64()
				if err != nil {
					t.Fatal(err)
				}
				return int(n)
			},
			Left:  func() []string { return append(append(keys("o"), keys("q")...), keys("w")...) },
			Crash: func(l lock.Locker) { crash(l.(*Locker)) },
			TTL:   c.TTL, Alive: aliveFor,
		}
	})
}

// acquire takes a lock.
func acquireNow(t testing.TB, l *Locker, name string) lock.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	lease, err := l.Acquire(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// heir waits for a lock that another holds, and checks that it is granted only when
// that one's lease is over.
func heir(t testing.TB, l *Locker, name string, holder lock.Lease) lock.Lease {
	t.Helper()
	next := acquireNow(t, l, name)
	if left := holder.ValidFor(); left > 0 {
		t.Errorf("granted while another lease is valid for %v", left)
	}
	if next.Token() <= holder.Token() {
		t.Errorf("token %d after %d", next.Token(), holder.Token())
	}
	return next
}

// TestLostData: whatever makes the server forget its locks, none is granted beside
// a lease that is valid.
//
// Mutants: closed = 0; grace 0; the epoch of a server that was flushed, or of a
// replica, is believed.
func TestLostData(t *testing.T) {
	for name, forget := range map[string]func(*testing.T, *server){
		"flushed":         func(_ *testing.T, s *server) { s.must("FLUSHALL") },
		"restarted empty": func(_ *testing.T, s *server) { s.Kill(); s.Start() },
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			c := s.config()
			c.Grace = true
			one, other := node(t, c), node(t, c)
			began := time.Now()
			holder := acquireNow(t, one, "x")
			if took := time.Since(began); took < c.TTL {
				t.Errorf("the first use of a server waited %v for leases of before", took)
			}
			forget(t, s)
			heir(t, other, "x", holder)
			if !errors.Is(holder.Err(), lock.ErrLost) {
				t.Errorf("the lock was forgotten, and its lease says %v", holder.Err())
			}
		})
	}
}

// TestFailover: a replica that never heard of a lock becomes master.
func TestFailover(t *testing.T) {
	master := startServer(t, "--repl-diskless-sync-delay", "0")
	replica := startServer(t)
	c := master.config()
	c.Grace = true
	var name atomic.Value // is given to the new master
	name.Store(master.Address)
	c.Dial = func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", name.Load().(string))
	}
	one := node(t, c)
	old := acquireNow(t, one, "old") // so that the epoch is old, and is replicated
	replica.follow(master)
	if err := old.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	replica.Freeze()
	master.must("CLIENT", "KILL", "TYPE", "replica")
	holder := acquireNow(t, one, "x")
	master.Kill()
	name.Store(replica.Address)
	replica.Thaw()
	replica.must("REPLICAOF", "NO", "ONE")
	other := node(t, c)
	heir(t, other, "x", holder)
}

// follow makes the server a replica that has what its master has.
func (s *server) follow(master *server) {
	s.t.Helper()
	host, port, _ := net.SplitHostPort(master.Address)
	s.must("REPLICAOF", host, port)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		info, _ := s.do("INFO", "replication").ToString()
		if strings.Contains(info, "master_link_status:up") {
			return
		}
		if time.Now().After(end) {
			s.t.Fatal(info)
		}
	}
}

// TestWaitersAreWoken: it is a message that tells a waiter, not its next question.
//
// Mutant: release publishes nothing.
func TestWaitersAreWoken(t *testing.T) {
	s := startServer(t)
	c := s.config()
	c.TTL, c.alive = time.Minute, 90*time.Second
	nodes := []*Locker{node(t, c), node(t, c), node(t, c)}
	began := time.Now()
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
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

// TestNobodyOvertakes: a lock that is free belongs to who is first in the queue,
// until that one has had time to come for it.
//
// Mutant: acquire grants a free lock to whoever asks.
func TestNobodyOvertakes(t *testing.T) {
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := s.config()
	far.Address = relay.Address()
	slow, quick := node(t, far), node(t, s.config())
	holder := acquireNow(t, quick, "x")
	granted := make(chan time.Time, 1)
	go func() { heir(t, slow, "x", holder); granted <- time.Now() }()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if n, _ := s.do("ZCARD", "{test}:q:x").AsInt64(); n == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not queue")
		}
	}
	relay.Stall()
	if err := holder.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), claimIn/5)
	defer cancel()
	if lease, err := quick.Acquire(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that another waits for: %v", err)
		if err == nil {
			lease.Release(t.Context()) //nolint:errcheck // it is to be held by another
		}
	}
	relay.Heal()
	<-granted
}

// TestPlacesAreKept: who waits for long stays alive to the server, wherever in the
// queue it is.
//
// Mutant: a waiter that is not the first does not ask.
func TestPlacesAreKept(t *testing.T) {
	s := startServer(t)
	c := s.config()
	c.alive = 600 * time.Millisecond
	l := node(t, c)
	holder := acquireNow(t, l, "x")
	order := make(chan int, 3)
	queued := func() bool { n, _ := s.do("ZCARD", "{test}:q:x").AsInt64(); return int(n) == cap(order) }
	enter := func(i int) {
		before, _ := s.do("ZCARD", "{test}:q:x").AsInt64()
		go func() {
			lease, err := l.Acquire(t.Context(), "x")
			if err == nil {
				order <- i
				lease.Release(t.Context()) //nolint:errcheck // the next one tells
			}
		}()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if now, _ := s.do("ZCARD", "{test}:q:x").AsInt64(); now == before+1 {
				return
			}
			if time.Now().After(end) {
				t.Fatal("it does not queue")
			}
		}
	}
	enter(0)
	enter(1)
	time.Sleep(3 * c.alive)
	enter(2)
	if !queued() {
		t.Error("somebody was dropped")
	}
	if err := holder.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	for want := range 3 {
		select {
		case got := <-order:
			if got != want {
				t.Errorf("number %d has its turn in place of %d", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("number %d never has its turn", want)
		}
	}
}

// TestLostMessages: connections on which nodes hear that it is their turn break, or
// a message is lost without that, and they learn of it all the same.
//
// Mutant: who is first in the queue does not ask when the lock must have ended.
func TestLostMessages(t *testing.T) {
	t.Run("with the connection", func(t *testing.T) { testLostMessages(t, false) })
	t.Run("alone", func(t *testing.T) { testLostMessages(t, true) })
}

func testLostMessages(t *testing.T, alone bool) {
	s := startServer(t)
	c := s.config()
	c.alive = 90 * time.Second
	one, other := node(t, c), node(t, c)
	if alone {
		other.channel = "nobody listens"
	}
	holder := acquireNow(t, one, "x")
	granted := make(chan lock.Lease, 1)
	go func() { granted <- heir(t, other, "x", holder) }()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if n, _ := s.do("ZCARD", "{test}:q:x").AsInt64(); n == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not queue")
		}
	}
	if !alone {
		s.must("CLIENT", "KILL", "TYPE", "pubsub")
	}
	if err := holder.Release(t.Context()); err != nil {
		// The connection for commands may be the same one.
		t.Log(err)
	}
	select {
	case <-granted:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody told it, and it did not ask")
	}
}

// TestScriptsAreForgotten: a server that was restarted, or told to, has no scripts.
func TestScriptsAreForgotten(t *testing.T) {
	s := startServer(t)
	l := node(t, s.config())
	lease := acquireNow(t, l, "x")
	s.must("SCRIPT", "FLUSH")
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
	acquireNow(t, l, "x")
}

// TestFullMemory: what is held can be renewed and released when the server has no
// memory left, and nothing is granted.
func TestFullMemory(t *testing.T) {
	s := startServer(t)
	c := s.config()
	l := node(t, c)
	lease := acquireNow(t, l, "x")
	s.must("CONFIG", "SET", "maxmemory", "1mb")
	time.Sleep(2 * c.TTL)
	if lease.Err() != nil {
		t.Errorf("it was lost: %v", lease.Err())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := l.Acquire(ctx, "y"); !errors.Is(err, lock.ErrUnavailable) || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("a full server: %v", err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Errorf("Release: %v", err)
	}
	s.must("CONFIG", "SET", "maxmemory", "0")
	acquireNow(t, l, "x")
}

// TestStandstill: a server that stands still, as a machine without a network does,
// costs leases when they end, in time, and no promise.
//
// Mutant: a lease looks at its end only when its renewal is answered.
func TestStandstill(t *testing.T) {
	s := startServer(t)
	c := s.config()
	one, other := node(t, c), node(t, c)
	holder := acquireNow(t, one, "x")
	s.Freeze()
	began := time.Now()
	select {
	case <-holder.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("never lost")
	}
	if took := time.Since(began); took > c.TTL || holder.ValidFor() > 0 {
		t.Errorf("lost after %v, valid for %v", took, holder.ValidFor())
	}
	if !errors.Is(holder.Err(), lock.ErrLost) {
		t.Errorf("lost: %v", holder.Err())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := other.Acquire(ctx, "y"); !errors.Is(err, lock.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that does not answer: %v", err)
	}
	s.Thaw()
	heir(t, other, "x", holder)
}

// TestRefused: what is wrong with a server, and what to do.
func TestRefused(t *testing.T) {
	plain := startServer(t)
	secret := startServer(t, "--requirepass", "right")
	evicts := startServer(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	host, port, _ := net.SplitHostPort(plain.Address)
	replica := startServer(t, "--replicaof", host+" "+port)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	go func() { // ends with the listener
		for {
			conn, err := web.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
			conn.Close()
		}
	}()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, test := range []struct {
		name   string
		server *server
		change func(*Config)
		want   []string
	}{
		{"no password", secret, func(*Config) {}, []string{"user name and password", "NOAUTH"}},
		{"wrong password", secret, func(c *Config) { c.Password = "wrong" }, []string{"user name and password", "WRONGPASS"}},
		{"evicts", evicts, func(*Config) {}, []string{"evicts", "allkeys-lru", "noeviction"}},
		{"replica", replica, func(*Config) {}, []string{"slave", "the master"}},
		{"nobody there", plain, func(c *Config) { c.Address = "127.0.0.1:1" }, []string{"127.0.0.1:1", "refused"}},
		{"a web server", plain, func(c *Config) { c.Address = web.Addr().String() }, []string{web.Addr().String(), "no Redis server"}},
		{"silent", plain, func(c *Config) { c.Address = silent.Addr().String() }, []string{"does not answer"}},
		{"prefix", plain, func(c *Config) { c.Prefix = "" }, []string{"prefix"}},
		{"TTL", plain, func(c *Config) { c.TTL = time.Millisecond }, []string{"too short"}},
		{"microseconds", plain, func(c *Config) { c.TTL += time.Microsecond }, []string{"whole milliseconds"}},
		{"margin", plain, func(c *Config) { c.Margin = c.TTL / 2 }, []string{"margin"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := test.server.config()
			test.change(&c)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
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
	c := secret.config()
	c.Password = "right"
	acquireNow(t, node(t, c), "x")
}

// TestCoordinator runs the suite that every Coordinator passes.
//
// Mutants: take does not look whether a holder lives; whether the record is as
// expected; whether somebody drains; the record is not written; End ends the lease here
// last, or not at the server, or leaves it the node's; takes are asked after it; stamps
// count seconds.
func TestCoordinator(t *testing.T) {
	locktest.RunCoordinator(t, func(t *testing.T) *locktest.Registry {
		s := startServer(t)
		config := s.config()
		return &locktest.Registry{
			Open:  func() lock.Coordinator { return open(t, config) },
			Crash: func(c lock.Coordinator) { crash(c.(*Locker)) },
			TTL:   config.TTL,
			Far: func() (lock.Coordinator, *locktest.Relay) {
				relay, far := locktest.NewRelay(t, s.Address), config
				far.Address = relay.Address()
				return open(t, far), relay
			},
			Forget: func() { s.must("FLUSHALL") },
		}
	})
}

// TestEndIsTold: who waits for the end of a long lease is told of it.
//
// Mutant: giveUp publishes nothing.
func TestEndIsTold(t *testing.T) {
	c := startServer(t).config()
	c.TTL, c.Margin = time.Minute, time.Second
	closes, waits := open(t, c), node(t, c)
	a, err := closes.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := waits.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- b.Ended(t.Context(), a.ID()) }()
	time.Sleep(100 * time.Millisecond)
	stop(closes)
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody told")
	}
}

// TestRecordsAfterALoss: with grace, a server that is new, or has lost its data, lets
// nobody take anything for the length of a lease: who held it may still be at work.
//
// Mutant: take has no grace.
func TestRecordsAfterALoss(t *testing.T) {
	s := startServer(t)
	c := s.config()
	c.Grace = true
	l := node(t, c)
	for _, what := range []string{"new", "flushed"} {
		began := time.Now()
		if what == "flushed" {
			s.must("FLUSHALL")
		}
		var session lock.Session
		for {
			var err error
			if session, err = l.Begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			taken, err := session.Take(t.Context(), []lock.Take{{Partition: 1}})
			if errors.Is(err, lock.ErrLost) {
				<-session.Done()
				continue // the one before the loss
			}
			if err != nil || !taken[0].OK {
				t.Fatalf("%s: %+v, %v", what, taken, err)
			}
			break
		}
		if took := time.Since(began); took < c.TTL*9/10 {
			t.Errorf("%s: taken after %v", what, took)
		}
	}
}

func begun(t testing.TB, l *Locker) lock.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	session, err := l.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// has reports whether the server has a lease.
func (s *server) has(session lock.Session) bool {
	s.t.Helper()
	n, err := s.do("EXISTS", "{test}:l:"+session.ID()).AsInt64()
	if err != nil {
		s.t.Fatal(err)
	}
	return n == 1
}

// TestEndedAfterALoss: with grace, a lease that the server has lost has not ended as
// long as its holder may believe in it.
//
// Mutant: what is missing has ended.
func TestEndedAfterALoss(t *testing.T) {
	for name, forget := range map[string]func(*server){
		"flushed":         func(s *server) { s.must("FLUSHALL") },
		"restarted empty": func(s *server) { s.Kill(); s.Start() },
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			relay := locktest.NewRelay(t, s.Address)
			c := s.config()
			c.Grace = true
			far := c
			far.Address = relay.Address()
			holder, waits := begun(t, node(t, far)), begun(t, node(t, c))
			taken, err := holder.Take(t.Context(), []lock.Take{{Partition: 1}})
			if err != nil || !taken[0].OK { // grace of before is over
				t.Fatalf("%+v, %v", taken, err)
			}
			relay.Stall() // nobody tells it
			forget(s)
			if holder.ValidFor() <= 0 {
				t.Fatal("it has ended already: nothing is shown")
			}
			began := time.Now()
			if err := waits.Ended(t.Context(), holder.ID()); err != nil {
				t.Fatal(err)
			}
			if left := holder.ValidFor(); left > 0 {
				t.Errorf("it has ended, and is valid for %v", left)
			}
			if took := time.Since(began); took > 3*c.TTL {
				t.Errorf("it has ended after %v", took)
			}
			select {
			case <-holder.Done():
				t.Error("it was told: nothing is shown")
			default:
			}
		})
	}
}

// TestRestartEndsLeases: with grace, a lease that outlives the server, on disk or at a
// replica, ends with the next renewal: what was taken under it may be lost. Without
// grace it goes on.
//
// Mutants: whatever lease is there is renewed; a lease is of all epochs; a lease of the
// master's run is one of the replica's.
func TestRestartEndsLeases(t *testing.T) {
	for _, grace := range []bool{true, false} {
		for _, promoted := range []bool{false, true} {
			t.Run(fmt.Sprintf("grace=%v promoted=%v", grace, promoted), func(t *testing.T) {
				s := startServer(t, "--appendonly", "yes", "--repl-diskless-sync-delay", "0")
				c := s.config()
				c.TTL, c.Grace = 2*time.Second, grace
				var at atomic.Value
				at.Store(s.Address)
				c.Dial = func(ctx context.Context, _ string) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, "tcp", at.Load().(string))
				}
				l := node(t, c)
				session := begun(t, l)
				if taken, err := session.Take(t.Context(), []lock.Take{{Partition: 1}}); err != nil || !taken[0].OK {
					t.Fatalf("%+v, %v", taken, err)
				}
				if promoted {
					replica := startServer(t)
					replica.follow(s)
					s.Kill()
					at.Store(replica.Address)
					replica.must("REPLICAOF", "NO", "ONE")
					s = replica
				} else {
					s.Kill()
					s.Start()
				}
				again := time.Now()
				if !s.has(session) {
					t.Fatal("the server has lost the lease: nothing is shown")
				}
				s.must("HDEL", "{test}:records:", "1") // written last, and lost
				if !grace {
					if time.Sleep(c.TTL); session.ValidFor() <= 0 {
						t.Error("it has ended")
					}
					return
				}
				select {
				case <-session.Done():
				case <-time.After(10 * time.Second):
					t.Fatal("it is not told that its lease has ended")
				}
				if took := time.Since(again); took > c.TTL*2/3 || session.ValidFor() > 0 {
					t.Errorf("told after %v, valid for %v", took, session.ValidFor())
				}
				taken, err := begun(t, l).Take(t.Context(), []lock.Take{{Partition: 1}})
				if err != nil || !taken[0].OK || time.Since(again) < c.TTL*9/10 {
					t.Errorf("%+v, %v after %v", taken, err, time.Since(again))
				}
			})
		}
	}
}

// TestLeaseOfBefore: whatever is asked under a lease that outlives the server, the
// answer is that it has ended.
//
// Mutant: records are those of whatever lease is there.
func TestLeaseOfBefore(t *testing.T) {
	for what, ask := range map[string]func(context.Context, lock.Session) error{
		"Take": func(ctx context.Context, s lock.Session) error {
			_, err := s.Take(ctx, []lock.Take{{Partition: 1}})
			return err
		},
		"Draw": func(ctx context.Context, s lock.Session) error {
			_, err := s.Draw(ctx, 1, 1)
			return err
		},
		"Drained": func(ctx context.Context, s lock.Session) error {
			return s.Drained(ctx, []lock.Tenure{{Partition: 1, Tenure: 1}})
		},
		"Records": func(ctx context.Context, s lock.Session) error {
			_, err := s.Records(ctx)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := startServer(t, "--appendonly", "yes")
			c := s.config()
			c.TTL, c.Grace = 30*time.Second, true // nothing is renewed meanwhile
			session := begun(t, node(t, c))
			s.Kill()
			s.Start()
			if !s.has(session) {
				t.Fatal("the server has lost the lease: nothing is shown")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if err := ask(ctx, session); !errors.Is(err, lock.ErrLost) {
				t.Error(err)
			}
			select {
			case <-session.Done():
			default:
				t.Error("it is not told that its lease has ended")
			}
		})
	}
}

// TestBegunTwice: what was asked for and not answered is not what is asked for next: it
// may be late, and begin what has been ended.
//
// Mutant: each attempt has the same name.
func TestBegunTwice(t *testing.T) {
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	c := s.config()
	c.Address = relay.Address()
	l := node(t, c)
	relay.Stall()
	time.AfterFunc(2*l.perTry(), relay.Heal)
	session := begun(t, l)
	leases, err := s.do("KEYS", "{test}:l:*").AsStrSlice()
	if err != nil || len(leases) < 2 || !s.has(session) {
		t.Errorf("%q, %v, and the lease is %q", leases, err, session.ID())
	}
	for end := time.Now().Add(10 * time.Second); len(leases) != 1; time.Sleep(10 * time.Millisecond) {
		if leases, err = s.do("KEYS", "{test}:l:*").AsStrSlice(); time.Now().After(end) {
			t.Fatalf("%q, %v", leases, err)
		}
	}
	if !s.has(session) || session.ValidFor() <= 0 {
		t.Errorf("%q, valid for %v", leases, session.ValidFor())
	}
}

// TestEndedOfWhoCloses: who waits for an end when its node is closed does not go on, nor
// keep Close waiting, whether the server answers or not.
//
// Mutant: only the end of the client ends it.
func TestEndedOfWhoCloses(t *testing.T) {
	s := startServer(t)
	for _, stalled := range []bool{false, true} {
		relay := locktest.NewRelay(t, s.Address)
		c := s.config()
		c.TTL = 20 * time.Second
		other := begun(t, node(t, c))
		c.Address = relay.Address()
		l := open(t, c)
		session := begun(t, l)
		if stalled {
			relay.Stall()
		}
		ended := make(chan error, 1)
		go func() { ended <- session.Ended(t.Context(), other.ID()) }()
		time.Sleep(100 * time.Millisecond)
		closed := time.Now()
		go stop(l)
		if err := <-ended; !errors.Is(err, lock.ErrClosed) || time.Since(closed) > time.Second {
			t.Errorf("stalled=%v: Ended: %v after %v", stalled, err, time.Since(closed))
		}
		stop(l)
	}
}

// Benchmark measures it with and without grace, which looks at more each time.
func Benchmark(b *testing.B) {
	for _, grace := range []bool{false, true} {
		b.Run(fmt.Sprint("grace=", grace), func(b *testing.B) {
			c := startServer(b).config()
			c.Grace = grace
			locktest.Benchmark(b, func() lock.Locker { return open(b, c) })
		})
	}
}
