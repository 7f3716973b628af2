package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lanekeeper/admin"
)

// happens adds an event to a journal as if it had been logged at a time.
func happens(j *admin.Journal, at time.Time, level slog.Level, message string, attributes ...any) {
	line := slog.NewRecord(at, level, message, 0)
	line.Add(attributes...)
	j.Handler(slog.DiscardHandler).Handle(context.Background(), line) //nolint:errcheck // it takes everything
}

// Names and keys come from anybody.
const hostile = "A \x1b[31m\u009b2J\u202e\r\n\x7f"

// Mutants killed: attributes lose their order, or their quotes; what moves the cursor
// reaches a terminal, as text or as JSON; --since shows all, or the older ones.
func TestEventsCommand(t *testing.T) {
	cluster := newFakeCluster()
	old := time.Date(2026, 11, 1, 12, 0, 0, 5e6, time.UTC)
	happens(cluster.journal, old, slog.LevelInfo, "serving", "routes", 2, "listen", "127.0.0.1:7940", "event", "started")
	happens(cluster.journal, time.Now(), slog.LevelWarn, "key is hot", "event", "key-hot", "key", hostile, "empty", "", "share", 0.5, "for", "a b")
	address := cluster.serve(t)
	now := regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ  lk-0  WARN +`)
	const hot = "NOW key-hot  key is hot key=\"A \\u001b[31m?2J?\\r\\n?\" empty=\"\" share=0.5 for=\"a b\"\n"
	for _, test := range []struct{ args, want string }{
		{"", "TIME                      NODE  LEVEL  EVENT    DETAIL\n" +
			"2026-11-01T12:00:00.005Z  lk-0  INFO   started  serving routes=2 listen=127.0.0.1:7940\n" + hot},
		{"--since 10m --no-headers", hot},
	} {
		code, out, errs := runArgs(t, strings.Fields("events --admin "+address+" "+test.args)...)
		if out = now.ReplaceAllString(out, "NOW "); code != exitOK || out != test.want || errs != "" {
			t.Errorf("%s: got %d\n%s%s\nwant\n%s", test.args, code, out, errs, test.want)
		}
	}
	code, out, _ := runArgs(t, "events", "--since", "1h", "-o", "json", "--admin", address)
	var events admin.Events
	if err := json.Unmarshal([]byte(out), &events); err != nil || code != exitOK || len(events.Events) != 1 || events.Next != events.Events[0].ID {
		t.Fatalf("json: got %d, %v\n%s", code, err, out)
	}
	var attributes struct{ Key string }
	if err := json.Unmarshal(events.Events[0].Attributes, &attributes); err != nil || attributes.Key != hostile {
		t.Errorf("got %q, %v", attributes.Key, err)
	}
	if printable(strings.ReplaceAll(out, "\n", "")) != strings.ReplaceAll(out, "\n", "") {
		t.Errorf("%q moves the cursor", out)
	}
	for args, want := range map[string]int{
		"events -f -o yaml": exitUsage, "events --since -1s": exitUsage, "events --since x": exitUsage, "events order": exitUsage,
		"events --admin 127.0.0.1:1": exitAdmin, "events -f --admin 127.0.0.1:1": exitAdmin,
	} {
		if code, out, _ := runArgs(t, strings.Fields(args)...); code != want || out != "" {
			t.Errorf("%s: got %d, %q, want %d", args, code, out, want)
		}
	}
}

// following is `lanekeeper events -f`, as a process.
type following struct {
	t           *testing.T
	out, errors *bufio.Scanner
	signal      func(os.Signal) error
	wait        func() (code int)
}

func follow(t *testing.T, args ...string) *following {
	t.Helper()
	cmd := lanekeeperCommand(nil, append([]string{"events", "-f"}, args...)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() }) // else nothing ends the scanners
	t.Cleanup(func() { stuck.Stop(); cmd.Process.Kill(); cmd.Wait() })
	return &following{t, bufio.NewScanner(stdout), bufio.NewScanner(stderr), cmd.Process.Signal, func() int {
		io.Copy(io.Discard, stdout)
		cmd.Wait()
		return cmd.ProcessState.ExitCode()
	}}
}

// until reads events up to one, which it returns.
func (f *following) until(kind string) (e admin.Event, names []string) {
	f.t.Helper()
	for f.out.Scan() {
		e = admin.Event{}
		if err := json.Unmarshal(f.out.Bytes(), &e); err != nil {
			f.t.Fatalf("%v: %s", err, f.out.Bytes())
		}
		if names = append(names, e.Event); e.Event == kind {
			return e, names
		}
	}
	f.t.Fatalf("no %s after %v", kind, names)
	return e, nil
}

func (f *following) note(want string) {
	f.t.Helper()
	if !f.errors.Scan() || !strings.Contains(f.errors.Text(), want) {
		f.t.Fatalf("got %q, want %q", f.errors.Text(), want)
	}
}

// A node's events as somebody sees them who follows it, over its end and its next
// process: each once, and those from before that somebody came.
//
// Mutants killed: the journal is empty for those who come late; the last events of the
// node's end are not told; the stream holds up that end; the key is shown although log.keys
// says hash.
func TestEventsOfANode(t *testing.T) {
	u := newHoldingUpstream(t)
	address := freeAddress(t)
	file := t.TempDir() + "/lanekeeper.yaml"
	config := `
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "` + address + `"}
log: {access: none}
shutdown: {delay: 0s}
upstreams: [{name: app, targets: ["` + u.URL + `"]}]
defaults: {lane: {hot: {depth: 2, busy: 0, for: 100ms, cool_after: 100ms}}}
routes: [{name: order, match: {path: "/orders/{id}"}, upstream: app, key: {space: order, from: [{path: id}]}}]
`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, file)
	line := p.log("serving")
	serving, observe := "http://"+line["listen"].(string), "http://"+line["observe"].(string)
	p.forget()

	f := follow(t, "--admin", address, "-o", "json")
	if e, _ := f.until("started"); e.Level != "INFO" || !strings.Contains(string(e.Attributes), `"admin":"`+address+`"`) {
		t.Errorf("got %+v", e)
	}
	for range 3 {
		post(serving+"/orders/private", "x")
	}
	u.next(t)
	e, _ := f.until("key-hot")
	if !strings.Contains(string(e.Attributes), `"key_hash":"b2b1d98126c3bb22"`) || strings.Contains(string(e.Attributes), "private") {
		t.Errorf("got %s", e.Attributes)
	}
	for range 3 {
		u.release <- struct{}{}
	}
	f.until("key-cooled")
	waitForMetric(t, observe, "lanekeeper_events_missed_total 0")

	began := time.Now()
	p.signal(syscall.SIGTERM)
	_, last := f.until("drain-done")
	if !slices.Equal(last, []string{"drain-begun", "drain-done"}) {
		t.Errorf("the end: %v", last)
	}
	if code := p.cmdWait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the node's end took %v", took)
	}
	f.note("the stream has ended; trying again")
	p = launch(t, file)
	p.log("serving")
	p.forget()
	f.note("answers again")
	if _, names := f.until("started"); len(names) != 1 {
		t.Errorf("after the restart: %v", names)
	}
	if err := f.signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := f.wait(); code != exitInterrupt {
		t.Errorf("exit code %d", code)
	}
}

// cmdWait is wait for a process whose log is read by forget.
func (p *process) cmdWait() int {
	p.t.Helper()
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// A stream that breaks is taken up where it was, of every node by itself; what a node has no
// more is said, and who does not answer; what is nobody's stream is no reason to try for ever.
//
// Mutants killed: a silent connection is waited for; a refusal is tried again; what was
// refused for want of a place is not; an event that is known is told again, or one of another
// node for it; a gap is not said; nobody is asked for what came before the stream.
func TestFollowerComesBack(t *testing.T) {
	event := func(node, id string) string {
		return `{"id":` + id + `,"node":"` + node + `","event":"key-hot","message":"` + "\u009b" + `","attributes":{}}`
	}
	said := func(node, id string) string { return "id: 1\nevent: event\ndata: " + event(node, id) + "\n\n" }
	past := []string{
		`{"events":[` + event("lk-1", "70") + `,` + event("lk-0", "7") + `]}`,
		`{"events":[` + event("lk-1", "70") + `,` + event("lk-0", "8") + `,` + event("lk-1", "71") + `]}`,
		`{"events":[]}`,
		`{"events":[` + event("lk-0", "99") + `],"silent":[{"node":"lk-1","why":"` + "\u009b" + `"}]}`,
		`{"events":[` + event("lk-1", "172") + `,` + event("lk-0", "40000") + `]}`,
	}
	streams := 0
	answers := []func(w http.ResponseWriter, r *http.Request){
		func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "retry: 2000\n\n"+said("lk-0", "7")+said("lk-0", "8"))
		},
		func(w http.ResponseWriter, r *http.Request) { // nothing more comes
			io.WriteString(w, said("lk-1", "71")+said("lk-1", "72"))
			http.NewResponseController(w).Flush() //nolint:errcheck // the test fails then
			<-r.Context().Done()
		},
		func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"type":"urn:lanekeeper:problem:too-many-streams","status":503,"detail":"full"}`)
		},
		func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "event: missed\ndata: {\"missed\":90}\n\nevent: silent\ndata: []\n\n")
		},
		func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"type":"urn:lanekeeper:problem:unauthorized","status":401,"detail":"a token"}`)
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("stream") != "events" {
			io.WriteString(w, past[streams])
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		streams++
		answers[streams-1](w, r)
	}))
	defer server.Close()
	o := adminOptions{address: server.URL, output: "table"}
	client, err := o.client()
	if err != nil {
		t.Fatal(err)
	}
	var out, notes strings.Builder
	p := &eventPrinter{out: &out, headers: true}
	var told []string
	f := &follower{client: client.patient(), notes: &notes, pause: time.Millisecond, silence: 2 * time.Second, event: func(e *admin.Event, data []byte) error {
		told = append(told, e.Node+" "+strconv.FormatUint(e.ID, 10))
		return p.event(e, data)
	}}
	exit, _ := f.run(t.Context()).(*exitError) //nolint:errorlint // as run returns it
	if exit == nil || exit.code != exitAdmin {
		t.Errorf("got %v", exit)
	}
	if want := []string{"lk-1 70", "lk-0 7", "lk-0 8", "lk-1 71", "lk-1 72", "lk-0 99", "lk-1 172", "lk-0 40000"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	base := "! " + server.URL
	if want := base + ": the stream has ended; trying again\n" + base + " answers again\n" +
		base + ": the stream has ended: nothing came for 2s; trying again\n" +
		"! lk-1 does not answer, and its events are missing: ?\n! 90 events of lk-0 are missing here: it did not keep them long enough\n" +
		base + " answers again\n! lk-1 answers again, or is a member no more\n" + base + ": the stream has ended; trying again\n" +
		"! 99 events of lk-1 are missing here: it did not keep them long enough\n"; notes.String() != want {
		t.Errorf("got\n%swant\n%s", &notes, want)
	}
	if table := strings.Split(out.String(), "\n"); len(table) != 10 || !strings.HasPrefix(table[0], "TIME ") || strings.Contains(out.String(), "\u009b") {
		t.Errorf("got\n%s", &out)
	}
}

// Whichever node is asked tells of all of them, as it happens, and of who does not answer.
//
// Mutants killed: the stream is of the node that is asked alone; who is silent is not said;
// --node shows all.
func TestEventsOfACluster(t *testing.T) {
	c := startMembers(t, 3, newBlocking(t).URL, "")
	all := follow(t, "--admin", c.admins[0], "-o", "json")
	one := follow(t, "--admin", c.admins[0], "-o", "json", "--node", "n3")
	started := map[string]bool{}
	for len(started) < 3 {
		e, _ := all.until("started")
		started[e.Node] = true
	}
	c.cli(t, exitOK, "draining n2", "drain", "--wait", "--node", "n2", "--admin", c.admins[2])
	if e, _ := all.until("drain-begun"); e.Node != "n2" {
		t.Errorf("%s drains", e.Node)
	}
	c.cli(t, exitOK, "draining n3", "drain", "--node", "n3", "--admin", c.admins[2])
	if e, _ := one.until("drain-begun"); e.Node != "n3" {
		t.Errorf("of n3 alone: %s drains", e.Node)
	}
	c.cli(t, exitNegative, "no live member", "events", "-f", "--node", "n9", "--admin", c.admins[0])
	c.nodes[2].signal(syscall.SIGSTOP)
	all.note("n3 does not answer, and its events are missing")
	c.nodes[2].signal(syscall.SIGCONT)
	all.note("n3 answers again")
	c.nodes[0].signal(syscall.SIGTERM)
	for {
		if e, _ := all.until("drain-done"); e.Node == "n1" {
			break
		}
	}
	for !strings.Contains(all.errors.Text(), "the stream has ended") { // after what it says of the others, which it has left
		if !all.errors.Scan() {
			t.Fatal("nobody says that the stream has ended")
		}
	}
}

// Every event that the source logs is explained, and every one that is explained is
// logged.
//
// Mutants killed: one is misspelt; one is left out of EventKinds.
func TestEventKindsAreThoseOfTheSource(t *testing.T) {
	logged := make(map[string]bool)
	pattern := regexp.MustCompile(`"event", "([^"]+)"`)
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, found := range pattern.FindAllStringSubmatch(string(source), -1) {
			logged[found[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range admin.EventKinds {
		if !logged[kind.Name] {
			t.Errorf("nothing logs %s", kind.Name)
		}
		delete(logged, kind.Name)
	}
	for name := range logged {
		t.Errorf("nothing explains %s", name)
	}
}
