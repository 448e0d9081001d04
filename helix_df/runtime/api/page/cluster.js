// The plan as it runs: figures of the job, layers by node, flow by link.

import { bar, byId, cell, element, rounded } from "./dom.js";

const KEPT = 120;
const rates = [];
let before = null;

// Tokens/s since the status before; a coordinator that was started again counts from nothing.
function rate(now, then, seconds) {
  return then === undefined || seconds <= 0 ? 0 : Math.max(0, now - then) / seconds;
}

export function show(status, atSeconds, latencies) {
  const seconds = before === null ? 0 : atSeconds - before.at;
  const generated = rate(status.generated_tokens, before?.status.generated_tokens, seconds);
  if (before !== null) rates.push(generated);
  if (rates.length > KEPT) rates.shift();
  figures(status, generated, latencies);
  line();
  nodes(status);
  hops(status, before?.status, seconds);
  before = { status, at: atSeconds };
}

function figures(status, generated, { first, between }) {
  const latency = (seconds) => (seconds === null ? "–" : `${Math.round(seconds * 1000)} ms`);
  const shown = [
    ["Tokens/s", rounded(generated)],
    ["Planned", rounded(status.planned_tokens_per_s)],
    ["First token, median", latency(first)],
    ["Between tokens", latency(between)],
    ["Running", status.running],
    ["Waiting", status.waiting],
    ["Answered", status.finished.toLocaleString("en")],
    ["Failed", status.failed.toLocaleString("en")],
  ];
  byId("figures").replaceChildren(
    ...shown.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))),
  );
}

function line() {
  const most = Math.max(1, ...rates);
  const points = rates.map((value, index) => `${600 - (rates.length - 1 - index) * 5},${58 - (value / most) * 54}`);
  byId("rate").firstElementChild.setAttribute("points", points.join(" "));
}

function health(node) {
  if (node.state === "ready") return node.drained || node.role !== "serving" ? "busy" : "good";
  return node.state === "lost" || node.state === "failed" ? "bad" : "busy";
}

const SIGNS = { good: "●", busy: "◐", bad: "✕" };

function nodes(status) {
  byId("layers").textContent = `0 to ${status.num_layers - 1}`;
  byId("nodes").tBodies[0].replaceChildren(...status.nodes.map((node) => nodeRow(node, status.num_layers)));
}

function nodeRow(node, numLayers) {
  const kind = health(node);
  const [start, stop] = node.layers;
  const words = [node.state, node.role === "serving" ? "" : node.role, node.drained ? "drained" : ""];
  const progress = node.progress > 0 && node.progress < 1 ? ` ${Math.round(node.progress * 100)} %` : "";
  const state = cell(element("span", { class: kind }, `${SIGNS[kind]} ${words.filter(Boolean).join(", ")}${progress}`));
  const why = [node.detail.split("\n")[0], node.restarts ? `started again ${node.restarts} ×` : ""].filter(Boolean);
  if (why.length) state.append(element("span", { class: "why" }, why.join("; ")));
  const share = node.kv_capacity_tokens ? node.kv_used_tokens / node.kv_capacity_tokens : 0;
  const part = [(100 * start) / numLayers, (100 * stop) / numLayers, kind === "bad" ? "ill" : "part"];
  const name = element("th", {}, node.name);
  name.scope = "row";
  return element(
    "tr",
    {},
    name,
    state,
    cell(bar(`layers ${start} to ${stop - 1}`, [part])),
    cell(String(node.running), "number"),
    cell(`${Math.round(100 * share)} %`, "number"),
  );
}

function hops(status, former, seconds) {
  const carried = new Map((former?.hops ?? []).map((hop) => [`${hop.tail}\n${hop.head}`, hop.tokens]));
  const cut = new Set(status.cut_hops.map(([tail, head]) => `${tail}\n${head}`));
  const rows = status.hops.map((hop) => {
    const name = `${hop.tail}\n${hop.head}`;
    return hopRow(hop, rate(hop.tokens, carried.get(name), seconds), cut.has(name));
  });
  byId("hops").tBodies[0].replaceChildren(...rows);
}

function hopRow(hop, now, isCut) {
  const share = hop.planned_tokens_per_s > 0 ? Math.min(100, (100 * now) / hop.planned_tokens_per_s) : 0;
  const label = isCut ? "cut" : `${Math.round(share)} % of the planned flow`;
  return element(
    "tr",
    {},
    cell(hop.tail),
    cell(isCut ? element("span", { class: "bad" }, `${SIGNS.bad} ${hop.head}`) : hop.head),
    cell(bar(label, isCut ? [[0, 100, "ill"]] : [[0, share, "part"]])),
    cell(rounded(now), "number"),
    cell(hop.planned_tokens_per_s > 0 ? rounded(hop.planned_tokens_per_s) : "spare", "number"),
    cell(String(hop.running), "number"),
  );
}
