// What there is to see at a glance: the banner, the numbers, the ring, and where time goes.

import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import uPlot from "../vendor/uplot.js";
import { latencies, link, members, numbers, only, points, ring, styles } from "./live.js";
import { Hint, Member, OnlyChip, Panel } from "./parts.js";
import { colourOf, patternOf, point, runPaths, shareArcs, shares, arc, summary } from "./ring.js";
import { drifted } from "./rows.js";
import { count, dash, percent, rate, seconds, shorten } from "./text.js";

// Banner is always there, so that nothing moves when it has something to say.
export function Banner() {
  const n = numbers.value;
  const all = [...(n?.warnings ?? [])];
  const m = members.value;
  for (const name of drifted(m?.members ?? [], m?.node)) all.push(name + " runs another configuration than the others: the same request may get another key there.");
  if (link.value.state === "lost") all.unshift("No live data: " + link.value.why + ". What is shown may be old; the page tries again.");
  const bad = n && (n.violations > 0 || link.value.state === "lost");
  const manner = all.length === 0 ? (n ? "good" : "plain") : bad ? "bad" : "warn";
  return html`<div class=${"banner " + manner} role="status" aria-live="polite" id="banner">
    <span class="sign" aria-hidden="true">${manner === "good" ? "✓" : manner === "plain" ? "…" : "!"}</span>
    ${all.length === 0 ? html`<p>${n ? "All nodes are well." : "Asking the node."}</p>` : html`<ul>${all.map((text) => html`<li key=${text}>${text}</li>`)}</ul>`}
  </div>`;
}

const tiles = [
  { title: "Requests/s", says: "Requests answered per second, by all nodes together, lately.", metric: "lanekeeper_requests_total", of: (n) => rate(n.rate) },
  { title: "Waiting", says: "Requests that have a ticket and wait for their turn.", metric: "lanekeeper_queued_requests", of: (n) => count(n.waiting) },
  { title: "Running", says: "Requests that have their turn: they are at their upstream, or held after a timeout.", metric: "lanekeeper_inflight_requests", of: (n) => count(n.running) },
  { title: "Oldest wait", says: "How long the request has waited that has waited longest.", metric: "lanekeeper_lane_oldest_wait_seconds", of: (n) => seconds(n.oldest_wait_seconds) },
  { title: "Held lanes", says: "Lanes in which nothing begins: after an upstream timeout, and those that an operator holds.", metric: "lanekeeper_held_lanes", of: (n) => count(n.held + (n.stopped ?? 0)), bad: (n) => n.held + (n.stopped ?? 0) > 0 },
  { title: "Halted lanes", says: "Lanes that stand after a failure until an operator lets them go on.", metric: "lanekeeper_halted_lanes", of: (n) => count(n.halted), bad: (n) => n.halted > 0 },
  { title: "Hot keys", says: "Keys whose backlog is large and dominant, by the rule of their route.", metric: "lanekeeper_hot_keys", of: (n) => count(n.hot), warn: (n) => n.hot > 0 },
  { title: "Members", says: "Live nodes of the cluster, and how many of them are ready.", metric: "lanekeeper_members", of: (n) => count(n.members), more: (n) => (n.ready === n.members ? "all ready" : n.ready + " ready"), warn: (n) => n.ready < n.members },
  { title: "Unknown", says: "Requests since the nodes' start whose outcome nobody can say.", metric: "lanekeeper_unknown_total", of: (n) => count(n.unknown), warn: (n) => n.unknown > 0 },
  { title: "Violations", says: "How often the nodes saw the order of a key broken. Anything but 0 is a defect, or a risk that was taken.", metric: "lanekeeper_order_violations_total", of: (n) => count(n.violations), bad: (n) => n.violations > 0 },
];

export function Numbers() {
  const n = numbers.value;
  return html`<section class="numbers" aria-label="Numbers of the cluster">
    ${tiles.map((tile) => html`<div key=${tile.title} class=${"tile" + (n && tile.bad?.(n) ? " bad" : n && tile.warn?.(n) ? " warn" : "")}>
      <${Hint} says=${tile.says} metric=${tile.metric}>${tile.title}<//>
      <strong>${n ? tile.of(n) : dash}</strong><small>${(n && tile.more?.(n)) || "\u00a0"}</small>
    </div>`)}
  </section>`;
}

