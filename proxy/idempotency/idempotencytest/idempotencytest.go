// Package idempotencytest judges whether something is an idempotency.Store. It is
// for tests.
//
// It sees a store from several nodes, which it cuts off from their server, and has the
// server end, stand still and come again.
package idempotencytest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"lanekeeper/proxy/idempotency"
)

// Place is where records are kept that nodes share.
type Place struct {
	// Open makes a further node, which is closed when t ends. Without a server, each is a
	// store of its own.
	Open func(t testing.TB) *Node
	// Lease is a short one. What has to wait for leases to end waits for this.
	Lease time.Duration
	// Timeout bounds each call while the server is away.
	Timeout time.Duration
	// Server is nil if there is none: leases then don't end, and nothing is away.
	Server *Server
}

// Server is how to treat the server that a Place rests on.
type Server struct {
	Kill, Start  func()
	Freeze, Thaw func()
}

// Node is a store, and how to treat its connections. Without a server there are none.
type Node struct {
	idempotency.Store
	Cut       func() // to the server's eyes, the node has crashed
	Mend      func() // ends Cut; connections of before are closed
	LoseReply func() // the next reply of the server doesn't arrive: the connection is cut
}

// patience is for what happens at once, on a machine that has much to do.
const patience = 10 * time.Second

// suite is one test's way to a Place.
type suite struct {
	*testing.T
	*Place
	node *Node
}

// Run runs the suite. Where there is a server, all tests share it; those that treat it
// badly come last, one by one.
func Run(t *testing.T, place *Place) {
	run := func(t *testing.T, test func(*suite)) { test(&suite{T: t, Place: place, node: place.Open(t)}) }
	t.Run("Shared", func(t *testing.T) {
		for _, test := range shared {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel() // most of their time they wait for the server's clock
				if test.server && place.Server == nil {
					t.Skip("there is no server")
				}
				run(t, test.run)
			})
		}
	})
	if place.Server != nil {
		t.Run("Away", func(t *testing.T) { run(t, away) })
		t.Run("Frozen", func(t *testing.T) { run(t, frozen) })
	}
}

var shared = []struct {
	name   string
	server bool // it needs one
	run    func(*suite)
}{
	{"Replays", false, replays},
	{"BytesAreExact", false, bytesAreExact},
	{"EndsOnce", false, endsOnce},
	{"Again", false, again},
	{"Forgets", false, forgets},
	{"Expires", false, expires},
	{"MaxEntry", false, maxEntry},
	{"OneIsNew", false, oneIsNew},
	{"ClaimsOutliveTheirTTL", false, claimsOutliveTheirTTL},
	{"Cancelled", false, cancelled},
	{"Closed", false, closed},
	{"ManyClosed", false, manyClosed},
	{"NodesShare", true, nodesShare},
	{"Renewed", true, renewed},
	{"Crash", true, crash},
	{"Lost", true, lost},
	{"RenewsItsOwn", true, renewsItsOwn},
	{"MadeGood", true, madeGood},
	{"LostReplies", true, lostReplies},
	{"ConnectionsAreCut", true, connectionsAreCut},
	{"CutCallsAreBounded", true, cutCallsAreBounded},
}

// request is one with a name of its own.
func (s *suite) request() *idempotency.Request {
	r := &idempotency.Request{Partition: 7, Key: []byte("a\x00lane"), Lease: s.Lease, TTL: time.Hour, MaxEntry: 1 << 16}
	rand.Read(r.ID[:])    //nolint:errcheck // it never fails
	rand.Read(r.Print[:]) //nolint:errcheck // it never fails
	return r
}

