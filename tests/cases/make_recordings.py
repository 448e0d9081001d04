"""Record what transformers makes of unusual files. Needs the oracle extra: ``python -m tests.cases.make_recordings``.

Writes ``recorded/ropes.npz``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.cases.files import checkpoint
from tests.cases.ropes import ROPES
from tests.oracle.cases import prompt_ids
from tests.oracle.make_recordings import last_logits

RECORDED = Path(__file__).parent / "recorded"


def record_ropes() -> None:
    """Logits after 150 tokens of one checkpoint under each of the settings."""
    arrays = {}
    for name, options in ROPES.items():
        with tempfile.TemporaryDirectory() as folder:
            source = checkpoint(Path(folder), config=options)
            model = transformers.LlamaForCausalLM.from_pretrained(source.location, dtype=torch.float32).eval()
            arrays[name] = last_logits(model, prompt_ids(320, 150).tolist())
    np.savez_compressed(RECORDED / "ropes.npz", **arrays)  # type: ignore[arg-type]  # its flag is no array of ours


def main() -> None:
    RECORDED.mkdir(exist_ok=True)
    record_ropes()


if __name__ == "__main__":
    main()
