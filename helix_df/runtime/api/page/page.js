// Keeps the page up to date: asks for the job's overview once a second, while anybody looks.

import { overview, useKey } from "./api.js";
import { setModel } from "./chat.js";
import { show } from "./cluster.js";
import { byId } from "./dom.js";

const EVERY_MS = 1000;
const KINDS = { ready: "good", degraded: "bad", failed: "bad" };

function header(now) {
  byId("model").textContent = now.model;
  document.title = `${now.model} · helix-df`;
  const missing = now.missing_layers.map(([start, stop]) => `${start} to ${stop - 1}`).join(", ");
  const words = missing === "" ? now.state : `${now.state}: nobody holds layers ${missing}`;
  // Screen readers tell each change; the same again is none.
  if (byId("state").textContent !== words) byId("state").textContent = words;
  byId("state").className = `state ${KINDS[now.state] ?? "busy"}`;
  setModel(now.model);
}

function trouble(words) {
  if (byId("trouble").textContent !== words) byId("trouble").textContent = words;
  byId("trouble").hidden = words === "";
}

async function look() {
  try {
    const now = await overview();
    header(now);
    show(now, performance.now() / 1000);
    trouble([now.detail, now.change, now.replanned, now.slower].filter(Boolean).join("; "));
    byId("key-form").hidden = true;
  } catch (error) {
    byId("key-form").hidden = error.status !== 401;
    byId("state").className = "state bad";
    byId("state").textContent = error.status === 401 ? "an API key is needed" : "no connection";
    trouble(error.status === 401 ? "" : `The job doesn't answer: ${error.message}`);
  }
}

async function keepLooking() {
  if (!document.hidden) await look();
  setTimeout(keepLooking, EVERY_MS);
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  byId("key").value = "";
  look();
});
keepLooking();
