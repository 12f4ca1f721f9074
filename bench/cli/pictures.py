"""`bench.py grid`, `edit`, `inpaint` and `iqa`: parse, call, print."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bench.cli import options
from bench.cli.targets import check_paths, check_targets, record_folder
from bench.study import printing, storage
from bench.study.errors import UsageError
from bench.study.folders import RESULTS
from bench.study.printing import Format
from codevar.progress import Progress
from codevar.spans import read_spans

if TYPE_CHECKING:
    from bench.study.cases import VARCase


def grid(
    targets: options.Drawn,
    out: options.PictureFile,
    classes: Annotated[str, typer.Option(help="0,3,7 or 0-9")] = "0-7",
    seeds: Annotated[str, typer.Option(help="of each class, one after another")] = "0",
    pair: Annotated[
        bool, typer.Option("--pair", help="a seed for each class: the first with the first, ...")
    ] = False,
    changes: options.Changes = [],  # noqa: B006
    run: Annotated[
        Path | None, typer.Option(help="the run whose speed and memory stand in the margin")
    ] = None,
    device: options.Device = None,
    download: options.Download = False,
) -> None:
    """The same classes and seeds by each method, a row each, as the papers' picture figures."""
    check_targets(targets, changes)
    from bench.figures import canvas, picture_rows
    from bench.quality import chosen, grid_rows, sampling
    from bench.tables import margin

    labels, drawn = numbers("--classes", classes), numbers("--seeds", seeds)
    if pair and len(labels) != len(drawn):
        raise UsageError(f"--pair: {len(labels)} classes but {len(drawn)} seeds; name as many")
    columns = [*zip(labels, drawn, strict=True)] if pair else [*itertools.product(labels, drawn)]
    if len(columns) > picture_rows.MOST:
        raise UsageError(f"--classes x --seeds: {picture_rows.MOST} pictures in a row at most")
    files = picture_rows.files_of(out)
    cases = chosen.cases_of(targets, changes, device, download)
    known = margin.facts_of(cases, RESULTS, run)
    rows: list[grid_rows.Row] = []
    heads: list[grid_rows.Head] = []
    with Progress(Console(stderr=True)) as progress:
        for case, name in zip(cases, chosen.names_of(cases), strict=True):
            progress.count(name, 0, 1)
            loaded = sampling.load(case, download)
            chosen.check_labels(labels, loaded, "--classes")
            images = chosen.decode(loaded, [c for c, _ in columns], [s for _, s in columns])
            rows.append(grid_rows.Row(name, images, known.lines[case.key]))
            count = chosen.classes_of(loaded)
            width = len(columns) // len(labels)
            heads = [grid_rows.Head(chosen.class_name(c, count), width) for c in labels]
            progress.count(name, 1, 1)
    shown = f"seed {drawn[0]}" if len(drawn) == 1 else f"seeds {', '.join(map(str, drawn))}"
    each = "Each class with its own of" if pair else "Each class with"
    footer = " ".join([f"{each} {shown}, {sampled_how(cases)}", *known.sources])
    title = chosen.title_of(targets) or ("Same classes and seeds" if rows[1:] else rows[0].label)
    canvas.save(picture_rows.draw(rows, heads, title, footer), files)
    print(*files, sep="\n")


def edit(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="a picture, or mini:7: the mini world's 7th test")
    ],
    plan: Annotated[list[str], typer.Option(help="a method, as often as wanted: a row each")],
    out: options.PictureFile,
    label: Annotated[int | None, typer.Option("--class", help="of the new content")] = None,
    own_class: Annotated[
        bool, typer.Option("--own-class", help="inpaint: --class is the picture's own")
    ] = False,
    box: options.Box = None,
    mask: options.Mask = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    changes: options.Changes = [],  # noqa: B006
    device: options.Device = None,
    download: options.Download = False,
) -> None:
    """Inpainting and editing without training: before, mask and after, side by side."""
    check_targets(plan, changes)
    from bench.figures import canvas, picture_rows
    from bench.quality import chosen, edits, grid_rows, sampling

    files = picture_rows.files_of(out)
    cases = chosen.cases_of(plan, changes, device, download)
    asked = edits.Asked(image, label, own_class, box, mask, seed)
    opened = edits.opened(asked)
    rows: list[grid_rows.Row] = []
    heads: list[grid_rows.Head] = []
    with Progress(Console(stderr=True)) as progress:
        for case, name in zip(cases, chosen.names_of(cases), strict=True):
            progress.count(name, 0, 1)
            images, heads = edits.done(asked, opened, sampling.load(case, download))
            rows.append(grid_rows.Row(name, images))
            progress.count(name, 1, 1)
    side = rows[0].images.shape[-1]
    footer = f"{edits.told(opened, side)} Seed {seed}, {sampled_how(cases)}"
    title = "Inpainting and editing, zero-shot"
    canvas.save(picture_rows.draw(rows, heads, title, footer), files)
    print(*files, sep="\n")