func (s *suite) begin(node *Node, r *idempotency.Request) (idempotency.Run, idempotency.Record) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	run, known, err := node.Begin(ctx, r)
	if err != nil {
		s.Fatalf("Begin: %v", err)
	}
	if (run != nil) != (known.State == idempotency.New) {
		s.Fatalf("Begin: state %d with the Run %v", known.State, run)
	}
	if known.State != idempotency.Running && known.Until != 0 || known.Until < 0 || known.Until > r.Lease {
		s.Fatalf("Begin: state %d until %v", known.State, known.Until)
	}
	return run, known
}

// claim begins what nobody has begun.
func (s *suite) claim(node *Node, r *idempotency.Request) idempotency.Run {
	s.Helper()
	run, known := s.begin(node, r)
	if run == nil {
		s.Fatalf("state %d, want New", known.State)
	}
	return run
}

// want asks for a name that somebody has begun.
func (s *suite) want(node *Node, r *idempotency.Request, state idempotency.State) idempotency.Record {
	s.Helper()
	_, known := s.begin(node, r)
	if known.State != state {
		s.Fatalf("state %d, want %d", known.State, state)
	}
	if state != idempotency.New && known.Print != r.Print {
		s.Fatalf("print %x, want %x", known.Print, r.Print)
	}
	return known
}

func (s *suite) wantReply(node *Node, r *idempotency.Request, want idempotency.Reply) {
	s.Helper()
	reply := s.want(node, r, idempotency.Done).Reply
	if reply.Status != want.Status || reply.Bare != want.Bare || !bytes.Equal(reply.Head, want.Head) || !bytes.Equal(reply.Body, want.Body) {
		s.Fatalf("the reply is %d bare=%v %.40q %.40q, want %d bare=%v %.40q %.40q",
			reply.Status, reply.Bare, reply.Head, reply.Body, want.Status, want.Bare, want.Head, want.Body)
	}
}

// wantErr looks at the answer of a Run.
func (s *suite) wantErr(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("got %v, want %v", err, want)
	}
}

// await asks until a name has a state, and says how long that took. Until then it has
// another one.
func (s *suite) await(node *Node, r *idempotency.Request, before, state idempotency.State) time.Duration {
	s.Helper()
	begun := time.Now()
	for {
		_, known := s.begin(node, r)
		switch {
		case known.State == state:
			return time.Since(begun)
		case known.State != before:
			s.Fatalf("state %d, want %d and then %d", known.State, before, state)
		case time.Since(begun) > patience:
			s.Fatalf("state %d for %v, want %d", known.State, patience, state)
		}
		time.Sleep(10 * time.Millisecond) // until the server's clock has moved
	}
}

var small = idempotency.Reply{Status: 201, Head: []byte("A: b\r\nC: d\r\n"), Body: []byte("done")}

// replays is a name's usual way.
func replays(s *suite) {
	r := s.request()
	run := s.claim(s.node, r)
	s.want(s.node, r, idempotency.Running)
	other := *r
	other.Print[0]++
	if _, known := s.begin(s.node, &other); known.State != idempotency.Running || known.Print != r.Print {
		s.Errorf("another request of the name: state %d print %x", known.State, known.Print)
	}
	s.wantErr(run.Finish(s.Context(), small), nil)
	s.wantReply(s.node, r, small)
	s.wantReply(s.node, r, small)
	if _, known := s.begin(s.node, &other); known.State != idempotency.Done || known.Print != r.Print {
		s.Errorf("another request of the name: state %d print %x", known.State, known.Print)
	}
	with := *r
	with.Again = true
	s.wantReply(s.node, &with, small)
	s.claim(s.node, s.request()) // another name is another
}

