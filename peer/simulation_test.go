package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/membership/membertest"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

var (
	seedsFlag = flag.Int("peer.seeds", 200, "seeds to simulate")
	seedFlag  = flag.Uint64("peer.seed", 0, "the first seed")
)

// TestSimulation runs three nodes, each an ingress for the other two, over a
// network in memory that delays, breaks and cuts, while partitions move, nodes
// are taken for dead, requests are given up, and bodies of every size go both
// ways; and holds what happened against what is promised.
//
// Of the mutants in mutants, it kills most of those that cost a promise, if not
// every one: explored to the end, the model does.
func TestSimulation(t *testing.T) {
	var sum simCounts
	began := time.Now()
	for i := range *seedsFlag {
		seed := *seedFlag + uint64(i) //nolint:gosec // not negative
		synctest.Test(t, func(t *testing.T) {
			s := newSimulation(t, seed)
			s.run()
			sum.add(&s.counts)
		})
		if t.Failed() {
			t.Fatalf("seed %d (go test -run TestSimulation -peer.seeds=1 -peer.seed=%d)", seed, seed)
		}
	}
	t.Logf("%d seeds in %s: %+v", *seedsFlag, time.Since(began).Round(time.Millisecond), sum)
	if *seedsFlag >= 50 {
		sum.expectAll(t)
	}
}

// simCounts are the paths that were taken; each must have been.
type simCounts struct {
	Responses, Here, NotExecuted, Cancelled, Unknown, Moves, Breaks, Cuts, Deaths, Freezes, Bulk, Streams, Broken int
}

func (c *simCounts) each(f func(name string, n *int)) {
	for name, n := range map[string]*int{
		"responses": &c.Responses, "here": &c.Here, "not executed": &c.NotExecuted, "cancelled": &c.Cancelled, "unknown": &c.Unknown, "moves": &c.Moves,
		"breaks": &c.Breaks, "cuts": &c.Cuts, "deaths": &c.Deaths, "freezes": &c.Freezes, "bulk": &c.Bulk, "streams": &c.Streams, "broken": &c.Broken,
	} {
		f(name, n)
	}
}

func (c *simCounts) add(o *simCounts) {
	of := map[string]int{}
	o.each(func(name string, n *int) { of[name] = *n })
	c.each(func(name string, n *int) { *n += of[name] })
}

func (c *simCounts) expectAll(t *testing.T) {
	c.each(func(name string, n *int) {
		if *n == 0 {
			t.Errorf("it has seen nothing of this: %s", name)
		}
	})
}

const (
	simNodes      = 3
	simPartitions = 4
)

type simulation struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand // of the one goroutine that decides
	network *membertest.Network
	nodes   []*simNode
	wg      sync.WaitGroup // of requests' ingresses
	behind  sync.WaitGroup // of everything else
	deaths  atomic.Int64

	mu         sync.Mutex // guards the rest
	counts     simCounts
	requests   []*simRequest
	running    map[string]int // by key: the request that runs, plus 1
	partitions [simPartitions]simPartition
}

// simPartition is the truth about a partition.
type simPartition struct {
	owner    *simNode
	epoch    uint64
	moving   bool
	before   *simNode
	draining map[string]bool
}

type simNode struct {
	of     *simulation
	self   ring.Member
	host   string
	hop    *Hop
	lanes  *queue.Lanes
	routes [simPartitions]atomic.Pointer[route]

	blind map[int]bool // of the goroutine that decides: whom this node takes for dead
}

