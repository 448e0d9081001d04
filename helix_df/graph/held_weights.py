"""Bytes of a job's weights in memory."""

from __future__ import annotations

from helix_df.errors import ModelError
from helix_df.profiles.device_shares import held_by, share_of
from helix_df.profiles.geometry import ModelGeometry
from helix_df.profiles.weight_bytes import NUMBERS, WeightBytes, computed_bytes, weight_bytes
from helix_df.spec.job import Job


def held_weights(job: Job, geometry: ModelGeometry) -> WeightBytes:
    """What ``model.weights`` makes of the model's weights.

    Raises:
        ModelError: when they can't be kept so.
    """
    model = job.model
    return weight_bytes(model.parsed_source, geometry, model.element_bytes, model.weights)


def divided_weights(job: Job, geometry: ModelGeometry, devices: int) -> WeightBytes:
    """The same, of a node's devices together: each holds what it needs of the key and value heads that are divided.

    Raises:
        ModelError: as ``held_weights``, and where weights stay packed and can't be divided so.
    """
    if devices == 1 or job.model.weights in (None, *NUMBERS):
        return held_weights(job, held_by(geometry, devices))
    # Whole blocks alone can be divided: what isn't are numbers on every device.
    return held_weights(job, share_of(geometry, devices)).times(devices)


def known_weights(job: Job, geometry: ModelGeometry) -> WeightBytes:
    """The same, and where the model isn't on this machine, as if all weights were numbers of its dtype."""
    try:
        return held_weights(job, geometry)
    except ModelError:
        return computed_bytes(geometry, job.model.element_bytes)
