package proxy

import (
	"encoding/binary"
	"errors"
	"time"

	"lanekeeper/queue"
)

// A hot key may be spilled: its requests wait, with their bodies, at the nodes that they
// came to, and those ask its owner for turns instead. An ask takes its ticket in the
// owner's lane like a request, in order with everything else that its node has sent
// there, so the lane stays the only queue of the key and nobody has to agree on whether
// it is spilled. When the ask's turn comes, the owner lends the turn (lend.go), and the
// node that borrowed it runs a few requests of its own one after the other (spill.go, borrow.go),
// and gives it back.
//
// What is written here is what the two say to each other: the ask and the loan travel as
// a request and its answer, the rest as notes, which may be lost, and are said again.

// ask is what a request for a turn says.
type ask struct {
	batch  int        // requests that are to run in the turn, at most
	behind queue.Load // that came to wait since the last ask
}

// loan is the answer to an ask.
type loan struct {
	validFor time.Duration // since the ask was sent, at least
	fence    uint64        // of the first strict request; one more for each that follows, batch of them. 0: none
}

// note is what is said of a loan afterwards.
type note struct {
	kind   noteKind
	ticket queue.ID // the ask's
	number uint32   // of an extension; its answer repeats it
	// validFor answers an extension: how long the loan lasts, since that was sent; 0: it is
	// over.
	validFor time.Duration
}

type noteKind uint8

const (
	noteReturn   noteKind = 1 + iota // the turn is over
	noteReturned                     // it is known to be
	noteExtend                       // it takes longer
	noteExtended
	noteAsk // its time is over: is it?
)

var errLoan = errors.New("proxy: a malformed word about a turn")

func (a *ask) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, clamp32(a.batch))
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, clamp32(a.behind.Depth)), clamp32(a.behind.Bytes))
}

// parseAsk, as all of these, ignores what a later version may have put behind.
func parseAsk(b []byte) (a ask, err error) {
	if len(b) < 12 {
		return a, errLoan
	}
	a.batch = int(binary.BigEndian.Uint32(b))
	a.behind = queue.Load{Depth: int(binary.BigEndian.Uint32(b[4:])), Bytes: int(binary.BigEndian.Uint32(b[8:]))}
	return a, nil
}

func (l *loan) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, clamp32(int(l.validFor.Milliseconds()))), l.fence)
}

func parseLoan(b []byte) (l loan, err error) {
	if len(b) < 12 {
		return l, errLoan
	}
	l.validFor = time.Duration(binary.BigEndian.Uint32(b)) * time.Millisecond
	l.fence = binary.BigEndian.Uint64(b[4:])
	return l, nil
}

func (n *note) append(b []byte) []byte {
	b = append(append(b, byte(n.kind)), n.ticket[:]...)
	b = binary.BigEndian.AppendUint32(b, n.number)
	return binary.BigEndian.AppendUint32(b, clamp32(int(n.validFor.Milliseconds())))
}

func parseNote(b []byte) (n note, err error) {
	if len(b) < 1+len(n.ticket)+8 {
		return n, errLoan
	}
	n.kind = noteKind(b[0])
	b = b[1+copy(n.ticket[:], b[1:]):]
	n.number = binary.BigEndian.Uint32(b)
	n.validFor = time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Millisecond
	return n, nil
}

func clamp32(n int) uint32 { return uint32(min(max(n, 0), 1<<32-1)) } //nolint:gosec // clamped
