//go:build linux

package main

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"lanekeeper/loadtest"
	"lanekeeper/lock/locktest"
)

var (
	campaignFor   = flag.Duration("campaign.for", 12*time.Second, "how long TestStrictCampaign lets things happen, with each store")
	campaignSeed  = flag.Uint64("campaign.seed", 0, "what happens in TestStrictCampaign; 0: something new")
	campaignStore = flag.String("campaign.store", "", "TestStrictCampaign: redis, etcd, zookeeper or all; empty is one of them, by the seed")
)

// door is one node's way to the store, which is on another network. It may be shut.
type door struct {
	target   string
	listener net.Listener

	mu    sync.Mutex // guards the rest
	shut  bool
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
	t.Cleanup(func() { d.listener.Close(); d.set(true) })
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
	if !d.shut {
		d.conns[conn] = true
	}
	return !d.shut
}

// set shuts the door, which breaks what goes through it, or opens it.
func (d *door) set(shut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = shut
	for conn := range d.conns {
		if shut {
			conn.Close()
		}
	}
}

// campaign is a strict cluster to which something happens every few seconds.
type strictCampaign struct {
	*testCluster
	n      *network
	kind   string
	store  *locktest.Server
	doors  []*door
	random *rand.Rand
	done   map[string]int
	diary  []string
	losses []int64 // when the store lost its data
}

// TestStrictCampaign kills, stops and splits nodes of a strict cluster, and stops,
// restarts and empties its store, one thing every few seconds, under numbered load:
// nothing runs beside anything else of its key, no fence falls at a service that refuses
// lower ones, nothing is lost, runs twice, or is denied although it ran. A short
// run is a sample; see the flags.
//
// What a store that lost its data, and has no grace, lets two nodes do at once is
// theirs to do until the first one's lease has ended by its own clock: then the fence
// alone decides.
func TestStrictCampaign(t *testing.T) {
	unhurried(t)
	seed := *campaignSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) //nolint:gosec // after 1970
	}
	kinds := slices.Sorted(maps.Keys(storeKinds))
	switch *campaignStore {
	case "":
		kinds = kinds[seed%3:][:1]
	case "all":
	default:
		kinds = []string{*campaignStore}
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { runCampaign(t, kind, seed) })
	}
}

func runCampaign(t *testing.T, kind string, seed uint64) {
	t.Logf("seed %d", seed)
	k := &strictCampaign{n: newNetwork(t, 3), kind: kind, random: rand.New(rand.NewPCG(seed, 1)), done: make(map[string]int)}
	var section string
	k.store, section = storeKinds[kind](t)
	for i := range k.n.hosts {
		k.doors = append(k.doors, openDoor(t, k.n, 9000+i, k.store.Address))
	}
	k.testCluster = startInNetworkWith(t, k.n, loadtest.WitnessConfig{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Fenced: true}, "", "strict", func(node int) string {
		return strictSection(kind, section, fmt.Sprintf("10.77.0.254:%d", 9000+node))
	})
	traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 40, PerKey: 100_000, Gap: 100 * time.Millisecond, Connections: 4000, Method: "POST", Timeout: time.Minute}
	result, report := k.under(traffic, k.happen)
	t.Logf("what happened: %v", k.done)
	for _, line := range k.diary {
		t.Log(line)
	}
	for i := range result.Sent {
		if s := &result.Sent[i]; s.Status == 409 {
			t.Logf("refused by its fence: %s seq %d, sent %.4f, answered %.4f", s.Key, s.Seq, float64(s.SentAt)/1e9, float64(s.AnsweredAt)/1e9)
		}
	}
	k.judge(result, report)
}

// happen lets one thing happen after the other, and then waits for peace.
func (k *strictCampaign) happen() {
	events := map[string]func(){
		"kill": k.kill9, "stop": k.stop, "split": k.split, "store restart": k.storeRestart, "store frozen": k.storeFrozen,
		"store lost": k.storeLost, "store out of reach": k.storeShut, "leave": k.leave,
	}
	names := []string{"kill", "kill", "stop", "stop", "split", "store restart", "store frozen", "store lost", "store out of reach", "leave"}
	for until := time.Now().Add(*campaignFor); time.Now().Before(until); {
		time.Sleep(time.Duration(500+k.random.IntN(3000)) * time.Millisecond)
		name := names[k.random.IntN(len(names))]
		k.done[name]++
		began := k.history.Clock().Now()
		events[name]()
		k.diary = append(k.diary, fmt.Sprintf("%.3f–%.3f %s", float64(began)/1e9, float64(k.history.Clock().Now())/1e9, name))
	}
	k.awaitAgreement(k.n, 3)
	time.Sleep(2 * strictTTL)
}

