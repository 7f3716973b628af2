package main

import "testing"

// Mutants killed: overlaps ignores everyAddress, or compares no ports;
// callsItself is never true; prefixes are not masked.
func TestConfigListenersAndTargets(t *testing.T) {
	targets := func(list string) string {
		return someRoute + "upstreams: [{name: app, targets: [" + list + "]}]\n"
	}
	runProblemTests(t, []problemTest{
		{"no address", "server: {listen: \"7940\"}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.listen: "7940" is not an address: write host:port or :port`,
		}},
		{"no port", "server: {listen: \":http\"}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.listen: "http" is not a port: a number from 0 to 65535`,
		}},
		{"port too large", "observe: {listen: \":65536\"}\n" + someApp, []string{
			`lk.yaml:1:11: error: observe.listen: "65536" is not a port: a number from 0 to 65535`,
		}},
		{"no host", "server: {listen: \"a b:1\"}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.listen: "a b" is neither a host name nor an IP address`,
		}},
		{"IPv6 and names", "server: {listen: \"[::1]:65535\"}\nobserve: {listen: \"localhost:0\"}\n" + someApp, nil},
		{"two listeners on one address", "server: {listen: \"10.0.0.1:7941\"}\n" + someApp, []string{
			`lk.yaml: error: observe.listen: :7941 is taken by server.listen (10.0.0.1:7941)`,
		}},
		{"two listeners on one host", "observe: {listen: \"10.0.0.1:7940\"}\nserver: {listen: \"10.0.0.1:7940\"}\n" + someApp, []string{
			`lk.yaml:1:11: error: observe.listen: 10.0.0.1:7940 is taken by server.listen (10.0.0.1:7940)`,
		}},
		{"one port on two hosts", "observe: {listen: \"10.0.0.1:1\"}\nserver: {listen: \"10.0.0.2:1\"}\n" + someApp, nil},
		{"new ports", "observe: {listen: \":0\"}\nserver: {listen: \":0\"}\n" + someApp, nil},
		{"the PROXY protocol of nobody", "server: {proxy_protocol: required}\n" + someApp, []string{
			`lk.yaml:1:1: error: server.trusted_proxies: required, since server.proxy_protocol is required: it is believed from nobody else`,
		}},
		{"the PROXY protocol", "server: {proxy_protocol: optional, trusted_proxies: [10.0.0.0/8]}\n" + someApp, nil},
		{"authorities alone", "server:\n  tls:\n    client_ca_file: ca\n" + someApp, []string{
			`lk.yaml:2:3: error: server.tls.cert_file: required, since another file of server.tls is given: TLS wants a certificate and its private key`,
			`lk.yaml:2:3: error: server.tls.key_file: required, since another file of server.tls is given: TLS wants a certificate and its private key`,
		}},
		{"a key without a certificate", "server: {tls: {key_file: a}}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.tls.cert_file: required, since another file of server.tls is given: TLS wants a certificate and its private key`,
		}},
		{"TLS", "server: {tls: {cert_file: a, key_file: b, client_ca_file: c}}\n" + someApp, nil},
		{"trusted proxies", "server:\n  trusted_proxies:\n    - 10.0.0.0/8\n    - fd00::/8\n    - 10.0.0.1\n    - ::1\n    - 10.1.2.3/8\n    - lb.example.com\n" + someApp, []string{
			`lk.yaml:5:7: error: server.trusted_proxies[2]: 10.0.0.1 has no prefix length: write 10.0.0.1/32`,
			`lk.yaml:6:7: error: server.trusted_proxies[3]: ::1 has no prefix length: write ::1/128`,
			`lk.yaml:7:7: error: server.trusted_proxies[4]: 10.1.2.3/8 has bits beyond its prefix length: write 10.0.0.0/8`,
			`lk.yaml:8:7: error: server.trusted_proxies[5]: "lb.example.com" is not a CIDR like 10.0.0.0/8`,
		}},
		{"targets", targets(`"http://a", "http://a:8080", "http://10.0.0.1:1", "http://[::1]:2", "http://a_b.c-d:65535"`), nil},
		{"targets of every kind", targets(`"https://a", "unix:///run/app.sock", "dns+http://b:1", "dns+https://c"`), nil},
		{"a socket without its third slash", targets(`"unix://run/app.sock"`), []string{
			`lk.yaml:2:35: error: upstreams[0].targets[0]: "unix://run/app.sock" is not a socket: write unix:///path, with three slashes`,
		}},
		{"an address to look up", targets(`"dns+http://10.0.0.1:1"`), []string{
			`lk.yaml:2:35: error: upstreams[0].targets[0]: dns+http://10.0.0.1:1: an IP address is not looked up: write http://10.0.0.1:1`,
		}},
		{"a lookup with a path", targets(`"dns+https://a/b"`), []string{
			`lk.yaml:2:35: error: upstreams[0].targets[0]: dns+https://a/b: a target is a host and a port: write dns+https://a`,
		}},
		{"no URL", targets(`"a:8080"`), []string{
			`lk.yaml:2:35: error: upstreams[0].targets[0]: "a:8080" is not a target: write http://host:port`,
		}},
		{"no host in a target", targets(`"http://:8080"`), []string{
			`lk.yaml:2:35: error: upstreams[0].targets[0]: "http://:8080" is not a target: write http://host:port`,
		}},
		{"no port in a target", targets(`"http://a:"`), []string{
			`lk.yaml:2:35: error: upstreams[0].targets[0]: http://a: has no port behind its colon`,
		}},
		{"port 0", targets(`"http://a:0"`), []string{
			`lk.yaml:2:35: error: upstreams[0].targets[0]: http://a:0: "0" is not a port: a number from 1 to 65535`,
		}},
		{"path in a target", targets(`"http://a:1/"`), []string{
			`lk.yaml:2:35: error: upstreams[0].targets[0]: http://a:1/: a target is a host and a port: write http://a:1`,
		}},
		{"user in a target", targets(`"http://me@a:1"`), []string{
			`lk.yaml:2:35: error: upstreams[0].targets[0]: http://me@a:1: a target is a host and a port: write http://a:1`,
		}},
		{"target given twice", targets(`"http://a", "http://b", "http://a:80"`), []string{
			`lk.yaml:2:59: error: upstreams[0].targets[2]: http://a:80 is given twice`,
		}},
		{"own listener", targets(`"http://localhost:7940", "http://127.0.0.1:7940", "http://127.0.0.1:7941"`), []string{
			`lk.yaml:2:35: error: upstreams[0].targets[0]: http://localhost:7940 is this node's own server.listen (:7940): it would call itself`,
			`lk.yaml:2:60: error: upstreams[0].targets[1]: http://127.0.0.1:7940 is this node's own server.listen (:7940): it would call itself`,
		}},
		{"own listener on one address", "server: {listen: \"10.0.0.1:1\"}\n" + targets(`"http://127.0.0.1:1", "http://10.0.0.1:1"`), []string{
			`lk.yaml:3:57: error: upstreams[0].targets[1]: http://10.0.0.1:1 is this node's own server.listen (10.0.0.1:1): it would call itself`,
		}},
		{"no targets", targets(""), []string{
			`lk.yaml:2:25: error: upstreams[0].targets: required: at least one, like http://127.0.0.1:8080`,
		}},
		{"names of upstreams", "upstreams: [{targets: [\"http://a:1\"]}, {name: app, targets: [\"http://a:1\"]}, {name: app, targets: [\"http://a:1\"]}, {name: idle, targets: [\"http://a:1\"]}]\n" + someRoute, []string{
			`lk.yaml:1:13: error: upstreams[0].name: required`,
			`lk.yaml:1:79: error: upstreams[2].name: app is the name of upstreams[1] already`,
			`lk.yaml:1:116: warning: upstreams[3]: no route uses the upstream idle`,
		}},
		{"bounds below a body", "server: {max_body: 2MiB}\nlimits: {max_queued_bytes: 1MiB}\ndefaults: {lane: {max_bytes: 1KiB}}\n" + someApp, []string{
			`lk.yaml:2:10: warning: limits.max_queued_bytes: 1MiB is less than server.max_body (2MiB): such a body is always refused`,
			`lk.yaml:5:10: warning: routes[0].lane.max_bytes: 1KiB is less than server.max_body (2MiB): such a body is always refused`,
		}},
	})
}

