package ownership

import (
	"encoding/binary"
	"fmt"

	"lanekeeper/ring"
)

// A payload is what is handed to the connection in one piece: the version, what
// it is, and a message or a part of one. Many entries share a payload; an entry
// that is larger than one, since a partition had very many keys in use, travels
// in parts. So nothing else on the connection has to wait for long.
const (
	payloadMax = 256 << 10 // about: whoever exceeds it ends the payload
	messageMax = 64 << 20  // of a message in parts

	version = 1

	whole = 0 // the message follows
	part  = 1 // the message's number, the part's offset, and the part
	last  = 2 // the same, and it is complete
)

const partHead = 2 + 4 + 4

// encoder makes payloads. It belongs to one goroutine.
type encoder struct {
	parted uint32 // messages that travelled in parts
}

// payloads cuts m into payloads, to be sent in order.
func (e *encoder) payloads(m Message) [][]byte {
	var payloads [][]byte
	head := appendHead([]byte{version, whole}, m.Sees)
	b := head[:len(head):len(head)]
	flush := func() {
		if len(b) > len(head) {
			payloads = append(payloads, b)
			b = head[:len(head):len(head)]
		}
	}
	for _, entry := range m.Entries {
		start := len(b)
		b = appendEntry(b, entry)
		if size := len(b) - start; size > payloadMax {
			one := append(head[2:len(head):len(head)], b[start:]...)
			b = b[:start]
			flush()
			payloads = append(payloads, e.parts(one)...)
		} else if len(b) > payloadMax {
			flush()
		}
	}
	flush()
	return payloads
}

// parts cuts a message into parts.
func (e *encoder) parts(m []byte) [][]byte {
	e.parted++
	var payloads [][]byte
	for offset := 0; offset < len(m); offset += payloadMax {
		piece, kind := m[offset:min(offset+payloadMax, len(m))], byte(part)
		if offset+payloadMax >= len(m) {
			kind = last
		}
		b := make([]byte, 0, partHead+len(piece))
		b = binary.BigEndian.AppendUint32(append(b, version, kind), e.parted)
		b = binary.BigEndian.AppendUint32(b, uint32(offset)) //nolint:gosec // bounded by messageMax
		payloads = append(payloads, append(b, piece...))
	}
	return payloads
}

// decoder puts the payloads of all members together again.
type decoder struct {
	partial map[ring.Member]*partial
}

// partial is the beginning of a message in parts.
type partial struct {
	number uint32
	bytes  []byte
}

// message returns the message that payload completes, if it does. A message of
// which a part was lost is lost.
func (d *decoder) message(from ring.Member, payload []byte) (m Message, complete bool, err error) {
	switch {
	case len(payload) < 2 || payload[0] != version:
		return Message{}, false, fmt.Errorf("%w: not version %d", errMessage, version)
	case payload[1] == whole:
		delete(d.partial, from) // the rest of it would have come before
		m, err = parseMessage(payload[2:])
		return m, err == nil, err
	case payload[1] != part && payload[1] != last, len(payload) < partHead:
		return Message{}, false, fmt.Errorf("%w: an unknown kind of payload", errMessage)
	}
	number, offset := binary.BigEndian.Uint32(payload[2:]), binary.BigEndian.Uint32(payload[6:])
	p := d.partial[from]
	if offset == 0 {
		if d.partial == nil {
			d.partial = make(map[ring.Member]*partial)
		}
		p = &partial{number: number}
		d.partial[from] = p
	}
	if p == nil || p.number != number || int(offset) != len(p.bytes) {
		delete(d.partial, from)
		return Message{}, false, nil
	}
	if len(p.bytes)+len(payload)-partHead > messageMax {
		delete(d.partial, from)
		return Message{}, false, fmt.Errorf("%w: over %d bytes", errMessage, messageMax)
	}
	p.bytes = append(p.bytes, payload[partHead:]...)
	if payload[1] != last {
		return Message{}, false, nil
	}
	delete(d.partial, from)
	m, err = parseMessage(p.bytes)
	return m, err == nil, err
}

// forget drops what is left of members for which keep is false.
func (d *decoder) forget(keep func(ring.Member) bool) {
	for m := range d.partial {
		if !keep(m) {
			delete(d.partial, m)
		}
	}
}
