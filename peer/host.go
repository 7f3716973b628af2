package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"lanekeeper/ring"
)

// host is the owner's half of the hop: it lets connections in, and gives each to
// its session.
type host struct {
	hop *Hop

	mu       sync.Mutex // guards the rest
	sessions map[sessionKey]*hosted
	conns    map[net.Conn]struct{}
	listener net.Listener
	closed   bool
	wg       sync.WaitGroup
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
	acked   uint64        // the last ADMITTED that was written
	pongs   bool
	dropped bool // its ingress is gone

	kick chan struct{}
}

func newHost(h *Hop) *host {
	return &host{hop: h, sessions: make(map[sessionKey]*hosted), conns: make(map[net.Conn]struct{})}
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
		h.wg.Go(func() { // ends with the connection, which close closes
			defer h.leave(conn)
			if err := h.let(conn); err != nil && !h.isClosed() {
				h.hop.config.Log.Debug("a member's connection ended", "remote", conn.RemoteAddr(), "error", err)
			}
		})
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
	return true
}

func (h *host) leave(conn net.Conn) {
	conn.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, conn)
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
	k, payload, err := readFrame(in, nil, helloMax)
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
		return h.serveBulk(conn, in, &hello)
	}
	return h.serveOrdered(conn, in, &hello, version)
}

// accepts says whether a HELLO may be let in, and in which version: the highest
// that both speak.
func (h *Hop) accepts(hello *hello) (version uint16, err error) {
	version = min(hello.most, versionMost)
	switch c := &h.config; {
	case hello.cluster != c.Cluster:
		return 0, fmt.Errorf("this is cluster %q, not %q", c.Cluster, hello.cluster)
	case hello.layout != c.Layout:
		return 0, errors.New("cluster.partitions, or another part of the layout that all members must share, differs")
	case hello.to != c.Self:
		return 0, fmt.Errorf("this is %s, not %s", c.Self, hello.to)
	case version < max(hello.least, versionLeast):
		return 0, fmt.Errorf("this node speaks versions %d to %d of the protocol, not %d to %d", versionLeast, versionMost, hello.least, hello.most)
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
		for _, s := range older {
			s.drop()
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
			delete(h.sessions, key)
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
	h.mu.Lock()
	var of []*hosted
	for key, s := range h.sessions {
		if s.session.ingress == m {
			of = append(of, s)
			delete(h.sessions, key)
		}
	}
	h.mu.Unlock()
	for _, s := range of {
		s.drop()
	}
}

// drop ends a session: its connection is closed and its reader has ended, what
// waits leaves its lane, and the answers of what runs go nowhere.
func (s *hosted) drop() {
	s.hangUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped = true
	if s.orphans != nil {
		s.orphans.Stop()
	}
	s.session.orphan()
	s.session.closeStreams()
}

// hangUp closes the present connection and waits for its reader.
func (s *hosted) hangUp() {
	s.mu.Lock()
	conn, ended := s.conn, s.ended
	s.mu.Unlock()
	if conn != nil {
		conn.Close()
		<-ended
	}
}

// serveOrdered serves a connection that carries requests.
func (h *host) serveOrdered(conn net.Conn, in *bufio.Reader, hello *hello, version uint16) error {
	s, err := h.find(hello.from, hello.stripe)
	if err != nil {
		conn.Write(appendBytes(nil, frameRefuse, []byte(err.Error()))) //nolint:errcheck // it is closed all the same
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	if err := s.greet(conn, ended, hello, version); err != nil {
		return err
	}
	quit := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { // ends with quit, or the connection
		s.writeAnswers(conn, quit)
		conn.Close()
	})
	err = s.readRequests(conn, in)
	conn.Close()
	close(quit)
	writer.Wait()
	s.left(conn)
	return err
}

// greet lets a connection in, in place of an older one.
func (s *hosted) greet(conn net.Conn, ended chan struct{}, hello *hello, version uint16) error {
	s.greeting.Lock()
	defer s.greeting.Unlock()
	s.mu.Lock()
	stale := hello.generation <= s.session.generation
	s.mu.Unlock()
	if stale {
		return errGeneration
	}
	s.hangUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped {
		return errors.New("peer: the session was dropped meanwhile")
	}
	answer, err := s.session.greet(hello, s.session.generation > 0)
	if err != nil {
		return err
	}
	answer.version, answer.owner = version, s.host.hop.config.Self
	if s.orphans != nil {
		s.orphans.Stop()
	}
	s.conn, s.ended, s.acked = conn, ended, s.session.processed
	conn.SetDeadline(time.Now().Add(writeMax)) //nolint:errcheck // a dead connection fails the write
	s.write(nil) // answers of before
	if _, err = conn.Write(answer.append(nil)); err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		s.leftLocked(conn)
	}
	return err
}

// left notes that a connection has ended. Its ingress has some time to come
// back, before what it has waiting leaves.
func (s *hosted) left(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leftLocked(conn)
}

func (s *hosted) leftLocked(conn net.Conn) {
	if s.conn != conn {
		return
	}
	s.conn = nil
	s.orphans = time.AfterFunc(orphanAfter, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conn == nil {
			s.session.orphan()
		}
	})
}

