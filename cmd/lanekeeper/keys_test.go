package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/admin"
	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// Mutants killed: two orders are one; a key of both lists has two rows; an error that
// is zero makes a bound; the error is the least count; a key that is only counted
// looks hot; action none has an arrow.
func TestKeysCommand(t *testing.T) {
	since := time.Now().Add(-41*time.Second - 100*time.Millisecond)
	cluster := newFakeCluster()
	cluster.hot = admin.Hot{
		Node: "lk-0", TopSeconds: 12.5,
		Hot: []admin.HotKey{
			{Space: "order", Key: "A-1042", Route: "orders", Action: "shed", Since: since, Depth: 57, Bytes: 1024, Busy: 0.994, Share: 0.8, Rate: 41.4, ServiceSeconds: 0.02, WaitSeconds: 1.16},
			{Space: "account", Key: "77", Route: "pay", Action: "none", Since: since, Depth: 3, Bytes: 9 << 20, Busy: 1, Share: 0.95, Rate: 0.25, ServiceSeconds: 4, WaitSeconds: 16},
		},
		Top: []admin.TopKey{
			{Space: "order", Key: "B %", Route: "orders", Count: 1000, Error: 10, Depth: 4, WaitSeconds: 0.1},
			{Space: "order", Key: "A-1042", Route: "orders", Hot: true, Count: 520, Error: 0, Depth: 57, WaitSeconds: 1.16},
			{Space: "order", Key: "C", Count: 50},
		},
	}
	address := cluster.serve(t)
	const remark = "2 hot keys; the others had most requests in the last 12.5s\n"
	for _, test := range []struct{ args, want string }{
		{"", `
SPACE/KEY     NODE  ROUTE   DEPTH  RATE    WAIT   STATE     SINCE
order/A-1042  lk-0  orders  57     41/s    1.2s   hot→shed  41s
order/B%20%25 lk-0  orders  4      ≤80/s   100ms  ok        –
account/77    lk-0  pay     3      0.2/s   16s    hot       41s
order/C       lk-0  –       0      4.0/s   –      ok        –
`},
		{"--sort rate --no-headers", `
order/B%20%25  lk-0  orders  4   ≤80/s  100ms  ok        –
order/A-1042   lk-0  orders  57  41/s   1.2s   hot→shed  41s
order/C        lk-0  –       0   4.0/s  –      ok        –
account/77     lk-0  pay     3   0.2/s  16s    hot       41s
`},
		{"--sort wait --no-headers -o wide", `
account/77     lk-0  pay     3   0.2/s  16s    hot       41s  9437184  100%  95%  4s    –
order/A-1042   lk-0  orders  57  41/s   1.2s   hot→shed  41s  1024     99%   80%  20ms  520
order/B%20%25  lk-0  orders  4   ≤80/s  100ms  ok        –    –        –     –    –     990–1000
order/C        lk-0  –       0   4.0/s  –      ok        –    –        –     –    –     50
`},
	} {
		code, out, errs := runArgs(t, strings.Fields("keys --admin "+address+" "+test.args)...)
		if code != exitOK || squeeze(out) != squeeze(lines(test.want)) || errs != remark {
			t.Errorf("%s: got %d\n%s%s\nwant\n%s%s", test.args, code, out, errs, test.want, remark)
		}
	}
	code, out, errs := runArgs(t, "keys", "--admin", address, "-o", "json")
	if code != exitOK || errs != remark || !strings.HasPrefix(out, "{\n  \"node\": \"lk-0\",\n  \"hot\": [\n") || !strings.Contains(out, `"key": "B%20%25"`) {
		t.Errorf("json: got %d, %s\n%s", code, errs, out)
	}

	cluster.hot = admin.Hot{Node: "lk-0"} // nothing to show is no failure
	if code, out, errs := runArgs(t, "keys", "--no-headers", "--admin", address); code != exitOK || out != "" || errs != "0 hot keys; the others had most requests in the last 0s\n" {
		t.Errorf("nothing: got %d, %q, %q", code, out, errs)
	}
	for args, want := range map[string]int{"keys --sort name": exitUsage, "keys order/7": exitUsage, "keys --admin 127.0.0.1:1": exitAdmin} {
		if code, out, _ := runArgs(t, strings.Fields(args)...); code != want || out != "" {
			t.Errorf("%s: got %d, %q, want %d", args, code, out, want)
		}
	}
}

// squeeze makes one blank of many: the columns are table's matter.
func squeeze(text string) string {
	all := strings.Split(text, "\n")
	for i, line := range all {
		all[i] = strings.Join(strings.Fields(line), " ")
	}
	return strings.Join(all, "\n")
}

