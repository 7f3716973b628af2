package sequence

import (
	"encoding/binary"
	"slices"
	"time"
)

// Marks travel with their partition. The format is
//
//	whole u8: 1 if it is all that is known of the partition, but for some keys
//
// and a list of
//
//	key text · number of producers · for each: name text · epoch · done · time left in ms
//
// where numbers are varints and a text is its length and its bytes.

// Export is what is known of a partition's keys, but for some. It takes nothing away.
func (m *Marks) Export(partition int, except []string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	b := []byte{1}
	for key, ln := range m.parts[partition] {
		if !slices.Contains(except, key) {
			b = m.append(b, ln)
		}
	}
	return b
}

// ExportKey is Export for one key.
func (m *Marks) ExportKey(partition int, key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	if ln := m.parts[partition][key]; ln != nil {
		return m.append([]byte{0}, ln)
	}
	return nil
}

func (m *Marks) append(b []byte, ln *lane) []byte {
	if len(ln.marks) == 0 {
		return b
	}
	now := m.config.Now()
	b = binary.AppendUvarint(appendText(b, ln.key), uint64(len(ln.marks)))
	for _, k := range ln.marks {
		b = binary.AppendUvarint(binary.AppendUvarint(appendText(b, k.producer), k.epoch), k.done)
		b = binary.AppendUvarint(b, uint64(max(k.expires.Sub(now), 0).Milliseconds())) //nolint:gosec // not negative
	}
	return b
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// Import takes what another node knew of keys, and wakes those that are held for them.
// All that is known of a partition which this node doesn't have replaces what was known
// here, which is older. Otherwise the higher one of two marks of a producer is right:
// they only rise, and where a split network had two owners each ran what it marked. Bytes
// that Export did not make are an error, and change nothing. Marks are taken even if
// there are more of them than MaxMarks: to lose one is to run a request again.
func (m *Marks) Import(partition int, b []byte) error {
	whole, lanes, err := parse(b)
	if err != nil {
		return err
	}
	m.mu.Lock()
	now := m.config.Now()
	if whole && !m.open[partition] {
		m.forgetAll(partition)
		m.whole[partition] = true
	}
	var all woken
	for key, marks := range lanes {
		ln := m.lane(partition, key)
		for _, news := range marks {
			news.expires = now.Add(news.left)
			m.raise(ln, news)
		}
		all = append(all, ln.wake()...)
		m.tidy(ln)
	}
	m.mu.Unlock()
	all.tell()
	return nil
}

// Open begins this node's tenure of a partition.
func (m *Marks) Open(partition int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.open[partition] && !m.whole[partition] {
		m.forgetAll(partition)
	}
	delete(m.whole, partition)
	m.open[partition] = true
}

func (m *Marks) forgetAll(partition int) {
	for _, ln := range m.parts[partition] {
		for _, k := range ln.marks {
			m.forget(k)
		}
	}
}

func (k *mark) below(other mark) bool {
	return k.epoch < other.epoch || k.epoch == other.epoch && k.done < other.done
}

func parse(b []byte) (whole bool, lanes map[string][]mark, _ error) {
	if len(b) == 0 || b[0] > 1 {
		return false, nil, errFormat
	}
	in := &reader{b: b[1:]}
	lanes = make(map[string][]mark)
	for len(in.b) > 0 && !in.bad {
		key, n := in.text(), in.number()
		for range n {
			k := mark{producer: in.text(), epoch: in.number(), done: in.number()}
			k.left = time.Duration(min(in.number(), uint64(leftMax/time.Millisecond))) * time.Millisecond //nolint:gosec // bounded
			if in.bad {
				break
			}
			lanes[key] = append(lanes[key], k)
		}
	}
	if in.bad {
		return false, nil, errFormat
	}
	return b[0] == 1, lanes, nil
}

// leftMax is far above any time for which a mark is kept.
const leftMax = 10 * 365 * 24 * time.Hour

// reader takes bytes apart. Once they are bad, everything that it reads is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) text() string {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	text := string(r.b[:n])
	r.b = r.b[n:]
	return text
}
