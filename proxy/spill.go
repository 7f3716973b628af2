package proxy

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lanekeeper/peer"
	"lanekeeper/queue"
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
	looks   queue.ID      // of the one that looks for a turn; zero: none does
	struck  queue.ID      // of one that is to look for none any more, since an operator says so
	news    queue.Load    // that came since the last ask
	turns   []*turn       // asked for, oldest first; the one that is open among them
	open    *turn         // that requests run in; nil: none
	opened  chan struct{} // closed when there is one
	failed  int           // asks in a row
	pause   time.Time     // nothing is asked for before
}

// spillFor is how long the owner's word lasts that a key is hot.
const spillFor = 2 * time.Second

func newSpills(p *Proxy) *spills {
	return &spills{proxy: p, keys: make(map[string]*spill), lent: make(map[queue.ID]*turn), closed: make(chan struct{})}
}

// hint notes that the owner of c's key lends turns of it.
func (s *spills) hint(c *call) {
	if s.note(c) {
		s.proxy.log.Info("requests of another node's hot key wait here", "event", "key-spilled", "route", c.route.Name, s.proxy.Config().LogKeys.Attr(c.key))
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
		p.log.Info("no request of another node's hot key waits here any more", "event", "key-spilled-ended", "route", k.route.Name, p.Config().LogKeys.Attr(k.key))
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

// opens returns the turn that requests run in.
func (k *spill) opens() *turn {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	return k.open
}

func (k *spill) forget(t *turn) {
	k.turns = slices.DeleteFunc(k.turns, func(o *turn) bool { return o == t })
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

// errStruck is why a request looks for no turn any more.
var errStruck = errors.New("an operator took it out while it waited for a turn")

// enter begins the first request of those that wait, whose ticket is given, in the open
// turn, and returns that; or else what is closed when it is to look again, and whether it
// is to go onward.
func (k *spill) enter(ticket queue.ID, strict bool) (t *turn, opened <-chan struct{}, onward bool, _ error) {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	k.looks = queue.ID{}
	if k.struck == ticket {
		k.struck = queue.ID{}
		return nil, nil, false, errStruck
	}
	if t := k.open; t != nil && strict && !t.call.Here && t.loan.fence == 0 {
		t.size = t.used // it was lent for requests that need no fence
	}
	if t := k.open; t != nil && !t.spent() && !k.of.ended {
		t.used++
		k.waiting--
		k.running++
		k.runs = ticket
		return t, nil, false, nil
	} else if t != nil {
		t.look()
	}
	if onward = k.goesOnward(); !onward {
		k.looks = ticket
	}
	return nil, k.opened, onward, nil
}

// strike has the request that looks for a turn end, if it has that ticket.
func (s *spills) strike(key []byte, ticket queue.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[string(key)]
	if k == nil || k.looks != ticket {
		return false
	}
	k.looks, k.struck = queue.ID{}, ticket
	k.stir()
	return true
}

// CancelAside takes a request out that waits here for a turn that the key's owner lends, as
// queue.Lanes.Cancel does for one in its lane, with the same errors.
func (p *Proxy) CancelAside(key []byte, ticket queue.ID) error {
	err := p.lanes.Cancel(queue.Aside, key, ticket)
	if errors.Is(err, queue.ErrRuns) && p.spills.strike(key, ticket) {
		return nil // the first one has the turn here, and none of the lane
	}
	return err
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

// Spilled is a key of another node's lane whose requests wait at this one.
type Spilled struct {
	Key     string
	Route   string // of the newest request
	Waiting int
	Running int
	Asked   int       // turns that have been asked for, and have not come
	Open    bool      // a turn has come, and requests run in it
	Until   time.Time // newcomers wait here
}

// Spilled returns the keys whose requests wait here for turns of other nodes, those with
// the most first.
func (p *Proxy) Spilled() []Spilled {
	p.spills.mu.Lock()
	defer p.spills.mu.Unlock()
	var all []Spilled
	for _, k := range p.spills.keys {
		s := Spilled{Key: string(k.key), Route: k.route.Name, Waiting: k.waiting, Running: k.running, Open: k.open != nil, Until: k.until}
		for _, t := range k.turns {
			if t.began.IsZero() {
				s.Asked++
			}
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Spilled) int { return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(a.Key, b.Key)) })
	return all
}