// Mutants killed: no key is asked for; agreement compares with every route.
func TestConfigRoutes(t *testing.T) {
	const key = "key: {space: s, from: [{header: H}]}"
	route := func(more string) string {
		return someUpstream + "routes:\n  - name: a\n    upstream: app\n    " + more + "\n"
	}
	runProblemTests(t, []problemTest{
		{"required", someUpstream + "routes: [{}]\n", []string{
			`lk.yaml:2:10: error: routes[0].key: required, since its requests queue; a route that orders nothing says lane: {exclusive: [], shared: [], bypass: ["*"]}`,
			`lk.yaml:2:10: error: routes[0].name: required`,
			`lk.yaml:2:10: error: routes[0].upstream: required: the name of an upstream`,
		}},
		{"unknown upstream", someUpstream + "routes: [{name: a, upstream: ap, " + key + "}]\n", []string{
			`lk.yaml:2:20: error: routes[0].upstream: there is no upstream "ap" (did you mean "app"?)`,
		}},
		{"name given twice", someUpstream + "routes:\n  - {name: a, match: {host: a}, upstream: app, " + key + "}\n  - {name: a, match: {host: b}, upstream: app, " + key + "}\n", []string{
			`lk.yaml:4:6: error: routes[1].name: a is the name of routes[0] already`,
		}},
		{"no key", route("lane: {max_depth: 3}"), []string{
			`lk.yaml:3:5: error: routes[0].key: required, since its requests queue; a route that orders nothing says lane: {exclusive: [], shared: [], bypass: ["*"]}`,
		}},
		{"no key, half a bypass", route("lane: {bypass: [\"*\"]}"), []string{
			`lk.yaml:3:5: error: routes[0].key: required, since its requests queue; a route that orders nothing says lane: {exclusive: [], shared: [], bypass: ["*"]}`,
		}},
		{"no key, unnamed methods", route("lane: {exclusive: [], shared: [], bypass: [GET]}"), []string{
			`lk.yaml:3:5: error: routes[0].key: required, since its requests queue; a route that orders nothing says lane: {exclusive: [], shared: [], bypass: ["*"]}`,
		}},
		{"key without need", route(key + "\n    lane: {exclusive: [], shared: [], bypass: [\"*\"]}"), []string{
			`lk.yaml:5:5: warning: routes[0].key: never used: the lane lets every method pass`,
		}},
		{"half a key", route("key: {missing: bypass}"), []string{
			`lk.yaml:5:5: error: routes[0].key.from: required: at least one source, like [{header: X-Order-Id}]`,
			`lk.yaml:5:5: error: routes[0].key.space: required; routes that share keys must name the same space`,
		}},
		{"space", route("key: {space: Order, from: [{header: H}]}"), []string{
			`lk.yaml:5:11: error: routes[0].key.space: "Order" does not match [a-z0-9_-]{1,32}`,
		}},
		{"headers that do not reach the service", route("key:\n      space: s\n      from: [{header: Connection}, {header: cookie}, {header: X-Forwarded-For}]"), []string{
			`lk.yaml:7:15: error: routes[0].key.from[0].header: Connection does not reach the service as it was sent, so it cannot hold a key`,
			`lk.yaml:7:37: error: routes[0].key.from[1].header: cookie does not reach the service as it was sent, so it cannot hold a key`,
			`lk.yaml:7:55: error: routes[0].key.from[2].header: X-Forwarded-For does not reach the service as it was sent, so it cannot hold a key`,
		}},
		{"sources", route("match: {path: \"/{order_id}/{rest...}\"}\n    key:\n      space: s\n      from:\n" +
			"        - {}\n        - {header: A, query: b}\n        - {path: id}\n        - {path: orderid}\n        - {path: rest}\n        - {header: \"a b\"}\n" +
			"        - {cookie: \"a;b\"}\n        - {json: \"a.#.b\"}\n        - {header: Lanekeeper-Key}\n        - {all: [{header: A}, {}]}\n        - {all: [{header: A}], query: b}\n        - {all: []}"), []string{
			`lk.yaml:9:11: error: routes[0].key.from[0]: want exactly one of path, header, query, cookie, json, all`,
			`lk.yaml:10:11: error: routes[0].key.from[1]: want exactly one of path, header, query, cookie, json, all`,
			`lk.yaml:11:12: error: routes[0].key.from[2].path: /{order_id}/{rest...} has no wildcard "id" (did you mean "order_id"?)`,
			`lk.yaml:12:12: error: routes[0].key.from[3].path: /{order_id}/{rest...} has no wildcard "orderid" (did you mean "order_id"?)`,
			`lk.yaml:14:12: error: routes[0].key.from[5].header: "a b" is not the name of a header`,
			`lk.yaml:15:12: error: routes[0].key.from[6].cookie: "a;b" is not the name of a cookie`,
			`lk.yaml:16:12: error: routes[0].key.from[7].json: a.#.b: # is not allowed: write members joined by dots, like data.order.id or items.0.id`,
			`lk.yaml:17:12: error: routes[0].key.from[8].header: Lanekeeper-Key is never there: Lanekeeper-* headers of clients are removed`,
			`lk.yaml:18:31: error: routes[0].key.from[9].all[1]: want exactly one of path, header, query, cookie, json`,
			`lk.yaml:19:11: error: routes[0].key.from[10]: want exactly one of path, header, query, cookie, json, all`,
			`lk.yaml:20:11: error: routes[0].key.from[11]: want exactly one of path, header, query, cookie, json, all`,
		}},
		{"source without a path", route("key: {space: s, from: [{path: id}]}"), []string{
			`lk.yaml:5:29: error: routes[0].key.from[0].path: the route has no match.path to take id from`,
		}},
		{"path", route("match: {path: \"/a{b}\"}\n    key: {space: s, from: [{path: b}]}"), []string{
			`lk.yaml:5:13: error: routes[0].match.path: path template "/a{b}": segment "a{b}": a wildcard must be the whole segment`,
		}},
		{"match", route(key + "\n    match: {host: \"a.b:80\", methods: [POST, get, \"*\", CONNECT, POST], headers: [{value: a}]}"), []string{
			`lk.yaml:6:13: error: routes[0].match.host: "a.b:80" is not a host name: write it without port and wildcards`,
			`lk.yaml:6:45: error: routes[0].match.methods[1]: "get" is not a method: they are in upper case, like POST`,
			`lk.yaml:6:50: error: routes[0].match.methods[2]: * stands for nothing here: leave methods out to match them all`,
			`lk.yaml:6:55: error: routes[0].match.methods[3]: CONNECT is never forwarded`,
			`lk.yaml:6:64: error: routes[0].match.methods[4]: POST is given twice`,
			`lk.yaml:6:81: error: routes[0].match.headers[0].name: "" is not the name of a header`,
		}},
		{"method in two lists", route(key + "\n    lane: {shared: [GET, POST]}"), []string{
			`lk.yaml:6:12: error: routes[0].lane.shared: POST is in exclusive too: a method belongs to one list`,
		}},
		{"star in two lists", route(key + "\n    lane: {shared: [\"*\"], bypass: [\"*\"]}"), []string{
			`lk.yaml:6:27: error: routes[0].lane.bypass: * is in shared too: a method belongs to one list`,
		}},
		{"methods of a lane", route(key + "\n    lane: {exclusive: [post], shared: [TRACE], bypass: [GET, GET]}"), []string{
			`lk.yaml:6:12: error: routes[0].lane.exclusive: "post" is not a method: they are in upper case, like POST`,
			`lk.yaml:6:31: error: routes[0].lane.shared: TRACE is never forwarded`,
			`lk.yaml:6:48: error: routes[0].lane.bypass: GET is given twice`,
		}},
		{"methods of the defaults, once", "defaults: {lane: {shared: [GET, POST]}}\n" + someApp, []string{
			`lk.yaml:1:19: error: defaults.lane.shared: POST is in exclusive too: a method belongs to one list`,
		}},
		{"modes of a space", someUpstream + "routes:\n" +
			"  - {name: a, match: {host: a}, upstream: app, " + key + "}\n" +
			"  - {name: b, match: {host: b}, upstream: app, " + key + ", lane: {mode: observe}}\n" +
			"  - {name: c, match: {host: c}, upstream: app, " + key + ", lane: {mode: observe, exclusive: [], shared: [\"*\"]}}\n" +
			"  - {name: d, match: {host: d, methods: [GET]}, upstream: app, " + key + ", lane: {mode: observe}}\n" +
			"  - {name: e, match: {host: e}, upstream: app, key: {space: t, from: [{header: H}]}, lane: {mode: observe}}\n", []string{
			`lk.yaml:4:93: error: routes[1].lane.mode: observe, but routes[0] (a) of the same space s says enforce: routes with exclusive methods that share lanes must agree`,
		}},
		{"never reached", someUpstream + "routes:\n" +
			"  - {name: a, match: {path: /a}, upstream: app, " + key + "}\n" +
			"  - {name: rest, match: {path: \"/{rest...}\"}, upstream: app, " + key + "}\n" +
			"  - {name: legacy, match: {path: /legacy, host: a, methods: [GET]}, upstream: app, " + key + "}\n", []string{
			`lk.yaml:5:5: warning: routes[2] (legacy) can never match: routes[1] (rest) comes first`,
		}},
	})
}

