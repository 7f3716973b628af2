package peer

import (
	"lanekeeper/ring"
)

// outbox is the ingress's half of the hop for the partitions of one stripe: it
// sends each request to whoever owns its partition, in the order in which they
// came, whatever happens to connections and owners meanwhile. It is pure: it
// waits for nothing and knows no clock; whoever calls it holds its lock, and env
// does the rest.
//
// The rules, and what goes wrong without each:
//
//  1. Order is decided by enter, and a partition's requests leave in that order
//     on one connection, which keeps it.
//  2. When a partition's route changes, nothing is sent to the new owner until
//     everything sent to the old one has been admitted, moved or answered; the
//     first request after that says so with its first bit, before which an owner
//     that answered MOVED answers it to everything. Else x0 is answered MOVED by
//     a node that becomes owner before it reads x1: x1 runs, then x0.
//  3. Only the owner's word makes a request that was sent not-executed. Whoever
//     stops waiting before that does not know.
//  4. After a break nothing more is read from the old connection, and nothing
//     sent on the new one before its reply has been read. The reply tells which
//     requests the owner ever saw. Those it did not go back to their place, in
//     order, and so do those never written. Else x1 goes first on the new
//     connection while x0 waits for its owner, or an answer that comes late
//     makes x0 run twice.
//  5. A reply speaks for one session of one incarnation of the owner. What was
//     sent in another is unknown: an owner that came back empty, or had taken
//     this node for dead, would deny what it ran. A session is known by its name,
//     which the last reply that was read has given: else an owner that forgot the
//     old one, and whose first reply got lost, would speak of requests it knows
//     nothing of, and they would wait for their answers for ever.
//  6. A hint is followed when its epoch is at least the present route's and it
//     names another node than the one that was asked. A route that only the ring
//     knows has epoch 0, so that a ring that is behind cannot keep a partition's
//     requests circling.
//  7. Numbers of requests, and generations of connections, only rise, over all
//     links: a member that was taken for dead and is back gets a new link, and
//     an answer, or a large body, of the old one must not find another request.
type outbox struct {
	self        ring.Member
	env         outboxEnv
	flows       map[int]*flow
	links       map[ring.Member]*link
	orders      uint64 // the last call's
	numbers     uint64 // the last request's
	generations uint64 // the last connection's
	stopped     bool
}

// outboxEnv is what the outbox asks of its surroundings. The methods are called
// under the outbox's lock and must not block or call back.
type outboxEnv interface {
	// admit takes a ticket for c in this node's lanes, and reports false if its
	// partition is not this node's. A refusal is an answer like any other.
	admit(c *Call) bool
	// lookup is the owner of a partition as far as this node knows.
	lookup(partition int) (owner ring.Member, epoch uint64)
	// ended tells that c.Result is there.
	ended(c *Call)
	// admitted tells that c has its ticket at the owner, whom its body can be sent to.
	admitted(c *Call)
	// write tells that l has something to write.
	write(l *link)
	// retry asks for a call of retry(partition), in a moment.
	retry(partition int)
}

// callState is where a call is.
type callState uint8

const (
	held     callState = iota // in its flow's backlog
	unwrit                    // in its link's outbox, not written
	written                   // on its way, or read: not known
	admitted                  // has its ticket at the owner
	ended
)

// flow is the way of one partition's requests.
type flow struct {
	partition int
	route     ring.Member // zero = nobody is known
	epoch     uint64      // of the route; 0 = only the ring says so

	backlog callList // not sent, in order
	loose   int      // sent, and neither admitted nor moved nor answered
	link    *link    // of the loose ones
	turning bool     // the route changed: rule 2
	asked   bool     // whether the loose ones have been admitted
	moves   int      // MOVEDs since something was admitted
	probing bool     // one at a time until that: as long as nobody owns it, all would be sent in vain
	paused  bool     // until retry
}

// link is the way to one incarnation of a member.
type link struct {
	peer      ring.Member
	up        bool   // the reply of the present connection has been read
	session   uint64 // the peer's, by the last reply that was read; 0 = none was
	got       uint64 // answers read in the session
	confirmed uint64 // and said to have been read
	heard     int    // their bytes since

	calls      map[uint64]*Call // open ones by number
	unwritten  callQueue        // in order
	unadmitted callQueue        // written ones, in order
	asks       bool             // for ADMITTED
	cancels    []uint64
	controls   [][]byte
	notes      [][]byte

	wire *wire // its connection
}

