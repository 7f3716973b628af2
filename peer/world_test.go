package peer

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"lanekeeper/ring"
)

// world is a small cluster in which one thing happens at a time: an ingress C,
// two owners A and B, tiny lanes, and connections that are lists of frames. What
// an outbox, a session or a writer does in it, the code of this package does;
// the world decides only when. Every choice is a step; the same steps lead to the
// same world.
type world struct {
	scenario *scenario
	requests []request
	owners   [2]modelOwner
	ingress  modelIngress
	conns    []*modelConn
	entered  int // requests
	moves    int // steps of the scenario's moves that have been made
	spent    [steps]int
	excused  bool   // somebody was taken for dead, or died: "unknown" is an honest answer from now on
	wrong    string // what must never happen, and has
}

// The nodes.
const (
	nodeA = iota
	nodeB
	nodeC
	nodes
)

// scenario says what may happen in a world.
type scenario struct {
	name     string
	requests []int  // the partition of each, in order of entering
	owner    int    // of every partition, at the beginning
	vague    bool   // C knows the owner by its ring alone
	claiming bool   // it is not the owner yet, and knows nobody else who is
	fresh    bool   // C has not connected yet
	moves    []move // in order
	allowed  [steps]int
}

// move is one step of a partition's way from node to node. A partition's epoch
// rises with every give.
type move struct {
	op        moveOp
	partition int
	node      int // who gives or takes, or is named to C
	to        int // of give
	epoch     uint64
}

type moveOp uint8

const (
	give    moveOp = iota // node's lanes refuse the partition, and it names to
	take                  // node's lanes take the partition
	learn                 // C's table names node as the owner
	view                  // C's ring names node, and nothing better is known
	restart               // node is replaced by one that has nothing
)

// request is what the world knows of a request.
type request struct {
	partition int
	call      *Call
	ingress   uint64 // incarnation of C that it entered by
	wrote     bool   // it was on a connection
	ticket    bool   // it has had a ticket
	ran       int
	cancelled bool
	lost      bool // its ingress died
	answer    answerKind
}

type answerKind uint8

const (
	noAnswer answerKind = iota
	ranHere             // its ticket was taken in C's own lanes
	responded
	notExecuted
	unknownAnswer
)

// modelIngress is C.
type modelIngress struct {
	self   ring.Member
	stripe *stripe
	table  map[int]route
	routes []int // partitions of whose changes the outbox has not been told
	kicked map[*link]bool
	lanes  modelLanes
}

type route struct {
	owner ring.Member
	epoch uint64
}

// modelOwner is A or B.
type modelOwner struct {
	self  ring.Member
	host  *host
	table map[int]route
	lanes modelLanes
	world *world
}

// modelLanes are one lane for each partition.
type modelLanes struct {
	tenure map[int]uint64 // of open partitions: the epoch
	queue  map[int][]modelTicket
}

type modelTicket struct {
	request int
	in      *Inbound // or nil: of C's own
	tenure  uint64
}

// modelConn is a connection, and what is on its way.
type modelConn struct {
	link       *link
	node       int
	generation uint64
	here       bool // C's end is open
	there      bool // the owner's reader and writer go on
	replied    bool
	up, down   [][]byte // frames that have not been read
	hosted     *hosted  // after its HELLO
}

func newWorld(s *scenario) *world {
	w := &world{scenario: s}
	for _, p := range s.requests {
		w.requests = append(w.requests, request{partition: p})
	}
	for i := range w.owners {
		w.startOwner(i, 1)
	}
	w.startIngress(1)
	for p := range 2 {
		w.lanesOf(s.owner).tenure[p] = 1
		for n := range nodes {
			w.tableOf(n)[p] = route{w.member(s.owner), 1}
		}
		if s.vague {
			w.ingress.table[p] = route{w.member(s.owner), 0}
		}
		if s.claiming {
			delete(w.lanesOf(s.owner).tenure, p)
			w.tableOf(s.owner)[p] = route{}
		}
	}
	if s.fresh {
		return w
	}
	for i := range w.owners { // two who are connected
		w.dial(w.outbox().links[w.owners[i].self])
		w.readUp(w.conns[i])
		w.writeDown(w.conns[i])
		w.readDown(w.conns[i])
	}
	return w
}

