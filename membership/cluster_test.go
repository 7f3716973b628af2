package membership

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"lanekeeper/membership/membertest"
	"lanekeeper/ring"
)

// noticed is within what a crash must be known everywhere, settle window
// included. It is 3 s in the mean (see TestScale), and rarely 6, if nobody
// confirms a suspicion.
const noticed = 10 * time.Second

// TestJoinLeaveCrashRestart follows a cluster of three and one of five through
// what happens to clusters.
//
// Mutants: nothing is announced before the good-bye (left is taken for dead);
// the dead are never forgotten; forgetting is a new version; the first view
// does not wait for the others.
func TestJoinLeaveCrashRestart(t *testing.T) {
	for _, n := range []int{3, 5} {
		bubble(t, func(t *testing.T, c *cluster) {
			c.start(names(n))
			all := strings.Join(names(n), " ")
			c.agree(time.Second, all)
			for name, m := range c.nodes {
				if v := m.View(); v.Version != 1 {
					t.Errorf("%s: the first view with all has version %d", name, v.Version)
				}
			}
			c.sameRing(n)

			rest := strings.Join(names(n)[:n-1], " ")
			last := names(n)[n-1]
			if err := c.nodes[last].Leave(t.Context()); err != nil {
				t.Errorf("Leave: %v", err)
			}
			c.stop(last)
			c.agree(time.Second, rest+" left:"+last)
			c.sameRing(n - 1)
			time.Sleep(30 * time.Second)

			c.crash("node-2")
			survivors := strings.ReplaceAll(rest, " node-2", "")
			took := c.agree(noticed, survivors+" dead:node-2 left:"+last)
			t.Logf("%d nodes: a crash was known everywhere after %v", n, took)
			c.sameRing(n - 2)
			version := c.nodes["node-1"].View().Version

			c.agree(time.Minute, survivors)
			if v := c.nodes["node-1"].View(); v.Version != version {
				t.Errorf("forgetting the dead made version %d of %d", v.Version, version)
			}

			c.start([]string{"node-2"})
			c.agree(2*time.Second, rest)
			if n, _ := c.nodes["node-1"].View().Member("node-2"); n.Member != c.nodes["node-2"].config.Self {
				t.Errorf("node-2 is back as %v, want %v", n.Member, c.nodes["node-2"].config.Self)
			}
		})
	}
}

// sameRing checks that all nodes place alike, over n members.
func (c *cluster) sameRing(n int) {
	c.t.Helper()
	hashes := make(map[uint64]bool)
	for name, m := range c.nodes {
		v := m.View()
		hashes[v.Ring.Hash()] = true
		if got := len(v.Ring.Members()); got != n {
			c.t.Errorf("%s: %d members in the ring, want %d", name, got, n)
		}
	}
	if len(hashes) != 1 {
		c.t.Errorf("%d rings", len(hashes))
	}
}

// TestRestartBeforeTheDeathIsKnown: a node that is back at once takes its own
// place, although its last incarnation still counts as alive; when that dies,
// nothing changes.
//
// Mutants: the lowest incarnation wins; a dead incarnation is shown beside the
// live one; a member is looked up by name when it dies.
func TestRestartBeforeTheDeathIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(3))
		c.agree(5*time.Second, "node-1 node-2 node-3")
		before := c.nodes["node-2"].config.Self
		c.crash("node-2")
		c.start([]string{"node-2"})
		now := c.nodes["node-2"].config.Self
		c.agree(5*time.Second, "node-1 node-2 node-3")
		v := c.nodes["node-1"].View()
		if v.Alive(before) || !v.Alive(now) {
			t.Errorf("%v alive: %v, %v alive: %v", before, v.Alive(before), now, v.Alive(now))
		}
		version := v.Version
		time.Sleep(20 * time.Second)
		c.agree(0, "node-1 node-2 node-3")
		if v := c.nodes["node-1"].View(); v.Version != version {
			t.Errorf("the death of a replaced incarnation made version %d of %d", v.Version, version)
		}
	})
}