def inpaint(
    targets: options.Drawn,
    images: Annotated[
        str, typer.Option(metavar="SOURCE", help="mini:test, or a folder with one for each class")
    ] = "mini:test",
    count: Annotated[int, typer.Option(min=1, help="pictures")] = 500,
    box: options.Box = None,
    mask: options.Mask = None,
    another_class: Annotated[
        bool, typer.Option("--another-class", help="edit: the class after each picture's own")
    ] = False,
    classifier: Annotated[
        Path | None, typer.Option(help="of `train classifier`; the mini world's own by default")
    ] = None,
    batch_size: options.BatchSize = 16,
    changes: options.Changes = [],  # noqa: B006
    device: options.Device = None,
    download: options.Download = False,
    out: options.RecordFolder = None,
    format: options.OutputFormat = Format.rich,
) -> None:
    """How well a method inpaints held-out pictures: distance outside the mask, class inside.

    The mask is the middle half of each side, unless --box or --mask says otherwise (in pixels
    of the models' square).
    """
    check_targets(targets, changes)
    from bench.measure import machine
    from bench.quality import chosen, crops, inpainting, sampling

    cases = chosen.cases_of(targets, changes, device, download)
    source = inpainting.held_out(images)
    if box and mask:
        raise UsageError("--box and --mask: give one of them")
    folder = record_folder(out, "inpainting")
    env, lines = machine.environment(), []
    with Progress(Console(stderr=True)) as progress:
        for case, name in zip(cases, chosen.names_of(cases), strict=True):
            progress.count(name, 0, count)
            loaded = sampling.load(case, download)
            if chosen.classes_of(loaded) != source.classes:
                raise UsageError(
                    f"{source.name} has {source.classes} classes, {case.label} "
                    f"{chosen.classes_of(loaded)}"
                )
            side = inpainting.side_of(loaded.vqvae)
            middle = (side // 4, side // 4, side - side // 4, side - side // 4)
            if mask:
                area = crops.file_mask(mask, side, side)
            else:
                area = crops.box_mask(box or middle, side, side)
            judge = inpainting.judge_of(classifier, source, case.device)
            figures = inpainting.measure(
                loaded,
                source,
                count,
                area,
                judge,
                another_class,
                batch_size,
                lambda done, name=name: progress.count(name, done, count),  # type: ignore[misc]
            )
            line = inpainting.record_of(loaded, source, figures, env)
            storage.append_record(folder / inpainting.FILE, line)
            lines.append({**line, "name": name})
    printing.show(inpainting.printed(lines), format)
    print(f"records: {folder / inpainting.FILE}", file=sys.stderr)


def iqa(
    samples: Annotated[
        list[Path], typer.Argument(help="sample sets, folders of pictures, or .npz of images")
    ],
    metrics: Annotated[
        str | None, typer.Option(help="only these: niqe,musiq,clipiqa; default: what there is")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="folder with MUSIQ's and CLIP's files; pyiqa's cache")
    ] = None,
    download: options.Download = False,
    batch_size: options.BatchSize = 16,
    device: options.Device = None,
    out: options.RecordFolder = None,
    format: options.OutputFormat = Format.rich,
) -> None:
    """MUSIQ, CLIPIQA and NIQE of pictures, by pyiqa (CoDe, Table 5)."""
    check_paths(*samples)
    import torch

    from bench.measure import devices
    from bench.quality import features
    from bench.quality import iqa as scoring
    from bench.quality.evaluate import Protocol, evaluate
    from bench.quality.images import open_images
    from bench.quality.reference import Reference
    from bench.study import evaluations

    chosen = devices.chosen_device(device)
    asked = [name.strip() for name in metrics.split(",")] if metrics else None
    sets = [open_images(path) for path in samples]
    folder = record_folder(out, "evaluations")
    lines: list[evaluations.Evaluation] = []
    notes: dict[str, None] = {}
    with Progress(Console(stderr=True)) as progress:
        for pictures in sets:
            network, without = scoring.extractor_of(
                asked, pictures.size, weights, download, torch.device(chosen)
            )
            protocol = Protocol(
                Reference("none"),
                network,
                features.default_cache(),
                batch_size,
                list(network.widths),
                tell=progress.count,
            )
            line, _ = evaluate(pictures, protocol)
            notes |= dict.fromkeys(without)
            evaluations.append(folder, line)
            lines.append(line)
    printing.show(scoring.printed(lines, list(notes)), format)
    print(f"records: {folder / evaluations.FILE}", file=sys.stderr)


# What they share


def numbers(option: str, text: str) -> list[int]:
    """The numbers of "0,3,7" or "0-9", each once.  Raises UsageError."""
    try:
        return list(dict.fromkeys(read_spans(text.replace(" ", ""))))
    except ValueError as e:
        raise UsageError(f"{option} {e}") from None


def sampled_how(cases: Sequence[VARCase]) -> str:
    """The presets of the cases, and what a reader must know of random weights."""
    said = f"preset {'/'.join(dict.fromkeys(case.sampling for case in cases))}."
    if any(case.weights == "seeded" for case in cases):
        said += " Weights are random, from a seed: the pictures show nothing of a method."
    return said
