"""Options whose meaning a job leaves to whoever it names: a launcher, a drafter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from helix_df.errors import SpecError
from helix_df.spec.mistakes import FieldPath, dotted
from helix_df.spec.section import Section
from helix_df.spec.validation_errors import mistakes_of
from helix_df.spec.yaml_tree import one_or_all


def read_options(said: Mapping[str, Any], options: type[Section], path: FieldPath) -> Section:
    """What a job says under a field path, as a section.

    Raises:
        SpecError: for a mistake in it, or several.
    """
    try:
        return options.model_validate(said)
    except ValidationError as error:
        mistakes = mistakes_of(error, said, options)
    raise one_or_all(
        [
            SpecError(
                mistake.problem,
                where=dotted((*path, *mistake.path)),
                found=mistake.found,
                expected=mistake.expected,
                hint=mistake.hint,
            )
            for mistake in mistakes
        ]
    )
