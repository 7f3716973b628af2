package ownership

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

const (
	strictTTL    = 3 * time.Second
	strictMargin = 500 * time.Millisecond
	strictAsk    = time.Second
	soon         = 100 * time.Millisecond
)

// realm is some nodes, each with a lease from one store, connected in memory. It lives in
// a bubble of virtual time. All the time it tries to run something of each partition at
// each node that takes itself for the owner.
type realm struct {
	t     *testing.T
	store *locktest.Memory
	ask   time.Duration // AcquireTimeout
	quit  chan struct{}
	wg    sync.WaitGroup

	mu    sync.Mutex // guards the rest
	nodes []*strictNode
	ran   []ran // by partition
	lost  bool  // the store may not know of leases that are valid
}

// ran is what became of tries to run something of a partition.
type ran struct {
	fence   uint64 // the last one
	by      *strictNode
	at      time.Time
	gap     time.Duration // the longest without one
	failed  error         // of the last try that failed
	changes int           // of by
}

type strictNode struct {
	*Ownership
	r     *realm
	self  ring.Member
	lanes *queue.Lanes
	way   *locktest.Node
	wrap  func(lock.Coordinator) lock.Coordinator // nil: nothing is between them
	log   strings.Builder
	skew  atomic.Int64
	kick  chan struct{}

	linked []*strictNode // of the test

	// Guarded by realm.mu.
	inbox   []letter
	leaving bool // it is no target
	dead    bool // it is in nobody's view
	cut     bool // what is sent to it, or by it, is lost
}

type letter struct {
	from    *strictNode
	payload []byte
}

// inRealm runs a test in a bubble, with nodes that are connected and own what they should.
func inRealm(t *testing.T, nodes int, test func(r *realm)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &realm{t: t, store: locktest.NewMemory(nil, nil), ask: strictAsk, quit: make(chan struct{}), ran: make([]ran, testPartitions)}
		for range nodes {
			r.join()
		}
		r.wg.Go(r.run) // ends with quit
		defer r.end()
		if nodes > 0 {
			r.see()
			time.Sleep(time.Second)
			r.titled()
			r.forget()
		}
		test(r)
	})
}

func (r *realm) end() {
	for _, n := range r.nodes {
		n.way.Thaw()
		n.Stop()
		if err := n.way.Close(context.Background()); err != nil {
			r.t.Errorf("%s: %v", n.self, err)
		}
		n.lanes.Evict(errors.New("the test has failed"))
	}
	close(r.quit)
	r.wg.Wait()
}

// join starts a node, which nobody sees yet.
func (r *realm) join() *strictNode {
	r.t.Helper()
	n := r.prepare()
	n.Start()
	return n
}

func (r *realm) prepare() *strictNode {
	r.t.Helper()
	return r.prepareBehind(nil)
}

// prepareBehind makes a node whose calls of the coordinator go through another one.
func (r *realm) prepareBehind(wrap func(lock.Coordinator) lock.Coordinator) *strictNode {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.nodes)
	n := &strictNode{r: r, self: ring.Member{Name: string(rune('a' + i)), Incarnation: uint64(i + 1)}, wrap: wrap, kick: make(chan struct{}, 1)}
	n.way = r.store.Open(n.self.Name, strictTTL, strictMargin)
	n.lanes = queue.New(queue.Config{
		MaxQueued: 1000, MaxQueuedBytes: 1 << 20, MaxLanes: 1000, Tags: 1, Partitions: testPartitions,
		Emptied: func(p int, key []byte) { n.Emptied(p, key) },
	})
	n.Ownership = r.ownership(n.self, testPartitions, n.lanes, n)
	r.nodes = append(r.nodes, n)
	r.wg.Go(n.read) // ends with quit
	return n
}

