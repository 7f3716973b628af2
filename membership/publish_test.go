package membership

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"lanekeeper/membership/membertest"
	"lanekeeper/ring"
)

// lone runs test with one node that has no seeds, and with what memberlist
// would call, so that a test decides what is known when.
func lone(t *testing.T, change func(*Config), test func(t *testing.T, m *Membership, d delegate)) {
	t.Helper()
	bubble(t, func(t *testing.T, c *cluster) {
		c.change = func(config *Config) {
			config.Seeds = nil
			if change != nil {
				change(config)
			}
		}
		c.start([]string{"node-0"})
		m := c.nodes["node-0"]
		test(t, m, delegate{m})
	})
}

// told is a node as memberlist tells of it.
func told(name string, incarnation uint64, i intent) *memberlist.Node {
	says := announcement{intent: i, layout: markOf(testLayout())}
	return &memberlist.Node{Name: gossipName(ring.Member{Name: name, Incarnation: incarnation}), Addr: net.IPv4(10, 0, 9, 9), Port: 7943, Meta: says.encode()}
}

// TestSettle: what becomes known within the window is one change, the window
// begins with the first, and a death waits no longer than it.
//
// Mutants: each change is published by itself; each change prolongs the window.
func TestSettle(t *testing.T) {
	lone(t, nil, func(t *testing.T, m *Membership, d delegate) {
		if v := m.View(); v.Version != 1 || show(v) != "node-0" {
			t.Fatalf("version %d: %q", v.Version, show(v))
		}
		// One joins every 100 ms, for ever; node-1 dies after two.
		began := time.Now()
		for i := range 40 {
			d.NotifyJoin(told(fmt.Sprint("node-", 1+i%5), uint64(1+i), staying))
			if i == 2 {
				d.NotifyLeave(told("node-1", 1, staying))
			}
			synctest.Wait()
			v := m.View()
			if want := uint64(1 + time.Since(began)/(500*time.Millisecond)); v.Version != want {
				t.Fatalf("version %d after %v, want %d", v.Version, time.Since(began), want)
			}
			if _, alive := v.Member("node-1"); alive && i < 5 {
				t.Errorf("node-1, which came and went in one window, is in version %d", v.Version)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	lone(t, func(c *Config) { c.Settle = 0 }, func(t *testing.T, m *Membership, d delegate) {
		for i := range 3 {
			d.NotifyJoin(told("node-1", uint64(1+i), staying))
			synctest.Wait()
			if v := m.View(); v.Version != uint64(2+i) {
				t.Errorf("without a window: version %d after change %d", v.Version, i+1)
			}
		}
	})
}

// TestViewFollows goes through the changes of one other node.
//
// Mutants: the lower incarnation wins; a dead incarnation takes a live one
// with it; a node that announced its leaving is dead.
func TestViewFollows(t *testing.T) {
	lone(t, func(c *Config) { c.MinMembers = 2 }, func(t *testing.T, m *Membership, d delegate) {
		version := uint64(1)
		for _, step := range []struct {
			what   string
			do     func()
			want   string
			active int
			same   bool // no new version
		}{
			{"joins", func() { d.NotifyJoin(told("node-1", 5, staying)) }, "node-0 node-1", 2, false},
			{"is told again", func() { d.NotifyUpdate(told("node-1", 5, staying)) }, "node-0 node-1", 2, true},
			{"drains", func() { d.NotifyUpdate(told("node-1", 5, draining)) }, "node-0 (node-1)", 1, false},
			{"dies and refutes it", func() {
				d.NotifyLeave(told("node-1", 5, draining))
				d.NotifyJoin(told("node-1", 5, draining))
			}, "node-0 (node-1)", 1, true},
			{"leaves", func() { d.NotifyUpdate(told("node-1", 5, leaving)) }, "node-0 (node-1)", 1, true},
			{"left", func() { d.NotifyLeave(told("node-1", 5, leaving)) }, "node-0 left:node-1", 1, false},
			{"comes back", func() { d.NotifyJoin(told("node-1", 6, staying)) }, "node-0 node-1", 2, false},
			{"an older one is told of", func() { d.NotifyJoin(told("node-1", 4, staying)) }, "node-0 node-1", 2, true},
			{"a newer one", func() { d.NotifyJoin(told("node-1", 7, draining)) }, "node-0 (node-1)", 1, false},
			{"the newest dies", func() { d.NotifyLeave(told("node-1", 7, draining)) }, "node-0 node-1 dead:node-1", 2, false},
			{"the middle one dies", func() { d.NotifyLeave(told("node-1", 6, staying)) }, "node-0 node-1 dead:node-1 dead:node-1 left:node-1", 2, false},
			{"the last dies", func() { d.NotifyLeave(told("node-1", 4, staying)) }, "node-0 dead:node-1 dead:node-1 dead:node-1 left:node-1", 1, false},
			{"an unknown one dies", func() { d.NotifyLeave(told("node-9", 1, staying)) }, "node-0 dead:node-1 dead:node-1 dead:node-1 left:node-1", 1, true},
			{"a minute passes", func() { time.Sleep(time.Minute) }, "node-0", 1, true},
		} {
			before := m.View()
			step.do()
			time.Sleep(time.Second)
			v := m.View()
			if got := show(v); got != step.want || len(v.Ring.Members()) != step.active {
				t.Errorf("%s: %q, %d in the ring; want %q, %d", step.what, got, len(v.Ring.Members()), step.want, step.active)
			}
			if !step.same {
				version++
			}
			if v.Version != version {
				t.Errorf("%s: version %d, want %d", step.what, v.Version, version)
			}
			if want := len(v.Members) >= 2; v.Enough != want {
				t.Errorf("%s: enough %v with %d members of 2", step.what, v.Enough, len(v.Members))
			}
			if (v.Ring == before.Ring) != slices.Equal(v.Ring.Members(), before.Ring.Members()) {
				t.Errorf("%s: the ring was built anew: %v", step.what, v.Ring != before.Ring)
			}
			select {
			case <-before.Changed():
				if step.same {
					t.Errorf("%s: Changed without a new version", step.what)
				}
			default:
				if !step.same {
					t.Errorf("%s: a new version without Changed", step.what)
				}
			}
		}
	})
}

// TestAnotherNodeWithThisName: the higher incarnation is the member, and this
// node says so.
func TestAnotherNodeWithThisName(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start([]string{"node-1"}, func(config *Config) { config.Self.Name = "twin" })
		c.start([]string{"node-2"}, func(config *Config) { config.Self.Name = "twin" })
		c.start([]string{"node-3"})
		later := c.nodes["node-2"].config.Self
		time.Sleep(10 * time.Second)
		for name, m := range c.nodes {
			if v := m.View(); show(v) != "node-3 twin" || !v.Alive(later) {
				t.Errorf("%s sees %q, the later twin alive: %v", name, show(v), v.Alive(later))
			}
		}
		if n := c.log.count("ERROR", "another live node has this node's name"); n != 1 {
			t.Errorf("%d complaints\n%s", n, c.log)
		}
	})
}

// TestSince is when the state began, not when it was last told.
func TestSince(t *testing.T) {
	lone(t, nil, func(t *testing.T, m *Membership, d delegate) {
		began := time.Now()
		d.NotifyJoin(told("node-1", 1, staying))
		time.Sleep(time.Minute)
		d.NotifyUpdate(told("node-1", 1, staying))
		time.Sleep(time.Second)
		if n, _ := m.View().Member("node-1"); !n.Since.Equal(began) {
			t.Errorf("active since %v, want %v", n.Since, began)
		}
		drained := time.Now()
		d.NotifyUpdate(told("node-1", 1, draining))
		time.Sleep(time.Second)
		d.NotifyUpdate(told("node-1", 1, leaving))
		time.Sleep(time.Second)
		if n, _ := m.View().Member("node-1"); !n.Since.Equal(drained) {
			t.Errorf("draining since %v, want %v", n.Since, drained)
		}
	})
}

// TestGoneIsBounded: a crash loop of others fills no memory.
//
// Mutant: the newest is dropped instead of the oldest.
func TestGoneIsBounded(t *testing.T) {
	tab := newTable()
	began := time.Now()
	for i := range 3 * goneMax {
		m := ring.Member{Name: fmt.Sprint("node-", i), Incarnation: 1}
		tab.alive(Node{Member: m}, staying)
		tab.went(m, began.Add(time.Duration(i)))
	}
	dead := tab.dead(true)
	if len(dead) != goneMax || dead[0].Name != fmt.Sprint("node-", 3*goneMax-1) || dead[goneMax-1].Name != fmt.Sprint("node-", 2*goneMax) {
		t.Errorf("%d remembered, from %s to %s", len(dead), dead[0].Name, dead[len(dead)-1].Name)
	}
	l := make(lost)
	for i := range 3 * lostMax {
		l.add(&memberlist.Node{Addr: net.IPv4(10, 0, byte(i>>8), byte(i)), Port: 1}, began.Add(time.Duration(i)*time.Second))
	}
	if got := l.since(began); len(got) != lostMax {
		t.Errorf("%d addresses kept, want %d", len(got), lostMax)
	}
	if got := l.since(began.Add(time.Hour)); len(got)+len(l) != 0 {
		t.Errorf("%d addresses kept for too long", len(got))
	}
}

// TestCallbacksReturnAtOnce even when nobody publishes, and retain nothing of
// what they were given.
//
// Mutant: the callbacks wait for the publisher.
func TestCallbacksCopy(t *testing.T) {
	lone(t, nil, func(t *testing.T, m *Membership, d delegate) {
		n := told("node-1", 1, staying)
		d.NotifyJoin(n)
		clear(n.Meta)
		clear(n.Addr)
		n.Name = "gone"
		time.Sleep(time.Second)
		if got := show(m.View()); got != "node-0 node-1" {
			t.Errorf("the view is %q", got)
		}
		if n, _ := m.View().Member("node-1"); n.GossipAddress != "10.0.9.9:7943" {
			t.Errorf("its address is %q", n.GossipAddress)
		}
	})
}

// TestNewerVersionsAreUnderstood: a field added later is skipped, a format that
// must not be misread is refused, and so is what is no member at all.
func TestNewerVersionsAreUnderstood(t *testing.T) {
	lone(t, nil, func(t *testing.T, _ *Membership, d delegate) {
		for _, test := range []struct {
			what   string
			change func(*memberlist.Node)
			want   bool
		}{
			{"a member", func(*memberlist.Node) {}, true},
			{"a field added later", func(n *memberlist.Node) { n.Meta = append(n.Meta, 200, 3, 1, 2, 3) }, true},
			{"a later format", func(n *memberlist.Node) { n.Meta[0] = 2 }, false},
			{"no announcement", func(n *memberlist.Node) { n.Meta = nil }, false},
			{"a name without incarnation", func(n *memberlist.Node) { n.Name = "node-1" }, false},
			{"another layout", func(n *memberlist.Node) { n.Meta = announcement{layout: markOf(ring.DefaultLayout("test"))}.encode() }, false},
			{"itself", func(n *memberlist.Node) { n.Name = d.gossipName; n.Meta = nil }, true},
		} {
			n := told("node-1", 1, staying)
			test.change(n)
			if err := d.NotifyAlive(n); (err == nil) != test.want {
				t.Errorf("%s: NotifyAlive: %v", test.what, err)
			}
			if err := d.NotifyMerge([]*memberlist.Node{n}); (err == nil) != test.want {
				t.Errorf("%s: NotifyMerge: %v", test.what, err)
			}
			n.State = memberlist.StateDead
			if err := d.NotifyMerge([]*memberlist.Node{n}); err != nil {
				t.Errorf("%s, but dead: NotifyMerge: %v", test.what, err)
			}
		}
	})
}

// TestFiguresOfGossip are there for metrics.
func TestFiguresOfGossip(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(3))
		c.agree(time.Second, "node-1 node-2 node-3")
		time.Sleep(time.Minute)
		for name, m := range c.nodes {
			traffic := m.Traffic()
			if traffic.PacketsSent < 60 || traffic.PacketBytes < 60*20 || traffic.StreamsOpened == 0 || traffic.StreamSent == 0 || traffic.StreamReceived == 0 {
				t.Errorf("%s: %+v", name, traffic)
			}
			if sent := c.net.Traffic(address(name)); sent.Packets != traffic.PacketsSent || sent.PacketBytes != traffic.PacketBytes {
				t.Errorf("%s: %+v, the network saw %+v", name, traffic, sent)
			}
			if m.Health() != 0 {
				t.Errorf("%s: health %d", name, m.Health())
			}
			if got := m.Suspicion(); got != 1500*time.Millisecond {
				t.Errorf("%s: suspicion of three is %v, want 1.5s", name, got)
			}
			if got, want := m.GossipAddress(), address(name)+":7943"; got != want {
				t.Errorf("%s: at %s, want %s", name, got, want)
			}
		}
	})
}

