"""Bad input to the command line: what files users have, and where a command takes them.

python tests/cli/bad_input.py 1500           # through the real command line, counted
python tests/cli/bad_input.py 500 1000 7     # the inputs 1000 to 1499 in the order of seed 7
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "experiments" / "train" / "mini-cpu"
#: In front of a command; to a root without these permissions no file is locked.
AS_NO_ROOT = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] * (os.geteuid() == 0)
SECONDS = 300  # after which a command hangs
CONTROL = "\x1b[31mred\x07\r\n[/bold] =1+1 <b> & _"

SMALL = "--set depth=1 --set precision=float32 --device cpu"
#: How each command takes a path: {} stands for it, `out` for a place to write to.
COMMANDS = [
    "run {}",
    "run quick --set method=var --set weights={} --device cpu",
    "run quick --set depth=99 --out {} --resume",
    "run quick --set method=var --set depth={}",
    "predict {}",
    "predict quick --set weights={}",
    "table {}",
    "table {} --format latex",
    "plot {}",
    "plot speed {} --out out",
    "report {} -o out/report.html",
    "report {} --samples {} -o out/report.html",
    "bundle {} -o out/mine.zip",
    "verify {}",
    "board {} -o out",
    "compare {} {}",
    "compare {} {} --format github",
    "recommend {} --out out",
    "history --results {}",
    "profile {}",
    "eval {} --reference mini:test:100",
    "eval {} --reference {}",
    "eval GOOD --reference {} --extractor mini --device cpu",
    "eval GOOD --reference mini:test:200 --extractor mini --metrics {} --out out --device cpu",
    "eval {} --against {}",
    "iqa {}",
    "grid quick --run {} -o out/grid.png",
    "grid var --set weights={} SMALL -o out/grid.png",
    "spectra var --set weights={} SMALL -o out/spectra.png",
    "sample var --set weights={} SMALL --out out/samples",
    "sample quick --per-class 1 --set weights={} SMALL --out out",
    "edit {} --class 1 --box 0 0 9 9 --plan var SMALL -o out/edit.png",
    "inpaint var --images {} --count 1 SMALL --out out/inpaint",
    "reproduce {} --reference mini:test:100 --out out/r",
    "reproduce quick --reference {} --out out/r",
    "train var --config {}",
    "train code-refiner --config {}",
    "train all --config {}",
    "train classifier --config 2-classifier.toml --out out --set data.images={}",
    "train classifier --config 2-classifier.toml --out out --set batch_size={} --set steps=1",
    "train classifier --config 2-classifier.toml --out out --set {}",
    "train var --config 3-large.toml --out out --set model.width={} --set steps=1",
    "train var --config 3-large.toml --out out --set vqvae={}",
    "train all --config 2-classifier.toml --minutes {}",
    "predict quick --set {}",
    "predict quick --set batch_size={}",
    "predict quick --set skip_scales={}",
    "predict quick --set prune={}",
    "predict quick --set cfg={}",
    "predict quick --set seed={} --set batch_size={}",
    "predict --memory {} --max-batch",
    "run quick --set method=var --set timeout_s={} --set depth=99",
    "compare quick quick --threshold {}",
    "grid var --classes {} SMALL -o out/grid.png",
    "edit {} --class 1 --mask {} --plan var SMALL -o out/edit.png",
    "inpaint var --mask {} --set weights=mini --count 1 --device cpu --out out/inpaint",
    "eval GOOD --reference mini:test:{} --extractor mini --out out --device cpu",
    "eval GOOD --reference mini:test:200 --cache {} --out {} --metrics fid --device cpu",
    "eval {} --extractor {} --device cpu",
    "import {} --out out/import",
    "pack {} --out out/pack",
]


#: What is typed where a number, a name or a list is meant.
VALUES = [
    "", "nan", "inf", "-1", "0", "1e999", "99999999999999999999", "1-99999999999", "[[1]]", "[]",
    "true", "a=b=c", "scales=1-99999999999", "tokens=0.5:scales=1-99999999", "1x999,1x999",
    "{depth.foo}", "$\\frac{$", "\udcff", "\n", "-", "1" * 5000, "[" * 5000,
    ",".join(map(str, range(10_000))),
]  # fmt: skip


def bad_files(folder: Path) -> dict[str, Path]:
    """A file or folder of each kind, under the name of its kind."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, content: bytes | str) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    write("empty", b"")
    write("junk", bytes(random.Random(0).randrange(256) for _ in range(4000)))
    write("utf16.json", '{"method": "var"}'.encode("utf-16"))
    write("bom.toml", b'\xef\xbb\xbftitle = "x"\n[cases]\nmethod = "var"\n')
    write("latin1.toml", 'title = "schön"\n'.encode("latin-1"))
    write("deep.json", "[" * 100_000)
    write("deep.toml", "a = " + "[" * 100_000)
    write("types.toml", 'title = 1\nrounds = "x"\n[cases]\nmethod = 3\n')
    write("huge.toml", 'title = "x"\n[cases]\nmethod = "var"\nseed = [' + "1," * 100_000 + "]\n")
    axes = "".join(f"{key} = {[*range(1, 1001)]}\n" for key in ("depth", "batch_size", "seed"))
    write("axes.toml", f'title = "x"\n[[cases]]\nmethod = "var"\n{axes}')
    write("hostile.toml", 'title = "{x.__class__} {0:>99999999999}"\n[cases]\nmethod = "{y}"\n')
    write("text.pth", "no pickle")
    write("text.safetensors", "no tensors")
    write("text.png", "no picture")
    write("statistics.npz", b"PK\x03\x04 cut")
    write("list.json", "[1, 2, 3]")
    write("records.jsonl", '{"schema": 2}\n[]\n"x"\n{"schema": "x", "case": 3}\n\xff\n')
    save_file({"w": torch.full((3, 3), float("nan"))}, folder / "nan.safetensors")
    torch.save({"trainer": {"var_wo_ddp": {"w": torch.zeros(2)}}, "epoch": 3}, folder / "ckpt.pth")
    torch.save({"w": torch.zeros(4, dtype=torch.complex64)}, folder / "complex.pth")
    numpy.savez(folder / "wrong.npz", mu=numpy.zeros(3), sigma=numpy.full((2, 2), numpy.nan))
    Image.new("RGB", (40, 40)).save(folder / "small.png")
    whole = (folder / "small.png").read_bytes()
    write("cut.png", whole[: len(whole) // 2])
    Image.new("I;16", (40, 40)).save(folder / "deep.png")
    write("bomb.png", bomb(60_000))
    torch.save({"w": torch.zeros(1).expand(1 << 40)}, folder / "stride0.pth")
    torch.save({"w": torch.zeros(3, 3).to_sparse()}, folder / "sparse.pth")
    torch.save({"w": torch.empty(3, device="meta")}, folder / "meta.pth")
    with (
        zipfile.ZipFile(folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data/0", "w") as entry,
    ):
        for _ in range(256):
            entry.write(bytes(1 << 20))
    header = b'{"w":{"dtype":"F32","shape":[99999999,99999999],"data_offsets":[0,4]}}'
    write("lies.safetensors", len(header).to_bytes(8, "little") + header + bytes(4))
    write("far.safetensors", b"\xff" * 8 + header)
    for end in ("", ".toml", ".png", ".safetensors"):
        if not (folder / f"pipe{end}").exists():
            os.mkfifo(folder / f"pipe{end}")
    for name, files in {
        "run": {
            "run.json": "{}",
            "records.jsonl": '{"schema": 2, "status": "ok"}\n',
            "env.json": "[",
        },
        "run2": {
            "run.json": "[" * 99_999,
            "records.jsonl": b"\xff\xfe\x00",
        },
        "locked": {"run/run.json": "{}"},
        "folder.toml": {"x": ""},
        "folder.png": {"x": ""},
        "bombs": {"a/1.png": bomb(60_000)},
        "images": {"a/1.png": whole, "a/2.png": whole[:50], "b/x.txt": "x"},
        "set": {"samples.json": '{"schema": 1, "count": "x"}', "0/0.png": whole},
    }.items():
        for path, content in files.items():
            (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            write(f"{name}/{path}", content)
    (folder / "locked").chmod(0)
    good_pictures(folder / "good")
    link = folder / "loop"
    if not link.is_symlink():
        link.symlink_to(link)
    made = {path.name: path for path in folder.iterdir()}
    return made | {
        "absent": folder / "absent",
        "below a file": folder / "empty" / "x",
        "locked": folder / "locked" / "run",
        "long name": folder / ("n" * 300),
        "control characters": Path(CONTROL),
        "braces": Path("{depth:1999999999}"),
        **{name: Path(name) for name in ("/dev/null", "/dev/zero", "/proc/self/mem", "/", ".")},
    }


def good_pictures(folder: Path) -> Path:
    """A folder of 200 pictures of 64 x 64 pixels, enough for every metric of the mini world."""
    folder.mkdir(exist_ok=True)
    for number in range(200):
        pixels = numpy.random.default_rng(number).integers(0, 255, (64, 64, 3), numpy.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@contextmanager
def as_no_root() -> Iterator[None]:
    """Permissions of files count in this thread, as they do for everybody but root."""
    libc, head = ctypes.CDLL(None), struct.pack("Ii", 0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(head, sets)
    before = sets[0]
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc.capset(head, sets)
    yield
    sets[0] = before
    libc.capset(head, sets)


def bomb(side: int) -> bytes:
    """A PNG of a few KB that says it has `side` pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    size = side.to_bytes(4, "big") * 2
    rows = zlib.compress(bytes(8 << 20), 9)
    head = chunk(b"IHDR", size + b"\x08\x02\0\0\0")
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def words_of(command: str, bad: list[str], out: Path, good: Path) -> list[str]:
    """The words of a command with bad input in the places of {}, and `good` pictures for GOOD."""
    left = itertools.cycle(bad)
    words = []
    for word in command.replace("SMALL", SMALL).replace("GOOD", str(good)).split():
        if "{}" in word:
            word = word.replace("{}", next(left))
        elif word.startswith("out"):
            word = word.replace("out", str(out), 1)
        elif word.endswith(".toml"):
            word = str(TRAINING / word)
        words.append(word)
    return words


def complaint_of(code: int, stderr: str) -> str:
    """What is wrong with how bad input was answered, "" where nothing is."""
    if "Traceback" in stderr:
        return "traceback"
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if code == 2 and stderr.count("bench.py: ") != 1:
        return "no line, or several, of what is wrong"
    if any(ord(c) < 32 and c not in "\n\t" for c in stderr):
        return "control characters"
    said = [line for line in stderr.splitlines() if line.startswith("bench.py: ")]
    if code == 2 and max(map(len, said)) > 320:
        return "a line of over 300 characters"
    return ""


def answer_of(words: list[str], folder: str) -> tuple[str, list[str], float]:
    """What is wrong with the answer of a command, its last line on stderr, and its seconds."""
    began = time.monotonic()
    try:
        ran = subprocess.run(
            [*AS_NO_ROOT, sys.executable, str(ROOT / "bench.py"), *words],
            cwd=folder, capture_output=True, text=True, timeout=SECONDS,
            stdin=subprocess.DEVNULL, errors="replace",
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "hang", [], time.monotonic() - began
    wrong = complaint_of(ran.returncode, ran.stderr)
    told = wrong or f"exit code {ran.returncode}, told in a line"
    return told, ran.stderr.strip().splitlines()[-1:], time.monotonic() - began


def main(count: int, first: int = 0, seed: int = 0) -> None:
    """Runs `count` commands, two at once, in processes of their own; prints and counts what is
    wrong.

    first: of the shuffled inputs, to go on after a stop.
    """
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        bad = [*map(str, bad_files(Path(folder) / "bad").values()), *VALUES]
        chance = random.Random(seed)
        trials = [(*trial, chance.choice(bad)) for trial in itertools.product(COMMANDS, bad)]
        chance.shuffle(trials)
        trials = trials[first : first + count]
        asked = [
            words_of(command, values, Path(folder) / f"out{number}", Path(folder) / "bad/good")
            for number, (command, *values) in enumerate(trials)
        ]
        counts: Counter[str] = Counter()
        took = []
        answers = pool.map(lambda words: answer_of(words, folder), asked)
        for number, (words, (told, said, seconds)) in enumerate(zip(asked, answers, strict=True)):
            counts[told] += 1
            took.append((seconds, " ".join(words)[:200]))
            if not told.endswith("told in a line"):
                print(told, [word[:200] for word in words], *said, sep="\n    ", flush=True)
            if (number + 1) % 50 == 0:
                print(number + 1, "inputs:", dict(counts), flush=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(len(asked), "inputs:", dict(counts), f"{peak:.1f} GiB of memory at most")
        print(
            "slowest:",
            *(f"{seconds:.0f} s {words}" for seconds, words in sorted(took)[-5:]),
            sep="\n    ",
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
