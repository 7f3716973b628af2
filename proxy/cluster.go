package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/peer"
	"lanekeeper/queue"
)

// Cluster is what the edge needs of the nodes that share its keys. Its methods
// must be safe for concurrent use; only Guard and Strict may block.
type Cluster interface {
	// Ready returns nil, or why this node may not take part: it has not found
	// the others yet, say, or too few of them.
	Ready() error
	// Partition is the one that a lane's name belongs to.
	Partition(key []byte) int
	// Enter takes the request's place if its lane is here, or aside, and reports
	// whether it did; else it has done nothing.
	Enter(partition int, local peer.Local) bool
	// Send gives the call its place, wherever its lane is.
	Send(call *peer.Call)
	// Cancel asks for the call's end, which it may have before its turn.
	Cancel(call *peer.Call)
	// Fetch is the body of a response that was too large to be answered whole.
	Fetch(call *peer.Call) (io.ReadCloser, error)
	// Guard returns nil if this node may still run a request of a partition that
	// came at the given time; it may wait for that to be known.
	Guard(partition int, came time.Time) error
	// Strict returns the fence of a strict request that is sent to an upstream now,
	// and how long this node's lease on its partition certainly lasts; or why it may
	// not be sent.
	Strict(partition int) (fence uint64, validFor time.Duration, err error)
	// OwnersConfig is the Config.Hash of the partition's owner, as far as this node has
	// heard; empty: it has not.
	OwnersConfig(partition int) string
	// ValidFor is how long that lease certainly lasts, by now; 0 or less: not at all.
	ValidFor(partition int) time.Duration

	Lending
}

// AdmitHere implements peer.Local: it takes the request's ticket in this node's
// own lanes.
func (c *call) AdmitHere(id queue.ID) bool {
	c.place.ID = id
	if c.refusal = c.enterName(); c.refusal != nil {
		c.ticket.ID, c.ticket.Depth = id, 0
		return true
	}
	c.refusal = c.proxy.lanes.Admit(c.ticket, &c.place)
	return c.refusal != queue.ErrSealed //nolint:errorlint // Admit returns it as it is
}

const (
	// forwardGrace is how long the ingress waits after the owner should have
	// answered.
	forwardGrace = 2 * time.Second
	// lastWord is how long, after its patience, a request is left to its owner,
	// who knows the lane: what waits there says more than the ingress could, and
	// what found it free runs, even if it has no patience at all.
	lastWord = 250 * time.Millisecond
)

// forward takes the request to its lane. It ends with the owner's answer in
// c.ctx, or with the request's turn here, if this node became the owner, or
// says why neither.
func (c *call) forward() *problem {
	name := c.routeName()
	c.prepare()
	c.scratch = c.appendFields(c.scratch[:0], c.route.upstream.Host())
	lane := c.lane
	r := peer.Request{
		Key: c.key, Route: name, Class: c.class(), Holder: c.fields.holder,
		MaxDepth: lane.MaxDepth, MaxBytes: lane.MaxBytes, MaxShared: lane.MaxShared, MaxResponse: lane.MaxResponse,
		UpstreamTimeout: lane.UpstreamTimeout, Retries: lane.Retries, Effect: c.place.Effect,
		Strict: lane.Strict, ToHead: c.ctx.IsHead(), Head: c.scratch, Body: c.ctx.Request.Body(),
	}
	if lane.AfterTimeout == Hold {
		r.HoldFor = lane.HoldFor
	}
	if c.identity != nil {
		r.Identity = &c.identity.Identity
	}
	if n := c.sequence; n != nil {
		r.Sequence = &peer.Sequence{Producer: n.Producer, Epoch: n.Epoch, Seq: n.Seq, Named: n.named}
	}
	began := time.Now()
	call := c.elsewhere
	if c.elsewhere = nil; call == nil { // until it has ended it is the hop's
		call = new(peer.Call)
	}
	call.Reset(c.place.Partition, c, &r, c.arrived.Add(c.patience))
	if c.first != nil {
		call.Ticket = c.first.ID // those that wait here have later ones
	}
	c.config.Cluster.Send(call)
	c.passOn()
	c.id, c.session.used = call.Ticket, true
	problem := c.await(call)
	if problem == nil && !r.Bulk {
		c.elsewhere = call
	}
	if problem == nil && call.Here {
		if c.aside == nil {
			c.proxy.metrics.forwarded("local", time.Since(began))
		}
		return c.turnHere()
	}
	if problem == nil {
		problem = c.relayed(call)
	}
	if problem != nil && problem.kind == reentrantLane && c.lane.Reentrant == PassReentry {
		c.owner = "" // it will run here, outside any lane
	}
	c.proxy.metrics.forwarded(resultOf(problem), time.Since(began))
	c.answered = problem == nil
	return problem
}

func resultOf(problem *problem) string {
	switch {
	case problem == nil:
		return "response"
	case problem.executed == unknown:
		return "unknown"
	}
	return "not_executed"
}

