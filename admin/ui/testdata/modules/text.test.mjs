import test from "node:test";
import assert from "node:assert/strict";
import { bytes, count, laneAddress, laneOfAddress, parseKey, percent, queryOfKey, rate, seconds, shorten, since, toType } from "../../page/text.js";

test("times have about three figures", () => {
  const want = [[0, "0 ms"], [0.0004, "0 ms"], [0.0018, "1.8 ms"], [0.00994, "9.94 ms"], [0.00996, "10 ms"], [0.412, "412 ms"], [0.9994, "999 ms"], [0.9996, "1.0 s"],
    [1.31, "1.3 s"], [31, "31 s"], [89.4, "89 s"], [90, "1 min 30 s"], [5399, "89 min 59 s"], [5400, "1 h 30 min"], [172800, "2 d 0 h"], [null, "–"], [undefined, "–"], [NaN, "–"]];
  for (const [given, text] of want) assert.equal(seconds(given), text, String(given));
  assert.equal(since("2026-01-01T00:00:00Z", Date.parse("2026-01-01T00:00:41Z")), "41 s");
  assert.equal(since("0001-01-01T00:00:00Z"), "–");
});

test("numbers that are not known are a dash, and 0 is 0", () => {
  assert.deepEqual([count(0), count(null), count(1234567), rate(0), rate(2184.4), rate(9.16), percent(342, 1026), percent(0, 0)], ["0", "–", "1,234,567", "0", "2,184", "9.2", "33 %", "–"]);
  assert.deepEqual([bytes(0), bytes(1023), bytes(1536), bytes(3 << 20)], ["0 B", "1023 B", "1.5 KiB", "3 MiB"]);
});

test("what is long keeps both ends", () => {
  assert.equal(shorten("a".repeat(40)), "a".repeat(40));
  const short = shorten("begin" + "x".repeat(90) + "end");
  assert.equal(short.length, 40);
  assert.match(short, /^beginx+…x+end$/);
});

// The API's keys are ASCII, with every other byte as %XX.
test("a key goes through an address and a query as the same bytes", () => {
  for (const key of ["A-1042", "a/b?c=d&e#f", "<img%20src=x%20onerror=alert(1)>", "%FF%00%25", "100%25", "+", "..", "%C3%A4"]) {
    const at = laneOfAddress(laneAddress("order", key));
    assert.deepEqual(at, { space: "order", key }, key);
    const query = queryOfKey(key);
    assert.doesNotMatch(query, /[&#+?<>"' ]/, key);
    const bytesOf = (text) => text.replace(/%[0-9A-F]{2}/g, (x) => String.fromCharCode(parseInt(x.slice(1), 16)));
    assert.equal(bytesOf(query), bytesOf(key), key);
  }
  for (const hash of ["", "#/", "#/lane?space=Order&key=x", "#/lane?space=order&key=", "#/lane?key=x&space=order"]) assert.equal(laneOfAddress(hash), null, hash);
});

test("a typed key is read as the command line reads it", () => {
  assert.equal(parseKey("order/A 1042"), "space=order&key=A%201042");
  assert.equal(parseKey(" order/100%"), "space=order&key=100%25");
  assert.equal(parseKey("order/a:b/c"), "space=order&key=a%3Ab%2Fc");
  assert.equal(parseKey("order:A%201042"), "space=order&key=A%201042");
  assert.equal(parseKey("order/\ud800x\u{1f600}"), "space=order&key=%EF%BF%BDx%F0%9F%98%80");
  assert.equal(parseKey("order:%FF"), "space=order&key=%FF");
  for (const bad of ["", "order", "order/", "Order/x", "order:A 1042", "order:100%", "order:ä"]) assert.equal(parseKey(bad), null, bad);
});

test("what has to be typed is never long", () => {
  assert.equal(toType("order/A-1042"), "order/A-1042");
  assert.equal(toType("order/" + "x".repeat(100) + "end").length, 12);
});
