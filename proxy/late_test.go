package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lanekeeper/peer"
	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// gated is a cluster of one node whose requests stop before they take their tickets.
type gated struct {
	proxy.Cluster
	arrived chan struct{}
	pass    chan struct{}
}

func (g *gated) Ready() error {
	g.arrived <- struct{}{}
	<-g.pass
	return nil
}

// slow is a cluster of one node whose requests take their time before they take their
// tickets.
type slow struct{ gated }

func (*slow) Ready() error {
	dawdle()
	return nil
}

// dawdle lets others run, for some of the time that a change takes.
func dawdle() {
	for end := time.Now().Add(rand.N(300 * time.Microsecond)); time.Now().Before(end); {
		runtime.Gosched()
	}
}

func (*gated) Partition([]byte) int { return 0 }

func (*gated) Guard(int, time.Time) error { return nil }

func (*gated) Enter(_ int, local peer.Local) bool { return local.AdmitHere(queue.ID{}) }

// A request that found its key before a Reload, and takes its ticket after it, begins anew.
// One whose space's rule is as before does not.
//
// Mutants: nobody looks; the setup is compared, not the rule; the ticket is not given back;
// the old setup is asked again.
func TestALateRequestBeginsAnew(t *testing.T) {
	byHeader := func(c *proxy.Config) { c.Routes[0].Key.From = []proxy.Source{{Header: "Order"}} }
	for name, c := range map[string]struct {
		change func(*proxy.Config)
		key    string
		begins int
	}{
		"the key":   {byHeader, "order:9", 2},
		"the lane":  {func(c *proxy.Config) { c.Routes[0].Lane.MaxDepth++ }, "order:7", 1},
		"no routes": {func(c *proxy.Config) { c.Routes = c.Routes[1:] }, "", 1},
	} {
		bubble(t, name, func(t *testing.T) {
			g := &gated{arrived: make(chan struct{}, 10), pass: make(chan struct{})}
			var config proxy.Config
			n := start(t, func(c *proxy.Config) {
				c.Cluster = g
				config = *c
			})
			a := async(n, "POST", "/orders/7/a", http.Header{"Order": {"9"}}, "body")
			<-g.arrived
			next := config
			next.Routes = slices.Clone(config.Routes)
			c.change(&next)
			if _, err := n.proxy.Reload(next, false); err != nil {
				t.Fatal(err)
			}
			close(g.pass)
			v := n.service.next()
			if v == nil {
				t.Fatal("it does not run")
			}
			if key := v.Header.Get("Lanekeeper-Key"); key != c.key || v.body != "body" {
				t.Errorf("it runs as %q with %q, want %q", key, v.body, c.key)
			}
			if begins := 1 + len(g.arrived); begins != c.begins {
				t.Errorf("it began %d times, want %d", begins, c.begins)
			}
			v.finish(200, "")
			if b := <-a; b.status != 200 {
				t.Errorf("%d %s", b.status, b.body)
			}
			n.idle()
		})
	}
}

// While a Reload decides about a space, nobody's turn begins there; the ticket has been
// taken, so that the lane is in use. Other spaces do not wait.
//
// Mutants: nobody waits; all spaces wait; who waited does not look again.
func TestTurnsWaitForADecision(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, _, reload := startTwo(t)
		made := n.proxy.Decide("cart")
		a := async(n, "POST", "/orders/7/a", nil, "")
		v := n.service.next()
		if v == nil {
			t.Fatal("it waits for another space's rule")
		}
		v.finish(200, "")
		<-a
		made()
		for _, change := range []bool{false, true} {
			made := n.proxy.Decide("order")
			a := async(n, "POST", "/orders/7/a", http.Header{"Order": {"9"}}, "")
			if v := n.service.next(); v != nil {
				t.Fatal("it runs by a rule that may not be one any more")
			}
			byHeader := func(c *proxy.Config) { c.Routes[0].Key.From = []proxy.Source{{Header: "Order"}} }
			if _, err := reload(false, byHeader); !errors.As(err, new(*proxy.InUseError)) {
				t.Fatalf("its lane does not count: %v", err)
			}
			want := "order:7"
			if change {
				want = "order:9"
				if _, err := reload(true, byHeader); err != nil {
					t.Fatal(err)
				}
			}
			made()
			v := n.service.next()
			if v == nil {
				t.Fatal("it does not run")
			}
			if key := v.Header.Get("Lanekeeper-Key"); key != want {
				t.Errorf("it runs as %s, want %s", key, want)
			}
			v.finish(200, "")
			<-a
		}
		n.idle()
	})
}

// TestRulesNeverMix changes to and fro between two rules while requests come, and expects
// that the service never has requests of both at once.
//
// Mutants: Reload looks before it says that it decides; nobody looks.
func TestRulesNeverMix(t *testing.T) {
	const senders, long = 3, 2 * time.Second
	var mu sync.Mutex
	running, mixed, ran := map[string]int{}, 0, 0
	service := newLoadService(t)
	service.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		rule := strings.TrimRight(r.Header.Get("Lanekeeper-Key"), "0123456789")
		mu.Lock()
		ran++
		if running[rule]++; len(running) > 1 {
			mixed++
		}
		mu.Unlock()
		dawdle()
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			if running[rule]--; running[rule] == 0 {
				delete(running, rule)
			}
		}()
		w.WriteHeader(http.StatusOK)
	})
	var config proxy.Config
	n := startReal(t, func(c *proxy.Config) {
		c.MaxInflight, c.Access, c.Cluster = 1000, proxy.AccessNone, &slow{}
		c.Upstreams = []proxy.Upstream{{Name: "app", Targets: []string{"http://a"}, ConnectTimeout: time.Minute, MaxConnections: 64, IdleTimeout: time.Minute, Dial: service.dial}}
		config = *c
	})
	var stop atomic.Bool
	var sending sync.WaitGroup
	for sender := range senders {
		sending.Go(func() {
			client := n.open()
			for !stop.Load() {
				a := client.send("POST", fmt.Sprintf("/orders/p%d/x", sender), http.Header{"Order": {fmt.Sprintf("h%d", sender)}}, "")
				if a.status != 200 {
					t.Errorf("%d %q", a.status, a.body)
					return
				}
			}
		})
	}
	changed := 0
	for end := time.Now().Add(long); time.Now().Before(end); {
		next := config
		next.Routes = slices.Clone(config.Routes)
		if changed%2 == 0 {
			next.Routes[0].Key.From = []proxy.Source{{Header: "Order"}}
		}
		if _, err := n.proxy.Reload(next, false); err == nil {
			changed++
		} else if !errors.As(err, new(*proxy.InUseError)) {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	sending.Wait()
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d requests, %d changes", ran, changed)
	if mixed > 0 || changed < 20 || ran < 20 {
		t.Errorf("%d requests ran beside one of the other rule; %d changes", mixed, changed)
	}
}
