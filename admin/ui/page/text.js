// How things are written for people. Pure functions, without the page.

const figures = (most) => new Intl.NumberFormat("en-US", { maximumFractionDigits: most });
const whole = figures(0), one = figures(1), two = figures(2);

// Nothing known is a dash, never a 0.
export const dash = "–";

export function count(n) {
  return n == null ? dash : whole.format(n);
}

export function rate(n) {
  if (n == null) return dash;
  return (n < 100 ? one : whole).format(n);
}

// seconds writes a length of time with about three figures.
export function seconds(s) {
  if (s == null || !isFinite(s)) return dash;
  if (s < 0.0005) return "0 ms";
  if (s < 0.00995) return two.format(s * 1000) + " ms";
  if (s < 0.9995) return whole.format(s * 1000) + " ms";
  if (s < 9.95) return s.toFixed(1) + " s";
  if (s < 90) return Math.round(s) + " s";
  const minutes = Math.floor(s / 60);
  if (minutes < 90) return minutes + " min " + String(Math.floor(s % 60)).padStart(2, "0") + " s";
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return hours + " h " + String(minutes % 60).padStart(2, "0") + " min";
  return Math.floor(hours / 24) + " d " + (hours % 24) + " h";
}

// since writes how long ago a time was, at the page's own clock.
export function since(time, now = Date.now()) {
  const at = Date.parse(time);
  return isNaN(at) || at <= 0 ? dash : seconds(Math.max(0, (now - at) / 1000));
}

// clock writes the time of day.
export function clock(time) {
  const at = new Date(time);
  if (isNaN(at)) return dash;
  return at.toLocaleTimeString("en-GB", { hour12: false });
}

export function bytes(n) {
  if (n == null) return dash;
  if (n < 1024) return n + " B";
  if (n < 1024 * 1024) return one.format(n / 1024) + " KiB";
  return one.format(n / 1024 / 1024) + " MiB";
}

export function percent(part, all) {
  return all > 0 ? Math.round((100 * part) / all) + " %" : dash;
}

// shorten keeps both ends of what is long: keys differ at either.
export function shorten(text, most = 40) {
  if (text.length <= most) return text;
  const tail = Math.floor((most - 1) / 3);
  return text.slice(0, most - 1 - tail) + "…" + text.slice(text.length - tail);
}

// The API writes keys as Lanekeeper-Key does: bytes outside 0x21–0x7E, and %, as %XX. In a query
// those stay as they are, since the bytes need not be UTF-8, and the rest is escaped as usual.
export function queryOfKey(key) {
  return key.replace(/%[0-9A-Fa-f]{2}|[^%]|%/g, (part) => (part.length === 3 ? part : encodeURIComponent(part)));
}

// queryOfLane names a lane to the API, and in the page's own address.
export function queryOfLane(space, key) {
  return "space=" + encodeURIComponent(space) + "&key=" + queryOfKey(key);
}

export function laneAddress(space, key) {
  return "#/lane?" + queryOfLane(space, key);
}

// laneOfAddress reads that, and gives the key as the API writes it.
export function laneOfAddress(hash) {
  const found = /^#\/lane\?space=([a-z0-9_-]{1,32})&key=([^&#]+)$/.exec(hash);
  if (!found) return null;
  const key = found[2].replace(/%([0-9A-Fa-f]{2})/g, (whole, hex) => {
    const byte = parseInt(hex, 16);
    return byte > 0x20 && byte < 0x7f && byte !== 0x25 ? String.fromCharCode(byte) : whole.toUpperCase();
  });
  return { space: found[1], key };
}

// parseKey reads what a person types: order/A 1042 with the key as it is, or order:A%201042 as
// the log and Lanekeeper-Key write it. It returns the API's query, or null.
export function parseKey(text) {
  const found = /^\s*([a-z0-9_-]{1,32})([/:])([^]+)$/.exec(text);
  if (!found) return null;
  const [, space, mark, rest] = found;
  if (mark === "/") return "space=" + space + "&key=" + encodeURIComponent(rest.replace(/\p{Surrogate}/gu, "\ufffd"));
  if (!/^(%[0-9A-Fa-f]{2}|[\x21-\x24\x26-\x7e])+$/.test(rest)) return null;
  return queryOfLane(space, rest);
}

// toType is what an operator has to type to show that this lane, ticket or member is meant: all
// of it if that is short, else its end.
export function toType(name) {
  return name.length <= 40 ? name : name.slice(-12);
}

// fields writes an event's attributes.
export function fields(attributes) {
  return Object.entries(attributes ?? {})
    .map(([name, value]) => name + "=" + shorten(typeof value === "string" ? value : JSON.stringify(value), 80))
    .join("  ");
}
