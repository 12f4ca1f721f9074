"""Sample sets: the same images whoever makes them in which batches, whatever happens meanwhile."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import signal
import socket
import threading
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import codevar
from bench.cli import app
from bench.measure import machine
from bench.quality import sample_set, sampling, writing
from bench.quality.images import open_images
from bench.quality.sample_set import SampleSet, image_seed, png_of
from bench.quality.wanted import Wanted, sets_of, slug
from bench.study.cases import make_case
from bench.study.errors import UsageError
from codevar.files import SHIPPED
from codevar.progress import Progress
from tests import ten_scales, tiny
from tests.quality.tiny_sets import (
    CLASSES,
    ENV,
    PER_CLASS,
    PROCESSES,
    N,
    case_of,
    make_small,
    tiny_loaded,
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


def wanted(format="png", seed=0, per_class=PER_CLASS, **changes):
    return Wanted(case_of(**changes), seed, per_class, format)


def sample(folder, format="png", resume=False, **changes):
    return sampling.sample(
        wanted(format, **changes), folder, ENV, Progress(quiet=True), resume=resume
    )


def pictures(samples):
    return np.concatenate(list(open_images(samples.folder).pixels()))


def decoded(numbers):
    """The images of set 0 with these numbers as one batch, by the library alone."""
    loaded = tiny_loaded(case_of(), False)
    labels, seeds = [i % CLASSES for i in numbers], [image_seed(0, i) for i in numbers]
    made = codevar.decode(loaded.plan, loaded.vqvae, labels, seed=seeds, stack=loaded.how)
    return (made.images * 255).floor().permute(0, 2, 3, 1).numpy()  # cut off, as published


@pytest.fixture(scope="module")
def whole():
    """The images in batches of seven."""
    return np.concatenate([decoded(range(i, min(i + 7, N))) for i in range(0, N, 7)])


def alike(images, others):
    """The same but for rounding: a level here and there."""
    apart = np.abs(images.astype(int) - others)
    return images.shape == others.shape and apart.max() <= 1 and apart.mean() < 0.01


def written(folder):
    """When each image was written, by name."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*/*.png")}


def refused(*parts):
    return tiny.refused(*parts, error=UsageError)


# What a set holds


def test_image_i_is_of_class_i_mod_classes_and_can_be_made_again_alone(tmp_path, whole):
    samples = sample(tmp_path)
    assert np.array_equal(pictures(samples), whole)
    assert samples.labels.tolist() == [i % CLASSES for i in range(N)]
    assert len(np.unique(whole.reshape(N, -1), axis=0)) == N
    for i in (0, 17, 29):
        assert alike(decoded([i]), whole[[i]])


@pytest.mark.parametrize("format", ["png", "npz"])
@pytest.mark.parametrize("batch_size", [1, 4, 1024])
def test_the_set_does_not_depend_on_batches_or_form(tmp_path, whole, format, batch_size):
    made = sample(tmp_path, format, batch_size=batch_size)
    for samples in (made, SampleSet.open(tmp_path)):
        assert len(samples) == N
        assert alike(pictures(samples), whole)


def test_another_seed_is_another_set(tmp_path, whole):
    assert not (pictures(sample(tmp_path, seed=1)) == whole).all(axis=(1, 2, 3)).any()


def test_the_npz_is_as_the_evaluator_reads_it(tmp_path, whole):
    sample(tmp_path, "npz")
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as arrays:
        assert arrays.files[0] == "arr_0"
        assert arrays["arr_0"].dtype == np.uint8
        assert np.array_equal(arrays["arr_0"], whole)
        assert arrays["arr_1"].tolist() == [i % CLASSES for i in range(N)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        "samples.json",
        "samples.npz",
    ]


