"""Cases: one method at one size, batch and precision, as read from an experiment or a record.

A method of the papers is one class here: what its keys may be, what it is called, and which
plan it is (a baseline has no plan: `bench.methods.baselines`).  A new method is one more class.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from bench.study.errors import UsageError
from codevar import files
from codevar.config import VARConfig, patch_sizes_of
from codevar.files import PUBLISHED, SHIPPED
from codevar.scales import PATCH_SIZES_256

if TYPE_CHECKING:
    from codevar.plan import Plan
    from codevar.sampling import Sampling
    from codevar.var import VAR

Depth = Annotated[int, Field(ge=1, le=60)]
SubnetDepth = Annotated[int, Field(ge=2, le=60)]
AnyKind = TypeVar("AnyKind", bound="Case")
#: `weights` of the mini world: its base models for everything, those trained for the method, or
#: files: "mini:runs/mini-cpu/perturbed/model.safetensors".
MINI, MINI_FINETUNED, MINI_FILE = "mini", "mini-finetuned", "mini:"
TRAINED = "model.safetensors"  # in the folder of a training


class Case(BaseModel):
    """What every method has.  Lists of these keys in an experiment are axes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    method: str
    batch_size: int = Field(1, ge=1, le=1024)
    stack: Literal["published", "modern", "compiled"] = "published"
    precision: Literal["float32", "bf16", "fp16"] = "fp16"
    attention: Literal["auto", "math", "efficient", "flash", "cudnn"] = "auto"
    device: str = "auto"
    weights: str = "seeded"
    seed: int = Field(0, ge=0)
    memory_limit_gib: float | None = Field(None, gt=0)

    @field_validator("device")
    @classmethod
    def _device_is_one(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
        return "cuda" if device == "cuda:0" else device  # one name, or one case has two keys

    @property
    def label(self) -> str:
        """What people call it."""
        raise NotImplementedError

    @property
    def steps(self) -> str:
        """Forward steps, as the papers print them: "10" or "6+4"."""
        raise NotImplementedError

    @property
    def in_part(self) -> bool:
        """Whether it runs only some of its steps, which stand for all."""
        return False

    def model_names(self) -> tuple[str, ...]:
        """Published names of the models."""
        raise NotImplementedError

    @functools.cached_property
    def key(self) -> str:
        """The same for the same case, whatever the order of its keys."""
        # Without defaults, so that a key which is added later leaves old records theirs.
        values = {"method": self.method, **self.model_dump(exclude_defaults=True)}
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def in_mini_world(self) -> bool:
        """Whether its models are the small ones that ship with the project."""
        return self.weights in (MINI, MINI_FINETUNED) or self.weights.startswith(MINI_FILE)


#: Keys of a VAR case that change a preset; None leaves what the preset has.
SAMPLING_KEYS = ("cfg", "cfg_ramp", "top_k", "top_p", "temperature")


def per_scale(key: str, text: str, scales: int) -> tuple[float, ...]:
    """Numbers by scale from "1.1x7,1x3": 1.1 at seven scales, then 1 at three.

    Raises ValueError, one line with the key.
    """
    part = r"\d+(\.\d+)?(x\d{1,3})?"
    if not re.fullmatch(f"{part}(,{part})*", text):
        raise ValueError(f'{key} must be a number, or numbers by scale like "1.1x7,1x3": {text!r}')
    found: list[float] = []
    for part in text.split(","):
        number, _, times = part.partition("x")
        found += [float(number)] * int(times or 1)
    if len(found) != scales:
        raise ValueError(f"{key}: {text!r} has {len(found)} numbers for {scales} scales")
    return tuple(found)


class VARCase(Case):
    """A method that is a plan: what a model of `depth` predicts, scale by scale."""

    depth: Depth = 30
    sampling: Literal["var", "code", "mini"] = "var"
    cfg: float | str | None = None
    cfg_ramp: bool | None = None
    top_k: int | str | None = None
    top_p: float | str | None = None
    temperature: float | str | None = None
    #: Keys that count scales: the least they may be, and by how many less than K the most.
    scale_keys: ClassVar[dict[str, tuple[int, int]]] = {}

    @functools.cached_property
    def scale_count(self) -> int:
        """K of its models' pyramid; of a file that cannot be read, that of the shipped models."""
        if not self.in_mini_world and not self.own_files():
            return len(patch_sizes_of(self.depth))
        try:
            return len(model_config(self.model_names()[0]).patch_sizes)
        except files.CheckpointError:  # which is told where the model is needed
            return len(PATCH_SIZES_256)

    @property
    def steps(self) -> str:
        return str(self.scale_count)

    @model_validator(mode="after")
    def _counts_of_scales_fit(self) -> VARCase:
        for name, (least, fewer) in self.scale_keys.items():
            value, most = getattr(self, name), self.scale_count - fewer
            if not least <= value <= most:
                raise ValueError(f"{name} must be {least}..{most}, not {value}")
        return self

    def sampling_settings(self) -> Sampling:
        """The preset `sampling` with what else the case says; "1.1x7,1x3" is a number a scale.

        Raises ValueError for settings that cannot be.
        """
        from codevar.sampling import PRESETS

        own = {key: value for key in SAMPLING_KEYS if (value := getattr(self, key)) is not None}
        for key, value in own.items():
            if isinstance(value, str):
                own[key] = per_scale(key, value, self.scale_count)
        return dataclasses.replace(PRESETS[self.sampling], **own)

    @model_validator(mode="after")
    def _sampling_can_be(self) -> VARCase:
        if any(getattr(self, key) is not None for key in SAMPLING_KEYS):
            self.sampling_settings()
        return self

    @property
    def depths(self) -> tuple[int, ...]:
        """Depths of the models it needs, in the order `plan` takes them."""
        return (self.depth,)

    def plan(self, *models: VAR) -> Plan:
        raise NotImplementedError

    def own_files(self) -> tuple[str, ...]:
        """The files that `weights` names, "drafter.pth+refiner.pth", one for each model; a
        training's folder stands for its model.  None for weights by name or in a folder by name."""
        paths = [Path(part) for part in self.weights.removeprefix(MINI_FILE).split("+")]
        found = [path / TRAINED if (path / TRAINED).is_file() else path for path in paths]
        named = self.weights.startswith(MINI_FILE)  # a shipped model's name is one too
        own = named or all(path.suffix in (".safetensors", ".pth") for path in found)
        return tuple(map(str, found)) if own else ()

    def model_names(self) -> tuple[str, ...]:
        """Names of the models: the published ones, `codevar.files.SHIPPED`, or files."""
        if own := self.own_files():
            return own
        if self.weights == MINI_FINETUNED and (own := self.finetuned()):
            return tuple(f"mini_{name}" for name in own)
        if self.in_mini_world:
            return tuple(_mini_by_depth().get(d, f"mini_var_d{d}") for d in self.depths)
        if self.weights == "finetuned" and (own := self.finetuned()):
            return own
        return tuple(f"var_d{depth}" for depth in self.depths)

    @property
    def vqvae_name(self) -> str:
        return "mini_vqvae" if self.in_mini_world else "vae_ch160v4096z32"

    def finetuned(self) -> tuple[str, ...]:
        """Names of the models trained for this very method, if there are such."""
        return ()

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_that_world(cls, values: Any) -> Any:
        """Where nothing else is said, its large model and its small one."""
        if isinstance(values, dict) and values.get("weights") in (MINI, MINI_FINETUNED):
            sizes = {"depth": 12, "refiner_depth": 4, "other_depth": 4}
            return {k: v for k, v in sizes.items() if k in cls.model_fields} | values
        return values

    @model_validator(mode="after")
    def _weights_are_for_it(self) -> VARCase:
        models, given = len(self.depths), len(self.own_files())
        if given and given != models:
            form = "DRAFTER+REFINER, a file or a training's folder each"
            told = f"write {form}" if models == 2 else "write one"
            raise ValueError(
                f"weights: {self.weights} is {given} of {models} models of {self.label}; {told}"
            )
        if self.weights == "finetuned" and self.method != "var":
            own = self.finetuned()
            if not own or not all(name in PUBLISHED for name in own):
                raise ValueError(
                    f"weights finetuned: nobody published any for {self.label}, only CoDe for "
                    "N=6..9 of d30+d16; name your own files, or published, seeded"
                )
        return self

    @model_validator(mode="after")
    def _of_that_world(self) -> VARCase:
        if not self.in_mini_world or self.own_files():
            return self
        by_depth = _mini_by_depth()
        for depth in self.depths:
            if depth not in by_depth:
                told = " or ".join(map(str, by_depth))
                raise ValueError(f"the mini world's models have depth {told}, not {depth}")
        return self


class Original(VARCase):
    """VAR as published."""

    method: Literal["var"] = "var"

    @property
    def label(self) -> str:
        return f"VAR-d{self.depth}"

    def plan(self, *models: VAR) -> Plan:
        from codevar.plan import original

        return original(models[0])


class CoDe(VARCase):
    """A drafter of `depth` for scales 1..draft_steps, a refiner after."""

    method: Literal["code"] = "code"
    refiner_depth: Depth = 16
    draft_steps: int
    scale_keys: ClassVar = {"draft_steps": (1, 1)}

    @property
    def label(self) -> str:
        return f"CoDe N={self.draft_steps} (d{self.depth}+d{self.refiner_depth})"

    @property
    def steps(self) -> str:
        return f"{self.draft_steps}+{self.scale_count - self.draft_steps}"

    @property
    def depths(self) -> tuple[int, ...]:
        return self.depth, self.refiner_depth

    def plan(self, *models: VAR) -> Plan:
        from codevar.plan import code

        drafter, refiner = models
        return code(drafter, refiner, self.draft_steps)

    def finetuned(self) -> tuple[str, ...]:
        if not self.in_mini_world and self.depths != (30, 16):
            return ()
        return f"drafter_{self.draft_steps}", f"refiner_{self.draft_steps}"


class Subnetted(VARCase):
    """Methods that leave out layers."""

    subnet_depth: SubnetDepth

    @property
    def thinned(self) -> int:
        """Depth of the model whose layers are left out."""
        return self.depth

    @model_validator(mode="after")
    def _subnet_fits(self) -> Subnetted:
        if self.subnet_depth > self.thinned:
            raise ValueError(f"subnet_depth must be 2..{self.thinned}, not {self.subnet_depth}")
        return self


class VARiant(Subnetted):
    """All layers on scales 1..bridge_scales, `subnet_depth` equidistant ones after."""

    method: Literal["variant"] = "variant"
    bridge_scales: int = 6
    scale_keys: ClassVar = {"bridge_scales": (0, 0)}

    @property
    def label(self) -> str:
        return f"VARiant-d{self.subnet_depth} N={self.bridge_scales} (d{self.depth})"

    @property
    def steps(self) -> str:
        return f"{self.bridge_scales}+{self.scale_count - self.bridge_scales}"

    def finetuned(self) -> tuple[str, ...]:
        return (f"variant_d{self.subnet_depth}",) if self.in_mini_world else ()

    def plan(self, *models: VAR) -> Plan:
        from codevar.plan import variant

        return variant(models[0], self.subnet_depth, self.bridge_scales)


def as_written(scales: Any) -> Any:
    """ "3" too, which reads as a number."""
    return str(scales) if type(scales) is int else scales


class Subnet(Subnetted):
    """`subnet_depth` equidistant layers on some scales ("1-3", "4-6,10"), all elsewhere."""

    method: Literal["subnet"] = "subnet"
    scales: Annotated[str, BeforeValidator(as_written)]

    @property
    def label(self) -> str:
        return f"VARiant-d{self.subnet_depth} at {self.scales} (d{self.depth})"

    def chosen(self) -> list[int]:
        """The scales, from 1."""
        spans = [part.split("-") for part in self.scales.split(",")]
        return [k for span in spans for k in range(int(span[0]), int(span[-1]) + 1)]

    @model_validator(mode="after")
    def _scales_fit(self) -> Subnet:
        written = re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", self.scales)
        chosen, K = self.chosen() if written else [], self.scale_count
        if not chosen or min(chosen) < 1 or max(chosen) > K:
            raise ValueError(f"scales must be like 7-10 or 1-3,5, in 1..{K}, not {self.scales!r}")
        return self

    def plan(self, *models: VAR) -> Plan:
        from codevar.plan import subnet

        return subnet(models[0], self.subnet_depth, self.chosen())


class Swap(VARCase):
    """One scale by another model."""

    method: Literal["swap"] = "swap"
    other_depth: Depth = 16
    scale: int
    scale_keys: ClassVar = {"scale": (1, 0)}

    @property
    def label(self) -> str:
        return f"VAR-d{self.depth}, scale {self.scale} by d{self.other_depth}"

    @property
    def depths(self) -> tuple[int, ...]:
        return self.depth, self.other_depth

    def plan(self, *models: VAR) -> Plan:
        from codevar.plan import swap_scale

        base, other = models
        return swap_scale(base, other, self.scale)


class CoDeVARiant(CoDe, Subnetted):
    """CoDe whose refiner is itself a subnet."""

    method: Literal["code_variant"] = "code_variant"  # type: ignore[assignment]

    @property
    def thinned(self) -> int:
        return self.refiner_depth

    @property
    def label(self) -> str:
        return (
            f"CoDe N={self.draft_steps} (d{self.depth}+d{self.refiner_depth}"
            f" by {self.subnet_depth} layers)"
        )

    def finetuned(self) -> tuple[str, ...]:
        return super().finetuned() if self.in_mini_world else ()

    def plan(self, *models: VAR) -> Plan:
        from codevar.plan import code, subnet

        drafter, refiner = models
        late = range(self.draft_steps + 1, self.scale_count + 1)
        return code(drafter, subnet(refiner, self.subnet_depth, late), self.draft_steps)


class Baseline(Case):
    """A method that the papers compare with (docs/guide/baselines.md).

    size: of its published family.  cfg: guidance, as in its own evaluation.  max_steps: run so
    many of its steps, evenly spread, and let each stand for those near it: a time without images.
    """

    size: str
    cfg: float = Field(..., ge=1)
    max_steps: int | None = Field(None, ge=1)

    @property
    def all_steps(self) -> int:
        """Of a decode: rounds, denoising steps or tokens."""
        raise NotImplementedError

    @property
    def steps(self) -> str:
        return f"{self.max_steps} of {self.all_steps}" if self.in_part else str(self.all_steps)

    @property
    def in_part(self) -> bool:
        return self.max_steps is not None and self.max_steps < self.all_steps

    @field_validator("weights")
    @classmethod
    def _weights_are_to_be_had(cls, weights: str) -> str:
        if weights == "finetuned" or weights.startswith(MINI):
            raise ValueError(f"weights must be seeded, published or a folder here, not {weights}")
        return weights


class DiT(Baseline):
    """DiT: denoising steps by DDIM, each over all latents."""

    method: Literal["dit"] = "dit"
    size: Literal["XL/2", "L/2", "B/2", "S/2"] = "XL/2"
    cfg: float = Field(1.5, ge=1)
    sampling_steps: int = Field(50, ge=1, le=1000)

    @property
    def label(self) -> str:
        return f"DiT-{self.size}"

    @property
    def all_steps(self) -> int:
        return self.sampling_steps

    def model_names(self) -> tuple[str, ...]:
        return f"dit_{self.size.lower().replace('/', '')}", "sd_vae"


class MAR(Baseline):
    """MAR: rounds of masked prediction, in each a small diffusion for each token."""

    method: Literal["mar"] = "mar"
    size: Literal["B", "L", "H"] = "B"
    cfg: float = Field(2.9, ge=1)
    rounds: int = Field(100, ge=1, le=256)
    denoising_steps: int = Field(100, ge=1, le=1000)

    @property
    def label(self) -> str:
        return f"MAR-{self.size}"

    @property
    def all_steps(self) -> int:
        return self.rounds

    def model_names(self) -> tuple[str, ...]:
        return f"mar_{self.size.lower()}", "kl_16"


class LlamaGen(Baseline):
    """LlamaGen: a Llama, token by token."""

    method: Literal["llamagen"] = "llamagen"
    size: Literal["XXL", "XL", "L", "B"] = "XXL"
    cfg: float = Field(1.75, ge=1)
    top_k: int = Field(0, ge=0)
    resolution: Literal[256, 384] = 384

    @property
    def label(self) -> str:
        return f"LlamaGen-{self.size}" + (" (256 px)" if self.resolution == 256 else "")

    @property
    def all_steps(self) -> int:
        return (self.resolution // 16) ** 2

    def model_names(self) -> tuple[str, ...]:
        return f"llamagen_{self.size.lower()}_{self.resolution}", "vq_16"


class AiM(Baseline):
    """AiM: Mamba-2, token by token."""

    method: Literal["aim"] = "aim"
    size: Literal["XL", "L", "B"] = "XL"
    cfg: float = Field(1.75, ge=1)
    top_k: int = Field(0, ge=0)

    @property
    def label(self) -> str:
        return f"AiM-{self.size}"

    @property
    def all_steps(self) -> int:
        return 256

    def model_names(self) -> tuple[str, ...]:
        return f"aim_{self.size.lower()}", "vq_16"


AnyCase = Original | CoDe | VARiant | Subnet | Swap | CoDeVARiant | DiT | MAR | LlamaGen | AiM


class Methods:
    """The methods by name."""

    by_name: ClassVar[dict[str, type[Case]]] = {
        get_args(kind.model_fields["method"].annotation)[0]: kind for kind in get_args(AnyCase)
    }
    adapter: ClassVar[TypeAdapter] = TypeAdapter(Annotated[AnyCase, Field(discriminator="method")])


def make_case(values: dict[str, Any]) -> Case:
    """A checked case.  Raises UsageError: one line with the key and the allowed values."""
    name = values.get("method")
    if not isinstance(name, str) or name not in Methods.by_name:
        raise UsageError(f"method must be one of {', '.join(Methods.by_name)}, not {name!r}")
    try:
        return Methods.adapter.validate_python(values)
    except ValidationError as e:
        raise UsageError(explain(e, Methods.by_name[name])) from None


def has_scales(method: str) -> bool:
    """Whether the method of that name decodes scale by scale; a baseline has steps."""
    return issubclass(Methods.by_name[method], VARCase)


def sampled(cases: Iterable[Case], what: str) -> list[VARCase]:
    """Those whose images can be sampled: all but the baselines, which are measured for speed and
    memory alone.  Raises UsageError if none is left of `what`."""
    found = [case for case in cases if isinstance(case, VARCase)]
    if not found:
        raise UsageError(f"{what}: baselines are measured for speed and memory only")
    return found


def with_batch(case: AnyKind, batch_size: int) -> AnyKind:
    """The same case at another batch size, however large."""
    return case.model_copy(update={"batch_size": batch_size})


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first complaint of pydantic as one line with the key and what it may be."""
    first = error.errors()[0]
    kind, message = first["type"], first["msg"]
    if kind == "value_error":
        return str(first["ctx"]["error"])
    method = f" of method {first['loc'][0]}" if first["loc"][0] in Methods.by_name else ""
    keys = [
        part for part in first["loc"] if part in model.model_fields or kind == "extra_forbidden"
    ]
    key = str(keys[-1])
    if kind == "extra_forbidden":
        return f"{key}: no such key{method}; there are {', '.join(model.model_fields)}"
    if kind == "missing":
        return f"{key}: missing{method}"
    bounds = {
        name: getattr(part, name)
        for part in model.model_fields[key].metadata
        for name in ("ge", "le", "gt")
        if getattr(part, name, None) is not None
    }
    match bounds:
        case {"ge": low, "le": high}:
            allowed = f"must be {low}..{high}"
        case {"ge": low}:
            allowed = f"must be at least {low}"
        case {"gt": low}:
            allowed = f"must be above {low}"
        case _:
            allowed = re.sub(r"^(Input|String|List) should", "must", message)
    return f"{key} {allowed}, not {first['input']!r}"


@functools.cache
def model_config(name: str) -> VARConfig:
    """Sizes of a shipped model or of a file.  Raises CheckpointError."""
    return files.var_config(name)


@functools.cache
def _mini_by_depth() -> dict[int, str]:
    """The mini world's base models."""
    base = [name for name in ("mini_large", "mini_small") if name in SHIPPED]
    return {model_config(name).depth: name for name in base}
