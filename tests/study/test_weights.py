"""What a row says of its weights follows from what was loaded, never from what was asked."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.measure import devices
from bench.methods.loaded import load
from bench.methods.meta import configs
from bench.methods.sources import sources_of
from bench.study.cases import make_case
from bench.study.errors import UsageError
from bench.study.names import is_finetuned, is_training_free, trained_as, weights_in_words
from codevar.files import SHIPPED


@pytest.mark.parametrize(
    "values",
    [
        {"method": "variant", "subnet_depth": 16},
        {"method": "subnet", "subnet_depth": 16, "scales": "7-10"},
        {"method": "swap", "scale": 10},
        {"method": "code", "draft_steps": 5},
        {"method": "code", "draft_steps": 8, "depth": 24},
        {"method": "code", "draft_steps": 8, "refiner_depth": 20},
        {"method": "code_variant", "draft_steps": 8, "subnet_depth": 8},
    ],
)
def test_finetuned_weights_that_nobody_published_are_refused(values):
    with pytest.raises(UsageError, match="weights finetuned: nobody published any for"):
        make_case(values | {"weights": "finetuned"})


def test_a_plain_var_has_nothing_to_finetune_and_is_not_called_so():
    case = make_case({"method": "var", "weights": "finetuned"})
    assert sources_of(case)[0] == "var_d30"
    assert not is_finetuned(case)
    assert (trained_as(case), weights_in_words(case)) == ("published", "published")


@pytest.mark.parametrize(
    ("values", "called"),
    [
        ({"method": "code", "draft_steps": 8, "weights": "finetuned"}, "fine-tuned"),
        ({"method": "code", "draft_steps": 8, "weights": "published"}, "training-free"),
        ({"method": "code", "draft_steps": 8, "weights": "mini-finetuned"}, "fine-tuned"),
        ({"method": "variant", "subnet_depth": 4, "weights": "mini-finetuned"}, "fine-tuned"),
        ({"method": "variant", "subnet_depth": 4, "weights": "mini"}, "training-free"),
        # the mini world has no models trained for these: the base models are loaded
        ({"method": "swap", "scale": 10, "weights": "mini-finetuned"}, "training-free"),
        ({"method": "var", "weights": "mini-finetuned"}, "mini"),
        ({"method": "code", "draft_steps": 8, "weights": "seeded"}, "seeded"),
    ],
)
def test_labels_follow_from_the_models_that_are_loaded(values, called):
    case = make_case(values)
    assert trained_as(case) == called
    assert is_training_free(case) == (called == "training-free")


def own(folder, name):
    """A training's folder with a shipped model, which has its card in itself."""
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(SHIPPED[name])
    (folder / "card.json").write_text('{"recipe": {"recipe": "of another training"}}')
    return folder


def test_a_training_of_ones_own_is_loaded_and_labelled_by_its_card(tmp_path):
    drafter = own(tmp_path / "my_drafter", "mini_drafter_8")
    refiner = own(tmp_path / "my_refiner", "mini_refiner_8")
    plain = own(tmp_path / "plain", "mini_small")
    sizes = {"method": "code", "draft_steps": 8, "depth": 12, "refiner_depth": 4}
    case = make_case(sizes | {"weights": f"mini:{drafter}+{refiner}"})
    assert trained_as(case) == "fine-tuned"
    assert sources_of(case)[:2] == [str(f / "model.safetensors") for f in (drafter, refiner)]
    both = make_case(sizes | {"weights": f"mini:{drafter}+{plain / 'model.safetensors'}"})
    assert is_finetuned(both)
    free = own(tmp_path / "free", "mini_large")
    assert trained_as(make_case(sizes | {"weights": f"mini:{free}+{plain}"})) == "training-free"


