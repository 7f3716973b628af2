"""An ordinary small service: orders in SQLite, a thread per connection, no locks.

    orders.py DATABASE

    POST   /orders/ID  {"amount": N}  a new order: 201, or 409
    PATCH  /orders/ID  {"amount": N}  adds to it:  200 and the new balance, or 404
    DELETE /orders/ID                 removes it:  204, or 404
    POST   /events     {"order": {"id": ID}, "do": METHOD, "amount": N}  the same
    GET    /orders                    {ID: balance}

Like many services it reads, thinks, and writes. Each statement is safe; two
requests for one order at the same time are not.
"""
import json
import signal
import sqlite3
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

INSERT_SECONDS, ADD_SECONDS = 0.008, 0.002


def database():
    connection = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def insert(db, order, amount):
    if balance(db, order) is not None:
        return 409, None
    time.sleep(INSERT_SECONDS)
    try:
        db.execute("INSERT INTO orders VALUES (?, ?)", (order, amount))
    except sqlite3.IntegrityError:
        return 409, None
    return 201, amount


def add(db, order, amount):
    before = balance(db, order)
    if before is None:
        return 404, None
    time.sleep(ADD_SECONDS)
    db.execute("UPDATE orders SET balance = ? WHERE id = ?", (before + amount, order))
    return 200, before + amount


def remove(db, order, _):
    removed = db.execute("DELETE FROM orders WHERE id = ?", (order,)).rowcount
    return (204 if removed else 404), None


def balance(db, order):
    row = db.execute("SELECT balance FROM orders WHERE id = ?", (order,)).fetchone()
    return row and row[0]


ACTIONS = {"POST": insert, "PATCH": add, "DELETE": remove}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together

    def act(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        event = json.loads(body) if body else {}
        if self.path == "/events":
            order, action = event["order"]["id"], event["do"]
        else:
            order, action = self.path.removeprefix("/orders/"), self.command
        db = database()
        try:
            self.answer(*ACTIONS[action](db, order, event.get("amount")))
        finally:
            db.close()

    do_POST = do_PATCH = do_DELETE = act

    def do_GET(self):
        db = database()
        self.answer(200, dict(db.execute("SELECT id, balance FROM orders")))
        db.close()

    def answer(self, status, value):
        text = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    setup = database()
    setup.execute("PRAGMA journal_mode = WAL")
    setup.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, balance INTEGER)")
    setup.close()
    server = Server(("127.0.0.1", 0), Handler)
    print(f"serving on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
