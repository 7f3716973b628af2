package peer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"lanekeeper/ring"
)

// host is the owner's half of the hop: it lets connections in, and gives each to
// its session.
type host struct {
	hop     *Hop
	telling chan struct{} // holds one for each question that is being answered

	mu       sync.Mutex // guards the rest
	sessions map[sessionKey]*hosted
	named    uint64 // the last session
	conns    map[net.Conn]struct{}
	listener net.Listener
	closed   bool
	wg       sync.WaitGroup // of connections; raised under mu, and not after closed
}

type sessionKey struct {
	name   string
	stripe uint16
}

// hosted is a session with its lock and its present connection.
type hosted struct {
	host *host

	greeting sync.Mutex // one connection is let in at a time

	mu      sync.Mutex // guards the session and everything of its requests, and the rest
	session *session
	conn    net.Conn
	ended   chan struct{} // closed when the reader of conn has returned
	orphans *time.Timer   // runs while there is no connection
	missed  bool          // as long as it may come back
	reply   []byte        // to conn's HELLO, until it is written
	acked   uint64        // the last ADMITTED that was written
	pongs   bool
	giving  int      // streams that are being fetched
	dropped bool     // its ingress is gone
	spare   [][]byte // memory of answered requests

	kick chan struct{}
}

func newHost(h *Hop) *host {
	return &host{hop: h, telling: make(chan struct{}, tellsMax), sessions: make(map[sessionKey]*hosted), conns: make(map[net.Conn]struct{})}
}

func (h *host) serve(listener net.Listener) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		listener.Close()
		return nil
	}
	h.listener = listener
	h.mu.Unlock()
	for {
		conn, err := listener.Accept()
		if err != nil {
			h.mu.Lock()
			closed := h.closed
			h.mu.Unlock()
			switch {
			case closed:
				return nil
			case isTemporary(err): // out of file descriptors, say
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return err
		}
		if !h.enter(conn) {
			conn.Close()
			continue
		}
		go func() { // ends with the connection, which close closes
			defer h.leave(conn)
			err := h.hop.guard("a member's connection", nothing, func() error { return h.let(conn) })
			if err != nil && !h.isClosed() {
				h.hop.config.Log.Debug("a member's connection ended", "remote", conn.RemoteAddr(), "error", err)
			}
		}()
	}
}

func isTemporary(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}

// connsMax bounds connections, whoever they are from.
const connsMax = 8192

func (h *host) enter(conn net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.conns) >= connsMax {
		return false
	}
	h.conns[conn] = struct{}{}
	h.wg.Add(1)
	return true
}

func (h *host) leave(conn net.Conn) {
	conn.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, conn)
	h.wg.Done()
}