// bytesAreExact keeps every byte, in names and prints too, and nothing.
func bytesAreExact(s *suite) {
	var all []byte
	for i := range 256 {
		all = append(all, byte(i), 0, byte(255-i))
	}
	for i, reply := range []idempotency.Reply{
		{Status: 200, Head: all, Body: append([]byte{0}, all...)}, {Status: 204}, {Status: 999, Body: []byte{0}}, {Status: 100, Head: []byte("\r\n\x00")},
	} {
		r := s.request()
		copy(r.ID[:], []byte{0, '{', '}', '\\', 'x', 0xff, byte(i)})
		copy(r.Print[:], []byte{0, 0xff, '\''})
		r.Key = all
		run := s.claim(s.node, r)
		given := idempotency.Reply{Status: reply.Status, Head: bytes.Clone(reply.Head), Body: bytes.Clone(reply.Body)}
		s.wantErr(run.Finish(s.Context(), given), nil)
		clear(given.Head) // they are the caller's
		clear(given.Body)
		s.wantReply(s.node, r, reply)
	}
}

// endsOnce: a Run that was ended changes nothing any more.
func endsOnce(s *suite) {
	r := s.request()
	run := s.claim(s.node, r)
	s.wantErr(run.Lose(s.Context()), nil)
	s.want(s.node, r, idempotency.Unknown)
	s.wantErr(run.Finish(s.Context(), small), idempotency.ErrLost)
	s.wantErr(run.Forget(s.Context()), idempotency.ErrLost)
	s.want(s.node, r, idempotency.Unknown)

	r = s.request()
	run = s.claim(s.node, r)
	s.wantErr(run.Finish(s.Context(), small), nil)
	s.wantErr(run.Lose(s.Context()), idempotency.ErrLost)
	s.wantErr(run.Forget(s.Context()), idempotency.ErrLost)
	s.wantReply(s.node, r, small)
}

// again claims what is unknown, for the same request alone.
func again(s *suite) {
	r := s.request()
	s.wantErr(s.claim(s.node, r).Lose(s.Context()), nil)
	s.want(s.node, r, idempotency.Unknown)
	other := *r
	other.Print[0]++
	other.Again = true
	if _, known := s.begin(s.node, &other); known.State != idempotency.Unknown || known.Print != r.Print {
		s.Errorf("another request of the name: state %d print %x", known.State, known.Print)
	}
	r.Again = true
	run := s.claim(s.node, r)
	s.want(s.node, r, idempotency.Running)
	s.wantErr(run.Lose(s.Context()), nil)
	run = s.claim(s.node, r)
	s.wantErr(run.Finish(s.Context(), small), nil)
	s.wantReply(s.node, r, small)
}

// forgets: a name that was not used is anybody's.
func forgets(s *suite) {
	r := s.request()
	s.wantErr(s.claim(s.node, r).Forget(s.Context()), nil)
	other := *r
	other.Print[0]++
	run := s.claim(s.node, &other)
	s.want(s.node, &other, idempotency.Running)
	s.wantErr(run.Finish(s.Context(), small), nil)
	s.wantReply(s.node, &other, small)
}

// expires: what is known is known for the TTL, and then no more.
func expires(s *suite) {
	const ttl = time.Second
	for _, end := range []func(idempotency.Run) error{
		func(run idempotency.Run) error { return run.Finish(s.Context(), small) },
		func(run idempotency.Run) error { return run.Lose(s.Context()) },
	} {
		r := s.request()
		r.TTL, r.Lease = ttl, ttl/4
		before := time.Now()
		run := s.claim(s.node, r)
		begun := time.Now()
		s.wantErr(end(run), nil)
		_, known := s.begin(s.node, r)
		if known.State == idempotency.New && time.Since(before) < ttl {
			s.Fatal("it is gone at once")
		}
		s.await(s.node, r, known.State, idempotency.New)
		if took := time.Since(before); took < ttl-2*time.Millisecond { // a clock of milliseconds
			s.Errorf("it was remembered for %v, want %v", took, ttl)
		}
		if took := time.Since(begun); took > ttl+patience/2 {
			s.Errorf("it was remembered for %v, want %v", took, ttl)
		}
	}
}

