// The parts of the API → the sections of the page.

import { age, bytes, el, grade, number, pill, spark, time } from "./dom.js";

const num = (label, text, state = "") => el("td", { class: `num ${text === "–" ? "none" : state}`, "data-label": label }, text);
const cell = (label, ...content) => el("td", { "data-label": label }, ...content);
const head = (...columns) =>
  el("thead", {}, el("tr", {}, ...columns.map((c) => (typeof c === "string" ? el("th", { scope: "col" }, c) : c))));
const row = (key, ...cells) => el("tr", { "data-key": key }, ...cells);
const code = (text) => el("code", {}, text);
const notes = (items, state) => items.length > 0 && el("ul", { class: `notes ${state}` }, ...items.map((item) => el("li", {}, item)));
const omitted = (part, columns) =>
  part.omitted > 0 && el("tr", {}, el("td", { colspan: columns, class: "quiet" }, `${part.omitted} more are not shown: they would not fit`));

/** Columns of the traffic table: what is shown, by what it sorts, in which direction first. */
const COLUMNS = [
  ["From", (e) => e.source, 1],
  ["To", (e) => e.destination, 1],
  ["Requests/s", (e) => e.requestsPerSecond, -1],
  ["Success", (e) => e.successPercent ?? 101, 1],
  ["p50", (e) => e.p50Milliseconds ?? -1, -1],
  ["p90", (e) => e.p90Milliseconds ?? -1, -1],
  ["p99", (e) => e.p99Milliseconds ?? -1, -1],
  ["TCP", (e) => e.bytesPerSecond, -1],
  ["mTLS", (e) => e.mutualTlsPercent ?? 101, 1],
];

export function pairs(part, history, sort) {
  const [, by, first] = COLUMNS[sort.column];
  const sign = sort.turned ? -first : first;
  const compare = (a, b) => {
    const [x, y] = [by(a), by(b)];
    return (sign * (typeof x === "string" ? x.localeCompare(y) : x - y)) || `${a.source}>${a.destination}`.localeCompare(`${b.source}>${b.destination}`);
  };
  const heads = COLUMNS.map(([name], at) => {
    const sorted = at === sort.column ? (sign > 0 ? "ascending" : "descending") : null;
    return el("th", { scope: "col", class: at > 1 ? "num" : "", "aria-sort": sorted }, el("button", { type: "button", "data-sort": at }, name));
  });
  const rows = [...part.items].sort(compare).map((e) => {
    const tcp = e.connectionsPerSecond || e.bytesPerSecond;
    return row(
      `${e.source}>${e.destination}`,
      el("th", { scope: "row", "data-label": "From" }, e.source),
      cell("To", e.destination),
      el("td", { class: "num", "data-label": "Requests/s" }, spark(history.get(`${e.source}>${e.destination}`) ?? []), el("span", { class: "wide" }, number(e.requestsPerSecond))),
      num("Success", e.successPercent === null ? "–" : `${number(e.successPercent)} %`, grade(e.successPercent)),
      num("p50", time(e.p50Milliseconds)),
      num("p90", time(e.p90Milliseconds)),
      num("p99", time(e.p99Milliseconds)),
      num("TCP", tcp ? `${number(e.connectionsPerSecond)} conn/s, ${bytes(e.bytesPerSecond)}/s` : "–"),
      num("mTLS", e.mutualTlsPercent === null ? "–" : `${number(e.mutualTlsPercent, 0)} %`, e.mutualTlsPercent !== null && e.mutualTlsPercent < 99.9 ? "warn" : ""),
    );
  });
  return [el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows, omitted(part, COLUMNS.length))];
}

const STATES = {
  ready: ["ready", "good"],
  starting: ["starting", "warn"],
  unready: ["not ready", "bad"],
  draining: ["draining", "warn"],
  lost: ["lost", "bad"],
};
const MODES = {
  strict: ["STRICT", "good", "only mTLS is accepted"],
  permissive: ["PERMISSIVE", "", "mTLS and plain text are accepted"],
  disable: ["DISABLE", "warn", "only plain text is accepted"],
};

