package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"

	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// upstreams are two services, and the connections to each.
type upstreams struct {
	old, new *service
	open     [2]atomic.Int64
}

type countedConn struct {
	net.Conn
	once sync.Once
	open *atomic.Int64
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

func (u *upstreams) dial(address string) (net.Conn, error) {
	at, s := 0, u.old
	if strings.HasPrefix(address, "new") {
		at, s = 1, u.new
	}
	conn, err := s.dial(address)
	if err != nil {
		return nil, err
	}
	u.open[at].Add(1)
	return &countedConn{Conn: conn, open: &u.open[at]}, nil
}

// startTwo runs a node whose upstream is the old service, and returns what has it changed.
func startTwo(t *testing.T) (*node, *upstreams, func(force bool, change func(*proxy.Config)) ([]proxy.Use, error)) {
	t.Helper()
	u := &upstreams{}
	var config proxy.Config
	n := start(t, func(c *proxy.Config) {
		c.Upstreams[0].Dial = u.dial
		config = *c
	})
	u.old, u.new = n.service, newService(t)
	t.Cleanup(u.new.stop)
	return n, u, func(force bool, change func(*proxy.Config)) ([]proxy.Use, error) {
		next := config
		next.Upstreams, next.Routes = slices.Clone(config.Upstreams), slices.Clone(config.Routes)
		change(&next)
		return n.proxy.Reload(next, force)
	}
}

func toNew(c *proxy.Config) { c.Upstreams[0].Targets = []string{"http://new"} }

// Mutants: a request looks at the present setup's route when its turn comes; the old
// upstream keeps its connections; an unchanged upstream is closed, or made anew.
func TestRequestsKeepWhatTheyCameUnder(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, u, reload := startTwo(t)
		first := async(n, "POST", "/orders/7/a", nil, "a")
		running := u.old.next()
		second := async(n, "POST", "/orders/7/b", nil, "b")
		other := async(n, "POST", "/orders/8/a", nil, "")
		u.old.next().finish(200, "warm")
		<-other
		if open := u.open[0].Load(); open != 2 {
			t.Fatalf("%d connections to the old service, want one that works and an idle one", open)
		}
		if _, err := reload(false, func(c *proxy.Config) { c.Routes[0].Lane.QueueTimeout = time.Minute }); err != nil {
			t.Fatal(err)
		}
		if open := u.open[0].Load(); open != 2 {
			t.Errorf("%d connections to an upstream that is as before, want 2", open)
		}
		if _, err := reload(false, func(c *proxy.Config) { toNew(c); c.Routes[0].Name = "orders" }); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if open := u.open[0].Load(); open != 1 {
			t.Errorf("%d connections to the old service, want the one that works", open)
		}
		third := async(n, "POST", "/orders/7/c", nil, "c")
		if v := u.new.next(); v != nil {
			t.Fatalf("%s runs beside those before it", v.URL.Path)
		}
		if sum := n.metric("lanekeeper_queued_requests", "route", "order"); sum != 1 {
			t.Errorf("%v requests wait by the route that is no more, want 1", sum)
		}
		running.finish(200, "1")
		v := u.old.next()
		if v == nil || v.body != "b" {
			t.Fatalf("the old service has %v next, want the request that came under its setup", v)
		}
		v.finish(200, "2")
		if v = u.new.next(); v == nil || v.body != "c" {
			t.Fatalf("the new service has %v next", v)
		}
		if open := u.open[0].Load(); open != 0 {
			t.Errorf("%d connections to the old service are left after its last request", open)
		}
		v.finish(200, "3")
		for i, answers := range []<-chan *answer{first, second, third} {
			if a := <-answers; a.status != 200 || a.body != fmt.Sprint(i+1) {
				t.Errorf("request %d: %d %q", i+1, a.status, a.body)
			}
		}
		if sum := n.metric("lanekeeper_requests_total", "route", "orders", "code", "200"); sum != 1 {
			t.Errorf("%v requests of the new name", sum)
		}
	})
}

