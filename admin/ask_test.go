package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// trio is the admin APIs of three nodes that ask each other.
type trio struct {
	apis     map[string]*API
	clusters map[string]*threeNodes

	mu    sync.Mutex // guards the rest
	asked []string   // who asked whom for what
	fails map[string]error
}

// named is a node of the trio: what it says of itself has its name.
type named struct {
	*threeNodes
	name string
}

// asides is what waits at a node for lent turns.
type asides struct {
	asideTicket string // "none" is none, and empty is a cluster in which nobody looks
	asideErr    error
}

func (n named) Status() Status {
	s := n.threeNodes.Status()
	s.Node = n.name
	return s
}

func (n named) Lanes(limit int) Lanes {
	l := n.threeNodes.Lanes(limit)
	l.Node = n.name
	l.Lanes[0].Waiting = int(n.name[3]-'0') * 10
	ok := l.Lanes[0]
	ok.Key, ok.State, ok.Hold, ok.Waiting = "deep", StateOK, nil, 1000+int(n.name[3]-'0')
	l.Lanes = append(l.Lanes, ok)
	return l
}

func (n named) Lane(space, key string) LanePage {
	page := n.threeNodes.Lane(space, key)
	page.Node, page.Owner = n.name, "lk-1"
	if n.name != "lk-1" {
		page.State, page.Tickets = StateIdle, nil
	}
	return page
}

func (n named) Why(space, key string) Why {
	w := n.threeNodes.Why(space, key)
	w.Node, w.Owner = n.name, "lk-1"
	if n.name != "lk-1" {
		w.LaneState, w.Head, w.Reasons = StateIdle, nil, []Reason{{Code: WhyAside, Text: "Some wait here."}}
	}
	return w
}

func (n named) Hot() Hot {
	h := n.threeNodes.Hot()
	h.Node = n.name
	h.Hot[0].Depth = int(n.name[3] - '0')
	return h
}

func (n named) Relieve(space, key string, r Relief) (Relieved, error) {
	done, err := n.threeNodes.Relieve(space, key, r)
	done.Node = n.name
	if r.Action == Cancel && n.asideTicket != "" {
		switch {
		case r.Ticket == n.asideTicket:
			return done, n.asideErr
		case n.name == "lk-1":
			return done, ErrNoTicket
		}
	}
	if n.name != "lk-1" {
		return done, &ElsewhereError{Node: n.name, Owner: "lk-1"}
	}
	return done, err
}

func newTrio() *trio {
	c := &trio{apis: map[string]*API{}, clusters: map[string]*threeNodes{}, fails: map[string]error{}}
	names := []string{"lk-0", "lk-1", "lk-2"}
	for _, name := range names {
		cluster := &threeNodes{journal: NewJournal(name)}
		for _, other := range names {
			if other != name {
				cluster.others = append(cluster.others, other)
			}
		}
		cluster.tells = func(ctx context.Context, node string, q *Question) (*Told, error) {
			c.mu.Lock()
			c.asked = append(c.asked, fmt.Sprintf("%s→%s %s %s %s", name, node, q.Method, q.Target, q.Body))
			err := c.fails[node]
			c.mu.Unlock()
			if errors.Is(err, context.DeadlineExceeded) {
				<-ctx.Done()
			}
			if err != nil {
				return nil, err
			}
			return c.apis[node].Answer(ctx, name, q), nil
		}
		c.clusters[name] = cluster
		c.apis[name] = Handler(Config{AllowedHosts: []string{"localhost"}, Tokens: []string{token}}, named{cluster, name}, slog.New(slog.DiscardHandler))
	}
	return c
}

func (c *trio) ask(t *testing.T, node, method, target, body string, into any) int {
	t.Helper()
	request := httptest.NewRequest(method, target, strings.NewReader(body))
	request.Host = "localhost"
	request.Header.Set("Authorization", "Bearer "+token)
	answer := httptest.NewRecorder()
	c.apis[node].ServeHTTP(answer, request)
	if err := json.Unmarshal(answer.Body.Bytes(), into); err != nil {
		t.Fatalf("%s: %v %s", target, err, answer.Body)
	}
	return answer.Code
}

