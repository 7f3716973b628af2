package proxy

import (
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"lanekeeper/queue"
)

// Ten new stock levels of one article are the last one, and a change before a delete
// is none. Where a route says so, a request that has to wait takes the place of those
// directly before it that it makes needless: they are answered at once, and never run.
//
// The rules are those of the newcomer's route. Whom they concern may be of any route
// of its space, for it is the lane that they share. What ends the search is the first
// request, from the back forwards, that no rule names: it may need what is before it, as a
// read does.
//
// The newcomer has not run, and may fail; those that it has superseded stay so.

// Coalesce is a rule by which one request supersedes others.
type Coalesce struct {
	By     string   // the method of the one that supersedes, exclusive
	Over   []string // the methods of those that it makes needless, exclusive
	Scope  Scope
	Status int // that they are answered with, without a body: 200, 202, 204. 0 or 409: 409 superseded
}

// Scope is how much alike two requests of a key must be for one to supersede the other.
type Scope uint8

// The scopes.
const (
	ScopePath Scope = iota // the same Host, path and query, byte for byte
	ScopeKey               // the key alone
)

// learnEffects makes ready what the requests of each route do to others. Of a method
// that no rule of its space names nothing need be known.
func learnEffects(routes []*route) {
	for _, r := range routes {
		for _, method := range namedByRules(routes, r.Key.Space) {
			e := queue.Effect{Kind: method}
			for _, rule := range r.Coalesce {
				if rule.By == method {
					e.Over = append(e.Over, rule.over()...)
				}
			}
			r.effects = append(r.effects, e)
		}
	}
}

func namedByRules(routes []*route, space string) (methods []string) {
	for _, r := range routes {
		if r.Key.Space != space {
			continue
		}
		for _, rule := range r.Coalesce {
			methods = append(append(methods, rule.By), rule.Over...)
		}
	}
	slices.Sort(methods)
	return slices.Compact(methods)
}

func (rule *Coalesce) over() (all []queue.Over) {
	for _, method := range rule.Over {
		all = append(all, queue.Over{Kind: method, Anything: rule.Scope == ScopeKey, Status: rule.Status})
	}
	return all
}

// doing is what the request does to others that wait, or nil. One that is not exclusive
// neither supersedes nor is superseded.
func (c *call) doing() *queue.Effect {
	if len(c.route.effects) == 0 || c.mode != exclusive {
		return nil
	}
	method := c.ctx.Request.Header.Method()
	for i := range c.route.effects {
		if e := &c.route.effects[i]; equalFold(method, e.Kind) {
			c.effect = *e
			c.effect.On = c.resource()
			return &c.effect
		}
	}
	return nil
}

// resource stands for what the request is about, at whatever node it came in, so it
// cannot be keyed. It is a whole SHA-256: two that are taken for one would leave a request
// unrun that should have been, and those who send them may want just that. Two spellings
// of one path are two, which only means that both run.
func (c *call) resource() [sha256.Size]byte {
	h := &c.ctx.Request.Header
	c.scratch = append(append(append(c.scratch[:0], h.Host()...), 0), h.RequestURI()...) // in which there is no 0: see target
	return sha256.Sum256(c.scratch)
}

// ended answers a request whose ticket was taken out of its lane.
func (c *call) ended(cause error) *problem {
	if superseded, ok := errors.AsType[*queue.Superseded](cause); ok {
		return c.superseded(superseded)
	}
	return evicted(cause)
}

// superseded ends a request that another one has made needless while it waited. Each such
// request comes by here once, at the node whose lane it waited in: its key's owner, or, if
// the key is spilled, the node that it came to. It was not sent, and will not be.
func (c *call) superseded(cause *queue.Superseded) *problem {
	c.laneWait = time.Since(c.arrived)
	c.route.metrics.coalesced.Inc()
	return c.lastWord(supersededWith(cause.Status).because("ticket " + cause.By.String() + " came after it and makes it needless"))
}