def test_the_manifest_says_how_the_images_were_made(tmp_path):
    sample(tmp_path, seed=3, weights="seeded")
    manifest = json.loads((tmp_path / "samples.json").read_text())
    assert manifest["case"] == case_of().model_dump()
    assert (manifest["label"], manifest["preset"], manifest["seed"]) == ("VAR-d2", "var", 3)
    assert (manifest["per_class"], manifest["classes"], manifest["images"]) == (3, 10, 30)
    assert (manifest["side"], manifest["format"], manifest["finished"]) == (8, "png", True)
    assert manifest["sampling"] == {
        "cfg": [0.0, 0.5, 1.0, 1.5],
        "top_k": [128] * 4,  # there are no more codes
        "top_p": [0.96] * 4,
        "temperature": [1.0] * 4,
        "more_smooth": False,
    }
    (run,) = manifest["runs"]
    assert (run["images"], run["processes"], run["batch_size"]) == (30, 1, 7)
    assert manifest["images_per_s"] == pytest.approx(30 / run["seconds"])
    assert manifest["waited_for_writing_s"] == run["waited_s"] <= run["seconds"]


def test_a_preset_for_ten_scales_is_refused_by_a_model_of_four(tmp_path):
    with refused("temperature has 10 values for 4 scales"):
        sample(tmp_path, sampling="code")
    assert not (tmp_path / "samples.json").exists()


# Going on


def process(folder, format, kill_at, rank, port):
    """A sampling in a process of its own, as a user or torchrun starts it; it kills itself."""
    torch.set_num_threads(1)
    sampling.Loaded.of = tiny_loaded
    sample_set.SHARD = 8
    decode, calls = sampling.decode, []

    def dying(*words):
        calls.append(1)
        if len(calls) == kill_at:
            while not written(folder):  # another thread writes
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(*words)

    sampling.decode = dying
    if rank is not None:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= address | ranks
    sample(folder, format, resume=True)
    sampling.parallel.leave()


def in_processes(folder, format, kill_at=0, ranks=(None,)):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        PROCESSES.Process(target=process, args=(folder, format, kill_at, rank, port))
        for rank in ranks
    ]
    for one in started:
        one.start()
    for one in started:
        one.join(120)
    return [one.exitcode for one in started]


@pytest.mark.parametrize("format", ["png", "npz"])
def test_a_killed_run_goes_on_and_no_image_is_lost_or_made_twice(tmp_path, whole, format):
    assert in_processes(tmp_path, format, kill_at=4) == [-signal.SIGKILL]
    before = written(tmp_path)
    assert 0 < len(before) < N
    with refused("not finished", "--resume"):
        SampleSet.open(tmp_path)
    finish = writing.ImageFiles.finish
    kept = {}

    def finishing(self, labels):
        kept.update(written(tmp_path))
        finish(self, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing.ImageFiles, "finish", finishing)
        samples = sample(tmp_path, format, resume=True)
    assert np.array_equal(pictures(samples), whole)
    assert kept.items() >= before.items()
    killed, second = samples.manifest["runs"]
    assert killed["images"] is None
    assert 0 < second["images"] < N


@pytest.mark.parametrize("format", ["png", "npz"])
def test_two_processes_make_the_set_of_one(tmp_path, whole, format):
    assert in_processes(tmp_path, format, ranks=(0, 1)) == [0, 0]
    samples = SampleSet.open(tmp_path)
    assert np.array_equal(pictures(samples), whole)
    (run,) = samples.manifest["runs"]
    assert (run["processes"], run["images"]) == (2, N)


def test_what_was_deleted_or_cut_short_is_made_again(tmp_path, whole):
    sample(tmp_path)
    shutil.rmtree(tmp_path / "shard-00001")
    (tmp_path / png_of(3)).unlink()
    cut = tmp_path / png_of(20)
    cut.write_bytes(cut.read_bytes()[:-1])
    (tmp_path / png_of(21)).write_bytes(b"")
    before = {name: at for name, at in written(tmp_path).items() if name[:8] not in "20 21"}
    samples = sample(tmp_path, resume=True)
    assert np.array_equal(pictures(samples), whole)
    assert samples.manifest["runs"][-1]["images"] == 8 + 1 + 2
    after = written(tmp_path)
    assert [n for n in before if after[n] != before[n]] == ["00000020.png", "00000021.png"]


