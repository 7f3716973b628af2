package packages

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lanekeeper/configs/configstest"
)

func TestMain(m *testing.M) { configstest.Main(m) }

// build makes both packages, and returns the file of one kind.
func build(t *testing.T, dir, version, kind string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "./build.sh", version, dir)
	cmd.Env = append(os.Environ(), "BINARY="+configstest.Lanekeeper(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*"+version+"*."+kind))
	if err != nil || len(found) != 1 {
		t.Fatalf("build.sh has made %v, %v", found, err)
	}
	return found[0]
}

// files are in both packages.
var files = []string{
	"/etc/lanekeeper/lanekeeper.yaml",
	"/usr/bin/lanekeeper",
	"/usr/lib/systemd/system/lanekeeper.service",
	"/usr/lib/sysusers.d/lanekeeper.conf",
	"/usr/share/bash-completion/completions/lanekeeper",
	"/usr/share/doc/lanekeeper/CHANGELOG.md",
	"/usr/share/doc/lanekeeper/examples/local.yaml",
	"/usr/share/doc/lanekeeper/examples/strict.yaml",
	"/usr/share/fish/vendor_completions.d/lanekeeper.fish",
}

// The configuration that is installed is one that can be used as it is, and that nobody
// else than this machine can reach.
//
// Mutants: server listens at :7940; a setting is misspelt.
func TestTheInstalledConfiguration(t *testing.T) {
	configstest.Valid(t, "lanekeeper.yaml")
	config := configstest.Config(t, "lanekeeper.yaml")
	for _, section := range []string{"server", "observe", "admin"} {
		if listen := config[section].(map[string]any)["listen"].(string); !strings.HasPrefix(listen, "127.0.0.1:") {
			t.Errorf("%s listens at %s", section, listen)
		}
	}
}

// sandbox is a copy of this machine in which packages can be installed: what is written
// there is gone with it, and its ports are its own.
type sandbox struct {
	t    *testing.T
	pid  string // of the process that keeps its namespaces
	root string
}

// newSandbox makes one that lasts as long as the test. It needs root.
func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	if os.Getuid() != 0 {
		configstest.Absent(t, "installing packages needs root")
	}
	unshare := configstest.Program(t, "unshare", "util-linux")
	configstest.Program(t, "nsenter", "util-linux")
	configstest.Program(t, "ip", "iproute2")
	root := filepath.Join(t.TempDir(), "sandbox")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	// The mounts are seen by this process and its likes only, and end with them.
	keeper := exec.Command(unshare, "--mount", "--net", "sh", "-ec", `
		mount -t tmpfs none "$1"
		mkdir "$1/upper" "$1/work" "$1/root"
		mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
		for dir in proc dev; do mount --rbind /$dir "$1/root/$dir"; done
		mount -t tmpfs none "$1/root/run"
		ip link set lo up
		echo ready
		exec cat`, "sh", root)
	hold, err := keeper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	keeper.Stderr = &said
	answer, err := keeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // cat ends with its input
		hold.Close()
		keeper.Wait()
	})
	line := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(answer, line); err != nil {
		hold.Close()
		keeper.Wait()
		configstest.Absent(t, "this machine makes no sandbox: %s", said.String())
	}
	return &sandbox{t, strconv.Itoa(keeper.Process.Pid), filepath.Join(root, "root")}
}

// command is one to be run in the sandbox, in whose place it is run, by the same process id.
func (s *sandbox) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target", s.pid, "--mount", "--net", "chroot", s.root}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	return cmd
}

