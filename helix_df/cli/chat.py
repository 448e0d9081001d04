"""``helix-df chat``: a conversation with a running job."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from helix_df.runtime.api.client import GenerationOptions

ANEW = "/new"


def chat(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The job's name; not needed while only one runs.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before the first question.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Generate at most this many tokens an answer.")] = 1024,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Sampling temperature; 0 always takes the likeliest token.")
    ] = 0.7,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answers.")] = None,
) -> None:
    """Talk with a running job. Ctrl-C ends an answer, Ctrl-D the chat, and /new begins another.

    Each line of the input is a question, so that a chat can also come from a file.
    """
    options: GenerationOptions = {"max_tokens": max_tokens, "temperature": temperature}
    if seed is not None:
        options["seed"] = seed
    begin = [] if system is None else [{"role": "system", "content": system}]
    messages = [*begin]
    for question in _questions():
        if question == ANEW:
            messages = [*begin]
            continue
        messages.append({"role": "user", "content": question})
        said = _answer(name, messages, options)
        if said:
            messages.append({"role": "assistant", "content": said})
        else:
            messages.pop()


def _questions() -> Iterator[str]:
    """The lines of the input that aren't empty; people are shown that one is waited for."""
    sign = "> " if sys.stdin.isatty() else ""
    if sign:
        import readline  # noqa: F401  # gives `input` a history and editing
    while True:
        try:
            line = input(sign).strip()
        except EOFError:
            typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo()
            continue
        if line:
            yield line


def _answer(name: str | None, messages: list[dict[str, str]], options: GenerationOptions) -> str:
    """What was said, printed as it came; cut short by Ctrl-C."""
    import asyncio
    from contextlib import suppress

    said: list[str] = []
    with suppress(KeyboardInterrupt):
        asyncio.run(_stream(name, messages, options, said))
    typer.echo()
    return "".join(said)


async def _stream(
    name: str | None, messages: list[dict[str, str]], options: GenerationOptions, said: list[str]
) -> None:
    from contextlib import aclosing

    from helix_df.runtime.jobs.connecting import connect

    async with connect(name) as job, aclosing(job.stream(messages, **options)) as pieces:
        async for piece in pieces:
            said.append(piece.text)
            typer.echo(piece.text, nl=False)
