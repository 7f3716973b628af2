package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lanekeeper/lock/locktest"
)

// recordStores start a server in which records are kept, and say how it is configured.
var recordStores = map[string]func(t *testing.T, dir string) (server *locktest.Server, section string){
	"redis": func(t *testing.T, _ string) (*locktest.Server, string) {
		server := locktest.Redis(t)
		return server, fmt.Sprintf("redis: {addresses: [%q]}", server.Address)
	},
	"postgres": func(t *testing.T, dir string) (*locktest.Server, string) {
		server := locktest.Postgres(t)
		dsn := filepath.Join(dir, "dsn")
		writeFile(t, dsn, "postgres://postgres@"+server.Address+"/postgres?sslmode=disable\n")
		return server, fmt.Sprintf("postgres: {dsn_file: %s}", dsn)
	},
}

var recordKills = flag.Int("record.kills", 5, "TestKilledWithAClaim: how often a node is killed at any time, with each store")

// claimLease is what a claim whose node has died keeps others waiting.
const claimLease = 2 * time.Second

// ofTheDay skips all kinds of stores but one that each day has, later by so many days.
func ofTheDay(t *testing.T, kind string, later int) {
	t.Helper()
	names := slices.Sorted(maps.Keys(recordStores))
	if !*everyStore && kind != names[(time.Now().YearDay()+later)%len(names)] {
		t.Skip("only with -stores, or on another day")
	}
}

// recorder is a node that keeps records in a store, and its service, which counts.
type recorder struct {
	t      *testing.T
	file   string
	node   *process
	server *locktest.Server

	mu    sync.Mutex // guards the rest
	runs  map[string]int
	delay time.Duration
	gate  chan struct{} // what a request at the service waits for; nil: nothing
}

// startRecorder has the routes that are given, for upstream app, in terms of the store's name.
func startRecorder(t *testing.T, kind, routes string) *recorder {
	t.Helper()
	dir := t.TempDir()
	r := &recorder{t: t, runs: make(map[string]int), file: filepath.Join(dir, "lanekeeper.yaml")}
	service := httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(func() {
		r.set(0, nil)
		service.CloseClientConnections()
		service.Close()
	})
	server, section := recordStores[kind](t, dir)
	r.server = server
	writeFile(t, r.file, fmt.Sprintf(`
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
upstreams: [{name: app, targets: [%q], max_connections: 1, connect_timeout: 20s}]
stores: {%s}
routes:
%s
shutdown: {delay: 0s, drain_timeout: 5s}
`, service.URL, section, strings.ReplaceAll(routes, "{store}", kind)))
	r.start()
	return r
}

func (r *recorder) start() {
	r.node = launch(r.t, r.file)
	line := r.node.log("serving")
	r.node.address, r.node.observe = "http://"+line["listen"].(string), "http://"+line["observe"].(string)
	r.node.forget()
}

func (r *recorder) kill() {
	r.t.Helper()
	r.node.signal(syscall.SIGKILL)
	r.node.wait()
}

func (r *recorder) set(delay time.Duration, gate chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gate != nil {
		close(r.gate)
	}
	r.delay, r.gate = delay, gate
}

func (r *recorder) serve(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	name := cmp.Or(request.Header.Get("Idempotency-Key"), request.URL.Path+" "+request.Header.Get("Lanekeeper-Seq"))
	r.runs[name]++
	run, delay, gate := r.runs[name], r.delay, r.gate
	r.mu.Unlock()
	time.Sleep(delay) // the service's work
	if gate != nil {
		<-gate
	}
	fmt.Fprintf(w, "%s: run %d", name, run)
}

func (r *recorder) ran(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs[name]
}

// send makes a request of the given name, and returns its status and answer; 0 if there
// was none.
func (r *recorder) send(key, name string) (status int, body, replayed string) {
	return r.post("/orders/"+key, http.Header{"Idempotency-Key": {name}})
}

