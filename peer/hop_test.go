package peer

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNode is a node of the hop without HTTP: its service appends the key's
// tickets to a log.
type testNode struct {
	t     testing.TB
	self  ring.Member
	hop   *Hop
	lanes *queue.Lanes
	addr  string
	conns sync.Map // net.Conn dialled → true

	owner  func(int) (ring.Member, uint64)
	delay  func() time.Duration
	served atomic.Int64
	log    *ranLog
}

type ranLog struct {
	mu      sync.Mutex
	ran     map[string][]queue.ID
	running map[string]int
	overlap int
}

const testPartitions = 16

func startTestNode(t testing.TB, name string, log *ranLog, change func(*Config)) *testNode {
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
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
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
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = listener.Addr().String()
	served := make(chan error, 1)
	go func() { served <- n.hop.Serve(listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n.hop.Stop(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
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
	if err := in.Await(time.Now().Add(5 * time.Second)); err != nil {
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
	log := newRanLog()
	ingress = startTestNode(t, "a", log, change)
	owner = startTestNode(t, "b", log, change)
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

// TestHopOrder sends closely spaced requests of a few keys and looks at the
// order in which they ran.
func TestHopOrder(t *testing.T) {
	ingress, owner := pair(t, nil)
	send(t, ingress, 5000, func(i int) int { return 100 * (i % 3) })
	checkRan(t, owner.log, 5000)
}

// TestHopLargeBodies has every tenth body travel apart.
func TestHopLargeBodies(t *testing.T) {
	ingress, owner := pair(t, nil)
	send(t, ingress, 500, func(i int) int {
		if i%10 == 0 {
			return inlineMax + 100000
		}
		return 10
	})
	checkRan(t, owner.log, 500)
}

// TestReconnectKeepsOrder breaks connections at random while requests are sent:
// those that have a ticket are none the worse, and nothing runs twice.
func TestReconnectKeepsOrder(t *testing.T) {
	ingress, owner := pair(t, nil)
	owner.delay = func() time.Duration { return time.Duration(rand.IntN(300)) * time.Microsecond }
	stop := make(chan struct{})
	var wg sync.WaitGroup
	broken := 0
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(5+rand.IntN(20)) * time.Millisecond):
				ingress.conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); ingress.conns.Delete(c); broken++; return true })
			}
		}
	})
	send(t, ingress, 5000, func(i int) int { return 10 })
	close(stop)
	wg.Wait()
	if broken < 3 {
		t.Errorf("only %d connections were broken", broken)
	}
	checkRan(t, owner.log, 5000)
}

func send(t testing.TB, n *testNode, count int, body func(i int) int) {
	t.Helper()
	var wg sync.WaitGroup
	var failed sync.Map
	for i := range count {
		key := fmt.Sprint("order:", i%7)
		r := testRequest(key, body(i))
		c := NewCall(i%7, noLocal{}, r, time.Now().Add(10*time.Second))
		n.hop.Send(c)
		want := fmt.Sprintf("%s %d", key, body(i))
		wg.Go(func() {
			if !c.Wait(time.Now().Add(20 * time.Second)) {
				failed.Store(i, "no answer")
			} else if got := string(c.Response.Body); got != want {
				failed.Store(i, fmt.Sprintf("got %q (%s %s), want %q", got, c.Response.Problem, c.Response.Detail, want))
			}
		})
		if i%50 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	wg.Wait()
	shown := 0
	failed.Range(func(i, text any) bool { t.Errorf("request %v: %v", i, text); shown++; return shown < 5 })
}

func checkRan(t testing.TB, log *ranLog, want int) {
	t.Helper()
	log.mu.Lock()
	defer log.mu.Unlock()
	total := 0
	for key, ids := range log.ran {
		total += len(ids)
		for i := 1; i < len(ids); i++ {
			if ids[i-1].String() >= ids[i].String() {
				t.Fatalf("%s: ticket %s ran after %s", key, ids[i], ids[i-1])
			}
		}
	}
	if total != want || log.overlap > 0 {
		t.Errorf("%d ran, %d beside another; want %d and 0", total, log.overlap, want)
	}
}

func BenchmarkHop(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", secure), func(b *testing.B) {
			ingress, _ := pair(b, func(c *Config) {
				if secure {
					var err error
					if c.TLS, err = SecretTLS([][]byte{[]byte("a secret of thirty-two bytes. ok")}); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportAllocs()
			var n atomic.Int64
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				key := fmt.Sprint("order:", n.Add(1))
				for pb.Next() {
					c := NewCall(3, noLocal{}, testRequest(key, 1024), time.Now().Add(10*time.Second))
					ingress.hop.Send(c)
					if !c.Wait(time.Now().Add(10*time.Second)) || c.Response.Problem != "" {
						b.Errorf("no answer: %+v", c.Response)
						return
					}
				}
			})
		})
	}
}
