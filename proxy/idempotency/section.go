package idempotency

import (
	"encoding/binary"
	"time"
)

// Records travel as a section of a partition's state:
//
//	section = version=1 lane*
//	lane    = length key count record*     at least one record
//	record  = id print kind left [status [length head length body]]
//
// Lengths, counts, left and status are uvarints; id and print have 32 bytes; kind is one
// byte. left is how long the record is remembered, in ms: nodes' clocks may differ. A
// record that is unknown has no status, and one that is bare no head and no body.
const sectionVersion = 1

// The kinds of a record that travels.
const (
	kindDone    = 1
	kindBare    = 2
	kindUnknown = 3
)

// What a record takes at most beside its reply, and a lane beside its key and records.
const (
	encodedRecord = len(ID{}) + len(Print{}) + 1 + 3*binary.MaxVarintLen32 + binary.MaxVarintLen64
	encodedLane   = 2 * binary.MaxVarintLen32
)

const (
	leftMax   = 100 * 365 * 24 * time.Hour
	statusMax = 999
)

// Export returns the records of a partition, but for those of some lanes. What runs
// travels as unknown. It takes nothing away. nil: there are none.
func (m *Memory) Export(partition int, except []string) []byte {
	skip := make(map[string]struct{}, len(except))
	for _, key := range except {
		skip[key] = struct{}{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.partitions[partition]
	if p == nil {
		return nil
	}
	now := m.now()
	section := make([]byte, 0, 1+min(p.encoded, m.most))
	for _, l := range p.lanes {
		if _, skipped := skip[l.key]; !skipped {
			section = appendLane(section, l, now, m.most)
		}
	}
	if len(section) == 0 {
		return nil
	}
	return section
}

// ExportKey is Export for one lane.
func (m *Memory) ExportKey(partition int, key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.partitions[partition]
	if p == nil || p.lanes[key] == nil {
		return nil
	}
	return appendLane(nil, p.lanes[key], m.now(), m.most)
}

// appendLane appends a lane's records that have not expired. It leaves out what would make
// the section longer than most bytes; that is so only where two owners' records have met in one partition.
func appendLane(section []byte, l *lane, now time.Duration, most int) []byte {
	var travel []*record
	size := len(section) + 1 + encodedLane + len(l.key)
	for of := l.first; of != nil; of = of.next {
		if more := encodedRecord + len(of.reply); of.expires > now && size+more <= most {
			travel = append(travel, of)
			size += more
		}
	}
	if len(travel) == 0 {
		return section
	}
	if len(section) == 0 {
		section = append(section, sectionVersion)
	}
	section = binary.AppendUvarint(section, uint64(len(l.key)))
	section = append(section, l.key...)
	section = binary.AppendUvarint(section, uint64(len(travel)))
	for _, of := range travel {
		section = appendRecord(section, of, of.expires-now)
	}
	return section
}

func appendRecord(section []byte, of *record, left time.Duration) []byte {
	kind := byte(kindUnknown)
	switch {
	case of.state == Done && of.bare:
		kind = kindBare
	case of.state == Done:
		kind = kindDone
	}
	section = append(section, of.id[:]...)
	section = append(section, of.print[:]...)
	section = append(section, kind)
	left = min(left, leftMax)
	section = binary.AppendUvarint(section, uint64((left+time.Millisecond-1)/time.Millisecond))
	if kind == kindUnknown {
		return section
	}
	section = binary.AppendUvarint(section, uint64(of.status))
	if kind == kindBare {
		return section
	}
	for _, part := range [][]byte{of.reply[:of.head], of.reply[of.head:]} {
		section = binary.AppendUvarint(section, uint64(len(part)))
		section = append(section, part...)
	}
	return section
}

// Import takes the records that another node exported. Each replaces what was known of
// its name, but that what was done doesn't become unknown; a claim that it replaces is
// lost. Names that it doesn't hold stay as they are, so that nothing is forgotten where
// two nodes had the partition. What it can't read it ignores, whole. data is not retained.
func (m *Memory) Import(partition int, data []byte) {
	if !walk(data, func([]byte, *traveller) {}) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	walk(data, func(key []byte, t *traveller) { m.importLocked(partition, key, t, now) })
}

func (m *Memory) importLocked(partition int, key []byte, t *traveller, now time.Duration) {
	id := ID(t.id)
	if of := m.records[id]; of != nil {
		if of.state == Done && of.expires > now && t.kind == kindUnknown {
			return
		}
		m.removeLocked(of)
	}
	of := &record{id: id, print: Print(t.print), place: -1, expires: now + t.left}
	m.addLocked(of, partition, key)
	if t.kind == kindUnknown {
		m.settleLocked(of, Unknown, keptReply{})
		return
	}
	n := len(t.head) + len(t.body)
	if of.lane.partition.encoded+n > m.most || !m.hasBytesLocked(reserved(n)) {
		t.kind = kindBare
	}
	m.settleLocked(of, Done, keep(Reply{Status: t.status, Head: t.head, Body: t.body, Bare: t.kind == kindBare}, n))
}

// traveller is a record on its way. Its slices are the section's.
type traveller struct {
	id, print  []byte
	kind       byte
	left       time.Duration
	status     int
	head, body []byte
}

// walk calls each for every record of a section until one can't be read. It reports
// whether all could.
func walk(section []byte, each func(key []byte, t *traveller)) bool {
	if len(section) == 0 || section[0] != sectionVersion {
		return false
	}
	r := reader{rest: section[1:]}
	var t traveller
	for len(r.rest) > 0 && !r.bad {
		key := r.bytes(r.number())
		count := r.number()
		r.bad = r.bad || count == 0
		for ; count > 0 && !r.bad; count-- {
			if r.record(&t); !r.bad {
				each(key, &t)
			}
		}
	}
	return !r.bad
}

// reader reads what may be anything. Once it is bad, all that it returns is empty.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) record(t *traveller) {
	*t = traveller{id: r.bytes(uint64(len(ID{}))), print: r.bytes(uint64(len(Print{})))}
	if kind := r.bytes(1); !r.bad {
		t.kind = kind[0]
	}
	left := r.number()
	r.bad = r.bad || t.kind < kindDone || t.kind > kindUnknown || left == 0 || left > uint64(leftMax/time.Millisecond)
	t.left = time.Duration(left) * time.Millisecond
	if t.kind != kindUnknown {
		status := r.number()
		r.bad = r.bad || status > statusMax
		t.status = int(status)
	}
	if t.kind == kindDone {
		t.head = r.bytes(r.number())
		t.body = r.bytes(r.number())
	}
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if r.bad || size <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) bytes(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	part := r.rest[:n:n]
	r.rest = r.rest[n:]
	return part
}
