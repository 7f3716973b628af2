// Package locktest is what every implementation of lock.Locker must pass.
package locktest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lanekeeper/lock"
)

// Store is where the locks of a test are kept, and what the test can see of it and
// do to it.
type Store struct {
	// Open makes the Locker of one more node.
	Open func() lock.Locker
	// Waiting is how many wait for a name, the holder not counted.
	Waiting func(name string) int
	// Left lists what the store has of locks: nothing, once none is held or wanted.
	Left func() []string

	// Crash ends a node without a word to the store; nil if that ends its locks.
	Crash func(lock.Locker)
	// TTL is how long a crashed node's locks stay locked, and Alive how long it stays
	// in queues.
	TTL, Alive time.Duration
}

// patience is how long a test waits for what must happen soon. It is long, since
// the machine may be busy.
const patience = 20 * time.Second

// Run has stores made by open pass every test of the suite. open cleans up by
// t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) *Store) {
	for name, test := range map[string]func(*bench){
		"OneAtATime": oneAtATime, "InOrder": inOrder, "WhoGivesUpIsGone": whoGivesUpIsGone, "OnlyTheWaitIsBound": onlyTheWaitIsBound,
		"Storm": storm, "Release": release, "Close": closing, "CloseTwice": closedTwice, "Names": names, "TwiceByOneNode": twiceByOneNode,
		"Crash": crash, "CrashOfAWaiter": crashOfAWaiter, "Renewal": renewal,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			if strings.HasPrefix(name, "Crash") && s.Crash == nil {
				t.Skip("locks end with their node")
			}
			test(&bench{T: t, Store: s})
		})
	}
}

// bench is a test and its store.
type bench struct {
	*testing.T
	*Store
}

// node opens a Locker that is closed when the test ends.
func (b *bench) node() lock.Locker {
	l := b.Open()
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			b.Errorf("Close: %v", err)
		}
	})
	return l
}

func (b *bench) acquire(l lock.Locker, name string) lock.Lease {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	lease, err := l.Acquire(ctx, name)
	if err != nil {
		b.Fatalf("Acquire: %v", err)
	}
	if lease.ValidFor() <= 0 || lease.Err() != nil {
		b.Errorf("just acquired: valid for %v, %v", lease.ValidFor(), lease.Err())
	}
	return lease
}

func (b *bench) release(lease lock.Lease) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := lease.Release(ctx); err != nil {
		b.Errorf("Release: %v", err)
	}
}

// result is what an Acquire came to.
type result struct {
	lease lock.Lease
	err   error
}

// queue acquires in the background, and returns when that waits in the queue.
func (b *bench) queue(ctx context.Context, l lock.Locker, name string) <-chan result {
	b.Helper()
	before := b.Waiting(name)
	done := make(chan result, 1)
	go func() { // ends with ctx
		lease, err := l.Acquire(ctx, name)
		done <- result{lease, err}
	}()
	b.until("it waits", func() bool { return b.Waiting(name) == before+1 })
	return done
}

func (b *bench) until(what string, is func() bool) {
	b.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// got returns the lease of a queued Acquire.
func (b *bench) got(what string, from <-chan result) lock.Lease {
	b.Helper()
	select {
	case r := <-from:
		if r.err != nil {
			b.Fatalf("%s: %v", what, r.err)
		}
		return r.lease
	case <-time.After(patience):
		b.Fatalf("not in %v: %s", patience, what)
		return nil
	}
}

func (b *bench) nothingLeft() {
	b.Helper()
	var left []string
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if left = b.Left(); len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("left in the store: %q", left[:min(len(left), 10)])
		}
	}
}

// oneAtATime: nobody has a lock beside another, and tokens rise from holder to
// holder.
func oneAtATime(b *bench) {
	var holders, grants atomic.Int32
	var last uint64 // guarded by the lock under test
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(b.Context(), 2*patience)
	defer cancel()
	for range 4 {
		l := b.node()
		for range 4 {
			wg.Go(func() {
				for range 25 {
					lease, err := l.Acquire(ctx, "order:7")
					if err != nil {
						b.Errorf("Acquire: %v", err)
						return
					}
					if n := holders.Add(1); n != 1 {
						b.Errorf("%d hold it", n)
					}
					if lease.Token() <= last {
						b.Errorf("token %d after %d", lease.Token(), last)
					}
					last = lease.Token()
					grants.Add(1)
					holders.Add(-1)
					b.release(lease)
				}
			})
		}
	}
	wg.Wait()
	if n := grants.Load(); n != 400 {
		b.Errorf("%d grants", n)
	}
	b.nothingLeft()
}

