// Asks the API, with the key that this tab has been given, and reads what it streams.

const KEY = "helix-df key";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers(more) {
  const key = sessionStorage.getItem(KEY);
  return key === null ? more : { ...more, Authorization: `Bearer ${key}` };
}

// Paths have no slash in front: the page may lie behind a proxy's path.
async function answered(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers ?? {}) });
  if (answer.ok) return answer;
  let words = `${answer.status} ${answer.statusText}`;
  try {
    words = (await answer.json()).error.message ?? words;
  } catch {
    // Not an error of the API: the status says what there is to say.
  }
  throw new ApiError(answer.status, words);
}

export async function overview() {
  return (await answered("helix/overview", { signal: AbortSignal.timeout(8000) })).json();
}

// Yields each document that the API streams, until it ends or `signal` aborts.
export async function* streamed(path, body, signal) {
  const answer = await answered(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data === "") continue;
      const document = JSON.parse(data);
      if (document.error) throw new ApiError(document.error.code ?? 500, document.error.message);
      yield document;
    }
  }
}
