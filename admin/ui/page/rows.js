// What the tables do with their rows. Pure.

// sorted is a new list. Equal rows keep their places, so that nothing jumps from second to second.
export function sorted(rows, value, down) {
  const order = down ? -1 : 1;
  return rows
    .map((row, at) => [value(row), at, row])
    .sort((a, b) => order * compare(a[0], b[0]) || a[1] - b[1])
    .map(([, , row]) => row);
}

export function compare(a, b) {
  if (a == null || b == null) return (a == null ? 0 : 1) - (b == null ? 0 : 1);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0;
}

// matching is the rows that hold each word of the filter somewhere, in any case.
export function matching(rows, filter, textOf) {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return rows;
  return rows.filter((row) => {
    const text = textOf(row).toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

// withEvent puts an event in its place, newest first. After a gap the stream tells some events
// again: a node and its number name one.
export function withEvent(events, event, most = 500) {
  if (events.some((e) => e.id === event.id && e.node === event.node)) return events;
  const time = Date.parse(event.time);
  const at = events.findIndex((e) => Date.parse(e.time) <= time);
  const all = at < 0 ? [...events, event] : [...events.slice(0, at), event, ...events.slice(at)];
  return all.slice(0, most);
}

// Series is the points of a chart: the last length seconds, at most one each.
export class Series {
  constructor(length, columns) {
    this.length = length;
    this.columns = Array.from({ length: columns + 1 }, () => []);
  }

  add(time, values) {
    const times = this.columns[0];
    const last = times.length - 1;
    if (last >= 0 && time <= times[last]) return; // told again, or a clock was set back
    // Where nothing came for a while there is a gap, not a line that nobody measured.
    if (last >= 0 && time - times[last] > 3) this.push(times[last] + 1, values.map(() => null));
    this.push(time, values);
    while (times[0] < time - this.length) this.columns.forEach((c) => c.shift());
  }

  push(time, values) {
    this.columns[0].push(time);
    values.forEach((v, i) => this.columns[i + 1].push(v));
  }
}

// drifted is the members whose configuration is another than most live ones have; where no
// configuration is most members', all that differ from the answering node's.
export function drifted(members, own) {
  const live = members.filter((m) => (m.state === "alive" || m.state === "draining") && m.config);
  const counts = new Map();
  for (const m of live) counts.set(m.config, (counts.get(m.config) ?? 0) + 1);
  if (counts.size < 2) return new Set();
  const most = [...counts].find(([, n]) => n * 2 > live.length)?.[0];
  const right = most ?? live.find((m) => m.name === own)?.config;
  return new Set(live.filter((m) => m.config !== right).map((m) => m.name));
}
