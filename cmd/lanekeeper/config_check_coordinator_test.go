package main

import (
	"strings"
	"testing"
)

// strictRoutes are routes over someUpstream, each with a lane.
func strictRoutes(lanes ...string) string {
	var out strings.Builder
	out.WriteString(someUpstream + "routes:\n")
	for i, lane := range lanes {
		name := string(rune('a' + i))
		out.WriteString("  - {name: " + name + ", match: {host: " + name + "}, upstream: app, key: {space: " + name + ", from: [{header: H}]}, lane: {" + lane + "}}\n")
	}
	return out.String() + aCluster
}

const (
	aCluster   = "cluster: {enabled: true, join: [\"127.0.0.1:7943\"], gossip: {listen: \"127.0.0.1:7943\"}, peer: {listen: \"127.0.0.1:7944\"}}\n"
	strictLane = "guarantee: strict, upstream_timeout: 1s"
	someEtcd   = "coordinator: {type: etcd, etcd: {endpoints: [\"e:1\"]}}\n"
)

// Mutants killed: a route that is only observed, or only passes, counts as strict;
// redlock passes; what comes from the defaults is said of each route.
func TestConfigStrictRestsOnACoordinator(t *testing.T) {
	const none = ": strict rests on a coordinator, and coordinator.type is none: name a store there (etcd, zookeeper, redis), or write best_effort"
	redlock := func(rest string) string {
		return "coordinator: {type: redlock, redlock: {addresses: [\"a:1\", \"b:1\", \"c:1\"]}}\n" + rest
	}
	runProblemTests(t, []problemTest{
		{"none", strictRoutes(strictLane, "", strictLane), []string{
			"lk.yaml:3:93: error: routes[0].lane.guarantee" + none,
			"lk.yaml:5:93: error: routes[2].lane.guarantee" + none,
		}},
		{"none, by default", "defaults: {lane: {guarantee: strict}}\n" + strictRoutes("", "", "guarantee: best_effort"), []string{
			"lk.yaml:1:19: error: defaults.lane.guarantee" + none,
		}},
		{"none, and another section is filled", "coordinator: {etcd: {endpoints: [\"e:1\"]}}\n" + strictRoutes(strictLane), []string{
			"lk.yaml:1:15: warning: coordinator.etcd: never used: coordinator.type is none",
			"lk.yaml:4:93: error: routes[0].lane.guarantee" + none,
		}},
		{"nothing to be strict about", strictRoutes(
			"guarantee: strict, mode: observe",
			"guarantee: strict, exclusive: [], shared: [], bypass: [\"*\"], max_depth: 1",
			"guarantee: best_effort",
		), []string{
			"lk.yaml:4:48: warning: routes[1].key: never used: the lane lets every method pass",
		}},
		{"no method of the route queues", strings.Replace(strictRoutes(strictLane), "match: {", "match: {methods: [OPTIONS], ", 1), nil},
		{"a method of the route is shared", strings.Replace(strictRoutes(strictLane), "match: {", "match: {methods: [OPTIONS, GET], ", 1), []string{
			"lk.yaml:3:118: error: routes[0].lane.guarantee" + none,
		}},
		{"reads are under a lease as well", strictRoutes("guarantee: strict, exclusive: [], shared: [GET], bypass: [\"*\"]"), []string{
			"lk.yaml:3:93: error: routes[0].lane.guarantee" + none,
		}},
		{"a method in no list is", strictRoutes("guarantee: strict, exclusive: []"), []string{
			"lk.yaml:3:93: error: routes[0].lane.guarantee" + none,
		}},
		{"etcd", someEtcd + strictRoutes(strictLane), nil},
		{"no cluster", someEtcd + strings.TrimSuffix(strictRoutes(strictLane), aCluster), []string{
			"lk.yaml:4:93: error: routes[0].lane.guarantee: strict needs cluster.enabled: true, of which this node may be the only member; or write best_effort",
		}},
		{"redlock", redlock(strings.ReplaceAll(strictRoutes("", strictLane, strictLane), "name: b", "name: transfers")), []string{
			"lk.yaml:1:15: error: coordinator.type: redlock has no fencing token; routes[1] (transfers) is strict",
		}},
		{"redlock, no strict route", redlock(strictRoutes("")), []string{
			"lk.yaml:1:15: warning: coordinator.type: redlock is used for nothing: it has no fencing token, so no route can be strict with it, and no route has lane.hot with action: spill and backend: coordinator",
		}},
		{"a type that is none of them", "coordinator: {type: consul}\n" + strictRoutes(strictLane), []string{
			`lk.yaml:1:15: error: coordinator.type: "consul" is not one of none, etcd, zookeeper, redis, redlock`,
		}},
		{"a guarantee that is none of them", strictRoutes("guarantee: exactly_once"), []string{
			`lk.yaml:3:93: error: routes[0].lane.guarantee: "exactly_once" is not one of best_effort, strict`,
		}},
	})
}

