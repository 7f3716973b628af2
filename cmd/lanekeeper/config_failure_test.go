package main

import (
	"strings"
	"testing"

	"lanekeeper/proxy"
)

// Mutants killed: any text is a status; one of an interim response passes; backoff may be above
// max_backoff; halt and spill pass together; routes that share lanes need not agree.
func TestConfigAfterFailureIsChecked(t *testing.T) {
	after := func(more string) string { return "defaults: {lane: {after_failure: {" + more + "}}}\n" + someApp }
	at := func(place, setting, message string) []string {
		return []string{"lk.yaml:" + place + ": error: defaults.lane.after_failure." + setting + ": " + message}
	}
	const key = "upstream: app, key: {space: s, from: [{header: H}]}"
	runProblemTests(t, []problemTest{
		{"everything", after(`action: retry, statuses: ["503", 5xx, "429"], attempts: 1, backoff: 1ms, max_backoff: 1ms, upstream_idempotent: true`), nil},
		{"no status is a failure", after("action: retry, statuses: []"), nil},
		{"an unknown action", after("action: stop"), at("1:35", "action", `"stop" is not one of `+strings.Join(strings.Fields(enumOf[AfterFailureConfig]("action")), ", "))},
		{"halted", after("action: halt, halted: refuse"), nil},
		{"halted in another way", after("halted: drop"), at("1:35", "halted", `"drop" is not one of wait, refuse`)},
		{"halted and spilled", "defaults: {lane: {hot: {action: spill}, after_failure: {action: halt}}}\n" + someApp,
			at("1:57", "action", "halt, but hot.action is spill: of a turn that is lent only its borrower knows what failed, and the lane would go on")},
		{"no attempt", after("attempts: 0"), at("1:35", "attempts", "0 is too small: at least 1")},
		{"a range", after(`statuses: [500-599]`), at("1:46", "statuses[0]", `"500-599" is neither a status code from 200 to 599 nor a class like 5xx`)},
		{"half a class", after(`statuses: [5xx, 50x]`), at("1:51", "statuses[1]", `"50x" is neither a status code from 200 to 599 nor a class like 5xx`)},
		{"no such class", after(`statuses: [6xx]`), at("1:46", "statuses[0]", `"6xx" is neither a status code from 200 to 599 nor a class like 5xx`)},
		{"interim", after(`statuses: ["103"]`), at("1:46", "statuses[0]", "\"103\" is neither a status code from 200 to 599 nor a class like 5xx")},
		{"twice", after(`statuses: [5xx, 5xx]`), at("1:51", "statuses[1]", "5xx is given twice")},
		{"a backoff that shrinks", after("backoff: 6s"), at("1:35", "backoff", "6s is more than max_backoff (5s)")},
		{"of a space", someUpstream + "routes:\n" +
			"  - {name: a, match: {host: a}, " + key + "}\n" +
			"  - {name: b, match: {host: b}, " + key + ", lane: {after_failure: {action: retry}}}\n" +
			"  - {name: c, match: {host: c, methods: [GET]}, " + key + ", lane: {after_failure: {action: retry}}}\n", []string{
			"lk.yaml:4:109: error: routes[1].lane.after_failure.action: retry, but routes[0] (a) of the same space s says continue: routes with exclusive methods that share lanes must agree on what a failure does to the requests behind it",
		}},
	})
}

// What is not done is not handed on, so that a route that goes on after a failure costs
// nothing.
func TestConfigAfterFailureForTheProxy(t *testing.T) {
	cfg := mustLoad(t, someUpstream+`
defaults: {lane: {after_failure: {statuses: ["500", 4xx], attempts: 7}}}
routes:
  - {name: a, match: {host: a}, upstream: app, key: {space: a, from: [{header: H}]}, lane: {after_failure: {action: retry}}}
  - {name: b, match: {host: b}, upstream: app, key: {space: b, from: [{header: H}]}}
`).proxyConfig()
	a := cfg.Routes[0].Lane.AfterFailure
	if a.Action != proxy.Retry || a.Attempts != 7 || a.Statuses != proxy.MustStatuses("500", "4xx") {
		t.Errorf("got %+v", a)
	}
	halts := AfterFailureConfig{Action: "halt", Halted: "refuse"}
	if p := halts.policy(); p.Action != proxy.HaltLane || !p.RefuseHalted {
		t.Errorf("got %+v", p)
	}
	if halts.Halted = "wait"; halts.policy().RefuseHalted {
		t.Error("what is to wait is refused")
	}
	if halts = (AfterFailureConfig{Action: "retry", Halted: "refuse"}); halts.policy().RefuseHalted {
		t.Error("what never halts is refused")
	}
	if b := cfg.Routes[1].Lane.AfterFailure; b.Action != proxy.Continue || b.Statuses != (proxy.Statuses{}) {
		t.Errorf("got %+v", b)
	}
}
