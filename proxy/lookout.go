package proxy

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"lanekeeper/queue"
)

// lookout sees what this node sends to upstreams, and tells when that is not what lanes
// promise: requests of one key beside each other, or a fence that is not above the one
// before. It asks neither lanes nor owners, nor whether the request has a turn: if one of them
// is wrong, it must not be wrong with it. So it stands at the last place before a
// request's first byte, and sees the request's end where its connection is given back or
// closed, which a held lane does when it is held no longer.
//
// It is no proof of order. It knows one node, and takes a connection that was given up for the
// end of the work behind it, which is all that anybody here can know. Keys are compared by
// their hashes: of two keys with one hash it would see a violation that is none, once in
// 2^64 pairs that run at one time.
//
// A request costs two short sections of a mutex that few others want.
type lookout struct {
	proxy  *Proxy
	seed   maphash.Seed
	shards [lookoutShards]lookoutShard
	said   atomic.Int64 // when the log's last line was, in Unix nanoseconds
}

const (
	lookoutShards = 64
	// fencesSeen is how many keys' last fences a shard remembers. A key that comes to
	// the place of another is the one that is remembered.
	fencesSeen = 256
)

type lookoutShard struct {
	mu     sync.Mutex // guards the rest
	under  map[uint64]underWay
	fences *[fencesSeen]seenFence // nil before the first
}

// underWay is what an upstream has of one key.
type underWay struct {
	exclusive         queue.ID // the last of these
	exclusives, share int
}

type seenFence struct {
	key, fence uint64
	id         queue.ID
}

// sight is a request that the lookout sees, in the link that it is sent by. The zero
// value is none.
type sight struct {
	of     *lookout
	key    uint64
	shared bool
}

// violation is what a lane must never let happen.
type violation int

const (
	overlapSeen  violation = iota // an exclusive request beside another request of its key
	fenceSeen                     // a fence that is below an earlier one of its key, or another request's
	violations                    // how many there are
	nothingWrong violation = -1
)

func (v violation) String() string { return [violations]string{"overlap", "fence"}[v] }

func newLookout(p *Proxy) *lookout {
	l := &lookout{proxy: p, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].under = make(map[uint64]underWay)
	}
	return l
}

// watch has the request seen from now on, if it is one of a lane that keeps an order.
func (c *call) watch() {
	if c.mode == bypass || c.lane.Mode == Observe {
		return
	}
	l := c.proxy.lookout
	s := sight{of: l, key: maphash.Bytes(l.seed, c.key), shared: c.mode == shared}
	c.link.sight = s
	for _, v := range s.begin(c.id, c.fence) {
		if v != nothingWrong {
			l.tell(v, c)
		}
	}
}

func (s *sight) shard() *lookoutShard { return &s.of.shards[s.key%lookoutShards] }

// begin says what is wrong with that a request is sent now. Attempts of one request may run
// beside each other, where its lane says so, and share a fence that was lent.
func (s *sight) begin(id queue.ID, fence uint64) (wrong [violations]violation) {
	wrong = [violations]violation{nothingWrong, nothingWrong}
	shard := s.shard()
	shard.mu.Lock()
	defer shard.mu.Unlock()
	now := shard.under[s.key]
	if now.exclusives > 0 && now.exclusive != id || !s.shared && now.share > 0 {
		wrong[overlapSeen] = overlapSeen
	}
	if s.shared {
		now.share++
	} else {
		now.exclusives++
		now.exclusive = id
	}
	shard.under[s.key] = now
	if fence > 0 && !shard.rises(s.key, fence, id) {
		wrong[fenceSeen] = fenceSeen
	}
	return wrong
}

// rises notes a fence. The caller has the shard's mutex.
func (s *lookoutShard) rises(key, fence uint64, id queue.ID) bool {
	if s.fences == nil {
		s.fences = new([fencesSeen]seenFence)
	}
	last := &s.fences[key/lookoutShards%fencesSeen]
	if last.key == key && (fence < last.fence || fence == last.fence && id != last.id) {
		return false
	}
	*last = seenFence{key, fence, id}
	return true
}

// end is when the connection is given back, or closed. It may be called again.
func (s *sight) end() {
	if s.of == nil {
		return
	}
	shard := s.shard()
	shard.mu.Lock()
	now := shard.under[s.key]
	if s.shared {
		now.share--
	} else {
		now.exclusives--
	}
	if now.share == 0 && now.exclusives == 0 {
		delete(shard.under, s.key)
	} else {
		shard.under[s.key] = now
	}
	shard.mu.Unlock()
	s.of = nil
}

// tell counts a violation, and has the log say so, at most once a second: what has gone
// wrong so far may go wrong with every request.
func (l *lookout) tell(v violation, c *call) {
	l.proxy.metrics.violations[v].Inc()
	now, last := time.Now().UnixNano(), l.said.Load()
	if last != 0 && now-last < int64(time.Second) || !l.said.CompareAndSwap(last, now) {
		return
	}
	l.proxy.log.Error("a lane's order is broken: the request was sent although it had to wait, or with a fence that is not above the last one",
		"event", "order-violation", "kind", v.String(), "route", c.route.Name, "ticket", c.id.String(), c.config.LogKeys.Attr(c.key))
}