// simRequest is a request and what has been seen of it.
type simRequest struct {
	n              int
	ingress        *simNode
	key            string
	partition      int
	body, answer   int // bytes
	stream         bool
	patience, work time.Duration
	giveUp         time.Duration // 0: never
	call           *Call
	ticket         queue.Ticket // of its ingress's own lanes
	refused        bool

	// Guarded by the simulation's mutex.
	ran      int
	answered bool
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), running: map[string]int{}}
	s.network = membertest.New(seed)
	s.network.SetLink(membertest.Link{Delay: time.Duration(s.rng.IntN(2000)) * time.Microsecond, Jitter: time.Duration(s.rng.IntN(1000)) * time.Microsecond, Loss: 0.02 * float64(s.rng.IntN(2))})
	s.network.StreamBuffer = 8<<10 + s.rng.IntN(256<<10)
	var secure *tls.Config
	if seed%50 == 0 {
		var err error
		if secure, err = SecretTLS([][]byte{[]byte("thirty-two bytes of a bad secret")}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range simNodes {
		s.start(i, secure)
	}
	for p := range simPartitions {
		owner := s.nodes[s.rng.IntN(simNodes)]
		s.partitions[p] = simPartition{owner: owner, epoch: 1, draining: map[string]bool{}}
		owner.lanes.Open(p)
		for _, n := range s.nodes {
			n.routes[p].Store(&route{owner.self, 1})
		}
	}
	for _, n := range s.nodes {
		n.see()
	}
	return s
}

func (s *simulation) start(i int, secure *tls.Config) {
	n := &simNode{of: s, self: ring.Member{Name: string(rune('a' + i)), Incarnation: 1}, host: fmt.Sprintf("10.0.0.%d", i+1), blind: map[int]bool{}}
	for p := range n.routes {
		n.routes[p].Store(&route{})
	}
	n.lanes = queue.New(queue.Config{
		MaxQueued: 1 << 20, MaxQueuedBytes: 1 << 30, MaxLanes: 1 << 10, Tags: 1, Partitions: simPartitions,
		Emptied: func(p int, key []byte) {
			name := string(key)
			s.behind.Go(func() { s.emptied(p, name) })
		},
	})
	n.hop = New(Config{
		Self: n.self, Cluster: "sim", Layout: 1, Stripes: 1 + int(s.seed%2), TLS: secure, //nolint:gosec // 1 or 2
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return s.network.Dial(ctx, n.host, address)
		},
		NextID:  n.lanes.NextID,
		Owner:   func(p int) (ring.Member, uint64) { r := n.routes[p].Load(); return r.owner, r.epoch },
		Serve:   n.serve,
		Control: func(ring.Member, []byte) {}, Up: func(ring.Member) {},
		MaxCalls: 1 << 20, MaxBytes: 1 << 30,
		Log: slog.New(slog.DiscardHandler),
	})
	listener, err := s.network.Listen(n.host + ":7000")
	if err != nil {
		s.t.Fatal(err)
	}
	s.behind.Go(func() {
		if err := n.hop.Serve(listener); err != nil {
			s.t.Errorf("Serve: %v", err)
		}
	})
	s.nodes = append(s.nodes, n)
}

// see tells the hop who is there, as far as n knows.
func (n *simNode) see() {
	var members []Member
	for i, m := range n.of.nodes {
		if !n.blind[i] {
			members = append(members, Member{m.self, m.host + ":7000"})
		}
	}
	n.hop.View(members)
}

func (s *simulation) run() {
	for range 20 + s.rng.IntN(20) {
		time.Sleep(time.Duration(s.rng.IntN(150)) * time.Millisecond)
		switch k := s.rng.IntN(20); {
		case k < 10:
			s.burst(1 + s.rng.IntN(30))
		case k < 14:
			s.move(s.rng.IntN(simPartitions), s.nodes[s.rng.IntN(simNodes)])
		case k < 16:
			a, b := s.two()
			s.network.Reset(a.host, b.host)
			s.counts.Breaks++
		case k < 17:
			s.cut()
		case k < 18:
			s.die()
		case k < 19:
			s.nodes[s.rng.IntN(simNodes)].hop.Freeze()
			s.counts.Freezes++
		}
	}
	s.network.Heal()
	for _, n := range s.nodes {
		clear(n.blind)
		n.see()
	}
	s.wg.Wait() // for every request
	s.finish()
}

func (s *simulation) two() (a, b *simNode) {
	i := s.rng.IntN(simNodes)
	return s.nodes[i], s.nodes[(i+1+s.rng.IntN(simNodes-1))%simNodes]
}

// cut lets nothing pass one way for a while, of which connections may die.
func (s *simulation) cut() {
	a, b := s.two()
	s.counts.Cuts++
	s.network.Cut(a.host, b.host)
	long := time.Duration(100+s.rng.IntN(6000)) * time.Millisecond
	s.behind.Go(func() {
		time.Sleep(long)
		s.network.Mend(a.host, b.host)
	})
}