// Mutants killed: only the first route of a space is looked at; observed routes
// are compared; routes that only read are.
func TestConfigLanesAreStrictOrNot(t *testing.T) {
	routes := func(lanes ...string) string {
		all := strictRoutes(lanes...)
		for _, space := range []string{"b", "c"} {
			all = strings.ReplaceAll(all, "space: "+space, "space: a")
		}
		return someEtcd + all
	}
	const agree = " of the same space a says %: routes with exclusive methods that share lanes must agree, or a request of one may run beside the other's when the network splits"
	runProblemTests(t, []problemTest{
		{"the second is strict", routes("", strictLane), []string{
			"lk.yaml:5:93: error: routes[1].lane.guarantee: strict, but routes[0] (a)" + strings.Replace(agree, "%", "best_effort", 1),
		}},
		{"the third is not", routes(strictLane, strictLane, ""), []string{
			"lk.yaml:6:86: error: routes[2].lane.guarantee: best_effort, but routes[0] (a)" + strings.Replace(agree, "%", "strict", 1),
		}},
		{"all are", routes(strictLane, strictLane, strictLane), nil},
		{"who only reads", routes(strictLane, "exclusive: [], shared: [\"*\"]", strictLane), nil},
		{"who only watches", routes(strictLane+", mode: observe", "mode: observe"), nil},
	})
}

// Mutants killed: the timeout is compared with lease_ttl alone; with zookeeper as
// with etcd; the same default is complained of for each route.
func TestConfigStrictTimeouts(t *testing.T) {
	const told = ", but a strict request is told a Lanekeeper-Deadline within its node's lease, so %s from its start at most (coordinator.lease_ttl is 10s, safety_margin 3s): lower the timeout, or raise lease_ttl"
	within := func(most string) string { return strings.Replace(told, "%s", most, 1) }
	zookeeper := "coordinator: {type: zookeeper, zookeeper: {servers: [\"z:1\"]}}\n"
	strict := func(timeout string) string { return strictRoutes("guarantee: strict, upstream_timeout: " + timeout) }
	runProblemTests(t, []problemTest{
		{"as long as a lease", someEtcd + strict("7s"), nil},
		{"longer", someEtcd + strict("7001ms"), []string{
			"lk.yaml:4:112: warning: routes[0].lane.upstream_timeout: 7.001s" + within("7s"),
		}},
		{"longer in zookeeper", zookeeper + strict("3667ms"), []string{
			"lk.yaml:4:112: warning: routes[0].lane.upstream_timeout: 3.667s" + within("3.666s"),
		}},
		{"as long as one in zookeeper", zookeeper + strict("3666ms"), nil},
		{"by default, once", someEtcd + strictRoutes("guarantee: strict", "guarantee: strict"), []string{
			"lk.yaml: warning: defaults.lane.upstream_timeout: 30s" + within("7s"),
		}},
		{"by the file's default, once", "defaults: {lane: {guarantee: strict, upstream_timeout: 8s}}\n" + someEtcd + strictRoutes("", ""), []string{
			"lk.yaml:1:38: warning: defaults.lane.upstream_timeout: 8s" + within("7s"),
		}},
		{"not strict", someEtcd + strictRoutes("upstream_timeout: 1m"), nil},
	})
}

