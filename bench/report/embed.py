"""matplotlib's figures as SVG inside the page, and what the page tells of their parts.

Only what a figure refers to keeps its id, and begins it with the figure's: no two share any.
"""

import io
import re
from collections.abc import Iterable, Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from bench.figures import canvas, looks, registry
from bench.report.sections import Panel, Picture
from bench.tables.frames import Run

NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
MARK = Markup('<g class="told" role="img" aria-label="{}" data-series="{}"{}')


def panels_of(group: str, runs: Sequence[Run], names: Sequence[str]) -> list[Panel]:
    """Each figure that the runs have data for.  names: of the runs, shown where there are several.

    Raises UsageError where an experiment names a figure that there is not.
    """
    panels: dict[str, Panel] = {}
    for run, name in zip(runs, names, strict=True):
        for one, figure in registry.for_report(run):
            blank = Panel(f"{group}-{one.name}", one.title, one.caption)
            panel = panels.setdefault(one.name, blank)
            label = name if len(runs) > 1 else ""
            panel.pictures.append(picture(figure, f"{panel.id}-{len(panel.pictures)}", label))
    return [panels[name] for name in registry.figures() if name in panels]


def panel(id: str, title: str, caption: str, figures: Iterable[tuple[str, Figure]]) -> Panel:
    """A panel of figures with their labels."""
    pictures = [picture(figure, f"{id}-{i}", label) for i, (label, figure) in enumerate(figures)]
    return Panel(id, title, caption, pictures)


def picture(figure: Figure, id: str, label: str = "") -> Picture:
    """The figure's SVG; its parts with a tooltip say it to who points at them."""
    marked = figure.findobj(lambda artist: artist in canvas.TOOLTIPS)
    told = {f"told{i}": canvas.TOOLTIPS[artist] for i, artist in enumerate(marked)}
    for name, artist in zip(told, marked, strict=True):
        artist.set_gid(name)
    written = io.StringIO()
    with matplotlib.rc_context(looks.STYLE | {"svg.hashsalt": id, "figure.dpi": 72}):
        figure.savefig(written, format="svg", metadata=NO_METADATA, dpi=150)
    seen: set[str] = set()

    def group(match: re.Match[str]) -> str:
        if match[1] not in told:
            return "<g"
        facts = dict(told[match[1]])
        series = facts.pop("series", "")
        focus = Markup("") if series in seen else Markup(' tabindex="0"')  # one stop a series
        seen.update({series} - {""})
        words = "\n".join(f"{heading}: {text}" for heading, text in facts.items())
        return str(MARK.format(words, series, focus))

    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", written.getvalue(), flags=re.S)
    svg = re.sub(r'<g id="([^"]*)"', group, svg[svg.index("<svg") :])
    narrow = figure.get_figwidth() < (looks.NARROW + looks.WIDE) / 2
    svg = svg.replace("<svg", f'<svg role="img" class="{"narrow" if narrow else ""}"', 1)
    return Picture(label, Markup(svg))
