package zk

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"lanekeeper/lock"
)

// session is one session with the ensemble. When it has expired the client begins
// another one by itself, which has none of the nodes of this one.
type session struct {
	id   int64
	term lock.Term
	// beats are when the last two heartbeats were sent that were answered, or what the
	// leader has heard of the session by since; guarded by the Locker's mu.
	beats [2]lock.Sending
}

func (l *Locker) current() *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session
}

// greeted is called when a server has answered the greeting that was sent then, before
// anything else is sent to it: the session has this id, or none: it has expired.
func (l *Locker) greeted(id int64, sent lock.Sending) {
	l.hosts.heard()
	l.mu.Lock()
	s := l.session
	var lost []*lease
	if s != nil && s.id != id {
		s.term.End()
		for of := range l.held {
			if of.place.session == s {
				lost = append(lost, of)
			}
		}
		s, l.session = nil, nil
	}
	if s == nil && id != 0 {
		s = &session{id: id}
		s.term.Extend(sent, l.config.TTL-l.config.Margin) // a majority has agreed to it
		l.session = s
	}
	if s != nil {
		// The leader has heard of it by the greeting, but it may be a deposed one: the
		// next heartbeat tells.
		s.beats = [2]lock.Sending{sent, sent}
	}
	// The client sets its watches anew, and does not tell if it can't.
	clear(l.watches)
	l.announceLocked()
	l.mu.Unlock()
	for _, of := range lost {
		of.lose("its session has expired")
	}
	select {
	case l.pulse <- struct{}{}:
	default: // it is wanted already
	}
	if id != 0 {
		l.tried(nil)
	}
}

// announceLocked has everybody who waits look again.
func (l *Locker) announceLocked() {
	close(l.news)
	l.news = make(chan struct{})
}

func (l *Locker) newsAfterNow() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

// watchNode returns what ends when something happens to a node. The client keeps each
// watch that it was asked for until then; so those who wait for one node share one, and
// those who give up leave no more than that. News is what there was to wait for before.
func (l *Locker) watchNode(path string, news <-chan struct{}) (<-chan zk.Event, error) {
	l.mu.Lock()
	turn, ok := l.watches[path]
	l.mu.Unlock()
	if ok && !fired(turn) {
		return turn, nil
	}
	l.watching.Store(true)
	// A watch on a node that is gone already would stay for ever; so not ExistsW.
	_, _, turn, err := l.conn.GetW(path)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.news != news { // it may have been lost again
		return turn, nil
	}
	if len(l.watches) >= l.sweep {
		maps.DeleteFunc(l.watches, func(_ string, turn <-chan zk.Event) bool { return fired(turn) })
		l.sweep = 2*len(l.watches) + 64
	}
	l.watches[path] = turn
	return turn, nil
}

// fired reports whether a watch has ended. Its event is taken away; the channel is
// closed after it, so others see that as well.
func fired(turn <-chan zk.Event) bool {
	select {
	case <-turn:
		return true
	default:
		return false
	}
}

// beatAll sends heartbeats until Close.
func (l *Locker) beatAll() {
	every := l.config.TTL / 6
	for l.life.Err() == nil {
		next := every
		if !l.beat() {
			next = every / 4
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-l.pulse:
		case <-l.life.Done():
		}
		timer.Stop()
	}
}

// beat has the session live on. It reports false if the server did not answer.
func (l *Locker) beat() bool {
	l.mu.Lock()
	s := l.session
	if s == nil {
		l.mu.Unlock()
		return false
	}
	since := s.beats[0] // what a greeting may make of it from here on, this one does not prove
	l.mu.Unlock()
	sent := s.term.Now()
	err := l.ask()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || l.session != s { // the latter: it may be the other one that was asked for
		return false
	}
	over := s.term.Left() <= 0
	s.term.Extend(since, l.config.TTL-l.config.Margin)
	s.beats = [2]lock.Sending{s.beats[1], sent}
	if over {
		l.announceLocked() // somebody may have waited for that alone
	}
	return true
}

