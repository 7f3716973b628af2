package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/peer"
	"lanekeeper/proxy"
	"lanekeeper/queue"
	"lanekeeper/ring"
)

// pair is two nodes with a hop between them in front of one service, all in a
// bubble. Every partition is nodes[0]'s, the owner's, until move says otherwise;
// nodes[1] is an ingress.
type pair struct {
	t       *testing.T
	nodes   [2]*member
	service *script
	arrived chan *exchange // requests at the service, each until the test lets it go
	closing chan struct{}

	lag func() time.Duration // of every write on the hop, from startPair on; nil = none

	mu     sync.Mutex // guards the rest
	owners [partitions]tenure
	ports  map[string]*port
	cables []net.Conn // of the hop
	cut    bool
	down   bool // nobody can connect to the service
	panics bool // a node is meant to log one
}

const partitions = 4

type tenure struct {
	owner ring.Member
	epoch uint64
}

// member is one node of a pair.
type member struct {
	*node
	pair *pair
	self ring.Member
	hop  *peer.Hop
	edge *edge
	port *port // for clients
}

// edge is what a node's proxy sees of the pair.
type edge struct {
	*peer.Hop

	mu           sync.Mutex // guards the rest
	unready      error
	guard        func() error
	lease        time.Time // its end
	fences       uint64
	dead         map[ring.Member]bool
	ownersConfig string
	refuses      bool     // every turn that is lent to it
	helping      []string // keys with a turn that was lent
	asleep       error
	shift        int                     // of partitions: 0, or keys are in lanes that are not theirs
	asked        int                     // how often it was lent one
	gate         chan struct{}           // what has no place here waits for it, before it is sent
	notes        []spoken                // that this node sent
	loses        func(note *spoken) bool // one that it sends; nil: none

	member *member
}

func (e *edge) Strict(int) (uint64, time.Duration, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	left := time.Until(e.lease)
	if left <= 0 {
		return 0, 0, errors.New("the lease has ended")
	}
	e.fences++
	return e.fences, left, nil
}

func (e *edge) ValidFor(int) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Until(e.lease)
}

func (e *edge) StrictFew(_, few int) (uint64, time.Duration, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	left := time.Until(e.lease)
	if left <= 0 {
		return 0, 0, errors.New("the lease has ended")
	}
	e.fences += uint64(few)
	return e.fences - uint64(few) + 1, left, nil
}

func (e *edge) Owns(partition int) bool {
	owner, _ := e.member.pair.owner(partition)
	return owner == e.member.self
}

func (e *edge) Lives(m ring.Member) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.dead[m]
}

func (e *edge) Help(partition int, key []byte, owner ring.Member) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	if e.refuses {
		return false
	}
	e.helping = append(e.helping, string(key))
	return true
}

func (e *edge) Enter(partition int, local peer.Local) bool {
	if e.Hop.Enter(partition, local) {
		return true
	}
	e.mu.Lock()
	gate := e.gate
	e.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return false
}

func (e *edge) Helped(_ int, key []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.helping = slices.DeleteFunc(e.helping, func(k string) bool { return k == string(key) })
}

func (e *edge) Awake(int, time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asleep
}

// lasts has the lease end after d.
func (e *edge) lasts(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lease = time.Now().Add(d)
}

func (e *edge) Partition(key []byte) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return (int(key[len(key)-1]) + e.shift) % partitions
}

func (e *edge) OwnersConfig(int) string { return e.ownersConfig }

func (e *edge) Ready() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unready
}

func (e *edge) Guard(int, time.Time) error {
	e.mu.Lock()
	guard := e.guard
	e.mu.Unlock()
	if guard == nil {
		return nil
	}
	return guard()
}

// change alters the configuration of the pair's nodes, by their numbers.
type change struct {
	proxy func(node int, c *proxy.Config)
	lanes func(node int, c *queue.Config)
	hop   func(node int, c *peer.Config)
	lag   func() time.Duration
}

// lane changes the lane of both nodes' orders.
func lane(f func(*proxy.Lane)) change {
	return change{proxy: func(_ int, c *proxy.Config) { f(&c.Routes[0].Lane) }}
}

// startPair runs a pair whose routes are those of start, with room for large
// messages. The service's requests come by p.arrived, unless answer is given.
func startPair(t *testing.T, changes change, answer func(*exchange)) *pair {
	t.Helper()
	p := &pair{t: t, lag: changes.lag, arrived: make(chan *exchange, 100), closing: make(chan struct{}), ports: make(map[string]*port)}
	if answer == nil {
		answer = p.hold
	}
	p.service = newScript(t, answer)
	for i := range p.nodes {
		p.nodes[i] = &member{pair: p, self: ring.Member{Name: fmt.Sprintf("lk-%d", i), Incarnation: 1}, node: &node{t: t, log: new(logBuffer)}}
	}
	for i := range p.owners {
		p.owners[i] = tenure{p.nodes[0].self, 1}
	}
	for i, n := range p.nodes {
		n.start(i, changes)
	}
	for i := range partitions {
		p.nodes[0].lanes.Open(i)
	}
	p.view(p.nodes[0], p.nodes[1])
	synctest.Wait()
	t.Cleanup(func() { // the last one: before, the nodes stop
		time.Sleep(5 * time.Minute) // virtual: fasthttp's cleaners wake and end
	})
	for _, n := range p.nodes {
		t.Cleanup(n.stop)
	}
	t.Cleanup(func() {
		close(p.closing)
		p.service.stop()
	})
	return p
}

