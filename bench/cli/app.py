"""The command line: every command, and how a user's mistake is told.

A module here does no more than parse, call and print.  What measures, draws or reads tables is
imported inside its commands, since torch takes seconds: `--help` and what is refused must not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from bench.cli import (
    boundary,
    catalogue,
    compare,
    eval,
    measure,
    pictures,
    plot,
    profile,
    report,
    reproduce,
    sample,
    spectra,
    tables,
    train,
)


class OneLineErrors(TyperGroup):
    """A user's mistake is one line on standard error and exit code 2."""

    def main(self, args: Sequence[str] | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Runs a command inside `boundary.one_line`."""
        args = sys.argv[1:] if args is None else args
        with boundary.one_line():
            # Without "standalone mode" an exit code is returned.
            code = super().main(args or ["--help"], **{**kwargs, "standalone_mode": False})
        sys.exit(code)


app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Benchmark of efficient visual autoregressive image generation: VAR, CoDe, VARiant.",
)

COMMANDS: dict[str, Callable[..., None]] = {
    "list": catalogue.list_experiments,
    "env": catalogue.env,
    "predict": catalogue.predict,
    "run": measure.run,
    "selfcheck": measure.selfcheck,
    "profile": profile.profile,
    "pack": profile.pack,
    "import": profile.import_,
    "table": tables.table,
    "history": tables.history,
    "plot": plot.plot,
    "recommend": tables.recommend,
    "train": train.train,
    "eval": eval.evaluate,
    "compare": compare.compare,
    "sample": sample.sample,
    "grid": pictures.grid,
    "edit": pictures.edit,
    "inpaint": pictures.inpaint,
    "iqa": pictures.iqa,
    "reproduce": reproduce.reproduce,
    "report": report.report,
    "spectra": spectra.spectra,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
