package zk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

// spy is a connection that has f see what is read before the client does.
type spy struct {
	net.Conn
	f func(read []byte)
}

func (s *spy) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if n > 0 {
		s.f(b[:n])
	}
	return n, err
}

func spying(f func([]byte)) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return &spy{conn, f}, nil
	}
}

// TestLostReply: the answer to whatever question is lost, and what the server did is
// neither forgotten nor done twice; nor is there a second holder.
//
// Mutants: who doubts whether it has a node makes another one, and both it and the one
// between wait for ever; nodes are deleted once, not until that is answered.
func TestLostReply(t *testing.T) {
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := config(relay.Address())
	far.TTL, far.Margin = 40*time.Second, time.Second
	near := far
	near.Servers = []string{s.Address}
	one, other := node(t, far), node(t, near)
	acquireNow(t, one, "x").Release(t.Context()) //nolint:errcheck // it makes the node of the lock

	relay.Mute()
	granted, next := make(chan lock.Lease, 1), make(chan lock.Lease, 1)
	go func() { granted <- acquireNow(t, one, "x") }()
	until(t, "the server has a node", func() bool { return len(s.nodes(far.Prefix, "x")) == 1 })
	go func() { next <- acquireNow(t, other, "x") }()
	until(t, "another one is behind it", func() bool { return len(s.nodes(far.Prefix, "x")) == 2 })
	relay.Cut()
	relay.Heal()
	for _, c := range []chan lock.Lease{granted, next} {
		select {
		case lease := <-c:
			lease.Release(t.Context()) //nolint:errcheck // the way is whole
		case <-time.After(patience / 2):
			t.Fatal("each waits for the other")
		}
	}

	var holders atomic.Int32
	use := func(l *Locker, n int) {
		began := time.Now()
		lease := acquireNow(t, l, "x")
		if holders.Add(1) != 1 {
			t.Errorf("cut at reply %d: two holders", n)
		}
		time.Sleep(time.Millisecond)
		holders.Add(-1)
		if err := lease.Release(t.Context()); err != nil {
			t.Errorf("cut at reply %d: Release: %v", n, err)
		}
		if took := time.Since(began); took > far.TTL/2 {
			t.Errorf("cut at reply %d: it took %v", n, took)
		}
	}
	for n := 1; n <= 8; n++ {
		relay.CutAt(n)
		var wg sync.WaitGroup
		wg.Go(func() { use(one, n) })
		wg.Go(func() { use(other, n) })
		wg.Wait()
		relay.Heal()
		use(one, n)
		if left := s.nodes(far.Prefix, "x"); len(left) > 0 {
			t.Errorf("cut at reply %d: left: %q", n, left)
		}
	}
}

// TestGivenUpUnanswered: who gives up while the server's answer is on its way has a
// node by then, doesn't know its name as the answer never comes, and does not keep it.
//
// Mutant: nothing is freed of which no name is known.
func TestGivenUpUnanswered(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := config(relay.Address())
	far.TTL, far.Margin = 40*time.Second, time.Second
	near := far
	near.Servers = []string{s.Address}
	one, other := node(t, far), node(t, near)
	acquireNow(t, other, "x").Release(t.Context()) //nolint:errcheck // it makes the node of the lock
	relay.Mute()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := one.Acquire(ctx, "x")
		ended <- err
	}()
	until(t, "the server has a node", func() bool { return len(s.nodes(far.Prefix, "x")) == 1 })
	relay.Stall()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	relay.Cut()
	if time.Sleep(50 * time.Millisecond); len(s.nodes(far.Prefix, "x")) != 1 {
		t.Fatal("it is free already: nothing is shown")
	}
	relay.Heal()
	began := time.Now()
	acquireNow(t, other, "x")
	if took := time.Since(began); took > far.TTL/2 {
		t.Errorf("free after %v", took)
	}
}

