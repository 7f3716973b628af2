package main

import (
	"log/slog"
	"math"
	"net/netip"
	"os"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/proxy/upstream"
	"lanekeeper/queue"
)

// What the words of the file are called in package proxy.
var (
	forwardedWords = map[string]proxy.Forwarded{
		"x-forwarded": proxy.ForwardedX, "rfc7239": proxy.ForwardedRFC, "both": proxy.ForwardedBoth, "none": proxy.ForwardedNone,
	}
	balanceWords = map[string]upstream.Balance{
		"least_pending": upstream.LeastPending, "round_robin": upstream.RoundRobin, "key_hash": upstream.KeyHash,
	}
	proxyProtocolWords = map[string]proxy.ProxyProtocol{
		"none": proxy.ProxyNone, "optional": proxy.ProxyOptional, "required": proxy.ProxyRequired,
	}
	missingWords = map[string]proxy.Missing{
		"reject": proxy.MissingReject, "bypass": proxy.MissingBypass, "client_ip": proxy.MissingClientIP,
	}
	afterTimeoutWords = map[string]proxy.AfterTimeout{"hold": proxy.Hold, "release": proxy.Release}
	clientGoneWords   = map[string]proxy.ClientGone{"skip": proxy.Skip, "run": proxy.Run}
	reentrantWords    = map[string]proxy.Reentrant{"reject": proxy.RejectReentry, "pass": proxy.PassReentry}
	modeWords         = map[string]proxy.Mode{"enforce": proxy.Enforce, "observe": proxy.Observe}
	afterFailureWords = map[string]proxy.FailureAction{"continue": proxy.Continue, "retry": proxy.Retry, "halt": proxy.HaltLane}
	accessWords       = map[string]proxy.Access{"none": proxy.AccessNone, "errors": proxy.AccessErrors, "all": proxy.AccessAll}
	keysWords         = map[string]proxy.KeyStyle{"plain": proxy.KeysPlain, "hash": proxy.KeysHashed, "none": proxy.KeysNone}
)

// proxyConfig is the edge's part of a configuration that Load found no error in.
func (c *Config) proxyConfig() proxy.Config {
	p := proxy.Config{
		Node:                     c.nodeName(),
		ViaNode:                  c.Server.ViaNode,
		ServerTiming:             c.Server.ServerTiming,
		Forwarded:                forwardedWords[c.Server.Forwarded],
		ProxyProtocol:            proxyProtocolWords[c.Server.ProxyProtocol],
		MaxBody:                  int(c.Server.MaxBody),
		MaxHeader:                int(c.Server.MaxHeader),
		MaxURI:                   orUnlimited(int(c.Server.MaxURI)),
		MaxHeaders:               orUnlimited(c.Server.MaxHeaders),
		HeaderTimeout:            time.Duration(c.Server.HeaderTimeout),
		ReadTimeout:              time.Duration(c.Server.ReadTimeout),
		IdleTimeout:              time.Duration(c.Server.IdleTimeout),
		BypassIdleTimeout:        time.Duration(c.Server.BypassIdleTimeout),
		MaxConnections:           orUnlimited(c.Server.MaxConnections),
		MaxPerAddress:            c.Server.MaxConnectionsPerAddress,
		MaxRequestsPerConnection: c.Server.MaxRequestsPerConnection,
		MaxInflight:              c.Limits.MaxInflight,
		TicketHeader:             c.Server.TicketHeader,
		Access:                   accessWords[c.Log.Access],
		LogKeys:                  keysWords[c.Log.Keys],
		NativeHistograms:         c.Metrics.NativeHistograms,
	}
	if store, ok := c.Coordinator.store(); ok {
		p.Locks.Name, p.Locks.Timeout = store.kind, time.Duration(c.Coordinator.AcquireTimeout)
	}
	if c.issues() {
		p.Sessions = c.Session.proxySessions()
	}
	for _, text := range c.Server.TrustedProxies {
		p.TrustedProxies = append(p.TrustedProxies, netip.MustParsePrefix(text))
	}
	for _, u := range c.Upstreams {
		p.Upstreams = append(p.Upstreams, u.proxyUpstream())
	}
	for _, r := range c.Routes {
		p.Routes = append(p.Routes, r.proxyRoute())
	}
	return p
}

