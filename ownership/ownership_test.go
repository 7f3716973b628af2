package ownership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

// cluster is some nodes with real lanes, connected in memory. It lives in a
// bubble of virtual time.
type cluster struct {
	t      *testing.T
	rng    *rand.Rand
	frozen func() // may be nil

	mu      sync.Mutex // guards the rest
	nodes   map[ring.Member]*testNode
	links   map[[2]ring.Member]*testLink
	ordered map[string]int // by key: the last request that began
	running map[string]int // by key
	served  int
	wg      sync.WaitGroup

	mute atomic.Bool // whatever is sent is lost
}

type testNode struct {
	*Ownership
	c        *cluster
	self     ring.Member
	draining bool
	lanes    *queue.Lanes
	routed   map[int]Route // as told
	log      strings.Builder
	skew     atomic.Int64 // of its clock
	froze    atomic.Int64
}

// testLink is one direction of a connection: in order, late, and it may break.
type testLink struct {
	mu       sync.Mutex // guards the rest
	payloads [][]byte
	broken   bool
	kick     chan struct{}
}

const testPartitions = 16

var testLayout = ring.Layout{Cluster: "test", Partitions: testPartitions, VirtualNodes: 20, Load: 1.25}

func newCluster(t *testing.T, seed uint64) *cluster {
	c := &cluster{
		t: t, rng: rand.New(rand.NewPCG(seed, 3)), nodes: map[ring.Member]*testNode{}, links: map[[2]ring.Member]*testLink{},
		ordered: map[string]int{}, running: map[string]int{},
	}
	return c
}

func (c *cluster) chance(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

func (c *cluster) start(name string, incarnation uint64) *testNode {
	n := &testNode{c: c, self: ring.Member{Name: name, Incarnation: incarnation}, routed: map[int]Route{}}
	n.lanes = queue.New(queue.Config{
		MaxQueued: 1000, MaxQueuedBytes: 1 << 20, MaxLanes: 1000, Tags: 1, Partitions: testPartitions,
		Emptied: func(p int, key []byte) { n.Emptied(p, key) },
	})
	var err error
	n.Ownership, err = New(Config{
		Self: n.self, Partitions: testPartitions, Lanes: n.lanes,
		Send: n.send,
		Routed: func(p int, owner ring.Member, epoch uint64) {
			c.mu.Lock()
			defer c.mu.Unlock()
			n.routed[p] = Route{owner, epoch}
		},
		Frozen: func() {
			n.froze.Add(1)
			if c.frozen != nil {
				c.frozen()
			}
		},
		HandoffTimeout: 10 * time.Second, Suspicion: time.Second,
		Now: func() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) },
		Log: slog.New(slog.NewTextHandler(&n.log, nil)),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.nodes[n.self] = n
	c.mu.Unlock()
	n.Start()
	return n
}

// connect makes the connections between all nodes that have none yet.
func (c *cluster) connect(quit <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for from, a := range c.nodes {
		for to, b := range c.nodes {
			id := [2]ring.Member{from, to}
			if from == to || c.links[id] != nil {
				continue
			}
			l := &testLink{kick: make(chan struct{}, 1), broken: true}
			c.links[id] = l
			c.wg.Go(func() { c.carry(l, a, b, quit) }) // ends with quit
		}
	}
}

// carry delivers what is sent from a to b, each payload some time after the one
// before.
func (c *cluster) carry(l *testLink, a, b *testNode, quit <-chan struct{}) {
	for {
		time.Sleep(time.Duration(c.chance(2000)) * time.Microsecond)
		l.mu.Lock()
		if l.broken {
			l.payloads, l.broken = nil, false
			l.mu.Unlock()
			a.Up(b.self)
			continue
		}
		var payload []byte
		if len(l.payloads) > 0 {
			payload, l.payloads = l.payloads[0], l.payloads[1:]
		}
		l.mu.Unlock()
		if payload != nil {
			b.Control(a.self, payload)
			for i := range payload {
				payload[i] = 0xee // it is not retained
			}
			continue
		}
		select {
		case <-l.kick:
		case <-quit:
			return
		}
	}
}

func (n *testNode) send(to ring.Member, payload []byte) {
	n.c.mu.Lock()
	l := n.c.links[[2]ring.Member{n.self, to}]
	n.c.mu.Unlock()
	if l == nil || n.c.mute.Load() {
		return
	}
	l.mu.Lock()
	if !l.broken {
		l.payloads = append(l.payloads, slices.Clone(payload))
	}
	l.mu.Unlock()
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// breakAny breaks one of the connections.
func (c *cluster) breakAny() {
	c.mu.Lock()
	var ids [][2]ring.Member
	for id := range c.links {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b [2]ring.Member) int {
		return 2*compareMembers(a[0], b[0]) + compareMembers(a[1], b[1])
	})
	l := c.links[ids[c.rng.IntN(len(ids))]]
	c.mu.Unlock()
	l.mu.Lock()
	l.broken = true
	l.mu.Unlock()
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// see gives every node, some time later than others, the view of those who live.
func (c *cluster) see() {
	c.mu.Lock()
	var live, actives []ring.Member
	var nodes []*testNode
	for m, n := range c.nodes {
		live, nodes = append(live, m), append(nodes, n)
		if !n.draining {
			actives = append(actives, m)
		}
	}
	c.mu.Unlock()
	r, err := ring.New(testLayout, actives)
	if err != nil {
		c.t.Fatal(err)
	}
	v := View{Live: live, Targets: Targets(r), Enough: true}
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			time.Sleep(time.Duration(c.chance(20)) * time.Millisecond)
			n.SetView(v)
		})
	}
	wg.Wait()
}

