package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"lanekeeper/lock"
)

// BenchmarkSpilled compares ways to run the requests of one hot key one at a time, in
// alternating rounds: three entrances with 21 connections each, 1 KiB bodies, and a
// service that takes 1 ms. They are: lanekeeper with the key not spilled, and spilled, by
// its owner alone and with a lock in a store for each turn; and what is built without it,
// where each request takes a lock: in Redis as most do it (SET NX, and try again in a
// moment), and in Redis, ZooKeeper and etcd with a queue that wakes who is next; last, as
// the bound of all these, a mutex in one process in the place of the lock. It reports medians of the requests per second, and of how much longer the
// longest wait was than the median; ns/op means nothing here.
//
//	go test ./cmd/lanekeeper -run '^$' -bench Spilled -benchtime 9x
func BenchmarkSpilled(b *testing.B) {
	service := startService(b, time.Millisecond)
	c := startMembers(b, 3, service, "shutdown: {delay: 0s, drain_timeout: 1s}\n")
	ways := []struct {
		name, path string
		entrances  []string
	}{
		{"not spilled", "/orders/1/", c.targets},
		{"spilled", "/spilled/1/", c.targets},
		{"spilled, Redis", "/spilled/1/", spilledBy(b, service, "redis")},
		{"spilled, ZooKeeper", "/spilled/1/", spilledBy(b, service, "zookeeper")},
		{"spilled, etcd", "/spilled/1/", spilledBy(b, service, "etcd")},
		{"plain Redis lock", "/", locking(b, service, plainRedis, storeOf(b, "redis"))},
		{"Redis", "/", locking(b, service, redisLock, storeOf(b, "redis"))},
		{"ZooKeeper", "/", locking(b, service, zooKeeperLock, storeOf(b, "zookeeper"))},
		{"etcd", "/", locking(b, service, etcdLock, storeOf(b, "etcd"))},
		{"mutex", "/", locking(b, service, mutex(), "")},
	}
	rates, waits := make([][]float64, len(ways)), make([][]float64, len(ways))
	for n := range b.N + 1 {
		for i, way := range ways {
			r := crowd(b, way.entrances, way.path, 21, 2*time.Second)
			b.Logf("%-18s %v", way.name, r)
			if n > 0 { // the first is to get warm, or hot
				rates[i], waits[i] = append(rates[i], r.rate), append(waits[i], float64(r.most)/float64(r.p50))
			}
		}
	}
	for i, way := range ways {
		name := strings.NewReplacer(", ", "-by-", " ", "-").Replace(way.name)
		b.ReportMetric(middle(rates[i]), name+"/s")
		b.ReportMetric(middle(waits[i]), name+"-max/p50")
	}
	b.ReportMetric(middle(rates[1])/middle(rates[0]), "spilled-ratio")
}

// BenchmarkNeighbours measures what a hot key does to other keys of its owner: their 99th
// percentile at 200 requests a second, with a crowd at the other two nodes whose requests,
// of 64 KiB, are all of one key, against no crowd, in alternating rounds. It reports
// medians of the ratios, and the CPU that the owner takes for each request of the crowd.
//
//	go test ./cmd/lanekeeper -run '^$' -bench Neighbours -benchtime 9x
func BenchmarkNeighbours(b *testing.B) {
	service := startService(b, 2*time.Millisecond)
	c := startMembers(b, 3, service, "shutdown: {delay: 0s, drain_timeout: 1s}\n")
	orders := c.keysOf(b, 0, 65)
	hot, neighbours := orders[0], orders[1:]
	paths := map[string]string{
		"not-spilled": "/orders/" + hot + "/",
		"spilled":     "/spilled/" + c.keysOfSpace(b, "spilled", 0, 1)[0] + "/",
	}
	ratios, cpus := make(map[string][]float64), make(map[string][]float64)
	for n := range b.N + 1 {
		quiet := c.neighbours(b, neighbours, nil)
		for name, path := range paths {
			var crowded crowdRound
			before := cpuOf(b, c.nodes[0].cmd.Process.Pid)
			loud := c.neighbours(b, neighbours, func() { crowded = crowdOf(b, c.targets[1:], path, 32, 2*time.Second, 64<<10) })
			cpu := cpuOf(b, c.nodes[0].cmd.Process.Pid) - before
			b.Logf("%-12s neighbours' p99 %v, without the crowd %v; the crowd's %v, %v of the owner's CPU each", name, loud, quiet, crowded, cpu/time.Duration(crowded.n))
			if n > 0 {
				ratios[name], cpus[name] = append(ratios[name], float64(loud)/float64(quiet)), append(cpus[name], float64(cpu.Microseconds())/float64(crowded.n))
			}
		}
	}
	for name := range paths {
		b.ReportMetric(middle(ratios[name]), name+"-p99-ratio")
		b.ReportMetric(middle(cpus[name]), name+"-owner-µs")
	}
}

