package main

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "rewrite generated files instead of comparing them")

const schemaFile = "../../configs/lanekeeper.schema.json"

func TestConfigSchemaIsCurrent(t *testing.T) {
	var want bytes.Buffer
	if err := writeSchema(&want); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(schemaFile)
	if err != nil || !bytes.Equal(have, want.Bytes()) {
		t.Errorf("%s is out of date (%v): run go generate ./cmd/lanekeeper", schemaFile, err)
	}
}

// compileSchema is the schema, which must itself be a draft-07 schema.
func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	var source bytes.Buffer
	if err := writeSchema(&source); err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(&source)
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("lanekeeper.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("lanekeeper.json")
	if err != nil {
		t.Fatal(err)
	}
	if schema.DraftVersion != 7 {
		t.Errorf("got draft %d, want 7", schema.DraftVersion)
	}
	return schema
}

// Mutants killed: additional properties allowed; no ${…} allowed; patterns
// without anchors; enums left out.
func TestConfigSchema(t *testing.T) {
	schema := compileSchema(t)
	check := func(source string) error {
		var document any
		if err := yaml.Unmarshal([]byte(source), &document); err != nil {
			t.Fatal(err)
		}
		return schema.Validate(document)
	}
	for _, name := range []string{"minimal", "sidecar", "strict", "three-node"} {
		source, err := os.ReadFile("../../configs/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if err := check(string(source)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := check(everySetting); err != nil {
		t.Errorf("everything: %v", err)
	}
	for _, test := range []struct {
		source string
		valid  bool
	}{
		{someApp, true},
		{"server: {read_timeout: 0, max_body: 0}\n" + someApp, true},
		{"server: {read_timeout: \"${T}\", max_headers: \"${N:-5}\", via_node: \"${B}\", forwarded: \"${F}\"}\n" + someApp, true},
		{someUpstream, false},
		{someRoute, false},
		{"unknown: 1\n" + someApp, false},
		{"server: {unknown: 1}\n" + someApp, false},
		{"server: {read_timeout: 5}\n" + someApp, false},
		{"server: {read_timeout: 5 s}\n" + someApp, false},
		{"server: {max_body: 1MB}\n" + someApp, false},
		{"server: {max_headers: -1}\n" + someApp, false},
		{"server: {forwarded: all}\n" + someApp, false},
		{"defaults: {lane: {hot: {busy: 0.5, share: 1, rate: \"${R}\"}}}\n" + someApp, true},
		{"defaults: {lane: {hot: {busy: 1.5}}}\n" + someApp, false},
		{"defaults: {lane: {hot: {busy: \"0.5\"}}}\n" + someApp, false},
		{"defaults: {lane: {hot: {rate: -1}}}\n" + someApp, false},
		{"defaults: {coalesce: [{by: DELETE, over: [PUT]}, {by: PUT, over: [PUT], scope: key, status: 204}]}\n" + someApp, true},
		{"defaults: {coalesce: [{by: DELETE}]}\n" + someApp, false},
		{"defaults: {coalesce: [{by: DELETE, over: [PUT], scope: lane}]}\n" + someApp, false},
		{"defaults: {coalesce: [{by: DELETE, over: [PUT], status: 201}]}\n" + someApp, false},
		{"cluster: {partitions: 15}\n" + someApp, false},
		{"cluster: {partitions: 65536}\n" + someApp, true},
		{"cluster: {partitions: 65537}\n" + someApp, false},
		{"server: {via_node: 1}\n" + someApp, false},
		{"defaults: {key: {normalize: [upper]}}\n" + someApp, false},
		{strings.Replace(someApp, "space: order", "space: Order", 1), false},
		{strings.Replace(someApp, "space: order, ", "", 1), false},
		{strings.Replace(someApp, "upstream: app, ", "", 1), false},
	} {
		if err := check(test.source); (err == nil) != test.valid {
			t.Errorf("%s\ngot %v, want valid %t", test.source, err, test.valid)
		}
		if _, report := loadText(t, strings.ReplaceAll(test.source, "${", "$${")); report.Errors() == 0 && !test.valid {
			t.Errorf("%s\nis refused by the schema but not by the loader", test.source)
		}
	}
}

// Every setting has a meaning, and each enum, pattern and least value is one
// that its default passes.
func TestConfigFieldsAreDescribed(t *testing.T) {
	var docs bytes.Buffer
	writeDocs(&docs)
	for _, l := range strings.Split(strings.TrimSpace(docs.String()), "\n") {
		if cells := strings.Split(l, "|"); len(cells) != 7 || strings.TrimSpace(cells[5]) == "" {
			t.Errorf("no meaning: %s", l)
		}
	}
	for _, path := range []string{"node.name", "server.listen", "upstreams[].targets", "routes[].key.from[].all[].json", "routes[].key.missing", "defaults.lane.max_response", "defaults.lane.hot.busy", "metrics.native_histograms"} {
		if !strings.Contains(docs.String(), "| `"+path+"` |") {
			t.Errorf("%s is not in the table", path)
		}
	}
	if want := "| `server.read_timeout` | duration | `15s` | `LANEKEEPER_SERVER_READ_TIMEOUT` |"; !strings.Contains(docs.String(), want) {
		t.Errorf("no %s in\n%s", want, docs.String())
	}
	defaults := Default()
	for _, l := range defaults.leaves(false) {
		f, ok := configSettings[l.Path]
		if !ok || f.isList() {
			continue
		}
		if err := f.check(l.Value); err != nil {
			t.Errorf("default of %s: %v", l.Path, err)
		}
	}
}
