"""Model families by the name in ``config.json`` and in GGUF: those built in, and entry points ``helix_df.families``.

Each entry point is a ``Family``. A new family of ours is one file and one line here.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from helix_df.errors import ModelError
from helix_df.plugins import broken_plugin, load_plugin
from helix_df.profiles.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from helix_df.profiles.families.family import Config, Family, Gguf
from helix_df.profiles.families.gemma import GEMMA2, GEMMA3
from helix_df.profiles.families.gpt_oss import GPT_OSS
from helix_df.profiles.families.granite import GRANITE
from helix_df.profiles.families.llama import LLAMA
from helix_df.profiles.families.mistral import MISTRAL
from helix_df.profiles.families.mixtral import MIXTRAL
from helix_df.profiles.families.olmo import OLMO2
from helix_df.profiles.families.phi import PHI3
from helix_df.profiles.families.qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE
from helix_df.profiles.families.smollm import SMOLLM3

GROUP = "helix_df.families"
BUILT_IN = {
    family.name: family
    for family in (
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GEMMA2,
        GEMMA3,
        PHI3,
        GRANITE,
        OLMO2,
        SMOLLM3,
        MIXTRAL,
        QWEN2_MOE,
        QWEN3_MOE,
        GPT_OSS,
        DEEPSEEK_V2,
        DEEPSEEK_V3,
    )
}

_EXPECTED = "a helix_df.profiles.families.family.Family with a name of its own"


@cache
def families() -> dict[str, Family]:
    """All families by name. A name that is built in can't be taken.

    Raises:
        ModelError: when an entry point can't be loaded or is no ``Family``.
    """
    found = dict(BUILT_IN)
    for entry in entry_points(group=GROUP):
        family = load_plugin(entry, "model family", _EXPECTED, ModelError)
        if not isinstance(family, Family) or family.name in found:
            raise broken_plugin(entry, "model family", repr(family)[:80], _EXPECTED, ModelError)
        found[family.name] = family
    return found


def family_of(name: object, where: str) -> Family:
    """The family that ``config.json`` calls ``name``.

    Raises:
        ModelError: for one that nobody describes.
    """
    known = families()
    if not isinstance(name, str) or name not in known:
        raise _unsupported(name, "config.json: model_type", sorted(known), where)
    return known[name]


def family_of_gguf(architecture: object, said: Config, where: str) -> tuple[Family, Gguf]:
    """The family of a GGUF file, by its keys after the architecture's name, and how GGUF stores it.

    Raises:
        ModelError: for an architecture that nobody describes.
    """
    known = [(family, family.gguf) for family in families().values() if family.gguf is not None]
    named = [(family, gguf) for family, gguf in known if gguf.architecture == architecture]
    if not named:
        names = sorted({gguf.architecture for _, gguf in known})
        raise _unsupported(architecture, "GGUF: general.architecture", names, where)
    told = [(family, gguf) for family, gguf in named if gguf.when is not None and gguf.when(said)]
    others = [(family, gguf) for family, gguf in named if gguf.when is None]
    return (told or others or named)[0]


def _unsupported(found: object, key: str, known: list[str], where: str) -> ModelError:
    return ModelError(
        "this model's architecture isn't supported", where=where, found=found, expected=f"{key} {' | '.join(known)}"
    )