func (m *member) start(number int, changes change) {
	p := m.pair
	config := proxy.Config{
		Node: m.self.Name, MaxBody: 2 << 20, MaxHeader: 16 << 10, MaxURI: 1 << 10, MaxHeaders: 50,
		HeaderTimeout: 10 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: 75 * time.Second, BypassIdleTimeout: time.Minute,
		MaxConnections: 1000, MaxInflight: 100, Access: proxy.AccessAll,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Upstreams: []proxy.Upstream{{
			Name: "app", Targets: []string{"http://app"}, ConnectTimeout: 2 * time.Second, MaxConnections: 64, Queue: 64, IdleTimeout: 30 * time.Second,
			Dial: func(string) (net.Conn, error) { return p.reach(m) },
		}},
		Routes: []proxy.Route{orders(), {
			Name: "rest", Match: proxy.Match{Path: "/{rest...}"}, Upstream: "app", Lane: proxy.Lane{Bypass: []string{"*"}},
		}},
	}
	l := &config.Routes[0].Lane
	l.MaxResponse, l.MaxBytes = 100_000, 8<<20
	if changes.proxy != nil {
		changes.proxy(number, &config)
	}

	lanes := queue.Config{MaxQueued: 100, MaxQueuedBytes: 16 << 20, MaxLanes: 100, Tags: len(config.Routes), Partitions: partitions, Emptied: m.emptied}
	if changes.lanes != nil {
		changes.lanes(number, &lanes)
	}
	m.lanes = queue.New(lanes)

	log := slog.New(slog.NewJSONHandler(m.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	hop := peer.Config{
		Self: m.self, Cluster: "test", Layout: 7, Stripes: 1,
		NextID: m.lanes.NextID,
		Owner:  func(partition int) (ring.Member, uint64) { return p.owner(partition) },
		Serve:  func(in *peer.Inbound) (*peer.Response, bool) { return m.proxy.ServeForwarded(in) },
		Dial: func(_ context.Context, address string) (net.Conn, error) {
			return p.dial(m.self.Name, address, true)
		},
		Aside:   func(local peer.Local) (bool, *peer.Call) { return m.proxy.Aside(local) },
		Note:    func(from ring.Member, payload []byte) { m.proxy.Noted(from, payload) },
		Control: func(ring.Member, []byte) {}, Up: func(ring.Member) {},
		MaxCalls: 100, MaxBytes: 16 << 20, Log: slog.New(slog.DiscardHandler),
	}
	if changes.hop != nil {
		changes.hop(number, &hop)
	}
	m.hop = peer.New(hop)
	m.edge = &edge{Hop: m.hop, member: m}
	config.Cluster = m.edge

	var err error
	if m.proxy, err = proxy.New(config, m.lanes, log); err != nil {
		m.t.Fatal(err)
	}
	m.port = p.listen(m.self.Name + ":7940")
	m.serve("clients", m.proxy.Serve, m.port)
	m.serve("the hop", m.hop.Serve, p.listen(m.self.Name+":7944"))
}

func (m *member) serve(what string, serve func(net.Listener) error, port *port) {
	served := make(chan error, 1)
	go func() { served <- serve(port) }()
	m.t.Cleanup(func() { // runs after stop
		port.Close()
		if err := <-served; err != nil {
			m.t.Errorf("%s: %s: %v", m.self, what, err)
		}
	})
}

// stop ends the node and looks for what is left. Clients have gone, and the
// service has closed all its connections.
func (m *member) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := m.proxy.Stop(ctx); err != nil {
		m.t.Errorf("%s: Stop: %v", m.self, err)
	}
	if err := m.hop.Stop(ctx); err != nil {
		m.t.Errorf("%s: the hop's Stop: %v", m.self, err)
	}
	m.idle()
	if n := m.hop.Pending(); n != 0 {
		m.t.Errorf("%s: %d calls are left", m.self, n)
	}
	m.inOrder()
	if log := m.log.String(); strings.Contains(log, "panic") && !m.pair.panics {
		m.t.Errorf("%s panicked:\n%s", m.self, log)
	}
}

// Ownership, which a test changes by itself.

func (p *pair) owner(partition int) (ring.Member, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.owners[partition]
	return of.owner, of.epoch
}

func (p *pair) of(self ring.Member) *member {
	for _, n := range p.nodes {
		if n.self == self {
			return n
		}
	}
	return nil
}

// partition is a key's of orders.
func partition(key string) int { return int(key[len(key)-1]) % partitions }

func (p *pair) other(than ring.Member) *member {
	for _, n := range p.nodes {
		if n.self != than {
			return n
		}
	}
	return nil
}

// leave takes a key's partition from its owner. Nobody has it then.
func (p *pair) leave(key string) (busy [][]byte) {
	n := partition(key)
	p.mu.Lock()
	from := p.of(p.owners[n].owner)
	p.owners[n] = tenure{epoch: p.owners[n].epoch}
	p.mu.Unlock()
	return from.lanes.Seal(n)
}

// move gives a key's partition to another node, as owners do: what the old one
// still has at work runs there first.
func (p *pair) move(key string, to *member) {
	busy := p.leave(key)
	p.take(key, to, busy, nil)
}

// take gives a node what leave took. meanwhile is called when it has its new
// partition, and its hop does not know it yet.
func (p *pair) take(key string, to *member, busy [][]byte, meanwhile func()) {
	n := partition(key)
	for _, key := range busy {
		to.lanes.Block(n, key)
	}
	p.mu.Lock()
	p.owners[n] = tenure{to.self, p.owners[n].epoch + 1}
	epoch := p.owners[n].epoch
	p.mu.Unlock()
	to.lanes.Open(n)
	if meanwhile != nil {
		meanwhile()
	}
	for _, node := range p.nodes {
		node.hop.Routed(n, to.self, epoch)
	}
}

// emptied lets the new owner of a key begin.
func (m *member) emptied(partition int, key []byte) {
	owner, _ := m.pair.owner(partition)
	if to := m.pair.of(owner); to != nil && to != m && !m.lanes.Busy(partition, key) {
		to.lanes.Unblock(partition, key)
	}
}

// The network.

// view tells every node who is alive.
func (p *pair) view(alive ...*member) {
	var members []peer.Member
	for _, n := range alive {
		members = append(members, peer.Member{Member: n.self, Address: n.self.Name + ":7944"})
	}
	for _, n := range p.nodes {
		n.hop.View(members)
	}
}

// sever breaks the hop's connections, and lets no new ones be made until heal.
func (p *pair) sever() {
	p.mu.Lock()
	p.cut = true
	cables := p.cables
	p.cables = nil
	p.mu.Unlock()
	for _, c := range cables {
		c.Close()
	}
	synctest.Wait()
}

func (p *pair) heal() {
	p.mu.Lock()
	p.cut = false
	p.mu.Unlock()
}

// cutBulk lets no further connections of the hop be made; the present ones go on.
func (p *pair) cutBulk() {
	p.mu.Lock()
	p.cut = true
	p.mu.Unlock()
}

func (p *pair) listen(address string) *port {
	port := &port{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ports[address] = port
	return port
}

func (p *pair) dial(from, address string, hop bool) (net.Conn, error) {
	p.mu.Lock()
	port, cut := p.ports[address], p.cut && hop
	p.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	if port == nil || cut {
		return nil, refused
	}
	var near, far net.Conn
	near, far = newSockets(from, address)
	if hop && p.lag != nil {
		near, far = newLaggard(near.(*socket), p.lag), newLaggard(far.(*socket), p.lag)
	}
	if hop {
		p.mu.Lock()
		p.cables = append(p.cables, near, far)
		p.mu.Unlock()
	}
	select {
	case port.conns <- far:
		return near, nil
	case <-port.closed:
		near.Close()
		far.Close()
		return nil, refused
	}
}

// port is a listener of a bubble.
type port struct {
	address string
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

// reach connects a node to the service.
func (p *pair) reach(m *member) (net.Conn, error) {
	p.mu.Lock()
	down := p.down
	p.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	near, far := newSockets(m.self.Name, "app")
	p.service.serve(far)
	return near, nil
}

func (p *port) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *port) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *port) Addr() net.Addr { return address(p.address) }

// Clients, whose connections close before the nodes stop.

const stranger = "203.0.113.9:50000" // no trusted proxy

func (m *member) open() *client { return m.openFrom(stranger) }

func (m *member) openFrom(address string) *client {
	m.t.Helper()
	conn, err := m.pair.dial(address, m.port.address, false)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return &client{t: m.t, conn: conn, reader: bufio.NewReader(conn)}
}

func (m *member) send(method, path string, header http.Header, body string) *answer {
	m.t.Helper()
	return m.open().send(method, path, header, body)
}

// async sends a request and delivers its answer: an empty one if the connection
// ends without. The request has its place when async returns.
func (m *member) async(method, path string, header http.Header, body string) (*client, <-chan *answer) {
	m.t.Helper()
	c, answers := m.open(), make(chan *answer, 1)
	c.write(method, path, header, body)
	go func() {
		a, _ := c.read(method)
		answers <- a
	}()
	synctest.Wait()
	return c, answers
}

// The service.

// hold gives a request to the test, and waits until it lets it go.
func (p *pair) hold(x *exchange) {
	x.done = make(chan struct{})
	p.arrived <- x
	select {
	case <-x.done:
	case <-p.closing:
	}
}

// reachable says whether the service can be connected to.
func (p *pair) reachable(is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = !is
}

// next is the next request at the service, or nil if nothing comes.
func (p *pair) next() *exchange {
	p.t.Helper()
	synctest.Wait()
	select {
	case x := <-p.arrived:
		return x
	default:
		return nil
	}
}

// ran is the next request at the service, which must be the one with the given
// path, sent by the given node.
func (p *pair) ran(path string, by *member) *exchange {
	p.t.Helper()
	x := p.next()
	if x == nil {
		p.t.Fatalf("nothing runs; %s should", path)
	}
	if got := x.path(); got != path || x.by() != by.self.Name {
		p.t.Fatalf("%s runs by %s, not %s by %s", got, x.by(), path, by.self.Name)
	}
	return x
}

// awaits waits for a request to come to the service.
func (p *pair) awaits(path string) *exchange {
	p.t.Helper()
	select {
	case x := <-p.arrived:
		if x.path() != path {
			p.t.Fatalf("%s runs, not %s", x.path(), path)
		}
		return x
	case <-time.After(10 * time.Minute): // virtual
		p.t.Fatalf("%s does not run", path)
		return nil
	}
}

// quiet checks that nothing else has come to the service.
func (p *pair) quiet(why string) {
	p.t.Helper()
	if x := p.next(); x != nil {
		p.t.Fatalf("%s: %s runs by %s", why, x.path(), x.by())
	}
}

func (x *exchange) path() string { return strings.Fields(x.start)[1] }
func (x *exchange) by() string   { return x.conn.RemoteAddr().String() }

// finish answers and lets go, and returns when all that follows has happened.
func (x *exchange) finish(body string) {
	x.ok(body)
	close(x.done)
	synctest.Wait()
}

// socket is one end of a pair of Unix sockets whose waiting a bubble can see:
// the ends wake each other. So the edge can look at its descriptor as it does at
// those of clients, and time is virtual all the same.
type socket struct {
	far           *socket
	local, remote net.Addr

	mu     sync.Mutex // guards the rest
	fd     int
	closed bool
	wake   chan struct{} // closed and made anew when something may be possible again
	until  [2]time.Time  // of reading, of writing
}

const (
	reading = iota
	writing
)

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// addressOf is what a proxy takes for an address, if the name is one.
func addressOf(name string) net.Addr {
	if at, err := netip.ParseAddrPort(name); err == nil {
		return net.TCPAddrFromAddrPort(at)
	}
	return address(name)
}

func newSockets(from, to string) (near, far *socket) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		panic(err)
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
		if err := syscall.SetNonblock(fd, true); err != nil {
			panic(err)
		}
	}
	near = &socket{fd: fds[0], local: addressOf(from), remote: addressOf(to), wake: make(chan struct{})}
	far = &socket{fd: fds[1], local: near.remote, remote: near.local, wake: make(chan struct{})}
	near.far, far.far = far, near
	return near, far
}

