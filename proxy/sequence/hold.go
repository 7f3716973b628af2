package sequence

import (
	"cmp"
	"slices"
)

// Held is a request that waits for numbers before its own.
type Held struct {
	marks *Marks
	lane  *lane
	gap   Missing // guarded by marks.mu
	// News is closed when the request is to take its place anew: numbers before its
	// own were run, or the key's partition has another owner.
	News chan struct{}
}

// Hold has a request wait for news of its key, unless most already do: ErrHeld. It is
// called in the turn in which the request was judged, so that nothing comes to pass in
// between; but the partition may have another owner already, and whoever calls Seal
// then has been here before.
func (m *Marks) Hold(partition int, key []byte, most int) (*Held, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ln := m.lane(partition, string(key))
	if len(ln.held) >= most {
		m.tidy(ln)
		return nil, ErrHeld
	}
	h := &Held{marks: m, lane: ln, News: make(chan struct{})}
	ln.held[h] = struct{}{}
	return h, nil
}

// For says what the request waits for: everything between what is done of its producer and its
// own number.
func (h *Held) For(n Number, done uint64) {
	h.marks.mu.Lock()
	defer h.marks.mu.Unlock()
	h.gap = Missing{n, done}
}

// Missing is what a request waits for.
type Missing struct {
	Number        // its own
	Done   uint64 // the highest of the producer that was done when it began to wait
}

// Gaps are those of a key's requests, by producer and number.
func (m *Marks) Gaps(partition int, key []byte) (gaps []Missing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ln := m.parts[partition][string(key)]
	if ln == nil {
		return nil
	}
	for h := range ln.held {
		gaps = append(gaps, h.gap)
	}
	slices.SortFunc(gaps, func(a, b Missing) int {
		return cmp.Or(cmp.Compare(a.Producer, b.Producer), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq))
	})
	return gaps
}

// Leave ends the wait. It may be called after News.
func (h *Held) Leave() {
	m := h.marks
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(h.lane.held, h)
	m.tidy(h.lane)
}

// Seal ends this node's tenure of a partition. All that are held in it are woken.
func (m *Marks) Seal(partition int) {
	m.mu.Lock()
	delete(m.open, partition)
	delete(m.whole, partition)
	var all woken
	for _, ln := range m.parts[partition] {
		all = append(all, ln.wake()...)
	}
	for _, h := range all {
		m.tidy(h.lane)
	}
	m.mu.Unlock()
	all.tell()
}

// woken are to be told, once no lock is held.
type woken []*Held

// wake takes out those that are held: they judge for themselves.
func (ln *lane) wake() (w woken) {
	for h := range ln.held {
		w = append(w, h)
	}
	clear(ln.held)
	return w
}

func (w woken) tell() {
	for _, h := range w {
		close(h.News)
	}
}
