//go:build linux

package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lanekeeper/loadtest"
)

// network is a network of its own: a hub, where clients and the witness are, and
// a host for each node. Nothing of it can be seen from outside.
type network struct {
	t     testing.TB
	hub   string // a namespace
	hosts []string
}

// newNetwork makes one, and removes it at the end of the test. It needs root.
func newNetwork(t testing.TB, hosts int) *network {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("namespaces need root")
		}
		t.Skip("namespaces need root")
	}
	prefix := fmt.Sprintf("lk%d-", os.Getpid())
	n := &network{t: t, hub: prefix + "hub"}
	n.add(n.hub)
	n.ip(n.hub, "link add br0 type bridge")
	n.ip(n.hub, "addr add 10.77.0.254/24 dev br0")
	n.ip(n.hub, "link set br0 up")
	for i := range hosts {
		host := fmt.Sprintf("%sh%d", prefix, i+1)
		n.hosts = append(n.hosts, host)
		n.add(host)
		n.ip(n.hub, fmt.Sprintf("link add to%d type veth peer name eth0 netns %s", i+1, host))
		n.ip(n.hub, fmt.Sprintf("link set to%d master br0 up", i+1))
		n.ip(host, fmt.Sprintf("addr add %s/24 dev eth0", n.address(i)))
		n.ip(host, "link set eth0 up")
	}
	return n
}

func (n *network) add(namespace string) {
	n.t.Helper()
	if output, err := exec.Command("ip", "netns", "add", namespace).CombinedOutput(); err != nil {
		n.t.Fatalf("ip netns add: %v: %s", err, output)
	}
	n.t.Cleanup(func() { exec.Command("ip", "netns", "del", namespace).Run() })
	n.ip(namespace, "link set lo up")
}

// ip runs one command of ip in a namespace.
func (n *network) ip(namespace, command string) {
	n.t.Helper()
	args := append([]string{"-n", namespace}, strings.Fields(command)...)
	if output, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, output)
	}
}

func (n *network) address(i int) string { return fmt.Sprintf("10.77.0.%d", i+1) }

// cut drops everything between two hosts, in both directions; mend ends that.
func (n *network) cut(a, b int) {
	n.ip(n.hosts[a], "route add blackhole "+n.address(b)+"/32")
	n.ip(n.hosts[b], "route add blackhole "+n.address(a)+"/32")
}

func (n *network) mend(a, b int) {
	n.ip(n.hosts[a], "route del blackhole "+n.address(b)+"/32")
	n.ip(n.hosts[b], "route del blackhole "+n.address(a)+"/32")
}

// inHub runs f where clients are. Sockets stay there.
func (n *network) inHub(f func() error) error { return n.in(n.hub, f) }

