package queue

// A request may make others needless that have not begun: the last of three
// new values is the only one that counts, and none does before a delete. What
// makes which needless is the caller's to say, by an Effect; here is what follows
// from it for the line. Only the end of the line is ever taken away, so whoever
// stays has the same ones before it as it had, and nobody's turn comes by it.

// Effect says what a request does, and which others that makes needless. It belongs to
// the lane as long as its ticket waits, and must not be changed then.
type Effect struct {
	Kind string   // what it does, such as an HTTP method
	On   [32]byte // what it does that to; different for things that differ
	Over []Over   // what it makes needless; the first that fits counts
}

// Over is one kind of request that is made needless.
type Over struct {
	Kind     string
	Anything bool // whatever it is on; else only on the same thing
	Status   int  // the caller's, for Superseded
}

// Passive is an effect of one that may be superseded, and supersedes nobody.
func (e *Effect) Passive() *Effect {
	if e == nil || len(e.Over) == 0 {
		return e
	}
	return &Effect{Kind: e.Kind, On: e.On}
}

// Superseded is why a ticket was evicted that another one has made needless. It
// never had its turn.
type Superseded struct {
	By     ID // the other one's ticket
	Status int
}

func (s *Superseded) Error() string { return "queue: superseded by " + s.By.String() }

// surplus is what a request makes needless of those directly before it: this many,
// from the back forwards, up to the first that it does not. One without an Effect is
// never among them, nor is one that is Shared.
func (ln *lane) surplus(r *Request) (needless Load) {
	if r.Effect == nil || r.Class != Exclusive { // what is not alone in its lane might run now, if nobody waited
		return Load{}
	}
	for t := ln.waiting.tail; t != nil && r.Effect.over(t) != nil; t = t.prev {
		needless.add(Load{Depth: 1, Bytes: t.bytes}, 1)
	}
	return needless
}

func (e *Effect) over(t *Ticket) *Over {
	if t.effect == nil || t.class != Exclusive {
		return nil
	}
	for i := range e.Over {
		o := &e.Over[i]
		if o.Kind == t.effect.Kind && (o.Anything || e.On == t.effect.On) {
			return o
		}
	}
	return nil
}

// supersede takes that many tickets from the end of the line, and returns them to be
// woken after the lock is released. It comes when nothing refuses their successor any
// more, and under the lock under which they were counted: none of them can have got its
// turn in between.
func (l *Lanes) supersede(ln *lane, r *Request, by ID, depth int) (woken wakes) {
	var cause *Superseded
	for range depth {
		t := ln.waiting.tail
		if status := r.Effect.over(t).Status; cause == nil || cause.Status != status {
			cause = &Superseded{By: by, Status: status}
		}
		l.unqueue(t)
		t.state, t.lane, t.cause = outside, nil, cause
		woken.add(t)
	}
	return woken
}
