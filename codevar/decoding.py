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

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from codevar import anchored, graphs
from codevar.cache import Cache, Form
from codevar.checks import kind_of, labels_of, shown
from codevar.layer_run import LayerRun, Sources
from codevar.noise import ImageNoise, Noise, Seed, by_images, discard, hashed, noise_of, salt_of
from codevar.outputs import Decoded, Generated, OnScale
from codevar.packed import rows_that_fit_cache
from codevar.plan import Branch, Plan, original
from codevar.pruning import taken
from codevar.sampling import ScaleSampling, draw, draw_as_published, smooth_codes
from codevar.sampling_settings import Sampling
from codevar.stacks import PRECISIONS, Stack
from codevar.stacks import stack as make_stack
from codevar.transfer import send
from codevar.var import VAR, Modulation
from codevar.vqvae import VQVAE, Quantizer
from codevar.work import Pass, Slot, rooms, work

MIN_TOKENS_PER_MATMUL = 1024  # smaller products waste the time it takes to read the weights

#: (f_hat, h, k from 0) -> f_hat with the feature map h of scale k added.
Add = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
#: (f_hat of the last scale but one, of the last, salt (B,)) -> (B,) numbers of plans.
Look = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
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
    check_finite(stack, made.f_hat, images)
    return images


def check_finite(stack: Stack, *made: torch.Tensor) -> None:
    """Raises FloatingPointError for numbers that are none.  `Generated.f_hat` shows those that the
    tokens do not."""
    if not all(tensor.isfinite().all() for tensor in made):
        raise FloatingPointError(
            f"the models gave NaN or infinity: damaged weights, or too large for {stack.precision}"
        )


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
    paths = (plan, *(plan.branch.plans if plan.branch else ()))
    guided = all(step.guided for path in paths for step in path.steps)
    if not (guided or any(scale.guidance for scale in at)):
        raise ValueError("the plan turns guidance off at some scales, but cfg is 0 at all")
    if plan.branch and (add or choose):
        raise ValueError("a plan that branches can neither edit an image nor be led")
    noise = noise_of(seed, len(labels_2B) // 2, labels_2B.device)
    quantizer = vqvae.quantize
    look = _look(plan.branch, vqvae, stack) if plan.branch else None
    loop = functools.partial(scale_by_scale, plan, quantizer, sampling, stack, add, choose, look)
    # The stack alone says what is autocast, not what this is called under.
    with torch.autocast(labels_2B.device.type, enabled=False):
        captured = stack.graphs and graphs.can_capture(labels_2B.device)
        if captured and not (add or choose or look):
            how = sampling, stack
            return graphs.replayed(loop, plan, quantizer, how, labels_2B, noise, on_scale)
        return loop(labels_2B, noise, on_scale)


def _look(branch: Branch, vqvae: VQVAE, stack: Stack) -> Look:
    """What decides, of the images that feature maps stand for."""

    def look(before: torch.Tensor, now: torch.Tensor, salt_B: torch.Tensor) -> torch.Tensor:
        with stack.running(now.device):
            before, now = vqvae.decode_features(before), vqvae.decode_features(now)
        return branch.decide(before.float(), now.float(), salt_B)

    return look


def scale_by_scale(
    plan: Plan,
    quantizer: Quantizer,
    sampling: Sampling,
    stack: Stack,
    add: Add | None,
    choose: Choose | None,
    look: Look | None,
    labels_2B: torch.Tensor,
    noise: Noise,
    on_scale: OnScale,
) -> Generated:
    """The loop.  From on_scale(0) on it neither waits for a GPU nor asks what is on it, but where
    the plan branches."""
    scales, images = plan.scales, len(labels_2B) // 2
    trunk = work(replace(plan, branch=None), images, stack)
    groups = [Group(plan, trunk, quantizer, sampling, stack, labels_2B, noise)]
    kv_cache_bytes: list[int] = []
    decisions: tuple[int, ...] = ()
    on_scale(0)
    for k in range(scales.K):
        if plan.branch and look and k == plan.branch.at:
            (whole,) = groups
            decisions, groups = whole.split_by_decision(plan.branch, look)
            del whole
        for group in groups:
            group.predict_scale(k, choose)
        kv_cache_bytes.append(sum(group.cache_bytes for group in groups))
        for group in groups:
            group.join_scale(k, add)
        on_scale(k + 1)
    tokens_BL, f_hat = groups[0].tokens_BL, groups[0].f_hat
    if plan.branch:
        order_B = torch.cat([group.images_B for group in groups]).argsort()
        tokens_BL = torch.cat([group.tokens_BL for group in groups])[order_B]
        f_hat = torch.cat([group.f_hat for group in groups])[order_B]
    return Generated(tokens_BL, f_hat, tuple(kv_cache_bytes), decisions)


class Group:
    """Images that go through the same passes: all of a batch or, after a branch, some.

    images_B: which of the batch.  f_before: f_hat one scale earlier, for a branch.
    """

    def __init__(
        self,
        plan: Plan,
        passes: Sequence[Pass],
        quantizer: Quantizer,
        sampling: Sampling,
        stack: Stack,
        labels_2B: torch.Tensor,
        noise: Noise,
    ) -> None:
        self.plan, self.passes, self.quantizer = plan, passes, quantizer
        self.sampling, self.stack = sampling, stack
        self.labels_2B, self.noise = labels_2B, noise
        self.images = len(labels_2B) // 2
        self.images_B = torch.zeros(0)
        if plan.branch:
            self.images_B = torch.arange(self.images, device=labels_2B.device)
        self.settings = [sampling.at(k, plan.scales) for k in range(plan.scales.K)]
        self.readers: dict[VAR, Reader] = {}
        self.input_maps: list[torch.Tensor] = []  # not tokens: an editing changes them
        self.tokens_BL = labels_2B.new_empty(self.images, plan.scales.L)
        self.f_hat = self.f_before = self.h_BZhw = torch.zeros(0)
        self._drawn: tuple[torch.Tensor, ...] = ()

    @property
    def cache_bytes(self) -> int:
        """Held in caches at the end of the last pass."""
        return sum(reader.cache_bytes for reader in self.readers.values())

    def predict_scale(self, k: int, choose: Choose | None) -> None:
        """The tokens of scale k, from 0."""
        here = [p for p in self.passes if p.scale == k]
        if here and here[0].is_first:
            own = [p for p in self.passes if p.model is here[0].model]
            self.readers[own[0].model] = Reader(own, self.labels_2B, self.stack, self.noise)
        if here:
            reader, how = self.readers[here[0].model], (self.sampling, self.quantizer)
            self._drawn = drawn(
                reader, here, self.input_maps, self.settings, *how, choose, self.noise
            )
        elif k < self.passes[-1].scale:
            tokens, vocab = self.plan.scales.tokens[k], self.plan.steps[k].model.config.vocab
            for _ in range(1 + self.sampling.more_smooth):
                discard(self.noise, self.images, tokens, vocab, self.labels_2B.device)

    def join_scale(self, k: int, add: Add | None) -> None:
        """Lets go of what no later pass reads, and joins the scale to the image."""
        here, scales = [p for p in self.passes if p.scale == k], self.plan.scales
        if here and here[-1].is_last:
            del self.readers[here[-1].model]
        elif here and here[-1].is_last_unguided:
            self.readers[here[-1].model].release_unguided()
        if self.plan.branch and k == self.plan.branch.at - 1:
            self.f_before = self.f_hat
        if here:
            tokens_Bl, codes_BlZ = self._drawn
            self.h_BZhw = self.quantizer.feature_map(codes_BlZ, k, scales)
            self.tokens_BL[:, scales.slices[k]] = tokens_Bl
        else:
            self.h_BZhw = torch.zeros_like(self.f_hat)
            self.tokens_BL[:, scales.slices[k]].fill_(-1)
        if k == 0:
            self.f_hat = torch.zeros_like(self.h_BZhw)
        self.f_hat = add(self.f_hat, self.h_BZhw, k) if add else self.f_hat + self.h_BZhw
        if k < self.passes[-1].scale:
            self.input_maps.append(self.quantizer.input_map(self.f_hat, k + 1, scales))

    def split_by_decision(self, branch: Branch, look: Look) -> tuple[tuple[int, ...], list[Group]]:
        """Of which plan each image goes on by; and the images of each plan, together."""
        salt_B = salt_of(self.noise, self.images, self.labels_2B.device)
        decided_B = look(self.f_before, self.f_hat, salt_B)
        if len(branch.plans) == 1:  # all go that way, so that its cost can be told
            return (0,) * self.images, [self.for_images(branch.plans[0], self.images_B)]
        decisions = tuple(decided_B.tolist())
        if len(decisions) != self.images or not {*decisions} <= {*range(len(branch.plans))}:
            raise ValueError(f"decide must give {self.images} numbers of plans, not {decisions}")
        return decisions, [
            self.for_images(branch.plans[j], (decided_B == j).nonzero()[:, 0])
            for j in sorted({*decisions})
        ]

    def for_images(self, plan: Plan, images_n: torch.Tensor) -> Group:
        """Some of the images, which go on by a plan of their own from here."""
        assert self.plan.branch
        at = self.plan.branch.at
        rows_2n = torch.cat((images_n, images_n + self.images))
        part = copy.copy(self)
        part.plan, part.images, part.images_B = plan, len(images_n), images_n
        part.labels_2B = self.labels_2B[rows_2n]
        if isinstance(self.noise, ImageNoise):
            part.noise = self.noise.for_images(images_n)
        every = work(plan, part.images, self.stack)
        part.passes = [p for p in every if p.scale >= at] or every[-1:]
        part.input_maps = [map_BlZ[images_n] for map_BlZ in self.input_maps]
        part.tokens_BL, part.f_hat = self.tokens_BL[images_n], self.f_hat[images_n]
        part.f_before = part.h_BZhw = torch.zeros(0)
        part._drawn, part.readers = (), {}
        for model, reader in self.readers.items():
            if own := [p for p in part.passes if p.model is model and p.scale >= at]:
                part.readers[model] = reader.for_images(images_n, own, part.noise)
        return part


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
    if reader.silent_Bl is not None:
        tokens_Bl = tokens_Bl.masked_fill(reader.silent_Bl, -1)
        codes_BlZ = codes_BlZ.masked_fill(reader.silent_Bl[..., None], 0)
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
    silent_Bl: tokens of the last pass that are left out, and like no anchor, if any are.
    """

    def __init__(
        self, passes: Sequence[Pass], labels_2B: torch.Tensor, stack: Stack, noise: Noise
    ) -> None:
        """passes: all of the model."""
        self.model = model = passes[0].model
        self.stack, self.noise = stack, noise
        self.images = passes[0].rows // len(passes[0].halves)
        self.rooms = list(rooms(passes, model))
        self.cache: Cache = stack.cache(Form(stack.precision, passes[0].bits), self.rooms[0])
        self.cache_bytes = 0
        self.zero_or_nan: torch.Tensor | int = 0
        self.cond_RC = model.class_emb(labels_2B[: self.rooms[0].rows])
        self.positions_1LC = model.positions().float()
        with stack.running(self.cond_RC.device):
            self.block_condition = model.block_condition(self.cond_RC)
        self._modulations: dict[int, Modulation] = {}
        self._sources: Sources = {}
        self._looked_back = looked_back(passes)
        self._chosen_Rk: torch.Tensor | None = None
        self.silent_Bl: torch.Tensor | None = None
        self._held: tuple[torch.Tensor, ...] = ()

    def for_images(self, images_n: torch.Tensor, passes: Sequence[Pass], noise: Noise) -> Reader:
        """Of these images alone, with what the passes that are left read."""
        part, halves = copy.copy(self), len(self.cond_RC) // self.images
        rows_R = torch.cat([images_n + half * self.images for half in range(halves)])
        part.noise, part.images = noise, len(images_n)
        part.cond_RC, part.block_condition = self.cond_RC[rows_R], self.block_condition[rows_R]
        part._modulations = {
            layer: tuple(m_R1C[rows_R] for m_R1C in found)
            for layer, found in self._modulations.items()
        }
        part._sources = {key: kept_BmC[rows_R] for key, kept_BmC in self._sources.items()}
        part._looked_back = looked_back(passes)
        part._held, part.rooms = (), list(rooms(passes, self.model))
        part.cache = self.cache.another(part.rooms[0])
        first_of: dict[tuple[int, Slot], int] = {}
        for p in passes:
            for half, (slot, heads) in itertools.product(p.halves, p.slots):
                first_of.setdefault((half, slot), heads.past)
        count = len(images_n)
        for (half, slot), tokens in first_of.items():
            if tokens:
                rows = slice(half * self.images, (half + 1) * self.images)
                held = self.cache.read(slot, rows, tokens)
                of_images = tuple(part_BHLc[images_n] for part_BHLc in held)
                part.cache.write(slot, slice(half * count, (half + 1) * count), of_images)
        part.cache_bytes = part.cache.nbytes
        return part

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
            self._chosen_Rk = self._chosen(p)
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
            h_RnC = self.model.features(x_RnC[:, -p.logit_tokens :], self.cond_RC[p.row_slice])
            return self._stood_in(p, h_RnC)

    def _chosen(self, p: Pass) -> torch.Tensor | None:
        """(R, k) tokens of the map that go through all layers, where they are chosen once."""
        prune = p.visits[0].prune
        if not (prune and prune.anchored and prune.restore_from):
            return None
        if prune.selector == "sparsevar_random":
            scores_Bl = hashed(self._salt()[: self.images], (p.scale,), p.maps[-1]).double()
        else:
            of_layers = (
                self._sources[layer, branch, prune.restore_from - 1][p.row_slice]
                for layer in anchored.middle(self.model.config.depth)
                for branch in (0, 1)
            )
            side = self.model.scales.patch_sizes[p.scale]
            scores_Bl = anchored.importance(
                functools.reduce(torch.add, of_layers), self.images, side
            )
        kept_Bk = anchored.most_important(scores_Bl, prune.kept(p.maps[-1]))
        return kept_Bk.repeat(len(p.halves), 1)

    def _stood_in(self, p: Pass, h_RnC: torch.Tensor) -> torch.Tensor:
        """What the head reads (R, n, C), where tokens that were left out copy an anchor's."""
        length, rows = p.maps[-1], p.row_slice
        if p.scale in self._looked_back:
            key = anchored.HEAD, 0, p.scale
            of_map_RlC = h_RnC[:, -length:]
            if key not in self._sources:
                self._sources[key] = of_map_RlC.new_empty(len(self.cond_RC), *of_map_RlC.shape[1:])
            self._sources[key][rows] = of_map_RlC
        if p.halves[0] == 0:
            self.silent_Bl = None
        prune = p.visits[0].prune
        if self._chosen_Rk is None or not (prune and prune.restore_from):
            return h_RnC
        before_RmC = self._sources[anchored.HEAD, 0, prune.restore_from - 1][rows]
        side = self.model.scales.patch_sizes[p.scale]
        kept_Bk = self._chosen_Rk[: self.images]
        copied_Bl, silent_Bl = anchored.stand_ins(before_RmC, kept_Bk, side)
        if p.halves[0] == 0:
            self.silent_Bl = silent_Bl
        self._chosen_Rk = None
        map_RlC = taken(h_RnC[:, -length:], copied_Bl.repeat(len(p.halves), 1))
        return torch.cat((h_RnC[:, :-length], map_RlC), dim=1)

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
            chosen_Bk = None if self._chosen_Rk is None else self._chosen_Rk[part]
            run = LayerRun(p, visit, rows, self.cache, self._sources, self._salt, chosen_Bk)
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


def looked_back(passes: Sequence[Pass]) -> set[int]:
    """Scales (from 0) of which what the head reads is kept for a later one."""
    rules = (visit.prune for p in passes for visit in p.visits)
    return {rule.restore_from - 1 for rule in rules if rule and rule.anchored and rule.restore_from}


def guidance_labels(
    plan: Plan, vqvae: VQVAE, labels: torch.Tensor | Sequence[int], stack: Stack
) -> torch.Tensor:
    """(2B,) the labels, then as many "no class"; everything the loop relies on is checked."""
    if not isinstance(stack, Stack):
        raise ValueError(f"stack must be one that codevar.stack makes, not {shown(stack)}")
    kind_of("vqvae", vqvae, VQVAE)
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
