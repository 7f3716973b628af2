package loadtest

import (
	"sync/atomic"
	"time"
)

// Clock gives monotonic nanoseconds since it was made. Readings are strictly
// rising over all goroutines: a call that begins after another returned gets
// the higher number, and no two get the same. So "this ended before that began"
// needs no tie-break, even where time stands still (testing/synctest).
type Clock struct {
	epoch time.Time
	last  atomic.Int64
}

// NewClock starts a clock. The first reading is above zero: zero means "never"
// in every record of this package.
func NewClock() *Clock { return &Clock{epoch: time.Now()} }

// Now reads the clock.
func (c *Clock) Now() int64 {
	now := int64(time.Since(c.epoch))
	for {
		last := c.last.Load()
		if now <= last {
			now = last + 1
		}
		if c.last.CompareAndSwap(last, now) {
			return now
		}
	}
}
