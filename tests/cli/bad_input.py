"""Bad input to the command line: what files users have, and where a command takes them.

python tests/cli/bad_input.py 1500      # through the real command line, counted
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
CONTROL = "\x1b[31mred\x07\r\n[/bold] =1+1 <b> & _"

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
    "plot speed {} -o out",
    "report {} -o out/report.html",
    "report {} --samples {} -o out/report.html",
    "compare {} {}",
    "compare {} {} --format github",
    "recommend {} --out out",
    "history --results {}",
    "profile {}",
    "eval {} --reference mini:test:100",
    "eval {} --reference {}",
    "eval mini:test:100 --reference {}",
    "fidelity {} {}",
    "iqa {}",
    "grid quick --run {} -o out/grid.png",
    "grid var --set weights={} --device cpu -o out/grid.png",
    "spectra var --set weights={} --device cpu -o out/spectra.png",
    "sample var --set weights={} --device cpu --out out/samples",
    "sample quick --per-class 1 --set weights={} --device cpu --out out",
    "edit {} --class 1 --box 0 0 9 9 --plan var --device cpu -o out/edit.png",
    "inpaint var --images {} --device cpu --out out/inpaint",
    "reproduce {} --reference mini:test:100 --out out/r",
    "reproduce quick --reference {} --out out/r",
    "train var --config {}",
    "train code-refiner --config {}",
    "train all --config {}",
]


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
        "images": {"a/1.png": whole, "a/2.png": whole[:50], "b/x.txt": "x"},
        "set": {"samples.json": '{"schema": 1, "count": "x"}', "0/0.png": whole},
    }.items():
        for path, content in files.items():
            (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            write(f"{name}/{path}", content)
    link = folder / "loop"
    if not link.is_symlink():
        link.symlink_to(link)
    made = {path.name: path for path in folder.iterdir()}
    return made | {
        "absent": folder / "absent",
        "below a file": folder / "empty" / "x",
        "long name": folder / ("n" * 300),
        "control characters": Path(CONTROL),
        "braces": Path("{depth:1999999999}"),
        "/dev/null": Path("/dev/null"),
        "/proc": Path("/proc/nowhere"),
    }


def words_of(command: str, files: list[Path], out: Path) -> list[str]:
    """The words of a command with files in the places of {}."""
    left = itertools.cycle(files)
    return [
        word.replace("{}", str(next(left))).replace("out", str(out), 1)
        if "{}" in word or word.startswith("out")
        else word
        for word in command.split()
    ]


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
    if code == 2 and max(map(len, stderr.splitlines())) > 1000:
        return "a line of over 1000 characters"
    return ""


def main(count: int) -> None:
    """Runs `count` commands in processes of their own; prints and counts what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        files = list(bad_files(Path(folder) / "bad").values())
        trials = list(itertools.product(COMMANDS, files))
        random.Random(0).shuffle(trials)
        counts: Counter[str] = Counter()
        for command, file in itertools.islice(itertools.cycle(trials), count):
            words = words_of(command, [file, random.choice(files)], Path(folder) / "out")
            try:
                ran = subprocess.run(
                    [sys.executable, str(ROOT / "bench.py"), *words],
                    cwd=folder, capture_output=True, text=True, timeout=300,
                    env=os.environ | {"OMP_NUM_THREADS": "1"}, errors="replace",
                )  # fmt: skip
                wrong = complaint_of(ran.returncode, ran.stderr)
                said = ran.stderr.strip().splitlines()[-1:]
            except subprocess.TimeoutExpired:
                wrong, said = "hang", []
            except ValueError:  # a NUL in an argument: no shell passes it on
                continue
            counts[wrong or "told in a line, or done"] += 1
            if wrong:
                print(wrong, words, *said, sep="\n    ", flush=True)
        print(sum(counts.values()), "inputs:", dict(counts))


if __name__ == "__main__":
    main(int(sys.argv[1]))
