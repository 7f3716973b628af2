package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"time"

	"github.com/valyala/fasthttp"
)

// An upstream may send interim responses (1xx) before the one that counts, and a proxy passes
// them on (RFC 9110, section 15.2). Here it does where the client's node is also the one that
// asks the upstream; what crosses the hop between nodes is one answer, so there they end at
// the key's owner. "100 Continue" always ends: this node has taken the expectation from the
// request, and the body has come. So do those for an HTTP/1.0 client, who knows none.

const (
	interimMax = 100 // before the response that counts
	// interimTime is how long a client may take to take one. It is asked only if its
	// connection has room, so a slow one is told less and holds up no lane.
	interimTime = time.Second
)

var (
	errInterim  = fmt.Errorf("more than %d interim responses", interimMax)
	errSwitched = errors.New("it switched protocols, or to one, which nobody asked for")
)

// receiveHead reads the head of the response that counts.
func (c *call) receiveHead() error {
	for {
		if err := c.receiveInterim(); err != nil {
			return err
		}
		if c.ctx.Response.StatusCode() >= fasthttp.StatusOK {
			return nil
		}
	}
}

// receiveInterim reads the next head, and passes it on if it is an interim one.
func (c *call) receiveInterim() error {
	head := &c.ctx.Response.Header
	if err := nextHead(c.link.reader, head); err != nil {
		return err
	}
	switch status := head.StatusCode(); {
	case status == fasthttp.StatusSwitchingProtocols:
		return errSwitched
	case status >= fasthttp.StatusOK:
		return nil
	}
	if c.interims++; c.interims > interimMax {
		return errInterim
	}
	c.passInterim(head)
	return nil
}

func (c *call) passInterim(head *fasthttp.ResponseHeader) {
	if c.from != nil || head.StatusCode() == fasthttp.StatusContinue || !c.ctx.Request.Header.IsHTTP11() {
		return
	}
	client := c.ctx.Conn()
	if !writable(client) {
		return
	}
	c.clean(head)
	client.SetWriteDeadline(time.Now().Add(interimTime)) //nolint:errcheck // a dead connection fails the write
	if _, err := client.Write(head.Header()); err != nil {
		client.Close() // nothing could follow half a head
	}
	client.SetWriteDeadline(time.Time{}) //nolint:errcheck // as above
}

// finalHead reads heads up to the one that counts, for nobody.
func finalHead(r *bufio.Reader, h *fasthttp.ResponseHeader) error {
	for range interimMax + 1 {
		if err := nextHead(r, h); err != nil {
			return err
		}
		switch status := h.StatusCode(); {
		case status == fasthttp.StatusSwitchingProtocols:
			return errSwitched
		case status >= fasthttp.StatusOK:
			return nil
		}
	}
	return errInterim
}