// TestSuspicionGrows with the logarithm of the cluster.
func TestSuspicionGrows(t *testing.T) {
	for _, test := range []struct {
		profile Profile
		n       int
		want    time.Duration
	}{
		{LAN, 1, 1500 * time.Millisecond}, {LAN, 10, 1500 * time.Millisecond}, {LAN, 100, 3 * time.Second},
		{Local, 3, 3 * time.Second}, {WAN, 3, 30 * time.Second}, {"moon", 3, 0},
	} {
		if got := test.profile.Suspicion(test.n); got != test.want {
			t.Errorf("%s, %d members: %v, want %v", test.profile, test.n, got, test.want)
		}
	}
}

// TestRelayDropsRatherThanWaits, and says how much it dropped.
func TestRelayDropsRatherThanWaits(t *testing.T) {
	j := &journal{t: t}
	r := newRelay(slog.New(j), time.Second)
	for range relayQueue + 7 {
		r.say(slog.LevelInfo, "x")
	}
	close(r.stop)
	r.run()
	if n := j.count("INFO x"); n != relayQueue {
		t.Errorf("%d lines written, want %d", n, relayQueue)
	}
	if j.count(`dropped="7"`) != 1 {
		t.Errorf("nothing tells of the 7 that were dropped: %s", j)
	}
}

