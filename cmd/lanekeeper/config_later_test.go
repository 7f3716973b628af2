package main

import (
	"reflect"
	"strings"
	"testing"
)

// Mutants killed: a setting of the table is skipped whatever it says; an off
// value is refused; a section is refused at its own place only.
func TestConfigRefusesWhatIsNotBuilt(t *testing.T) {
	refused := func(place, path, instead string) []string {
		if instead != "" {
			instead = ": " + instead
		}
		return []string{"lk.yaml:" + place + ": error: " + path + ": not yet supported in this version" + instead}
	}
	runProblemTests(t, []problemTest{
		{"dashboard", "admin: {ui: true}\n" + someApp, refused("1:9", "admin.ui", "leave it out or write false")},
		{"an expanded value", "admin: {ui: \"${NOT_SET:-true}\"}\n" + someApp, refused("1:9", "admin.ui", "leave it out or write false")},
		{"a value of another kind", "admin: {ui: [false]}\n" + someApp, refused("1:9", "admin.ui", "leave it out or write false")},
	})

	off := `
admin: {ui: "${UI_NOT_SET:-false}"}
upstreams:
  - {name: app, targets: ["http://a:1"]}
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
		if !strings.Contains(off, name+":") {
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
