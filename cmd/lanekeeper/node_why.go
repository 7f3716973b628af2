package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"lanekeeper/admin"
	"lanekeeper/ownership"
	"lanekeeper/proxy"
	"lanekeeper/proxy/sequence"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// Why a key's requests wait, as far as this node knows: each reason is one thing that has to
// happen first, and what an operator may do about it.

// Why implements admin.Cluster.
func (n *node) Why(space, key string) admin.Why {
	at, page := n.Locate(space, key, nil), n.Lane(space, key)
	w := admin.Why{
		Node: n.config.name(), Partition: at.Partition, Of: at.Of, Owner: at.Owner, OwnerAddress: at.OwnerAddress, Epoch: at.Epoch,
		Target: at.Target, Partitioned: at.State, LaneState: page.State, Waiting: page.Waiting,
	}
	if len(page.Tickets) > 0 {
		w.Head = &page.Tickets[0]
	}
	e := explainer{node: n, lane: []byte(space + ":" + key), name: space + "/" + key, at: &at, page: &page}
	e.snapshot, _ = n.lanes.Lane(at.Partition, e.lane)
	w.Reasons = e.reasons()
	return w
}

// explainer collects reasons.
type explainer struct {
	node     *node
	lane     []byte
	name     string
	at       *admin.Location
	page     *admin.LanePage
	snapshot queue.Snapshot
	found    []admin.Reason
}

func (e *explainer) add(r admin.Reason) { e.found = append(e.found, r) }

func (e *explainer) reasons() []admin.Reason {
	e.stopped()
	e.cluster()
	e.head()
	e.gaps()
	e.aside()
	if len(e.found) == 0 && e.mine() {
		e.add(admin.Reason{Code: admin.WhyNothing, Text: "Nothing stops it: a request that came now would run at once, or soon."})
	}
	return e.found
}

func (e *explainer) mine() bool { return e.at.Owner == e.node.config.name() }

// cli is how an operator does something about the key.
func (e *explainer) cli(action string) string {
	return fmt.Sprintf("lanekeeper lanes %s '%s'", action, e.name)
}

// stopped is what an operator, or a failure, has stopped.
func (e *explainer) stopped() {
	if h := e.snapshot.Halt; h != nil {
		e.add(admin.Reason{
			Code: admin.WhyHalt, Ticket: h.Ticket.String(), Seconds: since(h.Since),
			Text:   fmt.Sprintf("The lane is halted since ticket %s failed %s ago: %s.", h.Ticket, seconds(since(h.Since)), h.Cause),
			Advice: fmt.Sprintf("Look what that request has done; then %s, or skip or fail in its place.", e.cli("resume")),
		})
	}
	if h := e.snapshot.Pause; h != nil {
		text := fmt.Sprintf("An operator holds the lane for %s", seconds(since(h.Since)))
		if h.Cause != "" {
			text += ": " + h.Cause
		}
		e.add(admin.Reason{Code: admin.WhyOperator, Seconds: since(h.Since), Text: text + ".", Advice: "It is ended by " + e.cli("release") + " alone."})
	}
}

func since(t time.Time) float64 { return max(time.Since(t), 0).Seconds() }

