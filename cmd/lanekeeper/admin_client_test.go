package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lanekeeper/admin"
)

// Mutants killed: the columns of wide are those of table; the dead are counted;
// a member is compared with itself; data and remarks share an output.
func TestMembersCommand(t *testing.T) {
	address := newFakeCluster().serve(t)
	const remark = "! lk-2 runs another config than lk-0: the same request may get another key there\n"
	for _, test := range []struct{ args, want string }{
		{"", `
NAME  STATE     ADDRESS         PARTITIONS  QUEUED  CONFIG    VERSION  SINCE  RTT
lk-0  alive     10.1.4.7:7943   1365 (50%)  12      9f31c2    1.4.0    3d     –
lk-1  alive     10.1.4.8:7943   1365 (50%)  –       9f31c2    1.4.0    3d     430µs
lk-2  draining  10.1.4.9:7943   341 → 0     –       77ab01 ✗  1.4.0    3d     1.2s
lk-3  dead      10.1.4.10:7943  –           –       –         –        41s    –
`},
		{"--no-headers -o wide", `
lk-0  alive     10.1.4.7:7943   1365 (50%)  12  9f31c2    1.4.0  3d   –      a  10.1.4.7:7944  18c2f
lk-1  alive     10.1.4.8:7943   1365 (50%)  –   9f31c2    1.4.0  3d   430µs  a  10.1.4.8:7944  18c2f
lk-2  draining  10.1.4.9:7943   341 → 0     –   77ab01 ✗  1.4.0  3d   1.2s   a  10.1.4.9:7944  18c2f
lk-3  dead      10.1.4.10:7943  –           –   –         –      41s  –      –  –              –
`},
	} {
		code, out, errs := runArgs(t, strings.Fields("members --admin "+address+" "+test.args)...)
		if code != exitOK || out != lines(test.want) || errs != remark {
			t.Errorf("%s: got %d\n%s%s\nwant\n%s%s", test.args, code, out, errs, test.want, remark)
		}
	}
	code, out, errs := runArgs(t, "members", "--admin", address, "-o", "json")
	if code != exitOK || errs != remark || !strings.HasPrefix(out, "{\n  \"cluster\": \"prod\",\n") || !strings.Contains(out, `      "owned": null,`) || !strings.Contains(out, `"rtt_seconds": 0.00043`) {
		t.Errorf("json: got %d, %s\n%s", code, errs, out)
	}
	code, out, _ = runArgs(t, "members", "--admin", address, "-o", "yaml")
	if code != exitOK || !strings.HasPrefix(out, "cluster: prod\nnode: lk-0\nview: 7\n") || !strings.Contains(out, "    owned: null\n") {
		t.Errorf("yaml: got %d\n%s", code, out)
	}
	alone := newFakeCluster()
	alone.members.Members[0].Since = time.Time{}
	alone.members.Members = alone.members.Members[:1]
	_, out, errs = runArgs(t, "members", "--no-headers", "--admin", alone.serve(t))
	if want := "lk-0  alive  10.1.4.7:7943  1365 (100%)  12  9f31c2  1.4.0  –  –\n"; out != want {
		t.Errorf("alone: got %q, want %q", out, want)
	}
	if want := "! 1 of at least 2 members (cluster.min_members): lk-0 is not ready and runs nothing exclusive\n"; errs != want {
		t.Errorf("alone: got %q, want %q", errs, want)
	}
}

// Mutants killed: --partitions is not asked for; an owner that is not the target
// is shown in its place.
func TestRingCommand(t *testing.T) {
	address := newFakeCluster().serve(t)
	const remark = "ring v88 as lk-0 sees it: 4096 partitions, 1 moving, hash c0ffee, layout 1a2b\n"
	for _, test := range []struct{ args, want string }{
		{"", `
MEMBER  TARGET      OWNED
lk-0    2048 (50%)  2047
lk-1    2048 (50%)  –
`},
		{"--partitions", `
PARTITION  TARGET  OWNER  EPOCH  STATE     DRAINING
0          lk-0    lk-0   3      owned     0
1          lk-0    lk-1   2      claiming  1
2          lk-1    –      0      foreign   0
`},
	} {
		code, out, errs := runArgs(t, strings.Fields("ring --admin "+address+" "+test.args)...)
		if code != exitOK || out != lines(test.want) || errs != remark {
			t.Errorf("%s: got %d\n%s%s\nwant\n%s%s", test.args, code, out, errs, test.want, remark)
		}
	}
}

