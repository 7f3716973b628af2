package upstream

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Conn is a connection to a target.
type Conn interface {
	net.Conn
	// Usable reports whether an idle connection is still open, and silent.
	Usable() bool
}

// Wrap makes a Conn of a new connection, with TLS if secure is not nil: then the
// handshake is to be done by the given time.
type Wrap func(conn net.Conn, secure *tls.Config, by time.Time) (Conn, error)

// Why a request gets no target. Nothing was sent.
var (
	ErrNone      = errors.New("no target is available")
	ErrQueueFull = errors.New("too many requests wait for this upstream")
	ErrWaited    = errors.New("every connection or permit of this upstream was in use for too long")
)

// Upstream is a service. Its methods are safe for concurrent use.
type Upstream struct {
	Config
	wrap     Wrap
	log      *slog.Logger
	material *material // nil: no target has TLS
	sources  []*source

	life   context.Context // of the goroutines
	end    context.CancelFunc
	starts sync.Once
	wg     sync.WaitGroup

	mu       sync.Mutex // guards the rest, and the state of all targets
	closed   bool
	running  bool // started, and not closed
	targets  []*Target
	version  uint64 // of who is available: rises with every change
	unknown  int    // sources whose first lookup is not done
	turn     uint32 // of the round robin, and of ties
	limit    limiter
	waiting  list.List // of *waiter
	sweeping bool      // idle connections will be looked at
	sweeps   uint64    // how often that was done
}

// New returns an Upstream. It starts nothing, but reads the files of Config.TLS.
func New(config Config, wrap Wrap, log *slog.Logger) (*Upstream, error) {
	u := &Upstream{Config: config, wrap: wrap, log: log.With("upstream", config.Name), limit: newLimiter(config.Limit)}
	u.life, u.end = context.WithCancel(context.Background())
	secure := false
	for _, text := range config.Targets {
		address, err := ParseTarget(text)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", config.Name, err)
		}
		s := &source{address: address}
		if !address.Lookup {
			s.targets = []*Target{newTarget(u, text, address)}
		} else {
			u.unknown++
		}
		u.sources = append(u.sources, s)
		secure = secure || address.Secure
	}
	if len(u.sources) == 0 {
		return nil, fmt.Errorf("upstream %s has no targets", config.Name)
	}
	if secure {
		var err error
		if u.material, err = newMaterial(config.TLS, u.log); err != nil {
			return nil, fmt.Errorf("upstream %s: %w", config.Name, err)
		}
	}
	u.gather()
	return u, nil
}

// Start begins to look names up and to check health, until Close. It may be called again.
func (u *Upstream) Start() {
	u.starts.Do(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.closed {
			return
		}
		u.running = true
		for _, s := range u.sources {
			if s.address.Lookup {
				u.wg.Go(func() { u.follow(s) }) // ends with u.life
			}
		}
		for _, t := range u.targets {
			u.watch(t)
		}
	})
}

// Close ends what Start began, and closes the idle connections. Requests that have one are
// left alone, and those that still come are served, each by a connection of its own.
func (u *Upstream) Close() {
	u.end()
	u.mu.Lock()
	u.closed, u.running = true, false
	var idle []Conn
	for _, t := range u.targets {
		idle = t.drop(idle)
	}
	u.admit()
	u.mu.Unlock()
	closeAll(idle)
	u.wg.Wait()
}

// Host is what a request that names no host is given where its target is not known yet.
func (u *Upstream) Host() string { return u.sources[0].address.Host }