// TestLinesOfGossip: what becomes of memberlist's lines.
func TestLinesOfGossip(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{"[DEBUG] memberlist: Stream connection from=1.2.3.4:5", "DEBUG memberlist: Stream connection from=1.2.3.4:5"},
		{"[ERR] memberlist: Push/Pull with a-1 failed: EOF", "DEBUG memberlist: Push/Pull with a-1 failed: EOF"},
		{"[WARN] memberlist: handler queue full, dropping message (3) from=1.2.3.4:5", "WARN memberlist: handler queue full, dropping message (3) from=1.2.3.4:5"},
		{"[ERR] Failed to shutdown transport: x", "WARN memberlist: Failed to shutdown transport: x"},
		{"Err: Could not set the deadline: x", "DEBUG memberlist: Err: Could not set the deadline: x"},
		{"[INFO] memberlist: Suspect a-1 has failed, no acks received", "DEBUG memberlist: Suspect a-1 has failed, no acks received"},
		{"[WARN] memberlist: Refuting a suspect message (from: a-1)", `WARN another member got no answer from this node in time, suspected it dead and was told otherwise: harmless once; often, this node has too little CPU, the network loses packets, or the address it advertises cannot be reached member="a-1"`},
		{"[WARN] memberlist: Was able to connect to a-1 over TCP but UDP probes failed, network may be misconfigured", `WARN a member answers over TCP but not over UDP: allow both, in both directions, on the gossip port of every member; until then news takes longer to spread member="a-1" up to="15s"`},
		{"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=1.2.3.4:5", `WARN gossip came that none of this node's keys decrypts: a stranger, or a member with another key from="1.2.3.4:5"`},
		{`[ERR] memberlist: discarding packet with unacceptable label "lanekeeper/b": from=1.2.3.4:5`, `WARN gossip of another cluster came to this node's port: check the seeds and the cluster name of its sender label="lanekeeper/b" from="1.2.3.4:5"`},
	} {
		j := &journal{t: t}
		r := newRelay(slog.New(j), 15*time.Second)
		r.Write([]byte(test.line + "\n"))
		r.Write([]byte(test.line + "\n"))
		close(r.stop)
		r.run()
		if n := j.count(test.want); n == 0 {
			t.Errorf("%s\nbecame %s\nwant   %s", test.line, j.lines, test.want)
		}
	}
	j := &journal{t: t}
	r := newRelay(slog.New(j), 15*time.Second)
	for i := range 3 * spokeMax {
		r.sayOnce(fmt.Sprint(i), slog.LevelInfo, "x")
	}
	if len(r.spoke) > spokeMax {
		t.Errorf("%d sentences are remembered, the bound is %d", len(r.spoke), spokeMax)
	}
}

var _ memberlist.Transport = (*membertest.Transport)(nil)
