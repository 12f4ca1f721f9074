"""A machine's ceilings as they are kept: matrix products, bandwidth, launches."""

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from bench.study import storage
from bench.study.cases import explain
from bench.study.errors import UsageError
from codevar.stacks import PRECISIONS

FILE = "ceilings.json"


class Product(BaseModel):
    """Rate (FLOP/s, a multiply-add is two) of (M, K) times (N, K) transposed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    precision: str
    M: int
    K: int
    N: int
    flop_per_s: float


class Ceilings(BaseModel):
    """Of one device.

    products: every shape that was tried, in every precision; float32 without TF32.
    copy_bytes_per_s: read and written bytes counted.  read_bytes_per_s: of a sum.
    launch_s: an operator on one element, called back to back: dispatch, and on a GPU the launch.
    other_load_cores: what else the machine did meanwhile.  measured_at: "" in older files.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    device: str
    threads: int
    products: list[Product]
    copy_bytes_per_s: float
    read_bytes_per_s: float
    launch_s: float
    other_load_cores: float = 0.0
    measured_at: str = ""

    def best(self, precision: str) -> Product:
        """The fastest product of a precision."""
        return max(
            (product for product in self.products if product.precision == precision),
            key=lambda product: product.flop_per_s,
        )

    def rate(self, dtype: torch.dtype) -> float:
        """FLOP/s of matrix products."""
        names = {known: name for name, known in PRECISIONS.items()}
        return self.best(names[dtype]).flop_per_s

    @property
    def bandwidth(self) -> float:
        """Bytes/s, read or written."""
        return max(self.copy_bytes_per_s, self.read_bytes_per_s)


def load(folder: Path) -> Ceilings | None:
    """What a run's folder holds; None if nothing.  Raises UsageError if it is damaged."""
    values = storage.read_json(folder / FILE)
    try:
        return None if values is None else Ceilings.model_validate(values)
    except ValidationError as e:
        raise UsageError(f"{folder / FILE}: damaged ({explain(e, Ceilings)})") from None
