"""Where the example jobs and the schema are: beside the code in an installation, at ``spec/`` in a source tree.

Owns that choice and the listing. Doesn't read what is in the files.
"""

from __future__ import annotations

from pathlib import Path

from helix_df.errors import SpecError
from helix_df.suggestions import closest

_PACKAGE = Path(__file__).parents[1]


def shipped_root() -> Path:
    """The folder with ``schema.json`` and ``examples/``, as `pyproject.toml` puts it into the wheel."""
    installed = _PACKAGE / "shipped"
    return installed if installed.is_dir() else _PACKAGE.parent / "spec"


def examples() -> dict[str, Path]:
    """The example jobs that come with helix-df: path of the YAML file by name, sorted by name."""
    return {path.stem: path for path in sorted((shipped_root() / "examples").glob("*.yaml"))}


def find_example(name: str) -> Path:
    """The file of one example job.

    Raises:
        SpecError: when there is none of that name.
    """
    found = examples()
    if name in found:
        return found[name]
    raise SpecError(
        "there is no such example",
        found=name,
        expected=", ".join(found),
        hint=f"helix-df examples {closest(name, found) or 'quickstart'}",
    )
