// Package redlock keeps each lock on the majority of several Redis masters that know
// nothing of each other. See the lock package for what a lock promises; this is what
// it rests on here.
//
// It survives that a minority of the masters is dead, hangs or is cut off. It is
// exclusive by time: it rests on clocks that run alike within 1 %, and on masters
// that keep what they acknowledged, or grant nothing for a TTL after they lost it
// (Config.Grace), while no majority loses it at once. It does not survive that the
// clocks of a majority are set forward, and knows nothing of a holder that stands
// still, or of messages that are long on their way. Tokens rise as long as no two
// masters that a majority hangs on have lost what they had seen, one after the other,
// and clocks were apart. So they are a good sign of order, and not the strict fence
// that etcd's and ZooKeeper's are, which rest on logs. Whoever has either should
// prefer it; whoever can do with one Redis master, lock/redis costs less.
//
// # How it works
//
// An attempt asks all masters at once for their locks, each the usual one: a key that
// is set if it is absent, with a value of this attempt's alone and an expiry. With a
// majority of them it is a lease; with fewer it gives back what it has. That is
// Redlock (Antirez, 2016).
//
// Plain Redlock tries again at random, which is as unfair as it sounds. Here each
// place has a ticket of hybrid time (Lamport, 1978), every master queues places by
// it, and grants to its first alone. Since all have the same order, who is before all
// others gets all; and as whoever gets too few gives back what it has and keeps its
// place (the yield of Maekawa, 1985), no two wait for each other. The first is told
// by a message when a lock is given back. Order is that of asking, up to what clocks
// differ in; neither exclusion nor tokens depend on it.
//
// A token is proposed with each attempt: a number above all that this node has seen. A
// master accepts it if it is above all that it had seen when it gave its lock. Only
// locks with an accepted token count. Two majorities share a master, so the tokens of a
// name rise, whatever clocks say. If a proposal fails, a second one cannot: it is
// above what the masters said, and their locks are kept meanwhile.
//
// A renewal counts when a majority extended its locks, or, not having them any more,
// took the lease's again. The latter brings a master that was restarted, or was late,
// back into the majority. It cannot make two: a lease is renewed only while it is
// valid, so that no other has been granted since; and what a master is given in
// addition takes nothing from anybody.
//
// # What it costs
//
// One round trip to all masters for an acquire without rivals, one for a release, one
// each TTL/3 for all leases of a node; each master's load is what one server's would
// be, and more when nodes fight, whose attempts come to nothing. A master that hangs
// is waited for at most max(50 ms, TTL/20), and only where its word decides.
package redlock

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lanekeeper/lock"
)

// Config says which masters, and how leases are kept there. All nodes that share
// locks must agree on the masters, Prefix, TTL and Grace.
type Config struct {
	Addresses          []string // host:port of each master: an odd number, at least 3
	Username, Password string   // empty: none
	DB                 int
	TLS                *tls.Config // nil: none

	// Prefix begins every key. It must not be empty or hold a brace.
	Prefix string

	// TTL is how long a lock is kept for a holder of whom nothing is heard. A lease
	// is valid for TTL - Margin - drift after the last renewal was sent, where drift
	// is what clocks may differ in over a TTL, 1 % and 2 ms. It is renewed each
	// TTL/3. Margin is what a request may need to its end after its lease has.
	// 0 < Margin < TTL/2; TTL at least 100 ms.
	TTL, Margin time.Duration

	// Grace has a master that lost its data, or is used for the first time, wait one
	// TTL before it grants anything. Without it, masters must keep what they
	// acknowledge (appendonly yes, appendfsync always), or be kept from starting
	// for a TTL after they died.
	Grace bool

	// Dial opens a connection; nil means TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	Log *slog.Logger

	alive time.Duration    // 0: aliveFor
	clock func() time.Time // of tickets and tokens; nil: time.Now
	// connect makes the store of a master; nil: connect. For tests.
	connect func(ctx context.Context, config *Config, address, channel string) (store, string, error)
}

func (c *Config) validate() error {
	if len(c.Addresses) < 3 || len(c.Addresses)%2 == 0 {
		return fmt.Errorf("%d addresses: locks are kept on the majority of an odd number of masters, at least 3", len(c.Addresses))
	}
	seen := make(map[string]bool)
	for _, address := range c.Addresses {
		if seen[address] {
			return fmt.Errorf("the address %s is given twice: each master counts once", address)
		}
		seen[address] = true
	}
	switch {
	case c.Prefix == "" || strings.ContainsAny(c.Prefix, "{}"):
		return fmt.Errorf("the key prefix %q is empty or holds a brace", c.Prefix)
	case c.TTL < 100*time.Millisecond:
		return fmt.Errorf("a lease of %v is too short: at least 100ms", c.TTL)
	case c.TTL%time.Millisecond != 0:
		return fmt.Errorf("a lease of %v is not of whole milliseconds, as the masters count", c.TTL)
	case c.Margin <= 0 || c.Margin >= c.TTL/2:
		return fmt.Errorf("a margin of %v is not between 0 and half of the lease's %v", c.Margin, c.TTL)
	}
	return nil
}

