package proxy_test

import (
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkKeysSeen measures what a request costs a node that has seen ten thousand,
// a hundred thousand and a million keys, each of which it meets again in turn: CPU per
// request as a ratio to the first, in alternating rounds. Keys that nobody waits for are
// to cost nothing.
//
//	go test ./proxy -run '^$' -bench KeysSeen -benchtime 7x
func BenchmarkKeysSeen(b *testing.B) {
	service := startChild(b, "service", "0s")
	type node struct {
		*child
		load
		cpu []float64
	}
	var nodes []*node
	for _, keys := range []int{10_000, 100_000, 1_000_000} {
		n := &node{child: startChild(b, "lanekeeper", "http://"+service.address)}
		n.load = load{connections: 64, keys: keys, next: new(atomic.Int64), body: make([]byte, 1024), length: time.Second}
		nodes = append(nodes, n)
		for n.load.next.Load() < int64(keys) {
			n.round(b, n.load)
		}
	}
	for range b.N {
		line := ""
		for _, n := range nodes {
			r := n.round(b, n.load)
			n.cpu = append(n.cpu, r.cpu.Seconds())
			line += fmt.Sprintf("   %7d keys %6.0f/s %5.1fµs", n.keys, r.rate, r.cpu.Seconds()*1e6)
		}
		b.Log(line)
	}
	for _, n := range nodes[1:] {
		var ratios []float64
		for i := range n.cpu {
			ratios = append(ratios, n.cpu[i]/nodes[0].cpu[i])
		}
		b.ReportMetric(median(ratios), fmt.Sprintf("cpu-ratio-%dk-keys", n.keys/1000))
	}
}

// BenchmarkParked measures what requests that wait cost the others: a node at which ten
// thousand wait behind one that does not end, each on a connection of its own, and one at
// which as many wait as file descriptors allow, each against a node where nobody does, in
// alternating rounds; and the CPU that those who wait take when nothing else happens.
//
//	go test ./proxy -run '^$' -bench Parked -benchtime 7x
func BenchmarkParked(b *testing.B) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Skip(err)
	}
	most := int(min(limit.Cur, 60_000)) - 500
	for _, parked := range []int{min(10_000, most), most} {
		b.Run(fmt.Sprintf("parked=%d", parked), func(b *testing.B) { besideParked(b, parked) })
	}
}

func besideParked(b *testing.B, parked int) {
	service := startChild(b, "service", "0s")
	empty, full := startChild(b, "wide", "http://"+service.address), startChild(b, "wide", "http://"+service.address)
	traffic := load{connections: 64, keys: 10_000, body: make([]byte, 1024), length: time.Second}
	for _, child := range []*child{empty, full} { // warm both
		child.round(b, traffic)
	}
	for i := range parked {
		conn := full.dialFrom(b, i/20_000)
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST /orders/"+endless+" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"); err != nil {
			b.Fatal(err)
		}
	}
	var rate, cpu, p99, rest []float64
	for range b.N {
		before := cpuTime(b, full.pid)
		time.Sleep(time.Second)
		rest = append(rest, float64((cpuTime(b, full.pid)-before).Microseconds())/1e3)
		e, f := empty.round(b, traffic), full.round(b, traffic)
		rate, cpu, p99 = append(rate, f.rate/e.rate), append(cpu, f.cpu.Seconds()/e.cpu.Seconds()), append(p99, f.p99.Seconds()/e.p99.Seconds())
		b.Logf("nobody waits %6.0f/s %5.1fµs p99 %v   %d wait %6.0f/s %5.1fµs p99 %v, at rest %.1f ms of CPU per second", e.rate, e.cpu.Seconds()*1e6, e.p99, parked, f.rate, f.cpu.Seconds()*1e6, f.p99, rest[len(rest)-1])
	}
	b.ReportMetric(median(rate), "throughput-ratio")
	b.ReportMetric(median(cpu), "cpu-ratio")
	b.ReportMetric(median(p99), "p99-ratio")
	b.ReportMetric(median(rest), "rest-cpu-ms/s")
}

// dialFrom connects from one of several addresses: of one alone there are not enough ports.
func (c *child) dialFrom(b *testing.B, i int) net.Conn {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i))}}
	conn, err := dialer.Dial("tcp", c.address)
	if err != nil {
		b.Fatal(err)
	}
	conn.(*net.TCPConn).SetLinger(0) //nolint:errcheck // then a port is blocked for a minute
	return conn
}
