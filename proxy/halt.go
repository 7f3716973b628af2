package proxy

import (
	"fmt"
	"time"

	"lanekeeper/queue"
)

// A lane with HaltLane stops when an exclusive request of it has failed: what comes
// after that request may rest on what it did not do. The failed one is answered as always; from
// then on nothing of its key runs, shared requests neither, until an operator lets the lane go on.
//
// A shared request that fails halts nothing: it was to read, so nothing that comes after
// rests on what it did, and its neighbours are at work beside it already.
//
// A turn that was lent halts nothing either, since only its borrower knows what became of its
// requests, and the lane is elsewhere: configurations that ask for both are refused where they are read.

// judge halts the request's lane if the request has failed, in its turn: the problem is what it is answered
// with, or nil if the upstream's response is. It is called before anything may end the turn.
func (c *call) judge(problem *problem) {
	policy, status := c.policy(), c.ctx.Response.StatusCode()
	switch {
	case policy.Action != HaltLane || !policy.failed(problem, status):
	case problem != nil:
		c.halt(problem.slug)
	default:
		c.halt(fmt.Sprintf("the upstream answered %d", status))
	}
}

// halt halts the request's lane, if its rule is to.
func (c *call) halt(cause string) {
	if c.policy().Action != HaltLane || c.mode != exclusive || c.lent != nil || !c.ticket.Halt(cause) {
		return
	}
	c.proxy.log.Warn("a lane is halted after a failure, until an operator lets it go on", "event", "lane-halted",
		"route", c.route.Name, "space", c.route.Key.Space, "ticket", c.ticket.ID.String(), "cause", cause, c.config.LogKeys.Attr(c.key))
}

// waited says what a request has waited for in vain.
func (c *call) waited() string {
	text := fmt.Sprintf("it waited %s for its turn; when it came, %d waited before it", c.patience, c.depth)
	if h, ok := c.proxy.lanes.Halted(c.place.Partition, c.key); ok {
		text += "; " + (&queue.HaltedError{Halt: h}).Error()
	}
	if h, ok := c.proxy.lanes.Paused(c.place.Partition, c.key); ok {
		text += "; an operator holds the lane of this key since " + h.Since.UTC().Format(time.RFC3339)
	}
	return text
}
