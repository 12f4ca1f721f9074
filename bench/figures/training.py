"""Figures of VARiant's trainings, from their metrics: Figures 2 (b), 2 (c) and 3 (b).

    bench.py plot variant_figure2b runs/mini-cpu/variant_d4 runs/mini-cpu/variant_d4_p1.0

What is measured, and what the paper leaves open, is in `codevar/train/gradients.py`.  A loss is of
few images, so a curve is a mean over its neighbours, with the single ones faint behind it.
"""

import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from bench.figures import canvas, looks
from bench.figures.looks import BLACK, BLUE, GREY, RED, REFERENCE, STYLE, VERMILLION, WIDE
from bench.study import experiment
from bench.study.cases import VARCase
from bench.study.errors import UsageError
from codevar.train import TrainError, checkpoint, gradients, loop
from codevar.train.recipes import TrainVariant

FIXED = (BLUE, looks.ORANGE, looks.GREEN, looks.PURPLE, looks.SKY, BLACK)  # at a fixed ratio p
ZONE_COLORS = {"bridge": BLUE, "flexible": VERMILLION}
LAYER_LINES = {"shared": "-", "full_only": "--"}
NETWORKS = ("full", "subnet")
NAMES = {"shared": "shared", "full_only": "full-only", "full": "all layers", "subnet": "subnet"}
SMOOTH = 1 / 12  # share of its measurements either side that a point of a curve is the mean of
WINDOW = 0.1  # share of a training whose mean stands for its end
EARLY, LATE = 0.2, 1.0  # epochs 5 and 25 of 25


@dataclass(frozen=True)
class Training:
    """steps: of the whole training.  rows: lines of its metrics that have a measurement."""

    folder: Path
    recipe: TrainVariant
    steps: int
    rows: list[dict[str, float]]

    @property
    def how(self) -> str:
        """How the two networks were trained together."""
        return "progressive" if self.recipe.ratio is None else f"p = {self.recipe.ratio}"

    @property
    def shape(self) -> str:
        """The subnet's depth and the bridge scales."""
        return f"d={self.recipe.subnet_depth} N={self.recipe.bridge_scales}"

    def share(self) -> np.ndarray:
        """How far the training had come at each row."""
        return np.array([row["step"] for row in self.rows]) / self.steps

    def column(self, name: str) -> np.ndarray:
        """A measurement at each row."""
        return np.array([row[name] for row in self.rows])

    def gradient(self, layers: str, zone: str) -> np.ndarray:
        """Norm at each row, the mean square over the draw of the network."""
        squares = [gradients.squares(row)[layers, zone] for row in self.rows]
        return np.sqrt(squares)


Draw = Callable[[list[Training]], Figure]
FIGURES: dict[str, Draw] = {}


def training_figure(name: str) -> Callable[[Draw], Draw]:
    """Registers the decorated function under the name that `bench.py plot` knows."""
    return functools.partial(FIGURES.setdefault, name)


def is_training(target: str) -> bool:
    """Whether it is the folder of a training."""
    return (Path(target) / loop.METRICS).is_file()


@matplotlib.rc_context(STYLE)
def draw_trainings(targets: list[str], names: list[str], out: Path) -> list[Path]:
    """Draws the named figures, by default all of them, of folders of trainings, or of those whose
    models an experiment names; returns the files.

    Raises UsageError for a target that is none, and for a lack of measurements.
    """
    if others := [name for name in names if name not in FIGURES]:
        raise UsageError(f"figure {others[0]}: trainings have {', '.join(FIGURES)}")
    folders = dict.fromkeys(folder for target in targets for folder in folders_of(target))
    trainings = [load(folder) for folder in folders]
    if not trainings:
        raise UsageError(
            f"figure {next(iter(names or FIGURES))}: name folders of trainings (runs/...); "
            "`bench.py train variant` and `bench.py reproduce mini_variant_table5 --train 0.2` "
            "make them"
        )
    called = trainings[0].folder.name if len(trainings) == 1 else "trainings"
    paths: list[Path] = []
    for name in names or FIGURES:
        paths += canvas.save(FIGURES[name](trainings), canvas.png_and_pdf(out / f"{called}-{name}"))
    return paths


def folders_of(target: str) -> list[Path]:
    """The folder, or those of the trainings that an experiment's models come from."""
    if Path(target).is_dir():
        return [Path(target)]
    cases = [case for case in experiment.load(target).cases if isinstance(case, VARCase)]
    folders = dict.fromkeys(Path(name).parent for case in cases for name in case.model_names())
    return [folder for folder in folders if is_training(str(folder))]


