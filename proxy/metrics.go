package proxy

import (
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lanekeeper/queue"
)

// metrics are the proxy's figures, in Prometheus' terms. No label ever holds a
// key: a series per key would outgrow everything else.
type metrics struct {
	proxy *Proxy

	requests, rejected, unknown, clientGone *prometheus.CounterVec
	shed, coalesced                         *prometheus.CounterVec
	holdExpired, observedTotal, retries     *prometheus.CounterVec
	duration, laneWait, upstreamTime        *prometheus.HistogramVec

	idempotency, storeErrors *prometheus.CounterVec
	sequence                 *prometheus.CounterVec

	spilled  *prometheus.CounterVec
	acquires *prometheus.HistogramVec
	batches  *prometheus.HistogramVec
	lost     prometheus.Counter

	local          prometheus.Counter
	forwards       *prometheus.CounterVec
	forwardingTime *prometheus.HistogramVec

	violations [violations]prometheus.Counter

	gauges  []gauge
	hotKeys *prometheus.Desc
	all     []prometheus.Collector
}

// gauge is a figure of the lanes, read when somebody asks.
type gauge struct {
	desc  *prometheus.Desc
	value func(total queue.Total) float64
}

var buckets = []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}

func newMetrics(p *Proxy) *metrics {
	m := &metrics{proxy: p}
	m.requests = m.counter("lanekeeper_requests_total", "Requests answered.", "route", "mode", "code")
	m.rejected = m.counter("lanekeeper_rejected_total", "Answers that lanekeeper made itself, by their slug.", "route", "reason")
	m.unknown = m.counter("lanekeeper_unknown_total", "Requests whose outcome nobody can say.", "route")
	m.shed = m.counter("lanekeeper_shed_total", "Requests refused by this node before their lane was full, for their key was hot. They are among lane-full, too.", "route")
	m.coalesced = m.counter("lanekeeper_coalesced_total", "Requests that waited at this node and were not run, because a later one made them needless. They are among superseded, too, at the node that they came to.", "route")
	m.clientGone = m.counter("lanekeeper_client_gone_total", "Clients that hung up before their answer: queued, while their request waited; upstream, while it ran or its response streamed.", "stage")
	for _, stage := range []string{goneQueued, goneUpstream} {
		m.clientGone.WithLabelValues(stage)
	}
	m.holdExpired = m.counter("lanekeeper_hold_expired_total", "Held lanes released by hold_for although the upstream may still have been at work: each is a risk to order.", "route")
	m.retries = m.counter("lanekeeper_retries_total", "Further attempts of requests that had failed, where their lane retries.", "route")
	m.observedTotal = m.counter("lanekeeper_observed_total", "Requests of routes in mode observe, by what a lane would have done.", "route", "result")
	m.idempotency = m.counter("lanekeeper_idempotency_total", "Requests with an idempotency key, in their turn or refused before, by what it led to: first (or again after what left no record), replayed, waited (for the one that was on its way, and replayed), conflict, mismatch, unknown, or unrecorded: run while the store was away.", "route", "result")
	m.sequence = m.counter("lanekeeper_sequence_total", "What the numbers of requests led to: next, held (for those before), replayed, done, gap, unknown, fenced.", "route", "result")
	m.storeErrors = m.counter("lanekeeper_idempotency_store_errors_total", "Questions to a store of records that it did not answer.", "store")
	seen := m.counter("lanekeeper_order_violations_total", "Requests that this node sent to an upstream against their lane's order, as seen there and not by the lane: overlap, beside another request of their key; fence, with one that is not above the last. It is 0, or lanekeeper is broken.", "kind")
	for v := range violations {
		m.violations[v] = seen.WithLabelValues(v.String())
	}
	m.duration = m.histogram("lanekeeper_request_duration_seconds", "From the request's head to the answer.", buckets, "route", "mode", "code")
	m.laneWait = m.histogram("lanekeeper_lane_wait_seconds", "From the ticket to the turn.", append(slices.Clone(buckets), 30, 60), "route", "mode")
	m.upstreamTime = m.histogram("lanekeeper_upstream_duration_seconds", "From the first byte sent to the last byte read.", buckets, "upstream", "code")
	if p.Config().Cluster != nil {
		m.forwards = m.counter("lanekeeper_forwarded_total", "Requests whose lane was another node's when they came, by how that ended: response, not_executed, unknown, or local: this node became the owner.", "result")
		m.forwardingTime = m.histogram("lanekeeper_forward_duration_seconds", "From the request's place in its partition to its owner's answer, the wait for its turn included.", append(slices.Clone(buckets), 30, 60), "result")
		m.spilled = m.counter("lanekeeper_spilled_total", "Requests that ran at this node in a turn that their key's owner lent.", "route")
		m.acquires = m.histogram("lanekeeper_lock_acquire_seconds", "From this node's asking for the turn of a spilled key to its having it.", append([]float64{.0001, .00025, .0005, .001, .0025}, buckets...), "backend", "result")
		m.batches = m.histogram("lanekeeper_lock_batch_size", "Requests that ran in one turn of a spilled key.", []float64{0, 1, 2, 4, 8, 16, 32, 64, 128, 256}, "backend")
		m.lost = m.counter("lanekeeper_lock_lost_total", "Turns of this node's lanes that were lent, and not given back in time.", "backend").WithLabelValues(backendOwner)
		local := m.counter("lanekeeper_local_total", "Requests whose lane was this node's when they came.")
		m.local = local.WithLabelValues()
	}
	m.gauge("lanekeeper_lanes", "Keys with a request that waits or runs.", func(t queue.Total) float64 { return float64(t.Lanes) })
	m.gauge("lanekeeper_queued_requests", "Requests that wait for their turn.", func(t queue.Total) float64 { return float64(t.Waiting) })
	m.gauge("lanekeeper_queued_bytes", "Bodies of the requests that wait.", func(t queue.Total) float64 { return float64(t.Bytes) })
	m.gauge("lanekeeper_inflight_requests", "Turns, held ones included.", func(t queue.Total) float64 { return float64(t.Running) })
	m.gauge("lanekeeper_lane_depth_max", "Requests that wait in the deepest lane.", func(t queue.Total) float64 { return float64(t.DepthMax) })
	m.gauge("lanekeeper_lane_oldest_wait_seconds", "Age of the request that has waited longest.", func(t queue.Total) float64 { return t.OldestWait.Seconds() })
	m.gauge("lanekeeper_halted_lanes", "Lanes in which nothing runs after a failure until an operator says so, by the route of the request that failed.", func(t queue.Total) float64 { return float64(t.Halted) })
	m.hotKeys = prometheus.NewDesc("lanekeeper_hot_keys", "Keys whose backlog is large and dominant, by the route of their newest request.", []string{"route"}, nil)
	return m
}

