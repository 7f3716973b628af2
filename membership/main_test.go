package membership

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"lanekeeper/membership/membertest"
	"lanekeeper/ring"
)

var verbose = flag.Bool("gossip-log", false, "print what the nodes log")

func TestMain(m *testing.M) {
	if what := os.Getenv(childVariable); what != "" {
		runChild(what)
		return
	}
	goleak.VerifyTestMain(m,
		// One probe of memberlist's may wait for its answer after Stop.
		goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// cluster is a set of nodes on one network in memory, in a bubble.
type cluster struct {
	t      *testing.T
	net    *membertest.Network
	nodes  map[string]*Membership
	log    *journal
	change func(*Config) // of every node's configuration
	serial uint64
}

// bubble runs test with an empty cluster, stops what is left of it, and lets
// memberlist's last goroutines end.
func bubble(t *testing.T, test func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, net: membertest.New(1), nodes: make(map[string]*Membership), log: &journal{t: t}}
		c.net.SetLink(membertest.Link{Delay: 200 * time.Microsecond, Jitter: time.Millisecond})
		defer func() { // also after a Fatal: a bubble must not be left with goroutines
			for name := range c.nodes {
				c.stop(name)
			}
			if n := c.net.Streams(); n != 0 {
				t.Errorf("%d streams are left open", n)
			}
			time.Sleep(time.Minute)
		}()
		test(t, c)
	})
}

// address is where the node with a name like node-3 is: 10.0.0.3.
func address(name string) string {
	_, number, _ := strings.Cut(name, "-")
	return "10.0.0." + number
}

func testLayout() ring.Layout {
	return ring.Layout{Cluster: "test", Partitions: 64, VirtualNodes: 10, Load: 1.25}
}

func (c *cluster) config(name string) Config {
	c.serial++
	config := Default()
	config.Self = ring.Member{Name: name, Incarnation: c.serial}
	config.Layout = testLayout()
	config.PeerAddress = address(name) + ":7944"
	config.Seeds = []string{"10.0.0.1:7943", "10.0.0.2:7943", "10.0.0.3:7943"}
	config.Log = slog.New(c.log)
	if c.change != nil {
		c.change(&config)
	}
	return config
}

// start runs nodes, with their configuration changed.
func (c *cluster) start(names []string, change ...func(*Config)) {
	c.t.Helper()
	for _, name := range names {
		config := c.config(name)
		for _, f := range change {
			f(&config)
		}
		c.net.Boot(address(name))
		transport, err := c.net.Transport(address(name) + ":7943")
		if err != nil {
			c.t.Fatal(err)
		}
		config.Transport = transport
		m, err := Start(config)
		if err != nil {
			c.t.Fatal(err)
		}
		c.nodes[name] = m
	}
}

// stop ends a node without a good-bye.
func (c *cluster) stop(name string) {
	c.t.Helper()
	if err := c.nodes[name].Stop(context.Background()); err != nil {
		c.t.Errorf("%s: Stop: %v", name, err)
	}
	delete(c.nodes, name)
}

// crash is what kill -9 leaves of a node.
func (c *cluster) crash(name string) {
	c.t.Helper()
	c.net.Kill(address(name))
	c.stop(name)
}

// agree waits until every node has the given view, in the form of show, and
// returns how long that took.
func (c *cluster) agree(within time.Duration, want string) time.Duration {
	c.t.Helper()
	started := time.Now()
	for {
		wrong := ""
		for name, m := range c.nodes {
			if got := show(m.View()); got != want {
				wrong = fmt.Sprintf("%s has %q", name, got)
			}
		}
		if wrong == "" {
			return time.Since(started)
		}
		if time.Since(started) > within {
			c.t.Fatalf("after %v %s, want %q\n%s", within, wrong, want, c.log)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// show is a view in one line: live members, those that drain in brackets; then
// the dead.
func show(v *View) string {
	var words []string
	for _, n := range v.Members {
		switch n.State {
		case Active:
			words = append(words, n.Name)
		default:
			words = append(words, "("+n.Name+")")
		}
	}
	for _, n := range v.Dead {
		words = append(words, n.State.String()+":"+n.Name)
	}
	return strings.Join(words, " ")
}

// names are node-1 to node-n.
func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("node-%d", i+1)
	}
	return all
}

// journal is a slog.Handler that keeps what is logged.
type journal struct {
	t *testing.T

	mu    sync.Mutex // guards lines
	lines []string
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := fmt.Sprintf("%s %s", r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		line += fmt.Sprintf(" %s=%q", a.Key, a.Value.String())
		return true
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, r.Time.Format("05.000 ")+line)
	if *verbose {
		fmt.Println(j.lines[len(j.lines)-1])
	}
	return nil
}

// count is how many lines hold all of words.
func (j *journal) count(words ...string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
line:
	for _, line := range j.lines {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue line
			}
		}
		n++
	}
	return n
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var lines []string
	for _, line := range j.lines {
		if !strings.Contains(line, "DEBUG") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