// client sends requests of one key, each after the one before was admitted, to
// whoever takes them.
func (c *cluster) client(key string, requests int) {
	p := testLayout.Partition([]byte(key))
	for request := 1; request <= requests; request++ {
		time.Sleep(time.Duration(c.chance(3000)) * time.Microsecond)
		var ticket queue.Ticket
		for began := time.Now(); c.admit(&ticket, key, p) != nil; time.Sleep(time.Millisecond) {
			if time.Since(began) > time.Minute {
				c.t.Errorf("nobody takes request %d of %s", request, key)
				return
			}
		}
		c.wg.Go(func() { c.run(&ticket, key, request) })
	}
}

func (c *cluster) admit(ticket *queue.Ticket, key string, p int) error {
	c.mu.Lock()
	var nodes []*testNode
	for _, n := range c.nodes {
		nodes = append(nodes, n)
	}
	c.mu.Unlock()
	err := errors.New("nobody takes it")
	for _, n := range nodes {
		if owner, epoch := n.Owner(p); owner != n.self || epoch == 0 {
			continue
		}
		if err = n.lanes.Admit(ticket, &queue.Request{Key: []byte(key), Partition: p, Bytes: 1, MaxDepth: 1000, MaxBytes: 1 << 20}); err == nil {
			return nil
		}
	}
	return err
}

func (c *cluster) run(ticket *queue.Ticket, key string, request int) {
	if err := ticket.Wait(time.Time{}); err != nil {
		c.t.Errorf("request %d of %s: %v", request, key, err)
		return
	}
	c.mu.Lock()
	if c.running[key] > 0 || request != c.ordered[key]+1 {
		c.t.Errorf("request %d of %s runs beside %d others, after request %d", request, key, c.running[key], c.ordered[key])
	}
	c.running[key]++
	c.ordered[key] = request
	c.mu.Unlock()
	time.Sleep(time.Duration(c.chance(4000)) * time.Microsecond)
	c.mu.Lock()
	c.running[key]--
	c.served++
	c.mu.Unlock()
	ticket.Done()
}

// settled expects that each partition is owned by its target, and that all know.
func (c *cluster) settled() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var actives []ring.Member
	for m, n := range c.nodes {
		if !n.draining {
			actives = append(actives, m)
		}
	}
	r, err := ring.New(testLayout, actives)
	if err != nil {
		c.t.Fatal(err)
	}
	for m, n := range c.nodes {
		owned := 0
		for p := range testPartitions {
			s := n.State(p)
			if owner, epoch := n.Owner(p); owner != r.Target(p) || n.routed[p] != (Route{owner, epoch}) {
				c.t.Errorf("%s sends partition %d to %v in epoch %d, was told %v, and its target is %v", m, p, owner, epoch, n.routed[p], r.Target(p))
			}
			if want := r.Target(p) == m; (s.Role == Owned) != want || s.Waits+s.Draining > 0 || !s.Giving.IsZero() {
				c.t.Errorf("%s, partition %d: %+v", m, p, s)
			} else if want {
				owned++
			}
		}
		if n.Owned() != owned {
			c.t.Errorf("%s counts %d partitions, and owns %d", m, n.Owned(), owned)
		}
		if totals := n.lanes.Totals()[0]; totals.Lanes > 0 {
			c.t.Errorf("%s has %d lanes left", m, totals.Lanes)
		}
	}
}

