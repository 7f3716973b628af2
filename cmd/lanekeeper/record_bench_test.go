package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/lock/locktest"
)

// BenchmarkRecorded measures what it costs to keep a record of each request: one node,
// 16 connections, 1 KiB bodies, a key and a name of its own for each request, and a
// service that answers at once; without records, with the node's memory, with Redis and
// with PostgreSQL, and with sequence numbers, in alternating rounds. It reports medians
// of the requests per second and of the node's CPU per request, each as a ratio to none.
//
//	go test ./cmd/lanekeeper -run '^$' -bench Recorded -benchtime 9x
func BenchmarkRecorded(b *testing.B) {
	service := startService(b, 0)
	dir := b.TempDir()
	dsn := filepath.Join(dir, "dsn")
	writeFile(b, dsn, "postgres://postgres@"+locktest.Postgres(b).Address+"/postgres?sslmode=disable\n")
	file := filepath.Join(dir, "lanekeeper.yaml")
	kinds := []string{"none", "owner", "redis", "postgres", "sequence", "sequence-redis", "sequence-postgres"}
	var routes strings.Builder
	for _, kind := range kinds {
		extra := fmt.Sprintf("idempotency: {mode: optional, store: %s, ttl: 1m}", kind)
		if kind == "none" {
			extra = "lane: {}"
		} else if store, numbered := strings.CutPrefix(kind, "sequence"); numbered {
			extra = fmt.Sprintf("sequence: {mode: optional, done: conflict, store: %s, ttl: 1m}", cmp.Or(strings.TrimPrefix(store, "-"), "owner"))
		}
		fmt.Fprintf(&routes, "  - {name: %s, match: {path: \"/%s/{id}\"}, upstream: app, key: {space: %s, from: [{path: id}]}, %s}\n", kind, kind, kind, extra)
	}
	writeFile(b, file, fmt.Sprintf(`
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
upstreams: [{name: app, targets: [%q]}]
stores: {redis: {addresses: [%q]}, postgres: {dsn_file: %s}}
routes:
%sshutdown: {delay: 0s, drain_timeout: 5s}
`, service, locktest.Redis(b).Address, dsn, routes.String()))
	p := launch(b, file)
	address := p.log("serving")["listen"].(string)
	p.forget()
	rates, cpus := make([][]float64, len(kinds)), make([][]float64, len(kinds))
	for n := range b.N + 1 {
		for i, kind := range kinds {
			before := cpuOf(b, p.cmd.Process.Pid)
			rate, count := recordedRound(b, address, kind, n)
			cpu := float64((cpuOf(b, p.cmd.Process.Pid) - before).Microseconds()) / float64(count)
			b.Logf("%-17s %6.0f/s, %.1f µs", kind, rate, cpu)
			if n > 0 { // the first is to get warm
				rates[i], cpus[i] = append(rates[i], rate), append(cpus[i], cpu)
			}
		}
	}
	for i, kind := range kinds {
		b.ReportMetric(middle(rates[i])/middle(rates[0]), kind+"-rate-ratio")
		b.ReportMetric(middle(cpus[i])/middle(cpus[0]), kind+"-cpu-ratio")
	}
}

// recordedRound sends requests for two seconds, each with a key, a name and a number of its
// own, as its route wants them.
func recordedRound(b *testing.B, address, route string, round int) (rate float64, count int64) {
	client := fasthttp.HostClient{Addr: address, MaxConns: 64, MaxIdemponentCallAttempts: 1}
	defer client.CloseIdleConnections()
	body := make([]byte, 1<<10)
	var done atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for worker := range 16 {
		wg.Go(func() {
			request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			defer fasthttp.ReleaseRequest(request)
			defer fasthttp.ReleaseResponse(response)
			for i := 0; time.Since(began) < 2*time.Second; i++ {
				name := fmt.Sprintf("%d-%d-%d", round, worker, i)
				request.Header.SetMethod("POST")
				request.SetRequestURI("http://" + address + "/" + route + "/" + name)
				request.Header.Set("Idempotency-Key", name)
				request.Header.Set("Lanekeeper-Producer", "p")
				request.Header.Set("Lanekeeper-Seq", "1")
				request.SetBody(body)
				if err := client.Do(request, response); err != nil || response.StatusCode() != 200 {
					b.Errorf("%s: %v, %d %s", route, err, response.StatusCode(), response.Body())
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), done.Load()
}
