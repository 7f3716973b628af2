package locktest

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"lanekeeper/lock"
)

// Memory is a store of leases and records in this process, with the faults of stores,
// networks and processes, for tests of what rests on coordinators. It reads no other
// clock than the time package's, so in a synctest bubble, if it was made there, it
// lives by virtual time. Its nodes are coordinators; between them and the store
// questions and answers travel, and may be lost, or late.
//
// All faults may come at any time, and end again. What is left to chance then is drawn
// from the random that the store was made with; the draws of each node are its own,
// and are the same again as far as the order of its calls is.
type Memory struct {
	log *slog.Logger

	mu      sync.Mutex // guards the rest, and what is said to be of nodes
	random  *rand.Rand // draws what nodes draw from
	changed chan struct{}
	records map[int]lock.Record
	leases  map[string]*memoryLease
	last    uint64 // of the numbers of leases, which are never used again
	way     way
	away    bool
	grace   time.Duration
	opens   time.Time     // nothing is granted before
	opened  chan struct{} // closed then
	counts  Counts
}

// way is how long a question travels, or an answer: from least to most.
type way struct{ least, most time.Duration }

// memoryLease is a lease that has not ended, or whose end nobody has noticed yet.
type memoryLease struct {
	expiry time.Time
	timer  *time.Timer
	ended  chan struct{}
}

// Counts is what a store has done. What was asked twice counts twice.
type Counts struct {
	Begun    int // leases
	Renewed  int // times that one was
	Expired  int // leases that ran out; not those given up, or forgotten
	Takes    int // calls for partitions under a lease that goes on, of at most 256 each
	Taken    int // partitions
	Repeated int // partitions that the taker had by the same take already
	Refused  int // partitions
	Drawn    int // stamps
	Lost     int // questions or answers, on the way
}

// NewMemory makes a store that has nothing. Ways take about a millisecond. Without a
// random the same things happen each time; without a log nothing is said.
func NewMemory(random *rand.Rand, log *slog.Logger) *Memory {
	if random == nil {
		random = rand.New(rand.NewPCG(1, 1)) //nolint:gosec // chance, not secrets
	}
	return &Memory{
		log: cmp.Or(log, slog.New(slog.DiscardHandler)), random: random, changed: make(chan struct{}),
		records: make(map[int]lock.Record), leases: make(map[string]*memoryLease),
		way: way{500 * time.Microsecond, 1500 * time.Microsecond},
	}
}

// Travel has each way, there or back, take from least to most, for nodes that were not
// told otherwise. Questions that are not answered in a sixth of the TTL are asked again.
func (m *Memory) Travel(least, most time.Duration) { m.set(func() { m.way = way{least, most} }) }

// Away has no node reach the store, or ends that. Leases go on, and run out, meanwhile.
// What was on its way is lost, or arrives, or waits and arrives when that has ended,
// even if nobody waits for the answer any more.
func (m *Memory) Away(away bool) { m.set(func() { m.away = away }) }

// Grace has the store grant nothing, and not know of any lease that it has ended, for a
// time after it has forgotten everything. Without it, what a node still may use by its own clock is another's already.
func (m *Memory) Grace(d time.Duration) { m.set(func() { m.grace = d }) }

// Forget has the store lose everything. Who holds a lease learns of that when it asks.
func (m *Memory) Forget() {
	m.set(func() {
		m.log.Debug("the store has lost its data", "leases", len(m.leases), "records", len(m.records))
		clear(m.records)
		for id := range m.leases {
			m.endLocked(id)
		}
		opened := make(chan struct{})
		m.opens, m.opened = time.Now().Add(m.grace), opened
		time.AfterFunc(m.grace, func() { close(opened) })
	})
}

// Counts is what the store has done so far.
func (m *Memory) Counts() (c Counts) {
	m.set(func() { c = m.counts })
	return c
}

// Records are those of the store, by partition, seen from beside it.
func (m *Memory) Records() (records []lock.Record) {
	m.set(func() { records = m.readLocked() })
	return records
}

// Alive tells, from beside the store, whether a lease goes on.
func (m *Memory) Alive(id string) (alive bool) {
	m.set(func() { alive = m.aliveLocked(id) })
	return alive
}