func TestRingOfANodeAlone(t *testing.T) {
	if have, want := ringRemark(&admin.Ring{Node: "lk-0"}), "lk-0 is alone: it has no ring, and every key is its own"; have != want {
		t.Errorf("got %q, want %q", have, want)
	}
}

// Mutants killed: the token is not sent; every refusal is exit code 4; a
// redirect is followed, token and all; the error shows the key.
func TestAdminClientExitCodes(t *testing.T) {
	cluster := newFakeCluster()
	cluster.refuses = errRefused
	open, guarded := cluster.serve(t), cluster.serve(t, fakeToken, fakeToken+"2")
	right, wrong := secretFile(t, "right", fakeToken+"\nsome-other-token-0\n"), secretFile(t, "wrong", "fedcba9876543210")
	reached := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	defer elsewhere.Close()
	redirects := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer redirects.Close()
	witness := httptest.NewServer(http.NotFoundHandler())
	defer witness.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	traffic := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"type":"urn:lanekeeper:problem:no-route","status":404,"detail":"no route matches"}`) //nolint:errcheck // the test fails then
	}))
	defer traffic.Close()
	// Mutants killed, of the usage errors: cobra's NoArgs in place of ours; a key behind lanes
	// is no key. Of the port for traffic: its problem is told as if it were an answer.
	for _, test := range []struct {
		args string
		code int
		want string // after "lanekeeper: "
	}{
		{"members --admin " + strings.TrimPrefix(open, "http://"), exitOK, ""},
		{"members --admin " + open + "/", exitOK, ""},
		{"members --admin " + guarded + " --token-file " + right, exitOK, ""},
		{"members --admin " + guarded, exitAdmin, "the node asks for a token: give --token-file"},
		{"members --admin " + guarded + " --token-file " + wrong, exitAdmin, "the node does not know the token of --token-file"},
		{"members --admin " + guarded + " --token-file " + wrong + "x", exitAdmin, "--token-file: stat " + wrong + "x: no such file or directory"},
		{"members --admin " + strings.Replace(open, "127.0.0.1", "localhost", 1), exitAdmin,
			`Host "` + strings.TrimPrefix(strings.Replace(open, "127.0.0.1", "localhost", 1), "http://") + `" is not among admin.allowed_hosts; add the name if it is one of this node's`},
		{"members --admin " + redirects.URL, exitAdmin, redirects.URL + " is no lanekeeper's admin API: it answers 307 Temporary Redirect"},
		{"ring --admin " + witness.URL, exitAdmin, witness.URL + " is no lanekeeper's admin API: it answers 404 Not Found"},
		{"ring --admin " + elsewhere.URL, exitAdmin, elsewhere.URL + " is no lanekeeper's admin API: it answers 200 OK"},
		{"locate order/private --admin " + closed.URL, exitAdmin,
			"no answer from " + closed.URL + ": dial tcp " + strings.TrimPrefix(closed.URL, "http://") + ": connect: connection refused; --admin is the node's admin.listen"},
		{"drain --admin " + open, exitNegative, "the process is ending"},
		{"undrain --admin " + open, exitNegative, "the process is ending"},
		{"locate order/7 --without lk-9 --admin " + open, exitNegative, `"lk-9" is not a member now`},
		{"members --admin ftp://lk-0", exitUsage, "--admin ftp://lk-0: want http://host:port or https://host:port"},
		{"members --admin http://me@lk-0:7942", exitUsage, "--admin http://me@lk-0:7942: want http://host:port or https://host:port"},
		{"members --admin http://lk-0:7942/api", exitUsage, "--admin http://lk-0:7942/api: want http://host:port or https://host:port"},
		{"members -o xml", exitUsage, "--output xml: want table, wide, json or yaml"},
		{"members lk-0", exitUsage, `lanekeeper members takes no argument, and was given "lk-0": see lanekeeper members --help`},
		{"drain lk-0", exitUsage, `lanekeeper drain takes no argument, and was given "lk-0": a member is meant by --node lk-0`},
		{"serve lk.yaml", exitUsage, `lanekeeper serve takes no argument, and was given "lk.yaml": a file is meant by --config lk.yaml`},
		{"why", exitUsage, "lanekeeper why of which key? Write SPACE/KEY, such as order/A-1042; lanekeeper lanes list shows which there are"},
		{"lanes order/7", exitUsage, "to see a lane: lanekeeper lanes show order/7; to see why it stands: lanekeeper why order/7"},
		{"lanes stop", exitUsage, "there is no lanekeeper lanes stop: see lanekeeper lanes --help"},
		{"status --admin " + traffic.URL, exitAdmin, traffic.URL + " is where a lanekeeper takes requests for the service: --admin is the node's admin.listen"},
	} {
		reached = false
		code, _, errs := runArgs(t, strings.Fields(test.args)...)
		_, message, _ := strings.Cut(errs, "lanekeeper: ")
		if code != test.code || strings.TrimSuffix(message, "\n") != test.want {
			t.Errorf("%s: got %d, %q, want %d, %q", test.args, code, message, test.code, test.want)
		}
		if reached && !strings.Contains(test.args, elsewhere.URL) {
			t.Errorf("%s: followed the redirect", test.args)
		}
	}
}

