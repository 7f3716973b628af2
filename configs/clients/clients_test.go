package clients

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lanekeeper/configs/configstest"
)

func TestMain(m *testing.M) { configstest.Main(m) }

// languages are the ways to send a request as the examples do, and to hear in a line what
// became of it.
func languages(t *testing.T) map[string]func(t *testing.T, method, url, key string) string {
	by := func(command ...string) func(*testing.T, string, string, string) string {
		return func(t *testing.T, method, url, key string) string {
			args := append(slices.Clone(command[1:]), method, url, "body")
			if key != "" {
				args = append(args, key)
			}
			out, err := exec.CommandContext(t.Context(), command[0], args...).Output()
			if err != nil {
				t.Fatalf("%v: %v", command, err)
			}
			return strings.TrimSpace(string(out))
		}
	}
	classes := t.TempDir()
	java := func(t *testing.T, method, url, key string) string {
		// Once for all, which `java Retry.java` would do each time.
		if _, err := os.Stat(filepath.Join(classes, "Retry.class")); err != nil {
			javac := configstest.Program(t, "javac", "default-jdk-headless")
			if out, err := exec.CommandContext(t.Context(), javac, "--release", "17", "-Xlint:all", "-Werror", "-d", classes, "Retry.java").CombinedOutput(); err != nil {
				t.Fatalf("javac: %v\n%s", err, out)
			}
		}
		return by(configstest.Program(t, "java", "default-jdk-headless"), "-XX:TieredStopAtLevel=1", "-cp", classes, "Retry")(t, method, url, key)
	}
	return map[string]func(*testing.T, string, string, string) string{
		"go": sendGo,
		"python": func(t *testing.T, method, url, key string) string {
			return by(configstest.Program(t, "python3", "python3"), "retry.py")(t, method, url, key)
		},
		"node": func(t *testing.T, method, url, key string) string {
			return by(configstest.Program(t, "node", "nodejs"), "retry.js")(t, method, url, key)
		},
		"java": java,
	}
}

func sendGo(t *testing.T, method, url, key string) string {
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := Do(client, request, 5)
	refused := (*Refused)(nil)
	switch {
	case errors.As(err, &refused):
		return "refused " + refused.Slug
	case errors.Is(err, ErrUnknown):
		return "unknown " + err.Error()
	case err != nil:
		t.Fatal(err)
	}
	response.Body.Close()
	return fmt.Sprint("answered ", response.StatusCode)
}

// attempt is one request as the tap saw it, between a client and lanekeeper.
type attempt struct {
	began, ended time.Time
	key          string
	status       int
	after        time.Duration // Retry-After
}

// world is lanekeeper before a service, and a tap before lanekeeper.
type world struct {
	tap     string
	node    *configstest.Node
	release map[string]chan struct{} // by language: what its full lane waits for

	mu       sync.Mutex // guards the rest
	attempts map[string][]attempt
	executed map[string]int
}

const config = `
version: 1
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
upstreams:
  - {name: app, targets: ["%s"]}
  # One that is not there for each, since its circuit opens.
  - {name: gone-go, targets: ["http://127.0.0.1:1"]}
  - {name: gone-java, targets: ["http://127.0.0.1:1"]}
  - {name: gone-node, targets: ["http://127.0.0.1:1"]}
  - {name: gone-python, targets: ["http://127.0.0.1:1"]}
routes:
  - {name: execute, match: {path: "/execute/{id}"}, upstream: app, key: {space: execute, from: [{path: id}]}, idempotency: {mode: optional, unknown: execute}}
  - {name: conflict, match: {path: "/conflict/{id}"}, upstream: app, key: {space: conflict, from: [{path: id}]}, idempotency: {mode: optional}}
  - {name: keyless, match: {path: "/keyless/{id}"}, upstream: app, key: {space: keyless, from: [{header: X-Order-Id}]}}
  - {name: plain, match: {path: "/plain/{id}"}, upstream: app, key: {space: plain, from: [{path: id}]}}
  - {name: cut, match: {path: "/cut/{id}"}, upstream: app, key: {space: cut, from: [{path: id}]}}
shutdown: {delay: 0s}
`

const routesOfEach = `  - {name: gone-%[1]s, match: {path: "/gone/%[1]s"}, upstream: gone-%[1]s, key: {space: gone, from: [{header: X-Id}], missing: client_ip}}
  - {name: full-%[1]s, match: {path: "/full/%[1]s"}, upstream: app, key: {space: full-%[1]s, from: [{header: X-Id}], missing: client_ip}, lane: {max_depth: 1}}
`

func newWorld(t *testing.T, languages []string) *world {
	t.Helper()
	w := &world{attempts: map[string][]attempt{}, executed: map[string]int{}, release: map[string]chan struct{}{}}
	for _, language := range languages {
		w.release[language] = make(chan struct{})
	}
	app := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(app.Close)
	text := fmt.Sprintf(config, app.URL)
	for _, language := range languages {
		text = strings.Replace(text, "shutdown:", fmt.Sprintf(routesOfEach, language)+"shutdown:", 1)
	}
	file := filepath.Join(t.TempDir(), "lanekeeper.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(configstest.Lanekeeper(t), "serve", "--config", file)
	cmd.Env = append(os.Environ(), "LANEKEEPER_LOG_FORMAT=json")
	w.node = configstest.Serve(t, cmd)
	to, err := url.Parse(w.node.Address)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	through := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	tap := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) { w.see(through, out, in) }))
	t.Cleanup(tap.Close)
	w.tap = tap.URL
	return w
}

