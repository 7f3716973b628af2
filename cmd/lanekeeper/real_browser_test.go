package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// browserService is a page, what it asks for, and what it found.
type browserService struct {
	running, most, orders atomic.Int64
	verdict               chan map[string]string
}

func (s *browserService) start(t *testing.T) *httptest.Server {
	t.Helper()
	seen := make(chan string, 8)
	mux := http.NewServeMux()
	mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/real/browser.html") })
	mux.HandleFunc("POST /orders/7/items", func(w http.ResponseWriter, _ *http.Request) {
		s.orders.Add(1)
		if now := s.running.Add(1); now > s.most.Load() {
			s.most.Store(now)
		}
		time.Sleep(2 * time.Millisecond) // what the service has to do
		s.running.Add(-1)
		io.WriteString(w, "done")
	})
	mux.HandleFunc("/session", func(w http.ResponseWriter, r *http.Request) {
		if cookie, err := r.Cookie("visit"); err == nil {
			io.WriteString(w, "again "+cookie.Value)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "visit", Value: "1", Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "file.txt", time.Time{}, strings.NewReader("0123456789"))
	})
	mux.HandleFunc("POST /sink", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d bytes, %v", n, err)
	})
	mux.HandleFunc("POST /orders/9/form", func(w http.ResponseWriter, r *http.Request) {
		file, head, err := r.FormFile("file")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		text, err := io.ReadAll(file)
		fmt.Fprintf(w, "%s %s %v", head.Filename, text, err)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) { // the next when the one before was seen
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 1; ; i++ {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			select {
			case <-seen:
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/seen", func(_ http.ResponseWriter, r *http.Request) { seen <- r.URL.RawQuery })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Errorf("websocket: %v", err)
			return
		}
		defer c.CloseNow()
		if kind, message, err := c.Read(r.Context()); err == nil {
			c.Write(r.Context(), kind, message) //nolint:errcheck // the page says what it got
			c.Read(r.Context())                 //nolint:errcheck // its closing
		}
	})
	mux.HandleFunc("POST /verdict", func(_ http.ResponseWriter, r *http.Request) {
		verdict := map[string]string{}
		if err := json.NewDecoder(r.Body).Decode(&verdict); err != nil {
			t.Errorf("verdict: %v", err)
		}
		s.verdict <- verdict
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

// TestRealBrowser has Chromium load a page through lanekeeper, whose script does what
// browsers do: six requests of one order at once, a form, cookies, a cached file, a range,
// an upload, server-sent events, and a WebSocket. Mutants: an Upgrade is
// forwarded as an ordinary request; nobody looks whether the reader of an event stream is
// still there (the node does not stop in time).
func TestRealBrowser(t *testing.T) {
	chromium := program(t, "chromium", "chromium")
	service := &browserService{verdict: make(chan map[string]string, 1)}
	server := service.start(t)
	through := startLanekeeper(t, []string{"UPSTREAM=" + server.URL}, "--config", "testdata/real/answers.yaml")
	ctx, cancel := context.WithTimeout(t.Context(), 2*answerTime)
	defer cancel()
	browser := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--user-data-dir="+t.TempDir(), "--remote-debugging-port=0", "http://"+through+"/page")
	browser.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	browser.Cancel = func() error { return syscall.Kill(-browser.Process.Pid, syscall.SIGKILL) }
	browser.WaitDelay = time.Second
	if err := browser.Start(); err != nil {
		t.Fatal(err)
	}
	defer browser.Wait() //nolint:errcheck // it is killed
	defer cancel()
	select {
	case have := <-service.verdict:
		want := map[string]string{
			"orders": "0 of 24 failed", "session": "again 1", "problem": "TypeError 400 no", "cached": "0123456789 0123456789",
			"range": "206 2345", "upload": "5242880 bytes, <nil>", "form": "a.txt 0123456789 <nil>", "events": "1 2 3", "socket": "a word",
		}
		if !reflect.DeepEqual(have, want) {
			t.Errorf("the page found %v,\nwant %v", have, want)
		}
	case <-ctx.Done():
		t.Fatal("the page said nothing")
	}
	if service.orders.Load() != 24 || service.most.Load() != 1 {
		t.Errorf("%d requests of the order ran, up to %d at once", service.orders.Load(), service.most.Load())
	}
}
