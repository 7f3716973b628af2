package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
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
	"lanekeeper/lock"
	"lanekeeper/peer"
	"lanekeeper/proxy"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// nodeConfig is what a node is built from.
type nodeConfig struct {
	proxy   proxy.Config
	lanes   queue.Config
	listen  string        // traffic
	observe string        // health and metrics; "" = nowhere
	delay   time.Duration // still serving, after readiness is gone
	drain   time.Duration // then, at most, for what waits and runs

	cluster *clusterSettings // nil: this node is alone
	parts   clusterParts     // of the cluster, and of every listener

	coordinator lock.Coordinator // of strict routes, which the node closes; nil: there is none
	strict      bool             // it is not ready without a lease
	locks       lock.Locker      // of spilled keys, which the node closes; nil: there are none
	records     recordsConfig    // of requests, and of their producers' numbers

	keep     int            // requests with an unknown outcome, in memory
	unknowns io.WriteCloser // where they are written, too, which the node closes; nil: nowhere

	tracing *tracing // of requests, which the node closes; nil: they have no spans

	source  configSource    // of what is reloaded
	manager *serviceManager // that has started the process; nil: nobody wants to hear

	admin  string       // operators' listener; "" = nowhere
	access admin.Config // who may use it

	tls      *certificates // of the traffic's listener, which the node watches; nil: it speaks in plain text
	adminTLS *certificates // of the operators'
}

// node is one running lanekeeper: this file is its wiring diagram.
type node struct {
	config nodeConfig
	log    *slog.Logger

	journal  *admin.Journal // of what log has
	ledger   *admin.Ledger  // of requests with an unknown outcome
	unknowns *journalWriter // of the same; nil: they are not written
	lanes    *queue.Lanes
	proxy    *proxy.Proxy
	cluster  *cluster // nil: this node is alone
	records  *keyRecords
	reloads  *reloads
	actions  *prometheus.CounterVec // operators', on lanes
	figures  figures                // of the last second or so
	api      *admin.API             // of the admin port, and for other members

	traffic net.Listener
	servers []*server // observe and admin, if there are any

	stopping atomic.Bool  // it cannot be undone
	drained  atomic.Bool  // as the log says
	draining atomic.Int64 // Unix nanoseconds since when; 0 = not
	progress atomic.Int64 // Unix nanoseconds of the last look that found the lanes moving
	hot      hotKeys      // at the last look
	wg       sync.WaitGroup
	ended    chan struct{} // closed by stop, ends watch
	failed   chan error    // holds the listeners' failures
	broken   atomic.Pointer[error]
}

const (
	progressEvery = time.Second
	progressStale = 10 * time.Second // a look at the lanes takes microseconds; this long means a deadlock
	closeGrace    = 2 * time.Second  // for answers on their way when the node closes
	stopGrace     = 6 * closeGrace   // for all that a stop closes after its drain, if each needs its grace
)

