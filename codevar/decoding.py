"""The loop that decodes any plan.

Reading is per model, caching is per layer.  To predict scale k a model runs one pass over all
scales it has not read yet, up to k, with the layers that the plan gives for k.  So a refiner
reads the draft in the pass that predicts its first scale, and a base model whose scale was
predicted by another reads that scale when it comes back.  A layer that is left out of a pass is
the identity, caches nothing of it and never catches up.

Shapes: B images, L tokens of all scales, l of one, n of a pass, V codes, Z channels, h w cells
of the feature map, C width of a model.  Batches of 2B are guidance: classes, then "no class".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from codevar import graphs
from codevar.cache import Cache, CacheRows
from codevar.checks import labels_of, shown
from codevar.noise import Noise, Seed, by_images, noise_of
from codevar.outputs import Decoded, Generated, OnScale
from codevar.packed import rows_that_fit_cache
from codevar.plan import Plan, original
from codevar.sampling import Sampling, ScaleSampling, draw, draw_as_published, smooth_codes
from codevar.stacks import PRECISIONS, Stack
from codevar.stacks import stack as make_stack
from codevar.transfer import send
from codevar.var import VAR, Modulation
from codevar.vqvae import VQVAE, Quantizer
from codevar.work import Pass, room, work

MIN_TOKENS_PER_MATMUL = 1024  # smaller products waste the time it takes to read the weights

#: (f_hat, h, k from 0) -> f_hat with the feature map h of scale k added.
Add = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
#: (logits (B, l, V) that are left to draw from, k from 0) -> (B, l) tokens.
Choose = Callable[[torch.Tensor, int], torch.Tensor]


def decode(
    plan: Plan | VAR,
    vqvae: VQVAE,
    labels: torch.Tensor | Sequence[int],
    sampling: Sampling | None = None,
    seed: Seed = 0,
    stack: Stack | None = None,
) -> Decoded:
    """Images of the given classes.

    labels: B classes.  sampling: VAR's own evaluation by default.  seed: of the one generator
    that draws every scale; or B seeds, and then an image depends on its own class and seed only,
    not on the batch (beyond rounding: see `docs/guide/quality.md`).  stack: `modern` in the models'
    precision by default.

    Raises ValueError for labels, models or settings that do not fit each other, FloatingPointError
    if the models give anything that is not finite.
    """
    plan = original(plan)
    stack = stack or default_stack(plan)
    made = generate(plan, vqvae, labels, sampling, seed, stack)
    return Decoded(made.tokens, images_of(made, vqvae, stack))


def images_of(made: Generated, vqvae: VQVAE, stack: Stack) -> torch.Tensor:
    """(B, 3, H, W) images in [0, 1].

    Raises FloatingPointError if the models gave anything that is not finite.
    """
    with stack.running(made.f_hat.device):
        images = vqvae.decode_features(made.f_hat)
    if not (made.f_hat.isfinite().all() and images.isfinite().all()):
        raise FloatingPointError(
            f"the models gave NaN or infinity: damaged weights, or too large for {stack.precision}"
        )
    return images


def default_stack(plan: Plan) -> Stack:
    """`modern` in the precision of the plan's models."""
    names = {dtype: name for name, dtype in PRECISIONS.items()}
    dtype = plan.steps[0].model.dtype
    if dtype not in names:
        raise ValueError(f"no stack runs weights in {dtype}; load them in one of {list(names)}")
    return make_stack("modern", names[dtype])


