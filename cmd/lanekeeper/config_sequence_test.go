package main

import "testing"

// Mutants killed: a route of reads may have an order; one that only watches may; a hot
// key's requests may run where the numbers are not known.
func TestConfigSequence(t *testing.T) {
	route := func(sequence, lane string) string {
		return someUpstream + "routes:\n  - name: a\n    upstream: app\n    key: {space: s, from: [{header: H}]}\n    sequence: {" + sequence + "}\n    lane: {" + lane + "}\n"
	}
	const at = "lk.yaml:6:16: error: routes[0].sequence.mode: required, but "
	runProblemTests(t, []problemTest{
		{"required", route("mode: required", ""), nil},
		{"reads", route("mode: required", `exclusive: [], shared: ["*"], bypass: []`), []string{at + "no request of this route is exclusive: only those have an order"}},
		{"watched", route("mode: required", "mode: observe"), []string{at + "lane.mode is observe, which changes nothing: write none, or lane.mode: enforce"}},
		{"spilled", route("mode: required", "hot: {action: spill}"), []string{at + "lane.hot.action is spill: requests of a hot key then run at nodes that do not know which numbers are done"}},
		{"superseded", someUpstream + "routes: [{name: a, upstream: app, key: {space: s, from: [{header: H}]}, coalesce: [{by: PUT, over: [PUT]}], sequence: {mode: optional}}]\n", []string{
			"lk.yaml:2:120: error: routes[0].sequence.mode: optional, but routes[0] (a) of the same space has rules in coalesce: a number that was superseded would be missing before the next one"}},
		{"a long wait", route("mode: optional, gap_wait: 10s", ""), []string{
			"lk.yaml:6:32: warning: routes[0].sequence.gap_wait: 10s is not less than lane.queue_timeout (10s), which ends the wait"}},
		{"another store", route("mode: required, store: redis", ""), []string{
			`lk.yaml:6:32: error: routes[0].sequence.store: "redis" is not one of owner`}},
	})
}