// die has one node take another for dead for a while.
func (s *simulation) die() {
	a, b := s.two()
	at := slices.Index(s.nodes, b)
	if a.blind[at] {
		return
	}
	s.counts.Deaths++
	s.deaths.Add(1)
	a.blind[at] = true
	for p := range a.routes {
		if r := a.routes[p].Load(); r.owner == b.self {
			a.routes[p].Store(&route{})
			a.hop.Routed(p, ring.Member{}, 0)
		}
	}
	a.see()
	if s.rng.IntN(2) == 0 {
		time.Sleep(time.Duration(s.rng.IntN(1000)) * time.Millisecond)
		a.blind[at] = false
		a.see()
	}
	for p := range a.routes {
		s.tell(a, p, s.moment())
	}
}

func (s *simulation) moment() time.Duration { return time.Duration(s.rng.IntN(30)) * time.Millisecond }

// tell has n know who owns a partition, after a pause.
func (s *simulation) tell(n *simNode, p int, pause time.Duration) {
	s.behind.Go(func() {
		time.Sleep(pause)
		s.mu.Lock()
		of := &s.partitions[p]
		r := route{of.owner.self, of.epoch}
		if n.routes[p].Load().epoch < r.epoch {
			n.routes[p].Store(&r)
		}
		s.mu.Unlock()
		now := n.routes[p].Load()
		n.hop.Routed(p, now.owner, now.epoch)
	})
}

// move gives a partition to another node, as package ownership does: one move at
// a time, and what the old owner may still run blocks its key.
func (s *simulation) move(p int, to *simNode) {
	s.mu.Lock()
	of := &s.partitions[p]
	if of.owner == to || of.moving || len(of.draining) > 0 {
		s.mu.Unlock()
		return
	}
	s.counts.Moves++
	from := of.owner
	of.moving, of.before = true, from
	for _, key := range from.lanes.Seal(p) {
		of.draining[string(key)] = true
	}
	from.routes[p].Store(&route{to.self, of.epoch + 1})
	s.mu.Unlock()
	from.hop.Routed(p, to.self, of.epoch+1)
	pause, heard := s.moment(), s.moment()
	s.behind.Go(func() {
		time.Sleep(pause)
		s.mu.Lock()
		of.owner, of.moving = to, false
		of.epoch++
		for key := range of.draining {
			to.lanes.Block(p, []byte(key))
		}
		to.lanes.Open(p)
		r := &route{to.self, of.epoch}
		to.routes[p].Store(r)
		for _, n := range s.nodes {
			if n != to && n != from {
				s.tell(n, p, heard)
			}
		}
		draining := make([]string, 0, len(of.draining))
		for key := range of.draining {
			draining = append(draining, key)
		}
		s.mu.Unlock()
		to.hop.Routed(p, r.owner, r.epoch)
		for _, key := range draining {
			s.emptied(p, key)
		}
	})
}

func (s *simulation) emptied(p int, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := &s.partitions[p]
	if of.moving || !of.draining[key] || of.before.lanes.Busy(p, []byte(key)) {
		return
	}
	delete(of.draining, key)
	of.owner.lanes.Unblock(p, []byte(key))
}

// burst has a node accept requests, closely spaced.
func (s *simulation) burst(count int) {
	n := s.nodes[s.rng.IntN(simNodes)]
	for range count {
		r := &simRequest{ingress: n, partition: s.rng.IntN(simPartitions), patience: time.Duration(500+s.rng.IntN(8000)) * time.Millisecond}
		r.key = fmt.Sprintf("%d:%d", r.partition, s.rng.IntN(2))
		r.work = time.Duration(s.rng.IntN(3000)) * time.Microsecond
		switch s.rng.IntN(60) {
		case 0:
			r.work = time.Duration(s.rng.IntN(2000)) * time.Millisecond
		case 1:
			r.body = inlineMax + s.rng.IntN(200<<10)
		case 2:
			r.answer = s.rng.IntN(300 << 10)
		case 3:
			r.answer, r.stream = s.rng.IntN(500<<10), true
		case 4:
			if s.rng.IntN(4) == 0 {
				r.answer = answerMax + s.rng.IntN(300<<10)
			}
		default:
			r.body, r.answer = s.rng.IntN(2000), s.rng.IntN(2000)
		}
		if s.rng.IntN(8) == 0 {
			r.giveUp = time.Duration(1+s.rng.IntN(50_000)) * time.Microsecond
		}
		if s.rng.IntN(5) == 0 {
			time.Sleep(time.Duration(s.rng.IntN(2000)) * time.Microsecond)
		}
		s.mu.Lock()
		r.n = len(s.requests)
		s.requests = append(s.requests, r)
		s.mu.Unlock()
		n.accept(r)
	}
}

