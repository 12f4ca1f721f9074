"""The page: one file that asks the network for nothing.

A content security policy in it forbids all but what is written into it: its own script and style,
known by their hashes, pictures as data, and the style attributes of matplotlib's SVG.
"""

import base64
import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from bench.measure import machine
from bench.report import comparison as sides
from bench.report import content
from bench.report.sections import Page, number
from bench.study import storage
from bench.study.errors import UsageError
from bench.tables.compare import Comparison
from bench.tables.frames import Run

HERE = Path(__file__).parent


def of_runs(runs: Sequence[Run], samples: Sequence[Path] = (), command: str = "") -> str:
    """The report of runs as HTML.  samples: sets of images, and pictures.

    Raises UsageError for a run without records or a damaged one, and a sample set that cannot
    be read.
    """
    return render(content.page(runs, samples), command)


def of_comparison(comparison: Comparison, command: str = "") -> str:
    """Two results side by side, and the gate's verdicts, as HTML."""
    return render(sides.page(comparison), command)


def write(html: str, path: Path) -> None:
    """Writes whole or not at all.  Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file, {path / 'report.html'}")
    storage.write_text(path, html)


def render(page: Page, command: str) -> str:
    """The page as HTML, with its style, its script and the policy that allows only these."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style, script = ((HERE / name).read_text() for name in ("style.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src '{hashed(script)}'; style-src '{hashed(style)}'; "
        "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    html = env.get_template("page.html").render(
        page=page,
        number=number,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        command=command,
        made_at=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        commit=machine.git().get("commit"),
    )
    return html.strip().encode(errors="replace").decode()  # half a surrogate pair is not UTF-8


def hashed(text: str) -> str:
    """As a content security policy names a script or a style."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
