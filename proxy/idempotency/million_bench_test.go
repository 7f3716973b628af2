package idempotency

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"
)

// BenchmarkMillion keeps a million records with replies of 100 bytes, each alone in its
// lane, which is the worst, within 512 MiB, and reports what of that is counted and what
// the heap grows by. The time is that of a request: its claim and its reply.
//
//	go test ./proxy/idempotency -run '^$' -bench Million -benchtime 1000000x
func BenchmarkMillion(b *testing.B) {
	before := heapSize()
	m := NewMemory(MemoryConfig{MaxRecords: 1_000_000, MaxBytes: 512 << 20})
	reply := Reply{Status: 201, Head: make([]byte, 60), Body: make([]byte, 40)}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		r := &Request{Partition: i % 4096, Key: make([]byte, 16), TTL: time.Hour, MaxEntry: 64 << 10}
		binary.BigEndian.PutUint64(r.ID[:], uint64(i))
		binary.BigEndian.PutUint64(r.Key, uint64(i))
		run, _, err := m.Begin(b.Context(), r)
		if err != nil {
			b.Fatalf("record %d: %v", i, err)
		}
		if err := run.Finish(b.Context(), reply); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	grown := heapSize() - before
	count, counted := m.Entries()
	b.ReportMetric(float64(counted)/float64(count), "counted-B/record")
	b.ReportMetric(float64(grown)/float64(count), "heap-B/record")
	b.ReportMetric(float64(grown)/(1<<20), "heap-MiB")
	runtime.KeepAlive(m)
}
