// Pairs of services → a drawing of who calls whom, in layers from callers to called.

import { el, grade, number, svg } from "./dom.js";

/** Side by side, and for narrow screens. */
const SIZES = {
  false: { width: 168, height: 46, along: 126, across: 26, letters: 17 },
  true: { width: 128, height: 46, along: 72, across: 12, letters: 12 },
};
const MARGIN = 22;

/** `vertical`: layers below each other, for narrow screens. `ready`: service name → [ready, all]. */
export function graph(edges, ready, vertical) {
  const names = [...new Set(edges.flatMap((edge) => [edge.source, edge.destination]))].sort();
  const { layers, ways } = stretched(layered(names, edges), edges);
  const place = placed(order(layers, [...ways.values()]), vertical);
  const width = Math.max(...[...place.values()].map((at) => at.x + at.width)) + MARGIN;
  const height = Math.max(...[...place.values()].map((at) => at.y + at.height)) + MARGIN;
  const busiest = Math.max(...edges.map(load), 1);
  const calls = (of) => (name) => edges.filter((edge) => edge[of] === name && load(edge) > 0).length;
  const [callers, called] = [calls("destination"), calls("source")];
  const lines = edges.map((edge) => {
    const way = ways.get(edge).map((name) => place.get(name));
    // Where lines fan out their ends are apart, where they meet their beginnings are.
    return line(edge, way, vertical, busiest, callers(edge.destination) > called(edge.source) ? 0.3 : 0.66);
  });
  const boxes = names.map((name) => box(name, place.get(name), ready.get(name), SIZES[vertical].letters));
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": `${names.length} services, ${edges.length} pairs that call each other; the table below tells the same`,
    },
    svg("defs", {}, ...["good", "warn", "bad", "idle"].map(arrow)),
    ...lines.map((parts) => parts[0]),
    ...boxes,
    ...lines.map((parts) => parts[1]),
  );
}

const load = (edge) => edge.requestsPerSecond + edge.connectionsPerSecond;

/** Longest way from a caller that nobody calls; a call that closes a circle does not count. */
function layered(names, edges) {
  const out = new Map(names.map((name) => [name, []]));
  for (const { source, destination } of edges) if (source !== destination) out.get(source).push(destination);
  const called = new Set(edges.filter((e) => e.source !== e.destination).map((e) => e.destination));
  const state = new Map();
  const sorted = [];
  const visit = (name) => {
    state.set(name, "open");
    const next = out.get(name).filter((to) => {
      if (state.get(to) === "open") return false;
      if (!state.has(to)) visit(to);
      return true;
    });
    out.set(name, next);
    state.set(name, "done");
    sorted.push(name);
  };
  for (const name of [...names.filter((name) => !called.has(name)), ...names]) if (!state.has(name)) visit(name);
  const depth = new Map(names.map((name) => [name, 0]));
  for (const name of sorted.reverse()) {
    for (const to of out.get(name)) depth.set(to, Math.max(depth.get(to), depth.get(name) + 1));
  }
  const layers = [];
  for (const name of names) (layers[depth.get(name)] ??= []).push(name);
  return layers.filter(Boolean);
}

/** A call over several layers gets a place in each of those between, so that its line passes no service. */
function stretched(layers, edges) {
  const depth = new Map(layers.flatMap((layer, at) => layer.map((name) => [name, at])));
  const ways = new Map();
  edges.forEach((edge, i) => {
    const [from, to] = [depth.get(edge.source), depth.get(edge.destination)];
    const way = [edge.source];
    for (let at = from + 1; at < to; at += 1) {
      // No service has a name with a line break.
      const name = `\n${i}/${at}`;
      layers[at].push(name);
      way.push(name);
    }
    ways.set(edge, [...way, edge.destination]);
  });
  return { layers, ways };
}

/** Each layer by where its neighbours are, a few times there and back: fewer crossings. */
function order(layers, ways) {
  const near = new Map(layers.flat().map((name) => [name, []]));
  for (const way of ways) {
    for (let i = 1; i < way.length; i += 1) {
      near.get(way[i - 1]).push(way[i]);
      near.get(way[i]).push(way[i - 1]);
    }
  }
  const at = new Map(layers.flatMap((layer) => layer.map((name, i) => [name, (i + 0.5) / layer.length])));
  for (let round = 0; round < 6; round += 1) {
    for (const layer of round % 2 ? [...layers].reverse() : layers) {
      const mean = (name) => {
        const places = near.get(name).map((other) => at.get(other));
        return places.length ? places.reduce((a, b) => a + b, 0) / places.length : at.get(name);
      };
      const means = new Map(layer.map((name) => [name, mean(name)]));
      layer.sort((a, b) => means.get(a) - means.get(b) || a.localeCompare(b));
      layer.forEach((name, i) => at.set(name, (i + 0.5) / layer.length));
    }
  }
  return layers;
}

const isPoint = (name) => name.startsWith("\n");

function placed(layers, vertical) {
  const node = SIZES[vertical];
  const size = (name) => (isPoint(name) ? 12 : vertical ? node.width : node.height);
  const length = (layer) => layer.reduce((sum, name) => sum + size(name) + node.across, -node.across);
  const along = node.along + (vertical ? node.height : node.width);
  const most = Math.max(...layers.map(length));
  const place = new Map();
  layers.forEach((layer, depth) => {
    const a = MARGIN + depth * along;
    let b = MARGIN + (most - length(layer)) / 2;
    for (const name of layer) {
      const [width, height] = vertical ? [size(name), node.height] : [node.width, size(name)];
      place.set(name, vertical ? { x: b, y: a, width, height } : { x: a, y: b, width, height });
      b += size(name) + node.across;
    }
  });
  return place;
}

