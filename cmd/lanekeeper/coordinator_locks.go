package main

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"lanekeeper/lock"
	"lanekeeper/lock/redlock"
)

// newLocks are the locks of spilled keys in the coordinator's store, nil if no route
// wants them. Errors are as newCoordinator's.
func newLocks(config *Config, log *slog.Logger) (lock.Locker, error) {
	store, ok := config.Coordinator.store()
	if !ok || !config.spillsUnderLocks() {
		return nil, nil
	}
	settings, err := config.Coordinator.settings(store)
	if err != nil {
		return nil, err
	}
	ttl := time.Duration(config.Coordinator.LeaseTTL)
	return &lateLocker{timeout: ttl, patience: patienceOfTTLs * ttl, open: func(ctx context.Context) (lock.Locker, error) {
		l, err := settings.openLocks(ctx, log)
		if err != nil {
			return nil, settingError{store.path(), err}
		}
		return l, nil
	}}, nil
}

// spillsUnderLocks reports whether any route has hot.backend coordinator.
func (c *Config) spillsUnderLocks() bool {
	for _, r := range c.Routes {
		if r.Lane.Hot.underLocks() {
			return true
		}
	}
	return false
}

func (h HotConfig) underLocks() bool { return h.Action == "spill" && h.Backend == "coordinator" }

// openLocks opens the store as a Locker, with a session of its own. All stores are one,
// and redlock is no coordinator.
func (s *coordinatorSettings) openLocks(ctx context.Context, log *slog.Logger) (lock.Locker, error) {
	if s.kind != "redlock" {
		store, err := s.open(ctx, log)
		if err != nil {
			return nil, err
		}
		return store.(lock.Locker), nil
	}
	masters, err := redlock.Open(ctx, redlock.Config{
		Addresses: s.addresses, Username: s.access.Username, Password: s.password, DB: s.db, TLS: s.tls,
		Prefix: s.prefix, TTL: s.ttl, Margin: s.margin, Grace: s.grace, Log: log,
	})
	if err != nil {
		return nil, err // and not a nil pointer that is a Locker
	}
	return masters, nil
}

// lateLocker is a Locker whose store need not be there when the node starts: it is opened
// beside the first Acquire, and anew when none has succeeded for long.
type lateLocker struct {
	open     func(context.Context) (lock.Locker, error)
	timeout  time.Duration // of an opening
	patience time.Duration

	mu      sync.Mutex // guards the rest
	store   lock.Locker
	good    time.Time     // the last success, or opening
	opening chan struct{} // closed when an opening ends; nil: none is under way
	failed  error         // the last one
	cancel  context.CancelFunc
	closed  bool
}

// Acquire implements lock.Locker.
func (l *lateLocker) Acquire(ctx context.Context, name string) (lock.Lease, error) {
	store, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	lease, err := store.Acquire(ctx, name)
	if err == nil {
		l.mu.Lock()
		l.good = time.Now()
		l.mu.Unlock()
		return lease, nil
	}
	l.giveUp(store)
	return nil, err
}

// get returns the store, when it has been opened.
func (l *lateLocker) get(ctx context.Context) (lock.Locker, error) {
	l.mu.Lock()
	if l.store == nil && l.opening == nil && !l.closed {
		l.openLocked()
	}
	opening := l.opening
	l.mu.Unlock()
	if opening != nil {
		select {
		case <-opening:
		case <-ctx.Done():
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, lock.ErrClosed
	case l.store == nil:
		return nil, cmp.Or(l.failed, context.Cause(ctx), lock.ErrUnavailable)
	}
	return l.store, nil
}

func (l *lateLocker) openLocked() {
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	done := make(chan struct{})
	l.opening, l.cancel = done, cancel
	go func() { // ends with ctx, which Close ends
		defer cancel()
		store, err := l.open(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil {
			store = nil
		}
		l.store, l.failed, l.good, l.opening = store, err, time.Now(), nil
		close(done)
	}()
}

// giveUp closes a store that has not granted anything for long.
func (l *lateLocker) giveUp(store lock.Locker) {
	l.mu.Lock()
	given := !l.closed && l.store == store && time.Since(l.good) > l.patience
	if given {
		l.store = nil
	}
	l.mu.Unlock()
	if given {
		go func() { // ends with ctx
			ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
			defer cancel()
			store.Close(ctx) //nolint:errcheck // it is given up
		}()
	}
}

// Close implements lock.Locker.
func (l *lateLocker) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	opening := l.opening
	if opening != nil {
		l.cancel()
	}
	l.mu.Unlock()
	if opening != nil {
		<-opening
	}
	l.mu.Lock()
	store := l.store
	l.mu.Unlock()
	if store == nil {
		return nil
	}
	return store.Close(ctx)
}
