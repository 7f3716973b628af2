package proxy

import (
	"sync"
	"sync/atomic"
)

// turns are the goroutines in which forwarded requests have their turns. One
// that is done waits for the next request: the stack of a new one has to grow
// first, which is a tenth of what the owner spends on a small request.
type turns struct {
	next chan *call
	idle atomic.Int32
	quit chan struct{}
	once sync.Once // for quit
}

// idleTurnsMax bounds the goroutines that wait, each with some KiB of stack.
const idleTurnsMax = 256

func newTurns() *turns { return &turns{next: make(chan *call), quit: make(chan struct{})} }

// begin has c run, and does not block.
func (t *turns) begin(c *call) {
	select {
	case t.next <- c:
	default:
		go t.run(c) // its request ends with its answer, for which Stop of the hop waits; then see stop
	}
}

func (t *turns) run(c *call) {
	for c != nil {
		c.runForwarded()
		c = t.wait()
	}
}

// wait returns the next request, or nil if none is to be waited for.
func (t *turns) wait() (c *call) {
	if t.idle.Add(1) <= idleTurnsMax {
		select {
		case c = <-t.next:
		case <-t.quit:
		}
	}
	t.idle.Add(-1)
	return c
}

// stop ends those that wait, and those that run with their request. It may be
// called twice.
func (t *turns) stop() { t.once.Do(func() { close(t.quit) }) }
