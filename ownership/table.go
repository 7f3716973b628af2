package ownership

import (
	"cmp"
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
	unseen    []stranger                    // claimed something and never were live
	uncovered bool                          // somebody exists who can't be asked yet

	claims uint64 // the last number of a round
	gives  uint64 // the last number of a Give
	parts  []partition

	check confirmation

	out     []Outgoing
	changed []int
}

// stranger is a member that sends claims and is not in the view yet.
type stranger struct {
	member ring.Member
	age    int // retries since its last claim
}

// partition is what a node knows of one partition.
type partition struct {
	role   Role
	holder ring.Member // the last one heard of
	epoch  uint64      // of the holder
	heard  uint64      // the highest epoch
	number uint64      // the last round of claims
	floor  uint64      // what answers a claim up to this one is returned (rule 4)

	promised Round    // the round this node has stood back for (rule 3)
	answers  []answer // of the present round
	waits    []wait   // keys that others may still run, by key

	draining []string      // keys of an earlier tenure that still run here, sorted
	told     []ring.Member // who waits for them
	given    *given        // until it is taken

	taken   []Round    // the last Give that was taken from each member
	pending []petition // what waits for an answer, by member

	unconfirmed bool
	reported    Change
}

// answer is the last word of a member in a round.
type answer struct {
	from     ring.Member
	none     bool
	void     uint64
	promised Round
	passed   bool // it was told that the round it promised is over
	doubted  bool // whose round that is was asked again
	keys     []string
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
	told   reason
	age    int // retries since, while its member is not live
}

// reason is why a claim was answered "not yet".
type reason struct {
	given    bool // there was such an answer
	promised Round
	holder   ring.Member
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
	t.gone = append(without(t.gone, t.live), left...)
	t.gone = slices.Clone(t.gone[max(0, len(t.gone)-goneMax):])
	for _, m := range left {
		delete(t.sees, m)
	}
	t.look()

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
		if target := t.view.Targets[p]; s.role == Owned && was == Owned && !slices.Contains(came, target) {
			t.offer(p, s, target)
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
	case s.role == Claiming && s.promised.IsZero():
		t.send(m, Claim{Partition: p, Number: s.number})
	case s.role == Owned:
		t.send(m, Held{Partition: p, Epoch: s.epoch, Number: s.number})
	}
}

