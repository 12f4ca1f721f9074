"""Tables as LaTeX: whatever their words are, they parse, and compile where a TeX is found."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from pylatexenc.latex2text import LatexNodes2Text
from pylatexenc.latexwalker import LatexCommentNode, LatexEnvironmentNode, LatexWalker
from typer.testing import CliRunner

from bench.cli import app
from bench.study.printing import Printed, as_text

SHIPPED = Path(__file__).parents[2] / "results" / "shipped"
RUN = SHIPPED / "intel-xeon-2-threads" / "speed_cpu_mini"
HOSTILE = r"a & b_c 17 % #1 $x ~ ^2 {d} \input{/etc/passwd} [e] <f> ± /a_b/run [exp 3]"


def tables_of(text: str) -> list[LatexEnvironmentNode]:
    """The tables in LaTeX that has nothing but these and comments; raises what the parser does."""
    nodes, _, _ = LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    tables = [node for node in nodes if isinstance(node, LatexEnvironmentNode)]
    others = [node for node in nodes if not isinstance(node, LatexEnvironmentNode)]
    between = [node for node in others if not isinstance(node, LatexCommentNode)]
    assert not "".join(node.latex_verbatim() for node in between).strip()
    return tables


def check(text: str) -> None:
    """Rows have the same number of cells, and no character of a word means anything to LaTeX."""
    for table in tables_of(text):
        (body,) = re.findall(r"\\toprule\n(.*)\\bottomrule", table.latex_verbatim(), re.DOTALL)
        rows = body.replace("\\midrule\n", "").strip().removesuffix(r"\\").split("\\\\\n")
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
        assert not re.search(r"(?<!\\)[%#_~^]", table.latex_verbatim())


def test_any_words_are_set_as_they_stand():
    cells = pd.DataFrame([{HOSTILE: HOSTILE, "b": "[1, 2]"}, {HOSTILE: "two\nlines", "b": 0.5}])
    text = as_text(Printed(HOSTILE, cells, cells, ["a note\n\\input{x}"]), "latex")
    check(text)
    (table,) = tables_of(text)
    read = " ".join(LatexNodes2Text().nodelist_to_text([table]).split())
    assert read.count(HOSTILE.replace("^", "\N{MODIFIER LETTER CIRCUMFLEX ACCENT}")) == 3
    assert "two lines 0.500000" in read
    assert text.endswith("% a note \\input{x}\n")


@pytest.fixture(
    scope="module",
    params=[
        "predict quick",
        "table code_table1",
        f"table {RUN}",
        f"compare {RUN} {RUN}",
        "history --shipped",
        "list",
        "claims --shipped",
        "search --for mini,1,modern --max-flops 2.05e9 --dry-run",
    ],
)
def printed(request):
    """What each command that can prints."""
    result = CliRunner().invoke(app.app, [*request.param.split(), "--format", "latex"])
    assert "begin{table}" in result.stdout, result.output
    return result.stdout


def test_the_tables_of_each_command_parse(printed):
    check(printed)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs a TeX")
def test_the_tables_of_each_command_compile(printed, tmp_path):
    packages = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}"
    text = f"{packages}\\begin{{document}}\n{printed}\\end{{document}}\n"
    (tmp_path / "a.tex").write_text(text)
    words = ["pdflatex", "-halt-on-error", "-no-shell-escape", "a.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