// readRequests takes tickets in the order of reading. Nothing here waits for
// anything but the next frame.
func (s *hosted) readRequests(conn net.Conn, in *bufio.Reader) error {
	watch := silence{conn: conn}
	var buffer []byte
	for {
		watch.reset()
		k, payload, err := readFrame(in, buffer, frameMax)
		if err != nil {
			return err
		}
		buffer = payload[:0]
		switch k {
		case frameRequest:
			inbound := &Inbound{Ingress: s.session.ingress, host: s}
			sent, err := parseRequest(payload, &inbound.Request)
			if err != nil {
				return err
			}
			buffer = nil // it is the request's now
			inbound.Partition = sent.partition
			if inbound.Bulk {
				inbound.body = newIncoming(inbound.BodySize)
			}
			s.mu.Lock()
			err = s.session.request(inbound, sent)
			s.mu.Unlock()
			if err != nil {
				return err
			}
			if in.Buffered() == 0 {
				s.write(nil) // ADMITTED
			}
		case frameCancel, frameConfirm:
			n, err := parseNumber(payload)
			if err != nil {
				return err
			}
			s.mu.Lock()
			if k == frameCancel {
				s.session.cancel(n)
			} else {
				s.session.confirm(n)
			}
			s.mu.Unlock()
		case frameControl:
			s.host.hop.config.Control(s.session.ingress, payload)
		case framePing:
			s.mu.Lock()
			s.pongs = true
			s.mu.Unlock()
			s.write(nil)
		default: // of a later version
		}
	}
}

// writeAnswers writes what there is to say, as much as there is at once.
func (s *hosted) writeAnswers(conn net.Conn, quit <-chan struct{}) {
	var batch []byte
	for {
		select {
		case <-s.kick:
		case <-quit:
			return
		}
		for {
			s.mu.Lock()
			batch = s.take(batch[:0])
			s.mu.Unlock()
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

// take appends what is to be written. ADMITTED comes behind every answer, or it
// would be taken for the word on a request that was answered MOVED.
func (s *hosted) take(b []byte) []byte {
	of := s.session
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

func (s *hosted) serve(in *Inbound) (*Response, bool) { return s.host.hop.config.Serve(in) }

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
// goroutine; r is not retained.
func (in *Inbound) Respond(r *Response) {
	s := in.host
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped && in.stream != nil {
		in.stream.close()
		return
	}
	in.session.finish(in, r)
}

// settle waits until every answer has been read.
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
		owes := s.conn != nil && len(s.session.answers)+len(s.session.open)+len(s.session.streams) > 0
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
	sessions := h.sessions
	h.sessions = make(map[sessionKey]*hosted)
	h.mu.Unlock()
	h.closeAll()
	for _, s := range sessions {
		s.drop()
	}
	h.wg.Wait()
}
