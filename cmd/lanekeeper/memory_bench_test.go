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
	"testing"
	"time"

	"lanekeeper/admin"
)

const parked = 5000 // requests that wait

// BenchmarkWaitingRequest measures what a request of 200 bytes that waits in the
// lane of another node's key takes: of its owner, which has the request, and of the
// node where it came, which has the connection. It reports medians of heap and
// stacks in use per request; ns/op means nothing here.
//
// The garbage collector runs often (GOGC=10), so that little of it is garbage; and
// each round has nodes of its own, since a heap that was large once stays so for a while.
//
//	go test ./cmd/lanekeeper -run '^$' -bench WaitingRequest -benchtime 5x
func BenchmarkWaitingRequest(b *testing.B) {
	b.Setenv("GOGC", "10")
	service := startService(b, time.Hour)
	var owner, ingress []float64
	for range b.N {
		c := startMembers(b, 2, service, "shutdown: {delay: 0s, drain_timeout: 1s}\n")
		o, in := c.park(b, c.keysOf(b, 0, 1)[0])
		for _, n := range c.nodes {
			n.signal(os.Kill)
			n.cmd.Wait() // Wait's error is the kill
		}
		b.Logf("owner %.0f, ingress %.0f bytes", o, in)
		owner, ingress = append(owner, o), append(ingress, in)
	}
	b.ReportMetric(middle(owner), "owner-B/request")
	b.ReportMetric(middle(ingress), "ingress-B/request")
}

// park lets requests of a key of the first node wait that came to the second.
func (c *testCluster) park(b *testing.B, key string) (owner, ingress float64) {
	conns := []net.Conn{c.post(b, key)} // its service never answers
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	before := [2]float64{memoryInUse(b, c.nodes[0].observe), memoryInUse(b, c.nodes[1].observe)}
	for range parked {
		conns = append(conns, c.post(b, key))
	}
	c.awaitWaiting(b, parked)
	return (memoryInUse(b, c.nodes[0].observe) - before[0]) / parked, (memoryInUse(b, c.nodes[1].observe) - before[1]) / parked
}

func (c *testCluster) post(b *testing.B, key string) net.Conn {
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.targets[1], "http://"))
	if err != nil {
		b.Fatal(err)
	}
	conn.(*net.TCPConn).SetLinger(0) // no port is blocked afterwards
	fmt.Fprintf(conn, "POST /orders/%s HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n%s", key, strings.Repeat("b", 200))
	return conn
}

// awaitWaiting waits until so many requests wait at the first node.
func (c *testCluster) awaitWaiting(b *testing.B, n int) {
	client, err := (&adminOptions{address: c.admins[0], output: "json"}).client()
	if err != nil {
		b.Fatal(err)
	}
	var status admin.Status
	for range 600 {
		if _, err := client.ask(b.Context(), http.MethodGet, "status", nil, &status); err != nil {
			b.Fatal(err)
		}
		if status.Waiting == n {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.Fatalf("%d requests wait, want %d", status.Waiting, n)
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
