package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

// kind is what a frame is.
type kind uint8

// The frames; see the package comment for what they hold and who sends them.
const (
	frameHello kind = 1 + iota
	frameReply
	frameRefuse
	frameRequest
	frameCancel
	frameConfirm
	framePing
	frameControl
	frameAdmitted
	frameMoved
	frameResponse
	framePong
	frameBody
	frameFetch
	frameData
	frameEnd
	frameNote
	frameAsk
	frameTold
)

const (
	frameHeader = 5        // length of the rest, kind
	frameMax    = 32 << 20 // of any frame: a control message may list every key of a partition
	helloMax    = 4 << 10  // of a frame from somebody who has not been let in
	inlineMax   = 64 << 10 // a longer body travels on a connection of its own
	answerMax   = 1 << 20  // and so does that of a longer response
)

// versions of the protocol. A frame may grow at its end: what a version does not
// know there, it ignores.
type versions struct{ least, most uint16 }

// spoken are the versions that this build speaks. 2 has ASK and TOLD, on connections that who
// speaks 1 takes for bulk ones.
var spoken = versions{1, 2}

// magic opens a HELLO, so that whatever else calls this port is told apart.
const magic = "LKHOP"

var errFrame = errors.New("peer: malformed frame")

// begin appends the header of a frame whose length end fills in.
func begin(b []byte, k kind) []byte { return append(b, 0, 0, 0, 0, byte(k)) }

func end(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4)) //nolint:gosec // bounded by frameMax
	return b
}

// frameReader reads frames. The payload of one is valid until the next is read.
type frameReader struct {
	in     *bufio.Reader
	most   int      // bytes of a payload
	small  [64]byte // of frames that are not kept
	buffer []byte
}

func (r *frameReader) next() (kind, []byte, error) {
	header, err := r.in.Peek(frameHeader)
	if err != nil {
		if len(header) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	n, k := int(binary.BigEndian.Uint32(header))-1, kind(header[4])
	if n < 0 || n > r.most {
		return 0, nil, fmt.Errorf("%w: it has %d bytes, at most %d are taken", errFrame, n, r.most)
	}
	r.in.Discard(frameHeader) //nolint:errcheck // they have been peeked at
	payload, err := r.read(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return k, payload, err
}

// believed is how much of a frame's length is believed before it has come.
const believed = 1 << 20

func (r *frameReader) read(n int) ([]byte, error) {
	if n <= len(r.small) {
		_, err := io.ReadFull(r.in, r.small[:n])
		return r.small[:n], err
	}
	if cap(r.buffer) < min(n, believed) || cap(r.buffer) > 2*batchBytes && n <= batchBytes {
		r.buffer = make([]byte, min(n, believed))
	}
	payload := r.buffer[:min(n, cap(r.buffer))]
	_, err := io.ReadFull(r.in, payload)
	for len(payload) < n && err == nil {
		at := len(payload)
		payload = append(payload, make([]byte, min(n-at, at))...)
		_, err = io.ReadFull(r.in, payload[at:])
	}
	r.buffer = payload
	return payload, err
}

// own makes the payload that was read last the caller's.
func (r *frameReader) own(payload []byte) []byte {
	if len(payload) <= len(r.small) {
		return bytes.Clone(payload)
	}
	r.buffer = nil
	return payload
}

// readFrame reads one frame.
func readFrame(in *bufio.Reader, most int) (kind, []byte, error) {
	r := frameReader{in: in, most: most}
	k, payload, err := r.next()
	return k, r.own(payload), err
}

// reader takes a frame apart. After the first field that is not there, every
// field is zero and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	part := r.b[:n:n]
	r.b = r.b[n:]
	return part
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// text reads bytes behind their length of 16 bits; long, of 32.
func (r *reader) text() []byte { return r.take(int(r.u16())) }
func (r *reader) long() []byte { return r.take(int(r.u32())) }

func (r *reader) member() ring.Member {
	return ring.Member{Name: string(r.text()), Incarnation: r.u64()}
}

func (r *reader) id() (id queue.ID) {
	copy(id[:], r.take(len(id)))
	return id
}

func (r *reader) millis() time.Duration { return time.Duration(r.u32()) * time.Millisecond }
func (r *reader) micros() time.Duration { return time.Duration(r.u32()) * time.Microsecond }

// count is an int that fits 32 bits.
func (r *reader) count() int { return int(r.u32()) }

func (r *reader) err() error {
	if r.bad {
		return fmt.Errorf("%w: it is cut off", errFrame)
	}
	return nil
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...) //nolint:gosec // names are bounded where they come from
}

func appendLong[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...) //nolint:gosec // bounded by frameMax
}

