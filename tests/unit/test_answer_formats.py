"""Which format answers have: by the job, the model's template, or another package."""

from __future__ import annotations

import sys

import pytest

from helix_df.check import check_job
from helix_df.errors import ModelError
from helix_df.load import load_job
from helix_df.models.answer_formats.api import AnswerContext, CallArguments, CallStart
from helix_df.models.answer_formats.registry import reasoning_format_of, tool_format_of, tool_formats

JOB = """
name: tiny
model: {{source: "random:tiny", {line}}}
gpus: {{cpu: {{memory: 100MB, profile: {{compute: 1GFLOPS, bandwidth: 1GB/s}}}}}}
nodes: {{a: {{gpu: cpu}}}}
links: {{default: {{bandwidth: 10Gbps, latency: 1ms}}}}
"""
PARSER = """
from helix_df.models.answer_formats.api import CallArguments, CallStart


class Shouting:
    name = "shouting"
    markers = ()

    def is_of(self, template):
        return "SHOUT" in template

    def template_id(self, call_id):
        return call_id

    def parser(self, context):
        return self

    def push(self, text):
        return [CallStart(0, text.lower()), CallArguments(0, "{}")]

    def finish(self):
        return []


shouting = Shouting()
"""


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("... <tool_call> ... <think>", "hermes", "think"),
        ("... <tool_call>\n<function=", "json", None),
        ("... <tool_call>\n<function=x>\n<parameter=y>", "qwen3_coder", None),
        ("<|start_header_id|> {{ '\"parameters\"' }}", "llama3", None),
        ("[TOOL_CALLS] [THINK]", "mistral", "magistral"),
        ("<|channel|> <|message|>", "harmony", "harmony"),
        ("plain", "json", None),
    ],
)
def test_the_template_tells_the_format(template: str, tools: str, reasoning: str | None) -> None:
    assert tool_format_of(template).name == tools
    found = reasoning_format_of(template)
    assert (None if found is None else found.name) == reasoning


def test_the_job_may_name_it() -> None:
    assert tool_format_of("[TOOL_CALLS]", "hermes").name == "hermes"
    assert tool_format_of("[TOOL_CALLS]", "none") is None
    assert reasoning_format_of("<think>", "none") is None


@pytest.mark.parametrize(
    ("line", "near"), [("tool_parser: hermse", "hermes"), ("reasoning_parser: thinking", "think"), ("seed: 1", None)]
)
def test_a_name_that_nobody_knows_is_found_before_anything_runs(tmp_path, line: str, near: str | None) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(JOB.format(line=line))
    if near is None:
        check_job(load_job(file))
        return
    with pytest.raises(ModelError) as error:
        check_job(load_job(file))
    assert error.value.where == f"{file}:3: model.{line.partition(':')[0]}"
    assert error.value.hint == f"did you mean '{near}'?"


def test_another_package_brings_one(tmp_path, monkeypatch) -> None:
    (tmp_path / "shouting_parser.py").write_text(PARSER)
    info = tmp_path / "shouting-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1\n")
    entries = "shouting = shouting_parser:shouting\nhermes = shouting_parser:shouting\n"
    (info / "entry_points.txt").write_text(f"[helix_df.tool_parsers]\n{entries}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert tool_format_of("SHOUT").name == "shouting"
    assert tool_formats()["hermes"].name == "hermes"  # what is built in can't be taken
    parser = tool_format_of("", "shouting").parser(AnswerContext(("run",)))
    assert parser.push("RUN") == [CallStart(0, "run"), CallArguments(0, "{}")]
    (info / "entry_points.txt").write_text("[helix_df.tool_parsers]\nshouting = shouting_parser:nobody\n")
    with pytest.raises(ModelError, match="the parser shouting of shouting 1"):
        tool_formats()
