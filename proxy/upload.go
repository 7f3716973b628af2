package proxy

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/proxy/upstream"
)

// fasthttp can stream the bodies of all requests or of none, and streaming all
// would keep a read buffer for every request that waits in a lane. So the few
// bodies that must stream are hidden from it: their requests are marked as
// having none, and their connections taken over by the handler.

// headReceived decides, from a request's head alone, how long its body may take
// and whether it is hidden.
func (p *Proxy) headReceived(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	h.Del(headerUpload) // ours alone, and the next
	h.Del(headerRefused)
	length := h.ContentLength()
	if length == 0 || length == lengthless {
		return fasthttp.RequestConfig{}
	}
	now := p.setup.Load()
	timeout := now.config.ReadTimeout
	streams := length == chunked || length > inlineBody
	switch r := now.routeOf(h); {
	case r == nil:
	case r.mode(h.Method()) == bypass:
		if timeout = now.config.BypassIdleTimeout; streams {
			now.hideBody(h, length)
		}
	case r.Lane.Mode == Observe:
		if length == chunked || length > now.config.MaxBody {
			now.hideBody(h, length) // a route that only watches refuses no body
		}
	case streams && length <= now.config.MaxBody && p.foresees(h, r, length):
		now.hideBody(h, length)
		h.Add(headerRefused, "1")
	}
	if timeout == 0 {
		timeout = forever
	}
	return fasthttp.RequestConfig{ReadTimeout: timeout, MaxRequestBodySize: now.config.MaxBody}
}

// fasthttp's content lengths that are no length.
const (
	chunked    = -1
	lengthless = -2
)

const forever = 365 * 24 * time.Hour

// routeOf is the route that match will find.
func (s *setup) routeOf(h *fasthttp.RequestHeader) *route {
	uri := h.RequestURI()
	if len(uri) > 0 && uri[0] != '/' && string(uri) != "*" {
		rest, ok := cutAuthority(uri)
		if !ok {
			return nil
		}
		uri = rest
	}
	path, _, _ := bytes.Cut(uri, []byte("?"))
	var captures captures
	return s.find(h, path, &captures)
}

// hideBody makes fasthttp take the request for one without a body.
func (s *setup) hideBody(h *fasthttp.RequestHeader, length int) {
	h.Del("Trailer") // first: a field that it announces could not be set
	h.SetContentLength(0)
	h.Set(headerUpload, strconv.Itoa(length)+" "+strconv.FormatUint(s.number, 10))
}

// upload streams the body of a request to its upstream, and the response back.
// The client's connection is closed afterwards.
func (c *call) upload() *problem {
	h := &c.ctx.Request.Header
	length := c.fields.length()
	c.prepare()
	h.SetContentLength(length)
	c.takeOver(func(client net.Conn) {
		body := &uploadBody{reader: bufio.NewReader(client), client: client, length: length, idle: c.config.BypassIdleTimeout}
		defer body.sent.wait()
		defer socket(client).Close() // these two end the sender
		defer c.link.close()
		if t, problem := c.connect(time.Now(), false); problem != nil {
			c.problem = problem
		} else {
			defer c.proxy.background.enter(c.link.wire)()
			c.problem = c.exchangeUpload(t, body)
		}
		c.answerUpload(client, body)
	})
	return nil
}

// exchangeUpload sends the request while it waits for the response, which may
// come before the body's end.
func (c *call) exchangeUpload(t *upstream.Target, body *uploadBody) *problem {
	c.beginSend(t)
	c.link.once = true
	c.link.wire.SetDeadline(c.deadline) //nolint:errcheck // a dead connection fails the write
	c.deadline = time.Time{}            // moved by the sender from now on
	c.scratch = c.appendHead(c.scratch[:0])
	wire := c.link.wire
	body.sent.start(func() { body.send(wire, c.scratch) }) // whoever waits for the response sees an error
	err := c.receive()
	if err == nil {
		return nil
	}
	defer c.link.close()
	switch body.stage.Load() {
	case stageBroken:
		return body.problem()
	case stageReading:
		if isTimeout(err) { // both fell silent at once, and it was the client's turn
			return body.silent()
		}
	}
	return c.unanswered(t, err)
}

// answerUpload writes the response, or the problem in its place.
func (c *call) answerUpload(client net.Conn, body *uploadBody) {
	response := &c.ctx.Response
	if c.problem != nil {
		c.problem.write(response, c.about())
	}
	c.addSession(response) // in place of the one that went with what the response was before
	if body.idle > 0 {
		client.SetWriteDeadline(time.Now().Add(body.idle)) //nolint:errcheck // a dead connection fails the write
	}
	if rest := c.link.rest; c.problem == nil && rest != nil && rest.bare {
		rest.writeBare(client)
	} else {
		if rest == nil {
			c.endUpstream()
		}
		response.SetConnectionClose()
		w := bufio.NewWriter(client)
		if response.Write(w) != nil || w.Flush() != nil {
			return
		}
	}
	c.endUpstream()
	body.linger()
}

// endUpstream gives up what the call holds for its upstream, before a slow
// client is waited for.
func (c *call) endUpstream() {
	c.link.close()
	c.free()
	if c.trace != nil {
		c.endClient(cmp.Or(c.problem, c.broke))
	}
}