// Every reading is put together from all nodes, each asked once and for itself alone; what one gives no
// answer to, or another one refuses, is said.
//
// Mutants seen red: deep lanes crowd out those that are stopped; the page is the answering node's; what a
// member asks needs a token.
func TestAnswersAreTheClusters(t *testing.T) {
	c := newTrio()
	var status Status
	c.ask(t, "lk-2", "GET", "/api/v1/status", "", &status)
	if status.Node != "lk-2" || len(status.Nodes) != 3 || status.Nodes[0].Node != "lk-0" || status.Numbers.Waiting != 36 || status.Numbers.Answered != 3 || len(status.Silent) != 0 {
		t.Errorf("status: %+v", status)
	}
	slices.Sort(c.asked)
	if want := []string{"lk-2→lk-0 GET /api/v1/status?node=lk-0 ", "lk-2→lk-1 GET /api/v1/status?node=lk-1 "}; !slices.Equal(c.asked, want) {
		t.Errorf("asked %q", c.asked)
	}
	var lanes Lanes
	c.ask(t, "lk-0", "GET", "/api/v1/lanes?limit=4", "", &lanes)
	var have []string
	for _, l := range lanes.Lanes {
		have = append(have, fmt.Sprint(l.Node, " ", l.Key, " ", l.Waiting))
	}
	if want := []string{"lk-2 deep 1002", "lk-2 A%201 20", "lk-1 A%201 10", "lk-0 A%201 0"}; !slices.Equal(have, want) || lanes.Total != 12 {
		t.Errorf("lanes: %q of %d", have, lanes.Total)
	}
	var page LanePage
	c.ask(t, "lk-2", "GET", "/api/v1/lanes/order/7", "", &page)
	if page.Node != "lk-1" || len(page.Tickets) != 2 || len(page.Spilled) != 3 {
		t.Errorf("page: %+v", page)
	}
	var why Why
	c.ask(t, "lk-0", "GET", "/api/v1/why/order/7", "", &why)
	if why.Node != "lk-0" || why.Owner != "lk-1" || why.Head == nil || len(why.Reasons) != 3 || why.Reasons[0].Node != "lk-1" || why.Reasons[0].Code != WhyHold {
		t.Errorf("why: %+v", why)
	}
	var keys Keys
	c.ask(t, "lk-0", "GET", "/api/v1/keys?sort=depth&limit=2", "", &keys)
	if len(keys.Keys) != 2 || keys.Keys[0].Depth != 7 || keys.Keys[1].Depth != 7 {
		t.Errorf("keys: %+v", keys)
	}

	c.fails["lk-1"], c.fails["lk-0"] = errors.New("it is away"), context.DeadlineExceeded
	began := time.Now()
	status = Status{}
	c.ask(t, "lk-2", "GET", "/api/v1/status", "", &status)
	if took := time.Since(began); took > 3*time.Second || len(status.Nodes) != 1 || len(status.Silent) != 2 || status.Silent[1] != (Silent{"lk-1", "it is away"}) || status.Numbers.Waiting != 12 {
		t.Errorf("after %s: %+v", took, status)
	}
	clear(c.fails)
	c.asked = nil
	var events Events
	if c.ask(t, "lk-2", "GET", "/api/v1/events?since=0", "", &events); len(c.asked) != 0 || events.Silent != nil {
		t.Errorf("numbers of one node were asked of others: %q", c.asked)
	}
}

// A member that refuses a question is silent, with what it says.
//
// Mutant seen red: a refusal counts as an answer.
func TestARefusalIsNoAnswer(t *testing.T) {
	cluster := &threeNodes{others: []string{"lk-1", "lk-2"}, tells: func(_ context.Context, node string, _ *Question) (*Told, error) {
		if node == "lk-1" {
			return tell(notFound("there is nothing")), nil
		}
		return &Told{Status: 200, Body: []byte("[]")}, nil
	}}
	request := httptest.NewRequest("GET", "/api/v1/hot", nil)
	request.Host = "localhost"
	answer := httptest.NewRecorder()
	Handler(local, cluster, slog.New(slog.DiscardHandler)).ServeHTTP(answer, request)
	var hot Hot
	if err := json.Unmarshal(answer.Body.Bytes(), &hot); err != nil || len(hot.Hot) != 1 || len(hot.Silent) != 2 ||
		hot.Silent[0].Why != "it answers 404: there is nothing" || !strings.HasPrefix(hot.Silent[1].Why, "its answer makes no sense here") {
		t.Errorf("%v %+v", err, hot)
	}
}

