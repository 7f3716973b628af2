package ring

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
)

// BenchmarkTarget is the lookup of a partition's target, all partitions in
// turn, in jumps.
func BenchmarkTarget(b *testing.B) {
	for _, n := range []int{0, 3, 50, 500} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			r := mustNew(b, DefaultLayout("bench"), membersOf(n, styles[0].of))
			b.ReportAllocs()
			var sum uint64
			p := 0
			for b.Loop() {
				p = (p + 1867) & 4095
				sum += r.Target(p).Incarnation
			}
			sink.Add(sum)
		})
	}
}

// BenchmarkLocate is the whole way of a request: from a key of 16 bytes to its
// partition and from there to its target, on all processors.
func BenchmarkLocate(b *testing.B) {
	l := DefaultLayout("bench")
	r := mustNew(b, l, membersOf(50, styles[0].of))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		key := []byte("order:..........")
		x := sink.Add(0x9e3779b97f4a7c15)
		var sum uint64
		for pb.Next() {
			x += 0x9e3779b97f4a7c15
			binary.LittleEndian.PutUint64(key[8:], x)
			sum += r.Target(l.Partition(key)).Incarnation
		}
		sink.Add(sum)
	})
}

// BenchmarkNew is what a change of members costs each node.
func BenchmarkNew(b *testing.B) {
	for _, n := range []int{3, 10, 50, libraryMost, libraryMost + 1, 100, 500, 1000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			members := membersOf(n, styles[0].of)
			b.ReportAllocs()
			for b.Loop() {
				sink.Add(mustNew(b, DefaultLayout("bench"), members).Hash())
			}
		})
	}
}

var sink atomic.Uint64 // keeps results alive
