"""Features of images: the networks that make them, and a cache of what they made.

Two networks, both as torch-fidelity has feature extractors: its own `inception-v3-compat`, the
TensorFlow Inception of 2015 that published FIDs rest on, and the mini world's classifier,
registered there as `codevar-mini`; and the mini world's reader of factors, which has metrics of
its own.  torch-fidelity would download weights on its own and unpickle
them with code in them; here they are a file that the user names or fetches, and tensors only.

Shapes: B images of a batch, N of a set, H W pixels, D features of a layer, C classes.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

import codevar.mini
from bench.quality.images import ImageSet, Pixels, digest_of
from bench.study.errors import UsageError
from codevar import files
from codevar.checkpoints import write_tensors
from codevar.files import CheckpointError, first_line
from codevar.mini.classifier import FEATURES, load_classifier
from codevar.mini.factors import OUTPUTS, READER, load_factor_reader

PIXELS = "pixels"  # beside an image's features: `hashes_of` it
VERSION = 1  # of what this file computes; features cached by another are not read
MINI_WEIGHTS = Path(codevar.mini.__file__).parent / "weights" / "classifier.safetensors"
FACTORS_WEIGHTS = MINI_WEIGHTS.with_name("factors.safetensors")
INCEPTION_FILE = URL_INCEPTION_V3.rpartition("/")[2]
INCEPTION_SHA256 = INCEPTION_FILE.removesuffix(".pth").rpartition("-")[2]  # its first digits

#: `pool` for FID, precision and recall; `logits` for IS and classes; `spatial`, which only
#: Inception has, for sFID.
Layers = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Extractor:
    """name: the network's.  sha256: of its weights' file.  published: whether those are the ones
    that others measure with.  widths: D of each layer.  layers: (B, 3, H, W) uint8 -> (B, D)
    float32 of each.  layer_sha256: of the weights of each layer, where each has its own.
    """

    name: str
    sha256: str
    published: bool
    widths: dict[str, int]
    layers: Callable[[torch.Tensor], Layers]
    device: torch.device
    layer_sha256: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Tells features of different networks apart."""
        return f"{self.name}-{self.sha256[:16]}-v{VERSION}"


def default_for(reference: str | None) -> str:
    """The network that samples are held against this REF with; without one none is needed."""
    if reference is None:
        return "none"
    return "mini" if reference.startswith("mini:") else "inception"


def extractor_of(
    which: str, weights: Path | None, download: bool, device: torch.device
) -> Extractor:
    """which: "inception", "clip", "dinov2", "mini", "factors", "none", or a file of a classifier
    like mini's.

    Raises UsageError for weights that are missing, damaged or of another network.
    """
    if which == "none":
        return Extractor("none", "", True, {}, lambda images: {}, device)
    if which == "inception":
        return inception(weights or inception_weights(download), device)
    if which in ("clip", "dinov2"):
        from bench.quality import vision_features

        if weights is None:
            raise UsageError(f"--extractor {which}: name a file of its tensors with --weights")
        return getattr(vision_features, which)(weights, device)
    if which == "factors":
        return factors(weights or FACTORS_WEIGHTS, device)
    if which == "mini":
        return mini(weights or MINI_WEIGHTS, device)
    if weights is not None:
        raise UsageError(f"--extractor {which}: with --weights it must be a network's name")
    return mini(Path(which), device)


# Inception


