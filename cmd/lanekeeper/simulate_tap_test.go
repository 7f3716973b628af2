package main

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// tally counts what a simulation has reached: the rare paths have to be taken,
// or it proves nothing about them.
type tally struct {
	mu     sync.Mutex // guards counts, gives
	counts map[string]int
	gives  map[string]bool
}

func newTally() *tally { return &tally{counts: make(map[string]int), gives: make(map[string]bool)} }

func (t *tally) add(what string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[what] += n
}

// What a campaign must have reached.
const (
	sawHandoff    = "a partition given away with a key still in use"
	sawKeyDone    = "a key waited for and done"
	sawMoved      = "MOVED"
	sawCancel     = "CANCEL"
	sawAdopted    = "a reconnect with open requests"
	sawGiveAgain  = "a GIVE sent again"
	sawReturned   = "a GIVE returned"
	sawNone       = "a member stood back"
	sawAsk        = "a key asked for"
	sawFirst      = "a request with the first bit"
	sawBody       = "a body on a bulk connection"
	sawFetch      = "a response fetched"
	sawConfirm    = "a tenure asked about after a pause"
	sawDenied     = "a tenure denied after a pause"
	sawFreeze     = "a node that saw that it had stood still"
	sawTakeover   = "a crash of a member that owned partitions"
	sawExcused    = "executions that a crash, pause or split excuses"
	sawOverlap    = "overlaps that a crash, pause or split excuses"
	sawUnknown    = "answers of unknown outcome"
	sawDenials    = "answers saying not executed"
	sawFalse      = "deaths of members that lived and did not stand still"
	sawApart      = "newcomers that began without the rest"
	sawTwoTenures = "two owners that saw each other"
)

// And one of strict routes besides.
const (
	sawFenced = "calls that a service would refuse by their fence"
	sawCutOff = "times that one node did not reach the store"
	sawAway   = "times that the store was away"
	sawLoss   = "times that the store lost its data"
)

// And one of spilled keys.
const (
	sawTurn     = "turns that were asked for"
	sawReturn   = "turns that were given back"
	sawExtended = "turns that were extended"
)

var mustReachSpilled = []string{
	sawTurn, sawReturn, sawExtended, sawHandoff, sawKeyDone, sawMoved, sawAdopted, sawFreeze, sawTakeover, sawUnknown, sawDenials,
}

var mustReachStrict = []string{
	sawHandoff, sawKeyDone, sawMoved, sawAdopted, sawFreeze, sawTakeover, sawUnknown, sawDenials, sawAway, sawCutOff, sawLoss,
}

var mustReach = []string{
	sawHandoff, sawKeyDone, sawMoved, sawCancel, sawAdopted, sawGiveAgain, sawReturned, sawNone, sawAsk, sawFirst,
	sawBody, sawFetch, sawConfirm, sawDenied, sawFreeze, sawTakeover, sawOverlap, sawUnknown, sawDenials,
}

// tap reads along on a connection of the hop, at the end that dialled it.
type tap struct {
	world    *world
	from, to string
	out, in  frames
}

func newTap(w *world, from, to string) *tap {
	p := &tap{world: w, from: from, to: to}
	p.out.frame, p.in.frame = p.sent, p.received
	return p
}

func (t *tap) written(b []byte) { t.out.feed(b) }
func (t *tap) read(b []byte)    { t.in.feed(b) }

// frames cuts a stream into frames.
type frames struct {
	mu    sync.Mutex // guards the rest
	buf   []byte
	skip  int // bytes outside frames
	frame func(kind byte, payload []byte) (skip int)
}

func (f *frames) feed(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = append(f.buf, b...)
	for {
		if n := min(f.skip, len(f.buf)); n > 0 {
			f.skip, f.buf = f.skip-n, f.buf[n:]
		}
		if len(f.buf) < 5 {
			break
		}
		n := 4 + int(binary.BigEndian.Uint32(f.buf))
		if len(f.buf) < n {
			break
		}
		f.skip += f.frame(f.buf[4], f.buf[5:n])
		f.buf = f.buf[n:]
	}
	if len(f.buf) == 0 {
		f.buf = nil
	}
}

