"""The tools of a chat's request: which are taken, which may be called, and what a template is given of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z0-9_.:/-]{1,256}$"
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}

ToolName = Annotated[str, Field(pattern=NAME_PATTERN, description="1 to 256 letters, digits or _ . : / -")]


class FunctionBody(BaseModel):
    """A function that the model may call. ``parameters`` is the JSON schema of an object; ``strict`` is taken as it is:
    what the model may write is bound only where ``tool_choice`` forces a call."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(BaseModel):
    """A tool; functions are the only kind."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["function"]
    function: FunctionBody

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it: with a schema, without what concerns the server alone."""
        function: dict[str, Any] = {"name": self.function.name}
        if self.function.description is not None:
            function["description"] = self.function.description
        return {"type": "function", "function": {**function, "parameters": self.function.parameters or _NO_PARAMETERS}}


class ChosenFunction(BaseModel):
    """The name of a function."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str


class NamedChoice(BaseModel):
    """The one tool that has to be called."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["function"]
    function: ChosenFunction


ToolChoice = Literal["none", "auto", "required"] | NamedChoice
