package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lanekeeper/loadtest"
	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
	"lanekeeper/membership"
	"lanekeeper/membership/membertest"
	"lanekeeper/proxy"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// Hosts of the simulated network. Node n3 is 10.0.0.3.
const (
	witnessHost = "10.0.1.1"
	clientHost  = "10.0.2.1"
	rudeHost    = "10.0.2.2" // whose connections are reset
)

// world is a cluster of real nodes, their clients and their upstream, in one
// bubble of virtual time, on a network in memory.
type world struct {
	scenario
	base    *Config
	network *membertest.Network
	history *loadtest.History
	clock   *loadtest.Clock
	began   time.Time
	tally   *tally
	random  *rand.Rand       // of the one who plans
	traced  int              // partition; -1: none
	store   *locktest.Memory // strict: the coordinator
	locks   *lock.Local      // of spilled keys
	names   *named           // the clients and the service of the named simulation, or nil

	mended atomic.Bool // the node that was cut off no longer is

	work sync.WaitGroup // everything that must have ended before the bubble does

	mu        sync.Mutex    // guards the rest
	processes []*simProcess // all there ever were
	serial    uint64
	diary     []string
	lines     []string // of the nodes' logs
	incidents []*incident
	problems  []string
	runs      []sending
	leaves    int           // nodes that ended in order while there were clients
	over      bool          // there are none any more
	kick      chan struct{} // holds one: somebody's view has changed
}

// simProcess is a node from its start to its end, and the upstream that it uses:
// one each, so that the history tells who ran a request.
type simProcess struct {
	world       *world
	name, host  string
	incarnation uint64
	id          string // n1#4
	gate        *gate
	store       *locktest.Node // strict: its way to the coordinator
	locks       lock.Locker    // of spilled keys, or nil
	node        *node
	witness     simUpstream
	gone        chan struct{} // closed when it has ended, or is to
	began       int64
	once        sync.Once // of apart

	// Guarded by world.mu.
	ready    bool         // clients are sent here
	settled  atomic.Int64 // when it was first ready; 0: not yet
	stopping bool
	ended    bool
	crashed  bool
}

// simUpstream is the service that one process uses.
type simUpstream interface {
	Start(net.Listener) error
	Stop(context.Context) error
}

// upstream makes a process's.
func (w *world) upstream(process string) (simUpstream, error) {
	if w.names != nil {
		return &counter{registers: w.names.registers, process: process}, nil
	}
	service := w.service
	service.Name = process
	return loadtest.NewWitness(service, w.history)
}

