"""More than one process: `torchrun --nproc-per-node 8 bench.py train ...` and nothing else.

DDP keeps the whole model in each process; FSDP2 ("fsdp") keeps a share of it, for VAR-d30 and
larger.
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from codevar.train.errors import TrainError

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")  # what torchrun tells a process


@dataclass(frozen=True)
class Group:
    """The processes of a run; one alone is a group too."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def agree(self, number: int) -> int:
        """The first process's number, in all of them."""
        if self.size == 1:
            return number
        shared = torch.tensor(number, device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared)

    def mean(self, numbers: torch.Tensor) -> torch.Tensor:
        """The mean over the processes; they see the same."""
        if self.size > 1:
            dist.all_reduce(numbers)
            numbers /= self.size
        return numbers


def join(device: str) -> Group:
    """The group that torchrun started this process for, or the process alone.

    device: auto, cpu, cuda or cuda:N.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise TrainError(f"--device must be auto, cpu, cuda or cuda:N, not {device}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise TrainError(f"no CUDA device here; --device {device} needs one")
    alone = "RANK" not in os.environ
    if not alone:
        wrong = [n for n in NUMBERS if not os.environ.get(n, "").isdecimal()]
        wrong += [n for n in ("MASTER_ADDR",) if not os.environ.get(n)]
        if wrong:
            raise TrainError(f"RANK is set, but {wrong[0]} is not as torchrun sets it; unset RANK")
    if device == "cuda" and not alone:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise TrainError(f"no {device} here; CUDA devices: {torch.cuda.device_count()}")
    if alone:
        return Group(0, 1, torch.device(device))
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # While rank 0 computes token maps the others wait, for hours on ImageNet.
        backend = "nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=12))
    return Group(dist.get_rank(), dist.get_world_size(), torch.device(device))


def is_first() -> bool:
    """Whether this process is alone or the first of its group."""
    return not dist.is_initialized() or dist.get_rank() == 0


def leave() -> None:
    """Ends the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def distribute(objective: nn.Module, group: Group, how: str, leaves_out: bool) -> nn.Module:
    """The objective, shared among the processes.

    leaves_out: a step may give some parameters no gradient.
    """
    if group.size == 1:
        return objective
    if how == "fsdp":
        # By parts rather than by block: a block's conditioning runs apart from its forward.
        for block in getattr(objective.model, "blocks", ()):
            for part in block.children():
                fully_shard(part)
        fully_shard(objective)
        return objective
    return DistributedDataParallel(
        objective,
        device_ids=[group.device] if group.device.type == "cuda" else None,
        broadcast_buffers=False,
        find_unused_parameters=leaves_out,
        gradient_as_bucket_view=True,
    )


def accumulating(module: nn.Module, last: bool) -> AbstractContextManager:
    """Around the forward and backward of a micro-batch: gradients are exchanged after the last."""
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    return nullcontext()


def gather_full(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of which this process may hold a share, whole, in every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def distribute_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A whole tensor, shared and placed as another one is."""
    tensor = tensor.to(other.device)
    if isinstance(other, DTensor):
        return distribute_tensor(tensor, other.device_mesh, other.placements)
    return tensor
