package membertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// backlog is how many streams wait to be accepted; a connect beyond is ignored
// and tried again, as Linux does.
const backlog = 128

// listener accepts streams. It is a net.Listener.
type listener struct {
	network *Network
	address netip.AddrPort
	waiting chan *conn
	done    chan struct{}
	once    sync.Once
}

// Listen accepts streams at ip:port; port 0 draws one. The host is up from then on.
func (n *Network) Listen(address string) (net.Listener, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen %s: want ip:port", address)
	}
	return n.listen(a)
}

func (n *Network) listen(a netip.AddrPort) (*listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.hostLocked(a.Addr())
	fail := func(err error) error { return &net.OpError{Op: "listen", Net: "tcp", Addr: tcpAddress(a), Err: err} }
	if !m.running {
		return nil, fail(syscall.ENETDOWN)
	}
	if a.Port() == 0 {
		a = netip.AddrPortFrom(a.Addr(), m.drawPort())
	}
	if m.listeners[a.Port()] != nil {
		return nil, fail(syscall.EADDRINUSE)
	}
	l := &listener{network: n, address: a, waiting: make(chan *conn, backlog), done: make(chan struct{})}
	m.listeners[a.Port()] = l
	return l, nil
}

func (m *machine) drawPort() uint16 {
	for {
		if m.port++; m.port < 32768 {
			m.port = 32768
		}
		if m.listeners[m.port] == nil && m.sockets[m.port] == nil {
			return m.port
		}
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.waiting:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close refuses what comes from now on, and resets what was not accepted.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.network.mu.Lock()
		if m := l.network.hosts[l.address.Addr()]; m != nil && m.listeners[l.address.Port()] == l {
			delete(m.listeners, l.address.Port())
		}
		close(l.done)
		l.network.mu.Unlock()
		for {
			select {
			case c := <-l.waiting:
				c.SetLinger(0)
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return tcpAddress(l.address) }

// Dial connects from a host to ip:port. It is refused where a host is up and
// nothing listens, and waits for ctx where nothing answers.
func (n *Network) Dial(ctx context.Context, from, to string) (net.Conn, error) {
	target, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, fmt.Errorf("dial %s: want ip:port", to)
	}
	fail := func(err error) error {
		if errors.Is(err, context.DeadlineExceeded) {
			err = os.ErrDeadlineExceeded // as package net says it
		}
		return &net.OpError{Op: "dial", Net: "tcp", Addr: tcpAddress(target), Err: err}
	}
	w := way{addressOf(from), target.Addr().Unmap()}
	for again := time.Second; ; again *= 2 {
		c, pause, err := n.connect(w, target.Port())
		switch {
		case err != nil && pause == 0:
			return nil, fail(err)
		case err == nil && c == nil:
			pause = again // the first packet was lost: send another
		}
		if !sleep(ctx, pause) {
			if c != nil {
				c.SetLinger(0)
				c.Close()
			}
			return nil, fail(context.Cause(ctx))
		}
		switch {
		case err != nil:
			return nil, fail(err)
		case c != nil:
			return c, nil
		}
	}
}

// connect tries once. It returns the dialler's end, which may be used after the
// pause; or an error, to be told after the pause; or neither, if the attempt got lost.
func (n *Network) connect(w way, port uint16) (c *conn, pause time.Duration, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	from := n.hostLocked(w.from)
	if !from.running || !from.plugged {
		return nil, 0, syscall.ENETUNREACH
	}
	there, back := n.linkLocked(w), n.linkLocked(w.back())
	if !n.passesLocked(w) || !n.passesLocked(w.back()) || there.NoStreams || back.NoStreams || n.chanceLocked(there.Loss) || n.chanceLocked(back.Loss) {
		return nil, 0, nil
	}
	pause = n.delayLocked(there) + n.delayLocked(back)
	to := n.hosts[w.to]
	l := to.listeners[port]
	if l == nil {
		return nil, pause, syscall.ECONNREFUSED
	}
	s := newStream(n, netip.AddrPortFrom(w.from, from.drawPort()), l.address)
	select {
	case l.waiting <- s.ends[1]:
	default:
		return nil, 0, nil
	}
	n.streams[s] = struct{}{}
	from.traffic.Streams++
	return s.ends[0], pause, nil
}

// sleep reports whether ctx was still alive at the end of d.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
