package queue

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{MaxQueued: 9, MaxQueuedBytes: 99, MaxLanes: 9, Tags: 2})
		take := func(key string, tag int) *Ticket {
			ticket := new(Ticket)
			r := Request{Key: []byte(key), Bytes: 7, MaxDepth: 9, MaxBytes: 99, Tag: tag}
			if err := l.Admit(ticket, &r); err != nil {
				t.Fatal(err)
			}
			return ticket
		}
		head := take("busy", 0)
		time.Sleep(time.Second)
		take("busy", 1)
		waits := take("busy", 1)
		take("calm", 1)
		time.Sleep(2 * time.Second)
		head.Hold()

		lane, ok := l.Lane(0, []byte("busy"))
		if !ok || lane.Depth != 2 || lane.Bytes != 14 || lane.Running != 1 || len(lane.Tickets) != 3 {
			t.Fatalf("Lane = %+v, %v", lane, ok)
		}
		if h := lane.Head(); h.ID != head.ID || !h.Turn || !h.Held || h.Age != 3*time.Second {
			t.Errorf("head = %+v", h)
		}
		if last := lane.Tickets[2]; last.ID != waits.ID || last.Turn || last.Age != 2*time.Second || last.Bytes != 7 {
			t.Errorf("last = %+v", last)
		}
		if _, ok := l.Lane(0, []byte("idle")); ok {
			t.Error("an idle key has a lane")
		}
		if deepest := l.Deepest(1); len(deepest) != 1 || deepest[0].Key != "busy" {
			t.Errorf("Deepest = %+v", deepest)
		}
		want := []Total{
			{Lanes: 1, Running: 1, Held: 1, DepthMax: 2},
			{Lanes: 1, Waiting: 2, Running: 1, Bytes: 14, OldestWait: 2 * time.Second},
		}
		if got := l.Totals(); got[0] != want[0] || got[1] != want[1] {
			t.Errorf("Totals = %+v, want %+v", got, want)
		}
		head.Done()
		lane, _ = l.Lane(0, []byte("busy"))
		if lane.Service != 3*time.Second || lane.Depth != 1 {
			t.Errorf("after a turn of 3 s: %+v", lane)
		}
	})
}