// startNode builds a node and serves. It either runs or has released everything.
func startNode(config nodeConfig, log *slog.Logger) (_ *node, err error) {
	if config.parts.listen == nil {
		config.parts.listen = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	// Whatever logs has the journal's handler, so it comes before all else.
	journal := admin.NewJournal(config.name())
	log = slog.New(journal.Handler(log.Handler()))
	n := &node{config: config, log: log, journal: journal, ledger: admin.NewLedger(config.name(), config.keep), ended: make(chan struct{}), failed: make(chan error, 4)}
	defer func() {
		if err != nil {
			n.release()
		}
	}()

	config.records.alone = config.cluster == nil
	n.records = newKeyRecords(config.records)
	n.config.proxy.Records, n.config.proxy.Marks, n.config.proxy.MarkStores = n.records.stores, n.records.marks, n.records.lasting
	n.config.proxy.Unknowns = n.unknown
	n.reloads = newReloads(&n.config)
	if config.unknowns != nil {
		n.unknowns = newJournalWriter(config.unknowns, log)
	}

	// Lanes first: everything else only reads or fills them.
	if err := n.makeLanes(); err != nil {
		return nil, err
	}
	n.config.proxy.Locks.Locker = n.config.locks
	n.config.proxy.TLS, n.config.proxy.Tracer = config.tls.serverTLS(), config.tracing.tracer()
	if n.proxy, err = proxy.New(n.config.proxy, n.lanes, log); err != nil {
		return nil, err
	}
	n.figures.start(n.proxy)
	n.actions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "lanekeeper_lane_actions_total", Help: "What operators did about lanes of this node.",
	}, []string{"action"})
	n.api = admin.Handler(config.access, n, log)
	metrics, err := n.metrics()
	if err != nil {
		return nil, err
	}

	// Every port before any serves, so that a node is never half there.
	if n.traffic, err = config.parts.listen(config.listen); err != nil {
		return nil, fmt.Errorf("server.listen: %w", err)
	}
	if err := n.open("observe", config.observe, nil, admin.Observe(n.liveChecks(), n.readyChecks(), metrics, log)); err != nil {
		return nil, err
	}
	if err := n.open("admin", config.admin, config.adminTLS, n.api); err != nil {
		return nil, err
	}
	// The others hear of this node when it could serve what they forward.
	if n.cluster != nil {
		n.wg.Go(func() { n.serve("cluster.peer", func() error { return n.cluster.hop.Serve(n.cluster.port) }) }) // ends with stop
		if err := n.cluster.start(config.parts, config.proxy.Hash); err != nil {
			return nil, err
		}
	}
	for _, s := range n.servers {
		n.wg.Go(func() { n.serve(s.name, func() error { return s.http.Serve(s.listener) }) }) // ends with stop
	}
	n.wg.Go(func() { n.serve("server", func() error { return n.proxy.Serve(n.traffic) }) }) // ends with stop
	for _, c := range n.certificates() {
		c.watch(log) // until stop
	}
	n.look()
	n.wg.Go(n.watch) // ends with stop
	n.sayStarted()
	return n, nil
}

// name is what the node is called.
func (c *nodeConfig) name() string {
	if c.cluster != nil {
		return c.cluster.node
	}
	return c.proxy.Node
}

func (n *node) sayStarted() {
	version, _ := buildVersion()
	line := []any{
		"listen", n.traffic.Addr().String(), "observe", n.address("observe"), "admin", n.address("admin"),
		"node", n.config.name(), "routes", len(n.config.proxy.Routes), "config", n.config.proxy.Hash,
		"event", "started", "version", version,
	}
	if c := n.config.cluster; c != nil {
		line = append(line, "cluster", c.name, "partitions", c.partitions, "min_members", c.minMembers, "strict", n.config.strict)
	}
	n.log.Info("serving", line...)
}

// makeLanes makes the lanes of this node, and its part of a cluster if it is in
// one.
func (n *node) makeLanes() (err error) {
	if n.config.cluster == nil {
		n.lanes = queue.New(n.config.lanes)
		return nil
	}
	edge := clusterHooks{
		serve: func(in *peer.Inbound) (*peer.Response, bool) { return n.proxy.ServeForwarded(in) },
		aside: func(local peer.Local) (bool, *peer.Call) { return n.proxy.Aside(local) },
		state: n.travellers(),
		marks: n.records.marks,
		tell:  n.tell,
		noted: func(from ring.Member, payload []byte) { n.proxy.Noted(from, payload) },
	}
	if n.cluster, err = newCluster(n.config.cluster, n.config.parts, n.config.lanes, n.config.coordinator, edge, n.log); err != nil {
		return err
	}
	n.lanes = n.cluster.lanes
	owned := func(partition int) bool { return !n.lanes.IsSealed(partition) }
	n.records.owned.Store(&owned)
	n.config.proxy.Cluster = clusterEdge{n.cluster, n.cluster.hop}
	return nil
}

// server is one of the ports that speak net/http.
type server struct {
	name     string
	listener net.Listener
	http     *http.Server
}

// certificates are those of all listeners that have some.
func (n *node) certificates() (all []*certificates) {
	for _, c := range []*certificates{n.config.tls, n.config.adminTLS, n.peerCertificates()} {
		if c != nil {
			all = append(all, c)
		}
	}
	return all
}

func (n *node) peerCertificates() *certificates {
	if n.cluster == nil {
		return nil
	}
	return n.cluster.certificates
}

