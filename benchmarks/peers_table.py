"""Our pipeline of two workers beside others that serve the same checkpoint on the same two cores, as Markdown.

    python -m benchmarks.peers_table --python transformers=.venv-torch/bin/python \\
        --python llama.cpp=.venv-llama/bin/python --python vllm=.venv-vllm/bin/python

Systems take turns, round by round, and rest otherwise, so that drift hits all alike; figures are medians over rounds,
and ratios are of medians. Before that, each continues one prompt greedily, to see that it computes the same model.
A system that isn't installed is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.peers import helix, llama_cpp, transformers, vllm
from benchmarks.peers.bandwidth import read_bytes_per_s
from benchmarks.peers.checkpoint import MODELS, Checkpoint, write_checkpoint
from benchmarks.peers.child import Setup
from benchmarks.peers.measure import (
    ITL_REQUESTS,
    LONG_PROMPTS,
    PROMPT,
    Figures,
    prompts,
    shared_start,
    take_turn,
)
from benchmarks.peers.system import Running, System

CONTEXT = 1280
REQUESTS = (1, 4, 8, 16)
CORES = (0, 1)
CHECKED_TOKENS = 32
OURS, ALONE, ONE_CORE, TORCH = "pipeline", "one process", "one process, one core", "transformers"
PEERS = {"transformers": transformers, "llama.cpp": llama_cpp, "vllm": vllm}
READ_GGUF = ("llama.cpp",)


def main() -> None:
    """Measure and print."""
    options = _options()
    pythons = {name: Path(path) for name, _, path in (one.partition("=") for one in options.python)}
    for name in options.model or MODELS:
        _say(f"writing {name}")
        checkpoint = write_checkpoint(name, options.models)
        systems = helix.systems(packed=checkpoint.is_packed)
        for peer in READ_GGUF if checkpoint.is_packed else PEERS:
            systems += PEERS[peer].systems(pythons.get(peer, Path(sys.executable)).absolute())
        wanted = [system for system in systems if not options.only or system.name in options.only]
        _table(checkpoint, _present(wanted), options)


def _present(systems: Sequence[System]) -> list[System]:
    found = []
    for system in systems:
        reason = system.missing()
        if reason is None:
            found.append(system)
        else:
            print(f"{system.name} is left out: {reason}.")
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our pipeline beside its peers.")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="the interpreter of a peer")
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all")
    parser.add_argument("--only", action="append", metavar="SYSTEM", help="rows to measure; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer while decoding is measured")
    parser.add_argument("--quick", action="store_true", help="one round of 12 tokens, to see that everything runs")
    folder = Path(tempfile.gettempdir()) / "helix-df-peers"
    parser.add_argument("--models", type=Path, default=folder, help="where checkpoints are kept (1 GB each)")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.tokens = 1, 12
    return options


def _table(checkpoint: Checkpoint, systems: Sequence[System], options: argparse.Namespace) -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as logs:
        running = _start(checkpoint, systems, Path(logs))
        try:
            _measure(checkpoint, running, options)
        finally:
            for one in running:
                one.stop()
    _say(f"{checkpoint.name} took {time.monotonic() - started:.0f} s")


def _start(checkpoint: Checkpoint, systems: Sequence[System], logs: Path) -> list[Running]:
    """All at once; who fails is left out."""
    launched = []
    for index, system in enumerate(systems):
        cores = CORES[: system.cores]
        setup = Setup(
            str(checkpoint.folder),
            str(checkpoint.gguf),
            checkpoint.split(),
            cores,
            CONTEXT,
            max(REQUESTS),
            system.option,
            checkpoint.is_packed,
        )
        launched.append(Running(system, setup, logs / f"{index}.log"))
        _say(f"starting {system.name}")
    return _those_that_can(Running.wait_ready, launched)


def _measure(checkpoint: Checkpoint, started: Sequence[Running], options: argparse.Namespace) -> None:
    vocabulary = checkpoint.geometry.vocab_size
    checked: dict[str, list[int]] = {}
    figures = {one.system.name: Figures() for one in started}

    def warm(one: Running) -> None:
        prompt = checkpoint.text()[:1] or prompts("check", 1, PROMPT, vocabulary)
        checked[one.system.name] = one.ask(prompt, CHECKED_TOKENS)[0].tokens
        take_turn(one, Figures(), "warm", 6, vocabulary)
        _say(f"{one.system.name} is warm")

    running = _those_that_can(warm, started)
    bandwidth: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(options.rounds):
        for count, rates in bandwidth.items():
            rates.append(read_bytes_per_s(CORES[:count]))
        running = _those_that_can(
            lambda one, turn=turn: take_turn(  # type: ignore[misc]
                one, figures[one.system.name], f"round-{turn}", options.tokens, vocabulary
            ),
            running,
        )
        _say(f"round {turn + 1} of {options.rounds}")
    read = {count: statistics.median(rates) for count, rates in bandwidth.items()}
    _print_figures(checkpoint, running, figures, checked, read)
    _print_ratios(checkpoint, running, {one.system.name: figures[one.system.name] for one in running}, read)


def _those_that_can(act: Callable[[Running], None], running: Sequence[Running]) -> list[Running]:
    """One after another; who fails is left out from there on."""
    left = []
    for one in running:
        try:
            act(one)
        except RuntimeError as error:
            print(f"{one.system.name} is left out: {error}")
        else:
            left.append(one)
    return left


def _print_figures(
    checkpoint: Checkpoint,
    running: Sequence[Running],
    figures: dict[str, Figures],
    checked: dict[str, list[int]],
    read: dict[int, float],
) -> None:
    first, second = checkpoint.split()
    print(
        f"\n### {checkpoint.name}: {checkpoint.parameters / 1e6:.1f}M parameters, "
        f"{'as its file has them' if checkpoint.is_packed else 'float32'}, stages of {first} and "
        f"{second} layers, the head with the second\n"
    )
    print(
        f"A decode step reads {checkpoint.step_bytes / 1e6:.0f} MB of weights; one core reads {read[1] / 1e9:.1f} GB/s,"
    )
    print(f"two read {read[2] / 1e9:.1f} GB/s.\n")
    decode = [f"tokens/s, {count}" for count in REQUESTS]
    ttft = [f"TTFT of {length:,}, ms" for length in LONG_PROMPTS]
    itl = [f"ITL p50 at {ITL_REQUESTS}, ms", "p95"]
    print("| " + " | ".join(["system", "processes", "same tokens", *decode, *ttft, *itl]) + " |")
    print("|---" * (3 + len(decode) + len(ttft) + len(itl)) + "|")
    reference = checked.get(ALONE, next(iter(checked.values()), []))
    for one in running:
        name, mine = one.system.name, figures[one.system.name]
        row = [name, one.system.how, _agreement(reference, checked[name])]
        row += [_median(mine.tokens_per_s.get(count), 1, "{:.1f}") for count in REQUESTS]
        row += [_median(mine.ttft_s.get(length), 1e3, "{:.0f}") for length in LONG_PROMPTS]
        row += [_median(values, 1e3, "{:.1f}") for values in (mine.itl_p50_s, mine.itl_p95_s)]
        print("| " + " | ".join(row) + " |")


def _agreement(ours: list[int], theirs: list[int]) -> str:
    same = shared_start(ours, theirs)
    return f"all {same}" if same == len(ours) else f"the first {same} of {len(ours)}"


def _print_ratios(
    checkpoint: Checkpoint, running: Sequence[Running], figures: dict[str, Figures], read: dict[int, float]
) -> None:
    rate = {
        (name, count): statistics.median(values)
        for name, mine in figures.items()
        for count, values in mine.tokens_per_s.items()
    }
    print("\n| ratio | " + " | ".join(map(str, REQUESTS)) + " | target |")
    print("|---" * (2 + len(REQUESTS)) + "|")
    for one in running:
        name = one.system.name
        if name in (OURS, ONE_CORE):
            continue
        target = {ALONE: "≥ 0.9 at 8", TORCH: "≥ 1.5"}.get(name, "> 1 at 8 and 16" if one.system.splits_layers else "")
        _print_row(f"{OURS} / {name}", [_ratio(rate, (OURS, count), (name, count)) for count in REQUESTS], target)
    for name, cores in ((OURS, 1), (ALONE, 2), (ONE_CORE, 1)):
        # A token is at one stage of a pipeline at a time, so one core's bandwidth bounds a request alone.
        limit = read[cores] / checkpoint.step_bytes
        share = f"{rate[name, 1] / limit:.2f}" if (name, 1) in rate else ""
        label = f"{name} / weights over the bandwidth of {'one core' if cores == 1 else 'two cores'} ({limit:.1f}/s)"
        _print_row(label, [share, "", "", ""], "≥ 0.7")
    print(flush=True)


def _print_row(label: str, cells: Sequence[str], target: str) -> None:
    print("| " + " | ".join([label, *cells, target]) + " |")


def _ratio(rate: dict[tuple[str, int], float], ours: tuple[str, int], theirs: tuple[str, int]) -> str:
    return f"{rate[ours] / rate[theirs]:.2f}" if ours in rate and theirs in rate else ""


def _median(values: Sequence[float] | None, scale: float, form: str) -> str:
    return form.format(scale * statistics.median(values)) if values else ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
