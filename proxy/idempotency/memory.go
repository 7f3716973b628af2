package idempotency

import (
	"container/heap"
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

// MemoryConfig bounds a Memory.
type MemoryConfig struct {
	MaxRecords int   // 0: no bound
	MaxBytes   int64 // of memory, all told; 0: no bound

	// Owned says whether a partition is this node's. The records of others are copies of
	// what has moved away, and the first to go when there is no room. It is called without
	// a lock, and only when there is no room. nil: all are.
	Owned func(partition int) bool

	// Alone says that nothing ever moves away: all records may be of one partition, which
	// then has no bound of its own.
	Alone bool
}

// What is counted for a record, and for a lane that has any, beside its key and reply.
// TestMemoryIsCounted compares it with what the heap says.
const (
	recordBytes = 272 // the record, its Run, the place by its ID and the place by its expiry
	laneBytes   = 96  // the lane, the place by its key
)

// partitionMax bounds a partition's records as they are encoded: they travel in one
// message of at most twice that, which others' state is in, too.
const partitionMax = 16 << 20

// A use of the store first removes some of what has expired. The first is for each new
// record, so that they go faster than they come; the other when there is no room.
const (
	sweepSome = 8
	sweepMany = 4096
)

var errClosed = errors.New("idempotency: the store is closed")

// Memory keeps records in this process, whose end they don't outlive. They belong to
// partitions, and travel with them by Export and Import.
//
// A name that runs has reserved the room for the largest reply that it may keep, so that
// a reply always finds its room. A claim lives until its Run's end, or the process's:
// there is no lease to renew, and none that ends. A record that runs doesn't expire.
//
// Nothing goes before its time but copies of what has moved away. Import goes beyond
// the bounds rather than lose a name, but keeps replies for which there is no room bare.
//
// It starts no goroutine. What has expired is removed as the store is used; Entries
// removes all of it.
type Memory struct {
	config MemoryConfig
	epoch  time.Time
	most   int // partitionMax, but for tests

	mu         sync.Mutex // guards the rest, and everything that hangs on it
	records    map[ID]*record
	partitions map[int]*partition
	expiries   expiries // what doesn't run
	bytes      int64
	closed     bool
}

type partition struct {
	number  int
	lanes   map[string]*lane
	encoded int    // at most, with what is reserved
	changes uint64 // rises
}

type lane struct {
	key       string
	partition *partition
	first     *record
}

type record struct {
	id         ID
	print      Print
	lane       *lane
	prev, next *record       // in the lane
	run        *memoryRun    // of Running
	expires    time.Duration // since the store's epoch
	reply      []byte        // head and body; never changed, so that it may be read without the lock
	head       int32         // of reply, its length
	place      int32         // among expiries
	status     int32
	state      State
	bare       bool
}

// NewMemory makes a store that is empty.
func NewMemory(config MemoryConfig) *Memory {
	most := partitionMax
	if config.Alone {
		most = math.MaxInt
	}
	return &Memory{config: config, epoch: time.Now(), most: most, records: make(map[ID]*record), partitions: make(map[int]*partition)}
}

// Begin implements Store. Of what is Running it doesn't know Until. Replies share the
// store's memory, and must not be changed.
func (m *Memory) Begin(ctx context.Context, r *Request) (Run, Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, Record{}, err
	}
	run, known, err := m.begin(r)
	if errors.Is(err, ErrFull) && m.evict(r) {
		run, known, err = m.begin(r)
	}
	if run == nil {
		return nil, known, err // and not a Run that is a nil pointer
	}
	return run, known, err
}

func (m *Memory) begin(r *Request) (*memoryRun, Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, Record{}, errClosed
	}
	now := m.now()
	m.sweepLocked(now, sweepSome)
	of := m.records[r.ID]
	if of != nil && of.state != Running && of.expires <= now {
		m.removeLocked(of)
		of = nil
	}
	if of != nil && (of.state != Unknown || !r.Again || of.print != r.Print) {
		return nil, of.known(), nil
	}
	if !m.fitsLocked(r, of) {
		m.sweepLocked(now, sweepMany) // of may not have expired, so that it stays
		if !m.fitsLocked(r, of) {
			return nil, Record{}, ErrFull
		}
	}
	if of == nil {
		of = &record{id: r.ID, print: r.Print, place: -1}
		m.addLocked(of, r.Partition, r.Key)
	} else {
		heap.Remove(&m.expiries, int(of.place))
	}
	of.state, of.expires = Running, now+r.TTL
	of.run = &memoryRun{store: m, of: of, maxEntry: max(r.MaxEntry, 0)}
	m.countLocked(of, 1)
	return of.run, Record{State: New, Print: r.Print}, nil
}