func (h *host) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// let serves a connection, if its HELLO is one of this cluster.
func (h *host) let(raw net.Conn) error {
	conn := raw
	raw.SetDeadline(time.Now().Add(greetMax)) //nolint:errcheck // a dead connection fails the read
	if h.hop.config.TLS != nil {
		secure := tls.Server(raw, h.hop.config.TLS)
		if err := secure.Handshake(); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		conn = secure
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	k, payload, err := readFrame(in, helloMax)
	if err != nil {
		return err
	}
	if k != frameHello {
		return fmt.Errorf("%w: kind %d in place of a HELLO", errFrame, k)
	}
	hello, err := parseHello(payload)
	if err != nil {
		return err
	}
	version, err := h.hop.accepts(&hello)
	if err != nil {
		h.hop.config.Log.Warn("a member is refused", "member", hello.from.Name, "remote", raw.RemoteAddr(), "error", err)
		conn.Write(appendBytes(nil, frameRefuse, []byte(err.Error()))) //nolint:errcheck // it is closed all the same
		return err
	}
	if hello.bulk {
		p := reply{version: version, owner: h.hop.config.Self}
		if _, err := conn.Write(p.append(nil)); err != nil {
			return err
		}
		conn.SetDeadline(time.Time{}) //nolint:errcheck // a dead connection fails the read
		if hello.asks {
			return h.serveAsks(conn, in, &hello)
		}
		return h.serveBulk(conn, in, &hello)
	}
	return h.serveOrdered(raw, conn, in, &hello, version)
}

// accepts says whether a HELLO may be let in, and in which version: the highest
// that both speak.
func (h *Hop) accepts(hello *hello) (version uint16, err error) {
	own := h.config.versions
	version = min(hello.most, own.most)
	switch c := &h.config; {
	case hello.cluster != c.Cluster:
		return 0, fmt.Errorf("this is cluster %q, not %q", c.Cluster, hello.cluster)
	case hello.layout != c.Layout:
		return 0, errors.New("cluster.partitions, or another part of the layout that all members must share, differs")
	case hello.to != c.Self:
		return 0, fmt.Errorf("this is %s, not %s", c.Self, hello.to)
	case version < max(hello.least, own.least):
		return 0, fmt.Errorf("this node speaks versions %d to %d of the protocol, not %d to %d", own.least, own.most, hello.least, hello.most)
	}
	return version, nil
}

// find returns the session of a HELLO, made if need be, after everything of an
// earlier incarnation of its ingress has been ended.
func (h *host) find(from ring.Member, stripe uint16) (*hosted, error) {
	for {
		s, older, err := h.look(from, stripe)
		if len(older) == 0 {
			return s, err
		}
		h.drop(older)
	}
}

// drop ends sessions, and forgets them after that: nobody is let in by a new one
// while the readers of the old one go on.
func (h *host) drop(sessions []*hosted) {
	for _, s := range sessions {
		s.drop()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, s := range h.sessions {
		if slices.Contains(sessions, s) {
			delete(h.sessions, key)
		}
	}
}

func (h *host) look(from ring.Member, stripe uint16) (s *hosted, older []*hosted, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, s := range h.sessions {
		if key.name != from.Name {
			continue
		}
		switch {
		case s.session.ingress.Incarnation > from.Incarnation:
			return nil, nil, errors.New("a later incarnation of this node is known")
		case s.session.ingress.Incarnation < from.Incarnation:
			older = append(older, s)
		}
	}
	if len(older) > 0 {
		return nil, older, nil
	}
	key := sessionKey{from.Name, stripe}
	s = h.sessions[key]
	if s == nil {
		s = &hosted{host: h, kick: make(chan struct{}, 1)}
		s.session = newSession(from, s)
		h.sessions[key] = s
	}
	return s, nil, nil
}

// gone drops the sessions of a member that is no longer live.
func (h *host) gone(m ring.Member) {
	var of []*hosted
	for _, s := range h.all() {
		if s.session.ingress == m {
			of = append(of, s)
		}
	}
	h.drop(of)
}

// nextName is the name of a new session.
func (h *host) nextName() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.named++
	return h.named
}

// drop ends a session: its connection is closed and its reader has ended, what
// waits leaves its lane, and the answers of what runs go nowhere.
func (s *hosted) drop() {
	s.mu.Lock()
	s.dropped = true // first: nobody is let in any more
	s.mu.Unlock()
	s.hangUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.orphans != nil {
		s.orphans.Stop()
	}
	s.session.renew(0)
}

// hangUp closes the present connection and waits for its reader, so that no
// message of it comes behind those of the next one.
func (s *hosted) hangUp() {
	if ended := s.deafen(); ended != nil {
		<-ended
	}
}

// deafen closes the present connection, of which nothing is heard any more, and
// returns what is closed when its reader has returned; nil if there is none.
func (s *hosted) deafen() (ended <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session.deaf = true
	if s.conn == nil {
		return nil
	}
	s.conn.Close()
	return s.ended
}

// serveOrdered serves a connection that carries requests. raw is below conn: to
// close it does not wait for anybody to read a good-bye.
func (h *host) serveOrdered(raw, conn net.Conn, in *bufio.Reader, hello *hello, version uint16) error {
	s, err := h.find(hello.from, hello.stripe)
	if err != nil {
		conn.Write(appendBytes(nil, frameRefuse, []byte(err.Error()))) //nolint:errcheck // it is closed all the same
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	if err := s.greet(raw, ended, hello, version); err != nil {
		return err
	}
	conn.SetDeadline(time.Time{}) //nolint:errcheck // a dead connection fails the read
	quit := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { // ends with quit, or the connection
		h.hop.guard("writing answers", s.spoilt, func() error { s.writeAnswers(conn, quit); return nil }) //nolint:errcheck // it is logged
		raw.Close()
	})
	err = h.hop.guard("reading requests", s.spoilt, func() error { return s.readRequests(conn, in, hello.generation) })
	raw.Close()
	close(quit)
	writer.Wait()
	s.left(raw)
	return err
}

// greet lets a connection in, in place of an older one. Its writer writes the
// reply, for nothing may wait for a member under the lock.
func (s *hosted) greet(conn net.Conn, ended chan struct{}, hello *hello, version uint16) error {
	name := s.host.nextName()
	s.greeting.Lock()
	defer s.greeting.Unlock()
	s.mu.Lock()
	late := s.session.isLate(hello)
	s.mu.Unlock()
	if late {
		return errGeneration
	}
	s.hangUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped {
		return errors.New("peer: the session was dropped meanwhile")
	}
	if s.orphans != nil {
		s.orphans.Stop()
	}
	s.missed = false
	answer := s.session.greet(hello, name)
	answer.version, answer.owner = version, s.host.hop.config.Self
	s.conn, s.ended = conn, ended
	s.reply, s.acked, s.pongs = answer.append(nil), s.session.processed, false
	s.write(nil)
	return nil
}

// left notes that a connection has ended. Its ingress has some time to come
// back, before what it has waiting leaves.
func (s *hosted) left(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != conn {
		return
	}
	s.conn, s.session.deaf, s.missed = nil, true, true
	s.orphans = time.AfterFunc(orphanAfter, s.orphan)
}

// orphan is called when an ingress has not come back. One that is not among the
// members will never be said to be gone, so its session ends here.
func (s *hosted) orphan() {
	defer s.host.hop.rescue("ending what an ingress left", s.spoilt)
	stranger := s.host.hop.peer(s.session.ingress) == nil
	if s.abandon(stranger) && stranger {
		s.host.drop([]*hosted{s})
	}
}

// abandon takes out what waits, if there is no connection.
func (s *hosted) abandon(stranger bool) (alone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		return false
	}
	s.missed = false
	s.session.orphan()
	s.dropped = s.dropped || stranger
	return true
}