// TestDrain: a draining node is a live member and in no ring; it comes back.
//
// Mutants: draining members stay in the ring; Undrain announces nothing.
func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(5))
		c.agree(5*time.Second, "node-1 node-2 node-3 node-4 node-5")
		c.sameRing(5)
		started := time.Now()
		if err := c.nodes["node-4"].Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
		t.Logf("Drain took %v", time.Since(started))
		c.agree(5*time.Second, "node-1 node-2 node-3 (node-4) node-5")
		c.sameRing(4)
		if err := c.nodes["node-4"].Undrain(t.Context()); err != nil {
			t.Errorf("Undrain: %v", err)
		}
		c.agree(5*time.Second, "node-1 node-2 node-3 node-4 node-5")
		c.sameRing(5)
		if err := c.nodes["node-4"].SetConfigHash(t.Context(), "abc"); err != nil {
			t.Errorf("SetConfigHash: %v", err)
		}
		c.agree(5*time.Second, "node-1 node-2 node-3 node-4 node-5")
		time.Sleep(time.Second)
		if n, _ := c.nodes["node-1"].View().Member("node-4"); n.ConfigHash != "abc" {
			t.Errorf("node-4's config hash is %q", n.ConfigHash)
		}
		// A crash while draining is a death.
		c.nodes["node-4"].Drain(t.Context())
		c.crash("node-4")
		c.agree(noticed, "node-1 node-2 node-3 node-5 dead:node-4")
	})
}

// TestDrainReturns also when nobody answers, or ctx ends, and is still in force.
func TestDrainReturns(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(2))
		c.agree(5*time.Second, "node-1 node-2")
		m := c.nodes["node-1"]
		c.net.Unplug(address("node-2"))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		started := time.Now()
		err := m.Drain(ctx)
		if took := time.Since(started); took > 60*time.Millisecond {
			t.Errorf("Drain took %v with 50ms", took)
		}
		if err == nil {
			t.Error("Drain in 50ms: no error")
		}
		time.Sleep(time.Second)
		if n, _ := m.View().Member("node-1"); n.State != Draining {
			t.Errorf("after a Drain that was given up, the node is %v", n.State)
		}
		time.Sleep(10 * time.Second)
		started = time.Now()
		if err := m.Undrain(t.Context()); err != nil || time.Since(started) > time.Millisecond {
			t.Errorf("Undrain alone: %v after %v", err, time.Since(started))
		}
	})
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(2))
		c.agree(5*time.Second, "node-1 node-2")
		c.net.Kill(address("node-1")) // sends nothing any more, and waits to
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		c.nodes["node-1"].Drain(ctx)
		started := time.Now()
		c.stop("node-1")
		if took := time.Since(started); took > 100*time.Millisecond {
			t.Errorf("Stop waited %v for a Drain that was given up", took)
		}
	})
}

// TestSplitHeals: both halves of a split go their way, the small one knows that
// it is too small, and there is one view again after the split, long after
// gossip itself has forgotten the other half.
//
// Mutants: no re-joining; min_members is ignored.
func TestSplitHeals(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(5), func(config *Config) { config.MinMembers = 3 })
		c.agree(5*time.Second, "node-1 node-2 node-3 node-4 node-5")
		small, large := names(5)[:2], names(5)[2:]
		c.net.Split(addresses(small), addresses(large))
		time.Sleep(90 * time.Second)
		for _, name := range small {
			if v := c.nodes[name].View(); show(v) != "node-1 node-2" || v.Enough {
				t.Errorf("%s: %q, enough %v", name, show(v), v.Enough)
			}
		}
		for _, name := range large {
			if v := c.nodes[name].View(); show(v) != "node-3 node-4 node-5" || !v.Enough {
				t.Errorf("%s: %q, enough %v", name, show(v), v.Enough)
			}
		}
		c.net.Heal()
		took := c.agree(time.Minute, "node-1 node-2 node-3 node-4 node-5")
		t.Logf("one view %v after the split healed", took)
		c.sameRing(5)
		if !c.nodes["node-1"].View().Enough {
			t.Error("node-1: five are not enough")
		}
	})
}