func (m *Memory) now() time.Duration { return time.Since(m.epoch) }

// fitsLocked says whether there is room for a request, whose record is there already
// if it is to be claimed anew.
func (m *Memory) fitsLocked(r *Request, of *record) bool {
	n := max(r.MaxEntry, 0)
	encoded, bytes := n, reserved(n)
	p := m.partitions[r.Partition]
	if of == nil {
		encoded += encodedRecord
		bytes += recordBytes
		if p == nil || p.lanes[string(r.Key)] == nil {
			encoded += encodedLane + len(r.Key)
			bytes += laneBytes + int64(len(r.Key))
		}
	} else {
		p = of.lane.partition
	}
	if p != nil {
		encoded += p.encoded
	}
	return encoded <= m.most && m.hasBytesLocked(bytes) &&
		(of != nil || m.config.MaxRecords == 0 || len(m.records) < m.config.MaxRecords)
}

func (m *Memory) hasBytesLocked(n int64) bool {
	return m.config.MaxBytes == 0 || m.bytes+n <= m.config.MaxBytes
}

// reserved is what n bytes take at most, as the allocator rounds.
func reserved(n int) int64 { return int64(n) + int64(n)/8 + 16 }

// addLocked links a new record, without its reply.
func (m *Memory) addLocked(of *record, number int, key []byte) {
	p := m.partitions[number]
	if p == nil {
		p = &partition{number: number, lanes: make(map[string]*lane)}
		m.partitions[number] = p
	}
	l := p.lanes[string(key)]
	if l == nil {
		l = &lane{key: string(key), partition: p}
		p.lanes[l.key] = l
		p.encoded += encodedLane + len(key)
		m.bytes += laneBytes + int64(len(key))
	}
	of.lane, of.next = l, l.first
	if l.first != nil {
		l.first.prev = of
	}
	l.first = of
	m.records[of.id] = of
	p.encoded += encodedRecord
	m.bytes += recordBytes
}

// removeLocked unlinks a record, whatever it is.
func (m *Memory) removeLocked(of *record) {
	m.countLocked(of, -1)
	if of.place >= 0 {
		heap.Remove(&m.expiries, int(of.place))
	}
	l := of.lane
	p := l.partition
	if of.prev != nil {
		of.prev.next = of.next
	} else {
		l.first = of.next
	}
	if of.next != nil {
		of.next.prev = of.prev
	}
	of.prev, of.next, of.run = nil, nil, nil
	delete(m.records, of.id)
	p.encoded -= encodedRecord
	m.bytes -= recordBytes
	if l.first != nil {
		return
	}
	delete(p.lanes, l.key)
	p.encoded -= encodedLane + len(l.key)
	m.bytes -= laneBytes + int64(len(l.key))
	if len(p.lanes) == 0 {
		delete(m.partitions, p.number)
	}
}

// countLocked adds, or takes off, a record's reply, or what is reserved for it.
func (m *Memory) countLocked(of *record, sign int) {
	encoded, bytes := len(of.reply), int64(cap(of.reply))
	if of.state == Running {
		encoded, bytes = of.run.maxEntry, reserved(of.run.maxEntry)
	}
	of.lane.partition.encoded += sign * encoded
	of.lane.partition.changes++
	m.bytes += int64(sign) * bytes
}

// settleLocked makes what ran, or is new, something that is known, until it expires.
func (m *Memory) settleLocked(of *record, state State, reply keptReply) {
	of.state, of.run = state, nil
	of.reply, of.head, of.status, of.bare = reply.bytes, int32(reply.head), int32(reply.status), reply.bare
	m.countLocked(of, 1)
	heap.Push(&m.expiries, of)
}

// sweepLocked removes up to most records that have expired. It reports whether there
// may be more.
func (m *Memory) sweepLocked(now time.Duration, most int) bool {
	for range most {
		if len(m.expiries) == 0 || m.expiries[0].expires > now {
			return false
		}
		m.removeLocked(m.expiries[0])
	}
	return true
}

