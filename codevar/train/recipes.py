"""What can be trained: a class for each recipe, whose fields are the keys of its config file.

    vqvae          the multi-scale VQVAE, from scratch
    var            a VAR, from scratch
    code-drafter   CoDe, Eq. 5: cross-entropy on scales 1..N
    code-refiner   CoDe, Eq. 6: distillation from a larger VAR, scales 1..N fading out
    variant        VARiant: one supernet for all layers and a subnet, in three phases
    perturb        CoDe, Observation 2: cross-entropy on the last three scales only
    classifier     the mini world's feature extractor

A recipe says what a step costs the model; the loop (`loop.py`) is the same for all.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import codevar
from codevar import VAR, VQVAE, VARConfig, VQVAEConfig
from codevar.mini.classifier import Classifier
from codevar.plan import equidistant
from codevar.scales import PATCH_SIZES_256
from codevar.train import objectives, teacher_forcing
from codevar.train.data import DataConfig, Source, open_tokens
from codevar.train.errors import TrainError
from codevar.train.objectives import Objective, Prediction
from codevar.train.step import Step

Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Length = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class OptimizerConfig(Table):
    """The `[optimizer]` table.

    name: adamw, or muon for the matrices of a VAR's blocks with AdamW for the rest.
    lr, muon_lr: after the warm-up.  clip: norm of the gradient, 0 for none.
    warmup: share of the steps.  final: share of the rate at the end, if it decays.
    weight_decay: of matrices and kernels, not of position and scale embeddings,
        codes, biases and gains.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(gt=0)
    muon_lr: float = Field(3e-3, gt=0)
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(0.0, ge=0)
    warmup: Share = 0.0
    decay: Literal["constant", "linear", "cosine"] = "constant"
    final: Share = 0.0


class VQVAESizes(Table):
    width: int = Field(160, ge=32)
    multipliers: tuple[Count, ...] = Field((1, 1, 2, 2, 4), min_length=1)
    res_blocks: int = Field(2, ge=1)
    vocab: int = Field(4096, ge=2)
    channels: int = Field(32, ge=1)
    phis: int = Field(4, ge=1)
    pixels: int = Field(1, ge=1)
    patch_sizes: tuple[int, ...] = PATCH_SIZES_256


class VARSizes(Table):
    """Vocabulary, channels and patch sizes are the VQVAE's, classes the data's."""

    depth: int = Field(ge=1)
    width: int = Field(0, ge=0)
    heads: int = Field(0, ge=0)
    ffn_ratio: float = Field(4.0, gt=0)
    shared_adaln: bool = False


@dataclass(frozen=True)
class Setting:
    """What a run is made in.  write: this process makes files that are missing, others wait."""

    device: torch.device
    write: bool
    wait: Callable[[], None]
    tell: Callable[[str], None]


class Recipe(Table):
    """What every recipe has.

    out: folder of the run.  steps, or epochs: how long.  batch_size: of a step, over all
    processes.  micro_batch: of one forward; the rest is accumulated; 0 is all at once.
    parallel: how more than one process share the work.  recompute: gradient checkpointing.
    half: whether the finished model is written in half precision.
    keep: shares of the run after which the model is written too, as model_20.safetensors.
    """

    recipe: str
    out: str
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(ge=1)
    micro_batch: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    compile: bool = False
    recompute: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpoint_every: int = Field(500, ge=1)
    log_every: int = Field(20, ge=1)
    half: bool = True
    keep: tuple[Share, ...] = ()
    data: DataConfig
    optimizer: OptimizerConfig

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, one of them")
        return self

    def length(self, examples: int) -> int:
        """Steps of a run over so many examples an epoch."""
        return self.steps or max(1, round((self.epochs or 0) * examples / self.batch_size))

    @property
    def leaves_out(self) -> bool:
        """Whether a step may give some parameters no gradient."""
        return False

    def measures(self, step: Step) -> bool:
        """Whether a step also measures where the gradient comes from (`gradients.py`)."""
        return False

    def reached(self, progress: float) -> dict[str, Any]:
        """How far a model has come, for its card: what the recipe itself does not tell."""
        return {}

    def open(self, setting: Setting) -> tuple[Objective, Source]:
        raise NotImplementedError