// inOrder: who comes first has the lock first, whatever node it came to.
func inOrder(b *bench) {
	nodes := []lock.Locker{b.node(), b.node(), b.node()}
	holder := b.acquire(nodes[0], "x")
	var queued []<-chan result
	for i := range 9 {
		queued = append(queued, b.queue(b.Context(), nodes[(i*2)%3], "x"))
	}
	for i, q := range queued {
		b.release(holder)
		next := b.got(fmt.Sprintf("the lock is number %d's", i), q)
		if next.Token() <= holder.Token() {
			b.Errorf("token %d after %d", next.Token(), holder.Token())
		}
		holder = next
		for _, later := range queued[i+1:] {
			if len(later) > 0 {
				b.Fatalf("another one has it beside number %d", i)
			}
		}
	}
	b.release(holder)
	b.nothingLeft()
}

// whoGivesUpIsGone: a place that is given up, wherever in the queue, is in nobody's
// way.
func whoGivesUpIsGone(b *bench) {
	one, other := b.node(), b.node()
	holder := b.acquire(one, "x")
	var cancels []context.CancelFunc
	var queued []<-chan result
	for i := range 5 {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		cancels = append(cancels, cancel)
		queued = append(queued, b.queue(ctx, []lock.Locker{one, other}[i%2], "x"))
	}
	for _, i := range []int{2, 0} {
		cancels[i]()
		if r := <-queued[i]; !errors.Is(r.err, context.Canceled) {
			b.Errorf("cancelled: %+v", r)
		}
	}
	b.until("two are gone", func() bool { return b.Waiting("x") == 3 })
	for _, i := range []int{1, 3, 4} {
		b.release(holder)
		holder = b.got(fmt.Sprint("the lock is number ", i, "'s"), queued[i])
	}
	b.release(holder)
	b.nothingLeft()
}

// onlyTheWaitIsBound: a lease does not end with the context that it was waited for
// with; nor is one granted to whom it has ended for.
func onlyTheWaitIsBound(b *bench) {
	l := b.node()
	ctx, cancel := context.WithCancel(b.Context())
	lease, err := l.Acquire(ctx, "x")
	if err != nil {
		b.Fatal(err)
	}
	cancel()
	time.Sleep(50 * time.Millisecond)
	if lease.Err() != nil || lease.ValidFor() <= 0 {
		b.Errorf("it ended with its context: %v", lease.Err())
	}
	short, cancel := context.WithTimeout(b.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Acquire(short, "x"); !errors.Is(err, context.DeadlineExceeded) {
		b.Errorf("a wait that ended: %v", err)
	}
	b.release(lease)
	b.nothingLeft()
}

// storm: a thousand acquires, most of which end before they are granted, at whatever
// moment, leave nothing behind.
func storm(b *bench) {
	nodes := []lock.Locker{b.node(), b.node(), b.node(), b.node()}
	for _, n := range nodes { // the first one may have a session to begin
		b.release(b.acquire(n, "x"))
	}
	var wg sync.WaitGroup
	began := time.Now()
	for i := range 40 { // a busy machine is slow, and the slower the more there is to do
		wg.Go(func() { b.release(b.acquire(nodes[i%4], fmt.Sprint("key ", i%10))) })
	}
	wg.Wait()
	unit := max(time.Since(began)/4, 3*time.Millisecond)
	var granted atomic.Int32
	for i := range 1000 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(b.Context(), rand.N(10*unit))
			defer cancel()
			lease, err := nodes[i%4].Acquire(ctx, fmt.Sprint("key ", i%10))
			if err != nil {
				return
			}
			granted.Add(1)
			time.Sleep(rand.N(unit))
			b.release(lease)
		})
		if i%100 == 99 {
			wg.Wait()
		}
	}
	if n := granted.Load(); n == 0 || n == 1000 {
		b.Errorf("%d of 1000 were granted: nothing is shown", n)
	}
	b.nothingLeft()
	for i := range 10 {
		b.release(b.acquire(nodes[0], fmt.Sprint("key ", i)))
	}
}

// release: it ends the lease, may be said twice, and never takes the lock from its
// next holder.
func release(b *bench) {
	one, other := b.node(), b.node()
	lease := b.acquire(one, "x")
	queued := b.queue(b.Context(), other, "x")
	b.release(lease)
	next := b.got("the next", queued)
	b.release(lease)
	if lease.ValidFor() > 0 || !errors.Is(lease.Err(), lock.ErrReleased) {
		b.Errorf("released: valid for %v, %v", lease.ValidFor(), lease.Err())
	}
	select {
	case <-lease.Done():
	default:
		b.Error("released, and not done")
	}
	third := b.queue(b.Context(), one, "x")
	time.Sleep(20 * time.Millisecond)
	if len(third) > 0 || next.Err() != nil || next.ValidFor() <= 0 {
		b.Errorf("the next holder lost it to a release of the one before: %v", next.Err())
	}
	b.release(next)
	b.release(b.got("the third", third))
}

