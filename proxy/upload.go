package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// fasthttp can stream the bodies of all requests or of none, and streaming all
// would keep a read buffer for every request that waits in a lane. So the few
// bodies that must stream are hidden from it: their requests are marked as
// having none, and their connections taken over by the handler.

// headReceived decides, from a request's head alone, how long its body may take
// and whether it is hidden.
func (p *Proxy) headReceived(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	h.Del(headerUpload) // ours alone
	length := h.ContentLength()
	if length == 0 || length == lengthless {
		return fasthttp.RequestConfig{}
	}
	timeout := p.config.ReadTimeout
	switch r := p.routeOf(h); {
	case r == nil:
	case r.mode(h.Method()) == bypass:
		if timeout = p.config.BypassIdleTimeout; length == chunked || length > inlineBody {
			hideBody(h, length)
		}
	case r.Lane.Mode == Observe && (length == chunked || length > p.config.MaxBody):
		hideBody(h, length) // a route that only watches refuses no body
	}
	if timeout == 0 {
		timeout = forever
	}
	return fasthttp.RequestConfig{ReadTimeout: timeout}
}

// fasthttp's content lengths that are no length.
const (
	chunked    = -1
	lengthless = -2
)

const forever = 365 * 24 * time.Hour

func (p *Proxy) routeOf(h *fasthttp.RequestHeader) *route {
	path, _, _ := bytes.Cut(h.RequestURI(), []byte("?"))
	var captures captures
	return p.find(h, path, &captures)
}

func hideBody(h *fasthttp.RequestHeader, length int) {
	h.SetContentLength(0)
	h.Set(headerUpload, strconv.Itoa(length))
}

// upload streams the body of a request to its upstream, and the response back.
// The client's connection is closed afterwards.
func (c *call) upload() *problem {
	h := &c.ctx.Request.Header
	length, err := strconv.Atoi(string(c.fields.upload))
	if err != nil {
		panic("proxy: a hidden body without a length")
	}
	c.prepare()
	h.SetContentLength(length)
	c.takeOver(func(client net.Conn) {
		body := &uploadBody{reader: bufio.NewReader(client), client: client, idle: c.proxy.config.BypassIdleTimeout}
		problem := c.exchangeUpload(body)
		response := &c.ctx.Response
		if problem != nil {
			c.problem = problem
			problem.write(response, c.about())
		}
		response.SetConnectionClose()
		w := bufio.NewWriter(client)
		if response.Write(w) == nil && w.Flush() == nil {
			body.linger()
		}
		c.link.close() // ends the sender
		socket(client).Close()
		body.sent.wait()
	})
	return nil
}

// exchangeUpload sends the request while it waits for the response, which may
// come before the body's end.
func (c *call) exchangeUpload(body *uploadBody) *problem {
	t := c.route.upstream.pick(c.key)
	if err := c.link.connect(t); err != nil {
		return notConnected(t, err)
	}
	c.link.once = true
	c.link.wire.SetDeadline(c.deadline) //nolint:errcheck // a dead connection fails the write
	c.scratch = c.appendHead(c.scratch[:0])
	wire := c.link.wire
	body.sent.start(func() error { return body.send(wire, c.scratch, &c.ctx.Request.Header) })
	err := c.receive()
	switch {
	case err == nil:
		return nil
	case isTimeout(err):
		return upstreamTimeout.because(fmt.Sprintf("%s was silent for %s", t.name, body.idle))
	case isClosed(err):
		return upstreamReset.because(fmt.Sprintf("%s closed the connection before its answer was complete", t.name))
	}
	return upstreamInvalid.because(fmt.Sprintf("%s: %v", t.name, err))
}

// uploadBody is a body on its way from the client to the upstream.
type uploadBody struct {
	client net.Conn
	reader *bufio.Reader
	idle   time.Duration
	sent   task
}

var errShort = errors.New("the client closed before its body's end")

// send writes the head and then the body, in the framing it came in, each piece
// as soon as it is there. If the body breaks off, so does the connection to the
// upstream, which must not take a part for the whole.
func (b *uploadBody) send(wire *wire, head []byte, framing *fasthttp.RequestHeader) (err error) {
	defer func() {
		if err != nil {
			wire.Close()
		}
	}()
	if _, err := wire.Write(head); err != nil {
		return err
	}
	request := fasthttp.AcquireRequest() // parses the body
	defer fasthttp.ReleaseRequest(request)
	framing.CopyTo(&request.Header)
	length := framing.ContentLength()
	w := bufio.NewWriter(wire)
	if err := request.ContinueReadBodyStream(b.reader, 1, false); err != nil {
		return err
	}
	var to io.Writer = w
	if length == chunked {
		to = httputil.NewChunkedWriter(w)
	}
	total, err := b.copy(to, w, request.BodyStream(), wire)
	switch {
	case err != nil:
		return err
	case length >= 0 && total < length:
		return errShort
	case length == chunked:
		if _, err := w.WriteString("0\r\n\r\n"); err != nil {
			return err
		}
	}
	return w.Flush()
}

// copy moves both connections' deadlines with every piece.
func (b *uploadBody) copy(to io.Writer, w *bufio.Writer, from io.Reader, wire *wire) (total int, err error) {
	buffer := make([]byte, 16<<10)
	for {
		if b.idle > 0 {
			deadline := time.Now().Add(b.idle)
			b.client.SetReadDeadline(deadline) //nolint:errcheck // a dead connection fails the read
			wire.SetDeadline(deadline)         //nolint:errcheck // a dead connection fails the write
		}
		n, err := from.Read(buffer)
		if n > 0 {
			total += n
			if _, err := to.Write(buffer[:n]); err != nil {
				return total, err
			}
			if err := w.Flush(); err != nil {
				return total, err
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

const (
	lingerTime  = time.Second
	lingerBytes = 1 << 20
)

// linger lets a client that is still sending read the response: closing its
// connection with unread bytes would reset it, and the response with it.
func (b *uploadBody) linger() {
	raw := socket(b.client)
	if half, ok := raw.(interface{ CloseWrite() error }); ok {
		half.CloseWrite() //nolint:errcheck // best effort
	}
	b.client.SetReadDeadline(time.Now().Add(lingerTime)) //nolint:errcheck // a dead connection fails the read
	b.sent.wait()
	io.CopyN(io.Discard, b.reader, lingerBytes) //nolint:errcheck // best effort
}

// task is a goroutine that somebody waits for.
type task struct{ done chan struct{} }

// start runs f.
func (t *task) start(f func() error) {
	t.done = make(chan struct{})
	go func() {
		defer close(t.done)
		f() //nolint:errcheck // it closes its connection on an error, which the other side then sees
	}()
}

// wait returns when f has, or at once if there is none.
func (t *task) wait() {
	if t.done != nil {
		<-t.done
	}
}
