"""How to call a service through lanekeeper, and repeat a request by what lanekeeper says of
it. Made to be copied: Python 3.9 or later, the standard library.

    python3 retry.py POST http://127.0.0.1:7940/orders/7/items '{"n": 1}' [IDEMPOTENCY-KEY]
"""
import http.client
import json
import random
import sys
import time
import urllib.parse

PROBLEM = "urn:lanekeeper:problem:"


class Unknown(Exception):
    """The request was sent, and nobody knows what became of it. Look at the service before
    you send anything else for the key."""


class Refused(Exception):
    """The request was not executed, and it is of no use, or no use any more, to send it
    again as it is."""


def send(method, url, body=None, headers=None, attempts=5, timeout=60):
    """Returns (status, headers, body) of what the service answers, whatever it is. The request
    is repeated if it was not executed and may be the next time, after what Retry-After says.
    If nobody knows, it is repeated only if that cannot do it twice: it is a read, or has an
    Idempotency-Key that its route looks at."""
    headers = dict(headers or {})
    repeatable = method in ("GET", "HEAD") or any(name.lower() == "idempotency-key" for name in headers)
    for attempt in range(1, attempts + 1):
        pause = 0
        try:
            status, answer, text = _once(method, url, body, headers, timeout)
        except _NotSent as failure:
            if attempt == attempts:
                raise Refused("no-connection: %s" % failure) from failure
        except (OSError, http.client.HTTPException) as failure:
            if not repeatable or attempt == attempts:
                raise Unknown(str(failure)) from failure
        else:
            problem = _problem(answer, text)
            if problem is None:
                return status, answer, text
            slug = problem["type"][len(PROBLEM):]
            why = "%s: %s" % (slug, problem.get("detail"))
            if problem.get("executed") != "no":
                # A 409 says that the outcome of an earlier attempt is unknown, and stays so.
                if not repeatable or status == 409 or attempt == attempts:
                    raise Unknown(why)
            else:
                after = answer.get("Retry-After", "")
                if not after.isdigit() and status not in (429, 502, 503) or attempt == attempts:
                    raise Refused(why)
                pause = int(after) if after.isdigit() else 0
        # Some more, so that clients which were refused together do not come together.
        time.sleep(pause + random.random() * 0.1 * 2 ** min(attempt - 1, 6))


class _NotSent(Exception):
    pass


def _once(method, url, body, headers, timeout):
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=timeout)
    try:
        try:
            connection.connect()
        except OSError as failure:
            raise _NotSent(failure) from failure
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def _problem(headers, text):
    """What lanekeeper says in place of the service; None if it is the service that answers."""
    if not headers.get("Content-Type", "").startswith("application/problem+json"):
        return None
    try:
        problem = json.loads(text)
        return problem if problem["type"].startswith(PROBLEM) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


if __name__ == "__main__":
    method, url, body, *key = sys.argv[1:]
    try:
        status, _, _ = send(method, url, body, {"Idempotency-Key": key[0]} if key else {})
        print("answered", status)
    except Refused as refused:
        print("refused", refused)
    except Unknown as unknown:
        print("unknown", unknown)
