"""From a job file to a ``Job``, or to every mistake in it with its line.

Owns the order of the checks and the resolution of relative model paths. The one module of ``spec`` that asks
``profiles``: which GPUs are known, and whether the model is one that can be served.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from helix_df.errors import ModelError, SpecError
from helix_df.graph.held_weights import held_weights
from helix_df.profiles.attention_kernels import AUTO as AUTO_ATTENTION
from helix_df.profiles.attention_kernels import KERNELS, OURS, case_of
from helix_df.profiles.catalogue import device_count, devices, find_device, known_name
from helix_df.profiles.device_shares import share_of
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.hub import hub_model, pinned
from helix_df.profiles.kv_windows import PAGE_TOKENS
from helix_df.profiles.read_geometry import catalogue, check_weights, doubt_about_tokenizer, read_geometry, resolve_path
from helix_df.profiles.this_device import accelerators, type_of
from helix_df.spec.checks import AUTO, check_context, check_pins, cross_check
from helix_df.spec.includes import parse_whole, read_text
from helix_df.spec.job import Job
from helix_df.spec.mistakes import FieldPath, Mistake
from helix_df.spec.nodes import names_of
from helix_df.spec.places import Places
from helix_df.spec.source import ModelSource
from helix_df.spec.validation_errors import mistakes_of
from helix_df.spec.yaml_tree import YamlDocument, one_or_all

log = logging.getLogger(__name__)


def load_job(path: str | Path) -> Job:
    """Read a job file. Relative paths in it start at its directory, those in a file that it includes at that
    file's; values may ask for variables of the environment.

    Raises:
        SpecError: with file, line and field of every mistake (``SpecErrors`` when there are several).
    """
    path = Path(path)
    return parse_job(read_text(path, str(path), "a job file"), name=str(path), base=path.parent)


def parse_job(
    text: str, name: str = "job.yaml", base: Path | None = None, environment: Mapping[str, str] | None = None
) -> Job:
    """Parse a job.

    Args:
        text: of the job file.
        name: stands for the file in errors.
        base: where relative paths in it start; by default here.
        environment: the variables that values may ask for; by default this process's.

    Raises:
        SpecError: as ``load_job``.
    """
    document = parse_whole(text, name, base or Path(), os.environ if environment is None else environment)
    if not isinstance(document.data, dict):
        raise SpecError(
            "the job file is empty" if document.data is None else "this is not a job",
            where=name,
            expected="a mapping with at least model, nodes and links",
            hint="start from an example: helix-df examples quickstart",
        )
    return _checked(document, document.data)


def parse_part(
    job: Job, text: str, name: str = "part.yaml", base: Path | None = None, environment: Mapping[str, str] | None = None
) -> Job:
    """A job with more nodes, GPU types and links, which a text in YAML declares as a job file does.

    Args:
        job: as ``load_job`` gives it.
        text: with some of the sections ``PART``.
        name, base, environment: as ``parse_job``.

    Raises:
        SpecError: as ``parse_job``; for another section, and for a name that the job has already.
    """
    document = parse_whole(text, name, base or Path(), os.environ if environment is None else environment)
    whole, part = job.model_dump(mode="json", exclude_none=True), document.data
    if not isinstance(part, dict) or not part:
        raise SpecError("there is nothing to add", where=name, expected=f"a mapping with {', '.join(PART)}")
    mistakes = [
        Mistake((section,), "this can't be added to a job that there is", expected=" | ".join(PART))
        for section in part.keys() - set(PART)
    ]
    mistakes += [
        Mistake((section, key), "the job has this already", hint="another name, or edit the job and apply it")
        for section in ("nodes", "gpus")
        for key in part.get(section) or {}
        if key in whole.get(section, {})
    ]
    if mistakes:
        raise one_or_all([document.error(mistake) for mistake in mistakes])
    return _checked(document, _joined(whole, part), PART)


PART = ("nodes", "gpus", "links")
"""Sections of a job that can be added to."""


def _joined(whole: Any, part: Any) -> Any:
    """Mappings by their keys, lists one behind the other; of anything else what the part says."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return {**whole, **{key: _joined(whole[key], value) if key in whole else value for key, value in part.items()}}
    return [*whole, *part] if isinstance(whole, list) and isinstance(part, list) else part