// Kinds of frames and entries, as packages peer and ownership write them down.
const (
	frameReply, frameRequest, frameCancel, frameControl, frameMoved, frameBody, frameFetch, frameNote = 2, 4, 5, 8, 10, 13, 14, 17

	entryAnswer, entryGive, entryTaken, entryKeyDone, entryAsk, entryHeld, entryConfirm, entryConfirmed = 2, 3, 4, 5, 6, 7, 9, 10
)

func (t *tap) sent(kind byte, b []byte) (skip int) {
	switch kind {
	case frameRequest:
		if b[12]&4 != 0 {
			t.world.tally.add(sawFirst, 1)
		}
		if b[18]&16 != 0 {
			t.world.tally.add(sawTurn, 1)
		}
	case frameCancel:
		t.world.tally.add(sawCancel, 1)
	case frameNote:
		t.world.tally.add(map[byte]string{1: sawReturn, 2: "turns known to be over", 3: sawExtended, 4: "extensions"}[b[0]], 1)
	case frameControl:
		t.control(b)
	case frameBody:
		t.world.tally.add(sawBody, 1)
		return int(binary.BigEndian.Uint32(b[10:]))
	case frameFetch:
		t.world.tally.add(sawFetch, 1)
	}
	return 0
}

func (t *tap) received(kind byte, b []byte) (skip int) {
	switch kind {
	case frameReply:
		at := 2 + 2 + int(binary.BigEndian.Uint16(b[2:])) + 8 + 8 + 8
		if len(b) >= at+4 && binary.BigEndian.Uint32(b[at:]) > 0 {
			t.world.tally.add(sawAdopted, 1)
		}
	case frameMoved:
		t.world.tally.add(sawMoved, 1)
	}
	return 0
}

// control counts the entries of a message between two tables.
func (t *tap) control(b []byte) {
	if len(b) < 2 || b[1] != 0 {
		return // a part of one
	}
	b = b[2:]
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		b = b[size:]
		return n
	}
	for range number() {
		b = b[number():][8:]
	}
	for len(b) >= 5 {
		entry, size := b[0], int(binary.BigEndian.Uint32(b[1:]))
		body, rest := b[5:5+size], b[5+size:]
		t.trace(entry, body)
		switch b = body; entry {
		case entryAnswer:
			t.world.tally.add(sawNone, 1)
		case entryGive:
			p, n := number(), number()
			_, _ = number(), number()
			if number() > 0 {
				t.world.tally.add(sawHandoff, 1)
			}
			t.gave(p, n)
			t.world.gaveInVain(int(p), t.to) //nolint:gosec // a partition
		case entryTaken:
			if body[len(body)-1]&1 != 0 {
				t.world.tally.add(sawReturned, 1)
			}
		case entryKeyDone:
			t.world.tally.add(sawKeyDone, 1)
		case entryAsk:
			t.world.tally.add(sawAsk, 1)
		case entryHeld:
			if body[len(body)-1]&1 != 0 {
				t.world.tally.add(sawTwoTenures, 1)
			}
		case entryConfirm:
			t.world.tally.add(sawConfirm, 1)
		case entryConfirmed:
			if body[len(body)-1]&1 != 0 {
				t.world.tally.add(sawDenied, 1)
			}
		}
		b = rest
	}
}

func (t *tap) gave(partition, number uint64) {
	give := fmt.Sprintf("%s>%s %d/%d", t.from, t.to, partition, number)
	t.world.tally.mu.Lock()
	again := t.world.tally.gives[give]
	t.world.tally.gives[give] = true
	t.world.tally.mu.Unlock()
	if again {
		t.world.tally.add(sawGiveAgain, 1)
	}
}

// trace tells of what is said about a partition.
func (t *tap) trace(entry byte, body []byte) {
	if t.world.traced < 0 {
		return
	}
	var numbers []uint64
	for b := body; len(b) > 0; {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			break
		}
		numbers, b = append(numbers, n), b[size:]
	}
	if len(numbers) > 0 && numbers[0] == uint64(t.world.traced) {
		t.world.say("%s > %s: entry %d, %v", t.from, t.to, entry, numbers[1:])
	}
}
