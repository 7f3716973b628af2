package ownership

import (
	"fmt"
	"slices"
)

// loan is a turn of a key that its owner has lent to a helper: a request that has begun
// in the owner's lane and runs, if at all, at the helper. The owner's lane is at work
// until it hears that it is over, or takes it to be: the helper's deadline comes before
// the owner's, so that what can run no more has run no more by then.
type loan struct {
	owner, helper, key, request int
	lease                       int // of the owner
	fence                       uint64
	phase                       phase
	ended                       bool // the owner's lane goes on
}

type phase uint8

const (
	offered phase = iota // on its way to the helper
	atWork               // there
	over                 // it runs no more, or never will
)

// Actions of a world in which turns are lent.
const (
	lend     actionKind = freezeCall + 1 + iota // a: node, b: key and helper, see lendTo
	borrow                                      // a: which loan; its helper reads of it
	giveBack                                    // a: which loan; its helper runs it no more
	endTurn                                     // a: which loan; its owner knows that it is over
	actionKinds
)

func (w *world) lendTo(i, key, j int) action { return action{lend, i, key*len(w.nodes) + j} }

// loanOf is the turn of a key that node i has lent and not got back.
func (w *world) loanOf(i, key int) int {
	return slices.IndexFunc(w.loans, func(l loan) bool { return l.owner == i && l.key == key && !l.ended })
}

// loanActions returns what may happen to what is lent.
func (w *world) loanActions() (can []action) {
	for n, l := range w.loans {
		switch l.phase {
		case offered:
			can = append(can, action{borrow, n, 0})
		case atWork:
			if w.mayGiveBack(l) {
				can = append(can, action{giveBack, n, 0})
			}
		}
		if !l.ended && w.mayEnd(l) {
			can = append(can, action{endTurn, n, 0})
		}
	}
	return can
}

// lends returns which turns may be lent, and to whom.
func (w *world) lendActions() (can []action) {
	for i, n := range w.nodes {
		for k := range w.keys {
			for j := range w.nodes {
				if n.alive() && w.lends > 0 && w.mayLend(i, k, j) {
					can = append(can, w.lendTo(i, k, j))
				}
			}
		}
	}
	return can
}

func (w *world) mayLend(i, key, j int) bool {
	n := w.nodes[i]
	if j == i || !n.sees(j) || !w.nodes[j].alive() || !n.lanes.busy(key) || !n.lanes.lanes[key].running || w.loanOf(i, key) >= 0 {
		return false
	}
	if h := w.rules.helper; h != "" && h != w.nodes[j].member.Name {
		return false
	}
	if w.store == nil {
		return true
	}
	c := w.store.callOf(i, key)
	p := w.rules.keys[key].partition
	return c >= 0 && !w.store.calls[c].frozen && !w.store.calls[c].given && n.holder.titles[p].Tenure != 0 && n.holder.under[p] == n.holder.lease && !n.holder.lapsed
}

// mayGiveBack reports whether the helper's run can have ended: in a strict world its
// call has to be there first.
func (w *world) mayGiveBack(l loan) bool {
	c := w.lentCall(l)
	return w.nodes[l.helper].alive() && (c < 0 || w.store.calls[c].landed)
}

// mayEnd reports whether the owner may take a turn for over. It waits for longer than
// the helper has, and services end what they do by then: but the write of one that is
// frozen may come at any time.
func (w *world) mayEnd(l loan) bool {
	if !w.nodes[l.owner].alive() {
		return false
	}
	c := w.lentCall(l)
	return l.phase == over && c < 0 || c >= 0 && w.store.calls[c].frozen && !w.store.calls[c].landed
}

// lentCall is the strict call of a loan.
func (w *world) lentCall(l loan) int {
	if w.store == nil {
		return -1
	}
	return slices.IndexFunc(w.store.calls, func(c storeCall) bool {
		return c.lent && c.node == l.helper && c.key == l.key && c.fence == l.fence
	})
}

// doLoan does one of loanActions, or lend.
func (w *world) doLoan(a action) {
	if a.what == lend {
		w.lend(a.a, a.b/len(w.nodes), a.b%len(w.nodes))
		return
	}
	l := w.loans[a.a]
	switch a.what {
	case borrow:
		w.borrow(a.a)
	case giveBack:
		w.loanTo(a.a, over)
		w.stops(l)
		w.own(l.helper)
		w.event(l.helper, func(t *Table) { t.Helped(w.rules.keys[l.key].partition, []byte(w.rules.keys[l.key].name)) })
	case endTurn:
		w.loans = slices.Clone(w.loans)
		w.loans[a.a].ended = true
		w.own(l.owner).lanes.finish(l.key, w.rules.keys[l.key])
		w.note(l.owner)
	}
	w.forgetLoans()
}

