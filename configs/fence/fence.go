// Package fence refuses the writes of requests that a newer one of their key has
// overtaken. It is made to be copied into a service behind a strict route of
// lanekeeper: the standard library, PostgreSQL, and the table fences of fence.sql.
//
// [Require] reads the fence of a request, and [Transact] checks it as the first
// statement of the transaction that writes. Checked anywhere else, a process may
// stand still between the check and the write, and write what is long outdated.
package fence

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// The headers that lanekeeper sends with each exclusive dispatch. It removes them
// from what clients send; a service that others can reach as well must not believe
// them, for whoever can choose a fence can lock everybody else out of a key.
const (
	Header    = "Lanekeeper-Fence"
	KeyHeader = "Lanekeeper-Key"
)

var (
	// ErrStale: a newer request of the key was here before. Nothing was written, and
	// trying again with this fence cannot help; answer 409 or 412.
	ErrStale = errors.New("fence: a newer request of this key was here before")

	// ErrMissing: the context is not that of a request which passed Require.
	ErrMissing = errors.New("fence: no fence in this context")
)

// Parse reads a fence: a decimal between 1 and the largest int64. It takes only what
// lanekeeper writes. Anything else, even a sign or a leading zero, comes from someone
// who isn't lanekeeper, or was changed on its way, perhaps rounded.
func Parse(value string) (int64, error) {
	for i := range len(value) {
		if value[i] < '0' || value[i] > '9' || value[0] == '0' {
			return 0, fmt.Errorf("fence: %q is not a fence", value)
		}
	}
	fence, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("fence: %q is not a fence", value)
	}
	return fence, nil
}

type contextKey struct{}

type dispatch struct {
	key   string
	fence int64
}

// Require answers 400 unless a request has a key and one fence, which it keeps in
// the request's context, for Check and Transact.
func Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fences, keys := r.Header.Values(Header), r.Header.Values(KeyHeader)
		if len(fences) != 1 || len(keys) != 1 || keys[0] == "" {
			http.Error(w, "needs one "+Header+" and one "+KeyHeader, http.StatusBadRequest)
			return
		}
		fence, err := Parse(fences[0])
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		ctx := context.WithValue(r.Context(), contextKey{}, dispatch{keys[0], fence})
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// Transact runs work in a transaction that has checked the fence of ctx, and commits
// unless work fails. It returns ErrStale, and has not called work, if a newer request
// was here before. After any other error the writes of work are undone, but when the
// commit fails: then nobody knows.
func Transact(ctx context.Context, db *sql.DB, work func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit, and there is no more to do if it fails
	if err := Check(ctx, tx); err != nil {
		return err
	}
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// Check is Guard with the key and the fence of ctx.
func Check(ctx context.Context, tx *sql.Tx) error {
	d, ok := ctx.Value(contextKey{}).(dispatch)
	if !ok {
		return ErrMissing
	}
	return Guard(ctx, tx, d.key, d.fence)
}

// One statement, for what is read first and written later may change in between. The
// row stays locked to the end of the transaction, whether it was changed or not.
const guard = `
INSERT INTO fences AS seen (key, fence) VALUES ($1, $2)
ON CONFLICT (key) DO UPDATE SET fence = excluded.fence
WHERE seen.fence <= excluded.fence`

// Guard returns ErrStale if a higher fence of key was seen before; roll tx back then.
// Otherwise it remembers fence, and other requests of key wait here until tx ends. So
// call it first: what tx reads before it may be outdated when tx writes. The same
// fence is accepted again, since one request may need several transactions.
func Guard(ctx context.Context, tx *sql.Tx, key string, fence int64) error {
	result, err := tx.ExecContext(ctx, guard, key, fence)
	if err != nil {
		return err
	}
	accepted, err := result.RowsAffected()
	if err != nil {
		return err
	}
	if accepted == 0 {
		return ErrStale
	}
	return nil
}
