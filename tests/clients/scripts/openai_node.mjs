import OpenAI from "openai";
import { assert, name as model, trying, url } from "./report.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];

await trying("chat", async () => {
  const answer = await client.chat.completions.create({ model, messages, max_tokens: 8 });
  assert(answer.choices[0].message.content, "no words");
});
await trying("streamed chat", async () => {
  let text = "";
  const chunks = await client.chat.completions.create({ model, messages, max_tokens: 8, stream: true });
  for await (const chunk of chunks) text += chunk.choices[0]?.delta?.content ?? "";
  assert(text, "no words");
});
await trying("responses", async () => {
  const answer = await client.responses.create({ model, input: "Hello", max_output_tokens: 8 });
  assert(answer.output_text, "no words");
});
