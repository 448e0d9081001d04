// The plan as it runs: figures of the job, layers by node, flow by link.

import { bar, byId, cell, element, rounded } from "./dom.js";

const KEPT = 120;
const rates = [];
let before = null;

// Tokens/s since the status before; a coordinator that was started again counts from nothing.
function rate(now, then, seconds) {
  return then === undefined || seconds <= 0 ? 0 : Math.max(0, now - then) / seconds;
}

export function show(status, atSeconds) {
  const seconds = before === null ? 0 : atSeconds - before.at;
  const generated = rate(status.generated_tokens, before?.status.generated_tokens, seconds);
  if (before !== null) rates.push(generated);
  if (rates.length > KEPT) rates.shift();
  figures(status, generated);
  line();
  nodes(status);
  hops(status, before?.status, seconds);
  before = { status, at: atSeconds };
}

function figures(status, generated) {
  const latency = (seconds) => (seconds === null ? "–" : `${Math.round(seconds * 1000)} ms`);
  const shown = [
    ["Tokens/s", rounded(generated)],
    ["Planned", rounded(status.planned_tokens_per_s)],
    ["First token, median", latency(status.time_to_first_token_s)],
    ["Between tokens", latency(status.inter_token_s)],
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

function health(row) {
  if (row.ill) return "bad";
  return row.state === "ready" && !row.drained && row.role === "serving" ? "good" : "busy";
}

const SIGNS = { good: "●", busy: "◐", bad: "✕" };

function nodes(status) {
  byId("layers").textContent = `0 to ${status.num_layers - 1}`;
  const states = Object.entries(status.by_state).map(([state, count]) => `${count.toLocaleString("en")} ${state}`);
  byId("states").textContent = `${status.nodes.toLocaleString("en")}: ${states.join(", ")}`;
  byId("nodes").tBodies[0].replaceChildren(...status.node_rows.map((row) => nodeRow(row, status.num_layers)));
}

function nodeRow(row, numLayers) {
  const kind = health(row);
  const words = [row.state, row.role === "serving" ? "" : row.role, row.drained ? "drained" : ""];
  const progress = row.progress > 0 && row.progress < 1 ? ` ${Math.round(row.progress * 100)} %` : "";
  const state = cell(element("span", { class: kind }, `${SIGNS[kind]} ${words.filter(Boolean).join(", ")}${progress}`));
  const why = [row.detail, row.restarts ? `started again ${row.restarts.toLocaleString("en")} ×` : ""].filter(Boolean);
  if (why.length) state.append(element("span", { class: "why" }, why.join("; ")));
  const share = row.kv_capacity_tokens ? row.kv_used_tokens / row.kv_capacity_tokens : 0;
  const fill = kind === "bad" ? "ill" : "part";
  const parts = row.layers.map(([start, stop]) => [(100 * start) / numLayers, (100 * stop) / numLayers, fill]);
  const held = row.layers.map(([start, stop]) => `${start} to ${stop - 1}`).join(", ");
  const name = element("th", {}, row.name);
  name.scope = "row";
  if (row.count > 1) name.append(element("span", { class: "why" }, `${row.count.toLocaleString("en")} nodes`));
  return element(
    "tr",
    {},
    name,
    state,
    cell(bar(row.ranges > 1 ? `layers ${held}, in ${row.ranges} ranges` : `layers ${held}`, parts)),
    cell(row.running.toLocaleString("en"), "number"),
    cell(`${Math.round(100 * share)} %`, "number"),
  );
}

function hops(status, former, seconds) {
  const carried = new Map((former?.hop_rows ?? []).map((row) => [`${row.tail}\n${row.head}`, row.tokens]));
  const rows = status.hop_rows.map((row) =>
    hopRow(row, rate(row.tokens, carried.get(`${row.tail}\n${row.head}`), seconds)),
  );
  byId("hops").tBodies[0].replaceChildren(...rows);
}

function hopRow(hop, now) {
  const share = hop.planned_tokens_per_s > 0 ? Math.min(100, (100 * now) / hop.planned_tokens_per_s) : 0;
  const label = hop.cut ? "cut" : `${Math.round(share)} % of the planned flow`;
  const tail = cell(hop.tail);
  if (hop.count > 1) tail.append(element("span", { class: "why" }, `${hop.count.toLocaleString("en")} links`));
  return element(
    "tr",
    {},
    tail,
    cell(hop.cut ? element("span", { class: "bad" }, `${SIGNS.bad} ${hop.head}`) : hop.head),
    cell(bar(label, hop.cut ? [[0, 100, "ill"]] : [[0, share, "part"]])),
    cell(rounded(now), "number"),
    cell(hop.planned_tokens_per_s > 0 ? rounded(hop.planned_tokens_per_s) : "spare", "number"),
    cell(hop.running.toLocaleString("en"), "number"),
  );
}