// cluster is what has to happen between nodes.
func (e *explainer) cluster() {
	c := e.node.cluster
	if c == nil {
		return
	}
	self := e.node.config.name()
	alone := c.company()
	if alone != nil {
		e.add(admin.Reason{Code: admin.WhyNotReady, Text: fmt.Sprintf("%s takes no part: %v.", self, alone), Advice: "See lanekeeper members, and whether the nodes reach each other by cluster.gossip and cluster.peer."})
	}
	state := c.owners.State(e.at.Partition)
	switch {
	case state.Role == ownership.Claiming:
		e.add(claim(state, self))
	case e.at.Owner == "" && e.at.Target == self && alone == nil:
		e.add(e.ownerless(state))
	}
	if state.WaitsFor != "" {
		e.add(admin.Reason{
			Code: admin.WhyLease, Who: []string{state.WaitsFor},
			Text:   fmt.Sprintf("%s waits for the end of another node's lease, %s, under which something of the partition may still run.", self, state.WaitsFor),
			Advice: "It ends by itself, coordinator.lease_ttl after its node was last heard of.",
		})
	}
	if lease, led := c.owners.Lease(); led && e.mine() && e.strict() {
		e.lease(lease, state)
	}
	if e.snapshot.Blocked {
		who := namesOf(c.owners.On(e.at.Partition, string(e.lane)))
		e.add(admin.Reason{
			Code: admin.WhyPredecessor, Who: who,
			Text:   fmt.Sprintf("A former owner may still run a request of the key: %s.", orDash(strings.Join(who, ", "))),
			Advice: "It goes on when that has ended, or its node is dead.",
		})
	}
	if n := e.snapshot.Depth + e.snapshot.Running; n > 0 && e.snapshot.Sealed {
		e.add(admin.Reason{
			Code: admin.WhyPredecessor, Who: []string{e.node.config.name()}, Ticket: e.snapshot.Head().ID.String(),
			Text: fmt.Sprintf("%s was the owner before, and still has %s of the key: the new owner waits for the end of that.", e.node.config.name(), plural(n, "request")),
		})
	}
}

// ownerless is why this node, for whom the partition is meant, does not ask for it yet.
func (e *explainer) ownerless(state ownership.State) admin.Reason {
	r := admin.Reason{
		Code: admin.WhyNoOwner, Who: namesOf(state.Silent),
		Text:   fmt.Sprintf("Nobody is known to own the partition, and %s, for whom it is meant, may not take it yet", e.node.config.name()),
		Advice: "See lanekeeper members: who does not answer, and is not dead, has to be waited for.",
	}
	if len(r.Who) > 0 {
		r.Text += ": it has not heard from " + strings.Join(r.Who, ", ")
	}
	r.Text += "."
	return r
}

// lease is why the owner may run nothing strict.
func (e *explainer) lease(lease ownership.Lease, state ownership.State) {
	self, store := e.node.config.name(), e.node.cluster.settings.store
	switch {
	case lease.ValidFor <= 0:
		cause := "it has ended"
		if lease.Cause != nil {
			cause = lease.Cause.Error()
		}
		e.add(admin.Reason{
			Code: admin.WhyLease, Who: []string{store},
			Text:   fmt.Sprintf("%s has no valid lease from the coordinator, %s, and runs nothing strict without one: %s.", self, store, cause),
			Advice: fmt.Sprintf("See whether that store runs, and %s reaches it. Until then the key's strict requests are answered 503 no-owner.", self),
		})
	case state.Title.Tenure == 0 && state.WaitsFor == "":
		e.add(admin.Reason{
			Code: admin.WhyLease, Who: []string{store},
			Text: fmt.Sprintf("The coordinator, %s, has not said yet that %s has the partition, which runs nothing strict of it before.", store, self),
		})
	}
}

func claim(state ownership.State, self string) admin.Reason {
	r := admin.Reason{Code: admin.WhyClaim, Who: namesOf(state.Silent), Text: fmt.Sprintf("%s takes the partition over.", self)}
	if len(r.Who) > 0 {
		r.Text = fmt.Sprintf("%s takes the partition over, and has not heard from %s about it yet.", self, strings.Join(r.Who, ", "))
		r.Advice = "See lanekeeper members: who does not answer, and is not dead, has to be waited for."
	}
	return r
}

func namesOf(members []ring.Member) (names []string) {
	for _, m := range members {
		names = append(names, m.Name)
	}
	return names
}

func (e *explainer) route() *proxy.Route {
	if len(e.snapshot.Tickets) == 0 {
		return nil
	}
	return e.node.proxy.RouteOf(e.snapshot.Head().Tag)
}

