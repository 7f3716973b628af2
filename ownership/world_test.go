package ownership

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"lanekeeper/lock"
	"lanekeeper/ring"
)

// world is a cluster of tables: nodes, what each believes of the others, the
// connections between them, and requests. It does one action at a time, which
// somebody chooses: TestRandomHistories by chance, the explorer all of them. It
// runs the tables themselves; nothing of the rules is repeated here.
//
// Connections are as the hop makes them: one for each direction, in order,
// which may break and lose what is on its way; its sender then hears Up.
type world struct {
	rules *rules
	nodes []*node
	links []link // from*len(nodes)+to
	keys  []traffic
	store *store // nil: there is no coordinator
	loans []loan // turns of keys that are lent

	breaks, crashes, doubts, retries, freezes, lends int // that may still happen
	plan                                             int // the next step of rules.plan

	wrong string // what must never be
}

// rules are what does not change.
type rules struct {
	names      []string // of the nodes, by index; equal names are incarnations
	partitions int
	keys       []testKey
	requests   int // of each key
	target     func(p int, active []string) string
	plan       []step
	anyDeath   bool   // deaths may be false: then nothing is promised about overlaps
	lateEmpty  bool   // Emptied may come late
	codec      bool   // messages go through the encoding
	quiet      bool   // connections to members that come into view are there at once
	enough     int    // min_members
	batches    bool   // who learns something learns everything
	upFirst    bool   // a connection to a member may be there before it is in view
	loose      bool   // see connected
	stay       bool   // who leaves never goes
	linksStay  bool   // connections outlive the view of whom they lead to
	strict     bool   // there is a coordinator, and all requests are strict
	releases   bool   // a call that is given up frees its lane, which is wrong
	helper     string // the only one that turns are lent to; empty: there is none such
}

type testKey struct {
	name      string
	partition int
}

// step is a change of the cluster, in the order of the plan.
type step struct {
	what stepKind
	node int
	seed int // of a join
}

type stepKind uint8

const (
	join stepKind = iota
	leave
	crash
	stopHere // nothing more until all is quiet
)

type status uint8

const (
	unknown status = iota
	active
	draining
	gone
)

// node is an incarnation of a node.
type node struct {
	member  ring.Member
	status  status // the truth
	knows   []status
	heard   []bool // of whom there was a sign in what it read
	table   *Table
	lanes   *testLanes
	emptied []emptied
	holder  leaseholder
}

type link struct {
	queue []Message
	up    bool // its sender is about to hear Up
}

// traffic is the requests of one key.
type traffic struct {
	admitted int
	started  int // the last one that began
	running  int // how many run, on live nodes
}

type action struct {
	what actionKind
	a, b int
}

type actionKind uint8

const (
	deliver actionKind = iota
	hearUp
	learn
	empty
	finish
	planStep
	depart
	admit
	breakLink
	die
	doubt
	retry
	freeze
	askAgain
)

func newWorld(r *rules) *world {
	n := len(r.names)
	w := &world{rules: r, nodes: make([]*node, n), links: make([]link, n*n), keys: make([]traffic, len(r.keys))}
	if r.strict {
		w.store = &store{records: make([]lock.Record, r.partitions), highest: make([]uint64, len(r.keys))}
		for p := range w.store.records {
			w.store.records[p].Partition = p
		}
	}
	for i, name := range r.names {
		w.nodes[i] = &node{member: ring.Member{Name: name, Incarnation: uint64(i + 1)}, knows: make([]status, n), heard: make([]bool, n)}
	}
	return w
}

// start brings node i to life. It knows what its seed knows, and the seed knows
// it; a seed of itself begins a cluster.
func (w *world) start(i, seed int) {
	n := w.nodes[i].clone()
	w.nodes[i] = n
	n.lanes = newTestLanes(w.rules.partitions)
	n.table = NewTable(n.member, w.rules.partitions, n.lanes, nil)
	n.status = active
	if w.store != nil {
		n.table.arbiter.present = true
		n.holder = leaseholder{titles: make([]Title, w.rules.partitions), under: make([]int, w.rules.partitions), counts: make([]uint64, w.rules.partitions)}
	}
	if seed != i {
		copy(n.knows, w.nodes[seed].knows)
		n.knows[seed] = w.nodes[seed].status
		for j := range n.knows {
			if n.knows[j] == gone && w.nodes[j].alive() {
				n.knows[j] = unknown // not from its own experience
			}
		}
	}
	n.knows[i] = active
	if w.store != nil {
		w.begin(i)
	}
	w.event(i, func(t *Table) { t.View(w.view(i)) })
	w.connect(i)
	if seed != i {
		w.know(seed, i)
	}
}

