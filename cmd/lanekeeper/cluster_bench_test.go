package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// BenchmarkForwarded compares requests that arrive at their key's owner with
// requests that arrive at the other of two nodes, in alternating rounds: 64
// connections, 1 KiB bodies. It reports medians of the ratios of throughput and
// of CPU per request, summed over both nodes' processes; ns/op means nothing here.
// When every core is busy, the time a request takes says how long it waited for
// one; what the hop adds is seen at a load that leaves some free.
//
//	go test ./cmd/lanekeeper -run '^$' -bench Forwarded -benchtime 9x
func BenchmarkForwarded(b *testing.B) {
	for _, delay := range []time.Duration{0, time.Millisecond} {
		b.Run("service="+delay.String(), func(b *testing.B) {
			c := startMembers(b, 2, startService(b, delay), "shutdown: {delay: 0s, drain_timeout: 1s}\n")
			keys := c.keysOf(b, 0, 4096)
			var rate, cpu, p50, paced []float64
			added := func(local, forwarded costRound) float64 { return float64((forwarded.p50 - local.p50).Microseconds()) }
			c.round(b, 0, keys, 0)
			c.round(b, 1, keys, 0)
			for range b.N {
				local, forwarded := c.round(b, 0, keys, 0), c.round(b, 1, keys, 0)
				rate = append(rate, forwarded.rate/local.rate)
				cpu = append(cpu, forwarded.cpu/local.cpu)
				p50 = append(p50, added(local, forwarded))
				b.Logf("local %v   forwarded %v", local, forwarded)
				local, forwarded = c.round(b, 0, keys, pacedRate), c.round(b, 1, keys, pacedRate)
				paced = append(paced, added(local, forwarded))
				b.Logf("local %v   forwarded %v", local, forwarded)
			}
			for _, n := range c.nodes { // in order, so that profiles are written
				n.signal(syscall.SIGTERM)
				n.wait()
			}
			b.ReportMetric(middle(rate), "throughput-ratio")
			b.ReportMetric(middle(cpu), "cpu-ratio")
			b.ReportMetric(middle(p50), "added-p50-busy-µs")
			b.ReportMetric(middle(paced), "added-p50-µs")
		})
	}
}

// startService serves an answer after a while, until the benchmark ends.
func startService(b *testing.B, delay time.Duration) (url string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &fasthttp.Server{NoDefaultServerHeader: true, Handler: func(ctx *fasthttp.RequestCtx) {
		if delay > 0 {
			time.Sleep(delay)
		}
		ctx.SetContentType("application/json")
		ctx.WriteString(`{"ok":true}`)
	}}
	go server.Serve(listener)              // ends with the listener
	b.Cleanup(func() { listener.Close() }) // what is connected ends with the process
	return "http://" + listener.Addr().String()
}

