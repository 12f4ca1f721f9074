"""Signals that end a command: as Ctrl-C does, and not in the middle of what cannot be left."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from bench.study.folders import PROGRAM

Handler = Callable[[int, FrameType | None], None]
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a keyboard, a batch system, a terminal


def tell(number: int) -> None:
    """Says which signal ends the command.  Unbuffered: it may come in the middle of a print."""
    os.write(2, f"{PROGRAM}: stopped by {signal.Signals(number).name}\n".encode())


def end_at_once(number: int, frame: FrameType | None = None) -> None:
    """A handler where nothing can be left half done: files appear under their names complete."""
    tell(number)
    os._exit(128 + number)


def handle(handler: Handler) -> dict[int, Any]:
    """Sets the handler of each, but for those that whoever started this process ignores, as `nohup`
    does.  Gives those that were there before."""
    heeded = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """As `handle`, within the block; in another thread than the main one nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = handle(handler)
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def end_with_parent() -> None:
    """Makes this process end when its parent does, however that ends.  Linux only."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


@contextmanager
def stopping() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does; a second signal ends it at once.

    Gives the signals that came.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            end_at_once(number)
        raise KeyboardInterrupt

    with handled(stop):
        yield came


@contextmanager
def signals_wait() -> Iterator[None]:
    """Signals count at the end of the block: in a weak reference's callback, of which fake tensors
    have many, an exception is lost."""
    came: list[int] = []
    with handled(lambda number, _: came.append(number)):
        yield
    for stop in came[:1]:
        signal.raise_signal(stop)