// connect makes the connections that node i has by its view.
func (w *world) connect(i int) {
	for j := range w.nodes {
		if k := w.nodes[i].knows[j]; j != i && (k == active || k == draining) && w.nodes[j].alive() {
			w.up(i, j)
		}
	}
}

// up makes the connection from i to j, and i hear of it, at once or later.
func (w *world) up(i, j int) {
	if !w.rules.quiet {
		w.links[i*len(w.nodes)+j].up = true
		return
	}
	w.event(i, func(t *Table) { t.Up(w.nodes[j].member) })
}

func (w *world) view(i int) View {
	n := w.nodes[i]
	v := View{Targets: make([]ring.Member, w.rules.partitions)}
	var actives []string
	byName := map[string]ring.Member{}
	for j, k := range n.knows {
		if k == active || k == draining {
			v.Live = append(v.Live, w.nodes[j].member)
		}
		if k == active {
			actives = append(actives, w.nodes[j].member.Name)
			byName[w.nodes[j].member.Name] = w.nodes[j].member
		}
	}
	sort.Strings(actives)
	actives = slices.Compact(actives)
	if len(actives) > 0 {
		for p := range v.Targets {
			v.Targets[p] = byName[w.rules.target(p, actives)]
		}
	}
	v.Enough = len(v.Live) >= w.rules.enough
	return v
}

// know makes node i learn the truth about other nodes, in one view.
func (w *world) know(i int, about ...int) {
	n := w.own(i)
	var fresh []int // to which there is a connection now
	for _, j := range about {
		was := n.knows[j]
		n.knows[j] = w.nodes[j].status
		if !n.sees(j) {
			continue
		}
		for k := range w.nodes { // a name has one live incarnation
			if k != j && w.nodes[k].member.Name == w.nodes[j].member.Name && n.knows[k] != unknown {
				n.knows[k] = gone
			}
		}
		if (was == unknown || was == gone && !w.rules.linksStay) && w.nodes[j].alive() {
			fresh = append(fresh, j)
		}
	}
	if w.rules.upFirst {
		for _, j := range fresh {
			w.event(i, func(t *Table) { t.Up(w.nodes[j].member) })
		}
		fresh = nil
	}
	w.unseenLoans(i)
	w.event(i, func(t *Table) { t.View(w.view(i)) })
	for _, j := range fresh {
		w.up(i, j)
	}
}

// news are the nodes of which node i does not know the truth.
func (w *world) news(i int) (about []int) {
	for j, n := range w.nodes {
		if k := w.nodes[i].knows[j]; k != n.status && !(k == unknown && n.status == gone) {
			about = append(about, j)
		}
	}
	return about
}

// own returns node i to be changed.
func (w *world) own(i int) *node {
	n := w.nodes[i].clone()
	w.nodes[i] = n
	return n
}

// event lets one event into a table and sends what comes out.
func (w *world) event(i int, f func(*Table)) {
	n := w.nodes[i]
	f(n.table)
	n.table.Changed()
	w.owners()
	if w.store != nil {
		w.ask(i)
	}
	for _, out := range n.table.Take() {
		j := w.index(out.To)
		if w.nodes[j].table == nil || w.nodes[j].status == gone {
			continue
		}
		m := out.Message
		l := &w.links[i*len(w.nodes)+j]
		if w.rules.codec {
			m = w.recode(m)
		}
		l.queue = append(slices.Clip(l.queue), m)
	}
	w.note(i)
}

// owners holds against what is promised that nobody owns what another one owns.
func (w *world) owners() {
	for p := range w.rules.partitions {
		var owner *node
		for _, n := range w.nodes {
			if w.rules.anyDeath || !n.alive() || n.table.parts[p].role != Owned {
				continue
			}
			if owner != nil {
				w.fail("%s and %s own partition %d", owner.member.Name, n.member.Name, p)
			}
			owner = n
		}
	}
}

// recode sends a message through the encoding.
func (w *world) recode(m Message) Message {
	var e encoder
	var d decoder
	var whole Message
	for _, payload := range e.payloads(m) {
		got, complete, err := d.message(ring.Member{}, payload)
		if err != nil {
			w.fail("encoding: %v", err)
		}
		if complete {
			whole.Sees = got.Sees
			whole.Entries = append(whole.Entries, got.Entries...)
		}
	}
	return whole
}

