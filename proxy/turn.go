package proxy

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"lanekeeper/queue"
)

// takeTurn takes a ticket and waits for its turn, here or, if its lane is
// another node's, there, which then also answers it. The body is already here,
// so that a slow client never holds a lane.
func (c *call) takeTurn() *problem {
	lane := c.lane
	c.patience = lane.QueueTimeout
	if wait, ok := preferredWait(c.fields.prefer); ok {
		c.prefers, c.patience = true, min(wait, c.patience)
	}
	c.place = c.placeFor(len(c.ctx.Request.Body()))
	if cluster := c.config.Cluster; cluster != nil {
		if err := cluster.Ready(); err != nil {
			return notReady.because(err.Error())
		}
		c.place.Partition = cluster.Partition(c.key)
		if !cluster.Enter(c.place.Partition, c) {
			return c.forward()
		}
		if c.aside == nil {
			c.proxy.metrics.local.Inc()
		}
	} else {
		c.AdmitHere(queue.ID{})
	}
	return c.turnHere()
}

// placeFor is what the request asks the lanes for.
func (c *call) placeFor(body int) queue.Request {
	lane := c.lane
	return queue.Request{
		Key: c.key, Class: c.class(), Bytes: body,
		MaxDepth: lane.MaxDepth, MaxBytes: lane.MaxBytes, MaxShared: lane.MaxShared,
		Hot: lane.Hot, ShedDepth: lane.shedDepth(), RefuseHalted: lane.AfterFailure.RefuseHalted,
		Holder: c.fields.holder, Tag: c.route.index, Effect: c.doing(), Origin: c.comesFrom(),
	}
}

// turnHere waits for the turn of a request whose place is in this node's lanes.
func (c *call) turnHere() *problem {
	c.admitted()
	if c.refusal != nil {
		return c.notAdmitted(c.refusal)
	}
	problem := c.onTime()
	if problem == nil {
		c.beginWait(time.Time{})
		problem = c.wait()
	}
	if c.aside == nil {
		c.endWait(problem)
		return problem
	}
	if problem == nil && !c.answered {
		problem = c.borrow()
	}
	if (problem != nil || c.answered) && c.aside != nil {
		c.aside.leave()
	}
	c.endWait(problem)
	return problem
}

func (c *call) admitted() {
	c.id, c.depth = c.ticket.ID, c.ticket.Depth
	c.session.used = true
	if c.lane.SpillLocks && c.ticket.Hot && c.mode == exclusive {
		c.proxy.spills.hint(c) // the owner's own requests need the lock as well
	}
}

func (c *call) notAdmitted(err error) *problem {
	switch {
	case errors.Is(err, errInProgress):
		c.named("conflict")
		return idempotencyInProgress.after(0, "a request of this name waits or runs")
	case errors.As(err, new(*queue.HaltedError)):
		return laneHalted.because(err.Error())
	case errors.Is(err, queue.ErrLaneFull):
		return laneFull.after(time.Duration(c.depth)*c.ticket.Service, fmt.Sprintf("%d requests wait for this key already", c.depth))
	case errors.Is(err, queue.ErrShed):
		c.route.metrics.shed.Inc()
		return laneFull.after(time.Duration(c.depth)*c.ticket.Service, fmt.Sprintf("this key is hot, and %d requests wait for it already", c.depth))
	case errors.Is(err, queue.ErrOverloaded):
		return overloaded.because("the node's limit of waiting requests, their bytes, or lanes is reached")
	case errors.Is(err, queue.ErrReentrant):
		return reentrantLane.because("this request carries the ticket of the one that runs for its key, which waits for it")
	case errors.Is(err, queue.ErrClosed):
		return draining.because("this node takes no new requests")
	}
	panic("proxy: unknown refusal: " + err.Error())
}

const (
	firstLook = 250 * time.Millisecond // at the client of a waiting request: is it still there?
	lastLook  = 2 * time.Second        // looks become rarer up to this, so that many waiting requests cost little
)

