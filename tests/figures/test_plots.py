"""Figures: every one is drawn whole, says what it shows, and shows the records' own values."""

from __future__ import annotations

import functools
import itertools
import statistics
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from bench.figures import canvas, known, looks, registry, training
from bench.study import experiment, papers
from bench.study.errors import UsageError
from bench.tables import case_rows
from tests.synthetic import fake_run

HEAVY = ("torch", "matplotlib", "pandas")
BOTH = ("published", "modern")
RUNS = {
    "code_table1": functools.partial(fake_run, "code_table1", stack=BOTH, samples=3),
    "code_table3": functools.partial(fake_run, "code_table3", batch_size=[8, 64, 128]),
    "code_figure5": functools.partial(
        fake_run, "code_figure5", gpu_gib=44, batch_size=[1, 8, 64, 128]
    ),
    "variant_figure5": functools.partial(fake_run, "variant_figure5"),
    "variant_predicted": functools.partial(fake_run, "variant_figure5", measured=False),
}


run_of = functools.cache(lambda name: RUNS[name]())
rows_of = functools.cache(lambda name: case_rows.rows_of(run_of(name)))


@functools.cache
def page(figure: str, name: str):
    """The figure of that run, laid out but not written to disk."""
    with matplotlib.rc_context(looks.STYLE):
        drawn = registry.figures()[figure].draw(run_of(name), rows_of(name))
        drawn.draw_without_rendering()
        return drawn


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def record(name: str, **keys):
    """The one record of a case with these keys."""
    (found,) = [r for r in run_of(name).records if keys.items() <= r.case.items()]
    return found


def latency(name: str, **keys) -> float:
    return statistics.median(record(name, **keys).samples.latency_s)


@pytest.mark.parametrize(
    ("figure", "name"),
    [
        ("speed", "code_table1"),
        ("scales", "code_table1"),
        ("memory", "code_table3"),
        ("memory", "variant_predicted"),
        ("timeline", "code_table3"),
        ("batch", "code_figure5"),
        ("code_figure5a", "code_table1"),
        ("code_figure5b", "code_figure5"),
        ("code_figure5c", "code_figure5"),
        ("variant_figure5a", "variant_predicted"),
        ("variant_figure5b", "variant_figure5"),
        ("variant_figure5c", "variant_figure5"),
    ],
)
def test_is_drawn_whole_as_png_and_pdf(figure, name, tmp_path):
    png, pdf = registry.draw(run_of(name), [figure], tmp_path / "new" / "folder")
    stem = f"{run_of(name).sweep.name}-{figure}"
    assert [png.name, pdf.name] == [f"{stem}.png", f"{stem}.pdf"]
    assert pdf.read_bytes().startswith(b"%PDF")
    picture = imread(png)[..., :3]
    assert picture.shape[1] in (round(6.9 * 300), round(3.3 * 300))
    inked = picture.min(axis=2) < 0.9
    assert 0.01 < inked.mean() < 0.5
    border = np.concatenate(
        [inked[:3].ravel(), inked[-3:].ravel(), inked[:, :3], inked[:, -3:]], None
    )
    assert not border.any(), "something is cut off at the page's edge"


def test_every_experiment_asks_for_figures_that_there_are():
    asked = {f for name in experiment.names() for f in experiment.load(name).experiment.figures}
    assert asked <= registry.figures().keys()


def key_of(figure) -> dict[str, str]:
    """Name by number, as the key below the figure says."""
    (key,) = [text for text in texts(figure) if text.startswith("Numbers: ")]
    entries = key.replace("\n", " ").partition("Numbers: ")[2].partition(". ")[0].split(", ")
    return dict(entry.replace("\u00a0", " ").split(" ", 1) for entry in entries)


