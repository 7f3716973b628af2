package redlock

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestScriptsDoAsTheFake: a real master and the fake one, which the simulation rests
// on, say the same to random questions, late and repeated ones among them, and tell
// the same waiters.
//
// Mutants: restore takes another's lock; an older attempt's lock stays; a late attempt
// takes a later one's; a yield leaves the queue; the older one's successor isn't told.
func TestScriptsDoAsTheFake(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	c := Config{Prefix: "test", TTL: time.Minute, Margin: time.Second, alive: time.Minute}
	s := startServer(t)
	client, _, err := connect(t.Context(), &c, s.Address, "channel")
	if err != nil {
		t.Fatal(err)
	}
	defer client.close()
	quick := &network{random: rand.New(rand.NewPCG(seed, 1))}
	fake := &fakeStore{&fakeMaster{config: &c, network: quick, ears: make(map[string]func(string))}, "channel"}
	fake.forget()
	both := []store{client, fake}
	var mu sync.Mutex // guards told
	told := make([][]string, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ready, ended sync.WaitGroup
	for i, one := range both {
		ready.Add(1)
		var once sync.Once
		ended.Go(func() { // ends with ctx
			one.listen(ctx, func() { once.Do(ready.Done) }, func(id string) { //nolint:errcheck // ctx's
				mu.Lock()
				defer mu.Unlock()
				told[i] = append(told[i], id)
			})
		})
	}
	ready.Wait()

	number := uint64(time.Now().Add(time.Hour).UnixMicro()) // beyond both clocks
	attempts := map[string]uint64{"a": 1, "b": 1, "c": 1, "d": 1}
	tickets := map[string]uint64{}
	for id := range attempts {
		number++
		tickets[id] = number
	}
	var history []string
	for range 600 {
		id := string("abcd"[r.IntN(4)])
		if r.IntN(3) == 0 {
			attempts[id]++
		}
		number++
		q := question{name: "x", id: id, attempt: attempts[id], token: number - uint64(r.IntN(4))}
		if q.attempt > 1 && r.IntN(4) == 0 {
			q.attempt-- // a late one
		}
		kind := r.IntN(8)
		var said [2]string
		for i, one := range both {
			said[i] = put(ctx, one, kind, q, tickets[id])
		}
		history = append(history, fmt.Sprintf("%s of %+v: %s", []string{"acquire", "acquire", "acquire", "acquire", "yield", "release", "renew", "restore"}[kind], q, said[0]))
		if said[0] != said[1] {
			t.Fatalf("seed %d: the server says %s, the fake %s, after\n%s", seed, said[0], said[1], strings.Join(history[max(0, len(history)-12):], "\n"))
		}
	}
	heard := func(i int) []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Sorted(slices.Values(told[i]))
	}
	for end := time.Now().Add(patience / 4); len(heard(0)) != len(heard(1)) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if server, fake := heard(0), heard(1); !slices.Equal(server, fake) {
		t.Errorf("seed %d: the server tells waiters %d times, the fake %d times", seed, len(server), len(fake))
	}
	cancel()
	ended.Wait()
}

// put asks one master.
func put(ctx context.Context, one store, kind int, q question, ticket uint64) string {
	switch kind {
	case 4, 5:
		if kind == 4 {
			q.ticket = ticket
		}
		return fmt.Sprint(one.release(ctx, q))
	case 6:
		said, err := one.renew(ctx, []question{q})
		return fmt.Sprint(said, err)
	case 7:
		said, err := one.restore(ctx, q)
		return fmt.Sprint(said, err)
	}
	q.ticket = ticket
	said, err := one.acquire(ctx, q)
	return fmt.Sprint(said.locked, said.accepted, said.seen, said.rank, said.left.Round(30*time.Second), err)
}
