"""What a person sees of long work, on a terminal and in a log."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from codevar import progress
from codevar.progress import Progress


def shown(terminal=False):
    return Progress(Console(file=io.StringIO(), force_terminal=terminal, width=200))


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_done_how_fast_and_what_is_left(monkeypatch, terminal):
    monkeypatch.setattr(progress, "EVERY_S", 0)
    with shown(terminal) as seen:
        seen.show("VAR-d2", 10, 40, "10/40 images")
        seen.count("VAR-d2", 20, 40, "images")
        seen._bars.refresh()
        said = seen.console.file.getvalue()
    assert re.search(r"20/40 images, [\d.e+]+ images/s, 0:00:\d\d left", said)


def test_a_log_has_one_line_for_each_thing_that_took_long():
    seen, now = shown(), [100.0]
    seen._bars.get_time = lambda: now[0]
    with seen:
        for name, seconds in (("short", 1), ("long", 40)):
            for i in range(3):
                seen.count(name, i, 2)
                now[0] += seconds
    assert seen.console.file.getvalue() == "long: 2/2, in 0:01:20\n"


def test_time_left_is_of_what_was_done_here(monkeypatch):
    """90 were made before; 5 of the other 10 took 10 s."""
    seen, now = shown(), [100.0]
    monkeypatch.setattr(seen._bars, "get_time", lambda: now[0])
    assert seen.show("x", 90, 100, "begun") == "begun"
    now[0] += 10
    assert seen.show("x", 95, 100, "half") == "half, 0:00:10 left"


def test_quiet_leaves_warnings_alone(monkeypatch):
    monkeypatch.setattr(progress, "only_warnings", True)
    with shown(terminal=True) as seen:
        seen.show("VAR-d2", 1, 2, "1/2")
        seen.say("[1/2] VAR-d2: 0.1 s")
        seen.say("warning: busy", "yellow")
    said = seen.console.file.getvalue()
    assert "busy" in said
    assert "VAR-d2" not in said
