package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"time"

	"lanekeeper/admin"
	"lanekeeper/peer"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// A node's lanes, as its operators see them.

// Lanes implements admin.Cluster.
func (n *node) Lanes(limit int) admin.Lanes {
	l := admin.Lanes{Node: n.config.name()}
	listed := make(map[string]bool)
	add := func(s *queue.Snapshot) {
		if len(l.Lanes) < limit && !listed[s.Key] {
			listed[s.Key] = true
			l.Lanes = append(l.Lanes, n.row(s))
		}
	}
	for _, s := range n.lanes.Stopped() {
		add(&s)
	}
	for _, s := range n.lanes.Deepest(limit) {
		add(&s)
	}
	for _, total := range n.lanes.Totals() {
		l.Total += total.Lanes
	}
	return l
}

// row is a lane in a list.
func (n *node) row(s *queue.Snapshot) admin.LaneRow {
	space, key, _ := strings.Cut(s.Key, ":")
	r := admin.LaneRow{
		Space: space, Key: key, Node: n.config.name(), Waiting: s.Depth, Running: s.Running,
		Hot: s.Hot, LentTo: n.proxy.LentTo(s.Key), WaitSeconds: waitFor(s.Depth, s.Service),
	}
	if len(s.Tickets) > 0 {
		head := s.Head()
		r.HeadTicket, r.HeadState, r.HeadAge = head.ID.String(), stateOfPlace(head), head.Age.Seconds()
		r.Ticket, r.Seconds, r.Route = r.HeadTicket, r.HeadAge, n.proxy.RouteOf(head.Tag).Name
		r.Held, r.HeldLeft = head.Held, n.heldLeft(head)
	}
	r.State = stateOfLane(s, &r)
	if h := s.Pause; h != nil {
		r.Hold = &admin.LaneHold{Reason: h.Cause, Seconds: max(time.Since(h.Since), 0).Seconds()}
		if r.Route == "" {
			r.Route = n.proxy.RouteOf(h.Tag).Name
		}
	}
	if h := s.Halt; h != nil {
		r.Cause, r.Ticket, r.Seconds, r.Route = h.Cause, h.Ticket.String(), max(time.Since(h.Since), 0).Seconds(), n.proxy.RouteOf(h.Tag).Name
	}
	return r
}

// stateOfLane is the first that is true.
func stateOfLane(s *queue.Snapshot, r *admin.LaneRow) string {
	switch {
	case s.Halt != nil:
		return admin.StateHalted
	case r.Held || s.Pause != nil:
		return admin.StateHeld
	case s.Blocked:
		return admin.StateBlocked
	case s.Sealed:
		return admin.StateDrained
	case r.LentTo != "":
		return admin.StateSpilled
	case s.Hot:
		return admin.StateHot
	}
	return admin.StateOK
}

// heldLeft is for how long a turn is held yet, nil if it is not.
func (n *node) heldLeft(p queue.Place) *float64 {
	if !p.Held {
		return nil
	}
	until, held := n.proxy.HeldUntil(p.ID)
	if !held {
		return nil
	}
	left := max(time.Until(until), 0).Seconds()
	return &left
}

// stateOfPlace is a ticket's state.
func stateOfPlace(p queue.Place) string {
	switch {
	case p.Held:
		return "held"
	case p.Turn:
		return "running"
	}
	return "waiting"
}

// asideShown is how many tickets a page shows of a key that waits for lent turns, at most.
const asideShown = 100

// Lane implements admin.Cluster.
func (n *node) Lane(space, key string) admin.LanePage {
	at := n.Locate(space, key, nil)
	page := admin.LanePage{Partition: at.Partition, Of: at.Of, Owner: at.Owner, Epoch: at.Epoch}
	s, ok := n.lanes.Lane(at.Partition, []byte(space+":"+key))
	page.LaneRow = admin.LaneRow{Space: space, Key: key, State: admin.StateIdle, Node: n.config.name()}
	if ok {
		page.LaneRow = n.row(&s)
	}
	for i, p := range s.Tickets {
		page.Tickets = append(page.Tickets, n.ticket(p, max(i+1-s.Running, 0), page.LentTo))
	}
	for _, k := range n.spilled() {
		if k.Space == space && k.Key == key {
			aside, _ := n.lanes.Lane(queue.Aside, []byte(space+":"+key))
			for _, p := range aside.Tickets[:min(len(aside.Tickets), asideShown)] {
				k.Tickets = append(k.Tickets, p.ID.String())
			}
			page.Spilled = append(page.Spilled, k)
		}
	}
	return page
}

func (n *node) ticket(p queue.Place, position int, lentTo string) admin.LaneTicket {
	t := admin.LaneTicket{
		Ticket: p.ID.String(), Position: position, State: stateOfPlace(p), Seconds: p.Age.Seconds(), Age: p.Whole.Seconds(), Class: "exclusive",
		Route: n.proxy.RouteOf(p.Tag).Name, Bytes: p.Bytes, Ingress: cmp.Or(p.Ingress, n.config.name()), HeldLeft: n.heldLeft(p),
	}
	if p.Class == queue.Shared {
		t.Class = "shared"
	}
	if p.Client.IsValid() {
		t.Client = p.Client.String()
	}
	if p.Trace != [16]byte{} {
		t.Trace = hex.EncodeToString(p.Trace[:])
	}
	if p.Turn {
		t.LentTo = lentTo
	}
	return t
}

// Others implements admin.Cluster.
func (n *node) Others() (names []string) {
	if n.cluster == nil {
		return nil
	}
	for _, m := range n.cluster.view.Load().Members {
		if m.Member != n.cluster.self {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Configuration implements admin.Cluster.
func (n *node) Configuration() admin.Configuration {
	n.reloads.mu.Lock()
	config, report := n.reloads.config, n.reloads.report
	n.reloads.mu.Unlock()
	c := admin.Configuration{Node: n.config.name(), Config: n.proxy.Config().Hash}
	if config == nil {
		return c
	}
	for _, l := range config.leaves(false) {
		s := admin.Setting{Path: l.Path, Value: userinfo.ReplaceAllString(l.Value, "//***@")}
		if report != nil {
			s.Origin = report.Origin(l.Path)
		}
		c.Settings = append(c.Settings, s)
	}
	return c
}

// userinfo is where a URL could hold a password. All other secrets are in files of their own.
var userinfo = regexp.MustCompile(`//[^/@\s]+@`)

// Ask implements admin.Cluster.
func (n *node) Ask(ctx context.Context, name string, q *admin.Question) (*admin.Told, error) {
	if n.cluster == nil {
		return nil, peer.ErrNoMember
	}
	m, ok := n.cluster.view.Load().Member(name)
	if !ok {
		return nil, peer.ErrNoMember
	}
	told, err := n.cluster.hop.Ask(ctx, m.Member, &peer.Ask{Method: q.Method, Target: q.Target, Body: q.Body})
	if err != nil {
		return nil, err
	}
	return &admin.Told{Status: told.Status, Type: told.Type, Body: told.Body}, nil
}

// tell answers another member's question.
func (n *node) tell(ctx context.Context, from ring.Member, a *peer.Ask) *peer.Told {
	told := n.api.Answer(ctx, from.Name, &admin.Question{Method: a.Method, Target: a.Target, Body: a.Body})
	return &peer.Told{Status: told.Status, Type: told.Type, Body: told.Body}
}
