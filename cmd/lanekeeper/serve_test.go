package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var processLogs = flag.String("process.logs", "", "directory that keeps the logs of processes, for a person to read")

// process is a running `lanekeeper serve`.
type process struct {
	t       testing.TB
	cmd     *exec.Cmd
	address string // http://…, where it serves
	observe string
	admin   string
	lines   chan map[string]any // of its log

	mu   sync.Mutex // guards rest
	rest []map[string]any
}

// serveProcess runs the whole program in front of an upstream.
func serveProcess(t *testing.T, upstream string, config string) *process {
	t.Helper()
	file := t.TempDir() + "/lanekeeper.yaml"
	config = fmt.Sprintf(`
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
upstreams: [{name: app, targets: [%q]}]
routes:
  - name: order
    match: {path: "/orders/{id}/{rest...}"}
    upstream: app
    key: {space: order, from: [{path: id}]}
`, upstream) + config
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, file)
	line := p.log("serving")
	p.address, p.observe, p.admin = "http://"+line["listen"].(string), "http://"+line["observe"].(string), "http://"+line["admin"].(string)
	return p
}

// launch runs the whole program.
func launch(t testing.TB, file string) *process {
	t.Helper()
	return launchIn(t, file)
}

// launchWith runs it with more flags.
func launchWith(t testing.TB, file string, flags ...string) *process {
	t.Helper()
	return launchCommand(t, file, append([]string{os.Args[0], "serve", "--config", file}, flags...))
}

// launchIn runs it by another program, which becomes it.
func launchIn(t testing.TB, file string, by ...string) *process {
	t.Helper()
	return launchCommand(t, file, append(by, os.Args[0], "serve", "--config", file))
}

func launchCommand(t testing.TB, file string, command []string) *process {
	t.Helper()
	p := &process{t: t, lines: make(chan map[string]any, 1000)}
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Env = append(os.Environ(), runVariable+"=1")
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	source := io.Reader(stderr)
	if *processLogs != "" {
		kept, err := os.CreateTemp(*processLogs, filepath.Base(file)+".*.log")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { kept.Close() })
		source = io.TeeReader(stderr, kept)
	}
	go func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(source); scanner.Scan(); {
			var line map[string]any
			if json.Unmarshal(scanner.Bytes(), &line) != nil {
				line = map[string]any{"msg": scanner.Text()}
			}
			p.lines <- line
		}
	}()
	return p
}

// log waits for a line of the log.
func (p *process) log(message string) map[string]any {
	p.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("the process ended before it said %q", message)
			}
			if line["msg"] == message {
				return line
			}
		case <-deadline:
			p.t.Fatalf("the process did not say %q", message)
		}
	}
}

// forget keeps the rest of the log for kept, so that the process is never held
// up by nobody reading it.
func (p *process) forget() {
	go func() { // ends with the process
		for line := range p.lines {
			p.mu.Lock()
			p.rest = append(p.rest, line)
			p.mu.Unlock()
		}
	}()
}

// says waits until a log that is kept has a message.
func (p *process) says(message string) {
	p.t.Helper()
	for range 300 {
		for _, line := range p.kept() {
			if line["msg"] == message {
				return
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	said := p.kept()
	for _, line := range said[max(0, len(said)-60):] {
		p.t.Log(line)
	}
	p.t.Fatalf("the process did not say %q", message)
}

func (p *process) kept() []map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]map[string]any(nil), p.rest...)
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wait returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	for range p.lines { // all of the log, before Wait closes the pipe
	}
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// holdingUpstream answers each request when told to.
type holdingUpstream struct {
	*httptest.Server
	arrived chan string
	release chan struct{}
}

func newHoldingUpstream(t *testing.T) *holdingUpstream {
	u := &holdingUpstream{arrived: make(chan string, 100), release: make(chan struct{}, 100)}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		u.arrived <- string(body)
		<-u.release
		io.WriteString(w, "done "+string(body))
	}))
	t.Cleanup(func() {
		close(u.release)
		u.Close()
	})
	return u
}

// next is the next request to arrive. One that never does fails the test.
func (u *holdingUpstream) next(t *testing.T) string {
	t.Helper()
	select {
	case body := <-u.arrived:
		return body
	case <-time.After(10 * time.Second):
		t.Fatal("no request arrives at the upstream")
		return ""
	}
}

