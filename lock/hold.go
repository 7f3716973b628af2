package lock

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Hold is the part of a [Lease] that is the same in every Locker: its token, its
// term, and its end. A lease embeds one. It is safe for concurrent use.
type Hold struct {
	token uint64
	term  *Term // may be that of several
	done  chan struct{}
	ended atomic.Bool

	mu    sync.Mutex // guards the rest
	err   error
	watch *time.Timer
}

// NewHold makes a hold that is valid as long as term, unless it ends before.
func NewHold(token uint64, term *Term) *Hold {
	return &Hold{token: token, term: term, done: make(chan struct{})}
}

// OnExpiry has f called, in a goroutine of its own, when the term is over and the
// hold has not ended. It is to be called once.
func (h *Hold) OnExpiry(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return
	}
	h.watch = time.AfterFunc(h.term.Left(), func() {
		if h.expired() {
			f()
		}
	})
}

// expired looks again later if the term has been extended since.
func (h *Hold) expired() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := h.term.Left()
	if left > 0 && h.err == nil {
		h.watch.Reset(left)
	}
	return left <= 0 && h.err == nil
}

// End ends the hold, for a reason that is ErrReleased or wraps ErrLost. It reports
// whether this call did.
func (h *Hold) End(reason error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return false
	}
	h.err = reason
	h.ended.Store(true)
	if h.watch != nil {
		h.watch.Stop()
	}
	close(h.done)
	return true
}

// Lose ends the hold without its holder's doing. It reports whether this call did.
func (h *Hold) Lose(why string) bool { return h.End(fmt.Errorf("%w: %s", ErrLost, why)) }

// Token implements Lease.
func (h *Hold) Token() uint64 { return h.token }

// ValidFor implements Lease.
func (h *Hold) ValidFor() time.Duration {
	if h.ended.Load() {
		return 0
	}
	return h.term.Left()
}

// Done implements Lease.
func (h *Hold) Done() <-chan struct{} { return h.done }

// Err implements Lease.
func (h *Hold) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}
