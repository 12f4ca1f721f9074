"""The one training loop: recipes differ in what a step costs (`recipes.py`), not in this."""

import json
import math
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from codevar.checkpoints import weights_sha256
from codevar.files import atomic_write, is_oom
from codevar.progress import Progress
from codevar.train import checkpoint, gradients, optim, parallel
from codevar.train.build import build
from codevar.train.errors import TrainError
from codevar.train.objectives import averaged
from codevar.train.parallel import Group
from codevar.train.recipes import Recipe, TrainVariant, VARRecipe
from codevar.train.step import Step
from codevar.train.time_limit import TimeLimit
from codevar.var import VAR

METRICS = "metrics.jsonl"
SETTLED = 8  # steps after which a limited run's first estimates of its length are over
PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Keys that may differ between a run and its continuation; a change of length is kept in the card.
_FREE = {
    *("out", "log_every", "checkpoint_every", "measure_every", "half", "keep", "steps", "epochs"),
    "compile",
}


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    progress: Progress | None = None,
    limit: TimeLimit | None = None,
) -> Path:
    """Trains by a recipe and leaves the model in `out`; gives its path.

    limit: ends the run in a given time: its length, and with it every schedule, follows from the
    speed, with the recipe's steps as the most.

    resume: goes on from the folder's checkpoint, if it has one, else from the weights of a model
    of fewer steps than the recipe's, with a new warm-up; a finished model is left as it is.  A
    run that is killed at any moment and resumed ends with the weights of one that was not, bit
    for bit on one CPU.
    Raises TrainError for what stops it; the last good checkpoint is then intact.
    """
    group = parallel.join(device)
    progress = (progress or Progress()) if group.first else Progress(quiet=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0) if group.first else nullcontext():
            if _left_finished(recipe, out, resume):
                progress.say(f"{recipe.recipe}: finished before")
                return out / checkpoint.MODEL
            return Run(recipe, out, group, resume, progress, limit).go()
    except KeyboardInterrupt:
        progress.say(f"{out}: stopped; {checkpoint.describe_last(out)}")
        raise
    except Timeout:
        raise TrainError(f"{out}: another run is training there") from None
    except (RuntimeError, MemoryError) as e:
        if not is_oom(e):
            raise
        raise TrainError("out of memory; a smaller micro_batch needs less") from None
    except OSError as e:
        raise TrainError(f"{out}: {e}; {checkpoint.describe_last(out)}") from None