// maxEntry: a reply is kept up to a size, and beyond without its bytes.
func maxEntry(s *suite) {
	for _, test := range []struct {
		head, body, most int
		bare             bool
	}{{10, 90, 100, false}, {10, 91, 100, true}, {101, 0, 100, true}, {0, 0, 0, false}, {0, 1, 0, true}} {
		r := s.request()
		r.MaxEntry = test.most
		reply := idempotency.Reply{Status: 200, Head: make([]byte, test.head), Body: make([]byte, test.body)}
		s.wantErr(s.claim(s.node, r).Finish(s.Context(), reply), nil)
		if test.bare {
			reply = idempotency.Reply{Status: 200, Bare: true}
		}
		s.wantReply(s.node, r, reply)
	}
	r := s.request()
	s.wantErr(s.claim(s.node, r).Finish(s.Context(), idempotency.Reply{Status: 302, Head: small.Head, Body: small.Body, Bare: true}), nil)
	s.wantReply(s.node, r, idempotency.Reply{Status: 302, Bare: true})
}

// oneIsNew: of many that begin one name at once, on several nodes, one begins it; and
// one again after it was forgotten, and after it was lost.
func oneIsNew(s *suite) {
	const names, each = 8, 8
	nodes := []*Node{s.node}
	if s.Server != nil {
		nodes = append(nodes, s.Open(s), s.Open(s))
	}
	for range names {
		r := s.request()
		var run idempotency.Run
		round := func(state idempotency.State) {
			s.Helper()
			runs := make(chan idempotency.Run, len(nodes)*each)
			var wg sync.WaitGroup
			for _, node := range nodes {
				for range each {
					wg.Go(func() {
						mine, known, err := node.Begin(s.Context(), r)
						switch {
						case err != nil:
							s.Errorf("Begin: %v", err)
						case known.State == idempotency.New:
							runs <- mine
						case known.State != state || known.Print != r.Print:
							s.Errorf("state %d print %x, want %d %x", known.State, known.Print, state, r.Print)
						}
					})
				}
			}
			wg.Wait()
			if len(runs) != 1 {
				s.Fatalf("%d are New, want 1", len(runs))
			}
			run = <-runs
		}
		round(idempotency.Running)
		s.wantErr(run.Forget(s.Context()), nil)
		round(idempotency.Running)
		s.wantErr(run.Lose(s.Context()), nil)
		r.Again = true
		round(idempotency.Running)
		s.wantErr(run.Finish(s.Context(), small), nil)
		for _, node := range nodes {
			s.wantReply(node, r, small)
		}
	}
}

// claimsOutliveTheirTTL: what runs is not forgotten, however long.
func claimsOutliveTheirTTL(s *suite) {
	r := s.request()
	r.TTL = s.Lease / 5 // less than until it is renewed
	run := s.claim(s.node, r)
	for end := time.Now().Add(2 * s.Lease); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		s.want(s.node, r, idempotency.Running)
	}
	s.wantErr(run.Finish(s.Context(), small), nil)
}

// cancelled: a context that has ended is an error, and its own.
func cancelled(s *suite) {
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	r := s.request()
	run, _, err := s.node.Begin(ctx, r)
	if run != nil || !errors.Is(err, context.Canceled) {
		s.Fatalf("got %v %v", run, err)
	}
	s.claim(s.node, r)
}

// closed: with its node's end a claim is nobody's any more, and it is known at once.
func closed(s *suite) {
	r, done := s.request(), s.request()
	run := s.claim(s.node, r)
	s.wantErr(s.claim(s.node, done).Finish(s.Context(), small), nil)
	if err := s.node.Close(); err != nil {
		s.Fatalf("Close: %v", err)
	}
	s.wantErr(run.Finish(s.Context(), small), idempotency.ErrLost)
	s.wantErr(run.Lose(s.Context()), idempotency.ErrLost)
	s.wantErr(run.Forget(s.Context()), idempotency.ErrLost)
	if run, _, err := s.node.Begin(s.Context(), s.request()); run != nil || err == nil || errors.Is(err, idempotency.ErrFull) {
		s.Errorf("Begin after Close: %v %v", run, err)
	}
	if err := s.node.Close(); err != nil {
		s.Errorf("Close again: %v", err)
	}
	if s.Server == nil {
		return
	}
	other := s.Open(s)
	s.want(other, r, idempotency.Unknown)
	s.wantReply(other, done, small)
}

