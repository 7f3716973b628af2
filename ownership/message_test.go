package ownership

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"lanekeeper/ring"
)

// everyEntry is one entry of each kind, and some at their limits.
var everyEntry = []Entry{
	Claim{Partition: 4095, Number: 300},
	Claim{Partition: partitionsMax - 1, Number: math.MaxUint64},
	Answer{Partition: 1, Number: 2, Heard: 3, Keys: []string{"order:7", "", "\x00\xff"}},
	Answer{Partition: 1, Number: 2, Begun: math.MaxUint64, Sections: []Section{{Kind: 1, Version: 1, Data: []byte("state")}}, Last: 300},
	Answer{},
	Give{Partition: 1, Number: 2, Claim: 3, Epoch: 4, Keys: []string{"x"}, Sections: []Section{{Kind: math.MaxUint16, Version: 255, Data: []byte("state")}, {}}},
	Give{},
	Taken{Partition: 1, Number: 2},
	Taken{Partition: 1, Number: 2, Returned: true},
	KeyDone{Partition: 1, Key: "order:7", Sections: []Section{{Kind: 1, Version: 1, Data: []byte{0}}}},
	Ask{Partition: 1, Keys: []string{"x", "y"}},
	Held{Partition: 1, Epoch: 2, Number: 3, Reply: true},
	Again{},
	Confirm{Partition: 1, Number: 2, Epoch: 3},
	Confirmed{Partition: 1, Number: 2, Denied: true},
	Release{Partition: 1, Number: 2},
	Released{Partition: 1, Number: 2},
}

func encode(m Message) []byte {
	b := appendHead(nil, m.Sees)
	for _, e := range m.Entries {
		b = appendEntry(b, e)
	}
	return b
}

// TestMessageRoundTrip: what is written is read.
//
// Mutant: "the reply bit is lost".
func TestMessageRoundTrip(t *testing.T) {
	kinds := make(map[kind]bool)
	for _, e := range everyEntry {
		kinds[e.kind()] = true
		checkRoundTrip(t, Message{Entries: []Entry{e}})
	}
	for k := kindClaim; k <= kindReleased; k++ {
		if !kinds[k] {
			t.Errorf("no entry of kind %d is tried", k)
		}
	}
	checkRoundTrip(t, Message{Sees: []ring.Member{ma, {}, {Name: strings.Repeat("n", 300), Incarnation: math.MaxUint64}}, Entries: everyEntry})
	checkRoundTrip(t, Message{})
}

func checkRoundTrip(t *testing.T, m Message) {
	t.Helper()
	got, err := parseMessage(encode(m))
	if err != nil {
		t.Fatalf("%+v: %v", m, err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("wrote %+v\nread %+v", m, got)
	}
}

// TestMessageCutOff: no beginning of a message is a message, except where an
// entry ends.
func TestMessageCutOff(t *testing.T) {
	whole := map[int]bool{}
	m := Message{Sees: []ring.Member{ma}}
	for _, e := range everyEntry {
		whole[len(encode(m))] = true
		m.Entries = append(m.Entries, e)
	}
	b := encode(m)
	for n := range b {
		if _, err := parseMessage(b[:n]); (err == nil) != whole[n] {
			t.Errorf("the first %d bytes: %v", n, err)
		} else if err != nil && !errors.Is(err, errMessage) {
			t.Errorf("the first %d bytes: another error: %v", n, err)
		}
	}
}

// TestMessageOfALaterVersion: kinds that are not known, and fields behind those
// that are, are skipped.
func TestMessageOfALaterVersion(t *testing.T) {
	b := appendHead(nil, nil)
	b = append(b, 200, 0, 0, 0, 3, 'n', 'e', 'w')
	start := len(b)
	b = append(appendEntry(b, Claim{1, 2}), "more"...)
	binary.BigEndian.PutUint32(b[start+1:], uint32(len(b)-start-5))
	b = appendEntry(b, Claim{3, 4})
	got, err := parseMessage(b)
	if want := (Message{Entries: []Entry{Claim{1, 2}, Claim{3, 4}}}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// FuzzMessage: no bytes make parseMessage panic or take memory beyond a multiple
// of them, and what it reads it reads again from what that is written as.
func FuzzMessage(f *testing.F) {
	for _, e := range everyEntry {
		f.Add(encode(Message{Entries: []Entry{e}}))
	}
	f.Add(encode(Message{Sees: []ring.Member{ma, mb}, Entries: everyEntry}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		if size := sizeOf(m); size > 64*len(b)+64 {
			t.Errorf("%d bytes became %d", len(b), size)
		}
		again, err := parseMessage(encode(m))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("read %+v\nthen %+v, %v", m, again, err)
		}
		table := NewTable(ma, 2, deafLanes{}, nil)
		table.View(View{Live: []ring.Member{ma, mb, mc}, Targets: []ring.Member{ma, mb}, Enough: true})
		table.Receive(mb, m) // whatever it says
	})
}

// deafLanes do nothing.
type deafLanes struct{}

func (deafLanes) Open(int)                      {}
func (deafLanes) Seal(int) [][]byte             { return nil }
func (deafLanes) Block(int, []byte)             {}
func (deafLanes) Unblock(int, []byte)           {}
func (deafLanes) Busy(int, []byte) bool         { return false }
func (deafLanes) EvictPartition(int, error) int { return 0 }

// sizeOf is about the memory of m.
func sizeOf(m Message) int {
	size := 0
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		size += int(v.Type().Size())
		switch v.Kind() {
		case reflect.String:
			size += v.Len()
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if f := v.Field(i); f.Kind() == reflect.Slice || f.Kind() == reflect.String {
					walk(f)
				}
			}
		case reflect.Interface:
			walk(v.Elem())
		}
	}
	walk(reflect.ValueOf(m.Sees))
	walk(reflect.ValueOf(m.Entries))
	return size
}

