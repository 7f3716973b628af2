package proxy_test

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var slowClients = flag.Int("slow", 300, "clients that drip, in BenchmarkSlowClients; more need file descriptors in this process and its child")

// BenchmarkSlowClients holds a node's connections as slowloris does: many clients that
// have sent a part of a head or of a body, and go on by a byte now and then. It compares
// one fast client's p99 with them and without, in alternating rounds, and states the
// node's memory for each slow connection.
//
//	go test ./proxy -run '^$' -bench SlowClients -benchtime 5x -slow 10000
func BenchmarkSlowClients(b *testing.B) {
	service := startChild(b, "service", "0s")
	quiet, besieged := startChild(b, "lanekeeper", "http://"+service.address), startChild(b, "lanekeeper", "http://"+service.address)
	one := load{connections: 4, keys: 1000, body: make([]byte, 1024), length: time.Second}
	for _, child := range []*child{quiet, besieged} { // warm both
		child.round(b, one)
	}
	before := besieged.resident(b)
	siege := make([]net.Conn, *slowClients)
	for i := range siege {
		siege[i] = besieged.slow(i)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(stopped)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				for i, conn := range siege {
					if _, err := io.WriteString(conn, "x"); err != nil { // it had its time, and comes again
						conn.Close()
						siege[i] = besieged.slow(i)
					}
				}
			case <-stop:
				for _, conn := range siege {
					conn.Close()
				}
				return
			}
		}
	}()
	var p99, rate []float64
	for range b.N {
		alone := quiet.round(b, one)
		beside := besieged.round(b, one)
		p99 = append(p99, beside.p99.Seconds()/alone.p99.Seconds())
		rate = append(rate, beside.rate/alone.rate)
		b.Logf("alone %6.0f/s p99 %v   beside %d slow ones %6.0f/s p99 %v", alone.rate, alone.p99, len(siege), beside.rate, beside.p99)
	}
	b.ReportMetric(float64(besieged.resident(b)-before)/float64(len(siege)), "B/slow")
	close(stop)
	<-stopped
	b.ReportMetric(median(p99), "p99-ratio")
	b.ReportMetric(median(rate), "throughput-ratio")
}

// slow is a client that has sent the half of a head, or of a body.
func (c *child) slow(i int) net.Conn {
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		panic(err) // not of the benchmark's goroutine
	}
	io.WriteString(conn, [2]string{"POST /orders/7 HTTP/1.1\r\nHost: a\r\nX: ", "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"}[i%2])
	return conn
}

// resident is the memory of a child's process.
func (c *child) resident(b *testing.B) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	if err != nil {
		b.Skip(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		b.Fatal(err)
	}
	return kib << 10
}