// offer reminds a member that should own a partition that it may have it
// (rule 9).
func (t *Table) offer(p int, s *partition, target ring.Member) {
	if target != t.self && t.isLive(target) {
		t.send(target, Held{Partition: p, Epoch: s.epoch, Number: s.number})
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
	if s.promised.Member == m {
		s.promised = Round{}
		if s.role == Claiming {
			t.begin(p, s)
		}
	}
}

// settle brings a partition's role in line with the view.
func (t *Table) settle(p int, s *partition) {
	wanted := t.view.Enough && t.view.Targets[p] == t.self
	switch {
	case s.role == Owned && !t.view.Enough:
		t.drop(p, s, ErrTooFew)
	case s.role == Claiming && !wanted:
		s.role, s.answers = Foreign, nil
	case s.role == Claiming:
		t.complete(p, s)
	case s.role == Foreign && wanted:
		t.begin(p, s)
	}
}

// begin opens a round of claims: everybody alive is asked (rule 1), or, as long
// as this node has stood back for somebody, that one alone (rule 3).
func (t *Table) begin(p int, s *partition) {
	t.claims++
	s.role, s.number, s.answers = Claiming, t.claims, nil
	if !s.promised.IsZero() {
		t.send(s.promised.Member, Claim{Partition: p, Number: s.number})
		return
	}
	for _, m := range t.live {
		t.send(m, Claim{Partition: p, Number: s.number})
	}
	t.complete(p, s)
}

// complete makes this node the owner if nobody else is: every member that anybody
// sees has stood back for this round (rule 2).
func (t *Table) complete(p int, s *partition) {
	if !s.promised.IsZero() || t.uncovered {
		return
	}
	for _, m := range t.live {
		if a := s.answer(m); a == nil || !a.none {
			return
		}
	}
	t.own(p, s, s.heard+1)
}

// own begins a tenure. Keys that others listed wait, all others may run.
func (t *Table) own(p int, s *partition, epoch uint64) {
	answers := s.answers
	s.role, s.holder = Owned, t.self
	s.floor = s.number
	s.promised, s.answers, s.given = Round{}, nil, nil
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
	if m.Sees != nil && t.isLive(from) && !slices.Equal(t.sees[from], m.Sees) {
		t.sees[from] = m.Sees
		if t.look() {
			for p := range t.parts {
				t.finish(p, &t.parts[p])
			}
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

// claimed keeps a claim, and takes from it which rounds are over.
func (t *Table) claimed(p int, s *partition, from ring.Member, c Claim) {
	if c.Number == 0 {
		return // rounds begin with 1
	}
	t.over(p, s, Round{from, c.Number - 1})
	for _, r := range c.Disowned {
		t.over(p, s, r)
	}
	if a := s.answer(from); s.role == Claiming && a != nil && a.none {
		// It had stood back and no longer does, so its word doesn't count: it
		// may be given the partition as soon as it has been told so (rule 3).
		t.begin(p, s)
	}
	t.keep(s, petition{from: from, number: c.Number})
}

// over notes that a round and all before it are over. If this node had stood
// back for it, that one may by now have taken and lost the partition: what was
// given to this node meanwhile is not to be believed (rule 4).
func (t *Table) over(p int, s *partition, r Round) {
	if s.promised.Member != r.Member || s.promised.Number > r.Number || s.promised.IsZero() {
		return
	}
	s.promised, s.floor = Round{}, s.number
	if s.role == Claiming {
		t.begin(p, s)
	}
}

// held hears that another node owns the partition.
func (t *Table) held(p int, s *partition, from ring.Member, h Held) {
	t.over(p, s, Round{from, h.Number})
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
	if t.isLive(c.from) || t.isGone(c.from) {
		return
	}
	if i := slices.IndexFunc(t.unseen, func(u stranger) bool { return u.member == c.from }); i >= 0 {
		t.unseen[i].age = 0
		return
	}
	t.unseen = append(t.unseen, stranger{member: c.from})
	t.look()
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

// hearPetition reports whether the petition needs no further answer.
func (t *Table) hearPetition(p int, s *partition, c *petition) bool {
	fresh := c.fresh
	c.fresh = false
	if c.held && fresh {
		t.demand(p, s, c)
	}
	switch {
	case s.role == Owned && t.view.Targets[p] == c.from && s.mayMove(c):
		t.await(p, s, c.from, nil)
		t.give(p, s, c.from, c.number)
		return true
	case c.held && s.role == Owned:
		return false // two owners: this one gives as soon as it may
	case c.held:
		if len(s.draining) > 0 || c.epoch < s.heard {
			t.reply(p, s, c, Answer{})
		}
		return true
	case s.role == Owned:
		return t.notYet(p, s, c, fresh, reason{holder: t.self})
	case s.given != nil && t.isLive(s.given.to):
		return t.notYet(p, s, c, fresh, reason{holder: s.given.to})
	case s.role == Claiming:
		return t.notYet(p, s, c, fresh, reason{})
	case !s.promised.IsZero() && s.promised.Member != c.from:
		return t.notYet(p, s, c, fresh, reason{promised: s.promised})
	}
	// There is nothing to give here, and nothing will come before the claimant
	// has had its say (rules 2, 3 and 4).
	s.promised, s.floor, s.given = Round{c.from, c.number}, s.number, nil
	t.reply(p, s, c, Answer{None: true})
	return true
}

// demand answers an owner if this node should own, or owns, the partition too.
func (t *Table) demand(p int, s *partition, c *petition) {
	t.hear(s, c.from, c.epoch)
	switch a := s.answer(c.from); {
	case s.role == Owned && t.view.Targets[p] == t.self && !c.reply:
		t.send(c.from, Held{Partition: p, Epoch: s.epoch, Number: s.number, Reply: true})
	case s.role == Claiming && s.promised.IsZero() && a != nil && a.none:
		t.send(c.from, Claim{Partition: p, Number: s.number})
	}
}

func (t *Table) notYet(p int, s *partition, c *petition, fresh bool, why reason) bool {
	why.given = true
	if c.told != why || fresh {
		c.told = why
		t.reply(p, s, c, Answer{Promised: why.promised})
	}
	return false
}

// reply answers a petition. Whatever the answer, it lists what may still run
// here (rule 6).
func (t *Table) reply(p int, s *partition, c *petition, a Answer) {
	a.Partition, a.Number, a.Void = p, c.number, s.void()
	a.Holder, a.Epoch, a.Heard = s.holder, s.epoch, s.heard
	if len(s.draining) > 0 {
		a.Keys = s.draining
		s.told = insert(s.told, c.from)
	}
	t.send(c.from, a)
}

// answered takes a member's answer into the present round.
func (t *Table) answered(p int, s *partition, from ring.Member, a Answer) {
	if !t.isLive(from) || a.Number != s.number || s.role == Foreign {
		return
	}
	t.hear(s, a.Holder, a.Epoch)
	s.heard = max(s.heard, a.Heard)
	if s.role == Owned {
		t.await(p, s, from, a.Keys)
		if a.Heard > s.epoch {
			// After a split, epochs are not in the order of time. Requests follow
			// the highest, so the owner's must be that.
			t.announce(p, s, s.heard+1)
		}
		return
	}
	s.record(answer{from: from, none: a.None, void: a.Void, promised: a.Promised, keys: a.Keys})
	if s.promised.Member == from {
		t.over(p, s, Round{from, a.Void})
		return
	}
	// Who has stood back for a round that is over learns so from here: its
	// claimant has said it to this node, and maybe to nobody else (rule 3).
	for i := range s.answers {
		b := &s.answers[i]
		word := s.answer(b.promised.Member)
		switch {
		case b.none || b.promised.IsZero() || word == nil || b.passed:
		case word.void >= b.promised.Number:
			b.passed = true
			t.send(b.from, Claim{Partition: p, Number: s.number, Disowned: []Round{{word.from, word.void}}})
		case word.none && !b.doubted: // it has claimed since, having taken this node for dead
			b.doubted = true
			t.send(word.from, Claim{Partition: p, Number: s.number})
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
	var keys []string
	a := s.answer(m)
	if s.role == Claiming && (a == nil || !a.none) && (s.promised.IsZero() || s.promised.Member == m) {
		t.send(m, Claim{Partition: p, Number: s.number})
	} else if a != nil {
		keys = slices.Clone(a.keys)
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
	for i := range t.unseen {
		t.unseen[i].age++
	}
	t.unseen = slices.DeleteFunc(t.unseen, func(u stranger) bool { return u.age > patience })
	t.look()
	for p := range t.parts {
		s := &t.parts[p]
		for i := range s.pending {
			s.pending[i].age++
		}
		s.pending = slices.DeleteFunc(s.pending, func(c petition) bool { return c.age > oblivion && !t.isLive(c.from) })
		for _, m := range t.live {
			if s.given != nil && s.given.to == m {
				t.send(m, t.giveOf(p, s))
			}
			t.ask(p, s, m)
			if a := s.answer(m); s.role == Claiming && t.uncovered && a != nil && a.none {
				t.send(m, Claim{Partition: p, Number: s.number}) // for whom it sees by now
			}
		}
		if s.role == Owned {
			t.offer(p, s, t.view.Targets[p])
		}
		t.finish(p, s)
	}
	t.checkNext()
}

// How many retries a claim of somebody who is not in view counts: for being
// waited for, and for being answered.
const (
	patience = 2
	oblivion = 100
)

// Take returns what there is to send, at most one message for each member, in
// the order in which they were begun.
func (t *Table) Take() []Outgoing {
	out := t.out
	t.out = nil
	for i := range out {
		if slices.ContainsFunc(out[i].Message.Entries, func(e Entry) bool { return e.kind() == kindAnswer }) {
			out[i].Message.Sees = t.exist()
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
		if a := s.answer(m); s.role == Claiming && (a == nil || !a.none) {
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

// mayMove reports whether the last move of the partition is over, so that the
// next may begin (rule 5). Another owner has put what it ran before into its
// own tenure, and there will be no KeyDone for it.
func (s *partition) mayMove(c *petition) bool {
	return !slices.ContainsFunc(s.waits, func(w wait) bool {
		return !c.held || len(w.on) > 1 || w.on[0] != c.from
	})
}

// void is the last round that is over.
func (s *partition) void() uint64 {
	if s.role == Claiming {
		return s.number - 1
	}
	return s.number
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

// exist are all members that this node knows to exist.
func (t *Table) exist() []ring.Member {
	all := append([]ring.Member{t.self}, t.live...)
	for _, u := range t.unseen {
		all = append(all, u.member)
	}
	slices.SortFunc(all, compareMembers)
	return all
}

// look finds out whether everybody who exists can be asked, and reports whether
// that is so since now.
func (t *Table) look() bool {
	t.unseen = slices.DeleteFunc(t.unseen, func(u stranger) bool { return t.isLive(u.member) || t.isGone(u.member) })
	before := t.uncovered
	t.uncovered = len(t.unseen) > 0
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
