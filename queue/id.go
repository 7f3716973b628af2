package queue

import (
	"crypto/rand"
	"encoding/hex"
	"sync/atomic"
	"time"
)

// ID names a ticket: a UUID of version 7 (RFC 9562). IDs of one process rise
// strictly, compared as bytes or as text, and share their last 48 bits.
type ID [16]byte

// idSource makes IDs. The first 48 bits are milliseconds of Unix time; the next
// 16 usable bits (12 of rand_a, 4 of rand_b) count within the millisecond and
// run on into the next one when there are more, so IDs rise whatever the rate;
// the last 48 are random for the process.
type idSource struct {
	epoch   uint64 // start of the process, Unix milliseconds<<16
	last    *atomic.Uint64
	process [6]byte
}

func newIDSource(started time.Time) idSource {
	s := idSource{
		epoch: uint64(started.UnixMilli()) << 16,
		last:  new(atomic.Uint64),
	}
	rand.Read(s.process[:]) // never fails, says crypto/rand
	return s
}

// next returns an ID above all before it. since is the time since the start.
func (s *idSource) next(since time.Duration) ID {
	at := s.epoch + uint64(since.Milliseconds())<<16
	for {
		last := s.last.Load()
		n := max(at, last+1)
		if s.last.CompareAndSwap(last, n) {
			return s.id(n)
		}
	}
}

func (s *idSource) id(n uint64) ID {
	ms, count := n>>16, uint16(n)
	id := ID{
		byte(ms >> 40), byte(ms >> 32), byte(ms >> 24), byte(ms >> 16), byte(ms >> 8), byte(ms),
		0x70 | byte(count>>12), byte(count >> 4), // version 7, upper 12 bits of the count
		0x80 | byte(count&0xf)<<2, 0, // variant, lower 4 bits
	}
	copy(id[10:], s.process[:])
	return id
}

// IsZero reports whether id names no ticket.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the usual form, 36 bytes: 0197a3c8-….
func (id ID) String() string { return string(id.AppendText(nil)) }

// AppendText appends the usual form to b.
func (id ID) AppendText(b []byte) []byte {
	for i, part := range [...][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}

// ParseID reads the usual form, in either case, and reports whether it was one.
func ParseID(text []byte) (id ID, ok bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return ID{}, false
	}
	var digits [32]byte
	n := 0
	for _, c := range text {
		if c == '-' {
			continue
		}
		if n == len(digits) {
			return ID{}, false
		}
		digits[n] = c
		n++
	}
	if n != len(digits) {
		return ID{}, false
	}
	if _, err := hex.Decode(id[:], digits[:]); err != nil {
		return ID{}, false
	}
	return id, true
}
