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
	b.Run("keys=1M", func(b *testing.B) { benchmarkKeys(b, roomy, nil, 1_000_000, 0) })
	b.Run("keys=1M,active=100k", func(b *testing.B) { benchmarkKeys(b, roomy, nil, 1_000_000, 100_000) })
	b.Run("keys=64", func(b *testing.B) { benchmarkKeys(b, roomy, nil, 64, 0) })
	b.Run("keys=1", func(b *testing.B) { benchmarkKeys(b, roomy, nil, 1, 0) })
}

// BenchmarkAdmitWatched is the same with what looks for hot keys.
func BenchmarkAdmitWatched(b *testing.B) {
	counted := roomy
	counted.TopWindow = time.Minute
	rule := &HotRule{Depth: 32, Busy: 0.9, Share: 0.1, For: 5 * time.Second, CoolAfter: 30 * time.Second}
	b.Run("rule,keys=1M", func(b *testing.B) { benchmarkKeys(b, roomy, rule, 1_000_000, 0) })
	b.Run("rule,keys=1", func(b *testing.B) { benchmarkKeys(b, roomy, rule, 1, 0) })
	b.Run("top,keys=1M", func(b *testing.B) { benchmarkKeys(b, counted, nil, 1_000_000, 0) })
	b.Run("top,keys=64", func(b *testing.B) { benchmarkKeys(b, counted, nil, 64, 0) })
	b.Run("top,keys=1", func(b *testing.B) { benchmarkKeys(b, counted, nil, 1, 0) })
}

// BenchmarkBacklog is Done of a lane in which forty wait, and Admit behind them:
// with a rule, both look whether it is hot.
func BenchmarkBacklog(b *testing.B) {
	for name, rule := range map[string]*HotRule{"plain": nil, "watched": {Depth: 32, Busy: 0.9, Share: 0.1}} {
		b.Run(name, func(b *testing.B) {
			l := New(roomy)
			r := Request{Key: []byte("k"), MaxDepth: 99, MaxBytes: 99, Hot: rule}
			var tickets [41]Ticket
			for i := range tickets {
				if err := l.Admit(&tickets[i], &r); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				t := &tickets[i%len(tickets)]
				if err := t.Wait(time.Time{}); err != nil {
					b.Fatal(err)
				}
				t.Done()
				if err := l.Admit(t, &r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSupersede is Admit of a request that takes the place of the one before it,
// and what that one is told.
func BenchmarkSupersede(b *testing.B) {
	l := New(roomy)
	r := Request{Key: []byte("k"), MaxDepth: 1, MaxBytes: 99, Effect: &Effect{Kind: "PUT", Over: []Over{{Kind: "PUT"}}}}
	var running Ticket
	if err := l.Admit(&running, &r); err != nil {
		b.Fatal(err)
	}
	var tickets [2]Ticket
	if err := l.Admit(&tickets[1], &r); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := l.Admit(&tickets[i%2], &r); err != nil {
			b.Fatal(err)
		}
		if err := tickets[(i+1)%2].Wait(time.Time{}); err == nil {
			b.Fatal("it has its turn")
		}
	}
}

func benchmarkKeys(b *testing.B, config Config, rule *HotRule, keys uint64, active int) {
	l := New(config)
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
		r := Request{MaxDepth: 1 << 20, MaxBytes: 1 << 30, Hot: rule}
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
