"""The plan: the narrow waist between deciding and running.

Owns what a plan says and its one versioned JSON file; ``violations`` says whether it is right. Doesn't know how
placements are found or how stages run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from helix_df.errors import PlanError
from helix_df.graph.bounds import best_bound
from helix_df.graph.compile import compile_problem
from helix_df.graph.flow import EdgeFlow, Flow, FlowPath, MinCut, decompose
from helix_df.graph.flow_graph import FlowGraph, build_graph
from helix_df.graph.problem import Placement, Problem
from helix_df.graph.witness import Witness, read_witness, witness_document
from helix_df.layers import LayerRange
from helix_df.plan.goodput import GoodputCertificate, goodput_document, read_goodput
from helix_df.plan.serving import ServingRules, with_rules
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.identity import ModelIdentity, read_identity
from helix_df.profiles.kv_windows import KvShape, kv_shape
from helix_df.profiles.read_geometry import read_geometry
from helix_df.release import release
from helix_df.spec.job import Job

FORMAT = "helix-df-plan"
VERSION = 3
"""Of the file that is written. Raised when an earlier release couldn't read what is written now."""

READABLE = (1, 2, 3)
"""Versions of the file that are read (docs/compatibility.md). 1 has no witness, and says neither which release made it
nor of which model; 1 and 2 choose no serving rules."""

PARTS = {
    "Job": "the job",
    "ModelIdentity": "the model",
    "ServingRules": "the choice of rules",
    "GoodputCertificate": "the bound on goodput",
}
"""What users call the parts of a plan file, by the type that reads them."""

_MODEL, _RULES = TypeAdapter(ModelIdentity), TypeAdapter(ServingRules)

