"""What every section of a job file is made of: a frozen model, names, whole numbers and numbers."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict

NAME_RULE = "1 to 63 letters, digits, '.', '_' or '-', a letter or digit first"

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""The same rule, for names that the job doesn't write down."""

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=63)]
Count = Annotated[int, Strict()]
Number = Annotated[float, Strict()]


class Section(BaseModel):
    """A part of the job: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
