"""What a person sees of long work: bars with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import time
import unicodedata
from datetime import timedelta

import rich.progress
from rich.console import Console

EVERY_S = 30  # between lines where there is no terminal; what takes less needs none


only_warnings = False  # set by --quiet: no bars, and of lines only those with a style


def printable(text: str) -> str:
    """Control characters as text: what comes from a file gives a terminal no orders."""
    if text.isprintable():
        return text
    odd = {c for c in text if unicodedata.category(c)[0] == "C" and c not in "\n\t"}
    return text.translate({ord(c): ascii(c)[1:-1] for c in odd})


def say(line: str, console: Console, style: str | None = None) -> None:
    """Prints a line as it is: brackets are no markup, and a path is never broken.

    style: of a warning, which is printed where all else is quiet too.
    """
    if only_warnings and style is None:
        return
    console.print(printable(line), style=style, highlight=False, markup=False, soft_wrap=True)


class Progress:
    """A bar for each thing under way, by its name, and a line for what took long.

    `with progress:` shows the bars; they go when it is left, and it can be entered again.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(quiet=quiet)
        self.live = self.console.is_terminal and not self.console.quiet and not only_warnings
        self._bars = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[text]}", markup=False),
            rich.progress.TimeElapsedColumn(),
            console=self.console,
            disable=not self.live,
            transient=True,
        )
        self._said = time.monotonic()

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()
        for task in self._bars.tasks:
            self._bars.remove_task(task.id)

    def say(self, line: str, style: str | None = None) -> None:
        """Prints a line, above the bars if there are any."""
        say(line, self.console, style)

    def show(self, name: str, done: float, total: float, text: str) -> str:
        """Moves the bar of `name`, with `text` beside it; returns the text with the time left.

        Nothing is printed where there is no terminal.
        """
        task, rate = self._task(printable(name), done, total)
        left = f", {timedelta(seconds=round((total - done) / rate))} left" if rate else ""
        self._bars.update(task.id, completed=done, total=total, text=printable(text + left))
        return text + left

    def count(self, name: str, done: int, total: int, unit: str = "") -> None:
        """Shows how many of `total` are done; in a line when all are, if that took over EVERY_S.

        unit: what is counted, such as "images".  Without a terminal a line comes every EVERY_S too.
        """
        name = printable(name)
        task, rate = self._task(name, done, total)
        how_fast = f", {rate:.4g} {unit}/s" if unit and rate else ""
        text = f"{done:,}/{total:,} {unit}".rstrip() + how_fast
        shown = self.show(name, done, total, text)
        if done >= total:
            self._bars.remove_task(task.id)
            if (took := task.elapsed or 0) >= EVERY_S:
                self.say(f"{name}: {text}, in {timedelta(seconds=round(took))}")
        elif not self.live and time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            self.say(f"{name}: {shown}")

    def _task(self, name: str, done: float, total: float) -> tuple[rich.progress.Task, float]:
        """The bar of `name` and the mean rate since it began, 0 if nothing was done since."""
        if all(task.description != name for task in self._bars.tasks):
            self._bars.add_task(name, completed=int(done), total=total, text="", began_with=done)
        task = next(task for task in self._bars.tasks if task.description == name)
        return task, (done - task.fields["began_with"]) / max(task.elapsed or 0, 1e-9)
