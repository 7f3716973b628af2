package main

import (
	"reflect"
	"testing"
)

// Mutants killed: writes without a key pass; reads without one are refused; each
// problem with the key is reported for every route.
func TestConfigQuick(t *testing.T) {
	cfg, report := Load(LoadOptions{
		Quick: &Quick{Upstream: "http://127.0.0.1:8080", Key: "header:X-Order-Id"},
		Flags: map[string]string{"server.listen": ":1"},
	})
	if len(report.Problems) > 0 {
		t.Fatal(report.Problems)
	}
	want := mustLoad(t, `
server: {listen: ":1"}
upstreams: [{name: app, targets: ["http://127.0.0.1:8080"]}]
routes:
  - name: key-reads
    match: {path: "/{rest...}", methods: [GET, HEAD, OPTIONS]}
    upstream: app
    key: {space: default, from: [{header: X-Order-Id}], missing: bypass}
  - name: key
    match: {path: "/{rest...}"}
    upstream: app
    key: {space: default, from: [{header: X-Order-Id}], missing: reject}
`)
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}

	for _, test := range []struct {
		key, match string
		source     PlaceConfig
	}{
		{"header:A", "/{rest...}", PlaceConfig{Header: "A"}},
		{"query:a:b", "/{rest...}", PlaceConfig{Query: "a:b"}},
		{"cookie:a", "/{rest...}", PlaceConfig{Cookie: "a"}},
		{`json:a.b\.c`, "/{rest...}", PlaceConfig{JSON: `a.b\.c`}},
		{"path:/a/{id}", "/a/{id}", PlaceConfig{Path: "id"}},
		{"path:/a/{id}/{rest...}", "/a/{id}/{rest...}", PlaceConfig{Path: "id"}},
		{"path:/a/{x}/b/{y}#y", "/a/{x}/b/{y}", PlaceConfig{Path: "y"}},
		{"path:/{all...}", "/{all...}", PlaceConfig{Path: "all"}},
	} {
		cfg, report := Load(LoadOptions{Quick: &Quick{Upstream: "http://a", Key: test.key}})
		if report.Errors() > 0 {
			t.Errorf("%s: %v", test.key, report.Problems)
			continue
		}
		for _, r := range cfg.Routes[:2] {
			if r.Match.Path != test.match || r.Key.From[0].PlaceConfig != test.source {
				t.Errorf("%s: got %+v", test.key, r)
			}
		}
		last := cfg.Routes[len(cfg.Routes)-1]
		if passes := len(cfg.Routes) == 3 && !last.Lane.queues(); passes != (test.match != "/{rest...}") {
			t.Errorf("%s: last route %+v", test.key, last)
		}
	}

	for key, want := range map[string]string{
		"":                 `--key: error: "" does not say where the key is: write one like header:X-Order-Id`,
		"X-Order-Id":       `--key: error: "X-Order-Id" does not say where the key is: write one like header:X-Order-Id`,
		"header:":          `--key: error: "header:" does not say where the key is: write one like header:X-Order-Id`,
		"heder:A":          `--key: error: "heder" is not one of header, query, cookie, json, path (did you mean "header"?)`,
		"header:a b":       `--key: error: routes[0].key.from[0].header: "a b" is not the name of a header`,
		"json:a.*":         `--key: error: routes[0].key.from[0].json: a.*: * is not allowed: write members joined by dots, like data.order.id or items.0.id`,
		"path:orders/{id}": `--key: error: path template "orders/{id}" must begin with /`,
		"path:/orders":     `--key: error: /orders has no wildcard: write one like /orders/{id}`,
		"path:/{id}#di":    `--key: error: /{id} has no wildcard "di" (did you mean "id"?)`,
	} {
		_, report := Load(LoadOptions{Quick: &Quick{Upstream: "http://a", Key: key}})
		if len(report.Problems) != 1 || report.Problems[0].String() != want {
			t.Errorf("%q: got %v, want %s", key, report.Problems, want)
		}
	}
	_, report = Load(LoadOptions{Quick: &Quick{Upstream: "a:1", Key: "header:A"}})
	if want := `--upstream: error: upstreams[0].targets[0]: "a:1" is not a target: write http://host:port`; len(report.Problems) != 1 || report.Problems[0].String() != want {
		t.Errorf("got %v, want %s", report.Problems, want)
	}
	_, report = Load(LoadOptions{File: "lk.yaml", Quick: &Quick{}})
	if want := "command line: error: a file and --upstream with --key exclude each other: give one of them"; len(report.Problems) != 1 || report.Problems[0].String() != want {
		t.Errorf("got %v, want %s", report.Problems, want)
	}
}
