"""Devices and what each can run: what cannot is refused before anything runs."""

from collections.abc import Sequence
from pathlib import Path

import torch

from bench.methods import sources
from bench.methods.adapter import Adapter
from bench.study.cases import Case, VARCase
from bench.study.errors import UsageError


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def chosen_device(asked: str | None) -> str:
    """The device that an option names; `auto`, or none, is a GPU where there is one.

    Raises UsageError for one that is not there.
    """
    device = default_device() if asked in (None, "auto") else str(asked)
    check_device(device)
    return device


def check_devices(cases: Sequence[Case]) -> None:
    """Refuses what this machine cannot run, before anything runs."""
    for case in cases:
        check_device(case.device)
        if case.precision == "bf16" and case.device != "cpu":
            check_bf16(case.device)
    check_cpu_cases(cases)


def check_cpu_cases(cases: Sequence[Case]) -> None:
    """Refuses what no CPU can run."""
    for case in cases:
        if case.device != "cpu":
            continue
        if case.precision == "fp16":
            raise UsageError("precision fp16 needs a GPU; --set precision=float32, or bf16")
        if case.attention in ("efficient", "cudnn"):
            raise UsageError(f"attention {case.attention} needs a GPU; auto, math and flash do not")


def check_weights(cases: Sequence[Case], download: bool = False) -> None:
    """Refuses weights that are neither known by name nor a folder, a folder that lacks a model, and
    published ones that are not here, unless they are to be downloaded."""
    for case in (case for case in cases if not isinstance(case, Adapter)):
        named = case.in_mini_world or case.weights in ("seeded", "published", "finetuned")
        own = case.own_files() if isinstance(case, VARCase) and not case.in_mini_world else ()
        missing = next((file for file in own if not Path(file).is_file()), None)
        if missing or not (named or own or Path(case.weights).is_dir()):
            raise UsageError(
                f"weights {missing or case.weights}: no such {'file' if missing else 'folder'}; "
                "write seeded, published, finetuned, mini, mini-finetuned, a file of weights or a "
                "training's folder (DRAFTER+REFINER for two models), or a folder of models"
            )
        if not (named or own) and (lacking := sources.lacking(case)):
            raise UsageError(
                f"weights {case.weights}: the folder lacks {', '.join(lacking)} of {case.label} "
                f"({', '.join(sources.ENDINGS)})"
            )
    names = dict.fromkeys(name for case in cases for name in sources.absent(case))
    if names and not download:
        raise UsageError(
            f"weights {', '.join(names)}: not downloaded yet; --download fetches them, "
            "--set weights=seeded is right for speed and memory"
        )


def check_device(device: str) -> None:
    """Refuses a device that is not there."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: no CUDA device here; use --device cpu")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {device}: there are {torch.cuda.device_count()}")


def check_bf16(device: str) -> None:
    """Refuses a GPU that has no bf16 of its own."""
    if not has_bf16(device):
        name = torch.cuda.get_device_properties(device).name
        raise UsageError(f"precision bf16: {name} has none; --set precision=fp16")


def has_bf16(device: str) -> bool:
    """A CPU always, if slowly; a GPU from Ampere on, compute capability 8.0."""
    return device == "cpu" or torch.cuda.get_device_properties(device).major >= 8
