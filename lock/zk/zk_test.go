package zk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"go.uber.org/goleak"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

// server is a ZooKeeper of a test's own, and the test's own way to it.
type server struct {
	*locktest.Server
	t    testing.TB
	asks *zk.Conn // nil until the first question
}

func startServer(t testing.TB, settings ...string) *server {
	t.Helper()
	return &server{Server: locktest.ZooKeeper(t, 1, settings...)[0], t: t}
}

// conn is for questions of the test's own.
func (s *server) conn() *zk.Conn {
	s.t.Helper()
	if s.asks == nil {
		conn, _, err := zk.Connect([]string{s.Address}, 10*time.Second, zk.WithLogger(logger{slog.New(slog.DiscardHandler)}))
		if err != nil {
			s.t.Fatal(err)
		}
		s.asks = conn
		s.t.Cleanup(conn.Close)
	}
	return s.asks
}

// nodes are those of a lock.
func (s *server) nodes(prefix, name string) []string {
	s.t.Helper()
	children, _, err := s.conn().Children(prefix + "/locks/" + escape(name))
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		s.t.Fatal(err)
	}
	return children
}

// left are the nodes of all locks.
func (s *server) left(prefix string) (all []string) {
	s.t.Helper()
	parents, _, err := s.conn().Children(prefix + "/locks")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, parent := range parents {
		children, _, err := s.conn().Children(prefix + "/locks/" + parent)
		if err != nil && !errors.Is(err, zk.ErrNoNode) {
			s.t.Fatal(err)
		}
		for _, child := range children {
			all = append(all, parent+"/"+child)
		}
	}
	return all
}

// config is for servers, with leases that a busy machine does not end.
func config(servers ...string) Config {
	return Config{Servers: servers, Prefix: "/test", TTL: 20 * time.Second, Margin: 200 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
}

// brief is config with leases that end soon, for tests that wait for that.
func brief(servers ...string) Config {
	c := config(servers...)
	c.TTL = 2 * time.Second
	return c
}

// patience is how long a test waits for what must happen soon. It is long, since the
// machine may be busy.
const patience = 40 * time.Second

func open(t testing.TB, c Config) *Locker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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
	l.mu.Lock()
	l.closed = true
	clear(l.held)
	l.mu.Unlock()
	l.leave()
	l.cut()
	l.kill()
	l.conn.Close()
	close(l.ended)
}

func acquireNow(t testing.TB, l *Locker, name string) lock.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// warm has a server that was just started translate the code that locks run through:
// until then it is slow.
func warm(t testing.TB, s *server) {
	t.Helper()
	c := config(s.Address)
	c.Prefix += "-warm"
	l := node(t, c)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				acquireNow(t, l, "x").Release(t.Context()) //nolint:errcheck // tested elsewhere
			}
		})
	}
	wg.Wait()
}

// TestZooKeeper: the suite, on a real server.
//
// Mutants: who gives up leaves its node; the lowest but one holds it, too; a place
// that is first does not look again; no heartbeat is sent.
func TestZooKeeper(t *testing.T) {
	s := startServer(t)
	warm(t, s)
	tests := 0
	locktest.Run(t, func(t *testing.T) *locktest.Store {
		c := brief(s.Address)
		c.TTL = 3 * time.Second
		tests++
		c.Prefix += strconv.Itoa(tests)
		return &locktest.Store{
			Open:    func() lock.Locker { return open(t, c) },
			Waiting: func(name string) int { return max(len(s.nodes(c.Prefix, name))-1, 0) },
			Left:    func() []string { return s.left(c.Prefix) },
			Crash:   func(l lock.Locker) { crash(l.(*Locker)) },
			TTL:     c.TTL, Alive: c.TTL,
		}
	})
}