def load(folder: Path) -> Training:
    """Raises UsageError for a folder without a training of VARiant that was measured."""
    try:
        card, kept = checkpoint.read_card(folder), checkpoint.read_header(folder)
        if card:
            config, steps = card["recipe"], card["steps"]
        elif kept:
            config, steps = kept["config"], kept["config"]["lengths"][-1]["steps"]
        else:
            raise UsageError(f"{folder}: no training; it has neither a model nor a checkpoint")
        if config["recipe"] != "variant":
            raise UsageError(f"{folder}: a training of {config['recipe']}, not of variant")
        fields = {key: config[key] for key in TrainVariant.model_fields.keys() & config.keys()}
        recipe = TrainVariant.model_validate_json(json.dumps(fields))
        lines = (folder / loop.METRICS).read_text("utf-8-sig").splitlines()
        rows = [row for row in map(json.loads, lines) if gradients.PROBABILITY in row]
    except (OSError, TrainError, ValueError, KeyError) as e:
        if isinstance(e, UsageError):
            raise
        raise UsageError(f"{folder}: its training cannot be read ({e})") from None
    if not rows:
        raise UsageError(
            f"{folder}: nothing was measured; train with `--set measure_every=20` to have it"
        )
    return Training(folder, recipe, steps, rows)


@training_figure("variant_figure2b")
def losses_over_training(trainings: list[Training]) -> Figure:
    """Loss of both networks over the training, by how they were trained together."""
    trainings = bridged(trainings)
    colors = colors_of(trainings)
    drawn, axes = panel_for_each_network()
    for ax, network in zip(axes, NETWORKS, strict=True):
        for training in trainings:
            losses, color = training.column(f"loss_{network}"), colors[name_of(training, trainings)]
            ax.plot(training.share(), losses, color=color, alpha=0.2)
            smooth(ax, training.share(), losses, color)
        in_percent(ax)
    handles = [looks.entry(name, color=color) for name, color in colors.items()]
    notes = [
        "As published (VARiant, Section 3.3.1, of VAR-d30 and d=16; its curves have no table): all "
        "layers 5.75 at epoch 8 and 5.72 at 25, at p = 1.0; the subnet 6.08, at p = 0.1.",
        "Measured: on the step's own images, before its update; bold, the running mean.",
        about(trainings),
    ]
    return canvas.finish(drawn, "Losses of both networks", " ".join(notes), handles)


@training_figure("variant_figure2c")
def losses_by_ratio(trainings: list[Training]) -> Figure:
    """Loss of both networks early and late, by the ratio p."""
    ended = [t for t in bridged(trainings) if t.share().max() > LATE - WINDOW]
    if not ended:
        raise UsageError("figure variant_figure2c: no training here has come to its end")
    ended.sort(key=lambda t: (t.recipe.ratio is None, t.recipe.ratio or 0))
    fixed = sum(t.recipe.ratio is not None for t in ended)
    drawn, axes = panel_for_each_network()
    moments = ((f"after {EARLY:.0%}", EARLY, "s", "white"), ("at the end", LATE, "o", None))
    for ax, network in zip(axes, NETWORKS, strict=True):
        for _, share, marker, fill in moments:
            means = [mean_before(t, f"loss_{network}", share) for t in ended]
            look: Any = {"marker": marker, "mfc": fill}
            ax.plot(range(fixed), means[:fixed], color=BLACK, **look)
            ax.plot(range(fixed, len(ended)), means[fixed:], color=RED, ls="", **look)
        names = [name_of(t, ended).removeprefix("p = ").replace(", ", "\n") for t in ended]
        ax.set_xticks(range(len(ended)), names)
        ax.set_xlabel("p, the subnet's share of steps")
        ax.margins(0.12, 0.15)
    handles = [
        looks.entry(name, color=BLACK, marker=marker, mfc=fill, ls="")
        for name, _, marker, fill in moments
    ]
    notes = [
        "As published (VARiant, Section 3.3.1; its figure has FIDs): of all layers 3.6 to 4.6 at "
        "epoch 5 of 25 and at most 2.2 at the end, at any fixed p.  Here losses: means over the "
        f"{WINDOW:.0%} of the training before each moment.",
        about(ended),
    ]
    title = "Losses of both networks, early and late, by ratio"
    return canvas.finish(drawn, title, " ".join(notes), handles)


def panel_for_each_network() -> Any:
    """A page with a panel of all layers and one of the subnet."""
    drawn, axes = canvas.panels(WIDE, 2.2, 1, 2)
    for ax, network in zip(axes, NETWORKS, strict=True):
        ax.set(title=f"Measured: {NAMES[network]}", ylabel="cross-entropy (nats a token)")
        ax.grid(axis="y")
    return drawn, axes