func appendMember(b []byte, m ring.Member) []byte {
	return binary.BigEndian.AppendUint64(appendText(b, m.Name), m.Incarnation)
}

// clamp32 keeps a duration in units of u, or a count, within 32 bits.
func clamp32[T ~int | ~int64](n, u T) uint32 { return uint32(min(max(n/u, 0), 1<<32-1)) } //nolint:gosec // clamped

func appendMillis(b []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(b, clamp32(d, time.Millisecond))
}

func appendMicros(b []byte, d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(b, clamp32(d, time.Microsecond))
}

func appendCount(b []byte, n int) []byte { return binary.BigEndian.AppendUint32(b, clamp32(n, 1)) }

// hello is the first frame on every connection, from the one that dialled.
type hello struct {
	versions
	bulk       bool // the connection carries large bodies, or questions
	asks       bool // it is those
	cluster    string
	layout     uint64
	from, to   ring.Member // to: whom it means to have called
	stripe     uint16
	generation uint64 // rises with every connection of this stripe
	session    uint64 // that it means to go on with; 0: none
	got        uint64 // answers that it has read in it
}

func (h *hello) append(b []byte) []byte {
	start := len(b)
	b = append(begin(b, frameHello), magic...)
	b = binary.BigEndian.AppendUint16(b, h.least)
	b = binary.BigEndian.AppendUint16(b, h.most)
	b = append(b, bit(h.bulk, 1)|bit(h.asks, 2))
	b = appendText(b, h.cluster)
	b = binary.BigEndian.AppendUint64(b, h.layout)
	b = appendMember(appendMember(b, h.from), h.to)
	b = binary.BigEndian.AppendUint16(b, h.stripe)
	b = binary.BigEndian.AppendUint64(b, h.generation)
	b = binary.BigEndian.AppendUint64(b, h.session)
	return end(binary.BigEndian.AppendUint64(b, h.got), start)
}

func parseHello(b []byte) (h hello, err error) {
	r := reader{b: b}
	if string(r.take(len(magic))) != magic {
		return h, fmt.Errorf("%w: it is no HELLO", errFrame)
	}
	h.least, h.most = r.u16(), r.u16()
	flags := r.u8()
	h.bulk, h.asks = flags&1 != 0, flags&2 != 0
	h.cluster = string(r.text())
	h.layout = r.u64()
	h.from, h.to = r.member(), r.member()
	h.stripe = r.u16()
	h.generation, h.session, h.got = r.u64(), r.u64(), r.u64()
	return h, r.err()
}

// reply lets a HELLO in, and says what became of the requests before it.
type reply struct {
	version   uint16
	owner     ring.Member
	session   uint64   // if it is not the one that was named, nothing is known of that one
	processed uint64   // the highest number read; a request above it was never seen
	open      []uint64 // those at or below it that wait or run, rising
}

func (p *reply) append(b []byte) []byte {
	start := len(b)
	b = begin(b, frameReply)
	b = binary.BigEndian.AppendUint16(b, p.version)
	b = appendMember(b, p.owner)
	b = binary.BigEndian.AppendUint64(b, p.session)
	b = binary.BigEndian.AppendUint64(b, p.processed)
	b = appendCount(b, len(p.open))
	for _, seq := range p.open {
		b = binary.BigEndian.AppendUint64(b, seq)
	}
	return end(b, start)
}

