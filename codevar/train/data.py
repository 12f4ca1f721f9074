"""Where batches come from: the mini world, a folder of images, token maps cached on disk.

A source gives the examples of a `Step` in their order; which those are follows from the step's
number and the seed, so that nothing of a source needs to be in a checkpoint.  They are `labels`
(B,) and `images` (B, 3, H, W) in [0, 1], or `tokens` (B, L); with images of the mini world their
factors, as `World.factors` has them.  Its length is an epoch's; its classes are names in the order
of labels.

Shapes: B images, H W pixels, L tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch.utils.data import DataLoader, Dataset

from codevar.checkpoints import fingerprint, write_tensors
from codevar.mini import world
from codevar.pictures import PictureError, find_classes, read_picture
from codevar.train.errors import TrainError
from codevar.train.parallel import Group
from codevar.train.recipes import DataConfig
from codevar.transfer import send
from codevar.vqvae import VQVAE

Batch = dict[str, torch.Tensor]


def open_images(config: DataConfig, device: torch.device) -> MiniImages | FolderImages:
    """The images of a config, to be given on a device."""
    return (MiniImages if config.source == "mini" else FolderImages)(config, device)


class MiniImages:
    """Images of the mini world, made on the device as they are needed; none comes twice."""

    def __init__(self, config: DataConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.classes = world.CLASSES
        self.world = world.World(config.side, config.seed)

    def __len__(self) -> int:
        return self.config.images

    def told(self) -> str:
        """What it holds."""
        return f"data: {len(self):,} images of the mini world's {len(self.classes)} classes"

    def stream(self, steps):
        """The batch of each step."""
        for step in steps:
            first, count = step.examples.start, len(step.rows)
            images, labels = self._made(first, count)
            factors = self.world.factors(self.config.split, first, count, self.device)
            yield step, {"images": images, "labels": labels, **factors}

    def all(self, batch_size: int) -> Iterator[Batch]:
        """One epoch in order, as the token cache wants it."""
        for start in range(0, len(self), batch_size):
            images, labels = self._made(start, min(batch_size, len(self) - start))
            yield {"images": images[:, None], "labels": labels}

    def _made(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.world.images(self.config.split, first, count, self.device)


class FolderImages:
    """Images of a folder with a folder for each class, as ImageNet comes.

    The shorter side is scaled to `side` and the middle is taken (VAR takes a random square of
    a picture an eighth larger; tokens that are kept need one that stays).
    """

    def __init__(self, config: DataConfig, device: torch.device) -> None:
        try:
            self.found = find_classes(Path(config.folder))
        except PictureError as e:
            raise TrainError(f"data: {e}") from None
        self.config, self.device = config, device
        self.classes = self.found.classes
        self.samples = list(zip(map(str, self.found.files), self.found.labels, strict=True))

    def __len__(self) -> int:
        return len(self.samples)

    def told(self) -> str:
        """What was found."""
        first = ", ".join(self.classes[:12]) + (", ..." if len(self.classes) > 12 else "")
        found = f"{len(self):,} images of {len(self.classes)} classes, in this order: {first}"
        return f"data: {self.config.folder}: {found}; {self.found.told()}".removesuffix("; ")

    def stream(self, steps):
        """The batch of each step."""
        steps, ahead = tee(steps)  # ahead of the batches by what the workers prefetch
        numbers = (
            [(step.seed, *_shuffled(step.seed, len(self), n)) for n in step.examples]
            for step in ahead
        )
        for batch in self._load(_Pictures(self.samples, self.config), numbers):
            yield next(steps), self._checked(batch)

    def all(self, batch_size: int) -> Iterator[Batch]:
        """One epoch in order; images (B, 2, 3, H, W), as they are and flipped, if both count.

        Raises TrainError naming the unreadable images after it has been through all.
        """
        plain = self.config.model_copy(update={"randaugment": False, "flip": False})
        starts = range(0, len(self), batch_size)
        rows = ([(0, 0, n) for n in range(s, min(s + batch_size, len(self)))] for s in starts)
        unreadable: list[str] = []
        for batch in self._load(_Pictures(self.samples, plain), rows):
            unreadable += batch["unreadable"]
            if not unreadable:
                images = self._checked(batch)["images"]
                both = [images, images.flip(3)] if self.config.flip else [images]
                yield {"images": torch.stack(both, dim=1), "labels": batch["labels"]}
        if unreadable:
            self._checked({"unreadable": unreadable})

    def _load(self, pictures: _Pictures, numbers) -> DataLoader:
        return DataLoader(
            pictures,
            batch_sampler=numbers,
            num_workers=self.config.workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
        )

    def _checked(self, batch: dict[str, Any]) -> Batch:
        if bad := [*dict.fromkeys(batch["unreadable"])]:  # a small folder comes several times
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            raise TrainError(
                f"data: {len(bad)} unreadable images: {', '.join(bad[:3])}{more}; remove them"
            )
        return {k: send(batch[k], self.device) for k in ("images", "labels")}


class _Pictures(Dataset):
    """Reads (seed, epoch, number); an unreadable image is what is said of it."""

    def __init__(self, samples: Sequence[tuple[str, int]], config: DataConfig) -> None:
        self.samples, self.config = samples, config

    def __getitem__(self, which: tuple[int, int, int]) -> tuple[Any, int]:
        from torchvision.transforms import v2

        seed, epoch, number = which
        path, label = self.samples[number]
        side = self.config.side
        steps: list[Any] = [v2.Resize(side, antialias=True), v2.CenterCrop(side)]
        if self.config.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.config.randaugment:
            steps.append(v2.RandAugment(num_ops=2, magnitude=9))
        try:
            picture = read_picture(Path(path))
        except PictureError as e:
            return str(e), label
        with torch.random.fork_rng(devices=[]):
            # torchvision draws from the global generator.
            torch.manual_seed(
                int(np.random.SeedSequence([seed, epoch, number]).generate_state(1)[0])
            )
            picture = v2.Compose(steps)(picture)
        return v2.functional.to_dtype(v2.functional.to_image(picture), scale=True), label


def _collate(rows: list[tuple[Any, int]]) -> dict[str, Any]:
    bad = [picture for picture, _ in rows if isinstance(picture, str)]
    labels = torch.tensor([label for _, label in rows])
    images = None if bad else torch.stack([picture for picture, _ in rows])
    return {"images": images, "labels": labels, "unreadable": bad}


def _shuffled(seed: int, size: int, example: int) -> tuple[int, int]:
    """(epoch, number) of the n-th example of a run: each epoch is a permutation."""
    epoch, place = divmod(example, size)
    return epoch, int(_permutation(seed, size, epoch)[place])


@lru_cache(maxsize=4)
def _permutation(seed: int, size: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


# Token maps


class Tokens:
    """Token maps of every image, computed once; with flips each image has two.

    In memory, on the device where they fit beside a model (a GPU, up to 4 GiB).
    """

    def __init__(
        self,
        tokens_NFL: torch.Tensor,
        labels_N: torch.Tensor,
        classes: Sequence[str],
        device: torch.device,
    ) -> None:
        self.classes, self.device = classes, device
        resident = device.type == "cuda" and tokens_NFL.nbytes <= 4 << 30
        self.tokens = tokens_NFL.to(device) if resident else tokens_NFL
        self.labels = labels_N.to(self.tokens.device)

    def __len__(self) -> int:
        return len(self.labels)

    def stream(self, steps):
        """The batch of each step."""
        for step in steps:
            which = [_shuffled(step.seed, len(self), n)[1] for n in step.examples]
            rows = send(torch.tensor(which), self.tokens.device)
            form = torch.from_numpy((step.uniform("flip") * self.tokens.shape[1]).astype(np.int64))
            tokens_BL = self.tokens[rows, send(form, self.tokens.device)]
            batch = {"tokens": tokens_BL.long(), "labels": self.labels[rows]}
            yield step, {k: send(v, self.device) for k, v in batch.items()}


class Encoded:
    """Token maps of images that do not come twice, computed as they come."""

    def __init__(self, images: MiniImages | FolderImages, vqvae: VQVAE) -> None:
        self.images, self.vqvae, self.classes = images, vqvae, images.classes

    def __len__(self) -> int:
        return len(self.images)

    def stream(self, steps):
        """The batch of each step."""
        for step, batch in self.images.stream(steps):
            yield step, {"tokens": self.vqvae.encode(batch["images"]), "labels": batch["labels"]}


Source = MiniImages | FolderImages | Tokens | Encoded


def open_tokens(
    config: DataConfig,
    vqvae: VQVAE,
    group: Group,
    say: Callable[[str], None],
) -> Tokens | Encoded:
    """The token maps of a data set under a VQVAE.

    The group's first process computes them where they are missing; the others wait for it.  The
    file is named after what it was made of, holds a checksum, and is written whole or not at all.
    """
    images = open_images(config, group.device)
    if config.randaugment or not config.tokens:
        return Encoded(images, vqvae)
    if vqvae.config.vocab > 1 << 15:
        raise TrainError(f"data: token maps are kept in 16 bits; {vqvae.config.vocab} codes")
    path = tokens_file(config, images, vqvae)
    if group.first and not path.exists():
        _write_missing(path, images, vqvae, say)
    group.wait()
    tokens_NFL, labels_N = _read_tokens(path)
    return Tokens(tokens_NFL, labels_N, images.classes, group.device)


def tokens_file(config: DataConfig, images: MiniImages | FolderImages, vqvae: VQVAE) -> Path:
    """Where the token maps are kept."""
    data = config.model_dump(include={"source", "side", "split", "seed", "flip"})
    files = [] if isinstance(images, MiniImages) else images.samples
    weights = fingerprint(vqvae.state_dict())
    parts = [data, len(images), files, weights, vqvae.config.patch_sizes]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return Path(config.tokens) / f"tokens-{name}.safetensors"


def _write_missing(
    path: Path, images: MiniImages | FolderImages, vqvae: VQVAE, say: Callable[[str], None]
) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # another run may be making the same ones
            if not path.exists():
                kept = _token_maps(images, vqvae, say)
                write_tensors(path, kept, {"sha256": fingerprint(kept)})
    except (OSError, SafetensorError) as e:
        raise TrainError(f"{path}: token maps cannot be kept: {e}") from None


def _token_maps(
    images: MiniImages | FolderImages, vqvae: VQVAE, say: Callable[[str], None]
) -> Batch:
    tokens, labels, done = [], [], 0
    for batch in images.all(256):
        B, flips, *rest = batch["images"].shape
        of_images = vqvae.encode(batch["images"].reshape(B * flips, *rest))
        tokens.append(of_images.view(B, flips, -1).to("cpu", torch.int16))
        labels.append(batch["labels"].cpu())
        done += B
        if done * 10 // len(images) > (done - B) * 10 // len(images):
            say(f"token maps: {done:,} of {len(images):,} images")
    return {"tokens": torch.cat(tokens), "labels": torch.cat(labels)}


def _read_tokens(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    damaged = TrainError(f"{path}: damaged token maps; delete the file and they are made again")
    try:
        with safe_open(path, "pt") as file:
            kept = {name: file.get_tensor(name) for name in ("tokens", "labels")}
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        raise damaged from None
    if fingerprint(kept) != expected:
        raise damaged
    return kept["tokens"], kept["labels"]
