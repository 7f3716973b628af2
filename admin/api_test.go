package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

// threeNodes is a cluster of which every field of every answer is set.
type threeNodes struct {
	asides

	asked         []string // what was asked of it, in order
	drained       bool
	refuses       error
	refusesReload *ReloadError
	journal       *Journal // nil: one with two events
	limit         int      // of the lanes asked for last
	others        []string
	tells         func(ctx context.Context, node string, q *Question) (*Told, error)
}

func number(n int) *int { return &n }

func seconds(s float64) *float64 { return &s }

var joined = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func (c *threeNodes) Status() Status {
	s := Status{
		Node: "lk-0", Incarnation: "1a", Version: "1.4.0", Config: "9f31c2", Cluster: "prod",
		Ready: !c.drained, Members: 3, InRing: !c.drained, RingVersion: 88, Owned: 1366, Moving: 2,
		Lanes: 4, Waiting: 12, Running: 3, Held: 1,
		Lease: &Lease{ID: "l-7", Seconds: 6.5, Age: 90, Renewed: seconds(0.5)},
	}
	if c.drained {
		s.DrainingSince, s.NotReady = &joined, []string{"draining: since 4s"}
	}
	return s
}

func (c *threeNodes) Members() Members {
	return Members{Cluster: "prod", Node: "lk-0", View: 7, MinMembers: 2, Members: []Member{
		{
			Name: "lk-0", Incarnation: "1a", State: StateAlive, Address: "10.1.4.7:7943", PeerAddress: "10.1.4.7:7944", Zone: "a",
			Target: 1366, Owned: number(1366), Queued: number(12), Config: "9f31c2", Version: "1.4.0", Since: joined,
		},
		{Name: "lk-1", Incarnation: "2b", State: StateAlive, Since: joined},
		{Name: "lk-2", Incarnation: "3c", State: StateDraining, Since: joined},
		{Name: "lk-3", State: StateLeft, Since: joined},
		{Name: "lk-4", State: StateDead, Since: joined},
	}}
}

func (c *threeNodes) Ring(partitions bool) Ring {
	ring := Ring{
		Cluster: "prod", Node: "lk-0", Version: 88, Hash: "ab", Layout: "cd", Partitions: 2, Moving: 1,
		Members: []Share{{Name: "lk-0", Target: 2, Owned: number(1)}},
	}
	if partitions {
		ring.Table = []Partition{{Partition: 1, Target: "lk-0", Owner: "lk-1", Epoch: 5, State: "claiming", Draining: 2}}
	}
	return ring
}

func (c *threeNodes) Locate(space, key string, without []string) Location {
	c.asked = append(c.asked, "locate "+space+" "+key+" "+strings.Join(without, ","))
	return Location{
		Node: "lk-0", Partition: 417, Of: 4096, Owner: "lk-1", OwnerAddress: "10.1.4.8:7944", Epoch: 5, State: "foreign",
		Record: &Record{Holder: "l-7", Tenure: 9, Stamp: 12, WaitsFor: "l-7"},
		Target: "lk-1", Next: []string{"lk-2", "lk-0"},
		Lane: &Lane{Depth: 3, Running: 1, Blocked: true, Ticket: "0197", Halt: &LaneHalt{Ticket: "0196", Cause: "upstream-reset", Seconds: 2.5}, TicketState: "running", Seconds: 1.2, WaitSeconds: 2.9},
	}
}

func (c *threeNodes) Hot() Hot {
	return Hot{
		Node: "lk-0", TopSeconds: 12.5,
		Spilled: []SpilledKey{{Space: "order", Key: "C ", Route: "orders", Waiting: 7, Running: 1, Asked: 2, HasTurn: true}},
		Hot: []HotKey{{
			Space: "order", Key: "A <1>", Route: "orders", Action: "spill", LentTo: "lk-1", Since: joined,
			Depth: 57, Bytes: 1024, Busy: 0.99, Share: 0.8, Rate: 41.5, ServiceSeconds: 0.02, WaitSeconds: 1.16,
		}},
		Top: []TopKey{{Space: "order", Key: "B %", Route: "orders", Hot: true, Count: 512, Error: 3, Depth: 4, WaitSeconds: 0.1}},
	}
}

func (c *threeNodes) Lanes(limit int) Lanes {
	c.limit = limit
	return Lanes{Node: "lk-0", Total: 4, Lanes: []LaneRow{{
		Space: "order", Key: "A 1", Route: "orders", State: StateHalted, Held: true, Ticket: "0197", Cause: "upstream-timeout", Seconds: 1.5, Waiting: 3,
		Running: 1, HeadTicket: "0196", HeadState: "held", HeadAge: 2.5, HeldLeft: seconds(0.5), Hold: &LaneHold{Reason: "by hand", Seconds: 9},
		Hot: true, LentTo: "lk-1", WaitSeconds: 1.25,
	}}}
}

func (c *threeNodes) Lane(space, key string) LanePage {
	c.asked = append(c.asked, "lane "+space+" "+key)
	page := LanePage{LaneRow: c.Lanes(1).Lanes[0], Partition: 417, Of: 4096, Owner: "lk-0", Epoch: 5}
	page.Node = "lk-0"
	page.Tickets = []LaneTicket{
		{Ticket: "0196", State: "held", Seconds: 2.5, Age: 3, Class: "exclusive", Route: "orders", Bytes: 10, Ingress: "lk-1", Client: "203.0.113.9", Trace: "4bf9", HeldLeft: seconds(0.5)},
		{Ticket: "0197", Position: 1, State: "waiting", Seconds: 1, Age: 1, Class: "shared", Route: "orders", Ingress: "lk-0", LentTo: "lk-2"},
	}
	page.Spilled = []SpilledKey{{Route: "orders", Waiting: 7}}
	return page
}