// open opens a port, if it has an address.
func (n *node) open(name, address string, own *certificates, handler http.Handler) error {
	if address == "" {
		return nil
	}
	listener, err := n.config.parts.listen(address)
	if err != nil {
		return fmt.Errorf("%s.listen: %w", name, err)
	}
	if own != nil {
		listener = tls.NewListener(listener, own.serverTLS())
	}
	n.servers = append(n.servers, &server{name, listener, &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}})
	return nil
}

// release gives back what a start that failed had.
func (n *node) release() {
	if n.cluster != nil {
		n.cluster.stop(context.Background())
	} else if n.config.coordinator != nil {
		n.config.coordinator.Close(context.Background()) //nolint:errcheck // nothing was held
	}
	n.closeLocks()
	n.closeRecords()
	if n.traffic != nil {
		n.traffic.Close()
	}
	for _, s := range n.servers {
		s.listener.Close()
	}
	n.journal.End()
	n.closeUnknowns()
	n.config.tracing.close()
	n.wg.Wait()
}

// serve runs a listener until it ends; before stop that is a failure of the node.
func (n *node) serve(what string, serve func() error) {
	if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		err = fmt.Errorf("%s.listen: %w", what, err)
		n.broken.Store(&err)
		n.failed <- err
	}
}

// address is where one of the servers listens, or "none".
func (n *node) address(name string) string {
	for _, s := range n.servers {
		if s.name == name {
			return s.listener.Addr().String()
		}
	}
	return "none"
}

// watch looks at every lane from time to time: if the look does not return,
// something holds a lock for ever, and /livez says so. Hot keys cool by it, too.
func (n *node) watch() {
	ticker := time.NewTicker(n.config.manager.every(progressEvery))
	defer ticker.Stop()
	for {
		select {
		case <-n.ended:
			return
		case <-ticker.C:
			n.look()
			if n.config.admin != "" { // else nobody watches; who asks all the same gets a longer mean
				n.figures.look()
			}
		}
	}
}

func (n *node) look() {
	queued := 0
	for _, total := range n.lanes.Totals() {
		queued += total.Waiting
	}
	n.lookAtHotKeys()
	n.lookAtDrain()
	n.progress.Store(time.Now().UnixNano())
	if n.config.manager != nil {
		n.config.manager.looked(n.statusLine(queued))
	}
}

