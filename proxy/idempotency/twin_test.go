package idempotency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// twin is a Memory as simple as can be: a list, and no counters.
type twin struct {
	most    int
	foreign bool // partition 2 is another node's
	records []*twinRecord
}

type twinRecord struct {
	id      ID
	print   Print
	state   State
	reply   Reply
	expires time.Time
	most    int
}

const twinForeign = 2

func twinPartition(id ID) int { return int(id[0]) }
func twinLane(id ID) string   { return fmt.Sprint(id[0], "/", id[1]) }

func (w *twin) sweep() {
	w.records = slices.DeleteFunc(w.records, func(of *twinRecord) bool { return of.state != Running && !time.Now().Before(of.expires) })
}

func (w *twin) find(id ID) *twinRecord {
	for _, of := range w.records {
		if of.id == id {
			return of
		}
	}
	return nil
}

func (w *twin) remove(of *twinRecord) {
	w.records = slices.DeleteFunc(w.records, func(other *twinRecord) bool { return other == of })
}

func (w *twin) begin(r *Request) (*twinRecord, Record, error) {
	w.sweep()
	of := w.find(r.ID)
	if of != nil && (of.state != Unknown || !r.Again || of.print != r.Print) {
		return nil, Record{State: of.state, Print: of.print, Reply: of.reply}, nil
	}
	if of == nil {
		if len(w.records) >= w.most && w.foreign {
			w.records = slices.DeleteFunc(w.records, func(of *twinRecord) bool { return of.state != Running && twinPartition(of.id) == twinForeign })
		}
		if len(w.records) >= w.most {
			return nil, Record{}, ErrFull
		}
	}
	w.remove(of)
	of = &twinRecord{id: r.ID, print: r.Print, state: Running, expires: time.Now().Add(r.TTL), most: r.MaxEntry}
	w.records = append(w.records, of)
	return of, Record{State: New, Print: r.Print}, nil
}

func (w *twin) end(of *twinRecord, state State, reply Reply) error {
	if !slices.Contains(w.records, of) || of.state != Running {
		return ErrLost
	}
	if of.state, of.reply = state, reply; state == New {
		w.remove(of)
	}
	if len(reply.Head)+len(reply.Body) > of.most {
		of.reply = Reply{Status: reply.Status, Bare: true}
	}
	return nil
}

func (w *twin) importFrom(from *twin, chosen func(id ID) bool) {
	w.sweep()
	for _, of := range from.records {
		if !chosen(of.id) || !time.Now().Before(of.expires) {
			continue
		}
		old, travels := w.find(of.id), *of
		if travels.state == Running {
			travels.state = Unknown
		}
		if old == nil || old.state != Done || travels.state == Done {
			w.remove(old)
			w.records = append(w.records, &travels)
		}
	}
}

// TestMemoryTwin has two stores, and their twins, do the same at random, with records
// that travel between them, and compares all that they know after each step.
//
// Mutants: Again takes whatever print; what is running; is ignored; what runs isn't
// exported; except is ignored; a time to live rounds down; what is unknown replaces
// what was done; an import replaces nothing; what is bare travels whole; lanes, or
// partitions, stay when they are empty; a reply that goes stays counted; an overfull
// store refuses Again.
func TestMemoryTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 5 { // of 100 each
			rapid.Check(endless{t}, checkTwins)
		}
	})
}

// endless has no deadline, which is of another time than the bubble's.
type endless struct{ *testing.T }

// Deadline has rapid not ask the test.
func (endless) Deadline() (time.Time, bool) { return time.Time{}, false }

type claimed struct {
	node int
	run  Run
	of   *twinRecord
}