// TestExpiryAfterCreate: the way to the servers is dead from the moment on when the
// answer comes that a node was made, for longer than the session lasts. What is looked
// at then is looked at in another session, in which there is no such node; and that
// nobody is before it doesn't make it the first.
//
// Mutants: a place looks whether it is the first with the node of its last session, and
// who has no node is.
func TestExpiryAfterCreate(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServer(t)
	relays := []*locktest.Relay{locktest.NewRelay(t, s.Address), locktest.NewRelay(t, s.Address)}
	c := brief(relays[0].Address(), relays[1].Address())
	parent := []byte(c.Prefix + "/locks/x/")
	var once sync.Once
	c.Dial = spying(func(read []byte) {
		if bytes.Contains(read, parent) {
			once.Do(func() {
				relays[0].Stall()
				relays[1].Stall()
			})
		}
	})
	one, other := node(t, c), node(t, config(s.Address))
	granted := make(chan lock.Lease, 1)
	go func() { granted <- acquireNow(t, one, "x") }()
	until(t, "it has a node", func() bool { return len(s.nodes(c.Prefix, "x")) == 1 })
	until(t, "its session expires", func() bool { return len(s.nodes(c.Prefix, "x")) == 0 })
	holder := acquireNow(t, other, "x")
	for _, r := range relays {
		r.Heal()
	}
	until(t, "it waits again", func() bool { return len(s.nodes(c.Prefix, "x")) == 2 })
	time.Sleep(100 * time.Millisecond)
	select {
	case <-granted:
		t.Fatal("granted while another holds it")
	default:
	}
	if err := holder.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if lease := <-granted; lease.Token() <= holder.Token() || lease.ValidFor() <= 0 {
		t.Errorf("token %d after %d, valid for %v", lease.Token(), holder.Token(), lease.ValidFor())
	}
}

// TestExpiryWhileHolding: the way to the server is dead, and nobody says so. The lease
// ends in time for its holder, and later for the server. Who waits by that way waits
// on when there is one again.
//
// Mutants: a lease lasts for ever; a lease does not look at its end; places do not
// compare sessions.
func TestExpiryWhileHolding(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := brief(relay.Address())
	one, other := node(t, far), node(t, config(s.Address))
	holder := acquireNow(t, one, "x")
	blocker := acquireNow(t, other, "y")
	waits := make(chan lock.Lease, 1)
	go func() { waits <- acquireNow(t, one, "y") }()
	until(t, "it waits", func() bool { return len(s.nodes(far.Prefix, "y")) == 2 })
	relay.Stall()
	lease := heir(t, other, "x", holder)
	if !errors.Is(holder.Err(), lock.ErrLost) {
		t.Errorf("lost: %v", holder.Err())
	}
	short, end := context.WithTimeout(t.Context(), time.Second)
	defer end()
	if err := holder.Release(short); !errors.Is(err, lock.ErrLost) {
		t.Errorf("the release of what was lost: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := one.Acquire(ctx, "z"); !errors.Is(err, lock.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that does not answer: %v", err)
	}
	relay.Heal()
	if err := blocker.Release(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case next := <-waits:
		if next.Token() <= blocker.Token() {
			t.Errorf("token %d after %d", next.Token(), blocker.Token())
		}
	case <-time.After(patience):
		t.Fatal("it waits for what was before")
	}
	if lease.Err() != nil {
		t.Errorf("another's loss cost the lease: %v", lease.Err())
	}
}

// greeter keeps the first answer that a server gives: length, version, timeout, session,
// password.
type greeter struct {
	mu     sync.Mutex
	answer []byte
}

func (g *greeter) read(b []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if need := 4 + 4 + 4 + 8 + 4 + 16 - len(g.answer); need > 0 {
		g.answer = append(g.answer, b[:min(need, len(b))]...)
	}
}

