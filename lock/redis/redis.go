// Package redis keeps locks in one Redis server. See the lock package for what a
// lock promises; this is what it rests on here.
//
// The lock itself is the usual one: a key that is set if it is absent, with a value
// that nobody else has and an expiry, and deleted only while it has that value.
// Around it is a queue, so that locks are granted in the order in which they were
// asked for, and the node whose turn it is hears of it by a message instead of by
// asking. A message may be lost; each waiter asks now and then, which is how the
// server knows that it is alive, too.
//
// It holds while there is one master, which neither loses what it acknowledged nor
// has its clock set forward by more than the margin. A master that was restarted,
// flushed, or replaced by a replica grants nothing for the length of a lease, until
// what it may have forgotten has ended; that is Config.Grace. Not covered: a master
// that is cut off, and goes on granting to its side of the network while a replica
// is promoted on the other (min-replicas-to-write bounds that), and one that was a
// replica for a moment, in which nobody asked, and is master again within a TTL.
//
// Of a node's lease and the records of what it holds, such a master may have lost the
// one and kept the other. So with Grace a lease belongs to what the server then was, and
// ends with that, at its next renewal at the latest: each restart, failover or loss
// costs all nodes their leases, however short it was and whatever is kept on disk, and
// nobody is granted anything for a TTL. Without Grace leases go on, and what the server does not
// remember may be held by two nodes.
//
// A clock that is set forward by more than the margin ends leases early for the server,
// and it grants to another what a holder believes in until its next renewal is answered:
// for TTL/3 and a round trip, or, if none is, to the end of its lease as it knows it.
// Tokens and stamps rise all the same, so resources that look at them are safe. Waiters
// count as dead until they ask again, so others may overtake them once.
//
// A clock that is set back gives nothing to two. Tokens and stamps rise, too, as long as
// the server has the last ones; without its data it has only its clock to begin at, and
// they fall. With Grace, data that is from later than now counts as lost.
//
// What costs more than it should, and no promise: a connection that falls silent
// without being closed is given up about a TTL later, when its leases have ended; and
// a server whose clock is set back takes who is dead for alive for as long as that. A
// lock that the dead one held is free a TTL after somebody asks. But a waiter that died
// is in the way of those behind it, unless the lock is released, and a node that died,
// and renewed nothing since, keeps its partitions.
package redis

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
	"time"

	"github.com/redis/rueidis"

	"lanekeeper/lock"
)

// Config says which server, and how leases are kept there. All nodes that share
// locks must agree on Prefix, TTL and Grace.
type Config struct {
	Address            string // host:port
	Username, Password string // empty: none
	DB                 int
	TLS                *tls.Config // nil: none

	// Prefix begins every key. It must not be empty or hold a brace.
	Prefix string

	// TTL is how long a lock is kept for a holder of whom nothing is heard. A lease
	// is valid for TTL - Margin after the last renewal was sent, and is renewed each
	// TTL/3. Margin is what clocks may differ in, over a TTL, and what a request may
	// need to its end after its lease has. 0 < Margin < TTL/2; TTL at least 100 ms.
	TTL, Margin time.Duration

	// Grace has a server that lost its data, or is used for the first time, or after a
	// restart, wait one TTL before it grants anything; nodes' leases of before end.
	Grace bool

	// Dial opens a connection; nil means TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	Log *slog.Logger

	alive time.Duration // 0: aliveFor
}

func (c *Config) validate() error {
	switch {
	case c.Prefix == "" || strings.ContainsAny(c.Prefix, "{}"):
		return fmt.Errorf("the key prefix %q is empty or holds a brace", c.Prefix)
	case c.TTL < 100*time.Millisecond:
		return fmt.Errorf("a lease of %v is too short: at least 100ms", c.TTL)
	case c.TTL%time.Millisecond != 0:
		return fmt.Errorf("a lease of %v is not of whole milliseconds, as the server counts", c.TTL)
	case c.Margin <= 0 || c.Margin >= c.TTL/2:
		return fmt.Errorf("a margin of %v is not between 0 and half of the lease's %v", c.Margin, c.TTL)
	}
	return nil
}

// How waiters are kept apart from dead ones.
const (
	aliveFor   = 3 * time.Second        // after it last asked; it does so each third of that, if nothing else makes it
	claimIn    = 500 * time.Millisecond // after it was told that it is its turn
	retryLeast = 10 * time.Millisecond  // while the server is away
	retryMost  = 500 * time.Millisecond
)

