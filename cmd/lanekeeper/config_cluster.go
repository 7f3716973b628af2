package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"lanekeeper/admin"
)

// clusterSettings is the cluster section as those need it who build what it
// describes: plain values, with what its secret files hold.
type clusterSettings struct {
	node, zone string // this member
	name       string
	partitions int
	minMembers int
	join       []string // host:port, dns+host:port, dnssrv+name

	settle         time.Duration
	rejoin         time.Duration
	joinTimeout    time.Duration
	handoffTimeout time.Duration
	forgetAfter    time.Duration
	acquireTimeout time.Duration // of the coordinator
	leaseValid     time.Duration // of its leases, from a renewal on; 0: not known
	store          string        // the coordinator, for people
	wary           bool          // never alone while others may be there

	nativeHistograms bool // also as Prometheus' native histograms

	gossip gossipSettings
	peer   peerSettings
}

type gossipSettings struct {
	listen    string
	advertise string   // empty: found out
	profile   string   // lan, wan, local
	secrets   [][]byte // 32 bytes each; the first is used, all are accepted. None: gossip is open
}

// peerSettings has certificates or secrets, or, on loopback, neither.
type peerSettings struct {
	listen    string
	advertise string   // empty: found out
	secrets   [][]byte // as of gossip; none with certificates
	tls       TLSConfig
}

// clusterSettings reads the secret files of a configuration that Load found no
// error in, whose cluster is enabled. An error names the setting and never what
// is in a file.
//
// Load leaves these files alone, although it would be the place to complain
// about them: a configuration is validated, shown and compared at desks and in
// pipelines, where secrets ought not to be. So whoever starts a node comes here
// before it opens a port.
func (c *Config) clusterSettings() (*clusterSettings, error) {
	name, err := c.memberName()
	if err != nil {
		return nil, err
	}
	cluster := &c.Cluster
	s := &clusterSettings{
		node:             name,
		zone:             c.Node.Zone,
		name:             cluster.Name,
		partitions:       cluster.Partitions,
		minMembers:       cluster.MinMembers,
		join:             cluster.Join,
		settle:           time.Duration(cluster.Settle),
		rejoin:           time.Duration(cluster.Rejoin),
		joinTimeout:      time.Duration(cluster.JoinTimeout),
		handoffTimeout:   time.Duration(cluster.HandoffTimeout),
		forgetAfter:      time.Duration(cluster.ForgetAfter),
		nativeHistograms: c.Metrics.NativeHistograms,
		gossip:           gossipSettings{listen: cluster.Gossip.Listen, advertise: cluster.Gossip.Advertise, profile: cluster.Gossip.Profile},
		peer: peerSettings{
			listen: cluster.Peer.Listen, advertise: cluster.Peer.Advertise,
			tls: TLSConfig(cluster.Peer.TLS),
		},
	}
	var secrets [][]byte
	if cluster.SecretFile != "" {
		if secrets, err = readSecrets(cluster.SecretFile); err != nil {
			return nil, fmt.Errorf("cluster.secret_file: %w", err)
		}
	}
	s.gossip.secrets = secrets
	if cluster.Gossip.SecretFile != "" {
		if s.gossip.secrets, err = readSecrets(cluster.Gossip.SecretFile); err != nil {
			return nil, fmt.Errorf("cluster.gossip.secret_file: %w", err)
		}
	}
	if s.peer.tls == (TLSConfig{}) {
		s.peer.secrets = secrets
	}
	s.acquireTimeout = time.Duration(c.Coordinator.AcquireTimeout)
	s.leaseValid = c.Coordinator.validFor()
	if store, ok := c.Coordinator.store(); ok {
		s.store = store.kind + " at " + userinfo.ReplaceAllString(strings.Join(store.addresses, ", "), "//***@")
	}
	s.wary = c.strict() // alone it could only wait for the leases of those it does not see
	return s, nil
}

// memberName is the name by which the ring places this node. The host's name is
// taken only if it can be its own: two nodes of one name would push each other
// out of the cluster.
func (c *Config) memberName() (string, error) {
	if c.Node.Name != "" {
		return c.Node.Name, nil
	}
	host, err := os.Hostname()
	if err == nil {
		err = checkHostName(host)
	}
	if err != nil {
		return "", fmt.Errorf("node.name: %w: set it, to another name on each node", err)
	}
	return host, nil
}

// checkHostName says why the name of a host is not one to go by.
func checkHostName(host string) error {
	if first, _, _ := strings.Cut(host, "."); host == "" || strings.EqualFold(first, "localhost") {
		return errors.New("this host has no name of its own")
	}
	return configSettings["node.name"].check(host)
}

// adminConfig reads the token file of a configuration that Load found no error
// in; see clusterSettings for why so late.
func (c *Config) adminConfig() (admin.Config, error) {
	config := admin.Config{AllowedHosts: c.Admin.hosts(), UI: c.Admin.UI, Pprof: c.Admin.Pprof}
	if c.Admin.TokenFile == "" {
		return config, nil
	}
	tokens, err := readTokens(c.Admin.TokenFile)
	if err != nil {
		return admin.Config{}, fmt.Errorf("admin.token_file: %w", err)
	}
	config.Tokens = tokens
	return config, nil
}

// hosts are what a request's Host may be: what the list says, and the very address of listen. A
// page can give a name of its own any address, but no browser sends an address as the Host of
// a page that has a name.
func (a *AdminConfig) hosts() []string {
	if host := a.ownAddress(); host != "" && !slices.Contains(a.AllowedHosts, host) {
		return append(slices.Clone(a.AllowedHosts), host)
	}
	return a.AllowedHosts
}

// ownAddress is the IP address in listen, or empty if that is a name, or every address.
func (a *AdminConfig) ownAddress() string {
	host, _, err := net.SplitHostPort(a.Listen)
	if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() {
		return ""
	}
	return host
}

// strict reports whether any route rests on the coordinator.
func (c *Config) strict() bool {
	return slices.ContainsFunc(c.Routes, RouteConfig.isStrict)
}