export function services(part, workloads, clients) {
  const byId = new Map(workloads.items.map((w) => [w.id, w]));
  const cards = part.items.map((service) => {
    const members = service.workloads.map((id) => byId.get(id)).filter(Boolean);
    const [ready, all] = [service.ready.length, service.workloads.length];
    const state = all === 0 ? "" : ready === all ? "good" : ready ? "warn" : "bad";
    const ports = service.ports.map((p) => `${p.number}${p.target !== p.number ? ` → ${p.target}` : ""} ${p.protocol}`);
    return card(
      service.host,
      [el("span", { class: "name" }, service.name), el("span", { class: "quiet" }, service.namespace), pill(all ? `${ready}/${all} ready` : "no workloads here", state)],
      [
        ["Host", code(service.host)],
        ["Address", service.headless ? "headless" : addresses(service.addresses)],
        ["Ports", ports.join(", ") || "–"],
        ["Published", [...new Set(members.flatMap((w) => w.ports.filter((p) => p.published).map((p) => `${p.published} → ${p.number}`)))].join(", ")],
      ],
      members,
    );
  });
  if (clients.length > 0) {
    cards.push(card("", [el("span", { class: "name" }, "Clients"), el("span", { class: "quiet" }, "nobody calls them")], [], clients));
  }
  if (part.omitted > 0) cards.push(el("p", { class: "quiet" }, `${part.omitted} more are not shown: they would not fit`));
  return cards;
}

const addresses = (list) => (list.length ? el("span", {}, ...list.flatMap((a, i) => (i ? [" ", code(a)] : [code(a)]))) : "–");

