package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// answering is a service with answers of every kind, on net/http.
func answering(t *testing.T) *httptest.Server {
	seen := make(chan string, 10)
	answers := http.NewServeMux()
	file := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "file.txt", time.Time{}, strings.NewReader("0123456789"))
	}
	hints := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		io.WriteString(w, "hinted")
	}
	cookies := func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Set-Cookie"] = []string{"b=2; Path=/", "a=1", "b=3"}
		io.WriteString(w, "baked")
	}
	sink := func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d bytes, %v", n, err)
	}
	for _, at := range []string{"/orders/7", "/else"} {
		answers.HandleFunc(at+"/file", file)
		answers.HandleFunc(at+"/hints", hints)
		answers.HandleFunc(at+"/cookies", cookies)
		answers.HandleFunc(at+"/sink", sink)
	}
	// An event is sent when the one before has been seen: whatever held it back for more would
	// wait for ever.
	answers.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 1; i <= 5; i++ {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			select {
			case got := <-seen:
				if got != strconv.Itoa(i) {
					t.Errorf("event %d: %q was seen", i, got)
				}
			case <-r.Context().Done():
				return
			case <-time.After(answerTime):
				t.Errorf("event %d was not seen", i)
				return
			}
		}
	})
	answers.HandleFunc("/seen", func(w http.ResponseWriter, r *http.Request) { seen <- r.URL.RawQuery })
	answers.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Errorf("websocket: %v", err)
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(8 << 20)
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil {
				if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
					t.Errorf("websocket: %v", err)
				}
				return
			}
			if c.Write(r.Context(), kind, message) != nil {
				return
			}
		}
	})
	answers.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.ParseInt(r.URL.RawQuery, 10, 64)
		if r.Header.Get("X-Length") != "" {
			w.Header().Set("Content-Length", r.URL.RawQuery)
		}
		io.Copy(w, endless(size))
	})
	answers.HandleFunc("/digest", func(w http.ResponseWriter, r *http.Request) {
		digest := sha256.New()
		n, err := io.Copy(digest, r.Body)
		fmt.Fprintf(w, "%d %x %v", n, digest.Sum(nil), err)
	})
	server := httptest.NewServer(answers)
	t.Cleanup(server.Close)
	return server
}

// endless is a body of size bytes that nobody has to hold.
func endless(size int64) io.Reader { return io.LimitReader(new(counting), size) }

type counting struct{ n byte }

func (c *counting) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = c.n
		c.n += 7
	}
	return len(b), nil
}

// What every client is told, in a lane and outside.
const (
	toldOfOne = "chunks 200 140000 bytes, <nil>\nrange 206 bytes 2-5/10 2345\nunmodified 304 \"v1\" []\nhead 200 10 []\ncookies b=2; Path=/ | a=1 | b=3\n"
	toldLast  = "events data: 1 data: 2 data: 3 data: 4 data: 5\n"
)

// TestRealClients has the clients of Node and Python ask for the answers of a service on
// net/http.
func TestRealClients(t *testing.T) {
	service := answering(t)
	through := startLanekeeper(t, []string{"UPSTREAM=" + service.URL}, "--config", "testdata/real/answers.yaml")
	node := "hints [[103,\"</a.css>; rel=preload\"]] 200 hinted\n" + strings.Replace(toldOfOne, "range", "continue true 200 4 bytes, <nil>\nrange", 1) + "fetch b=2; Path=/ | a=1 | b=3 baked\n"
	python := toldOfOne + "urllib b=2; Path=/ | a=1 | b=3 baked\nurllib 304 \"v1\"\n"
	for _, c := range []struct{ program, pkg, script, want string }{
		{"node", "nodejs", "testdata/real/answers.js", node + node + toldLast},
		{"python3", "python3", "testdata/real/answers.py", python + python + toldLast},
	} {
		t.Run(c.program, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*answerTime)
			defer cancel()
			out, err := exec.CommandContext(ctx, program(t, c.program, c.pkg), c.script, "http://"+through).CombinedOutput()
			if err != nil || string(out) != c.want {
				t.Errorf("%v\n%s\nwant\n%s", err, out, c.want)
			}
		})
	}
}