// Mutants killed: class looks at * first; methods in no list are shared.
func TestConfigClassOfMethods(t *testing.T) {
	lane := LaneConfig{Exclusive: []string{"POST"}, Shared: []string{"GET"}, Bypass: []string{"OPTIONS"}}
	for _, test := range []struct{ star, method, want string }{
		{"", "POST", "exclusive"}, {"", "GET", "shared"}, {"", "OPTIONS", "bypass"}, {"", "LOCK", "exclusive"},
		{"shared", "POST", "exclusive"}, {"shared", "OPTIONS", "bypass"}, {"shared", "LOCK", "shared"},
		{"bypass", "POST", "exclusive"}, {"bypass", "GET", "shared"}, {"bypass", "LOCK", "bypass"},
	} {
		l := lane
		switch test.star {
		case "shared":
			l.Shared = []string{"GET", "*"}
		case "bypass":
			l.Bypass = []string{"*", "OPTIONS"}
		}
		if have := l.class(test.method); have != test.want {
			t.Errorf("* %s, %s: got %s, want %s", test.star, test.method, have, test.want)
		}
	}
}

// Mutants killed: hosts, methods or headers are ignored; one per line of
// coversPath.
func TestConfigMatchCovers(t *testing.T) {
	path := func(p string) MatchConfig { return MatchConfig{Path: p} }
	header := func(name, value string) MatchConfig { return MatchConfig{Headers: []HeaderConfig{{name, value}}} }
	for _, test := range []struct {
		a, b MatchConfig
		want bool
	}{
		{path(""), path(""), true},
		{path(""), path("/a"), true},
		{path("/a"), path(""), false},
		{path("/{rest...}"), path(""), true},
		{path("/"), path("/a/b"), true},
		{path("/a"), path("/a"), true},
		{path("/a"), path("/b"), false},
		{path("/a"), path("/a/b"), false},
		{path("/a/b"), path("/a"), false},
		{path("/a"), path("/{x}"), false},
		{path("/{x}"), path("/a"), true},
		{path("/{x}"), path("/{y}"), true},
		{path("/{x}"), path("/{$}"), false},
		{path("/{$}"), path("/{$}"), true},
		{path("/{$}"), path("/a"), false},
		{path("/{x}"), path("/{y...}"), false},
		{path("/{x...}"), path("/{y...}"), true},
		{path("/a/{x...}"), path("/a"), true},
		{path("/a/{x...}"), path("/a/"), true},
		{path("/a/{x...}"), path("/a/{y}/b"), true},
		{path("/a/{x...}"), path("/b"), false},
		{path("/a/{x...}"), path("/"), false},
		{path("/a/{x}"), path("/a/"), false},
		{MatchConfig{Host: "A"}, MatchConfig{Host: "a"}, true},
		{MatchConfig{Host: "a"}, MatchConfig{Host: "b"}, false},
		{MatchConfig{Host: "a"}, MatchConfig{}, false},
		{MatchConfig{}, MatchConfig{Host: "a"}, true},
		{MatchConfig{Methods: []string{"GET"}}, MatchConfig{}, false},
		{MatchConfig{Methods: []string{"GET", "HEAD"}}, MatchConfig{Methods: []string{"HEAD"}}, true},
		{MatchConfig{Methods: []string{"GET"}}, MatchConfig{Methods: []string{"GET", "HEAD"}}, false},
		{header("a", ""), header("A", "1"), true},
		{header("a", "1"), header("A", "1"), true},
		{header("a", "1"), header("a", "2"), false},
		{header("a", "1"), header("a", ""), false},
		{header("a", ""), MatchConfig{}, false},
	} {
		if have := test.a.covers(test.b); have != test.want {
			t.Errorf("%+v covers %+v: got %t, want %t", test.a, test.b, have, test.want)
		}
	}
}

