"""Values may ask for variables of the environment, by one form alone; all other text is as it always was."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_df.errors import SpecError, SpecErrors
from helix_df.load import parse_job
from helix_df.spec.yaml_tree import parse_yaml

SET = {"N": "8", "HOST": "a100.example", "EMPTY": "", "YES": "true", "TEXT": "a b", "LIST": "[1, 2]"}

JOB = """\
name: {name}
model: {{source: random:tiny}}
nodes:
  a:
    gpu: L4
    count: {count}
links: {{default: {{bandwidth: 10Gbps}}}}
"""


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${env:N}", 8),
        ('"${env:N}"', 8),
        ("'${env:N}'", 8),
        ("${env:N}5", 85),
        ('"${env:N}5"', "85"),
        ("${env:N}Gbps", "8Gbps"),
        ("${env:N}e3", 8000.0),
        ("${env:YES}", True),
        ("${env:EMPTY}", None),
        ("${env:TEXT}", "a b"),
        ("${env:LIST}", "[1, 2]"),
        ("${env:NONE:-3}", 3),
        ("${env:EMPTY:-x}", "x"),
        ("${env:NONE:-}", None),
        ('"a-{n}.${env:HOST}:7000"', "a-{n}.a100.example:7000"),
        ("${env:HOST}/${env:N}", "a100.example/8"),
        ('"$${env:N}"', "${env:N}"),
        ("$N ${N} $$ $${N} ${ENV:N}", "$N ${N} $$ $${N} ${ENV:N}"),
        ("cost$", "cost$"),
    ],
)
def test_what_values_read_as(written: str, value: object) -> None:
    found: Any = parse_yaml(f"x: {written}", "t", SET).data
    assert found == {"x": value}
    assert type(found["x"]) is type(value)


@given(st.text(st.sampled_from("ab$${}:-env'")))
def test_text_that_asks_for_nothing_stays(text: str) -> None:
    if "${env:" not in text:
        quoted = text.replace("'", "''")
        assert parse_yaml(f"x: '{quoted}'", "t", SET).data == {"x": text}


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_no_value_of_a_variable_becomes_more_than_a_value(text: str) -> None:
    data: Any = parse_yaml("x:\n- ${env:V}\ny: '${env:V} '", "t", {"V": text}).data
    assert not isinstance(data["x"][0], dict | list)
    assert data["y"] == f"{text} "


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("a: 1\nb:\n  - ${env:NONE}\n", "t:3: b[0]", "NONE isn't set"),
        ("b: ${env:1N}\n", "t:1: b", "not how a variable is written"),
        ("b: '${env:N'\n", "t:1: b", "not how a variable is written"),
        ("b: ${env:N-5}\n", "t:1: b", "not how a variable is written"),
        ('b: {"${env:N}": 5}\n', "t:1: b", "asks for a variable"),
        ("b: {c: ${env:N}}\n", "t:1", "not valid YAML"),
    ],
)
def test_what_cant_be_filled_in_is_told_with_its_line(text: str, where: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "t", SET)
    assert caught.value.where == where
    assert problem in caught.value.problem


def test_between_braces_quotes_are_advised() -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml("b: {c: ${env:N}}\n", "t", SET)
    assert caught.value.hint == 'between braces a variable needs quotes: "${env:NAME}"'


def test_all_unset_variables_are_told_at_once() -> None:
    with pytest.raises(SpecErrors) as caught:
        parse_yaml("a: ${env:A}\nb: ${env:B}\n", "t")
    assert [error.where for error in caught.value.errors] == ["t:1: a", "t:2: b"]


def test_a_field_of_text_takes_what_reads_as_a_number() -> None:
    text = JOB.format(name="${env:NAME}", count="${env:COUNT}")
    job = parse_job(text, environment={"NAME": "2026", "COUNT": "3"})
    assert (job.name, len(job.nodes)) == ("2026", 3)
    assert parse_job(text, environment={"NAME": "true", "COUNT": "3"}).name == "true"


def test_a_field_of_numbers_says_what_a_variable_had() -> None:
    with pytest.raises(SpecErrors) as caught:
        parse_job(JOB.format(name="${env:NAME}", count="${env:COUNT}"), environment={"NAME": "-", "COUNT": "many"})
    found = {error.where: error.found for error in caught.value.errors}
    assert found == {"job.yaml:1: name": "'-'", "job.yaml:6: nodes.a.count": "'many'"}


def test_the_job_and_so_its_plan_has_the_values() -> None:
    job = parse_job(JOB.format(name="fleet", count='"${env:COUNT}"'), environment={"COUNT": "2"})
    assert "env:" not in job.model_dump_json()


def test_by_default_the_variables_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIX_TEST_COUNT", "4")
    assert len(parse_job(JOB.format(name="a", count="${env:HELIX_TEST_COUNT}")).nodes) == 4
