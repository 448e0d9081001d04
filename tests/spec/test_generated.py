"""What is generated is as the job's types are; ``python -m helix_df.spec.schema`` writes it again."""

import json
import re
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

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
    validator = Draft202012Validator(job_schema())
    for path in sorted((ROOT / "spec" / "examples").glob("*.yaml")):
        assert path.read_text("utf-8").startswith("# yaml-language-server: $schema=../schema.json\n")
        validator.validate(yaml.safe_load(path.read_text("utf-8")))


def test_the_schema_knows_that_parts_of_a_job_are_elsewhere():
    rest = {"nodes": {"a": {"gpu": "L4"}}}
    validator = Draft202012Validator(job_schema())
    assert validator.is_valid(rest | {"include": "model.yaml"})
    assert validator.is_valid(rest | {"include": ["model.yaml"]})
    assert not validator.is_valid(rest)
    assert not validator.is_valid(rest | {"include": [5]})


def test_the_schema_is_json():
    assert json.loads(schema_text())["title"] == "helix-df job"


def test_the_smallest_job_of_the_reference_loads():
    blocks = re.findall(r"```yaml\n(.*?)```", reference_text(), re.DOTALL)
    assert parse_job(blocks[1]).nodes.keys() == {"a", "b"}