// leave is what a node does on SIGTERM.
func (c *cluster) leave(n *testNode) {
	c.mu.Lock()
	n.draining = true
	c.mu.Unlock()
	c.see()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	if err := n.Drain(ctx); err != nil {
		c.t.Errorf("%s: %v: %+v", n.self, err, n.Counts())
	}
	c.mu.Lock()
	delete(c.nodes, n.self)
	c.mu.Unlock()
	n.Stop()
	c.see()
}

// TestRollingRestart: nodes come, and each is restarted, while connections break
// and requests keep coming: every one runs, none beside another of its key, all in
// order.
//
// Mutants: "moves while it waits", "answers list nothing", "Emptied is lost".
func TestRollingRestart(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) { rollingRestart(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func rollingRestart(t *testing.T, seed uint64) {
	c := newCluster(t, seed)
	quit := make(chan struct{})
	var nodes []*testNode
	add := func(name string, incarnation uint64) *testNode {
		n := c.start(name, incarnation)
		c.connect(quit)
		c.see()
		return n
	}
	for i := range 3 {
		nodes = append(nodes, add(fmt.Sprint("node-", i), uint64(i+1)))
		synctest.Wait()
	}
	const keys, requests = 12, 60
	var clients sync.WaitGroup
	for k := range keys {
		clients.Go(func() { c.client(fmt.Sprint("order:", k), requests) })
	}
	for i, n := range nodes {
		time.Sleep(20 * time.Millisecond)
		c.breakAny()
		c.leave(n)
		add(n.self.Name, uint64(10+i))
	}
	clients.Wait()
	time.Sleep(time.Minute)
	synctest.Wait()
	c.settled()
	if c.served != keys*requests {
		t.Errorf("%d requests were served of %d", c.served, keys*requests)
	}
	close(quit)
	for _, n := range c.nodes {
		n.Stop()
		n.Stop()
		if !strings.Contains(n.log.String(), "partitions have moved") || strings.Contains(n.log.String(), "level=ERROR") {
			t.Errorf("%s logged\n%s", n.self, n.log.String())
		}
	}
	c.wg.Wait()
}

// TestTooFewSendsAway: Lanes tell of lanes that are empty while the table works
// on them; nothing waits for itself.
//
// Mutant: "Emptied takes the lock".
func TestTooFewSendsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		n := c.start("a", 1)
		defer n.Stop()
		v := View{Live: []ring.Member{n.self}, Targets: make([]ring.Member, testPartitions), Enough: true}
		for p := range v.Targets {
			v.Targets[p] = n.self
		}
		n.SetView(v)
		p := testLayout.Partition([]byte("x"))
		n.lanes.Block(p, []byte("x"))
		var ticket queue.Ticket
		if err := c.admit(&ticket, "x", p); err != nil {
			t.Fatal(err)
		}
		c.wg.Go(func() {
			if err := ticket.Wait(time.Time{}); !errors.Is(err, ErrTooFew) {
				t.Errorf("the request that waited: %v", err)
			}
		})
		v.Enough = false
		n.SetView(v)
		synctest.Wait()
		if n.Owned() != 0 || n.Counts() != (Counts{}) {
			t.Errorf("owns %d, %+v", n.Owned(), n.Counts())
		}
		c.wg.Wait()
	})
}

// TestStandingStill: the watchdog notices, everything stops, and a member's word
// lets it go on.
//
// Mutants: "the watchdog forgives", "Guard does not look at the clock".
func TestStandingStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		quit := make(chan struct{})
		a, b := c.start("a", 1), c.start("b", 2)
		c.connect(quit)
		c.see()
		time.Sleep(time.Second)
		if err := a.Guard(); err != nil {
			t.Errorf("before: %v", err)
		}
		owned := a.Owned()
		a.skew.Add(int64(800 * time.Millisecond))
		if err := a.Guard(); err != nil {
			t.Errorf("after less than the suspicion time: %v", err)
		}
		time.Sleep(time.Second)
		a.skew.Add(int64(1200 * time.Millisecond))
		if err := a.Guard(); !errors.Is(err, ErrFrozen) {
			t.Errorf("at once: %v", err)
		}
		c.mute.Store(true)
		time.Sleep(3 * time.Second)
		if err := a.Guard(); !errors.Is(err, ErrFrozen) {
			t.Errorf("before anybody has answered: %v", err)
		}
		c.mute.Store(false)
		time.Sleep(time.Second)
		if a.froze.Load() != 1 || b.froze.Load() != 0 {
			t.Errorf("%d and %d times told of it", a.froze.Load(), b.froze.Load())
		}
		if err := a.Guard(); err != nil || a.Owned() != owned {
			t.Errorf("confirmed: %v, owns %d of %d", err, a.Owned(), owned)
		}
		// Now b takes it for dead.
		targets := make([]ring.Member, testPartitions)
		for p := range targets {
			targets[p] = b.self
		}
		b.SetView(View{Live: []ring.Member{b.self}, Targets: targets, Enough: true})
		time.Sleep(time.Second)
		a.skew.Add(int64(5 * time.Second))
		time.Sleep(2 * time.Second)
		if err := a.Guard(); err != nil || a.Owned() != 0 || b.Owned() != testPartitions {
			t.Errorf("denied: %v, owns %d, the other %d", err, a.Owned(), b.Owned())
		}
		close(quit)
		a.Stop()
		b.Stop()
		c.wg.Wait()
		time.Sleep(2 * time.Second)
		if err := a.Guard(); !errors.Is(err, ErrFrozen) {
			t.Errorf("after Stop: %v", err)
		}
	})
}

