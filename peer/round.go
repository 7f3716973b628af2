package peer

import (
	"sync"
	"time"

	"lanekeeper/ring"
)

// round is how long a PING took to be answered, the last time that this can be said. PONGs
// carry no number, and a member may answer two PINGs by one: so a PING is timed only if none
// was written in the second before it, which is all but always.
type round struct {
	mu     sync.Mutex // guards the rest
	sent   time.Time  // of the PING that is timed; zero: none is
	spoilt bool       // another one was written lately
	took   time.Duration
}

// spoil notes that a PING was written out of turn.
func (r *round) spoil() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spoilt = true
}

// ping notes that the one of each second is written.
func (r *round) ping(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent = now; r.spoilt {
		r.sent = time.Time{}
	}
	r.spoilt = false
}

// pong notes that there is an answer, to the one that is timed at least.
func (r *round) pong(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.sent.IsZero() {
		r.took, r.sent = now.Sub(r.sent), time.Time{}
	}
}

// lost notes that the connection is.
func (r *round) lost() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent, r.spoilt, r.took = time.Time{}, false, 0
}

// RTT is how long a member took to answer, a second ago or so; 0 if that is not known. It has
// waited behind what else there was to write and to read, as a request has.
func (h *Hop) RTT(m ring.Member) time.Duration {
	s := h.stripes[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.outbox.links[m]
	if l == nil {
		return 0
	}
	r := &l.wire.round
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.took
}
