package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A dashboard wants one stream of everything, for browsers have few connections. Each second all
// members are asked, once for all streams that there are: who watches costs the cluster the same
// whether it is one or many.

// The SSE events of a board.
const (
	BoardStatus  = "status"  // Numbers
	BoardMembers = "members" // Members
	BoardRing    = "ring"    // Ring, with runs
	BoardLanes   = "lanes"   // Board
	BoardEvent   = "event"   // Event
	BoardSilent  = "silent"  // []Silent: whose events are missing, each time that these are others
)

// Board is the lanes of a cluster that somebody looks at first.
type Board struct {
	Lanes  []LaneRow `json:"lanes"` // as GET lanes has them
	Total  int       `json:"total"` // lanes that there are
	Keys   []Key     `json:"keys"`  // as GET keys has them, by depth
	Silent []Silent  `json:"silent"`
}

const (
	boardEvery = time.Second
	boardLanes = 50
	boardKeys  = 50
	boardPast  = 200 // events that a stream begins with

	membersEvery = 10 // looks, at most, between two of Members
)

// boards is what was asked last, for all streams. A part is asked when somebody wants it, and at
// most once in most of a second.
type boards struct {
	api *api

	mu     sync.Mutex // guards the rest, while others are asked, too
	status shared[Status]
	lanes  shared[Lanes]
	keys   shared[Keys]
	events shared[Events]
}

type shared[T any] struct {
	at    time.Time
	value T
}

// fresh returns what is known, or asks.
func (s *shared[T]) fresh(ask func() T) T {
	if time.Since(s.at) > boardEvery*8/10 {
		s.value = ask()
		s.at = time.Now()
	}
	return s.value
}

// wide asks this node and all others.
func wide[T any](ctx context.Context, a *api, own T, target string, merge func(*http.Request, url.Values, []T, []Silent) T, query url.Values) T {
	ctx = context.WithoutCancel(ctx) // others wait for the answer, too
	others, silent := everywhere[T](ctx, a.cluster, func(node string) *Question {
		q := url.Values{"node": {node}}
		for name, values := range query {
			q[name] = values
		}
		return &Question{Method: http.MethodGet, Target: target + "?" + q.Encode()}
	})
	return merge(nil, query, append([]T{own}, others...), silent)
}

func (b *boards) numbers(ctx context.Context) Numbers {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status.fresh(func() Status {
		return wide(ctx, b.api, b.api.ownStatus(), "/api/v1/status", mergeStatus, nil)
	})
	return *s.Numbers
}

func (b *boards) board(ctx context.Context) Board {
	b.mu.Lock()
	defer b.mu.Unlock()
	query := url.Values{"limit": {strconv.Itoa(boardLanes)}}
	lanes := b.lanes.fresh(func() Lanes {
		own, _ := b.api.lanesHere(nil, query)
		return wide(ctx, b.api, own, "/api/v1/lanes", mergeLanes, query)
	})
	query = url.Values{"limit": {strconv.Itoa(boardKeys)}}
	keys := b.keys.fresh(func() Keys {
		own, _ := b.api.keysHere(nil, query)
		return wide(ctx, b.api, own, "/api/v1/keys", mergeKeys, query)
	})
	return Board{Lanes: lanes.Lanes, Total: lanes.Total, Keys: keys.Keys, Silent: lanes.Silent}
}

// past is the cluster's newest events, oldest first, and who has not told its own.
func (b *boards) past(ctx context.Context) Events {
	b.mu.Lock()
	defer b.mu.Unlock()
	query := url.Values{"limit": {strconv.Itoa(boardPast)}}
	return b.events.fresh(func() Events {
		own, _ := b.api.eventsHere(nil, query)
		return wide(ctx, b.api, own, "/api/v1/events", mergeEvents, query)
	})
}

// board is one reader's stream.
type board struct {
	stream
	of                    *boards
	status, lanes, events bool
	members, ring         string // as they were told
	looks                 int
	silent                []string          // whose events are missing, as was told
	seen                  map[string]uint64 // the last event of each node that was told
	after                 time.Time         // events before that are known to the reader
}

func (a *api) watchStatus(w http.ResponseWriter, r *http.Request, query url.Values) *problem {
	if query.Has("node") {
		return badRequest("a stream is of the whole cluster")
	}
	return a.watch(w, r, &board{status: true})
}

// watchParts is the stream of the parts that the query names.
func (a *api) watchParts(w http.ResponseWriter, r *http.Request, query url.Values) *problem {
	b := &board{}
	for part := range strings.SplitSeq(query.Get("stream"), ",") {
		switch part {
		case "status":
			b.status = true
		case "lanes":
			b.lanes = true
		case "events":
			b.events = true
		default:
			return badRequest("stream is one or some of status, lanes and events, with commas between them")
		}
	}
	if query.Has("node") || query.Has("since") || query.Has("limit") {
		return badRequest("stream goes with no other parameter")
	}
	return a.watch(w, r, b)
}

