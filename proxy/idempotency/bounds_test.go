package idempotency

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

const testMost = 1 << 20 // of a partition

func narrow() *Memory {
	m := NewMemory(MemoryConfig{})
	m.most = testMost
	return m
}

func numbered(i, partition int) *Request {
	r := &Request{Partition: partition, Key: []byte("lane"), TTL: time.Hour, MaxEntry: 100}
	binary.BigEndian.PutUint64(r.ID[:], uint64(i))
	return r
}

// done begins and finishes a request. It reports whether there was room.
func done(t *testing.T, m *Memory, r *Request, reply Reply) bool {
	t.Helper()
	run, known, err := m.Begin(t.Context(), r)
	if errors.Is(err, ErrFull) {
		return false
	}
	if err != nil || known.State != New {
		t.Fatalf("state %d, %v", known.State, err)
	}
	if err := run.Finish(t.Context(), reply); err != nil {
		t.Fatal(err)
	}
	return true
}

func state(t *testing.T, m *Memory, r *Request) State {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if of := m.records[r.ID]; of != nil && (of.state == Running || of.expires > m.now()) {
		return of.state
	}
	return New
}

// TestMemoryBounds: a full store takes no new name, forgets none, and knows those that
// it has; room comes with the end of a record.
//
// Mutants: nothing is swept; there is room for one more; the reply that might come
// doesn't count; a full store forgets the oldest.
func TestMemoryBounds(t *testing.T) {
	_, one := measured(t, 1)
	_, three := measured(t, 3)
	each := (three - one) / 2 // of one lane
	for _, test := range []struct {
		name   string
		config MemoryConfig
		want   int
	}{
		{"2 records", MemoryConfig{MaxRecords: 2}, 2}, {"3 records", MemoryConfig{MaxRecords: 3}, 3},
		{"bytes for 3, and the reply that might come", MemoryConfig{MaxBytes: three + reserved(100)}, 3},
		{"one byte less", MemoryConfig{MaxBytes: three + reserved(100) - 1}, 2},
		{"bytes for 4 less one", MemoryConfig{MaxBytes: three + each + reserved(100) - 1}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := NewMemory(test.config)
				n := 0
				for n < 9 && done(t, m, numbered(n, 0), Reply{}) {
					n++
					time.Sleep(time.Second)
				}
				if n != test.want {
					t.Errorf("%d have room, want %d", n, test.want)
				}
				for i := range n {
					if have := state(t, m, numbered(i, 0)); have != Done {
						t.Errorf("name %d: state %d", i, have)
					}
				}
				if _, known, err := m.Begin(t.Context(), numbered(0, 0)); err != nil || known.State != Done {
					t.Errorf("of a full store: state %d, %v", known.State, err)
				}
				time.Sleep(time.Hour - time.Duration(n)*time.Second - time.Nanosecond)
				if done(t, m, numbered(n, 0), Reply{}) {
					t.Error("there is room before the first one's end")
				}
				time.Sleep(time.Nanosecond)
				if !done(t, m, numbered(n, 0), Reply{}) {
					t.Error("there is no room after the first one's end")
				}
				if done(t, m, numbered(n+1, 0), Reply{}) {
					t.Error("there is room for two")
				}
				m.check(t)
			})
		})
	}
}

// measured is what a store with n records counts.
func measured(t *testing.T, n int) (int, int64) {
	m := NewMemory(MemoryConfig{})
	for i := range n {
		done(t, m, numbered(i, 0), Reply{})
	}
	return m.Entries()
}

// TestExpiredIsNew: a record is over at its time, be it removed or not.
//
// Mutants: a record that expires is there a moment longer; what was not removed yet is;
// its time is counted from a millisecond late; it is exported.
func TestExpiredIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(MemoryConfig{})
		for i := range 100 {
			done(t, m, numbered(i, 0), Reply{})
		}
		time.Sleep(time.Hour - time.Nanosecond)
		for i := range 100 {
			if _, known, err := m.Begin(t.Context(), numbered(i, 0)); err != nil || known.State != Done {
				t.Fatalf("name %d: state %d, %v", i, known.State, err)
			}
		}
		time.Sleep(time.Nanosecond)
		if m.Export(0, nil) != nil || m.ExportKey(0, "lane") != nil {
			t.Error("it would travel")
		}
		for i := range 100 {
			if !done(t, m, numbered(i, 0), Reply{}) { // fails if it is not New
				t.Fatal("full")
			}
		}
		m.check(t)
		time.Sleep(time.Hour)
		if n, bytes := m.Entries(); n != 0 || bytes != 0 {
			t.Errorf("%d records with %d bytes are left", n, bytes)
		}
	})
}

