package sequence

import (
	"context"
	"crypto/sha256"
	"time"
)

// Store keeps marks where they outlive the node: what [Marks] don't know may be known
// there. It is asked in the turn of a request, so nobody else asks about the key, unless a
// split network has made two owners. Its methods are safe for concurrent use, and each
// ends by itself, in a time that the store was made with.
type Store interface {
	// Load says what is kept of a producer of the key and has not expired. An error says
	// that nobody knows, which is not the same as that nothing is known.
	Load(ctx context.Context, key []byte, producer string) (epoch, done uint64, known bool, err error)

	// Save keeps that a number is done, for ttl at least, unless a higher one of its epoch
	// is, or a higher epoch has begun: a mark only rises, whoever saves it, in one atomic
	// step. It may be repeated.
	Save(ctx context.Context, key []byte, n Number, ttl time.Duration) error
}

// Name is what a Store calls a producer of a key. No producer's name has a NUL, so no two
// pairs are one text.
func Name(key []byte, producer string) (name [32]byte) {
	h := sha256.New()
	h.Write(key)                       //nolint:errcheck // a hash takes everything
	h.Write([]byte("\x00" + producer)) //nolint:errcheck // as above
	return [32]byte(h.Sum(name[:0]))
}

// Knows reports whether anything is known of a producer of the key.
func (m *Marks) Knows(partition int, key []byte, producer string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	return m.find(partition, key, producer) != nil
}

// Learn takes what a Store knows, for ttl from now, unless more is known here. It may
// return ErrFull.
func (m *Marks) Learn(partition int, key []byte, n Number, ttl time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.find(partition, key, n.Producer) == nil && m.config.MaxMarks > 0 && m.count >= m.config.MaxMarks {
		return ErrFull
	}
	m.raise(m.lane(partition, string(key)), mark{producer: n.Producer, epoch: n.Epoch, done: n.Seq, expires: m.config.Now().Add(ttl)})
	return nil
}
