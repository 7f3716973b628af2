// The dashboard in a real browser, in front of a real cluster, and of a fake one for what a real
// one rarely is. Started by TestDashboard, which says in STAGE where everything is. Every scenario
// also fails by an error in the console, an exception, or anything the policy had to stop.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { AsyncLocalStorage } from "node:async_hooks";
import fs from "node:fs";
import net from "node:net";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { Fake, event, healthy, hostile, key, lane, ring, three } from "./fake.mjs";

const stage = JSON.parse(process.env.STAGE);
const shots = process.env.UI_SHOTS;
const axeSource = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const patience = 15000;

const browser = await chromium.launch({ executablePath: stage.chromium, args: ["--no-sandbox", "--force-color-profile=srgb"] });
const running = new AsyncLocalStorage(); // the pages of the scenario that runs

// visit opens a page whose complaints are kept. allowed are those that the scenario is about.
async function visit(url, { width = 1280, scheme = "light", allowed = [] } = {}) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme, reducedMotion: "reduce" });
  const page = await context.newPage();
  page.setDefaultTimeout(patience);
  page.complaints = [];
  const complain = (text) => allowed.some((a) => a.test(text)) || page.complaints.push(text);
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && complain(m.text()));
  page.on("pageerror", (error) => complain(String(error)));
  page.on("dialog", (dialog) => (complain("dialog: " + dialog.message()), dialog.dismiss()));
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (e) => window.violations.push(e.violatedDirective + " " + e.blockedURI));
    window.shifts = [];
    new PerformanceObserver((list) => list.getEntries().forEach((e) => e.hadRecentInput || e.sources.every((s) => s.node?.parentElement?.closest("tbody")) || window.shifts.push(e.value.toFixed(5) + " of " + e.sources.map((s) => s.node?.outerHTML?.slice(0, 80) ?? s.node?.textContent).join(" | ")))).observe({ type: "layout-shift", buffered: true });
  });
  running.getStore().add(page);
  await page.goto(url);
  return page;
}

async function leave(page) {
  assert.deepEqual(await page.evaluate(() => window.violations), [], "violations of the policy");
  assert.deepEqual(page.complaints, [], "complaints of the page");
  running.getStore().delete(page);
  await page.context().close();
}

const live = (page) => page.locator(".link.live").waitFor();
const until = async (what, is) => {
  for (const end = Date.now() + patience; ; await new Promise((go) => setTimeout(go, 50))) {
    if (await is()) return;
    assert.ok(Date.now() < end, "in vain: " + what);
  }
};
const panel = (page, title) => page.locator("section.panel", { has: page.getByRole("heading", { name: title }) });
const shot = async (page, name) => shots && page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });

// shortened is how a link writes a key.
const shortened = (name) => (name.length <= 44 ? name : name.slice(0, 29) + "…" + name.slice(-14));

// send lets a request go its way; it is answered or not as the scenario goes on.
const send = (path, { to = 0, body = "" } = {}) => fetch(stage.targets[to] + path, { method: "POST", body }).then(async (r) => ({ status: r.status, text: await r.text() }));

// release lets the service answer what it keeps; what then has its turn is kept as well.
const release = (done) => until("the service's answers", async () => done() || void (await fetch(stage.service + "/.release", { method: "POST" })));

// relay is a way to a node that can be cut.
function relay(to) {
  const sockets = new Set();
  const { hostname, port } = new URL(to);
  const server = net.createServer((near) => {
    const far = net.connect(port, hostname);
    for (const s of [near, far]) {
      sockets.add(s);
      s.on("close", () => sockets.delete(s));
      s.on("error", () => {});
    }
    near.pipe(far).pipe(near);
  });
  return new Promise((go) => server.listen(0, "127.0.0.1", () => go({
    url: `http://127.0.0.1:${server.address().port}`,
    cut: () => sockets.forEach((s) => s.destroy()),
    stop: () => (sockets.forEach((s) => s.destroy()), server.close()),
  })));
}