// TestPartitionTravels: what a partition may have, with what is reserved, travels in one
// section, and arrives.
func TestPartitionTravels(t *testing.T) {
	for _, size := range []int{0, 1000, 64 << 10} {
		m := narrow()
		n := 0
		for ; n < testMost/50; n++ {
			r := numbered(n, 3)
			r.MaxEntry = size
			if size < 1000 {
				r.Key = binary.BigEndian.AppendUint64(make([]byte, 400), uint64(n)) // lanes count, too
			}
			if !done(t, m, r, Reply{Status: 200, Body: make([]byte, size)}) {
				break
			}
		}
		if n := m.partitions[3].encoded; n > testMost {
			t.Errorf("%d bytes are counted, of %d", n, testMost)
		}
		section := m.Export(3, nil)
		if len(section) > testMost || len(section) < testMost*3/4 {
			t.Errorf("%d records of %d travel in %d bytes", n, size, len(section))
		}
		if !done(t, m, numbered(n, 4), Reply{}) {
			t.Error("another partition is full, too")
		}
		other := narrow()
		other.Import(3, section)
		if arrived, _ := other.Entries(); arrived != n || other.bytes != m.bytes-recordBytes-laneBytes-4 {
			t.Errorf("%d of %d arrive, with %d of %d bytes", arrived, n, other.bytes, m.bytes)
		}
		other.check(t)
	}
}

