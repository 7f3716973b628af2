package main

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"lanekeeper/admin"
	"lanekeeper/proxy"
)

// figures are what a node's counters did lately: what they are now, less what they were at the
// look before.
type figures struct {
	source prometheus.Gatherer

	mu         sync.Mutex // guards the rest
	before     reading
	rate       float64
	wait       admin.Latencies
	upstream   admin.Latencies
	violations uint64
	unknown    uint64
}

// reading is the counters at a look.
type reading struct {
	at       time.Time
	requests float64
	series   map[string]histogram
}

// histogram is one series of buckets. Buckets of another schema are other buckets: between two looks
// at them nothing can be said.
type histogram struct {
	schema  int32
	total   uint64
	buckets map[admin.Bucket]float64 // their counts are here, not in them
}

// stale is how old a look may be that is not made again for who asks.
const stale = 2 * progressEvery

func (f *figures) start(p *proxy.Proxy) {
	f.source = p.Figures()
	f.look()
}

// look reads the counters.
func (f *figures) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookLocked()
}

func (f *figures) lookLocked() {
	families, err := f.source.Gather()
	if err != nil {
		return // our own bug, which metrics show as well
	}
	now := reading{at: time.Now(), series: make(map[string]histogram)}
	var wait, upstream []admin.Bucket
	f.violations, f.unknown = 0, 0
	for _, family := range families {
		switch family.GetName() {
		case "lanekeeper_requests_total":
			now.requests = countOf(family)
		case "lanekeeper_order_violations_total":
			f.violations = uint64(countOf(family))
		case "lanekeeper_unknown_total":
			f.unknown = uint64(countOf(family))
		case "lanekeeper_lane_wait_seconds":
			wait = f.since(&now, family)
		case "lanekeeper_upstream_duration_seconds":
			upstream = f.since(&now, family)
		}
	}
	f.wait, f.upstream = admin.NewLatencies(wait), admin.NewLatencies(upstream)
	if took := now.at.Sub(f.before.at).Seconds(); !f.before.at.IsZero() && took > 0 {
		f.rate = max(now.requests-f.before.requests, 0) / took
	}
	f.before = now
}

// fill tells a status.
func (f *figures) fill(s *admin.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.before.at) > stale {
		f.lookLocked()
	}
	s.Rate, s.LaneWait, s.Upstream, s.Violations, s.Unknown = f.rate, f.wait, f.upstream, f.violations, f.unknown
}

func countOf(family *dto.MetricFamily) (sum float64) {
	for _, m := range family.GetMetric() {
		sum += m.GetCounter().GetValue()
	}
	return sum
}

// since is what has come to a family's buckets since the last look.
func (f *figures) since(now *reading, family *dto.MetricFamily) []admin.Bucket {
	sums := make(map[admin.Bucket]float64)
	for _, m := range family.GetMetric() {
		name := fmt.Sprint(family.GetName(), m.GetLabel())
		h := histogramOf(m.GetHistogram())
		now.series[name] = h
		before, known := f.before.series[name]
		if f.before.at.IsZero() || known && (before.schema != h.schema || before.total > h.total) {
			continue
		}
		for b, count := range h.buckets {
			sums[b] += max(count-before.buckets[b], 0)
		}
	}
	var buckets []admin.Bucket
	for b, count := range sums {
		b.Count = uint64(math.Round(count))
		buckets = append(buckets, b)
	}
	return buckets
}

// histogramOf has the fine buckets if there are any.
func histogramOf(h *dto.Histogram) histogram {
	of := histogram{schema: h.GetSchema(), total: h.GetSampleCount(), buckets: make(map[admin.Bucket]float64)}
	if h.Schema == nil {
		above, before := 0.0, uint64(0)
		for _, b := range h.GetBucket() {
			of.buckets[admin.Bucket{Above: above, LE: b.GetUpperBound()}] = float64(b.GetCumulativeCount() - before)
			above, before = b.GetUpperBound(), b.GetCumulativeCount()
		}
		of.buckets[admin.Bucket{Above: above, LE: above}] = float64(of.total - before) // longer than any
		return of
	}
	of.buckets[admin.Bucket{LE: h.GetZeroThreshold()}] = float64(h.GetZeroCount())
	index, count, next := int32(0), int64(0), 0
	for _, span := range h.GetPositiveSpan() {
		index += span.GetOffset()
		for range span.GetLength() {
			count += h.GetPositiveDelta()[next]
			next++
			of.buckets[admin.Bucket{Above: boundOf(index-1, of.schema), LE: boundOf(index, of.schema)}] = float64(count)
			index++
		}
	}
	return of
}

// boundOf is the upper bound of a native histogram's bucket.
func boundOf(index, schema int32) float64 {
	return math.Exp2(float64(index) * math.Exp2(float64(-schema)))
}
