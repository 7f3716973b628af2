package proxy_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/loadtest"
	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// BenchmarkAgainstPlain compares lanekeeper with a minimal fasthttp reverse
// proxy: alternating rounds, each proxy a process of its own, the same service
// and clients. It reports medians of the ratios of throughput and of the proxy
// process's CPU per request; ns/op means nothing here.
//
// With LANEKEEPER_BENCH_PROFILE=FILE it also writes CPU profiles, FILE.plain and FILE.lanekeeper.
//
//	go test ./proxy -run '^$' -bench AgainstPlain -benchtime 9x
func BenchmarkAgainstPlain(b *testing.B) {
	for _, delay := range []time.Duration{0, time.Millisecond} {
		b.Run("service="+delay.String(), func(b *testing.B) { againstPlain(b, delay) })
	}
}

func againstPlain(b *testing.B, delay time.Duration) {
	target := "http://" + startChild(b, "service", delay.String()).address
	plain, ours := startChild(b, "plain", target), startChild(b, "lanekeeper", target)
	traffic := load{connections: 64, keys: 64_000, body: make([]byte, 1024), length: time.Second}
	for _, child := range []*child{plain, ours} { // warm both
		child.round(b, traffic)
	}
	var rate, cpu, p99 []float64
	for range b.N {
		a := plain.round(b, traffic)
		o := ours.round(b, traffic)
		rate = append(rate, o.rate/a.rate)
		cpu = append(cpu, o.cpu.Seconds()/a.cpu.Seconds())
		p99 = append(p99, o.p99.Seconds()/a.p99.Seconds())
		b.Logf("plain %6.0f/s %5.1fµs p99 %v   lanekeeper %6.0f/s %5.1fµs p99 %v", a.rate, a.cpu.Seconds()*1e6, a.p99, o.rate, o.cpu.Seconds()*1e6, o.p99)
	}
	b.ReportMetric(median(rate), "throughput-ratio")
	b.ReportMetric(median(cpu), "cpu-ratio")
	b.ReportMetric(median(p99), "p99-ratio")
}

// endless is the order whose requests never end, at serveAfter.
const endless = "endless"

// serveAfter answers every request after a while.
func serveAfter(listener net.Listener, delay time.Duration) {
	server := &fasthttp.Server{NoDefaultServerHeader: true, Handler: func(ctx *fasthttp.RequestCtx) {
		if string(ctx.Path()) == "/orders/"+endless {
			select {}
		}
		if delay > 0 {
			time.Sleep(delay)
		}
		ctx.SetContentType("application/json")
		ctx.WriteString(`{"ok":true}`)
	}}
	server.Serve(listener)
}

// BenchmarkHotKey sends all requests for one key, over 16 connections, to a
// service that takes 1 ms, and compares with what one client in a closed loop
// gets from the service directly: more than that no serial key can have.
//
//	go test ./proxy -run '^$' -bench HotKey -benchtime 9x
func BenchmarkHotKey(b *testing.B) {
	direct := startChild(b, "service", time.Millisecond.String())
	ours := startChild(b, "lanekeeper", "http://"+direct.address)
	one := load{connections: 1, keys: 1, body: make([]byte, 1024), length: time.Second}
	many := load{connections: 16, keys: 1, body: make([]byte, 1024), length: time.Second}
	var rate []float64
	for range b.N {
		a, o := direct.round(b, one), ours.round(b, many)
		rate = append(rate, o.rate/a.rate)
		b.Logf("direct %4.0f/s   lanekeeper %4.0f/s", a.rate, o.rate)
	}
	b.ReportMetric(median(rate), "throughput-ratio")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

type child struct {
	address string
	pid     int
}

const childVariable = "LANEKEEPER_BENCH_CHILD"

// startChild runs this test binary again, as a proxy or a service.
func startChild(b *testing.B, kind, target string) *child {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+kind+" "+target)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); cmd.Wait() })
	var address string
	if _, err := fmt.Fscanln(stdout, &address); err != nil {
		b.Fatal(err)
	}
	return &child{address, cmd.Process.Pid}
}