func newOutbox(self ring.Member, env outboxEnv) *outbox {
	return &outbox{self: self, env: env, flows: make(map[int]*flow), links: make(map[ring.Member]*link)}
}

func (o *outbox) flow(partition int) *flow {
	f := o.flows[partition]
	if f == nil {
		f = &flow{partition: partition}
		f.route, f.epoch = o.env.lookup(partition)
		o.flows[partition] = f
	}
	return f
}

// isHere reports whether a partition is this node's, and none of its requests is
// still on its way elsewhere.
func (o *outbox) isHere(partition int) bool {
	f := o.flow(partition)
	return f.route == o.self && f.backlog.head == nil && (!f.turning || f.loose == 0)
}

// enter gives c its place. It may have ended when enter returns.
func (o *outbox) enter(c *Call) {
	o.orders++
	c.order, c.state = o.orders, held
	if o.stopped {
		o.refuse(c)
		return
	}
	f := o.flow(c.Partition)
	f.backlog.insert(c)
	o.flush(f)
}

// flush sends what f holds back, as far as it may.
func (o *outbox) flush(f *flow) {
	for c := f.backlog.head; c != nil; c = f.backlog.head {
		if (f.turning || f.probing) && f.loose > 0 {
			o.ask(f)
			return
		}
		if f.paused || !o.place(f, c) {
			return
		}
	}
}

// ask has the owner of f's loose calls say at once which of them it has admitted.
// It says so with its next answer in any case, but that may be a lane's wait away.
func (o *outbox) ask(f *flow) {
	if !f.asked && f.link.up {
		f.asked, f.link.asks = true, true
		o.env.write(f.link)
	}
}

// place sends the first call of f's backlog on its way, or reports false.
func (o *outbox) place(f *flow, c *Call) bool {
	if f.route == o.self {
		if !o.env.admit(c) {
			o.reroute(f, o.self)
			return !f.paused
		}
		f.backlog.remove(c)
		f.turning, f.probing, f.moves = false, false, 0
		o.end(c)
		return true
	}
	l := o.links[f.route]
	if l == nil {
		o.reroute(f, f.route)
		return !f.paused
	}
	if !l.up {
		return false
	}
	f.backlog.remove(c)
	o.numbers++
	c.seq, c.link, c.state = o.numbers, l, unwrit
	c.first, f.turning, f.asked = f.turning, false, false
	f.loose++
	f.link = l
	l.calls[c.seq] = c
	l.unwritten.push(c)
	o.env.write(l)
	return true
}

// reroute looks for another way than asked, which did not take a request.
func (o *outbox) reroute(f *flow, asked ring.Member) {
	owner, epoch := o.env.lookup(f.partition)
	if owner == asked || owner.IsZero() || owner != o.self && o.links[owner] == nil {
		o.pause(f)
		return
	}
	o.turn(f, owner, epoch)
	if f.moves++; f.moves > movesMax {
		o.pause(f)
	}
}

// movesMax is how often a partition's requests are passed on at once before they
// wait for a moment: members that point at each other will agree soon.
const movesMax = 3

func (o *outbox) pause(f *flow) {
	if !f.paused {
		f.paused = true
		o.env.retry(f.partition)
	}
}

// retry ends a pause. Who owns the partition is asked anew.
func (o *outbox) retry(partition int) {
	f := o.flow(partition)
	f.paused, f.moves = false, 0
	if owner, epoch := o.env.lookup(partition); !owner.IsZero() && (owner == o.self || epoch >= f.epoch || !o.reaches(f.route)) {
		o.turn(f, owner, epoch)
	}
	o.flush(f)
}

func (o *outbox) reaches(m ring.Member) bool { return m == o.self || o.links[m] != nil }

// turn changes f's route.
func (o *outbox) turn(f *flow, owner ring.Member, epoch uint64) {
	if f.route != owner {
		f.route, f.turning = owner, true
	}
	f.epoch = epoch
}

