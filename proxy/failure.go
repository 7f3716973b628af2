package proxy

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// AfterFailure is what a lane does when a request of it has failed: its upstream answered
// with one of Statuses, or nobody can say what became of it, or it could not be sent. The
// zero value goes on as if nothing had happened.
//
// What the key's owner has in its own route counts, as with Lane.Hot: a lane goes by one rule,
// not by that of the node which a request happened to come to.
type AfterFailure struct {
	Action   FailureAction
	Statuses Statuses // of responses that are failures

	// Retry.
	Attempts   int           // in all, the first one included
	Backoff    time.Duration // most that is waited before the second attempt; it doubles each time,
	MaxBackoff time.Duration // up to this

	// UpstreamIdempotent declares that running a request again has no further effect, even
	// beside itself. Only then is one sent again that may have been executed.
	UpstreamIdempotent bool

	// RefuseHalted has the requests of a halted lane refused: 423 lane-halted. Else they wait for
	// as long as for any turn.
	RefuseHalted bool
}

// FailureAction is the policy after a failure.
type FailureAction uint8

// The policies after a failure.
const (
	Continue FailureAction = iota // the client is told, and the next request of the key runs
	Retry                         // the request keeps its turn and is attempted again
	HaltLane                      // nothing of the key runs until an operator says so; after a shared request it goes on
)

// policy is what the lane does after a failure of this request. Outside a lane, or where a
// lane is only watched, nothing is done.
func (c *call) policy() *AfterFailure {
	if !c.turn || c.mode == bypass || c.lane.Mode == Observe {
		return &noPolicy
	}
	return &c.route.Lane.AfterFailure
}

var noPolicy AfterFailure

// failed reports whether an attempt with this result has failed. What this node itself
// refused to send is no failure of the upstream, and says nothing about the next request.
func (a *AfterFailure) failed(problem *problem, status int) bool {
	if problem == nil {
		return a.Statuses.Has(status)
	}
	switch problem.kind {
	case upstreamConnect, noUpstream, upstreamReset, upstreamInvalid, upstreamTimeout:
		return true
	}
	return false
}

// persist attempts the request until it does not fail, or as often as the lane says, within
// the time that one attempt would have had. It keeps the turn all the while: whatever
// waits behind it still runs after it.
//
// Each attempt passes the guard, and so in strict mode draws a fence of its own, above
// those before: a resource that has seen the later attempt then refuses the earlier one, should
// that still be under way. With equal fences it would take both, in either order. (In
// a turn that was lent all have the same, since there is one for each request; a resource
// accepts an equal fence as the same dispatch.)
//
// The answer is that of the last attempt, unless that one says "not executed" and an earlier
// one was sent: then it is the last of those, or it would be a lie.
func (c *call) persist(policy *AfterFailure) *problem {
	var sent sentAttempt
	defer sent.release()
	for made := 1; ; made++ {
		c.again = policy.UpstreamIdempotent && made < policy.Attempts
		problem := c.attempt(time.Now())
		c.again = false
		response := &c.ctx.Response
		switch {
		case !policy.failed(problem, response.StatusCode()) || !c.repeatable(policy, problem, made):
			return sent.instead(problem, response)
		case problem == nil || problem.executed == unknown:
			sent.keep(problem, response)
		}
		switch c.pause(policy.backoff(made), &sent) {
		case clientLeft:
			return clientGone.because("")
		case timeUp:
			return sent.instead(problem, response)
		}
		c.route.metrics.retries.Inc()
		response.ResetBody()
		response.SkipBody = false
	}
}

// repeatable reports whether a failed attempt may be followed by another. A response that
// streams may not: its beginning is on its way to the client, and the rest is under its lane.
func (c *call) repeatable(policy *AfterFailure, problem *problem, made int) bool {
	if made >= policy.Attempts || c.later {
		return false
	}
	return policy.UpstreamIdempotent || problem != nil && problem.executed == no
}

// backoff is how long to wait after so many attempts: anything up to a bound that doubles,
// so that those that failed together do not come back together.
func (a *AfterFailure) backoff(made int) time.Duration {
	most := a.MaxBackoff
	if doubled := a.Backoff << (made - 1); doubled > 0 && doubled>>(made-1) == a.Backoff {
		most = min(most, doubled)
	}
	return time.Duration(rand.Int64N(int64(max(most, 0)) + 1)) //nolint:gosec // no secret
}

// pauseEnd is why a pause has ended.
type pauseEnd uint8

const (
	goesOn     pauseEnd = iota
	timeUp              // there is none left for another attempt, or this node gives its lanes away
	clientLeft          // and nothing was ever sent
)

// pause waits in the request's turn. A client is looked for only at the node that it is
// connected to: whoever forwarded the request cancels no turn.
func (c *call) pause(d time.Duration, sent *sentAttempt) pauseEnd {
	until := time.Now().Add(d)
	if !until.Before(c.limit) {
		return timeUp
	}
	watches := c.from == nil && c.lane.ClientGone == Skip && !sent.any
	ended := c.proxy.retrying.over()
	for look := firstLook; ; look = min(2*look, lastLook) {
		wait := time.NewTimer(min(time.Until(until), look))
		select {
		case <-wait.C:
		case <-ended:
			wait.Stop()
			return timeUp
		}
		if watches && hungUp(c.ctx.Conn()) {
			return clientLeft
		}
		if !time.Now().Before(until) {
			return goesOn
		}
	}
}

// sentAttempt is the result of the last attempt that was sent, while others follow.
type sentAttempt struct {
	any      bool
	problem  *problem
	response *fasthttp.Response // if there is no problem
}

func (s *sentAttempt) keep(problem *problem, response *fasthttp.Response) {
	s.any, s.problem = true, problem
	if problem == nil {
		if s.response == nil {
			s.response = fasthttp.AcquireResponse()
		}
		response.CopyTo(s.response)
	}
}

// instead is the problem to answer with, where problem is the last attempt's.
func (s *sentAttempt) instead(problem *problem, response *fasthttp.Response) *problem {
	if !s.any || problem == nil || problem.executed == unknown {
		return problem
	}
	if s.problem == nil {
		s.response.CopyTo(response)
	}
	return s.problem
}

func (s *sentAttempt) release() {
	if s.response != nil {
		fasthttp.ReleaseResponse(s.response)
		s.response = nil
	}
}

// retrying says whether failed requests wait for another attempt.
type retrying struct {
	mu    sync.Mutex // guards the rest
	ended chan struct{}
	off   bool
}

func newRetrying() *retrying { return &retrying{ended: make(chan struct{})} }

// over is closed when nobody waits any more.
func (r *retrying) over() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// Retry says whether failed requests may wait for another attempt, which they may at first.
// On a node that gives its lanes away those that wait are answered with what they have: they
// would hold their keys' new owner up.
func (p *Proxy) Retry(may bool) {
	r := p.retrying
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case may && r.off:
		r.ended, r.off = make(chan struct{}), false
	case !may && !r.off:
		close(r.ended)
		r.off = true
	}
}
