"""``helix-df examples``: the jobs that come with helix-df, to start from."""

from __future__ import annotations

from typing import Annotated

import typer


def examples(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Print this example's YAML instead of the list.")
    ] = None,
) -> None:
    """List the example jobs, or print one: `helix-df examples quickstart > job.yaml`."""
    from helix_df.spec.shipped import examples as shipped_examples
    from helix_df.spec.shipped import find_example

    if name is not None:
        typer.echo(find_example(name).read_text(encoding="utf-8"), nl=False)
        return
    found = shipped_examples()
    width = max(len(example) for example in found)
    for example, path in found.items():
        typer.echo(f"{example:<{width}}  {_about(path.read_text(encoding='utf-8'))}")


def _about(text: str) -> str:
    """The first sentence of a job's comments, which says what it is."""
    comments = (line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    first = next((comment for comment in comments if comment and not comment.startswith("yaml-language-server")), "")
    return first.partition(". ")[0].removesuffix(".")