class TrainVQVAE(Recipe):
    recipe: Literal["vqvae"] = "vqvae"
    parallel: Literal["ddp"] = "ddp"  # `fully_shard` takes no parameters with channels last
    model: VQVAESizes = VQVAESizes()  # type: ignore[call-arg]
    beta: float = Field(0.25, ge=0)
    unquantised: int = Field(250, ge=0)
    restart_every: int = Field(100, ge=1)

    @property
    def leaves_out(self) -> bool:
        return self.unquantised > 0

    def open(self, setting: Setting) -> tuple[Objective, Source]:
        source = self.data.open(setting.device)
        torch.manual_seed(self.seed)
        try:
            vqvae = VQVAE(VQVAEConfig(**self.model.model_dump()))
        except ValueError as e:
            raise TrainError(f"model: {e}") from None
        _check_side(self.data, vqvae)
        vqvae.to(setting.device).to(memory_format=torch.channels_last)
        if self.compile:
            vqvae.encoder.compile()
            vqvae.decoder.compile()
        objective = objectives.Reconstruction(
            vqvae,
            beta=self.beta,
            unquantised=self.unquantised,
            restart_every=self.restart_every,
        )
        return objective, source


class TrainClassifier(Recipe):
    recipe: Literal["classifier"] = "classifier"
    width: int = Field(32, ge=8, multiple_of=8)

    def open(self, setting: Setting) -> tuple[Objective, Source]:
        source = self.data.open(setting.device)
        torch.manual_seed(self.seed)
        model = Classifier(source.classes, self.width).to(setting.device)
        if self.compile:
            model.compile()
        return objectives.Classification(model), source


class OfVAR(Recipe):
    """Recipes of a VAR.

    vqvae, init: a published name or a file; the VQVAE of the tokens, the weights to start from.
    """

    vqvae: str
    init: str
    label_dropout: Share = 0.1
    mixup: float = Field(0.0, ge=0)

    @property
    def reverse(self) -> bool:
        """Whether a teacher is learnt from by KL(model || teacher), not KL(teacher || model)."""
        return False

    def ever(self, K: int) -> range:
        """Scales (0-based) that are trained on."""
        return range(K)

    def weights(self, step: Step, K: int) -> list[float]:
        """Weight of each scale in the loss."""
        return [float(k in self.ever(K)) for k in range(K)]

    def subnet(self, step: Step, depth: int) -> tuple[tuple[int, ...], int] | None:
        """Layers left for the scales after the first so many, if not all."""
        return None

    def fresh(self, vqvae: VQVAE, classes: int) -> VAR:
        """The model to train, on the CPU."""
        return codevar.load_var(self.init, device="cpu", patch_sizes=self._pyramid(vqvae))

    def teacher(self, vqvae: VQVAE, device: torch.device) -> VAR | None:
        return None

    def open(self, setting: Setting) -> tuple[Objective, Source]:
        device = setting.device
        vqvae = codevar.load_vqvae(self.vqvae, device=device).requires_grad_(False)
        _check_side(self.data, vqvae)
        source = open_tokens(self.data, vqvae, device, setting.write, setting.wait, setting.tell)
        var = self.fresh(vqvae, source.classes).to(device)
        teacher = self.teacher(vqvae, device)
        for name, model in (("init", var), ("teacher", teacher)):
            if model is not None:
                _check_fit(name, model, vqvae, source.classes)
                teacher_forcing.prepare(model, self.compile)
        K, depth = var.scales.K, var.config.depth
        self.check(K, depth)
        objective = Prediction(
            var,
            vqvae.quantize,
            weights=lambda step: self.weights(step, K),
            ever=self.ever(K),
            subnet=lambda step: self.subnet(step, depth),
            label_dropout=self.label_dropout,
            mixup=self.mixup,
            teacher=teacher,
            reverse=self.reverse,
            recompute=self.recompute,
        )
        return objective, source

    def check(self, K: int, depth: int) -> None:
        """Raises TrainError for what does not fit a model of K scales and so many layers."""

    def _pyramid(self, vqvae: VQVAE) -> tuple[int, ...] | None:
        """Published files tell their own; the others are asked for the VQVAE's."""
        return None if self.init in codevar.PUBLISHED else vqvae.config.patch_sizes


class TrainVAR(OfVAR):
    """class_scale: standard deviation of the class embedding at the start, if not VAR's own.
    layout: share of the steps, at the start, that train scales 1..layout_scales only and compute
        no other: what is where is settled there, for a fraction of a step's price.
    """

    recipe: Literal["var"] = "var"
    init: str = ""
    model: VARSizes
    class_scale: float | None = Field(None, gt=0)
    layout: Share = 0.0
    layout_scales: int = Field(7, ge=1)

    def weights(self, step: Step, K: int) -> list[float]:
        scales = self.layout_scales if step.progress < self.layout else K
        return [float(k < scales) for k in range(K)]

    def fresh(self, vqvae: VQVAE, classes: int) -> VAR:
        if self.init:
            return super().fresh(vqvae, classes)
        theirs = vqvae.config
        try:
            config = VARConfig(
                **self.model.model_dump(),
                classes=classes,
                vocab=theirs.vocab,
                channels=theirs.channels,
                patch_sizes=theirs.patch_sizes,
            )
        except ValueError as e:
            raise TrainError(f"model: {e}") from None
        return teacher_forcing.initialise(VAR(config), self.seed, self.class_scale)


