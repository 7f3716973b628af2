package main

import (
	"math"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/proxy/upstream"
	"lanekeeper/queue"
)

// Mutants killed: any line of proxyConfig left out or swapped with another;
// no port added to a target; 0 headers means none; no rule
// without a depth; a strict lane never is, or is though it only observes.
func TestConfigForTheProxy(t *testing.T) {
	have := mustLoadEvery(t, everySetting).proxyConfig()
	want := proxy.Config{
		Node:              "n",
		ViaNode:           true,
		ServerTiming:      true,
		Forwarded:         proxy.ForwardedRFC,
		ProxyProtocol:     proxy.ProxyOptional,
		TrustedProxies:    []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		MaxBody:           3 << 20,
		MaxHeader:         4 << 10,
		MaxURI:            6 << 10,
		MaxHeaders:        7,
		HeaderTimeout:     5 * time.Hour,
		ReadTimeout:       1500 * time.Millisecond,
		IdleTimeout:       2 * time.Minute,
		BypassIdleTimeout: 0,
		MaxConnections:    8, MaxPerAddress: 7,
		MaxRequestsPerConnection: 9,
		MaxInflight:              14,
		TicketHeader:             true,
		Access:                   proxy.AccessNone,
		LogKeys:                  proxy.KeysPlain,
		Upstreams: []proxy.Upstream{{
			Name:           "app",
			Targets:        []string{"http://a", "https://[::1]:8080", "dns+http://d:1", "unix:///s"},
			Balance:        upstream.KeyHash,
			ConnectTimeout: 11 * time.Millisecond,
			MaxConnections: 12,
			IdleTimeout:    13 * time.Second,
			Queue:          61,
			DNSRefresh:     62 * time.Second,
			SlowStart:      63 * time.Second,
			Health:         upstream.Health{Path: "/h", Interval: 64 * time.Second, Timeout: 65 * time.Second, Fall: 66, Rise: 67},
			Circuit:        upstream.Circuit{Failures: 68, OpenFor: 69 * time.Second},
			Limit:          upstream.Limit{Mode: upstream.Adaptive, Max: 71, Min: 70},
			TLS:            upstream.TLS{CAFile: "/uca", CertFile: "/ucert", KeyFile: "/ukey", ServerName: "u"},
		}},
		Routes: []proxy.Route{
			{
				Name:     "one",
				Match:    proxy.Match{Host: "h", Path: "/{id}/{$}", Methods: []string{"PUT"}, Headers: []proxy.Header{{Name: "A", Value: "b"}, {Name: "C"}}},
				Upstream: "app",
				Key: proxy.Key{
					Space: "s",
					From: []proxy.Source{{Path: "id"}, {Header: "H"}, {Query: "q${x}"}, {Cookie: "c"}, {JSON: `j\.k`},
						{All: []proxy.Source{{Header: "A"}, {Query: "b"}}}},
					Missing:   proxy.MissingBypass,
					Normalize: []string{},
					MaxLength: 26,
				},
			},
			{Name: "two", Match: proxy.Match{Methods: []string{}}, Upstream: "app"},
		},
	}
	for i := range want.Routes {
		want.Routes[i].Coalesce = []proxy.Coalesce{{By: "PUT", Over: []string{"PUT"}, Scope: proxy.ScopeKey, Status: 202}}
	}
	lane := proxy.Lane{
		MaxDepth:        19,
		MaxBytes:        25 << 20,
		MaxShared:       20,
		QueueTimeout:    21 * time.Second,
		UpstreamTimeout: 22 * time.Second,
		AfterTimeout:    proxy.Release,
		HoldFor:         23 * time.Second,
		AfterFailure: proxy.AfterFailure{
			Action: proxy.Retry, Statuses: proxy.MustStatuses("503", "4xx"),
			Attempts: 41, Backoff: 42 * time.Millisecond, MaxBackoff: 43 * time.Second, UpstreamIdempotent: true,
		},
		ClientGone:  proxy.Run,
		Retries:     24,
		Reentrant:   proxy.PassReentry,
		Mode:        proxy.Observe,
		MaxResponse: 0,
		Strict:      false, // it only observes
		Shed:        true,
		Batch:       39,
		Quantum:     40 * time.Millisecond,
	}
	rule := queue.HotRule{Depth: 17, Bytes: 9 << 20, Busy: 0.25, Share: 1, Rate: 10.5, For: 37 * time.Second, CoolAfter: 38 * time.Second}
	ownRule := rule
	ownRule.Depth = 26
	want.Locks = proxy.Locks{Timeout: 12 * time.Second, Name: "etcd"} // which are opened later
	want.Routes[0].Lane, want.Routes[1].Lane = lane, lane
	want.Routes[0].Lane.MaxDepth, want.Routes[0].Lane.Hot, want.Routes[1].Lane.Hot = 27, &ownRule, &rule
	want.Routes[0].Lane.Exclusive, want.Routes[0].Lane.Shared, want.Routes[0].Lane.Bypass = []string{}, []string{"GET"}, []string{"*"}
	want.Routes[1].Lane.Exclusive, want.Routes[1].Lane.Shared, want.Routes[1].Lane.Bypass = []string{}, []string{}, []string{"*"}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("got  %+v\nwant %+v", have, want)
	}

	defaults := mustLoad(t, "server: {max_headers: 0, max_uri: 0, max_connections: 0}\n"+someApp).proxyConfig()
	if !defaults.NativeHistograms {
		t.Error("native histograms: got false, want true")
	}
	if defaults.MaxHeaders != math.MaxInt32 || defaults.MaxURI != math.MaxInt32 || defaults.MaxConnections != math.MaxInt32 {
		t.Errorf("no limits: got %d, %d, %d", defaults.MaxHeaders, defaults.MaxURI, defaults.MaxConnections)
	}
	strict := LaneConfig{Guarantee: "strict", Mode: "enforce"}
	if !strict.proxyLane().Strict {
		t.Error("a strict lane that enforces is not strict")
	}
	if hot := defaults.Routes[0].Lane.Hot; hot == nil || hot.Depth != 32 || defaults.Routes[0].Lane.Shed {
		t.Errorf("hot keys are to be seen and not shed: got %+v", hot)
	}
	for bytes, seen := range map[string]bool{"0": false, "1B": true} {
		if hot := mustLoad(t, "defaults: {lane: {hot: {depth: 0, bytes: "+bytes+"}}}\n"+someApp).proxyConfig().Routes[0].Lane.Hot; (hot != nil) != seen {
			t.Errorf("depth 0, bytes %s: got %+v", bytes, hot)
		}
	}
	if host, err := os.Hostname(); err == nil && defaults.Node != host {
		t.Errorf("node: got %s, want %s", defaults.Node, host)
	}
}

