package upstream

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Config is a named set of interchangeable targets. The zero value of each policy is off.
type Config struct {
	Name string

	// Targets are http://host:port, https://host:port, unix:///path, and dns+http:// or
	// dns+https://host:port, which is every address behind the name.
	Targets        []string
	Balance        Balance
	ConnectTimeout time.Duration // of dialling
	MaxConnections int           // per target; 0 = no limit
	IdleTimeout    time.Duration // kept below the service's own keep-alive
	Queue          int           // requests that wait for a place; beyond: ErrQueueFull
	DNSRefresh     time.Duration // of dns+ targets
	SlowStart      time.Duration // in which a new or recovered target comes to its whole share

	Health  Health
	Circuit Circuit
	Limit   Limit
	TLS     TLS

	// Dial opens a connection to a target's host:port, or a socket's path; nil means TCP
	// of both families, or the socket.
	Dial func(address string) (net.Conn, error)
	// Resolver looks dns+ names up; nil is the system's.
	Resolver Resolver
}

// Resolver finds the addresses behind a name. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Balance picks one of the available targets.
type Balance uint8

// The balancing policies.
const (
	LeastPending Balance = iota // fewest requests in flight from this node; ties take turns
	RoundRobin                  // in turn
	KeyHash                     // by the key, so that a key stays on its target; each has an order of its own in case that is away
)

// Health is the checks of targets by requests of the node's own.
type Health struct {
	Path     string        // of a GET that a healthy target answers with 2xx or 3xx; empty: nothing is checked
	Interval time.Duration // from one check to the next, a tenth more or less
	Timeout  time.Duration // of one check
	Fall     int           // failures in a row that make a target unavailable
	Rise     int           // successes in a row that make it available again
}

// Circuit is what the failures of requests do to a target.
type Circuit struct {
	Failures int           // in a row, that open it; 0 = never
	OpenFor  time.Duration // then one request at a time is let through
}

// Limit bounds the requests in flight at all targets together.
type Limit struct {
	Mode LimitMode
	Max  int
	Min  int // of Adaptive
}

// LimitMode is how the bound is found.
type LimitMode uint8

// The modes.
const (
	Unlimited LimitMode = iota
	Fixed               // Max
	Adaptive            // between Min and Max, by whether the service's answers get slower
)

// TLS is what https targets need.
type TLS struct {
	CAFile            string // authorities; empty: the system's
	CertFile, KeyFile string // the node's certificate; empty: none
	ServerName        string // that the target's certificate is for; empty: the target's host
}
