package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"lanekeeper/admin"
)

// Mutants killed: a key's slash ends it; escapes are decoded behind a slash; the
// exit code looks at the target alone; next is said of the owner that goes.
func TestLocateCommand(t *testing.T) {
	cluster := newFakeCluster()
	address := cluster.serve(t)
	for _, test := range []struct {
		args  []string
		set   func(*fakeCluster)
		code  int
		asked string
		want  string
	}{
		{[]string{"order/A-1042"}, nil, exitOK, "order A-1042", `
key        order/A-1042
partition  417 of 4096
owner      lk-1  10.1.4.8:7944  (next: lk-2, lk-0)
lane       at lk-1, which alone knows it
`},
		{[]string{"order/a/b%20:c"}, nil, exitOK, "order a/b%20:c", `
key        order/a/b%2520:c
partition  417 of 4096
owner      lk-1  10.1.4.8:7944  (next: lk-2, lk-0)
lane       at lk-1, which alone knows it
`},
		{[]string{"order:a%20b/c+d"}, func(c *fakeCluster) { c.owner = "lk-0" }, exitOK, "order a b/c+d", `
key        order/a%20b/c+d
partition  417 of 4096
owner      lk-0  10.1.4.8:7944
moves to   lk-1  (next: lk-2, lk-0)
lane       empty
`},
		{[]string{"order/8"}, func(c *fakeCluster) {
			held := 90.0
			c.owner, c.record = "lk-0", &admin.Record{Holder: "l-7", Tenure: 9, Stamp: 12, Titled: true, Held: &held}
		}, exitOK, "order 8", `
key        order/8
partition  417 of 4096
owner      lk-0  10.1.4.8:7944
moves to   lk-1  (next: lk-2, lk-0)
on record  tenure 9, stamp 12, lease l-7, held 1m30s
lane       empty
`},
		{[]string{"order/\x1b[2J\n\xff"}, func(c *fakeCluster) {
			c.lane = &admin.Lane{Depth: 3, Running: 1, Ticket: "0197a", TicketState: "running", Seconds: 1.23, WaitSeconds: 2.94}
		}, exitOK, "order \x1b[2J\n\xff", `
key        order/%1B[2J%0A%FF
partition  417 of 4096
owner      lk-1  10.1.4.8:7944  (next: lk-2, lk-0)
lane       depth 3, head running 1.2s (ticket 0197a), est. wait 2.9s
`},
		{[]string{"order/7", "--without", "lk-1", "--without", "lk-0"}, func(c *fakeCluster) { c.lane = &admin.Lane{Blocked: true} }, exitOK, "order 7", `
key        order/7
partition  417 of 4096
owner      lk-1  10.1.4.8:7944
would be   lk-2  without lk-1, lk-0  (next: lk-0)
lane       depth 0, waits for a former owner to finish, est. wait 0s
`},
		{[]string{"order/7"}, func(c *fakeCluster) { c.owner = "" }, exitNegative, "order 7", `
key        order/7
partition  417 of 4096
owner      nobody, as far as lk-0 knows
moves to   lk-1  (next: lk-2, lk-0)
`},
	} {
		cluster.asked, cluster.owner, cluster.lane, cluster.record = nil, "lk-1", nil, nil
		if test.set != nil {
			test.set(cluster)
		}
		code, out, errs := runArgs(t, append([]string{"locate", "--admin", address}, test.args...)...)
		if code != test.code || errs != "" || out != lines(test.want) {
			t.Errorf("%q: got %d, %s\n%s\nwant %d\n%s", test.args, code, errs, out, test.code, test.want)
		}
		if !slices.Equal(cluster.asked, []string{test.asked}) {
			t.Errorf("%q: asked for %q, want %q", test.args, cluster.asked, test.asked)
		}
	}
	cluster.owner = "lk-1"
	code, out, _ := runArgs(t, "locate", "order/7", "--admin", address, "-o", "json")
	var location admin.Location
	if err := json.Unmarshal([]byte(out), &location); code != exitOK || err != nil || location.Partition != 417 {
		t.Errorf("json: got %d, %v\n%s", code, err, out)
	}
	for _, args := range [][]string{{}, {"order"}, {"order/"}, {"Order/7"}, {"order.7"}, {"/7"}, {"order:%zz"}, {strings.Repeat("a", 33) + "/7"}, {"a/b", "c/d"}} {
		if code, out, errs := runArgs(t, append([]string{"locate", "--admin", address}, args...)...); code != exitUsage || out != "" || errs == "" {
			t.Errorf("%q: got %d, %s%s", args, code, out, errs)
		}
	}
}

