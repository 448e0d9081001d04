"""Every command of the README and the documentation runs, or says why it can't here and is still parsed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from helix_df.cli.main import _app
from helix_df.load import parse_job
from helix_df.spec.job import Job
from helix_df.spec.shipped import examples
from tests.docs.blocks import PAGES, ROOT, Block, blocks, inline_commands

BLOCKS = [block for page in PAGES for block in blocks(page)]
EVERY_COMMAND = sorted(
    {command for block in BLOCKS for command in block.commands if re.search(r"(^|\s)helix-df [a-z]", command)}
    | {command for page in PAGES for command in inline_commands(page)}
)

SHORTER = {
    "plan": "--time-limit 5s",
    "bench": "--seconds 2 --warmup 0 --scale 0.02",
    "simulate": "--seconds 30 --warmup 0",
    "explain": "--budget 1s",
    "profile": "--layers 1 --prefill 16 --decode 1 --repeat 1",
}
"""What is added to a command so that it is shown to run, but not for as long as a reader would let it."""

SHORTER_LOAD = "seconds=60, warmup_s=10", "seconds=2, warmup_s=0"

MINE = "arrival_s,input_tokens,output_tokens\n0,20,4\n0.5,30,3\n"
SLOW_LINK = """
name: slow-link
model: {source: "random:llama-30b", dtype: float16}
nodes:
  desk: {gpu: A100-80GB, region: home}
  lab1: {gpu: A100-40GB, region: lab}
  lab2: {gpu: A100-40GB, region: lab}
links:
  regions:
  - {between: [lab, lab], bandwidth: 10Gbps}
  - {between: [home, lab], bandwidth: 20Mbps, latency: 20ms}
coordinator: {region: home}
"""


def shell(command: str, folder: Path, state: Path | None = None) -> str:
    """Run a line of shell where `helix-df` and `python` are this interpreter's, and insist that it succeeds."""
    bin_folder = folder / ".bin"
    if not bin_folder.exists():
        bin_folder.mkdir()
        for name, call in (
            ("helix-df", f'exec {sys.executable} -m helix_df "$@"'),
            ("python", f'exec {sys.executable} "$@"'),
        ):
            (bin_folder / name).write_text(f"#!/bin/sh\n{call}\n")
            (bin_folder / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HELIX_DF_STATE": str(state or folder / ".state"),
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def _address(state: Path | None) -> str:
    """Of the job's API, which tests start on any free port."""
    record = state / "jobs/quickstart/daemon.json" if state is not None else None
    return json.loads(record.read_text())["url"] if record is not None else "http://127.0.0.1:8000"


def run(block: Block, folder: Path, state: Path | None = None) -> None:
    for command in block.commands:
        name = re.search(r"helix-df (\w+)", command)
        shell(f"{command} {SHORTER.get(name[1], '') if name else ''}", folder, state)
    if block.language == "python":
        text = block.text.replace("http://127.0.0.1:8000", _address(state)).replace(*SHORTER_LOAD)
        (folder / "block.py").write_text(text)
        shell(f"python {Path(__file__).parent / 'run_python.py'} < block.py", folder, state)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What readers have at hand: a job and its plans, as the pages name them."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "job.yaml").write_text(examples()["quickstart"].read_text().replace("port: 8000", "port: 0"))
    (folder / "mine.csv").write_text(MINE)
    (folder / "slow-link.yaml").write_text(SLOW_LINK)
    (folder / "spec").symlink_to(ROOT / "spec")
    shell("helix-df plan job.yaml", folder)
    shell("helix-df plan job.yaml --solver even --out old.json", folder)
    shutil.copy(folder / "quickstart.plan.json", folder / "new.json")
    return folder


@pytest.fixture(scope="session")
def more_files(files: Path) -> Path:
    """Plans of the larger examples, for the pages that look at such."""
    for name, example, solver in [
        ("petals", "geo24", "petals"),
        ("auto", "geo24", "auto"),
        ("plan", "single24", "petals"),
        ("hetero42", "hetero42", "swarm"),
        ("two-sites", "two-sites", "auto"),
    ]:
        shell(f"helix-df plan spec/examples/{example}.yaml --solver {solver} --out {name}.json", files)
    return files


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Path]:
    state = tmp_path_factory.mktemp("docs-state")
    yield state
    shell("helix-df down quickstart || true", files, state)


@pytest.fixture
def folder(files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files, tmp_path / "page", symlinks=True))


def of_kind(*kinds: str) -> list[Path]:
    return [
        page for page in PAGES if any(b.kind in kinds and (b.commands or b.language == "python") for b in blocks(page))
    ]


@pytest.mark.parametrize("page", of_kind("fast"), ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.kind == "fast":
            run(block, folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", of_kind("slow"), ids=lambda page: page.stem)
@pytest.mark.usefixtures("more_files")
def test_the_long_commands_of_a_page_run(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.kind == "slow":
            run(block, folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", of_kind("job"), ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_on_a_job(page: Path, folder: Path, state: Path) -> None:
    for block in blocks(page):
        if block.kind == "job":
            shell("helix-df apply quickstart.plan.json", folder, state)
            run(block, folder, state)


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_every_command_is_one_that_helix_df_has(command: str) -> None:
    """Also where it can't be run, and between backticks, a command and its options must exist."""
    words = shlex.split(command[command.index("helix-df ") :].partition(">")[0].partition("|")[0].replace("…", "x"))[1:]
    if words[0].startswith("-"):
        return
    group: Any = typer.main.get_command(_app(words))
    with group.make_context("helix-df", words, resilient_parsing=True) as context:
        _, found, rest = group.resolve_command(context, words)
        try:
            found.make_context(words[0], rest, parent=context)
        except Exception as error:
            if type(error).__name__ != "MissingParameter":  # prose may leave arguments away
                raise


@pytest.mark.parametrize(
    "command",
    sorted(
        {m for page in PAGES for m in re.findall(r"python -m ((?:benchmarks|helix_df)[\w.]*)", page.read_text("utf-8"))}
    ),
)
def test_every_module_that_is_run_exists(command: str) -> None:
    assert find_spec(command) is not None


@pytest.mark.parametrize(
    "path",
    sorted({m for page in PAGES for m in re.findall(r"\b(?:scripts|benchmarks)/[\w.-]+", page.read_text("utf-8"))}),
)
def test_every_script_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_yaml_is_a_job_or_a_part_of_one(block: Block) -> None:
    document = yaml.safe_load(block.text)
    if document is None:  # a comment for editors
        assert block.text.startswith("# yaml-language-server:")
    elif {"model", "nodes"} <= document.keys():
        assert parse_job(block.text, str(block), ROOT).nodes
    else:
        whole = yaml.safe_load(examples()["quickstart"].read_text("utf-8"))
        assert Job.model_validate(whole | document).model_fields_set >= document.keys()


def test_the_readme_shows_the_shipped_quickstart() -> None:
    shown = next(block for block in blocks(ROOT / "README.md") if block.language == "yaml" and "nodes:" in block.text)
    assert yaml.safe_load(shown.text) == yaml.safe_load(examples()["quickstart"].read_text("utf-8"))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_toml_parses(block: Block) -> None:
    assert tomllib.loads(block.text)


def test_every_block_says_what_language_it_is_in() -> None:
    known = {"sh", "yaml", "python", "toml", "json", "mermaid", ""}
    assert [str(block) for block in BLOCKS if block.language not in known] == []
