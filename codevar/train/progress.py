"""What a person sees of a run: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text


class Progress:
    """Shows each look at a run: loss, loss by scale, images per second, time left."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(quiet=quiet)
        self._live: Live | None = None

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    @contextmanager
    def of(self, name: str, done: int, steps: int, batch_size: int) -> Iterator[None]:
        """Around the steps of a run."""
        self.name, self.steps, self.batch_size = name, steps, batch_size
        if done:
            self.say(f"{name}: on from step {done} of {steps}")
        if self.console.is_terminal and not self.console.quiet:
            self._live = Live(console=self.console, refresh_per_second=4)
        with self._live or nullcontext():
            yield
        self._live = None

    def show(self, done: int, found: dict[str, float]) -> None:
        left = (self.steps - done) * self.batch_size / found["images_per_s"]
        names = [k.removeprefix("scale_") for k in found if k.startswith("scale_")]
        scales = [found[f"scale_{name}"] for name in names]
        others = [f"{k} {found[k]:.3g}" for k in ("psnr_db", "accuracy") if k in found]
        line = ", ".join(
            [
                f"{self.name}: step {done} of {self.steps}",
                f"loss {found['loss']:.4f}",
                *others,
                f"{found['images_per_s']:.4g} images/s",
                f"{timedelta(seconds=round(left))} left",
            ]
        )
        if self._live is None:
            by_scale = f", by scale {' '.join(f'{v:.3f}' for v in scales)}" if scales else ""
            self.say(line + by_scale)
            return
        parts: list[RenderableType] = [Text(line)]
        if scales:
            table = Table("scale", *names, box=None, pad_edge=False)
            table.add_row("loss", *(f"{v:.3f}" for v in scales))
            parts.append(table)
        self._live.update(Group(*parts, ProgressBar(self.steps, done, width=60)))