// in runs f in a namespace.
func (n *network) in(namespace string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread is not given back, and so ends with the goroutine: it may
		// be in another namespace than all others.
		runtime.LockOSThread()
		file, err := os.Open("/run/netns/" + namespace)
		if err == nil {
			defer file.Close()
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func (n *network) dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = n.inHub(func() (err error) {
		conn, err = (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// client makes each request on a connection of its own.
func (n *network) client(timeout time.Duration) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return n.dial(ctx, address)
	}}, Timeout: timeout}
}

// startInNetwork starts a member on each host, in front of a witness in the hub.
func startInNetwork(t *testing.T, n *network, service loadtest.WitnessConfig, extra string) *testCluster {
	t.Helper()
	c := &testCluster{t: t, dir: t.TempDir(), history: loadtest.NewHistory(loadtest.NewClock(), 0)}
	witness, err := loadtest.NewWitness(service, c.history)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.inHub(func() error {
		listener, err := net.Listen("tcp", "10.77.0.254:7950")
		if err != nil {
			return err
		}
		return witness.Start(listener)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopSoon(witness.Stop) })
	secret := filepath.Join(c.dir, "secret")
	writeFile(t, secret, base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))+"\n")
	var seeds []string
	for i := range n.hosts {
		seeds = append(seeds, fmt.Sprintf("%q", n.address(i)+":7943"))
	}
	for i := range n.hosts {
		file := filepath.Join(c.dir, fmt.Sprintf("n%d.yaml", i+1))
		writeFile(t, file, fmt.Sprintf(`
version: 1
node: {name: n%d}
cluster:
  enabled: true
  secret_file: %s
  join: [%s]
  join_timeout: 5s
  rejoin: 2s
%s
upstreams: [{name: app, targets: ["http://10.77.0.254:7950"]}]
defaults: {lane: {max_depth: 10000, queue_timeout: 10s}}
routes:
  - name: order
    match: {path: "/orders/{id}/{rest...}"}
    upstream: app
    key: {space: order, from: [{path: id}]}
`, i+1, secret, strings.Join(seeds, ", "), extra))
		c.files = append(c.files, file)
		c.targets = append(c.targets, "http://"+n.address(i)+":7940")
		c.nodes = append(c.nodes, launchIn(t, file, "ip", "netns", "exec", n.hosts[i]))
	}
	c.dial = n.dial
	for _, p := range c.nodes {
		p.log("partitions have moved")
		p.forget()
	}
	c.awaitAgreement(n, len(n.hosts))
	return c
}

