package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"lanekeeper/queue"
)

// Unknown is a request that had a lane and whose outcome nobody can say: it was
// answered with "executed": "unknown", or its response broke off while it streamed.
// It is what a person needs who looks after the data, so its key is in plain text.
//
// There is one from the node that knows most: the one that ran the request or, if
// that was lost, the one that accepted it. Both may have one, if the answer is lost
// between them; then with the same Ticket, which no other request has.
type Unknown struct {
	Ticket queue.ID
	Space  string
	Key    string // its bytes, without the space
	Route  string
	Method string // empty: this node never had it whole

	Node     string // which knows this
	Owner    string // which has the key's lane; empty: not known here
	Ingress  string // which accepted the request for Node; empty: Node did
	Client   string // its address; empty if there is an Ingress, which has it
	Upstream string // its name
	Target   string // of it; empty: none was asked by this node

	Slug   string // of the answer, or of what would have been if it had not begun
	Status int    // of the answer that had begun; 0: the answer is Slug's
	Detail string

	Arrived    time.Time // at this node
	Dispatched time.Time // the first byte to the target; zero: this node sent none
	Sent       int       // bytes of it that the system took for the target, head included
	Ended      time.Time // when nobody waited any longer
}

// noteUnknown tells of the request, once, if nobody can say what became of it. It is
// called before the hop takes back what it has of a forwarded request.
func (c *call) noteUnknown(problem *problem) {
	if problem == nil {
		problem = c.broke
	}
	if problem == nil || problem.executed != unknown || c.noted || !c.laned() {
		return
	}
	if c.dispatched.IsZero() && problem.kind != peerLost && problem.kind != internalError {
		return // it went nowhere, so it speaks of an earlier one, which has been told of
	}
	c.noted = true
	c.route.metrics.unknown.Inc()
	tell := c.config.Unknowns
	if tell == nil {
		return
	}
	u := &Unknown{
		Ticket: c.id, Space: c.route.Key.Space, Route: c.route.Name, Method: c.methodName(),
		Node: c.config.Node, Owner: c.laneOwner(problem.kind), Upstream: c.route.upstream.Name, Target: c.sentTo,
		Slug: problem.slug, Detail: problem.detail,
		Arrived: c.arrived, Dispatched: c.dispatched, Sent: c.sentBytes, Ended: time.Now(),
	}
	_, key, _ := bytes.Cut(c.key, []byte(":"))
	u.Key = string(key)
	if c.from != nil {
		u.Ingress = c.from.Ingress.Name
	} else {
		u.Client = c.client().String()
	}
	if problem == c.broke {
		u.Status = c.ctx.Response.StatusCode()
	}
	tell(u)
}

// laned reports whether the request had a place in a lane, so that it has a key and a
// ticket. One that its holder sent within its own turn has none.
func (c *call) laned() bool { return !c.id.IsZero() && c.mode != bypass }

// methodName is the client's. A forwarded request has it in its head alone.
func (c *call) methodName() string {
	switch {
	case c.method != "":
		return c.method
	case c.from == nil:
		return string(c.ctx.Request.Header.Method())
	}
	method, _, _ := bytes.Cut(c.from.Head, []byte(" "))
	return string(method)
}

// laneOwner is the node whose lane the request was in, empty if that is not known.
func (c *call) laneOwner(kind *kind) string {
	switch {
	case c.owner != "":
		return c.owner
	case c.lent != nil && !c.lent.call.Here:
		return c.lent.call.Owner.Name
	case kind == peerLost: // and nobody has answered
		return ""
	}
	return c.config.Node
}

// breaks notes that a response broke off that the client has a part of already.
func (r *relay) breaks(err error) {
	c := r.call
	kind, by := upstreamReset, c.sentTo
	switch {
	case r.closer != nil:
		kind, by = peerLost, c.owner
	case isTimeout(err):
		kind = upstreamTimeout
	case !isClosed(err) && !errors.Is(err, io.ErrClosedPipe):
		kind = upstreamInvalid
	}
	c.broke = kind.because(fmt.Sprintf("the response of %s broke off: %v", by, err))
}
