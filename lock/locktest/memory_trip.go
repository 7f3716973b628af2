package locktest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"lanekeeper/lock"
)

// What a store answers that refuses, and what a node says whose question or answer got
// lost.
var (
	errOver  = fmt.Errorf("%w: the store has ended this node's lease", lock.ErrLost)
	errGrace = errors.New("the store has lost its data, and grants nothing for a while")
	errCut   = errors.New("the question was lost, or the answer")
)

// retryLeast is the first pause before a node asks again; each is twice the last one,
// up to a sixth of the TTL.
const retryLeast = 10 * time.Millisecond

// ask asks the store until it has answered, or ctx has ended. do is executed with the
// store's mutex held, perhaps more than once.
func ask[T any](ctx context.Context, s *memorySession, do func() (T, error)) (answer T, err error) {
	err = s.node.insist(ctx, func(ctx context.Context) (err error) {
		answer, err = once(ctx, s.node, do)
		return err
	})
	if errors.Is(err, errOver) {
		s.end()
	}
	return answer, err
}

// insist tries something until the store has answered, or ctx has ended.
func (n *Node) insist(ctx context.Context, do func(context.Context) error) error {
	defer n.awaitThaw()
	var last error // what came of it before ctx ended
	for pause := retryLeast; ; pause = min(2*pause, n.perTry()) {
		err := n.try(ctx, do)
		switch {
		case err == nil, errors.Is(err, lock.ErrLost), errors.Is(err, lock.ErrClosed):
			return err
		case ctx.Err() == nil:
			last = err
			n.pause(ctx, pause)
		}
		switch {
		case ctx.Err() == nil:
		case last != nil:
			return fmt.Errorf("%w: %w, after: %w", lock.ErrUnavailable, ctx.Err(), last)
		case n.isAway():
			return fmt.Errorf("%w: %w", lock.ErrUnavailable, ctx.Err())
		default:
			return ctx.Err()
		}
	}
}

// perTry bounds one question to the store.
func (n *Node) perTry() time.Duration { return n.ttl / 6 }

// try does something once, when the node is not frozen.
func (n *Node) try(ctx context.Context, do func(context.Context) error) error {
	n.awaitThaw()
	trying, cancel := context.WithTimeout(ctx, n.perTry())
	defer cancel()
	return do(trying)
}

// once sends one question to the store.
func once[T any](ctx context.Context, n *Node, do func() (T, error)) (answer T, err error) {
	type reply struct {
		answer T
		err    error
	}
	replies := make(chan reply, 1)
	if !n.depart(func(t *trip) {
		var r reply
		if !t.make(ctx, func() { r.answer, r.err = do() }) {
			r.err = errCut
		}
		replies <- r
	}) {
		return answer, lock.ErrClosed
	}
	var r reply
	select {
	case r = <-replies:
	case <-ctx.Done(): // the trip goes on
		r.err = ctx.Err()
	}
	n.awaitThaw()
	if n.life.Err() != nil { // a process that has ended makes nothing of an answer
		return answer, lock.ErrClosed
	}
	return r.answer, r.err
}

// trip is one question's way to the store, and the answer's way back.
type trip struct {
	node    *Node
	random  *rand.Rand    // of its own: other trips change nothing of what becomes of this one
	cut     chan struct{} // closed when its connection breaks
	reached bool          // the store could be, when the question was sent
}

// depart reports false if the node has ended.
func (n *Node) depart(run func(*trip)) bool {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	if n.over {
		return false
	}
	t := &trip{node: n, random: split(n.random), cut: n.cut, reached: !n.awayLocked()}
	n.wg.Go(func() { run(t) }) // ends when it has arrived, with Cut, or with the node
	return true
}

// split makes a random whose draws are its own.
func split(random *rand.Rand) *rand.Rand {
	return rand.New(rand.NewPCG(random.Uint64(), random.Uint64())) //nolint:gosec // chance, not secrets
}

// make has the question executed, with the store's mutex held, and reports false if it
// was lost, or the answer was. It goes on when ctx has ended and nobody waits for the
// answer any more: what was sent cannot be called back.
func (t *trip) make(ctx context.Context, execute func()) (answered bool) {
	m := t.node.store
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() {
		if !answered {
			m.counts.Lost++
		}
	}()
	if !t.goLocked() {
		if t.reached && t.chance() { // it was there already
			execute()
		}
		return false
	}
	if !t.arriveLocked(ctx) {
		return false
	}
	execute()
	if !t.goLocked() || t.node.cutNowLocked() {
		return false
	}
	return !t.node.awayLocked() || t.waitLocked(ctx)
}

// arriveLocked returns when the question is to be executed.
func (t *trip) arriveLocked(ctx context.Context) bool {
	n := t.node
	switch {
	case n.awayLocked() && (!t.reached || t.chance()):
		return t.waitLocked(ctx)
	case n.frozen && t.chance(): // it is still in the process
		return n.untilLocked(context.Background(), t.cut, func() bool { return !n.frozen && !n.awayLocked() }) && t.goLocked()
	}
	return true
}

// waitLocked returns when the store can be reached again: true if what was held up has
// arrived then, false if it was lost, which nobody knows before.
func (t *trip) waitLocked(ctx context.Context) bool {
	n := t.node
	back := func() bool { return !n.awayLocked() }
	if t.chance() {
		n.untilLocked(ctx, t.cut, back)
		return false
	}
	return n.untilLocked(context.Background(), t.cut, back) && t.goLocked()
}

func (t *trip) chance() bool { return t.random.IntN(2) == 0 }

// goLocked goes one way, and reports false if it is cut meanwhile. The mutex is free
// then.
func (t *trip) goLocked() bool {
	m := t.node.store
	w := m.way
	if t.node.way != nil {
		w = *t.node.way
	}
	timer := time.NewTimer(w.least + time.Duration(t.random.Int64N(max(int64(w.most-w.least), 0)+1)))
	m.mu.Unlock()
	defer m.mu.Lock()
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.cut:
		return false
	}
}

// cutNowLocked cuts all connections in place of the answer that CutAt meant.
func (n *Node) cutNowLocked() bool {
	if n.cutAt == 0 {
		return false
	}
	if n.cutAt--; n.cutAt > 0 {
		return false
	}
	n.cutLocked()
	return true
}

func (n *Node) awayLocked() bool { return n.away || n.store.away }

func (n *Node) isAway() bool {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	return n.awayLocked()
}

// untilLocked returns when something holds, or reports that it is cut, or that ctx has
// ended, before that. The mutex is free meanwhile.
func (n *Node) untilLocked(ctx context.Context, cut <-chan struct{}, holds func() bool) bool {
	for !holds() {
		changed := n.store.changed
		n.store.mu.Unlock()
		ended := false
		select {
		case <-changed:
		case <-cut:
			ended = true
		case <-ctx.Done():
			ended = true
		}
		n.store.mu.Lock()
		if ended {
			return false
		}
	}
	return true
}

// awaitThaw returns when the node is not frozen, or has ended.
func (n *Node) awaitThaw() {
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	n.untilLocked(n.life, nil, func() bool { return !n.frozen })
}

// pause returns when the time has passed, or the node or ctx has ended.
func (n *Node) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-n.life.Done():
	}
}
