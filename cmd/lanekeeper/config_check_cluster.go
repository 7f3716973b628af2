package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// makeSecret is how a person gets a secret.
const makeSecret = "openssl rand -base64 32"

// listeners are what a member opens besides what every node does. Gossip has
// its port for UDP as well.
func (c *ClusterConfig) listeners() []listener {
	return []listener{{"cluster.gossip.listen", c.Gossip.Listen}, {"cluster.peer.listen", c.Peer.Listen}}
}

// checkAdmin asks for a token where others than this machine can come.
func (c *checker) checkAdmin() {
	admin := &c.cfg.Admin
	if len(admin.AllowedHosts) == 0 {
		c.errorf("admin.allowed_hosts", "required: at least one, like localhost; requests by any other name are refused")
	}
	c.checkTLS("admin.tls", admin.TLS)
	if admin.Pprof && admin.TokenFile == "" {
		c.errorf("admin.token_file", "required, since admin.pprof is on: put a token (openssl rand -hex 32) into a file")
		return
	}
	local := true
	for i, host := range admin.AllowedHosts {
		bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if !isHost(bare) {
			c.errorf(fmt.Sprintf("admin.allowed_hosts[%d]", i), "%q is neither a host name nor an IP address; write it without a port", host)
		}
		local = local && isLoopbackHost(bare)
	}
	if isLoopback(admin.Listen) || c.report.blames("admin.listen") {
		return
	}
	if admin.TokenFile == "" {
		c.errorf("admin.token_file", "required, since admin.listen (%s) can be reached from other machines: put a token (openssl rand -hex 32) into a file, or listen on 127.0.0.1", admin.Listen)
	}
	if admin.TokenFile != "" && admin.TLS == (TLSConfig{}) {
		c.warnf("admin.tls", "admin.listen (%s) can be reached from other machines, and tokens are sent to it in plain text: give cert_file and key_file, unless the network is yours alone", admin.Listen)
	}
	if local && admin.ownAddress() == "" {
		c.warnf("admin.allowed_hosts", "admin.listen (%s) can be reached from other machines, but only by names of this one: add those that they use", admin.Listen)
	}
}

func (c *checker) checkCluster() {
	cluster := &c.cfg.Cluster
	if !cluster.Enabled { // else checkListeners has
		for _, l := range cluster.listeners() {
			if err := checkAddress(l.address); err != nil {
				c.errorf(l.path, "%v", err)
			}
		}
	}
	if host, _, _ := net.SplitHostPort(cluster.Gossip.Listen); host != "" && !isIP(host) {
		c.errorf("cluster.gossip.listen", "%q is a name, and gossip listens on addresses: write ip:port or :port", host)
	}
	if err := checkAdvertised(cluster.Gossip.Advertise, isIP); err != nil {
		c.errorf("cluster.gossip.advertise", "%v", err)
	}
	if err := checkAdvertised(cluster.Peer.Advertise, isHost); err != nil {
		c.errorf("cluster.peer.advertise", "%v", err)
	}
	c.checkPeerTLS()
	c.checkJoin()
	if cluster.Enabled {
		c.checkSecrets()
		c.checkMinMembers()
	}
}

// checkAdvertised judges an address that others are told to use. Empty is none.
func checkAdvertised(address string, fits func(host string) bool) error {
	if address == "" {
		return nil
	}
	if err := checkAddress(address); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(address)
	switch {
	case everyAddress(host):
		return fmt.Errorf("%q names no machine: write the address at which other members reach this one", address)
	case !fits(host):
		return fmt.Errorf("%q is a name, and gossip knows members by their addresses: write ip:port", host)
	}
	return checkPort(port, 1)
}

// isIP says whether host is an address that means the same on every machine.
func isIP(host string) bool {
	address, err := netip.ParseAddr(host)
	return err == nil && address.Zone() == ""
}

// checkPeerTLS asks for all of it or nothing: a member proves itself to the
// other by its certificate, and judges the other's by the authorities.
func (c *checker) checkPeerTLS() {
	tls := c.cfg.Cluster.Peer.TLS
	if tls == (PeerTLSConfig{}) {
		return
	}
	for name, value := range map[string]string{"cert_file": tls.CertFile, "key_file": tls.KeyFile, "client_ca_file": tls.ClientCAFile} {
		if value == "" {
			c.errorf("cluster.peer.tls."+name, "required: each member proves itself to the other, so it wants cert_file, key_file and client_ca_file, or none of them")
		}
	}
}

