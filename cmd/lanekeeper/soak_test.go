package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var soakTime = flag.Duration("soak", 3*time.Second, "how long TestSoak keeps the load up")

// soaker is a client that begins each conversation anew.
type soaker struct {
	t       *testing.T
	address string
	tls     *tls.Config
	pooled  *http.Client
	number  atomic.Int64
	done    map[string]*atomic.Int64
}

// dial is a connection of its own.
func (s *soaker) dial() (net.Conn, *bufio.Reader, error) {
	conn, err := net.DialTimeout("tcp", s.address, 10*time.Second)
	if err != nil {
		return nil, nil, err
	}
	secure := tls.Client(conn, s.tls)
	secure.SetDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // a dead connection fails the read
	return secure, bufio.NewReader(secure), nil
}

// expect reads a response.
func expect(in *bufio.Reader, status int) error {
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != status {
		return fmt.Errorf("status %d, want %d", response.StatusCode, status)
	}
	return nil
}

// kinds are the conversations.
func (s *soaker) kinds() map[string]func() error {
	target := func() string { return "/orders/" + strconv.FormatInt(s.number.Add(1)%50, 10) }
	alone := func(talk func(conn net.Conn, in *bufio.Reader) error) func() error {
		return func() error {
			conn, in, err := s.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			return talk(conn, in)
		}
	}
	return map[string]func() error{
		"pooled": func() error {
			response, err := s.pooled.Post("https://"+s.address+target(), "text/plain", strings.NewReader("hello"))
			if err != nil {
				return err
			}
			defer response.Body.Close()
			_, err = io.Copy(io.Discard, response.Body)
			return err
		},
		"pipelined": alone(func(conn net.Conn, in *bufio.Reader) error {
			for range 5 {
				fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", target())
			}
			for range 5 {
				if err := expect(in, 200); err != nil {
					return err
				}
			}
			return nil
		}),
		"aborted": alone(func(conn net.Conn, _ *bufio.Reader) error { // queued behind each other
			_, err := fmt.Fprintf(conn, "POST /orders/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
			return err
		}),
		"half a request": alone(func(conn net.Conn, _ *bufio.Reader) error {
			_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\nhi", target())
			return err
		}),
		"refused": alone(func(conn net.Conn, in *bufio.Reader) error {
			fmt.Fprintf(conn, "GET /keyed HTTP/1.1\r\nHost: a\r\n\r\n")
			return expect(in, 400)
		}),
		"upload": alone(func(conn net.Conn, in *bufio.Reader) error {
			const size = 1 << 20
			fmt.Fprintf(conn, "PUT /files HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
			if _, err := conn.Write(make([]byte, size)); err != nil {
				return err
			}
			return expect(in, 200)
		}),
		"half an upload": alone(func(conn net.Conn, _ *bufio.Reader) error {
			fmt.Fprintf(conn, "PUT /files HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", 1<<20)
			_, err := conn.Write(make([]byte, 100<<10))
			return err
		}),
		"WebSocket": alone(func(conn net.Conn, in *bufio.Reader) error {
			fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, " 101 ") {
				return fmt.Errorf("%q, %w", line, err)
			}
			for line := ""; line != "\r\n"; {
				var err error
				if line, err = in.ReadString('\n'); err != nil {
					return err
				}
			}
			for range 10 {
				if _, err := conn.Write([]byte("ping\n")); err != nil {
					return err
				}
				if line, err := in.ReadString('\n'); line != "ping\n" {
					return fmt.Errorf("%q, %w", line, err)
				}
			}
			return nil
		}),
		"no TLS": func() error {
			conn, err := net.DialTimeout("tcp", s.address, 10*time.Second)
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // a dead connection fails the read
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			io.Copy(io.Discard, conn) //nolint:errcheck // it may be reset
			return nil
		},
	}
}

// run keeps two of each kind of conversation up for a while.
func (s *soaker) run(d time.Duration) {
	var all sync.WaitGroup
	end := time.Now().Add(d)
	for name, talk := range s.kinds() {
		for range 2 {
			all.Go(func() { // ends with d
				for time.Now().Before(end) {
					if err := talk(); err != nil {
						s.t.Errorf("%s: %v", name, err)
						return
					}
					s.done[name].Add(1)
				}
			})
		}
	}
	all.Wait()
	s.pooled.CloseIdleConnections()
}

// soakUpstream echoes, also behind an Upgrade, and is slow when it is told so.
func soakUpstream(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" {
		conn, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n") //nolint:errcheck // the copy fails, too
		io.Copy(conn, in)                                                                                             //nolint:errcheck // as long as it lasts
		return
	}
	if r.URL.Path == "/orders/slow" {
		time.Sleep(20 * time.Millisecond) // what a service takes
	}
	n, _ := io.Copy(io.Discard, r.Body)
	fmt.Fprint(w, n)
}

