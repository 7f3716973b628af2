package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// EventKind is a kind of event. Names stay as they are, new ones may come.
type EventKind struct{ Name, Meaning string }

// EventKinds are all the kinds, and the only place that explains them. A line of the
// log is an event if it has an attribute "event", whose value is one of these names.
var EventKinds = []EventKind{
	{"started", "this node serves; with what its configuration says"},
	{"drain-begun", "it gives everything away: an operator says so, or its process ends"},
	{"drain-undone", "an operator lets it take partitions again"},
	{"drain-done", "nothing waits or runs here any more"},
	{"drain-timed-out", "it ends, and requests are left that were not done in time"},
	{"member-joined", "a member is new"},
	{"member-returned", "a member's process was started anew before it was missed"},
	{"member-changed", "a member drains, or does no longer"},
	{"member-left", "a member said good-bye"},
	{"member-died", "a member does not answer any more"},
	{"member-refused", "a node does not fit the cluster and keeps apart"},
	{"name-taken", "two nodes have one name"},
	{"members-too-few", "fewer than cluster.min_members are there: nothing exclusive runs here"},
	{"members-enough", "that has ended"},
	{"view-changed", "what follows from the members has changed: their ring, and its version"},
	{"partitions-moved", "this node has gained partitions, or lost some"},
	{"stood-still", "this process did not run for so long that others may have taken it for dead"},
	{"confirmed", "a member has said what is still this node's after that"},
	{"declared-dead", "the others took this node for dead, and know better now"},
	{"lease-gained", "this node has a lease from the coordinator; it holds nothing under it yet"},
	{"lease-ended", "that has ended, and why: nothing strict runs before there is another one"},
	{"lease-given-up", "this node ends its lease itself, so that nobody waits for that"},
	{"lease-left", "this node ends and leaves its lease to end by itself: something may still run under it"},
	{"lease-awaited", "partitions wait for the end of another node's lease"},
	{"lease-awaited-ended", "that lease has ended"},
	{"coordinator-away", "there is no valid lease, and no way to get one"},
	{"coordinator-back", "there is one again"},
	{"key-hot", "a key's backlog is large and dominant by lane.hot of its route"},
	{"key-cooled", "that has ended"},
	{"key-spilled", "requests of another node's hot key wait here, for turns that it lends"},
	{"key-spilled-ended", "none does any more"},
	{"turn-lost", "a turn that was lent was not given back in time: its borrower has died, or is cut off"},
	{"lock-away", "the lock of a spilled key cannot be had: its requests go to its owner"},
	{"idempotency-store-away", "the store of idempotency records does not answer: requests that carry a name are refused, or run without a record"},
	{"idempotency-unrecorded", "what became of a request could not be recorded: sent again, its outcome is unknown"},
	{"sequence-store-away", "the store of producers' marks does not answer: requests of producers that the node does not know are refused"},
	{"sequence-unrecorded", "that a number is done could not be recorded: after a crash it may be taken for the next one"},
	{"records-left", "the node ended, and a store could not be told which requests it had claimed: they are unknown when their claims end"},
	{"journal-lost", "requests with an unknown outcome could not be written to journal.file: they are counted, and lost there"},
	{"lane-halted", "nothing of a key runs after a failure: here, or at the node that the key comes from"},
	{"lane-resumed", "an operator lets it go on: with the next request, without it, or without all that waited"},
	{"lane-held", "an operator lets nothing of a key begin: here, or at the node that the key comes from"},
	{"lane-released", "an operator ends a hold: his own, or one after an upstream timeout, which is a risk to order"},
	{"request-cancelled", "an operator took a waiting request out of its lane"},
	{"upstream-target", "a target of an upstream gets requests again, or gets none: its circuit is open, or its health checks have failed"},
	{"upstream-health", "why a target's health has changed for the worse"},
	{"upstream-lookup", "the name of a dns+ target cannot be looked up: its last addresses stay; or it can again"},
	{"upstream-tls", "changed files of an upstream's tls cannot be used: those that were read before stay"},
	{"config-reloaded", "another configuration is in force, for requests that come from then on; if by force, for which keys no order is promised across the change"},
	{"config-refused", "the configuration was to be reloaded, and stays as it was: why"},
	{"order-violation", "a request was sent to an upstream beside another of its key, or with a fence that does not rise: lanekeeper is broken"},
	{"hold-expired", "a held lane goes on although its upstream may still be at work: a risk to order"},
}