// Mutants: the lanes in use are not looked at; force is refused; a halted lane does not
// count.
func TestAnotherKeyRuleWaitsForEmptyLanes(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, u, reload := startTwo(t)
		byHeader := func(c *proxy.Config) {
			toNew(c)
			c.Routes[0].Key.From = []proxy.Source{{Header: "Order"}}
		}
		first := async(n, "POST", "/orders/7/a", nil, "")
		running := u.old.next()
		second := async(n, "POST", "/orders/7/b", nil, "")
		synctest.Wait()

		_, err := reload(false, byHeader)
		inUse := (*proxy.InUseError)(nil)
		if !errors.As(err, &inUse) || len(inUse.Uses) != 1 || inUse.Uses[0] != (proxy.Use{Space: "order", Lanes: 1, Requests: 2}) {
			t.Fatalf("got %v, want what is in use", err)
		}
		uses, err := reload(true, byHeader)
		if err != nil || len(uses) != 1 || uses[0].Requests != 2 {
			t.Fatalf("by force: %v, %v", uses, err)
		}
		third := async(n, "POST", "/orders/7/c", http.Header{"Order": {"9"}}, "")
		v := u.new.next()
		if v == nil {
			t.Fatal("by force the new key does not wait for the old one")
		}
		v.finish(200, "")
		running.finish(200, "")
		u.old.next().finish(200, "")
		for _, answers := range []<-chan *answer{first, second, third} {
			if a := <-answers; a.status != 200 {
				t.Errorf("%d %s", a.status, a.problem.Detail)
			}
		}
		if uses, err := reload(false, func(*proxy.Config) {}); err != nil || len(uses) > 0 {
			t.Errorf("back, with empty lanes: %v, %v", uses, err)
		}
	})
	bubble(t, "halted", func(t *testing.T) {
		n, u, reload := startTwo(t)
		if _, err := reload(false, func(c *proxy.Config) {
			c.Routes[0].Lane.AfterFailure = proxy.AfterFailure{Action: proxy.HaltLane, Statuses: proxy.Statuses{}}
			toNew(c)
		}); err != nil {
			t.Fatal(err)
		}
		a := async(n, "POST", "/orders/7/a", nil, "")
		v := u.new.next()
		conn, _, err := v.w.(http.Hijacker).Hijack()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		close(v.done)
		<-a
		_, err = reload(false, func(c *proxy.Config) { c.Routes[0].Key.Normalize = nil })
		inUse := (*proxy.InUseError)(nil)
		if !errors.As(err, &inUse) || inUse.Uses[0].Halted != 1 {
			t.Errorf("got %v, want a halted lane", err)
		}
	})
}

// A configuration that cannot be served changes nothing.
func TestAReloadIsAllOrNothing(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, u, reload := startTwo(t)
		for name, change := range map[string]func(*proxy.Config){
			"upstream": func(c *proxy.Config) { toNew(c); c.Routes[1].Upstream = "none" },
			"path":     func(c *proxy.Config) { toNew(c); c.Routes[1].Match.Path = "x" },
			"targets":  func(c *proxy.Config) { toNew(c); c.Upstreams = append(c.Upstreams, proxy.Upstream{Name: "x"}) },
		} {
			if _, err := reload(true, change); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		a := async(n, "POST", "/orders/7/a", nil, "")
		v := u.old.next()
		if v == nil {
			t.Fatal("the request is not at the old service")
		}
		v.finish(200, "")
		if a := <-a; a.status != 200 {
			t.Error(a.status)
		}
	})
}

// What bounds a request's head and body may change.
//
// Mutants: the body's bound is the first one's; connections are not counted.
func TestLimitsMayChange(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		n, u, reload := startTwo(t)
		u.old.handle(func(http.ResponseWriter, *http.Request) {})
		c := n.open()
		body := strings.Repeat("x", 1500)
		if a := c.send("POST", "/orders/7/a", nil, body); a.status != 413 {
			t.Errorf("a large body: %d", a.status)
		}
		if _, err := reload(false, func(c *proxy.Config) { c.MaxBody, c.Routes[0].Lane.MaxBytes = 2000, 1<<20 }); err != nil {
			t.Fatal(err)
		}
		if a := n.send("POST", "/orders/7/a", nil, body); a.status != 200 {
			t.Errorf("a body that may be as large: %d %s", a.status, a.problem.Detail)
		}
		if _, err := reload(false, func(c *proxy.Config) { c.MaxConnections, c.MaxURI = 1, 10 }); err != nil {
			t.Fatal(err)
		}
		if a, err := n.open().read("POST"); err != nil || a.status != 503 || a.slug() != "overloaded" {
			t.Errorf("a connection too many: %d %s %v", a.status, a.slug(), err)
		}
		if _, err := reload(false, func(c *proxy.Config) { c.MaxConnections, c.MaxURI = 200, 10 }); err != nil {
			t.Fatal(err)
		}
		if a := n.send("POST", "/orders/7/a", nil, ""); a.status != 414 {
			t.Errorf("a long target: %d", a.status)
		}
	})
}

