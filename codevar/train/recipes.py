"""What can be trained: a class for each recipe, whose fields are the keys of its config file.

    vqvae          the multi-scale VQVAE, from scratch
    var            a VAR, from scratch
    code-drafter   CoDe, Eq. 5: cross-entropy on scales 1..N
    code-refiner   CoDe, Eq. 6: distillation from a larger VAR, scales 1..N fading out
    variant        VARiant: one supernet for all layers and a subnet, in three phases
    perturb        CoDe, Observation 2: cross-entropy on the last three scales only
    classifier     the mini world's feature extractor
    factor-reader  what an image of the mini world was made by

A recipe says what a step costs the model; `build.py` makes the models, and the loop (`loop.py`) is
the same for all.  Nothing here needs torch, so a mistake in a config is told at once.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from codevar import files
from codevar.config import VARConfig, VQVAEConfig
from codevar.files import CheckpointError
from codevar.scales import PATCH_SIZES_256
from codevar.train.errors import TrainError

if TYPE_CHECKING:
    from codevar.train.step import Step

Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Length = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=64)]
Sizes = TypeVar("Sizes")


class Table(BaseModel):
    """A table of a config: no other keys, no conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataConfig(Table):
    """The `[data]` table.

    images: of an epoch; the mini world has no end and needs to be told.
    tokens: where token maps are cached.  Empty, or where images are augmented: they are computed
        as they come, and no image of the mini world comes twice.
    """

    source: Literal["mini", "folder"]
    side: int = Field(64, ge=8, le=4096)
    split: Literal["train", "test"] = "train"
    images: int = Field(1 << 18, ge=1, le=1 << 40)
    seed: int = Field(0, ge=0, lt=1 << 63)
    folder: str = ""
    flip: bool = False
    randaugment: bool = False
    workers: int = Field(4, ge=0, le=256)
    tokens: str = "runs/tokens"

    @model_validator(mode="after")
    def _mini_takes_no_folder(self) -> DataConfig:
        if self.source == "mini" and (self.flip or self.randaugment or self.folder):
            raise ValueError("data: the mini world takes no folder, flip or randaugment")
        return self


class OptimizerConfig(Table):
    """The `[optimizer]` table.

    name: adamw, or muon for the matrices of a VAR's blocks with AdamW for the rest.
    lr, muon_lr: after the warm-up.  clip: norm of the gradient, 0 for none.
    warmup: share of the steps.  final: share of the rate at the end, if it decays.
    cooldown: share of the steps, the last ones, in which it decays; it is constant before.
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
    cooldown: float = Field(1.0, gt=0, le=1)


class VQVAESizes(Table):
    """The `[model]` table of a VQVAE."""

    width: int = Field(160, ge=32, le=1 << 13)
    multipliers: tuple[Count, ...] = Field((1, 1, 2, 2, 4), min_length=1, max_length=8)
    res_blocks: int = Field(2, ge=1, le=64)
    vocab: int = Field(4096, ge=2, le=1 << 20)
    channels: int = Field(32, ge=1, le=1 << 12)
    phis: int = Field(4, ge=1, le=64)
    pixels: int = Field(1, ge=1, le=64)
    patch_sizes: tuple[int, ...] = PATCH_SIZES_256


class VARSizes(Table):
    """The `[model]` table of a VAR.  Vocabulary, channels and patch sizes are the VQVAE's, classes
    the data's."""

    depth: int = Field(ge=1, le=256)
    width: int = Field(0, ge=0, le=1 << 16)
    heads: int = Field(0, ge=0)
    ffn_ratio: float = Field(4.0, gt=0, le=64)
    shared_adaln: bool = False

    @model_validator(mode="after")
    def _is_a_var(self) -> VARSizes:
        VARConfig(**self.model_dump())
        return self


