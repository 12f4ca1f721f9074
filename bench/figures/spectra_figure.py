"""Fourier spectra by scale, as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.figures.canvas import GREY, NARROW, STYLE, WIDE, finish, panels
from bench.quality.spectra import EARLY, EDGE, LATE, SHUFFLED, Spectra


def draw(found: Sequence[Spectra], footer: str) -> Figure:
    """Amplitude by frequency of the first and last three scales, a panel for each method."""
    with matplotlib.rc_context(STYLE):
        columns = min(2, len(found))
        lines = -(-len(found) // columns)
        width = NARROW if columns == 1 else WIDE
        figure, axes = panels(width, 2.3 * lines, lines, columns, sharex=True, sharey=True)
        looks = looks_of(len(found[0].made))
        for ax, one in zip(axes, found, strict=False):
            for scale, look in looks.items():
                made, mixed = one.made[scale - 1], one.shuffled[scale - 1]
                ax.plot(made.cycles, made.amplitude, **look, marker="o", ms=3)
                ax.plot(mixed.cycles, mixed.amplitude, **look, ls=":", lw=0.9)
            ax.set(yscale="log", xticks=made.cycles, xlabel="cycles a side")
            ax.set_title(textwrap.fill(one.method, 40))
            ax.grid()
        for ax in axes[::columns]:
            ax.set_ylabel("amplitude")
        for ax in axes[len(found) :]:
            ax.set_axis_off()
        handles = [Line2D([], [], **look, label=f"scale {k}") for k, look in looks.items()]
        handles.append(Line2D([], [], color=GREY, ls=":", lw=0.9, label="tokens shuffled"))
        words = f"What each scale adds to the decoder's input.  Shuffled: {SHUFFLED}.  {footer}"
        return finish(figure, "Fourier spectra by scale", words, handles)


def looks_of(scales: int) -> dict[int, dict[str, Any]]:
    """The first three scales in blues, the last three in oranges, the later the darker."""
    shades = (0.45, 0.7, 0.95)
    early = zip(range(1, EDGE + 1), map(EARLY, shades), strict=True)
    late = zip(range(scales - EDGE + 1, scales + 1), map(LATE, shades), strict=True)
    return {k: {"color": color} for k, color in [*early, *late] if 1 <= k <= scales}
