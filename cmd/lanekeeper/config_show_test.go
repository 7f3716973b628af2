package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// everySetting is a file that sets every setting to something else than its
// default, so that what is forgotten on the way shows.
const everySetting = `
node: {name: n, zone: z}
server:
  listen: "127.0.0.1:1"
  proxy_protocol: optional
  trusted_proxies: [10.0.0.0/8, fd00::/8]
  forwarded: rfc7239
  via_node: true
  server_timing: true
  read_timeout: 1s500ms
  idle_timeout: 2m
  max_body: 3MiB
  max_header: 4KiB
  header_timeout: 5h
  max_uri: 6KiB
  max_headers: 7
  max_connections: 8
  max_connections_per_address: 7
  max_requests_per_connection: 9
  bypass_idle_timeout: 0s
  ticket_header: true
  tls: {cert_file: /run/s.crt, key_file: /run/s.key, client_ca_file: /run/s.ca}
observe: {listen: "[::1]:2"}
admin: {listen: "10.0.0.1:3", token_file: /run/token, allowed_hosts: [lk-0.lk, "[fd00::1]", 10.0.0.1], ui: false, pprof: true, tls: {cert_file: /run/a.crt, key_file: /run/a.key, client_ca_file: /run/a.ca}}
cluster:
  enabled: true
  name: shop
  secret_file: /run/cluster.key
  settle: 30ms
  rejoin: 31s
  gossip: {listen: ":4", advertise: "10.0.0.1:5", secret_file: /run/gossip.key, profile: wan}
  peer: {listen: ":6", advertise: "[fd00::1]:7", tls: {cert_file: /run/tls.crt, key_file: /run/tls.key, client_ca_file: /run/ca.crt}}
  join: ["lk-0.lk:7943", "dns+lk:7943", dnssrv+_gossip._udp.lk]
  join_timeout: 32s
  min_members: 33
  partitions: 1024
  handoff_timeout: 34s
  forget_after: 35s
coordinator:
  type: etcd
  key_prefix: /shop
  lease_ttl: 36s
  safety_margin: 11s
  acquire_timeout: 12s
  etcd: {endpoints: ["https://a:1", "https://b:2"], username: e, password_file: /run/etcd, tls: {ca_file: /run/e.ca, cert_file: /run/e.crt, key_file: /run/e.key, server_name: e}}
  zookeeper: {servers: ["c:3"], username: "z", password_file: /run/zk, tls: {ca_file: /run/z.ca, cert_file: /run/z.crt, key_file: /run/z.key, server_name: z}}
  redis: {addresses: ["d:4"], username: r, password_file: /run/redis, db: 5, grace: false, tls: {ca_file: /run/r.ca, cert_file: /run/r.crt, key_file: /run/r.key, server_name: r}}
  redlock: {addresses: ["e:6"], username: l, password_file: /run/redlock, db: 7, tls: {ca_file: /run/l.ca, cert_file: /run/l.crt, key_file: /run/l.key, server_name: l}}
upstreams:
  - {name: app, targets: ["http://a", "https://[::1]:8080", "dns+http://d:1", "unix:///s"], balance: key_hash, connect_timeout: 11ms, max_connections: 12, idle_timeout: 13s,
    queue: 61, dns_refresh: 62s, slow_start: 63s, health: {path: /h, interval: 64s, timeout: 65s, fall: 66, rise: 67}, circuit: {failures: 68, open_for: 69s},
    limit: {mode: adaptive, max: 71, min: 70}, tls: {ca_file: /uca, cert_file: /ucert, key_file: /ukey, server_name: u}}
limits: {max_inflight: 14, max_queued: 15, max_queued_bytes: 16GiB, max_lanes: 17, max_records: 41, max_records_bytes: 42MiB}
stores:
  redis: {addresses: ["r:1"], username: u, password_file: /pw, tls: {ca_file: /ca, cert_file: /cert, key_file: /key, server_name: n}, db: 43, key_prefix: "p:"}
  postgres: {dsn_file: /dsn, table: s.t, create_table: false, max_connections: 44}
defaults:
  key: {missing: client_ip, normalize: [lower, trim], max_length: 18}
  lane: {guarantee: strict, exclusive: [PUT], shared: ["*"], bypass: [], max_depth: 19, max_shared: 20, queue_timeout: 21s, upstream_timeout: 22s, after_timeout: release,
    hold_for: 23s, client_gone: run, retries: 24, reentrant: pass, mode: observe, max_bytes: 25MiB, max_response: 0B,
    after_failure: {action: retry, statuses: ["503", 4xx], attempts: 41, backoff: 42ms, max_backoff: 43s, upstream_idempotent: true, halted: refuse},
    hot: {depth: 17, bytes: 9MiB, busy: 0.25, share: 1, rate: 10.50, for: 37s, cool_after: 38s, action: shed, backend: coordinator, batch: 39, quantum: 40ms}}
  idempotency: {mode: optional, header: I, ttl: 45s, store: redis, accept_crash_loss: true, claim_lease: 46s, store_away: run, concurrent: conflict,
    fingerprint: [body], scope_headers: [Cookie, X-Tenant], replay: ["201"], unknown: execute, max_entry: 47KiB}
  sequence: {mode: optional, store: redis, start: any, gap_wait: 48ms, max_held: 49, done: conflict, ttl: 50s}
  coalesce: [{by: PUT, over: [PUT], scope: key, status: 202}]
routes:
  - name: one
    match: {host: h, path: "/{id}/{$}", methods: [PUT], headers: [{name: A, value: b}, {name: C}]}
    upstream: app
    key: {space: s, from: [{path: id}, {header: H}, {query: "q$${x}"}, {cookie: c}, {json: 'j\.k'}, {all: [{header: A}, {query: b}]}], missing: bypass, normalize: [], max_length: 26}
    lane: {exclusive: [], shared: [GET], bypass: ["*"], max_depth: 27, hot: {depth: 26}}
    idempotency: {mode: none}
    sequence: {mode: none}
  - {name: two, match: {methods: []}, upstream: app, lane: {exclusive: [], shared: [], bypass: ["*"]}, idempotency: {mode: none, replay: []}, sequence: {mode: none}}
shutdown: {delay: 28s, drain_timeout: 29s}
log: {level: warn, format: json, access: none, keys: plain}
session: {secret_file: /s, max_age: 44h, secure: false, same_site: strict, path: /p}
journal: {file: /j, max_size: 41MiB, max_files: 42, keep: 43}
metrics: {native_histograms: false}
tracing: {enabled: true, sample: ratio}
`

