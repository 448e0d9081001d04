"""Names of the parts of a model in its compiled programs, by which a trace can be read.

Owns which names there are. They are metadata: neither what is computed nor the key of a compiled program depends on
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax

SCOPES = frozenset(
    {
        *("prepare", "embed", "logits", "sample", "pool"),
        *("attention", "qkv", "latents", "rope", "write_kv", "attend", "output"),
        *("mlp", "router", "experts", "shared_expert", "norm"),
    }
)
"""The second row is within ``attention``, the third within ``mlp``; a norm may be in either, and in ``logits``."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Scope(Protocol):
    """A context, or a decorator, in which what is traced belongs to a part."""

    def __enter__(self) -> object: ...

    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> Any: ...

    def __call__(self, function: _Function, /) -> _Function: ...


def scope(name: str) -> Scope:
    """What is traced in it belongs to the part ``name``.

    Raises:
        ValueError: for a name that isn't among ``SCOPES``.
    """
    if name not in SCOPES:
        raise ValueError(f"{name} isn't one of {', '.join(sorted(SCOPES))}")
    return jax.named_scope(name)
