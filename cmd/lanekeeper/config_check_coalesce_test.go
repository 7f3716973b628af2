package main

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

// Mutants killed: a rule does not start from defaultCoalesce, in a route or in the
// defaults; a route's rules are added to the defaults'.
func TestConfigCoalesceStartsFromDefaults(t *testing.T) {
	cfg := mustLoad(t, someUpstream+`
defaults: {coalesce: [{by: DELETE, over: [PUT, PATCH]}]}
routes:
  - {name: a, match: {host: a}, upstream: app, key: {space: a, from: [{header: H}]}}
  - {name: b, match: {host: b}, upstream: app, key: {space: b, from: [{header: H}]}, coalesce: [{by: PUT, over: [PUT], scope: key}, {by: PUT, over: [DELETE], status: 204}]}
  - {name: c, match: {host: c}, upstream: app, key: {space: c, from: [{header: H}]}, coalesce: []}
  - {name: d, match: {host: d}, upstream: app, lane: {exclusive: [], shared: [], bypass: ["*"]}}
`)
	inherited := []CoalesceConfig{{By: "DELETE", Over: []string{"PUT", "PATCH"}, Scope: "path", Status: 409}}
	own := []CoalesceConfig{{By: "PUT", Over: []string{"PUT"}, Scope: "key", Status: 409}, {By: "PUT", Over: []string{"DELETE"}, Scope: "path", Status: 204}}
	for i, want := range [][]CoalesceConfig{inherited, own, {}, inherited} {
		if have := cfg.Routes[i].Coalesce; !reflect.DeepEqual(have, want) {
			t.Errorf("route %d: got %+v, want %+v", i, have, want)
		}
	}
	if have := cfg.Defaults.Coalesce; !reflect.DeepEqual(have, inherited) {
		t.Errorf("defaults: got %+v, want %+v", have, inherited)
	}
	alone := mustLoad(t, "defaults: {coalesce: [{by: DELETE, over: [PUT, PATCH]}]}\n"+someUpstream+"routes: [{name: a, upstream: app, key: {space: a, from: [{header: H}]}, coalesce: []}]\n")
	if have := alone.Defaults.Coalesce; !reflect.DeepEqual(have, inherited) {
		t.Errorf("defaults that no route inherits: got %+v, want %+v", have, inherited)
	}
	var shown bytes.Buffer // in which what is inherited is written where it takes effect
	if err := cfg.writeYAML(&shown, nil); err != nil {
		t.Fatal(err)
	}
	if have := mustLoad(t, shown.String()); !reflect.DeepEqual(have, cfg) {
		t.Errorf("shown, it is another:\n%s", shown.String())
	}
}