func checkTwins(t *rapid.T) {
	var stores [2]*Memory
	var twins [2]*twin
	for i := range stores {
		twins[i] = &twin{most: rapid.IntRange(3, 12).Draw(t, "most")}
		stores[i] = NewMemory(MemoryConfig{MaxRecords: twins[i].most, Owned: func(p int) bool { return p != twinForeign || !twins[i].foreign }})
	}
	var runs []claimed
	ctx := context.Background()
	node := rapid.IntRange(0, 1)
	end := func(state State, call func(Run, Reply) error) func(*rapid.T) {
		return func(t *rapid.T) {
			if len(runs) == 0 {
				t.Skip()
			}
			i := rapid.IntRange(0, len(runs)-1).Draw(t, "run")
			c := runs[i]
			if rapid.IntRange(0, 3).Draw(t, "keep it") > 0 {
				runs = slices.Delete(runs, i, i+1)
			}
			reply := Reply{}
			if state == Done {
				reply.Status = rapid.IntRange(0, 999).Draw(t, "status")
				reply.Head = rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "head")
				reply.Body = rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "body")
			}
			if got, want := call(c.run, reply), twins[c.node].end(c.of, state, reply); !errors.Is(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"begin": func(t *rapid.T) {
			n := node.Draw(t, "node")
			r := &Request{
				TTL:      time.Duration(rapid.IntRange(1, 50).Draw(t, "ttl")) * time.Millisecond,
				MaxEntry: rapid.IntRange(0, 10).Draw(t, "most"), Again: rapid.Bool().Draw(t, "again"),
			}
			r.ID = ID{byte(rapid.IntRange(0, 2).Draw(t, "partition")), byte(rapid.IntRange(0, 1).Draw(t, "lane")), byte(rapid.IntRange(0, 2).Draw(t, "name"))}
			r.Print[0] = byte(rapid.IntRange(0, 3).Draw(t, "print") / 3)
			r.Partition, r.Key = twinPartition(r.ID), []byte(twinLane(r.ID))
			run, known, err := stores[n].Begin(ctx, r)
			of, wantKnown, wantErr := twins[n].begin(r)
			if !errors.Is(err, wantErr) || !sameRecord(known, wantKnown) || (run == nil) != (of == nil) {
				t.Fatalf("got %v %+v %v, want %+v %v", run, known, err, wantKnown, wantErr)
			}
			if run != nil {
				runs = append(runs, claimed{n, run, of})
			}
		},
		"finish": end(Done, func(run Run, reply Reply) error { return run.Finish(ctx, reply) }),
		"lose":   end(Unknown, func(run Run, _ Reply) error { return run.Lose(ctx) }),
		"forget": end(New, func(run Run, _ Reply) error { return run.Forget(ctx) }),
		"wait":   func(t *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 20).Draw(t, "ms")) * time.Millisecond) },
		"move": func(t *rapid.T) {
			n, p := node.Draw(t, "node"), rapid.IntRange(0, 2).Draw(t, "partition")
			except := rapid.SliceOfN(rapid.IntRange(0, 1), 0, 1).Draw(t, "except")
			var keys []string
			for _, lane := range except {
				keys = append(keys, twinLane(ID{byte(p), byte(lane)}))
			}
			for range rapid.IntRange(1, 2).Draw(t, "times") {
				stores[1-n].Import(p, stores[n].Export(p, keys))
			}
			twins[1-n].importFrom(twins[n], func(id ID) bool { return twinPartition(id) == p && !slices.Contains(keys, twinLane(id)) })
		},
		"move a key": func(t *rapid.T) {
			n := node.Draw(t, "node")
			of := ID{byte(rapid.IntRange(0, 2).Draw(t, "partition")), byte(rapid.IntRange(0, 1).Draw(t, "lane"))}
			stores[1-n].Import(twinPartition(of), stores[n].ExportKey(twinPartition(of), twinLane(of)))
			twins[1-n].importFrom(twins[n], func(id ID) bool { return twinLane(id) == twinLane(of) })
		},
		"corrupt": func(t *rapid.T) {
			data := stores[0].Export(0, nil)
			if len(data) == 0 {
				t.Skip()
			}
			data = data[:rapid.IntRange(0, len(data)-1).Draw(t, "cut")]
			if walk(data, func([]byte, *traveller) {}) {
				t.Skip() // between two lanes
			}
			stores[1].Import(0, data)
		},
		"own": func(t *rapid.T) {
			n := node.Draw(t, "node")
			twins[n].foreign = !twins[n].foreign
		},
		"": func(t *rapid.T) {
			for i, m := range stores {
				twins[i].sweep()
				m.check(t)
				compareTwin(t, m, twins[i])
			}
		},
	})
}