// readRequests takes tickets in the order of reading. Nothing here waits for
// anything but the next frame.
func (s *hosted) readRequests(conn net.Conn, in *bufio.Reader, generation uint64) error {
	watch := silence{conn: conn}
	frames := frameReader{in: in, most: frameMax}
	for {
		watch.reset()
		k, payload, err := frames.next()
		if err != nil {
			return err
		}
		switch k {
		case frameControl, frameNote:
			if !s.hears(generation) {
				return errGeneration
			}
			err = s.host.hop.guard("taking a message", nothing, func() error { s.pass(k, payload); return nil })
		case frameRequest:
			err = s.hear(k, frames.own(payload), generation)
			frames.buffer = s.takeSpare()
		default:
			err = s.hear(k, payload, generation)
		}
		if err != nil {
			return err
		}
	}
}

// pass hands on a message that is not the hop's own.
func (s *hosted) pass(k kind, payload []byte) {
	if k == frameNote {
		s.host.hop.config.Note(s.session.ingress, payload)
		return
	}
	s.host.hop.config.Control(s.session.ingress, payload)
}

func (s *hosted) hears(generation uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session.hears(generation)
}

// hear acts on a frame that the connection of a generation brought.
func (s *hosted) hear(k kind, payload []byte, generation uint64) error {
	switch k {
	case frameRequest:
		return s.hearRequest(payload, generation)
	case frameCancel, frameConfirm:
		n, err := parseNumber(payload)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if k == frameCancel {
			s.session.cancel(n, generation)
		} else {
			s.session.confirm(n, generation)
		}
	case framePing:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pongs = true
		s.write(nil)
	default: // of a later version
	}
	return nil
}