def _checked(document: YamlDocument, data: dict[str, Any], sections: Collection[str] | None = None) -> Job:
    """The job of a document's data, with paths and names as they are meant; or its mistakes, of some sections alone."""
    job = _validated(document, data)
    places = replace(document.places, declared_as=_declared_as(data))
    job = job.placed(places)
    try:
        job = _with_resolved_files(_with_resolved_source(job, places), places)
    except ModelError as error:
        raise document.error(_model_mistake(job, "source", error)) from None
    try:
        job = _with_known_gpus(job)
    except ModelError as error:
        found = None if error.found is None else str(error.found)
        path = ("nodes", _asking(job)[0], "gpu")
        mistake = Mistake(path, error.problem, found, error.expected, error.hint)
        raise document.error(*_as_declared([mistake], places.declared_as)) from None
    mistakes = cross_check(job, list(devices()), lambda gpu: find_device(gpu) is not None)
    mistakes += _check_model(job)
    mistakes = [it for it in mistakes if sections is None or it.path[0] in sections]
    if mistakes:
        raise one_or_all([document.error(mistake) for mistake in _as_declared(mistakes, places.declared_as)])
    return job


def _validated(document: YamlDocument, data: dict[str, Any]) -> Job:
    """The job of a document. A variable that reads as a number is text where a field wants text."""
    try:
        return Job.model_validate(data)
    except ValidationError as error:
        wanted = {detail["loc"] for detail in error.errors(include_url=False) if detail["type"] == "string_type"}
        texts = {path: text for path, text in document.texts.items() if path in wanted}
        if not texts:
            raise one_or_all([document.error(mistake) for mistake in mistakes_of(error, data)]) from None
    left = {path: text for path, text in document.texts.items() if path not in texts}
    return _validated(replace(document, texts=left), _with_texts(data, texts))