func (c *threeNodes) Why(space, key string) Why {
	c.asked = append(c.asked, "why "+space+" "+key)
	head := c.Lane(space, key).Tickets[0]
	c.asked = c.asked[:len(c.asked)-1]
	return Why{
		Node: "lk-0", Partition: 417, Of: 4096, Owner: "lk-0", OwnerAddress: "10.1.4.7:7944", Epoch: 5, Target: "lk-0", Partitioned: "owned",
		LaneState: StateHeld, Head: &head, Waiting: 3,
		Reasons: []Reason{{Code: WhyHold, Ticket: "0196", Who: []string{"app"}, Seconds: 2.5, Left: seconds(0.5), Text: "It is held.", Advice: "Release it."}},
	}
}

func (c *threeNodes) Others() []string { return c.others }

func (c *threeNodes) Ask(ctx context.Context, node string, q *Question) (*Told, error) {
	if c.tells == nil {
		return nil, errors.New("nobody answers")
	}
	return c.tells(ctx, node, q)
}

func (c *threeNodes) Configuration() Configuration {
	return Configuration{Node: "lk-0", Config: "9f31c2", Settings: []Setting{{Path: "server.listen", Value: ":7940", Origin: "lk.yaml:3"}}}
}

func (c *threeNodes) SetLogLevel(level string, lasts time.Duration) LogLevel {
	c.asked = append(c.asked, "loglevel "+level+" "+lasts.String())
	l := LogLevel{Node: "lk-0", Level: cmp.Or(level, "info"), Configured: "info"}
	if lasts > 0 {
		l.Until = &joined
	}
	return l
}

func (c *threeNodes) Relieve(space, key string, r Relief) (Relieved, error) {
	c.asked = append(c.asked, strings.TrimSpace(strings.Join([]string{r.Action, space, key, r.Ticket, r.Reason}, " ")))
	return Relieved{Node: "lk-0", Space: space, Key: key, Action: r.Action, Ticket: "0197", Cause: "upstream-reset", Seconds: 2.5, Cancelled: 4}, c.refuses
}

func (c *threeNodes) Journal() *Journal {
	if c.journal == nil {
		c.journal = NewJournal("lk-0")
		c.journal.first, c.journal.oldest, c.journal.next = 41, 41, 41
		log := c.journal.Handler(slog.DiscardHandler)
		line := slog.NewRecord(joined, slog.LevelInfo, "member joined", 0)
		line.Add("event", "member-joined", "member", "lk-1 <1>", "state", "active")
		log.Handle(context.Background(), line) //nolint:errcheck // it takes everything
		line = slog.NewRecord(joined.Add(time.Second), slog.LevelWarn, "stood still", 0)
		line.Add("for", 1500*time.Millisecond, "event", "stood-still")
		log.Handle(context.Background(), line) //nolint:errcheck // it takes everything
	}
	return c.journal
}

func (c *threeNodes) Ledger() *Ledger {
	l := NewLedger("lk-0", 2)
	l.first, l.next = 7, 7
	status := 200
	for _, u := range []Unknown{
		{Ticket: "gone"},
		{
			Ticket: "0197-1", Space: "order", Key: "A <1>", Route: "orders", Method: "POST", Node: "lk-0", Owner: "lk-1", Client: "203.0.113.9",
			Upstream: "app", Slug: "peer-lost", Detail: "lk-1 was lost", Arrived: joined, Ended: joined.Add(time.Second),
		},
		{
			Ticket: "0197-2", Space: "order", Key: "7", Route: "orders", Method: "PUT", Node: "lk-0", Owner: "lk-0", Ingress: "lk-2",
			Upstream: "app", Target: "http://app", Slug: "upstream-reset", Status: &status, Detail: "broke off",
			Arrived: joined, Dispatched: &joined, SentBytes: 321, Ended: joined.Add(time.Second),
		},
	} {
		l.Add(&u)
		if len(l.ring) > 0 {
			l.ring[(u.ID-l.first)%l.keep].Time = joined.Add(2 * time.Second)
		}
	}
	return l
}

func (c *threeNodes) Drain() error {
	c.asked = append(c.asked, "drain")
	c.drained = c.refuses == nil
	return c.refuses
}

func (c *threeNodes) Undrain() error {
	c.asked = append(c.asked, "undrain")
	c.drained = false
	return c.refuses
}

func (c *threeNodes) Reload(force bool, _ string) (Reloaded, *ReloadError) {
	c.asked = append(c.asked, fmt.Sprintf("reload %t", force))
	return Reloaded{Node: "lk-0", Config: "9f31c3", Before: "9f31c2"}, c.refusesReload
}

const token = "correct-horse-battery-staple"

var local = Config{AllowedHosts: []string{"localhost", "127.0.0.1", "[::1]"}}

// asking is a request, and what comes of it.
type asking struct {
	method, target string
	host           string // localhost:7942 if empty
	header         map[string]string
	status         int
	slug           string // of the problem, if it is one
	reaches        string // what is asked of the cluster by it
	body           string
	refuses        error
}

