"""The JSON schema of the language, for editors. ``python -m helix_df.spec.schema`` writes what is generated from it.

Owns what pydantic's generated schema can't know: short forms, what other files may say, and the head. Doesn't check
jobs; ``load`` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helix_df.spec.job import Job
from helix_df.spec.units import format_duration


def job_schema() -> dict[str, Any]:
    """The schema of a job file as data."""
    schema = Job.model_json_schema()
    solver = schema["properties"]["solver"]
    reference = {"$ref": solver.pop("$ref")}
    solver["anyOf"] = [{"type": "string", "description": "Short for {name: …}."}, reference]
    drafted = schema["$defs"]["Runtime"]["properties"]["speculation"]
    drafted["anyOf"] = [{"type": "string", "description": "Short for {drafter: …}."}, *drafted["anyOf"]]
    include = schema["properties"]["include"]
    include["anyOf"] = [{"type": "string"}, {key: include.pop(key) for key in ("type", "items")}]
    # Parts may say the rest of what a job needs.
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["include"]}]
    for section in [schema, *schema["$defs"].values()]:
        for field in section["properties"].values():
            _tidy(field)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "helix-df job"}
    return head | {key: value for key, value in schema.items() if key != "title"}


def _tidy(field: dict[str, Any]) -> None:
    """Drop what says nothing (titles, defaults made of defaults), write times as users do, close mappings."""
    field.pop("title", None)
    if "patternProperties" in field:
        field["additionalProperties"] = False
    default = field.get("default")
    if default is None or isinstance(default, dict):
        field.pop("default", None)
    elif field.get("format") == "duration":
        field["default"] = format_duration(default)


def schema_text() -> str:
    """The schema as the text of ``spec/schema.json``."""
    return json.dumps(job_schema(), indent=1, ensure_ascii=False) + "\n"


def write_generated(root: Path) -> None:
    """Write ``spec/schema.json`` and ``docs/spec-reference.md`` of the source tree at ``root``."""
    from helix_df.spec.reference import reference_text

    (root / "spec" / "schema.json").write_text(schema_text(), encoding="utf-8")
    (root / "docs" / "spec-reference.md").write_text(reference_text(), encoding="utf-8")


if __name__ == "__main__":
    write_generated(Path(__file__).parents[2])
