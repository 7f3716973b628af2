package loadtest

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Tickets numbers what reaches a server, so that Check can judge it by that order: put the
// next one into the request's Lanekeeper-Ticket where the server has just read it. They
// are UUIDs of version 7 with a counter where others are random. The zero value is ready;
// one serves a process, or all of its processes would count as one.
type Tickets struct{ last atomic.Uint64 }

// Next is later than every ticket before it. It may be called concurrently.
func (t *Tickets) Next() string {
	now := uint64(time.Now().UnixMilli()) << 14 //nolint:gosec // after 1970
	for {
		last := t.last.Load()
		next := max(now, last+1)
		if t.last.CompareAndSwap(last, next) {
			millis := next >> 14
			return fmt.Sprintf("%08x-%04x-7%03x-%04x-000000000001", millis>>16, millis&0xffff, next>>2&0xfff, 0x8000|next&3<<12)
		}
	}
}
