// The dashboard: what is on the page, and where.

import { html, render, signal, useEffect, useRef, useState } from "../vendor/preact.js";
import { LanePage, LanesPanel } from "./lanes.js";
import { follow, link, members, paused, setPaused, setToken, tokenAsked } from "./live.js";
import { Banner, LatencyPanel, Numbers, Patterns, RingPanel } from "./overview.js";
import { EventsPanel, LocatePanel, MembersPanel, UnknownPanel } from "./panels.js";
import { Confirm, Tip, done } from "./parts.js";
import { laneOfAddress } from "./text.js";

const address = signal(location.hash);
addEventListener("hashchange", () => {
  address.value = location.hash;
  done.value = "";
  scrollTo(0, 0);
});

const themes = ["system", "light", "dark"];
const themeKey = "lanekeeper-theme";

function stored() {
  try {
    const theme = localStorage.getItem(themeKey);
    return themes.includes(theme) ? theme : "system";
  } catch {
    return "system"; // the browser keeps nothing for this page
  }
}

function applyTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("theme"));
}
applyTheme(stored());

function Theme() {
  const [theme, set] = useState(stored());
  const choose = (event) => {
    const to = event.currentTarget.value;
    set(to);
    applyTheme(to);
    try {
      localStorage.setItem(themeKey, to);
    } catch {
      // then it lasts until the page is left
    }
  };
  return html`<label class="theme"><span class="unseen">Colours</span><select value=${theme} onChange=${choose}>${themes.map((t) => html`<option key=${t} value=${t}>${t}</option>`)}</select></label>`;
}

function Token() {
  const dialog = useRef();
  const [text, setText] = useState("");
  const why = tokenAsked.value;
  useEffect(() => {
    if (why && !dialog.current.open) dialog.current.showModal();
  }, [why]);
  if (!why) return null;
  const give = (event) => {
    event.preventDefault();
    if (text.trim() === "") return;
    setToken(text);
    setText("");
  };
  // There is nothing to see without one, so the dialog does not go away.
  return html`<dialog ref=${dialog} class="confirm" aria-labelledby="token-title" onCancel=${(e) => e.preventDefault()}>
    <form onSubmit=${give}><h2 id="token-title">Token</h2>
      <p role="alert">${why}</p><p class="quiet">One of admin.token_file. It is kept in this page's memory only, and forgotten with it.</p>
      <label>Token<input type="password" name="token" autocomplete="off" value=${text} onInput=${(e) => setText(e.currentTarget.value)} /></label>
      <div class="buttons"><button type="submit" class="primary">Use it</button></div></form>
  </dialog>`;
}

const words = { connecting: "connecting", live: "live", lost: "no live data", hidden: "resting" };

function Top() {
  const m = members.value;
  const state = paused.value ? "paused" : words[link.value.state];
  return html`<header class="top">
    <h1><a href="#/">lanekeeper</a></h1>
    <p class="where">${m ? html`${m.cluster && html`<span>${m.cluster}</span>`}<span class="quiet">seen from ${m.node}</span>` : html`<span class="quiet">\u00a0</span>`}</p>
    <p class=${"link " + (paused.value ? "paused" : link.value.state)}><i aria-hidden="true"></i>${state}</p>
    <button type="button" class="tool" aria-pressed=${paused.value ? "true" : "false"} onClick=${() => setPaused(!paused.value)}>${paused.value ? "Go on" : "Pause"}</button>
    <${Theme} />
  </header>`;
}

function Page() {
  const lane = laneOfAddress(address.value);
  return html`<${Patterns} /><a class="skip" href="#main" onClick=${(e) => (e.preventDefault(), document.getElementById("main").focus())}>To the content</a><${Top} />
    <main id="main" tabindex="-1"><${Banner} />
    <p class=${"done" + (done.value ? "" : " none")} role="status">${done.value}</p>
    ${lane ? html`<${LanePage} key=${address.value} space=${lane.space} lane=${lane.key} />` : html`<${Numbers} />
      <div class="pair"><${RingPanel} /><${LatencyPanel} /></div>
      <${LanesPanel} /><${MembersPanel} />
      <div class="pair"><${EventsPanel} /><div class="stack"><${LocatePanel} /><${UnknownPanel} /></div></div>`}</main>
    <${Confirm} /><${Token} /><${Tip} />`;
}

render(html`<${Page} />`, document.getElementById("page"));
follow();
