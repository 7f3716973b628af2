// The deepest lanes and the hot keys; and the page of one lane: its tickets in order, why they
// wait, and what can be done about it.

import { html, useState } from "../vendor/preact.js";
import { get, lanes, only, post } from "./live.js";
import { Filter, Head, Hint, LaneLink, Member, OnlyChip, Panel, State, Toggle, confirming, useEach, useFrozen } from "./parts.js";
import { matching, sorted } from "./rows.js";
import { bytes, count, dash, queryOfLane, rate, seconds, shorten } from "./text.js";

const laneColumns = [
  { id: "key", title: "Key", kind: "wide", value: (l) => l.space + "/" + l.key, says: "Space and key, as Lanekeeper-Key writes them.", show: (l) => html`<${LaneLink} space=${l.space} lane=${l.key} />` },
  { id: "node", title: "Owner", value: (l) => l.node, says: "The node that has the lane.", show: (l) => html`<${Member} name=${l.node} />` },
  { id: "state", title: "State", value: (l) => l.state, says: "halted: after a failure, until an operator says so. held: after an upstream timeout, or by an operator. blocked: a former owner still runs a request.", show: (l) => html`<${State} state=${l.state} />` },
  { id: "waiting", title: "Waiting", kind: "number", value: (l) => l.waiting, says: "Requests that wait in the lane.", metric: "lanekeeper_lane_depth_max", show: (l, most) => html`<span class="bar"><meter min="0" max=${Math.max(most, 1)} value=${l.waiting} aria-hidden="true"></meter>${count(l.waiting)}</span>` },
  { id: "head", title: "Head age", kind: "number", value: (l) => l.head_age_seconds, says: "For how long the request has run, or waited, that all others wait for. It explains a stuck lane.", metric: "lanekeeper_lane_oldest_wait_seconds", show: (l) => (l.head_ticket ? seconds(l.head_age_seconds) : "–") },
  { id: "estimate", title: "Est. wait", kind: "number", value: (l) => l.wait_seconds_estimate, says: "What a request that came now would wait: the depth, times what a turn takes.", metric: "lanekeeper_lane_wait_seconds", show: (l) => seconds(l.wait_seconds_estimate) },
];

const keyColumns = [
  laneColumns[0],
  { ...laneColumns[1], title: "At", says: "The node that says so." },
  { id: "state", title: "State", value: (k) => k.state, says: "hot: by the rule of its route. spilled: its turn is lent to other nodes. aside: requests wait at a node that is not its owner.", show: (k) => html`<${State} state=${k.state}>${k.action && k.action !== "none" ? " → " + k.action : ""}<//>` },
  { id: "depth", title: "Waiting", kind: "number", value: (k) => k.depth, says: "Requests of the key that wait.", metric: "lanekeeper_queued_requests", show: (k, most) => html`<span class="bar"><meter min="0" max=${Math.max(most, 1)} value=${k.depth} aria-hidden="true"></meter>${count(k.depth)}</span>` },
  { id: "rate", title: "Rate", kind: "number", value: (k) => k.rate, says: "Requests per second. They are counted in little memory: ≤ means at most.", metric: "lanekeeper_requests_total", show: (k) => (k.rate_at_most ? "≤ " : "") + rate(k.rate) + "/s" },
  laneColumns[5],
];

const kinds = {
  lanes: { title: "Lanes", columns: laneColumns, rows: (l) => l?.lanes ?? [], by: "waiting", depth: (l) => l.waiting },
  keys: { title: "Hot keys", columns: keyColumns, rows: (l) => l?.keys ?? [], by: "rate", depth: (k) => k.depth },
};