// TestSplitHealsWithoutSeeds: the seed is gone for good, and the two others
// were apart for longer than they show the dead.
//
// Mutant: the addresses of members that died are not tried.
func TestSplitHealsWithoutSeeds(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.change = func(config *Config) { config.Seeds = []string{"10.0.0.3:7943"} }
		c.start(names(3))
		c.agree(5*time.Second, "node-1 node-2 node-3")
		c.nodes["node-3"].Leave(t.Context())
		c.stop("node-3")
		c.net.Split([]string{address("node-1")}, []string{address("node-2")})
		time.Sleep(10 * time.Minute)
		if got := show(c.nodes["node-1"].View()); got != "node-1" {
			t.Fatalf("node-1 sees %q in the split", got)
		}
		c.net.Heal()
		c.agree(time.Minute, "node-1 node-2")
	})
}

// TestShortSplitsHeal soon, at every length, among them those after which only
// one side takes the other for dead, or gossip still does.
//
// Mutant: a death does not hasten the next look at the seeds.
func TestShortSplitsHeal(t *testing.T) {
	sum := time.Duration(0)
	for _, length := range []time.Duration{1, 2, 3, 4, 5, 8, 16, 31, 45} {
		bubble(t, func(t *testing.T, c *cluster) {
			c.start(names(3))
			c.agree(5*time.Second, "node-1 node-2 node-3")
			c.net.Split(addresses(names(1)), addresses(names(3)[1:]))
			time.Sleep(length * time.Second)
			c.net.Heal()
			took := c.agree(time.Minute, "node-1 node-2 node-3")
			t.Logf("split of %ds: one view after %v", length, took)
			if length <= 8 {
				sum += took
			}
		})
	}
	if sum > 20*time.Second {
		t.Errorf("splits of up to 8s needed %v to heal, all together", sum)
	}
}

// TestOneWayCut: two members between which packets pass one way only vouch for
// each other through the third.
func TestOneWayCut(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(3))
		c.agree(5*time.Second, "node-1 node-2 node-3")
		c.net.Cut(address("node-1"), address("node-2"))
		for range 60 {
			time.Sleep(time.Second)
			c.agree(0, "node-1 node-2 node-3")
		}
	})
}

// TestLoss: with every tenth packet lost nobody is taken for dead.
func TestLoss(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(5))
		c.agree(5*time.Second, "node-1 node-2 node-3 node-4 node-5")
		c.net.SetLink(membertest.Link{Delay: time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.1, Duplicate: 0.1})
		for range 60 {
			time.Sleep(time.Second)
			c.agree(0, "node-1 node-2 node-3 node-4 node-5")
		}
	})
}

// TestFirstView: when a node has its first view, and with whom.
//
// Mutants: a view before a seed was joined; the timeout without effect; Wary without
// effect, or never alone.
func TestFirstView(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Config)
		at     time.Duration // 0: at once; negative: never
	}{
		{"no seeds", func(c *Config) { c.Seeds = nil }, 0},
		{"only itself", func(c *Config) { c.Seeds = []string{"10.0.0.1:7943"} }, 30 * time.Second},
		{"nobody there", func(*Config) {}, 30 * time.Second},
		{"and never alone", func(c *Config) { c.JoinTimeout = 0 }, -1},
		{"nobody there, and wary", func(c *Config) { c.Wary = true }, -1},
		{"only itself, and wary", func(c *Config) { c.Wary, c.Seeds = true, []string{"10.0.0.1:7943"} }, 30 * time.Second},
	} {
		bubble(t, func(t *testing.T, c *cluster) {
			c.start(names(1), test.change)
			m := c.nodes["node-1"]
			if test.at == 0 {
				if got := show(m.View()); got != "node-1" {
					t.Errorf("%s: %q at once", test.name, got)
				}
				return
			}
			v := m.View()
			time.Sleep(29 * time.Second)
			if now := m.View(); now != v || v.Version != 0 || len(v.Members) != 0 || v.Enough || v.Ring.Target(0) != (ring.Member{}) {
				t.Errorf("%s: a view before its time: %+v", test.name, now)
			}
			if m.Problem() == "" {
				t.Errorf("%s: no problem is told", test.name)
			}
			if test.at < 0 {
				time.Sleep(time.Hour)
				if v := m.View(); v.Version != 0 {
					t.Errorf("%s: %q after an hour", test.name, show(v))
				}
				return
			}
			time.Sleep(5 * time.Second)
			if got := show(m.View()); got != "node-1" {
				t.Errorf("%s: %q after 34s", test.name, got)
			}
			select {
			case <-v.Changed():
			default:
				t.Errorf("%s: Changed of the empty view is not closed", test.name)
			}
			// It goes on looking.
			c.start([]string{"node-2"}, func(config *Config) { config.Seeds = nil })
			if slices.Contains(m.config.Seeds, "10.0.0.2:7943") {
				c.agree(9*time.Second, "node-1 node-2")
				time.Sleep(5 * time.Second) // for the seeds that do not answer
			}
			if p := m.Problem(); p != "" && len(m.View().Members) > 1 {
				t.Errorf("%s: joined, and still: %s", test.name, p)
			}
		})
	}
}

