package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"lanekeeper/admin"
	"lanekeeper/membership"
	"lanekeeper/ownership"
	"lanekeeper/ring"
)

// A node as its operators see it: admin.Cluster.

var _ admin.Cluster = (*node)(nil)

// Status implements admin.Cluster.
func (n *node) Status() admin.Status {
	version, _ := buildVersion()
	s := admin.Status{Node: n.config.proxy.Node, Version: version, Config: n.proxy.Config().Hash, Members: 1, InRing: true, LastReload: n.reloads.last.Load()}
	for _, check := range n.readyChecks() {
		if err := check.Run(); err != nil {
			s.NotReady = append(s.NotReady, check.Name+": "+err.Error())
		}
	}
	s.Ready = len(s.NotReady) == 0
	if since := n.draining.Load(); since != 0 {
		at := time.Unix(0, since)
		s.DrainingSince = &at
	}
	for _, total := range n.lanes.Totals() {
		s.Lanes += total.Lanes
		s.Waiting += total.Waiting
		s.Running += total.Running
		s.Held += total.Held
		s.Halted += total.Halted
		s.Stopped += total.Paused
		s.OldestWait = max(s.OldestWait, total.OldestWait.Seconds())
	}
	s.Hot, s.LogLevel = len(n.lanes.Hot()), levelName(n.reloads.levels.level.Level())
	n.figures.fill(&s)
	if c := n.cluster; c != nil {
		view := c.view.Load()
		self, _ := view.Member(c.self.Name)
		counts := c.owners.Counts()
		s.Node, s.Cluster = c.self.Name, c.settings.name
		s.Incarnation = strconv.FormatUint(c.self.Incarnation, 16)
		s.Members, s.RingVersion = len(view.Members), view.Version
		s.InRing = self.Member == c.self && self.State == membership.Active
		s.Owned, s.Moving = counts.Owned, counts.Claiming+counts.Draining
		s.Lease, s.Dead = c.lease(), c.dead()
	}
	return s
}

