"""The planning commands at work: what they print, what they write, how they are stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from helix_df.cli.main import COMMANDS, main
from helix_df.cli.plan_table import render_plan
from helix_df.cli.search import describe, watched
from helix_df.errors import SpecError
from helix_df.graph.compile import compile_problem
from helix_df.load import load_job, parse_job
from helix_df.plan.plan import read_plan
from helix_df.plan.violations import violations
from helix_df.planning import make_plan
from helix_df.solvers.api import Incumbent

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "spec" / "examples"
SINGLE24 = EXAMPLES / "single24.yaml"


def run(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return caught.value.code or 0, out, err


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_help_lists_every_command_with_a_line(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name in COMMANDS:
        line = next(line for line in out.splitlines() if line.startswith(f"  {name} "))
        assert len(line.split()) > 2
        assert "..." not in line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert f"helix-df {name}" in out
    assert ":param" not in out
    assert "Raises" not in out


@pytest.mark.parametrize(
    ("words", "at", "offered"), [("helix-df pl", 1, "plan"), ("helix-df plan --so", 2, "--solver")]
)
def test_shells_complete_commands_and_options(words, at, offered, capsys, monkeypatch):
    monkeypatch.setenv("_HELIX_DF_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(at))
    code, out, err = run(capsys)
    assert (code, out.split(), err) == (0, [offered], "")


def test_what_is_valid_as_json(capsys):
    code, out, _ = run(capsys, "validate", SINGLE24, "--json")
    assert code == 0
    found, words = json.loads(out), run(capsys, "validate", SINGLE24)[1]
    assert found.keys() == {"name", "layers", "nodes", "room"}
    assert all(str(value) in words for value in found.values())


def test_mistakes_as_json(capsys, tmp_path):
    """Programs read stdout, and people what stderr says as always."""
    (tmp_path / "job.yaml").write_text(SINGLE24.read_text().replace("nodes:", "nodez:"))
    code, out, err = run(capsys, "validate", "job.yaml", "--json")
    assert code == 2
    errors = json.loads(out)["errors"]
    assert [one["problem"] for one in errors if "nodez" in one["where"]]
    assert all(one["problem"] in err for one in errors)


def test_solvers_as_json(capsys):
    code, out, _ = run(capsys, "solvers", "--json")
    assert code == 0
    assert {"auto", "even", "petals"} <= {solver["name"] for solver in json.loads(out)["solvers"]}


def test_a_plan_as_json(capsys):
    made = run(capsys, "plan", SINGLE24, "--solver", "even", "--out", "plan.json")
    assert made[0] == 0
    assert json.loads(run(capsys, "show", "plan.json", "--json")[1]) == json.loads(Path("plan.json").read_text())


def test_version(capsys):
    assert run(capsys, "--version")[1].startswith("helix-df")


def test_validate_says_what_the_job_is(capsys):
    code, out, err = run(capsys, "validate", SINGLE24)
    assert code == 0
    # The paper's tables are far from the curves of the same devices: one notice, a line for each GPU, what to do.
    assert [line.split(":")[0].strip() for line in err.splitlines()] == [
        "note", "gpus.A100-40GB", "gpus.L4", "gpus.T4", "used", "try",
    ]  # fmt: skip
    assert "single24 is valid" in out
    assert "80 layers" in out
    assert "24 nodes" in out


def test_plan_writes_a_valid_plan_named_after_the_job_and_show_shows_the_same(capsys):
    code, planned, err = run(capsys, "plan", SINGLE24, "--solver", "even")
    assert code == 0
    assert "written to single24.plan.json" in err
    plan = read_plan(Path("single24.plan.json"))
    assert violations(plan) == []
    assert plan.job == load_job(SINGLE24).with_solver(name="even")
    code, shown, _ = run(capsys, "show", "single24.plan.json")
    assert (code, shown) == (0, planned)


def test_plan_overrides_reach_the_plan(capsys):
    run(capsys, "plan", SINGLE24, "--solver", "swarm", "--seed", "7", "--time-limit", "2min", "--out", "p.json")
    solver = read_plan(Path("p.json")).job.solver
    assert (solver.name, solver.seed, solver.time_limit) == ("swarm", 7, 120.0)


def test_another_solver_does_not_inherit_options(capsys):
    Path("job.yaml").write_text(
        SINGLE24.read_text().replace("name: auto", "name: separate, backend: null, options: {mixed: true}")
    )
    assert run(capsys, "plan", "job.yaml", "--solver", "even")[0] == 0
    assert read_plan(Path("single24.plan.json")).job.solver.options == {}


def test_json_is_the_plan_and_nothing_else(capsys):
    code, out, _ = run(capsys, "plan", SINGLE24, "--solver", "even", "--json")
    assert code == 0
    assert json.loads(out)["format"] == "helix-df-plan"
    assert not list(Path().glob("*.json"))
    run(capsys, "plan", SINGLE24, "--solver", "even", "--json", "--out", "p.json")
    assert json.loads(Path("p.json").read_text())["flow"] == json.loads(out)["flow"]


def test_solvers_and_schema(capsys):
    out = run(capsys, "solvers")[1]
    for name in ("auto", "mip", "even", "swarm", "petals", "separate"):
        assert any(line.startswith(f"{name} ") and len(line.split()) > 3 for line in out.splitlines())
    assert run(capsys, "schema")[1] == (ROOT / "spec" / "schema.json").read_text("utf-8")


# The table.


def rendered(job, width, **options):
    console = Console(width=width, color_system=None, highlight=False, markup=False)
    problem = compile_problem(job)
    with console.capture() as capture:
        render_plan(make_plan(job, problem=problem), problem, console, **options)
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["quickstart", "single24", "geo24", "hetero42"])
def test_the_table_fits_and_names_every_node(name, width, capsys):
    job = load_job(EXAMPLES / f"{name}.yaml").with_solver(name="petals", options={})
    text = rendered(job, width) + capsys.readouterr().out
    assert all(len(line) <= width for line in text.splitlines())
    assert not any(line != line.rstrip() for line in text.splitlines())
    for label in ("model", "solver", "flow", "bound", "KV cache", "bottleneck", "pipelines"):
        assert any(line.startswith(label) for line in text.splitlines()), label
    for node in job.nodes:
        assert node in text


def test_a_large_plan_is_cut_short_unless_asked(capsys):
    nodes = "\n".join(f"  n{i}: {{gpu: T4}}" for i in range(120))
    job = parse_job(
        "model: {source: random:llama-2-70b, dtype: float16}\nsolver: swarm\n"
        f"nodes:\n{nodes}\nlinks: {{default: {{bandwidth: 1GB/s}}}}\n"
    )
    short = rendered(job, 120) + capsys.readouterr().out
    assert "… and 70 more nodes; --all lists them" in short
    assert len((rendered(job, 120, every_node=True) + capsys.readouterr().out).splitlines()) > 120


def test_a_plan_says_which_links_and_nodes_bind(capsys):
    text = """\