func (w *world) index(m ring.Member) int { return int(m.Incarnation) - 1 }

func (w *world) fail(format string, args ...any) {
	if w.wrong == "" {
		w.wrong = fmt.Sprintf(format, args...)
	}
}

// note takes from node i's lanes which requests began, and holds that against
// what is promised: for a key one at a time, in the order of admission.
func (w *world) note(i int) {
	n := w.nodes[i]
	if w.store != nil {
		w.noteStrict(i)
	}
	for _, s := range n.lanes.started {
		w.starts(i, s)
	}
	n.lanes.started = nil
	n.emptied = append(n.emptied, n.lanes.emptied...)
	n.lanes.emptied = nil
	if !w.rules.lateEmpty {
		for len(n.emptied) > 0 {
			w.drained(i)
		}
	}
}

func (w *world) starts(i int, s startedRequest) {
	n := w.nodes[i]
	k := &w.keys[s.key]
	if !w.rules.anyDeath {
		if k.running > 0 {
			w.fail("%s runs request %d of %s beside another", n.member.Name, s.request, w.rules.keys[s.key].name)
		}
		if s.request < k.started {
			w.fail("%s runs request %d of %s after request %d", n.member.Name, s.request, w.rules.keys[s.key].name, k.started)
		}
	}
	k.started = s.request
	k.running++
}

// noteStrict has the coordinator's word on what began.
func (w *world) noteStrict(i int) {
	n := w.nodes[i]
	for len(n.lanes.started) > 0 {
		s := n.lanes.started[0]
		n.lanes.started = n.lanes.started[1:]
		if !w.strictStart(i, s.key, s.request) {
			n.lanes.finish(s.key, w.rules.keys[s.key]) // refused: not executed
		}
	}
}

func (w *world) drained(i int) {
	n := w.nodes[i]
	e := n.emptied[0]
	n.emptied = n.emptied[1:]
	w.event(i, func(t *Table) { t.Drained(e.partition, e.key) })
}

func (n *node) alive() bool { return n.table != nil && n.status != gone }

// actions returns what may happen next. Faults and changes of the cluster are
// choices; everything else happens sooner or later.
func (w *world) actions(choices bool) (can []action) {
	for i, n := range w.nodes {
		if !n.alive() {
			continue
		}
		for j := range w.nodes {
			if len(w.links[j*len(w.nodes)+i].queue) > 0 {
				can = append(can, action{deliver, j, i})
			}
			if w.links[i*len(w.nodes)+j].up && w.nodes[j].alive() {
				can = append(can, action{hearUp, i, j})
			}
		}
		for _, j := range w.news(i) {
			can = append(can, action{learn, i, j})
		}
		if !n.table.Confirmed() && len(n.table.live) == 0 {
			can = append(can, action{askAgain, i, 0})
		}
		if len(n.emptied) > 0 {
			can = append(can, action{empty, i, 0})
		}
		for k := range w.keys {
			if n.lanes.busy(k) && n.lanes.lanes[k].running && w.mayFinish(i, k) {
				can = append(can, action{finish, i, k})
			}
		}
		if !w.rules.stay && n.status == draining && n.table.Counts().Idle() && w.connected(i) {
			can = append(can, action{depart, i, 0})
		}
	}
	if w.store != nil {
		can = append(can, w.storeActions(choices)...)
	}
	can = append(can, w.loanActions()...)
	if !choices {
		return can
	}
	can = append(can, w.lendActions()...)
	if w.plan < len(w.rules.plan) {
		if s := w.rules.plan[w.plan]; s.what != stopHere && (s.what != crash || w.connected(s.node)) {
			can = append(can, action{planStep, w.plan, 0})
		}
	}
	for i, n := range w.nodes {
		if !n.alive() {
			continue
		}
		for k, key := range w.rules.keys {
			if w.keys[k].admitted < w.rules.requests && n.lanes.open[key.partition] {
				can = append(can, action{admit, i, k})
			}
		}
		if w.crashes > 0 && w.connected(i) {
			can = append(can, action{die, i, 0})
		}
		if w.retries > 0 {
			can = append(can, action{retry, i, 0})
		}
		if w.freezes > 0 {
			can = append(can, action{freeze, i, 0})
		}
		for j := range w.nodes {
			if w.breaks > 0 && w.carries(i, j) {
				can = append(can, action{breakLink, i, j})
			}
			if w.doubts > 0 && i != j && n.knows[j] != unknown && n.knows[j] != gone {
				can = append(can, action{doubt, i, j})
			}
		}
	}
	return can
}

