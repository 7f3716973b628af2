package queue

import (
	"cmp"
	"slices"
	"time"
)

// HotRule says when a key is hot: its backlog is both large and dominant. That
// is, Depth or Bytes is reached, and Busy, Share and Rate are too, at every look
// for the time For. It is no longer hot when that has not been so for the time
// CoolAfter, with Depth, Bytes and Share halved, so that a backlog about the
// threshold does not make it flicker.
//
// A rate alone makes no key hot: ten thousand short calls a second leave no
// backlog, and thirty long ones are more than a lane can run.
//
// Busy and Rate are of the last For, give or take an eighth, and reach no further
// back than to where the backlog was half of Depth or Bytes for the first time.
type HotRule struct {
	Depth int     // waiting tickets; 0 = they make no key hot
	Bytes int64   // of the waiting tickets; 0 = they make no key hot
	Busy  float64 // fraction of the time with a turn, exclusive or shared
	Share float64 // of all waiting tickets of the node, or of all their bytes: the larger
	Rate  float64 // requests per second that the lane took; 0 = any

	For       time.Duration
	CoolAfter time.Duration
}

// large reports whether a backlog reaches Depth or Bytes, divided by ease.
func (r *HotRule) large(ln *lane, ease int) bool {
	depth, bytes := ln.backlog()
	return r.Depth > 0 && ease*depth >= r.Depth ||
		r.Bytes > 0 && int64(ease)*int64(bytes) >= r.Bytes
}

// A threshold is divided by one to make a key hot and by two to keep it so, and
// to be worth watching at all.
const (
	whole  = 1
	halved = 2
)

// heat watches one lane: from the first request that waits in a backlog of half
// the rule's, until the lane is neither hot nor that full. A lane is looked at
// whenever a ticket of it comes or goes, and by Cool.
type heat struct {
	lane       *lane
	prev, next *heat // in shard.heats
	rule       *HotRule
	tag        int
	window

	hot   bool
	since time.Duration
	doubt time.Duration // since when every look has spoken for the contrary of hot
}

const never time.Duration = -1

func (ln *lane) hot() bool { return ln.heat != nil && ln.heat.hot }

// warm counts a request that a watched lane took, and begins to watch another
// if the request has to wait in it and the backlog is worth it.
func (l *Lanes) warm(s *shard, ln *lane, r *Request, now time.Duration) {
	if ln.heat == nil {
		if !r.Hot.large(ln, halved) {
			return
		}
		l.watch(s, ln, r.Hot, now)
	}
	h := ln.heat
	if r.Hot != nil { // the newest request's, so that a rule can be changed
		h.rule, h.tag = r.Hot, r.Tag
	}
	h.pass(now)
	h.admit(1 + r.Behind.Depth)
	l.look(ln, now)
}

func (l *Lanes) watch(s *shard, ln *lane, rule *HotRule, now time.Duration) {
	h := &heat{lane: ln, next: s.heats, rule: rule, window: newWindow(now, rule.For), doubt: never}
	if s.heats != nil {
		s.heats.prev = h
	}
	s.heats, ln.heat = h, h
	l.heats.Add(1)
}

func (l *Lanes) unwatch(s *shard, h *heat) {
	if h.prev == nil {
		s.heats = h.next
	} else {
		h.prev.next = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	}
	h.lane.heat = nil
	l.heats.Add(-1)
	if h.hot {
		l.flips.Add(1)
	}
}

// look decides whether a watched lane has become hot or cool. It comes last in
// whatever changed the lane, so that running is right from here to the next.
func (l *Lanes) look(ln *lane, now time.Duration) {
	h := ln.heat
	h.pass(now)
	h.running = ln.running.len > 0
	ease, patience := whole, h.rule.For
	if h.hot {
		ease, patience = halved, h.rule.CoolAfter
	}
	if l.overheats(ln, ease) == h.hot {
		h.doubt = never
		return
	}
	if h.doubt == never {
		h.doubt = now
	}
	if now-h.doubt >= patience {
		h.hot, h.since, h.doubt = !h.hot, now, never
		l.flips.Add(1)
	}
}

// overheats is the rule's condition at this moment.
func (l *Lanes) overheats(ln *lane, ease int) bool {
	h, rule := ln.heat, ln.heat.rule
	return rule.large(ln, ease) &&
		float64(ease)*l.share(ln) >= rule.Share &&
		(rule.Busy <= 0 || h.busy() >= rule.Busy) &&
		(rule.Rate <= 0 || h.rate() >= rule.Rate)
}

