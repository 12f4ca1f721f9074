"""Signals that end a command: as Ctrl-C does, and not in the middle of what cannot be left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a keyboard, a batch system, a terminal


@contextmanager
def stopping() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does; a second signal ends it at once.

    Gives the signals that came.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            os._exit(128 + number)  # files are whole at any moment: each is renamed into place
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = [(number, signal.signal(number, stop)) for number in STOPS]
    try:
        yield came
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Signals count at the end of the block: in a weak reference's callback, of which fake tensors
    have many, an exception is lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = [
        (number, signal.signal(number, lambda number, _: came.append(number))) for number in STOPS
    ]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    for stop in came[:1]:
        signal.raise_signal(stop)