// backendOwner is the owner of a lane, who lends its turns, and nothing besides.
const backendOwner = "owner"

// acquired notes what became of an ask.
func (m *metrics) acquired(backend string, ok bool, after time.Duration) {
	result := "failed"
	if ok {
		result = "ok"
	}
	m.acquires.WithLabelValues(backend, result).Observe(after.Seconds())
}

func (m *metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.all = append(m.all, v)
	return v
}

func (m *metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(HistogramOptions(name, help, buckets, m.proxy.Config().NativeHistograms), labels)
	m.all = append(m.all, v)
	return v
}

// HistogramOptions are those of each of a node's histograms: classic, and native beside
// that for servers that ask for it, fine enough for a tenth, and bounded.
func HistogramOptions(name, help string, buckets []float64, native bool) prometheus.HistogramOpts {
	options := prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}
	if native {
		options.NativeHistogramBucketFactor = 1.1
		options.NativeHistogramMaxBucketNumber = 160
		options.NativeHistogramMinResetDuration = time.Hour
	}
	return options
}

func (m *metrics) gauge(name, help string, value func(queue.Total) float64) {
	m.gauges = append(m.gauges, gauge{prometheus.NewDesc(name, help, []string{"route"}, nil), value})
}

// Collectors are to be registered by whoever serves the metrics.
func (p *Proxy) Collectors() []prometheus.Collector {
	m := p.metrics
	return append(m.all,
		laneCollector{m},
		upstreamCollector{p},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "lanekeeper_connections", Help: "Client connections."},
			func() float64 { return float64(p.open.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "lanekeeper_held_lanes", Help: "Lanes kept after an upstream timeout, until the upstream's work is known to be over."},
			func() float64 {
				held := 0
				for _, total := range p.lanes.Totals() {
					held += total.Held
				}
				return float64(held)
			}),
	)
}

// Figures are the counters and histograms of requests alone, which cost little to read.
func (p *Proxy) Figures() prometheus.Gatherer {
	registry := prometheus.NewRegistry()
	registry.MustRegister(p.metrics.all...)
	return registry
}

// laneCollector reads the lanes once per scrape.
type laneCollector struct{ *metrics }

func (c laneCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, g := range c.gauges {
		descs <- g.desc
	}
	descs <- c.hotKeys
}

func (c laneCollector) Collect(values chan<- prometheus.Metric) {
	totals := c.proxy.lanes.Totals()
	hotKeys := c.proxy.lanes.Hot()
	now := c.proxy.setup.Load() // after these, so that it knows each of their tags
	hot := make([]int, len(now.named))
	for _, key := range hotKeys {
		hot[key.Tag]++
	}
	for _, r := range now.named {
		var total queue.Total
		if r.index < len(totals) {
			total = totals[r.index]
		}
		if !now.serves(r) && total == (queue.Total{}) || !r.keyed {
			continue
		}
		for _, g := range c.gauges {
			values <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(total), r.Name)
		}
		values <- prometheus.MustNewConstMetric(c.hotKeys, prometheus.GaugeValue, float64(hot[r.index]), r.Name)
	}
}