func (r *realm) ownership(self ring.Member, partitions int, lanes Lanes, n *strictNode) *Ownership {
	r.t.Helper()
	var coordinator lock.Coordinator = n.way
	if n.wrap != nil {
		coordinator = n.wrap(coordinator)
	}
	o, err := New(Config{
		Self: self, Partitions: partitions, Lanes: lanes, Send: n.send,
		Coordinator: coordinator, AcquireTimeout: r.ask, HandoffTimeout: time.Second, Suspicion: time.Second,
		Now: func() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) },
		Log: slog.New(slog.NewTextHandler(&n.log, nil)),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

func (n *strictNode) send(to ring.Member, payload []byte) {
	n.r.mu.Lock()
	defer n.r.mu.Unlock()
	for _, o := range n.r.nodes {
		if o.self == to && !o.cut && !n.cut {
			o.inbox = append(o.inbox, letter{n, slices.Clone(payload)})
			select {
			case o.kick <- struct{}{}:
			default:
			}
		}
	}
}

// read gives a node what was sent to it, a millisecond later.
func (n *strictNode) read() {
	for {
		select {
		case <-n.kick:
		case <-n.r.quit:
			return
		}
		time.Sleep(time.Millisecond)
		n.r.mu.Lock()
		inbox := n.inbox
		n.inbox = nil
		n.r.mu.Unlock()
		for _, l := range inbox {
			n.Control(l.from.self, l.payload)
		}
	}
}

// see gives all nodes that are not cut off the view of those who live.
func (r *realm) see() {
	r.t.Helper()
	v := View{Targets: r.targets(), Enough: true}
	var nodes []*strictNode
	r.mu.Lock()
	for _, n := range r.nodes {
		if !n.dead {
			v.Live = append(v.Live, n.self)
		}
		if !n.dead && !n.cut {
			nodes = append(nodes, n)
		}
	}
	r.mu.Unlock()
	for _, n := range nodes {
		n.SetView(v)
	}
	for _, n := range nodes {
		for _, o := range nodes {
			if o != n && !slices.Contains(n.linked, o) {
				n.linked = append(n.linked, o)
				n.Up(o.self)
			}
		}
	}
}

func (r *realm) targets() []ring.Member {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var actives []ring.Member
	for _, n := range r.nodes {
		if !n.dead && !n.leaving {
			actives = append(actives, n.self)
		}
	}
	layout, err := ring.New(testLayout, actives)
	if err != nil {
		r.t.Fatal(err)
	}
	return Targets(layout)
}

// holds reports whether a node takes itself for the owner.
func (n *strictNode) holds(p int) bool {
	owner, epoch := n.Owner(p)
	return owner == n.self && epoch > 0
}

// run tries each millisecond to run something. Fences rise over all nodes, and whoever
// runs has a lease that lives.
func (r *realm) run() {
	for {
		select {
		case <-time.After(time.Millisecond):
		case <-r.quit:
			return
		}
		r.mu.Lock()
		for _, n := range r.nodes {
			lease, _ := n.Lease()
			alive := sync.OnceValue(func() bool { return r.lost || r.store.Alive(lease.ID) })
			for p := range r.ran {
				if n.holds(p) {
					r.tryLocked(n, p, alive)
				}
			}
		}
		r.mu.Unlock()
	}
}

func (r *realm) tryLocked(n *strictNode, p int, alive func() bool) {
	last := &r.ran[p]
	fence, left, err := n.Strict(p)
	if err != nil {
		last.failed = err
		return
	}
	if fence <= last.fence || left <= 0 || !alive() {
		r.t.Errorf("%s runs partition %d with fence %x for %v, its lease lives: %v; after %+v", n.self, p, fence, left, alive(), *last)
	}
	if last.by != nil {
		last.gap = max(last.gap, time.Since(last.at))
	}
	if last.by != n {
		last.changes++
	}
	last.fence, last.by, last.at = fence, n, time.Now()
}

// forget begins to look anew for how long nothing could be run.
func (r *realm) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.ran {
		r.ran[p].gap, r.ran[p].failed, r.ran[p].changes = 0, nil, 0
	}
}

// tries returns what became of them for each partition.
func (r *realm) tries() []ran {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ran)
}

// titled expects that each partition is owned by its target, which has its record, and
// could run something just now.
func (r *realm) titled() {
	r.t.Helper()
	tries := r.tries()
	records := r.store.Records()
	for p, target := range r.targets() {
		last := tries[p]
		if last.by == nil || last.by.self != target || time.Since(last.at) > 2*time.Millisecond {
			r.t.Fatalf("partition %d should run at %s: %+v", p, target, last)
		}
		lease, _ := last.by.Lease()
		if record := records[p]; record.Holder != lease.ID || r.store.Alive(record.Prev) {
			r.t.Errorf("partition %d is run under %s, and the record is %+v", p, lease.ID, record)
		}
		if lease.Cause != nil {
			r.t.Errorf("%s: %v", target, lease.Cause)
		}
	}
}

// lease is a node's, and when it ends if it is not renewed any more.
func (n *strictNode) lease() (id string, end time.Time) {
	lease, _ := n.Lease()
	return lease.ID, time.Now().Add(lease.ValidFor)
}

// vanish cuts a node off and has it be taken for dead by all others, as soon as gossip
// would.
func (r *realm) vanish(n *strictNode) {
	r.t.Helper()
	r.mu.Lock()
	n.dead, n.cut = true, true
	r.mu.Unlock()
	time.Sleep(soon)
	r.see()
}

// ended waits for the end of a lease, at the store, but not for ever.
func (r *realm) ended(lease string) time.Time {
	r.t.Helper()
	for began := time.Now(); r.store.Alive(lease); time.Sleep(time.Millisecond) {
		if time.Since(began) > 2*strictTTL {
			r.t.Fatal("the lease goes on and on")
		}
	}
	return time.Now()
}

// TestRegistrarClaimsAtOnce: a node that starts with all partitions asks for them in one
// call, of which the store makes sixteen, and for nothing after that.
//
// Mutants: it asks for one partition at a time; each look at the lease begins it anew.
func TestRegistrarClaimsAtOnce(t *testing.T) {
	for _, early := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const partitions = 4096
			r := &realm{t: t, store: locktest.NewMemory(nil, nil), ask: strictAsk}
			n := &strictNode{r: r, self: ma, way: r.store.Open("a", strictTTL, strictMargin)}
			o := r.ownership(ma, partitions, deafLanes{}, n)
			v := View{Live: []ring.Member{ma}, Targets: slices.Repeat([]ring.Member{ma}, partitions), Enough: true}
			if early {
				o.SetView(v)
			}
			began := time.Now()
			o.Start()
			if !early {
				time.Sleep(time.Second)
				began = time.Now()
				o.SetView(v)
			}
			for o.Owned() < partitions && time.Since(began) < time.Minute {
				time.Sleep(time.Millisecond)
			}
			if took := time.Since(began); took > soon {
				t.Errorf("it took %v", took)
			}
			for p := range partitions {
				if _, left, err := o.Strict(p); err != nil || left > strictTTL-strictMargin {
					t.Fatalf("partition %d: %v, for %v", p, err, left)
				}
			}
			time.Sleep(time.Minute)
			if c := r.store.Counts(); c.Begun != 1 || c.Takes != partitions/256 || c.Taken != partitions || c.Renewed < 59 || c.Renewed > 61 {
				t.Errorf("the store has done %+v", c)
			}
			if lease, strict := o.Lease(); !strict || lease.ID != "a#1" || lease.ValidFor <= 0 || lease.Cause != nil {
				t.Errorf("%+v, %v", lease, strict)
			}
			o.Stop()
			if err := n.way.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if _, _, err := o.Strict(0); !errors.Is(err, ErrLeaseEnded) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}

