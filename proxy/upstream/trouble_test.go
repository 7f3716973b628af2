package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"
)

// names are a's targets' names.
func names(u *Upstream) (all []string) {
	for _, t := range u.State().Targets {
		all = append(all, t.Name)
	}
	return all
}

// fail has n requests of u fail.
func fail(t *testing.T, u *Upstream, n int) {
	t.Helper()
	for range n {
		l := take(t, u, "")
		l.Failed()
		l.Done(false)
	}
}

// Failures in a row open the circuit, and nothing else does; one request at a time tries
// after open_for, and what becomes of it decides.
//
// Mutants: failures are counted without their row; a late answer does not count; an open circuit
// lets requests through; a half-open one lets all through; one that tries and fails leaves it half
// open; one that tries and ends without a word blocks it for ever; a request from before closes it.
func TestCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, f := newFake(t, 1, func(c *Config) { c.Circuit = Circuit{Failures: 3, OpenFor: 5 * time.Second} })
		is := func(want string) {
			t.Helper()
			if got := u.State().Targets[0]; got.Condition != want || got.Available != (want == "available") {
				t.Errorf("it is %s (%t), want %s", got.Condition, got.Available, want)
			}
		}
		refused := func(why string) {
			t.Helper()
			if _, err := try(u, "", time.Minute); !errors.Is(err, ErrNone) {
				t.Errorf("%s: %v, want a refusal", why, err)
			}
		}
		for range 3 {
			fail(t, u, 2)
			l := take(t, u, "")
			l.Answered()
			l.Done(true)
		}
		is("available")
		before := take(t, u, "")
		fail(t, u, 2)
		l := take(t, u, "")
		l.Late()
		is("open") // before it is done: it may be held for long
		refused("an open circuit")
		l.Done(false)
		before.Answered()
		before.Done(true)
		is("open")

		time.Sleep(5*time.Second - time.Nanosecond)
		refused("before its time")
		time.Sleep(time.Nanosecond)
		is("half open")
		first := take(t, u, "")
		refused("a second one that would try")
		first.Failed()
		first.Done(false)
		is("open")
		time.Sleep(5 * time.Second)
		silent := take(t, u, "")
		silent.Done(false)
		is("half open")
		f.set("a:80", true)
		if _, err := try(u, "", 0); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("a dial that fails: %v", err)
		}
		is("open")
		f.set("a:80", false)
		time.Sleep(5 * time.Second)
		good := take(t, u, "")
		good.Answered()
		is("available") // at its first word
		take(t, u, "").Done(true)
		good.Done(true)
		fail(t, u, 2)
		is("available")
	})
}

// Without a policy nothing opens.
// Mutant: zero failures are enough.
func TestNoCircuit(t *testing.T) {
	u, _ := newFake(t, 1, nil)
	fail(t, u, 100)
	first := take(t, u, "")
	take(t, u, "").Done(true)
	first.Done(true)
}

// A key whose target is open goes to its next, and comes back.
func TestAnOpenTargetIsPassedOver(t *testing.T) {
	for name, balance := range map[string]Balance{"round robin": RoundRobin, "least pending": LeastPending, "key hash": KeyHash} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, f := newFake(t, 3, func(c *Config) {
					c.Balance, c.Circuit = balance, Circuit{Failures: 2, OpenFor: time.Second}
				})
				f.set("b:80", true)
				failed := 0
				for i := range 300 {
					l, err := try(u, numbered(i), 0)
					if err != nil {
						failed++
						continue
					}
					l.Answered()
					l.Done(true)
				}
				if failed != 2 {
					t.Errorf("%d of 300 requests found that a target of 3 is away, want 2", failed)
				}
				f.set("b:80", false)
				time.Sleep(time.Second)
				if got := spread(t, u, 300, numbered); got["http://b"] < 60 {
					t.Errorf("after its return: %v", got)
				}
			})
		})
	}
}

// A dumb twin of health.note.
//
// Mutants: the first check needs fall; rise and fall are exchanged; a success does not end a
// row of failures.
func TestHealthNote(t *testing.T) {
	policy := &Health{Fall: 3, Rise: 2}
	for _, c := range []struct{ checks, down string }{
		{"+--+--+---+-+-++", "         xxxxxx "},
		{"-+-++-", "xxxx  "},
		{"+", " "},
		{"---++---", "xxxx   x"},
	} {
		var h health
		got := ""
		for _, check := range c.checks {
			h.note(policy, check == '+')
			got += map[bool]string{true: "x", false: " "}[h.down]
		}
		if got != c.down {
			t.Errorf("%q: down %q, want %q", c.checks, got, c.down)
		}
	}
}

