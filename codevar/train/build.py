"""The model and the data of a recipe, ready to train."""

from collections.abc import Callable
from typing import TypeVar

import psutil
import torch
from torch import nn

import codevar
from codevar import VAR, VQVAE, VARConfig, VQVAEConfig
from codevar.mini.classifier import Classifier
from codevar.mini.factors import FactorReader
from codevar.train import teacher_forcing
from codevar.train.data import Source, open_images, open_tokens
from codevar.train.errors import TrainError
from codevar.train.objectives import Classification, Objective, Prediction, Reading, Reconstruction
from codevar.train.parallel import Group
from codevar.train.recipes import (
    Recipe,
    TrainClassifier,
    TrainFactorReader,
    TrainRefiner,
    TrainVAR,
    TrainVQVAE,
    VARRecipe,
)

Model = TypeVar("Model", bound=nn.Module)


def build(recipe: Recipe, group: Group, say: Callable[[str], None]) -> tuple[Objective, Source]:
    """What is trained, on the group's device, and the source of its batches.

    say: is told of work that takes long, as making token maps.
    Raises TrainError or CheckpointError for what is missing or does not fit, before such work.
    """
    if isinstance(recipe, VARRecipe):
        return _prediction(recipe, group, say)
    recipe.check_files()
    source = open_images(recipe.data, group.device)
    say(source.told())
    torch.manual_seed(recipe.seed)
    if isinstance(recipe, TrainVQVAE):
        sizes = VQVAEConfig(**recipe.model.model_dump())
        vqvae = _new(lambda: VQVAE(sizes), recipe, group.device)
        vqvae.to(group.device).to(memory_format=torch.channels_last)
        if recipe.compile:
            vqvae.encoder.compile()
            vqvae.decoder.compile()
        return Reconstruction(vqvae, recipe), source
    if isinstance(recipe, TrainFactorReader):
        reader = FactorReader(recipe.data.side).to(group.device)
        if recipe.compile:
            reader.compile()
        return Reading(reader), source
    assert isinstance(recipe, TrainClassifier)
    classes, width = len(source.classes), recipe.width
    classifier = _new(lambda: Classifier(classes, width), recipe, group.device).to(group.device)
    if recipe.compile:
        classifier.compile()
    return Classification(classifier), source


def _prediction(
    recipe: VARRecipe, group: Group, say: Callable[[str], None]
) -> tuple[Objective, Source]:
    recipe.check_files()
    vqvae = codevar.load_vqvae(recipe.vqvae, device=group.device).requires_grad_(False)
    images = open_images(recipe.data, group.device)
    say(images.told())
    classes = len(images.classes)
    teacher = None
    if isinstance(recipe, TrainRefiner):
        teacher = _loaded(recipe.teacher, vqvae).to(group.device).requires_grad_(False)
        _check_fit("teacher", teacher, vqvae, classes)
    if isinstance(recipe, TrainVAR) and not recipe.init:
        var = _new_var(recipe, vqvae.config, classes, group.device)
    else:
        var = _loaded(recipe.init, vqvae)
        _check_fit("init", var, vqvae, classes)
    recipe.check(vqvae.config, var.config)
    source = open_tokens(recipe.data, vqvae, group, say)
    for model in (var.to(group.device), teacher):
        if model is not None:
            teacher_forcing.prepare(model, recipe.compile)
    return Prediction(var, vqvae.quantize, recipe, teacher), source


def _new_var(recipe: TrainVAR, vqvae: VQVAEConfig, classes: int, device: torch.device) -> VAR:
    assert recipe.model is not None
    config = VARConfig(
        **recipe.model.model_dump(),
        classes=classes,
        vocab=vqvae.vocab,
        channels=vqvae.channels,
        patch_sizes=vqvae.patch_sizes,
    )
    var = _new(lambda: VAR(config), recipe, device)
    return teacher_forcing.initialise(var, recipe.seed, recipe.class_scale)


def _new(make: Callable[[], Model], recipe: Recipe, device: torch.device) -> Model:
    """A new model.  Raises TrainError, before it is made, where the device cannot hold it with its
    gradients and Adam's two moments, and the images of a forward."""
    with torch.device("meta"):
        numbers = sum(p.numel() for p in make().parameters())
    images = recipe.micro_batch or recipe.batch_size
    needed = 4 * (4 * numbers + images * 3 * recipe.data.side**2)
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        there = psutil.virtual_memory().total
    if needed > there:
        raise TrainError(
            f"{numbers / 1e6:,.0f} M parameters and forwards of {images} images take "
            f"{needed / 2**30:,.0f} GiB at least, {device} has {there / 2**30:.0f}: choose a "
            "smaller model or micro_batch"
        )
    return make()


def _loaded(source: str, vqvae: VQVAE) -> VAR:
    """Published files tell their own pyramid; the others are asked for the VQVAE's."""
    pyramid = None if source in codevar.PUBLISHED else vqvae.config.patch_sizes
    return codevar.load_var(source, device="cpu", patch_sizes=pyramid)


def _check_fit(name: str, var: VAR, vqvae: VQVAE, classes: int) -> None:
    if var.config.classes != classes:
        raise TrainError(f"{name} has {var.config.classes} classes, the data {classes}")
    for what in ("patch_sizes", "vocab", "channels"):
        ours, theirs = getattr(var.config, what), getattr(vqvae.config, what)
        if ours != theirs:
            raise TrainError(f"{name} has {what} {ours}, the VQVAE {theirs}")