// await waits until the call has ended, or until nobody can wait for it any
// longer, which is a problem.
func (c *call) await(call *peer.Call) *problem {
	skips := c.lane.ClientGone == Skip
	patience := c.arrived.Add(c.patience + lastWord)
	last := patience.Add(c.lane.UpstreamTimeout + forwardGrace)
	for look, cancelled := firstLook, false; ; look = min(2*look, lastLook) {
		now := time.Now()
		until := last
		if !cancelled {
			until = patience
		}
		if skips {
			until = earlier(until, now.Add(look))
		}
		if call.WaitOr(until, c.proxy.cut) {
			return nil
		}
		now = time.Now()
		switch {
		case closed(c.proxy.cut):
			return c.giveUp(call)
		case !cancelled && skips && !c.gone && hungUp(c.ctx.Conn()):
			c.gone = true
			c.config.Cluster.Cancel(call)
		case !cancelled && !now.Before(patience):
			cancelled = true
			c.config.Cluster.Cancel(call)
		case !now.Before(last):
			return peerLost.because("the key's owner does not answer, and may still be at work on the request")
		}
	}
}

// giveUp asks the owner of a request that has outlasted the drain to take it out of its
// lane. What the owner does not say in time is unknown: it may run.
func (c *call) giveUp(call *peer.Call) *problem {
	c.config.Cluster.Cancel(call)
	if call.Wait(time.Now().Add(lastWord)) {
		return nil
	}
	c.proxy.givenUp.Add(1)
	return peerLost.because("this node stops, and the key's owner may still be at work on the request")
}

// relayed answers with the owner's answer.
func (c *call) relayed(call *peer.Call) *problem {
	r := &call.Response
	c.owner = call.Owner.Name
	c.laneWait, c.upstreamTime, c.depth = r.LaneWait, r.UpstreamTime, r.Depth
	if r.Spills && c.lane.Spill && c.mode == exclusive {
		c.proxy.spills.hint(c)
	}
	if r.Problem != "" {
		return c.ownersProblem(call)
	}
	response := &c.ctx.Response
	if err := readHead(&response.Header, r.Head); err != nil {
		return peerLost.because(fmt.Sprintf("the answer of %s cannot be read: %v", c.owner, err))
	}
	response.Header.ResetConnectionClose() // a head without a length seems to say so
	switch {
	case c.ctx.IsHead() || bodiless(response.StatusCode()):
		response.SkipBody = true
	case r.Stream:
		return c.fetch(call)
	default:
		response.SetBodyRaw(r.Body)
	}
	return nil
}

// headReaders are for heads that are in memory already. fasthttp wants the whole
// head in the reader's buffer.
var headReaders = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, pooledHead) }}

const pooledHead = 4 << 10

func readHead(h *fasthttp.ResponseHeader, head []byte) error {
	if len(head) > pooledHead {
		return h.Read(bufio.NewReaderSize(bytes.NewReader(head), len(head)))
	}
	in := headReaders.Get().(*bufio.Reader)
	in.Reset(bytes.NewReader(head))
	err := h.Read(in)
	in.Reset(nil) // the pool keeps no body
	headReaders.Put(in)
	return err
}

// ownersProblem is the owner's answer, which was lanekeeper's own there too.
func (c *call) ownersProblem(call *peer.Call) *problem {
	r := &call.Response
	executed, otherwise := no, notReady
	if r.Executed == peer.Unknown {
		executed, otherwise = unknown, peerLost
	}
	kind := kinds[r.Problem]
	if r.Problem == peer.Cancelled {
		c.laneWait = time.Since(c.arrived)
	}
	switch {
	case r.Problem == peer.Cancelled && c.gone:
		return clientGone.because("")
	case r.Problem == peer.Cancelled && closed(c.proxy.cut):
		return draining.because(ErrStopping.Error())
	case r.Problem == peer.Cancelled && call.Owner.IsZero():
		return noOwner.because(fmt.Sprintf("in %s no node was found that has the request's key", c.patience))
	case r.Problem == peer.Cancelled:
		return laneTimeout.because(fmt.Sprintf("it waited %s, and its key's owner could not be reached or was busy with others", c.patience))
	case kind == nil || kind.executed != executed: // of a later version
		kind = otherwise
	case kind == superseded:
		kind = supersededWith(r.Status)
	}
	c.noted = executed == unknown && kind != peerLost // by the owner, who ran it
	return kind.after(r.RetryAfter, r.Detail)
}

// fetch gets the body of a large response, or lets it stream through this node.
func (c *call) fetch(call *peer.Call) *problem {
	body, err := c.config.Cluster.Fetch(call)
	if err != nil {
		return c.lost(err)
	}
	length := c.ctx.Response.Header.ContentLength()
	if length >= 0 && length <= c.lane.MaxResponse {
		return c.fetchWhole(body, length)
	}
	c.deadline = time.Now().Add(c.lane.UpstreamTimeout)
	r := &relay{call: c, body: body, closer: body}
	r.start(length)
	return nil
}

// fetchWhole gets a body that the owner has whole. It does not wait for slow
// clients to read it.
func (c *call) fetchWhole(body io.ReadCloser, length int) *problem {
	defer body.Close()
	b := bytes.NewBuffer(make([]byte, 0, length+bytes.MinRead))
	if _, err := b.ReadFrom(body); err != nil {
		return c.lost(err)
	}
	c.ctx.Response.SetBodyRaw(b.Bytes())
	return nil
}

func (c *call) lost(err error) *problem {
	return peerLost.because(fmt.Sprintf("the answer of %s was lost: %v", c.owner, err))
}
