package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// These tests put the real program between real ones: nginx, a Python service
// with SQLite, hey, vegeta, wrk and curl. Everything listens on loopback ports
// that are free, keeps its files in the test's directory, and is stopped by its
// process id. What is not installed is skipped, and with CI=true a failure;
// ../../test.sh installs it.

const (
	startTime  = 20 * time.Second // for a program to say that it serves
	stopTime   = 20 * time.Second // then it is killed
	answerTime = 30 * time.Second
)

// absent ends a test that lacks something this machine could have.
func absent(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// program finds a command; pkg is what to install.
func program(t testing.TB, name, pkg string) string {
	t.Helper()
	for _, name := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	absent(t, "no %s here: apt-get install %s", name, pkg)
	return ""
}

// start runs a program until the test's end, when it must end well: with exit
// code 0, and without having logged an error. It returns when a line of what
// the program prints matches ready: that match and its groups.
func start(t *testing.T, cmd *exec.Cmd, ready string) []string {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = writer, writer
	err = cmd.Start()
	writer.Close()
	if err != nil {
		reader.Close()
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(ready)
	var said strings.Builder // belongs to the goroutine until ended
	found, ended := make(chan []string, 1), make(chan struct{})
	go func() { // ends with the program
		defer close(ended)
		defer reader.Close()
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if match := pattern.FindStringSubmatch(lines.Text()); match != nil {
				select {
				case found <- match:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(stopTime, func() {
			cmd.Process.Kill()
			reader.SetReadDeadline(time.Now()) // a child may hold the other end
		})
		<-ended
		err := cmd.Wait()
		kill.Stop()
		name := filepath.Base(cmd.Path) + " " + strings.Join(cmd.Args[1:], " ")
		if err != nil || strings.Contains(said.String(), `"level":"ERROR"`) {
			t.Errorf("%s: %v, or an error in its log", name, err)
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", name, said.String())
		}
	})
	select {
	case match := <-found:
		return match
	case <-ended:
		t.Fatalf("%s ended at once", cmd.Path)
	case <-time.After(startTime):
		t.Fatalf("%s did not say %q", cmd.Path, ready)
	}
	return nil
}

// until asks again and again, until the answer is yes.
func until(t *testing.T, what string, yes func() bool) {
	t.Helper()
	deadline := time.After(startTime)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !yes() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("still not true: %s", what)
		}
	}
}

// lanekeeperCommand is this program, with small changes to its settings.
func lanekeeperCommand(environment []string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), runVariable+"=1",
		"LANEKEEPER_SERVER_LISTEN=127.0.0.1:0", "LANEKEEPER_OBSERVE_LISTEN=127.0.0.1:0",
		"LANEKEEPER_SHUTDOWN_DELAY=0s", "LANEKEEPER_LOG_FORMAT=json",
		"GORACE=atexit_sleep_ms=10") // with -race it would sleep a second before it ends
	cmd.Env = append(cmd.Env, environment...)
	return cmd
}

// startLanekeeper runs `lanekeeper serve` with args and returns where it serves.
func startLanekeeper(t *testing.T, environment []string, args ...string) (address string) {
	t.Helper()
	cmd := lanekeeperCommand(environment, append([]string{"serve"}, args...)...)
	serving := start(t, cmd, `"msg":"serving","listen":"([^"]+)","observe":"([^"]+)"`)
	if got := statusOf(t, "http://"+serving[2]+"/readyz"); got != http.StatusOK {
		t.Fatalf("/readyz: %d", got)
	}
	return serving[1]
}

// nginx is a running one, with testdata/real/nginx.conf.
type nginx struct{ address, dir string }

