package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"lanekeeper/admin"
	"lanekeeper/queue"
)

// What an operator does about a lane of this node that is not halted.

func (n *node) holdLane(done admin.Relieved, partition int, lane []byte, r admin.Relief) (admin.Relieved, error) {
	space, _, _ := strings.Cut(string(lane), ":")
	h, err := n.lanes.Pause(partition, lane, r.Reason, n.proxy.TagOf("", space))
	done.Cause, done.Seconds = h.Cause, max(time.Since(h.Since), 0).Seconds()
	switch {
	case errors.Is(err, queue.ErrPaused):
		return done, fmt.Errorf("%w: since %s, and says %q", admin.ErrAlreadyHeld, h.Since.UTC().Format(time.RFC3339), h.Cause)
	case errors.Is(err, queue.ErrSealed):
		return done, n.elsewhere("")
	case err != nil:
		return done, fmt.Errorf("%w: %w", admin.ErrNotHeld, err)
	}
	n.actions.WithLabelValues(r.Action).Inc()
	n.log.Warn("an operator holds a lane: nothing begins in it until it is released", "event", "lane-held",
		"reason", r.Reason, n.proxy.Config().LogKeys.Attr(lane))
	return done, nil
}

// releaseLane ends both kinds of holds; with a ticket only the one of that.
func (n *node) releaseLane(done admin.Relieved, partition int, lane []byte, r admin.Relief) (admin.Relieved, error) {
	s, _ := n.lanes.Lane(partition, lane)
	for _, p := range s.Tickets {
		if p.Turn && (r.Ticket == "" || strings.EqualFold(p.ID.String(), r.Ticket)) && n.proxy.ReleaseHeld(p.ID) {
			done.Risk, done.Ticket, done.Seconds = true, p.ID.String(), p.Age.Seconds()
		}
	}
	paused := false
	if r.Ticket == "" {
		if h, err := n.lanes.Unpause(partition, lane); err == nil {
			paused = true
			done.Cause, done.Seconds = h.Cause, max(time.Since(h.Since), 0).Seconds()
		}
	}
	if !done.Risk && !paused {
		if to := n.proxy.LentTo(string(lane)); to != "" {
			return done, fmt.Errorf("%w: to %s, where a request of it may be held; its turn ends when that has been answered or hold_for has passed", admin.ErrLent, to)
		}
		return done, admin.ErrNotHeld
	}
	n.actions.WithLabelValues(r.Action).Inc()
	text := "an operator releases a lane that was held by hand"
	if done.Risk {
		text = "an operator releases a held lane although the upstream may still be working on its request: a risk to order"
	}
	n.log.Warn(text, "event", "lane-released", "risk", done.Risk, "reason", r.Reason, "ticket", done.Ticket, "held_s", tenths(done.Seconds),
		n.proxy.Config().LogKeys.Attr(lane))
	return done, nil
}

func (n *node) cancelTicket(done admin.Relieved, partition int, lane []byte, r admin.Relief) (admin.Relieved, error) {
	ticket, _ := queue.ParseID([]byte(r.Ticket)) // as was checked
	return n.cancelled(done, lane, r, ticket, n.lanes.Cancel(partition, lane, ticket))
}

// cancelAside is cancelTicket for what waits here for a turn of another node's lane.
func (n *node) cancelAside(done admin.Relieved, lane []byte, r admin.Relief) (admin.Relieved, error) {
	ticket, _ := queue.ParseID([]byte(r.Ticket)) // as was checked
	return n.cancelled(done, lane, r, ticket, n.proxy.CancelAside(lane, ticket))
}

func (n *node) cancelled(done admin.Relieved, lane []byte, r admin.Relief, ticket queue.ID, err error) (admin.Relieved, error) {
	switch {
	case errors.Is(err, queue.ErrRuns):
		return done, admin.ErrTicketRuns
	case err != nil:
		return done, admin.ErrNoTicket
	}
	done.Ticket, done.Cancelled = ticket.String(), 1
	n.actions.WithLabelValues(r.Action).Inc()
	n.log.Info("an operator cancels a request that waits", "event", "request-cancelled",
		"reason", r.Reason, "ticket", done.Ticket, n.proxy.Config().LogKeys.Attr(lane))
	return done, nil
}
