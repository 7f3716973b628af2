package lock

import (
	"context"
	"time"
)

// Coordinator keeps, for all nodes of a cluster, a lease for each node and a record
// for each partition, in a store that outlives them. It is the arbiter of strict mode:
// gossip says who should hold a partition, and who may ask for it when; only a record
// says who does. Its methods are safe for concurrent use.
type Coordinator interface {
	// Begin returns this node's session, and begins one if there is none, or the last
	// one has ended. It returns ctx's error, ErrClosed, or one that wraps
	// ErrUnavailable.
	Begin(ctx context.Context) (Session, error)

	// Close ends the session, so that what it held can be taken at once, and returns
	// when the last goroutine has ended. It may be called twice.
	Close(ctx context.Context) error
}

// Session is a node's lease, and what can be done under it. Everything a node holds
// it holds under one lease: renewing that costs the same for any number of partitions.
// A lease that has ended never comes back; a node that goes on begins another one,
// under which it holds nothing, and what it held may be another's. Methods are safe
// for concurrent use.
type Session interface {
	// ID names the lease in records. No other lease ever has the same.
	ID() string

	// ValidFor is how long from now the lease certainly goes on, if not for longer; 0
	// or less: not certainly, so nothing may be begun. It costs a look at the clock.
	ValidFor() time.Duration

	// Done is closed when the store has said that the lease has ended, or End is called.
	Done() <-chan struct{}

	// End gives the lease up, so that what is held under it can be taken at once. From
	// the call's begin on the lease is not valid here, nor renewed; so if it fails, the
	// lease ends by itself. Begin begins another one then. It may be called twice.
	End(ctx context.Context) error

	// Take takes partitions, each for itself, as far as what is expected of its record
	// holds. Results are in the order of takes. With an error nothing is known of any
	// of them: the caller reads the records when it can, and takes again what it finds
	// to be held by itself. A take may be repeated.
	Take(ctx context.Context, takes []Take) ([]Taken, error)

	// Draw raises the stamp of a partition that is held in a tenure, and returns it. It
	// returns ErrLost if the partition is another's.
	Draw(ctx context.Context, partition int, tenure uint64) (stamp uint64, err error)

	// Drained tells of partitions that this session has given away, in the tenures that
	// it had, that it runs nothing of them any more.
	Drained(ctx context.Context, drained []Tenure) error

	// Records returns what the store has of all partitions that were ever taken.
	Records(ctx context.Context) ([]Record, error)

	// Ended returns when a lease has ended: nil, or why that is not known.
	Ended(ctx context.Context, id string) error
}

// Tenure is one holding of a partition by one lease. Tenures of a partition rise.
type Tenure struct {
	Partition int
	Tenure    uint64
}

// Record is what a store knows of a partition.
type Record struct {
	Partition int    `json:"-"`
	Holder    string `json:"holder,omitempty"` // a lease, which may have ended; empty: nobody ever took it
	Tenure    uint64 `json:"tenure"`           // of the holder
	Stamp     uint64 `json:"stamp"`            // the last one that was drawn, of all tenures

	// Prev is the lease of the holder before, as long as that may still run what it
	// had admitted, and the tenure in which it held the partition.
	Prev       string `json:"prev,omitempty"`
	PrevTenure uint64 `json:"prev_tenure,omitempty"`
}

// Take asks for a partition. Whoever asks says what it knows of the record: if another
// has taken the partition since, or the holder has begun another tenure, it does not
// get it.
type Take struct {
	Partition int
	Holder    string // as known; empty if nobody ever took it
	Tenure    uint64 // as known

	// Given: by that holder, whose lease may go on. Otherwise a partition is taken when
	// its holder's lease has ended, or is the taker's own.
	Given bool
	// Draining: the holder that gave it may still run what it had admitted.
	Draining bool
}

// Taken is what a Take came to.
type Taken struct {
	OK     bool
	Record Record // as it is now, whoever holds it
}

// Decide is the rule by which all stores change records: what becomes of r when self
// asks for it. alive says whether a lease, which is not self, has not ended, or may not
// have. now is by self's clock.
//
// A holder is only followed with its consent or after its end. Who may still run
// something is remembered, until it has said that it doesn't, or ended; there is one
// place for that, so nothing is given on before the last move is over.
func (r Record) Decide(t Take, self string, alive func(id string) bool, now time.Time) (Record, bool) {
	if r.Holder != t.Holder || r.Tenure != t.Tenure {
		return r, false
	}
	lives := func(id string) bool { return id != "" && id != self && alive(id) }
	if !t.Given && lives(r.Holder) {
		return r, false
	}
	next := Record{Partition: r.Partition, Holder: self, Tenure: r.Tenure + 1, Stamp: NextStamp(r.Stamp, now)}
	switch {
	case lives(r.Prev):
		if t.Given && t.Draining && r.Holder != self {
			return r, false
		}
		next.Prev, next.PrevTenure = r.Prev, r.PrevTenure
	case t.Given && t.Draining && lives(r.Holder):
		next.Prev, next.PrevTenure = r.Holder, r.Tenure
	}
	return next, true
}

// Clear is r without its prev, if that is a lease in a tenure.
func (r Record) Clear(id string, tenure uint64) (Record, bool) {
	if r.Prev != id || r.PrevTenure != tenure || id == "" {
		return r, false
	}
	r.Prev, r.PrevTenure = "", 0
	return r, true
}

// stampsPerSecond is how many stamps a partition may use, on average, for its stamps to
// rise also when the store has forgotten the last one.
const stampsPerSecond = 256

// NextStamp is the stamp after another one: higher, and at least the time, so that it
// is higher too than one that the store has forgotten, as long as clocks were not set
// back. Parts of a second count, for a store may forget what it granted in the same
// one. It fits 40 bits until the year 2106.
func NextStamp(last uint64, now time.Time) uint64 {
	part := uint64(now.Nanosecond()) * stampsPerSecond / uint64(time.Second) //nolint:gosec // not negative
	return max(last+1, uint64(max(now.Unix(), 0))*stampsPerSecond+part)
}
