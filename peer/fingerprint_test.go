package peer

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"reflect"
	"slices"
	"testing"
)

// fingerprint names a world's state. Of numbers that only rise it keeps their
// order alone, so that worlds which differ in how they came about, and in nothing
// that is to come, are one.
type fingerprint struct {
	tokens []token
	ranks  [classes][]uint64
	bytes  []byte
}

type token struct {
	class class
	value uint64
}

type class uint8

const (
	plain class = iota
	number
	generation
	name
	classes
)

var fingerprintSeed = maphash.MakeSeed()

func (f *fingerprint) of(w *world) uint64 {
	f.tokens = f.tokens[:0]
	f.world(w)
	for k := range f.ranks {
		f.ranks[k] = f.ranks[k][:0]
	}
	for _, t := range f.tokens {
		if t.class != plain {
			f.ranks[t.class] = append(f.ranks[t.class], t.value)
		}
	}
	for k := range f.ranks {
		slices.Sort(f.ranks[k])
		f.ranks[k] = slices.Compact(f.ranks[k])
	}
	f.bytes = f.bytes[:0]
	for _, t := range f.tokens {
		value := t.value
		if t.class != plain && value != 0 {
			at, _ := slices.BinarySearch(f.ranks[t.class], value)
			value = uint64(at) + 1 //nolint:gosec // small
		}
		f.bytes = binary.AppendUvarint(f.bytes, value)
	}
	return maphash.Bytes(fingerprintSeed, f.bytes)
}

func (f *fingerprint) add(k class, value uint64) { f.tokens = append(f.tokens, token{k, value}) }

func (f *fingerprint) int(n int) { f.add(plain, uint64(n)) } //nolint:gosec // a number like another

func (f *fingerprint) bool(b ...bool) {
	n := 1
	for _, b := range b {
		n *= 2
		if b {
			n++
		}
	}
	f.int(n)
}

func (f *fingerprint) world(w *world) {
	f.int(w.entered)
	f.int(w.moves)
	f.bool(w.excused)
	for _, n := range w.spent {
		f.int(n)
	}
	for i := range w.requests {
		r := &w.requests[i]
		f.bool(r.wrote, r.ticket, r.cancelled, r.lost, r.call != nil)
		f.int(r.ran)
		f.int(int(r.answer))
		f.add(plain, r.ingress)
		if c := r.call; c != nil && r.answer == noAnswer && !r.lost {
			f.int(int(c.state))
			f.bool(c.first, c.cancelled, c.link != nil)
			if c.link != nil {
				f.add(number, c.seq)
			}
		}
	}
	f.ingress(w)
	for i := range w.owners {
		f.owner(&w.owners[i])
	}
	f.int(len(w.conns))
	for _, c := range w.conns {
		f.conn(w, c)
	}
}

func (f *fingerprint) ingress(w *world) {
	f.add(plain, w.ingress.self.Incarnation)
	f.routes(w.ingress.table)
	for _, p := range w.ingress.routes {
		f.int(p)
	}
	f.lanes(&w.ingress.lanes)
	o := w.outbox()
	for p := range 2 {
		flow := o.flows[p]
		if flow == nil {
			f.int(-1)
			continue
		}
		f.member(flow.route.Name, flow.route.Incarnation)
		f.add(plain, flow.epoch)
		f.calls(flow.backlog)
		f.int(flow.loose)
		if flow.loose > 0 {
			f.member(flow.link.peer.Name, flow.link.peer.Incarnation)
		}
		f.bool(flow.turning, flow.asked, flow.paused, flow.probing)
		f.int(flow.moves)
	}
	var links []*link
	for _, l := range o.links {
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b *link) int {
		return cmp.Or(cmp.Compare(a.peer.Name, b.peer.Name), cmp.Compare(a.peer.Incarnation, b.peer.Incarnation))
	})
	f.int(len(links))
	for _, l := range links {
		f.member(l.peer.Name, l.peer.Incarnation)
		f.bool(l.up, l.asks, w.ingress.kicked[l])
		f.add(name, l.session)
		f.int(f.since(w, l, l.session, l.got))
		f.int(f.since(w, l, l.session, l.confirmed))
		f.calls(l.unwritten.callList)
		f.calls(l.unadmitted.callList)
		f.int(len(l.cancels))
		for _, seq := range l.cancels {
			f.add(number, seq)
		}
	}
}

// since is a count of answers less those that the owner has forgotten, if it
// counts in the same session.
func (f *fingerprint) since(w *world, l *link, session, count uint64) int {
	for _, s := range w.owners[l.peer.Name[0]-'a'].host.sessions {
		if s.session.name == session && s.session.answered < count {
			return int(count - s.session.answered) //nolint:gosec // small
		}
	}
	return 0
}

