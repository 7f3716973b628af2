package membership

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"lanekeeper/ring"
)

// What can no longer be done.
var (
	ErrStopped = errors.New("membership: stopped")
	ErrLeft    = errors.New("membership: this node has left") // and comes back only as another incarnation
)

// Membership is this node's part in the gossip of its cluster. Its methods are
// safe for concurrent use.
type Membership struct {
	config     Config
	gossipName string
	bound      netip.AddrPort // zero with a Transport of config's
	advertised netip.AddrPort
	layout     layoutMark
	seeds      []seed
	transport  *transport
	relay      *relay
	list       *memberlist.Memberlist

	view    atomic.Pointer[View]
	problem atomic.Pointer[string]

	kicked  chan struct{} // holds one: the table has changed
	death   chan struct{} // holds one: a member died
	company chan struct{} // closed when another node was first seen alive
	looked  chan struct{} // closed when every seed has been tried once
	alone   chan struct{} // closed when the node goes on without

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	seek   context.Context // ends with Leave, or Stop: seeds are not joined any more
	desist context.CancelFunc
	loops  sync.WaitGroup // publish and join
	writer sync.WaitGroup // the log

	announcing chan struct{}  // holds one: who announces, until memberlist has spread it
	calls      sync.WaitGroup // of memberlist's that wait for something to spread
	stopOnce   sync.Once
	stopped    chan struct{} // closed when nothing of this runs any more

	mu        sync.Mutex // guards the rest
	table     *table
	lost      lost
	lastDeath time.Time
	says      announcement
	sought    []netip.AddrPort // the seeds, when they were first looked at
	departed  bool             // Leave has begun
	stopping  bool
}

// Start begins to gossip and to look for the seeds, and returns at once. Its
// error is a sentence about the configuration or the machine; everything has
// been released then, config.Transport included.
func Start(config Config) (*Membership, error) {
	m, err := start(config)
	if err != nil && config.Transport != nil {
		err = errors.Join(err, config.Transport.Shutdown())
	}
	return m, err
}

func start(config Config) (*Membership, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Resolver == nil {
		config.Resolver = net.DefaultResolver
	}
	m := &Membership{
		config:     config,
		gossipName: gossipName(config.Self),
		layout:     markOf(config.Layout),
		kicked:     make(chan struct{}, 1),
		death:      make(chan struct{}, 1),
		company:    make(chan struct{}),
		looked:     make(chan struct{}),
		alone:      make(chan struct{}),
		announcing: make(chan struct{}, 1),
		stopped:    make(chan struct{}),
		table:      newTable(),
		lost:       make(lost),
	}
	m.says = announcement{
		layout:      m.layout,
		peerAddress: config.PeerAddress,
		zone:        config.Zone,
		configHash:  config.ConfigHash,
		version:     config.Version,
	}
	for _, s := range config.Seeds {
		parsed, err := parseSeed(s)
		if err != nil {
			return nil, err
		}
		m.seeds = append(m.seeds, parsed)
	}
	empty, err := ring.New(config.Layout, nil)
	if err != nil {
		return nil, err
	}
	m.view.Store(&View{Ring: empty, changed: make(chan struct{})})
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.seek, m.desist = context.WithCancel(m.ctx)
	if err := m.gossip(); err != nil {
		m.cancel()
		return nil, err
	}
	if len(m.seeds) == 0 {
		close(m.looked)
		close(m.alone)
		m.publish()
	}
	// Both end with ctx.
	m.loops.Go(m.publishLoop)
	m.loops.Go(m.joinLoop)
	return m, nil
}

// gossip brings memberlist up, or releases what it has taken.
func (m *Membership) gossip() error {
	settings, err := m.config.Profile.settings()
	if err != nil {
		return err
	}
	m.relay = newRelay(m.config.Log, settings.PushPullInterval)
	lines := log.New(m.relay, "", 0)

	inner := m.config.Transport
	if inner != nil {
		m.advertised, err = advertisedBy(inner, m.config.Advertise)
	} else {
		inner, err = m.listen(lines)
	}
	if err != nil {
		return err
	}
	m.transport = newTransport(inner, dialTimeout[m.config.Profile])
	m.relay.advertised = m.advertised.String()

	d := delegate{m}
	settings.Name = m.gossipName
	settings.Label = label(m.config.Layout.Cluster)
	settings.AdvertiseAddr = m.advertised.Addr().String()
	settings.AdvertisePort = int(m.advertised.Port())
	settings.BindPort = settings.AdvertisePort // only to complete addresses without a port: there are none
	settings.Transport = m.transport
	settings.Logger = lines
	settings.Delegate, settings.Events, settings.Alive, settings.Merge, settings.Conflict = d, d, d, d, d
	if len(m.config.Keys) > 0 {
		if settings.Keyring, err = memberlist.NewKeyring(m.config.Keys, m.config.Keys[0]); err != nil {
			return errors.Join(fmt.Errorf("gossip keys: %w", err), m.transport.Shutdown())
		}
	}
	// Ends with relay.stop.
	m.writer.Go(m.relay.run)
	if m.list, err = memberlist.Create(settings); err != nil {
		err = errors.Join(fmt.Errorf("gossip does not start: %w", err), m.transport.Shutdown())
		close(m.relay.stop)
		m.writer.Wait()
	}
	return err
}

