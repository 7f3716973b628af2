// How a service behind a strict route refuses what comes too late. Made to be copied: Node 18
// or later, and PostgreSQL with the table fences of ../fence/fence.sql. For the whole story,
// and for Go, Java, SQL and Redis, see ../fence.
"use strict";

// A newer request of the key was here before. Nothing was written: answer 409.
class Stale extends Error {}

// The request does not come from lanekeeper, or not by a strict route: answer 400.
class Malformed extends Error {}

// The key and the fence of a request of node:http: one of each, as lanekeeper writes them.
// The fence stays a string: it has more digits than a Number has room for.
function parse(request) {
  const keys = request.headersDistinct["lanekeeper-key"] ?? [];
  const fences = request.headersDistinct["lanekeeper-fence"] ?? [];
  if (keys.length !== 1 || keys[0] === "" || fences.length !== 1 || !/^[1-9][0-9]{0,18}$/.test(fences[0]) || BigInt(fences[0]) >= 2n ** 63n) {
    throw new Malformed("needs one Lanekeeper-Key and one Lanekeeper-Fence");
  }
  return { key: keys[0], fence: fences[0] };
}

// One statement, for what is read first and written later may change in between.
const guard = `
INSERT INTO fences AS seen (key, fence) VALUES ($1, $2)
ON CONFLICT (key) DO UPDATE SET fence = excluded.fence
WHERE seen.fence <= excluded.fence`;

// Runs work in a transaction that has checked the fence, and commits unless work fails. The
// client is one of the package pg, not its pool: all of it has to be one connection. Other
// requests of the key wait until the transaction ends. If the commit fails, nobody knows.
async function transact(client, { key, fence }, work) {
  await client.query("BEGIN");
  try {
    if ((await client.query(guard, [key, fence])).rowCount === 0) throw new Stale(key);
    await work(client);
  } catch (failure) {
    await client.query("ROLLBACK");
    throw failure;
  }
  await client.query("COMMIT");
}

module.exports = { Malformed, Stale, parse, transact };
