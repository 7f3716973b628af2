// Package etcd keeps locks in an etcd cluster. See the lock package for what a lock
// promises; this is what it rests on here.
//
// A node has one etcd lease, its session. Who wants a lock writes a key of its own
// below the lock's name, under that lease. The keys of a name are its queue, in the
// order of their creation: the first one holds the lock, and its revision is the
// token. Each other one watches the key before it, and only that, so the end of a
// place wakes one node. A dead node's keys end with its session.
//
// It holds as long as a majority of the members keeps what it acknowledged. No wall
// clock takes part: leases are counted by the leader's monotonic clock, and begin anew
// when another member becomes leader, so a crash may cost twice the TTL.
//
// # Renewal
//
// etcd answers the renewal of a lease without asking a majority, so a leader that
// stood still and has been replaced may answer one, when it goes on, for a lease that
// its successor does not know to be renewed. Each renewal is therefore followed by a
// read that a majority has to confirm; if the leaders' term has changed between the
// two, the renewal counts for nothing and is made again. That read also looks at the
// keys of what is held: if somebody deleted one, its lease is lost.
//
// Servers before 3.4.31 and 3.5.13 may end a lease while it is being renewed, when
// their leader waits long for its disk: the lock is then another's up to a TTL before
// its holder knows.
//
// # Requests that come late
//
// A request whose answer did not come may still be carried out, also after a later one
// that meant to undo it: what was cut off lies in the server's buffers. Places have
// numbers, rising within a session, and the session's own key names the lowest that
// may still be created; to give an uncertain place up is to delete its key and to
// raise that number, in one transaction. Else a key that nobody knows of would block
// its lock until the session ends.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"lanekeeper/lock"
)

// Config says which cluster, and how leases are kept there. All nodes that share
// locks must agree on Prefix and TTL.
type Config struct {
	Endpoints          []string // host:port, or URLs; at least one
	Username, Password string   // empty: none
	TLS                *tls.Config

	// Prefix begins every key. It must not be empty.
	Prefix string

	// TTL is how long a lock is kept for a holder of whom nothing is heard, in whole
	// seconds, at least 2. A lease is valid for TTL - Margin after the last renewal was
	// sent, and is renewed each TTL/3. Margin is what clocks may differ in, over a
	// TTL, and what a request may need to its end after its lease has. 0 < Margin < TTL/2.
	TTL, Margin time.Duration

	// Dial opens a connection; nil means TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	Log *slog.Logger

	options []grpc.DialOption // of tests
}

func (c *Config) validate() error {
	switch {
	case len(c.Endpoints) == 0:
		return errors.New("no endpoints are given")
	case c.Prefix == "":
		return errors.New("the key prefix is empty")
	case c.TTL < 2*time.Second || c.TTL%time.Second != 0:
		return fmt.Errorf("a lease of %v is not of whole seconds, at least 2, as the server counts", c.TTL)
	case c.Margin <= 0 || c.Margin >= c.TTL/2:
		return fmt.Errorf("a margin of %v is not between 0 and half of the lease's %v", c.Margin, c.TTL)
	}
	return nil
}

const (
	retryLeast = 10 * time.Millisecond // while the cluster is away
	retryMost  = 500 * time.Millisecond
)

// Locker is a node's way to the locks of a cluster.
type Locker struct {
	config Config
	client *clientv3.Client
	life   context.Context
	kill   context.CancelFunc
	gone   context.Context // ended when the session has been: nothing is freed after that
	leave  context.CancelFunc
	wg     sync.WaitGroup // the renewal, each Acquire, each key until the cluster knows of its end
	ended  chan struct{}  // closed when Close has done everything

	opening chan struct{} // holds one element while nobody makes a session

	mu      sync.Mutex // guards the rest
	session *session
	closed  bool
}

// Open connects to the cluster and returns when it can be used. ctx bounds Open alone.
func Open(ctx context.Context, config Config) (*Locker, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("etcd %s: %w", strings.Join(config.Endpoints, ", "), err)
	}
	client, err := connect(&config)
	if err != nil {
		return nil, fmt.Errorf("etcd %s: %w", strings.Join(config.Endpoints, ", "), explain(err))
	}
	l := &Locker{config: config, client: client, ended: make(chan struct{}), opening: make(chan struct{}, 1)}
	l.opening <- struct{}{}
	l.life, l.kill = context.WithCancel(context.Background())
	l.gone, l.leave = context.WithCancel(context.Background())
	if err = l.check(ctx); err == nil {
		err = l.insist(ctx, func(ctx context.Context) error { _, err := l.present(ctx); return err })
	}
	if err != nil {
		l.Close(ctx) //nolint:errcheck // there is nothing to release
		return nil, fmt.Errorf("etcd %s: %w", strings.Join(config.Endpoints, ", "), explain(err))
	}
	l.wg.Go(l.renewAll) // ends with life
	return l, nil
}

