package proxy

import (
	"context"
	"time"

	"lanekeeper/lock"
	"lanekeeper/peer"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// turn is one that this node asks for, and then runs requests in: its size is for how
// many of those that wait.
type turn struct {
	spill  *spill
	route  *route // the key's, when it was asked for
	call   *peer.Call
	batch  int
	behind queue.Load
	asked  time.Time
	until  time.Time // it waits
	sent   lock.Sending
	term   lock.Term // of the loan; never begun for a turn in this node's own lane

	ticket  queue.Ticket // in this node's own lane
	refusal error
	turned  bool // it has come there

	lease   lock.Lease // of the key's lock; nil: the lane needs none
	loan    loan
	may     bool           // this node told that it helps
	extends []lock.Sending // the requests for more time

	size  int // guarded by spills.mu, as is the rest
	used  int
	began time.Time // zero: it is not open yet
	ends  time.Time
	over  bool
	done  chan struct{} // closed when it is

	extended chan note     // holds one
	returned chan struct{} // holds one when the owner knows that it is over
}

// lockless is for how long a key is not spilled whose lock could not be had.
const lockless = 5 * time.Second

// ask makes an ask, which then has to be sent.
func (k *spill) ask(size int) *turn {
	p, lane := k.of.proxy, &k.route.Lane
	t := &turn{
		spill: k, route: k.route, size: size, batch: max(lane.Batch, 1), asked: time.Now(),
		done: make(chan struct{}), extended: make(chan note, 1), returned: make(chan struct{}, 1),
	}
	t.until = t.asked.Add(lane.QueueTimeout)
	t.behind = queue.Load{Depth: max(k.news.Depth-1, 0), Bytes: k.news.Bytes}
	k.news = queue.Load{}
	wish := ask{batch: t.batch, behind: t.behind}
	r := peer.Request{
		Key: k.key, Route: k.route.Name, Class: queue.Exclusive, Turn: true, Strict: k.strict,
		MaxDepth: lane.MaxDepth, MaxBytes: lane.MaxBytes, MaxShared: lane.MaxShared,
		UpstreamTimeout: lane.UpstreamTimeout, Head: wish.append(nil),
	}
	if lane.AfterTimeout == Hold {
		r.HoldFor = lane.HoldFor
	}
	t.sent = t.term.Now()
	t.call = peer.NewCall(k.partition, t, &r, t.until)
	t.call.Turn, t.call.Ended = true, t.answered
	k.turns = append(k.turns, t)
	go t.keep(p.Config().Cluster) // ends with the ask, or the turn
	return t
}

// AdmitHere implements peer.Local: the lane is this node's own by now.
func (t *turn) AdmitHere(id queue.ID) bool {
	k, lane := t.spill, &t.route.Lane
	t.refusal = k.of.proxy.lanes.Admit(&t.ticket, &queue.Request{
		Key: k.key, Partition: k.partition, Class: queue.Exclusive, Bytes: len(k.key), ID: id, Tag: t.route.index, Behind: t.behind,
		MaxDepth: lane.MaxDepth, MaxBytes: lane.MaxBytes, MaxShared: lane.MaxShared, Hot: lane.Hot,
	})
	return t.refusal != queue.ErrSealed //nolint:errorlint // Admit returns it as it is
}

// answered is told of the owner's answer before anything else is read from there, or
// known of it: from here on this node says that it may run the key.
func (t *turn) answered(call *peer.Call) {
	if call.Here || call.Response.Problem != "" {
		return
	}
	var err error
	if t.loan, err = parseLoan(call.Response.Head); err == nil {
		t.may = t.spill.of.proxy.Config().Cluster.Help(t.spill.partition, t.spill.key, call.Owner)
	}
}

// keep follows a turn from its ask to its end.
func (t *turn) keep(cluster Cluster) {
	if !t.await(cluster) || !t.begin(cluster) {
		t.fail(cluster)
		return
	}
	t.keepUntil(t.done, cluster)
	t.spill.more(cluster)
	t.giveBack(cluster)
}

// await waits for the answer, and in this node's own lane for the turn, and reports
// whether it was lent.
func (t *turn) await(cluster Cluster) bool {
	if !t.call.Wait(t.until.Add(lastWord)) {
		cluster.Cancel(t.call)
		for !t.call.Wait(time.Now().Add(time.Minute)) { // the hop ends every call
		}
	}
	lent, hot := t.may, t.call.Response.Spills
	if t.call.Here {
		lent, hot = t.refusal == nil && t.awaitHere(), t.ticket.Hot && t.route.Lane.SpillLocks
	}
	if lent {
		s := t.spill.of
		s.mu.Lock()
		t.spill.said(hot)
		s.mu.Unlock()
	}
	return lent
}

func (t *turn) awaitHere() bool {
	for {
		err := t.ticket.Wait(t.until)
		if err == nil {
			t.turned = true
			return true
		}
		if err != queue.ErrNotYet || t.ticket.Leave() { //nolint:errorlint // Wait returns it as it is
			return false
		}
	}
}

// begin opens the turn for requests, as soon as no other one is open, and reports
// whether it did.
func (t *turn) begin(cluster Cluster) bool {
	k, s := t.spill, t.spill.of
	if !t.call.Here {
		t.term.Extend(t.sent, t.loan.validFor)
		s.mu.Lock()
		s.lent[t.call.Ticket] = t
		s.mu.Unlock()
	}
	for other := k.opens(); other != nil; other = k.opens() {
		t.keepUntil(other.done, cluster)
	}
	if t.route.Lane.SpillLocks && !t.lock() {
		return false
	}
	// An ask that has waited for long leaves little of its loan.
	if !t.call.Here && t.term.Left() < t.loan.validFor/2 && !t.extend(cluster) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.left() <= 0 || k.open != nil { // by now
		return false
	}
	t.began = time.Now()
	t.ends = t.began.Add(t.route.Lane.Quantum)
	k.open, k.failed = t, 0
	k.stir()
	s.proxy.metrics.acquired(t.backend(), true, time.Since(t.asked))
	t.look()
	return true
}

// look ends the turn if nothing runs in it and nothing more will. It needs mu.
func (t *turn) look() {
	k := t.spill
	if k.running > 0 || t.over || k.waiting > 0 && !t.spent() {
		return
	}
	t.over = true
	k.open = nil
	k.forget(t)
	if t.call.Here && t.route.Lane.SpillLocks && t.ticket.Hot || !t.call.Here && t.call.Response.Spills {
		k.until = time.Now().Add(spillFor) // what was in the way of newer word is over
	}
	k.of.proxy.metrics.batches.WithLabelValues(t.backend()).Observe(float64(t.used))
	close(t.done)
}

// spent reports whether no further request begins in the turn.
func (t *turn) spent() bool {
	return t.used >= t.size || !time.Now().Before(t.ends) || t.left() <= 0
}

// left is how long the turn certainly lasts, if it does not get more time.
func (t *turn) left() time.Duration {
	left := unbounded
	if !t.call.Here {
		left = t.term.Left()
	}
	if t.lease != nil {
		left = min(left, t.lease.ValidFor())
	}
	return left
}

// unbounded is longer than any turn: one in this node's own lane, without a lock, lasts
// until it is given up.
const unbounded = time.Duration(1<<63 - 1)

// backend is where the turn comes from, for metrics.
func (t *turn) backend() string {
	if t.route.Lane.SpillLocks {
		return t.spill.of.proxy.Config().Locks.Name
	}
	return backendOwner
}

// lock takes the key's lock. If it cannot be had the key is not spilled for a while: its
// requests go to the owner.
func (t *turn) lock() bool {
	k, locks := t.spill, &t.spill.of.proxy.Config().Locks
	ctx, cancel := context.WithTimeout(context.Background(), locks.Timeout)
	defer cancel()
	var err error
	if t.lease, err = locks.Acquire(ctx, string(k.key)); err == nil {
		return true
	}
	t.lease = nil
	k.of.mu.Lock()
	first := !time.Now().Before(k.unfit)
	k.unfit = time.Now().Add(lockless)
	k.of.mu.Unlock()
	if first {
		k.of.proxy.log.Warn("the lock of a spilled key cannot be had, and its requests go to its owner", "event", "lock-away", "route", t.route.Name, "error", err)
	}
	return false
}

// keepUntil has the turn last, as far as its owner lets it, until done is closed.
func (t *turn) keepUntil(done <-chan struct{}, cluster Cluster) {
	for {
		wait := time.NewTimer(t.nextLook())
		select {
		case <-done:
			wait.Stop()
			return
		case <-wait.C:
		}
		t.spill.of.mu.Lock()
		if t.spill.open == t {
			t.look()
		}
		t.spill.of.mu.Unlock()
		if !t.call.Here && t.term.Left() < t.loan.validFor*2/3 {
			t.extend(cluster)
		}
	}
}

func (t *turn) nextLook() time.Duration {
	next := loanTime / 3
	if !t.call.Here {
		next = min(next, max(t.loan.validFor/3, 10*time.Millisecond))
	}
	if left := time.Until(t.ends); left > 0 {
		next = min(next, left)
	}
	return next
}

// sayAgain is how long an answer to a note is waited for.
const sayAgain = 200 * time.Millisecond

// extend asks for more time, and reports whether there is some. Notes may be lost, so
// it asks until the turn's time is over; if it is over already, once.
func (t *turn) extend(cluster Cluster) bool {
	for {
		t.extends = append(t.extends, t.term.Now())
		number := uint32(len(t.extends) - 1) //nolint:gosec // a few for each second
		cluster.Note(t.call.Owner, (&note{kind: noteExtend, ticket: t.call.Ticket, number: number}).append(nil))
		wait := time.NewTimer(sayAgain)
		select {
		case n := <-t.extended:
			wait.Stop()
			if n.validFor <= 0 || int(n.number) >= len(t.extends) {
				t.term.End()
				return false
			}
			t.term.Extend(t.extends[n.number], n.validFor)
			return t.term.Left() > 0
		case <-t.done:
			wait.Stop()
			return true
		case <-wait.C:
		}
		if t.term.Left() <= 0 {
			return false
		}
	}
}

// giveBack tells the owner that the turn is over, until it knows.
func (t *turn) giveBack(cluster Cluster) {
	if t.lease != nil {
		ctx, cancel := context.WithTimeout(context.Background(), t.spill.of.proxy.Config().Locks.Timeout)
		t.lease.Release(ctx) //nolint:errcheck // it is given up all the same, and ends by itself at the latest
		cancel()
	}
	if t.call.Here {
		t.ticket.Done()
		return
	}
	s := t.spill.of
	if t.may {
		cluster.Helped(t.spill.partition, t.spill.key)
	}
	defer func() {
		s.mu.Lock()
		delete(s.lent, t.call.Ticket)
		s.mu.Unlock()
	}()
	for cluster.Lives(t.call.Owner) {
		cluster.Note(t.call.Owner, (&note{kind: noteReturn, ticket: t.call.Ticket}).append(nil))
		wait := time.NewTimer(sayAgain)
		select {
		case <-t.returned:
			wait.Stop()
			return
		case <-s.closed:
			wait.Stop()
			return
		case <-wait.C:
		}
	}
}

// Failed asks are repeated, at longer and longer intervals.
const (
	askLeast = 5 * time.Millisecond
	askMost  = 250 * time.Millisecond
)

// fail ends an ask that no turn came of. What it was for goes on waiting, for another, or
// goes onward if this node may not run it.
func (t *turn) fail(cluster Cluster) {
	k, s := t.spill, t.spill.of
	s.mu.Lock()
	pause := min(askLeast<<min(k.failed, 10), askMost)
	k.failed++
	k.pause = time.Now().Add(pause)
	k.forget(t)
	t.over = true
	if t.call.Here && t.refusal == nil && t.turned {
		defer t.giveBack(cluster)
	}
	lent := !t.call.Here && (t.call.Response.Problem == "" || t.call.Response.Executed == peer.Unknown)
	if lent {
		s.lent[t.call.Ticket] = t
	}
	if lent && t.call.Response.Problem == "" && !t.may {
		k.unfit = time.Now().Add(spillFor) // which may last: its owner runs what waits here meanwhile
	}
	s.mu.Unlock()
	s.proxy.metrics.acquired(t.backend(), false, time.Since(t.asked))
	if lent {
		// It may have been lent without this node's having heard of it.
		go t.giveBack(cluster) // ends with the owner's word, its end, or stop
	}
	wait := time.NewTimer(pause)
	defer wait.Stop()
	select {
	case <-wait.C:
		k.more(cluster)
	case <-s.closed:
	}
}

// ran ends a request's part in the turn.
func (t *turn) ran() {
	t.spill.of.mu.Lock()
	defer t.spill.of.mu.Unlock()
	t.spill.running--
	t.look()
}

// nextFence is the fence of the next exclusive request. Those are never more than the
// batch that was asked for, and one after the other.
func (t *turn) nextFence() uint64 {
	t.spill.of.mu.Lock()
	defer t.spill.of.mu.Unlock()
	fence := t.loan.fence
	t.loan.fence++
	return fence
}

// Noted takes what another node's proxy says of a turn: see peer.Config.Note.
func (p *Proxy) Noted(from ring.Member, payload []byte) {
	n, err := parseNote(payload)
	if err != nil {
		p.log.Error("a member's note makes no sense and is ignored", "member", from.String(), "error", err)
		return
	}
	answer := note{ticket: n.ticket, number: n.number}
	switch n.kind {
	case noteReturn:
		p.lender.returned(from, n.ticket)
		answer.kind = noteReturned
	case noteExtend:
		answer.kind, answer.validFor = noteExtended, p.lender.extend(from, n.ticket)
	case noteAsk:
		if p.spills.has(n.ticket) {
			return
		}
		answer.kind = noteReturn
	default:
		p.spills.noted(from, n)
		return
	}
	p.Config().Cluster.Note(from, answer.append(nil))
}

// has reports whether a turn may be in use here. One that was lent to this node, and
// that it has not heard of while it lasted, is not and will not be.
func (s *spills) has(ticket queue.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lent[ticket] != nil
}

func (s *spills) noted(from ring.Member, n note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.lent[n.ticket]
	if t == nil || t.call.Owner != from {
		return
	}
	switch n.kind {
	case noteReturned:
		delete(s.lent, n.ticket)
		select {
		case t.returned <- struct{}{}:
		default: // the owner has been asked twice
		}
	case noteExtended:
		select {
		case t.extended <- n:
		default: // one that nobody has read yet has to do
		}
	}
}