def inception(weights: Path, device: torch.device) -> Extractor:
    """TensorFlow's Inception of 2015, as OpenAI's evaluator taps it.

    pool: `pool_3`, 2048.  logits: 1008, of the softmax layer without its biases, which is what
    the evaluator's Inception Score is of.  spatial: the first 7 channels of `mixed_6/conv`, 17 x
    17 x 7 = 2023 in TensorFlow's order.  Images of other sizes than 299 x 299 are resized as
    TensorFlow 1 did, inside the network.
    """
    tensors = read_tensors(weights)
    file = io.BytesIO()
    torch.save(tensors, file)  # torch-fidelity reads a file, and not tensors only
    file.seek(0)
    try:
        network: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=file,
        )
    except (RuntimeError, TypeError) as e:
        raise UsageError(f"{weights}: not Inception's weights ({first_line(e)})") from None
    network.to(device)
    tapped: list[torch.Tensor] = []
    spatial_layer(network).register_forward_hook(lambda _, __, out_BChw: tapped.append(out_BChw))

    def layers(images_B3HW: torch.Tensor) -> Layers:
        tapped.clear()
        pool_BD, logits_BC = network(images_B3HW)
        spatial_Bhwc = tapped[0][:, :7].permute(0, 2, 3, 1)
        return {"pool": pool_BD, "logits": logits_BC, "spatial": spatial_Bhwc.flatten(1)}

    sha256 = file_sha256(weights)
    published = sha256.startswith(INCEPTION_SHA256)
    widths = {"pool": 2048, "logits": 1008, "spatial": 17 * 17 * 7}
    return Extractor("inception-v3-compat", sha256, published, widths, layers, device)


def spatial_layer(network: nn.Module) -> nn.Module:
    """The layer that TensorFlow's graph calls `mixed_6/conv`.

    The graph's blocks are mixed, mixed_1, ... mixed_10, torch's Mixed_5b, 5c, ... 7c, eleven in
    the same order, so mixed_6 is Mixed_6d; a block's `conv` is its 1 x 1 branch, and the
    operation of that plain name comes after `conv/Conv2D` and `conv/batchnorm`: the ReLU.  So
    says torch-fidelity's own conversion of the weights, too ("mixed_6/conv/conv2d_params":
    "Mixed_6d.branch1x1.conv", by shapes).
    """
    return network.get_submodule("Mixed_6d.branch1x1")


def inception_weights(download: bool) -> Path:
    """The published file in torch's cache.  Raises UsageError if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if path.is_file():
        return path
    if not download:
        raise UsageError(
            f"Inception's weights ({INCEPTION_FILE}) are not cached here: --download fetches "
            "them from torch-fidelity's releases (91 MB), --weights names a file"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), INCEPTION_SHA256)
    except (OSError, RuntimeError) as e:  # URLError is an OSError; a wrong hash a RuntimeError
        raise UsageError(f"{URL_INCEPTION_V3}: cannot be fetched ({first_line(e)})") from None
    return path


# The mini world's classifier


def mini(weights: Path, device: torch.device) -> Extractor:
    """pool: 128, of the classifier's last layer.  logits: of its classes."""
    if not weights.is_file():
        raise UsageError(f"{weights}: no such classifier; --weights names a .safetensors of one")
    try:
        network = load_classifier(weights, device)
    except (OSError, SafetensorError, RuntimeError, KeyError) as e:
        raise UsageError(f"{weights}: no classifier's weights ({first_line(e)})") from None

    def layers(images_B3HW: torch.Tensor) -> Layers:
        features_BD = network.features(images_B3HW.float() / 255)
        return {"pool": features_BD, "logits": network.head(features_BD)}

    widths = {"pool": FEATURES, "logits": network.head.out_features}
    sha256, shipped = file_sha256(weights), weights == MINI_WEIGHTS
    return Extractor("codevar-mini", sha256, shipped, widths, layers, device)


def factors(weights: Path, device: torch.device) -> Extractor:
    """factors: all that a reader of the mini world's images says of one."""
    try:
        network = load_factor_reader(weights, device)
    except (OSError, SafetensorError, RuntimeError, KeyError) as e:
        raise UsageError(f"{weights}: no factor reader's weights ({first_line(e)})") from None

    def layers(images_B3HW: torch.Tensor) -> Layers:
        height, width = images_B3HW.shape[2:]
        if height != network.side or width != network.side:
            raise UsageError(
                f"--extractor factors: reads images of {network.side} pixels a side, these are "
                f"{width} x {height}; --weights names a reader of another size"
            )
        return {"factors": network(images_B3HW.float() / 255)}

    shipped = weights == FACTORS_WEIGHTS
    return Extractor(READER, file_sha256(weights), shipped, {"factors": OUTPUTS}, layers, device)


