package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"lanekeeper/admin"
	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// nodeConfig is what a node is built from.
type nodeConfig struct {
	proxy   proxy.Config
	lanes   queue.Config
	listen  string        // traffic
	observe string        // health and metrics; "" = nowhere
	delay   time.Duration // still serving, after readiness is gone
	drain   time.Duration // then, at most, for what waits and runs
	hash    string        // of the configuration, shown in the metrics
}

// node is one running lanekeeper: this file is its wiring diagram.
type node struct {
	config nodeConfig
	log    *slog.Logger

	lanes *queue.Lanes
	proxy *proxy.Proxy

	traffic net.Listener
	watched net.Listener // nil without observe
	watcher *http.Server

	draining atomic.Int64 // Unix nanoseconds since when; 0 = not
	progress atomic.Int64 // Unix nanoseconds of the last look that found the lanes moving
	wg       sync.WaitGroup
	ended    chan struct{} // closed by stop, ends watch
	failed   chan error    // holds the listeners' failures
	broken   atomic.Pointer[error]
}

const (
	progressEvery = time.Second
	progressStale = 10 * time.Second // a look at the lanes takes microseconds; this long means a deadlock
	closeGrace    = 2 * time.Second  // for answers on their way when the node closes
)

// startNode builds a node and serves. It either runs or has released everything.
func startNode(config nodeConfig, log *slog.Logger) (_ *node, err error) {
	n := &node{config: config, log: log, ended: make(chan struct{}), failed: make(chan error, 2)}

	// Lanes first: everything else only reads or fills them.
	n.lanes = queue.New(config.lanes)
	if n.proxy, err = proxy.New(config.proxy, n.lanes, log); err != nil {
		return nil, err
	}
	metrics, err := n.metrics()
	if err != nil {
		return nil, err
	}

	// Both ports before either serves, so that a node is never half there.
	if n.traffic, err = net.Listen("tcp", config.listen); err != nil {
		return nil, fmt.Errorf("server.listen: %w", err)
	}
	if config.observe != "" {
		if n.watched, err = net.Listen("tcp", config.observe); err != nil {
			n.traffic.Close()
			return nil, fmt.Errorf("observe.listen: %w", err)
		}
		n.watcher = &http.Server{
			Handler:           admin.Observe(n.liveChecks(), n.readyChecks(), metrics),
			ReadHeaderTimeout: 5 * time.Second,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		n.wg.Go(func() { n.serve("observe", func() error { return n.watcher.Serve(n.watched) }) }) // ends with stop
	}
	n.wg.Go(func() { n.serve("server", func() error { return n.proxy.Serve(n.traffic) }) }) // ends with stop
	n.look()
	n.wg.Go(n.watch) // ends with stop
	return n, nil
}

// serve runs a listener until it ends; before stop that is a failure of the node.
func (n *node) serve(what string, serve func() error) {
	if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		err = fmt.Errorf("%s.listen: %w", what, err)
		n.broken.Store(&err)
		n.failed <- err
	}
}

// observeAddr is where health and metrics are served, if they are.
func (n *node) observeAddr() string {
	if n.watched == nil {
		return "none"
	}
	return n.watched.Addr().String()
}

// watch looks at every lane from time to time: if the look does not return,
// something holds a lock for ever, and /livez says so.
func (n *node) watch() {
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	for {
		select {
		case <-n.ended:
			return
		case <-ticker.C:
			n.look()
		}
	}
}

func (n *node) look() {
	n.lanes.Totals()
	n.progress.Store(time.Now().UnixNano())
}

func (n *node) liveChecks() []admin.Check {
	return []admin.Check{{Name: "dispatcher", Run: func() error {
		if age := time.Since(time.Unix(0, n.progress.Load())); age > progressStale {
			return fmt.Errorf("no progress for %s", age.Round(time.Second))
		}
		return nil
	}}}
}

func (n *node) readyChecks() []admin.Check {
	return append(n.liveChecks(),
		admin.Check{Name: "listeners", Run: func() error {
			if err := n.broken.Load(); err != nil {
				return *err
			}
			return nil
		}},
		admin.Check{Name: "draining", Run: func() error {
			if since := n.draining.Load(); since != 0 {
				return fmt.Errorf("since %s", time.Since(time.Unix(0, since)).Round(time.Second))
			}
			return nil
		}})
}

func (n *node) metrics() (prometheus.Gatherer, error) {
	registry := prometheus.NewRegistry()
	version, revision := buildVersion()
	all := append(n.proxy.Collectors(),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lanekeeper_dispatcher_progress_timestamp_seconds",
			Help: "When the lanes were last seen to move, Unix time.",
		}, func() float64 { return float64(n.progress.Load()) / 1e9 }),
		constant("lanekeeper_build_info", "What this binary was built from.",
			prometheus.Labels{"version": version, "revision": revision, "goversion": runtime.Version()}),
		constant("lanekeeper_config_hash_info", "The configuration in use; nodes of one cluster should agree.",
			prometheus.Labels{"hash": n.config.hash}),
	)
	for _, collector := range all {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return registry, nil
}

func constant(name, help string, labels prometheus.Labels) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return 1 })
}

// buildVersion is the module's version, and the commit it was built from.
func buildVersion() (version, revision string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", "unknown"
	}
	revision = "unknown"
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			revision = setting.Value
		}
	}
	return info.Main.Version, revision
}

// errAbandoned is returned by stop when requests were left unfinished.
var errAbandoned = errors.New("requests were abandoned")

// stop ends the node in the order in which nobody loses anything: first it asks
// for no more traffic, and serves what still comes, since load balancers take
// seconds to notice; then it takes no new requests for lanes, and waits for
// those it has; then it closes. Requests that outlast the drain are answered
// "not executed" if they wait, and cut off if they run: errAbandoned says how
// many. When now is closed, stop waits for nothing any more.
func (n *node) stop(now <-chan struct{}) error {
	n.draining.Store(time.Now().UnixNano())
	n.log.Info("draining", "delay", n.config.delay.String(), "drain_timeout", n.config.drain.String())
	wait(n.config.delay, now)

	n.lanes.Close()
	err := n.drain(now)

	grace, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if closing := n.proxy.Stop(grace); closing != nil && err == nil {
		n.log.Warn("connections were cut", "error", closing)
	}
	if n.watcher != nil {
		n.watcher.Shutdown(grace) //nolint:errcheck // it has nothing that could be lost
		n.watcher.Close()
	}
	close(n.ended)
	n.wg.Wait()
	n.log.Info("stopped")
	return err
}

func wait(d time.Duration, now <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-now:
	}
}

// drain waits for the lanes to empty.
func (n *node) drain(now <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), n.config.drain)
	defer cancel()
	go func() { // ends with ctx
		select {
		case <-now:
			cancel()
		case <-ctx.Done():
		}
	}()
	if n.lanes.Drain(ctx) == nil {
		return nil
	}
	waiting, running := n.lanes.Evict(errors.New("the node stops")), 0
	for _, total := range n.lanes.Totals() {
		running += total.Running
	}
	n.log.Error("drain timed out", "waiting", waiting, "running", running)
	return fmt.Errorf("%w: %d waited and were answered as not executed, %d were running and their outcome is unknown", errAbandoned, waiting, running)
}
