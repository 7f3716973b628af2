package locktest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"lanekeeper/lock"
)

// Benchmark measures a Locker: what one costs whom nobody disturbs, and how four nodes
// pass one on.
func Benchmark(b *testing.B, open func() lock.Locker) {
	b.Run("pair", func(b *testing.B) { benchmarkPair(b, open()) })
	b.Run("handoff", func(b *testing.B) {
		nodes := []lock.Locker{open(), open(), open(), open()}
		benchmarkHandOff(b, nodes)
	})
}

// benchmarkPair acquires and releases without contention.
func benchmarkPair(b *testing.B, l lock.Locker) {
	defer shut(l)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		lease, err := l.Acquire(b.Context(), "x")
		if err != nil {
			b.Fatal(err)
		}
		if err := lease.Release(b.Context()); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	report(b, took)
}

// benchmarkHandOff has each node want the lock for half a millisecond, for ever. A
// hand-off is from a Release to the return of the next Acquire, on whatever node.
func benchmarkHandOff(b *testing.B, nodes []lock.Locker) {
	var mu sync.Mutex // guards the rest
	var released time.Time
	var took []time.Duration
	shares, twice, last := make([]int, len(nodes)), 0, -1
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	done := make(chan struct{})
	var wg sync.WaitGroup
	use := func(i int, lease lock.Lease) {
		mu.Lock()
		now := time.Now()
		if !released.IsZero() {
			took = append(took, now.Sub(released))
		}
		if shares[i]++; last == i {
			twice++
		}
		if last = i; len(took) == b.N {
			close(done)
		}
		mu.Unlock()
		time.Sleep(500 * time.Microsecond)
		mu.Lock()
		released = time.Now()
		mu.Unlock()
		lease.Release(context.Background()) //nolint:errcheck // the next one shows it
	}
	b.ResetTimer()
	for i, l := range nodes {
		wg.Go(func() {
			defer shut(l)
			for {
				lease, err := l.Acquire(ctx, "x")
				if err != nil {
					return
				}
				use(i, lease)
			}
		})
	}
	<-done
	b.StopTimer()
	cancel()
	wg.Wait()
	report(b, took)
	b.ReportMetric(float64(slices.Max(shares)-slices.Min(shares))/float64(len(took))*float64(len(nodes))*100, "%spread")
	b.ReportMetric(float64(twice)/float64(len(took))*100, "%twice")
}

// shut closes a Locker whose store may be gone.
func shut(l lock.Locker) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l.Close(ctx) //nolint:errcheck // nothing depends on it
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	at := func(part float64) float64 {
		return float64(took[min(int(float64(len(took))*part), len(took)-1)]) / 1e3
	}
	b.ReportMetric(at(0.5), "µs-p50")
	b.ReportMetric(at(0.9), "µs-p90")
	b.ReportMetric(at(0.99), "µs-p99")
}
