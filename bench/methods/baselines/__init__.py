"""What the papers compare with: DiT, MAR, LlamaGen, AiM (docs/guide/baselines.md).

    method.py      one loop for all of them
    dit.py mar.py llamagen.py aim.py
    decoders.py    latents and tokens to images
    weights.py     published files, folders, seeds
    harness.py     as the harness runs and predicts them

They need libraries of their field; the rest of the project does not.
"""

from __future__ import annotations

import logging
from types import ModuleType

from bench.study.errors import UsageError


def need() -> ModuleType:
    """The module `harness`.  Raises UsageError if its libraries are not installed."""
    # Diffusers imports it where it is there, and it complains of kernels that nobody asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        from bench.methods.baselines import harness
    except ModuleNotFoundError as e:
        missing = (e.name or "").partition(".")[0]
        if missing not in ("diffusers", "timm"):
            raise
        raise UsageError(
            f"dit, mar, llamagen and aim need {missing}: pip install -e '.[baselines]', or "
            f"leave them out: --set method=var,code,variant"
        ) from None
    return harness