func (a *api) watch(w http.ResponseWriter, r *http.Request, b *board) *problem {
	select {
	case a.streams <- struct{}{}:
		defer func() { <-a.streams }()
	default:
		return tooManyStreams
	}
	// Ids are times: whoever comes back has missed what came after that.
	if last, err := strconv.ParseInt(r.Header.Get("Last-Event-ID"), 10, 64); err == nil {
		b.after = time.UnixMilli(last)
	}
	b.of, b.seen = &a.boards, make(map[string]uint64)
	b.stream = stream{out: w, control: http.NewResponseController(w), journal: a.cluster.Journal()}
	w.Header().Set("Connection", "close") // its deadline for writing is none for others
	writeHead(w, http.StatusOK, "text/event-stream")
	b.run(r)
	return nil
}

// run returns when the stream is over.
func (b *board) run(r *http.Request) {
	if b.write(streamRetry) != nil {
		return
	}
	tick, beat := time.NewTicker(boardEvery), time.NewTicker(Heartbeat)
	defer tick.Stop()
	defer beat.Stop()
	for {
		text, err := b.look(r.Context())
		if err != nil || text != "" && b.write(text) != nil {
			return
		}
		for waits := true; waits; {
			select {
			case <-tick.C:
				waits = false
			case <-beat.C:
				if b.write(":\n\n") != nil {
					return
				}
			case <-r.Context().Done():
				return
			case <-b.journal.ended:
				b.last()
				return
			}
		}
	}
}

// last tells what this node's journal has got in the second in which it ends: nobody will ask
// for that later. The others have a next node to be asked by.
func (b *board) last() {
	if !b.events {
		return
	}
	var text strings.Builder
	if own, problem := b.of.api.eventsHere(nil, nil); problem == nil && b.tell(own.Events, sayTo(&text)) == nil {
		b.write(text.String()) //nolint:errcheck // it is over anyway
	}
}

// sayTo writes SSE events.
func sayTo(text *strings.Builder) func(name string, value any) error {
	id := time.Now().UnixMilli()
	return func(name string, value any) error {
		data, err := json.Marshal(value)
		if err == nil {
			fmt.Fprintf(text, "id: %d\nevent: %s\ndata: %s\n\n", id, name, data)
		}
		return err
	}
}

// look is what is new.
func (b *board) look(ctx context.Context) (string, error) {
	var text strings.Builder
	say := sayTo(&text)
	var err error
	if b.status {
		err = cmp.Or(b.changed(say), say(BoardStatus, b.of.numbers(ctx)))
	}
	if b.lanes && err == nil {
		err = say(BoardLanes, b.of.board(ctx))
	}
	if b.events && err == nil {
		past := b.of.past(ctx)
		err = cmp.Or(b.tellSilent(past.Silent, say), b.tell(past.Events, say))
	}
	return text.String(), err
}

// tell tells those events that are news.
func (b *board) tell(all []Event, say func(string, any) error) error {
	events, missed := b.news(all)
	var err error
	if missed > 0 {
		err = say(EventMissed, map[string]uint64{"missed": missed})
	}
	for _, e := range events {
		err = cmp.Or(err, say(BoardEvent, e))
	}
	return err
}

// tellSilent tells whose events are missing, if that has changed. Why changes all the time.
func (b *board) tellSilent(silent []Silent, say func(string, any) error) error {
	names := make([]string, len(silent))
	for i, s := range silent {
		names[i] = s.Node
	}
	if slices.Equal(names, b.silent) {
		return nil
	}
	b.silent = names
	return say(BoardSilent, list(silent))
}

// changed says members and ring if they are others than before. How many requests wait at this
// node, and how fast others answer, which Members has, changes all the time, and is no change of
// members: it is told now and then.
func (b *board) changed(say func(string, any) error) error {
	members := b.of.api.cluster.Members()
	members.Members = list(members.Members)
	known := members
	known.Members = slices.Clone(members.Members)
	for i := range known.Members {
		known.Members[i].Queued, known.Members[i].RTT = nil, nil
	}
	var err error
	b.looks++
	if now := textOf(known); now != b.members || b.looks%membersEvery == 0 {
		b.members, err = now, say(BoardMembers, members)
	}
	ring := b.of.api.ringNow(false, true)
	if now := textOf(ring); now != b.ring && err == nil {
		b.ring, err = now, say(BoardRing, ring)
	}
	return err
}

func textOf(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// news are events that the reader has not been told, and how many came in between that cannot
// be told. A node's numbers rise, also over its restarts, then by a lot.
func (b *board) news(all []Event) (news []Event, missed uint64) {
	for _, e := range all {
		last := b.seen[e.Node]
		if e.ID <= last {
			continue
		}
		if gap := e.ID - last - 1; last > 0 && gap < journalEvents {
			missed += gap
		}
		b.seen[e.Node] = e.ID
		if e.Time.After(b.after) {
			news = append(news, e)
		}
	}
	return news, missed
}