class TrainDrafter(OfVAR):
    """CoDe, Eq. 5.  draft_steps: N."""

    recipe: Literal["code-drafter"] = "code-drafter"
    draft_steps: int = Field(ge=1)

    def ever(self, K: int) -> range:
        return range(self.draft_steps)

    def check(self, K: int, depth: int) -> None:
        if self.draft_steps >= K:
            raise TrainError(f"draft_steps must be 1..{K - 1}, not {self.draft_steps}")


class TrainRefiner(OfVAR):
    """CoDe, Eq. 6.

    teacher: the larger VAR.
    kl: teacher_student is KL(teacher || model), what the published loss code computes and so
        what the published refiners were trained with: a model too small for all of the
        teacher's modes keeps them all, and sampling keeps its variety.  student_teacher is
        KL(model || teacher), as Eq. 6 is printed: it keeps to the modes it can have.
    """

    recipe: Literal["code-refiner"] = "code-refiner"
    draft_steps: int = Field(ge=1)
    teacher_: str = Field(alias="teacher")
    kl: Literal["teacher_student", "student_teacher"] = "teacher_student"

    @property
    def reverse(self) -> bool:
        return self.kl == "student_teacher"

    def weights(self, step: Step, K: int) -> list[float]:
        return [1 - step.progress if k < self.draft_steps else 1.0 for k in range(K)]

    def teacher(self, vqvae: VQVAE, device: torch.device) -> VAR:
        pyramid = None if self.teacher_ in codevar.PUBLISHED else vqvae.config.patch_sizes
        model = codevar.load_var(self.teacher_, device=device, patch_sizes=pyramid)
        return model.requires_grad_(False)

    def check(self, K: int, depth: int) -> None:
        if self.draft_steps >= K:
            raise TrainError(f"draft_steps must be 1..{K - 1}, not {self.draft_steps}")


class TrainVariant(OfVAR):
    """VARiant, Section 3.3 and Tables 6 and 7.

    subnet_depth: layers of the subnet.  bridge_scales: N, scales 1..N run by all layers; 0 is
    the "skip r1-r10" of Table 5.
    phases: lengths of the three phases, relative to each other; 0 leaves one out.  In the first
        a batch is the subnet's with probability 0.2, in the second the probability rises linearly
        to 1 (Eq. 5, taken between epochs too), in the third it stays 1.  One draw for each batch.
    ratio: a fixed probability in their place (Figure 2).
    measure_every: steps between two measurements of both networks' losses and of where the
        gradient comes from (Figures 2b, 2c and 3b), the first step first; 0 for none.  One costs
        some two micro-batches.
    """

    recipe: Literal["variant"] = "variant"
    subnet_depth: int = Field(ge=2)
    bridge_scales: int = Field(6, ge=0)
    phases: tuple[Length, Length, Length] = (5, 15, 5)
    ratio: Share | None = None
    measure_every: int = Field(0, ge=0)

    first_ratio: ClassVar[float] = 0.2

    @field_validator("phases")
    @classmethod
    def _phases_have_a_length(cls, phases: tuple[float, ...]) -> tuple[float, ...]:
        if not any(phases):
            raise ValueError("phases must not all be 0")
        return phases

    @property
    def leaves_out(self) -> bool:
        return self.bridge_scales == 0

    def probability(self, progress: float) -> float:
        """That a batch is the subnet's; progress 0..1."""
        if self.ratio is not None:
            return self.ratio
        joint, transition, alone = self.phases
        into = progress * sum(self.phases) - joint
        # Without a transition it is a step, which joint training to the end never takes.
        share = into / transition if transition else float(into >= 0 and alone > 0)
        return self.first_ratio + (1 - self.first_ratio) * min(max(share, 0.0), 1.0)

    def phase_ends(self) -> list[float]:
        """Progress at which each phase ends; none for a fixed ratio."""
        ends = [] if self.ratio is not None else accumulate(self.phases)
        return [end / sum(self.phases) for end in ends]

    def phase(self, progress: float) -> int | None:
        """1, 2 or 3; None for a fixed ratio.  progress 0..1."""
        lasting = [n for n, _ in enumerate(self.phase_ends(), 1) if self.phases[n - 1]]
        going = [n for n in lasting if progress < self.phase_ends()[n - 1]]
        return next(iter(going or lasting[-1:]), None)

    def measures(self, step: Step) -> bool:
        return self.measure_every > 0 and step.number % self.measure_every == 0

    def reached(self, progress: float) -> dict[str, Any]:
        return {"phase": self.phase(progress)}

    def layers(self, depth: int) -> tuple[int, ...]:
        """Of the subnet."""
        return equidistant(tuple(range(depth)), self.subnet_depth)

    def subnet(self, step: Step, depth: int) -> tuple[tuple[int, ...], int] | None:
        if step.draw("subnet").random() >= self.probability(step.progress):
            return None
        return self.layers(depth), self.bridge_scales

    def check(self, K: int, depth: int) -> None:
        if self.subnet_depth > depth:
            raise TrainError(f"subnet_depth must be 2..{depth}, not {self.subnet_depth}")
        if self.bridge_scales > K:
            raise TrainError(f"bridge_scales must be 0..{K}, not {self.bridge_scales}")


