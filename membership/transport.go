package membership

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// Traffic counts what gossip has moved since Start, as bytes of payload.
type Traffic struct {
	PacketsSent    int64
	PacketBytes    int64 // sent
	StreamsOpened  int64 // by this node
	StreamSent     int64 // bytes, on streams of either side
	StreamReceived int64
}

// transport is memberlist's transport, with what a complete Stop needs: it
// knows every open stream and breaks them all, and its own dials, when it is
// shut down. memberlist would leave them to their deadlines, up to 30 s.
type transport struct {
	inner       memberlist.Transport
	dial        func(ctx context.Context, address string) (net.Conn, error) // nil: inner's
	dialTimeout time.Duration
	streams     chan net.Conn

	muted atomic.Bool     // set first by Shutdown
	alive context.Context // ends in Shutdown, when inner has
	close context.CancelFunc
	calls sync.WaitGroup // the pump, and dials

	mu   sync.Mutex // guards open, shut
	open map[*stream]struct{}
	shut bool

	packetsSent, packetBytes, streamsOpened, streamSent, streamReceived atomic.Int64
}

var errShut = errors.New("gossip is stopped")

// listen opens real sockets.
func listen(address netip.AddrPort, log *log.Logger) (*memberlist.NetTransport, netip.AddrPort, error) {
	host := address.Addr().String()
	if address.Addr() == netip.IPv6Unspecified() {
		host = "" // also on machines without IPv6
	}
	attempts := 1
	if address.Port() == 0 {
		attempts = 10 // the port drawn for TCP may be taken for UDP
	}
	for {
		attempts--
		inner, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{host}, BindPort: int(address.Port()), Logger: log,
		})
		if err == nil {
			return inner, netip.AddrPortFrom(address.Addr(), uint16(inner.GetAutoBindPort())), nil
		}
		if attempts == 0 {
			return nil, netip.AddrPort{}, fmt.Errorf("gossip cannot listen on %s: %w", address, err)
		}
	}
}

func newTransport(inner memberlist.Transport, dialTimeout time.Duration) *transport {
	t := &transport{inner: inner, dialTimeout: dialTimeout, streams: make(chan net.Conn), open: make(map[*stream]struct{})}
	t.alive, t.close = context.WithCancel(context.Background())
	if _, real := inner.(*memberlist.NetTransport); real {
		t.dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	// Ends with Shutdown.
	t.calls.Go(t.pump)
	return t
}

// pump hands accepted streams on to memberlist.
func (t *transport) pump() {
	for {
		select {
		case conn := <-t.inner.StreamCh():
			if conn = t.track(conn); conn == nil {
				continue
			}
			select {
			case t.streams <- conn:
			case <-t.alive.Done():
			}
		case <-t.alive.Done():
			return
		}
	}
}

// track makes conn one of those that Shutdown breaks; nil if that has happened.
func (t *transport) track(conn net.Conn) net.Conn {
	s := &stream{Conn: conn, transport: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shut {
		conn.Close()
		return nil
	}
	t.open[s] = struct{}{}
	return s
}

func (t *transport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return t.inner.FinalAdvertiseAddr(ip, port)
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.inner.PacketCh() }

func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

func (t *transport) WriteTo(b []byte, address string) (time.Time, error) {
	// An error that is not the network's lets memberlist give a probe up at
	// once; after any other it would wait for indirect answers.
	if t.muted.Load() {
		return time.Time{}, errShut
	}
	t.packetsSent.Add(1)
	t.packetBytes.Add(int64(len(b)))
	return t.inner.WriteTo(b, address)
}

func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t *transport) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	t.mu.Lock()
	if t.shut {
		t.mu.Unlock()
		return nil, errShut
	}
	t.calls.Add(1)
	t.mu.Unlock()
	defer t.calls.Done()

	timeout = min(timeout, t.dialTimeout)
	var conn net.Conn
	var err error
	if t.dial == nil {
		conn, err = t.inner.DialTimeout(address, timeout)
	} else {
		ctx, cancel := context.WithTimeout(t.alive, timeout)
		defer cancel()
		conn, err = t.dial(ctx, address)
	}
	if err != nil {
		return nil, dialProblem(err, timeout)
	}
	if conn = t.track(conn); conn == nil {
		return nil, errShut
	}
	t.streamsOpened.Add(1)
	return conn, nil
}

// noConnect begins what dialProblem says of a packet filter.
const noConnect = "TCP does not connect"

// dialProblem says what a person can do about a failed connect. It is a text,
// for memberlist keeps nothing else of an error.
func dialProblem(err error, timeout time.Duration) error {
	var network net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("TCP is refused: nothing listens there, or not on that address")
	case errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("%s within %v: a firewall drops it (gossip needs TCP and UDP on that port, both ways), or no machine has that address", noConnect, timeout)
	}
	return err
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// Shutdown breaks everything that is open and returns when nothing of the
// transport's runs any more.
func (t *transport) Shutdown() error {
	t.muted.Store(true)
	t.mu.Lock()
	t.shut = true
	open := t.open
	t.open = make(map[*stream]struct{})
	t.mu.Unlock()
	for s := range open {
		s.Conn.Close()
	}
	// The pump still takes what inner's listeners have in their hands, or they
	// would never return.
	err := t.inner.Shutdown()
	t.close()
	t.calls.Wait()
	return err
}

func (t *transport) traffic() Traffic {
	return Traffic{
		PacketsSent: t.packetsSent.Load(), PacketBytes: t.packetBytes.Load(),
		StreamsOpened: t.streamsOpened.Load(), StreamSent: t.streamSent.Load(), StreamReceived: t.streamReceived.Load(),
	}
}

// stream is an open connection of memberlist's.
type stream struct {
	net.Conn
	transport *transport
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.transport.streamReceived.Add(int64(n))
	return n, err
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	s.transport.streamSent.Add(int64(n))
	return n, err
}

func (s *stream) Close() error {
	s.transport.mu.Lock()
	delete(s.transport.open, s)
	s.transport.mu.Unlock()
	return s.Conn.Close()
}