// stir has whoever waits at s try again.
func (s *socket) stir() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.wake)
	s.wake = make(chan struct{})
}

// do tries until try reports that it did something.
func (s *socket) do(way int, try func(fd int) (done bool)) error {
	for {
		s.mu.Lock()
		wake, until := s.wake, s.until[way]
		err := net.ErrClosed
		if !s.closed {
			if err = nil; !until.IsZero() && !time.Now().Before(until) {
				err = os.ErrDeadlineExceeded
			}
		}
		if err != nil {
			s.mu.Unlock()
			return &net.OpError{Op: [...]string{"read", "write"}[way], Net: "tcp", Err: err}
		}
		done := try(s.fd)
		s.mu.Unlock()
		if done {
			s.far.stir()
			return nil
		}
		s.wait(wake, until)
	}
}

func (s *socket) wait(wake chan struct{}, until time.Time) {
	if until.IsZero() {
		<-wake
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-wake:
	case <-timer.C:
	}
}

func (s *socket) Read(b []byte) (n int, err error) {
	failed := s.do(reading, func(fd int) bool {
		n, err = syscall.Read(fd, b)
		return err != syscall.EAGAIN && err != syscall.EINTR
	})
	switch {
	case failed != nil:
		return 0, failed
	case err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: err}
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func (s *socket) Write(b []byte) (written int, err error) {
	for written < len(b) {
		var n int
		failed := s.do(writing, func(fd int) bool {
			n, err = syscall.Write(fd, b[written:])
			return err != syscall.EAGAIN && err != syscall.EINTR
		})
		if failed != nil {
			return written, failed
		}
		if err != nil {
			return written, &net.OpError{Op: "write", Net: "tcp", Err: err}
		}
		written += n
	}
	return written, nil
}

func (s *socket) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.closed = true
	syscall.Close(s.fd)
	s.mu.Unlock()
	s.stir()
	s.far.stir()
	return nil
}

func (s *socket) CloseWrite() error {
	err := s.control(func(fd uintptr) { syscall.Shutdown(int(fd), syscall.SHUT_WR) })
	s.far.stir()
	return err
}

func (s *socket) control(f func(fd uintptr)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	f(uintptr(s.fd))
	return nil
}

func (s *socket) LocalAddr() net.Addr  { return s.local }
func (s *socket) RemoteAddr() net.Addr { return s.remote }

func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.setDeadline(reading, t), s.setDeadline(writing, t))
}
func (s *socket) SetReadDeadline(t time.Time) error  { return s.setDeadline(reading, t) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.setDeadline(writing, t) }

func (s *socket) setDeadline(way int, t time.Time) error {
	s.mu.Lock()
	closed := s.closed
	s.until[way] = t
	s.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	s.stir() // whoever waits looks at the clock anew
	return nil
}

// SyscallConn implements syscall.Conn.
func (s *socket) SyscallConn() (syscall.RawConn, error) { return rawSocket{s}, nil }

type rawSocket struct{ s *socket }

func (r rawSocket) Control(f func(fd uintptr)) error { return r.s.control(f) }

func (r rawSocket) Read(f func(fd uintptr) bool) error {
	first := true
	return r.s.do(reading, func(fd int) bool {
		done := f(uintptr(fd))
		if first && !done { // it may have written
			first = false
			go r.s.far.stir() // not now: the far end may be doing the same
		}
		return done
	})
}

func (r rawSocket) Write(f func(fd uintptr) bool) error {
	return r.s.do(writing, func(fd int) bool { return f(uintptr(fd)) })
}