func parseReply(b []byte) (p reply, err error) {
	r := reader{b: b}
	p.version = r.u16()
	p.owner = r.member()
	p.session, p.processed = r.u64(), r.u64()
	n := r.count()
	if n > len(r.b)/8 {
		return p, fmt.Errorf("%w: it is cut off", errFrame)
	}
	p.open = make([]uint64, n)
	for i := range p.open {
		p.open[i] = r.u64()
	}
	return p, r.err()
}

func bit(set bool, of byte) byte {
	if set {
		return of
	}
	return 0
}

// Request is what the owner needs of a request to run it in its lane as its
// ingress would: routes and limits are the ingress's own, so that they can be
// changed by one node after the other.
type Request struct {
	Key    []byte // the lane's name, byte for byte
	Route  string
	Class  queue.Class
	Ticket queue.ID
	Holder queue.ID

	Identity *Identity // of a request that must not run twice; nil: none
	Sequence *Sequence // of a request whose producer numbers them; nil: none

	MaxDepth, MaxBytes, MaxShared int
	MaxResponse                   int

	Patience        time.Duration // left, of the wait for the turn
	UpstreamTimeout time.Duration
	HoldFor         time.Duration // 0: the lane is released after a timeout
	Retries         int

	Effect *queue.Effect // on others in the lane; nil: nobody can tell

	Strict bool // only as long as the owner's lease lasts
	Turn   bool // its turn is what is asked for: its ingress runs requests in it
	ToHead bool // the response has no body
	Bulk   bool // Body is empty, and BodySize bytes come by another connection

	// Head is the request for the upstream, less the fields that only the owner
	// can tell and the empty line. Body is whole. For a Turn both are the edge's own.
	Head, Body []byte
	BodySize   int
}

// Identity is what makes two requests one, and what both must ask for; see package
// idempotency.
type Identity struct{ ID, Print [32]byte }

// Sequence is where a request stands among those of its producer; see package sequence.
type Sequence struct {
	Producer   string
	Epoch, Seq uint64
	Named      bool // the request's identity is made of this
}

const (
	flagToHead = 1 << iota
	flagBulk
	flagFirst
	flagStrict
	flagTurn
	flagIdentity
	flagSequence
	flagEffect
)

// appendRequest appends what of a REQUEST does not change when it is sent again.
func appendRequest(b []byte, r *Request) []byte {
	b = append(b, byte(r.Class), bit(r.ToHead, flagToHead)|bit(r.Bulk, flagBulk)|bit(r.Strict, flagStrict)|bit(r.Turn, flagTurn)|bit(r.Identity != nil, flagIdentity)|bit(r.Sequence != nil, flagSequence)|bit(r.Effect != nil, flagEffect))
	b = append(append(b, r.Ticket[:]...), r.Holder[:]...)
	if r.Identity != nil {
		b = append(append(b, r.Identity.ID[:]...), r.Identity.Print[:]...)
	}
	if q := r.Sequence; q != nil {
		b = append(b, bit(q.Named, 1))
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(appendText(b, q.Producer), q.Epoch), q.Seq)
	}
	b = appendCount(appendCount(appendCount(appendCount(b, r.MaxDepth), r.MaxBytes), r.MaxShared), r.MaxResponse)
	b = appendCount(b, r.Retries)
	b = appendMillis(appendMillis(b, r.UpstreamTimeout), r.HoldFor)
	b = appendText(appendLong(b, r.Key), r.Route)
	if r.Effect != nil {
		b = appendEffect(b, r.Effect)
	}
	b = appendCount(appendLong(b, r.Head), r.BodySize)
	return append(b, r.Body...)
}

func appendEffect(b []byte, e *queue.Effect) []byte {
	b = append(appendText(b, e.Kind), e.On[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Over))) //nolint:gosec // bounded where they come from
	for i := range e.Over {
		o := &e.Over[i]
		b = append(b, bit(o.Anything, 1))
		b = binary.BigEndian.AppendUint16(b, uint16(o.Status)) //nolint:gosec // a status of HTTP
		b = appendText(b, o.Kind)
	}
	return b
}

