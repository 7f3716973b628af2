package membership

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"lanekeeper/ring"
)

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		change func(*Config)
		want   string // empty: nothing is
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.Self.Name = "" }, "a node's name has 1 to 253 characters, not 0"},
		{func(c *Config) { c.Self.Name = strings.Repeat("n", 254) }, "not 254"},
		{func(c *Config) { c.Self.Name = strings.Repeat("n", 253) }, ""},
		{func(c *Config) { c.Self.Name = "a b" }, `holds ' '`},
		{func(c *Config) { c.Self.Name = "a/b" }, `holds '/'`},
		{func(c *Config) { c.Self.Incarnation = 0 }, "no incarnation"},
		{func(c *Config) { c.Layout.Cluster = "" }, "a cluster's name has 1 to 244 bytes, not 0"},
		{func(c *Config) { c.Layout.Cluster = strings.Repeat("c", 245) }, "not 245"},
		{func(c *Config) { c.Layout.Partitions = 0 }, "partitions"},
		{func(c *Config) { c.Listen = "7943" }, "want ip:port or :port"},
		{func(c *Config) { c.Listen = "localhost:7943" }, `"localhost" is not an IP address`},
		{func(c *Config) { c.Listen = ":port" }, `"port" is not a port`},
		{func(c *Config) { c.Listen = "[fe80::1%eth0]:7943" }, "is not an IP address"},
		{func(c *Config) { c.Advertise = "0.0.0.0" }, "nobody can connect to it"},
		{func(c *Config) { c.Advertise = "[::]:7943" }, "nobody can connect to it"},
		{func(c *Config) { c.Advertise = "224.0.0.1" }, "nobody can connect to it"},
		{func(c *Config) { c.Advertise = "node-1:7943" }, "want an IP address"},
		{func(c *Config) { c.Advertise = "203.0.113.5" }, ""},
		{func(c *Config) { c.Keys = [][]byte{key(1), make([]byte, 16)} }, "gossip key 2 has 16 bytes, want 32"},
		{func(c *Config) { c.PeerAddress = strings.Repeat("p", 256) }, "the peer address has 256 bytes, more than 255"},
		{func(c *Config) { c.Zone = strings.Repeat("z", 64) }, "the zone has 64 bytes"},
		{func(c *Config) { c.Zone = "a\x1b[2J" }, "the zone \"a\\x1b[2J\" holds what cannot be printed"},
		{func(c *Config) { c.ConfigHash = strings.Repeat("h", 65) }, "the config hash has 65 bytes"},
		{func(c *Config) { c.Version = "\xff" }, "cannot be printed"},
		{func(c *Config) { c.Seeds = []string{"host"} }, `seed "host": want host:port`},
		{func(c *Config) { c.Seeds = []string{"dns+host:0"} }, `"0" is not a port`},
		{func(c *Config) { c.Seeds = []string{"dnssrv+host:7943"} }, "which holds the port"},
		{func(c *Config) { c.Seeds = []string{"dns+:7943"} }, "want host:port"},
		{func(c *Config) { c.Seeds = []string{"a:1", "dns+b:2", "dnssrv+_g._tcp.c", "[::1]:7943"} }, ""},
		{func(c *Config) { c.JoinTimeout = -1 }, "cannot be negative"},
		{func(c *Config) { c.Rejoin = 0 }, "a split that heals would stay a split"},
		{func(c *Config) { c.Profile = "moon" }, `no gossip profile "moon"`},
	} {
		config := Default()
		config.Self = ring.Member{Name: "node-1", Incarnation: 1}
		config.Layout = testLayout()
		test.change(&config)
		err := config.Validate()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
	all := Config{Listen: "x", Advertise: "y", Profile: "z"}
	if err := all.Validate(); strings.Count(err.Error(), "\n") < 5 {
		t.Errorf("not everything is told at once: %v", err)
	}
}

// TestAdvertised: what is announced where the configuration leaves it open.
//
// Mutants: a public address is guessed; the port listened on is not kept.
func TestAdvertised(t *testing.T) {
	none := func(bool) (netip.Addr, error) {
		return netip.Addr{}, errors.New("this machine has no private address, only 203.0.113.5")
	}
	found := func(bool) (netip.Addr, error) { return netip.MustParseAddr("192.168.1.2"), nil }
	for _, test := range []struct {
		advertise, bound string
		private          func(bool) (netip.Addr, error)
		want, err        string
	}{
		{"", "0.0.0.0:7943", found, "192.168.1.2:7943", ""},
		{"", "[::]:7943", found, "192.168.1.2:7943", ""},
		{"", "0.0.0.0:7943", none, "", "only 203.0.113.5; set gossip's advertise address to the one at which other members reach this node"},
		{"", "203.0.113.5:7943", none, "203.0.113.5:7943", ""},
		{"203.0.113.5", "0.0.0.0:7943", none, "203.0.113.5:7943", ""},
		{"203.0.113.5:1", "0.0.0.0:7943", none, "203.0.113.5:1", ""},
		{"2001:db8::1", "[::]:7943", none, "[2001:db8::1]:7943", ""},
		{"[2001:db8::1]:1", "[::]:7943", none, "[2001:db8::1]:1", ""},
		{"::ffff:203.0.113.5", "0.0.0.0:7943", none, "203.0.113.5:7943", ""},
		{"0.0.0.0", "0.0.0.0:7943", found, "", "nobody can connect to it"},
	} {
		got, err := advertised(test.advertise, netip.MustParseAddrPort(test.bound), test.private)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("advertise %q on %s: %v, want %q", test.advertise, test.bound, err, test.err)
			}
			continue
		}
		if err != nil || got.String() != test.want {
			t.Errorf("advertise %q on %s: %v, %v; want %s", test.advertise, test.bound, got, err, test.want)
		}
	}
}

func TestGossipNamesAreUnambiguous(t *testing.T) {
	for _, m := range []ring.Member{{Name: "a", Incarnation: 1}, {Name: "a-0000000000000001", Incarnation: 2}, {Name: "-", Incarnation: 1<<64 - 1}, {Name: "node-1.x_y:z", Incarnation: 0x1a2b}} {
		if got, err := parseGossipName(gossipName(m)); err != nil || got != m {
			t.Errorf("%v became %v, %v", m, got, err)
		}
	}
	for _, s := range []string{"", "a", "-0000000000000001", "a-1", "a-000000000000000g", "a-000000000000000A", "a-+000000000000001", "a b-0000000000000001", "a_0000000000000001"} {
		if m, err := parseGossipName(s); err == nil {
			t.Errorf("%q was taken for %v", s, m)
		}
	}
}
