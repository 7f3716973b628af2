package locktest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Relay stands between a Locker and its store, and does to their connections what
// networks do. All connections are treated alike; new ones too.
type Relay struct {
	target   string
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex // guards the rest
	conns  map[net.Conn]struct{}
	delay  time.Duration // of replies
	deaf   bool          // requests go nowhere
	mute   bool          // replies go nowhere
	cutAt  int           // replies until every connection is cut, in place of the last
	healed chan struct{} // closed by Heal; what was stuck goes on
}

// NewRelay makes a relay to an address, which ends with the test.
func NewRelay(t testing.TB, target string) *Relay {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{target: target, listener: listener, conns: make(map[net.Conn]struct{}), healed: make(chan struct{})}
	r.wg.Go(r.accept) // ends with the listener
	t.Cleanup(func() {
		listener.Close()
		r.Heal()
		r.Cut()
		r.wg.Wait()
	})
	return r
}

// Address is where the relay listens.
func (r *Relay) Address() string { return r.listener.Addr().String() }

// Delay has replies arrive late.
func (r *Relay) Delay(d time.Duration) { r.set(func() { r.delay = d }) }

// Mute holds back replies, of requests that the store reads.
func (r *Relay) Mute() { r.set(func() { r.mute = true }) }

// Stall holds back everything. Nobody is told: connections stay open.
func (r *Relay) Stall() { r.set(func() { r.deaf, r.mute = true, true }) }

// CutAt cuts all connections in place of the n-th reply from now on, once.
func (r *Relay) CutAt(n int) { r.set(func() { r.cutAt = n }) }

// Heal ends all of that. What was held back goes on its way.
func (r *Relay) Heal() {
	r.set(func() {
		r.delay, r.deaf, r.mute, r.cutAt = 0, false, false, 0
		close(r.healed)
		r.healed = make(chan struct{})
	})
}

// Cut closes all connections.
func (r *Relay) Cut() {
	r.set(func() {
		for conn := range r.conns {
			conn.Close()
		}
	})
}

func (r *Relay) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		store, err := net.Dial("tcp", r.target)
		if err != nil {
			client.Close()
			continue
		}
		r.set(func() { r.conns[client], r.conns[store] = struct{}{}, struct{}{} })
		r.wg.Go(func() { r.carry(client, store, r.holdRequest) }) // both end with the connection
		r.wg.Go(func() { r.carry(store, client, r.holdReply) })
	}
}

// carry moves bytes from one end to the other until either is closed.
func (r *Relay) carry(from, to net.Conn, hold func() (pass bool)) {
	defer func() {
		from.Close()
		to.Close()
		r.set(func() { delete(r.conns, from) })
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil || !hold() {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (r *Relay) holdRequest() bool { return r.hold(func() (bool, time.Duration) { return r.deaf, 0 }) }

func (r *Relay) holdReply() bool {
	cut := false
	r.set(func() {
		if r.cutAt > 0 {
			r.cutAt--
			cut = r.cutAt == 0
		}
	})
	if cut {
		r.Cut()
		return false
	}
	return r.hold(func() (bool, time.Duration) { return r.mute, r.delay })
}

func (r *Relay) hold(state func() (stuck bool, delay time.Duration)) bool {
	for {
		r.mu.Lock()
		stuck, delay := state()
		healed := r.healed
		r.mu.Unlock()
		if !stuck {
			time.Sleep(delay)
			return true
		}
		<-healed
	}
}
