package main

import "testing"

func TestConfigUpstreams(t *testing.T) {
	with := func(more string) string {
		return someRoute + "upstreams:\n  - name: app\n    targets: [\"https://a:1\"]\n    " + more + "\n"
	}
	runProblemTests(t, []problemTest{
		{"everything", with(`health: {path: "/healthz?deep=1"}
    circuit: {failures: 0}
    queue: 0
    slow_start: 1m
    limit: {mode: none, max: 1, min: 2}
    tls: {ca_file: /a, cert_file: /b, key_file: /c, server_name: d.e}`), nil},
		{"a relative path", with(`health: {path: healthz}`), []string{
			`lk.yaml:5:14: error: upstreams[0].health.path: "healthz" does not match (/[!-~]*)?`,
		}},
		{"never healthy", with(`health: {path: /, rise: 0}`), []string{
			`lk.yaml:5:23: error: upstreams[0].health.rise: 0 is too small: at least 1`,
		}},
		{"lookups without a pause", with(`dns_refresh: 0s`), []string{
			`lk.yaml:5:5: error: upstreams[0].dns_refresh: 0s is too small: at least 1s`,
		}},
		{"limits crossed", with(`limit: {mode: adaptive, max: 3, min: 4}`), []string{
			`lk.yaml:5:37: error: upstreams[0].limit.min: 4 is more than limit.max (3)`,
		}},
		{"a limit that nobody waits for", with("queue: 0\n    limit: {mode: fixed}"), []string{
			`lk.yaml:5:5: warning: upstreams[0].queue: nobody waits for limit: what is beyond it is refused`,
		}},
		{"a key alone", with(`tls: {key_file: /k}`), []string{
			`lk.yaml:5:5: error: upstreams[0].tls.cert_file: required with key_file`,
		}},
		{"a certificate alone", with(`tls: {cert_file: /c}`), []string{
			`lk.yaml:5:5: error: upstreams[0].tls.key_file: required with cert_file`,
		}},
		{"a server name that is none", with(`tls: {server_name: "a b"}`), []string{
			`lk.yaml:5:11: error: upstreams[0].tls.server_name: "a b" is neither a host name nor an IP address`,
		}},
		{"TLS for nothing", someRoute + "upstreams:\n  - name: app\n    targets: [\"http://a:1\"]\n    tls: {ca_file: /a}\n", []string{
			`lk.yaml:5:5: warning: upstreams[0].tls: never used: no target begins with https://`,
		}},
	})
}