// mustLoadEvery loads everySetting, or what was made of it. There is one
// coordinator, so what is set of others must be complained of, and nothing else.
func mustLoadEvery(t testing.TB, source string) *Config {
	t.Helper()
	cfg, report := loadText(t, source)
	if len(report.Problems) != 3 {
		t.Errorf("problems: %v", report.Problems)
	}
	for _, p := range report.Problems {
		if !strings.HasSuffix(p.Message, "never used: coordinator.type is etcd") {
			t.Error(p)
		}
	}
	return cfg
}

// Mutants killed: unexpandText returns its argument; omitted always true or always
// false; an empty list is written as absent.
func TestConfigShowReadsBack(t *testing.T) {
	cfg := mustLoadEvery(t, everySetting)
	for path, f := range configSettings {
		if words := f.tag.Get("enum"); words != "" && !strings.Contains(words, " ") {
			continue // there is no other value
		}
		def, have := settingAt(reflect.ValueOf(Default()), path), settingAt(reflect.ValueOf(*cfg), path)
		if path != "version" && reflect.DeepEqual(def.Interface(), have.Interface()) {
			t.Errorf("the test does not set %s", path)
		}
	}
	for name, origin := range map[string]func(string) string{"plain": nil, "with origins": func(path string) string { return path }} {
		var out bytes.Buffer
		if err := cfg.writeYAML(&out, origin); err != nil {
			t.Fatal(err)
		}
		if have := mustLoadEvery(t, out.String()); !reflect.DeepEqual(have, cfg) {
			t.Errorf("%s:\n%s\ngot  %+v\nwant %+v", name, out.String(), have, cfg)
		}
	}
	var out bytes.Buffer
	if err := json.NewEncoder(&out).Encode(cfg); err != nil {
		t.Fatal(err)
	}
	var have Config
	if err := json.Unmarshal(out.Bytes(), &have); err != nil || !reflect.DeepEqual(&have, cfg) {
		t.Errorf("JSON: %v\n%s\ngot  %+v\nwant %+v", err, out.String(), have, cfg)
	}
}

