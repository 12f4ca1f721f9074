"""Settings of torch that hold for the whole process, changed for as long as something runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOCK = threading.RLock()


@contextmanager
def fp32_precision(backend: Any, precision: str) -> Iterator[None]:
    """How a backend multiplies float32, whichever thread asks; one thread at a time comes in here,
    or one that began before another and ended before it would leave its setting behind."""
    with LOCK:
        before, backend.fp32_precision = backend.fp32_precision, precision
        try:
            yield
        finally:
            backend.fp32_precision = before
