"""`bench.py search`: parse, call, print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.options import finite
from bench.study import printing, storage
from bench.study.errors import UsageError, bytes_of
from bench.study.folders import RESULTS
from bench.study.printing import Format
from bench.study.units import MIB


def search(
    model: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="MODEL,BATCH,STACK",
            help="whose cost is to fit: d30+d16,64,modern with the small model that may help, or "
            "d30,64,modern; mini is the mini world's own",
        ),
    ],
    max_latency: Annotated[
        float | None,
        typer.Option(
            min=0, callback=finite, help="seconds of a batch, predicted: the floor by ceilings"
        ),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="of a decode, predicted: 20GiB")
    ] = None,
    max_flops: Annotated[
        float | None, typer.Option(min=1, callback=finite, help="of a batch: 2e13")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="a profile of the machine, if not the newest here"),
    ] = None,
    evaluations: Annotated[
        int, typer.Option(min=10, help="plans to try; more later go on from there")
    ] = 200,
    images: Annotated[
        int, typer.Option(min=10, help="that each plan is seen on; the best on 3 and 9 times more")
    ] = 50,
    confirm: Annotated[
        int, typer.Option(min=0, help="images of each set that confirms, of other seeds; 0: none")
    ] = 5000,
    front: Annotated[int, typer.Option(min=1, max=20, help="found plans to confirm, at most")] = 3,
    reference: Annotated[
        str, typer.Option(metavar="REF", help="of the FIDs that confirm")
    ] = "mini:test:2000",
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="of draws and images")] = 0,
    precision: options.Precision = None,
    device: options.Device = None,
    out: Annotated[
        Path | None, typer.Option(help="folder, which a second start goes on with")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only what the published plans cost, and how long")
    ] = False,
    plugin: options.Plugins = [],  # noqa: B006
    format: options.OutputFormat = Format.rich,
) -> None:
    """Finds plans that fit a budget of a model and keep most on the mini world; confirms them.

    After a stop, run the same command again: nothing is evaluated twice.
    """
    limits = {
        name: value
        for name, value in (
            ("latency_s", max_latency),
            ("memory_mib", bytes_of(max_memory) / MIB if max_memory else None),
            ("flops", max_flops),
        )
        if value is not None
    }
    import torch

    from bench.measure import devices, machine
    from bench.measure.validity import known_ceilings
    from bench.predict import ceilings
    from bench.quality import features, sampling
    from bench.quality.evaluate import Protocol
    from bench.quality.reference import Reference
    from bench.search import session
    from bench.search.confirm import Confirmation, printed, write_experiment
    from bench.search.race import RUNGS, SHARE, Race, library
    from bench.search.target import Target
    from bench.search.world import World
    from codevar.progress import Progress

    here, env = devices.default_device(), machine.environment()
    chosen = here if device in (None, "auto") else str(device)
    precision = precision or ("float32" if chosen == "cpu" else "fp16")
    if profile:
        top = ceilings.load(profile)
    else:
        top = known_ceilings(RESULTS / env["machine"] / "next", env)
    target = Target(model, limits, chosen, precision, top)
    target.check()
    network = features.extractor_of("mini", None, False, torch.device(here))
    protocol = Protocol(
        Reference("none"), network, features.default_cache(), wanted=["fid", "class_accuracy"]
    )
    words = re.sub(r"[^a-z0-9.]+", "-", f"{model} {' '.join(map(str, limits.values()))}")
    folder = out or RESULTS / env["machine"] / "search" / words
    progress = Progress(Console(stderr=True))
    # Held-out seeds are odd, those of the race even.
    last = Confirmation(
        target, folder, confirm, 2 * seed + 1, here, reference, protocol, env, progress
    )
    if confirm:
        last.check()
    if dry_run:
        printing.show(session.listing(target), format)
        return
    library()
    storage.prepare(folder)
    with sampling.hold(folder):
        published = session.begin(folder, target, seed, images)
        world = World(folder, images * SHARE ** (RUNGS - 1), 2 * seed, here, progress)
        race = Race(target, folder, world.evaluate, seed, evaluations, images, progress)
        best = {f"found {n}": plan for n, plan in enumerate(race.run()[:front], 1)}
        if not best:
            raise UsageError("no plan came through the race: give more --evaluations")
        found = last.run(best, published) if confirm else []
        for name, plan in best.items():
            write_experiment(folder / f"{name.replace(' ', '_')}.toml", target, name, plan)
    printing.show(printed(target, best, found), format)
    progress.say(f"search: {folder}")