class Recipe(Table):
    """What every recipe has.

    out: folder of the run.  steps, or epochs: how long.  batch_size: of a step, over all
    processes.  micro_batch: of one forward; the rest is accumulated; 0 is all at once.
    parallel: how more than one process share the work.  recompute: gradient checkpointing.
    half: whether the finished model is written in half precision.
    keep: shares of the run after which the model is written too, as model_20.safetensors.
    average: share of the run so far over which the weights that are written are averaged, those
        of late steps with the most weight; 0 for the last step's.  Every checkpoint then leaves
        such a model too, as model_latest.safetensors: at a constant rate it can be used at any
        time, as one can whose rate has fallen.
    """

    recipe: str
    out: str
    steps: int | None = Field(None, ge=1, le=10**9)
    epochs: float | None = Field(None, gt=0, le=10**6)
    batch_size: int = Field(ge=1, le=1 << 20)
    micro_batch: int = Field(0, ge=0)
    seed: int = Field(0, ge=0, lt=1 << 63)
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    compile: bool = False
    recompute: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpoint_every: int = Field(500, ge=1)
    log_every: int = Field(20, ge=1)
    half: bool = True
    keep: tuple[Share, ...] = ()
    average: Share = 0.0
    data: DataConfig
    optimizer: OptimizerConfig

    @model_validator(mode="after")
    def _one_length_in_whole_micro_batches(self) -> Recipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, one of them")
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch {self.micro_batch}"
            )
        if self.average and self.parallel == "fsdp":
            raise ValueError("average needs whole weights in every process; use ddp")
        return self

    def length(self, examples: int) -> int:
        """Steps of a run over so many examples an epoch."""
        return self.steps or max(1, round((self.epochs or 0) * examples / self.batch_size))

    def shortened(self, done: int, steps: int, full: int) -> dict[str, Any]:
        """Settings that count steps, for a run of so many in place of `full`; `done` are past."""
        return {}

    @property
    def skips_parameters(self) -> bool:
        """Whether a step may give some parameters no gradient."""
        return False

    def measures_gradients(self, step: Step) -> bool:
        """Whether a step also measures where the gradient comes from (`gradients.py`)."""
        return False

    def stage(self, progress: float) -> dict[str, Any]:
        """How far a model has come, for its card: what the recipe itself does not tell."""
        return {}

    def check_files(self) -> None:
        """Raises TrainError where the files that it names cannot serve it, by what their headers
        say.  A file that is not there yet is not looked at: another run may make it."""
        if self.data.source == "folder" and not Path(self.data.folder).is_dir():
            raise TrainError(f"data: no such folder: {self.data.folder or '(none given)'}")


class TrainVQVAE(Recipe):
    """The multi-scale VQVAE; `objectives.Reconstruction` explains its settings."""

    recipe: Literal["vqvae"] = "vqvae"
    parallel: Literal["ddp"] = "ddp"  # `fully_shard` takes no parameters with channels last
    model: VQVAESizes = VQVAESizes()  # type: ignore[call-arg]
    beta: float = Field(0.25, ge=0)
    unquantised: int = Field(250, ge=0)
    restart_every: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _sizes_fit(self) -> TrainVQVAE:
        config = VQVAEConfig(**self.model.model_dump())
        _ = config.scales  # raises ValueError for what is no pyramid
        _check_side(self.data, config)
        return self

    def shortened(self, done: int, steps: int, full: int) -> dict[str, Any]:
        """The codes are placed at the same share of the run."""
        share = math.ceil(self.unquantised * steps / full)
        return {"unquantised": max(done + 1, share) if self.unquantised else 0}

    @property
    def skips_parameters(self) -> bool:
        """See `Recipe`."""
        return self.unquantised > 0


class TrainClassifier(Recipe):
    """The mini world's feature extractor."""

    recipe: Literal["classifier"] = "classifier"
    width: int = Field(32, ge=8, le=1 << 13, multiple_of=8)


class TrainFactorReader(Recipe):
    """What reads shape, hues, textures, position and size of the mini world's images."""

    recipe: Literal["factor-reader"] = "factor-reader"

    @model_validator(mode="after")
    def _reads_the_mini_world(self) -> TrainFactorReader:
        if self.data.source != "mini" or self.data.side % 16:
            raise ValueError("data: a factor reader is of the mini world, at a multiple of 16")
        return self


