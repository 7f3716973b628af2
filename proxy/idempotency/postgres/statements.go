package postgres

import "strings"

// statements are those of the tables. Each may be sent again after its answer was lost.
type statements struct {
	claim, finish, lose, forget, renew, sweep string
	load, save, sweepMarks                    string
}

func newStatements(table string) statements {
	on := func(table, text string) string { return strings.ReplaceAll(text, "{table}", quoted(table)) }
	records := func(text string) string { return on(table, text) }
	marks := func(text string) string { return on(table+marksSuffix, text) }
	return statements{
		records(claimText), records(finishText), records(loseText), records(forgetText), records(renewText), records(sweepText),
		marks(loadText), marks(saveText), marks(sweepText),
	}
}

// claimText claims a name. Arguments: id, print, nonce, lease, how long the record lasts,
// both in us, and whether what is unknown may be claimed anew. It returns a row: state,
// print, how long a lease lasts in us, and the reply; or none, if it has to be asked
// again.
//
// It first looks, so that what is known is read without a lock or a write. Then it
// inserts; should another have done so, it takes the row if it may, which waits for the
// other one's statement.
const claimText = `
WITH seen AS (
	SELECT CASE WHEN state = 1 AND leased <= clock_timestamp() THEN 3 ELSE state END AS state, print,
		(extract(epoch FROM leased - clock_timestamp()) * 1000000)::bigint AS remaining, status, bare, head, body
	FROM {table}
	WHERE id = $1 AND expires > clock_timestamp() AND NOT (state = 1 AND nonce = $3)
		AND NOT ($6 AND print = $2 AND (state = 3 OR state = 1 AND leased <= clock_timestamp()))
), claimed AS (
	INSERT INTO {table} AS r (id, print, state, nonce, leased, expires)
	SELECT $1, $2, 1, $3, clock_timestamp() + $4 * interval '1 microsecond', clock_timestamp() + $5 * interval '1 microsecond'
	WHERE NOT EXISTS (SELECT FROM seen)
	ON CONFLICT (id) DO UPDATE SET print = excluded.print, state = 1, nonce = excluded.nonce,
		leased = excluded.leased, expires = excluded.expires, status = 0, bare = false, head = '', body = ''
	WHERE r.expires <= clock_timestamp() OR r.state = 1 AND r.nonce = excluded.nonce
		OR $6 AND r.print = excluded.print AND (r.state = 3 OR r.state = 1 AND r.leased <= clock_timestamp())
	RETURNING print
)
SELECT state::smallint, print, remaining, status, bare, head, body FROM seen
UNION ALL
SELECT 0::smallint, print, 0::bigint, 0, false, ''::bytea, ''::bytea FROM claimed
`

// finishText keeps a reply. Arguments: id, nonce, status, bare, head, body.
const finishText = `
UPDATE {table} SET state = 2, status = $3, bare = $4, head = $5, body = $6
WHERE id = $1 AND nonce = $2 AND state IN (1, 2) AND expires > clock_timestamp()
`

// The others take lists of ids and nonces, and return a row for each claim whose record
// is there: its number in the list, and whether it is as was asked.

const asked = `
WITH asked AS (
	SELECT id, nonce, number FROM unnest($1::bytea[], $2::bytea[]) WITH ORDINALITY AS a(id, nonce, number)
), changed AS (`

const answered = `
)
SELECT asked.number, changed.id IS NOT NULL
FROM asked JOIN {table} AS r ON r.id = asked.id AND r.expires > clock_timestamp() LEFT JOIN changed ON changed.id = asked.id
`

// loseText makes names unknown.
const loseText = asked + `
	UPDATE {table} AS r SET state = 3 FROM asked
	WHERE r.id = asked.id AND r.nonce = asked.nonce AND r.state IN (1, 3) AND r.expires > clock_timestamp()
	RETURNING r.id` + answered

// forgetText deletes names.
const forgetText = asked + `
	DELETE FROM {table} AS r USING asked
	WHERE r.id = asked.id AND r.nonce = asked.nonce AND r.state = 1
	RETURNING r.id` + answered

// renewText has leases begin again, which are the third list, in us. Records last at
// least as long.
const renewText = `
WITH asked AS (
	SELECT id, nonce, number, clock_timestamp() + lease * interval '1 microsecond' AS leased
	FROM unnest($1::bytea[], $2::bytea[], $3::bigint[]) WITH ORDINALITY AS a(id, nonce, lease, number)
), changed AS (
	UPDATE {table} AS r SET leased = asked.leased, expires = greatest(r.expires, asked.leased) FROM asked
	WHERE r.id = asked.id AND r.nonce = asked.nonce AND r.state = 1 AND r.expires > clock_timestamp()
	RETURNING r.id` + answered

// sweepText deletes up to $1 rows that have expired, and waits for nobody.
const sweepText = `
DELETE FROM {table} WHERE id IN (
	SELECT id FROM {table} WHERE expires <= clock_timestamp() ORDER BY expires LIMIT $1 FOR UPDATE SKIP LOCKED
)
`
