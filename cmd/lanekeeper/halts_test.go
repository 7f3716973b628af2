package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"lanekeeper/admin"
	"lanekeeper/ownership"
)

// newFailingUpstream is a service that fails every request whose body says so.
func newFailingUpstream(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) == "fail" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		w.Write(body) //nolint:errcheck // the test will see
	}))
	t.Cleanup(server.Close)
	return server
}

// A halted lane, as operators see it and let it go on: here, and after a planned move at its
// new owner, who has run nothing of it. What waited is answered not executed, and the move does not
// wait for it.
//
// Mutants killed: halts do not travel; that nothing is halted is not said, or not of the whole partition;
// a node does not look at who the owner is, or at the ticket.
func TestAHaltMovesWithItsPartition(t *testing.T) {
	c := startMembers(t, 2, newFailingUpstream(t).URL, "")
	key := c.keysOfSpace(t, "halting", 0, 1)[0]
	name := "halting/" + key
	halt := func() string {
		t.Helper()
		if got := <-post(c.targets[1]+"/"+name, "fail"); got != "503 fail" {
			t.Fatalf("got %s", got)
		}
		return c.locates(key).Lane.Halt.Ticket
	}
	waits := func(n float64) <-chan string {
		t.Helper()
		answer := post(c.targets[1]+"/"+name, "later")
		c.await("the request to wait", func() bool { return c.metric(0, `lanekeeper_queued_requests{route="halting"}`) == n })
		return answer
	}
	expect := func(args string, code int, want string) {
		t.Helper()
		got, out, errs := runArgs(t, strings.Fields("lanes "+args)...)
		if got != code || !strings.Contains(out+errs, want) {
			t.Errorf("lanes %s: got %d, want %d and %q\n%s%s", args, got, code, want, out, errs)
		}
	}

	ticket := halt()
	expect("list --admin "+c.admins[1], exitOK, ticket+"  the upstream answered 503\n1 lane, 1 stopped\n")
	other := strings.Replace(ticket, "-7", "-6", 1)
	expect("resume "+name+" --ticket "+other+" --admin "+c.admins[1], exitNegative, "by ticket "+ticket)
	first, second := waits(1), waits(2)
	expect("skip "+name+" --reason looked-at --ticket "+ticket+" --admin "+c.admins[0], exitOK, "after ticket "+ticket+" halted it, without 1 request\n")
	if got := <-first; !strings.HasPrefix(got, "503 ") || !strings.Contains(got, "lane-cancelled") || !strings.Contains(got, `"executed":"no"`) {
		t.Errorf("skipped: %s", got)
	}
	if got := <-second; got != "200 later" {
		t.Errorf("behind it: %s", got)
	}
	expect("skip "+name+" --admin "+c.admins[0], exitNegative, "not halted")

	ticket = halt()
	third := waits(1)
	if code, _, errs := runArgs(t, "drain", "--wait", "--timeout", "20s", "--admin", c.admins[0]); code != exitOK {
		t.Fatalf("drain: %d\n%s", code, errs)
	}
	if got := <-third; !strings.HasPrefix(got, "503 ") || !strings.Contains(got, "ownership-moved") || !strings.Contains(got, `"executed":"no"`) {
		t.Errorf("what waited: %s", got)
	}
	// The old owner is done when it has given everything away, the new one when that has come.
	c.await("the halt to come", func() bool { return c.metric(1, `lanekeeper_halted_lanes{route="halting"}`) == 1 })
	expect("list --node n1 --admin "+c.admins[1], exitOK, "0 lanes, 0 stopped\n")
	expect("list --admin "+c.admins[0], exitOK, ticket+"  the upstream answered 503\n1 lane, 1 stopped\n")
	if code, out, _ := runArgs(t, "events", "-o", "json", "--admin", c.admins[1]); code != exitOK || !strings.Contains(out, `"lane-halted"`) {
		t.Errorf("events: %d", code)
	}
	fourth := post(c.targets[0]+"/"+name, "later")
	c.await("the request to wait at the new owner", func() bool { return c.metric(1, `lanekeeper_queued_requests{route="halting"}`) == 1 })
	if n := c.metric(1, `lanekeeper_halted_lanes{route="halting"}`) + 2*c.metric(0, `lanekeeper_halted_lanes{route="halting"}`); n != 1 {
		t.Errorf("lanekeeper_halted_lanes: %v", n)
	}
	expect("resume "+name+" --ticket "+ticket+" --admin "+c.admins[1], exitOK, "goes on at n2")
	if got := <-fourth; got != "200 later" {
		t.Errorf("after the move: %s", got)
	}

	// Back again: what was halted there before was ended here.
	if code, _, errs := runArgs(t, "undrain", "--admin", c.admins[0]); code != exitOK {
		t.Fatalf("undrain: %d\n%s", code, errs)
	}
	c.await("the key to come back", func() bool { return c.locates(key).Owner == "n1" })
	if got := <-post(c.targets[0]+"/"+name, "later"); got != "200 later" {
		t.Errorf("back again: %s", got)
	}
}

// locates asks the first node for a key of route halting.
func (c *testCluster) locates(key string) (l admin.Location) {
	c.t.Helper()
	response, err := http.Get(c.admins[0] + "/api/v1/locate?space=halting&key=" + key)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&l); err != nil {
		c.t.Fatal(err)
	}
	return l
}

