from typing import Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from report import MODEL, URL, trying

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))
settings = {"max_tokens": 512}


class Answer(BaseModel):
    """A city and how many live there."""

    city: Literal["Paris", "Rome"]
    population: int = Field(ge=0, le=99)


with trying("an agent"):
    assert Agent(model, model_settings=settings).run_sync("Hello").output
for kind in (ToolOutput, NativeOutput):
    with trying(f"an agent with {kind.__name__}"):
        agent = Agent(model, output_type=kind(Answer), model_settings=settings)
        assert isinstance(agent.run_sync("Where?").output, Answer)