// post sends a request on a connection of its own and delivers status and body.
func post(url, body string) <-chan string {
	answer := make(chan string, 1)
	go func() {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Post(url, "text/plain", strings.NewReader(body))
		if err != nil {
			answer <- err.Error()
			return
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		answer <- fmt.Sprint(response.StatusCode, " ", string(text))
	}()
	return answer
}

func statusOf(t testing.TB, url string) int {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

// TestShutdownOrder: readiness goes first, then traffic is still served, then
// lanes are closed and drained, and nothing is lost.
//
// Mutants: stop closes the lanes at once (the request in the delay is refused);
// stop does not wait for the lanes (the waiting request is cut).
func TestShutdownOrder(t *testing.T) {
	u := newHoldingUpstream(t)
	p := serveProcess(t, u.URL, "shutdown: {delay: 1500ms, drain_timeout: 20s}\n")
	if got := statusOf(t, p.observe+"/readyz"); got != 200 {
		t.Fatalf("/readyz before: %d", got)
	}
	running := post(p.address+"/orders/7", "first")
	u.next(t)

	p.signal(syscall.SIGTERM)
	p.log("draining")
	if got := statusOf(t, p.observe+"/readyz"); got != 503 {
		t.Errorf("/readyz while draining: %d", got)
	}
	if got := statusOf(t, p.observe+"/livez"); got != 200 {
		t.Errorf("/livez while draining: %d", got)
	}
	late := post(p.address+"/orders/8", "in the delay")
	if got := u.next(t); got != "in the delay" {
		t.Errorf("arrived: %q", got)
	}
	waiting := post(p.address+"/orders/7", "second")
	u.release <- struct{}{}
	u.release <- struct{}{}
	u.release <- struct{}{}
	for name, answer := range map[string]<-chan string{"first": running, "second": waiting, "in the delay": late} {
		if got := <-answer; got != "200 done "+name {
			t.Errorf("%s: %s", name, got)
		}
	}
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d, want %d", code, exitOK)
	}
}

// Mutants: drain does not evict (the waiting client gets no answer); connections to upstreams are not cut (nor does the
// running one, and nothing is recorded).
func TestAbandonedRequestsAreSaid(t *testing.T) {
	u := newHoldingUpstream(t)
	journal := filepath.Join(t.TempDir(), "unknown.ndjson")
	p := serveProcess(t, u.URL, "shutdown: {delay: 0s, drain_timeout: 300ms}\njournal: {file: "+journal+"}\n")
	running := post(p.address+"/orders/7", "running")
	u.next(t)
	waiting := post(p.address+"/orders/7", "waiting")
	waitForMetric(t, p.observe, `lanekeeper_queued_requests{route="order"} 1`)
	p.signal(syscall.SIGTERM)
	if got := <-waiting; !strings.HasPrefix(got, "503 ") || !strings.Contains(got, "urn:lanekeeper:problem:draining") || !strings.Contains(got, `"executed":"no"`) {
		t.Errorf("waiting: %s", got)
	}
	if got := <-running; !strings.HasPrefix(got, "502 ") || !strings.Contains(got, "urn:lanekeeper:problem:upstream-reset") || !strings.Contains(got, `"executed":"unknown"`) || !strings.Contains(got, "this node stops") {
		t.Errorf("running: %s", got)
	}
	if code := p.wait(); code != exitAbandoned {
		t.Errorf("exit code %d, want %d", code, exitAbandoned)
	}
	records, err := os.ReadFile(journal)
	if err != nil || strings.Count(string(records), "\n") != 1 || !strings.Contains(string(records), `"key":"7"`) {
		t.Errorf("the journal has %q, %v", records, err)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	u := newHoldingUpstream(t)
	p := serveProcess(t, u.URL, "shutdown: {delay: 1m, drain_timeout: 1m}\n")
	post(p.address+"/orders/7", "running")
	u.next(t)
	p.signal(syscall.SIGTERM)
	p.log("draining")
	began := time.Now()
	p.signal(syscall.SIGINT)
	if code := p.wait(); code != exitAbandoned {
		t.Errorf("exit code %d, want %d", code, exitAbandoned)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// waitForMetric asks until the metrics hold a line.
func waitForMetric(t *testing.T, observe, line string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		response, err := http.Get(observe + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if strings.Contains(string(text), line+"\n") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no line %s in\n%s", line, text)
		}
	}
}

// TestMetricsOfANode holds the names that dashboards are written against.
func TestMetricsOfANode(t *testing.T) {
	u := newHoldingUpstream(t)
	p := serveProcess(t, u.URL, "")
	u.release <- struct{}{}
	if got := <-post(p.address+"/orders/7", "x"); got != "200 done x" {
		t.Fatal(got)
	}
	response, err := http.Get(p.observe + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	for _, want := range []string{
		`lanekeeper_requests_total{code="200",mode="exclusive",route="order"} 1`,
		`lanekeeper_request_duration_seconds_count{code="200",mode="exclusive",route="order"} 1`,
		`lanekeeper_lane_wait_seconds_count{mode="exclusive",route="order"} 1`,
		`lanekeeper_upstream_duration_seconds_count{code="200",upstream="app"} 1`,
		`lanekeeper_lanes{route="order"} 0`,
		`lanekeeper_queued_requests{route="order"} 0`,
		`lanekeeper_queued_bytes{route="order"} 0`,
		`lanekeeper_inflight_requests{route="order"} 0`,
		`lanekeeper_lane_depth_max{route="order"} 0`,
		`lanekeeper_lane_oldest_wait_seconds{route="order"} 0`,
		`lanekeeper_hot_keys{route="order"} 0`,
		`lanekeeper_shed_total{route="order"} 0`,
		`lanekeeper_coalesced_total{route="order"} 0`,
		`lanekeeper_held_lanes 0`,
		`lanekeeper_unknown_total{route="order"} 0`,
		`lanekeeper_connections `,
		`lanekeeper_upstream_healthy{target="` + u.URL + `",upstream="app"} 1`,
		`lanekeeper_upstream_inflight_requests{upstream="app"} 0`,
		`lanekeeper_upstream_waiting_requests{upstream="app"} 0`,
		`lanekeeper_upstream_lookup_failures_total{upstream="app"} 0`,
		`lanekeeper_dispatcher_progress_timestamp_seconds `,
		`lanekeeper_build_info{`,
		`lanekeeper_config_hash_info{hash="`,
		`go_goroutines `,
	} {
		if !strings.Contains(string(text), "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(string(text), "order:7") {
		t.Error("a key is in the metrics")
	}
}

func TestHealthCommand(t *testing.T) {
	u := newHoldingUpstream(t)
	p := serveProcess(t, u.URL, "")
	if code := run([]string{"health", "--address", p.observe}); code != exitOK {
		t.Errorf("ready: exit code %d", code)
	}
	if code := run([]string{"health", "--address", u.URL + "/nonsense", "--timeout", "100ms"}); code != exitFailure {
		t.Errorf("something else: exit code %d", code)
	}
	notReady := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }))
	defer notReady.Close()
	if code := run([]string{"health", "--live", "-v", "--address", notReady.URL}); code != exitNegative {
		t.Errorf("not ready: exit code %d", code)
	}
}

func TestServeRefusesWhatItCannotServe(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, test := range []struct {
		name string
		args []string
		code int
	}{
		{"nothing to serve", nil, exitUsage},
		{"half of the quick form", []string{"--upstream", "http://127.0.0.1:1"}, exitUsage},
		{"a file and the quick form", []string{"--config", "x", "--upstream", "http://127.0.0.1:1", "--key", "header:X"}, exitUsage},
		{"no such file", []string{"--config", t.TempDir() + "/none.yaml"}, exitConfig},
		{"a wrong key", []string{"--upstream", "http://127.0.0.1:1", "--key", "body:X"}, exitConfig},
		{"a taken port", []string{"--upstream", "http://127.0.0.1:1", "--key", "header:X", "--listen", taken.Addr().String(), "--observe", "127.0.0.1:0"}, exitFailure},
		{"a taken observe port", []string{"--upstream", "http://127.0.0.1:1", "--key", "header:X", "--listen", "127.0.0.1:0", "--observe", taken.Addr().String()}, exitFailure},
	} {
		if code := run(append([]string{"serve"}, test.args...)); code != test.code {
			t.Errorf("%s: exit code %d, want %d", test.name, code, test.code)
		}
	}
}

// TestQuickServe is the README's second example, order included.
func TestQuickServe(t *testing.T) {
	var mu sync.Mutex // guards running, order
	running := 0
	var order []string
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if running++; running > 1 {
			t.Errorf("%d run at once", running)
		}
		order = append(order, r.Header.Get("X-N"))
		mu.Unlock()
		time.Sleep(time.Millisecond) // work, not waiting
		mu.Lock()
		running--
		mu.Unlock()
	}))
	defer upstream.Close()
	cmd := exec.Command(os.Args[0], "serve", "--upstream", upstream.URL, "--key", "header:X-Order-Id", "--listen", "127.0.0.1:0", "--observe", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), runVariable+"=1", "LANEKEEPER_LOG_FORMAT=json", "LANEKEEPER_SHUTDOWN_DELAY=0s")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	var line struct{ Msg, Listen string }
	if err := json.NewDecoder(stderr).Decode(&line); err != nil || line.Msg != "serving" {
		t.Fatalf("%+v, %v", line, err)
	}
	go io.Copy(io.Discard, stderr)
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			request, _ := http.NewRequest("POST", "http://"+line.Listen+"/anything", nil)
			request.Header.Set("X-Order-Id", "7")
			request.Header.Set("X-N", fmt.Sprint(n))
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Error(err)
				return
			}
			response.Body.Close()
			if response.StatusCode != 200 {
				t.Errorf("status %d", response.StatusCode)
			}
		})
	}
	wg.Wait()
	http.DefaultClient.CloseIdleConnections()
	if len(order) != 20 {
		t.Errorf("%d of 20 ran", len(order))
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("end: %v", err)
	}
}