function box(name, at, ready, letters) {
  const [good, all] = ready ?? [null, 0];
  const state = !ready || all === 0 ? "idle" : good === all ? "good" : good ? "warn" : "bad";
  const note = !ready ? "outside the mesh" : all ? `${good} of ${all} ready` : "no workloads here";
  return svg(
    "g",
    { class: `node ${state}`, transform: `translate(${at.x} ${at.y})` },
    svg("title", {}, `${name}: ${note}`),
    svg("rect", { width: at.width, height: at.height, rx: 9 }),
    svg("circle", { cx: 15, cy: 17, r: 4.5 }),
    svg("text", { x: 27, y: 21, class: "name" }, short(name, letters)),
    svg("text", { x: 27, y: 37, class: "note" }, note),
  );
}

/** `share` of the way is where the label is. */
function line(edge, way, vertical, busiest, share) {
  const [from, to] = [way[0], way.at(-1)];
  const forward = vertical ? to.y > from.y : to.x > from.x;
  let curves;
  if (from === to) {
    const [x, y] = [from.x + from.width * 0.6, from.y];
    curves = [[[x, y], [x, y - 26], [x + 42, y - 26], [x + 42, y - 4]]];
  } else if (forward) {
    curves = way.slice(1).map((next, i) => hop(way[i], next, next === to, vertical));
  } else {
    const [x1, y1, x2, y2] = [from.x + from.width * 0.4, from.y + from.height, to.x + to.width * 0.6, to.y + to.height + 5];
    const low = Math.max(y1, y2) + 40;
    curves = [[[x1, y1], [x1, low], [x2, low], [x2, y2]]];
  }
  const start = curves[0][0];
  const d = `M${start.join(" ")}` + curves.map(([, a, b, c]) => `C${[...a, ...b, ...c].join(" ")}`).join("");
  const at = share * curves.length;
  const place = along(curves[Math.min(Math.floor(at), curves.length - 1)], at - Math.floor(at));
  const state = load(edge) === 0 ? "idle" : grade(edge.successPercent) || "good";
  const thick = load(edge) === 0 ? 1.25 : 1.5 + 3 * Math.sqrt(load(edge) / busiest);
  const group = svg(
    "g",
    { class: `edge ${state}` },
    svg("path", { d, "stroke-width": thick.toFixed(1), "marker-end": `url(#arrow-${state})` }),
    load(edge) > 0 && svg("path", { d, class: "flow", "stroke-width": Math.max(1.2, thick * 0.5).toFixed(1) }),
  );
  return [group, label(edge, place, state)];
}

/** From one place to one of the next layer, as a curve that leaves and arrives straight. */
function hop(from, to, last, vertical) {
  const end = last ? 5 : 0;
  if (vertical) {
    const [x1, y1, x2, y2] = [from.x + from.width / 2, from.y + from.height, to.x + to.width / 2, (last ? to.y : to.y + to.height) - end];
    const middle = (y1 + (last ? y2 : to.y)) / 2;
    return [[x1, y1], [x1, middle], [x2, middle], [x2, y2]];
  }
  const [x1, y1, x2, y2] = [from.x + from.width, from.y + from.height / 2, (last ? to.x : to.x + to.width) - end, to.y + to.height / 2];
  const middle = (x1 + (last ? x2 : to.x)) / 2;
  return [[x1, y1], [middle, y1], [middle, y2], [x2, y2]];
}

/** The point of a cubic Bézier curve at `t`. */
function along([a, b, c, d], t) {
  const mix = (i) => (1 - t) ** 3 * a[i] + 3 * (1 - t) ** 2 * t * b[i] + 3 * (1 - t) * t ** 2 * c[i] + t ** 3 * d[i];
  return { x: mix(0), y: mix(1) };
}

function label(edge, at, state) {
  if (load(edge) === 0) return null;
  const secure = edge.mutualTlsPercent !== null && edge.mutualTlsPercent > 99.9;
  const rate = edge.requestsPerSecond > 0 ? `${number(edge.requestsPerSecond)}/s` : `${number(edge.connectionsPerSecond)} conn/s`;
  const text = state === "good" || edge.successPercent === null ? rate : `${rate} · ${number(edge.successPercent, 0)}%`;
  const width = text.length * 6.6 + (secure ? 26 : 14);
  return svg(
    "g",
    { class: `label ${state}`, transform: `translate(${at.x - width / 2} ${at.y - 9})` },
    svg("rect", { width, height: 18, rx: 9 }),
    secure && svg("path", { class: "lock", d: "M8.5 8.5v-2a2.5 2.5 0 0 1 5 0v2m-6 0h7v5h-7z" }),
    svg("text", { x: secure ? 18 : 7, y: 13 }, text),
  );
}

const arrow = (state) =>
  svg(
    "marker",
    { id: `arrow-${state}`, class: `arrow ${state}`, viewBox: "0 0 8 8", refX: 5, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" },
    svg("path", { d: "M0 0.5L7 4L0 7.5z" }),
  );

const short = (name, length) => (name.length > length ? `${name.slice(0, length - 1)}…` : name);

/** A picture for who sees and a caption for all. */
export const figure = (edges, ready, vertical) => [
  el("div", { class: "canvas" }, graph(edges, ready, vertical)),
  el("figcaption", {}, "Thickness tells the rate, colour the success, a lock that all of it came over mTLS."),
];
