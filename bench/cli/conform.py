"""`bench.py conform`: parse, call, print."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bench.cli import options
from bench.study import experiment, printing
from bench.study.cases import Case, VARCase, is_method, methods, with_batch
from bench.study.errors import UsageError
from bench.study.printing import Format


def conform(
    target: Annotated[
        str, typer.Argument(metavar="METHOD", help="a method, or an experiment of one case")
    ],
    against: Annotated[str, typer.Option(metavar="METHOD", help="what it is held against")],
    changes: options.Changes = [],  # noqa: B006
    plugin: options.Plugins = [],  # noqa: B006
    allow_plugins: options.AllowPlugins = False,
    images: Annotated[int, typer.Option(min=1, max=64, help="of as many classes")] = 4,
    tie: Annotated[
        float, typer.Option(min=0, callback=options.finite, help="logits closer than this are one")
    ] = 0.01,
    device: options.Device = None,
    download: options.Download = False,
    format: options.OutputFormat = Format.rich,
) -> None:
    """Whether two methods make the same decisions with the same weights; exit 1 if not.

    Both decode greedily; one of them may be somebody else's code.  --set changes the axes that
    both have: weights=mini, depth=12.
    """
    known = {key for name in (target, against) for key in keys_of(name)}
    for change in changes:
        if (key := change.partition("=")[0]) not in known:
            raise UsageError(f"--set {change}: neither method has the axis {key}")
    cases = [only_case(name, changes) for name in (target, against)]
    import torch

    from bench.measure import devices
    from bench.methods.loaded import Loaded, labels_of
    from bench.quality import conformance, sampling

    where = device or "auto"
    devices.check_cpu_cases([*cases]) if where == "cpu" else None
    devices.check_weights(cases, download)
    cases.sort(key=lambda case: not isinstance(case, VARCase))  # what can be led first
    ours, theirs = (sampling.load(case, download, devices.chosen_device(where)) for case in cases)
    if not isinstance(ours, Loaded):
        both = " and ".join(case.label for case in cases)
        raise UsageError(f"{both}: neither is a plan of ours, which can be led along tokens")
    labels = labels_of(with_batch(cases[0], images), ours.plan.models[0].config.classes, 0)
    with torch.no_grad(), sampling.one_line(cases[0]):
        found = conformance.conformance(ours, theirs, labels, tie)
    notes = [f"{images} images, weights {cases[0].weights}, {cases[0].precision}."]
    printing.show(conformance.printed(found, notes), format)
    print(conformance.verdict(found, *(case.label for case in cases)), file=sys.stderr)
    if found.apart:
        raise typer.Exit(1)


def keys_of(target: str) -> set[str]:
    """The axes of a method by name; of an experiment those of all methods."""
    chosen = [methods()[target]] if is_method(target) else list(methods().values())
    return {key for kind in chosen for key in kind.model_fields}


def only_case(target: str, changes: list[str]) -> Case:
    """The one case of a method or an experiment, changed by those axes that it has; in float32 if
    nothing else is said.  Raises UsageError."""
    own = [change for change in changes if change.partition("=")[0] in keys_of(target)]
    if is_method(target) and not any(change.startswith("precision=") for change in own):
        own.append("precision=float32")
    cases = experiment.cases_of(target, own)
    if len(cases) != 1:
        raise UsageError(f"{target}: has {len(cases)} cases; --set axis=value chooses one")
    return cases[0]
