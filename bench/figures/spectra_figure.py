"""Fourier spectra by scale, as a picture."""

import textwrap
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from bench.figures import canvas, looks
from bench.figures.looks import GREY, STYLE, Look
from bench.quality.spectra import EARLY, EDGE, LATE, SHUFFLED, Spectra


@matplotlib.rc_context(STYLE)
def draw(found: Sequence[Spectra], footer: str) -> Figure:
    """Amplitude by frequency of the first and last three scales, a panel for each method."""
    drawn, axes = canvas.panel_for_each(len(found), 2.3, 2)
    by_scale = looks_of(len(found[0].made))
    for ax, one in zip(axes, found, strict=True):
        for scale, look in by_scale.items():
            made, mixed = one.made[scale - 1], one.shuffled[scale - 1]
            ax.plot(made.cycles, made.amplitude, **look, marker="o", ms=3)
            ax.plot(mixed.cycles, mixed.amplitude, **look, ls=":", lw=0.9)
        ax.set(yscale="log", xticks=made.cycles, xlabel="cycles a side", ylabel="amplitude")
        ax.set_title(textwrap.fill(one.method, 40))
        ax.grid()
    handles = [looks.entry(f"scale {k}", **look) for k, look in by_scale.items()]
    handles.append(looks.entry("tokens shuffled", color=GREY, ls=":", lw=0.9))
    words = f"What each scale adds to the decoder's input.  Shuffled: {SHUFFLED}.  {footer}"
    return canvas.finish(drawn, "Fourier spectra by scale", words, handles)


def looks_of(scales: int) -> dict[int, Look]:
    """The first three scales in blues, the last three in oranges, the later the darker."""
    shades = (0.45, 0.7, 0.95)
    early = zip(range(1, EDGE + 1), map(EARLY, shades), strict=True)
    late = zip(range(scales - EDGE + 1, scales + 1), map(LATE, shades), strict=True)
    return {k: {"color": color} for k, color in [*early, *late] if 1 <= k <= scales}