// Mutants killed: a name may hold escape sequences; the header is coloured; the
// colour is part of a column.
func TestTable(t *testing.T) {
	sample := &table{header: []string{"A", "B"}}
	sample.add(unmarked, "one", "1")
	sample.add(caution, "\x1b[2Jlonger\n\tname", "→")
	const want = "A                 B\none               1\n?[2Jlonger??name  →\n"
	var plain, coloured strings.Builder
	sample.write(&plain, true, false)
	sample.write(&coloured, true, true)
	if have := plain.String(); have != want {
		t.Errorf("got\n%q\nwant\n%q", have, want)
	}
	head, last, _ := strings.Cut(strings.TrimSuffix(want, "\n"), "\n?")
	if have, want := coloured.String(), head+"\n\x1b[33m?"+last+"\x1b[0m\n"; have != want {
		t.Errorf("got\n%q\nwant\n%q", have, want)
	}
	var empty strings.Builder
	(&table{header: []string{"A"}}).write(&empty, false, true)
	if empty.Len() > 0 {
		t.Errorf("an empty table: got %q", empty.String())
	}
}

// A node may know more than this program does.
//
// Mutant killed: JSON is written from what was decoded.
func TestAdminClientPassesOnWhatItDoesNotKnow(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"z":"<1>","node":"lk-0","new":{"b":1.50,"a":"5"},"members":[]}`))
	}))
	defer server.Close()
	for format, want := range map[string]string{
		"json": "{\n  \"z\": \"<1>\",\n  \"node\": \"lk-0\",\n  \"new\": {\n    \"b\": 1.50,\n    \"a\": \"5\"\n  },\n  \"members\": []\n}\n",
		"yaml": "z: <1>\nnode: lk-0\nnew:\n  b: 1.50\n  a: \"5\"\nmembers: []\n",
	} {
		if code, out, errs := runArgs(t, "members", "--admin", server.URL, "-o", format); code != exitOK || out != want {
			t.Errorf("%s: got %d, %s\n%s\nwant\n%s", format, code, errs, out, want)
		}
	}
}

func TestDurationsForPeople(t *testing.T) {
	for s, want := range map[float64]string{0: "0s", 0.0123: "12ms", 1.23: "1.2s", 59.96: "1m0s", 61: "1m1s", 7200: "2h"} {
		if have := seconds(s); have != want {
			t.Errorf("%v: got %s, want %s", s, have, want)
		}
	}
}
