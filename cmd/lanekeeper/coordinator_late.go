package main

import (
	"cmp"
	"context"
	"sync"
	"time"

	"lanekeeper/lock"
)

// lateCoordinator is a coordinator whose store need not be there when the node starts:
// it is opened beside the first Begin, which a node whose store is away does without. And
// it is opened anew when its session has not been valid for long: a ZooKeeper that lost
// its data takes no client back that has seen more than it has.
type lateCoordinator struct {
	open    func(context.Context) (lock.Coordinator, error)
	timeout time.Duration // of an opening
	ttl     time.Duration // of leases

	mu      sync.Mutex // guards the rest
	store   lock.Coordinator
	session *keptSession
	opening chan struct{} // closed when an opening ends; nil: none is under way
	failed  error         // the last one
	cancel  context.CancelFunc
	closed  bool
}

// Begin implements lock.Coordinator.
func (c *lateCoordinator) Begin(ctx context.Context) (lock.Session, error) {
	c.mu.Lock()
	if c.store == nil && c.opening == nil && !c.closed {
		c.openLocked()
	}
	opening := c.opening
	c.mu.Unlock()
	if opening != nil {
		select {
		case <-opening:
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			return nil, cmp.Or(c.failed, ctx.Err()) // what is wrong, if that is known
		}
	}
	c.mu.Lock()
	store, failed, closed := c.store, c.failed, c.closed
	c.mu.Unlock()
	switch {
	case closed:
		return nil, lock.ErrClosed
	case store == nil:
		return nil, failed
	}
	s, err := store.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return c.keep(store, s), nil
}

// keptSession is a session that ends, here, also when it is given up.
type keptSession struct {
	lock.Session
	ended chan struct{}
}

// Done implements lock.Session.
func (s *keptSession) Done() <-chan struct{} { return s.ended }

// keep watches over a new session.
func (c *lateCoordinator) keep(store lock.Coordinator, s lock.Session) lock.Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil && c.session.Session == s {
		return c.session
	}
	c.session = &keptSession{s, make(chan struct{})}
	go c.watch(store, c.session) // ends with the session, which Close ends
	return c.session
}

// patienceOfTTLs is for how many TTLs a session may be invalid, and not be known to have
// ended, before its store is opened anew. Its lease has ended long before.
const patienceOfTTLs = 2

func (c *lateCoordinator) watch(store lock.Coordinator, s *keptSession) {
	defer close(s.ended)
	tick := time.NewTicker(c.ttl / 4)
	defer tick.Stop()
	for valid := time.Now(); time.Since(valid) < patienceOfTTLs*c.ttl; {
		select {
		case <-s.Session.Done():
			return
		case <-tick.C:
		}
		if s.ValidFor() > 0 {
			valid = time.Now()
		}
	}
	c.mu.Lock()
	given := !c.closed && c.store == store
	if given {
		c.store = nil
	}
	c.mu.Unlock()
	if given {
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		store.Close(ctx) //nolint:errcheck // it is given up
	}
}

// openLocked opens the store, which may take longer than whoever wants it can wait.
func (c *lateCoordinator) openLocked() {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	done := make(chan struct{})
	c.opening, c.cancel = done, cancel
	go func() { // ends with ctx, which Close ends
		defer cancel()
		store, err := c.open(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			store = nil
		}
		c.store, c.failed, c.opening = store, err, nil
		close(done)
	}()
}

// Close implements lock.Coordinator.
func (c *lateCoordinator) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	opening := c.opening
	if opening != nil {
		c.cancel()
	}
	c.mu.Unlock()
	if opening != nil {
		<-opening
	}
	c.mu.Lock()
	store := c.store
	c.mu.Unlock()
	if store == nil {
		return nil
	}
	return store.Close(ctx)
}