// laggard is a socket whose writes take their time on the way.
type laggard struct {
	*socket
	lag  func() time.Duration
	sent chan parcel
	gone chan struct{} // closed by Close
	once sync.Once
}

type parcel struct {
	due time.Time
	b   []byte
}

func newLaggard(s *socket, lag func() time.Duration) *laggard {
	l := &laggard{socket: s, lag: lag, sent: make(chan parcel, 1000), gone: make(chan struct{})}
	go l.deliver() // ends with Close
	return l
}

func (l *laggard) deliver() {
	for {
		select {
		case p := <-l.sent:
			time.Sleep(time.Until(p.due))
			if _, err := l.socket.Write(p.b); err != nil {
				l.Close()
			}
		case <-l.gone:
			return
		}
	}
}

func (l *laggard) Write(b []byte) (int, error) {
	select {
	case l.sent <- parcel{time.Now().Add(l.lag()), bytes.Clone(b)}:
		return len(b), nil
	case <-l.gone:
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: net.ErrClosed}
	}
}

func (l *laggard) Close() error {
	l.once.Do(func() { close(l.gone) })
	return l.socket.Close()
}

// leftAt looks at how many clients were counted as gone while they waited, and later.
func (m *member) leftAt(queued, upstream float64) {
	m.t.Helper()
	for stage, want := range map[string]float64{"queued": queued, "upstream": upstream} {
		if got := m.metric("lanekeeper_client_gone_total", "stage", stage); got != want {
			m.t.Errorf("%v clients are gone that were %s, want %v", got, stage, want)
		}
	}
}

// A client that hangs up before its turn. Mutants: the ingress does not look; it
// does not tell the owner; it does although the route says run; the place is not
// given back; the owner runs the request all the same; nobody looks at the end of one that ran.
func TestAClientThatLeavesTheIngress(t *testing.T) {
	for _, policy := range []struct {
		name string
		is   proxy.ClientGone
	}{{"skip", proxy.Skip}, {"run", proxy.Run}} {
		both(t, policy.name, lane(func(l *proxy.Lane) { l.ClientGone = policy.is }), nil, func(p *pair, at *member) (said []string) {
			owner := p.nodes[0]
			at.async("POST", "/orders/7/0", nil, "")
			x := p.ran("/orders/7/0", owner)
			c, _ := at.async("POST", "/orders/7/1", nil, "")
			_, last := at.async("POST", "/orders/7/2", nil, "")
			c.conn.Close()
			time.Sleep(300 * time.Millisecond)
			waiting, want := owner.lanes.Totals()[0].Waiting, 1
			if policy.is == proxy.Run {
				want = 2
			}
			if waiting != want {
				p.t.Errorf("%d wait, want %d", waiting, want)
			}
			x.finish("")
			if policy.is == proxy.Run {
				p.ran("/orders/7/1", owner).finish("")
			}
			p.ran("/orders/7/2", owner).finish("")
			(<-last).is(p.t, "the last", 200, "", "")
			p.quiet("all have run")
			gone := float64(2 - want)
			for name, n := range map[string]float64{"lanekeeper_rejected_total": gone, "lanekeeper_unknown_total": 0} {
				if got := at.metric(name); got != n {
					p.t.Errorf("%s is %v, want %v", name, got, n)
				}
			}
			at.leftAt(gone, 1-gone)
			if logged := strings.Contains(at.log.String(), `"status":499`); logged != (gone == 1) {
				p.t.Errorf("the log: %s", at.log)
			}
			return said
		})
	}
	both(t, "while it runs", change{}, nil, func(p *pair, at *member) (said []string) {
		c, _ := at.async("POST", "/orders/7/0", nil, "")
		x := p.ran("/orders/7/0", p.nodes[0])
		_, next := at.async("POST", "/orders/7/1", nil, "")
		c.conn.Close()
		time.Sleep(3 * time.Second)
		p.quiet("the service is still at work")
		x.finish("")
		p.ran("/orders/7/1", p.nodes[0]).finish("")
		(<-next).is(p.t, "the next", 200, "", "")
		at.leftAt(0, 1)
		return said
	})
	bubble(t, "before the owner could be told", func(t *testing.T) {
		p := startPair(t, change{}, nil)
		busy := p.leave("7")
		c, _ := p.nodes[1].async("POST", "/orders/7/0", nil, "")
		_, next := p.nodes[1].async("POST", "/orders/7/1", nil, "")
		c.conn.Close()
		time.Sleep(300 * time.Millisecond)
		p.take("7", p.nodes[0], busy, nil)
		p.ran("/orders/7/1", p.nodes[0]).finish("")
		(<-next).is(t, "the next", 200, "", "")
	})
}

// What its client has left takes no memory at the owner, long before its patience
// would have ended. Mutant: the owner's timer keeps the request.
func TestARequestThatLeftTakesNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, lane(func(l *proxy.Lane) { l.QueueTimeout = time.Hour }), nil)
		_, a := p.nodes[1].async("POST", "/orders/7/0", nil, "")
		x := p.ran("/orders/7/0", p.nodes[0])
		inUse := func() int {
			time.Sleep(time.Second)
			for range 3 { // empties pools
				runtime.GC()
			}
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			return int(stats.HeapAlloc)
		}
		body := strings.Repeat("b", 60_000)
		var before int
		for i := range 52 {
			if i == 2 {
				before = inUse()
			}
			for range 4 {
				c := p.nodes[1].open()
				c.write("POST", "/orders/7/1", nil, body)
				synctest.Wait()
				c.conn.Close()
			}
			time.Sleep(300 * time.Millisecond)
			if n := p.nodes[0].lanes.Totals()[0].Waiting; n != 0 {
				t.Fatalf("%d still wait", n)
			}
		}
		if grown := inUse() - before; grown > 3<<20 {
			t.Errorf("200 requests of 60 kB left %d KiB behind", grown>>10)
		}
		x.finish("")
		(<-a).is(t, "the first", 200, "", "")
	})
}

