// Small pieces that the panels share. Whatever comes from the API is put into the page as text,
// which is what htm and Preact do with every value: a key may be anything.

import { html, signal, useEffect, useLayoutEffect, useRef, useState } from "../vendor/preact.js";
import { only, paused, styles } from "./live.js";
import { colourOf, patternOf } from "./ring.js";
import { laneAddress, shorten, toType } from "./text.js";

// Hint is a word with an explanation: what a number measures, and its metric. It can be reached
// by keyboard, so it is a button; there is one tip for all of them.
export function Hint({ says, metric, children, ...rest }) {
  const text = says + (metric ? " Metric: " + metric + "." : "");
  return html`<button type="button" class="hint" aria-description=${text} data-says=${says} data-metric=${metric ?? ""} ...${rest}>${children}</button>`;
}

const tip = signal(null);

function showTip(event) {
  const of = event.target.closest?.("[data-says]");
  tip.value = of ? { says: of.dataset.says, metric: of.dataset.metric, at: of.getBoundingClientRect() } : null;
}

export function Tip() {
  const box = useRef();
  useEffect(() => {
    const away = (event) => (event.type !== "keydown" || event.key === "Escape") && (tip.value = null);
    document.addEventListener("pointerover", showTip);
    document.addEventListener("focusin", showTip);
    document.addEventListener("focusout", away);
    document.addEventListener("keydown", away);
    addEventListener("scroll", away, true);
  }, []);
  useLayoutEffect(() => {
    if (!tip.value) return;
    const { width, height } = box.current.getBoundingClientRect();
    const { left, bottom, top } = tip.value.at;
    const x = Math.max(8, Math.min(left, document.documentElement.clientWidth - width - 8));
    const y = bottom + 6 + height < innerHeight ? bottom + 6 : top - height - 6;
    box.current.style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px)`;
  }, [tip.value]);
  if (!tip.value) return null;
  return html`<div class="tip" role="tooltip" ref=${box}>${tip.value.says}${tip.value.metric && html`<code>${tip.value.metric}</code>`}</div>`;
}

export function Panel({ title, id, says, tools, className = "", children }) {
  return html`<section class=${"panel " + className} aria-labelledby=${id}>
    <header><h2 id=${id}><${Hint} says=${says}>${title}<//></h2><div class="tools">${tools}</div></header>
    ${children}
  </section>`;
}

// Swatch is a member's colour and pattern.
export function Swatch({ name }) {
  const style = styles.of(name);
  return html`<svg class="swatch" viewBox="0 0 14 14" aria-hidden="true"><rect width="14" height="14" rx="3" fill=${colourOf(style)} /><rect width="14" height="14" rx="3" fill=${"url(#pattern-" + patternOf(style) + ")"} /></svg>`;
}

export function Member({ name }) {
  if (!name) return html`<span class="quiet">nobody</span>`;
  return html`<span class="member"><${Swatch} name=${name} /><span>${name}</span></span>`;
}

const manners = { alive: "good", ok: "good", draining: "warn", hot: "warn", spilled: "warn", aside: "warn", drained: "warn", blocked: "warn", held: "bad", halted: "bad", dead: "bad", running: "good" };

export function State({ state, children }) {
  return html`<span class=${"state " + (manners[state] ?? "plain")}>${state}${children}</span>`;
}

export function LaneLink({ space, lane, most = 44 }) {
  const name = space + "/" + lane;
  return html`<a class="key" href=${laneAddress(space, lane)} title=${name}>${shorten(name, most)}</a>`;
}

// Head is a column's head, by which the rows can be sorted.
export function Head({ column, order, setOrder }) {
  const sorts = order.by === column.id;
  const turn = () => setOrder({ by: column.id, down: sorts ? !order.down : column.kind === "number" });
  return html`<th scope="col" class=${column.kind} aria-sort=${sorts ? (order.down ? "descending" : "ascending") : "none"}>
    <${Hint} says=${column.says} metric=${column.metric} onClick=${turn}>${column.title}<span class="mark" aria-hidden="true">${sorts ? (order.down ? "▾" : "▴") : ""}</span><//></th>`;
}

export function Filter({ value, set, label }) {
  return html`<input type="search" class="filter" aria-label=${label} placeholder="filter" value=${value} onInput=${(e) => set(e.currentTarget.value)} />`;
}

export function Toggle({ on, set, children, label }) {
  return html`<button type="button" class="tool" aria-pressed=${on ? "true" : "false"} aria-label=${label} onClick=${() => set(!on)}>${children}</button>`;
}

// OnlyChip says that one member is looked at, and ends that.
export function OnlyChip() {
  if (!only.value) return null;
  return html`<button type="button" class="chip" onClick=${() => (only.value = "")}>only ${only.value} <span aria-hidden="true">×</span><span class="unseen">: show all</span></button>`;
}

// useFrozen is a value that stays as it was while it is frozen.
export function useFrozen(value, frozen) {
  const kept = useRef(value);
  if (!frozen) kept.current = value;
  return kept.current;
}

// useEach asks again and again while the page is seen and not paused.
export function useEach(ask, key, every = 1000) {
  const [answer, set] = useState({});
  const again = useRef(() => {});
  useEffect(() => {
    let ended = false, timer;
    const stop = new AbortController();
    const round = async () => {
      clearTimeout(timer);
      if (!document.hidden && !paused.peek()) {
        try {
          const value = await ask(stop.signal);
          if (!ended) set({ value });
        } catch (error) {
          if (!ended) set((before) => ({ value: before.value, error: error.message }));
        }
      }
      if (!ended) timer = setTimeout(round, every);
    };
    again.current = round;
    set({});
    round();
    return () => {
      ended = true;
      clearTimeout(timer);
      stop.abort();
    };
  }, [key]);
  return { ...answer, again: () => again.current() };
}

// confirming is what is about to be done: {title, says, name, verb, danger, reason, run}.
export const confirming = signal(null);
export const done = signal(""); // what came of the last one, for everybody

export function Confirm() {
  const dialog = useRef();
  const [typed, setTyped] = useState("");
  const [reason, setReason] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const what = confirming.value;
  useEffect(() => {
    if (!what) return;
    setTyped(""), setReason(""), setProblem("");
    if (!dialog.current.open) dialog.current.showModal();
  }, [what]);
  if (!what) return null;
  const word = toType(what.name);
  // To close it, and not only to drop it, gives the focus back to where it was.
  const close = () => dialog.current.close();
  const run = async (event) => {
    event.preventDefault();
    if (typed !== word || busy) return;
    setBusy(true);
    try {
      done.value = await what.run(reason);
      setTimeout(() => (done.value = ""), 10000);
      close();
    } catch (error) {
      setProblem(error.message);
    }
    setBusy(false);
  };
  return html`<dialog ref=${dialog} class="confirm" aria-labelledby="confirm-title" onClose=${() => (confirming.value = null)}>
    <form onSubmit=${run}>
      <h2 id="confirm-title">${what.title}</h2>
      <p>${what.says}</p>
      ${what.reason && html`<label>Reason, for the log<input name="reason" maxlength="200" value=${reason} onInput=${(e) => setReason(e.currentTarget.value)} /></label>`}
      <label><span>Type <code class="word">${word}</code> to confirm</span><input name="word" autocomplete="off" spellcheck=${false} value=${typed} onInput=${(e) => setTyped(e.currentTarget.value)} /></label>
      <p class="problem" role="alert">${problem}</p>
      <div class="buttons"><button type="button" onClick=${close}>Leave it</button><button type="submit" class=${what.danger ? "danger" : "primary"} disabled=${typed !== word || busy}>${what.verb}</button></div>
    </form>
  </dialog>`;
}