def test_a_finished_set_is_left_as_it_is(tmp_path, monkeypatch):
    sample(tmp_path)
    manifest = (tmp_path / "samples.json").read_text()
    monkeypatch.setattr(sampling.Loaded, "of", None)  # no weights are needed
    sample(tmp_path, resume=True)
    assert (tmp_path / "samples.json").read_text() == manifest


def full_disk(monkeypatch, after):
    """No room but for so many images, and a manifest."""
    calls, replace_ = [], os.replace

    def full(part, path):
        calls.extend([path] if path.suffix != ".json" else [])
        if len(calls) > after and path.suffix != ".json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_(part, path)

    monkeypatch.setattr(os, "replace", full)


@pytest.mark.parametrize("format", ["png", "npz"])
def test_a_full_disk_is_one_line_and_what_is_there_stays(tmp_path, monkeypatch, whole, format):
    monkeypatch.setattr(writing, "THREADS", 1)
    with monkeypatch.context() as patch:
        full_disk(patch, after=11)
        with refused("No space left on device", "11 of 30 images are safe", "--resume"):
            sample(tmp_path, format)
    assert not list(tmp_path.rglob("*.part"))
    samples = sample(tmp_path, format, resume=True)
    assert np.array_equal(pictures(samples), whole)
    assert [run["images"] for run in samples.manifest["runs"]] == [11, N - 11]


def test_no_room_for_the_npz_keeps_the_images(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        full_disk(patch, after=N)
        with refused("No space left on device", "all images are safe"):
            sample(tmp_path, "npz")
    monkeypatch.setattr(sampling, "decode", None)  # nothing is made again
    assert np.array_equal(pictures(sample(tmp_path, "npz", resume=True)), whole)


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), UsageError, "a smaller --batch-size"),
        (KeyboardInterrupt(), KeyboardInterrupt, "stopped; 14 of 30 images are safe"),
        (AssertionError("a mistake of ours"), AssertionError, ""),
    ],
)
def test_what_stops_a_run_loses_nothing(tmp_path, monkeypatch, capsys, raised, expected, said):
    decode, calls = sampling.decode, []

    def stopping(*words):
        calls.append(1)
        if len(calls) == 4:
            raise raised
        return decode(*words)

    monkeypatch.setattr(sampling, "decode", stopping)
    with pytest.raises(expected) as e:
        sampling.sample(wanted(), tmp_path, ENV, Progress())
    assert said in str(e.value) + " ".join(capsys.readouterr().out.split())
    manifest = json.loads((tmp_path / "samples.json").read_text())
    assert not manifest["finished"]
    assert manifest["runs"][0]["images"] == len(written(tmp_path)) == 14
    assert sample(tmp_path, resume=True).manifest["finished"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "variant", "subnet_depth": 2}, "method var, not variant"),
        ({"depth": 3}, "depth 2, not 3"),
        ({"seed": 1}, "(seed 0, not 1)"),
        ({"per_class": 4}, "per_class 3, not 4"),
        ({"format": "npz"}, "format png, not npz"),
        ({"stack": "modern"}, "stack published, not modern"),
    ],
)
def test_a_folder_with_other_samples_is_refused(tmp_path, changes, said):
    sample(tmp_path)
    before = (tmp_path / "samples.json").read_text()
    with refused(str(tmp_path), said, "choose another --out"):
        sample(tmp_path, resume=True, **changes)
    with refused(str(tmp_path), "holds a sample set", "--resume"):
        sample(tmp_path)
    assert (tmp_path / "samples.json").read_text() == before


def test_a_model_gone_wrong_is_one_line(tmp_path, monkeypatch):
    def broken(case, download):
        loaded = tiny_loaded(case, download)
        weights = copy.deepcopy(loaded.plan.models[0])
        weights.blocks[0].ffn.fc2.bias.data[3] = torch.nan
        return replace(loaded, plan=case.plan(weights))

    monkeypatch.setattr(sampling.Loaded, "of", broken)
    with refused("VAR-d2: the models gave NaN or infinity"):
        sample(tmp_path)
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("finished", [True, False])
def test_weights_that_changed_are_refused(tmp_path, monkeypatch, finished):
    monkeypatch.setattr(sampling, "weights_sha256", lambda source: "aa")
    sample(tmp_path)
    if not finished:
        (tmp_path / png_of(0)).unlink()
    monkeypatch.setattr(sampling, "weights_sha256", lambda source: "bb")
    with refused("seeded:var_d2:0 has changed since these samples were made"):
        sample(tmp_path, resume=True)


