package membership

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"lanekeeper/ring"
)

// State is what a node says of itself, or what became of it.
type State uint8

// States of a node. A live one is Active or Draining.
const (
	Active   State = iota // takes partitions
	Draining              // alive and holding what it still holds, but in no ring
	Left                  // said good-bye
	Dead                  // stopped answering, or said nothing before it went
)

// String returns the state's name as users see it.
func (s State) String() string {
	switch s {
	case Active:
		return "active"
	case Draining:
		return "draining"
	case Left:
		return "left"
	case Dead:
		return "dead"
	}
	return "state " + strconv.Itoa(int(s))
}

// Node is one incarnation of a member, as it announced itself.
type Node struct {
	ring.Member
	GossipAddress string // ip:port
	PeerAddress   string // host:port of the hop
	Zone          string
	ConfigHash    string
	Version       string
	State         State
	Since         time.Time // of State, on this node's clock
}

// gossipName is the name memberlist knows m by. It holds the incarnation: a
// name that died may not come back under another address for half a minute,
// and a restarted node often has another one.
func gossipName(m ring.Member) string {
	return fmt.Sprintf("%s-%016x", m.Name, m.Incarnation)
}

// parseGossipName undoes gossipName.
func parseGossipName(s string) (ring.Member, error) {
	const digits = 16
	cut := len(s) - digits - 1
	if cut < 1 || s[cut] != '-' {
		return ring.Member{}, fmt.Errorf("%q is not a name and an incarnation", s)
	}
	incarnation, err := strconv.ParseUint(s[cut+1:], 16, 64)
	m := ring.Member{Name: s[:cut], Incarnation: incarnation}
	// Compared with the canonical spelling, so that no two gossip names are one member.
	if err != nil || gossipName(m) != s || validName(m.Name) != nil {
		return ring.Member{}, fmt.Errorf("%q is not a name and an incarnation", s)
	}
	return m, nil
}

// validName accepts what can be printed in a log line and told from its neighbours.
func validName(name string) error {
	if name == "" || len(name) > nameMax {
		return fmt.Errorf("a node's name has 1 to %d characters, not %d", nameMax, len(name))
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' }); i >= 0 {
		return fmt.Errorf("the node's name %q holds %q: use printable ASCII without spaces and slashes", name, name[i])
	}
	return nil
}

const nameMax = 253 // a DNS name's length, so any host name will do
