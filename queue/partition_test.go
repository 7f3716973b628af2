package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPartitionsChangeHands runs two sets of lanes as two nodes that give a
// partition to and fro under load, as the protocol of ownership does: the giver
// seals, the taker blocks the keys that are still at work, opens, and unblocks
// each when the giver says that it is empty. No key ever has two turns, whichever
// node they are at, and nothing is lost. The mutants of this file's subject must
// turn it red.
func TestPartitionsChangeHands(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) { changeHands(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func changeHands(t *testing.T, seed uint64) {
	const partition = shardCount + 3
	rng := rand.New(rand.NewPCG(seed, 1))
	var nodes [2]*Lanes
	for i := range nodes {
		nodes[i] = New(Config{
			MaxQueued: 1000, MaxQueuedBytes: 1 << 20, MaxLanes: 100, Tags: 1, Partitions: 2 * shardCount,
			Emptied: func(p int, key []byte) { // late, as over a network
				time.Sleep(time.Duration(len(key)%3) * time.Millisecond)
				if p != partition {
					t.Errorf("emptied: partition %d", p)
				}
				if !nodes[i].Busy(p, key) {
					nodes[1-i].Unblock(p, key)
				}
			},
		})
	}
	nodes[0].Open(partition)

	var mu sync.Mutex // guards turns
	turns := map[string]int{}
	ran := 0
	request := func(key string) {
		var ticket Ticket
		for at := 0; ; at++ {
			if at == 1000 {
				t.Errorf("nobody takes %s", key)
				return
			}
			err := nodes[at%2].Admit(&ticket, &Request{Key: []byte(key), Partition: partition, MaxDepth: 100, MaxBytes: 1 << 20})
			if errors.Is(err, ErrSealed) {
				time.Sleep(time.Millisecond / 2)
				continue
			}
			if err != nil {
				t.Errorf("admit: %v", err)
				return
			}
			break
		}
		if err := ticket.Wait(time.Time{}); err != nil {
			t.Errorf("wait: %v", err)
			return
		}
		mu.Lock()
		if turns[key]++; turns[key] > 1 {
			t.Errorf("two turns of %s at once", key)
		}
		ran++
		mu.Unlock()
		time.Sleep(time.Duration(len(key)) * time.Millisecond)
		mu.Lock()
		turns[key]--
		mu.Unlock()
		ticket.Done()
	}

	var clients sync.WaitGroup
	const requests = 40
	for range requests {
		key := fmt.Sprintf("%0*d", 1+rng.IntN(3), 7)
		after := time.Duration(rng.IntN(60)) * time.Millisecond
		clients.Go(func() {
			time.Sleep(after)
			request(key)
		})
	}
	for from := range 4 {
		time.Sleep(time.Duration(5+rng.IntN(20)) * time.Millisecond)
		giver, taker := nodes[from%2], nodes[1-from%2]
		for _, key := range giver.Seal(partition) {
			taker.Block(partition, key)
			if !giver.Busy(partition, key) {
				taker.Unblock(partition, key) // its last turn ended between the two
			}
		}
		taker.Open(partition)
		time.Sleep(200 * time.Millisecond) // one move at a time: the last is drained
	}
	clients.Wait()
	synctest.Wait()
	if ran != requests {
		t.Errorf("%d of %d ran", ran, requests)
	}
	for i, node := range nodes {
		if n := node.lanes.Load(); n != 0 {
			t.Errorf("node %d keeps %d lanes", i, n)
		}
	}
}

// TestASealedPartitionRefuses also shows that tickets taken before go on.
func TestASealedPartitionRefuses(t *testing.T) {
	var emptied []string
	l := New(Config{MaxQueued: 9, MaxQueuedBytes: 99, MaxLanes: 9, Tags: 1, Partitions: 4,
		Emptied: func(p int, key []byte) { emptied = append(emptied, fmt.Sprint(p, string(key))) }})
	r := func(key string) *Request {
		return &Request{Key: []byte(key), Partition: 2, MaxDepth: 9, MaxBytes: 99}
	}
	var first, second, other, late Ticket
	if err := l.Admit(&first, r("k")); !errors.Is(err, ErrSealed) {
		t.Fatalf("partitions begin sealed: got %v", err)
	}
	l.Open(2)
	for _, ticket := range []*Ticket{&first, &second} {
		if err := l.Admit(ticket, r("k")); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Admit(&other, r("other")); err != nil {
		t.Fatal(err)
	}
	if keys := l.Seal(2); len(keys) != 2 {
		t.Errorf("Seal: got %q, want both keys", keys)
	}
	if err := l.Admit(&late, r("k")); !errors.Is(err, ErrSealed) {
		t.Errorf("after Seal: got %v", err)
	}
	if err := l.Admit(&late, &Request{Key: []byte("k"), Partition: Unowned, Observe: true}); err != nil {
		t.Errorf("unowned: got %v", err)
	}
	late.Done()
	first.Done()
	if err := second.Wait(time.Time{}); err != nil {
		t.Error(err)
	}
	if len(emptied) != 0 {
		t.Errorf("emptied too early: %v", emptied)
	}
	second.Done()
	other.Done()
	if got, want := fmt.Sprint(emptied), "[2k 2other]"; got != want {
		t.Errorf("emptied: got %s, want %s", got, want)
	}
}

// TestABlockedLaneWaits: tickets are taken, turns do not begin; what runs goes on.
func TestABlockedLaneWaits(t *testing.T) {
	l := New(Config{MaxQueued: 9, MaxQueuedBytes: 99, MaxLanes: 1, Tags: 1, Partitions: 4})
	l.Open(1)
	key := []byte("k")
	l.Block(1, key)
	l.Block(1, key)
	granted := make(chan error, 1)
	var ticket Ticket
	ticket.Notify = func() { granted <- ticket.Granted() }
	if err := l.Admit(&ticket, &Request{Key: key, Partition: 1, MaxDepth: 9, MaxBytes: 99}); err != nil {
		t.Fatal(err)
	}
	if ticket.Turn() || len(granted) != 0 {
		t.Error("a turn began in a blocked lane")
	}
	if lane, ok := l.Lane(1, key); !ok || !lane.Blocked || lane.Depth != 1 {
		t.Errorf("Lane: got %+v, %v", lane, ok)
	}
	l.Unblock(1, key)
	if err := <-granted; err != nil {
		t.Error(err)
	}
	l.Block(1, key)
	if ticket.Done() {
		t.Error("a turn was passed on in a blocked lane")
	}
	if l.Totals()[0].Lanes != 0 || l.lanes.Load() != 1 {
		t.Error("a blocked lane without tickets counts as one, and is not shown")
	}
	l.Unblock(1, key)
	l.Unblock(1, key)
	if l.lanes.Load() != 0 {
		t.Error("an unblocked idle lane stays")
	}
}

// TestEvictPartition leaves other partitions, and turns, alone.
func TestEvictPartition(t *testing.T) {
	told := 0
	l := New(Config{MaxQueued: 9, MaxQueuedBytes: 99, MaxLanes: 9, Tags: 1, Partitions: 2 * shardCount,
		Emptied: func(int, []byte) { told++ }})
	admit := func(ticket *Ticket, p int) {
		l.Open(p)
		if err := l.Admit(ticket, &Request{Key: fmt.Append(nil, p), Partition: p, MaxDepth: 9, MaxBytes: 99}); err != nil {
			t.Fatal(err)
		}
	}
	var runs, waits, otherRuns, otherWaits, blocked Ticket
	admit(&runs, 1)
	admit(&waits, 1)
	admit(&otherRuns, 1+shardCount)
	admit(&otherWaits, 1+shardCount)
	l.Block(2, []byte("2"))
	admit(&blocked, 2)
	l.Seal(1)
	l.Seal(2)
	cause := errors.New("too few members")
	if n := l.EvictPartition(1, cause) + l.EvictPartition(2, cause); n != 2 {
		t.Errorf("got %d evicted, want 2", n)
	}
	for _, ticket := range []*Ticket{&waits, &blocked} {
		if err := ticket.Wait(time.Time{}); !errors.Is(err, cause) {
			t.Errorf("got %v, want the cause", err)
		}
	}
	if told != 1 {
		t.Errorf("emptied %d times, want once, for the blocked key", told)
	}
	if runs.Done(); told != 2 {
		t.Errorf("emptied %d times, want twice", told)
	}
	if !otherRuns.Done() || otherWaits.Wait(time.Time{}) != nil {
		t.Error("the other partition lost its ticket")
	}
	otherWaits.Done()
}