// say writes into the diary, which is printed for a seed that fails.
func (w *world) say(format string, args ...any) {
	line := fmt.Sprintf("%9.4f  %s", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.diary = append(w.diary, line)
}

// wrong notes a broken promise.
func (w *world) wrong(format string, args ...any) {
	w.say("WRONG: "+format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// journal keeps what a node logs.
type journal struct {
	w  *world
	id string
}

func (j journal) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || *simDebug
}

func (j journal) Handle(_ context.Context, r slog.Record) error {
	line := fmt.Sprintf("%9.4f  %s %s %s", time.Since(j.w.began).Seconds(), j.id, r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		line += fmt.Sprintf(" %s=%q", a.Key, a.Value.String())
		return true
	})
	if strings.HasPrefix(r.Message, "this node stood still") {
		j.w.tally.add(sawFreeze, 1)
	}
	if strings.HasPrefix(r.Message, "what this node owns is confirmed") {
		j.w.confirmed(j.id)
	}
	if strings.HasPrefix(r.Message, "panic") {
		j.w.wrong("%s panicked: %s", j.id, line)
	}
	j.w.mu.Lock()
	defer j.w.mu.Unlock()
	j.w.lines = append(j.w.lines, line)
	return nil
}

func (j journal) WithAttrs([]slog.Attr) slog.Handler { return j }
func (j journal) WithGroup(string) slog.Handler      { return j }

// simulationConfig is a configuration as an operator writes it, to which each
// simulation makes its changes.
func simulationConfig(t *testing.T) *Config {
	t.Helper()
	dir := t.TempDir()
	secret, file := filepath.Join(dir, "secret"), filepath.Join(dir, "lanekeeper.yaml")
	if err := os.WriteFile(secret, []byte(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := `
version: 1
node: {name: n1}
server: {listen: "10.0.0.1:8080"}
cluster:
  enabled: true
  secret_file: ` + secret + `
  join: ["10.0.0.1:7943", "10.0.0.2:7943", "10.0.0.3:7943"]
  join_timeout: 2s
  gossip: {listen: "10.0.0.1:7943"}
  peer: {listen: "10.0.0.1:7944"}
upstreams: [{name: app, targets: ["http://10.0.1.1:80"]}]
defaults: {lane: {max_depth: 10000}}
routes:
  - name: order
    match: {path: "/orders/{id}"}
    upstream: app
    key: {space: order, from: [{path: id}]}
    lane: {max_response: 32KiB}
  - name: quick
    match: {path: "/quick/{id}"}
    upstream: app
    key: {space: order, from: [{path: id}]}
    lane: {queue_timeout: 25ms}
log: {access: none}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	config, report := Load(LoadOptions{File: file})
	if report.Errors() > 0 {
		t.Fatal(report)
	}
	return config
}

func newWorld(s scenario, base *Config) *world {
	w := &world{
		scenario: s, base: base, network: membertest.New(s.seed), clock: loadtest.NewClock(), began: time.Now(),
		tally: newTally(), random: rand.New(rand.NewPCG(s.seed, 0x73696d)), kick: make(chan struct{}, 1), traced: -1, locks: lock.NewLocal(),
	}
	if *simKey != "" {
		w.traced = w.layout().Partition([]byte(*simKey))
	}
	w.history = loadtest.NewHistory(w.clock, 0)
	sound := s.link
	sound.Loss = 0
	w.network.SetLink(sound) // clients and upstreams are not what is tested
	w.between(s.link)
	for i := range nodesMax {
		w.network.Boot(hostOf(nodeName(i)))
	}
	w.network.StreamTimeout = 20 * time.Second
	if s.strict {
		w.store = locktest.NewMemory(rand.New(rand.NewPCG(s.seed, 0x73746f)), slog.New(journal{w: w, id: "store"}))
		w.store.Grace(s.grace)
	}
	if s.named {
		w.names = newNamed(w)
	}
	return w
}

func (w *world) layout() ring.Layout {
	layout := ring.DefaultLayout(w.base.Cluster.Name)
	layout.Partitions = w.partitions
	return layout
}

// between sets how nodes are connected to each other.
func (w *world) between(l membertest.Link) {
	for a := range nodesMax {
		for b := range nodesMax {
			if a != b {
				w.network.SetLinkFrom(hostOf(nodeName(a)), hostOf(nodeName(b)), l)
			}
		}
	}
}

func nodeName(i int) string { return fmt.Sprintf("n%d", i+1) }

func hostOf(name string) string { return "10.0.0." + strings.TrimPrefix(name, "n") }

// config is one process's.
func (w *world) config(p *simProcess) (nodeConfig, error) {
	c, err := w.base.nodeConfig()
	if err != nil {
		return c, err
	}
	c.listen, c.observe, c.admin = p.host+":8080", "", ""
	c.delay, c.drain = w.delay, 30*time.Second
	c.proxy.Node = p.name
	u := &c.proxy.Upstreams[0]
	u.Targets = []string{fmt.Sprintf("http://%s:%d", witnessHost, 8000+p.incarnation)}
	u.Dial = func(address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), u.ConnectTimeout)
		defer cancel()
		return p.gate.dial(ctx, w.network, p.host, address, nil)
	}
	order := &c.proxy.Routes[0].Lane
	if w.spilled {
		for i := range 2 {
			l := &c.proxy.Routes[i].Lane
			l.Spill, l.Batch, l.Quantum = true, w.batch, w.quantum
			l.Hot = &queue.HotRule{Depth: 1, For: time.Millisecond, CoolAfter: w.coolIn}
			l.SpillLocks = w.locked
		}
		if w.locked {
			p.locks = w.locks.Open()
			c.locks, c.proxy.Locks = p.locks, proxy.Locks{Timeout: time.Second, Name: "memory"}
		}
	}
	if w.named {
		w.nameRequests(&c.proxy.Routes[0])
	}
	order.QueueTimeout, order.UpstreamTimeout = w.patience, w.upstreamTimeout
	c.proxy.Routes[1].Lane.UpstreamTimeout = w.upstreamTimeout
	if w.strict {
		p.store = w.store.Open(p.id, w.ttl, w.margin)
		c.coordinator, c.strict, c.cluster.acquireTimeout = p.store, true, w.ttl/4
		order.Strict, c.proxy.Routes[1].Lane.Strict = true, true
	}

	cluster := c.cluster
	cluster.node, cluster.partitions, cluster.minMembers = p.name, w.partitions, w.minMembers
	cluster.settle, cluster.rejoin, cluster.handoffTimeout = w.settle, w.rejoin, w.handoff
	cluster.peer.listen = p.host + ":7944"
	cluster.leaseValid = w.ttl - w.margin
	cluster.join = nil
	for i := range nodesMax { // who is not there refuses
		cluster.join = append(cluster.join, hostOf(nodeName(i))+":7943")
	}
	if !w.secure {
		cluster.gossip.secrets, cluster.peer.secrets = nil, nil
	}
	return c, nil
}

// start runs a new process on a node's host, and returns when it has begun.
func (w *world) start(name string) *simProcess {
	w.mu.Lock()
	w.serial++
	p := &simProcess{
		world: w, name: name, host: hostOf(name), incarnation: w.serial, id: fmt.Sprintf("%s#%d", name, w.serial),
		gate: newGate(), gone: make(chan struct{}), began: w.clock.Now(),
	}
	w.mu.Unlock()
	w.say("start %s", p.id)
	w.network.Boot(p.host)

	witness, err := w.upstream(p.id)
	if err != nil {
		w.wrong("%s: %v", p.id, err)
		return nil
	}
	listener, err := w.network.Listen(fmt.Sprintf("%s:%d", witnessHost, 8000+p.incarnation))
	if err == nil {
		err = witness.Start(listener)
	}
	if err != nil {
		w.wrong("%s: its upstream: %v", p.id, err)
		return nil
	}
	p.witness = witness

	config, err := w.config(p)
	if err == nil {
		config.parts = p.parts()
		p.node, err = startNode(config, slog.New(journal{w: w, id: p.id}))
	}
	if err != nil {
		w.wrong("%s does not start: %v", p.id, err)
		return nil
	}
	w.mu.Lock()
	w.processes = append(w.processes, p)
	w.mu.Unlock()
	w.work.Go(p.follow) // ends with gone
	return p
}

func (p *simProcess) parts() clusterParts {
	w := p.world
	return clusterParts{
		listen: func(address string) (net.Listener, error) {
			l, err := w.network.Listen(address)
			if err != nil {
				return nil, err
			}
			return &gateListener{Listener: l, gate: p.gate}, nil
		},
		dial: func(ctx context.Context, address string) (net.Conn, error) {
			var t *tap
			if !w.secure {
				t = newTap(w, p.id, address)
			}
			return p.gate.dial(ctx, w.network, p.host, address, t)
		},
		gossip: func(c *membership.Config) {
			transport, err := newGateTransport(p.gate, w.network, p.host)
			if err != nil {
				w.wrong("%s: gossip: %v", p.id, err)
				return
			}
			c.Transport = transport
		},
		incarnation: p.incarnation, stripes: w.stripes, now: p.gate.now,
	}
}

// follow tells of every change of the process's view, and lets clients in once
// it is ready.
func (p *simProcess) follow() {
	var before *membership.View
	for {
		view := p.node.cluster.members.View()
		if view.Version > 0 {
			p.world.say("%s sees %s", p.id, describe(view))
			p.missed(before, view)
			before = view
			select {
			case p.world.kick <- struct{}{}:
			default:
			}
			p.admit()
		}
		select {
		case <-view.Changed():
		case <-p.gone:
			return
		}
	}
}

// missed notes that a process has come to take another for dead that lives and
// does not stand still. For that is no different from a split: both may run.
func (p *simProcess) missed(before, now *membership.View) {
	if before == nil {
		return
	}
	for _, o := range p.world.present() {
		m := ring.Member{Name: o.name, Incarnation: o.incarnation}
		if o == p || !before.Alive(m) || now.Alive(m) || o.gate.isShut() || p.gate.isShut() {
			continue
		}
		p.world.say("%s takes %s for dead", p.id, o.id)
		if p.world.cutOff {
			p.world.missedBeside(p, o)
			continue
		}
		p.world.tally.add(sawFalse, 1)
		p.world.note(&incident{kind: split, from: p.world.clock.Now()})
		if p.world.planned {
			p.world.wrong("%s takes %s for dead", p.id, o.id)
		}
	}
}

func describe(v *membership.View) string {
	var words []string
	for _, n := range v.Members {
		words = append(words, fmt.Sprintf("%s#%d", n.Name, n.Incarnation))
		if n.State != membership.Active {
			words[len(words)-1] += "(" + n.State.String() + ")"
		}
	}
	return strings.Join(words, " ")
}

// admit lets clients in when the node says that it is ready, as a load balancer
// does.
func (p *simProcess) admit() {
	for p.node.cluster.Ready() != nil {
		if p.node.cluster.members.View().Version == 0 || !p.node.cluster.members.View().Enough {
			return
		}
		time.Sleep(time.Millisecond) // the node has not taken the view yet
	}
	p.apart()
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if p.ready = !p.stopping && !p.ended; p.ready && p.settled.Load() == 0 {
		p.settled.Store(p.world.clock.Now())
	}
}

// apart notes that a process took up work and knows nobody who was there before
// it: newcomers that find each other first are a cluster of their own.
func (p *simProcess) apart() {
	p.once.Do(func() {
		view, old := p.node.cluster.view.Load(), 0
		for _, o := range p.world.present() {
			if settled := o.settled.Load(); settled == 0 || settled > p.began {
				continue
			}
			old++
			if _, known := view.Member(o.name); known {
				return
			}
		}
		if old == 0 || p.world.isCutOff(p.name) {
			return
		}
		p.world.note(&incident{kind: split, from: p.began})
		p.world.tally.add(sawApart, 1)
		if p.world.say("%s begins apart", p.id); p.world.planned {
			p.world.wrong("%s begins apart", p.id)
		}
	})
}

// awaitReady waits until a process takes requests.
func (p *simProcess) awaitReady() {
	for range 3000 {
		p.world.mu.Lock()
		ready, over := p.ready, p.ended || p.stopping
		p.world.mu.Unlock()
		if ready || over {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.world.wrong("%s does not become ready", p.id)
}

// end marks a process as ending, once, and reports whether it was not before.
func (p *simProcess) end() bool {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if p.stopping || p.ended {
		return false
	}
	p.stopping, p.ready = true, false
	if !p.world.over {
		p.world.leaves++
	}
	return true
}

// leave ends a process as SIGTERM does.
func (p *simProcess) leave() {
	if !p.end() {
		return
	}
	p.world.say("leave %s", p.id)
	err := p.node.stop(nil)
	p.world.say("%s has left", p.id)
	if p.gate.isDead() {
		return // it was killed meanwhile
	}
	p.over()
	switch {
	case err == nil:
	case p.world.planned:
		p.world.wrong("%s did not leave in order: %v", p.id, err)
	default:
		p.world.say("%s: %v", p.id, err)
	}
}

func (p *simProcess) over() {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if !p.ended {
		p.ended = true
		close(p.gone)
	}
}

// crash ends a process as kill -9 does, or with its machine. What is left of it
// is taken apart where nobody hears of it.
func (p *simProcess) crash(unplug bool) {
	p.world.mu.Lock()
	over, stopping := p.ended, p.stopping
	p.stopping, p.ready, p.crashed = true, false, true
	p.world.mu.Unlock()
	if over {
		return
	}
	word := "kill"
	if unplug {
		word = "unplug"
	}
	p.world.say("%s %s", word, p.id)
	if p.node.cluster.owners.Owned() > 0 {
		p.world.tally.add(sawTakeover, 1)
	}
	p.world.note(&incident{kind: crashed, process: p.id, silent: unplug, from: p.world.clock.Now(), had: p.has()})
	p.gate.kill() // first: it must not see its connections end one by one
	if unplug {
		p.world.network.Unplug(p.host)
	} else {
		p.world.network.Kill(p.host)
	}
	if p.store != nil {
		p.world.work.Go(p.store.Crash) // ends when its goroutines have
	}
	p.over()
	if stopping {
		return // somebody is in stop already, and finds nothing to wait for
	}
	now := make(chan struct{})
	close(now)
	p.world.work.Go(func() { // ends within seconds
		if err := p.node.stop(now); err != nil && !errors.Is(err, errAbandoned) {
			p.world.say("%s: %v", p.id, err)
		}
	})
}

// freeze stops a process for a while.
func (p *simProcess) freeze(d time.Duration) {
	p.world.mu.Lock()
	if p.ended {
		p.world.mu.Unlock()
		return
	}
	p.world.mu.Unlock()
	p.world.say("stop %s for %s", p.id, d)
	i := &incident{kind: paused, process: p.id, long: d > pauseNoticed}
	i.from = p.world.clock.Now()
	p.world.note(i)
	p.gate.shut()
	if p.store != nil {
		p.store.Freeze()
	}
	time.Sleep(d)
	p.gate.reopen()
	if p.store != nil {
		p.store.Thaw()
	}
	i.until.Store(p.world.clock.Now())
	p.world.say("continue %s", p.id)
}

// pauseNoticed is a node's suspicion in the profile that the simulation uses.
const pauseNoticed = 1500 * time.Millisecond

// incident is something that the failure table allows to cost order.
type incident struct {
	kind    incidentKind
	process string
	long    bool          // a pause that the process itself must notice
	apart   []string      // whom it parted from whom: a node that is cut off from all others, or two; none: anybody
	silent  bool          // nobody tells its clients that a process is gone
	grace   time.Duration // of the store that lost its data
	had     []int         // partitions: what was known of their keys may be lost
	from    int64         // on the history's clock
	until   atomic.Int64
	// confirmed is when the process was told what it still owns, after a pause; 0: it
	// was not.
	confirmed atomic.Int64
}

// confirmed notes that a process that had stood still goes on.
func (w *world) confirmed(process string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.incidents {
		if i.kind == paused && i.process == process {
			i.confirmed.CompareAndSwap(0, w.clock.Now())
		}
	}
}

type incidentKind uint8

const (
	crashed incidentKind = iota
	paused
	split  // of whatever kind; until the cluster is one again
	lost   // the store's data, without grace; until who had a lease knows
	forgot // what a process had of partitions: nobody gets it
)

func (w *world) note(i *incident) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.incidents = append(w.incidents, i)
}

// present are the processes that run and do not mean to leave.
func (w *world) present() []*simProcess {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.processes), func(p *simProcess) bool { return p.ended || p.stopping })
}

// running are the processes that have not ended.
func (w *world) running() []*simProcess {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.processes), func(p *simProcess) bool { return p.ended })
}

// unsettled says why the cluster is not one at peace, or "".
func (w *world) unsettled() string {
	all := w.running()
	if len(all) == 0 {
		return "nobody is there"
	}
	var members []ring.Member
	for _, p := range all {
		members = append(members, ring.Member{Name: p.name, Incarnation: p.incarnation})
	}
	slices.SortFunc(members, func(a, b ring.Member) int { return strings.Compare(a.Name, b.Name) })
	owned := 0
	hash := all[0].node.cluster.view.Load().Ring
	for _, p := range all {
		c := p.node.cluster
		view := c.view.Load()
		var live []ring.Member
		for _, n := range view.Members {
			if n.State != membership.Active {
				return fmt.Sprintf("%s sees %s", p.id, describe(view))
			}
			live = append(live, n.Member)
		}
		if !slices.Equal(live, members) {
			return fmt.Sprintf("%s sees %s", p.id, describe(view))
		}
		if hash == nil || view.Ring.Hash() != hash.Hash() {
			return p.id + " has another ring"
		}
		counts := c.owners.Counts()
		if counts.Claiming+counts.Waits+counts.Draining+counts.Giving > 0 {
			return fmt.Sprintf("%s: %+v", p.id, counts)
		}
		if c.owners.Guard() != nil {
			return p.id + " has not been confirmed"
		}
		if why := p.untitled(); why != "" {
			return why
		}
		owned += counts.Owned
	}
	if owned != w.partitions {
		return fmt.Sprintf("%d of %d partitions are owned", owned, w.partitions)
	}
	for partition := range w.partitions {
		target := hash.Target(partition)
		for _, p := range all {
			if owner, epoch := p.node.cluster.owners.Owner(partition); owner != target || epoch == 0 {
				return fmt.Sprintf("%s takes %s, epoch %d, for the owner of %d, whose target is %s", p.id, owner, epoch, partition, target)
			}
		}
	}
	return ""
}

// untitled says which partition the process owns without its being on record.
func (p *simProcess) untitled() string {
	if p.store == nil {
		return ""
	}
	owners := p.node.cluster.owners
	for partition := range p.world.partitions {
		if owner, epoch := owners.Owner(partition); owner.Name == p.name && epoch > 0 && owners.ValidFor(partition) <= 0 {
			return fmt.Sprintf("%s owns partition %d without a title", p.id, partition)
		}
	}
	for _, r := range p.world.store.Records() {
		if r.Prev != "" && p.world.store.Alive(r.Prev) {
			return fmt.Sprintf("partition %d is said to be drained by %s still", r.Partition, r.Prev)
		}
	}
	return ""
}

// settleDown waits until the cluster is one, and has been at peace for a while:
// gossip may still be on its way that somebody is dead.
func (w *world) settleDown(within, peace time.Duration) bool {
	since := time.Now()
	for until := since.Add(within); ; time.Sleep(20 * time.Millisecond) {
		why := w.unsettled()
		if why != "" {
			since = time.Now()
		}
		switch {
		case why == "" && time.Since(since) >= peace:
			w.say("settled")
			return true
		case time.Now().After(until):
			w.wrong("not settled after %s: %s", within, why)
			return false
		}
	}
}

// idle says what is left of requests in the nodes, when all have been answered.
func (w *world) idle() string {
	for _, p := range w.running() {
		lanes := 0
		for _, total := range p.node.lanes.Totals() {
			lanes += total.Lanes
		}
		if pending := p.node.cluster.hop.Pending(); lanes+pending > 0 {
			return fmt.Sprintf("%s has %d lanes and %d requests at others", p.id, lanes, pending)
		}
		for k := range w.keys {
			lane := fmt.Appendf(nil, "order:%d", k)
			if s, ok := p.node.lanes.Lane(p.node.cluster.Partition(lane), lane); ok {
				return fmt.Sprintf("%s has the lane %s: %+v", p.id, lane, s)
			}
		}
	}
	return ""
}

// stopAll ends every process in order, and lets the last goroutines end.
func (w *world) stopAll() {
	for _, p := range w.running() {
		p.leave()
	}
	w.work.Wait()
	w.mu.Lock()
	processes := slices.Clone(w.processes)
	w.mu.Unlock()
	for _, p := range processes {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := p.witness.Stop(ctx); err != nil {
			w.wrong("the upstream of %s: %v", p.id, err)
		}
		cancel()
	}
	time.Sleep(5 * time.Minute) // virtual: the cleaners of fasthttp and memberlist wake and end
	if n := w.network.Streams(); n != 0 {
		w.wrong("%d streams are left open", n)
	}
}
