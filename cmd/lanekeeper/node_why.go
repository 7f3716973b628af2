package main

import (
	"fmt"
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
	if err := c.Ready(); err != nil {
		e.add(admin.Reason{Code: admin.WhyNotReady, Text: fmt.Sprintf("%s takes no part: %v.", e.node.config.name(), err), Advice: "See lanekeeper members, and whether the nodes reach each other."})
	}
	state := c.owners.State(e.at.Partition)
	switch {
	case state.Role == ownership.Claiming:
		e.add(claim(state, e.node.config.name()))
	case e.at.Owner == "" && e.at.Target == e.node.config.name():
		e.add(admin.Reason{Code: admin.WhyNoOwner, Who: namesOf(state.Silent), Text: "Nobody is known to own the partition, and this node may not take it yet.", Advice: "See lanekeeper members: who does not answer, and is not dead, has to be waited for."})
	}
	if state.WaitsFor != "" {
		e.add(admin.Reason{
			Code: admin.WhyLease, Who: []string{state.WaitsFor},
			Text:   fmt.Sprintf("The lease %s of another node has to end first: something of the partition may still run under it.", state.WaitsFor),
			Advice: "It ends by itself, coordinator.lease_ttl after its node was last heard of.",
		})
	}
	if lease, strict := c.owners.Lease(); strict && e.mine() && e.strict() && lease.ValidFor <= 0 {
		text := "This node has no valid lease, so that it runs nothing strict."
		if lease.Cause != nil {
			text = fmt.Sprintf("This node has no valid lease, so that it runs nothing strict: %v.", lease.Cause)
		}
		e.add(admin.Reason{Code: admin.WhyLease, Text: text, Advice: "See whether the coordinator can be reached from this node."})
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

func (e *explainer) strict() bool {
	r := e.route()
	return r != nil && r.Lane.Strict
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
