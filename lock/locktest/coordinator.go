package locktest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"lanekeeper/lock"
)

// Registry is where the records of a test are kept.
type Registry struct {
	// Open makes the Coordinator of one more node.
	Open func() lock.Coordinator
	// Crash ends a node without a word to the store.
	Crash func(lock.Coordinator)
	// TTL is how long a crashed node's lease goes on.
	TTL time.Duration
	// Far opens a node that reaches the store by a relay.
	Far func() (lock.Coordinator, *Relay)
	// FarLink is there instead of Far if the store is not reached by connections.
	FarLink func() (lock.Coordinator, Link)
	// Forget has the store lose everything.
	Forget func()
}

// Link is a node's way to its store, as far as tests break it; a Relay says how.
type Link interface {
	CutAt(n int)
	Stall()
	Heal()
	Cut()
}

// coordinatorTests are those that every coordinator passes.
var coordinatorTests = map[string]func(*registrar){
	"OneTaker": oneTaker, "Giving": giving, "Draining": drainingMoves, "TakenAgain": takenAgain, "Draw": draw,
	"Many": many, "CrashedHolder": crashedHolder, "ClosedHolder": closedHolder, "LostSession": lostSession, "AtOnce": atOnce,
	"LostReply": lostReply, "CutOff": cutOff, "Forgetful": forgetful, "SoonForgotten": soonForgotten,
	"End": end, "EndCutOff": endCutOff,
}

// RunCoordinator has registries made by open pass every test of coordinators.
func RunCoordinator(t *testing.T, open func(t *testing.T) *Registry) {
	for name, test := range coordinatorTests {
		t.Run(name, func(t *testing.T) { test(&registrar{T: t, Registry: open(t)}) })
	}
}

type registrar struct {
	*testing.T
	*Registry
}

func (r *registrar) node() (lock.Coordinator, lock.Session) {
	r.Helper()
	c := r.Open()
	return c, r.keep(c)
}

func (r *registrar) far() (lock.Coordinator, Link) {
	if r.FarLink != nil {
		return r.FarLink()
	}
	return r.Far()
}

// keep begins a session, and closes its coordinator when the test ends.
func (r *registrar) keep(c lock.Coordinator) lock.Session {
	r.Helper()
	r.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c.Close(ctx) //nolint:errcheck // it may have been crashed
	})
	return r.begin(c)
}

func (r *registrar) begin(c lock.Coordinator) lock.Session {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	s, err := c.Begin(ctx)
	if err != nil {
		r.Fatalf("Begin: %v", err)
	}
	return s
}

// take takes one partition.
func (r *registrar) take(s lock.Session, t lock.Take) lock.Taken {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	taken, err := s.Take(ctx, []lock.Take{t})
	if err != nil {
		r.Fatalf("Take: %v", err)
	}
	return taken[0]
}

func (r *registrar) must(s lock.Session, t lock.Take) lock.Record {
	r.Helper()
	taken := r.take(s, t)
	if !taken.OK || taken.Record.Holder != s.ID() || taken.Record.Tenure != t.Tenure+1 || taken.Record.Partition != t.Partition {
		r.Fatalf("take %+v: %+v", t, taken)
	}
	if at := r.record(s, t.Partition); at != taken.Record {
		r.Fatalf("the store has %+v, and it was told %+v", at, taken.Record)
	}
	return taken.Record
}

func (r *registrar) mustNot(what string, s lock.Session, t lock.Take) {
	r.Helper()
	before := r.record(s, t.Partition)
	if taken := r.take(s, t); taken.OK || taken.Record != before {
		r.Errorf("%s: %+v, and it was %+v", what, taken, before)
	}
	if after := r.record(s, t.Partition); after != before {
		r.Errorf("%s changed %+v to %+v", what, before, after)
	}
}

// record is what the store has of a partition.
func (r *registrar) record(s lock.Session, partition int) lock.Record {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	records, err := s.Records(ctx)
	if err != nil {
		r.Fatalf("Records: %v", err)
	}
	for _, record := range records {
		if record.Partition == partition {
			return record
		}
	}
	return lock.Record{Partition: partition}
}