// EventMissed is what a stream says in the place of events that it cannot tell.
const EventMissed = "missed"

// Event is a line of the log that tells what has become of the node, or of what it
// knows.
type Event struct {
	ID         uint64          `json:"id"` // each is the one before plus 1; a node that is started again goes on above
	Time       time.Time       `json:"time"`
	Level      string          `json:"level"` // INFO, WARN, ERROR
	Node       string          `json:"node"`
	Event      string          `json:"event"`      // its kind
	Message    string          `json:"message"`    // for people: may change
	Attributes json.RawMessage `json:"attributes"` // an object; the log's, in its order
}

// Events is what a node's journal has.
type Events struct {
	Node   string  `json:"node"`
	Events []Event `json:"events"` // oldest first
	Missed uint64  `json:"missed"` // events after the given one that the journal has no more
	Next   uint64  `json:"next"`   // to ask this node with, as since, for what comes after these

	Silent []Silent `json:"silent,omitzero"`
}

const (
	journalEvents = EventsKept
	journalBytes  = 1 << 20
	eventBytes    = 256     // that an event takes beside its texts
	textBytesMax  = 1 << 10 // of one text in an event
)

// EventsKept is how many events a node keeps, at most. A larger gap between the numbers of two
// is between two of its processes.
const EventsKept = 1024

// Journal keeps the newest events of a node, as many as fit, in memory. Its Handler
// takes them out of the log. Readers come to it with the number of the last event that
// they have seen, and it keeps nothing for them: so whoever is slow holds up nobody,
// and learns how many events have gone meanwhile.
type Journal struct {
	node    string
	dropped atomic.Uint64 // events that streams missed
	ended   chan struct{}
	end     sync.Once

	mu      sync.Mutex    // guards the rest
	ring    []Event       // the one with number id is at id % journalEvents
	first   uint64        // number of this process's first event
	oldest  uint64        // number of the oldest one that is kept; next if there is none
	next    uint64        // number of the event that comes next
	bytes   int           // of those kept
	buffer  bytes.Buffer  // for the attributes of one
	changed chan struct{} // closed with the next event; nil: nobody waits
}

// NewJournal makes an empty one. Its numbers begin with the time in milliseconds, so
// they are above those of the process before, unless that had a thousand events each
// second: who asks for what came after one of those gets all that there is.
func NewJournal(node string) *Journal {
	first := uint64(max(time.Now().UnixMilli(), 1)) //nolint:gosec // at least 1
	return &Journal{
		node: node, ended: make(chan struct{}), ring: make([]Event, journalEvents),
		first: first, oldest: first, next: first,
	}
}

// End ends every stream when it has told what there is. The journal goes on.
func (j *Journal) End() { j.end.Do(func() { close(j.ended) }) }

// Collectors are the journal's metrics.
func (j *Journal) Collectors() []prometheus.Collector {
	return []prometheus.Collector{prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "lanekeeper_events_missed_total",
		Help: "Events that readers of the event stream missed, since they were too slow or away for too long.",
	}, func() float64 { return float64(j.dropped.Load()) })}
}

