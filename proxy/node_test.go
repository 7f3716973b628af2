package proxy_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/valyala/fasthttp/fasthttputil"

	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// node is a proxy in front of a service, all in memory, so that it runs in a
// bubble of virtual time.
type node struct {
	t        *testing.T
	proxy    *proxy.Proxy
	lanes    *queue.Lanes
	listener *fasthttputil.InmemoryListener
	service  *service
	log      *logBuffer
	broken   bool // its lanes are meant to be
}

// start runs a node with one keyed route over /orders/{id} and bypass for the
// rest; change may alter the configuration first.
func start(t *testing.T, change func(*proxy.Config)) *node {
	t.Helper()
	service := newService(t)
	config := proxy.Config{
		Node: "test", MaxBody: 1 << 10, MaxHeader: 4 << 10, MaxURI: 1 << 10, MaxHeaders: 50,
		HeaderTimeout: 10 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: 75 * time.Second, BypassIdleTimeout: time.Minute,
		MaxConnections: 100, MaxInflight: 100, NativeHistograms: true, Access: proxy.AccessAll,
		Upstreams: []proxy.Upstream{{
			Name: "app", Targets: []string{"http://app"}, ConnectTimeout: 2 * time.Second, MaxConnections: 64, Queue: 64, IdleTimeout: 30 * time.Second,
			Dial: service.dial,
		}},
		Routes: []proxy.Route{orders(), {
			Name: "rest", Match: proxy.Match{Path: "/{rest...}"}, Upstream: "app", Lane: proxy.Lane{Bypass: []string{"*"}},
		}},
	}
	if change != nil {
		change(&config)
	}
	n := &node{t: t, service: service, log: new(logBuffer), listener: fasthttputil.NewInmemoryListener()}
	n.lanes = queue.New(queue.Config{MaxQueued: 100, MaxQueuedBytes: 1 << 20, MaxLanes: 100, Tags: len(config.Routes)})
	var err error
	n.proxy, err = proxy.New(config, n.lanes, slog.New(slog.NewJSONHandler(n.log, &slog.HandlerOptions{Level: slog.LevelInfo})))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- n.proxy.Serve(n.listener) }()
	t.Cleanup(func() {
		service.stop()
		if err := n.proxy.Stop(t.Context()); err != nil && t.Context().Err() == nil {
			t.Errorf("Stop: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		n.inOrder()
		time.Sleep(5 * time.Minute) // virtual: fasthttp's cleaners wake and end
	})
	return n
}

func orders() proxy.Route {
	return proxy.Route{
		Name: "order", Match: proxy.Match{Path: "/orders/{id}/{rest...}"}, Upstream: "app",
		Key: proxy.Key{Space: "order", From: []proxy.Source{{Path: "id"}}, Normalize: []string{"trim"}, MaxLength: 32},
		Lane: proxy.Lane{
			Exclusive: []string{"POST", "PUT", "PATCH", "DELETE"}, Shared: []string{"GET", "HEAD"}, Bypass: []string{"OPTIONS"},
			MaxDepth: 4, MaxBytes: 4 << 10, MaxShared: 2, QueueTimeout: 10 * time.Second,
			UpstreamTimeout: 30 * time.Second, HoldFor: 20 * time.Second, MaxResponse: 1 << 10,
		},
	}
}

// send makes a request on a connection of its own.
func (n *node) send(method, path string, header http.Header, body string) *answer {
	n.t.Helper()
	return n.open().send(method, path, header, body)
}

// open connects a client.
func (n *node) open() *client {
	n.t.Helper()
	conn, err := n.listener.Dial()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return &client{t: n.t, conn: conn, reader: bufio.NewReader(conn)}
}

// client speaks HTTP by the standard library's codec, which is not the one
// under test.
type client struct {
	t      *testing.T
	conn   net.Conn
	reader *bufio.Reader
}

type answer struct {
	status  int
	header  http.Header
	body    string
	close   bool
	problem struct {
		Type, Title, Detail, Instance, Executed, Route, Space string
		Status                                                int
		QueueDepth                                            *int `json:"queue_depth"`
		RetryAfter                                            int  `json:"retry_after"`
	}
}

func (a *answer) slug() string {
	return string(bytes.TrimPrefix([]byte(a.problem.Type), []byte("urn:lanekeeper:problem:")))
}

func (c *client) send(method, path string, header http.Header, body string) *answer {
	c.t.Helper()
	c.write(method, path, header, body)
	a, err := c.read(method)
	if err != nil {
		c.t.Errorf("%s %s: no answer: %v", method, path, err)
	}
	return a
}

func (c *client) write(method, path string, header http.Header, body string) {
	c.t.Helper()
	request, err := http.NewRequest(method, "http://shop.example"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		c.t.Error(err)
		return
	}
	request.URL.Opaque = path // as written
	if header != nil {
		request.Header = header
	}
	if err := request.Write(c.conn); err != nil {
		c.t.Error(err)
	}
}

func (c *client) read(method string) (*answer, error) {
	response, err := http.ReadResponse(c.reader, &http.Request{Method: method})
	for err == nil && response.StatusCode < 200 && response.StatusCode != http.StatusSwitchingProtocols { // interim
		response, err = http.ReadResponse(c.reader, &http.Request{Method: method})
	}
	if err != nil {
		return &answer{}, err
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return &answer{}, err
	}
	a := &answer{status: response.StatusCode, header: response.Header, body: string(body), close: response.Close}
	if response.Header.Get("Content-Type") == "application/problem+json" {
		if err := json.Unmarshal(body, &a.problem); err != nil {
			c.t.Errorf("%s: %q: %v", method, body, err)
		}
		if a.problem.Status != a.status {
			c.t.Errorf("status %d, but %d in the problem", a.status, a.problem.Status)
		}
	}
	return a, nil
}

// service is the upstream: net/http, in memory. Each request waits until the
// test lets it go.
type service struct {
	t        *testing.T
	listener *fasthttputil.InmemoryListener
	server   *http.Server
	served   chan struct{}
	arrived  chan *visit // every request, as it arrives
	stopping chan struct{}

	mu      sync.Mutex // guards the rest
	handler http.HandlerFunc
	dials   int
	down    bool
}

// visit is a request at the service.
type visit struct {
	*http.Request
	body string
	w    http.ResponseWriter
	done chan struct{}
}

func newService(t *testing.T) *service {
	s := &service{t: t, listener: fasthttputil.NewInmemoryListener(), arrived: make(chan *visit, 100), served: make(chan struct{}), stopping: make(chan struct{})}
	s.server = &http.Server{Handler: s}
	go func() { defer close(s.served); s.server.Serve(s.listener) }()
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	handler := s.handler
	s.mu.Unlock()
	if handler != nil {
		handler(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	v := &visit{Request: r, body: string(body), w: w, done: make(chan struct{})}
	s.arrived <- v
	select {
	case <-v.done:
	case <-s.stopping:
	}
}

// handle answers requests at once.
func (s *service) handle(h http.HandlerFunc) {
	s.mu.Lock()
	s.handler = h
	s.mu.Unlock()
}

func (s *service) dial(string) (net.Conn, error) {
	s.mu.Lock()
	s.dials++
	down := s.down
	s.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: io.ErrClosedPipe}
	}
	return s.listener.Dial()
}

// next is the next request to arrive, or nil if nothing does.
func (s *service) next() *visit {
	s.t.Helper()
	select {
	case v := <-s.arrived:
		return v
	case <-time.After(time.Millisecond): // virtual: everything that can happen has
		return nil
	}
}

// finish answers a visit, and returns when all that follows from it has happened.
func (v *visit) finish(status int, body string) {
	v.w.WriteHeader(status)
	io.WriteString(v.w, body)
	close(v.done)
	synctest.Wait()
}

func (s *service) stop() {
	close(s.stopping)
	s.server.Close()
	<-s.served
}

// metric sums a figure over all series whose labels hold the given pairs.
func (n *node) metric(name string, labels ...string) (sum float64) {
	n.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(n.proxy.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if hasLabels(m, labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func hasLabels(m *dto.Metric, pairs []string) bool {
	have := map[string]string{}
	for _, label := range m.GetLabel() {
		have[label.GetName()] = label.GetValue()
	}
	for i := 0; i < len(pairs); i += 2 {
		if have[pairs[i]] != pairs[i+1] {
			return false
		}
	}
	return true
}

type logBuffer struct {
	mu   sync.Mutex // guards the rest
	buf  bytes.Buffer
	told func(line string) // if it is not nil, has each line first
}

func (b *logBuffer) tell(f func(line string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = f
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	told := b.told
	b.mu.Unlock()
	if told != nil {
		told(string(p))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