export function LanesPanel() {
  const [kind, setKind] = useState("lanes");
  const [orders, setOrders] = useState({ lanes: { by: "waiting", down: true }, keys: { by: "rate", down: true } });
  const [filter, setFilter] = useState("");
  const [frozen, setFrozen] = useState(false);
  const data = useFrozen(lanes.value, frozen);
  const { columns, rows, depth } = kinds[kind];
  const order = orders[kind];
  const value = columns.find((c) => c.id === order.by).value;
  const all = rows(data).filter((r) => !only.value || r.node === only.value);
  const found = sorted(matching(all, filter, (r) => r.space + "/" + r.key + " " + r.node + " " + r.state + " " + r.route), value, order.down);
  const most = all.reduce((n, r) => Math.max(n, depth(r)), 0);
  const tools = html`<${OnlyChip} /><${Filter} value=${filter} set=${setFilter} label="Filter lanes and keys" /><${Toggle} on=${frozen} set=${setFrozen} label="Pause lanes and keys">${frozen ? "Go on" : "Pause"}<//>`;
  return html`<${Panel} title="Lanes and keys" id="lanes" tools=${tools} says="Lanes in which nothing begins and the deepest ones, of all nodes that answered; and the keys with most requests.">
    <div class="tabs" role="group" aria-label="Which table">${Object.entries(kinds).map(([id, k]) => html`<button type="button" key=${id} aria-pressed=${kind === id ? "true" : "false"} onClick=${() => setKind(id)}>${k.title} <span class="quiet">${rows(data).length}</span></button>`)}</div>
    <div class="scroll rows-12" tabindex="0" role="region" aria-label=${kinds[kind].title}>
      <table class="lanes-table"><thead><tr>${columns.map((c) => html`<${Head} key=${c.id} column=${c} order=${order} setOrder=${(o) => setOrders({ ...orders, [kind]: o })} />`)}</tr></thead>
        <tbody>${found.map((row) => html`<tr key=${row.node + "\n" + row.space + "\n" + row.key}>${columns.map((c) => html`<td key=${c.id} class=${c.kind}>${c.show(row, most)}</td>`)}</tr>`)}</tbody></table>
      ${found.length === 0 && html`<p class="empty">${all.length > 0 ? "No row has that in it." : kind === "lanes" ? "No request waits or runs." : "No key has had requests lately."}</p>`}
    </div>
  <//>`;
}

const acts = {
  hold: { verb: "Hold the lane", says: "Nothing of this key begins any more until you release it. What runs goes on; what comes waits, to its own time limit.", danger: true },
  release: { verb: "Release the lane", says: "The hold ends. After an upstream timeout the service may still be at work on the last request: then the order of this key is at risk, and that is counted.", danger: true },
  resume: { verb: "Resume", says: "The halted lane goes on with the next request that waits." },
  skip: { verb: "Skip one", says: "The halted lane goes on without the next request: that is answered 503 lane-cancelled, executed: no.", danger: true },
  fail: { verb: "Fail all", says: "The halted lane goes on, and all requests that wait are answered 503 lane-cancelled, executed: no.", danger: true },
  cancel: { verb: "Cancel it", says: "This one request is answered 503 lane-cancelled, executed: no. The others keep their places.", danger: true },
};

function told(done) {
  const parts = [`${done.node}: ${done.action} of ${done.space}/${done.key} is done.`];
  if (done.cancelled > 0) parts.push(`${done.cancelled} waiting ${done.cancelled === 1 ? "request was" : "requests were"} answered: not executed.`);
  if (done.risk) parts.push("The service may still be at work on what was held: the order is at risk.");
  return parts.join(" ");
}

function act(action, lane, ticket, after) {
  const name = lane.space + "/" + lane.key;
  const body = (reason) => Object.fromEntries(Object.entries({ ticket, reason }).filter(([, text]) => text));
  confirming.value = {
    ...acts[action], name: action === "cancel" ? ticket : name, reason: true,
    title: action === "cancel" ? "Cancel ticket " + ticket : acts[action].verb + " " + name,
    run: async (reason) => {
      const answer = await post(`lanes/${action}?${queryOfLane(lane.space, lane.key)}`, body(reason));
      after();
      return told(answer);
    },
  };
}

const ticketColumns = [
  ["Place", "number", "0 is the turn; then the places in the line, from 1.", (t) => t.position],
  ["Ticket", "", "The request's ticket. Its first half is when it was accepted, its second by which process.", (t) => html`<code>${t.ticket}</code>`],
  ["State", "", "running: at its upstream. held: answered, but its upstream may still be at work. waiting.", (t) => html`<${State} state=${t.state} />`],
  ["For", "number", "How long it has been in this state.", (t) => seconds(t.seconds)],
  ["Age", "number", "Since it took its place.", (t) => seconds(t.age_seconds)],
  ["Class", "", "exclusive requests run alone, neighbouring shared ones together.", (t) => t.class],
  ["Route", "", "The route by which it came.", (t) => t.route],
  ["Body", "number", "Bytes of its body.", (t) => bytes(t.bytes)],
  ["Came to", "", "The node that accepted it.", (t) => (t.ingress ? html`<${Member} name=${t.ingress} />` : dash)],
  ["Client", "", "Its address, as far as it is known here.", (t) => t.client || dash],
  ["Trace", "", "Its W3C trace, if it carries one.", (t) => (t.trace ? html`<code title=${t.trace}>${shorten(t.trace, 12)}</code>` : dash)],
];