// Mutants: a request that may have run is answered as not executed; one that was
// sent is sent again; the owner keeps what the ingress cannot be told of; the memory
// of a call that nobody waits for is used again while the hop still has it.
func TestALostOwner(t *testing.T) {
	lost := func(t *testing.T, p *pair, running, waiting <-chan *answer) {
		t.Helper()
		(<-running).is(t, "the one that ran", 502, "peer-lost", "unknown")
		(<-waiting).is(t, "the one that waited", 502, "peer-lost", "unknown")
		if got := p.nodes[1].metric("lanekeeper_forwarded_total", "result", "unknown"); got != 2 {
			t.Errorf("forwarded_total{unknown} is %v", got)
		}
		if got := p.nodes[1].metric("lanekeeper_unknown_total"); got != 2 {
			t.Errorf("unknown_total is %v", got)
		}
	}
	begin := func(t *testing.T) (p *pair, x *exchange, running, waiting <-chan *answer) {
		p = startPair(t, change{}, nil)
		_, running = p.nodes[1].async("POST", "/orders/7/0", nil, "")
		_, waiting = p.nodes[1].async("POST", "/orders/7/1", nil, "")
		return p, p.ran("/orders/7/0", p.nodes[0]), running, waiting
	}
	bubble(t, "dead", func(t *testing.T) {
		p, x, running, waiting := begin(t)
		p.sever()
		p.view() // each takes the other for dead
		lost(t, p, running, waiting)
		if got := p.nodes[0].lanes.Totals()[0].Waiting; got != 0 {
			t.Errorf("%d still wait for an ingress that is gone", got)
		}
		x.finish("")
		p.heal()
		p.view(p.nodes[0], p.nodes[1])
		time.Sleep(time.Minute)
		p.quiet("nothing is sent twice")
		_, next := p.nodes[1].async("POST", "/orders/7/2", nil, "")
		p.ran("/orders/7/2", p.nodes[0]).finish("")
		(<-next).is(t, "the next", 200, "", "")
	})
	bubble(t, "unreachable for long", func(t *testing.T) {
		p, x, running, waiting := begin(t)
		began := time.Now()
		p.sever()
		lost(t, p, running, waiting)
		lateBy(t, "peer-lost", time.Since(began), 10*time.Second+30*time.Second+2*time.Second)
		var next []<-chan *answer // while the hop still has those that were given up
		for i := range 2 {
			_, a := p.nodes[1].async("POST", fmt.Sprint("/orders/7/", 2+i), nil, "")
			next = append(next, a)
		}
		p.heal()
		x.finish("")
		for i, a := range next {
			p.awaits(fmt.Sprint("/orders/7/", 2+i)).finish(fmt.Sprint("number ", i))
			if a := <-a; a.status != 200 || a.body != fmt.Sprint("number ", i) {
				t.Errorf("number %d behind them: %d %s %q", i, a.status, a.slug(), a.body)
			}
		}
		time.Sleep(time.Minute)
		p.quiet("what waited has left, and what ran ran once")
	})
	bubble(t, "unreachable for a moment", func(t *testing.T) {
		p, x, running, waiting := begin(t)
		p.sever()
		_, third := p.nodes[1].async("POST", "/orders/7/2", nil, "")
		x.finish("it ran")
		p.heal()
		time.Sleep(2 * time.Second)
		if a := <-running; a.status != 200 || a.body != "it ran" {
			t.Errorf("the one that ran: %d %s", a.status, a.slug())
		}
		p.ran("/orders/7/1", p.nodes[0]).finish("")
		(<-waiting).is(t, "the one that waited", 200, "", "")
		p.ran("/orders/7/2", p.nodes[0]).finish("")
		(<-third).is(t, "the one that was not sent", 200, "", "")
		p.quiet("nothing is sent twice")
	})
	bubble(t, "before it had read the request", func(t *testing.T) {
		p := startPair(t, change{lag: func() time.Duration { return 500 * time.Millisecond }}, nil)
		time.Sleep(5 * time.Second) // for the hop to connect
		_, a := p.nodes[1].async("POST", "/orders/7/0", nil, "")
		began := time.Now()
		p.sever()
		(<-a).is(t, "the request", 502, "peer-lost", "unknown")
		lateBy(t, "peer-lost", time.Since(began), 10*time.Second+30*time.Second+2*time.Second)
		p.heal()
		time.Sleep(time.Minute)
		p.quiet("it has been answered")
	})
	bubble(t, "and its ingress, whose body was on the way", func(t *testing.T) {
		// The turn of a request whose body will never come ends.
		p := startPair(t, lane(func(l *proxy.Lane) { l.QueueTimeout = 5 * time.Minute }), nil)
		p.cutBulk()
		_, a := p.nodes[1].async("POST", "/orders/7/0", nil, strings.Repeat("b", 100_000))
		p.quiet("its body has not come")
		_, next := p.nodes[0].async("POST", "/orders/7/1", nil, "")
		p.quiet("nothing passes it")
		began := time.Now()
		p.sever()
		p.view()
		(<-a).is(t, "the one without a body", 502, "peer-lost", "unknown")
		p.awaits("/orders/7/1").finish("")
		lateBy(t, "the lane is free", time.Since(began), 0)
		(<-next).is(t, "the next", 200, "", "")
	})
}

// Mutants: a request that nobody could take is said to be unknown; it is not
// taken out of the hop; the ingress waits without end.
func TestNobodyToTakeARequest(t *testing.T) {
	bubble(t, "no owner", func(t *testing.T) {
		p := startPair(t, change{}, nil)
		busy := p.leave("7")
		for i, at := range p.nodes {
			a, took := at.after("POST", "/orders/7", nil, "")
			a.is(t, at.self.Name, 503, "no-owner", "no")
			a.within(t, at.self.Name, 1, 1)
			lateBy(t, "no-owner", took, 10*time.Second)
			if got := at.metric("lanekeeper_forwarded_total", "result", "not_executed"); got != 1 {
				t.Errorf("node %d: forwarded_total{not_executed} is %v", i, got)
			}
		}
		p.take("7", p.nodes[0], busy, nil)
		time.Sleep(time.Minute)
		p.quiet("they have been answered")
	})
	bubble(t, "an owner that cannot be reached", func(t *testing.T) {
		p := startPair(t, change{}, nil)
		p.sever()
		a, took := p.nodes[1].after("POST", "/orders/7", http.Header{"Prefer": {"wait=3"}}, "")
		a.is(t, "the request", 503, "no-owner", "no")
		lateBy(t, "no-owner", took, 3*time.Second)
		p.heal()
		time.Sleep(time.Minute)
		p.quiet("it has been answered")
	})
	bubble(t, "not ready", func(t *testing.T) {
		p := startPair(t, change{}, nil)
		for _, at := range p.nodes {
			at.edge.unready = errors.New("too few members")
			a := at.send("POST", "/orders/7", nil, "")
			a.is(t, at.self.Name, 503, "not-ready", "no")
			if a.problem.Detail != "too few members" {
				t.Errorf("%s", a.problem.Detail)
			}
			_, b := at.async("GET", "/free", nil, "")
			p.ran("/free", at).finish("")
			(<-b).is(t, "bypass", 200, "", "")
		}
	})
	bubble(t, "an owner without the route", func(t *testing.T) {
		p := startPair(t, change{proxy: func(node int, c *proxy.Config) {
			if node == 0 {
				c.Routes[0].Name = "renamed"
			}
		}}, nil)
		p.nodes[1].send("POST", "/orders/7", nil, "").is(t, "an unknown route", 503, "not-ready", "no")
		_, a := p.nodes[0].async("POST", "/orders/7", nil, "")
		p.ran("/orders/7", p.nodes[0]).finish("")
		(<-a).is(t, "the owner's own", 200, "", "")
	})
}