// TestSoak loads the program with conversations of all kinds, over TLS, and finds it
// as it was after its warm-up: no goroutine, no descriptor and no memory is left of
// them. `go test -run TestSoak -soak 30m -timeout 1h` is the whole of it.
func TestSoak(t *testing.T) {
	a := newAuthority(t)
	a.sign("edge", x509.Certificate{DNSNames: []string{"edge"}})
	upstream := httptest.NewServer(http.HandlerFunc(soakUpstream))
	defer upstream.Close()
	token := strings.Repeat("t0ken", 5)
	p := launch(t, secretFile(t, "lanekeeper.yaml", fmt.Sprintf(`
server: {listen: "127.0.0.1:0", tls: {cert_file: %[1]s/edge.crt, key_file: %[1]s/edge.key}}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0", token_file: %[2]s, pprof: true}
log: {access: none}
upstreams: [{name: app, targets: [%[3]q], idle_timeout: 1s}]
defaults: {lane: {max_depth: 1000}}
routes:
  - {name: order, match: {path: "/orders/{id}"}, upstream: app, key: {space: order, from: [{path: id}]}}
  - {name: keyed, match: {path: /keyed}, upstream: app, key: {space: order, from: [{header: X-Key}]}}
  - {name: rest, match: {path: "/{rest...}"}, upstream: app, lane: {exclusive: [], shared: [], bypass: ["*"]}}
shutdown: {delay: 0s}
`, a.dir, secretFile(t, "token", token), upstream.URL)))
	line := p.log("serving")
	s := &soaker{t: t, address: line["listen"].(string), tls: a.believing(""), done: map[string]*atomic.Int64{}}
	s.pooled = &http.Client{Transport: &http.Transport{TLSClientConfig: s.tls.Clone()}, Timeout: 30 * time.Second}
	for name := range s.kinds() {
		s.done[name] = new(atomic.Int64)
	}
	state := func() map[string]float64 {
		request, err := http.NewRequest("GET", "http://"+line["admin"].(string)+"/debug/pprof/heap?gc=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body) //nolint:errcheck // what counts is that there was a collection
		response.Body.Close()
		return metricsOf(t, "http://"+line["observe"].(string), "lanekeeper_connections", "go_goroutines", "process_open_fds", "go_memstats_heap_alloc_bytes", "process_resident_memory_bytes")
	}
	quiet := func() map[string]float64 {
		t.Helper()
		have := state()
		for deadline := time.Now().Add(time.Minute); have["lanekeeper_connections"] > 0 || have["go_goroutines"] > 100; have = state() {
			if time.Now().After(deadline) {
				t.Fatalf("a minute after the load: %v", have)
			}
			<-time.After(200 * time.Millisecond)
		}
		return have
	}
	s.run(min(*soakTime/3, time.Minute))
	before := quiet()
	s.run(*soakTime)
	after := quiet()
	until(t, "it is as it was", func() bool {
		after = state()
		return after["go_goroutines"] <= before["go_goroutines"]+5 && after["process_open_fds"] <= before["process_open_fds"]+5 &&
			after["go_memstats_heap_alloc_bytes"] <= 1.25*before["go_memstats_heap_alloc_bytes"]+4<<20
	})
	for _, name := range slices.Sorted(maps.Keys(before)) {
		t.Logf("%s: %.0f, then %.0f", name, before[name], after[name])
	}
	for name, n := range s.done {
		t.Logf("%s: %d", name, n.Load())
		if n.Load() == 0 {
			t.Errorf("there was no %s", name)
		}
	}
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitOK && code != exitAbandoned {
		t.Errorf("it ends with %d", code)
	}
}

// metricsOf scrapes metrics without labels.
func metricsOf(t *testing.T, observe string, names ...string) map[string]float64 {
	t.Helper()
	response, err := http.Get(observe + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]float64)
	for line := range bytes.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		if slices.Contains(names, name) {
			if have[name], err = strconv.ParseFloat(value, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(have) != len(names) {
		t.Fatalf("of %v there are %v", names, have)
	}
	return have
}
