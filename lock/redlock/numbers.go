package redlock

import (
	"fmt"
	"sync"
	"time"

	"lanekeeper/lock"
)

// numbers are where a node has its tickets and tokens from: each is its clock's
// microseconds, or one more than the highest number that it has seen, whichever is
// more (hybrid time). So a clock that is behind costs its node nothing for long, and
// one that is ahead takes the others with it.
type numbers struct {
	clock func() time.Time

	mu   sync.Mutex // guards seen
	seen uint64
}

// numbersEnd is where the masters' scripts would begin to round; the clock reaches it
// in the year 2255.
const numbersEnd = 1 << 53

func (n *numbers) next() (uint64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := max(uint64(max(n.clock().UnixMicro(), 0)), n.seen+1)
	if next >= numbersEnd {
		return 0, fmt.Errorf("%w: the clock of this node, or of one before it, was set beyond the year 2255: number %d", lock.ErrUnavailable, next)
	}
	n.seen = next
	return next, nil
}

func (n *numbers) see(number uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = max(n.seen, number)
}