// of is a take of a partition as it is in a record.
func of(r lock.Record, given, draining bool) lock.Take {
	return lock.Take{Partition: r.Partition, Holder: r.Holder, Tenure: r.Tenure, Given: given, Draining: draining}
}

// oneTaker: of several that take the same partitions at once each goes to one of them,
// who is told so, and the others are told who it is.
func oneTaker(r *registrar) {
	const partitions = 200
	var takes []lock.Take
	for p := range partitions {
		takes = append(takes, lock.Take{Partition: p})
	}
	winners := make([]string, partitions)
	var mu sync.Mutex
	var wg sync.WaitGroup
	results := make(map[string][]lock.Taken)
	for range 3 {
		_, s := r.node()
		wg.Go(func() {
			mine := slices.Clone(takes)
			rand.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
			taken, err := s.Take(r.Context(), mine)
			if err != nil {
				r.Errorf("Take: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			results[s.ID()] = taken
		})
	}
	wg.Wait()
	for id, taken := range results {
		for _, t := range taken {
			p := t.Record.Partition
			if t.OK != (t.Record.Holder == id) || t.Record.Tenure != 1 {
				r.Errorf("%s is told %+v", id, t)
			}
			if winners[p] != "" && winners[p] != t.Record.Holder {
				r.Errorf("partition %d is said to be %s's and %s's", p, winners[p], t.Record.Holder)
			}
			winners[p] = t.Record.Holder
			if now := uint64(time.Now().Unix()) * 256; t.Record.Stamp+256*3600 < now { //nolint:gosec // after 1970
				r.Errorf("stamp %d at %d", t.Record.Stamp, now)
			}
		}
	}
}

// giving: a partition whose holder lives is taken by nobody whom it has not been given
// to, and only from the tenure that it was given in.
func giving(r *registrar) {
	_, a := r.node()
	_, b := r.node()
	first := r.must(a, lock.Take{Partition: 7})
	r.mustNot("taking from the living", b, of(first, false, false))
	r.mustNot("taking what nobody had", b, lock.Take{Partition: 7, Given: true})
	r.mustNot("a wrong tenure", b, lock.Take{Partition: 7, Holder: a.ID(), Tenure: 2, Given: true})
	second := r.must(b, of(first, true, false))
	if second.Prev != "" || second.Stamp <= first.Stamp {
		r.Errorf("%+v after %+v", second, first)
	}
	r.mustNot("what was given before", a, of(first, true, false))
	if again := r.take(b, of(first, true, false)); !again.OK || again.Record != second {
		r.Errorf("the same once more: %+v", again)
	}
}

// drainingMoves: who may still run something is remembered until it says that it does
// not, in that tenure, and is the only one of its kind.
func drainingMoves(r *registrar) {
	_, a := r.node()
	_, b := r.node()
	_, c := r.node()
	first := r.must(a, lock.Take{Partition: 1})
	second := r.must(b, of(first, true, true))
	if second.Prev != a.ID() || second.PrevTenure != first.Tenure {
		r.Fatalf("%+v after %+v", second, first)
	}
	r.mustNot("a second one that drains", c, of(second, true, true))
	for _, d := range []struct {
		s      lock.Session
		tenure uint64
	}{{b, 1}, {a, 2}} {
		if err := d.s.Drained(r.Context(), []lock.Tenure{{Partition: 1, Tenure: d.tenure}}); err != nil {
			r.Fatal(err)
		}
		if at := r.record(a, 1); at != second {
			r.Errorf("it is drained by %s in %d: %+v", d.s.ID(), d.tenure, at)
		}
	}
	if err := a.Drained(r.Context(), []lock.Tenure{{Partition: 1, Tenure: 1}}); err != nil {
		r.Fatal(err)
	}
	third := r.must(c, of(r.record(c, 1), true, true))
	if third.Prev != b.ID() {
		r.Errorf("%+v", third)
	}
	// Who drains takes it back, and need not wait for itself.
	fourth := r.must(b, of(third, true, true))
	if fourth.Prev != c.ID() || fourth.PrevTenure != third.Tenure {
		r.Errorf("%+v", fourth)
	}
}

// takenAgain: a holder may begin another tenure, so that nothing that it has given in
// the one before is taken any more.
func takenAgain(r *registrar) {
	_, a := r.node()
	_, b := r.node()
	first := r.must(a, lock.Take{Partition: 3})
	second := r.must(a, of(first, false, false))
	if second.Prev != "" || second.Stamp <= first.Stamp {
		r.Errorf("%+v after %+v", second, first)
	}
	r.mustNot("what was given before", b, of(first, true, true))
}

// draw: stamps rise, each is drawn once, and only by the holder in its tenure.
func draw(r *registrar) {
	_, a := r.node()
	_, b := r.node()
	record := r.must(a, lock.Take{Partition: 2})
	var mu sync.Mutex
	var stamps []uint64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := record.Stamp
			for range 10 {
				stamp, err := a.Draw(r.Context(), 2, record.Tenure)
				if err != nil || stamp <= last {
					r.Errorf("Draw: %d after %d, %v", stamp, last, err)
				}
				last = stamp
				mu.Lock()
				stamps = append(stamps, stamp)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(stamps)
	if n := len(slices.Compact(stamps)); n != 40 {
		r.Errorf("%d different stamps", n)
	}
	for _, who := range []struct {
		s      lock.Session
		tenure uint64
	}{{b, record.Tenure}, {a, record.Tenure + 1}} {
		if _, err := who.s.Draw(r.Context(), 2, who.tenure); !errors.Is(err, lock.ErrLost) {
			r.Errorf("Draw of another's: %v", err)
		}
	}
	next := r.must(b, of(r.record(b, 2), true, false))
	if next.Stamp <= stamps[len(stamps)-1] {
		r.Errorf("%+v after %d", next, stamps[len(stamps)-1])
	}
}

// many: a node takes all partitions of a cluster.
func many(r *registrar) {
	const partitions = 4096
	_, a := r.node()
	var takes []lock.Take
	for p := range partitions {
		takes = append(takes, lock.Take{Partition: p})
	}
	ctx, cancel := context.WithTimeout(r.Context(), 3*patience)
	defer cancel()
	began := time.Now()
	taken, err := a.Take(ctx, takes)
	if err != nil {
		r.Fatal(err)
	}
	r.Logf("%d partitions taken in %v", partitions, time.Since(began).Round(time.Millisecond))
	for p, t := range taken {
		if !t.OK || t.Record.Partition != p || t.Record.Holder != a.ID() {
			r.Fatalf("partition %d: %+v", p, t)
		}
	}
	began = time.Now()
	records, err := a.Records(ctx)
	if err != nil || len(records) != partitions {
		r.Fatalf("%d records, %v", len(records), err)
	}
	r.Logf("and read in %v", time.Since(began).Round(time.Millisecond))
}

// crashedHolder: what a dead node held is taken when its lease has ended, and not
// before that; so is what it still ran.
func crashedHolder(r *registrar) {
	dead, a := r.node()
	_, b := r.node()
	_, c := r.node()
	held := r.must(a, lock.Take{Partition: 1})
	drained := r.must(b, of(r.must(a, lock.Take{Partition: 2}), true, true))
	began := time.Now()
	r.Crash(dead)
	r.mustNot("taking from who may live", b, of(held, false, false))
	ctx, cancel := context.WithTimeout(r.Context(), 2*r.TTL+patience)
	defer cancel()
	for range 2 {
		if err := c.Ended(ctx, a.ID()); err != nil {
			r.Fatalf("Ended: %v", err)
		}
	}
	if took := time.Since(began); took < r.TTL/2 {
		r.Errorf("its lease has ended after %v, with a TTL of %v", took, r.TTL)
	}
	if next := r.must(b, of(held, false, false)); next.Prev != "" {
		r.Errorf("%+v", next)
	}
	if next := r.must(c, of(drained, true, true)); next.Prev != b.ID() {
		r.Errorf("what the dead one still ran keeps others from moving it: %+v", next)
	}
}

// closedHolder: what a node held is free at once when it has said good-bye.
func closedHolder(r *registrar) {
	closes, a := r.node()
	_, b := r.node()
	held := r.must(a, lock.Take{Partition: 1})
	ended := make(chan error, 1)
	go func() { ended <- b.Ended(r.Context(), a.ID()) }()
	time.Sleep(50 * time.Millisecond)
	if len(ended) > 0 {
		r.Error("it has ended before it was closed")
	}
	if err := closes.Close(r.Context()); err != nil {
		r.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			r.Errorf("Ended: %v", err)
		}
	case <-time.After(patience):
		r.Error("nobody was told of the end")
	}
	if a.ValidFor() > 0 {
		r.Errorf("valid for %v", a.ValidFor())
	}
	r.must(b, of(held, false, false))
	if _, err := closes.Begin(r.Context()); !errors.Is(err, lock.ErrClosed) {
		r.Errorf("Begin after Close: %v", err)
	}
}

// lostSession: leases differ; one that goes on is renewed.
func lostSession(r *registrar) {
	c, a := r.node()
	_, b := r.node()
	if a.ID() == b.ID() || a.ID() == "" {
		r.Errorf("leases %q and %q", a.ID(), b.ID())
	}
	for began := time.Now(); time.Since(began) < 2*r.TTL; time.Sleep(5 * time.Millisecond) {
		if left := a.ValidFor(); left <= 0 || left > r.TTL {
			r.Fatalf("valid for %v after %v", left, time.Since(began))
		}
	}
	if again := r.begin(c); again.ID() != a.ID() {
		r.Errorf("a second lease %q beside %q", again.ID(), a.ID())
	}
}

// atOnce: nodes take, give and draw at random, and at once. In each partition each
// tenure has one holder, and each stamp is drawn once.
func atOnce(r *registrar) {
	const partitions, nodes, steps = 4, 3, 60
	type event struct{ partition, number uint64 }
	var mu sync.Mutex
	tenures, stamps := make(map[event]string), make(map[event]int)
	note := func(s lock.Session, at lock.Record) {
		mu.Lock()
		defer mu.Unlock()
		p := uint64(at.Partition) //nolint:gosec // small
		if other := tenures[event{p, at.Tenure}]; other != "" && other != s.ID() {
			r.Errorf("tenure %d of %d is %s's and %s's", at.Tenure, p, other, s.ID())
		}
		tenures[event{p, at.Tenure}] = s.ID()
		if stamps[event{p, at.Stamp}]++; stamps[event{p, at.Stamp}] > 1 {
			r.Errorf("stamp %d of %d was drawn twice", at.Stamp, p)
		}
	}
	var wg sync.WaitGroup
	for range nodes {
		_, s := r.node()
		wg.Go(func() {
			known := make([]lock.Record, partitions)
			for p := range known {
				known[p].Partition = p
			}
			for range steps {
				p := rand.IntN(partitions)
				at := known[p]
				if at.Holder == s.ID() && rand.IntN(2) == 0 {
					stamp, err := s.Draw(r.Context(), p, at.Tenure)
					if at.Stamp = stamp; err == nil {
						note(s, at)
					}
					continue
				}
				taken, err := s.Take(r.Context(), []lock.Take{of(at, true, false)})
				if err != nil {
					r.Errorf("Take: %v", err)
					return
				}
				if known[p] = taken[0].Record; taken[0].OK {
					note(s, known[p])
				}
			}
		})
	}
	wg.Wait()
	if len(tenures) < 2*partitions {
		r.Errorf("%d tenures: nothing is shown", len(tenures))
	}
}

// lostReply: the answer to whatever question is lost, and what the store did is neither
// forgotten nor done twice.
func lostReply(r *registrar) {
	c, relay := r.far()
	s := r.keep(c)
	_, near := r.node()
	for n := 1; n <= 4; n++ {
		relay.CutAt(n)
		first := r.must(s, lock.Take{Partition: n})
		relay.Heal()
		relay.CutAt(n)
		stamp, err := s.Draw(r.Context(), n, first.Tenure)
		relay.Heal()
		if at := r.record(near, n); err != nil || at.Stamp != stamp || at.Tenure != first.Tenure || at.Holder != s.ID() {
			r.Errorf("cut at reply %d: %d drawn, %v, and the record is %+v", n, stamp, err, at)
		}
	}
}

// cutOff: a node that cannot reach the store knows in time that its lease may have
// ended; when it can, it is told so, and begins another one.
func cutOff(r *registrar) {
	c, relay := r.far()
	s := r.keep(c)
	_, near := r.node()
	held := r.must(s, lock.Take{Partition: 1})
	relay.Stall()
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- near.Ended(r.Context(), s.ID()) }()
	for s.ValidFor() > 0 {
		if len(ended) > 0 {
			r.Fatal("the store has ended it before its holder knew")
		}
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(began); took > r.TTL {
		r.Errorf("valid for %v, with a TTL of %v", took, r.TTL)
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	if _, err := s.Take(ctx, []lock.Take{{Partition: 2}}); !errors.Is(err, lock.ErrUnavailable) {
		r.Errorf("Take without a store: %v", err)
	}
	if err := <-ended; err != nil {
		r.Fatal(err)
	}
	next := r.must(near, of(held, false, false))
	relay.Cut()
	relay.Heal()
	select {
	case <-s.Done():
	case <-time.After(patience):
		r.Fatal("it is not told that its lease has ended")
	}
	if _, err := s.Take(r.Context(), []lock.Take{of(next, true, false)}); !errors.Is(err, lock.ErrLost) {
		r.Errorf("Take under a lease that has ended: %v", err)
	}
	if again := r.begin(c); again.ID() == s.ID() || again.ValidFor() <= 0 {
		r.Errorf("the next lease: %q after %q, valid for %v", again.ID(), s.ID(), again.ValidFor())
	}
}

// forgetful: when a store has lost everything, nobody goes on holding what it held, and
// the stamps that it draws from then on are higher than those before.
func forgetful(r *registrar) {
	c, s := r.node()
	held := r.must(s, lock.Take{Partition: 1})
	stamp, err := s.Draw(r.Context(), 1, held.Tenure)
	if err != nil {
		r.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // fewer than 256 grants in a second, on average
	r.Forget()
	select {
	case <-s.Done():
	case <-time.After(patience):
		r.Fatal("it is not told that its lease has ended")
	}
	if s.ValidFor() > 0 {
		r.Errorf("valid for %v", s.ValidFor())
	}
	if _, err := s.Take(r.Context(), []lock.Take{{Partition: 1}}); !errors.Is(err, lock.ErrLost) {
		r.Errorf("Take under a lease that is forgotten: %v", err)
	}
	if next := r.must(r.begin(c), lock.Take{Partition: 1}); next.Stamp <= stamp {
		r.Errorf("stamp %d after %d", next.Stamp, stamp)
	}
}

// soonForgotten: stamps rise also if what the store forgets was drawn in the same second.
func soonForgotten(r *registrar) {
	for range 10 {
		_, s := r.node()
		second := time.Now().Truncate(time.Second).Add(time.Second)
		time.Sleep(time.Until(second))
		held := r.must(s, lock.Take{Partition: 1})
		stamp, err := s.Draw(r.Context(), 1, held.Tenure)
		if err != nil {
			r.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // fewer than 256 grants in a second, on average
		r.Forget()
		_, next := r.node()
		again := r.must(next, lock.Take{Partition: 1})
		if again.Stamp <= stamp {
			r.Errorf("stamp %d after %d", again.Stamp, stamp)
		}
		if time.Since(second) < time.Second {
			return
		}
		r.Forget()
	}
	r.Error("it takes more than a second each time: nothing is shown")
}

// mustBeOver: a session that was given up is not valid, and says so.
func (r *registrar) mustBeOver(s lock.Session) {
	r.Helper()
	select {
	case <-s.Done():
	default:
		r.Error("it is not told that its lease has ended")
	}
	if left := s.ValidFor(); left > 0 {
		r.Errorf("valid for %v", left)
	}
}

// end: what a node held is free at once when it has given its lease up, for good; it
// goes on under another one.
func end(r *registrar) {
	c, a := r.node()
	_, b := r.node()
	held := r.must(a, lock.Take{Partition: 1})
	other := r.must(a, lock.Take{Partition: 2})
	drained := r.must(b, of(r.must(a, lock.Take{Partition: 3}), true, true))
	ended := make(chan error, 1)
	go func() { ended <- b.Ended(r.Context(), a.ID()) }()
	time.Sleep(50 * time.Millisecond)
	if len(ended) > 0 {
		r.Error("it has ended before it was given up")
	}
	began := time.Now()
	if err := a.End(r.Context()); err != nil {
		r.Fatalf("End: %v", err)
	}
	r.mustBeOver(a)
	r.must(b, of(held, false, false))
	if took := time.Since(began); took > r.TTL/2 {
		r.Errorf("taken %v after it was given up, with a TTL of %v", took, r.TTL)
	}
	select {
	case err := <-ended:
		if err != nil {
			r.Errorf("Ended: %v", err)
		}
	case <-time.After(patience):
		r.Error("nobody was told of the end")
	}
	if _, err := a.Take(r.Context(), []lock.Take{{Partition: 4}}); !errors.Is(err, lock.ErrLost) {
		r.Errorf("Take under a lease that was given up: %v", err)
	}
	if err := a.End(r.Context()); err != nil {
		r.Errorf("End once more: %v", err)
	}
	again := r.begin(c)
	if again.ID() == a.ID() || again.ValidFor() <= 0 {
		r.Errorf("the next lease: %q after %q, valid for %v", again.ID(), a.ID(), again.ValidFor())
	}
	time.Sleep(r.TTL) // renewals come and go
	r.mustBeOver(a)
	if again.ValidFor() <= 0 {
		r.Error("the next lease is not renewed")
	}
	r.must(again, of(other, false, false))
	if next := r.must(again, of(drained, true, true)); next.Prev != b.ID() {
		r.Errorf("what ran under the lease that was given up keeps others from moving it: %+v", next)
	}
}

// endCutOff: a lease that is given up is not valid from then on, whether the store can
// be told or not; if not, it ends by itself, even if there is a way again.
func endCutOff(r *registrar) {
	c, relay := r.far()
	s := r.keep(c)
	_, near := r.node()
	held := r.must(s, lock.Take{Partition: 1})
	relay.Stall()
	ctx, cancel := context.WithTimeout(r.Context(), r.TTL/4)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- s.End(ctx) }()
	select {
	case <-s.Done():
	case <-time.After(patience):
		r.Fatal("it is not told that its lease has ended")
	}
	if len(failed) > 0 {
		r.Error("it is told when the store has been asked")
	}
	r.mustBeOver(s)
	if err := <-failed; !errors.Is(err, lock.ErrUnavailable) {
		r.Errorf("End without a store: %v", err)
	}
	relay.Cut()
	relay.Heal()
	if _, err := s.Take(r.Context(), []lock.Take{{Partition: 2}}); !errors.Is(err, lock.ErrLost) {
		r.Errorf("Take under a lease that was given up: %v", err)
	}
	if again := r.begin(c); again.ID() == s.ID() || again.ValidFor() <= 0 {
		r.Errorf("the next lease: %q after %q, valid for %v", again.ID(), s.ID(), again.ValidFor())
	}
	ending, cancel := context.WithTimeout(r.Context(), 2*r.TTL+patience)
	defer cancel()
	if err := near.Ended(ending, s.ID()); err != nil {
		r.Fatalf("Ended: %v", err)
	}
	r.must(near, of(held, false, false))
	if err := s.End(r.Context()); err != nil {
		r.Errorf("End once more: %v", err)
	}
	r.mustBeOver(s)
}
