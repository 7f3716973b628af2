package peer

import (
	"errors"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

// session is the owner's half of the hop: what this node knows of the requests
// of one stripe of one incarnation of an ingress. It outlives connections. It is
// pure, as outbox is.
//
// The rules, continued from there:
//
//  8. Every request up to processed is open, or has an answer; answers are kept
//     until the ingress has said that it read them, and are written again on the
//     next connection. So a break costs requests that have a ticket nothing, and
//     this node never denies what it ran. An answer that was forgotten once it
//     was written, and then lost, would leave its request without any. Answers
//     have a bound: above it, what has run is answered as unknown, in few bytes.
//  9. Only the connection that was let in last is listened to, and generations
//     rise: a HELLO that does not is refused. Else x0 lies unread in the old
//     socket while the reply says that it was never seen; it comes again by the
//     new one; and then x0 is read. Or a HELLO that lay unread ends its successor.
//  10. After MOVED for a partition everything of it is answered MOVED, over
//     reconnects too, until a request with the first bit.
//  11. A waiting ticket is unlinked in one step, or is left alone: a CANCEL of
//     what runs, or is not here, does nothing.
//  12. An ingress that names another session, or none, has written off what it
//     sent in this one: what of that waits leaves its lane, and nothing of it is
//     answered. The session begins anew, under a name that was never used.
type session struct {
	ingress    ring.Member
	env        sessionEnv
	name       uint64
	generation uint64 // of the last connection
	deaf       bool   // it is not listened to any more
	processed  uint64
	open       map[uint64]*Inbound
	moved      map[int]bool // partitions: rule 10

	answers  []answer // not confirmed, in order
	answered uint64   // how many came before answers[0]
	unsent   int      // the first of answers that the present connection has not written
	bytes    int      // of answers
	streams  map[uint64]*Stream
}

type answer struct {
	seq   uint64
	frame []byte
}

// sessionEnv is what a session asks of its surroundings, under its lock.
type sessionEnv interface {
	// serve takes in's ticket, or returns a refusal; it reports false, and has
	// done nothing, if the partition is not this node's.
	serve(in *Inbound) (refusal *Response, mine bool)
	// leave takes in out of its lane, and reports false if it did not wait there.
	leave(in *Inbound) bool
	// owner is where a partition's requests should go instead.
	owner(partition int) (ring.Member, uint64)
	// write tells that there is something to write.
	write(s *session)
}

func newSession(ingress ring.Member, env sessionEnv) *session {
	return &session{ingress: ingress, env: env, deaf: true, open: make(map[uint64]*Inbound), moved: make(map[int]bool)}
}

var errGeneration = errors.New("peer: the connection is older than another one that was let in")

// isLate reports whether a HELLO may not be let in any more (rule 9).
func (s *session) isLate(h *hello) bool { return h.generation <= s.generation }

// greet lets a connection in, and replies what became of the requests before it.
// renamed is the session's name from now on, if the ingress means another one.
func (s *session) greet(h *hello, renamed uint64) reply {
	s.generation, s.deaf = h.generation, false
	if h.session != s.name || s.name == 0 {
		s.renew(renamed)
	} else {
		s.drop(h.got)
	}
	s.unsent = 0
	p := reply{session: s.name, processed: s.processed}
	for seq := range s.open {
		p.open = append(p.open, seq)
	}
	sortBy(p.open, func(seq uint64) uint64 { return seq })
	return p
}

// renew begins a session anew (rule 12).
func (s *session) renew(name uint64) {
	s.name = name
	for _, in := range s.open {
		if in.body != nil {
			in.body.lose() // a turn may be waiting for it
		}
	}
	s.orphan()
	clear(s.open)
	clear(s.moved)
	s.closeStreams()
	s.answers, s.answered, s.bytes = nil, 0, 0
}

// hears reports whether the connection of a generation is listened to.
func (s *session) hears(generation uint64) bool { return generation == s.generation && !s.deaf }

var errSequence = errors.New("peer: the number of a request does not rise")

// request takes the ticket of a request, in the order of reading. generation is
// of the connection that it was read from, as everywhere.
func (s *session) request(in *Inbound, sent sending, generation uint64) error {
	switch {
	case !s.hears(generation):
		return errGeneration
	case sent.seq <= s.processed:
		return errSequence
	}
	s.processed = sent.seq
	in.session, in.seq = s, sent.seq
	if sent.first {
		delete(s.moved, in.Partition)
	}
	if !s.moved[in.Partition] {
		s.open[sent.seq] = in // before it can be finished
		refusal, mine := s.env.serve(in)
		switch {
		case refusal != nil:
			s.finish(in, refusal)
			return nil
		case mine:
			return nil
		}
		delete(s.open, sent.seq)
		s.moved[in.Partition] = true
	}
	m := moved{seq: sent.seq}
	m.owner, m.epoch = s.env.owner(in.Partition)
	s.say(sent.seq, m.append(nil))
	return nil
}

// say appends an answer, and the writer is told.
func (s *session) say(seq uint64, frame []byte) {
	s.answers = append(s.answers, answer{seq, frame})
	s.bytes += len(frame)
	s.env.write(s)
}

// answersMax bounds the bytes of answers that a session keeps. An ingress that
// reads them confirms them within a round trip.
const answersMax = 64 << 20

// finish answers an open request. It reports whether r was taken: if not, nobody
// waits for it any more, or there is no room for it.
func (s *session) finish(in *Inbound, r *Response) bool {
	if s.open[in.seq] != in {
		return false
	}
	delete(s.open, in.seq)
	if s.bytes > answersMax && r.Problem == "" {
		s.say(in.seq, appendResponse(nil, in.seq, &Response{
			Problem: PeerLost, Executed: Unknown, Detail: "its answer was dropped: too many wait for " + s.ingress.Name + " to read them",
			LaneWait: r.LaneWait, UpstreamTime: r.UpstreamTime,
		}))
		return false
	}
	if r.Stream {
		if s.streams == nil {
			s.streams = make(map[uint64]*Stream)
		}
		s.streams[in.seq] = in.stream
		s.bytes += in.stream.size
	}
	s.say(in.seq, appendResponse(nil, in.seq, r))
	return true
}

// confirm forgets answers that the ingress has read.
func (s *session) confirm(got, generation uint64) {
	if s.hears(generation) {
		s.drop(got)
	}
}

// drop forgets the answers up to a number.
func (s *session) drop(got uint64) {
	for s.answered < got && len(s.answers) > 0 {
		s.bytes -= len(s.answers[0].frame)
		s.answers[0].frame = nil
		s.answers = s.answers[1:]
		s.answered++
		s.unsent = max(s.unsent-1, 0)
	}
}

// cancel takes a request that waits out of its lane.
func (s *session) cancel(seq, generation uint64) {
	if in := s.open[seq]; in != nil && s.hears(generation) {
		s.takeOut(in)
	}
}

func (s *session) takeOut(in *Inbound) {
	if s.env.leave(in) {
		s.finish(in, &Response{Problem: Cancelled})
	}
}

// orphan takes everything that waits out of its lanes: the ingress is gone.
func (s *session) orphan() {
	waiting := make([]uint64, 0, len(s.open))
	for seq := range s.open {
		waiting = append(waiting, seq)
	}
	sortBy(waiting, func(seq uint64) uint64 { return seq })
	for _, seq := range waiting {
		s.takeOut(s.open[seq])
	}
}

// Inbound is a request that another member forwarded, because its lane is here.
type Inbound struct {
	Request
	Partition int
	Ingress   ring.Member

	// Ticket is its place in the lane, which the server takes.
	Ticket queue.Ticket
	// Left, if the server has set it, is called when the hop took the ticket out of
	// its lane: the request is not the server's any more.
	Left func()

	session *session
	host    *hosted
	seq     uint64
	frame   []byte // what Request's slices are in
	body    *incoming
	stream  *Stream
}
