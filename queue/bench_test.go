package queue

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"
)

var roomy = Config{MaxQueued: 1 << 30, MaxQueuedBytes: 1 << 50, MaxLanes: 1 << 30, Tags: 1}

// BenchmarkAdmit is one request's whole way through a lane, Admit to Done.
func BenchmarkAdmit(b *testing.B) {
	b.Run("keys=1M", func(b *testing.B) { benchmarkKeys(b, 1_000_000, 0) })
	b.Run("keys=1M,active=100k", func(b *testing.B) { benchmarkKeys(b, 1_000_000, 100_000) })
	b.Run("keys=64", func(b *testing.B) { benchmarkKeys(b, 64, 0) })
	b.Run("keys=1", func(b *testing.B) { benchmarkKeys(b, 1, 0) })
}

func benchmarkKeys(b *testing.B, keys uint64, active int) {
	l := New(roomy)
	for i := range active { // lanes that stay open, so that the maps are not empty
		r := Request{Key: binary.BigEndian.AppendUint64([]byte("active:"), uint64(i))}
		if err := l.Admit(new(Ticket), &r); err != nil {
			b.Fatal(err)
		}
	}
	var seeds atomic.Uint64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		var t Ticket
		var key [14]byte
		copy(key[:], "order:")
		r := Request{MaxDepth: 1 << 20, MaxBytes: 1 << 30}
		x := seeds.Add(0x9e3779b97f4a7c15)
		for pb.Next() {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			binary.BigEndian.PutUint64(key[6:], x%keys)
			r.Key = key[:]
			if err := l.Admit(&t, &r); err != nil {
				b.Error(err)
				return
			}
			if err := t.Wait(time.Time{}); err != nil {
				b.Error(err)
				return
			}
			t.Done()
		}
	})
}
