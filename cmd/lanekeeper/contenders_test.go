package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lanekeeper/loadtest"
	"lanekeeper/lock/locktest"
)

// contender is something that can stand between clients and a service, with everything
// that it needs running.
type contender struct {
	name    string
	targets []string // http://host:port; connections take them in turn
	pids    []int    // of what is between a client and the service
}

// contenders starts all of them in front of a service, until the end of the test. Each is
// in processes of its own, and set up as its users would, to its advantage where there is
// a choice; the files are beside this one, in testdata/contenders.
func contenders(t testing.TB, service string) []*contender {
	etcd := locktest.Etcd(t, 1)[0]
	return []*contender{
		{name: "direct", targets: []string{service}},
		startNginxAs(t, "nginx, consistent hash", "hash $http_x_order_id consistent;", service),
		startHAProxyAs(t, hashing, service, 2, 2, 0),
		startHAProxyAs(t, "HAProxy, one server of maxconn 1", service, 2, 1, 1),
		startHAProxyAs(t, lanes64[0], service, 1, 64, 1),
		startHAProxyAs(t, lanes64[1], service, 2, 64, 1),
		startChild(t, minimal, "plain", service),
		startAlone(t, alone, service),
		startTogether(t, strictOne, service, 1, etcd),
		startTogether(t, three, service, 3, nil),
		startTogether(t, "lanekeeper, 3 nodes, strict", service, 3, etcd),
		startLocking(t, perLock[0], "plain-redis", service),
		startLocking(t, perLock[1], "zookeeper", service),
		startLocking(t, perLock[2], "etcd", service),
	}
}

// startNginxAs starts nginx with two workers, in front of two replicas that are one.
// choose says how it chooses between them; by itself it takes them in turn.
func startNginxAs(t testing.TB, name, choose, service string) *contender {
	path := program(t, "nginx", "nginx-light")
	dir, address := t.TempDir(), freePort(t)
	replica := strings.TrimPrefix(service, "http://")
	configure(t, dir, "nginx.conf", "{{listen}}", address, "{{service}}", replica, "{{choose}}", choose)
	return startServer(t, name, address, path, "-p", dir, "-c", "nginx.conf")
}

// startHAProxyAs starts HAProxy with so many threads and servers, which are all the same
// service, each of at most maxconn connections: 0 is any number.
func startHAProxyAs(t testing.TB, name, service string, threads, servers, maxconn int) *contender {
	path := program(t, "haproxy", "haproxy")
	dir, address := t.TempDir(), freePort(t)
	var lines strings.Builder
	for i := range servers {
		fmt.Fprintf(&lines, "\tserver s%d %s", i, strings.TrimPrefix(service, "http://"))
		if maxconn > 0 {
			fmt.Fprintf(&lines, " maxconn %d", maxconn)
		}
		lines.WriteByte('\n')
	}
	configure(t, dir, "haproxy.cfg", "{{listen}}", address, "{{threads}}", strconv.Itoa(threads), "{{servers}}", lines.String())
	return startServer(t, name, address, path, "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
}

// configure writes a file of testdata/contenders with its words replaced.
func configure(t testing.TB, dir, name string, words ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/contenders", name))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, name), strings.NewReplacer(words...).Replace(string(text)))
}

func freePort(t testing.TB) (address string) { return "127.0.0.1:" + freePorts(t, 1)[0] }

// startServer runs a program that serves at an address, until the end of the test.
func startServer(t testing.TB, name, address string, command ...string) *contender {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }) //nolint:errcheck // by a signal
	awaitDial(t, name, address)
	return &contender{name: name, targets: []string{"http://" + address}, pids: withChildren(t, cmd.Process.Pid)}
}

func awaitDial(t testing.TB, name, address string) {
	t.Helper()
	for end := time.Now().Add(startTime); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not serve at %s", name, address)
		}
	}
}

// withChildren is a process and its children.
func withChildren(t testing.TB, pid int) []int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	all := []int{pid}
	for field := range strings.FieldsSeq(string(text)) {
		child, _ := strconv.Atoi(field)
		all = append(all, child)
	}
	return all
}