// Mutants killed: each of the checks is left out; a route is blamed for what it
// inherits; a method counts as superseded that is exclusive only in another space.
func TestConfigCoalesceIsChecked(t *testing.T) {
	const key = "upstream: app, key: {space: s, from: [{header: H}]}"
	rules := func(more string) string {
		return someUpstream + "routes:\n  - {name: a, " + key + ", coalesce: [" + more + "]}\n"
	}
	at := func(place, setting, message string) []string {
		return []string{"lk.yaml:" + place + " routes[0].coalesce[" + setting + ": " + message}
	}
	all := []problemTest{
		{"one", rules("{by: DELETE, over: [PUT, PATCH, DELETE, POST]}"), nil},
		{"several", rules("{by: DELETE, over: [PUT], scope: key, status: 200}, {by: PUT, over: [PUT], status: 202}, {by: DELETE, over: [PATCH]}"), nil},
		{"by itself", rules("{by: PUT, over: [PUT]}"), nil},
		{"methods in no list", rules("{by: UNLINK, over: [LINK]}"), nil},
		{"wider at last", rules("{by: DELETE, over: [PUT]}, {by: DELETE, over: [PUT], scope: key}"), nil},
		{"by nothing", rules("{over: [PUT]}"), at("3:79: error:", "0].by", "required: the method of the request that makes others needless, like DELETE")},
		{"over nothing", rules("{by: DELETE}"), at("3:79: error:", "0].over", "required: the methods of those that it makes needless, like [PUT, PATCH]")},
		{"over an empty list", rules("{by: DELETE, over: []}"), at("3:92: error:", "0].over", "required: the methods of those that it makes needless, like [PUT, PATCH]")},
		{"small letters", rules("{by: delete, over: [PUT]}"), at("3:80: error:", "0].by", `"delete" is not a method: they are in upper case, like POST`)},
		{"any method", rules("{by: DELETE, over: [\"*\"]}"), at("3:99: error:", "0].over[0]", `"*" is not a method: they are in upper case, like POST`)},
		{"by a read", rules("{by: GET, over: [PUT]}"), at("3:80: error:", "0].by", "GET is shared here: only exclusive requests supersede others")},
		{"by what passes", rules("{by: OPTIONS, over: [PUT]}"), at("3:80: error:", "0].by", "OPTIONS is bypass here: only exclusive requests supersede others")},
		{"over a read", rules("{by: DELETE, over: [PUT, GET]}"), at("3:104: error:", "0].over[1]", "GET is shared here: only exclusive requests are superseded")},
		{"over what passes", rules("{by: DELETE, over: [OPTIONS]}"), at("3:99: error:", "0].over[0]", "OPTIONS is bypass here: only exclusive requests are superseded")},
		{"twice", rules("{by: DELETE, over: [PUT, PUT]}"), at("3:104: error:", "0].over[1]", "PUT is given twice")},
		{"twice in two", rules("{by: DELETE, over: [PUT]}, {by: DELETE, over: [PATCH, PUT], status: 204}"), at("3:133: error:", "1].over[1]", "DELETE over PUT is in routes[0].coalesce[0] already, which comes first")},
		{"wider at first", rules("{by: DELETE, over: [PUT], scope: key}, {by: DELETE, over: [PUT]}"), at("3:138: error:", "1].over[0]", "DELETE over PUT is in routes[0].coalesce[0] already, which comes first")},
		{"another scope", rules("{by: DELETE, over: [PUT], scope: space}"), at("3:105: error:", "0].scope", `"space" is not one of path, key`)},
		{"another status", rules("{by: DELETE, over: [PUT], status: 201}"), at("3:105: error:", "0].status", "201 is not one of 409, 200, 202, 204")},
		{"a status in words", rules("{by: DELETE, over: [PUT], status: \"204\"}"), at("3:105: error:", "0].status", `want a whole number, got the text "204"`)},
		{"only watched", someUpstream + "routes:\n  - {name: a, " + key + ", lane: {mode: observe}, coalesce: [{by: DELETE, over: [PUT]}]}\n",
			[]string{"lk.yaml:3:91: warning: routes[0].coalesce: does nothing: lane.mode is observe, so no request waits"}},
		{"another route's method", someUpstream + "routes:\n  - {name: a, match: {methods: [PUT]}, " + key + ", coalesce: [{by: DELETE, over: [PUT]}]}\n  - {name: b, match: {methods: [DELETE]}, " + key + "}\n",
			[]string{"lk.yaml:3:105: warning: routes[0].coalesce[0].by: DELETE is not among the route's methods, and the rules of a route are for its own requests: this one does nothing"}},
		{"exclusive in another route of the space", someUpstream + "routes:\n  - {name: a, match: {host: a}, " + key + ", lane: {exclusive: [DELETE], bypass: [\"*\"]}, coalesce: [{by: DELETE, over: [PUT]}]}\n  - {name: b, match: {host: b}, " + key + "}\n", nil},
		{"exclusive in another space", someUpstream + "routes:\n  - {name: a, match: {host: a}, " + key + ", lane: {exclusive: [DELETE], bypass: [\"*\"]}, coalesce: [{by: DELETE, over: [PUT]}]}\n  - {name: b, match: {host: b}, " + strings.Replace(key, "space: s", "space: t", 1) + "}\n",
			[]string{"lk.yaml:3:161: error: routes[0].coalesce[0].over[0]: PUT is bypass here: only exclusive requests are superseded"}},
		{"of all routes", "defaults: {coalesce: [{by: GET, over: [PUT]}]}\n" + someApp,
			[]string{"lk.yaml:1:24: error: defaults.coalesce[0].by: GET is shared here: only exclusive requests supersede others"}},
		{"of all routes, and one that bypasses", "defaults: {coalesce: [{by: DELETE, over: [PUT]}]}\n" + someUpstream + "routes: [{name: a, upstream: app, lane: {exclusive: [], shared: [], bypass: [\"*\"]}}]\n", nil},
		{"of all routes, and one that watches", "defaults: {coalesce: [{by: DELETE, over: [PUT]}]}\n" + someUpstream + "routes: [{name: a, " + key + ", lane: {mode: observe}}]\n", nil},
	}
	runProblemTests(t, all)
}
