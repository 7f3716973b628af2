package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lanekeeper/loadtest"
	"lanekeeper/lock/locktest"
)

// The tests of this file run whole nodes as processes with a real store.

const (
	strictTTL    = 3 * time.Second
	strictMargin = 900 * time.Millisecond
	// patience is what a busy machine may take where a quiet one takes less than a second:
	// the figures are logged.
	patience = 4 * time.Second
)

// storeKinds start a store of each kind, and return what the configuration says of it.
var storeKinds = map[string]func(t testing.TB) (server *locktest.Server, section string){
	"redis": func(t testing.TB) (*locktest.Server, string) {
		s := locktest.Redis(t)
		return s, "redis: {addresses: [%q]}"
	},
	"etcd": func(t testing.TB) (*locktest.Server, string) {
		return locktest.Etcd(t, 1)[0], "etcd: {endpoints: [%q]}"
	},
	"zookeeper": func(t testing.TB) (*locktest.Server, string) {
		return locktest.ZooKeeper(t, 1)[0], "zookeeper: {servers: [%q]}"
	},
}

// unhurried skips a test with the race detector: everything that it runs is run without.
// With it a machine of two cores may not renew short leases in time; what races in
// such nodes is looked for in the simulation.
func unhurried(t *testing.T) {
	t.Helper()
	if raceDetector {
		t.Skip("run without the race detector")
	}
}

// strictSection is the coordinator's part of a configuration.
func strictSection(kind, section, address string) string {
	return fmt.Sprintf("coordinator: {type: %s, lease_ttl: %s, safety_margin: %s, acquire_timeout: 1s, %s}\n", kind, strictTTL, strictMargin, fmt.Sprintf(section, address))
}

// startStrict starts three members with a store. Their service is a resource that
// refuses lower fences.
func startStrict(t *testing.T, kind, extra string) (*testCluster, *locktest.Server) {
	t.Helper()
	server, section := storeKinds[kind](t)
	return startProcesses(t, 3, loadtest.WitnessConfig{Delay: 5 * time.Millisecond, Fenced: true}, strictSection(kind, section, server.Address)+extra), server
}

// owned is how many partitions nodes own, all together.
func (c *testCluster) owned(nodes ...int) (sum float64) {
	c.t.Helper()
	for _, i := range nodes {
		sum += c.metric(i, "lanekeeper_owned_partitions")
	}
	return sum
}

// fenced judges what a strict cluster may never do, whatever happens to it.
func (c *testCluster) fenced(result *loadtest.Result, report *loadtest.Report) {
	c.t.Helper()
	c.t.Logf("statuses %v; longest gap %s, max %s; %d refused by their fences\n%s", result.Statuses(), result.LongestGap, result.LatencyAt(100), c.history.LowerFences(), report)
	problems := make(map[string]int)
	for i := range result.Sent {
		if problem := result.Sent[i].Problem; problem != "" {
			problems[problem]++
		}
	}
	c.t.Logf("problems %v", problems)
	c.expectNone(report, inexcusable...)
	c.expectNone(report, loadtest.Overlap, loadtest.FenceRegression)
	if report.Judged(loadtest.FenceRegression) == 0 {
		c.t.Error("no fence was judged")
	}
}

// TestStrictKilledOwner kills a node under load, with clients at the others: its
// partitions are theirs within a lease and a second, and nothing runs beside anything.
//
// Mutants: the taker does not wait for the lease's end (the store's Decide ignores
// alive); a fence is the ticket's time.
func TestStrictKilledOwner(t *testing.T) {
	unhurried(t)
	for kind := range storeKinds {
		t.Run(kind, func(t *testing.T) {
			c, _ := startStrict(t, kind, "")
			traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 100, PerKey: 10000, Gap: 100 * time.Millisecond, Connections: 4000, Targets: c.others(2), Method: "POST"}
			var took time.Duration
			result, report := c.under(traffic, func() {
				time.Sleep(time.Second)
				c.kill(2)
				killed := time.Now()
				c.await("the survivors to own everything", func() bool { return c.owned(0, 1) == 4096 })
				took = time.Since(killed)
				time.Sleep(time.Second)
			})
			t.Logf("owned again after %s, of a lease of %s", took, strictTTL)
			c.fenced(result, report)
			if took > strictTTL+patience {
				t.Errorf("owned again after %s", took)
			}
			statuses := result.Statuses()
			if statuses[200] == 0 || statuses[200]+statuses[502] != len(result.Sent) {
				t.Errorf("statuses %v: want 200, and 502 for what the dead node had", statuses)
			}
		})
	}
}

// TestStrictPausedOwner stops a node for longer than its lease lasts: when it goes on it
// runs nothing that it had, nothing ran beside anything, and it takes part again.
func TestStrictPausedOwner(t *testing.T) {
	unhurried(t)
	c, _ := startStrict(t, "redis", "")
	traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 100, PerKey: 10000, Gap: 100 * time.Millisecond, Connections: 4000, Targets: c.others(2), Method: "POST"}
	result, report := c.under(traffic, func() {
		time.Sleep(time.Second)
		c.nodes[2].signal(syscall.SIGSTOP)
		time.Sleep(2 * strictTTL)
		c.nodes[2].signal(syscall.SIGCONT)
		c.await("the node to own its share again", func() bool { return c.owned(2) > 500 && c.owned(0, 1, 2) == 4096 })
		time.Sleep(time.Second)
	})
	c.fenced(result, report)
}

