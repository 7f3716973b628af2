package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"lanekeeper/proxy/sequence"
)

// loadText reads a mark. Argument: id. It returns a row, or none.
const loadText = `
SELECT epoch, done FROM {table} WHERE id = $1 AND expires > clock_timestamp()
`

// saveText raises a mark. Arguments: id, epoch, number, and for how long, in us. One that
// has expired counts for nothing. A time that was promised is not shortened.
const saveText = `
INSERT INTO {table} AS m (id, epoch, done, expires)
VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 microsecond')
ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, done = excluded.done, expires = greatest(m.expires, excluded.expires)
WHERE m.expires <= clock_timestamp() OR (m.epoch, m.done) <= (excluded.epoch, excluded.done)
`

// Load implements sequence.Store.
func (s *Store) Load(ctx context.Context, key []byte, producer string) (epoch, done uint64, known bool, err error) {
	id := sequence.Name(key, producer)
	err = s.Ask(ctx, func(ctx context.Context) error {
		err := s.server.pool.QueryRow(ctx, s.server.statements.load, id[:]).Scan(&epoch, &done)
		known = err == nil
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return s.server.wrap(ctx, err)
	})
	return epoch, done, known, err
}

// Save implements sequence.Store.
func (s *Store) Save(ctx context.Context, key []byte, n sequence.Number, ttl time.Duration) error {
	id := sequence.Name(key, n.Producer)
	return s.Ask(ctx, func(ctx context.Context) error {
		_, err := s.server.pool.Exec(ctx, s.server.statements.save, id[:], n.Epoch, n.Seq, ttl.Microseconds())
		return s.server.wrap(ctx, err)
	})
}

var _ sequence.Store = (*Store)(nil)
