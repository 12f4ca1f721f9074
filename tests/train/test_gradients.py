"""Where a supernet's gradient comes from: against autograd's own, and what must be zero."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

import codevar
from codevar.train import checkpoint, gradients, loop, parallel, recipes
from codevar.train.build import build
from codevar.train.step import Step
from tests.train.small import config, files, same, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gradients")
    files(path)
    return path


def rows_of(folder, out, **changes) -> list[dict]:
    """The metrics of a short training in which the subnet is layers 0 and 3 of 4, N = 2 of 4."""
    path = train(config(folder, "variant", out=str(out), **changes))
    return [json.loads(line) for line in path.with_name(loop.METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def rows(folder, tmp_path_factory):
    return rows_of(folder, tmp_path_factory.mktemp("run"), measure_every=1, steps=10)


def test_shares_sum_to_one_in_every_phase(rows):
    for row in rows:
        assert sum(gradients.shares(row).values()) == pytest.approx(1)
    assert rows[0][gradients.PROBABILITY] == pytest.approx(0.2)
    assert rows[-1][gradients.PROBABILITY] == pytest.approx(1)


def test_the_networks_losses_are_those_of_the_steps_that_drew_them(rows):
    drawn = [
        min(("full", "subnet"), key=lambda name: abs(row[f"loss_{name}"] - row["loss"]))
        for row in rows
    ]
    assert set(drawn) == {"full", "subnet"}
    for row, name in zip(rows, drawn, strict=True):
        assert row["loss"] == pytest.approx(row[f"loss_{name}"], rel=1e-5)


def test_norms_are_autograds_own(folder, rows):
    """The bridge zone alone and the whole subnet, by the gradient of a loss written out here."""
    values = config(folder, "variant")
    recipe = recipes.RECIPES["variant"].model_validate(values)
    objective, source = build(recipe, parallel.join("cpu"), lambda line: None)
    var = objective.model.train()
    step, batch = next(source.stream(iter([Step(0, 10, 0, 8, range(8))])))
    vqvae = codevar.load_vqvae(folder / "vqvae.safetensors", device="cpu")
    dropped = torch.from_numpy(step.uniform("label dropout") < 0.1)
    labels = batch["labels"].masked_fill(dropped, 10)
    tokens = batch["tokens"]
    logits = var(labels, vqvae.teacher_forcing_input(tokens))
    nats = F.cross_entropy(logits.mT, tokens, reduction="none") / tokens.numel()
    assert rows[0]["loss_full"] == pytest.approx(nats.sum().item(), rel=1e-5)
    for zone, where in (("bridge", slice(0, 5)), ("flexible_full", slice(5, 30))):
        for kind, layers in (("shared", (0, 3)), ("full_only", (1, 2))):
            held = [p for layer in layers for p in var.blocks[layer].parameters()]
            found = torch.autograd.grad(nats[:, where].sum(), held, retain_graph=True)
            norm = math.sqrt(sum(g.square().sum().item() for g in found))
            assert rows[0][f"gradient_{kind}_{zone}"] == pytest.approx(norm, rel=1e-4)


def test_a_subnet_of_all_layers_leaves_none_that_are_full_only(folder, tmp_path):
    (row,) = rows_of(folder, tmp_path, measure_every=1, steps=1, subnet_depth=4)
    shares = gradients.shares(row)
    assert shares["full_only", "bridge"] == shares["full_only", "flexible"] == 0
    assert row["loss_full"] == row["loss_subnet"]


def test_full_only_layers_learn_from_late_scales_through_the_bridge_alone(folder, tmp_path, rows):
    """The paper has them lose the flexible zone's gradient; its tokens attend to the bridge's,
    which these layers made.  Without a bridge they do lose it."""
    assert all(row["gradient_full_only_flexible_subnet"] > 0 for row in rows)
    (row,) = rows_of(folder, tmp_path, measure_every=1, steps=1, bridge_scales=0, ratio=1.0)
    shares = gradients.shares(row)
    assert row["gradient_full_only_flexible_full"] > 0
    assert row["gradient_full_only_flexible_subnet"] == 0
    assert shares["shared", "flexible"] == 1


def test_a_measurement_changes_no_weight_and_is_made_as_often_as_asked(folder, tmp_path):
    plain = rows_of(folder, tmp_path / "plain")
    measured = rows_of(folder, tmp_path / "measured", measure_every=4, micro_batch=4)
    assert not any("loss_full" in row for row in plain)
    assert [row["step"] for row in measured if "loss_full" in row] == [1, 5]
    assert "loss_full" in rows_of(folder, tmp_path / "again", measure_every=6)[0]
    assert same(*(tmp_path / name / checkpoint.FILE for name in ("plain", "again")))


def test_norms_of_fp16_are_not_those_of_the_scaled_loss(folder, tmp_path, rows):
    (row,) = rows_of(folder, tmp_path, measure_every=1, steps=1, precision="fp16")
    for name in ("gradient_shared_bridge", "gradient_full_only_flexible_full", "loss_subnet"):
        assert row[name] == pytest.approx(rows[0][name], rel=0.05)


def test_a_card_says_how_far_its_model_has_come(folder, tmp_path):
    train(config(folder, "variant", out=str(tmp_path), keep=(0.5,), phases=(5, 15, 10)))
    begun = codevar.checkpoints.weights_sha256(folder / "large.safetensors")
    for name, share, phase in (("model_50", 0.5, 2), ("model", 1.0, 3)):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            card = json.loads(file.metadata()["card"])
        assert (card["share"], card["phase"], card["depth"]) == (share, phase, 4)
        assert card["init_sha256"] == begun
        assert card["recipe"]["subnet_depth"] == card["recipe"]["bridge_scales"] == 2


@pytest.mark.parametrize(
    ("phases", "progress", "phase"),
    [
        ((5, 15, 5), 0.0, 1),
        ((5, 15, 5), 0.2, 2),
        ((5, 15, 5), 0.8, 3),
        ((5, 15, 5), 1.0, 3),
        ((0, 15, 5), 0.0, 2),
        ((5, 15, 0), 1.0, 2),
        ((5, 0, 5), 0.5, 3),
    ],
)
def test_a_phase_without_length_is_never_reached(folder, phases, progress, phase):
    values = config(folder, "variant", phases=phases)
    assert recipes.RECIPES["variant"].model_validate(values).phase(progress) == phase