class VARRecipe(Recipe):
    """Recipes of a VAR.

    vqvae, init: a published name or a file; the VQVAE of the tokens, the weights to start from.
    """

    vqvae: str
    init: str
    label_dropout: Share = 0.1
    mixup: float = Field(0.0, ge=0)

    def trained_scales(self, K: int) -> range:
        """Scales (0-based) that are trained on at some step; the loss is a mean over their
        tokens."""
        return range(K)

    def weights(self, step: Step, K: int) -> list[float]:
        """Weight of each scale in the loss of a step.  What has weight 0 is not computed, but for
        what later scales need to see."""
        return [float(k in self.trained_scales(K)) for k in range(K)]

    def subnet(self, step: Step, depth: int) -> tuple[tuple[int, ...], int] | None:
        """Layers left for the scales after the first so many, if not all."""
        return None

    def check_files(self) -> None:
        """See `Recipe`; also by what the VQVAE's and the model's files say."""
        super().check_files()
        if vqvae := _sizes_of(self.vqvae, files.vqvae_config):
            self.check(vqvae, _sizes_of(self.init, files.var_config))

    def check(self, vqvae: VQVAEConfig, var: VARConfig | None) -> None:
        """Raises TrainError for what does not suit a VQVAE and the weights to start from, if
        those are known."""
        try:
            _check_side(self.data, vqvae)
        except ValueError as e:
            raise TrainError(str(e)) from None


class TrainVAR(VARRecipe):
    """A VAR from scratch, or on from `init`.

    class_scale: standard deviation of the class embedding at the start, if not VAR's own.
    layout: share of the steps that train scales 1..layout_scales only and compute no other: what
        is where is settled there, for a fraction of a step's price.
    layout_when: first, those at the start; drawn, each step by a draw, for a run of open end.
    balanced: late scales weigh more in the steps that have them, so that the mean of drawn steps
        is the loss of all scales.
    """

    recipe: Literal["var"] = "var"
    init: str = ""
    model: VARSizes | None = None
    class_scale: float | None = Field(None, gt=0)
    layout: Share = 0.0
    layout_scales: int = Field(7, ge=1)
    layout_when: Literal["first", "drawn"] = "first"
    balanced: bool = False

    @model_validator(mode="after")
    def _one_start(self) -> TrainVAR:
        if bool(self.init) == (self.model is not None):
            raise ValueError("give either init or, of a new model, the sizes in [model]")
        return self

    def weights(self, step: Step, K: int) -> list[float]:
        """Scales 1..layout_scales alone while the layout is trained."""
        drawn = self.layout_when == "drawn"
        place = step.draw("layout").random() if drawn else step.progress
        late = 1 / (1 - self.layout) if self.balanced and self.layout < 1 else 1.0
        if place < self.layout:
            late = 0.0
        return [1.0 if k < self.layout_scales else late for k in range(K)]


class CoDeRecipe(VARRecipe):
    """CoDe's two models.  draft_steps: N."""

    draft_steps: int = Field(ge=1)

    def check(self, vqvae: VQVAEConfig, var: VARConfig | None) -> None:
        """See `VARRecipe`."""
        super().check(vqvae, var)
        if self.draft_steps >= vqvae.scales.K:
            raise TrainError(f"draft_steps must be 1..{vqvae.scales.K - 1}, not {self.draft_steps}")


class TrainDrafter(CoDeRecipe):
    """CoDe, Eq. 5."""

    recipe: Literal["code-drafter"] = "code-drafter"

    def trained_scales(self, K: int) -> range:
        """Scales 1..N."""
        return range(self.draft_steps)


class TrainRefiner(CoDeRecipe):
    """CoDe, Eq. 6.

    teacher: the larger VAR.
    kl: teacher_student is KL(teacher || model), what the published loss code computes and so
        what the published refiners were trained with: a model too small for all of the
        teacher's modes keeps them all, and sampling keeps its variety.  student_teacher is
        KL(model || teacher), as Eq. 6 is printed: it keeps to the modes it can have.
    """

    recipe: Literal["code-refiner"] = "code-refiner"
    teacher: str
    kl: Literal["teacher_student", "student_teacher"] = "teacher_student"

    def weights(self, step: Step, K: int) -> list[float]:
        """Falls from 1 to 0 on scales 1..N (Eq. 6)."""
        return [1 - step.progress if k < self.draft_steps else 1.0 for k in range(K)]


