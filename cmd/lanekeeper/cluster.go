package main

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lanekeeper/lock"
	"lanekeeper/membership"
	"lanekeeper/ownership"
	"lanekeeper/peer"
	"lanekeeper/proxy"
	"lanekeeper/proxy/sequence"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// cluster is a node's part in its cluster, wired: membership says who is alive,
// ownership who has which partition, and the hop takes requests there. Each knows
// nothing of the others.
type cluster struct {
	settings *clusterSettings
	self     ring.Member
	layout   ring.Layout
	log      *slog.Logger
	lanes    *queue.Lanes

	hop         *peer.Hop
	owners      *ownership.Ownership
	coordinator lock.Coordinator // nil: there is none
	members     *membership.Membership
	port        net.Listener // of the hop

	certificates *certificates // of the hop, which the node watches; nil: there are none

	view   atomic.Pointer[membership.View]
	viewed chan struct{}
	quit   chan struct{}

	abandoned atomic.Bool // this node ends while it may still be at work

	handoffs prometheus.Histogram
}

// clusterParts are what a test puts in the place of the network.
type clusterParts struct {
	gossip func(*membership.Config)
	listen func(address string) (net.Listener, error)
	dial   func(ctx context.Context, address string) (net.Conn, error)
	// incarnation, if it is not 0, is this process's.
	incarnation uint64
	suspicion   time.Duration
	stripes     int              // of the hop; 0: by the processors
	now         func() time.Time // the clock that a stopped process does not see move; nil: time.Now
}

// clusterHooks are what the edge does for the hop: see peer.Config.
type clusterHooks struct {
	serve func(*peer.Inbound) (*peer.Response, bool)
	aside func(peer.Local) (bool, *peer.Call)
	noted func(ring.Member, []byte)
	tell  func(context.Context, ring.Member, *peer.Ask) *peer.Told

	state ownership.Sections // what travels with keys
	marks *sequence.Marks
}

// newCluster makes the parts that are needed before the lanes' first request,
// and opens the port of the hop.
func newCluster(settings *clusterSettings, parts clusterParts, limits queue.Config, coordinator lock.Coordinator, edge clusterHooks, log *slog.Logger) (*cluster, error) {
	c := &cluster{
		settings: settings, log: log, coordinator: coordinator, viewed: make(chan struct{}), quit: make(chan struct{}),
		handoffs: prometheus.NewHistogram(proxy.HistogramOptions("lanekeeper_handoff_duration_seconds", "From this node's claim of a partition to its being the owner.",
			[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}, settings.nativeHistograms)),
	}
	// From the clock, so that a restarted node is above its predecessor.
	c.self = ring.Member{Name: settings.node, Incarnation: uint64(time.Now().UnixNano())} //nolint:gosec // after 1970
	if parts.incarnation != 0 {
		c.self.Incarnation = parts.incarnation
	}
	c.layout = ring.DefaultLayout(settings.name)
	c.layout.Partitions = settings.partitions
	c.view.Store(&membership.View{})

	limits.Partitions = settings.partitions
	limits.Emptied = func(partition int, key []byte) {
		if !c.abandoned.Load() {
			c.owners.Emptied(partition, key)
		}
	}
	c.lanes = queue.New(limits)

	var err error
	if c.certificates, err = loadCertificates("peer", "cluster.peer.tls", settings.peer.tls); err != nil {
		return nil, err
	}
	secure, err := settings.peer.secure(c.certificates)
	if err != nil {
		return nil, err
	}
	c.hop = peer.New(peer.Config{
		Self: c.self, Cluster: settings.name, Layout: c.layout.Hash(), Stripes: parts.stripes, TLS: secure, Dial: parts.dial,
		NextID: c.lanes.NextID,
		Owner:  func(partition int) (ring.Member, uint64) { return c.owners.Owner(partition) },
		Serve:  edge.serve, Aside: edge.aside, Note: edge.noted, Answer: edge.tell,
		Control: func(from ring.Member, payload []byte) {
			c.owners.Control(from, payload)
		},
		Up:       func(member ring.Member) { c.owners.Up(member) },
		MaxCalls: limits.MaxQueued, MaxBytes: limits.MaxQueuedBytes,
		Log: log,
	})
	suspicion := parts.suspicion
	if suspicion == 0 {
		suspicion = suspicionOf(settings.gossip.profile)
	}
	c.owners, err = ownership.New(ownership.Config{
		Self: c.self, Partitions: settings.partitions, Lanes: markedLanes{c.lanes, edge.marks}, Sections: edge.state,
		Send:           func(to ring.Member, payload []byte) { c.hop.Post(to, payload) },
		Routed:         c.hop.Routed,
		Frozen:         func() { c.hop.Freeze() },
		Moved:          func(handoff time.Duration) { c.handoffs.Observe(handoff.Seconds()) },
		Coordinator:    coordinator,
		AcquireTimeout: settings.acquireTimeout,
		HandoffTimeout: settings.handoffTimeout,
		Suspicion:      suspicion,
		Now:            parts.now,
		Log:            log,
	})
	if err != nil {
		return nil, err
	}
	if c.port, err = parts.listen(settings.peer.listen); err != nil {
		return nil, fmt.Errorf("cluster.peer.listen: %w", err)
	}
	return c, nil
}

