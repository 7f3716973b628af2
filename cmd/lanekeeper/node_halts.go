package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lanekeeper/admin"
	"lanekeeper/queue"
)

// halts are the halted lanes of a node, as they travel, and as operators see them.
type halts struct{ *node }

// haltsVersion is of haltsDocument.
const haltsVersion = 1

// haltsDocument is a section of kind sectionHalts. Halts are few, so it is written to be read.
type haltsDocument struct {
	All   bool           `json:"all"` // of the partition: what it had earlier at the receiver is over
	Halts []haltDocument `json:"halts,omitempty"`
}

type haltDocument struct {
	Key    []byte    `json:"key"` // with its space
	Ticket string    `json:"ticket"`
	Cause  string    `json:"cause"`
	Since  time.Time `json:"since"`
	Route  string    `json:"route"`

	Operator bool `json:"operator,omitempty"` // it is an operator's hold. Who does not know that takes it for a halt, which can be resumed
}

func (h halts) version() uint8 { return haltsVersion }

// lasts: somebody may have resumed the lane elsewhere.
func (h halts) lasts() bool { return false }

// export says so, too, if nothing is halted: the receiver may have an older halt, which somebody here has
// ended.
func (h halts) export(partition int, except []string) []byte {
	found := h.lanes.ExportHalts(partition, func(key []byte) bool { return slices.Contains(except, string(key)) })
	return h.encode(haltsDocument{All: true}, found)
}

func (h halts) exportKey(partition int, key string) []byte {
	var all []queue.KeyHalt
	for _, of := range []func(int, []byte) (queue.Halt, bool){h.lanes.Halted, h.lanes.Paused} {
		if found, stopped := of(partition, []byte(key)); stopped {
			all = append(all, queue.KeyHalt{Key: key, Halt: found})
		}
	}
	if len(all) == 0 {
		return nil
	}
	return h.encode(haltsDocument{}, all)
}

func (h halts) encode(d haltsDocument, found []queue.KeyHalt) []byte {
	for _, k := range found {
		d.Halts = append(d.Halts, haltDocument{[]byte(k.Key), k.Ticket.String(), k.Cause, k.Since, h.proxy.RouteOf(k.Tag).Name, k.Operator})
	}
	data, err := json.Marshal(d)
	if err != nil {
		panic("lanekeeper: a halt cannot be encoded: " + err.Error())
	}
	return data
}

func (h halts) accept(partition int, version uint8, data []byte) {
	var d haltsDocument
	if err := json.Unmarshal(data, &d); version != haltsVersion || err != nil {
		h.log.Error("halted lanes of another node are lost: what it says of them makes no sense here", "partition", partition, "version", version, "error", err)
		return
	}
	var found []queue.KeyHalt
	for _, k := range d.Halts {
		ticket, _ := queue.ParseID([]byte(k.Ticket)) // the zero one can be resumed without a name
		found = append(found, queue.KeyHalt{Key: string(k.Key), Halt: queue.Halt{Ticket: ticket, Cause: k.Cause, Since: k.Since, Tag: h.tag(k.Route, string(k.Key)), Operator: k.Operator}})
		if k.Operator {
			h.log.Warn("a lane that an operator holds has come from another node, and is held here", "event", "lane-held",
				"route", k.Route, "reason", k.Cause, "since", k.Since, h.proxy.Config().LogKeys.Attr(k.Key))
			continue
		}
		h.log.Warn("a halted lane has come from another node, and is halted here", "event", "lane-halted",
			"route", k.Route, "ticket", k.Ticket, "cause", k.Cause, "since", k.Since, h.proxy.Config().LogKeys.Attr(k.Key))
	}
	h.lanes.ImportHalts(partition, found, d.All)
}

// tag is a route's; where the nodes' routes differ, that of another one with the key's space.
func (h halts) tag(route, key string) int {
	space, _, _ := strings.Cut(key, ":")
	return h.proxy.TagOf(route, space)
}

// Relieve implements admin.Cluster.
func (n *node) Relieve(space, key string, r admin.Relief) (admin.Relieved, error) {
	done := admin.Relieved{Node: n.config.name(), Space: space, Key: key, Action: r.Action}
	lane, partition := []byte(space+":"+key), 0
	if c := n.cluster; c != nil {
		if r.Action == admin.Cancel {
			if done, err := n.cancelAside(done, lane, r); !errors.Is(err, admin.ErrNoTicket) {
				return done, err
			}
		}
		partition = c.layout.Partition(lane)
		if owner, epoch := c.owners.Owner(partition); owner != c.self || epoch == 0 {
			return done, n.elsewhere(known(owner, epoch))
		}
	}
	var ticket queue.ID
	if r.Ticket != "" {
		ticket, _ = queue.ParseID([]byte(r.Ticket)) // as was checked
	}
	var h queue.Halt
	var err error
	switch r.Action {
	case admin.Hold:
		return n.holdLane(done, partition, lane, r)
	case admin.Release:
		return n.releaseLane(done, partition, lane, r)
	case admin.Cancel:
		return n.cancelTicket(done, partition, lane, r)
	case admin.Resume:
		h, err = n.lanes.Resume(partition, lane, ticket)
	case admin.Skip:
		h, done.Cancelled, err = n.lanes.Skip(partition, lane, ticket)
	case admin.Fail:
		h, done.Cancelled, err = n.lanes.Fail(partition, lane, ticket)
	}
	switch {
	case errors.Is(err, queue.ErrOtherHalt):
		return done, fmt.Errorf("%w: it is halted since %s by ticket %s", admin.ErrOtherHalt, h.Since.UTC().Format(time.RFC3339), h.Ticket)
	case err != nil:
		return done, admin.ErrNotHalted
	}
	done.Ticket, done.Cause, done.Seconds = h.Ticket.String(), h.Cause, max(time.Since(h.Since), 0).Seconds()
	n.actions.WithLabelValues(r.Action).Inc()
	n.log.Info("an operator lets a halted lane go on", "event", "lane-resumed",
		"action", r.Action, "reason", r.Reason, "route", n.proxy.RouteOf(h.Tag).Name,
		"ticket", done.Ticket, "cause", h.Cause, "cancelled", done.Cancelled, n.proxy.Config().LogKeys.Attr(lane))
	return done, nil
}

// elsewhere says where a lane is that is not here.
func (n *node) elsewhere(owner string) error {
	e := &admin.ElsewhereError{Node: n.config.name(), Owner: owner}
	if m, ok := n.cluster.view.Load().Member(owner); ok {
		e.PeerAddress = m.PeerAddress
	}
	return e
}