func startNginx(t *testing.T) nginx {
	t.Helper()
	path := program(t, "nginx", "nginx-light")
	if built, err := exec.Command(path, "-V").CombinedOutput(); err != nil || !strings.Contains(string(built), "http_dav_module") {
		absent(t, "this nginx cannot PUT (http_dav_module): apt-get install nginx-full")
	}
	n := nginx{freeAddress(t), t.TempDir()}
	config, err := os.ReadFile("testdata/real/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	n.write(t, "nginx.conf", strings.ReplaceAll(string(config), "{{listen}}", n.address))
	for _, dir := range []string{"files", "drop", "static"} {
		if err := os.Mkdir(filepath.Join(n.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	start(t, exec.Command(path, "-p", n.dir, "-c", "nginx.conf"), `start worker process \d`)
	until(t, "nginx answers", func() bool {
		response, err := http.Get("http://" + n.address + "/status")
		if err != nil {
			return false
		}
		return response.Body.Close() == nil && response.StatusCode == http.StatusOK
	})
	return n
}

func (n nginx) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// lanekeeper starts one in front of n.
func (n nginx) lanekeeper(t *testing.T, environment ...string) (address string) {
	t.Helper()
	return startLanekeeper(t, append(environment, "UPSTREAM=http://"+n.address), "--config", "testdata/real/nginx.yaml")
}

// freeAddress is for programs that cannot choose a port themselves.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// request is one of a closely spaced series, and what came of it.
type request struct {
	key, do      string // what it does to what, for the model
	amount       int
	method, path string // how that is said
	body         string
	old          bool // in HTTP/1.0

	status int
	answer string
	ticket string // orders the requests of a key as they were admitted; "" without lanekeeper
	err    error
}

// sendSpaced sends one request of every series, and gap later the next one of
// every series, each on a connection of its own and without waiting for
// answers; nil is a pause. It returns when everything has been answered.
func sendSpaced(t *testing.T, address string, gap time.Duration, series [][]*request) {
	t.Helper()
	connections := make(map[*request]net.Conn)
	for _, r := range slices.Concat(series...) {
		if r == nil {
			continue
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(answerTime))
		connections[r] = conn
	}
	var answers sync.WaitGroup
	ticker := time.NewTicker(gap)
	defer ticker.Stop()
	for round, last := 0, false; !last; round++ {
		last = true
		for _, requests := range series {
			if round >= len(requests) {
				continue
			}
			last = false
			if r := requests[round]; r != nil {
				r.send(connections[r])
				answers.Go(func() { r.receive(connections[r]) }) // ends at the connection's deadline
			}
		}
		<-ticker.C
	}
	answers.Wait()
	for _, r := range slices.Concat(series...) {
		if r != nil && r.err != nil {
			t.Fatalf("%s %s: %v", r.method, r.path, r.err)
		}
	}
}

func (r *request) send(conn net.Conn) {
	version := "HTTP/1.1"
	if r.old {
		version = "HTTP/1.0"
	}
	_, r.err = fmt.Fprintf(conn, "%s %s %s\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s", r.method, r.path, version, len(r.body), r.body)
}

func (r *request) receive(conn net.Conn) {
	if r.err != nil {
		return
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		r.err = err
		return
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	r.status, r.answer, r.ticket, r.err = response.StatusCode, string(body), response.Header.Get("Lanekeeper-Ticket"), err
}

// replay lets a model answer the requests one by one, in the order in which
// lanekeeper admitted them, or without it, in which they were sent. It returns
// the real answers that differ, and how many requests were admitted before the
// one sent before them: on several connections that may be, if a body takes
// long to arrive or the machine is busy.
func replay(series [][]*request, model func(*request) (status int, answer string)) (wrong []string, swaps int) {
	for _, requests := range series {
		requests = slices.DeleteFunc(slices.Clone(requests), func(r *request) bool { return r == nil })
		admitted := slices.SortedStableFunc(slices.Values(requests), func(a, b *request) int { return strings.Compare(a.ticket, b.ticket) })
		for i, r := range admitted {
			if i > 0 && requests[i].ticket < requests[i-1].ticket {
				swaps++
			}
			status, answer := model(r)
			if r.status != status || status == http.StatusOK && r.answer != answer {
				wrong = append(wrong, fmt.Sprintf("%s %s, %d for its key: %d %.60q, want %d %.60q", r.do, r.key, i, r.status, r.answer, status, answer))
			}
		}
	}
	return wrong, swaps
}

// head keeps what a failure prints short.
func head(lines []string) string { return strings.Join(lines[:min(len(lines), 5)], "\n") }

// TestRealFilesKeepTheirOrder sends nginx closely spaced PUT, GET and DELETE for
// a few files. Every answer, every content read, and the files that are left
// must be what the same requests, one after the other, would have given.
//
// Mutants: the last case, where lanekeeper only watches; every request is shared.
func TestRealFilesKeepTheirOrder(t *testing.T) {
	for _, test := range []struct {
		name  string
		mode  string
		files int
		gap   time.Duration
	}{
		{"closely spaced", "enforce", 4, 4 * time.Millisecond},
		{"at once", "enforce", 8, 100 * time.Microsecond},
		{"at once, unordered", "observe", 8, 100 * time.Microsecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := startNginx(t)
			address := n.lanekeeper(t, "LANEKEEPER_DEFAULTS_LANE_MODE="+test.mode)
			series := fileSeries(test.files)
			sendSpaced(t, address, test.gap, series)

			want := make(map[string]string)
			wrong, swaps := replay(series, func(r *request) (int, string) {
				content, exists := want[r.key]
				switch {
				case r.do == "PUT":
					want[r.key] = r.body
					if exists {
						return http.StatusNoContent, ""
					}
					return http.StatusCreated, ""
				case !exists:
					return http.StatusNotFound, ""
				case r.do == "DELETE":
					delete(want, r.key)
					return http.StatusNoContent, ""
				}
				return http.StatusOK, content
			})
			files := make(map[string]string)
			entries, err := os.ReadDir(filepath.Join(n.dir, "files"))
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				content, err := os.ReadFile(filepath.Join(n.dir, "files", entry.Name()))
				if err != nil {
					t.Fatal(err)
				}
				files[entry.Name()] = string(content)
			}
			t.Logf("%d requests, %d admitted out of the order sent, %d answers out of order, %d files left",
				len(slices.Concat(series...)), swaps, len(wrong), len(files))
			switch {
			case test.mode == "observe":
				if len(wrong) == 0 {
					t.Error("without order nothing was out of order: this test proves nothing")
				}
			case len(wrong) > 0:
				t.Errorf("%d wrong answers:\n%s", len(wrong), head(wrong))
			case !maps.Equal(files, want):
				t.Errorf("files left: %v, want %v", slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(want)))
			}
		})
	}
}

// fileSeries rewrites each file many times, deletes it, and writes every other
// one again. Large contents alternate with small ones, which nginx is done with
// much sooner.
func fileSeries(files int) [][]*request {
	padding := strings.Repeat("x", 200<<10)
	var series [][]*request
	for file := range files {
		var requests []*request
		key := fmt.Sprint("file", file)
		add := func(do, body string) {
			requests = append(requests, &request{key: key, do: do, method: do, path: "/files/" + key, body: body})
		}
		put := func(version int) {
			add("PUT", fmt.Sprintf("version %d %s", version, padding[:version%2*len(padding)]))
		}
		for version := range 24 {
			put(version)
			if version%3 == 2 {
				add("GET", "")
			}
		}
		add("DELETE", "")
		add("GET", "")
		if file%2 == 1 {
			put(24)
			add("GET", "")
		}
		series = append(series, requests)
	}
	return series
}

// answer is a response without what two of them may differ in.
type answer struct {
	Status string
	Length int64
	Header http.Header
	Body   []byte
}

func (a answer) String() string {
	return fmt.Sprintf("%s, length %d, %d bytes, %v", a.Status, a.Length, len(a.Body), a.Header)
}

func fetch(t *testing.T, client *http.Client, method, url string, header map[string]string) answer {
	t.Helper()
	message, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	message.Host = "files.test" // both ways, as nginx may say it in what it answers
	for name, value := range header {
		message.Header.Set(name, value)
	}
	response, err := client.Do(message)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	a := answer{Status: response.Proto + " " + response.Status, Length: response.ContentLength, Header: response.Header}
	if a.Body, err = io.ReadAll(response.Body); err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	for _, name := range []string{"Date", "Via", "Connection", "Lanekeeper-Ticket"} {
		a.Header.Del(name)
	}
	return a
}

func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport, Timeout: answerTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// TestRealAnswersAreUnchanged compares nginx's answers with the same through
// lanekeeper, in a lane and outside of one, all on one connection of the client.
func TestRealAnswersAreUnchanged(t *testing.T) {
	n := startNginx(t)
	through, direct := "http://"+n.lanekeeper(t), "http://"+n.address
	large := make([]byte, 12<<20)
	for i := range large {
		large[i] = byte(i*31 + i>>9)
	}
	n.write(t, "static/page.html", strings.Repeat("<p>a page</p>\n", 1000))
	n.write(t, "static/large", string(large))
	n.write(t, "static/empty", "")
	n.write(t, "files/small", "small")
	n.write(t, "files/large", string(large))
	client := newClient(t)
	page := fetch(t, client, "GET", direct+"/static/page.html", nil)
	etag := page.Header.Get("Etag")
	for _, test := range []struct {
		name, method, path string
		header             map[string]string
		status             string
	}{
		{"a page", "GET", "/static/page.html", nil, "200 OK"},
		{"its head", "HEAD", "/static/page.html", nil, "200 OK"},
		{"not modified, by tag", "GET", "/static/page.html", map[string]string{"If-None-Match": etag}, "304 Not Modified"},
		{"not modified, by time", "GET", "/static/page.html", map[string]string{"If-Modified-Since": page.Header.Get("Last-Modified")}, "304 Not Modified"},
		{"modified", "GET", "/static/page.html", map[string]string{"If-None-Match": `"other"`}, "200 OK"},
		{"precondition failed", "GET", "/static/page.html", map[string]string{"If-Match": `"other"`}, "412 Precondition Failed"},
		{"range", "GET", "/static/page.html", map[string]string{"Range": "bytes=100-299"}, "206 Partial Content"},
		{"range from the end", "GET", "/static/page.html", map[string]string{"Range": "bytes=-7"}, "206 Partial Content"},
		{"range of what changed", "GET", "/static/page.html", map[string]string{"Range": "bytes=0-9", "If-Range": `"other"`}, "200 OK"},
		{"range beyond", "GET", "/static/page.html", map[string]string{"Range": "bytes=999999-"}, "416 Requested Range Not Satisfiable"},
		{"nothing in it", "GET", "/static/empty", nil, "200 OK"},
		{"nothing there", "GET", "/static/none", nil, "404 Not Found"},
		{"no such method", "DELETE", "/static/page.html", nil, "405 Not Allowed"},
		{"a directory", "GET", "/static", nil, "301 Moved Permanently"},
		{"compressed", "GET", "/packed/page.html", map[string]string{"Accept-Encoding": "gzip"}, "200 OK"},
		{"compressed head", "HEAD", "/packed/page.html", map[string]string{"Accept-Encoding": "gzip"}, "200 OK"},
		{"large", "GET", "/static/large", nil, "200 OK"},
		{"large range", "GET", "/static/large", map[string]string{"Range": "bytes=1000000-11999999"}, "206 Partial Content"},
		{"large, compressed", "GET", "/packed/large", map[string]string{"Accept-Encoding": "gzip"}, "200 OK"},
		{"in a lane", "GET", "/files/small", nil, "200 OK"},
		{"in a lane, head", "HEAD", "/files/small", nil, "200 OK"},
		{"in a lane, nothing there", "GET", "/files/none", nil, "404 Not Found"},
		{"in a lane, delete nothing", "DELETE", "/files/none", nil, "404 Not Found"},
		{"in a lane, large", "GET", "/files/large", nil, "200 OK"},
		{"in a lane, large head", "HEAD", "/files/large", nil, "200 OK"},
		{"in a lane, range", "GET", "/files/large", map[string]string{"Range": "bytes=5-1500000"}, "206 Partial Content"},
	} {
		want := fetch(t, client, test.method, direct+test.path, test.header)
		have := fetch(t, client, test.method, through+test.path, test.header)
		if want.Status != "HTTP/1.1 "+test.status {
			t.Errorf("%s: nginx says %s, want %s", test.name, want.Status, test.status)
		}
		if !reflect.DeepEqual(have, want) {
			t.Errorf("%s:\nthrough lanekeeper: %s\ndirectly:           %s", test.name, have, want)
		}
	}
}

// TestRealConnectionsToAnUpstream: lanekeeper keeps its connections, and copes
// with an upstream that does not.
//
// Mutants: link.done never keeps a connection (lasting); a connection that the
// upstream closed while idle is used all the same (idle).
func TestRealConnectionsToAnUpstream(t *testing.T) {
	n := startNginx(t)
	for _, test := range []struct {
		kind        string
		requests    int
		connections int
	}{
		{"lasting", 20, 1},
		{"brief", 10, 4}, // nginx closes each after three
		{"idle", 4, 4},   // nginx closes it before the next request
	} {
		t.Run(test.kind, func(t *testing.T) {
			through := "http://" + n.lanekeeper(t)
			client := newClient(t)
			seen := make(map[string]bool)
			for i := range test.requests {
				if test.kind == "idle" {
					until(t, "nginx has closed its connections", func() bool {
						status := fetch(t, client, "GET", "http://"+n.address+"/status", map[string]string{"Connection": "close"})
						return strings.HasPrefix(string(status.Body), "Active connections: 1 ")
					})
				}
				a := fetch(t, client, "POST", through+"/connection/"+test.kind, nil)
				if a.Status != "HTTP/1.1 200 OK" {
					t.Fatalf("request %d: %s %s", i, a, a.Body)
				}
				connection, _, _ := strings.Cut(string(a.Body), " ")
				seen[connection] = true
			}
			if len(seen) != test.connections {
				t.Errorf("%d requests came on %d connections, want %d", test.requests, len(seen), test.connections)
			}
		})
	}
}

// TestRealOrderService sends an ordinary service, which reads, thinks and
// writes, closely spaced requests: first directly, where updates must get lost
// and deleted orders must come back, or the test proves nothing; then through
// lanekeeper, where every answer and what is left must be what the same
// requests, one after the other, would have given.
//
// Mutants: every request is shared; an HTTP/1.0 request is forwarded as one, so
// that the service closes a connection that lanekeeper uses again.
func TestRealOrderService(t *testing.T) {
	python := program(t, "python3", "python3")
	if out, err := exec.Command(python, "-c", "import sqlite3").CombinedOutput(); err != nil {
		absent(t, "this python3 has no sqlite3: apt-get install python3\n%s", out)
	}
	for _, test := range []struct {
		name string
		form func(i int) (inBody, old bool)
	}{
		{"key in the path", func(int) (bool, bool) { return false, false }},
		{"key in the body", func(int) (bool, bool) { return true, false }},
		{"key in either", func(i int) (bool, bool) { return i%2 == 0, false }},
		{"some in HTTP/1.0", func(i int) (bool, bool) { return false, i%2 == 0 }}, // the service then closes its connection, unannounced
	} {
		for _, way := range []string{"directly", "through lanekeeper"} {
			t.Run(test.name+"/"+way, func(t *testing.T) {
				address := start(t, exec.Command(python, "testdata/real/orders.py", filepath.Join(t.TempDir(), "orders.db")), `serving on (.+)`)[1]
				if way != "directly" {
					address = startLanekeeper(t, []string{"UPSTREAM=http://" + address}, "--config", "testdata/real/orders.yaml")
				}
				series := orderSeries(12, test.form)
				sendSpaced(t, address, 2*time.Millisecond, series)
				var left map[string]int
				if err := json.Unmarshal(fetch(t, newClient(t), "GET", "http://"+address+"/orders", nil).Body, &left); err != nil {
					t.Fatal(err)
				}

				want := make(map[string]int)
				wrong, swaps := replay(series, func(r *request) (int, string) { return orderModel(want, r) })
				lost, revived := lostUpdates(series, left), 0
				for order := range left {
					if _, exists := want[order]; !exists {
						revived++
					}
				}
				t.Logf("%d updates lost, %d deleted orders left, %d wrong answers, %d requests admitted out of the order sent", lost, revived, len(wrong), swaps)
				switch {
				case way == "directly":
					if lost == 0 || revived == 0 {
						t.Error("nothing was lost without lanekeeper: this test proves nothing")
					}
				case len(wrong) > 0:
					t.Errorf("%d wrong answers:\n%s", len(wrong), head(wrong))
				case lost > 0 || !maps.Equal(left, want):
					t.Errorf("orders: %v, want %v", left, want)
				}
			})
		}
	}
}

// orderSeries is work on three kinds of orders: one is changed again and again,
// one is made and deleted, one is made, changed, deleted and made again.
func orderSeries(orders int, form func(i int) (inBody, old bool)) [][]*request {
	var series [][]*request
	for order := range orders {
		var requests []*request
		add := func(do string, amount, times int) {
			for range times {
				inBody, old := form(len(requests))
				r := &request{key: fmt.Sprint(order), do: do, amount: amount, old: old}
				if inBody {
					r.method, r.path = "POST", "/events"
					r.body = fmt.Sprintf(`{"order": {"id": %q}, "do": %q, "amount": %d}`, r.key, do, amount)
				} else {
					r.method, r.path = do, "/orders/"+r.key
					r.body = fmt.Sprintf(`{"amount": %d}`, amount)
				}
				requests = append(requests, r)
			}
		}
		switch add("POST", 100, 1); order % 3 {
		case 0:
			requests = append(requests, make([]*request, 20)...) // until even without lanekeeper the order is there
			add("PATCH", 1, 12)
		case 1:
			add("DELETE", 0, 1)
		case 2:
			add("PATCH", 1, 4)
			add("DELETE", 0, 1)
			add("POST", 100, 1)
			add("PATCH", 1, 4)
		}
		series = append(series, requests)
	}
	return series
}

// orderModel is orders.py without its haste.
func orderModel(orders map[string]int, r *request) (status int, answer string) {
	_, exists := orders[r.key]
	switch {
	case r.do == "POST" && exists:
		return http.StatusConflict, ""
	case r.do == "POST":
		orders[r.key] = r.amount
		return http.StatusCreated, ""
	case !exists:
		return http.StatusNotFound, ""
	case r.do == "DELETE":
		delete(orders, r.key)
		return http.StatusNoContent, ""
	}
	orders[r.key] += r.amount
	return http.StatusOK, fmt.Sprint(orders[r.key])
}

// lostUpdates is how much of what the service has confirmed, of orders that
// nobody deletes, is not there in the end.
func lostUpdates(series [][]*request, left map[string]int) (lost int) {
	for _, requests := range series {
		confirmed := 0
		for _, r := range requests {
			switch {
			case r == nil:
			case r.do == "DELETE":
				confirmed = left[r.key] // of these nothing can be said
			case r.status < 300:
				confirmed += r.amount
			}
		}
		if !slices.ContainsFunc(requests, func(r *request) bool { return r != nil && r.do == "DELETE" }) {
			lost += confirmed - left[requests[0].key]
		}
	}
	return lost
}

// TestRealLoadTools runs the scripts of loadtest against lanekeeper in front of
// a witness, which must then find the order kept.
func TestRealLoadTools(t *testing.T) {
	for _, test := range []struct {
		tool string
		args []string
		says string // when every answer was 2xx
	}{
		{"hey", []string{"7", "400", "8"}, `(?s)Status code distribution:\s+\[200\]\s+400 responses\s*$`},
		{"vegeta", []string{"200", "2", "20"}, `(?s)Success +\[ratio\] +100\.00%\s+Status Codes +\[code:count\] +200:400\s+Error Set:\s*$`},
		{"wrk", []string{"1", "16", "50"}, `\n +[1-9]\d+ requests in [^\n]*\nRequests/sec: `}, // else lines of errors stand between
	} {
		t.Run(test.tool, func(t *testing.T) {
			if test.tool == "vegeta" {
				needVegeta(t)
			} else {
				program(t, test.tool, test.tool)
			}
			witness := start(t, lanekeeperCommand(nil, "witness", "--listen", "127.0.0.1:0"), `witness listens on (http://[0-9.:]+)`)[1]
			address := startLanekeeper(t, nil, "--upstream", witness, "--key", "header:X-Order-Id")
			script := exec.Command("sh", append([]string{"../../loadtest/scripts/" + test.tool + ".sh"}, test.args...)...)
			script.Env = append(os.Environ(), "URL=http://"+address)
			out, err := script.CombinedOutput()
			if err != nil || !regexp.MustCompile(test.says).Match(out) {
				t.Errorf("%s.sh: %v, want %s in\n%s", test.tool, err, test.says, out)
			}
			verdict, err := lanekeeperCommand(nil, "witness", "check", witness).CombinedOutput()
			if err != nil || !strings.HasSuffix(string(verdict), "\nPASS\n") {
				t.Errorf("witness check: %v\n%s", err, verdict)
			}
		})
	}
}

// needVegeta fetches and builds what vegeta.sh runs, if it is not installed.
func needVegeta(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("vegeta"); err == nil {
		return
	}
	if out, err := exec.Command("go", "run", "github.com/tsenart/vegeta/v12@v12.13.0", "-version").CombinedOutput(); err != nil {
		absent(t, "no vegeta here: go install github.com/tsenart/vegeta/v12@v12.13.0\n%s", out)
	}
}

// TestRealCurl makes curl do what it does to nginx, and the same through
// lanekeeper: it must get the same bytes, and nginx must have stored the same.
//
// Mutant: a response of unknown length is chunked for an HTTP/1.0 client as well.
func TestRealCurl(t *testing.T) {
	curl := program(t, "curl", "curl")
	n := startNginx(t)
	through := n.lanekeeper(t)
	n.write(t, "static/page.html", strings.Repeat("<p>a page</p>\n", 1000))
	n.write(t, "static/other", "another")
	n.write(t, "static/empty", "")
	n.write(t, "files/small", "small")
	upload := strings.Repeat("0123456789abcde\n", 500<<10/16)
	n.write(t, "upload", upload)
	file := filepath.Join(n.dir, "upload")
	for _, test := range []struct {
		name   string
		args   []string // AT is http:// and where to
		stores string   // the upload, as this file
		shows  string   // with --verbose
	}{
		{"HTTP/1.0", []string{"--http1.0", "AT/static/page.html"}, "", `> GET /static/page.html HTTP/1.0`},
		{"HTTP/1.0, in a lane", []string{"--http1.0", "AT/files/small"}, "", `> GET /files/small HTTP/1.0`},
		{"HTTP/1.0, empty", []string{"--http1.0", "AT/static/empty"}, "", `> GET /static/empty HTTP/1.0`},
		{"HTTP/1.0, of unknown length", []string{"--http1.0", "--compressed", "AT/packed/page.html"}, "", `< Content-Encoding: gzip`},
		{"HTTP/1.1", []string{"--http1.1", "AT/static/page.html"}, "", `> GET /static/page.html HTTP/1.1`},
		{"HTTP/2 offered", []string{"--http2", "AT/static/page.html"}, "", `> Upgrade: h2c`},
		{"HTTP/2 offered, in a lane", []string{"--http2", "AT/files/small"}, "", `> Upgrade: h2c`},
		{"head", []string{"--head", "--output", "/dev/null", "AT/static/page.html"}, "", ``},
		{"head, in a lane", []string{"--head", "--output", "/dev/null", "AT/files/small"}, "", ``},
		{"range", []string{"--range", "10-29", "AT/static/page.html"}, "", `< HTTP/1.1 206`},
		{"compressed", []string{"--compressed", "AT/packed/page.html"}, "", `< Content-Encoding: gzip`},
		{"not modified", []string{"--time-cond", filepath.Join(n.dir, "static/page.html"), "AT/static/page.html"}, "", `< HTTP/1.1 304`},
		{"two on one connection", []string{"AT/static/page.html", "AT/static/other"}, "", `Re-using existing connection`},
		{"two on one connection, in a lane", []string{"AT/files/small", "AT/files/small"}, "", `Re-using existing connection`},
		{"upload in chunks", []string{"--http1.1", "--header", "Transfer-Encoding: chunked", "--upload-file", file, "AT/drop/a"}, "drop/a", `> Transfer-Encoding: chunked`},
		{"upload in chunks, in a lane", []string{"--http1.1", "--header", "Transfer-Encoding: chunked", "--upload-file", file, "AT/files/a"}, "files/a", `> Transfer-Encoding: chunked`},
		{"upload if it may", []string{"--header", "Expect: 100-continue", "--expect100-timeout", "60", "--upload-file", file, "AT/drop/b"}, "drop/b", `< HTTP/1.1 100 Continue`},
		{"upload if it may, in a lane", []string{"--header", "Expect: 100-continue", "--expect100-timeout", "60", "--upload-file", file, "AT/files/b"}, "files/b", `< HTTP/1.1 100 Continue`},
		{"upload by HTTP/1.0", []string{"--http1.0", "--upload-file", file, "AT/files/c"}, "files/c", `> PUT /files/c HTTP/1.0`},
		{"refused upload", []string{"--header", "Expect:", "--upload-file", file, "AT/tiny/a"}, "", `< HTTP/1.1 413`},
		{"refused upload, in a lane", []string{"--header", "Expect:", "--upload-file", file, "AT/files/tiny"}, "", `< HTTP/1.1 413`},
		{"delete what is not there", []string{"--request", "DELETE", "AT/files/none"}, "", `< HTTP/1.1 404`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var heads, bodies [2]string
			for i, address := range []string{n.address, through} {
				file := filepath.Join(t.TempDir(), "heads")
				args := []string{"--silent", "--show-error", "--verbose", "--max-time", "20", "--header", "Host: files.test",
					"--dump-header", file, "--write-out", `\n%{http_code}, %{num_connects} connections\n`}
				for _, arg := range test.args {
					args = append(args, strings.Replace(arg, "AT/", "http://"+address+"/", 1))
				}
				cmd := exec.Command(curl, args...)
				var out, shown bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &shown
				if err := cmd.Run(); err != nil {
					t.Fatalf("%s: %v\n%s", address, err, shown.String())
				}
				if !strings.Contains(shown.String(), test.shows) {
					t.Errorf("%s: no %q in\n%s", address, test.shows, shown.String())
				}
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				heads[i], bodies[i] = comparableHeads(string(text)), out.String()
				if test.stores == "" {
					continue
				}
				stored := filepath.Join(n.dir, test.stores)
				if content, err := os.ReadFile(stored); err != nil || string(content) != upload {
					t.Errorf("%s: %d bytes stored, %v; not the %d sent", address, len(content), err, len(upload))
				}
				os.Remove(stored)
			}
			if heads[0] != heads[1] {
				t.Errorf("directly:%s\nthrough lanekeeper:%s", heads[0], heads[1])
			}
			if bodies[0] != bodies[1] {
				t.Errorf("directly: %d bytes …%.200s\nthrough lanekeeper: %d bytes …%.200s", len(bodies[0]), bodies[0], len(bodies[1]), bodies[1])
			}
		})
	}
}

// comparableHeads leaves out what may differ between two connections, and what
// means nothing: the order of the fields, and the case of their names.
func comparableHeads(heads string) string {
	heads = regexp.MustCompile(`(?m)^[\w-]+:`).ReplaceAllStringFunc(heads, strings.ToLower)
	mayDiffer := regexp.MustCompile(`^(date|via|connection|keep-alive|lanekeeper-ticket):`)
	lines := slices.DeleteFunc(strings.SplitAfter(heads, "\r\n"), mayDiffer.MatchString)
	slices.Sort(lines)
	return strings.Join(lines, "")
}
