package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lanekeeper/admin"
)

// talkative is a fake cluster with something in each answer.
func talkative() *fakeCluster {
	c := newFakeCluster()
	left := 22.0
	c.page = admin.LanePage{
		LaneRow: admin.LaneRow{Node: "lk-1", State: admin.StateHeld, Waiting: 1}, Owner: "lk-1",
		Tickets: []admin.LaneTicket{
			{Ticket: "0196", State: "held", Seconds: 31, Age: 40, Class: "exclusive", Route: "orders", Ingress: "lk-0", Client: "203.0.113.9", HeldLeft: &left, Trace: "4bf9"},
			{Ticket: "0197", Position: 1, State: "waiting", Seconds: 2, Age: 2, Class: "shared", Route: "orders", Ingress: "lk-2"},
		},
	}
	c.why = admin.Why{
		Node: "lk-0", Owner: "lk-1", Partition: 417, Of: 4096, Epoch: 5, LaneState: admin.StateHeld, Waiting: 1,
		Reasons: []admin.Reason{{Code: admin.WhyHold, Ticket: "0196", Seconds: 31, Left: &left, Who: []string{"app"}, Text: "It is held.", Advice: "Release it."}},
	}
	c.statuses = []admin.Status{{
		Node: "lk-0", Version: "1.4.0", Config: "9f31c2", Cluster: "prod", Ready: true, Members: 3, Owned: 1365, Lanes: 4, Waiting: 12, Running: 3, Held: 1, Stopped: 1,
		Halted: 2, Hot: 1, OldestWait: 1.5, Rate: 41.2, LogLevel: "info", LaneWait: admin.NewLatencies([]admin.Bucket{{Above: .4, LE: .4, Count: 1}}),
	}}
	c.others = []string{"lk-1"}
	c.lanes = admin.Lanes{Lanes: []admin.LaneRow{{Space: "order", Key: "A-1042"}, {Space: "account", Key: "77"}}}
	return c
}

// Mutant seen red: operators' holds are not among HELD.
func TestStatusWhyAndLanesShow(t *testing.T) {
	c := talkative()
	address := c.serve(t)
	for _, test := range []struct {
		args      string
		code      int
		out, errs string
	}{
		{"status", exitOK, `
NODE  STATE      PARTITIONS  LANES  QUEUED  OLDEST  RUNNING  HELD  HALTED  HOT  REQ/S  WAIT   UPSTREAM
lk-0  ready      1365        4      12      1.5s    3        2     2       1    41/s   400ms  –
lk-1  no answer  –           –      –       –       –        –     –       –    –      –      –
`, "! lk-1 did not answer: the process is ending\n"},
		{"status --node lk-0 --no-headers -o wide", exitOK, `
lk-0  ready  1365  4  12  1.5s  3  2  2  1  41/s  400ms  –  0  9f31c2  1.4.0  info  –
`, ""},
		{"why order/7 --node lk-0", exitOK, `
order/7 is in partition 417 of 4096, which is lk-1's (epoch 5).
Its lane is held; 1 request waits.
It is held. Release it.
`, ""},
		{"why order/7 -o wide --no-headers --node lk-0", exitOK, "\nhold  lk-0  31s  22s  app  0196  It is held.  Release it.\n", ""},
		{"lanes show order/7 --node lk-0", exitOK, `
#  TICKET  STATE           FOR  AGE  CLASS      ROUTE   INGRESS  CLIENT
–  0196    held, 22s left  31s  40s  exclusive  orders  lk-0     203.0.113.9
1  0197    waiting         2s   2s   shared     orders  lk-2     –
`, "order/7 at lk-1: held, 1 waiting request\n"},
	} {
		code, out, errs := runArgs(t, strings.Fields(test.args+" --admin "+address)...)
		if code != test.code || squeeze(out) != squeeze(lines(test.out)) || errs != test.errs {
			t.Errorf("%s: got %d\n%s%s\nwant %d\n%s%s", test.args, code, out, errs, test.code, lines(test.out), test.errs)
		}
	}
	c.page, c.why = admin.LanePage{LaneRow: admin.LaneRow{Node: "lk-1", State: admin.StateIdle}}, admin.Why{LaneState: admin.StateIdle, Reasons: []admin.Reason{{Code: admin.WhyNothing, Text: "Nothing stops it."}}}
	for args, want := range map[string]int{
		"why order/7 --node lk-0": exitNegative, "lanes show order/7 --node lk-0": exitNegative, "why": exitUsage, "why order": exitUsage, "status x": exitUsage,
		"loglevel loud": exitUsage, "loglevel --for 1m": exitUsage, "status --node lk-9": exitNegative, "lanes list --limit -1": exitUsage,
	} {
		args := strings.Fields(args + " --admin " + address)
		if code, _, _ := runArgs(t, args...); code != want {
			t.Errorf("%q: got %d, want %d", args, code, want)
		}
	}
	for _, args := range []string{"status", "why order/7", "loglevel"} {
		if code, _, _ := runArgs(t, strings.Fields(args+" --admin 127.0.0.1:1")...); code != exitAdmin {
			t.Errorf("%s: got %d of nobody", args, code)
		}
	}
	if code, _, errs := runArgs(t, "loglevel", "debug", "--for", "10m", "--admin", address); code != exitOK || errs != "lk-0 logs debug\n" || c.asked[len(c.asked)-1] != "loglevel debug 10m0s" {
		t.Errorf("loglevel: %d %q %q", code, errs, c.asked)
	}
}