func TestLanesCommand(t *testing.T) {
	cluster := newFakeCluster()
	left := 1.5
	cluster.lanes = admin.Lanes{Node: "lk-0", Total: 3, Lanes: []admin.LaneRow{
		{Space: "order", Key: "A 1", Route: "orders", State: admin.StateHalted, Held: true, Ticket: "0197", Cause: "upstream-timeout", Seconds: 75, Waiting: 3},
		{Space: "order", Key: "B", Route: "orders", State: admin.StateHeld, Held: true, Ticket: "0198", Seconds: 2, HeldLeft: &left},
	}}
	cluster.relieved = admin.Relieved{Node: "lk-0", Ticket: "0197", Cause: "upstream-timeout", Seconds: 75, Cancelled: 3}
	address := cluster.serve(t)
	code, out, errs := runArgs(t, "lanes", "list", "--admin", address)
	if want := lines(`
SPACE/KEY    NODE  ROUTE   STATE           FOR    WAITING  TICKET  CAUSE
order/A%201  lk-0  orders  halted, held    1m15s  3        0197    upstream-timeout
order/B      lk-0  orders  held, 1.5s left  2s     0        0198    –
`); code != exitOK || squeeze(out) != squeeze(want) || errs != "2 lanes, 2 stopped; 1 more are not shown\n" {
		t.Errorf("list: %d\n%s%s", code, out, errs)
	}
	const ticket = "0197a3c8-7c1e-7a40-8000-4b1d2f6a9c03"
	code, out, errs = runArgs(t, "lanes", "fail", "order:A%201", "--ticket", ticket, "--reason", "by hand", "--admin", address)
	if code != exitOK || out != "" || errs != "order/A%201 goes on at lk-0, 1m15s after ticket 0197 halted it, without 3 requests\n" {
		t.Errorf("fail: %d\n%s%s", code, out, errs)
	}
	if want := (admin.Relief{Action: "fail", Ticket: ticket, Reason: "by hand"}); cluster.relief != want || cluster.asked[0] != "order/A 1" {
		t.Errorf("asked for %+v of %q", cluster.relief, cluster.asked)
	}
	if code, out, _ = runArgs(t, "lanes", "resume", "order/B", "-o", "json", "--admin", address); code != exitOK || !strings.Contains(out, `"action": "resume"`) {
		t.Errorf("json: %d\n%s", code, out)
	}
	for refuses, want := range map[error]string{
		admin.ErrNotHalted: "lanekeeper: the key's lane is not halted at this node\n",
		admin.ErrOtherHalt: "lanekeeper: another ticket than the given one halted the lane\n",
	} {
		cluster.refuses = refuses
		if code, out, errs = runArgs(t, "lanes", "skip", "order/B", "--admin", address); code != exitNegative || out != "" || errs != want {
			t.Errorf("%v: %d\n%s%s", refuses, code, out, errs)
		}
	}
	for args, want := range map[string]int{
		"lanes skip": exitUsage, "lanes skip order": exitUsage, "lanes halt order/7": exitUsage, "lanes cancel order/7": exitUsage, "lanes list order/7": exitUsage,
		"lanes list --admin 127.0.0.1:1": exitAdmin, "lanes resume order/7 --ticket 7 --admin " + address: exitFailure,
	} {
		if code, _, _ := runArgs(t, strings.Fields(args)...); code != want {
			t.Errorf("%s: got %d, want %d", args, code, want)
		}
	}
}

// memo is a state that is its text.
type memo struct {
	text string
	got  *[]string
}

func (m memo) version() uint8 { return 3 }
func (m memo) lasts() bool    { return m.text == "records" }
func (m memo) export(p int, except []string) []byte {
	if m.text == "" {
		return nil
	}
	return fmt.Append(nil, m.text, p, except)
}
func (m memo) exportKey(p int, key string) []byte { return fmt.Append(nil, m.text, p, key) }
func (m memo) accept(p int, version uint8, data []byte) {
	*m.got = append(*m.got, fmt.Sprint(m.text, p, version, string(data)))
}

// Mutants killed: they are in any order; kinds that are not known are given to nobody's hands; what says nothing is a
// section; marks that are older are taken.
func TestSectionsGoToWhomTheyAreFor(t *testing.T) {
	var got []string
	s := sections{sectionMarks: memo{"marks", &got}, sectionRecords: memo{"records", &got}, sectionHalts: memo{"", &got}}
	want := []ownership.Section{{Kind: 1, Version: 3, Data: []byte("records7 [k]")}, {Kind: 3, Version: 3, Data: []byte("marks7 [k]")}}
	if have := s.Export(7, []string{"k"}); !reflect.DeepEqual(have, want) {
		t.Errorf("Export: %v", have)
	}
	if have := s.ExportKey(7, "k"); len(have) != 3 || have[1].Kind != sectionHalts {
		t.Errorf("ExportKey: %v", have)
	}
	s.Import(8, append(want, ownership.Section{Kind: 9, Data: []byte("of a later version")}), false)
	if fmt.Sprint(got) != "[records8 3records7 [k] marks8 3marks7 [k]]" {
		t.Errorf("Import: %q", got)
	}
	got = nil
	s.Import(8, want, true)
	if fmt.Sprint(got) != "[records8 3records7 [k]]" {
		t.Errorf("Import of what is older: %q", got)
	}
}
