// An admin API that says what it is told to, for states that a real cluster is rarely in: hundreds
// of lanes, everything amiss at once, a ring on the move, keys that want to be code.

import http from "node:http";

export const hostile = ["<img%20src=x%20onerror=alert(1)>", "<img/src=x/onerror=document.title=1>", "javascript:alert(1)", '"><script>alert(1)</script>', "%E2%80%AEgnp.exe", "..", "{{7*7}}${7*7}", "x".repeat(200)];

export const healthy = (time) => ({
  time, members: 3, answered: 3, ready: 3, draining: 0, rate: 2184.3, lanes: 41, waiting: 73, running: 38, held: 0, stopped: 0, halted: 0, hot: 0,
  oldest_wait_seconds: 1.31, violations: 0, unknown: 0, warnings: [], silent: [],
  lane_wait: { count: 90, p50_seconds: 0.0018, p99_seconds: 0.412 }, upstream: { count: 90, p50_seconds: 0.0091, p99_seconds: 0.061 },
});

const member = (name, i, more) => ({
  name, incarnation: "18f" + i, state: "alive", address: `10.1.4.${7 + i}:7943`, peer_address: `10.1.4.${7 + i}:7944`, zone: "eu-1" + "abc"[i], target: 1365 + (i === 0 ? 1 : 0),
  owned: 1365 + (i === 0 ? 1 : 0), queued: 12 * i, config: "9f31c2d4e5f60718", version: "1.4.0", since: "2026-01-01T00:00:00Z", rtt_seconds: i ? 0.0007 * i : null, ...more,
});

export const three = () => ({ cluster: "prod", node: "lk-0", view: 88, min_members: 2, members: ["lk-0", "lk-1", "lk-2"].map((name, i) => member(name, i, {})) });

// runs are thousands, as a ring's are: neighbours rarely have one owner.
export function runs(names, partitions, moving) {
  const all = [];
  let seed = 7;
  for (let p = 0; p < partitions; p++) {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    const owner = names[Math.floor((seed / 2147483648) * names.length)];
    const moves = moving > 0 && owner === names[0] && p % 9 < moving;
    const target = moves ? names[1] : owner;
    const last = all.at(-1);
    if (last && last.owner === owner && last.target === target) last.to = p;
    else all.push({ from: p, to: p, owner, target, moving: moves });
  }
  return all;
}

export const ring = (names, moving = 0) => {
  const list = runs(names, 4096, moving);
  return { cluster: "prod", node: names[0], version: 88, hash: "ab", layout: "cd", partitions: 4096, moving: list.filter((r) => r.moving).reduce((n, r) => n + r.to - r.from + 1, 0), members: names.map((name) => ({ name, target: 1365, owned: null })), runs: list };
};

export const lane = (i, more = {}) => ({
  node: "lk-" + (i % 3), space: "order", key: "A-" + (1000 + i), route: "order", state: "ok", held: false, ticket: "", cause: "", seconds: 0, waiting: Math.max(0, 60 - i), running: 1,
  head_ticket: "0197f3a2-0000-7000-8000-00000000" + String(1000 + i), head_state: "running", head_age_seconds: 0.02 * i, held_seconds_left: null, hold: null, hot: i === 0, lent_to: "", wait_seconds_estimate: 0.05 * Math.max(0, 60 - i), ...more,
});

export const key = (i, more = {}) => ({ node: "lk-" + (i % 3), space: "order", key: "K-" + i, route: "order", state: "ok", action: "", lent_to: "", since: null, depth: i, rate: 41 - i, rate_at_most: i > 5, wait_seconds_estimate: 0.01, count: 400, error: 0, ...more });

export const event = (id, more = {}) => ({ id, node: "lk-" + (id % 3), time: new Date(Date.UTC(2026, 0, 1, 12, 0, id)).toISOString(), level: "INFO", event: "member-joined", message: "a member has joined", attributes: { member: "lk-2", incarnation: "18f" }, ...more });

// Fake serves what its state has; the page's files come from a real node.
export class Fake {
  constructor(files) {
    this.files = files;
    this.state = { numbers: healthy, members: three(), ring: ring(["lk-0", "lk-1", "lk-2"]), lanes: { lanes: [], keys: [], silent: [] }, events: [], answers: { status: { nodes: [] }, unknown: { node: "lk-0", unknown: [], missed: 0, next: 0, silent: [] } } };
    this.streams = new Set();
    this.asked = [];
    this.refuse = false; // streams
  }

  async start() {
    this.server = http.createServer((request, response) => this.answer(request, response).catch((error) => response.destroy(error)));
    await new Promise((go) => this.server.listen(0, "127.0.0.1", go));
    this.url = `http://127.0.0.1:${this.server.address().port}`;
    this.beat = setInterval(() => this.streams.forEach((stream) => this.second(stream)), 1000);
    return this;
  }

  stop() {
    clearInterval(this.beat);
    this.drop();
    this.server.closeAllConnections();
    return new Promise((go) => this.server.close(go));
  }

  drop() {
    this.streams.forEach((stream) => stream.destroy());
  }

  async answer(request, response) {
    const { pathname, searchParams } = new URL(request.url, this.url);
    this.asked.push({ method: request.method, url: request.url, last: request.headers["last-event-id"] });
    if (pathname.startsWith("/ui/")) {
      const from = await fetch(this.files + pathname);
      const headers = { "Content-Type": from.headers.get("content-type"), "Content-Security-Policy": from.headers.get("content-security-policy") };
      response.writeHead(from.status, headers).end(Buffer.from(await from.arrayBuffer()));
    } else if (searchParams.has("stream")) {
      if (this.refuse) return void response.writeHead(503, { "Content-Type": "application/problem+json" }).end('{"title":"Others follow already","detail":"32 streams are open"}');
      response.writeHead(200, { "Content-Type": "text/event-stream" });
      response.write("retry: 200\n\n");
      this.streams.add(response);
      response.on("close", () => this.streams.delete(response));
      this.say(response, "members", this.state.members);
      this.say(response, "ring", this.state.ring);
      this.state.events.forEach((e) => this.say(response, "event", e, e.id));
      this.second(response);
    } else {
      const found = Object.entries(this.state.answers).find(([name]) => pathname === "/api/v1/" + name);
      if (!found) return void response.writeHead(404, { "Content-Type": "application/problem+json" }).end('{"title":"There is no such thing"}');
      response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(found[1]));
    }
  }

  second(stream) {
    this.say(stream, "status", this.state.numbers(new Date().toISOString()));
    this.say(stream, "lanes", this.state.lanes);
  }

  say(stream, name, data, id) {
    stream.write((id ? `id: ${id}\n` : "") + `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  tell(name, data, id) {
    this.streams.forEach((stream) => this.say(stream, name, data, id));
  }
}
