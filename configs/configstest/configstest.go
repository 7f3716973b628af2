// Package configstest helps the tests of what users copy from configs: it builds the
// program once, validates files with it and runs it. It belongs to tests alone.
package configstest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const patience = 30 * time.Second // for a program to start or to end, on a busy machine

var built struct {
	once sync.Once
	dir  string
	err  error
}

// Main runs a package's tests, removes what they have built, and fails if they leave
// goroutines behind.
func Main(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if built.dir != "" {
			os.RemoveAll(built.dir)
		}
		os.Exit(code)
	}))
}

// Lanekeeper is the program, built from this source without the race detector, as users
// have it.
func Lanekeeper(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "lanekeeper-test"); built.err != nil {
			return
		}
		if out, err := exec.Command("go", "build", "-o", built.dir, "lanekeeper/cmd/lanekeeper").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "lanekeeper")
}

// Absent ends a test that lacks something this machine could have: with CI=true it fails.
func Absent(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Program finds a command; pkg is the Debian package that has it.
func Program(t testing.TB, name, pkg string) string {
	t.Helper()
	for _, name := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	Absent(t, "no %s here: apt-get install %s", name, pkg)
	return ""
}

// Valid holds a configuration against the program: it may have no error, and no warning.
// The environment is what the file expands.
func Valid(t testing.TB, file string, environment ...string) {
	t.Helper()
	cmd := exec.Command(Lanekeeper(t), "validate", file)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, environment...)
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("warning:")) {
		t.Errorf("lanekeeper validate %s: %v\n%s", file, err, out)
	}
}

// Config is a configuration in force, with all its defaults, as JSON says it.
func Config(t testing.TB, file string, environment ...string) map[string]any {
	t.Helper()
	cmd := exec.Command(Lanekeeper(t), "config", "show", "--config", file, "-o", "json")
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, environment...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("lanekeeper config show: %v\n%s", err, out)
	}
	var config map[string]any
	if err := json.Unmarshal(out, &config); err != nil {
		t.Fatal(err)
	}
	return config
}

// Node is a running `lanekeeper serve`.
type Node struct {
	t       testing.TB
	cmd     *exec.Cmd
	Address string // http://…
	Observe string

	mu    sync.Mutex // guards log
	log   bytes.Buffer
	ended chan struct{}
}

// Serve runs cmd, which is or becomes a node that logs as JSON, until the test ends. It
// returns when the node serves.
func Serve(t testing.TB, cmd *exec.Cmd) *Node {
	t.Helper()
	n := &Node{t: t, cmd: cmd, ended: make(chan struct{})}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serving := make(chan map[string]any, 1)
	go func() { // ends with the process
		defer close(n.ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			n.mu.Lock()
			fmt.Fprintln(&n.log, lines.Text())
			n.mu.Unlock()
			var line map[string]any
			if json.Unmarshal(lines.Bytes(), &line) == nil && line["event"] == "started" {
				serving <- line
			}
		}
	}()
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			<-n.ended
			cmd.Wait()
		}
		if t.Failed() {
			t.Logf("lanekeeper said:\n%s", n.said())
		}
	})
	select {
	case line := <-serving:
		n.Address, n.Observe = fmt.Sprint("http://", line["listen"]), fmt.Sprint("http://", line["observe"])
	case <-n.ended:
		t.Fatal("lanekeeper ended at once")
	case <-time.After(patience):
		t.Fatal("lanekeeper does not serve")
	}
	return n
}

// Signal sends the node a signal.
func (n *Node) Signal(s os.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Error(err)
	}
}

// Wait returns how the node has ended.
func (n *Node) Wait() syscall.WaitStatus {
	n.t.Helper()
	select {
	case <-n.ended:
	case <-time.After(2 * patience):
		n.t.Error("lanekeeper does not end")
		n.cmd.Process.Kill()
		<-n.ended
	}
	n.cmd.Wait()
	return n.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// Stop asks the node to end, and returns its exit code.
func (n *Node) Stop() int {
	n.t.Helper()
	n.Signal(syscall.SIGTERM)
	return n.Wait().ExitStatus()
}

func (n *Node) said() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.String()
}
