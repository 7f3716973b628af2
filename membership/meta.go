package membership

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/hashicorp/memberlist"

	"lanekeeper/ring"
)

// announcement is what a node says of itself, in at most 512 bytes:
//
//	byte 0     the lowest format a reader must know, 1
//	then       fields: tag (1 byte), length (1 byte), value; tags rise strictly
//
// A reader skips tags it does not know, so that a field can be added while old
// and new nodes run together. A field that an old reader must not miss raises
// byte 0, and old readers then refuse the node.
type announcement struct {
	intent      intent
	layout      layoutMark
	peerAddress string
	zone        string
	configHash  string
	version     string
}

// intent is what a node is about to do, which gossip itself cannot tell:
// memberlist reports a node that left like one that died.
type intent uint8

const (
	staying intent = iota
	draining
	leaving
)

// layoutMark is enough of a layout to see whether two are one, and in what
// they differ.
type layoutMark struct {
	hash         uint64
	partitions   uint32
	virtualNodes uint32
	load         float64
}

func markOf(l ring.Layout) layoutMark {
	return layoutMark{hash: l.Hash(), partitions: uint32(l.Partitions), virtualNodes: uint32(l.VirtualNodes), load: l.Load}
}

// difference says in what theirs is another layout than l; empty if in nothing.
func (l layoutMark) difference(theirs layoutMark) string {
	switch {
	case l.hash == theirs.hash:
		return ""
	case l.partitions != theirs.partitions:
		return fmt.Sprintf("it has %d partitions, this node has %d", theirs.partitions, l.partitions)
	case l.virtualNodes != theirs.virtualNodes:
		return fmt.Sprintf("it has %d virtual nodes per member, this node has %d", theirs.virtualNodes, l.virtualNodes)
	case l.load != theirs.load:
		return fmt.Sprintf("its load factor is %v, this node's is %v", theirs.load, l.load)
	}
	return "it has another cluster name, or places partitions in another way"
}

const (
	metaFormat = 1

	tagIntent     = 1
	tagLayout     = 2
	tagPeer       = 3
	tagZone       = 4
	tagConfigHash = 5
	tagVersion    = 6

	layoutBytes = 8 + 4 + 4 + 8
)

// encode never exceeds memberlist's limit if the fields are within theirs.
func (a announcement) encode() []byte {
	var layout [layoutBytes]byte
	binary.BigEndian.PutUint64(layout[0:], a.layout.hash)
	binary.BigEndian.PutUint32(layout[8:], a.layout.partitions)
	binary.BigEndian.PutUint32(layout[12:], a.layout.virtualNodes)
	binary.BigEndian.PutUint64(layout[16:], math.Float64bits(a.layout.load))

	b := append(make([]byte, 0, memberlist.MetaMaxSize), metaFormat)
	field := func(tag byte, value []byte) {
		if len(value) > 0 {
			b = append(append(b, tag, byte(len(value))), value...)
		}
	}
	field(tagIntent, []byte{byte(a.intent)})
	field(tagLayout, layout[:])
	field(tagPeer, []byte(a.peerAddress))
	field(tagZone, []byte(a.zone))
	field(tagConfigHash, []byte(a.configHash))
	field(tagVersion, []byte(a.version))
	return b
}

var (
	errMetaShort  = errors.New("its announcement is cut short")
	errMetaOrder  = errors.New("its announcement is out of order")
	errMetaLayout = errors.New("its announcement has no layout")
)

// decodeAnnouncement reads what encode wrote, or a later version of it. It
// retains nothing of b.
func decodeAnnouncement(b []byte) (announcement, error) {
	var a announcement
	if len(b) == 0 {
		return a, errors.New("it announces nothing: not a lanekeeper node")
	}
	if b[0] != metaFormat {
		return a, fmt.Errorf("it announces itself in format %d, and this version of lanekeeper reads %d", b[0], metaFormat)
	}
	last, seenLayout := byte(0), false
	for b = b[1:]; len(b) > 0; {
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return a, errMetaShort
		}
		tag, value := b[0], b[2:2+int(b[1])]
		b = b[2+len(value):]
		if tag <= last {
			return a, errMetaOrder
		}
		last = tag
		var err error
		switch tag {
		case tagIntent:
			a.intent, err = decodeIntent(value)
		case tagLayout:
			a.layout, err = decodeLayout(value)
			seenLayout = true
		case tagPeer:
			a.peerAddress, err = decodeText(value, peerAddressMax)
		case tagZone:
			a.zone, err = decodeText(value, zoneMax)
		case tagConfigHash:
			a.configHash, err = decodeText(value, configHashMax)
		case tagVersion:
			a.version, err = decodeText(value, versionMax)
		}
		if err != nil {
			return a, err
		}
	}
	if !seenLayout {
		return a, errMetaLayout
	}
	return a, nil
}

// decodeIntent takes an intent it does not know for draining: such a node is
// alive, and nothing new should be given to it.
func decodeIntent(b []byte) (intent, error) {
	if len(b) < 1 {
		return 0, errMetaShort
	}
	if intent(b[0]) > leaving {
		return draining, nil
	}
	return intent(b[0]), nil
}

// decodeLayout ignores what a later version appends.
func decodeLayout(b []byte) (layoutMark, error) {
	if len(b) < layoutBytes {
		return layoutMark{}, errMetaShort
	}
	return layoutMark{
		hash:         binary.BigEndian.Uint64(b),
		partitions:   binary.BigEndian.Uint32(b[8:]),
		virtualNodes: binary.BigEndian.Uint32(b[12:]),
		load:         math.Float64frombits(binary.BigEndian.Uint64(b[16:])),
	}, nil
}

func decodeText(b []byte, limit int) (string, error) {
	s := string(b)
	if err := printable(s, limit); err != nil {
		return "", fmt.Errorf("a field of its announcement %w", err)
	}
	return s, nil
}
