package queue_test

import (
	"fmt"
	"sync"
	"time"

	"lanekeeper/queue"
)

// Three requests for one order are admitted in order; however the scheduler
// runs their goroutines, they run in that order, one at a time.
func Example() {
	lanes := queue.New(queue.Config{MaxQueued: 100, MaxQueuedBytes: 1 << 20, MaxLanes: 100, Tags: 1})
	var wg sync.WaitGroup
	for _, name := range []string{"insert", "update", "delete"} {
		ticket := new(queue.Ticket)
		request := queue.Request{Key: []byte("order:7"), MaxDepth: 10, MaxBytes: 1 << 20}
		if err := lanes.Admit(ticket, &request); err != nil {
			fmt.Println(err)
			return
		}
		wg.Go(func() {
			if err := ticket.Wait(time.Time{}); err != nil {
				return
			}
			fmt.Println(name)
			ticket.Done()
		})
	}
	wg.Wait()
	// Output:
	// insert
	// update
	// delete
}
