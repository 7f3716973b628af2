"""Asks for the answers of TestRealClients as Python's own clients do, and prints what came."""
import http.client
import sys
import urllib.error
import urllib.request

base = sys.argv[1]
host = base.removeprefix("http://")
connection = http.client.HTTPConnection(host, timeout=20)


def ask(method, path, body=None, **headers):
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    return response, response.read().decode()


for at in "/orders/7", "/else":
    a, text = ask("PUT", at + "/sink", (piece for piece in (b"a" * 70000, b"b" * 70000)))
    print("chunks", a.status, text)
    a, text = ask("GET", at + "/file", Range="bytes=2-5")
    print("range", a.status, a.getheader("Content-Range"), text)
    a, text = ask("GET", at + "/file", If_None_Match='"v1"')
    print("unmodified", a.status, a.getheader("ETag"), f"[{text}]")
    a, text = ask("HEAD", at + "/file")
    print("head", a.status, a.getheader("Content-Length"), f"[{text}]")
    a, text = ask("GET", at + "/cookies")
    print("cookies", " | ".join(a.headers.get_all("Set-Cookie")))
    with urllib.request.urlopen(base + at + "/cookies", timeout=20) as a:
        print("urllib", " | ".join(a.headers.get_all("Set-Cookie")), a.read().decode())
    try:
        urllib.request.urlopen(urllib.request.Request(base + at + "/file", headers={"If-None-Match": '"v1"'}), timeout=20)
    except urllib.error.HTTPError as a:
        print("urllib", a.code, a.headers["ETag"])

with urllib.request.urlopen(base + "/events", timeout=20) as events:
    seen = []
    while line := events.readline():
        if line.strip():
            seen.append(line.decode().strip())
            urllib.request.urlopen(f"{base}/seen?{len(seen)}", b"", timeout=20).close()  # or no more will come
    print("events", " ".join(seen))