// ask returns when a majority has agreed that the session is alive.
func (l *Locker) ask() error {
	_, err := l.conn.Multi(&zk.CheckVersionRequest{Path: l.root, Version: -1})
	if errors.Is(err, zk.ErrNoNode) {
		return errors.Join(err, l.makeRoot())
	}
	return err
}

// connect begins a session.
func (l *Locker) connect(ctx context.Context) (err error) {
	l.conn, l.events, err = zk.Connect(l.config.Servers, l.config.TTL,
		zk.WithDialer(l.dial), zk.WithHostProvider(&l.hosts), zk.WithLogger(logger{l.config.Log}))
	if err != nil {
		return err
	}
	select {
	case err := <-l.first:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no server answers: %w", ctx.Err())
	}
}

// tried says what an attempt to connect came to. It matters only to Open, which gives
// up when no server can be used.
func (l *Locker) tried(err error) {
	select {
	case l.first <- err:
	default: // it is known
	}
}

// failed notes why a server could not be used.
func (l *Locker) failed(address string, err error) error {
	l.config.Log.Debug("no way to the locks' server", "address", address, "error", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure[address] = fmt.Errorf("%s: %w", address, err)
	if len(l.failure) >= l.hosts.Len() {
		l.tried(l.troubleLocked())
	}
	return err
}

func (l *Locker) troubleLocked() error {
	var errs []error
	for _, err := range l.failure {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// silence is how long a server may say nothing: there is a heartbeat in half of that,
// and when it has passed there is time for another server before leases end.
func (l *Locker) silence() time.Duration { return l.config.TTL / 3 }

// dial is how the client connects.
func (l *Locker) dial(_, address string, _ time.Duration) (net.Conn, error) {
	l.hosts.pause(l.gone)
	ctx, cancel := context.WithTimeout(l.gone, l.silence())
	defer cancel()
	conn, err := l.config.Dial(ctx, address)
	if err == nil && l.config.TLS != nil {
		conn, err = overTLS(ctx, conn, address, l.config.TLS)
	}
	if err != nil {
		return nil, l.failed(address, err)
	}
	w := &wire{Conn: conn, locker: l, address: address, sent: new(lock.Term).Now(), watched: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone.Err() != nil {
		conn.Close()
		return nil, l.gone.Err()
	}
	l.wires[w] = struct{}{}
	return w, nil
}

func overTLS(ctx context.Context, conn net.Conn, address string, config *tls.Config) (net.Conn, error) {
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// cut closes all connections.
func (l *Locker) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.wires {
		w.Conn.Close()
	}
}

// wire is a connection that reads the answer to the client's greeting before the
// client does: what it is told of the session is in no other way to be had in time.
// It ends itself when it has been silent for long; the client waits longer, and for
// the answer to its greeting ten times as long.
type wire struct {
	net.Conn
	locker  *Locker
	address string
	sent    lock.Sending // before the greeting
	met     bool
	answer  []byte // that the client has yet to read
	held    bool   // nothing has been read since then

	greeted bool          // by the client; of its writer alone
	watched chan struct{} // closed when the client has asked for its watches again
	once    sync.Once
}

// opSetWatches is the kind of request, behind the length and the number, by which the
// client asks for its watches again.
const opSetWatches = 101

// Write implements net.Conn. The client writes one request at a time.
func (w *wire) Write(b []byte) (int, error) {
	if w.greeted && len(b) >= 12 && binary.BigEndian.Uint32(b[8:]) == opSetWatches {
		w.once.Do(func() { close(w.watched) })
	}
	w.greeted = true
	return w.Conn.Write(b)
}

// hold keeps answers back until the client has asked for its watches again. It says
// since when it wants to hear of them while it reads answers, which move that time on:
// a change may be missed then, and it is a data race. Whether it has any watches is not
// known; who has to prove who it is asks for nothing before that has been answered.
func (w *wire) hold() {
	if w.held = true; w.locker.config.Username != "" || !w.locker.watching.Load() {
		return
	}
	timer := time.NewTimer(w.locker.config.TTL / 20)
	defer timer.Stop()
	select {
	case <-w.watched:
	case <-timer.C:
	case <-w.locker.gone.Done():
	}
}

// SetReadDeadline does nothing: Read knows better.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

func (w *wire) Read(b []byte) (int, error) {
	if err := w.Conn.SetReadDeadline(time.Now().Add(w.locker.silence())); err != nil {
		return 0, err
	}
	if !w.met {
		if err := w.meet(); err != nil {
			return 0, w.locker.failed(w.address, err)
		}
		w.met = true
	}
	if len(w.answer) > 0 {
		n := copy(b, w.answer)
		w.answer = w.answer[n:]
		return n, nil
	}
	if !w.held {
		w.hold()
	}
	return w.Conn.Read(b)
}

// The answer to a greeting: its length, a version, the timeout, the session, and more.
const (
	answerLeast = 4 + 4 + 8
	answerMost  = 1 << 10
)

// meet reads the answer to the greeting. What is no ZooKeeper would have the client
// reserve gigabytes and wait for them.
func (w *wire) meet() error {
	w.answer = make([]byte, 4+answerMost)
	if _, err := io.ReadFull(w.Conn, w.answer[:4]); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("it does not answer: %w", err)
		}
		return fmt.Errorf("it hangs up: it is no ZooKeeper, has no leader, or takes no more connections: %w", err)
	}
	size := binary.BigEndian.Uint32(w.answer)
	if size < answerLeast || size > answerMost {
		return fmt.Errorf("what listens there is no ZooKeeper: it answers %q", w.answer[:4])
	}
	w.answer = w.answer[:4+size]
	if _, err := io.ReadFull(w.Conn, w.answer[4:]); err != nil {
		return fmt.Errorf("it does not answer: %w", err)
	}
	timeout := time.Duration(binary.BigEndian.Uint32(w.answer[8:])) * time.Millisecond
	id := int64(binary.BigEndian.Uint64(w.answer[12:]))
	if want := w.locker.config.TTL; id != 0 && timeout != want {
		return fmt.Errorf("it has sessions last %v, not the %v of a lease: choose a lease from its minSessionTimeout to its maxSessionTimeout, which are 2 and 20 times its tickTime unless they are set", timeout, want)
	}
	w.locker.greeted(id, w.sent)
	return nil
}

func (w *wire) Close() error {
	w.locker.mu.Lock()
	delete(w.locker.wires, w)
	w.locker.mu.Unlock()
	return w.Conn.Close()
}

// hosts tells the client which server is next. Unlike the client's own it asks for
// the addresses of a name each time, and has a server that was just connected to
// tried again at once.
type hosts struct {
	mu      sync.Mutex // guards the rest
	servers []string
	next    int
	failed  int // attempts since a server answered
	dialed  time.Time
}

// Init implements zk.HostProvider.
func (h *hosts) Init(servers []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.servers = servers
	return nil
}

// Len implements zk.HostProvider.
func (h *hosts) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.servers)
}

// Next implements zk.HostProvider. Before a new round the client waits for a second.
func (h *hosts) Next() (server string, retryStart bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	server = h.servers[h.next]
	h.next = (h.next + 1) % len(h.servers)
	retryStart = h.failed == len(h.servers)
	if retryStart {
		h.failed = 0
	}
	h.failed++
	return server, retryStart
}

// Connected implements zk.HostProvider.
func (h *hosts) Connected() {}

func (h *hosts) heard() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = 0
}

// pause keeps attempts apart: a server may answer, and hang up then.
func (h *hosts) pause(ctx context.Context) {
	h.mu.Lock()
	wait := dialLeast - time.Since(h.dialed)
	h.dialed = time.Now()
	h.mu.Unlock()
	sleep(ctx, wait)
}

// logger is where the client says what it does.
type logger struct{ *slog.Logger }

func (l logger) Printf(format string, args ...any) {
	l.Debug("client of the locks' servers: " + fmt.Sprintf(format, args...))
}
