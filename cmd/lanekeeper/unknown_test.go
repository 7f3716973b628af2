package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/admin"
)

// disk is an output that takes what it is told to.
type disk struct {
	mu     sync.Mutex // guards the rest
	text   bytes.Buffer
	takes  int // bytes of the next lines; negative: all
	hangs  chan struct{}
	closed int
}

func (d *disk) Write(b []byte) (int, error) {
	d.mu.Lock()
	hangs := d.hangs
	d.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.takes < 0 || d.takes >= len(b) {
		return d.text.Write(b)
	}
	n, _ := d.text.Write(b[:d.takes])
	d.takes = 0
	return n, syscall.ENOSPC
}

func (d *disk) Close() error { d.closed++; return nil }

func (d *disk) set(takes int) {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takes = takes
}

// tickets are those of the lines that can be read, in their order.
func tickets(t *testing.T, text string) (found []string) {
	t.Helper()
	for line := range strings.Lines(text) {
		var u admin.Unknown
		if json.Unmarshal([]byte(line), &u) == nil {
			found = append(found, u.Ticket)
		}
	}
	return found
}

func numbered(n int) *admin.Unknown { return &admin.Unknown{Ticket: fmt.Sprint(n)} }

// Mutants: half a line spoils the next one; what is lost is not counted, or told of each
// time; losses after a complaint are never told of; the output is left open.
func TestJournalOutlivesAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		out := &disk{takes: -1}
		w := newJournalWriter(out, slog.New(slog.NewTextHandler(&log, nil)))
		w.put(numbered(0))
		out.set(25) // bytes of a line
		w.put(numbered(1))
		out.set(0)
		w.put(numbered(2))
		w.put(numbered(3))
		out.set(-1)
		w.put(numbered(4))
		w.put(numbered(5))
		synctest.Wait()
		if got := w.dropped.Load(); got != 3 {
			t.Errorf("%d are dropped", got)
		}
		if said := strings.Count(log.String(), "event=journal-lost records=1 "); said != 1 || !strings.Contains(log.String(), "no space left") {
			t.Errorf("the log:\n%s", &log)
		}
		time.Sleep(journalComplain)
		out.set(0)
		w.put(numbered(6))
		synctest.Wait()
		if !strings.Contains(log.String(), "event=journal-lost records=3 ") {
			t.Errorf("the log:\n%s", &log)
		}
		w.put(numbered(7))
		out.set(-1)
		w.put(numbered(8))
		w.stop(t.Context())
		w.stop(t.Context())
		if have := tickets(t, out.text.String()); !slices.Equal(have, []string{"0", "4", "5", "8"}) || out.closed != 1 {
			t.Errorf("got %v, closed %d times\n%s", have, out.closed, &out.text)
		}
		if !strings.HasSuffix(strings.TrimSpace(log.String()), `records=1 error="see the lines before"`) {
			t.Errorf("the log:\n%s", &log)
		}
		w.put(numbered(9)) // by whoever comes too late
		if got := w.dropped.Load(); got != 6 {
			t.Errorf("%d are dropped", got)
		}
	})
}

// An output that hangs holds up nobody, and no stop for ever.
//
// Mutants: put waits for room; stop waits without end; what is left is not counted.
func TestJournalDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		out := &disk{takes: -1, hangs: make(chan struct{})}
		w := newJournalWriter(out, slog.New(slog.NewTextHandler(&log, nil)))
		began := time.Now()
		for n := range journalQueue + 11 {
			w.put(numbered(n))
			synctest.Wait()
		}
		if took, got := time.Since(began), w.dropped.Load(); took != 0 || got != 10 {
			t.Errorf("after %v %d are dropped", took, got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w.stop(ctx)
		if got := w.dropped.Load(); got != journalQueue+11 {
			t.Errorf("%d are dropped", got)
		}
		if !strings.Contains(log.String(), fmt.Sprintf("records=%d ", journalQueue+1+9)) { // one has been told of
			t.Errorf("the log:\n%s", &log)
		}
		close(out.hangs)
		<-w.done
	})
}

