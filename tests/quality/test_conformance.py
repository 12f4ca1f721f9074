"""`conform`: two methods make the same decisions, or it says where they part."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bench.cli.app import app

MINI = ("--set", "weights=mini", "--set", "sampling=mini", "--images", "2", "--device", "cpu")


def bench(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def test_the_same_plan_by_another_name_conforms(tmp_path):
    (tmp_path / "plan.toml").write_text(
        'title = "x"\n[[cases]]\nmethod = "plan"\nprecision = "float32"\nby_scale = '
        '[{scales = "1-10"}]\n'
    )
    done = bench("conform", tmp_path / "plan.toml", "--against", "var", *MINI)
    assert done.exit_code == 0, done.stderr
    assert "plan (d12) decides as VAR-d12 does" in done.stderr


def test_another_plan_is_told_with_the_first_scale_where_they_part():
    done = bench(
        "conform",
        "variant",
        "--against",
        "var",
        "--set=bridge_scales=8",
        "--set=subnet_depth=6",
        *MINI,
    )
    assert done.exit_code == 1
    assert "part at scale 9, token " in done.stderr
    assert "which leads by" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("var", "--against", "dit"), "baselines are measured for speed and memory only"),
        (("var", "--against", "nothing"), "no such method or experiment"),
        (("var", "--against", "var", "--set=draft_steps=3"), "neither method has the axis"),
        (("code_table1", "--against", "var"), "code_table1: has "),
    ],
)
def test_a_mistake_is_one_line(words, told):
    done = bench("conform", *words)
    assert done.exit_code == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