// TestStrictStoreIsAway stops the store for longer than leases last. Strict requests are
// served to the leases' end, then refused, and served again when it is back.
//
// Mutants: Strict does not look at the lease; a request that is refused says that its
// outcome is unknown; Away is never left.
func TestStrictStoreIsAway(t *testing.T) {
	unhurried(t)
	for kind := range storeKinds {
		t.Run(kind, func(t *testing.T) {
			c, store := startStrict(t, kind, "")
			at := func(node int) string { return <-post(c.targets[node]+"/orders/7", "x") }
			if got := at(0); !strings.HasPrefix(got, "200") {
				t.Fatalf("got %s", got)
			}
			stopped := time.Now()
			store.Freeze()
			last := stopped
			c.await("strict requests to be refused", func() bool {
				switch got := at(0); {
				case strings.HasPrefix(got, "200"):
					last = time.Now()
					return false
				case strings.HasPrefix(got, "503") && strings.Contains(got, "no-owner") && strings.Contains(got, `"executed":"no"`):
					return true
				case strings.HasPrefix(got, "504") && strings.Contains(got, "lease ended"): // it ran just then
					return false
				default:
					t.Fatalf("got %s", got)
					return true
				}
			})
			if served := last.Sub(stopped); served > strictTTL-strictMargin+100*time.Millisecond {
				t.Errorf("served for %s after the store was gone", served)
			}
			ready := func(want int) func() bool {
				return func() bool {
					for _, p := range c.nodes {
						if statusOf(t, p.observe+"/readyz") != want {
							return false
						}
					}
					return true
				}
			}
			c.await("all to be unready", ready(503))
			time.Sleep(strictTTL)
			store.Thaw()
			c.await("strict requests to be served", func() bool {
				return strings.HasPrefix(at(0), "200") && strings.HasPrefix(at(1), "200") && strings.HasPrefix(at(2), "200")
			})
			c.await("all to be ready", ready(200))
		})
	}
}

// TestStrictHandover ends a node in order: the others own what it had within a second
// of its last word to load balancers, and no request is refused.
func TestStrictHandover(t *testing.T) {
	unhurried(t)
	const delay = 500 * time.Millisecond
	c, _ := startStrict(t, "redis", fmt.Sprintf("shutdown: {delay: %s, drain_timeout: 20s}\n", delay))
	traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 100, PerKey: 10000, Gap: 100 * time.Millisecond, Connections: 4000, Targets: c.others(2), Method: "POST"}
	var took time.Duration
	result, report := c.under(traffic, func() {
		time.Sleep(time.Second)
		c.nodes[2].signal(syscall.SIGTERM)
		time.Sleep(delay)
		over := time.Now()
		c.await("the others to own everything", func() bool { return c.owned(0, 1) == 4096 })
		took = time.Since(over)
		if code := c.nodes[2].wait(); code != 0 {
			t.Errorf("ended with code %d", code)
		}
	})
	t.Logf("handed over %s after the delay", took)
	c.fenced(result, report)
	if took > patience {
		t.Errorf("handed over %s after the delay", took)
	}
	if !report.OK() || result.Statuses()[200] != len(result.Sent) {
		t.Errorf("statuses %v: want 200 alone", result.Statuses())
	}
}

// asked is how many questions a store has had, less than 10 of them ours.
func asked(t *testing.T, kind, address string) (n float64) {
	t.Helper()
	sum := func(text, prefix, separator string) {
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				_, value, _ := strings.Cut(rest, separator)
				v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
				if err != nil {
					t.Fatal(err)
				}
				n += v
			}
		}
	}
	switch kind {
	case "redis":
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second)) //nolint:errcheck // then it does not answer
		io.WriteString(conn, "INFO stats\r\nQUIT\r\n")    //nolint:errcheck // then it does not answer
		text, _ := io.ReadAll(conn)
		sum(string(text), "total_commands_processed", ":")
	case "etcd":
		response, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		sum(string(text), "grpc_server_msg_received_total{", "} ")
	case "zookeeper":
		sum(locktest.Word(address, "mntr"), "zk_packets_received", "\t")
	}
	return n
}

// TestStrictCostsTheStoreNothing: the store is asked for leases, and when partitions
// move, and never for a request.
//
// Mutant: Strict draws a stamp for each request.
func TestStrictCostsTheStoreNothing(t *testing.T) {
	unhurried(t)
	for kind := range storeKinds {
		t.Run(kind, func(t *testing.T) {
			c, store := startStrict(t, kind, "")
			time.Sleep(time.Second)
			const span = 3 * time.Second
			before := asked(t, kind, store.Address)
			time.Sleep(span)
			idle := asked(t, kind, store.Address) - before
			traffic := loadtest.Traffic{Mode: loadtest.Spaced, Keys: 200, PerKey: 10000, Gap: 100 * time.Millisecond, Connections: 1000, Method: "POST"}
			before = asked(t, kind, store.Address)
			result, report := c.under(traffic, func() { time.Sleep(span) })
			busy := asked(t, kind, store.Address) - before
			t.Logf("three nodes ask %.1f times a second at rest, and %.1f at %d requests", idle/span.Seconds(), busy/span.Seconds(), len(result.Sent))
			if !report.OK() {
				t.Errorf("statuses %v\n%s", result.Statuses(), report)
			}
			if n := result.Statuses()[200]; n < 2000 || busy > 2*idle+20 {
				t.Errorf("asked %v times for %d requests, and %v times without any", busy, n, idle)
			}
		})
	}
}