// Patterns are defined once in the page, for the ring and the swatches.
export function Patterns() {
  const stroke = { stroke: "#fff", "stroke-opacity": 0.75, "stroke-width": 1.6 };
  const dark = { stroke: "#000", "stroke-opacity": 0.45, "stroke-width": 1 };
  const both = (d) => html`<path d=${d} fill="none" ...${stroke} /><path d=${d} fill="none" ...${dark} transform="translate(1.3 0)" />`;
  const pattern = (name, size, inside) => html`<pattern id=${"pattern-" + name} width=${size} height=${size} patternUnits="userSpaceOnUse">${inside}</pattern>`;
  return html`<svg class="defs" aria-hidden="true" width="0" height="0"><defs>
    ${pattern("solid", 8, null)}
    ${pattern("rising", 7, both("M-1 8L8 -1M-4 4L4 -4M3 11L11 3"))}
    ${pattern("falling", 7, both("M-1 -1L8 8M3 -4L11 4M-4 3L4 11"))}
    ${pattern("level", 6, html`<path d="M0 2H6" fill="none" ...${stroke} /><path d="M0 3.4H6" fill="none" ...${dark} />`)}
    ${pattern("cross", 8, both("M4 0V8M0 4H8"))}
    ${pattern("dots", 7, html`<circle cx="2" cy="2" r="1.5" fill="#fff" fill-opacity=".85" stroke="#000" stroke-opacity=".4" stroke-width=".6" />`)}
    <pattern id="moving" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" class="moving-ground" /><rect width="3" height="6" class="moving-line" /></pattern>
  </defs></svg>`;
}

const centre = 200;

function Picture({ runs, partitions, all, moving, version }) {
  const inner = useMemo(() => runPaths(runs, partitions, centre, 92, 120), [runs]);
  const dim = (name) => (only.value && only.value !== name ? "dim" : "");
  const choose = (name) => () => (only.value = only.value === name ? "" : name);
  const margin = Math.max(0, Math.max(...all.map((m) => Math.min(m.name.length, 12))) * 10 - 28); // for the labels
  return html`<svg class="ring" viewBox=${`${-margin} 18 ${400 + 2 * margin} 364`} role="img" aria-label=${summary(all, partitions, moving)}>
    <g>${inner.held.map(({ name, path }) => html`<path key=${name} class=${"run " + dim(name)} d=${path} fill=${name ? colourOf(styles.of(name)) : "currentColor"} onClick=${choose(name)} />`)}
      ${inner.moving && html`<path d=${inner.moving} fill="url(#moving)" class="passive" />`}</g>
    <g>${shareArcs(all, partitions).map((a) => {
      const style = styles.of(a.name);
      const d = arc(centre, 126, 160, a.from, a.to);
      const [x, y] = point(centre, 172, a.middle);
      const side = Math.abs(x - centre) < 20 ? "middle" : x > centre ? "start" : "end";
      return html`<g key=${a.name} class=${"share " + dim(a.name)} onClick=${choose(a.name)}>
        <path d=${d} fill=${a.name ? colourOf(style) : "currentColor"} /><path d=${d} fill=${"url(#pattern-" + patternOf(style) + ")"} />
        ${a.moving < a.to && html`<path d=${arc(centre, 126, 160, a.moving, a.to)} fill="url(#moving)" />`}
        <path d=${d} class="rim" />
        <text x=${x} y=${y} style=${{ fontSize: 17 + margin / 9 + "px" }} text-anchor=${side} dominant-baseline="middle">${shorten(a.name || "nobody", 12)}</text>
      </g>`;
    })}</g>
    <text x=${centre} y="190" class="middle" text-anchor="middle">${count(partitions)}</text>
    <text x=${centre} y="210" class="under" text-anchor="middle">partitions</text>
    <text x=${centre} y="232" class="under" text-anchor="middle">${moving > 0 ? count(moving) + " moving" : "v" + version}</text>
  </svg>`;
}

export function RingPanel() {
  const r = ring.value;
  const runs = r?.runs ?? [];
  const partitions = r?.partitions ?? 0;
  const all = useMemo(() => shares(runs), [r]);
  const says = "Who holds which partition, as the answering node knows it. The outer ring is each member's share, the inner one every partition in its place; what moves is hatched.";
  return html`<${Panel} title="Ring" id="ring" className="ring-panel" says=${says} tools=${html`<${OnlyChip} />`}>
    ${partitions === 0 ? html`<p class="empty">${r ? "One node has all keys: there is no ring." : "Asking the node."}</p>` : html`<div class="ring-both">
      <${Picture} runs=${runs} partitions=${partitions} all=${all} moving=${r.moving} version=${r.version} />
      <div class="scroll" tabindex="0" role="region" aria-label="The ring as a table"><table class="shares">
        <thead><tr><th scope="col">Member</th>
          <th scope="col" class="number"><${Hint} says="Partitions that the member holds." metric="lanekeeper_owned_partitions">Holds<//></th>
          <th scope="col" class="number"><${Hint} says="What it holds, of all partitions.">Share<//></th>
          <th scope="col" class="number"><${Hint} says="Partitions on their way to it, and away from it." metric="lanekeeper_partition_moves_total">Moving<//></th></tr></thead>
        <tbody>${all.map((m) => html`<tr key=${m.name}>
          <th scope="row"><button type="button" class="pick" aria-pressed=${only.value === m.name ? "true" : "false"} disabled=${!m.name} onClick=${() => (only.value = only.value === m.name ? "" : m.name)}><${Member} name=${m.name} /></button></th>
          <td class="number">${count(m.held)}</td><td class="number">${percent(m.held, partitions)}</td><td class="number">${[m.coming && "+" + m.coming, m.leaving && "−" + m.leaving].filter(Boolean).join(" ") || dash}</td></tr>`)}</tbody>
      </table></div>
    </div>`}
  <//>`;
}