// Mutants killed: each condition of checkStore and checkAddress turned round or
// left out.
func TestConfigStoreAddresses(t *testing.T) {
	store := func(kind, list string) string {
		setting := map[string]string{"etcd": "endpoints", "zookeeper": "servers"}[kind]
		if setting == "" {
			setting = "addresses"
		}
		return "coordinator:\n  type: " + kind + "\n  safety_margin: 1s\n  " + kind + ":\n    " + setting + ": [" + list + "]\n" + strictRoutes("")
	}
	const (
		forms   = "https://host:port, http://host:port or host:port"
		redlock = "lk.yaml:2:3: warning: coordinator.type: redlock is used for nothing: it has no fencing token, so no route can be strict with it, and no route has lane.hot with action: spill and backend: coordinator"
	)
	wrong := func(place, path, message string) []string {
		return []string{"lk.yaml:" + place + ": error: coordinator." + path + ": " + message}
	}
	runProblemTests(t, []problemTest{
		{"no section", "coordinator: {type: etcd}\n" + strictRoutes(""), wrong("1:1", "etcd.endpoints", "required, since coordinator.type is etcd: its members, like https://etcd-0:2379")},
		{"no endpoints", store("etcd", ""), wrong("5:5", "etcd.endpoints", "required, since coordinator.type is etcd: its members, like https://etcd-0:2379")},
		{"no servers", store("zookeeper", ""), wrong("5:5", "zookeeper.servers", "required, since coordinator.type is zookeeper: its servers, like zk-0:2181")},
		{"no address", store("redis", ""), wrong("5:5", "redis.addresses", "required, since coordinator.type is redis: the master, like redis:6379")},
		{"no masters", store("redlock", ""), append([]string{redlock}, wrong("5:5", "redlock.addresses", "required, since coordinator.type is redlock: an odd number of masters, at least 3, like redis-0:6379")...)},

		{"endpoints", store("etcd", `"https://e:1", "https://[::1]:65535", "https://10.0.0.1:2379"`), nil},
		{"endpoints without TLS", store("etcd", `"http://e:1", "http://f:1"`), nil},
		{"endpoints without scheme", store("etcd", `"e:1", "[::1]:2", "localhost:3"`), nil},
		{"endpoint without port", store("etcd", `"https://e"`), wrong("5:17", "etcd.endpoints[0]", `"https://e" is not a member of an etcd cluster: write `+forms)},
		{"endpoint with a path", store("etcd", `"https://e:1/"`), wrong("5:17", "etcd.endpoints[0]", `"https://e:1/" is more than a host and a port: write `+forms)},
		{"endpoint with a password", store("etcd", `"https://u:secret@e:1"`), wrong("5:17", "etcd.endpoints[0]", `"…@e:1" is more than a host and a port: write `+forms)},
		{"endpoint of another scheme", store("etcd", `"redis://e:1"`), wrong("5:17", "etcd.endpoints[0]", `redis is not http or https: write `+forms)},
		{"endpoint, no port number", store("etcd", `"http://e:etcd"`), wrong("5:17", "etcd.endpoints[0]", `"http://e:etcd" is more than a host and a port: write `+forms)},
		{"endpoint on port 0", store("etcd", `"e:0"`), wrong("5:17", "etcd.endpoints[0]", `"0" is not a port: a number from 1 to 65535`)},
		{"endpoint everywhere", store("etcd", `":2379"`), wrong("5:17", "etcd.endpoints[0]", `":2379" is not a member of an etcd cluster: write `+forms)},
		{"endpoint given twice", store("etcd", `"e:1", "f:1", "e:1"`), wrong("5:31", "etcd.endpoints[2]", `e:1 is given twice`)},
		{"two schemes", store("etcd", `"https://e:1", "http://f:1", "g:1"`), wrong("5:32", "etcd.endpoints[1]", `http://f:1, but https://e:1: all endpoints are with TLS, or none`)},
		{"a scheme and none", store("etcd", `"e:1", "http://f:1"`), wrong("5:24", "etcd.endpoints[1]", `http://f:1, but e:1: all endpoints are with TLS, or none`)},
		{"TLS that is dropped", strings.Replace(store("etcd", `"http://e:1"`), "    endpoints", "    tls: {ca_file: a}\n    endpoints", 1),
			wrong("6:17", "etcd.endpoints[0]", `http://e:1 is without TLS, and coordinator.etcd.tls is given: write https://, or leave tls out`)},

		{"servers", store("zookeeper", `"zk-0:2181", "10.0.0.1:2181", "[fd00::1]:2181"`), nil},
		{"server with a scheme", store("zookeeper", `"http://z:1"`), wrong("5:15", "zookeeper.servers[0]", `"http://z:1" is not the address of a server: write host:port`)},
		{"server with a chroot", store("zookeeper", `"z:1/lk"`), wrong("5:15", "zookeeper.servers[0]", `"1/lk" is not a port: a number from 1 to 65535`)},
		{"server without port", store("zookeeper", `"z"`), wrong("5:15", "zookeeper.servers[0]", `"z" is not the address of a server: write host:port`)},
		{"server given twice", store("zookeeper", `"z:1", "z:1"`), wrong("5:22", "zookeeper.servers[1]", `z:1 is given twice`)},

		{"a master", store("redis", `"redis:6379"`), nil},
		{"a master everywhere", store("redis", `"0.0.0.0:6379"`), wrong("5:17", "redis.addresses[0]", `"0.0.0.0:6379" is not the address of a server: write host:port`)},
		{"a URL", store("redis", `"redis://:secret@redis:6379"`), wrong("5:17", "redis.addresses[0]", `"…@redis:6379" is not the address of a server: write host:port`)},
		{"two masters", store("redis", `"a:1", "b:1"`), wrong("5:5", "redis.addresses",
			"2 addresses, and locks are kept on one master: give its address alone. Replicas are no use here; a store that outlives a machine is etcd or zookeeper")},

		{"three masters", store("redlock", `"a:1", "b:1", "c:1"`), []string{redlock}},
		{"one of several", store("redlock", `"a:1"`), append([]string{redlock}, wrong("5:5", "redlock.addresses", "1 addresses: locks are kept on the majority of an odd number of masters, at least 3")...)},
		{"four masters", store("redlock", `"a:1", "b:1", "c:1", "d:1"`), append([]string{redlock}, wrong("5:5", "redlock.addresses", "4 addresses: locks are kept on the majority of an odd number of masters, at least 3")...)},

		{"sections of other types", "coordinator: {type: redis, redis: {addresses: [\"a:1\"]}, etcd: {username: u}, zookeeper: {servers: [\"b:1\"]}, redlock: {db: 1}}\n" + strictRoutes(""), []string{
			"lk.yaml:1:57: warning: coordinator.etcd: never used: coordinator.type is redis",
			"lk.yaml:1:78: warning: coordinator.zookeeper: never used: coordinator.type is redis",
			"lk.yaml:1:109: warning: coordinator.redlock: never used: coordinator.type is redis",
		}},
		{"sections that say nothing", "coordinator: {type: redis, redis: {addresses: [\"a:1\"]}, etcd: {endpoints: [], tls: {ca_file: \"\"}}}\n" + strictRoutes(""), nil},
	})
}

