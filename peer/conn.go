package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"time"
)

// keep holds a connection to a member open until the member is gone.
func (s *stripe) keep(l *link, p *peer) {
	var last string
	for pause := redialLeast; p.life.Err() == nil; {
		greeted := false
		err := s.hop.guard("a connection to a member", func() { s.spoilt(l) }, func() (err error) {
			greeted, err = s.connect(l, p)
			return err
		})
		if p.life.Err() != nil {
			return
		}
		// One line for each cause in a row, not for each attempt.
		if text := err.Error(); text != last {
			last = text
			s.hop.config.Log.Warn("no connection to a member", "member", p.Name, "address", p.Address, "error", err)
		}
		if greeted {
			pause, last = redialLeast, ""
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-p.life.Done():
			timer.Stop()
		}
		pause = min(2*pause, redialMost)
	}
}

// connect makes one connection and serves it until it ends. It reports whether
// the member let it in.
func (s *stripe) connect(l *link, p *peer) (greeted bool, _ error) {
	conn, err := s.hop.dial(p.life, p)
	if err != nil {
		return false, err
	}
	raw := below(conn)
	defer raw.Close()
	stop := context.AfterFunc(p.life, func() { raw.Close() })
	defer stop()

	h := s.hello(l, p)
	in := bufio.NewReaderSize(conn, 64<<10)
	answer, err := greet(conn, in, &h)
	if err != nil {
		return false, err
	}

	if err := s.replied(l, raw, answer); err != nil {
		return false, err
	}
	if p.up.Add(1); s.number == 0 {
		err = s.hop.guard("telling of a connection", nothing, func() error { s.hop.config.Up(l.peer); return nil })
	}

	var writer sync.WaitGroup
	quit := make(chan struct{})
	spoilt := func() { s.spoilt(l) }
	writer.Go(func() { // ends with quit, or the connection
		s.hop.guard("writing requests", spoilt, func() error { s.writeRequests(l, conn, quit); return nil }) //nolint:errcheck // it is logged
		raw.Close()
	})
	if err == nil {
		err = s.hop.guard("reading answers", spoilt, func() error { return s.readAnswers(l, conn, in) })
	}
	raw.Close()
	close(quit)
	writer.Wait()

	p.up.Add(-1)
	s.broken(l)
	return true, err
}

// hello begins a connection.
func (s *stripe) hello(l *link, p *peer) hello {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hop.hello(p)
	h.stripe = uint16(s.number) //nolint:gosec // a handful
	h.generation, h.session, h.got = s.outbox.connecting(l)
	return h
}

func (s *stripe) replied(l *link, conn net.Conn, answer *reply) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outbox.links[l.peer] != l {
		return errors.New("the member is gone")
	}
	l.wire.conn = conn
	s.outbox.replied(l, answer)
	return nil
}

func (s *stripe) broken(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.wire.conn = nil
	l.wire.round.lost()
	s.outbox.broken(l)
}

// below is the connection that carries another. To close it does not wait for
// anybody to read a good-bye.
func below(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return conn
}

// dial opens a connection, of which nothing has been said yet.
func (h *Hop) dial(ctx context.Context, p *peer) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, greetMax)
	defer cancel()
	conn, err := h.config.Dial(ctx, p.Address)
	if err != nil {
		return nil, err
	}
	if h.config.TLS == nil {
		return conn, nil
	}
	secure := tls.Client(conn, h.config.TLS)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS with %s: %w", p.Address, err)
	}
	return secure, nil
}

func (h *Hop) hello(p *peer) hello {
	return hello{
		versions: h.config.versions,
		cluster:  h.config.Cluster, layout: h.config.Layout,
		from: h.config.Self, to: p.Member.Member,
	}
}

// greet sends a HELLO and reads its reply.
func greet(conn net.Conn, in *bufio.Reader, h *hello) (*reply, error) {
	conn.SetDeadline(time.Now().Add(greetMax)) //nolint:errcheck // a dead connection fails the write
	if _, err := conn.Write(h.append(nil)); err != nil {
		return nil, err
	}
	k, payload, err := readFrame(in, frameMax)
	switch {
	case err != nil:
		return nil, err
	case k == frameRefuse:
		return nil, refused(payload)
	case k != frameReply:
		return nil, fmt.Errorf("%w: kind %d in place of a reply", errFrame, k)
	}
	answer, err := parseReply(payload)
	switch {
	case err != nil:
		return nil, err
	case answer.owner != h.to:
		return nil, errOther
	case answer.version < h.least || answer.version > h.most:
		return nil, fmt.Errorf("it speaks version %d of the protocol, this node %d to %d", answer.version, h.least, h.most)
	}
	return &answer, conn.SetDeadline(time.Time{})
}