// TestPayloads: a node that claims everything of a large cluster says so in a
// handful of payloads, each bounded, that make the same entries again.
//
// Mutants: "one entry for each payload", "payloads without bounds".
func TestPayloads(t *testing.T) {
	m := Message{Sees: []ring.Member{ma, mb, mc}}
	for p := range 4096 {
		m.Entries = append(m.Entries, Claim{p, uint64(1e6 + p)}, Give{Partition: p, Number: 1 << 40, Keys: []string{strings.Repeat("k", 100), "y"}})
	}
	var e encoder
	payloads := e.payloads(m)
	if n := len(payloads); n > 5 {
		t.Errorf("%d payloads", n)
	}
	var got Message
	var d decoder
	for _, payload := range payloads {
		if len(payload) > payloadMax+1000 {
			t.Errorf("a payload of %d bytes", len(payload))
		}
		part, complete, err := d.message(mb, payload)
		if err != nil || !complete {
			t.Fatalf("complete %v, %v", complete, err)
		}
		if !reflect.DeepEqual(part.Sees, m.Sees) {
			t.Errorf("sees %v: each payload must say so, since others may be lost", part.Sees)
		}
		got.Entries = append(got.Entries, part.Entries...)
	}
	if got.Sees = m.Sees; !reflect.DeepEqual(got, m) {
		t.Error("other entries")
	}
	if n := len(e.payloads(Message{Sees: m.Sees})); n != 0 {
		t.Errorf("%d payloads for nothing", n)
	}
}

// TestParts: an entry that is larger than a payload travels in parts, in its
// place among the others.
func TestParts(t *testing.T) {
	large := Give{Partition: 1, Keys: []string{}, Sections: nil}
	for i := range 5000 {
		large.Keys = append(large.Keys, strings.Repeat("k", 200)+string(rune(i)))
	}
	m := Message{Sees: []ring.Member{ma}, Entries: []Entry{Claim{1, 1}, large, Claim{2, 2}, large}}
	var e encoder
	payloads := e.payloads(m)
	var d decoder
	var got Message
	for _, payload := range payloads {
		if len(payload) > payloadMax+1000 {
			t.Errorf("a payload of %d bytes", len(payload))
		}
		m, complete, err := d.message(mb, payload)
		if err != nil {
			t.Fatal(err)
		}
		if complete {
			got.Sees = m.Sees
			got.Entries = append(got.Entries, m.Entries...)
		}
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("%d entries of %d, or others", len(got.Entries), len(m.Entries))
	}
	if len(d.partial) != 0 {
		t.Error("something is left")
	}
}

// TestLostParts: a message of which a part was lost is lost, and nothing else.
//
// Mutants: "parts of two messages are one", "a gap is closed".
func TestLostParts(t *testing.T) {
	large := KeyDone{Partition: 1, Key: "x", Sections: []Section{{Kind: 1, Data: bytes.Repeat([]byte("d"), 3*payloadMax)}}}
	var e encoder
	for lost := range 4 {
		first, second := e.payloads(Message{Entries: []Entry{large}}), e.payloads(Message{Entries: []Entry{large, Claim{1, 1}}})
		if len(first) != 4 {
			t.Fatalf("%d parts", len(first))
		}
		var d decoder
		var got []Entry
		read := func(payloads ...[]byte) {
			for _, payload := range payloads {
				m, _, err := d.message(mb, payload)
				if err != nil {
					t.Errorf("%d is lost: %v", lost, err)
				}
				got = append(got, m.Entries...)
			}
		}
		read(first[:lost]...)
		read(first[lost+1:]...)
		if got != nil {
			t.Errorf("%d is lost: complete all the same", lost)
		}
		read(first[:lost]...) // the connection broke here
		read(second[lost:4]...)
		if lost > 0 && got != nil {
			t.Errorf("%d is lost: parts of two messages are one", lost)
		}
		got = nil
		read(second...)
		if want := []Entry{large, Claim{1, 1}}; !reflect.DeepEqual(got, want) {
			t.Errorf("%d is lost: %d entries of the next message", lost, len(got))
		}
	}
}

// TestPayloadsOfNoSense: errors, and no memory beyond the bound.
func TestPayloadsOfNoSense(t *testing.T) {
	var d decoder
	for _, payload := range []string{"", "\x01", "\x02\x00\x00", "\x01\x03\x00\x00\x00\x00\x00\x00\x00\x00", "\x01\x01\x00\x00", "\x01\x00\xff"} {
		if _, complete, err := d.message(mb, []byte(payload)); err == nil || complete {
			t.Errorf("%q: complete %v, %v", payload, complete, err)
		}
	}
	piece := make([]byte, partHead+payloadMax)
	piece[0], piece[1] = version, part
	var failed bool
	for offset := 0; offset <= messageMax; offset += payloadMax {
		binary.BigEndian.PutUint32(piece[6:], uint32(offset))
		_, _, err := d.message(mb, piece)
		failed = failed || err != nil
	}
	if !failed || len(d.partial) != 0 {
		t.Errorf("a message without end: failed %v, %d partial ones are left", failed, len(d.partial))
	}
	binary.BigEndian.PutUint32(piece[6:], 0)
	d.message(mb, piece) //nolint:errcheck // it is the beginning of one
	d.forget(func(m ring.Member) bool { return m == ma })
	if len(d.partial) != 0 {
		t.Error("the parts of a member that is gone are kept")
	}
}
