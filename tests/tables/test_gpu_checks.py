"""What the documents say of GPUs follows from results/."""

from __future__ import annotations

from bench.measure.profile import items, session
from bench.measure.profile.forecast import Line
from bench.study import storage
from bench.study.records import SESSION
from bench.tables import gpu_checks


def test_the_list_of_checks_is_current():
    """If not: python -m bench.tables.gpu_checks."""
    text = gpu_checks.DOCUMENT.read_text()
    assert gpu_checks.document(text) == text


def test_the_first_screen_says_which_gpus_were_measured():
    text = gpu_checks.README.read_text()
    assert gpu_checks.measured() in "\n".join(text.splitlines()[:40])


def test_a_profile_of_a_gpu_shows_with_its_date_and_commit(tmp_path):
    folder = tmp_path / "l20" / "profile"
    env = {"gpus": [{"name": "NVIDIA L20"}], "commit": "0123456789abcdef"}
    storage.write_json(folder / "env.json", env)
    job = next(job for job in items.jobs("cuda")[1] if job.item == "c")
    said = {"key": job.key, "item": "c", "title": job.title}
    storage.append_line(folder / SESSION, Line(**said, at="2026-12-01T10:00:00+00:00"))
    assert "2026-12-01" not in gpu_checks.generated(tmp_path)  # it only began
    storage.append_line(folder / SESSION, Line(**said, took_s=9.0, status=session.DONE[0]))
    (row,) = [r for r in gpu_checks.generated(tmp_path).splitlines() if r.startswith("| c |")]
    assert row.endswith("| 2026-12-01 NVIDIA L20: 1 of 12, commit 012345678 |")
    assert gpu_checks.measured(tmp_path) == "**GPUs measured so far: NVIDIA L20.**"


def test_a_profile_of_a_cpu_is_no_gpus(tmp_path):
    storage.write_json(tmp_path / "cpu" / "profile" / "env.json", {"gpus": []})
    (tmp_path / "cpu" / "profile" / SESSION).touch()
    assert gpu_checks.measured(tmp_path) == "**GPUs measured so far: none.**"