// awaitAgreement waits until all nodes see each other, and have one ring.
func (c *testCluster) awaitAgreement(n *network, members int) {
	c.t.Helper()
	client := n.client(2 * time.Second)
	var seen []string
	for range 300 {
		seen = seen[:0]
		agreed := true
		for i := range c.nodes {
			response, err := client.Get("http://" + n.address(i) + ":7941/metrics")
			if err != nil {
				agreed = false
				continue
			}
			text, _ := io.ReadAll(response.Body)
			response.Body.Close()
			alive := metric(string(text), `lanekeeper_members{state="active"}`)
			owned := metric(string(text), "lanekeeper_owned_partitions")
			seen = append(seen, alive+"/"+owned)
			agreed = agreed && alive == fmt.Sprint(members)
		}
		if agreed && sumOf(seen) == 4096 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.t.Fatalf("the nodes do not agree: members/owned %v", seen)
}

// awaitRest waits until no partition has moved for a second, after awaitAgreement.
func (c *testCluster) awaitRest(n *network) {
	c.t.Helper()
	client := n.client(2 * time.Second)
	last, since := "", time.Now()
	for range 300 {
		var moves []string
		for i := range c.nodes {
			response, err := client.Get("http://" + n.address(i) + ":7941/metrics")
			if err != nil {
				c.t.Fatal(err)
			}
			text, _ := io.ReadAll(response.Body)
			response.Body.Close()
			moves = append(moves, metric(string(text), "lanekeeper_partition_moves_total"), metric(string(text), "lanekeeper_owned_partitions"))
		}
		if now := strings.Join(moves, " "); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > time.Second {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatalf("partitions move without end: %s", last)
}

func metric(text, name string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func sumOf(seen []string) (sum int) {
	for _, s := range seen {
		var owned int
		fmt.Sscanf(s[strings.IndexByte(s, '/')+1:], "%d", &owned)
		sum += owned
	}
	return sum
}

// TestSplitAndHealing cuts one node of three off from the others, but not from
// clients and the service. With min_members at 2 it turns unready and runs
// nothing once it has noticed; without, both sides run. Either way nothing runs
// twice, is lost, or is denied although it ran, and when the network has healed
// there is one ring again and the order holds.
func TestSplitAndHealing(t *testing.T) {
	for _, least := range []int{1, 2} {
		t.Run(fmt.Sprintf("min_members=%d", least), func(t *testing.T) {
			n := newNetwork(t, 3)
			c := startInNetwork(t, n, loadtest.WitnessConfig{Delay: 2 * time.Millisecond}, fmt.Sprintf("  min_members: %d\n", least))
			traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 50, PerKey: 10000, Gap: 50 * time.Millisecond, Connections: 1500, Pinned: true}
			var cut, noticed, mended, agreed, rest int64
			var refused int
			result, report := c.under(traffic, func() {
				time.Sleep(time.Second)
				cut = c.history.Clock().Now()
				n.cut(2, 0)
				n.cut(2, 1)
				if least == 2 {
					// Alone, nobody confirms a node's suspicions, so it notices later
					// than the others do.
					c.nodes[2].says("too few members are alive")
					noticed = c.history.Clock().Now()
					refused = c.asks(n, 2)
					time.Sleep(4 * time.Second)
				} else {
					time.Sleep(8 * time.Second)
				}
				n.mend(2, 0)
				n.mend(2, 1)
				mended = c.history.Clock().Now()
				c.awaitAgreement(n, 3)
				agreed = c.history.Clock().Now()
				// Order is promised again when no partition has two owners any more,
				// which on a busy machine takes longer than to agree on the members.
				c.awaitRest(n)
				rest = c.history.Clock().Now()
				time.Sleep(2 * time.Second)
			})
			t.Logf("statuses %v; agreed %s after the network was whole, at rest %s after that; longest gap %s\n%s", result.Statuses(),
				time.Duration(agreed-mended), time.Duration(rest-agreed), result.LongestGap, report)
			if least == 2 {
				t.Logf("the smaller side noticed after %s", time.Duration(noticed-cut))
			}
			c.expectNone(report, inexcusable...)
			if least == 2 && refused != http.StatusServiceUnavailable {
				t.Errorf("the smaller side knows that it is, and answers %d", refused)
			}
			after := c.since(result, rest)
			if !after.OK() || after.Judged(loadtest.TicketInversion) == 0 {
				t.Errorf("after the healing:\n%s", after)
			}
		})
	}
}

// asks sends one request to a node, on a connection of its own: those of the
// traffic may all be waiting for answers. It returns the status.
func (c *testCluster) asks(n *network, node int) int {
	c.t.Helper()
	client := n.client(20 * time.Second)
	response, err := client.Get(c.targets[node] + "/orders/asked/once")
	if err != nil {
		c.t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// since judges what was sent after a time.
func (c *testCluster) since(result *loadtest.Result, from int64) *loadtest.Report {
	evidence := c.history.Evidence()
	var later loadtest.Evidence
	sent := make(map[string]bool)
	for _, s := range result.Sent {
		if s.SentAt >= from {
			later.Sent = append(later.Sent, s)
			sent[fmt.Sprint(s.Key, s.Seq)] = true
		}
	}
	for _, e := range evidence.Executions {
		if sent[fmt.Sprint(e.Key, e.Seq)] {
			later.Executions = append(later.Executions, e)
		}
	}
	return loadtest.Check(later, loadtest.Rules{})
}

// TestBlockedUDP: a host whose UDP is dropped is a member all the same, says so,
// and nothing breaks; crashes and leaves are only noticed more slowly.
func TestBlockedUDP(t *testing.T) {
	n := newNetwork(t, 3)
	n.ip(n.hosts[2], "rule add ipproto udp blackhole pref 1")
	c := startInNetwork(t, n, loadtest.WitnessConfig{Delay: 2 * time.Millisecond}, "")
	traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 50, PerKey: 200, Gap: 50 * time.Millisecond, Connections: 300}
	result, report := c.under(traffic, func() { time.Sleep(8 * time.Second) })
	t.Logf("statuses %v\n%s", result.Statuses(), report)
	if !report.OK() {
		t.Error("order was broken")
	}
	if n := result.Statuses()[200]; n != len(result.Sent) {
		t.Errorf("statuses %v: want 200 alone", result.Statuses())
	}
	found := false
	for _, line := range c.nodes[2].kept() {
		text, _ := json.Marshal(line)
		found = found || strings.Contains(string(text), "UDP")
	}
	if !found {
		t.Error("the log says nothing of UDP")
	}
}
