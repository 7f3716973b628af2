package redlock

import (
	"fmt"
	"testing"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

func Benchmark(b *testing.B) {
	for _, n := range []int{3, 5} {
		b.Run(fmt.Sprint("masters=", n), func(b *testing.B) {
			c := startMasters(b, n).config()
			locktest.Benchmark(b, func() lock.Locker { return open(b, c) })
		})
	}
}