// carries reports whether anything is on its way from i to j.
func (w *world) carries(i, j int) bool {
	return len(w.links[i*len(w.nodes)+j].queue) > 0 ||
		slices.ContainsFunc(w.loans, func(l loan) bool { return l.owner == i && l.helper == j && l.phase == offered })
}

// mayFinish reports whether a call can end: it has to be here, and to have reached its
// service.
func (w *world) mayFinish(i, k int) bool {
	if w.loanOf(i, k) >= 0 {
		return false
	}
	if w.store == nil {
		return true
	}
	c := w.store.callOf(i, k)
	return c < 0 || w.store.calls[c].landed
}

// connected reports whether node i may go: whether each of the others can hear,
// from those it sees or has a sign of, and from those they see, of everybody who
// owns or claims anything, or has been lent a turn. If not, that is a split of which nobody can know. With
// rules.loose it is enough that of every two one hears of the other.
func (w *world) connected(without int) bool {
	for i, n := range w.nodes {
		if i == without || !n.alive() {
			continue
		}
		reached := make([]bool, len(w.nodes))
		w.reach(i, without, reached)
		for j, o := range w.nodes {
			if j == without || !o.alive() || reached[j] {
				continue
			}
			if counts := o.table.Counts(); counts.Owned+counts.Claiming > 0 || w.helps(j) {
				return false
			}
		}
	}
	return true
}

func (w *world) reach(i, without int, reached []bool) {
	reached[i] = true
	for j, o := range w.nodes {
		if j == without || reached[j] || !o.alive() {
			continue
		}
		if n := w.nodes[i]; n.sees(j) || n.heard[j] || w.rules.loose && o.sees(i) {
			w.reach(j, without, reached)
		}
	}
}

func (n *node) sees(j int) bool { return n.knows[j] == active || n.knows[j] == draining }

// do does one action.
func (w *world) do(a action) {
	n := len(w.nodes)
	switch a.what {
	case deliver:
		l := &w.links[a.a*n+a.b]
		m := l.queue[0]
		l.queue = l.queue[1:]
		node := w.own(a.b)
		node.heard[a.a] = true
		for _, o := range m.Sees {
			node.heard[w.index(o)] = true
		}
		w.event(a.b, func(t *Table) { t.Receive(w.nodes[a.a].member, m) })
	case hearUp:
		w.links[a.a*n+a.b].up = false
		w.own(a.a)
		w.event(a.a, func(t *Table) { t.Up(w.nodes[a.b].member) })
	case learn:
		if w.rules.batches {
			w.know(a.a, w.news(a.a)...)
		} else {
			w.know(a.a, a.b)
		}
	case empty:
		w.own(a.a)
		w.drained(a.a)
	case finish:
		node := w.own(a.a)
		if w.store == nil {
			w.keys[a.b].running--
		} else if c := w.store.callOf(a.a, a.b); c >= 0 {
			w.store.calls = slices.Delete(w.store.calls, c, c+1)
		}
		node.lanes.finish(a.b, w.rules.keys[a.b])
		w.note(a.a)
	case admit:
		node := w.own(a.a)
		w.keys[a.b].admitted++
		node.lanes.admit(a.b, w.keys[a.b].admitted)
		w.note(a.a)
	case planStep:
		w.plan++
		switch s := w.rules.plan[a.a]; s.what {
		case join:
			seed := s.seed
			for !w.nodes[seed].alive() && seed != s.node { // another member will do
				seed = (seed + 1) % n
			}
			w.start(s.node, seed)
		case leave:
			w.own(s.node).status = draining
			w.know(s.node, s.node)
		case crash:
			w.die(s.node)
		}
	case depart:
		if slices.ContainsFunc(w.loans, func(l loan) bool { return l.helper == a.a && l.phase == atWork }) {
			w.fail("%s goes, and runs what it was lent the turn of", w.nodes[a.a].member.Name)
		}
		w.own(a.a).status = gone
		w.cut(a.a)
		w.loansOfDead(a.a)
	case breakLink:
		w.breaks--
		w.links[a.a*n+a.b] = link{}
		w.voidLoans(func(l loan) bool { return l.owner == a.a && l.helper == a.b })
		w.own(a.a)
		w.up(a.a, a.b)
	case die:
		w.crashes--
		w.die(a.a)
	case doubt:
		w.doubts--
		node := w.own(a.a)
		node.knows[a.b] = gone
		if !w.rules.linksStay {
			w.links[a.a*n+a.b] = link{}
		}
		w.unseenLoans(a.a)
		w.event(a.a, func(t *Table) { t.View(w.view(a.a)) })
	case retry:
		w.retries--
		w.own(a.a)
		w.event(a.a, func(t *Table) { t.Retry() })
	case freeze:
		w.freezes--
		// It throws away what it has not read. All its connections are made again.
		w.own(a.a)
		for j := range w.nodes {
			w.links[j*n+a.a].queue = nil
		}
		w.voidLoans(func(l loan) bool { return l.helper == a.a })
		w.event(a.a, func(t *Table) { t.Confirm(); t.Listen() })
		for j, other := range w.nodes {
			if k := other.knows[a.a]; j != a.a && other.alive() && (k == active || k == draining) {
				w.own(j)
				w.up(j, a.a)
			}
		}
		w.connect(a.a)
	case askAgain:
		w.own(a.a)
		w.event(a.a, func(t *Table) { t.AskAgain() })
	case lend, borrow, giveBack, endTurn:
		w.doLoan(a)
	default:
		w.doStore(a)
	}
}

