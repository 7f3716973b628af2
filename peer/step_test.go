package peer

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"lanekeeper/queue"
)

// ID is a ticket's name.
type ID = queue.ID

// step is one thing that happens in a world: its kind, and to whom.
type step struct {
	kind stepKind
	at   int8
}

type stepKind uint8

// The kinds of steps. Those from stepCutHere on happen as often as the scenario
// allows; the others whenever they can.
const (
	stepEnter   stepKind = iota // the next request enters
	stepWriteUp                 // of a connection, as the following
	stepReadUp
	stepWriteDown
	stepReadDown
	stepEndHere  // C notices that the owner's end is closed
	stepEndThere // an owner closes its end, because C's is closed or has another
	stepDial     // to a node
	stepFinish   // the turn in a lane
	stepMove     // the scenario's next
	stepRouted   // the outbox is told of a change of the table
	stepRetry    // of a paused partition, when nothing is on its way
	stepRejoin   // a node that was gone is back in C's view
	stepView     // C's view has a restarted owner, and not the one it replaced

	stepCutHere   // C's end of a connection closes
	stepCutThere  // the owner's does
	stepEarly     // retry in spite of what is on its way
	stepCancel    // of a request
	stepGone      // a node is taken for dead by C
	stepDrop      // C is taken for dead by a node
	stepOrphan    // C has not been connected to a node for long
	stepPartition // of nothing; ends the list
	steps         = stepPartition
)

var stepNames = [steps]string{
	"enter", "C writes", "owner reads", "owner writes", "C reads", "C sees the end", "owner sees the end", "dial",
	"finish", "move", "routed", "retry", "rejoin", "view", "cut at C", "cut at the owner", "retry early", "cancel", "gone", "drop", "orphan",
}

func (s step) String() string { return fmt.Sprintf("%s %d", stepNames[s.kind], s.at) }

// laneOf and atLane number the lanes of all nodes.
func atLane(node, partition int) int { return 2*node + partition }

// steps lists what can happen next.
func (w *world) next(list []step) []step {
	add := func(k stepKind, at int) { list = append(list, step{k, int8(at)}) } //nolint:gosec // a handful
	allowed := func(k stepKind) bool { return w.spent[k] < w.scenario.allowed[k] }
	if w.entered < len(w.requests) {
		add(stepEnter, w.entered)
	}
	for i, c := range w.conns {
		if c.here && c.replied && w.current(c.link) && (w.ingress.kicked[c.link] || c.link.got > c.link.confirmed && w.quiet()) {
			add(stepWriteUp, i)
		}
		if c.there && len(c.up) > 0 {
			add(stepReadUp, i)
		}
		if s := c.hosted; c.there && s != nil && len(s.kick) > 0 && s.session.hears(c.generation) {
			add(stepWriteDown, i)
		}
		if c.here && len(c.down) > 0 {
			add(stepReadDown, i)
		}
		switch {
		case c.here && !c.there:
			add(stepEndHere, i)
		case !c.here, c.hosted != nil && !c.hosted.session.hears(c.generation): // or it has been replaced
			add(stepEndThere, i)
		case allowed(stepCutHere):
			add(stepCutHere, i)
		}
		if c.here && c.there && allowed(stepCutThere) {
			add(stepCutThere, i)
		}
	}
	for n := range w.owners {
		l := w.outbox().links[w.owners[n].self]
		if l == nil {
			l = w.oldLink(n)
		}
		if l != nil && w.connOf(l) == nil {
			add(stepDial, n)
		}
		if l == nil {
			add(stepRejoin, n)
		}
		if allowed(stepGone) && w.outbox().links[w.owners[n].self] != nil {
			add(stepGone, n)
		}
		if allowed(stepDrop) && len(w.owners[n].host.sessions) > 0 {
			add(stepDrop, n)
		}
		if allowed(stepOrphan) {
			for _, s := range w.owners[n].host.sessions {
				if s.session.deaf && len(s.session.open) > 0 {
					add(stepOrphan, n)
				}
			}
		}
		if w.oldLink(n) != nil {
			add(stepView, n)
		}
	}
	for n := range nodes {
		for p := range 2 {
			if w.runs(n, p) {
				add(stepFinish, atLane(n, p))
			}
		}
	}
	if w.moves < len(w.scenario.moves) {
		add(stepMove, 0)
	}
	if len(w.ingress.routes) > 0 {
		add(stepRouted, 0)
	}
	for p := range 2 {
		if f := w.outbox().flows[p]; f != nil && f.paused && (w.quiet() || allowed(stepEarly)) {
			if w.quiet() {
				add(stepRetry, p)
			} else {
				add(stepEarly, p)
			}
		}
	}
	for i := range w.requests[:w.entered] {
		if r := &w.requests[i]; allowed(stepCancel) && r.answer == noAnswer && !r.lost {
			add(stepCancel, i)
		}
	}
	return list
}

