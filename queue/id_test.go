package queue

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"time"
)

// Mutant: an id drawn from the clock alone; ids of one millisecond repeat.
func TestIDsRiseAndAreUUIDs(t *testing.T) {
	s := newIDSource(time.Now())
	var last ID
	for i := range 200_000 { // more than fit into one millisecond
		id := s.next(time.Duration(i/150_000) * time.Millisecond)
		if bytes.Compare(id[:], last[:]) <= 0 || id.String() <= last.String() {
			t.Fatalf("%s after %s", id, last)
		}
		if id[6]>>4 != 7 || id[8]>>6 != 2 {
			t.Fatalf("%s is no UUID of version 7", id)
		}
		if i > 0 && !bytes.Equal(id[10:], last[10:]) {
			t.Fatalf("%s and %s are not of one process", id, last)
		}
		last = id
	}
	if other := newIDSource(time.Now()); other.process == s.process {
		t.Error("two processes share their name")
	}
}

func TestIDsAreUniqueAcrossGoroutines(t *testing.T) {
	s := newIDSource(time.Now())
	ids := make([][]ID, 4)
	var wg sync.WaitGroup
	for g := range ids {
		wg.Go(func() {
			for range 10_000 {
				ids[g] = append(ids[g], s.next(0))
			}
		})
	}
	wg.Wait()
	all := slices.Concat(ids...)
	slices.SortFunc(all, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	if n := len(slices.Compact(all)); n != 40_000 {
		t.Errorf("%d different ids of 40000", n)
	}
}

func TestParseID(t *testing.T) {
	s := newIDSource(time.Now())
	id := s.next(time.Second)
	if back, ok := ParseID([]byte(id.String())); !ok || back != id {
		t.Errorf("ParseID(%s) = %s, %v", id, back, ok)
	}
	for _, bad := range []string{
		"", "x", id.String()[1:], id.String() + "0", "-" + id.String()[1:],
		"0197a3c8x1234-7000-8000-000000000000", "g197a3c8-1234-7000-8000-000000000000",
		"0197a3c8-1234-7000-8000-00000000000-",
	} {
		if _, ok := ParseID([]byte(bad)); ok {
			t.Errorf("ParseID(%q) is accepted", bad)
		}
	}
}