func closeAll(conns []Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// Lease is what a request has of an upstream, from Acquire to Done.
type Lease struct {
	Target *Target
	Conn   Conn
	Waited time.Duration // for its place

	upstream *Upstream
	permit   permit
	measured bool // how long it takes says something about the service
	probes   bool // of a circuit that is half open
	said     word // the first that was said of it
}

// word is what became of a request.
type word uint8

const (
	nothing word = iota // of its target's doing
	answered
	failed
	late
)

// Request is what a request asks with.
type Request struct {
	Key      []byte
	Until    time.Time // it does not wait longer
	Measured bool      // it ends when the service is done with it
	Looks    bool      // who asks looks whether an idle connection is usable, and calls Renew if not
}

// Acquire takes a place at a target and a connection to it, an idle one if one is usable.
// Done must follow unless it fails.
func (u *Upstream) Acquire(l *Lease, r *Request) error {
	if err := u.enter(l, r); err != nil {
		return err
	}
	if l.Conn != nil && r.Looks {
		return nil
	}
	return u.connect(l)
}

// Renew puts a usable connection in the place of one that turned out not to be. If it fails,
// the lease is over, and Done must not follow.
func (l *Lease) Renew() error {
	l.Conn.Close()
	l.Conn = l.upstream.idle(l.Target)
	return l.upstream.connect(l)
}

// connect replaces l's connection until it is usable.
func (u *Upstream) connect(l *Lease) error {
	for l.Conn != nil && !l.Conn.Usable() {
		l.Conn.Close()
		l.Conn = u.idle(l.Target)
	}
	if l.Conn != nil {
		return nil
	}
	conn, err := u.dial(context.Background(), l.Target, u.ConnectTimeout)
	if err != nil {
		l.Failed()
		l.Done(false)
		return fmt.Errorf("%s: %w", l.Target.Name, err)
	}
	l.Conn = conn
	return nil
}

func (u *Upstream) idle(t *Target) Conn {
	u.mu.Lock()
	defer u.mu.Unlock()
	return t.pop()
}

// Answered says that the target has answered the request.
func (l *Lease) Answered() { l.say(answered) }

// Failed says that the target has failed the request, in one of the ways that count.
func (l *Lease) Failed() { l.say(failed) }

// Late says that it has failed by not answering in time.
func (l *Lease) Late() { l.say(late) }

// say takes the first word on a request. That one was answered, which is what nearly always
// happens, can wait until Done.
func (l *Lease) say(what word) {
	if l.said != nothing {
		return
	}
	l.said = what
	if what == answered && !l.probes {
		return
	}
	u := l.upstream
	u.mu.Lock()
	var c change
	if l.Target.circuit.judge(&u.Circuit, what != answered, l.probes, time.Now()) {
		c = u.turned(l.Target, what != answered)
	}
	l.probes = false
	u.mu.Unlock()
	u.tell(c)
}

// Done gives the place back, and the connection to be used again, or to be closed.
func (l *Lease) Done(reuse bool) {
	u, t := l.upstream, l.Target
	u.mu.Lock()
	t.pending--
	if l.probes { // it ended without a word: the next one tries
		t.circuit.probing = false
	}
	if reuse = reuse && !u.closed && t.serves(); reuse {
		t.push(l.Conn)
		u.sweepLater()
	}
	if l.said == answered {
		t.circuit.answered()
	}
	u.limit.give(l.permit, l.measured && l.said != nothing && l.said != failed)
	u.admit()
	u.mu.Unlock()
	if !reuse && l.Conn != nil {
		l.Conn.Close()
	}
}

// change is what is to be done about a target that has turned, when u.mu is free again.
type change struct {
	target    *Target // nil: none has
	condition string
	level     slog.Level
	idle      []Conn // to be closed
}

// turned notes that t has become available, or no longer is.
func (u *Upstream) turned(t *Target, away bool) change {
	u.version++
	c := change{target: t, condition: t.condition(time.Now()), level: slog.LevelInfo}
	if away {
		c.idle, c.level = t.drop(nil), slog.LevelWarn
	} else {
		t.warming = time.Now()
	}
	u.admit()
	return c
}

// tell is not for the holder of u.mu: to write a log may take long.
func (u *Upstream) tell(c change) {
	if c.target == nil {
		return
	}
	closeAll(c.idle)
	u.log.Log(u.life, c.level, "a target of an upstream is "+c.condition, "event", "upstream-target", "target", c.target.Name)
}