// quiet reports whether nothing is on its way: C waits with a confirmation for
// which there is no company.
func (w *world) quiet() bool {
	for _, c := range w.conns {
		if len(c.up)+len(c.down) > 0 {
			return false
		}
	}
	return true
}

// oldLink is C's link to an incarnation of a node that is no more.
func (w *world) oldLink(node int) *link {
	for m, l := range w.outbox().links {
		if self := w.owners[node].self; m.Name == self.Name && m != self {
			return l
		}
	}
	return nil
}

// do makes a step.
func (w *world) do(s step) {
	at := int(s.at)
	if s.kind >= stepCutHere {
		w.spent[s.kind]++
	}
	switch s.kind {
	case stepEnter:
		w.enter()
	case stepWriteUp:
		w.writeUp(w.conns[at])
	case stepReadUp:
		w.readUp(w.conns[at])
	case stepWriteDown:
		w.writeDown(w.conns[at])
	case stepReadDown:
		w.readDown(w.conns[at])
	case stepEndHere, stepCutHere:
		w.endHere(w.conns[at])
	case stepEndThere, stepCutThere:
		w.endThere(w.conns[at])
	case stepDial:
		l := w.outbox().links[w.owners[at].self]
		if l == nil {
			l = w.oldLink(at)
		}
		w.dial(l)
	case stepFinish:
		w.finish(at/2, at%2)
	case stepMove:
		w.move(w.scenario.moves[w.moves])
		w.moves++
	case stepRouted:
		p := w.ingress.routes[0]
		w.ingress.routes = w.ingress.routes[1:]
		r := w.ingress.table[p]
		w.outbox().routed(p, r.owner, r.epoch)
	case stepRetry, stepEarly:
		w.outbox().retry(at)
	case stepCancel:
		w.requests[at].cancelled = true
		w.outbox().cancel(w.requests[at].call)
	case stepGone:
		w.excused = true
		w.gone(w.outbox().links[w.owners[at].self])
	case stepRejoin:
		w.outbox().join(w.owners[at].self)
		for p := range 2 {
			if tenure := w.owners[at].lanes.tenure[p]; tenure > w.ingress.table[p].epoch {
				w.learn(p, route{w.owners[at].self, tenure})
			}
		}
		w.outbox().viewed()
	case stepView:
		w.gone(w.oldLink(at))
		w.outbox().join(w.owners[at].self)
		w.outbox().viewed()
	case stepDrop:
		w.excused = true
		o := &w.owners[at]
		for _, s := range o.host.all() {
			o.host.gone(s.session.ingress)
		}
		for _, c := range slices.Clone(w.conns) {
			if c.node == at && c.hosted != nil && c.hosted.dropped {
				w.endThere(c)
			}
		}
	case stepOrphan:
		for _, s := range w.owners[at].host.all() {
			if s.session.deaf {
				s.session.orphan()
			}
		}
	}
	w.check()
}

func (w *world) enter() {
	i := w.entered
	w.entered++
	r := &w.requests[i]
	r.ingress = w.ingress.self.Incarnation
	local := modelLocal{w, i}
	if w.outbox().isHere(r.partition) && local.AdmitHere(ID{}) {
		r.answer = ranHere
		return
	}
	r.call = NewCall(r.partition, local, &Request{Key: []byte("k"), Route: strconv.Itoa(i)}, time.Time{})
	w.outbox().enter(r.call)
}

