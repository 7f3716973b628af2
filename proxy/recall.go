package proxy

import (
	"context"
	"fmt"
)

// Marks that are kept in a store as well outlive their node. A mark is saved after its
// request was run and before anybody is told so: what has been answered is never forgotten.
// It cannot be saved before the request is sent, for a number that was refused after all,
// or answered 503, would then be taken for done by who comes after a crash, and be lost.
// So a crash in between leaves a number that was run the next one. Where answers are
// replayed its record has been claimed in the same store before it was sent, and says that
// nobody knows; where they are not, it runs again if it is sent again.

// recall looks up what the store knows of a producer of which this node knows nothing. It
// is asked in the request's turn: nobody else raises the mark meanwhile. That nothing is
// known is not remembered, for the next number may come through another owner.
func (c *call) recall() *problem {
	rule, marks, n := &c.route.Sequence, c.config.Marks, c.sequence.Number
	store := c.config.MarkStores[rule.Store]
	if store == nil || marks.Knows(c.place.Partition, c.key, n.Producer) {
		return nil
	}
	epoch, done, known, err := store.Load(context.Background(), c.key, n.Producer)
	switch {
	case err != nil:
		c.proxy.metrics.storeErrors.WithLabelValues(rule.Store).Inc()
		c.proxy.log.Warn("the store of producers' marks does not answer", "event", "sequence-store-away", "route", c.route.Name, "store", rule.Store, "err", err)
		return idempotencyStoreAway.because(fmt.Sprintf("nobody can tell which numbers of producer %s are done", n.Producer))
	case !known:
		return nil
	}
	n.Epoch, n.Seq = epoch, done
	if marks.Learn(c.place.Partition, c.key, n, rule.TTL) != nil {
		return marksFull()
	}
	return nil
}

// save keeps the mark of a number that is done in the store. If that fails, the next
// number's mark makes up for it, unless the node crashes first.
func (c *call) save() {
	rule := &c.route.Sequence
	store := c.config.MarkStores[rule.Store]
	if store == nil {
		return
	}
	if err := store.Save(context.Background(), c.key, c.sequence.Number, rule.TTL); err != nil {
		c.proxy.metrics.storeErrors.WithLabelValues(rule.Store).Inc()
		c.proxy.log.Warn("that a number is done could not be recorded; after a crash it may be taken for the next one", "event", "sequence-unrecorded",
			"route", c.route.Name, "store", rule.Store, "ticket", c.id.String(), "err", err)
	}
}

func marksFull() *problem { return overloaded.because("the marks of producers are at their limit") }