func (c *checker) checkJoin() {
	cluster := &c.cfg.Cluster
	for i, member := range cluster.Join {
		path := fmt.Sprintf("cluster.join[%d]", i)
		if err := checkSeed(member); err != nil {
			c.errorf(path, "%v", err)
		} else if slices.Contains(cluster.Join[:i], member) {
			c.errorf(path, "%s is given twice", member)
		}
	}
	if cluster.Enabled && len(cluster.Join) == 0 {
		c.warnf("cluster.join", "nobody to join: nodes that all start like this are each a cluster of its own, with an order of its own. Name some members; this node may be among them")
	}
}

// The prefixes of a member whose addresses are found by DNS.
const (
	seedDNS = "dns+"
	seedSRV = "dnssrv+"
)

var errSeed = errors.New("write host:port, dns+host:port for every address of a name, or dnssrv+name for an SRV record")

// checkSeed judges an element of cluster.join.
func checkSeed(text string) error {
	prefix, rest, found := strings.Cut(text, "+")
	switch {
	case found && prefix+"+" == seedSRV && isHost(rest):
		return nil
	case found && prefix+"+" == seedSRV && strings.Contains(rest, ":"):
		return fmt.Errorf("%s: an SRV record says the port: write dnssrv+name", text)
	case found && prefix+"+" != seedDNS:
		return fmt.Errorf("%q is not a member: %w", text, errSeed)
	case !found:
		rest = text
	}
	host, port, err := net.SplitHostPort(rest)
	if err != nil || !isHost(host) || everyAddress(host) {
		return fmt.Errorf("%q is not a member: %w", text, errSeed)
	}
	return checkPort(port, 1)
}

// checkSecrets asks for what keeps strangers out. Whoever could join would get
// other people's requests, and could stop this cluster from keeping any order.
func (c *checker) checkSecrets() {
	cluster := &c.cfg.Cluster
	if cluster.SecretFile != "" || cluster.private() {
		return
	}
	why := fmt.Sprintf("%s and %s can be reached from other machines", cluster.Gossip.Listen, cluster.Peer.Listen)
	switch gossip, peer := cluster.Gossip.SecretFile != "", cluster.Peer.TLS != (PeerTLSConfig{}); {
	case gossip && peer:
	case gossip:
		c.errorf("cluster.secret_file", "required, since %s, and gossip.secret_file is for gossip alone: put a line of %s into a file that every member has, or give peer.tls", why, makeSecret)
	case peer:
		c.errorf("cluster.secret_file", "required, since %s, and peer.tls is for peer alone: put a line of %s into a file that every member has; it may also be gossip.secret_file", why, makeSecret)
	default:
		c.errorf("cluster.secret_file", "required, since %s: put a line of %s into a file that every member has", why, makeSecret)
	}
}

// private says whether only this machine can reach the cluster's listeners.
func (c *ClusterConfig) private() bool {
	for _, address := range []string{c.Gossip.Listen, c.Gossip.Advertise, c.Peer.Listen, c.Peer.Advertise} {
		if address != "" && !isLoopback(address) {
			return false
		}
	}
	return true
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && isLoopbackHost(host)
}

func isLoopbackHost(host string) bool {
	address, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && address.Unmap().IsLoopback()
}

// checkMinMembers warns of a guard that guards nothing, as far as the members
// can be counted here: a name may stand for any number.
func (c *checker) checkMinMembers() {
	cluster := &c.cfg.Cluster
	if slices.ContainsFunc(cluster.Join, func(member string) bool { return strings.Contains(member, "+") }) {
		return
	}
	if n := len(cluster.Join); n > 1 && 2*cluster.MinMembers <= n {
		c.warnf("cluster.min_members", "%d is not more than half of the %d members in join, so it guards nothing: when the network splits, both sides run requests of the same keys. Write %d", cluster.MinMembers, n, n/2+1)
	}
}