// TestComplaintsGrowRare: somebody who watches the log for an hour is not told
// the same six hundred times.
func TestComplaintsGrowRare(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(1))
		time.Sleep(30 * time.Minute)
		n := c.log.count("WARN", "no other member was found", "10.0.0.2:7943: TCP does not connect within 2s")
		if n < 6 || n > 15 {
			t.Errorf("%d complaints in half an hour\n%s", n, c.log)
		}
	})
}

// TestStrangers: who is not of this cluster is refused on both sides, for ever,
// and does not go on alone next to it; both logs say why.
//
// Mutants: no merge delegate; no alive delegate; a refused node goes on alone.
func TestStrangers(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Config)
		alone  bool // it may go on alone: who answers cannot be told from a wrong port
		words  []string
	}{
		{"other partitions", func(c *Config) { c.Layout.Partitions = 32 }, false, []string{"ERROR", "refused a node", "it has 32 partitions, this node has 64"}},
		{"other name", func(c *Config) { c.Layout.Cluster = "other" }, true, []string{"WARN", "gossip of another cluster", `label="lanekeeper/other"`}},
		{"other key", func(c *Config) { c.Keys = [][]byte{key(2)} }, false, []string{"it has another gossip key"}},
		{"no key", func(c *Config) { c.Keys = nil }, false, []string{"it has another gossip key, or one of both has none"}},
	} {
		bubble(t, func(t *testing.T, c *cluster) {
			c.change = func(config *Config) { config.Keys = [][]byte{key(1)} }
			c.start(names(3))
			c.agree(5*time.Second, "node-1 node-2 node-3")
			c.start([]string{"node-4"}, test.change)
			stranger := c.nodes["node-4"]
			delete(c.nodes, "node-4")
			defer func() { c.nodes["node-4"] = stranger }()
			for range 45 {
				time.Sleep(time.Second)
				c.agree(0, "node-1 node-2 node-3")
				if got := show(stranger.View()); got != "" && !(test.alone && got == "node-4") {
					t.Fatalf("%s: the stranger sees %q", test.name, got)
				}
			}
			if n := c.log.count(test.words...); n == 0 || n > 30 {
				t.Errorf("%s: %d lines with %q\n%s", test.name, n, test.words, c.log)
			}
			if stranger.Problem() == "" {
				t.Errorf("%s: the stranger has no problem", test.name)
			}
		})
	}
}

func key(n byte) []byte { return slices.Repeat([]byte{n}, keyBytes) }

// TestKeysRotate: three steps, one node at a time, without anybody dropping out.
func TestKeysRotate(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		a, b := key(1), key(2)
		c.change = func(config *Config) { config.Keys = [][]byte{a} }
		c.start(names(3))
		c.agree(5*time.Second, "node-1 node-2 node-3")
		for _, keys := range [][][]byte{{a, b}, {b, a}, {b}} {
			for _, name := range names(3) {
				c.nodes[name].Leave(t.Context())
				c.stop(name)
				c.start([]string{name}, func(config *Config) { config.Keys = keys })
				c.agree(2*time.Second, "node-1 node-2 node-3")
			}
		}
	})
}

