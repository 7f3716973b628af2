package admin

import (
	"strings"
	"sync"
	"testing"
)

// Whatever is asked for, a reader gets each record once and in order, or is told how many
// it missed.
//
// Mutants: one record too many is kept, or one too few; what is kept no more is not
// missed; newest takes one too many; a number from an earlier process finds nothing.
func TestLedgerLosesNothingUnsaid(t *testing.T) {
	for _, keep := range []int{0, 1, 3} {
		l := NewLedger("lk-0", keep)
		first := l.first
		for n := range uint64(8) {
			kept := min(n, uint64(keep)) //nolint:gosec // few
			for since := first - 1; since <= first+n; since++ {
				for limit := range 5 {
					after := first + n - 1 - since // records that came after it
					if since > first+n-1 {         // of an earlier process, which counted further
						after = n
					}
					records := l.read(since, limit)
					missed := after - min(after, kept)
					want := min(uint64(limit), after-missed) //nolint:gosec // few
					if records.Missed != missed || uint64(len(records.Unknown)) != want {
						t.Fatalf("keep %d, of %d, since %d, limit %d: got %d and %d missed, want %d and %d", keep, n, since-first, limit, len(records.Unknown), records.Missed, want, missed)
					}
					id := first + n - after + missed
					for _, u := range records.Unknown {
						if u.ID != id {
							t.Fatalf("keep %d: got %d, want %d", keep, u.ID, id)
						}
						id++
					}
					if records.Next != id-1 {
						t.Fatalf("next is %d, want %d", records.Next, id-1)
					}
				}
			}
			for limit := range 5 {
				if records := l.read(l.newest(limit), limit); uint64(len(records.Unknown)) != min(uint64(limit), kept) || records.Missed != 0 { //nolint:gosec // few
					t.Fatalf("keep %d, the newest %d of %d: got %+v", keep, limit, n, records)
				}
			}
			l.Add(&Unknown{})
		}
		if records := l.read(5, 10); len(records.Unknown) != keep || records.Missed != 8-uint64(keep) { //nolint:gosec // few
			t.Errorf("after an earlier process: got %+v", records)
		}
	}
}

// Mutants: a detail has no bound; a key's bytes are written as they are.
func TestLedgerBoundsWhatItKeeps(t *testing.T) {
	l := NewLedger("lk-0", 10)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { l.Add(&Unknown{Key: "a\xff\x1b%", Detail: strings.Repeat("d", 2*textBytesMax)}) })
	}
	all.Wait()
	records := l.read(0, 100)
	if len(records.Unknown) != 10 || records.Missed != 10 {
		t.Fatalf("got %d records, %d missed", len(records.Unknown), records.Missed)
	}
	for _, u := range records.Unknown {
		if u.Key != "a%FF%1B%25" || len(u.Detail) > textBytesMax+len("…") || u.Time.IsZero() {
			t.Fatalf("got %+v", u)
		}
	}
}