func (w *world) startOwner(i int, incarnation uint64) {
	o := &w.owners[i]
	*o = modelOwner{
		self:  ring.Member{Name: string(rune('a' + i)), Incarnation: incarnation},
		table: map[int]route{}, lanes: newModelLanes(), world: w,
	}
	o.host = newHost(&Hop{config: Config{Self: o.self, versions: spoken, Log: slog.New(slog.DiscardHandler)}})
}

func (w *world) startIngress(incarnation uint64) {
	in := &w.ingress
	table := in.table
	if table == nil {
		table = map[int]route{}
	}
	*in = modelIngress{self: ring.Member{Name: "c", Incarnation: incarnation}, table: table, kicked: map[*link]bool{}, lanes: newModelLanes()}
	in.stripe = &stripe{outbox: newOutbox(in.self, w)}
	for i := range w.owners {
		in.stripe.outbox.join(w.owners[i].self)
	}
}

func newModelLanes() modelLanes {
	return modelLanes{tenure: map[int]uint64{}, queue: map[int][]modelTicket{}}
}

func (w *world) member(node int) ring.Member {
	if node == nodeC {
		return w.ingress.self
	}
	return w.owners[node].self
}

func (w *world) lanesOf(node int) *modelLanes {
	if node == nodeC {
		return &w.ingress.lanes
	}
	return &w.owners[node].lanes
}

func (w *world) tableOf(node int) map[int]route {
	if node == nodeC {
		return w.ingress.table
	}
	return w.owners[node].table
}

func (w *world) fail(format string, args ...any) {
	if w.wrong == "" {
		w.wrong = fmt.Sprintf(format, args...)
	}
}

// takeTicket is where order and "at most once" are decided.
func (w *world) takeTicket(node, i int, in *Inbound) bool {
	r, lanes := &w.requests[i], w.lanesOf(node)
	tenure := lanes.tenure[r.partition]
	if tenure == 0 {
		return false
	}
	switch {
	case r.ticket:
		w.fail("x%d takes a second ticket", i)
	case r.answer == notExecuted:
		w.fail("x%d takes a ticket after it was answered as not executed", i)
	}
	for j := i + 1; j < len(w.requests); j++ {
		if later := &w.requests[j]; later.partition == r.partition && later.ingress == r.ingress && later.ticket && r.answer == noAnswer && !r.lost {
			w.fail("x%d takes its ticket after x%d", i, j)
		}
	}
	r.ticket = true
	lanes.queue[r.partition] = append(lanes.queue[r.partition], modelTicket{i, in, tenure})
	return true
}

// runs reports whether the first ticket of a lane has its turn: what earlier
// owners may still run goes first.
func (w *world) runs(node, partition int) bool {
	queue := w.lanesOf(node).queue[partition]
	if len(queue) == 0 {
		return false
	}
	for n := range nodes {
		for _, t := range w.lanesOf(n).queue[partition] {
			if n != node && t.tenure < queue[0].tenure {
				return false
			}
		}
	}
	return true
}

// finish ends the turn of the first ticket in a lane.
func (w *world) finish(node, partition int) {
	lanes := w.lanesOf(node)
	t := lanes.queue[partition][0]
	lanes.queue[partition] = lanes.queue[partition][1:]
	w.ran(t.request)
	if t.in != nil {
		t.in.Respond(&Response{Head: []byte(strconv.Itoa(t.request))})
	}
}

func (w *world) ran(i int) {
	r := &w.requests[i]
	if r.ran++; r.ran > 1 {
		w.fail("x%d runs twice", i)
	}
	if r.answer == notExecuted {
		w.fail("x%d runs after it was answered as not executed", i)
	}
}

// modelLocal is a request as C sees it.
type modelLocal struct {
	world   *world
	request int
}