// A shell completes what there is at that moment, and nothing at all if nobody answers.
//
// Mutants seen red: members that are dead are completed; a second argument is; --node goes along when members are asked.
func TestCompletionAsksTheNode(t *testing.T) {
	address := talkative().serve(t)
	for args, want := range map[string]string{
		"lanes show :":                "account/77\norder/A-1042\n:6\n",
		"why :":                       "account/77\norder/A-1042\n:6\n",
		"why order/A-1042 :":          ":4\n",
		"status --node :":             "lk-0\nlk-1\nlk-2\n:4\n",
		"status --node lk-9 --node :": "lk-0\nlk-1\nlk-2\n:4\n",
		"lanes list --route :":        ":4\n",
	} {
		all := append([]string{"__complete"}, strings.Fields(strings.Replace(args, " ", " --admin "+address+" ", 1))...)
		all[len(all)-1] = strings.TrimSuffix(all[len(all)-1], ":")
		if strings.HasPrefix(args, "lanes") {
			all = append([]string{"__complete"}, strings.Fields(strings.TrimSuffix(args, ":"))...)
			all = append(all[:3], append([]string{"--admin", address}, all[3:]...)...)
			all = append(all, "")
		}
		if _, out, _ := runArgs(t, all...); out != want {
			t.Errorf("%q: got %q, want %q", all, out, want)
		}
	}
	began := time.Now()
	if _, out, _ := runArgs(t, "__complete", "why", "--admin", "127.0.0.1:1", ""); out != ":6\n" || time.Since(began) > 5*time.Second {
		t.Errorf("nobody answers: %q after %s", out, time.Since(began))
	}
}

// There is a manual page for each command, the same one each time.
//
// Mutant seen red: the date is always today's.
func TestManualPages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dir := filepath.Join(t.TempDir(), "man1")
	if code, _, errs := runArgs(t, "man", dir); code != exitOK || !strings.Contains(errs, "wrote the manual pages") {
		t.Fatalf("%d %s", code, errs)
	}
	for _, command := range rootCommand().Commands() {
		name := filepath.Join(dir, "lanekeeper-"+command.Name()+".1")
		page, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(page), `"Nov 2023"`) || !strings.Contains(string(page), ".SH SYNOPSIS") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "lanekeeper-lanes-release.1")); err != nil {
		t.Error(err)
	}
	if code, _, _ := runArgs(t, "man"); code != exitUsage {
		t.Errorf("without a directory: %d", code)
	}
}
