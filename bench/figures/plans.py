"""What each method's plan says, a row a scale: models, layers, guidance, tokens, cache."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.figures import canvas
from bench.figures.looks import BLUE, GREY, ORANGE
from bench.figures.registry import figure
from bench.methods.meta import meta_plan
from bench.study.cases import VARCase
from bench.tables.case_rows import NoDataError, Row
from bench.tables.frames import Run
from codevar.plan import Plan
from codevar.spans import write_spans
from codevar.steps import Step, Window

MOST = 12  # panels
COLORS = (BLUE, ORANGE, GREY)


@figure("plan", "Plans")
def plan(run: Run, rows: list[Row]) -> Figure:
    """What predicts each scale: a block is a layer that runs, in the colour of its model, half as
    high without guidance, and as much narrower as tokens are left out.  Beside it what the cache
    keeps after the scale."""
    plans = {c.label: meta_plan(c) for c in run.sweep.cases if isinstance(c, VARCase)}
    if not plans:
        raise NoDataError(f"{run.sweep.name} has no method that is a plan")
    shown = dict(list(plans.items())[:MOST])
    most = max(each.scales.K for each in shown.values())
    drawn, axes = canvas.panel_for_each(len(shown), 0.5 + 0.16 * most, 2, sharex=False)
    for ax, (label, each) in zip(axes, shown.items(), strict=True):
        draw_plan(ax, each)
        ax.set_title(textwrap.fill(label, 40))
    models = max(len(each.models) for each in shown.values())
    handles = [Patch(color=COLORS[i % 3], label=f"model {i + 1}") for i in range(models)]
    left = len(plans) - len(shown)
    footer = f"Not shown: {left} more methods." if left else ""
    return canvas.finish(drawn, "Layers that run at each scale", footer, handles)


def draw_plan(ax: Axes, plan: Plan) -> None:
    """One plan: scales from the top down, layers from the left."""
    depth, said = max(model.config.depth for model in plan.models), ""
    for k, step in enumerate(plan.steps, 1):
        height = 0.8 if step.guided else 0.4
        model = COLORS[plan.models.index(step.model) % 3]
        bars = [(layer, 0.9 * kept_share(step, layer)) for layer in step.layers]
        ax.broken_barh([] if step.skip else bars, (k - height / 2, height), color=model)
        before, said = said, words_of(step)
        if said != before:  # it holds until something else is said
            words = said or "all stays"
            ax.annotate(words, (depth + 0.3, k), va="center_baseline", annotation_clip=False)
    K = plan.scales.K
    ax.set(xlim=(-0.3, depth), ylim=(K + 0.6, 0.4), yticks=range(1, K + 1))
    ax.set(xlabel="layer", ylabel="scale")


def kept_share(step: Step, layer: int) -> float:
    """The share of the map's tokens that goes through the layer."""
    return 1 - step.tokens.drop if step.tokens and step.prunes(layer) else 1.0


def words_of(step: Step) -> str:
    """What the blocks do not show."""
    if step.skip:
        return "skipped"
    words = []
    for rule in step.cache.rules:
        kept = (
            f"first {rule.first}, last {rule.last} scales"
            if isinstance(rule, Window)
            else f"{rule.budget} tokens, {rule.score}"
        )
        some = f" in {write_spans(rule.layers)}" if rule.layers is not None else ""
        words.append(f"cache: {kept}{some}")
    if step.cache.bits < 16:
        words.append(f"int{step.cache.bits}")
    return ", ".join(words)