// Mutants killed: redis is asked for a user; a certificate passes without its key.
func TestConfigStoreAccess(t *testing.T) {
	store := func(kind, more string) string {
		list := map[string]string{"etcd": "endpoints", "zookeeper": "servers", "redis": "addresses"}[kind]
		return "coordinator:\n  type: " + kind + "\n  " + kind + ":\n    " + list + ": [\"a:1\"]\n    " + more + "\n" + strictRoutes("")
	}
	runProblemTests(t, []problemTest{
		{"etcd", store("etcd", "username: u\n    password_file: /run/p"), nil},
		{"etcd, no password", store("etcd", "username: u"), []string{
			"lk.yaml:3:3: error: coordinator.etcd.password_file: required, since username is u: etcd takes both or neither",
		}},
		{"etcd, no user", store("etcd", "password_file: /run/p"), []string{
			"lk.yaml:3:3: error: coordinator.etcd.username: required, since there is a password_file: etcd takes both or neither",
		}},
		{"zookeeper, no password", store("zookeeper", "username: u"), []string{
			"lk.yaml:3:3: error: coordinator.zookeeper.password_file: required, since username is u: zookeeper takes both or neither",
		}},
		{"zookeeper, no user", store("zookeeper", "password_file: /run/p"), []string{
			"lk.yaml:3:3: error: coordinator.zookeeper.username: required, since there is a password_file: zookeeper takes both or neither",
		}},
		{"zookeeper, both in one", store("zookeeper", "username: \"u:p\"\n    password_file: /run/p"), []string{
			`lk.yaml:5:5: error: coordinator.zookeeper.username: "u:p" has a colon, behind which zookeeper expects the password`,
		}},
		{"redis, the user of all", store("redis", "password_file: /run/p"), nil},
		{"redis, a user without password", store("redis", "username: u"), nil},
		{"all of TLS", store("etcd", "tls: {ca_file: a, cert_file: b, key_file: c, server_name: d}"), nil},
		{"a name is enough", store("redis", "tls: {server_name: d}"), nil},
		{"no key", store("redis", "tls: {cert_file: b}"), []string{
			"lk.yaml:5:5: error: coordinator.redis.tls.key_file: required, since cert_file is given: a certificate is of use with its private key alone",
		}},
		{"no certificate", store("zookeeper", "tls: {key_file: b}"), []string{
			"lk.yaml:5:5: error: coordinator.zookeeper.tls.cert_file: required, since key_file is given: a private key is of use with its certificate alone",
		}},
		{"no name", store("etcd", "tls: {server_name: \"*.etcd\"}"), []string{
			`lk.yaml:5:11: error: coordinator.etcd.tls.server_name: "*.etcd" is not a host name: write it without port and wildcards`,
		}},
		{"database", store("redis", "db: -1"), []string{
			`lk.yaml:5:5: error: coordinator.redis.db: want a whole number, got "-1"`,
		}},
	})
}

