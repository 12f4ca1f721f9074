"""Figure: every latency sample of every case, round by round."""

import itertools

import numpy as np
from matplotlib.figure import Figure

from bench.figures import canvas, looks
from bench.figures.registry import figure
from bench.tables import summary
from bench.tables.case_rows import Row, footer, lacks, stacks_of
from bench.tables.frames import Run

MOST = 60  # cases that a page has room for


@figure("samples", "Raw samples", suits="every report")
def samples(run: Run, rows: list[Row]) -> Figure:
    """Each latency sample against its case's median, a line for each round in the order taken.
    The records have them all, whole."""
    timed = [row for row in rows if "latency_s" in row and row["case"].key in run.by_key]
    if not timed:
        raise lacks(run, "no case that was measured", run.sweep.name)
    shown, several = timed[:MOST], len(stacks_of(timed)) > 1
    batches = len({row["batch_size"] for row in timed}) > 1
    drawn, (ax,) = canvas.panels(looks.WIDE, 0.5 + 0.3 * len(shown))
    names, by_round = [], {}
    for y, row in enumerate(shown):
        taken = summary.samples_of(run.by_key[row["case"].key])
        middle = np.median(np.concatenate([samples.latency_s for samples in taken]))
        for i, (one, look) in enumerate(zip(taken, itertools.cycle(looks.SERIES), strict=False)):
            off = 100 * (np.array(one.latency_s) / middle - 1)
            at = np.full(len(off), y + (i - (len(taken) - 1) / 2) * 0.7 / len(taken))
            ax.plot(off, at, ls="", ms=2.5, alpha=0.7, rasterized=True, **look)
            by_round[i] = look
        name = row["name"] + (f", batch {row['batch_size']}" if batches else "")
        names.append(name + (f", {row['stack']}" if several else ""))
    canvas.name_bars(ax, names, "latency against the case's median (%)")
    ax.axvline(0, color=looks.GREY, lw=0.6, zorder=0)
    handles = [looks.entry(f"round {i + 1}", ls="", **by_round[i]) for i in sorted(by_round)]
    notes = [f"The first {MOST} of {len(timed)} cases."] if len(timed) > MOST else []
    return canvas.finish(drawn, "Raw samples", footer(run, shown, *notes), handles)
