// Lane wait beside upstream: where requests spend their time.

import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import uPlot from "../vendor/uplot.js";
import { latencies, numbers, points } from "./live.js";
import { Hint, Panel } from "./parts.js";
import { dash, seconds } from "./text.js";

const height = 132;

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
    scales: { x: { time: true, range: (_, __, to) => [to - latencies.length, to] }, y: { range: (_, __, most) => [0, Math.max(most ?? 0, 0.002) * 1.1] } },
    axes: [
      { ...text, size: 26, space: 70, values: (_, at) => at.map((t) => new Date(t * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })) },
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
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(box.current, box.current.clientWidth, name, setAt), data(), box.current);
    };
    make();
    const sizes = new ResizeObserver(() => {
      const width = box.current.clientWidth;
      if (width !== plot.current.width) plot.current.setSize({ width, height });
    });
    sizes.observe(box.current);
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
    <div class="canvas" ref=${box} role="img" aria-label=${title + " of the last 15 minutes, as lines: p50 and p99. The newest values are beside the title."}></div>
  </div>`;
}

export function LatencyPanel() {
  const set = points.value;
  return html`<${Panel} title="Where time goes" id="latency" className="latency" says="Since this page was opened, at most 15 minutes, a point each second. If the upper one grows, keys have more to do than one request at a time; if the lower one does, the service is slow.">
    <${Plot} name="wait" title="Lane wait" metric="lanekeeper_lane_wait_seconds" says="From the ticket to the turn: what waiting for others of the same key costs." columns=${[1, 2]} set=${set} />
    <${Plot} name="upstream" title="Upstream" metric="lanekeeper_upstream_duration_seconds" says="From the first byte sent to the service to the last byte read from it." columns=${[3, 4]} set=${set} />
    ${numbers.value ? null : html`<span class="unseen">No data yet.</span>`}
  <//>`;
}
