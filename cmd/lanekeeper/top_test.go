package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"lanekeeper/admin"
)

// busyCluster is a fake one with hot keys.
func busyCluster() *fakeCluster {
	since := time.Now().Add(-41*time.Second - 100*time.Millisecond)
	c := newFakeCluster()
	c.statuses = []admin.Status{{
		Node: "lk-0", Version: "1.4.0", Cluster: "prod", Ready: true, InRing: true, Members: 3, Owned: 1365, RingVersion: 88,
		Lanes: 9, Waiting: 73, Running: 4, Held: 1, Hot: 2, Halted: 3, Rate: 12.3, Violations: 2, OldestWait: 1.5,
		LaneWait: admin.NewLatencies([]admin.Bucket{{Above: 0.002, LE: 0.002, Count: 98}, {Above: 0.412, LE: 0.412, Count: 2}}),
		Upstream: admin.NewLatencies([]admin.Bucket{{Above: 0.009, LE: 0.009, Count: 98}, {Above: 0.061, LE: 0.061, Count: 2}}),
	}}
	c.hot = admin.Hot{
		Node: "lk-0", TopSeconds: 10,
		Hot: []admin.HotKey{
			{Space: "order", Key: "A-1042", Route: "orders", Action: "shed", Since: since, Depth: 57, Rate: 41.4, ServiceSeconds: 0.02, WaitSeconds: 1.16},
			{Space: "account", Key: "77", Route: "pay", Action: "none", Since: since, Depth: 12, Rate: 9, ServiceSeconds: 0.5, WaitSeconds: 6.5},
		},
		Top: []admin.TopKey{{Space: "order", Key: "B %", Route: "orders", Count: 1000, Error: 10}},
	}
	return c
}

