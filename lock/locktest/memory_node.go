package locktest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"lanekeeper/lock"
)

// Node is a node's way to a Memory.
type Node struct {
	store       *Memory
	name        string
	ttl, margin time.Duration
	life        context.Context // ends with Close or Crash
	kill        context.CancelFunc
	wg          sync.WaitGroup // renewing, and each trip
	beginning   chan struct{}  // holds one element while nobody begins a session
	ended       chan struct{}  // closed when Close has done everything

	// Guarded by the store's mutex.
	random  *rand.Rand
	session *memorySession // nil: none
	closed  bool           // no session is begun any more
	over    bool           // no trip is
	away    bool
	frozen  bool
	way     *way          // nil: as the store says
	cut     chan struct{} // closed, and made anew, by Cut
	cutAt   int           // answers until Cut, in place of the last
}

// Open makes the coordinator of one node. Of a node that comes back under the name of
// an earlier one nobody knows that it is the same.
func (m *Memory) Open(name string, ttl, margin time.Duration) *Node {
	n := &Node{
		store: m, name: name, ttl: ttl, margin: margin,
		beginning: make(chan struct{}, 1), ended: make(chan struct{}), cut: make(chan struct{}),
	}
	n.beginning <- struct{}{}
	n.life, n.kill = context.WithCancel(context.Background())
	m.set(func() { n.random = split(m.random) })
	return n
}

// Away has this node not reach the store, or ends that. See Memory.Away.
func (n *Node) Away(away bool) { n.store.set(func() { n.away = away }) }

// Travel has each way take from least to most, for this node.
func (n *Node) Travel(least, most time.Duration) {
	n.store.set(func() { n.way = &way{least, most} })
}

// Freeze stops the node as SIGSTOP stops a process: nothing is renewed, and no call
// returns, not even since its ctx has ended, until Thaw or Crash. What it had sent
// arrives all the same, or when it goes on. ValidFor is to be asked all the time.
func (n *Node) Freeze() { n.store.set(func() { n.frozen = true }) }

// Thaw ends that.
func (n *Node) Thaw() { n.store.set(func() { n.frozen = false }) }

// Cut breaks the node's connections: what is on its way is lost, or the answer to it is.
func (n *Node) Cut() { n.store.set(n.cutLocked) }

// CutAt does that in place of the n-th answer from now on, once; 0: not any more.
func (n *Node) CutAt(answers int) { n.store.set(func() { n.cutAt = answers }) }

func (n *Node) cutLocked() {
	close(n.cut)
	n.cut = make(chan struct{})
}

// Crash ends the node without a word to the store, and returns when its last goroutine
// has ended. Its calls return lock.ErrClosed; its session is not told anything.
func (n *Node) Crash() {
	first := false
	n.store.set(func() { first, n.closed = !n.closed, true })
	n.stop()
	if first {
		close(n.ended)
	}
}

func (n *Node) stop() {
	n.store.set(func() {
		n.over = true
		n.kill()
		n.cutLocked()
	})
	n.wg.Wait()
}

// Begin implements lock.Coordinator.
func (n *Node) Begin(ctx context.Context) (lock.Session, error) {
	select {
	case <-n.beginning:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.life.Done():
		return nil, lock.ErrClosed
	}
	defer func() { n.beginning <- struct{}{} }()
	if s, closed := n.present(); closed {
		return nil, lock.ErrClosed
	} else if s != nil {
		return s, nil
	}
	s := &memorySession{node: n, ended: make(chan struct{})}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	if !n.enter(s) {
		return nil, lock.ErrClosed
	}
	return s, nil
}

func (n *Node) present() (s *memorySession, closed bool) {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	return n.session, n.closed
}

// enter has a session be the node's, and be renewed.
func (n *Node) enter(s *memorySession) bool {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	if n.closed {
		return false
	}
	n.session = s
	n.wg.Go(s.renewAll) // ends with the session, or life
	return true
}