function card(key, title, facts, members) {
  return el(
    "details",
    { "data-key": `card ${key}`, class: "card", open: true },
    el("summary", {}, el("h3", {}, ...title)),
    facts.length > 0 && el("dl", { class: "facts" }, ...facts.filter(([, value]) => value).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    members.length > 0 &&
      el("div", { class: "scroll" }, el("table", { class: "stack" }, head("Workload", "State", "Address", "mTLS", "Identity"), el("tbody", {}, ...members.map(workload)))),
  );
}

function workload(w) {
  const [text, state] = STATES[w.state] ?? [w.state, ""];
  const modes = w.ports.filter((p) => p.mutualTls).map((p) => {
    const [mode, state, title] = MODES[p.mutualTls] ?? [p.mutualTls, "", ""];
    return el("span", { class: "mode" }, el("span", { class: "quiet" }, `${p.target} `), pill(mode, state, title));
  });
  return row(
    w.id,
    el("th", { scope: "row", "data-label": "Workload" }, w.id, w.host && el("span", { class: "quiet" }, ` on ${w.host}`), labels(w.labels)),
    cell("State", pill(text, state)),
    cell("Address", addresses(w.addresses)),
    cell("mTLS", ...(modes.length ? modes : ["–"])),
    cell("Identity", code(w.identity)),
  );
}

const labels = (all) => {
  const entries = Object.entries(all);
  return entries.length > 0 && el("span", { class: "labels quiet" }, entries.map(([name, value]) => `${name}=${value}`).join(" "));
};

export function proxies(part, revision, now) {
  const rows = part.items.map((p) => {
    const behind = p.ackedRevision < revision;
    const [text, state] = p.rejected.length ? ["refuses", "bad"] : behind ? ["behind", "warn"] : ["in sync", "good"];
    const refusals = p.rejected.map((r) => el("span", {}, el("strong", {}, `${r.kind} ${r.names.join(", ")}`), ` ${r.message}`));
    const types = p.types.map((t) => el("span", { class: t.acked < t.resources ? "warn" : "", title: `${t.acked} of ${t.resources} accepted` }, `${t.kind} ${t.acked}/${t.resources}`));
    return row(
      p.node,
      el("th", { scope: "row", "data-label": "Proxy" }, p.workload ?? p.node, p.identity && el("span", { class: "labels quiet" }, p.identity), notes(refusals, "bad")),
      cell("Sync", pill(text, state)),
      num("Revision", `${p.ackedRevision} of ${revision}`),
      cell("Accepted", el("span", { class: "kinds" }, ...types)),
      cell("Agent", p.agent || "–", el("span", { class: "quiet" }, ` ${p.protocol}`)),
      num("Connected", age(now - p.connectedSince)),
    );
  });
  return [head("Proxy", "Sync", "Revision", "Accepted", "Agent", "Connected"), el("tbody", {}, ...rows, omitted(part, 6))];
}

export function resources(part) {
  const rows = part.items.map((r) => {
    const refusals = r.rejected.map((x) => `refused by a proxy: ${x.kind} ${x.names.join(", ")}: ${x.message}`);
    const conflicts = r.conflicts.map((c) => `yields to ${c.winner} about ${c.about}`);
    const accepted = r.accepted ? ["Accepted", "good"] : r.lastGood ? ["Not accepted, the last good version serves", "warn"] : ["Not accepted", "bad"];
    const [kind, namespace, ...name] = r.resource.split("/");
    return row(
      r.resource,
      el("th", { scope: "row", "data-label": "Resource" }, el("span", { class: "quiet" }, `${kind} `), `${namespace}/${name.join("/")}`, notes(r.messages, r.accepted ? "warn" : "bad"), notes([...refusals, ...conflicts], "warn")),
      cell("Conditions", el("span", { class: "pills" },
        pill(...accepted),
        r.accepted && r.proxies > 0 && pill(r.programmed ? "Programmed" : `Programmed ${r.proxiesAcked}/${r.proxies}`, r.programmed ? "good" : "warn", `${r.proxiesAcked} of ${r.proxies} proxies have accepted it`),
        conflicts.length > 0 && pill("Conflicted", "warn"),
        r.accepted && r.messages.length > 0 && pill("Warnings", "warn"))),
      cell("Origin", code(r.origin)),
    );
  });
  return [head("Resource", "Conditions", "Origin"), el("tbody", {}, ...rows, omitted(part, 3))];
}

export const sources = (part) =>
  part.items.map((s) =>
    el("li", { "data-key": s.source }, code(s.source), " ", s.error ? pill("cannot be read", "bad") : el("span", { class: "quiet" }, `${s.resources} resources`), notes([s.error, ...s.messages].filter(Boolean), s.error ? "bad" : "warn")),
  );

/** What is seen first: six figures. */
export function tiles(mesh, parts, history, now) {
  const edges = parts.traffic.items;
  const sum = (of) => edges.reduce((total, edge) => total + of(edge), 0);
  const rate = sum((e) => e.requestsPerSecond);
  const success = rate > 0 ? sum((e) => e.requestsPerSecond * (e.successPercent ?? 0)) / rate : null;
  const slowest = edges.reduce((worst, e) => ((e.p99Milliseconds ?? -1) > (worst?.p99Milliseconds ?? -1) ? e : worst), null);
  const workloads = parts.workloads.items;
  const ready = workloads.filter((w) => w.state === "ready").length;
  const proxies = parts.proxies.items;
  const synced = proxies.filter((p) => !p.rejected.length && p.ackedRevision >= mesh.revision).length;
  const refused = parts.resources.items.filter((r) => !r.accepted).length + parts.sources.items.filter((s) => s.error).length;
  const warned = parts.resources.items.filter((r) => r.accepted && (r.messages.length || r.conflicts.length || r.rejected.length)).length;
  const left = mesh.authorityExpires && mesh.authorityExpires - now;
  const share = (some, all) => (some === all ? "good" : "warn");
  const list = mesh.measured
    ? [
        ["Requests", `${number(rate)}/s`, "", "", spark(history.get("") ?? [], 120, 26)],
        ["Success", success === null ? "–" : `${number(success, 2)} %`, grade(success), "of all requests"],
        ["Slowest p99", time(slowest?.p99Milliseconds), "", slowest?.p99Milliseconds != null ? `${slowest.source} → ${slowest.destination}` : ""],
      ]
    : [];
  list.push(
    ["Workloads", `${ready}/${workloads.length}`, share(ready, workloads.length), "ready"],
    ["Proxies", `${synced}/${proxies.length}`, share(synced, proxies.length), "in sync"],
    ["Configuration", refused ? `${refused} refused` : warned ? `${warned} to look at` : "good", refused ? "bad" : warned ? "warn" : "good", left ? `signing certificate: ${age(left)} left` : ""],
  );
  return list.map(([name, value, state, note, picture]) =>
    el("div", { "data-key": name, class: `tile ${state}` }, el("dt", {}, name), el("dd", {}, el("span", { class: "value" }, value), picture, note && el("span", { class: "quiet" }, note))),
  );
}