// Locker is a node's way to the locks of a server.
type Locker struct {
	config  Config
	client  rueidis.Client
	id      string // of this Locker, like nobody else's ever
	channel string // on which it hears whose turn it is
	life    context.Context
	kill    context.CancelFunc
	gone    context.Context // ended when the client is closed: nobody dials after that
	leave   context.CancelFunc
	wg      sync.WaitGroup // renewing, listening, each Acquire, each lease until the server knows of its end

	ended     chan struct{} // closed when Close has done everything
	beginning chan struct{} // holds one element while nobody begins a session

	mu      sync.Mutex // guards the rest
	last    uint64     // of the numbers of places and sessions
	session *session   // nil: none
	ends    map[string]map[chan struct{}]struct{}
	waiting map[string]chan struct{}
	held    map[*lease]struct{}
	closed  bool
}

// Open connects to the server and returns when it can be used. It refuses a server
// that is no master, that evicts keys, or that is too old. ctx bounds Open alone.
func Open(ctx context.Context, config Config) (*Locker, error) {
	config.alive = cmp.Or(config.alive, aliveFor)
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("redis %s: %w", config.Address, err)
	}
	client, err := connect(ctx, &config)
	if err != nil {
		return nil, fmt.Errorf("redis %s: %w", config.Address, explain(err))
	}
	l := &Locker{
		config: config, client: client, id: rand.Text(),
		waiting: make(map[string]chan struct{}), held: make(map[*lease]struct{}),
		ends: make(map[string]map[chan struct{}]struct{}), beginning: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	l.beginning <- struct{}{}
	l.channel = l.key("n", l.id)
	l.life, l.kill = context.WithCancel(context.Background())
	l.gone, l.leave = context.WithCancel(context.Background())
	err = l.check(ctx)
	if err == nil {
		l.load(ctx)
		err = l.listen(ctx)
	}
	if err != nil {
		l.Close(ctx) //nolint:errcheck // there is nothing to release
		return nil, fmt.Errorf("redis %s: %w", config.Address, explain(err))
	}
	l.wg.Go(l.renewAll) // ends with life
	return l, nil
}

func connect(ctx context.Context, config *Config) (rueidis.Client, error) {
	option := rueidis.ClientOption{
		InitAddress: []string{config.Address}, Username: config.Username, Password: config.Password,
		SelectDB: config.DB, TLSConfig: config.TLS,
		ForceSingleClient: true, // never a replica, never another server that somebody tells of
		DisableCache:      true,
		DisableRetry:      true, // retries are made where it is known what they mean
		PipelineMultiplex: -1,   // one connection: what is sent first is done first
		ConnWriteTimeout:  max(config.TTL, time.Second),
	}
	if config.Dial != nil {
		option.DialCtxFn = func(ctx context.Context, address string, _ *net.Dialer, secure *tls.Config) (net.Conn, error) {
			conn, err := config.Dial(ctx, address)
			if err != nil || secure == nil {
				return conn, err
			}
			return overTLS(ctx, conn, address, secure)
		}
	}
	type result struct {
		client rueidis.Client
		err    error
	}
	made := make(chan result, 1)
	go func() { // ends when the server has answered, or the dialer's timeout has passed
		client, err := rueidis.NewClient(option)
		made <- result{client, err}
	}()
	select {
	case r := <-made:
		return r.client, r.err
	case <-ctx.Done():
		go func() { // ends with the one above
			if r := <-made; r.err == nil {
				r.client.Close()
			}
		}()
		return nil, fmt.Errorf("it does not answer: %w", ctx.Err())
	}
}

