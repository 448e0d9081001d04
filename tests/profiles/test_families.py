"""Families as data: those built in fit together, and other packages' are found or refused with a reason."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helix_df.profiles.families.registry import BUILT_IN, families
from helix_df.profiles.geometry import layer_parts
from helix_df.profiles.read_geometry import geometry_from_config
from tests.oracle.family_checkpoints import FAMILY_CONFIGS, written_config

DOCS = Path(__file__).parents[2] / "docs/models.md"


def test_the_docs_name_every_family_and_its_gguf_architecture():
    families = DOCS.read_text().partition("\n## ")[0]
    rows = dict(re.findall(r"^\| [^|]+ \| `(\w+)` \| ([^|]+) \|", families, re.M))
    assert rows.keys() == BUILT_IN.keys()
    for name, family in BUILT_IN.items():
        assert rows[name].startswith("as `llama`" if family.gguf is None else f"`{family.gguf.architecture}`")


def test_every_family_is_held_against_the_reference():
    assert {config["model_type"] for config in FAMILY_CONFIGS.values()} == BUILT_IN.keys()


@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_every_part_of_a_layer_has_names(name):
    geometry = geometry_from_config(written_config(name), name)
    for layer in geometry.layer_kinds:
        for part, shapes in layer_parts(geometry, layer).items():
            assert len(families()[geometry.family].names[part]) in (1, len(shapes))


def package(folder: Path, module: str, value: str) -> None:
    """A distribution in ``folder`` with an entry point for a family."""
    (folder / "third.py").write_text(module)
    info = folder / "third-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[helix_df.families]\nthird = {value}\n")


def read_in(folder: Path, config: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from helix_df.profiles.read_geometry import geometry_from_config\n"
        "from helix_df.errors import ModelError\n"
        f"config = {config}\n"
        "try: print(geometry_from_config(config, 'config.json').attention.query_key_norm)\n"
        "except ModelError as error: print(error)\n"
    )
    return subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)


CONFIG = (
    "{'model_type': 'third', 'hidden_size': 8, 'num_attention_heads': 2, 'num_hidden_layers': 1, "
    "'intermediate_size': 8, 'vocab_size': 9}"
)


def test_a_package_brings_a_family(tmp_path):
    module = (
        "from dataclasses import replace\n"
        "from helix_df.profiles.families.family import Family\n"
        "def options(config, geometry):\n"
        "    return replace(geometry, attention=replace(geometry.attention, query_key_norm='head'))\n"
        "FAMILY = Family('third', ('ThirdForCausalLM',), options=options)\n"
    )
    package(tmp_path, module, "third:FAMILY")
    assert read_in(tmp_path, CONFIG).stdout == "head\n"


@pytest.mark.parametrize(
    ("module", "value", "named"),
    [
        ("", "third:FAMILY", "AttributeError"),
        ("raise RuntimeError('no')", "third:FAMILY", "RuntimeError: no"),
        ("FAMILY = 7", "third:FAMILY", "found:    7"),
        ("from helix_df.profiles.families.llama import LLAMA as FAMILY", "third:FAMILY", "a name of its own"),
    ],
)
def test_one_that_cannot_be_used_is_named(tmp_path, module, value, named):
    package(tmp_path, module, value)
    said = read_in(tmp_path, CONFIG).stdout
    assert named in said
    assert "entry point helix_df.families: third:FAMILY" in said