// The limits are the ingress's, who may have been configured anew first. Mutant:
// the owner takes those of its own route.
func TestTheIngressSaysHowLongARequestMayTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, change{proxy: func(node int, c *proxy.Config) {
			if node == 1 {
				l := &c.Routes[0].Lane
				l.UpstreamTimeout, l.HoldFor, l.MaxDepth, l.MaxResponse = 3*time.Second, 2*time.Second, 1, 10
			}
		}}, nil)
		a := p.nodes[1].open()
		began := time.Now()
		a.write("POST", "/orders/7/0", nil, "")
		p.ran("/orders/7/0", p.nodes[0])
		_, second := p.nodes[1].async("POST", "/orders/7/1", nil, "")
		p.nodes[1].send("POST", "/orders/7/2", nil, "").is(t, "the third", 429, "lane-full", "no")
		_, local := p.nodes[0].async("POST", "/orders/7/3", nil, "") // its own limits are wider
		first, _ := a.read("POST")
		first.is(t, "the first", 504, "upstream-timeout", "unknown")
		lateBy(t, "upstream-timeout", time.Since(began), 3*time.Second)
		x := p.awaits("/orders/7/1")
		lateBy(t, "the end of the hold", time.Since(began), 5*time.Second)
		x.write("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789")
		p.quiet("a response above max_response streams under the lane")
		x.write("0123456789")
		close(x.done)
		p.ran("/orders/7/3", p.nodes[0]).finish("")
		(<-second).is(t, "the second", 200, "", "")
		(<-local).is(t, "the owner's own", 200, "", "")
	})
}

// An owner that gives up what waits. Mutants: the answer is unknown; it comes
// without the depth; a request whose turn was refused runs, or keeps its lane.
func TestAnOwnerThatEnds(t *testing.T) {
	for _, end := range []struct {
		name, slug string
		evict      func(*member)
	}{
		{"stops", "draining", func(m *member) { m.lanes.Evict(proxy.ErrStopping) }},
		{"loses the partition", "ownership-moved", func(m *member) { m.lanes.EvictPartition(partition("7"), errors.New("it was lost")) }},
	} {
		both(t, end.name, change{}, nil, func(p *pair, at *member) (said []string) {
			_, first := at.async("POST", "/orders/7/0", nil, "")
			_, second := at.async("POST", "/orders/7/1", nil, "")
			_, third := at.async("POST", "/orders/7/2", nil, "")
			end.evict(p.nodes[0])
			for _, a := range []<-chan *answer{second, third} {
				a := <-a
				a.is(p.t, "one that waited", 503, end.slug, "no")
				said = append(said, told(a), a.problem.Detail)
			}
			p.ran("/orders/7/0", p.nodes[0]).finish("")
			p.quiet("the others have been answered")
			return append(said, told(<-first))
		})
	}
	both(t, "takes nothing new", change{}, nil, func(p *pair, at *member) (said []string) {
		_, first := at.async("POST", "/orders/7/0", nil, "")
		p.nodes[0].lanes.Close()
		a := at.send("POST", "/orders/7/1", nil, "")
		a.is(p.t, "a new one", 503, "draining", "no")
		p.ran("/orders/7/0", p.nodes[0]).finish("")
		return append(said, told(a), told(<-first))
	})
	both(t, "may not run it any more", change{}, nil, func(p *pair, at *member) (said []string) {
		_, first := at.async("POST", "/orders/7/0", nil, "")
		_, second := at.async("POST", "/orders/7/1", nil, "")
		x := p.ran("/orders/7/0", p.nodes[0])
		p.nodes[0].edge.refuse(errors.New("the node stood still"))
		x.finish("")
		a := <-second
		a.is(p.t, "the second", 503, "ownership-moved", "no")
		p.quiet("its turn was refused")
		p.nodes[0].edge.refuse(nil)
		_, third := at.async("POST", "/orders/7/2", nil, "")
		p.ran("/orders/7/2", p.nodes[0]).finish("")
		return append(said, told(<-first), told(a), a.problem.Detail, told(<-third))
	})
}

// What stood still while it connected to the service sends nothing after that.
// Mutant: a request is guarded before it has a connection.
func TestStandstillWhileConnecting(t *testing.T) {
	var p *pair
	dials := change{proxy: func(node int, c *proxy.Config) {
		upstream := &c.Upstreams[0]
		dial := upstream.Dial
		upstream.Dial = func(address string) (net.Conn, error) {
			p.nodes[0].edge.refuse(errors.New("the node stood still"))
			return dial(address)
		}
	}}
	both(t, "while it connects", dials, nil, func(now *pair, at *member) []string {
		p = now
		_, first := at.async("POST", "/orders/7/0", nil, "")
		a := <-first
		a.is(p.t, "the first", 503, "ownership-moved", "no")
		p.quiet("it was refused")
		return []string{told(a)}
	})
}

// Stop does not wait for a service that has fallen silent in the midst of a
// response. Mutant: a stream for another node is not ended by Stop.
func TestAnOwnerThatStopsEndsItsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, change{}, nil)
		c := p.nodes[1].open()
		io.WriteString(c.conn, "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n")
		x := p.ran("/orders/7", p.nodes[0])
		stream(x, "chunked", 5, bytes.Repeat([]byte("x"), 50_000), func(i int) bool { return i < 3 })
		end := make(chan string, 1)
		go func() { end <- brokenOff(c, "GET") }()
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p.nodes[0].proxy.Stop(ctx)
		p.nodes[0].hop.Stop(ctx)
		if took := time.Since(began); took > time.Second {
			t.Errorf("Stop took %v", took)
		}
		if end := <-end; end != "200, broken off" {
			t.Errorf("the client was told: %s", end)
		}
	})
}

// A frame that contradicts itself must neither open a second lane for its key nor
// end the process. Mutant: the partition is believed.
func TestAForeignPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t, change{}, nil)
		for _, n := range []int{partition("8"), partitions, 1 << 30} {
			in := &peer.Inbound{Request: peer.Request{Route: "order", Key: []byte("order:7")}, Partition: n}
			refusal, mine := p.nodes[0].proxy.ServeForwarded(in)
			if !mine || refusal == nil || refusal.Problem != "not-ready" || refusal.Executed != peer.NotExecuted {
				t.Errorf("partition %d: %+v, %v", n, refusal, mine)
			}
		}
		p.quiet("they were refused")
	})
}

func (e *edge) refuse(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.guard = func() error { return err }
}