def test_the_manifest_tells_the_vqvae_and_a_set_begun_without_goes_on_without(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sampling, "weights_sha256", lambda source: "aa")
    models, vqvae = "seeded:var_d2:0", "seeded:vae_ch160v4096z32:0"
    assert sample(tmp_path).manifest["weights_sha256"] == {models: "aa", vqvae: "aa"}
    with refused(f"{vqvae} has changed"), monkeypatch.context() as changed:
        changed.setattr(sampling, "weights_sha256", lambda s: "bb" if s == vqvae else "aa")
        (tmp_path / png_of(0)).unlink()
        sample(tmp_path, resume=True)
    manifest = json.loads((tmp_path / "samples.json").read_text())
    del manifest["weights_sha256"][vqvae]
    (tmp_path / "samples.json").write_text(json.dumps(manifest))
    assert sample(tmp_path, resume=True).manifest["weights_sha256"] == {models: "aa"}
    assert (tmp_path / png_of(0)).is_file()


def test_folders_that_cannot_be_used(tmp_path):
    with FileLock(tmp_path / ".lock"), refused("another run is writing here"):
        sample(tmp_path)
    (tmp_path / "file").touch()
    with refused("cannot be written", "--out"):
        sample(tmp_path / "file")
    (tmp_path / "other" / "shard-00000").mkdir(parents=True)
    with refused("holds images but no samples.json"):
        sample(tmp_path / "other")


# Writing beside decoding


def test_decoding_waits_only_when_writing_is_two_batches_behind(tmp_path, monkeypatch):
    go, wrote = threading.Event(), []

    def slow(path, image):
        go.wait(30)
        wrote.append(int(path.stem))

    monkeypatch.setattr(writing, "write_png", slow)
    files = writing.ImageFiles(tmp_path, images=100, side=8, packed=False)
    writer = writing.Writer(files, threads=1)
    for first in range(writing.BATCHES_WAITING + 1):
        writer.add([first], np.zeros((1, 8, 8, 3), np.uint8))
    assert not wrote  # and still here
    threading.Timer(0.05, go.set).start()
    writer.add([99], np.zeros((1, 8, 8, 3), np.uint8))
    assert wrote[0] == 0
    assert writer.waited_s > 0.01
    writer.finish()
    assert wrote == [0, 1, 2, 99]
    writer.close()


# Reading


@pytest.fixture
def png_set(tmp_path):
    return sample(tmp_path / "png")


def test_a_set_that_cannot_be_read_says_so(tmp_path, png_set):
    with refused("no samples.json here"):
        SampleSet.open(tmp_path)
    manifest = png_set.folder / "samples.json"
    values = json.loads(manifest.read_text())
    for change, said in [
        ({"schema": 2}, "newer than this program"),
        ({"images": "many"}, "damaged (images:"),
    ]:
        manifest.write_text(json.dumps(values | change))
        with refused(str(manifest), said):
            SampleSet.open(png_set.folder)
    manifest.write_text("[]")
    with refused(str(manifest), "damaged"):
        SampleSet.open(png_set.folder)


def test_a_bad_image_is_named(png_set):
    path = png_set.folder / png_of(11)
    path.write_bytes(path.read_bytes()[:60])
    with refused(str(path), "no readable image"):
        pictures(png_set)
    Image.new("RGB", (8, 16)).save(path)
    with refused(str(path), "is 8 x 16 pixels", "is 8 x 8"):
        pictures(png_set)
    path.unlink()
    with refused(str(path), "missing", "--resume"):
        pictures(png_set)