// TestRegistrarPlannedMoves: what is given from node to node is run there at once, with
// higher fences, while both leases go on.
//
// Mutants: Give says nothing of the lease; the table's questions do not wake the
// registrar.
func TestRegistrarPlannedMoves(t *testing.T) {
	inRealm(t, 1, func(r *realm) {
		a := r.nodes[0]
		moved := func(what string) {
			t.Helper()
			r.see()
			time.Sleep(soon)
			r.titled()
			changes := 0
			for p, last := range r.tries() {
				changes += last.changes
				if last.gap > soon/2 {
					t.Errorf("%s: nothing runs of partition %d for %v", what, p, last.gap)
				}
			}
			if changes < 3 {
				t.Errorf("%s: %d partitions were moved", what, changes)
			}
			for _, n := range r.nodes {
				if n.Counts().Waits+n.Counts().Draining+n.Counts().Giving > 0 {
					t.Errorf("%s: %s: %+v", what, n.self, n.Counts())
				}
			}
			r.forget()
			time.Sleep(time.Second)
		}
		r.join()
		moved("b joins")
		r.join()
		moved("c joins")
		a.leaving = true
		moved("a leaves")
		if err := a.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if c := r.store.Counts(); c.Begun != 3 || c.Expired != 0 || c.Refused != 0 {
			t.Errorf("the store has done %+v", c)
		}
	})
}

// TestRegistrarCrash: what a dead node held is run by others as soon as its lease has
// ended, and never before; what the others held all the time.
//
// Mutants: nobody waits for the end of leases; the table is not told of it; whatever is
// known of a record is taken for consent.
func TestRegistrarCrash(t *testing.T) {
	for _, after := range []time.Duration{0, 300, 650, 990} {
		inRealm(t, 3, func(r *realm) {
			time.Sleep(after * time.Millisecond) // somewhere between two renewals
			c := r.nodes[2]
			lease, valid := c.lease()
			before := r.targets()
			crashed := time.Now()
			c.way.Crash()
			r.vanish(c)
			c.Stop()
			end := r.ended(lease)
			if end.After(crashed.Add(strictTTL+5*time.Millisecond)) || end.Before(valid) {
				t.Fatalf("the lease ended %v after the crash, and was valid until %v", end.Sub(crashed), valid.Sub(crashed))
			}
			for p, last := range r.tries() {
				if mine := before[p] == c.self; mine && (last.by != c || last.at.After(valid)) {
					t.Errorf("partition %d was run by %s at %v, before the lease had ended", p, last.by.self, last.at.Sub(crashed))
				} else if !mine && last.gap > 10*time.Millisecond {
					t.Errorf("partition %d, which is another's, was not run for %v", p, last.gap)
				}
			}
			time.Sleep(soon) // of the second that it may take
			r.titled()
		})
	}
}

// TestRegistrarFreeze: a node that stands still runs nothing from the end of its term
// on, whenever it is asked, and another takes over. When it goes on it takes part again.
//
// Mutants: Strict does not look at the clock; a term is valid still when it ends.
func TestRegistrarFreeze(t *testing.T) {
	inRealm(t, 2, func(r *realm) {
		a, b := r.nodes[0], r.nodes[1]
		before := r.targets()
		p := slices.Index(before, b.self)
		b.way.Freeze()
		froze := time.Now()
		lease, valid := b.lease()
		r.vanish(b)
		time.Sleep(time.Until(valid) - 1)
		if _, left, err := b.Strict(p); err != nil || left != 1 || b.ValidFor(p) != 1 {
			t.Errorf("at the end of the term: %v, %v", left, err)
		}
		time.Sleep(time.Nanosecond)
		for i := range 20_000 {
			if _, _, err := b.Strict(p); !errors.Is(err, ErrLeaseEnded) && !errors.Is(err, ErrNoTitle) {
				t.Fatalf("%v after the end of the term: %v", time.Since(valid), err)
			}
			if left := b.ValidFor(p); left > 0 {
				t.Fatalf("%v after the end of the term it is valid for %v", time.Since(valid), left)
			}
			time.Sleep(time.Duration(i%7) * 100 * time.Microsecond)
		}
		if r.store.Alive(lease) {
			t.Error("the lease goes on")
		}
		r.titled()
		for p, last := range r.tries() {
			if last.by != a || last.gap > strictTTL+soon+5*time.Millisecond {
				t.Errorf("partition %d: %+v", p, last)
			}
			if mine := before[p] == b.self; mine && last.gap < strictMargin {
				t.Errorf("partition %d was run by both within %v", p, last.gap)
			}
		}
		b.skew.Add(int64(time.Since(froze)))
		b.way.Thaw()
		time.Sleep(soon)
		for p := range before {
			if _, _, err := b.Strict(p); err == nil && b.holds(p) {
				t.Errorf("thawed, and runs partition %d", p)
			}
		}
		r.mu.Lock()
		b.dead, b.cut = false, false
		r.mu.Unlock()
		a.linked, b.linked = nil, nil // the connections are new
		r.see()
		time.Sleep(3 * time.Second)
		r.titled()
	})
}