// takeOver has another connection use the session, and returns it.
func (g *greeter) takeOver(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	g.mu.Lock()
	defer g.mu.Unlock()
	hello := binary.BigEndian.AppendUint32(nil, 4+8+4+8+4+16)
	hello = binary.BigEndian.AppendUint32(hello, 0)
	hello = binary.BigEndian.AppendUint64(hello, 0)
	hello = append(hello, g.answer[8:]...)
	conn.Write(hello) //nolint:errcheck // then it is not answered
	reply := make([]byte, len(g.answer))
	if _, err := io.ReadFull(conn, reply); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(reply[12:20], g.answer[12:20]) {
		t.Fatalf("not the session: %x, %x", reply, g.answer)
	}
	return conn
}

// TestSessionEndedByAnother: a session can end before its time. Its leases are lost
// when that is known, not when they would have ended.
//
// Mutant: only the end of its term ends a lease.
func TestSessionEndedByAnother(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServer(t)
	c := config(s.Address)
	c.TTL = 40 * time.Second
	var g greeter
	spied := spying(g.read)
	var dialed atomic.Int32
	ended := make(chan struct{})
	c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		if dialed.Add(1) > 1 { // what it would be told before depends on chance
			<-ended
		}
		return spied(ctx, address)
	}
	l := node(t, c)
	holder := acquireNow(t, l, "x")
	began := time.Now()
	conn := g.takeOver(t, s.Address)
	until(t, "it is cut off", func() bool { return dialed.Load() == 2 })
	end := binary.BigEndian.AppendUint32(nil, 8)
	end = binary.BigEndian.AppendUint32(end, 1)
	end = binary.BigEndian.AppendUint32(end, 1<<32-11) // the opcode of the end
	conn.Write(end)                                    //nolint:errcheck // then it does not end
	until(t, "it ends", func() bool { return len(s.nodes(c.Prefix, "x")) == 0 })
	close(ended)
	select {
	case <-holder.Done():
	case <-time.After(c.TTL / 3):
		t.Fatal("it does not know")
	}
	t.Logf("known after %v: %v", time.Since(began), holder.Err())
	if !errors.Is(holder.Err(), lock.ErrLost) || !strings.Contains(holder.Err().Error(), "expired") {
		t.Errorf("lost: %v", holder.Err())
	}
	acquireNow(t, l, "x").Release(t.Context()) //nolint:errcheck // it was granted
}

// TestAskedInAnotherSession: the client sends what was asked for in a session that has
// expired meanwhile in the next one, in which it makes nodes that nobody knows of by
// their names; the answers to some are lost.
//
// Mutants: a node is taken for one of the session that it was asked for in; those that
// there may be of the session before are not looked for, which not every run sees.
func TestAskedInAnotherSession(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := brief(relay.Address())
	one, other := node(t, far), node(t, config(s.Address))
	for _, cutAt := range []int{0, 2, 3} {
		session := one.current()
		acquireNow(t, one, "x").Release(t.Context()) //nolint:errcheck // it makes the node of the lock
		relay.Stall()
		id := []byte(fmt.Sprintf("0x%x", session.id))
		until(t, "its session expires", func() bool { return !bytes.Contains([]byte(locktest.Word(s.Address, "dump")), id) })
		var wg sync.WaitGroup
		for range 20 { // some just before the client gives up what is not sent, and some after that
			wg.Go(func() {
				lease := acquireNow(t, one, "x")
				lease.Release(t.Context()) //nolint:errcheck // seen below
			})
			time.Sleep(60 * time.Millisecond)
		}
		relay.Heal()
		relay.CutAt(cutAt)
		wg.Wait()
		acquireNow(t, other, "x").Release(t.Context()) //nolint:errcheck // it was granted
		until(t, "nothing is left", func() bool { return len(s.nodes(far.Prefix, "x")) == 0 })
	}
}

// TestLengthOfLeases: a lease is counted from before the last heartbeat but two, however
// long answers take.
//
// Mutants: it counts from the last heartbeat; from the last but one; from when that
// was answered, or from when the session was.
func TestLengthOfLeases(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServer(t)
	for range 5 {
		if measureLeases(t, s) {
			return
		}
	}
	t.Fatal("this machine is too busy: connections are given up all the time")
}

