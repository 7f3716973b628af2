package peer

import (
	"slices"
	"time"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

// The problems that the hop itself finds, by the slugs of their answers.
const (
	PeerLost   = "peer-lost"  // the owner was lost after it had the request
	Cancelled  = "cancelled"  // the ingress gave up before the request's turn
	Overloaded = "overloaded" // too much is on its way to other members
)

// Local is a request as the node that accepted it sees it.
type Local interface {
	// AdmitHere takes the request's ticket, under the given name, in this node's
	// own lanes, and reports false, with nothing done, if its partition is not
	// this node's. A refusal is kept by the request itself. It is called under a
	// lock and must not block.
	AdmitHere(id queue.ID) bool
}

// Call is a request on its way to its lane, which may be another member's. It
// ends once: with its ticket taken Here, or with a Response.
type Call struct {
	Partition int
	// Ticket is given by Send, unless it has been set between Reset and Send: to that of
	// a place aside, behind which everything has stood that came since.
	Ticket queue.ID

	// Turn: it asks for the turn of a key, and has no place aside. Ended is then told,
	// under a lock, that the call has ended, before anything else is read from the
	// member that answered. Both are set between Reset and Send.
	Turn  bool
	Ended func(c *Call)

	// Valid once Wait has returned true.
	Here     bool        // the ticket has been taken in this node's lanes, or refused
	Response Response    // else
	Owner    ring.Member // who answered, if somebody did

	local   Local
	payload []byte // of the REQUEST
	body    []byte // that travels apart
	until   time.Time
	done    chan struct{} // holds one element when the call has ended
	timer   *time.Timer   // of whoever waits

	// Guarded by the stripe's mutex.
	stripe     *stripe
	part       *load // that it is counted in
	order      uint64
	state      callState
	link       *link
	seq        uint64
	first      bool // carries the first bit
	cancelled  bool
	sendsBody  bool
	prev, next *Call
}

// NewCall makes a call: see Reset.
func NewCall(partition int, local Local, r *Request, until time.Time) *Call {
	c := new(Call)
	c.Reset(partition, local, r, until)
	return c
}

// Reset makes c, whose memory it uses again, the call of a request whose lane
// does not seem to be here. c must be new, or Wait has returned true and its
// request was not Bulk. until is when it stops waiting for its turn. r is not
// retained; r.Bulk is set here.
func (c *Call) Reset(partition int, local Local, r *Request, until time.Time) {
	*c = Call{Partition: partition, local: local, until: until, payload: c.payload[:0], done: c.done, timer: c.timer}
	if c.done == nil {
		c.done = make(chan struct{}, 1)
	}
	r.BodySize = len(r.Body)
	if r.Bulk = len(r.Body) > inlineMax; r.Bulk {
		c.body = append([]byte(nil), r.Body...)
		r.Body = nil
	}
	size := 128 + len(r.Key) + len(r.Route) + len(r.Head) + len(r.Body)
	c.payload = appendRequest(slices.Grow(c.payload, size), r)
}

// tell tells of c's end.
func (c *Call) tell() {
	if c.Ended != nil {
		c.tellEnded()
	}
	c.done <- struct{}{}
}

func (c *Call) tellEnded() {
	defer c.stripe.hop.rescue("ending a request", nothing)
	c.Ended(c)
}

// Wait blocks until c has ended, or until the given time, and reports which. One
// goroutine waits, again if it likes; once it has been told of the end, no more.
func (c *Call) Wait(until time.Time) bool { return c.WaitOr(until, nil) }

// WaitOr does the same, but waits no longer when quit is closed.
func (c *Call) WaitOr(until time.Time, quit <-chan struct{}) bool {
	select {
	case <-c.done:
		return true
	default:
	}
	if c.timer == nil {
		c.timer = time.NewTimer(time.Until(until))
	} else {
		c.timer.Reset(time.Until(until))
	}
	defer c.timer.Stop()
	select {
	case <-c.done:
		return true
	case <-c.timer.C:
		return false
	case <-quit:
		return false
	}
}