// routed tells that this node has learnt who owns a partition.
func (o *outbox) routed(partition int, owner ring.Member, epoch uint64) {
	f := o.flows[partition]
	if f == nil {
		return // the first request will ask
	}
	if owner == o.self || epoch >= f.epoch || !o.reaches(f.route) {
		o.turn(f, owner, epoch)
		f.paused, f.moves = false, 0
		o.flush(f)
	}
}

// viewed tells that the members or the ring have changed: links have been joined
// and gone before.
func (o *outbox) viewed() {
	for _, f := range o.inOrder() {
		owner, epoch := o.env.lookup(f.partition)
		if !owner.IsZero() && owner != f.route && (f.epoch == 0 || !o.reaches(f.route)) {
			o.turn(f, owner, epoch)
		}
		o.flush(f)
	}
}

// inOrder lists the flows by partition, so that runs can be repeated.
func (o *outbox) inOrder() []*flow {
	flows := make([]*flow, 0, len(o.flows))
	for _, f := range o.flows {
		flows = append(flows, f)
	}
	sortBy(flows, func(f *flow) uint64 { return uint64(f.partition) }) //nolint:gosec // not negative
	return flows
}

// join makes the link to a member.
func (o *outbox) join(m ring.Member) *link {
	l := &link{peer: m, calls: make(map[uint64]*Call)}
	o.links[m] = l
	return l
}

// gone ends the link to a member that is dead, or was replaced. Whatever it may
// have run is unknown.
func (o *outbox) gone(l *link) {
	delete(o.links, l.peer)
	l.up = false
	for _, c := range l.inOrder() {
		if c.state == unwrit {
			o.takeBack(c)
		} else {
			o.answer(c, Response{Problem: PeerLost, Executed: Unknown, Detail: l.peer.Name + " was lost after it had the request"})
		}
	}
	for _, f := range o.inOrder() {
		o.flush(f)
	}
}

// stop ends what has not been sent: the links have gone before.
func (o *outbox) stop() {
	o.stopped = true
	for _, f := range o.inOrder() {
		for c := f.backlog.head; c != nil; c = f.backlog.head {
			f.backlog.remove(c)
			o.refuse(c)
		}
	}
}

// broken tells that l's connection has ended, and its reader and writer with it.
func (o *outbox) broken(l *link) {
	l.up, l.asks = false, false
	for _, c := range l.inOrder() {
		if c.state == unwrit {
			o.takeBack(c)
		}
	}
	l.cancels, l.controls, l.notes = l.cancels[:0], nil, nil
	for _, f := range o.inOrder() {
		o.flush(f) // a cancelled one may have been all that kept its flow
	}
}

// takeBack returns a call to its place: its owner has not seen it.
func (o *outbox) takeBack(c *Call) {
	f := o.loosen(c)
	f.turning = f.turning || c.first
	if c.cancelled {
		o.refuse(c)
		return
	}
	c.state = held
	f.backlog.insert(c)
}

// loosen takes a call from its link.
func (o *outbox) loosen(c *Call) *flow {
	f := o.flows[c.Partition]
	switch c.state {
	case unwrit:
		c.link.unwritten.remove(c)
		f.loose--
	case written:
		c.link.unadmitted.remove(c)
		f.loose--
	}
	delete(c.link.calls, c.seq)
	c.link = nil
	return f
}

// connecting begins a connection: its HELLO says what is returned.
func (o *outbox) connecting(l *link) (generation, session, got uint64) {
	o.generations++
	return o.generations, l.session, l.got
}

// replied takes the owner's word on what became of the requests before the
// connection.
func (o *outbox) replied(l *link, p *reply) {
	open := make(map[uint64]bool, len(p.open))
	for _, seq := range p.open {
		open[seq] = true
	}
	known := p.session == l.session
	if !known {
		l.session, l.got = p.session, 0
	}
	for _, c := range l.inOrder() {
		switch {
		case !known:
			o.answer(c, Response{Problem: PeerLost, Executed: Unknown, Detail: l.peer.Name + " no longer knows the request"})
		case c.seq > p.processed:
			o.takeBack(c)
		case open[c.seq]:
			o.admit(c)
			if c.cancelled {
				l.cancels = append(l.cancels, c.seq)
			}
		}
		// Else its answer comes again.
	}
	l.up = true
	l.confirmed, l.heard = l.got, 0
	for _, f := range o.inOrder() {
		o.flush(f)
	}
	o.env.write(l)
}