// routeMetrics are one route's, looked up once.
type routeMetrics struct {
	*metrics
	name        string
	upstream    string
	holdExpired prometheus.Counter
	unknown     prometheus.Counter
	retries     prometheus.Counter
	shed        prometheus.Counter
	coalesced   prometheus.Counter
	spilled     prometheus.Counter // nil without a cluster
	observed    [observations]prometheus.Counter
	laneWait    [modes]prometheus.Observer
	answers     sync.Map // answer → *answered
	recent      [modes]atomic.Pointer[answered]
}

// What a lane would have done, in mode observe.
const (
	observedClear = iota
	observedOverlap
	observedNoKey
	observedNoRoom
	observations
)

type answer struct {
	mode mode
	code int
}

// answered are the figures of one kind of answer.
type answered struct {
	answer
	requests               prometheus.Counter
	duration, upstreamTime prometheus.Observer
}

// know gives the routes of a setup their figures.
func (m *metrics) know(s *setup) {
	for _, r := range s.routes {
		r.metrics = m.route(r)
	}
}

func (m *metrics) route(r *route) *routeMetrics {
	rm := &routeMetrics{
		metrics: m, name: r.Name, upstream: r.Upstream,
		holdExpired: m.holdExpired.WithLabelValues(r.Name),
		unknown:     m.unknown.WithLabelValues(r.Name),
		retries:     m.retries.WithLabelValues(r.Name),
		shed:        m.shed.WithLabelValues(r.Name),
		coalesced:   m.coalesced.WithLabelValues(r.Name),
	}
	if m.spilled != nil {
		rm.spilled = m.spilled.WithLabelValues(r.Name)
	}
	for i, result := range [observations]string{"clear", "overlap", "no_key", "no_room"} {
		rm.observed[i] = m.observedTotal.WithLabelValues(r.Name, result)
	}
	for i := range modes {
		rm.laneWait[i] = m.laneWait.WithLabelValues(r.Name, i.String())
	}
	return rm
}

// of is the figures for an answer. Nearly every answer is like the one before.
func (r *routeMetrics) of(mode mode, code int) *answered {
	want := answer{mode, code}
	if last := r.recent[mode].Load(); last != nil && last.answer == want {
		return last
	}
	found, ok := r.answers.Load(want)
	if !ok {
		text := strconv.Itoa(code)
		found, _ = r.answers.LoadOrStore(want, &answered{
			answer:       want,
			requests:     r.requests.WithLabelValues(r.name, mode.String(), text),
			duration:     r.duration.WithLabelValues(r.name, mode.String(), text),
			upstreamTime: r.metrics.upstreamTime.WithLabelValues(r.upstream, text),
		})
	}
	r.recent[mode].Store(found.(*answered))
	return found.(*answered)
}

// finish counts a call.
func (m *metrics) finish(c *call) {
	if c.problem != nil {
		m.problem(c)
	}
	if c.route == nil {
		return
	}
	of := c.route.metrics.of(c.mode, c.status())
	of.requests.Inc()
	took := time.Since(c.arrived)
	of.duration.Observe(took.Seconds())
	if c.owner == "" { // else its owner has counted it
		of.ran(c)
	}
	if c.leftEarly(took) {
		m.clientGone.WithLabelValues(goneUpstream).Inc()
	}
}

// ran counts what a call cost where it ran.
func (r *routeMetrics) ran(c *call) { r.of(c.mode, c.status()).ran(c) }

func (of *answered) ran(c *call) {
	if c.upstreamTime > 0 {
		of.upstreamTime.Observe(c.upstreamTime.Seconds())
	}
	if !c.id.IsZero() {
		c.route.metrics.laneWait[c.mode].Observe(c.laneWait.Seconds())
	}
}

// forwarded counts a call that was sent to its lane.
func (m *metrics) forwarded(result string, took time.Duration) {
	m.forwards.WithLabelValues(result).Inc()
	m.forwardingTime.WithLabelValues(result).Observe(took.Seconds())
}

func (m *metrics) problem(c *call) {
	route := ""
	if c.route != nil {
		route = c.route.Name
		if c.problem.executed == unknown && !c.laned() { // else noteUnknown has counted it
			c.route.metrics.unknown.Inc()
		}
	}
	m.rejected.WithLabelValues(route, c.problem.slug).Inc()
	if c.problem.kind == clientGone {
		m.clientGone.WithLabelValues(goneQueued).Inc()
	}
}

// The stages at which clients hang up.
const (
	goneQueued   = "queued"   // before anything was sent, which it then never was
	goneUpstream = "upstream" // later: what was sent ran to its end
)

// leftEarly reports whether the client hung up while its request ran, or in the middle of a
// response that streams. It is asked only for what took so long that a client might: it
// costs a system call.
func (c *call) leftEarly(took time.Duration) bool {
	switch {
	case c.left:
		return true
	case c.problem != nil && c.problem.executed == no, c.taken, c.later, took < firstLook:
		return false
	}
	return hungUp(c.ctx.Conn())
}

// refused counts a connection that never became a call.
func (m *metrics) refused(p *problem) { m.rejected.WithLabelValues("", p.slug).Inc() }
