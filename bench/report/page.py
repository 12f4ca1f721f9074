"""The page: one file that asks the network for nothing.

A content security policy in it forbids all but what is written into it: its own script, known by
its hash, its own style, and pictures as data.  Vega runs without `eval` under it.
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure import machine
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
    needs_extra()
    from bench.report import content, figures, pictures

    groups = content.groups(runs)
    also = content.spoken_to(runs)
    heads = [group.headline for group in groups if group.headline]
    order = {"firm": 2, "marked": 1, "rough": 0}
    best = max(
        heads, key=lambda head: (head.speedup > 1, order[head.sure], head.speedup), default=None
    )
    drawn = {group.id: figures.figures(group) for group in groups}
    data = {
        group.id: {
            "cases": group.rows,
            "scales": group.scales,
            "parts": group.parts,
            "tradeoff": group.tradeoff,
            "raw": group.raw,
        }
        for group in groups
    }
    return render(
        "report.html",
        data={"groups": data, "figures": specs(drawn)},
        title=" and ".join(dict.fromkeys(group.title.partition(":")[0] for group in groups)),
        best=best,
        groups=groups,
        figures=drawn,
        also=also,
        quoted=content.quoted(content.papers_shown(runs, also)),
        machines=content.machines(runs),
        pictures=pictures.of(samples),
        command=command,
    )


def of_comparison(comparison: Comparison, command: str = "") -> str:
    """Two results side by side, and the gate's verdicts, as HTML."""
    needs_extra()
    from bench.report import comparison as sides

    found = sides.content(comparison)
    return render(
        "compare.html",
        data={"groups": {"g1": found.data}, "figures": specs({"g1": found.figures})},
        title="Comparison",
        figures=found.figures,
        found=found,
        command=command,
    )


def write(html: str, path: Path) -> None:
    """Writes whole or not at all.  Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file, {path / 'report.html'}")
    storage.write_text(path, html)


def needs_extra() -> None:
    """Raises UsageError where the packages of the page are not installed."""
    try:
        import altair
        import jinja2
        import PIL
        import vl_convert
    except ImportError as e:
        raise UsageError(f"a report needs {e.name}: pip install -e '.[report]'") from None
    del altair, jinja2, PIL, vl_convert


def specs(drawn: dict[str, list[Any]]) -> dict[str, Any]:
    """What the page's script needs of each figure."""
    return {
        f"{group}-{figure.id}": {
            "group": group,
            "rows": figure.rows,
            "least": figure.least,
            "headings": figure.headings,
            "variants": [asdict(variant) for variant in figure.variants],
        }
        for group, found in drawn.items()
        for figure in found
    }


def render(template: str, data: dict[str, Any], **content: Any) -> str:
    import jinja2
    from markupsafe import Markup

    loader = jinja2.FileSystemLoader(HERE)
    env = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = (HERE / "style.css").read_text()
    scripts = [vega(), (HERE / "page.js").read_text()]
    hashes = " ".join(f"'{hashed(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src '{hashed(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    made = {"made_at": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"), **machine.git()}
    html = env.get_template(template).render(
        policy=policy,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data=Markup(in_script(data)),
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


@functools.cache
def vega() -> str:
    """Vega, Vega-Lite and its embedding, in one script that vl-convert carries."""
    import vl_convert

    script = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