def test_a_bad_npz_is_named(tmp_path):
    samples = sample(tmp_path, "npz")
    path = tmp_path / "samples.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with refused(str(path), "damaged"):
        pictures(samples)
    flipped = bytearray(content)
    flipped[3000] ^= 1
    path.write_bytes(flipped)
    with refused(str(path), "damaged"):
        pictures(samples)
    np.savez(path, arr_0=np.zeros((N - 1, 8, 8, 3), np.uint8))
    with refused("29 images of 8 x 8 pixels, but samples.json says 30"):
        pictures(samples)
    with zipfile.ZipFile(path, "w"):
        pass
    with refused(str(path), "no array arr_0"):
        pictures(samples)
    path.unlink()
    with refused(str(path), "no such file"):
        pictures(samples)


# Cases and the command


def test_cases_that_make_the_same_images_are_one_set():
    cases = [
        case_of(batch_size=1),
        case_of(batch_size=64),
        case_of(stack="modern", memory_limit_gib=2.0),
        case_of(stack="modern"),
        case_of(seed=2),
    ]
    found = sets_of(cases, 5, "png", 16)
    assert {name: (one.case.batch_size, one.seed) for name, one in found.items()} == {
        "var-d2-published-float32": (16, 0),
        "var-d2-modern-float32": (16, 0),
        "var-d2-published-float32-seed-2": (16, 2),
    }
    assert {one.seed for one in sets_of(cases, 5, "png", 16, seed=9).values()} == {9}


def test_names_of_folders():
    code = {"method": "code", "draft_steps": 6, "precision": "fp16", "sampling": "code"}
    assert slug(make_case(code)) == "code-n-6-d30-d16-published-fp16-preset-code"
    weights = case_of(weights="/some/where/mine/")
    assert slug(weights) == "var-d2-published-float32-mine"
    run = make_case(
        {"method": "var", "depth": 12, "weights": "mini:runs/p0.1/model_17.safetensors"}
    )
    assert slug(run) == "var-d12-published-fp16-p0-1-after-17"  # not "model"
    both = sets_of([weights, case_of(weights="/else/mine")], 1, "png", 1)
    assert len(both) == 2


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(machine, "environment", lambda: ENV)
    return lambda words: CliRunner().invoke(app.app, ["sample", *words.split()])


AXES = "--set depth=2 --set precision=float32 --device cpu"


def test_a_method_by_its_name(bench, tmp_path):
    subnet = "--set subnet_depth=2 --set bridge_scales=3"
    result = bench(f"variant {AXES} {subnet} --per-class 1 --seed 4 --out {tmp_path}")
    assert result.exit_code == 0, result.output
    samples = SampleSet.open(tmp_path)
    assert (len(samples), samples.manifest["seed"]) == (10, 4)
    assert samples.manifest["label"] == "VARiant-d2 N=3 (d2)"
    said = " ".join(result.stdout.split())
    assert "10 images" in said
    assert "images/s" in said
    assert "weights are random" in said