// settingAt is the value at the path of a setting.
func settingAt(value reflect.Value, path string) reflect.Value {
	for name := range strings.SplitSeq(path, ".") {
		f, _ := findField(fieldsOf(value.Type()), name)
		value = value.FieldByIndex(f.index)
	}
	return value
}

// Mutants killed: the node's name counts, or its zone, or one of its addresses,
// or whom it joins.
func TestConfigHash(t *testing.T) {
	hash := mustLoad(t, someApp).hash()
	for _, where := range []string{
		"# another spelling\nversion: 1\nserver: {read_timeout: 15000ms}\n",
		"node: {name: other}\n",
		"node: {zone: b}\n",
		"server: {listen: \":1\"}\n",
		"observe: {listen: \":1\"}\n",
		"journal: {file: \"lk-0.jsonl\"}\n",
		"admin: {listen: \"127.0.0.1:1\", allowed_hosts: [localhost]}\n",
		"cluster: {gossip: {listen: \":1\", advertise: \"10.0.0.1:1\"}, peer: {listen: \":2\", advertise: \"10.0.0.1:2\"}, join: [\"10.0.0.1:1\"]}\n",
	} {
		if have := mustLoad(t, where+someApp).hash(); have != hash {
			t.Errorf("same configuration: got %s, want %s:\n%s", have, hash, where)
		}
	}
	for _, what := range []string{"server: {read_timeout: 16s}\n", "cluster: {handoff_timeout: 1s}\n", "cluster: {gossip: {profile: wan}}\n"} {
		if have := mustLoad(t, what+someApp).hash(); have == hash {
			t.Errorf("other configuration: got %s too:\n%s", have, what)
		}
	}
}

