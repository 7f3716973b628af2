package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"lanekeeper/ring"
)

// Questions between members are not requests of anybody's: they take no ticket, they may be lost,
// and their answers may be large, or late. So they travel on connections of their own, one at
// a time on each, and delay nothing. A member answers a few at once and refuses more.

// Ask is a question to a member: a request to its admin API.
type Ask struct {
	Method, Target string
	Body           []byte
}

// Told is the answer to one.
type Told struct {
	Status int
	Type   string // of the body
	Body   []byte
}

// Bounds of questions. An answer has a status and a type besides its body.
const (
	askMax      = 64 << 10 // of an ASK
	toldBodyMax = 4 << 20
	toldMax     = toldBodyMax + 4<<10
	asksMax     = 64               // that this node asks at once
	tellsMax    = 16               // that it answers at once
	answerFor   = 15 * time.Second // that it takes for one, at most
	asksSince   = 2                // the first version of the protocol that knows them
)

// Errors of Hop.Ask.
var (
	ErrNoMember = errors.New("it is no live member")
	ErrOlder    = errors.New("it is of an older version, which cannot be asked")
	ErrLargeAsk = errors.New("the question is too large to be carried")
	ErrSilent   = errors.New("it did not answer in time")
)

// Ask puts a question to a member, as long as ctx lasts at most. A GET may be asked twice, if a
// connection breaks that had been idle; nothing else is.
func (h *Hop) Ask(ctx context.Context, to ring.Member, a *Ask) (*Told, error) {
	p := h.peer(to)
	if p == nil {
		return nil, ErrNoMember
	}
	frame := a.append(nil)
	if len(frame) > askMax {
		return nil, ErrLargeAsk
	}
	select {
	case h.asking <- struct{}{}:
		defer func() { <-h.asking }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: too many are being asked", ErrSilent)
	}
	if a.Method == "GET" {
		if c := p.asks.take(); c != nil {
			if told, err := p.put(ctx, c, frame); err == nil {
				return told, nil
			}
		}
	}
	c, err := p.dialAsks(ctx, h)
	var told *Told
	if err == nil {
		told, err = p.put(ctx, c, frame)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ErrSilent
	case err != nil && p.life.Err() != nil: // meanwhile: what broke then says nothing
		return nil, ErrNoMember
	}
	return told, err
}

// dialAsks makes a connection for questions.
func (p *peer) dialAsks(ctx context.Context, h *Hop) (*bulkConn, error) {
	life, cancel := context.WithCancel(p.life)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	conn, err := h.dial(life, p)
	if err != nil {
		return nil, err
	}
	c := &bulkConn{Conn: conn, in: bufio.NewReaderSize(conn, 32<<10)}
	defer context.AfterFunc(life, c.hangUp)()
	hello := h.hello(p)
	hello.bulk, hello.asks = true, true
	reply, err := greet(conn, c.in, &hello)
	if err == nil && reply.version < asksSince {
		err = ErrOlder
	}
	if err != nil {
		c.hangUp()
		return nil, err
	}
	return c, nil
}

// put puts a question by a connection, which is kept for others if all went well.
func (p *peer) put(ctx context.Context, c *bulkConn, frame []byte) (*Told, error) {
	life, cancel := context.WithCancel(p.life)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	stop := context.AfterFunc(life, c.hangUp)
	told, err := c.put(frame)
	if !stop() || err != nil {
		c.hangUp()
		return told, err
	}
	p.asks.put(c)
	return told, nil
}

func (c *bulkConn) put(frame []byte) (*Told, error) {
	if _, err := c.Write(frame); err != nil {
		return nil, err
	}
	k, payload, err := readFrame(c.in, toldMax)
	if err != nil {
		return nil, err
	}
	if k != frameTold {
		return nil, fmt.Errorf("%w: kind %d in place of an answer", errFrame, k)
	}
	told, err := parseTold(payload)
	return &told, err
}

// serveAsks answers questions until the connection ends.
func (h *host) serveAsks(conn net.Conn, in *bufio.Reader, hello *hello) error {
	for {
		conn.SetReadDeadline(time.Now().Add(2 * bulkAge)) //nolint:errcheck // a dead connection fails the read
		k, payload, err := readFrame(in, askMax)
		if err != nil {
			return err
		}
		if k != frameAsk {
			return fmt.Errorf("%w: kind %d in place of a question", errFrame, k)
		}
		a, err := parseAsk(payload)
		if err != nil {
			return err
		}
		told := h.answer(hello.from, &a)
		if _, err := (patientWriter{Conn: conn}).Write(told.append(nil)); err != nil {
			return err
		}
	}
}

func (h *host) answer(from ring.Member, a *Ask) *Told {
	select {
	case h.telling <- struct{}{}:
		defer func() { <-h.telling }()
	default:
		return refuseAsk(503, "too many questions are being answered")
	}
	if h.hop.config.Answer == nil {
		return refuseAsk(501, "questions are not answered here")
	}
	ctx, cancel := context.WithTimeout(h.hop.life, answerFor)
	defer cancel()
	told := h.hop.config.Answer(ctx, from, a)
	if len(told.Body) > toldBodyMax {
		return refuseAsk(507, fmt.Sprintf("the answer has more than %d bytes", toldBodyMax))
	}
	return told
}

func refuseAsk(status int, why string) *Told {
	return &Told{Status: status, Type: "text/plain; charset=utf-8", Body: []byte(why)}
}

func (a *Ask) append(b []byte) []byte {
	start := len(b)
	b = appendText(begin(b, frameAsk), a.Method)
	b = appendLong(b, a.Target)
	return end(appendLong(b, a.Body), start)
}

func parseAsk(b []byte) (a Ask, err error) {
	r := reader{b: b}
	a.Method, a.Target, a.Body = string(r.text()), string(r.long()), r.long()
	return a, r.err()
}

func (t *Told) append(b []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(begin(b, frameTold), uint16(t.Status)) //nolint:gosec // of HTTP
	b = appendText(b, t.Type)
	return end(appendLong(b, t.Body), start)
}

func parseTold(b []byte) (t Told, err error) {
	r := reader{b: b}
	t.Status, t.Type, t.Body = int(r.u16()), string(r.text()), r.long()
	return t, r.err()
}
