package main

import (
	"reflect"
	"strings"
	"testing"
)

// Mutants killed: a setting of the table is skipped whatever it says; an off
// value is refused; a section is refused at its own place only.
func TestConfigRefusesWhatIsNotBuilt(t *testing.T) {
	upstream := func(more string) string {
		return someRoute + "upstreams:\n  - name: app\n    targets: [\"http://a:1\"]\n    " + more + "\n"
	}
	refused := func(place, path, instead string) []string {
		if instead != "" {
			instead = ": " + instead
		}
		return []string{"lk.yaml:" + place + ": error: " + path + ": not yet supported in this version" + instead}
	}
	runProblemTests(t, []problemTest{
		{"dashboard", "admin: {ui: true}\n" + someApp, refused("1:9", "admin.ui", "leave it out or write false")},
		{"tracing", "tracing: {enabled: true}\n" + someApp, refused("1:11", "tracing.enabled", "leave it out or write false")},
		{"per address", "server: {max_connections_per_address: 5}\n" + someApp, refused("1:10", "server.max_connections_per_address", "leave it out or write 0")},
		{"health", upstream("health: {path: /healthz}"), refused("5:5", "upstreams[0].health", "leave it out")},
		{"circuit", upstream("circuit: {failures: 10}"), refused("5:5", "upstreams[0].circuit", "leave it out")},
		{"DNS", upstream("dns_refresh: 10s"), refused("5:5", "upstreams[0].dns_refresh", "leave it out")},
		{"slow start", upstream("slow_start: 1s"), refused("5:5", "upstreams[0].slow_start", "leave it out or write 0s")},
		{"limit", upstream("limit: {mode: fixed}"), refused("5:13", "upstreams[0].limit.mode", "leave it out or write none")},
		{"queue", upstream("queue: 1024"), refused("5:5", "upstreams[0].queue", "leave it out")},
		{"TLS to an upstream", upstream("tls: {server_name: a}"), refused("5:11", "upstreams[0].tls.server_name", `leave it out or write ""`)},
		{"an expanded value", upstream("limit: {mode: \"${NOT_SET:-fixed}\"}"), refused("5:13", "upstreams[0].limit.mode", "leave it out or write none")},
		{"a value of another kind", upstream("limit: {mode: [none]}"), refused("5:13", "upstreams[0].limit.mode", "leave it out or write none")},
	})

	off := `
admin: {ui: "${UI_NOT_SET:-false}"}
tracing: {enabled: false}
server: {max_connections_per_address: 0}
upstreams:
  - {name: app, targets: ["http://a:1"], slow_start: 0, limit: {mode: none}, tls: {ca_file: "", cert_file: "", key_file: "", server_name: ""}}
defaults:
  lane: {after_failure: {action: continue}, hot: {action: none, backend: owner, batch: 16, quantum: 50ms}}
  idempotency: {mode: none}
  sequence: {mode: none}
routes:
  - name: orders
    upstream: app
    key: {space: order, from: [{cookie: c}]}
    lane: {after_failure: {action: continue}, hot: {action: none}}
    idempotency:
    sequence: {}
`
	cfg := mustLoad(t, off)
	if have, want := cfg.Routes[0].Lane, Default().Defaults.Lane; !reflect.DeepEqual(have, want) {
		t.Errorf("got %+v, want %+v", have, want)
	}
	for _, s := range laterSettings { // each with an off value is in the text above
		name := s.path[strings.LastIndex(s.path, ".")+1:]
		if s.off != never && !strings.Contains(off, name+":") {
			t.Errorf("the off value of %s is not tested", s.path)
		}
	}
}

// Whatever gets built must leave the table, or it would be dead.
func TestConfigLaterSettingsAreNotBuilt(t *testing.T) {
	for _, s := range laterSettings {
		for _, parent := range []string{"", "defaults.", "routes."} {
			section := reflect.TypeFor[Config]()
			names := strings.Split(strings.TrimPrefix(strings.Replace(s.path, "*.", parent, 1), "."), ".")
			for i, name := range names {
				f, built := findField(fieldsOf(section), name)
				if built && i == len(names)-1 {
					t.Errorf("%s is built", s.path)
				}
				if !built || f.element().Kind() != reflect.Struct {
					break
				}
				section = f.element()
			}
		}
	}
}