@training_figure("variant_figure3b")
def sources_of_gradient(trainings: list[Training]) -> Figure:
    """Where the gradient comes from, by phase and over the training; a line for each training."""
    count = len(trainings)
    drawn, axes = canvas.panels(WIDE, 2.1 * count, count, 2, sharey="col")
    for training, bars, curves in zip(trainings, axes[::2], axes[1::2], strict=True):
        draw_phases(bars, training)
        for (layers, ls), (zone, color) in itertools.product(
            LAYER_LINES.items(), ZONE_COLORS.items()
        ):
            norm = training.gradient(layers, zone)
            norm[norm == 0] = np.nan  # on a log axis a gap
            smooth(curves, training.share(), norm, color, ls=ls)
        for end in training.recipe.phase_ends()[:-1]:
            curves.axvline(end, **REFERENCE)
        curves.set(ylabel="norm of the gradient", title="over the training")
        canvas.logarithmic(curves.yaxis)
        in_percent(curves)
        curves.grid()
    zones = ZONE_COLORS.items()
    handles: list[Any] = [Patch(color=c, label=f"from the {zone} zone") for zone, c in zones]
    handles += [
        looks.entry(f"{NAMES[layers]} layers", color=GREY, ls=ls)
        for layers, ls in LAYER_LINES.items()
    ]
    words = (
        "Share of the squared norm of the gradient of the blocks' parameters, in the mean over the "
        "draw of the network.  As published (VARiant, Figure 3 b, without numbers): in phase 3 "
        "full-only layers have nothing from the flexible zone.  Here its tokens attend to those of "
        f"the bridge, which these layers made. {about(trainings)}"
    )
    return canvas.finish(drawn, "Where the gradient comes from", words, handles)


def draw_phases(ax: Axes, training: Training) -> None:
    """Stacked bars: of the gradient of the shared and of the full-only layers, by phase."""
    ends = np.array([row["step"] for row in training.rows])
    middles = (np.append(0, ends[:-1]) + ends - 1) / 2  # a row is of the steps since the last one
    phases = [training.recipe.phase(m / max(1, training.steps - 1)) or 0 for m in middles]
    ticks: list[tuple[float, str]] = []
    for at, phase in enumerate(sorted({*phases})):
        rows = [row for row, p in zip(training.rows, phases, strict=True) if p == phase]
        found = [gradients.shares(row) for row in rows]
        for x, layers in ((at - 0.23, "shared"), (at + 0.23, "full_only")):
            ticks.append((x, NAMES[layers]))
            sizes = {z: float(np.mean([one[layers, z] for one in found])) for z in ZONE_COLORS}
            if not any(sizes.values()):
                ax.text(x, 0.02, "none", ha="center", color=GREY)
                continue
            bottom = 0.0
            for zone, color in ZONE_COLORS.items():
                share = sizes[zone] / sum(sizes.values())
                ax.bar(x, share, 0.4, bottom, color=color)
                if share >= 0.1:
                    middle = bottom + share / 2
                    ax.text(x, middle, f"{share:.0%}", ha="center", va="center", color="white")
                bottom += share
        name = f"phase {phase}" if phase else "all steps"
        ax.text(at, -0.17, name, transform=ax.get_xaxis_transform(), ha="center", va="top")
    ax.set_xticks([x for x, _ in ticks], [words for _, words in ticks], fontsize=7)
    ax.tick_params(axis="x", length=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set(title=f"{training.folder.name}: {training.how}", ylabel="share of the gradient")
    ax.set(xlim=(-0.6, 2.6), ylim=(0, 1))
    ax.grid(axis="y")


def bridged(trainings: list[Training]) -> list[Training]:
    """Those with a bridge, as Figure 2's, if there are any."""
    return [t for t in trainings if t.recipe.bridge_scales] or trainings


def mean_before(training: Training, name: str, share: float) -> float:
    """Mean of the measurements in the WINDOW before a share of the training."""
    shares, values = training.share(), training.column(name)
    inside = (shares > share - WINDOW) & (shares <= share)
    return float(values[inside].mean()) if inside.any() else float("nan")


def smooth(ax: Any, x: np.ndarray, y: np.ndarray, color: str, **look: Any) -> None:
    """The running mean, over fewer at both ends."""
    reach = round(SMOOTH * len(y))
    means = [y[max(0, i - reach) : i + reach + 1].mean() for i in range(len(y))]
    ax.plot(x, means, color=color, marker="o" if len(y) == 1 else "", **look)


def name_of(training: Training, trainings: list[Training]) -> str:
    """How it was trained, and what else sets it apart: the subnet and N, or else the folder."""
    alike = [other for other in trainings if other.how == training.how]
    if len(alike) == 1:
        return training.how
    if len({other.shape for other in alike}) == len(alike):
        return f"{training.how}, {training.shape}"
    return training.folder.name


def colors_of(trainings: list[Training]) -> dict[str, str]:
    """Colour by name: red for the progressive one, as in Figure 2 (a)."""
    names = [name_of(training, trainings) for training in trainings]
    others = itertools.cycle(FIXED)
    return {name: RED if name == "progressive" else next(others) for name in names}


def about(trainings: list[Training]) -> str:
    """Subnets, lengths and folders, in a sentence."""
    shapes = {t.shape for t in trainings}
    lengths = {f"{t.steps} steps of {t.recipe.batch_size} images" for t in trainings}
    folders = ", ".join(t.folder.name for t in trainings)
    return f"Trainings: {folders}; {', '.join(sorted(shapes))}; {', '.join(sorted(lengths))}."


def in_percent(ax: Any) -> None:
    """An x axis of the share of the training."""
    ax.set(xlabel="share of the training", xlim=(0, 1))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
