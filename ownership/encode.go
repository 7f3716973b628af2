package ownership

import (
	"encoding/binary"
	"errors"
	"fmt"

	"lanekeeper/ring"
)

// The encoding: members that the sender sees, then entries, each as its kind,
// the length of the rest in four bytes, and its fields. Numbers and lengths are
// varints. A kind that is not known is skipped, and so is what follows the
// known fields of an entry: a later version may add both.

// errMessage: the bytes are no message.
var errMessage = errors.New("ownership: malformed message")

func appendHead(b []byte, sees []ring.Member) []byte {
	b = binary.AppendUvarint(b, uint64(len(sees)))
	for _, m := range sees {
		b = appendMember(b, m)
	}
	return b
}

func appendEntry(b []byte, e Entry) []byte {
	start := len(b)
	b = e.append(append(b, byte(e.kind()), 0, 0, 0, 0))
	binary.BigEndian.PutUint32(b[start+1:], uint32(len(b)-start-5)) //nolint:gosec // bounded by messageMax
	return b
}

func parseMessage(b []byte) (Message, error) {
	var m Message
	r := reader{b: b}
	for range r.count(2) {
		m.Sees = append(m.Sees, r.member())
	}
	for len(r.b) > 0 {
		head := r.take(5)
		if r.bad {
			break
		}
		body := reader{b: r.take(int(binary.BigEndian.Uint32(head[1:])))}
		e := parseEntry(kind(head[0]), &body)
		r.bad = r.bad || body.bad
		if e != nil && !r.bad {
			m.Entries = append(m.Entries, e)
		}
	}
	if r.bad {
		return Message{}, fmt.Errorf("%w: cut off or out of range", errMessage)
	}
	return m, nil
}

func parseEntry(k kind, r *reader) Entry {
	switch k {
	case kindClaim:
		return Claim{Partition: r.partition(), Number: r.number()}
	case kindAnswer:
		return Answer{Partition: r.partition(), Number: r.number(), Heard: r.number(), Keys: r.keys(), Lease: r.text(), Tenure: r.number(), Begun: r.number(), Sections: r.sections(), Last: r.number()}
	case kindRelease:
		return Release{Partition: r.partition(), Number: r.number()}
	case kindReleased:
		return Released{Partition: r.partition(), Number: r.number()}
	case kindGive:
		return Give{Partition: r.partition(), Number: r.number(), Claim: r.number(), Epoch: r.number(), Keys: r.keys(), Sections: r.sections(), Lease: r.text(), Tenure: r.number()}
	case kindTaken:
		return Taken{Partition: r.partition(), Number: r.number(), Returned: r.flag()}
	case kindKeyDone:
		return KeyDone{Partition: r.partition(), Key: r.text(), Sections: r.sections()}
	case kindAsk:
		return Ask{Partition: r.partition(), Keys: r.keys()}
	case kindHeld:
		return Held{Partition: r.partition(), Epoch: r.number(), Number: r.number(), Reply: r.flag()}
	case kindAgain:
		return Again{}
	case kindConfirm:
		return Confirm{Partition: r.partition(), Number: r.number(), Epoch: r.number()}
	case kindConfirmed:
		return Confirmed{Partition: r.partition(), Number: r.number(), Denied: r.flag()}
	}
	return nil
}

func (e Claim) append(b []byte) []byte { return appendNumbers(b, uint64(e.Partition), e.Number) }

func (e Answer) append(b []byte) []byte {
	b = appendKeys(appendNumbers(b, uint64(e.Partition), e.Number, e.Heard), e.Keys)
	b = appendNumbers(appendText(b, e.Lease), e.Tenure, e.Begun)
	return appendNumbers(appendSections(b, e.Sections), e.Last)
}

func (e Release) append(b []byte) []byte { return appendNumbers(b, uint64(e.Partition), e.Number) }

func (e Released) append(b []byte) []byte { return appendNumbers(b, uint64(e.Partition), e.Number) }

func (e Give) append(b []byte) []byte {
	b = appendNumbers(b, uint64(e.Partition), e.Number, e.Claim, e.Epoch)
	b = appendSections(appendKeys(b, e.Keys), e.Sections)
	return appendNumbers(appendText(b, e.Lease), e.Tenure)
}

func (e Taken) append(b []byte) []byte {
	return append(appendNumbers(b, uint64(e.Partition), e.Number), bit(e.Returned, 1))
}

func (e KeyDone) append(b []byte) []byte {
	return appendSections(appendText(appendNumbers(b, uint64(e.Partition)), e.Key), e.Sections)
}

func (e Ask) append(b []byte) []byte {
	return appendKeys(appendNumbers(b, uint64(e.Partition)), e.Keys)
}

func (e Held) append(b []byte) []byte {
	return append(appendNumbers(b, uint64(e.Partition), e.Epoch, e.Number), bit(e.Reply, 1))
}

func (Again) append(b []byte) []byte { return b }

func (e Confirm) append(b []byte) []byte {
	return appendNumbers(b, uint64(e.Partition), e.Number, e.Epoch)
}

func (e Confirmed) append(b []byte) []byte {
	return append(appendNumbers(b, uint64(e.Partition), e.Number), bit(e.Denied, 1))
}

func bit(set bool, b byte) byte {
	if set {
		return b
	}
	return 0
}

func appendNumbers(b []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendKeys(b []byte, keys []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, key := range keys {
		b = appendText(b, key)
	}
	return b
}

func appendMember(b []byte, m ring.Member) []byte {
	return binary.BigEndian.AppendUint64(appendText(b, m.Name), m.Incarnation)
}

func appendSections(b []byte, sections []Section) []byte {
	b = binary.AppendUvarint(b, uint64(len(sections)))
	for _, s := range sections {
		b = append(binary.BigEndian.AppendUint16(b, s.Kind), s.Version)
		b = append(binary.AppendUvarint(b, uint64(len(s.Data))), s.Data...)
	}
	return b
}

// reader takes a message apart. After the first field that is not there, every
// field is zero and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	part := r.b[:n:n]
	r.b = r.b[n:]
	return part
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) flag() bool { return r.byte()&1 != 0 }

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

// partitionsMax is far above any layout's; it keeps a partition in an int.
const partitionsMax = 1 << 24

func (r *reader) partition() int {
	n := r.number()
	if n >= partitionsMax {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

// count reads the length of a list whose elements take at least size bytes
// each, so that a short message can't ask for a long list.
func (r *reader) count(size int) int {
	n := r.number()
	if n > uint64(len(r.b)/size) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *reader) bytes() []byte { return r.take(r.count(1)) }

func (r *reader) text() string { return string(r.bytes()) }

func (r *reader) keys() (keys []string) {
	for range r.count(1) {
		keys = append(keys, r.text())
	}
	return keys
}

func (r *reader) member() ring.Member {
	m := ring.Member{Name: r.text()}
	if b := r.take(8); b != nil {
		m.Incarnation = binary.BigEndian.Uint64(b)
	}
	return m
}

func (r *reader) sections() (sections []Section) {
	for range r.count(4) {
		var s Section
		if b := r.take(3); b != nil {
			s.Kind, s.Version = binary.BigEndian.Uint16(b), b[2]
		}
		s.Data = append([]byte(nil), r.bytes()...) // the payload is not to be retained
		sections = append(sections, s)
	}
	return sections
}
