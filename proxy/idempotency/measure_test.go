package idempotency

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"
)

// TestMemoryIsCounted: what is counted is what the heap grows by, and not much more.
// Records are worst alone in their lanes.
//
// Mutants: a record counts for 180 bytes; a lane for none.
func TestMemoryIsCounted(t *testing.T) {
	for _, test := range []struct {
		name  string
		count int
		lanes int // 0: one for each
		reply int
		run   bool
	}{
		{name: "alone", count: 30_000}, {name: "running", count: 30_000, run: true}, {name: "together", count: 30_000, lanes: 1},
		{name: "after a map's growth", count: 15_000}, {name: "with replies", count: 10_000, reply: 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := heapSize()
			m := NewMemory(MemoryConfig{})
			for i := range test.count {
				r := &Request{Partition: i % 271, Key: make([]byte, 16), TTL: time.Hour, MaxEntry: test.reply}
				binary.BigEndian.PutUint64(r.ID[:], uint64(i))
				lane := i
				if test.lanes > 0 {
					lane = i % test.lanes
				}
				binary.BigEndian.PutUint64(r.Key, uint64(lane))
				run, _, err := m.Begin(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				if test.run {
					continue
				}
				if err := run.Finish(t.Context(), Reply{Body: make([]byte, test.reply)}); err != nil {
					t.Fatal(err)
				}
			}
			grown := int64(heapSize() - before)
			_, counted := m.Entries()
			t.Logf("%d bytes a record counted, %d measured", counted/int64(test.count), grown/int64(test.count))
			if counted < grown || counted > grown*3/2 {
				t.Errorf("%d bytes are counted, of %d", counted, grown)
			}
			runtime.KeepAlive(m)
		})
	}
}

func heapSize() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
