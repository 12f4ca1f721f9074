"""A search's folder: what it is of, and the published plans as they were listed before it began.

    search.json          what is searched; another search is refused
    published.json       the published plans and what each costs, by prediction
    plans.jsonl          every plan that was tried (`bench.search.race.Seen`)
    features/            of each plan's images, by the mini world's classifier
    samples/             sets of images that confirm the front
    evaluations.jsonl    what they are worth
    found_1.toml, ...    the plans, as experiments

The same command goes on with what is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from bench.search.space import VERSION
from bench.search.target import COSTS, Target
from bench.study import plugins, storage
from bench.study.errors import UsageError
from bench.study.printing import Printed
from codevar.checkpoints import weights_sha256

FILE, PUBLISHED = "search.json", "published.json"


def begin(folder: Path, target: Target, seed: int, images: int) -> list[dict[str, Any]]:
    """The published plans, which are written down at the first start: name, by_scale, costs.

    Raises UsageError for a folder of another search.
    """
    asked: dict[str, Any] = {
        "space": VERSION,
        "for": target.text,
        "limits": target.limits,
        "device": target.settings["device"],
        "precision": target.settings["precision"],
        "ceilings": target.top.measured_at if target.top else None,
        "seed": seed,
        "images": images,
        "plugins": plugins.hashes(),
        "weights": {name: weights_sha256(name) for name in ("mini_large", "mini_small")},
    }
    before = storage.read_json(folder / FILE)
    for key in asked if before is not None else ():
        if before and before.get(key) != asked[key]:
            raise UsageError(
                f"{folder}: holds another search ({key} {before.get(key)}, not {asked[key]}); "
                "choose another --out"
            )
    if before is None:
        listed = [
            {"name": name, "by_scale": steps, "costs": target.exact(steps)}
            for name, steps in target.rivals().items()
        ]
        storage.write_json(folder / PUBLISHED, {"plans": listed})
        storage.write_json(folder / FILE, asked)
    return (storage.read_json(folder / PUBLISHED) or {"plans": []})["plans"]


def listing(target: Target) -> Printed:
    """What the published plans cost: each is a budget that a search may be given."""
    rows, plans = [], {"VAR": [{"scales": f"1-{target.scales}"}]}
    for name, steps in (plans | target.rivals()).items():
        costs = target.exact(steps)
        rows.append({"plan": name, **costs, "fits": target.within(costs)})
    data = pd.DataFrame(rows)
    text = data.assign(
        fits=data["fits"].map({True: "yes", False: ""}),
        **{name: data[name].map(COSTS[name].format) for name in target.limits},
    )
    return Printed(f"Published plans for {target.text}, predicted", data, text)