// In a rolling reload some nodes have a route that others don't, under its new name or its
// old one.
//
// Mutants: the owner forgets routes that are no more; the ingress says the new name to an
// owner that has the old configuration; a new name gets the tag of another.
func TestARouteIsRenamedNodeByNode(t *testing.T) {
	for _, first := range []int{0, 1} {
		bubble(t, fmt.Sprintf("node %d first", first), func(t *testing.T) {
			var configs [2]proxy.Config
			p := startPair(t, change{proxy: func(number int, c *proxy.Config) {
				c.Hash = "v1"
				configs[number] = *c
			}}, func(x *exchange) { x.ok("done") })
			rename := func(number int) {
				next := configs[number]
				next.Hash = "v2"
				next.Routes = slices.Clone(next.Routes)
				next.Routes[0].Name = "orders"
				if _, err := p.nodes[number].proxy.Reload(next, false); err != nil {
					t.Fatal(err)
				}
				p.nodes[1-number].edge.mu.Lock()
				p.nodes[1-number].edge.ownersConfig = "v2"
				p.nodes[1-number].edge.mu.Unlock()
			}
			for _, n := range p.nodes {
				n.edge.ownersConfig = "v1"
			}
			ask := func(when string) {
				t.Helper()
				for _, n := range p.nodes {
					if a := n.send("POST", "/orders/7", nil, ""); a.status != 200 {
						t.Errorf("%s: %s: %d %s", when, n.self.Name, a.status, a.problem.Detail)
					}
				}
			}
			ask("before")
			rename(first)
			ask("between")
			rename(1 - first)
			ask("after")
		})
	}
}

// TestReloadsUnderLoad sends requests of many keys, in each moment several of each, while
// routes, upstreams and timeouts change. Each runs once, in the order of tickets, and one
// at a time.
//
// Mutant: an upstream that is no more keeps its connections.
func TestReloadsUnderLoad(t *testing.T) {
	const keys, senders, each = 16, 3, 60
	service := newLoadService(t)
	var config proxy.Config
	n := startReal(t, func(c *proxy.Config) {
		c.TicketHeader, c.MaxInflight, c.Access = true, 1000, proxy.AccessNone
		c.Routes[0].Lane.MaxDepth = 100
		c.Upstreams = []proxy.Upstream{
			{Name: "app", Targets: []string{"http://a"}, ConnectTimeout: time.Minute, MaxConnections: 64, IdleTimeout: time.Minute, Dial: service.dial},
			{Name: "other", Targets: []string{"http://b"}, ConnectTimeout: time.Minute, MaxConnections: 64, IdleTimeout: time.Minute, Dial: service.dial},
		}
		config = *c
	})
	stop, reloaded := make(chan struct{}), make(chan int)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				reloaded <- i
				return
			default:
			}
			next := config
			next.Upstreams, next.Routes = slices.Clone(config.Upstreams), slices.Clone(config.Routes)
			next.Upstreams[0].Targets = []string{fmt.Sprintf("http://a%d", i%3)}
			next.Routes[0].Name = fmt.Sprintf("order%d", i%5)
			next.Routes[0].Upstream = []string{"app", "other"}[i%2]
			next.Routes[0].Lane.QueueTimeout = time.Duration(60+i%7) * time.Second
			if _, err := n.proxy.Reload(next, false); err != nil {
				t.Errorf("reload %d: %v", i, err)
			}
		}
	}()
	var sending sync.WaitGroup
	var failed atomic.Int64
	for key := range keys {
		for sender := range senders {
			sending.Go(func() {
				client := n.open()
				for i := range each {
					id := fmt.Sprintf("%d-%d-%d", key, sender, i)
					a := client.send("POST", fmt.Sprintf("/orders/k%d/%s", key, id), nil, id)
					if a.status != 200 || a.body != id {
						failed.Add(1)
						t.Errorf("%s: %d %q %s", id, a.status, a.body, a.problem.Detail)
					}
				}
			})
		}
	}
	sending.Wait()
	close(stop)
	count := <-reloaded
	if _, err := n.proxy.Reload(config, false); err != nil {
		t.Fatal(err)
	}
	service.check(t, keys*senders*each)
	if open := service.openAt("a0") + service.openAt("a1") + service.openAt("a2"); open != 0 {
		t.Errorf("%d connections to upstreams that are no more", open)
	}
	t.Logf("%d requests, %d reloads", keys*senders*each, count)
	if count < 20 {
		t.Errorf("only %d reloads", count)
	}
}

