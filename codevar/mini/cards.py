"""The shipped models by their cards, as the table of docs/guide/mini-world.md.

python -m codevar.mini.cards
"""

import json
from typing import Any

from codevar.files import SHIPPED

#: As a card's last step says how well a model fits, where its loss says less.
MEASURES = {"accuracy": ("accuracy", "{:.4f}"), "psnr_db": ("PSNR dB", "{:.1f}")}


def cards() -> dict[str, dict[str, Any]]:
    """By name."""
    return {
        name: json.loads(path.with_suffix(".json").read_text("utf-8-sig"))
        for name, path in SHIPPED.items()
    }


def table() -> str:
    """Markdown: a row for each model."""
    lines = ["| name | trained as | params | MB | steps | images | minutes | at the end | commit |"]
    lines.append("|---" * lines[0].count(" | ") + "|---|")
    return "\n".join([*lines, *(row(name, card) for name, card in cards().items())])


def row(name: str, card: dict[str, Any]) -> str:
    """A model's row of `table`."""
    last = card.get("last", {})  # a training that lost its metrics has none
    end = f"loss {last['loss']:.3f}" if last else "?"
    for key, (what, form) in MEASURES.items():
        if key in last:
            end = f"{what} {form.format(last[key])}"
    minutes = f"{card['seconds'] / 60:.0f}" if last else "?"
    steps = f"{card['steps']} x {card['recipe']['batch_size']}"
    figures = [f"{card['params'] / 1e6:.2f}M", f"{card['bytes'] / 1e6:.1f}", steps]
    figures += [f"{card['images']:,}", minutes, end, card["commit"]]
    return f"| `{name}` | `{card['recipe']['recipe']}` | {' | '.join(figures)} |"


if __name__ == "__main__":
    print(table())
