from typing import Literal

import instructor
import openai
from pydantic import BaseModel, Field
from report import ASKED, MODEL, URL, trying


class Answer(BaseModel):
    """A city and how many live there."""

    city: Literal["Paris", "Rome"]
    population: int = Field(ge=0, le=99)


speaker = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    with trying(f"a model by {mode.value}"):
        client = instructor.from_openai(speaker, mode=mode)
        found = client.chat.completions.create(
            model=MODEL, messages=ASKED, response_model=Answer, max_tokens=512, max_retries=1
        )
        assert isinstance(found, Answer)
