// Package zk keeps locks in ZooKeeper. See the lock package for what a lock promises;
// this is what it rests on here.
//
// A place in the queue of a lock is an ephemeral sequential node below the node of
// the lock. Who has the lowest number holds it, and every other one watches the
// node before its own, and no more, so a release wakes one waiter. Numbers begin
// anew when a lock was not wanted for a while; the token is the transaction that
// made the node, which never does. The nodes of locks are containers: the servers
// remove those that are empty, once a minute. What stays is the prefix and "locks"
// below it.
//
// # How long a lease is valid
//
// All leases of a Locker are those of its one session, whose timeout is the TTL.
// The leader ends a session when it has not heard of it for that long. What it
// hears of the clients of other servers, it hears from these: each half tick they
// tell whose requests or pings they have had. The requests themselves, which they
// pass on at once, count for nothing there. So an answer proves that the session was
// alive, not that the leader counts its timeout from then.
//
// The Locker therefore sends a heartbeat each TTL/6, and counts the TTL, less the
// margin, from the last but two whose answer it has. Each is passed on in the order
// of what else a server tells the leader, so what was told in between has arrived:
// it takes TTL/3 for three of them, and half a tick is TTL/4 at most, since servers
// refuse timeouts below two ticks. Right after a heartbeat a lease is valid for
// 2/3 of the TTL, right before for half of it, less the margin.
//
// A heartbeat is a transaction, one that checks a version and changes nothing. A
// majority has to agree to it. A sync would be cheaper, but is answered by a leader
// that was deposed and doesn't know. It costs a line in the log of each server, six
// times per TTL and node.
//
// # What is not covered
//
// minSessionTimeout set below two ticks, or observers that have a follower for their
// leader and a TTL below three; data restored from a backup, by which tokens fall; a
// node that is deleted by hand, until its holder is told; a leader that stands still
// for more than the margin and whose follower is cut off in the moment when it goes
// on. Sessions are timed by a clock that nobody sets, but a server whose clock runs
// fast by more than the margin in a TTL ends leases before their holders do.
package zk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zookeeper/zk"

	"lanekeeper/lock"
)

// Config says which servers, and how locks are kept there. All nodes that share
// locks must agree on Prefix, and be the same user.
type Config struct {
	Servers            []string // host:port, of one ensemble
	Username, Password string   // of the scheme "digest"; then nodes are this user's alone. Empty: none, and nodes are everybody's
	TLS                *tls.Config

	// Prefix is the path of the node that everything is below, such as "/lanekeeper".
	// It is made if it is missing.
	Prefix string

	// TTL is the timeout of the session: how long a lock is kept for a node of which
	// nothing is heard. It must be one that the servers allow, which is from
	// minSessionTimeout to maxSessionTimeout: 2 and 20 times tickTime, unless they are
	// set. Margin is what clocks may differ in, over a TTL, and what a request may need
	// to its end after its lease has. 0 < Margin < TTL/3; TTL at least 500 ms.
	TTL, Margin time.Duration

	// Dial opens a connection; nil means TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	Log *slog.Logger

	wraps uint32 // 0: wrapsAt
}

var legalPrefix = regexp.MustCompile(`^(/[A-Za-z0-9_-]+)+$`)

func (c *Config) validate() error {
	switch {
	case len(c.Servers) == 0:
		return errors.New("no servers are given")
	case !legalPrefix.MatchString(c.Prefix):
		return fmt.Errorf("the prefix %q is no path of letters, digits, - and _, such as /lanekeeper", c.Prefix)
	case c.TTL < 500*time.Millisecond:
		return fmt.Errorf("a lease of %v is too short: at least 500ms", c.TTL)
	case c.TTL%time.Millisecond != 0:
		return fmt.Errorf("a lease of %v is not of whole milliseconds, as the servers count", c.TTL)
	case c.TTL > math.MaxInt32*time.Millisecond:
		return fmt.Errorf("a lease of %v is longer than servers can count", c.TTL)
	case c.Margin <= 0 || c.Margin >= c.TTL/3:
		return fmt.Errorf("a margin of %v is not between 0 and a third of the lease's %v", c.Margin, c.TTL)
	case c.Username == "" && c.Password != "":
		return errors.New("there is a password, and no user name")
	}
	for _, address := range c.Servers {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("the server %q is not host:port: %w", address, err)
		}
	}
	return nil
}

const (
	retryLeast = 10 * time.Millisecond // while the servers are away
	retryMost  = 500 * time.Millisecond
	dialLeast  = 100 * time.Millisecond // from one attempt to connect to the next
	wrapsAt    = math.MaxInt32 - 1<<20  // from here on a node's number may not tell who came first
)

// Locker is a node's way to the locks of an ensemble.
type Locker struct {
	config Config
	root   string // the node that locks are below
	acl    []zk.ACL
	conn   *zk.Conn
	events <-chan zk.Event // closed when the client has ended
	life   context.Context
	kill   context.CancelFunc
	gone   context.Context // ended when the client is closed: nobody dials or asks again after that
	leave  context.CancelFunc
	pulse  chan struct{}  // a heartbeat is wanted now
	first  chan error     // what the first attempts to connect came to
	ended  chan struct{}  // closed when Close is through
	wg     sync.WaitGroup // the heart, each Acquire, each place, each lease until the server knows of its end
	hosts  hosts

	watching  atomic.Bool   // the client may have watches
	beginning chan struct{} // holds one element while nobody begins a lease for records

	mu      sync.Mutex    // guards the rest
	last    uint64        // of the numbers of places and tenants
	tenant  *tenant       // nil: none was begun
	session *session      // nil: none
	news    chan struct{} // closed, and made anew, when who waits should look again
	watches map[string]<-chan zk.Event
	sweep   int // how many watches there may be until those that ended are dropped
	held    map[*lease]struct{}
	wires   map[*wire]struct{}
	failure map[string]error // of the last attempt to use a server
	closed  bool
}