// TestRegistrarStoreAway: without a store everything goes on until the terms end, and
// from then on nothing strict; partitions move as the members say. When it is back all
// is as before. Leases need not have ended for that.
//
// Mutants: the table is not told that the store is away, nor that it is back; a lease that
// is not valid any more is no sign of that.
func TestRegistrarStoreAway(t *testing.T) {
	for _, away := range []time.Duration{time.Second, strictTTL - strictMargin/2, 3 * strictTTL} {
		inRealm(t, 2, func(r *realm) {
			a, b := r.nodes[0], r.nodes[1]
			time.Sleep(soon) // their leases were renewed just now
			r.store.Away(true)
			left := time.Now()
			time.Sleep(50 * time.Millisecond) // what was on its way there
			_, validA := a.lease()
			_, validB := b.lease()
			var c *strictNode
			for time.Since(left) < away {
				for _, n := range r.nodes[:2] {
					valid := validA
					if n == b {
						valid = validB
					}
					for p := range testPartitions {
						_, _, err := n.Strict(p)
						if n.holds(p) && (err == nil) != time.Now().Before(valid) {
							t.Fatalf("%s, partition %d, %v before the end of the term: %v", n.self, p, time.Until(valid), err)
						}
					}
				}
				if now := time.Now(); now.After(validA) && now.After(validB) && c == nil && away > strictTTL {
					time.Sleep(2 * time.Second)
					if a.Owned()+b.Owned() != testPartitions {
						t.Errorf("%d and %d are owned", a.Owned(), b.Owned())
					}
					for _, n := range r.nodes {
						if lease, _ := n.Lease(); lease.Cause == nil || lease.ID == "" {
							t.Errorf("%s: %+v", n.self, lease)
						}
					}
					c = r.join()
					r.see()
					time.Sleep(2 * time.Second)
					if c.Owned() < 2 || a.Owned()+b.Owned()+c.Owned() != testPartitions {
						t.Errorf("%d, %d and %d are owned", a.Owned(), b.Owned(), c.Owned())
					}
					for p := range testPartitions {
						if _, _, err := c.Strict(p); !errors.Is(err, ErrNoTitle) {
							t.Errorf("the newcomer, partition %d: %v", p, err)
						}
					}
				}
				// to the nanosecond where it counts
				next := time.Millisecond
				for _, end := range []time.Time{validA, validB} {
					if until := time.Until(end); until > 1 && until < next {
						next = until - 1
					} else if until == 1 {
						next = 1
					}
				}
				time.Sleep(next)
			}
			r.store.Away(false)
			time.Sleep(time.Second)
			r.titled()
			if c := r.store.Counts(); (c.Expired == 0) != (away < strictTTL) {
				t.Errorf("%v away: %+v", away, c)
			}
			for p, last := range r.tries() {
				if away == time.Second && (last.failed != nil || last.gap > 2*time.Millisecond) {
					t.Errorf("partition %d, which its lease had outlasted: %+v", p, last)
				}
			}
		})
	}
}

// TestRegistrarLostAnswers: whichever answers of the store get lost, again and again,
// in the end everything has its title, and no fence falls.
//
// Mutant: a take without an answer is not asked again.
func TestRegistrarLostAnswers(t *testing.T) {
	for n := 1; n <= 12; n++ {
		for _, ask := range []time.Duration{strictAsk, 4 * time.Millisecond} {
			inRealm(t, 0, func(r *realm) {
				r.ask = ask
				loseAnswers(r, n)
			})
			if t.Failed() {
				t.Fatalf("every %d, asking for %v", n, ask)
			}
		}
	}
}

func loseAnswers(r *realm, n int) {
	lost := 0
	lose := func(d time.Duration) {
		for began := time.Now(); time.Since(began) < d; time.Sleep(time.Millisecond) {
			if now := r.store.Counts().Lost; now != lost {
				lost = now
				for _, node := range r.nodes {
					node.way.CutAt(n + 1) // some must arrive
				}
			}
		}
	}
	for range 3 {
		r.join().way.CutAt(n)
		r.see()
		lose(700 * time.Millisecond)
	}
	b := r.nodes[1]
	for range 2 + n/3 {
		running := r.admit()
		b.leaving = !b.leaving
		r.see()
		lose(300 * time.Millisecond)
		for _, ticket := range running {
			ticket.Done()
		}
		lose(600 * time.Millisecond)
	}
	for _, node := range r.nodes {
		node.way.CutAt(0)
	}
	time.Sleep(time.Second)
	r.titled()
	if lost == 0 {
		r.t.Error("none was lost")
	}
}