// statusLine is how the node fares in a few words, for who has started it.
func (n *node) statusLine(queued int) string {
	members := 1
	if n.cluster != nil {
		members = len(n.cluster.view.Load().Members)
	}
	line := fmt.Sprintf("members=%d queued=%d", members, queued)
	if last := n.reloads.last.Load(); last != nil && !last.Successful {
		line += " reload=refused" // which the manager has no other word for
	}
	return line
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
	checks := n.liveChecks()
	if n.cluster != nil {
		checks = append(checks, admin.Check{Name: "cluster", Run: n.cluster.company})
	}
	if n.cluster != nil && n.reloads.present.Load().strict {
		checks = append(checks, admin.Check{Name: "coordinator", Run: n.cluster.leased})
	}
	return append(checks,
		admin.Check{Name: "listeners", Run: func() error {
			if err := n.broken.Load(); err != nil {
				return *err
			}
			return nil
		}},
		admin.Check{Name: "draining", Run: func() error {
			if since := n.draining.Load(); since != 0 {
				return fmt.Errorf("for %s", time.Since(time.Unix(0, since)).Round(time.Second))
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
		reloadCollector{n},
		n.actions,
	)
	all = append(append(all, n.journal.Collectors()...), n.recordCollector())
	all = append(all, n.records.collectors()...)
	for _, c := range n.certificates() {
		all = append(all, c.collector())
	}
	if n.cluster != nil {
		all = append(all, n.cluster.collectors()...)
	}
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
// seconds to notice. Then it gives its lanes away: in a cluster to the other
// members, to whom it forwards what still comes, else it takes no new requests.
// It waits for the requests that it has, and then closes: its clients first, as
// their last requests may still be forwarded; then the hop, when the others have
// read its last answers; and it says good-bye last, as until then others may
// wait for it. Requests that outlast the drain are answered "not executed" if
// they wait, and cut off if they run: errAbandoned says how many. When now is
// closed, stop waits for nothing any more.
func (n *node) stop(now <-chan struct{}) error {
	n.draining.CompareAndSwap(0, time.Now().UnixNano())
	n.stopping.Store(true)
	n.proxy.Spill(false)
	n.drained.Store(false)
	times := n.reloads.present.Load()
	n.config.manager.stopping(times.delay + times.drain + stopGrace)
	n.log.Info("draining", "event", "drain-begun", "why", "the process ends", "delay", times.delay.String(), "drain_timeout", times.drain.String())
	wait(times.delay, now)
	n.proxy.Retry(false)

	ctx, cancel := n.until(time.Now().Add(times.drain), now)
	defer cancel()
	err := n.drain(ctx)

	// What came by this node may still wait in the lanes of others.
	if closing := n.close(ctx); closing != nil && err == nil {
		err = closing
	}
	if n.cluster != nil {
		n.cluster.stop(ctx)
	}
	n.closeLocks()
	n.closeRecords()
	n.closeUnknowns()
	n.reloads.levels.stop()
	n.config.tracing.close()
	n.journal.End() // else those who follow it would use up the grace
	grace, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	for _, s := range n.servers {
		s.http.Shutdown(grace) //nolint:errcheck // it has nothing that could be lost
		s.http.Close()
	}
	close(n.ended)
	for _, c := range n.certificates() {
		c.close()
	}
	n.wg.Wait()
	n.log.Info("stopped")
	return err
}

// closeLocks gives the locks of spilled keys up: nothing runs under them any more.
func (n *node) closeLocks() {
	if n.config.locks == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if err := n.config.locks.Close(ctx); err != nil {
		n.log.Warn("the locks of spilled keys could not be given up, and end by themselves", "error", err)
	}
}

// closeRecords ends the claims of requests: nothing runs any more.
func (n *node) closeRecords() {
	if n.records == nil {
		return
	}
	if err := n.records.close(); err != nil {
		n.log.Warn("claims of requests end by themselves", "event", "records-left", "err", err)
	}
}

func wait(d time.Duration, now <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-now:
	}
}

// until is a context that ends at a time, or soon after now is closed.
func (n *node) until(deadline time.Time, now <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	go func() { // ends with ctx
		select {
		case <-now:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// drain gives the lanes away, or waits for them to empty.
func (n *node) drain(ctx context.Context) error {
	if n.empty(ctx) == nil {
		n.sayDrained()
		return nil
	}
	n.proxy.EvictSpilled()
	waiting, running := n.lanes.Evict(proxy.ErrStopping), 0
	for _, total := range n.lanes.Totals() {
		running += total.Running
	}
	if waiting+running == 0 {
		n.log.Warn("drain timed out, with no request waiting or running", "event", "drain-timed-out", "waiting", 0, "running", 0)
		return nil
	}
	n.log.Error("drain timed out", "event", "drain-timed-out", "waiting", waiting, "running", running)
	if n.cluster != nil && running > 0 {
		n.cluster.abandon()
	}
	return fmt.Errorf("%w: %d waited and were answered as not executed, %d were running and their outcome is unknown", errAbandoned, waiting, running)
}

// close ends the clients' connections, when their requests have been answered.
func (n *node) close(ctx context.Context) error {
	ctx, cancel := orGrace(ctx)
	defer cancel()
	if err := n.proxy.Stop(ctx); err == nil {
		return nil
	}
	n.log.Warn("connections were cut")
	if given := n.proxy.GivenUp(); given > 0 {
		return fmt.Errorf("%w: %d were at other nodes, and their outcome is unknown", errAbandoned, given)
	}
	return nil
}

// orGrace is ctx, or if that has ended, a little time for answers on their way: what
// was evicted still has its answer to get.
func orGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
}

// empty returns nil when no request waits or runs here any more.
func (n *node) empty(ctx context.Context) error {
	if n.cluster != nil {
		if err := n.cluster.drain(ctx); err != nil && !errors.Is(err, errAlone) {
			return err
		}
	}
	n.lanes.Close()
	return n.lanes.Drain(ctx)
}
