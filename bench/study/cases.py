"""Cases: one method at one size, batch and precision, as read from an experiment or a record.

A method is one class under `register`: its keys, its name, and its plan (`VARCase`) or its network
and steps (`bench.methods.baseline.Baseline`).  The project's own stand in the packages `OURS`, a
module each, which are imported when a method is first looked up; like any that registers a method,
they import torch in functions only.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import pkgutil
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from bench.study import plugins, savings, strangers
from bench.study.errors import UsageError, nearest
from codevar import files
from codevar.config import VARConfig, patch_sizes_of
from codevar.files import PUBLISHED, SHIPPED
from codevar.sampling_settings import PRESETS, Sampling
from codevar.scales import PATCH_SIZES_256

if TYPE_CHECKING:
    from codevar.plan import Plan
    from codevar.var import VAR

OURS = ("bench.methods.plans", "bench.methods.baselines")

Depth = Annotated[int, Field(ge=1, le=60)]
AnyKind = TypeVar("AnyKind", bound="Case")
#: `weights` of the mini world: its base models for everything, those trained for the method, or
#: files: "mini:runs/mini-cpu/perturbed/model.safetensors".
MINI, MINI_FINETUNED, MINI_FILE = "mini", "mini-finetuned", "mini:"
TRAINED = "model.safetensors"  # in the folder of a training


class Case(BaseModel):
    """What every method has.  Lists of these keys in an experiment are axes.

    label_format: what people call it, of its keys: "CoDe N={draft_steps}".  published: where each
    of its models is to be had besides `codevar.files.PUBLISHED`, by name: (repository of the
    hub, file), or a URL.  color, marker: of a plugin's method in figures, as matplotlib has them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    method: str
    batch_size: int = Field(1, ge=1, le=1024)
    stack: Literal["published", "modern", "compiled"] = "published"
    precision: Literal["float32", "bf16", "fp16"] = "fp16"
    attention: Literal["auto", "math", "efficient", "flash", "cudnn"] = "auto"
    device: str = "auto"
    weights: str = "seeded"
    seed: int = Field(0, ge=0, le=(1 << 63) - 1)
    memory_limit_gib: float | None = Field(None, gt=0)
    label_format: ClassVar[str] = ""
    published: ClassVar[Mapping[str, tuple[str, str] | str]] = {}
    color: ClassVar[str] = "#888888"
    marker: ClassVar[str] = "^"

    @field_validator("device")
    @classmethod
    def _device_is_one(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
        return "cuda" if device == "cuda:0" else device  # one name, or one case has two keys

    @property
    def label(self) -> str:
        """What people call it."""
        return self.label_format.format_map(dict(self))

    @property
    @abstractmethod
    def steps(self) -> str:
        """Forward steps, as the papers print them: "10" or "6+4"."""

    @property
    def has_scales(self) -> bool:
        """Whether it decodes scale by scale; a baseline has steps."""
        return False

    @property
    def makes_images(self) -> bool:
        """Whether its images can be sampled; a baseline is measured for speed and memory alone."""
        return False

    @property
    def look(self) -> dict[str, str]:
        """How figures draw a plugin's method."""
        return {"label": self.method, "color": self.color, "marker": self.marker}

    @property
    def in_part(self) -> bool:
        """Whether it runs only some of its steps, which stand for all."""
        return False

    @abstractmethod
    def model_names(self) -> tuple[str, ...]:
        """Published names of the models."""

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


_registered: dict[str, type[Case]] = {}


def register(kind: type[AnyKind]) -> type[AnyKind]:
    """Adds the decorated class to the methods.  Raises TypeError, with its name, if it lacks a
    part or its name is taken."""
    name = getattr(kind.model_fields["method"], "default", None)
    if not isinstance(name, str):
        raise TypeError(f"method {kind.__name__}: lacks the default of `method`, which is its name")
    lacking = sorted(kind.__abstractmethods__)
    lacking += [part for part in ("__doc__", "label_format") if not getattr(kind, part)]
    if lacking or name in _registered:
        raise TypeError(f"method {name}: lacks {', '.join(lacking) or 'a name of its own'}")
    _registered[name] = kind
    return kind


def methods() -> dict[str, type[Case]]:
    """All methods by name; plans first."""
    _import_ours()
    plugins.load_inherited()
    by_kind = sorted(_registered, key=lambda name: (not _is_plan(name), name))
    return {name: _registered[name] for name in by_kind}


def _is_plan(name: str) -> bool:
    return issubclass(_registered[name], VARCase)


def is_method(name: object) -> bool:
    """Whether there is such a method; an installed package that offers it is loaded."""
    if isinstance(name, str) and name not in methods():
        plugins.load_installed(name)
    return isinstance(name, str) and name in methods()


def add_plugins(files: Iterable[Path]) -> None:
    """Imports files that register methods, here and in every process that is started later.

    Raises UsageError, which names the file, for one that cannot be used.
    """
    if files := [*files]:
        methods()  # or a name that a plugin takes would be missed
        plugins.add(files)


@functools.cache
def _import_ours() -> None:
    for package in OURS:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")


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
    """A method that is a plan: what its models predict, scale by scale.

    depth_keys: keys of its models' depths, in the order `method_plan` takes the models.
    scale_keys: keys that count scales: the least they may be, and by how many less than K the most.
    recipes: of trainings (`codevar.train`) that make a model for the method.

    Keys that every plan can have stand here, and `plan` applies them to whatever a method plans.
    """

    depth: Depth = 30
    sampling: Literal["var", "code", "mini"] = "var"
    cfg: float | str | None = None
    cfg_ramp: bool | None = None
    top_k: int | str | None = None
    top_p: float | str | None = None
    temperature: float | str | None = None
    guidance_off_from: int | None = None
    skip_scales: str | None = None
    prune: str | None = None
    cache_policy: str | None = None
    cache_bits: Literal[16, 8, 4] = 16
    weight_bits: Literal[16, "W8A16", "W8A8"] = 16
    early_exit: str | None = None
    branch: str | None = None
    depth_keys: ClassVar[tuple[str, ...]] = ("depth",)
    scale_keys: ClassVar[Mapping[str, tuple[int, int]]] = {}
    recipes: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def method_plan(self, *models: VAR) -> Plan:
        """The method alone, with models of `depths`."""

    def plan(self, *models: VAR) -> Plan:
        """What a decode follows: the method, changed by the keys that all plans share."""
        with plugins.one_line(self):
            planned = self.method_plan(*models)
            if not hasattr(planned, "steps"):
                raise TypeError(f"method_plan must return a plan, not {planned!r}")
        return savings.applied(planned, self)

    @property
    def has_scales(self) -> bool:
        """It is a plan of them."""
        return True

    @property
    def makes_images(self) -> bool:
        """As any plan does."""
        return True

    @property
    def label(self) -> str:
        """What people call it, its savings behind it."""
        return super().label + savings.label(self)

    @model_validator(mode="after")
    def _savings_can_be(self) -> VARCase:
        savings.check(self, self.scale_count)
        if self.guidance_off_from and self.cfg == 0:
            raise ValueError("guidance_off_from: there is no guidance to turn off where cfg is 0")
        return self

    @functools.cached_property
    def patch_sizes(self) -> tuple[int, ...]:
        """Of its models' pyramid; of a file that cannot be read, those of the shipped models."""
        if not self.in_mini_world and not self.own_files():
            return patch_sizes_of(self.depth)
        try:
            return model_config(self.model_names()[0]).patch_sizes
        except files.CheckpointError:  # which is told where the model is needed
            return PATCH_SIZES_256

    @property
    def scale_count(self) -> int:
        """K of its models' pyramid."""
        return len(self.patch_sizes)

    @property
    def steps(self) -> str:
        """Number of scales."""
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
        return tuple(getattr(self, key) for key in self.depth_keys)

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
        """Name of the VQVAE."""
        return "mini_vqvae" if self.in_mini_world else "vae_ch160v4096z32"

    def finetuned(self) -> tuple[str, ...]:
        """Names of the models trained for this very method, if there are such."""
        return ()

    @model_validator(mode="before")
    @classmethod
    def _mini_depths(cls, values: Any) -> Any:
        """Where nothing else is said, the mini world's large model and its small one."""
        if isinstance(values, dict) and values.get("weights") in (MINI, MINI_FINETUNED):
            return {key: 12 if key == "depth" else 4 for key in cls.depth_keys} | values
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
        own = self.finetuned()
        if self.weights == "finetuned" and self.method != "var" and not {*own} & {*PUBLISHED}:
            raise ValueError(
                f"weights finetuned: nobody published any for {self.label}, only CoDe for "
                "N=6..9 of d30+d16; name your own files, or published, seeded"
            )
        if self.in_mini_world and not given:
            by_depth = _mini_by_depth()
            for depth in self.depths:
                if depth not in by_depth:
                    told = " or ".join(map(str, by_depth))
                    raise ValueError(f"the mini world's models have depth {told}, not {depth}")
        return self


class Foreign(Case):
    """A case of a method whose plugin is not loaded, as its run has kept it (`kept_facts`)."""

    model_config = ConfigDict(extra="allow")
    _facts: dict[str, Any] = PrivateAttr()

    @property
    def key(self) -> str:
        """As the plugin's own."""
        return self._facts["key"]

    @property
    def label(self) -> str:
        """What the plugin calls it."""
        return self._facts["label"]

    @property
    def steps(self) -> str:
        """As the plugin counts them."""
        return self._facts["steps"]

    @property
    def has_scales(self) -> bool:
        """As the plugin has it."""
        return self._facts.get("has_scales", False)

    @property
    def look(self) -> dict[str, str]:
        """As the plugin has it."""
        return self._facts.get("look", super().look)

    def model_names(self) -> tuple[str, ...]:
        """Nothing is known of them."""
        return ()


def is_ours(case: Case | type[Case]) -> bool:
    """Whether the method comes with the project, so that any reader knows it."""
    kind = case if isinstance(case, type) else type(case)
    return kind.__module__.startswith(OURS)


KEPT = ("key", "label", "steps", "has_scales", "look")


def kept_facts(case: Case) -> dict[str, Any]:
    """What a run keeps of a plugin's case, so that it can be read without the plugin."""
    return {name: getattr(case, name) for name in KEPT} | {"case": case.model_dump()}


def make_foreign(values: dict[str, Any], facts: dict[str, Any]) -> Foreign:
    """A case that a run, or an evaluation, keeps of a plugin's method."""
    case = Foreign.model_validate(facts.get("case", values))
    case._facts = facts
    return case


def make_case(values: dict[str, Any]) -> Case:
    """A checked case.  Raises UsageError: one line with the key and the allowed values."""
    name: Any = values.get("method")
    if not is_method(name):
        raise UsageError(f"method {name!r}: no such method{nearest(name, methods())}")
    kind = methods()[name]
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        raise UsageError(explain(e, kind)) from None


def sampled(cases: Iterable[Case], what: str) -> list[Case]:
    """Those whose images can be sampled: all but the baselines, which are measured for speed and
    memory alone.  Raises UsageError if none is left of `what`."""
    found = [case for case in cases if case.makes_images]
    if not found:
        raise UsageError(f"{what}: baselines are measured for speed and memory only")
    return found


def planned(cases: Iterable[Case], what: str) -> list[VARCase]:
    """Those of `sampled` that are plans; an adapter's code gives images only."""
    found = [case for case in sampled(cases, what) if isinstance(case, VARCase)]
    if not found:
        raise UsageError(f"{what}: is no plan of ours but code that gives images only")
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
    named = issubclass(model, Case)
    method = f" of method {model.model_fields['method'].default}" if named else ""
    keys = [
        part for part in first["loc"] if part in model.model_fields or kind == "extra_forbidden"
    ]
    key = str(keys[-1])
    if kind == "extra_forbidden":
        return f"{key}: no such key{method}{nearest(key, model.model_fields)}"
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
    """Sizes of a shipped model or of a file.  Raises CheckpointError, as for any file that a
    stranger names."""
    if name not in SHIPPED and strangers.folder():
        raise files.CheckpointError(f"{name}: a file that is not here")
    return files.var_config(name)


@functools.cache
def _mini_by_depth() -> dict[int, str]:
    """The mini world's base models."""
    base = [name for name in ("mini_large", "mini_small") if name in SHIPPED]
    return {model_config(name).depth: name for name in base}