// uploadBody is a body on its way from the client to the upstream.
type uploadBody struct {
	client net.Conn
	reader *bufio.Reader
	length int // or chunked
	idle   time.Duration
	sent   task

	stage atomic.Int32 // of the sender
	cause error        // once it is stageBroken
	until time.Time    // until then the client may be silent; the sender's
	ended atomic.Bool  // nobody needs the rest
}

// What the sender is at.
const (
	stageWriting int32 = iota // or done
	stageReading              // waiting for the client
	stageBroken               // the client's body broke off
)

var errShort = errors.New("the client closed before its body's end")

// The service has seen a part of the request, and nobody can say what it made
// of that.
var (
	uploadMalformed = uncertain(malformedRequest)
	uploadSilent    = uncertain(requestTimeout)
)

func uncertain(k *kind) *kind {
	other := *k
	other.executed = unknown
	return &other
}

// problem says why the body broke off.
func (b *uploadBody) problem() *problem {
	if refusal := entryOf(socket(b.client)).screen.Refusal(); refusal != nil {
		return uncertain(refused[refusal.Reason]).because(refusal.Detail)
	}
	if tooLarge := (*fasthttp.ErrSmallBuffer)(nil); errors.As(b.cause, &tooLarge) {
		return uncertain(headersTooLarge).because("the fields behind the body are too large")
	}
	if isTimeout(b.cause) || b.idle > 0 && !time.Now().Before(b.until) {
		return b.silent()
	}
	return uploadMalformed.because("the body broke off")
}

func (b *uploadBody) silent() *problem {
	return uploadSilent.because(fmt.Sprintf("nothing came of the body for %s", b.idle))
}

// send writes the head and then the body, in the framing it came in, each piece
// as soon as it is there. An upstream that takes no more of it may have answered.
func (b *uploadBody) send(wire *wire, head []byte) error {
	if _, err := wire.Write(head); err != nil {
		return err
	}
	request := fasthttp.AcquireRequest() // parses the body
	defer fasthttp.ReleaseRequest(request)
	request.Header.SetContentLength(b.length)
	b.await(wire)
	if err := request.ContinueReadBodyStream(b.reader, 1, false); err != nil {
		return b.broken(wire, err)
	}
	w := bufio.NewWriterSize(wire, pieceSize+64) // a piece and its chunk's framing
	var to io.Writer = w
	if b.length == chunked {
		to = httputil.NewChunkedWriter(w)
	}
	total, err := b.copy(to, w, request.BodyStream(), wire)
	switch {
	case err != nil:
		return err
	case b.length >= 0 && total < b.length:
		return b.broken(wire, errShort)
	case b.length == chunked:
		w.WriteString("0\r\n\r\n") //nolint:errcheck // Flush reports it
	}
	return w.Flush()
}

// await begins to wait for the client.
func (b *uploadBody) await(wire *wire) {
	b.stage.Store(stageReading)
	b.move(wire)
	if b.idle == 0 {
		return
	}
	b.client.SetReadDeadline(b.until) //nolint:errcheck // a dead connection fails the read
	if b.ended.Load() {               // linger has set its own, perhaps before
		b.client.SetReadDeadline(time.Now().Add(lingerTime)) //nolint:errcheck // as above
	}
}

// move gives the upstream as long again.
func (b *uploadBody) move(wire *wire) {
	if b.idle > 0 {
		b.until = time.Now().Add(b.idle)
		wire.SetDeadline(b.until) //nolint:errcheck // a dead connection fails the write
	}
}

// broken ends the connection to the upstream, which must not take a part of the
// body for the whole.
func (b *uploadBody) broken(wire *wire, err error) error {
	b.cause = err
	b.stage.Store(stageBroken)
	wire.Close()
	return err
}

const pieceSize = 16 << 10

func (b *uploadBody) copy(to io.Writer, w *bufio.Writer, from io.Reader, wire *wire) (total int, err error) {
	buffer := make([]byte, pieceSize)
	for {
		b.await(wire)
		n, err := from.Read(buffer)
		if err != nil && !errors.Is(err, io.EOF) {
			return total, b.broken(wire, err)
		}
		b.stage.Store(stageWriting)
		b.move(wire)
		total += n
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return total, err
			}
			if err := w.Flush(); err != nil {
				return total, err
			}
		}
		if err != nil {
			return total, nil
		}
	}
}

// linger lets a client that is still sending read the response: closing its
// connection with unread bytes would reset it, and the response with it.
func (b *uploadBody) linger() {
	b.ended.Store(true)
	b.client.SetReadDeadline(time.Now().Add(lingerTime)) //nolint:errcheck // a dead connection fails the read
	endHalf(socket(b.client))
	b.sent.wait()
	io.Copy(io.Discard, b.reader) //nolint:errcheck // best effort, and only until the deadline
}

// task is a goroutine that somebody waits for.
type task struct{ done chan struct{} }

// start runs f.
func (t *task) start(f func()) {
	t.done = make(chan struct{})
	go func() {
		defer close(t.done)
		f()
	}()
}

// wait returns when f has, or at once if there is none.
func (t *task) wait() {
	if t.done != nil {
		<-t.done
	}
}
