package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lanekeeper/admin"
)

// blocking is a service that answers a request when it is told to.
type blocking struct {
	*httptest.Server
	mu   sync.Mutex // guards gate
	gate chan struct{}
}

func newBlocking(t *testing.T) *blocking {
	b := &blocking{gate: make(chan struct{})}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		b.mu.Lock()
		gate := b.gate
		b.mu.Unlock()
		select {
		case <-gate:
		case <-r.Context().Done():
		}
		w.Write(body) //nolint:errcheck // the test will see
	}))
	t.Cleanup(func() { b.open(); b.Close() })
	return b
}

// open answers all that is there.
func (b *blocking) open() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.gate)
	b.gate = make(chan struct{})
}

// get asks a node's admin API.
func (c *testCluster) get(i int, path string, into any) (status int) {
	c.t.Helper()
	response, err := http.Get(c.admins[i] + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		c.t.Fatalf("%s: %v", path, err)
	}
	return response.StatusCode
}

func (c *testCluster) cli(t *testing.T, code int, want string, args ...string) {
	t.Helper()
	got, out, errs := runArgs(t, args...)
	if got != code || !strings.Contains(out+errs, want) {
		t.Errorf("%s: got %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, want, out, errs)
	}
}

// What one node is asked, the cluster answers: of a key that the first node owns, whose requests come
// by the second, and of which an operator asks the third. He sees who waits for what, takes one
// out, stops the lane and lets it go on; and he drains another node, and sets its log level.
func TestAnyNodeAnswersForTheCluster(t *testing.T) {
	service := newBlocking(t)
	c := startMembers(t, 3, service.URL, "")
	key := c.keysOf(t, 0, 1)[0]
	name := "order/" + key
	target := c.targets[1] + "/orders/" + key + "/x"
	page := func() (p admin.LanePage) {
		t.Helper()
		c.get(2, "/api/v1/lanes/order/"+key, &p)
		return p
	}
	var answers []<-chan string
	for i := range 3 {
		answers = append(answers, post(target, string("abc"[i])))
		c.await("a request to take its place", func() bool { return len(page().Tickets) == i+1 })
	}

	p := page()
	if p.Node != "n1" || p.Owner != "n1" || p.State != admin.StateOK || p.Waiting != 2 || p.Running != 1 || len(p.Silent) != 0 {
		t.Errorf("the page: %+v", p)
	}
	for i, k := range p.Tickets {
		if state := []string{"running", "waiting", "waiting"}[i]; k.State != state || k.Position != i || k.Ingress != "n2" || k.Client != "127.0.0.1" || k.Route != "order" || k.Class != "exclusive" || k.Age <= 0 {
			t.Errorf("ticket %d: %+v", i, k)
		}
	}
	var lanes admin.Lanes
	if c.get(2, "/api/v1/lanes", &lanes); len(lanes.Lanes) != 1 || lanes.Lanes[0].Node != "n1" || lanes.Lanes[0].Waiting != 2 || lanes.Total != 1 {
		t.Errorf("lanes: %+v", lanes)
	}
	if c.get(2, "/api/v1/lanes?node=n2", &lanes); len(lanes.Lanes) != 0 || lanes.Node != "n2" {
		t.Errorf("lanes of n2: %+v", lanes)
	}
	var why admin.Why
	if c.get(2, "/api/v1/why/order/"+key, &why); why.Owner != "n1" || why.Node != "n3" || why.Waiting != 2 || len(why.Reasons) != 1 || why.Reasons[0].Code != admin.WhyUpstream || why.Reasons[0].Node != "n1" || why.Head.Ticket != p.Tickets[0].Ticket {
		t.Errorf("why: %+v", why)
	}
	c.cli(t, exitOK, "has been at its upstream app for", "why", name, "--admin", c.admins[2])

	// One request is taken out: those around it stay.
	c.cli(t, exitNegative, "has its turn", "lanes", "cancel", name, "--ticket", p.Tickets[0].Ticket, "--admin", c.admins[2])
	c.cli(t, exitNegative, "no such ticket", "lanes", "cancel", name, "--ticket", strings.Replace(p.Tickets[0].Ticket, "-7", "-6", 1), "--admin", c.admins[2])
	c.cli(t, exitOK, "is taken out of "+name+" at n1", "lanes", "cancel", name, "--ticket", p.Tickets[1].Ticket, "--admin", c.admins[2])
	if got := <-answers[1]; !strings.HasPrefix(got, "503 ") || !strings.Contains(got, "lane-cancelled") || !strings.Contains(got, `"executed":"no"`) {
		t.Errorf("cancelled: %s", got)
	}

	// A lane that is held begins nothing, and says so.
	c.cli(t, exitOK, "nothing begins in "+name+" any more, at n1", "lanes", "hold", name, "--reason", "by hand", "--admin", c.admins[2])
	c.cli(t, exitNegative, "an operator holds the lane already", "lanes", "hold", name, "--admin", c.admins[1])
	service.open()
	if got := <-answers[0]; got != "200 a" {
		t.Errorf("what ran: %s", got)
	}
	c.await("the lane to stand still", func() bool { return page().Running == 0 })
	if p := page(); p.State != admin.StateHeld || p.Hold == nil || p.Hold.Reason != "by hand" || p.Waiting != 1 || p.Tickets[0].State != "waiting" {
		t.Errorf("held: %+v", p)
	}
	c.cli(t, exitOK, "An operator holds the lane for", "why", name, "--admin", c.admins[1])
	c.cli(t, exitOK, "by hand", "lanes", "list", "--stopped", "--admin", c.admins[1])
	c.cli(t, exitOK, name+" is released at n1", "lanes", "release", name, "--admin", c.admins[1])
	c.await("the last one to run", func() bool { return page().Running == 1 })
	service.open()
	if got := <-answers[2]; got != "200 c" {
		t.Errorf("released: %s", got)
	}
	c.cli(t, exitNegative, "not held", "lanes", "release", name, "--admin", c.admins[1])
	c.await("the lane to be gone", func() bool { return page().State == admin.StateIdle })
	c.cli(t, exitNegative, "Nothing stops it", "why", name, "--admin", c.admins[1])
	var events admin.Events
	c.get(1, "/api/v1/events", &events)
	for _, kind := range []string{"lane-held", "lane-released", "request-cancelled"} {
		if !slices.ContainsFunc(events.Events, func(e admin.Event) bool { return e.Event == kind && e.Node == "n1" }) {
			t.Errorf("no event %s of n1", kind)
		}
	}

	// What is another node's to do is carried there.
	c.cli(t, exitOK, "n2 logs debug", "loglevel", "debug", "--for", "1m", "--node", "n2", "--admin", c.admins[0])
	var status admin.Status
	if c.get(0, "/api/v1/status?node=n2", &status); status.Node != "n2" || status.LogLevel != "debug" || status.Nodes != nil {
		t.Errorf("n2: %+v", status)
	}
	c.cli(t, exitNegative, "no live member", "loglevel", "debug", "--node", "n9", "--admin", c.admins[0])
	c.cli(t, exitOK, "draining n2", "drain", "--wait", "--node", "n2", "--admin", c.admins[0])
	c.cli(t, exitOK, "n2 takes partitions again", "undrain", "--node", "n2", "--admin", c.admins[0])
	var config admin.Configuration
	if c.get(0, "/api/v1/config?node=n3", &config); config.Node != "n3" || !slices.ContainsFunc(config.Settings, func(s admin.Setting) bool {
		return s.Path == "node.name" && s.Value == "n3" && strings.Contains(s.Origin, "n3.yaml:")
	}) {
		t.Errorf("the configuration of n3: %+v", config)
	}
}

// Who does not answer is named, in about a second, and the others are heard.
func TestWhoIsSilentIsNamed(t *testing.T) {
	c := startMembers(t, 3, newBlocking(t).URL, "")
	var status admin.Status
	c.get(0, "/api/v1/status", &status)
	if len(status.Nodes) != 3 || len(status.Silent) != 0 || status.Numbers.Members != 3 || status.Numbers.Answered != 3 || status.Numbers.Ready != 3 {
		t.Fatalf("all are there: %+v", status)
	}
	c.nodes[2].signal(syscall.SIGSTOP)
	defer c.nodes[2].signal(syscall.SIGCONT)
	began := time.Now()
	status = admin.Status{}
	c.get(0, "/api/v1/status", &status)
	if took := time.Since(began); took > 1500*time.Millisecond || len(status.Nodes) != 2 || len(status.Silent) != 1 || status.Silent[0].Node != "n3" || status.Numbers.Answered != 2 {
		t.Errorf("after %s: %+v, %d nodes", took, status.Silent, len(status.Nodes))
	}
	c.cli(t, exitOK, "n3 did not answer", "status", "--admin", c.admins[0])

	// How fast each of the others answers is known a second after it is connected, and of oneself never.
	c.await("the round trip to n2", func() bool {
		var members admin.Members
		c.get(0, "/api/v1/members", &members)
		for _, m := range members.Members {
			if m.Name == "n1" && m.RTT != nil {
				t.Fatalf("n1 to itself: %v", *m.RTT)
			}
			if m.Name == "n2" && m.RTT != nil && *m.RTT > 0 && *m.RTT < 1 {
				return true
			}
		}
		return false
	})
}

// A dashboard gets all there is first, and then each second what is new, of all nodes.
func TestOneStreamForTheDashboard(t *testing.T) {
	c := startMembers(t, 3, newBlocking(t).URL, "")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.admins[2]+"/api/v1/events?stream=status,lanes,events", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "text/event-stream")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	seen := make(map[string]int)
	nodes := make(map[string]bool)
	name, held := "", false
	for lines.Scan() && seen[admin.BoardStatus] < 3 && !(held && seen[admin.BoardStatus] > 1) {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "event":
			name = value
			seen[name]++
		case "data":
			switch name {
			case admin.BoardStatus:
				var n admin.Numbers
				if err := json.Unmarshal([]byte(value), &n); err != nil || n.Answered != 3 || n.Members != 3 {
					t.Errorf("status: %v %s", err, value)
				}
			case admin.BoardEvent:
				var e admin.Event
				if err := json.Unmarshal([]byte(value), &e); err != nil {
					t.Errorf("event: %v %s", err, value)
				}
				nodes[e.Node] = true
				held = held || e.Event == "lane-held"
			}
			if name == admin.BoardLanes && seen[name] == 1 {
				key := c.keysOf(t, 0, 1)[0] // of n1: its event comes by a fan-out
				c.cli(t, exitOK, "nothing begins", "lanes", "hold", "order/"+key, "--admin", c.admins[1])
			}
		}
	}
	if seen[admin.BoardMembers] != 1 || seen[admin.BoardRing] != 1 || seen[admin.BoardStatus] < 2 || seen[admin.BoardLanes] < 1 || len(nodes) != 3 || !held {
		t.Errorf("seen %v of %v, held %v", seen, nodes, held)
	}
}
