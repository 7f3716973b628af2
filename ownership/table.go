package ownership

import (
	"math"
	"slices"

	"lanekeeper/ring"
)

// Role is what a node is to a partition.
type Role uint8

// The roles. A node that has given a partition away and still runs some of its
// keys is Foreign to it.
const (
	Foreign Role = iota
	Claiming
	Owned
)

// String returns the role's name as users see it.
func (r Role) String() string { return [...]string{"foreign", "claiming", "owned"}[r] }

// View is what a node believes of the cluster. It is not modified by anybody
// after it was handed over.
type View struct {
	Live    []ring.Member // alive, draining ones and this node included; any order
	Targets []ring.Member // by partition: who should own it; zero: nobody
	Enough  bool          // of them are alive for this node to own anything
}

// Targets is the target of every partition of r.
func Targets(r *ring.Ring) []ring.Member {
	targets := make([]ring.Member, r.Layout().Partitions)
	for p := range targets {
		targets[p] = r.Target(p)
	}
	return targets
}

// Lanes is what the table does to the node's lanes. Nothing here may call back
// into the table; see queue.Lanes for what it means.
type Lanes interface {
	Open(partition int)
	Seal(partition int) (keys [][]byte)
	Block(partition int, key []byte)
	Unblock(partition int, key []byte)
	Busy(partition int, key []byte) bool
	EvictPartition(partition int, cause error) int
}

// Outgoing is a message on its way.
type Outgoing struct {
	To      ring.Member
	Message Message
}

// Table is what one node knows of who owns what, and what it does about it:
// events go in, and calls of Lanes, messages and changed routes come out. It
// has no clock, no goroutine and no lock, and the same events always have the
// same results. See the package comment for its rules.
type Table struct {
	self  ring.Member
	lanes Lanes
	state Sections

	view View
	live []ring.Member // the others, sorted
	gone []ring.Member // were live and are not, the last one behind

	// What it takes to know that everybody has been asked (rule 2).
	strangers []stranger    // exist, and can't be asked yet
	met       []ring.Member // have sent something; not kept once known
	asking    []ring.Member // have asked what only who is known can say
	waited    int           // retries until known
	known     bool          // everybody alive knows this node

	claims uint64 // the last number of a round
	gives  uint64 // the last number of a Give
	parts  []partition

	check   confirmation
	arbiter arbiter
	publish func(partition int) // makes a title known; nil: it is read from Titles

	out     []Outgoing
	changed []int
}

// partition is what a node knows of one partition.
type partition struct {
	role   Role
	holder ring.Member // the last one heard of
	epoch  uint64      // of the holder
	heard  uint64      // the highest epoch that may have begun
	blind  uint64      // up to this one tenures may have ended while this node stood still
	number uint64      // the last round of claims
	floor  uint64      // what answers a claim up to this one is returned (rule 4)

	stoodBack []round  // for these this node has stood back (rule 3), by member
	answers   []answer // to the present round, by member
	waits     []wait   // keys that others may still run, by key

	draining []string      // keys of an earlier tenure that still run here, sorted
	helping  []string      // keys of which the owner has lent this node the turn, sorted
	told     []ring.Member // who waits for either
	given    *given        // until it is taken
	won      bool          // its owner has given it to this node, which claims it until it has the title
	title    title

	taken   []round    // the last Give that was taken from each member
	pending []petition // what waits for an answer, by member

	remains remains // of the state, since this node had the partition
	last    uint64  // the epoch of that tenure
	begun   uint64  // the highest epoch known to have begun

	asked       bool // those in stoodBack have been asked for release
	unconfirmed bool
	reported    Change
}

// round is a round of claims of one member. Numbers of an incarnation only rise.
type round struct {
	member ring.Member
	number uint64
}

// wait is a key that doesn't run here because it may still run elsewhere.
type wait struct {
	key string
	on  []ring.Member // sorted
}

// given is a Give that waits for its receipt.
type given struct {
	to     ring.Member
	number uint64
	claim  uint64
	epoch  uint64
}

// NewTable returns the table of a node that knows nothing yet. All partitions of
// lanes must be sealed. state may be nil: no state travels.
func NewTable(self ring.Member, partitions int, lanes Lanes, state Sections) *Table {
	if state == nil {
		state = noSections{}
	}
	t := &Table{
		self: self, lanes: lanes, state: state,
		parts: make([]partition, partitions),
	}
	t.view.Targets = make([]ring.Member, partitions)
	for p := range t.parts {
		t.parts[p].reported.Partition = p
	}
	return t
}