// dead is whom this node takes for dead.
func (c *cluster) dead() (names []string) {
	if c.view.Load().Version == 0 {
		return nil // it has not joined yet
	}
	for _, m := range c.members.View().Dead {
		if m.State == membership.Dead {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return names
}

// lease is what this node has from the coordinator, nil without one.
func (c *cluster) lease() *admin.Lease {
	lease, strict := c.owners.Lease()
	if !strict {
		return nil
	}
	l := &admin.Lease{ID: lease.ID, Seconds: max(lease.ValidFor.Seconds(), 0), Age: lease.Age.Seconds(), Untitled: c.owners.Untitled()}
	// A lease is valid for a fixed time from when its last renewal was sent.
	if length := c.settings.leaseValid; length > 0 && lease.ValidFor > 0 {
		renewed := max(length-lease.ValidFor, 0).Seconds()
		l.Renewed = &renewed
	}
	if lease.Cause != nil {
		l.Away = c.away(lease.Cause).Error()
	}
	return l
}

func recordOf(s ownership.State) *admin.Record {
	r := &admin.Record{
		Holder: s.Record.Holder, Tenure: s.Record.Tenure, Stamp: max(s.Record.Stamp, s.Title.Stamp), Prev: s.Record.Prev,
		Titled: s.Title.Tenure > 0, WaitsFor: s.WaitsFor,
	}
	if held := s.Held.Seconds(); r.Titled && s.Held > 0 {
		r.Held = &held
	}
	return r
}

// Members implements admin.Cluster.
func (n *node) Members() admin.Members {
	c := n.cluster
	if c == nil {
		s := n.Status()
		return admin.Members{Node: s.Node, MinMembers: 1, Members: []admin.Member{{
			Name: s.Node, State: stateOf(membership.Active, s.DrainingSince != nil), Queued: &s.Waiting, Config: s.Config, Version: s.Version,
		}}}
	}
	view := c.view.Load()
	m := admin.Members{Cluster: c.settings.name, Node: c.self.Name, View: view.Version, MinMembers: c.settings.minMembers}
	share := c.share()
	for _, of := range [][]membership.Node{view.Members, c.members.View().Dead} {
		for _, node := range of {
			member := admin.Member{
				Name: node.Name, Incarnation: strconv.FormatUint(node.Incarnation, 16), State: stateOf(node.State, false),
				Address: node.GossipAddress, PeerAddress: node.PeerAddress, Zone: node.Zone, Target: share[node.Name],
				Config: node.ConfigHash, Version: node.Version, Since: node.Since,
			}
			if node.Member == c.self {
				s := n.Status()
				member.Owned, member.Queued = &s.Owned, &s.Waiting
			}
			if rtt := c.hop.RTT(node.Member).Seconds(); rtt > 0 {
				member.RTT = &rtt
			}
			m.Members = append(m.Members, member)
		}
	}
	return m
}

func stateOf(state membership.State, draining bool) string {
	switch {
	case state == membership.Draining || draining:
		return admin.StateDraining
	case state == membership.Left:
		return admin.StateLeft
	case state == membership.Dead:
		return admin.StateDead
	}
	return admin.StateAlive
}

// share is how many partitions are meant for whom.
func (c *cluster) share() map[string]int {
	if view := c.view.Load(); view.Ring != nil {
		return view.Ring.Share()
	}
	return nil
}

// Ring implements admin.Cluster.
func (n *node) Ring(partitions bool) admin.Ring {
	c := n.cluster
	if c == nil {
		return admin.Ring{Node: n.config.proxy.Node}
	}
	view := c.view.Load()
	r := admin.Ring{
		Cluster: c.settings.name, Node: c.self.Name, Version: view.Version,
		Layout: strconv.FormatUint(c.layout.Hash(), 16), Partitions: c.layout.Partitions,
	}
	if view.Ring == nil {
		return r
	}
	r.Hash = strconv.FormatUint(view.Ring.Hash(), 16)
	share := view.Ring.Share()
	for _, m := range view.Members {
		s := admin.Share{Name: m.Name, Target: share[m.Name]}
		if m.Member == c.self {
			owned := c.owners.Owned()
			s.Owned = &owned
		}
		r.Members = append(r.Members, s)
	}
	for p := range c.layout.Partitions {
		target := view.Ring.Target(p)
		owner, epoch := c.owners.Owner(p)
		if epoch > 0 && owner != target {
			r.Moving++
		}
		if partitions {
			state := c.owners.State(p)
			r.Table = append(r.Table, admin.Partition{
				Partition: p, Target: target.Name, Owner: known(owner, epoch), Epoch: epoch, State: stateName(state), Draining: state.Draining,
			})
		}
	}
	return r
}

// known is the name of an owner, if it is more than the ring's word.
func known(owner ring.Member, epoch uint64) string {
	if epoch == 0 {
		return ""
	}
	return owner.Name
}

func stateName(s ownership.State) string {
	if s.Role == ownership.Foreign && s.Draining > 0 {
		return "draining"
	}
	return s.Role.String()
}

// Locate implements admin.Cluster.
func (n *node) Locate(space, key string, without []string) admin.Location {
	lane := []byte(space + ":" + key)
	c := n.cluster
	if c == nil {
		name := n.config.proxy.Node
		return admin.Location{Node: name, Of: 1, Owner: name, Target: name, State: ownership.Owned.String(), Lane: n.lane(0, lane)}
	}
	view := c.view.Load()
	p := c.layout.Partition(lane)
	owner, epoch := c.owners.Owner(p)
	state := c.owners.State(p)
	l := admin.Location{
		Node: c.self.Name, Partition: p, Of: c.layout.Partitions,
		Owner: known(owner, epoch), Epoch: epoch, State: stateName(state), Lane: n.lane(p, lane),
	}
	if c.coordinator != nil {
		l.Record = recordOf(state)
	}
	if m, ok := view.Member(l.Owner); ok {
		l.OwnerAddress = m.PeerAddress
	}
	left := view.Ring
	for _, name := range without {
		if left != nil {
			left, _ = left.Without(name)
		}
	}
	for i := 0; left != nil && i <= nextMax; i++ {
		target := left.Target(p)
		switch {
		case target.IsZero():
			return l
		case i == 0:
			l.Target = target.Name
		default:
			l.Next = append(l.Next, target.Name)
		}
		left, _ = left.Without(target.Name)
	}
	return l
}

// nextMax is how many would-be owners Locate names.
const nextMax = 3

// lane is what is known here of a key's lane.
func (n *node) lane(partition int, key []byte) *admin.Lane {
	s, ok := n.lanes.Lane(partition, key)
	if !ok {
		return nil
	}
	l := &admin.Lane{Depth: s.Depth, Running: s.Running, Blocked: s.Blocked, WaitSeconds: waitFor(s.Depth, s.Service)}
	if h := s.Halt; h != nil {
		l.Halt = &admin.LaneHalt{Ticket: h.Ticket.String(), Cause: h.Cause, Seconds: max(time.Since(h.Since), 0).Seconds()}
	}
	if len(s.Tickets) > 0 {
		head := s.Head()
		l.Ticket, l.Seconds, l.TicketState = head.ID.String(), head.Age.Seconds(), "waiting"
		switch {
		case head.Held:
			l.TicketState = "held"
		case head.Turn:
			l.TicketState = "running"
		}
	}
	return l
}

// Journal implements admin.Cluster.
func (n *node) Journal() *admin.Journal { return n.journal }

var errEnding = errors.New("the process is ending already")

// Drain implements admin.Cluster.
func (n *node) Drain() error {
	if n.stopping.Load() {
		return errEnding
	}
	n.proxy.Spill(false)
	n.proxy.Retry(false)
	if n.draining.CompareAndSwap(0, time.Now().UnixNano()) {
		n.log.Info("draining", "event", "drain-begun", "why", "an operator says so")
	}
	return n.announce((*membership.Membership).Drain)
}

// Undrain implements admin.Cluster.
func (n *node) Undrain() error {
	if n.stopping.Load() {
		return errEnding
	}
	n.proxy.Spill(true)
	n.proxy.Retry(true)
	if n.draining.Swap(0) != 0 {
		n.drained.Store(false)
		n.log.Info("not draining any more", "event", "drain-undone")
	}
	return n.announce((*membership.Membership).Undrain)
}

// lookAtDrain tells when an operator's drain is done. The one at the end of the process
// tells of itself.
func (n *node) lookAtDrain() {
	if n.draining.Load() == 0 || n.stopping.Load() || n.drained.Load() {
		return
	}
	if status := n.Status(); status.Drained() {
		n.sayDrained()
	}
}

// sayDrained tells once, until there is another drain.
func (n *node) sayDrained() {
	since := n.draining.Load()
	if since != 0 && n.drained.CompareAndSwap(false, true) {
		n.log.Info("drained", "event", "drain-done", "took", time.Since(time.Unix(0, since)).Round(time.Millisecond).String())
	}
}

// announceMax is how long an operator waits for the others to hear.
const announceMax = 2 * time.Second

func (n *node) announce(intent func(*membership.Membership, context.Context) error) error {
	if n.cluster == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), announceMax)
	defer cancel()
	if err := intent(n.cluster.members, ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		n.log.Warn("the others may hear late of it", "error", fmt.Errorf("gossip: %w", err))
	}
	return nil
}