// die crashes node i. What it had sent may still arrive.
func (w *world) die(i int) {
	n := w.own(i)
	n.status = gone
	for k := range w.keys {
		if n.lanes.busy(k) && n.lanes.lanes[k].running && w.store == nil && w.loanOf(i, k) < 0 {
			w.keys[k].running--
		}
	}
	w.cut(i)
	w.loansOfDead(i)
}

func (w *world) cut(i int) {
	for j := range w.nodes {
		w.links[j*len(w.nodes)+i] = link{}
		w.links[i*len(w.nodes)+j].up = false
	}
}

// settled says what is not as it must be when all is quiet and everybody knows
// the truth: each partition has exactly its target as the owner, everybody
// knows it, and nothing is left of any move.
func (w *world) settled() string {
	for i, n := range w.nodes {
		if !n.alive() {
			continue
		}
		if !n.table.Confirmed() {
			return fmt.Sprintf("%s has not been told whether it still owns what it owns", n.member)
		}
		v := w.view(i)
		for p := range w.rules.partitions {
			s := n.table.State(p)
			s2 := &n.table.parts[p]
			want := Foreign
			if v.Targets[p] == n.member && v.Enough {
				want = Owned
			}
			switch {
			case s.Role != want:
				return fmt.Sprintf("%s is %v to partition %d, and its target is %v", n.member, s.Role, p, v.Targets[p])
			case s.Waits > 0 || s.Draining > 0 || s.Helping > 0 || s2.given != nil && n.table.isLive(s2.given.to):
				return fmt.Sprintf("%s has left over of partition %d: %+v", n.member, p, s)
			case n.lanes.open[p] != (want == Owned):
				return fmt.Sprintf("%s: partition %d is open: %v", n.member, p, n.lanes.open[p])
			case v.Enough && s.Route != w.routeAt(v.Targets[p], p) && s.Route != Route{v.Targets[p], 0}:
				return fmt.Sprintf("%s sends partition %d to %v, and its target is %v with %v", n.member, p, s.Route, v.Targets[p], w.routeAt(v.Targets[p], p))
			}
		}
		for k := range w.keys {
			if n.lanes.lanes[k].blocked || n.lanes.busy(k) {
				return fmt.Sprintf("%s has a lane for %s", n.member, w.rules.keys[k].name)
			}
		}
	}
	if len(w.loans) > 0 {
		return fmt.Sprintf("there are turns that are lent: %+v", w.loans)
	}
	if w.store != nil {
		return w.unrecorded()
	}
	return ""
}

// routeAt is a member's own route.
func (w *world) routeAt(m ring.Member, p int) Route { return w.nodes[w.index(m)].table.State(p).Route }

// testLanes are lanes as queue makes them, for the keys of a world: a ticket's
// turn comes when it is the first and its lane is not blocked.
type testLanes struct {
	open    []bool
	lanes   []testLane // by key
	keyOf   map[string]int
	started []startedRequest
	emptied []emptied
	keys    []testKey
}

type testLane struct {
	queue   []int // requests, the running one first
	running bool
	blocked bool
}

type startedRequest struct{ key, request int }

// theKeys is set once for all worlds of a test: see testKeys.
var testKeys = []testKey{{"x", 0}, {"y", 0}, {"z", 1}}

func newTestLanes(partitions int) *testLanes {
	l := &testLanes{open: make([]bool, partitions), lanes: make([]testLane, len(testKeys)), keyOf: map[string]int{}, keys: testKeys}
	for k, key := range testKeys {
		l.keyOf[key.name] = k
	}
	return l
}