// TestPartitionReserves: what runs has its room, and no more is begun than can finish.
//
// Mutants: nothing is reserved.
func TestPartitionReserves(t *testing.T) {
	m := narrow()
	var runs []Run
	for n := 0; n < 100; n++ {
		r := numbered(n, 3)
		r.MaxEntry = 64 << 10
		run, _, err := m.Begin(t.Context(), r)
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	if len(runs) != 15 {
		t.Errorf("%d run, want 15", len(runs))
	}
	for _, run := range runs {
		if err := run.Finish(t.Context(), Reply{Body: make([]byte, 64<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(m.Export(3, nil)); n > testMost || n < len(runs)<<16 {
		t.Errorf("they travel in %d bytes", n)
	}
	m.check(t)
}

// TestForeignGoFirst: copies of what has moved make room, and only then; what runs
// stays, and so does what is this node's.
//
// Mutants: there is no eviction; it takes what is owned, alone or too; it takes what
// runs; Owned is called under the lock.
func TestForeignGoFirst(t *testing.T) {
	asked := 0
	m := NewMemory(MemoryConfig{MaxRecords: 5})
	m.config.Owned = func(p int) bool {
		m.mu.Lock() // nobody has it
		defer m.mu.Unlock()
		asked++
		return p != 1
	}
	done(t, m, numbered(0, 0), Reply{})
	done(t, m, numbered(1, 1), Reply{})
	done(t, m, numbered(2, 1), Reply{})
	if _, _, err := m.Begin(t.Context(), numbered(3, 1)); err != nil {
		t.Fatal(err)
	}
	if !done(t, m, numbered(4, 2), Reply{}) || asked > 0 || state(t, m, numbered(1, 1)) != Done {
		t.Error("they go while there is room")
	}
	if !done(t, m, numbered(5, 2), Reply{}) {
		t.Error("they don't go")
	}
	for i, want := range []State{Done, New, New, Running, Done, Done} {
		if have := state(t, m, numbered(i, 0)); have != want {
			t.Errorf("name %d: state %d, want %d", i, have, want)
		}
	}
	if !done(t, m, numbered(6, 2), Reply{}) || done(t, m, numbered(7, 2), Reply{}) {
		t.Error("there was room for two, no more")
	}
	m.check(t)
}

// TestImportBeyondBounds: no name is lost for want of room, but bodies are.
//
// Mutants: all bytes are kept.
func TestImportBeyondBounds(t *testing.T) {
	from := NewMemory(MemoryConfig{})
	for i := range 10 {
		done(t, from, numbered(i, 0), Reply{Status: 200, Body: make([]byte, 100)})
	}
	m := NewMemory(MemoryConfig{MaxRecords: 2, MaxBytes: 2000})
	m.Import(0, from.Export(0, nil))
	whole := 0
	for i := range 10 {
		_, known, err := m.Begin(t.Context(), numbered(i, 0))
		if err != nil || known.State != Done || known.Reply.Status != 200 {
			t.Errorf("name %d: state %d, %v", i, known.State, err)
		}
		if !known.Reply.Bare {
			whole++
		}
	}
	if whole == 0 || whole == 10 {
		t.Errorf("%d replies were kept", whole)
	}
	if done(t, m, numbered(10, 0), Reply{}) {
		t.Error("there is room for more")
	}
	m.check(t)
}

// TestMergedPartitionTravels: the records of two owners, more than one section may have,
// still make a section of its size.
//
// Mutants: a section has any size.
func TestMergedPartitionTravels(t *testing.T) {
	all := narrow()
	for owner := range 2 {
		from := narrow()
		for i := 0; i < testMost/50; i++ {
			r := numbered(owner<<32+i, 3)
			r.MaxEntry = 0
			if !done(t, from, r, Reply{}) {
				break
			}
		}
		all.Import(3, from.Export(3, nil))
	}
	section := all.Export(3, nil)
	if len(section) > testMost || len(section) < testMost*3/4 {
		t.Errorf("they travel in %d bytes", len(section))
	}
	to := narrow()
	to.Import(3, section)
	if n, _ := to.Entries(); n < testMost/150 {
		t.Errorf("%d arrive", n)
	}
}

// TestImportIgnores: what this version doesn't write is ignored whole, and what is behind
// it, too.
//
// Mutants: any version will do; left, or status, has no bound; a lane may have no record;
// what comes first is taken.
func TestImportIgnores(t *testing.T) {
	m := NewMemory(MemoryConfig{})
	if !done(t, m, numbered(1, 0), Reply{Status: 200}) {
		t.Fatal("full")
	}
	sound := m.Export(0, nil)
	record := func(kind byte, numbers ...uint64) []byte {
		data := append([]byte{1, 'k', 1}, make([]byte, len(ID{})+len(Print{}))...)
		data = append(data, kind)
		for _, n := range numbers {
			data = binary.AppendUvarint(data, n)
		}
		return data
	}
	for name, test := range map[string]struct {
		data []byte
		want int
	}{
		"sound":             {sound, 1},
		"and another":       {append(bytes.Clone(sound), record(kindUnknown, 1)...), 2},
		"nothing":           {nil, 0},
		"a version alone":   {[]byte{sectionVersion}, 0},
		"another version":   {append([]byte{sectionVersion + 1}, sound[1:]...), 0},
		"no time":           {append(bytes.Clone(sound), record(kindUnknown, 0)...), 0},
		"all time":          {append(bytes.Clone(sound), record(kindUnknown, 1<<63)...), 0},
		"no status":         {append(bytes.Clone(sound), record(kindBare, 1, statusMax+1)...), 0},
		"no kind":           {append(bytes.Clone(sound), record(0, 1, 200, 0, 0)...), 0},
		"a further kind":    {append(bytes.Clone(sound), record(kindUnknown+1, 1, 200, 0, 0)...), 0},
		"no record":         {append(bytes.Clone(sound), 1, 'k', 0), 0},
		"a record too few":  {append(bytes.Clone(sound), 1, 'k', 1), 0},
		"a body that lacks": {append(bytes.Clone(sound), record(kindDone, 1, 200, 0, 1)...), 0},
	} {
		to := NewMemory(MemoryConfig{})
		to.Import(0, test.data)
		if n, _ := to.Entries(); n != test.want {
			t.Errorf("%s: %d records, want %d", name, n, test.want)
		}
	}
}

// TestImportOverExpired: a reply whose time is over stands in nobody's way.
//
// Mutants: what is unknown never replaces what was done.
func TestImportOverExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, from := NewMemory(MemoryConfig{}), NewMemory(MemoryConfig{})
		done(t, m, numbered(0, 0), Reply{})
		time.Sleep(time.Hour)
		run, _, err := from.Begin(t.Context(), numbered(0, 0))
		if err != nil || run.Lose(t.Context()) != nil {
			t.Fatal(err)
		}
		m.Import(0, from.Export(0, nil))
		if have := state(t, m, numbered(0, 0)); have != Unknown {
			t.Errorf("state %d", have)
		}
	})
}

// TestClosedTravels: a closed store can still tell of what ran.
//
// Mutants: Close forgets what runs.
func TestClosedTravels(t *testing.T) {
	m, to := NewMemory(MemoryConfig{}), NewMemory(MemoryConfig{})
	if _, _, err := m.Begin(t.Context(), numbered(0, 0)); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	to.Import(0, m.Export(0, nil))
	if have := state(t, to, numbered(0, 0)); have != Unknown {
		t.Errorf("state %d", have)
	}
}

// FuzzImport: anything is read or ignored, whole; what is read leaves a sound store, and
// is what would be sent on.
//
// Mutants: what comes first is taken, though the rest can't be read; lengths are
// believed.
func FuzzImport(f *testing.F) {
	m := NewMemory(MemoryConfig{})
	for i := range 6 {
		r := numbered(i, 0)
		r.Key = []byte{byte(i % 2)}
		run, _, err := m.Begin(f.Context(), r)
		if err != nil {
			f.Fatal(err)
		}
		switch i {
		case 0:
			err = run.Lose(f.Context())
		case 1:
			err = run.Finish(f.Context(), Reply{Status: 200, Bare: true})
		case 2, 3:
			err = run.Finish(f.Context(), Reply{Status: 200, Head: []byte("A: b\r\n"), Body: []byte("c")})
		}
		if err != nil {
			f.Fatal(err)
		}
	}
	whole := m.Export(0, nil)
	f.Add(whole)
	f.Add(m.ExportKey(0, "\x01"))
	f.Add([]byte{})
	f.Add([]byte{2})
	f.Add([]byte{sectionVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{sectionVersion, 0, 0xff, 0xff, 0xff, 0x7f, 1})
	for i := range whole {
		f.Add(whole[:i])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := NewMemory(MemoryConfig{MaxRecords: 100})
		mine := numbered(1<<40, 0)
		done(t, m, mine, Reply{Status: 201})
		m.Import(0, data)
		m.check(t)
		n, _ := m.Entries()
		if !walk(data, func([]byte, *traveller) {}) && n != 1 {
			t.Fatalf("%d records come of what can't be read", n-1)
		}
		if m.bytes > int64(len(data))*8+1000 {
			t.Fatalf("%d bytes come of %d", m.bytes, len(data))
		}
		to := NewMemory(MemoryConfig{})
		to.Import(0, m.Export(0, nil))
		to.check(t)
		if arrived, _ := to.Entries(); arrived != n {
			t.Fatalf("%d of %d are sent on", arrived, n)
		}
		for id, of := range m.records {
			if got := to.records[id]; got == nil || !sameRecord(got.known(), of.known()) || got.lane.key != of.lane.key {
				t.Fatalf("%x changes on its way", id)
			}
		}
	})
}

// A node alone has all its records in one partition, which may hold more than can travel.
//
// Mutant: Alone is not looked at.
func TestAlone(t *testing.T) {
	for _, alone := range []bool{false, true} {
		m := NewMemory(MemoryConfig{Alone: alone})
		body, full := make([]byte, 1<<20), false
		for i := range 20 {
			run, _, err := m.Begin(t.Context(), &Request{ID: ID{byte(i)}, Key: []byte("k"), TTL: time.Hour, MaxEntry: 2 << 20})
			if full = full || errors.Is(err, ErrFull); err != nil {
				continue
			}
			if err := run.Finish(t.Context(), Reply{Body: body}); err != nil {
				t.Fatal(err)
			}
		}
		if full == alone {
			t.Errorf("alone %v: full %v", alone, full)
		}
	}
}