// TestFirewalls: a seed or a member that answers to half of gossip is named,
// with what to do, once.
func TestFirewalls(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.net.SetLink(membertest.Link{NoPackets: true})
		c.start(names(3))
		c.agree(time.Minute, "node-1 node-2 node-3")
		time.Sleep(time.Minute)
		c.agree(0, "node-1 node-2 node-3")
		if n := c.log.count("WARN", "answers over TCP but not over UDP"); n != 6 {
			t.Errorf("UDP: %d warnings, want one per node and member\n%s", n, c.log)
		}
	})
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(2))
		c.agree(5*time.Second, "node-1 node-2")
		c.net.SetLink(membertest.Link{NoStreams: true})
		time.Sleep(time.Minute)
		c.agree(0, "node-1 node-2")
		if n := c.log.count("WARN", "a member does not answer over TCP"); n != 2 {
			t.Errorf("TCP: %d warnings, want one per node\n%s", n, c.log)
		}
	})
}

// TestLogOfACrash: after a crash and a restart the log holds what happened, and
// nothing of what gossip says about it.
func TestLogOfACrash(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(3))
		c.agree(5*time.Second, "node-1 node-2 node-3")
		c.crash("node-2")
		time.Sleep(time.Minute)
		c.start([]string{"node-2"})
		time.Sleep(2 * time.Minute)
		for _, line := range strings.Split(c.log.String(), "\n") {
			known := false
			for _, word := range []string{"member joined", "member died", "view changed", "member is back"} {
				known = known || strings.Contains(line, word)
			}
			if !known {
				t.Errorf("logged: %s", line)
			}
		}
		if n := c.log.count("WARN", "member died", "node-2"); n != 2 {
			t.Errorf("%d lines tell of the death, want one per survivor", n)
		}
	})
}

// directory is a resolver whose answers change.
type directory struct {
	mu    sync.Mutex // guards hosts, srv
	hosts map[string][]string
	srv   map[string][]*net.SRV
}

func (d *directory) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []netip.Addr
	for _, s := range d.hosts[host] {
		found = append(found, netip.MustParseAddr(s))
	}
	if found == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return found, nil
}

