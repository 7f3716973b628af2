package peer

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// A panic costs the least that it may have spoilt, and never the process:
//
//   - in a function of Config, or of a request, that is called for one request: that
//     request, which is answered; the hop's own state is whole, for it was between two
//     changes of it
//   - in Control, Note or Up: the connection, as if a message had been lost; Up tells so
//   - in the hop itself, while a reader or a writer holds the lock of what it reads for:
//     the session, both halves of it, for nobody knows what of it still holds. What is
//     under way in it is unknown, what waits at the owner leaves its lane, and the next
//     connection begins a new one
//
// Every lock that is held there is let go by a deferred call. A panic under the locks of
// the lanes is not among these: whoever comes to that part of them next waits for ever.

// InternalError is the slug of a request that a panic ended.
const InternalError = "internal-error"

var errPanic = errors.New("peer: a panic, which is in the log")

// rescue is deferred itself, or it would find no panic. It logs one, and has then do
// what is to be done.
func (h *Hop) rescue(doing string, then func()) {
	if cause := recover(); cause != nil {
		h.config.Log.Error("panic in the hop", "doing", doing, "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
		then()
	}
}

// guard returns f's error, or errPanic after spoilt has been called.
func (h *Hop) guard(doing string, spoilt func(), f func() error) (err error) {
	defer h.rescue(doing, func() {
		err = errPanic
		defer h.rescue("mending after a panic", func() {})
		spoilt()
	})
	return f()
}

// nothing is what a panic in somebody else's function spoils of the hop.
func nothing() {}

// spoilt begins the session anew at the next connection.
func (s *hosted) spoilt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session.deaf = true
	defer s.session.empty() // if what is spoilt is what renew needs, too
	s.session.renew(0)
}

func (s *session) empty() {
	s.open, s.moved, s.streams = make(map[uint64]*Inbound), make(map[int]bool), nil
	s.answers, s.answered, s.unsent, s.bytes = nil, 0, 0, 0
}

// spoilt gives up what l carries.
func (s *stripe) spoilt(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outbox.renounce(l)
}

// renounce ends all of l's calls, and trusts none of the lists that they are in: a change
// of these was cut short. Its owner will be told of no session, and so begins a new one.
func (o *outbox) renounce(l *link) {
	calls := l.inOrder()
	l.calls, l.unwritten, l.unadmitted = make(map[uint64]*Call), callQueue{}, callQueue{}
	l.up, l.session, l.got = false, 0, 0
	for _, f := range o.flows {
		if f.link == l {
			f.loose, f.link, f.turning = 0, nil, true // the first bit goes with the next one
		}
	}
	for _, c := range calls {
		if c.state == ended {
			continue
		}
		c.Owner, c.link, c.prev, c.next = l.peer, nil, nil, nil
		c.Response = Response{Problem: PeerLost, Executed: Unknown, Detail: "this node failed on the way to " + l.peer.Name}
		o.end(c)
	}
}

// serveFailed is the answer of a request that Serve panicked on. It may have its ticket by
// then, and its turn.
func (s *hosted) serveFailed(in *Inbound) *Response {
	r := &Response{Problem: InternalError, Executed: Unknown, Detail: "the key's owner failed on it; the cause is in its log"}
	switch {
	case !in.Ticket.Admitted():
		s.tellLeft(in)
	case !s.leave(in):
		return r
	}
	r.Executed = NotExecuted
	return r
}

// tellLeft tells the server of in that it is not the server's any more.
func (s *hosted) tellLeft(in *Inbound) {
	if in.Left == nil {
		return
	}
	defer s.host.hop.rescue("leaving a lane", nothing)
	in.Left()
}
