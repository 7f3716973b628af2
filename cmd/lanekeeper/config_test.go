package main

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// Parts of a file, to follow what a test is about.
const (
	someUpstream = "upstreams: [{name: app, targets: [\"http://127.0.0.1:8080\"]}]\n"
	someRoute    = "routes: [{name: orders, upstream: app, key: {space: order, from: [{header: X-Order-Id}]}}]\n"
	someApp      = someUpstream + someRoute
)

// loadText loads source as the file lk.yaml.
func loadText(t testing.TB, source string) (*Config, *Report) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("lk.yaml", []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(LoadOptions{File: "lk.yaml"})
}

// problemsOf is what the report of source says, one problem in a line.
func problemsOf(t testing.TB, source string) []string {
	t.Helper()
	_, report := loadText(t, source)
	var lines []string
	for _, p := range report.Problems {
		lines = append(lines, p.String())
	}
	return lines
}

// mustLoad loads a source without errors and warnings.
func mustLoad(t testing.TB, source string) *Config {
	t.Helper()
	cfg, report := loadText(t, source)
	if len(report.Problems) > 0 {
		t.Fatalf("problems in\n%s\n%v", source, report.Problems)
	}
	return cfg
}

// A problemTest is a file and exactly what is said about it.
type problemTest struct {
	name, source string
	want         []string
}

func runProblemTests(t *testing.T, tests []problemTest) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if have := problemsOf(t, test.source); !reflect.DeepEqual(have, test.want) {
				t.Errorf("source:\n%s\ngot:\n%s\nwant:\n%s", test.source, strings.Join(have, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

// Mutant killed: a default changed in Default alone, or in sidecar.yaml alone.
func TestConfigSidecarExplainsTheDefaults(t *testing.T) {
	cfg, report := Load(LoadOptions{File: "../../configs/sidecar.yaml"})
	if len(report.Problems) > 0 {
		t.Fatalf("problems: %v", report.Problems)
	}

	want := defaultUpstream()
	want.Name, want.Targets = "app", []string{"http://127.0.0.1:8080"} // ◆
	if have := cfg.Upstreams; !reflect.DeepEqual(have, []UpstreamConfig{want}) {
		t.Errorf("upstreams: got %+v, want %+v", have, want)
	}
	for path := range configSettings {
		if _, given := report.places[path]; !given {
			t.Errorf("%s is not in the file", path)
		}
	}
	for _, f := range fieldsOf(reflect.TypeFor[UpstreamConfig]()) {
		if _, given := report.places["upstreams[0]."+f.name]; !given {
			t.Errorf("upstreams[0].%s is not in the file", f.name)
		}
	}
	cfg.Upstreams, cfg.Routes = nil, nil // ◆
	if have, want := *cfg, Default(); !reflect.DeepEqual(have, want) {
		t.Errorf("got  %+v\nwant %+v", have, want)
	}
}

func TestConfigFilesAreValid(t *testing.T) {
	for _, name := range []string{"minimal", "sidecar", "strict", "three-node"} {
		if _, report := Load(LoadOptions{File: "../../configs/" + name + ".yaml"}); len(report.Problems) > 0 {
			t.Errorf("%s: %v", name, report.Problems)
		}
	}
}

// Mutants killed: inheritDefaults fills nothing; a route's list is appended to the
// default's; a route without a key gets one.
func TestConfigRoutesStartFromDefaults(t *testing.T) {
	cfg := mustLoad(t, someUpstream+`
defaults:
  key: {normalize: [lower]}
  lane: {max_depth: 7, shared: [GET, HEAD, OPTIONS], bypass: []}
routes:
  - name: a
    match: {path: "/a/{id}"}
    upstream: app
    key: {space: order, from: [{path: id}], max_length: 12}
    lane: {queue_timeout: 3s, exclusive: [POST]}
  - name: rest
    upstream: app
    lane: {exclusive: [], shared: [], bypass: ["*"]}
`)
	key := KeyConfig{
		Space:       "order",
		From:        []SourceConfig{{PlaceConfig: PlaceConfig{Path: "id"}}},
		KeyDefaults: KeyDefaults{Missing: "reject", Normalize: []string{"lower"}, MaxLength: 12},
	}
	lane := Default().Defaults.Lane
	lane.MaxDepth, lane.Shared, lane.Bypass = 7, []string{"GET", "HEAD", "OPTIONS"}, []string{}
	if have := cfg.Defaults.Lane; !reflect.DeepEqual(have, lane) {
		t.Errorf("defaults: got %+v, want %+v", have, lane)
	}
	lane.Exclusive = []string{"POST"}
	if err := lane.QueueTimeout.UnmarshalText([]byte("3s")); err != nil {
		t.Fatal(err)
	}
	if have := cfg.Routes[0]; !reflect.DeepEqual(have.Key, key) || !reflect.DeepEqual(have.Lane, lane) {
		t.Errorf("route a: got %+v, want key %+v, lane %+v", have, key, lane)
	}
	if have := cfg.Routes[1]; !reflect.ValueOf(have.Key).IsZero() || have.Lane.MaxDepth != 7 || len(have.Lane.Shared) != 0 {
		t.Errorf("route rest: got %+v", have)
	}
}
