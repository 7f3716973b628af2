package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// Mutants killed: what was put in is expanded again; a variable that is not
// set is empty; $$ stays; devices are read.
func TestConfigExpansion(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, content := range map[string]string{"secret": "a$b${c}\r\n", "large": strings.Repeat("x", expandedFileMax+1), "full": strings.Repeat("x", expandedFileMax)} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SET", "value")
	t.Setenv("EMPTY", "")
	t.Setenv("DOLLAR", "${SET}$$")
	for _, test := range []struct{ text, want, err string }{
		{"", "", ""},
		{"plain", "plain", ""},
		{"${SET}", "value", ""},
		{"a${SET}b${SET}", "avaluebvalue", ""},
		{"${EMPTY}", "", ""},
		{"${EMPTY:-x}", "x", ""},
		{"${UNSET:-}", "", ""},
		{"${UNSET:-http://a:1}", "http://a:1", ""},
		{"${SET:-x}", "value", ""},
		{"${DOLLAR}", "${SET}$$", ""},
		{"$${SET}", "${SET}", ""},
		{"$$$${SET}", "$${SET}", ""},
		{"$", "$", ""},
		{"$SET", "$SET", ""},
		{"/{$}", "/{$}", ""},
		{"${file:secret}", "a$b${c}", ""},
		{"${file:full}", strings.Repeat("x", expandedFileMax), ""},
		{"${UNSET}", "", "the environment variable UNSET is not set: set it, or write ${UNSET:-default}"},
		{"${SET", "", "${SET has no closing }; write $$ for a dollar sign"},
		{"${}", "", "${} is not understood: write ${VAR}, ${VAR:-default} or ${file:/path}, and $$ for a dollar sign"},
		{"${SET-x}", "", "${SET-x} is not understood: write ${VAR}, ${VAR:-default} or ${file:/path}, and $$ for a dollar sign"},
		{"${file:missing}", "", "stat missing: no such file or directory"},
		{"${file:/dev/zero}", "", "/dev/zero is not a regular file"},
		{"${file:.}", "", ". is not a regular file"},
		{"${file:large}", "", "large is larger than 64KiB"},
	} {
		have, err := expandText(test.text)
		if message := errorText(err); have != test.want || message != test.err {
			t.Errorf("expandText(%q): got %q, %q, want %q, %q", test.text, have, message, test.want, test.err)
		}
	}
	for _, text := range []string{"", "$", "$$", "$$$", "${", "$${", "a$$b", "/{$}", "${SET}$"} {
		if have, err := expandText(unexpandText(text)); have != text || err != nil {
			t.Errorf("expand(unexpandText(%q)): got %q, %v", text, have, err)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Mutant killed: an expanded value is read with the type of its YAML text.
func TestConfigExpandsWithinTheFile(t *testing.T) {
	t.Setenv("APP", "http://10.0.0.1:8080")
	t.Setenv("LANES", "77")
	t.Setenv("VIA", "true")
	t.Setenv("BODY", "2MiB")
	t.Setenv("FIVE", "5")
	cfg := mustLoad(t, `
node: {name: "${FIVE}"}
server: {via_node: "${VIA}", max_body: "${BODY}"}
limits: {max_lanes: "${LANES}"}
upstreams: [{name: app, targets: ["${APP}"]}]
routes: [{name: "a", match: {path: "/{$}"}, upstream: app, key: {space: order, from: [{query: "$${a}"}]}}]
`)
	have := []any{cfg.Node.Name, cfg.Server.ViaNode, cfg.Server.MaxBody, cfg.Limits.MaxLanes, cfg.Upstreams[0].Targets[0], cfg.Routes[0].Match.Path, cfg.Routes[0].Key.From[0].Query}
	want := []any{"5", true, 2 * MiB, 77, "http://10.0.0.1:8080", "/{$}", "${a}"}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("got %v, want %v", have, want)
	}
	runProblemTests(t, []problemTest{
		{"not set", "node:\n  name: ${NOT_SET}\n" + someApp, []string{
			`lk.yaml:2:3: error: node.name: the environment variable NOT_SET is not set: set it, or write ${NOT_SET:-default}`,
		}},
		{"of the wrong type", "limits: {max_lanes: \"${APP}\"}\n" + someApp, []string{
			`lk.yaml:1:10: error: limits.max_lanes: want a whole number, got "http://10.0.0.1:8080"`,
		}},
		{"without a unit", "server: {read_timeout: \"${FIVE}\"}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.read_timeout: 5 has no unit: write 5s for seconds, or use ms, m, h`,
		}},
		{"in a name", "server: {\"${FIVE}\": a}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.${FIVE}: unknown field`,
		}},
	})
}

