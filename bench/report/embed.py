"""matplotlib's figures as SVG inside the page, and what the page tells of their parts.

The page's policy allows no style attributes, so styles become attributes of their own; every id
begins with the figure's, so that figures do not share any.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from bench.figures import canvas, looks, registry
from bench.figures.registry import RunFigure
from bench.tables.frames import Run

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
FONT = re.compile(r"(?P<style>(?:[a-z0-9]+ )*)(?P<size>[\d.]+px) (?P<family>.*)")
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Picture:
    """An SVG of the page.  told: by id of a part, what the page says to who points at it."""

    label: str
    svg: Markup
    told: dict[str, dict[str, str]]


@dataclass
class Panel:
    """A tab of the page, with one picture for each run or case."""

    id: str
    title: str
    caption: str
    pictures: list[Picture] = field(default_factory=list)


def panels_of(group: str, runs: Sequence[Run], names: Sequence[str]) -> list[Panel]:
    """Each figure that the runs have data for.  names: of the runs, shown where there are several.

    Raises UsageError where an experiment names a figure that there is not.
    """
    panels: dict[str, Panel] = {}
    for run, name in zip(runs, names, strict=True):
        for one, figure in drawn(run):
            blank = Panel(f"{group}-{one.name}", one.title, one.caption)
            panel = panels.setdefault(one.name, blank)
            label = name if len(runs) > 1 else ""
            panel.pictures.append(picture(figure, f"{panel.id}-{len(panel.pictures)}", label))
    return [panels[name] for name in registry.figures() if name in panels]


def drawn(run: Run) -> Iterator[tuple[RunFigure, Figure]]:
    with matplotlib.rc_context(looks.STYLE):
        yield from registry.for_report(run)


def panel(id: str, title: str, caption: str, figures: Iterable[tuple[str, Figure]]) -> Panel:
    pictures = [picture(figure, f"{id}-{i}", label) for i, (label, figure) in enumerate(figures)]
    return Panel(id, title, caption, pictures)


def picture(figure: Figure, id: str, label: str = "") -> Picture:
    """The figure's SVG with ids that begin with `id`."""
    told = {}
    for i, artist in enumerate(figure.findobj(lambda artist: artist in canvas.TOOLTIPS)):
        artist.set_gid(f"told{i}")
        told[f"{id}-told{i}"] = canvas.TOOLTIPS[artist]
    written = io.StringIO()
    with matplotlib.rc_context(looks.STYLE | {"svg.hashsalt": id, "figure.dpi": 72}):
        figure.savefig(written, format="svg", metadata=NO_METADATA, dpi=150)
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag.endswith(("}metadata", "}style"))]:
            parent.remove(child)
    for part in root.iter():
        make_own(part, f"{id}-")
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    narrow = float(root.attrib["viewBox"].split()[2]) < 72 * (looks.NARROW + looks.WIDE) / 2
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt", "role": "img"}
    root.attrib |= {"class": "narrow"} if narrow else {}
    return Picture(label, Markup(ElementTree.tostring(root, "unicode")), told)


def make_own(part: ElementTree.Element, prefix: str) -> None:
    """Puts the prefix before ids and what refers to them; styles become attributes."""
    part.tag = part.tag.removeprefix(SVG)
    for style in part.attrib.pop("style", "").split(";"):
        name, _, value = (text.strip() for text in style.partition(":"))
        font = FONT.fullmatch(value) if name == "font" else None
        if font:
            part.attrib |= {"font-size": font["size"], "font-family": font["family"]}
            if "bold" in font["style"] or "700" in font["style"]:
                part.set("font-weight", "bold")
        elif name:
            part.set(name, value)
    for name, value in [*part.attrib.items()]:
        if name == "id":
            part.set(name, prefix + value)
        elif name == f"{XLINK}href":
            del part.attrib[name]
            part.set("href", f"#{prefix}{value[1:]}" if value.startswith("#") else value)
        elif "url(#" in value:
            part.set(name, value.replace("url(#", f"url(#{prefix}"))