@torch.no_grad()
def generate(
    plan: Plan,
    vqvae: VQVAE,
    labels: torch.Tensor | Sequence[int],
    sampling: Sampling | None = None,
    seed: Seed = 0,
    stack: Stack | None = None,
    add: Add | None = None,
    choose: Choose | None = None,
    on_scale: OnScale = lambda k: None,
) -> Generated:
    """The decode without the VQVAE's decoder; `decode` is this and that.

    add: how a scale joins f_hat; a sum unless an editing keeps part of an image.
    choose: instead of a draw, so that a decode can be led along another's tokens.
    on_scale: told when each scale is done; the loop knows nothing of who listens.
    """
    sampling, stack = sampling or Sampling(), stack or default_stack(plan)
    if not isinstance(sampling, Sampling):
        raise ValueError(f"sampling must be a codevar.Sampling, not {shown(sampling)}")
    labels_2B = guidance_labels(plan, vqvae, labels, stack)
    noise = noise_of(seed, len(labels_2B) // 2, labels_2B.device)
    quantizer = vqvae.quantize
    loop = partial(scale_by_scale, plan, quantizer, sampling, stack, add, choose)
    # The stack alone says what is autocast, not what this is called under.
    with torch.autocast(labels_2B.device.type, enabled=False):
        if stack.graphs and graphs.can_capture(labels_2B.device) and not (add or choose):
            how = sampling, stack
            return graphs.replayed(loop, plan, quantizer, how, labels_2B, noise, on_scale)
        return loop(labels_2B, noise, on_scale)


def scale_by_scale(
    plan: Plan,
    quantizer: Quantizer,
    sampling: Sampling,
    stack: Stack,
    add: Add | None,
    choose: Choose | None,
    labels_2B: torch.Tensor,
    noise: Noise,
    on_scale: OnScale,
) -> Generated:
    """The loop.  From on_scale(0) on it neither waits for a GPU nor asks what is on it."""
    scales, images = plan.scales, len(labels_2B) // 2
    passes = work(plan, images, stack)
    settings = [sampling.at(k, scales) for k in range(scales.K)]
    readers: dict[VAR, Reader] = {}
    input_maps: list[torch.Tensor] = []  # not tokens: an editing changes them
    tokens_BL = labels_2B.new_empty(images, scales.L)
    kv_cache_bytes = []
    f_hat = torch.zeros(0)

    on_scale(0)
    for p in passes:
        if p.is_first:
            readers[p.model] = Reader(p.model, room(passes, p.model), labels_2B, stack)
        reader, k, at = readers[p.model], p.scale, settings[p.scale]
        if choose or sampling.more_smooth:
            logits_BlV = reader.filtered(p, input_maps, at)
            tokens_Bl = choose(logits_BlV, k) if choose else draw(logits_BlV, at.temperature, noise)
        elif stack.as_published:
            # No name for the logits here: it would keep them in memory while they are drawn from.
            tokens_Bl = draw_as_published(
                reader.logits(p, input_maps), p.maps, settings[p.first : k + 1], noise
            )
        else:
            tokens_Bl = draw_in_parts(at.guided(reader.features(p, input_maps)), reader, at, noise)
        codes_BlZ = quantizer.codes(tokens_Bl)
        if sampling.more_smooth:
            codes_BlZ = smooth_codes(logits_BlV, at.ratio, quantizer.embedding.weight, noise)
        codes_BlZ = codes_BlZ + reader.zero_or_nan
        kv_cache_bytes.append(sum(r.cache_bytes for r in readers.values()))
        if p.is_last:
            del readers[p.model], reader

        h_BZhw = quantizer.feature_map(codes_BlZ, k, scales)
        if k == 0:
            f_hat = torch.zeros_like(h_BZhw)
        f_hat = add(f_hat, h_BZhw, k) if add else f_hat + h_BZhw
        if k + 1 < scales.K:
            input_maps.append(quantizer.input_map(f_hat, k + 1, scales))
        tokens_BL[:, scales.slices[k]] = tokens_Bl
        on_scale(k + 1)
    return Generated(tokens_BL, f_hat, tuple(kv_cache_bytes))


def draw_in_parts(
    h_BlC: torch.Tensor, reader: Reader, at: ScaleSampling, noise: Noise
) -> torch.Tensor:
    """(B, l) tokens.  On a CPU their logits are made, filtered and drawn from a few rows at a
    time: the same tokens, and no map of all logits in memory."""
    if h_BlC.is_cuda:
        return draw(at.kept(reader.project(h_BlC)), at.temperature, noise)
    B, length, _ = h_BlC.shape
    tokens_Bl = torch.empty(B, length, dtype=torch.long)
    most = rows_that_fit_cache(2 * reader.model.config.vocab)
    for images, own in by_images(noise, slices(B, max(1, most // length))):
        for part in slices(length, most):
            logits_BlV = at.kept(reader.project(h_BlC[images, part]))
            tokens_Bl[images, part] = draw(logits_BlV, at.temperature, own)
    return tokens_Bl


def slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, length, step))


class Reader:
    """One model during one decode: its condition, what it has read, its cache.

    cache_bytes: held by the cache during the last pass.
    zero_or_nan: NaN if any logit of the last pass is not finite.  Tokens do not show it: the best
        of no numbers is a token like any other.
    """

    def __init__(
        self, model: VAR, room: Sequence[int], labels_2B: torch.Tensor, stack: Stack
    ) -> None:
        """room: tokens that each layer caches."""
        self.model = model
        self.stack = stack
        self.cache = stack.cache(room, stack.precision)
        self.cache_bytes = 0
        self.zero_or_nan: torch.Tensor | int = 0
        self.cond_BC = model.class_emb(labels_2B)
        self.positions_1LC = model.positions().float()
        with stack.running(self.cond_BC.device):
            self.block_condition = model.block_condition(self.cond_BC)
        self._modulations: dict[int, Modulation] = {}
        self._held: tuple[torch.Tensor, ...] = ()

    def logits(self, p: Pass, input_maps: list[torch.Tensor]) -> torch.Tensor:
        """(2B, n, V) float32 of the last `p.logit_tokens` positions.

        input_maps: (B, l, Z) each, of the scales from the second on.
        """
        return self.project(self.features(p, input_maps))

    def filtered(self, p: Pass, input_maps: list[torch.Tensor], at: ScaleSampling) -> torch.Tensor:
        """(B, l, V) float32 of the scale it predicts, guided, after top-k and top-p."""
        if self.stack.as_published:
            return at.filtered(self.logits(p, input_maps)[:, -p.maps[-1] :])
        return at.kept(self.project(at.guided(self.features(p, input_maps))))

    def features(self, p: Pass, input_maps: list[torch.Tensor]) -> torch.Tensor:
        """(2B, n, C), what `VAR.project` makes these logits of."""
        with self.stack.running(self.cond_BC.device):
            x_BnC = self._input(p, input_maps)
            self._hold(x_BnC)
            masks = self._masks(p)
            B, length, C = x_BnC.shape
            rows_per_chunk = max(rows_that_fit_cache(length * C), MIN_TOKENS_PER_MATMUL // length)
            if self.cache.in_place and not x_BnC.is_cuda and rows_per_chunk < B:
                for rows in slices(B, rows_per_chunk):
                    chunk = CacheRows(self.cache, rows, B)
                    x_BnC[rows] = self._through(p, x_BnC[rows], masks, chunk, rows)
            else:
                x_BnC = self._through(p, x_BnC, masks, self.cache)
            self.cache_bytes = self.cache.nbytes
            if p.is_last and not self.stack.as_published:
                del self.cache
            self._hold(*self._held, x_BnC)
            self.zero_or_nan = 0
            return self.model.features(x_BnC[:, -p.logit_tokens :], self.cond_BC)

    def project(self, h_BlC: torch.Tensor) -> torch.Tensor:
        """(B, l, V) float32 logits of features."""
        logits_BlV = self.model.project(h_BlC)
        self.zero_or_nan = self.zero_or_nan + 0 * logits_BlV.sum()
        return logits_BlV

    def _through(
        self,
        p: Pass,
        x_BnC: torch.Tensor,
        masks: Sequence[torch.Tensor | None],
        cache: Cache,
        rows: slice | None = None,
    ) -> torch.Tensor:
        """x through the layers.  rows: slice of the batch that x is; None for all."""
        for visit, mask in zip(p.visits, masks, strict=True):
            modulation = self._modulation(visit.layer)
            if rows:
                modulation = [m[rows] for m in modulation]
            x_BnC = self.model.blocks[visit.layer](x_BnC, modulation, mask, cache, visit.layer)
        return x_BnC

    def _input(self, p: Pass, input_maps: list[torch.Tensor]) -> torch.Tensor:
        """(2B, n, C) of the scales that the pass reads."""
        model = self.model
        maps = input_maps[max(p.first, 1) - 1 : p.scale]
        inputs = [model.word_embed(m.to(model.dtype)).repeat(2, 1, 1) for m in maps]
        if p.first == 0:
            inputs.insert(0, model.first_input(self.cond_BC))
        return torch.cat(inputs, dim=1) + self.positions_1LC[:, model.scales.span(p.first, p.scale)]

    def _hold(self, *tensors: torch.Tensor) -> None:
        """The published loop has its input and its output in hand until the next scale, which
        counts while it samples."""
        if self.stack.as_published:
            self._held = tensors

    def _masks(self, p: Pass) -> Sequence[torch.Tensor | None]:
        """(n, past + n) for each layer, where a pass over several scales may look; one scale sees
        all."""
        if p.first == p.scale:
            return [None] * len(p.visits)
        most = max(visit.past for visit in p.visits)
        mask_nn = self.model.scales.block_causal_mask(p.first, p.scale, self.cond_BC.device)
        mask_nm = F.pad(mask_nn, (most, 0), value=True)
        return [mask_nm[:, most - visit.past :] for visit in p.visits]

    def _modulation(self, layer: int) -> Modulation:
        if layer in self._modulations:
            return self._modulations[layer]
        modulation = self.model.modulation(layer, self.block_condition)
        if self.stack.condition_once:
            modulation = tuple(m.float() for m in modulation)
            self._modulations[layer] = modulation
        return modulation


def guidance_labels(
    plan: Plan, vqvae: VQVAE, labels: torch.Tensor | Sequence[int], stack: Stack
) -> torch.Tensor:
    """(2B,) the labels, then as many "no class"; everything the loop relies on is checked."""
    if not isinstance(stack, Stack):
        raise ValueError(f"stack must be one that codevar.stack makes, not {shown(stack)}")
    model = plan.steps[0].model
    classes = model.config.classes
    labels_B = labels_of(labels, classes)
    for name in ("patch_sizes", "vocab", "channels"):
        ours, theirs = getattr(model.config, name), getattr(vqvae.config, name)
        if ours != theirs:
            raise ValueError(f"the VAR has {name} {ours}, the VQVAE {theirs}")
    for model in plan.models:
        if model.dtype != stack.weights:
            raise ValueError(
                f"the {stack.name} stack needs weights in {stack.weights}, not {model.dtype}"
            )
        if model.is_prepared and not stack.packs:
            raise ValueError(
                f"the {stack.name} stack needs a model as loaded, not prepared for another stack"
            )
        if model.device != vqvae.device:
            raise ValueError(f"the VAR is on {model.device}, the VQVAE on {vqvae.device}")
    labels_2B = torch.cat((labels_B, torch.full_like(labels_B, classes)))
    return send(labels_2B, model.device)
