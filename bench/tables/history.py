"""Cases over commits and machines: what every run under a folder says of them."""

from pathlib import Path
from typing import Any

import pandas as pd

from bench.study import records
from bench.study.errors import UsageError
from bench.study.names import weights_name
from bench.study.printing import Printed
from bench.study.records import Record
from bench.tables import summary
from bench.tables.level_changes import FEWEST, LEAST, level_changes
from bench.tables.tables import column, status_text

ALIKE = ("method", "batch_size", "stack", "precision", "machine")
SERIES = ["key", "machine", "experiment"]  # a latency is held against those before it of the same


def history(results: Path, method: str = "", experiments: tuple[str, ...] = ()) -> Printed:
    """A row for each case, machine, experiment and run, oldest first.

    method: only cases whose method has that in its name.  experiments: only runs of these.
    Raises UsageError where nothing is left.
    """
    rows, complaints = [], []
    for folder, name in records.runs(results):
        if experiments and name not in experiments:
            continue
        lines, damaged = records.read_lines(folder / records.FILE)
        complaints += damaged
        by_key: dict[str, list[Record]] = {}
        for line in lines:
            by_key.setdefault(line.key, []).append(line)
        rows += [row_of(found, folder) for found in by_key.values()]
    rows = [row for row in rows if method.lower() in row["method"].lower()]
    if not rows:
        wanted = "".join([f" of {', '.join(experiments)}"] * bool(experiments))
        wanted += f" with {method!r} in its name" * bool(method)
        raise UsageError(f"{results}: no measured case{wanted}; `bench.py run` makes some")
    data = pd.DataFrame(rows).sort_values([*ALIKE, *SERIES, "started_at"], ignore_index=True)
    before = data.groupby(SERIES)["latency_s"].shift()
    data["change"] = data["latency_s"] / before - 1
    data["new_level"] = ""
    for _, series in data[data["latency_s"].notna()].groupby(SERIES):
        for one in level_changes(series["latency_s"].tolist()):
            last, first = (series["commit"].iloc[i] or "unknown" for i in (one.at - 1, one.at))
            words = f"{one.change:+.1%} between {last[:9]} and {first[:9]}"
            data.loc[series.index[one.at], "new_level"] = words
    return Printed("Cases over time", data, text_of(data), notes() + complaints, names=5)


def row_of(found: list[Record], folder: Path) -> dict[str, Any]:
    """One case in one run."""
    last = max(found, key=lambda record: record.started_at)
    names = (*SERIES, *ALIKE, "commit", "dirty", "torch", "started_at")
    figures = summary.measured(found)
    kept = ("status", "latency_s", "latency_spread", "total_mib", "rounds", "other_load_cores")
    return {
        **{name: getattr(last, name) for name in names},
        **{name: figures.get(name) for name in kept},
        "extrapolated": last.stands_for is not None,
        "weights": weights_name(last.weights),
        "run": str(folder),
    }


def text_of(data: pd.DataFrame) -> pd.DataFrame:
    """The cells as they are printed."""
    commits = zip(data["commit"], data["dirty"], strict=True)
    several = ["weights"] * (data["weights"].nunique() > 1)
    return pd.DataFrame(
        {
            **{name: data[name] for name in (*ALIKE, *several, "experiment")},
            "measured": data["started_at"].str[:10],
            "commit": [(commit or "unknown")[:9] + "+" * bool(dirty) for commit, dirty in commits],
            "torch": data["torch"],
            "status": [status_text(row) for row in data.to_dict("records")],
            "latency s": column(data, "latency_s", "{:.3g}"),
            "spread": column(data, "latency_spread", "{:.1%}"),
            "change": column(data, "change", "{:+.1%}"),
            **({"new level": data["new_level"]} if data["new_level"].any() else {}),
            "total MiB": column(data, "total_mib", "{:.0f}"),
        }
    ).rename(columns={"batch_size": "batch", "precision": "prec."})


def notes() -> list[str]:
    """What its columns mean."""
    return [
        "Change: against the run before of the same experiment on the same machine; "
        "`bench.py compare` judges whether it is more than noise.",
        "Extrapolated: only some of its steps ran; each stands for those near it.",
        "+ behind a commit: the tree had changes.  Spread: of the rounds' medians.",
        f"New level: latencies from here on differ by {LEAST:.0%} or more, and stay; looked for in "
        f"series of {FEWEST} runs or more.",
    ]
