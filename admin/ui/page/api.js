// Questions to the node that served this page.

import { signal } from "../vendor/preact.js";

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
