package proxy_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lanekeeper/loadtest"
	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// What is done about the hot key; also the kinds of child that do it.
const (
	actionNone = "none"
	actionShed = "shed"
)

// hotLane is the lane that configurations have by default, but for the time in
// which a key becomes hot.
func hotLane(l *proxy.Lane, action string) {
	l.MaxDepth, l.Shed = 64, action == actionShed
	l.Hot = &queue.HotRule{Depth: 32, Bytes: 8 << 20, Busy: 0.9, Share: 0.1, For: 500 * time.Millisecond, CoolAfter: 30 * time.Second}
}

const (
	neighbourRate = 500 // per second, over a thousand keys
	isolationTurn = 5 * time.Millisecond
	roundLength   = 4 * time.Second
)

// BenchmarkIsolation measures what a saturated key costs its neighbours: requests
// of 1000 other keys, 500 per second whatever comes back, with and without 100
// clients of one key, each of which asks again 100 ms after its answer or refusal:
// five times what the key can do. The service takes 5 ms.
// It reports the medians, over alternating rounds of 2000 requests each, of the
// neighbours' p99 with the hot key, and of its ratio to, and difference from, the
// p99 without; and the largest ratio. ns/op means nothing here.
//
//	go test ./proxy -run '^$' -bench Isolation -benchtime 9x
func BenchmarkIsolation(b *testing.B) {
	for _, bytes := range []int{1 << 10, 64 << 10} {
		for _, action := range []string{actionNone, actionShed} {
			b.Run(fmt.Sprintf("body=%dKiB/action=%s", bytes>>10, action), func(b *testing.B) { isolation(b, bytes, action) })
		}
	}
}

func isolation(b *testing.B, bytes int, action string) {
	service := startChild(b, "service", isolationTurn.String())
	node := startChild(b, action, "http://"+service.address)
	var ratios, added, p99s []float64
	node.neighbours(b, bytes) // to warm it
	for range b.N {
		quiet := node.neighbours(b, bytes)
		stop := node.saturate(b, bytes)
		beside := node.neighbours(b, bytes)
		hot := stop()
		b.Logf("neighbours' p99 %v alone, %v beside the hot key, whose answers were %v", quiet, beside, hot)
		ratios = append(ratios, beside.Seconds()/quiet.Seconds())
		added = append(added, float64((beside-quiet).Microseconds())/1000)
		p99s = append(p99s, float64(beside.Microseconds())/1000)
	}
	b.ReportMetric(median(ratios), "p99-ratio")
	b.ReportMetric(slices.Max(ratios), "p99-ratio-max")
	b.ReportMetric(median(added), "added-p99-ms")
	b.ReportMetric(median(p99s), "p99-ms")
}

// neighbours returns the p99 of requests for other keys than the hot one.
func (c *child) neighbours(b *testing.B, bytes int) time.Duration {
	result, err := loadtest.Traffic{
		Targets: []string{"http://" + c.address}, Mode: loadtest.Open, Rate: neighbourRate, Keys: 1000, Connections: 64,
		Requests: neighbourRate * int(roundLength/time.Second), BodyBytes: bytes,
	}.Run(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	if result.OK < len(result.Sent) {
		b.Fatalf("of %d neighbours, %d were answered 200: %v", len(result.Sent), result.OK, result.Statuses())
	}
	return result.LatencyAt(0.99)
}

// saturate returns when the key is hot. stop says what answers there were.
func (c *child) saturate(b *testing.B, bytes int) (stop func() string) {
	var wg sync.WaitGroup
	end := make(chan struct{})
	var result *loadtest.Result
	wg.Go(func() {
		var err error
		result, err = loadtest.Traffic{
			Targets: []string{"http://" + c.address}, Mode: loadtest.Closed, Connections: 100, Gap: 100 * time.Millisecond,
			Path: "/orders/hot", BodyBytes: bytes, Stop: end,
		}.Run(b.Context())
		if err != nil {
			b.Error(err)
		}
	})
	time.Sleep(3 * time.Second)
	return func() string {
		close(end)
		wg.Wait()
		var rates []string
		for status, n := range result.Statuses() {
			rates = append(rates, fmt.Sprintf("%.0f/s of %d", float64(n)/result.Elapsed.Seconds(), status))
		}
		slices.Sort(rates)
		return strings.Join(rates, ", ")
	}
}
