package proxy

import (
	"bufio"
	"net"
	"time"

	"github.com/valyala/fasthttp"
)

// A body costs memory from its first byte, and what is refused in the end has had
// it for nothing: a key that is asked for too much would fill the node with what it
// then turns away. So a request with a large body, whose key its head has, is
// refused by its head if there is no room for it in its lane.
//
// A small body, up to inlineBody, is read, and refused when it is there: its
// connection lives on, and an ordinary one costs more to open than to read it. A
// large one is left unread, and its connection closed.

// foresees reports whether a request of a keyed route would be refused for want of
// room. It goes the way of run as far as that needs the head alone; of what it
// cannot tell it says no, as of keys that are another node's.
func (p *Proxy) foresees(h *fasthttp.RequestHeader, r *route, length int) bool {
	if len(r.fromHead) == 0 {
		return false
	}
	ctx := contexts.Get().(*fasthttp.RequestCtx)
	defer p.releaseContext(ctx)
	h.CopyTo(&ctx.Request.Header) // for gate may change it
	c := p.begin(ctx)
	defer c.unpin()
	if c.gate() != nil || c.match() != nil || c.route != r {
		return false
	}
	if found, problem := c.findKeyIn(r.fromHead); !found || problem != nil {
		return false
	}
	return c.lacksRoom(length) != nil
}

// lacksRoom asks the lanes, and fills in the call's ticket if they say why not.
func (c *call) lacksRoom(length int) error {
	place := c.placeFor(max(length, 0)) // one of unknown length may have none
	if cluster := c.config.Cluster; cluster != nil {
		place.Partition = cluster.Partition(c.key)
	}
	return c.proxy.lanes.Refuses(c.ticket, &place)
}

// refuseEarly refuses a request whose body is not read. It may be that there is
// room again by now; but what was hidden from the server cannot be had any more.
func (c *call) refuseEarly() *problem {
	if problem := c.findKey(); problem != nil {
		return problem
	}
	problem := laneFull.after(time.Second, "there was no room for this request when its head came")
	if err := c.lacksRoom(c.fields.length()); err != nil {
		c.admitted()
		problem = c.notAdmitted(err)
	}
	c.takeOver(func(client net.Conn) {
		body := &uploadBody{reader: bufio.NewReader(client), client: client, idle: c.config.IdleTimeout}
		c.problem = problem
		c.answerUpload(client, body)
	})
	return nil
}
