"""The papers' tables: `results/papers/*.csv`, one printed value at a time.

A file begins with what holds for the whole table, one `# name: value` a line (`About`); then
comes a CSV.  The columns that `keys` names say what a row is of, every other column is a metric:

    # paper: CoDe
    # table: Table 6
    # keys: method, draft_steps
    # device: NVIDIA L20
    method,draft_steps,fid
    CoDe training-free,9,1.99

Metrics have the names that tables have for ours (`bench.study.columns`); one that we do not
measure may have any name.  The papers' MB are MiB.  An empty cell is not printed there.
"""

import csv
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from bench.study import folders
from bench.study.errors import UsageError

Keys = tuple[tuple[str, str], ...]
AS_PRINTED = ("steps", "params")  # metrics that are no figures: "6+4", "2.0+0.3B"


class About(BaseModel):
    """What a file says of its whole table.

    keys: the columns that say what a row is of.  cases: "none" where no row is a case that could
    be measured (a training recipe); no experiment then names the table.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str
    table: str
    keys: tuple[str, ...]
    device: str = ""
    batch_size: int | None = None
    precision: str = ""
    image_size: int | None = None
    cases: str = "measured"

    @field_validator("keys", mode="before")
    @classmethod
    def _split_at_commas(cls, keys: str) -> list[str]:
        return [key.strip() for key in keys.split(",")]

    @property
    def title(self) -> str:
        """ "CoDe, Table 6"."""
        return f"{self.paper}, {self.table}"

    @property
    def settings(self) -> str:
        """ "NVIDIA L20, fp16, batch 64, 256 px"."""
        batch = f"batch {self.batch_size}" if self.batch_size else ""
        pixels = f"{self.image_size} px" if self.image_size else ""
        return ", ".join(filter(None, (self.device, self.precision, batch, pixels)))

    @property
    def described(self) -> str:
        """ "CoDe, Table 1: NVIDIA L20, fp16, batch 64, 256 px"."""
        return f"{self.title}: {self.settings}" if self.settings else self.title


@dataclass(frozen=True)
class PrintedValue:
    """A value as a paper prints it."""

    paper: str
    table: str
    keys: Keys
    metric: str
    text: str

    @property
    def number(self) -> float | None:
        """The value, or None where it is not a number: "<0.1", "OOM(57GB)", "2.0+0.3B"."""
        return float(self.text) if re.fullmatch(r"[-+]?\d+(\.\d+)?", self.text) else None


@dataclass(frozen=True)
class PaperRow:
    """Printed values of the same thing; no two are of one metric."""

    keys: Keys
    values: tuple[PrintedValue, ...]
    in_table_with_oom: bool = False

    @property
    def label(self) -> str:
        """What it is of: "VAR-CoDe N=6", "scale 2, 0.3B".  Tables have a column for batch sizes."""
        parts = (
            f"{key.replace('_', ' ')} {text}" if text[0].isdigit() and text[-1].isdigit() else text
            for key, text in self.keys
            if key != "batch_size"
        )
        return ", ".join(parts)

    @property
    def columns(self) -> dict[str, Any]:
        """The values under our names, each ending in `_paper`: numbers where they are."""
        found: dict[str, Any] = {"method": self.label}
        found |= {key: text for key, text in self.keys if key == "batch_size"}
        for value in self.values:
            number = None if value.metric in AS_PRINTED else value.number
            found[value.metric] = value.text if number is None else number
        if self.in_table_with_oom:
            found["status"] = "oom" if any(map(ran_out, self.values)) else "ok"
        return {f"{name}_paper": value for name, value in found.items()}


def ran_out(value: PrintedValue) -> bool:
    """Whether the paper ran out of memory there."""
    return value.text.startswith("OOM")


@dataclass(frozen=True)
class PaperTable:
    """A table in long form."""

    name: str
    about: About
    values: tuple[PrintedValue, ...]

    @property
    def rows(self) -> list[PaperRow]:
        """The values by what they are of, as in the file."""
        return self.grouped(self.values)

    def grouped(self, values: Iterable[PrintedValue]) -> list[PaperRow]:
        """These values of the table, by what they are of."""
        by_keys: dict[Keys, list[PrintedValue]] = {}
        for value in values:
            by_keys.setdefault(value.keys, []).append(value)
        return [self._row(keys, found) for keys, found in by_keys.items()]

    def _row(self, keys: Keys, values: Iterable[PrintedValue]) -> PaperRow:
        return PaperRow(keys, tuple(values), any(map(ran_out, self.values)))

    def select(self, wanted: str | Mapping[str, Any], case: Mapping[str, Any]) -> PaperRow:
        """The values that a case repeats.

        wanted: the keys by name; a string is the key `method`; "{draft_steps}" is the case's.
        case: its values.  A key that is not wanted but that the case has too must be the case's;
        not `method`, which papers write in their own way.

        Raises UsageError where no value fits, or two of one metric.
        """
        asked = wanted if isinstance(wanted, Mapping) else {"method": wanted}
        keys = {
            key: re.sub(r"\{(\w+)\}", lambda name: str(case[name[1]]), str(text))
            for key, text in asked.items()
        }
        own = {key: str(case[key]) for key in self.about.keys if key in case and key != "method"}
        found = [v for v in self.values if (own | keys).items() <= dict(v.keys).items()]
        metrics = [value.metric for value in found]
        if found and len(set(metrics)) == len(metrics):
            shared = set.intersection(*(set(value.keys) for value in found))
            return self._row(tuple(key for key in found[0].keys if key in shared), found)
        told = ", ".join(f"{key} {text}" for key, text in (own | keys).items())
        what = "several values of one metric" if found else "no value"
        raise UsageError(f"paper_row: {self.name} has {what} for {told}; keys are {self._keys()}")

    def _keys(self) -> str:
        """The keys with the values that they have."""
        texts = {
            key: dict.fromkeys(dict(v.keys)[key] for v in self.values) for key in self.about.keys
        }
        return "; ".join(f"{key} ({', '.join(found)})" for key, found in texts.items())

    def numbers(self, metric: str, *keys: str) -> dict[tuple[int | str, ...], float]:
        """The numbers of one metric by the values of these keys."""
        return {
            tuple(int(text) if (text := dict(v.keys)[key]).isdecimal() else text for key in keys): n
            for v in self.values
            if v.metric == metric and (n := v.number) is not None
        }


def names() -> list[str]:
    """The tables, by the names of their files."""
    return sorted(path.stem for path in folders.PAPERS.glob("*.csv"))


def load(name: str) -> PaperTable:
    """A table by the name of its file.  Raises UsageError if there is none, or it is damaged."""
    return _read(folders.PAPERS / f"{name}.csv")


@functools.cache
def _read(path: Path) -> PaperTable:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        said = [line.removeprefix("#").partition(":") for line in lines if line.startswith("#")]
        about = About.model_validate({name.strip(): text.strip() for name, _, text in said})
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: {e}") from None
    except ValidationError as e:
        first = e.errors()[0]
        raise UsageError(f"{path}: # {first['loc'][0]}: {first['msg']}") from None
    reader = csv.DictReader(line for line in lines if not line.startswith("#"))
    if missing := set(about.keys) - set(reader.fieldnames or ()):
        raise UsageError(f"{path}: no column for the keys {', '.join(sorted(missing))}")
    values: dict[tuple[Keys, str], PrintedValue] = {}
    for row in reader:
        if None in row or None in row.values():
            raise UsageError(f"{path}: line {row} has not as many cells as there are columns")
        keys = tuple((key, row[key]) for key in about.keys)
        for metric, text in row.items():
            if metric in about.keys or not text:
                continue
            if (keys, metric) in values:
                raise UsageError(f"{path}: two values of {metric} for {dict(keys)}")
            values[keys, metric] = PrintedValue(about.paper, about.table, keys, metric, text)
    return PaperTable(path.stem, about, tuple(values.values()))
