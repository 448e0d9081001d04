"""Record which tensors published models consist of, as transformers makes them of a configuration.

Needs the oracle extra: ``python -m tests.oracle.make_headers``. Models are made on torch's meta device, so without a
weight. Writes ``headers.json`` in ``recorded``: for each model the shapes of tensors outside the layers, and for each
run of layers that are alike the shapes within one.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from typing import Any

import torch
import transformers

from tests.oracle.cases import RECORDED

MODELS = ("qwen3-30b-a3b", "llama-3.3-70b", "gemma-3-27b", "gpt-oss-120b", "deepseek-v3")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def header(name: str) -> dict[str, Any]:
    text = importlib.resources.files("helix_df.profiles").joinpath("data/geometries.json").read_text("utf-8")
    options = {**json.loads(text)[name]}
    config = transformers.AutoConfig.for_model(options.pop("model_type", "llama"), **options)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    outside: dict[str, list[int]] = {}
    layers: list[dict[str, list[int]]] = [{} for _ in range(config.num_hidden_layers)]
    stored = set(dict(model.named_parameters())) | set(dict(model.named_buffers())) & set(model.state_dict())
    for key in sorted(stored):  # what is tied is a parameter once
        match, shape = _LAYER.fullmatch(key), list(model.state_dict()[key].shape)
        if match is None:
            outside[key] = shape
        else:
            layers[int(match[1])][match[2]] = shape
    runs: list[dict[str, Any]] = []
    for tensors in layers:
        if runs and runs[-1]["tensors"] == tensors:
            runs[-1]["count"] += 1
        else:
            runs.append({"count": 1, "tensors": tensors})
    return {"outside": outside, "layers": runs}


def main() -> None:
    recorded = {name: header(name) for name in MODELS}
    (RECORDED / "headers.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