// pattern is a body that tells whose it is.
func pattern(n, size int) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint32(nil, uint32(n)), size/4+1)[:size] //nolint:gosec // small
}

func (n *simNode) accept(r *simRequest) {
	s := n.of
	if n.hop.Enter(r.partition, r) {
		s.wg.Go(func() { s.here(r) })
		return
	}
	request := Request{
		Key: []byte(r.key), Route: strconv.Itoa(r.n), MaxDepth: 1 << 20, MaxBytes: 1 << 30, MaxShared: 1, Head: []byte("head"), Body: pattern(r.n, r.body),
	}
	r.call = NewCall(r.partition, r, &request, time.Now().Add(r.patience))
	n.hop.Send(r.call)
	s.wg.Go(func() { s.await(r) })
}

// AdmitHere makes a simRequest a Local.
func (r *simRequest) AdmitHere(id queue.ID) bool {
	err := r.ingress.lanes.Admit(&r.ticket, &queue.Request{
		Key: []byte(r.key), Partition: r.partition, ID: id, Bytes: r.body, MaxDepth: 1 << 20, MaxBytes: 1 << 30, MaxShared: 1,
	})
	r.refused = err != nil
	return err != queue.ErrSealed
}

// here runs a request whose ingress is its owner.
func (s *simulation) here(r *simRequest) {
	if r.refused {
		s.t.Errorf("x%d was refused here", r.n)
		return
	}
	if r.ticket.Wait(time.Now().Add(r.patience)) == queue.ErrNotYet && r.ticket.Leave() {
		s.note(func() { r.answered = true })
		return
	}
	s.begin(r)
	time.Sleep(r.work)
	s.end(r)
	r.ticket.Done()
	s.note(func() { r.answered = true; s.counts.Here++ })
}

// await is what an edge does with a call.
func (s *simulation) await(r *simRequest) {
	until := r.patience
	if r.giveUp > 0 {
		until = min(until, r.giveUp)
	}
	if !r.call.Wait(time.Now().Add(until)) {
		r.ingress.hop.Cancel(r.call)
		if !r.call.Wait(time.Now().Add(90 * time.Second)) {
			s.t.Errorf("x%d never ends: in state %d, with number %d", r.n, r.call.state, r.call.seq)
			return
		}
	}
	if r.call.Here {
		s.here(r)
		return
	}
	a := &r.call.Response
	if a.Problem == "" {
		s.note(func() { s.answer(r, a) })
		s.read(r, a)
		return
	}
	s.note(func() { s.answer(r, a) })
}

// answer looks at an answer. It needs mu.
func (s *simulation) answer(r *simRequest, a *Response) {
	r.answered = true
	switch {
	case a.Problem == "":
		s.counts.Responses++
		if want := "head " + strconv.Itoa(r.n); string(a.Head) != want {
			s.t.Errorf("x%d got the answer %q", r.n, a.Head)
		}
		if r.ran != 1 {
			s.t.Errorf("x%d is answered and has run %d times", r.n, r.ran)
		}
	case a.Executed == NotExecuted:
		if s.counts.NotExecuted++; a.Problem == Cancelled {
			s.counts.Cancelled++
		}
		if r.ran != 0 {
			s.t.Errorf("x%d is answered %s, not executed, and has run", r.n, a.Problem)
		}
	default:
		s.counts.Unknown++
		if s.deaths.Load() == 0 {
			s.t.Errorf("x%d is answered %s, unknown, and nobody died: %s", r.n, a.Problem, a.Detail)
		}
	}
}

// read reads a response's body.
func (s *simulation) read(r *simRequest, a *Response) {
	body := a.Body
	if a.Stream {
		from, err := r.ingress.hop.Fetch(r.call)
		if err == nil {
			body, err = io.ReadAll(from)
			from.Close()
		}
		if err != nil { // the connection broke
			s.note(func() { s.counts.Broken++ })
			return
		}
		s.note(func() { s.counts.Streams++ })
	}
	if want := pattern(r.n, r.answer); !bytes.Equal(body, want) {
		s.t.Errorf("x%d: the body of the answer has %d bytes, not the %d of its own", r.n, len(body), len(want))
	}
}