// A word that a map lacks would silently be the map's zero value.
// Mutant killed: a word left out of its map.
func TestConfigWordsAreAllMapped(t *testing.T) {
	for enum, words := range map[string]int{
		enumOf[ServerConfig]("forwarded"):    len(forwardedWords),
		enumOf[UpstreamConfig]("balance"):    len(balanceWords),
		enumOf[LimitConfig]("mode"):          len(limitWords),
		enumOf[KeyDefaults]("missing"):       len(missingWords),
		enumOf[LaneConfig]("after_timeout"):  len(afterTimeoutWords),
		enumOf[LaneConfig]("client_gone"):    len(clientGoneWords),
		enumOf[LaneConfig]("reentrant"):      len(reentrantWords),
		enumOf[LaneConfig]("mode"):           len(modeWords),
		enumOf[CoalesceConfig]("scope"):      len(scopeWords),
		enumOf[LogConfig]("access"):          len(accessWords),
		enumOf[LogConfig]("keys"):            len(keysWords),
		enumOf[AfterFailureConfig]("action"): len(afterFailureWords),
	} {
		if have := len(strings.Fields(enum)); have != words {
			t.Errorf("%s: %d words in the file, %d in the map", enum, have, words)
		}
	}
	for _, word := range strings.Fields(enumOf[ServerConfig]("forwarded")) {
		if _, ok := forwardedWords[word]; !ok {
			t.Errorf("%s is not mapped", word)
		}
	}
}

func enumOf[Section any](name string) string {
	f, _ := findField(fieldsOf(reflect.TypeFor[Section]()), name)
	return f.tag.Get("enum")
}
