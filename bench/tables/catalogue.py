"""What there is: experiments, methods, published models.  Without torch, so that it is quick."""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import urlsplit

import pandas as pd

from bench.study import experiment, plugins
from bench.study.cases import methods
from bench.study.printing import Printed
from codevar.files import PUBLISHED


def catalogue() -> Printed:
    """Experiments, methods and published models."""
    places: dict[str, tuple[str, str] | str] = {**PUBLISHED}
    for kind in methods().values():
        places |= kind.published
    table = pd.DataFrame(
        [
            ("experiment", name, experiment.load(name).experiment.title)
            for name in experiment.names()
        ]
        + [("method", name, (of.__doc__ or "").splitlines()[0]) for name, of in methods().items()]
        + [
            ("method", name, f"of an installed package, loaded when asked for: {point.value}")
            for name, point in plugins.offered().items()
            if name not in methods()
        ]
        + [("published model", name, shown(place)) for name, place in places.items()],
        columns=["kind", "name", "what"],
    )
    return Printed("What there is", table, table, names=2)


def shown(place: tuple[str, str] | str) -> str:
    """Where a model is to be had: a file of a repository or of a site."""
    if isinstance(place, str):
        url = urlsplit(place)
        place = (url.netloc, PurePosixPath(url.path).name)
    return f"{place[1]} of {place[0]}"
