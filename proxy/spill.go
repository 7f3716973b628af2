package proxy

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lanekeeper/lock"
	"lanekeeper/peer"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// spills are the keys of other nodes whose requests wait here, with their bodies, for
// turns that their owners lend. They wait in a lane of their own, which keeps their
// order; the head of it looks for a turn.
//
// What keeps the order of a key at this node, whatever it does at any moment:
//
//   - A request gets its ticket, and an ask that is needed for it enters, under the
//     hop's lock (Aside), where every other request gets its place as well.
//   - As long as a request of the key waits here, all later ones wait behind it, and
//     one at a time begins.
//   - What is asked for serves only what came before the next request that is sent
//     to the owner (bar): that one stands behind the asks of before.
//   - When the key is not spilled any more, those that no turn is asked for are sent
//     to the owner one after the other, from the first, with the tickets that they
//     have (onward).
//
// No message has to be believed for that. The owner's word that a key is spilled is a
// hint, where requests had better wait.
type spills struct {
	proxy *Proxy
	some  atomic.Int32 // len(keys)

	mu       sync.Mutex // guards the rest, and what is in the keys and their turns
	keys     map[string]*spill
	lent     map[queue.ID]*turn // by others, until it is known there that they are over
	closed   chan struct{}      // by stop
	retiring bool               // newcomers wait here only behind others
	ended    bool
}

// spill is one such key.
type spill struct {
	of        *spills
	key       []byte
	partition int
	route     *route // of the newest exclusive request
	strict    bool   // the route of some request is

	hot     bool          // by its owner's last word
	until   time.Time     // that holds, if nothing is asked for
	unfit   time.Time     // until then newcomers do not wait here: no lock could be had, or this node may not run the key
	lapses  *time.Timer   // looks whether that is over
	waiting int           // requests that have not begun
	running int           // those that have: one, or none
	runs    queue.ID      // the ticket of the last one
	news    queue.Load    // that came since the last ask
	turns   []*turn       // asked for, oldest first; the one that is open among them
	open    *turn         // that requests run in; nil: none
	opened  chan struct{} // closed when there is one
	failed  int           // asks in a row
	pause   time.Time     // nothing is asked for before
}

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

// spillFor is how long the owner's word lasts that a key is hot.
const spillFor = 2 * time.Second

func newSpills(p *Proxy) *spills {
	return &spills{proxy: p, keys: make(map[string]*spill), lent: make(map[queue.ID]*turn), closed: make(chan struct{})}
}

// hint notes that the owner of c's key lends turns of it.
func (s *spills) hint(c *call) {
	if s.note(c) {
		s.proxy.log.Info("requests of another node's hot key wait here", "event", "key-spilled", "route", c.route.Name, s.proxy.config.LogKeys.Attr(c.key))
	}
}

// note reports whether the key is one from now on.
func (s *spills) note(c *call) (began bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[string(c.key)]
	if k == nil {
		if s.retiring || s.ended {
			return false
		}
		began = true
		k = &spill{of: s, key: append([]byte(nil), c.key...), partition: c.place.Partition, route: c.route, opened: make(chan struct{})}
		s.keys[string(k.key)] = k
		s.some.Add(1)
		k.lapses = time.AfterFunc(spillFor, k.lapse)
	}
	k.said(true)
	return began
}

// said takes the owner's word whether the key is hot.
func (k *spill) said(hot bool) {
	if k.hot = hot; hot {
		k.until = time.Now().Add(spillFor)
	}
}

// lapse forgets the key when it is no longer spilled, and nothing of it is left.
func (k *spill) lapse() {
	p := k.of.proxy
	if k.forgotten() { // and so nobody changes it any more
		p.log.Info("no request of another node's hot key waits here any more", "event", "key-spilled-ended", "route", k.route.Name, p.config.LogKeys.Attr(k.key))
	}
}

func (k *spill) forgotten() bool {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	switch {
	case k.of.ended:
		return false
	case k.waiting+k.running+len(k.turns) > 0 || time.Now().Before(k.until):
		k.lapses.Reset(spillFor)
		return false
	}
	delete(k.of.keys, string(k.key))
	k.of.some.Add(-1)
	return true
}

// Aside takes the place of a request that is to wait here for a turn that is lent: see
// peer.Config.Aside.
func (p *Proxy) Aside(local peer.Local) (aside bool, ask *peer.Call) {
	if p.spills.some.Load() == 0 {
		return false, nil
	}
	c, ok := local.(*call)
	if !ok {
		return false, nil
	}
	return p.spills.admit(c)
}