func (w *world) move(m move) {
	switch lanes, table := w.lanesOf(m.node), w.tableOf(m.node); m.op {
	case give:
		delete(lanes.tenure, m.partition)
		r := route{w.member(m.to), m.epoch}
		if table[m.partition] = r; m.node == nodeC {
			w.learn(m.partition, r)
		}
	case take:
		lanes.tenure[m.partition] = m.epoch
		r := route{w.member(m.node), m.epoch}
		if table[m.partition] = r; m.node == nodeC {
			w.learn(m.partition, r)
		}
	case learn:
		w.learn(m.partition, route{w.member(m.node), m.epoch})
	case view:
		w.ingress.table[m.partition] = route{w.member(m.node), 0}
		w.outbox().viewed()
	case restart:
		if m.node == nodeC {
			w.restartIngress()
		} else {
			w.restart(m.node)
		}
	}
}

// learn changes C's table. Its outbox is told later.
func (w *world) learn(partition int, r route) {
	w.ingress.table[partition] = r
	if !slices.Contains(w.ingress.routes, partition) {
		w.ingress.routes = append(w.ingress.routes, partition)
	}
}

// gone is Hop.View without a member, whose partitions are nobody's, then, as far
// as C knows.
func (w *world) gone(l *link) {
	w.outbox().gone(l)
	if c := w.connOf(l); c != nil {
		w.endHere(c)
	}
	for p := range 2 {
		if w.ingress.table[p].owner == l.peer {
			w.learn(p, route{})
		}
	}
	w.outbox().viewed()
}

// restart replaces an owner by one that has nothing. What had its turn may have
// run.
func (w *world) restart(node int) {
	w.excused = true
	for p := range 2 {
		if queue := w.owners[node].lanes.queue[p]; w.runs(node, p) {
			w.ran(queue[0].request)
		}
	}
	old := w.owners[node]
	w.startOwner(node, old.self.Incarnation+1)
	for _, c := range slices.Clone(w.conns) {
		if c.node == node && c.there {
			c.hosted = nil
			w.endThere(c)
		}
	}
}

// restartIngress replaces C by one that has nothing.
func (w *world) restartIngress() {
	w.excused = true
	for i := range w.requests[:w.entered] {
		r := &w.requests[i]
		if r.answer == noAnswer {
			r.lost = true
		}
	}
	for _, c := range slices.Clone(w.conns) {
		if c.here {
			c.here, c.down = false, nil
		}
	}
	w.sweep()
	w.startIngress(w.ingress.self.Incarnation + 1)
}

// check looks for tickets that nobody waits for: they should have left.
func (w *world) check() {
	for n := range w.owners {
		for p := range 2 {
			for at, t := range w.owners[n].lanes.queue[p] {
				if t.in.session.open[t.in.seq] != t.in && (at > 0 || !w.runs(n, p)) {
					w.fail("x%d waits in a lane, and nobody waits for it", t.request)
				}
			}
		}
	}
}

// good reports whether everything has come to its end.
func (w *world) good() bool {
	if w.entered < len(w.requests) || w.moves < len(w.scenario.moves) || len(w.ingress.routes) > 0 {
		return false
	}
	for i := range w.requests {
		if r := &w.requests[i]; r.answer == noAnswer && !r.lost {
			return false
		}
	}
	for n := range nodes {
		for p := range 2 {
			if len(w.lanesOf(n).queue[p]) > 0 {
				return false
			}
		}
	}
	for _, f := range w.outbox().flows {
		if f.loose != 0 || f.backlog.head != nil {
			return false
		}
	}
	for _, l := range w.outbox().links {
		if len(l.calls) > 0 {
			return false
		}
	}
	for _, c := range w.conns {
		if s := c.hosted; c.here && c.replied && s != nil && s.session.hears(c.generation) && len(s.session.answers) > 0 {
			return false
		}
	}
	return true
}
