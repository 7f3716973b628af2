package main

import (
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lanekeeper/loadtest"
)

// The tests of this file run whole nodes as processes, on loopback.

var clusterRounds = flag.Int("cluster.rounds", 2, "rolling restarts in TestRollingRestart")

// testCluster is a few processes in front of one witness.
type testCluster struct {
	t       testing.TB
	dir     string
	nodes   []*process
	files   []string
	targets []string
	admins  []string
	history *loadtest.History
	dial    func(ctx context.Context, address string) (net.Conn, error) // nil: as usual
}

// startWitness serves a witness on loopback until the test ends.
func startWitness(t testing.TB, config loadtest.WitnessConfig) (url string, history *loadtest.History) {
	t.Helper()
	history = loadtest.NewHistory(loadtest.NewClock(), 2_000_000)
	witness, err := loadtest.NewWitness(config, history)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := witness.Start(listener); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopSoon(witness.Stop) })
	return "http://" + listener.Addr().String(), history
}

// startProcesses starts n members in front of a witness, and waits until each
// has its share. extra is more of their configuration.
func startProcesses(t testing.TB, n int, service loadtest.WitnessConfig, extra string) *testCluster {
	t.Helper()
	url, history := startWitness(t, service)
	c := startMembers(t, n, url, extra)
	c.history = history
	return c
}

