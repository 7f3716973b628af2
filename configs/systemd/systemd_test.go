package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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
	settings := settingsOf(t)
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

// settingsOf is what the unit says; the last of each counts.
func settingsOf(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("lanekeeper.service")
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			settings[name] = value
		}
	}
	return settings
}

// What the watchdog sends ends the process as a crash, which is restarted, and not by the
// exit code of a wrong command line, which is not: as Go's runtime would end it.
//
// Mutant: the unit has no GOTRACEBACK.
func TestWhatTheWatchdogEndsIsRestarted(t *testing.T) {
	cmd := exec.Command(configstest.Lanekeeper(t), "serve", "--upstream", "http://127.0.0.1:1", "--key", "header:X-Order-Id",
		"--listen", "127.0.0.1:0", "--observe", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), settingsOf(t)["Environment"], "LANEKEEPER_ADMIN_LISTEN=127.0.0.1:0", "LANEKEEPER_LOG_FORMAT=json")
	node := configstest.Serve(t, cmd)
	node.Signal(syscall.SIGABRT)
	if state := node.Wait(); !state.Signaled() || state.Signal() != syscall.SIGABRT {
		t.Errorf("it ends with %v, exit code %d", state, state.ExitStatus())
	}
}