// audit asks axe. It runs in a world of its own, which the policy does not reach.
async function audit(page, what) {
  await page.evaluate(axeSource + "; undefined");
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const grave = violations.filter((v) => ["serious", "critical"].includes(v.impact));
  assert.deepEqual(grave.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ") + " " + n.failureSummary).join("; ")}`), [], "axe: " + what);
}

async function fits(page, what) {
  const [wide, has] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= has, `${what}: the page is ${wide} wide, the window ${has}`);
}

// confirm types what the dialog asks for.
async function confirm(page, verb, reason) {
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  const go = dialog.getByRole("button", { name: verb, exact: true });
  assert.ok(await go.isDisabled(), "nothing was typed yet");
  if (reason) await dialog.getByLabel("Reason, for the log").fill(reason);
  await dialog.locator("[name=word]").fill((await dialog.locator(".word").textContent()) + "x");
  assert.ok(await go.isDisabled(), "what was typed is wrong");
  await dialog.locator("[name=word]").fill(await dialog.locator(".word").textContent());
  await go.click();
  await dialog.waitFor({ state: "detached" });
}

// Those of the real cluster run one after the other, and so do, beside them, those of the fake one.
const real = {
  async "every panel shows the real cluster"() {
    const page = await visit(stage.admins[0] + "/ui");
    assert.equal(new URL(page.url()).pathname, "/ui/");
    await live(page);
    const tile = (title) => page.locator(".tile", { hasText: title }).locator("strong");
    await until("requests each second", async () => parseFloat((await tile("Requests/s").textContent()).replace(",", "")) > 1);
    await until("three members", async () => (await tile("Members").textContent()) === "3");
    const picture = page.getByRole("img", { name: /partitions/ });
    await until("the ring is settled", async () => /^n1 holds \d+ of 4096 partitions, n2 .*, n3 .*none are moving\.$/.test(await picture.getAttribute("aria-label")));
    const holds = await panel(page, "Ring").locator("tbody td:nth-child(2)").allTextContents();
    assert.equal(holds.reduce((n, text) => n + Number(text.replace(",", "")), 0), 4096);
    await until("latencies", async () => (await page.locator(".readout b").allTextContents()).every((text) => / m?s$/.test(text)));
    assert.equal(await panel(page, "Members").locator("tbody tr").count(), 3);
    await until("what waits at each", async () => (await panel(page, "Members").locator("tbody td:nth-child(4)").allTextContents()).every((text) => /^\d+$/.test(text)));
    await until("events of all nodes", async () => new Set(await panel(page, "Events").locator("td:nth-child(2)").allTextContents()).size === 3);
    await until("lanes", async () => (await panel(page, "Lanes and keys").locator("tbody tr").count()) > 0);
    await page.locator(".tabs").getByRole("button", { name: /^Hot keys/ }).click();
    await until("keys", async () => (await panel(page, "Lanes and keys").locator("tbody tr").count()) > 0);
    await until("the chart is drawn", () => page.locator(".canvas canvas").first().evaluate((c) => c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)));
    await shot(page, "real-light-1280");
    await leave(page);
  },

  // Within a table's body rows change places, and numbers are as long as they are.
  async "nothing moves from second to second"() {
    const page = await visit(stage.admins[0] + "/ui/");
    await live(page);
    await page.locator(".ring").waitFor();
    const points = () => page.evaluate(() => document.querySelector(".readout b").textContent);
    await until("latencies", async () => (await points()) !== "–");
    await page.evaluate(() => (window.shifts = []));
    let changes = 0, before = await page.locator(".numbers").textContent();
    await until("numbers that change", async () => {
      const now = await page.locator(".numbers").textContent();
      if (now !== before) (changes++, (before = now));
      return changes >= 4;
    });
    assert.deepEqual(await page.evaluate(() => window.shifts), []);
    await leave(page);
  },

  async "each number says what it is, by mouse and keyboard"() {
    const page = await visit(stage.admins[0] + "/ui/");
    await live(page);
    for (const hint of await page.locator(".tile .hint").all()) {
      await hint.focus();
      assert.match(await page.getByRole("tooltip").textContent(), /^.{20,}lanekeeper_[a-z_]+$/);
    }
    await page.keyboard.press("Escape");
    assert.equal(await page.getByRole("tooltip").count(), 0);
    await page.locator(".lanes-table .hint").last().hover();
    const box = await page.getByRole("tooltip").boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 1280, "the tip is in the window");
    await leave(page);
  },

  async "locate says what the command says"() {
    const page = await visit(stage.admins[0] + "/ui/");
    await live(page);
    for (const name of ["order/load-1", "order/a b/%", "order:a%20b%FF"]) {
      await page.getByLabel("Space and key").fill(name);
      await page.getByRole("button", { name: "Locate", exact: true }).click();
      const said = execFileSync(stage.cli, ["locate", name, "--admin", stage.admins[0]], { env: { ...process.env, ...stage.env }, encoding: "utf8" });
      // The lane's numbers have changed meanwhile; where it is has not.
      const facts = (text) => text.split("\n").map((line) => line.trim().split(/\s+/)).filter(([name]) => ["partition", "owner"].includes(name)).map((words) => words.join(" "));
      await until("the same answer", async () => {
        const rows = await page.locator(".located dl > div").evaluateAll((all) => all.map((row) => [...row.children].map((c) => c.textContent).join(" ")).join("\n"));
        return facts(rows).length === 2 && facts(rows).join("|") === facts(said).join("|");
      });
    }
    await page.getByLabel("As if this one had left").selectOption("n2");
    await page.getByRole("button", { name: "Locate", exact: true }).click();
    await page.locator(".located", { hasText: "without n2" }).waitFor();
    await page.getByLabel("Space and key").fill("nonsense");
    await page.keyboard.press("Enter");
    await panel(page, "Locate a key").getByRole("alert").filter({ hasText: "Write SPACE/KEY" }).waitFor();
    await leave(page);
  },

  async "a lane is held and released, by keyboard alone"() {
    const page = await visit(stage.admins[1] + "/ui/#/lane?space=order&key=held-here");
    await page.getByRole("heading", { name: "order/held-here" }).waitFor();
    await page.getByText("No request of this key waits or runs.").waitFor();
    // tab goes on until the thing that has the focus is meant.
    const tab = async (name) => {
      for (let i = 0; i < 60; i++) {
        await page.keyboard.press("Tab");
        if ((await page.evaluate(() => document.activeElement.textContent)) === name) return;
      }
      assert.fail("no Tab reaches " + name);
    };
    const type = async (reason) => {
      await page.getByRole("dialog").waitFor();
      const word = await page.locator(".word").textContent();
      await page.keyboard.press("Tab");
      if (!(await page.evaluate(() => document.activeElement.name === "reason"))) await page.locator("[name=reason]").focus();
      await page.keyboard.type(reason);
      await page.keyboard.press("Tab");
      await page.keyboard.type(word);
      await page.keyboard.press("Enter");
      await page.getByRole("dialog").waitFor({ state: "detached" });
    };
    await page.evaluate(() => document.getElementById("main").focus());
    await tab("Hold");
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Hold", "the focus is where it was");
    await page.keyboard.press("Enter");
    await type("looking at it");
    await page.getByText("An operator holds it for").filter({ hasText: "looking at it" }).waitFor();
    let answered = null;
    send("/orders/held-here/x").then((answer) => (answered = answer));
    await until("a ticket that waits", async () => (await page.locator(".lane-page tbody tr").count()) === 1);
    assert.equal(answered, null);
    await shot(page, "real-lane-held-1280");
    await page.evaluate(() => document.getElementById("main").focus());
    await tab("Release");
    await page.keyboard.press("Enter");
    await type("seen");
    await until("an answer", () => answered);
    assert.equal(answered.status, 200);
    await leave(page);
  },

  async "one waiting request is cancelled, and the others keep their places"() {
    const answers = [];
    for (let i = 0; i < 3; i++) {
      send("/orders/stuck-cancel/x").then((answer) => (answers[i] = answer));
      await until("its ticket", async () => {
        const { tickets } = await (await fetch(stage.admins[0] + "/api/v1/lanes/order/stuck-cancel")).json();
        return tickets.length === i + 1;
      });
    }
    const page = await visit(stage.admins[0] + "/ui/");
    await live(page);
    await page.getByRole("searchbox", { name: "Filter lanes and keys" }).fill("stuck-cancel");
    await page.getByRole("link", { name: "order/stuck-cancel" }).first().click();
    await until("three tickets", async () => (await page.locator(".lane-page tbody tr").count()) === 3);
    assert.deepEqual(await page.locator(".lane-page tbody td:nth-child(1)").allTextContents(), ["0", "1", "2"]);
    await page.locator(".why li").first().waitFor();
    await shot(page, "real-lane-1280");
    await page.getByRole("button", { name: /^Cancel ticket/ }).first().click();
    await confirm(page, "Cancel it", "tidy");
    await until("its answer", () => answers[1]);
    assert.equal(answers[1].status, 503);
    assert.match(answers[1].text, /lane-cancelled/);
    await until("two tickets", async () => (await page.locator(".lane-page tbody tr").count()) === 2);
    await page.getByText(/cancel of order\/stuck-cancel is done/).waitFor();
    assert.equal(answers[0] ?? answers[2], undefined);
    await release(() => answers[0] && answers[2]);
    assert.deepEqual([answers[0].status, answers[2].status], [200, 200]);
    await page.getByRole("link", { name: "← All lanes" }).click();
    await page.getByRole("heading", { name: "Ring" }).waitFor();
    await leave(page);
  },

  async "a halted lane is resumed"() {
    assert.equal((await send("/halting/h-1/x", { body: "fail" })).status, 503);
    const waits = send("/halting/h-1/x", { to: 1, body: "later" });
    const page = await visit(stage.admins[2] + "/ui/");
    await live(page);
    const row = page.locator("tr", { has: page.getByRole("link", { name: "halting/h-1" }) });
    await row.getByText("halted").waitFor();
    await until("it is counted", async () => (await page.locator(".tile", { hasText: "Halted lanes" }).locator("strong").textContent()) === "1");
    await row.getByRole("link").click();
    await page.locator(".facts").getByText("halted").waitFor();
    await page.getByRole("button", { name: "Resume", exact: true }).click();
    await confirm(page, "Resume", "looked at");
    assert.deepEqual(await waits, { status: 200, text: "later" });
    await until("it is idle", async () => /idle|ok/.test(await page.locator(".facts").textContent()));
    await leave(page);
  },

  async "a member is drained, and is one again"() {
    const page = await visit(stage.admins[0] + "/ui/");
    await live(page);
    const row = panel(page, "Members").locator("tr", { hasText: "n3" });
    await row.getByRole("button", { name: "Drain n3" }).click();
    await confirm(page, "Drain");
    await row.getByText("draining", { exact: true }).waitFor();
    await until("it holds nothing", async () => /^n1 holds \d+ of 4096 partitions, n2 holds \d+ of 4096 partitions; none/.test(await page.getByRole("img", { name: /partitions/ }).getAttribute("aria-label")));
    await row.getByRole("button", { name: "Undrain n3" }).click();
    await confirm(page, "Undrain");
    await row.getByText("alive", { exact: true }).waitFor();
    await until("it has its share", async () => /n3 holds \d+.*none are moving/.test(await page.getByRole("img", { name: /partitions/ }).getAttribute("aria-label")));
    await panel(page, "Events").getByText("drain-undone").first().waitFor();
    await leave(page);
  },

  async "a reload that failed is said until one succeeds"() {
    const page = await visit(stage.admins[0] + "/ui/");
    await live(page);
    const file = stage.files[1], text = fs.readFileSync(file, "utf8");
    fs.writeFileSync(file, text.replace("log: {keys: plain}", "log: {keys: plane}"));
    const reload = () => fetch(stage.admins[1] + "/api/v1/reload", { method: "POST" });
    assert.notEqual((await reload()).status, 200);
    await page.locator("#banner.warn", { hasText: "n2 did not reload" }).waitFor();
    await shot(page, "real-banner-1280");
    fs.writeFileSync(file, text);
    assert.equal((await reload()).status, 200);
    await page.locator("#banner.good").waitFor();
    await leave(page);
  },

  async "a token is asked for once, and a wrong one again"() {
    const page = await visit(stage.guarded + "/ui/", { allowed: [/401/] });
    const dialog = page.getByRole("dialog");
    await dialog.getByText("The node asks for a token.").waitFor();
    await page.keyboard.press("Escape");
    assert.ok(await dialog.isVisible());
    await audit(page, "token");
    await dialog.getByLabel("Token").fill("wrong");
    await page.keyboard.press("Enter");
    await dialog.getByText("The node does not know this token.").waitFor();
    await dialog.getByLabel("Token").fill(stage.token);
    await page.keyboard.press("Enter");
    await dialog.waitFor({ state: "detached" });
    await live(page);
    await page.getByText("One node has all keys").or(page.getByRole("img", { name: /partitions/ })).first().waitFor();
    assert.equal(await page.evaluate((token) => JSON.stringify({ ...localStorage, ...sessionStorage }).includes(token) || document.cookie.includes(token), stage.token), false);
    await page.reload();
    await dialog.getByText("The node asks for a token.").waitFor();
    await leave(page);
  },

  async "a stream that breaks is taken up again"() {
    const way = await relay(stage.admins[0]);
    const page = await visit(way.url + "/ui/", { allowed: [/ERR_/] });
    await live(page);
    way.cut();
    await page.locator("#banner.bad", { hasText: "No live data" }).waitFor();
    await page.locator("#banner.good").waitFor();
    await live(page);
    const before = await panel(page, "Events").locator("tbody tr").count();
    assert.ok(before > 0);
    const seen = await panel(page, "Events").locator("tbody tr").evaluateAll((rows) => rows.map((r) => r.querySelector("time").dateTime + r.textContent));
    assert.equal(new Set(seen).size, seen.length, "no event twice");
    way.stop();
    await page.context().close();
    running.getStore().delete(page);
    assert.deepEqual(page.complaints, []);
  },

  async "hostile keys of real requests are text"() {
    const names = ["<img src=x onerror=document.title=1>", "<img/src=x/onerror=document.title=1>", "<script>document.title=2</script>", "' onmouseover='document.title=3", "\u202Egnp.exe\u0000"];
    const answers = names.map((name) => send("/orders/" + encodeURIComponent("stuck" + name) + "/x"));
    const page = await visit(stage.admins[1] + "/ui/");
    await live(page);
    for (const name of names) {
      const escaped = [...new TextEncoder().encode("stuck" + name)].map((b) => (b > 0x20 && b < 0x7f && b !== 0x25 ? String.fromCharCode(b) : "%" + b.toString(16).toUpperCase().padStart(2, "0"))).join("");
      const link = page.locator(`a.key[title=${JSON.stringify("order/" + escaped)}]`).first();
      assert.equal(await link.textContent(), shortened("order/" + escaped));
      await link.hover();
      await link.click();
      await page.getByRole("heading", { name: "order/" + escaped, exact: true }).waitFor();
      await until("its ticket", async () => (await page.locator(".lane-page tbody tr").count()) === 1);
      await page.getByRole("button", { name: "Hold", exact: true }).click();
      await page.getByRole("dialog").getByRole("button", { name: "Leave it" }).click();
      await page.getByRole("link", { name: "← All lanes" }).click();
    }
    let ended = 0;
    answers.forEach((answer) => answer.then(() => ended++));
    await release(() => ended === answers.length);
    assert.equal(await page.title(), "lanekeeper");
    assert.equal(await page.locator("img, #page script").count(), 0);
    await leave(page);
  },

  async "a node that stands still is named, and what it has is not known"() {
    let lane = 0;
    while ((await (await fetch(`${stage.admins[0]}/api/v1/locate?space=order&key=${lane}`)).json()).owner !== "n3") lane++;
    const page = await visit(`${stage.admins[0]}/ui/#/lane?space=order&key=${lane}`);
    await page.getByText("No request of this key waits or runs.").waitFor();
    // Two of three, for alone a node is slow to take another one for dead.
    const both = (signal) => stage.pids.slice(1).forEach((pid) => process.kill(pid, signal));
    both("SIGSTOP");
    try {
      await page.locator("#banner.warn", { hasText: "n3 did not answer" }).waitFor();
      await page.locator(".why", { hasText: "n3, which has the key, does not answer n1" }).waitFor();
      await page.locator(".facts").getByText("unknown").waitFor();
      assert.equal(await page.getByText("No request of this key waits or runs.").count(), 0);
      await shot(page, "real-silent-1280");
    } finally {
      both("SIGCONT");
    }
    await page.locator("#banner.good").waitFor();
    await leave(page);
  },
};

