// The node that served this page: questions to it, and what the cluster is like now, as one
// stream tells it, once a second.

import { batch, signal } from "../vendor/preact.js";
import { Styles } from "./ring.js";
import { Series, withEvent } from "./rows.js";
import { Reader, pause } from "./stream.js";

// The token is asked for once, and kept in memory only: a reload of the page asks again.
let token = "";
export const tokenAsked = signal(null); // null, or why: the page asks for a token

let waiting = [];

export function setToken(text) {
  token = text.trim();
  tokenAsked.value = null;
  waiting.forEach((go) => go());
  waiting = [];
}

// tokenGiven resolves when the operator has given one.
function tokenGiven(used) {
  if (token !== used) return Promise.resolve(); // meanwhile another question's has come
  tokenAsked.value = used ? "The node does not know this token." : "The node asks for a token.";
  return new Promise((go) => waiting.push(go));
}

// Refusal is an answer that is not what was asked for: what its problem says, for people.
export class Refusal extends Error {
  constructor(status, problem) {
    super([problem.title ?? "The node answers " + status, problem.detail, ...(problem.problems ?? [])].filter(Boolean).join(": "));
    this.status = status;
  }
}

// ask sends a request, and again when a token was missing.
export async function ask(path, options = {}) {
  for (;;) {
    const used = token;
    const headers = { Accept: "application/json", ...options.headers };
    if (used) headers.Authorization = "Bearer " + used;
    const response = await fetch(path, { ...options, headers, cache: "no-store" });
    if (response.status === 401) {
      await tokenGiven(used);
      continue;
    }
    if (!response.ok) throw new Refusal(response.status, await response.json().catch(() => ({})));
    return response;
  }
}

export async function get(path, signal) {
  return (await ask("/api/v1/" + path, { signal })).json();
}

export async function post(path, body) {
  const options = { method: "POST" };
  if (body) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  return (await ask("/api/v1/" + path, options)).json();
}

export const numbers = signal(null);
export const members = signal(null);
export const ring = signal(null);
export const lanes = signal(null);
export const events = signal([]);
export const points = signal(0); // rises with each point of the series

// link is how the stream is: connecting, live, lost (and why), or hidden with the page.
export const link = signal({ state: "connecting", why: "" });

// paused keeps what is shown as it is. What comes meanwhile is shown when that ends.
export const paused = signal(false);

// only is the one member that is looked at; empty: all.
export const only = signal("");

export const styles = new Styles();
export const latencies = new Series(15 * 60, 4);

const held = new Map(); // what came while the page was paused

const shown = {
  status(n) {
    numbers.value = n;
    const wait = n.lane_wait, upstream = n.upstream;
    latencies.add(Math.floor(Date.parse(n.time) / 1000), [
      wait?.count ? wait.p50_seconds : null, wait?.count ? wait.p99_seconds : null,
      upstream?.count ? upstream.p50_seconds : null, upstream?.count ? upstream.p99_seconds : null,
    ]);
    points.value++;
  },
  members(m) {
    styles.know(m.members.map((member) => member.name));
    members.value = m;
  },
  ring(r) {
    styles.know((r.members ?? []).map((member) => member.name));
    ring.value = r;
  },
  lanes(l) {
    lanes.value = l;
  },
};

function take(name, data) {
  if (name === "event") {
    events.value = withEvent(events.value, data);
    return;
  }
  if (!shown[name]) return; // of a newer node
  if (paused.value) {
    if (!held.has(name)) held.set(name, []);
    // Of the numbers each is a point of the chart; of all else only the last matters.
    if (name === "status") held.get(name).push(data);
    else held.set(name, [data]);
    return;
  }
  shown[name](data);
}

export function setPaused(to) {
  paused.value = to;
  if (to) return;
  batch(() => {
    for (const [name, all] of held) all.forEach((data) => shown[name](data));
    held.clear();
  });
}

const silence = 20000; // milliseconds; a stream says something each second

let current = null; // the AbortController of the stream that is open

// follow reads streams, one after the other, for as long as the page is open. There is never more
// than one: a browser has about six connections to a host.
export async function follow() {
  let retry = 2000, tries = 0, last = "";
  for (;;) {
    await visible();
    const stop = (current = new AbortController());
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort(new Error("nothing has come for 20 s")), silence);
    };
    let why = "the node has ended the stream";
    try {
      const headers = { Accept: "text/event-stream" };
      if (last) headers["Last-Event-ID"] = last;
      const response = await ask("/api/v1/events?stream=status,lanes,events", { headers, signal: stop.signal });
      const reader = new Reader((name, data, id) => {
        last = id;
        take(name, JSON.parse(data));
      });
      const body = response.body.pipeThrough(new TextDecoderStream()).getReader();
      alive();
      for (;;) {
        const { value, done } = await body.read();
        if (done) break;
        alive();
        batch(() => reader.feed(value));
        retry = reader.retry ?? retry;
        tries = 0;
        if (link.value.state !== "live") link.value = { state: "live", why: "" };
      }
    } catch (error) {
      why = (stop.signal.aborted && stop.signal.reason?.message) || error.message;
    }
    clearTimeout(timer);
    stop.abort();
    if (document.hidden) {
      link.value = { state: "hidden", why: "" };
      continue;
    }
    link.value = { state: "lost", why };
    await new Promise((go) => setTimeout(go, pause(tries++, retry)));
  }
}

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((go) => document.addEventListener("visibilitychange", go, { once: true })).then(visible);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) current?.abort();
});