class TrainPerturbed(OfVAR):
    """CoDe, Observation 2: cross-entropy on the last scales only; the first ones forget."""

    recipe: Literal["perturb"] = "perturb"
    last_scales: int = Field(3, ge=1)

    def ever(self, K: int) -> range:
        return range(max(0, K - self.last_scales), K)


AnyRecipe = (
    TrainVQVAE
    | TrainVAR
    | TrainDrafter
    | TrainRefiner
    | TrainVariant
    | TrainPerturbed
    | TrainClassifier
)
RECIPES: dict[str, type[Recipe]] = {
    get_args(kind.model_fields["recipe"].annotation)[0]: kind for kind in get_args(AnyRecipe)
}


#: Keys whose lists make a run each; `out` names them: "runs/mini/drafter_{draft_steps}".
AXES = ("seed", "draft_steps", "kl", "subnet_depth", "bridge_scales", "ratio")


def load(path: Path, changes: dict[str, str] | None = None) -> list[Recipe]:
    """The runs of a config file, usually one.

    changes: key -> TOML value, "optimizer.lr" for a table's.
    Raises TrainError: one line with the file, the key and what it may be.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise TrainError(f"{path}: {e.strerror if isinstance(e, OSError) else e}") from None
    for key, text in (changes or {}).items():
        *tables, last = key.split(".")
        table = values
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise TrainError(f"--set {key}: {name} is no table")
        table[last] = _value(text)
    name = str(values.get("recipe"))
    if name not in RECIPES:
        raise TrainError(f"{path}: recipe must be one of {', '.join(RECIPES)}, not {name}")
    axes = {key: values[key] for key in AXES if isinstance(values.get(key), list)}
    named = {key: values[key] for key in AXES if key in values}
    if empty := [key for key, of in axes.items() if not of]:
        raise TrainError(f"{path}: {empty[0]}: must not be empty")
    runs = []
    for chosen in product(*axes.values()):
        of_axis = dict(zip(axes, chosen, strict=True))
        try:
            run = RECIPES[name].model_validate(_tuples(values | of_axis))
            runs.append(run.model_copy(update={"out": run.out.format(**named | of_axis)}))
        except ValidationError as e:
            raise TrainError(f"{path}: {_explained(e)}") from None
        except (KeyError, IndexError, ValueError):
            raise TrainError(f"{path}: out may name {', '.join(named) or 'no key'} only") from None
    if len({run.out for run in runs}) < len(runs):
        raise TrainError(f"{path}: out must tell the runs apart: {{{next(iter(axes))}}}")
    return runs


def _value(text: str) -> Any:
    lists = [f"[{text}]"] if "," in text else []  # 0.1,1.0 is a list, as with --set elsewhere
    for toml in (text, *lists):
        with suppress(tomllib.TOMLDecodeError):
            return tomllib.loads(f"value = {toml}")["value"]
    return text


def _tuples(value: Any) -> Any:
    """TOML's lists as what the strict models take."""
    if isinstance(value, dict):
        return {key: _tuples(of) for key, of in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _explained(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return f"{key}: no such key"
        case "missing":
            return f"{key}: missing"
        case "too_short":
            return f"{key}: must not be empty"
        case "value_error":
            return str(first["ctx"]["error"])
    return f"{key}: {first['msg'].replace('Input should', 'must')}, not {first['input']!r}"


def _check_side(data: DataConfig, vqvae: VQVAE) -> None:
    side = vqvae.config.patch_sizes[-1] * vqvae.config.stride
    if data.side != side:
        raise TrainError(f"data.side is {data.side}, but the VQVAE's images are {side} pixels")


def _check_fit(name: str, var: VAR, vqvae: VQVAE, classes: int) -> None:
    if var.config.classes != classes:
        raise TrainError(f"{name} has {var.config.classes} classes, the data {classes}")
    for what in ("patch_sizes", "vocab", "channels"):
        ours, theirs = getattr(var.config, what), getattr(vqvae.config, what)
        if ours != theirs:
            raise TrainError(f"{name} has {what} {ours}, the VQVAE {theirs}")