// Mutant killed: \ is skipped together with whatever follows it.
func TestConfigJSONPath(t *testing.T) {
	const empty = `an empty member: write members joined by single dots, and \. for a dot within a name`
	bad := func(path, c string) string {
		return path + ": " + c + " is not allowed: write members joined by dots, like data.order.id or items.0.id"
	}
	for path, want := range map[string]string{
		"id":            "",
		"data.order.id": "",
		"items.0.id":    "",
		`a\.b.c`:        "",
		`\.`:            "",
		"größe":         "",
		"a-b_c d":       "",
		".":             empty,
		"a..b":          empty,
		".a":            empty,
		"a.":            empty,
		`a\`:            `a\: \ may only stand before a dot`,
		`a\\.b`:         `a\\.b: \ may only stand before a dot`,
		`a\*`:           `a\*: \ may only stand before a dot`,
		"a*":            bad("a*", "*"),
		"a?":            bad("a?", "?"),
		"items.#":       bad("items.#", "#"),
		"a|b":           bad("a|b", "|"),
		"@this":         bad("@this", "@"),
		"a[0]":          bad("a[0]", "["),
		"{a}":           bad("{a}", "{"),
		"a(b)":          bad("a(b)", "("),
		"!true":         bad("!true", "!"),
	} {
		if have := errorText(checkJSONPath(path)); have != want {
			t.Errorf("%s: got %q, want %q", path, have, want)
		}
	}
}