// TestFairness: nodes that want the same lock all the time have it equally often.
//
// Mutant: names of nodes are compared in place of their numbers.
func TestFairness(t *testing.T) {
	s := startServer(t)
	warm(t, s)
	const nodes = 4
	var grants [nodes]int // guarded by the lock under test
	var handOffs []time.Duration
	var released time.Time
	last, twice := -1, 0
	var lockers [nodes]*Locker
	for i := range lockers {
		lockers[i] = node(t, config(s.Address))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i, l := range lockers {
		wg.Go(func() {
			for ctx.Err() == nil {
				lease, err := l.Acquire(ctx, "x")
				if err != nil {
					return
				}
				if !released.IsZero() {
					handOffs = append(handOffs, time.Since(released))
				}
				grants[i]++
				if last == i {
					twice++
				}
				last = i
				time.Sleep(500 * time.Microsecond)
				released = time.Now()
				if err := lease.Release(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	all := 0
	for _, n := range grants {
		all += n
	}
	slices.Sort(handOffs)
	t.Logf("shares %v, the same node twice running %d times, hand-off p50 %v, p90 %v",
		grants, twice, handOffs[len(handOffs)/2], handOffs[len(handOffs)*9/10])
	for i, n := range grants {
		if n*nodes < all*9/10 || n*nodes > all*11/10 {
			t.Errorf("node %d had it %d times of %d", i, n, all)
		}
	}
}

// TestNames: no two names become one node, and each becomes one that may be.
//
// Mutants: "%" is not escaped; the empty name is not; url.PathEscape.
func TestNames(t *testing.T) {
	seen := make(map[string]string)
	for _, name := range []string{"", "%", "%%", "%25", ".", "..", "%2E", "a/b", "a%2Fb", "a%2fb", "a b", "a+b", "\x00", "\xff", "\x7f", "\u0080", "\ue000", "zookeeper"} {
		escaped := escape(name)
		if other, ok := seen[escaped]; ok {
			t.Errorf("%q and %q both become %q", name, other, escaped)
		}
		seen[escaped] = name
		if escaped == "" || escaped[0] == '.' || strings.ContainsFunc(escaped, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
			t.Errorf("%q becomes %q", name, escaped)
		}
	}
}

// foreign makes a node in a lock's queue by hand, and returns what deletes it.
func (s *server) foreign(prefix, name, node string) (remove func()) {
	s.t.Helper()
	path := prefix + "/locks/" + escape(name) + "/" + node
	if _, err := s.conn().Create(path, nil, zk.FlagEphemeral, zk.WorldACL(zk.PermAll)); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if err := s.conn().Delete(path, -1); err != nil {
			s.t.Error(err)
		}
	}
}

// TestNumbersRunOut: when the servers run out of numbers, and some are equal or go
// back, locks still go to who came first.
//
// Mutants: numbers are all that is compared; numbers below 0 are not understood; a
// node with the same number is not before.
func TestNumbersRunOut(t *testing.T) {
	s := startServer(t)
	for i, test := range []struct {
		foreign string
		wraps   uint32
	}{
		{"f-1-0000000002", 0}, // the next one's, too
		{"f-1-2147483647", 1},
		{"f-1--2147483648", 1},
	} {
		c := config(s.Address)
		c.Prefix += strconv.Itoa(i)
		c.wraps = test.wraps
		one, other := node(t, c), node(t, c)
		acquireNow(t, one, "x").Release(t.Context()) //nolint:errcheck // it makes the node of the lock
		remove := s.foreign(c.Prefix, "x", test.foreign)
		first, second := make(chan lock.Lease, 1), make(chan lock.Lease, 1)
		go func() { first <- acquireNow(t, one, "x") }()
		until(t, "one waits", func() bool { return len(s.nodes(c.Prefix, "x")) == 2 })
		go func() { second <- acquireNow(t, other, "x") }()
		until(t, "two wait", func() bool { return len(s.nodes(c.Prefix, "x")) == 3 })
		time.Sleep(50 * time.Millisecond)
		if len(first) > 0 || len(second) > 0 {
			t.Fatalf("%s: granted beside it", test.foreign)
		}
		remove()
		lease := <-first
		time.Sleep(20 * time.Millisecond)
		if len(second) > 0 {
			t.Errorf("%s: granted to two", test.foreign)
		}
		lease.Release(t.Context()) //nolint:errcheck // it is the second's, or never
		(<-second).Release(t.Context())
	}
}

// TestDeletedByHand: what somebody deletes is lost, and nothing is taken for held
// because nobody is before a node that is gone.
//
// Mutants: a lease does not watch its node; who has no node is the first.
func TestDeletedByHand(t *testing.T) {
	s := startServer(t)
	c := config(s.Address)
	one, other := node(t, c), node(t, c)
	remove := func(is func(node string) bool) {
		for _, node := range s.nodes(c.Prefix, "x") {
			if is(node) {
				if err := s.conn().Delete(c.Prefix+"/locks/x/"+node, -1); err != nil {
					t.Error(err)
				}
			}
		}
	}
	of := func(l *Locker) func(string) bool {
		return func(node string) bool { return strings.HasPrefix(node, fmt.Sprintf("%016x-", uint64(l.current().id))) }
	}
	holder := acquireNow(t, one, "x")
	granted := make(chan lock.Lease, 1)
	go func() { granted <- acquireNow(t, other, "x") }()
	until(t, "it waits", func() bool { return len(s.nodes(c.Prefix, "x")) == 2 })
	remove(of(other))
	if err := holder.Release(t.Context()); err != nil {
		t.Error(err)
	}
	lease := <-granted
	if !slices.ContainsFunc(s.nodes(c.Prefix, "x"), of(other)) {
		t.Error("granted without a node")
	}
	remove(of(other))
	select {
	case <-lease.Done():
	case <-time.After(patience):
		t.Fatal("its node is gone, and it is not lost")
	}
	if !errors.Is(lease.Err(), lock.ErrLost) {
		t.Errorf("lost: %v", lease.Err())
	}
	// All of it: as the servers do with what is empty, and more.
	for _, path := range []string{"/locks/x", "/locks", ""} {
		if err := s.conn().Delete(c.Prefix+path, -1); err != nil {
			t.Fatal(err)
		}
	}
	acquireNow(t, one, "x").Release(t.Context()) //nolint:errcheck // it was granted
}

// TestClose: it ends all goroutines, within a second of its context when nobody
// answers, and who calls it a second time waits for that, too.
//
// Mutants: a second Close returns at once; connections are not cut.
func TestClose(t *testing.T) {
	s := startServer(t)
	s.conn().Exists("/") //nolint:errcheck // its goroutines have begun
	relay := locktest.NewRelay(t, s.Address)
	before := goleak.IgnoreCurrent()
	c := config(relay.Address())
	c.TTL = 30 * time.Second
	for _, stalled := range []bool{false, true} {
		l := open(t, c)
		holder := acquireNow(t, l, "x")
		waits := make(chan error, 1)
		go func() { _, err := l.Acquire(t.Context(), "x"); waits <- err }()
		until(t, "it waits", func() bool { return len(s.nodes(c.Prefix, "x")) == 2 })
		if stalled {
			relay.Stall()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				err := l.Close(ctx)
				if (err != nil) != stalled {
					t.Errorf("stalled=%v: Close: %v", stalled, err)
				}
			})
		}
		if err := <-waits; !errors.Is(err, lock.ErrClosed) {
			t.Errorf("what waited: %v", err)
		}
		wg.Wait()
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("stalled=%v: closed after %v", stalled, took)
		}
		if holder.ValidFor() > 0 {
			t.Error("what was held is held")
		}
		<-l.ended
		relay.Heal()
		relay.Cut()
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}

// TestWatchesAreShared: the client keeps each watch until it fires, so those who come
// and go while one lock is held share one; and who waits watches the one before it.
//
// Mutants: each waiter sets a watch; all watch the first of the queue.
func TestWatchesAreShared(t *testing.T) {
	s := startServer(t)
	l := node(t, config(s.Address))
	holder := acquireNow(t, l, "x")
	path := l.root + "/x/" + holder.(*lease).place.node
	one, err := l.watchNode(path, l.newsAfterNow())
	if err != nil {
		t.Fatal(err)
	}
	if other, err := l.watchNode(path, l.newsAfterNow()); other != one || err != nil {
		t.Errorf("another watch on the same node, %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 3 {
		go l.Acquire(ctx, "x") //nolint:errcheck // ends with ctx
		until(t, "it waits", func() bool { return len(s.nodes("/test", "x")) == i+2 })
	}
	until(t, "each watches another one", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.watches) == 3 })
	cancel()
	if err := holder.Release(t.Context()); err != nil {
		t.Error(err)
	}
	until(t, "the watch fires", func() bool { return fired(one) })
	if _, err := l.watchNode(path, l.newsAfterNow()); !errors.Is(err, zk.ErrNoNode) {
		t.Errorf("a watch on what is gone: %v", err)
	}
}

// TestRefused: what is wrong with a server or with what it was asked for, and what to
// do.
func TestRefused(t *testing.T) {
	s := startServer(t)
	right := config(s.Address)
	right.Prefix, right.Username, right.Password = "/secret", "u", "right"
	acquireNow(t, node(t, right), "x")
	listen := func(answer string) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() { // ends with the listener
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { conn.Close() })
				if answer != "" {
					conn.Write([]byte(answer))
				}
				if answer == "bye" {
					conn.Close()
				}
			}
		}()
		return listener.Addr().String()
	}
	web, silent, closes := listen("HTTP/1.1 400 Bad Request\r\n\r\n"), listen(""), listen("bye")
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"no password", func(c *Config) { c.Prefix = "/secret" }, []string{"a user name and password are needed", "/secret"}},
		{"wrong password", func(c *Config) { c.Prefix, c.Username, c.Password = "/secret", "u", "wrong" }, []string{"user name and password", "/secret", "not those of who made"}},
		{"timeout", func(c *Config) { c.TTL = time.Minute }, []string{"40s", "1m0s", "minSessionTimeout", "maxSessionTimeout", "tickTime"}},
		{"nobody there", func(c *Config) { c.Servers = []string{"127.0.0.1:1"} }, []string{"127.0.0.1:1", "refused"}},
		{"none of two there", func(c *Config) { c.Servers = []string{"127.0.0.1:1", "127.0.0.1:2"} }, []string{"127.0.0.1:1: ", "127.0.0.1:2: "}},
		{"a web server", func(c *Config) { c.Servers = []string{web} }, []string{web, "no ZooKeeper"}},
		{"silent", func(c *Config) { c.Servers = []string{silent} }, []string{silent, "does not answer"}},
		{"hangs up", func(c *Config) { c.Servers = []string{closes} }, []string{closes, "hangs up"}},
		{"TLS", func(c *Config) { c.TLS = &tls.Config{} }, []string{s.Address}},
		{"no servers", func(c *Config) { c.Servers = nil }, []string{"no servers"}},
		{"no port", func(c *Config) { c.Servers = []string{"localhost"} }, []string{"localhost", "host:port"}},
		{"prefix", func(c *Config) { c.Prefix = "/x/" }, []string{"prefix"}},
		{"TTL", func(c *Config) { c.TTL = time.Millisecond }, []string{"too short"}},
		{"microseconds", func(c *Config) { c.TTL += time.Microsecond }, []string{"whole milliseconds"}},
		{"margin", func(c *Config) { c.Margin = c.TTL / 3 }, []string{"margin"}},
		{"user", func(c *Config) { c.Password = "x" }, []string{"no user name"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := brief(s.Address)
			test.change(&c)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
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
	dead := config(s.Address, "127.0.0.1:1") // one of several may be away
	acquireNow(t, node(t, dead), "x")
}

func Benchmark(b *testing.B) {
	s := startServer(b)
	warm(b, s)
	locktest.Benchmark(b, func() lock.Locker { return open(b, config(s.Address)) })
}

// TestCoordinator runs the suite that every Coordinator passes.
//
// Mutants: a change does not name versions; a change does not look for the lease's
// node; every lease is taken for ended; none is; nobody watches a lease's node; End ends
// the lease here last, or does not delete its node, or tries that once.
func TestCoordinator(t *testing.T) {
	s := startServer(t)
	warm(t, s)
	tests := 0
	locktest.RunCoordinator(t, func(t *testing.T) *locktest.Registry {
		c := brief(s.Address)
		c.TTL = 3 * time.Second
		tests++
		c.Prefix += "records" + strconv.Itoa(tests)
		return &locktest.Registry{
			Open:  func() lock.Coordinator { return open(t, c) },
			Crash: func(l lock.Coordinator) { crash(l.(*Locker)) },
			TTL:   c.TTL,
			Far: func() (lock.Coordinator, *locktest.Relay) {
				relay, far := locktest.NewRelay(t, s.Address), c
				far.Servers = []string{relay.Address()}
				return open(t, far), relay
			},
			Forget: func() { s.deleteBelow(c.Prefix) },
		}
	})
}

// deleteBelow deletes what is below a node.
func (s *server) deleteBelow(path string) {
	s.t.Helper()
	children, _, err := s.conn().Children(path)
	if errors.Is(err, zk.ErrNoNode) {
		return
	}
	if err != nil {
		s.t.Fatal(err)
	}
	for _, child := range children {
		s.deleteBelow(path + "/" + child)
		if err := s.conn().Delete(path+"/"+child, -1); err != nil && !errors.Is(err, zk.ErrNoNode) {
			s.t.Fatal(err)
		}
	}
}
