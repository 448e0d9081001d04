"""What lm-eval finds of a model through the API, beside what it finds with transformers on the same files.

    python -m tests.clients.evaluations --python PYTHON

PYTHON is that of an environment with ``lm-eval[api,hf]``. A small random checkpoint is served by three workers; two
tasks ask for log-likelihoods of endings and for greedy continuations. Ends with 1 if an ending's log-likelihood differs
by more than 1e-3, or a choice or a continuation does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from helix_df.models.tokenizer import load_tokenizer
from helix_df.runtime.api.generation import TextService
from helix_df.runtime.jobs.daemon import api_server, bound_socket, url_of
from helix_df.spec.source import parse_source
from tests.oracle.checkpoints import write_checkpoint
from tests.oracle.serving import served

ITEMS = 24
MOST_APART = 1e-3
BOS, EOS = "<s>", "</s>"
WORDS = ["river", "stone", "light", "paper", "green", "seven", "window", "garden", "early", "winter"]
COMMON = "dataset_path: json\ntest_split: test\nmetadata: {version: 1}\n"
CHOICES = (
    "task: choices\noutput_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: 0\nmetric_list: [{metric: acc}]\n"
)
ENDINGS = (
    "task: endings\noutput_type: generate_until\ndoc_to_text: '{{text}}'\ndoc_to_target: ''\n"
    "generation_kwargs: {until: ['\\n'], max_gen_toks: 16, temperature: 0, do_sample: false}\n"
    "metric_list: [{metric: exact_match}]\n"
)


def write_model(folder: Path) -> Path:
    """A small random Llama, with a tokenizer of bytes, as transformers saves them."""
    path = write_checkpoint(folder, "grouped")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate([*alphabet, BOS, EOS])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "add_bos_token": False}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def write_tasks(folder: Path) -> None:
    """Two tasks over sentences of a few words."""
    lines = []
    for at in range(ITEMS):
        words = [WORDS[(at * step) % len(WORDS)] for step in (1, 3, 7, 9)]
        choices = [f" {WORDS[(at + more) % len(WORDS)]}" for more in (1, 2, 5)]
        lines.append(json.dumps({"text": " ".join(words), "choices": choices}))
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")
    files = f"dataset_kwargs: {{data_files: {{test: {folder / 'items.jsonl'}}}}}\n"
    for name, task in (("choices", CHOICES), ("endings", ENDINGS)):
        (folder / f"{name}.yaml").write_text(COMMON + files + task)


async def evaluate(python: str, folder: Path, name: str, kind: str, arguments: dict[str, str]) -> list[dict[str, Any]]:
    """What lm-eval was answered, item by item.

    Raises:
        RuntimeError: when it ends with an error.
    """
    words = [python, "-m", "lm_eval", "--model", kind, "--tasks", "choices,endings", "--include_path", str(folder)]
    words += ["--model_args", ",".join(f"{key}={value}" for key, value in arguments.items()), "--log_samples"]
    words += ["--output_path", str(folder / name), "--device", "cpu", "--batch_size", "1"]
    cache = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none", "PYTHONPATH": ""}
    process = await asyncio.create_subprocess_exec(*words, env=os.environ | cache, cwd=folder)
    if await process.wait():
        raise RuntimeError(f"lm-eval ended with {process.returncode} for {name}")
    samples = [sample for file in sorted((folder / name).rglob("samples_*.jsonl")) for sample in _lines(file)]
    return sorted(samples, key=lambda sample: (str(sample["arguments"]), sample["doc_id"]))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    yield from (json.loads(line) for line in file.read_text().splitlines())


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> tuple[int, int, float]:
    """Items, those that differ, and how far log-likelihoods are apart at most."""
    differ, apart = 0, 0.0
    for mine, other in zip(ours, theirs, strict=True):
        found = [one[0] for one in mine["resps"]], [one[0] for one in other["resps"]]
        if isinstance(found[0][0], str):
            differ += found[0] != found[1]
            continue
        pairs = [(float(a[0]), float(b[0])) for a, b in zip(*found, strict=True)]
        apart = max(apart, *(abs(a - b) for a, b in pairs))
        best = [max(range(len(pairs)), key=lambda at, side=side: pairs[at][side]) for side in (0, 1)]  # type: ignore[misc]
        differ += best[0] != best[1]
    return len(ours), differ, apart


async def run(python: str, folder: Path) -> int:
    path = write_model(folder)
    write_tasks(folder)
    source = f"hf:{path}"
    async with served(source, 5, context=512) as coordinator:
        text = TextService(coordinator, load_tokenizer(parse_source(source)), model_name="small", context=512)
        with bound_socket("127.0.0.1", 0) as listener:
            server = api_server(text)
            task = asyncio.create_task(server.serve(sockets=[listener]))
            api = {"model": "small", "base_url": f"{url_of(listener)}/v1/completions", "tokenizer": str(path)}
            ours = await evaluate(python, folder, "api", "local-completions", api | {"max_length": "512"})
            server.should_exit = True
            await task
    theirs = await evaluate(python, folder, "transformers", "hf", {"pretrained": str(path), "dtype": "float32"})
    items, differ, apart = compare(ours, theirs)
    print(f"{items} items, {differ} differ; log-likelihoods at most {apart:.1e} apart")
    return int(differ > 0 or apart > MOST_APART or items != 2 * ITEMS)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="of an environment with lm-eval")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(run(options.python, Path(folder)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
