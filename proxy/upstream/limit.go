package upstream

import (
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
)

// limiter counts the requests in flight against a bound. It has no queue: those who wait
// for a permit wait with all others.
type limiter struct {
	mode     LimitMode
	max      int
	used     int
	adaptive adaptivelimiter.AdaptiveLimiter[any]
}

// permit is nil unless the bound adapts.
type permit = adaptivelimiter.Permit

func newLimiter(l Limit) limiter {
	limit := limiter{mode: l.Mode, max: l.Max}
	if l.Mode == Adaptive {
		least, most := uint(max(l.Min, 1)), uint(max(l.Max, l.Min, 1)) //nolint:gosec // settings
		limit.adaptive = adaptivelimiter.NewBuilder[any]().
			WithLimits(least, most, min(max(least, firstLimit), most)).
			WithRecentWindow(looksEvery, 30*time.Second, 50).
			WithCorrelationWindow(remembers).
			Build()
	}
	return limit
}

// How an adaptive limit learns. More often than each second, as is the library's way, it
// follows a burst of a second; with a longer memory of what it did, fewer of its
// steps are for nothing. TestAdaptiveLimitKeepsAServiceUseful is what they were chosen by.
const (
	looksEvery = 250 * time.Millisecond
	remembers  = 100 // looks
)

// firstLimit is where an adaptive limit begins.
const firstLimit = 20

// take takes a permit if there is one.
func (l *limiter) take(p *permit) (ok bool) {
	switch {
	case l.mode == Adaptive:
		if *p, ok = l.adaptive.TryAcquirePermit(); !ok {
			return false
		}
	case l.full():
		return false
	}
	l.used++
	return true
}

// give gives one back. Only the time of a request that was measured says anything about
// the service.
func (l *limiter) give(p permit, measured bool) {
	l.used--
	switch {
	case p == nil:
	case measured:
		p.Record()
	default:
		p.Drop()
	}
}

func (l *limiter) full() bool { return l.mode != Unlimited && l.used >= l.now() }

// now is the bound at present; 0: there is none.
func (l *limiter) now() int {
	switch l.mode {
	case Fixed:
		return l.max
	case Adaptive:
		return l.adaptive.Limit()
	}
	return 0
}