func (k *strictCampaign) restart(i int) {
	k.nodes[i] = launchIn(k.t, k.files[i], "ip", "netns", "exec", k.n.hosts[i])
	k.nodes[i].forget()
	time.Sleep(time.Second)
}

func (k *strictCampaign) kill9() {
	i := k.random.IntN(3)
	k.kill(i)
	time.Sleep(time.Duration(k.random.IntN(6000)) * time.Millisecond)
	k.restart(i)
}

func (k *strictCampaign) leave() {
	i := k.random.IntN(3)
	k.nodes[i].signal(syscall.SIGTERM)
	k.nodes[i].wait()
	k.restart(i)
}

// stop stands still for longer than a lease, most times, and now and then for 30 s.
func (k *strictCampaign) stop() {
	i := k.random.IntN(3)
	d := time.Duration(500+k.random.IntN(8000)) * time.Millisecond
	if k.random.IntN(5) == 0 && *campaignFor > time.Minute {
		d = 30 * time.Second
	}
	k.nodes[i].signal(syscall.SIGSTOP)
	time.Sleep(d)
	k.nodes[i].signal(syscall.SIGCONT)
}

// split cuts one node off from the others, but not from the store, clients or the
// service, or from the store as well.
func (k *strictCampaign) split() {
	i := k.random.IntN(3)
	others := slices.DeleteFunc([]int{0, 1, 2}, func(j int) bool { return j == i })
	alone := k.random.IntN(2) == 0
	for _, j := range others {
		k.n.cut(i, j)
	}
	k.doors[i].set(alone)
	time.Sleep(time.Duration(k.random.IntN(10_000)) * time.Millisecond)
	for _, j := range others {
		k.n.mend(i, j)
	}
	k.doors[i].set(false)
}

func (k *strictCampaign) storeShut() {
	i := k.random.IntN(3)
	k.doors[i].set(true)
	time.Sleep(time.Duration(k.random.IntN(8000)) * time.Millisecond)
	k.doors[i].set(false)
}

// storeRestart restarts it with what it had on disk. A redis that keeps nothing there
// has lost its data.
func (k *strictCampaign) storeRestart() {
	k.store.Kill()
	time.Sleep(time.Duration(k.random.IntN(6000)) * time.Millisecond)
	k.store.Start()
}

func (k *strictCampaign) storeFrozen() {
	k.store.Freeze()
	time.Sleep(time.Duration(k.random.IntN(8000)) * time.Millisecond)
	k.store.Thaw()
}

func (k *strictCampaign) storeLost() {
	k.store.Kill()
	k.losses = append(k.losses, k.history.Clock().Now())
	k.store.StartEmpty()
}

// judge excuses, with a store that has no grace, what overlaps soon after it lost its
// data.
func (k *strictCampaign) judge(result *loadtest.Result, report *loadtest.Report) {
	if k.kind == "redis" || len(k.losses) == 0 {
		k.fenced(result, report)
		return
	}
	excused := k.history.Evidence()
	excused.Sent = result.Sent
	excused.Executions = slices.DeleteFunc(excused.Executions, func(e loadtest.Execution) bool {
		return slices.ContainsFunc(k.losses, func(at int64) bool {
			return e.End >= at && e.Start <= at+int64(2*strictTTL+5*time.Second)
		})
	})
	order := loadtest.Check(excused, loadtest.Rules{Examples: 5})
	k.t.Logf("with what a store without grace allowed: %d overlaps, %d fences fell; without: %d", report.Count(loadtest.Overlap), report.Count(loadtest.FenceRegression), order.Count(loadtest.Overlap))
	k.t.Logf("statuses %v; %d refused by their fences\n%s", result.Statuses(), k.history.LowerFences(), report)
	k.expectNone(report, inexcusable...)
	k.expectNone(report, loadtest.FenceRegression)
	k.expectNone(order, loadtest.Overlap)
}