func (f *fingerprint) member(name string, incarnation uint64) {
	f.int(len(name))
	for i := range len(name) {
		f.int(int(name[i]))
	}
	f.add(plain, incarnation)
}

func (f *fingerprint) routes(table map[int]route) {
	for p := range 2 {
		f.member(table[p].owner.Name, table[p].owner.Incarnation)
		f.add(plain, table[p].epoch)
	}
}

func (f *fingerprint) calls(list callList) {
	for c := list.head; c != nil; c = c.next {
		f.int(c.local.(modelLocal).request + 1)
	}
	f.int(0)
}

func (f *fingerprint) lanes(l *modelLanes) {
	for p := range 2 {
		f.add(plain, l.tenure[p])
		for _, t := range l.queue[p] {
			f.int(t.request + 1)
			f.add(plain, t.tenure)
			f.bool(t.in != nil)
			if t.in != nil {
				f.bool(t.in.session.open[t.in.seq] == t.in)
			}
		}
		f.int(0)
	}
}

func (f *fingerprint) owner(o *modelOwner) {
	f.add(plain, o.self.Incarnation)
	f.routes(o.table)
	f.lanes(&o.lanes)
	f.int(len(o.host.sessions))
	for _, s := range o.host.sessions { // one at most
		f.session(s)
	}
}

func (f *fingerprint) session(h *hosted) {
	s := h.session
	f.add(plain, s.ingress.Incarnation)
	f.add(name, s.name)
	f.add(generation, s.generation)
	f.bool(s.deaf, h.dropped, h.pongs, h.reply != nil, h.missed, len(h.kick) > 0, s.moved[0], s.moved[1])
	f.add(number, s.processed)
	f.add(number, h.acked)
	f.int(len(s.open))
	open := make([]uint64, 0, len(s.open))
	for seq := range s.open {
		open = append(open, seq)
	}
	slices.Sort(open)
	for _, seq := range open {
		f.add(number, seq)
	}
	f.int(len(s.answers))
	f.int(s.unsent)
	for _, a := range s.answers {
		f.frame(a.frame, nil, nil)
	}
}

func (f *fingerprint) conn(w *world, c *modelConn) {
	f.int(c.node)
	f.member(c.link.peer.Name, c.link.peer.Incarnation)
	f.bool(c.here, c.there, c.replied, c.hosted != nil, w.current(c.link), c.hosted != nil && w.owners[c.node].holds(c.hosted))
	f.add(generation, c.generation)
	f.int(len(c.up))
	for _, frame := range c.up {
		f.frame(frame, w, c)
	}
	f.int(len(c.down))
	for _, frame := range c.down {
		f.frame(frame, w, c)
	}
}

func (o *modelOwner) holds(s *hosted) bool {
	for _, held := range o.host.sessions {
		if held == s {
			return true
		}
	}
	return false
}

// frame takes the numbers of a frame out of it.
func (f *fingerprint) frame(frame []byte, w *world, c *modelConn) {
	k, payload := kindOf(frame), frame[frameHeader:]
	f.int(int(k))
	switch k {
	case frameHello:
		h, _ := parseHello(payload)
		f.member(h.from.Name, h.from.Incarnation)
		f.member(h.to.Name, h.to.Incarnation)
		f.add(generation, h.generation)
		f.add(name, h.session)
		f.int(f.since(w, c.link, h.session, h.got))
	case frameReply:
		p, _ := parseReply(payload)
		f.member(p.owner.Name, p.owner.Incarnation)
		f.add(name, p.session)
		f.add(number, p.processed)
		f.int(len(p.open))
		for _, seq := range p.open {
			f.add(number, seq)
		}
	case frameConfirm:
		n, _ := parseNumber(payload)
		session := uint64(0)
		if c.hosted != nil && c.hosted.session.hears(c.generation) {
			session = c.hosted.session.name
		}
		f.int(f.since(w, c.link, session, n))
	case frameRequest, frameCancel, frameAdmitted, frameMoved, frameResponse:
		f.add(number, binary.BigEndian.Uint64(payload))
		f.add(plain, maphash.Bytes(fingerprintSeed, payload[8:]))
	default:
		f.int(len(payload))
	}
}

// TestFingerprintKnowsEveryField fails when a part of the state gets a field that
// the fingerprint may have to look at: a state it takes for another one would not
// be explored.
func TestFingerprintKnowsEveryField(t *testing.T) {
	for _, known := range []struct {
		of     any
		fields int
	}{{outbox{}, 8}, {flow{}, 11}, {link{}, 14}, {session{}, 13}, {hosted{}, 15}, {Call{}, 24}, {Inbound{}, 11}} {
		if of := reflect.TypeOf(known.of); of.NumField() != known.fields {
			t.Errorf("%s has %d fields; the fingerprint knows %d", of, of.NumField(), known.fields)
		}
	}
}
