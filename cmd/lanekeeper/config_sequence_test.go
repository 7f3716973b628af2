package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
)

// Mutants killed: a route of reads may have an order; one that only watches may; a hot
// key's requests may run where the numbers are not known; the store is not judged; nor are
// routes of the same space; nor where names are kept.
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
		{"no such store", route("mode: required, store: etcd", ""), []string{
			`lk.yaml:6:32: error: routes[0].sequence.store: "etcd" is not one of owner, redis, postgres`}},
		{"in a store", "stores: {redis: {addresses: [\"a:1\"]}}\n" + route("mode: required, store: redis", ""), nil},
		{"in a store that is nowhere", route("mode: required, store: postgres", ""), []string{
			"lk.yaml: error: stores.postgres.dsn_file: required, since routes[0].sequence.store is postgres: a file with the connection string"}},
		{"in a bad one", "stores: {redis: {addresses: [\"a:1\", \"b:1\"]}}\n" + route("mode: required, store: redis", ""), []string{
			"lk.yaml:1:18: error: stores.redis.addresses: 2 addresses, and records are kept on one master: give its address alone. Replicas are no use here; a store that outlives a machine is postgres"}},
		{"spilled, in a store", route("mode: required, store: redis", "hot: {action: spill}"), []string{at + "lane.hot.action is spill: requests of a hot key then run at nodes that do not know which numbers are done"}},
		{"names elsewhere", route("mode: optional, store: redis}\n    idempotency: {mode: optional", ""), []string{
			"lk.yaml:6:32: warning: routes[0].sequence.store: redis, but idempotency.store is owner: a numbered request that has a name too is recorded there, and what ran when the owner crashed runs again if it is sent again"}},
		{"two stores of a space", "stores: {redis: {addresses: [\"a:1\"]}}\n" + someUpstream + "defaults: {sequence: {mode: optional}}\nroutes:\n  - {name: a, upstream: app, match: {path: /a}, key: {space: s, from: [{header: H}]}, sequence: {store: redis}}\n  - {name: b, upstream: app, key: {space: s, from: [{header: H}]}}\n", []string{
			"lk.yaml:6:5: error: routes[1].sequence.store: owner, but that of routes[0] (a) of the same space is redis: a producer's numbers for a key are one row, whatever its routes"}},
	})
}

// Mutants killed: a store that only sequence names is not opened; one that is not used is.
func TestStoresThatAreOpened(t *testing.T) {
	for _, test := range []struct{ routes, want string }{
		{"sequence: {mode: optional}", "[]"},
		{"sequence: {store: redis}", "[]"},
		{"sequence: {mode: optional, store: redis}", "[redis]"},
		{"sequence: {mode: optional, store: redis}, idempotency: {mode: optional, store: redis}", "[redis]"},
		{"sequence: {mode: optional, store: redis, done: conflict}, idempotency: {mode: optional, store: postgres}", "[postgres redis]"},
	} {
		dsn := filepath.Join(t.TempDir(), "dsn")
		writeFile(t, dsn, "postgres://127.0.0.1:1/x\n")
		config := mustLoad(t, "stores: {redis: {addresses: [\"127.0.0.1:1\"]}, postgres: {dsn_file: "+dsn+"}}\n"+someUpstream+
			"routes: [{name: a, upstream: app, key: {space: s, from: [{header: H}]}, "+test.routes+"}]\n")
		stores, err := newRecordStores(config)
		if err != nil {
			t.Fatal(err)
		}
		if have := fmt.Sprint(slices.Sorted(maps.Keys(stores))); have != test.want {
			t.Errorf("%s: %s, want %s", test.routes, have, test.want)
		}
		for _, store := range stores {
			store.Close()
		}
	}
}