def test_an_experiment_has_a_folder_for_each_set(bench, tmp_path):
    file = tmp_path / "two.toml"
    file.write_text(
        'title = "two"\n[defaults]\nprecision = "float32"\ndepth = 2\n[[cases]]\nmethod = "var"\n'
        'stack = ["published", "modern"]\nbatch_size = [1, 2]\n'
    )
    out = tmp_path / "out"
    result = bench(f"{file} --per-class 1 --device cpu --out {out} --batch-size 5")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in out.iterdir())
    assert names == ["var-d2-modern-float32", "var-d2-published-float32"]
    published, modern = (SampleSet.open(out / name) for name in reversed(names))
    assert published.manifest["case"]["batch_size"] == 5
    assert np.abs(pictures(published).astype(int) - pictures(modern)).max() <= 1
    (out / names[0] / "shard-00000" / "00000000.png").unlink()
    result = bench(f"{file} --per-class 1 --device cpu --out {out} --resume")
    assert result.exit_code == 0, result.output
    assert np.array_equal(pictures(SampleSet.open(out / names[0])), pictures(modern))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (f"var {AXES} --out x --per-class 0", "'--per-class'"),
        (
            f"vat {AXES} --out x",
            "vat: no such method or experiment; did you mean var?",
        ),
        (f"code {AXES} --out x", "draft_steps: missing"),
        (f"var {AXES} --set draft_steps=6 --out x", "draft_steps: no such axis"),
        (f"var {AXES} --out x --preset best", "'--preset'"),
        (f"var {AXES} --out x --batch-size 0", "'--batch-size'"),
        (f"var {AXES} --out x --format jpg", "'--format'"),
        (f"var {AXES} --out x --seed -1", "'--seed'"),
        (f"var {AXES} --out /proc/nowhere", "/proc/nowhere: cannot be written"),
        (f"var {AXES}", "'--out'"),
        ("var --set precision=fp16 --device cpu --out x", "precision fp16 needs a GPU"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(bench, words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = bench(words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


PREDICT = "predict quick --set method=var --set depth=30"


@pytest.mark.parametrize(
    "words", [PREDICT, "sample var", "grid var", "spectra var", "inpaint var --count 2"]
)
def test_a_file_of_another_depth_is_refused_by_every_command(words, tmp_path, monkeypatch):
    """Its label and the plan would be those of a model that it is not."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    config = tiny.var_config(4, patch_sizes=codevar.PATCH_SIZES_256)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/vae_ch160v4096z32.safetensors").symlink_to(SHIPPED["mini_vqvae"])
    for file in ("half.pth", "own/var_d30.pth"):
        torch.save(tiny.state_dict(codevar.VAR, config), tmp_path / file)
    kinds = ["mini:half.pth"] if words == PREDICT else ["mini:half.pth", "own"]
    for weights in kinds:
        how = f"--set weights={weights} --set precision=float32 --set device=cpu"
        out = "" if words == PREDICT else "--out out"
        result = CliRunner().invoke(app.app, [*words.split(), *how.split(), *out.split()])
        assert result.exit_code == 2, result.output
        assert f"depth must be 4, not 30: {weights}" in result.stderr
        assert result.stderr.count("\n") == 1
        assert not list(tmp_path.glob("out/samples*"))


def test_what_a_later_cases_file_tells_is_told_before_the_first_is_sampled(
    bench, tmp_path, monkeypatch
):
    monkeypatch.undo()
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad):
        folder.mkdir()
        ten_scales.write(folder)
    tensors = load_file(bad / "var_d3.safetensors")
    tensors["blocks.1.ffn.fc2.bias"] = tensors["blocks.1.ffn.fc2.bias"][1:].contiguous()
    save_file(tensors, bad / "var_d3.safetensors")
    words = [*ten_scales.words(good), "--set", f"weights={good},{bad}", "--device", "cpu"]
    out = tmp_path / "out"
    result = CliRunner().invoke(app.app, ["sample", "var", *words, "--out", str(out)])
    assert result.exit_code == 2
    assert "bad/var_d3.safetensors: tensor blocks.1.ffn.fc2.bias is (63,)" in result.stderr
    assert not out.exists()


def test_hashes_of_weights_are_of_their_tensors(tmp_path):
    tensors = tiny.state_dict(codevar.VAR, tiny.var_config())
    save_file(tensors, tmp_path / "var.safetensors")
    torch.save(tensors, tmp_path / "var.pth")
    one, other = (
        sampling.weights_sha256(str(tmp_path / f"var.{end}")) for end in ("safetensors", "pth")
    )
    tensors["head.bias"] = tensors["head.bias"] + 1
    save_file(tensors, tmp_path / "changed.safetensors")
    assert one == other
    assert one != sampling.weights_sha256(str(tmp_path / "changed.safetensors"))
    assert sampling.weights_sha256("seeded:var_d2:0") is None


def test_a_folder_of_sample_sets_is_no_set_of_images(tmp_path):
    sample(tmp_path / "one")
    sample(tmp_path / "two")
    with refused("holds sample sets; name one, as", "one"):
        open_images(tmp_path)
