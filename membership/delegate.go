package membership

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist calls. Most of it runs under memberlist's node
// lock, so it copies, kicks and returns, and calls nothing of memberlist's.
type delegate struct{ *Membership }

// refusedMark begins every refusal. It is how a join that was refused is told
// from one that failed, for memberlist keeps only the text of an error.
const refusedMark = "refused: "

// NodeMeta returns what this node announces.
func (d delegate) NodeMeta(int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.says.encode()
}

// NotifyJoin enters a node that is alive.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.enter(n) }

// NotifyUpdate enters what a live node now says of itself.
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.enter(n) }

func (d delegate) enter(n *memberlist.Node) {
	member, err := parseGossipName(n.Name)
	if err != nil {
		return // NotifyAlive refused it
	}
	says, err := decodeAnnouncement(n.Meta)
	if err != nil {
		return
	}
	node := Node{
		Member:        member,
		GossipAddress: gossipAddress(n),
		PeerAddress:   says.peerAddress,
		Zone:          says.zone,
		ConfigHash:    says.configHash,
		Version:       says.version,
		Since:         time.Now(),
	}
	d.mu.Lock()
	d.table.alive(node, says.intent)
	d.mu.Unlock()
	d.kick()
}

// NotifyLeave takes out a node that left or was declared dead: n does not tell
// which.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	member, err := parseGossipName(n.Name)
	if err != nil {
		return
	}
	d.mu.Lock()
	node, known := d.table.went(member, time.Now())
	died := known && node.State == Dead && member != d.config.Self
	if died {
		d.lost.add(n, node.Since)
		d.lastDeath = node.Since
	}
	d.mu.Unlock()
	if died {
		select {
		case d.death <- struct{}{}:
		default:
		}
	}
	if known {
		d.kick()
	}
}

// NotifyAlive refuses a node of another layout, or that cannot be read, for
// ever, whoever tells of it.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.gossipName {
		return nil
	}
	err := d.stranger(n)
	if err != nil {
		d.refuse(n, err)
	}
	return err
}

// NotifyMerge refuses to exchange members with a node that has a stranger among
// its own. memberlist asks on a join only; NotifyAlive sees to the rest.
func (d delegate) NotifyMerge(peers []*memberlist.Node) error {
	for _, n := range peers {
		if n.Name == d.gossipName || n.State == memberlist.StateDead || n.State == memberlist.StateLeft {
			continue
		}
		if err := d.stranger(n); err != nil {
			d.refuse(n, err)
			return fmt.Errorf("%s%s at %s: %w", refusedMark, n.Name, gossipAddress(n), err)
		}
	}
	return nil
}

// stranger says why n is no member of this cluster, or nil.
func (d delegate) stranger(n *memberlist.Node) error {
	if _, err := parseGossipName(n.Name); err != nil {
		return err
	}
	says, err := decodeAnnouncement(n.Meta)
	if err != nil {
		return err
	}
	if difference := d.layout.difference(says.layout); difference != "" {
		return errors.New(difference)
	}
	return nil
}

func (d delegate) refuse(n *memberlist.Node, why error) {
	d.relay.sayOnce(n.Name, slog.LevelError, "refused a node that does not fit this cluster: it can never join, and keeps apart",
		"event", "member-refused", "member", n.Name, "address", gossipAddress(n), "why", why.Error())
}

// NotifyConflict hears of two processes with one name and one incarnation.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.relay.sayOnce(existing.Name, slog.LevelError, "two processes run under one name and one incarnation: give each node a name of its own",
		"event", "name-taken", "member", existing.Name, "address", gossipAddress(existing), "other", gossipAddress(other))
}

// What memberlist could carry besides members is not used.

func (delegate) NotifyMsg([]byte)                {}
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}

func gossipAddress(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), fmt.Sprint(n.Port))
}

// lost remembers where members died, for a day: if the cluster was split, and
// no seed is left, that is where its other half is.
type lost map[netip.AddrPort]time.Time

const (
	lostFor = 24 * time.Hour
	lostMax = 128
)

func (l lost) add(n *memberlist.Node, at time.Time) {
	ip, ok := netip.AddrFromSlice(n.Addr)
	if !ok {
		return
	}
	address := netip.AddrPortFrom(ip.Unmap(), n.Port)
	if _, known := l[address]; !known && len(l) >= lostMax {
		oldest := address
		for a, t := range l {
			if oldest == address || t.Before(l[oldest]) {
				oldest = a
			}
		}
		delete(l, oldest)
	}
	l[address] = at
}

// since returns the addresses, without those that are too old, which it drops.
func (l lost) since(earliest time.Time) []netip.AddrPort {
	addresses := make([]netip.AddrPort, 0, len(l))
	for a, t := range l {
		if t.Before(earliest) {
			delete(l, a)
			continue
		}
		addresses = append(addresses, a)
	}
	return addresses
}