# Extraction


@dataclass(frozen=True)
class Features:
    """layers: (N, D) float32 on the CPU.  digest: of the images' bytes.  distinct: how many images
    differ in a pixel from all before them."""

    layers: Layers
    digest: str
    distinct: int


def default_cache() -> Path:
    """In the user's cache folder.  Raises UsageError where there is no home for one."""
    try:
        found = platformdirs.user_cache_path("codevar") / "features"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in some containers
        found = Path()
    if not found.is_absolute():
        raise UsageError("no home folder to keep features in: name a folder with --cache")
    return found


def extract(
    images: ImageSet,
    extractor: Extractor,
    wanted: Sequence[str],
    cache: Path,
    batch_size: int,
    tell: Callable[[int], None] = lambda done: None,
) -> Features:
    """Features of a set; chunks that the cache has are not computed again.

    wanted: layers.  tell: how many images are done.
    Raises UsageError for images that cannot be read and for features that are not finite.
    """
    kept: list[Layers] = []
    digests: list[str] = []
    done = 0
    kept_too = [*wanted, PIXELS] if wanted else []
    for chunk in images.chunks():
        file = cache / extractor.key / f"{chunk.digest}.safetensors"
        found = _load(file, kept_too)
        if found is None:
            pixels = chunk.pixels()
            every = _computed(pixels, extractor, batch_size)
            for name, features_nD in every.items():
                if not features_nD.isfinite().all():
                    row = int((~features_nD.isfinite()).any(1).nonzero()[0])
                    raise UsageError(
                        f"{images.name}: the {name} features of image {done + row} are not finite "
                        f"(by {extractor.name}); nothing can be said of this set"
                    )
            every[PIXELS] = hashes_of(pixels)
            _save(file, every)
            found = {name: every[name] for name in kept_too}
        kept.append(found)
        digests.append(chunk.digest)
        done += chunk.count
        tell(done)
    layers = {name: torch.cat([part.pop(name) for part in kept]) for name in kept_too}
    distinct = len(layers.pop(PIXELS).unique()) if wanted else images.count
    return Features(layers, digest_of(digests), distinct)


def hashes_of(pixels_NHW3: Pixels) -> torch.Tensor:
    """(N,) int64, alike for images of the same pixels alone."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pixels_NHW3]
    return torch.from_numpy(np.frombuffer(b"".join(digests), "<i8").astype(np.int64))


@torch.no_grad()
def _computed(pixels_NHW3: Pixels, extractor: Extractor, batch_size: int) -> Layers:
    images_N3HW = torch.from_numpy(pixels_NHW3).permute(0, 3, 1, 2)
    # TF32, which convolutions of float32 use by default, would show in the third digit of a FID.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        found = [
            {name: out.float().cpu() for name, out in extractor.layers(batch).items()}
            for batch in (
                part.contiguous().to(extractor.device) for part in images_N3HW.split(batch_size)
            )
        ]
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def _load(file: Path, wanted: Sequence[str]) -> Layers | None:
    """Cached features; None where there are none that can be read."""
    try:
        with safe_open(file, "pt") as there:
            return {name: there.get_tensor(name) for name in wanted}
    except (OSError, SafetensorError):
        return None


def _save(file: Path, layers: Layers) -> None:
    try:
        write_tensors(file, {name: tensor.contiguous() for name, tensor in layers.items()})
    except (OSError, SafetensorError) as e:
        raise UsageError(
            f"{file.parent}: features cannot be kept ({first_line(e)}); choose another --cache"
        ) from None


# Files


def file_sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A state dict of plain tensors."""
    try:
        tensors = files.read_tensors(path)
        files.check_tensors(tensors, str(path))
    except CheckpointError as e:
        raise UsageError(str(e)) from None
    return tensors
