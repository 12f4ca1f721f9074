"""Loading: sources, sizes read off the tensors, precision, and one line for what is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

import codevar
from codevar import PUBLISHED, VAR, VQVAE, CheckpointError, VARConfig, VQVAEConfig, checkpoints
from codevar.checkpoints import seeded_tensor
from codevar.files import var_config
from tests import tiny
from tests.conftest import DATA, reference_state_dict, seeded_weights

LAYOUTS = {
    name: {tensor: tuple(shape) for tensor, shape in layout.items()}
    for name, layout in json.loads((DATA / "layouts.json").read_text()).items()
}
BUFFERS = re.compile(r"lvl_1L|attn_bias_for_masking|.*zero_k_bias|.*ema_vocab_hit_SV")


@pytest.fixture(scope="module")
def weights():
    return tiny.state_dict(VAR, tiny.var_config())


@pytest.fixture(scope="module")
def vqvae_weights():
    return tiny.state_dict(VQVAE, VQVAEConfig(**tiny.SMALL_VQVAE))


def load(source, **settings):
    return codevar.load_var(source, device="cpu", patch_sizes=tiny.PATCH_SIZES, **settings)


def load_vqvae(source, **settings):
    return codevar.load_vqvae(source, device="cpu", patch_sizes=tiny.PATCH_SIZES, **settings)


def assert_weights(model, weights):
    assert model.state_dict().keys() == weights.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


# Sources


@pytest.mark.parametrize("kind", ["dict", "arrays", ".pth", "path", ".safetensors"])
def test_sources_give_the_same_weights(weights, tmp_path, kind):
    file = tmp_path / ("x.safetensors" if kind == ".safetensors" else "x.pth")
    (save_file if kind == ".safetensors" else torch.save)(weights, file)
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    model = load({"dict": weights, "arrays": arrays, "path": file}.get(kind, str(file)))
    assert_weights(model, weights)
    assert not model.training


def test_vqvae_from_a_file(vqvae_weights, tmp_path):
    torch.save(vqvae_weights, tmp_path / "vae.pth")
    vqvae = load_vqvae(tmp_path / "vae.pth")
    assert_weights(vqvae, vqvae_weights)
    assert not vqvae.training


def test_a_model_does_not_share_memory_with_its_source(weights):
    before = weights["head.bias"].clone()
    with torch.no_grad():
        load(weights).head.bias.add_(1)
    assert torch.equal(weights["head.bias"], before)


@pytest.mark.parametrize(("source", "seed"), [("", 0), (":0", 0), (":7", 7)])
def test_seeded_weights_are_those_of_the_reference_recipe(source, seed):
    model = codevar.load_var(f"seeded:var_d2{source}", device="cpu")
    assert model.config == VARConfig.published(2)
    for name, tensor in model.state_dict().items():
        wanted = seeded_weights.tensor(name, list(tensor.shape), seed)
        assert torch.equal(tensor, torch.from_numpy(wanted)), name


@pytest.mark.parametrize("layout", ["var_small_shared_d2", "vae_ch32v128z16"])
def test_seeded_tensors_of_other_layouts(layout):
    for name, shape in LAYOUTS[layout].items():
        if not BUFFERS.fullmatch(name):
            wanted = seeded_weights.tensor(name, list(shape), 5)
            assert (seeded_tensor(name, shape, 5) == wanted).all(), name


# Sizes


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("var_small")])
def test_sizes_are_read_off_the_tensors(layout):
    model = codevar.load_var(reference_state_dict(layout, 0), device="cpu")
    depth = int(layout.rpartition("_d")[2])
    assert model.config == VARConfig(
        depth=depth,
        width=64 * depth,
        heads=depth,
        classes=10,
        vocab=128,
        channels=16,
        patch_sizes=codevar.PATCH_SIZES_256,
        shared_adaln="shared" in layout,
    )


@pytest.mark.parametrize(
    ("layout", "depth"),
    [("var_d16", 16), ("var_d20", 20), ("var_d24", 24), ("var_d30", 30), ("var_d36_512", 36)],
)
def test_published_layouts(layout, depth):
    assert VARConfig.from_shapes(LAYOUTS[layout]) == VARConfig.published(depth)
    assert_layout(tiny.on_meta(depth), layout)


@pytest.mark.parametrize("layout", ["vae_ch160v4096z32", "vae_ch160v4096z32_512"])
def test_published_layouts_of_the_vqvae(layout):
    assert VQVAEConfig.from_shapes(LAYOUTS[layout]) == VQVAEConfig()
    with torch.device("meta"):
        assert_layout(VQVAE(VQVAEConfig()), layout)


def assert_layout(model, layout):
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == {n: s for n, s in LAYOUTS[layout].items() if not BUFFERS.fullmatch(n)}


def test_patch_sizes_are_read_off_the_levels(weights):
    levels = torch.arange(4).repeat_interleave(torch.tensor([1, 4, 9, 16]))[None]
    model = codevar.load_var(weights | {"lvl_1L": levels}, device="cpu")
    assert model.config.patch_sizes == (1, 2, 3, 4)


@pytest.mark.parametrize("sizes", [{"heads": 4}, {"shared_adaln": True}, {"l2_norm": False}])
def test_unpublished_sizes_are_read_too(sizes):
    sizes = {"depth": 3, "width": 64, "heads": 1} | sizes
    assert tiny.var(**sizes).config == tiny.var_config(**sizes)


def test_heads_that_no_tensor_tells_are_asked_for():
    plain = tiny.state_dict(VAR, tiny.var_config(heads=2, width=64, l2_norm=False))
    assert load(plain, heads=2).config.heads == 2
    with tiny.refused("state dict", "give load_var heads=", error=CheckpointError):
        load(plain)


def wrapped(weights, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


ADAM = {"state": {0: {"step": torch.ones(1), "exp_avg": torch.ones(3)}}, "param_groups": [{}]}


@pytest.mark.parametrize(
    ("save", "taken"),
    [
        (
            lambda w, v: {"trainer": {"var_wo_ddp": w, "vae_local": v, "var_opt": ADAM}},
            "var_wo_ddp",
        ),
        (lambda w, v: {"state_dict": wrapped(w, "module."), "epoch": 3, "lr": 0.1}, "state_dict"),
        (lambda w, v: {"model": wrapped(w, "module._orig_mod."), "opt": ADAM}, "model"),
        (lambda w, v: wrapped(w, "module."), "without a prefix"),
        (lambda w, v: wrapped(w, "_orig_mod."), "without a prefix"),
    ],
)
def test_a_trainers_checkpoint_is_unwrapped_and_says_so(
    weights, vqvae_weights, tmp_path, caplog, save, taken
):
    file = tmp_path / "x.pth"
    levels = torch.arange(4).repeat_interleave(torch.tensor([1, 4, 9, 16]))[None]
    torch.save(save(weights | {"lvl_1L": levels}, vqvae_weights), file)
    assert_weights(load(file), weights)
    assert var_config(str(file)).depth == 2
    (said,) = caplog.messages
    assert said.startswith(f"{file}: a trainer's checkpoint; taken: ")
    assert taken in said
    if taken == "var_wo_ddp":
        assert_weights(load_vqvae(file), vqvae_weights)


def test_two_models_in_a_checkpoint_are_named(weights, tmp_path):
    file = tmp_path / "x.pth"
    torch.save({"model": weights, "ema": {"shadow": weights}, "opt": ADAM}, file)
    words = "no state dict but model, ema, opt; save one of model, ema.shadow alone"
    for read in (load, var_config):
        with tiny.refused(str(file), words, error=CheckpointError):
            read(str(file))


@pytest.mark.parametrize("loader", [codevar.load_var, codevar.load_vqvae, var_config])
def test_levels_that_are_no_pyramid_are_refused(weights, vqvae_weights, tmp_path, loader):
    kept = vqvae_weights if loader is codevar.load_vqvae else weights
    levels = torch.arange(4).repeat_interleave(torch.tensor([1, 4, 4, 16]))[None]
    file = tmp_path / "x.safetensors"
    save_file(kept | {"lvl_1L": levels}, file)
    with tiny.refused(str(file), "lvl_1L", "(1, 2, 2, 4)", error=CheckpointError):
        loader(str(file))


def test_a_gpu_without_a_number_is_the_current_one_in_every_thread(monkeypatch):
    """Tensors are placed by threads, and each has a current GPU of its own."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    placed = []

    class Tensor:
        def to(self, device, dtype, copy):
            placed.append(device)
            return torch.zeros(2, 2)

    with torch.device("meta"):
        model = torch.nn.Linear(2, 2, bias=False)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)  # the look whether a GPU is there
    checkpoints._assign(model, lambda name: Tensor(), "cuda", torch.float32)
    assert placed == [torch.device("cuda:3")]