// strict reports whether any request of the key's space rests on the coordinator, also if none is there:
// those that are refused without a lease are in no lane.
func (e *explainer) strict() bool {
	space, _, _ := strings.Cut(string(e.lane), ":")
	return slices.ContainsFunc(e.node.proxy.Config().Routes, func(r proxy.Route) bool { return r.Key.Space == space && r.Lane.Strict })
}

// head is the turn that everything else waits for.
func (e *explainer) head() {
	if len(e.snapshot.Tickets) == 0 || !e.snapshot.Head().Turn {
		return
	}
	head, route := e.snapshot.Head(), e.route()
	ticket := head.ID.String()
	if left := e.node.heldLeft(head); head.Held {
		r := admin.Reason{
			Code: admin.WhyHold, Ticket: ticket, Who: []string{route.Upstream}, Seconds: head.Age.Seconds(), Left: left,
			Text:   fmt.Sprintf("Ticket %s has been answered, but its upstream %s may still be at work on it: the lane is held.", ticket, route.Upstream),
			Advice: fmt.Sprintf("If the service is known to be done with it: %s.", e.cli("release")),
		}
		if left != nil {
			r.Text += fmt.Sprintf(" It goes on by itself in %s.", seconds(*left))
		}
		e.add(r)
		return
	}
	if to := e.page.LentTo; to != "" {
		e.add(admin.Reason{
			Code: admin.WhyLentTurn, Ticket: ticket, Who: []string{to}, Seconds: head.Age.Seconds(),
			Text:   fmt.Sprintf("The key is hot, and its turn is lent to %s for %s, where its requests run.", to, seconds(head.Age.Seconds())),
			Advice: "It comes back by itself, also if that node dies.",
		})
		return
	}
	left := max(route.Lane.UpstreamTimeout-head.Age, 0).Seconds()
	then := ""
	if route.Lane.AfterTimeout == proxy.Hold {
		then = fmt.Sprintf(" Then the lane is held for up to %s, unless the service has answered or closed by then.", seconds(route.Lane.HoldFor.Seconds()))
	}
	e.add(admin.Reason{
		Code: admin.WhyUpstream, Ticket: ticket, Who: []string{route.Upstream}, Seconds: head.Age.Seconds(), Left: &left,
		Text: fmt.Sprintf("Ticket %s has been at its upstream %s for %s; it is given up %s from now.%s", ticket, route.Upstream, seconds(head.Age.Seconds()), seconds(left), then),
		Advice: fmt.Sprintf("See what %s does with it. A request that waits can be taken out: %s --ticket …; one that runs cannot.",
			route.Upstream, e.cli("cancel")),
	})
}

// gaps are numbered requests that wait for others.
func (e *explainer) gaps() {
	if e.node.records.marks == nil {
		return
	}
	before := ""
	for _, g := range e.node.records.marks.Gaps(e.at.Partition, e.lane) {
		if name := producerOf(g); name != before {
			before = name
			e.add(admin.Reason{
				Code: admin.WhySequenceGap, Who: []string{name},
				Text:   fmt.Sprintf("Number %d of producer %s waits for those from %d on, which have not come.", g.Seq, name, g.Done+1),
				Advice: "Have the producer send what is missing; else it is answered 409 sequence-gap when its time is up.",
			})
		}
	}
}

func producerOf(g sequence.Missing) string {
	if g.Epoch == 0 {
		return g.Producer
	}
	return fmt.Sprintf("%s;epoch=%d", g.Producer, g.Epoch)
}

// aside is what waits here for a turn of another node's lane.
func (e *explainer) aside() {
	for _, k := range e.page.Spilled {
		e.add(admin.Reason{
			Code: admin.WhyAside, Who: []string{e.at.Owner},
			Text: fmt.Sprintf("%s has %s of the key that came to it, and runs them in turns that the owner lends (%d asked for).", e.node.config.name(), plural(k.Waiting, "waiting request"), k.Asked),
		})
	}
}