// share is the lane's part of what waits at the node. Other shards change the
// sums meanwhile, but what this lane adds to them is under its lock: never zero
// while something of it waits.
func (l *Lanes) share(ln *lane) float64 {
	var tickets, bytes float64
	if depth, size := ln.backlog(); depth > 0 {
		tickets = float64(depth) / float64(l.queued.Load()+int64(ln.behind.Depth))
		bytes = float64(size) / max(float64(l.bytes.Load()+int64(ln.behind.Bytes)), 1)
	}
	return max(tickets, bytes)
}

// backlog is what waits in the lane, and elsewhere behind its tickets.
func (ln *lane) backlog() (depth, bytes int) {
	return ln.waiting.len + ln.behind.Depth, ln.bytes + ln.behind.Bytes
}

// sheds reports whether a hot lane is too deep for a request that has to wait, even
// without those that it is to supersede.
func (ln *lane) sheds(r *Request, needless Load) bool {
	return ln.hot() && r.ShedDepth > 0 && ln.waiting.len-needless.Depth >= r.ShedDepth
}

// Cool looks at every watched lane, to be called about once a second where
// requests have a HotRule: a lane that no ticket comes to or goes from cools only
// by it. It returns a number that is the same as the last time if no key has become
// hot or cool since; then Hot would list the same keys.
//
// That is told by a number and not by a callback because a callback outside the
// locks could tell hot and cool of one key in either order, on the time of a
// request that has nothing to do with it. Whoever asks once a second sees what is.
func (l *Lanes) Cool() (flips uint64) {
	if l.heats.Load() > 0 {
		for i := range l.shards {
			l.shards[i].cool(l)
		}
	}
	return l.flips.Load()
}

func (s *shard) cool(l *Lanes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := l.now()
	l.forgetHeats(s, func(ln *lane) bool {
		l.look(ln, now)
		return !ln.heat.hot && !ln.heat.rule.large(ln, halved)
	})
}

// forgetHeats ends the watch of some lanes. It needs s.mu.
func (l *Lanes) forgetHeats(s *shard, of func(*lane) bool) {
	for h := s.heats; h != nil; {
		next := h.next
		if of(h.lane) {
			l.forget(s, h)
		}
		h = next
	}
}

// forget ends the watch of a lane, and the lane if only its heat has kept it.
func (l *Lanes) forget(s *shard, h *heat) {
	ln := h.lane
	if l.unwatch(s, h); !ln.busy() && !ln.blocked && !ln.stopped() {
		l.closeLane(s, ln)
	}
}

// Heat is why a key is hot, at the moment of asking.
type Heat struct {
	Depth   int // waiting, elsewhere too
	Bytes   int // of those
	Busy    float64
	Share   float64
	Rate    float64       // requests per second
	Service time.Duration // of a turn, smoothed; 0 = not known yet
	Since   time.Time     // it has been hot
}

// HotKey is a key that is hot. It may have no ticket at the moment.
type HotKey struct {
	Partition int
	Key       string
	Tag       int // of the newest request that had a rule
	Heat
}

// Hot returns the keys that are hot, those with the most waiting tickets first.
func (l *Lanes) Hot() []HotKey {
	var hot []HotKey
	if l.heats.Load() > 0 {
		for i := range l.shards {
			hot = l.shards[i].hot(l, hot)
		}
	}
	slices.SortFunc(hot, func(a, b HotKey) int {
		return cmp.Or(cmp.Compare(b.Depth, a.Depth), cmp.Compare(b.Bytes, a.Bytes),
			cmp.Compare(a.Key, b.Key), cmp.Compare(a.Partition, b.Partition))
	})
	return hot
}

func (s *shard) hot(l *Lanes, hot []HotKey) []HotKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := l.now()
	for h := s.heats; h != nil; h = h.next {
		if h.hot {
			hot = append(hot, l.hotKey(h, now))
		}
	}
	return hot
}

func (l *Lanes) hotKey(h *heat, now time.Duration) HotKey {
	ln := h.lane
	h.pass(now)
	depth, bytes := ln.backlog()
	return HotKey{ln.partition, string(ln.key), h.tag, Heat{
		Depth: depth, Bytes: bytes,
		Busy: h.busy(), Share: l.share(ln), Rate: h.rate(),
		Service: ln.service, Since: l.started.Add(h.since),
	}}
}