// Mutants killed: what is asked is not the node's status; the draining are not
// counted; bars as long as the depth; the order is not passed on; warnings among the
// rows; JSON that lacks a part; a screen is drawn though nobody looks.
func TestTopOnce(t *testing.T) {
	address := busyCluster().serve(t)
	for _, test := range []struct{ args, want string }{
		{"--once", `
lanekeeper 1.4.0  prod: 3 members, 1 draining  ring v88  12/s  violations 2
ready  queued 73 in 9 lanes  running 4  held 1  hot 2  halted 3
wait p50 2ms p99 412ms │ upstream p50 9ms p99 61ms │ oldest wait 1.5s
SPACE/KEY      NODE  ROUTE   DEPTH       RATE    WAIT  STATE     SINCE
order/A-1042   lk-0  orders  ████████57  41/s    1.2s  hot→shed  41s
account/77     lk-0  pay     ██12        9.0/s   6.5s  hot       41s
order/B%20%25  lk-0  orders  0           ≤100/s  –     ok        –
`},
		{"--no-headers --sort rate", `
order/B%20%25  lk-0  orders  0           ≤100/s  –     ok        –
order/A-1042   lk-0  orders  ████████57  41/s    1.2s  hot→shed  41s
account/77     lk-0  pay     ██12        9.0/s   6.5s  hot       41s
`},
	} {
		code, out, errs := runArgs(t, strings.Fields("top --admin "+address+" "+test.args)...)
		if warning := "! the order was seen broken 2 times\n! lk-2 runs another config than lk-0: the same request may get another key there\n"; code != exitOK || errs != warning {
			t.Errorf("%s: got %d, %q, want %q", test.args, code, errs, warning)
		}
		if out != lines(test.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", test.args, out, test.want)
		}
	}
	code, out, errs := runArgs(t, "top", "--admin", address, "-o", "json")
	var all struct {
		Status  admin.Status
		Members admin.Members
		Hot     admin.Hot
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != exitOK || errs != "" {
		t.Errorf("json: got %d, %v, %q: %s", code, err, errs, out)
	}
	if all.Status.Waiting != 73 || len(all.Members.Members) != 4 || len(all.Hot.Hot) != 2 {
		t.Errorf("json: got %+v", all)
	}
	for args, want := range map[string]int{"top --sort name": exitUsage, "top x": exitUsage, "top --every 1ms": exitUsage, "top --admin 127.0.0.1:1": exitAdmin} {
		if code, out, _ := runArgs(t, strings.Fields(args)...); code != want || out != "" {
			t.Errorf("%s: got %d, %q, want %d", args, code, out, want)
		}
	}
}

func TestTopOnceSaysWhatIsWrong(t *testing.T) {
	c := newFakeCluster()
	drains := time.Now().Add(-3 * time.Minute)
	c.members = admin.Members{Node: "lk-0"}
	for _, test := range []struct {
		status admin.Status
		want   string
		errs   string
	}{
		{admin.Status{Node: "lk-0", Ready: true, Members: 1}, "ready", ""},
		{admin.Status{Node: "lk-0", NotReady: []string{"gossip: alone"}}, "not ready", "! lk-0 is not ready: gossip: alone\n"},
		{admin.Status{Node: "lk-0", DrainingSince: &drains}, "draining for 3m", ""},
	} {
		c.statuses = []admin.Status{test.status}
		_, out, errs := runArgs(t, "top", "--once", "--admin", c.serve(t))
		all := strings.Split(out, "\n")
		if want := "lanekeeper   without a cluster  0.0/s  violations 0"; all[0] != want || !strings.HasPrefix(all[1], test.want+"  queued 0 in 0 lanes") || errs != test.errs {
			t.Errorf("got\n%s%s\nwant %s, %q", out, errs, test.want, test.errs)
		}
	}
}

// screen is a model whose node answers what the test says.
type screen struct {
	*top
	t     *testing.T
	next  *overview
	err   error
	asked int
}

func newScreen(t *testing.T) *screen {
	c := busyCluster()
	c.hot.Top[0].Key = "B%20%25" // as the API has it
	s := &screen{t: t, next: &overview{status: c.Status(), members: c.members, hot: c.hot, at: time.Now()}}
	s.top = &top{every: time.Millisecond, order: "depth", ctx: t.Context(), ask: func(context.Context) (*overview, error) {
		s.asked++
		return s.next, s.err
	}}
	s.take(s.next)
	s.send(tea.WindowSizeMsg{Width: 90, Height: 12})
	return s
}

// send delivers a message and what its commands come to, but for the next tick.
func (s *screen) send(msg tea.Msg) (quits bool) {
	_, cmd := s.Update(msg)
	return s.do(cmd)
}

func (s *screen) do(cmd tea.Cmd) (quits bool) {
	if cmd == nil {
		return false
	}
	switch msg := cmd().(type) {
	case tea.BatchMsg:
		for _, cmd := range msg {
			quits = s.do(cmd) || quits
		}
	case tea.QuitMsg:
		return true
	case looked:
		return s.send(msg)
	case tick, nil:
	default:
		s.t.Errorf("a command came to %T", msg)
	}
	return quits
}

func (s *screen) press(keys ...string) (quits bool) {
	for _, key := range keys {
		msg := tea.KeyPressMsg{Code: []rune(key)[0], Text: key}
		switch key {
		case "enter":
			msg = tea.KeyPressMsg{Code: tea.KeyEnter}
		case "esc":
			msg = tea.KeyPressMsg{Code: tea.KeyEscape}
		case "backspace":
			msg = tea.KeyPressMsg{Code: tea.KeyBackspace}
		case "ctrl+c", "ctrl+u":
			msg = tea.KeyPressMsg{Code: rune(key[5]), Mod: tea.ModCtrl}
		}
		quits = s.send(msg) || quits
	}
	return quits
}

// keys are those on the screen, from the top.
func (s *screen) keys() string {
	return fmt.Sprint(regexp.MustCompile(`(?m)^(order|account)/\S+`).FindAllString(s.View().Content, -1))
}

func (s *screen) mustShow(what, want string) {
	s.t.Helper()
	if got := s.View().Content; !strings.Contains(got, want) {
		s.t.Errorf("%s: got\n%s\nwant %q in it", what, got, want)
	}
}

// Mutants killed: s goes one way only; the filter looks at keys alone; esc keeps it;
// a letter of the filter is a command; q does not end it, or does within a filter.
func TestTopTakesKeys(t *testing.T) {
	s := newScreen(t)
	for _, want := range []string{
		"[order/A-1042 account/77 order/B%20%25]", // depth
		"[order/B%20%25 order/A-1042 account/77]", // rate
		"[account/77 order/A-1042 order/B%20%25]", // wait
		"[order/A-1042 account/77 order/B%20%25]",
	} {
		if got := s.keys(); got != want {
			t.Errorf("by %s: got %s, want %s", s.order, got, want)
		}
		s.mustShow("help", "s sort: "+s.order)
		s.press("s")
	}
	s.order = "depth"
	for _, test := range []struct {
		keys []string
		want string
	}{
		{[]string{"/", "q", "u", "s", "backspace", "backspace", "backspace"}, "[order/A-1042 account/77 order/B%20%25]"},
		{[]string{"7"}, "[account/77]"},
		{[]string{"ctrl+u", "o", "r", "d", "e", "r", "s", "enter"}, "[order/A-1042 order/B%20%25]"}, // the route
		{[]string{"s", "s", "s"}, "[order/A-1042 order/B%20%25]"},                                   // of what is left
		{[]string{"/", "/", "A"}, "[]"},
		{[]string{"esc"}, "[order/A-1042 account/77 order/B%20%25]"},
		{[]string{"/", "p", "a", "y", "enter", "esc"}, "[order/A-1042 account/77 order/B%20%25]"},
	} {
		if quits := s.press(test.keys...); quits || s.keys() != test.want {
			t.Errorf("%v: got %s, want %s; quits %v", test.keys, s.keys(), test.want, quits)
		}
	}
	s.press("/")
	s.send(tea.PasteMsg{Content: "a\x1b[2Jb\n"})
	if s.filter != "a?[2Jb?" {
		t.Errorf("pasted: %q", s.filter)
	}
	if !s.press("ctrl+c") || !s.press("esc", "q") {
		t.Error("it does not end")
	}
}

// Mutants killed: a look that fails ends it, or empties the screen; its error stays; a
// second look begins before the first has ended; the pause asks on, or takes what was
// under way; it is not over; the graph grows for ever.
func TestTopLooksAgain(t *testing.T) {
	s := newScreen(t)
	s.next = &overview{status: admin.Status{Node: "lk-0", Waiting: 146, Lanes: 1}, at: s.last.at}
	s.send(tick{})
	s.mustShow("another look", "queued 146 in 1 lane  running 0  held 0  hot 0  halted 0  ▄█")

	s.err = errors.New("no answer from \x1bhttp://a:1")
	if s.send(tick{}) {
		t.Error("a look that fails ends it")
	}
	s.mustShow("a failure", "! no answer from ?http://a:1; what follows is of ")
	s.mustShow("a failure", "queued 146")
	s.err = nil
	s.send(tick{})
	if strings.Contains(s.View().Content, "no answer") {
		t.Error("the failure stays")
	}

	s.asked = 0
	if s.look() == nil || s.look() != nil {
		t.Error("two looks at once, or none")
	}
	s.press(" ") // the look is under way
	s.send(looked{&overview{status: admin.Status{Waiting: 1}}, nil})
	s.send(tick{})
	s.mustShow("paused", "queued 146")
	s.mustShow("paused", "paused at "+s.last.at.Format(time.TimeOnly))
	if s.asked != 0 {
		t.Error("it asks while it is paused")
	}
	s.next = &overview{status: admin.Status{Waiting: 2}}
	s.press(" ")
	s.mustShow("unpaused", "queued 2 ")

	for range 1000 {
		s.send(tick{})
	}
	if len(s.waiting) != graphWidth {
		t.Errorf("the graph has %d columns", len(s.waiting))
	}
}

// A screen holds its size, whatever there is to show.
//
// Mutants killed: a line is not cut; the last row is not replaced; the help goes over
// the edge.
func TestTopFitsTheTerminal(t *testing.T) {
	s := newScreen(t)
	for n := range 40 {
		s.next.hot.Top = append(s.next.hot.Top, admin.TopKey{Space: "order", Key: fmt.Sprint(strings.Repeat("x", 200), n), Count: 1})
	}
	for _, size := range []tea.WindowSizeMsg{{Width: 80, Height: 24}, {Width: 20, Height: 8}, {Width: 200, Height: 60}} {
		s.send(size)
		all := strings.Split(s.View().Content, "\n")
		if len(all) != size.Height {
			t.Errorf("%+v: %d lines", size, len(all))
		}
		for _, line := range all {
			if n := len([]rune(line)); n > size.Width {
				t.Errorf("%+v: %d columns: %s", size, n, line)
			}
		}
		shown := strings.Count(s.View().Content, "\norder/") + strings.Count(s.View().Content, "\naccount/")
		if more := fmt.Sprintf("… %d more", 43-shown); (shown < 43) != strings.Contains(s.View().Content, more) {
			t.Errorf("%+v: %d keys are shown, and no %q", size, shown, more)
		}
	}
}

// Whatever a node says, nothing but our own colours moves the terminal.
//
// Mutants killed: any printable that is taken away; colours although nobody wants
// them.
func TestTopShowsNoEscapes(t *testing.T) {
	const evil = "x\x1b]52;c;aGk=\a\u009b2J\r\n\u202ey"
	for _, coloured := range []bool{true, false} {
		s := newScreen(t)
		s.coloured = coloured
		s.next = &overview{
			status: admin.Status{Node: evil, Version: evil, Cluster: evil, NotReady: []string{evil}},
			members: admin.Members{Node: evil, MinMembers: 3, Members: []admin.Member{
				{Name: evil, Config: "a", State: admin.StateAlive}, {Name: evil + "2", Config: "b", State: admin.StateAlive},
			}},
			hot: admin.Hot{
				Node: evil,
				Hot:  []admin.HotKey{{Space: evil, Key: evil, Route: evil, Action: evil}},
				Top:  []admin.TopKey{{Space: evil, Key: "2" + evil, Route: evil}},
			},
		}
		s.send(tick{})
		s.failure = errors.New(evil)
		s.send(tea.WindowSizeMsg{Width: 500, Height: 30})
		s.press("/", "x")
		content := s.View().Content
		ours := regexp.MustCompile("\x1b\\[(33|31|0)m")
		if ours.MatchString(content) != coloured {
			t.Errorf("coloured: %v, want %v", !coloured, coloured)
		}
		if coloured {
			content = ours.ReplaceAllString(content, "")
		}
		for line := range strings.SplitSeq(content, "\n") {
			if line != printable(line) {
				t.Errorf("%q", line)
			}
		}
	}
}

// The whole on a terminal of sorts, as somebody would use it.
//
// Mutant killed: space is not what the library calls it.
func TestTopLive(t *testing.T) {
	s := newScreen(t)
	in, keys := io.Pipe()
	defer keys.Close() // who reads it cannot be told to stop
	var out bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		ended <- s.live(t.Context(), tea.WithInput(in), tea.WithOutput(&out), tea.WithWindowSize(90, 12), tea.WithEnvironment([]string{"TERM=xterm"}))
	}()
	for _, key := range []string{" ", "q"} {
		if _, err := io.WriteString(keys, key); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !s.paused || !strings.Contains(out.String(), "order/A-1042") {
		t.Errorf("paused %v, drawn %q", s.paused, out.String())
	}
}

// Mutants killed: a node's keys do not get into top; nor what waits.
func TestTopOfANode(t *testing.T) {
	u := newHoldingUpstream(t)
	p := serveProcess(t, u.URL, "defaults: {lane: {hot: {depth: 2, busy: 0, for: 100ms, cool_after: 1m}}}\n")
	answers := []<-chan string{post(p.address+"/orders/%1B%5B2J", "x")}
	u.next(t)
	for range 2 {
		answers = append(answers, post(p.address+"/orders/%1B%5B2J", "y"))
	}
	p.log("key is hot")
	code, out, errs := runArgs(t, "top", "--admin", p.admin)
	all := strings.Split(out, "\n")
	if code != exitOK || len(all) < 5 {
		t.Fatalf("got %d: %s%s", code, out, errs)
	}
	if want := "ready  queued 2 in 1 lane  running 1  held 0  hot 1  halted 0"; all[1] != want {
		t.Errorf("got %q, want %q", all[1], want)
	}
	if row := strings.Fields(all[4]); len(row) != 8 || row[0] != "order/%1B[2J" || row[2] != "order" || row[3] != "████████2" || row[6] != "hot" {
		t.Errorf("got %q", all[4])
	}
	for range answers {
		u.release <- struct{}{}
	}
	for _, a := range answers {
		if got := <-a; !strings.HasPrefix(got, "200 ") {
			t.Errorf("got %s", got)
		}
	}
}