// manyClosed closes nodes that have claims and get more.
func manyClosed(s *suite) {
	const count, each = 4, 100
	var wg sync.WaitGroup
	for range count {
		wg.Go(func() {
			for range each {
				run, _, err := s.node.Begin(s.Context(), s.request())
				if err != nil {
					return // closed
				}
				if err := run.Finish(s.Context(), small); err != nil && !errors.Is(err, idempotency.ErrLost) {
					s.Errorf("Finish: %v", err)
				}
			}
		})
	}
	s.claim(s.node, s.request())
	if err := s.node.Close(); err != nil {
		s.Errorf("Close: %v", err)
	}
	wg.Wait()
}

// nodesShare: what one node does, another sees.
func nodesShare(s *suite) {
	other := s.Open(s)
	r := s.request()
	run := s.claim(s.node, r)
	s.want(other, r, idempotency.Running)
	s.wantErr(run.Forget(s.Context()), nil)
	run = s.claim(other, r)
	s.want(s.node, r, idempotency.Running)
	s.wantErr(run.Lose(s.Context()), nil)
	r.Again = true
	run = s.claim(s.node, r)
	s.want(other, r, idempotency.Running)
	s.wantErr(run.Finish(s.Context(), small), nil)
	s.wantReply(other, r, small)
}

// renewed: claims last as long as their node, of each lease.
func renewed(s *suite) {
	other := s.Open(s)
	var requests []*idempotency.Request
	for i := range 20 {
		r := s.request()
		r.Lease = s.Lease * time.Duration(1+i%3)
		requests = append(requests, r)
		s.claim(s.node, r)
	}
	for end := time.Now().Add(4 * s.Lease); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, r := range requests {
			s.want(other, r, idempotency.Running)
		}
	}
}

// crash: nobody hears of a node any more. Its claims are Running for the lease, and then
// Unknown; who may, claims them.
func crash(s *suite) {
	other := s.Open(s)
	r, half := s.request(), s.Lease/2
	s.claim(s.node, r)
	s.node.Cut()
	if took := s.await(other, r, idempotency.Running, idempotency.Unknown); took < half || took > s.Lease+patience/2 {
		s.Errorf("it was Running for %v after a crash, with a lease of %v", took, s.Lease)
	}
	s.want(other, r, idempotency.Unknown)
	r.Again = true
	run := s.claim(other, r)
	s.want(other, r, idempotency.Running)
	s.wantErr(run.Finish(s.Context(), small), nil)
	s.wantReply(other, r, small)
}

// lost: who comes again when another has the claim changes nothing of it.
func lost(s *suite) {
	other := s.Open(s)
	var requests []*idempotency.Request
	var runs []idempotency.Run
	for range 3 {
		r := s.request()
		requests, runs = append(requests, r), append(runs, s.claim(s.node, r))
	}
	s.node.Cut()
	for _, r := range requests {
		s.await(other, r, idempotency.Running, idempotency.Unknown)
		r.Again = true
		s.claim(other, r)
	}
	s.node.Mend()
	s.wantErr(s.until(func() error { return runs[0].Finish(s.Context(), small) }), idempotency.ErrLost)
	s.wantErr(runs[1].Lose(s.Context()), idempotency.ErrLost)
	s.wantErr(runs[2].Forget(s.Context()), idempotency.ErrLost)
	for _, r := range requests {
		s.want(other, r, idempotency.Running)
	}
}

