// Plain values → DOM. Texts become text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `el("td", {class: "num"}, "1.2", …)`. Attributes that are null or false are left out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Makes `now` look like `wanted`, touching only what differs: focus, selection and scroll survive. */
export function morph(now, wanted) {
  for (const { name } of [...now.attributes]) {
    if (!wanted.hasAttribute(name) && !kept(now, name)) now.removeAttribute(name);
  }
  for (const { name, value } of [...wanted.attributes]) {
    if (now.getAttribute(name) !== value && !kept(now, name)) now.setAttribute(name, value);
  }
  children(now, [...wanted.childNodes]);
}

/** What the reader set is the reader's: whether a card is open. */
const kept = (node, name) => node.tagName === "DETAILS" && name === "open";

/** Makes these the children of `parent`; those with the same `data-key`, or else alike at the same place, are reused. */
export function children(parent, wanted) {
  const keyed = new Map();
  for (const node of parent.childNodes) if (node.dataset?.key !== undefined) keyed.set(node.dataset.key, node);
  let at = parent.firstChild;
  for (const want of wanted) {
    const key = want.dataset?.key;
    const found = key !== undefined ? keyed.get(key) : alike(at, want) ? at : null;
    if (!found) {
      parent.insertBefore(want, at);
      continue;
    }
    keyed.delete(key);
    if (found === at) at = at.nextSibling;
    else parent.insertBefore(found, at);
    if (found.nodeType === Node.TEXT_NODE) {
      if (found.data !== want.data) found.data = want.data;
    } else if (!found.isEqualNode(want)) {
      morph(found, want);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const alike = (now, want) =>
  now && now.nodeName === want.nodeName && now.dataset?.key === undefined;

export const number = (value, digits = 1) =>
  value === null || value === undefined
    ? "–"
    : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** Milliseconds for people: 3.2 ms, 1.25 s. */
export const time = (ms) =>
  ms === null || ms === undefined ? "–" : ms < 1000 ? `${number(ms, ms < 100 ? 1 : 0)} ms` : `${number(ms / 1000, 2)} s`;

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit += 1) count /= 1024;
  return `${number(count, unit ? 1 : 0)} ${units[unit]}`;
}

/** Seconds for people: 12s, 3m20s, 1h5m, 2d3h. */
export function age(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${s % 60}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${Math.floor((s / 60) % 60)}m`;
  return `${Math.floor(s / 86400)}d${Math.floor((s / 3600) % 24)}h`;
}

/** good, warn or bad, for a percentage of successes; empty for none. */
export const grade = (percent) =>
  percent === null || percent === undefined ? "" : percent >= 99 ? "good" : percent >= 95 ? "warn" : "bad";

/** A word with a colour and a mark, so that colour is never alone in telling. */
export const pill = (text, state, title) => el("span", { class: `pill ${state}`, title }, text);

/** A line of what was, newest at the right. It is told by the number beside it. */
export function spark(values, width = 88, height = 22) {
  const top = Math.max(...values, 1e-9);
  const step = width / 59;
  const x = (at) => (width - (values.length - 1 - at) * step).toFixed(1);
  const y = (value) => (height - 1.5 - (value / top) * (height - 4)).toFixed(1);
  const line = values.map((value, at) => `${at ? "L" : "M"}${x(at)} ${y(value)}`).join("");
  const area = values.length > 1 ? `${line}L${width} ${height}L${x(0)} ${height}Z` : "";
  return svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    svg("path", { class: "area", d: area }),
    svg("path", { class: "line", d: line }),
  );
}