func middle(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// keysOf asks a node for keys of orders that it owns.
func (c *testCluster) keysOf(b testing.TB, i, n int) (keys []string) {
	return c.keysOfSpace(b, "order", i, n)
}

func (c *testCluster) keysOfSpace(b testing.TB, space string, i, n int) (keys []string) {
	for k := 0; len(keys) < n; k++ {
		response, err := http.Get(c.admins[i] + "/api/v1/locate?space=" + space + "&key=" + strconv.Itoa(k))
		if err != nil {
			b.Fatal(err)
		}
		var l struct{ Owner string }
		err = json.NewDecoder(response.Body).Decode(&l)
		response.Body.Close()
		if err != nil {
			b.Fatal(err)
		}
		if l.Owner == fmt.Sprintf("n%d", i+1) {
			keys = append(keys, strconv.Itoa(k))
		}
	}
	return keys
}

type costRound struct {
	rate, cpu float64
	p50       time.Duration
}

func (r costRound) String() string {
	return fmt.Sprintf("%6.0f/s %5.1fµs p50 %v", r.rate, r.cpu*1e6, r.p50)
}

// pacedRate is a load, in requests per second, that leaves two cores half idle.
const pacedRate = 5000

// round sends requests of keys to one node for a second: so many, or as many as
// it answers.
func (c *testCluster) round(b *testing.B, i int, keys []string, rate int) costRound {
	return c.roundOf(b, i, "/orders/", keys, rate)
}

func (c *testCluster) roundOf(b *testing.B, i int, path string, keys []string, rate int) costRound {
	const connections = 64
	address := strings.TrimPrefix(c.targets[i], "http://")
	body := make([]byte, 1024)
	var sent, failed atomic.Int64
	var mu sync.Mutex
	var all []time.Duration
	var before time.Duration
	for _, n := range c.nodes {
		before += cpuOf(b, n.cmd.Process.Pid)
	}
	start := time.Now()
	var wg sync.WaitGroup
	for n := range connections {
		wg.Go(func() {
			client := fasthttp.HostClient{Addr: address, MaxConns: 1, MaxIdemponentCallAttempts: 1}
			defer client.CloseIdleConnections()
			request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			var took []time.Duration
			for i := 0; time.Since(start) < time.Second; i++ {
				if rate > 0 { // each connection at its own moments
					due := start.Add(time.Duration(n+i*connections) * time.Second / time.Duration(rate))
					time.Sleep(time.Until(due))
				}
				request.Reset()
				request.Header.SetMethod("POST")
				request.SetRequestURI("http://" + address + path + keys[(n*61+i)%len(keys)] + "/items")
				request.SetBodyRaw(body)
				at := time.Now()
				if err := client.Do(request, response); err != nil || response.StatusCode() != 200 {
					failed.Add(1)
					return
				}
				took = append(took, time.Since(at))
				sent.Add(1)
			}
			mu.Lock()
			all = append(all, took...)
			mu.Unlock()
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	if failed.Load() > 0 {
		b.Fatalf("%d requests failed", failed.Load())
	}
	var after time.Duration
	for _, n := range c.nodes {
		after += cpuOf(b, n.cmd.Process.Pid)
	}
	slices.Sort(all)
	return costRound{
		rate: float64(sent.Load()) / elapsed.Seconds(),
		cpu:  (after - before).Seconds() / float64(sent.Load()),
		p50:  all[len(all)/2],
	}
}

// cpuOf is the time a process has run, of Linux's /proc in ticks of 10 ms.
func cpuOf(b testing.TB, pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skip("no /proc: ", err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// BenchmarkStrict compares strict requests with others of the same node, whose store is
// a Redis on this machine, in alternating rounds of a second: 64 connections, 1 KiB
// bodies, a service that answers at once. It reports how much the throughput falls, and
// the CPU of a request rises, with 95 % intervals; ns/op means nothing here.
//
//	go test ./cmd/lanekeeper -run '^$' -bench Strict -benchtime 30x
func BenchmarkStrict(b *testing.B) {
	server, section := storeKinds["redis"](b)
	c := startMembers(b, 1, startService(b, 0), strictSection("redis", section, server.Address)+"shutdown: {delay: 0s, drain_timeout: 1s}\n")
	keys := c.keysOf(b, 0, 4096)
	var rate, cpu []float64
	for n := range b.N + 2 {
		strict := func() costRound { return c.roundOf(b, 0, "/orders/", keys, 0) }
		plain := func() costRound { return c.roundOf(b, 0, "/plain/", keys, 0) }
		var s, p costRound
		if n%2 == 0 { // whoever is first has the caches of the other
			s, p = strict(), plain()
		} else {
			p, s = plain(), strict()
		}
		if n < 2 {
			continue
		}
		b.Logf("strict %v   best effort %v", s, p)
		rate, cpu = append(rate, 100*(1-s.rate/p.rate)), append(cpu, 100*(s.cpu/p.cpu-1))
	}
	for what, values := range map[string][]float64{"throughput": rate, "cpu": cpu} {
		mean, half := interval(values)
		b.ReportMetric(mean, what+"-cost-%")
		b.ReportMetric(half, what+"-±%")
	}
}

// interval is the mean of values and half of its 95 % interval.
func interval(values []float64) (mean, half float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		half += (v - mean) * (v - mean)
	}
	n := float64(len(values))
	return mean, 1.96 * math.Sqrt(half/max(n-1, 1)/n)
}