// TestWhatWasOnItsWay: what is read between the notice of a standstill and the end of
// Frozen may have been sent before, and is not received.
//
// Mutant: "what was on its way is received".
func TestWhatWasOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		thaw := make(chan struct{})
		c.frozen = func() { <-thaw }
		a := c.start("a", 1)
		b := ring.Member{Name: "b", Incarnation: 2}
		a.SetView(View{Live: []ring.Member{a.self, b}, Targets: make([]ring.Member, testPartitions), Enough: true})
		say := func(epoch uint64) {
			var e encoder
			for _, payload := range e.payloads(Message{Entries: []Entry{Held{Partition: 0, Epoch: epoch, Number: 1}}}) {
				a.Control(b, payload)
			}
		}
		say(1)
		a.skew.Add(int64(5 * time.Second))
		say(2)
		synctest.Wait()
		if owner, epoch := a.Owner(0); owner != b || epoch != 1 {
			t.Errorf("the owner is %v, in epoch %d", owner, epoch)
		}
		close(thaw)
		synctest.Wait()
		say(3)
		if _, epoch := a.Owner(0); epoch != 3 {
			t.Errorf("what was sent since then is not received: epoch %d", epoch)
		}
		a.Stop()
	})
}

// TestStartStop: Stop before Start, twice, and Start after it leave nothing
// behind; a Drain that has to wait ends with its context.
func TestStartStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		n := c.start("a", 1)
		n.Stop()
		n.Stop()
		n.Start()
		config := n.config
		fresh, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		fresh.Stop()
		fresh.Start()
		if err := fresh.Drain(t.Context()); err != nil {
			t.Errorf("Drain of a node that owns nothing: %v", err)
		}

		config.Lanes = queue.New(queue.Config{MaxLanes: 1, Tags: 1, Partitions: testPartitions})
		busy, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		busy.Start()
		targets := make([]ring.Member, testPartitions)
		targets[3] = config.Self
		busy.SetView(View{Live: []ring.Member{config.Self}, Targets: targets, Enough: true})
		tired := errors.New("tired of it")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, tired)
		defer cancel()
		if err := busy.Drain(ctx); !errors.Is(err, tired) {
			t.Errorf("Drain of a node that owns something: %v", err)
		}
		busy.Stop()
	})
}

func TestConfigRefusals(t *testing.T) {
	good := Config{
		Self: ma, Partitions: 1, Lanes: deafLanes{}, Send: func(ring.Member, []byte) {}, Log: slog.New(slog.DiscardHandler),
		HandoffTimeout: 1, Suspicion: 1,
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no name":             func(c *Config) { c.Self.Name = "" },
		"no partitions":       func(c *Config) { c.Partitions = 0 },
		"too many partitions": func(c *Config) { c.Partitions = partitionsMax + 1 },
		"no lanes":            func(c *Config) { c.Lanes = nil },
		"no way to send":      func(c *Config) { c.Send = nil },
		"no log":              func(c *Config) { c.Log = nil },
		"no handoff timeout":  func(c *Config) { c.HandoffTimeout = 0 },
		"no suspicion":        func(c *Config) { c.Suspicion = 0 },
	} {
		c := good
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestGarbageIsLogged: a payload that is no message is told of, and ends nothing.
func TestGarbageIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		n := c.start("a", 1)
		n.Control(mb, []byte("garbage"))
		n.Stop()
		if log := n.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "b/2") {
			t.Errorf("logged %q", log)
		}
	})
}
