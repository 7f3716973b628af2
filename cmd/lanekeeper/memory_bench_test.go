package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/admin"
)

const parked = 5000 // requests that wait

// BenchmarkWaitingRequest measures what a request of 200 bytes that waits for another
// node's key takes: of the key's owner, and of the node where it came, which has the
// connection. Forwarded, it waits in its owner's lane; spilled, where it came, and the owner
// has an ask for sixteen of them. It reports medians of heap and stacks in use per request;
// ns/op means nothing here.
//
// The garbage collector runs often (GOGC=10), so that little of it is garbage; and
// each round has nodes of its own, since a heap that was large once stays so for a while.
//
//	go test ./cmd/lanekeeper -run '^$' -bench WaitingRequest -benchtime 5x
func BenchmarkWaitingRequest(b *testing.B) {
	b.Setenv("GOGC", "10")
	for name, park := range map[string]func(*testCluster, *testing.B, *stoppable) (owner, ingress float64){"forwarded": (*testCluster).park, "spilled": (*testCluster).parkSpilled} {
		b.Run(name, func(b *testing.B) {
			var owner, ingress []float64
			for range b.N {
				service := &stoppable{stopped: make(chan struct{})}
				c := startMembers(b, 2, service.start(b), "shutdown: {delay: 0s, drain_timeout: 1s}\n")
				o, in := park(c, b, service)
				for _, n := range c.nodes {
					n.signal(os.Kill)
					n.cmd.Wait() // Wait's error is the kill
				}
				b.Logf("owner %.0f, ingress %.0f bytes", o, in)
				owner, ingress = append(owner, o), append(ingress, in)
			}
			b.ReportMetric(middle(owner), "owner-B/request")
			b.ReportMetric(middle(ingress), "ingress-B/request")
		})
	}
}

// stoppable is a service that answers after a few milliseconds, until it does not
// answer any more.
type stoppable struct {
	stopped chan struct{}
	once    sync.Once
}

func (s *stoppable) start(b *testing.B) (url string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &fasthttp.Server{Handler: func(*fasthttp.RequestCtx) {
		select {
		case <-s.stopped:
			time.Sleep(time.Hour)
		case <-time.After(5 * time.Millisecond):
		}
	}}
	go server.Serve(listener)              // ends with the listener
	b.Cleanup(func() { listener.Close() }) // what is connected ends with the process
	return "http://" + listener.Addr().String()
}

func (s *stoppable) stop() { s.once.Do(func() { close(s.stopped) }) }

// park lets requests of a key of the first node wait that came to the second.
func (c *testCluster) park(b *testing.B, service *stoppable) (owner, ingress float64) {
	service.stop()
	return c.fill(b, "/orders/"+c.keysOf(b, 0, 1)[0], func() bool { return c.waitingAt(b, 0) == parked })
}

// parkSpilled does so with a key that is spilled, as it is before the service stops.
func (c *testCluster) parkSpilled(b *testing.B, service *stoppable) (owner, ingress float64) {
	path := "/spilled/" + c.keysOfSpace(b, "spilled", 0, 1)[0]
	var crowd sync.WaitGroup
	for range 20 {
		crowd.Go(func() {
			for c.spilledAt(1) < 50 {
				if answer := <-post(c.targets[1]+path, "again"); !strings.HasPrefix(answer, "200") {
					b.Errorf("got %s", answer)
					return
				}
			}
		})
	}
	crowd.Wait()
	const few = 40 // they keep it hot, and the last of them never get an answer
	var conns []net.Conn
	for range few {
		conns = append(conns, c.post(b, path))
	}
	defer closeAll(conns)
	c.await("the key to be spilled", func() bool { return c.metric(0, `lanekeeper_hot_keys{route="spilled"}`) == 1 })
	service.stop()
	before := c.waitingAt(b, 1)
	return c.fill(b, path, func() bool { return c.waitingAt(b, 1) >= before+parked-few })
}

// fill sends so many requests to the second node, and waits until all of them wait.
func (c *testCluster) fill(b *testing.B, path string, all func() bool) (owner, ingress float64) {
	conns := []net.Conn{c.post(b, path)} // its service never answers
	defer func() { closeAll(conns) }()
	before := [2]float64{memoryInUse(b, c.nodes[0].observe), memoryInUse(b, c.nodes[1].observe)}
	for range parked {
		conns = append(conns, c.post(b, path))
	}
	c.await("all to wait", all)
	return (memoryInUse(b, c.nodes[0].observe) - before[0]) / parked, (memoryInUse(b, c.nodes[1].observe) - before[1]) / parked
}

func closeAll(conns []net.Conn) {
	for _, conn := range conns {
		conn.Close()
	}
}

func (c *testCluster) post(b *testing.B, path string) net.Conn {
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.targets[1], "http://"))
	if err != nil {
		b.Fatal(err)
	}
	conn.(*net.TCPConn).SetLinger(0) // no port is blocked afterwards
	fmt.Fprintf(conn, "POST %s/items HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n%s", path, strings.Repeat("b", 200))
	return conn
}

// waitingAt is how many requests wait at a node.
func (c *testCluster) waitingAt(b *testing.B, i int) int {
	client, err := (&adminOptions{address: c.admins[i], output: "json"}).client()
	if err != nil {
		b.Fatal(err)
	}
	var status admin.Status
	if _, err := client.ask(b.Context(), http.MethodGet, "status", nil, &status); err != nil {
		b.Fatal(err)
	}
	return status.Waiting
}

var inUseLine = regexp.MustCompile(`(?m)^go_memstats_(?:heap|stack)_inuse_bytes (\S+)$`)

// memoryInUse is a node's heap and stacks.
func memoryInUse(b *testing.B, observe string) (total float64) {
	response, err := http.Get(observe + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		b.Fatal(err)
	}
	found := inUseLine.FindAllStringSubmatch(string(text), -1)
	if len(found) != 2 {
		b.Fatalf("heap and stacks in use are not among the metrics: %q", found)
	}
	for _, match := range found {
		bytes, err := strconv.ParseFloat(match[1], 64)
		if err != nil {
			b.Fatal(err)
		}
		total += bytes
	}
	return total
}