// admit has a request run in each partition, at its owner, that is to be ended.
func (r *realm) admit() (running []*queue.Ticket) {
	r.t.Helper()
	for p := range testPartitions {
		for _, n := range r.nodes {
			if n.holds(p) {
				running = append(running, n.admit(p, "x"))
			}
		}
	}
	if len(running) != testPartitions {
		r.t.Fatalf("%d of %d partitions have an owner", len(running), testPartitions)
	}
	return running
}

// admit admits a request of a key to one of the partitions, whatever the ring says of it.
func (n *strictNode) admit(p int, key string) *queue.Ticket {
	n.r.t.Helper()
	ticket := new(queue.Ticket)
	if err := n.lanes.Admit(ticket, &queue.Request{Key: []byte(key), Partition: p, Bytes: 1, MaxDepth: 100, MaxBytes: 1 << 20}); err != nil {
		n.r.t.Fatalf("%s, partition %d: %v", n.self, p, err)
	}
	return ticket
}

// runs reports whether a request has its turn by now.
func (t *strictTicket) runs() bool {
	synctest.Wait()
	select {
	case <-t.turn:
		return true
	default:
		return false
	}
}

// strictTicket is a request that waits in a goroutine.
type strictTicket struct {
	*queue.Ticket
	turn chan struct{} // closed when the wait has ended
	err  error
}

func (n *strictNode) wait(ticket *queue.Ticket) *strictTicket {
	t := &strictTicket{Ticket: ticket, turn: make(chan struct{})}
	n.r.wg.Go(func() { // ends with its turn, or when it is sent away
		t.err = ticket.Wait(time.Time{})
		close(t.turn)
	})
	return t
}

// drainingRealm has a give a partition to b while it runs x there, behind which one more
// waits, and b have one of x, which waits, and one of y, which runs.
func drainingRealm(t *testing.T, test func(r *realm, p int, running *queue.Ticket, behind, next *strictTicket)) {
	t.Helper()
	inRealm(t, 1, func(r *realm) {
		a := r.nodes[0]
		b := r.prepare()
		p := slices.Index(r.targets(), b.self)
		running := a.admit(p, "x")
		behind := a.wait(a.admit(p, "x"))
		b.Start()
		r.see()
		time.Sleep(soon)
		if !b.holds(p) {
			t.Fatal("b does not own it")
		}
		if _, _, err := b.Strict(p); err != nil {
			t.Errorf("b may run other keys: %v", err)
		}
		other := b.wait(b.admit(p, "y"))
		next := b.wait(b.admit(p, "x"))
		if !other.runs() || next.runs() || behind.runs() {
			t.Errorf("y runs: %v, the next of x: %v, the one behind: %v", other.runs(), next.runs(), behind.runs())
		}
		other.Done()
		if err := a.Drains(p); err != nil {
			t.Errorf("what drains may run: %v", err)
		}
		if r := r.store.Records()[p]; r.Prev == "" {
			t.Errorf("nothing is said to drain: %+v", r)
		}
		test(r, p, running, behind, next)
		if next.runs() {
			next.Done()
		}
	})
}

// TestRegistrarDraining: what was admitted before a partition was given away is run
// before what follows, and the store hears when the last one has gone.
//
// Mutant: the store is not told.
func TestRegistrarDraining(t *testing.T) {
	drainingRealm(t, func(r *realm, p int, running *queue.Ticket, behind, next *strictTicket) {
		time.Sleep(10 * strictTTL)
		if behind.runs() || next.runs() || r.nodes[0].Drains(p) != nil {
			t.Error("it was not waited for")
		}
		running.Done()
		if !behind.runs() || next.runs() {
			t.Error("they run in another order")
		}
		behind.Done()
		time.Sleep(soon)
		if !next.runs() || next.err != nil {
			t.Errorf("the next one does not run: %v", next.err)
		}
		if r := r.store.Records()[p]; r.Prev != "" {
			t.Errorf("it is said to drain: %+v", r)
		}
	})
}

// TestRegistrarDrainingOutOfSight: when the members have lost each other, the store tells
// that a lease which lives runs nothing any more.
//
// Mutants: the records are not read; a member's death ends the wait for its lease.
func TestRegistrarDrainingOutOfSight(t *testing.T) {
	drainingRealm(t, func(r *realm, _ int, running *queue.Ticket, behind, next *strictTicket) {
		a := r.nodes[0]
		r.vanish(a)
		time.Sleep(10 * strictTTL)
		if next.runs() {
			t.Fatal("beside what drains")
		}
		running.Done()
		time.Sleep(2 * time.Second)
		if !behind.runs() || next.runs() {
			t.Fatal("one of the two has ended")
		}
		behind.Done()
		time.Sleep(readEvery + soon)
		if !next.runs() || next.err != nil {
			t.Errorf("the next one does not run: %v", next.err)
		}
	})
}

