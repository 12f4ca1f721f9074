"""The loop that decodes any plan.

Reading is per model, caching is per layer.  To predict scale k a model runs one pass over all
scales it has not read yet, up to k, with the layers that the plan gives for k.  So a refiner
reads the draft in the pass that predicts its first scale, and a base model whose scale was
predicted by another reads that scale when it comes back.  So does the half of the batch without a
class where guidance comes back.  A layer that is left out of a pass is the identity, caches nothing
of it and never catches up.

Shapes: B images, L tokens of all scales, l of one, n of a pass, V codes, Z channels, h w cells
of the feature map, C width of a model, R rows: batches of 2B are guidance, classes, then "no
class".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from codevar import graphs
from codevar.cache import Form
from codevar.checks import labels_of, shown
from codevar.layer_run import LayerRun, Sources
from codevar.noise import Noise, Seed, by_images, discard, noise_of, salt_of
from codevar.outputs import Decoded, Generated, OnScale
from codevar.packed import rows_that_fit_cache
from codevar.plan import Plan, original
from codevar.sampling import ScaleSampling, draw, draw_as_published, smooth_codes
from codevar.sampling_settings import Sampling
from codevar.stacks import PRECISIONS, Stack
from codevar.stacks import stack as make_stack
from codevar.transfer import send
from codevar.var import VAR, Modulation
from codevar.vqvae import VQVAE, Quantizer
from codevar.work import Pass, rooms, work

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
    at = [sampling.at(k, plan.scales) for k in range(plan.scales.K)]
    if not (all(s.guided for s in plan.steps) or any(scale.guidance for scale in at)):
        raise ValueError("the plan turns guidance off at some scales, but cfg is 0 at all")
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
    f_hat = h_BZhw = torch.zeros(0)

    on_scale(0)
    for k, step in enumerate(plan.steps):
        here = [p for p in passes if p.scale == k]
        if here and here[0].is_first:
            own = [p for p in passes if p.model is step.model]
            readers[step.model] = Reader(own, labels_2B, stack, noise)
        if here:
            reader = readers[step.model]
            tokens_Bl, codes_BlZ = drawn(
                reader, here, input_maps, settings, sampling, quantizer, choose, noise
            )
        elif k < passes[-1].scale:
            for _ in range(1 + sampling.more_smooth):
                discard(noise, images, scales.tokens[k], step.model.config.vocab, labels_2B.device)
        kv_cache_bytes.append(sum(r.cache_bytes for r in readers.values()))
        if here and here[-1].is_last:
            del readers[step.model], reader
        elif here and here[-1].is_last_unguided:
            reader.release_unguided()

        if here:
            h_BZhw = quantizer.feature_map(codes_BlZ, k, scales)
            tokens_BL[:, scales.slices[k]] = tokens_Bl
        else:
            h_BZhw = torch.zeros_like(f_hat)
            tokens_BL[:, scales.slices[k]].fill_(-1)
        if k == 0:
            f_hat = torch.zeros_like(h_BZhw)
        f_hat = add(f_hat, h_BZhw, k) if add else f_hat + h_BZhw
        if k < passes[-1].scale:
            input_maps.append(quantizer.input_map(f_hat, k + 1, scales))
        on_scale(k + 1)
    return Generated(tokens_BL, f_hat, tuple(kv_cache_bytes))


def drawn(
    reader: Reader,
    passes: Sequence[Pass],
    input_maps: list[torch.Tensor],
    settings: Sequence[ScaleSampling],
    sampling: Sampling,
    quantizer: Quantizer,
    choose: Choose | None,
    noise: Noise,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, l) of a scale and what codes (B, l, Z) they stand for.

    passes: that predict it.  settings: of each scale.
    """
    k, guided = passes[0].scale, passes[-1].halves[-1] == 1
    at = settings[k]
    if choose or sampling.more_smooth:
        logits_BlV = reader.filtered(passes, input_maps, at, guided)
        tokens_Bl = choose(logits_BlV, k) if choose else draw(logits_BlV, at.temperature, noise)
    elif reader.stack.as_published:
        # No name for the logits here: it would keep them in memory while they are drawn from.
        maps = passes[0].logit_maps
        of_maps = [settings[s] for s in passes[0].scales[-len(maps) :]]
        tokens_Bl = draw_as_published(
            reader.logits(passes, input_maps), maps, of_maps, noise, guided
        )
    else:
        h_BlC = reader.features(passes, input_maps)
        tokens_Bl = draw_in_parts(at.guided(h_BlC) if guided else h_BlC, reader, at, noise)
    codes_BlZ = quantizer.codes(tokens_Bl)
    if sampling.more_smooth:
        codes_BlZ = smooth_codes(logits_BlV, at.ratio, quantizer.embedding.weight, noise)
    return tokens_Bl, codes_BlZ + reader.zero_or_nan


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
    """Slices of at most `step` that cover `length`."""
    return (slice(start, start + step) for start in range(0, length, step))