// check sends the request to a new cluster and returns the answer.
func (a asking) check(t *testing.T, config Config) *httptest.ResponseRecorder {
	t.Helper()
	cluster := &threeNodes{refuses: a.refuses}
	request := httptest.NewRequest(a.method, a.target, strings.NewReader(a.body))
	request.Host = "localhost:7942"
	if a.host != "" {
		request.Host = strings.TrimSuffix(a.host, " ")
	}
	for name, value := range a.header {
		request.Header.Set(name, value)
	}
	recorder := httptest.NewRecorder()
	Handler(config, cluster, slog.New(slog.DiscardHandler)).ServeHTTP(recorder, request)
	if recorder.Code != a.status {
		t.Errorf("%s %s %s %v: status %d, want %d: %s", a.method, a.target, a.host, a.header, recorder.Code, a.status, recorder.Body)
	}
	if have := strings.Join(cluster.asked, "; "); have != a.reaches {
		t.Errorf("%s %s %s %v: asks the cluster %q, want %q", a.method, a.target, a.host, a.header, have, a.reaches)
	}
	var body Problem
	if a.slug != "" {
		if err := json.Unmarshal(recorder.Body.Bytes(), &body); err != nil || body.Type != "urn:lanekeeper:problem:"+a.slug || body.Status != a.status || body.Title == "" || body.Detail == "" {
			t.Errorf("%s %s: got %s, want the problem %s", a.method, a.target, recorder.Body, a.slug)
		}
		if have := recorder.Header().Get("Content-Type"); have != "application/problem+json" {
			t.Errorf("%s %s: Content-Type %s", a.method, a.target, have)
		}
	}
	return recorder
}