@pytest.mark.parametrize("panel", [0, 1])
def test_every_marker_has_a_name_or_a_number_that_the_key_explains(panel):
    figure = page("code_figure5a", "code_table1")
    ax, key = figure.axes[panel], key_of(figure)
    shown = [text for text in ax.texts if text.get_text()]
    named = [key.get(text.get_text(), text.get_text()) for text in shown]
    paper = [row.label.replace("VAR-Co", "Co") for row in papers.load("code_table1").rows]
    stacks = (1, len(BOTH))[panel]
    assert sorted(named) == sorted(paper * stacks)
    extent = matplotlib.text.Text.get_window_extent
    for one, other in itertools.combinations(shown, 2):
        assert not extent(one).overlaps(extent(other)), f"{one} and {other}"
    inside = ax.get_window_extent()
    assert all(inside.containsx(x) for text in shown for x in extent(text).intervalx)


def test_front_leaves_out_what_another_beats():
    ax = page("code_figure5a", "code_table1").axes[0]
    (front,) = [line for line in ax.lines if line.get_label() == "Pareto front"]
    assert front.get_xydata().tolist() == [[1.27, 2.27], [1.6, 2.11], [2.11, 1.98], [2.97, 1.94]]


def test_quality_is_the_papers_and_says_so():
    figure = page("code_figure5a", "code_table1")
    assert "FID quoted from the paper, latency measured here" in figure.axes[1].get_xlabel()
    dots = {tuple(line.get_xydata()[0]) for line in figure.axes[1].lines}
    keys = {"method": "code", "draft_steps": 8, "stack": "modern"}
    assert (latency("code_table1", **keys), 1.98) in dots


def test_models_of_other_sizes_have_no_quality_of_the_papers():
    run = fake_run("code_table1", method="code", depth=20, refiner_depth=16, draft_steps=6)
    with matplotlib.rc_context(looks.STYLE):
        figure = registry.figures()["code_figure5a"].draw(run, case_rows.rows_of(run))
    assert len(figure.axes) == 1


def test_speed_says_each_stacks_speed_up():
    said = texts(page("speed", "code_table1"))
    for stack in BOTH:
        own = latency("code_table1", method="code", draft_steps=6, stack=stack)
        base = latency("code_table1", method="var", depth=30, stack=stack)
        beside = [t for t in said if t.startswith(canvas.seconds(own))]
        assert any(f"{base / own:.2f}x" in text for text in beside)
        assert any("(paper 2.9x)" in text for text in beside) == (stack == "published")


def test_scales_are_marked_where_the_model_changes():
    published, modern = page("scales", "code_table1").axes
    for ax in (published, modern):
        marks = [c for c in ax.collections if c.get_linewidth()[0] == 1.8]
        names = [text.get_text() for text in ax.get_yticklabels()]
        changes = {name: len(c.get_segments()) for name, c in zip(names, marks, strict=True)}
        assert {name: n for name, n in changes.items() if n} == {
            f"CoDe N={n} (d30+d16)": 1 for n in (9, 8, 7, 6)
        }
    taken = np.array(record("code_table1", draft_steps=6, stack="modern").samples.scale_latency_s)
    (mark,) = [c for c in modern.collections if c.get_linewidth()[0] == 1.8][-1].get_segments()
    assert mark[0][0] == pytest.approx(np.median(taken, axis=0)[:6].sum())


def test_memory_says_totals_and_what_did_not_fit():
    figure = page("memory", "code_table3")
    said = texts(figure)
    fits = record("code_table3", method="code", batch_size=128)
    assert f"{fits.memory.total_mib:,.0f} (paper 30,598)" in said
    lost = record("code_table3", method="var", batch_size=128).predicted
    need = lost.total_mib
    assert f"OOM, predicted, needs {need:,.0f} (paper OOM)" in said
    hatched = [bar for bar in figure.axes[0].patches if bar.get_hatch()]
    assert sum(bar.get_width() for bar in hatched) == pytest.approx(need)


def test_timeline_shows_the_drafters_cache_going():
    figure = page("timeline", "code_table3")
    panel = next(ax for ax in figure.axes if ax.get_title("left").startswith("CoDe"))
    cache, peak = (patch.get_data().values for patch in panel.patches)
    made = record("code_table3", method="code", batch_size=64).memory
    assert cache.tolist() == made.kv_cache_by_scale_mib
    assert peak.tolist() == [b - made.params_mib for b in made.peak_by_scale_mib]
    (left,) = [line for line in panel.lines if line.get_marker() == "o"]
    after = dict(zip(left.get_xdata(), left.get_ydata(), strict=True))
    assert after[6.5] < after[5.5] / 4  # after scale 6 the drafter and its cache are done
    (handover,) = [line for line in panel.lines if line.get_ls() == ":"]
    assert set(handover.get_xdata()) == {6.5}