func startMembers(t testing.TB, n int, upstream, extra string) *testCluster {
	t.Helper()
	guarantee, plain := "best_effort", ""
	if strings.Contains(extra, "coordinator:") {
		guarantee, plain = "strict", `  - name: plain
    match: {path: "/plain/{id}/{rest...}"}
    upstream: app
    key: {space: plain, from: [{path: id}]}
    lane: {guarantee: best_effort}
`
	}
	c := &testCluster{t: t, dir: t.TempDir()}
	secret := filepath.Join(c.dir, "secret")
	writeFile(t, secret, base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))+"\n")
	ports := freePorts(t, 5*n)
	var seeds []string
	for i := range n {
		seeds = append(seeds, fmt.Sprintf("%q", "127.0.0.1:"+ports[5*i]))
	}
	for i := range n {
		of := ports[5*i : 5*i+5]
		file := filepath.Join(c.dir, fmt.Sprintf("n%d.yaml", i+1))
		writeFile(t, file, fmt.Sprintf(`
version: 1
node: {name: n%d}
server: {listen: "127.0.0.1:%s"}
observe: {listen: "127.0.0.1:%s"}
admin: {listen: "127.0.0.1:%s"}
cluster:
  enabled: true
  secret_file: %s
  join: [%s]
  join_timeout: 5s
  gossip: {listen: "127.0.0.1:%s"}
  peer: {listen: "127.0.0.1:%s"}
upstreams: [{name: app, targets: [%q]}]
defaults: {lane: {max_depth: 10000, queue_timeout: 30s, guarantee: %s}}
limits: {max_queued: 1000000}
routes:
  - name: order
    match: {path: "/orders/{id}/{rest...}"}
    upstream: app
    key: {space: order, from: [{path: id}]}
  - name: spilled
    match: {path: "/spilled/{id}/{rest...}"}
    upstream: app
    key: {space: spilled, from: [{path: id}]}
    lane: {hot: {depth: 4, bytes: 64KiB, busy: 0, share: 0, for: 50ms, cool_after: 500ms, action: spill}}
  - name: halting
    match: {path: "/halting/{id}/{rest...}"}
    upstream: app
    key: {space: halting, from: [{path: id}]}
    lane: {after_failure: {action: halt}}
%slog: {keys: plain}
%s`, i+1, of[1], of[2], of[3], secret, strings.Join(seeds, ", "), of[0], of[4], upstream, guarantee, plain, extra))
		c.files = append(c.files, file)
		c.targets = append(c.targets, "http://127.0.0.1:"+of[1])
		c.admins = append(c.admins, "http://127.0.0.1:"+of[3])
		c.nodes = append(c.nodes, nil)
	}
	var starting sync.WaitGroup
	for i := range n {
		c.nodes[i] = launch(t, c.files[i])
		starting.Go(func() { c.awaitReady(i) })
	}
	starting.Wait()
	return c
}

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// freePorts are ports of loopback that nothing listens on, for TCP and UDP.
func freePorts(t testing.TB, n int) (ports []string) {
	t.Helper()
	for len(ports) < n {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err != nil {
			continue
		}
		defer udp.Close()
		_, port, _ := net.SplitHostPort(tcp.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

// awaitReady waits until a node is ready and owns its share.
func (c *testCluster) awaitReady(i int) {
	c.t.Helper()
	p := c.nodes[i]
	line := p.log("serving")
	p.address, p.observe = "http://"+line["listen"].(string), "http://"+line["observe"].(string)
	p.log("partitions have moved")
	p.forget()
	for range 200 {
		if statusOf(c.t, p.observe+"/readyz") == 200 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	c.t.Errorf("node %d does not become ready", i+1)
}

// restart ends a node as an operator does, and starts it again.
func (c *testCluster) restart(i int) {
	c.t.Helper()
	c.nodes[i].signal(syscall.SIGTERM)
	if code := c.nodes[i].wait(); code != 0 {
		c.t.Errorf("node %d ended with code %d", i+1, code)
	}
	c.nodes[i] = launch(c.t, c.files[i])
	c.awaitReady(i)
}

// under runs traffic while something happens, or to its end if nothing does, and
// returns what both ends saw.
func (c *testCluster) under(traffic loadtest.Traffic, happen func()) (*loadtest.Result, *loadtest.Report) {
	c.t.Helper()
	c.history.Reset()
	traffic.Clock, traffic.Dial = c.history.Clock(), c.dial
	if traffic.Targets == nil {
		traffic.Targets = c.targets
	}
	var happening sync.WaitGroup
	if happen != nil {
		stop := make(chan struct{})
		traffic.Stop = stop
		happening.Go(func() {
			defer close(stop)
			happen()
		})
	}
	result, err := traffic.Run(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	happening.Wait()
	evidence := c.history.Evidence()
	evidence.Sent = result.Sent
	return result, loadtest.Check(evidence, loadtest.Rules{Examples: 5})
}

// TestRollingRestart restarts every node, one after the other, under constant
// load: no request is lost or refused, and no order is broken.
func TestRollingRestart(t *testing.T) {
	c := startProcesses(t, 3, loadtest.WitnessConfig{Delay: time.Millisecond, Jitter: time.Millisecond}, "shutdown: {delay: 300ms, drain_timeout: 20s}\n")
	traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 100, PerKey: 10000, Gap: 100 * time.Millisecond, Connections: 64, Method: "POST"}
	result, report := c.under(traffic, func() {
		for range *clusterRounds {
			for i := range c.nodes {
				c.restart(i)
			}
		}
	})
	t.Logf("%d requests, %d rounds; longest gap %s, p99 %s, max %s\n%s", len(result.Sent), *clusterRounds, result.LongestGap, result.LatencyAt(99), result.LatencyAt(100), report)
	if !report.OK() || report.Vacuous() {
		t.Error("order was broken")
	}
	if statuses := result.Statuses(); statuses[200] != len(result.Sent) {
		t.Errorf("statuses %v: want 200 alone", statuses)
	}
}

// kill ends a node as a power failure does, and starts it again.
func (c *testCluster) kill(i int) {
	c.t.Helper()
	c.nodes[i].signal(syscall.SIGKILL)
	c.nodes[i].wait()
}

func (c *testCluster) launch(i int) {
	c.t.Helper()
	c.nodes[i] = launch(c.t, c.files[i])
	c.awaitReady(i)
}

// others are the targets without one node.
func (c *testCluster) others(i int) []string {
	return append(append([]string(nil), c.targets[:i]...), c.targets[i+1:]...)
}

// inexcusable are the kinds that no fault excuses.
var inexcusable = []loadtest.Kind{loadtest.Duplicate, loadtest.Loss, loadtest.Ghost, loadtest.Crossed, loadtest.Malformed}

func (c *testCluster) expectNone(report *loadtest.Report, kinds ...loadtest.Kind) {
	c.t.Helper()
	for _, kind := range kinds {
		if n := report.Count(kind); n > 0 {
			c.t.Errorf("%s: %d", kind, n)
		}
	}
}

// TestKilledOwner kills a node under load, with clients at the others: what it
// had is unknown, its keys are taken over when the others are sure that it is
// dead, and nothing runs twice, is lost, or is denied although it ran.
func TestKilledOwner(t *testing.T) {
	c := startProcesses(t, 3, loadtest.WitnessConfig{Delay: 5 * time.Millisecond}, "")
	traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 100, PerKey: 10000, Gap: 100 * time.Millisecond, Connections: 4000, Targets: c.others(2)}
	result, report := c.under(traffic, func() {
		time.Sleep(time.Second)
		c.kill(2)
		time.Sleep(6 * time.Second)
		c.launch(2)
		time.Sleep(time.Second)
	})
	statuses := result.Statuses()
	t.Logf("statuses %v; longest gap %s, max %s\n%s", statuses, result.LongestGap, result.LatencyAt(100), report)
	c.expectNone(report, inexcusable...)
	if statuses[200] == 0 || statuses[200]+statuses[502] != len(result.Sent) {
		t.Errorf("statuses %v: want 200, and 502 for what the dead node had", statuses)
	}
	// A call that ran when its node died may still be running when the next one
	// of its key starts elsewhere: at most one for each key of the dead node. By
	// then it has long ended here.
	c.expectNone(report, loadtest.Overlap)
}

// TestPausedOwner stops a node's process for longer than the others wait, and
// lets it go on: of all it had, at most the call that was being sent may run
// beside another.
func TestPausedOwner(t *testing.T) {
	c := startProcesses(t, 3, loadtest.WitnessConfig{Delay: 5 * time.Millisecond}, "")
	traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 100, PerKey: 10000, Gap: 100 * time.Millisecond, Connections: 4000, Targets: c.others(2)}
	result, report := c.under(traffic, func() {
		for range 2 {
			time.Sleep(time.Second)
			c.nodes[2].signal(syscall.SIGSTOP)
			time.Sleep(6 * time.Second)
			c.nodes[2].signal(syscall.SIGCONT)
			time.Sleep(3 * time.Second)
		}
	})
	statuses := result.Statuses()
	t.Logf("statuses %v; longest gap %s, max %s\n%s", statuses, result.LongestGap, result.LatencyAt(100), report)
	c.expectNone(report, inexcusable...)
	if n := report.Count(loadtest.Overlap); n > 2 {
		t.Errorf("%d overlaps in two pauses", n)
	}
	if statuses[200] == 0 || statuses[200]+statuses[502]+statuses[503] != len(result.Sent) {
		t.Errorf("statuses %v: want 200, 502 for what the paused node had, and 503", statuses)
	}
}

var clusterForwarded = flag.Int("cluster.forwarded", 20_000, "requests in each half of TestForwardedOrder")

// TestForwardedOrder sends closely spaced requests of one key after another to a
// node that owns none of them, without waiting for answers: on connections of
// their own, 200 µs apart, and pipelined on one. Every one of them is forwarded.
// None runs against the order of its ingress's tickets, and on one connection
// none against the order of sending.
func TestForwardedOrder(t *testing.T) {
	c := startProcesses(t, 3, loadtest.WitnessConfig{}, "")
	keys := c.keysOf(t, 0, 10)
	const ingress = 1
	half := func(name string, traffic loadtest.Traffic, kind loadtest.Kind) {
		traffic.Targets = c.targets[ingress : ingress+1]
		executed := 0
		for i, key := range keys {
			traffic.Path, traffic.Client = "/orders/"+key, fmt.Sprintf("%s-%d", name, i)
			result, report := c.under(traffic, nil)
			if !report.OK() || report.Judged(kind) == 0 {
				t.Fatalf("%s, key %s: statuses %v\n%s", name, key, result.Statuses(), report)
			}
			if n := result.Statuses()[200]; n != len(result.Sent) {
				t.Fatalf("%s: statuses %v: want 200 alone", name, result.Statuses())
			}
			executed += report.Executions
		}
		t.Logf("%s: %d forwarded requests, 0 against order", name, executed)
	}
	each := *clusterForwarded / len(keys)
	half("spaced", loadtest.Traffic{Mode: loadtest.Spaced, PerKey: each, Gap: 200 * time.Microsecond, Connections: 1000}, loadtest.TicketInversion)
	half("pipelined", loadtest.Traffic{Mode: loadtest.Pipelined, Requests: each, Depth: 32, Connections: 1}, loadtest.ConnectionInversion)
	if forwarded, local := c.metric(ingress, `lanekeeper_forwarded_total{result="response"}`), c.metric(ingress, "lanekeeper_local_total"); forwarded < float64(2**clusterForwarded) || local > 0 {
		t.Errorf("%v were forwarded and %v were not", forwarded, local)
	}
}

// metric is one figure of a node.
func (c *testCluster) metric(i int, name string) float64 {
	c.t.Helper()
	response, err := http.Get(c.nodes[i].observe + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				c.t.Fatal(err)
			}
			return value
		}
	}
	return 0
}