// View is told of every change of the node's view.
func (t *Table) View(v View) {
	before := t.live
	t.view, t.live = v, nil
	for _, m := range v.Live {
		if m != t.self {
			t.live = append(t.live, m)
		}
	}
	slices.SortFunc(t.live, compareMembers)
	came, left := without(t.live, before), without(before, t.live)
	for _, m := range came {
		if slices.Contains(t.gone, m) {
			t.send(m, Again{}) // what it said while it was taken for dead was not believed
		}
	}
	t.gone = append(without(t.gone, t.live), left...)
	t.gone = slices.Clone(t.gone[max(0, len(t.gone)-goneMax):])
	t.recognize()
	t.introduce()

	for p := range t.parts {
		s := &t.parts[p]
		was, number := s.role, s.number
		for _, m := range left {
			t.lose(p, s, m)
		}
		t.settle(p, s)
		if s.role == was && s.number == number {
			for _, m := range came {
				t.greet(p, s, m)
			}
		}
		t.finish(p, s)
	}
	if len(left) > 0 {
		t.loseSight()
	}
	t.checkView()
}

// goneMax bounds the memory for members that left.
const goneMax = 1024

// greet tells a member that has come into view what this node wants of it or
// has (rule 1, rule 10).
func (t *Table) greet(p int, s *partition, m ring.Member) {
	switch {
	case s.role == Claiming:
		t.send(m, Claim{Partition: p, Number: s.number})
	case s.role == Owned && !s.unconfirmed:
		t.send(m, Held{Partition: p, Epoch: s.epoch, Number: s.number})
	}
}

// lose forgets what was expected of a member that is no longer live.
func (t *Table) lose(p int, s *partition, m ring.Member) {
	s.answers = slices.DeleteFunc(s.answers, func(a answer) bool { return a.from == m })
	s.bereaved(m)
	if s.title.prev == "" || s.title.prevMember != m {
		t.bury(p, s, m) // else what it runs ends with its lease
	}
	for i := range s.pending {
		if s.pending[i].from == m {
			s.pending[i].fresh = true // to be looked at again if it comes back
		}
	}
	t.over(s, round{m, math.MaxUint64})
}

// wants reports whether this node should own a partition.
func (t *Table) wants(p int) bool {
	return t.view.Enough && t.view.Targets[p] == t.self && t.known
}

// settle brings a partition's role in line with the view.
func (t *Table) settle(p int, s *partition) {
	switch {
	case s.role == Owned && !t.view.Enough:
		t.drop(p, s, ErrTooFew)
	case s.role == Owned:
		t.entitled(p, s)
	case s.role == Claiming && !t.wants(p) && !(s.won && t.view.Enough):
		if s.won {
			s.retain(everything, s.heard)
		}
		s.role, s.won, s.answers = Foreign, false, nil
	case s.role == Claiming:
		t.complete(p, s)
	case s.role == Foreign && t.wants(p):
		t.begin(p, s)
	}
}

// begin opens a round of claims, in which everybody alive is asked (rule 1). As
// long as this node has stood back for others, it has no right to: it asks them
// to release it first (rule 3).
func (t *Table) begin(p int, s *partition) {
	if len(s.stoodBack) > 0 {
		t.askRelease(p, s)
		return
	}
	t.claims++
	s.role, s.won, s.number, s.answers = Claiming, false, t.claims, nil
	for _, m := range t.live {
		t.send(m, Claim{Partition: p, Number: s.number})
	}
	t.complete(p, s)
}

func (t *Table) askRelease(p int, s *partition) {
	if s.asked {
		return
	}
	s.asked = true
	for _, r := range s.stoodBack {
		t.send(r.member, Release{Partition: p, Number: r.number})
	}
}

// complete makes this node the owner if nobody else is: every member that anybody
// sees has stood back for this round (rule 2).
func (t *Table) complete(p int, s *partition) {
	if !s.won && (len(t.strangers) > 0 || slices.ContainsFunc(t.live, func(m ring.Member) bool { return s.answer(m) == nil })) {
		return
	}
	if t.entitled(p, s) {
		t.own(p, s, s.heard+1)
	}
}

// win makes this node the owner of what its owner has given it.
func (t *Table) win(p int, s *partition) {
	s.role, s.won = Claiming, true
	t.complete(p, s)
}

