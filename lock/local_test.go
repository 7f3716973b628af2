package lock_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

// Mutants: leave takes out the head, whoever leaves; leave grants nobody; enter
// grants everybody; tokens stay; Close leaves what waits in the queues.
func TestLocal(t *testing.T) {
	locktest.Run(t, func(*testing.T) *locktest.Store {
		store := lock.NewLocal()
		return &locktest.Store{Open: store.Open, Waiting: store.Waiting, Left: store.Left, TTL: 10 * time.Millisecond}
	})
}

func ExampleLocker() {
	locker := lock.NewLocal().Open()
	lease, err := locker.Acquire(context.Background(), "order:7")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lease.Release(context.Background()) //nolint:errcheck // it can't fail here
	if lease.ValidFor() > 0 {
		fmt.Println("nobody else has order:7")
	}
	// Output: nobody else has order:7
}