// TestRegistrarDrainingIsOver: what drains under a lease that is not certainly valid does
// not run any more, is sent away when the lease has ended, and is waited for until then.
//
// Mutants: Drains does not look at the lease; it looks at it for what is owned too; what
// drains is not sent away, or waited for when its lease has ended.
func TestRegistrarDrainingIsOver(t *testing.T) {
	drainingRealm(t, func(r *realm, p int, running *queue.Ticket, behind, next *strictTicket) {
		a := r.nodes[0]
		a.way.Away(true)
		time.Sleep(50 * time.Millisecond)
		lease, valid := a.lease()
		time.Sleep(time.Until(valid) - 1)
		if err := a.Drains(p); err != nil {
			t.Errorf("before the end of the term: %v", err)
		}
		time.Sleep(time.Nanosecond)
		for own := range testPartitions {
			if err := a.Drains(own); a.holds(own) && err != nil {
				t.Errorf("partition %d, which it owns: %v", own, err)
			} else if !a.holds(own) && !errors.Is(err, ErrLeaseEnded) {
				t.Errorf("partition %d, after the end of the term: %v", own, err)
			}
		}
		if next.runs() {
			t.Error("before the lease has ended")
		}
		r.ended(lease)
		time.Sleep(soon)
		if !next.runs() || next.err != nil {
			t.Errorf("after the lease has ended: %v", next.err)
		}
		a.way.Away(false)
		time.Sleep(2 * time.Second)
		if !behind.runs() || !errors.Is(behind.err, ErrLeaseEnded) {
			t.Errorf("behind what drains: %v", behind.err)
		}
		running.Done()
		r.titled()
	})
}

// TestRegistrarForget: a store that loses its data and then grants nothing for a TTL ends
// all leases, and lets nobody run beside those who do not know yet.
//
// Mutants: the end of a session goes unnoticed; the table is not told of it.
func TestRegistrarForget(t *testing.T) {
	inRealm(t, 3, func(r *realm) {
		r.store.Grace(strictTTL)
		time.Sleep(400 * time.Millisecond)
		before := r.tries()
		lost := time.Now()
		// Who has not heard of it yet goes on, under a lease that is no more: that is
		// what the grace is for.
		r.mu.Lock()
		r.lost = true
		r.mu.Unlock()
		r.store.Forget()
		time.Sleep(strictTTL - time.Millisecond)
		for p, last := range r.tries() {
			if last.by != before[p].by {
				t.Errorf("partition %d was taken in the grace", p)
			}
		}
		time.Sleep(time.Second)
		r.titled()
		if c := r.store.Counts(); c.Begun != 6 {
			t.Errorf("%v after the loss: %+v", time.Since(lost), c)
		}
		synctest.Wait()
		for _, n := range r.nodes {
			if !strings.Contains(n.log.String(), "lease has ended") {
				t.Errorf("%s logged\n%s", n.self, n.log.String())
			}
		}
	})
}

// TestRegistrarStop: Stop returns while the store hangs, whatever is asked of it, and
// leaves nothing behind; the bubble would not end.
//
// Mutants: Stop does not end Begin, Take, Draw or the wait for the end of a lease.
func TestRegistrarStop(t *testing.T) {
	stopped := func(what string, o *Ownership) {
		t.Helper()
		began := time.Now()
		o.Stop()
		o.Stop()
		if took := time.Since(began); took > 2*soon {
			t.Errorf("%s: it took %v", what, took)
		}
	}
	inRealm(t, 0, func(r *realm) {
		stopped("before Start", r.prepare().Ownership)
		r.store.Away(true)
		n := r.join()
		time.Sleep(10 * time.Millisecond)
		stopped("without a lease", n.Ownership)
		r.store.Away(false)
	})
	inRealm(t, 0, func(r *realm) {
		n := r.join()
		time.Sleep(soon)
		r.store.Away(true)
		r.see()
		time.Sleep(10 * time.Millisecond)
		stopped("at a take", n.Ownership)
		r.store.Away(false)
	})
	inRealm(t, 2, func(r *realm) {
		r.nodes[1].way.Crash()
		r.vanish(r.nodes[1])
		time.Sleep(soon)
		stopped("at a watch", r.nodes[0].Ownership)
		if !r.store.Alive("b#2") {
			t.Error("it had nothing to watch for")
		}
	})
	inRealm(t, 1, func(r *realm) {
		r.store.Away(true)
		r.nodes[0].grants[0].Load().used.Store(fenceLow)
		time.Sleep(10 * time.Millisecond)
		stopped("at a draw", r.nodes[0].Ownership)
		r.store.Away(false)
	})
}