const faked = {
  async "a page that is not looked at reads nothing"() {
    const page = await visit(fake.url + "/ui/");
    await live(page);
    await until("one stream", () => fake.streams.size === 1);
    const see = (hidden) => page.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
    await see(true);
    await until("no stream", () => fake.streams.size === 0);
    await see(false);
    await until("a stream again", () => fake.streams.size === 1);
    await live(page);
    await leave(page);
  },

  async "a fake stream is dropped, refused and resumed"() {
    fake.state.events = [event(1), event(2), event(3)];
    const page = await visit(fake.url + "/ui/", { allowed: [/503|ERR_/] });
    await live(page);
    fake.refuse = true;
    fake.drop();
    await page.locator("#banner.bad", { hasText: "Others follow already: 32 streams are open" }).waitFor();
    fake.refuse = false;
    await live(page);
    assert.equal(fake.asked.filter((a) => a.url.includes("stream=")).at(-1).last, "3");
    assert.equal(await panel(page, "Events").locator("tbody tr").count(), 3);
    fake.state.events = [];
    await leave(page);
  },

  async "a page can be paused, sorted and filtered"() {
    fake.state.lanes = { lanes: [...Array(500).keys()].map((i) => lane(i)), keys: [...Array(40).keys()].map((i) => key(i)), silent: [] };
    let rates = 0;
    fake.state.numbers = (time) => ({ ...healthy(time), rate: ++rates });
    const page = await visit(fake.url + "/ui/");
    await live(page);
    const lanes = panel(page, "Lanes and keys");
    await until("500 lanes", async () => (await lanes.locator("tbody tr").count()) === 500);
    const first = () => lanes.locator("tbody tr").first().getByRole("link").textContent();
    assert.equal(await first(), "order/A-1000");
    const head = lanes.getByRole("columnheader", { name: "Head age" });
    await head.getByRole("button").click();
    assert.equal(await head.getAttribute("aria-sort"), "descending");
    assert.equal(await first(), "order/A-1499");
    await head.getByRole("button").press("Enter");
    assert.equal(await head.getAttribute("aria-sort"), "ascending");
    assert.equal(await first(), "order/A-1000");
    await lanes.getByRole("searchbox").fill("a-12 LK-1");
    await until("those that match", async () => (await lanes.locator("tbody tr").count()) === 33);
    await lanes.getByRole("searchbox").fill("");
    await panel(page, "Ring").getByRole("button", { name: "lk-2" }).click();
    await until("only lk-2's", async () => (await lanes.locator("tbody tr").count()) === 166);
    await panel(page, "Ring").getByRole("button", { name: /only lk-2/ }).click();

    await lanes.getByRole("button", { name: "Pause lanes and keys" }).click();
    fake.state.lanes = { lanes: [lane(7)], keys: [], silent: [] };
    await until("newer numbers", async () => rates > 6 && true);
    assert.equal(await lanes.locator("tbody tr").count(), 500);
    await lanes.getByRole("button", { name: "Pause lanes and keys" }).click();
    await until("the newest lanes", async () => (await lanes.locator("tbody tr").count()) === 1);

    await page.locator(".top").getByRole("button", { name: "Pause" }).click();
    const rate = () => page.locator(".tile strong").first().textContent();
    const before = await rate(), then = rates;
    await until("seconds that pass", () => rates >= then + 2);
    assert.equal(await rate(), before);
    await page.locator(".top").getByRole("button", { name: "Go on" }).click();
    await until("newer numbers", async () => Number(await rate()) > Number(before) + 1);
    await leave(page);
  },

  async "rings: none, one member, three with a move, nine"() {
    const page = await visit(fake.url + "/ui/");
    await live(page);
    const show = (r) => fake.tell("ring", r);
    show({ ...ring(["lk-0"]), runs: [], partitions: 0 });
    await page.getByText("One node has all keys: there is no ring.").waitFor();
    show({ ...ring(["lk-0"]), runs: [{ from: 0, to: 4095, owner: "lk-0", target: "lk-0", moving: false }] });
    await page.getByRole("img", { name: "lk-0 holds 4096 of 4096 partitions; none are moving." }).waitFor();
    show(ring(["lk-0", "lk-1", "lk-2"], 3));
    await page.getByRole("img", { name: /; 4\d\d are moving\.$/ }).waitFor();
    assert.ok((await page.locator(".ring [fill='url(#moving)']").count()) >= 2);
    if (shots) await panel(page, "Ring").screenshot({ path: shots + "/ring-moving.png" });
    show(ring([..."abcdefghi"].map((c) => "node-" + c)));
    await until("nine shares", async () => (await page.locator(".ring .share").count()) === 9);
    if (shots) await panel(page, "Ring").screenshot({ path: shots + "/ring-nine.png" });
    await page.locator(".ring .share path").first().click({ position: { x: 60, y: 20 }, force: true });
    await panel(page, "Ring").getByRole("button", { name: /^only node-/ }).click();
    await leave(page);
  },

  async "all that can be amiss, in each size and colour, to eye and ear"() {
    const drift = three();
    drift.members[2] = { ...drift.members[2], state: "draining", config: "77ab01ffeeddccbb", version: "1.3.9", owned: 341, target: 0 };
    const amiss = (time) => ({
      ...healthy(time), ready: 1, held: 2, stopped: 1, halted: 1, hot: 2, violations: 3, unknown: 2, draining: 1,
      warnings: ["lk-1 did not answer: no answer in 1s", "the order was seen broken 3 times", "lk-0 did not reload its configuration: lk.yaml:41:7: error: routes[2].lane.tiemout: unknown field", "lk-0 has no lease from the coordinator, and refuses strict requests: etcd at etcd-0:2379: context deadline exceeded"],
      silent: [{ node: "lk-1", why: "no answer in 1s" }],
    });
    const ticket = (i, more) => ({ ticket: "0197f3a2-77aa-7000-8000-00000000" + (1000 + i), position: i, state: i ? "waiting" : "running", seconds: 1.2, age_seconds: 1.9 - i / 10, class: i === 2 ? "shared" : "exclusive", route: "order", bytes: 512 * i, ingress: "lk-" + (i % 3), client: "10.2.0." + i, trace: i ? "" : "4bf92f3577b34da6a3ce929d0e0e4736", lent_to: "", held_seconds_left: null, ...more });
    fake.state = {
      numbers: amiss, members: drift, ring: ring(["lk-0", "lk-1", "lk-2"], 2),
      lanes: { lanes: [...hostile.map((k, i) => lane(i, { key: k, state: ["halted", "held", "blocked", "drained", "spilled", "hot", "ok", "ok"][i] })), ...[...Array(8).keys()].map((i) => lane(i + 9))], keys: hostile.map((k, i) => key(i, { key: k, state: i ? "ok" : "hot", action: i ? "" : "spill" })), silent: [] },
      events: hostile.map((k, i) => event(i + 1, { message: "a lane is halted", event: "lane-halted", level: ["INFO", "WARN", "ERROR"][i % 3], attributes: { key: k, cause: "the upstream answered 503" } })),
      answers: {
        status: { nodes: [] },
        unknown: { node: "lk-0", unknown: hostile.slice(0, 2).map((k, i) => ({ id: i + 1, time: "2026-01-01T12:00:00Z", ticket: "0197f3a2-77aa-7000-8000-000000001000", space: "order", key: k, route: "order", method: "POST", node: "lk-1", owner: "lk-1", slug: "upstream-timeout", detail: "no answer in 30s" })), missed: 0, next: 2, silent: [{ node: "lk-1", why: "no answer in 1s" }] },
        "lanes/show": { ...lane(0, { key: hostile[0], state: "halted", cause: "the upstream answered 503", hold: { reason: hostile[1], seconds: 31 } }), partition: 417, partitions: 4096, owner: "lk-0", epoch: 12, tickets: [0, 1, 2, 3].map((i) => ticket(i, {})), more: 0, spilled: [], silent: [{ node: "lk-1", why: "no answer in 1s" }] },
        why: { text: ["order/" + hostile[0] + " is in partition 417 of 4096, which is lk-0's (epoch 12).", "Its lane is halted; 3 requests wait.", "A request failed: the upstream answered 503. Look at what it did, then resume, skip or fail."], reasons: [] },
      },
    };
    for (const [scheme, width] of [["light", 1280], ["dark", 1280], ["light", 360], ["dark", 360]]) {
      const page = await visit(fake.url + "/ui/", { scheme, width });
      await live(page);
      const amissBanner = page.locator("#banner.bad");
      await amissBanner.getByText("has no lease from the coordinator").waitFor();
      for (const text of ["did not answer", "seen broken 3 times", "another configuration", "did not reload"]) assert.equal(await amissBanner.getByText(text).count(), 1, text);
      await until("hostile lanes", async () => (await page.locator(".lanes-table tbody tr").count()) === 16);
      await panel(page, "Members").getByText("✗ differs").waitFor();
      await panel(page, "Members").getByText("silent").waitFor();
      await panel(page, "Unknown outcomes").getByText("lk-1 did not answer").waitFor();
      if (shots) await until("a few points", () => page.evaluate(() => performance.now() > 2500));
      await fits(page, "overview " + width);
      await audit(page, `overview ${scheme} ${width}`);
      await shot(page, `amiss-${scheme}-${width}`);
      await page.getByRole("link", { name: "order/" + hostile[0] }).first().click();
      await until("tickets", async () => (await page.locator(".lane-page tbody tr").count()) === 4);
      await fits(page, "lane " + width);
      await audit(page, `lane ${scheme} ${width}`);
      await shot(page, `lane-${scheme}-${width}`);
      if ((scheme === "light") === (width === 1280)) {
        await page.getByRole("button", { name: "Skip" }).click();
        await page.getByRole("dialog").waitFor();
        await audit(page, `dialog ${scheme} ${width}`);
        await shot(page, `dialog-${scheme}-${width}`);
      }
      assert.equal(await page.title(), "lanekeeper");
      assert.equal(await page.locator("img, #page script").count(), 0);
      await leave(page);
    }
  },

  async "colours follow the system, or what was chosen"() {
    const page = await visit(fake.url + "/ui/", { scheme: "dark" });
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await ground();
    await page.getByLabel("Colours").selectOption("light");
    const light = await ground();
    assert.notEqual(light, dark);
    await page.reload();
    await page.getByLabel("Colours").waitFor();
    assert.equal(await ground(), light);
    await leave(page);
  },
};

const fake = await new Fake(stage.admins[0]).start();
const wanted = process.env.UI_ONLY ?? "";
let failed = 0, passed = 0;

async function runAll(scenarios) {
  for (const [name, run] of Object.entries(scenarios)) {
    if (!name.includes(wanted)) continue;
    const began = Date.now(), pages = new Set();
    try {
      await running.run(pages, run);
      passed++;
      console.log(`ok ${name} (${Date.now() - began} ms)`);
    } catch (error) {
      failed++;
      console.log(`not ok ${name}\n${error.stack}`);
      for (const page of pages) {
        console.log("complaints: " + JSON.stringify(page.complaints));
        if (shots) await page.screenshot({ path: `${shots}/failed-${failed}.png` }).catch(() => {});
        await page.context().close().catch(() => {});
      }
    }
  }
}
await Promise.all([runAll(real), runAll(faked)]);
await fake.stop();
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);