// measureLeases reports false if the connection was lost meanwhile: then more is
// certain than it knows of.
func measureLeases(t *testing.T, s *server) bool {
	relay := locktest.NewRelay(t, s.Address)
	c := config(relay.Address())
	c.TTL, c.Margin = 3*time.Second, 50*time.Millisecond
	const late = 100 * time.Millisecond
	relay.Delay(late)
	var once sync.Once
	var met time.Time
	var dialed atomic.Int32
	spied := spying(func([]byte) { once.Do(func() { met = time.Now() }) })
	c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		dialed.Add(1)
		return spied(ctx, address)
	}
	l := node(t, c)
	lease := acquireNow(t, l, "x")
	defer lease.Release(t.Context()) //nolint:errcheck // it may be lost
	first := c.TTL - c.Margin - late - time.Since(met)
	excess := lease.ValidFor() - first
	time.Sleep(c.TTL) // the session was new: all that is known of it is certain
	longest, shortest := time.Duration(0), c.TTL
	for began := time.Now(); time.Since(began) < c.TTL/2; time.Sleep(time.Millisecond) {
		left := lease.ValidFor()
		longest, shortest = max(longest, left), min(shortest, left)
	}
	if dialed.Load() > 1 || lease.Err() != nil {
		return false
	}
	if excess > late/10 {
		t.Errorf("at once valid for %v longer than is certain", excess)
	}
	// Between two heartbeats are TTL/6 and an answer; the last one's is on its way, too.
	if most := c.TTL - c.TTL/3 - c.Margin - 3*late; longest > most {
		t.Errorf("valid for %v, of which %v are certain", longest, most)
	}
	t.Logf("valid for %v to %v of a TTL of %v", shortest, longest, c.TTL)
	return true
}

// TestServerRestarts: a server that is away for less than a TTL costs neither who
// holds nor who waits anything.
//
// Mutant: a lost connection costs leases.
func TestServerRestarts(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServer(t)
	c := config(s.Address)
	c.TTL, c.Margin = 40*time.Second, time.Second
	one, other := node(t, c), node(t, c)
	holder := acquireNow(t, one, "x")
	granted := make(chan lock.Lease, 1)
	go func() { granted <- acquireNow(t, other, "x") }()
	until(t, "it waits", func() bool { return len(s.nodes(c.Prefix, "x")) == 2 })
	s.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	released := make(chan error, 1)
	began := time.Now()
	s.Start()
	if left := holder.ValidFor(); holder.Err() != nil || left <= 0 || len(granted) > 0 {
		t.Errorf("after %v: valid for %v, %v", time.Since(began), left, holder.Err())
	}
	go func() { released <- holder.Release(ctx) }()
	if err := <-released; err != nil {
		t.Errorf("Release: %v", err)
	}
	next := <-granted
	if next.Token() <= holder.Token() {
		t.Errorf("token %d after %d", next.Token(), holder.Token())
	}
	t.Logf("handed over %v after the restart began", time.Since(began))
	if err := next.Release(ctx); err != nil {
		t.Error(err)
	}
	until(t, "nothing is left", func() bool {
		children, _, err := s.conn().Children(c.Prefix + "/locks/x")
		return err == nil && len(children) == 0
	})
}

