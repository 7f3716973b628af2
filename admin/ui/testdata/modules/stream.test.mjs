import test from "node:test";
import assert from "node:assert/strict";
import { Reader, pause } from "../../page/stream.js";

const text = "retry: 2000\n\n:\n\nid: 7\nevent: status\ndata: {\"a\":1}\n\nevent: lanes\r\ndata: one\r\ndata: two\r\n\r\ndata:bare\r\rid: 8\nevent: never\n\nevent: x\ndata\n\n";
const want = [["status", '{"a":1}', "7"], ["lanes", "one\ntwo", "7"], ["message", "bare", "7"], ["x", "", "8"]];

function read(pieces) {
  const got = [];
  const reader = new Reader((...event) => got.push(event));
  pieces.forEach((piece) => reader.feed(piece));
  return [got, reader];
}

test("a stream is the same however it is cut", () => {
  for (let size = 1; size <= text.length; size++) {
    const pieces = [];
    for (let at = 0; at < text.length; at += size) pieces.push(text.slice(at, at + size));
    const [got, reader] = read(pieces);
    assert.deepEqual(got, want, "pieces of " + size);
    assert.equal(reader.retry, 2000);
    assert.equal(reader.lastID, "8");
  }
});

test("what is not finished is not told", () => {
  assert.deepEqual(read(["event: status\ndata: {"])[0], []);
  assert.deepEqual(read(["event: status\ndata: {}\n"])[0], []);
});

test("tries get rarer, and never rare", () => {
  assert.deepEqual([0, 1, 2, 3, 50].map((n) => pause(n, 2000)), [2000, 4000, 8000, 10000, 10000]);
});