func (d *directory) LookupSRV(_ context.Context, _, _, name string) (string, []*net.SRV, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.srv[name] == nil {
		return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return name, d.srv[name], nil
}

// TestSeedsAreResolvedAnew each time: a name that did not exist, then held only
// this node, then another one.
//
// Mutants: seeds are resolved once; the node's own address is not skipped (it
// joins itself and believes that it has joined).
func TestSeedsAreResolvedAnew(t *testing.T) {
	for _, seed := range []string{"dns+lanes:7943", "lanes:7943", "dnssrv+_gossip._tcp.lanes"} {
		bubble(t, func(t *testing.T, c *cluster) {
			d := &directory{hosts: map[string][]string{}, srv: map[string][]*net.SRV{}}
			set := func(ips ...string) {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.hosts["lanes"] = ips
				var records []*net.SRV
				for i, ip := range ips {
					target := fmt.Sprintf("lanes-%d", i)
					d.hosts[target] = []string{ip}
					records = append(records, &net.SRV{Target: target + ".", Port: 7943})
				}
				d.hosts["lanes-0."], d.srv["_gossip._tcp.lanes"] = nil, records
			}
			c.change = func(config *Config) { config.Seeds, config.Resolver, config.JoinTimeout = []string{seed}, d, 0 }
			c.start([]string{"node-2"}, func(config *Config) { config.Seeds = nil })
			c.start([]string{"node-1"})
			m := c.nodes["node-1"]
			time.Sleep(10 * time.Second)
			if p := m.Problem(); !strings.Contains(p, "cannot be resolved") || !strings.Contains(p, seed) {
				t.Errorf("%s does not resolve, and the problem is %q", seed, p)
			}
			set(address("node-1"))
			time.Sleep(10 * time.Second)
			if p := m.Problem(); !strings.Contains(p, "no address but this node's own") {
				t.Errorf("%s holds only the node itself, and the problem is %q", seed, p)
			}
			if v := m.View(); v.Version != 0 {
				t.Errorf("joined itself: %q", show(v))
			}
			set(address("node-1"), address("node-2"))
			c.agree(8*time.Second, "node-1 node-2")

			// Later too: a third one, that looks at nobody, is found by name.
			c.start([]string{"node-3"}, func(config *Config) { config.Seeds = nil })
			set(address("node-1"), address("node-2"), address("node-3"))
			c.agree(time.Minute, "node-1 node-2 node-3")
		})
	}
}

// TestStop: twice, on nil, after Leave, amid joining; and what comes after.
func TestStop(t *testing.T) {
	var none *Membership
	if err := none.Stop(t.Context()); err != nil {
		t.Errorf("Stop before Start: %v", err)
	}
	bubble(t, func(t *testing.T, c *cluster) {
		c.net.Boot(address("node-2")) // refuses
		c.start(names(1))
		m := c.nodes["node-1"]
		time.Sleep(time.Second) // amid a connect to node-3, which is nobody
		started := time.Now()
		for range 2 {
			if err := m.Stop(t.Context()); err != nil {
				t.Errorf("Stop: %v", err)
			}
		}
		if took := time.Since(started); took != 0 {
			t.Errorf("Stop took %v", took)
		}
		for name, call := range map[string]func(context.Context) error{"Drain": m.Drain, "Undrain": m.Undrain, "Leave": m.Leave} {
			if err := call(t.Context()); !errors.Is(err, ErrStopped) {
				t.Errorf("%s after Stop: %v", name, err)
			}
		}
		if v := m.View(); v.Version != 0 {
			t.Errorf("a view after Stop: %q", show(v))
		}
		delete(c.nodes, "node-1")
	})
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(2))
		c.agree(5*time.Second, "node-1 node-2")
		m := c.nodes["node-1"]
		for range 2 {
			if err := m.Leave(t.Context()); err != nil {
				t.Errorf("Leave: %v", err)
			}
		}
		if err := m.Drain(t.Context()); !errors.Is(err, ErrLeft) {
			t.Errorf("Drain after Leave: %v", err)
		}
		// Nobody comes back by re-joining after a good-bye.
		time.Sleep(5 * time.Minute)
		if got := show(c.nodes["node-2"].View()); got != "node-2" {
			t.Errorf("five minutes after node-1 left: %q", got)
		}
	})
}

// TestStopWhileAnswersAreOwed: a node that is stopped while others sync with it,
// drain and die leaves nothing behind.
func TestStopAtAnyMoment(t *testing.T) {
	for moment := range 15 {
		bubble(t, func(t *testing.T, c *cluster) {
			c.start(names(3))
			time.Sleep(time.Duration(moment) * 74 * time.Millisecond)
			var wg sync.WaitGroup
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			drained := c.nodes["node-1"]
			wg.Go(func() { drained.Drain(ctx) })
			c.crash("node-3")
			time.Sleep(time.Duration(moment%5) * 10 * time.Millisecond)
			c.stop("node-2")
			c.stop("node-1")
			wg.Wait()
		})
	}
}

// TestStartReleases what it took, when it fails.
func TestStartReleases(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		for range 2 {
			transport, err := c.net.Transport(address("node-1") + ":7943")
			if err != nil {
				t.Fatalf("the address was not given back: %v", err)
			}
			config := c.config("node-1")
			config.Keys = [][]byte{{1, 2, 3}}
			config.Transport = transport
			if m, err := Start(config); err == nil || m != nil {
				t.Errorf("Start with a key of 3 bytes: %v, %v", m, err)
			}
		}
	})
}