// nodeName is the configured name, or that of the host.
func (c *Config) nodeName() string {
	if c.Node.Name != "" {
		return c.Node.Name
	}
	if host, err := os.Hostname(); err == nil {
		return host
	}
	return "lanekeeper" // a name is for people to read; lacking one stops nothing
}

// orUnlimited turns the file's 0 for "no limit" into a limit that nothing reaches.
func orUnlimited(n int) int {
	if n == 0 {
		return math.MaxInt32
	}
	return n
}

func (r RouteConfig) proxyRoute() proxy.Route {
	p := proxy.Route{
		Name:     r.Name,
		Match:    proxy.Match{Host: r.Match.Host, Path: r.Match.Path, Methods: r.Match.Methods},
		Upstream: r.Upstream,
		Key: proxy.Key{
			Space:     r.Key.Space,
			Missing:   missingWords[r.Key.Missing],
			Normalize: r.Key.Normalize,
			MaxLength: r.Key.MaxLength,
		},
		Lane:        r.Lane.proxyLane(),
		Idempotency: r.proxyIdempotency(),
		Sequence:    r.Sequence.proxySequence(),
	}
	for _, h := range r.Match.Headers {
		p.Match.Headers = append(p.Match.Headers, proxy.Header(h))
	}
	for _, rule := range r.Coalesce {
		p.Coalesce = append(p.Coalesce, rule.proxyCoalesce())
	}
	for _, s := range r.Key.From {
		source := s.PlaceConfig.proxySource()
		for _, part := range s.All {
			source.All = append(source.All, part.proxySource())
		}
		p.Key.From = append(p.Key.From, source)
	}
	return p
}

func (p PlaceConfig) proxySource() proxy.Source {
	return proxy.Source{Path: p.Path, Header: p.Header, Query: p.Query, Cookie: p.Cookie, Issue: p.Issue, JSON: p.JSON}
}

func (l LaneConfig) proxyLane() proxy.Lane {
	return proxy.Lane{
		Exclusive:       l.Exclusive,
		Shared:          l.Shared,
		Bypass:          l.Bypass,
		MaxDepth:        l.MaxDepth,
		MaxBytes:        int(l.MaxBytes),
		MaxShared:       l.MaxShared,
		QueueTimeout:    time.Duration(l.QueueTimeout),
		UpstreamTimeout: time.Duration(l.UpstreamTimeout),
		AfterTimeout:    afterTimeoutWords[l.AfterTimeout],
		HoldFor:         time.Duration(l.HoldFor),
		AfterFailure:    l.AfterFailure.policy(),
		ClientGone:      clientGoneWords[l.ClientGone],
		Retries:         l.Retries,
		Reentrant:       reentrantWords[l.Reentrant],
		Mode:            modeWords[l.Mode],
		MaxResponse:     int(l.MaxResponse),
		Strict:          l.Guarantee == "strict" && l.Mode == "enforce",
		Hot:             l.Hot.rule(),
		Shed:            l.Hot.Action == "shed",
		Spill:           l.Hot.Action == "spill" && l.Mode == "enforce",
		Batch:           l.Hot.Batch,
		Quantum:         time.Duration(l.Hot.Quantum),
		SpillLocks:      l.Hot.underLocks() && l.Mode == "enforce",
	}
}

// rule is nil if no backlog, however large, makes a key hot.
func (h HotConfig) rule() *queue.HotRule {
	if h.Depth == 0 && h.Bytes == 0 {
		return nil
	}
	return &queue.HotRule{
		Depth: h.Depth, Bytes: int64(h.Bytes), Busy: h.Busy, Share: h.Share, Rate: h.Rate,
		For: time.Duration(h.For), CoolAfter: time.Duration(h.CoolAfter),
	}
}

// idleProxy is the edge of a configuration that Load found no error in, to be
// asked what it would do. It serves nothing.
func idleProxy(c proxy.Config) (*proxy.Proxy, error) {
	return proxy.New(c, queue.New(queue.Config{Tags: len(c.Routes)}), slog.New(slog.DiscardHandler))
}
