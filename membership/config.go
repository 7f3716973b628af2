package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"

	"lanekeeper/ring"
)

// Config says who a node is and how it finds the others.
type Config struct {
	// Self is this process: a stable name, and an incarnation that is higher
	// than every earlier one of that name, from the clock for example.
	Self ring.Member
	// Layout names the cluster, and is what all its members agree on. Nodes
	// with another one cannot join.
	Layout ring.Layout

	// Listen is ip:port for TCP and UDP; no ip is all of them, port 0 draws
	// one. Ignored with a Transport.
	Listen string
	// Advertise is where others reach this node: ip or ip:port. Empty: the
	// address listened on, or if that is all of them, the private address of
	// the interface with the default route.
	Advertise string
	// Keys encrypt gossip (AES-256, 32 bytes each). The first encrypts, all
	// decrypt: to rotate, add the new key last everywhere, move it to the
	// front everywhere, then drop the old one. None: gossip is in the clear.
	Keys [][]byte

	// What is announced to the others.
	PeerAddress string // host:port of the hop
	Zone        string
	ConfigHash  string
	Version     string

	// Seeds are where to look for the cluster: host:port or dns+host:port (all
	// addresses of the host), or dnssrv+name (all targets of the SRV record).
	// This node's own address among them is skipped. None: this node is the
	// first of its cluster.
	Seeds    []string
	Resolver Resolver // nil: net.DefaultResolver
	// JoinTimeout is how long a node without a view looks for a seed before it
	// goes on alone. 0: it never does.
	JoinTimeout time.Duration
	// Wary has this node begin alone, after JoinTimeout, only if the seeds hold no
	// address but its own: others that do not answer may be there all the same.
	Wary   bool
	Rejoin time.Duration // between two looks at the seeds, on average

	Settle      time.Duration // changes within it are one change; 0: each is published at once
	Profile     Profile
	MinMembers  int           // for View.Enough
	ForgetAfter time.Duration // how long the dead are shown

	// Transport carries gossip; it is shut down by Stop, and by a Start that
	// fails. nil: real sockets.
	Transport memberlist.Transport
	Log       *slog.Logger // nil: slog.Default
}

// Resolver is the part of net.Resolver that finds seeds.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Default returns the configuration that a cluster of few nodes on a local
// network wants. Self, Layout, PeerAddress and Seeds are missing.
func Default() Config {
	return Config{
		Listen:      ":7943",
		JoinTimeout: 30 * time.Second,
		Rejoin:      30 * time.Second,
		Settle:      500 * time.Millisecond,
		Profile:     LAN,
		MinMembers:  1,
		ForgetAfter: time.Minute,
	}
}

// Limits of what is announced; together they fit into memberlist's 512 bytes.
const (
	peerAddressMax = 255 // what one length byte can say; longer names exist, but not for hosts
	zoneMax        = 63
	configHashMax  = 64
	versionMax     = 64
	keyBytes       = 32
)

// Validate says in a sentence each what cannot work.
func (c Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if err := validName(c.Self.Name); err != nil {
		errs = append(errs, err)
	}
	if c.Self.Incarnation == 0 {
		wrong("the node has no incarnation")
	}
	if c.Layout.Cluster == "" || len(label(c.Layout.Cluster)) > memberlist.LabelMaxSize {
		wrong("a cluster's name has 1 to %d bytes, not %d", memberlist.LabelMaxSize-len(label("")), len(c.Layout.Cluster))
	}
	if err := c.Layout.Validate(); err != nil {
		errs = append(errs, err)
	}
	if c.Transport == nil {
		if _, err := parseListen(c.Listen); err != nil {
			errs = append(errs, err)
		}
	}
	if _, _, err := parseAdvertise(c.Advertise); err != nil {
		errs = append(errs, err)
	}
	for i, key := range c.Keys {
		if len(key) != keyBytes {
			wrong("gossip key %d has %d bytes, want %d", i+1, len(key), keyBytes)
		}
	}
	for _, field := range []struct {
		name, value string
		max         int
	}{
		{"peer address", c.PeerAddress, peerAddressMax}, {"zone", c.Zone, zoneMax},
		{"config hash", c.ConfigHash, configHashMax}, {"version", c.Version, versionMax},
	} {
		if err := printable(field.value, field.max); err != nil {
			wrong("the %s %w", field.name, err)
		}
	}
	for _, s := range c.Seeds {
		if _, err := parseSeed(s); err != nil {
			errs = append(errs, err)
		}
	}
	if c.JoinTimeout < 0 || c.Settle < 0 || c.ForgetAfter < 0 || c.MinMembers < 0 {
		wrong("join timeout, settle, forget-after and min-members cannot be negative")
	}
	if c.Rejoin <= 0 {
		wrong("rejoin is %v: a split that heals would stay a split", c.Rejoin)
	}
	if _, err := c.Profile.settings(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// label tells this cluster's packets from another's on the same port.
func label(cluster string) string { return "lanekeeper/" + cluster }

// printable refuses what would tear a log line or a terminal.
func printable(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("has %d bytes, more than %d", len(s), limit)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%q holds what cannot be printed", s)
	}
	return nil
}

// parseListen reads ip:port; an empty ip is the unspecified IPv6 address, which
// listens on both families.
func parseListen(s string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("gossip cannot listen on %q: want ip:port or :port", s)
	}
	if host == "" {
		host = "::"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("gossip cannot listen on %q: %q is not an IP address", s, host)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("gossip cannot listen on %q: %q is not a port", s, port)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), nil
}
