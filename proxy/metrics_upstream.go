package proxy

import "github.com/prometheus/client_golang/prometheus"

// upstreamCollector reads the upstreams once per scrape.
type upstreamCollector struct{ proxy *Proxy }

var (
	upstreamHealthy  = upstreamDesc("lanekeeper_upstream_healthy", "1 if the target gets requests, 0 if its health checks have failed or its circuit is not closed.", "target")
	upstreamLimit    = upstreamDesc("lanekeeper_upstream_limit", "Requests that may be in flight at the upstream, where there is a limit.")
	upstreamInflight = upstreamDesc("lanekeeper_upstream_inflight_requests", "Requests in flight at the upstream.")
	upstreamWaiting  = upstreamDesc("lanekeeper_upstream_waiting_requests", "Requests that have their turn, and wait for a connection or a permit.")
	upstreamLookups  = upstreamDesc("lanekeeper_upstream_lookup_failures_total", "Lookups of the upstream's names that failed.")
)

func upstreamDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"upstream"}, labels...), nil)
}

func (upstreamCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{upstreamHealthy, upstreamLimit, upstreamInflight, upstreamWaiting, upstreamLookups} {
		descs <- d
	}
}

func (c upstreamCollector) Collect(values chan<- prometheus.Metric) {
	for _, u := range c.proxy.setup.Load().upstreams {
		state := u.State()
		gauge := func(desc *prometheus.Desc, value int, labels ...string) {
			values <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value), append([]string{u.Name}, labels...)...)
		}
		for _, t := range state.Targets {
			healthy := 0
			if t.Available {
				healthy = 1
			}
			gauge(upstreamHealthy, healthy, t.Name)
		}
		if state.Limit > 0 {
			gauge(upstreamLimit, state.Limit)
		}
		gauge(upstreamInflight, state.InFlight)
		gauge(upstreamWaiting, state.Waiting)
		values <- prometheus.MustNewConstMetric(upstreamLookups, prometheus.CounterValue, float64(state.Lookups), u.Name)
	}
}
