"""What a GPU has to show, and which did: the list in docs/gpu-checks.md and a line of the README.

python -m bench.tables.gpu_checks     # writes both anew, from results/shipped/
"""

import re
from collections.abc import Iterator
from pathlib import Path

from bench.measure.profile import items, session
from bench.measure.profile.forecast import Line
from bench.study import storage
from bench.study.folders import CODE, SHIPPED
from bench.study.records import SESSION

DOCUMENT, README = CODE / "docs" / "gpu-checks.md", CODE / "README.md"
#: What is between stands in the document and is written by `generated`.
BEGIN, END = "<!-- generated from results/shipped/ -->\n", "<!-- end of what is generated -->\n"
MEASURED = re.compile(r"\*\*GPUs measured so far: .*?\*\*")


def profiles(results: Path) -> Iterator[tuple[str, str, list[Line]]]:
    """Of each profile of a GPU: its name, the commit and what its sessions did; oldest first."""
    for file in sorted(results.glob(f"*/*/{SESSION}")):
        env = storage.read_json(file.parent / "env.json") or {}
        for gpu in env.get("gpus", [])[:1]:
            yield gpu["name"], (env.get("commit") or "unknown")[:9], session.read(file.parent)


def last_run(letter: str, keys: set[str], results: Path) -> str:
    """When and on what the item was last measured."""
    found = []
    for gpu, commit, lines in profiles(results):
        done = {key for key, line in session.ended(lines).items() if line.status in session.DONE}
        began = [line.at for line in lines if line.at and line.key in keys & done]
        if began:
            count = f"{len(keys & done)} of {len(keys)}"
            found.append((max(began)[:10], f"{gpu}: {count}, commit {commit}"))
    return " ".join(max(found)) if found else "never"


def generated(results: Path = SHIPPED) -> str:
    """The table of the profile's items with their last run."""
    _, jobs = items.jobs("cuda")
    titles: dict[str, list[str]] = {}
    for item in items.items("cuda"):
        titles.setdefault(item.letter, []).append(item.title)
    lines = ["| item | what | last run |", "|---|---|---|"]
    for letter, told in titles.items():
        keys = {job.key for job in jobs if job.item == letter}
        lines.append(f"| {letter} | {'; '.join(told)} | {last_run(letter, keys, results)} |")
    return "\n".join(lines) + "\n"


def measured(results: Path = SHIPPED) -> str:
    """The README's words: which GPUs were profiled."""
    names = sorted({name for name, _, _ in profiles(results)})
    return f"**GPUs measured so far: {', '.join(names) or 'none'}.**"


def document(text: str, results: Path = SHIPPED) -> str:
    """The document with its table brought up to date."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + generated(results) + END + rest.split(END)[1]


def readme(text: str, results: Path = SHIPPED) -> str:
    """The README with its line brought up to date."""
    return MEASURED.sub(measured(results), text, count=1)


if __name__ == "__main__":
    storage.write_text(DOCUMENT, document(DOCUMENT.read_text()))
    storage.write_text(README, readme(README.read_text()))