// startReal runs a node like start, by the real clock.
func startReal(t *testing.T, change func(*proxy.Config)) *node {
	t.Helper()
	config := proxy.Config{
		Node: "test", MaxBody: 1 << 10, MaxHeader: 4 << 10, MaxURI: 1 << 10, MaxHeaders: 50,
		HeaderTimeout: time.Minute, ReadTimeout: time.Minute, IdleTimeout: time.Minute, BypassIdleTimeout: time.Minute, MaxConnections: 100,
		Routes: []proxy.Route{orders()},
	}
	change(&config)
	n := &node{t: t, log: new(logBuffer), listener: fasthttputil.NewInmemoryListener()}
	n.lanes = queue.New(queue.Config{MaxQueued: 1000, MaxQueuedBytes: 1 << 20, MaxLanes: 1000})
	var err error
	if n.proxy, err = proxy.New(config, n.lanes, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- n.proxy.Serve(n.listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := n.proxy.Stop(ctx); err != nil {
			t.Errorf("Stop: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return n
}

// loadService notes what runs, by key.
type loadService struct {
	listener net.Listener
	server   *http.Server

	mu      sync.Mutex // guards the rest
	ran     map[string]int
	running map[string]bool
	last    map[string]string // ticket
	wrong   []string
	open    map[string]int // connections, by the host that was dialled
}

func newLoadService(t *testing.T) *loadService {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &loadService{listener: listener, ran: make(map[string]int), running: make(map[string]bool), last: make(map[string]string), open: make(map[string]int)}
	s.server = &http.Server{Handler: s}
	served := make(chan struct{})
	go func() { defer close(served); s.server.Serve(listener) }()
	t.Cleanup(func() { s.server.Close(); <-served })
	return s
}

func (s *loadService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	key, ticket := strings.Split(r.URL.Path, "/")[2], r.Header.Get("Lanekeeper-Ticket")
	s.mu.Lock()
	if s.running[key] {
		s.wrong = append(s.wrong, fmt.Sprintf("%s runs beside another", body))
	}
	if ticket <= s.last[key] {
		s.wrong = append(s.wrong, fmt.Sprintf("%s, ticket %s, runs after %s", body, ticket, s.last[key]))
	}
	s.running[key], s.last[key] = true, ticket
	s.ran[string(body)]++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running[key] = false
		s.mu.Unlock()
	}()
	w.Write(body)
}

func (s *loadService) dial(address string) (net.Conn, error) {
	conn, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(address)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[host]++
	return &toldConn{Conn: conn.(*net.TCPConn), closed: sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open[host]--
	})}, nil
}

type toldConn struct {
	net.Conn
	closed func()
}

func (c *toldConn) Close() error { c.closed(); return c.Conn.Close() }

func (s *loadService) openAt(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[host]
}

func (s *loadService) check(t *testing.T, want int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ran) != want {
		t.Errorf("%d requests ran, want %d", len(s.ran), want)
	}
	for id, times := range s.ran {
		if times != 1 {
			t.Errorf("%s ran %d times", id, times)
		}
	}
	for _, wrong := range s.wrong[:min(len(s.wrong), 10)] {
		t.Error(wrong)
	}
}
