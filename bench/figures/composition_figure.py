"""The composition map: speed-ups above the diagonal, losses of quality below it."""

import math

import numpy as np
from matplotlib.figure import Figure

from bench.figures import canvas
from bench.figures.registry import figure
from bench.study.errors import UsageError
from bench.tables.case_rows import NoDataError, Row
from bench.tables.composition import Pair, pairs_of
from bench.tables.frames import Run


@figure("composition", "Composition")
def composition(run: Run, rows: list[Row]) -> Figure:
    """What two methods give together.  Above the diagonal: the speed-up of both over the product of
    each alone.  Below it: the FID that both lose less the sum of what each loses; grey where it
    cannot be told from 0."""
    try:
        names, pairs = pairs_of(run)
    except UsageError as e:
        raise NoDataError(str(e)) from None
    n = len(names)
    drawn, (ax,) = canvas.panels(canvas.WIDE, 0.42 * n + 0.6)
    cells = np.full((n, n), math.nan)
    most = max((abs(p.loss) for p in pairs if not math.isnan(p.loss)), default=1.0)
    for pair in pairs:
        i, j = sorted((names.index(pair.one), names.index(pair.other)))
        cells[i, j] = float(np.clip((pair.speed - 1) * 4, -1, 1))
        canvas.centred(ax, j, i, f"{pair.speed:.2f}")
        if not math.isnan(pair.loss):
            told = abs(pair.loss) > pair.loss_within
            cells[j, i] = -pair.loss / most if told else 0.0
            canvas.centred(ax, i, j, loss_text(pair))
    ax.imshow(cells, cmap="PiYG", vmin=-1.6, vmax=1.6, aspect="auto")
    ax.set_xticks(range(n), names, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(n), names)
    footer = (
        "Above the diagonal: speed-up of both over the product.  Below: FID lost by both less the "
        "sum, ± 95 %.  Green is better than that, pink worse.  Empty: not measured."
    )
    return canvas.finish(drawn, "What two methods give together", footer)


def loss_text(pair: Pair) -> str:
    """In two lines, to fit into a cell."""
    return f"{pair.loss:+.2f}\n±{pair.loss_within:.2f}"