// suspicionOf is how long a member may be silent, by the profile, before others
// may take it for dead: the least of membership's times.
func suspicionOf(profile string) time.Duration {
	switch profile {
	case "wan":
		return 10 * time.Second
	case "local":
		return time.Second
	}
	return 1500 * time.Millisecond
}

// secure is how members prove themselves to each other: by certificates, by the
// secret, or, on loopback, not at all.
func (p *peerSettings) secure(own *certificates) (*tls.Config, error) {
	switch {
	case own != nil:
		return peer.CertificateTLS(own), nil
	case len(p.secrets) > 0:
		return peer.SecretTLS(p.secrets)
	}
	return nil, nil
}

// gossipKeys are made from the secrets, so that what is known of gossip's key
// opens nothing else.
func gossipKeys(secrets [][]byte) ([][]byte, error) {
	var keys [][]byte
	for _, secret := range secrets {
		key, err := hkdf.Key(sha256.New, secret, nil, "lanekeeper gossip key", 32)
		if err != nil {
			return nil, fmt.Errorf("derive a key: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// start joins the others. It is called when the node can serve.
func (c *cluster) start(parts clusterParts, configHash string) error {
	keys, err := gossipKeys(c.settings.gossip.secrets)
	if err != nil {
		return err
	}
	version, _ := buildVersion()
	config := membership.Config{
		Self: c.self, Layout: c.layout,
		Listen: c.settings.gossip.listen, Advertise: c.settings.gossip.advertise, Keys: keys,
		PeerAddress: c.peerAddress(), Zone: c.settings.zone, ConfigHash: configHash, Version: version,
		Seeds: c.settings.join, JoinTimeout: c.settings.joinTimeout, Wary: c.settings.wary, Rejoin: c.settings.rejoin,
		Settle: c.settings.settle, Profile: membership.Profile(c.settings.gossip.profile), MinMembers: c.settings.minMembers, ForgetAfter: c.settings.forgetAfter,
		Log: c.log,
	}
	if parts.gossip != nil {
		parts.gossip(&config)
	}
	if c.members, err = membership.Start(config); err != nil {
		return fmt.Errorf("cluster.gossip: %w", err)
	}
	c.owners.Start()
	go c.follow() // ends with quit, which closes viewed
	return nil
}

// peerAddress is where others reach the hop. Without a host it is the one that
// gossip comes from.
func (c *cluster) peerAddress() string {
	if c.settings.peer.advertise != "" {
		return c.settings.peer.advertise
	}
	host, port, err := net.SplitHostPort(c.port.Addr().String())
	if err != nil {
		return c.port.Addr().String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = ""
	}
	return net.JoinHostPort(host, port)
}

// follow hands every view on.
func (c *cluster) follow() {
	defer close(c.viewed)
	for {
		view := c.members.View()
		if view.Version > 0 {
			c.see(view)
		}
		select {
		case <-view.Changed():
		case <-c.quit:
			return
		}
	}
}

func (c *cluster) see(view *membership.View) {
	c.view.Store(view)
	var members []peer.Member
	var live []ring.Member
	for _, n := range view.Members {
		address := n.PeerAddress
		if host, port, err := net.SplitHostPort(address); err == nil && host == "" {
			host, _, _ = net.SplitHostPort(n.GossipAddress)
			address = net.JoinHostPort(host, port)
		}
		members = append(members, peer.Member{Member: n.Member, Address: address})
		live = append(live, n.Member)
	}
	// Links first: what the table sends to a newcomer has a way then.
	c.hop.View(members)
	c.owners.SetView(ownership.View{Live: live, Targets: ownership.Targets(view.Ring), Enough: view.Enough})
}

// The edge's view of the cluster: proxy.Cluster.

var (
	errNotJoined = errors.New("this node has not found the other members of its cluster yet")
	errTooFew    = errors.New("fewer members than cluster.min_members are there")
	errMovedAway = errors.New("this node stood still, and lost the request's key meanwhile")
	errUnleased  = errors.New("this node has no valid lease from the coordinator, and nothing strict runs without one")
	errUntitled  = errors.New("the coordinator has not said yet that this node has the key, and nothing strict runs before")
)

// company is Ready for operators, who may know who the members are.
func (c *cluster) company() error {
	err := c.Ready()
	if !errors.Is(err, errTooFew) {
		return err
	}
	gone := c.dead()
	err = fmt.Errorf("it sees %d of at least %d members (cluster.min_members)", len(c.view.Load().Members), c.settings.minMembers)
	if len(gone) > 0 {
		err = fmt.Errorf("%w, and takes %s for dead", err, strings.Join(gone, ", "))
	}
	return err
}

// Ready implements proxy.Cluster.
func (c *cluster) Ready() error {
	switch view := c.view.Load(); {
	case view.Version == 0:
		return errNotJoined
	case !view.Enough:
		return errTooFew
	}
	return nil
}

// Partition implements proxy.Cluster.
func (c *cluster) Partition(key []byte) int { return c.layout.Partition(key) }

// guardEvery is how often a request whose node stood still looks whether it may
// run.
const guardEvery = 2 * time.Millisecond

// Guard implements proxy.Cluster: nothing that came before this node stood still
// is run before others have confirmed that the node still owns its partition, and
// then only if nobody else has had it meanwhile.
func (c *cluster) Guard(partition int, came time.Time) error {
	if err := c.awake(); err != nil {
		return err
	}
	if !c.owners.Kept(partition, came) {
		return errMovedAway
	}
	return c.owners.Drains(partition)
}

// awake waits until this node knows what it still owns, if it stood still.
func (c *cluster) awake() error {
	err := c.owners.Guard()
	for until := time.Now().Add(c.settings.handoffTimeout); err != nil; err = c.owners.Guard() {
		if time.Now().After(until) {
			return err
		}
		time.Sleep(guardEvery)
	}
	return nil
}

// Strict implements proxy.Cluster. A partition that this node came to own while the
// coordinator was away has its title soon after that is back.
func (c *cluster) Strict(partition int) (fence uint64, validFor time.Duration, err error) {
	if fence, validFor, err = c.owners.Strict(partition); err == nil {
		return fence, validFor, nil
	}
	for until := time.Now().Add(c.settings.acquireTimeout); errors.Is(err, ownership.ErrNoTitle) && time.Now().Before(until); {
		lease, _ := c.owners.Lease()
		if owner, _ := c.owners.Owner(partition); owner != c.self || lease.ValidFor <= 0 {
			break
		}
		time.Sleep(guardEvery)
		fence, validFor, err = c.owners.Strict(partition)
	}
	return fence, validFor, toClients(err)
}

// toClients is why there is no fence, for those who know nothing of how nodes are built.
func toClients(err error) error {
	switch {
	case errors.Is(err, ownership.ErrLeaseEnded):
		return errUnleased
	case errors.Is(err, ownership.ErrNoTitle):
		return errUntitled
	}
	return err
}

// OwnersConfig implements proxy.Cluster.
func (c *cluster) OwnersConfig(partition int) string {
	owner, _ := c.owners.Owner(partition)
	m, ok := c.view.Load().Member(owner.Name)
	if !ok {
		return ""
	}
	return m.ConfigHash
}

// StrictFew implements proxy.Lending.
func (c *cluster) StrictFew(partition, few int) (fence uint64, validFor time.Duration, err error) {
	return c.owners.StrictFew(partition, few)
}

// Owns implements proxy.Lending.
func (c *cluster) Owns(partition int) bool {
	owner, epoch := c.owners.Owner(partition)
	return owner == c.self && epoch > 0
}

// Lives implements proxy.Lending.
func (c *cluster) Lives(member ring.Member) bool {
	return slices.ContainsFunc(c.view.Load().Members, func(n membership.Node) bool { return n.Member == member })
}

// Help implements proxy.Lending.
func (c *cluster) Help(partition int, key []byte, owner ring.Member) bool {
	return c.owners.Help(partition, key, owner)
}

// Helped implements proxy.Lending.
func (c *cluster) Helped(partition int, key []byte) { c.owners.Helped(partition, key) }

// Awake implements proxy.Lending.
func (c *cluster) Awake(partition int, since time.Time) error {
	if err := c.awake(); err != nil {
		return err
	}
	if !c.owners.Kept(partition, since) {
		return errMovedAway
	}
	return nil
}

// ValidFor implements proxy.Cluster.
func (c *cluster) ValidFor(partition int) time.Duration { return c.owners.ValidFor(partition) }

// clusterEdge is a cluster as the edge sees it.
type clusterEdge struct {
	*cluster
	*peer.Hop
}

var _ proxy.Cluster = clusterEdge{}

// errAlone is the end of a drain that finds nobody to give anything to.
var errAlone = errors.New("no other member takes partitions")

// drain gives every partition away, and waits until no other member needs this
// node's lanes any more. It returns errAlone if there is nobody to give them to,
// or nobody any more.
func (c *cluster) drain(ctx context.Context) error {
	if err := c.members.Drain(ctx); err != nil {
		c.log.Warn("the others may learn late that this node drains", "error", err)
	}
	given := make(chan error, 1)
	giving, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { given <- c.owners.Drain(giving) }() // ends with giving
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-given:
			return err
		case <-tick.C:
			if c.alone() {
				return errAlone
			}
		}
	}
}

// alone reports whether there is nobody to give anything to.
func (c *cluster) alone() bool {
	for _, m := range c.view.Load().Members {
		if m.Member != c.self && m.State == membership.Active {
			return false
		}
	}
	return true
}

// stop leaves. The node serves nothing any more. What others have not read yet has
// what is left of ctx; the good-bye has time of its own.
func (c *cluster) stop(ctx context.Context) {
	reading, cancel := orGrace(ctx)
	if err := c.hop.Stop(reading); err != nil {
		c.log.Warn("not every member has read its last answers", "error", err)
	}
	cancel()
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	c.port.Close()
	if c.coordinator != nil {
		defer c.release()
	}
	if c.members == nil {
		return
	}
	if err := c.members.Leave(ctx); err != nil {
		c.log.Warn("the others may take this node for dead: it could not say good-bye", "error", err)
	}
	c.members.Stop(ctx) //nolint:errcheck // nothing is left to lose
	close(c.quit)
	<-c.viewed
	c.owners.Stop()
}

// abandon is told that calls are cut off whose services may be at work for as long as
// this node's lease lasts. Nobody is told that they are over.
func (c *cluster) abandon() { c.abandoned.Store(true) }

// release ends the lease, so that nobody has to wait for its end, unless something may
// still be at work under it.
func (c *cluster) release() {
	lease, _ := c.owners.Lease()
	if c.abandoned.Load() {
		c.log.Warn("the lease is left to end by itself: requests were cut off that may still run", "event", "lease-left", "lease", lease.ID, "valid", lease.ValidFor)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if err := c.coordinator.Close(ctx); err != nil {
		c.log.Warn("the lease could not be given up, and ends by itself", "event", "lease-left", "lease", lease.ID, "error", err)
		return
	}
	if lease.ID != "" {
		c.log.Info("the lease is given up: this node ends", "event", "lease-given-up", "lease", lease.ID)
	}
}

// leased returns nil if this node has a valid lease, and titles to all that it owns; or
// why not.
func (c *cluster) leased() error {
	lease, _ := c.owners.Lease()
	untitled := c.owners.Untitled()
	switch {
	case lease.ValidFor > 0 && untitled == 0:
		return nil
	case lease.ValidFor > 0:
		return fmt.Errorf("%d partitions that this node owns are not on record yet", untitled)
	case lease.Cause != nil:
		return c.away(lease.Cause)
	case lease.ID != "":
		return c.away(fmt.Errorf("the lease ended %s ago", (-lease.ValidFor).Round(time.Second)))
	}
	return c.away(errors.New("no lease yet"))
}

// away says which store it is that gives no lease.
func (c *cluster) away(cause error) error { return fmt.Errorf("%s: %w", c.settings.store, cause) }

// collectors are the cluster's metrics.
func (c *cluster) collectors() []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	all := []prometheus.Collector{
		c.handoffs,
		memberCollector{c},
		gauge("lanekeeper_ring_version", "This node's count of changes of the members.", func() float64 { return float64(c.view.Load().Version) }),
		gauge("lanekeeper_partitions", "Partitions of the cluster, which its nodes hold all together.", func() float64 { return float64(c.settings.partitions) }),
		gauge("lanekeeper_owned_partitions", "Partitions that this node holds.", func() float64 { return float64(c.owners.Owned()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "lanekeeper_partition_moves_total", Help: "How often this node became the owner of a partition."},
			func() float64 { return float64(c.owners.Moves()) }),
	}
	if c.coordinator != nil {
		all = append(all,
			gauge("lanekeeper_lease_remaining_seconds", "How long this node's lease certainly lasts; 0 without one.", func() float64 {
				lease, _ := c.owners.Lease()
				return max(lease.ValidFor.Seconds(), 0)
			}),
			gauge("lanekeeper_coordinator_up", "1 if the coordinator could be reached when last tried.", func() float64 {
				if lease, _ := c.owners.Lease(); lease.Cause != nil || lease.ID == "" {
					return 0
				}
				return 1
			}))
	}
	return all
}

// memberCollector counts members by state.
type memberCollector struct{ *cluster }

var membersDesc = prometheus.NewDesc("lanekeeper_members", "Members of the cluster as this node sees them.", []string{"state"}, nil)

// Describe implements prometheus.Collector.
func (c memberCollector) Describe(descs chan<- *prometheus.Desc) { descs <- membersDesc }

// Collect implements prometheus.Collector.
func (c memberCollector) Collect(values chan<- prometheus.Metric) {
	counts := map[membership.State]int{membership.Active: 0, membership.Draining: 0, membership.Dead: 0, membership.Left: 0}
	view := c.view.Load()
	for _, of := range [][]membership.Node{view.Members, view.Dead} {
		for _, n := range of {
			counts[n.State]++
		}
	}
	for state, n := range counts {
		values <- prometheus.MustNewConstMetric(membersDesc, prometheus.GaugeValue, float64(n), state.String())
	}
}