// runChild serves until its standard input ends.
func runChild(what string) {
	kind, target, _ := strings.Cut(what, " ")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	switch kind {
	case "service":
		delay, err := time.ParseDuration(target)
		if err != nil {
			panic(err)
		}
		go serveAfter(listener, delay)
	case "plain":
		plain, err := loadtest.NewPlain(loadtest.PlainConfig{Targets: []string{target}})
		if err != nil {
			panic(err)
		}
		if err := plain.Start(listener); err != nil {
			panic(err)
		}
	case "lanekeeper", "wide", actionNone, actionShed:
		config := benchConfig(target)
		switch kind {
		case "lanekeeper":
		case "wide": // room for all who wait, for as long as the benchmark takes
			config.MaxConnections, config.MaxInflight = 1<<17, 1<<17
			lane := &config.Routes[0].Lane
			lane.MaxDepth, lane.QueueTimeout, lane.UpstreamTimeout = 1<<17, time.Hour, time.Hour
		default:
			hotLane(&config.Routes[0].Lane, kind)
		}
		p, err := proxy.New(config, queue.New(queue.Config{MaxQueued: 1 << 20, MaxQueuedBytes: 1 << 30, MaxLanes: 1 << 20, Tags: 1}), slog.New(slog.DiscardHandler))
		if err != nil {
			panic(err)
		}
		go p.Serve(listener)
	}
	if path := os.Getenv("LANEKEEPER_BENCH_PROFILE"); path != "" {
		file, err := os.Create(path + "." + kind)
		if err != nil {
			panic(err)
		}
		pprof.StartCPUProfile(file)
		defer pprof.StopCPUProfile()
	}
	fmt.Println(listener.Addr())
	io.Copy(io.Discard, os.Stdin)
}

func benchConfig(target string) proxy.Config {
	return proxy.Config{
		MaxBody: 1 << 20, MaxHeader: 16 << 10, MaxURI: 8 << 10, MaxHeaders: 100,
		HeaderTimeout: 10 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: 75 * time.Second,
		BypassIdleTimeout: 5 * time.Minute, MaxConnections: 1 << 14, MaxInflight: 1 << 12, NativeHistograms: true,
		Upstreams: []proxy.Upstream{{Name: "app", Targets: []string{target}, ConnectTimeout: 2 * time.Second, MaxConnections: 256, Queue: 1024, IdleTimeout: 30 * time.Second}},
		Routes: []proxy.Route{{
			Name: "order", Match: proxy.Match{Path: "/orders/{id}/{rest...}"}, Upstream: "app",
			Key: proxy.Key{Space: "order", From: []proxy.Source{{Path: "id"}}, Normalize: []string{"trim"}, MaxLength: 256},
			Lane: proxy.Lane{
				Exclusive: []string{"POST", "PUT", "PATCH", "DELETE"}, Shared: []string{"GET", "HEAD"},
				MaxDepth: 1024, MaxBytes: 16 << 20, MaxShared: 16, QueueTimeout: 10 * time.Second,
				UpstreamTimeout: 30 * time.Second, HoldFor: 30 * time.Second, MaxResponse: 1 << 20,
			},
		}},
	}
}

type round struct {
	rate float64
	cpu  time.Duration // of the proxy, per request
	p99  time.Duration
}

// load is a closed loop of POSTs.
type load struct {
	connections, keys int
	next              *atomic.Int64 // the keys in turn, those of one round after those of the one before; nil: from the first on
	body              []byte
	length            time.Duration
}

func (c *child) round(b *testing.B, l load) round {
	var sent, failed atomic.Int64
	var mu sync.Mutex // guards all
	var all []time.Duration
	before := cpuTime(b, c.pid)
	start := time.Now()
	var wg sync.WaitGroup
	for n := range l.connections {
		wg.Go(func() {
			client := fasthttp.HostClient{Addr: c.address, MaxConns: 1, MaxIdemponentCallAttempts: 1}
			defer client.CloseIdleConnections()
			request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			var took []time.Duration
			for i := 0; time.Since(start) < l.length; i++ {
				request.Reset()
				request.Header.SetMethod("POST")
				key := n*1000 + i
				if l.next != nil {
					key = int(l.next.Add(1))
				}
				request.SetRequestURI("http://" + c.address + "/orders/" + strconv.Itoa(key%l.keys) + "/items")
				request.SetBodyRaw(l.body)
				at := time.Now()
				if err := client.Do(request, response); err != nil || response.StatusCode() != 200 {
					failed.Add(1)
					continue
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
	if failed.Load() > 0 {
		b.Fatalf("%d requests failed", failed.Load())
	}
	elapsed, used := time.Since(start), cpuTime(b, c.pid)-before
	slices.Sort(all)
	return round{float64(sent.Load()) / elapsed.Seconds(), used / time.Duration(sent.Load()), all[len(all)*99/100]}
}

// cpuTime is the user and system time a process has used, from the nanosecond
// counters of its threads.
func cpuTime(b *testing.B, pid int) (total time.Duration) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		b.Skip("CPU time is read from /proc")
	}
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
		if err != nil {
			continue // the thread has ended
		}
		ran, _ := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		total += time.Duration(ran)
	}
	return total
}
