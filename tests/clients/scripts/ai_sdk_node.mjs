import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";
import { assert, name, trying, url } from "./report.mjs";

const provider = createOpenAICompatible({ name: "helix", baseURL: `${url}/v1`, supportsStructuredOutputs: true });
const model = provider(name);

await trying("chat", async () => {
  assert((await generateText({ model, prompt: "Hello", maxOutputTokens: 8 })).text, "no words");
});
await trying("streamed chat", async () => {
  let text = "";
  for await (const piece of streamText({ model, prompt: "Hello", maxOutputTokens: 8 }).textStream) text += piece;
  assert(text, "no words");
});
await trying("a tool, forced", async () => {
  const inputSchema = z.object({ city: z.enum(["Paris", "Rome"]) });
  const tools = { weather: tool({ description: "The weather in a city", inputSchema }) };
  const answer = await generateText({ model, prompt: "Hello", tools, toolChoice: "required", maxOutputTokens: 64 });
  assert(["Paris", "Rome"].includes(answer.toolCalls[0].input.city), "another call");
});
await trying("an object", async () => {
  const schema = z.object({ city: z.enum(["Paris", "Rome"]) });
  const answer = await generateObject({ model, prompt: "Where?", schema, maxOutputTokens: 64 });
  assert(["Paris", "Rome"].includes(answer.object.city), "another object");
});