// Mutants killed: a bound moved by one millisecond; zookeeper's third is a half.
func TestConfigLease(t *testing.T) {
	lease := func(kind, ttl, margin string) string {
		list := map[string]string{"etcd": "endpoints", "zookeeper": "servers", "redis": "addresses"}[kind]
		return "coordinator:\n  type: " + kind + "\n  lease_ttl: " + ttl + "\n  safety_margin: " + margin + "\n  " + kind + ": {" + list + ": [\"a:1\"]}\n" + strictRoutes("")
	}
	ttl := func(message string) []string {
		return []string{"lk.yaml:3:3: error: coordinator.lease_ttl: " + message}
	}
	margin := func(margin, part, ttl, kind string) []string {
		return []string{"lk.yaml:4:3: error: coordinator.safety_margin: " + margin + " is not less than " + part + " of lease_ttl (" + ttl + "), so a node with " + kind + " would hardly ever hold a lease: lower it, or raise lease_ttl"}
	}
	runProblemTests(t, []problemTest{
		{"etcd, the least", lease("etcd", "2s", "999ms"), nil},
		{"etcd, half", lease("etcd", "2s", "1s"), margin("1s", "half", "2s", "etcd")},
		{"etcd, too short", lease("etcd", "1s", "1ms"), ttl("1s is not of whole seconds, at least 2s, as etcd counts")},
		{"etcd, part of a second", lease("etcd", "2500ms", "1ms"), ttl("2.5s is not of whole seconds, at least 2s, as etcd counts")},
		{"redis, the least", lease("redis", "100ms", "49ms"), nil},
		{"redis, half", lease("redis", "100ms", "50ms"), margin("50ms", "half", "100ms", "redis")},
		{"redis, too short", lease("redis", "99ms", "1ms"), ttl("99ms is too small: at least 100ms")},
		{"zookeeper, the least", lease("zookeeper", "500ms", "166ms"), nil},
		{"zookeeper, a third", lease("zookeeper", "600ms", "200ms"), margin("200ms", "a third", "600ms", "zookeeper")},
		{"zookeeper, half", lease("zookeeper", "10s", "4s"), margin("4s", "a third", "10s", "zookeeper")},
		{"zookeeper, too short", lease("zookeeper", "499ms", "1ms"), ttl("499ms is too short for zookeeper: at least 500ms")},
		{"zookeeper, too long", lease("zookeeper", "597h", "1ms"), ttl("597h is longer than zookeeper can count: at most 596h31m23.647s")},
		{"no margin", lease("etcd", "2s", "0s"), []string{"lk.yaml:4:3: error: coordinator.safety_margin: 0s is too small: at least 1ms"}},
		{"no time", "coordinator: {acquire_timeout: 0s}\n" + strictRoutes(""), []string{"lk.yaml:1:15: error: coordinator.acquire_timeout: 0s is too small: at least 1ms"}},
		{"none counts no leases", "coordinator: {lease_ttl: 1s, safety_margin: 5s, key_prefix: \"\"}\n" + strictRoutes(""), nil},
	})
}