// A change goes to the node that is named, or to a key's owner, with its body; and no further than once.
//
// Mutants seen red: a member's question is carried on; the body is left behind; what a member asks needs a token.
func TestChangesAreCarried(t *testing.T) {
	c := newTrio()
	var status Status
	if code := c.ask(t, "lk-0", "POST", "/api/v1/drain?node=lk-2", "", &status); code != 202 || status.Node != "lk-2" || !c.clusters["lk-2"].drained || c.clusters["lk-0"].drained {
		t.Errorf("drain: %d %+v", code, status)
	}
	var done Relieved
	body := `{"ticket":"0197a3c8-7c1e-7a40-8000-4b1d2f6a9c03","reason":"by hand"}`
	if code := c.ask(t, "lk-2", "POST", "/api/v1/lanes/order/a%2Fb/hold", body, &done); code != 200 || done.Node != "lk-1" {
		t.Errorf("hold: %d %+v", code, done)
	}
	if want := "hold order a/b 0197a3c8-7c1e-7a40-8000-4b1d2f6a9c03 by hand"; !slices.Contains(c.clusters["lk-1"].asked, want) {
		t.Errorf("the owner was asked %q", c.clusters["lk-1"].asked)
	}
	var problem Problem
	if code := c.ask(t, "lk-0", "POST", "/api/v1/lanes/order/7/hold?node=lk-2", body, &problem); code != 404 || !strings.HasSuffix(problem.Type, ":other-node") {
		t.Errorf("a node that is not the owner: %d %+v", code, problem)
	}
	for _, asked := range c.asked {
		if strings.HasPrefix(asked, "lk-1") || strings.Count(asked, "lk-2→") > 1 {
			t.Errorf("it was carried on: %q", c.asked)
		}
	}
	told := c.apis["lk-0"].Answer(t.Context(), "lk-1", &Question{Method: "GET", Target: "/api/v1/status?node=lk-2"})
	if told.Status != 404 {
		t.Errorf("a question of a member is carried on: %d", told.Status)
	}
	c.fails["lk-1"] = errors.New("it is away")
	if code := c.ask(t, "lk-0", "POST", "/api/v1/undrain?node=lk-1", "", &problem); code != 502 || !strings.HasSuffix(problem.Type, ":member-silent") {
		t.Errorf("a node that is away: %d %+v", code, problem)
	}
}

// Streams of a board share what is asked, whoever leaves; and one that comes back is told what it missed.
//
// Mutants seen red: each stream asks for itself; what is known already is told again; events that were lost in
// between are not counted.
func TestBoards(t *testing.T) {
	c := newTrio()
	server := httptest.NewServer(c.apis["lk-0"])
	defer server.Close()
	log := slog.New(c.clusters["lk-0"].journal.Handler(slog.DiscardHandler))
	log.Info("drained", "event", "drain-done")
	open := func(target string, last string) (*bufio.Scanner, func()) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = "localhost"
		request.Header = http.Header{"Accept": {"text/event-stream"}, "Authorization": {"Bearer " + token}, "Last-Event-ID": {last}}
		response, err := server.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != 200 {
			t.Fatalf("%s: %d", target, response.StatusCode)
		}
		return bufio.NewScanner(response.Body), func() { response.Body.Close() }
	}
	// names reads up to an event of this name.
	names := func(lines *bufio.Scanner, until string) (all []string) {
		for lines.Scan() {
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				if all = append(all, name); name == until {
					return all
				}
			}
		}
		return append(all, "the end")
	}
	first, leave := open("/api/v1/events?stream=status,lanes,events", "")
	if have := names(first, BoardEvent); !slices.Equal(have, []string{BoardMembers, BoardRing, BoardStatus, BoardLanes, BoardEvent}) {
		t.Errorf("at first %q", have)
	}
	c.mu.Lock()
	asked := len(c.asked)
	c.mu.Unlock()
	second, leaveToo := open("/api/v1/status", "")
	names(second, BoardStatus)
	c.mu.Lock()
	if len(c.asked) > asked {
		t.Errorf("another stream asked anew: %q", c.asked[asked:])
	}
	c.mu.Unlock()
	leaveToo()
	log.Info("draining", "event", "drain-begun")
	if have := names(first, BoardEvent); !slices.Equal(have, []string{BoardStatus, BoardLanes, BoardEvent}) {
		t.Errorf("a second later %q", have)
	}
	leave()
	again, leave := open("/api/v1/events?stream=events", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()))
	defer leave()
	c.clusters["lk-0"].journal.End()
	if have := names(again, BoardEvent); !slices.Equal(have, []string{"the end"}) {
		t.Errorf("what is known already is told again: %q", have)
	}
	for _, target := range []string{"/api/v1/events?stream=", "/api/v1/events?stream=keys", "/api/v1/events?stream=lanes&since=1", "/api/v1/events?stream=lanes&node=lk-0", "/api/v1/status?node=lk-0", "/api/v1/events?node=lk-1"} {
		request := httptest.NewRequest("GET", target, nil)
		request.Host = "localhost"
		request.Header = http.Header{"Accept": {"text/event-stream"}, "Authorization": {"Bearer " + token}}
		answer := httptest.NewRecorder()
		if c.apis["lk-0"].ServeHTTP(answer, request); answer.Code != 400 {
			t.Errorf("%s: %d", target, answer.Code)
		}
	}
	b := &board{seen: make(map[string]uint64)}
	b.news([]Event{{Node: "lk-0", ID: 5}})
	if news, missed := b.news([]Event{{Node: "lk-0", ID: 5}, {Node: "lk-0", ID: 9, Time: joined}, {Node: "lk-1", ID: 70, Time: joined}}); len(news) != 2 || missed != 3 {
		t.Errorf("%+v, %d missed", news, missed)
	}
}