// TestStrictDraws: a new stamp is drawn when half of the fences are used, once, and again
// if that has failed; requests go on meanwhile, until there are no fences left.
//
// Mutants: nothing is drawn; it is drawn for each request; a draw that failed is not
// drawn again, or not when the fences are used up; they go on beyond their bits; with a
// new stamp the tenure begins anew.
func TestStrictDraws(t *testing.T) {
	inRealm(t, 1, func(r *realm) {
		n := r.nodes[0]
		stamp := func() uint64 { return n.grants[3].Load().Stamp }
		fence := func() uint64 {
			t.Helper()
			f, _, err := n.Strict(3)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		synctest.Wait() // nobody else asks at this moment
		first, held, began := stamp(), n.State(3).Held, time.Now()
		n.grants[3].Load().used.Store(fenceLow - 2)
		if f := fence(); f != first<<fenceBits|(fenceLow-1) {
			t.Errorf("fence %x", f)
		}
		for i := range uint64(100) {
			if f := fence(); f != first<<fenceBits|(fenceLow+i) {
				t.Errorf("fence %x", f)
			}
		}
		time.Sleep(soon)
		if c := r.store.Counts(); c.Drawn != 1 || stamp() <= first {
			t.Errorf("stamp %d after %d: %+v", stamp(), first, c)
		}
		if grown := n.State(3).Held - held; held <= 0 || grown != time.Since(began) {
			t.Errorf("held for %v longer, after %v", grown, time.Since(began))
		}
		if f := fence(); f>>fenceBits != stamp() || f&fenceMost > 200 {
			t.Errorf("fence %x under stamp %x", f, stamp())
		}

		second := stamp()
		r.store.Away(true)
		n.grants[3].Load().used.Store(fenceMost - 1000)
		time.Sleep(strictAsk + soon)
		if _, _, err := n.Strict(3); !errors.Is(err, ErrNoFences) || !errors.Is(r.tries()[3].failed, ErrNoFences) {
			t.Errorf("without a store: %v", err)
		}
		for p, last := range r.tries() {
			if p != 3 && last.failed != nil {
				t.Errorf("partition %d: %v", p, last.failed)
			}
		}
		r.store.Away(false)
		time.Sleep(soon)
		if stamp() <= second {
			t.Errorf("stamp %d after %d", stamp(), second)
		}
		r.titled()
	})
}

// TestStrictConcurrently: many ask for fences of one partition while stamps are drawn:
// all are distinct, and they rise for each who asks.
//
// Mutants: fences are counted without care; they are counted anew under the same stamp.
func TestStrictConcurrently(t *testing.T) {
	inRealm(t, 1, func(r *realm) {
		const askers, rounds, each = 16, 60, 100
		n := r.nodes[0]
		got := make([][]uint64, askers)
		var asking sync.WaitGroup
		for i := range askers {
			asking.Go(func() {
				for range rounds {
					for range each {
						fence, _, err := n.Strict(3)
						if err != nil {
							t.Errorf("asker %d: %v", i, err)
							return
						}
						got[i] = append(got[i], fence)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		var last *grant
		for range rounds {
			if g := n.grants[3].Load(); g != last {
				g.used.Add(fenceLow)
				last = g
			}
			time.Sleep(time.Millisecond)
		}
		asking.Wait()
		seen, stamps := map[uint64]bool{}, map[uint64]bool{}
		for i, fences := range got {
			for k, f := range fences {
				if seen[f] {
					t.Fatalf("fence %x twice", f)
				}
				if k > 0 && f <= fences[k-1] {
					t.Fatalf("asker %d has %x after %x", i, f, fences[k-1])
				}
				seen[f], stamps[f>>fenceBits] = true, true
			}
		}
		if len(seen) != askers*rounds*each || len(stamps) < 10 {
			t.Errorf("%d fences under %d stamps", len(seen), len(stamps))
		}
	})
}

// refusing is a coordinator that fails at once, as long as it is told to.
type refusing struct {
	lock.Coordinator
	fails, waitsFail            atomic.Bool
	begins, takes, drops, waits atomic.Int64 // calls that have failed
}

// refuse fails. If it is asked too often it takes time, so that the test goes on.
func (*refusing) refuse(failed *atomic.Int64) error {
	if failed.Add(1) > 1000 {
		time.Sleep(time.Millisecond)
	}
	return errRefused
}

var errRefused = errors.New("it does not want to")

func (c *refusing) Begin(ctx context.Context) (lock.Session, error) {
	if c.fails.Load() {
		return nil, c.refuse(&c.begins)
	}
	s, err := c.Coordinator.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &refusingSession{s, c}, nil
}

type refusingSession struct {
	lock.Session
	c *refusing
}

func (s *refusingSession) Take(ctx context.Context, takes []lock.Take) ([]lock.Taken, error) {
	if s.c.fails.Load() {
		return nil, s.c.refuse(&s.c.takes)
	}
	return s.Session.Take(ctx, takes)
}

func (s *refusingSession) Drained(ctx context.Context, drained []lock.Tenure) error {
	if s.c.fails.Load() {
		return s.c.refuse(&s.c.drops)
	}
	return s.Session.Drained(ctx, drained)
}

func (s *refusingSession) Ended(ctx context.Context, id string) error {
	if s.c.waitsFail.Load() {
		return s.c.refuse(&s.c.waits)
	}
	return s.Session.Ended(ctx, id)
}

// TestRegistrarRefused: what fails at once is asked again, and not all the time.
//
// Mutants: a take, or a word of what has drained, is tried again at once; a wait that has
// failed is not begun again; what the store was not told is forgotten.
func TestRegistrarRefused(t *testing.T) {
	inRealm(t, 1, func(r *realm) {
		c := &refusing{}
		b := r.prepareBehind(func(next lock.Coordinator) lock.Coordinator {
			c.Coordinator = next
			return c
		})
		// paced expects that one call failed as often as time allowed, since the last look.
		paced := func(what string, n *atomic.Int64) {
			t.Helper()
			if got := n.Swap(0); got < 2 || got > 11 {
				t.Errorf("%s failed %d times in a second", what, got)
			}
		}
		c.fails.Store(true)
		b.Start()
		time.Sleep(time.Second)
		paced("Begin", &c.begins)
		if lease, _ := b.Lease(); !errors.Is(lease.Cause, errRefused) || lease.ID != "" {
			t.Errorf("%+v", lease)
		}
		c.fails.Store(false)
		time.Sleep(beginAfter + soon)
		c.fails.Store(true)
		r.see()
		time.Sleep(time.Second)
		paced("Take", &c.takes)
		if b.Owned() != 0 {
			t.Errorf("%d are owned, and the lease is valid", b.Owned())
		}
		c.fails.Store(false)
		time.Sleep(2 * soon)
		r.titled()

		p := slices.Index(r.targets(), b.self)
		running := b.admit(p, "x")
		b.leaving = true
		r.see()
		time.Sleep(soon)
		c.fails.Store(true)
		running.Done()
		time.Sleep(time.Second)
		paced("Drained", &c.drops)
		if r := r.store.Records()[p]; r.Prev == "" {
			t.Errorf("the store was told: %+v", r)
		}
		c.fails.Store(false)
		time.Sleep(2 * soon)
		if r := r.store.Records()[p]; r.Prev != "" {
			t.Errorf("the store was not told: %+v", r)
		}

		a := r.nodes[0]
		lease, _ := a.lease()
		c.waitsFail.Store(true)
		a.way.Crash()
		b.leaving = false
		r.vanish(a)
		a.Stop()
		time.Sleep(time.Second)
		paced("Ended", &c.waits)
		c.waitsFail.Store(false)
		r.ended(lease)
		time.Sleep(soon)
		r.titled()
	})
}

// TestRegistrarManyDraws: however many partitions need new stamps, a store that is away is
// noticed as soon as the lease is not valid any more.
func TestRegistrarManyDraws(t *testing.T) {
	inRealm(t, 1, func(r *realm) {
		n := r.nodes[0]
		r.store.Away(true)
		for p := range testPartitions {
			n.grants[p].Load().used.Store(fenceLow)
		}
		time.Sleep(strictTTL + 2*strictAsk)
		if lease, _ := n.Lease(); lease.Cause == nil {
			t.Errorf("nobody has noticed: %+v", lease)
		}
		r.store.Away(false)
		time.Sleep(2 * time.Second)
		r.titled()
	})
}

// worthless is a coordinator whose leases are never valid.
type worthless struct{ lock.Coordinator }

func (c worthless) Begin(ctx context.Context) (lock.Session, error) {
	s, err := c.Coordinator.Begin(ctx)
	return worthlessSession{s}, err
}

type worthlessSession struct{ lock.Session }

func (worthlessSession) ValidFor() time.Duration { return 0 }

// TestRegistrarNeverValid: a lease that was not valid any more when its answer came, and
// that is not renewed, is none: partitions are owned as the members say.
func TestRegistrarNeverValid(t *testing.T) {
	inRealm(t, 0, func(r *realm) {
		n := r.prepareBehind(func(next lock.Coordinator) lock.Coordinator { return worthless{next} })
		n.Start()
		r.see()
		time.Sleep(strictTTL + 2*strictAsk)
		if lease, _ := n.Lease(); n.Owned() != testPartitions || lease.Cause == nil {
			t.Errorf("%d are owned: %+v", n.Owned(), lease)
		}
	})
}

// TestRegistrarLogs: people are told once that the store is away, with the cause, and
// that it is back.
//
// Mutants: they are told each time that it is tried; the cause is forgotten.
func TestRegistrarLogs(t *testing.T) {
	inRealm(t, 1, func(r *realm) {
		n := r.nodes[0]
		r.store.Away(true)
		time.Sleep(4 * strictTTL)
		lease, _ := n.Lease()
		if lease.Cause == nil || lease.ValidFor > 0 {
			t.Errorf("%+v", lease)
		}
		r.store.Away(false)
		time.Sleep(time.Second)
		synctest.Wait()
		log := n.log.String()
		for _, what := range []string{"coordinator is away", "coordinator is back"} {
			if got := strings.Count(log, what); got != 1 {
				t.Errorf("%d times %q in\n%s", got, what, log)
			}
		}
	})
	o, err := New(Config{
		Self: ma, Partitions: 1, Lanes: deafLanes{}, Send: func(ring.Member, []byte) {}, Log: slog.New(slog.DiscardHandler),
		HandoffTimeout: 1, Suspicion: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	lease, strict := o.Lease()
	if _, _, err := o.Strict(0); !errors.Is(err, ErrNoTitle) || strict || lease != (Lease{}) || o.Drains(0) != nil || o.ValidFor(0) > 0 {
		t.Errorf("without a coordinator: %v, %v, %+v", err, strict, lease)
	}
}

// TestRegistrarTooFew: a node that sees too few others gives its lease up when nothing
// runs under it any more, and those who are more have what it had at once.
//
// Mutants: the lease is kept; it is given up while a call runs under it.
func TestRegistrarTooFew(t *testing.T) {
	inRealm(t, 3, func(r *realm) {
		c := r.nodes[2]
		lease, _ := c.lease()
		p := slices.Index(r.targets(), c.self)
		running := c.admit(p, "x")
		r.vanish(c)
		c.SetView(View{Live: []ring.Member{c.self}, Targets: make([]ring.Member, testPartitions), Enough: false})
		time.Sleep(2 * strictTTL)
		if !r.store.Alive(lease) {
			t.Fatal("the lease has ended while a call was running under it")
		}
		running.Done()
		time.Sleep(soon)
		if now, _ := c.lease(); now == lease || r.store.Alive(lease) {
			t.Errorf("the lease goes on, under which nothing may run")
		}
		r.titled()
	})
}
