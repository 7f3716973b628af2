// Package idempotency keeps what became of requests that carry a name of their
// own, so that a request that comes again is answered instead of run again.
//
// A request begins with [Store.Begin], which claims its name for one run or says
// what is known of it; the run ends with one method of [Run]. A claim is a lease:
// while its node lives the store renews it, and when it ends without a word nobody
// can tell any more whether the request was executed, so that its name is then
// [Unknown], not free. It is the package's promise that of all calls of Begin for
// one name at most one returns [New] before a Run's Forget, or its record's end,
// whatever crashes but what keeps the records; but a Begin with Again may take an Unknown
// name.
//
// A name is never forgotten before its time to make room for others: a full store
// refuses new names with [ErrFull].
//
// [Memory] keeps records in this process; packages redis and postgres keep them on
// servers, for several nodes, by a [Remote].
package idempotency

import (
	"context"
	"errors"
	"time"
)

// ErrFull is returned by Begin for a new name that the store has no room for.
// Every other error of a Store means that it is away, and that nothing is known.
var ErrFull = errors.New("idempotency: the store is full")

// ErrLost is returned by a Run whose name is somebody else's by now, or whose claim was
// ended by Close, or with its record.
var ErrLost = errors.New("idempotency: the claim was lost")

// ID is a request's name: a hash of everything that must be the same for two
// requests to be one. The caller makes it.
type ID [32]byte

// Print is a hash of what the request asks for. Two requests of one name that
// ask for different things are the caller's mistake.
type Print [32]byte

// Request is what a Store must know of a request.
type Request struct {
	ID        ID
	Print     Print
	Partition int           // of the lane's key; for stores whose records move with it
	Key       []byte        // the lane's name; not retained
	Lease     time.Duration // of the claim
	TTL       time.Duration // how long, from its beginning, the request is remembered
	MaxEntry  int           // bytes of a reply's head and body that are kept; a larger reply is kept without them
	Again     bool          // a name whose outcome is unknown may be claimed anew
}

// State is what is known of a name.
type State uint8

// The states of a name.
const (
	New     State = iota // nobody has begun it; the asker has, now
	Running              // somebody has claimed it, and may be at work on it
	Done                 // there is a reply
	Unknown              // it was begun, and nobody can tell what became of it
)

// Record is what is known of a name.
type Record struct {
	State State
	Print Print         // of the request that began it
	Reply Reply         // of Done
	Until time.Duration // of Running: when, from now, its claim ends unless it is renewed; 0: not known
}

// Reply is a response that is kept.
type Reply struct {
	Status int
	Head   []byte // field lines, each with its CRLF
	Body   []byte
	Bare   bool // it was too large: Head and Body were not kept
}

// Store keeps records. Its methods are safe for concurrent use, and block no
// longer than the context, or the store's own timeout, lets them.
type Store interface {
	// Begin claims the request's name, and then returns a Run and New; or it
	// returns what is known of the name, and no Run.
	Begin(ctx context.Context, r *Request) (Run, Record, error)
	// Close ends all claims that this node holds as Unknown, as far as the store
	// can still be told, and everything that the store has started.
	Close() error
}

// Run is a name's claim. Exactly one of its methods is called, once. It returns
// ErrLost, and changes nothing, if the claim was lost. A claim whose lease has run out is
// not lost before somebody claims its name anew: what is known late is better than what
// is unknown. Any other error means that the store is away, and that nothing is known.
type Run interface {
	// Finish keeps the request's reply.
	Finish(ctx context.Context, reply Reply) error
	// Lose says that the outcome will never be known.
	Lose(ctx context.Context) error
	// Forget says that the request was not executed: its name is free again.
	Forget(ctx context.Context) error
}