// Each line is in one file, in order, and files are as large and as many as they may be.
//
// Mutants: the size is in another unit; one file too many is kept, or one too few; others
// may read the file; what is there is overwritten.
func TestJournalFiles(t *testing.T) {
	for _, most := range []int{3, 100} {
		dir := t.TempDir()
		path := filepath.Join(dir, "unknown.jsonl")
		if err := os.WriteFile(path, []byte(`{"ticket":"before"}`+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		config := JournalConfig{File: path, MaxSize: MiB, MaxFiles: most}
		out, err := config.openJournal()
		if err != nil {
			t.Fatal(err)
		}
		w := newJournalWriter(out, slog.New(slog.DiscardHandler))
		const records = 700 // less than journalQueue: none is dropped
		var want []string
		for n := range records {
			u := numbered(n)
			u.Detail = strings.Repeat("d", 8<<10)
			want = append(want, u.Ticket)
			w.put(u)
		}
		w.stop(t.Context())
		if got := w.dropped.Load(); got != 0 {
			t.Errorf("%d are dropped", got)
		}
		files, err := filepath.Glob(dir + "/*")
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(files) // unknown-<time>-… come before unknown.
		if wanted := min(most, 6); len(files) != wanted {
			t.Errorf("%d files, want %d: %v", len(files), wanted, files)
		}
		var have []string
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(file)
			if err != nil || info.Mode().Perm() != journalMode || info.Size() > int64(MiB) {
				t.Errorf("%s: %v, %d bytes, %v", file, info.Mode(), info.Size(), err)
			}
			have = append(have, tickets(t, string(text))...)
		}
		if most > 6 {
			want = append([]string{"before"}, want...)
		} else {
			want = want[len(want)-len(have):]
		}
		if !slices.Equal(have, want) || len(have) < 250 {
			t.Errorf("%d records, want %d", len(have), len(want))
		}
	}
}

// Mutants: a file that cannot be opened is found with the first record; it is no fault of
// the configuration.
func TestJournalThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	config := "journal: {file: \"" + dir + "\"}\nserver: {listen: \"127.0.0.1:0\"}\nobserve: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\n" + someApp
	if err := os.WriteFile(dir+"/lk.yaml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errs := runArgs(t, "serve", "--config", dir+"/lk.yaml")
	if code != exitConfig || !strings.HasPrefix(errs, "lanekeeper: journal.file: open ") {
		t.Errorf("got %d, %s", code, errs)
	}
}

func TestConfigJournal(t *testing.T) {
	runProblemTests(t, []problemTest{
		{"sound", "journal: {file: /var/lib/lk.jsonl, max_size: 1MiB, max_files: 2, keep: 0}\n" + someApp, nil},
		{"no file", "journal: {file: \"\"}\n" + someApp, []string{"lk.yaml:1:11: error: journal.file: write none, stdout, or the path of a file"}},
		{"odd size", "journal: {max_size: 1025KiB}\n" + someApp, []string{"lk.yaml:1:11: error: journal.max_size: 1025KiB is not a whole number of MiB"}},
		{"too small", "journal: {max_size: 1KiB}\n" + someApp, []string{"lk.yaml:1:11: error: journal.max_size: 1KiB is too small: at least 1MiB"}},
		{"no room for an older one", "journal: {max_files: 1}\n" + someApp, []string{"lk.yaml:1:11: error: journal.max_files: 1 is too small: at least 2"}},
		{"too many", "journal: {keep: 1000001}\n" + someApp, []string{"lk.yaml:1:11: error: journal.keep: 1000001 is too large: at most 1000000"}},
	})
}

// A node's requests with an unknown outcome: in the file and in the answer of its API,
// the same; shown; and all in the file when the process has ended.
//
// Mutants: the node does not hand the edge its ledger, or the ledger's record to the
// writer; the record's dispatch is left out.
func TestUnknownsOfANode(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			http.ReadRequest(bufio.NewReader(conn)) //nolint:errcheck // whatever it was
			conn.Close()
		}
	}()
	t.Cleanup(func() { listener.Close() })
	file := t.TempDir() + "/unknown.jsonl"
	p := serveProcess(t, "http://"+listener.Addr().String(), "journal: {file: \""+file+"\", keep: 2}\nshutdown: {delay: 0s}\n")
	p.forget()
	for n := range 3 {
		if got := <-post(fmt.Sprintf("%s/orders/A%%20%d", p.address, n), "body"); !strings.HasPrefix(got, "502 ") {
			t.Fatal(got)
		}
	}
	waitForMetric(t, p.observe, `lanekeeper_unknown_total{route="order"} 3`)
	waitForMetric(t, p.observe, `lanekeeper_journal_dropped_total 0`)

	code, out, errs := runArgs(t, "unknown", "-o", "json", "--admin", p.admin)
	var records admin.Unknowns
	if err := json.Unmarshal([]byte(out), &records); err != nil || code != exitOK || len(records.Unknown) != 2 || records.Unknown[1].Key != "A%202" {
		t.Fatalf("got %d, %v, %s\n%s", code, err, errs, out)
	}
	if u := records.Unknown[0]; u.Slug != "upstream-reset" || u.Dispatched == nil || u.SentBytes == 0 || u.Client != "127.0.0.1" || u.Method != "POST" || u.Node == "" || u.Owner != u.Node {
		t.Errorf("got %+v", u)
	}
	p.signal(syscall.SIGTERM)
	if err := p.cmd.Wait(); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var lines []admin.Unknown
	for line := range strings.Lines(string(text)) {
		var u admin.Unknown
		if err := json.Unmarshal([]byte(line), &u); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, u)
	}
	if len(lines) != 3 || !reflect.DeepEqual(lines[1:], records.Unknown) {
		t.Errorf("the file:\n%swant at its end %+v", text, records.Unknown)
	}
}