// plain is a Conn of any connection.
type plain struct{ net.Conn }

func (plain) Usable() bool { return true }

// checked is a target of health checks in memory.
type checkedTarget struct {
	listener *fasthttputil.InmemoryListener
	status   atomic.Int32 // 0: it says nothing
	asked    atomic.Int32
	path     atomic.Value
}

func newCheckedTarget(t *testing.T) *checkedTarget {
	c := &checkedTarget{listener: fasthttputil.NewInmemoryListener()}
	c.status.Store(200)
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		c.path.Store(r.Host + r.RequestURI)
		if s := c.status.Load(); s != 0 {
			w.WriteHeader(int(s))
			return
		}
		<-r.Context().Done()
	})}
	go server.Serve(c.listener)
	t.Cleanup(func() { server.Close() })
	return c
}

// Checks take a target away and bring it back; a node's requests learn of it at once. They
// end with the upstream.
//
// Mutants: nothing is checked; a status of 500 is healthy, 302 is not; a target that does not
// answer stays.
func TestHealthChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCheckedTarget(t)
		u, err := New(Config{
			Name: "app", Targets: []string{"http://a:1"}, ConnectTimeout: time.Second, IdleTimeout: time.Minute,
			Health: Health{Path: "/ok?x=1", Interval: 10 * time.Second, Timeout: time.Second, Fall: 3, Rise: 2},
			Dial:   func(string) (net.Conn, error) { return c.listener.Dial() },
		}, func(conn net.Conn, _ *tls.Config, _ time.Time) (Conn, error) { return plain{conn}, nil }, discard)
		if err != nil {
			t.Fatal(err)
		}
		is := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := u.State().Targets[0].Condition; got != want {
				t.Errorf("it is %s, want %s", got, want)
			}
		}
		is("available") // nothing is known
		u.Start()
		is("available")
		if c.asked.Load() != 1 || c.path.Load() != "a:1/ok?x=1" {
			t.Errorf("asked %d times, for %s", c.asked.Load(), c.path.Load())
		}
		for _, round := range []struct {
			status int32
			checks int
			want   string
		}{{500, 2, "available"}, {302, 1, "available"}, {404, 3, "down"}, {204, 1, "down"}, {204, 1, "available"}, {0, 3, "down"}, {200, 2, "available"}} {
			c.status.Store(round.status)
			for asked := c.asked.Load(); c.asked.Load() < asked+int32(round.checks); {
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(time.Second) // one that says nothing
			is(round.want)
			if _, err := try(u, "", 0); (err != nil) != (round.want == "down") {
				t.Errorf("%d: a request: %v", round.status, err)
			}
		}
		u.Close()
		asked := c.asked.Load()
		time.Sleep(time.Minute)
		if c.asked.Load() != asked {
			t.Error("the checks outlive the upstream")
		}
	})
}

// directory is a Resolver.
type directory struct {
	mu        sync.Mutex // guards the rest
	addresses []string   // nil: it fails
	asked     int
	hold      chan struct{}
}

func (d *directory) set(addresses ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addresses = addresses
}

