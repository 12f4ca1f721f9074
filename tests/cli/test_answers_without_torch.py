"""Help, and what is refused for its words, paths or experiment file, needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Each takes longer to import than the command line may take to answer.
SLOW = ("torch", "pandas", "matplotlib", "scipy")
ASK = f"""
import sys
from bench.cli.app import app
try:
    app()
finally:
    slow = [name for name in {SLOW} if name in sys.modules]
    print(*slow, file=sys.stderr) if slow else None
"""


def answer(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error and what is slow of what was imported."""
    command = [sys.executable, "-c", ASK, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words", ["--help", "--version", "run --help", "eval --help", "grid --help"]
)
def test_help_imports_nothing_slow(words):
    code, said, complaints = answer(*words.split())
    assert (code, complaints) == (0, "")
    assert ("0." if words == "--version" else "Usage") in said


def test_list_waits_for_no_torch():
    code, said, complaints = answer("list")
    assert (code, complaints.split()) == (0, ["pandas"])
    assert "mini_protocol" in said


def test_the_reference_page_is_current_and_made_without_torch():
    code = "from bench.cli import reference as r; print(r.page() == r.PAGE.read_text())"
    command = [sys.executable, "-c", f"{code}; import sys; print('torch' in sys.modules)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"], "python -m bench.cli.reference makes it anew"


def test_an_experiment_whose_file_sets_how_it_samples_needs_no_torch_to_be_read():
    code, _, complaints = answer("table", "mini_protocol", "--colour")
    assert (code, complaints.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "words",
    [
        "run nope",
        "run quick --colour",
        "run quick --resume",
        "run quick --set batch_size=0",
        "run mini_table1 --set draft_steps=10",
        "predict nope",
        "predict quick --memory 9GiB",
        "reproduce nope",
        "sample nope --out x",
        "grid nope -o x.png",
        "edit mini:7 --plan nope -o x.png",
        "inpaint nope",
        "spectra nope -o x.png",
        "eval x",
        "iqa x",
        "table nope",
        "table codevar",
        "plot nope.toml",
        "profile codevar",
        "profile --minutes 0",
        "pack codevar -o x",
        "import nowhere.zip",
        "recommend codevar",
        "recommend --memory much",
        "recommend --stack nope",
        "report nope",
        "report --compare nope nope",
        "compare nope nope",
        "train var --config nope.toml",
        "train var --config experiments/train/mini-cpu",
        "train all --config experiments/train/mini-cpu --set optimizer.lr=-1",
        "train code-drafter --config experiments/train/mini-cpu/5-drafters.toml "
        "--set vqvae=mini_vqvae --set draft_steps=10",
        "train variant --config experiments/train/mini-cpu/7-variants.toml "
        "--set vqvae=mini_vqvae --set init=mini_large --set subnet_depth=99",
        "train var --config experiments/train/mini-cpu/3-large.toml --set model.heads=3",
    ],
)
def test_refused_words_and_paths_import_nothing_slow(words):
    code, said, complaints = answer(*words.split())
    assert (code, said) == (2, "")
    assert complaints.count("\n") == 1, complaints


@pytest.mark.parametrize(
    "text",
    [
        "title",
        'title = "x"\n',
        'title = "x"\n[[cases]]\nmethod = "nope"\n',
        'title = "x"\n[[cases]]\nmethod = "code"\ndraft_steps = 10\n',
        'title = "x"\n[[cases]]\nmethod = "code"\nweights = "mini"\ndraft_steps = 10\n',
        'title = "x"\npaper = "nope"\n[[cases]]\nmethod = "var"\n',
    ],
)
def test_a_refused_experiment_file_imports_nothing_slow(text, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    for command in ("run", "predict", "table", "reproduce"):
        code, said, complaints = answer(command, str(file))
        assert (code, said) == (2, "")
        assert complaints.count("\n") == 1, complaints