const locateFile = `
upstreams: [{name: app, targets: ["http://a:1"]}]
routes:
  - name: order
    match: {path: "/orders/{id}", methods: [GET]}
    upstream: app
    key: {space: order, from: [{path: id}]}
  - name: order-create
    match: {path: /orders, methods: [POST]}
    upstream: app
    key: {space: order, from: [{header: X-Order-Id}, {json: data.order.id}]}
  - name: guest
    match: {path: /guest, host: shop.example}
    upstream: app
    key: {space: guest, from: [{cookie: cart}], missing: client_ip}
    lane: {mode: observe}
  - name: cart
    match: {path: /cart}
    upstream: app
    key: {space: cart, from: [{cookie: cart}], missing: bypass}
`

// Mutants killed: the node is not asked, or asked for a refused request; the
// file's errors are ignored; a request's body has no length.
func TestLocateRequest(t *testing.T) {
	cluster := newFakeCluster()
	address := cluster.serve(t)
	t.Chdir(t.TempDir())
	if err := os.WriteFile("lk.yaml", []byte(locateFile), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args  []string
		code  int
		asked string
		want  string
	}{
		{[]string{"POST /orders", "-d", `{"data":{"order":{"id":"A-1042"}}}`}, exitOK, "order A-1042", `
route      order-create  (2nd of 4; order did not match: path)
key        order/A-1042  from json:data.order.id  (header:X-Order-Id absent)
mode       exclusive     one at a time
partition  417 of 4096
owner      lk-1  10.1.4.8:7944  (next: lk-2, lk-0)
lane       at lk-1, which alone knows it
`},
		{[]string{"POST http://shop.example/orders", "-H", "X-Order-Id: a b", "-d", "x"}, exitOK, "order a b", `
route      order-create  (2nd of 4; order did not match: path)
key        order/a%20b   from header:X-Order-Id
mode       exclusive     one at a time
partition  417 of 4096
owner      lk-1  10.1.4.8:7944  (next: lk-2, lk-0)
lane       at lk-1, which alone knows it
`},
		{[]string{"/orders/7"}, exitOK, "order 7", `
route      order    (1st of 4)
key        order/7  from path:id
mode       shared   together with other shared ones
partition  417 of 4096
owner      lk-1  10.1.4.8:7944  (next: lk-2, lk-0)
lane       at lk-1, which alone knows it
`},
		{[]string{"POST /guest", "-H", "Host: shop.example", "--from", "10.0.0.9"}, exitOK, "guest 10.0.0.9", `
route      guest           (3rd of 4; order did not match: path; order-create did not match: path)
key        guest/10.0.0.9  from client_ip  (cookie:cart absent)
mode       exclusive       not enforced: the route only watches
partition  417 of 4096
owner      lk-1  10.1.4.8:7944  (next: lk-2, lk-0)
lane       at lk-1, which alone knows it
`},
		{[]string{"POST /cart"}, exitOK, "", `
route  cart    (4th of 4; order did not match: path; order-create did not match: path; guest did not match: path)
key    none    (cookie:cart absent)
mode   bypass  outside any lane
`},
		{[]string{"POST /orders", "-H", "X-Order-Id: 1", "-H", "X-Order-Id: 2"}, exitNegative, "", `
route    order-create       (2nd of 4; order did not match: path)
refused  400 ambiguous-key  header:X-Order-Id is sent 2 times
`},
		{[]string{"PUT /guest"}, exitNegative, "", `
route    none          (order did not match: path; order-create did not match: path; guest did not match: host; cart did not match: path)
refused  404 no-route  no route matches the method, host, path and headers of this request
`},
	} {
		cluster.asked = nil
		code, out, errs := runArgs(t, append([]string{"locate", "--config", "lk.yaml", "--admin", address, "--request"}, test.args...)...)
		if code != test.code || errs != "" || out != lines(test.want) {
			t.Errorf("%q: got %d, %s\n%s\nwant %d\n%s", test.args, code, errs, out, test.code, test.want)
		}
		if have := strings.Join(cluster.asked, ";"); have != test.asked {
			t.Errorf("%q: asked for %q, want %q", test.args, have, test.asked)
		}
	}
}

