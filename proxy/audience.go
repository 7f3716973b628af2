package proxy

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// audience looks from time to time whether the client of a response that streams outside
// lanes is still there. Nothing else would tell while the upstream says nothing: an event
// stream would keep its service busy for a browser that has long left. One that has gone
// ends the reading from the upstream, as if that were late. As long as something comes,
// writing it will tell, and a client that has only ended its sending half gets all of it. A
// nil one looks at nothing.
type audience struct {
	client net.Conn
	timer  *time.Timer
	reads  atomic.Uint64 // of the upstream that have returned

	mu    sync.Mutex // guards the rest; what is set under it is not set after end
	wire  *wire      // nil: the response has ended
	after time.Duration
	seen  uint64 // reads at the last look
	gone  bool
}

func listenFor(client net.Conn, wire *wire) *audience {
	a := &audience{client: client, wire: wire, after: firstLook}
	a.timer = time.AfterFunc(a.after, a.look)
	return a
}

func (a *audience) look() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wire == nil {
		return
	}
	silent := a.seen == a.reads.Load()
	a.seen = a.reads.Load()
	if silent && hungUp(a.client) {
		a.gone = true
		a.wire.SetReadDeadline(past) //nolint:errcheck // a dead connection fails the read
		return
	}
	a.after = min(2*a.after, lastLook)
	a.timer.Reset(a.after)
}

// extend moves the deadline of the reading, unless the client has gone.
func (a *audience) extend(wire *wire, to time.Time) {
	if a == nil {
		wire.SetReadDeadline(to) //nolint:errcheck // a dead connection fails the read
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.gone {
		wire.SetReadDeadline(to) //nolint:errcheck // a dead connection fails the read
	}
}

// hears notes that something came.
func (a *audience) hears() {
	if a != nil {
		a.reads.Add(1)
	}
}

// end stops looking; the connection is then not touched any more.
func (a *audience) end() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wire = nil
	a.timer.Stop()
}
