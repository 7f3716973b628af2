package membertest

import (
	"net/netip"
	"syscall"
)

// Cut lets nothing more pass from one host to another. What is on the way
// arrives. Streams between the two fall silent, in both directions as far as
// acknowledgements go, and break after StreamTimeout.
func (n *Network) Cut(from, to string) {
	w := wayOf(from, to)
	n.mu.Lock()
	n.cuts[w] = true
	n.mu.Unlock()
	n.recheck(w)
}

// Split cuts, both ways, between hosts of different groups.
func (n *Network) Split(groups ...[]string) {
	for i, group := range groups {
		for _, other := range groups[i+1:] {
			for _, a := range group {
				for _, b := range other {
					n.Cut(a, b)
					n.Cut(b, a)
				}
			}
		}
	}
}

// Mend takes one Cut back. Streams that survived it go on.
func (n *Network) Mend(from, to string) {
	w := wayOf(from, to)
	n.mu.Lock()
	delete(n.cuts, w)
	n.mu.Unlock()
	n.recheck(w)
}

// Heal takes every Cut back.
func (n *Network) Heal() {
	n.mu.Lock()
	clear(n.cuts)
	n.mu.Unlock()
	n.recheck(way{})
}

// Reset breaks every stream between two hosts, at once and at both ends, as a
// firewall that has forgotten them does.
func (n *Network) Reset(a, b string) {
	for _, s := range n.streamsOver(wayOf(a, b)) {
		s.breakBoth(syscall.ECONNRESET)
	}
}

// Kill ends the process of a host.
func (n *Network) Kill(host string) { n.stop(host, true) }

// Unplug takes a host off the network.
func (n *Network) Unplug(host string) { n.stop(host, false) }

func (n *Network) stop(host string, plugged bool) {
	a := addressOf(host)
	n.mu.Lock()
	m := n.hostLocked(a)
	m.running, m.plugged = false, m.plugged && plugged
	var listeners []*listener
	for _, l := range m.listeners {
		listeners = append(listeners, l)
	}
	clear(m.sockets)
	n.mu.Unlock()

	for _, l := range listeners {
		l.Close()
	}
	for _, s := range n.streamsOver(way{from: a}) {
		s.abandon(a, plugged)
	}
	n.recheck(way{from: a})
}

// Boot lets a host run a process again.
func (n *Network) Boot(host string) {
	a := addressOf(host)
	n.mu.Lock()
	m := n.hostLocked(a)
	m.running, m.plugged = true, true
	n.mu.Unlock()
	n.recheck(way{from: a})
}

// streamsOver are the streams between two hosts, or of one if w.to is none, or all.
func (n *Network) streamsOver(w way) []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []*stream
	for s := range n.streams {
		a, b := s.ends[0].host(), s.ends[1].host()
		if w == (way{}) || w == (way{a, b}) || w == (way{b, a}) ||
			w.to == (netip.Addr{}) && (w.from == a || w.from == b) {
			found = append(found, s)
		}
	}
	return found
}

// recheck tells streams that their way may have been cut or mended.
func (n *Network) recheck(w way) {
	for _, s := range n.streamsOver(w) {
		s.recheck()
	}
}
