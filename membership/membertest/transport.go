package membertest

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// packetQueue is how many packets wait to be read before more are dropped, as
// a socket's buffer does.
const packetQueue = 1024

// Transport is a memberlist.Transport on a Network.
type Transport struct {
	network *Network
	address netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	listen  *listener

	alive context.Context // ends with Shutdown
	close context.CancelFunc
	loop  sync.WaitGroup
}

// Transport takes ip:port for packets and streams.
func (n *Network) Transport(address string) (*Transport, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	l, err := n.listen(a)
	if err != nil {
		return nil, err
	}
	t := &Transport{
		network: n, address: l.address, listen: l,
		packets: make(chan *memberlist.Packet, packetQueue),
		streams: make(chan net.Conn),
	}
	t.alive, t.close = context.WithCancel(context.Background())
	n.mu.Lock()
	n.hostLocked(a.Addr()).sockets[l.address.Port()] = t
	n.mu.Unlock()
	// Ends with Shutdown, or when the host is stopped.
	t.loop.Go(t.accept)
	return t, nil
}

func (t *Transport) accept() {
	for {
		c, err := t.listen.Accept()
		if err != nil {
			return
		}
		select {
		case t.streams <- c:
		case <-t.alive.Done():
			c.Close()
		}
	}
}

// FinalAdvertiseAddr returns the address of the Transport, whatever is wanted.
func (t *Transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.address.Addr().AsSlice(), int(t.address.Port()), nil
}

// WriteTo sends a packet. That it is lost is no error.
func (t *Transport) WriteTo(b []byte, address string) (time.Time, error) {
	now := time.Now()
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return now, err
	}
	n := t.network
	w := way{t.address.Addr(), to.Addr().Unmap()}
	n.mu.Lock()
	m := n.hostLocked(w.from)
	if m.sockets[t.address.Port()] != t || !m.running {
		n.mu.Unlock()
		return now, &net.OpError{Op: "write", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: syscall.ENETDOWN}
	}
	m.traffic.Packets++
	m.traffic.PacketBytes += int64(len(b))
	var delays []time.Duration
	if l := n.linkLocked(w); n.passesLocked(w) && !l.NoPackets && !n.chanceLocked(l.Loss) {
		delays = append(delays, n.delayLocked(l))
		if n.chanceLocked(l.Duplicate) {
			delays = append(delays, n.delayLocked(l))
		}
	}
	n.mu.Unlock()

	for _, delay := range delays {
		// A copy each: the receiver decrypts in place.
		data := append([]byte(nil), b...)
		if delay <= 0 {
			n.deliver(data, t.address, to)
			continue
		}
		time.AfterFunc(delay, func() { n.deliver(data, t.address, to) })
	}
	return now, nil
}

// deliver hands a packet to whoever has the address when it arrives.
func (n *Network) deliver(b []byte, from, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.hosts[to.Addr().Unmap()]
	if m == nil || !m.plugged {
		return
	}
	t := m.sockets[to.Port()]
	if t == nil {
		return
	}
	select {
	case t.packets <- &memberlist.Packet{Buf: b, From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}:
	default:
	}
}

// PacketCh carries what arrives.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh carries streams that others open.
func (t *Transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout opens a stream.
func (t *Transport) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.alive, timeout)
	defer cancel()
	return t.network.Dial(ctx, t.address.Addr().String(), address)
}

// Shutdown gives the address back and ends what waits for a connect. Streams
// belong to whoever has them.
func (t *Transport) Shutdown() error {
	t.close()
	t.network.mu.Lock()
	if m := t.network.hosts[t.address.Addr()]; m != nil && m.sockets[t.address.Port()] == t {
		delete(m.sockets, t.address.Port())
	}
	t.network.mu.Unlock()
	t.listen.Close()
	t.loop.Wait()
	return nil
}