// evict makes room for a request by removing what is known of partitions that are
// others'. It reports whether there is room.
func (m *Memory) evict(r *Request) bool {
	if m.config.Owned == nil {
		return false
	}
	type seen struct {
		number  int
		changes uint64
	}
	m.mu.Lock()
	var all []seen
	for _, p := range m.partitions {
		all = append(all, seen{p.number, p.changes})
	}
	m.mu.Unlock()
	for _, s := range all {
		if m.config.Owned(s.number) {
			continue
		}
		m.mu.Lock()
		// Should it have become this node's meanwhile, what came with it is a change.
		if p := m.partitions[s.number]; p != nil && p.changes == s.changes {
			m.clearLocked(p)
		}
		fits := m.fitsLocked(r, m.records[r.ID])
		m.mu.Unlock()
		if fits {
			return true
		}
	}
	return false
}

// clearLocked removes what is known of a partition, but for what runs.
func (m *Memory) clearLocked(p *partition) {
	for _, l := range p.lanes {
		for of := l.first; of != nil; {
			next := of.next
			if of.state != Running {
				m.removeLocked(of)
			}
			of = next
		}
	}
}

// Knows reports whether anything is known of a name. It may be otherwise when it returns.
func (m *Memory) Knows(id ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.records[id]
	return of != nil && of.expires > m.now()
}

// Entries counts the records, and the bytes of memory that are taken or reserved.
func (m *Memory) Entries() (count int, bytes int64) {
	for more := true; more; { // others get their turn in between
		m.mu.Lock()
		more = m.sweepLocked(m.now(), sweepMany)
		count, bytes = len(m.records), m.bytes
		m.mu.Unlock()
	}
	return count, bytes
}

// Close implements Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, of := range m.records {
		if of.state == Running {
			m.countLocked(of, -1)
			m.settleLocked(of, Unknown, keptReply{})
		}
	}
	return nil
}

func (of *record) known() Record {
	known := Record{State: of.state, Print: of.print}
	if of.state == Done {
		known.Reply = Reply{Status: int(of.status), Head: of.reply[:of.head:of.head], Body: of.reply[of.head:], Bare: of.bare}
	}
	return known
}

// keptReply is a reply as it is kept.
type keptReply struct {
	bytes  []byte // head and body
	head   int    // bytes of head
	status int
	bare   bool
}

// keep copies a reply, or what is to be kept of it.
func keep(reply Reply, maxEntry int) keptReply {
	reply.Status = min(max(reply.Status, 0), statusMax) // what can travel
	if reply.Bare || len(reply.Head)+len(reply.Body) > maxEntry {
		return keptReply{status: reply.Status, bare: true}
	}
	var bytes []byte // whose capacity is what the allocator has given, and what is counted
	if n := len(reply.Head) + len(reply.Body); n > 0 {
		bytes = append(append(bytes, make([]byte, n)...)[:0], reply.Head...)
		bytes = append(bytes, reply.Body...)
	}
	return keptReply{bytes: bytes, head: len(reply.Head), status: reply.Status}
}

// memoryRun implements Run.
type memoryRun struct {
	store    *Memory
	of       *record
	maxEntry int
}

// Finish implements Run. The reply is copied.
func (r *memoryRun) Finish(_ context.Context, reply Reply) error {
	kept := keep(reply, r.maxEntry)
	return r.end(func(of *record) { r.store.settleLocked(of, Done, kept) })
}

// Lose implements Run.
func (r *memoryRun) Lose(context.Context) error {
	return r.end(func(of *record) { r.store.settleLocked(of, Unknown, keptReply{}) })
}

// Forget implements Run.
func (r *memoryRun) Forget(context.Context) error { return r.end(nil) }

// end ends the claim with to, or, if that is nil, with the record.
func (r *memoryRun) end(to func(*record)) error {
	m := r.store
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.of.run != r {
		return ErrLost
	}
	if to == nil {
		m.removeLocked(r.of)
		return nil
	}
	m.countLocked(r.of, -1)
	to(r.of)
	return nil
}

// expiries is a heap of records by when they expire.
type expiries []*record

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].expires < e[j].expires }
func (e expiries) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].place, e[j].place = int32(i), int32(j)
}

// Push implements heap.Interface.
func (e *expiries) Push(x any) {
	of := x.(*record)
	of.place = int32(len(*e))
	*e = append(*e, of)
}

// Pop implements heap.Interface.
func (e *expiries) Pop() any {
	last := len(*e) - 1
	of := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	of.place = -1
	return of
}

var (
	_ Store = (*Memory)(nil)
	_ Run   = (*memoryRun)(nil)
)