func (s *spills) admit(c *call) (aside bool, ask *peer.Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[string(c.key)]
	if k == nil {
		return false, nil
	}
	if c.aside != nil || s.ended || !k.takes(c) {
		k.bar()
		return false, nil
	}
	place := c.place
	place.ID = queue.ID{}                                             // one may have been drawn when the lane was thought to be here
	place.Partition, place.Hot, place.ShedDepth = queue.Aside, nil, 0 // whether it is hot is its owner's to say
	place.Class = queue.Exclusive                                     // so that they look for turns in their order
	ticket := new(queue.Ticket)                                       // not c's own, which it may need for the lane itself
	c.ticket, c.aside = ticket, k
	if c.refusal = s.proxy.lanes.Admit(ticket, &place); c.refusal != nil {
		return true, nil
	}
	c.aside, k.strict = k, k.strict || c.lane.Strict
	if c.mode == exclusive { // those of a key's routes agree on what a turn is
		k.route = c.route
	}
	k.waiting++
	k.news.Depth, k.news.Bytes = k.news.Depth+1, k.news.Bytes+c.place.Bytes
	if t := k.cover(); t != nil {
		return true, t.call
	}
	return true, nil
}

// takes reports whether c waits here. Whoever comes while others wait stands behind
// them; otherwise shared requests are better off at the owner, beside each other. One
// that is made in the turn of the one that runs here is refused here: only here its
// ticket is known.
func (k *spill) takes(c *call) bool {
	return k.waiting > 0 || c.mode == exclusive && c.lane.Spill && k.spilled() || k.running > 0 && c.place.Holder == k.runs
}

// spilled reports whether newcomers wait here. The owner's next word comes with a turn, as
// late as that may be.
func (k *spill) spilled() bool {
	now := time.Now()
	return !k.of.retiring && !now.Before(k.unfit) && (now.Before(k.until) || k.hot && len(k.turns) > 0)
}

// goesOnward reports whether what waits here has no turn to wait for, and will have none.
func (k *spill) goesOnward() bool {
	if k.spilled() || k.of.ended {
		return false
	}
	return k.of.retiring || time.Now().Before(k.unfit) || !slices.ContainsFunc(k.turns, func(t *turn) bool { return t.used < t.size })
}

// stir has whoever looks for a turn look again.
func (k *spill) stir() {
	close(k.opened)
	k.opened = make(chan struct{})
}

// bar has no further request begin in the turns that have been asked for: one is about
// to be sent to the owner, where it stands behind them.
func (k *spill) bar() {
	for _, t := range k.turns {
		t.size = t.used
	}
	if k.open != nil {
		k.open.look()
	}
}

// cover returns a turn to be asked for, if more requests wait than the others are for.
func (k *spill) cover() *turn {
	lack := k.waiting
	for _, t := range k.turns {
		lack -= t.size - t.used
	}
	lane := &k.route.Lane
	if last := len(k.turns) - 1; lack > 0 && last >= 0 && k.turns[last].began.IsZero() && k.turns[last].size > 0 {
		t := k.turns[last]
		joining := min(lack, max(t.batch-t.size, 0))
		t.size, lack = t.size+joining, lack-joining
	}
	if lack <= 0 || time.Now().Before(k.pause) || k.of.ended || !k.spilled() {
		return nil
	}
	return k.ask(min(lack, max(lane.Batch, 1)))
}

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
	go t.keep(p.config.Cluster) // ends with the ask, or the turn
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
		t.may = t.spill.of.proxy.config.Cluster.Help(t.spill.partition, t.spill.key, call.Owner)
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

// opens returns the turn that requests run in.
func (k *spill) opens() *turn {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	return k.open
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

func (k *spill) forget(t *turn) {
	k.turns = slices.DeleteFunc(k.turns, func(o *turn) bool { return o == t })
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
		return t.spill.of.proxy.config.Locks.Name
	}
	return backendOwner
}

