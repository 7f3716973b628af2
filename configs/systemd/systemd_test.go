package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lanekeeper/configs/configstest"
)

func TestMain(m *testing.M) { configstest.Main(m) }

// exposureMax is in tenths of the points that systemd gives, ten of them for no protection.
const exposureMax = "15"

// systemd's own reading of the unit: it knows every setting, and finds little that could
// still be forbidden. The unit's program is the one that this source makes.
//
// Mutants: a setting is misspelt; SystemCallFilter is not there.
func TestSystemdUnderstandsTheUnit(t *testing.T) {
	analyze := configstest.Program(t, "systemd-analyze", "systemd")
	text, err := os.ReadFile("lanekeeper.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := strings.Replace(string(text), "ExecStart=/usr/bin/lanekeeper ", "ExecStart="+configstest.Lanekeeper(t)+" ", 1)
	if unit == string(text) {
		t.Fatal("the unit starts something else")
	}
	file := filepath.Join(t.TempDir(), "lanekeeper.service")
	if err := os.WriteFile(file, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		// What 252 and older say of the newer of the two types.
		if !strings.HasPrefix(line, file+":") || !strings.HasSuffix(line, "Failed to parse service type, ignoring: notify-reload\n") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--no-pager", "--threshold="+exposureMax, file).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// What the unit has to say for lanekeeper, and systemd cannot know.
//
// Mutants: RestartPreventExitStatus is 2 alone; no WatchdogSec; Type=notify-reload comes
// before Type=notify; no ProtectSystem.
func TestWhatTheUnitSays(t *testing.T) {
	text, err := os.ReadFile("lanekeeper.service")
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{} // the last of each counts
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			settings[name] = value
		}
	}
	for name, want := range map[string]string{
		"Type":                     "notify-reload",
		"NotifyAccess":             "main",
		"ExecStart":                "/usr/bin/lanekeeper serve --config /etc/lanekeeper/lanekeeper.yaml",
		"User":                     "lanekeeper",
		"Restart":                  "on-failure",
		"RestartPreventExitStatus": "2 3", // usage, configuration
		"WatchdogSec":              "30s",
		"ProtectSystem":            "strict",
		"NoNewPrivileges":          "yes",
		"CapabilityBoundingSet":    "",
	} {
		if have, ok := settings[name]; have != want || !ok {
			t.Errorf("%s=%s, want %s", name, have, want)
		}
	}
}
