"""A decode on tensors without data: every allocation, from shapes alone."""

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.study.signals import signals_wait
from codevar import noise
from codevar.outputs import OnScale
from codevar.packed import has_amx

aten = torch.ops.aten
CPU_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default
BLOCK = 16  # channels that oneDNN lays out together
PRIME = 1009  # divides no width, vocabulary or number of tokens


@dataclass(frozen=True)
class Footprint:
    """Bytes above the weights, by scale, as lines over the batch size.

    peaks: for each scale, (n, 2): the candidates for its peak, as (constant, per image).
    live: for each scale, (2,): what is left after it.
    """

    peaks: tuple[np.ndarray, ...]
    live: tuple[np.ndarray, ...]

    def peak_bytes(self, batch_size: int) -> tuple[int, ...]:
        """The most that is alive at once, by scale."""
        return tuple(int((lines @ [1, batch_size]).max()) for lines in self.peaks)

    def live_bytes(self, batch_size: int) -> tuple[int, ...]:
        """What is alive after each scale."""
        return tuple(int(line @ [1, batch_size]) for line in self.live)


def watched(
    networks: Sequence[nn.Module],
    decode: Callable[[OnScale], object],
    device: str,
    attention: str,
    images: int = PRIME,
) -> Footprint:
    """The footprint of a decode of so many images, whose networks are on the meta device."""
    ledger = Ledger(images)
    with signals_wait(), simulated(device, attention):
        for network in networks:
            ledger.leave_out(fill(network, device))
        with ledger:
            decode(ledger.on_scale)
    return Footprint(tuple(np.unique(p, axis=0) for p in ledger.peaks), tuple(ledger.left))


