"""How the families of methods are drawn: colour, marker, label."""

from __future__ import annotations

from typing import Any

from bench.figures.canvas import (
    BLACK,
    BLUE,
    DOT,
    GREY,
    VERMILLION,
)


def family_of(method: str) -> dict[str, Any]:
    """How the family that a paper's method belongs to is drawn."""
    if "CoDe" in method:
        return DOT | {"label": "CoDe", "color": BLUE, "marker": "s"}
    if method.startswith("VARiant"):
        return DOT | {"label": "VARiant", "color": VERMILLION, "marker": "D"}
    if method.startswith("VAR"):
        return DOT | {"label": "VAR", "color": BLACK, "marker": "o"}
    return DOT | {"label": "others", "color": GREY, "marker": "^"}