// writeRequests writes what l has to write, as much as there is at once.
func (s *stripe) writeRequests(l *link, conn net.Conn, quit <-chan struct{}) {
	tend := time.NewTicker(tendEvery)
	defer tend.Stop()
	var batch []byte
	pinged := time.Now()
	for {
		tending := false
		select {
		case <-l.wire.kick:
			// Whoever is about to send something has its turn first: one write for
			// all of it is a fraction of the cost of one for each.
			runtime.Gosched()
		case <-tend.C:
			tending = true
		case <-quit:
			return
		}
		for {
			now := time.Now()
			var asked bool
			if batch, asked = s.take(l, batch[:0], now, tending); asked {
				l.wire.round.spoil()
			}
			if now.Sub(pinged) >= pingEvery {
				batch, pinged = appendBytes(batch, framePing, nil), now
				l.wire.round.ping(now)
			}
			if len(batch) == 0 {
				break
			}
			conn.SetWriteDeadline(now.Add(writeMax)) //nolint:errcheck // a dead connection fails the write
			if _, err := conn.Write(batch); err != nil {
				return
			}
			if cap(batch) > 2*batchBytes {
				batch = nil
			}
		}
	}
}

// take reports whether what is to be written has a PING.
func (s *stripe) take(l *link, b []byte, now time.Time, tending bool) (_ []byte, asked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asks := l.asks
	b = l.take(b, now, tending)
	return b, asks && !l.asks
}

// take appends what is to be written, and notes that it is on its way. Payloads
// are copied here, under the lock, so that they belong to nobody else.
func (l *link) take(b []byte, now time.Time, tending bool) []byte {
	for len(l.controls) > 0 && len(b) < batchBytes { // first: a partition may be waiting to move
		b = appendBytes(b, frameControl, l.controls[0])
		l.controls[0], l.controls = nil, l.controls[1:]
	}
	for len(l.notes) > 0 && len(b) < batchBytes { // a key waits for each
		b = appendBytes(b, frameNote, l.notes[0])
		l.notes[0], l.notes = nil, l.notes[1:]
	}
	for c := l.unwritten.head; c != nil && len(b) < batchBytes; c = l.unwritten.head {
		b = appendSending(b, sending{seq: c.seq, partition: c.Partition, first: c.first, patience: c.until.Sub(now)}, c.payload)
		l.wrote(c)
	}
	for _, seq := range l.cancels { // of requests that have been written, by now at least
		b = appendNumber(b, frameCancel, seq)
	}
	l.cancels = l.cancels[:0]
	if l.got > l.confirmed && (tending || len(b) > 0 || l.owes()) {
		b = appendNumber(b, frameConfirm, l.got)
		l.confirmed, l.heard = l.got, 0
	}
	if l.asks && l.unwritten.head == nil { // behind what is asked about
		l.asks = false
		b = appendBytes(b, framePing, nil)
	}
	return b
}

// readAnswers reads what the owner says until the connection ends.
func (s *stripe) readAnswers(l *link, conn net.Conn, in *bufio.Reader) error {
	watch := silence{conn: conn}
	frames := frameReader{in: in, most: frameMax}
	for {
		watch.reset()
		k, payload, err := frames.next()
		if err != nil {
			return err
		}
		switch k {
		case frameResponse:
			payload = frames.own(payload)
		case framePong: // here, as no rule of the outbox knows time
			l.wire.round.pong(time.Now())
		}
		if err := s.hear(l, k, payload); err != nil {
			return err
		}
	}
}

// hear acts on a frame of the owner's.
func (s *stripe) hear(l *link, k kind, payload []byte) error {
	switch k {
	case frameResponse:
		var r Response
		seq, err := parseResponse(payload, &r)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outbox.responded(l, seq, r)
	case frameAdmitted:
		upTo, err := parseNumber(payload)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outbox.ack(l, upTo)
	case frameMoved:
		m, err := parseMoved(payload)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outbox.moved(l, &m)
	default: // PONG, or of a later version
	}
	return nil
}

// silence breaks a connection on which nothing was heard for silenceMax. To arm
// a deadline costs more than to read a small frame, so it is done rarely.
type silence struct {
	conn  net.Conn
	armed time.Time
}

func (s *silence) reset() {
	if now := time.Now(); now.Sub(s.armed) > silenceMax/8 {
		s.armed = now
		s.conn.SetReadDeadline(now.Add(silenceMax)) //nolint:errcheck // a dead connection fails the read
	}
}