class Reader:
    """One model during one decode: its condition, what it has read, its cache.

    cache_bytes: held by the cache at the end of the last pass.
    zero_or_nan: NaN if any logit of the last pass is not finite.  Tokens do not show it: the best
        of no numbers is a token like any other.
    """

    def __init__(
        self, passes: Sequence[Pass], labels_2B: torch.Tensor, stack: Stack, noise: Noise
    ) -> None:
        """passes: all of the model."""
        self.model = model = passes[0].model
        self.stack, self.noise = stack, noise
        self.images = passes[0].rows // len(passes[0].halves)
        self.rooms = list(rooms(passes, model))
        self.cache = stack.cache(Form(stack.precision, passes[0].bits), self.rooms[0])
        self.cache_bytes = 0
        self.zero_or_nan: torch.Tensor | int = 0
        self.cond_RC = model.class_emb(labels_2B[: self.rooms[0].rows])
        self.positions_1LC = model.positions().float()
        with stack.running(self.cond_RC.device):
            self.block_condition = model.block_condition(self.cond_RC)
        self._modulations: dict[int, Modulation] = {}
        self._sources: Sources = {}
        self._held: tuple[torch.Tensor, ...] = ()

    def logits(self, passes: Sequence[Pass], input_maps: list[torch.Tensor]) -> torch.Tensor:
        """(R, n, V) float32 of the last `Pass.logit_tokens` positions; the rows of all passes.

        input_maps: (B, l, Z) each, of the scales from the second on.
        """
        return self.project(self.features(passes, input_maps))

    def filtered(
        self,
        passes: Sequence[Pass],
        input_maps: list[torch.Tensor],
        at: ScaleSampling,
        guided: bool,
    ) -> torch.Tensor:
        """(B, l, V) float32 of the scale they predict, guided, after top-k and top-p."""
        if self.stack.as_published:
            logits_RlV = self.logits(passes, input_maps)[:, -passes[0].maps[-1] :]
            return at.filtered(logits_RlV) if guided else at.kept(logits_RlV)
        h_RlC = self.features(passes, input_maps)
        return at.kept(self.project(at.guided(h_RlC) if guided else h_RlC))

    def features(self, passes: Sequence[Pass], input_maps: list[torch.Tensor]) -> torch.Tensor:
        """(R, n, C), what `VAR.project` makes these logits of."""
        h_RnC = [self._features(p, input_maps) for p in passes]
        return torch.cat(h_RnC) if len(h_RnC) > 1 else h_RnC[0]

    def _features(self, p: Pass, input_maps: list[torch.Tensor]) -> torch.Tensor:
        with self.stack.running(self.cond_RC.device):
            x_RnC = self._input(p, input_maps)
            self._hold(x_RnC)
            masks = self._masks(p)
            R, length, C = x_RnC.shape
            rows_per_chunk = max(rows_that_fit_cache(length * C), MIN_TOKENS_PER_MATMUL // length)
            if self.cache.in_place and not x_RnC.is_cuda and rows_per_chunk < R:
                for part in slices(R, rows_per_chunk):
                    x_RnC[part] = self._through(p, x_RnC[part], masks, part)
            else:
                x_RnC = self._through(p, x_RnC, masks, slice(0, R))
            self.cache_bytes = self.cache.nbytes
            if p.is_last and not self.stack.as_published:
                del self.cache
            self._hold(*self._held, x_RnC)
            self.zero_or_nan = 0
            return self.model.features(x_RnC[:, -p.logit_tokens :], self.cond_RC[p.row_slice])

    def project(self, h_BlC: torch.Tensor) -> torch.Tensor:
        """(B, l, V) float32 logits of features."""
        logits_BlV = self.model.project(h_BlC)
        self.zero_or_nan = self.zero_or_nan + 0 * logits_BlV.sum()
        return logits_BlV

    def release_unguided(self) -> None:
        """Gives back what the half without a class has cached."""
        self.cache.release(self.rooms[1])
        self.cache_bytes = self.cache.nbytes

    def _through(
        self,
        p: Pass,
        x_RnC: torch.Tensor,
        masks: Sequence[torch.Tensor | None],
        part: slice,
    ) -> torch.Tensor:
        """x through the layers.  part: of the pass's rows, those that x is."""
        first = p.row_slice.start
        rows = slice(first + part.start, first + min(part.stop, p.rows))
        for visit, mask in zip(p.visits, masks, strict=True):
            modulation = self._modulation(visit.layer, p)
            if len(x_RnC) < p.rows:
                modulation = [m[part] for m in modulation]
            run = LayerRun(p, visit, rows, self.cache, self._sources, self._salt)
            x_RnC = self.model.blocks[visit.layer](x_RnC, modulation, mask, run)
            run.cut()
        return x_RnC

    def _salt(self) -> torch.Tensor:
        """(R,) what tells the images apart; the halves of one are alike."""
        return salt_of(self.noise, self.images, self.cond_RC.device).repeat(2)

    def _input(self, p: Pass, input_maps: list[torch.Tensor]) -> torch.Tensor:
        """(R, n, C) of the scales that the pass reads."""
        model, scales = self.model, p.model.scales
        inputs = [
            model.word_embed(input_maps[k - 1].to(model.dtype)).repeat(len(p.halves), 1, 1)
            for k in p.scales
            if k > 0
        ]
        if p.scales[0] == 0:
            inputs.insert(0, model.first_input(self.cond_RC[p.row_slice]))
        x_RnC = torch.cat(inputs, dim=1)
        if len(p.scales) == p.scale - p.scales[0] + 1:
            return x_RnC + self.positions_1LC[:, scales.span(p.scales[0], p.scale)]
        positions = [self.positions_1LC[:, scales.slices[k]] for k in p.scales]
        return x_RnC + torch.cat(positions, dim=1)

    def _hold(self, *tensors: torch.Tensor) -> None:
        """The published loop has its input and its output in hand until the next scale, which
        counts while it samples."""
        if self.stack.as_published:
            self._held = tensors

    def _masks(self, p: Pass) -> Sequence[torch.Tensor | None]:
        """(queries, past + queries) for each layer, where a pass over several scales may look; one
        scale sees all.  Tokens that are left out are the map's, which all look alike."""
        if len(p.scales) == 1:
            return [None] * len(p.visits)
        most = max(visit.past for visit in p.visits)
        mask_nn = self.model.scales.block_causal_mask(p.scales, self.cond_RC.device)
        mask_nm = F.pad(mask_nn, (most, 0), value=True)
        return [mask_nm[: v.queries, most - v.past : most + v.queries] for v in p.visits]

    def _modulation(self, layer: int, p: Pass) -> Modulation:
        """For the rows of the pass."""
        rows = p.row_slice
        whole = p.rows == len(self.cond_RC)
        if not self.stack.condition_once:
            return self.model.modulation(layer, self.block_condition[rows])
        if layer not in self._modulations:
            modulation = self.model.modulation(layer, self.block_condition)
            self._modulations[layer] = tuple(m.float() for m in modulation)
        modulation = self._modulations[layer]
        return modulation if whole else [m[rows] for m in modulation]


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