# Precision


def test_a_var_is_loaded_in_the_precision_asked_for(weights):
    model = load(weights, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.head.bias, weights["head.bias"].bfloat16())


def test_the_quantiser_stays_float32(vqvae_weights):
    vqvae = load_vqvae(vqvae_weights, dtype=torch.bfloat16)
    precision = {
        part: {p.dtype for p in getattr(vqvae, part).parameters()}
        for part in ("encoder", "decoder", "quant_conv", "post_quant_conv", "quantize")
    }
    assert precision.pop("quantize") == {torch.float32}
    assert set.union(*precision.values()) == {torch.bfloat16}


# Damaged files


def truncated(weights, path):
    (save_file if path.suffix == ".safetensors" else torch.save)(weights, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("x.pth", lambda weights, path: None),
        ("x.safetensors", lambda weights, path: None),
        ("x.pth", lambda weights, path: path.mkdir()),
        ("x.pth", truncated),
        ("x.safetensors", truncated),
        ("x.pth", lambda weights, path: path.write_bytes(b"")),
        ("x.safetensors", lambda weights, path: path.write_bytes(b"")),
        ("x.pth", lambda weights, path: path.write_text("not found\nsorry\n")),
        ("x.safetensors", lambda weights, path: torch.save(weights, path)),
        ("x.pth", lambda weights, path: torch.save([1, 2], path)),
        ("x.pth", lambda weights, path: torch.save({"model": {"a": [1]}, "epoch": 3}, path)),
        ("x.pth", lambda weights, path: torch.save({}, path)),
    ],
    ids=[
        "missing",
        "missing safetensors",
        "folder",
        "truncated",
        "truncated safetensors",
        "empty",
        "empty safetensors",
        "text",
        "pickle named safetensors",
        "list",
        "nested",
        "no tensors",
    ],
)
def test_files_that_cannot_be_read_are_named(weights, tmp_path, file, damage):
    damage(weights, tmp_path / file)
    for loader in (load, load_vqvae):
        with tiny.refused(str(tmp_path / file), error=CheckpointError):
            loader(tmp_path / file)


