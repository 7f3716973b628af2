package main

import (
	"context"
	"sync"
	"time"

	"lanekeeper/lock"
)

// lateCoordinator is a coordinator whose store need not be there when the node starts,
// and is opened anew when its session has not been valid for long: a ZooKeeper that lost
// its data takes no client back that has seen more than it has.
type lateCoordinator struct {
	late[lock.Coordinator]
	ttl time.Duration // of leases

	keeping sync.Mutex // guards session
	session *keptSession
}

// Begin implements lock.Coordinator.
func (c *lateCoordinator) Begin(ctx context.Context) (lock.Session, error) {
	store, err := c.get(ctx)
	if err != nil {
		return nil, asLock(err)
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
	c.keeping.Lock()
	defer c.keeping.Unlock()
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
	if c.drop(store) {
		ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		store.Close(ctx) //nolint:errcheck // it is given up
	}
}

// Close implements lock.Coordinator.
func (c *lateCoordinator) Close(ctx context.Context) error {
	if store := c.close(); store != nil {
		return store.Close(ctx)
	}
	return nil
}
