package queue

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Total is what one tag's tickets add up to at a moment.
type Total struct {
	Lanes      int // lanes whose oldest ticket has the tag
	Waiting    int
	Running    int // turns, held ones included
	Held       int
	Halted     int           // lanes that a ticket of this tag halted, in partitions that are this node's
	Paused     int           // lanes that an operator paused, there
	Bytes      int           // of the waiting tickets
	DepthMax   int           // waiting tickets of the deepest of those lanes
	OldestWait time.Duration // of the ticket that has waited longest
}

// Totals returns one Total per tag, at least Config.Tags of them, and more if tickets
// have higher tags. It locks one shard at a time, so it is not one moment's picture of
// the whole, and costs time in proportion to the lanes.
func (l *Lanes) Totals() []Total {
	totals := make(tagged, max(l.config.Tags, 1))
	now := l.now()
	for i := range l.shards {
		l.shards[i].total(&totals, now)
	}
	return totals
}

// tagged is a Total per tag.
type tagged []Total

func (all *tagged) of(tag int) *Total {
	for tag >= len(*all) {
		*all = append(*all, Total{})
	}
	return &(*all)[tag]
}

func (s *shard) total(totals *tagged, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, first := range s.lanes {
		for ln := first; ln != nil; ln = ln.chain {
			if ln.halt != nil && !s.sealed(ln.partition) {
				totals.of(ln.halt.Tag).Halted++
			}
			if ln.pause != nil && !s.sealed(ln.partition) {
				totals.of(ln.pause.Tag).Paused++
			}
			if !ln.busy() {
				continue // only blocked or halted
			}
			of := totals.of(ln.oldest().tag)
			of.Lanes++
			of.DepthMax = max(of.DepthMax, ln.waiting.len)
			for t := ln.waiting.head; t != nil; t = t.next {
				of := totals.of(t.tag)
				of.Waiting++
				of.Bytes += t.bytes
				of.OldestWait = max(of.OldestWait, now-t.since)
			}
			for t := ln.running.head; t != nil; t = t.next {
				of := totals.of(t.tag)
				of.Running++
				if t.held {
					of.Held++
				}
			}
		}
	}
}

// InUse is what the lanes of the keys add up to that begin with prefix: in Halted also
// those that nothing waits in, and those that are paused. Lanes that are only watched don't count.
func (l *Lanes) InUse(prefix string) (all Total) {
	for i := range l.shards {
		l.shards[i].inUse(prefix, &all)
	}
	return all
}

func (s *shard) inUse(prefix string, all *Total) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, first := range s.lanes {
		for ln := first; ln != nil; ln = ln.chain {
			halted := ln.stopped() && !s.sealed(ln.partition)
			if ln.partition == Unowned || !ln.busy() && !halted || !strings.HasPrefix(string(ln.key), prefix) {
				continue
			}
			all.Lanes++
			all.Waiting += ln.waiting.len
			all.Running += ln.running.len
			if halted {
				all.Halted++
			}
		}
	}
}

func (ln *lane) oldest() *Ticket {
	if ln.running.head != nil {
		return ln.running.head
	}
	return ln.waiting.head
}

// Snapshot is one lane at a moment.
type Snapshot struct {
	Key     string
	Depth   int // waiting
	Bytes   int // waiting
	Running int
	Blocked bool          // another node may still run a request of the key
	Halt    *Halt         // nil: it is not halted
	Pause   *Halt         // nil: no operator has paused it
	Sealed  bool          // its partition is another node's
	Hot     bool          // by the rule of its requests
	Service time.Duration // of a turn, smoothed; 0 = not known yet
	Tickets []Place       // in order: those with a turn, then those that wait
}

// Place is one ticket of a Snapshot.
type Place struct {
	ID    ID
	Class Class
	Turn  bool
	Held  bool          // a turn whose request has been answered
	Age   time.Duration // of the turn, or of the wait
	Whole time.Duration // since it was admitted
	Bytes int
	Tag   int
	Origin
}

// Head is the ticket that everything else in the lane waits for. A lane that is
// only blocked or halted has none.
func (s *Snapshot) Head() Place { return s.Tickets[0] }

// Lane returns the lane of a key with all its tickets, and whether there is one.
// The partition is not looked at where there are none.
func (l *Lanes) Lane(partition int, key []byte) (Snapshot, bool) {
	hash := l.hash(key)
	s := l.shardOf(partition, hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	ln := s.find(partition, hash, key)
	if ln == nil || !ln.busy() && !ln.blocked && !ln.stopped() { // a lane that is only hot is nothing to a waiter
		return Snapshot{}, false
	}
	snapshot := ln.snapshot(l.now(), ln.running.len+ln.waiting.len)
	snapshot.Sealed = s.sealed(partition)
	return snapshot, true
}

// Deepest returns at most n lanes, those with the most waiting tickets first,
// then those whose head has run longest, each with its head alone.
func (l *Lanes) Deepest(n int) []Snapshot {
	var deepest []Snapshot
	for i := range l.shards {
		deepest = append(deepest, l.shards[i].deepest(n, l.now())...)
	}
	slices.SortFunc(deepest, deeper)
	return deepest[:min(n, len(deepest))]
}

func (s *shard) deepest(n int, now time.Duration) []Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Snapshot
	for _, first := range s.lanes {
		for ln := first; ln != nil; ln = ln.chain {
			if ln.busy() {
				found = append(found, ln.snapshot(now, 1))
				found[len(found)-1].Sealed = s.sealed(ln.partition)
			}
		}
	}
	slices.SortFunc(found, deeper)
	return found[:min(n, len(found))]
}

func deeper(a, b Snapshot) int {
	return cmp.Or(cmp.Compare(b.Depth, a.Depth), cmp.Compare(b.Head().Age, a.Head().Age), cmp.Compare(a.Key, b.Key))
}

func (ln *lane) snapshot(now time.Duration, places int) Snapshot {
	s := Snapshot{
		Key:     string(ln.key),
		Depth:   ln.waiting.len,
		Bytes:   ln.bytes,
		Running: ln.running.len,
		Blocked: ln.blocked,
		Hot:     ln.hot(),
		Service: ln.service,
		Tickets: make([]Place, 0, places),
	}
	if ln.halt != nil {
		h := *ln.halt
		s.Halt = &h
	}
	if ln.pause != nil {
		h := *ln.pause
		s.Pause = &h
	}
	for _, line := range [...]*list{&ln.running, &ln.waiting} {
		for t := line.head; t != nil && len(s.Tickets) < places; t = t.next {
			p := Place{
				ID: t.ID, Class: t.class, Turn: t.state == turn, Held: t.held,
				Age: now - t.since, Whole: now - t.admitted, Bytes: t.bytes, Tag: t.tag,
			}
			if t.origin != nil {
				p.Origin = *t.origin
			}
			s.Tickets = append(s.Tickets, p)
		}
	}
	return s
}