// Mutants killed: one per line of query and locate; Clean left out; %2F decoded
// before the path is split; a member that left is one still.
func TestEndpoints(t *testing.T) {
	long := strings.Repeat("k", keyMax)
	for _, a := range []asking{
		{method: "GET", target: "/api/v1/status", status: 200},
		{method: "HEAD", target: "/api/v1/members", status: 200},
		{method: "GET", target: "/api/v1/ring?partitions=false", status: 200},
		{method: "GET", target: "/api/v1/ring?partitions=1", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/ring?partition", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/status?node=lk-9", status: 404, slug: "other-node"},
		{method: "GET", target: "/api/v1/status?name=lk-1", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/lanes/order/7", status: 200, reaches: "lane order 7"},
		{method: "GET", target: "/api/v1/lanes/show?space=order&key=..", status: 200, reaches: "lane order .."},
		{method: "GET", target: "/api/v1/lanes/show?space=order", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/lanes?limit=x", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/why/order/a%2Fb", status: 200, reaches: "why order a/b"},
		{method: "GET", target: "/api/v1/why?space=order&key=7", status: 200, reaches: "why order 7"},
		{method: "GET", target: "/api/v1/keys?sort=rate&limit=3", status: 200},
		{method: "GET", target: "/api/v1/keys?sort=age", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/config", status: 200},
		{method: "GET", target: "/api/v1/config?node=lk-9", status: 404, slug: "other-node"},
		{method: "POST", target: "/api/v1/loglevel?level=debug&for=10m", status: 200, reaches: "loglevel debug 10m0s"},
		{method: "POST", target: "/api/v1/loglevel", status: 200, reaches: "loglevel  0s"},
		{method: "POST", target: "/api/v1/loglevel?level=loud", status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/loglevel?level=debug&for=-1s", status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/loglevel?level=debug&for=169h", status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/loglevel?for=1h", status: 400, slug: "bad-request"},

		{method: "GET", target: "/api/v1/locate?space=order&key=A-1042", status: 200, reaches: "locate order A-1042 "},
		{method: "GET", target: "/api/v1/locate?space=order&key=a%2F..%2Fb%25%20c+d", status: 200, reaches: "locate order a/../b% c d "},
		{method: "GET", target: "/api/v1/locate/order/A-1042", status: 200, reaches: "locate order A-1042 "},
		{method: "GET", target: "/api/v1/locate/order/a%2F%2Fb%252F+c", status: 200, reaches: "locate order a//b%2F+c "},
		{method: "GET", target: "/api/v1/locate/order/%2e%2e", status: 200, reaches: "locate order .. "},
		{method: "GET", target: "/api/v1/locate/order/a?without=lk-1&without=lk-2", status: 200, reaches: "locate order a lk-1,lk-2"},
		{method: "GET", target: "/api/v1/locate/order/a?without=lk-9", status: 404, slug: "unknown-member"},
		{method: "GET", target: "/api/v1/locate/order/a?without=lk-1&without=lk-3", status: 404, slug: "unknown-member"},
		{method: "GET", target: "/api/v1/locate/order/a/b", status: 404, slug: "not-found"},
		{method: "GET", target: "/api/v1/locate/order/a//b", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate/order/x/../a", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate/order/./a", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate/order/", status: 404, slug: "not-found"},
		{method: "GET", target: "/api/v1/locate/Order/a", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate?space=order", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate?key=a", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate?space=order&key=a&key=b", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate?space=order&key=a&keys=b", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate?space=order&key=%zz", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate?space=order&key=a&without=%zz", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate?space=order&key=a&without=lk-1;lk-2", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/locate?space=order&key=" + long, status: 200, reaches: "locate order " + long + " "},
		{method: "GET", target: "/api/v1/locate?space=order&key=k" + long, status: 400, slug: "bad-request"},

		{method: "GET", target: "/api/v1/hot", status: 200},
		{method: "GET", target: "/api/v1/hot?sort=rate", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/hot/order", status: 404, slug: "not-found"},

		{method: "POST", target: "/api/v1/drain", status: 202, reaches: "drain"},
		{method: "POST", target: "/api/v1/undrain", status: 200, reaches: "undrain"},
		{method: "POST", target: "/api/v1/drain?node=lk-0", status: 202, reaches: "drain"},
		{method: "POST", target: "/api/v1/drain?node=lk-1", status: 404, slug: "other-node"},
		{method: "POST", target: "/api/v1/undrain?node=", status: 404, slug: "other-node"},
		{method: "POST", target: "/api/v1/drain?nod=lk-1", status: 400, slug: "bad-request"},

		{method: "POST", target: "/api/v1/reload", status: 200, reaches: "reload false"},
		{method: "POST", target: "/api/v1/reload?force&node=lk-0", status: 200, reaches: "reload true"},
		{method: "POST", target: "/api/v1/reload?force=true", status: 200, reaches: "reload true"},
		{method: "POST", target: "/api/v1/reload?force=false", status: 200, reaches: "reload false"},
		{method: "POST", target: "/api/v1/reload?force=1", status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/reload?forced", status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/reload?node=lk-1", status: 404, slug: "other-node"},

		{method: "GET", target: "/api/v1/events", status: 200},
		{method: "HEAD", target: "/api/v1/events", header: map[string]string{"Accept": "text/event-stream"}, status: 200},
		{method: "GET", target: "/api/v1/events?since=0&limit=5", status: 200},
		{method: "GET", target: "/api/v1/events?since=", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/events?since=-1", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/events?limit=-1", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/events?limit=1&limit=2", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/events?after=1", status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/events?after=1", header: map[string]string{"Accept": "text/event-stream"}, status: 400, slug: "bad-request"},
		{method: "GET", target: "/api/v1/events?since=x", header: map[string]string{"Accept": "text/event-stream"}, status: 400, slug: "bad-request"},

		{method: "GET", target: "/", status: 404, slug: "not-found"},
		{method: "GET", target: "/api/v1/members/", status: 404, slug: "not-found"},
		{method: "GET", target: "/api/v1/key", status: 404, slug: "not-found"},
		{method: "GET", target: "/debug/pprof/", status: 404, slug: "not-found"},
	} {
		a.check(t, local)
	}
}

// A drain by GET would be one that a link or an image can ask for.
//
// Mutant killed: methods are not looked at.
func TestWrongMethodsAreRefused(t *testing.T) {
	for target, allow := range map[string]string{
		"/api/v1/status": "GET, HEAD", "/api/v1/members": "GET, HEAD", "/api/v1/ring": "GET, HEAD",
		"/api/v1/locate?space=a&key=b": "GET, HEAD", "/api/v1/locate/a/b": "GET, HEAD", "/api/v1/hot": "GET, HEAD", "/api/v1/events": "GET, HEAD",
		"/api/v1/drain": "POST", "/api/v1/undrain": "POST", "/api/v1/reload": "POST",
		"/api/v1/lanes": "GET, HEAD", "/api/v1/lanes/resume?space=a&key=b": "POST", "/api/v1/lanes/a/b/skip": "POST", "/api/v1/lanes/a/b/fail": "POST",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"} {
			if strings.Contains(", "+allow+",", " "+method+",") {
				continue
			}
			recorder := asking{method: method, target: target, status: 405, slug: "method-not-allowed"}.check(t, local)
			if have := recorder.Header().Get("Allow"); have != allow {
				t.Errorf("%s %s: Allow %q, want %q", method, target, have, allow)
			}
			for name := range recorder.Header() {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s %s: has %s", method, target, name)
				}
			}
		}
	}
}

// A page whose name was made to point to this machine sends its own name.
//
// Mutants killed: names are compared as prefixes; the port is part of the name;
// a request without a Host passes.
func TestOtherHostNamesAreRefused(t *testing.T) {
	for _, host := range []string{"localhost", "localhost:1", "LOCALHOST.:7942", "127.0.0.1:7942", "[::1]:7942", "[::1]"} {
		asking{method: "GET", target: "/api/v1/status", host: host, status: 200}.check(t, local)
	}
	for _, host := range []string{
		"evil.example", "evil.example:7942", "localhost.evil.example", "127.0.0.1.evil.example:7942", "10.1.4.7:7942",
		"[::2]:7942", "127.0.0.2", "localhost:7942:1", "evil.example#localhost", "localhost@evil.example", " ",
	} {
		asking{method: "GET", target: "/api/v1/locate/order/a", host: host, status: 421, slug: "host-not-allowed"}.check(t, local)
		asking{method: "POST", target: "/api/v1/drain", host: host, status: 421, slug: "host-not-allowed"}.check(t, local)
	}
	named := Config{AllowedHosts: []string{"LK-0.lk"}}
	asking{method: "GET", target: "/api/v1/status", host: "lk-0.lk:7942", status: 200}.check(t, named)
	asking{method: "GET", target: "/api/v1/status", host: "localhost", status: 421, slug: "host-not-allowed"}.check(t, named)
	asking{method: "GET", target: "/api/v1/status", host: "localhost", status: 421, slug: "host-not-allowed"}.check(t, Config{})
}

// Any page can send a POST to any address; it cannot pretend to be of another
// site.
//
// Mutant killed: CrossOriginProtection left out.
func TestPagesOfOtherSitesChangeNothing(t *testing.T) {
	for _, header := range []map[string]string{
		{"Sec-Fetch-Site": "cross-site"},
		{"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
		{"Origin": "https://evil.example"},
		{"Origin": "http://localhost:3000"},
		{"Origin": "null"},
	} {
		asking{method: "POST", target: "/api/v1/drain", header: header, status: 403, slug: "cross-origin"}.check(t, local)
		asking{method: "POST", target: "/api/v1/undrain", header: header, status: 403, slug: "cross-origin"}.check(t, local)
	}
	for _, header := range []map[string]string{
		{},
		{"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:7942"},
		{"Origin": "http://localhost:7942"},
	} {
		asking{method: "POST", target: "/api/v1/drain", header: header, status: 202, reaches: "drain"}.check(t, local)
	}
}

// Mutants killed: only changes ask for a token; an empty token passes; the
// scheme is not looked at; only the first token is known; a prefix passes.
func TestTokens(t *testing.T) {
	config := local
	config.Tokens = []string{token, "the-next-one-for-rotation"}
	bearer := func(value string) map[string]string { return map[string]string{"Authorization": value} }
	for _, header := range []map[string]string{
		{}, bearer(""), bearer("Bearer"), bearer("Bearer "), bearer(token), bearer("Basic " + token), bearer("Bearer " + token[:len(token)-1]),
		bearer("Bearer " + token + "x"), bearer("Bearer " + token + " " + token), bearer("Bearer " + strings.ToUpper(token)),
	} {
		for _, a := range []asking{
			{method: "GET", target: "/api/v1/status"}, {method: "GET", target: "/api/v1/locate/a/b"}, {method: "GET", target: "/"},
			{method: "POST", target: "/api/v1/drain"}, {method: "OPTIONS", target: "/api/v1/drain"},
			{method: "GET", target: "/api/v1/status?access_token=" + token},
		} {
			a.header, a.status, a.slug = header, 401, "unauthorized"
			if have := a.check(t, config).Header().Get("WWW-Authenticate"); have != `Bearer realm="lanekeeper"` {
				t.Errorf("WWW-Authenticate %q", have)
			}
		}
	}
	for _, value := range []string{"Bearer " + token, "bearer " + token, "Bearer the-next-one-for-rotation"} {
		asking{method: "GET", target: "/api/v1/status", header: bearer(value), status: 200}.check(t, config)
		asking{method: "POST", target: "/api/v1/drain", header: bearer(value), status: 202, reaches: "drain"}.check(t, config)
	}
	twice := httptest.NewRequest("GET", "/api/v1/status", nil)
	twice.Host = "localhost"
	twice.Header["Authorization"] = []string{"Bearer " + token, "Bearer " + token}
	recorder := httptest.NewRecorder()
	Handler(config, &threeNodes{}, slog.New(slog.DiscardHandler)).ServeHTTP(recorder, twice)
	if recorder.Code != 401 {
		t.Errorf("two fields: status %d, want 401", recorder.Code)
	}
}

func TestRefusedChangesSayWhy(t *testing.T) {
	cluster := &threeNodes{refuses: errors.New("the process is ending")}
	for _, name := range []string{"drain", "undrain"} {
		request := httptest.NewRequest("POST", "/api/v1/"+name, nil)
		request.Host = "localhost"
		recorder := httptest.NewRecorder()
		Handler(local, cluster, slog.New(slog.DiscardHandler)).ServeHTTP(recorder, request)
		if recorder.Code != 409 || !strings.Contains(recorder.Body.String(), `"detail":"the process is ending"`) {
			t.Errorf("%s: got %d, %s", name, recorder.Code, recorder.Body)
		}
	}
}

// Mutants killed: every refusal is a conflict; the problems are left out.
func TestRefusedReloadsSayWhy(t *testing.T) {
	for slug, status := range map[string]int{ConfigInvalid: 422, RestartNeeded: 409, LanesInUse: 409, "refused": 409} {
		cluster := &threeNodes{refusesReload: &ReloadError{Slug: slug, Detail: "why", Problems: []string{"one", "two"}}}
		request := httptest.NewRequest("POST", "/api/v1/reload", nil)
		request.Host = "localhost"
		recorder := httptest.NewRecorder()
		Handler(local, cluster, slog.New(slog.DiscardHandler)).ServeHTTP(recorder, request)
		want := fmt.Sprintf(`{"type":"urn:lanekeeper:problem:%s","title":"The configuration is not reloaded","status":%d,"detail":"why","problems":["one","two"]}`, slug, status)
		if have := strings.TrimSpace(recorder.Body.String()); recorder.Code != status || have != want {
			t.Errorf("%s: got %d, %s, want %s", slug, recorder.Code, have, want)
		}
	}
}

// Scripts and dashboards are written against these names. A line that changes
// breaks them; a new field is fine.
func TestJSONIsStable(t *testing.T) {
	for target, want := range map[string]string{
		"GET /api/v1/status?node=lk-0": `{"node":"lk-0","incarnation":"1a","version":"1.4.0","config":"9f31c2","cluster":"prod","ready":true,"not_ready":[],"draining_since":null,` +
			`"members":3,"in_ring":true,"ring_version":88,"owned":1366,"moving":2,"lanes":4,"waiting":12,"running":3,"held":1,"lease":{"id":"l-7","valid_seconds":6.5,"age_seconds":90,"untitled":0,"away":"","renewed_seconds":0.5},"last_reload":null,"halted":0,"stopped":0,"hot":0,"oldest_wait_seconds":0,"rate":0,"violations":0,"unknown":0,"lane_wait":{"count":0,"p50_seconds":0,"p99_seconds":0,"buckets":[]},"upstream":{"count":0,"p50_seconds":0,"p99_seconds":0,"buckets":[]},"log_level":""}`,
		"POST /api/v1/drain": `{"node":"lk-0","incarnation":"1a","version":"1.4.0","config":"9f31c2","cluster":"prod","ready":false,"not_ready":["draining: since 4s"],"draining_since":"2026-11-01T12:00:00Z",` +
			`"members":3,"in_ring":false,"ring_version":88,"owned":1366,"moving":2,"lanes":4,"waiting":12,"running":3,"held":1,"lease":{"id":"l-7","valid_seconds":6.5,"age_seconds":90,"untitled":0,"away":"","renewed_seconds":0.5},"last_reload":null,"halted":0,"stopped":0,"hot":0,"oldest_wait_seconds":0,"rate":0,"violations":0,"unknown":0,"lane_wait":{"count":0,"p50_seconds":0,"p99_seconds":0,"buckets":[]},"upstream":{"count":0,"p50_seconds":0,"p99_seconds":0,"buckets":[]},"log_level":""}`,
		"POST /api/v1/reload": `{"node":"lk-0","config":"9f31c3","before":"9f31c2","changed":[],"warnings":[],"unordered":[]}`,
		"GET /api/v1/members": `{"cluster":"prod","node":"lk-0","view":7,"min_members":2,"members":[` +
			`{"name":"lk-0","incarnation":"1a","state":"alive","address":"10.1.4.7:7943","peer_address":"10.1.4.7:7944","zone":"a","target":1366,"owned":1366,"queued":12,"config":"9f31c2","version":"1.4.0","since":"2026-11-01T12:00:00Z","rtt_seconds":null},` +
			`{"name":"lk-1","incarnation":"2b","state":"alive","address":"","peer_address":"","zone":"","target":0,"owned":null,"queued":null,"config":"","version":"","since":"2026-11-01T12:00:00Z","rtt_seconds":null},` +
			`{"name":"lk-2","incarnation":"3c","state":"draining","address":"","peer_address":"","zone":"","target":0,"owned":null,"queued":null,"config":"","version":"","since":"2026-11-01T12:00:00Z","rtt_seconds":null},` +
			`{"name":"lk-3","incarnation":"","state":"left","address":"","peer_address":"","zone":"","target":0,"owned":null,"queued":null,"config":"","version":"","since":"2026-11-01T12:00:00Z","rtt_seconds":null},` +
			`{"name":"lk-4","incarnation":"","state":"dead","address":"","peer_address":"","zone":"","target":0,"owned":null,"queued":null,"config":"","version":"","since":"2026-11-01T12:00:00Z","rtt_seconds":null}]}`,
		"GET /api/v1/ring": `{"cluster":"prod","node":"lk-0","version":88,"hash":"ab","layout":"cd","partitions":2,"moving":1,"members":[{"name":"lk-0","target":2,"owned":1}]}`,
		"GET /api/v1/ring?partitions": `{"cluster":"prod","node":"lk-0","version":88,"hash":"ab","layout":"cd","partitions":2,"moving":1,"members":[{"name":"lk-0","target":2,"owned":1}],` +
			`"table":[{"partition":1,"target":"lk-0","owner":"lk-1","epoch":5,"state":"claiming","draining":2}]}`,
		"GET /api/v1/locate/order/A%20%3Cb%3E?without=lk-2": `{"node":"lk-0","space":"order","key":"A%20<b>","partition":417,"partitions":4096,"owner":"lk-1","owner_address":"10.1.4.8:7944","epoch":5,"state":"foreign",` +
			`"record":{"holder":"l-7","tenure":9,"stamp":12,"prev":"","titled":false,"held_seconds":null,"waits_for":"l-7"},` +
			`"target":"lk-1","next":["lk-2","lk-0"],"without":["lk-2"],` +
			`"lane":{"depth":3,"running":1,"blocked":true,"ticket":"0197","halt":{"ticket":"0196","cause":"upstream-reset","seconds":2.5},"ticket_state":"running","ticket_seconds":1.2,"wait_seconds_estimate":2.9}}`,
		"GET /api/v1/hot": `{"node":"lk-0","hot":[{"space":"order","key":"A%20<1>","route":"orders","action":"spill","lent_to":"lk-1","since":"2026-11-01T12:00:00Z",` +
			`"depth":57,"bytes":1024,"busy":0.99,"share":0.8,"rate":41.5,"service_seconds":0.02,"wait_seconds_estimate":1.16,"node":"lk-0"}],` +
			`"top":[{"space":"order","key":"B%20%25","route":"orders","hot":true,"count":512,"error":3,"depth":4,"wait_seconds_estimate":0.1,"node":"lk-0"}],"top_seconds":12.5,` +
			`"spilled":[{"space":"order","key":"C%20","route":"orders","waiting":7,"running":1,"asked":2,"has_turn":true,"node":"lk-0"}],"silent":[]}`,
		"GET /api/v1/events": `{"node":"lk-0","events":[` +
			`{"id":41,"time":"2026-11-01T12:00:00Z","level":"INFO","node":"lk-0","event":"member-joined","message":"member joined","attributes":{"member":"lk-1 <1>","state":"active"}},` +
			`{"id":42,"time":"2026-11-01T12:00:01Z","level":"WARN","node":"lk-0","event":"stood-still","message":"stood still","attributes":{"for":"1.5s"}}],"missed":0,"next":42,"silent":[]}`,
		"GET /api/v1/events?limit=1": `{"node":"lk-0","events":[` +
			`{"id":42,"time":"2026-11-01T12:00:01Z","level":"WARN","node":"lk-0","event":"stood-still","message":"stood still","attributes":{"for":"1.5s"}}],"missed":0,"next":42,"silent":[]}`,
		"GET /api/v1/events?since=40&limit=1": `{"node":"lk-0","events":[` +
			`{"id":41,"time":"2026-11-01T12:00:00Z","level":"INFO","node":"lk-0","event":"member-joined","message":"member joined","attributes":{"member":"lk-1 <1>","state":"active"}}],"missed":0,"next":41}`,
		"GET /api/v1/events?since=42": `{"node":"lk-0","events":[],"missed":0,"next":42}`,
		"GET /api/v1/unknown": `{"node":"lk-0","unknown":[` +
			`{"id":8,"time":"2026-11-01T12:00:02Z","ticket":"0197-1","space":"order","key":"A%20<1>","route":"orders","method":"POST","node":"lk-0","owner":"lk-1","ingress":"","client":"203.0.113.9","upstream":"app","target":"","slug":"peer-lost","status":null,"detail":"lk-1 was lost","arrived":"2026-11-01T12:00:00Z","dispatched":null,"sent_bytes":0,"ended":"2026-11-01T12:00:01Z"},` +
			`{"id":9,"time":"2026-11-01T12:00:02Z","ticket":"0197-2","space":"order","key":"7","route":"orders","method":"PUT","node":"lk-0","owner":"lk-0","ingress":"lk-2","client":"","upstream":"app","target":"http://app","slug":"upstream-reset","status":200,"detail":"broke off","arrived":"2026-11-01T12:00:00Z","dispatched":"2026-11-01T12:00:00Z","sent_bytes":321,"ended":"2026-11-01T12:00:01Z"}],"missed":0,"next":9,"silent":[]}`,
		"GET /api/v1/unknown?limit=1": `{"node":"lk-0","unknown":[` +
			`{"id":9,"time":"2026-11-01T12:00:02Z","ticket":"0197-2","space":"order","key":"7","route":"orders","method":"PUT","node":"lk-0","owner":"lk-0","ingress":"lk-2","client":"","upstream":"app","target":"http://app","slug":"upstream-reset","status":200,"detail":"broke off","arrived":"2026-11-01T12:00:00Z","dispatched":"2026-11-01T12:00:00Z","sent_bytes":321,"ended":"2026-11-01T12:00:01Z"}],"missed":0,"next":9,"silent":[]}`,
		"GET /api/v1/unknown?since=6&limit=1": `{"node":"lk-0","unknown":[` +
			`{"id":8,"time":"2026-11-01T12:00:02Z","ticket":"0197-1","space":"order","key":"A%20<1>","route":"orders","method":"POST","node":"lk-0","owner":"lk-1","ingress":"","client":"203.0.113.9","upstream":"app","target":"","slug":"peer-lost","status":null,"detail":"lk-1 was lost","arrived":"2026-11-01T12:00:00Z","dispatched":null,"sent_bytes":0,"ended":"2026-11-01T12:00:01Z"}],"missed":1,"next":8}`,
		"GET /api/v1/unknown?since=9": `{"node":"lk-0","unknown":[],"missed":0,"next":9}`,
		"GET /api/v1/lanes":           `{"node":"lk-0","lanes":[{"space":"order","key":"A%201","route":"orders","state":"halted","held":true,"ticket":"0197","cause":"upstream-timeout","seconds":1.5,"waiting":3,"node":"lk-0","running":1,"head_ticket":"0196","head_state":"held","head_age_seconds":2.5,"held_seconds_left":0.5,"hold":{"reason":"by hand","seconds":9},"hot":true,"lent_to":"lk-1","wait_seconds_estimate":1.25}],"total":4,"silent":[]}`,
		"GET /api/v1/lanes/order/A%201": `{"space":"order","key":"A%201","route":"orders","state":"halted","held":true,"ticket":"0197","cause":"upstream-timeout","seconds":1.5,"waiting":3,"node":"lk-0","running":1,"head_ticket":"0196","head_state":"held","head_age_seconds":2.5,"held_seconds_left":0.5,"hold":{"reason":"by hand","seconds":9},"hot":true,"lent_to":"lk-1","wait_seconds_estimate":1.25,"partition":417,"partitions":4096,"owner":"lk-0","epoch":5,"tickets":[{"ticket":"0196","position":0,"state":"held","seconds":2.5,"age_seconds":3,"class":"exclusive","route":"orders","bytes":10,"ingress":"lk-1","client":"203.0.113.9","trace":"4bf9","lent_to":"","held_seconds_left":0.5},{"ticket":"0197","position":1,"state":"waiting","seconds":1,"age_seconds":1,"class":"shared","route":"orders","bytes":0,"ingress":"lk-0","client":"","trace":"","lent_to":"lk-2","held_seconds_left":null}],"more":0,` +
			`"spilled":[{"space":"","key":"A%201","route":"orders","waiting":7,"running":0,"asked":0,"has_turn":false,"node":"lk-0"}],"silent":[]}`,
		"GET /api/v1/why/order/A%201": `{"node":"lk-0","space":"order","key":"A%201","partition":417,"partitions":4096,"owner":"lk-0","owner_address":"10.1.4.7:7944","epoch":5,"target":"lk-0","partition_state":"owned",` +
			`"lane_state":"held","head":{"ticket":"0196","position":0,"state":"held","seconds":2.5,"age_seconds":3,"class":"exclusive","route":"orders","bytes":10,"ingress":"lk-1","client":"203.0.113.9","trace":"4bf9","lent_to":"","held_seconds_left":0.5},"waiting":3,` +
			`"reasons":[{"node":"lk-0","code":"hold","ticket":"0196","who":["app"],"seconds":2.5,"seconds_left":0.5,"text":"It is held.","advice":"Release it."}],` +
			`"text":["order/A%201 is in partition 417 of 4096, which is lk-0's (epoch 5).","Its lane is held; 3 requests wait.","It is held. Release it."],"silent":[]}`,
		"GET /api/v1/keys?limit=1":                  `{"node":"lk-0","sort":"depth","keys":[{"node":"lk-0","space":"order","key":"A%20<1>","route":"orders","state":"spilled","action":"spill","lent_to":"lk-1","since":"2026-11-01T12:00:00Z","depth":57,"rate":41.5,"rate_at_most":false,"wait_seconds_estimate":1.16,"count":0,"error":0}],"top_seconds":12.5,"silent":[]}`,
		"GET /api/v1/config":                        `{"node":"lk-0","config":"9f31c2","settings":[{"path":"server.listen","value":":7940","origin":"lk.yaml:3"}]}`,
		"POST /api/v1/loglevel?level=debug&for=10m": `{"node":"lk-0","level":"debug","configured":"info","until":"2026-11-01T12:00:00Z"}`,
		"POST /api/v1/lanes/order/7/release":        `{"node":"lk-0","space":"order","key":"7","action":"release","ticket":"0197","cause":"upstream-reset","seconds":2.5,"cancelled":4,"risk":false}`,
		"GET /api/v1/ring?runs=true":                `{"cluster":"prod","node":"lk-0","version":88,"hash":"ab","layout":"cd","partitions":2,"moving":1,"members":[{"name":"lk-0","target":2,"owned":1}],"runs":[{"from":1,"to":1,"owner":"lk-1","target":"lk-0","moving":true}]}`,
		"GET /api/v1/nothing":                       `{"type":"urn:lanekeeper:problem:not-found","title":"There is no such thing","status":404,"detail":"see /openapi.json for what there is"}`,
	} {
		method, path, _ := strings.Cut(target, " ")
		request := httptest.NewRequest(method, path, nil)
		request.Host = "localhost"
		recorder := httptest.NewRecorder()
		Handler(local, &threeNodes{}, slog.New(slog.DiscardHandler)).ServeHTTP(recorder, request)
		if have := recorder.Body.String(); have != want+"\n" {
			t.Errorf("%s:\ngot  %swant %s", target, have, want)
		}
		for name, value := range map[string]string{
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		} {
			if have := recorder.Header().Get(name); have != value {
				t.Errorf("%s: %s is %q, want %q", target, name, have, value)
			}
		}
	}
}

// emptyCluster leaves every list out.
type emptyCluster struct{ threeNodes }

func (*emptyCluster) Members() Members                              { return Members{} }
func (*emptyCluster) Ring(bool) Ring                                { return Ring{} }
func (*emptyCluster) Hot() Hot                                      { return Hot{} }
func (*emptyCluster) Locate(space, key string, _ []string) Location { return Location{} }

// A client that loops over a list need not ask whether it is there.
//
// Mutant killed: list returns its argument.
func TestAbsentListsAreEmpty(t *testing.T) {
	for target, field := range map[string]string{"members": "members", "ring": "members", "locate/a/b": "next", "hot": "hot", "hot?": "top"} {
		request := httptest.NewRequest("GET", "/api/v1/"+target, nil)
		request.Host = "localhost"
		recorder := httptest.NewRecorder()
		Handler(local, &emptyCluster{}, slog.New(slog.DiscardHandler)).ServeHTTP(recorder, request)
		var body map[string]any
		if err := json.Unmarshal(recorder.Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(body[field], []any{}) {
			t.Errorf("%s: %s is %v, want []", target, field, body[field])
		}
	}
}

// Keys are often personal data, and a wrong token is often a right one of
// something else.
func TestTheLogHasNoKeysAndNoTokens(t *testing.T) {
	var out bytes.Buffer
	config := local
	config.Tokens = []string{token}
	handler := Handler(config, &threeNodes{}, slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	send := func(method, target, host, authorization string) {
		request := httptest.NewRequest(method, target, nil)
		request.Host = host
		request.Header.Set("Authorization", authorization)
		handler.ServeHTTP(httptest.NewRecorder(), request)
	}
	send("GET", "/api/v1/locate?space=order&key=private-key", "localhost", "Bearer "+token)
	send("GET", "/api/v1/locate?space=order&key=private-key", "localhost", "Bearer private-token")
	send("GET", "/api/v1/locate/order/private-key", "evil.example", "")
	send("POST", "/api/v1/drain", "localhost", "Bearer "+token)
	for _, secret := range []string{"private", token} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the log holds %q:\n%s", secret, &out)
		}
	}
	for _, event := range []string{"no valid token", "host not allowed", "admin: drain"} {
		if !strings.Contains(out.String(), event) {
			t.Errorf("the log does not hold %q:\n%s", event, &out)
		}
	}
}

// Mutants killed: a node in its ring is drained; one that still owns is; one
// that is alone is not.
func TestDrained(t *testing.T) {
	done := Status{DrainingSince: &joined, Members: 2}
	alone := Status{DrainingSince: &joined, Members: 1, InRing: true, Owned: 4096}
	for _, test := range []struct {
		name   string
		base   Status
		change func(*Status)
		want   bool
	}{
		{"done", done, func(*Status) {}, true},
		{"not draining", done, func(s *Status) { s.DrainingSince = nil }, false},
		{"in the ring", done, func(s *Status) { s.InRing = true }, false},
		{"owns", done, func(s *Status) { s.Owned = 1 }, false},
		{"waiting", done, func(s *Status) { s.Waiting = 1 }, false},
		{"running", done, func(s *Status) { s.Running = 1 }, false},
		{"alone", alone, func(*Status) {}, true},
		{"alone, running", alone, func(s *Status) { s.Running = 1 }, false},
	} {
		status := test.base
		test.change(&status)
		if have := status.Drained(); have != test.want {
			t.Errorf("%s: got %t", test.name, have)
		}
	}
}

// The same over a real server, whose parser sees the request first.
func TestOverHTTP(t *testing.T) {
	cluster := &threeNodes{}
	config := Config{Tokens: []string{token}, AllowedHosts: []string{"127.0.0.1"}}
	server := httptest.NewServer(Handler(config, cluster, slog.New(slog.DiscardHandler)))
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/api/v1/locate/order/a%2F%2Fb", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var location Location
	if err := json.NewDecoder(response.Body).Decode(&location); err != nil || location.Key != "a//b" || location.Owner != "lk-1" {
		t.Errorf("got %+v, %v", location, err)
	}
}
