"""The section ``solver`` of a job: which solver places the layers, and how long it may take.

Owns its short forms, and the older way to ask for goodput. Doesn't know which solvers there are.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from helix_df.spec.mistakes import Refusal
from helix_df.spec.section import Count, Number, Section
from helix_df.spec.units import Duration


class SolverChoice(Section):
    """Which solver places the layers. ``solver: NAME`` is short for ``solver: {name: NAME}``."""

    name: str = Field(
        default="auto",
        description="One of `helix-df solvers`. `goodput` plans for the most generated tokens/s in simulation, within "
        "the limits on latency; the others for the most tokens/s that could pass, with a bound.",
    )
    objective: Literal["flow", "goodput"] | None = Field(
        default=None, description="`goodput` is the same as `name: goodput`; `flow` is what other solvers are for."
    )
    backend: str | None = Field(default=None, description="Of mip: `highs`, `gscip` or `cp-sat`.")
    time_limit: Duration = Field(default=30.0, gt=0, description="After this time the best plan so far is taken.")
    gap: Number = Field(default=0.0, ge=0, lt=1, description="Stop once the flow is at least (1 − gap) · bound.")
    seed: Count = Field(default=0, ge=0, description="The same seed gives the same plan.")
    partial_inference: bool = Field(
        default=True, strict=True, description="A node may skip layers that a request has passed already."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options that only this solver has.")

    @model_validator(mode="before")
    @classmethod
    def _objective_names_the_solver(cls, value: object) -> object:
        return read_objective(value) if isinstance(value, dict) else value


def read_objective(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice of a solver without ``objective``, which used to be how goodput was asked for.

    Raises:
        Refusal: where it contradicts the solver's name.
    """
    objective, name = choice.get("objective"), choice.get("name", "auto")
    if objective not in ("flow", "goodput"):
        return choice
    if objective == "goodput" and name not in ("auto", "goodput"):
        raise Refusal("the objective goodput has a solver of its own", "name: goodput", "leave objective out")
    if objective == "flow" and name == "goodput":
        raise Refusal("the solver goodput doesn't plan for flow", "name: auto", "leave objective out")
    rest = {key: what for key, what in choice.items() if key != "objective"}
    return {**rest, "name": "goodput"} if objective == "goodput" else rest


def solver_shorthand(value: object) -> object:
    """``NAME`` as ``{name: NAME}``; what else is written stays."""
    return {"name": value} if isinstance(value, str) else value