class TrainVariant(VARRecipe):
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
    def skips_parameters(self) -> bool:
        """See `Recipe`."""
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

    def measures_gradients(self, step: Step) -> bool:
        """At every `measure_every`-th step, the first one first."""
        return self.measure_every > 0 and step.number % self.measure_every == 0

    def stage(self, progress: float) -> dict[str, Any]:
        """The phase that the model has come to."""
        return {"phase": self.phase(progress)}

    def layers(self, depth: int) -> tuple[int, ...]:
        """Of the subnet."""
        from codevar.steps import equidistant

        return equidistant(tuple(range(depth)), self.subnet_depth)

    def subnet(self, step: Step, depth: int) -> tuple[tuple[int, ...], int] | None:
        """By a draw of its own for each step."""
        if step.draw("subnet").random() >= self.probability(step.progress):
            return None
        return self.layers(depth), self.bridge_scales

    def check(self, vqvae: VQVAEConfig, var: VARConfig | None) -> None:
        """See `VARRecipe`."""
        super().check(vqvae, var)
        if var and self.subnet_depth > var.depth:
            raise TrainError(f"subnet_depth must be 2..{var.depth}, not {self.subnet_depth}")
        if self.bridge_scales > vqvae.scales.K:
            raise TrainError(f"bridge_scales must be 0..{vqvae.scales.K}, not {self.bridge_scales}")


class TrainPerturbed(VARRecipe):
    """CoDe, Observation 2: cross-entropy on the last scales only; the first ones forget."""

    recipe: Literal["perturb"] = "perturb"
    last_scales: int = Field(3, ge=1)

    def trained_scales(self, K: int) -> range:
        """The last ones."""
        return range(max(0, K - self.last_scales), K)


_KINDS: tuple[type[Recipe], ...] = (
    *(TrainVQVAE, TrainVAR, TrainDrafter, TrainRefiner, TrainVariant, TrainPerturbed),
    *(TrainClassifier, TrainFactorReader),
)
RECIPES = {kind.model_fields["recipe"].default: kind for kind in _KINDS}
#: Keys whose lists make a run each; `out` names them: "runs/mini/drafter_{draft_steps}".
AXES = ("seed", "draft_steps", "kl", "subnet_depth", "bridge_scales", "ratio")


def load(path: Path, changes: dict[str, str] | None = None) -> list[Recipe]:
    """The runs of a config file, usually one.

    changes: key -> TOML value, "optimizer.lr" for a table's.
    Raises TrainError: one line with the file, the key and what it may be.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, *files.NO_TOML) as e:
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
    if empty := [key for key, choices in axes.items() if not choices]:
        raise TrainError(f"{path}: {empty[0]}: must not be empty")
    runs = []
    for chosen in product(*axes.values()):
        # As JSON, of which the strict models take lists for tuples.
        text = json.dumps(values | dict(zip(axes, chosen, strict=True)), default=str)
        try:
            run = RECIPES[name].model_validate_json(text)
        except ValidationError as e:
            raise TrainError(f"{path}: {_explained(e)}") from None
        out, named = run.out, run.model_dump(include=set(AXES))
        for key, value in named.items():
            out = out.replace(f"{{{key}}}", str(value))
        if re.search("[{}]", out):
            raise TrainError(f"{path}: out may name {', '.join(named)} only")
        runs.append(run.model_copy(update={"out": out}))
    if len({run.out for run in runs}) < len(runs):
        raise TrainError(f"{path}: out must tell the runs apart: {{{next(iter(axes))}}}")
    return runs


def _value(text: str) -> Any:
    lists = [f"[{text}]"] if "," in text else []  # 0.1,1.0 is a list, as with --set elsewhere
    for toml in (text, *lists):
        with suppress(*files.NO_TOML):
            return tomllib.loads(f"value = {toml}")["value"]
    return text


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
            return ": ".join(filter(None, [key, str(first["ctx"]["error"])]))
    return f"{key}: {first['msg'].replace('Input should', 'must')}, not {first['input']!r}"


def _check_side(data: DataConfig, vqvae: VQVAEConfig) -> None:
    side = vqvae.patch_sizes[-1] * vqvae.stride
    if data.side != side:
        raise ValueError(f"data.side is {data.side}, but the VQVAE's images are {side} pixels")


def _sizes_of(source: str, read: Callable[[str], Sizes]) -> Sizes | None:
    """Sizes by a file's header; None where it is not here, or only torch can read it."""
    try:
        path = files.file_of(source, download=False)
        return read(source) if path.suffix == ".safetensors" and path.is_file() else None
    except CheckpointError:
        return None
