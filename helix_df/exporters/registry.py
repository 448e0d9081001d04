"""Exporters by the name of their target, imported on demand. A new one is a file with ``export`` and a line here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from helix_df.errors import PlanError
from helix_df.exporters.api import Export
from helix_df.plan.plan import Plan

TARGETS = {
    "vllm": "helix_df.exporters.vllm",
    "llama.cpp": "helix_df.exporters.llama_cpp",
    "parallax": "helix_df.exporters.parallax",
    "kubernetes": "helix_df.exporters.kubernetes",
    "helm": "helix_df.exporters.helm",
}


def export_plan(plan: Plan, target: str) -> Export:
    """A plan in the words of another serving system.

    Args:
        plan: one without ``violations``.
        target: a key of ``TARGETS``.

    Raises:
        PlanError: for an unknown target, or a plan that it can't express, with the stages that are why.
    """
    if target not in TARGETS:
        raise PlanError(
            "there is no exporter for this target", where="--to", found=repr(target), expected=" | ".join(TARGETS)
        )
    exporter: Callable[[Plan], Export] = import_module(TARGETS[target]).export
    return exporter(plan)