// add keeps an event, and lets the oldest ones go that there is no more room for.
func (j *Journal) add(e Event, writeAttributes func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buffer.Reset()
	writeAttributes()
	e.Attributes = bytes.Clone(bytes.TrimSpace(j.buffer.Bytes()))
	e.ID, e.Node = j.next, j.node
	for j.oldest < j.next && (j.next-j.oldest == journalEvents || j.bytes+e.size() > journalBytes) {
		gone := &j.ring[j.oldest%journalEvents]
		j.bytes -= gone.size()
		*gone = Event{}
		j.oldest++
	}
	j.ring[j.next%journalEvents] = e
	j.bytes += e.size()
	j.next++
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

func (e *Event) size() int { return eventBytes + len(e.Message) + len(e.Attributes) }

// read returns up to limit events that came after the one with number since, oldest
// first, and how many of those are kept no more. A number that is none of this
// process's is that of an earlier one.
func (j *Journal) read(since uint64, limit int) Events {
	j.mu.Lock()
	defer j.mu.Unlock()
	from := since + 1
	if from < j.first || from > j.next {
		from = j.first
	}
	events := Events{Node: j.node, Events: []Event{}}
	if from < j.oldest {
		events.Missed = j.oldest - from
		from = j.oldest
	}
	to := min(j.next, from+uint64(limit)) //nolint:gosec // not negative
	for id := from; id < to; id++ {
		events.Events = append(events.Events, j.ring[id%journalEvents])
	}
	events.Next = to - 1
	return events
}

// newest is the number before those of the newest events, up to limit of them.
func (j *Journal) newest(limit int) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(j.oldest, j.next-min(uint64(limit), j.next-j.oldest)) - 1 //nolint:gosec // not negative
}

// wait returns a channel that is closed when there are events after the one with
// number since.
func (j *Journal) wait(since uint64) <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	if since+1 != j.next {
		return already
	}
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	return j.changed
}

// already is a channel that is closed.
var already = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Handler returns a handler that hands every record on to another one, if that is
// enabled for its level, and keeps those that are events, from level info on: a log
// that says less than that doesn't leave operators without.
//
// The journal writes values as JSON of the log does, but durations as text, and cuts
// long texts. The attribute "event" is looked for in the record itself.
func (j *Journal) Handler(log slog.Handler) slog.Handler {
	return &journalHandler{journal: j, log: log, attributes: slog.NewJSONHandler(&j.buffer, &slog.HandlerOptions{
		Level: slog.LevelInfo, ReplaceAttr: journalAttr,
	})}
}

type journalHandler struct {
	journal    *Journal
	log        slog.Handler
	attributes slog.Handler // writes them to the journal's buffer
}

// Enabled implements slog.Handler.
func (h *journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.log.Enabled(ctx, level)
}

// Handle implements slog.Handler. The journal comes first: a device that takes no more
// lines is an event's least worry.
func (h *journalHandler) Handle(ctx context.Context, record slog.Record) error {
	if name := eventOf(&record); name != "" && record.Level >= slog.LevelInfo {
		h.journal.add(Event{Time: record.Time, Level: record.Level.String(), Event: name, Message: cut(record.Message)}, func() {
			h.attributes.Handle(ctx, record) //nolint:errcheck // a Buffer takes everything
		})
	}
	if !h.log.Enabled(ctx, record.Level) {
		return nil
	}
	return h.log.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{h.journal, h.log.WithAttrs(attrs), h.attributes.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{h.journal, h.log.WithGroup(name), h.attributes.WithGroup(name)}
}

// eventName is one that can stand in a line of a stream.
var eventName = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)

// eventOf is the name of the event that a record tells of, empty if it is none.
func eventOf(record *slog.Record) (name string) {
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "event" && a.Value.Kind() == slog.KindString && eventName.MatchString(a.Value.String()) {
			name = a.Value.String()
		}
		return name == ""
	})
	return name
}

// journalAttr leaves out what an Event has in fields of its own.
func journalAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 {
		switch a.Key {
		case slog.TimeKey, slog.LevelKey, slog.MessageKey, "event":
			return slog.Attr{}
		}
	}
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(cut(a.Value.String()))
	case slog.KindDuration:
		a.Value = slog.StringValue(a.Value.Duration().Round(time.Millisecond).String())
	case slog.KindAny:
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.StringValue(cut(err.Error()))
		}
	}
	return a
}

// cut bounds a text, and makes it UTF-8.
func cut(text string) string {
	if len(text) <= textBytesMax {
		return strings.ToValidUTF8(text, "?")
	}
	return strings.ToValidUTF8(text[:textBytesMax], "") + "…"
}
