package redlock

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkPair is an acquire and a release of a lock that nobody else wants.
func BenchmarkPair(b *testing.B) {
	for _, n := range []int{3, 5} {
		b.Run(fmt.Sprint("masters=", n), func(b *testing.B) {
			l := node(b, startMasters(b, n).config())
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
		})
	}
}

// BenchmarkHandOff is from a release on one of four nodes to the grant on the next.
func BenchmarkHandOff(b *testing.B) {
	for _, n := range []int{3, 5} {
		b.Run(fmt.Sprint("masters=", n), func(b *testing.B) {
			c := startMasters(b, n).config()
			var wg sync.WaitGroup
			var took []time.Duration // guarded, with the rest, by the lock that is measured
			var released time.Time
			left := b.N
			for range 4 {
				l := node(b, c)
				wg.Go(func() {
					for more := true; more; {
						lease, err := l.Acquire(b.Context(), "x")
						if err != nil {
							b.Error(err)
							return
						}
						if !released.IsZero() {
							took = append(took, time.Since(released))
						}
						left--
						more = left > 0
						time.Sleep(500 * time.Microsecond)
						released = time.Now()
						if err := lease.Release(b.Context()); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			report(b, took)
		})
	}
}

func report(b *testing.B, took []time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	for _, p := range []int{50, 90, 99} {
		b.ReportMetric(float64(took[len(took)*p/100].Nanoseconds()), fmt.Sprintf("p%d-ns", p))
	}
}