// TestRealGoClient has net/http do what the scripts do, and speak WebSocket.
func TestRealGoClient(t *testing.T) {
	service := answering(t)
	through := "http://" + startLanekeeper(t, []string{"UPSTREAM=" + service.URL}, "--config", "testdata/real/answers.yaml")
	client := newClient(t)
	for _, at := range []string{"/orders/7", "/else"} {
		var interim []string
		trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			interim = append(interim, fmt.Sprintf("%d %s", code, h.Get("Link")))
			return nil
		}})
		request, _ := http.NewRequestWithContext(trace, http.MethodGet, through+at+"/hints", nil)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(body) != "hinted" || !slices.Equal(interim, []string{"103 </a.css>; rel=preload"}) {
			t.Errorf("%s: %q, interim %q", at, body, interim)
		}
	}
	t.Run("events", func(t *testing.T) {
		response, err := client.Get(through + "/events")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		n := 0
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			if lines.Text() == "" {
				continue
			}
			n++
			if lines.Text() != fmt.Sprint("data: ", n) {
				t.Errorf("event %d: %q", n, lines.Text())
			}
			if seen, err := client.Post(fmt.Sprint(through, "/seen?", n), "", nil); err != nil || seen.Body.Close() != nil {
				t.Fatal(err)
			}
		}
		if n != 5 {
			t.Errorf("%d events", n)
		}
	})
	t.Run("websocket", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), answerTime)
		defer cancel()
		c, _, err := websocket.Dial(ctx, through+"/echo", &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		c.SetReadLimit(8 << 20)
		for _, size := range []int{0, 1, 125, 126, 65_535, 65_536, 4 << 20} {
			sent := strings.Repeat("é", size/2) + strings.Repeat("x", size%2)
			if err := c.Write(ctx, websocket.MessageText, []byte(sent)); err != nil {
				t.Fatal(err)
			}
			if _, got, err := c.Read(ctx); err != nil || string(got) != sent {
				t.Fatalf("%d bytes of %d came back: %v", len(got), size, err)
			}
		}
		if err := c.Close(websocket.StatusNormalClosure, "done"); err != nil {
			t.Errorf("close: %v", err)
		}
		if _, response, err := websocket.Dial(ctx, through+"/orders/7/echo", nil); err == nil || response == nil || response.StatusCode != http.StatusBadRequest {
			t.Errorf("in a lane: %v", err)
		}
	})
}

var bigBody = flag.Int64("answer.big", 64<<20, "bytes of the large bodies in TestRealLargeBodies")

// TestRealLargeBodies passes large bodies both ways outside lanes, in each framing: the process's
// memory stays as it was.
//
// Mutant: bypass responses are read whole.
func TestRealLargeBodies(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("memory is read from /proc")
	}
	service := answering(t)
	cmd := lanekeeperCommand([]string{"UPSTREAM=" + service.URL}, "serve", "--config", "testdata/real/answers.yaml")
	through := "http://" + start(t, cmd, `"msg":"serving","listen":"([^"]+)"`)[1]
	client := newClient(t)
	client.Timeout = 10 * time.Minute
	digest := sha256.New()
	io.Copy(digest, endless(*bigBody))
	want := fmt.Sprintf("%x", digest.Sum(nil))
	transfer := func(name string, size int64, length bool) {
		t.Helper()
		upload, _ := http.NewRequest(http.MethodPut, through+"/digest", endless(size))
		if length {
			upload.ContentLength = size
		}
		response, err := client.Do(upload)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if size == *bigBody && string(text) != fmt.Sprintf("%d %s <nil>", size, want) {
			t.Errorf("%s, up: %s", name, text)
		}
		download, _ := http.NewRequest(http.MethodGet, fmt.Sprint(through, "/big?", size), nil)
		if length {
			download.Header.Set("X-Length", "known")
		}
		if response, err = client.Do(download); err != nil {
			t.Fatal(err)
		}
		digest := sha256.New()
		n, err := io.Copy(digest, response.Body)
		response.Body.Close()
		if got := fmt.Sprintf("%x", digest.Sum(nil)); err != nil || size == *bigBody && got != want || (response.ContentLength == size) != length {
			t.Errorf("%s, down: %d bytes of %d, length %d, %v", name, n, size, response.ContentLength, err)
		}
	}
	transfer("warm", 1<<20, false)
	before := peakMemory(t, cmd.Process.Pid)
	transfer("chunks", *bigBody, false)
	transfer("length", *bigBody, true)
	after := peakMemory(t, cmd.Process.Pid)
	t.Logf("peak memory %d KiB before, %d KiB after %d MiB four times", before, after, *bigBody>>20)
	if grown := (after - before) << 10; grown > 24<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
}

// peakMemory is the most that a process has had resident, in KiB.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(peak)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib
}
