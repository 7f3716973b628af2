package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// stageService is a service as the dashboard's scenarios want it: it fails a request whose body says
// so, keeps those of keys that begin with "stuck" until it is told to go on, and answers the others
// after a moment.
type stageService struct {
	*httptest.Server

	mu    sync.Mutex // guards goOn
	goOn  chan struct{}
	ended chan struct{}
}

func newStageService(t *testing.T) *stageService {
	t.Helper()
	s := &stageService{goOn: make(chan struct{}), ended: make(chan struct{})}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() { close(s.ended); s.Close() })
	return s
}

func (s *stageService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	goOn := s.goOn
	if r.URL.Path == "/.release" {
		close(s.goOn)
		s.goOn = make(chan struct{})
	}
	s.mu.Unlock()
	switch _, key, _ := strings.Cut(r.Header.Get("Lanekeeper-Key"), ":"); {
	case strings.HasPrefix(key, "stuck"):
		select {
		case <-goOn:
		case <-s.ended:
		}
	case string(body) == "fail":
		w.WriteHeader(http.StatusServiceUnavailable)
	case key != "":
		select {
		case <-time.After(10 * time.Millisecond): // so that lanes have somebody waiting
		case <-s.ended:
		}
	}
	w.Write(body) //nolint:errcheck // the test will see
}

// keepBusy sends requests to all nodes until the test ends, most of them for few keys.
func keepBusy(t *testing.T, targets []string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var senders sync.WaitGroup
	for i := range 6 {
		senders.Go(func() { // ends with ctx
			for n := 0; ctx.Err() == nil; n++ {
				url := fmt.Sprintf("%s/orders/load-%d/x", targets[(i+n)%len(targets)], (n%4)*(i%3))
				request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("load"))
				if err != nil {
					t.Error(err)
					return
				}
				if response, err := http.DefaultClient.Do(request); err == nil {
					io.Copy(io.Discard, response.Body) //nolint:errcheck // load
					response.Body.Close()
				}
			}
		})
	}
	t.Cleanup(func() { stop(); senders.Wait(); http.DefaultClient.CloseIdleConnections() })
}

// The dashboard, in a real browser: each panel against three real nodes, every action, by keyboard
// where that is said, with a token, over a stream that breaks, with keys that want to be code, in
// both colours and two widths. What a real cluster rarely is comes from a fake API. The scenarios are
// in ../../admin/ui/testdata/browser; UI_ONLY=part of a name runs some, UI_SHOTS=DIR keeps pictures.
//
// Mutants killed: an action wants no word typed; nothing is said of the last event on coming back;
// a hidden page goes on reading; the token is stored; a paused page goes on; quiet text is paler; the
// ring has no name; the banner comes and goes; a key is written as HTML; a tile grows each other second;
// locate asks for another key; the policy forgets styles; resume holds; a key whose owner is silent has no requests.
func TestDashboard(t *testing.T) {
	if raceDetector {
		t.Skip("test.sh runs it without the race detector: what it looks at is a page")
	}
	node, npm := program(t, "node", "nodejs"), program(t, "npm", "npm")
	chromium := program(t, "chromium", "chromium")
	version, err := exec.CommandContext(t.Context(), node, "--version").Output()
	if major, _ := strconv.Atoi(strings.TrimPrefix(strings.Split(string(version), ".")[0], "v")); err != nil || major < 18 {
		absent(t, "playwright-core wants Node 18, and this is %s", version)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../admin/ui/testdata/browser")); err != nil {
		t.Fatal(err)
	}
	install := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		absent(t, "npm cannot install what drives the browser: %v\n%s", err, out)
	}

	service := newStageService(t)
	c := startMembers(t, 3, service.URL, "")
	const token = "0123456789abcdef0123456789abcdef"
	guarded := guardedNode(t, service.URL, token)
	keepBusy(t, c.targets)

	var pids []int
	for _, p := range c.nodes {
		pids = append(pids, p.cmd.Process.Pid)
	}
	stage, err := json.Marshal(map[string]any{
		"chromium": chromium, "admins": c.admins, "targets": c.targets, "files": c.files, "service": service.URL, "pids": pids,
		"guarded": guarded, "token": token, "cli": os.Args[0], "env": map[string]string{runVariable: "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	script := exec.CommandContext(t.Context(), node, "browser.mjs")
	script.Dir = dir
	script.Env = append(os.Environ(), "STAGE="+string(stage))
	out, err := script.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !regexp.MustCompile(`(?m)^[1-9]\d* passed, 0 failed$`).Match(out) {
		t.Errorf("%v", err)
	}
}

// guardedNode is a node whose operators have a token.
func guardedNode(t *testing.T, upstream, token string) (admin string) {
	t.Helper()
	dir := t.TempDir()
	secret, file := filepath.Join(dir, "token"), filepath.Join(dir, "guarded.yaml")
	writeFile(t, secret, token+"\n")
	writeFile(t, file, fmt.Sprintf(`
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0", token_file: %s}
upstreams: [{name: app, targets: [%q]}]
routes: [{name: order, match: {path: "/orders/{id}"}, upstream: app, key: {space: order, from: [{path: id}]}}]
`, secret, upstream))
	p := launch(t, file)
	admin = "http://" + p.log("serving")["admin"].(string)
	p.forget()
	return admin
}
