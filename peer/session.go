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
//     this node never denies what it ran: forgetting an answer once it was
//     written would make of a lost one a false "not-executed".
//  9. Generations rise: a HELLO that does not is refused with nothing read, and
//     before a new connection is replied to, the readers of the old ones have
//     ended. Else x0 lies unread in the old socket, whose reply the ingress has
//     had; x1 comes by the new one; and then x0 is read.
//  10. After MOVED for a partition everything of it is answered MOVED, over
//     reconnects too, until a request with the first bit.
//  11. A waiting ticket is unlinked in one step, or is left alone: a CANCEL of
//     what runs, or is not here, does nothing.
type session struct {
	ingress    ring.Member
	env        sessionEnv
	generation uint64
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
	// owner is where a partition's requests should go instead.
	owner(partition int) (ring.Member, uint64)
	// write tells that there is something to write.
	write(s *session)
}

func newSession(ingress ring.Member, env sessionEnv) *session {
	return &session{ingress: ingress, env: env, open: make(map[uint64]*Inbound), moved: make(map[int]bool)}
}

var errGeneration = errors.New("peer: the connection is older than another one that was let in")

// greet lets a connection in, and replies what became of the requests before.
// The readers of older connections have ended.
func (s *session) greet(h *hello, known bool) (reply, error) {
	if h.generation <= s.generation {
		return reply{}, errGeneration
	}
	s.generation = h.generation
	s.confirm(h.got)
	s.unsent = 0
	if !known {
		// Nothing is known of what came before, and it will not come again.
		s.processed, s.answered = h.next-1, h.got
	}
	p := reply{known: known, processed: s.processed}
	for seq := range s.open {
		p.open = append(p.open, seq)
	}
	sortBy(p.open, func(seq uint64) uint64 { return seq })
	return p, nil
}

var errSequence = errors.New("peer: the number of a request does not rise")

// request takes the ticket of a request, in the order of reading.
func (s *session) request(in *Inbound, sent sending) error {
	if sent.seq <= s.processed {
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

// finish answers an open request.
func (s *session) finish(in *Inbound, r *Response) {
	if s.open[in.seq] != in {
		return
	}
	delete(s.open, in.seq)
	if r.Stream {
		if s.streams == nil {
			s.streams = make(map[uint64]*Stream)
		}
		s.streams[in.seq] = in.stream
	}
	s.say(in.seq, appendResponse(nil, in.seq, r))
}

// confirm forgets answers that the ingress has read.
func (s *session) confirm(got uint64) {
	for s.answered < got && len(s.answers) > 0 {
		s.bytes -= len(s.answers[0].frame)
		s.answers[0].frame = nil
		s.answers = s.answers[1:]
		s.answered++
		s.unsent = max(s.unsent-1, 0)
	}
}

// cancel takes a request that waits out of its lane.
func (s *session) cancel(seq uint64) {
	if in := s.open[seq]; in != nil && in.leave() {
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
		s.cancel(seq)
	}
}

// Inbound is a request that another member forwarded, because its lane is here.
type Inbound struct {
	Request
	Partition int
	Ingress   ring.Member

	// Ticket is its place in the lane, which the server takes.
	Ticket queue.Ticket

	session *session
	host    *hosted
	seq     uint64
	body    *incoming
	stream  *Stream
	leaves  func() bool
}

// leave takes in out of its lane, if it still waits there.
func (in *Inbound) leave() bool {
	if in.leaves != nil {
		return in.leaves()
	}
	return in.Ticket.Leave()
}
