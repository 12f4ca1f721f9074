"""`bench.py sample`: parse, call, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.cli import options
from bench.cli.targets import forecast_here
from bench.study import experiment, printing
from bench.study.cases import Case

if TYPE_CHECKING:
    from bench.quality.sample_set import Manifest


def sample(
    target: Annotated[
        str, typer.Argument(metavar="EXPERIMENT|METHOD", help="a name from `list`, or a TOML file")
    ],
    out: Annotated[Path, typer.Option(help="folder; of several cases each has one in it")],
    changes: options.Changes = [],  # noqa: B006
    plugin: options.Plugins = [],  # noqa: B006
    allow_plugins: options.AllowPlugins = False,
    per_class: options.PerClass = 50,
    format: Annotated[
        Literal["png", "npz"], typer.Option(help="PNG files, or one samples.npz")
    ] = "png",
    batch_size: options.BatchSize = 32,
    preset: Annotated[
        Literal["var", "code", "mini"] | None,
        typer.Option(help="the papers' sampling settings, if not the case's own"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="of the set, if not the case's own")
    ] = None,
    device: options.Device = None,
    resume: options.Resume = False,
    download: options.Download = False,
    dry_run: options.DryRun = False,
) -> None:
    """Images of every class, equally many, to disk; torchrun in front of it shares the work."""
    axes = {"device": device, "sampling": preset}
    changes = [*changes, *(f"{key}={value}" for key, value in axes.items() if value)]
    experiment.cases_of(target, changes)  # what it refuses, it refuses before torch is imported
    from bench.measure import devices, machine
    from bench.quality import sampling
    from bench.quality.wanted import sets_of
    from codevar.progress import Progress
    from codevar.train import parallel

    cases = experiment.cases_of(target, changes, devices.default_device())
    wanted = sets_of(cases, per_class, format, batch_size, seed)
    asked = [one.case for one in wanted.values()]
    devices.check_devices(asked)
    if dry_run:
        show_before_sampling(target, asked, per_class, machine.environment())
        return
    sampling.check(asked, download or resume)  # what is sampled already needs none
    env, progress = machine.environment(), Progress()
    try:
        for name, one in wanted.items():
            folder = out / name if len(wanted) > 1 else out
            made = sampling.sample(one, folder, env, progress, resume=resume, download=download)
            if parallel.is_first():
                for line in summary_lines(made.manifest):
                    progress.say(line)
                progress.say(f"samples: {folder}")
    except sampling.FirstProcessError:
        raise typer.Exit(2) from None
    finally:
        parallel.leave()


def show_before_sampling(
    title: str, cases: Sequence[Case], per_class: int, env: dict[str, Any]
) -> None:
    """What --dry-run prints.  env: `machine.environment()`."""
    from bench.quality.sampling import sizes
    from bench.tables import hours

    images = {case: (per_class * sizes(case)[0], sizes(case)[1]) for case in cases}
    planned = hours.before_sampling(title, images, forecast_here(cases[0].device, env))
    printing.show(planned, printing.Format.rich)


def summary_lines(manifest: Manifest) -> list[str]:
    """What one should know of a set, in a line or two."""
    line = f"{manifest['label']}: {manifest['images']} images, preset {manifest['preset']}"
    if manifest["images_per_s"] is not None:
        line += (
            f", {manifest['images_per_s']:.4g} images/s, "
            f"{manifest['waited_for_writing_s']:.2g} s of it waiting for the disk"
        )
    lines = [line]
    if manifest["case"]["weights"] == "seeded":
        lines.append("weights are random, from a seed: the images show nothing; --set weights=")
    return lines