model: {source: random:llama-2-70b, dtype: float16}
solver: even
gpus: {big: {profile: {tokens_per_s: [REPEAT], kv_tokens: [KV]}}}
nodes: {a: {gpu: big, region: x}, b: {gpu: big, region: y}, spare: {gpu: tiny}}
coordinator: {region: x}
links: {default: {bandwidth: 16384kB/s}}
"""
    text = text.replace("REPEAT", ", ".join(["5000"] * 40)).replace("KV", ", ".join(["100000"] * 40))
    text = text.replace("gpus: {", "gpus: {tiny: {memory: 1GB, profile: {compute: 1TFLOPS, bandwidth: 1GB/s}}, ")
    out = rendered(parse_job(text), 100) + capsys.readouterr().out
    assert "bottleneck  1 link (a → b)" in out
    assert "full links  a → b (1,000.0 of 1,000.0)" in out
    assert "unused      spare" in out
    assert "not one layer fits on spare" in out
    assert "1, each of 2 nodes" in out


# Progress and Ctrl-C.


def test_progress_in_words():
    assert describe(Incumbent(1.0, None, None, "mip")) == "mip: no placement yet"
    assert describe(Incumbent(1.0, 1234.5, None, "mip")) == "mip: 1,234.5 tokens/s"
    assert describe(Incumbent(1.0, 50.0, 100.0, "mip")) == "mip: 50.0 tokens/s, bound 100.0, gap 50.0%"


def test_ctrl_c_stops_once_then_aborts():
    def patient(watch):
        signal.raise_signal(signal.SIGINT)
        assert watch.stop.wait(5)
        return "best so far"

    console = Console(file=sys.stderr, width=80)
    before = signal.getsignal(signal.SIGINT)
    assert watched(patient, console) == "best so far"

    aborted = threading.Event()

    def deaf(watch):
        signal.raise_signal(signal.SIGINT)
        assert watch.stop.wait(5)
        signal.raise_signal(signal.SIGINT)
        assert aborted.wait(5)

    with pytest.raises(KeyboardInterrupt):
        watched(deaf, console)
    aborted.set()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_in_the_solver_thread_is_the_command_s():
    def broken(watch):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watched(broken, Console(file=sys.stderr))


# As a process.


def process(*args, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "helix_df", *map(str, args)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_ctrl_c_takes_the_best_plan_so_far():
    with process("plan", EXAMPLES / "hetero42.yaml", "--solver", "mip", "--time-limit", "60s") as running:
        assert "tokens/s" in running.stderr.readline()  # it has a first placement
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=40)
    assert running.returncode == 0, err
    assert "stopping with the best plan so far" in err
    assert "stopped by you" in out
    assert violations(read_plan(Path("hetero42.plan.json"))) == []


def test_planning_starts_without_jax():
    code = (
        "import sys\n"
        "from helix_df.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: sys.stderr.write(str([m for m in ('jax', 'flax', 'zmq', 'torch') if m in sys.modules]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "plan", str(SINGLE24), "--solver", "even"],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.stderr.endswith("[]")
    assert result.stdout.startswith("job ")


@pytest.mark.parametrize(
    ("options", "solver"),
    [
        (["--objective", "goodput"], "goodput"),
        (["--solver", "auto", "--objective", "goodput"], "goodput"),
        (["--solver", "even", "--objective", "flow"], "even"),
    ],
)
def test_an_objective_is_a_solver(options, solver):
    from helix_df.cli.plan import _solver_name

    given = dict(zip(options[::2], options[1::2], strict=True))
    assert _solver_name("cover", given.get("--solver"), given.get("--objective")) == solver
    assert _solver_name("goodput", None, "flow") == "auto"
    with pytest.raises(SpecError, match="different solvers"):
        _solver_name("cover", "even", "goodput")
