"""What an experiment file may say, and the one line that a mistake gets."""

from __future__ import annotations

import pytest

from bench.study import experiment
from bench.study.cases import make_case
from bench.study.errors import UsageError


def load(tmp_path, text, changes=()):
    file = tmp_path / "mine.toml"
    file.write_text('title = "mine"\n' + text)
    return experiment.load(str(file), changes)


def labels(sweep):
    return [case.label for case in sweep.cases]


def test_axes_multiply_in_the_order_of_the_file(tmp_path):
    sweep = load(
        tmp_path,
        """
        paper = "code_table1"
        [defaults]
        batch_size = [1, 8]
        [[cases]]
        method = "code"
        draft_steps = [6, 8]
        paper_row = "VAR-CoDe N={draft_steps}"
        """,
    )
    got = [(case.batch_size, case.draft_steps) for case in sweep.cases]
    assert got == [(1, 6), (1, 8), (8, 6), (8, 8)]
    rows = [sweep.paper_rows[case.key].label for case in sweep.cases]
    assert set(rows) == {"VAR-CoDe N=6", "VAR-CoDe N=8"}


def test_a_baseline_without_a_method_is_the_case_itself_with_other_keys(tmp_path):
    sweep = load(
        tmp_path,
        'baseline = { stack = "published" }\n[defaults]\nstack = ["published", "modern"]\n'
        '[[cases]]\nmethod = "var"\n[[cases]]\nmethod = "code"\ndraft_steps = [6, 8]\n',
    )
    for case in sweep.cases:
        base = sweep.baseline_case(case)
        assert base is not None
        assert base.model_dump() == case.model_dump() | {"stack": "published"}


def test_equal_cases_run_once(tmp_path):
    twice = '[[cases]]\nmethod = "var"\n[[cases]]\nmethod = "var"\ndepth = 30\n'
    assert len(load(tmp_path, twice).cases) == 1


@pytest.mark.parametrize("name", experiment.names())
def test_every_shipped_experiment_is_valid_and_has_its_baseline(name):
    sweep = experiment.load(name)
    baselines = [sweep.baseline_of(case.model_dump()) for case in sweep.cases]
    for wanted in baselines:
        assert any(wanted.items() <= case.model_dump().items() for case in sweep.cases)


def test_set_changes_an_axis_of_every_method_that_has_it():
    sweep = experiment.load("code_table1", ["batch_size=1,2", "draft_steps=6"])
    assert {case.batch_size for case in sweep.cases} == {1, 2}
    assert [c.draft_steps for c in sweep.cases if c.method == "code"] == [6, 6]


def test_set_method_keeps_only_those_methods():
    sweep = experiment.load("variant_table2", ["method=var,code"])
    assert {case.method for case in sweep.cases} == {"var", "code"}


