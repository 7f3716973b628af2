package main

import (
	"cmp"
	"context"
	"sync"
	"time"

	"lanekeeper/lock"
)

// lateCoordinator is a coordinator whose store need not be there when the node starts:
// it is opened beside the first Begin, which a node whose store is away does without.
type lateCoordinator struct {
	open    func(context.Context) (lock.Coordinator, error)
	timeout time.Duration // of an opening

	mu      sync.Mutex // guards the rest
	store   lock.Coordinator
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
	return store.Begin(ctx)
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