func (d *directory) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	if host != "orders.svc" || network != "ip" {
		return nil, fmt.Errorf("asked for %s %s", network, host)
	}
	if d.hold != nil {
		select {
		case <-d.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if d.addresses == nil {
		return nil, errors.New("no such host")
	}
	var all []netip.Addr
	for _, a := range d.addresses {
		all = append(all, netip.MustParseAddr(a))
	}
	return all, nil
}

// Every address behind a name is a target, of both families; one that vanishes ends what it has
// and takes no more; a lookup that fails or finds nothing changes nothing.
//
// Mutants: addresses of one family are left out; an address that is still there loses its
// connections; one that vanished keeps its own; a failed lookup empties the
// set; it is not counted; ::ffff:10.0.0.1 is another target than 10.0.0.1.
func TestNamesAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &directory{}
		d.set("10.0.0.2", "10.0.0.1", "fd00::1", "::ffff:10.0.0.1")
		u, f := newFake(t, 0, func(c *Config) {
			c.Targets, c.Resolver, c.DNSRefresh, c.SlowStart = []string{"dns+http://orders.svc:8080"}, d, 10*time.Second, 0
		})
		are := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if got := names(u); !slices.Equal(got, want) {
				t.Errorf("targets %v, want %v", got, want)
			}
		}
		one, two, six := "http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://[fd00::1]:8080"
		are(one, two, six)
		spread(t, u, 3, noKey)
		slices.Sort(f.dialed)
		if want := []string{"10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"}; !slices.Equal(f.dialed, want) {
			t.Errorf("dialed %v, want %v", f.dialed, want)
		}
		if l := take(t, u, ""); l.Target.Host != "orders.svc:8080" {
			t.Errorf("requests name the host %s", l.Target.Host)
		} else {
			l.Done(true)
		}

		kept := target(u, one)
		var running *Lease
		for running == nil {
			if l := take(t, u, ""); l.Target.Name == two {
				running = l
			} else {
				l.Done(true)
			}
		}
		idle := target(u, six).conns[0].Conn.(*fakeConn)
		d.set("10.0.0.1", "10.0.0.3")
		time.Sleep(12 * time.Second)
		three := "http://10.0.0.3:8080"
		are(one, three)
		if target(u, one) != kept || !idle.closed() {
			t.Error("an address that stays is new, or one that vanished has idle connections")
		}
		used := running.Conn.(*fakeConn)
		if used.closed() {
			t.Error("a request of an address that vanished is cut off")
		}
		if got := spread(t, u, 40, noKey); len(got) != 2 {
			t.Errorf("requests go to %v", got)
		}
		running.Answered()
		running.Done(true)
		if !used.closed() {
			t.Error("its connection goes back to a pool")
		}

		d.set()
		time.Sleep(25 * time.Second)
		are(one, three)
		if n := u.State().Lookups; n < 2 || n > 3 {
			t.Errorf("%d failed lookups are counted", n)
		}
		d.mu.Lock()
		d.addresses = []string{}
		d.mu.Unlock()
		time.Sleep(12 * time.Second)
		are(one, three)
		d.set("10.0.0.2")
		time.Sleep(12 * time.Second)
		are(two)
		u.Close()
		d.mu.Lock()
		asked := d.asked
		d.mu.Unlock()
		time.Sleep(time.Minute)
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.asked != asked {
			t.Error("the name is looked up after Close")
		}
	})
}

// Before the first lookup is done, requests wait for it; when it fails they are refused, and
// it is soon repeated.
//
// Mutants: a request is refused while nothing is known; it waits after the lookup has failed; the
// next lookup is a whole dns_refresh away.
func TestTheFirstLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &directory{hold: make(chan struct{})}
		u, _ := newFake(t, 0, func(c *Config) {
			c.Targets, c.Resolver, c.DNSRefresh = []string{"dns+http://orders.svc"}, d, time.Minute
		})
		served, failed := waiting(u, 2, noKey, 10*time.Second)
		if len(served)+len(failed) != 0 {
			t.Fatal("nobody waits for the lookup")
		}
		time.Sleep(2 * time.Second) // it times out
		synctest.Wait()
		if len(failed) != 2 || !errors.Is(<-failed, ErrNone) {
			t.Fatalf("%d of 2 were refused", len(failed))
		}
		close(d.hold)
		d.set("10.0.0.1")
		time.Sleep(2 * time.Second)
		if l := take(t, u, ""); !strings.HasSuffix(l.Target.Name, "10.0.0.1:80") {
			t.Error(l.Target.Name)
		} else {
			l.Done(true)
		}
	})
}

// A key that waits for a target whose address vanishes goes on at another.
// Mutant: nobody tells it.
func TestAVanishedTargetIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &directory{}
		d.set("10.0.0.1", "10.0.0.2")
		u, _ := newFake(t, 0, func(c *Config) {
			c.Targets, c.Resolver, c.DNSRefresh = []string{"dns+http://orders.svc"}, d, 10*time.Second
			c.Balance, c.MaxConnections = KeyHash, 1
		})
		synctest.Wait()
		first := take(t, u, "k")
		served, _ := waiting(u, 1, func(int) string { return "k" }, time.Minute)
		if len(served) > 0 {
			t.Fatal("it does not wait")
		}
		other := map[string]string{"http://10.0.0.1:80": "10.0.0.2", "http://10.0.0.2:80": "10.0.0.1"}[first.Target.Name]
		d.set(other)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if len(served) != 1 {
			t.Error("it waits for a target that is gone")
		}
		first.Done(true)
		time.Sleep(2 * time.Second)
	})
}
