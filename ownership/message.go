package ownership

import "lanekeeper/ring"

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

	// Lease is the sender's, if it may have tenures under it, of which those up to
	// Tenure may be taken from it.
	Lease  string
	Tenure uint64

	Begun    uint64    // the highest epoch that the sender knows to have begun
	Sections []Section // what it still knows of a partition that it had, if nobody got that from it
	Last     uint64    // the epoch of that tenure, if it knows of none after it
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

	Lease  string // as in Answer
	Tenure uint64
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
