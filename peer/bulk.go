package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Large bodies travel on connections of their own, one body at a time on each,
// so that none stands in the way of the heads of other requests, and TCP alone
// sees to it that nobody sends faster than the other reads. The ingress dials
// them all: it pushes the bodies of requests that have been admitted, and
// fetches those of responses.

const (
	bulkIdle   = 8                // connections kept to a member
	bulkAge    = 30 * time.Second // and for how long
	chunk      = 64 << 10         // of a response
	fetchMax   = 10 * time.Second // a response that is not fetched by then is dropped
	bodyMax    = 1 << 30
	bodySilent = 10 * time.Second // of a transfer that does not move
)

var (
	errTransfer = errors.New("peer: the transfer was broken off")
	errNoBody   = errors.New("peer: the request's body did not come")
)

// bulkPool is a member's idle bulk connections.
type bulkPool struct {
	hop  *Hop
	peer *peer

	mu     sync.Mutex // guards the rest
	idle   []*bulkConn
	closed bool
}

type bulkConn struct {
	net.Conn
	in    *bufio.Reader
	since time.Time
}

func (b *bulkPool) init(h *Hop, p *peer) { b.hop, b.peer = h, p }

// get returns a connection, a new one if no idle one is young enough.
func (b *bulkPool) get() (c *bulkConn, idle bool, err error) {
	if c := b.take(); c != nil {
		return c, true, nil
	}
	c, err = b.dial()
	return c, false, err
}

// take returns an idle connection, or nil.
func (b *bulkPool) take() *bulkConn {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.idle) > 0 {
		c := b.idle[len(b.idle)-1]
		b.idle = b.idle[:len(b.idle)-1]
		if time.Since(c.since) < bulkAge {
			return c
		}
		c.hangUp()
	}
	return nil
}

// dial makes a connection: an idle one may have ended unnoticed.
func (b *bulkPool) dial() (*bulkConn, error) {
	conn, err := b.hop.dial(b.peer.life, b.peer)
	if err != nil {
		return nil, err
	}
	c := &bulkConn{Conn: conn, in: bufio.NewReaderSize(conn, 32<<10)}
	h := b.hop.hello(b.peer)
	h.bulk = true
	if _, err := greet(conn, c.in, &h); err != nil {
		c.hangUp()
		return nil, err
	}
	return c, nil
}

func (c *bulkConn) hangUp() { below(c.Conn).Close() }

func (b *bulkPool) put(c *bulkConn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.idle) >= bulkIdle {
		c.hangUp()
		return
	}
	c.since = time.Now()
	b.idle = append(b.idle, c)
}

// drain closes the idle connections.
func (b *bulkPool) drain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.idle {
		c.hangUp()
	}
	b.idle = nil
}

// close keeps no connection any more.
func (b *bulkPool) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.drain()
}

// sendBody pushes the body of an admitted request, whole, until it has arrived
// or the call has ended.
func (s *stripe) sendBody(p *peer, c *Call, t transfer) {
	for pause := redialLeast; ; pause = min(2*pause, redialMost) {
		idle, err := p.push(c.body, &t)
		switch {
		case err == nil:
			return
		case idle:
			continue // it may have ended long ago, and there are few of them
		}
		s.mu.Lock()
		over := c.state == ended
		s.mu.Unlock()
		if over || p.life.Err() != nil {
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-p.life.Done():
			timer.Stop()
		}
	}
}

// push sends a body once, and reports whether that was by a connection which had
// been idle.
func (p *peer) push(body []byte, t *transfer) (idle bool, _ error) {
	c, idle, err := p.bulk.get()
	if err != nil {
		return idle, err
	}
	stop := context.AfterFunc(p.life, c.hangUp)
	defer stop()
	w := patientWriter{Conn: c.Conn}
	_, err = w.Write(t.append(nil, frameBody))
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		c.SetReadDeadline(time.Now().Add(bodySilent)) //nolint:errcheck // a dead connection fails the read
		var k kind
		if k, _, err = readFrame(c.in, helloMax); err == nil && k != frameEnd {
			err = errFrame
		}
	}
	if err != nil {
		c.hangUp()
		return idle, err
	}
	c.SetDeadline(time.Time{}) //nolint:errcheck // a dead connection fails the next transfer
	p.bulk.put(c)
	return idle, nil
}

// patientWriter gives every piece a deadline of its own, so that a transfer may
// take as long as it moves.
type patientWriter struct {
	net.Conn
	until time.Time // before that it need not move either
}

func (w patientWriter) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		deadline := time.Now().Add(bodySilent)
		if deadline.Before(w.until) {
			deadline = w.until
		}
		w.SetWriteDeadline(deadline) //nolint:errcheck // a dead connection fails the write
		var m int
		m, err = w.Conn.Write(b[:min(len(b), chunk)])
		n, b = n+m, b[m:]
	}
	return n, err
}

