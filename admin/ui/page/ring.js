// The geometry of the ring's picture. Pure.

// Okabe and Ito's colours, which people with any colour vision can tell apart. Members also
// differ by pattern, and by what is written beside them.
export const colours = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442"];
export const patterns = ["solid", "rising", "dots", "falling", "level", "cross"];

// Styles gives each member a colour and a pattern, and the same one for as long as the page is
// open: a member that joins does not repaint the others.
export class Styles {
  constructor() {
    this.places = new Map();
  }

  of(name) {
    if (!this.places.has(name)) this.places.set(name, this.places.size);
    return this.places.get(name) % (colours.length * patterns.length);
  }

  know(names) {
    for (const name of [...names].sort()) this.of(name);
  }
}

export function colourOf(style) {
  return colours[style % colours.length];
}

export function patternOf(style) {
  return patterns[style % patterns.length];
}

const round = (n) => Math.round(n * 100) / 100;

// point is at a part of the way round, from the top and clockwise.
export function point(centre, radius, part) {
  const angle = 2 * Math.PI * part;
  return [round(centre + radius * Math.sin(angle)), round(centre - radius * Math.cos(angle))];
}

// arc is the path of a piece of a ring between two parts of the way round.
export function arc(centre, inner, outer, from, to) {
  if (to - from >= 1) {
    // A whole ring's ends meet, and an arc from a point to itself is none: two halves.
    return arc(centre, inner, outer, 0, 0.5) + arc(centre, inner, outer, 0.5, 0.99999);
  }
  const large = to - from > 0.5 ? 1 : 0;
  const [a, b] = point(centre, outer, from);
  const [c, d] = point(centre, outer, to);
  const [e, f] = point(centre, inner, to);
  const [g, h] = point(centre, inner, from);
  return `M${a} ${b}A${outer} ${outer} 0 ${large} 1 ${c} ${d}L${e} ${f}A${inner} ${inner} 0 ${large} 0 ${g} ${h}Z`;
}

// holder is who has a run: who holds it, as far as that is known here, else for whom it is meant.
export function holder(run) {
  return run.owner || run.target;
}

// shares adds the runs up: for each member what it holds, what is meant for it, and how much of
// what it holds moves to others. By name.
export function shares(runs) {
  const all = new Map();
  const of = (name) => {
    if (!all.has(name)) all.set(name, { name, held: 0, target: 0, leaving: 0, coming: 0 });
    return all.get(name);
  };
  for (const run of runs) {
    const n = run.to - run.from + 1;
    if (holder(run)) of(holder(run)).held += n;
    if (run.target) of(run.target).target += n;
    if (run.moving) {
      of(holder(run)).leaving += n;
      of(run.target).coming += n;
    }
  }
  return [...all.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

// shareArcs are the outer ring's: a piece for each member, as long as its share, and where its
// label stands.
export function shareArcs(members, partitions) {
  let at = 0;
  return members
    .filter((m) => m.held > 0)
    .map((m) => {
      const from = at;
      at += m.held / partitions;
      return { name: m.name, from, to: at, moving: at - m.leaving / partitions, middle: (from + at) / 2 };
    });
}

// runPaths are the inner ring's: each run of partitions in its place. Runs of one member are one
// path, since there are thousands.
export function runPaths(runs, partitions, centre, inner, outer) {
  const held = new Map();
  let moving = "";
  for (const run of runs) {
    const path = arc(centre, inner, outer, run.from / partitions, (run.to + 1) / partitions);
    held.set(holder(run), (held.get(holder(run)) ?? "") + path);
    if (run.moving) moving += path;
  }
  return { held: [...held].map(([name, path]) => ({ name, path })), moving };
}

// summary is the picture in words.
export function summary(members, partitions, moving) {
  if (members.length === 0) return "The ring has no members.";
  const parts = members.map((m) => `${m.name || "nobody"} holds ${m.held} of ${partitions} partitions`);
  return parts.join(", ") + "; " + (moving > 0 ? `${moving} are moving.` : "none are moving.");
}