func (l *testLanes) busy(k int) bool { return len(l.lanes[k].queue) > 0 }

func (l *testLanes) admit(k, request int) {
	ln := &l.lanes[k]
	ln.queue = append(slices.Clip(ln.queue), request)
	l.advance(k)
}

func (l *testLanes) advance(k int) {
	ln := &l.lanes[k]
	if len(ln.queue) > 0 && !ln.running && !ln.blocked {
		ln.running = true
		l.started = append(l.started, startedRequest{k, ln.queue[0]})
	}
}

func (l *testLanes) finish(k int, key testKey) {
	ln := &l.lanes[k]
	ln.queue, ln.running = ln.queue[1:], false
	l.gone(k, key)
	l.advance(k)
}

func (l *testLanes) gone(k int, key testKey) {
	if len(l.lanes[k].queue) == 0 && !l.open[key.partition] {
		l.emptied = append(l.emptied, emptied{key.partition, []byte(key.name)})
	}
}

func (l *testLanes) Open(p int) {
	if l.open[p] {
		panic("opened twice")
	}
	l.open[p] = true
}

func (l *testLanes) Seal(p int) (keys [][]byte) {
	if !l.open[p] {
		panic("sealed twice")
	}
	l.open[p] = false
	for k, key := range l.keys {
		if key.partition == p && l.busy(k) {
			keys = append(keys, []byte(key.name))
		}
	}
	slices.Reverse(keys) // in no order
	return keys
}

func (l *testLanes) Block(p int, key []byte) {
	ln := &l.lanes[l.key(p, key)]
	if ln.blocked {
		panic("blocked twice")
	}
	ln.blocked = true
}

func (l *testLanes) Unblock(p int, key []byte) {
	k := l.key(p, key)
	if !l.lanes[k].blocked {
		panic("unblocked twice")
	}
	l.lanes[k].blocked = false
	l.advance(k)
}

func (l *testLanes) Busy(p int, key []byte) bool { return l.busy(l.key(p, key)) }

func (l *testLanes) EvictPartition(p int, cause error) (evicted int) {
	if cause == nil {
		panic("evicted without a cause")
	}
	for k, key := range l.keys {
		ln := &l.lanes[k]
		if key.partition != p || len(ln.queue) == 0 {
			continue
		}
		keep := 0
		if ln.running {
			keep = 1
		}
		evicted += len(ln.queue) - keep
		if len(ln.queue) > keep {
			ln.queue = ln.queue[:keep:keep]
			l.gone(k, key)
		}
	}
	return evicted
}

func (l *testLanes) key(p int, key []byte) int {
	k, known := l.keyOf[string(key)]
	if !known || l.keys[k].partition != p {
		panic("a key of another partition")
	}
	return k
}

// clone returns a world that shares nothing that changes with w.
func (w *world) clone() *world {
	c := *w
	c.nodes = slices.Clone(w.nodes) // each is cloned before it is changed
	c.links = slices.Clone(w.links) // queues are never changed in place
	c.keys = slices.Clone(w.keys)   // so are loans
	if w.store != nil {
		c.store = w.store.clone()
	}
	return &c
}

func (n *node) clone() *node {
	c := *n
	c.knows, c.heard = slices.Clone(n.knows), slices.Clone(n.heard)
	c.emptied = slices.Clip(n.emptied)
	c.holder = n.holder.clone()
	if n.table == nil {
		return &c
	}
	l := *n.lanes
	l.open, l.lanes, l.started = slices.Clone(l.open), slices.Clone(l.lanes), nil
	c.lanes = &l
	c.table = n.table.clone(&l)
	return &c
}

// clone must know all fields; TestCloneKnowsAllFields counts them.
func (t *Table) clone(l Lanes) *Table {
	c := *t
	c.lanes = l
	c.strangers = slices.Clone(t.strangers)
	a := &c.arbiter
	a.wanted, a.later, a.changed = slices.Clone(a.wanted), slices.Clone(a.later), slices.Clone(a.changed)
	a.drained, a.watched = slices.Clone(a.drained), slices.Clone(a.watched)
	c.parts = slices.Clone(t.parts)
	for p := range c.parts {
		s := &c.parts[p]
		s.answers = slices.Clone(s.answers)
		s.waits = slices.Clone(s.waits)
		s.taken = slices.Clone(s.taken)
		s.pending = slices.Clone(s.pending)
	}
	return &c
}

