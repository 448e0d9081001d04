import anthropic
from report import MODEL, URL, WEATHER, trying

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
asked = [{"role": "user", "content": "What is the capital of France?"}]
tool = {
    "name": "get_weather",
    "description": WEATHER["function"]["description"],
    "input_schema": WEATHER["function"]["parameters"],
}

with trying("messages"):
    answer = client.messages.create(model=MODEL, messages=asked, max_tokens=16)
    assert answer.content[0].text
    assert answer.stop_reason in ("end_turn", "max_tokens")
with trying("streamed messages"), client.messages.stream(model=MODEL, messages=asked, max_tokens=16) as stream:
    text = "".join(stream.text_stream)
    assert text == stream.get_final_message().content[0].text
with trying("a tool, forced"):
    answer = client.messages.create(
        model=MODEL, messages=asked, max_tokens=512, tools=[tool], tool_choice={"type": "tool", "name": "get_weather"}
    )
    (call,) = (block for block in answer.content if block.type == "tool_use")
    assert call.name == "get_weather"
    assert call.input["city"] in ("Paris", "Rome")
    assert answer.stop_reason == "tool_use"
with trying("a tool's result"):
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    said = [*asked, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(model=MODEL, messages=said, max_tokens=8, tools=[tool]).stop_reason
with trying("tokens counted"):
    assert client.messages.count_tokens(model=MODEL, messages=asked).input_tokens > 4
