"""The page: one file that asks the network for nothing.

A content security policy in it forbids all but what is written into it: its own script, known by
its hash, its own style, and pictures as data.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from bench.measure import machine
from bench.report import comparison as sides
from bench.report import content, pictures
from bench.report.embed import Panel
from bench.study import storage
from bench.study.errors import UsageError

if TYPE_CHECKING:
    from bench.tables.compare import Comparison
    from bench.tables.frames import Run

HERE = Path(__file__).parent


def of_runs(runs: Sequence[Run], samples: Sequence[Path] = (), command: str = "") -> str:
    """The report of runs as HTML.  samples: folders of sample sets, and pictures.

    Raises UsageError for a run without records or a damaged one, and a sample set that cannot
    be read.
    """
    groups = content.groups(runs)
    also = content.spoken_to(runs)
    heads = [group.headline for group in groups if group.headline]
    order = {"firm": 2, "marked": 1, "rough": 0}
    best = max(
        heads, key=lambda head: (head.speedup > 1, order[head.sure], head.speedup), default=None
    )
    return render(
        "report.html",
        panels=[panel for group in groups for panel in group.panels],
        title=" and ".join(dict.fromkeys(group.title.partition(":")[0] for group in groups)),
        best=best,
        groups=groups,
        also=also,
        quoted=content.quoted(content.papers_shown(runs, also)),
        machines=content.machines(runs),
        pictures=pictures.of(samples),
        command=command,
    )


def of_comparison(comparison: Comparison, command: str = "") -> str:
    """Two results side by side, and the gate's verdicts, as HTML."""
    found = sides.content(comparison)
    return render(
        "compare.html",
        panels=found.panels,
        title="Comparison",
        found=found,
        command=command,
    )


def write(html: str, path: Path) -> None:
    """Writes whole or not at all.  Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file, {path / 'report.html'}")
    storage.write_text(path, html)


def render(template: str, panels: Sequence[Panel], **content: Any) -> str:
    """panels: all of the page."""
    loader = jinja2.FileSystemLoader(HERE)
    env = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = (HERE / "style.css").read_text("utf-8")
    script = (HERE / "page.js").read_text("utf-8")
    told = {k: v for panel in panels for each in panel.pictures for k, v in each.told.items()}
    policy = (
        f"default-src 'none'; script-src '{hashed(script)}'; style-src '{hashed(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    made = {"made_at": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"), **machine.git()}
    html = env.get_template(template).render(
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        told=Markup(in_script(told)),
        panels=panels,
        made=made,
        **content,
    )
    return html.encode(errors="replace").decode()  # half a surrogate pair, which UTF-8 has not


def in_script(data: Any) -> str:
    """JSON that no text in it can end the script element of."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def hashed(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
