// Package lock is the contract of locks that several nodes share, and an
// implementation for one process, [Local], which is what the others are measured
// by. Those that keep their locks in a store are in packages below this one; all
// pass the suite in locktest.
//
// A [Locker] grants each lock to one holder at a time, in the order in which it was
// asked for. Waiters are woken when it is their turn. What it grants is a [Lease]:
// the lock is its holder's as long as the lease is valid, and the holder can tell
// by its own clock, without asking anybody.
//
// # What that promises
//
// At most one lease of a name is valid at any moment, if no node's clock runs much
// faster than the store's, and if the store does not forget what it has granted.
// That is not yet exclusion: a holder that stands still between the look at its
// lease and what it does then, or whose request is long on its way, acts after its
// lease has ended. No lock can prevent that. A resource can: tokens rise from lease
// to lease, so whoever sees each of them with its request, and refuses those below
// the highest it has seen, is safe from late holders.
package lock

import (
	"context"
	"errors"
	"time"
)

// Locker grants locks by name. Its methods are safe for concurrent use.
type Locker interface {
	// Acquire queues for the lock of a name, which may be any bytes, and returns
	// when it is held. ctx bounds the wait alone, not what comes of it. Whoever gets
	// an error has left nothing behind: the place in the queue, or the lock, is given
	// up, if need be when the store can be reached again, at the latest when the
	// lease would have ended. The error is ctx's, ErrClosed, or wraps ErrUnavailable.
	//
	// A lock can be acquired twice by one Locker: the second call waits for the first
	// one's release.
	Acquire(ctx context.Context, name string) (Lease, error)

	// Close ends everything that waits with ErrClosed, releases what is held, as
	// far as ctx allows, and returns when the last goroutine has ended. It may be
	// called twice.
	Close(ctx context.Context) error
}

// Lease is a lock that is held. It is renewed until it is released or lost. Its
// methods are safe for concurrent use.
type Lease interface {
	// Token is higher than that of every lease of this name that was granted
	// before, by the same store, to whomever.
	Token() uint64

	// ValidFor is how long from now the lock is certainly still held, if not for
	// longer; 0 or less: not certainly, so nothing may be begun. It costs a look at
	// the clock, and is to be asked before each act that needs the lock.
	ValidFor() time.Duration

	// Done is closed when the lock has been released, or lost: the store has said
	// so, or could not be asked for so long that the lease has ended.
	Done() <-chan struct{}

	// Err is nil before Done is closed, then ErrReleased, or an error that wraps
	// ErrLost and says why.
	Err() error

	// Release gives the lock to whoever waits for it. It never frees another's: what
	// was lost stays with whom it is now. It may be called twice. ctx bounds what
	// Release waits for; the lock is given up all the same, as in Acquire.
	Release(ctx context.Context) error
}

// Errors of lockers and leases, to be recognised with errors.Is.
var (
	ErrClosed      = errors.New("lock: closed")
	ErrReleased    = errors.New("lock: released")
	ErrLost        = errors.New("lock: lost")
	ErrUnavailable = errors.New("lock: the store is unavailable")
)
