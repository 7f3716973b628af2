package queue

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// FuzzTop holds counters against exact ones. Each byte is a request of the key
// that is its low five bits; the higher ones say whether a window ends before.
// Keys have their own hash, or meet in one.
func FuzzTop(f *testing.F) {
	f.Add([]byte("aaaabacadaeafagahaiajakalamaaa"), false)
	f.Add([]byte("abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzz"), true)
	f.Add(bytes.Repeat([]byte("abcdefghi"), 20), false)
	f.Add([]byte("aaaaaaaabcdefghijklmnopqrstuvwxyz\xffaaabcdefghijklmnopqrstuvwxyz\xff\xe1bb\xc1c"), true)
	f.Add([]byte("abcdefghijklmnop\xc1"), false) // a key that lost its counter, and has one again
	f.Add([]byte("aaabbbcccdddeeefffggghhhiiijjj\xefaabbccddeeffgghh\xefabcdefgh"), false)
	f.Fuzz(func(t *testing.T, requests []byte, collide bool) {
		c := top{window: time.Minute}
		var now time.Duration
		var exact [2]map[string]uint64 // the window before and this one
		exact[0], exact[1] = map[string]uint64{}, map[string]uint64{}
		for _, b := range requests {
			for n := b >> 5; n > 5; n-- { // 6 or 7: one window or two
				now += time.Minute
				exact[0], exact[1] = exact[1], map[string]uint64{}
			}
			ln := &lane{key: []byte{b & 31}, partition: int(b & 1), hash: uint64(b&31) * 0x9e3779b97f4a7c15}
			if collide {
				ln.hash = 7
			}
			c.add(now, ln)
			exact[1][string(ln.key)]++
			agree(t, &c, exact)
		}
	})
}

func agree(t *testing.T, c *top, exact [2]map[string]uint64) {
	var bound uint64 // of all that is reported
	for _, window := range exact {
		total := uint64(0)
		for _, n := range window {
			total += n
		}
		bound += total / topCounters
	}
	listed := map[string]bool{}
	for _, count := range c.list(nil) {
		truth := exact[0][count.Key] + exact[1][count.Key]
		if count.Count < truth || count.Count-count.Error > truth || count.Error > bound {
			t.Fatalf("%q: got %d with an error of %d, want %d; errors are at most %d", count.Key, count.Count, count.Error, truth, bound)
		}
		if listed[count.Key] {
			t.Fatalf("%q is listed twice", count.Key)
		}
		listed[count.Key] = true
		if count.Partition != int(count.Key[0]&1) {
			t.Fatalf("%q is of partition %d", count.Key, count.Partition)
		}
	}
	if len(listed) > 2*topCounters {
		t.Fatalf("%d keys are listed", len(listed))
	}
	for i := range exact {
		for key := range exact[i] {
			if truth := exact[0][key] + exact[1][key]; truth > bound && !listed[key] {
				t.Fatalf("%q came %d times and is not listed", key, truth)
			}
		}
	}
}

// TestTopCountsWhatWasTaken, over all shards, most first.
func TestTopCountsWhatWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := roomy
		config.TopWindow = time.Minute
		l := New(config)
		time.Sleep(90 * time.Second)
		for i := range 100 {
			for range 2*i + 1 {
				admit(t, l, fmt.Sprint(i), Exclusive).Done()
			}
		}
		runs := admit(t, l, "99", Exclusive)
		admit(t, l, "99", Exclusive)                                                           // waits
		if err := l.Admit(new(Ticket), &Request{Key: []byte("99"), MaxDepth: 1}); err == nil { // and is not counted
			t.Fatal("not refused")
		}
		runs.Done()
		counts, over := l.Top(2)
		want := []Count{{Key: "99", Count: 201}, {Key: "98", Count: 197}}
		for i := range counts {
			counts[i].Error = 0 // depends on which keys share a shard
		}
		if fmt.Sprint(counts) != fmt.Sprint(want) || over != 90*time.Second {
			t.Errorf("got %v over %v, want %v", counts, over, want)
		}
		if counts, _ := l.Top(1000); len(counts) > 100 {
			t.Errorf("%d counts of 100 keys", len(counts))
		}
		if counts, over := New(roomy).Top(9); len(counts) != 0 || over != 0 {
			t.Errorf("without a window: %v over %v", counts, over)
		}
	})
}

// TestTopForgets what is older than the window before.
func TestTopForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := roomy
		config.TopWindow = time.Minute
		l := New(config)
		see := func(when string, want string, over time.Duration) {
			t.Helper()
			counts, got := l.Top(9)
			if fmt.Sprint(counts) != want || got != over {
				t.Errorf("%s: got %v over %v, want %s over %v", when, counts, got, want, over)
			}
		}
		time.Sleep(10 * time.Second)
		admit(t, l, "k", Exclusive).Done()
		see("at once", "[{0 k 1 0}]", 10*time.Second)
		time.Sleep(50 * time.Second)
		admit(t, l, "k", Exclusive).Done()
		see("in the next window", "[{0 k 2 0}]", time.Minute)
		time.Sleep(time.Minute)
		see("in the one after it", "[{0 k 1 0}]", time.Minute)
		time.Sleep(time.Minute - 1)
		see("at its end", "[{0 k 1 0}]", 2*time.Minute-1)
		time.Sleep(time.Nanosecond)
		see("later", "[]", time.Minute)
		admit(t, l, "k", Exclusive).Done()
		time.Sleep(24 * time.Hour)
		admit(t, l, "other", Exclusive).Done()
		see("the next day", "[{0 other 1 0}]", time.Minute)
	})
}

// BenchmarkTop is what counting adds to Admit: for a key that has a counter, and
// for one that has to take one over.
func BenchmarkTop(b *testing.B) {
	for _, keys := range []uint64{1, topCounters, 1 << 20} {
		b.Run(fmt.Sprint("keys=", keys), func(b *testing.B) {
			c := top{window: time.Minute}
			ln := &lane{key: []byte("order:12345678")}
			b.ReportAllocs()
			for i := range uint64(b.N) {
				n := i * 0x9e3779b97f4a7c15 >> 32 % keys
				ln.hash = n * 0x9e3779b97f4a7c15
				binary.BigEndian.PutUint64(ln.key[6:], n)
				c.add(0, ln)
			}
		})
	}
}