func TestConfigShowCommand(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("lk.yaml", []byte("server: {listen: \":1\"}\n"+someApp), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LANEKEEPER_LOG_LEVEL", "debug")
	for _, test := range []struct {
		args string
		want []string // lines that are in the output
	}{
		{"config show", []string{"  listen: :7940", "  level: debug", "routes: []"}},
		{"config show --config lk.yaml", []string{"  listen: :1", "  level: debug", "  - name: orders"}},
		{"config show --config lk.yaml --origin", []string{
			"  listen: :1 # lk.yaml:1:10", "  listen: :7941 # default", "  level: debug # LANEKEEPER_LOG_LEVEL", "      shared: [GET, HEAD] # default",
		}},
		{"config show --config lk.yaml -o json", []string{`    "listen": ":1",`, `    "read_timeout": "15s",`, `        "space": "order",`}},
		{"config show --config lk.yaml -o json --origin", []string{`    "path": "routes[0].key.from[0].header",`, `    "origin": "LANEKEEPER_LOG_LEVEL"`}},
	} {
		code, out, errs := runArgs(t, strings.Fields(test.args)...)
		if code != exitOK || errs != "" {
			t.Errorf("%s: got %d, %s", test.args, code, errs)
		}
		for _, line := range test.want {
			if !strings.Contains(out, line+"\n") {
				t.Errorf("%s: no line %q in\n%s", test.args, line, out)
			}
		}
	}
	if code, _, errs := runArgs(t, "config", "show", "--config", "missing.yaml"); code != exitConfig || !strings.HasSuffix(errs, "1 error, 0 warnings\n") {
		t.Errorf("missing file: got %d, %s", code, errs)
	}
	if code, _, errs := runArgs(t, "config", "show", "-o", "toml"); code != exitUsage || errs != "lanekeeper: --output toml: want yaml or json\n" {
		t.Errorf("unknown format: got %d, %s", code, errs)
	}
}

// Mutants killed: elements are compared by index; what only b has is left out; of a route
// that only one has, all that it inherits is listed.
func TestConfigDiff(t *testing.T) {
	t.Chdir(t.TempDir())
	route := func(name string) string {
		return "  - {name: " + name + ", match: {host: " + name + "}, upstream: app, lane: {exclusive: [], shared: [], bypass: [\"*\"]}}\n"
	}
	for name, content := range map[string]string{
		"a.yaml": someUpstream + "routes:\n" + route("x") + route("y"),
		"b.yaml": "# the same\nserver: {read_timeout: 15000ms}\nroutes:\n" + route("x") + route("y") + someUpstream,
		"c.yaml": "server: {max_body: 2MiB, trusted_proxies: [10.0.0.0/8]}\n" + someUpstream + "routes:\n" + route("y") + route("x"),
		"d.yaml": someUpstream + "routes:\n" + strings.Replace(route("x"), "host: x", "path: /x", 1) + route("y"),
		"e.yaml": "nothing: 1\n",
		"f.yaml": strings.Replace(someUpstream, "}]", "}, {name: new, targets: [\"http://127.0.0.1:1\"], balance: key_hash}]", 1) + "defaults: {lane: {max_depth: 9}}\nroutes:\n" + route("x") +
			"  - {name: z, match: {path: /z}, upstream: new, key: {space: z, from: [{header: Z}]}, lane: {max_depth: 9, hold_for: 1m}}\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		b    string
		code int
		want string
	}{
		{"a.yaml", exitOK, ""},
		{"b.yaml", exitOK, ""},
		{"c.yaml", exitNegative, "~ server.trusted_proxies: [] -> [10.0.0.0/8]\n~ server.max_body: 1MiB -> 2MiB\n~ routes: [x, y] -> [y, x]\n"},
		{"d.yaml", exitNegative, "- routes[x].match.host: x\n+ routes[x].match.path: /x\n"},
		{"e.yaml", exitConfig, ""},
		{"f.yaml", exitNegative, "~ upstreams: [app] -> [app, new]\n~ defaults.lane.max_depth: 64 -> 9\n~ routes[x].lane.max_depth: 64 -> 9\n" +
			"- routes[y].name: y\n- routes[y].match.host: y\n- routes[y].upstream: app\n- routes[y].lane.exclusive: []\n- routes[y].lane.shared: []\n- routes[y].lane.bypass: [*]\n" +
			"~ routes: [x, y] -> [x, z]\n" +
			"+ upstreams[new].name: new\n+ upstreams[new].targets: [http://127.0.0.1:1]\n+ upstreams[new].balance: key_hash\n" +
			"+ routes[z].name: z\n+ routes[z].match.path: /z\n+ routes[z].upstream: new\n+ routes[z].key.space: z\n+ routes[z].key.from[0].header: Z\n+ routes[z].lane.hold_for: 1m\n"},
	} {
		if code, out, _ := runArgs(t, "config", "diff", "a.yaml", test.b); code != test.code || out != test.want {
			t.Errorf("%s: got %d\n%swant %d\n%s", test.b, code, out, test.code, test.want)
		}
	}
}

// Mutant killed: init opens its file without O_EXCL.
func TestConfigInit(t *testing.T) {
	t.Chdir(t.TempDir())
	if code, _, errs := runArgs(t, "config", "init"); code != exitOK {
		t.Fatalf("got %d, %s", code, errs)
	}
	if code, out, _ := runArgs(t, "validate", "lanekeeper.yaml"); code != exitOK || out != "0 errors, 0 warnings\n" {
		t.Errorf("what init wrote: got %d, %s", code, out)
	}
	content, err := os.ReadFile("lanekeeper.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if lines := "# yaml-language-server: $schema=./lanekeeper.schema.json\n# $schema: ./lanekeeper.schema.json\n"; !strings.HasPrefix(string(content), lines) {
		t.Errorf("got %.200s", content)
	}
	if err := os.WriteFile("lanekeeper.yaml", []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errs := runArgs(t, "config", "init")
	if want := "lanekeeper: lanekeeper.yaml exists: choose another --output, or overwrite it with --force\n"; code != exitFailure || errs != want {
		t.Errorf("again: got %d, %s", code, errs)
	}
	if content, _ := os.ReadFile("lanekeeper.yaml"); string(content) != "mine" {
		t.Errorf("again: got %.200s", content)
	}
	if code, _, errs := runArgs(t, "config", "init", "--force"); code != exitOK {
		t.Errorf("with force: got %d, %s", code, errs)
	}
	if now, _ := os.ReadFile("lanekeeper.yaml"); !bytes.Equal(now, content) {
		t.Errorf("with force: got %.200s", now)
	}
	if code, out, _ := runArgs(t, "config", "init", "-o", "-"); code != exitOK || out != string(content) {
		t.Errorf("to standard output: got %d, %.200s", code, out)
	}
	if code, _, _ := runArgs(t, "config", "init", "-o", filepath.Join("missing", "a.yaml")); code != exitFailure {
		t.Errorf("to a missing directory: got %d", code)
	}
}
