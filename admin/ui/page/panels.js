// Members, events, unknown outcomes, and where a key belongs.

import { html, useEffect, useState } from "../vendor/preact.js";
import { events, get, members, numbers, only, post } from "./live.js";
import { Filter, Hint, LaneLink, Member, Panel, State, Toggle, confirming, useEach, useFrozen } from "./parts.js";
import { drifted, matching } from "./rows.js";
import { clock, count, dash, fields, parseKey, seconds, shorten, since } from "./text.js";

function drain(name, undo) {
  confirming.value = undo
    ? { title: "Undrain " + name, says: "It takes partitions again, as any member.", name, verb: "Undrain", run: async () => (await post("undrain?node=" + encodeURIComponent(name)), name + " is an ordinary member again.") }
    : { title: "Drain " + name, says: "It turns unready, and gives all its partitions to the others, lane by lane. Nothing is lost. It stays a member until its process ends, or you undrain it.", name, verb: "Drain", danger: true, run: async () => (await post("drain?node=" + encodeURIComponent(name)), name + " gives everything away. Its row says when nothing is left.") };
}

const memberColumns = [
  ["Member", "", "Its name in the ring."],
  ["State", "", "alive, draining, left or dead, as the answering node sees it."],
  ["Holds", "number", "Partitions that it holds, and after the arrow those that are meant for it.", "lanekeeper_owned_partitions"],
  ["Waiting", "number", "Requests that wait in its lanes.", "lanekeeper_queued_requests"],
  ["Config", "", "Hash of its configuration. ✗: another one than the others', so the same request may get another key there.", "lanekeeper_config_hash_info"],
  ["Version", "", "Of the program.", "lanekeeper_build_info"],
  ["RTT", "number", "How long it took to answer the node that you look at."],
  ["Zone", "", "node.zone of its configuration."],
  ["Address", "", "Of its gossip."],
  ["Since", "number", "How long the answering node has seen it in this state."],
];

export function MembersPanel() {
  const m = members.value;
  // The stream says of the others only that they are there. Their own figures change less.
  const { value: status } = useEach((signal) => get("status", signal), "status", 5000);
  const of = new Map((status?.nodes ?? []).map((n) => [n.node, n]));
  const rttOf = (member) => member.rtt_seconds ?? of.get(member.name)?.rtt_seconds;
  const timed = (m?.members ?? []).some((member) => rttOf(member) != null); // else there is no such column
  const drift = drifted(m?.members ?? [], m?.node);
  const silent = new Map((numbers.value?.silent ?? []).map((s) => [s.node, s.why]));
  return html`<${Panel} title="Members" id="members" says="Who belongs to the cluster, as the answering node sees it.">
    <div class="scroll" tabindex="0" role="region" aria-label="Members"><table class="acting">
      <thead><tr>${memberColumns.filter(([title]) => timed || title !== "RTT").map(([title, kind, says, metric]) => html`<th key=${title} scope="col" class=${kind}><${Hint} says=${says} metric=${metric}>${title}<//></th>`)}<th scope="col"><span class="unseen">What you can do</span></th></tr></thead>
      <tbody>${(m?.members ?? []).map((member) => {
        const live = member.state === "alive" || member.state === "draining";
        const known = of.get(member.name) ?? {};
        const owned = member.owned ?? known.owned, target = member.target;
        return html`<tr key=${member.name + member.incarnation} class=${only.value && only.value !== member.name ? "dim" : ""}>
          <th scope="row"><${Member} name=${member.name} />${member.name === m.node && html` <span class="quiet">(answers)</span>`}</th>
          <td><${State} state=${member.state} />${silent.has(member.name) && html` <span class="state bad" title=${silent.get(member.name)}>silent</span>`}</td>
          <td class="number">${owned != null && owned !== target ? count(owned) + " → " + count(target) : count(owned ?? target)}</td>
          <td class="number">${count(member.queued ?? known.waiting)}</td>
          <td><code>${shorten(member.config || dash, 12)}</code>${drift.has(member.name) && html` <span class="state bad">✗ differs</span>`}</td>
          <td>${shorten(member.version || dash, 24)}</td>${timed && html`<td class="number">${seconds(rttOf(member))}</td>`}<td>${member.zone || dash}</td><td><code>${member.address || dash}</code></td><td class="number">${since(member.since)}</td>
          <td>${live && html`<button type="button" class="act" aria-label=${(member.state === "draining" ? "Undrain " : "Drain ") + member.name} onClick=${() => drain(member.name, member.state === "draining")}>${member.state === "draining" ? "Undrain" : "Drain"}</button>`}</td></tr>`;
      })}</tbody>
    </table></div>
  <//>`;
}