class Run:
    """One training, from its checkpoint (or the start) to the finished model."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        group: Group,
        resume: bool,
        progress: Progress,
        limit: TimeLimit | None = None,
    ) -> None:
        self.out, self.group, self.progress, self.limit = out, group, progress, limit
        self.config = recipe.model_dump(mode="json", by_alias=True)
        before = checkpoint.read_header(out)
        self.shortened = before["config"].get("shortened", {}) if before else {}
        self.given = recipe
        self.recipe = recipe = recipe.model_copy(update=self.shortened)
        if before and not resume:
            raise TrainError(
                f"{out} has a run at step {before['step']}: --resume goes on with it, or choose "
                "another --out"
            )
        if before:
            _check_same(out, before["config"], self.config)
        self.micro = recipe.micro_batch or recipe.batch_size // group.size
        if self.micro == 0 or recipe.batch_size % (self.micro * group.size):
            raise TrainError(
                f"batch_size {recipe.batch_size} is no multiple of {group.size} processes x "
                f"micro_batch {self.micro}"
            )
        # A recipe's prefixes, subnets and two models are a graph each.
        torch._dynamo.config.recompile_limit = 64
        self.objective, self.source = build(recipe, group, self.progress.say)
        self.base = _base(recipe, self.objective.model) if group.first else {}
        model = checkpoint.read_card(out) if resume and not before else None
        if model:
            checkpoint.restore_model(out, self.objective.model)
        self.objective.to(group.device).train()
        if recipe.average:
            self.objective.average = averaged(self.objective.model, recipe.average)
        self.steps = self.full = recipe.length(len(self.source))
        self.shared = parallel.distribute(
            self.objective, group, recipe.parallel, recipe.skips_parameters
        )
        self.optimizers = optim.make_optimizers(
            self.objective.model, recipe.optimizer, group.device
        )
        if recipe.parallel == "fsdp" and group.size > 1 and len(self.optimizers) > 1:
            raise TrainError("optimizer.name: muon needs whole matrices; use adamw with fsdp")
        self.scaler = torch.amp.GradScaler(
            group.device.type, enabled=recipe.precision == "fp16", init_scale=2.0**14
        )
        self.done = before["step"] if before else model["steps"] if model else 0
        if self.done > self.steps:
            raise TrainError(
                f"{out} is at step {self.done} already, which is more than {self.steps}"
            )
        was = before["config"] if before else model["recipe"] if model else {}
        falls = self.steps * (1 - recipe.optimizer.cooldown)
        if (
            was
            and was["optimizer"]["decay"] == "constant" != recipe.optimizer.decay
            and self.done > falls
        ):
            raise TrainError(
                f"{out}: the cooldown would have begun at step {falls:.0f}, and {self.done} are "
                "done; choose more steps, or a shorter cooldown"
            )
        self.lengths = before["config"].get("lengths", []) if before else []
        if model:
            past = model.get("lengths") or [{"from": 0, "steps": self.done}]
            self.lengths = [*past, {"from": self.done, "steps": self.steps, "weights_only": True}]
        if not self.lengths or self.lengths[-1]["steps"] != self.steps:
            self.lengths = [*self.lengths, {"from": self.done, "steps": self.steps}]
        self.begun = max(
            (part["from"] for part in self.lengths if "weights_only" in part), default=0
        )
        if before:
            checkpoint.restore(out, self.objective, self.optimizers)
            self.scaler.load_state_dict(before["scaler"])
        self.waiting: list[dict[str, torch.Tensor]] = []  # since the last look

    def go(self) -> Path:
        """Trains to the end; gives the path of the model."""
        metrics, model = self.out / METRICS, self.out / checkpoint.MODEL
        written = checkpoint.read_card(self.out)
        self.group.wait()  # all have looked before one writes
        if written and written["steps"] == self.done == self.steps:
            self.progress.say(f"{self.recipe.recipe}: finished before")
            return model
        if self.group.first:
            _forget_after(metrics, self.done)
        if self.group.device.type == "cuda":  # or the card would have the most of all runs so far
            torch.cuda.reset_peak_memory_stats(self.group.device)
        if self.done:
            self.progress.say(f"{self.recipe.recipe}: on from step {self.done} of {self.steps}")
        with self.progress:
            self.progress.show(self.recipe.recipe, self.done, self.steps, "")
            batches = self.source.stream(self._parts())
            started, from_step = time.perf_counter(), self.done
            keep = [s for s in self.recipe.keep if round(s * self.steps) > self.done]
            while self.done < self.steps:
                self._step(batches)
                self.done += 1
                # With a time limit the first looks come soon: after 1, 2, 4, 8 ... steps.
                early = self.limit is not None and self.done & (self.done - 1) == 0
                look = early or self.done % self.recipe.log_every == 0
                if look and self.limit and self.done < self.steps:
                    self._fit_into(self.limit)
                end = self.done == self.steps
                kept = [s for s in keep if round(s * self.steps) <= self.done]
                keep = [s for s in keep if s not in kept]
                save = end or kept or self.done % self.recipe.checkpoint_every == 0
                if save or look:
                    found = self._look()
                    found["seconds"] = time.perf_counter() - started
                    images = (self.done - from_step) * self.recipe.batch_size
                    found["images_per_s"] = images / found["seconds"]
                    started, from_step = time.perf_counter(), self.done
                    if self.group.first:
                        with metrics.open("a") as file:
                            file.write(json.dumps({"step": self.done} | found) + "\n")
                    self._tell(found)
                for share in kept:  # before the checkpoint, past which no run comes back
                    self._export(f"model_{100 * share:.0f}")
                if save:
                    self._save()
        self._export("model")
        return model

    def _fit_into(self, limit: TimeLimit) -> None:
        """Chooses the length of the run by the time that is left."""
        self.steps = self.group.agree(limit.fitting_steps(self.done, self.full))
        self.lengths[-1] |= {"steps": self.steps}
        if self.done <= SETTLED:
            shorter = self.steps < self.full
            changes = self.given.shortened(self.done, self.steps, self.full) if shorter else {}
            self.shortened = changes
            self.recipe = self.objective.recipe = self.given.model_copy(update=changes)

    def _tell(self, found: dict[str, float]) -> None:
        """The last look in a line: loss, loss by scale, images per second, time left."""
        others = [f"{k} {found[k]:.3g}" for k in ("psnr_db", "accuracy") if k in found]
        parts = [f"step {self.done} of {self.steps}", f"loss {found['loss']:.4f}", *others]
        speed = f"{found['images_per_s']:.4g} images/s"
        name = self.recipe.recipe
        line = self.progress.show(name, self.done, self.steps, ", ".join([*parts, speed]))
        scales = [f"{found[k]:.3f}" for k in found if k.startswith("scale_")]
        by_scale = f", by scale {' '.join(scales)}" if scales else ""
        self.progress.say(f"{name}: {line}{by_scale}")

    def _parts(self) -> Iterator[Step]:
        """The forwards of this process, in order."""
        recipe, group = self.recipe, self.group
        for number in count(self.done):
            if number >= self.steps and self.limit is None:  # else it may get longer yet
                return
            for start in range(0, recipe.batch_size, self.micro * group.size):
                first = start + group.rank * self.micro
                rows = range(first, first + self.micro)
                yield Step(number, self.steps, recipe.seed, recipe.batch_size, rows)

    def _step(self, batches) -> None:
        recipe = self.recipe
        parts = recipe.batch_size // (self.micro * self.group.size)
        optim.set_rate(self.optimizers, recipe.optimizer, self.done, self.steps, self.begun)
        total: dict[str, torch.Tensor] = {}
        for part in range(parts):
            step, batch = next(batches)
            if part == 0 and recipe.measures_gradients(step):
                total |= self._measured(batch, step)
            with parallel.accumulating(self.shared, last=part == parts - 1):
                with self._autocast():
                    losses = self.shared(batch, step)
                self.scaler.scale(losses["loss"] / parts).backward()
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value.detach() / parts
        total["gradient"] = self._gradient()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        self.objective.after_step(step)
        if self.objective.average is not None:
            self.objective.average.update_parameters(self.objective.model)
        self.waiting.append(total)

    def _measured(self, batch, step: Step) -> dict[str, torch.Tensor]:
        """Where the gradient of a supernet comes from on this batch (`gradients.py`); all
        processes take part, and no gradient is left."""
        recipe, var = self.recipe, self.objective.model
        assert isinstance(recipe, TrainVariant)
        assert isinstance(var, VAR)
        layers = recipe.layers(var.config.depth)

        def backward(part: gradients.Part) -> torch.Tensor:
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                loss = self.shared(batch, step, part)["loss"]
            # Scaled as in a step, against the small range of fp16; the norm is of the plain loss.
            self.scaler.scale(loss).backward()
            return loss

        parts = gradients.parts(var.scales.K, recipe.bridge_scales, layers)
        found = gradients.measure(parts, backward, var.blocks, layers, self.scaler.get_scale())
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        probability = found["loss_full"].new_tensor(recipe.probability(step.progress))
        return found | {gradients.PROBABILITY: probability}

    def _autocast(self):
        dtype = PRECISIONS[self.recipe.precision]
        if dtype is None:
            return nullcontext()
        return torch.autocast(self.group.device.type, dtype)

    def _gradient(self) -> torch.Tensor:
        """Norm of the gradient, which is then clipped."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        clip = self.recipe.optimizer.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.objective.model.parameters(), clip)
        return parallel.gather_full(norm)

    def _look(self) -> dict[str, float]:
        """Means since the last look.  Raises TrainError at a step whose loss is not finite: only
        now, as to look at every step would make a GPU wait, but before anything is kept."""
        names = list(dict.fromkeys(name for step in self.waiting for name in step))
        table = torch.stack(
            [
                torch.stack([step.get(n, step["loss"].new_full((), math.nan)) for n in names])
                for step in self.waiting
            ]
        )
        table = self.group.mean(table.double()).cpu()
        watched = ["loss"] if self.scaler.is_enabled() else ["loss", "gradient"]
        for back, row in enumerate(table):
            for name in watched:
                value = row[names.index(name)].item()
                if not math.isfinite(value):
                    step = self.done - len(table) + back + 1
                    raise TrainError(
                        f"step {step}: {name} is {value}; {checkpoint.describe_last(self.out)} "
                        "(a smaller rate, or clip, may help)"
                    )
        self.waiting = []
        means = table.nanmean(dim=0).tolist()
        return {n: v for n, v in zip(names, means, strict=True) if math.isfinite(v)}

    def _save(self) -> None:
        checkpoint.save(
            self.out,
            self.done,
            self.objective,
            self.optimizers,
            self.scaler,
            self.config | {"lengths": self.lengths, "shortened": self.shortened},
            self.group.first,
        )
        if self.objective.average is not None and self.done < self.steps:
            self._export("model_latest")
        self.group.wait()

    def _export(self, name: str) -> None:
        average, half = self.objective.average, self.recipe.half
        model = self.objective.model if average is None else average.module
        checkpoint.export(self.out, name, model, half, self._card(), self.group.first)
        self.group.wait()

    def _card(self) -> dict[str, Any]:
        metrics = self.out / METRICS
        lines = metrics.read_text("utf-8-sig").splitlines() if metrics.exists() else []
        rows = [json.loads(line) for line in lines]
        seconds = round(sum(row["seconds"] for row in rows), 1)
        return {
            "recipe": self.config,
            "steps": self.done,
            "share": self.done / self.steps,
            **self.recipe.stage(max(0, self.done - 1) / max(1, self.steps - 1)),
            **self.base,
            "classes": list(self.source.classes),
            **({"lengths": self.lengths} if len(self.lengths) > 1 else {}),
            **({"shortened": self.shortened} if self.shortened else {}),
            **({"time_limit_s": round(self.limit.seconds, 1)} if self.limit else {}),
            "images": self.done * self.recipe.batch_size,
            **({"seconds": seconds, "last": rows[-1]} if rows else {}),
            "processes": self.group.size,
            "hardware": _hardware(self.group.device),
            **_peak(self.group.device),
            "torch": torch.__version__,
            "commit": _commit(),
        }