// admit notes that c has its ticket.
func (o *outbox) admit(c *Call) {
	if c.state == written {
		c.link.unadmitted.remove(c)
		f := o.flows[c.Partition]
		f.loose--
		f.moves, f.probing = 0, false
	}
	c.state = admitted
	o.env.admitted(c)
}

// ack tells that every request up to a number has been admitted, if it has not
// been answered otherwise.
func (o *outbox) ack(l *link, upTo uint64) {
	for c := l.unadmitted.head; c != nil && c.seq <= upTo; c = l.unadmitted.head {
		o.admit(c)
		o.flush(o.flows[c.Partition])
	}
}

// hear counts an answer, and sees to it that many do not wait for their
// confirmation.
func (o *outbox) hear(l *link, size int) {
	l.got++
	l.heard += size
	if l.owes() {
		o.env.write(l)
	}
}

// owes reports whether a confirmation should not wait for company.
func (l *link) owes() bool { return l.got-l.confirmed >= confirmEvery || l.heard >= confirmBytes }

// moved tells that the owner is another one.
func (o *outbox) moved(l *link, m *moved) {
	o.hear(l, 0)
	c := l.calls[m.seq]
	if c == nil {
		return
	}
	f := o.loosen(c)
	f.turning, f.probing = true, true
	if c.cancelled {
		o.refuse(c)
	} else {
		c.state = held
		f.backlog.insert(c)
		if f.route == l.peer {
			o.redirect(f, l.peer, m)
		}
	}
	o.flush(f)
}

// redirect follows a hint (rule 6), or looks for itself.
func (o *outbox) redirect(f *flow, asked ring.Member, m *moved) {
	if m.owner != asked && !m.owner.IsZero() && m.epoch >= f.epoch && o.reaches(m.owner) && m.owner != o.self {
		o.turn(f, m.owner, m.epoch)
		if f.moves++; f.moves > movesMax {
			o.pause(f)
		}
		return
	}
	o.reroute(f, asked)
}

// responded tells that a request has been answered.
func (o *outbox) responded(l *link, seq uint64, r Response) {
	o.hear(l, len(r.Head)+len(r.Body))
	c := l.calls[seq]
	if c == nil {
		return
	}
	f := o.flows[c.Partition]
	f.moves, f.probing = 0, false
	o.answer(c, r)
	o.flush(f)
}

// answer ends a call that was sent.
func (o *outbox) answer(c *Call, r Response) {
	c.Owner = c.link.peer
	o.loosen(c)
	c.Response = r
	o.end(c)
}

// refuse ends a call that gave up and will not run.
func (o *outbox) refuse(c *Call) {
	c.Response = Response{Problem: Cancelled}
	o.end(c)
}

func (o *outbox) end(c *Call) {
	c.state = ended
	o.env.ended(c)
}

// cancel gives a call up. It ends at once if it has not been sent, else by the
// owner's word.
func (o *outbox) cancel(c *Call) {
	f := o.flows[c.Partition]
	switch c.state {
	case ended:
	case held:
		f.backlog.remove(c)
		o.refuse(c)
		o.flush(f)
	case unwrit:
		o.takeCancelled(c)
		o.flush(f)
	default:
		if !c.cancelled && c.link.up {
			c.link.cancels = append(c.link.cancels, c.seq)
			o.env.write(c.link)
		}
		c.cancelled = true
	}
}

func (o *outbox) takeCancelled(c *Call) {
	c.cancelled = true
	o.takeBack(c)
}

// wrote tells that c is on its way.
func (l *link) wrote(c *Call) {
	l.unwritten.remove(c)
	l.unadmitted.push(c)
	c.state = written
}

func (l *link) inOrder() []*Call {
	calls := make([]*Call, 0, len(l.calls))
	for _, c := range l.calls {
		calls = append(calls, c)
	}
	sortBy(calls, func(c *Call) uint64 { return c.seq })
	return calls
}
