package fence_test

import (
	"database/sql"
	"errors"
	"net/http"

	"lanekeeper/configs/fence"
)

// serveOrder is a service as README.md shows it.
func serveOrder(db *sql.DB) http.Handler {
	return fence.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := fence.Transact(r.Context(), db, func(tx *sql.Tx) error {
			return changeOrder(tx, r) // any statements, of any tables
		})
		switch {
		case errors.Is(err, fence.ErrStale):
			http.Error(w, err.Error(), http.StatusConflict)
		case err != nil:
			http.Error(w, "failed", http.StatusInternalServerError)
		}
	}))
}

func changeOrder(tx *sql.Tx, r *http.Request) error {
	id, status := r.PathValue("id"), r.FormValue("status")
	if r.Method == http.MethodDelete {
		_, err := tx.ExecContext(r.Context(), "DELETE FROM orders WHERE id = $1", id)
		return err
	}
	_, err := tx.ExecContext(r.Context(), putOrder, id, status)
	return err
}

const putOrder = `
INSERT INTO orders (id, status) VALUES ($1, $2)
ON CONFLICT (id) DO UPDATE SET status = excluded.status`
