-- Fences in PostgreSQL, in two variants. $1, $2, … are parameters. Pass the fence as a
-- 64-bit integer, or in JavaScript as the string it came as, and never as a floating-
-- point number, which has room for 53 bits.
--
-- Each statement checks and writes at once, and waits for another transaction that
-- has written the same row. If it counts 0 rows, roll back and answer 409.

-- VARIANT 1: a table of fences. For everything: several rows, several tables, rows
-- that do not exist yet, rows that are deleted. It never forgets, since nothing is
-- ever deleted from it.

-- fences: once
CREATE TABLE fences (
	key   text   PRIMARY KEY, -- Lanekeeper-Key, as it comes
	fence bigint NOT NULL     -- the highest Lanekeeper-Fence seen
);

-- fences: the first statement of each transaction; $1 key, $2 fence
INSERT INTO fences AS seen (key, fence) VALUES ($1, $2)
ON CONFLICT (key) DO UPDATE SET fence = excluded.fence
WHERE seen.fence <= excluded.fence;

-- VARIANT 2: a column. Saves a row per key, where a request writes one row, and all
-- who write this row come with the same key. Do not delete such a row: its fence
-- would go with it, and a late INSERT bring it back. Mark it as deleted.

-- column: once; 0 is below every fence
ALTER TABLE orders
	ADD COLUMN fence   bigint  NOT NULL DEFAULT 0,
	ADD COLUMN deleted boolean NOT NULL DEFAULT false;

-- column: update; $1 fence, $2 id, $3 status. 0 rows may also mean: no such order
UPDATE orders SET status = $3, fence = $1 WHERE id = $2 AND fence <= $1 AND NOT deleted;

-- column: insert or update; $1 fence, $2 id, $3 status
INSERT INTO orders AS seen (id, status, fence) VALUES ($2, $3, $1)
ON CONFLICT (id) DO UPDATE SET status = excluded.status, fence = excluded.fence, deleted = false
WHERE seen.fence <= excluded.fence;

-- column: delete, even what is not there yet; $1 fence, $2 id
INSERT INTO orders AS seen (id, status, fence, deleted) VALUES ($2, '', $1, true)
ON CONFLICT (id) DO UPDATE SET status = '', fence = excluded.fence, deleted = true
WHERE seen.fence <= excluded.fence;
