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
// local networks needs 6 s. A node that is cut off from all others needs more than
// twice as long to notice, for nobody confirms its suspicions. The price is paid by
// a node that cannot run for seconds. Of five nodes on two cores, LAN never took one
// for dead that stood still for 2 s, and each that did for 3 s; none while they shared
// their CPUs with twice as many busy processes, or ran eight busy goroutines for each
// CPU; but with both, and at the lowest priority, it did so 30 times per minute.
// memberlist's default did in no case, not at 5 s either: see BenchmarkFalseAlarms.
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

// retransmit is memberlist's RetransmitMult. Below ten members, its default of
// 4 means 4 packets in all from each who passes a change on: in a cluster of
// nine, 7 changes in 100 then missed somebody, who learned of them seconds
// later, with the next exchange of everything.
const retransmit = 8

// settings returns memberlist's configuration for p.
func (p Profile) settings() (*memberlist.Config, error) {
	profile, known := profiles[p]
	if !known {
		return nil, fmt.Errorf("there is no gossip profile %q: want lan, wan or local", string(p))
	}
	c := profile()
	c.RetransmitMult = retransmit
	return c, nil
}

// Suspicion is the least time between a node's last answer and the others
// declaring it dead, in a cluster of so many members; 0 for a profile that
// there is not. A node that stood still for longer may have been replaced
// without knowing.
func (p Profile) Suspicion(members int) time.Duration {
	c, err := p.settings()
	if err != nil {
		return 0
	}
	// memberlist's own formula, for when the other members confirm it at once.
	scale := max(1, math.Log10(max(1, float64(members))))
	return time.Duration(float64(c.SuspicionMult) * scale * float64(c.ProbeInterval))
}