// own begins a tenure. Keys that others listed wait, all others may run.
func (t *Table) own(p int, s *partition, epoch uint64) {
	answers := s.answers
	t.inherit(p, s)
	s.role, s.won, s.holder = Owned, false, t.self
	s.floor = s.number
	s.answers, s.given = nil, nil
	s.forgetDraining() // they stand first in their lanes
	for _, a := range answers {
		t.await(p, s, a.from, a.keys)
	}
	t.await(p, s, t.self, s.helping)
	t.arbiter.changed = append(t.arbiter.changed, p)
	if !s.title.stands() {
		s.title.tenure = 0 // what is admitted from here on is under none, also when it drains
	}
	if t.publish != nil {
		t.publish(p) // before anything runs
	}
	t.lanes.Open(p)
	t.announce(p, s, epoch)
}

// announce tells everybody who owns the partition.
func (t *Table) announce(p int, s *partition, epoch uint64) {
	s.epoch, s.heard, s.begun = epoch, epoch, epoch
	for _, m := range t.live {
		t.send(m, Held{Partition: p, Epoch: epoch, Number: s.number})
	}
}

// drop ends a tenure for the worse: nobody gets the partition, what waits is
// sent away, and what runs becomes draining.
func (t *Table) drop(p int, s *partition, cause error) {
	keys := t.lanes.Seal(p)
	t.lanes.EvictPartition(p, cause)
	for _, w := range s.waits {
		t.lanes.Unblock(p, []byte(w.key))
	}
	s.retain(remainsOf(cause, s.unconfirmed), s.epoch)
	s.role, s.holder, s.waits = Foreign, ring.Member{}, nil
	s.title.prevMember = ring.Member{} // what it listed is forgotten
	s.forgetDraining()
	for _, key := range keys {
		if t.lanes.Busy(p, key) {
			s.draining = append(s.draining, string(key))
		}
	}
	slices.Sort(s.draining)
	t.drains(s)
	t.checked(s)
}

// Receive is told of every message. It believes what it reads: its senders are
// members of the cluster.
func (t *Table) Receive(from ring.Member, m Message) {
	t.sign(from, from)
	fewer := t.sights(from, m.Sees)
	known := !t.known && t.meet(from)
	if fewer || known {
		t.finishAll()
	}
	for _, e := range m.Entries {
		if _, again := e.(Again); again {
			t.repeat(from)
			continue
		}
		p := partitionOf(e)
		if p < 0 || p >= len(t.parts) {
			continue
		}
		s := &t.parts[p]
		switch e := e.(type) {
		case Claim:
			t.claimed(p, s, from, e)
		case Release:
			t.release(p, s, from, e)
		case Released:
			t.over(s, round{from, e.Number})
		case Answer:
			t.answered(p, s, from, e)
		case Give:
			t.receive(p, s, from, e)
		case Taken:
			t.receipt(p, s, from, e)
		case KeyDone:
			t.keyDone(p, s, from, e)
		case Ask:
			t.asked(p, s, from, e)
		case Held:
			t.held(p, s, from, e)
		case Confirm:
			t.confirm(p, s, from, e)
		case Confirmed:
			t.confirmed(p, s, from, e)
		}
		t.finish(p, s)
	}
}

func partitionOf(e Entry) int {
	switch e := e.(type) {
	case Claim:
		return e.Partition
	case Release:
		return e.Partition
	case Released:
		return e.Partition
	case Answer:
		return e.Partition
	case Give:
		return e.Partition
	case Taken:
		return e.Partition
	case KeyDone:
		return e.Partition
	case Ask:
		return e.Partition
	case Held:
		return e.Partition
	case Confirm:
		return e.Partition
	case Confirmed:
		return e.Partition
	}
	return -1
}

// finish ends what an event did to a partition.
func (t *Table) finish(p int, s *partition) {
	t.settle(p, s)
	t.hearPetitions(p, s)
	if now := (Change{p, s.role, t.routeOf(p, s)}); now != s.reported {
		s.reported = now
		t.changed = append(t.changed, p)
	}
}

func (t *Table) finishAll() {
	for p := range t.parts {
		t.finish(p, &t.parts[p])
	}
}

// Take returns what there is to send, at most one message for each member, in
// the order in which they were begun.
func (t *Table) Take() []Outgoing {
	out := t.out
	t.out = nil
	for i := range out {
		m := &out[i].Message
		if slices.ContainsFunc(m.Entries, func(e Entry) bool { return e.kind() == kindAnswer }) {
			m.Sees = insert(t.live, t.self)
		}
	}
	return out
}

func (t *Table) send(to ring.Member, e Entry) {
	for i := range t.out {
		if t.out[i].To == to {
			t.out[i].Message.Entries = append(t.out[i].Message.Entries, e)
			return
		}
	}
	t.out = append(t.out, Outgoing{To: to, Message: Message{Entries: []Entry{e}}})
}
