package proxy

import (
	"time"

	"lanekeeper/queue"
)

// A strict request is sent to its upstream only under a lease of this node: until that
// ends nobody else runs the key. So the lease is looked at last, when the connection is
// there, and what it is worth then is the call's deadline, which the upstream is told.
// The lease is renewed meanwhile. A call whose time is up looks again, and goes on with
// the new deadline if there is one; else it ends as if the upstream had timed out, and
// the lane is held: a call that was given up is not one that has stopped.

// strict reports whether the request has its turn in a lane whose requests are. What
// passes by its lane is not, whatever the route says.
func (c *call) strict() bool { return c.turn && c.lane.Strict && c.place.Partition != queue.Unowned }

// underLease notes how long a strict request may take, and its fence, or refuses it.
func (c *call) underLease() *problem {
	cluster, now := c.config.Cluster, time.Now() // the process may stand still after the answer
	var validFor time.Duration
	if c.mode == exclusive {
		var err error
		if c.fence, validFor, err = cluster.Strict(c.place.Partition); err != nil {
			return noOwner.because(err.Error())
		}
	} else if validFor = cluster.ValidFor(c.place.Partition); validFor <= 0 {
		return noOwner.because("this node has no valid lease from the coordinator")
	}
	c.deadline = earlier(c.limit, now.Add(validFor))
	return nil
}

// tethered reports whether the request may take only as long as this node is sure of
// its turn: of a lease, or of the turn itself if it was lent.
func (c *call) tethered() bool { return c.strict() || c.borrowed() }

func (c *call) borrowed() bool { return c.lent != nil && (!c.lent.call.Here || c.lent.lease != nil) }

// leash has the connection ask for more time when that is up.
func (c *call) leash() {
	if c.tethered() {
		c.link.wire.read.longer = c
	}
}

func (l *link) unleash() { l.wire.read.longer = nil }

// extend moves the deadline if the lease has been renewed. A shorter one than the
// lease's, of a part of the work, is not for it to move.
func (c *call) extend(now time.Time) bool {
	if now.Before(c.deadline) {
		return false
	}
	validFor := unbounded
	if c.borrowed() {
		validFor = c.lent.left()
	}
	if c.strict() && (c.lent == nil || c.lent.call.Here) {
		validFor = min(validFor, c.config.Cluster.ValidFor(c.place.Partition))
	}
	until := earlier(c.limit, now.Add(validFor))
	if !until.After(now) {
		return false
	}
	c.deadline = until
	c.link.wire.SetReadDeadline(until) //nolint:errcheck // a dead connection fails what it interrupts
	return true
}

// last is when the request's upstream has to have answered at the latest.
func (c *call) last() time.Time {
	if c.limit.After(c.deadline) {
		return c.limit
	}
	return c.deadline
}