func (r *recorder) post(path string, header http.Header) (status int, body, replayed string) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.node.address+path, strings.NewReader("{}"))
	if err != nil {
		r.t.Error(err)
		return 0, "", ""
	}
	request.Header = header
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return 0, "", ""
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, "", ""
	}
	return response.StatusCode, string(b), response.Header.Get("Idempotent-Replayed")
}

// settles repeats a request, as clients do, until it has an answer that will not change,
// and checks that it does so in time and was not run twice.
func (r *recorder) settles(key, name string) (status int, replayed bool) {
	r.t.Helper()
	for began := time.Now(); time.Since(began) < claimLease+7*time.Second; time.Sleep(20 * time.Millisecond) {
		status, body, mark := r.send(key, name)
		switch {
		case status == 200 && body == name+": run 1":
		case status == 409 && strings.Contains(body, "idempotency-outcome-unknown"):
		case status == 0, status == 502, status == 503, status == 409 && strings.Contains(body, "idempotency-in-progress"):
			continue
		default:
			r.t.Errorf("%s: %d %s", name, status, body)
		}
		if n := r.ran(name); n > 1 || status == 200 && n != 1 {
			r.t.Errorf("%s: %d, and it ran %d times", name, status, n)
		}
		return status, mark == "true"
	}
	r.t.Errorf("%s has no answer, and its claim has long ended", name)
	return 0, false
}

// TestKilledWithAClaim kills a node at each point of a request with a name, and starts it
// again: nothing runs twice, and nothing is stuck for longer than a claim's lease.
//
// Mutants: a claim that ended leaves its name free; a claim does not end; what became of the
// request is kept after its answer.
func TestKilledWithAClaim(t *testing.T) {
	for kind := range recordStores {
		t.Run(kind, func(t *testing.T) {
			ofTheDay(t, kind, 0)
			r := startRecorder(t, kind, fmt.Sprintf(`
  - name: order
    match: {path: "/orders/{id}"}
    upstream: app
    key: {space: order, from: [{path: id}]}
    idempotency: {mode: required, store: {store}, claim_lease: %s}`, claimLease))
			check := func(name string, status int, replayed bool, runs int) {
				t.Helper()
				if have, mark := r.settles(name, name); have != status || mark != replayed || r.ran(name) != runs {
					t.Errorf("%s: %d, replayed %v, ran %d times; want %d, %v, %d", name, have, mark, r.ran(name), status, replayed, runs)
				}
			}
			inflight := func(name string) (gate chan struct{}) {
				gate = make(chan struct{})
				r.set(0, gate)
				go r.send(name, name)
				until(t, name+" runs", func() bool { return r.ran(name) == 1 })
				return gate
			}

			inflight("occupant") // has the one connection
			go r.send("claimed", "claimed")
			r.awaits(2)
			r.kill()
			r.set(0, nil)
			r.start()
			check("claimed", 409, false, 0)
			check("occupant", 409, false, 1)

			inflight("dispatched")
			r.kill()
			r.set(0, nil)
			r.start()
			check("dispatched", 409, false, 1)

			if status, _, _ := r.send("recorded", "recorded"); status != 200 {
				t.Errorf("recorded: %d", status)
			}
			r.kill()
			r.start()
			check("recorded", 200, true, 1)

			r.set(5*time.Millisecond, nil)
			for i := range *recordKills {
				name := fmt.Sprintf("any-%d", i)
				var sending sync.WaitGroup
				sending.Go(func() { r.send(name, name) })
				time.Sleep(time.Duration(rand.IntN(12)) * time.Millisecond) // of the request's way
				r.kill()
				sending.Wait()
				r.start()
				r.settles(name, name)
			}
		})
	}
}

// awaits waits until the node has claimed so many names since it started.
func (r *recorder) awaits(claims int) {
	r.t.Helper()
	r.counts(fmt.Sprintf(`lanekeeper_idempotency_total{result="first",route="order"} %d`, claims))
}

// counts waits until the node's metrics have a line.
func (r *recorder) counts(line string) {
	r.t.Helper()
	until(r.t, line, func() bool {
		response, err := http.Get(r.node.observe + "/metrics")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		return err == nil && strings.Contains(string(text), line)
	})
}