// set changes the state, and wakes who waits for that.
func (m *Memory) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	close(m.changed)
	m.changed = make(chan struct{})
}

// beginLocked begins a lease. Each has a name of its own, so one that is begun twice,
// since the answer was lost, leaves one that nobody knows, and that runs out.
func (m *Memory) beginLocked(name string, ttl time.Duration) string {
	m.last++
	m.counts.Begun++
	id := name + "#" + strconv.FormatUint(m.last, 10)
	m.leases[id] = &memoryLease{
		expiry: time.Now().Add(ttl), ended: make(chan struct{}),
		timer: time.AfterFunc(ttl, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.aliveLocked(id)
		}),
	}
	m.log.Debug("a lease begins", "lease", id)
	return id
}

func (m *Memory) renewLocked(id string, ttl time.Duration) error {
	if !m.aliveLocked(id) {
		return errOver
	}
	m.counts.Renewed++
	m.leases[id].expiry = time.Now().Add(ttl)
	m.leases[id].timer.Reset(ttl)
	return nil
}

// aliveLocked ends a lease that has run out, whoever notices first.
func (m *Memory) aliveLocked(id string) bool {
	l := m.leases[id]
	if l != nil && !time.Now().Before(l.expiry) {
		m.counts.Expired++
		m.log.Debug("a lease has run out", "lease", id)
		m.endLocked(id)
		return false
	}
	return l != nil
}

func (m *Memory) endLocked(id string) {
	if l := m.leases[id]; l != nil {
		l.timer.Stop()
		close(l.ended)
		delete(m.leases, id)
	}
}

// endedLocked returns what is closed when the lease may have ended; nil: it has.
func (m *Memory) endedLocked(id string) <-chan struct{} {
	switch {
	case m.aliveLocked(id):
		return m.leases[id].ended
	case time.Now().Before(m.opens):
		return m.opened
	}
	return nil
}

func (m *Memory) recordLocked(partition int) lock.Record {
	if r, ok := m.records[partition]; ok {
		return r
	}
	return lock.Record{Partition: partition}
}

func (m *Memory) readLocked() (records []lock.Record) {
	for _, partition := range slices.Sorted(maps.Keys(m.records)) {
		records = append(records, m.records[partition])
	}
	return records
}

func (m *Memory) takeLocked(self string, takes []lock.Take) (taken []lock.Taken, err error) {
	switch {
	case !m.aliveLocked(self):
		return nil, errOver
	case time.Now().Before(m.opens):
		return nil, errGrace
	}
	m.counts.Takes++
	for _, t := range takes {
		taken = append(taken, m.takeOneLocked(self, t))
	}
	return taken, nil
}

func (m *Memory) takeOneLocked(self string, t lock.Take) lock.Taken {
	r := m.recordLocked(t.Partition)
	if r.Holder == self && r.Tenure == t.Tenure+1 { // by an earlier attempt
		m.counts.Repeated++
		return lock.Taken{OK: true, Record: r}
	}
	next, ok := r.Decide(t, self, m.aliveLocked, time.Now())
	if !ok {
		m.counts.Refused++
		return lock.Taken{Record: r}
	}
	m.counts.Taken++
	m.records[t.Partition] = next
	m.log.Debug("a partition is taken", "partition", t.Partition, "holder", self, "tenure", next.Tenure, "prev", next.Prev)
	return lock.Taken{OK: true, Record: next}
}

func (m *Memory) drawLocked(self string, partition int, tenure uint64) (stamp uint64, err error) {
	if !m.aliveLocked(self) {
		return 0, errOver
	}
	r := m.recordLocked(partition)
	if r.Holder != self || r.Tenure != tenure {
		return 0, fmt.Errorf("%w: partition %d is held by %q", lock.ErrLost, partition, r.Holder)
	}
	m.counts.Drawn++
	r.Stamp = lock.NextStamp(r.Stamp, time.Now())
	m.records[partition] = r
	return r.Stamp, nil
}

func (m *Memory) drainedLocked(self string, drained []lock.Tenure) error {
	if !m.aliveLocked(self) {
		return errOver
	}
	for _, d := range drained {
		if r, ok := m.recordLocked(d.Partition).Clear(self, d.Tenure); ok {
			m.records[d.Partition] = r
		}
	}
	return nil
}