// overTLS does what the client's own dialer would.
func overTLS(ctx context.Context, conn net.Conn, address string, config *tls.Config) (net.Conn, error) {
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// explain says what to do about an error where the server's word does not.
func explain(err error) error {
	var late net.Error
	switch text := err.Error(); {
	case errors.As(err, &late) && late.Timeout() && !errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("it does not answer: %w", err)
	case strings.Contains(text, "unknown message type"):
		return fmt.Errorf("what listens there is no Redis server: %w", err)
	case strings.HasPrefix(text, "WRONGPASS"), strings.HasPrefix(text, "NOAUTH"):
		return fmt.Errorf("user name and password: %w", err)
	case strings.HasPrefix(text, "NOPERM"):
		return fmt.Errorf("the user may not do what locks need: %w", err)
	}
	return err
}

// key is a key of the server. All share a hash tag.
func (l *Locker) key(kind, name string) string {
	return "{" + l.config.Prefix + "}:" + kind + ":" + name
}

// keys are those of a lock, as scripts want them.
func (l *Locker) keys(name string) []string {
	return []string{l.key("o", name), l.key("q", name), l.key("w", name), l.key("seq", ""), l.key("epoch", "")}
}

// check refuses a server on which locks would not hold.
func (l *Locker) check(ctx context.Context) error {
	text, err := l.client.Do(ctx, l.client.B().Arbitrary("INFO").Build()).ToString()
	if err != nil {
		return err
	}
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return judge(info)
}

// judge says what is wrong with a server, by its INFO.
func judge(info map[string]string) error {
	major, _, _ := strings.Cut(info["redis_version"], ".")
	switch policy := info["maxmemory_policy"]; {
	case len(major) == 1 && major < "6":
		return fmt.Errorf("it is Redis %s: at least 6 is needed", info["redis_version"])
	case info["role"] != "" && info["role"] != "master":
		return fmt.Errorf("it is a %s: locks need the master", info["role"])
	case info["maxmemory"] != "" && info["maxmemory"] != "0" && policy != "noeviction":
		return fmt.Errorf("it evicts keys when it runs out of memory (maxmemory-policy %s), locks among them: set noeviction, or give locks a server of their own", policy)
	}
	return nil
}

// load gives the server the scripts, so that their first use costs one round trip
// like all others. If it won't have that, it gets each with its first use.
func (l *Locker) load(ctx context.Context) {
	for _, text := range []string{acquireText, releaseText, renewText, beginText, prolongText, endedText, takeText, drawText, clearText, listText, giveUpText} {
		l.client.Do(ctx, l.client.B().ScriptLoad().Script(text).Build())
	}
}

// listen subscribes to the messages for this node, and goes on until the end.
func (l *Locker) listen(ctx context.Context) error {
	subscribed := make(chan struct{}, 1)
	l.wg.Go(func() { // ends with life
		hooked := rueidis.WithOnSubscriptionHook(l.life, func(s rueidis.PubSubSubscription) {
			l.wakeAll() // what was said before is lost
			select {
			case subscribed <- struct{}{}:
			default:
			}
		})
		for l.life.Err() == nil {
			err := l.client.Receive(hooked, l.client.B().Subscribe().Channel(l.channel, l.key("ended", "")).Build(), func(m rueidis.PubSubMessage) {
				if m.Channel == l.channel {
					l.wake(m.Message)
				} else {
					l.wakeEnd(m.Message)
				}
			})
			if l.life.Err() == nil {
				l.config.Log.Debug("no messages from the lock's server", "address", l.config.Address, "error", err)
				sleep(l.life, retryMost)
			}
		}
	})
	select {
	case <-subscribed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Locker) wake(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wake(l.waiting[id])
}

func (l *Locker) wakeAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.waiting {
		wake(c)
	}
	for _, turns := range l.ends {
		for c := range turns {
			wake(c)
		}
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it will ask already, or there is nobody
	}
}

// Close implements lock.Locker.
func (l *Locker) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		select {
		case <-l.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.closed = true
	var held []*lease
	for of := range l.held {
		held = append(held, of)
	}
	s := l.session
	l.mu.Unlock()
	l.kill()                              // what waits, and what is renewed
	said := make(chan error, len(held)+1) // all at once: ctx is for all of them
	go func() {                           // ends with ctx, or its answer
		if s == nil {
			said <- nil
		} else {
			said <- s.End(ctx)
		}
	}()
	for _, of := range held {
		go func() { said <- of.Release(ctx) }() // ends with ctx, or its answer
	}
	var errs []error
	for range len(held) + 1 {
		errs = append(errs, <-said)
	}
	done := make(chan struct{})
	go func() { // ends with the last of them, at the latest when the client is closed
		l.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, ctx.Err())
	}
	l.leave()
	l.client.Close()
	<-done
	l.client.Close() // should a connection have been on its way
	close(l.ended)
	return errors.Join(errs...)
}

// perTry bounds one question to the server.
func (l *Locker) perTry() time.Duration { return max(l.config.TTL/6, 50*time.Millisecond) }

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