func (l modelLocal) AdmitHere(ID) bool { return l.world.takeTicket(nodeC, l.request, nil) }

// The outbox's surroundings.

func (w *world) admit(c *Call) bool {
	c.Here = c.local.AdmitHere(c.Ticket)
	return c.Here
}

func (w *world) lookup(partition int) (ring.Member, uint64) {
	r := w.ingress.table[partition]
	return r.owner, r.epoch
}

func (w *world) write(l *link)  { w.ingress.kicked[l] = true }
func (w *world) admitted(*Call) {}
func (w *world) retry(int)      {}

func (w *world) ended(c *Call) {
	i := c.local.(modelLocal).request
	r := &w.requests[i]
	if r.answer != noAnswer {
		w.fail("x%d is answered twice", i)
	}
	switch a := &c.Response; {
	case c.Here:
		r.answer = ranHere
	case a.Problem == "":
		r.answer = responded
		if string(a.Head) != strconv.Itoa(i) {
			w.fail("x%d gets the answer of x%s", i, a.Head)
		}
		if r.ran == 0 {
			w.fail("x%d is answered and has not run", i)
		}
	case a.Executed == NotExecuted:
		r.answer = notExecuted
		switch {
		case r.ran > 0 || w.hasTicket(i):
			w.fail("x%d is answered as not executed, and runs", i)
		case !r.cancelled && w.spent[stepOrphan] == 0:
			w.fail("x%d is answered as not executed for no reason: %s", i, a.Problem)
		}
	default:
		r.answer = unknownAnswer
		switch {
		case !r.wrote:
			w.fail("x%d is answered as unknown, and was never sent", i)
		case !w.excused:
			w.fail("x%d is answered as unknown, and nobody died: %s", i, a.Detail)
		}
	}
}

func (w *world) hasTicket(i int) bool {
	for n := range nodes {
		for _, t := range w.lanesOf(n).queue[w.requests[i].partition] {
			if t.request == i {
				return true
			}
		}
	}
	return false
}

// modelSession is a session's surroundings: those of the package, but for lanes
// and table.
type modelSession struct {
	*hosted
	owner_ *modelOwner
}

func (s modelSession) serve(in *Inbound) (*Response, bool) {
	o := s.owner_
	i, _ := strconv.Atoi(in.Route)
	return nil, o.world.takeTicket(o.node(), i, in)
}

func (s modelSession) owner(partition int) (ring.Member, uint64) {
	r := s.owner_.table[partition]
	return r.owner, r.epoch
}

func (s modelSession) leave(in *Inbound) bool {
	o := s.owner_
	queue := o.lanes.queue[in.Partition]
	at := slices.IndexFunc(queue, func(t modelTicket) bool { return t.in == in })
	if at < 0 || at == 0 && o.world.runs(o.node(), in.Partition) {
		return false
	}
	o.lanes.queue[in.Partition] = slices.Delete(slices.Clone(queue), at, at+1)
	return true
}

func (o *modelOwner) node() int { return int(o.self.Name[0] - 'a') }

// The network.

// split takes apart what a writer wrote.
func split(b []byte) (frames [][]byte) {
	for len(b) > 0 {
		n := 4 + int(b[0])<<24 + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
		frames = append(frames, b[:n:n])
		b = b[n:]
	}
	return frames
}

func kindOf(frame []byte) kind        { return kind(frame[frameHeader-1]) }
func payloadOf(frame []byte) []byte   { return slices.Clone(frame[frameHeader:]) }
func (w *world) outbox() *outbox      { return w.ingress.stripe.outbox }
func (w *world) current(l *link) bool { return w.outbox().links[l.peer] == l }

// dial opens a connection for l, with its HELLO on the way.
func (w *world) dial(l *link) {
	h := hello{versions: spoken, from: w.ingress.self, to: l.peer}
	h.generation, h.session, h.got = w.outbox().connecting(l)
	w.conns = append(w.conns, &modelConn{
		link: l, node: int(l.peer.Name[0] - 'a'), generation: h.generation, here: true, there: true,
		up: [][]byte{h.append(nil)},
	})
}