export function EventsPanel() {
  const [filter, setFilter] = useState("");
  const [frozen, setFrozen] = useState(false);
  const all = useFrozen(events.value, frozen).filter((e) => !only.value || e.node === only.value);
  const found = matching(all, filter, (e) => `${e.node} ${e.level} ${e.event} ${e.message} ${fields(e.attributes)}`);
  const tools = html`<${Filter} value=${filter} set=${setFilter} label="Filter events" /><${Toggle} on=${frozen} set=${setFrozen} label="Pause events">${frozen ? "Go on" : "Pause"}<//>`;
  return html`<${Panel} title="Events" id="events" tools=${tools} says="What has happened, newest first: joins, hand-overs, hot keys, holds and halts, reloads, leases. The last 500 that this page has heard of.">
    <div class="scroll rows-12" id="events-rows" tabindex="0" role="region" aria-label="Events"><table class="events">
      <thead><tr><th scope="col">Time</th><th scope="col">Node</th><th scope="col">Event</th><th scope="col">What it says</th></tr></thead>
      <tbody>${found.map((e) => html`<tr key=${e.node + e.id}><td><time datetime=${e.time} title=${e.time}>${clock(e.time)}</time></td><td><${Member} name=${e.node} /></td>
        <td><span class=${"state " + ({ ERROR: "bad", WARN: "warn" }[e.level] ?? "plain")}>${e.event}</span></td><td class="wide">${e.message} <span class="fields">${fields(e.attributes)}</span></td></tr>`)}</tbody>
    </table>${found.length === 0 && html`<p class="empty">${all.length > 0 ? "No event has that in it." : "Nothing yet."}</p>`}</div>
  <//>`;
}

export function UnknownPanel() {
  const total = numbers.value?.unknown ?? 0;
  const [answer, set] = useState({});
  useEffect(() => {
    const stop = new AbortController();
    get("unknown?limit=50", stop.signal).then((value) => set({ value }), (error) => stop.signal.aborted || set((before) => ({ ...before, error: error.message })));
    return () => stop.abort();
  }, [total]);
  const rows = [...(answer.value?.unknown ?? [])].reverse();
  return html`<${Panel} title="Unknown outcomes" id="unknown" says="Requests that the service may or may not have carried out, the newest 50. Whoever looks after the data decides about each of them.">
    <p class="problem" role="alert">${answer.error}</p>
    ${(answer.value?.silent ?? []).map((s) => html`<p class="note" key=${s.node}>${s.node} did not answer: ${s.why}</p>`)}
    <div class="scroll rows-6" tabindex="0" role="region" aria-label="Unknown outcomes"><table>
      <thead><tr><th scope="col">Time</th><th scope="col">Key</th><th scope="col">Request</th><th scope="col">Node</th><th scope="col">Why</th><th scope="col">Ticket</th></tr></thead>
      <tbody>${rows.map((u) => html`<tr key=${u.node + u.id}><td><time datetime=${u.time} title=${u.time}>${clock(u.time)}</time></td><td><${LaneLink} space=${u.space} lane=${u.key} /></td><td>${u.method} <span class="quiet">${u.route}</span></td><td><${Member} name=${u.node} /></td><td class="wide"><b>${u.slug}</b> ${u.detail}</td><td><code>${u.ticket}</code></td></tr>`)}</tbody>
    </table>${rows.length === 0 && html`<p class="empty">None: the outcome of every request is known.</p>`}</div>
  <//>`;
}