// Close implements lock.Coordinator.
func (n *Node) Close(ctx context.Context) error {
	var s *memorySession
	first := false
	n.store.set(func() { first, n.closed, s = !n.closed, true, n.session })
	if !first {
		select {
		case <-n.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var err error
	if s != nil {
		err = s.End(ctx)
	}
	n.stop()
	close(n.ended)
	return err
}

// memorySession is a node's lease, and what can be done under it.
type memorySession struct {
	node  *Node
	id    string
	term  lock.Term
	ended chan struct{} // closed when the store does not have it any more, or is not to
	over  bool          // guarded by the store's mutex
}

func (s *memorySession) begin(ctx context.Context) error {
	n := s.node
	return n.insist(ctx, func(ctx context.Context) (err error) {
		sent := s.term.Now()
		s.id, err = once(ctx, n, func() (string, error) { return n.store.beginLocked(n.name, n.ttl), nil })
		if err == nil {
			s.term.Extend(sent, n.ttl-n.margin)
		}
		return err
	})
}

// renewAll goes on until the session ends, or life does.
func (s *memorySession) renewAll() {
	turn := time.NewTicker(s.node.ttl / 3)
	defer turn.Stop()
	for {
		select {
		case <-turn.C:
		case <-s.ended:
			return
		case <-s.node.life.Done():
			return
		}
		for !s.isOver() && !s.renew() {
			s.node.pause(s.node.life, retryLeast)
		}
	}
}

// renew reports false if the store did not answer, and it is worth asking again.
func (s *memorySession) renew() (answered bool) {
	n := s.node
	err := n.try(n.life, func(ctx context.Context) error {
		sent := s.term.Now()
		_, err := once(ctx, n, func() (struct{}, error) { return struct{}{}, n.store.renewLocked(s.id, n.ttl) })
		if err == nil {
			s.term.Extend(sent, n.ttl-n.margin)
		}
		return err
	})
	if errors.Is(err, errOver) {
		s.end()
	}
	return err == nil || errors.Is(err, lock.ErrLost) || errors.Is(err, lock.ErrClosed)
}

// end notes that the lease has ended.
func (s *memorySession) end() {
	s.node.store.mu.Lock()
	defer s.node.store.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	if s.node.session == s {
		s.node.session = nil
	}
	s.term.End()
	close(s.ended)
}

// End implements lock.Session.
func (s *memorySession) End(ctx context.Context) error {
	s.end()
	_, err := ask(ctx, s, func() (struct{}, error) {
		s.node.store.endLocked(s.id)
		return struct{}{}, nil
	})
	return err
}

func (s *memorySession) isOver() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// change is a question that may change records: none is asked after the lease's end.
func change[T any](ctx context.Context, s *memorySession, do func() (T, error)) (answer T, err error) {
	if s.isOver() {
		return answer, errOver
	}
	return ask(ctx, s, do)
}

// ID implements lock.Session.
func (s *memorySession) ID() string { return s.id }

// ValidFor implements lock.Session.
func (s *memorySession) ValidFor() time.Duration { return s.term.Left() }

// Done implements lock.Session.
func (s *memorySession) Done() <-chan struct{} { return s.ended }

// memoryTakeMax is how many takes are executed at once; a call that has more may come
// to be executed in part.
const memoryTakeMax = 256

// Take implements lock.Session.
func (s *memorySession) Take(ctx context.Context, takes []lock.Take) (taken []lock.Taken, err error) {
	for some := range slices.Chunk(slices.Clone(takes), memoryTakeMax) {
		results, err := change(ctx, s, func() ([]lock.Taken, error) { return s.node.store.takeLocked(s.id, some) })
		if err != nil {
			return nil, err
		}
		taken = append(taken, results...)
	}
	return taken, nil
}

// Draw implements lock.Session.
func (s *memorySession) Draw(ctx context.Context, partition int, tenure uint64) (uint64, error) {
	return change(ctx, s, func() (uint64, error) { return s.node.store.drawLocked(s.id, partition, tenure) })
}

// Drained implements lock.Session.
func (s *memorySession) Drained(ctx context.Context, drained []lock.Tenure) error {
	drained = slices.Clone(drained)
	_, err := change(ctx, s, func() (struct{}, error) { return struct{}{}, s.node.store.drainedLocked(s.id, drained) })
	return err
}

// Records implements lock.Session.
func (s *memorySession) Records(ctx context.Context) ([]lock.Record, error) {
	return ask(ctx, s, func() ([]lock.Record, error) { return s.node.store.readLocked(), nil })
}

// Ended implements lock.Session.
func (s *memorySession) Ended(ctx context.Context, id string) error {
	defer s.node.awaitThaw()
	for {
		end, err := ask(ctx, s, func() (<-chan struct{}, error) { return s.node.store.endedLocked(id), nil })
		if err != nil || end == nil {
			return err
		}
		select { // then it asks, so the news takes as long as an answer does, and is lost like one
		case <-end:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.node.life.Done():
			return lock.ErrClosed
		}
	}
}

var (
	_ lock.Coordinator = (*Node)(nil)
	_ lock.Session     = (*memorySession)(nil)
)