def fill(model: nn.Module, device: str) -> nn.Module:
    """The model with fake weights in the place of none."""
    weights = {
        name: torch.empty_like(tensor, device=device) for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(weights, assign=True)
    return model


@contextmanager
def simulated(device: str, attention: str) -> Iterator[None]:
    """Fake tensors; and of a GPU, which need not be there, its autocast, generator, attention."""
    patches: dict[str, Any] = {
        "codevar.packed.pieces": first_piece,
        "codevar.packed.rounded_off": lambda x, y, weight, bias: torch.empty_like(y),
        "codevar.decoding.slices": lambda length, step: [slice(0, step)],
        "codevar.noise.chunks": lambda x: [x.view(-1)[: noise.CHUNK]],
    }
    if device == "cuda":
        patches = {
            "torch.cuda.amp.common.amp_definitely_not_available": mock.Mock(return_value=False),
            "torch.cuda.is_bf16_supported": mock.Mock(return_value=True),
            "torch.Generator": mock.Mock(return_value=torch.Generator()),
            "torch.Tensor.pin_memory": lambda tensor: tensor,
            # Or a GPU that is there would get a context, and lose half a GiB to who only predicts.
            "torch._subclasses.fake_tensor.init_gpu_context": lambda device: None,
        }
        if attention != "math":
            patches["codevar.var.Attention.attend"] = staticmethod(attention_on_gpu)
            patches["torch.nn.functional.scaled_dot_product_attention"] = attention_on_gpu
        if not torch.backends.cuda.is_built():
            patches |= {f"torch.Tensor.{name}": made for name, made in WITHOUT_CUDA.items()}
    with ExitStack() as entered:
        entered.enter_context(torch.compiler.set_stance("force_eager"))
        for name, stand_in in patches.items():
            entered.enter_context(mock.patch(name, stand_in))
        entered.enter_context(fake_tensor.FakeTensorMode(allow_non_fake_inputs=True))
        yield


def first_piece(rows: int, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Of `codevar.packed.pieces`; the others hold the same, after it.  So do chunks of noise."""
    yield tuple(tensor[:rows] for tensor in tensors)


class Ledger(TorchDispatchMode):
    """Bytes of the storages that operators made and that are still alive."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images
        self.now = np.zeros(2, np.int64)  # constant, per image
        self.events: list[np.ndarray] = []
        self.peaks: list[np.ndarray] = []
        self.left: list[np.ndarray] = []
        self._known: dict[int, Any] = {}

    def leave_out(self, model: nn.Module) -> None:
        """Weights are not what a decode adds."""
        for weight in model.parameters():
            storage = weight.untyped_storage()
            self._known[id(storage)] = storage

    def on_scale(self, k: int) -> None:
        """Close scale k: its peaks, and what is left after it."""
        if k > 0:
            self.peaks.append(np.array(self.events))
            self.left.append(self.now.copy())
        self.events = [self.now.copy()]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # Fake tensors have no values: a check of the labels finds nothing wrong, a draw draws
        # nothing.
        if func is aten._local_scalar_dense.default:
            return 0
        if func in (aten.exponential_.default, aten.uniform_.default):
            return args[0]
        out = func(*args, **(kwargs or {}))
        if func is aten.native_group_norm.default and args[0].device.type == "cpu":
            out = (as_laid_out(out[0], args[0]), *out[1:])
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.born(tensor.untyped_storage())
        scratch = SCRATCH[func](out, *args) if func in SCRATCH else ()
        self.events.append(sum(map(self.split, scratch), self.now.copy()))
        return out

    def born(self, storage: torch.UntypedStorage) -> None:
        """A storage was allocated."""
        key, size = id(storage), self.split(storage.nbytes())
        if key not in self._known:
            self._known[key] = weakref.ref(storage, lambda _: self.died(key, size))
            self.now += size

    def died(self, key: int, size: np.ndarray) -> None:
        """A storage was freed."""
        del self._known[key]
        self.now -= size

    def split(self, nbytes: int) -> np.ndarray:
        """(constant, per image) of a storage."""
        grows = self.images == PRIME and nbytes % PRIME == 0
        return np.array([0, nbytes // PRIME] if grows else [nbytes, 0])


def repacked(_, query, key, value, *__) -> tuple[int, ...]:
    """Bytes of the keys and values that torch's attention lays out anew for AMX (torch 2.15: from
    64 queries and keys on)."""
    tokens = min(query.shape[2], key.shape[2])
    if query.dtype != torch.bfloat16 or not has_amx() or tokens < 64:
        return ()
    return key.nbytes, value.nbytes


def laid_out(out, x, weight, *settings) -> tuple[int, ...]:
    """Bytes that a CPU's convolution needs beyond its result.  Torch's own makes the patches that
    it multiplies.  oneDNN lays out weights in blocks of channels and, where neither input nor
    weights have their channels last, input and result too; else what has not is copied first.
    """
    if x.device.type != "cpu":
        return ()
    size, patch = x.element_size(), math.prod(weight.shape[2:])
    pixels, blocked = len(out) * math.prod(out.shape[2:]), -len(weight) // BLOCK * -BLOCK
    if "Mkldnn" not in str(torch._C._select_conv_backend(x, weight, *settings, None)):
        return (pixels * x.shape[1] * patch * size * (patch > 1),)
    weights, result = blocked * x.shape[1] * patch * size, pixels * blocked * size
    others = [tensor for tensor in (x, weight) if not is_channels_last(tensor)]
    if len(others) < 2:
        return weights, *(tensor.nbytes for tensor in others)
    return max((x.nbytes, weights, result - out.nbytes), (result,), key=sum)


def as_laid_out(out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A norm's result as a CPU lays it out, like x; a fake one is always channel by channel."""
    return out.contiguous(memory_format=torch.channels_last) if is_channels_last(x) else out


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether an image's numbers lie pixel by pixel, and not channel by channel."""
    last = torch.channels_last
    return tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous()


#: Bytes that an operator needs and gives back, by its result and its arguments.
SCRATCH: dict[Any, Callable[..., tuple[int, ...]]] = {
    CPU_ATTENTION: repacked,
    aten.convolution.default: laid_out,
}


def attention_on_gpu(query, key, value, attn_mask=None, scale=None, **_):
    """Torch's attention by the kernel a GPU takes: flash for half precision without
    a mask, else the memory-efficient one.  What is left out (causal or not) needs no memory."""
    if attn_mask is None and query.dtype != torch.float32:
        return aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[0]
    if attn_mask is not None:
        n, past = attn_mask.shape
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(
            attn_mask.logical_not(), -torch.inf
        )
        attn_mask = attn_mask.expand(*query.shape[:2], n, past)
    attend = aten._scaled_dot_product_efficient_attention
    return attend(query, key, value, attn_mask, compute_log_sumexp=False, scale=scale)[0]


def getitem(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    """Indexing by the operators that it stands for: where torch is built without CUDA, its own asks
    to change devices, which no operator on fake tensors does."""
    wanted = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in wanted:
        at = wanted.index(Ellipsis)
        given = sum(i is not None for i in wanted) - 1
        wanted[at : at + 1] = [slice(None)] * (tensor.dim() - given)
    dim = 0
    for i in wanted:
        if isinstance(i, int):
            tensor = aten.select(tensor, dim, i)
            continue
        if i is None:
            tensor = aten.unsqueeze(tensor, dim)
        elif isinstance(i, slice):
            tensor = aten.slice(tensor, dim, *i.indices(tensor.shape[dim]))
        else:
            tensor = aten.index_select(tensor, dim, i)
        dim += 1
    return tensor


#: The same for what else asks to.
WITHOUT_CUDA: dict[str, Any] = {
    "__getitem__": getitem,
    "__setitem__": lambda tensor, index, value: aten.copy_(getitem(tensor, index), value),
    "contiguous": lambda tensor, **options: aten.contiguous(tensor, **options),
    "copy_": lambda tensor, other, non_blocking=False: aten.copy_(tensor, other),
}
