import json

import litellm
from report import ANSWER, ASKED, MODEL, URL, WEATHER, trying

where = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "none"}

with trying("chat"):
    assert litellm.completion(**where, messages=ASKED, max_tokens=8).choices[0].message.content
with trying("streamed chat"):
    chunks = list(litellm.completion(**where, messages=ASKED, max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
with trying("a tool, forced"):
    answer = litellm.completion(
        **where, messages=ASKED, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=512
    )
    json.loads(answer.choices[0].message.tool_calls[0].function.arguments)
with trying("a JSON schema"):
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER, "strict": True}}
    answer = litellm.completion(**where, messages=ASKED, response_format=form, max_tokens=512)
    json.loads(answer.choices[0].message.content)