// Mutants killed: a prefix is judged as of another store's.
func TestConfigKeyPrefix(t *testing.T) {
	prefix := func(kind, prefix string) string {
		list := map[string]string{"etcd": "endpoints", "zookeeper": "servers", "redis": "addresses", "redlock": "addresses"}[kind]
		return "coordinator: {type: " + kind + ", key_prefix: \"" + prefix + "\", " + kind + ": {" + list + ": [\"a:1\"]}}\n" + strictRoutes("")
	}
	wrong := func(place, message string) []string {
		return []string{"lk.yaml:1:" + place + ": error: coordinator.key_prefix: " + message}
	}
	runProblemTests(t, []problemTest{
		{"etcd", prefix("etcd", "lk {prod}/"), nil},
		{"none in etcd", prefix("etcd", ""), wrong("27", "required: what this cluster keeps in etcd must be told from what others keep there")},
		{"redis", prefix("redis", "lk:prod"), nil},
		{"none in redis", prefix("redis", ""), wrong("28", "required: what this cluster keeps in redis must be told from what others keep there")},
		{"a hash tag", prefix("redis", "{lk}"), wrong("28", `"{lk}" has a brace, by which redis says which keys belong together: leave it out`)},
		{"zookeeper", prefix("zookeeper", "/lk-1/prod_2"), nil},
		{"none in zookeeper", prefix("zookeeper", ""), wrong("32", "required: what this cluster keeps in zookeeper must be told from what others keep there")},
		{"no path", prefix("zookeeper", "lk"), wrong("32", `"lk" is not a path in zookeeper: write one of letters, digits, - and _, like /lanekeeper/prod`)},
		{"a slash too many", prefix("zookeeper", "/lk/"), wrong("32", `"/lk/" is not a path in zookeeper: write one of letters, digits, - and _, like /lanekeeper/prod`)},
		{"the root", prefix("zookeeper", "/"), wrong("32", `"/" is not a path in zookeeper: write one of letters, digits, - and _, like /lanekeeper/prod`)},
		{"zookeeper's own", prefix("zookeeper", "/zookeeper/lk"), wrong("32", `/zookeeper/lk is zookeeper's own: write another path, like /lanekeeper/prod`)},
		{"like zookeeper's own", prefix("zookeeper", "/zookeepers"), nil},
	})
}
