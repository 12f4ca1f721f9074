"""From a batch to its losses: one module for each kind of model.

`model` is what is trained and kept; models that only help (a teacher, a quantiser) are held out
of the module's parameters.  A forward gives named scalars; `loss` is the one to go down.  A name
`scale_k` is the loss of scale k, from 1.

Shapes: B images, L tokens of all scales, n of those computed, K scales, V codes, Z channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from codevar.mini import factors
from codevar.mini.classifier import Classifier
from codevar.mini.factors import FactorReader
from codevar.train import losses, teacher_forcing
from codevar.train.data import Batch
from codevar.train.gradients import Part
from codevar.train.recipes import TrainRefiner, TrainVQVAE, VARRecipe
from codevar.train.step import Step
from codevar.transfer import send
from codevar.var import VAR
from codevar.vqvae import VQVAE, Quantizer

Losses = dict[str, torch.Tensor]


class Objective(nn.Module):
    """A model with the losses that it is trained by.

    average: of its weights in the last steps, if the recipe wants that (`averaged`).
    """

    model: nn.Module
    average: AveragedModel | None
    recipe: Any

    def __init__(self) -> None:
        super().__init__()
        self.average = None

    def forward(self, batch: Batch, step: Step) -> Losses:
        """The losses of a batch at a step."""
        raise NotImplementedError

    def after_step(self, step: Step) -> None:
        """Once the optimiser has stepped."""


def averaged(model: nn.Module, share: float) -> AveragedModel:
    """A mean of a model's weights over the last `share` of its steps, however many there are: those
    of step i count as about i^(1 / share - 1), exactly so for shares of 1 and a half."""

    def update(means: Any, weights: Any, before: torch.Tensor | int) -> None:
        torch._foreach_lerp_(means, weights, 1 / (1 + share * int(before)))

    return AveragedModel(model, multi_avg_fn=update).requires_grad_(False)


class Prediction(Objective):
    """Teacher forcing of a VAR: cross-entropy of the tokens, or distillation from a teacher.

    recipe: says what scales and layers a step trains.  label_dropout is the share of rows that
        learn "no class".  mixup is the alpha of a Beta distribution, or 0: the batch is mixed
        with itself in reverse, the input maps (which are feature maps, so a mixture is one too)
        and the class embeddings with share t, and the losses of the two token targets with the
        same share.
    teacher: of a `TrainRefiner`, which says in which direction the KL is taken.
    """

    model: VAR

    def __init__(
        self,
        var: VAR,
        quantizer: Quantizer,
        recipe: VARRecipe,
        teacher: VAR | None = None,
    ) -> None:
        super().__init__()
        self.model, self.recipe = var, recipe
        # In tuples, which a module does not look into.
        self._quantizer, self._teacher = (quantizer,), (teacher,)

    def forward(self, batch: Batch, step: Step, part: Part | None = None) -> Losses:
        """part: a zone and a network in the place of all scales and the step's own draw."""
        var, scales, recipe = self.model, self.model.scales, self.recipe
        weights = recipe.weights(step, scales.K)
        subnet = recipe.subnet(step, var.config.depth)
        if part:
            weights = [w * (k in part.scales) for k, w in enumerate(weights)]
            subnet = part.subnet
        counted = [k for k in range(scales.K) if weights[k] > 0]
        first, last = counted[0], counted[-1]
        with torch.autocast(batch["tokens"].device.type, enabled=False):
            inputs_BnZ = teacher_forcing.inputs(self._quantizer[0], batch["tokens"], scales, last)
        targets_Bl = batch["tokens"][:, scales.span(first, last)]
        dropped = torch.from_numpy(step.uniform("label dropout") < recipe.label_dropout)
        dropped = send(dropped, inputs_BnZ.device)
        labels = batch["labels"].masked_fill(dropped, var.config.classes)
        share = step.draw("mixup").beta(recipe.mixup, recipe.mixup) if recipe.mixup else 1.0
        if recipe.mixup:
            inputs_BnZ = inputs_BnZ.flip(0).lerp(inputs_BnZ, share)

        layers, bridge = subnet or (None, 0)
        logits_BlV = teacher_forcing.logits(
            var,
            self._condition(var, labels, share),
            inputs_BnZ,
            first,
            last,
            layers=layers,
            bridge=bridge,
            recompute=recipe.recompute,
        )
        teacher = self._teacher[0]
        if teacher is not None:
            with torch.no_grad():
                condition = self._condition(teacher, labels, share)
                wanted_BlV = teacher_forcing.logits(teacher, condition, inputs_BnZ, first, last)
            assert isinstance(recipe, TrainRefiner)
            pair = {"teacher_student": (wanted_BlV, logits_BlV)}
            of_token_Bl = losses.kl(*pair.get(recipe.kl, (logits_BlV, wanted_BlV)))
        else:
            of_token_Bl = losses.cross_entropy(logits_BlV, targets_Bl)
            if recipe.mixup:
                other_Bl = losses.cross_entropy(logits_BlV, targets_Bl.flip(0))
                of_token_Bl = other_Bl.lerp(of_token_Bl, share)

        means = losses.by_scale(of_token_Bl, scales, first, last)
        trained = recipe.trained_scales(scales.K)
        tokens = [scales.tokens[k] for k in trained]
        asked = [means[k - first] if weights[k] > 0 else means.new_zeros(()) for k in trained]
        total = losses.weighted(torch.stack(asked), [weights[k] for k in trained], tokens)
        return {"loss": total} | {f"scale_{k + 1}": means[k - first].detach() for k in counted}

    def _condition(self, var: VAR, labels: torch.Tensor, share: float) -> torch.Tensor:
        cond_BC = var.class_emb(labels)
        return cond_BC.flip(0).lerp(cond_BC, share) if self.recipe.mixup else cond_BC