// A key that gets hot and cool again, as a node's operators see it: in the log, in
// the metrics, by the command; and as its callers do.
//
// Mutants killed: look does not call Cool; the log holds the key although log.keys
// says hash; no key is counted; lane.hot does not reach the lanes; a key is not cut
// off its space; a key of both lists is not said to be hot in one.
func TestHotKeysOfANode(t *testing.T) {
	u := newHoldingUpstream(t)
	p := serveProcess(t, u.URL, "defaults: {lane: {hot: {depth: 2, busy: 0, for: 100ms, cool_after: 100ms, action: shed}}}\n")
	answers := []<-chan string{post(p.address+"/orders/private", "x")}
	u.next(t)
	for range 2 {
		answers = append(answers, post(p.address+"/orders/private", "y"))
	}
	line := p.log("key is hot")
	for name, want := range map[string]any{
		"route": "order", "key_hash": "b2b1d98126c3bb22", "action": "shed", "depth": 2.0, "bytes": 2.0, "share": 1.0,
	} {
		if line[name] != want {
			t.Errorf("%s: got %v, want %v", name, line[name], want)
		}
	}
	for _, name := range []string{"busy", "rate", "service_ms", "since", "level"} {
		if _, ok := line[name]; !ok {
			t.Errorf("no %s in %v", name, line)
		}
	}
	waitForMetric(t, p.observe, `lanekeeper_hot_keys{route="order"} 1`)
	code, out, errs := runArgs(t, "keys", "--admin", p.admin, "-o", "json")
	var hot admin.Hot
	if err := json.Unmarshal([]byte(out), &hot); err != nil || code != exitOK || len(hot.Hot) != 1 || len(hot.Top) != 1 {
		t.Fatalf("got %d, %v: %s%s", code, err, out, errs)
	}
	if k := hot.Hot[0]; k.Space != "order" || k.Key != "private" || k.Route != "order" || k.Action != "shed" || k.Depth != 2 || k.Bytes != 2 || k.Share != 1 || time.Since(k.Since) > time.Minute {
		t.Errorf("got %+v", k)
	}
	if k := hot.Top[0]; k.Space != "order" || k.Key != "private" || k.Route != "order" || !k.Hot || k.Count != 3 || k.Error != 0 || k.Depth != 2 {
		t.Errorf("got %+v", k)
	}

	response, err := http.Post(p.address+"/orders/private", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 429 || response.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: got %d, Retry-After %q", response.StatusCode, response.Header.Get("Retry-After"))
	}
	neighbour := post(p.address+"/orders/8", "z")
	for range 4 {
		u.release <- struct{}{}
	}
	for _, a := range append(answers, neighbour) {
		if got := <-a; !strings.HasPrefix(got, "200 ") {
			t.Errorf("got %s", got)
		}
	}

	refusals, hots := 0, 0
	for line = p.line(); line["msg"] != "key is no longer hot"; line = p.line() {
		switch line["msg"] {
		case "request":
			refusals++
		case "key is hot":
			hots++
		}
	}
	if line["route"] != "order" || line["key_hash"] != "b2b1d98126c3bb22" || refusals != 1 || hots != 0 {
		t.Errorf("%d refusals, hot %d times more: %v", refusals, hots, line)
	}
	waitForMetric(t, p.observe, `lanekeeper_hot_keys{route="order"} 0`)
	waitForMetric(t, p.observe, `lanekeeper_shed_total{route="order"} 1`)
	code, out, _ = runArgs(t, "keys", "--admin", p.admin, "--no-headers")
	if got := strings.Fields(out); code != exitOK || len(got) < 7 || got[6] != "ok" {
		t.Errorf("got %d, %s", code, out)
	}
}

// line is the next line of the log.
func (p *process) line() map[string]any {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.t.Fatal("the process ended")
		}
		return line
	case <-time.After(20 * time.Second):
		p.t.Fatal("the process says nothing")
		return nil
	}
}

// Mutants killed: each look that finds a change logs all that is hot, or all that was;
// a key that was cool between two looks is the same; a look forgets what was hot.
func TestEachHotKeyIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		n := &node{
			log:   slog.New(slog.NewTextHandler(&out, nil)),
			lanes: queue.New(queue.Config{MaxQueued: 100, MaxQueuedBytes: 100, MaxLanes: 100, Tags: 2}),
		}
		var err error
		n.proxy, err = proxy.New(proxy.Config{
			LogKeys:   proxy.KeysPlain,
			Upstreams: []proxy.Upstream{{Name: "app", Targets: []string{"http://app"}}},
			Routes:    []proxy.Route{{Name: "reads", Upstream: "app"}, {Name: "writes", Upstream: "app", Lane: proxy.Lane{Shed: true}}},
		}, n.lanes, n.log)
		if err != nil {
			t.Fatal(err)
		}
		rule := &queue.HotRule{Depth: 1, For: time.Second, CoolAfter: time.Second}
		admit := func(key string) (waits *queue.Ticket) {
			for range 2 { // one has its turn
				waits = new(queue.Ticket)
				if err := n.lanes.Admit(waits, &queue.Request{Key: []byte(key), MaxDepth: 100, Hot: rule, Tag: 1}); err != nil {
					t.Fatal(err)
				}
			}
			return waits
		}
		var said []string
		look := func(after time.Duration) {
			time.Sleep(after)
			n.look()
			for l := range strings.SplitSeq(strings.TrimSpace(out.String()), "\n") {
				if _, line, _ := strings.Cut(l, "msg="); line != "" {
					line, _, _ = strings.Cut(line, " depth")
					said = append(said, line)
				}
			}
			out.Reset()
		}
		first := admit("order:a b")
		look(0)
		look(time.Second)
		second := admit("order:c")
		look(0)
		look(time.Second)
		look(time.Second)
		first.Leave()
		look(0)
		look(time.Second)
		second.Leave()
		time.Sleep(time.Second)
		n.lanes.Cool() // as somebody else might, between two looks
		admit("order:c")
		time.Sleep(time.Second)
		n.lanes.Cool()
		look(0)
		want := []string{
			`"key is hot" event=key-hot route=writes key=order:a%20b action=shed`,
			`"key is hot" event=key-hot route=writes key=order:c action=shed`,
			`"key is no longer hot" event=key-cooled route=writes key=order:a%20b hot_s=3`,
			`"key is no longer hot" event=key-cooled route=writes key=order:c hot_s=4`,
			`"key is hot" event=key-hot route=writes key=order:c action=shed`,
		}
		if !reflect.DeepEqual(said, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
		}
	})
}
