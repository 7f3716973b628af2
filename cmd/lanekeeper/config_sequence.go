package main

import (
	"fmt"
	"time"

	"lanekeeper/proxy"
)

// SequenceConfig is how requests that their producers number are put in order.
type SequenceConfig struct {
	Mode    string   `json:"mode" doc:"whether an exclusive request may, or must, carry Lanekeeper-Producer and Lanekeeper-Seq: those of a producer and a key then run in the order of their numbers, whatever way they came" enum:"none optional required"`
	Store   string   `json:"store" doc:"where it is kept which numbers are done. owner: in the memory of the key's owner; it moves with the key, and is lost when the node crashes: then 409 sequence-unknown. redis, postgres: also in stores, where it outlives all nodes; while the store does not answer, a producer that the owner does not know is refused (503)" enum:"owner redis postgres"`
	Start   string   `json:"start" doc:"what an unknown producer begins with: one, or any, the first number that is seen" enum:"one any"`
	GapWait Duration `json:"gap_wait" doc:"longest wait for the numbers before a request's; then 409 sequence-gap. It keeps nobody else waiting" min:"1ms"`
	MaxHeld int      `json:"max_held" doc:"requests of a key that wait so" min:"1" max:"65536"`
	Done    string   `json:"done" doc:"a number that is done: replay its answer, as idempotency.replay and idempotency.max_entry say, or a conflict (409). Answers are kept in the same store; without them, a number that is being run when the owner crashes runs again if it is sent again" enum:"replay conflict"`
	TTL     Duration `json:"ttl" doc:"how long a producer is remembered, from its last request" min:"1s"`
}

var sequenceWords = map[string]proxy.SequenceMode{
	"none": proxy.SequenceNone, "optional": proxy.SequenceOptional, "required": proxy.SequenceRequired,
}

func (s SequenceConfig) proxySequence() proxy.Sequence {
	if s.Mode == "none" {
		return proxy.Sequence{}
	}
	return proxy.Sequence{
		Mode: sequenceWords[s.Mode], Store: s.Store, AnyStart: s.Start == "any", GapWait: time.Duration(s.GapWait),
		MaxHeld: s.MaxHeld, Replay: s.Done == "replay", TTL: time.Duration(s.TTL),
	}
}

// checkSequence judges what a route says of it, with the route's lane.
func (c *checker) checkSequence(path string, r RouteConfig) {
	s := r.Sequence
	switch {
	case s.Mode == "none":
		return
	case !r.isExclusive():
		c.errorf(path+".mode", "%s, but no request of this route is exclusive: only those have an order", s.Mode)
	case r.Lane.Mode == "observe":
		c.errorf(path+".mode", "%s, but lane.mode is observe, which changes nothing: write none, or lane.mode: enforce", s.Mode)
	case r.Lane.Hot.Action == "spill":
		// A store does not help: what another node knows of a producer it does not ask for again.
		c.errorf(path+".mode", "%s, but lane.hot.action is spill: requests of a hot key then run at nodes that do not know which numbers are done", s.Mode)
	}
	for j, other := range c.cfg.Routes {
		if other.Key.Space == r.Key.Space && len(other.Coalesce) > 0 {
			c.errorf(path+".mode", "%s, but routes[%d] (%s) of the same space has rules in coalesce: a number that was superseded would be missing before the next one", s.Mode, j, other.Name)
			break
		}
	}
	c.checkMarkStore(path, r)
	if s.GapWait >= r.Lane.QueueTimeout {
		c.warnf(path+".gap_wait", "%s is not less than lane.queue_timeout (%s), which ends the wait", s.GapWait, r.Lane.QueueTimeout)
	}
}

// checkMarkStore judges where a route's marks are. A producer has one mark for a key,
// whichever route of its space a number comes through: were it kept in a store for some of
// them, what is there would be too low after a crash, and numbers would run again.
func (c *checker) checkMarkStore(path string, r RouteConfig) {
	store := r.Sequence.Store
	for j, other := range c.cfg.Routes {
		if path == fmt.Sprintf("routes[%d].sequence", j) {
			break // of two it is the later one that is told
		}
		if other.Key.Space == r.Key.Space && other.Sequence.Mode != "none" && other.Sequence.Store != store {
			c.errorf(path+".store", "%s, but that of routes[%d] (%s) of the same space is %s: a producer's numbers for a key are one row, whatever its routes", store, j, other.Name, other.Sequence.Store)
			break
		}
	}
	if store == storeOwner {
		return
	}
	if i := r.Idempotency; i.Mode != "none" && i.Store == storeOwner {
		c.warnf(path+".store", "%s, but idempotency.store is owner: a numbered request that has a name too is recorded there, and what ran when the owner crashed runs again if it is sent again", store)
	}
	c.needStore(path+".store", store)
}
