package membertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Network connects hosts. Its methods are safe for concurrent use; its fields
// are set before the first of them.
type Network struct {
	// StreamBuffer is how many bytes of a stream may be on the way or unread,
	// in each direction, before Write blocks.
	StreamBuffer int
	// StreamTimeout is how long a stream survives a cut. Linux gives up after
	// a quarter of an hour, Go's keep-alive after 150 s.
	StreamTimeout time.Duration

	mu      sync.Mutex // guards the rest
	rng     *rand.Rand
	hosts   map[netip.Addr]*machine
	link    Link
	links   map[way]Link
	cuts    map[way]bool
	streams map[*stream]struct{}
}

// Link is how a network treats what passes over it, one way. The zero Link is
// perfect.
type Link struct {
	Delay     time.Duration
	Jitter    time.Duration // up to this much is added, for each packet anew, so that they overtake each other
	Loss      float64       // of packets; a stream's segment is sent again after a pause
	Duplicate float64       // of packets
	// A firewall that knows only half of gossip.
	NoPackets bool
	NoStreams bool
}

// way is a direction between two hosts.
type way struct{ from, to netip.Addr }

func (w way) back() way { return way{w.to, w.from} }

// machine is a host.
type machine struct {
	running   bool // its process may use the network
	plugged   bool
	listeners map[uint16]*listener
	sockets   map[uint16]*Transport
	port      uint16 // the last one drawn
	traffic   Traffic
}

// Traffic is what a host has sent, in payload.
type Traffic struct {
	Packets, PacketBytes int64
	Streams, StreamBytes int64 // opened by it; sent by either side
}

// New returns a perfect network without hosts.
func New(seed uint64) *Network {
	return &Network{
		StreamBuffer:  64 << 10,
		StreamTimeout: 150 * time.Second,
		rng:           rand.New(rand.NewPCG(seed, 0x6c616e65)),
		hosts:         make(map[netip.Addr]*machine),
		links:         make(map[way]Link),
		cuts:          make(map[way]bool),
		streams:       make(map[*stream]struct{}),
	}
}

// SetLink sets how every pair of hosts is connected.
func (n *Network) SetLink(l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link = l
	clear(n.links)
}

// SetLinkFrom sets how one host is connected to another, one way.
func (n *Network) SetLinkFrom(from, to string, l Link) {
	w := wayOf(from, to)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[w] = l
}

// Traffic returns what a host has sent.
func (n *Network) Traffic(host string) Traffic {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.hosts[addressOf(host)]; m != nil {
		return m.traffic
	}
	return Traffic{}
}

// Streams returns how many streams there are that at least one end still holds.
func (n *Network) Streams() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.streams)
}

// hostLocked returns a host, which exists from then on.
func (n *Network) hostLocked(a netip.Addr) *machine {
	m := n.hosts[a]
	if m == nil {
		m = &machine{
			running: true, plugged: true, port: 32768,
			listeners: make(map[uint16]*listener), sockets: make(map[uint16]*Transport),
		}
		n.hosts[a] = m
	}
	return m
}

// passesLocked reports whether anything gets from one end of w to the other. An
// address that no host has ever had swallows everything.
func (n *Network) passesLocked(w way) bool {
	from, to := n.hosts[w.from], n.hosts[w.to]
	return from != nil && to != nil && from.plugged && to.plugged && !n.cuts[w]
}

func (n *Network) linkLocked(w way) Link {
	if l, ok := n.links[w]; ok {
		return l
	}
	return n.link
}

func (n *Network) delayLocked(l Link) time.Duration {
	if l.Jitter <= 0 {
		return l.Delay
	}
	return l.Delay + time.Duration(n.rng.Int64N(int64(l.Jitter)))
}

func (n *Network) chanceLocked(p float64) bool { return p > 0 && n.rng.Float64() < p }

// retransmission is the pause before a lost segment is sent again; it doubles.
const retransmission = 200 * time.Millisecond

// segment returns how long a piece of a stream needs over w, or false if
// nothing passes.
func (n *Network) segment(w way, bytes int) (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.hosts[w.from]; m != nil {
		m.traffic.StreamBytes += int64(bytes)
	}
	if !n.passesLocked(w) {
		return 0, false
	}
	l := n.linkLocked(w)
	if l.NoStreams {
		return 0, false
	}
	delay := n.delayLocked(l)
	for pause := retransmission; n.chanceLocked(l.Loss) && pause < time.Minute; pause *= 2 {
		delay += pause
	}
	return delay, true
}

// addressOf reads a host's address. A test that misspells one has no use for an error.
func addressOf(host string) netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap()
	}
	if a, err := netip.ParseAddrPort(host); err == nil {
		return a.Addr().Unmap()
	}
	panic(fmt.Sprintf("membertest: %q is not the IP address of a host", host))
}

func wayOf(from, to string) way { return way{addressOf(from), addressOf(to)} }

func tcpAddress(a netip.AddrPort) *net.TCPAddr { return net.TCPAddrFromAddrPort(a) }