def _left_finished(recipe: Recipe, out: Path, resume: bool) -> bool:
    """Whether the folder has the recipe's finished model, of all its steps, without a checkpoint.

    Raises TrainError before a model is written over unasked.
    """
    model = out / checkpoint.MODEL
    if not model.exists() or checkpoint.read_header(out) is not None:
        return False
    if not resume:
        raise TrainError(
            f"{out} has a finished model: --resume leaves it as it is; to train anew delete "
            f"{model} or choose another --out"
        )
    card, now = checkpoint.read_card(out), recipe.model_dump(mode="json", by_alias=True)
    if card is None:
        raise TrainError(f"{model}: damaged, or of no training; choose another --out")
    _check_same(out, card["recipe"], now)
    if recipe.steps and recipe.steps > card["steps"]:
        return False  # goes on from the weights
    if any(card["recipe"].get(length) != now[length] for length in ("steps", "epochs")):
        raise TrainError(
            f"{model} is of {card['steps']} steps, without the checkpoint that another length "
            "would go on from; choose another --out"
        )
    return True


def _check_same(out: Path, before: dict[str, Any], now: dict[str, Any], table: str = "") -> None:
    # Before its cooldown a schedule is constant too; `Run` refuses one that had begun by now.
    free = _FREE | ({"decay", "cooldown", "final"} if before.get("decay") == "constant" else set())
    for key, value in now.items():
        was = before.get(key, value)  # a key that is newer had its default
        if isinstance(value, dict) and isinstance(was, dict):
            _check_same(out, was, value, f"{key}.")
        elif key not in free and was != value:
            raise TrainError(
                f"{out} was begun with {table}{key} = {json.dumps(was)}, not "
                f"{json.dumps(value)}; choose another --out"
            )