// Mutant killed: without a node there is no answer.
func TestLocateRequestNeedsNoNode(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("lk.yaml", []byte(locateFile), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &locator{options: &adminOptions{address: "127.0.0.1:1", output: "json"}} // where nobody listens
	var err error
	if l.client, err = l.options.client(); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	l.command = locateCommand()
	l.command.SetOut(&out)
	l.command.SetErr(&errs)
	l.command.SetContext(t.Context())
	r := &sampleRequest{line: "POST /orders", header: []string{"X-Order-Id: 7%"}, config: "lk.yaml", from: defaultSender}
	if err := l.locateRequest(r); err != nil {
		t.Fatal(err)
	}
	const want = `{
  "route": "order-create",
  "passed": [
    {
      "route": "order",
      "for": "path"
    }
  ],
  "mode": "exclusive",
  "observe": false,
  "space": "order",
  "key": "7%25",
  "issued": false,
  "source": "header:X-Order-Id",
  "absent": [],
  "refusal": null,
  "location": null
}
`
	if out.String() != want || !strings.HasPrefix(errs.String(), "where the key belongs only a node knows: no answer from http://127.0.0.1:1: ") {
		t.Errorf("got\n%s%s\nwant\n%s", &out, &errs, want)
	}

	code, _, message := runArgs(t, "locate", "--config", "lk.yaml", "--admin", "http://127.0.0.1:1", "--request", "/orders/7")
	if code != exitAdmin || !strings.HasPrefix(message, "lanekeeper: no answer from http://127.0.0.1:1: ") {
		t.Errorf("a node that was named: got %d, %s", code, message)
	}
}

func TestLocateRequestIsStrict(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, content := range map[string]string{"lk.yaml": locateFile, "bad.yaml": "nothing: 1\n" + someApp} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		args []string
		code int
		want string // how the last line ends
	}{
		{[]string{"--request", "POST /orders"}, exitUsage, "--request wants --config: the file that says what a request's key is"},
		{[]string{"order/7", "--request", "POST /orders", "--config", "lk.yaml"}, exitUsage, "want either SPACE/KEY or --request"},
		{[]string{"order/7", "--config", "lk.yaml"}, exitUsage, "--config, --header, --data and --from belong to --request"},
		{[]string{"order/7", "-H", "A: b"}, exitUsage, "--config, --header, --data and --from belong to --request"},
		{[]string{"--config", "lk.yaml", "--request", "POST"}, exitUsage, `want a method and a target, like 'POST /orders'; a space in a path is %20`},
		{[]string{"--config", "lk.yaml", "--request", "POST /a b"}, exitUsage, `want a method and a target, like 'POST /orders'; a space in a path is %20`},
		{[]string{"--config", "lk.yaml", "--request", "POST /a\r\nX:"}, exitUsage, `want a method and a target, like 'POST /orders'; a space in a path is %20`},
		{[]string{"--config", "lk.yaml", "--request", "POST /orders", "-H", "X-Order-Id"}, exitUsage, `--header "X-Order-Id": want 'Name: value'`},
		{[]string{"--config", "lk.yaml", "--request", "POST /orders", "-H", "A: b\r\nX-Order-Id: 7"}, exitUsage, `--header "A: b\r\nX-Order-Id: 7": want 'Name: value'`},
		{[]string{"--config", "lk.yaml", "--request", "POST /orders", "-H", "content-length: 7"}, exitUsage, `--header "content-length: 7": the body's length is that of --data`},
		{[]string{"--config", "lk.yaml", "--request", "POST /orders", "--from", "lk-0"}, exitUsage, "--from lk-0: want an IP address"},
		{[]string{"--config", "bad.yaml", "--request", "POST /orders"}, exitConfig, "1 error, 0 warnings"},
	} {
		code, out, errs := runArgs(t, append([]string{"locate"}, test.args...)...)
		if code != test.code || out != "" || !strings.Contains(errs, test.want) {
			t.Errorf("%q: got %d, %s%s, want %d, %s", test.args, code, out, errs, test.code, test.want)
		}
	}
}

func TestOrdinals(t *testing.T) {
	for n, want := range map[int]string{1: "1st of 200", 2: "2nd of 200", 3: "3rd of 200", 4: "4th of 200", 11: "11th of 200", 12: "12th of 200", 13: "13th of 200", 21: "21st of 200", 111: "111th of 200"} {
		if have := ordinal(n, 200); have != want {
			t.Errorf("got %s, want %s", have, want)
		}
	}
}