// connOf is the connection whose end at C is open.
func (w *world) connOf(l *link) *modelConn {
	for _, c := range w.conns {
		if c.link == l && c.here {
			return c
		}
	}
	return nil
}

// writeUp has C's writer write all there is.
func (w *world) writeUp(c *modelConn) {
	w.ingress.kicked[c.link] = false
	for batch := c.link.take(nil, time.Time{}, true); len(batch) > 0; batch = c.link.take(nil, time.Time{}, true) {
		for _, frame := range split(batch) {
			if kindOf(frame) == frameRequest {
				var r Request
				if _, err := parseRequest(payloadOf(frame), &r); err != nil {
					w.fail("a REQUEST that cannot be read: %v", err)
				}
				i, _ := strconv.Atoi(r.Route)
				w.requests[i].wrote = true
			}
			if c.there {
				c.up = append(c.up, frame)
			}
		}
	}
}

// readUp has an owner read a frame.
func (w *world) readUp(c *modelConn) {
	frame := c.up[0]
	c.up = c.up[1:]
	if c.hosted == nil {
		w.letIn(c, frame)
		return
	}
	if err := c.hosted.hear(kindOf(frame), payloadOf(frame), c.generation); err != nil {
		w.endThere(c)
		return
	}
	if len(c.up) > 0 && (kindOf(c.up[0]) == frameConfirm || kindOf(c.up[0]) == framePing) {
		w.readUp(c) // nothing depends on when
	}
}

// letIn is host.let and host.serveOrdered without the sockets.
func (w *world) letIn(c *modelConn, frame []byte) {
	o := &w.owners[c.node]
	h, err := parseHello(payloadOf(frame))
	if err != nil {
		w.fail("a HELLO that cannot be read: %v", err)
		return
	}
	version, err := o.host.hop.accepts(&h)
	if err != nil {
		w.endThere(c)
		return
	}
	s, err := o.host.find(h.from, 0)
	if err != nil {
		w.endThere(c)
		return
	}
	s.session.env = modelSession{s, o}
	if s.greet(nil, nil, &h, version) != nil {
		w.endThere(c)
		return
	}
	c.hosted = s
}

// writeDown has an owner's writer write all there is.
func (w *world) writeDown(c *modelConn) {
	<-c.hosted.kick
	for batch := c.hosted.take(nil); len(batch) > 0; batch = c.hosted.take(nil) {
		if c.here {
			c.down = append(c.down, split(batch)...)
		}
	}
}

// readDown has C read a frame.
func (w *world) readDown(c *modelConn) {
	frame := c.down[0]
	c.down = c.down[1:]
	if c.replied {
		if err := w.ingress.stripe.hear(c.link, kindOf(frame), payloadOf(frame)); err != nil {
			w.fail("C cannot read an answer: %v", err)
		}
		if len(c.down) > 0 && kindOf(c.down[0]) == framePong {
			c.down = c.down[1:]
		}
		return
	}
	answer, err := parseReply(payloadOf(frame))
	if err != nil || kindOf(frame) != frameReply {
		w.fail("kind %d, not a REPLY: %v", kindOf(frame), err)
		return
	}
	if answer.owner != c.link.peer {
		w.endHere(c)
		return
	}
	c.replied = true
	w.outbox().replied(c.link, &answer)
}

// endHere closes C's end of a connection: nothing more is read from it there.
func (w *world) endHere(c *modelConn) {
	c.here, c.down = false, nil
	if c.replied && w.current(c.link) {
		w.outbox().broken(c.link)
	}
	w.sweep()
}

// endThere closes the owner's end: what it has not read is lost.
func (w *world) endThere(c *modelConn) {
	c.there, c.up = false, nil
	if s := c.hosted; s != nil && s.session.hears(c.generation) {
		s.session.deaf = true
	}
	w.sweep()
}

// sweep forgets connections that are over at both ends.
func (w *world) sweep() {
	w.conns = slices.DeleteFunc(w.conns, func(c *modelConn) bool { return !c.here && !c.there })
}
