//go:build linux

package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lanekeeper/loadtest"
	"lanekeeper/lock/locktest"
)

// door is one node's way to the store, which is on another network. It may be shut.
type door struct {
	target   string
	listener net.Listener

	mu    sync.Mutex // guards the rest
	shut  int        // by so many
	conns map[net.Conn]bool
}

// openDoor listens in the hub.
func openDoor(t *testing.T, n *network, port int, target string) *door {
	t.Helper()
	d := &door{target: target, conns: make(map[net.Conn]bool)}
	err := n.inHub(func() (err error) {
		d.listener, err = net.Listen("tcp", fmt.Sprintf("10.77.0.254:%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.listener.Close(); d.close() })
	go d.accept() // ends with the listener
	return d
}

func (d *door) accept() {
	for {
		conn, err := d.listener.Accept()
		if err != nil {
			return
		}
		go d.carry(conn) // ends with either connection
	}
}

func (d *door) carry(conn net.Conn) {
	defer conn.Close()
	store, err := net.DialTimeout("tcp", d.target, 5*time.Second)
	if err != nil || !d.enter(conn) {
		return
	}
	defer store.Close()
	go func() { // ends with either connection
		io.Copy(store, conn) //nolint:errcheck // whatever ended it
		store.Close()
	}()
	io.Copy(conn, store) //nolint:errcheck // whatever ended it
	d.mu.Lock()
	delete(d.conns, conn)
	d.mu.Unlock()
}

func (d *door) enter(conn net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut == 0 {
		d.conns[conn] = true
	}
	return d.shut == 0
}

// close shuts the door, which breaks what goes through it.
func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut++
	for conn := range d.conns {
		conn.Close()
	}
}

// open undoes one close.
func (d *door) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut--
}

// episode is a cluster to which something happens every few seconds.
type episode struct {
	*testCluster
	plan  plan
	n     *network
	wires *wires
	store *locktest.Server
	doors []*door
	share atomic.Int64 // of what the upstream lies about, in thousandths
	lies  lies
	done  chan struct{} // closed when load ends

	mu      sync.Mutex // guards the rest
	up      []bool     // nodes that are meant to be there
	busy    map[string]bool
	diary   []*entry
	sent    []loadtest.Sent
	ingress map[string]int // clients, and the node that each of them talks to
	slow    int            // loads of slow calls so far
	lives   []*life        // of all processes that there were
}

// startEpisode starts a cluster, and a host beside it for who joins later. Its clients,
// service and store are on one network, and what nodes say to each other on another.
func startEpisode(t *testing.T, p plan) *episode {
	t.Helper()
	k := &episode{
		plan: p, n: newNetwork(t, p.nodes+1), lies: lies{told: make(map[string]int)}, done: make(chan struct{}),
		busy: make(map[string]bool), ingress: make(map[string]int), up: make([]bool, p.nodes+1),
		testCluster: &testCluster{t: t, dir: t.TempDir(), history: loadtest.NewHistory(loadtest.NewClock(), 3_000_000)},
	}
	k.dial = k.n.dial
	k.wires = newWires(t, k.n)
	var section string
	if p.store != "" {
		k.store, section = storeKinds[p.store](t)
	}
	secret := filepath.Join(k.dir, "secret")
	writeFile(t, secret, base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))+"\n")
	var seeds []string
	for i := range k.n.hosts {
		seeds = append(seeds, strconv.Quote(wireAddress(i)+":7943"))
	}
	for i := range k.n.hosts {
		coordinator := ""
		if p.store != "" {
			k.doors = append(k.doors, openDoor(t, k.n, 9000+i, k.store.Address))
			coordinator = strictSection(p.store, section, fmt.Sprintf("10.77.0.254:%d", 9000+i))
		}
		k.witness(i)
		file := filepath.Join(k.dir, fmt.Sprintf("n%d.yaml", i+1))
		writeFile(t, file, fmt.Sprintf(`
version: 1
node: {name: n%d}
server: {header_timeout: 10m, idle_timeout: 10m}
cluster:
  enabled: true
  secret_file: %s
  join: [%s]
  join_timeout: 5s
  rejoin: 2s
  min_members: %d
  gossip: {listen: "%s:7943"}
  peer: {listen: "%s:7944"}
upstreams: [{name: app, targets: ["http://10.77.0.254:%d"], circuit: {failures: 1000}}]
defaults: {lane: {max_depth: 100, queue_timeout: 10s, upstream_timeout: %s, hold_for: %s, guarantee: %s}}
routes:
  - name: order
    match: {path: "/orders/{id}/{rest...}"}
    upstream: app
    key: {space: order, from: [{path: id}]}
shutdown: {delay: 500ms, drain_timeout: 10s}
log: {access: none}
%s`, i+1, secret, strings.Join(seeds, ", "), p.least, wireAddress(i), wireAddress(i), 7950+i, upstreamTimeout, holdFor, p.guarantee, coordinator))
		k.files = append(k.files, file)
		k.targets = append(k.targets, "http://"+k.n.address(i)+":7940")
		k.nodes = append(k.nodes, nil)
	}
	for i := range p.nodes {
		k.launch(i)
		k.up[i] = true
	}
	if !k.agreed(time.Minute) {
		t.Fatal("the nodes do not find each other")
	}
	return k
}

