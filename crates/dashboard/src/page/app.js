// The stream of events → the page, kept up to date.

import { children, el } from "./dom.js";
import { figure } from "./graph.js";
import * as sections from "./sections.js";

const NOTHING = { items: [], omitted: 0 };
/** Looks that the small lines remember: two minutes of them. */
const MEMORY = 60;
/** Without an event for so long, what is shown is old, in milliseconds. */
const SILENCE = 20_000;

const parts = { mesh: null, services: NOTHING, workloads: NOTHING, proxies: NOTHING, resources: NOTHING, sources: NOTHING, traffic: NOTHING };
/** "source>destination" → requests per second; "" is all of them. */
const history = new Map();
const sort = { column: 2, turned: false };
const narrow = matchMedia("(max-width: 44rem)");
const byId = (id) => document.getElementById(id);
let heard = 0;
let drawing = false;

function connect() {
  const stream = new EventSource("/api/events");
  for (const name of Object.keys(parts)) {
    stream.addEventListener(name, (event) => {
      heard = Date.now();
      parts[name] = JSON.parse(event.data);
      // The last of every look.
      if (name !== "mesh") return;
      remember(parts.traffic.items);
      live("live");
      draw();
    });
  }
  stream.onerror = () => {
    live("lost");
    // The browser tries again by itself, unless it was told no.
    if (stream.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
  };
}

function remember(edges) {
  const rates = new Map(edges.map((e) => [`${e.source}>${e.destination}`, e.requestsPerSecond]));
  rates.set("", edges.reduce((sum, e) => sum + e.requestsPerSecond, 0));
  for (const key of history.keys()) if (!rates.has(key)) history.delete(key);
  for (const [key, rate] of rates) history.set(key, [...(history.get(key) ?? []), rate].slice(-MEMORY));
}

/** Said aloud when it changes, and only then. */
function live(state) {
  const texts = { live: "live", lost: "connection lost, trying again", old: "no news for a while" };
  const status = byId("live");
  if (status.dataset.state === state) return;
  status.dataset.state = state;
  status.textContent = texts[state];
}

/** At most once a frame, and not while nobody looks. */
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (parts.mesh) render();
  });
}

function render() {
  document.body.classList.add("drawn");
  const now = parts.mesh.at / 1000;
  const mesh = { ...parts.mesh, revision: parts.mesh.revision ?? 0 };
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const only = (part) => (words.length ? { ...part, items: part.items.filter((item) => matches(item, words)) } : part);
  document.title = mesh.name ? `${mesh.name} · ripstop` : "ripstop";
  byId("title").textContent = mesh.name || "ripstop";
  byId("revision").textContent = parts.mesh.revision === null ? "" : `revision ${mesh.revision}`;
  byId("about").textContent = `ripstop ${mesh.version}`;
  children(byId("problems"), mesh.problems.map((problem) => el("li", { class: "problem" }, problem)));
  children(byId("tiles"), sections.tiles(mesh, parts, history, now));
  byId("traffic").hidden = !mesh.measured;
  traffic(only(parts.traffic), words);
  const found = only(parts.services);
  const clients = only(parts.workloads).items.filter((w) => w.service === "");
  children(byId("cards"), sections.services(withMembers(found, words), parts.workloads, clients));
  said("services", byId("cards").childElementCount, words);
  table("proxies", "fleet", sections.proxies(only(parts.proxies), mesh.revision, now), only(parts.proxies), words);
  table("configuration", "resources", sections.resources(only(parts.resources)), only(parts.resources), words);
  children(byId("sources"), sections.sources(only(parts.sources)));
  byId("sources-title").hidden = byId("sources").childElementCount === 0;
}

/** A service is found by what is true of its workloads as well. */
function withMembers(found, words) {
  if (!words.length) return found;
  const ids = new Set(parts.workloads.items.filter((w) => matches(w, words)).map((w) => w.id));
  const items = parts.services.items.filter((s) => matches(s, words) || s.workloads.some((id) => ids.has(id)));
  return { ...found, items };
}

const matches = (item, words) => {
  const text = JSON.stringify(item).toLowerCase();
  return words.every((word) => text.includes(word));
};

function traffic(part, words) {
  const ready = new Map();
  for (const service of parts.services.items) {
    const [good, all] = ready.get(service.name) ?? [0, 0];
    ready.set(service.name, [good + service.ready.length, all + service.workloads.length]);
  }
  // A client has no service, and still calls.
  for (const w of parts.workloads.items.filter((w) => w.service === "")) {
    const name = w.labels.app ?? w.serviceAccount;
    const [good, all] = ready.get(name) ?? [0, 0];
    ready.set(name, [good + (w.state === "ready"), all + 1]);
  }
  const any = part.items.length > 0;
  byId("graph").hidden = !any;
  if (any) children(byId("graph"), figure(part.items, ready, narrow.matches));
  table("traffic", "pairs", sections.pairs(part, history, sort), part, words);
}

function table(section, id, content, shown, words) {
  const element = byId(id);
  element.hidden = shown.items.length === 0 && shown.omitted === 0;
  element.parentElement.hidden = element.hidden;
  children(element, content);
  said(section, shown.items.length + shown.omitted, words);
}

/** What a section says when it is empty. */
function said(section, count, words) {
  const empty = document.querySelector(`#${section} > .empty`);
  empty.dataset.said ??= empty.textContent;
  empty.hidden = count > 0;
  const text = words.length ? "Nothing here matches the filter." : empty.dataset.said;
  if (empty.textContent !== text) empty.textContent = text;
}

byId("filter").addEventListener("input", draw);
byId("pairs").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-sort]");
  if (!button) return;
  const column = Number(button.dataset.sort);
  sort.turned = column === sort.column && !sort.turned;
  sort.column = column;
  draw();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    byId("filter").focus();
  } else if (event.key === "Escape" && typing) {
    byId("filter").value = "";
    draw();
  }
});
narrow.addEventListener("change", draw);
setInterval(() => {
  if (heard && Date.now() - heard > SILENCE && byId("live").dataset.state === "live") live("old");
}, 1000);
connect();
