package ownership

import (
	"cmp"
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

// Route is where requests of a partition are to go.
type Route struct {
	Owner ring.Member // zero: nobody is known
	Epoch uint64      // 0: only the ring says so
}

// Change is what has become of a partition.
type Change struct {
	Partition int
	Role      Role
	Route
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
	sees      map[ring.Member][]ring.Member // by live member: whom it sees
	uncovered bool                          // somebody exists who can't be asked yet
	met       []ring.Member                 // have sent something; not kept once known
	known     bool                          // everybody alive knows this node

	claims uint64 // the last number of a round
	gives  uint64 // the last number of a Give
	parts  []partition

	check confirmation

	out     []Outgoing
	changed []int
}

// partition is what a node knows of one partition.
type partition struct {
	role   Role
	holder ring.Member // the last one heard of
	epoch  uint64      // of the holder
	heard  uint64      // the highest epoch
	number uint64      // the last round of claims
	floor  uint64      // what answers a claim up to this one is returned (rule 4)

	stoodBack []Round  // for these this node has stood back (rule 3), by member
	answers   []answer // to the present round, by member
	waits     []wait   // keys that others may still run, by key

	draining []string      // keys of an earlier tenure that still run here, sorted
	told     []ring.Member // who waits for them
	given    *given        // until it is taken

	taken   []Round    // the last Give that was taken from each member
	pending []petition // what waits for an answer, by member

	asked       bool // those in stoodBack have been asked for release
	unconfirmed bool
	reported    Change
}

// answer is the word of a member that it stands back in the present round.
type answer struct {
	from ring.Member
	keys []string // that it may still run
}

// Round is a round of claims of one member. Numbers of an incarnation only rise.
type Round struct {
	Member ring.Member
	Number uint64
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
}

// petition is a claim, or a Held, of another member.
type petition struct {
	from   ring.Member
	number uint64
	held   bool // it owns the partition, in this epoch
	epoch  uint64
	reply  bool
	fresh  bool // it hasn't been looked at yet
	age    int  // retries since, while its member is not live
}

// NewTable returns the table of a node that knows nothing yet. All partitions of
// lanes must be sealed. state may be nil: no state travels.
func NewTable(self ring.Member, partitions int, lanes Lanes, state Sections) *Table {
	if state == nil {
		state = noSections{}
	}
	t := &Table{
		self: self, lanes: lanes, state: state,
		sees:  make(map[ring.Member][]ring.Member),
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
	for _, m := range left {
		delete(t.sees, m)
	}
	t.look()
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
	t.checkView()
}

// goneMax bounds the memory for members that left.
const goneMax = 1024

// greet tells a member that has come into view what this node wants of it or
// has (rule 1, rule 9).
func (t *Table) greet(p int, s *partition, m ring.Member) {
	switch {
	case s.role == Claiming:
		t.send(m, Claim{Partition: p, Number: s.number})
	case s.role == Owned:
		t.send(m, Held{Partition: p, Epoch: s.epoch, Number: s.number})
	}
}

// lose forgets what was expected of a member that is no longer live.
func (t *Table) lose(p int, s *partition, m ring.Member) {
	s.answers = slices.DeleteFunc(s.answers, func(a answer) bool { return a.from == m })
	t.await(p, s, m, nil)
	for i := range s.pending {
		if s.pending[i].from == m {
			s.pending[i].fresh = true // to be looked at again if it comes back
		}
	}
	t.over(s, Round{m, math.MaxUint64})
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
	case s.role == Claiming && !t.wants(p):
		s.role, s.answers = Foreign, nil
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
		if !s.asked {
			s.asked = true
			for _, r := range s.stoodBack {
				t.send(r.Member, Release{Partition: p, Number: r.Number})
			}
		}
		return
	}
	t.claims++
	s.role, s.number, s.answers = Claiming, t.claims, nil
	for _, m := range t.live {
		t.send(m, Claim{Partition: p, Number: s.number})
	}
	t.complete(p, s)
}

// complete makes this node the owner if nobody else is: every member that anybody
// sees has stood back for this round (rule 2).
func (t *Table) complete(p int, s *partition) {
	if t.uncovered || slices.ContainsFunc(t.live, func(m ring.Member) bool { return s.answer(m) == nil }) {
		return
	}
	t.own(p, s, s.heard+1)
}

// own begins a tenure. Keys that others listed wait, all others may run.
func (t *Table) own(p int, s *partition, epoch uint64) {
	answers := s.answers
	s.role, s.holder = Owned, t.self
	s.floor = s.number
	s.answers, s.given = nil, nil
	s.draining, s.told = nil, nil // they stand first in their lanes
	for _, a := range answers {
		t.await(p, s, a.from, a.keys)
	}
	t.lanes.Open(p)
	t.announce(p, s, epoch)
}

// announce tells everybody who owns the partition.
func (t *Table) announce(p int, s *partition, epoch uint64) {
	s.epoch, s.heard = epoch, epoch
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
	s.role, s.holder, s.waits = Foreign, ring.Member{}, nil
	s.draining, s.told = nil, nil
	for _, key := range keys {
		if t.lanes.Busy(p, key) {
			s.draining = append(s.draining, string(key))
		}
	}
	slices.Sort(s.draining)
	t.checked(s)
}

// Receive is told of every message. It believes what it reads: its senders are
// members of the cluster.
func (t *Table) Receive(from ring.Member, m Message) {
	met, seen := t.meet(from), t.see(from, m.Sees)
	if met || seen {
		for p := range t.parts {
			t.finish(p, &t.parts[p])
		}
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
			t.over(s, Round{from, e.Number})
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

// claimed keeps a claim.
func (t *Table) claimed(p int, s *partition, from ring.Member, c Claim) {
	if s.role == Claiming && s.answer(from) != nil {
		t.begin(p, s) // who claims does not stand back
	}
	t.keep(s, petition{from: from, number: c.Number})
}

// release lets a member go that had stood back for this node. If the round is
// not over, it is now: from here on the member's word doesn't count (rule 3).
func (t *Table) release(p int, s *partition, from ring.Member, r Release) {
	if s.role == Claiming && s.number <= r.Number {
		t.begin(p, s)
	}
	t.send(from, Released{Partition: p, Number: r.Number})
}

// over notes that a round of another member and all its rounds before are over.
func (t *Table) over(s *partition, r Round) {
	i := slices.IndexFunc(s.stoodBack, func(b Round) bool { return b.Member == r.Member })
	if i >= 0 && s.stoodBack[i].Number <= r.Number {
		s.stoodBack = slices.Delete(slices.Clone(s.stoodBack), i, i+1)
	}
}

// held hears that another node owns the partition.
func (t *Table) held(p int, s *partition, from ring.Member, h Held) {
	t.over(s, Round{from, h.Number})
	t.keep(s, petition{from: from, number: h.Number, held: true, epoch: h.Epoch, reply: h.Reply})
}

// keep puts a petition in place of an older one of its member.
func (t *Table) keep(s *partition, c petition) {
	c.fresh = true
	i, found := slices.BinarySearchFunc(s.pending, c.from, func(c petition, m ring.Member) int { return compareMembers(c.from, m) })
	switch {
	case !found:
		s.pending = slices.Insert(s.pending, i, c)
	case s.pending[i].number <= c.number:
		s.pending[i] = c
	}
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

// hearPetitions answers what can be answered, or must be answered otherwise
// than before: first the member that should have the partition.
func (t *Table) hearPetitions(p int, s *partition) {
	if len(s.pending) == 0 {
		return
	}
	target := t.view.Targets[p]
	kept := s.pending[:0:0]
	for _, first := range [...]bool{true, false} {
		for _, c := range s.pending {
			if (c.from == target) != first {
				continue
			}
			if !t.isLive(c.from) || !t.hearPetition(p, s, &c) {
				kept = append(kept, c)
			}
		}
	}
	slices.SortFunc(kept, func(a, b petition) int { return compareMembers(a.from, b.from) })
	s.pending = kept
}

// hearPetition reports whether the petition needs no further answer. To be
// silent is to say "not yet".
func (t *Table) hearPetition(p int, s *partition, c *petition) bool {
	if c.held && c.fresh {
		t.demand(p, s, c)
	}
	c.fresh = false
	switch {
	case s.role == Owned && t.view.Targets[p] == c.from && len(s.waits) == 0: // rule 5
		t.give(p, s, c.from, c.number)
		return true
	case s.role == Owned:
		return false // if c is another owner's, this one gives as soon as it may
	case c.held:
		if len(s.draining) > 0 || c.epoch < s.heard {
			t.answer(p, s, c)
		}
		return true
	case s.given != nil && t.isLive(s.given.to), t.wants(p):
		return false
	}
	// There is nothing to give here, and nothing will come to be before the
	// claimant has had its say (rules 2, 3 and 4).
	t.over(s, Round{c.from, c.number})
	s.stoodBack = append(slices.Clip(s.stoodBack), Round{c.from, c.number})
	slices.SortFunc(s.stoodBack, func(a, b Round) int { return compareMembers(a.Member, b.Member) })
	s.asked, s.floor, s.given = false, s.number, nil
	t.answer(p, s, c)
	return true
}

// demand answers an owner if this node owns the partition too.
func (t *Table) demand(p int, s *partition, c *petition) {
	t.hear(s, c.from, c.epoch)
	if s.role != Owned {
		return
	}
	// What the other one ran in an earlier tenure it has put into this one, and
	// there will be no KeyDone for it.
	t.await(p, s, c.from, nil)
	if t.wants(p) && !c.reply {
		t.send(c.from, Held{Partition: p, Epoch: s.epoch, Number: s.number, Reply: true})
	}
}

// answer says that this node doesn't own the partition, and which keys it may
// still run all the same (rule 6).
func (t *Table) answer(p int, s *partition, c *petition) {
	if len(s.draining) > 0 {
		s.told = insert(s.told, c.from)
	}
	t.send(c.from, Answer{Partition: p, Number: c.number, Heard: s.heard, Keys: s.draining})
}

// answered takes a member's answer.
func (t *Table) answered(p int, s *partition, from ring.Member, a Answer) {
	if !t.isLive(from) || a.Number != s.number {
		return
	}
	switch s.role {
	case Claiming:
		s.heard = max(s.heard, a.Heard)
		s.record(answer{from: from, keys: a.Keys})
	case Owned:
		t.await(p, s, from, a.Keys)
		if a.Heard > s.epoch {
			// After a split, epochs are not in the order of time. Requests follow
			// the highest, so the owner's must be that.
			t.announce(p, s, a.Heard+1)
		}
	}
}

// Up is told that a connection to a member has been made, or made again: what
// was sent to it before may have been lost (rule 8).
func (t *Table) Up(m ring.Member) {
	t.send(m, Again{})
	t.repeat(m)
}

// repeat says again whatever a member may not have heard, or not answered.
func (t *Table) repeat(m ring.Member) {
	for p := range t.parts {
		s := &t.parts[p]
		if s.given != nil && s.given.to == m {
			t.send(m, t.giveOf(p, s))
		}
		if !t.isLive(m) {
			continue
		}
		t.ask(p, s, m)
		if s.role == Owned {
			t.send(m, Held{Partition: p, Epoch: s.epoch, Number: s.number})
		}
	}
	t.checkAgain(m)
}

// ask repeats what this node waits for from m.
func (t *Table) ask(p int, s *partition, m ring.Member) {
	for _, r := range s.stoodBack {
		if r.Member == m && s.asked {
			t.send(m, Release{Partition: p, Number: r.Number})
		}
	}
	var keys []string
	if a := s.answer(m); a != nil {
		keys = slices.Clone(a.keys)
	} else if s.role == Claiming {
		t.send(m, Claim{Partition: p, Number: s.number})
	}
	for _, w := range s.waits {
		if slices.Contains(w.on, m) {
			keys = append(keys, w.key)
		}
	}
	if keys != nil {
		t.send(m, Ask{Partition: p, Keys: keys})
	}
}

// Retry is told that time has passed: whatever a live member hasn't answered is
// said again. Nothing depends on it but what the rules do not know of.
func (t *Table) Retry() {
	for p := range t.parts {
		s := &t.parts[p]
		for i := range s.pending {
			s.pending[i].age++
		}
		s.pending = slices.DeleteFunc(s.pending, func(c petition) bool { return c.age > patience && !t.isLive(c.from) })
		for _, m := range t.live {
			if s.given != nil && s.given.to == m {
				t.send(m, t.giveOf(p, s))
			}
			t.ask(p, s, m)
			if t.uncovered && s.answer(m) != nil {
				t.send(m, Claim{Partition: p, Number: s.number}) // for whom it sees by now
			}
		}
		if target := t.view.Targets[p]; s.role == Owned && target != t.self && t.isLive(target) {
			t.send(target, Held{Partition: p, Epoch: s.epoch, Number: s.number})
		}
		t.finish(p, s)
	}
	t.checkNext()
}

// patience is how many retries a claim of somebody who is not in view is kept.
const patience = 100

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

// Changed returns the partitions whose role or route has changed since it was
// last called, as they are now.
func (t *Table) Changed() []Change {
	if len(t.changed) == 0 {
		return nil
	}
	slices.Sort(t.changed)
	changed := slices.Compact(t.changed)
	t.changed = nil
	changes := make([]Change, len(changed))
	for i, p := range changed {
		changes[i] = t.parts[p].reported
	}
	return changes
}

// routeOf is the holder, if it is live, else the ring's target.
func (t *Table) routeOf(p int, s *partition) Route {
	if s.role == Owned || t.isLive(s.holder) {
		return Route{s.holder, s.epoch}
	}
	return Route{t.view.Targets[p], 0}
}

// State is what a node knows of one partition, for people.
type State struct {
	Role     Role
	Route    Route
	Target   ring.Member
	Waits    int         // keys that wait for other nodes
	Draining int         // keys of an earlier tenure that this node still runs
	Giving   ring.Member // has been given it and has not confirmed
	Silent   []ring.Member
	Epoch    uint64 // the highest heard of
}

// State returns what this node knows of a partition. Silent are the members
// whose word it waits for, if it claims the partition.
func (t *Table) State(p int) State {
	s := &t.parts[p]
	state := State{
		Role: s.role, Route: t.routeOf(p, s), Target: t.view.Targets[p],
		Waits: len(s.waits), Draining: len(s.draining), Epoch: s.heard,
	}
	if s.given != nil {
		state.Giving = s.given.to
	}
	for _, m := range t.live {
		if s.role == Claiming && s.answer(m) == nil {
			state.Silent = append(state.Silent, m)
		}
	}
	return state
}

// Counts are sums over all partitions.
type Counts struct {
	Owned    int
	Claiming int
	Waits    int // keys that wait for other nodes
	Draining int // keys that other nodes wait for
	Giving   int // partitions on their way to live members
}

// Idle reports whether the node may leave: nobody needs it.
func (c Counts) Idle() bool { return c.Owned+c.Claiming+c.Draining+c.Giving == 0 }

// Counts costs time in proportion to the partitions.
func (t *Table) Counts() Counts {
	var c Counts
	for p := range t.parts {
		s := &t.parts[p]
		switch s.role {
		case Owned:
			c.Owned++
		case Claiming:
			c.Claiming++
		}
		c.Waits += len(s.waits)
		c.Draining += len(s.draining)
		if s.given != nil && t.isLive(s.given.to) {
			c.Giving++
		}
	}
	return c
}

func (s *partition) answer(m ring.Member) *answer {
	for i := range s.answers {
		if s.answers[i].from == m {
			return &s.answers[i]
		}
	}
	return nil
}

func (s *partition) record(a answer) {
	if old := s.answer(a.from); old != nil {
		*old = a
		return
	}
	s.answers = append(s.answers, a)
	slices.SortFunc(s.answers, func(a, b answer) int { return compareMembers(a.from, b.from) })
}

// hear takes a member's word on who has the partition. It decides nothing but
// where requests go.
func (t *Table) hear(s *partition, holder ring.Member, epoch uint64) {
	s.heard = max(s.heard, epoch)
	if s.role != Owned && t.isLive(holder) && (epoch >= s.epoch || !t.isLive(s.holder)) {
		s.holder, s.epoch = holder, epoch
	}
}

func (t *Table) isLive(m ring.Member) bool {
	_, found := slices.BinarySearchFunc(t.live, m, compareMembers)
	return found
}

// isGone reports whether m was alive once, and is not, or has been replaced.
func (t *Table) isGone(m ring.Member) bool {
	return slices.Contains(t.gone, m) ||
		slices.ContainsFunc(t.live, func(o ring.Member) bool { return o.Name == m.Name && o.Incarnation > m.Incarnation })
}

// meet notes that a member has sent something, which it can't without knowing
// this node. It reports whether everybody does since now.
func (t *Table) meet(m ring.Member) bool {
	if t.known {
		return false
	}
	t.met = insert(t.met, m)
	return t.introduce()
}

// introduce finds out whether everybody alive knows this node. Who comes later
// hears of it from those.
func (t *Table) introduce() bool {
	if t.known || len(without(t.live, t.met)) > 0 {
		return false
	}
	t.known, t.met = true, nil
	return true
}

// see takes whom a member sees, and reports whether everybody can be asked since
// now.
func (t *Table) see(m ring.Member, sees []ring.Member) bool {
	if sees == nil || !t.isLive(m) || slices.Equal(t.sees[m], sees) {
		return false
	}
	t.sees[m] = sees
	return t.look()
}

// look finds out whether everybody who exists can be asked, and reports whether
// that is so since now.
func (t *Table) look() bool {
	before := t.uncovered
	t.uncovered = false
	for _, m := range t.live {
		for _, o := range t.sees[m] {
			if o != t.self && !t.isLive(o) && !t.isGone(o) {
				t.uncovered = true
			}
		}
	}
	return before && !t.uncovered
}

func compareMembers(a, b ring.Member) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Incarnation, b.Incarnation))
}

// without returns the members of a that are not in b.
func without(a, b []ring.Member) []ring.Member {
	var rest []ring.Member
	for _, m := range a {
		if !slices.Contains(b, m) {
			rest = append(rest, m)
		}
	}
	return rest
}

// insert adds m to a sorted list, once, and leaves the old list as it is.
func insert(list []ring.Member, m ring.Member) []ring.Member {
	i, found := slices.BinarySearchFunc(list, m, compareMembers)
	if found {
		return list
	}
	return slices.Insert(slices.Clone(list), i, m)
}
