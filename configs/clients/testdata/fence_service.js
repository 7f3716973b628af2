// A service with fence.js, for a test: PUT and GET of orders. In the place of the package pg,
// which is not everywhere, is a connection of the program psql.
"use strict";
const http = require("node:http");
const readline = require("node:readline");
const { spawn } = require("node:child_process");
const { Malformed, Stale, parse, transact } = require("../fence.js");

const [psql, database] = process.argv.slice(2);

function connect() {
  const program = spawn(psql, ["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", database], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = readline.createInterface({ input: program.stdout })[Symbol.asyncIterator]();
  return {
    async query(text, values = []) {
      const quoted = text.replace(/\$(\d)/g, (_, n) => `'${values[n - 1].replaceAll("'", "''")}'`);
      program.stdin.write(`${quoted};\n\\echo that was all\n`);
      const rows = [];
      for (;;) {
        const { value, done } = await lines.next();
        if (done) throw new Error("psql has ended");
        if (value === "that was all") break;
        rows.push(value);
      }
      const tag = /^(?:INSERT 0|UPDATE) (\d+)$/.exec(rows.at(-1) ?? "");
      return { rows, rowCount: tag ? Number(tag[1]) : rows.length };
    },
    end: () => program.stdin.end(),
  };
}

async function serve(request) {
  let body = "";
  for await (const part of request) body += part;
  const client = connect();
  try {
    if (request.method === "GET") {
      const { rows } = await client.query("SELECT value FROM orders WHERE id = $1", [request.url]);
      return [200, rows[0] ?? ""];
    }
    await transact(client, parse(request), (tx) =>
      tx.query("INSERT INTO orders (id, value) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET value = excluded.value", [request.url, body]),
    );
    return [200, "written"];
  } catch (failure) {
    if (failure instanceof Malformed) return [400, failure.message];
    if (failure instanceof Stale) return [409, "a newer request of this key was here before"];
    throw failure;
  } finally {
    client.end();
  }
}

(async () => {
  const client = connect();
  await client.query("CREATE TABLE fences (key text PRIMARY KEY, fence bigint NOT NULL)");
  await client.query("CREATE TABLE orders (id text PRIMARY KEY, value text)");
  client.end();
  const server = http.createServer((request, response) => {
    serve(request).then(
      ([status, text]) => response.writeHead(status).end(text),
      (failure) => response.writeHead(500).end(String(failure)),
    );
  });
  server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
})();
