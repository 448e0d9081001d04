import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

# The program `vllm` doesn't start from the CPU build, which has another package's name; this is what it runs.
from report import MODEL, URL, trying
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm.benchmarks.serve import add_cli_args, main_async
from vllm.utils.argparse_utils import FlexibleArgumentParser

REQUESTS, TOKENS = 8, 12


def write_tokenizer(folder: Path) -> None:
    """One whose tokens are bytes: prompts are counted by it, and sent as text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def ran(backend: str, endpoint: str, *options: str) -> dict:
    """What `vllm bench serve` says of prompts of our own."""
    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.jsonl"
        lines = [json.dumps({"prompt": f"Tell me about city number {number}."}) for number in range(REQUESTS)]
        prompts.write_text("\n".join(lines))
        write_tokenizer(Path(folder) / "tokenizer")
        data = ["--dataset-name", "custom", "--dataset-path", str(prompts), "--custom-output-len", str(TOKENS)]
        where = ["--backend", backend, "--base-url", URL, "--endpoint", endpoint, "--model", MODEL]
        given = [
            *where,
            *data,
            "--tokenizer",
            f"{folder}/tokenizer",
            "--skip-chat-template",
            "--num-prompts",
            str(REQUESTS),
            *options,
        ]
        standard_output, sys.stdout = sys.stdout, sys.stderr
        try:
            found = asyncio.run(main_async(parser.parse_args(given)))
        finally:
            sys.stdout = standard_output
    assert (found["completed"], found["failed"]) == (REQUESTS, 0), found
    assert found["total_output_tokens"] == REQUESTS * TOKENS, found
    return found


with trying("completions, four at a time"):
    ran("openai", "/v1/completions", "--max-concurrency", "4", "--ignore-eos")
with trying("chats, at a rate"):
    ran("openai-chat", "/v1/chat/completions", "--request-rate", "4", "--ignore-eos")