// Open connects to the servers and returns when they can be used. It refuses servers
// that allow no session with a timeout of TTL, or don't let this user make nodes below
// the prefix. ctx bounds Open alone.
func Open(ctx context.Context, config Config) (*Locker, error) {
	if config.wraps == 0 {
		config.wraps = wrapsAt
	}
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("zookeeper %v: %w", config.Servers, err)
	}
	if config.Dial == nil {
		config.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	l := &Locker{
		config: config, root: config.Prefix + "/locks", acl: zk.WorldACL(zk.PermAll),
		beginning: make(chan struct{}, 1), pulse: make(chan struct{}, 1), first: make(chan error, 1), ended: make(chan struct{}),
		news: make(chan struct{}), watches: make(map[string]<-chan zk.Event), held: make(map[*lease]struct{}), wires: make(map[*wire]struct{}), failure: make(map[string]error),
	}
	l.beginning <- struct{}{}
	if config.Username != "" {
		l.acl = zk.AuthACL(zk.PermAll)
	}
	l.life, l.kill = context.WithCancel(context.Background())
	l.gone, l.leave = context.WithCancel(context.Background())
	err := l.connect(ctx)
	if err == nil {
		err = l.within(ctx, l.check)
	}
	if err != nil {
		if l.conn != nil {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			l.Close(ctx) //nolint:errcheck // there is nothing to release
		}
		return nil, fmt.Errorf("zookeeper %v: %w", config.Servers, explain(err, &config))
	}
	l.wg.Go(l.beatAll) // ends with life
	return l, nil
}

// within runs what knows no context, and doesn't wait for it longer than ctx says.
func (l *Locker) within(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	l.wg.Go(func() { done <- f() }) // ends when the client is closed
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("it does not answer: %w", ctx.Err())
	}
}

// check does once what locks need, so that what is forbidden shows now.
func (l *Locker) check() error {
	if l.config.Username != "" {
		if err := l.conn.AddAuth("digest", []byte(l.config.Username+":"+l.config.Password)); err != nil {
			return err
		}
	}
	if err := l.makeRoot(); err != nil {
		return err
	}
	if err := l.ask(); err != nil {
		return err
	}
	probe, err := l.conn.Create(l.root+"/probe-", nil, zk.FlagEphemeralSequential, l.acl)
	if err != nil {
		return err
	}
	return l.conn.Delete(probe, -1)
}

// makeRoot makes the node that locks are below, and those above it.
func (l *Locker) makeRoot() error {
	for i := 1; i <= len(l.root); i++ {
		if i < len(l.root) && l.root[i] != '/' {
			continue
		}
		// Who may not make this one may be allowed to make the next, so look first.
		is, _, err := l.conn.Exists(l.root[:i])
		if err == nil && !is {
			_, err = l.conn.Create(l.root[:i], nil, zk.FlagPersistent, l.acl)
		}
		if err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return err
		}
	}
	return nil
}

// makeParent makes the node of a lock. The servers remove it when it has been empty
// for a while.
func (l *Locker) makeParent(parent string) error {
	_, err := l.conn.CreateContainer(parent, nil, zk.FlagContainer, l.acl)
	switch {
	case errors.Is(err, zk.ErrNoNode):
		return l.makeRoot()
	case errors.Is(err, zk.ErrNodeExists):
		return nil
	}
	return err
}

// explain says what to do about an error where the server's word does not.
func explain(err error, config *Config) error {
	switch {
	case errors.Is(err, zk.ErrNoAuth) && config.Username != "":
		return fmt.Errorf("user name and password: they are not those of who made %s, or are not allowed to use it: %w", config.Prefix, err)
	case errors.Is(err, zk.ErrNoAuth):
		return fmt.Errorf("a user name and password are needed for %s: %w", config.Prefix, err)
	case errors.Is(err, zk.ErrAuthFailed), errors.Is(err, zk.ErrInvalidACL):
		return fmt.Errorf("the server does not take the scheme digest, that is user name and password: %w", err)
	}
	return err
}

// escape makes the name of a lock one that a node may have, and that no other lock
// has. "%" alone, for the empty name, is what no other name becomes.
func escape(name string) string {
	if name == "" {
		return "%"
	}
	var escaped []byte
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			escaped = append(escaped, c)
		default:
			escaped = fmt.Appendf(escaped, "%%%02X", c)
		}
	}
	return string(escaped)
}

// Close implements lock.Locker. It takes up to a second longer than ctx says if the
// server does not answer.
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
	t := l.tenant
	l.mu.Unlock()
	l.kill() // what waits, and the heart
	if t != nil {
		t.end() // its node goes with the session
	}
	var errs []error
	for _, of := range held {
		errs = append(errs, of.Release(ctx))
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
	l.hangUp()
	<-done
	close(l.ended)
	return errors.Join(errs...)
}

// hangUp ends the session, if the server can be told, and the client.
func (l *Locker) hangUp() {
	l.leave()
	l.conn.Close() // returns within a second: what it waits for is that long
	l.cut()        // the client goes on reading from a server that does not answer
	for range l.events {
	}
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
