"""The command line's entry: which commands there are, and how failures end.

Owns the table of commands and the exit codes. Each command's module is imported only when it is asked for, so that
planning never waits for jax. A new command is one file and one line in ``COMMANDS``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from helix_df import __version__, notices
from helix_df.errors import HelixError, SpecErrors
from helix_df.extras import explained_imports
from helix_df.file_errors import explained_files
from helix_df.marks import mark

COMMANDS = {
    "examples": "helix_df.cli.examples:examples",
    "validate": "helix_df.cli.validate:validate",
    "size": "helix_df.cli.size:size",
    "plan": "helix_df.cli.plan:plan",
    "show": "helix_df.cli.show:show",
    "explain": "helix_df.cli.explain:explain",
    "diff": "helix_df.cli.diff:diff",
    "export": "helix_df.cli.export:export",
    "draw": "helix_df.cli.draw:draw",
    "simulate": "helix_df.cli.simulate:simulate",
    "scale": "helix_df.cli.scale:scale",
    "split": "helix_df.cli.split:split",
    "solvers": "helix_df.cli.solvers:solvers",
    "schema": "helix_df.cli.schema:schema",
    "discover": "helix_df.cli.discover:discover",
    "keys": "helix_df.cli.keys:keys",
    "apply": "helix_df.cli.apply:apply",
    "status": "helix_df.cli.status:status",
    "top": "helix_df.cli.top:top",
    "logs": "helix_df.cli.logs:logs",
    "generate": "helix_df.cli.generate:generate",
    "chat": "helix_df.cli.chat:chat",
    "bench": "helix_df.cli.bench:bench",
    "nodes": "helix_df.cli.nodes:nodes",
    "drain": "helix_df.cli.drain:drain",
    "down": "helix_df.cli.down:down",
    "api-keys": "helix_df.cli.api_keys:api_keys",
    "profile": "helix_df.cli.profile:profile",
    "probe": "helix_df.cli.probe:probe",
    "worker": "helix_df.cli.worker:worker",
    "attend": "helix_df.cli.attend:attend",
    "steps": "helix_df.cli.steps:steps",
}
"""Where each command lives, in the order of the help."""

INTERNAL_ERROR = 70
INTERRUPTED = 130

_ABOUT = """Plan and serve language models over whatever GPUs you have.

A job in YAML says which model, which machines and which links. `validate` checks it, `plan` places the layers,
`apply` runs the plan."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0, the error's own code, 130 after Ctrl-C, 2 for wrong usage.

    Failures are one message on stderr; ``HELIX_DF_DEBUG=1`` shows the traceback instead.
    """
    mark("command line")
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("HELIX_DF_DEBUG") == "1"
    notices.listen(_tell)
    try:
        with explained_imports(), explained_files():
            _app(arguments)(args=arguments, prog_name="helix-df")
    except HelixError as error:
        if debug:
            raise
        _report(error)
        if _prints_json(arguments):
            _report_as_json(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:  # the last resort: nobody should meet a traceback
        if debug:
            raise
        sys.stderr.write(
            f"error: helix-df itself failed: {type(error).__name__}: {error}\n"
            "  try:      run it again with HELIX_DF_DEBUG=1 and report the traceback\n"
        )
        sys.exit(INTERNAL_ERROR)


def _tell(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


def _app(arguments: Sequence[str]) -> typer.Typer:
    """The application with the command that is asked for, or with all of them for help and typos."""
    app = typer.Typer(
        help=_ABOUT, no_args_is_help=True, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    app.callback()(_root)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name in [wanted] if wanted in COMMANDS else COMMANDS:
        command = _load(COMMANDS[name])
        # Said outright, since otherwise the list of commands cuts it at 45 characters.
        app.command(name, short_help=(command.__doc__ or "").partition("\n\n")[0])(command)
    return app


def _load(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    command: Callable[..., Any] = getattr(import_module(module), function)
    return command


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"helix-df {__version__}\n")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


_root.__doc__ = _ABOUT


def _prints_json(arguments: Sequence[str]) -> bool:
    """Whether JSON was asked for on stdout; two commands write it to a file that they are told."""
    if "--json" not in arguments:
        return False
    return arguments[0] not in ("bench", "simulate") or arguments[arguments.index("--json") + 1 :][:1] == ["-"]


def _singles(error: HelixError) -> Sequence[HelixError]:
    return error.errors if isinstance(error, SpecErrors) else (error,)


def _report(error: HelixError) -> None:
    red, plain = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    for single in _singles(error):
        sys.stderr.write(f"{red}error:{plain} {single}\n")


def _report_as_json(error: HelixError) -> None:
    """For programs, which read stdout; people read stderr."""
    parts = ("problem", "where", "found", "expected", "hint")
    errors = [{part: value for part in parts if (value := getattr(one, part)) is not None} for one in _singles(error)]
    sys.stdout.write(json.dumps({"errors": errors}, default=str) + "\n")
