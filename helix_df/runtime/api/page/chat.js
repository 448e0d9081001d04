// The chat: one conversation, one answer at a time.

import { ApiError, streamed } from "./api.js";
import { byId, element } from "./dom.js";

const said = byId("said");
const question = byId("question");
let messages = [];
let running = null;
let model = null;

export function setModel(name) {
  model = name;
}

function add(who, text) {
  const words = element("span", {}, text);
  const item = element("div", { class: "turn" }, element("span", { class: "who" }, who), words);
  said.append(item);
  said.scrollTop = said.scrollHeight;
  return { item, words };
}

function options() {
  const asked = { model, temperature: byId("temperature").valueAsNumber, max_tokens: byId("tokens").valueAsNumber };
  if (byId("seed").value !== "") asked.seed = byId("seed").valueAsNumber;
  for (const name of ["temperature", "max_tokens", "seed"]) if (Number.isNaN(asked[name])) delete asked[name];
  return asked;
}

function asked(text) {
  if (byId("plain").checked) return ["v1/completions", { ...options(), prompt: text }];
  const system = byId("system").value;
  const before = system === "" ? [] : [{ role: "system", content: system }];
  return ["v1/chat/completions", { ...options(), messages: [...before, ...messages] }];
}

// Words go to the page once a frame, however fast tokens come.
function writer(words) {
  let waiting = "";
  let isDue = false;
  const write = () => {
    isDue = false;
    const follows = said.scrollHeight - said.scrollTop - said.clientHeight < 40;
    words.append(waiting);
    waiting = "";
    words.normalize();
    if (follows) said.scrollTop = said.scrollHeight;
  };
  return {
    add(text) {
      waiting += text;
      if (!isDue) requestAnimationFrame(write);
      isDue = true;
    },
    flush: write,
  };
}

function thoughts(item, words) {
  const inside = element("span", {});
  item.insertBefore(element("details", {}, element("summary", {}, "Reasoning"), inside), words);
  return writer(inside);
}

function note(item, text, kind = "") {
  item.append(element("span", { class: `note ${kind}` }, `\n${text}`));
  said.scrollTop = said.scrollHeight;
}

async function answer(text) {
  messages.push({ role: "user", content: text });
  add("You", text);
  const { item, words } = add(model ?? "model", "");
  const out = writer(words);
  let thinking = null;
  let whole = "";
  let tokens = 0;
  let why = null;
  const began = performance.now();
  let first = null;
  running = new AbortController();
  busy(true);
  try {
    const [path, body] = asked(text);
    for await (const chunk of streamed(path, { ...body, stream_options: { include_usage: true } }, running.signal)) {
      const choice = chunk.choices?.[0];
      if (chunk.usage) tokens = chunk.usage.completion_tokens;
      if (choice === undefined) continue;
      const piece = choice.delta?.content ?? choice.text ?? "";
      const thought = choice.delta?.reasoning_content ?? "";
      if (piece + thought !== "") first ??= performance.now();
      if (thought !== "") (thinking ??= thoughts(item, words)).add(thought);
      if (piece !== "") out.add(piece);
      whole += piece;
      why = choice.finish_reason ?? why;
    }
    note(item, summary(tokens, began, first, why));
  } catch (error) {
    if (error.name === "AbortError") note(item, "stopped");
    else note(item, error instanceof ApiError ? error.message : `The connection broke: ${error.message}`, "bad");
  } finally {
    out.flush();
    thinking?.flush();
    // A question without an answer isn't part of what the model is told next.
    if (whole === "") messages.pop();
    else messages.push({ role: "assistant", content: whole });
    running = null;
    busy(false);
  }
}

function summary(tokens, began, first, why) {
  const seconds = (performance.now() - began) / 1000;
  const start = first === null ? "" : `, the first after ${((first - began) / 1000).toFixed(2)} s`;
  return `${tokens} tokens in ${seconds.toFixed(1)} s${start}${why === "length" ? ", as long as asked" : ""}`;
}

function busy(is) {
  byId("send").disabled = is;
  byId("stop").disabled = !is;
  said.setAttribute("aria-busy", String(is));
}

function stop() {
  running?.abort();
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value;
  if (running !== null || text.trim() === "") return;
  question.value = "";
  answer(text);
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("ask").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
byId("stop").addEventListener("click", () => {
  stop();
  question.focus();
});
byId("clear").addEventListener("click", () => {
  stop();
  messages = [];
  said.replaceChildren();
  question.focus();
});