// Fetch returns the body of a call's response that streams. It must be closed; a
// Read that fails means that the response was broken off.
func (h *Hop) Fetch(c *Call) (io.ReadCloser, error) {
	p := h.peer(c.Owner)
	if p == nil {
		return nil, errTransfer
	}
	f := &fetched{peer: p, of: transfer{stripe: uint16(c.stripe.number), seq: c.seq}} //nolint:gosec // a handful
	conn, idle, err := p.bulk.get()
	f.idle = idle
	if err == nil {
		err = f.ask(conn)
	}
	if err != nil && f.idle {
		err = f.again()
	}
	if err != nil {
		if f.conn != nil {
			f.hangUp()
		}
		return nil, err
	}
	return f, nil
}

// fetched reads DATA frames up to END.
type fetched struct {
	peer  *peer
	of    transfer
	conn  *bulkConn
	idle  bool        // conn was, and nothing has been read from it
	stop  func() bool // ends the watch over the peer's life
	left  int
	err   error
	whole bool
}

func (f *fetched) ask(conn *bulkConn) error {
	f.conn = conn
	f.stop = context.AfterFunc(f.peer.life, conn.hangUp)
	conn.SetWriteDeadline(time.Now().Add(bodySilent)) //nolint:errcheck // a dead connection fails the write
	_, err := conn.Write(f.of.append(nil, frameFetch))
	return err
}

// again asks by a new connection. What was asked by the idle one was not read by
// the owner, or has ended the response.
func (f *fetched) again() error {
	f.idle = false
	f.hangUp()
	conn, err := f.peer.bulk.dial()
	if err != nil {
		return err
	}
	return f.ask(conn)
}

func (f *fetched) hangUp() {
	f.stop()
	f.conn.hangUp()
}

func (f *fetched) Read(b []byte) (int, error) {
	for f.left == 0 && f.err == nil {
		if f.err = f.next(); f.err != nil && f.idle && f.again() == nil {
			f.err = nil
		}
	}
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.conn.in.Read(b[:min(len(b), f.left)])
	f.left -= n
	if err != nil {
		f.err = fmt.Errorf("%w: %w", errTransfer, err)
	}
	return n, f.err
}

// next reads the head of a frame. The owner bounds the upstream's silence, and
// the end of its life ends the connection.
func (f *fetched) next() error {
	header, err := f.conn.in.Peek(frameHeader)
	if err != nil {
		return fmt.Errorf("%w: %w", errTransfer, err)
	}
	f.idle = false
	n, k := int(binary.BigEndian.Uint32(header))-1, kind(header[4])
	f.conn.in.Discard(frameHeader) //nolint:errcheck // they have been peeked at
	switch {
	case k == frameData && n >= 0 && n <= chunk:
		f.left = n
		return nil
	case k == frameEnd && n == 1:
		if whole, err := f.conn.in.ReadByte(); err != nil || whole != 1 {
			return errTransfer
		}
		f.whole = true
		return io.EOF
	}
	return errFrame
}

// Close gives the connection back, if the body was read to its end.
func (f *fetched) Close() error {
	if !f.whole || !f.stop() {
		f.hangUp()
		return nil
	}
	f.conn.SetDeadline(time.Time{}) //nolint:errcheck // a dead connection fails the next transfer
	f.peer.bulk.put(f.conn)
	return nil
}

// incoming is the body of a request that has been admitted without it.
type incoming struct {
	size int
	came chan struct{} // closed when b is there, or lost
	once sync.Once
	b    []byte
	lost bool // nobody is left to send it
}

func newIncoming(size int) *incoming { return &incoming{size: size, came: make(chan struct{})} }

func (i *incoming) deliver(b []byte) {
	i.once.Do(func() {
		i.b = b
		close(i.came)
	})
}

func (i *incoming) lose() {
	i.once.Do(func() {
		i.lost = true
		close(i.came)
	})
}

// Await waits for a large body, until the given time. The request keeps its
// place meanwhile: nothing may pass it.
func (in *Inbound) Await(until time.Time) error {
	if in.body == nil {
		return nil
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-in.body.came:
		if in.body.lost {
			return errNoBody
		}
		in.Body = in.body.b
		return nil
	case <-timer.C:
		return errNoBody
	}
}

// Stream is the body of a response that was too large to be read whole. Its
// reader is read by whoever fetches it; closed tells whether that was to its end.
type Stream struct {
	reader io.Reader
	size   int       // of what it holds in memory
	until  time.Time // before that, whoever reads it may pause
	closed func(whole bool)
	once   sync.Once
	timer  *time.Timer
}

func (s *Stream) end(whole bool) { s.once.Do(func() { s.timer.Stop(); s.closed(whole) }) }