// lend takes the request that runs at node i from it.
func (w *world) lend(i, key, j int) {
	w.lends--
	n := w.own(i)
	l := loan{owner: i, helper: j, key: key, request: n.lanes.lanes[key].queue[0]}
	if w.store == nil {
		w.keys[key].running--
	} else {
		h := &n.holder
		p := w.rules.keys[key].partition
		h.counts[p]++
		l.lease, l.fence = h.lease, h.titles[p].Stamp*16+h.counts[p]
		c := w.store.callOf(i, key)
		w.store.calls = slices.Delete(w.store.calls, c, c+1)
	}
	w.loans = append(slices.Clip(w.loans), l)
}

// borrow has a helper read that it was lent a turn: it runs it, if it may.
func (w *world) borrow(at int) {
	l := w.loans[at]
	name := w.rules.keys[l.key].name
	may := false
	w.own(l.helper)
	w.event(l.helper, func(t *Table) { may = t.Help(w.rules.keys[l.key].partition, []byte(name), w.nodes[l.owner].member) })
	if !may {
		w.loanTo(at, over)
		return
	}
	w.loanTo(at, atWork)
	if w.store == nil {
		w.starts(l.helper, startedRequest{l.key, l.request})
		return
	}
	w.store.calls = append(w.store.calls, storeCall{node: l.helper, key: l.key, request: l.request, lease: l.lease, fence: l.fence, lent: true})
	if w.store.pauses == 0 {
		w.landed(len(w.store.calls) - 1)
	}
}

// stops ends the run of a loan, wherever it is counted.
func (w *world) stops(l loan) {
	if w.store == nil {
		w.keys[l.key].running--
	} else if c := w.lentCall(l); c >= 0 {
		w.store.calls = slices.Delete(w.store.calls, c, c+1)
	}
}

func (w *world) loanTo(at int, next phase) {
	w.loans = slices.Clone(w.loans)
	w.loans[at].phase = next
}

// voidLoans is about offers that nobody reads any more.
func (w *world) voidLoans(void func(loan) bool) {
	for at, l := range w.loans {
		if l.phase == offered && void(l) {
			w.loanTo(at, over)
		}
	}
	w.forgetLoans()
}

// unseenLoans is about offers from whom node j does not see any more: it has dropped
// the connection by which they would come.
func (w *world) unseenLoans(j int) {
	w.voidLoans(func(l loan) bool { return l.helper == j && !w.nodes[j].sees(l.owner) })
}

// loansOfDead is about node i, which is gone. What it had offered may still be read.
func (w *world) loansOfDead(i int) {
	for at, l := range w.loans {
		if l.helper == i && l.phase == atWork {
			w.loanTo(at, over)
			if w.store == nil { // else the service goes on with it
				w.stops(l)
			}
		}
	}
	w.voidLoans(func(l loan) bool { return l.helper == i })
}

// forgetLoans forgets those that are over for both.
func (w *world) forgetLoans() {
	w.loans = slices.DeleteFunc(slices.Clone(w.loans), func(l loan) bool {
		return l.phase == over && (l.ended || !w.nodes[l.owner].alive())
	})
}

// helps reports whether node i has a turn of another, or will when it reads of it.
func (w *world) helps(i int) bool {
	return slices.ContainsFunc(w.loans, func(l loan) bool { return l.helper == i && l.phase != over })
}

func (l loan) appendState(b []byte) []byte {
	b = append(b, byte(l.owner), byte(l.helper), byte(l.key), byte(l.request), byte(l.lease), byte(l.phase), bit(l.ended, 1))
	return appendNumbers(b, l.fence)
}

// describeLoan is for people who look for the cause of a failure.
func (w *world) describeLoan(a action) string {
	name := func(i int) string { return w.nodes[i].member.String() }
	if a.what == lend {
		k := a.b / len(w.nodes)
		return fmt.Sprintf("%s lends the turn of request %d of %s to %s", name(a.a), w.nodes[a.a].lanes.lanes[k].queue[0], w.rules.keys[k].name, name(a.b%len(w.nodes)))
	}
	l := w.loans[a.a]
	turn := fmt.Sprintf("the turn of request %d of %s", l.request, w.rules.keys[l.key].name)
	switch a.what {
	case borrow:
		return fmt.Sprintf("%s reads that %s has lent it %s", name(l.helper), name(l.owner), turn)
	case giveBack:
		return fmt.Sprintf("%s ends %s of %s", name(l.helper), turn, name(l.owner))
	case endTurn:
		return fmt.Sprintf("%s knows that %s at %s is over", name(l.owner), turn, name(l.helper))
	}
	return "nothing"
}