// renewsItsOwn: a node that has lost a claim doesn't renew the one that took its place.
func renewsItsOwn(s *suite) {
	other, third := s.Open(s), s.Open(s)
	r := s.request()
	s.claim(s.node, r)
	s.node.Cut()
	s.await(other, r, idempotency.Running, idempotency.Unknown)
	with := *r
	with.Again = true
	s.claim(other, &with)
	s.node.Mend()
	other.Cut()
	s.await(third, r, idempotency.Running, idempotency.Unknown)
}

// madeGood: a node that was away for longer than its lease finishes what nobody else
// has begun.
func madeGood(s *suite) {
	other := s.Open(s)
	r := s.request()
	run := s.claim(s.node, r)
	s.node.Cut()
	s.await(other, r, idempotency.Running, idempotency.Unknown)
	s.node.Mend()
	s.await(other, r, idempotency.Unknown, idempotency.Running) // it is renewed
	s.wantErr(run.Finish(s.Context(), small), nil)
	s.wantReply(other, r, small)
}

// until calls f until it succeeds, or says ErrLost: connections that were cut are no
// errors for long.
func (s *suite) until(f func() error) error {
	s.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if err := f(); err == nil || errors.Is(err, idempotency.ErrLost) || time.Now().After(end) {
			return err
		}
	}
}

// lostReplies: the answer to each question is lost once, and the question is asked again.
func lostReplies(s *suite) {
	other := s.Open(s)
	for i, end := range []func(idempotency.Run) error{
		func(run idempotency.Run) error { return run.Finish(s.Context(), small) },
		func(run idempotency.Run) error { return run.Lose(s.Context()) },
		func(run idempotency.Run) error { return run.Forget(s.Context()) },
	} {
		r := s.request()
		// What connections need for their first question of a kind is not what is lost.
		s.wantErr(end(s.claim(s.node, s.request())), nil)
		s.node.LoseReply()
		run := s.claim(s.node, r)
		s.want(other, r, idempotency.Running)
		s.wantErr(end(s.claim(s.node, s.request())), nil)
		s.node.LoseReply()
		s.wantErr(end(run), nil)
		s.want(other, r, []idempotency.State{idempotency.Done, idempotency.Unknown, idempotency.New}[i])
	}
}

// connectionsAreCut: all of them, and the next call needs to know nothing of that.
func connectionsAreCut(s *suite) {
	for range 5 {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				if _, _, err := s.node.Begin(s.Context(), s.request()); err != nil {
					s.Errorf("Begin: %v", err)
				}
			})
		}
		wg.Wait()
		s.node.Mend()
		s.claim(s.node, s.request())
	}
}

// wantAway judges the error of a call while there is no server.
func (s *suite) wantAway(call string, begun time.Time, err error) {
	s.Helper()
	if err == nil || errors.Is(err, idempotency.ErrFull) || errors.Is(err, idempotency.ErrLost) {
		s.Errorf("%s: got %v", call, err)
	}
	if took := time.Since(begun); took > s.Timeout+2*time.Second {
		s.Errorf("%s took %v, with a timeout of %v", call, took, s.Timeout)
	}
}

// cutCallsAreBounded: calls whose answers don't come end in time, and what they may have
// claimed is given back.
func cutCallsAreBounded(s *suite) {
	other := s.Open(s)
	var runs []idempotency.Run
	for range 3 {
		runs = append(runs, s.claim(s.node, s.request()))
	}
	s.node.Cut()
	var wg sync.WaitGroup
	for i, call := range []func(context.Context) error{runs[0].Lose, runs[1].Forget,
		func(ctx context.Context) error { return runs[2].Finish(ctx, small) },
		func(ctx context.Context) error { _, _, err := s.node.Begin(ctx, s.request()); return err },
	} {
		wg.Go(func() { begun := time.Now(); s.wantAway(fmt.Sprint("call ", i), begun, call(s.Context())) })
	}
	r := s.request()
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.Context(), s.Timeout/4)
		defer cancel()
		begun := time.Now()
		_, _, err := s.node.Begin(ctx, r)
		if took := time.Since(begun); err == nil || took > s.Timeout/4+2*time.Second {
			s.Errorf("Begin with a deadline: %v after %v", err, took)
		}
	})
	wg.Wait()
	s.claim(other, r)
	begun := time.Now()
	err := s.node.Close()
	if took := time.Since(begun); took > 5*s.Timeout+3*time.Second {
		s.Errorf("Close: %v after %v", err, took)
	}
}