def test_batch_crosses_where_memory_ran_out():
    latencies = page("batch", "code_figure5").axes[0]
    (cross,) = [line for line in latencies.lines if line.get_marker() == "+"][:1]
    assert list(cross.get_xdata()) == [128]
    ends = {tuple(line.get_xdata()) for line in latencies.lines if line.get_marker() == "o"}
    assert ends == {(1, 8, 64), (1, 8, 64, 128)}  # `modern` fits


def test_figure5b_has_the_decoders_latency_and_the_ratios():
    published = page("code_figure5b", "code_figure5").axes[0]
    (decoder,) = [line for line in published.lines if line.get_marker() == "D"]
    made = record("code_figure5", method="code", batch_size=8, stack="published")
    at = list(decoder.get_xdata()).index(8)
    assert decoder.get_ydata()[at] == statistics.median(made.samples.vqvae_latency_s)
    keys = {"batch_size": 64, "stack": "published"}
    ratio = latency("code_figure5", method="var", depth=30, **keys) / latency(
        "code_figure5", method="code", **keys
    )
    assert f"{ratio:.1f}x" in [text.get_text() for text in published.texts]


def test_figure5c_is_of_batch_64_and_says_the_papers_share():
    figure = page("code_figure5c", "code_figure5")
    keys = {"batch_size": 64, "stack": "published", "method": "var"}
    large, small = (
        np.median(record("code_figure5", depth=d, **keys).samples.scale_latency_s, axis=0)
        for d in (30, 16)
    )
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == [
        f"{large[-3:].sum() / large.sum():.0%} of VAR-d30",
        f"{large[-1] / small[-1]:.1f}x",
    ]
    assert any(
        "64% in the last three scales, 4.6x at scale 10" in t.replace("\n", " ")
        for t in texts(figure)
    )


@pytest.mark.parametrize(
    ("name", "says", "machine"),
    [
        ("variant_figure5", "measured", "Measured on NVIDIA L20, torch 2.9.0, commit 012345678"),
        ("variant_predicted", "predicted", "Predicted from shapes"),
    ],
)
def test_variant_memory_is_measured_or_predicted_and_says_which(name, says, machine):
    figure = page("variant_figure5a", name)
    fid, memory = figure.axes
    assert memory.get_ylabel().endswith(says)
    assert any(machine in text.replace("\n", " ") for text in texts(figure))
    assert fid.lines[0].get_ydata().tolist() == [2.97, 2.28, 2.12, 2.05, 1.96]
    (row,) = [r for r in rows_of(name) if r["method"] == "VARiant-d8 N=6 (d30)"]
    mib = row["kv_cache_mib"] if name == "variant_figure5" else row["kv_cache_mib_predicted"]
    assert memory.lines[0].get_ydata()[2] == mib


def test_variant_star_says_how_much_memory_it_saves():
    figure = page("variant_figure5c", "variant_figure5")
    # as in the paper, Section 6.3
    assert "d=16, N=7: FID 2.00, 36% less KV cache" in texts(figure)


@pytest.mark.parametrize(
    ("batches", "chosen"),
    [([1, 64, 128], 64), ([1, 128], 128), ([8, 8, 64], 8)],
)
def test_one_batch_size_is_where_most_was_measured_then_64_then_the_largest(batches, chosen):
    rows = [{"batch_size": size, "latency_s": 1.0} for size in batches]
    rows += [{"batch_size": 256}] * 4  # not measured
    found = case_rows.at_common_batch(run_of("variant_predicted"), rows)
    assert {row["batch_size"] for row in found} == {chosen}


def test_cases_that_differ_in_precision_alone_have_names_of_their_own():
    run = fake_run("code_table3", method="var", batch_size=8, precision=["fp16", "bf16"])
    assert [row["name"] for row in case_rows.rows_of(run)] == ["VAR-d30, fp16", "VAR-d30, bf16"]