// Mutant: a broken response looks like an answer of our own.
func TestUnknownCommand(t *testing.T) {
	cluster := newFakeCluster()
	at, status := time.Date(2026, 11, 1, 12, 0, 0, 5e6, time.UTC), 200
	cluster.ledger.Add(&admin.Unknown{
		Ticket: "0197-1", Space: "order", Key: "A \x1b", Route: "orders", Method: "POST", Node: "lk-0", Client: "203.0.113.9",
		Slug: "peer-lost", Detail: "lost " + hostile, Arrived: at,
	})
	cluster.ledger.Add(&admin.Unknown{
		Ticket: "0197-2", Space: "order", Key: "7", Route: "orders", Method: "PUT", Node: "lk-0", Owner: "lk-0", Ingress: "lk-1",
		Target: "http://app", Slug: "upstream-reset", Status: &status, Detail: "broke off", Arrived: at, Dispatched: &at, SentBytes: 321,
	})
	address := cluster.serve(t)
	for _, test := range []struct {
		args string
		want []string // lines, without their time
	}{
		{"--no-headers", []string{
			"order/A%20%1B  orders  POST  peer-lost                   0    0197-1",
			"order/7        orders  PUT   upstream-reset (after 200)  321  0197-2",
		}},
		{"--limit 1", []string{"KEY      ROUTE   METHOD  WHY                         SENT  TICKET", "order/7  orders  PUT     upstream-reset (after 200)  321   0197-2"}},
		{"--since 1h --limit 1 --no-headers", []string{"order/7  orders  PUT  upstream-reset (after 200)  321  0197-2"}},
		{"--since 1ns --no-headers", nil},
		{"-o wide --limit 1 --no-headers", []string{"order/7  orders  PUT  upstream-reset (after 200)  321  0197-2  lk-0  lk-0  lk-1  –  http://app  2026-11-01T12:00:00.005Z  2026-11-01T12:00:00.005Z  broke off"}},
	} {
		code, out, errs := runArgs(t, strings.Fields("unknown --admin "+address+" "+test.args)...)
		var have []string
		for line := range strings.Lines(out) {
			_, rest, _ := strings.Cut(line, " ")
			have = append(have, strings.TrimSpace(rest))
		}
		if code != exitOK || errs != "" || !slices.Equal(have, test.want) {
			t.Errorf("%s: got %d, %s\n%s\nwant\n%s", test.args, code, errs, strings.Join(have, "\n"), strings.Join(test.want, "\n"))
		}
	}
	for args, want := range map[string]int{
		"unknown --since -1s": exitUsage, "unknown --limit -1": exitUsage, "unknown order/7": exitUsage, "unknown -o toml": exitUsage,
		"unknown --admin 127.0.0.1:1": exitAdmin,
	} {
		if code, out, _ := runArgs(t, strings.Fields(args)...); code != want || out != "" {
			t.Errorf("%s: got %d, %q, want %d", args, code, out, want)
		}
	}
	for _, format := range []string{"json", "yaml"} {
		code, out, errs := runArgs(t, "unknown", "-o", format, "--admin", address)
		if code != exitOK || !strings.Contains(out, "0197-1") || strings.ContainsAny(out, "\x1b\u009b\x7f") {
			t.Errorf("%s: got %d, %s, %q", format, code, errs, out)
		}
	}
}

// Standard output is not ours to close.
func TestJournalOnStandardOutput(t *testing.T) {
	out, err := (&JournalConfig{File: journalStdout}).openJournal()
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stdout.Stat(); errors.Is(err, os.ErrClosed) {
		t.Error("it is closed")
	}
	if none, err := (&JournalConfig{File: journalNone}).openJournal(); none != io.WriteCloser(nil) || err != nil {
		t.Errorf("none is %v, %v", none, err)
	}
}

// Mutant: the node leaves the output to the end of the process.
func TestANodeClosesItsJournal(t *testing.T) {
	config, err := mustLoad(t, "server: {listen: \"127.0.0.1:0\"}\nobserve: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\nshutdown: {delay: 0s}\n"+someApp).nodeConfig()
	if err != nil {
		t.Fatal(err)
	}
	out := &disk{takes: -1}
	config.unknowns = out
	n, err := startNode(config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.stop(nil); err != nil || out.closed != 1 {
		t.Errorf("%v, closed %d times", err, out.closed)
	}
}
