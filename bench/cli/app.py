"""The command line: every command, and how a user's mistake is told.

A module here does no more than parse, call and print.  What measures, draws or reads tables is
imported inside its commands, since torch takes seconds: `--help` and what is refused must not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bench.cli import (
    boundary,
    bundle,
    calibrate,
    catalogue,
    compare,
    conform,
    eval,
    measure,
    pictures,
    plot,
    profile,
    recommend,
    report,
    reproduce,
    sample,
    search,
    serve,
    spectra,
    tables,
    train,
)
from bench.study.folders import PROGRAM
from codevar import progress


class OneLineErrors(TyperGroup):
    """A user's mistake is one line on standard error and exit code 2."""

    def main(self, args: Sequence[str] | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Runs a command inside `boundary.one_line`."""
        args = sys.argv[1:] if args is None else [*args]
        progress.only_warnings = "--quiet" in args  # of every command, before or behind its name
        args = [word for word in args if word != "--quiet"]
        with boundary.one_line():
            boundary.check_words(args)
            # Without "standalone mode" an exit code is returned.
            code = super().main(args or ["--help"], **{**kwargs, "standalone_mode": False})
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:
        """Takes a reader's going away out of typer's hands, which would end with exit code 1: a
        verdict of `compare`."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as e:
            raise boundary.ReaderGoneError from e


app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Benchmark of efficient visual autoregressive image generation: VAR, CoDe, VARiant.",
)


def print_version(wanted: bool) -> None:
    """For --version, which needs no command."""
    if wanted:
        print(f"{PROGRAM} {version('codevar')}")
        raise typer.Exit


@app.callback()
def options_of_all(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="print it and end"),
    ] = False,
    _quiet: Annotated[
        bool, typer.Option("--quiet", help="of every command: results and warnings, no progress")
    ] = False,
) -> None:
    """Benchmark of efficient visual autoregressive image generation: VAR, CoDe, VARiant."""


#: By the heading that `--help` has them under.

COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Start": {
        "list": catalogue.list_experiments,
        "env": catalogue.env,
        "predict": catalogue.predict,
        "recommend": recommend.recommend,
        "reproduce": reproduce.reproduce,
    },
    "Measure": {
        "run": measure.run,
        "profile": profile.profile,
        "compare": compare.compare,
        "selfcheck": measure.selfcheck,
        "pack": profile.pack,
        "import": profile.import_,
    },
    "Look": {
        "table": tables.table,
        "claims": tables.claims,
        "plot": plot.plot,
        "report": report.report,
        "history": tables.history,
        "serve": serve.serve,
    },
    "Share": {
        "bundle": bundle.bundle,
        "verify": bundle.verify,
        "board": bundle.board,
    },
    "Quality": {
        "sample": sample.sample,
        "eval": eval.evaluate,
        "conform": conform.conform,
        "iqa": pictures.iqa,
        "grid": pictures.grid,
        "spectra": spectra.spectra,
        "edit": pictures.edit,
        "inpaint": pictures.inpaint,
        "calibrate": calibrate.calibrate,
        "search": search.search,
    },
    "Train": {"train": train.train},
}
for _group, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_group)(_command)
