package main

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"
)

// late is a store that need not be there when the node starts: it is opened beside the
// first get, which may take longer than whoever wants it can wait, and again after an
// opening that failed, and after drop. T is an interface.
type late[T comparable] struct {
	open    func(context.Context) (T, error)
	timeout time.Duration // of an opening

	mu      sync.Mutex // guards the rest
	store   T          // the zero T while there is none
	opened  time.Time
	opening chan struct{} // closed when an opening ends; nil: none is under way
	failed  error         // the last one
	cancel  context.CancelFunc
	closed  bool
}

var errClosed = errors.New("the store has been closed")

// get returns the store, when it has been opened, or what is wrong, if that is known
// when ctx ends.
func (l *late[T]) get(ctx context.Context) (T, error) {
	var none T
	l.mu.Lock()
	if l.store == none && l.opening == nil && !l.closed {
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
		return none, errClosed
	case l.store == none:
		return none, cmp.Or(l.failed, context.Cause(ctx), errors.New("the store is being opened"))
	}
	return l.store, nil
}

func (l *late[T]) openLocked() {
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	done := make(chan struct{})
	l.opening, l.cancel = done, cancel
	go func() { // ends with ctx, which close ends
		defer cancel()
		store, err := l.open(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil {
			var none T
			store = none
		}
		l.store, l.failed, l.opened, l.opening = store, err, time.Now(), nil
		close(done)
	}()
}

// drop gives a store up, and reports whether it was still the one: it is then the
// caller's to close.
func (l *late[T]) drop(store T) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var none T
	if l.closed || l.store != store {
		return false
	}
	l.store = none
	return true
}

// close ends an opening that is under way, and returns the store, or the zero T, for the
// caller to close.
func (l *late[T]) close() T {
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
	defer l.mu.Unlock()
	return l.store
}
