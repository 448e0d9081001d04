from typing import Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from report import MODEL, URL, trying

model = ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="none", max_tokens=512, max_retries=0, temperature=0)


class Answer(BaseModel):
    """A city and how many live there."""

    city: Literal["Paris", "Rome"]
    population: int = Field(ge=0, le=99)


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city."""
    return "sunny"


with trying("chat"):
    assert model.invoke("Hello").content
with trying("streamed chat"):
    assert "".join(chunk.text for chunk in model.stream("Hello"))
with trying("tools"):
    (call,) = (
        model.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
        .invoke("How is it in Paris?")
        .tool_calls
    )
    assert get_weather.invoke(call["args"]) == "sunny"
for method in ("json_schema", "function_calling"):
    with trying(f"structured output by {method}"):
        assert isinstance(model.with_structured_output(Answer, method=method).invoke("Where?"), Answer)
with trying("structured output by json_mode"):
    # The model itself has to find the fields; what the API promises is an object.
    asked = model.with_structured_output(Answer, method="json_mode", include_raw=True).invoke(
        'Say {"city": "Rome"} in JSON.'
    )
    assert asked["raw"].content.lstrip().startswith("{")
