package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"lanekeeper/proxy"
)

// issuing is a file whose only route has a key of the given sources.
func issuing(session, from, more string) string {
	return "session: {" + session + "}\n" + someUpstream + "routes:\n- {name: a, upstream: app, key: {space: s, from: [" + from + "]" + more + "}}\n"
}

// Mutants: the secret is not required; issue goes with a header.
func TestConfigSession(t *testing.T) {
	const sound, cookie = "secret_file: /s", "{cookie: lk, issue: true}"
	runProblemTests(t, []problemTest{
		{"sound", issuing(sound, cookie, ""), nil},
		{"in parts", issuing(sound, "{all: [{header: T}, "+cookie+"]}", ""), nil},
		{"no session", issuing("", "{cookie: lk, issue: false}", ""), nil},
		{"no secret", issuing("", cookie, ""), []string{
			"lk.yaml:1:1: error: session.secret_file: required, since a key source says issue: true; make one with openssl rand -base64 32"}},
		{"a header", issuing(sound, "{header: lk, issue: true}", ""), []string{
			"lk.yaml:4:64: error: routes[0].key.from[0].issue: only a cookie can be issued: write it beside cookie"}},
		{"two", issuing(sound, "{all: ["+cookie+", {cookie: b, issue: true}]}", ""), []string{
			"lk.yaml:4:44: error: routes[0].key.from: lk and b are issued: a route issues one session"}},
		{"no room for the id", issuing(sound, cookie, ", max_length: 21"), []string{
			"lk.yaml:4:79: error: routes[0].key.max_length: 21 is less than a session's id has (22): every request would be refused"}},
		{"behind it", issuing(sound, cookie+", {header: H}", ""), []string{
			"lk.yaml:4:78: warning: routes[0].key.from[1]: never used: a session is issued before"}},
		{"a name with rules", issuing(sound+", path: /p", "{cookie: __Host-lk, issue: true}", ""), []string{
			"lk.yaml:4:44: error: routes[0].key.from: browsers refuse __Host-lk: a name that begins so needs session.secure, and __Host- the path /"}},
		{"another site", issuing(sound+", secure: false, same_site: none", cookie, ""), []string{
			"lk.yaml:1:43: error: session.same_site: none, but session.secure is false: browsers refuse such a cookie"}},
		{"no path", issuing(sound+", path: \"/a; Domain=b\"", cookie, ""), []string{
			`lk.yaml:1:28: error: session.path: "/a; Domain=b" is not a path: it begins with / and has no blanks, commas and semicolons`}},
	})
	bypass := ", lane: {exclusive: [], shared: [], bypass: [\"*\"]}}\n"
	route := "routes: [{name: a, upstream: app, key: {space: s, from: [" + cookie + "]}" + strings.TrimSuffix(bypass, "\n") + "]\n"
	mustLoad(t, "session: {"+sound+"}\nupstreams: [{name: app, targets: [\"http://a:1\"], balance: key_hash}]\n"+route)
	if _, report := loadText(t, "session: {"+sound+"}\n"+someUpstream+route); len(report.Problems) != 1 || !strings.Contains(report.Problems[0].Message, "never used") {
		t.Errorf("a key that chooses nothing: %v", report.Problems)
	}
}

// Mutants: the secrets are not read; a secret that cannot be is passed over.
func TestConfigForSessions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	cfg := mustLoad(t, issuing("secret_file: "+path+", max_age: 2h, secure: false, same_site: strict, path: /p", "{cookie: lk, issue: true}", ""))
	if _, err := cfg.nodeConfig(); err == nil || !strings.HasPrefix(err.Error(), "session.secret_file: ") {
		t.Errorf("no file: %v", err)
	}
	first, second := bytes.Repeat([]byte("a"), 32), bytes.Repeat([]byte("b"), 32)
	if err := os.WriteFile(path, []byte("YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=\nYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	node, err := cfg.nodeConfig()
	want := &proxy.Sessions{Secrets: [][]byte{first, second}, MaxAge: 2 * time.Hour, SameSite: "Strict", Path: "/p"}
	if err != nil || !reflect.DeepEqual(node.proxy.Sessions, want) || !node.proxy.Routes[0].Key.From[0].Issue {
		t.Errorf("got %v, %+v", err, node.proxy.Sessions)
	}
	if words := strings.Fields(enumOf[SessionConfig]("same_site")); len(words) != len(sameSiteWords) {
		t.Errorf("same_site has %v", words)
	}
	if mustLoad(t, someApp).proxyConfig().Sessions != nil {
		t.Error("sessions without a source that issues any")
	}
}

// A session that would be issued has no key to look for.
//
// Mutant: the example's own id is shown.
func TestLocateASessionThatWouldBeIssued(t *testing.T) {
	cfg := issuing("secret_file: nowhere", "{cookie: lk, issue: true}", "")
	t.Chdir(t.TempDir())
	if err := os.WriteFile("lk.yaml", []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := runArgs(t, "locate", "--request", "POST /orders", "--config", "lk.yaml", "--admin", "127.0.0.1:1")
	if code != exitOK || !strings.Contains(out, "s/…") || !strings.Contains(out, "would be issued: the request has no valid cookie:lk") || !strings.HasPrefix(errs, "! session.secret_file: ") {
		t.Errorf("got %d\n%s%s", code, out, errs)
	}
	if code, out, _ := runArgs(t, "locate", "--request", "POST /orders", "--config", "lk.yaml", "-o", "json"); code != exitOK || !strings.Contains(out, `"key": ""`) || !strings.Contains(out, `"issued": true`) {
		t.Errorf("got %d\n%s", code, out)
	}
}
