package peer

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lanekeeper/membership/membertest"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// testNode is a node of the hop without HTTP: its service appends the key's
// tickets to a log.
type testNode struct {
	t     testing.TB
	self  ring.Member
	hop   *Hop
	lanes *queue.Lanes
	addr  string
	conns sync.Map // net.Conn dialled → true

	stop   func()
	killed bool // with its network
	owner  func(int) (ring.Member, uint64)
	delay  func() time.Duration
	answer func(*Inbound) // in place of an echo
	served atomic.Int64
	log    *ranLog
}

type ranLog struct {
	mu      sync.Mutex
	ran     map[string][]queue.ID
	running map[string]int
	overlap int
}

const (
	testPartitions = 16
	bodyPatience   = 5 * time.Second
)

// testNetwork is what nodes listen on and dial by.
type testNetwork interface {
	listen(node string) (net.Listener, error)
	dial(ctx context.Context, node, address string) (net.Conn, error)
}

// loopback is the real thing.
type loopback struct{}

func (loopback) listen(string) (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

func (loopback) dial(ctx context.Context, _, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// inMemory is for nodes "a" to "z" in a bubble.
type inMemory struct{ *membertest.Network }

func hostOf(node string) string { return fmt.Sprintf("10.0.0.%d", node[0]-'a'+1) }

func (m inMemory) listen(node string) (net.Listener, error) { return m.Listen(hostOf(node) + ":7000") }

func (m inMemory) dial(ctx context.Context, node, address string) (net.Conn, error) {
	return m.Dial(ctx, hostOf(node), address)
}

func startTestNode(t testing.TB, network testNetwork, name string, log *ranLog, change func(*Config)) *testNode {
	t.Helper()
	n := &testNode{t: t, self: ring.Member{Name: name, Incarnation: 1}, log: log}
	n.lanes = queue.New(queue.Config{MaxQueued: 100000, MaxQueuedBytes: 1 << 30, MaxLanes: 1 << 16, Tags: 1, Partitions: testPartitions})
	config := Config{
		Self: n.self, Cluster: "test", Layout: 7, Stripes: 1,
		NextID:   n.lanes.NextID,
		Owner:    func(p int) (ring.Member, uint64) { return n.owner(p) },
		Serve:    n.serve,
		Control:  func(ring.Member, []byte) {},
		Up:       func(ring.Member) {},
		MaxCalls: 1 << 16, MaxBytes: 1 << 30,
		Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := network.dial(ctx, name, address)
			if err == nil {
				n.conns.Store(conn, true)
			}
			return conn, err
		},
	}
	if change != nil {
		change(&config)
	}
	n.hop = New(config)
	listener, err := network.listen(name)
	if err != nil {
		t.Fatal(err)
	}
	n.addr = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- n.hop.Serve(listener) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			n.hop.Stop(ctx) //nolint:errcheck // there may be nobody to read its answers
			if err := <-served; err != nil && !n.killed {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	t.Cleanup(n.stop)
	return n
}

func (n *testNode) serve(in *Inbound) (*Response, bool) {
	in.Ticket.Notify = func() {
		if err := in.Ticket.Granted(); err != nil {
			go in.Respond(&Response{Problem: "lane-timeout"})
			return
		}
		go n.run(in)
	}
	err := n.lanes.Admit(&in.Ticket, &queue.Request{
		Key: in.Key, Partition: in.Partition, Class: in.Class, ID: in.Request.Ticket, Bytes: in.BodySize,
		MaxDepth: in.MaxDepth, MaxBytes: in.MaxBytes, MaxShared: in.MaxShared,
	})
	switch {
	case err == queue.ErrSealed:
		return nil, false
	case err != nil:
		return &Response{Problem: "lane-full"}, true
	}
	return nil, true
}

func (n *testNode) run(in *Inbound) {
	if err := in.Await(time.Now().Add(bodyPatience)); err != nil {
		in.Ticket.Done()
		in.Respond(&Response{Problem: "lane-timeout", Detail: err.Error()})
		return
	}
	n.log.begin(string(in.Key), in.Request.Ticket)
	if n.delay != nil {
		time.Sleep(n.delay())
	}
	n.served.Add(1)
	n.log.end(string(in.Key))
	if n.answer != nil {
		n.answer(in)
		return
	}
	in.Ticket.Done()
	in.Respond(&Response{Head: []byte("HTTP/1.1 200 OK\r\n\r\n"), Body: fmt.Appendf(nil, "%s %d", in.Key, len(in.Body))})
}

func (l *ranLog) begin(key string, id queue.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ran[key] = append(l.ran[key], id)
	if l.running[key]++; l.running[key] > 1 {
		l.overlap++
	}
}

func (l *ranLog) end(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running[key]--
}

func newRanLog() *ranLog { return &ranLog{ran: map[string][]queue.ID{}, running: map[string]int{}} }

// noLocal is a request whose lane is never here.
type noLocal struct{}

func (noLocal) AdmitHere(queue.ID) bool { return false }

func testRequest(key string, body int) *Request {
	return &Request{
		Key: []byte(key), Route: "order", MaxDepth: 1000, MaxBytes: 1 << 30, MaxShared: 16,
		UpstreamTimeout: 10 * time.Second, Head: []byte("POST / HTTP/1.1\r\n"), Body: []byte(strings.Repeat("x", body)),
	}
}

func pair(t testing.TB, change func(*Config)) (ingress, owner *testNode) {
	return pairOver(t, loopback{}, change)
}

// pairOver starts two nodes, of which b owns everything.
func pairOver(t testing.TB, network testNetwork, change func(*Config)) (ingress, owner *testNode) {
	log := newRanLog()
	ingress = startTestNode(t, network, "a", log, change)
	owner = startTestNode(t, network, "b", log, change)
	for _, n := range []*testNode{ingress, owner} {
		n.owner = func(int) (ring.Member, uint64) { return owner.self, 1 }
	}
	for p := range testPartitions {
		owner.lanes.Open(p)
	}
	members := []Member{{ingress.self, ingress.addr}, {owner.self, owner.addr}}
	ingress.hop.View(members)
	owner.hop.View(members)
	return ingress, owner
}