// appendState appends everything that the future of w depends on.
func (w *world) appendState(b []byte) []byte {
	b = append(b, byte(w.breaks), byte(w.crashes), byte(w.doubts), byte(w.retries), byte(w.freezes), byte(w.lends), byte(w.plan), byte(len(w.loans)))
	for _, l := range w.loans {
		b = l.appendState(b)
	}
	for _, k := range w.keys {
		b = append(b, byte(k.admitted), byte(k.started), byte(k.running))
	}
	for _, n := range w.nodes {
		b = append(b, byte(n.status))
		if !n.alive() {
			continue
		}
		for j, k := range n.knows {
			b = append(b, byte(k)|bit(n.heard[j], 8))
		}
		b = append(b, byte(len(n.emptied)))
		for _, e := range n.emptied {
			b = append(b, e.key...)
		}
		b = n.lanes.appendState(b)
		b = n.table.appendState(b)
		if w.store != nil {
			b = n.holder.appendState(b)
		}
	}
	if w.store != nil {
		b = w.store.appendState(b)
	}
	for i := range w.links {
		l := &w.links[i]
		b = append(b, bit(l.up, 1), byte(len(l.queue)))
		for _, m := range l.queue {
			b = appendHead(b, m.Sees)
			b = append(b, byte(len(m.Entries)))
			for _, e := range m.Entries {
				b = appendEntry(b, e)
			}
		}
	}
	return b
}

func (l *testLanes) appendState(b []byte) []byte {
	for _, o := range l.open {
		b = append(b, bit(o, 1))
	}
	for _, ln := range l.lanes {
		b = append(b, bit(ln.running, 1)|bit(ln.blocked, 2), byte(len(ln.queue)))
		for _, r := range ln.queue {
			b = append(b, byte(r))
		}
	}
	return b
}

func appendMembers(b []byte, members []ring.Member) []byte {
	b = append(b, byte(len(members)))
	for _, m := range members {
		b = append(b, byte(m.Incarnation))
	}
	return b
}

func (t *Table) appendState(b []byte) []byte {
	b = appendMembers(b, t.live)
	b = appendMembers(b, t.gone)
	b = append(b, bit(t.known, 1), byte(t.waited), byte(len(t.strangers)))
	for _, s := range t.strangers {
		b = appendMembers(append(b, byte(s.member.Incarnation), byte(s.age)), s.by)
	}
	b = appendMembers(b, t.met)
	b = appendMembers(b, t.asking)
	b = appendNumbers(b, t.claims, t.gives, t.check.number, uint64(t.check.open), uint64(bit(t.check.lonely, 1)), uint64(t.check.alone), t.check.with.Incarnation)
	b = appendMembers(b, t.check.among)
	b = t.arbiter.appendState(b)
	for p := range t.parts {
		b = t.parts[p].appendState(b)
	}
	return b
}

func (a *arbiter) appendState(b []byte) []byte {
	if !a.present {
		return b
	}
	b = append(appendText(b, a.lease), bit(a.away, 1), byte(len(a.wanted)), byte(len(a.later)), byte(len(a.drained)), byte(len(a.watched)), byte(a.waits))
	for _, p := range slices.Concat(a.wanted, a.later) {
		b = append(b, byte(p))
	}
	for _, d := range a.drained {
		b = appendNumbers(b, uint64(d.Partition), d.Tenure)
	}
	return appendKeys(b, a.watched)
}

func (s *title) appendState(b []byte) []byte {
	b = appendRecord(b, s.known)
	b = appendNumbers(b, s.tenure, s.stamp, s.asked, s.ceded)
	b = append(b, bit(s.open, 1)|bit(s.lapsed, 2), byte(s.prevMember.Incarnation))
	return appendNumbers(appendText(appendText(b, s.wait), s.prev), s.clears...)
}

func appendRecord(b []byte, r lock.Record) []byte {
	b = appendText(appendText(b, r.Holder), r.Prev)
	return appendNumbers(b, r.Tenure, r.Stamp, r.PrevTenure)
}

