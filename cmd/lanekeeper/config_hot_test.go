package main

import (
	"testing"
	"time"
)

// Mutants killed: a route's hot replaces the default's whole; an empty section
// hides the default's.
func TestConfigHotStartsFromDefaults(t *testing.T) {
	cfg := mustLoad(t, someUpstream+`
defaults: {lane: {hot: {busy: 0.50, for: 7s}}}
routes:
  - {name: a, match: {host: a}, upstream: app, key: {space: a, from: [{header: H}]}, lane: {hot: {depth: 64, action: shed}}}
  - {name: b, match: {host: b}, upstream: app, key: {space: b, from: [{header: H}]}, lane: {hot: }}
  - {name: c, match: {host: c}, upstream: app, key: {space: c, from: [{header: H}]}}
`)
	plain := HotConfig{Depth: 32, Bytes: 8 * MiB, Busy: 0.5, Share: 0.1, For: Duration(7 * time.Second), CoolAfter: Duration(30 * time.Second), Action: "none", Backend: "owner", Batch: 16, Quantum: Duration(50 * time.Millisecond)}
	shed := plain
	shed.Depth, shed.Action = 64, "shed"
	for i, want := range []HotConfig{shed, plain, plain} {
		if have := cfg.Routes[i].Lane.Hot; have != want {
			t.Errorf("route %d: got %+v, want %+v", i, have, want)
		}
	}
}

// Mutants killed: bounds of a fraction are not looked at, or cut to whole numbers;
// an exponent passes, or a text; shed's depth may be max_depth+1; it may not be
// max_depth; shed without a depth passes; routes that share lanes need not agree.
func TestConfigHotIsChecked(t *testing.T) {
	hot := func(more string) string { return "defaults: {lane: {max_depth: 40, hot: {" + more + "}}}\n" + someApp }
	const key = "upstream: app, key: {space: s, from: [{header: H}]}"
	at := func(place, setting, message string) []string {
		return []string{"lk.yaml:" + place + ": error: defaults.lane.hot." + setting + ": " + message}
	}
	runProblemTests(t, []problemTest{
		{"everything", hot("depth: 40, bytes: 1B, busy: 1, share: 0, rate: 1000.25, for: 1ms, cool_after: 1ms, action: shed"), nil},
		{"more than all the time", hot("busy: 1.01"), at("1:40", "busy", "1.01 is too large: at most 1")},
		{"less than nothing", hot("share: -0.1"), at("1:40", "share", `want a number like 0.5, got "-0.1"`)},
		{"more than all that waits", hot("share: 2"), at("1:40", "share", "2 is too large: at most 1")},
		{"exponent", hot("rate: 1e3"), at("1:40", "rate", `want a number like 0.5, got "1e3"`)},
		{"no number", hot("busy: .nan"), at("1:40", "busy", `want a number like 0.5, got ".nan"`)},
		{"text", hot(`busy: "0.5"`), at("1:40", "busy", `want a number, got the text "0.5"`)},
		{"no time", hot("for: 0"), at("1:40", "for", "0 is too small: at least 1ms")},
		{"no time to cool", hot("cool_after: 0s"), at("1:40", "cool_after", "0s is too small: at least 1ms")},
		{"shed at no depth", hot("depth: 0, action: shed"), at("1:40", "depth", "0, but hot.action is shed: that refuses the requests of a hot key at this depth")},
		{"shed beyond max_depth", hot("depth: 41, action: shed"), at("1:40", "depth", "41 is more than max_depth (40), where every key is refused: shed would do nothing")},
		{"seen beyond max_depth", hot("depth: 41"), nil},
		{"spilled", hot("action: spill, batch: 4096, quantum: 1ms"), nil},
		{"spilled and never hot", hot("action: spill, depth: 0, bytes: 0"), at("1:40", "action", "spill, but hot.depth and hot.bytes are 0: no key is ever hot")},
		{"spilled under locks of nobody", hot("action: spill, backend: coordinator"), at("1:55", "backend", "coordinator, and coordinator.type is none: name a store there (etcd, zookeeper, redis, redlock), or write owner")},
		{"spilled by nobody", hot("action: spill, backend: redis"), at("1:55", "backend", `"redis" is not one of owner, coordinator`)},
		{"an empty batch", hot("batch: 0"), at("1:40", "batch", "0 is too small: at least 1")},
		{"too large a batch", hot("batch: 4097"), at("1:40", "batch", "4097 is too large: at most 4096")},
		{"no quantum", hot("quantum: 0s"), at("1:40", "quantum", "0s is too small: at least 1ms")},
		{"a route's own max_depth", someUpstream + "defaults: {lane: {hot: {action: shed}}}\nroutes: [{name: a, " + key + ", lane: {max_depth: 31}}]\n", []string{
			"lk.yaml:3:73: error: routes[0].lane.hot.depth: 32 is more than max_depth (31), where every key is refused: shed would do nothing",
		}},
		{"rules of a space", someUpstream + "routes:\n" +
			"  - {name: a, match: {host: a}, " + key + "}\n" +
			"  - {name: b, match: {host: b}, " + key + ", lane: {hot: {for: 6s}}}\n" +
			"  - {name: c, match: {host: c, methods: [GET]}, " + key + ", lane: {hot: {for: 6s}}}\n", []string{
			"lk.yaml:4:93: error: routes[1].lane.hot: not that of routes[0] (a) of the same space s: routes with exclusive methods that share lanes must agree on when a key is hot",
		}},
	})
}

func TestConfigHotFromTheEnvironment(t *testing.T) {
	t.Setenv("LANEKEEPER_DEFAULTS_LANE_HOT_BUSY", "0.75")
	t.Setenv("LANEKEEPER_DEFAULTS_LANE_HOT_ACTION", "shed")
	hot := mustLoad(t, someApp).Routes[0].Lane.Hot
	if hot.Busy != 0.75 || hot.Action != "shed" || hot.Depth != 32 {
		t.Errorf("got %+v", hot)
	}
}

// A number is written in a form that can be read.
//
// Mutant killed: fmt's form, which has exponents.
func TestConfigFractionsReadBack(t *testing.T) {
	for _, text := range []string{"0", "0.1", "1", "1000000000000000000000000", "0.000000001"} {
		cfg := mustLoad(t, "defaults: {lane: {hot: {rate: "+text+"}}}\n"+someApp)
		for _, l := range cfg.leaves(false) {
			if l.Path == "defaults.lane.hot.rate" && l.Value != text {
				t.Errorf("got %s, want %s", l.Value, text)
			}
		}
	}
}
