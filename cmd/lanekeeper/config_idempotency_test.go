package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"lanekeeper/proxy"
)

// Mutants killed: crash loss need not be accepted; a route of reads may have names; a
// spilled key's records may be the owner's; a status that is never kept may be written;
// a store is judged though no route wants it.
func TestConfigIdempotency(t *testing.T) {
	route := func(idempotency, lane string) string {
		return someUpstream + "routes:\n  - name: a\n    upstream: app\n    key: {space: s, from: [{header: H}]}\n    idempotency: {" + idempotency + "}\n    lane: {" + lane + "}\n"
	}
	const at = "routes[0].idempotency"
	runProblemTests(t, []problemTest{
		{"optional", route("mode: optional", ""), nil},
		{"required", route("mode: required", ""), []string{
			"lk.yaml:6:5: error: " + at + ".accept_crash_loss: must be true, since mode is required and store is owner: when the key's owner crashes its records are lost, and a request that is sent again runs again. Or choose store: redis or postgres"}},
		{"loss accepted", route("mode: required, accept_crash_loss: true", ""), nil},
		{"reads", route("mode: optional", "exclusive: [], shared: [\"*\"], bypass: []"), []string{
			"lk.yaml:6:19: error: " + at + ".mode: optional, but no request of this route is exclusive: only those carry a name"}},
		{"watched", route("mode: optional", "mode: observe"), []string{
			"lk.yaml:6:19: error: " + at + ".mode: optional, but lane.mode is observe, which changes nothing: write none, or lane.mode: enforce"}},
		{"spilled", route("mode: optional", "hot: {action: spill}"), []string{
			"lk.yaml:6:5: error: " + at + ".store: owner, but lane.hot.action is spill: requests of a hot key then run at nodes that do not have the owner's records. Choose store: redis or postgres"}},
		{"spilled, in a store", route("mode: optional, store: redis", "hot: {action: spill}"), nil},
		{"no header", route("mode: optional, header: \"a b\"", ""), []string{
			`lk.yaml:6:35: error: ` + at + `.header: "a b" is not a header that can hold a name`}},
		{"a header that does not get through", route("mode: optional, header: Connection", ""), []string{
			`lk.yaml:6:35: error: ` + at + `.header: "Connection" is not a header that can hold a name`}},
		{"scope", route("mode: optional, scope_headers: [\"\"]", ""), []string{
			`lk.yaml:6:51: error: ` + at + `.scope_headers[0]: "" is not the name of a header`}},
		{"statuses", route("mode: optional, replay: [2xx, 6xx]", ""), []string{
			`lk.yaml:6:49: error: ` + at + `.replay[1]: "6xx" is neither a status code from 200 to 599 nor a class like 5xx`}},
		{"never kept", route("mode: optional, replay: [\"503\"]", ""), []string{
			"lk.yaml:6:44: error: " + at + ".replay[0]: 503 is never kept: it says that the request had better be sent again"}},
		{"lease", route("mode: optional, ttl: 20s", ""), []string{
			"lk.yaml:6:5: error: " + at + ".claim_lease: 30s is longer than ttl (20s)"}},
		{"postgres", route("mode: required, store: postgres", ""), []string{
			"lk.yaml: error: stores.postgres.dsn_file: required, since " + at + ".store is postgres: a file with the connection string"}},
		{"a table", "stores: {postgres: {dsn_file: /a, table: \"a b\"}}\n" + route("mode: required, store: postgres", ""), []string{
			`lk.yaml:1:35: error: stores.postgres.table: "a b" is not the name of a table: at most 54 letters, digits and _, with or without a schema and a dot`}},
		{"two masters", "stores: {redis: {addresses: [\"a:1\", \"b:1\"]}}\n" + route("mode: required, store: redis", ""), []string{
			"lk.yaml:1:18: error: stores.redis.addresses: 2 addresses, and records are kept on one master: give its address alone. Replicas are no use here; a store that outlives a machine is postgres"}},
		{"an unused store", "stores: {redis: {addresses: []}}\n" + someApp, nil},
	})
}

// Mutants killed: what is never kept stays in the set; the default's sections are not
// inherited; a part of the fingerprint is another.
func TestConfigIdempotencyForTheProxy(t *testing.T) {
	have := mustLoad(t, "defaults: {idempotency: {mode: optional, claim_lease: 5s}}\n"+someUpstream+
		"routes: [{name: a, upstream: app, key: {space: s, from: [{header: H}]}, idempotency: {replay: [4xx, 5xx], fingerprint: [method, body]}}]\n").proxyConfig().Routes[0].Idempotency
	if have.Mode != proxy.IdempotencyOptional || have.Lease != 5*time.Second || have.TTL != 24*time.Hour || have.Print != proxy.PrintMethod|proxy.PrintBody {
		t.Errorf("got %+v", have)
	}
	for status, want := range map[int]bool{200: false, 404: true, 429: false, 500: true, 501: true, 502: false, 503: false, 504: false, 599: true, 600: false} {
		if have.Replay.Has(status) != want {
			t.Errorf("status %d: got %v, want %v", status, !want, want)
		}
	}
}

// Mutants killed: the table is always the default's; a name that is none is printed.
func TestConfigMigration(t *testing.T) {
	for _, test := range []struct{ table, want string }{
		{"a.b", `CREATE TABLE IF NOT EXISTS "a"."b" (`}, {"", "CREATE TABLE IF NOT EXISTS"}, {"a b", ""}, {"a.b.c", ""},
	} {
		args := []string{"config", "migration"}
		if test.table != "" {
			args = append(args, "--table", test.table)
		}
		var out, errs bytes.Buffer
		command := configCommand()
		command.SilenceErrors, command.SilenceUsage = true, true
		command.SetArgs(args[1:])
		command.SetOut(&out)
		command.SetErr(&errs)
		code := witnessExit(command.ExecuteContext(t.Context()))
		if want := map[bool]int{true: exitOK, false: exitUsage}[test.want != ""]; code != want || !strings.HasPrefix(out.String(), test.want) || test.want == "" && out.Len() > 0 {
			t.Errorf("%q: code %d\n%s%s", test.table, code, out.String(), errs.String())
		}
	}
}
