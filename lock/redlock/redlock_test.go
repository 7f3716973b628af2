package redlock

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
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
	s := &server{Server: locktest.Redis(t, args...), t: t}
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

// number asks for a number, again if the connection was of a server before.
func (s *server) number(words ...string) int {
	s.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		n, err := s.do(words...).AsInt64()
		if err == nil {
			return int(n)
		}
		if _, said := rueidis.IsRedisErr(err); said || time.Now().After(end) {
			s.t.Fatalf("%v: %v", words, err)
		}
	}
}

// masters are redis-servers that know nothing of each other.
type masters []*server

func startMasters(t testing.TB, n int) masters {
	t.Helper()
	var all masters
	for range n {
		all = append(all, startServer(t))
	}
	return all
}

// config is for these masters, with short leases, which outlive a busy machine's
// standstill of a second.
func (m masters) config() Config {
	c := Config{Prefix: "test", TTL: 2 * time.Second, Margin: 200 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	for _, s := range m {
		c.Addresses = append(c.Addresses, s.Address)
	}
	return c
}

// least is the least of a number that each master says.
func (m masters) least(words ...string) int {
	var all []int
	for _, s := range m {
		all = append(all, s.number(words...))
	}
	return slices.Min(all)
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
	l.Close(ctx) //nolint:errcheck // the masters may be gone
}

// crash is the end of a node of which the masters hear nothing.
func crash(l *Locker) {
	l.leave()
	l.mu.Lock()
	l.closed = true
	clear(l.held)
	l.mu.Unlock()
	l.closeStores()
	l.kill()
}

// TestRedlock: the suite, on real servers.
//
// Mutants: acquire does not look for a holder; release frees whoever's lock it is;
// dead heads stay; nothing is renewed; what is given up is not freed.
func TestRedlock(t *testing.T) {
	m, tests := startMasters(t, 3), 0
	locktest.Run(t, func(t *testing.T) *locktest.Store {
		c := m.config()
		tests++
		c.Prefix += strconv.Itoa(tests)
		return &locktest.Store{
			Open:    func() lock.Locker { return open(t, c) },
			Waiting: func(name string) int { return m.least("ZCARD", "{"+c.Prefix+"}:q:"+name) },
			Left:    func() []string { return m.left(c.Prefix) },
			Crash:   func(l lock.Locker) { crash(l.(*Locker)) },
			TTL:     c.TTL, Alive: aliveFor,
		}
	})
}

// left is what masters keep of locks.
func (m masters) left(prefix string) (left []string) {
	for _, s := range m {
		for _, kind := range []string{"o", "q", "w"} {
			found, err := s.do("KEYS", "{"+prefix+"}:"+kind+":*").AsStrSlice()
			if err != nil {
				s.t.Fatal(err)
			}
			left = append(left, found...)
		}
	}
	return left
}

// acquireNow takes a lock.
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