// listen decides what to advertise and opens real sockets.
func (m *Membership) listen(lines *log.Logger) (memberlist.Transport, error) {
	address, err := parseListen(m.config.Listen)
	if err != nil {
		return nil, err
	}
	// First, for sockets that are open must be read from.
	m.advertised, err = advertised(m.config.Advertise, address, privateAddress)
	if err != nil {
		return nil, err
	}
	sockets, bound, err := listen(address, lines)
	if err != nil {
		return nil, err
	}
	m.bound = bound
	if m.advertised.Port() == 0 {
		m.advertised = netip.AddrPortFrom(m.advertised.Addr(), bound.Port())
	}
	return sockets, nil
}

// View returns the present view. It is one atomic load, and never nil.
func (m *Membership) View() *View { return m.view.Load() }

// Problem says why there is no view yet, or why this node is still alone, in a
// sentence; empty if nothing is wrong.
func (m *Membership) Problem() string {
	if p := m.problem.Load(); p != nil {
		return *p
	}
	return ""
}

// GossipAddress is where others reach this node's gossip, as ip:port.
func (m *Membership) GossipAddress() string { return m.advertised.String() }

// Health is how well this node keeps up with gossip: 0 is well; more is late
// answers and late probes, by its own fault.
func (m *Membership) Health() int { return m.list.GetHealthScore() }

// Traffic counts what gossip has moved.
func (m *Membership) Traffic() Traffic { return m.transport.traffic() }

// Suspicion is the profile's, for the present members.
func (m *Membership) Suspicion() time.Duration {
	return m.config.Profile.Suspicion(len(m.View().Members))
}

// spreadTimeout bounds how long memberlist is waited for where the caller sets
// no deadline. A few gossip intervals are usual.
const spreadTimeout = 5 * time.Second

// Drain announces that this node takes no more partitions: it leaves every
// ring, its own too, and stays a live member. It returns when gossip has passed
// the news on. After an error it is still announced, and spreads more slowly.
func (m *Membership) Drain(ctx context.Context) error {
	return m.announce(ctx, func(a *announcement) {
		if a.intent == staying {
			a.intent = draining
		}
	})
}

// Undrain takes Drain back.
func (m *Membership) Undrain(ctx context.Context) error {
	return m.announce(ctx, func(a *announcement) {
		if a.intent == draining {
			a.intent = staying
		}
	})
}

// SetConfigHash announces another Config.ConfigHash, after a reload.
func (m *Membership) SetConfigHash(ctx context.Context, hash string) error {
	if err := printable(hash, configHashMax); err != nil {
		return fmt.Errorf("the config hash %w", err)
	}
	return m.announce(ctx, func(a *announcement) { a.configHash = hash })
}

// Leave says good-bye: the others drop this node at once instead of suspecting
// it, and see it Left, not Dead. It gossips on until Stop, but does not come
// back. It may be called again.
func (m *Membership) Leave(ctx context.Context) error {
	m.desist()
	// memberlist's good-bye looks like a death; the announcement before it says
	// that it is none. announce returns when it has been passed on so often
	// that everybody has it, nearly always.
	err := m.announce(ctx, func(a *announcement) { a.intent = leaving })
	if errors.Is(err, ErrStopped) {
		return err
	}
	if errors.Is(err, ErrLeft) {
		err = nil
	}
	return errors.Join(err, m.spread(ctx, func(timeout time.Duration) error {
		m.mu.Lock()
		m.departed = true
		m.mu.Unlock()
		return m.list.Leave(timeout)
	}))
}

// announce changes what this node says of itself and tells the others.
func (m *Membership) announce(ctx context.Context, change func(*announcement)) error {
	m.mu.Lock()
	departed, stopping := m.departed, m.stopping
	if !departed {
		change(&m.says)
	}
	m.mu.Unlock()
	if departed && !stopping {
		return ErrLeft // memberlist would wait in vain for it to spread
	}
	return m.spread(ctx, m.list.UpdateNode)
}

// spread calls one of memberlist's functions that wait until something was
// passed on, one at a time: of two updates at once the overtaken one would wait
// for its whole timeout.
func (m *Membership) spread(ctx context.Context, call func(timeout time.Duration) error) error {
	select {
	case m.announcing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	timeout := spreadTimeout
	if deadline, ok := ctx.Deadline(); ok {
		// Never 0, which would be for ever.
		timeout = max(time.Millisecond, min(timeout, time.Until(deadline)))
	}
	done := make(chan error, 1)
	m.mu.Lock()
	if m.stopping {
		m.mu.Unlock()
		<-m.announcing
		return ErrStopped
	}
	// Ends with the call, which ends with its timeout. Stop waits for it.
	m.calls.Go(func() {
		done <- call(timeout)
		<-m.announcing
	})
	m.mu.Unlock()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("gossip has not passed it on within %v and goes on trying: %w", timeout, err)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Stop ends everything and returns when nothing of this package runs any more,
// or ctx ends; it then goes on behind the caller's back. Without Leave, the
// others see this node die. It may be called twice, or on nil.
func (m *Membership) Stop(ctx context.Context) error {
	if m == nil {
		return nil
	}
	// Ends when everything has; stopped says so.
	m.stopOnce.Do(func() { go m.stop() })
	select {
	case <-m.stopped:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *Membership) stop() {
	m.mu.Lock()
	m.stopping = true
	m.mu.Unlock()
	m.cancel()
	m.calls.Wait() // memberlist panics if it should leave after its shutdown
	if err := m.list.Shutdown(); err != nil {
		m.relay.say(slog.LevelWarn, "gossip has not stopped cleanly", "error", err)
	}
	m.loops.Wait()
	close(m.relay.stop)
	m.writer.Wait()
	close(m.stopped)
}
