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

// past is a deadline that is over.
var past = time.Unix(1, 0)

func listenFor(client net.Conn, wire *wire) *audience {
	l := &audience{client: client, wire: wire, after: firstLook}
	l.timer = time.AfterFunc(l.after, l.look)
	return l
}

func (l *audience) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire == nil {
		return
	}
	silent := l.seen == l.reads.Load()
	l.seen = l.reads.Load()
	if silent && hungUp(l.client) {
		l.gone = true
		l.wire.SetReadDeadline(past) //nolint:errcheck // a dead connection fails the read
		return
	}
	l.after = min(2*l.after, lastLook)
	l.timer.Reset(l.after)
}

// extend moves the deadline of the reading, unless the client has gone.
func (l *audience) extend(wire *wire, to time.Time) {
	if l == nil {
		wire.SetReadDeadline(to) //nolint:errcheck // a dead connection fails the read
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.gone {
		wire.SetReadDeadline(to) //nolint:errcheck // a dead connection fails the read
	}
}

// hears notes that something came.
func (l *audience) hears() {
	if l != nil {
		l.reads.Add(1)
	}
}

// end stops looking; the connection is then not touched any more.
func (l *audience) end() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wire = nil
	l.timer.Stop()
}
