"""A training of seconds: four scales, 30 tokens, 8 x 8 pixels, seeded models."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from codevar import VAR, VQVAE, Scales, VARConfig, VQVAEConfig
from codevar.checkpoints import seeded_tensor
from codevar.progress import Progress
from codevar.train import TrainError, loop, recipes

# Processes forked off one that has imported all and done nothing: off this one they could not
# train once it has run a backward of its own.
multiprocessing.set_forkserver_preload(["codevar.train.loop", "codevar.train.recipes", "pytest"])
CLEAN = multiprocessing.get_context("forkserver")
torch.set_num_threads(1)

PATCH_SIZES = (1, 2, 3, 4)
VQVAE_SIZES = {"width": 32, "multipliers": (1,), "res_blocks": 1, "pixels": 2}
CODES = {"vocab": 32, "channels": 8, "patch_sizes": PATCH_SIZES}


def files(folder: Path) -> None:
    """vqvae, large and small .safetensors of seeded weights."""
    sizes = {"width": 32, "heads": 2, "classes": 10, "shared_adaln": True} | CODES
    made = {
        "vqvae": (VQVAE, VQVAEConfig(**VQVAE_SIZES, **CODES)),
        "large": (VAR, VARConfig(depth=4, **sizes)),
        "small": (VAR, VARConfig(depth=2, **sizes)),
    }
    for name, (kind, config) in made.items():
        with torch.device("meta"):
            wanted = kind(config).state_dict()
        tensors = {
            n: torch.from_numpy(seeded_tensor(n, tuple(t.shape), 0)) for n, t in wanted.items()
        }
        tensors["lvl_1L"] = Scales(PATCH_SIZES).level_of_token()
        save_file(tensors, folder / f"{name}.safetensors")


def config(folder: Path, recipe: str, **changes) -> dict:
    """A config for one of the recipes; keys with a dot are those of a table."""
    values = {
        "recipe": recipe,
        "out": str(folder / recipe),
        "steps": 6,
        "batch_size": 8,
        "checkpoint_every": 2,
        "log_every": 1,
        "data": {"source": "mini", "side": 8, "images": 32, "tokens": str(folder / "tokens")},
        "optimizer": {"lr": 1e-3, "clip": 1.0},
    }
    if recipe == "vqvae":
        values |= {"model": VQVAE_SIZES | CODES, "unquantised": 2, "restart_every": 2}
    elif recipe == "factor-reader":
        values["data"] |= {"side": 16}
    elif recipe != "classifier":
        values |= {"vqvae": f"{folder}/vqvae.safetensors", "init": f"{folder}/large.safetensors"}
    values |= {
        "var": {"init": "", "model": {"depth": 2, "width": 32, "heads": 2}},
        "code-drafter": {"draft_steps": 2},
        "code-refiner": {
            "draft_steps": 2,
            "init": f"{folder}/small.safetensors",
            "teacher": f"{folder}/large.safetensors",
        },
        "variant": {"subnet_depth": 2, "bridge_scales": 2},
        "perturb": {"last_scales": 2},
    }.get(recipe, {})
    for key, value in changes.items():
        *tables, last = key.split(".")
        (values[tables[0]] if tables else values)[last] = value
    return values


def toml(values: dict) -> str:
    """The config as a file."""

    def of(value) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k} = {of(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(of, value)) + "]"
        return str(value).lower() if isinstance(value, bool) else repr(value)

    return "".join(f"{key} = {of(value)}\n" for key, value in values.items())


def train(values: dict, device: str = "cpu", resume: bool = False) -> Path:
    recipe = recipes.RECIPES[values["recipe"]].model_validate(values)
    quiet = Progress(quiet=True)
    return loop.train(recipe, Path(values["out"]), device=device, resume=resume, progress=quiet)


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors, bit for bit."""
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    """The block must raise TrainError, in one line in which all of the parts occur."""
    with pytest.raises(TrainError) as e:
        yield
    message = str(e.value)
    assert len(message.splitlines()) == 1
    assert all(part in message for part in parts), message