const height = 132;
const spans = [120, 300, latencies.length]; // seconds that the chart shows, the shortest that holds all

// colour resolves one of the sheet's colours: a canvas knows no custom properties.
function colour(element, name) {
  element.style.color = `var(${name})`;
  const found = getComputedStyle(element).color;
  element.style.color = "";
  return found;
}

function options(element, width, name, readout) {
  const grid = { stroke: colour(element, "--line"), width: 1 };
  const text = { stroke: colour(element, "--quiet"), font: "11px system-ui, sans-serif", grid, ticks: { ...grid, size: 4 } };
  return {
    width, height, legend: { show: false }, padding: [8, 4, 0, 0],
    cursor: { sync: { key: "latency" }, points: { size: 6 }, drag: { x: false, y: false } },
    scales: { x: { time: true, range: (_, from, to) => [to - spans.find((s) => to - from <= s || s === latencies.length), to] }, y: { range: (_, __, most) => [0, Math.max(most ?? 0, 0.002) * 1.1] } },
    axes: [
      { ...text, size: 26, space: 70, values: (plot, at) => at.map((t) => (plot.valToPos(t, "x") > plot.bbox.width / devicePixelRatio - 24 ? null : new Date(t * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: at.at(-1) - at[0] < 200 ? "2-digit" : undefined }))) },
      { ...text, size: 58, space: 30, values: (_, at) => at.map((v) => seconds(v)) },
    ],
    series: [{}, { label: name + " p50", stroke: colour(element, name === "wait" ? "--wait" : "--upstream"), width: 1.5, spanGaps: false, points: { show: false } },
      { label: name + " p99", stroke: colour(element, name === "wait" ? "--wait" : "--upstream"), width: 1.5, dash: [5, 3], points: { show: false } }],
    hooks: { setCursor: [(plot) => readout(plot.cursor.idx)] },
  };
}

function Plot({ name, title, metric, says, columns, set }) {
  const box = useRef();
  const plot = useRef();
  const [at, setAt] = useState(null);
  const data = () => [latencies.columns[0], latencies.columns[columns[0]], latencies.columns[columns[1]]];
  useEffect(() => {
    const element = box.current;
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element, element.clientWidth, name, setAt), data(), element);
    };
    make();
    const sizes = new ResizeObserver(() => {
      const width = element.clientWidth;
      if (width > 0 && width !== plot.current.width) plot.current.setSize({ width, height });
    });
    sizes.observe(element);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", make);
    document.addEventListener("theme", make);
    return () => {
      sizes.disconnect();
      dark.removeEventListener("change", make);
      document.removeEventListener("theme", make);
      plot.current.destroy();
    };
  }, []);
  useEffect(() => plot.current.setData(data()), [set]);
  const last = latencies.columns[0].length - 1;
  const place = at ?? last;
  const value = (column) => (place >= 0 ? seconds(latencies.columns[column][place]) : dash);
  return html`<div class=${"plot " + name}>
    <p class="readout"><${Hint} says=${says} metric=${metric}>${title}<//>
      <span><i class="stroke" aria-hidden="true"></i>p50 <b>${value(columns[0])}</b></span><span><i class="stroke dashed" aria-hidden="true"></i>p99 <b>${value(columns[1])}</b></span></p>
    <div class="canvas" ref=${box} role="img" aria-label=${title + " of the last 15 minutes, as lines: p50 and p99. The newest are beside the title."}></div>
  </div>`;
}

export function LatencyPanel() {
  const set = points.value;
  return html`<${Panel} title="Where time goes" id="latency" className="latency" says="Since this page was opened, at most 15 minutes, a point each second. If the upper one grows, keys have more to do than one request at a time; if the lower one does, the service is slow.">
    <${Plot} name="wait" title="Lane wait" metric="lanekeeper_lane_wait_seconds" says="From the ticket to the turn: what waiting for others of the same key costs." columns=${[1, 2]} set=${set} />
    <${Plot} name="upstream" title="Upstream" metric="lanekeeper_upstream_duration_seconds" says="From the first byte sent to the service to the last byte read from it." columns=${[3, 4]} set=${set} />
  <//>`;
}
