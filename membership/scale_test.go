package membership

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/membership/membertest"
	"lanekeeper/ring"
)

var (
	scale    = flag.Int("scale", 0, "members that TestScale simulates; 0 skips it")
	scaleRun = flag.Int("scale-rounds", 5, "joins, leaves and crashes of TestScale")
)

// TestScale measures how long a cluster of -scale members needs to agree on a
// join, a drain, a good-bye and a crash, settle window included, and what gossip costs
// each member. On virtual time: what it does not measure is a CPU that is too
// slow.
//
//	go test ./membership -run TestScale -v -scale 100 -timeout 1h
func TestScale(t *testing.T) {
	if *scale == 0 {
		t.Skip("a measurement: see -scale")
	}
	synctest.Test(t, func(t *testing.T) { measure(t, *scale, *scaleRun) })
}

func measure(t *testing.T, n, rounds int) {
	c := &cluster{t: t, net: membertest.New(1), nodes: make(map[string]*Membership), log: &journal{t: t}}
	c.net.SetLink(membertest.Link{Delay: 200 * time.Microsecond, Jitter: time.Millisecond})
	c.change = func(config *Config) {
		// The ring's cost is its own package's; here it only has to be one.
		config.Layout = ring.Layout{Cluster: "test", Partitions: 1024, VirtualNodes: 1, Load: 2}
		config.Log = slog.New(slog.DiscardHandler)
		config.Keys = [][]byte{key(1)}
		config.PeerAddress, config.Version, config.ConfigHash, config.Zone = "10.123.45.67:7944", "v1.23.4", "0123456789abcdef", "eu-central-1a"
		config.Seeds = []string{at(0), at(1), at(2)}
	}
	defer func() {
		for name, m := range c.nodes {
			m.Stop(context.Background())
			delete(c.nodes, name)
		}
		time.Sleep(time.Minute)
	}()
	serial := uint64(0)
	start := func(i int) {
		serial++
		config := c.config(fmt.Sprintf("lanekeeper-%d", i))
		config.Self.Incarnation = uint64(time.Now().UnixNano()) + serial
		c.net.Boot(hostAt(i))
		transport, err := c.net.Transport(at(i))
		if err != nil {
			t.Fatal(err)
		}
		config.Transport = transport
		m, err := Start(config)
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[config.Self.Name] = m
	}
	agree := func(members, active int) time.Duration {
		began := time.Now()
		for {
			missing := 0
			for _, m := range c.nodes {
				if v := m.View(); len(v.Members) != members || len(v.Ring.Members()) != active {
					missing++
				}
			}
			if missing == 0 {
				return time.Since(began)
			}
			if time.Since(began) > 5*time.Minute {
				t.Fatalf("%d of %d do not agree on %d members, %d active", missing, len(c.nodes), members, active)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}

	for i := range n {
		start(i)
	}
	t.Logf("%d members, all started at once: one view everywhere after %v", n, agree(n, n))
	time.Sleep(time.Minute)
	c.rates(n, "at rest", time.Minute)

	took := map[string][]time.Duration{}
	for round := range rounds {
		i := 1 + round%(n-1)
		name := fmt.Sprintf("lanekeeper-%d", i)
		m := c.nodes[name]

		began := time.Now()
		m.Drain(context.Background())
		took["drain"] = append(took["drain"], time.Since(began)+agree(n, n-1))

		began = time.Now()
		m.Leave(context.Background())
		delete(c.nodes, name)
		took["leave"] = append(took["leave"], time.Since(began)+agree(n-1, n-1))
		m.Stop(context.Background())
		time.Sleep(20 * time.Second)

		start(i)
		took["join"] = append(took["join"], agree(n, n))
		time.Sleep(time.Duration(round*137) * time.Millisecond)

		m = c.nodes[name]
		c.net.Kill(hostAt(i))
		m.Stop(context.Background())
		delete(c.nodes, name)
		took["crash"] = append(took["crash"], agree(n-1, n-1))
		time.Sleep(time.Minute)
		start(i)
		agree(n, n)
		time.Sleep(20 * time.Second)
	}
	for _, what := range []string{"join", "drain", "leave", "crash"} {
		d := took[what]
		slices.Sort(d)
		t.Logf("%s: known everywhere after %v to %v, median %v (%d times)", what, d[0], d[len(d)-1], d[len(d)/2], len(d))
	}
}

// sent is what all members have sent since they started.
func (c *cluster) sent() (s Traffic) {
	for _, m := range c.nodes {
		t := m.Traffic()
		s.PacketsSent += t.PacketsSent
		s.PacketBytes += t.PacketBytes
		s.StreamsOpened += t.StreamsOpened
		s.StreamSent += t.StreamSent
	}
	return s
}

// rates logs what one member sends on average.
func (c *cluster) rates(n int, when string, over time.Duration) {
	before := c.sent()
	time.Sleep(over)
	after := c.sent()
	per := float64(n) * over.Seconds()
	c.t.Logf("%s, each member sends %.0f B/s in %.1f packets/s, and %.0f B/s on %.3f streams/s", when,
		float64(after.PacketBytes-before.PacketBytes)/per, float64(after.PacketsSent-before.PacketsSent)/per,
		float64(after.StreamSent-before.StreamSent)/per, float64(after.StreamsOpened-before.StreamsOpened)/per)
}

func hostAt(i int) string { return fmt.Sprintf("10.1.%d.%d", i/250, 1+i%250) }
func at(i int) string     { return hostAt(i) + ":7943" }
