"""Figures of VARiant's trainings: what the metrics say, at the right places."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from typer.testing import CliRunner

from bench.cli.app import app
from bench.figures import looks, training
from codevar.train import gradients, loop
from tests.figures.test_findings import texts, whole
from tests.train.small import config, files, train

MEASURED = {"steps": 20, "measure_every": 1, "phases": (5, 5, 10), "data.images": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Trainings of seconds: progressive, at two ratios, with all layers in the subnet."""
    home = tmp_path_factory.mktemp("trainings")
    files(home)
    changes = {
        "progressive": {},
        "low": {"ratio": 0.1},
        "high": {"ratio": 1.0},
        "no_full_only": {"subnet_depth": 4},
    }
    for name, more in changes.items():
        train(config(home, "variant", out=str(home / name), **MEASURED, **more))
    train(config(home, "variant", out=str(home / "unmeasured"), steps=1))
    train(config(home, "var", out=str(home / "var"), steps=1))
    return home


def drawn(figure: str, *trainings):
    with matplotlib.rc_context(looks.STYLE):
        return whole(training.FIGURES[figure](list(trainings)))


def bars(ax) -> dict[tuple[float, str], float]:
    """Height by place and colour."""
    found = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    return {
        (round(b.get_x() + b.get_width() / 2, 2), matplotlib.colors.to_hex(b.get_facecolor())): (
            b.get_height()
        )
        for b in found
    }


def test_figure3b_has_the_mean_share_of_each_phase(folders):
    run = training.load(folders / "progressive")
    shares, norms = drawn("variant_figure3b", run).axes
    found = bars(shares)
    rows = {phase: [] for phase in (1, 2, 3)}
    for row in run.rows:
        p = row[gradients.PROBABILITY]
        rows[1 if p == pytest.approx(0.2) else 3 if p == pytest.approx(1) else 2].append(
            gradients.shares(row)
        )
    for at, of_phase in enumerate(rows.values()):
        for x, layers in ((at - 0.23, "shared"), (at + 0.23, "full_only")):
            zones = ("bridge", "flexible")
            parts = [np.mean([one[layers, zone] for one in of_phase]) for zone in zones]
            for color, part in zip((looks.BLUE, looks.VERMILLION), parts, strict=True):
                height = found[round(x, 2), color.lower()]
                assert height == pytest.approx(part / sum(parts))
    red = [found[round(at + 0.23, 2), looks.VERMILLION.lower()] for at in range(3)]
    assert min(red[:2]) > red[2] > 0  # the flexible zone lets go of the full-only layers
    curves = [line for line in norms.lines if len(line.get_xdata()) == 20]
    assert len(curves) == 4


def test_figure3b_says_where_there_are_no_full_only_layers(folders):
    page = drawn("variant_figure3b", training.load(folders / "no_full_only"))
    assert [text.get_text() for text in page.axes[0].texts].count("none") == 3


def test_figure2b_has_the_losses_of_both_networks_beside_the_papers_words(folders):
    runs = [training.load(folders / name) for name in ("progressive", "low", "high")]
    page = drawn("variant_figure2b", *runs)
    full, subnet = page.axes
    assert "5.75 at epoch 8 and 5.72 at 25" in " ".join(texts(page).split())
    for ax, name in ((full, "loss_full"), (subnet, "loss_subnet")):
        faint = [list(line.get_ydata()) for line in ax.lines[::2]]
        assert faint == [[row[name] for row in run.rows] for run in runs]
    assert {"progressive", "p = 0.1", "p = 1.0"} <= {
        text.get_text() for text in page.findobj(matplotlib.text.Text)
    }


def test_figure2c_has_the_losses_early_and_late_by_ratio(folders):
    runs = [training.load(folders / name) for name in ("progressive", "high", "low")]
    page = drawn("variant_figure2c", *runs)
    full, _ = page.axes
    assert [label.get_text() for label in full.get_xticklabels()] == ["0.1", "1.0", "progressive"]
    low = [row["loss_full"] for row in runs[2].rows]
    early, late = (line.get_ydata() for line in full.lines[::2])
    assert early[0] == pytest.approx(np.mean(low[2:4]))  # 10 to 20 % of 20 steps
    assert late[0] == pytest.approx(np.mean(low[18:]))
    assert "its figure has FIDs" in " ".join(texts(page).split())


def test_the_command_draws_folders_of_trainings(folders, tmp_path):
    words = ["plot", "variant_figure2b", str(folders / "low"), str(folders / "high")]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    endings = {path.name for path in tmp_path.iterdir()}
    assert endings == {f"trainings-variant_figure2b.{kind}" for kind in ("png", "pdf")}


def test_a_training_that_goes_on_is_drawn_as_far_as_it_is(folders, tmp_path, monkeypatch):
    step = loop.Run._step

    def stopped(self, batches):
        if self.done == 10:
            raise KeyboardInterrupt
        step(self, batches)

    monkeypatch.setattr(loop.Run, "_step", stopped)
    values = config(folders, "variant", out=str(tmp_path), **MEASURED, checkpoint_every=5)
    with pytest.raises(KeyboardInterrupt):
        train(values)
    run = training.load(tmp_path)
    assert run.share().tolist() == [n / 20 for n in range(1, 11)]
    drawn("variant_figure3b", run)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("variant_figure3b {}/var", "a training of var, not of variant"),
        ("variant_figure3b {}/unmeasured", "train with `--set measure_every=20`"),
        ("variant_figure3b {}", "no training; it has neither a model nor a checkpoint"),
        ("variant_figure3b quick", "reproduce mini_variant_table5 --train"),
        ("variant_figure3b", "name folders of trainings"),
        ("speed {}/low", "figure speed: trainings have variant_figure2b"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(folders, tmp_path, words, line):
    command = ["plot", *words.format(folders).split(), "--out", str(tmp_path / "plots")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "plots").exists()