def test_real_sizes_are_read_from_the_file_and_held_against_the_case(tmp_path):
    """Of a file of one's own, without the mini world's prefix too."""
    folder = own(tmp_path / "half", "mini_small")
    case = make_case({"method": "var", "depth": 4, "weights": str(folder)})
    assert configs(case)[0].depth == 4
    assert sources_of(case)[1] == "vae_ch160v4096z32"  # the published one, none being beside it
    with pytest.raises(UsageError, match=r"weights vae_ch160v4096z32: .* --download fetches them"):
        devices.check_weights([case])
    devices.check_weights([case], download=True)
    wrong = make_case({"method": "var", "depth": 30, "weights": str(folder)})
    with pytest.raises(UsageError, match="depth must be 4, not 30"):
        configs(wrong)


def test_all_published_weights_that_are_missing_are_told_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    values = {"weights": "published"}
    cases = [
        make_case(values | {"method": "code", "draft_steps": 8}),
        make_case(values | {"method": "dit"}),
        make_case({"method": "var"}),
    ]
    names = "var_d30, var_d16, vae_ch160v4096z32, dit_xl2, sd_vae"
    with pytest.raises(UsageError, match=f"weights {names}: not downloaded yet"):
        devices.check_weights(cases)


@pytest.mark.parametrize(
    "words",
    [
        "run code_table3 --out run --set batch_size=1 --set precision=float32",
        "sample code_table3 --out set",
        "grid code_table3 -o a.png",
        "spectra code_table3 -o a.png",
        "inpaint code_table3 --out set",
        "edit mini:7 --plan var --class 3 -o a.png",
        "calibrate scalekv var -o a.json",
        "conform var --against var",
    ],
)
def test_every_command_refuses_missing_weights_before_its_first_case(tmp_path, monkeypatch, words):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    published, lacking = (
        CliRunner().invoke(app.app, [*words.split(), "--device", "cpu", "--set", f"weights={name}"])
        for name in ("published", "empty")
    )
    assert (published.exit_code, lacking.exit_code) == (2, 2)
    names = "var_d30, vae_ch160v4096z32"
    assert published.stderr.count("\n") == lacking.stderr.count("\n") == 1
    assert f"weights {names}" in published.stderr
    assert "not downloaded yet; --download fetches them" in published.stderr
    assert f"weights empty: the folder lacks {names} of VAR-d30" in lacking.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_files_and_models_must_be_as_many(tmp_path):
    with pytest.raises(UsageError, match=re.escape("is 1 of 2 models of CoDe N=8 (d30+d16)")):
        make_case({"method": "code", "draft_steps": 8, "weights": "one.pth"})
    with pytest.raises(UsageError, match="is 2 of 1 models of VAR-d30; write one"):
        make_case({"method": "var", "weights": "one.pth+two.pth"})
    missing = make_case({"method": "var", "depth": 4, "weights": "nowhere.pth"})
    with pytest.raises(UsageError, match=r"weights nowhere\.pth: no such file"):
        devices.check_weights([missing])


@pytest.mark.parametrize("form", ["mini:{}/half.safetensors", "{}"])
def test_a_model_of_another_depth_is_refused_where_it_is_loaded(tmp_path, form):
    """`sample` and all that decodes images load it so; predict and run refuse the same case."""
    (tmp_path / "half.safetensors").symlink_to(SHIPPED["mini_small"])
    (tmp_path / "var_d30.safetensors").symlink_to(SHIPPED["mini_small"])
    values = {"method": "var", "depth": 30, "device": "cpu", "precision": "float32"}
    case = make_case(values | {"weights": form.format(tmp_path)})
    with pytest.raises(UsageError, match="depth must be 4, not 30"):
        load(case, download=False)


def test_a_pth_has_its_card_beside_it(tmp_path):
    (tmp_path / "own.json").write_text(json.dumps({"recipe": {"recipe": "variant"}}))
    case = make_case({"method": "variant", "subnet_depth": 4, "weights": f"{tmp_path}/own.pth"})
    assert trained_as(case) == "fine-tuned"
    other = make_case({"method": "variant", "subnet_depth": 4, "weights": f"{tmp_path}/new.pth"})
    assert trained_as(other) == "new"


def test_a_shipped_model_can_be_named_and_is_not_taken_for_the_base_model():
    case = make_case({"method": "var", "depth": 12, "weights": "mini:mini_variant_d2"})
    assert sources_of(case)[0] == "mini_variant_d2"
    devices.check_weights([case])