func connect(config *Config) (*clientv3.Client, error) {
	c := clientv3.Config{
		Endpoints: config.Endpoints, Username: config.Username, Password: config.Password, TLS: config.TLS,
		DialTimeout: max(config.TTL/3, time.Second), Logger: zap.NewNop(),
		// A connection that is dead and not closed is found by this. Servers refuse
		// to be asked more often than each 5 s.
		DialKeepAliveTime: max(config.TTL/3, 5*time.Second), DialKeepAliveTimeout: max(config.TTL/3, time.Second),
	}
	c.DialOptions = config.options
	if config.Dial != nil {
		c.DialOptions = append(c.DialOptions, grpc.WithContextDialer(config.Dial))
	}
	return clientv3.New(c)
}

// check asks whether there is a cluster that locks can be kept in.
func (l *Locker) check(ctx context.Context) error {
	var errs []error
	for _, endpoint := range l.config.Endpoints {
		asking, cancel := context.WithTimeout(ctx, max(l.config.TTL/2, time.Second))
		status, err := l.client.Status(asking, endpoint)
		if err == nil {
			cancel()
			return judge(status.Version)
		}
		if reason := l.probe(ctx, endpoint); reason != nil {
			err = reason // the client goes on trying, and does not say why
		}
		cancel()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// probe finds out why an endpoint cannot be asked.
func (l *Locker) probe(ctx context.Context, endpoint string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, address, found := strings.Cut(endpoint, "://")
	if !found {
		address = endpoint
	}
	dial := l.config.Dial
	if dial == nil {
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	conn, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if l.config.TLS == nil {
		return errors.New("what listens there does not answer as etcd does, or wants TLS")
	}
	config := l.config.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	if err := tls.Client(conn, config).HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	return errors.New("what listens there does not answer as etcd does")
}

// judge refuses versions that do not do what is asked of them here.
func judge(version string) error {
	numbers := strings.SplitN(version, ".", 3)
	if len(numbers) == 3 {
		major, _ := strconv.Atoi(numbers[0])
		minor, err := strconv.Atoi(numbers[1])
		if err == nil && (major > 3 || major == 3 && minor >= 4) {
			return nil
		}
	}
	return fmt.Errorf("it is version %s: at least 3.4 is needed", version)
}

// explain says what to do about an error where the client's word does not.
func explain(err error) error {
	switch text := err.Error(); {
	case errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserEmpty), strings.Contains(text, "user name is empty"):
		return fmt.Errorf("user name and password: %w", err)
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		return fmt.Errorf("it wants no user name and password, as its authentication is off: %w", err)
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("the user may not do what locks need, which is to read and write all keys that begin with the prefix: %w", err)
	case strings.Contains(text, "first record does not look like a TLS handshake"):
		return fmt.Errorf("it does not speak TLS there: %w", err)
	case strings.Contains(text, "connection refused"):
		return fmt.Errorf("nothing listens there: %w", err)
	case errors.Is(err, context.DeadlineExceeded), strings.Contains(text, "DeadlineExceeded"):
		return fmt.Errorf("it does not answer: %w", err)
	}
	return err
}

// queue is where the keys of a name are, in the order of its places. Names may be any
// bytes, and none may begin another's keys.
func (l *Locker) queue(name string) string {
	return l.config.Prefix + "locks/" + url.PathEscape(name) + "/"
}

// perTry bounds one question to the cluster.
func (l *Locker) perTry() time.Duration { return max(l.config.TTL/6, 50*time.Millisecond) }

// Close implements lock.Locker.
func (l *Locker) Close(ctx context.Context) error {
	l.mu.Lock()
	first, s := !l.closed, l.session
	l.closed = true
	l.mu.Unlock()
	if !first {
		select {
		case <-l.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.kill() // what waits, and the renewal
	var err error
	if s != nil {
		s.releaseAll()
		err = l.revoke(ctx, s) // ends all its keys at once
		s.end(endedThere)
	}
	l.leave()
	l.client.Close() //nolint:errcheck // it has nothing to lose
	l.wg.Wait()
	close(l.ended)
	return err
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