class Reconstruction(Objective):
    """A VQVAE: pictures as they were, tokens near the features.

    recipe: unquantised is the number of steps at the start that train encoder and decoder alone;
        the codes are then placed by k-means on the residuals of a batch.  restart_every is the
        number of steps after which codes that no token used are put on residuals of a batch.
    """

    model: VQVAE
    uses: torch.Tensor

    def __init__(self, vqvae: VQVAE, recipe: TrainVQVAE) -> None:
        super().__init__()
        self.model, self.recipe = vqvae, recipe
        self.register_buffer("uses", torch.zeros(vqvae.config.vocab))
        self._recent: torch.Tensor | None = None

    def forward(self, batch: Batch, step: Step) -> Losses:
        """The losses of a batch at a step."""
        vqvae, scales = self.model, self.model.scales
        images = batch["images"] * 2 - 1
        f_BZhw = vqvae.quant_conv(vqvae.encoder(images)).float()
        self._recent = f_BZhw.detach()
        found: Losses = {}
        total = f_BZhw.new_zeros(())
        if step.number >= self.recipe.unquantised:
            with torch.autocast(images.device.type, enabled=False):
                f_BZhw, of_scale, tokens = losses.quantised(
                    vqvae.quantize, f_BZhw, scales, self.recipe.beta
                )
            used = tokens.flatten().bincount(minlength=len(self.uses))
            if torch.distributed.is_initialized():  # now: a checkpoint keeps those of one process
                torch.distributed.all_reduce(used)
            self.uses += used
            found = {f"scale_{k + 1}": loss.detach() for k, loss in enumerate(of_scale)}
            total = of_scale.mean()
        made = vqvae.decoder(vqvae.post_quant_conv(f_BZhw)).float()
        total = total + losses.reconstruction(made, images)
        error = F.mse_loss(made.detach().clamp(-1, 1), images) / 4  # images in [0, 1]
        return {"loss": total, "psnr_db": -10 * error.log10()} | found

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Places codes: the first time by k-means, then those that no token used."""
        done = step.number + 1
        placed = max(1, self.recipe.unquantised)  # after this step the codes get their first places
        first = done == placed
        if not first and (done <= placed or done % self.recipe.restart_every):
            return
        assert self._recent is not None
        codes = self.model.quantize.embedding.weight
        draw = torch.Generator().manual_seed(int(step.draw("codes").integers(1 << 62)))
        left = _residuals(self.model, self._recent, use_codes=not first)
        chosen = left[torch.randint(len(left), (len(codes),), generator=draw).to(left.device)]
        if first:
            codes.copy_(_k_means(left, chosen))
        else:
            codes.copy_(torch.where((self.uses > 0)[:, None], codes, chosen))
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(codes, src=0)
        self.uses.zero_()


def _residuals(vqvae: VQVAE, f_BZhw: torch.Tensor, use_codes: bool) -> torch.Tensor:
    """(N, Z) what the codes of all scales should stand for; without codes, as if there was one
    for everything."""
    quantizer, scales = vqvae.quantize, vqvae.scales
    rest, found = f_BZhw.clone(), []
    for k in range(scales.K):
        wanted_BlZ = quantizer.input_map(rest, k, scales)
        found.append(wanted_BlZ.flatten(0, 1))
        if use_codes:
            wanted_BlZ = quantizer.codes(quantizer.nearest(wanted_BlZ))
        rest -= quantizer.feature_map(wanted_BlZ, k, scales)
    return torch.cat(found)


def _k_means(points_NZ: torch.Tensor, centres_VZ: torch.Tensor, rounds: int = 10) -> torch.Tensor:
    """(V, Z) centres; one that loses all its points stays where it is."""
    for _ in range(rounds):
        nearest_N = torch.cdist(points_NZ, centres_VZ).argmin(dim=1)
        sums = torch.zeros_like(centres_VZ).index_add_(0, nearest_N, points_NZ)
        counts = nearest_N.bincount(minlength=len(centres_VZ))[:, None]
        centres_VZ = torch.where(counts > 0, sums / counts.clamp_min(1), centres_VZ)
    return centres_VZ


class Classification(Objective):
    """A classifier, by cross-entropy."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, step: Step) -> Losses:
        """The losses of a batch at a step."""
        logits = self.model(batch["images"]).float()
        right = (logits.argmax(dim=1) == batch["labels"]).float().mean()
        return {"loss": F.cross_entropy(logits, batch["labels"]), "accuracy": right}


class Reading(Objective):
    """A reader of the mini world's factors; accuracy is the share of images all of whose choices
    it reads right."""

    model: FactorReader

    def __init__(self, model: FactorReader) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, step: Step) -> Losses:
        """The losses of a batch at a step."""
        outputs = self.model(batch["images"]).float()
        loss, right_B = factors.losses(outputs, factors.of_side(batch, self.model.side))
        return {"loss": loss, "accuracy": right_B.float().mean()}
