"""Sizes of a job whose nodes come and go (``scale``): which there are, and the job of each.

The job as it is written has all of them; one of another size is the same job that avoids some nodes.
"""

from __future__ import annotations

from helix_df.spec.job import Job

MOST_SIZES = 16
"""That are planned: with more nodes that come and go, several at a time do."""


def sizes(job: Job) -> tuple[int, ...]:
    """Numbers of nodes that come and go of which plans are made, ascending; none where the job's nodes all stay."""
    if job.scale is None:
        return ()
    least, most = job.scale.min, job.scale.max or len(job.scale.named(job.nodes))
    steps = min(most - least, MOST_SIZES - 1)
    return tuple(least + (most - least) * step // max(1, steps) for step in range(steps + 1))


def size_of(job: Job) -> int:
    """How many of the nodes that come and go the job has layers on: those that it doesn't avoid."""
    return 0 if job.scale is None else len([it for it in job.scale.named(job.nodes) if it not in job.limits.avoid])


def sized(job: Job, size: int) -> Job:
    """The job with so many of the nodes that come and go, those that are taken first."""
    if job.scale is None:
        raise ValueError("all nodes of this job stay")
    named = job.scale.named(job.nodes)
    kept = tuple(name for name in job.limits.avoid if name not in named)
    limits = job.limits.model_copy(update={"avoid": (*kept, *named[size:])})
    return job.model_copy(update={"limits": limits})


def whole(job: Job) -> Job:
    """The job with all of its nodes that come and go, whichever size it has."""
    return job if job.scale is None else sized(job, len(job.scale.named(job.nodes)))