// run runs a command to its end, which has to be a good one.
func (s *sandbox) run(args ...string) string {
	s.t.Helper()
	out, err := s.command(args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (s *sandbox) exists(file string) bool {
	return s.command("test", "-e", file).Run() == nil
}

// The life of the .deb, with the dpkg of this machine: installed, run as the user that it
// brings and with the configuration that it brings, by the unit's own command line, since
// there is no systemd to do that; upgraded, removed, purged. systemctl is not called here,
// as on any machine that systemd does not run.
//
// Mutants: lanekeeper.yaml is no conffile; no user is made; the unit is not packaged; a purge
// leaves what was kept; the program is not executable.
func TestInstallUpgradeRemovePurge(t *testing.T) {
	configstest.Program(t, "dpkg", "dpkg")
	curl := configstest.Program(t, "curl", "curl")
	dir := t.TempDir()
	first, second := build(t, dir, "0.1.0", "deb"), build(t, dir, "0.1.1", "deb")
	s := newSandbox(t)
	if s.exists("/usr/bin/lanekeeper") {
		t.Skip("lanekeeper is installed on this machine")
	}

	s.run("dpkg", "--install", first)
	installed := strings.Fields(s.run("dpkg", "--listfiles", "lanekeeper"))
	for _, file := range append(files, "/usr/share/zsh/vendor-completions/_lanekeeper") {
		if !slices.Contains(installed, file) || !s.exists(file) {
			t.Errorf("%s is not installed", file)
		}
	}
	if conffiles := s.run("dpkg-query", "--show", "--showformat=${Conffiles}", "lanekeeper"); !strings.HasPrefix(strings.TrimSpace(conffiles), "/etc/lanekeeper/lanekeeper.yaml ") {
		t.Errorf("the conffiles are %q", conffiles)
	}
	user := strings.Split(s.run("getent", "passwd", "lanekeeper"), ":")
	if id, err := strconv.Atoi(user[2]); err != nil || id == 0 || id >= 1000 || !strings.Contains(user[6], "nologin") {
		t.Errorf("the user is %v", user)
	}

	// As the unit has it.
	var start []string
	for line := range strings.Lines(s.run("cat", "/usr/lib/systemd/system/lanekeeper.service")) {
		if command, ok := strings.CutPrefix(line, "ExecStart="); ok {
			start = strings.Fields(command)
		}
	}
	service := s.command("/usr/bin/lanekeeper", "witness", "--listen", "127.0.0.1:8080")
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { service.Process.Kill(); service.Wait() })
	run := s.command(append([]string{"setpriv", "--reuid", "lanekeeper", "--regid", "lanekeeper", "--init-groups", "--no-new-privs", "--bounding-set=-all"}, start...)...)
	run.Env = append(run.Env, "LANEKEEPER_SHUTDOWN_DELAY=0s", "LANEKEEPER_LOG_FORMAT=json")
	node := configstest.Serve(t, run)
	s.run("/usr/bin/lanekeeper", "health")
	status := s.run(curl, "--silent", "--show-error", "--retry", "20", "--retry-delay", "1", "--retry-all-errors", "--fail", "--output", "/dev/null", "--write-out", "%{http_code}",
		"--header", "X-Order-Id: 7", "--request", "POST", node.Address+"/orders")
	if status != "200" {
		t.Errorf("a request through it is answered by %s", status)
	}
	if code := node.Stop(); code != 0 {
		t.Errorf("it ends with %d", code)
	}

	s.run("sh", "-c", "echo '# mine' >>/etc/lanekeeper/lanekeeper.yaml && mkdir -p /var/lib/lanekeeper && echo kept >/var/lib/lanekeeper/journal")
	s.run("dpkg", "--install", second)
	if version := s.run("dpkg-query", "--show", "--showformat=${Version}", "lanekeeper"); version != "0.1.1" {
		t.Errorf("after the upgrade it is %s", version)
	}
	mine := func(when string) {
		t.Helper()
		if text := s.run("cat", "/etc/lanekeeper/lanekeeper.yaml"); !strings.HasSuffix(text, "# mine\n") {
			t.Errorf("after %s the configuration is not its owner's", when)
		}
	}
	mine("the upgrade")

	s.run("dpkg", "--remove", "lanekeeper")
	mine("the removal")
	if s.exists("/usr/bin/lanekeeper") || !s.exists("/var/lib/lanekeeper/journal") {
		t.Error("a removal takes the program, and nothing that was kept")
	}
	s.run("dpkg", "--purge", "lanekeeper")
	for _, file := range []string{"/etc/lanekeeper", "/var/lib/lanekeeper", "/usr/share/doc/lanekeeper"} {
		if s.exists(file) {
			t.Errorf("a purge leaves %s", file)
		}
	}
	if err := s.command("dpkg", "--status", "lanekeeper").Run(); err == nil {
		t.Error("dpkg still knows it")
	}
}

// The .rpm has the same in it, as rpm reads it. It is not installed: Debian's rpm has no
// database of what is.
//
// Mutants: lanekeeper.yaml is no configuration; a script is left out.
func TestTheRPM(t *testing.T) {
	rpm := configstest.Program(t, "rpm", "rpm")
	file := build(t, t.TempDir(), "0.1.0", "rpm")
	query := func(what ...string) []string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), rpm, append([]string{"--query", "--package", file}, what...)...)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("rpm --query %v: %v", what, err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	list := query("--list")
	for _, file := range append(files, "/usr/share/zsh/site-functions/_lanekeeper") {
		if !slices.Contains(list, file) {
			t.Errorf("%s is not in it", file)
		}
	}
	if config := query("--configfiles"); !slices.Equal(config, []string{"/etc/lanekeeper/lanekeeper.yaml"}) {
		t.Errorf("its configuration is %q", config)
	}
	if name := query("--queryformat", "%{NAME} %{VERSION}"); name[0] != "lanekeeper 0.1.0" {
		t.Errorf("it is %q", name)
	}
	scripts := strings.Join(query("--scripts"), "\n")
	for _, name := range []string{"postinstall.sh", "preremove.sh", "postremove.sh"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(scripts, strings.TrimSpace(string(text))) {
			t.Errorf("%s is not in it", name)
		}
	}
}
