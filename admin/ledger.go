package admin

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Unknown is a request whose outcome nobody can say, as the node knows it that ran it
// or, if that was lost, the one that accepted it. If the answer was lost between the two,
// both may have one; then with the same ticket, which no other request has.
//
// It is for whoever looks after the data, so its key is in plain text.
type Unknown struct {
	ID     uint64    `json:"id"`   // each is the one before plus 1; a node that is started again goes on above
	Time   time.Time `json:"time"` // when this was recorded
	Ticket string    `json:"ticket"`
	Space  string    `json:"space"`
	Key    string    `json:"key"` // as Lanekeeper-Key writes it
	Route  string    `json:"route"`
	Method string    `json:"method"`

	Node     string `json:"node"`     // who recorded it
	Owner    string `json:"owner"`    // who has the key's lane; empty = not known here
	Ingress  string `json:"ingress"`  // who accepted the request; empty = the node itself
	Client   string `json:"client"`   // its address; empty = the ingress knows it
	Upstream string `json:"upstream"` // its name
	Target   string `json:"target"`   // to which the node sent it; empty = to none

	Slug   string `json:"slug"`   // of the answer, or of what would have been if it had not begun
	Status *int   `json:"status"` // of a response that had begun, and broke off; null = the answer was slug's
	Detail string `json:"detail"`

	Arrived    time.Time  `json:"arrived"`    // at the node
	Dispatched *time.Time `json:"dispatched"` // the first byte to the target; null = the node sent none
	SentBytes  int        `json:"sent_bytes"` // to the target, as far as the system took them, head included
	Ended      time.Time  `json:"ended"`      // nobody waited any longer
}

// Unknowns is what a node's ledger has.
type Unknowns struct {
	Node    string    `json:"node"`
	Unknown []Unknown `json:"unknown"` // oldest first
	Missed  uint64    `json:"missed"`  // records after the given one that the ledger has no more
	Next    uint64    `json:"next"`    // to ask this node with, as since, for what comes after these

	Silent []Silent `json:"silent,omitzero"`
}

// unknownsMost bounds one answer, to some 8 MiB.
const unknownsMost = 10_000

// Ledger keeps the newest of a node's requests whose outcome nobody can say, in memory.
// Numbers and questions are like those of the Journal, which keeps what is told in a few
// words of a log; these are records, and no reader follows them.
type Ledger struct {
	node string
	keep uint64

	mu    sync.Mutex // guards the rest
	ring  []Unknown  // the one with number id is at (id - first) % keep; grows to keep
	first uint64     // number of this process's first record
	next  uint64     // number of the record that comes next
}

// NewLedger makes an empty one, that keeps so many records; 0 = none.
func NewLedger(node string, keep int) *Ledger {
	first := uint64(max(time.Now().UnixMilli(), 1)) //nolint:gosec // at least 1
	return &Ledger{node: node, keep: uint64(max(keep, 0)), first: first, next: first}
}

// Add keeps a record, and lets the oldest one go if there is no room. It sets its number
// and time, bounds its texts and makes them printable.
func (l *Ledger) Add(u *Unknown) {
	u.Time, u.Key, u.Detail = time.Now(), escapeKey(u.Key), cut(u.Detail)
	l.mu.Lock()
	defer l.mu.Unlock()
	u.ID = l.next
	l.next++
	switch at := u.ID - l.first; {
	case l.keep == 0:
	case at < l.keep:
		l.ring = append(l.ring, *u)
	default:
		l.ring[at%l.keep] = *u
	}
}

// read returns up to limit records that came after the one with number since, oldest
// first, and how many of those are kept no more. A number that is none of this process's
// is that of an earlier one.
func (l *Ledger) read(since uint64, limit int) Unknowns {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := since + 1
	if from < l.first || from > l.next {
		from = l.first
	}
	records := Unknowns{Node: l.node, Unknown: []Unknown{}}
	if oldest := l.oldestLocked(); from < oldest {
		records.Missed = oldest - from
		from = oldest
	}
	to := min(l.next, from+uint64(limit)) //nolint:gosec // not negative
	for id := from; id < to; id++ {
		records.Unknown = append(records.Unknown, l.ring[(id-l.first)%l.keep])
	}
	records.Next = to - 1
	return records
}

// oldestLocked is the number of the oldest record that is kept; next if there is none.
func (l *Ledger) oldestLocked() uint64 { return l.next - uint64(len(l.ring)) }

// newest is the number before those of the newest records, up to limit of them.
func (l *Ledger) newest(limit int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.oldestLocked(), l.next-min(uint64(limit), l.next-l.first)) - 1 //nolint:gosec // not negative
}

func (a *api) unknownHere(_ *http.Request, query url.Values) (Unknowns, *problem) {
	ledger := a.cluster.Ledger()
	since, limit, problem := span(query, unknownsMost, ledger.newest)
	if problem != nil {
		return Unknowns{}, problem
	}
	return ledger.read(since, limit), nil
}

// mergeUnknown is by time. Each node has numbers of its own: Next is the answering node's.
func mergeUnknown(_ *http.Request, query url.Values, all []Unknowns, silent []Silent) Unknowns {
	whole := all[0]
	whole.Silent = silent
	for i := range all[1:] {
		whole.Unknown = append(whole.Unknown, all[i+1].Unknown...)
		whole.Missed += all[i+1].Missed
	}
	slices.SortStableFunc(whole.Unknown, func(a, b Unknown) int { return a.Time.Compare(b.Time) })
	_, limit, _ := span(query, unknownsMost, func(int) uint64 { return 0 })
	whole.Unknown = whole.Unknown[max(0, len(whole.Unknown)-limit):]
	return whole
}

// span reads which part of a numbered list is asked for: up to limit of what came after
// since, or of the newest without it. most bounds limit, and is what it is if not given.
func span(query url.Values, most int, newest func(limit int) uint64) (since uint64, limit int, _ *problem) {
	limit = most
	if query.Has("limit") {
		n, err := strconv.ParseUint(query.Get("limit"), 10, 31)
		if err != nil {
			return 0, 0, badRequest("limit is how many are wanted at most")
		}
		limit = int(min(n, uint64(most))) //nolint:gosec // that is less
	}
	if !query.Has("since") {
		return newest(limit), limit, nil
	}
	since, err := strconv.ParseUint(query.Get("since"), 10, 64)
	if err != nil {
		return 0, 0, badRequest("since is the id of one of them, or next of an earlier answer")
	}
	return since, limit, nil
}