func (s *partition) appendState(b []byte) []byte {
	b = append(b, byte(s.role), byte(s.holder.Incarnation), bit(s.unconfirmed, 1)|bit(s.asked, 2)|bit(s.won, 4))
	b = s.title.appendState(b)
	b = appendNumbers(b, s.epoch, s.heard, s.blind, s.number, s.floor)
	b = append(b, byte(len(s.stoodBack)), byte(len(s.answers)))
	for _, r := range s.stoodBack {
		b = appendNumbers(b, r.member.Incarnation, r.number)
	}
	for _, a := range s.answers {
		b = appendText(appendKeys(appendNumbers(b, a.from.Incarnation, a.tenure), a.keys), a.lease)
	}
	b = append(b, byte(len(s.waits)))
	for _, w := range s.waits {
		b = appendMembers(appendText(b, w.key), w.on)
	}
	b = appendMembers(appendKeys(appendKeys(b, s.draining), s.helping), s.told)
	if s.given != nil {
		b = appendNumbers(b, s.given.to.Incarnation, s.given.number, s.given.claim, s.given.epoch)
	}
	b = append(b, byte(len(s.taken)), byte(len(s.pending)))
	for _, r := range s.taken {
		b = appendNumbers(b, r.member.Incarnation, r.number)
	}
	for _, c := range s.pending {
		b = appendNumbers(b, c.from.Incarnation, c.number, c.epoch, uint64(c.age))
		b = append(b, bit(c.held, 1)|bit(c.reply, 2)|bit(c.fresh, 4))
	}
	return b
}

// String is w for people who look for the cause of a failure.
func (w *world) String() string {
	var b strings.Builder
	for i, n := range w.nodes {
		if n.table == nil {
			continue
		}
		fmt.Fprintf(&b, "  %s status %d knows %v lanes %+v open %v emptied %d strangers %v\n", n.member, n.status, n.knows, n.lanes.lanes, n.lanes.open, len(n.emptied), n.table.strangers)
		for p := range n.table.parts {
			s := &n.table.parts[p]
			fmt.Fprintf(&b, "    p%d %v holder %v epoch %d number %d floor %d stood back %v answers %+v waits %v draining %v told %v given %+v taken %v pending %+v helping %v\n",
				p, s.role, s.holder, s.epoch, s.number, s.floor, s.stoodBack, s.answers, s.waits, s.draining, s.told, s.given, s.taken, s.pending, s.helping)
		}
		for j := range w.nodes {
			if l := w.links[i*len(w.nodes)+j]; len(l.queue) > 0 || l.up {
				fmt.Fprintf(&b, "    to %s: up %v", w.nodes[j].member, l.up)
				for _, m := range l.queue {
					fmt.Fprintf(&b, " | %+v", m.Entries)
				}
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

// describe puts an action into words.
func (w *world) describe(a action) string {
	name := func(i int) string { return w.nodes[i].member.String() }
	switch a.what {
	case deliver:
		m := w.links[a.a*len(w.nodes)+a.b].queue[0]
		s := fmt.Sprintf("%s reads from %s:", name(a.b), name(a.a))
		for _, e := range m.Entries {
			s += fmt.Sprintf(" %T%+v", e, e)
		}
		return strings.ReplaceAll(s, "ownership.", "")
	case hearUp:
		return fmt.Sprintf("%s hears that its connection to %s is up", name(a.a), name(a.b))
	case learn:
		return fmt.Sprintf("%s learns that %s is %s", name(a.a), name(a.b), [...]string{"?", "active", "draining", "gone"}[w.nodes[a.b].status])
	case empty:
		return fmt.Sprintf("%s hears that a lane is empty", name(a.a))
	case finish:
		return fmt.Sprintf("%s ends a request of %s", name(a.a), w.rules.keys[a.b].name)
	case planStep:
		s := w.rules.plan[a.a]
		return fmt.Sprintf("%s %ss", name(s.node), [...]string{"join", "leave", "crashe"}[s.what])
	case depart:
		return fmt.Sprintf("%s, idle, goes", name(a.a))
	case admit:
		return fmt.Sprintf("%s admits request %d of %s", name(a.a), w.keys[a.b].admitted+1, w.rules.keys[a.b].name)
	case breakLink:
		return fmt.Sprintf("the connection from %s to %s breaks and loses %d", name(a.a), name(a.b), len(w.links[a.a*len(w.nodes)+a.b].queue))
	case die:
		return fmt.Sprintf("%s crashes", name(a.a))
	case doubt:
		return fmt.Sprintf("%s takes %s for dead", name(a.a), name(a.b))
	case retry:
		return fmt.Sprintf("%s retries", name(a.a))
	case freeze:
		return fmt.Sprintf("%s notices that it stood still", name(a.a))
	case askAgain:
		return fmt.Sprintf("%s looks for somebody to ask", name(a.a))
	}
	if a.what >= lend {
		return w.describeLoan(a)
	}
	return w.describeStore(a)
}
