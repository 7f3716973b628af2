package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Table is the name of the table unless another is configured.
const Table = "lanekeeper_records"

// marksSuffix makes the name of the other one.
const marksSuffix = "_marks"

// tableName is what needs no thought about quotes, with room for the indexes' names.
var tableName = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,53}$`)

func checkTable(table string) error {
	if !tableName.MatchString(table) {
		return fmt.Errorf("the table's name %q is none of letters, digits and _, at most 54, with a schema of such before it or without", table)
	}
	return nil
}

// quoted is a table's name as statements have it: as it is written, large letters too.
func quoted(table string) string { return pgx.Identifier(strings.Split(table, ".")).Sanitize() }

// Migration is what creates a table, and the marks' beside it, if they are not there:
// statements that can be run by whoever may. The name is a table's, or a schema's, a dot
// and a table's.
func Migration(table string) string {
	_, name, found := strings.Cut(table, ".")
	if !found {
		name = table
	}
	return strings.NewReplacer(
		"{table}", quoted(table), "{index}", quoted(name+"_expires"),
		"{marks}", quoted(table+marksSuffix), "{marks index}", quoted(name+"_mark_end"),
	).Replace(migrationText)
}

// States are those of idempotency.State. A record, or a mark, counts for nothing from expires on,
// when it may be deleted.
const migrationText = `CREATE TABLE IF NOT EXISTS {table} (
	id bytea PRIMARY KEY,
	print bytea NOT NULL,
	state smallint NOT NULL, -- 1 running, 2 done, 3 unknown
	nonce bytea NOT NULL,    -- of the claim
	leased timestamptz NOT NULL,  -- until when, if it is running
	expires timestamptz NOT NULL,
	status integer NOT NULL DEFAULT 0,
	bare boolean NOT NULL DEFAULT false,
	head bytea NOT NULL DEFAULT '',
	body bytea NOT NULL DEFAULT ''
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS {index} ON {table} (expires);
CREATE TABLE IF NOT EXISTS {marks} (
	id bytea PRIMARY KEY,
	epoch bigint NOT NULL,
	done bigint NOT NULL, -- the highest number that is
	expires timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS {marks index} ON {marks} (expires);
`

// prepare sees to it that there are the tables, and that they are the right ones.
func prepare(ctx context.Context, pool *pgxpool.Pool, config *Config) error {
	tables := []struct{ name, columns string }{
		{config.Table, "id, print, state, nonce, leased, expires, status, bare, head, body"},
		{config.Table + marksSuffix, "id, epoch, done, expires"},
	}
	var missing []string
	for _, table := range tables {
		var exists bool
		const find = "SELECT to_regclass($1) IS NOT NULL"
		if err := pool.QueryRow(ctx, find, quoted(table.name)).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			missing = append(missing, table.name)
			continue
		}
		if _, err := pool.Exec(ctx, "SELECT "+table.columns+" FROM "+quoted(table.name)+" LIMIT 0"); err != nil {
			return fmt.Errorf("the table %s is not as it should be: %w. It should be made by:\n\n%s", table.name, err, Migration(config.Table))
		}
	}
	switch {
	case len(missing) == 0:
		return nil
	case !config.CreateTable:
		return fmt.Errorf("there is no table %s. Have it created:\n\n%s", strings.Join(missing, ", and no "), Migration(config.Table))
	}
	if err := create(ctx, pool, config.Table); err != nil {
		return fmt.Errorf("creating the table %s: %w. If the user may not, have it created:\n\n%s", strings.Join(missing, " and "), err, Migration(config.Table))
	}
	return nil
}

// create creates the tables. Several nodes may do so at once, which IF NOT EXISTS alone
// doesn't make safe.
func create(ctx context.Context, pool *pgxpool.Pool, table string) (err error) {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if rollback := tx.Rollback(ctx); !errors.Is(rollback, pgx.ErrTxClosed) {
			err = errors.Join(err, rollback)
		}
	}()
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "lanekeeper "+table); err != nil {
		return err
	}
	for statement := range strings.SplitAfterSeq(Migration(table), ";\n") {
		if statement == "" {
			continue
		}
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return tx.Commit(ctx)
}
