package lock

import (
	"sync/atomic"
	"time"
)

// Term is how long a lease is valid, as far as its holder can know: it is counted
// from before the request that the store granted or renewed it by was sent, for
// when the store did that nobody here knows. The zero Term has ended. It is safe
// for concurrent use.
//
// Elapsed time is the longer one of what the monotonic clock and the wall clock
// say. The former stands still while the machine sleeps, which the store does not;
// the latter may be set back. If it is set forward the lease ends early, which costs
// a lease and no promise.
type Term struct {
	span  atomic.Pointer[span]
	clock func() instant // nil: this machine's; for tests
}

type span struct {
	sent   instant
	length time.Duration
}

// instant is one reading of both clocks, each from a beginning of its own.
type instant struct{ monotonic, wall time.Duration }

var began = time.Now()

func readClock() instant {
	now := time.Now()
	return instant{monotonic: now.Sub(began), wall: time.Duration(now.UnixNano())}
}

// Sending is a moment before a request was sent.
type Sending struct{ at instant }

// Now is to be called before a request is sent that may grant or renew the lease.
func (t *Term) Now() Sending { return Sending{t.read()} }

// Extend notes that the request which was sent then has been granted: the lease
// lasts for length since, or longer if that is known already. It does nothing
// after End: the answer to a renewal may come when the lock is another's.
func (t *Term) Extend(sent Sending, length time.Duration) {
	next := &span{sent.at, length}
	for {
		last := t.span.Load()
		if last == over || last != nil && last.left(sent.at) > length || t.span.CompareAndSwap(last, next) {
			return
		}
	}
}

// End ends the term, for good.
func (t *Term) End() { t.span.Store(over) }

// over is the span of a term that was ended.
var over = new(span)

// Left is how much of the term is left, at most 0 if it has ended.
func (t *Term) Left() time.Duration {
	s := t.span.Load()
	if s == nil || s == over {
		return 0
	}
	return s.left(t.read())
}

func (t *Term) read() instant {
	if t.clock != nil {
		return t.clock()
	}
	return readClock()
}

func (s *span) left(at instant) time.Duration {
	return s.length - max(at.monotonic-s.sent.monotonic, at.wall-s.sent.wall)
}