func (s *simulation) note(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// serve is the owner's edge.
func (n *simNode) serve(in *Inbound) (*Response, bool) {
	in.Ticket.Notify = func() { n.of.behind.Go(func() { n.turn(in) }) }
	err := n.lanes.Admit(&in.Ticket, &queue.Request{
		Key: in.Key, Partition: in.Partition, ID: in.Request.Ticket, Bytes: in.BodySize, MaxDepth: in.MaxDepth, MaxBytes: in.MaxBytes, MaxShared: in.MaxShared,
	})
	if err == queue.ErrSealed {
		return nil, false
	}
	if err != nil {
		return &Response{Problem: "lane-full"}, true
	}
	if in.Ticket.ID.IsZero() {
		n.of.t.Error("a ticket without a name")
	}
	time.AfterFunc(in.Patience, func() {
		if in.Ticket.Leave() {
			in.Respond(&Response{Problem: "lane-timeout"})
		}
	})
	return nil, true
}

func (n *simNode) turn(in *Inbound) {
	s := n.of
	if err := in.Ticket.Granted(); err != nil {
		s.t.Errorf("evicted: %v", err)
		return
	}
	i, err := strconv.Atoi(in.Route)
	if err != nil {
		s.t.Errorf("route %q", in.Route)
		return
	}
	s.mu.Lock()
	r := s.requests[i]
	s.mu.Unlock()
	if err := in.Await(time.Now().Add(2 * time.Second)); err != nil {
		in.Ticket.Done()
		in.Respond(&Response{Problem: "lane-timeout", Detail: err.Error()})
		return
	}
	if in.Bulk {
		s.note(func() { s.counts.Bulk++ })
	}
	if !bytes.Equal(in.Body, pattern(i, r.body)) {
		s.t.Errorf("x%d runs with a body of %d bytes, not the %d of its own", i, len(in.Body), r.body)
	}
	s.begin(r)
	time.Sleep(r.work)
	s.end(r)
	response := &Response{Head: []byte("head " + in.Route)}
	if r.stream {
		in.RespondStream(response, bytes.NewReader(pattern(i, r.answer)), time.Time{}, func(bool) { in.Ticket.Done() })
		return
	}
	in.Ticket.Done()
	response.Body = pattern(i, r.answer)
	in.Respond(response)
}

// begin looks at a request that begins to run.
func (s *simulation) begin(r *simRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.running[r.key]; other != 0 {
		s.t.Errorf("x%d runs beside x%d", r.n, other-1)
	}
	s.running[r.key] = r.n + 1
	if r.ran++; r.ran > 1 {
		s.t.Errorf("x%d runs %d times", r.n, r.ran)
	}
	for _, later := range s.requests[r.n+1:] {
		if later.ingress == r.ingress && later.key == r.key && later.ran > 0 && !r.answered {
			s.t.Errorf("x%d runs after x%d, which entered behind it", r.n, later.n)
		}
	}
}

func (s *simulation) end(r *simRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, r.key)
}

// finish stops everything, and looks for what is left.
func (s *simulation) finish() {
	time.Sleep(time.Minute) // what is unknown to its ingress runs
	for _, n := range s.nodes {
		if pending := n.hop.Pending(); pending != 0 {
			s.t.Errorf("%s counts %d calls that have not ended", n.self, pending)
		}
		if bytes := n.hop.load.bytes.Load(); bytes != 0 {
			s.t.Errorf("%s counts %d bytes of calls that have ended", n.self, bytes)
		}
		if left := n.lanes.Deepest(1); len(left) > 0 {
			s.t.Errorf("%s has tickets left: %+v", n.self, left)
		}
	}
	for _, r := range s.requests {
		if !r.answered {
			s.t.Errorf("x%d has no answer", r.n)
		}
	}
	for _, n := range s.nodes {
		s.behind.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if err := n.hop.Stop(ctx); err != nil {
				s.t.Errorf("%s: Stop: %v", n.self, err)
			}
		})
	}
	s.behind.Wait()
	time.Sleep(time.Minute)
	if streams := s.network.Streams(); streams != 0 {
		s.t.Errorf("%d connections are left", streams)
	}
}
