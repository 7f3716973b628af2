package membership

import (
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/memberlist"
)

// Profile is a set of gossip timings.
type Profile string

// The profiles. LAN notices a crash in about 3 s; memberlist's own default for
// local networks needs 6 s. The price is paid by a node that cannot run for
// seconds: see BenchmarkFalseAlarms for what that costs.
const (
	LAN   Profile = "lan"
	WAN   Profile = "wan"
	Local Profile = "local"
)

// dialTimeout bounds the connect of a stream apart from what is then read: a
// seed behind a firewall that drops everything should not cost ten seconds.
var dialTimeout = map[Profile]time.Duration{LAN: 2 * time.Second, WAN: 10 * time.Second, Local: time.Second}

// profiles are memberlist's configurations.
var profiles = map[Profile]func() *memberlist.Config{
	LAN: func() *memberlist.Config {
		c := memberlist.DefaultLANConfig()
		c.ProbeInterval = 500 * time.Millisecond
		c.ProbeTimeout = 200 * time.Millisecond
		c.GossipInterval = 100 * time.Millisecond
		c.SuspicionMult = 3
		c.SuspicionMaxTimeoutMult = 3
		c.PushPullInterval = 15 * time.Second
		return c
	},
	WAN:   memberlist.DefaultWANConfig,
	Local: memberlist.DefaultLocalConfig,
}

// settings returns memberlist's configuration for p.
func (p Profile) settings() (*memberlist.Config, error) {
	settings, known := profiles[p]
	if !known {
		return nil, fmt.Errorf("there is no gossip profile %q: want lan, wan or local", string(p))
	}
	return settings(), nil
}

// suspicion is how long a node among n may be silent, once somebody suspects it
// and others confirm, before it is declared dead. It is memberlist's own formula.
func suspicion(c *memberlist.Config, n int) time.Duration {
	scale := max(1, math.Log10(max(1, float64(n))))
	return time.Duration(float64(c.SuspicionMult) * scale * float64(c.ProbeInterval))
}