// hearRequest takes the ticket of a request, whose bytes are its own until it is
// answered.
func (s *hosted) hearRequest(payload []byte, generation uint64) error {
	in := &Inbound{Ingress: s.session.ingress, host: s, frame: payload}
	sent, err := parseRequest(payload, &in.Request)
	if err != nil {
		return err
	}
	in.Partition = sent.partition
	if in.Bulk {
		in.body = newIncoming(in.BodySize)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Bulk {
		s.write(nil) // its body waits for ADMITTED
	}
	return s.session.request(in, sent, generation)
}

// What is kept of the memory of answered requests, for each session.
const (
	spareMax   = 64
	spareBytes = 16 << 10
)

// takeSpare returns the memory of a request that was answered, or nil.
func (s *hosted) takeSpare() (spare []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := len(s.spare) - 1; last >= 0 {
		spare, s.spare = s.spare[last], s.spare[:last]
	}
	return spare
}

// writeAnswers writes what there is to say, as much as there is at once.
func (s *hosted) writeAnswers(conn net.Conn, quit <-chan struct{}) {
	var batch []byte
	for {
		select {
		case <-s.kick:
			runtime.Gosched() // as in writeRequests
		case <-quit:
			return
		}
		for {
			batch = s.taken(batch[:0])
			if len(batch) == 0 {
				break
			}
			conn.SetWriteDeadline(time.Now().Add(writeMax)) //nolint:errcheck // a dead connection fails the write
			if _, err := conn.Write(batch); err != nil {
				return
			}
			if cap(batch) > 2*batchBytes {
				batch = nil
			}
		}
	}
}

func (s *hosted) taken(b []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(b)
}

// take appends what is to be written. ADMITTED comes behind every answer, or it
// would be taken for the word on a request that was answered MOVED.
func (s *hosted) take(b []byte) []byte {
	of := s.session
	b, s.reply = append(b, s.reply...), nil
	for of.unsent < len(of.answers) && len(b) < batchBytes {
		b = append(b, of.answers[of.unsent].frame...)
		of.unsent++
	}
	if of.unsent == len(of.answers) && of.processed > s.acked {
		s.acked = of.processed
		b = appendNumber(b, frameAdmitted, s.acked)
	}
	if s.pongs {
		s.pongs = false
		b = appendBytes(b, framePong, nil)
	}
	return b
}

// The session's surroundings.

func (s *hosted) serve(in *Inbound) (refusal *Response, mine bool) {
	defer s.host.hop.rescue("serving a request", func() { refusal, mine = s.serveFailed(in), true })
	return s.host.hop.config.Serve(in)
}

func (s *hosted) leave(in *Inbound) bool {
	left := in.Ticket.Leave()
	if left {
		s.tellLeft(in)
	}
	return left
}

func (s *hosted) owner(partition int) (ring.Member, uint64) {
	return s.host.hop.config.Owner(partition)
}

func (s *hosted) write(*session) {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Respond answers a request that was served. It is called exactly once, by any
// goroutine that holds no lock: not from Serve, nor from the Notify of a ticket,
// both of which may be called under the lock that it takes. r is not retained;
// the request's Key, Head and Body are gone. A body that would stand in the way
// of other answers for too long is fetched, as a stream is.
func (in *Inbound) Respond(r *Response) { in.Answer(r) }

// Answer is Respond, and reports whether somebody still waits for the answer.
func (in *Inbound) Answer(r *Response) bool {
	if len(r.Body) > answerMax {
		of := *r
		body := bytes.Clone(r.Body)
		of.Body = nil
		in.respondStream(&of, &Stream{reader: bytes.NewReader(body), size: len(body), closed: func(bool) {}})
		return true
	}
	return in.respond(r)
}

func (in *Inbound) respond(r *Response) (taken bool) {
	s := in.host
	s.mu.Lock()
	defer s.mu.Unlock()
	if taken = in.session.finish(in, r); !taken && in.stream != nil {
		in.stream.close()
	}
	in.Key, in.Head, in.Body = nil, nil, nil
	if len(s.spare) < spareMax && cap(in.frame) <= spareBytes {
		s.spare = append(s.spare, in.frame)
	}
	in.frame = nil
	return taken
}

// settle waits until every answer has been read. An ingress whose connection broke
// is waited for like one that reads slowly: only in this node's reply does it learn
// what of that ran.
func (h *host) settle(ctx context.Context) error {
	ticker := time.NewTicker(tendEvery / 4)
	defer ticker.Stop()
	for !h.settled() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (h *host) settled() bool {
	for _, s := range h.all() {
		s.mu.Lock()
		owes := s.giving > 0 || s.missed && !s.dropped || s.conn != nil && len(s.session.answers)+len(s.session.open)+len(s.session.streams) > 0
		s.mu.Unlock()
		if owes {
			return false
		}
	}
	return true
}

func (h *host) all() []*hosted {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*hosted
	for _, s := range h.sessions {
		all = append(all, s)
	}
	return all
}

// freeze closes every connection unread, what has been buffered of it included, and
// returns when their readers have.
func (h *host) freeze() {
	var readers []<-chan struct{}
	for _, s := range h.all() { // all of them before any is waited for
		if ended := s.deafen(); ended != nil {
			readers = append(readers, ended)
		}
	}
	h.closeAll()
	for _, ended := range readers {
		<-ended
	}
}

func (h *host) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for conn := range h.conns {
		conn.Close()
	}
}

func (h *host) close() {
	h.mu.Lock()
	h.closed = true
	if h.listener != nil {
		h.listener.Close()
	}
	h.mu.Unlock()
	h.closeAll()
	h.drop(h.all())
	h.wg.Wait()
}
