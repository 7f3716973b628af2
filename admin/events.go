package admin

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	streamsMax  = 32 // at once
	streamBatch = 64 // events that are written together

	// Heartbeat is how often a stream says something at least, so that its reader
	// notices when the way there is broken.
	Heartbeat = 15 * time.Second

	// streamWrite is how long a reader may take nothing.
	streamWrite = 10 * time.Second
	streamRetry = "retry: 2000\n\n" // milliseconds
)

func (a *api) eventsHere(_ *http.Request, query url.Values) (Events, *problem) {
	if query.Has("stream") {
		return Events{}, badRequest("stream goes with Accept: text/event-stream")
	}
	since, limit, problem := a.from(query)
	if problem != nil {
		return Events{}, problem
	}
	return a.cluster.Journal().read(since, limit), nil
}

// mergeEvents is by time. Each node has numbers of its own: Next is the answering node's.
func mergeEvents(_ *http.Request, query url.Values, all []Events, silent []Silent) Events {
	whole := all[0]
	whole.Silent = silent
	for i := range all[1:] {
		whole.Events = append(whole.Events, all[i+1].Events...)
		whole.Missed += all[i+1].Missed
	}
	slices.SortStableFunc(whole.Events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	_, limit, _ := span(query, journalEvents, func(int) uint64 { return 0 })
	whole.Events = whole.Events[max(0, len(whole.Events)-limit):]
	return whole
}

// from reads after which event to begin, and how many are wanted. Without since it is
// the newest ones.
func (a *api) from(query url.Values) (since uint64, limit int, _ *problem) {
	return span(query, journalEvents, a.cluster.Journal().newest)
}

// wantsStream reports whether the request accepts a stream of events.
func wantsStream(r *http.Request) bool {
	for _, field := range r.Header["Accept"] {
		for media := range strings.SplitSeq(field, ",") {
			if kind, parameters, err := mime.ParseMediaType(media); err == nil && kind == "text/event-stream" && parameters["q"] != "0" {
				return true
			}
		}
	}
	return false
}

// follow tells the events that there are, as from says, and then each that comes,
// until the reader leaves or takes nothing any more, or the journal ends. A reader that
// comes back says which event it saw last, which counts more than the query it came
// with: that is still the one of its first visit.
func (a *api) follow(w http.ResponseWriter, r *http.Request, query url.Values) *problem {
	if query.Has("stream") {
		return a.watchParts(w, r, query)
	}
	if query.Has("node") && query.Get("node") != a.cluster.Status().Node {
		return badRequest("a stream of one node's events is that node's alone to give; ?stream=events has those of all")
	}
	since, _, problem := a.from(query)
	if problem != nil {
		return problem
	}
	if last, err := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64); err == nil {
		since = last
	}
	select {
	case a.streams <- struct{}{}:
		defer func() { <-a.streams }()
	default:
		return tooManyStreams
	}
	s := &stream{out: w, control: http.NewResponseController(w), journal: a.cluster.Journal(), since: since}
	w.Header().Set("Connection", "close") // its deadline for writing is none for others
	writeHead(w, http.StatusOK, "text/event-stream")
	s.run(r)
	return nil
}

var tooManyStreams = &problem{
	status: http.StatusServiceUnavailable, slug: "too-many-streams", title: "Others follow this node's events already",
	detail: fmt.Sprintf("%d streams are open, and there are no more: close one, or ask for the events without following", streamsMax),
	header: [2]string{"Retry-After", "5"},
}

// stream is one reader's.
type stream struct {
	out     http.ResponseWriter
	control *http.ResponseController
	journal *Journal
	since   uint64 // the last event that it was told
}

// run returns when the stream is over.
func (s *stream) run(r *http.Request) {
	if s.write(streamRetry) != nil {
		return
	}
	beat := time.NewTicker(Heartbeat)
	defer beat.Stop()
	for {
		changed := s.journal.wait(s.since)
		select {
		case <-changed:
			if s.tell() != nil {
				return
			}
			continue
		default:
		}
		select {
		case <-changed:
		case <-beat.C:
			if s.write(":\n\n") != nil {
				return
			}
		case <-r.Context().Done():
			return
		case <-s.journal.ended:
			return
		}
	}
}

// tell writes some events that the reader has not seen.
func (s *stream) tell() error {
	events := s.journal.read(s.since, streamBatch)
	s.since = events.Next
	var text strings.Builder
	if events.Missed > 0 {
		s.journal.dropped.Add(events.Missed)
		fmt.Fprintf(&text, "event: %s\ndata: {\"missed\":%d}\n\n", EventMissed, events.Missed)
	}
	for i := range events.Events {
		e := &events.Events[i]
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "id: %d\nevent: %s\ndata: %s\n\n", e.ID, e.Event, data)
	}
	return s.write(text.String())
}

// write fails for readers that are gone, or take nothing. They hold up nobody but
// themselves, and take one of few places.
func (s *stream) write(text string) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
		return err
	}
	if _, err := s.out.Write([]byte(text)); err != nil {
		return err
	}
	return s.control.Flush()
}