// quorum is how many masters are a majority.
func (c *Config) quorum() int { return len(c.Addresses)/2 + 1 }

// perMaster is how long an attempt waits for masters that do not answer.
func (c *Config) perMaster() time.Duration { return max(c.TTL/20, 50*time.Millisecond) }

// afterwards bounds a question whose answer no attempt waits for.
func (c *Config) afterwards() time.Duration { return max(c.TTL/2, time.Second) }

// length is how long a lease is valid after it was asked for.
func (c *Config) length() time.Duration { return c.TTL - c.Margin - c.TTL/100 - 2*time.Millisecond }

// How waiters are kept apart from dead ones, and masters.
const (
	aliveFor   = 3 * time.Second        // after it last asked; it does so each third of that, if nothing else makes it
	claimIn    = 500 * time.Millisecond // after it was told that it is its turn
	retryLeast = 10 * time.Millisecond  // while a majority of the masters is away
	retryMost  = 500 * time.Millisecond

	retryRefused = 10 * time.Second // while a master is none, say

	joinIn    = time.Second // for masters beyond the majority, when a Locker opens
	lingerMin = time.Second // for masters beyond the majority, when it closes
)

// Locker is a node's way to the locks of the masters.
type Locker struct {
	config  Config
	masters []*master
	numbers numbers
	id      string // of this Locker, like nobody else's ever
	channel string // on which it hears whose turn it is
	life    context.Context
	kill    context.CancelFunc
	gone    context.Context // ended when the stores are closed: nothing is asked after that
	leave   context.CancelFunc
	wg      sync.WaitGroup // joining, listening, renewing, each Acquire, each lease, each line that asks
	over    chan struct{}  // closed when Close has ended

	mu      sync.Mutex        // guards the rest
	runs    map[string]string // address by the run of its server
	last    uint64            // of the numbers of places
	waiting map[string]*place
	held    map[*lease]struct{}
	closed  bool
}

// master is one of the masters, as this node knows it.
type master struct {
	address  string
	store    atomic.Pointer[store] // nil until it can be used
	silent   atomic.Bool           // it let somebody wait in vain, and has not answered since
	asked    atomic.Int32          // questions that are on their way
	renewing atomic.Bool
}

var (
	errAway   = errors.New("it could not be reached yet")
	errSilent = errors.New("it does not answer")
)

// reach is the store of the master, unless that is known to be in vain.
func (m *master) reach() (store, error) {
	s := m.store.Load()
	if s == nil {
		return nil, errAway
	}
	if m.silent.Load() && m.asked.Load() >= askedMost {
		return nil, errSilent
	}
	return *s, nil
}

// call asks the master something.
func (m *master) call(ctx context.Context, f func(context.Context, store) error) error {
	s, err := m.reach()
	if err != nil {
		return err
	}
	m.asked.Add(1)
	defer m.asked.Add(-1)
	if err = f(ctx, s); err == nil {
		m.silent.Store(false)
	}
	return err
}

// askedMost bounds the questions to a master that is silent; the client has room for
// twice as many, and then stands still.
const askedMost = 512

// Open connects to the masters and returns when a majority of them can be used. Those
// that cannot be reached are tried again from then on. It refuses servers that are
// no masters, that evict keys, that are too old, or that are one under two addresses.
// ctx bounds Open alone.
func Open(ctx context.Context, config Config) (*Locker, error) {
	config.alive = cmp.Or(config.alive, aliveFor)
	if config.clock == nil {
		config.clock = time.Now
	}
	if config.connect == nil {
		config.connect = connect
	}
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("redlock: %w", err)
	}
	l := &Locker{
		config: config, id: rand.Text(), numbers: numbers{clock: config.clock}, over: make(chan struct{}),
		runs: make(map[string]string), waiting: make(map[string]*place), held: make(map[*lease]struct{}),
	}
	l.channel = "{" + config.Prefix + "}:n:" + l.id
	l.life, l.kill = context.WithCancel(context.Background())
	l.gone, l.leave = context.WithCancel(context.Background())
	for _, address := range config.Addresses {
		l.masters = append(l.masters, &master{address: address})
	}
	if err := l.joinAll(ctx); err != nil {
		l.Close(ctx) //nolint:errcheck // there is nothing to release
		return nil, fmt.Errorf("redlock: %w", err)
	}
	l.wg.Go(l.renewAll) // ends with life
	return l, nil
}

