import json

import openai
from report import ANSWER, ASKED, MODEL, URL, WEATHER, trying

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
chat = client.chat.completions.create

with trying("models"):
    assert [model.id for model in client.models.list()] == [MODEL]
with trying("chat"):
    whole = chat(model=MODEL, messages=ASKED, max_tokens=16, temperature=0)
    assert whole.choices[0].message.content
    assert whole.usage.completion_tokens
with trying("streamed chat"):
    chunks = chat(model=MODEL, messages=ASKED, max_tokens=16, temperature=0, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
with trying("completion"):
    assert client.completions.create(model=MODEL, prompt="1, 2, 3,", max_tokens=4).choices[0].text
with trying("log-probabilities"):
    answer = chat(model=MODEL, messages=ASKED, max_tokens=4, logprobs=True, top_logprobs=3)
    assert [len(token.top_logprobs) for token in answer.choices[0].logprobs.content] == [3] * 4
with trying("a tool, forced"):
    answer = chat(
        model=MODEL, messages=ASKED, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=512
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
with trying("a tool's result"):
    said = [*ASKED, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    assert chat(model=MODEL, messages=said, tools=[WEATHER], max_tokens=8).choices[0].finish_reason
with trying("a tool, streamed"):
    name, arguments = "", ""
    for chunk in chat(
        model=MODEL,
        messages=ASKED,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=512,
        stream=True,
    ):
        for piece in chunk.choices[0].delta.tool_calls or ():
            name += piece.function.name or ""
            arguments += piece.function.arguments or ""
    assert name == "get_weather"
    json.loads(arguments)
with trying("a JSON schema"):
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER, "strict": True}}
    answer = chat(model=MODEL, messages=ASKED, response_format=form, max_tokens=512)
    assert set(json.loads(answer.choices[0].message.content)) == {"city", "population"}
with trying("responses"):
    assert client.responses.create(model=MODEL, input="What is 1 + 1?", max_output_tokens=8).output_text
with trying("streamed responses"):
    kinds = [event.type for event in client.responses.create(model=MODEL, input="Hi", max_output_tokens=8, stream=True)]
    assert kinds[0] == "response.created"
    assert "response.output_text.delta" in kinds
with trying("embeddings"):
    vectors = client.embeddings.create(model=MODEL, input=["a cat", "a dog"]).data  # asked for in base64
    assert len(vectors) == 2
    assert abs(sum(value**2 for value in vectors[0].embedding) - 1) < 1e-3
with trying("sampling options"):
    chat(model=MODEL, messages=ASKED, max_tokens=4, presence_penalty=1, frequency_penalty=1, logit_bias={"5": -100})
