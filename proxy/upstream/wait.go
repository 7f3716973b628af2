package upstream

import (
	"container/list"
	"time"
)

// waiter is a request that waits for a place.
type waiter struct {
	lease   *Lease
	hash    uint32
	hashed  bool
	place   *list.Element
	ready   chan struct{} // closed when it has a place, or err
	err     error
	target  *Target // that its key has
	version uint64  // of Upstream, at which that was so
}

// enter takes a place in the upstream, or waits for one.
func (u *Upstream) enter(l *Lease, r *Request) error {
	w := waiter{lease: l}
	if w.hashed = u.Balance == KeyHash && len(r.Key) > 0; w.hashed { // requests outside lanes have none
		w.hash = hashKey(r.Key)
	}
	*l = Lease{upstream: u, measured: r.Measured}
	u.mu.Lock()
	done := u.try(&w)
	switch {
	case done:
		u.mu.Unlock()
		return w.err
	case u.waiting.Len() >= u.Queue:
		u.mu.Unlock()
		return ErrQueueFull
	}
	waits := w // w itself stays on the stack of who need not wait
	waits.ready = make(chan struct{})
	waits.place = u.waiting.PushBack(&waits)
	u.mu.Unlock()
	return u.wait(&waits, r.Until)
}

func (u *Upstream) wait(w *waiter, until time.Time) error {
	began := time.Now()
	timer := time.NewTimer(until.Sub(began))
	defer timer.Stop()
	select {
	case <-w.ready:
	case <-timer.C:
		u.mu.Lock()
		if w.place != nil { // else its place came in the same moment
			u.leave(w, ErrWaited)
		}
		u.mu.Unlock()
	}
	w.lease.Waited = time.Since(began)
	return w.err
}

// admit lets in whoever can be let in, from the front. The caller holds u.mu, as of
// all that follows.
func (u *Upstream) admit() {
	for e := u.waiting.Front(); e != nil; {
		w := e.Value.(*waiter)
		e = e.Next()
		if u.try(w) {
			u.leave(w, w.err)
		} else if !w.hashed || u.limit.full() {
			return // nobody else can be let in either
		}
	}
}

// leave takes w out of the queue.
func (u *Upstream) leave(w *waiter, err error) {
	u.waiting.Remove(w.place)
	w.place, w.err = nil, err
	close(w.ready)
}

// try gives w a target and a permit, or an error, unless it has to wait.
func (u *Upstream) try(w *waiter) (done bool) {
	t, some := u.choose(w)
	switch {
	case !some && (u.unknown == 0 || u.closed):
		w.err = ErrNone
		return true
	case t == nil, !u.limit.take(&w.lease.permit):
		return false
	}
	l := w.lease
	l.Target, l.probes = t, t.circuit.enter()
	t.pending++
	l.Conn = t.pop()
	return true
}