def _forget_after(metrics: Path, step: int) -> None:
    """Drops lines of steps that are done again, and a last line that was cut off."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text("utf-8-sig").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            break
    with atomic_write(metrics) as part:
        part.write_text("".join(kept))


def _base(recipe: Recipe, model: nn.Module) -> dict[str, Any]:
    """What a card says of the model that the recipe does not: its depth, and the SHA-256 of the
    weights that it began with."""
    found: dict[str, Any] = {"depth": model.config.depth} if isinstance(model, VAR) else {}
    if isinstance(recipe, VARRecipe) and recipe.init:
        found["init_sha256"] = weights_sha256(recipe.init)
    return found


@cache  # asking for the CPU's name takes a second
def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    import cpuinfo

    name = cpuinfo.get_cpu_info().get("brand_raw", platform.machine())
    return f"{name}, {torch.get_num_threads()} threads"


def _peak(device: torch.device) -> dict[str, int]:
    """Most memory that a GPU held at once."""
    if device.type != "cuda":
        return {}
    return {"peak_memory_mib": torch.cuda.max_memory_allocated(device) >> 20}


def _commit() -> str:
    """The commit of this checkout, with a "+" if it has changes; empty outside of one."""

    asked = ["git", "describe", "--always", "--abbrev=9", "--exclude=*", "--dirty=+"]
    try:
        here = Path(__file__).parent
        return subprocess.run(asked, cwd=here, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
