package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
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
	l := &lateLocker{patience: patienceOfTTLs * ttl}
	l.timeout, l.open = ttl, func(ctx context.Context) (lock.Locker, error) {
		l, err := settings.openLocks(ctx, log)
		if err != nil {
			return nil, settingError{store.path(), err}
		}
		return l, nil
	}
	return l, nil
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

// lateLocker is a Locker whose store need not be there when the node starts, and is
// opened anew when none of its locks has been had for long.
type lateLocker struct {
	late[lock.Locker]
	patience time.Duration
	good     atomic.Pointer[time.Time] // the last success
}

// Acquire implements lock.Locker.
func (l *lateLocker) Acquire(ctx context.Context, name string) (lock.Lease, error) {
	store, err := l.get(ctx)
	if err != nil {
		return nil, asLock(err)
	}
	lease, err := store.Acquire(ctx, name)
	if err == nil {
		now := time.Now()
		l.good.Store(&now)
		return lease, nil
	}
	if l.stale() && l.drop(store) {
		go func() { // ends with ctx
			ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
			defer cancel()
			store.Close(ctx) //nolint:errcheck // it is given up
		}()
	}
	return nil, err
}

// stale reports whether the store has not granted anything for long.
func (l *lateLocker) stale() bool {
	l.mu.Lock()
	good := l.opened
	l.mu.Unlock()
	if last := l.good.Load(); last != nil && last.After(good) {
		good = *last
	}
	return time.Since(good) > l.patience
}

// Close implements lock.Locker.
func (l *lateLocker) Close(ctx context.Context) error {
	if store := l.close(); store != nil {
		return store.Close(ctx)
	}
	return nil
}

// asLock is an error of get in the words of package lock.
func asLock(err error) error {
	if errors.Is(err, errClosed) {
		return lock.ErrClosed
	}
	return err
}