// TestLeaderStandsStill: the leader of three servers stands still, as a machine without
// a network does. There is another leader in a while; no two leases are valid at once
// meanwhile, nor when the old leader goes on. Those that are longer than that are kept.
//
// Mutant: a lease lasts for ever.
func TestLeaderStandsStill(t *testing.T) {
	servers := locktest.ZooKeeper(t, 3)
	c := config(locktest.Addresses(servers)...)
	c.TTL, c.Margin = 4*time.Second, 200*time.Millisecond
	var last lock.Lease // guarded by the lock under test
	var mu sync.Mutex
	var grants, lost int
	var at time.Time
	var longest time.Duration
	nodes := []*Locker{node(t, c), node(t, c), node(t, c)}
	patient := c
	patient.TTL = 20 * time.Second
	long := acquireNow(t, node(t, patient), "long")
	short := acquireNow(t, nodes[0], "short")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { heir(t, nodes[1], "short", short) })
	for _, l := range nodes {
		wg.Go(func() {
			for ctx.Err() == nil {
				lease, err := l.Acquire(ctx, "x")
				if err != nil {
					continue
				}
				mu.Lock()
				if last != nil {
					if left := last.ValidFor(); left > 0 {
						t.Errorf("granted while another lease is valid for %v", left)
					}
					if lease.Token() <= last.Token() {
						t.Errorf("token %d after %d", lease.Token(), last.Token())
					}
					longest = max(longest, time.Since(at))
				}
				last, at = lease, time.Now()
				grants++
				mu.Unlock()
				time.Sleep(time.Millisecond)
				if lease.Err() != nil {
					mu.Lock()
					lost++
					mu.Unlock()
				}
				release, end := context.WithTimeout(context.Background(), patience)
				lease.Release(release) //nolint:errcheck // it may be lost
				end()
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return grants }
	more := func(what string) {
		t.Helper()
		before := count()
		until(t, what, func() bool { return count() > before+20 })
	}
	more("locks are granted")
	for _, s := range servers {
		if strings.Contains(locktest.Word(s.Address, "srvr"), "Mode: leader") {
			s.Freeze()
			defer s.Thaw()
			more("locks are granted by another leader")
			s.Thaw()
			more("locks are granted beside the old leader")
			break
		}
	}
	select {
	case <-short.Done(): // or it is kept, should this machine be quick
		t.Logf("a lease of %v: %v", c.TTL, short.Err())
	default:
		short.Release(t.Context()) //nolint:errcheck // then there is no heir, for which the test waits
	}
	mu.Lock()
	if longest < patient.TTL/3 && long.ValidFor() <= 0 {
		t.Errorf("there was no leader for %v, and a lease of %v was lost: %v", longest, patient.TTL, long.Err())
	}
	t.Logf("%d grants, %d lost while held, the longest time without one %v", grants, lost, longest)
	if longest < time.Second {
		t.Error("no leader stood still: nothing is shown")
	}
	mu.Unlock()
	cancel()
	wg.Wait()
}

// forgetful is a connection on which the client's request that its watches be set anew
// is sent as a ping, which nobody notices.
type forgetful struct{ net.Conn }

func (f forgetful) Write(b []byte) (int, error) {
	const setWatches, ping = 101, 11
	if len(b) > 12 && binary.BigEndian.Uint32(b[8:]) == setWatches {
		b = bytes.Clone(b)
		binary.BigEndian.PutUint32(b[8:], ping)
	}
	return f.Conn.Write(b)
}

// TestLostWatches: watches are lost with a connection, and setting them anew fails. Who
// waits looks again by itself.
//
// Mutants: nobody looks again when the way is there again; a watch of before is shared.
func TestLostWatches(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := config(relay.Address())
	far.TTL, far.Margin = 40*time.Second, time.Second
	var dialed atomic.Int32
	far.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		dialed.Add(1)
		return forgetful{conn}, err
	}
	one, other := node(t, far), node(t, config(s.Address))
	holder := acquireNow(t, other, "x")
	granted := make(chan lock.Lease, 1)
	go func() { granted <- acquireNow(t, one, "x") }()
	watches := func() int { one.mu.Lock(); defer one.mu.Unlock(); return len(one.watches) }
	until(t, "it waits", func() bool { return watches() == 1 })
	relay.Cut()
	until(t, "it is connected again", func() bool { return dialed.Load() == 2 && one.ask() == nil })
	time.Sleep(50 * time.Millisecond) // it waits again
	if err := holder.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-granted:
	case <-time.After(patience / 2):
		t.Fatal("it is not told, and does not look")
	}
}

