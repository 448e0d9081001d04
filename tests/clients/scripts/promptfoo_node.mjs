import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { assert, name, trying, url } from "./report.mjs";

const home = process.cwd();
const environment = {
  ...process.env,
  OPENAI_API_KEY: "none",
  PROMPTFOO_CONFIG_DIR: `${home}/promptfoo`,
  PROMPTFOO_DISABLE_TELEMETRY: "1",
  PROMPTFOO_DISABLE_UPDATE: "1",
  PROMPTFOO_DISABLE_SHARING: "1",
};

// The results of an evaluation, of one prompt and one test each.
function evaluated(config, assertions) {
  const job = {
    description: "a running job",
    prompts: ["What is the capital of {{country}}?"],
    providers: [{ id: `openai:chat:${name}`, config: { apiBaseUrl: `${url}/v1`, max_tokens: 24, ...config } }],
    tests: [{ vars: { country: "France" }, assert: assertions }],
  };
  writeFileSync("job.json", JSON.stringify(job));
  const words = ["promptfoo", "eval", "-c", "job.json", "-o", "out.json", "--no-cache", "--no-progress-bar"];
  const run = spawnSync("npx", words, { env: environment, cwd: home, stdio: ["ignore", 2, 2] });
  const out = JSON.parse(readFileSync("out.json"));
  const [only] = out.results.results;
  assert(run.status === 0 && only.success, only.error || `exit code ${run.status}`);
  return only;
}

await trying("an assertion on an answer", () => evaluated({ temperature: 0 }, [{ type: "contains", value: "Paris" }]));
await trying("a JSON schema", () => {
  const schema = {
    type: "object",
    properties: { city: { enum: ["Paris", "Rome"] } },
    required: ["city"],
    additionalProperties: false,
  };
  const form = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
  evaluated({ response_format: form, max_tokens: 64 }, [{ type: "is-json", value: schema }]);
});