// neighbours sends requests of many keys to their owner, one every 5 ms, and returns the
// 99th percentile of their times; beside something.
func (c *testCluster) neighbours(b *testing.B, keys []string, beside func()) time.Duration {
	address := strings.TrimPrefix(c.targets[0], "http://")
	client := fasthttp.HostClient{Addr: address, MaxConns: 64, MaxIdemponentCallAttempts: 1}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	if beside != nil {
		wg.Go(beside)
	}
	start := time.Now()
	for i := range 400 {
		due := start.Add(time.Duration(i) * 5 * time.Millisecond)
		time.Sleep(time.Until(due))
		wg.Go(func() {
			request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			defer fasthttp.ReleaseRequest(request)
			defer fasthttp.ReleaseResponse(response)
			request.Header.SetMethod("POST")
			request.SetRequestURI("http://" + address + "/orders/" + keys[i%len(keys)] + "/items")
			if err := client.Do(request, response); err != nil || response.StatusCode() != 200 {
				b.Errorf("%v, status %d", err, response.StatusCode())
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, time.Since(due))
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// spilledBy starts three members whose spilled keys have locks in a store.
func spilledBy(b *testing.B, service, kind string) (entrances []string) {
	b.Setenv("LANEKEEPER_DEFAULTS_LANE_HOT_BACKEND", "coordinator")
	b.Setenv("LANEKEEPER_DEFAULTS_LANE_GUARANTEE", "best_effort")
	server, section := storeKinds[kind](b)
	c := startMembers(b, 3, service, fmt.Sprintf("coordinator: {type: %s, lease_ttl: 10s, safety_margin: 2s, %s}\n", kind, fmt.Sprintf(section, server.Address))+"shutdown: {delay: 0s, drain_timeout: 1s}\n")
	return c.targets
}

type crowdRound struct {
	n              int
	rate           float64
	p50, p99, most time.Duration
}

func (r crowdRound) String() string {
	return fmt.Sprintf("%5.0f/s, wait p50 %v, p99 %v, max %v", r.rate, r.p50, r.p99, r.most)
}

// crowd has clients at each entrance send one request after the other.
func crowd(b *testing.B, entrances []string, path string, each int, during time.Duration) crowdRound {
	return crowdOf(b, entrances, path, each, during, 1024)
}

func crowdOf(b *testing.B, entrances []string, path string, each int, during time.Duration, size int) crowdRound {
	body := make([]byte, size)
	var mu sync.Mutex
	var all []time.Duration
	start := time.Now()
	var wg sync.WaitGroup
	for i := range each * len(entrances) {
		wg.Go(func() {
			entrance := entrances[i%len(entrances)]
			client := fasthttp.HostClient{Addr: strings.TrimPrefix(entrance, "http://"), MaxConns: 1, MaxIdemponentCallAttempts: 1}
			defer client.CloseIdleConnections()
			var took []time.Duration
			for time.Since(start) < during {
				request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
				request.Header.SetMethod("POST")
				request.SetRequestURI(entrance + path)
				request.SetBodyRaw(body)
				at := time.Now()
				err := client.Do(request, response)
				if err != nil || response.StatusCode() != 200 {
					b.Errorf("%v, status %d: %s", err, response.StatusCode(), response.Body())
					return
				}
				took = append(took, time.Since(at))
				fasthttp.ReleaseRequest(request)
				fasthttp.ReleaseResponse(response)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	if b.Failed() {
		b.FailNow()
	}
	slices.Sort(all)
	return crowdRound{len(all), float64(len(all)) / elapsed.Seconds(), all[len(all)/2], all[len(all)*99/100], all[len(all)-1]}
}

// storeOf starts a store of a kind.
func storeOf(b *testing.B, kind string) (address string) {
	server, _ := storeKinds[kind](b)
	return server.Address
}

// locking serves three entrances, each of which takes a lock of its own making for each
// request, calls the service and gives it back.
func locking(b *testing.B, service string, open opening, store string) (entrances []string) {
	for range 3 {
		take, end, err := open(store)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(end)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		go serveLocking(listener, service, take) // ends with the listener
		b.Cleanup(func() { listener.Close() })   // what is connected ends with the process
		entrances = append(entrances, "http://"+listener.Addr().String())
	}
	return entrances
}

// mutex is a lock that costs nothing, of three entrances that are one process.
func mutex() opening {
	store := lock.NewLocal()
	return func(string) (taking, func(), error) {
		return takingFrom(func(context.Context) (lock.Locker, error) { return store.Open(), nil })
	}
}
