package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Mutants killed: places of values instead of names; the last of two equal
// settings wins; names compared without case; checkTag always content; the
// first problem ends the reading; a broken second document passes; any version
// is read; consequences are reported as well.
func TestConfigStructureIsStrict(t *testing.T) {
	runProblemTests(t, []problemTest{
		{"unknown field", "server:\n  listn: \":1\"\n" + someApp, []string{
			`lk.yaml:2:3: error: server.listn: unknown field (did you mean "listen"?)`,
		}},
		{"unknown field, part of a name", someUpstream + "routes:\n  - name: a\n    upstream: app\n    key: {space: s, from: [{header: H}]}\n    lane: {tiemout: 5s}\n", []string{
			`lk.yaml:6:12: error: routes[0].lane.tiemout: unknown field (did you mean "queue_timeout"?)`,
		}},
		{"unknown field, nothing near", "zzzzzz: 1\n" + someApp, []string{
			`lk.yaml:1:1: error: zzzzzz: unknown field`,
		}},
		{"wrong case", "server: {Listen: \":1\"}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.Listen: unknown field (did you mean "listen"?)`,
		}},
		{"both cases", "server: {listen: \":1\", Listen: \":2\"}\n" + someApp, []string{
			`lk.yaml:1:24: error: server.Listen: unknown field (did you mean "listen"?)`,
		}},
		{"dotted name", "server.listen: \":1\"\n" + someApp, []string{
			`lk.yaml:1:1: error: server.listen: unknown field`,
		}},
		{"given twice", "log: {level: info}\nnode: {name: a}\nlog: {level: warn}\n" + someApp, []string{
			`lk.yaml:3:1: error: log: given twice, first in line 1`,
		}},
		{"value for a section", "server: 5\n" + someApp, []string{
			`lk.yaml:1:9: error: server: want a section with settings, got 5`,
		}},
		{"list for a section", "server: [a]\n" + someApp, []string{
			`lk.yaml:1:9: error: server: want a section with settings, got a list`,
		}},
		{"nothing in a section", "server:\nlog:\n  # level: info\n" + someApp, nil},
		{"nothing for a value", "node: {name: }\n" + someApp, []string{
			`lk.yaml:1:8: error: node.name: has no value: give one, or remove the line`,
		}},
		{"nothing for a list", "server: {trusted_proxies: }\n" + someApp, []string{
			`lk.yaml:1:10: error: server.trusted_proxies: want a list, got nothing`,
		}},
		{"value for a list", "defaults: {lane: {shared: GET}}\n" + someApp, []string{
			`lk.yaml:1:19: error: defaults.lane.shared: want a list, got the text "GET"`,
		}},
		{"section for a value", "node: {name: {a: b}}\n" + someApp, []string{
			`lk.yaml:1:8: error: node.name: want a single value, got a section`,
		}},
		{"number for a text", "node: {name: 5}\n" + someApp, []string{
			`lk.yaml:1:8: error: node.name: want text, got 5: put it in quotes`,
		}},
		{"date for a text", "node: {name: 2024-01-01}\n" + someApp, []string{
			`lk.yaml:1:8: error: node.name: want text, got 2024-01-01: put it in quotes`,
		}},
		{"text for a number", "limits: {max_lanes: \"5\"}\n" + someApp, []string{
			`lk.yaml:1:10: error: limits.max_lanes: want a whole number, got the text "5"`,
		}},
		{"fraction for a number", "limits: {max_lanes: 1.5}\n" + someApp, []string{
			`lk.yaml:1:10: error: limits.max_lanes: want a whole number, got 1.5`,
		}},
		{"octal number", "limits: {max_lanes: 0755}\n" + someApp, []string{
			`lk.yaml:1:10: error: limits.max_lanes: want a whole number, got "0755"`,
		}},
		{"negative number", "limits: {max_lanes: -1}\n" + someApp, []string{
			`lk.yaml:1:10: error: limits.max_lanes: want a whole number, got "-1"`,
		}},
		{"number too large", "limits: {max_lanes: 3000000000}\n" + someApp, []string{
			`lk.yaml:1:10: error: limits.max_lanes: 3000000000 is too large: at most 2147483647`,
		}},
		{"number too small", "limits: {max_lanes: 0}\n" + someApp, []string{
			`lk.yaml:1:10: error: limits.max_lanes: 0 is too small: at least 1`,
		}},
		{"text for a truth", "server: {via_node: \"true\"}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.via_node: want true or false, got the text "true"`,
		}},
		{"yes for a truth", "server: {via_node: yes}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.via_node: want true or false, got the text "yes"`,
		}},
		{"bare number for a duration", "server: {read_timeout: 5}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.read_timeout: 5 has no unit: write 5s for seconds, or use ms, m, h`,
		}},
		{"unknown unit of a duration", "server: {read_timeout: 5d}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.read_timeout: "5d" is not a duration: write one like 500ms, 5s or 1m30s`,
		}},
		{"negative duration", "server: {read_timeout: -5s}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.read_timeout: "-5s" is not a duration: write one like 500ms, 5s or 1m30s`,
		}},
		{"duration too short", "defaults: {lane: {queue_timeout: 0s}}\n" + someApp, []string{
			`lk.yaml:1:19: error: defaults.lane.queue_timeout: 0s is too small: at least 1ms`,
		}},
		{"duration too long", "server: {read_timeout: 9999999999h}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.read_timeout: 9999999999h is too long for a duration`,
		}},
		{"duration too fine", "server: {read_timeout: 1.0005s}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.read_timeout: 1.0005s is finer than a millisecond`,
		}},
		{"bare number for a size", "server: {max_body: 1048576}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.max_body: 1048576 has no unit: write 1048576B for bytes, or use KiB, MiB, GiB`,
		}},
		{"decimal unit of a size", "server: {max_body: 1MB}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.max_body: "1MB" is not a size: write a whole number and one of B, KiB, MiB, GiB, like 64KiB`,
		}},
		{"size too large", "server: {max_body: 9999999999GiB}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.max_body: 9999999999GiB is too large for a size`,
		}},
		{"size too small", "server: {max_header: 1023B}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.max_header: 1023B is too small: at least 1KiB`,
		}},
		{"zero needs no unit", "server: {header_timeout: 0, max_uri: 0}\n" + someApp, nil},
		{"word of no choice", "log: {level: warning}\n" + someApp, []string{
			`lk.yaml:1:7: error: log.level: "warning" is not one of debug, info, warn, error`,
		}},
		{"misspelt word", "server: {forwarded: x-forwardd}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.forwarded: "x-forwardd" is not one of x-forwarded, rfc7239, both, none (did you mean "x-forwarded"?)`,
		}},
		{"word of no choice in a list", "defaults: {key: {normalize: [trim, upper]}}\n" + someApp, []string{
			`lk.yaml:1:36: error: defaults.key.normalize[1]: "upper" is not one of trim, lower`,
		}},
		{"text that does not match", "node: {name: a b}\n" + someApp, []string{
			`lk.yaml:1:8: error: node.name: "a b" does not match [A-Za-z0-9._-]{0,64}`,
		}},
		{"text that does not print", "server: {listen: \"\\a\"}\n" + someApp, []string{
			`lk.yaml:1:10: error: server.listen: "\a" has a character that does not print`,
		}},
		{"alias", "node: &n {name: a}\nlog: *n\n" + someApp, []string{
			`lk.yaml:2:6: error: log: YAML aliases and merge keys are not supported: what routes share belongs under defaults:`,
		}},
		{"alias in a list", "server: {trusted_proxies: [&a 10.0.0.0/8, *a]}\n" + someApp, []string{
			`lk.yaml:1:43: error: server.trusted_proxies[1]: YAML aliases and merge keys are not supported: what routes share belongs under defaults:`,
		}},
		{"alias as a name", "node: {name: &n listen}\nserver: {*n : a}\n" + someApp, []string{
			`lk.yaml:2:10: error: server: want the name of a setting, got an alias`,
		}},
		{"merge key", "node: &n {name: a}\nserver:\n  <<: *n\n" + someApp, []string{
			`lk.yaml:3:3: error: server.<<: YAML aliases and merge keys are not supported: what routes share belongs under defaults:`,
		}},
		{"name that is a list", "[a]: 1\n" + someApp, []string{
			`lk.yaml:1:1: error: want the name of a setting, got a list`,
		}},
		{"not a mapping", "- a\n", []string{`lk.yaml:1:1: error: want a section with settings, got a list`}},
		{"two documents", someApp + "---\nnode: {name: b}\n", []string{
			`lk.yaml:3:1: error: a second document starts here: one file is one configuration`,
		}},
		{"two documents, one not YAML", someApp + "---\nserver: [\n", []string{
			`lk.yaml:4:1: error: not YAML: did not find expected node content`,
		}},
		{"not YAML", "node: {name: a}\nserver: [\n", []string{
			`lk.yaml:2:1: error: not YAML: did not find expected node content`,
		}},
		{"not text", "node: {name: \"\xff\"}\n", []string{
			`lk.yaml: error: not YAML: invalid leading UTF-8 octet`,
		}},
		{"empty", "", []string{
			`lk.yaml: error: routes: required: at least one`,
			`lk.yaml: error: upstreams: required: at least one`,
		}},
		{"nothing but comments", "# nothing\n", []string{
			`lk.yaml: error: routes: required: at least one`,
			`lk.yaml: error: upstreams: required: at least one`,
		}},
		{"unknown version", "version: 2\nnew: {name: a}\n", []string{
			`lk.yaml:1:1: error: version: 2 is unknown: this build reads version 1`,
		}},
		{"all at once, in order", "server:\n  read_timeout: 5\n  lisen: 1\nlog:\n  level: loud\n" + someApp, []string{
			`lk.yaml:2:3: error: server.read_timeout: 5 has no unit: write 5s for seconds, or use ms, m, h`,
			`lk.yaml:3:3: error: server.lisen: unknown field (did you mean "listen"?)`,
			`lk.yaml:5:3: error: log.level: "loud" is not one of debug, info, warn, error`,
		}},
		{"only the cause", "upstreams: 5\nroutes:\n  - name: 5\n    upstream: app\n    key: {space: ORDER, from: [{header: 5}]}\n", []string{
			`lk.yaml:1:1: error: upstreams: want a list, got 5`,
			`lk.yaml:3:5: error: routes[0].name: want text, got 5: put it in quotes`,
			`lk.yaml:5:11: error: routes[0].key.space: "ORDER" does not match [a-z0-9_-]{1,32}`,
			`lk.yaml:5:33: error: routes[0].key.from[0].header: want text, got 5: put it in quotes`,
		}},
	})
}