// see passes a request on, or cuts its connection off if its path says so.
func (w *world) see(through http.Handler, out http.ResponseWriter, in *http.Request) {
	a := attempt{began: time.Now(), key: in.Header.Get("Idempotency-Key")}
	defer func() {
		a.ended = time.Now()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.attempts[in.URL.Path] = append(w.attempts[in.URL.Path], a)
	}()
	if strings.HasPrefix(in.URL.Path, "/cut/") {
		cut(out)
		return
	}
	recorder := httptest.NewRecorder()
	through.ServeHTTP(recorder, in)
	a.status = recorder.Code
	if seconds, err := strconv.Atoi(recorder.Header().Get("Retry-After")); err == nil {
		a.after = time.Duration(seconds) * time.Second
	}
	for name, values := range recorder.Header() {
		out.Header()[name] = values
	}
	if language, full := strings.CutPrefix(in.URL.Path, "/full/"); full && a.status == http.StatusTooManyRequests {
		close(w.release[language]) // the lane may empty now
	}
	out.WriteHeader(recorder.Code)
	out.Write(recorder.Body.Bytes())
}

func cut(out http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(out).Hijack(); err == nil {
		conn.Close()
	}
}

// serve is the service: what it does is in the path.
func (w *world) serve(out http.ResponseWriter, in *http.Request) {
	io.Copy(io.Discard, in.Body)
	w.mu.Lock()
	w.executed[in.URL.Path]++
	nth := w.executed[in.URL.Path]
	w.mu.Unlock()
	switch kind, which, _ := strings.Cut(in.URL.Path[1:], "/"); {
	case kind == "full" && nth <= 2: // those that fill the lane
		<-w.release[which]
	case kind == "conflict", kind == "execute" && nth == 1, kind == "plain" && strings.HasPrefix(which, "broken"):
		cut(out)
	case kind == "plain":
		// As it might say itself, and not lanekeeper.
		out.Header().Set("Content-Type", "application/problem+json")
		out.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(out, `{"type": "about:blank", "executed": "no"}`)
	}
}

func (w *world) seen(path string) ([]attempt, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.attempts[path]), w.executed[path]
}

// fill has one request run in the lane of a path and one wait, and returns when they do.
func (w *world) fill(t *testing.T, language string) (wait func()) {
	t.Helper()
	path := "/full/" + language
	var fillers sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for range 2 {
		fillers.Go(func() {
			response, err := client.Post(w.node.Address+path, "text/plain", strings.NewReader("filler"))
			if err != nil {
				t.Error(err)
				return
			}
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				t.Errorf("a filler is answered by %d", response.StatusCode)
			}
		})
	}
	deadline, ticker := time.After(20*time.Second), time.NewTicker(10*time.Millisecond)
	defer ticker.Stop()
	for full := fmt.Sprintf("lanekeeper_queued_requests{route=%q} 1\n", "full-"+language); ; {
		response, err := client.Get(w.node.Observe + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		metrics, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if strings.Contains(string(metrics), full) {
			return fillers.Wait
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("the lane does not fill")
		}
	}
}

// What lanekeeper says is done, in each language, through a real lanekeeper: what was not
// executed is repeated after Retry-After, what nobody knows only with a name, and what the
// service says is nobody else's to judge.
//
// Mutants, of each language: Retry-After is not waited for; an unknown outcome is repeated
// without a name; it is not repeated with one; a 409 is repeated; a 400 is; a problem of the
// service's own is taken for lanekeeper's; a cut connection counts as not executed.
func TestRequestsAreRepeatedAsLanekeeperSays(t *testing.T) {
	all := languages(t)
	names := []string{"go", "java", "node", "python"}
	w := newWorld(t, names)
	t.Run("by", func(t *testing.T) { // ends when all of them have
		for _, name := range names {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w.check(t, name, all[name])
			})
		}
	})
	if code := w.node.Stop(); code != 0 {
		t.Errorf("lanekeeper ends with %d", code)
	}
}

func (w *world) check(t *testing.T, language string, send func(t *testing.T, method, url, key string) string) {
	for _, test := range []struct {
		name, path, key    string
		want               string
		attempts, executed int
	}{
		{"what cannot be sent", "/gone/", "", "refused upstream-connect", 5, 0},
		{"what has no key", "/keyless/", "", "refused missing-key", 1, 0},
		{"what the service says itself", "/plain/", "", "answered 503", 1, 1},
		{"nobody knows", "/plain/broken-", "", "unknown", 1, 1},
		{"nobody knows, and it has a name", "/execute/", "a-name", "answered 200", 2, 2},
		{"nobody knows, and nobody will", "/conflict/", "a-name", "unknown", 2, 1},
		{"a connection that breaks", "/cut/", "", "unknown", 1, 0},
	} {
		path := test.path + language
		have := send(t, "POST", w.tap+path, test.key)
		if attempts, executed := w.seen(path); !strings.HasPrefix(have, test.want) || len(attempts) != test.attempts || executed != test.executed {
			t.Errorf("%s: %q after %d attempts and %d executions; want %q, %d, %d", test.name, have, len(attempts), executed, test.want, test.attempts, test.executed)
		} else if slices.ContainsFunc(attempts, func(a attempt) bool { return a.key != test.key }) {
			t.Errorf("%s: the names differ: %+v", test.name, attempts)
		}
	}

	wait := w.fill(t, language)
	have := send(t, "POST", w.tap+"/full/"+language, "")
	wait()
	attempts, executed := w.seen("/full/" + language)
	if have != "answered 200" || len(attempts) < 2 || executed != 3 {
		t.Fatalf("a full lane: %q after %d attempts, %d executions", have, len(attempts), executed)
	}
	for i, a := range attempts[:len(attempts)-1] {
		if pause := attempts[i+1].began.Sub(a.ended); a.after == 0 || pause < a.after {
			t.Errorf("a full lane: attempt %d is answered by %d, Retry-After %s, and the next comes after %s", i+1, a.status, a.after, pause)
		}
	}
}
