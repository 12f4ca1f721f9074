"""What a run leaves in its folder, each file whole or not at all.

    checkpoint.safetensors   everything that the next step depends on
    metrics.jsonl            a line for every `log_every` steps
    model.safetensors        the finished model, as `codevar.load_var` and the like read it
    card.json                how it was made
    model_20.safetensors     the model after a fifth of the run, if the recipe keeps it
    model_latest.safetensors the model of the last checkpoint, if its weights are averaged

Randomness is a function of the step's number (`step.py`), so a checkpoint is weights, the
optimisers' state, the loss scale and that number.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer

from codevar.checkpoints import fingerprint, write_tensors
from codevar.files import atomic_write, first_line
from codevar.train.errors import TrainError
from codevar.train.parallel import distribute_like, gather_full

FILE = "checkpoint.safetensors"
MODEL = "model.safetensors"
CARD = "card.json"


def save(
    folder: Path,
    step: int,
    objective: nn.Module,
    optimizers: list[Optimizer],
    scaler: torch.amp.GradScaler,
    config: Mapping[str, Any],
    write: bool,
) -> None:
    """After `step` steps.  Every process calls it (shares are gathered), one of them writes.

    Raises TrainError if it cannot be written; the checkpoint before it is intact.
    """
    tensors = {}
    for name, tensor in _state(objective, optimizers).items():
        gathered = gather_full(tensor)
        if write:
            tensors[name] = gathered.detach().cpu().contiguous()
    if not write:
        return
    about = {"step": step, "scaler": scaler.state_dict(), "config": config}
    try:
        write_tensors(folder / FILE, tensors, {"about": json.dumps(about)})
    except (OSError, SafetensorError) as e:
        raise TrainError(
            f"{folder / FILE}: the checkpoint of step {step} cannot be written ({first_line(e)}); "
            f"{describe_last(folder)}"
        ) from None


def read_header(folder: Path) -> dict[str, Any] | None:
    """What a checkpoint says of itself: step, scaler, config.  None if there is none."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})["about"])
    except (OSError, SafetensorError, KeyError, ValueError) as e:
        raise TrainError(f"{path}: damaged or no checkpoint ({first_line(e)})") from None


def restore(folder: Path, objective: nn.Module, optimizers: list[Optimizer]) -> None:
    """Puts a checkpoint's tensors back.  Raises TrainError for one of another shape."""
    path = folder / FILE
    with safe_open(path, "pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, tensor in objective.state_dict().items():
            if name not in names:
                raise TrainError(f"{path}: tensor {name} is missing")
            loaded = file.get_tensor(name)
            if loaded.shape != tensor.shape:
                raise TrainError(
                    f"{path}: tensor {name} is {tuple(loaded.shape)}, "
                    f"expected {tuple(tensor.shape)}"
                )
            tensor.copy_(distribute_like(loaded, tensor))
        for i, optimizer in enumerate(optimizers):
            for parameter, name in _named(objective, optimizer):
                prefix = f"optimizer.{i}.{name}."
                for key in [n.removeprefix(prefix) for n in names if n.startswith(prefix)]:
                    loaded = file.get_tensor(prefix + key)
                    # AdamW counts its steps in a scalar, which stays whole and where it was.
                    scalar = loaded.ndim == 0 and parameter.ndim > 0
                    on_gpu = parameter.device.type == "cuda"
                    state = optimizer.state[parameter]
                    if scalar:
                        state[key] = loaded.to(parameter.device) if on_gpu else loaded
                    else:
                        # Strides as well: fused kernels on a GPU want the same ones.
                        state[key] = torch.empty_like(parameter).copy_(
                            distribute_like(loaded, parameter)
                        )


def restore_model(folder: Path, model: nn.Module) -> None:
    """Puts the weights of a finished model back, without its optimisers.  Raises TrainError."""
    path = folder / MODEL
    try:
        kept = load_file(path)
        model.load_state_dict({name: kept[name].float() for name in model.state_dict()})
    except (OSError, SafetensorError, KeyError, RuntimeError) as e:
        raise TrainError(f"{path}: not this recipe's model ({first_line(e)})") from None


def export(
    folder: Path, name: str, model: nn.Module, half: bool, card: dict[str, Any], write: bool
) -> None:
    """A model with its card in it, and beside it if it is the finished one; patch sizes go along
    as the published `lvl_1L`.  The card goes first: where the model is, its card is too."""
    dtype = torch.float16 if half else torch.float32
    tensors = {name: gather_full(tensor) for name, tensor in model.state_dict().items()}
    if not write:
        return
    tensors = {
        name: tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    scales = getattr(model, "scales", None)
    if scales is not None:
        tensors["lvl_1L"] = scales.level_of_token().to(torch.int16)
    card |= {
        "params": sum(p.numel() for p in model.parameters()),
        "bytes": sum(t.nbytes for t in tensors.values()),
        "sha256": fingerprint(tensors),
    }
    file = folder / f"{name}.safetensors"
    try:
        if file.name == MODEL:
            with atomic_write(folder / CARD) as part:
                part.write_text(json.dumps(card, indent=1) + "\n")
        write_tensors(file, tensors, {"card": json.dumps(card)})
    except (OSError, SafetensorError) as e:
        raise TrainError(
            f"{file}: the model cannot be written ({first_line(e)}); {describe_last(folder)}"
        ) from None


def read_card(folder: Path) -> dict[str, Any] | None:
    """The finished model's own card, which has its recipe and steps; None if there is no model,
    or none that can be read."""
    try:
        with safe_open(folder / MODEL, "pt") as file:
            found = json.loads((file.metadata() or {})["card"])
            return found if {"recipe", "steps"} <= found.keys() else None
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError):
        return None


def describe_last(folder: Path) -> str:
    """The last good checkpoint, in words."""
    try:
        last = read_header(folder)
    except TrainError as e:
        return str(e)
    if last is None:
        return "there is no checkpoint yet"
    return f"the checkpoint of step {last['step']} is intact; --resume goes on from it"


def _state(objective: nn.Module, optimizers: list[Optimizer]) -> dict[str, torch.Tensor]:
    state = dict(objective.state_dict())
    for i, optimizer in enumerate(optimizers):
        for parameter, name in _named(objective, optimizer):
            for key, value in optimizer.state[parameter].items():
                state[f"optimizer.{i}.{name}.{key}"] = value
    return state


def _named(objective: nn.Module, optimizer: Optimizer) -> list[tuple[nn.Parameter, str]]:
    """The optimiser's parameters with their names, in the order of the model."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [(p, name) for name, p in objective.named_parameters() if id(p) in held]