// joinAll returns when a majority has been joined, and the others have been tried.
func (l *Locker) joinAll(ctx context.Context) error {
	type result struct {
		index int
		err   error
	}
	first := make(chan result, len(l.masters))
	for i, m := range l.masters {
		var once sync.Once
		l.wg.Go(func() { // ends with life
			l.join(i, m, func(err error) { once.Do(func() { first <- result{i, err} }) })
		})
	}
	joined, errs := 0, make([]error, len(l.masters))
	for i := range errs {
		errs[i] = errSilent
	}
	var enough <-chan time.Time
	for range l.masters {
		select {
		case r := <-first:
			errs[r.index] = r.err
			if errors.Is(r.err, errRefused) {
				return fmt.Errorf("%s: %w", l.masters[r.index].address, r.err)
			}
			if r.err == nil {
				joined++
			}
			if joined == l.config.quorum() {
				enough = time.After(joinIn)
			}
			continue
		case <-enough:
		case <-ctx.Done():
		}
		break
	}
	err := l.missing(errs)
	if joined < l.config.quorum() {
		return fmt.Errorf("%d of %d masters can be used, and %d are needed: %w", joined, len(l.masters), l.config.quorum(), err)
	}
	if err != nil {
		l.config.Log.Warn("masters for locks are missing: they are tried again", "error", err)
	}
	return nil
}

// missing is the errors of masters in one, nil if there are none.
func (l *Locker) missing(errs []error) error {
	var all error
	for i, err := range errs {
		switch {
		case err == nil:
		case all == nil:
			all = fmt.Errorf("%s: %w", l.masters[i].address, err)
		default:
			all = fmt.Errorf("%w; %s: %w", all, l.masters[i].address, err)
		}
	}
	return all
}

// join tries to use a master until it can be, and then listens to it until the end.
// It reports how each try went.
func (l *Locker) join(index int, m *master, report func(error)) {
	for pause := retryLeast; l.life.Err() == nil; pause = min(2*pause, max(retryMost, pause)) {
		s, run, err := l.config.connect(l.life, &l.config, m.address, l.channel)
		if err == nil {
			if err = l.register(m.address, run); err != nil {
				s.close()
			}
		}
		if err == nil {
			m.store.Store(&s)
			l.listen(index, s, func() { report(nil) })
			return
		}
		report(err)
		if errors.Is(err, errRefused) {
			l.config.Log.Warn("a master for locks cannot be used", "address", m.address, "error", err)
			pause = retryRefused
		}
		sleep(l.life, pause)
	}
}

// register notes which run of a server is at an address.
func (l *Locker) register(address, run string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, known := l.runs[run]; known && run != "" && other != address {
		return &refusal{fmt.Errorf("it is the same server as %s: each master counts once", other)}
	}
	l.runs[run] = address
	return nil
}

// listen hears a master's messages for this node until the end.
func (l *Locker) listen(index int, s store, subscribed func()) {
	for l.life.Err() == nil {
		err := s.listen(l.life, func() {
			subscribed()
			l.wakeAll() // what was said before is lost
		}, func(id string) { l.wake(index, id) })
		if l.life.Err() == nil {
			l.config.Log.Debug("no messages from a master for locks", "address", l.masters[index].address, "error", err)
			sleep(l.life, retryMost)
		}
	}
}

// Close implements lock.Locker.
func (l *Locker) Close(ctx context.Context) error {
	l.mu.Lock()
	again := l.closed
	l.closed = true
	var held []*lease
	for of := range l.held {
		held = append(held, of)
	}
	l.mu.Unlock()
	if again {
		select {
		case <-l.over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(l.over)
	l.kill() // what waits, and what is renewed
	err := l.releaseAll(ctx, held)
	done := make(chan struct{})
	go func() { // ends with the last of them, at the latest when nothing is asked any more
		l.wg.Wait()
		close(done)
	}()
	// What was held is free on a majority. The others get a moment: what they don't
	// hear of, they forget.
	linger := time.NewTimer(max(lingerMin, 2*l.config.perMaster()))
	defer linger.Stop()
	select {
	case <-done:
	case <-linger.C:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err())
	}
	l.leave()
	l.closeStores()
	<-done
	l.closeStores() // should a connection have been on its way
	return err
}

func (l *Locker) closeStores() {
	for _, m := range l.masters {
		if s := m.store.Load(); s != nil {
			(*s).close()
		}
	}
}

func (l *Locker) releaseAll(ctx context.Context, held []*lease) error {
	errs := make(chan error, len(held))
	for _, of := range held {
		go func() { errs <- of.Release(ctx) }() // ends with ctx
	}
	var all []error
	for range held {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// sleep returns when the time has passed, or ctx has ended.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

var _ lock.Locker = (*Locker)(nil)