// Requests keep their order while their owner changes. Mutants: a node that
// became the owner runs newcomers before what waits in its hop; it runs beside
// the old owner; what ran here counts, or is logged, as the other's answer.
func TestRequestsKeepTheirOrderAcrossOwners(t *testing.T) {
	deep := lane(func(l *proxy.Lane) { l.MaxDepth, l.QueueTimeout = 100, 5*time.Minute })
	bubble(t, "the ingress becomes the owner", func(t *testing.T) {
		p := startPair(t, deep, nil)
		owner, ingress := p.nodes[0], p.nodes[1]
		_, running := ingress.async("POST", "/orders/7/0", nil, "")
		_, waiting := ingress.async("POST", "/orders/7/1", nil, "")
		busy := p.leave("7")
		var held []<-chan *answer
		for i := range 4 {
			_, a := ingress.async("POST", fmt.Sprintf("/orders/7/%d", i+2), nil, "")
			held = append(held, a)
		}
		var newcomer <-chan *answer
		p.take("7", ingress, busy, func() { _, newcomer = ingress.async("POST", "/orders/7/6", nil, "") })
		_, other := owner.async("POST", "/orders/7/7", nil, "")
		x := p.ran("/orders/7/0", owner)
		p.quiet("the old owner still runs")
		x.finish("")
		last := p.ran("/orders/7/1", owner)
		p.quiet("the old owner still runs")
		last.finish("")
		tickets := x.get("Lanekeeper-Ticket")
		for i := range 6 {
			x := p.ran(fmt.Sprintf("/orders/7/%d", i+2), ingress)
			if ticket := x.get("Lanekeeper-Ticket"); ticket <= tickets && i < 5 {
				t.Errorf("ticket %s comes after %s", ticket, tickets)
			} else {
				tickets = ticket
			}
			p.quiet("one at a time")
			x.finish("")
		}
		for i, a := range append([]<-chan *answer{running, waiting, newcomer, other}, held...) {
			(<-a).is(t, fmt.Sprint(i), 200, "", "")
		}
		for result, want := range map[string]float64{"local": 5, "response": 2, "unknown": 0, "not_executed": 0} {
			if got := ingress.metric("lanekeeper_forwarded_total", "result", result); got != want {
				t.Errorf("forwarded_total{%s} is %v, want %v", result, got, want)
			}
		}
		_, local := ingress.async("POST", "/orders/7/8", nil, "")
		p.ran("/orders/7/8", ingress).finish("")
		(<-local).is(t, "one that came to its owner", 200, "", "")
		if got := ingress.metric("lanekeeper_local_total"); got != 1 {
			t.Errorf("local_total is %v, want 1", got)
		}
		if got := strings.Count(ingress.log.String(), `"owner":"lk-0","forwarded":true`); got != 2 {
			t.Errorf("%d lines of the log name the other node, want 2:\n%s", got, ingress.log)
		}
	})
	bubble(t, "and is full", func(t *testing.T) {
		p := startPair(t, change{}, nil)
		ingress := p.nodes[1]
		busy := p.leave("7")
		var answers []<-chan *answer
		for i := range 6 {
			_, a := ingress.async("POST", fmt.Sprintf("/orders/7/%d", i), nil, "")
			answers = append(answers, a)
		}
		p.take("7", ingress, busy, nil)
		synctest.Wait()
		a := <-answers[5] // one runs, and four wait
		a.is(t, "the last", 429, "lane-full", "no")
		if d := a.problem.QueueDepth; d == nil || *d != 4 {
			t.Errorf("depth %v", d)
		}
		for i := range 5 {
			p.ran(fmt.Sprintf("/orders/7/%d", i), ingress).finish("")
			(<-answers[i]).is(t, fmt.Sprint(i), 200, "", "")
		}
	})
	bubble(t, "and its patience ends", func(t *testing.T) {
		p := startPair(t, change{}, nil)
		ingress := p.nodes[1]
		busy := p.leave("7")
		began := time.Now()
		ingress.async("POST", "/orders/7/0", nil, "")
		_, second := ingress.async("POST", "/orders/7/1", nil, "")
		time.Sleep(4 * time.Second)
		p.take("7", ingress, busy, nil)
		x := p.ran("/orders/7/0", ingress)
		(<-second).is(t, "the second", 503, "lane-timeout", "no")
		lateBy(t, "lane-timeout", time.Since(began), 10*time.Second) // in all
		x.finish("")
	})
	bubble(t, "back and forth", func(t *testing.T) {
		p := startPair(t, deep, nil)
		moves := 0
		var answers []<-chan *answer
		want := make(map[string][]string) // by ingress, in the order of sending
		for i := range 40 {
			at := p.nodes[i%2]
			path := fmt.Sprintf("/orders/7/%d", i)
			_, a := at.async("POST", path, nil, "")
			answers = append(answers, a)
			want[at.self.Name] = append(want[at.self.Name], path)
			owner, _ := p.owner(partition("7"))
			if to := p.other(owner); i%5 == 4 && !to.lanes.Busy(partition("7"), []byte("order:7")) { // its last move is drained
				p.move("7", to)
				moves++
			}
			if i%3 > 0 {
				x := p.next()
				want = ranFirst(t, want, x.path())
				x.finish("")
			}
		}
		if moves < 3 {
			t.Errorf("only %d moves", moves)
		}
		for x := p.next(); x != nil; x = p.next() {
			want = ranFirst(t, want, x.path())
			p.quiet("one at a time")
			x.finish("")
		}
		for i, a := range answers {
			(<-a).is(t, fmt.Sprint(i), 200, "", "")
		}
	})
}

// ranFirst takes a request from the head of its ingress's list.
func ranFirst(t *testing.T, waiting map[string][]string, path string) map[string][]string {
	t.Helper()
	for at, paths := range waiting {
		if len(paths) > 0 && paths[0] == path {
			waiting[at] = paths[1:]
			return waiting
		}
	}
	t.Fatalf("%s runs, and not in its turn: %v", path, waiting)
	return nil
}

// Mutants: an observed request asks its owner; its lane is the partition's; a
// bypass goes over the hop.
func TestWhatNeedsNoOwner(t *testing.T) {
	bubble(t, "observe", func(t *testing.T) {
		p := startPair(t, lane(func(l *proxy.Lane) { l.Mode = proxy.Observe }), nil)
		p.sever()
		for _, at := range p.nodes {
			_, a := at.async("POST", "/orders/7", nil, "")
			_, b := at.async("POST", "/orders/7", nil, "")
			x, y := p.ran("/orders/7", at), p.ran("/orders/7", at)
			if x.get("Lanekeeper-Key") != "order:7" {
				t.Errorf("the observed request has no lane:\n%s", x.head)
			}
			x.finish("")
			y.finish("")
			(<-a).is(t, "observed", 200, "", "")
			(<-b).is(t, "observed", 200, "", "")
			for result, want := range map[string]float64{"clear": 1, "overlap": 1, "no_room": 0} {
				if got := at.metric("lanekeeper_observed_total", "result", result); got != want {
					t.Errorf("%s: observed_total{%s} is %v, want %v", at.self, result, got, want)
				}
			}
			if got := at.metric("lanekeeper_forwarded_total") + at.metric("lanekeeper_local_total"); got != 0 {
				t.Errorf("%s: %v were counted as ordered", at.self, got)
			}
		}
	})
	both(t, "bypass", change{}, nil, func(p *pair, at *member) (said []string) {
		p.sever()
		for _, r := range []string{"POST /other HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", "OPTIONS /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n"} {
			c := at.open()
			io.WriteString(c.conn, r)
			x := p.next()
			if x == nil || x.by() != at.self.Name {
				p.t.Fatalf("%q does not run where it came: %v", r, x)
			}
			x.finish("free")
			said = append(said, x.head, c.raw("GET"))
		}
		return said
	})
}

// turmoil is a service that notes what runs, and when.
type turmoil struct {
	t      *testing.T
	mu     sync.Mutex // guards the rest
	random *rand.Rand
	ran    map[string]int // by path
	shared map[string]int // now at the service, by key
	alone  map[string]int
	last   map[string]string // ticket of an exclusive one, by key and the process that drew it
	newest map[string]string // of any
	long   map[string]bool   // answers that stream, by path
	slow   int               // one in so many takes seconds; 0: none does
}

