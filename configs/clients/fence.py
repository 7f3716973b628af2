"""How a service behind a strict route refuses what comes too late. Made to be copied: Python
3.9 or later, and any database that knows INSERT … ON CONFLICT: PostgreSQL, or SQLite as here.
For the whole story, and for Go, Java, SQL and Redis, see ../fence.

    python3 fence.py 127.0.0.1:8080 orders.db        # a service with PUT /orders/ID
"""
import re
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TABLE = "CREATE TABLE IF NOT EXISTS fences (key text PRIMARY KEY, fence bigint NOT NULL)"

# One statement, for what is read first and written later may change in between. With
# psycopg the parameters are %s.
GUARD = """
INSERT INTO fences AS seen (key, fence) VALUES (?, ?)
ON CONFLICT (key) DO UPDATE SET fence = excluded.fence
WHERE seen.fence <= excluded.fence"""


class Stale(Exception):
    """A newer request of the key was here before. Roll back, and answer 409."""


def parse(headers):
    """The key and the fence of a request: one of each, as lanekeeper writes them. Python's
    integers have room for all of it."""
    keys, fences = headers.get_all("Lanekeeper-Key", []), headers.get_all("Lanekeeper-Fence", [])
    if len(keys) != 1 or not keys[0] or len(fences) != 1 or not re.fullmatch("[1-9][0-9]{0,18}", fences[0], re.ASCII):
        raise ValueError("needs one Lanekeeper-Key and one Lanekeeper-Fence")
    if int(fences[0]) >= 2**63:
        raise ValueError("not a fence")
    return keys[0], int(fences[0])


def guard(cursor, key, fence):
    """The first statement of the transaction that writes: what was read before it may be
    outdated. Equal fences are the same request."""
    cursor.execute(GUARD, (key, fence))
    if cursor.rowcount == 0:
        raise Stale(key)


class Orders(BaseHTTPRequestHandler):
    """A service: PUT writes an order, GET reads it."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            key, fence = parse(self.headers)
        except ValueError as failure:
            return self.answer(400, str(failure))
        db = sqlite3.connect(sys.argv[2], timeout=10)
        try:
            with db:  # commits, or rolls back if anything is raised
                cursor = db.cursor()
                guard(cursor, key, fence)
                cursor.execute("INSERT INTO orders (id, value) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET value = excluded.value", (self.path, body.decode()))
        except Stale:
            return self.answer(409, "a newer request of this key was here before")
        finally:
            db.close()
        self.answer(200, "written")

    def do_GET(self):
        db = sqlite3.connect(sys.argv[2], timeout=10)
        row = db.execute("SELECT value FROM orders WHERE id = ?", (self.path,)).fetchone()
        db.close()
        self.answer(200 if row else 404, row[0] if row else "")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    with sqlite3.connect(sys.argv[2]) as db:
        db.execute(TABLE)
        db.execute("CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, value text)")
    db.close()
    host, port = sys.argv[1].rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Orders)
    print("http://%s:%d" % server.server_address, flush=True)
    server.serve_forever()
