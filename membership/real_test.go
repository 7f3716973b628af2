package membership

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lanekeeper/ring"
)

// real is a node on real sockets. Each has a loopback address of its own.
func real(t *testing.T, j *journal, ip string, incarnation uint64, change func(*Config)) (*Membership, error) {
	t.Helper()
	config := Default()
	config.Self = ring.Member{Name: "node-" + ip, Incarnation: incarnation}
	config.Layout = testLayout()
	config.Listen = ip + ":0"
	config.Settle = 10 * time.Millisecond
	config.Log = slog.New(j)
	change(&config)
	m, err := Start(config)
	if err == nil {
		t.Cleanup(func() { m.Stop(context.Background()) })
	}
	return m, err
}

// sees waits until m has the given view.
func sees(t *testing.T, m *Membership, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		v := m.View()
		if show(v) == want {
			return
		}
		select {
		case <-v.Changed():
		case <-ctx.Done():
			t.Fatalf("%s sees %q, want %q", m.config.Self, show(v), want)
		}
	}
}

// TestRealSockets: two nodes find each other, encrypted; one with another key
// does not get in, and says why; one leaves.
func TestRealSockets(t *testing.T) {
	second := "127.0.0.2"
	if l, err := net.Listen("tcp", second+":0"); err != nil {
		second = "127.0.0.1" // not everywhere is all of 127/8 this machine
	} else {
		l.Close()
	}
	j := &journal{t: t}
	a, err := real(t, j, "127.0.0.1", 1, func(c *Config) { c.Keys = [][]byte{key(1)} })
	if err != nil {
		t.Fatal(err)
	}
	seeds := []string{a.GossipAddress()}
	b, err := real(t, j, second, 2, func(c *Config) {
		c.Self.Name, c.Keys, c.Seeds = "node-b", [][]byte{key(1), key(2)}, seeds
	})
	if err != nil {
		t.Fatal(err)
	}
	sees(t, a, "node-127.0.0.1 node-b")
	sees(t, b, "node-127.0.0.1 node-b")

	stranger, err := real(t, j, "127.0.0.1", 3, func(c *Config) {
		c.Self.Name, c.Keys, c.Seeds, c.JoinTimeout = "node-c", [][]byte{key(2)}, seeds, time.Millisecond
	})
	if err != nil {
		t.Fatal(err)
	}
	look := time.NewTicker(10 * time.Millisecond) // Problem tells nobody when it changes
	defer look.Stop()
	for began := time.Now(); !strings.Contains(stranger.Problem(), "another gossip key"); <-look.C {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("the stranger's problem is %q", stranger.Problem())
		}
	}
	if v := stranger.View(); v.Version != 0 {
		t.Errorf("the stranger sees %q", show(v))
	}
	stranger.Stop(t.Context())

	if err := b.Leave(t.Context()); err != nil {
		t.Errorf("Leave: %v", err)
	}
	sees(t, a, "node-127.0.0.1 left:node-b")
	started := time.Now()
	for _, m := range []*Membership{a, b} {
		if err := m.Stop(t.Context()); err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("two stops took %v", took)
	}
}

// TestPortInUse is told, and nothing is left open.
func TestPortInUse(t *testing.T) {
	for range 10 { // others on this machine draw ports too
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := free.Addr().String()
		taken, err := net.ListenPacket("udp", address)
		free.Close()
		if err != nil {
			continue
		}
		defer taken.Close()
		_, err = real(t, &journal{t: t}, "127.0.0.1", 1, func(c *Config) { c.Listen = address })
		if err == nil || !strings.Contains(err.Error(), "gossip cannot listen on "+address) {
			t.Fatalf("Start on a taken port: %v", err)
		}
		if again, err := net.Listen("tcp", address); err == nil {
			again.Close()
			return
		}
	}
	t.Error("TCP was left open")
}

// TestOwnAddresses: listening on all addresses, each of this machine is its own.
//
// Mutant: only the advertised address is skipped, and the node joins itself.
func TestOwnAddresses(t *testing.T) {
	m, err := real(t, &journal{t: t}, "0.0.0.0", 1, func(c *Config) { c.Advertise = "203.0.113.1" })
	if err != nil {
		t.Fatal(err)
	}
	port := m.bound.Port()
	own := m.own()
	for address, want := range map[netip.AddrPort]bool{
		netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port):   true,
		netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port+1): false,
		netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), port): true,
		netip.AddrPortFrom(netip.MustParseAddr("203.0.113.2"), port): false,
	} {
		if own(address) != want {
			t.Errorf("%s is this node's own: %v", address, own(address))
		}
	}
}

// TestListenOnAllFamilies: no address means all of them.
func TestListenOnAllFamilies(t *testing.T) {
	m, err := real(t, &journal{t: t}, "", 1, func(c *Config) { c.Self.Name, c.Listen, c.Advertise = "n", ":0", "127.0.0.1" })
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(m.GossipAddress(), "127.0.0.1:") || strings.HasSuffix(m.GossipAddress(), ":0") {
		t.Errorf("advertised %s", m.GossipAddress())
	}
	other, err := real(t, &journal{t: t}, "127.0.0.1", 2, func(c *Config) { c.Seeds = []string{m.GossipAddress()} })
	if err != nil {
		t.Fatal(err)
	}
	sees(t, other, "n node-127.0.0.1")
}
