"""Which cases a picture shows, what each row is called, and the decode of a row.

Shapes: C pictures of a row, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

import codevar
from bench.measure import devices
from bench.methods.loaded import Loaded
from bench.quality import ablations
from bench.quality.sampling import check, one_line
from bench.study import experiment
from bench.study.cases import Case, VARCase, is_method, planned
from bench.study.errors import UsageError
from bench.study.experiment import Experiment, Sweep
from bench.study.names import name_of
from codevar.mini.world import CLASSES

#: Keys of a case that do not change what it draws.
SPEED_ONLY = {"batch_size", "attention", "memory_limit_gib"}
BATCH = 16  # pictures decoded at a time


def cases_of(
    targets: Sequence[str], changes: Sequence[str], device: str | None, download: bool
) -> list[VARCase]:
    """The cases of methods by name (changed by `--set`) or of experiments, each picture once.

    Raises UsageError for what does not exist, cannot run on this machine, or lacks its weights.
    """
    chosen = devices.chosen_device(device)
    found: list[Case] = []
    if all(map(is_method, targets)):
        blocks = [{"method": target} for target in dict.fromkeys(targets)]
        asked = Experiment.model_validate({"title": "", "cases": blocks})
        for change in changes:
            experiment.apply(asked, change)
        found += Sweep("methods", asked, "methods", chosen, changes).cases
    else:
        for target in targets:
            if is_method(target):
                raise UsageError(f"{target} is a method: name methods or experiments, not both")
            found += experiment.load(target, changes, chosen).cases
        ablations.check(ablations.missing(planned(found, ", ".join(targets))), targets)
    drawn: dict[str, VARCase] = {}
    for case in planned(found, ", ".join(targets)):
        drawn.setdefault(case.model_dump_json(exclude=SPEED_ONLY), case)
    cases = list(drawn.values())
    devices.check_devices(cases)
    check(cases, download)
    return cases


def title_of(targets: Sequence[str]) -> str:
    """What a picture of one experiment is called: as the experiment; "" of anything else."""
    if len(targets) > 1 or is_method(targets[0]):
        return ""
    return experiment.load(targets[0]).experiment.title


def names_of(cases: Sequence[VARCase]) -> list[str]:
    """What each is called: its method, and what else sets it apart from its likes."""
    return [name_of(case, cases, without=SPEED_ONLY) for case in cases]


def classes_of(loaded: Loaded) -> int:
    """How many classes the models know."""
    return loaded.plan.models[0].config.classes


def class_name(label: int, classes: int) -> str:
    """A model of ten classes is taken for one of the mini world, whose classes have names."""
    return CLASSES[label] if classes == len(CLASSES) else f"class {label}"


def check_labels(labels: Sequence[int], loaded: Loaded, option: str) -> None:
    """Raises UsageError for a class that the models do not know."""
    classes = classes_of(loaded)
    if wrong := [label for label in labels if not 0 <= label < classes]:
        raise UsageError(
            f"{option} {wrong[0]}: the classes of {loaded.case.label} are 0..{classes - 1}"
        )


def decode(loaded: Loaded, labels: Sequence[int], seeds: Sequence[int]) -> torch.Tensor:
    """(C, 3, H, W) pictures in [0, 1], each of its own class and seed, whatever stands beside it.

    Raises UsageError for a preset that does not fit the models, or too little memory.
    """
    sampling = loaded.case.sampling_settings()
    made = []
    for first in range(0, len(labels), BATCH):
        part = slice(first, first + BATCH)
        with one_line(loaded.case):
            decoded = codevar.decode(
                loaded.plan, loaded.vqvae, labels[part], sampling, list(seeds[part]), loaded.how
            )
        made.append(decoded.images.cpu())
    return torch.cat(made)
