"""Ours: a pipeline of worker processes behind the coordinator, and the same engine in one process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

from benchmarks.peers.child import Answer, Generate, Setup, Stopwatch, serve
from benchmarks.peers.system import System

_MODULE = "benchmarks.peers.helix"
_PIECE = 128
"""Prompt tokens a batch: on a CPU, pieces of 128 run as fast a token as longer ones, and both stages work at once."""

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def systems(*, packed: bool) -> list[System]:
    """Our rows; with weights packed as their file has them, a pipeline in float32 beside them."""
    return _packed_systems() if packed else _float32_systems()


def _packed_systems() -> list[System]:
    two = "2 workers, each 1 thread on a core of its own"
    return [
        System("pipeline", two, _MODULE, "helix_df", splits_layers=True, option="pipeline stored"),
        System("pipeline, float32", two, _MODULE, "helix_df", splits_layers=True, option="pipeline"),
        System("one process", "1 process, 2 threads", _MODULE, "helix_df", option="engine stored"),
    ]


def _float32_systems() -> list[System]:
    return [
        System(
            "pipeline",
            "2 workers, each 1 thread on a core of its own",
            _MODULE,
            "helix_df",
            splits_layers=True,
            option="pipeline",
        ),
        System("one process", "1 process, 2 threads", _MODULE, "helix_df", option="engine"),
        System(
            "one process, one core",
            "1 process, 1 thread",
            _MODULE,
            "helix_df",
            cores=1,
            requests=(1,),
            option="engine",
            environment={"XLA_FLAGS": _ONE_THREAD},
        ),
    ]


def load(setup: Setup) -> AbstractContextManager[Generate]:
    """See ``child``."""
    return _pipeline(setup) if setup.option.startswith("pipeline") else _engine(setup)


def _source(setup: Setup) -> tuple[str, Literal["stored"] | None]:
    """Which of the checkpoint's files it reads, and how it keeps weights."""
    stored = setup.option.endswith("stored")
    return (f"gguf:{setup.gguf}", "stored") if stored else (f"hf:{setup.folder}", None)


@contextmanager
def _engine(setup: Setup) -> Iterator[Generate]:
    import numpy as np

    from helix_df.models.weights import load_shard
    from helix_df.paths import cache_folder
    from helix_df.profiles.read_geometry import read_geometry
    from helix_df.runtime.sampling import SamplingParams
    from helix_df.runtime.worker.compile_cache import enable_compile_cache
    from helix_df.runtime.worker.device import backend_defaults, matrix_layout
    from helix_df.runtime.worker.engine import Engine
    from helix_df.runtime.worker.steps import Step
    from helix_df.spec.source import parse_source

    enable_compile_cache(cache_folder("compiled"))
    text, kept = _source(setup)
    source = parse_source(text)
    shard = load_shard(source, read_geometry(source), layout=matrix_layout(), kept=kept)
    engine = Engine(
        shard,
        num_pages=_kv_tokens(setup) // 16 + setup.requests,
        max_batch=setup.requests,
        max_context=setup.context,
        **backend_defaults(),
    )

    def generate(prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        watch = Stopwatch(len(prompts))
        names = [str(index) for index in range(len(prompts))]
        inputs, position = prompts, 0
        for _ in range(tokens):
            steps = [
                Step(name, engine.layers, position, np.asarray(ids, np.int32), None, SamplingParams())
                for name, ids in zip(names, inputs, strict=True)
            ]
            drawn = [result.token or 0 for result in engine.run(steps)]
            watch.step(drawn)
            position += len(inputs[0])
            inputs = [(token,) for token in drawn]
        for name in names:
            engine.release(name)
        return watch.answers()

    yield generate


@contextmanager
def _pipeline(setup: Setup) -> Iterator[Generate]:
    from benchmarks.serving import answer_all, serving

    loop = asyncio.new_event_loop()
    job = serving(_plan(setup))
    coordinator = loop.run_until_complete(job.__aenter__())

    def generate(prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        found = loop.run_until_complete(answer_all(coordinator, prompts, tokens))
        start = min(one.sent_s for one in found)
        return [Answer(one.tokens, [time_s - start for time_s in one.times_s]) for one in found]

    try:
        yield generate
    finally:
        loop.run_until_complete(job.__aexit__(None, None, None))


def _plan(setup: Setup) -> Any:
    """The stages of ``setup.split``, one worker each."""
    from helix_df.graph.compile import compile_problem
    from helix_df.graph.max_flow import placement_flow
    from helix_df.layers import LayerRange
    from helix_df.plan.plan import SolverReport, assemble
    from helix_df.spec.job import Job

    source, kept = _source(setup)
    layers = sum(setup.split)
    profile = {"tokens_per_s": [100.0] * layers, "kv_tokens": [_kv_tokens(setup)] * layers}
    stops = list(itertools.accumulate(setup.split))
    placement = {
        f"stage{index}": LayerRange(stop - held, stop)
        for index, (held, stop) in enumerate(zip(setup.split, stops, strict=True))
    }
    job = Job.model_validate(
        {
            "name": "peers",
            "model": {"source": source, "context": setup.context, **({"weights": kept} if kept else {})},
            "gpus": {"core": {"memory": "8GB", "profile": profile}},
            "nodes": {name: {"gpu": "core"} for name in placement},
            "links": {"default": {"bandwidth": "10Gbps"}},
            "runtime": {"max_batch": setup.requests, "port": 0, "max_prefill_tokens": _PIECE},
        }
    )
    problem = compile_problem(job)
    report = SolverReport("hand", None, "finished", "", None, 0.0)
    return assemble(job, problem, placement, placement_flow(problem, placement), report)


def _kv_tokens(setup: Setup) -> int:
    return 2 * setup.context + 128 * setup.requests


if __name__ == "__main__":
    serve(load)