// away: while the server is gone nothing is known, and when it is back all is well.
func away(s *suite) {
	s.wantErr(s.claim(s.node, s.request()).Finish(s.Context(), small), nil)
	var runs []idempotency.Run
	for range 3 {
		runs = append(runs, s.claim(s.node, s.request()))
	}
	s.Server.Kill()
	begun := time.Now()
	run, _, err := s.node.Begin(s.Context(), s.request())
	s.wantAway("Begin", begun, err)
	if run != nil {
		s.Error("a Run with an error")
	}
	begun = time.Now()
	s.wantAway("Finish", begun, runs[0].Finish(s.Context(), small))
	begun = time.Now()
	s.wantAway("Lose", begun, runs[1].Lose(s.Context()))
	begun = time.Now()
	s.wantAway("Forget", begun, runs[2].Forget(s.Context()))
	s.Server.Start()
	r := s.request()
	s.wantErr(s.until(func() error {
		_, known, err := s.node.Begin(s.Context(), r)
		if err == nil && known.State != idempotency.New { // an attempt before has made the claim, and is being given back
			err = errors.New("not New")
		} else if err == nil {
			run = nil
		}
		return err
	}), nil)
}

// frozen: a server that stands still answers nobody. What it did when it went on, and
// nobody heard of, is undone.
func frozen(s *suite) {
	s.claim(s.node, s.request())
	other := s.Open(s)
	s.claim(other, s.request())
	s.Server.Freeze()
	r := s.request()
	r.Lease = 20 * s.Timeout
	begun := time.Now()
	_, _, err := s.node.Begin(s.Context(), r)
	s.wantAway("Begin", begun, err)
	s.Server.Thaw()
	s.wantErr(s.until(func() error {
		_, known, err := other.Begin(s.Context(), r)
		if err == nil && known.State == idempotency.Unknown {
			s.Fatal("what was never run is Unknown")
		}
		if err == nil && known.State != idempotency.New {
			err = fmt.Errorf("state %d", known.State)
		}
		return err
	}), nil)
}

// Bench runs the benchmarks of a store. It makes records as fast as it can, which don't
// last, where that can be.
func Bench(b *testing.B, store idempotency.Store) {
	const brief = 5 * time.Millisecond
	body := make([]byte, 1000)
	reply := idempotency.Reply{Status: 200, Head: small.Head, Body: body}
	request := func(ttl time.Duration) *idempotency.Request {
		r := &idempotency.Request{Key: []byte("lane"), Lease: time.Minute, TTL: ttl, MaxEntry: 1 << 10}
		rand.Read(r.ID[:]) //nolint:errcheck // it never fails
		return r
	}
	once := func(b *testing.B, r *idempotency.Request) {
		run, known, err := store.Begin(context.Background(), r)
		if err != nil || known.State != idempotency.New {
			b.Fatal(known.State, err)
		}
		if err := run.Finish(context.Background(), reply); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("BeginFinish", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			once(b, request(brief))
		}
	})
	b.Run("Replay", func(b *testing.B) {
		b.ReportAllocs()
		r := request(time.Hour)
		once(b, r)
		for b.Loop() {
			if _, known, err := store.Begin(context.Background(), r); err != nil || known.State != idempotency.Done {
				b.Fatal(known.State, err)
			}
		}
	})
	b.Run("BeginFinishParallel", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				once(b, request(brief))
			}
		})
	})
}