// TestKilledIngress kills a node at which requests of one key wait, forwarded:
// what runs finishes, what waited leaves its lane and never runs, and the key
// goes on.
//
// Mutant: a session that has lost its ingress keeps what waits.
func TestKilledIngress(t *testing.T) {
	u := newHoldingUpstream(t)
	c := startMembers(t, 2, u.URL, "")
	key := c.keysOf(t, 0, 1)[0]
	post(c.targets[1]+"/orders/"+key, "runs")
	if got := u.next(t); got != "runs" {
		t.Fatalf("arrived: %q", got)
	}
	post(c.targets[1]+"/orders/"+key, "waits")
	c.await("the request to wait at its owner", func() bool { return c.metric(0, `lanekeeper_queued_requests{route="order"}`) == 1 })
	c.kill(1)
	c.await("the request to leave its lane", func() bool { return c.metric(0, `lanekeeper_queued_requests{route="order"}`) == 0 })
	later := post(c.targets[0]+"/orders/"+key, "later")
	u.release <- struct{}{}
	if got := u.next(t); got != "later" {
		t.Errorf("arrived: %q", got)
	}
	u.release <- struct{}{}
	if got := <-later; got != "200 done later" {
		t.Errorf("got %q", got)
	}
}

// await waits for something to come true.
func (c *testCluster) await(what string, holds func() bool) {
	c.t.Helper()
	for until := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			c.t.Fatalf("in vain did the test wait for %s", what)
		}
	}
}

// TestFullLogDevice has a member log to a device that is full.
func TestFullLogDevice(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	c := startProcesses(t, 2, loadtest.WitnessConfig{Delay: time.Millisecond}, "")
	c.nodes[1].signal(syscall.SIGTERM)
	c.nodes[1].wait()
	full := launchIn(t, c.files[1], "sh", "-c", `exec "$@" 2>/dev/full`, "sh")
	full.forget()
	c.await("the node to own its share", func() bool { return c.metric(0, "lanekeeper_owned_partitions") < 4096 })
	traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 50, PerKey: 20, Gap: 50 * time.Millisecond, Connections: 200}
	result, report := c.under(traffic, nil)
	if !report.OK() || result.Statuses()[200] != len(result.Sent) {
		t.Errorf("statuses %v\n%s", result.Statuses(), report)
	}
}
