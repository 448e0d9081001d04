"""Every answer to a request with a schema is valid by ``jsonschema``, however little sense its model has.

A sample runs with the tests; ``python -m tests.structured.every_schema`` runs all of them.
"""

from __future__ import annotations

from tests.structured.every_schema import wrong_answers
from tests.structured.job import served
from tests.structured.schemas import SCHEMAS

SAMPLE = dict(list(SCHEMAS.items())[::9])


def test_there_are_two_hundred_of_them() -> None:
    assert len({str(schema) for schema in SCHEMAS.values()}) >= 200


async def test_answers_are_valid_greedy_and_sampled() -> None:
    async with served() as job:
        assert await wrong_answers(job, SAMPLE) == []