// lock takes the key's lock. If it cannot be had the key is not spilled for a while: its
// requests go to the owner.
func (t *turn) lock() bool {
	k, locks := t.spill, &t.spill.of.proxy.config.Locks
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
		ctx, cancel := context.WithTimeout(context.Background(), t.spill.of.proxy.config.Locks.Timeout)
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

// more asks for turns for what is not covered any more, or sees to it that it goes onward.
func (k *spill) more(cluster Cluster) {
	for {
		k.of.mu.Lock()
		t := k.cover()
		if t == nil && k.goesOnward() {
			k.stir()
		}
		k.of.mu.Unlock()
		if t == nil {
			return
		}
		cluster.Send(t.call)
	}
}

// enter begins the first request of those that wait, whose ticket is given, in the open
// turn, and returns that; or else what is closed when it is to look again, and whether it
// is to go onward.
func (k *spill) enter(ticket queue.ID, strict bool) (t *turn, opened <-chan struct{}, onward bool) {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	if t := k.open; t != nil && strict && !t.call.Here && t.loan.fence == 0 {
		t.size = t.used // it was lent for requests that need no fence
	}
	if t := k.open; t != nil && !t.spent() && !k.of.ended {
		t.used++
		k.waiting--
		k.running++
		k.runs = ticket
		return t, nil, false
	} else if t != nil {
		t.look()
	}
	return nil, k.opened, k.goesOnward()
}

// onward sends the request to its lane. Whatever has a later ticket stands behind it.
func (c *call) onward() *problem {
	c.first, c.ticket, c.turn = c.ticket, &c.own, false
	return c.forward()
}

// passOn lets the next one of those that wait here look for a turn, or go onward, when
// this one has its place elsewhere.
func (c *call) passOn() {
	if c.first == nil {
		return
	}
	k, first := c.aside, c.first
	c.aside, c.first = nil, nil
	k.leave()
	first.Done()
}

// leave takes a request out that did not begin.
func (k *spill) leave() {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	k.waiting--
	if k.open != nil {
		k.open.look()
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

// stop ends what waits. What is asked for ends with the hop.
func (s *spills) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		close(s.closed)
	}
	for _, k := range s.keys {
		k.lapses.Stop()
	}
}

// Spill says whether requests may wait for turns of other nodes, which they may at
// first. A node that is to end has those of others answer its requests themselves.
func (p *Proxy) Spill(may bool) {
	s := p.spills
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retiring = !may
	for _, k := range s.keys {
		k.stir()
	}
}

// EvictSpilled answers the requests that wait for turns of other nodes: this node ends.
func (p *Proxy) EvictSpilled() { p.spills.stop() }

// borrow waits for a turn in which the request may run, when it is the first of those
// that wait here, or sends it to its lane.
func (c *call) borrow() *problem {
	skips := c.lane.ClientGone == Skip
	deadline := c.arrived.Add(c.patience)
	for look := firstLook; ; look = min(2*look, lastLook) {
		if skips && hungUp(c.ctx.Conn()) {
			c.laneWait = time.Since(c.arrived)
			return clientGone.because("")
		}
		t, opened, onward := c.aside.enter(c.id, c.lane.Strict)
		switch {
		case t != nil:
			c.lent, c.laneWait = t, time.Since(c.arrived)
			c.route.metrics.spilled.Inc()
			return nil
		case onward:
			return c.onward()
		}
		c.aside.more(c.proxy.config.Cluster)
		until := deadline
		if skips {
			until = earlier(until, time.Now().Add(look))
		}
		wait := time.NewTimer(time.Until(until))
		select {
		case <-opened:
			wait.Stop()
			continue
		case <-c.aside.of.closed:
			wait.Stop()
			return draining.because(ErrStopping.Error())
		case <-wait.C:
		}
		if !time.Now().Before(deadline) {
			c.laneWait = time.Since(c.arrived)
			return laneTimeout.because("it waited " + c.patience.String() + " for a turn that its key's owner lends")
		}
	}
}

// underLoan notes how long a request may take that runs in a turn which was lent, and
// its fence, or refuses it.
func (c *call) underLoan() *problem {
	now := time.Now()
	validFor := c.lent.left()
	if validFor <= 0 {
		return ownershipMoved.because("the time of the turn is over that its key's owner has lent")
	}
	if err := c.proxy.config.Cluster.Awake(c.place.Partition, c.lent.began); err != nil {
		return ownershipMoved.because(err.Error())
	}
	if c.strict() && c.mode == exclusive {
		c.fence = c.lent.nextFence()
	}
	c.deadline = earlier(c.limit, now.Add(validFor))
	return nil
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
	p.config.Cluster.Note(from, answer.append(nil))
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