func compareTwin(t *rapid.T, m *Memory, w *twin) {
	t.Helper()
	if n, _ := m.Entries(); n != len(w.records) {
		t.Fatalf("%d records, want %d", n, len(w.records))
	}
	for _, want := range w.records {
		of := m.records[want.id]
		if of == nil {
			t.Fatalf("%x is not there", want.id[:3])
		}
		if !sameRecord(of.known(), Record{State: want.state, Print: want.print, Reply: want.reply}) {
			t.Fatalf("%x is %+v, want %+v", want.id[:3], of.known(), want)
		}
		if expires := m.epoch.Add(of.expires); !expires.Equal(want.expires) {
			t.Fatalf("%x expires %v late", want.id[:3], expires.Sub(want.expires))
		}
		if of.lane.key != twinLane(of.id) || of.lane.partition.number != twinPartition(of.id) {
			t.Fatalf("%x is in lane %s of %d", want.id[:3], of.lane.key, of.lane.partition.number)
		}
	}
}

func sameRecord(a, b Record) bool {
	return a.State == b.State && a.Print == b.Print && a.Until == b.Until && a.Reply.Status == b.Reply.Status &&
		a.Reply.Bare == b.Reply.Bare && bytes.Equal(a.Reply.Head, b.Reply.Head) && bytes.Equal(a.Reply.Body, b.Reply.Body)
}

// check counts everything again, and looks at each link.
func (m *Memory) check(t interface{ Fatalf(string, ...any) }) {
	var bytes int64
	linked, settled := 0, 0
	for number, p := range m.partitions {
		encoded := 0
		for key, l := range p.lanes {
			encoded += encodedLane + len(key)
			bytes += laneBytes + int64(len(key))
			if l.first == nil || l.key != key || l.partition != p || p.number != number {
				t.Fatalf("lane %q of %d is not linked", key, number)
			}
			var prev *record
			for of := l.first; of != nil; prev, of = of, of.next {
				if of.prev != prev || of.lane != l || m.records[of.id] != of {
					t.Fatalf("%x is not linked", of.id)
				}
				linked++
				encoded += encodedRecord + len(of.reply)
				bytes += recordBytes + int64(cap(of.reply))
				if running := of.state == Running; running != (of.run != nil) || running != (of.place < 0) || running && of.run.of != of {
					t.Fatalf("%x is in state %d with run %v at %d", of.id, of.state, of.run, of.place)
				}
				if of.state == Running {
					encoded += of.run.maxEntry
					bytes += reserved(of.run.maxEntry)
				} else if m.expiries[of.place] != of {
					t.Fatalf("%x is not at its place", of.id)
				} else {
					settled++
				}
			}
		}
		if encoded != p.encoded || len(p.lanes) == 0 {
			t.Fatalf("partition %d has %d lanes of %d bytes, %d counted", number, len(p.lanes), encoded, p.encoded)
		}
	}
	if linked != len(m.records) || settled != len(m.expiries) || bytes != m.bytes {
		t.Fatalf("%d records, %d settled, %d bytes; known are %d, %d, %d", linked, settled, bytes, len(m.records), len(m.expiries), m.bytes)
	}
	for i := range m.expiries {
		if i > 0 && m.expiries[i].expires < m.expiries[(i-1)/2].expires {
			t.Fatalf("the heap is none at %d", i)
		}
	}
}
