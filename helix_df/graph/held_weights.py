"""Bytes of a job's weights in memory."""

from __future__ import annotations

from helix_df.errors import ModelError
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.weight_bytes import WeightBytes, computed_bytes, weight_bytes
from helix_df.spec.job import Job


def held_weights(job: Job, geometry: ModelGeometry) -> WeightBytes:
    """What ``model.weights`` makes of the model's weights.

    Raises:
        ModelError: when they can't be kept so.
    """
    model = job.model
    return weight_bytes(model.parsed_source, geometry, model.element_bytes, model.weights)


def known_weights(job: Job, geometry: ModelGeometry) -> WeightBytes:
    """The same, and where the model isn't on this machine, as if all weights were numbers of its dtype."""
    try:
        return held_weights(job, geometry)
    except ModelError:
        return computed_bytes(geometry, job.model.element_bytes)
