package peer

import "sync/atomic"

// load is how much is on its way to other members.
type load struct {
	calls, bytes atomic.Int64
}

func (l *load) add(calls, bytes int64) {
	l.calls.Add(calls)
	l.bytes.Add(bytes)
}

// share bounds one member's part: it may have this many times what is free. So a
// member that is stuck leaves a fifth to the others, two leave a ninth, and there
// is always something left.
const share = 4

// admits reports whether there is room for one more, of which part goes one way.
func (l *load) admits(part *load, bytes, callsMax, bytesMax int64) bool {
	calls, held := callsMax-l.calls.Load(), bytesMax-l.bytes.Load()
	if calls < 1 || held < bytes {
		return false
	}
	return part.calls.Load() < share*calls && part.bytes.Load()+bytes <= share*held
}

// charge counts a call that enters, or refuses it, as it does one that no frame
// would hold. Its part is that of the member it enters for; those that wait for
// nobody in particular share one. Other stripes charge at the same time: the
// bounds may be passed by one call for each.
func (s *stripe) charge(c *Call) bool {
	h, part, size := s.hop, &s.hop.nowhere, c.size()
	if l := s.outbox.links[s.outbox.flow(c.Partition).route]; l != nil {
		part = &l.wire.peer.load
	}
	if len(c.payload) > frameMax-frameHeader-sendingSize || !h.load.admits(part, size, int64(h.config.MaxCalls), h.config.MaxBytes) {
		return false
	}
	c.part = part
	h.load.add(1, size)
	part.add(1, size)
	return true
}

// discharge takes back what charge counted.
func (s *stripe) discharge(c *Call) {
	s.hop.load.add(-1, -c.size())
	c.part.add(-1, -c.size())
}

func (c *Call) size() int64 { return int64(len(c.payload) + len(c.body)) }