def _with_texts(value: Any, texts: Mapping[FieldPath, str], path: FieldPath = ()) -> Any:
    if path in texts:
        return texts[path]
    if isinstance(value, dict):
        return {key: _with_texts(inner, texts, (*path, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_texts(inner, texts, (*path, i)) for i, inner in enumerate(value)]
    return value


def _declared_as(data: dict[str, Any]) -> dict[str, str]:
    """The entries of nodes that are declared together, by the nodes' names."""
    declared = data.get("nodes") or {}
    groups = {key: node for key, node in declared.items() if isinstance(node, dict) and node.get("count") is not None}
    return {name: key for key, node in groups.items() for name in names_of(key, node["count"], node.get("names"))}


def _as_declared(mistakes: list[Mistake], keys: Mapping[str, str]) -> list[Mistake]:
    """The mistakes at the entries that nodes were declared by, each told once however many nodes there are."""
    if not keys:
        return mistakes
    found = [
        replace(one, path=("nodes", keys.get(str(one.path[1]), one.path[1]), *one.path[2:]))
        if one.path[0] == "nodes" and len(one.path) > 1
        else one
        for one in mistakes
    ]
    return list(dict.fromkeys(found))


def _check_model(job: Job) -> list[Mistake]:
    try:
        geometry = read_geometry(job.model.parsed_source)
        check_weights(job.model.parsed_source, geometry)
        doubt = doubt_about_tokenizer(job.model.parsed_source)
        if doubt is not None:
            log.warning("%s", doubt)
    except ModelError as error:
        return [_model_mistake(job, "source", error)]
    try:
        held_weights(job, geometry)
    except ModelError as error:
        return [_model_mistake(job, "weights", error)]
    _tell_undivided(job, geometry)
    return [
        *check_context(job, geometry.context_length),
        *check_pins(job, geometry.num_layers),
        *_check_attention(job, geometry),
    ]


def _check_attention(job: Job, geometry: ModelGeometry) -> Iterator[Mistake]:
    """Whether the kernel that the job names can do anything of this model; the devices are asked when workers start."""
    name, path = job.runtime.attention, ("runtime", "attention")
    if name == AUTO_ATTENTION:
        return
    try:
        kernel = KERNELS.get(name)
    except ModelError as error:
        yield Mistake(path, error.problem, name, f"{AUTO_ATTENTION}, or {error.expected}", error.hint)
        return
    model = job.model
    cases = (
        case_of(geometry, tokens=tokens, dtype=model.dtype, kv=model.kv_format, page_tokens=PAGE_TOKENS)
        for tokens in (1, job.runtime.max_prefill_tokens)
    )
    lacks = [kernel.lacks(case) for case in cases]
    if None not in lacks:
        yield Mistake(
            path,
            "this kernel can't compute the model's attention",
            f"{name}, which lacks {lacks[0]}",
            f"{AUTO_ATTENTION} | {OURS.name}",
        )


def _tell_undivided(job: Job, geometry: ModelGeometry) -> None:
    """Say which nodes' devices can't share this model: it can be planned and simulated on them, but not run."""
    if job.runtime.emulate:
        return
    for gpu in dict.fromkeys(node.gpu for node in job.nodes.values()):
        try:
            share_of(geometry, device_count(gpu))
        except ModelError as error:
            name = next(name for name, node in job.nodes.items() if node.gpu == gpu)
            log.warning("nodes.%s.gpu: %s can be planned, but not run: %s (%s)", name, gpu, error.problem, error.found)


def _model_mistake(job: Job, field: str, error: ModelError) -> Mistake:
    found = None if error.found is None else str(error.found)
    known = (None, str(job.model.parsed_source), f"model.{field}")
    problem = error.problem if error.where in known else f"{error.problem} ({error.where})"
    return Mistake(("model", field), problem, found, error.expected, error.hint)


def _with_resolved_source(job: Job, places: Places) -> Job:
    """The job with an absolute model path, or the commit of a model of the hub, so that it, and a plan that holds it,
    mean the same from anywhere, and later.

    Raises:
        ModelError: as ``pinned``.
    """
    source = job.model.parsed_source
    if source.kind == "package" or (source.kind == "random" and source.location in catalogue()):
        return job
    path = resolve_path(source.location, places.folder_of(("model", "source")))
    if source.kind == "random" and not path.exists():
        return job
    absolute = ModelSource(source.kind, os.path.abspath(path))
    of_hub = hub_model(source.location) if source.kind == "hf" and not path.exists() else None
    if of_hub is not None:
        absolute = ModelSource(source.kind, str(pinned(of_hub)))
    return job.model_copy(update={"model": job.model.model_copy(update={"source": str(absolute)})})


def _asking(job: Job) -> list[str]:
    """Nodes of this machine whose device is to be asked for its type."""
    if AUTO in job.gpus:
        return []
    return [name for name, node in job.nodes.items() if node.gpu == AUTO and node.started_by == "local"]


def _with_known_gpus(job: Job) -> Job:
    """The job with the catalogue's names for what a driver prints, and for what this machine has where a node's type
    is ``auto``: a plan says on what it runs.

    Raises:
        ModelError: as ``type_of``.
    """
    asking = _asking(job)
    own = type_of(accelerators(), len(asking)) if asking else AUTO

    def called(name: str, gpu: str) -> str:
        return gpu if gpu in job.gpus else own if name in asking else known_name(gpu)

    names = {name: called(name, node.gpu) for name, node in job.nodes.items()}
    nodes = {
        name: node if names[name] == node.gpu else node.model_copy(update={"gpu": names[name]})
        for name, node in job.nodes.items()
    }
    offers = {name: offer.model_copy(update={"gpu": called("", offer.gpu)}) for name, offer in job.offers.items()}
    return job.model_copy(update={"nodes": nodes, "offers": offers})


def _with_resolved_files(job: Job, places: Places) -> Job:
    """The job with absolute paths of what its API needs."""
    runtime = job.runtime
    changes: dict[str, object] = {}
    if runtime.api_keys is not None:
        changes["api_keys"] = _absolute(runtime.api_keys, places.folder_of(("runtime", "api_keys")))
    if runtime.tls is not None:
        files = {
            name: _absolute(file, places.folder_of(("runtime", "tls", name)))
            for name, file in (("certificate", runtime.tls.certificate), ("key", runtime.tls.key))
        }
        changes["tls"] = runtime.tls.model_copy(update=files)
    return job.model_copy(update={"runtime": runtime.model_copy(update=changes)}) if changes else job


def _absolute(path: str, base: Path) -> str:
    return os.path.abspath(base / Path(path).expanduser())
