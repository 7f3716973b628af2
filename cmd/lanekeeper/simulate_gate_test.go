package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"lanekeeper/membership/membertest"
)

// gate stands between one process and the network. Shut, the process is one that
// was stopped (SIGSTOP): nothing it is sent reaches it, nothing it writes gets
// out, and its clock does not move, until it is opened and everything happens
// at once. Killed, everything it still tries fails.
//
// What the simulation cannot stop is the process's own timers. They act on what
// it knew before, and their results wait at the gate.
type gate struct {
	mu    sync.Mutex // guards the rest
	open  chan struct{}
	since time.Time // when it was shut; zero: it is open
	dead  chan struct{}
	conns map[*gateConn]struct{}
}

var errKilled = errors.New("the process was killed")

func newGate() *gate {
	g := &gate{open: make(chan struct{}), dead: make(chan struct{}), conns: make(map[*gateConn]struct{})}
	close(g.open)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.since.IsZero() {
		g.open, g.since = make(chan struct{}), time.Now()
	}
}

func (g *gate) reopen() {
	g.mu.Lock()
	if g.since.IsZero() {
		g.mu.Unlock()
		return
	}
	g.since = time.Time{}
	close(g.open)
	var conns []*gateConn
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	for _, c := range conns {
		c.flush()
	}
}

func (g *gate) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isDead() {
		close(g.dead)
	}
}

func (g *gate) isDead() bool {
	select {
	case <-g.dead:
		return true
	default:
		return false
	}
}

func (g *gate) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.since.IsZero()
}

// now is the process's clock.
func (g *gate) now() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.since.IsZero() {
		return g.since
	}
	return time.Now()
}

// pass waits until the gate is open. It fails when the process is dead, or over
// is closed; over may be nil.
func (g *gate) pass(over <-chan struct{}) error {
	for {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		select {
		case <-g.dead:
			return errKilled
		case <-over:
			return net.ErrClosed
		case <-open:
		}
		g.mu.Lock()
		now := g.since.IsZero()
		g.mu.Unlock()
		if now {
			return nil
		}
	}
}

// wrap makes a connection one of the process's.
func (g *gate) wrap(conn net.Conn, t *tap) net.Conn {
	c := &gateConn{Conn: conn, gate: g, closed: make(chan struct{}), tap: t}
	g.mu.Lock()
	g.conns[c] = struct{}{}
	g.mu.Unlock()
	return c
}

// gateConn is a connection of a process.
type gateConn struct {
	net.Conn
	gate *gate
	tap  *tap // nil: nobody listens

	once   sync.Once
	closed chan struct{}

	mu       sync.Mutex // guards the rest
	pending  []byte     // written behind a shut gate
	flushing bool
	writeBy  time.Time // what has been written has no more deadline
}

// Read hands out what comes when the gate is open: also what was there, or went
// wrong, before.
func (c *gateConn) Read(b []byte) (int, error) {
	if err := c.gate.pass(c.closed); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if failed := c.gate.pass(c.closed); failed != nil {
		return 0, failed
	}
	if n > 0 && c.tap != nil {
		c.tap.read(b[:n])
	}
	return n, err
}

// Write never waits at the gate: some write under a lock, and a lock that waits
// for time would stop it.
func (c *gateConn) Write(b []byte) (int, error) {
	if c.gate.isDead() {
		return 0, errKilled
	}
	if c.tap != nil {
		c.tap.written(b)
	}
	c.mu.Lock()
	if c.flushing || c.gate.isShut() {
		c.pending = append(c.pending, b...)
		c.mu.Unlock()
		return len(b), nil
	}
	c.mu.Unlock()
	return c.Conn.Write(b)
}

// flush lets out what was written.
func (c *gateConn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 || c.flushing {
		return
	}
	c.flushing = true
	c.Conn.SetWriteDeadline(time.Time{})
	go func() { // ends with the connection, or when nothing is left
		for {
			c.mu.Lock()
			b := c.pending
			c.pending = nil
			if len(b) == 0 {
				c.flushing = false
				c.Conn.SetWriteDeadline(c.writeBy)
				c.mu.Unlock()
				return
			}
			c.mu.Unlock()
			c.Conn.Write(b) // fails for ever once it does
		}
	}()
}

func (c *gateConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writeBy = t; c.flushing {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *gateConn) SetDeadline(t time.Time) error {
	if err := c.Conn.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *gateConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.gate.mu.Lock()
		delete(c.gate.conns, c)
		c.gate.mu.Unlock()
	})
	return c.Conn.Close()
}

func (c *gateConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// gateListener is a port of a process.
type gateListener struct {
	net.Listener
	gate *gate
}

func (l *gateListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := l.gate.pass(nil); err != nil {
		conn.Close()
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
	}
	return l.gate.wrap(conn, nil), nil
}

// dial connects from the process's host.
func (g *gate) dial(ctx context.Context, network *membertest.Network, from, to string, t *tap) (net.Conn, error) {
	if err := g.pass(ctx.Done()); err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	conn, err := network.Dial(ctx, from, to)
	if err != nil {
		return nil, err
	}
	if g.isDead() {
		conn.Close()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errKilled}
	}
	return g.wrap(conn, t), nil
}

// gateTransport is a process's gossip.
type gateTransport struct {
	*membertest.Transport
	gate    *gate
	network *membertest.Network
	host    string
	packets chan *memberlist.Packet
	streams chan net.Conn
	life    context.Context // ends with Shutdown
	end     context.CancelFunc
	pumps   sync.WaitGroup
}

func newGateTransport(g *gate, network *membertest.Network, host string) (*gateTransport, error) {
	inner, err := network.Transport(host + ":7943")
	if err != nil {
		return nil, err
	}
	t := &gateTransport{
		Transport: inner, gate: g, network: network, host: host,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
	}
	t.life, t.end = context.WithCancel(context.Background())
	// Both end with Shutdown.
	t.pumps.Go(t.pumpPackets)
	t.pumps.Go(t.pumpStreams)
	return t, nil
}

func (t *gateTransport) pumpPackets() {
	for {
		select {
		case p := <-t.Transport.PacketCh():
			if t.gate.pass(t.life.Done()) != nil {
				continue
			}
			select {
			case t.packets <- p:
			case <-t.life.Done():
				return
			}
		case <-t.life.Done():
			return
		}
	}
}

func (t *gateTransport) pumpStreams() {
	for {
		select {
		case conn := <-t.Transport.StreamCh():
			if t.gate.pass(t.life.Done()) != nil {
				conn.Close()
				continue
			}
			select {
			case t.streams <- t.gate.wrap(conn, nil):
			case <-t.life.Done():
				conn.Close()
				return
			}
		case <-t.life.Done():
			return
		}
	}
}

func (t *gateTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

func (t *gateTransport) StreamCh() <-chan net.Conn { return t.streams }

// WriteTo waits at the gate, and so memberlist does: or a stopped node would
// find everybody else silent, and declare them dead.
func (t *gateTransport) WriteTo(b []byte, address string) (time.Time, error) {
	if err := t.gate.pass(t.life.Done()); err != nil {
		return time.Time{}, err
	}
	return t.Transport.WriteTo(b, address)
}

func (t *gateTransport) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.life, timeout)
	defer cancel()
	return t.gate.dial(ctx, t.network, t.host, address, nil)
}

func (t *gateTransport) Shutdown() error {
	t.end()
	err := t.Transport.Shutdown()
	t.pumps.Wait()
	return err
}