// located are the rows of an answer, in the words of lanekeeper locate.
export function located(l) {
  const next = l.next?.length > 0 ? ` (next: ${l.next.join(", ")})` : "";
  const moves = l.owner !== l.target;
  const rows = [["key", l.space + "/" + l.key], ["partition", `${l.partition} of ${l.partitions}`]];
  if (!l.owner) rows.push(["owner", `nobody, as far as ${l.node} knows`]);
  else rows.push(["owner", `${l.owner} ${l.owner_address}${moves ? "" : next}`]);
  if (l.without?.length > 0) rows.push(["would be", `${l.target || "–"} without ${l.without.join(", ")}${next}`]);
  else if (moves) rows.push(["moves to", (l.target || "–") + next]);
  const r = l.record;
  if (r?.titled) rows.push(["on record", `tenure ${r.tenure}, stamp ${r.stamp}, lease ${r.holder}${r.held_seconds == null ? "" : ", held " + seconds(r.held_seconds)}`]);
  else if (r?.waits_for) rows.push(["waits for", `the end of lease ${r.waits_for} (tenure ${r.tenure}, as ${l.node} last read)`]);
  else if (r && l.owner === l.node) rows.push(["on record", `not as ${l.node}'s: strict requests are refused`]);
  if (l.lane) rows.push(["lane", laneText(l.lane)]);
  else if (l.owner === l.node) rows.push(["lane", "empty"]);
  else if (l.owner) rows.push(["lane", `at ${l.owner}, which alone knows it`]);
  return rows;
}

function laneText(lane) {
  let text = "depth " + lane.depth;
  if (lane.halt) text += `, halted for ${seconds(lane.halt.seconds)} by ticket ${lane.halt.ticket}: ${lane.halt.cause}`;
  if (lane.blocked) text += ", waits for a former owner to finish";
  if (lane.ticket) text += `, head ${lane.ticket_state} ${seconds(lane.ticket_seconds)} (ticket ${lane.ticket})`;
  return text + ", est. wait " + seconds(lane.wait_seconds_estimate);
}

export function LocatePanel() {
  const [text, setText] = useState("");
  const [without, setWithout] = useState("");
  const [answer, setAnswer] = useState({});
  const live = (members.value?.members ?? []).filter((m) => m.state === "alive" || m.state === "draining");
  const find = async (event) => {
    event.preventDefault();
    const query = parseKey(text);
    if (!query) {
      setAnswer({ error: "Write SPACE/KEY, such as order/A-1042; or order:A%201042, as Lanekeeper-Key and the log have it." });
      return;
    }
    try {
      setAnswer({ value: await get("locate?" + query + (without && "&without=" + encodeURIComponent(without))) });
    } catch (error) {
      setAnswer({ error: error.message });
    }
  };
  return html`<${Panel} title="Locate a key" id="locate" says="Where a key belongs, and how its lane is: the same answer as lanekeeper locate gives.">
    <form class="locate" onSubmit=${find}>
      <label>Space and key<input name="key" placeholder="order/A-1042" autocomplete="off" spellcheck=${false} value=${text} onInput=${(e) => setText(e.currentTarget.value)} /></label>
      <label>As if this one had left<select name="without" value=${without} onChange=${(e) => setWithout(e.currentTarget.value)}><option value="">nobody</option>${live.map((m) => html`<option key=${m.name} value=${m.name}>${m.name}</option>`)}</select></label>
      <button type="submit" class="primary">Locate</button>
    </form>
    <p class="problem" role="alert">${answer.error}</p>
    <div class="located" role="status">${answer.value
      ? html`<dl>${located(answer.value).map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${name === "key" ? html`<${LaneLink} space=${answer.value.space} lane=${answer.value.key} most=${80} />` : value}</dd></div>`)}</dl>`
      : html`<p class="empty">Partition, owner, who would be next, and the lane's depth.</p>`}</div>
  <//>`;
}