// Mutants killed: the file wins over the environment; the environment over
// flags; an empty variable counts as not set; a value of the environment is
// not checked.
func TestConfigPrecedence(t *testing.T) {
	t.Chdir(t.TempDir())
	file := "lk.yaml"
	source := "server:\n  listen: \":1\"\n  read_timeout: 1s\n  via_node: true\nnode: {name: file}\n" + someApp
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LANEKEEPER_SERVER_LISTEN", ":2")
	t.Setenv("LANEKEEPER_SERVER_VIA_NODE", "false")
	t.Setenv("LANEKEEPER_SERVER_MAX_BODY", "3MiB")
	t.Setenv("LANEKEEPER_NODE_NAME", "")
	t.Setenv("LANEKEEPER_DEFAULTS_LANE_MAX_DEPTH", "9")
	cfg, report := Load(LoadOptions{File: file, Flags: map[string]string{"server.listen": ":3", "log.level": "debug"}})
	if len(report.Problems) > 0 {
		t.Fatal(report.Problems)
	}
	for _, test := range []struct {
		path         string
		have         any
		want, origin string
	}{
		{"server.listen", cfg.Server.Listen, ":3", "command line"},
		{"log.level", cfg.Log.Level, "debug", "command line"},
		{"server.via_node", cfg.Server.ViaNode, "false", "LANEKEEPER_SERVER_VIA_NODE"},
		{"server.max_body", cfg.Server.MaxBody, "3MiB", "LANEKEEPER_SERVER_MAX_BODY"},
		{"node.name", cfg.Node.Name, "", "LANEKEEPER_NODE_NAME"},
		{"server.read_timeout", cfg.Server.ReadTimeout, "1s", "lk.yaml:3:3"},
		{"server.idle_timeout", cfg.Server.IdleTimeout, "1m15s", "default"},
		{"defaults.lane.max_depth", cfg.Defaults.Lane.MaxDepth, "9", "LANEKEEPER_DEFAULTS_LANE_MAX_DEPTH"},
		{"routes[0].lane.max_depth", cfg.Routes[0].Lane.MaxDepth, "9", "LANEKEEPER_DEFAULTS_LANE_MAX_DEPTH"},
		{"routes[0].lane.max_shared", cfg.Routes[0].Lane.MaxShared, "16", "default"},
		{"routes[0].key.space", cfg.Routes[0].Key.Space, "order", "lk.yaml:7:46"},
		{"routes[0].key.max_length", cfg.Routes[0].Key.MaxLength, "256", "default"},
	} {
		if have := valueText(reflect.ValueOf(test.have)); have != test.want {
			t.Errorf("%s: got %s, want %s", test.path, have, test.want)
		}
		if have := report.Origin(test.path); have != test.origin {
			t.Errorf("origin of %s: got %s, want %s", test.path, have, test.origin)
		}
	}
}

