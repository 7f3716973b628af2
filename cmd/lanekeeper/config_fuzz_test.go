package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// FuzzConfig says of any bytes: loading does not panic, and what is accepted
// can be served, is shown in a form that loads to the same, and satisfies the
// schema.
func FuzzConfig(f *testing.F) {
	for _, name := range []string{"minimal", "sidecar", "strict", "three-node"} {
		source, err := os.ReadFile("../../configs/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(source)
	}
	f.Add([]byte(everySetting))
	f.Add([]byte(someApp))
	f.Add([]byte("a: &a [*a]\n<<: *a\n? [b]\n: c\n--- {}\n"))
	f.Add([]byte("node: {name: \"${HOSTNAME:-$${a}}\"}\nserver: {Listen: 5, read_timeout: 5}\n" + someApp))
	file := filepath.Join(f.TempDir(), "lk.yaml")
	f.Fuzz(func(t *testing.T, source []byte) {
		if err := os.WriteFile(file, source, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, report := Load(LoadOptions{File: file})
		if report.Errors() > 0 {
			return
		}
		cfg.proxyConfig()
		var shown bytes.Buffer
		if err := cfg.writeYAML(&shown, report.Origin); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, shown.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		again, report := Load(LoadOptions{File: file})
		if report.Errors() > 0 || !reflect.DeepEqual(again, cfg) {
			t.Errorf("shown as\n%s\n%v\ngot  %+v\nwant %+v", shown.Bytes(), report.Problems, again, cfg)
		}
	})
}