// Quantiles of a cluster are those of its buckets, not of its nodes' quantiles.
//
// Mutant seen red: the counts are not added.
func TestLatenciesAreAdded(t *testing.T) {
	fast := NewLatencies([]Bucket{{Above: 0, LE: 0.01, Count: 98}, {Above: 0.5, LE: 1}})
	slow := NewLatencies([]Bucket{{Above: 0.5, LE: 1, Count: 2}})
	both := joinLatencies([]Latencies{fast, slow})
	if both.Count != 100 || both.P50 < 0.005 || both.P50 > 0.0052 || both.P99 != 0.75 || len(both.Buckets) != 2 {
		t.Errorf("%+v", both)
	}
	if none := joinLatencies(nil); none.Count != 0 || none.P99 != 0 || none.Buckets == nil {
		t.Errorf("%+v", none)
	}
	if text, err := json.Marshal(both); err != nil || bytes.Contains(text, []byte("null")) {
		t.Errorf("%s %v", text, err)
	}
}

// A request that waits at another node than the owner is cancelled there, whichever node is asked;
// one that is nowhere, or runs, is what the owner, or the node that has it, says it is.
//
// Mutants: only the owner is asked; a conflict counts for less than that the owner
// has no such ticket; a node that is named is not the only one.
func TestWhatWaitsElsewhereIsCancelledThere(t *testing.T) {
	const ticket, other = "0197a3c8-7c1e-7a40-8000-4b1d2f6a9c03", "0197a3c8-7c1e-7a40-8000-4b1d2f6a9c04"
	for _, asked := range []string{"lk-0", "lk-1", "lk-2"} {
		c := newTrio()
		for _, cluster := range c.clusters {
			cluster.asideTicket = "none"
		}
		c.clusters["lk-2"].asideTicket = ticket
		cancel := func(query, ticket string) (int, Relieved, string) {
			var answer struct {
				Relieved
				Type string `json:"type"`
			}
			status := c.ask(t, asked, "POST", "/api/v1/lanes/order/7/cancel"+query, `{"ticket":"`+ticket+`"}`, &answer)
			return status, answer.Relieved, strings.TrimPrefix(answer.Type, "urn:lanekeeper:problem:")
		}
		if status, done, slug := cancel("", ticket); status != 200 || done.Node != "lk-2" {
			t.Errorf("%s: %d at %q, %s", asked, status, done.Node, slug)
		}
		if status, _, slug := cancel("", other); status != 404 || slug != "no-such-ticket" {
			t.Errorf("%s, of nobody: %d %s", asked, status, slug)
		}
		if status, _, slug := cancel("?node=lk-1", ticket); status != 404 || slug != "no-such-ticket" {
			t.Errorf("%s, of lk-1 alone: %d %s", asked, status, slug)
		}
		c.clusters["lk-2"].asideErr = ErrTicketRuns
		if status, _, slug := cancel("", ticket); status != 409 || slug != "ticket-runs" {
			t.Errorf("%s, of one that runs: %d %s", asked, status, slug)
		}
		for _, question := range c.asked {
			if !strings.HasPrefix(question, asked+"→") {
				t.Errorf("asked on: %s", question)
			}
		}
	}
}