// Mutant killed: no listMax; then defaults: with a thousand methods and a
// thousand routes without a line of their own become millions of strings.
func TestConfigIsBounded(t *testing.T) {
	long := someUpstream + someRoute + "server: {trusted_proxies: [" + strings.Repeat("10.0.0.0/8,", listMax) + "]}\n"
	cfg, report := loadText(t, long)
	if report.Errors() > 0 || len(cfg.Server.TrustedProxies) != listMax {
		t.Errorf("%d elements: got %v", listMax, report.Problems)
	}
	have := problemsOf(t, strings.Replace(long, "[10.", "[10.0.0.0/8, 10.", 1))
	if want := "lk.yaml:3:10: error: server.trusted_proxies: 1025 elements: at most 1024"; len(have) != 1 || have[0] != want {
		t.Errorf("got %q, want %q", have, want)
	}

	padding := strings.Repeat("#", configFileMax-len(someApp))
	if have := problemsOf(t, someApp+padding); have != nil {
		t.Errorf("file of 1MiB: got %q", have)
	}
	have = problemsOf(t, someApp+padding+"#")
	if want := "lk.yaml: error: larger than 1MiB"; len(have) != 1 || have[0] != want {
		t.Errorf("got %q, want %q", have, want)
	}

	bomb := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for name := 'b'; name < 'z'; name++ {
		bomb += string(name) + ": &" + string(name) + " [" + strings.Repeat("*"+string(name-1)+", ", 9) + "]\n"
	}
	if have := problemsOf(t, bomb+someApp); len(have) != 25 {
		t.Errorf("alias bomb: got %q", have)
	}
}

func TestConfigFileThatIsNotThere(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	_, report := Load(LoadOptions{File: missing})
	want := missing + ": error: open " + missing + ": no such file or directory"
	if len(report.Problems) != 1 || report.Problems[0].String() != want {
		t.Errorf("got %v, want %s", report.Problems, want)
	}
	_, report = Load(LoadOptions{File: os.TempDir()})
	if report.Errors() != 1 {
		t.Errorf("directory: got %v", report.Problems)
	}
}
