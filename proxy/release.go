package proxy

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lanekeeper/queue"
)

// holds are the turns that are held after an upstream did not answer in time, so that an operator
// can see when they end, and end them.
type holds struct {
	mu  sync.Mutex // guards all
	all map[queue.ID][]*holding
}

// holding is one goroutine that keeps a turn.
type holding struct {
	until    time.Time
	wire     interface{ SetDeadline(time.Time) error }
	released atomic.Bool
}

// enter notes a holding until it leaves.
func (h *holds) enter(ticket queue.ID, one *holding) (leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all[ticket] = append(h.all[ticket], one)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		left := slices.DeleteFunc(h.all[ticket], func(o *holding) bool { return o == one })
		if h.all[ticket] = left; len(left) == 0 {
			delete(h.all, ticket)
		}
	}
}

// HeldUntil is when the turn of a ticket ends by itself that is held after an upstream
// timeout, and whether it is held.
func (p *Proxy) HeldUntil(ticket queue.ID) (until time.Time, held bool) {
	p.holds.mu.Lock()
	defer p.holds.mu.Unlock()
	for _, one := range p.holds.all[ticket] {
		if one.until.After(until) {
			until = one.until
		}
	}
	return until, len(p.holds.all[ticket]) > 0
}

// ReleaseHeld ends the hold of a ticket's turn now, as hold_for would later, and reports whether
// there was one. Its upstream may still be at work: it is counted like the end of hold_for.
func (p *Proxy) ReleaseHeld(ticket queue.ID) bool {
	p.holds.mu.Lock()
	defer p.holds.mu.Unlock()
	for _, one := range p.holds.all[ticket] {
		one.released.Store(true)
		one.wire.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // a dead connection has ended the hold
	}
	return len(p.holds.all[ticket]) > 0
}
