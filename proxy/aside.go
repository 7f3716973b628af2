package proxy

import (
	"time"
)

// onward sends the request to its lane. Whatever has a later ticket stands behind it.
func (c *call) onward() *problem {
	c.endWait(nil) // the next one is there
	c.first, c.ticket, c.turn = c.ticket, &c.own, false
	return c.forward()
}

// passOn lets the next one of those that wait here look for a turn, or go onward, when
// this one has its place elsewhere.
func (c *call) passOn() {
	if c.first == nil {
		return
	}
	k, first := c.aside, c.first
	c.aside, c.first = nil, nil
	k.leave()
	first.Done()
}

// borrow waits for a turn in which the request may run, when it is the first of those
// that wait here, or sends it to its lane.
func (c *call) borrow() *problem {
	skips := c.lane.ClientGone == Skip
	deadline := c.arrived.Add(c.patience)
	for look := firstLook; ; look = min(2*look, lastLook) {
		if skips && hungUp(c.ctx.Conn()) {
			c.laneWait = time.Since(c.arrived)
			return clientGone.because("")
		}
		t, opened, onward, err := c.aside.enter(c.id, c.lane.Strict)
		switch {
		case err != nil:
			c.laneWait = time.Since(c.arrived)
			return laneCancelled.because(err.Error())
		case t != nil:
			c.lent, c.laneWait = t, time.Since(c.arrived)
			c.route.metrics.spilled.Inc()
			return nil
		case onward:
			return c.onward()
		}
		c.aside.more(c.config.Cluster)
		until := deadline
		if skips {
			until = earlier(until, time.Now().Add(look))
		}
		wait := time.NewTimer(time.Until(until))
		select {
		case <-opened:
			wait.Stop()
			continue
		case <-c.aside.of.closed:
			wait.Stop()
			return draining.because(ErrStopping.Error())
		case <-wait.C:
		}
		if !time.Now().Before(deadline) {
			c.laneWait = time.Since(c.arrived)
			return laneTimeout.because("it waited " + c.patience.String() + " for a turn that its key's owner lends")
		}
	}
}

// underLoan notes how long a request may take that runs in a turn which was lent, and
// its fence, or refuses it.
func (c *call) underLoan() *problem {
	now := time.Now()
	validFor := c.lent.left()
	if validFor <= 0 {
		return ownershipMoved.because("the time of the turn is over that its key's owner has lent")
	}
	if err := c.config.Cluster.Awake(c.place.Partition, c.lent.began); err != nil {
		return ownershipMoved.because(err.Error())
	}
	if c.strict() && c.mode == exclusive && c.fence == 0 { // another attempt has the same: there is one for each request
		c.fence = c.lent.nextFence()
	}
	c.deadline = earlier(c.limit, now.Add(validFor))
	return nil
}
