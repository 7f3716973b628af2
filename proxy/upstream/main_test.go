package upstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var discard = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeConn is a connection to a fake target.
type fakeConn struct {
	net.Conn
	to    string
	over  atomic.Bool
	stale bool
}

func (c *fakeConn) Close() error { c.over.Store(true); return nil }
func (c *fakeConn) closed() bool { return c.over.Load() }
func (c *fakeConn) Usable() bool { return !c.stale }

// fakes dial targets that take every connection, but for those that are down.
type fakes struct {
	mu     sync.Mutex // guards the rest
	down   map[string]bool
	dialed []string
}

func (f *fakes) dial(address string) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dialed = append(f.dialed, address)
	if f.down[address] {
		return nil, errors.New("refused")
	}
	return &fakeConn{to: address}, nil
}

func (f *fakes) set(address string, down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down[address] = down
}

func wrapFake(conn net.Conn, _ *tls.Config, _ time.Time) (Conn, error) { return conn.(*fakeConn), nil }

// newFake makes an upstream of fake targets a:80, b:80 ...
func newFake(t *testing.T, targets int, change func(*Config)) (*Upstream, *fakes) {
	t.Helper()
	f := &fakes{down: make(map[string]bool)}
	config := Config{Name: "app", ConnectTimeout: time.Second, IdleTimeout: 30 * time.Second, Queue: 100, Dial: f.dial}
	for i := range targets {
		config.Targets = append(config.Targets, fmt.Sprintf("http://%c", 'a'+i))
	}
	if change != nil {
		change(&config)
	}
	u, err := New(config, wrapFake, discard)
	if err != nil {
		t.Fatal(err)
	}
	u.Start()
	t.Cleanup(u.Close)
	return u, f
}

// take acquires a place without patience.
func take(t *testing.T, u *Upstream, key string) *Lease {
	t.Helper()
	l, err := try(u, key, 0)
	if err != nil {
		t.Fatalf("%q: %v", key, err)
	}
	return l
}

func try(u *Upstream, key string, patience time.Duration) (*Lease, error) {
	l := new(Lease)
	return l, u.Acquire(l, &Request{Key: []byte(key), Until: time.Now().Add(patience), Measured: true})
}

func target(u *Upstream, name string) *Target {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, t := range u.targets {
		if t.Name == name {
			return t
		}
	}
	return nil
}