def test_set_measurement(tmp_path):
    sweep = load(tmp_path, '[[cases]]\nmethod = "var"', ["samples=9", "max_seconds=1.5"])
    assert (sweep.experiment.samples, sweep.experiment.max_seconds) == (9, 1.5)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[[cases]]\nmethod = "vqgan"', "method 'vqgan': no such method; there are code, code_"),
        ('[[cases]]\nmethod = "code"\ndraft_steps = 10', "draft_steps must be 1..9, not 10"),
        ('[[cases]]\nmethod = "code"\ndraft_steps = 0', "draft_steps must be 1..9, not 0"),
        ('[[cases]]\nmethod = "code"', "draft_steps: missing"),
        ('[[cases]]\nmethod = "var"\nbatch_size = 0', "batch_size must be 1..1024, not 0"),
        ('[[cases]]\nmethod = "var"\nbatch_size = "x"', "batch_size must be 1..1024, not 'x'"),
        ('[[cases]]\nmethod = "var"\ndraft_steps = 6', "draft_steps: no such key of method var"),
        ('[[cases]]\nmethod = "var"\nbatchsize = 6', "batchsize: no such key of method var"),
        (
            '[[cases]]\nmethod = "variant"\ndepth = 16\nsubnet_depth = 20',
            "subnet_depth must be 2..16, not 20",
        ),
        ('[[cases]]\nmethod = "variant"\nsubnet_depth = 1', "subnet_depth must be 2..60, not 1"),
        (
            '[[cases]]\nmethod = "variant"\nsubnet_depth = 4\nbridge_scales = 11',
            "bridge_scales must be 0..10, not 11",
        ),
        (
            '[[cases]]\nmethod = "subnet"\nsubnet_depth = 4\nscales = "9-11"',
            "scales must be like 7-10 or 1-3,5, in 1..10, not '9-11'",
        ),
        ('[[cases]]\nmethod = "swap"\nscale = 11', "scale must be 1..10, not 11"),
        ('[[cases]]\nmethod = "var"\nprecision = "int8"', "precision must be 'float32'"),
        (
            '[[cases]]\nmethod = "var"\ndevice = "tpu"',
            "device must be auto, cpu, cuda or cuda:N, not 'tpu'",
        ),
        ('colour = 1\n[[cases]]\nmethod = "var"', "colour: no such key"),
        ('samples = 0\n[[cases]]\nmethod = "var"', "samples must be at least 1, not 0"),
        ("cases = []", "cases must have at least 1 item"),
        (
            'paper = "code_table1"\n[[cases]]\nmethod = "var"\npaper_row = "N={n}"',
            "paper_row 'N={n}' has no 'n'",
        ),
        ('[[cases]]\nmethod = "var"\npaper_row = "VAR-d30"', "paper_row: no `paper` is named"),
        (
            'paper = "code_table2"\n[[cases]]\nmethod = "var"\npaper_row = "VAR-d30"',
            "paper_row: code_table2 has no value for method VAR-d30; keys are method (CoDe "
            "training-free, CoDe fine-tuned); draft_steps (6, 7, 8, 9)",
        ),
        (
            'paper = "code_table2"\n[[cases]]\nmethod = "var"\npaper_row = { draft_steps = 6 }',
            "paper_row: code_table2 has several values of one metric for draft_steps 6; keys are",
        ),
        (
            'paper = "variant_table8"\n[[cases]]\nmethod = "var"\npaper_row = { colour = 1 }',
            "paper_row: variant_table8 has no value for colour 1; keys are subnet_depth (2,",
        ),
        (
            'paper = "variant_table6"\n[[cases]]\nmethod = "var"',
            "paper: VARiant, Table 6 is of no cases",
        ),
        (
            'paper = "code_table1"\n[[cases]]\nmethod = "var"\npaper_row = "{depth:1999999999}"',
            "paper_row: code_table1 has no value for method {depth:1999999999}",
        ),
        (
            'paper = "code_table1"\n[[cases]]\nmethod = "var"\npaper_row = "{depth.foo}"',
            "paper_row: code_table1 has no value for method {depth.foo}",
        ),
        (
            f'[[cases]]\nmethod = "var"\nseed = {[*range(9999)]}\nbatch_size = {[*range(9999)]}',
            "axes make 99,980,001 cases; 10,000 is the most",
        ),
        (
            '[[cases]]\nmethod = "var"\nskip_scales = "1-99999999999"',
            "skip_scales 1-99999999999 is more than 10,000 numbers",
        ),
        (
            '[[cases]]\nmethod = "var"\nprune = "random 10:0.5 zeros in 1-99999999999"',
            "prune 1-99999999999 is more than 10,000 numbers",
        ),
        ('[[cases]]\nmethod = "var"\nseed = 2020-01-01', "seed must be"),
        ("[[cases]", "mine.toml"),
        (
            'paper = "code_table9"\n[[cases]]\nmethod = "var"',
            "paper code_table9: no such paper; did you",
        ),
        ("", "cases: missing"),
        (
            'baseline = { method = "gan" }\n[[cases]]\nmethod = "var"',
            "baseline: method gan; there are code",
        ),
        ('baseline = { colour = 1 }\n[[cases]]\nmethod = "var"', "baseline: colour: no such key"),
        ('[[cases]]\nmethod = [["var"]]', "no such method"),
        ('[[cases]]\nmethod = "var"\nbatch_size = true', "batch_size must be 1..1024, not True"),
        ('[[cases]]\nmethod = "var"\nmemory_limit_gib = inf', "memory_limit_gib"),
        ('max_seconds = inf\n[[cases]]\nmethod = "var"', "max_seconds"),
    ],
)
def test_a_mistake_is_one_line_with_the_key_and_what_it_may_be(tmp_path, text, line):
    with pytest.raises(UsageError) as e:
        load(tmp_path, text)
    assert line in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("batch_size", "--set batch_size: write axis=value"),
        ("batch_size=", "write axis=value"),
        ("colour=1", "--set colour: no such axis"),
        ("method=gan", "--set method 'gan': no such method; there are"),
        ("batchsize=1", "--set batchsize: no such axis here; did you mean batch_size?"),
        ("method=swap", "this experiment has no such method"),
        ("samples=0", "--set samples must be at least 1, not 0"),
        ("draft_steps=10", "draft_steps must be 1..9, not 10"),
    ],
)
def test_a_mistake_in_set_is_one_line(change, line):
    with pytest.raises(UsageError) as e:
        experiment.load("code_table1", [change])
    assert line in str(e.value)
    assert "\n" not in str(e.value)


def test_an_unknown_experiment_names_the_nearest_or_where_all_are():
    with pytest.raises(UsageError, match=r"code_tabel1: .*; did you mean code_table1\?"):
        experiment.load("code_tabel1")
    with pytest.raises(UsageError, match=r"nope: no such .*\(bench.py list .*code_table1, code_t"):
        experiment.load("nope")


def test_a_case_has_the_same_key_however_it_is_written():
    a = make_case({"method": "code", "draft_steps": 6, "batch_size": 1})
    b = make_case({"batch_size": 1, "draft_steps": 6, "method": "code", "depth": 30})
    c = make_case({"method": "code", "draft_steps": 7, "batch_size": 1})
    assert a.key == b.key != c.key


def test_a_model_that_is_not_the_papers_does_not_stand_beside_its_row():
    sweep = experiment.load("code_table1", ["refiner_depth=20", "depth=30"])
    rows = {case.label: sweep.paper_rows.get(case.key) for case in sweep.cases}
    assert rows["VAR-d30"].label == "VAR-d30"
    assert rows["CoDe N=6 (d30+d20)"] is None
    kept = experiment.load("code_table1", ["batch_size=1", "draft_steps=6"])
    assert kept.paper_rows[kept.cases[-1].key].label == "LlamaGen-XXL"


def test_one_gpu_has_one_name():
    first, same, second = (
        make_case({"method": "var", "device": d}) for d in ("cuda", "cuda:0", "cuda:1")
    )
    assert first.key == same.key != second.key