const (
	upstreamTimeout = 2 * time.Second
	slowCall        = 4 * time.Second // at most; longer than the nodes wait
	holdFor         = 20 * time.Second
)

// witness serves the i-th node, so that its executions tell who sent them. All record
// into one history.
func (k *episode) witness(i int) {
	k.t.Helper()
	strict := k.plan.store != ""
	witness, err := loadtest.NewWitness(loadtest.WitnessConfig{
		Name: nodeName(i), Delay: 2 * time.Millisecond, Jitter: 3 * time.Millisecond, SlowShare: 0.0005, SlowDelay: 400 * time.Millisecond,
		Fenced: strict, Obedient: strict,
	}, k.history)
	if err != nil {
		k.t.Fatal(err)
	}
	if err := k.n.inHub(func() error {
		listener, err := net.Listen("tcp", fmt.Sprintf("10.77.0.254:%d", 7950+i))
		if err != nil {
			return err
		}
		return witness.Start(&liar{Listener: listener, share: &k.share, told: &k.lies})
	}); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { stopSoon(witness.Stop) })
}

// launch starts a node, and does not wait for it.
func (k *episode) launch(i int) {
	k.nodes[i] = launchIn(k.t, k.files[i], "ip", "netns", "exec", k.n.hosts[i])
	k.nodes[i].forget()
	k.begun(i)
}

// agreed waits until all nodes that are up see each other, and own everything together.
func (k *episode) agreed(within time.Duration) bool {
	client := k.n.client(2 * time.Second)
	for until := time.Now().Add(within); time.Now().Before(until); <-time.After(100 * time.Millisecond) {
		members, sum, agree := 0, 0, true
		for _, up := range k.up {
			if up {
				members++
			}
		}
		for i, up := range k.up {
			if !up {
				continue
			}
			text := k.n.metrics(client, i)
			owned, _ := strconv.Atoi(metric(text, "lanekeeper_owned_partitions"))
			sum += owned
			agree = agree && metric(text, `lanekeeper_members{state="active"}`) == strconv.Itoa(members)
		}
		if agree && sum == 4096 {
			return true
		}
	}
	return false
}

// load sends requests through every node that was there at first, until done is closed:
// most of them pipelined, on connections that each keep to one key, the others on a
// schedule that waits for nobody. It returns what ends and awaits all of it.
func (k *episode) load() (finish func()) {
	var work sync.WaitGroup
	keys := k.plan.keys()
	const scheduled = 30 // a second, at each node
	bulk := max(0, k.plan.rate/float64(k.plan.nodes)-scheduled)
	for i := range k.plan.nodes {
		work.Go(func() {
			k.send(i, nodeName(i)+"-scheduled", loadtest.Traffic{
				Mode: loadtest.Spaced, Keys: keys, PerKey: loadtest.RequestsMax / keys, Gap: time.Second * time.Duration(keys) / scheduled, Connections: 300,
			})
		})
		work.Go(func() {
			k.send(i, nodeName(i)+"-bulk", loadtest.Traffic{
				Mode: loadtest.Pipelined, Keys: keys, Own: true, Depth: 4, Connections: keys, Requests: loadtest.RequestsMax,
				Gap: time.Duration(float64(keys) / bulk * float64(time.Second)), Reads: 0.05,
			})
		})
	}
	return func() {
		close(k.done)
		work.Wait()
	}
}

// send is one load through one node.
func (k *episode) send(node int, client string, traffic loadtest.Traffic) {
	traffic.Targets, traffic.Client, traffic.Clock, traffic.Dial = k.targets[node:node+1], client, k.history.Clock(), k.dial
	traffic.Timeout, traffic.Duration, traffic.Stop = time.Minute, 2*time.Hour, k.done
	traffic.Seed = k.plan.seed
	result, err := traffic.Run(k.t.Context())
	if err != nil {
		k.t.Log(client, err) // the node is not there
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sent = append(k.sent, result.Sent...)
	k.ingress[client] = node
}

// callSlowly has a node make a few calls that take longer than it waits for them.
func (k *episode) callSlowly(node int, r *rand.Rand) {
	k.mu.Lock()
	k.slow++
	client := fmt.Sprintf("slow-%d", k.slow)
	k.mu.Unlock()
	calls, takes := 1+r.IntN(4), upstreamTimeout/2+time.Duration(r.Int64N(int64(slowCall-upstreamTimeout/2)))
	k.send(node, client, loadtest.Traffic{
		Mode: loadtest.Closed, Keys: k.plan.keys(), Connections: calls, Requests: calls,
		Headers: []string{"Witness-Delay: " + takes.Round(time.Millisecond).String()},
	})
}

// metrics are those of a node, or nothing if it does not answer.
func (n *network) metrics(client *http.Client, node int) string {
	response, err := client.Get("http://" + n.address(node) + ":7941/metrics")
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}
