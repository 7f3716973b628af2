package membership

import (
	"testing"
	"time"

	"lanekeeper/membership/membertest"
)

// TestNewcomersLookAtEverySeedFirst starts two nodes at once, which find each
// other before the third, who has been there for long, has answered. Their first
// view must have it all the same: else they would do its work a second time.
//
// Mutant: publishLoop does not wait for looked.
func TestNewcomersLookAtEverySeedFirst(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start([]string{"node-1"})
		c.agree(time.Minute, "node-1")
		newcomers := []string{"node-2", "node-3"}
		for _, name := range newcomers {
			slow := membertest.Link{Delay: 400 * time.Millisecond}
			c.net.SetLinkFrom(address(name), address("node-1"), slow)
			c.net.SetLinkFrom(address("node-1"), address(name), slow)
		}
		started := time.Now()
		c.start(newcomers)
		for _, name := range newcomers {
			m := c.nodes[name]
			first := m.View()
			if first.Version == 0 { // the other's may have come while the test waited for one
				<-first.Changed()
			}
			if got := show(m.View()); got != "node-1 node-2 node-3" {
				t.Errorf("the first view of %s is %q", name, got)
			}
		}
		if took := time.Since(started); took > lookMax+time.Second {
			t.Errorf("the first views took %s", took)
		}
	})
}

// TestNewcomersDoNotWaitLongForASilentSeed starts two nodes one of whose seeds is
// a machine that is down.
func TestNewcomersDoNotWaitLongForASilentSeed(t *testing.T) {
	bubble(t, func(t *testing.T, c *cluster) {
		c.start(names(2)) // node-3 is a seed too
		if took := c.agree(lookMax+time.Second, "node-1 node-2"); took < 500*time.Millisecond {
			t.Errorf("they took %s: they did not wait", took)
		}
	})
}