func (s *Stream) close() { go s.end(false) } // ends with closed

// RespondStream answers with a response whose body is read from reader when the
// ingress fetches it, who may pause until the given time; closed is called once, when it was read to its end or will
// not be read any more.
func (in *Inbound) RespondStream(r *Response, reader io.Reader, until time.Time, closed func(whole bool)) {
	in.respondStream(r, &Stream{reader: reader, until: until, closed: func(whole bool) {
		defer in.host.host.hop.rescue("closing a response", nothing)
		closed(whole)
	}})
}

func (in *Inbound) respondStream(r *Response, s *Stream) {
	s.timer = time.AfterFunc(fetchMax, func() {
		if in.host.takeStream(in.seq) != nil {
			s.end(false)
		}
	})
	in.stream, r.Stream = s, true
	in.respond(r)
}

func (s *hosted) takeStream(seq uint64) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeStreamLocked(seq)
}

func (s *hosted) takeStreamLocked(seq uint64) *Stream {
	stream := s.session.streams[seq]
	if stream != nil {
		delete(s.session.streams, seq)
		s.session.bytes -= stream.size
	}
	return stream
}

func (s *session) closeStreams() {
	for seq, stream := range s.streams {
		delete(s.streams, seq)
		stream.close()
	}
}

// serveBulk serves transfers until the connection ends.
func (h *host) serveBulk(conn net.Conn, in *bufio.Reader, hello *hello) error {
	for {
		conn.SetReadDeadline(time.Now().Add(2 * bulkAge)) //nolint:errcheck // a dead connection fails the read
		k, payload, err := readFrame(in, helloMax)
		if err != nil {
			return err
		}
		t, err := parseTransfer(payload)
		if err != nil {
			return err
		}
		s := h.session(hello, t.stripe)
		switch k {
		case frameBody:
			err = h.takeBody(conn, in, s, &t)
		case frameFetch:
			err = h.giveStream(conn, s, &t)
		default:
			err = fmt.Errorf("%w: kind %d on a bulk connection", errFrame, k)
		}
		if err != nil {
			return err
		}
	}
}

func (h *host) session(hello *hello, stripe uint16) *hosted {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sessions[sessionKey{hello.from.Name, stripe}]
	if s == nil || s.session.ingress != hello.from {
		return nil
	}
	return s
}

// takeBody reads a body for its request, or drops it if the request is not here.
func (h *host) takeBody(conn net.Conn, in *bufio.Reader, s *hosted, t *transfer) error {
	var body *incoming
	if s != nil {
		s.mu.Lock()
		if of := s.session.open[t.seq]; of != nil {
			body = of.body
		}
		s.mu.Unlock()
	}
	if t.size > bodyMax || body != nil && body.size != t.size {
		return fmt.Errorf("%w: a body of %d bytes was not announced", errFrame, t.size)
	}
	patient := patientReader{conn, in}
	if body == nil {
		if _, err := io.CopyN(io.Discard, patient, int64(t.size)); err != nil {
			return err
		}
	} else {
		b := make([]byte, t.size)
		if _, err := io.ReadFull(patient, b); err != nil {
			return err
		}
		body.deliver(b)
	}
	_, err := patientWriter{Conn: conn}.Write(appendBytes(nil, frameEnd, []byte{1}))
	return err
}

type patientReader struct {
	conn net.Conn
	in   *bufio.Reader
}

func (r patientReader) Read(b []byte) (int, error) {
	r.conn.SetReadDeadline(time.Now().Add(bodySilent)) //nolint:errcheck // a dead connection fails the read
	return r.in.Read(b)
}

// giveStream writes a response's body.
func (h *host) giveStream(conn net.Conn, s *hosted, t *transfer) error {
	var stream *Stream
	if s != nil {
		s.mu.Lock()
		stream = s.takeStreamLocked(t.seq)
		s.giving++
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			s.giving--
			s.mu.Unlock()
		}()
	}
	w := patientWriter{Conn: conn}
	if stream == nil {
		_, err := w.Write(appendBytes(nil, frameEnd, []byte{0}))
		return err
	}
	defer stream.end(false) // if its reader panics
	w.until = stream.until
	stream.timer.Stop()
	buffer := make([]byte, 0, chunk+frameHeader)
	for {
		n, err := stream.reader.Read(buffer[frameHeader:cap(buffer)])
		if n > 0 {
			frame := end(begin(buffer[:0], frameData)[:frameHeader+n], 0)
			if _, err := w.Write(frame); err != nil {
				stream.end(false)
				return err
			}
		}
		if err != nil {
			whole := errors.Is(err, io.EOF)
			stream.end(whole)
			_, err := w.Write(appendBytes(nil, frameEnd, []byte{bit(whole, 1)}))
			return err
		}
	}
}