function Facts({ page }) {
  const facts = [
    ["State", "halted, held, blocked, drained, spilled, hot, ok or idle: the first that is true.", html`<${State} state=${page.state} />`],
    ["Waiting", "Requests that wait for their turn. Metric: lanekeeper_queued_requests.", count(page.waiting)],
    ["Running", "Requests with their turn. Metric: lanekeeper_inflight_requests.", count(page.running)],
    ["Est. wait", "What a request that came now would wait.", seconds(page.wait_seconds_estimate)],
    ["Owner", "The node that has the lane.", html`<${Member} name=${page.owner} />`],
    ["Partition", "In which partition the key is, of all.", `${page.partition} of ${page.partitions}`],
    ["Epoch", "Rises with each new owner.", count(page.epoch)],
    ["Route", "Of the head, or of what halted the lane.", page.route || dash],
  ];
  return html`<dl class="facts">${facts.map(([title, says, value]) => html`<div key=${title}><dt><${Hint} says=${says}>${title}<//></dt><dd>${value}</dd></div>`)}</dl>`;
}

export function LanePage({ space, lane }) {
  const query = queryOfLane(space, lane);
  const { value, error, again } = useEach(async (signal) => {
    const [page, why] = await Promise.all([get("lanes/show?" + query, signal), get("why?" + query, signal)]);
    return { page, why };
  }, query);
  const page = value?.page;
  const halted = page?.state === "halted";
  const releasable = page && (page.hold || page.held);
  const button = (action, enabled, title) => html`<button type="button" class="act" disabled=${!enabled} title=${enabled ? "" : title} onClick=${() => act(action, page, "", again)}>${action[0].toUpperCase() + action.slice(1)}</button>`;
  return html`<section class="panel lane-page" aria-labelledby="lane-title">
    <p><a href="#/">← All lanes</a></p>
    <h2 id="lane-title" class="lane-name">${space}/${lane}</h2>
    <p class="problem" role="alert">${error}</p>
    ${(page?.silent ?? []).map((s) => html`<p class="note" key=${s.node}>${s.node} did not answer: ${s.why}</p>`)}
    ${page && html`<${Facts} page=${page} />
    ${page.hold && html`<p class="note">An operator holds it for ${seconds(page.hold.seconds)}${page.hold.reason && ": " + page.hold.reason}</p>`}
    <h3>Why it waits</h3>
    <ul class="why">${(value.why.text ?? []).map((text, i) => html`<li key=${i}>${text}</li>`)}</ul>
    <h3>What you can do</h3>
    <div class="acts" role="group" aria-label="What you can do">
      ${button("hold", !page.hold, "An operator holds it already")}${button("release", releasable, "It is not held")}
      ${button("resume", halted, "It is not halted")}${button("skip", halted, "It is not halted")}${button("fail", halted, "It is not halted")}
    </div>
    <h3>Tickets, in order</h3>
    <div class="scroll" tabindex="0" role="region" aria-label="Tickets"><table class="acting">
      <thead><tr>${ticketColumns.map(([title, kind, says]) => html`<th key=${title} scope="col" class=${kind}><${Hint} says=${says}>${title}<//></th>`)}<th scope="col"><span class="unseen">What you can do</span></th></tr></thead>
      <tbody>${page.tickets.map((t) => html`<tr key=${t.ticket + t.lent_to}>${ticketColumns.map(([title, kind, , show]) => html`<td key=${title} class=${kind}>${show(t)}</td>`)}
        <td>${t.lent_to ? html`<span class="quiet">lent to ${t.lent_to}</span>` : t.state === "waiting" && html`<button type="button" class="act" aria-label=${"Cancel ticket " + t.ticket} onClick=${() => act("cancel", page, t.ticket, again)}>Cancel</button>`}</td></tr>`)}</tbody>
    </table>${page.state === "idle" && html`<p class="empty">No request of this key waits or runs.</p>`}</div>
    ${page.more > 0 && html`<p class="note">${count(page.more)} more behind them.</p>`}
    ${page.spilled?.length > 0 && html`<h3>Elsewhere</h3><ul>${page.spilled.map((s) => html`<li key=${s.node}>${s.node}: ${count(s.waiting)} wait, ${count(s.running)} run${s.has_turn ? ", it has the turn" : ""}</li>`)}</ul>`}`}
  </section>`;
}
