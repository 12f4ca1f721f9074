"""The shipped models and what the docs say of them."""

from __future__ import annotations

from pathlib import Path

from codevar import load_var, load_vqvae
from codevar.mini import cards
from codevar.mini.classifier import load_classifier
from codevar.mini.factors import load_factor_reader

DOCS = Path(__file__).parents[2] / "docs" / "guide"


def test_the_table_of_the_docs_is_that_of_the_cards():
    told = (DOCS / "mini-world.md").read_text()
    assert cards.table() in told, "run `python -m codevar.mini.cards` and replace the table"


def test_a_card_counts_the_parameters_of_its_model():
    found = cards.cards()
    assert {"mini_vqvae", "mini_large", "mini_small", "mini_classifier"} <= found.keys()
    for name, card in found.items():
        if name == "mini_vqvae":
            model = load_vqvae(name, device="cpu")
        elif name == "mini_factors":
            model = load_factor_reader(cards.SHIPPED[name])
        elif name == "mini_classifier":
            model = load_classifier(cards.SHIPPED[name])
        else:
            model = load_var(name, device="cpu")
        assert sum(p.numel() for p in model.parameters()) == card["params"], name
