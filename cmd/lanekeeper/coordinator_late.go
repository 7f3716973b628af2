package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"lanekeeper/lock"
)

// lateCoordinator is a coordinator whose store need not be there when the node starts:
// it is opened by the first Begin that can. A node whose store is away serves what it
// may without.
type lateCoordinator struct {
	open    func(context.Context) (lock.Coordinator, error)
	timeout time.Duration // of an opening

	mu     sync.Mutex // guards the rest; held while opening
	store  lock.Coordinator
	closed bool
}

// Begin implements lock.Coordinator. To open the store it takes longer than ctx if that
// runs out, but not if it is cancelled.
func (c *lateCoordinator) Begin(ctx context.Context) (lock.Session, error) {
	store, err := c.opened(ctx)
	if err != nil {
		return nil, err
	}
	return store.Begin(ctx)
}

func (c *lateCoordinator) opened(ctx context.Context) (lock.Coordinator, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, lock.ErrClosed
	}
	if c.store == nil {
		opening, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
		defer cancel()
		defer context.AfterFunc(ctx, func() {
			if errors.Is(ctx.Err(), context.Canceled) {
				cancel()
			}
		})()
		store, err := c.open(opening)
		if err != nil {
			return nil, err
		}
		c.store = store
	}
	return c.store, nil
}

// Close implements lock.Coordinator.
func (c *lateCoordinator) Close(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.store == nil {
		return nil
	}
	return c.store.Close(ctx)
}