def test_files_of_the_old_serialisation_load(weights, tmp_path):
    torch.save(weights, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert_weights(load(tmp_path / "x.pth"), weights)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_pickle_is_not_executed(weights, tmp_path):
    file, target = tmp_path / "x.pth", tmp_path / "executed"
    torch.save(weights | {"head.bias": Malicious(target)}, file)
    with tiny.refused(str(file), error=CheckpointError):
        load(file)
    assert not target.exists()
    torch.load(file, weights_only=False)
    assert target.exists()


def test_a_refused_pickle_is_told_in_plain_text(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as e:
        load(tmp_path / "x.pth")
    assert str(e.value).isprintable()


# Tensors that do not fit


@pytest.fixture(params=["dict", "file"])
def save(request, tmp_path):
    """Weights -> (source, how an error names it)."""

    def save(weights):
        if request.param == "dict":
            return weights, "state dict"
        torch.save(weights, tmp_path / "x.pth")
        return tmp_path / "x.pth", str(tmp_path / "x.pth")

    return save


def without(weights, *names):
    return {name: tensor for name, tensor in weights.items() if name not in names}


@pytest.mark.parametrize(
    "name",
    [
        "word_embed.weight",
        "pos_1LC",
        "class_emb.weight",
        "head.weight",
        "pos_start",
        "blocks.0.attn.q_bias",
        "blocks.1.ffn.fc2.bias",
        "head_nm.ada_lin.1.bias",
        "blocks.0.attn.mat_qkv.weight",
        "blocks.1.attn.mat_qkv.weight",
    ],
)
def test_a_missing_tensor_is_named(weights, save, name):
    source, where = save(without(weights, name))
    with tiny.refused(where, f"tensor {name} is missing", error=CheckpointError):
        load(source)


@pytest.mark.parametrize(
    "name",
    [
        "encoder.conv_in.weight",
        "quantize.embedding.weight",
        "decoder.up.1.block.0.conv1.bias",
        "quantize.quant_resi.qresi_ls.1.bias",
        "encoder.down.0.block.0.conv1.weight",
    ],
)
def test_a_missing_tensor_of_the_vqvae_is_named(vqvae_weights, save, name):
    source, where = save(without(vqvae_weights, name))
    with tiny.refused(where, f"tensor {name} is missing", error=CheckpointError):
        load_vqvae(source)


def test_a_vqvae_without_phis_is_refused(vqvae_weights):
    phis = [name for name in vqvae_weights if "qresi_ls" in name]
    with tiny.refused("state dict", phis[0], error=CheckpointError):
        load_vqvae(without(vqvae_weights, *phis))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("pos_start", (1, 1, 32), (1, 1, 64)),
        ("blocks.1.attn.proj.weight", (64, 65), (64, 64)),
        ("head.bias", (127,), (128,)),
        ("word_embed.weight", (64,), "2 dimensions"),
        ("pos_1LC", (64,), "3 dimensions"),
    ],
)
def test_a_tensor_of_another_shape_is_named(weights, save, name, shape, expected):
    source, where = save(weights | {name: torch.zeros(shape)})
    with tiny.refused(where, name, str(shape), str(expected), error=CheckpointError):
        load(source)


