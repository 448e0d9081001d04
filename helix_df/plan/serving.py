"""Serving rules that a plan may choose: how batches form, how many requests run at once, and who goes first.

Owns which rules these are, which values are tried, and how a job looks with them. Doesn't judge them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import product

from helix_df.spec.job import Job


@dataclass(frozen=True, slots=True, order=True)
class ServingRules:
    """Fields of the job's ``runtime`` that a plan may choose: requests and prompt tokens of a batch, shares, whether
    the first stage divides its requests, and whether the shortest prompt that waits goes first. Plans of before don't
    say the last two: the first was so, the other wasn't."""

    max_batch: int
    max_prefill_tokens: int
    kv_high_water: float
    expected_output: float
    micro_batches: bool = True
    shortest_first: bool = False

    def __str__(self) -> str:
        return ", ".join(f"{name} {_word(value)}" for name, value in asdict(self).items())


def _word(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


LADDERS: dict[str, tuple[float, ...]] = {
    "max_batch": (8, 16, 32, 48, 64, 96, 128),
    "max_prefill_tokens": (32, 64, 96, 128, 192, 256, 512, 1024),
    "kv_high_water": (0.8, 0.85, 0.9, 0.95, 1.0),
    "expected_output": (0.2, 0.4, 0.6, 0.8, 1.0),
    "micro_batches": (False, True),
}
"""Values that are tried, ascending; the job's own are tried, too. Who goes first isn't among them: where requests never
run out, so that one waits at all times and hardly ever two, it changes nothing (see ``solvers.goodput.order``)."""

FIRST = {"max_batch": (16, 32, 64), "max_prefill_tokens": (64, 96, 128, 256)}
"""What is tried with each other before anything else: together these two decide most."""


def rules_of(job: Job) -> ServingRules:
    """The rules that a job says, or leaves at their defaults."""
    return ServingRules(**{field.name: getattr(job.runtime, field.name) for field in fields(ServingRules)})


def free_rules(job: Job) -> tuple[str, ...]:
    """Rules that a job says nothing of, so that a plan may choose them."""
    return tuple(field.name for field in fields(ServingRules) if field.name not in job.runtime.model_fields_set)


def with_rules(job: Job, rules: ServingRules | None) -> Job:
    """The job as it is served by these rules; as it is, without."""
    if rules is None:
        return job
    return job.model_copy(update={"runtime": job.runtime.model_copy(update=asdict(rules))})


def first_choices(rules: ServingRules, free: tuple[str, ...]) -> list[ServingRules]:
    """Rules to try before anything else, these among them."""
    ladders = [FIRST[name] if name in free else (getattr(rules, name),) for name in FIRST]
    tried = [replace(rules, **dict(zip(FIRST, values, strict=True))) for values in product(*ladders)]
    return list(dict.fromkeys([rules, *tried]))


def next_to(rules: ServingRules, free: tuple[str, ...]) -> Iterator[ServingRules]:
    """Rules that differ in one value by one step of its ladder."""
    for name in free:
        here, ladder = getattr(rules, name), LADDERS.get(name, ())
        below = [value for value in ladder if value < here]
        above = [value for value in ladder if value > here]
        for value in (*below[-1:], *above[:1]):
            yield replace(rules, **{name: type(here)(value)})
