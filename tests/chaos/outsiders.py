"""Who doesn't belong to a job but is on its network: one who listens in, and one who sends.

    python -m tests.chaos.outsiders spy|stranger auto|never

Prints what came of it as a line of JSON; runs in a sandbox.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from helix_df.layers import LayerRange
from helix_df.runtime.sampling import SamplingParams
from helix_df.runtime.wire.framing import encode
from helix_df.runtime.wire.messages import Failed, Heartbeat, Hello, Stop
from helix_df.runtime.wire.transport import endpoint_keys, listen
from tests.chaos.hosts import HOME, spy
from tests.chaos.scene import scene
from tests.runtime.tiny import answer, tiny_request

HALVES = {"a": LayerRange(0, 2), "b": LayerRange(2, 4)}
PROMPT = tuple(range(200, 240))


async def listen_in(folder: Path, encryption: str) -> dict[str, object]:
    """What a spy on the switch finds of a request: its prompt's ids, its hidden states' heads, its name, the secret."""
    async with scene(folder, HALVES, encryption=encryption, trust_network=encryption == "never") as stage:
        asked = tiny_request(1, id="a-name-to-look-for", prompt=PROMPT, max_tokens=20, sampling=SamplingParams())
        with spy() as heard:
            said = await answer(stage.coordinator, asked)
            await asyncio.sleep(0.5)
    found = bytes(heard)
    return {
        "bytes": len(found),
        "tokens": len(said),
        "prompt": np.array(PROMPT, np.int32).tobytes() in found,
        "name": b"a-name-to-look-for" in found,
        "kinds": b"forward" in found or b"sampled" in found,
        "hidden": b"float32" in found,
        "secret": stage.coordinator.token.encode() in found,
    }


async def send(folder: Path, encryption: str) -> dict[str, object]:
    """What a stranger brings about who has even the secret that messages carry, but neither keys nor encryption."""
    async with scene(folder, HALVES, encryption=encryption) as stage:
        job = stage.coordinator
        before = await answer(job, tiny_request(1, id="before"))
        stranger = listen(f"curve://{HOME}:*", keys=endpoint_keys(None, "a secret of another job"))
        plain = listen(f"tcp://{HOME}:*")
        nodes = {node.name: str(node.address) for node in job.snapshot().nodes}
        lives = {name: node.life for name, node in job._state.nodes_state.nodes.items()}
        targets = [job.address, *nodes.values()]
        try:
            while job.snapshot().refused_frames.get("connection", 0) < 5:
                for name, life in lives.items():
                    for target in targets:
                        for said in (Hello(name, stranger.address, 5), Heartbeat(name), Failed(name, "x", life or 0)):
                            stranger.send(target, encode(said, job.token))
                        stranger.send(target, encode(Stop(life or 0), job.token))
                        plain.send(f"tcp://{target.partition('@')[2]}", encode(Stop(life or 0), job.token))
                await asyncio.sleep(0.1)
            after = await answer(job, tiny_request(1, id="after"))
        finally:
            stranger.close()
            plain.close()
        return {
            "state": job.snapshot().state,
            "same": before == after,
            "refused": job.snapshot().refused_frames,
            "exits": [name for name, process in stage.launcher.processes.items() if process.poll() is not None],
            "logs": {node: (folder / f"{node}.log").read_text().count("without this job's keys") for node in nodes},
        }


def main(what: str, encryption: str) -> None:
    act = {"spy": listen_in, "stranger": send}[what]
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(act(Path(folder) / "logs", encryption))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
