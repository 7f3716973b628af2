package proxy

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"lanekeeper/queue"
)

// What nodes say of turns is read as it was meant, whatever a later version puts behind
// it, and never believed to be longer than it is.
//
// Mutants: two figures change places; a word is a byte too short; a negative one wraps.
func TestWordsOfTurnsRoundTrip(t *testing.T) {
	const most = 1<<32 - 1
	later := []byte("of a later version")
	for _, a := range []ask{{}, {batch: 1, behind: queue.Load{Depth: 2, Bytes: 3}}, {batch: most, behind: queue.Load{Depth: most, Bytes: most}}} {
		if b := a.append(nil); len(b) != 12 {
			t.Errorf("an ask has %d bytes", len(b))
		} else if got, err := parseAsk(append(b, later...)); got != a || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, a)
		}
	}
	for _, l := range []loan{{}, {validFor: time.Millisecond, fence: 2}, {validFor: most * time.Millisecond, fence: 1<<64 - 1}} {
		if got, err := parseLoan(append(l.append(nil), later...)); got != l || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, l)
		}
	}
	for _, n := range []note{{}, {kind: noteAsk, ticket: queue.ID{1, 15: 16}, number: 2, validFor: 3 * time.Millisecond}} {
		if got, err := parseNote(append(n.append(nil), later...)); got != n || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, n)
		}
	}
	for n, want := range map[int]uint32{-1: 0, -1 << 62: 0, 1 << 32: most, 7: 7} {
		if got := clamp32(n); got != want {
			t.Errorf("%d is sent as %d", n, got)
		}
	}
	// A loan is never said to be longer than it is.
	short := loan{validFor: 2*time.Millisecond - 1}
	if got, _ := parseLoan(short.append(nil)); got.validFor != time.Millisecond {
		t.Errorf("%v is sent as %v", short.validFor, got.validFor)
	}
}

// Mutant: a word is read without a look at its length.
func FuzzWordsOfTurns(f *testing.F) {
	f.Add([]byte(nil))
	f.Add((&ask{batch: 1, behind: queue.Load{Depth: 2, Bytes: 3}}).append(nil))
	f.Add((&loan{validFor: time.Second, fence: 7}).append(nil))
	f.Add((&note{kind: noteExtended, ticket: queue.ID{1}, number: 3, validFor: time.Second}).append(nil))
	f.Add(make([]byte, 11))
	f.Add(make([]byte, 24))
	f.Fuzz(func(t *testing.T, b []byte) {
		says := func(what string, least int, err error, again []byte) {
			t.Helper()
			switch {
			case (err != nil) != (len(b) < least):
				t.Errorf("%s of %d bytes: %v", what, len(b), err)
			case err == nil && !bytes.Equal(again, b[:least]):
				t.Errorf("%s %x is said again as %x", what, b, again)
			}
		}
		a, err := parseAsk(b)
		says("an ask", 12, err, a.append(nil))
		l, err := parseLoan(b)
		says("a loan", 12, err, l.append(nil))
		n, err := parseNote(b)
		says("a note", 25, err, n.append(nil))
		if err == nil && n.number != binary.BigEndian.Uint32(b[17:]) {
			t.Errorf("number %d of %x", n.number, b)
		}
	})
}