def test_the_first_tensor_that_does_not_fit_is_named(weights, save):
    late = without(weights, "blocks.1.ffn.fc2.bias", "head.bias")
    source, where = save(late | {"blocks.0.attn.q_bias": torch.zeros(3)})
    with tiny.refused(where, "blocks.0.attn.q_bias", error=CheckpointError):
        load(source)


@pytest.mark.parametrize(
    "name",
    [
        "head.scale",
        "blocks.1.ffn.fc3.bias",
        "encoder.conv_in.weight",
        1,
    ],
)
def test_an_unexpected_tensor_is_named(weights, save, name):
    source, where = save(weights | {name: torch.zeros(3)})
    with tiny.refused(where, str(name), error=CheckpointError):
        load(source)


def test_buffers_that_follow_from_the_sizes_are_passed_over(weights):
    buffers = {"attn_bias_for_masking": torch.zeros(1, 1, 30, 30)}
    buffers |= {f"blocks.{i}.attn.zero_k_bias": torch.zeros(64) for i in range(2)}
    assert_weights(load(weights | buffers), weights)


def test_what_is_no_tensor_is_named(weights, save):
    source, where = save(weights | {"epoch": 3})
    with tiny.refused(where, "epoch", "int", error=CheckpointError):
        load(source)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: torch.zeros(2, 2).to_sparse(), "sparse; save it with .to_dense()"),
        (lambda: torch.empty(2, device="meta"), "device meta"),
        (lambda: torch.zeros(2, dtype=torch.complex64), "complex64"),
        (lambda: torch.zeros(1).expand(1 << 40), "repeats its numbers"),
    ],
)
def test_a_tensor_without_numbers_of_its_own_is_named(weights, save, made, said):
    """Also of a tensor that would fill the memory if it were hashed."""
    source, where = save(weights | {"head.bias": made()})
    with tiny.refused(where, "head.bias", said, error=CheckpointError):
        load(source)
    with tiny.refused(where, "head.bias", said, error=CheckpointError):
        checkpoints.weights_sha256(source)