// overSize is what one of an effect's rules takes at least.
const overSize = 1 + 2 + 2

func (r *reader) effect() *queue.Effect {
	e := &queue.Effect{Kind: string(r.text())}
	copy(e.On[:], r.take(len(e.On)))
	n := int(r.u16())
	if n > len(r.b)/overSize {
		r.bad, r.b = true, nil
		return e
	}
	for range n {
		e.Over = append(e.Over, queue.Over{Anything: r.u8()&1 != 0, Status: int(r.u16()), Kind: string(r.text())})
	}
	return e
}

// ticketAt is where appendRequest puts the ticket, which is known last.
const ticketAt = 2

// sending is the part of a REQUEST that is made when it is sent.
type sending struct { // sendingSize bytes
	seq       uint64
	partition int
	first     bool // the partition's route changed, and everything before has been settled
	patience  time.Duration
}

const sendingSize = 8 + 4 + 1 + 4

func appendSending(b []byte, s sending, payload []byte) []byte {
	start := len(b)
	b = begin(b, frameRequest)
	b = binary.BigEndian.AppendUint64(b, s.seq)
	b = appendCount(b, s.partition)
	b = append(b, bit(s.first, flagFirst))
	b = appendMillis(b, s.patience)
	return end(append(b, payload...), start)
}

// parseRequest takes a REQUEST apart. The slices of r alias b.
func parseRequest(b []byte, r *Request) (s sending, err error) {
	in := reader{b: b}
	s.seq = in.u64()
	s.partition = in.count()
	s.first = in.u8()&flagFirst != 0
	s.patience = in.millis()
	r.Patience = s.patience
	r.Class = queue.Class(in.u8())
	flags := in.u8()
	r.ToHead, r.Bulk, r.Strict, r.Turn = flags&flagToHead != 0, flags&flagBulk != 0, flags&flagStrict != 0, flags&flagTurn != 0
	r.Ticket, r.Holder = in.id(), in.id()
	if r.Identity = nil; flags&flagIdentity != 0 {
		r.Identity = new(Identity)
		copy(r.Identity.ID[:], in.take(len(r.Identity.ID)))
		copy(r.Identity.Print[:], in.take(len(r.Identity.Print)))
	}
	if r.Sequence = nil; flags&flagSequence != 0 {
		named := in.u8()&1 != 0
		r.Sequence = &Sequence{Named: named, Producer: string(in.text()), Epoch: in.u64(), Seq: in.u64()}
	}
	r.MaxDepth, r.MaxBytes, r.MaxShared, r.MaxResponse = in.count(), in.count(), in.count(), in.count()
	r.Retries = in.count()
	r.UpstreamTimeout, r.HoldFor = in.millis(), in.millis()
	r.Key, r.Route = in.long(), string(in.text())
	if r.Effect = nil; flags&flagEffect != 0 {
		r.Effect = in.effect()
	}
	r.Head, r.BodySize = in.long(), in.count()
	r.Body = in.b
	switch {
	case in.bad:
		return s, in.err()
	case r.Class > queue.Shared:
		return s, fmt.Errorf("%w: unknown class %d", errFrame, r.Class)
	case !r.Bulk && r.BodySize != len(r.Body), r.Bulk && len(r.Body) > 0:
		return s, fmt.Errorf("%w: a body of %d bytes was announced, %d came", errFrame, r.BodySize, len(r.Body))
	}
	return s, nil
}

// Response is a request's answer: the upstream's, or a problem, which is one of
// lanekeeper's own.
type Response struct {
	LaneWait, UpstreamTime time.Duration

	// Head ends with the empty line. Body is whole, unless Stream: then it is
	// fetched by another connection.
	Head, Body []byte
	Stream     bool

	Problem    string // its slug; "" = the upstream's response
	Status     int    // that it is to be told by, and nothing else; 0: it is told as it is
	Executed   Executed
	Detail     string
	RetryAfter time.Duration
	Depth      int

	Spills bool // more requests of the key had better ask for its turn, and stay where they are
}

