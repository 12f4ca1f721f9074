"""Where the project's own files are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
RESULTS = ROOT / "results"
PAPERS = RESULTS / "papers"