def test_a_compressed_archive_is_refused_before_it_is_inflated(weights, tmp_path):
    torch.save(weights, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as whole,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in whole.namelist():
            small.writestr(name, bytes(100_000) + whole.read(name))
    with tiny.refused("small.pth", "compressed inside", error=CheckpointError):
        load(tmp_path / "small.pth")
    with tiny.refused("small.pth", "compressed inside", error=CheckpointError):
        var_config(str(tmp_path / "small.pth"))


@pytest.mark.parametrize(
    ("patch_sizes", "said"),
    [((1, 2, 3, 5), "(1, 2, 3, 5) make 39"), (None, "no known pyramid; give patch_sizes=")],
)
def test_patch_sizes_that_do_not_give_the_tokens_are_refused(weights, patch_sizes, said):
    with tiny.refused("pos_1LC has 30 tokens", said, error=CheckpointError):
        codevar.load_var(weights, device="cpu", patch_sizes=patch_sizes)


def test_a_var_is_no_vqvae(weights, vqvae_weights):
    with tiny.refused("encoder.conv_in.weight is missing", error=CheckpointError):
        load_vqvae(weights)
    with tiny.refused("word_embed.weight is missing", error=CheckpointError):
        load(vqvae_weights)


@pytest.mark.parametrize(
    ("loader", "source", "said"),
    [
        (load, "seeded:var_d2:x", "whole number"),
        (load, "seeded:var_d2:-1", "whole number"),
        (load, "seeded:var_d0", "var_d16"),
        (load, "seeded:vae_ch160v4096z32", "var_d16"),
        (load_vqvae, "seeded:var_d2", "vae_ch160v4096z32"),
        (load, "var_d17", "published name"),
    ],
)
def test_unknown_names_are_refused(loader, source, said):
    with tiny.refused(source, said, error=CheckpointError):
        loader(source)


# Published names


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_name_that_is_not_cached_is_not_downloaded(hub_cache, name):
    loader = codevar.load_vqvae if name.startswith("vae") else codevar.load_var
    with tiny.refused(name, PUBLISHED[name][0], "download=True", error=CheckpointError):
        loader(name, device="cpu")


def test_a_published_name_is_read_from_the_hubs_cache(hub_cache, weights):
    repo = hub_cache / "models--Zigeng--VAR_CoDe"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    (repo / "snapshots" / ("0" * 40)).mkdir(parents=True)
    torch.save(weights, repo / "snapshots" / ("0" * 40) / "drafter_6.pth")
    assert_weights(load("drafter_6"), weights)


OFFLINE = """
import socket

def refuse(*args, **kwargs):
    print("connects to", args)
    raise OSError

socket.getaddrinfo = socket.socket.connect = refuse

import codevar

try:
    codevar.load_var("var_d16", device="cpu")
except codevar.CheckpointError as e:
    print(e)
"""


def test_no_connection_is_opened_unless_asked(tmp_path):
    hub = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", OFFLINE]
    root = DATA.parents[1]
    result = subprocess.run(command, env=os.environ | hub, cwd=root, capture_output=True, text=True)
    assert result.stdout.startswith("var_d16: ")


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("one\ntwo"), OSError("one\ntwo")], ids=["offline", "disk"]
)
def test_a_download_that_fails_is_told_in_one_line(monkeypatch, error):
    asked = []

    def fail(repo, file):
        asked.append((repo, file))
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with tiny.refused("var_d30", error=CheckpointError):
        codevar.load_var("var_d30", device="cpu", download=True)
    assert asked == [("FoundationVision/var", "var_d30.pth")]


@pytest.mark.parametrize(
    ("source", "wrong", "line"),
    [
        (None, {}, "None is no name, file or state dict"),
        (b"x", {}, "b'x' is no name, file or state dict"),
        ("mini_vqvae", {"device": "mps"}, "device must be one of cpu, cuda, meta, not 'mps'"),
        ("mini_vqvae", {"device": "tpu"}, "device 'tpu': Expected one of cpu"),
        ("mini_vqvae", {"dtype": "float32"}, "dtype must be a floating torch.dtype"),
        ("mini_vqvae", {"dtype": torch.int64}, "dtype must be a floating torch.dtype"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_one_line(source, wrong, line):
    with pytest.raises(ValueError, match=line) as refused:
        codevar.load_vqvae(source, **{"device": "cpu", **wrong})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("loader", [codevar.load_var, codevar.load_vqvae])
@pytest.mark.parametrize("sizes", [3, "abc", (1, 2.5), (1, None)])
def test_patch_sizes_of_the_wrong_kind_are_one_line(loader, sizes):
    source = "mini_vqvae" if loader is codevar.load_vqvae else "mini_large"
    with tiny.refused("patch sizes must be whole numbers", error=ValueError):
        loader(source, device="cpu", patch_sizes=sizes)
