package ownership

import (
	"encoding/binary"
	"errors"
	"fmt"

	"lanekeeper/ring"
)

// Message is what one event at a node has to say to one member: entries about
// partitions, in the order in which they were decided, to be read in that order.
type Message struct {
	// Sees are the live members in the sender's view. It comes with every Answer.
	Sees    []ring.Member
	Entries []Entry
}

// Entry is one of Claim, Answer, Release, Released, Give, Taken, KeyDone, Ask, Held, Again,
// Confirm and Confirmed.
type Entry interface {
	kind() kind
	append(b []byte) []byte
}

// Claim asks for a partition.
type Claim struct {
	Partition int
	Number    uint64
}

// Answer says that the sender doesn't own the partition. If it answers a claim,
// the sender stands back for it: it won't own the partition before the claimant
// has become the owner, has given up, has released it, or is dead.
type Answer struct {
	Partition int
	Number    uint64   // of the claim, or of the Held, that is answered
	Heard     uint64   // the highest epoch that the sender knows of
	Keys      []string // what the sender may still run, complete
}

// Release asks to be released from having stood back for a round.
type Release struct {
	Partition int
	Number    uint64
}

// Released says that the sender's rounds up to this one are over.
type Released struct {
	Partition int
	Number    uint64
}

// Give hands a partition over.
type Give struct {
	Partition int
	Number    uint64 // rises over all Gives of an incarnation
	Claim     uint64 // the claim that it answers
	Epoch     uint64 // of the receiver's tenure, at least
	Keys      []string
	Sections  []Section
}

// Taken is the receipt of a Give.
type Taken struct {
	Partition int
	Number    uint64
	// Returned: it was not taken and never will be. The partition is the
	// giver's again.
	Returned bool
}

// KeyDone says that the sender no longer runs a key that it had listed.
type KeyDone struct {
	Partition int
	Key       string
	Sections  []Section
}

// Ask wants a KeyDone for each key that the receiver no longer runs.
type Ask struct {
	Partition int
	Keys      []string
}

// Held says that the sender owns the partition. It is news for everybody, an
// offer for a receiver that should own it, and a demand if both do.
type Held struct {
	Partition int
	Epoch     uint64
	Number    uint64 // its last round of claims; that one and all before are over
	// Reply: it answers a Held of the receiver, and is not to be answered so.
	Reply bool
}

// Again says that what the sender sent before may have been lost: whatever the
// receiver waits for is to be asked for again.
type Again struct{}

// Confirm asks whether the sender's tenure still stands, after it stood still.
type Confirm struct {
	Partition int
	Number    uint64
	Epoch     uint64
}

// Confirmed answers Confirm.
type Confirmed struct {
	Partition int
	Number    uint64
	Denied    bool // another member holds it, or the sender was taken for dead
}

// Section is a piece of a partition's state that travels with it, opaque to
// this package. Receivers ignore kinds and versions that they do not know.
type Section struct {
	Kind    uint16
	Version uint8
	Data    []byte
}

type kind uint8

const (
	kindClaim kind = 1 + iota
	kindAnswer
	kindGive
	kindTaken
	kindKeyDone
	kindAsk
	kindHeld
	kindAgain
	kindConfirm
	kindConfirmed
	kindRelease
	kindReleased
)

func (Claim) kind() kind     { return kindClaim }
func (Answer) kind() kind    { return kindAnswer }
func (Give) kind() kind      { return kindGive }
func (Taken) kind() kind     { return kindTaken }
func (KeyDone) kind() kind   { return kindKeyDone }
func (Ask) kind() kind       { return kindAsk }
func (Held) kind() kind      { return kindHeld }
func (Again) kind() kind     { return kindAgain }
func (Confirm) kind() kind   { return kindConfirm }
func (Confirmed) kind() kind { return kindConfirmed }
func (Release) kind() kind   { return kindRelease }
func (Released) kind() kind  { return kindReleased }

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
		return Answer{Partition: r.partition(), Number: r.number(), Heard: r.number(), Keys: r.keys()}
	case kindRelease:
		return Release{Partition: r.partition(), Number: r.number()}
	case kindReleased:
		return Released{Partition: r.partition(), Number: r.number()}
	case kindGive:
		return Give{Partition: r.partition(), Number: r.number(), Claim: r.number(), Epoch: r.number(), Keys: r.keys(), Sections: r.sections()}
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
	return appendKeys(appendNumbers(b, uint64(e.Partition), e.Number, e.Heard), e.Keys)
}

func (e Release) append(b []byte) []byte { return appendNumbers(b, uint64(e.Partition), e.Number) }

func (e Released) append(b []byte) []byte { return appendNumbers(b, uint64(e.Partition), e.Number) }

func (e Give) append(b []byte) []byte {
	b = appendNumbers(b, uint64(e.Partition), e.Number, e.Claim, e.Epoch)
	return appendSections(appendKeys(b, e.Keys), e.Sections)
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