// Mutants killed: variables without effect go unnoticed; Kubernetes' own are
// complained about.
func TestConfigEnvironmentIsStrict(t *testing.T) {
	for name, value := range map[string]string{
		"LANEKEEPER_SERVER_LISTN":            ":1",
		"LANEKEEPER_WHATEVER":                "1",
		"LANEKEEPER_VERSION":                 "1.2.3",
		"LANEKEEPER_SERVER_TRUSTED_PROXIES":  "10.0.0.0/8",
		"LANEKEEPER_ROUTES":                  "[]",
		"LANEKEEPER_SERVER_READ_TIMEOUT":     "5",
		"LANEKEEPER_LOG_LEVEL":               "loud",
		"LANEKEEPER_OBSERVE_LISTEN":          "nowhere",
		"LANEKEEPER_LIMITS_MAX_LANES":        "",
		"LANEKEEPER_CLUSTER_ENABLED":         "yes",
		"LANEKEEPER_CLUSTER_NAME":            "a",
		"LANEKEEPER_CLUSTER_JOIN":            "a:1",
		"LANEKEEPER_COORDINATOR_TYPE":        "none",
		"LANEKEEPER_SESSION_MAX_AGE":         "1h",
		"LANEKEEPER_TRACING_SAMPLE":          "some",
		"LANEKEEPER_DEFAULTS_LANE_GUARANTEE": "strict",
		"LANEKEEPER_ADMIN_PPROF":             "false",
		"LANEKEEPER_SERVICE_HOST":            "10.0.0.1",
		"LANEKEEPER_SERVICE_PORT_PROXY":      "7940",
		"LANEKEEPER_PORT":                    "tcp://10.0.0.1:7940",
		"LANEKEEPER_PORT_7940_TCP_ADDR":      "10.0.0.1",
	} {
		t.Setenv(name, value)
	}
	runProblemTests(t, []problemTest{{"environment", "log: {level: 5}\n" + someApp, []string{
		`lk.yaml:1:7: error: log.level: want text, got 5: put it in quotes`,
		`LANEKEEPER_CLUSTER_ENABLED: error: cluster.enabled: want true or false, got "yes"`,
		`LANEKEEPER_CLUSTER_JOIN: warning: sets nothing: cluster.join is a list; write it in the file, where an element may be ${VAR}`,
		`LANEKEEPER_DEFAULTS_LANE_GUARANTEE: error: defaults.lane.guarantee: strict rests on a coordinator, and coordinator.type is none: name a store there (etcd, zookeeper, redis), or write best_effort`,
		`LANEKEEPER_LIMITS_MAX_LANES: error: limits.max_lanes: want a whole number, got ""`,
		`LANEKEEPER_LOG_LEVEL: error: log.level: "loud" is not one of debug, info, warn, error`,
		`LANEKEEPER_OBSERVE_LISTEN: error: observe.listen: "nowhere" is not an address: write host:port or :port`,
		`LANEKEEPER_ROUTES: warning: sets nothing: routes is a list; write it in the file, where an element may be ${VAR}`,
		`LANEKEEPER_SERVER_LISTN: warning: sets nothing (did you mean "LANEKEEPER_SERVER_LISTEN"?)`,
		`LANEKEEPER_SERVER_READ_TIMEOUT: error: server.read_timeout: 5 has no unit: write 5s for seconds, or use ms, m, h`,
		`LANEKEEPER_SERVER_TRUSTED_PROXIES: warning: sets nothing: server.trusted_proxies is a list; write it in the file, where an element may be ${VAR}`,
		`LANEKEEPER_TRACING_SAMPLE: error: tracing.sample: "some" is not one of parent, always, never, ratio`,
		`LANEKEEPER_VERSION: warning: sets nothing: version is set by the file alone`,
		`LANEKEEPER_WHATEVER: warning: sets nothing`,
	}}})
}

// Flags are checked like everything else.
func TestConfigFlagsAreChecked(t *testing.T) {
	_, report := Load(LoadOptions{
		File:  filepath.Join("..", "..", "configs", "minimal.yaml"),
		Flags: map[string]string{"server.listen": "nowhere", "log.level": "loud"},
	})
	want := []string{
		`command line: error: log.level: "loud" is not one of debug, info, warn, error`,
		`command line: error: server.listen: "nowhere" is not an address: write host:port or :port`,
	}
	var have []string
	for _, p := range report.Problems {
		have = append(have, p.String())
	}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("got %q, want %q", have, want)
	}
}
