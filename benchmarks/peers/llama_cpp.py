"""llama.cpp through llama-cpp-python's low-level calls: layers behind two RPC servers, or one process with two threads.

The KV cache is float32 as everybody's here; llama.cpp's own default is float16.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.child import Answer, Generate, Setup, Stopwatch, serve
from benchmarks.peers.system import System, one_thread

_MODULE = "benchmarks.peers.llama_cpp"
_RPC_SERVER = "--rpc-server"
_GGML_TYPE_F32 = 0
_CPU_DEVICE = 0


def systems(python: Path) -> list[System]:
    """Its rows."""
    return [
        System(
            "llama.cpp RPC",
            "2 RPC servers, each 1 thread on a core of its own",
            _MODULE,
            "llama_cpp",
            python,
            splits_layers=True,
            option="rpc",
            environment=one_thread(),
        ),
        System(
            "llama.cpp", "1 process, 2 threads", _MODULE, "llama_cpp", python, option="alone", environment=one_thread(2)
        ),
    ]


@contextmanager
def load(setup: Setup) -> Iterator[Generate]:
    """See ``child``."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    servers = [_start_server(core) for core in setup.cores] if setup.option == "rpc" else []
    try:
        for _, address in servers:
            _add_server(address)
        yield _Context(setup, len(servers)).generate
    finally:
        for process, _ in servers:
            process.kill()
            process.wait()


class _Context:
    """A loaded model with room for the requests of ``setup``."""

    def __init__(self, setup: Setup, servers: int) -> None:
        import llama_cpp

        self._llama = llama_cpp
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 999 if servers else 0
        # Repacking packed weights ends the process with a segmentation fault in release 0.3.36 of llama-cpp-python.
        params.use_extra_bufts = not setup.packed
        if servers:
            # The output head counts as one layer more; the halves keep rounding from moving a layer.
            shares = (ctypes.c_float * llama_cpp.llama_max_devices())(setup.split[0] - 0.5, setup.split[1] + 1.5)
            params.tensor_split = shares
        self._model = llama_cpp.llama_model_load_from_file(setup.gguf.encode(), params)
        if not self._model:
            raise RuntimeError(f"{setup.gguf} can't be loaded")
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = setup.context * setup.requests
        wanted.n_seq_max = setup.requests
        wanted.n_batch = max(2048, setup.context)
        wanted.n_threads = wanted.n_threads_batch = 1 if servers else len(setup.cores)
        wanted.type_k = wanted.type_v = _GGML_TYPE_F32
        self._context = llama_cpp.llama_init_from_model(self._model, wanted)
        if not self._context:
            raise RuntimeError("llama.cpp makes no context")
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(wanted.n_batch, 0, 1)

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        """See ``child.Generate``."""
        watch = Stopwatch(len(prompts))
        inputs: Sequence[Sequence[int]] = prompts
        position = 0
        for _ in range(tokens):
            drawn = self._step(inputs, position)
            watch.step(drawn)
            position += len(inputs[0])
            inputs = [(token,) for token in drawn]
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), False)
        return watch.answers()

    def _step(self, inputs: Sequence[Sequence[int]], position: int) -> list[int]:
        import numpy as np

        batch, at = self._batch, 0
        for request, ids in enumerate(inputs):
            for index, token in enumerate(ids):
                batch.token[at], batch.pos[at] = token, position + index
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, request
                batch.logits[at] = index == len(ids) - 1
                at += 1
        batch.n_tokens = at
        code = self._llama.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode says {code}")
        logits = self._llama.llama_get_logits(self._context)
        rows: Any = np.ctypeslib.as_array(logits, shape=(len(inputs), self._vocabulary))
        return [int(token) for token in rows.argmax(axis=1)]


def _library() -> Any:
    # The ggml that libllama itself has loaded: a wheel holds copies of it, each with a list of devices of its own.
    from llama_cpp.llama_cpp import _lib as library

    for name in ("ggml_backend_dev_by_type", "ggml_backend_rpc_add_server"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


def _add_server(address: str) -> None:
    library = _library()
    found = ctypes.c_void_p(library.ggml_backend_rpc_add_server(address.encode()))
    library.ggml_backend_register(found)


def _start_server(core: int) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", _MODULE, _RPC_SERVER, str(port), str(core)])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return process, f"127.0.0.1:{port}"
    process.kill()
    raise RuntimeError("an RPC server doesn't listen")


def _serve_rpc(port: int, core: int) -> None:
    """What llama.cpp's ``rpc-server`` does with ``--threads 1``, on one core."""
    os.sched_setaffinity(0, {core})
    library = _library()
    devices = (ctypes.c_void_p * 1)(library.ggml_backend_dev_by_type(_CPU_DEVICE))
    library.ggml_backend_rpc_start_server(
        f"127.0.0.1:{port}".encode(), None, ctypes.c_size_t(1), ctypes.c_size_t(1), devices
    )


if __name__ == "__main__":
    if sys.argv[1] == _RPC_SERVER:
        _serve_rpc(int(sys.argv[2]), int(sys.argv[3]))
    else:
        serve(load)
