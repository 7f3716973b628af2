import test from "node:test";
import assert from "node:assert/strict";
import { Series, drifted, matching, sorted, withEvent } from "../../page/rows.js";

test("equal rows keep their places, both ways round", () => {
  const rows = [{ n: 1, id: "a" }, { n: 2, id: "b" }, { n: 1, id: "c" }, { n: null, id: "d" }, { n: 2, id: "e" }];
  const ids = (down) => sorted(rows, (r) => r.n, down).map((r) => r.id).join("");
  assert.equal(ids(false), "dacbe");
  assert.equal(ids(true), "beacd");
  assert.equal(rows[0].id, "a");
});

test("a filter wants all its words, in any case, and takes none of them for a pattern", () => {
  const rows = ["order/A-1 lk-1", "order/b.2 lk-2", "<img src=x>"];
  const found = (filter) => matching(rows, filter, (r) => r);
  assert.deepEqual(found(" LK-1 order "), [rows[0]]);
  assert.deepEqual(found("."), [rows[1]]);
  assert.deepEqual(found("<IMG"), [rows[2]]);
  assert.deepEqual(found(""), rows);
});

test("events are newest first, each once, and not without end", () => {
  let all = [];
  const event = (node, id, second) => ({ node, id, time: `2026-01-01T00:00:${String(second).padStart(2, "0")}Z` });
  for (const e of [event("a", 1, 1), event("b", 1, 3), event("a", 2, 2), event("b", 1, 3), event("a", 3, 4)]) all = withEvent(all, e, 3);
  assert.deepEqual(all.map((e) => e.node + e.id), ["a3", "b1", "a2"]);
  // Nodes may write their times in other zones, and as many digits as they like.
  const zones = ["2026-01-01T01:00:00.5+01:00", "2026-01-01T00:00:00.25Z", "2026-01-01T00:00:00.125Z"].map((time, id) => ({ node: "a", id, time }));
  assert.deepEqual([...zones].reverse().reduce((list, e) => withEvent(list, e), []).map((e) => e.id), [0, 1, 2]);
  assert.deepEqual(zones.reduce((list, e) => withEvent(list, e), []).map((e) => e.id), [0, 1, 2]);
});

test("a chart has a gap where nothing was measured, and forgets what is old", () => {
  const s = new Series(10, 1);
  for (const t of [1, 2, 2, 1, 3, 8]) s.add(t, [t]);
  assert.deepEqual(s.columns, [[1, 2, 3, 4, 8], [1, 2, 3, null, 8]]);
  s.add(13, [13]);
  assert.deepEqual(s.columns[0], [3, 4, 8, 9, 13]);
});

test("drift is against the most, or else against the one who answers", () => {
  const of = (...configs) => configs.map((config, i) => ({ name: "n" + (i + 1), state: "alive", config }));
  assert.deepEqual([...drifted(of("a", "a", "b"), "n3")], ["n3"]);
  assert.deepEqual([...drifted(of("a", "b"), "n2")], ["n1"]);
  assert.deepEqual([...drifted(of("a", "a"), "n1")], []);
  const left = of("a", "b");
  left[1].state = "left";
  assert.deepEqual([...drifted(left, "n1")], []);
});