// TestBlockedLog: a log device that does not move holds up neither gossip nor
// views, only the end of Stop.
//
// Mutant: the log is written by whoever logs.
func TestBlockedLog(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		release := make(chan struct{})
		c.start(names(3), func(config *Config) { config.Log = slog.New(blocked{c.log, release}) })
		c.agree(5*time.Second, "node-1 node-2 node-3")
		c.nodes["node-2"].Leave(t.Context())
		c.agree(time.Second, "node-1 node-3 left:node-2")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.nodes["node-2"].Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Stop with a log that does not move: %v", err)
		}
		close(release)
	})
}

type blocked struct {
	slog.Handler
	until chan struct{}
}

func (b blocked) Handle(ctx context.Context, r slog.Record) error {
	<-b.until
	return b.Handler.Handle(ctx, r)
}

// TestChangedMissesNothing: a reader that is slow sees the last view.
func TestChangedMissesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(1), func(config *Config) { config.Seeds = nil })
		m := c.nodes["node-1"]
		stop := make(chan struct{})
		var last *View
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				last = m.View()
				time.Sleep(3 * time.Second) // at work
				select {
				case <-last.Changed():
				case <-stop:
					return
				}
			}
		})
		for i := 2; i < 6; i++ {
			c.start([]string{fmt.Sprint("node-", i)})
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Second)
		close(stop)
		wg.Wait()
		if got := show(last); got != "node-1 node-2 node-3 node-4 node-5" {
			t.Errorf("the reader stopped at %q", got)
		}
	})
}

func addresses(names []string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = address(name)
	}
	return all
}

// TestGoodbyesAreNotDeaths also where packets overtake each other: whoever
// leaves is seen to have left, by everybody, nearly always. Gossip is by chance:
// none of 800 was taken for a death.
//
// Mutant: nothing is announced before the good-bye.
func TestGoodbyesAreNotDeaths(t *testing.T) {
	deaths := 0
	for range 4 {
		bubble(t, func(t *testing.T, c *cluster) {
			c.start(names(5))
			c.agree(20*time.Second, "node-1 node-2 node-3 node-4 node-5")
			c.net.SetLink(membertest.Link{Jitter: 300 * time.Millisecond})
			if err := c.nodes["node-5"].Leave(t.Context()); err != nil {
				t.Errorf("Leave: %v", err)
			}
			c.stop("node-5")
			time.Sleep(5 * time.Second)
			for _, m := range c.nodes {
				if d := m.View().Dead; len(d) != 1 || d[0].State != Left {
					deaths++
				}
			}
		})
	}
	if deaths > 1 {
		t.Errorf("%d of 16 good-byes were taken for deaths", deaths)
	}
}

// TestStrangersInGossip: a node of another layout that is not joined but told
// of is refused too.
//
// Mutant: no alive delegate.
func TestStrangersInGossip(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(2))
		c.agree(5*time.Second, "node-1 node-2")
		stranger := told("node-9", 9, staying)
		stranger.Meta = announcement{layout: markOf(ring.DefaultLayout("test"))}.encode()
		settings := memberlist.DefaultLANConfig()
		transport, err := c.net.Transport(address("node-9") + ":7943")
		if err != nil {
			t.Fatal(err)
		}
		settings.Name, settings.Transport, settings.Label = stranger.Name, transport, label("test")
		settings.AdvertiseAddr, settings.AdvertisePort = address("node-9"), 7943
		settings.Logger = log.New(io.Discard, "", 0)
		settings.Delegate = carrier{stranger.Meta}
		list, err := memberlist.Create(settings)
		if err != nil {
			t.Fatal(err)
		}
		// It has no delegates that would keep it apart, and tells of itself in
		// a packet, as a member would of it.
		list.Join([]string{"10.0.0.1:7943"})
		list.UpdateNode(time.Second)
		time.Sleep(time.Minute)
		c.agree(0, "node-1 node-2")
		list.Shutdown()
	})
}

// carrier is a delegate with nothing but metadata.
type carrier struct{ meta []byte }

func (c carrier) NodeMeta(int) []byte           { return c.meta }
func (carrier) NotifyMsg([]byte)                {}
func (carrier) GetBroadcasts(int, int) [][]byte { return nil }
func (carrier) LocalState(bool) []byte          { return nil }
func (carrier) MergeRemoteState([]byte, bool)   {}
