"""What is generated is as the job's types are; ``python -m helix_df.spec.schema`` writes it again."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from helix_df.load import parse_job
from helix_df.spec.reference import reference_text
from helix_df.spec.schema import job_schema, schema_text

ROOT = Path(__file__).parents[2]


def test_the_schema_is_up_to_date():
    assert (ROOT / "spec" / "schema.json").read_text("utf-8") == schema_text()


def test_the_reference_is_up_to_date():
    assert (ROOT / "docs" / "spec-reference.md").read_text("utf-8") == reference_text()


def test_every_key_of_the_schema_is_described():
    schema = job_schema()
    for section in [schema, *schema["$defs"].values()]:
        assert section["additionalProperties"] is False
        for key, field in section["properties"].items():
            assert field.get("description"), key


def test_the_solver_may_be_a_name_or_a_section():
    kinds = job_schema()["properties"]["solver"]["anyOf"]
    assert kinds[0]["type"] == "string"
    assert kinds[1] == {"$ref": "#/$defs/SolverChoice"}


def test_the_examples_use_only_keys_of_the_schema():
    schema = job_schema()
    for path in sorted((ROOT / "spec" / "examples").glob("*.yaml")):
        assert path.read_text("utf-8").startswith("# yaml-language-server: $schema=../schema.json\n")
        _check(yaml.safe_load(path.read_text("utf-8")), schema, schema)


def _check(value, schema, root):
    """As much of JSON schema as the job's needs: references, choices, types, patterns, keys."""
    if "$ref" in schema:
        return _check(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        fits = [choice for choice in schema["anyOf"] if "$ref" in choice or _is(value, choice["type"])]
        assert fits, value
        return _check(value, fits[-1] if isinstance(value, dict) else fits[0], root)
    assert _is(value, schema.get("type", "object")), (value, schema)
    if isinstance(value, str) and "pattern" in schema:
        assert re.search(schema["pattern"], value), (value, schema["pattern"])
    if isinstance(value, list) and "items" in schema:
        for item in value:
            _check(item, schema["items"], root)
    if isinstance(value, dict):
        entries = schema.get("patternProperties", {})
        inner = next(iter(entries.values())) if entries else schema.get("additionalProperties")
        for key, item in value.items():
            _check(item, schema["properties"][key] if "properties" in schema else inner, root)
    return None


def _is(value, kind):
    names: dict[str, Any] = {
        "string": str,
        "object": dict,
        "array": list,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
    }
    return any(
        kind_ in names and isinstance(value, names[kind_]) for kind_ in ([kind] if isinstance(kind, str) else kind)
    )


def test_the_schema_is_json():
    assert json.loads(schema_text())["title"] == "helix-df job"


def test_the_smallest_job_of_the_reference_loads():
    blocks = re.findall(r"```yaml\n(.*?)```", reference_text(), re.DOTALL)
    assert parse_job(blocks[1]).nodes.keys() == {"a", "b"}
