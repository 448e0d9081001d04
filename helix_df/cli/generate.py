"""``helix-df generate``: ask a running job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from helix_df.marks import mark

if TYPE_CHECKING:
    from helix_df.runtime.api.client import GenerationOptions


def generate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME] PROMPT", help="The job's name (not needed while only one runs), and the prompt."
        ),
    ],
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask as a user in a chat, instead of continuing the text.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Generate at most this many tokens.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Sampling temperature; 0 always takes the likeliest token.")
    ] = 1.0,
    top_p: Annotated[
        float,
        typer.Option(max=1, help="Sample from the likeliest tokens of this total probability (nucleus sampling)."),
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End the answer before this text; may be given up to four times.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer and what it took as JSON.")] = False,
) -> None:
    """Ask a running job, and print the answer as it comes."""
    import asyncio

    if len(words) > 2:
        raise typer.BadParameter("give one prompt (in quotes), and a job's name before it if several run")
    options: GenerationOptions = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "stop": stop or (),
    }
    if seed is not None:
        options["seed"] = seed
    name = words[0] if len(words) == 2 else None
    asked: str | list[dict[str, str]] = [{"role": "user", "content": words[-1]}] if chat else words[-1]
    asyncio.run((_whole if as_json else _stream)(name, asked, options))


async def _whole(name: str | None, asked: str | list[dict[str, str]], options: GenerationOptions) -> None:
    from dataclasses import asdict

    from helix_df.cli.console import print_json
    from helix_df.runtime.jobs.connecting import connect

    async with connect(name) as job:
        answer = await (job.complete(asked, **options) if isinstance(asked, str) else job.chat(asked, **options))
    print_json(asdict(answer))


async def _stream(name: str | None, asked: str | list[dict[str, str]], options: GenerationOptions) -> None:
    from contextlib import aclosing

    from helix_df.runtime.jobs.connecting import connect

    mark("asking")
    async with connect(name) as job:
        async with aclosing(job.stream(asked, **options)) as pieces:
            async for piece in pieces:
                mark("token")
                typer.echo(piece.text, nl=False)
        typer.echo()
