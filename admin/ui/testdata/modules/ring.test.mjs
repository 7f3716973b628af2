import test from "node:test";
import assert from "node:assert/strict";
import { Styles, arc, colourOf, patternOf, point, runPaths, shareArcs, shares, summary } from "../../page/ring.js";

const runs = [
  { from: 0, to: 3, owner: "a", target: "a", moving: false },
  { from: 4, to: 5, owner: "a", target: "b", moving: true },
  { from: 6, to: 8, owner: "b", target: "b", moving: false },
  { from: 9, to: 9, owner: "", target: "b", moving: false },
];

test("shares count each partition once, at who holds it", () => {
  assert.deepEqual(shares(runs), [
    { name: "a", held: 6, target: 4, leaving: 2, coming: 0 },
    { name: "b", held: 4, target: 6, leaving: 0, coming: 2 },
  ]);
  assert.equal(summary(shares(runs), 10, 2), "a holds 6 of 10 partitions, b holds 4 of 10 partitions; 2 are moving.");
  assert.equal(summary([], 0, 0), "The ring has no members.");
});

test("arcs go once round, and what moves is a part of its holder's", () => {
  const arcs = shareArcs(shares(runs), 10);
  assert.deepEqual(arcs.map((a) => [a.name, a.from, +a.to.toFixed(9), +a.moving.toFixed(9)]), [["a", 0, 0.6, 0.4], ["b", 0.6, 1, 1]]);
});

test("a quarter is where a clock has it", () => {
  assert.deepEqual([point(200, 100, 0), point(200, 100, 0.25), point(200, 100, 0.5)], [[200, 100], [300, 200], [200, 300]]);
  assert.equal(arc(200, 50, 100, 0, 0.25), "M200 100A100 100 0 0 1 300 200L250 200A50 50 0 0 0 200 150Z");
  assert.match(arc(200, 50, 100, 0, 0.75), /A100 100 0 1 1/);
});

test("one member's ring is whole", () => {
  assert.equal(arc(200, 50, 100, 0, 1).match(/M/g).length, 2);
  const { held, moving } = runPaths(runs, 10, 200, 92, 120);
  assert.deepEqual(held.map((h) => [h.name, h.path.match(/M/g).length]), [["a", 2], ["b", 2]]);
  assert.equal(moving.match(/M/g).length, 1);
});

test("members keep their style, and the first 42 differ", () => {
  const styles = new Styles();
  styles.know(["c", "b", "a"]);
  const before = styles.of("c");
  styles.know(["a", "0", "c"]);
  assert.equal(styles.of("c"), before);
  const seen = new Set();
  for (let i = 0; i < 42; i++) {
    const style = styles.of("m" + i);
    seen.add(colourOf(style) + patternOf(style));
  }
  assert.equal(seen.size, 42);
});