// closing: it frees what is held and ends what waits.
func closing(b *bench) {
	one, other := b.Open(), b.node()
	x, y := b.acquire(one, "x"), b.acquire(other, "y")
	waits := b.queue(b.Context(), one, "y")
	heir := b.queue(b.Context(), other, "x")
	for range 2 {
		if err := one.Close(b.Context()); err != nil {
			b.Errorf("Close: %v", err)
		}
	}
	if r := <-waits; !errors.Is(r.err, lock.ErrClosed) {
		b.Errorf("what waited: %+v", r)
	}
	if x.ValidFor() > 0 || x.Err() == nil {
		b.Errorf("what was held: valid for %v, %v", x.ValidFor(), x.Err())
	}
	if _, err := one.Acquire(b.Context(), "z"); !errors.Is(err, lock.ErrClosed) {
		b.Errorf("Acquire after Close: %v", err)
	}
	b.release(b.got("the heir", heir))
	b.release(y)
	b.nothingLeft()
}

// names: any bytes, and each a lock of its own.
func names(b *bench) {
	l := b.node()
	all := []string{"", "x", "x ", "X", "x/y", "/x", "../x", "x\x00", "x\n", "{x}", "}", "*", "ключ", "\xff\xfe", "o:x", strings.Repeat("long", 1000)}
	var leases []lock.Lease
	for _, name := range all {
		leases = append(leases, b.acquire(l, name))
	}
	for i, lease := range leases {
		if lease.Err() != nil {
			b.Errorf("%q: %v", all[i], lease.Err())
		}
		b.release(lease)
	}
	b.nothingLeft()
}

// twiceByOneNode: a node is no holder, a lease is.
func twiceByOneNode(b *bench) {
	l := b.node()
	first := b.acquire(l, "x")
	second := b.queue(b.Context(), l, "x")
	time.Sleep(20 * time.Millisecond)
	if len(second) > 0 {
		b.Error("granted twice")
	}
	b.release(first)
	b.release(b.got("the second", second))
}

// crash: a dead holder's lock is free after its TTL, and not long before that.
func crash(b *bench) {
	dead, other := b.Open(), b.node()
	lost := b.acquire(dead, "x")
	queued := b.queue(b.Context(), other, "x")
	began := time.Now()
	b.Crash(dead)
	next := b.got("the heir of the dead", queued)
	if took := time.Since(began); took < b.TTL/2 || took > b.TTL+patience/2 {
		b.Errorf("granted after %v, with a TTL of %v", took, b.TTL)
	}
	if next.Token() <= lost.Token() {
		b.Errorf("token %d after %d", next.Token(), lost.Token())
	}
	b.release(next)
	b.nothingLeft()
}

// crashOfAWaiter: it is passed over.
func crashOfAWaiter(b *bench) {
	dead, holder, other := b.Open(), b.node(), b.node()
	lease := b.acquire(holder, "x")
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.queue(ctx, dead, "x")
	queued := b.queue(b.Context(), other, "x")
	b.Crash(dead)
	began := time.Now()
	b.release(lease)
	b.release(b.got("who is behind the dead", queued))
	if took := time.Since(began); took > b.Alive+patience/2 {
		b.Errorf("granted after %v", took)
	}
	b.nothingLeft()
}

// renewal: a lease that is held for several TTLs is valid at every moment of it.
func renewal(b *bench) {
	l, other := b.node(), b.node()
	lease := b.acquire(l, "x")
	queued := b.queue(b.Context(), other, "x")
	var gaps []time.Duration
	for began := time.Now(); time.Since(began) < 3*b.TTL; time.Sleep(time.Millisecond) {
		if lease.ValidFor() <= 0 || lease.Err() != nil || len(queued) > 0 {
			gaps = append(gaps, time.Since(began))
		}
		if left := lease.ValidFor(); b.Crash != nil && left > b.TTL {
			b.Fatalf("valid for %v, with a TTL of %v", left, b.TTL)
		}
	}
	if len(gaps) > 0 {
		b.Errorf("not valid, or another's, after %v: %v", slices.Min(gaps), lease.Err())
	}
	b.release(lease)
	b.release(b.got("the next", queued))
}

// closedTwice: a second Close returns when the first has done everything.
func closedTwice(b *bench) {
	l := b.Open()
	for i := range 50 {
		b.acquire(l, fmt.Sprint(i))
	}
	ends := make(chan error, 2)
	for range 2 {
		go func() {
			err := l.Close(b.Context())
			if left := b.Left(); len(left) > 0 {
				b.Errorf("closed, and left in the store: %d", len(left))
			}
			ends <- err
		}()
	}
	for range 2 {
		if err := <-ends; err != nil {
			b.Errorf("Close: %v", err)
		}
	}
}
