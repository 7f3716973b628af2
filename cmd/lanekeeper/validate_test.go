package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// runArgs executes a command line like run, and returns what it writes.
func runArgs(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	root := rootCommand()
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(args)
	err := root.Execute()
	if exit := (*exitError)(nil); errors.As(err, &exit) {
		code, err = exit.code, exit.err
	} else if err != nil {
		code = exitUsage
	}
	if err != nil {
		fmt.Fprintf(&stderr, "lanekeeper: %v\n", err)
	}
	return code, stdout.String(), stderr.String()
}

// Mutants killed: names of files are not escaped for GitHub; the problems of the
// environment are repeated for each file.
func TestValidateConfigs(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, content := range map[string]string{
		"good.yaml":   someApp,
		"warn.yaml":   "upstreams: [{name: app, targets: [\"http://a:1\"]}, {name: b, targets: [\"http://b:1\"]}]\n" + someRoute,
		"bad,1%.yaml": "server: {listn: \":1\"}\n" + someApp,
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("LANEKEEPER_SERVER_LISTN", "1")
	const variable = `LANEKEEPER_SERVER_LISTN: warning: sets nothing (did you mean "LANEKEEPER_SERVER_LISTEN"?)` + "\n"
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"good.yaml", exitOK, variable + "0 errors, 1 warning\n"},
		{"warn.yaml good.yaml", exitOK, "warn.yaml:1:51: warning: upstreams[1]: no route uses the upstream b\n" + variable + "0 errors, 2 warnings\n"},
		{"bad,1%.yaml", exitConfig, "bad,1%.yaml:1:10: error: server.listn: unknown field (did you mean \"listen\"?)\n" + variable + "1 error, 1 warning\n"},
		{"missing.yaml", exitConfig, "missing.yaml: error: open missing.yaml: no such file or directory\n1 error, 0 warnings\n"},
		{"--format github bad,1%.yaml", exitConfig, "::error file=bad%2C1%25.yaml,line=1,col=10::server.listn: unknown field (did you mean \"listen\"?)\n::warning::" + strings.Replace(variable, " warning:", "", 1)},
		{"--format json bad,1%.yaml", exitConfig, `{
  "errors": 1,
  "problems": [
    {
      "source": "bad,1%.yaml",
      "line": 1,
      "column": 10,
      "severity": "error",
      "path": "server.listn",
      "message": "unknown field (did you mean \"listen\"?)"
    },
    {
      "source": "LANEKEEPER_SERVER_LISTN",
      "severity": "warning",
      "message": "sets nothing (did you mean \"LANEKEEPER_SERVER_LISTEN\"?)"
    }
  ],
  "warnings": 1
}
`},
		{"--format xml good.yaml", exitUsage, ""},
		{"", exitUsage, ""},
	} {
		code, out, _ := runArgs(t, append([]string{"validate"}, strings.Fields(test.args)...)...)
		if code != test.code || out != test.want {
			t.Errorf("%s: got %d\n%s\nwant %d\n%s", test.args, code, out, test.code, test.want)
		}
	}
}
