"""A case's models by their shapes alone: on the meta device, without weights."""

import functools
from collections.abc import Iterable
from dataclasses import replace

import torch

from bench.study.cases import Case, VARCase, model_config
from bench.study.errors import NoPredictionError, UsageError
from codevar import VAR, VARConfig, VQVAEConfig, files, quantise_weights
from codevar.config import patch_sizes_of
from codevar.files import SHIPPED, CheckpointError
from codevar.plan import Plan
from codevar.stacks import Stack, stack


def meta_plan(case: Case) -> Plan:
    """The case's plan on models without weights, for what shapes alone tell; ready for its stack
    as they are in a decode.  Raises UsageError for a plan that cannot be, or that nobody has."""
    if not isinstance(case, VARCase):
        raise NoPredictionError(f"{case.label} has no plan here")
    how = stack(case.stack, case.precision, case.attention)
    models = _meta_models(configs(case), how, case.device.partition(":")[0], case.weight_bits)
    try:
        return case.plan(*models)
    except ValueError as e:  # what only the models' sizes tell
        raise UsageError(f"{case.label}: {e}") from None


def configs(case: VARCase) -> tuple[VARConfig, ...]:
    """Sizes of the case's models.  Raises UsageError where a file of theirs is not there, or is of
    another depth than the case says."""
    if not case.in_mini_world and not case.own_files():
        return tuple(map(VARConfig.published, case.depths))
    try:
        found = tuple(map(model_config, case.model_names()))
    except CheckpointError as e:
        told = f"; there are {', '.join(SHIPPED)}" if case.in_mini_world else ""
        raise UsageError(f"{case.label}, {case.weights}: {e}{told}") from None
    check_depths(case, found)
    return found


def check_depths(case: VARCase, sizes: Iterable[VARConfig]) -> None:
    """Raises UsageError for weights of another depth than the case is called by."""
    for config, depth in zip(sizes, case.depths, strict=True):
        if config.depth != depth:
            raise UsageError(f"depth must be {config.depth}, not {depth}: {case.weights}")


@functools.cache
def vqvae_config(case: VARCase) -> VQVAEConfig:
    """Sizes of the case's VQVAE, at the pyramid of its models."""
    if case.in_mini_world:
        shipped = files.vqvae_config(case.vqvae_name)
        return replace(shipped, patch_sizes=configs(case)[0].patch_sizes)
    return VQVAEConfig(patch_sizes=patch_sizes_of(case.depth))


@functools.cache
def _meta_models(
    sizes: tuple[VARConfig, ...], how: Stack, device: str, weight_bits: int | str
) -> tuple[VAR, ...]:
    """Remembered, since models take a while to lay out; plans only read them."""
    with torch.device("meta"):
        models = [VAR(config).to(how.weights) for config in sizes]
        models = [quantise_weights(model, weight_bits) for model in models]
    return tuple(how.prepare(model, device) for model in models)