// wait blocks until the request's turn, its patience's end, or its client's.
func (c *call) wait() *problem {
	if c.ticket.Turn() {
		c.turn = true
		return nil
	}
	skips := c.lane.ClientGone == Skip
	deadline := c.arrived.Add(c.patience)
	for look := firstLook; ; look = min(2*look, lastLook) {
		until := deadline
		if next := time.Now().Add(look); skips && next.Before(deadline) {
			until = next
		}
		switch err := c.ticket.Wait(until); {
		case err == nil:
			c.turn, c.laneWait = true, c.ticket.Waited()
			if skips && c.laneWait > 0 && hungUp(c.ctx.Conn()) {
				return clientGone.because("")
			}
			return nil
		case !errors.Is(err, queue.ErrNotYet):
			return c.ended(err)
		}
		gone := until != deadline && hungUp(c.ctx.Conn())
		if until != deadline && !gone || !c.ticket.Leave() {
			continue // if it could not leave, its turn came in the same moment
		}
		c.laneWait = time.Since(c.arrived)
		if gone {
			return clientGone.because("")
		}
		return laneTimeout.after(time.Duration(c.depth)*c.ticket.Service,
			c.waited())
	}
}

// ErrStopping is why a node that shuts down evicts the tickets that still wait.
var ErrStopping = errors.New("the node shut down before the request's turn")

// evicted answers a request whose ticket was taken out of its lane.
func evicted(cause error) *problem {
	switch {
	case errors.Is(cause, ErrStopping):
		return draining.because(cause.Error())
	case errors.Is(cause, queue.ErrClosed):
		return draining.because("this node ends, and the key's lane is halted")
	case errors.As(cause, new(*queue.HaltedError)):
		return laneHalted.because(cause.Error())
	case errors.Is(cause, queue.ErrWithdrawn):
		return laneCancelled.because("an operator took it out of its lane while it waited")
	case errors.Is(cause, queue.ErrCancelled):
		return laneCancelled.because("it waited in a halted lane, which goes on without it")
	}
	return ownershipMoved.because(cause.Error())
}

// dispatch answers the request in its turn.
func (c *call) dispatch() *problem {
	if c.sequence != nil {
		return c.inSequence()
	}
	return c.onceOrNot()
}

// execute sends the request to its upstream.
func (c *call) execute() *problem {
	if !c.enter() {
		return overloaded.because("the node's limit of requests at upstreams is reached")
	}
	now := time.Now()
	c.deadline = now.Add(c.lane.UpstreamTimeout)
	c.limit = c.deadline
	c.prepare()
	return c.attempts(now)
}

// guard refuses what this node may not send to an upstream any more.
func (c *call) guard() *problem {
	cluster := c.config.Cluster
	if c.mode == bypass && c.place.Key == nil { // it never asked for a place
		return nil
	}
	if c.borrowed() {
		if problem := c.underLoan(); problem != nil || !c.lent.call.Here {
			return problem
		}
	}
	if cluster == nil || c.place.Partition == queue.Unowned {
		if c.strict() {
			return noOwner.because("this node has no cluster, and so no coordinator")
		}
		return nil
	}
	if err := cluster.Guard(c.place.Partition, c.arrived); err != nil {
		return ownershipMoved.because(err.Error())
	}
	if c.strict() {
		return c.underLease()
	}
	return nil
}

// enter counts a request that goes to an upstream, unless there are too many.
func (c *call) enter() bool {
	if c.proxy.inflight.Add(1) > int64(c.config.MaxInflight) {
		c.proxy.inflight.Add(-1)
		return false
	}
	c.counted = true
	return true
}

// free ends what the request holds of the node: its turn, and its place among
// the requests in flight. It may be called again.
func (c *call) free() {
	if c.counted {
		c.counted = false
		c.proxy.inflight.Add(-1)
	}
	if c.turn {
		c.turn = false
		if c.endTurn() {
			// The next request of the key goes to the upstream before this one's
			// answer to its client: on a busy lane that is what the lane waits for.
			runtime.Gosched()
		}
	}
}

// endTurn ends a turn, and reports whether it was passed on at this node. Attempts that were
// given up keep it for as long as a held lane is kept.
func (c *call) endTurn() bool {
	if c.keeps.Add(-1) >= 0 {
		c.ticket.Hold()
		return false
	}
	if c.lent != nil {
		c.lent.ran() // first: the next one looks for its own
	}
	return c.ticket.Done()
}
