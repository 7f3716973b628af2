package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/proxy/upstream"
)

var limitWords = map[string]upstream.LimitMode{
	"none": upstream.Unlimited, "fixed": upstream.Fixed, "adaptive": upstream.Adaptive,
}

func (u UpstreamConfig) proxyUpstream() proxy.Upstream {
	return proxy.Upstream{
		Name:           u.Name,
		Targets:        u.Targets,
		Balance:        balanceWords[u.Balance],
		ConnectTimeout: time.Duration(u.ConnectTimeout),
		MaxConnections: u.MaxConnections,
		IdleTimeout:    time.Duration(u.IdleTimeout),
		Queue:          u.Queue,
		DNSRefresh:     time.Duration(u.DNSRefresh),
		SlowStart:      time.Duration(u.SlowStart),
		Health: upstream.Health{
			Path:     u.Health.Path,
			Interval: time.Duration(u.Health.Interval),
			Timeout:  time.Duration(u.Health.Timeout),
			Fall:     u.Health.Fall,
			Rise:     u.Health.Rise,
		},
		Circuit: upstream.Circuit{Failures: u.Circuit.Failures, OpenFor: time.Duration(u.Circuit.OpenFor)},
		Limit:   upstream.Limit{Mode: limitWords[u.Limit.Mode], Max: u.Limit.Max, Min: u.Limit.Min},
		TLS:     upstream.TLS(u.TLS),
	}
}

func (c *checker) checkUpstreams() {
	first := make(map[string]string)
	for i := range c.cfg.Upstreams {
		u := &c.cfg.Upstreams[i]
		path := fmt.Sprintf("upstreams[%d]", i)
		c.checkName(first, path, u.Name)
		if len(u.Targets) == 0 {
			c.errorf(path+".targets", "required: at least one, like http://127.0.0.1:8080")
		}
		secure := c.checkTargets(path, u.Targets)
		if u.Limit.Mode == "adaptive" && u.Limit.Min > u.Limit.Max {
			c.errorf(path+".limit.min", "%d is more than limit.max (%d)", u.Limit.Min, u.Limit.Max)
		}
		if u.Limit.Mode != "none" && u.Queue == 0 {
			c.warnf(path+".queue", "nobody waits for limit: what is beyond it is refused")
		}
		c.checkUpstreamTLS(path+".tls", &u.TLS, secure)
	}
}

// checkTargets reports whether one of them has TLS.
func (c *checker) checkTargets(path string, targets []string) (secure bool) {
	seen := make(map[string]bool)
	for i, target := range targets {
		at := fmt.Sprintf("%s.targets[%d]", path, i)
		address, err := targetAddress(target)
		switch {
		case err != nil:
			c.errorf(at, "%v", err)
		case seen[address.Dial]:
			c.errorf(at, "%s is given twice", target)
		case address.Network == "tcp" && callsItself(c.cfg.Server.Listen, address.Dial):
			c.errorf(at, "%s is this node's own server.listen (%s): it would call itself", target, c.cfg.Server.Listen)
		}
		seen[address.Dial] = true
		secure = secure || address.Secure
	}
	return secure
}

func targetAddress(target string) (upstream.Address, error) {
	address, err := upstream.ParseTarget(target)
	if err != nil || address.Network == "unix" {
		return address, err
	}
	host, port, _ := net.SplitHostPort(address.Dial)
	if !isHost(host) {
		return address, fmt.Errorf("%q is not a target: %q is neither a host name nor an IP address", target, host)
	}
	if _, err := netip.ParseAddr(host); err == nil && address.Lookup {
		return address, fmt.Errorf("%s: an IP address is not looked up: write %s", target, strings.TrimPrefix(target, "dns+"))
	}
	if err := checkPort(port, 1); err != nil {
		return address, fmt.Errorf("%s: %w", target, err)
	}
	return address, nil
}

func (c *checker) checkUpstreamTLS(path string, t *UpstreamTLSConfig, secure bool) {
	if *t == (UpstreamTLSConfig{}) {
		return
	}
	if !secure {
		c.warnf(path, "never used: no target begins with https://")
	}
	switch {
	case t.CertFile == "" && t.KeyFile != "":
		c.errorf(path+".cert_file", "required with key_file")
	case t.CertFile != "" && t.KeyFile == "":
		c.errorf(path+".key_file", "required with cert_file")
	}
	if t.ServerName != "" && !isHost(t.ServerName) {
		c.errorf(path+".server_name", "%q is neither a host name nor an IP address", t.ServerName)
	}
}

// checkUpstreamFiles reads what the upstreams' tls names, as a node does at its start.
func (c *checker) checkUpstreamFiles() {
	for i, u := range c.cfg.Upstreams {
		up, err := upstream.New(u.proxyUpstream(), nil, slog.New(slog.DiscardHandler))
		if err != nil {
			c.errorf(fmt.Sprintf("upstreams[%d].tls", i), "%v", err)
			continue
		}
		up.Close()
	}
}

// callsItself sees the commonest loop, a target on this machine's listener,
// without asking the network what addresses there are.
func callsItself(listen, target string) bool {
	listenHost, listenPort, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	host, port, _ := net.SplitHostPort(target)
	address, err := netip.ParseAddr(host)
	local := host == "localhost" || err == nil && (address.IsLoopback() || address.IsUnspecified())
	return port == listenPort && (host == listenHost || local && everyAddress(listenHost))
}