func newTurmoil(t *testing.T, seed uint64) *turmoil {
	return &turmoil{
		t: t, random: rand.New(rand.NewPCG(seed, 1)), ran: make(map[string]int), shared: make(map[string]int),
		alone: make(map[string]int), last: make(map[string]string), newest: make(map[string]string), long: make(map[string]bool),
	}
}

func (s *turmoil) number(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.IntN(n)
}

func (s *turmoil) pause(most time.Duration) time.Duration {
	return time.Duration(s.number(int(most/time.Microsecond))) * time.Microsecond
}

func (s *turmoil) answer(x *exchange) {
	exclusive := !strings.HasPrefix(x.start, "GET")
	key, ticket := x.get("Lanekeeper-Key"), x.get("Lanekeeper-Ticket")
	s.begin(x.path(), key, ticket, exclusive)
	if time.Sleep(s.pause(20 * time.Millisecond)); s.slow > 0 && s.number(s.slow) == 0 {
		time.Sleep(s.pause(8 * time.Second))
	}
	s.end(key, exclusive) // before the answer: nobody can know later
	sum := fmt.Sprintf("%s %x", x.path(), sha256.Sum256([]byte(x.body)))
	kind := s.number(12)
	if kind == 1 || kind == 2 {
		s.mu.Lock()
		s.long[x.path()] = true
		s.mu.Unlock()
	}
	switch kind {
	case 0:
		x.conn.Close()
	case 1:
		x.ok(sum + strings.Repeat("l", 300_000)) // streams
	case 2:
		x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(sum), sum)
		x.write("%x\r\n%s\r\n0\r\n\r\n", 200_000, strings.Repeat("c", 200_000))
	default:
		x.ok(sum)
	}
}

// broke reports whether an answer may have broken off, even before its first byte.
func (s *turmoil) broke(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.long[path]
}

// requests is how many ran; some may still do, for clients that have gone.
func (s *turmoil) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ran)
}

func (s *turmoil) begin(path, key, ticket string, exclusive bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ran[path]++; s.ran[path] > 1 {
		s.t.Errorf("%s ran %d times", path, s.ran[path])
	}
	if s.alone[key] > 0 || exclusive && s.shared[key] > 0 {
		s.t.Errorf("%s runs beside %d exclusive and %d shared ones of %s", path, s.alone[key], s.shared[key], key)
	}
	process := key + ticket[len(ticket)-12:]
	before := s.last[process]
	if exclusive {
		before = s.newest[process]
	}
	if before > ticket {
		s.t.Errorf("%s of %s runs after %s", ticket, key, before)
	}
	s.newest[process] = max(s.newest[process], ticket)
	if exclusive {
		s.alone[key]++
		s.last[process] = ticket
	} else {
		s.shared[key]++
	}
}

func (s *turmoil) end(key string, exclusive bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if exclusive {
		s.alone[key]--
	} else {
		s.shared[key]--
	}
}

// client sends requests until it has sent n, and checks that each answer is its own.
func (s *turmoil) client(p *pair, name string, n int) {
	var c *client
	at := p.nodes[s.number(2)]
	for i := range n {
		if c == nil {
			conn, err := p.dial(stranger, at.port.address, false)
			if err != nil {
				s.t.Error(err)
				return
			}
			c = &client{t: s.t, conn: conn, reader: bufio.NewReader(conn)}
		}
		method := []string{"POST", "POST", "GET"}[s.number(3)]
		body := strings.Repeat(name, []int{0, 1, 100, 20_000}[s.number(4)])
		path := fmt.Sprintf("/orders/%d/%s-%d", s.number(3), name, i)
		prefer := ""
		if s.number(6) == 0 {
			prefer = "Prefer: wait=0\r\n"
		}
		fmt.Fprintf(c.conn, "%s %s HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n%s", method, path, prefer, len(body), body)
		if s.number(8) == 0 { // hangs up
			time.Sleep(s.pause(600 * time.Millisecond))
			c.conn.Close()
			c = nil
			continue
		}
		if _, err := c.reader.Peek(1); err != nil && !s.broke(path) {
			s.t.Errorf("%s has no answer: %v", path, err)
		}
		a, err := c.read(method)
		if err != nil {
			c.conn.Close()
			c = nil
			continue
		}
		s.check(a, path, body)
		if a.close {
			c.conn.Close()
			c = nil
		}
	}
	if c != nil {
		c.conn.Close()
	}
}

func (s *turmoil) check(a *answer, path, body string) {
	want := fmt.Sprintf("%s %x", path, sha256.Sum256([]byte(body)))
	s.mu.Lock()
	ran := s.ran[path]
	s.mu.Unlock()
	switch {
	case a.status == 200 && !strings.HasPrefix(a.body, want):
		s.t.Errorf("%s: got %.100s, want %s", path, a.body, want)
	case a.status == 200 && ran != 1, a.problem.Executed == "no" && ran != 0:
		s.t.Errorf("%s: %d %s, but it ran %d times", path, a.status, a.slug(), ran)
	case a.status != 200 && a.problem.Executed == "":
		s.t.Errorf("%s: %d %s", path, a.status, a.body)
	}
}

// Whatever happens to clients, connections and owners at once, nobody gets
// another's answer, nothing runs twice or beside another, and what is said not to
// have run did not. Mutant: a request's context is used again before its answer is
// written.
func TestNothingGetsMixedUp(t *testing.T) {
	for seed := range uint64(3) {
		bubble(t, fmt.Sprint(seed), func(t *testing.T) {
			s := newTurmoil(t, seed)
			p := startPair(t, change{proxy: func(_ int, c *proxy.Config) {
				l := &c.Routes[0].Lane
				l.MaxDepth, l.QueueTimeout, l.MaxShared = 8, 2*time.Second, 3
			}, lag: func() time.Duration { return s.pause(3 * time.Millisecond) }}, s.answer)
			var clients sync.WaitGroup
			for i := range 12 {
				clients.Go(func() { s.client(p, fmt.Sprintf("c%d", i), 25) })
			}
			s.trouble(p, &clients, func() time.Duration { return s.pause(200 * time.Millisecond) })
			if ran := s.requests(); ran < 50 {
				t.Errorf("only %d requests ran", ran)
			}
		})
	}
}

// trouble moves partitions and breaks connections, for a time that cut tells, until the
// clients are done.
func (s *turmoil) trouble(p *pair, clients *sync.WaitGroup, cut func() time.Duration) {
	over := make(chan struct{})
	go func() { clients.Wait(); close(over) }()
	for {
		select {
		case <-over:
			return
		case <-time.After(s.pause(400 * time.Millisecond)):
		}
		for _, n := range p.nodes {
			n.lanes.Cool()
		}
		key := fmt.Sprint(s.number(3))
		owner, _ := p.owner(partition(key))
		switch to := p.other(owner); {
		case s.number(3) == 0:
			p.sever()
			time.Sleep(cut())
			p.heal()
		case !to.lanes.Busy(partition(key), []byte("order:"+key)):
			p.move(key, to)
		}
	}
}