// Executed says whether a request with a problem may have run.
type Executed uint8

// What is known of a request that got no response.
const (
	NotExecuted Executed = iota // it did not run, and will not
	Unknown
)

func appendResponse(b []byte, seq uint64, r *Response) []byte {
	start := len(b)
	b = slices.Grow(b, 128+len(r.Problem)+len(r.Detail)+len(r.Head)+len(r.Body))
	b = begin(b, frameResponse)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = append(b, bit(r.Stream, 1)|bit(r.Executed == Unknown, 2)|bit(r.Spills, 4)|bit(r.Status != 0, 8))
	b = appendMicros(appendMicros(b, r.LaneWait), r.UpstreamTime)
	b = appendText(appendText(b, r.Problem), r.Detail[:min(len(r.Detail), 1<<12)])
	b = appendCount(appendMillis(b, r.RetryAfter), r.Depth)
	if r.Status != 0 {
		b = binary.BigEndian.AppendUint16(b, uint16(r.Status)) //nolint:gosec // a status of HTTP
	}
	return end(append(appendLong(b, r.Head), r.Body...), start)
}

// parseResponse takes a RESPONSE apart. The slices of r alias b.
func parseResponse(b []byte, r *Response) (seq uint64, err error) {
	in := reader{b: b}
	seq = in.u64()
	flags := in.u8()
	r.Stream, r.Spills = flags&1 != 0, flags&4 != 0
	if flags&2 != 0 {
		r.Executed = Unknown
	}
	r.LaneWait, r.UpstreamTime = in.micros(), in.micros()
	r.Problem, r.Detail = string(in.text()), string(in.text())
	r.RetryAfter, r.Depth = in.millis(), in.count()
	if flags&8 != 0 {
		r.Status = int(in.u16())
	}
	r.Head = in.long()
	r.Body = in.b
	return seq, in.err()
}

// moved says who else may own a request's partition.
type moved struct {
	seq   uint64
	owner ring.Member // zero = not known
	epoch uint64
}

func (m *moved) append(b []byte) []byte {
	start := len(b)
	b = slices.Grow(b, 32+len(m.owner.Name))
	b = binary.BigEndian.AppendUint64(begin(b, frameMoved), m.seq)
	return end(binary.BigEndian.AppendUint64(appendMember(b, m.owner), m.epoch), start)
}

func parseMoved(b []byte) (m moved, err error) {
	r := reader{b: b}
	m.seq, m.owner, m.epoch = r.u64(), r.member(), r.u64()
	return m, r.err()
}

// appendNumber appends a frame of one number: CANCEL, CONFIRM, ADMITTED.
func appendNumber(b []byte, k kind, n uint64) []byte {
	start := len(b)
	return end(binary.BigEndian.AppendUint64(begin(b, k), n), start)
}

func parseNumber(b []byte) (uint64, error) {
	r := reader{b: b}
	return r.u64(), r.err()
}

// appendBytes appends a frame of bytes alone: PING, PONG, CONTROL, NOTE, REFUSE, DATA.
func appendBytes(b []byte, k kind, payload []byte) []byte {
	start := len(b)
	return end(append(begin(b, k), payload...), start)
}

// transfer names the request whose body a bulk connection carries.
type transfer struct {
	stripe uint16
	seq    uint64
	size   int // of BODY
}

func (t *transfer) append(b []byte, k kind) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(begin(b, k), t.stripe)
	return end(appendCount(binary.BigEndian.AppendUint64(b, t.seq), t.size), start)
}

func parseTransfer(b []byte) (t transfer, err error) {
	r := reader{b: b}
	t.stripe, t.seq, t.size = r.u16(), r.u64(), r.count()
	return t, r.err()
}