__all__ = ["Certificate", "LayerRange", "Plan", "SolverReport", "Stage", "read_plan", "write_plan"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers on a node, the tokens/s it serves with them and the tokens of KV cache that fit beside them.

    In ``windowed`` of these layers it frees KV cache that no query sees, which look at ``kv_window`` tokens at most.
    """

    node: str
    layers: LayerRange
    tokens_per_s: float
    kv_tokens: int
    windowed: int = 0
    kv_window: int = 0

    @property
    def kv_shape(self) -> KvShape:
        """What these layers keep of a request."""
        return kv_shape(len(self.layers), self.windowed, self.kv_window)


@dataclass(frozen=True, slots=True)
class Certificate:
    """An upper bound on every placement's flow, in tokens/s, the argument that proves it, and the witness.

    ``witness.evaluate(problem.favourable)`` is a bound that no placement exceeds, and at most ``bound``. Plans of
    version 1 have none.
    """

    kind: str
    bound: float
    witness: Witness | None = None

    def gap(self, flow: float) -> float:
        """``(bound − flow) / bound``: the share of the bound that the plan might still miss."""
        return max(0.0, self.bound - flow) / self.bound if self.bound > 0 else 0.0


@dataclass(frozen=True, slots=True)
class SolverReport:
    """Which solver made the plan, why it stopped, what it claims as bound, and the seconds it took.

    ``limit``: which one cut it off, if one did.
    """

    name: str
    backend: str | None
    reason: str
    detail: str
    bound: float | None
    seconds: float
    limit: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A certified placement and its flow, with the job and the model it was made for.

    ``made_by``: the release of helix-df that made it. Plans of version 1 have neither that nor ``model``. ``rules``:
    what the solver chose where the job leaves serving rules open; ``None`` where it chooses none. ``goodput``: what the
    plan generates in simulation and its bound, where the solver planned for that.
    """

    job: Job
    num_layers: int
    stages: tuple[Stage, ...]
    flow: float
    edges: tuple[EdgeFlow, ...]
    cut: MinCut
    certificate: Certificate
    solver: SolverReport
    made_by: str | None = None
    model: ModelIdentity | None = None
    rules: ServingRules | None = None
    goodput: GoodputCertificate | None = None

    @property
    def served(self) -> Job:
        """The job as it is served and simulated: with the rules that the plan chose."""
        return with_rules(self.job, self.rules)

    @property
    def placement(self) -> Placement:
        """Layers by node."""
        return {stage.node: stage.layers for stage in self.stages}

    @property
    def gap(self) -> float:
        """How far the flow may be from the best possible one, as a share of the bound."""
        return self.certificate.gap(self.flow)

    @property
    def geometry(self) -> ModelGeometry:
        """Of the model that the plan was made for; read from where it lies for plans of version 1.

        Raises:
            ModelError: as ``read_geometry``, for those.
        """
        return read_geometry(self.job.model.parsed_source) if self.model is None else self.model.geometry

    def graph(self, problem: Problem | None = None) -> FlowGraph:
        """The flow graph of the placement."""
        return build_graph(problem or compile_problem(self.job), self.placement)

    def paths(self) -> tuple[FlowPath, ...]:
        """The flow as pipelines."""
        return decompose(self.placement, self.edges)


def plan_id(plan: Plan) -> str:
    """What tells a plan from others."""
    return hashlib.sha256(json.dumps(to_document(plan), sort_keys=True).encode()).hexdigest()


def assemble(
    job: Job,
    problem: Problem,
    placement: Placement,
    flow: Flow,
    report: SolverReport,
    rules: ServingRules | None = None,
    goodput: GoodputCertificate | None = None,
) -> Plan:
    """A plan from a judged placement; its certificate is the lowest bound that a witness was found for."""
    profiles = {node.name: node for node in problem.nodes}
    stages = tuple(
        Stage(
            name,
            layers,
            problem.node_capacity(profiles[name], len(layers)),
            profiles[name].kv_tokens[len(layers) - 1],
            *problem.windowed(layers),
        )
        for name, layers in sorted(placement.items(), key=lambda item: (item[1], item[0]))
    )
    bound = best_bound(problem.favourable)
    return Plan(
        job,
        problem.num_layers,
        stages,
        flow.value,
        flow.edges,
        flow.cut,
        Certificate(bound.kind, max(bound.bound, flow.value), bound.witness),
        report,
        made_by=release(),
        model=read_identity(job.model.parsed_source, None if problem.origin is None else problem.origin.geometry),
        rules=rules,
        goodput=goodput,
    )


def write_plan(plan: Plan, path: str | Path) -> None:
    """Write the plan file in one step, so that a reader never sees half of it."""
    text = json.dumps(to_document(plan), indent=1, sort_keys=True) + "\n"
    path = Path(path)
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def to_document(plan: Plan) -> dict[str, Any]:
    """The plan as the JSON document of the file."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "made_by": plan.made_by,
        "model": None if plan.model is None else asdict(plan.model),
        "job": plan.job.model_dump(mode="json", exclude_none=True),
        "num_layers": plan.num_layers,
        "stages": [asdict(stage) for stage in plan.stages],
        "flow": plan.flow,
        "edges": [asdict(edge) for edge in plan.edges],
        "cut": asdict(plan.cut),
        "certificate": _certificate_document(plan.certificate),
        "solver": asdict(plan.solver),
        "rules": None if plan.rules is None else asdict(plan.rules),
        "goodput": goodput_document(plan.goodput),
    }


def read_plan(path: str | Path) -> Plan:
    """Read a plan file.

    Raises:
        PlanError: when the file is missing, is no plan, or is of a version this release doesn't know.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError("the plan file can't be read", where=str(path), found=error.strerror) from error
    except ValueError as error:
        raise PlanError("the plan file is not JSON", where=str(path), found=str(error)) from error
    return from_document(document, where=str(path))


def from_document(document: object, where: str = "plan") -> Plan:
    """The plan of a JSON document.

    Raises:
        PlanError: as ``read_plan``.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise PlanError("this is not a plan file", where=where, expected=f'"format": "{FORMAT}"')
    if document.get("version") not in READABLE:
        raise _another_version(document, where)
    try:
        return _decode(document)
    except ValidationError as error:
        part = PARTS.get(error.title, "the certificate's witness")
        raise PlanError(f"{part} inside the plan is not valid", where=where, found=error.errors()[0]["msg"]) from error
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError("the plan file is damaged", where=where, found=f"{type(error).__name__}: {error}") from error


def _another_version(document: dict[str, Any], where: str) -> PlanError:
    version, maker = document.get("version"), document.get("made_by")
    newer = isinstance(version, int) and version > VERSION
    return PlanError(
        "the plan file is of a newer version" if newer else "the plan file is of an unknown version",
        where=where,
        found=f"{version}, made by helix-df {maker}" if isinstance(maker, str) else version,
        expected=" or ".join(map(str, READABLE)),
        hint=("upgrade helix-df here, or " if newer else "") + "make it again with `helix-df plan`",
    )


def _certificate_document(certificate: Certificate) -> dict[str, Any]:
    witness = certificate.witness
    return {
        "kind": certificate.kind,
        "bound": certificate.bound,
        "witness": None if witness is None else witness_document(witness),
    }


def _read_certificate(document: dict[str, Any]) -> Certificate:
    kind, witness = document["kind"], document.get("witness")
    return Certificate(kind, document["bound"], None if witness is None else read_witness(kind, witness))


def _read_model(document: object) -> ModelIdentity | None:
    return None if document is None else _MODEL.validate_python(document)


def _read_rules(document: object) -> ServingRules | None:
    return None if document is None else _RULES.validate_python(document)


def _decode(document: dict[str, Any]) -> Plan:
    cut = document["cut"]
    return Plan(
        job=Job.model_validate(document["job"]),
        num_layers=document["num_layers"],
        stages=tuple(Stage(**{**stage, "layers": LayerRange(**stage["layers"])}) for stage in document["stages"]),
        flow=document["flow"],
        edges=tuple(EdgeFlow(**edge) for edge in document["edges"]),
        cut=MinCut(tuple(cut["nodes"]), tuple((tail, head) for tail, head in cut["links"]), cut["capacity"]),
        certificate=_read_certificate(document["certificate"]),
        solver=SolverReport(**document["solver"]),
        made_by=document.get("made_by"),
        model=_read_model(document.get("model")),
        rules=_read_rules(document.get("rules")),
        goodput=read_goodput(document.get("goodput")),
    )