@pytest.mark.parametrize(("title", "caption"), [("", "What it shows."), ("Half", "")])
def test_a_figure_that_lacks_a_part_fails_where_it_is_registered(title, caption):
    def half(run, rows):
        raise AssertionError

    half.__doc__ = caption
    with pytest.raises(TypeError, match="figure half"):
        registry.figure("half", title)(half)
    assert "half" not in registry.figures()


# What cannot be drawn


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_unknown_figure_names_the_known(tmp_path):
    with pytest.raises(UsageError) as error:
        registry.draw(run_of("variant_predicted"), ["speed", "qqq"], tmp_path)
    line = one_line(error)
    assert "qqq" in line
    assert next(iter(registry.figures())) in line  # as many of them as a line holds
    assert len(line) < 300
    assert list(tmp_path.iterdir()) == []


def test_names_are_known_without_importing_any_figure():
    assert {*known.figure_names()} == {*registry.figures()}
    assert {*known.figure_names("training_figure")} == {*training.FIGURES}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sped"], "sped: no such figure, experiment or folder; did you mean speed?"),
        (["quik"], "quik: no such figure, experiment or folder; did you mean quick?"),
        (["--figure", "tradeof"], "figure tradeof: no such figure; did you mean tradeoff?"),
    ],
)
def test_an_unknown_name_is_refused_before_torch_is_imported(words, line):
    command = [sys.executable, "-X", "importtime", "bench.py", "plot", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    imported, (said,) = done.stderr.splitlines()[:-1], done.stderr.splitlines()[-1:]
    assert said == f"bench.py: {line}"
    assert not [name for name in imported if name.rpartition("|")[2].strip() in HEAVY]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as error:
        registry.draw(run_of("variant_predicted"), ["variant_figure5a"], tmp_path / "file")
    assert "cannot be written" in one_line(error)


@pytest.mark.parametrize(
    ("figure", "name", "command"),
    [
        ("speed", "variant_predicted", "bench.py run variant_figure5`"),
        ("batch", "variant_figure5", "bench.py run variant_figure5 --set batch_size=1,8,64`"),
        (
            "code_figure5b",
            "variant_figure5",
            "bench.py run variant_figure5 --set batch_size=1,8,64`",
        ),
        ("code_figure5c", "code_table3", "bench.py run code_figure5`"),
        ("variant_figure5c", "code_table3", "bench.py run variant_figure5`"),
    ],
)
def test_lack_of_data_names_the_command_that_makes_it(figure, name, command, tmp_path):
    with pytest.raises(case_rows.NoDataError) as error:
        registry.draw(run_of(name), [figure], tmp_path)
    assert one_line(error).startswith(f"figure {figure}: ")
    assert command in str(error.value)


def test_by_default_what_can_be_drawn_of_the_experiments_figures(tmp_path):
    run = fake_run("code_table1", measured=False, method="code", draft_steps=6)
    made = registry.draw(run, [], tmp_path)
    assert {path.stem for path in made} == {"code_table1-code_figure5a", "code_table1-memory"}


def test_by_default_nothing_to_draw_is_an_error(tmp_path):
    run = fake_run("d30_cpu", measured=False, method="var")  # its figures are speed and scales
    with pytest.raises(case_rows.NoDataError) as error:
        registry.draw(run, [], tmp_path)
    assert "bench.py run d30_cpu`" in one_line(error)


def test_rows_that_differ_in_settings_alone_have_different_names(tmp_path):
    text = '[[cases]]\nmethod = "aim"\ncfg = [1.5, 2.5]\n[[cases]]\nmethod = "var"\ndepth = 4\n'
    text += 'precision = ["fp16", "bf16"]\nmemory_limit_gib = 8.0\nbatch_size = [1, 2]\n'
    (tmp_path / "own.toml").write_text(f'title = "own"\n{text}')
    names = [row["name"] for row in case_rows.rows_of(fake_run(str(tmp_path / "own.toml")))]
    var = ["VAR-d4, fp16", "VAR-d4, bf16"]
    assert names[:2] == ["AiM-XL, cfg 1.5", "AiM-XL, cfg 2.5"]
    assert sorted(names[2:]) == sorted(2 * var)