// TestLostInTime: a lease ends for want of an answer, and the session does not. The
// lock is free when there is a way again.
//
// Mutant: what is lost is not freed.
func TestLostInTime(t *testing.T) {
	t.Parallel() // it mostly waits
	s := startServer(t)
	relay := locktest.NewRelay(t, s.Address)
	far := config(relay.Address())
	far.TTL = 6 * time.Second
	one, other := node(t, far), node(t, config(s.Address))
	holder := acquireNow(t, one, "x")
	session := one.current()
	relay.Stall()
	<-holder.Done()
	if !errors.Is(holder.Err(), lock.ErrLost) {
		t.Errorf("lost: %v", holder.Err())
	}
	relay.Heal()
	heir(t, other, "x", holder)
	if one.current() != session {
		t.Log("its session has expired: little is shown")
	}
}

// TestBehind: a server that is behind the others costs nobody what it does not know yet:
// who has drained is heard, and nobody is refused by what was.
//
// Mutants: Drained looks at what the server has; a take is refused by that; by what it
// has for the second time; a lease that has ended here alone is used.
func TestBehind(t *testing.T) {
	servers, relays := locktest.LateZooKeeper(t, "syncLimit=40")
	all := func(f func(*locktest.Relay)) {
		for _, r := range relays {
			f(r)
		}
	}
	late := &server{Server: servers[0], t: t}
	c := config(servers[0].Address)
	a := begin(t, node(t, c))
	b := begin(t, node(t, config(servers[1].Address)))
	take := func(s lock.Session, take lock.Take) lock.Taken {
		t.Helper()
		taken, err := s.Take(t.Context(), []lock.Take{take})
		if err != nil {
			t.Fatal(err)
		}
		return taken[0]
	}
	behind := func(tenure uint64) {
		t.Helper()
		text, _, err := late.conn().Get(c.Prefix + "/parts/1")
		if want := fmt.Sprintf(`"tenure":%d,`, tenure); err != nil || !bytes.Contains(text, []byte(want)) {
			t.Fatalf("the server has %s, not %s, %v: nothing is shown", text, want, err)
		}
	}
	first := take(a, lock.Take{Partition: 1}).Record
	if first.Holder != a.ID() {
		t.Fatalf("%+v", first)
	}
	behind(1)

	all((*locktest.Relay).Mute)
	second := take(b, lock.Take{Partition: 1, Holder: a.ID(), Tenure: 1, Given: true, Draining: true})
	if !second.OK || second.Record.Prev != a.ID() {
		t.Fatalf("%+v", second)
	}
	behind(1)
	drained := make(chan error, 1)
	go func() { drained <- a.Drained(t.Context(), []lock.Tenure{{Partition: 1, Tenure: 1}}) }()
	time.Sleep(300 * time.Millisecond)
	if len(drained) > 0 {
		t.Error("Drained does not ask for what has happened")
	}
	all((*locktest.Relay).Heal)
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	records, err := b.Records(t.Context())
	if err != nil || len(records) != 1 || records[0].Prev != "" {
		t.Errorf("the record names who has drained: %+v, %v", records, err)
	}
	behind(2)

	if third := take(a, lock.Take{Partition: 1, Holder: b.ID(), Tenure: 2, Given: true}); !third.OK {
		t.Fatalf("%+v", third)
	}
	behind(3)
	all((*locktest.Relay).Mute)
	if fourth := take(b, lock.Take{Partition: 1, Holder: a.ID(), Tenure: 3, Given: true}); !fourth.OK {
		t.Fatalf("%+v", fourth)
	}
	behind(3)
	taken := make(chan lock.Taken, 1)
	go func() { taken <- take(a, lock.Take{Partition: 1, Holder: b.ID(), Tenure: 4, Given: true}) }()
	time.Sleep(300 * time.Millisecond)
	if len(taken) > 0 {
		t.Error("Take does not ask for what has happened")
	}
	all((*locktest.Relay).Heal)
	if fifth := <-taken; !fifth.OK || fifth.Record.Tenure != 5 {
		t.Errorf("refused by what was: %+v", fifth)
	}

	a.(*tenant).end()
	if _, err := a.Take(t.Context(), []lock.Take{{Partition: 2}}); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Take under a lease that has ended here: %v", err)
	}
}

func begin(t *testing.T, l *Locker) lock.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := l.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