// startAlone starts a node that is no member of a cluster.
func startAlone(t testing.TB, name, service string) *contender {
	t.Helper()
	file := filepath.Join(t.TempDir(), "lanekeeper.yaml")
	writeFile(t, file, fmt.Sprintf(`
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
upstreams: [{name: app, targets: [%q]}]
defaults: {lane: {queue_timeout: 30s}}
routes:
  - {name: order, match: {path: "/orders/{id}"}, upstream: app, key: {space: order, from: [{path: id}]}}
shutdown: {delay: 0s, drain_timeout: 1s}
`, service))
	p := launch(t, file)
	line := p.log("serving")
	p.forget()
	return &contender{name: name, targets: []string{"http://" + line["listen"].(string)}, pids: []int{p.cmd.Process.Pid}}
}

// startTogether starts members of a cluster, with strict routes if there is a store.
func startTogether(t testing.TB, name, service string, nodes int, store *locktest.Server) *contender {
	t.Helper()
	extra := "shutdown: {delay: 0s, drain_timeout: 1s}\n"
	if store != nil {
		extra += fmt.Sprintf("coordinator: {type: etcd, lease_ttl: 10s, safety_margin: 3s, key_prefix: %q, etcd: {endpoints: [%q]}}\n", fmt.Sprintf("of-%d/", nodes), store.Address)
	}
	c := startMembers(t, nodes, service, extra)
	together := &contender{name: name, targets: c.targets}
	for _, n := range c.nodes {
		together.pids = append(together.pids, n.cmd.Process.Pid)
		n.forget()
	}
	if store != nil {
		together.pids = append(together.pids, store.Pid())
	}
	return together
}

// startLocking starts a service of its users' own that takes a lock for each request.
func startLocking(t testing.TB, name, kind, service string) *contender {
	t.Helper()
	store, _ := storeKinds[locks[kind].store](t)
	c := startChild(t, name, kind, service, store.Address)
	c.pids = append(c.pids, store.Pid())
	return c
}

// contenderVariable makes the test binary be a contender that is written in Go.
const contenderVariable = "LANEKEEPER_TEST_CONTENDER"

// startChild runs the test binary as a contender: see serveContender.
func startChild(t testing.TB, name string, what ...string) *contender {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), contenderVariable+"="+strings.Join(what, " "))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() }) //nolint:errcheck // the figures are known
	var address string
	if _, err := fmt.Fscanln(stdout, &address); err != nil {
		t.Fatal(err)
	}
	return &contender{name: name, targets: []string{"http://" + address}, pids: []int{cmd.Process.Pid}}
}

// serveContender is such a process: "service", which is what they stand before, "plain SERVICE",
// or "KIND SERVICE STORE" with a kind of locks. It prints where it serves, and does so until its standard input ends.
func serveContender(what string) error {
	words := strings.Fields(what)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	switch words[0] {
	case "service": // what has no Witness-Delay takes 0.5 to 1.5 ms, or, one time in a hundred, 20 ms more
		witness, err := loadtest.NewWitness(loadtest.WitnessConfig{
			Delay: 500 * time.Microsecond, Jitter: time.Millisecond, SlowShare: 0.01, SlowDelay: 20 * time.Millisecond,
		}, loadtest.NewHistory(loadtest.NewClock(), 2_000_000))
		if err != nil {
			return err
		}
		if err := witness.Start(listener); err != nil {
			return err
		}
	case "plain":
		plain, err := loadtest.NewPlain(loadtest.PlainConfig{Targets: words[1:]})
		if err != nil {
			return err
		}
		if err := plain.Start(listener); err != nil {
			return err
		}
	default:
		take, end, err := locks[words[0]].open(words[2])
		if err != nil {
			return err
		}
		defer end()
		go serveLocking(listener, words[1], take) // ends with the process
	}
	fmt.Println(listener.Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// cpu is what the contender's processes have run.
func (c *contender) cpu(t testing.TB) (sum time.Duration) {
	for _, pid := range c.pids {
		sum += cpuOf(t, pid)
	}
	return sum
}

// memory is what the contender's processes have in memory, in bytes.
func (c *contender) memory(t testing.TB) (sum int64) {
	for _, pid := range c.pids {
		statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			t.Skip("no /proc: ", err)
		}
		pages, _ := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
		sum += pages * int64(os.Getpagesize())
	}
	return sum
}

// answers checks that a contender lets a request through.
func (c *contender) answers(t testing.TB) {
	t.Helper()
	for _, target := range c.targets {
		response, err := http.Post(target+"/orders/1", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s: %s", c.name, response.Status, text)
		}
	}
}
