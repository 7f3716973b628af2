package upstream

import (
	"context"
	"hash/crc32"
	"time"
)

// Target is one server. What may change of it is guarded by its Upstream.
type Target struct {
	Name string // as it is written; of a name that is looked up, with the address in its place
	Host string // of its URL, with port

	upstream *Upstream
	address  Address // where it is dialled
	seed     uint64  // of its place in the keys' orders

	pending int       // requests that have a place
	conns   []idle    // the newest last
	gone    bool      // its name no longer leads to it
	warming time.Time // since when it has only a part of its share; zero: it has all

	circuit circuit
	health  health
	ignore  context.CancelFunc // ends its checks; nil: there are none
}

// idle is a connection that nobody uses.
type idle struct {
	Conn
	since uint64 // the number of sweeps before, which cost no look at a clock with each request
}

func newTarget(u *Upstream, name string, address Address) *Target {
	sum := uint64(crc32.ChecksumIEEE([]byte(name)))
	return &Target{Name: name, Host: address.Host, upstream: u, address: address, seed: mix(sum + 0x9e3779b97f4a7c15)}
}

// available reports whether t may get requests.
func (t *Target) available() bool { return !t.health.down && t.circuit.admits() }

// serves reports whether t may have requests at all, now or soon.
func (t *Target) serves() bool { return !t.gone && !t.health.down }

// room reports whether t has a connection for one more.
func (t *Target) room() bool {
	most := t.upstream.MaxConnections
	return most == 0 || t.pending < most
}

// condition is what an operator calls its state.
func (t *Target) condition(now time.Time) string {
	switch {
	case t.gone:
		return "gone"
	case t.health.down:
		return "down"
	case t.circuit.open(now):
		return "open"
	case !t.circuit.until.IsZero():
		return "half open"
	}
	return "available"
}

func (t *Target) push(c Conn) { t.conns = append(t.conns, idle{c, t.upstream.sweeps}) }

// pop takes the newest idle connection: the fewest that suffice stay, and the rest age.
func (t *Target) pop() Conn {
	n := len(t.conns)
	if n == 0 {
		return nil
	}
	c := t.conns[n-1].Conn
	t.conns[n-1] = idle{}
	t.conns = t.conns[:n-1]
	return c
}

// drop takes all idle connections, to be closed.
func (t *Target) drop(to []Conn) []Conn {
	for c := t.pop(); c != nil; c = t.pop() {
		to = append(to, c)
	}
	return to
}

// expire takes those that were idle before so many sweeps had been.
func (t *Target) expire(sweeps uint64, to []Conn) []Conn {
	old := 0
	for old < len(t.conns) && t.conns[old].since < sweeps {
		to = append(to, t.conns[old].Conn)
		old++
	}
	kept := copy(t.conns, t.conns[old:])
	clear(t.conns[kept:])
	t.conns = t.conns[:kept]
	return to
}

// sweepsIdle is how many sweeps an idle connection lives to see the last of. The first may
// come at once, so IdleTimeout has passed at that one, and not yet at the one before.
const sweepsIdle = 3

// sweepLater has idle connections looked at, for as long as there are any. It is a
// timer and no goroutine, so that nothing of an upstream need be ended.
func (u *Upstream) sweepLater() {
	if !u.sweeping && u.IdleTimeout > 0 {
		u.sweeping = true
		time.AfterFunc(u.IdleTimeout/2+time.Millisecond, u.sweep)
	}
}

func (u *Upstream) sweep() {
	u.mu.Lock()
	u.sweeping = false
	var old []Conn
	u.sweeps++
	some := false
	for _, t := range u.targets {
		old = t.expire(u.sweeps-min(u.sweeps, sweepsIdle-1), old)
		some = some || len(t.conns) > 0
	}
	if some {
		u.sweepLater()
	}
	u.mu.Unlock()
	closeAll(old)
}
