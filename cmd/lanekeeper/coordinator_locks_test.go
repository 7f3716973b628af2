package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/lock"
)

// deadLocks are a store that grants nothing, as if it were away.
type deadLocks struct{ closed atomic.Bool }

func (d *deadLocks) Acquire(ctx context.Context, _ string) (lock.Lease, error) {
	<-ctx.Done()
	return nil, lock.ErrUnavailable
}

func (d *deadLocks) Close(context.Context) error {
	d.closed.Store(true)
	return nil
}

func acquireIn(l lock.Locker, d time.Duration) (lock.Lease, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return l.Acquire(ctx, "k")
}

// A store that is away when the node starts is opened later, and one that has granted
// nothing for long is opened anew.
//
// Mutants: a failed opening is the last one; its error is not told; a store is never
// given up, or at the first failure; what is given up is not closed.
func TestLateLocker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("nobody is there")
		dead, alive := new(deadLocks), lock.NewLocal().Open()
		opened := 0
		l := &lateLocker{patience: 10 * time.Second, late: late[lock.Locker]{timeout: time.Second, open: func(context.Context) (lock.Locker, error) {
			switch opened++; opened {
			case 1:
				return nil, away
			case 2:
				return dead, nil
			}
			return alive, nil
		}}}
		if _, err := acquireIn(l, time.Second); !errors.Is(err, away) {
			t.Errorf("while it is away: %v", err)
		}
		for began := time.Now(); time.Since(began) < 10*time.Second; {
			if _, err := acquireIn(l, time.Second); !errors.Is(err, lock.ErrUnavailable) {
				t.Errorf("while it grants nothing: %v", err)
			}
		}
		if opened != 2 || dead.closed.Load() {
			t.Errorf("opened %d times, closed %v", opened, dead.closed.Load())
		}
		acquireIn(l, time.Second) //nolint:errcheck // the last one
		synctest.Wait()
		if !dead.closed.Load() {
			t.Error("what is given up is not closed")
		}
		lease, err := acquireIn(l, time.Second)
		if err != nil || lease.ValidFor() <= 0 || opened != 3 {
			t.Errorf("opened anew %d times: %v", opened, err)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := acquireIn(l, time.Second); !errors.Is(err, lock.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// Close ends an opening, and what it opened all the same is closed.
//
// Mutants: Close does not wait for the opening; it does not end it.
func TestLateLockerIsClosedWhileItOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := new(deadLocks)
		l := &lateLocker{late: late[lock.Locker]{timeout: time.Hour, open: func(ctx context.Context) (lock.Locker, error) {
			<-ctx.Done()
			time.Sleep(time.Second)
			return slow, nil
		}}}
		go acquireIn(l, time.Minute) //nolint:errcheck // ends with Close
		synctest.Wait()
		began := time.Now()
		if err := l.Close(t.Context()); err != nil || time.Since(began) != time.Second {
			t.Errorf("closed after %v: %v", time.Since(began), err)
		}
		if !slow.closed.Load() {
			t.Error("what was opened is not closed")
		}
	})
}
